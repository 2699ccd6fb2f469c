"""MariaDB: nobody commits behind the fence, no commit is cut off from its answer, and the verdict binds both sides."""

import contextlib
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, ClassVar
from unittest.mock import patch

import pymysql
import pytest

from lambdas.rotation.engines import mysql
from lambdas.rotation.engines.mysql import MariadbEngine, Session
from lambdas.rotation.errors import DatabaseUnreachable, DecisionLost, FenceIncomplete, LoginRefused, NameTaken
from lambdas.rotation.ports import SystemClock
from lambdas.rotation.state import DatabaseFence
from sandbox.mariadb import SETTINGS
from tests.engines.mariadb_servers import APPLICATION, MASTER, ROTATION, Endpoint, World, account

LOCKED = 4151
OURS = "rot-1"

MAKE_EVENT = "CREATE EVENT shop.tick ON SCHEDULE EVERY 1 HOUR STARTS NOW() + INTERVAL 1 HOUR DO SELECT 1"
"""Later: the scheduler would run it at once, and before that write its state down as it knows it (MariaDB's source:
update_timing_fields_for_event), over what a test may just have set."""


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with World.below_a_directory() as made:
        yield made


@pytest.fixture
def source(world: World) -> Iterator[Endpoint]:
    made = world.primary()
    made.engine().ensure_control_database()
    yield made
    made.server.destroy()


@pytest.fixture
def replica(world: World, source: Endpoint) -> Iterator[Endpoint]:
    made = world.replica(source)
    yield made
    made.server.destroy()


def fenced(source: Endpoint, within_seconds: float = 10) -> tuple[DatabaseFence, ...]:
    fence = source.engine().plan_fence(())
    assert fence == source.engine().expected_fence(), "asked without the control database"
    source.engine().raise_fence(OURS, fence, within_seconds)
    return fence


def insert(connection: "pymysql.Connection[pymysql.cursors.Cursor]", worker: int = 0) -> None:
    with connection.cursor() as cursor:
        cursor.execute("INSERT INTO kept (worker) VALUES (%s)", (worker,))


def eventually(fact: Callable[[], bool], seconds: float = 20) -> None:
    give_up_at = time.monotonic() + seconds
    while not fact():
        assert time.monotonic() < give_up_at, "still not so"
        time.sleep(0.05)


class Writer(threading.Thread):
    """One insert per transaction, as fast as it goes. Tells what was acknowledged from what has no answer."""

    def __init__(self, endpoint: Endpoint) -> None:
        super().__init__(daemon=True)
        self.endpoint = endpoint
        self.acknowledged = self.unanswered = 0
        self.refused: list[int] = []
        self._ended = threading.Event()

    def run(self) -> None:
        while not self._ended.is_set():
            try:
                connection = self.endpoint.connect(autocommit=False)
            except pymysql.MySQLError as error:
                self.refused.append(int(error.args[0]))
                time.sleep(0.01)
                continue
            with contextlib.suppress(pymysql.MySQLError, OSError):
                while not self._ended.is_set():
                    insert(connection)
                    self.unanswered += 1
                    connection.commit()
                    self.unanswered -= 1
                    self.acknowledged += 1
            with contextlib.suppress(pymysql.MySQLError, OSError):
                connection.close()

    def end(self) -> None:
        self._ended.set()
        self.join()


@pytest.fixture
def writers(source: Endpoint) -> Iterator[list[Writer]]:
    made = [Writer(source) for _ in range(6)]
    for writer in made:
        writer.start()
    eventually(lambda: all(writer.acknowledged > 5 for writer in made))
    yield made
    for writer in made:
        writer.end()


def test_what_was_acknowledged_is_on_the_drained_replica_and_nothing_comes_after(
    source: Endpoint, replica: Endpoint, writers: list[Writer]
) -> None:
    """The whole of it: fence under load, position, drain, promotion, release."""
    fence = fenced(source)
    position = source.engine().mark(OURS)
    at_the_fence = source.written()
    target = replica.engine()
    eventually(lambda: target.has_replayed(position) and target.shows_marker(OURS))
    acknowledged, unanswered = sum(w.acknowledged for w in writers), sum(w.unanswered for w in writers)

    assert acknowledged <= at_the_fence <= acknowledged + unanswered
    assert replica.written() == at_the_fence
    eventually(lambda: all(LOCKED in writer.refused for writer in writers))
    assert source.engine().fence_breach(fence) is None
    replica.server.promote()
    assert replica.engine().fence_breach(fence) is None, "the target is born fenced"
    assert (source.written(), replica.written()) == (at_the_fence, at_the_fence)

    assert replica.engine().decide(OURS, "release", fence) == "release"
    with replica.connect() as connection:
        insert(connection)
    with pytest.raises(pymysql.MySQLError, match=str(LOCKED)):
        source.connect()


