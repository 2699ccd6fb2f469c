"""What a restored copy that catches up with its source needs of RDS: the way there, the log, the right to replicate."""

from __future__ import annotations

import re
from typing import Any

import pg8000
import pytest

from sandbox.demo import flow, world
from sandbox.demo.account import Account
from sandbox.demo.connection import hang_up, trusting
from sandbox.demo.dialects.postgres import DIALECT
from sandbox.rds.logs import CUT, PORTION_BYTES
from tests.sandbox.rds_sandbox import PASSWORD, REGION, Sandbox, code_of, eventually

SLOT = "capture"
LOGICAL = {"ParameterName": "rds.logical_replication", "ParameterValue": "1", "ApplyMethod": "pending-reboot"}


def group(sandbox: Sandbox, name: str) -> str:
    sandbox.rds.create_db_parameter_group(
        DBParameterGroupName=name, DBParameterGroupFamily="postgres16", Description=name
    )
    return name


def logical_group(sandbox: Sandbox, name: str) -> str:
    group(sandbox, name)
    sandbox.rds.modify_db_parameter_group(DBParameterGroupName=name, Parameters=[LOGICAL])
    return name


def value(sandbox: Sandbox, instance: dict[str, Any], statement: str) -> Any:
    with sandbox.session(instance) as sql:
        return sql.run(statement)[0][0]


def restored(sandbox: Sandbox, source: str, name: str, **options: Any) -> dict[str, Any]:
    """By way of a snapshot's copy, as one under another key is."""
    taken, copied = f"{name}-s", f"{name}-c"
    sandbox.rds.create_db_snapshot(DBInstanceIdentifier=source, DBSnapshotIdentifier=taken)
    sandbox.snapshot_available(taken)
    sandbox.rds.copy_db_snapshot(SourceDBSnapshotIdentifier=taken, TargetDBSnapshotIdentifier=copied)
    sandbox.snapshot_available(copied)
    sandbox.rds.delete_db_snapshot(DBSnapshotIdentifier=taken)
    sandbox.rds.restore_db_instance_from_db_snapshot(DBInstanceIdentifier=name, DBSnapshotIdentifier=copied, **options)
    return sandbox.available(name)


def log_of(sandbox: Sandbox, name: str) -> str:
    """All of it, as a client reads it that believes the API's reference."""
    rds, read = sandbox.rds, []
    for file in rds.describe_db_log_files(DBInstanceIdentifier=name)["DescribeDBLogFiles"]:
        marker, pending = "0", True
        while pending:
            portion = rds.download_db_log_file_portion(
                DBInstanceIdentifier=name, LogFileName=file["LogFileName"], Marker=marker
            )
            marker, pending = portion["Marker"], portion["AdditionalDataPending"]
            read.append(portion["LogFileData"].removesuffix(CUT))
    return "".join(read)


# -- the way to the source ---------------------------------------------------------------------------------------------


def follow(sandbox: Sandbox, source: dict[str, Any], copy: dict[str, Any]) -> None:
    """Let the copy apply what the source has committed since the copy's recovery ended."""
    [position] = re.findall(r"redo done at ([0-9A-F]+/[0-9A-F]+) ", log_of(sandbox, copy["DBInstanceIdentifier"]))
    with sandbox.session(source) as sql:
        sql.run(f"SELECT pg_replication_slot_advance('{SLOT}', pg_lsn '{position}' + 1)")
    with sandbox.session(copy) as sql:
        sql.run(
            f"CREATE SUBSCRIPTION {SLOT} CONNECTION '{by_name(source)}' PUBLICATION {SLOT} "
            f"WITH (create_slot = false, slot_name = '{SLOT}', copy_data = false)"
        )


def by_name(source: dict[str, Any]) -> str:
    return f"host={source['Endpoint']['Address']} dbname=app user=dba password={PASSWORD} sslmode=require"


