"""A cluster is told by its own names; nothing of one is adopted or deleted that is not ours."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
from botocore import xform_name
from botocore.awsrequest import AWSResponse
from botocore.stub import Stubber

from lambdas.rotation.aws import carried_settings
from lambdas.rotation.aws.carried_cluster_settings import OF_MULTI_AZ, SETTINGS
from lambdas.rotation.aws.carried_settings import Setting, whatever
from lambdas.rotation.aws.client import client, client_that_asks_once
from lambdas.rotation.aws.clusters import AwsClusters
from lambdas.rotation.errors import AwsRefused, AwsUnavailable, NameTaken, RetirementRefused
from lambdas.rotation.names import DECOMMISSION_TAG, DEPLOYMENT_TAG, ROTATION_ID_TAG, our_tags
from lambdas.rotation.ports import Instance
from tests.aws.answers import losing

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

    def refuse(model: Any, **_: Any) -> tuple[AWSResponse, dict[str, Any]]:
        error = {"Error": {"Code": code, "Message": "refused"}, "ResponseMetadata": {}}
        return AWSResponse("", 400, {}, None), error

    clients = (client("rds"), client_that_asks_once("rds"))
    for aws in clients:
        aws.meta.events.register(f"before-call.rds.{operation}", refuse)
    try:
        yield
    finally:
        for aws in clients:
            aws.meta.events.unregister(f"before-call.rds.{operation}", refuse)


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


ROLE = {"RoleArn": "arn:aws:iam::123456789012:role/imports", "Status": "ACTIVE", "FeatureName": "s3Import"}
FULL: dict[str, object] = {
    "EngineVersion": "16.14", "Port": 5433, "BackupRetentionPeriod": 9, "PreferredBackupWindow": "01:00-01:30",
    "PreferredMaintenanceWindow": "mon:02:00-mon:02:30", "DBClusterParameterGroup": "g", "DBSubnetGroup": "s",
    "VpcSecurityGroups": [{"VpcSecurityGroupId": "sg-1", "Status": "active"}], "DeletionProtection": True,
    "IAMDatabaseAuthenticationEnabled": True, "EnabledCloudwatchLogsExports": ["postgresql"],
    "CopyTagsToSnapshot": True, "StorageType": "aurora-iopt1", "NetworkType": "DUAL",
    "ServerlessV2ScalingConfiguration": {"MinCapacity": 1.0, "MaxCapacity": 2.0},
    "EngineLifecycleSupport": "open-source-rds-extended-support-disabled", "BacktrackWindow": 3600,
    "AvailabilityZones": ["us-east-1d", "us-east-1a", "us-east-1f"],
}  # fmt: skip
AT_RESTORE = {
    "EngineVersion": "16.14", "Port": 5433, "BackupRetentionPeriod": 9, "PreferredBackupWindow": "01:00-01:30",
    "DBClusterParameterGroupName": "g", "DBSubnetGroupName": "s", "VpcSecurityGroupIds": ["sg-1"],
    "DeletionProtection": True, "EnableIAMDatabaseAuthentication": True, "EnableCloudwatchLogsExports": ["postgresql"],
    "CopyTagsToSnapshot": True, "StorageType": "aurora-iopt1", "NetworkType": "DUAL",
    "ServerlessV2ScalingConfiguration": {"MinCapacity": 1.0, "MaxCapacity": 2.0},
    "EngineLifecycleSupport": "open-source-rds-extended-support-disabled", "BacktrackWindow": 3600,
    "AvailabilityZones": ["us-east-1a", "us-east-1d", "us-east-1f"],
}  # fmt: skip
FULL_OF_MULTI_AZ: dict[str, object] = {
    "DBClusterInstanceClass": "db.m6gd.large", "Iops": 3000, "AllocatedStorage": 200, "PubliclyAccessible": True,
    "AutoMinorVersionUpgrade": False, "CertificateDetails": {"CAIdentifier": "rds-ca-rsa2048-g1"},
    "PerformanceInsightsEnabled": True, "PerformanceInsightsKMSKeyId": "old", "PerformanceInsightsRetentionPeriod": 31,
    "KmsKeyId": "old", "MonitoringInterval": 30, "MonitoringRoleArn": "role", "DatabaseInsightsMode": "advanced",
    "NetworkType": "IPV4",
}  # fmt: skip
MULTI_AZ_AT_RESTORE = {"DBClusterInstanceClass": "db.m6gd.large", "Iops": 3000, "PubliclyAccessible": True}
AFTERWARDS = {"PreferredMaintenanceWindow": "mon:02:00-mon:02:30"}
BEYOND_REPAIR = {"engine version", "port", "subnet group", "Extended Support"}


def seen(clusters: AwsClusters, **raw: object) -> Instance:
    found = live(clusters)
    return Instance(**{**vars(found), "status": "available", "raw": {**found.raw, "PendingModifiedValues": {}, **raw}})


def test_everything_that_a_restore_takes_is_given_and_the_key(clusters: AwsClusters) -> None:
    """Left out, these fall back to RDS's default version, its default groups, and no protection."""
    make(tags={"team": "pay", "key-rotation:enabled": "true"})
    source = seen(clusters, **FULL)
    tags = [{"Key": name, "Value": value} for name, value in {"team": "pay", **OURS}.items()]
    asked = {"DBClusterIdentifier": "orders-rot-42", "SnapshotIdentifier": "s", "Engine": "aurora-postgresql",
             "KmsKeyId": "key", "Tags": tags, **AT_RESTORE}  # fmt: skip
    with Stubber(client("rds")) as stubber:
        stubber.add_client_error("describe_db_clusters", "DBClusterNotFoundFault")
        stubber.add_response("restore_db_cluster_from_snapshot", {}, asked)

        clusters.request_restore(source, "orders-rot-42", "s", "key", OURS)

    restoration = client("rds").meta.service_model.operation_model("RestoreDBClusterFromSnapshot").input_shape.members
    assert not set(AFTERWARDS) & set(restoration)


