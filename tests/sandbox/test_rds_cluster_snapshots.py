"""Snapshots and automated backups of clusters: real data under a key, and a restore that keeps little else."""

from __future__ import annotations

from typing import Any

import pytest

from tests.sandbox.rds_sandbox import Sandbox, code_of, eventually

INVALID_STATE = "InvalidDBClusterSnapshotStateFault"
UNUSABLE = "KMSKeyNotAccessibleFault"


@pytest.fixture(scope="module")
def old(sandbox: Sandbox) -> str:
    return sandbox.key()


@pytest.fixture(scope="module")
def books(sandbox: Sandbox, old: str) -> str:
    """A cluster of one instance, with a table, and a snapshot of it named ``books-s``."""
    sandbox.rds.create_db_cluster_parameter_group(
        DBClusterParameterGroupName="strict", DBParameterGroupFamily="aurora-postgresql16", Description="x"
    )
    sandbox.create_cluster(
        "books", StorageEncrypted=True, KmsKeyId=old, EngineVersion="16.13", CopyTagsToSnapshot=True, Port=6432,
        Tags=[{"Key": "a", "Value": "1"}], DBClusterParameterGroupName="strict", BackupRetentionPeriod=9,
        EnableIAMDatabaseAuthentication=True, EnableCloudwatchLogsExports=["postgresql"], DeletionProtection=True,
        ServerlessV2ScalingConfiguration={"MinCapacity": 1, "MaxCapacity": 2},
    )  # fmt: skip
    sandbox.add_member("books", "books-1")
    with sandbox.session_at(sandbox.cluster("books")["Endpoint"], 6432) as sql:
        sql.run("CREATE TABLE t AS SELECT 42 AS x")
    sandbox.rds.create_db_cluster_snapshot(DBClusterIdentifier="books", DBClusterSnapshotIdentifier="books-s")
    assert sandbox.cluster("books")["Status"] == "backing-up"
    sandbox.cluster_snapshot_available("books-s")
    sandbox.cluster_available("books")
    return "books"


def look(sandbox: Sandbox, name: str) -> dict[str, Any]:
    found = sandbox.rds.describe_db_cluster_snapshots(DBClusterSnapshotIdentifier=name)["DBClusterSnapshots"]
    return dict(found[0])


def restore(**changes: Any) -> dict[str, Any]:
    wanted = {"DBClusterIdentifier": "back", "SnapshotIdentifier": "books-s", "Engine": "aurora-postgresql"}
    return wanted | changes


def test_a_restore_under_another_key_has_the_data_and_no_instance(sandbox: Sandbox, books: str, old: str) -> None:
    new = sandbox.key()

    sandbox.rds.restore_db_cluster_from_snapshot(**restore(KmsKeyId=new, EngineVersion="16.13"))

    back = sandbox.cluster_available("back")
    assert (back["KmsKeyId"], back["EngineVersion"], back["DBClusterMembers"]) == (new, "16.13", [])
    assert look(sandbox, "books-s")["KmsKeyId"] == old
    sandbox.add_member("back", "back-1", DBInstanceClass="db.t4g.medium")
    with sandbox.session_at(back["Endpoint"], 6432) as sql:
        assert sql.run("SELECT x FROM t") == [[42]]
        sql.run("INSERT INTO t VALUES (43)")


def test_what_a_restore_does_not_name_it_loses(sandbox: Sandbox, books: str, old: str) -> None:
    """Whoever names no version gets another one, and whoever names nothing opens the default security group."""
    sandbox.rds.restore_db_cluster_from_snapshot(**restore(DBClusterIdentifier="careless"))

    careless, before = sandbox.cluster_available("careless"), sandbox.cluster(books)
    assert (careless["KmsKeyId"], careless["EngineVersion"]) == (old, "16.14")
    assert careless["DBClusterParameterGroup"] == "default.aurora-postgresql16"
    for member, default in {
        "DeletionProtection": False, "IAMDatabaseAuthenticationEnabled": False, "CopyTagsToSnapshot": False,
        "EnabledCloudwatchLogsExports": [], "TagList": [],
    }.items():  # fmt: skip
        assert careless[member] == default != before[member], member
    assert "ServerlessV2ScalingConfiguration" not in careless
    for member in ("BackupRetentionPeriod", "Port", "MasterUsername"):
        assert careless[member] == before[member], member