def test_a_restored_instance_follows_its_source_by_its_name(sandbox: Sandbox) -> None:
    """Through the source's front, by TLS, also after a failover of the source and a reboot of the copy."""
    parameters = {"DBParameterGroupName": logical_group(sandbox, "followed")}
    source = sandbox.create("shop", **parameters)
    with sandbox.session(source) as sql:
        sql.run("CREATE TABLE kept (n int PRIMARY KEY)")
        sql.run(f"CREATE PUBLICATION {SLOT} FOR TABLE kept")
        sql.run(f"SELECT pg_create_logical_replication_slot('{SLOT}', 'pgoutput')")
        sql.run("INSERT INTO kept VALUES (1)")
    copy = restored(sandbox, "shop", "shop-copy", **parameters)

    def write(number: int) -> None:
        with sandbox.session(sandbox.describe("shop")) as sql:
            sql.run(f"INSERT INTO kept VALUES ({number})")

    def arrived(*numbers: int) -> bool:
        with sandbox.session(sandbox.describe("shop-copy")) as sql:
            return bool(sql.run("SELECT n FROM kept ORDER BY 1") == [[number] for number in numbers])

    write(2)
    assert arrived(1)
    follow(sandbox, source, copy)
    eventually(lambda: arrived(1, 2), "what was written after the snapshot", 30)
    sandbox.do("fail_over", name="shop")
    write(3)
    eventually(lambda: arrived(1, 2, 3), "what was written at the source's new address", 30)
    sandbox.rds.reboot_db_instance(DBInstanceIdentifier="shop-copy")
    sandbox.available("shop-copy")
    write(4)
    eventually(lambda: arrived(1, 2, 3, 4), "what was written after a reboot", 30)

    sandbox.rds.delete_db_instance(DBInstanceIdentifier="shop", SkipFinalSnapshot=True)
    sandbox.gone("shop")
    with sandbox.session(copy) as sql, pytest.raises(pg8000.exceptions.DatabaseError, match="translate host name"):
        sql.run(f"CREATE SUBSCRIPTION late CONNECTION '{by_name(source)}' PUBLICATION {SLOT}")


def test_a_snapshot_of_a_server_with_logical_slots_can_be_restored(sandbox: Sandbox) -> None:
    """Of a stopped instance the copy is one of all of its files, and its slots are some of them."""
    sandbox.create("stopping", DBParameterGroupName=logical_group(sandbox, "stopping-logical"))
    with sandbox.session(sandbox.describe("stopping")) as sql:
        sql.run(f"SELECT pg_create_logical_replication_slot('{SLOT}', 'pgoutput')")
    sandbox.rds.stop_db_instance(DBInstanceIdentifier="stopping")
    eventually(lambda: sandbox.describe("stopping")["DBInstanceStatus"] == "stopped", "it is stopped")

    copy = restored(sandbox, "stopping", "stopping-copy")

    assert value(sandbox, copy, "SHOW wal_level") == "replica"
    assert value(sandbox, copy, "SELECT count(*) FROM pg_replication_slots") == 0


def test_logical_replication_is_on_after_a_reboot(sandbox: Sandbox) -> None:
    """And how much WAL a slot may keep counts at once."""
    instance = sandbox.create("becoming", DBParameterGroupName=group(sandbox, "becoming"))
    keep = {"ParameterName": "max_slot_wal_keep_size", "ParameterValue": "1024", "ApplyMethod": "immediate"}
    modify = sandbox.rds.modify_db_parameter_group
    refused = code_of(modify, DBParameterGroupName="becoming", Parameters=[{**LOGICAL, "ApplyMethod": "immediate"}])
    assert refused == "InvalidParameterCombination"

    modify(DBParameterGroupName="becoming", Parameters=[LOGICAL, keep])

    eventually(lambda: value(sandbox, instance, "SHOW max_slot_wal_keep_size") == "1GB", "the dynamic one")
    assert value(sandbox, instance, "SHOW wal_level") == "replica"
    sandbox.rds.reboot_db_instance(DBInstanceIdentifier="becoming")
    sandbox.available("becoming")
    assert value(sandbox, instance, "SHOW wal_level") == "logical"

    modify(DBParameterGroupName="becoming", Parameters=[{**LOGICAL, "ParameterValue": "0"}])
    sandbox.rds.reboot_db_instance(DBInstanceIdentifier="becoming")
    sandbox.available("becoming")
    assert value(sandbox, instance, "SHOW wal_level") == "replica"


# -- the right to replicate --------------------------------------------------------------------------------------------


