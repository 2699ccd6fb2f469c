"""The target must be what the source is, and nothing may be adopted, promoted or deleted that is not ours."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
from botocore.stub import ANY, Stubber

from lambdas.rotation.aws import carried_settings
from lambdas.rotation.aws.client import client
from lambdas.rotation.aws.rds import AwsRds
from lambdas.rotation.errors import (
    AwsRefused,
    AwsUnavailable,
    NameTaken,
    PromotionFailed,
    ReplicaKeyRefused,
    RetirementRefused,
)
from lambdas.rotation.names import DECOMMISSION_TAG, ROTATION_ID_TAG, our_tags
from lambdas.rotation.ports import Instance
from tests.aws.answers import losing

OURS = our_tags("orders", "42")
KEY = "arn:aws:kms:eu-central-1:123456789012:key/new"
OLD_KEY = "arn:aws:kms:eu-central-1:123456789012:key/old"


@pytest.fixture
def rds() -> AwsRds:
    return AwsRds()


@pytest.fixture
def source(rds: AwsRds) -> Instance:
    client("rds").create_db_instance(
        DBInstanceIdentifier="orders",
        DBInstanceClass="db.m6g.large",
        Engine="postgres",
        AllocatedStorage=20,
        MasterUsername="root",
        MasterUserPassword="hunter22",
        StorageEncrypted=True,
        KmsKeyId=OLD_KEY,
        BackupRetentionPeriod=7,
        DeletionProtection=True,
        Tags=[
            {"Key": "team", "Value": "pay"},
            {"Key": "key-rotation:enabled", "Value": "true"},
            {"Key": ROTATION_ID_TAG, "Value": "earlier"},
        ],
    )
    found = rds.describe_instance("orders")
    assert found is not None
    return found


def live(rds: AwsRds, identifier: str) -> Instance:
    found = rds.describe_instance(identifier)
    assert found is not None
    return found


class Refusing:
    """RDS answers one operation with a refusal, after what it answered before."""

    def __init__(self) -> None:
        self.stubber = Stubber(client("rds"))

    def __enter__(self) -> Stubber:
        return self.stubber.__enter__()

    def __exit__(self, *raised: Any) -> None:
        self.stubber.__exit__(*raised)


@contextmanager
def asked_of(operation: str) -> Iterator[list[Mapping[str, Any]]]:
    """The parameters of every call of one operation."""
    asked: list[Mapping[str, Any]] = []

    def note(params: Mapping[str, Any], **_: Any) -> None:
        asked.append(dict(params))

    events = client("rds").meta.events
    events.register(f"before-parameter-build.rds.{operation}", note)
    yield asked
    events.unregister(f"before-parameter-build.rds.{operation}", note)


def absent(stub: Stubber) -> None:
    stub.add_client_error("describe_db_instances", "DBInstanceNotFound", http_status_code=404)


def with_settings(instance: Instance, **raw: Any) -> Instance:
    return Instance(**{**instance.__dict__, "raw": {**instance.raw, **raw}})


# -- describing --


def test_describes_by_name_and_by_resource_id(rds: AwsRds, source: Instance) -> None:
    found = rds.describe_instance_by_resource_id(source.database.resource_id)
    assert found is not None
    assert found.database == source.database
    assert (True, 7, None) == (source.storage_encrypted, source.backup_retention_days, source.replica_of)
    assert ("orders", OLD_KEY, 5432) == (
        source.database.identifier,
        source.database.kms_key_arn,
        source.database.port,
    )


def test_what_does_not_exist_is_none(rds: AwsRds) -> None:
    assert rds.describe_instance("nobody") is None
    assert rds.describe_instance_by_resource_id("db-NOBODY") is None
    assert rds.describe_snapshot("none") is None


def test_lists_the_opted_in(rds: AwsRds, source: Instance) -> None:
    assert ["orders"] == [one.database.identifier for one in rds.describe_opted_in()]


# -- the target --


def test_the_target_carries_the_owners_tags_and_ours_but_not_the_opt_in(rds: AwsRds, source: Instance) -> None:
    """Before the release the fleet must go on finding the source, and only the source."""
    rds.request_read_replica(source, "orders-rot-42", KEY, OURS)

    assert live(rds, "orders-rot-42").tags == {"team": "pay", **OURS}


def test_its_own_target_is_adopted_and_a_strangers_is_not(rds: AwsRds, source: Instance) -> None:
    rds.request_read_replica(source, "orders-rot-42", KEY, OURS)
    rds.request_read_replica(source, "orders-rot-42", KEY, OURS)

    with pytest.raises(NameTaken, match="orders-rot-42"):
        rds.request_read_replica(source, "orders-rot-42", KEY, our_tags("orders", "43"))


def test_a_replica_of_one_can_be_like_another(rds: AwsRds, full: Instance) -> None:
    """A target's replica takes the place of one of the source's, which need not be what its primary is."""
    reports = Instance(**{**with_settings(full, DBInstanceClass="db.r6g.xlarge").__dict__, "tags": {"team": "bi"}})
    with Refusing() as stub:
        absent(stub)
        settings = carried_settings.creation_parameters(reports.raw, KEY)
        assert "db.r6g.xlarge" == settings["DBInstanceClass"]
        tags = [{"Key": name, "Value": value} for name, value in {"team": "bi", **OURS}.items()]
        named = {"DBInstanceIdentifier": "reports-rot-42-replica", "SourceDBInstanceIdentifier": "orders"}
        asked = {**settings, **named, "KmsKeyId": KEY, "Tags": tags}
        stub.add_response("create_db_instance_read_replica", {}, asked)

        rds.request_read_replica(full, "reports-rot-42-replica", KEY, OURS, like=reports)


def test_asks_for_another_name_at_once(rds: AwsRds, source: Instance) -> None:
    """Until the maintenance window readers would have none."""
    with Refusing() as stub:
        asked = {"DBInstanceIdentifier": "orders", "NewDBInstanceIdentifier": "orders-2", "ApplyImmediately": True}
        stub.add_response("modify_db_instance", {}, asked)

        rds.request_rename(source, "orders-2")


@pytest.mark.parametrize(
    ("status", "pending"), [("renaming", {}), ("creating", {}), ("available", {"DBInstanceIdentifier": "orders-2"})]
)
def test_a_rename_is_not_asked_for_twice_or_too_early(
    rds: AwsRds, source: Instance, status: str, pending: dict[str, str]
) -> None:
    busy = with_settings(Instance(**{**source.__dict__, "status": status}), PendingModifiedValues=pending)
    with Refusing():  # any call would fail
        rds.request_rename(busy, "orders-2")


def test_a_rename_that_rds_is_too_busy_for_is_left_to_the_next_visit(rds: AwsRds, source: Instance) -> None:
    with Refusing() as stub:
        stub.add_client_error("modify_db_instance", "InvalidDBInstanceState")

        rds.request_rename(source, "orders-2")


def test_a_name_that_is_taken_is_told(rds: AwsRds, source: Instance) -> None:
    with Refusing() as stub:
        stub.add_client_error("modify_db_instance", "DBInstanceAlreadyExists")

        with pytest.raises(AwsRefused, match="AlreadyExists"):
            rds.request_rename(source, "orders-2")


def test_a_restored_target_carries_the_tags_and_is_adopted_like_any(rds: AwsRds, source: Instance) -> None:
    source = with_settings(source, OptionGroupMemberships=[])  # moto does not know the default one
    rds.request_snapshot("orders-rot-42-kept", "orders", OURS)
    for _ in range(2):
        rds.request_restore(source, "orders-rot-42", "orders-rot-42-kept", OURS)

    assert live(rds, "orders-rot-42").tags == {"team": "pay", **OURS}
    with pytest.raises(NameTaken, match="orders-rot-42"):
        rds.request_restore(source, "orders-rot-42", "orders-rot-42-kept", our_tags("orders", "43"))


def test_a_restore_whose_answer_got_lost_is_its_own(rds: AwsRds, source: Instance) -> None:
    """The SDK repeats the call, and RDS says that the name is taken."""
    ours = {
        "DBInstanceIdentifier": "orders-rot-42", "DBInstanceArn": "arn:t", "DbiResourceId": "db-T",
        "Engine": "postgres", "EngineVersion": "16.4", "TagList": [{"Key": ROTATION_ID_TAG, "Value": "42"}],
    }  # fmt: skip
    with Refusing() as stub:
        absent(stub)
        stub.add_client_error("restore_db_instance_from_db_snapshot", "DBInstanceAlreadyExists")
        stub.add_response("describe_db_instances", {"DBInstances": [ours]})

        rds.request_restore(source, "orders-rot-42", "orders-rot-42-kept", OURS)


@pytest.mark.parametrize(
    ("code", "message", "error"),
    [
        ("InvalidParameterCombination", "Your request does not require the KMS key parameter", ReplicaKeyRefused),
        ("InvalidParameterValue", "the encryption key cannot differ", ReplicaKeyRefused),
        ("InvalidParameterValue", "Invalid instance class", AwsRefused),
        ("KMSKeyNotAccessibleFault", "The key does not exist", AwsUnavailable),
        ("InstanceQuotaExceeded", "no", AwsRefused),
    ],
)
def test_refusals_are_told_apart(
    rds: AwsRds, source: Instance, code: str, message: str, error: type[Exception]
) -> None:
    """A key that is seconds old is not known everywhere; a key that RDS does not want will never be."""
    with Refusing() as stub:
        absent(stub)
        stub.add_client_error("create_db_instance_read_replica", code, message)

        with pytest.raises(error) as raised:
            rds.request_read_replica(source, "orders-rot-42", KEY, OURS)

    assert type(raised.value) is error


def test_a_subnet_group_that_may_not_be_named_is_left_out(rds: AwsRds, source: Instance) -> None:
    source = with_settings(source, DBSubnetGroup={"DBSubnetGroupName": "private", "VpcId": "vpc-1"})
    with asked_of("CreateDBInstanceReadReplica") as asked, Refusing() as stub:
        absent(stub)
        stub.add_client_error("create_db_instance_read_replica", "DBSubnetGroupNotAllowedFault")
        stub.add_response("create_db_instance_read_replica", {})

        rds.request_read_replica(source, "orders-rot-42", KEY, OURS)

    assert ["private", None] == [parameters.get("DBSubnetGroupName") for parameters in asked]


HERE = "eu-central-1b"
NO_PLACE = [
    ("InsufficientDBInstanceCapacity", "no db.m6g.large there now"),
    ("InvalidParameterCombination", f"The requested Availability Zone {HERE} is not one of the cluster's"),
    ("InvalidVPCNetworkStateFault", f"Availability zone '[{HERE}]' is unavailable in this region"),
    ("ProvisionedIopsNotAvailableInAZFault", ""),
]


def placed(rds: AwsRds, way: str, source: Instance) -> None:
    if way == "create_db_instance":
        rds.request_member(source, "orders-rot-42", "orders-rot-42", KEY, OURS)
    elif way == "restore_db_instance_from_db_snapshot":
        rds.request_restore(source, "orders-rot-42", "orders-rot-42", OURS)
    else:
        rds.request_read_replica(source, "orders-rot-42", KEY, OURS)


WAYS = ("create_db_instance", "create_db_instance_read_replica", "restore_db_instance_from_db_snapshot")


@pytest.mark.parametrize(("code", "message"), NO_PLACE)
@pytest.mark.parametrize("way", WAYS)
def test_a_zone_that_rds_has_no_place_in_now_is_left_to_rds(
    rds: AwsRds, source: Instance, way: str, code: str, message: str
) -> None:
    """A zone is no data: what is refused only for that is asked for without, once."""
    source = with_settings(source, AvailabilityZone=HERE)
    operation = client("rds").meta.method_to_api_mapping[way]
    with asked_of(operation) as asked, Refusing() as stub:
        absent(stub)
        stub.add_client_error(way, code, message)
        stub.add_response(way, {})

        placed(rds, way, source)

    assert [HERE, None] == [parameters.get("AvailabilityZone") for parameters in asked]
    assert asked[1] == {name: value for name, value in asked[0].items() if name != "AvailabilityZone"}


@pytest.mark.parametrize("way", WAYS)
def test_any_other_refusal_is_one_and_so_is_a_second(rds: AwsRds, source: Instance, way: str) -> None:
    source = with_settings(source, AvailabilityZone=HERE)
    for refusals in (["InstanceQuotaExceeded"], ["InsufficientDBInstanceCapacity"] * 2):
        with Refusing() as stub:
            absent(stub)
            for code in refusals:
                stub.add_client_error(way, code)

            with pytest.raises(AwsRefused, match=refusals[0]):
                placed(rds, way, source)
            stub.assert_no_pending_responses()


def test_of_a_database_in_two_zones_none_is_named(rds: AwsRds, source: Instance) -> None:
    """RDS refuses to be told one, and chooses both."""
    source = with_settings(source, AvailabilityZone=HERE, MultiAZ=True)

    assert "AvailabilityZone" not in carried_settings.creation_parameters(source.raw, KEY)
    assert "AvailabilityZone" not in carried_settings.restoration_parameters(source.raw)


VOLUME = {
    "VolumeName": "rdsdbdata2", "StorageType": "gp3", "AllocatedStorage": 300, "IOPS": 4000, "StorageThroughput": 200,
    "MaxAllocatedStorage": 900, "StorageVolumeStatus": "ACTIVE",
}  # fmt: skip


@pytest.mark.parametrize(
    ("there", "asked_for"),
    [
        ({"MaxAllocatedStorage": None}, {"MaxAllocatedStorage": 900}),
        ({"IOPS": 3000, "StorageThroughput": 125}, {"IOPS": 4000, "StorageThroughput": 200}),
        ({"StorageType": "io2"}, {"StorageType": "gp3"}),
        ({"AllocatedStorage": 200}, {"AllocatedStorage": 300}),
    ],
)
def test_additional_volumes_are_made_what_they_were(
    rds: AwsRds, source: Instance, there: dict[str, Any], asked_for: dict[str, Any]
) -> None:
    """A restore brings them along, and need not give them all that they had."""
    source = with_settings(source, AdditionalStorageVolumes=[VOLUME])
    target = target_of(source, AdditionalStorageVolumes=[{**VOLUME, **there}])
    with asked_of("ModifyDBInstance") as asked, Refusing() as stub:
        stub.add_response("modify_db_instance", {})

        assert [] == rds.request_setting_repair(source, target, rds.settings_differences(source, target))

    assert [{"VolumeName": "rdsdbdata2", **asked_for}] == asked[0]["AdditionalStorageVolumes"]


def test_an_additional_volume_that_is_not_there_is_beyond_repair(rds: AwsRds, source: Instance) -> None:
    """What would be added is empty, and the data that was on it is somewhere else, or nowhere."""
    source = with_settings(source, AdditionalStorageVolumes=[VOLUME])
    target = target_of(source, AdditionalStorageVolumes=[])
    differences = rds.settings_differences(source, target)

    with Refusing():  # any call would fail
        assert ["additional storage volumes"] == rds.request_setting_repair(source, target, differences)


def test_an_additional_volume_may_have_grown_and_shows_a_baseline(rds: AwsRds, source: Instance) -> None:
    chosen = {"VolumeName": "rdsdbdata2", "StorageType": "GP3", "AllocatedStorage": 300}
    source = with_settings(source, AdditionalStorageVolumes=[chosen])
    target = target_of(source, AdditionalStorageVolumes=[{**VOLUME, "AllocatedStorage": 400}])

    assert {} == rds.settings_differences(source, target)


def test_where_a_target_is_is_no_difference(rds: AwsRds, source: Instance) -> None:
    assert {} == rds.settings_differences(source, target_of(source, AvailabilityZone="elsewhere"))


# -- settings --

FULL: dict[str, Any] = {
    "DBInstanceClass": "db.m6g.large",
    "EngineVersion": "16.4",
    "StorageType": "gp3",
    "AllocatedStorage": 500,
    "Iops": 12000,
    "StorageThroughput": 500,
    "MaxAllocatedStorage": 1000,
    "DedicatedLogVolume": False,
    "DBParameterGroups": [{"DBParameterGroupName": "orders-pg"}],
    "OptionGroupMemberships": [{"OptionGroupName": "default:postgres-16"}],
    "VpcSecurityGroups": [{"VpcSecurityGroupId": "sg-2"}, {"VpcSecurityGroupId": "sg-1"}],
    "DBSubnetGroup": {"DBSubnetGroupName": "private"},
    "PubliclyAccessible": False,
    "Endpoint": {"Address": "a", "Port": 6432},
    "NetworkType": "IPV4",
    "MultiAZ": True,
    "ProcessorFeatures": [{"Name": "coreCount", "Value": "2"}],
    "LicenseModel": "postgresql-license",
    "CACertificateIdentifier": "rds-ca-rsa2048-g1",
    "AutoMinorVersionUpgrade": True,
    "EngineLifecycleSupport": "open-source-rds-extended-support-disabled",
    "BackupRetentionPeriod": 14,
    "PreferredBackupWindow": "03:00-03:30",
    "PreferredMaintenanceWindow": "sun:04:00-sun:04:30",
    "DeletionProtection": True,
    "CopyTagsToSnapshot": True,
    "IAMDatabaseAuthenticationEnabled": True,
    "DatabaseInsightsMode": "standard",
    "PerformanceInsightsEnabled": True,
    "PerformanceInsightsKMSKeyId": OLD_KEY,
    "PerformanceInsightsRetentionPeriod": 7,
    "MonitoringInterval": 60,
    "MonitoringRoleArn": "arn:aws:iam::123456789012:role/monitoring",
    "EnabledCloudwatchLogsExports": ["postgresql", "upgrade"],
    "AssociatedRoles": [{"RoleArn": "arn:aws:iam::123456789012:role/s3", "FeatureName": "s3Import"}],
    "KmsKeyId": OLD_KEY,
}

AT_CREATION = {
    "DBInstanceClass": "db.m6g.large",
    "StorageType": "gp3",
    "Iops": 12000,
    "StorageThroughput": 500,
    "MaxAllocatedStorage": 1000,
    "DedicatedLogVolume": False,
    "OptionGroupName": "default:postgres-16",
    "VpcSecurityGroupIds": ["sg-1", "sg-2"],
    "DBSubnetGroupName": "private",
    "PubliclyAccessible": False,
    "Port": 6432,
    "NetworkType": "IPV4",
    "MultiAZ": True,
    "ProcessorFeatures": [{"Name": "coreCount", "Value": "2"}],
    "CACertificateIdentifier": "rds-ca-rsa2048-g1",
    "AutoMinorVersionUpgrade": True,
    "DeletionProtection": True,
    "CopyTagsToSnapshot": True,
    "EnableIAMDatabaseAuthentication": True,
    "EnablePerformanceInsights": True,
    "PerformanceInsightsKMSKeyId": KEY,
    "PerformanceInsightsRetentionPeriod": 7,
    "MonitoringInterval": 60,
    "MonitoringRoleArn": "arn:aws:iam::123456789012:role/monitoring",
    "EnableCloudwatchLogsExports": ["postgresql", "upgrade"],
}


NOT_AT_RESTORE = {
    "MaxAllocatedStorage",
    "EnablePerformanceInsights",
    "PerformanceInsightsKMSKeyId",
    "PerformanceInsightsRetentionPeriod",
    "MonitoringInterval",
    "MonitoringRoleArn",
}
AT_RESTORE = {name: value for name, value in AT_CREATION.items() if name not in NOT_AT_RESTORE} | {
    "DBParameterGroupName": "orders-pg",
    "BackupRetentionPeriod": 14,
    "PreferredBackupWindow": "03:00-03:30",
    "EngineLifecycleSupport": "open-source-rds-extended-support-disabled",
}


@pytest.fixture
def full(source: Instance) -> Instance:
    return with_settings(source, **FULL)


def target_of(source: Instance, **raw: Any) -> Instance:
    """What RDS would show for a target that has everything, apart from what ``raw`` says."""
    has = {**source.raw, "KmsKeyId": KEY, "PerformanceInsightsKMSKeyId": KEY, "PendingModifiedValues": {}, **raw}
    database = source.database.having(identifier="orders-rot-42", kms_key_arn=KEY)
    return Instance(**{**source.__dict__, "raw": has, "database": database, "status": "available"})


def test_everything_that_can_be_given_is_given_at_creation(full: Instance) -> None:
    """What is left out RDS fills with defaults; Performance Insights would stay under the old key.

    But for the parameter group, which is the source's, and which RDS refuses to be told; and the mode of Database
    Insights (RDS API reference).
    """
    assert carried_settings.creation_parameters(full.raw, KEY) == AT_CREATION


def test_everything_that_a_restore_takes_is_given(full: Instance) -> None:
    """Left out, these fall back to the default security group, the default parameters, and no protection."""
    assert carried_settings.restoration_parameters(full.raw) == AT_RESTORE


def test_what_a_restore_does_not_take_is_repaired_with_one_call(rds: AwsRds, full: Instance) -> None:
    """Performance Insights gets its key only while it is being switched on; switched on without, it has another."""
    full = with_settings(full, MasterUserSecret={"SecretArn": "of-the-source", "SecretStatus": "active"})
    bare = target_of(
        full, MasterUserSecret=None, MaxAllocatedStorage=None, PerformanceInsightsEnabled=False,
        PerformanceInsightsKMSKeyId=None, MonitoringInterval=0, MonitoringRoleArn=None,
    )  # fmt: skip
    with asked_of("ModifyDBInstance") as asked, Refusing() as stub:
        stub.add_response("modify_db_instance", {})

        assert () == tuple(rds.request_setting_repair(full, bare, rds.settings_differences(full, bare)))

    taken = {"MaxAllocatedStorage", "MonitoringInterval", "MonitoringRoleArn", "EnablePerformanceInsights"}
    taken |= {"PerformanceInsightsRetentionPeriod", "PerformanceInsightsKMSKeyId", "ManageMasterUserPassword"}
    assert taken | {"DBInstanceIdentifier", "ApplyImmediately"} == set(asked[0])
    assert asked[0]["PerformanceInsightsKMSKeyId"] == KEY


@pytest.mark.parametrize("pending, asked_for", [({}, 1), ({"MasterUserPassword": "****"}, 0)])
def test_a_password_that_rds_is_changing_is_not_asked_for_again(
    rds: AwsRds, full: Instance, pending: dict[str, str], asked_for: int
) -> None:
    """Each time RDS would give it another one, and the secret another version."""
    source = with_settings(full, MasterUserSecret={"SecretArn": "of-the-source"})
    target = target_of(source, MasterUserSecret=None, PendingModifiedValues=pending)
    with asked_of("ModifyDBInstance") as asked, Refusing() as stub:
        for _ in range(asked_for):
            stub.add_response("modify_db_instance", {})
        rds.request_setting_repair(source, target, rds.settings_differences(source, target))

    assert len(asked) == asked_for


def test_a_target_whose_password_rds_manages_falls_short_of_nothing(rds: AwsRds, full: Instance) -> None:
    """Somebody has switched it on; the source is as it was."""
    target = target_of(full, MasterUserSecret={"SecretArn": "of-the-target"})

    assert "managed master password" not in rds.settings_differences(full, target)


def test_an_instance_of_a_cluster_is_asked_for_with_what_is_its_own(rds: AwsRds, full: Instance) -> None:
    """The rest is its cluster's, and RDS refuses to be told it of an instance."""
    source = with_settings(full, AvailabilityZone="eu-central-1b", PromotionTier=3)
    own = ("DBInstanceClass", "DBParameterGroupName", "PubliclyAccessible", "CACertificateIdentifier",
           "AutoMinorVersionUpgrade", "EnablePerformanceInsights", "PerformanceInsightsKMSKeyId",
           "PerformanceInsightsRetentionPeriod", "MonitoringInterval", "MonitoringRoleArn")  # fmt: skip
    with asked_of("CreateDBInstance") as asked, Refusing() as stub:
        absent(stub)
        stub.add_response("create_db_instance", {})

        rds.request_member(source, "orders-1-rot-42", "orders-rot-42", KEY, OURS)

    tags = {tag["Key"]: tag["Value"] for tag in asked[0]["Tags"]}
    assert tags == {"team": "pay", **OURS}
    assert {name: value for name, value in asked[0].items() if name != "Tags"} == {
        **{name: (AT_RESTORE | AT_CREATION)[name] for name in own},
        "AvailabilityZone": "eu-central-1b",
        "PromotionTier": 3,
        "DBInstanceIdentifier": "orders-1-rot-42",
        "DBClusterIdentifier": "orders-rot-42",
        "Engine": "postgres",
    }