def test_an_instance_is_in_a_zone_of_its_cluster_which_a_restore_need_not_keep(sandbox: Sandbox, books: str) -> None:
    """Aurora has copies of the storage in three zones of the Region, and no instance anywhere else."""
    zones, (made,) = sandbox.cluster(books)["AvailabilityZones"], sandbox.cluster(books)["DBClusterMembers"]
    there = sandbox.describe(made["DBInstanceIdentifier"])["AvailabilityZone"]
    sandbox.rds.restore_db_cluster_from_snapshot(**restore(DBClusterIdentifier="moved"))
    sandbox.rds.restore_db_cluster_from_snapshot(**restore(DBClusterIdentifier="stayed", AvailabilityZones=zones))

    assert there in zones == sandbox.cluster_available("stayed")["AvailabilityZones"]
    assert there not in sandbox.cluster_available("moved")["AvailabilityZones"]
    member = {"Engine": "aurora-postgresql", "DBInstanceClass": "db.t4g.medium", "AvailabilityZone": there}
    in_moved = {**member, "DBClusterIdentifier": "moved", "DBInstanceIdentifier": "moved-1"}
    assert code_of(sandbox.rds.create_db_instance, **in_moved) == "InvalidParameterCombination"
    sandbox.add_member("stayed", "stayed-1", AvailabilityZone=there)
    elsewhere = restore(DBClusterIdentifier="nowhere", AvailabilityZones=["eu-central-1z"])
    assert code_of(sandbox.rds.restore_db_cluster_from_snapshot, **elsewhere) == "InvalidVPCNetworkStateFault"


def test_a_copy_may_have_another_key_and_one_that_is_not_encrypted_may_not(sandbox: Sandbox, books: str) -> None:
    new, copy = sandbox.key(), sandbox.rds.copy_db_cluster_snapshot
    source = {"SourceDBClusterSnapshotIdentifier": "books-s", "TargetDBClusterSnapshotIdentifier": "books-c"}
    copy(**source, KmsKeyId=new, CopyTags=True)
    copied = sandbox.cluster_snapshot_available("books-c")
    assert (copied["KmsKeyId"], copied["StorageEncrypted"], copied["TagList"]) == (
        new,
        True,
        [{"Key": "a", "Value": "1"}],
    )
    assert copied["SourceDBClusterSnapshotArn"] == look(sandbox, "books-s")["DBClusterSnapshotArn"]
    assert code_of(copy, **source) == "DBClusterSnapshotAlreadyExistsFault"

    sandbox.create_cluster("plain")
    take = {"DBClusterIdentifier": "plain", "DBClusterSnapshotIdentifier": "plain-s"}
    assert code_of(sandbox.rds.create_db_cluster_snapshot, **take) == "InvalidDBClusterStateFault", "it is empty"
    sandbox.add_member("plain", "plain-1")
    sandbox.rds.create_db_cluster_snapshot(**take)
    assert look(sandbox, "plain-s")["StorageEncryptionType"] == "sse-rds"
    plain = {"SourceDBClusterSnapshotIdentifier": "plain-s", "TargetDBClusterSnapshotIdentifier": "plain-c"}
    sandbox.cluster_snapshot_available("plain-s")
    assert code_of(copy, **plain, KmsKeyId=new) == "InvalidParameterCombination"
    encrypted = restore(DBClusterIdentifier="sealed", SnapshotIdentifier="plain-s", KmsKeyId=new)
    sandbox.rds.restore_db_cluster_from_snapshot(**encrypted)
    assert sandbox.cluster_available("sealed")["KmsKeyId"] == new


