"""MariaDB: a restored copy has what its source has acknowledged, once each, and serves nobody before its release."""

import contextlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import pymysql
import pytest

from lambdas.rotation.engines.mariadb_catch_up import EVERYTHING, KEPT_HOURS, MariadbCatchUp
from lambdas.rotation.errors import CatchUpFailed, DecisionLost, JournalMoved, SqlRefused, TargetMismatch
from lambdas.rotation.names import capture_name
from lambdas.rotation.snapshots import NOTES
from lambdas.rotation.state import Position
from sandbox.mariadb import SETTINGS
from tests.engines.mariadb_servers import APPLICATION, MASTER, ROTATION, Endpoint, World, account
from tests.engines.test_mariadb import Writer, eventually, insert

T = TypeVar("T")

OURS = "rot-1"
NAME = capture_name(OURS)
BEFORE, AFTER = sorted(NOTES, reverse=True)
RETENTION = "SELECT value FROM mysql.rds_configuration WHERE name = 'binlog retention hours'"
ROOM = f"SELECT JSON_VALUE(priv, '$.max_user_connections') FROM mysql.global_priv WHERE user = '{APPLICATION}'"


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with World.below_a_directory() as made:
        yield made


@pytest.fixture
def source(world: World) -> Iterator[Endpoint]:
    made = world.primary()
    made.admin(f"GRANT REPLICATION SLAVE, BINLOG MONITOR ON *.* TO {account(ROTATION)}")
    made.server.apply_parameters({"binlog_format": "ROW"})
    yield made
    made.server.destroy()


def twice(deed: Callable[[], T]) -> T:
    """Everything is delivered twice some day."""
    deed()
    return deed()


@dataclass
class CatchUp:
    source: Endpoint
    copy: Endpoint
    publisher: MariadbCatchUp
    follower: MariadbCatchUp
    begun: Position

    def position(self) -> Position:
        found = self.follower.end_of_recovery(self.begun, lambda words: ())
        assert found is not None
        return found

    def subscribe(self) -> Position:
        position = self.position()
        self.publisher.begin_behind(NAME, EVERYTHING, position)
        twice(lambda: self.follower.subscribe(NAME, EVERYTHING, self.publisher._database, position))
        eventually(lambda: self.follower.is_subscribed(NAME, EVERYTHING))
        return position

    def delivered(self, position: Position) -> None:
        eventually(lambda: self.publisher.has_delivered(NAME, self.follower, 1, position))


@pytest.fixture
def restored(world: World, source: Endpoint) -> Iterator[CatchUp]:
    """A copy that was taken after the capture began; it stands there closed."""
    with copied(world, source) as made:
        yield made


@contextlib.contextmanager
def copied(world: World, source: Endpoint) -> Iterator[CatchUp]:
    publisher = source.catching_up()
    units, begun = twice(lambda: publisher.begin_capture(NAME))
    assert units == (EVERYTHING,)
    twice(lambda: publisher.leave_a_note(OURS, BEFORE))
    copy = world.restored(source)
    try:
        twice(lambda: publisher.leave_a_note(OURS, AFTER))
        follower = copy.catching_up()
        assert follower.is_untouched()
        twice(follower.keep_closed)
        yield CatchUp(source, copy, publisher, follower, begun)
    finally:
        copy.server.destroy()


@contextlib.contextmanager
def writing(source: Endpoint, count: int = 4) -> Iterator[list[Writer]]:
    made = [Writer(source) for _ in range(count)]
    for writer in made:
        writer.start()
    eventually(lambda: all(writer.acknowledged > 5 for writer in made))
    try:
        yield made
    finally:
        for writer in made:
            writer.end()


def rows(endpoint: Endpoint) -> list[object]:
    return endpoint.admin("SELECT * FROM shop.kept ORDER BY 1")


def ids(endpoint: Endpoint) -> set[int]:
    return {number for (number,) in endpoint.admin("SELECT id FROM shop.kept")}


