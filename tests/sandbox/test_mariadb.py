"""MariaDB servers: durable, replicating by GTID, with RDS's users, and nobody gets past TLS."""

from __future__ import annotations

import contextlib
import itertools
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pymysql
import pytest

from sandbox import mariadb
from sandbox.lambda_runtime.zygote import Fault
from sandbox.mariadb import PORT, MariadbEngine, MariadbServer, installed_version, literal
from sandbox.rds.servers import ServerError
from tests.mariadb import need_mariadb

PASSWORD = "it's \\ hard"
READ_ONLY, DENIED, NOT_YOURS, NO_SUCH_COLUMN, ACCESS_DENIED = 1290, 1227, 1095, 1054, 1045
GONE = (2006, 2013)


@pytest.fixture(scope="module")
def engine() -> Iterator[MariadbEngine]:
    need_mariadb()
    directory = Path(tempfile.mkdtemp(prefix="rds-sandbox-"))
    directory.chmod(0o711)
    engine = MariadbEngine(directory / "m")
    try:
        yield engine
    finally:
        engine.close()
        shutil.rmtree(directory, ignore_errors=True)


def make(engine: MariadbEngine, name: str) -> MariadbServer:
    server = engine.create(name, master_user="dba", master_password=PASSWORD, database="app")
    with master(server) as sql:
        sql.query("CREATE TABLE t (x INT PRIMARY KEY)")
    return server


def master(server: MariadbServer) -> pymysql.Connection[Any]:
    return pymysql.connect(
        unix_socket=str(server.socket), user="dba", password=PASSWORD, database="app", autocommit=True
    )


def ask(connection: pymysql.Connection[Any], statement: str) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(statement)
        return list(cursor.fetchall())


def write(server: MariadbServer, *values: int) -> None:
    with master(server) as sql:
        for value in values:
            ask(sql, f"INSERT INTO t VALUES ({value})")


def written(server: MariadbServer) -> list[int]:
    with server.session() as sql:
        return [value for (value,) in sql.run("SELECT x FROM app.t ORDER BY x")]


def refusal(work: Callable[[], object]) -> int:
    with pytest.raises(pymysql.MySQLError) as refused:
        work()
    return int(refused.value.args[0])


def words(work: Callable[[], object]) -> str:
    """Those of a refusal; none where it is none."""
    try:
        work()
    except pymysql.MySQLError as refused:
        return str(refused.args[1])
    return ""