@pytest.mark.parametrize(("of_source", "of_target"), [(None, 0), (0, None)])
def test_what_cannot_be_backtracked_is_asked_for_no_window_and_is_not_taken_for_different(
    clusters: AwsClusters, of_source: int | None, of_target: int | None
) -> None:
    """RDS takes none for Aurora PostgreSQL, and need not show one that is 0."""
    make()
    source, target = seen(clusters, BacktrackWindow=of_source), seen(clusters, BacktrackWindow=of_target)

    assert {} == clusters.settings_differences(source, target)
    assert "BacktrackWindow" not in carried_settings.restoration_parameters(source.raw, SETTINGS)


def test_zones_that_rds_has_no_place_in_now_are_left_to_rds(clusters: AwsClusters) -> None:
    """Nobody can write meanwhile, and where the data is placed is no part of it."""
    make()
    source = seen(clusters, AvailabilityZones=["us-east-1a", "us-east-1b"])
    asked: list[dict[str, object]] = []
    events, name = client("rds").meta.events, "before-parameter-build.rds.RestoreDBClusterFromSnapshot"
    note = lambda params, **_: asked.append(dict(params))  # noqa: E731
    events.register(name, note)
    with Stubber(client("rds")) as stubber:
        stubber.add_client_error("describe_db_clusters", "DBClusterNotFoundFault")
        why = "Availability zone '[us-east-1b]' is unavailable in this region, please choose another zone set."
        stubber.add_client_error("restore_db_cluster_from_snapshot", "InvalidVPCNetworkStateFault", why)
        stubber.add_response("restore_db_cluster_from_snapshot", {})

        clusters.request_restore(source, "orders-rot-42", "s", "key", OURS)
        stubber.assert_no_pending_responses()
    events.unregister(name, note)

    assert [["us-east-1a", "us-east-1b"], None] == [one.get("AvailabilityZones") for one in asked]


def test_where_a_cluster_is_is_no_difference(clusters: AwsClusters) -> None:
    make()
    source, target = (seen(clusters, AvailabilityZones=[zone]) for zone in ("us-east-1a", "us-east-1b"))

    assert {} == clusters.settings_differences(source, target)


def test_a_restored_cluster_is_adopted_and_a_strangers_is_not(clusters: AwsClusters) -> None:
    make(tags=OURS)
    make("other")
    source = live(clusters)

    clusters.request_restore(source, "orders", "s", "key", OURS)

    with pytest.raises(NameTaken):
        clusters.request_restore(source, "other", "s", "key", OURS)