def is_closed(endpoint: Endpoint, user: str = APPLICATION) -> bool:
    try:
        endpoint.connect(user, database=None).close()
    except pymysql.MySQLError as refused:
        return refused.args[0] in (1226, 4151)
    return False


# -- the whole procedure -----------------------------------------------------------------------------------------------


def test_what_was_acknowledged_is_on_the_copy_exactly_once(world: World, source: Endpoint) -> None:
    source.admin(f"ALTER USER {account(APPLICATION)} WITH MAX_USER_CONNECTIONS 40")
    with writing(source) as writers, copied(world, source) as done:
        assert is_closed(done.copy)
        assert is_closed(done.copy, MASTER)
        done.subscribe()
        eventually(lambda: done.publisher.delivery(NAME, done.follower).connected)
        so_far = sum(writer.acknowledged for writer in writers)
        eventually(lambda: sum(writer.acknowledged for writer in writers) > so_far + 50)
        # What other engines cannot carry comes by itself: a schema, an account, what is given once.
        source.admin("ALTER TABLE shop.kept ADD COLUMN remark VARCHAR(9) DEFAULT 'new'")
        source.admin("CREATE SEQUENCE shop.numbers")
        source.admin("SELECT NEXTVAL(shop.numbers)")
        source.admin("CREATE USER late IDENTIFIED BY 'secret'")
        eventually(lambda: done.follower.has_notes_once(OURS, NOTES))

        plan = done.publisher.plan_fence(())
        with done.publisher.witnesses(OURS, NAME, plan) as testify:
            done.publisher.raise_fence(OURS, plan, 15)
            testify()
        position = done.publisher.mark(OURS)
        at_the_fence = rows(source)
        done.delivered(position)
        assert done.follower.shows_marker(OURS)
        twice(lambda: done.follower.take_over(OURS, NAME))
        eventually(lambda: done.publisher.dismiss_senders(NAME))
        twice(lambda: done.follower.raise_fence(OURS, plan, 5))
        assert (done.publisher.fence_breach(plan), done.follower.fence_breach(plan)) == (None, None)
        here, there = (engine.control_view(OURS, plan) for engine in (done.publisher, done.follower))
        assert (here.system_identifier, here.databases, here.roles) == (
            there.system_identifier, there.databases, there.roles,
        )  # fmt: skip
        assert not there.in_recovery
        assert done.publisher.has_delivered(NAME, done.follower, 1, position)
        assert is_closed(done.copy)

        assert twice(lambda: done.follower.decide(OURS, "release", plan)) == "release"
        for side in (done.follower, done.publisher):
            twice(lambda side=side: side.end_capture(NAME))  # type: ignore[misc]

        acknowledged, unanswered = sum(w.acknowledged for w in writers), sum(w.unanswered for w in writers)
        assert acknowledged <= len(at_the_fence) <= acknowledged + unanswered
        assert rows(done.copy) == at_the_fence == rows(source)
        assert done.copy.admin("SELECT NEXTVAL(shop.numbers)") > [(1,)]
        with done.copy.connect() as connection:
            insert(connection)
        assert is_closed(source)
        assert done.copy.admin(ROOM) == [("40",)]
        assert (source.admin(RETENTION), done.copy.admin(RETENTION)) == ([(None,)], [(None,)])
        assert not done.copy.admin("SHOW ALL SLAVES STATUS")
        passwords = done.copy.server.data.rglob("*.info")
        assert not [one for one in passwords if source.passwords[ROTATION].encode() in one.read_bytes()]
        [[own, *_]] = done.copy.admin("SHOW BINARY LOGS")[-1:]  # the source's has how the account was made
        assert source.passwords[ROTATION].encode() not in (done.copy.server.data / own).read_bytes()


