"""A cluster is told by its own names; nothing of one is adopted or deleted that is not ours."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from botocore.stub import Stubber

from lambdas.rotation.aws.client import client
from lambdas.rotation.aws.clusters import SETTINGS, AwsClusters
from lambdas.rotation.errors import AwsRefused, AwsUnavailable, NameTaken, RetirementRefused
from lambdas.rotation.names import DECOMMISSION_TAG, our_tags
from lambdas.rotation.ports import Instance

OURS = our_tags("cluster/orders", "42")


@pytest.fixture
def clusters() -> AwsClusters:
    return AwsClusters()


def make(identifier: str = "orders", tags: dict[str, str] | None = None, **facts: object) -> None:
    client("rds").create_db_cluster(
        DBClusterIdentifier=identifier,
        Engine="aurora-postgresql",
        MasterUsername="root",
        MasterUserPassword="hunter22",
        StorageEncrypted=True,
        BackupRetentionPeriod=7,
        Tags=[{"Key": key, "Value": value} for key, value in (tags or {}).items()],
        **facts,
    )
    client("rds").describe_db_clusters()  # moto's is available after a look


def live(clusters: AwsClusters, identifier: str = "orders") -> Instance:
    found = clusters.describe(identifier)
    assert found is not None
    return found


@contextmanager
def refusing(operation: str, code: str) -> Iterator[None]:
    """RDS answers every look as always, and this call by a refusal."""
    aws = client("rds")
    real = aws._make_api_call

    def call(name: str, params: dict[str, object]) -> object:
        if name != operation:
            return real(name, params)
        with Stubber(aws) as stubber:
            stubber.add_client_error(aws.meta.service_model.operation_model(name).name and _snake(name), code)
            return real(name, params)

    aws._make_api_call = call
    try:
        yield
    finally:
        aws._make_api_call = real


def _snake(name: str) -> str:
    from botocore import xform_name

    return str(xform_name(name))


# -- who is it ---------------------------------------------------------------------------------------------------------


def test_a_cluster_is_described_in_the_words_of_an_instance(clusters: AwsClusters) -> None:
    make(tags={"team": "pay"}, DeletionProtection=True)

    found = live(clusters)

    assert found.database.is_cluster
    assert ("orders", "aurora-postgresql", 7, True) == (
        found.database.identifier, found.database.engine, found.backup_retention_days, found.deletion_protection,
    )  # fmt: skip
    assert ":cluster:orders" in found.database.arn
    assert found.tags == {"team": "pay"}
    assert clusters.describe("nobody") is None


def test_follows_a_cluster_by_its_resource_id_and_believes_no_filter(clusters: AwsClusters) -> None:
    """An RDS that ignored it would lead to somebody else's cluster."""
    make("other")
    make()
    answer = {"DBClusters": client("rds").describe_db_clusters()["DBClusters"]}
    resource_id = live(clusters).database.resource_id
    with Stubber(client("rds")) as stubber:
        for wanted in (resource_id, "cluster-GONE"):
            filters = [{"Name": "db-cluster-resource-id", "Values": [wanted]}]
            stubber.add_response("describe_db_clusters", answer, {"Filters": filters})

        found = clusters.describe_by_resource_id(resource_id)

        assert found is not None
        assert found.database.identifier == "orders"
        assert clusters.describe_by_resource_id("cluster-GONE") is None


def test_finds_what_is_opted_in(clusters: AwsClusters) -> None:
    make("other", tags={"key-rotation:enabled": "no"})
    make(tags={"key-rotation:enabled": "true"})

    assert ["orders"] == [one.database.identifier for one in clusters.describe_opted_in()]


@pytest.mark.parametrize("name", SETTINGS)
def test_every_setting_is_compared(clusters: AwsClusters, name: str) -> None:
    """A row that reads a member that there is not would never differ."""
    make()
    source = live(clusters)
    full = {
        "EngineVersion": "16.14", "Port": 5433, "BackupRetentionPeriod": 9, "PreferredBackupWindow": "01:00-01:30",
        "PreferredMaintenanceWindow": "mon:01:00-mon:01:30", "DBClusterParameterGroup": "g", "DBSubnetGroup": "s",
        "VpcSecurityGroups": [{"VpcSecurityGroupId": "sg-1", "Status": "active"}], "DeletionProtection": True,
        "IAMDatabaseAuthenticationEnabled": True, "EnabledCloudwatchLogsExports": ["postgresql"],
        "CopyTagsToSnapshot": True, "StorageType": "aurora-iopt1",
        "ServerlessV2ScalingConfiguration": {"MinCapacity": 1.0, "MaxCapacity": 2.0},
    }  # fmt: skip
    known = client("rds").meta.service_model.shape_for("DBCluster").members
    target = Instance(**{**vars(source), "raw": {**source.raw, **full}})

    assert set(full) <= set(known)
    assert name in clusters.settings_differences(source, target)
    assert {} == clusters.settings_differences(source, source)