def test_a_restored_cluster_is_adopted_though_the_answer_was_lost(clusters: AwsClusters) -> None:
    make(tags=OURS)
    source = live(clusters)
    there = client("rds").describe_db_clusters(DBClusterIdentifier="orders")
    with Stubber(client("rds")) as stubber:
        stubber.add_client_error("describe_db_clusters", "DBClusterNotFoundFault")
        stubber.add_client_error("restore_db_cluster_from_snapshot", "DBClusterAlreadyExistsFault")
        stubber.add_response("describe_db_clusters", {"DBClusters": there["DBClusters"]})

        clusters.request_restore(source, "orders", "s", "key", OURS)


def of_multi_az(clusters: AwsClusters, **raw: object) -> Instance:
    found = seen(clusters, **{**raw, **FULL_OF_MULTI_AZ})
    return replace(found, database=found.database.having(engine="postgres"))


def test_a_multi_az_cluster_gets_what_its_instances_are_to_be_as_well(clusters: AwsClusters) -> None:
    make(tags={})
    asked = {"DBClusterIdentifier": "orders-rot-42", "SnapshotIdentifier": "s", "Engine": "postgres",
             "KmsKeyId": "key", "Tags": [{"Key": k, "Value": v} for k, v in OURS.items()], "DeletionProtection": False,
             "EnableIAMDatabaseAuthentication": False, "CopyTagsToSnapshot": False, **MULTI_AZ_AT_RESTORE}  # fmt: skip
    source = of_multi_az(clusters)
    source = replace(source, raw={name: source.raw[name] for name in FULL_OF_MULTI_AZ})
    with Stubber(client("rds")) as stubber:
        stubber.add_client_error("describe_db_clusters", "DBClusterNotFoundFault")
        stubber.add_response("restore_db_cluster_from_snapshot", {}, asked)

        clusters.request_restore(source, "orders-rot-42", "s", "key", OURS)


def test_what_its_restore_does_not_take_is_repaired_with_one_call(clusters: AwsClusters) -> None:
    """Performance Insights moves to the new key; its key can be chosen only when it is switched on."""
    make()
    source = of_multi_az(clusters)
    database = source.database.having(kms_key_arn="new")
    there = {**MULTI_AZ_AT_RESTORE, "AllocatedStorage": 100, "CertificateDetails": {"CAIdentifier": "rds-ca-2019"}}
    target = replace(source, database=database, raw={**source.raw, **dict.fromkeys(FULL_OF_MULTI_AZ), **there})
    differences = clusters.settings_differences(source, target)
    with Stubber(client("rds")) as stubber:
        asked = {
            "DBClusterIdentifier": "orders", "ApplyImmediately": True, "AllocatedStorage": 200, "Iops": 3000,
            "AutoMinorVersionUpgrade": False, "CACertificateIdentifier": "rds-ca-rsa2048-g1",
            "EnablePerformanceInsights": True, "PerformanceInsightsRetentionPeriod": 31,
            "PerformanceInsightsKMSKeyId": "new", "MonitoringInterval": 30, "MonitoringRoleArn": "role",
            "DatabaseInsightsMode": "advanced",
        }  # fmt: skip
        stubber.add_response("modify_db_cluster", {}, asked)
        assert [] == clusters.request_setting_repair(source, target, differences)
        stubber.assert_no_pending_responses()

    assert {
        "allocated storage", "automatic minor upgrades", "CA certificate", "Database Insights mode",
        "Performance Insights", "Performance Insights key", "enhanced monitoring",
    } == set(differences)  # fmt: skip


def test_a_cluster_of_auroras_has_none_of_that_for_itself(clusters: AwsClusters) -> None:
    """Its instances have: RDS shows some of it of the cluster, too."""
    make()
    assert {} == clusters.settings_differences(seen(clusters, **FULL_OF_MULTI_AZ), seen(clusters))