def test_a_snapshot_under_load_ends_where_the_copy_says(world: World, source: Endpoint) -> None:
    """Again and again: whatever was half done when the volume was copied is there whole, or not at all."""
    with writing(source):
        for _ in range(4):
            with copied(world, source) as done:
                position = done.subscribe()
                before = ids(source)
                done.delivered(done.publisher.mark(OURS))
                assert position != done.begun
                assert before <= ids(done.copy) <= ids(source)
                assert done.follower.has_notes_once(OURS, NOTES)
            source.admin("TRUNCATE rds_key_rotation.note")


# -- closed until it is released ---------------------------------------------------------------------------------------


def test_a_source_that_is_opened_again_does_not_open_its_copy(restored: CatchUp) -> None:
    """A rollback under the fence: the copy goes on replicating until somebody deletes it."""
    restored.subscribe()
    plan = restored.publisher.plan_fence(())
    restored.publisher.raise_fence(OURS, plan, 15)
    restored.delivered(restored.publisher.mark(OURS))

    restored.publisher.decide(OURS, "rollback", plan)
    restored.delivered(restored.publisher.mark("later"))

    with restored.source.connect() as connection:
        insert(connection)
    assert is_closed(restored.copy)
    assert is_closed(restored.copy, MASTER)


def test_an_account_that_was_renamed_meanwhile_gets_in_again(restored: CatchUp) -> None:
    """It takes its closing along, and the copy knows it by another name."""
    restored.subscribe()
    restored.source.admin(f"RENAME USER {account(APPLICATION)} TO renamed@'%'")
    plan = restored.publisher.plan_fence(())
    restored.publisher.raise_fence(OURS, plan, 15)
    restored.delivered(restored.publisher.mark(OURS))
    restored.follower.take_over(OURS, NAME)

    restored.follower.decide(OURS, "release", plan)

    assert "renamed@%" in {fence.name for fence in plan} <= set(restored.copy.catching_up().inspect())


def test_who_comes_late_does_not_close_what_was_released(restored: CatchUp) -> None:
    restored.subscribe()
    plan = restored.publisher.plan_fence(())
    restored.publisher.raise_fence(OURS, plan, 15)
    restored.delivered(restored.publisher.mark(OURS))
    restored.follower.take_over(OURS, NAME)
    late, position = restored.copy.catching_up(), restored.begun
    with pytest.raises(JournalMoved, match="has caught up already"):
        late.subscribe(NAME, EVERYTHING, restored.publisher._database, position)
    restored.follower.decide(OURS, "release", plan)

    for deed in (
        late.keep_closed,
        lambda: late.take_over(OURS, NAME),
        lambda: late.subscribe(NAME, EVERYTHING, restored.publisher._database, position),
    ):
        with pytest.raises(DecisionLost):
            deed()

    with restored.copy.connect() as connection:
        insert(connection)
    assert not restored.copy.admin("SHOW ALL SLAVES STATUS")


def test_who_was_in_before_it_was_closed_is_ended_and_seen(world: World, source: Endpoint) -> None:
    source.catching_up().begin_capture(NAME)
    source.catching_up().leave_a_note(OURS, BEFORE)
    copy = world.restored(source)
    try:
        with contextlib.closing(copy.connect()) as connection:
            insert(connection)
            copy.catching_up().keep_closed()
            with pytest.raises((pymysql.MySQLError, OSError)):
                insert(connection)
        assert not copy.catching_up().is_untouched()
    finally:
        copy.server.destroy()


# -- where its recovery ended ------------------------------------------------------------------------------------------


def test_without_the_binary_log_nobody_can_tell(restored: CatchUp) -> None:
    """RDS documents nowhere that it restores that."""
    restored.copy.admin("RESET MASTER")

    with pytest.raises(CatchUpFailed, match="does not tell where"):
        restored.position()


def test_a_failover_to_another_server_is_seen(restored: CatchUp) -> None:
    with restored.copy.server.session(binlog=True) as sql:
        sql.run("SET SESSION server_id = 4711")
        sql.run("INSERT INTO shop.kept (worker) VALUES (1)")

    with pytest.raises(CatchUpFailed, match="another server has written"):
        restored.position()