def test_no_commit_is_cut_off_from_its_answer(source: Endpoint, writers: list[Writer]) -> None:
    """A client that has no answer writes again; what had been committed is then there twice."""
    for turn in range(5):
        fence = source.engine().plan_fence(())
        source.engine().raise_fence(f"{OURS}-{turn}", fence, 10)
        assert source.written() == sum(writer.acknowledged for writer in writers)
        source.engine().decide(f"{OURS}-{turn}", "rollback", fence)
        so_far = sum(writer.acknowledged for writer in writers)
        eventually(lambda so_far=so_far: sum(writer.acknowledged for writer in writers) > so_far + 20)  # type: ignore[misc]


def test_without_the_right_to_block_commits_nothing_that_was_acknowledged_is_lost(
    source: Endpoint, writers: list[Writer]
) -> None:
    """RDS may except more from RELOAD than it says. A commit may then be there that its client has no answer to."""
    source.admin(f"REVOKE RELOAD ON *.* FROM {account(ROTATION)}")
    assert source.engine().login_limitations() == []

    fence = fenced(source)

    acknowledged, unanswered = sum(w.acknowledged for w in writers), sum(w.unanswered for w in writers)
    assert acknowledged <= source.written() <= acknowledged + unanswered
    assert source.engine().fence_breach(fence) is None


def test_a_transaction_that_was_open_is_rolled_back(source: Endpoint) -> None:
    with source.connect(autocommit=False) as connection:
        insert(connection)
        fenced(source)
        with pytest.raises((pymysql.MySQLError, OSError)):
            connection.commit()
    assert source.written() == 0


def test_a_client_on_its_way_in_meets_the_lock(source: Endpoint) -> None:
    """Its connection was accepted before the fence, and it sends its name afterwards."""
    import socket

    with socket.create_connection((source.address, 3306)) as raw:
        raw.recv(4096)
        fence = fenced(source)
        assert source.engine().fence_breach(fence) is None
    assert source.written() == 0


class Hesitant(pymysql.connections.Connection):  # type: ignore[misc]
    """Tells its name, is asked for its password in another way, and takes its time to answer."""

    told: threading.Event
    proceed: threading.Event

    def _get_server_information(self) -> None:
        super()._get_server_information()
        self._auth_plugin_name = "another"

    def _process_auth(self, *answer: object) -> object:
        self.told.set()
        assert self.proceed.wait(20)
        return super()._process_auth(*answer)


@pytest.mark.parametrize("is_fenced", [True, False])
def test_a_client_that_has_told_its_name_does_not_get_in(source: Endpoint, is_fenced: bool) -> None:
    """The server has looked at its account before the fence, and takes its password after it."""
    Hesitant.told, Hesitant.proceed = threading.Event(), threading.Event()
    got_in: list[bool] = []

    def log_in() -> None:
        tls = ssl.create_default_context(cafile=str(source.bundle))
        try:
            with Hesitant(
                host=source.address, user=APPLICATION, password=source.passwords[APPLICATION], ssl=tls, database="shop"
            ) as client:
                insert(client)
                client.commit()
                got_in.append(True)
        except (pymysql.MySQLError, OSError):
            got_in.append(False)

    client = threading.Thread(target=log_in)
    client.start()
    assert Hesitant.told.wait(20)
    if is_fenced:
        fenced(source)
    Hesitant.proceed.set()
    client.join()

    assert got_in == [not is_fenced]
    assert source.written() == int(not is_fenced)