def eventually(fact: Callable[[], bool], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not fact():
        assert time.monotonic() < deadline, "it did not come true"
        time.sleep(0.02)


def position(server: MariadbServer) -> str:
    with server.session() as sql:
        return str(sql.run("SELECT @@global.gtid_binlog_pos")[0][0])


def number(gtid: str) -> int:
    return int(gtid.rpartition("-")[2])


def test_what_was_acknowledged_survives_a_crash(engine: MariadbEngine) -> None:
    server = make(engine, "a1")
    with server.session() as sql:
        for name, value in {"sync_binlog": 1, "innodb_flush_log_at_trx_commit": 1, "log_slave_updates": 1}.items():
            assert sql.run(f"SELECT @@global.{name}") == [(value,)]
    assert server.directory.stat().st_mode & 0o077 == 0
    acknowledged: list[int] = []

    def write_on() -> None:
        with master(server) as sql, contextlib.suppress(pymysql.MySQLError):
            for value in range(100_000):
                ask(sql, f"INSERT INTO t VALUES ({value})")
                acknowledged.append(value)

    writer = threading.Thread(target=write_on)
    writer.start()
    eventually(lambda: len(acknowledged) > 50)
    server.crash()
    writer.join()
    assert server.pid is None
    server.start()

    # One more may be there: its commit was done when its answer got lost.
    assert written(server)[: len(acknowledged)] == acknowledged
    assert len(written(server)) - len(acknowledged) <= 1


def test_nobody_gets_in_without_tls_and_the_superuser_not_at_all(engine: MariadbEngine) -> None:
    """The address is for replicas. It must not be a way around the front."""
    server = make(engine, "b1")

    def connect(user: str, password: str, **options: Any) -> pymysql.Connection[Any]:
        return pymysql.connect(host=server.address, port=PORT, user=user, password=password, **options)

    connect("dba", PASSWORD, ssl={"check_hostname": False}).close()
    # MariaDB says it in the same words as for a wrong password; 3159 is MySQL's.
    assert refusal(lambda: connect("dba", PASSWORD, ssl_disabled=True)) == ACCESS_DENIED
    assert refusal(lambda: connect("rdsadmin", engine.admin_password, ssl={"check_hostname": False})) == ACCESS_DENIED


def test_a_replica_follows_by_gtid_while_its_source_takes_writes(engine: MariadbEngine) -> None:
    source = make(engine, "c1")
    acknowledged: list[int] = []
    enough = threading.Event()

    def write_on() -> None:
        with master(source) as sql:
            while not enough.is_set():
                ask(sql, f"INSERT INTO t VALUES ({len(acknowledged)})")
                acknowledged.append(len(acknowledged))

    writer = threading.Thread(target=write_on)
    writer.start()
    eventually(lambda: bool(acknowledged))
    before = len(acknowledged)
    replica = engine.replicate("c2", source)
    during = len(acknowledged)
    enough.set()
    writer.join()

    assert during > before
    assert (source.replication_status(), replica.replication_status()) == ("none", "replicating")
    eventually(lambda: written(replica) == acknowledged)
    assert position(replica) == position(source)
    with source.session() as ours, replica.session() as theirs:
        assert ours.run("SELECT @@global.server_id") != theirs.run("SELECT @@global.server_id")
        assert theirs.facts("SHOW SLAVE STATUS")["Using_Gtid"] == "Slave_Pos"
    replica.crash()
    write(source, -1)
    replica.start()
    eventually(lambda: written(replica)[:1] == [-1])


def test_a_replica_of_a_source_without_any_write(engine: MariadbEngine) -> None:
    source = engine.create("d1", master_user="dba", master_password=PASSWORD, database="app")
    # What the sandbox does to a server is not in its history.
    assert position(source) == ""
    replica = engine.replicate("d2", source)
    with master(source) as sql:
        ask(sql, "CREATE TABLE t (x INT)")
        ask(sql, "INSERT INTO t VALUES (1)")
    eventually(lambda: position(replica) == position(source) != "")
    assert written(replica) == [1]


def test_a_promoted_replica_writes_and_does_not_come_back(engine: MariadbEngine) -> None:
    source = make(engine, "e1")
    replica = engine.replicate("e2", source)
    with pytest.raises(ServerError, match="is not a replica"):
        source.promote()
    assert refusal(lambda: write(replica, 1)) == READ_ONLY

    replica.promote()
    write(replica, 1)
    replica.restart()
    write(replica, 2)
    source.forget_replica("e2")
    write(source, 3)

    assert replica.replication_status() == "none"
    assert (written(source), written(replica)) == ([3], [1, 2])


def test_read_only_is_what_the_parameters_say_at_once_and_after_a_restart(engine: MariadbEngine) -> None:
    """It is the fence: the master cannot lift it, an open session meets it, and it is one server's alone."""
    source = make(engine, "f1")
    replica = engine.replicate("f2", source)
    with master(source) as open_before, master(source) as in_transaction:
        ask(in_transaction, "BEGIN")
        ask(in_transaction, "INSERT INTO t VALUES (99)")
        assert source.apply_parameters({"read_only": "1"}) is False

        assert refusal(lambda: ask(open_before, "INSERT INTO t VALUES (1)")) == READ_ONLY
        assert refusal(lambda: ask(in_transaction, "COMMIT")) == READ_ONLY
        assert refusal(lambda: ask(open_before, "ALTER USER dba@'%' ACCOUNT LOCK")) == READ_ONLY
        assert refusal(lambda: ask(open_before, "SET GLOBAL read_only = 0")) == DENIED
    source.restart()
    assert refusal(lambda: write(source, 1)) == READ_ONLY
    source.apply_parameters({"read_only": "{TrueIfReplica}"})
    write(source, 1)
    eventually(lambda: written(replica) == [1])

    assert refusal(lambda: write(replica, 2)) == READ_ONLY
    replica.apply_parameters({"read_only": "0"})
    write(replica, 2)
    replica.apply_parameters({})
    assert refusal(lambda: write(replica, 3)) == READ_ONLY
    replica.apply_parameters({"read_only": "1"})
    replica.promote()
    assert refusal(lambda: write(replica, 3)) == READ_ONLY
    replica.apply_parameters({})
    write(replica, 3)


def test_rdss_agent_writes_past_read_only(engine: MariadbEngine) -> None:
    """So the position of a fenced source moves, and nobody has written."""
    server = make(engine, "g1")
    server.apply_parameters({"read_only": "1"})
    before = position(server)
    server.heartbeat()
    assert position(server) != before


@pytest.mark.parametrize(
    "statement",
    [
        "SET GLOBAL read_only = 0",
        "SET GLOBAL max_connections = 10",
        "SET GLOBAL event_scheduler = 1",
        "SET SESSION sql_log_bin = 0",
        "STOP SLAVE",
        "CHANGE MASTER TO MASTER_HOST = 'elsewhere'",
        "CREATE DEFINER = rdsadmin@localhost PROCEDURE app.p () SELECT 1",
        "GRANT SUPER ON *.* TO dba@'%'",
        "GRANT READ_ONLY ADMIN ON *.* TO dba@'%'",
        "SHUTDOWN",
        "SELECT 1 INTO OUTFILE '/tmp/out'",
    ],
)
def test_the_master_is_no_superuser(engine: MariadbEngine, master_of: MariadbServer, statement: str) -> None:
    """What works here with rights that RDS does not give would fail there."""
    with master(master_of) as sql:
        assert refusal(lambda: ask(sql, statement)) in (DENIED, ACCESS_DENIED)


@pytest.fixture(scope="module")
def master_of(engine: MariadbEngine) -> MariadbServer:
    return make(engine, "h1")


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE USER u@'%' IDENTIFIED BY 'p'",
        "ALTER USER u@'%' ACCOUNT LOCK",
        "GRANT SELECT ON app.* TO u@'%'",
        "SELECT user, host FROM mysql.global_priv",
        "SHOW ALL SLAVES STATUS",
        "SHOW BINLOG STATUS",
        "SELECT MASTER_GTID_WAIT('', 0)",
        "XA RECOVER",
    ],
)
def test_the_master_may_do_what_rds_lets_it(engine: MariadbEngine, master_of: MariadbServer, statement: str) -> None:
    with master(master_of) as sql:
        ask(sql, statement)