def test_a_domain_that_appeared_meanwhile_is_seen(restored: CatchUp) -> None:
    """Nobody has said from where its transactions are to come."""
    with restored.copy.server.session(binlog=True) as sql:
        sql.run("SET SESSION server_id = 4711, gtid_domain_id = 7")
        sql.run("INSERT INTO shop.kept (worker) VALUES (1)")

    with pytest.raises(CatchUpFailed, match="domain 7 appeared"):
        restored.position()


def test_a_replication_is_set_up_once(restored: CatchUp) -> None:
    """Whatever dies in between: set again it would bring twice what has come since."""
    position = restored.subscribe()
    with restored.source.connect() as connection:
        for _ in range(5):
            insert(connection)
    restored.delivered(restored.publisher.mark(OURS))
    restored.copy.admin("STOP ALL SLAVES")
    assert not restored.follower.is_subscribed(NAME, EVERYTHING)

    restored.follower.subscribe(NAME, EVERYTHING, restored.publisher._database, position)
    eventually(lambda: restored.follower.is_subscribed(NAME, EVERYTHING))
    restored.delivered(restored.publisher.mark("again"))

    assert restored.copy.written() == 5


def test_an_attempt_that_died_in_between_is_carried_on(restored: CatchUp) -> None:
    """The source is set, and nothing else: neither that it was, nor that it began."""
    position = restored.position()
    with restored.follower._control_session() as sql:
        restored.follower._set_source(sql, restored.publisher._database, position)
    assert not restored.follower.is_subscribed(NAME, EVERYTHING)

    restored.subscribe()
    restored.delivered(restored.publisher.mark(OURS))
    restored.follower.take_over(OURS, NAME)

    with pytest.raises(JournalMoved):
        restored.follower.subscribe(NAME, EVERYTHING, restored.publisher._database, position)


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ("CHANGE MASTER TO MASTER_USE_GTID = current_pos", "would begin at"),
        ("SET GLOBAL gtid_slave_pos = '0-99-1'", "would begin at"),
        ("CHANGE MASTER TO MASTER_SSL = 0", "would not be encrypted"),
    ],
)
def test_a_replication_that_would_begin_elsewhere_is_not_begun(restored: CatchUp, changed: str, why: str) -> None:
    """RDS's procedure is not ours."""
    position = restored.position()
    with restored.follower._control_session() as sql:
        restored.follower._set_source(sql, restored.publisher._database, position)
    restored.copy.admin(changed)

    with pytest.raises(CatchUpFailed, match=why):
        restored.follower.subscribe(NAME, EVERYTHING, restored.publisher._database, position)

    assert not restored.follower.is_subscribed(NAME, EVERYTHING)


def test_a_restarted_copy_goes_on_where_it_was(restored: CatchUp) -> None:
    position = restored.subscribe()
    with restored.source.connect() as connection:
        insert(connection)
    restored.delivered(restored.publisher.mark(OURS))
    restored.copy.server.crash()
    restored.copy.server.start()
    restored.follower = restored.copy.catching_up()

    if not restored.follower.is_subscribed(NAME, EVERYTHING):
        restored.follower.subscribe(NAME, EVERYTHING, restored.publisher._database, position)
    restored.delivered(restored.publisher.mark("again"))

    assert restored.copy.written() == 1
    assert is_closed(restored.copy)


def test_statements_that_are_logged_meanwhile_stop_it(restored: CatchUp) -> None:
    """The copy has the source's parameter group, and somebody has changed that in the hours between."""
    with restored.copy.server.session() as sql:
        sql.run("SET GLOBAL general_log = 1")

    with pytest.raises(CatchUpFailed, match="statements are logged"):
        restored.follower.subscribe(NAME, EVERYTHING, restored.publisher._database, restored.position())