def test_an_instance_of_a_cluster_is_compared_in_what_is_its_own(rds: AwsRds, full: Instance) -> None:
    """It shows its cluster's settings as well. RDS refuses to change them there, and nobody can write meanwhile."""
    source = with_settings(full, DBClusterIdentifier="orders", PromotionTier=3)
    everything = {name: value for lost in (LOST | BEYOND_REPAIR).values() for name, value in lost.items()}
    target = target_of(source, **everything, PromotionTier=1, PerformanceInsightsRetentionPeriod=31)

    assert {
        "instance class", "parameter group", "public access", "CA certificate", "automatic minor upgrades",
        "promotion tier", "maintenance window", "Performance Insights", "Performance Insights key",
        "enhanced monitoring",
    } == set(rds.settings_differences(source, target))  # fmt: skip


def test_the_mode_of_database_insights_is_not_asked_for_of_an_instance_of_a_cluster(
    rds: AwsRds, full: Instance
) -> None:
    source = with_settings(full, DBClusterIdentifier="orders", DatabaseInsightsMode="advanced")
    target = target_of(source, DatabaseInsightsMode="standard", MonitoringInterval=0)
    with asked_of("ModifyDBInstance") as asked, Refusing() as stub:
        stub.add_response("modify_db_instance", {}, None)

        rds.request_setting_repair(source, target, rds.settings_differences(source, target))

    assert [
        {
            "DBInstanceIdentifier": "orders-rot-42",
            "ApplyImmediately": True,
            "MonitoringInterval": 60,
            "MonitoringRoleArn": FULL["MonitoringRoleArn"],
        }
    ] == asked