@pytest.mark.parametrize("setting", OF_MULTI_AZ, ids=lambda setting: setting.name)
def test_every_setting_of_a_multi_az_cluster_is_compared_and_repaired_where_that_is_possible(
    clusters: AwsClusters, setting: Setting
) -> None:
    make()
    source = of_multi_az(clusters, **FULL)
    without = {name: None for name in (*FULL, *FULL_OF_MULTI_AZ) if name != "KmsKeyId"}
    target = replace(source, raw={**source.raw, **without, "EngineVersion": "15.1"})
    described = client("rds").meta.service_model.shape_for("DBCluster").members
    model = client("rds").meta.service_model.operation_model
    repair, restore = model("ModifyDBCluster").input_shape.members, model("RestoreDBClusterFromSnapshot").input_shape

    assert set(FULL_OF_MULTI_AZ) <= set(described)
    assert setting.name in clusters.settings_differences(source, target)
    assert (setting.repair is None) == (setting.name in {*BEYOND_REPAIR, "public access"})
    wanted = setting.wanted_of(source.raw, "new")
    assert set((setting.restore or setting.create)(wanted)) <= set(restore.members)
    if setting.repair is not None:
        assert set(setting.repair(wanted, setting.seen({})) or {}) <= set(repair)
    under_the_old_key = replace(source, database=source.database.having(kms_key_arn="old"))
    assert {} == clusters.settings_differences(source, under_the_old_key)


INSISTED_UPON = [setting for setting in SETTINGS if setting.satisfied is not whatever]


@pytest.mark.parametrize("setting", INSISTED_UPON, ids=lambda setting: setting.name)
def test_every_setting_is_compared_and_repaired_where_that_is_possible(clusters: AwsClusters, setting: Setting) -> None:
    """A row that reads a member that there is not would never differ."""
    make()
    source, target = seen(clusters, **FULL), seen(clusters, **{**dict.fromkeys(FULL), "EngineVersion": "15.1"})
    described = client("rds").meta.service_model.shape_for("DBCluster").members
    repair = client("rds").meta.service_model.operation_model("ModifyDBCluster").input_shape.members

    assert set(FULL) <= set(described)
    assert setting.name in clusters.settings_differences(source, target)
    assert (setting.repair is None) == (setting.name in BEYOND_REPAIR)
    if setting.repair is not None:
        assert set(setting.repair(setting.seen(source.raw), setting.seen({})) or {}) <= set(repair)
    assert {} == clusters.settings_differences(source, source)


IN_A_DEPLOYMENT = {DEPLOYMENT_TAG: "42"}
ON = {"HttpEndpointEnabled": True, "LocalWriteForwardingStatus": "enabled", "DatabaseInsightsMode": "advanced"}


@pytest.mark.parametrize(
    ("name", "member", "green"),
    [
        ("Data API", "HttpEndpointEnabled", False),
        ("Data API", "HttpEndpointEnabled", None),
        ("local write forwarding", "LocalWriteForwardingStatus", "disabled"),
        ("local write forwarding", "LocalWriteForwardingStatus", None),
        ("Database Insights mode", "DatabaseInsightsMode", "standard"),
        ("Database Insights mode", "DatabaseInsightsMode", None),
    ],
)
def test_what_green_lacks_and_cannot_be_given_is_named(
    clusters: AwsClusters, name: str, member: str, green: object
) -> None:
    make()
    blue = replace(seen(clusters, **ON), tags=IN_A_DEPLOYMENT)
    target = seen(clusters, **{**ON, member: green})
    described = client("rds").meta.service_model.shape_for("DBCluster").members

    assert member in described
    assert [name] == list(clusters.settings_differences(blue, target))
    with Stubber(client("rds")):
        assert [name] == clusters.request_setting_repair(blue, target, [name])


@pytest.mark.parametrize(
    "same",
    [
        ({}, {}),
        ({}, {"HttpEndpointEnabled": False, "DatabaseInsightsMode": "standard"}),
        ({}, {"LocalWriteForwardingStatus": "disabled"}),
        ({"LocalWriteForwardingStatus": "enabled"}, {"LocalWriteForwardingStatus": "enabling"}),
        (ON, ON),
    ],
)
def test_green_lacks_nothing_that_rds_only_shows_otherwise(
    clusters: AwsClusters, same: tuple[dict[str, object], dict[str, object]]
) -> None:
    make()
    blue, green = (seen(clusters, **{**dict.fromkeys(ON), **facts}) for facts in same)

    assert {} == clusters.settings_differences(replace(blue, tags=IN_A_DEPLOYMENT), green)


def test_of_what_is_restored_that_is_not_asked(clusters: AwsClusters) -> None:
    """A restore brings none of it along: Preflight refuses what may not be missing, and warns of the rest."""
    make()

    assert {} == clusters.settings_differences(seen(clusters, **ON), seen(clusters))


