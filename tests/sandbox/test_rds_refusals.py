"""Where AWS refuses, the sandbox refuses, with AWS's wire code. A permissive one would bless wrong code."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import pytest
from botocore.exceptions import ClientError

from sandbox.rds import storage
from sandbox.rds.errors import RdsError
from sandbox.rds.wire import page
from tests.sandbox.rds_sandbox import PASSWORD, Sandbox, code_of, eventually

REPLICA = "create_db_instance_read_replica"
WANTED: dict[str, Any] = {
    "DBInstanceIdentifier": "x", "DBInstanceClass": "db.m7g.large", "Engine": "postgres", "AllocatedStorage": 20,
    "MasterUsername": "dba", "MasterUserPassword": PASSWORD,
}  # fmt: skip


@pytest.fixture(scope="module")
def plain(sandbox: Sandbox) -> str:
    """A database that is not encrypted."""
    sandbox.create("plain")
    return "plain"


@pytest.fixture(scope="module")
def secret(sandbox: Sandbox) -> str:
    """An encrypted database."""
    sandbox.create("secret", StorageEncrypted=True, KmsKeyId=sandbox.key())
    return "secret"


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"DBInstanceIdentifier": "PLAIN"}, "DBInstanceAlreadyExists"),
        ({"DBInstanceIdentifier": "two--hyphens"}, "InvalidParameterValue"),
        ({"Engine": "oracle-ee"}, "InvalidParameterValue"),
        ({"EngineVersion": "9.6"}, "InvalidParameterCombination"),
        ({"MasterUserPassword": "short"}, "InvalidParameterValue"),
        ({"MasterUserPassword": "with/slash/es"}, "InvalidParameterValue"),
        ({"MasterUsername": "rdsadmin"}, "InvalidParameterValue"),
        ({"AllocatedStorage": 5}, "InvalidParameterValue"),
        ({"MaxAllocatedStorage": 20}, "InvalidParameterCombination"),
        ({"MaxAllocatedStorage": 21}, "InvalidParameterCombination"),
        ({"BackupRetentionPeriod": 36}, "InvalidParameterValue"),
        ({"VpcSecurityGroupIds": ["sg-0123456789abcdef0"]}, "InvalidParameterValue"),
        ({"DBSubnetGroupName": "nowhere"}, "DBSubnetGroupNotFoundFault"),
        ({"DBParameterGroupName": "nowhere"}, "DBParameterGroupNotFound"),
        ({"OptionGroupName": "nowhere"}, "OptionGroupNotFoundFault"),
        ({"MonitoringInterval": 60}, "InvalidParameterCombination"),
        ({"KmsKeyId": "alias/aws/rds"}, "InvalidParameterCombination"),
        ({"StorageEncrypted": True, "KmsKeyId": "alias/nowhere"}, "KMSKeyNotAccessibleFault"),
        ({"Tags": [{"Key": "aws:x", "Value": "y"}]}, "InvalidParameterValue"),
    ],
)
def test_create(sandbox: Sandbox, plain: str, changes: dict[str, Any], code: str) -> None:
    assert code_of(sandbox.rds.create_db_instance, **{**WANTED, **changes}) == code


def test_unknown_things(sandbox: Sandbox) -> None:
    rds = sandbox.rds
    assert code_of(rds.describe_db_instances, DBInstanceIdentifier="no") == "DBInstanceNotFound"
    assert code_of(rds.modify_db_instance, DBInstanceIdentifier="no") == "DBInstanceNotFound"
    assert code_of(rds.promote_read_replica, DBInstanceIdentifier="no") == "DBInstanceNotFound"
    assert code_of(rds.delete_db_instance, DBInstanceIdentifier="no", SkipFinalSnapshot=True) == "DBInstanceNotFound"
    assert code_of(rds.describe_db_snapshots, DBSnapshotIdentifier="no") == "DBSnapshotNotFound"
    assert code_of(rds.delete_db_snapshot, DBSnapshotIdentifier="no") == "DBSnapshotNotFound"
    colour = [{"Name": "colour", "Values": ["blue"]}]
    assert code_of(rds.describe_db_instances, Filters=colour) == "InvalidParameterValue"
    tagging = {"ResourceName": "arn:aws:rds:eu-central-1:123456789012:db:no", "Tags": [{"Key": "a", "Value": "b"}]}
    assert code_of(rds.add_tags_to_resource, **tagging) == "DBInstanceNotFound"
    assert code_of(rds.describe_db_parameter_groups, DBParameterGroupName="no") == "DBParameterGroupNotFound"


def test_no_key_for_the_replica_of_an_unencrypted_source(sandbox: Sandbox, plain: str) -> None:
    refused = code_of(
        sandbox.rds.create_db_instance_read_replica,
        DBInstanceIdentifier="r", SourceDBInstanceIdentifier=plain, KmsKeyId=sandbox.key(),
    )  # fmt: skip
    assert refused == "InvalidParameterCombination"


def test_no_replica_without_backups(sandbox: Sandbox) -> None:
    sandbox.create("careless", BackupRetentionPeriod=0)
    refused = code_of(
        sandbox.rds.create_db_instance_read_replica, DBInstanceIdentifier="r", SourceDBInstanceIdentifier="careless"
    )
    assert refused == "InvalidDBInstanceState"


@pytest.mark.parametrize(
    ("operation", "arguments"),
    [
        ("restore_db_instance_to_point_in_time", {"TargetDBInstanceIdentifier": "b"}),
    ],
)
def test_what_the_sandbox_does_not_have_is_refused_by_name(
    sandbox: Sandbox, operation: str, arguments: dict[str, Any]
) -> None:
    assert code_of(getattr(sandbox.rds, operation), **arguments) == "InvalidAction"


def test_a_primary_cannot_be_promoted(sandbox: Sandbox, plain: str) -> None:
    assert code_of(sandbox.rds.promote_read_replica, DBInstanceIdentifier=plain) == "InvalidDBInstanceState"


def test_a_replica_has_no_final_snapshot_and_its_source_keeps_its_backups(sandbox: Sandbox) -> None:
    sandbox.create("origin")
    sandbox.replica("origin", "origin-r")
    refused = code_of(
        sandbox.rds.delete_db_instance, DBInstanceIdentifier="origin-r", FinalDBSnapshotIdentifier="final"
    )
    assert refused == "InvalidParameterCombination"
    off = {"DBInstanceIdentifier": "origin", "BackupRetentionPeriod": 0, "ApplyImmediately": True}
    assert code_of(sandbox.rds.modify_db_instance, **off) == "InvalidParameterCombination"
    assert code_of(sandbox.rds.stop_db_instance, DBInstanceIdentifier="origin") == "InvalidDBInstanceState"
    sandbox.rds.delete_db_instance(DBInstanceIdentifier="origin-r", SkipFinalSnapshot=True)
    sandbox.gone("origin-r")
    assert sandbox.describe("origin")["ReadReplicaDBInstanceIdentifiers"] == []


def test_a_replica_has_the_parameter_group_of_its_source(sandbox: Sandbox, secret: str) -> None:
    group = sandbox.describe(secret)["DBParameterGroups"][0]["DBParameterGroupName"]

    with pytest.raises(ClientError, match=r"can't be specified during Read Replica .* engine: postgres"):
        sandbox.rds.create_db_instance_read_replica(
            DBInstanceIdentifier="r", SourceDBInstanceIdentifier=secret, DBParameterGroupName=group
        )


def test_a_limit_of_storage_leaves_room_above_it(sandbox: Sandbox, secret: str) -> None:
    """Where there is one it is kept; one that is what there is already switches autoscaling off."""
    replica = {"DBInstanceIdentifier": "r", "SourceDBInstanceIdentifier": secret}
    modify = sandbox.rds.modify_db_instance
    for ask, named in (
        (sandbox.rds.create_db_instance_read_replica, replica),
        (modify, {"DBInstanceIdentifier": secret}),
    ):
        with pytest.raises(ClientError, match="must be increased by at least 10 percent"):
            ask(**named, MaxAllocatedStorage=21)

    modify(DBInstanceIdentifier=secret, MaxAllocatedStorage=22)
    assert sandbox.describe(secret)["MaxAllocatedStorage"] == 22
    modify(DBInstanceIdentifier=secret, MaxAllocatedStorage=20)
    assert "MaxAllocatedStorage" not in sandbox.describe(secret)


def test_the_advanced_mode_is_asked_for_afterwards_and_with_performance_insights(sandbox: Sandbox, secret: str) -> None:
    advanced, modify = {"DatabaseInsightsMode": "advanced"}, sandbox.rds.modify_db_instance
    for ask, wanted in (
        (
            sandbox.rds.create_db_instance_read_replica,
            {"DBInstanceIdentifier": "r", "SourceDBInstanceIdentifier": secret},
        ),
        (modify, {"DBInstanceIdentifier": secret}),
        (modify, {"DBInstanceIdentifier": secret, "EnablePerformanceInsights": True}),
    ):
        assert code_of(ask, **wanted, **advanced) == "InvalidParameterCombination"


@pytest.mark.parametrize(
    ("engine", "size", "performance", "is_taken"),
    [
        ("postgres", 399, {"Iops": 12000}, False),
        ("postgres", 399, {"StorageThroughput": 500}, False),
        ("postgres", 400, {"Iops": 12000, "StorageThroughput": 500}, True),
        ("oracle-se2", 199, {"Iops": 12000}, False),
        ("oracle-se2", 200, {"Iops": 12000}, True),
        ("sqlserver-se", 20, {"Iops": 4000}, True),
    ],
)
def test_small_storage_has_a_baseline_by_engine(
    engine: str, size: int, performance: dict[str, int], is_taken: bool
) -> None:
    settings = {"Engine": engine, "StorageType": "gp3", "AllocatedStorage": size}
    if is_taken:
        storage.check(performance, settings)
    else:
        with pytest.raises(RdsError, match=f"for engine {engine} and a storage size less than {size + 1}"):
            storage.check(performance, settings)


def test_size_and_iops_change_together_where_iops_can_be_chosen(sandbox: Sandbox) -> None:
    of, modify = {"DBInstanceIdentifier": "fast", "ApplyImmediately": True}, sandbox.rds.modify_db_instance
    made = sandbox.create("fast", AllocatedStorage=390)
    assert (made["Iops"], made["StorageThroughput"]) == (3000, 125)
    modify(**of, AllocatedStorage=430)
    eventually(lambda: sandbox.available("fast")["AllocatedStorage"] == 430, "its size")
    assert (sandbox.describe("fast")["Iops"], sandbox.describe("fast")["StorageThroughput"]) == (12000, 500)
    for alone in {"AllocatedStorage": 500}, {"Iops": 13000}, {"StorageThroughput": 600}:
        with pytest.raises(ClientError, match="You must specify both the storage size and iops"):
            modify(**of, **alone)

    modify(**of, AllocatedStorage=430, Iops=13000)
    eventually(lambda: sandbox.available("fast")["Iops"] == 13000, "its IOPS")


def test_keys_must_be_usable(sandbox: Sandbox, secret: str) -> None:
    """Disabled, pending deletion, unknown and of another kind look the same from outside."""
    kms = sandbox.kms
    disabled, pending = sandbox.key(), sandbox.key()
    kms.disable_key(KeyId=disabled)
    kms.schedule_key_deletion(KeyId=pending)
    signing = kms.create_key(KeyUsage="SIGN_VERIFY", KeySpec="RSA_2048")["KeyMetadata"]["Arn"]
    unknown = "arn:aws:kms:eu-central-1:123456789012:key/00000000-0000-4000-8000-000000000000"
    for key in (disabled, pending, signing, unknown):
        refused = code_of(
            sandbox.rds.create_db_instance_read_replica,
            DBInstanceIdentifier="r", SourceDBInstanceIdentifier=secret, KmsKeyId=key,
        )  # fmt: skip
        assert refused == "KMSKeyNotAccessibleFault", key


def test_a_key_made_a_moment_ago_is_not_known_everywhere(sandbox: Sandbox) -> None:
    """KMS is eventually consistent: the first use of a new key may fail and be right to be tried again."""
    key = sandbox.kms.create_key()["KeyMetadata"]["Arn"]
    changes = {**WANTED, "DBInstanceIdentifier": "early", "StorageEncrypted": True, "KmsKeyId": key}
    assert code_of(sandbox.rds.create_db_instance, **changes) == "KMSKeyNotAccessibleFault"
    sandbox.rds.create_db_instance(**changes)
    older = sandbox.kms.create_key()["KeyMetadata"]["Arn"]
    time.sleep(1.1)
    sandbox.rds.create_db_instance(**{**changes, "DBInstanceIdentifier": "patient", "KmsKeyId": older})
    sandbox.available("early")
    sandbox.available("patient")


def test_the_caller_needs_rights_on_the_key(sandbox: Sandbox, secret: str) -> None:
    """RDS asks KMS in the caller's name; it does not say that this is why it refuses."""
    key = sandbox.key()
    call = {"DBInstanceIdentifier": "r", "SourceDBInstanceIdentifier": secret, "KmsKeyId": key}
    for missing in ("kms:CreateGrant", "kms:DescribeKey"):
        sandbox.do("deny", actions=[missing])
        try:
            assert code_of(getattr(sandbox.rds, REPLICA), **call) == "KMSKeyNotAccessibleFault", missing
        finally:
            sandbox.do("deny", actions=[])
    context = next(a[2] for a in sandbox.do("asked") if a[0] == "kms:CreateGrant" and a[1] == key)
    assert '"kms:GrantIsForAWSResource": "true"' in context
    assert '"kms:ViaService": "rds.eu-central-1.amazonaws.com"' in context