def test_sessions_are_killed_through_rds_and_rdss_own_are_not(engine: MariadbEngine, master_of: MariadbServer) -> None:
    engine.replicate("h2", master_of)
    with master(master_of) as sql, master(master_of) as victim:
        threads = dict(ask(sql, "SELECT user, MIN(id) FROM information_schema.processlist GROUP BY user"))
        [[other]] = ask(victim, "SELECT CONNECTION_ID()")
        # Of the same account, which KILL would allow; so as another user.
        ask(sql, "CREATE USER w@'%' IDENTIFIED BY 'p'")
        with pymysql.connect(unix_socket=str(master_of.socket), user="w", password="p") as stranger:
            [[theirs]] = ask(stranger, "SELECT CONNECTION_ID()")
            assert refusal(lambda: ask(sql, f"KILL {theirs}")) == NOT_YOURS
            ask(sql, f"CALL mysql.rds_kill({theirs})")
            assert refusal(lambda: ask(stranger, "SELECT 1")) in GONE
        ask(sql, f"CALL mysql.rds_kill({other})")
        assert refusal(lambda: ask(victim, "SELECT 1")) in GONE
        for user in ("rdsadmin", "rdsrepladmin"):
            for procedure in ("rds_kill", "rds_kill_query"):
                with pytest.raises(pymysql.MySQLError, match=rf"ERROR \(RDS\): CANNOT KILL {user.upper()} ") as refused:
                    ask(sql, f"CALL mysql.{procedure}({threads[user]})")
                assert refused.value.args[0] == NO_SUCH_COLUMN