def test_a_transaction_that_is_prepared_still_is_seen_before_the_fence(restored: CatchUp) -> None:
    """Its commit may be in the log that the copy goes on from."""
    assert not restored.follower.differing_catalogs({})
    with restored.copy.server.session() as sql:
        for statement in ("XA START 'x'", "INSERT INTO shop.kept (worker) VALUES (1)", "XA END 'x'", "XA PREPARE 'x'"):
            sql.run(statement)

    assert list(restored.follower.differing_catalogs({})) == ["1 prepared XA transaction(s)"]


@pytest.mark.parametrize(
    "change",
    [
        "ALTER TABLE shop.kept ADD COLUMN token CHAR(36) DEFAULT uuid()",
        "ALTER TABLE shop.kept ADD COLUMN token DOUBLE DEFAULT (rand() + 1)",
        "ALTER TABLE shop.plain ADD COLUMN token INT AUTO_INCREMENT PRIMARY KEY",
        "ALTER TABLE shop.kept MODIFY COLUMN worker INT DEFAULT nextval(shop.numbers)",
    ],
)
def test_values_that_each_server_makes_itself_are_seen(world: World, source: Endpoint, change: str) -> None:
    """A schema change is replicated as the statement that it was, and the copy runs it once more."""
    source.admin("CREATE TABLE shop.plain (x INT)")
    source.admin("CREATE SEQUENCE shop.numbers")
    with source.connect() as connection:
        insert(connection)
    with copied(world, source) as done:
        done.subscribe()
        source.admin(change)
        source.catching_up().begin_capture(NAME)  # a delivery that comes late does not take it for what was there
        plan = done.publisher.plan_fence(())
        done.publisher.raise_fence(OURS, plan, 15)
        done.delivered(done.publisher.mark(OURS))

        [seen] = done.follower.differing_catalogs({})
        assert re.match(r"shop\.\w+\.(token|worker) ", seen)
        with pytest.raises(TargetMismatch, match=re.escape(seen)):
            done.follower.take_over(OURS, NAME)
        assert done.copy.admin("SHOW ALL SLAVES STATUS"), "it goes on replicating until it is deleted"


def test_a_schema_change_that_makes_the_same_values_is_let_pass(world: World, source: Endpoint) -> None:
    """Also one of tables that came after the capture began: their rows were replicated as rows."""
    source.admin("CREATE TABLE shop.tokens (token CHAR(36) DEFAULT uuid(), n INT)")
    with source.connect() as connection:
        insert(connection)
    with copied(world, source) as done:
        done.subscribe()
        for statement in (
            "CREATE TABLE shop.late (id INT AUTO_INCREMENT PRIMARY KEY, token CHAR(36) DEFAULT uuid())",
            "INSERT INTO shop.late () VALUES (), ()",
            "ALTER TABLE shop.late ADD COLUMN n INT DEFAULT -1",
            "INSERT INTO shop.tokens (n) VALUES (1)",
            "ALTER TABLE shop.tokens ADD COLUMN word VARCHAR(30) DEFAULT 'uuid() (it''s none)', ADD COLUMN none DATE, "
            "ADD COLUMN d DECIMAL(5, 2) DEFAULT 1.5, ADD COLUMN at TIMESTAMP(3) DEFAULT CURRENT_TIMESTAMP(3)",
        ):
            source.admin(statement)
        done.delivered(done.publisher.mark(OURS))

        assert not done.follower.differing_catalogs({})
        done.follower.take_over(OURS, NAME)
        for table in ("late", "tokens"):
            assert source.admin(f"SELECT * FROM shop.{table}") == done.copy.admin(f"SELECT * FROM shop.{table}") != []