def test_an_encrypted_instance_without_a_key_gets_the_one_of_aws(sandbox: Sandbox) -> None:
    instance = sandbox.create("shared", StorageEncrypted=True)
    metadata = sandbox.kms.describe_key(KeyId="alias/aws/rds")["KeyMetadata"]
    assert (instance["KmsKeyId"], metadata["KeyManager"]) == (metadata["Arn"], "AWS")


def test_no_promotion_during_the_daily_backup(sandbox: Sandbox) -> None:
    """The window comes round every day; a cutover must not begin shortly before it."""
    sandbox.create("daily")
    sandbox.replica("daily", "daily-r")
    now = time.gmtime(sandbox.do("time"))
    minute = now.tm_hour * 60 + now.tm_min + 60
    start = f"{minute // 60 % 24:02}:{minute % 60:02}"
    end = f"{(minute + 30) // 60 % 24:02}:{(minute + 30) % 60:02}"
    sandbox.rds.modify_db_instance(
        DBInstanceIdentifier="daily-r", BackupRetentionPeriod=7, PreferredBackupWindow=f"{start}-{end}",
        PreferredMaintenanceWindow="sun:{0:02}:00-sun:{0:02}:30".format((now.tm_hour + 12) % 24),
        ApplyImmediately=True,
    )  # fmt: skip
    eventually(lambda: "LatestRestorableTime" in sandbox.available("daily-r"), "the first backup is done")
    sandbox.jump(minutes=61)

    assert sandbox.describe("daily-r")["DBInstanceStatus"] == "backing-up"
    assert code_of(sandbox.rds.promote_read_replica, DBInstanceIdentifier="daily-r") == "InvalidDBInstanceState"
    sandbox.jump(minutes=10)
    sandbox.available("daily-r")

    def automated() -> int:
        listed = sandbox.rds.describe_db_snapshots(DBInstanceIdentifier="daily-r", SnapshotType="automated")
        return len(listed["DBSnapshots"])

    eventually(lambda: automated() == 2, "the day's snapshot")
    sandbox.rds.promote_read_replica(DBInstanceIdentifier="daily-r", BackupRetentionPeriod=7)
    eventually(lambda: "ReadReplicaSourceDBInstanceIdentifier" not in sandbox.describe("daily-r"), "promoted")
    # Backups were on before: the retention goes on, and no first backup delays anybody.
    assert sandbox.available("daily-r")["BackupRetentionPeriod"] == 7