def test_there_are_no_users_but_rdss_and_the_customers(engine: MariadbEngine, master_of: MariadbServer) -> None:
    with engine.create("i1", master_user="dba", master_password=PASSWORD, database=None).session() as sql:
        users = {f"{user}@{host}" for user, host in sql.run("SELECT user, host FROM mysql.user")}
        databases = {name for (name,) in sql.run("SHOW DATABASES")}
    assert users == {"dba@%", "rdsadmin@localhost", "rdsrepladmin@%", "mariadb.sys@localhost"}
    assert databases == {"information_schema", "mysql", "performance_schema", "sys"}


def test_a_fence_can_be_broken_by_somebody_else(engine: MariadbEngine, master_of: MariadbServer) -> None:
    """As a person with other rights would; the account that MariaDB itself keeps locked stays so."""
    with master(master_of) as sql:
        ask(sql, "CREATE USER fenced@'%' IDENTIFIED BY 'p' ACCOUNT LOCK")
        master_of.apply_parameters({"read_only": "1"})
        master_of.open_databases()
        ask(sql, "INSERT INTO t VALUES (1)")
        locked = "SELECT user FROM mysql.global_priv WHERE JSON_VALUE(priv, '$.account_locked')"
        assert ask(sql, locked) == [("mariadb.sys",)]
    master_of.reload()
    master_of.apply_parameters({})


@pytest.mark.parametrize(("when", "there"), [("before", []), ("after", [(1,)])])
def test_a_connection_can_be_lost_around_a_statement(
    engine: MariadbEngine, master_of: MariadbServer, when: str, there: list[tuple[int]]
) -> None:
    """What is asked and done, and of which nobody hears: the client is told of a lost connection either way."""
    with master(master_of) as sql:
        ask(sql, "CREATE OR REPLACE TABLE lost (x INT)")
    connection = master(master_of)
    fault = Fault("statement", 1, when, "lose", None)
    assert (
        refusal(lambda: fault.around("statement", type(connection).query, connection, "INSERT INTO lost VALUES (1)"))
        in GONE
    )
    with master(master_of) as sql:
        assert ask(sql, "SELECT x FROM lost") == there
    assert fault.statements == ["INSERT INTO lost VALUES (?)"]


def test_a_new_master_password_reaches_the_replica(engine: MariadbEngine) -> None:
    source = make(engine, "j1")
    replica = engine.replicate("j2", source)
    source.set_master_password("dba", "new password")

    def accepted() -> bool:
        try:
            pymysql.connect(unix_socket=str(replica.socket), user="dba", password="new password").close()
        except pymysql.MySQLError:
            return False
        return True

    eventually(accepted)


def test_a_snapshot_is_a_moment_and_restores_as_a_primary(engine: MariadbEngine) -> None:
    source = make(engine, "k1")
    replica = engine.replicate("k2", source)
    write(source, 1)
    eventually(lambda: written(replica) == [1])
    replica.snapshot(engine.directory / "hot")
    replica.stop()
    replica.snapshot(engine.directory / "cold")
    write(source, 2)

    for kind in ("hot", "cold"):
        restored = engine.restore(f"k{kind}", engine.directory / kind)
        assert written(restored) == [1]
        assert restored.replication_status() == "none"
        # Its history goes on where that of the snapshot ended.
        before = position(restored)
        write(restored, 3)
        assert int(position(restored).rsplit("-")[-1]) == int(before.rsplit("-")[-1]) + 1
        # It can be a source itself.
        follower = engine.replicate(f"k{kind}f", restored)
        write(restored, 4)
        eventually(lambda server=follower: written(server) == [1, 3, 4])  # type: ignore[misc]


def test_a_snapshot_under_load_is_of_one_moment_and_the_binary_log_says_which(engine: MariadbEngine) -> None:
    """As of a volume: recovery decides what has been committed, the same for the tables and for the GTIDs."""
    source = make(engine, "ka")
    before = number(position(source))
    ended = threading.Event()

    def write_on(values: Iterator[int]) -> None:
        with master(source) as sql:
            while not ended.is_set():
                ask(sql, f"INSERT INTO t VALUES ({next(values)})")

    writers = [threading.Thread(target=write_on, args=(itertools.count(start, 4),)) for start in range(4)]
    for writer in writers:
        writer.start()
    eventually(lambda: len(written(source)) > 100)
    for taken in ("ka1", "ka2", "ka3"):
        source.snapshot(engine.directory / f"of-{taken}")
    ended.set()
    for writer in writers:
        writer.join()

    for taken in ("ka1", "ka2", "ka3"):
        restored = engine.restore(taken, engine.directory / f"of-{taken}")
        state = f"0-{source.server_id}-{before + len(written(restored))}"
        with restored.session() as sql:
            assert sql.run("SELECT @@global.gtid_binlog_state, @@global.gtid_slave_pos") == [(state, "")]
        assert restored.server_id != source.server_id
        assert set(written(restored)) <= set(written(source))