def test_a_login_that_may_follow_replicates_logically_and_acts_as_the_owner(sandbox: Sandbox) -> None:
    instance = sandbox.create("permitting", DBParameterGroupName=logical_group(sandbox, "permitting"))
    create = "SELECT pg_create_logical_replication_slot('mine', 'pgoutput')"
    with sandbox.session(instance) as sql:
        sql.run("CREATE ROLE shop LOGIN; CREATE ROLE rotation LOGIN PASSWORD 'secret-enough'")
    login = {"user": "rotation", "password": "secret-enough"}
    with sandbox.session(instance, **login) as sql, pytest.raises(pg8000.exceptions.DatabaseError, match="42501"):
        sql.run(create)

    with sandbox.session(instance) as sql:
        for user in ("rotation", "dba"):
            DIALECT.let_follow(sql, user, "shop")

    for who in (login, {}):
        with sandbox.session(instance, **who) as sql:
            sql.run(create)
            sql.run("SELECT pg_drop_replication_slot('mine')")
            sql.run("SET ROLE shop")
        # A subscription's connection is one to a database; a physical one is RDS's own.
        with sandbox.session(instance, replication="database", **who) as sql:
            assert sql.run("IDENTIFY_SYSTEM")[0][3] == "app"
        with pytest.raises(pg8000.exceptions.DatabaseError, match="28000"):
            sandbox.session(instance, replication="true", **who).__enter__()


def test_a_customer_prepares_a_database_for_catch_up_and_no_other(sandbox: Sandbox) -> None:
    dns = sandbox.dns
    account = Account(sandbox.endpoint_url, REGION, "ak", "sk", dns["host"], dns["port"], sandbox.ca_bundle)
    granted = (
        "SELECT r.rolname, m.set_option FROM pg_auth_members m JOIN pg_roles r ON r.oid = m.roleid "
        "WHERE m.member = 'dbadmin'::regrole AND m.inherit_option ORDER BY 1"
    )

    def master(built: world.World, database: str, *statements: str) -> list[Any]:
        sql = DIALECT.connect(built.finder(account).find(), database, built.master, trusting(account.ca_bundle))
        try:
            return [sql.run(statement) for statement in statements]
        finally:
            hang_up(sql)

    for strategy, logical, keep in (("snapshot", "replica", "-1"), (world.CATCH_UP, "logical", "1GB")):
        built = world.build(account, identifier=f"for-{strategy}", rows=40, writers=1, strategy=strategy)

        [roles, *settings] = master(built, "postgres", granted, "SHOW wal_level", "SHOW max_slot_wal_keep_size")
        assert settings == [[[logical]], [[keep]]]
        assert {"Key": "key-rotation:strategy", "Value": strategy} in sandbox.describe(built.identifier)["TagList"]
        names = {name for name, may_set in roles if may_set}
        assert ({"rds_replication", "pg_create_subscription"} & names != set()) == (strategy == world.CATCH_UP)
    assert names >= {"rds_replication", "pg_create_subscription", built.app.user}
    for database in built.databases:
        master(
            built, database, "CREATE PUBLICATION p FOR TABLE items, ledger, counters",
            f"SELECT pg_create_logical_replication_slot('s' || {len(database)}, 'pgoutput')",
            "CREATE SUBSCRIPTION s CONNECTION 'host=h password=p' PUBLICATION p WITH (connect = false)",
        )  # fmt: skip