def test_snapshots_in_the_making_cannot_be_used(sandbox: Sandbox, plain: str) -> None:
    rds = sandbox.rds
    sandbox.do("execution", running=True)
    try:
        # An execution runs, so operations take their virtual time. Its daily backup may have begun, by the clock.
        sandbox.available(plain)
        rds.create_db_snapshot(DBInstanceIdentifier=plain, DBSnapshotIdentifier="half")
        use = {"SourceDBSnapshotIdentifier": "half", "TargetDBSnapshotIdentifier": "copy"}
        assert code_of(rds.copy_db_snapshot, **use) == "InvalidDBSnapshotState"
        restore = {"DBInstanceIdentifier": "r", "DBSnapshotIdentifier": "half"}
        assert code_of(rds.restore_db_instance_from_db_snapshot, **restore) == "InvalidDBSnapshotState"
        again = {"DBInstanceIdentifier": plain, "DBSnapshotIdentifier": "half"}
        assert code_of(rds.create_db_snapshot, **again) == "DBSnapshotAlreadyExists"
    finally:
        sandbox.do("execution", running=False)
    sandbox.snapshot_available("half")
    # The copy fails when its source goes before it is complete.
    sandbox.do("execution", running=True)
    try:
        rds.copy_db_snapshot(**use)
        rds.delete_db_snapshot(DBSnapshotIdentifier="half")
    finally:
        sandbox.do("execution", running=False)
    eventually(
        lambda: rds.describe_db_snapshots(DBSnapshotIdentifier="copy")["DBSnapshots"][0]["Status"] == "failed", "failed"
    )
    sandbox.available(plain)


