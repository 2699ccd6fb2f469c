"""Databases of the sandbox are real: what a client wrote is there after a promotion, a snapshot, a rename."""

from __future__ import annotations

import json
import socket
import threading
from types import SimpleNamespace
from typing import Any

import pg8000
import pytest

from sandbox.rds.backend import SandboxRds
from tests.sandbox.rds_sandbox import Sandbox, code_of, eventually


def test_an_encrypted_replica_under_another_key_becomes_a_primary_with_all_that_was_committed(sandbox: Sandbox) -> None:
    """The whole rotation rests on this."""
    old, new = sandbox.key(), sandbox.key()
    source = sandbox.create("orders", StorageEncrypted=True, KmsKeyId=old, Tags=[{"Key": "team", "Value": "a"}])
    with sandbox.session(source) as sql:
        sql.run("CREATE TABLE t (x int)")
        sql.run("INSERT INTO t VALUES (1)")
    replica = sandbox.replica("orders", "orders-rot", KmsKeyId=new)
    assert (replica["KmsKeyId"], replica["StorageEncrypted"]) == (new, True)
    assert replica["DbiResourceId"] != source["DbiResourceId"]
    assert replica["ReadReplicaSourceDBInstanceIdentifier"] == "orders"
    eventually(lambda: sandbox.describe("orders-rot")["StatusInfos"][0]["Status"] == "replicating", "it replicates")
    assert sandbox.describe("orders")["ReadReplicaDBInstanceIdentifiers"] == ["orders-rot"]
    with sandbox.session(replica) as sql:
        eventually(lambda: sql.run("SELECT x FROM t") == [[1]], "the row is on the replica")
        with pytest.raises(pg8000.exceptions.DatabaseError, match="25006"):
            sql.run("INSERT INTO t VALUES (2)")

    promoted = sandbox.rds.promote_read_replica(DBInstanceIdentifier="orders-rot")["DBInstance"]

    # What RDS does, and what makes hasty code believe that it is done.
    assert promoted["DBInstanceStatus"] == "available"
    # The answer may be lost and the call repeated: the second must neither succeed nor spoil the first.
    assert code_of(sandbox.rds.promote_read_replica, DBInstanceIdentifier="orders-rot") == "InvalidDBInstanceState"
    assert promoted["ReadReplicaSourceDBInstanceIdentifier"] == "orders"
    eventually(lambda: "ReadReplicaSourceDBInstanceIdentifier" not in sandbox.describe("orders-rot"), "on its own")
    target = sandbox.available("orders-rot")
    assert target.get("StatusInfos", []) == []
    assert target["BackupRetentionPeriod"] == 1
    assert sandbox.describe("orders")["ReadReplicaDBInstanceIdentifiers"] == []
    with sandbox.session(target) as sql:
        sql.run("INSERT INTO t VALUES (2)")
        assert sql.run("SELECT x FROM t ORDER BY x") == [[1], [2]]
    with sandbox.session(source) as sql:
        assert sql.run("SELECT x FROM t") == [[1]]
        assert sql.run("SELECT slot_name FROM pg_replication_slots") == []
    assert code_of(sandbox.rds.promote_read_replica, DBInstanceIdentifier="orders-rot") == "InvalidDBInstanceState"


def test_a_replica_forgets_what_nobody_said(sandbox: Sandbox) -> None:
    """RDS carries these over to no replica; code that relies on it must fail here, not in production."""
    group = sandbox.client("ec2").create_security_group(GroupName="app", Description="app")["GroupId"]
    key = sandbox.key()
    sandbox.create(
        "ledger", VpcSecurityGroupIds=[group], DeletionProtection=True, EnableIAMDatabaseAuthentication=True,
        BackupRetentionPeriod=7, MultiAZ=True, CopyTagsToSnapshot=True, EnableCloudwatchLogsExports=["postgresql"],
        EnablePerformanceInsights=True, PerformanceInsightsKMSKeyId=key, MaxAllocatedStorage=100,
        MonitoringInterval=60, MonitoringRoleArn="arn:aws:iam::123456789012:role/monitoring",
    )  # fmt: skip

    replica = sandbox.replica("ledger", "ledger-r")

    assert [g["VpcSecurityGroupId"] for g in replica["VpcSecurityGroups"]] != [group]
    for member, default in {
        "DeletionProtection": False, "IAMDatabaseAuthenticationEnabled": False, "BackupRetentionPeriod": 0,
        "MultiAZ": False, "CopyTagsToSnapshot": False, "EnabledCloudwatchLogsExports": [],
        "PerformanceInsightsEnabled": False, "MonitoringInterval": 0,
    }.items():  # fmt: skip
        assert replica[member] == default, member
    assert "MaxAllocatedStorage" not in replica
    sandbox.rds.modify_db_instance(DBInstanceIdentifier="ledger-r", EnablePerformanceInsights=True)
    insights = sandbox.available("ledger-r")["PerformanceInsightsKMSKeyId"]
    assert sandbox.kms.describe_key(KeyId=insights)["KeyMetadata"]["KeyManager"] == "AWS"