@pytest.mark.parametrize(
    ("code", "error"), [("InvalidDBClusterStateFault", None), ("InsufficientCapacity", AwsRefused)]
)
def test_a_cluster_that_takes_no_instance_now_is_asked_again(
    rds: AwsRds, full: Instance, code: str, error: type[Exception] | None
) -> None:
    with Refusing() as stub:
        absent(stub)
        stub.add_client_error("create_db_instance", code)

        with nullcontext() if error is None else pytest.raises(error):
            rds.request_member(full, "orders-1-rot-42", "orders-rot-42", KEY, OURS)


def test_an_instance_that_somebody_else_made_is_no_member_of_ours(rds: AwsRds, source: Instance) -> None:
    with pytest.raises(NameTaken):
        rds.request_member(source, "orders", "orders-rot-42", KEY, OURS)


def test_a_key_of_its_own_stays_with_performance_insights(full: Instance) -> None:
    own = with_settings(full, PerformanceInsightsKMSKeyId="arn:own")

    assert carried_settings.creation_parameters(own.raw, KEY)["PerformanceInsightsKMSKeyId"] == "arn:own"


def test_a_lost_answer_of_a_deletion_is_not_asked_again_by_the_sdk(rds: AwsRds, source: Instance) -> None:
    """What is gone has no tags, by which the permission to delete it is told: it would be denied."""
    rds.request_snapshot("s", "orders", OURS)
    with losing("rds", "DeleteDBSnapshot") as asked, pytest.raises(AwsUnavailable):
        rds.request_snapshot_deletion("s")

    assert ["DeleteDBSnapshot"] == asked