def test_asks_for_the_roles_that_are_missing(clusters: AwsClusters) -> None:
    make()
    target = live(clusters)
    roles = [{"RoleArn": "arn:aws:iam::123456789012:role/imports", "Status": "ACTIVE", "FeatureName": "s3Import"}]
    source = Instance(**{**vars(target), "raw": {**target.raw, "AssociatedRoles": roles}})
    with Stubber(client("rds")) as stubber:
        asked = {
            "DBClusterIdentifier": "orders",
            "RoleArn": "arn:aws:iam::123456789012:role/imports",
            "FeatureName": "s3Import",
        }
        stubber.add_response("add_role_to_db_cluster", {}, asked)
        assert ["s3Import by arn:aws:iam::123456789012:role/imports"] == clusters.request_missing_roles(source, target)
        stubber.add_client_error("add_role_to_db_cluster", "DBClusterRoleAlreadyExists")
        assert ["s3Import by arn:aws:iam::123456789012:role/imports"] == clusters.request_missing_roles(source, target)
        stubber.add_client_error("add_role_to_db_cluster", "DBClusterRoleQuotaExceeded")
        with pytest.raises(AwsRefused):
            clusters.request_missing_roles(source, target)

        assert [] == clusters.request_missing_roles(source, source)


def test_reads_a_parameter_of_the_clusters_group(clusters: AwsClusters) -> None:
    with Stubber(client("rds")) as stubber:
        parameters = [{"ParameterName": "a", "ParameterValue": "0"}, {"ParameterName": "b", "ParameterValue": "1"}]
        for _ in range(2):
            stubber.add_response(
                "describe_db_cluster_parameters", {"Parameters": parameters}, {"DBClusterParameterGroupName": "g"}
            )

        assert ("1", None) == (clusters.parameter("g", "b"), clusters.parameter("g", "c"))


# -- snapshots ---------------------------------------------------------------------------------------------------------


def test_makes_a_snapshot_once_and_copies_it_once(clusters: AwsClusters) -> None:
    make()
    key = client("kms").create_key()["KeyMetadata"]["Arn"]
    for _ in range(2):
        clusters.request_snapshot("s", "orders", OURS)
        clusters.request_snapshot_copy("s", "kept", key, OURS)

    copy = clusters.describe_snapshot("kept")
    assert copy is not None
    assert copy["KmsKeyId"] == key
    assert ["kept"] == clusters.snapshots_under(key, OURS)
    assert [] == clusters.snapshots_under(key, {"another": "tag"})
    assert clusters.describe_snapshot("none") is None


def test_a_strangers_snapshot_is_neither_adopted_nor_deleted(clusters: AwsClusters) -> None:
    make()
    client("rds").create_db_cluster_snapshot(DBClusterSnapshotIdentifier="s", DBClusterIdentifier="orders")

    with pytest.raises(NameTaken):
        clusters.request_snapshot("s", "orders", OURS)
    with pytest.raises(NameTaken):
        clusters.request_snapshot_copy("other", "s", "key", OURS)
    with pytest.raises(RetirementRefused):
        clusters.request_snapshot_deletion("s")


def test_deletes_our_snapshot_and_an_absent_one(clusters: AwsClusters) -> None:
    make()
    clusters.request_snapshot("s", "orders", OURS)
    clusters.request_snapshot_deletion("s")
    clusters.request_snapshot_deletion("s")

    assert clusters.describe_snapshot("s") is None


REQUESTS: dict[str, Callable[[AwsClusters], None]] = {
    "CreateDBClusterSnapshot": lambda clusters: clusters.request_snapshot("new", "orders", OURS),
    "CopyDBClusterSnapshot": lambda clusters: clusters.request_snapshot_copy("s", "new", "key", OURS),
    "DeleteDBClusterSnapshot": lambda clusters: clusters.request_snapshot_deletion("s"),
    "ModifyDBCluster": lambda clusters: clusters.disable_deletion_protection("orders"),
    "DeleteDBCluster": lambda clusters: clusters.request_deletion("orders", keep_automated_backups=True),
}


@pytest.mark.parametrize("operation", REQUESTS)
@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("InvalidDBClusterStateFault", None),
        ("InvalidDBClusterSnapshotStateFault", None),
        ("Throttling", AwsUnavailable),
        ("KMSKeyNotAccessibleFault", AwsRefused),
    ],
)
def test_what_rds_refuses_for_now_is_asked_for_again_later(
    clusters: AwsClusters, operation: str, code: str, error: type[Exception] | None
) -> None:
    make(tags={DECOMMISSION_TAG: "42"}, DeletionProtection=operation == "ModifyDBCluster")
    clusters.request_snapshot("s", "orders", OURS)

    with refusing(operation, code):
        if error is None:
            REQUESTS[operation](clusters)
        else:
            with pytest.raises(error):
                REQUESTS[operation](clusters)


# -- the end -----------------------------------------------------------------------------------------------------------


def test_deletes_only_what_is_marked(clusters: AwsClusters) -> None:
    make()
    with pytest.raises(RetirementRefused):
        clusters.request_deletion("orders", keep_automated_backups=True)
    assert clusters.describe("orders") is not None

    client("rds").add_tags_to_resource(
        ResourceName=live(clusters).database.arn, Tags=[{"Key": DECOMMISSION_TAG, "Value": "42"}]
    )
    clusters.request_deletion("orders", keep_automated_backups=True)
    clusters.request_deletion("orders", keep_automated_backups=True)

    assert clusters.describe("orders") is None


def test_takes_the_protection_away(clusters: AwsClusters) -> None:
    make(DeletionProtection=True)

    clusters.disable_deletion_protection("orders")
    clusters.disable_deletion_protection("nobody")

    assert not live(clusters).deletion_protection