def test_a_snapshot_that_fails_leaves_its_server_at_work(
    engine: MariadbEngine, master_of: MariadbServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(source: Path, target: Path) -> None:
        raise OSError("no space")

    monkeypatch.setattr(engine, "copy", fail)
    with pytest.raises(OSError, match="no space"):
        master_of.snapshot(engine.directory / "failed")
    with master(master_of) as sql:
        assert ask(sql, "SELECT 1") == [(1,)]


def test_a_restored_server_may_have_lost_its_binary_logs(
    engine: MariadbEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = make(engine, "kb")
    write(source, 1)
    source.snapshot(engine.directory / "of-kb")
    monkeypatch.setattr(engine, "restores_binary_logs", False)

    restored = engine.restore("kb1", engine.directory / "of-kb")

    assert (written(restored), position(restored)) == ([1], "")


# -- RDS's procedures --------------------------------------------------------------------------------------------------


SECRET = 'it\'s \\ a "secret" ö'
UNKNOWN_TO_THE_SYSTEM = "source.rds.amazonaws.com"
REFUSED, MUST_STOP, NO_GTIDS, IN_TRANSACTION, NOBODY = 1644, 1198, 1941, 1694, 2003


@pytest.fixture(scope="module")
def followed(engine: MariadbEngine) -> tuple[MariadbServer, MariadbServer, str]:
    """A source, a copy of it, and where the copy's history ends; with a login that may replicate and execute."""
    source = make(engine, "o1")
    with master(source) as sql:
        ask(sql, f"CREATE USER rotation@'%' IDENTIFIED BY {literal(SECRET)}")
        ask(sql, "GRANT REPLICATION SLAVE, EXECUTE, INSERT ON *.* TO rotation@'%'")
    write(source, 1)
    source.snapshot(engine.directory / "of-o1")
    write(source, 2)
    copy = engine.restore("o2", engine.directory / "of-o1")
    return source, copy, position(copy)


def rotation(server: MariadbServer, statement: str) -> list[tuple[Any, ...]]:
    """As a login that is neither the master nor a superuser."""
    with pymysql.connect(
        unix_socket=str(server.socket), user="rotation", password=SECRET.encode(), charset="utf8mb4", autocommit=True
    ) as sql:
        return ask(sql, statement)


def source_at(start: str, *, ssl: int = 1) -> str:
    return (
        f"CALL mysql.rds_set_external_master_gtid('{UNKNOWN_TO_THE_SYSTEM}', 3306, 'rotation', "
        f"{literal(SECRET)}, '{start}', {ssl})"
    )


def status(server: MariadbServer) -> dict[str, Any]:
    with server.session() as sql:
        return sql.facts("SHOW SLAVE STATUS")


def test_a_restored_server_follows_by_rdss_procedures_where_the_way_leads(
    engine: MariadbEngine, followed: tuple[MariadbServer, MariadbServer, str]
) -> None:
    source, copy, start = followed
    assert (written(copy), status(copy)) == ([1], {})
    # Fenced from its first moment on, as a target is.
    copy.apply_parameters({"read_only": "1"})
    rotation(copy, source_at(start))
    assert status(copy)["Slave_IO_Running"] == "No"

    # Nobody has said where the source is: it is tried, in vain.
    assert "Slave has encountered an error" in words(lambda: rotation(copy, "CALL mysql.rds_start_replication"))
    assert (status(copy)["Slave_IO_Running"], status(copy)["Last_IO_Errno"]) == ("Connecting", NOBODY)
    copy.reach(source.address)
    eventually(lambda: written(copy) == [1, 2])
    assert status(copy)["Master_SSL_Allowed"] == "Yes"
    assert refusal(lambda: write(copy, 9)) == READ_ONLY

    copy.crash()
    copy.reach(None)
    copy.start()
    write(source, 3)
    eventually(lambda: status(copy)["Last_IO_Errno"] == NOBODY)
    # What is stopped stays so where the way changes.
    copy.pause_replay()
    copy.reach(source.address)
    eventually(lambda: status(copy)["Slave_IO_Running"] == "Yes")
    assert written(copy) == [1, 2]
    copy.resume_replay()
    eventually(lambda: written(copy) == [1, 2, 3])

    assert rotation(copy, "CALL mysql.rds_stop_replication") == [("Slave is now down or disabled",)]
    copy.reach(None)
    copy.reach(source.address)
    write(source, 4)
    assert (status(copy)["Slave_IO_Running"], status(copy)["Slave_SQL_Running"]) == ("No", "No")
    assert rotation(copy, "CALL mysql.rds_start_replication") == [("Slave running normally.",)]
    eventually(lambda: written(copy) == [1, 2, 3, 4])
    assert position(copy) == position(source)
    # Which also stops it.
    assert rotation(copy, "CALL mysql.rds_reset_external_master") == [("Slave has been reset",)]
    assert status(copy) == {}
    copy.apply_parameters({})


def test_rdss_procedures_refuse_what_rds_refuses(followed: tuple[MariadbServer, MariadbServer, str]) -> None:
    _, server, start = followed

    def refused(call: str) -> str:
        return words(lambda: rotation(server, f"CALL mysql.{call}"))

    unset = "the replica isn't configured. First call mysql.rds_set_external_master."
    assert refused("rds_start_replication") == f"You can't start replication because {unset}"
    assert refused("rds_stop_replication") == (
        "Slave is already stopped or may not be configured. Run SHOW SLAVE STATUS\\G;"
    )
    assert refused("rds_reset_external_master") == (
        "You can't reset replication because replication isn't configured. First run mysql.rds_set_external_master."
    )
    assert refusal(lambda: rotation(server, source_at("0-1"))) == NO_GTIDS
    # The server wants TLS.
    rotation(server, source_at(start, ssl=0))
    server.reach(server.address)
    assert "Slave has encountered an error" in refused("rds_start_replication")
    assert status(server)["Last_IO_Errno"] == ACCESS_DENIED
    assert refused("rds_start_replication") == (
        "Replication may already be running. Call rds_stop_replication to stop replication"
    )
    assert refusal(lambda: rotation(server, source_at(start))) == MUST_STOP
    assert words(lambda: rotation(server, "CALL mysql.rds_reset_external_master")) == ""
    for call in ("START SLAVE", "STOP SLAVE", "RESET SLAVE ALL", "SET GLOBAL gtid_slave_pos = ''"):
        assert refusal(lambda call=call: rotation(server, call)) == DENIED  # type: ignore[misc]


def test_how_long_binary_logs_are_kept_is_a_setting_of_rds(followed: tuple[MariadbServer, MariadbServer, str]) -> None:
    server, *_ = followed

    def kept() -> Any:
        [(name, value, _)] = rotation(server, "CALL mysql.rds_show_configuration")
        assert name == "binlog retention hours"
        return value

    def keep(value: str, name: str = "binlog retention hours") -> str:
        return words(lambda: rotation(server, f"CALL mysql.rds_set_configuration('{name}', {value})"))

    assert kept() is None
    assert (keep("72"), kept()) == ("", "72")
    bounds = "For binlog retention hours the value must be between 1 and 168 inclusive or be NULL"
    assert (keep("0"), keep("169"), kept()) == (bounds, bounds, "72")
    assert keep("1", "binlog") == (
        "Cannot set unknown configuration parameter 'binlog' using mysql.rds_set_configuration."
    )
    assert (keep("NULL"), kept()) == ("", None)


def test_what_rdss_procedures_write_is_in_no_binary_log(followed: tuple[MariadbServer, MariadbServer, str]) -> None:
    """Nobody replicates it, and nobody finds a password there."""
    server, _, start = followed
    before = position(server)
    with pymysql.connect(
        unix_socket=str(server.socket), user="rotation", password=SECRET.encode(), charset="utf8mb4", autocommit=True
    ) as sql:
        for call in (source_at(start), "CALL mysql.rds_set_configuration('binlog retention hours', NULL)"):
            ask(sql, call)
        assert ask(sql, "SELECT @@sql_log_bin") == [(1,)]
        assert refusal(lambda: ask(sql, "CALL mysql.rds_set_configuration('binlog retention hours', 0)")) == REFUSED
        assert refusal(lambda: ask(sql, "CALL mysql.rds_stop_replication")) == REFUSED
        ask(sql, "CALL mysql.rds_reset_external_master")
        assert ask(sql, "SELECT @@sql_log_bin") == [(1,)]
        ask(sql, "BEGIN")
        ask(sql, "INSERT INTO app.t VALUES (99)")
        assert refusal(lambda: ask(sql, source_at(start))) == IN_TRANSACTION

    assert position(server) == before
    logs = b"".join(path.read_bytes() for path in server.data.glob("mysql-bin-changelog.0*"))
    # The account itself is there, with its password: MariaDB does so.
    assert logs.count(SECRET.rpartition(" ")[2].encode()) == 1
    assert UNKNOWN_TO_THE_SYSTEM.encode() not in logs


def test_a_replica_falls_behind_and_loses_its_source_when_asked_to(engine: MariadbEngine) -> None:
    source = make(engine, "l1")
    replica = engine.replicate("l2", source)
    replica.pause_replay()
    write(source, 1)
    time.sleep(0.3)
    assert (written(replica), replica.replication_status()) == ([], "error")
    replica.resume_replay()
    eventually(lambda: written(replica) == [1])
    replica.kill_receiver()
    write(source, 2)
    eventually(lambda: written(replica) == [1, 2])
    replica.cut_replication()
    write(source, 3)
    eventually(lambda: replica.replication_status() == "connecting")
    assert written(replica) == [1, 2]
    replica.restore_replication()
    eventually(lambda: written(replica) == [1, 2, 3])


def test_parameters_that_the_sandbox_keeps_for_itself_are_ignored(engine: MariadbEngine) -> None:
    server = make(engine, "m1")
    formula = "{DBInstanceClassMemory*3/4}"
    parameters = {"wait_timeout": "77", "sync_binlog": "0", "max_connections": formula, "no_such_thing": "1"}
    assert server.apply_parameters(parameters | {"event_scheduler": "ON"}) is False

    def shown(name: str) -> Any:
        with server.session() as sql:
            return sql.run(f"SELECT @@global.{name}")[0][0]

    assert (shown("wait_timeout"), shown("sync_binlog"), shown("event_scheduler")) == (77, 1, "ON")
    assert server.apply_parameters({"back_log": "60"}) is True
    assert (shown("wait_timeout"), shown("event_scheduler")) == (28800, "OFF")
    assert shown("back_log") != 60
    server.restart()
    assert shown("back_log") == 60
    assert server.apply_parameters({"back_log": "60"}) is False


def test_a_server_outlives_the_thread_that_started_it(engine: MariadbEngine) -> None:
    """The kernel's parent-death signal counts threads, and a request's thread is gone in milliseconds."""
    made: list[MariadbServer] = []
    thread = threading.Thread(target=lambda: made.append(make(engine, "n1")))
    thread.start()
    thread.join()
    time.sleep(0.5)
    write(made[0], 1)
    pid = made[0].pid
    made[0].destroy()
    assert not Path(f"/proc/{pid}").exists()
    assert not made[0].directory.exists()


def test_without_its_programs_it_says_what_to_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mariadb, "SEARCHED", str(tmp_path))
    with pytest.raises(ServerError, match="make setup-mariadb"):
        MariadbEngine(tmp_path / "m")
    with pytest.raises(ServerError, match="make setup-mariadb"):
        installed_version()
    monkeypatch.delenv("REQUIRE_MARIADB", raising=False)
    with pytest.raises(pytest.skip.Exception):
        need_mariadb()
    monkeypatch.setenv("REQUIRE_MARIADB", "1")
    with pytest.raises(pytest.fail.Exception):
        need_mariadb()