def test_quotas(sandbox: Sandbox) -> None:
    quotas = {q["AccountQuotaName"]: q for q in sandbox.rds.describe_account_attributes()["AccountQuotas"]}
    assert quotas["DBInstances"]["Max"] == 40
    assert quotas["DBInstances"]["Used"] == len(sandbox.rds.describe_db_instances()["DBInstances"])


@pytest.mark.parametrize(
    ("operation", "member"),
    [
        ("describe_pending_maintenance_actions", "PendingMaintenanceActions"),
        ("describe_integrations", "Integrations"),
        ("describe_tenant_databases", "TenantDatabases"), ("describe_export_tasks", "ExportTasks"),
        ("describe_db_proxies", "DBProxies"), ("describe_event_subscriptions", "EventSubscriptionsList"),
        ("describe_blue_green_deployments", "BlueGreenDeployments"), ("describe_db_clusters", "DBClusters"),
        ("describe_db_cluster_snapshots", "DBClusterSnapshots"),
        ("describe_db_cluster_automated_backups", "DBClusterAutomatedBackups"),
    ],
)  # fmt: skip
def test_whoever_lists_the_users_of_a_key_gets_an_answer(sandbox: Sandbox, operation: str, member: str) -> None:
    assert getattr(sandbox.rds, operation)()[member] == []


def test_an_account_with_many_instances_is_described_in_pages() -> None:
    """A rotation that reads one page only would miss whoever uses a key on the second."""
    views = [{"DBInstanceIdentifier": str(number)} for number in range(45)]
    seen: list[Any] = []
    marker = None
    while marker is not None or not seen:
        params = {"MaxRecords": 20} | ({"Marker": marker} if marker else {})
        answer = page(SimpleNamespace(params=params), "DBInstances", views).result
        seen += answer["DBInstances"]
        marker = answer.get("Marker")

    assert seen == views
    assert len(page(SimpleNamespace(params={}), "DBInstances", views).result["DBInstances"]) == 45
    with pytest.raises(RdsError, match="MaxRecords"):
        page(SimpleNamespace(params={"MaxRecords": 5}), "DBInstances", views)