def test_a_snapshot_copied_under_another_key_restores_with_its_data(sandbox: Sandbox) -> None:
    old, new = sandbox.key(), sandbox.key()
    tags = [{"Key": "a", "Value": "1"}]
    sandbox.create("books", StorageEncrypted=True, KmsKeyId=old, CopyTagsToSnapshot=True, Tags=tags)
    with sandbox.session(sandbox.describe("books")) as sql:
        sql.run("CREATE TABLE t AS SELECT 42 AS x")
    sandbox.rds.create_db_snapshot(DBInstanceIdentifier="books", DBSnapshotIdentifier="books-s")
    assert sandbox.describe("books")["DBInstanceStatus"] == "backing-up"
    snapshot = sandbox.snapshot_available("books-s")
    assert (snapshot["KmsKeyId"], snapshot["TagList"]) == (old, tags)
    sandbox.rds.copy_db_snapshot(
        SourceDBSnapshotIdentifier="books-s", TargetDBSnapshotIdentifier="books-c", KmsKeyId=new, CopyTags=True
    )
    assert sandbox.snapshot_available("books-c")["KmsKeyId"] == new
    sandbox.rds.delete_db_snapshot(DBSnapshotIdentifier="books-s")
    sandbox.available("books")

    sandbox.rds.restore_db_instance_from_db_snapshot(DBInstanceIdentifier="books2", DBSnapshotIdentifier="books-c")

    restored = sandbox.available("books2")
    assert restored["KmsKeyId"] == new
    with sandbox.session(restored) as sql:
        assert sql.run("SELECT x FROM t") == [[42]]
        sql.run("INSERT INTO t VALUES (43)")


def test_what_a_restore_does_not_name_it_loses(sandbox: Sandbox) -> None:
    """Whoever restores a database and names nothing opens it to the default security group, with RDS's parameters."""
    key = sandbox.key()
    sandbox.rds.create_db_parameter_group(
        DBParameterGroupName="strict", DBParameterGroupFamily="postgres16", Description="of the customer"
    )
    sandbox.create(
        "careful", StorageEncrypted=True, KmsKeyId=key, DBParameterGroupName="strict", DeletionProtection=True,
        MultiAZ=True, EnableIAMDatabaseAuthentication=True, Port=6432, BackupRetentionPeriod=9,
        EnableCloudwatchLogsExports=["postgresql"], CopyTagsToSnapshot=True,
    )  # fmt: skip
    sandbox.rds.create_db_snapshot(DBInstanceIdentifier="careful", DBSnapshotIdentifier="careful-s")
    sandbox.snapshot_available("careful-s")
    bare = {"DBInstanceIdentifier": "careless", "DBSnapshotIdentifier": "careful-s"}
    taken = bare | {"DBInstanceIdentifier": "careful"}
    assert code_of(sandbox.rds.restore_db_instance_from_db_snapshot, **taken) == "DBInstanceAlreadyExists"
    sandbox.kms.disable_key(KeyId=key)
    assert code_of(sandbox.rds.restore_db_instance_from_db_snapshot, **bare) == "KMSKeyNotAccessibleFault"
    sandbox.kms.enable_key(KeyId=key)

    sandbox.rds.restore_db_instance_from_db_snapshot(**bare)

    restored = sandbox.available("careless")
    assert restored["DBParameterGroups"][0]["DBParameterGroupName"] == "default.postgres16"
    lost = ("DeletionProtection", "MultiAZ", "IAMDatabaseAuthenticationEnabled", "CopyTagsToSnapshot")
    assert [False] * 4 == [restored[name] for name in lost]
    assert restored.get("EnabledCloudwatchLogsExports", []) == []
    assert (restored["Endpoint"]["Port"], restored["BackupRetentionPeriod"]) == (6432, 9), "in the snapshot"