@pytest.mark.parametrize(
    ("engine", "storage_type", "size", "is_taken"),
    [
        ("postgres", "gp3", 399, False),
        ("postgres", "gp3", 400, True),
        ("postgres", "gp2", 500, False),
        ("mariadb", "gp3", 399, False),
        ("oracle-se2", "gp3", 199, False),
        ("oracle-se2", "gp3", 200, True),
        ("sqlserver-se", "gp3", 20, True),
    ],
)
def test_a_baseline_is_shown_but_not_asked_for(
    rds: AwsRds, full: Instance, engine: str, storage_type: str, size: int, is_taken: bool
) -> None:
    """RDS shows 3000 IOPS for a small gp3 volume, and refuses to be given them; how small that is the engine says."""
    stored = {"StorageType": storage_type, "AllocatedStorage": size, "Iops": 3000, "StorageThroughput": 125}
    source = with_settings(full, Engine=engine, **stored)

    for asked in (
        carried_settings.creation_parameters(source.raw, KEY),
        carried_settings.restoration_parameters(source.raw),
    ):
        assert is_taken == ({"Iops", "StorageThroughput"} <= set(asked))
        assert is_taken == bool({"Iops", "StorageThroughput"} & set(asked))


def test_a_target_that_has_grown_out_of_its_baseline_is_left_so(rds: AwsRds, full: Instance) -> None:
    source = with_settings(full, AllocatedStorage=390, Iops=3000, StorageThroughput=125)

    assert rds.settings_differences(source, target_of(source, AllocatedStorage=430, Iops=12000)) == {}