def test_what_differs_is_repaired_with_one_call(clusters: AwsClusters) -> None:
    make(tags={"team": "pay"})
    source = seen(clusters, **FULL, AssociatedRoles=[ROLE])
    target = seen(clusters, **{**FULL, "PreferredMaintenanceWindow": "tue:02:00-tue:02:30"})
    target = Instance(**{**vars(target), "tags": {}})
    differences = clusters.settings_differences(source, target)
    with Stubber(client("rds")) as stubber:
        arn = target.database.arn
        asked = {"DBClusterIdentifier": "orders", "ApplyImmediately": True, **AFTERWARDS}
        role = {name: ROLE[name] for name in ("RoleArn", "FeatureName")}
        tags = {"ResourceName": arn, "Tags": [{"Key": "team", "Value": "pay"}]}
        stubber.add_response("modify_db_cluster", {}, asked)
        stubber.add_response("add_role_to_db_cluster", {}, {"DBClusterIdentifier": "orders", **role})
        stubber.add_response("add_tags_to_resource", {}, tags)

        assert [] == clusters.request_setting_repair(source, target, differences)
        stubber.assert_no_pending_responses()

    assert {"maintenance window", "associated roles", "tags"} == set(differences)


def test_what_cannot_be_repaired_is_named_and_nothing_is_asked_of_a_busy_cluster(clusters: AwsClusters) -> None:
    make()
    source, target = seen(clusters, **FULL), seen(clusters, **{**FULL, "Port": 5432})
    busy = Instance(**{**vars(target), "status": "modifying"})
    with Stubber(client("rds")):
        assert ["port"] == clusters.request_setting_repair(source, target, ["port"])
        assert () == clusters.request_setting_repair(source, busy, ["port"])


def test_a_role_for_no_feature_is_asked_for_without_one(clusters: AwsClusters) -> None:
    """As Aurora MySQL's are. RDS knows no feature whose name is empty."""
    make()
    role = {"RoleArn": ROLE["RoleArn"], "Status": "ACTIVE"}
    source, target = seen(clusters, AssociatedRoles=[role]), seen(clusters)
    with Stubber(client("rds")) as stubber:
        asked = {"DBClusterIdentifier": "orders", "RoleArn": ROLE["RoleArn"]}
        stubber.add_response("add_role_to_db_cluster", {}, asked)

        clusters.request_missing_roles(source, target)
        stubber.assert_no_pending_responses()


def test_a_role_that_is_there_already_is_no_error(clusters: AwsClusters) -> None:
    make()
    source, target = seen(clusters, AssociatedRoles=[ROLE]), seen(clusters)
    with Stubber(client("rds")) as stubber:
        stubber.add_client_error("add_role_to_db_cluster", "DBClusterRoleAlreadyExists")
        assert [] == clusters.request_setting_repair(source, target, ["associated roles"])
        stubber.add_client_error("add_role_to_db_cluster", "DBClusterRoleQuotaExceeded")
        with pytest.raises(AwsRefused):
            clusters.request_setting_repair(source, target, ["associated roles"])


def test_reads_the_parameters_to_which_the_clusters_group_gives_a_value(clusters: AwsClusters) -> None:
    with Stubber(client("rds")) as stubber:
        parameters = [{"ParameterName": "a", "ParameterValue": "0"}, {"ParameterName": "b"}]
        stubber.add_response(
            "describe_db_cluster_parameters", {"Parameters": parameters}, {"DBClusterParameterGroupName": "g"}
        )

        assert {"a": "0"} == clusters.parameters_of("g")


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
    "DeleteDBCluster": lambda clusters: clusters.request_deletion(live(clusters).database, keep_automated_backups=True),
}


def test_a_lost_answer_of_a_deletion_is_not_asked_again_by_the_sdk(clusters: AwsClusters) -> None:
    """What is gone has no tags, by which the permission to delete it is told: it would be denied."""
    make()
    clusters.request_snapshot("s", "orders", OURS)
    with losing("rds", "DeleteDBClusterSnapshot") as asked, pytest.raises(AwsUnavailable):
        clusters.request_snapshot_deletion("s")

    assert ["DeleteDBClusterSnapshot"] == asked


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