def test_a_rename_moves_the_name_and_leaves_the_address(sandbox: Sandbox) -> None:
    """Who has resolved the old name before still reaches the database, as with RDS."""
    before = sandbox.create("blue")
    address = sandbox.address(before["Endpoint"]["Address"])
    sandbox.rds.modify_db_instance(DBInstanceIdentifier="blue", NewDBInstanceIdentifier="green", ApplyImmediately=True)
    eventually(lambda: sandbox.address(before["Endpoint"]["Address"]) is None, "the old name is gone")

    eventually(lambda: code_of(sandbox.rds.describe_db_instances, DBInstanceIdentifier="green") == "", "renamed")
    after = sandbox.available("green")

    assert code_of(sandbox.rds.describe_db_instances, DBInstanceIdentifier="blue") == "DBInstanceNotFound"
    assert after["DbiResourceId"] == before["DbiResourceId"]
    assert sandbox.address(after["Endpoint"]["Address"]) == address
    with sandbox.session(after) as sql:
        assert sql.run("SELECT 1") == [[1]]


def test_a_renamed_replica_goes_on_and_its_source_knows_its_name(sandbox: Sandbox) -> None:
    """It stays a replica, whatever it is called; and no name is given to two."""
    source = sandbox.create("primary", BackupRetentionPeriod=1)
    for name in ("reader", "other"):
        sandbox.rds.create_db_instance_read_replica(DBInstanceIdentifier=name, SourceDBInstanceIdentifier="primary")
    before = sandbox.available("reader")
    sandbox.available("other")
    rename = {"DBInstanceIdentifier": "reader", "ApplyImmediately": True}
    taken = code_of(sandbox.rds.modify_db_instance, **rename, NewDBInstanceIdentifier="other")
    assert taken == "DBInstanceAlreadyExists"
    sandbox.rds.modify_db_instance(**rename, NewDBInstanceIdentifier="reader-2")
    eventually(lambda: code_of(sandbox.rds.describe_db_instances, DBInstanceIdentifier="reader-2") == "", "renamed")
    after = sandbox.available("reader-2")

    assert before["DbiResourceId"] == after["DbiResourceId"]
    assert after["DBInstanceArn"].endswith(":db:reader-2")
    assert "primary" == after["ReadReplicaSourceDBInstanceIdentifier"]
    assert {"other", "reader-2"} == set(sandbox.available("primary")["ReadReplicaDBInstanceIdentifiers"])
    with sandbox.session(source) as sql:
        sql.run("CREATE TABLE t AS SELECT 7 AS x")
    with sandbox.session(after) as sql:
        eventually(lambda: sql.run("SELECT to_regclass('t') IS NOT NULL") == [[True]], "it replicates")
        assert sql.run("SELECT pg_is_in_recovery()") == [[True]]


def test_changes_wait_for_the_maintenance_window_unless_applied_immediately(sandbox: Sandbox) -> None:
    sandbox.create("later", BackupRetentionPeriod=3)
    sandbox.rds.modify_db_instance(DBInstanceIdentifier="later", AllocatedStorage=30, DeletionProtection=True)

    pending = sandbox.available("later")
    assert (pending["AllocatedStorage"], pending["PendingModifiedValues"]) == (20, {"AllocatedStorage": 30})
    assert pending["DeletionProtection"] is True

    sandbox.rds.modify_db_instance(DBInstanceIdentifier="later", ApplyImmediately=True, BackupRetentionPeriod=5)
    eventually(lambda: sandbox.available("later")["AllocatedStorage"] == 30, "the storage has grown")
    assert sandbox.describe("later")["PendingModifiedValues"] == {}
    assert sandbox.describe("later")["BackupRetentionPeriod"] == 5