@pytest.mark.parametrize("stored", [{"StorageType": "gp3"}, {"StorageType": "io2", "StorageThroughput": None}])
@pytest.mark.parametrize(
    "lost",
    [{"AllocatedStorage": 450}, {"Iops": 3000}, {"StorageThroughput": 125}, {"StorageType": "gp2", "Iops": None}],
)
def test_size_and_iops_are_asked_for_together_where_iops_were_chosen(
    rds: AwsRds, full: Instance, stored: dict[str, Any], lost: dict[str, Any]
) -> None:
    """RDS refuses one without the other."""
    source = with_settings(full, **stored)
    target = target_of(source, **lost)
    differences = rds.settings_differences(source, target)
    throughput_of_another_type = stored["StorageType"] != "gp3" and set(lost) == {"StorageThroughput"}
    with asked_of("ModifyDBInstance") as asked, Refusing() as stub:
        if not throughput_of_another_type:
            stub.add_response("modify_db_instance", {})
        rds.request_setting_repair(source, target, differences)

    for parameters in asked:
        assert (500, 12000) == (parameters["AllocatedStorage"], parameters["Iops"])
    assert bool(differences) == bool(asked) is not throughput_of_another_type, "throughput is gp3's alone"


def test_the_advanced_mode_is_asked_for_together_with_performance_insights(rds: AwsRds, full: Instance) -> None:
    """RDS refuses it alone, though the target has them already."""
    source = with_settings(full, DatabaseInsightsMode="advanced", PerformanceInsightsRetentionPeriod=465)
    target = target_of(source, DatabaseInsightsMode="standard")
    with asked_of("ModifyDBInstance") as asked, Refusing() as stub:
        stub.add_response("modify_db_instance", {})
        rds.request_setting_repair(source, target, rds.settings_differences(source, target))

    assert asked == [
        {
            "DBInstanceIdentifier": "orders-rot-42",
            "ApplyImmediately": True,
            "DatabaseInsightsMode": "advanced",
            "EnablePerformanceInsights": True,
            "PerformanceInsightsRetentionPeriod": 465,
        }
    ]


