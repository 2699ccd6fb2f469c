"""RDS for MariaDB: real servers behind the API, and parameter groups that set what they say."""

from __future__ import annotations

import re
import socket
import ssl
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import pymysql
import pytest

from sandbox.demo import dialects, world
from sandbox.demo.account import Account
from sandbox.demo.connection import Login, trusting
from sandbox.demo.count import recount
from sandbox.mariadb import installed_version
from tests.mariadb import need_mariadb
from tests.sandbox.rds_sandbox import PASSWORD, REGION, Sandbox, code_of, eventually, running

READ_ONLY = 1290


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    need_mariadb()
    with running() as sandbox:
        yield sandbox


@pytest.fixture(scope="module")
def major() -> str:
    return installed_version().rpartition(".")[0]


@contextmanager
def session(sandbox: Sandbox, instance: dict[str, Any]) -> Iterator[pymysql.Connection[Any]]:
    """A verified TLS session as the master user."""
    name, port = instance["Endpoint"]["Address"], instance["Endpoint"]["Port"]
    address = sandbox.address(name)
    assert address, f"{name} does not resolve"
    connection: pymysql.Connection[Any] = pymysql.Connection(
        host=name, user="dba", password=PASSWORD, database="app", autocommit=True, defer_connect=True,
        ssl=ssl.create_default_context(cafile=sandbox.ca_bundle), read_timeout=20,
    )  # fmt: skip
    connection.connect(socket.create_connection((address, port), 10))
    with connection:
        yield connection


def ask(sandbox: Sandbox, instance: dict[str, Any], *statements: str) -> list[tuple[Any, ...]]:
    answer: list[tuple[Any, ...]] = []
    with session(sandbox, instance) as connection, connection.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)
            answer = list(cursor.fetchall())
    return answer


def writable(sandbox: Sandbox, instance: dict[str, Any]) -> bool:
    try:
        ask(sandbox, instance, "BEGIN", "INSERT INTO t VALUES (0)", "ROLLBACK")
    except pymysql.MySQLError as refused:
        if refused.args[0] != READ_ONLY:
            raise
        return False
    return True


def make(sandbox: Sandbox, name: str, **changes: Any) -> dict[str, Any]:
    instance = sandbox.create(name, Engine="mariadb", **changes)
    ask(sandbox, instance, "CREATE TABLE t (x INT PRIMARY KEY)", "INSERT INTO t VALUES (1)")
    return instance


def own_group(sandbox: Sandbox, name: str, major: str) -> str:
    sandbox.rds.create_db_parameter_group(
        DBParameterGroupName=name, DBParameterGroupFamily=f"mariadb{major}", Description="own"
    )
    return name


def set_parameter(sandbox: Sandbox, group: str, name: str, value: str, method: str = "immediate") -> None:
    sandbox.rds.modify_db_parameter_group(
        DBParameterGroupName=group,
        Parameters=[{"ParameterName": name, "ParameterValue": value, "ApplyMethod": method}],
    )


def status_of_group(sandbox: Sandbox, name: str) -> str:
    return str(sandbox.describe(name)["DBParameterGroups"][0]["ParameterApplyStatus"])


def test_of_mysqls_events_only_the_customers_group_says_that_they_are_off(sandbox: Sandbox, major: str) -> None:
    """A rotation has to know by itself what MySQL does when no group says anything: it runs them."""

    def events(group: str) -> str | None:
        listed = sandbox.rds.describe_db_parameters(DBParameterGroupName=group)["Parameters"]
        (found,) = [one for one in listed if one["ParameterName"] == "event_scheduler"]
        value: str | None = found.get("ParameterValue")
        return value

    family = {"DBParameterGroupFamily": "mysql8.4", "Description": "own"}
    sandbox.rds.create_db_parameter_group(DBParameterGroupName="quiet", **family)
    assert (events("quiet"), events(own_group(sandbox, "of-mariadb", major))) == (None, "OFF")

    for name, value in dialects.of("mysql").settings.items():
        set_parameter(sandbox, "quiet", name, value)

    assert events("quiet") == "OFF"