def test_the_master_password_can_be_changed_and_managed(sandbox: Sandbox) -> None:
    instance = sandbox.create("secretive", MasterUserPassword=None, ManageMasterUserPassword=True)
    secret = sandbox.client("secretsmanager").get_secret_value(SecretId=instance["MasterUserSecret"]["SecretArn"])
    login = json.loads(secret["SecretString"])
    with sandbox.session(instance, password=login["password"]) as sql:
        assert sql.run("SELECT current_user") == [["dba"]]
    refused = code_of(
        sandbox.rds.create_db_instance_read_replica,
        DBInstanceIdentifier="secretive-r", SourceDBInstanceIdentifier="secretive",
    )  # fmt: skip
    assert refused == "InvalidParameterCombination"

    sandbox.rds.modify_db_instance(
        DBInstanceIdentifier="secretive", ManageMasterUserPassword=False, MasterUserPassword="another-horse",
        ApplyImmediately=True,
    )  # fmt: skip
    eventually(lambda: "MasterUserSecret" not in sandbox.available("secretive"), "no longer managed")
    eventually(lambda: sandbox.describe("secretive")["PendingModifiedValues"] == {}, "the password is set")
    with sandbox.session(instance, password="another-horse") as sql:
        assert sql.run("SELECT 1") == [[1]]
    sandbox.replica("secretive", "secretive-r")


def test_a_deleted_source_leaves_its_replica_as_a_primary(sandbox: Sandbox) -> None:
    sandbox.create("parent")
    sandbox.replica("parent", "child")
    sandbox.rds.delete_db_instance(DBInstanceIdentifier="parent", SkipFinalSnapshot=True)
    sandbox.gone("parent")

    child = sandbox.available("child")
    assert "ReadReplicaSourceDBInstanceIdentifier" not in child
    with sandbox.session(child) as sql:
        sql.run("CREATE TABLE t (x int)")


def test_deleting_leaves_nothing_but_what_was_asked_for(sandbox: Sandbox) -> None:
    key = sandbox.key()
    instance = sandbox.create("doomed", StorageEncrypted=True, KmsKeyId=key, DeletionProtection=True)
    delete = sandbox.rds.delete_db_instance
    assert code_of(delete, DBInstanceIdentifier="doomed", SkipFinalSnapshot=True) == "InvalidParameterCombination"
    sandbox.rds.modify_db_instance(DBInstanceIdentifier="doomed", DeletionProtection=False)
    assert code_of(delete, DBInstanceIdentifier="doomed") == "InvalidParameterCombination"
    assert len(sandbox.kms.list_grants(KeyId=key)["Grants"]) == 1

    delete(DBInstanceIdentifier="doomed", FinalDBSnapshotIdentifier="doomed-final")

    assert sandbox.describe("doomed")["DBInstanceStatus"] == "deleting"
    # The name stays taken for as long as it is listed.
    again = {"Engine": "postgres", "DBInstanceClass": "db.t4g.small", "AllocatedStorage": 20, "MasterUsername": "dba"}
    refused = code_of(
        sandbox.rds.create_db_instance, DBInstanceIdentifier="doomed", MasterUserPassword="12345678", **again
    )
    assert refused == "DBInstanceAlreadyExists"
    assert code_of(delete, DBInstanceIdentifier="doomed", SkipFinalSnapshot=True) == "InvalidDBInstanceState"
    sandbox.gone("doomed")
    assert sandbox.address(instance["Endpoint"]["Address"]) is None
    # The final snapshot holds the old key: the very dependency that a rotation must see.
    final = sandbox.snapshot_available("doomed-final")
    assert final["KmsKeyId"] == key
    assert len(sandbox.kms.list_grants(KeyId=key)["Grants"]) == 1
    sandbox.rds.delete_db_snapshot(DBSnapshotIdentifier="doomed-final")
    assert sandbox.kms.list_grants(KeyId=key)["Grants"] == []
    listed = sandbox.rds.describe_db_snapshots(SnapshotType="automated")["DBSnapshots"]
    assert not [s for s in listed if s["DBInstanceIdentifier"] == "doomed"]


def test_stop_and_start(sandbox: Sandbox) -> None:
    instance = sandbox.create("sleeper")
    sandbox.rds.stop_db_instance(DBInstanceIdentifier="sleeper")
    eventually(lambda: sandbox.describe("sleeper")["DBInstanceStatus"] == "stopped", "it is stopped")
    with pytest.raises(pg8000.exceptions.InterfaceError), sandbox.session(instance):
        pass
    assert code_of(sandbox.rds.reboot_db_instance, DBInstanceIdentifier="sleeper") == "InvalidDBInstanceState"
    sandbox.rds.start_db_instance(DBInstanceIdentifier="sleeper")
    sandbox.available("sleeper")
    with sandbox.session(instance) as sql:
        assert sql.run("SELECT 1") == [[1]]