def test_one_empty_list_of_sessions_is_no_proof(source: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who has passed the account's lock and is on no list yet is on the next one."""
    gone = 2**40
    looks = [[], [(gone, "app", "Sleep")], [], [], []]
    monkeypatch.setattr(mysql, "_sessions", lambda sql: looks.pop(0))

    fenced(source)

    assert looks == []


def test_the_replica_stays_fenced_when_it_is_restarted(source: Endpoint, replica: Endpoint) -> None:
    fence = fenced(source)
    position = source.engine().mark(OURS)
    eventually(lambda: replica.engine().has_replayed(position))
    replica.server.promote()
    replica.server.restart()

    assert replica.engine().fence_breach(fence) is None


@pytest.mark.parametrize("keeps_binary_logs", [True, False])
def test_what_is_restored_under_the_fence_has_everything(
    source: Endpoint, world: World, monkeypatch: pytest.MonkeyPatch, keeps_binary_logs: bool
) -> None:
    """Whatever RDS restores of the binary log, however many domains were written in: the marker tells."""
    with source.server.session(binlog=True) as sql:
        sql.run("SET SESSION gtid_domain_id = 7")
        sql.run("INSERT INTO shop.kept (worker) VALUES (1)")
    monkeypatch.setattr(world.servers, "restores_binary_logs", keeps_binary_logs)
    fence = fenced(source)
    position = source.engine(replicates=False).mark(OURS)
    copy = world.restored(source)
    try:
        target = copy.engine(replicates=False)
        for _ in range(2):
            assert (target.has_replayed(position), target.shows_marker(OURS)) == (True, True)
            target.raise_fence(OURS, fence, 5)
            copy.server.heartbeat()

        # A snapshot from before the fence: its own log says so, where it is there, and there is no marker.
        source.engine().mark("later")
        later = source.engine().mark("later")
        assert target.has_replayed(later) is not keeps_binary_logs
        assert not target.shows_marker("later")
    finally:
        copy.server.destroy()


def test_the_first_verdict_stands(source: Endpoint) -> None:
    fence = fenced(source)

    assert source.engine().decide(OURS, "rollback", fence) == "rollback"
    assert source.engine().decide(OURS, "release", ()) == "rollback"
    assert source.engine().verdict(OURS) == "rollback"
    with pytest.raises(DecisionLost):
        source.engine().raise_fence(OURS, fence, 5)
    with source.connect() as connection:
        insert(connection)


def test_the_loser_opens_nothing(source: Endpoint) -> None:
    fence = fenced(source)
    source.engine().decide(OURS, "rollback", ())

    assert source.engine().decide(OURS, "release", fence) == "rollback"
    assert source.engine().fence_breach(fence) is None


def test_a_verdict_can_be_carried_out_again(source: Endpoint) -> None:
    """It died between the row and the last account."""
    fence = fenced(source)
    source.engine().decide(OURS, "rollback", ())

    source.engine().decide(OURS, "rollback", fence)

    with source.connect() as connection:
        insert(connection)


class Slow(Session):
    """Each statement about accounts takes a second, by the engine's clock; the first attempt's second one fails."""

    seconds: ClassVar[float] = 0
    locked: ClassVar[list[str]] = []

    def run(self, statement: str, **parameters: Any) -> None:
        if statement.startswith("ALTER USER"):
            Slow.seconds += 1
            if Slow.seconds == 2:
                raise DatabaseUnreachable("the connection ended")
            Slow.locked += [part.partition("`@")[0] for part in statement.split("`a ")[1:]]
        super().run(statement, **parameters)


class ByStatements(SystemClock):
    def monotonic(self) -> float:
        return Slow.seconds


def test_many_accounts_are_closed_and_opened_attempt_by_attempt(
    source: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a statement for each, all of them anew every time, thousands would never be closed, or opened again."""
    for at in range(120):
        source.admin(f"CREATE USER `a {at}`")
    monkeypatch.setattr(mysql, "Session", Slow)
    monkeypatch.setattr(Slow, "seconds", 0)
    monkeypatch.setattr(Slow, "locked", [])
    engine = source.engine()
    engine._clock = ByStatements()
    fence = (*engine.plan_fence(()), DatabaseFence(name="gone@%", kind="account-lock"))

    with pytest.raises(DatabaseUnreachable):
        engine.raise_fence(OURS, fence, 1)
    before = len(Slow.locked)
    engine.raise_fence(OURS, fence, 1)  # the second in which sessions have to end begins when all is locked

    assert 40 < before < 120
    assert sorted(Slow.locked) == sorted(str(at) for at in range(120)), "each of them once"
    assert Slow.seconds <= 5
    assert engine.plan_fence(()) == ()
    assert source.admin("SELECT COUNT(*) FROM mysql.global_priv WHERE JSON_VALUE(priv, '$.account_locked')") >= [(122,)]

    engine.decide(OURS, "rollback", fence)
    engine.decide(OURS, "rollback", fence)

    assert Slow.seconds <= 8
    assert {one.name for one in engine.plan_fence(())} == {one.name for one in fence} - {"gone@%"}


def test_accounts_of_rds_of_the_rotation_and_locked_ones_are_left_alone(source: Endpoint) -> None:
    source.admin("CREATE USER gone@'10.0.%' ACCOUNT LOCK")
    source.admin("CREATE ROLE readers")

    assert {fence.name for fence in source.engine().plan_fence(())} == {f"{APPLICATION}@%", f"{MASTER}@%"}
    assert source.engine().plan_fence((), besides=source.engine().plan_fence(())) == ()


@pytest.mark.parametrize(
    ("change", "breach"),
    [
        (f"ALTER USER {account(APPLICATION)} ACCOUNT UNLOCK", "is open"),
        ("CREATE USER late", "late@% was never locked"),
        (f"DROP USER {account(APPLICATION)}", "is gone"),
    ],
)
def test_what_breaks_a_fence_is_seen(source: Endpoint, change: str, breach: str) -> None:
    fence = fenced(source)
    source.admin(change)

    assert breach in (source.engine().fence_breach(fence) or "")


def test_a_session_behind_the_fence_is_seen(source: Endpoint) -> None:
    fence = fenced(source)
    source.admin(f"ALTER USER {account(APPLICATION)} ACCOUNT UNLOCK")
    with source.connect():
        source.admin(f"ALTER USER {account(APPLICATION)} ACCOUNT LOCK")
        assert f"Sleep of {APPLICATION}" in (source.engine().fence_breach(fence) or "")


def test_clients_that_are_being_refused_are_no_breach(source: Endpoint) -> None:
    """A pool that connects again and again would roll every cutover back; each of its clients meets the lock."""
    stopped = threading.Event()

    def storm() -> None:
        while not stopped.is_set():
            with contextlib.suppress(pymysql.MySQLError, OSError):
                source.connect().close()

    clients = [threading.Thread(target=storm) for _ in range(8)]
    for client in clients:
        client.start()
    try:
        fence = fenced(source)
        with source.engine()._control_session() as sql:
            eventually(lambda: bool(mysql._sessions(sql)))
        engine = source.engine()
        assert {engine.fence_breach(fence) for _ in range(300)} == {None}
    finally:
        stopped.set()
        for client in clients:
            client.join()


def test_a_client_that_stays_on_its_way_in_is_a_breach(source: Endpoint) -> None:
    """It has told its name, before the fence perhaps, and may get in yet."""
    Hesitant.told, Hesitant.proceed = threading.Event(), threading.Event()
    fence = fenced(source)

    def log_in() -> None:
        tls = ssl.create_default_context(cafile=str(source.bundle))
        with contextlib.suppress(pymysql.MySQLError, OSError):
            Hesitant(host=source.address, user=APPLICATION, password=source.passwords[APPLICATION], ssl=tls)

    client = threading.Thread(target=log_in)
    client.start()
    assert Hesitant.told.wait(20)
    assert f"Connect of {APPLICATION}" in (source.engine().fence_breach(fence) or "")
    Hesitant.proceed.set()
    client.join()

    assert source.engine().fence_breach(fence) is None


def test_an_application_under_the_rotations_account_is_a_breach(source: Endpoint) -> None:
    """That account stays open, so nothing else may use it."""
    fence = fenced(source)
    with source.connect(ROTATION, database=None):
        assert [one.name for one in source.engine().limitations(())] == ["LoginShared"]
        assert ROTATION in (source.engine().fence_breach(fence) or "")


def test_another_function_of_the_rotation_shares_no_account(source: Endpoint) -> None:
    """Of two deliveries the other one looks at the same time, and stays for as long as this one."""
    fence = fenced(source)
    other = source.engine()
    with other._session(in_control=False):
        assert [] == source.engine().limitations(())
        assert source.engine().fence_breach(fence) is None


def test_a_session_of_the_rotation_that_is_not_marked_yet_shares_no_account(source: Endpoint) -> None:
    fence = fenced(source)
    for ask in (lambda: source.engine().limitations(()), lambda: source.engine().fence_breach(fence)):
        ending = threading.Timer(0.5, source.connect(ROTATION, database=None).close)
        ending.start()
        assert not ask()
        ending.join()


@pytest.mark.parametrize("name", ["event_scheduler@%", "mysql.session@10.0.0.%"])
def test_accounts_that_a_fence_would_take_for_the_servers_are_refused(source: Endpoint, name: str) -> None:
    source.admin(f"CREATE USER {mysql.account_sql(name)} IDENTIFIED BY 'secret'")
    try:
        [finding] = source.engine().limitations(())
        assert (finding.name, name in finding.message) == ("AccountsInDisguise", True)
    finally:
        source.admin(f"DROP USER {mysql.account_sql(name)}")


@pytest.mark.parametrize(
    ("statements", "name"),
    [
        (
            (
                "SET GLOBAL event_scheduler = 1",
                MAKE_EVENT,
            ),
            "EventsEnabled",
        ),
        (
            (
                "SET GLOBAL binlog_format = 'ROW'",
                "CREATE TABLE shop.m (x INT) ENGINE = MEMORY",
                "INSERT INTO shop.m VALUES (1)",
            ),
            "MemoryTables",
        ),
        # Also when it is empty, see below.
        (("CREATE TABLE shop.m (x INT) ENGINE = MEMORY",), "StatementReplication"),
        (("CREATE TABLE shop.old (x INT) ENGINE = MyISAM",), "TablesNotRecovered"),
        (("CREATE TABLE shop.old (x INT) WITH SYSTEM VERSIONING ENGINE = Aria",), "TablesNotRecovered"),
        (("CREATE SEQUENCE shop.old ENGINE = MyISAM",), "TablesNotRecovered"),
        (("SET GLOBAL sync_binlog = 0",), "NotDurable"),
        (("SET GLOBAL sync_binlog = 1000",), "NotDurable"),
        (("SET GLOBAL binlog_format = 'STATEMENT'",), "StatementReplication"),
        (("SET GLOBAL slave_run_triggers_for_rbr = 'ENFORCE'",), "TriggersRunTwice"),
        (("SET GLOBAL replicate_events_marked_for_skip = 'FILTER_ON_SLAVE'",), "ReplicationFilters"),
        (("SET GLOBAL replicate_ignore_db = 'shop'",), "ReplicationFilters"),
        (("SET GLOBAL replicate_ignore_table = 'mysql.rds_history,shop.kept'",), "ReplicationFilters"),
        (("SET GLOBAL replicate_wild_ignore_table = 'mysql.rds%'",), "ReplicationFilters"),
        (("CHANGE MASTER TO MASTER_HOST = 'elsewhere'",), "Subscriptions"),
        (("DROP DATABASE rds_key_rotation", "CREATE DATABASE rds_key_rotation"), "ControlDatabaseTaken"),
    ],
)
def test_what_a_rotation_cannot_carry_is_refused(source: Endpoint, statements: tuple[str, ...], name: str) -> None:
    assert source.engine().limitations(()) == []
    for statement in statements:
        source.admin(statement)

    assert [one.name for one in source.engine().limitations(())] == [name]


def test_what_another_server_feeds_is_not_fenced(world: World, source: Endpoint) -> None:
    """Its writes need no account here: they would be lost behind the fence position, without anybody's error."""
    fed = world.replica(source)  # as by mysql.rds_set_external_master: RDS knows nothing of it, and its customer does
    try:
        fed.admin("SET GLOBAL read_only = 0")
        source.engine().mark("seen")
        eventually(lambda: fed.engine().shows_marker("seen"))
        fence = fenced(fed)
        at_the_fence = fed.written()
        with source.connect() as connection:
            insert(connection)
        eventually(lambda: fed.written() > at_the_fence)

        assert "it replicates from 1 other server(s)" in (fed.engine().fence_breach(fence) or "")
        assert "Subscriptions" in [one.name for one in fed.engine().limitations(())]
        fed.admin("STOP ALL SLAVES")
        assert fed.engine().fence_breach(fence), "it starts again with the server"
    finally:
        fed.server.destroy()


def test_without_a_binary_log_there_is_none_to_be_behind(source: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    """An instance without automated backups has none; nothing follows it."""
    monkeypatch.delitem(SETTINGS, "log-bin")
    monkeypatch.setitem(SETTINGS, "sync-binlog", "0")
    source.server.restart()

    assert "NotDurable" not in [one.name for one in source.engine().limitations(())]


def test_what_rds_itself_does_not_replicate_is_no_filter(source: Endpoint, replica: Endpoint) -> None:
    """And nothing else is left out by it: the fence and the verdict are statements about accounts."""
    [[of_rds]] = source.admin("SELECT @@global.replicate_ignore_table")
    assert "mysql.rds_history" in of_rds
    assert source.engine().limitations(()) == []

    source.admin("CREATE USER late IDENTIFIED BY 'secret' ACCOUNT LOCK")
    source.admin("RENAME USER late TO later")
    source.admin("GRANT SELECT ON shop.* TO later")
    position = source.engine().mark(OURS)
    eventually(lambda: replica.engine().has_replayed(position))

    accounts = "SELECT user, priv FROM mysql.global_priv WHERE user LIKE 'late%'"
    granted = "SELECT user, select_priv FROM mysql.db WHERE user = 'later'"
    assert replica.admin(accounts) == source.admin(accounts) != []
    assert replica.admin(granted) == [("later", "Y")]


@pytest.mark.parametrize("statement", ["SET GLOBAL event_scheduler = 0", "ALTER EVENT shop.tick DISABLE"])
def test_an_event_that_does_not_run_is_none(source: Endpoint, statement: str) -> None:
    source.admin("SET GLOBAL event_scheduler = 1")
    source.admin(MAKE_EVENT)
    source.admin(statement)

    assert [] == source.engine().limitations(())
    fenced(source)


def test_an_event_of_a_server_without_a_scheduler_does_not_run(
    source: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody can switch it on while the server runs."""
    source.admin(MAKE_EVENT)
    monkeypatch.setitem(SETTINGS, "event-scheduler", "DISABLED")
    source.server.restart()

    assert [] == source.engine().limitations(())


def test_an_event_that_is_enabled_while_the_fence_rises_ends_it(
    source: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a session that is just being ended: only after the last one nobody can enable another."""
    source.admin("SET GLOBAL event_scheduler = 1")
    engine = source.engine()
    fence, end_sessions = engine.plan_fence(()), MariadbEngine._end_sessions

    def ended(self: MariadbEngine, *arguments: Any) -> None:
        source.admin(MAKE_EVENT)
        end_sessions(self, *arguments)

    monkeypatch.setattr(MariadbEngine, "_end_sessions", ended)

    with pytest.raises(FenceIncomplete, match=r"event shop\.tick"):
        engine.raise_fence(OURS, fence, 10)


def test_a_prepared_transaction_is_refused_and_ends_the_fence(source: Endpoint) -> None:
    with source.connect() as connection, connection.cursor() as cursor:
        cursor.execute("XA START 'x'")
        cursor.execute("INSERT INTO kept (worker) VALUES (1)")
        cursor.execute("XA END 'x'")
        cursor.execute("XA PREPARE 'x'")
        assert [one.name for one in source.engine().limitations(())] == ["PreparedTransactions"]
        with pytest.raises(FenceIncomplete, match="prepared"):
            fenced(source)
        cursor.execute("XA ROLLBACK 'x'")


def test_what_is_prepared_while_the_fence_rises_ends_it(source: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the look for it and the end of its session, which it outlasts."""
    engine = source.engine()
    fence, end_sessions = engine.plan_fence(()), MariadbEngine._end_sessions
    preparing = source.connect()

    def ended(self: MariadbEngine, *arguments: Any) -> None:
        with preparing.cursor() as cursor:
            for statement in ("XA START 'x'", "INSERT INTO kept VALUES ()", "XA END 'x'", "XA PREPARE 'x'"):
                cursor.execute(statement)
        end_sessions(self, *arguments)

    monkeypatch.setattr(MariadbEngine, "_end_sessions", ended)

    with pytest.raises(FenceIncomplete, match="1 prepared"):
        engine.raise_fence(OURS, fence, 10)

    source.admin("XA ROLLBACK 'x'")


def test_an_event_that_was_enabled_meanwhile_ends_the_fence(source: Endpoint) -> None:
    """An earlier attempt has looked for them; until this one locked all accounts somebody could enable one."""
    source.admin("SET GLOBAL event_scheduler = 1")
    source.admin(MAKE_EVENT)

    with pytest.raises(FenceIncomplete, match=r"event shop\.tick"):
        fenced(source)


def test_root_is_whoever_has_that_name(source: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    """RDS has no such account; many a master user is called so."""
    monkeypatch.setitem(source.passwords, "root", source.passwords[MASTER])
    source.admin(f"RENAME USER {account(MASTER)} TO root@'%'")
    with source.connect("root", database=None) as connection:
        fence = fenced(source)
        with pytest.raises(pymysql.MySQLError), connection.cursor() as cursor:
            cursor.execute("SELECT 1")

    assert "root@%" in {one.name for one in fence}
    with pytest.raises(pymysql.MySQLError, match=str(LOCKED)):
        source.connect("root", database=None)
    source.admin("ALTER USER root@'%' ACCOUNT UNLOCK")
    assert source.engine().fence_breach(fence) == "account root@% is open"


def test_memory_tables_can_be_accepted(source: Endpoint) -> None:
    """Not what a statement would make of them elsewhere, which a copy that does not replicate never sees."""
    source.admin("CREATE TABLE shop.m (x INT) ENGINE = MEMORY")
    source.admin("INSERT INTO shop.m VALUES (1)")
    assert source.engine(replicates=False).limitations(("memory-tables",)) == []
    assert [one.name for one in source.engine().limitations(("memory-tables",))] == ["StatementReplication"]

    source.admin("SET GLOBAL binlog_format = 'ROW'")

    assert source.engine().limitations(("memory-tables",)) == []


@pytest.mark.parametrize(("log_format", "arrives"), [("MIXED", False), ("ROW", True)])
def test_what_was_read_from_a_memory_table_comes_as_rows_or_not_at_all(
    source: Endpoint, world: World, log_format: str, arrives: bool
) -> None:
    source.admin(f"SET GLOBAL binlog_format = '{log_format}'")
    source.admin("CREATE TABLE shop.m (x INT) ENGINE = MEMORY")
    source.admin("INSERT INTO shop.m VALUES (1)")
    source.admin("CREATE TABLE shop.from_m (x INT)")
    replica = world.replica(source)
    try:
        source.admin("INSERT INTO shop.from_m SELECT x FROM shop.m")
        position = source.engine().mark(OURS)
        eventually(lambda: replica.engine().has_replayed(position))

        here, there = (side.admin("SELECT * FROM shop.from_m") for side in (source, replica))
        assert (here, there) == ([(1,)], [(1,)] if arrives else [])
    finally:
        replica.server.destroy()


@pytest.mark.parametrize(
    "made",
    [
        "TABLE shop.old (x INT) ENGINE = MyISAM",
        "TABLE shop.old (x INT) WITH SYSTEM VERSIONING ENGINE = Aria",
        "SEQUENCE shop.old ENGINE = MyISAM",
    ],
)
def test_tables_that_know_no_transactions_are_worth_a_warning(source: Endpoint, made: str) -> None:
    """By snapshot, where nobody writes meanwhile: they may be damaged, not behind."""
    source.admin("CREATE SEQUENCE shop.numbers")
    source.admin("CREATE VIEW shop.few AS SELECT id FROM shop.kept LIMIT 3")
    engine = source.engine(replicates=False)
    assert [*engine.warnings(), *source.engine().limitations(())] == []

    source.admin(f"CREATE {made}")

    assert [one.name for one in engine.warnings()] == ["NoTransactions"]
    assert engine.limitations(()) == []


def test_what_is_asked_of_a_login_suffices(source: Endpoint) -> None:
    """Preflight lets it pass; it must not meet a missing right when applications stand still."""
    asked = ", ".join(mysql.PRIVILEGES).replace("REPLICA MONITOR", "SLAVE MONITOR")
    source.admin(f"REVOKE ALL PRIVILEGES, GRANT OPTION FROM {account(ROTATION)}")
    source.admin(f"GRANT {asked} ON *.* TO {account(ROTATION)}")
    source.engine().drop_control_database("r")
    assert source.engine().login_limitations() == []

    source.engine().ensure_control_database()
    assert source.engine().claim(OURS) == OURS
    fence = fenced(source)
    source.engine().mark(OURS)
    source.engine().mark(OURS)
    source.engine().decide(OURS, "rollback", fence)

    with source.connect() as connection:
        insert(connection)


def test_a_login_without_rights_is_told_what_to_grant(source: Endpoint) -> None:
    missing = source.engine(APPLICATION).login_limitations()

    assert {f"run: GRANT CREATE USER ON *.* TO `{APPLICATION.replace('`', '``')}`@`%`"} <= {m.advice for m in missing}
    assert source.engine().login_limitations() == []


def test_a_wrong_password_is_refused_not_retried(source: Endpoint) -> None:
    engine = source.engine()
    engine._password = "wrong"

    with pytest.raises(LoginRefused):
        engine.is_replica()


def test_a_server_that_is_gone_is_unreachable(world: World) -> None:
    source = world.primary()
    engine = source.engine()
    engine.ensure_control_database()
    engine.replayed()
    source.server.crash()

    with pytest.raises(DatabaseUnreachable):
        engine.replayed()
    source.server.destroy()


def test_both_sides_show_one_identity(source: Endpoint, replica: Endpoint) -> None:
    fence = fenced(source)
    position = source.engine().mark(OURS)
    eventually(lambda: replica.engine().has_replayed(position))
    replica.server.promote()

    here, there = source.engine().control_view(OURS, fence), replica.engine().control_view(OURS, fence)

    assert here.system_identifier == there.system_identifier
    assert (here.databases, here.roles) == (there.databases, there.roles)
    assert (there.in_recovery, there.marker_seen, there.fence_breach) == (False, True, None)


def test_a_replica_says_how_far_it_is(source: Endpoint, replica: Endpoint) -> None:
    source.engine().mark(OURS)
    eventually(lambda: replica.engine().shows_marker(OURS))

    lag = replica.engine().lag()

    assert (lag.bytes, lag.streaming) == (0, True)
    assert replica.engine().is_replica()
    assert not source.engine().lag().streaming
    replica.server.pause_replay()
    later = source.engine().mark("rot-2")
    eventually(lambda: not replica.engine().lag().streaming)
    assert (replica.engine().has_replayed(later), replica.engine().shows_marker("rot-2")) == (False, False)
    assert (source.engine().has_replayed(later), source.engine().shows_marker("rot-2")) == (True, True)


def test_a_control_database_of_somebody_else_is_not_taken(world: World) -> None:
    source = world.primary()
    source.admin("CREATE DATABASE rds_key_rotation")

    with pytest.raises(NameTaken):
        source.engine().ensure_control_database()
    source.engine().drop_control_database("r")
    assert source.admin("SHOW DATABASES LIKE 'rds_key_rotation'") != []
    source.server.destroy()


def test_of_two_rotations_one_is_at_work_on_a_source(source: Endpoint) -> None:
    one, other = source.engine(), source.engine()

    assert [one.claim("one"), other.claim("other"), one.claim("one")] == ["one"] * 3
    other.drop_control_database("other")
    assert other.claim("other") == "one"

    one.decide("one", "rollback", ())
    assert other.claim("other") == "one", "what was decided is not over: the source may have to be opened"
    assert [other.claim("other", instead_of="another"), other.claim("other", instead_of="one")] == ["one", "other"]
    one.drop_control_database("one")
    one.ensure_control_database()
    other.claim("other")
    with patch.object(one, "_database", one._database.having(resource_id="db-COPY")):
        assert one.claim("one") == "one", "what came with a copy is nobody's"
    one.drop_control_database("one")
    one.ensure_control_database()


def test_a_claim_is_taken_in_safe_update_mode(source: Endpoint) -> None:
    engine = source.engine()
    with engine._control_session() as sql:
        sql.run("SET SESSION sql_safe_updates = 1")
    assert (engine.claim("one"), engine.claim("other")) == ("one", "one")
    engine.drop_control_database("one")
    engine.ensure_control_database()


def test_the_control_database_is_innodb_whatever_is_the_default(world: World) -> None:
    """A decision that a crash undoes, or that is half there, would open both sides."""
    source = world.primary()
    source.admin("SET GLOBAL default_storage_engine = 'MyISAM'")
    source.admin(f"GRANT REPLICATION SLAVE, BINLOG MONITOR ON *.* TO {account(ROTATION)}")
    source.catching_up().begin_capture("capture")

    made = source.admin("SELECT table_name, engine FROM information_schema.tables WHERE table_schema LIKE 'rds_key%'")

    assert len(made) == 9
    assert {engine for _, engine in made} == {"InnoDB"}
    source.server.destroy()


def test_the_control_database_is_removed_and_can_be_made_again(source: Endpoint) -> None:
    source.engine().drop_control_database("r")
    source.engine().drop_control_database("r")
    assert source.engine().verdict(OURS) is None
    source.engine().ensure_control_database()
    source.engine().ensure_control_database()
    assert source.engine().verdict(OURS) is None


def test_what_verify_looks_at(source: Endpoint) -> None:
    seen = source.engine().inspect()

    assert seen["shop"] == {"relations": 1}
    assert seen[f"{APPLICATION}@%"] == {"locked": False}