def test_a_replica_under_another_key_becomes_a_primary_with_all_that_was_committed(
    sandbox: Sandbox, major: str
) -> None:
    """The whole rotation rests on this."""
    old, new = sandbox.key(), sandbox.key()
    source = make(sandbox, "orders", StorageEncrypted=True, KmsKeyId=old)
    assert (source["Engine"], source["EngineVersion"], source["Endpoint"]["Port"], source["LicenseModel"]) == (
        "mariadb", installed_version(), 3306, "general-public-license",
    )  # fmt: skip
    assert source["DBParameterGroups"][0]["DBParameterGroupName"] == f"default.mariadb{major}"
    assert source["OptionGroupMemberships"][0]["OptionGroupName"] == f"default:mariadb-{major.replace('.', '-')}"

    replica = sandbox.replica("orders", "orders-rot", KmsKeyId=new)

    assert replica["KmsKeyId"] == new
    eventually(lambda: sandbox.describe("orders-rot")["StatusInfos"][0]["Status"] == "replicating", "it replicates")
    ask(sandbox, source, "INSERT INTO t VALUES (2)")
    eventually(lambda: ask(sandbox, replica, "SELECT x FROM t ORDER BY x") == [(1,), (2,)], "it has everything")
    assert not writable(sandbox, replica)

    sandbox.rds.promote_read_replica(DBInstanceIdentifier="orders-rot")

    eventually(lambda: "ReadReplicaSourceDBInstanceIdentifier" not in sandbox.describe("orders-rot"), "on its own")
    target = sandbox.available("orders-rot")
    assert writable(sandbox, target)
    ask(sandbox, target, "INSERT INTO t VALUES (3)")
    assert ask(sandbox, source, "SELECT MAX(x) FROM t") == [(2,)]
    assert ask(sandbox, source, "SELECT @@server_id") != ask(sandbox, target, "SELECT @@server_id")


def test_read_only_by_a_parameter_group_closes_one_instance_and_no_other(sandbox: Sandbox, major: str) -> None:
    """The fence: in force a moment after the call, and not in the answer to it."""
    group = own_group(sandbox, "fence", major)
    source = make(sandbox, "fenced", DBParameterGroupName=group)
    copied = "fence-copy"
    sandbox.rds.copy_db_parameter_group(
        SourceDBParameterGroupIdentifier=group, TargetDBParameterGroupIdentifier=copied,
        TargetDBParameterGroupDescription="of the replica",
    )  # fmt: skip
    replica = sandbox.replica("fenced", "fenced-r")
    assert replica["DBParameterGroups"][0]["DBParameterGroupName"] == group
    sandbox.give_group("fenced-r", copied)

    set_parameter(sandbox, group, "read_only", "1")
    assert status_of_group(sandbox, "fenced") == "applying"
    eventually(lambda: not writable(sandbox, source), "the source is read only", 10)
    eventually(lambda: status_of_group(sandbox, "fenced") == "in-sync", "in sync", 10)
    assert ask(sandbox, replica, "SELECT @@read_only") == [(1,)]

    sandbox.rds.reset_db_parameter_group(
        DBParameterGroupName=group, ResetAllParameters=False,
        Parameters=[{"ParameterName": "read_only", "ApplyMethod": "immediate"}],
    )  # fmt: skip
    eventually(lambda: writable(sandbox, source), "the source is open again", 10)
    assert not writable(sandbox, replica)
    set_parameter(sandbox, copied, "read_only", "0")
    eventually(lambda: writable(sandbox, replica), "the replica is open", 10)
    set_parameter(sandbox, copied, "read_only", "{TrueIfReplica}")
    eventually(lambda: not writable(sandbox, replica), "the replica is a replica", 10)

    # What is changed for the next reboot waits for it.
    set_parameter(sandbox, copied, "read_only", "0", "pending-reboot")
    eventually(lambda: status_of_group(sandbox, "fenced-r") == "pending-reboot", "pending")
    assert not writable(sandbox, replica)
    sandbox.rds.reboot_db_instance(DBInstanceIdentifier="fenced-r")
    eventually(lambda: sandbox.describe("fenced-r")["DBInstanceStatus"] == "rebooting", "it reboots", 10)
    sandbox.available("fenced-r")
    assert writable(sandbox, replica)
    assert status_of_group(sandbox, "fenced-r") == "in-sync"