def test_a_parameter_group_reaches_the_server(sandbox: Sandbox) -> None:
    """Dynamic parameters at once, static ones after a reboot, and another group after a reboot as a whole."""
    sandbox.rds.create_db_parameter_group(
        DBParameterGroupName="own", DBParameterGroupFamily="postgres16", Description="own"
    )
    instance = sandbox.create("tuned", DBParameterGroupName="own")

    def setting(name: str) -> str:
        with sandbox.session(instance) as sql:
            return str(sql.run(f"SHOW {name}")[0][0])

    sandbox.rds.modify_db_parameter_group(
        DBParameterGroupName="own",
        Parameters=[
            {"ParameterName": "default_transaction_read_only", "ParameterValue": "1", "ApplyMethod": "immediate"},
            {"ParameterName": "max_connections", "ParameterValue": "90", "ApplyMethod": "pending-reboot"},
        ],
    )
    eventually(lambda: setting("default_transaction_read_only") == "on", "read only by default")
    assert setting("max_connections") == "100"
    eventually(
        lambda: sandbox.describe("tuned")["DBParameterGroups"][0]["ParameterApplyStatus"] == "pending-reboot", "pending"
    )
    sandbox.rds.reboot_db_instance(DBInstanceIdentifier="tuned")
    eventually(lambda: sandbox.describe("tuned")["DBInstanceStatus"] == "rebooting", "it reboots", 5)
    sandbox.available("tuned")
    assert setting("max_connections") == "90"
    assert code_of(sandbox.rds.delete_db_parameter_group, DBParameterGroupName="own") == "InvalidDBParameterGroupState"


def test_a_crash_loses_nothing_that_was_acknowledged(sandbox: Sandbox) -> None:
    instance = sandbox.create("crashing")
    with sandbox.session(instance) as sql:
        sql.run("CREATE TABLE t AS SELECT 7 AS x")
    sandbox.do("crash", name="crashing")
    with sandbox.session(instance) as sql:
        assert sql.run("SELECT x FROM t") == [[7]]


def test_a_failover_keeps_the_data_and_the_name_and_changes_the_address(sandbox: Sandbox) -> None:
    instance = sandbox.create("failing-over")
    with sandbox.session(instance) as sql:
        sql.run("CREATE TABLE t AS SELECT 7 AS x")
    before = sandbox.address(instance["Endpoint"]["Address"])
    sandbox.do("fail_over", name="failing-over")
    after = sandbox.address(instance["Endpoint"]["Address"])
    assert after not in (before, None)
    assert before
    with pytest.raises(ConnectionRefusedError), socket.create_connection((before, 5432), timeout=5):
        pass
    with sandbox.session(sandbox.describe("failing-over")) as sql:
        assert sql.run("SELECT x FROM t") == [[7]]


def test_a_full_storage_stops_the_server_until_there_is_more(sandbox: Sandbox) -> None:
    instance = sandbox.create("full")
    sandbox.do("fill_storage", name="full")
    assert sandbox.describe("full")["DBInstanceStatus"] == "storage-full"
    with pytest.raises((pg8000.exceptions.InterfaceError, ConnectionError)), sandbox.session(instance):
        pass
    assert code_of(sandbox.rds.reboot_db_instance, DBInstanceIdentifier="full") == "InvalidDBInstanceState"

    sandbox.rds.modify_db_instance(DBInstanceIdentifier="full", AllocatedStorage=60, ApplyImmediately=True)

    sandbox.available("full")
    with sandbox.session(instance) as sql:
        assert sql.run("SELECT 1") == [[1]]


def test_ways_in_which_replication_breaks(sandbox: Sandbox) -> None:
    """A receiver comes back by itself, a network when it is repaired, and without its slot a replica never."""
    instance = sandbox.create("followed")
    replica = sandbox.replica("followed", "follower")

    def replayed() -> bool:
        with sandbox.session(replica) as sql:
            return bool(sql.run("SELECT pg_last_wal_replay_lsn() >= CAST(:l AS pg_lsn)", l=written) == [[True]])

    def write() -> str:
        with sandbox.session(instance) as sql:
            sql.run("CREATE TABLE IF NOT EXISTS t (x int)")
            sql.run("INSERT INTO t VALUES (1)")
            return str(sql.run("SELECT pg_current_wal_flush_lsn()::text")[0][0])

    written = write()
    eventually(replayed, "it follows")
    sandbox.do("server", name="follower", what="kill_receiver")
    written = write()
    eventually(replayed, "another receiver")

    sandbox.do("server", name="follower", what="cut_replication")
    written = write()
    assert sandbox.do("server", name="follower", what="replication_status") == "connecting"
    assert not replayed()
    sandbox.do("server", name="follower", what="restore_replication")
    eventually(replayed, "the network is back")

    sandbox.do("lose_slot", name="follower")
    written = write()
    assert sandbox.do("server", name="follower", what="replication_status") == "connecting"
    assert not replayed()