def test_a_size_is_asked_for_alone_where_no_iops_were_chosen(rds: AwsRds, full: Instance) -> None:
    source = with_settings(full, AllocatedStorage=200, Iops=3000, StorageThroughput=125)
    target = target_of(source, AllocatedStorage=100)
    with asked_of("ModifyDBInstance") as asked, Refusing() as stub:
        stub.add_response("modify_db_instance", {})
        rds.request_setting_repair(source, target, rds.settings_differences(source, target))

    assert {"DBInstanceIdentifier", "ApplyImmediately", "AllocatedStorage"} == set(asked[0])


def test_a_larger_size_is_kept_with_the_iops_that_it_lacks(rds: AwsRds, full: Instance) -> None:
    """Storage does not shrink."""
    target = target_of(full, AllocatedStorage=600, Iops=3000)
    with asked_of("ModifyDBInstance") as asked, Refusing() as stub:
        stub.add_response("modify_db_instance", {})
        rds.request_setting_repair(full, target, rds.settings_differences(full, target))

    assert (600, 12000) == (asked[0]["AllocatedStorage"], asked[0]["Iops"])


def test_parameters_of_creation_and_repair_exist(full: Instance) -> None:
    """A parameter that the SDK does not know would fail on the day of the rotation."""
    operations = client("rds").meta.service_model
    creation = operations.operation_model("CreateDBInstanceReadReplica").input_shape.members
    restoration = operations.operation_model("RestoreDBInstanceFromDBSnapshot").input_shape.members
    repair = operations.operation_model("ModifyDBInstance").input_shape.members
    described = operations.operation_model("DescribeDBInstances").output_shape.members["DBInstances"].member.members

    assert set(AT_CREATION) <= set(creation)
    assert set(AT_RESTORE) <= set(restoration)
    assert not NOT_AT_RESTORE & set(restoration)
    assert set(FULL) <= set(described)
    for setting in carried_settings.SETTINGS:
        if setting.repair is not None:
            assert set(setting.repair(setting.seen(full.raw), setting.seen({})) or {}) <= set(repair), setting.name


def test_a_faithful_target_has_no_differences(rds: AwsRds, full: Instance) -> None:
    assert rds.settings_differences(full, target_of(full)) == {}


LOST: dict[str, dict[str, Any]] = {
    "instance class": {"DBInstanceClass": "db.t4g.micro"},
    "storage type": {"StorageType": "gp2"},
    "allocated storage": {"AllocatedStorage": 499},
    "provisioned IOPS": {"Iops": 3000},
    "storage throughput": {"StorageThroughput": 125},
    "storage autoscaling limit": {"MaxAllocatedStorage": None},
    "parameter group": {"DBParameterGroups": [{"DBParameterGroupName": "default.postgres16"}]},
    "option group": {"OptionGroupMemberships": []},
    "security groups": {"VpcSecurityGroups": [{"VpcSecurityGroupId": "sg-default"}]},
    "public access": {"PubliclyAccessible": True},
    "port": {"Endpoint": {"Address": "a", "Port": 5432}},
    "network type": {"NetworkType": "DUAL"},
    "Multi-AZ": {"MultiAZ": False},
    "processor features": {"ProcessorFeatures": []},
    "license model": {"LicenseModel": "other"},
    "CA certificate": {"CACertificateIdentifier": "rds-ca-2019"},
    "automatic minor upgrades": {"AutoMinorVersionUpgrade": False},
    "Extended Support": {"EngineLifecycleSupport": "open-source-rds-extended-support"},
    "backup retention": {"BackupRetentionPeriod": 0},
    "backup window": {"PreferredBackupWindow": "09:00-09:30"},
    "maintenance window": {"PreferredMaintenanceWindow": "mon:04:00-mon:04:30"},
    "deletion protection": {"DeletionProtection": False},
    "tags copied to snapshots": {"CopyTagsToSnapshot": False},
    "IAM database authentication": {"IAMDatabaseAuthenticationEnabled": False},
    "Database Insights mode": {"DatabaseInsightsMode": "advanced"},
    "enhanced monitoring": {"MonitoringInterval": 0},
    "log exports": {"EnabledCloudwatchLogsExports": []},
}
BEYOND_REPAIR: dict[str, dict[str, Any]] = {
    "engine version": {"EngineVersion": "16.3"},
    "subnet group": {"DBSubnetGroup": {"DBSubnetGroupName": "default"}},
    "Performance Insights key": {"PerformanceInsightsKMSKeyId": OLD_KEY},
    "domain": {"DomainMemberships": [{"Domain": "d-1"}]},
}