def test_accounts_that_differ_by_case_alone_keep_what_is_theirs(restored: CatchUp) -> None:
    """A limit of none is one that somebody has set, too."""
    limits = {"shop@%": 3, "SHOP@%": 5, "nobody@%": -1, "käse@%": 7}
    with restored.copy.server.session() as sql:
        for name, sessions in limits.items():
            user = name.partition("@")[0]
            sql.run(f"CREATE USER `{user}`@'%' IDENTIFIED BY 'secret' WITH MAX_USER_CONNECTIONS {sessions}")
    twice(restored.follower.keep_closed)

    restored.follower.take_over(OURS, NAME)
    fenced = restored.follower.plan_fence(())
    twice(lambda: restored.follower.decide(OURS, "release", fenced))

    found = restored.copy.admin(
        "SELECT CONCAT(user, '@', host), JSON_VALUE(priv, '$.max_user_connections') FROM mysql.global_priv"
    )
    assert limits == {name: int(sessions) for name, sessions in found if name in limits}
    assert limits.keys() <= restored.follower.inspect().keys(), "it was closed before, and is as open as it was"


def test_what_an_earlier_rotation_wrote_down_is_not_taken_for_this_ones(world: World, source: Endpoint) -> None:
    """Its control database may have been left over, on what is the source now."""
    source.catching_up().begin_capture("earlier")
    source.admin(f"INSERT INTO rds_key_rotation.room VALUES ('{APPLICATION}@%', 7)")
    with copied(world, source) as done:
        done.subscribe()
        source.catching_up().begin_capture(NAME)  # a delivery that comes late takes nothing from the copy
        done.delivered(done.publisher.mark(OURS))
        done.follower.take_over(OURS, NAME)
        done.follower.decide(OURS, "release", ())

        assert done.copy.admin(ROOM) == [("0",)]


def test_a_password_is_in_no_error(restored: CatchUp) -> None:
    """One that is too long for a replication is quoted by the server."""
    position = restored.position()
    restored.follower._password = "p" * 97

    with pytest.raises(SqlRefused, match=r"rds_set_external_master_gtid was refused") as refused:
        restored.follower.subscribe(NAME, EVERYTHING, restored.publisher._database, position)

    assert "ppp" not in str(refused.value)


# -- how far it is -----------------------------------------------------------------------------------------------------


def test_what_it_cannot_apply_ends_it(restored: CatchUp) -> None:
    restored.subscribe()
    with restored.copy.server.session() as sql:
        sql.run("INSERT INTO shop.kept VALUES (1, 77)")
    with restored.source.connect() as connection:
        insert(connection)

    with pytest.raises(CatchUpFailed, match="error 1062"):
        eventually(lambda: restored.publisher.delivery(NAME, restored.follower).lost)
    assert restored.follower.is_subscribed(NAME, EVERYTHING), "nobody starts it again"


def test_a_binary_log_that_is_gone_is_seen(restored: CatchUp) -> None:
    position = restored.position()
    for _ in range(2):
        with restored.source.connect() as connection:
            insert(connection)
        restored.source.admin("FLUSH BINARY LOGS")
    [[last, *_]] = restored.source.admin("SHOW BINARY LOGS")[-1:]
    restored.source.admin(f"PURGE BINARY LOGS TO '{last}'")

    restored.follower.subscribe(NAME, EVERYTHING, restored.publisher._database, position)

    eventually(lambda: restored.publisher.delivery(NAME, restored.follower).lost)


def test_how_much_lies_behind_it_is_counted_at_the_source(restored: CatchUp) -> None:
    before = restored.publisher.delivery(NAME, restored.follower)
    assert (before.connected, before.lost, before.slots) == (False, False, 1)
    assert before.bytes > 0
    restored.subscribe()
    restored.delivered(restored.publisher.mark(OURS))
    eventually(lambda: restored.publisher.delivery(NAME, restored.follower).bytes == 0)
    restored.copy.server.pause_replay()
    with restored.source.connect() as connection:
        connection.cursor().execute("INSERT INTO kept (worker) SELECT seq FROM seq_1_to_5000")

    behind = restored.publisher.delivery(NAME, restored.follower)

    assert behind.bytes > 5000 * 8
    assert not behind.connected