def test_a_parameter_changes_while_a_snapshot_is_taken(sandbox: Sandbox, major: str) -> None:
    """A fence must not wait for somebody's snapshot, nor its lifting."""
    group = own_group(sandbox, "busy", major)
    instance = make(sandbox, "busy", DBParameterGroupName=group)
    sandbox.do("execution", running=True)
    sandbox.do("working", held=True)
    try:
        sandbox.rds.create_db_snapshot(DBInstanceIdentifier="busy", DBSnapshotIdentifier="busy-1")
        set_parameter(sandbox, group, "read_only", "1")
        eventually(lambda: not writable(sandbox, instance), "it is read only", 10)
        assert (
            sandbox.rds.describe_db_snapshots(DBSnapshotIdentifier="busy-1")["DBSnapshots"][0]["Status"] == "creating"
        )
    finally:
        sandbox.do("working", held=False)
        sandbox.do("execution", running=False)
    sandbox.snapshot_available("busy-1")

    restored = sandbox.rds.restore_db_instance_from_db_snapshot(
        DBInstanceIdentifier="busy-restored", DBSnapshotIdentifier="busy-1"
    )["DBInstance"]
    assert restored["Engine"] == "mariadb"
    restored = sandbox.available("busy-restored")
    # The fence was in the group, not in the data; the copy has the default one.
    assert writable(sandbox, restored)
    assert ask(sandbox, restored, "SELECT x FROM t") == [(1,)]


def test_a_renamed_instance_shows_its_new_name(sandbox: Sandbox) -> None:
    instance = make(sandbox, "before")
    sandbox.rds.modify_db_instance(
        DBInstanceIdentifier="before", NewDBInstanceIdentifier="after", ApplyImmediately=True
    )
    eventually(lambda: code_of(sandbox.rds.describe_db_instances, DBInstanceIdentifier="after") == "", "renamed")
    renamed = sandbox.available("after")
    assert renamed["Endpoint"]["Address"] != instance["Endpoint"]["Address"]
    eventually(lambda: bool(sandbox.address(renamed["Endpoint"]["Address"])), "the new name resolves")
    assert ask(sandbox, renamed, "SELECT x FROM t") == [(1,)]
    sandbox.do("crash", name="after")
    eventually(lambda: ask(sandbox, renamed, "SELECT x FROM t") == [(1,)], "it is back")


def test_a_replaced_server_is_ahead_of_its_replica_in_numbers_only(sandbox: Sandbox) -> None:
    """A wait for a GTID looks at the number: of the copy's next commit too, which the replica has never seen."""
    source = make(sandbox, "swapped")
    replica = sandbox.replica("swapped", "swapped-r")
    sandbox.do("replace", name="swapped")
    [[position]] = ask(sandbox, source, "INSERT INTO t VALUES (8), (9)", *["UPDATE t SET x = x + 10"] * 2,
                       "SELECT @@global.gtid_binlog_pos")  # fmt: skip

    assert ask(sandbox, replica, f"SELECT MASTER_GTID_WAIT('{position}', 10)") == [(0,)]
    assert ask(sandbox, replica, "SELECT x FROM t ORDER BY x") == [(1,)]


def restored(sandbox: Sandbox, source: str, name: str) -> dict[str, Any]:
    sandbox.rds.create_db_snapshot(DBInstanceIdentifier=source, DBSnapshotIdentifier=f"{name}-s")
    sandbox.snapshot_available(f"{name}-s")
    sandbox.rds.restore_db_instance_from_db_snapshot(DBInstanceIdentifier=name, DBSnapshotIdentifier=f"{name}-s")
    return sandbox.available(name)