@pytest.mark.parametrize("name", [*LOST, *BEYOND_REPAIR])
def test_every_lost_setting_is_noticed(rds: AwsRds, full: Instance, name: str) -> None:
    assert name in rds.settings_differences(full, target_of(full, **(LOST | BEYOND_REPAIR)[name]))


def test_what_grew_by_itself_is_no_difference(rds: AwsRds, full: Instance) -> None:
    assert rds.settings_differences(full, target_of(full, AllocatedStorage=600)) == {}


@pytest.mark.parametrize("name", LOST)
def test_a_repair_is_asked_for_at_once(rds: AwsRds, full: Instance, name: str) -> None:
    target = target_of(full, **LOST[name])
    with asked_of("ModifyDBInstance") as asked, Refusing() as stub:
        stub.add_response("modify_db_instance", {}, None)

        hopeless = rds.request_setting_repair(full, target, rds.settings_differences(full, target))

    (parameters,) = asked
    assert [] == hopeless
    assert parameters["ApplyImmediately"] is True
    assert len(parameters) > 2


@pytest.mark.parametrize("name", BEYOND_REPAIR)
def test_what_cannot_be_repaired_is_said(rds: AwsRds, full: Instance, name: str) -> None:
    target = target_of(full, **BEYOND_REPAIR[name])

    assert [name] == list(rds.request_setting_repair(full, target, {name: (1, 2)}))


@pytest.mark.parametrize(("status", "pending"), [("modifying", {}), ("available", {"MultiAZ": True}), ("creating", {})])
def test_nothing_is_asked_twice_or_too_early(rds: AwsRds, full: Instance, status: str, pending: Any) -> None:
    target = target_of(full, MultiAZ=False, PendingModifiedValues=pending)
    target = Instance(**{**target.__dict__, "status": status})
    with Refusing():  # any call would fail
        assert [] == list(rds.request_setting_repair(full, target, {"Multi-AZ": (True, False)}))


def test_associated_roles_and_tags_are_added(rds: AwsRds, full: Instance) -> None:
    target = Instance(**{**target_of(full, AssociatedRoles=[]).__dict__, "tags": {}})
    differences = rds.settings_differences(full, target)
    assert {"associated roles", "tags"} == set(differences)
    with Refusing() as stub:
        role = {"RoleArn": "arn:aws:iam::123456789012:role/s3", "FeatureName": "s3Import"}
        stub.add_response("add_role_to_db_instance", {}, {"DBInstanceIdentifier": "orders-rot-42", **role})
        stub.add_response("add_tags_to_resource", {}, {"ResourceName": ANY, "Tags": [{"Key": "team", "Value": "pay"}]})

        assert [] == list(rds.request_setting_repair(full, target, differences))


# -- promotion --


@pytest.fixture
def target(rds: AwsRds, source: Instance) -> Instance:
    rds.request_read_replica(source, "orders-rot-42", KEY, OURS)
    return live(rds, "orders-rot-42")


def test_promotes_with_the_sources_backups(rds: AwsRds, source: Instance, target: Instance) -> None:
    """Left out, RDS would keep the backups for one day."""
    with Refusing() as stub:
        stub.add_response("describe_db_instances", {"DBInstances": [target.raw]})
        stub.add_response(
            "promote_read_replica",
            {},
            {
                "DBInstanceIdentifier": "orders-rot-42",
                "BackupRetentionPeriod": 7,
                "PreferredBackupWindow": source.raw["PreferredBackupWindow"],
            },
        )

        rds.request_promotion("orders-rot-42", source)


def test_a_primary_is_not_promoted_again(rds: AwsRds, source: Instance) -> None:
    with Refusing() as stub:
        stub.add_response("describe_db_instances", {"DBInstances": [source.raw]})

        rds.request_promotion("orders", source)


@pytest.mark.parametrize("code", ["InvalidDBInstanceState", "DBInstanceNotFound"])
def test_a_refused_promotion_is_a_failed_one(rds: AwsRds, source: Instance, target: Instance, code: str) -> None:
    with Refusing() as stub:
        stub.add_response("describe_db_instances", {"DBInstances": [target.raw]})
        stub.add_client_error("promote_read_replica", code)

        with pytest.raises(PromotionFailed, match=code):
            rds.request_promotion("orders-rot-42", source)


# -- snapshots and the end --


def test_makes_a_snapshot_once_and_copies_it_once(rds: AwsRds, source: Instance) -> None:
    key = client("kms").create_key()["KeyMetadata"]["Arn"]
    for _ in range(2):
        rds.request_snapshot("s", "orders", OURS)
        rds.request_snapshot_copy("s", "kept", key, OURS)

    copy = rds.describe_snapshot("kept")
    assert copy is not None
    assert (key, "available") == (copy["KmsKeyId"], copy["Status"])


@pytest.mark.parametrize("operation", ["create_db_snapshot", "copy_db_snapshot"])
def test_a_snapshot_whose_answer_got_lost_is_its_own(rds: AwsRds, operation: str) -> None:
    """The SDK repeats the call, and RDS says that the name is taken."""
    ours = {"TagList": [{"Key": ROTATION_ID_TAG, "Value": "42"}]}
    with Refusing() as stub:
        stub.add_client_error("describe_db_snapshots", "DBSnapshotNotFound", http_status_code=404)
        stub.add_client_error(operation, "DBSnapshotAlreadyExists")
        stub.add_response("describe_db_snapshots", {"DBSnapshots": [ours]})

        if operation == "create_db_snapshot":
            rds.request_snapshot("s", "orders", OURS)
        else:
            rds.request_snapshot_copy("s", "kept", KEY, OURS)