def test_refusals(sandbox: Sandbox, books: str, old: str) -> None:
    rds, snapshot = sandbox.rds, {"DBClusterSnapshotIdentifier": "no"}
    assert code_of(rds.describe_db_cluster_snapshots, **snapshot) == "DBClusterSnapshotNotFoundFault"
    assert code_of(rds.delete_db_cluster_snapshot, **snapshot) == "DBClusterSnapshotNotFoundFault"
    again = rds.restore_db_cluster_from_snapshot
    assert (
        code_of(again, **restore(DBClusterIdentifier="x", SnapshotIdentifier="no")) == "DBClusterSnapshotNotFoundFault"
    )
    assert code_of(again, **restore(DBClusterIdentifier="books")) == "DBClusterAlreadyExistsFault"
    assert code_of(again, **restore(DBClusterIdentifier="x", Engine="aurora-mysql")) == "InvalidParameterCombination"
    assert code_of(again, **restore(DBClusterIdentifier="x", KmsKeyId="alias/nowhere")) == UNUSABLE
    sandbox.do("deny", actions=["kms:CreateGrant"])
    assert code_of(again, **restore(DBClusterIdentifier="x", KmsKeyId=old)) == UNUSABLE
    sandbox.do("deny", actions=[])
    [automated] = rds.describe_db_cluster_snapshots(DBClusterIdentifier="books", SnapshotType="automated")[
        "DBClusterSnapshots"
    ]
    name = {"DBClusterSnapshotIdentifier": automated["DBClusterSnapshotIdentifier"]}
    assert code_of(rds.delete_db_cluster_snapshot, **name) == INVALID_STATE
    assert rds.list_tags_for_resource(ResourceName=automated["DBClusterSnapshotArn"])["TagList"] != []


def test_a_final_snapshot_and_retained_backups_outlive_the_cluster_for_a_time(sandbox: Sandbox) -> None:
    """Each of them is a use of the key that a rotation has to find, and that ends by itself or not."""
    key, rds = sandbox.key(), sandbox.rds
    cluster = sandbox.create_cluster("brief", StorageEncrypted=True, KmsKeyId=key, BackupRetentionPeriod=2)
    sandbox.add_member("brief", "brief-1")
    rds.delete_db_instance(DBInstanceIdentifier="brief-1")
    sandbox.gone("brief-1")
    rds.delete_db_cluster(
        DBClusterIdentifier="brief", FinalDBSnapshotIdentifier="brief-final", DeleteAutomatedBackups=False
    )
    sandbox.cluster_gone("brief")
    of = {"DbClusterResourceId": cluster["DbClusterResourceId"]}

    def backups() -> list[tuple[str, str]]:
        found = rds.describe_db_cluster_automated_backups(**of)["DBClusterAutomatedBackups"]
        return [(backup["Status"], backup["KmsKeyId"]) for backup in found]

    def snapshots() -> list[tuple[str, str]]:
        found = rds.describe_db_cluster_snapshots(**of)["DBClusterSnapshots"]
        return sorted((snapshot["SnapshotType"], snapshot["KmsKeyId"]) for snapshot in found)

    assert backups() == [("retained", key)]
    assert snapshots() == [("automated", key), ("manual", key)]

    sandbox.jump(days=3)

    eventually(lambda: backups() == [], "the backups have expired")
    assert snapshots() == [("manual", key)]
    sandbox.rds.restore_db_cluster_from_snapshot(
        **restore(DBClusterIdentifier="brief", SnapshotIdentifier="brief-final")
    )
    sandbox.cluster_available("brief")
    rds.delete_db_cluster_snapshot(DBClusterSnapshotIdentifier="brief-final")
    assert snapshots() == []


def test_there_is_a_snapshot_a_day(sandbox: Sandbox, books: str) -> None:
    sandbox.jump(days=3)

    def automated() -> int:
        listed = sandbox.rds.describe_db_cluster_snapshots(DBClusterIdentifier=books, SnapshotType="automated")
        return len(listed["DBClusterSnapshots"])

    eventually(lambda: automated() >= 3, "there are some")
    [backup] = sandbox.rds.describe_db_cluster_automated_backups(DBClusterIdentifier=books)["DBClusterAutomatedBackups"]
    assert backup["Status"] == "active"
    assert backup["RestoreWindow"]["EarliestTime"] < backup["RestoreWindow"]["LatestTime"]
