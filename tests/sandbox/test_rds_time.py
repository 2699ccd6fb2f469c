"""States take time, on the sandbox's clock: what a state machine waits for must be something to wait for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pg8000
import pytest

from tests.sandbox.rds_sandbox import Sandbox, code_of, eventually, running


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with running() as sandbox:
        yield sandbox


def reachable(sandbox: Sandbox, instance: dict[str, Any]) -> bool:
    try:
        with sandbox.session(instance):
            return True
    except pg8000.exceptions.InterfaceError:
        return False


def test_operations_take_virtual_minutes_while_an_execution_runs(sandbox: Sandbox) -> None:
    """Ten minutes for a replica, and the storage after it; in real time, seconds.

    No less; how much more this sees is a matter of how often it looks while the clock jumps.
    """
    sandbox.create("orders")
    sandbox.do("execution", running=True)
    began = sandbox.do("time")
    sandbox.rds.create_db_instance_read_replica(DBInstanceIdentifier="r", SourceDBInstanceIdentifier="orders")
    seen = set()

    def available() -> bool:
        replica = sandbox.describe("r")
        seen.add((replica["DBInstanceStatus"], "Endpoint" in replica))
        return bool(replica["DBInstanceStatus"] == "available")

    eventually(available, "the replica is there")
    assert 12 * 60 <= sandbox.do("time") - began
    assert ("creating", False) in seen
    assert ("storage-initialization", True) in seen

    # Promotion takes real time: between the fence and the release the clock does not jump.
    began = sandbox.do("time")
    sandbox.rds.modify_db_instance(DBInstanceIdentifier="r", BackupRetentionPeriod=3, ApplyImmediately=True)
    eventually(lambda: "LatestRestorableTime" in sandbox.available("r"), "backed up")
    assert sandbox.do("time") - began >= 4 * 60
    began = sandbox.do("time")
    sandbox.rds.promote_read_replica(DBInstanceIdentifier="r", BackupRetentionPeriod=3)
    eventually(lambda: "ReadReplicaSourceDBInstanceIdentifier" not in sandbox.describe("r"), "promoted")
    # The execution of this test looks at the clock every ten virtual seconds.
    assert sandbox.do("time") - began < 30
    sandbox.do("execution", running=False)


def test_retained_backups_expire(sandbox: Sandbox) -> None:
    """They hold the old key long after the database is gone."""
    key = sandbox.key()
    sandbox.create("orders", StorageEncrypted=True, KmsKeyId=key, BackupRetentionPeriod=5)
    backups = sandbox.rds.describe_db_instance_automated_backups
    (active,) = backups()["DBInstanceAutomatedBackups"]
    assert (active["Status"], active["KmsKeyId"]) == ("active", key)
    sandbox.rds.delete_db_instance(DBInstanceIdentifier="orders", SkipFinalSnapshot=True, DeleteAutomatedBackups=False)
    sandbox.gone("orders")
    (retained,) = backups(Filters=[{"Name": "status", "Values": ["retained"]}])["DBInstanceAutomatedBackups"]
    assert retained["DbiResourceId"] == active["DbiResourceId"]
    assert backups(Filters=[{"Name": "status", "Values": ["active"]}])["DBInstanceAutomatedBackups"] == []
    sandbox.jump(days=4)
    assert len(sandbox.kms.list_grants(KeyId=key)["Grants"]) == 1

    sandbox.jump(days=2)

    assert backups()["DBInstanceAutomatedBackups"] == []
    assert sandbox.rds.describe_db_snapshots(SnapshotType="automated")["DBSnapshots"] == []
    assert sandbox.kms.list_grants(KeyId=key)["Grants"] == []


def test_automated_snapshots_come_daily_and_expire(sandbox: Sandbox) -> None:
    sandbox.create("orders", BackupRetentionPeriod=3)
    sandbox.jump(days=6)

    def snapshots() -> list[str]:
        listed = sandbox.rds.describe_db_snapshots(DBInstanceIdentifier="orders", SnapshotType="automated")
        return [s["DBSnapshotIdentifier"] for s in listed["DBSnapshots"]]

    eventually(lambda: len(snapshots()) == 3, "three days' snapshots")
    newest = max(snapshots())
    assert code_of(sandbox.rds.delete_db_snapshot, DBSnapshotIdentifier=newest) == "InvalidDBSnapshotState"
    sandbox.rds.restore_db_instance_from_db_snapshot(DBInstanceIdentifier="back", DBSnapshotIdentifier=newest)
    with sandbox.session(sandbox.available("back")) as sql:
        assert sql.run("SELECT 1") == [[1]]


def test_a_database_without_its_key_becomes_inaccessible_and_may_come_back(sandbox: Sandbox) -> None:
    """What a key disabled too early does, and why replicas make it worse."""
    key = sandbox.key()
    lonely = sandbox.create("lonely", StorageEncrypted=True, KmsKeyId=key)
    sandbox.create("parent", StorageEncrypted=True, KmsKeyId=key)
    sandbox.replica("parent", "child")
    sandbox.kms.disable_key(KeyId=key)
    with sandbox.session(lonely) as sql:
        assert sql.run("SELECT 1") == [[1]]  # a running database does not notice at once
    sandbox.jump(hours=1)
    assert sandbox.describe("lonely")["DBInstanceStatus"] == "available"
    sandbox.jump(hours=2)

    recoverable = "inaccessible-encryption-credentials-recoverable"
    eventually(lambda: sandbox.describe("lonely")["DBInstanceStatus"] == recoverable, "stopped, with a way back")
    terminal = "inaccessible-encryption-credentials"
    eventually(lambda: sandbox.describe("parent")["DBInstanceStatus"] == terminal, "no way back")
    eventually(lambda: not reachable(sandbox, lonely), "it is stopped")
    assert code_of(sandbox.rds.start_db_instance, DBInstanceIdentifier="lonely") == "KMSKeyNotAccessibleFault"
    sandbox.kms.enable_key(KeyId=key)
    sandbox.rds.start_db_instance(DBInstanceIdentifier="lonely")
    with sandbox.session(sandbox.available("lonely")) as sql:
        assert sql.run("SELECT 1") == [[1]]


def test_deleting_in_the_middle_of_creating_leaves_nothing(sandbox: Sandbox) -> None:
    """A rollback does not wait for a replica that nobody wants any more."""
    sandbox.create("orders")
    sandbox.do("execution", running=True)
    sandbox.rds.create_db_instance_read_replica(DBInstanceIdentifier="r", SourceDBInstanceIdentifier="orders")
    sandbox.rds.delete_db_instance(DBInstanceIdentifier="r", SkipFinalSnapshot=True)
    sandbox.gone("r")
    sandbox.do("execution", running=False)
    assert sandbox.describe("orders")["ReadReplicaDBInstanceIdentifiers"] == []
    with sandbox.session(sandbox.describe("orders"), database="app") as sql:
        eventually(lambda: sql.run("SELECT count(*) FROM pg_replication_slots") == [[0]], "no slot is left")
    assert len(sandbox.do("pids")) == 1


def test_lag_can_be_made(sandbox: Sandbox) -> None:
    instance = sandbox.create("orders")
    replica = sandbox.replica("orders", "r")
    sandbox.do("pause_replay", name="r")
    with sandbox.session(instance) as source, sandbox.session(replica, database="postgres") as target:
        source.run("CREATE TABLE t AS SELECT 1 AS x")
        (position,) = source.run("SELECT pg_current_wal_flush_lsn()")[0]
        behind = f"SELECT pg_last_wal_replay_lsn() < '{position}'"
        assert target.run(behind) == [[True]]
        sandbox.do("resume_replay", name="r")
        eventually(lambda: target.run(behind) == [[False]], "it catches up")