def test_a_strangers_snapshot_is_neither_adopted_nor_deleted(rds: AwsRds, source: Instance) -> None:
    client("rds").create_db_snapshot(DBSnapshotIdentifier="s", DBInstanceIdentifier="orders")

    with pytest.raises(NameTaken):
        rds.request_snapshot("s", "orders", OURS)
    with pytest.raises(RetirementRefused):
        rds.request_snapshot_deletion("s")


def test_deletes_our_snapshot_and_an_absent_one(rds: AwsRds, source: Instance) -> None:
    rds.request_snapshot("s", "orders", OURS)
    rds.request_snapshot_deletion("s")
    rds.request_snapshot_deletion("s")

    assert rds.describe_snapshot("s") is None


def test_deletes_only_what_is_marked(rds: AwsRds) -> None:
    """The caller has its reasons; this is the last line."""
    client("rds").create_db_instance(
        DBInstanceIdentifier="pay", DBInstanceClass="db.t4g.micro", Engine="postgres", AllocatedStorage=20
    )
    with pytest.raises(RetirementRefused, match="pay"):
        rds.request_instance_deletion(live(rds, "pay").database, keep_automated_backups=True)

    pay = live(rds, "pay").database
    rds.set_tags(pay.arn, {DECOMMISSION_TAG: "42"})
    rds.request_instance_deletion(pay, keep_automated_backups=True)
    rds.request_instance_deletion(pay, keep_automated_backups=True)

    assert rds.describe_instance("pay") is None


def test_what_has_taken_the_name_since_the_look_is_not_deleted(rds: AwsRds, source: Instance) -> None:
    """RDS deletes by name, and names change hands: a rename or a restore may lie between the look and the deletion."""
    rds.set_tags(source.database.arn, {DECOMMISSION_TAG: "42"})
    looked_at = source.database.having(resource_id="db-OF-THE-LOOK")

    with pytest.raises(RetirementRefused, match=r"orders is db-.*, not db-OF-THE-LOOK any more"):
        rds.request_instance_deletion(looked_at, keep_automated_backups=True)
    assert rds.describe_instance("orders") is not None


def test_there_is_no_final_snapshot_and_backups_stay(rds: AwsRds, source: Instance) -> None:
    """A final snapshot would be one more thing under the old key, for ever."""
    with Refusing() as stub:
        stub.add_response("describe_db_instances", {"DBInstances": [source.raw]})
        stub.add_response(
            "delete_db_instance",
            {},
            {"DBInstanceIdentifier": "orders", "SkipFinalSnapshot": True, "DeleteAutomatedBackups": False},
        )

        rds.request_instance_deletion(source.database, keep_automated_backups=True)


def test_deletion_protection_is_turned_off_once(rds: AwsRds, source: Instance) -> None:
    rds.disable_deletion_protection("orders")

    assert live(rds, "orders").deletion_protection is False
    with Refusing() as stub:
        stub.add_response("describe_db_instances", {"DBInstances": [live_raw(source, DeletionProtection=False)]})
        rds.disable_deletion_protection("orders")


def live_raw(instance: Instance, **raw: Any) -> dict[str, Any]:
    return {**instance.raw, **raw}


def test_tags_come_and_go(rds: AwsRds, source: Instance) -> None:
    rds.set_tags(source.database.arn, {"a": "1"})
    rds.remove_tags(source.database.arn, ["team"])

    tags = live(rds, "orders").tags
    assert ("1", False) == (tags["a"], "team" in tags)


# -- what moto does not know, by RDS's own model --


@pytest.mark.parametrize("kind, name", {"cluster": "db-cluster-id", "db": "db-instance-id"}.items())
def test_asks_for_the_maintenance_of_one_database(rds: AwsRds, kind: str, name: str) -> None:
    """By the filter of an instance RDS finds no cluster, and nothing pending."""
    arn = f"arn:aws:rds:eu-central-1:123456789012:{kind}:orders"
    found = {"ResourceIdentifier": arn, "PendingMaintenanceActionDetails": [{"Action": "system-update"}]}
    with Refusing() as stub:
        stub.add_response(
            "describe_pending_maintenance_actions",
            {"PendingMaintenanceActions": [found]},
            {"Filters": [{"Name": name, "Values": [arn]}]},
        )
        assert ["system-update"] == rds.pending_maintenance(arn)


def test_reads_quotas_maintenance_proxies_integrations_and_subscriptions(rds: AwsRds, source: Instance) -> None:
    arn = source.database.arn
    with Refusing() as stub:
        stub.add_response(
            "describe_account_attributes",
            {"AccountQuotas": [{"AccountQuotaName": "DBInstances", "Used": 39, "Max": 40}]},
        )
        assert {"DBInstances": (39, 40)} == rds.account_quotas()
        details = [{"Action": "system-update", "Description": "a new one"}]
        stub.add_response(
            "describe_pending_maintenance_actions",
            {
                "PendingMaintenanceActions": [
                    {"ResourceIdentifier": arn, "PendingMaintenanceActionDetails": details},
                    {"ResourceIdentifier": arn + "2", "PendingMaintenanceActionDetails": details},
                ]
            },
        )
        assert ["system-update: a new one"] == rds.pending_maintenance(arn)
        stub.add_response("describe_db_proxies", {"DBProxies": [{"DBProxyName": "a"}, {"DBProxyName": "b"}]})
        stub.add_response("describe_db_proxy_targets", {"Targets": [{"RdsResourceId": "others"}]})
        stub.add_response("describe_db_proxy_targets", {"Targets": [{"RdsResourceId": "orders"}]})
        assert ["b"] == rds.proxies_of("orders")
        integrations = [
            {"IntegrationName": name, "SourceArn": read} for name, read in (("warehouse", arn), ("others", arn + "2"))
        ]
        stub.add_response("describe_integrations", {"Integrations": integrations})
        assert ["warehouse"] == rds.integrations_of(arn)
        subscriptions = [
            {"CustSubscriptionId": "ops", "SourceIdsList": ["orders"]},
            {"CustSubscriptionId": "all"},
        ]
        stub.add_response("describe_event_subscriptions", {"EventSubscriptionsList": subscriptions})
        assert ["ops"] == rds.event_subscriptions_of("orders")