def test_a_cluster_does_not_catch_up(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        flow.main(["--engine", "aurora-postgresql", "--strategy", "catch-up"])
    assert "--engine postgres or mariadb only" in capsys.readouterr().err


# -- the log -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def early(sandbox: Sandbox) -> None:
    """The hour does not end within the test, unless that wants it to."""
    sandbox.jump(minutes=61 - sandbox.do("time") % 3600 / 60)


@pytest.mark.usefixtures("early")
def test_a_log_has_a_file_for_every_hour(sandbox: Sandbox) -> None:
    """Whoever reads the newest file only does not find what was logged while the instance was made."""
    sandbox.create("telling")
    describe = sandbox.rds.describe_db_log_files

    def files(**options: Any) -> list[dict[str, Any]]:
        return list(describe(DBInstanceIdentifier="telling", **options)["DescribeDBLogFiles"])

    [first] = files()
    assert re.fullmatch(r"error/postgresql\.log\.\d{4}-\d\d-\d\d-\d\d", first["LogFileName"])
    before = sandbox.do("time")
    sandbox.jump(hours=2)
    eventually(lambda: len(files()) == 2, "another file")
    with sandbox.session(sandbox.describe("telling")) as sql, pytest.raises(pg8000.exceptions.DatabaseError):
        sql.run("SELECT 1 / 0 AS late")

    closed, current = files()

    assert closed["LogFileName"] == first["LogFileName"] < current["LogFileName"]
    # In milliseconds, on the sandbox's clock.
    assert current["LastWritten"] > (before + 2 * 3600 - 5) * 1000
    assert files(FileLastWritten=int((before + 2 * 3600 + 3600) * 1000)) == []
    # The whole hour: in November "-11" is in every name.
    assert [file["LogFileName"] for file in files(FilenameContains=current["LogFileName"][-13:])] == [
        current["LogFileName"]
    ]
    assert closed in files(FileSize=closed["Size"] - 1)
    assert closed not in files(FileSize=closed["Size"])
    [of_the_closed, of_the_current] = [
        sandbox.rds.download_db_log_file_portion(
            DBInstanceIdentifier="telling", LogFileName=file["LogFileName"], Marker="0"
        )["LogFileData"]
        for file in (closed, current)
    ]
    assert ("starting PostgreSQL" in of_the_closed, "starting PostgreSQL" in of_the_current) == (True, False)
    assert ("AS late" in of_the_closed, "AS late" in of_the_current) == (False, True)


@pytest.mark.usefixtures("early")
def test_a_log_is_read_in_portions_that_end_anywhere(sandbox: Sandbox) -> None:
    instance = sandbox.create("talking")
    with sandbox.session(instance) as sql:
        for number in range(100):
            with pytest.raises(pg8000.exceptions.DatabaseError):
                sql.run(f"SELECT 1 / 0 AS n{number}")
    *_, file = sandbox.rds.describe_db_log_files(DBInstanceIdentifier="talking")["DescribeDBLogFiles"]

    def portion(**options: Any) -> dict[str, Any]:
        found: dict[str, Any] = sandbox.rds.download_db_log_file_portion(
            DBInstanceIdentifier="talking", LogFileName=file["LogFileName"], **options
        )
        return found

    assert file["Size"] > 2 * PORTION_BYTES
    whole = log_of(sandbox, "talking")
    assert [number for number in range(100) if f"AS n{number}\n" not in whole] == []
    first = portion(Marker="0")
    assert (first["AdditionalDataPending"], first["LogFileData"].endswith(CUT)) == (True, True)
    assert len(first["LogFileData"].removesuffix(CUT).encode()) == PORTION_BYTES
    # With few lines a portion ends with one.
    few = portion(Marker="0", NumberOfLines=3)
    assert (few["LogFileData"].count("\n"), few["AdditionalDataPending"]) == (3, True)
    more = portion(Marker=few["Marker"], NumberOfLines=2)
    assert first["LogFileData"].startswith(few["LogFileData"] + more["LogFileData"])
    # Without a marker it is the end.
    last = portion(NumberOfLines=2)
    assert (last["LogFileData"].count("\n"), last["AdditionalDataPending"]) == (2, False)
    assert "AS n99" in last["LogFileData"]
    assert len(portion()["LogFileData"].encode()) == PORTION_BYTES


def test_what_is_no_log_is_refused(sandbox: Sandbox) -> None:
    rds = sandbox.rds
    sandbox.create("silent")
    unknown = {"DBInstanceIdentifier": "nobody"}
    assert code_of(rds.describe_db_log_files, **unknown) == "DBInstanceNotFound"
    assert code_of(rds.download_db_log_file_portion, LogFileName="error/x", **unknown) == "DBInstanceNotFound"
    one = {"DBInstanceIdentifier": "silent", "LogFileName": "error/x"}
    assert code_of(rds.download_db_log_file_portion, **one) == "DBLogFileNotFoundFault"
    *_, file = rds.describe_db_log_files(DBInstanceIdentifier="silent")["DescribeDBLogFiles"]
    one["LogFileName"] = file["LogFileName"]
    assert code_of(rds.download_db_log_file_portion, Marker="nowhere", **one) == "InvalidParameterValue"