# -- what is given back ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("earlier", "meanwhile"), [("NULL", KEPT_HOURS), ("24", KEPT_HOURS), ("168", 168)])
def test_the_binary_log_is_kept_as_long_as_it_takes(source: Endpoint, earlier: str, meanwhile: int) -> None:
    source.admin(f"CALL mysql.rds_set_configuration('binlog retention hours', {earlier})")
    source.catching_up().begin_capture(NAME)
    assert source.admin(RETENTION) == [(str(meanwhile),)]

    twice(lambda: source.catching_up().end_capture(NAME))

    assert source.admin(RETENTION) == [(None if earlier == "NULL" else earlier,)]


def test_a_capture_that_has_not_begun_can_be_ended(source: Endpoint) -> None:
    source.catching_up().end_capture(NAME)


# -- what forbids it ---------------------------------------------------------------------------------------------------


def test_a_plain_server_is_not_refused(source: Endpoint) -> None:
    source.admin("CREATE TABLE shop.kept_for_ever (x INT) WITH SYSTEM VERSIONING")
    source.admin("CREATE SEQUENCE shop.numbers")
    source.admin("CREATE VIEW shop.few AS SELECT id FROM shop.kept LIMIT 3")
    engine = source.catching_up()

    assert [*engine.login_limitations(), *engine.limitations(())] == []


@pytest.mark.parametrize(
    ("statements", "name"),
    [
        (("SET GLOBAL sync_binlog = 0",), "NotDurable"),
        (("SET GLOBAL innodb_flush_log_at_trx_commit = 2",), "NotDurable"),
        (("SET GLOBAL slave_exec_mode = 'IDEMPOTENT'",), "ReplicationErrorsSkipped"),
        (("SET GLOBAL gtid_strict_mode = 1",), "GtidStrictMode"),
        (("CHANGE MASTER TO MASTER_HOST = 'elsewhere'",), "Subscriptions"),
        (("CREATE TABLE shop.old (x INT) ENGINE = MyISAM",), "TablesNotRecovered"),
        (("CREATE TABLE shop.old (x INT) ENGINE = MyISAM PARTITION BY HASH (x)",), "TablesNotRecovered"),
        # Neither of them is a BASE TABLE to the server.
        (("CREATE TABLE shop.old (x INT) WITH SYSTEM VERSIONING ENGINE = Aria",), "TablesNotRecovered"),
        (("CREATE SEQUENCE shop.numbers ENGINE = MyISAM",), "TablesNotRecovered"),
        (("SET GLOBAL general_log = 1",), "StatementsLogged"),
        # Also when it is empty: what the copy lacks may be gone again when somebody looks.
        (("CREATE TABLE shop.m (x INT) ENGINE = MEMORY",), "TablesNotRecovered"),
        (("CREATE TABLE shop.m (x INT) ENGINE = MEMORY", "INSERT INTO shop.m VALUES (1)"), "TablesNotRecovered"),
        (("SET GLOBAL binlog_format = 'MIXED'",), "StatementReplication"),
    ],
)
def test_what_a_copy_could_not_follow_is_refused(source: Endpoint, statements: tuple[str, ...], name: str) -> None:
    with source.server.session() as sql:
        for statement in statements:
            sql.run(statement)

    [finding] = source.catching_up().limitations(("memory-tables",))

    assert finding.name == name


def test_a_server_without_a_binary_log_is_refused(source: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(SETTINGS, "log-bin")
    source.server.restart()

    assert "BinaryLogOff" in [one.name for one in source.catching_up().limitations(())]


@pytest.mark.parametrize("right", ["REPLICATION SLAVE", "BINLOG MONITOR"])
def test_a_login_that_cannot_replicate_is_told_so(source: Endpoint, right: str) -> None:
    source.admin(f"REVOKE {right} ON *.* FROM {account(ROTATION)}")

    [finding] = source.catching_up().login_limitations()

    assert right in finding.message