def test_a_restored_instance_follows_its_source_by_its_name(sandbox: Sandbox) -> None:
    """Through the source's front, by TLS, from where the source's binary log ends that came with the snapshot."""
    source = make(sandbox, "shop")
    copy = restored(sandbox, "shop", "shop-copy")
    ask(sandbox, source, "INSERT INTO t VALUES (2)")
    [[origin]] = ask(sandbox, source, "SELECT @@global.server_id")
    [[state]] = ask(sandbox, copy, "SELECT @@global.gtid_binlog_state")
    assert re.fullmatch(rf"0-{origin}-\d+", state)

    def arrived(*numbers: int) -> bool:
        return ask(sandbox, copy, "SELECT x FROM t ORDER BY x") == [(number,) for number in numbers]

    def following() -> Any:
        # By the columns before it: names, states, the source, its user.
        return ask(sandbox, copy, "SHOW ALL SLAVES STATUS")[0][2]

    ask(
        sandbox, copy,
        f"CALL mysql.rds_set_external_master_gtid('{source['Endpoint']['Address']}', 3306, 'dba', '{PASSWORD}', "
        f"'{state}', 1)",
        "CALL mysql.rds_start_replication",
    )  # fmt: skip
    eventually(lambda: arrived(1, 2), "what was written after the snapshot", 30)
    # The source knows it as one of its clients.
    assert ("dba", "127.0.0.1") in [
        (user, host.partition(":")[0])
        for user, host in ask(
            sandbox, source, "SELECT user, host FROM information_schema.processlist WHERE command = 'Binlog Dump'"
        )
    ]
    sandbox.do("cut", name="shop", how="reset")
    eventually(lambda: following() != "Waiting for master to send event", "the network is cut", 30)
    sandbox.do("restore", name="shop")
    sandbox.do("fail_over", name="shop")
    ask(sandbox, sandbox.available("shop"), "INSERT INTO t VALUES (3)")
    eventually(lambda: arrived(1, 2, 3), "what was written at the source's new address", 30)
    sandbox.rds.reboot_db_instance(DBInstanceIdentifier="shop-copy")
    sandbox.available("shop-copy")
    ask(sandbox, source, "INSERT INTO t VALUES (4)")
    eventually(lambda: arrived(1, 2, 3, 4), "what was written after a reboot", 30)
    sandbox.rds.modify_db_instance(
        DBInstanceIdentifier="shop", NewDBInstanceIdentifier="shop-old", ApplyImmediately=True
    )
    eventually(lambda: code_of(sandbox.rds.describe_db_instances, DBInstanceIdentifier="shop-old") == "", "renamed")
    ask(sandbox, sandbox.available("shop-old"), "INSERT INTO t VALUES (5)")
    eventually(lambda: arrived(1, 2, 3, 4, 5), "what was written under another name", 30)

    sandbox.rds.delete_db_instance(DBInstanceIdentifier="shop-old", SkipFinalSnapshot=True)
    sandbox.gone("shop-old")
    eventually(lambda: following() == "Connecting to master", "nobody is there", 30)
    ask(sandbox, copy, "CALL mysql.rds_reset_external_master", "INSERT INTO t VALUES (6)")


def test_a_restored_instance_may_have_no_history_of_its_source(sandbox: Sandbox) -> None:
    make(sandbox, "oblivious")
    sandbox.do("binary_logs_in_restores", there=False)
    try:
        copy = restored(sandbox, "oblivious", "oblivious-copy")
    finally:
        sandbox.do("binary_logs_in_restores", there=True)
    assert ask(sandbox, copy, "SELECT x FROM t") == [(1,)]
    assert ask(sandbox, copy, "SELECT @@global.gtid_binlog_state") == [("",)]


def test_a_customer_prepares_a_database_for_catch_up(sandbox: Sandbox) -> None:
    """What a rotation leaves behind is seen: a replication that is set up, binary logs that are kept."""
    dns = sandbox.dns
    account = Account(sandbox.endpoint_url, REGION, "ak", "sk", dns["host"], dns["port"], sandbox.ca_bundle)
    built = world.build(account, identifier="prepared", engine="mariadb", rows=40, writers=1, strategy=world.CATCH_UP)
    login = Login("rotation", "secret-enough")

    def session(who: Login) -> Any:
        trust = trusting(account.ca_bundle)
        return closing(built.dialect.connect(built.finder(account).find(), None, who, trust))

    with session(built.master) as sql:
        sql.run(f"CREATE USER rotation@'%' IDENTIFIED BY '{login.password}'")
        built.dialect.let_follow(sql, login.user, built.app.user)
    assert recount(account, built, []).followed_by == ()
    with session(login) as sql:
        sql.run("CALL mysql.rds_set_configuration('binlog retention hours', 72)")
        sql.run("CALL mysql.rds_set_external_master_gtid('nobody', 3306, 'rotation', 'secret', '', 1)")

    left = {one.partition(": ")[2] for one in recount(account, built, []).followed_by}

    assert left == {"binary logs for 72 hours", "replication from 255.255.255.255"}
    with session(login) as sql:
        sql.run("CALL mysql.rds_reset_external_master")
        sql.run("CALL mysql.rds_set_configuration('binlog retention hours', NULL)")
    assert recount(account, built, []).followed_by == ()