@pytest.mark.parametrize("operation", ["CreateDBClusterSnapshot", "CopyDBClusterSnapshot"])
def test_a_snapshot_whose_answer_got_lost_is_its_own(clusters: AwsClusters, operation: str) -> None:
    """The SDK repeats the call, and RDS says that the name is taken."""
    ours = {"TagList": [{"Key": key, "Value": value} for key, value in OURS.items()]}
    with Stubber(client("rds")) as stubber:
        stubber.add_client_error("describe_db_cluster_snapshots", "DBClusterSnapshotNotFoundFault")
        stubber.add_client_error(xform_name(operation), "DBClusterSnapshotAlreadyExistsFault")
        stubber.add_response("describe_db_cluster_snapshots", {"DBClusterSnapshots": [ours]})

        REQUESTS[operation](clusters)

        stubber.assert_no_pending_responses()


# -- the end -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tag", [ROTATION_ID_TAG, DECOMMISSION_TAG])
def test_deletes_only_what_a_rotation_made_or_marked(clusters: AwsClusters, tag: str) -> None:
    make()
    with pytest.raises(RetirementRefused):
        clusters.request_deletion(live(clusters).database, keep_automated_backups=True)
    assert clusters.describe("orders") is not None

    marked = live(clusters).database
    client("rds").add_tags_to_resource(ResourceName=marked.arn, Tags=[{"Key": tag, "Value": "42"}])
    clusters.request_deletion(marked, keep_automated_backups=True)
    clusters.request_deletion(marked, keep_automated_backups=True)

    assert clusters.describe("orders") is None


def test_what_has_taken_the_name_since_the_look_is_not_deleted(clusters: AwsClusters) -> None:
    make(tags={DECOMMISSION_TAG: "42"})
    looked_at = live(clusters).database.having(resource_id="cluster-OF-THE-LOOK")

    with pytest.raises(RetirementRefused, match=r"orders is .*, not cluster-OF-THE-LOOK any more"):
        clusters.request_deletion(looked_at, keep_automated_backups=True)
    assert clusters.describe("orders") is not None


@pytest.mark.parametrize("kept", [True, False])
def test_there_is_no_final_snapshot_and_backups_stay_where_they_are_kept(clusters: AwsClusters, kept: bool) -> None:
    """A final snapshot would be one more thing under the old key, for ever."""
    make(tags={DECOMMISSION_TAG: "42"})
    cluster = live(clusters)
    found = {"DBClusters": [cluster.raw]}
    with Stubber(client("rds")) as stubber:
        stubber.add_response("describe_db_clusters", found)
        stubber.add_response(
            "delete_db_cluster",
            {},
            {"DBClusterIdentifier": "orders", "SkipFinalSnapshot": True, "DeleteAutomatedBackups": not kept},
        )

        clusters.request_deletion(cluster.database, keep_automated_backups=kept)

        stubber.assert_no_pending_responses()


def test_what_is_being_deleted_is_not_asked_for_again(clusters: AwsClusters) -> None:
    make(tags={DECOMMISSION_TAG: "42"})
    clusters.request_snapshot("s", "orders", OURS)
    cluster, snapshot = live(clusters), clusters.describe_snapshot("s")
    assert snapshot is not None
    with Stubber(client("rds")) as stubber:  # which knows of no deletion
        stubber.add_response("describe_db_clusters", {"DBClusters": [{**cluster.raw, "Status": "deleting"}]})
        stubber.add_response(
            "describe_db_cluster_snapshots", {"DBClusterSnapshots": [{**snapshot, "Status": "deleting"}]}
        )

        clusters.request_deletion(cluster.database, keep_automated_backups=True)
        clusters.request_snapshot_deletion("s")


@pytest.mark.parametrize(
    ("operation", "code"),
    [("DeleteDBClusterSnapshot", "DBClusterSnapshotNotFoundFault"), ("DeleteDBCluster", "DBClusterNotFoundFault")],
)
def test_what_is_gone_since_the_look_is_deleted(clusters: AwsClusters, operation: str, code: str) -> None:
    make(tags={DECOMMISSION_TAG: "42"})
    clusters.request_snapshot("s", "orders", OURS)

    with refusing(operation, code):
        REQUESTS[operation](clusters)


def test_takes_the_protection_away(clusters: AwsClusters) -> None:
    make(DeletionProtection=True)

    clusters.disable_deletion_protection("orders")
    clusters.disable_deletion_protection("nobody")

    assert not live(clusters).deletion_protection