def test_the_master_user_is_no_superuser(sandbox: Sandbox) -> None:
    """Procedures that need one work on every laptop and on no RDS."""
    instance = sandbox.create("humble")
    with sandbox.session(instance) as sql:
        # Not rolreplication, which stands here for what RDS allows by membership.
        rights = "SELECT rolsuper, rolcreaterole, rolcreatedb, rolbypassrls FROM pg_roles WHERE rolname = 'dba'"
        assert sql.run(rights) == [[False, True, True, False]]
        assert sql.run("SELECT datname, pg_get_userbyid(datdba) FROM pg_database ORDER BY 1") == [
            ["app", "dba"], ["postgres", "dba"], ["rdsadmin", "rdsadmin"], ["template0", "rdsadmin"],
            ["template1", "dba"],
        ]  # fmt: skip
        for refused in ("ALTER SYSTEM SET work_mem='1MB'", "SELECT pg_promote()", "ALTER ROLE rdsadmin NOLOGIN"):
            with pytest.raises(pg8000.exceptions.DatabaseError, match="42501"):
                sql.run(refused)
    with pytest.raises(pg8000.exceptions.DatabaseError, match="28000"), sandbox.session(instance, database="rdsadmin"):
        pass
    with pytest.raises(pg8000.exceptions.DatabaseError, match="28P01"), sandbox.session(instance, user="rdsadmin"):
        pass


def test_a_replica_of_a_source_with_raised_limits_starts_with_them(sandbox: Sandbox) -> None:
    """A standby refuses to start with fewer connections or prepared transactions than its primary has."""
    sandbox.rds.create_db_parameter_group(
        DBParameterGroupName="raised", DBParameterGroupFamily="postgres16", Description="raised"
    )
    raised = {"max_connections": "140", "max_prepared_transactions": "7"}
    sandbox.rds.modify_db_parameter_group(
        DBParameterGroupName="raised",
        Parameters=[
            {"ParameterName": name, "ParameterValue": value, "ApplyMethod": "pending-reboot"}
            for name, value in raised.items()
        ],
    )
    sandbox.create("large", DBParameterGroupName="raised")

    replica = sandbox.replica("large", "large-rot")

    with sandbox.session(replica) as sql:
        assert {name: sql.run(f"SHOW {name}") for name in raised} == {name: [[value]] for name, value in raised.items()}
    assert sandbox.describe("large-rot")["DBParameterGroups"][0]["ParameterApplyStatus"] == "in-sync"


def test_a_window_that_nobody_chose_is_not_over_the_one_that_somebody_did(sandbox: Sandbox) -> None:
    """RDS refuses whoever repeats such a pair, and so refused to carry it over to a target."""
    drawn = sandbox.create("windows")["PreferredMaintenanceWindow"]
    hour = drawn[4:6]
    sandbox.rds.delete_db_instance(DBInstanceIdentifier="windows", SkipFinalSnapshot=True)
    sandbox.gone("windows")

    again = sandbox.create("windows", PreferredBackupWindow=f"{hour}:00-{int(hour) + 1:02}:00")

    assert again["PreferredMaintenanceWindow"][4:6] != hour


def test_an_instance_that_is_made_meanwhile_does_not_disturb_a_look_at_all_tags() -> None:
    """Whoever asks what a call may do looks at all of them, and is told of a server error when that fails."""
    books: Any = object.__new__(SandboxRds)
    one = SimpleNamespace(arn="arn:aws:rds:::db:one", get_tags=list)
    empty: dict[str, dict[str, object]] = {
        name: {} for name in ("clusters", "cluster_snapshots", "db_proxies", "database_snapshots")
    }
    books.__dict__.update(lock=threading.RLock(), databases={"one": one}, **empty)

    look = books.iter_tagged_resources()
    found = [next(look).arn]
    books.databases["two"] = one
    found += [resource.arn for resource in look]

    assert found == [one.arn]