def test_rds_refuses_what_it_refuses(sandbox: Sandbox, major: str) -> None:
    group = own_group(sandbox, "refusing", major)

    def modify(*changes: dict[str, str], name: str = group) -> str:
        return code_of(sandbox.rds.modify_db_parameter_group, DBParameterGroupName=name, Parameters=list(changes))

    change = {"ParameterName": "read_only", "ParameterValue": "1", "ApplyMethod": "immediate"}
    assert modify(change, name=f"default.mariadb{major}") == "InvalidParameterValue"
    assert modify(change, name="nobody") == "DBParameterGroupNotFound"
    assert modify(change | {"ParameterValue": "maybe"}) == "InvalidParameterValue"
    assert modify(change | {"ParameterName": "performance_schema"}) == "InvalidParameterCombination"
    assert modify(*[change] * 21) == "InvalidParameterValue"

    def copy(source: str, target: str) -> str:
        return code_of(
            sandbox.rds.copy_db_parameter_group, SourceDBParameterGroupIdentifier=source,
            TargetDBParameterGroupIdentifier=target, TargetDBParameterGroupDescription="copy",
        )  # fmt: skip

    assert copy(f"default.mariadb{major}", "new") == "InvalidParameterValue"
    assert copy("nobody", "new") == "DBParameterGroupNotFound"
    assert copy(group, "refusing") == "DBParameterGroupAlreadyExists"
    assert code_of(sandbox.rds.delete_db_parameter_group, DBParameterGroupName=f"default.mariadb{major}") == (
        "InvalidDBParameterGroupState"
    )
    wanted = {"DBInstanceClass": "db.m7g.large", "AllocatedStorage": 20, "MasterUserPassword": PASSWORD}
    for changes, code in (
        ({"Engine": "mariadb", "EngineVersion": "5.5"}, "InvalidParameterCombination"),
        ({"Engine": "mariadb", "MasterUsername": "rdsadmin"}, "InvalidParameterValue"),
        ({"Engine": "postgres", "DBParameterGroupName": group}, "InvalidParameterCombination"),
        ({"Engine": "oracle-ee"}, "InvalidParameterValue"),
    ):
        arguments = {"MasterUsername": "dba", **wanted, **changes}
        assert code_of(sandbox.rds.create_db_instance, DBInstanceIdentifier="no", **arguments) == code, changes
    [version] = sandbox.rds.describe_db_engine_versions(Engine="mariadb")["DBEngineVersions"]
    assert (version["EngineVersion"], version["DBParameterGroupFamily"]) == (installed_version(), f"mariadb{major}")


def test_parameters_are_listed_with_where_they_come_from(sandbox: Sandbox, major: str) -> None:
    group = own_group(sandbox, "listed", major)

    def read_only(**options: Any) -> list[tuple[str, str]]:
        listed = sandbox.rds.describe_db_parameters(DBParameterGroupName=group, **options)["Parameters"]
        return [(p["ParameterValue"], p["Source"]) for p in listed if p["ParameterName"] == "read_only"]

    assert read_only() == [("{TrueIfReplica}", "system")]
    assert read_only(Source="user") == []
    set_parameter(sandbox, group, "read_only", "1")
    assert read_only(Source="user") == read_only() == [("1", "user")]
    sandbox.rds.reset_db_parameter_group(DBParameterGroupName=group, ResetAllParameters=True)
    assert read_only() == [("{TrueIfReplica}", "system")]
    sandbox.rds.delete_db_parameter_group(DBParameterGroupName=group)
    assert code_of(sandbox.rds.describe_db_parameters, DBParameterGroupName=group) == "DBParameterGroupNotFound"
