"""A copy that is restored while applications write, and catches up (docs/adr/0017), on real servers.

Everything goes through the engine, as the login of a rotation, which is no superuser. What must come out is always the
same: what was acknowledged is on the copy, exactly once.
"""

import contextlib
import re
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pg8000.exceptions
import pg8000.native
import pytest

from lambdas.rotation.engines import postgres_catalogs, postgres_catch_up
from lambdas.rotation.engines.postgres import Session
from lambdas.rotation.engines.postgres_catalogs import catalogs_of, differing
from lambdas.rotation.engines.postgres_catch_up import PostgresCatchUp
from lambdas.rotation.errors import (
    CatchUpFailed,
    DatabaseUnreachable,
    DecisionLost,
    FenceBroken,
    JournalMoved,
    PreflightRefused,
    RotationError,
    TargetMismatch,
)
from lambdas.rotation.names import CONTROL_DATABASE, capture_name
from lambdas.rotation.state import DatabaseFence, Position
from sandbox.postgres import PORT, literal, quoted
from tests import pg_cron
from tests.engines.servers import APPLICATION, AWKWARD, DATABASES, LONG, MASTER, Endpoint, World
from tests.engines.test_postgres_login import altered

SECRET = "hunter2"
PASSWORD = f"{SECRET}'s \\ \"own\" = it's"
NOTES = ("after", "before")
CAPTURED = (AWKWARD, "orders", LONG, CONTROL_DATABASE)
SEQUENCES = ("kept_id_seq", "never", 'set "back" 2', "descending", "hoarded", 'Order "lines" 2_id_seq')
ENDED = (pg8000.exceptions.Error, OSError)

TABLES = """
CREATE TABLE journal (n bigint);
ALTER TABLE journal REPLICA IDENTITY FULL;
CREATE TABLE "Order ""lines"" 2" (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, text text, size int DEFAULT 1);
INSERT INTO "Order ""lines"" 2" (text) SELECT string_agg(md5(n::text || m::text), '')
    FROM generate_series(1, 20) n, generate_series(1, 200) m GROUP BY n;
CREATE TABLE emptied (id int PRIMARY KEY);
INSERT INTO emptied VALUES (1), (2);
ALTER TABLE emptied ADD COLUMN fast int DEFAULT 7;
CREATE SEQUENCE never;
CREATE SEQUENCE used;
CREATE SEQUENCE "set ""back"" 2";
CREATE SEQUENCE descending INCREMENT -3 MAXVALUE 100 START 100;
CREATE SEQUENCE hoarded CACHE 20;
CREATE TABLE measured (at date NOT NULL, n int, PRIMARY KEY (at, n)) PARTITION BY RANGE (at);
CREATE TABLE measured_then PARTITION OF measured FOR VALUES FROM ('2026-01-01') TO ('2027-01-01');
CREATE TABLE measured_now PARTITION OF measured DEFAULT;
CREATE TABLE parent (id int PRIMARY KEY);
CREATE TABLE child (PRIMARY KEY (id)) INHERITS (parent);
CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN INSERT INTO journal VALUES (-NEW.id); RETURN NEW; END $$;
CREATE TYPE mood AS ENUM ('sad', 'glad');
CREATE TABLE slimmed (id int PRIMARY KEY, text text);
ALTER TABLE slimmed DROP COLUMN text;
CREATE RULE ruled AS ON INSERT TO emptied DO ALSO INSERT INTO journal VALUES (-2000);
ALTER TABLE emptied ENABLE ALWAYS RULE ruled;
CREATE TRIGGER notes AFTER INSERT ON "Order ""lines"" 2" FOR EACH ROW EXECUTE FUNCTION note();
"""
# Every table gets an insert, an update and a delete between snapshot and fence; one is emptied, one is written anew.
CHANGES = """
INSERT INTO "Order ""lines"" 2" (text) VALUES ('new'), ('newer');
UPDATE "Order ""lines"" 2" SET size = size + 1;
DELETE FROM "Order ""lines"" 2" WHERE id = 3;
VACUUM FULL "Order ""lines"" 2";
TRUNCATE emptied;
INSERT INTO emptied VALUES (3);
INSERT INTO measured VALUES ('2026-05-01', 1), ('2027-05-01', 2);
UPDATE measured SET at = '2028-01-01' WHERE n = 1;
INSERT INTO parent VALUES (1);
INSERT INTO child VALUES (2);
DELETE FROM parent WHERE id = 1;
INSERT INTO journal VALUES (-1000), (-1000), (-1001);
DELETE FROM journal WHERE n = -1001;
SELECT setval('"set ""back"" 2"', 41, false);
SELECT nextval('descending'), nextval('descending'), nextval('hoarded');
CREATE TEMP TABLE scratch (id serial PRIMARY KEY, text text);
INSERT INTO scratch (text) VALUES ('mine');
BEGIN;
CREATE TABLE never_was (n int);
ALTER TABLE kept ADD COLUMN never_was int;
ROLLBACK;
REINDEX TABLE kept;
VACUUM ANALYZE kept
"""


def statements(script: str) -> list[str]:
    return [one.strip() for one in re.split(r";\n", script) if one.strip()]


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def twice(call: Callable[[], Any]) -> Any:
    """Every step may be repeated: its answer may not have arrived."""
    call()
    return call()


def end_of_recovery(copy: Endpoint) -> Position:
    """Of the first one: a copy may crash later on."""
    return Position(re.findall(r"redo done at ([0-9A-F]+/[0-9A-F]+)", copy.server.log.read_text())[0])


def keeps_the_secret(endpoint: Endpoint) -> bool:
    log = endpoint.server.log.read_text()
    assert "LOG:  statement" in log, "it says what it is told"
    return SECRET not in log


# -- the world ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    """With a password that has to be quoted, for libpq and for SQL."""
    with World.below_a_directory() as made:
        made.passwords[MASTER] = PASSWORD
        yield made


@pytest.fixture(scope="module")
def shared_source(world: World) -> Iterator[Endpoint]:
    """As talkative as a server can be, and its copies are: none of their logs may know the password."""
    source = world.primary(wal_level="logical", max_slot_wal_keep_size="1024")
    for database in DATABASES:
        with contextlib.closing(source.connect(database)) as sql:
            for statement in statements(TABLES):
                sql.run(statement)
    source.admin("CREATE DATABASE closed ALLOW_CONNECTIONS false")
    for setting in (
        "log_statement = 'all'",
        "log_min_duration_statement = 0",
        "log_parameter_max_length_on_error = -1",
        "log_connections = on",
        "log_replication_commands = on",
        "wal_receiver_status_interval = '10s'",  # as it is on RDS: the drain must not wait for it
    ):
        source.admin(f"ALTER SYSTEM SET {setting}")
    source.admin("SELECT pg_reload_conf()")
    yield source
    assert keeps_the_secret(source)


@pytest.fixture
def source(shared_source: Endpoint) -> Iterator[Endpoint]:
    yield shared_source
    tidy(shared_source)


def tidy(source: Endpoint) -> None:
    """Open, undecided, and capturing nothing."""
    engine = source.catching_up()
    source.admin("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename IN ('master', 'shop app')")
    for name in (*DATABASES, "postgres", "template1"):
        source.admin(f"ALTER DATABASE {quoted(name)} ALLOW_CONNECTIONS true CONNECTION LIMIT -1")
    for (name,) in source.admin("SELECT datname FROM pg_database WHERE datname LIKE 'late%'"):
        source.admin(f"DROP DATABASE {quoted(name)} WITH (FORCE)")
    if source.admin(f"SELECT FROM pg_database WHERE datname = '{CONTROL_DATABASE}'"):
        for name in {
            name for database in CAPTURED for (name,) in source.admin("SELECT pubname FROM pg_publication", database)
        }:
            engine.end_capture(name)
        for (table,) in source.admin("SELECT tablename FROM pg_tables WHERE schemaname = 'public'", CONTROL_DATABASE):
            source.admin(f"TRUNCATE public.{table}", CONTROL_DATABASE)


@dataclass
class Writers:
    """Clients that commit in every database all the time, and know what was acknowledged."""

    source: Endpoint
    acknowledged: dict[str, list[int]] = field(default_factory=lambda: {name: [] for name in DATABASES})

    def __enter__(self) -> "Writers":
        self._threads = [threading.Thread(target=self._write, args=[name]) for name in DATABASES]
        for thread in self._threads:
            thread.start()
        self.wait_for(10)
        return self

    def __exit__(self, *_: object) -> None:
        self.source.admin(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{APPLICATION}'")
        for thread in self._threads:
            thread.join()

    def wait_for(self, more: int) -> None:
        for numbers in self.acknowledged.values():
            wanted = len(numbers) + more
            wait_until(lambda numbers=numbers, wanted=wanted: len(numbers) >= wanted)  # type: ignore[misc]

    def _write(self, database: str) -> None:
        with contextlib.suppress(*ENDED), contextlib.closing(self.source.connect(database)) as sql:
            while True:
                [[number]] = sql.run(
                    "WITH new AS (INSERT INTO kept DEFAULT VALUES RETURNING id), "
                    "noted AS (INSERT INTO journal SELECT id FROM new) SELECT id FROM new"
                )
                self.acknowledged[database].append(number)
                time.sleep(0.005)  # the others of this machine want to work, too


Plan = tuple[DatabaseFence, ...]


@dataclass
class CatchUp:
    """One rotation: the source and its copy, each with its engine."""

    source: Endpoint
    copy: Endpoint
    rotation_id: str
    position: Position
    publisher: PostgresCatchUp
    follower: PostgresCatchUp

    @property
    def name(self) -> str:
        return capture_name(self.rotation_id)

    def subscribe(self, database: str) -> None:
        self.publisher.begin_behind(self.name, database, self.position)
        self.follower.subscribe(self.name, database, self.publisher._database, self.position)

    def come_close(self) -> None:
        wait_until(lambda: self.publisher.delivery(self.name, self.follower).connected)
        wait_until(lambda: self.follower.has_notes_once(self.rotation_id, NOTES))

    def raise_fence(self, plan: Plan) -> Position:
        with self.publisher.witnesses(self.rotation_id, self.name, plan) as testify:
            self.publisher.raise_fence(self.rotation_id, plan, 15)
            testify()
        return self.publisher.mark(self.rotation_id)

    def drain(self, position: Position) -> None:
        wait_until(lambda: self.publisher.has_delivered(self.name, self.follower, len(CAPTURED), position))


@contextlib.contextmanager
def catching_up(
    world: World,
    source: Endpoint,
    rotation_id: str,
    *,
    meanwhile: Callable[[], object] = lambda: None,
    subscribed: bool = True,
) -> Iterator[CatchUp]:
    """From the capture to where the copy has subscribed, or only stands there closed.

    ``meanwhile`` happens between the beginning of the capture and the snapshot.
    """
    publisher, name = source.catching_up(), capture_name(rotation_id)
    databases, begun = twice(lambda: publisher.begin_capture(name))
    assert sorted(CAPTURED) == sorted(databases)
    twice(lambda: publisher.leave_a_note(rotation_id, "before"))
    meanwhile()
    copy = world.restored(source)
    try:
        twice(lambda: publisher.leave_a_note(rotation_id, "after"))
        follower = copy.catching_up()
        twice(follower.keep_closed)
        position = end_of_recovery(copy)
        assert [[True]] == source.admin(f"SELECT pg_lsn '{position}' > '{begun}'")
        made = CatchUp(source, copy, rotation_id, position, publisher, follower)
        for database in CAPTURED if subscribed else ():
            twice(lambda database=database: made.subscribe(database))  # type: ignore[misc]
        yield made
        assert keeps_the_secret(copy)
    finally:
        world.fronts.close_endpoint(copy.server.name)
        copy.server.destroy()


def contents(endpoint: Endpoint, database: str) -> dict[str, Counter[str]]:
    """Every row of every table."""
    tables = endpoint.admin(
        "SELECT format('%I.%I', nspname, relname) FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace "
        "WHERE relkind = 'r' AND relpersistence = 'p' AND nspname = 'public'",
        database,
    )
    return {
        table: Counter(row for (row,) in endpoint.admin(f"SELECT one::text FROM ONLY {table} one", database))
        for (table,) in tables
    }


def is_closed(endpoint: Endpoint, database: str) -> bool:
    try:
        endpoint.connect(database).close()
    except pg8000.exceptions.DatabaseError as refused:
        return refused.args[0]["C"] in ("53300", "55000")
    return False


# -- the whole procedure -----------------------------------------------------------------------------------------------


@dataclass
class Cutover:
    """What was seen when a rotation had gone all the way; the copy serves."""

    catch_up: CatchUp
    plan: Plan
    acknowledged: dict[str, list[int]]
    refusals: list[str]
    breaches: tuple[str | None, str | None]
    views: tuple[Any, Any]
    of_the_source: dict[str, dict[str, Counter[str]]]
    next_of_the_source: dict[str, list[int]]
    outage_seconds: float
    said_where_room_was_left: str | None


def next_numbers(endpoint: Endpoint, database: str) -> list[int]:
    found = [endpoint.admin("SELECT nextval(format('%I', :name)::regclass)".replace(":name", literal(name)), database)
             for name in SEQUENCES]  # fmt: skip
    return [number for [[number]] in found]


def overtaken(done: CatchUp) -> PostgresCatchUp:
    """An attempt to take over that stands still when it has read the testimony, while another one does it all."""
    slow = done.copy.catching_up()
    databases = slow._databases

    def meanwhile() -> set[str]:
        twice(lambda: done.follower.take_over("r1", done.name))
        done.copy.admin("SELECT setval('used', 777)", "orders")
        return databases()

    slow._databases = meanwhile  # type: ignore[method-assign]
    return slow


def leave_room(copy: PostgresCatchUp, database: str) -> None:
    """An attempt that dies before it is in."""
    with copy._control_session() as sql:
        copy._leave_room(sql, database, 20)


def written_where_room_was_left(done: CatchUp) -> str | None:
    """What the server says to whoever takes it; the worker that applies begins anew, and finds the same."""
    leave_room(done.follower, "orders")
    worker = "SELECT pid FROM pg_stat_activity WHERE backend_type LIKE 'logical replication%' AND datname = 'orders'"
    before = done.copy.admin(worker)
    assert before
    done.copy.admin(f"SELECT pg_terminate_backend({before[0][0]})")
    wait_until(lambda: done.copy.admin(worker) not in ([], before))
    with contextlib.closing(done.copy.connect("orders")) as sql:
        try:
            sql.run("INSERT INTO journal VALUES (-6)")
        except pg8000.exceptions.DatabaseError as refused:
            return str(refused.args[0]["C"])
    return None


@pytest.fixture(scope="module")
def cutover(world: World, shared_source: Endpoint) -> Iterator[Cutover]:
    source = shared_source
    source.admin("ALTER DATABASE orders CONNECTION LIMIT 17; ALTER DATABASE postgres CONNECTION LIMIT 5")
    refusals = []
    with contextlib.ExitStack() as stack:
        # Open at the snapshot: its table is an orphan in the copy, whose recovery knows no sessions.
        orphan = stack.enter_context(contextlib.closing(source.connect("orders")))
        orphan.run("CREATE TEMP TABLE orphan (id serial PRIMARY KEY, text text)")
        writers = stack.enter_context(Writers(source))
        done = stack.enter_context(catching_up(world, source, "r1"))
        for database in (*DATABASES, "postgres", "template1"):
            for user in (APPLICATION, MASTER):
                with pytest.raises(pg8000.exceptions.DatabaseError) as refused:
                    done.copy.connect(database, user)
                refusals.append(refused.value.args[0]["C"])
        said = written_where_room_was_left(done)
        pooled = {name: stack.enter_context(contextlib.closing(source.connect(name))) for name in DATABASES}
        for sql in pooled.values():
            for statement in statements(CHANGES):
                sql.run(statement)
        done.come_close()
        assert [] == list(done.follower.differing_catalogs(done.publisher.catalogs(done.name)))
        for sql in pooled.values():
            sql.run("BEGIN")
            sql.run("INSERT INTO journal VALUES (-5)")
        writers.wait_for(10)
        began = time.monotonic()
        plan = done.publisher.plan_fence(())
        position = twice(lambda: done.raise_fence(plan))
        for sql in pooled.values():
            with pytest.raises(ENDED):
                sql.run("COMMIT")
        done.drain(position)
        overtaken(done).take_over("r1", done.name)
        leave_room(done.follower, AWKWARD)  # somebody late
        wait_until(lambda: done.publisher.dismiss_senders(done.name))
        twice(lambda: done.follower.raise_fence("r1", plan, 5))
        breaches = done.publisher.fence_breach(plan), done.follower.fence_breach(plan)
        views = done.publisher.control_view("r1", plan), done.follower.control_view("r1", plan)
        assert "release" == twice(lambda: done.follower.decide("r1", "release", plan))
        outage_seconds = time.monotonic() - began
        twice(lambda: done.follower.end_capture(done.name))
        twice(lambda: done.publisher.end_capture(done.name))
        for database in DATABASES:
            assert is_closed(source, database)
            source.admin(f"ALTER DATABASE {quoted(database)} ALLOW_CONNECTIONS true")
        seen = Cutover(
            done, plan, writers.acknowledged, refusals, breaches, views,
            {name: contents(source, name) for name in DATABASES},
            {name: next_numbers(source, name) for name in DATABASES},
            outage_seconds,
            said,
        )  # fmt: skip
        tidy(source)
        yield seen


def test_what_was_acknowledged_is_on_the_copy_exactly_once(cutover: Cutover) -> None:
    for database, acknowledged in cutover.acknowledged.items():
        assert len(acknowledged) > 50
        of_the_copy = contents(cutover.catch_up.copy, database)
        assert cutover.of_the_source[database] == of_the_copy
        noted = of_the_copy["public.journal"]
        assert {1} == {noted[f"({number})"] for number in acknowledged}
        assert {1} == {of_the_copy["public.kept"][f"({number})"] for number in acknowledged}
        assert 0 == noted["(-5)"], "what was open at the fence was never committed"


def test_sequences_go_on_where_the_source_would_have_gone_on(cutover: Cutover) -> None:
    for database, acknowledged in cutover.acknowledged.items():
        numbers = next_numbers(cutover.catch_up.copy, database)

        assert cutover.next_of_the_source[database] == numbers
        assert numbers[0] > max(acknowledged)
        assert [1, 41, 94, 21] == numbers[1:5]


def test_sequences_are_carried_once(cutover: Cutover) -> None:
    """They may be in use when a slow attempt comes to it."""
    assert [[777]] == cutover.catch_up.copy.admin("SELECT last_value FROM used", "orders")


def test_the_copy_lets_nobody_in_before_its_release(cutover: Cutover) -> None:
    assert ["53300"] * 10 == cutover.refusals


def test_whoever_finds_room_that_was_left_may_only_read_and_what_applies_goes_on(cutover: Cutover) -> None:
    assert "25006" == cutover.said_where_room_was_left


def test_a_copy_that_was_released_is_written_to_by_default(cutover: Cutover) -> None:
    assert [] == cutover.catch_up.copy.admin("SELECT setconfig FROM pg_db_role_setting")
    with contextlib.closing(cutover.catch_up.copy.connect(AWKWARD)) as sql:
        sql.run("INSERT INTO kept DEFAULT VALUES")


def test_both_sides_are_proven_to_be_closed_before_the_release(cutover: Cutover) -> None:
    source, copy = cutover.views

    assert (None, None) == cutover.breaches
    assert (None, None) == (source.fence_breach, copy.fence_breach)
    assert source.system_identifier == copy.system_identifier
    assert (source.databases, source.roles) == (copy.databases, copy.roles)
    assert copy.marker_seen
    assert not copy.in_recovery


def test_databases_open_with_their_former_limits(cutover: Cutover) -> None:
    limits = dict(cutover.catch_up.copy.admin("SELECT datname, datconnlimit FROM pg_database WHERE datallowconn"))

    assert (17, 5, -1, -1, -1) == tuple(limits[name] for name in ("orders", "postgres", AWKWARD, LONG, "template1"))
    for database in DATABASES:
        cutover.catch_up.copy.connect(database).close()


def test_nothing_captures_any_more(cutover: Cutover) -> None:
    for side in (cutover.catch_up.source, cutover.catch_up.copy):
        assert [] == side.admin("SELECT slot_name FROM pg_replication_slots")
        assert [] == side.admin("SELECT subname FROM pg_subscription")
    for database in CAPTURED:
        assert [] == cutover.catch_up.copy.admin("SELECT pubname FROM pg_publication", database)


def test_whoever_comes_late_changes_nothing_on_a_copy_that_serves(cutover: Cutover) -> None:
    """The last acts of functions whose execution has gone on without them."""
    done = cutover.catch_up
    before = done.copy.admin("SELECT datname, datallowconn, datconnlimit FROM pg_database ORDER BY 1")
    used = next_numbers(done.copy, "orders")
    late = done.copy.catching_up()
    catalogs = {"orders": "{}"}
    with contextlib.closing(done.copy.connect("orders")) as client:
        for act in (
            late.keep_closed,
            lambda: late.subscribe(done.name, "orders", done.publisher._database, done.position),
            lambda: late.differing_catalogs(catalogs),
            lambda: late.raise_fence("r1", cutover.plan, 5),
        ):
            with pytest.raises(DecisionLost, match="'release' stands"):
                act()
        late.take_over("r1", done.name)

        assert [[1]] == client.run("SELECT 1")
    assert before == done.copy.admin("SELECT datname, datallowconn, datconnlimit FROM pg_database ORDER BY 1")
    assert used < next_numbers(done.copy, "orders")


def test_the_outage_is_short(cutover: Cutover) -> None:
    """Five databases; on a machine that has something else to do."""
    assert cutover.outage_seconds < 20


# -- crashes -----------------------------------------------------------------------------------------------------------


def test_neither_a_crash_of_the_source_nor_of_the_copy_repeats_or_loses_anything(
    world: World, source: Endpoint
) -> None:
    """Neither before anything has come to the copy nor while it does."""
    acknowledged: dict[str, list[int]] = {name: [] for name in DATABASES}

    def write() -> None:
        with Writers(source, acknowledged):
            pass

    with catching_up(world, source, "r2", meanwhile=write, subscribed=False) as done:
        for database in CAPTURED:
            done.publisher.begin_behind(done.name, database, done.position)
        # The copy's own record of how far it is begins with the first change that comes.
        source.server.crash()
        source.server.start()
        done.publisher = source.catching_up()
        for database in CAPTURED:
            done.follower.subscribe(done.name, database, done.publisher._database, done.position)
        with Writers(source, acknowledged) as writers:
            done.come_close()
            done.copy.server.crash()
            done.copy.server.start()
            done.follower = done.copy.catching_up()
            writers.wait_for(10)
            wait_until(lambda: done.publisher.delivery(done.name, done.follower).connected)
            position = done.raise_fence(done.publisher.plan_fence(()))
        done.drain(position)

        assert done.follower.has_notes_once("r2", NOTES)
        for database in DATABASES:
            source.admin(f"ALTER DATABASE {quoted(database)} ALLOW_CONNECTIONS true")
            of_the_copy = contents(done.copy, database)
            assert contents(source, database) == of_the_copy
            assert {1} == {of_the_copy["public.journal"][f"({number})"] for number in acknowledged[database]}


# -- attempts that are cut off -----------------------------------------------------------------------------------------


def repeated_until_it_ends(monkeypatch: pytest.MonkeyPatch, attempt: Callable[[], object], stride: float = 0) -> None:
    """Attempts that die after their first, second, third … statement, until one comes to its end."""
    rows, executed, limit = Session.rows, 0, 1

    def dying(session: Session, statement: str, **parameters: Any) -> list[Any]:
        nonlocal executed
        found = rows(session, statement, **parameters)
        executed += 1
        if executed >= limit:
            raise DatabaseUnreachable("the function died")
        return found

    while True:
        executed = 0
        with monkeypatch.context() as patched:
            patched.setattr(Session, "rows", dying)
            try:
                attempt()
                return
            except (DatabaseUnreachable, JournalMoved):
                limit += 1 + int(limit * stride)


def test_every_step_can_be_cut_off_and_repeated(
    world: World, source: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = capture_name("r3")
    repeated_until_it_ends(monkeypatch, lambda: source.catching_up().begin_capture(name), stride=0.1)
    assert 4 == len(source.admin("SELECT FROM pg_replication_slots"))
    with Writers(source) as writers, catching_up(world, source, "r3", subscribed=False) as done:
        for database in (AWKWARD, LONG):
            done.subscribe(database)
        for database in ("orders", CONTROL_DATABASE):
            dying = CatchUp(source, done.copy, "r3", done.position, source.catching_up(), done.copy.catching_up())
            repeated_until_it_ends(
                monkeypatch,
                lambda dying=dying, database=database: dying.subscribe(database),  # type: ignore[misc]
                stride=0.1,
            )
            assert database == CONTROL_DATABASE or is_closed(done.copy, database)
        writers.wait_for(10)
        done.come_close()
        plan = done.publisher.plan_fence(())

        def fence() -> None:
            engine = source.catching_up()
            with engine.witnesses("r3", name, plan) as testify:
                engine.raise_fence("r3", plan, 15)
                testify()

        # Each opens once more what the one before has closed, until one testifies.
        repeated_until_it_ends(monkeypatch, fence, stride=0.5)
        done.drain(done.publisher.mark("r3"))
        repeated_until_it_ends(monkeypatch, lambda: done.copy.catching_up().take_over("r3", name), stride=0.2)

        assert [] == done.copy.admin("SELECT subname FROM pg_subscription")
        for database in DATABASES:
            assert is_closed(done.copy, database)
            source.admin(f"ALTER DATABASE {quoted(database)} ALLOW_CONNECTIONS true")
            assert contents(source, database) == contents(done.copy, database)
            assert next_numbers(source, database) == next_numbers(done.copy, database)
        repeated_until_it_ends(monkeypatch, lambda: source.catching_up().end_capture(name))
        assert [] == source.admin("SELECT FROM pg_replication_slots")
        for database in CAPTURED:
            assert [] == source.admin("SELECT FROM pg_publication", database)


# -- what is noticed ---------------------------------------------------------------------------------------------------

CHANGES_OF_SCHEMA = (
    ("ALTER TABLE kept ADD COLUMN more int", "pg_attribute"),
    ("ALTER TABLE kept ALTER id SET DEFAULT 7", "pg_attrdef"),
    ("ALTER TABLE kept ADD CHECK (id > 0)", "pg_constraint"),
    ("ALTER TABLE journal SET (fillfactor = 50)", "pg_class"),
    ("CREATE INDEX ON journal (n)", "pg_index"),
    ("CREATE TABLE brand_new (id int PRIMARY KEY)", "pg_class"),
    ("CREATE TABLE later PARTITION OF measured FOR VALUES FROM ('2029-01-01') TO ('2030-01-01')", "pg_inherits"),
    ("DROP TABLE emptied", "pg_class"),
    ("CREATE FUNCTION one() RETURNS int LANGUAGE sql AS 'SELECT 1'", "pg_proc"),
    ("DROP FUNCTION note() CASCADE", "pg_trigger"),
    ('ALTER TABLE "Order ""lines"" 2" ENABLE ALWAYS TRIGGER notes', "pg_trigger"),
    ("CREATE VIEW shown AS SELECT * FROM kept", "pg_rewrite"),
    ("GRANT SELECT ON kept TO PUBLIC", "pg_class"),
    ("GRANT SELECT (id) ON kept TO PUBLIC", "pg_attribute"),
    ("GRANT CREATE ON SCHEMA public TO PUBLIC", "pg_namespace"),
    ("GRANT TEMPORARY ON DATABASE orders TO master", "pg_database"),
    ("ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO PUBLIC", "pg_default_acl"),
    ("CREATE TYPE colour AS ENUM ('red')", "pg_enum"),
    ("CREATE DOMAIN positive AS int CHECK (VALUE > 0)", "pg_type"),
    ("ALTER SEQUENCE never INCREMENT 2", "pg_sequence"),
    ("ALTER SEQUENCE never OWNED BY kept.id", "pg_depend"),
    ("CREATE STATISTICS both_columns ON at, n FROM measured_then", "pg_statistic_ext"),
    ("COMMENT ON TABLE kept IS 'kept'", "pg_description"),
    ("COMMENT ON SCHEMA public IS 'kept'", "pg_description"),
    ("CREATE POLICY mine ON kept USING (true)", "pg_policy"),
    ("SELECT lo_create(0)", "pg_largeobject_metadata"),
    ("CREATE PUBLICATION theirs FOR TABLE kept", "pg_publication"),
    ("ALTER DATABASE orders SET work_mem = '8MB'", "pg_db_role_setting"),
    ("ALTER DATABASE orders SET default_transaction_read_only = on", "pg_db_role_setting"),
    ("CREATE ROLE newcomer", "pg_roles"),
    ("CREATE ROLE newcomer; GRANT newcomer TO master WITH SET FALSE", "pg_auth_members"),
    ("UPDATE of_an_extension SET n = n + 1", "public.of_an_extension"),
    # There and back: what is written in between goes elsewhere, or is not sent.
    ('ALTER TABLE "Order ""lines"" 2" ALTER text TYPE text USING upper(text)', "pg_attribute"),
    ("ALTER TABLE kept RENAME id TO swapped; ALTER TABLE kept RENAME swapped TO id", "pg_attribute"),
    ("ALTER TABLE kept RENAME TO swapped; ALTER TABLE swapped RENAME TO kept", "pg_type"),
    (
        "CREATE SCHEMA aside; ALTER TABLE kept SET SCHEMA aside; ALTER TABLE aside.kept SET SCHEMA public; "
        "DROP SCHEMA aside",
        "pg_type",
    ),
    ("ALTER SCHEMA public RENAME TO swapped; ALTER SCHEMA swapped RENAME TO public", "pg_namespace"),
    ("ALTER TYPE mood RENAME VALUE 'sad' TO 'swapped'; ALTER TYPE mood RENAME VALUE 'swapped' TO 'sad'", "pg_enum"),
    (
        "ALTER PUBLICATION ours SET (publish = 'insert'); "
        "ALTER PUBLICATION ours SET (publish = 'insert, update, delete, truncate')",
        "pg_publication",
    ),
    # So does a table that is written anew where a column was added without that.
    ("CLUSTER emptied USING emptied_pkey", "pg_attribute"),
)
NO_CHANGES_OF_SCHEMA = (
    "CREATE TEMP TABLE mine (id serial PRIMARY KEY, t text UNIQUE CHECK (t > ''), FOREIGN KEY (id) REFERENCES mine)",
    "CREATE TEMP VIEW mine AS SELECT 1; CREATE TEMP SEQUENCE my_own",
    "CREATE TEMP TABLE mine (n int); CREATE INDEX ON mine (n); COMMENT ON TABLE mine IS 'mine'",
    "CREATE FUNCTION pg_temp.one() RETURNS int LANGUAGE sql AS 'SELECT 1'; CREATE TYPE pg_temp.pair AS (a int, b int)",
    "TRUNCATE kept RESTART IDENTITY",
    "CLUSTER kept USING kept_pkey",
    "CLUSTER slimmed USING slimmed_pkey",
    "REINDEX TABLE kept",
    "ANALYZE kept",
    "SELECT nextval('never'), setval('descending', 50)",
)


def test_every_change_that_is_not_replicated_is_noticed(source: Endpoint) -> None:
    """And nothing else: what sessions make for themselves, and what vacuum does, would end a rotation for nothing."""
    extension = (
        "CREATE EXTENSION vector; CREATE TABLE of_an_extension (n int); GRANT ALL ON of_an_extension TO master; "
        "INSERT INTO of_an_extension VALUES (1); ALTER EXTENSION vector ADD TABLE of_an_extension"
    )
    publication = "CREATE PUBLICATION ours FOR TABLE kept; ALTER PUBLICATION ours OWNER TO master"
    with (
        altered(source, extension, "DROP EXTENSION vector", "orders"),
        altered(source, publication, "DROP PUBLICATION ours", "orders"),
        source.catching_up()._session("orders") as sql,
    ):
        sql.run("SET search_path = public")
        before = catalogs_of(sql)

        def noticed(change: str) -> list[str]:
            with sql.transaction(commit=False):
                for statement in change.split("; "):
                    sql.run(statement)
                return differing(before, catalogs_of(sql))

        assert [] == [(change, one) for change, one in CHANGES_OF_SCHEMA if one not in noticed(change)]
        assert [] == [(change, found) for change in NO_CHANGES_OF_SCHEMA if (found := noticed(change))]


@pytest.mark.parametrize(
    ("there", "back", "catalog"),
    [
        (
            "GRANT SET ON PARAMETER work_mem TO master",
            "REVOKE SET ON PARAMETER work_mem FROM master",
            "pg_parameter_acl",
        ),
        (
            "CREATE PUBLICATION wide FOR TABLES IN SCHEMA public",
            "DROP PUBLICATION wide",
            "pg_publication_namespace",
        ),
    ],
)
def test_what_only_a_superuser_changes_is_noticed(source: Endpoint, there: str, back: str, catalog: str) -> None:
    with source.catching_up()._session("orders") as sql:
        before = catalogs_of(sql)
        with altered(source, there, back, "orders"):
            assert catalog in differing(before, catalogs_of(sql))


def test_a_copy_does_not_take_over_what_has_changed(world: World, source: Endpoint) -> None:
    with catching_up(world, source, "r4") as done:
        done.come_close()
        with altered(source, "GRANT SELECT ON kept TO PUBLIC", "REVOKE SELECT ON kept FROM PUBLIC", AWKWARD):
            source.admin("CREATE DATABASE late_database OWNER master")
            changed = set(done.follower.differing_catalogs(done.publisher.catalogs(done.name)))
            plan = done.publisher.plan_fence(())
            done.drain(done.raise_fence(plan))
            with pytest.raises(TargetMismatch, match=r"was changed since the snapshot: .*pg_class"):
                done.follower.take_over("r4", done.name)
            source.admin(f"ALTER DATABASE {quoted(AWKWARD)} ALLOW_CONNECTIONS true")

        assert {f"pg_class of {AWKWARD}", "pg_database of orders", "database late_database"} <= changed
        assert "pg_class of orders" not in changed
        assert [[4]] == done.copy.admin("SELECT count(*) FROM pg_subscription"), "it is as it was"
        assert [[6, False]] == done.copy.admin("SELECT count(*), bool_or(carried) FROM evidence", CONTROL_DATABASE)


def test_a_copy_does_not_take_over_where_nobody_could_look_into_a_database(world: World, source: Endpoint) -> None:
    """One that was closed when the capture began has no slot; what was written to it since is on the source alone."""
    allow = "ALTER DATABASE {} ALLOW_CONNECTIONS {}"

    def changed() -> set[str]:
        return {*done.follower.differing_catalogs(done.publisher.catalogs(done.name))}

    with catching_up(world, source, "r9") as done:
        done.come_close()
        plan = done.publisher.plan_fence(())
        with altered(source, allow.format(quoted(LONG), "false"), allow.format(quoted(LONG), "true")):
            assert "pg_database of orders" in changed()
            fewer = tuple(fence for fence in plan if fence.name != LONG)
            with pytest.raises(TargetMismatch, match=f"{LONG} accepted connections when the capture began"):
                done.raise_fence(fewer)
        assert set() == changed()
        with altered(source, allow.format("closed", "true"), allow.format("closed", "false")):
            source.admin("CREATE TABLE IF NOT EXISTS written (n int)", "closed")
        assert {f"pg_database of {fence.name}" for fence in plan} == changed()

        done.drain(done.raise_fence(plan))
        with pytest.raises(TargetMismatch, match=r"was changed since the snapshot: pg_database$"):
            done.follower.take_over("r9", done.name)


SWAPPED = """
ALTER TABLE kept RENAME TO swapped; ALTER TABLE parent RENAME TO kept; ALTER TABLE swapped RENAME TO parent;
INSERT INTO kept (id) VALUES (-7);
ALTER TABLE parent RENAME TO swapped; ALTER TABLE kept RENAME TO parent; ALTER TABLE swapped RENAME TO kept
"""
REWRITTEN = 'ALTER TABLE "Order ""lines"" 2" ALTER text TYPE text USING upper(text) || id'


def test_a_copy_does_not_take_over_what_was_changed_and_changed_back(world: World, source: Endpoint) -> None:
    """The catalogs are as they were, and the rows are not: all that tells is who changed them last."""
    with catching_up(world, source, "r8") as done:
        for change, database in ((SWAPPED, "orders"), (REWRITTEN, AWKWARD)):
            with contextlib.closing(source.connect(database)) as sql:
                for statement in change.split("; "):
                    sql.run(statement)
        for catalog in ("pg_attribute", "pg_type"):  # freezing takes nothing away
            source.admin(f"VACUUM FULL FREEZE {catalog}", LONG)
        done.come_close()
        changed = done.follower.differing_catalogs(done.publisher.catalogs(done.name))
        wait_until(lambda: done.copy.admin("SELECT FROM kept WHERE id = -7", "orders"))

        assert [[1]] == source.admin("SELECT count(*) FROM parent WHERE id = -7", "orders")
        assert contents(source, AWKWARD) != contents(done.copy, AWKWARD)
        assert {"pg_type of orders", f"pg_attribute of {AWKWARD}"} == {*changed}
    source.admin("DELETE FROM parent WHERE id = -7", "orders")


def test_a_copy_takes_nothing_over_that_nobody_testified(standing: CatchUp) -> None:
    with pytest.raises(TargetMismatch, match="the source has not testified"):
        standing.follower.take_over("r5", standing.name)


# -- the fence, and attempts that meet there ---------------------------------------------------------------------------


@pytest.fixture
def captured(source: Endpoint) -> Endpoint:
    source.catching_up().begin_capture(capture_name("r6"))
    return source


def attempt(source: Endpoint, plan: Plan) -> tuple[PostgresCatchUp, Any]:
    engine = source.catching_up()
    return engine, engine.witnesses("r6", capture_name("r6"), plan)


def evidence(source: Endpoint) -> int:
    count: int = source.admin("SELECT count(*) FROM evidence", CONTROL_DATABASE)[0][0]
    return count


def test_of_two_attempts_the_one_that_opened_last_testifies(captured: Endpoint) -> None:
    """What came in while the second one had opened is not in what the first one would say."""
    plan = captured.catching_up().plan_fence(())
    (one, of_one), (other, of_other) = attempt(captured, plan), attempt(captured, plan)
    with of_one as testify:
        one.raise_fence("r6", plan, 15)
        with of_other as testify_too:
            assert not is_closed(captured, "orders"), "opened once more"
            with pytest.raises(JournalMoved, match="another attempt has opened"):
                testify()
            assert 0 == evidence(captured)
            other.raise_fence("r6", plan, 15)
            testify_too()
            assert len(plan) == evidence(captured)
    late, of_late = attempt(captured, plan)
    with of_late as testify_late:
        assert is_closed(captured, "orders"), "nobody opens what was testified"
        late.raise_fence("r6", plan, 15)
        testify_late()
    assert len(plan) == evidence(captured)
    assert late.fence_breach(plan) is None


def test_an_attempt_that_opened_and_died_is_not_forgotten(captured: Endpoint) -> None:
    """Nobody is to be seen, everything is closed again; and somebody has been in there."""
    plan = captured.catching_up().plan_fence(())
    one, of_one = attempt(captured, plan)
    with of_one as testify:
        one.raise_fence("r6", plan, 15)
        dead, of_dead = attempt(captured, plan)
        with of_dead:
            captured.catching_up()
        with dead._control_session() as sql:
            dead._close(sql, "r6", plan, time.monotonic() + 5)
        with pytest.raises(JournalMoved, match="another attempt has opened"):
            testify()
    assert 0 == evidence(captured)


def test_nobody_opens_while_another_testifies(captured: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = captured.catching_up().plan_fence(())
    one, of_one = attempt(captured, plan)
    reading, read_on = threading.Event(), threading.Event()

    def slowly(sql: Session, **which: Any) -> str:
        reading.set()
        read_on.wait(10)
        return catalogs_of(sql, **which)

    met: list[RotationError] = []

    def second() -> None:
        try:
            with attempt(captured, plan)[1]:
                pass
        except RotationError as error:
            met.append(error)

    with of_one as testify:
        one.raise_fence("r6", plan, 15)
        monkeypatch.setattr(postgres_catch_up, "catalogs_of", slowly)
        first = threading.Thread(target=testify)
        first.start()
        reading.wait(10)
        other = threading.Thread(target=second)
        other.start()
        time.sleep(0.4)
        assert is_closed(captured, "orders")
        read_on.set()
        first.join()
        other.join()
    assert is_closed(captured, "orders")
    assert len(plan) == evidence(captured)
    # It has waited for the lock, to the end or for as long as one waits.
    assert type(met[0]) in (JournalMoved, DatabaseUnreachable)


def test_what_another_has_closed_is_not_opened(captured: Endpoint) -> None:
    """Only an attempt that follows one of the same rotation opens: the fence of a later one must stand."""
    plan = captured.catching_up().plan_fence(())
    captured.admin("ALTER DATABASE orders ALLOW_CONNECTIONS false")

    with pytest.raises(RotationError, match="not currently accepting connections"), attempt(captured, plan)[1]:
        pass

    assert is_closed(captured, "orders")


def test_after_the_decision_nobody_opens(captured: Endpoint) -> None:
    plan = captured.catching_up().plan_fence(())
    engine, first = attempt(captured, plan)
    with first:
        engine.raise_fence("r6", plan, 15)
    captured.admin("INSERT INTO public.decision VALUES ('r6', 'rollback')", CONTROL_DATABASE)

    with pytest.raises(DecisionLost, match="'rollback' stands"), attempt(captured, plan)[1]:
        pass

    assert is_closed(captured, "orders")


def test_a_database_that_somebody_opens_under_the_fence_is_no_testimony(captured: Endpoint) -> None:
    plan = captured.catching_up().plan_fence(())
    engine, first = attempt(captured, plan)
    with first as testify:
        engine.raise_fence("r6", plan, 15)
        captured.admin("ALTER DATABASE orders ALLOW_CONNECTIONS true")
        with pytest.raises(FenceBroken, match="orders accepts connections"):
            testify()
    assert 0 == evidence(captured)


def test_a_table_that_is_not_captured_is_no_testimony(captured: Endpoint) -> None:
    """Made before the snapshot it is on both sides, and nothing that is written to it later would come."""
    plan = captured.catching_up().plan_fence(())
    with altered(captured, "CREATE TABLE late (id int PRIMARY KEY)", "DROP TABLE late", "orders"):
        with pytest.raises(TargetMismatch, match=r"public.late of orders was made after the capture"):
            captured.catching_up().catalogs(capture_name("r6"))
        engine, first = attempt(captured, plan)
        with first as testify:
            engine.raise_fence("r6", plan, 15)
            with pytest.raises(TargetMismatch, match=r"public.late of orders was made after the capture"):
                testify()
        captured.admin("ALTER DATABASE orders ALLOW_CONNECTIONS true")
    assert 0 == evidence(captured)


@pytest.mark.parametrize("written", ["UPDATE emptied SET id = id + 100", "TRUNCATE emptied"])
def test_a_copy_that_somebody_wrote_to_is_not_untouched(standing: CatchUp, written: str) -> None:
    """Before it was closed; what was written there would stay."""
    standing.copy.admin("SELECT pg_stat_reset()", AWKWARD)  # as its recovery did
    wait_until(standing.follower.is_untouched)
    standing.copy.admin(written, AWKWARD)

    wait_until(lambda: not standing.follower.is_untouched())  # a server counts a moment later
    assert is_closed(standing.copy, AWKWARD)


def test_what_was_prepared_at_the_snapshot_ends_it(world: World) -> None:
    """It came after the capture began. On the copy nobody ends it: what it has locked could not be applied."""
    source = world.primary(wal_level="logical", max_slot_wal_keep_size="1024")
    source.admin("ALTER SYSTEM SET max_prepared_transactions = 5")
    source.server.restart()
    _, begun = source.catching_up().begin_capture(capture_name("r10"))
    with contextlib.closing(source.connect("orders")) as sql:
        sql.run("BEGIN")
        sql.run("INSERT INTO kept DEFAULT VALUES")
        sql.run("PREPARE TRANSACTION 'one'")
    copy = world.restored(source)

    def lines(words: str) -> list[str]:
        return [line for line in copy.server.log.read_text().splitlines() if words in line]

    with pytest.raises(CatchUpFailed, match=r"prepared transaction\(s\) came with the snapshot, in orders"):
        copy.catching_up().end_of_recovery(begun, lines)
    copy.admin("ROLLBACK PREPARED 'one'", "orders")
    assert end_of_recovery(copy) == copy.catching_up().end_of_recovery(begun, lines)


# -- the copy, kept closed ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def standing(world: World, shared_source: Endpoint) -> Iterator[CatchUp]:
    """A copy that has not subscribed, for tests that need no more."""
    with catching_up(world, shared_source, "r5", subscribed=False) as done:
        yield done


def test_somebody_who_tries_all_the_time_does_not_keep_us_out(standing: CatchUp) -> None:
    stop, entered = threading.Event(), 0

    def knock() -> None:
        nonlocal entered
        while not stop.is_set():
            with contextlib.suppress(*ENDED), contextlib.closing(standing.copy.connect("orders")) as sql:
                entered += 1
                sql.run("SELECT pg_sleep(60)")

    knocking = [threading.Thread(target=knock) for _ in range(3)]
    for thread in knocking:
        thread.start()
    try:
        for _ in range(5):
            standing.follower.differing_catalogs({"orders": "{}"})
    finally:
        stop.set()
        for thread in knocking:
            thread.join()
    inside = "SELECT count(*) FROM pg_stat_activity WHERE datname = 'orders' AND backend_type = 'client backend'"
    wait_until(lambda: standing.copy.admin(inside) == [[0]])
    assert is_closed(standing.copy, "orders")


@contextlib.contextmanager
def nobody_there(world: World, answers: bool) -> Iterator[str]:
    """An address where nothing listens, or something that never says a word."""
    address = world.addresses.take(PORT)
    with socket.socket() as listener:
        if answers:
            listener.bind((address, PORT))
            listener.listen()
        yield address
    world.addresses.give_back(address)


@pytest.mark.parametrize("answers", [False, True], ids=["refused", "silent"])
def test_a_source_that_cannot_be_reached_learns_and_leaks_nothing(
    world: World, standing: CatchUp, answers: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error in the middle of the statement that has the password in it is logged with its context."""
    monkeypatch.setattr(postgres_catch_up, "STATEMENT_SECONDS", 1)
    database, server = "template1", standing.copy.server
    with nobody_there(world, answers) as address:
        server.reach(address)
        try:
            with pytest.raises(DatabaseUnreachable, match=r"timeout|could not connect to the publisher") as failed:
                standing.follower.subscribe(standing.name, database, standing.publisher._database, standing.position)
        finally:
            server.reach(standing.source.address)

    assert SECRET not in str(failed.value)
    assert not standing.follower.is_subscribed(standing.name, database)
    assert is_closed(standing.copy, database)
    assert keeps_the_secret(standing.copy)


def test_another_attempt_does_not_end_one_that_is_connecting(
    world: World, standing: CatchUp, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server logs what a session that is ended was at, and that is the statement with the password in it."""
    monkeypatch.setattr(postgres_catch_up, "STATEMENT_SECONDS", 1)
    met: list[RotationError] = []

    def subscribe() -> None:
        try:
            standing.follower.subscribe(standing.name, "template1", standing.publisher._database, standing.position)
        except RotationError as error:
            met.append(error)

    with nobody_there(world, answers=True) as address:
        standing.copy.server.reach(address)
        try:
            slow = threading.Thread(target=subscribe)
            slow.start()
            subscribing = (
                "SELECT FROM pg_stat_activity WHERE datname = 'template1' AND query LIKE '%DO $$%' AND state = 'active'"
            )
            wait_until(lambda: standing.copy.admin(subscribing))
            standing.copy.catching_up().keep_closed()
            slow.join()
        finally:
            standing.copy.server.reach(standing.source.address)
    assert [DatabaseUnreachable] == [type(error) for error in met]
    assert "terminating connection" not in str(met[0])
    assert keeps_the_secret(standing.copy)


# -- what forbids it ---------------------------------------------------------------------------------------------------


def test_a_source_as_it_should_be_is_not_refused(source: Endpoint) -> None:
    """Partitions, inheritance, triggers, awkward names and all."""
    assert [] == list(source.catching_up().login_limitations())
    assert [] == list(source.catching_up().limitations(()))


@pytest.mark.parametrize(
    "there, back, name, message",
    [
        ("CREATE TABLE bare (n int)", "DROP TABLE bare", "NotReplicable", "without a replica identity"),
        (
            "CREATE TABLE bare (n int PRIMARY KEY DEFERRABLE)",
            "DROP TABLE bare",
            "NotReplicable",
            "without a replica identity",
        ),
        (
            "CREATE TABLE bare (n int PRIMARY KEY); ALTER TABLE bare REPLICA IDENTITY NOTHING",
            "DROP TABLE bare",
            "NotReplicable",
            "without a replica identity",
        ),
        (
            "CREATE TABLE papers (one json[]); ALTER TABLE papers REPLICA IDENTITY FULL",
            "DROP TABLE papers",
            "NotReplicable",
            "a type without equality",
        ),
        (
            "CREATE TABLE doubled (n int, m int GENERATED ALWAYS AS (n * 2) STORED PRIMARY KEY)",
            "DROP TABLE doubled",
            "NotReplicable",
            "a generated column",
        ),
        (
            "ALTER TABLE kept ENABLE ROW LEVEL SECURITY; ALTER TABLE kept FORCE ROW LEVEL SECURITY",
            "ALTER TABLE kept NO FORCE ROW LEVEL SECURITY; ALTER TABLE kept DISABLE ROW LEVEL SECURITY",
            "NotReplicable",
            "row security for their owner",
        ),
        (
            'ALTER TABLE "Order ""lines"" 2" ENABLE ALWAYS TRIGGER notes',
            'ALTER TABLE "Order ""lines"" 2" ENABLE TRIGGER notes',
            "NotReplicable",
            "act on replicated rows",
        ),
        ("SELECT lo_create(4711)", "SELECT lo_unlink(4711)", "NotReplicable", "1 large object"),
        (
            "CREATE FUNCTION watch() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END'; "
            "CREATE ROLE watcher SUPERUSER; CREATE EVENT TRIGGER watched ON ddl_command_end EXECUTE FUNCTION watch(); "
            "ALTER EVENT TRIGGER watched OWNER TO watcher",
            "DROP EVENT TRIGGER watched; DROP FUNCTION watch; DROP ROLE watcher",
            "NotReplicable",
            "1 event trigger(s)",
        ),
        (
            "CREATE EXTENSION vector; CREATE TABLE theirs (n int); ALTER EXTENSION vector ADD TABLE theirs",
            "DROP EXTENSION vector",
            "NotReplicable",
            "the login may not read",
        ),
        (
            "CREATE SUBSCRIPTION theirs CONNECTION '' PUBLICATION theirs WITH (connect = false, slot_name = NONE)",
            "DROP SUBSCRIPTION theirs",
            "Subscriptions",
            "the copy would go on with them",
        ),
        (
            "ALTER DATABASE orders SET pg_stat_statements.track = 'all'; "
            "ALTER DATABASE orders SET pg_stat_statements.track_utility = 'on'",
            "ALTER DATABASE orders RESET ALL",
            "StatementsLogged",
            "kept in orders",
        ),
        (
            "ALTER DATABASE orders SET default_transaction_read_only = off",
            "ALTER DATABASE orders RESET ALL",
            "NotReplicable",
            "1 setting(s)",
        ),
        (
            "ALTER DATABASE orders SET pgaudit.log = 'ddl'",
            "ALTER DATABASE orders RESET ALL",
            "StatementsLogged",
            "kept in orders",
        ),
    ],
)
def test_what_would_be_lost_or_would_not_work_is_refused(
    source: Endpoint, there: str, back: str, name: str, message: str
) -> None:
    with altered(source, there, back, "orders"):
        [finding] = source.catching_up().limitations(("logical-slots",))

    assert name == finding.name
    assert message in finding.message
    assert "orders" in finding.message or name == "Subscriptions"


@pytest.mark.parametrize(
    ("version", "compares"),
    [(140007, True), (140008, False), (150000, True), (150002, True), (150003, False), (160000, False)],
)
def test_a_version_that_does_not_find_rows_is_known(source: Endpoint, version: int, compares: bool) -> None:
    """It compares columns of which nothing is sent, and goes on when no row is like that."""
    setting = "current_setting('server_version_num')"
    asked = postgres_catalogs._COMPARES_WHAT_IS_NOT_SENT.replace(setting, f"'{version}'")

    assert setting not in asked
    assert [[compares]] == source.admin(f"SELECT {asked}")


@pytest.mark.parametrize(
    "table",
    [
        "CREATE TABLE bare (n int, m int); ALTER TABLE bare DROP COLUMN m",
        "CREATE TABLE bare (n int, m int GENERATED ALWAYS AS (n * 2) STORED)",
        "CREATE TABLE bare (n int PRIMARY KEY DEFERRABLE, m int); ALTER TABLE bare DROP COLUMN m",
    ],
)
def test_rows_that_such_a_version_would_not_find_are_refused(
    source: Endpoint, table: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its updates and deletes would be missing on the copy, and nothing would say so."""
    keyed = "CREATE TABLE keyed (n int PRIMARY KEY, m int); ALTER TABLE keyed DROP COLUMN m"
    full = "ALTER TABLE bare REPLICA IDENTITY FULL; ALTER TABLE keyed REPLICA IDENTITY FULL"
    with altered(source, f"{table}; {keyed}; {full}", "DROP TABLE bare, keyed", "orders"):
        assert [] == list(source.catching_up().limitations(()))
        monkeypatch.setattr(postgres_catalogs, "_COMPARES_WHAT_IS_NOT_SENT", "true")

        [finding] = source.catching_up().limitations(())

    assert "NotReplicable" == finding.name
    assert finding.message.startswith("1 table(s) whose rows this version")
    assert finding.message.endswith("in orders: public.bare")


@pytest.mark.parametrize(
    ("there", "back", "named"),
    [
        ("CREATE TABLE outbox (id int PRIMARY KEY, at xid8)", "DROP TABLE outbox", "public.outbox"),
        ("CREATE TABLE outbox (id int PRIMARY KEY, at txid_snapshot[])", "DROP TABLE outbox", "public.outbox"),
        (
            "CREATE DOMAIN moment AS pg_snapshot; CREATE TABLE outbox (id int PRIMARY KEY, at moment)",
            "DROP TABLE outbox; DROP DOMAIN moment",
            "public.outbox",
        ),
        (
            "CREATE TABLE outbox (id int PRIMARY KEY, at bigint DEFAULT txid_current())",
            "DROP TABLE outbox",
            "public.outbox",
        ),
        (
            "CREATE FUNCTION stamp() RETURNS trigger LANGUAGE plpgsql AS "
            "'BEGIN NEW.at = pg_current_xact_id(); RETURN NEW; END'",
            "DROP FUNCTION stamp",
            "public.stamp()",
        ),
        (
            "CREATE FUNCTION seen() RETURNS xid8 LANGUAGE sql RETURN pg_snapshot_xmin(pg_current_snapshot())",
            "DROP FUNCTION seen",
            "public.seen()",
        ),
    ],
)
def test_ids_of_transactions_are_refused_unless_they_are_accepted(
    source: Endpoint, there: str, back: str, named: str
) -> None:
    """On the copy they go back: whoever remembers how far he has read would pass over what is new."""
    with altered(source, there, back, "orders"):
        [finding] = source.catching_up().limitations(())

        assert "TransactionIds" == finding.name
        assert finding.message.endswith(f"on the copy: {named}")
        assert [] == list(source.catching_up().limitations(("transaction-ids",)))


def test_materialized_views_are_refused_unless_they_are_accepted(source: Endpoint) -> None:
    with altered(source, "CREATE MATERIALIZED VIEW sums AS SELECT 1", "DROP MATERIALIZED VIEW sums", "orders"):
        [finding] = source.catching_up().limitations(())

        assert "MaterializedViews" == finding.name
        assert [] == list(source.catching_up().limitations(("materialized-views",)))


def test_jobs_that_the_login_sees_cannot_be_accepted_and_others_have_to_be(source: Endpoint) -> None:
    """They would run on the copy, too. Their table is none that could be compared."""
    engine = source.catching_up()
    with altered(source, pg_cron.INSTALL, pg_cron.REMOVE, "orders"):
        [finding] = engine.limitations(())
        assert ("PgCron", True) == (finding.name, "no jobs of others" in finding.message)
        assert [] == list(engine.limitations(("pg-cron",)))

        source.admin(f"{pg_cron.SHOW_TO_ALL}; INSERT INTO cron.job VALUES (1, 'somebody', true)", "orders")
        [finding] = engine.limitations(("pg-cron",))
        assert ("PgCron", "1 active") == (finding.name, finding.message[:8])


def test_nothing_of_an_extensions_owner_runs_with_the_logins_rights(source: Endpoint) -> None:
    """A cast of a table's own to text, and the functions of its policies, are anybody's who owns it."""
    source.admin("CREATE TABLE ran (by name, at timestamptz PRIMARY KEY DEFAULT clock_timestamp())", "orders")
    source.admin("GRANT INSERT ON ran TO PUBLIC", "orders")
    noting = "LANGUAGE plpgsql AS $$ BEGIN INSERT INTO public.ran VALUES (current_user); RETURN {}; END $$"
    make = f"""
        CREATE EXTENSION vector; CREATE TABLE bait (n int PRIMARY KEY); GRANT SELECT ON bait TO PUBLIC;
        INSERT INTO bait VALUES (1); CREATE FUNCTION told(bait) RETURNS text {noting.format("''")};
        CREATE CAST (bait AS text) WITH FUNCTION told(bait) AS ASSIGNMENT;
        ALTER EXTENSION vector ADD TABLE bait
    """
    engine = source.catching_up()
    with altered(source, make, "DROP EXTENSION vector CASCADE; DROP TABLE ran", "orders"):
        assert [] == list(engine.limitations(()))
        assert [] == source.admin("SELECT * FROM ran", "orders")

        source.admin(f"CREATE FUNCTION mine() RETURNS bool {noting.format('true')}", "orders")
        source.admin("CREATE POLICY own ON bait USING (public.mine())", "orders")
        source.admin("ALTER TABLE bait ENABLE ROW LEVEL SECURITY", "orders")
        [finding] = engine.limitations(())
        assert ("NotReplicable", True) == (finding.name, "row security" in finding.message)
        assert [] == source.admin("SELECT * FROM ran", "orders")
        source.admin("DROP POLICY own ON bait; DROP FUNCTION mine", "orders")


@pytest.fixture(scope="module")
def plain(world: World) -> Endpoint:
    """A server as RDS makes it, which was not prepared for anything; with less room than usual."""
    return world.primary(max_replication_slots="4", max_wal_senders="4", max_logical_replication_workers="3")


def test_a_server_that_is_not_prepared_is_refused(plain: Endpoint) -> None:
    findings = plain.catching_up().limitations(())

    assert ["WalLevel", "SlotUnbounded", *["NoRoomToCapture"] * 2] == [finding.name for finding in findings]
    assert "max_logical_replication_workers is 3, and 4 are needed" in findings[2].message
    assert "max_replication_slots is 4, and 5 are needed" in findings[3].message


def test_a_server_that_would_not_log_where_a_recovery_ends_is_refused(source: Endpoint) -> None:
    """The rotation would look for that line for a day."""
    said = "ALTER DATABASE postgres {} log_min_messages"
    with altered(source, said.format("SET") + " = fatal", said.format("RESET")):
        [finding] = source.catching_up().limitations(("logical-slots",))

    assert "LogSilent" == finding.name


@pytest.mark.parametrize(
    ("locale", "silent"),
    [("C", False), ("", False), ("C.UTF-8", False), ("en_US.UTF-8", False), ("en_GB", False), ("de_DE.UTF-8", True),
     ("Czech", True), ("ens", True)],
)  # fmt: skip
def test_the_line_is_found_only_in_english(source: Endpoint, locale: str, silent: bool) -> None:
    """No other locale need be installed here to be asked about."""
    asked = postgres_catch_up._SERVER.replace("current_setting('lc_messages')", f"'{locale}'")

    assert asked != postgres_catch_up._SERVER
    assert silent == source.admin(asked)[0][2]


def test_whoever_lacks_a_right_is_told_how_to_get_it(world: World, plain: Endpoint) -> None:
    """Each advice is followed by the user who can: the master user, or whoever owns the schema."""
    world.passwords["rotator"] = "x"
    plain.admin(f"GRANT {quoted(APPLICATION)} TO {MASTER} WITH ADMIN OPTION")
    plain.admin("CREATE ROLE warehouse; GRANT warehouse TO master WITH ADMIN OPTION")
    plain.admin(
        'CREATE SCHEMA "it\'s" AUTHORIZATION warehouse; CREATE TABLE "it\'s".kept (n int PRIMARY KEY)', "orders"
    )
    plain.admin(f'ALTER TABLE "it\'s".kept OWNER TO {quoted(APPLICATION)}', "orders")
    with contextlib.closing(plain.connect("postgres", MASTER)) as master:
        master.run("CREATE ROLE rotator LOGIN PASSWORD 'x'")
        findings = plain.catching_up("rotator").login_limitations()
        while findings:
            for finding in findings:
                inside = "orders" if "schema" in finding.message else "postgres"
                with contextlib.closing(plain.connect(inside, MASTER)) as sql:
                    for statement in finding.advice.removeprefix("run: ").split("; "):
                        sql.run(statement)
            before, findings = findings, plain.catching_up("rotator").login_limitations()
            assert not {finding.advice for finding in before} & {finding.advice for finding in findings}
    granted = plain.admin(
        "SELECT pg_has_role('rotator', 'rds_replication', 'MEMBER'), pg_has_role('rotator', 'pg_create_subscription', "
        "'USAGE'), pg_has_role('rotator', 'shop app', 'SET')"
    )
    assert [[True, True, True]] == granted
    assert [[True]] == plain.admin("SELECT has_schema_privilege('rotator', 'it''s', 'USAGE')", "orders")


def test_a_capture_that_never_began_is_ended(plain: Endpoint) -> None:
    """The rollback of a rotation that could not even make its control database."""
    plain.catching_up().end_capture(capture_name("r9"))


# -- the beginning and the position ------------------------------------------------------------------------------------


def test_what_postgres_18_would_let_nobody_change_is_refused(source: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a key or without: all of a row is its identity, and a generated column is not sent."""
    tables = (
        "CREATE TABLE whole (n int PRIMARY KEY, twice int GENERATED ALWAYS AS (n * 2) STORED); "
        "ALTER TABLE whole REPLICA IDENTITY FULL; "
        "CREATE TABLE by_key (n int PRIMARY KEY, twice int GENERATED ALWAYS AS (n * 2) STORED); "
        "CREATE TABLE plainly (n int PRIMARY KEY); ALTER TABLE plainly REPLICA IDENTITY FULL; "
        + "; ".join(f"ALTER TABLE {one} OWNER TO {quoted(APPLICATION)}" for one in ("whole", "by_key", "plainly"))
    )
    with altered(source, tables, "DROP TABLE whole, by_key, plainly", "orders"):
        assert [] == list(source.catching_up().limitations(()))
        for module in (postgres_catalogs, postgres_catch_up):
            of_18 = postgres_catalogs.WITH_UNSENT_IDENTITY.replace("180000", "0")
            monkeypatch.setattr(module, "WITH_UNSENT_IDENTITY", of_18)

        [finding] = source.catching_up().limitations(())
        with pytest.raises(PreflightRefused, match=r"without a replica identity: public.whole"):
            source.catching_up().begin_capture(capture_name("r7"))

    assert "NotReplicable" == finding.name
    assert "PostgreSQL 18" in finding.message
    assert finding.message.endswith("in orders: public.whole")


def test_a_table_without_identity_is_not_published(source: Endpoint) -> None:
    """It came after Preflight, and its owner would find that its rows cannot be changed any more."""
    late = f"CREATE TABLE late (n int); ALTER TABLE late OWNER TO {quoted(APPLICATION)}"
    with altered(source, late, "DROP TABLE late", "orders"):
        with pytest.raises(PreflightRefused, match=r"of orders without a replica identity: public.late"):
            source.catching_up().begin_capture(capture_name("r7"))

        assert [] == source.admin("SELECT FROM pg_publication", "orders")


def test_a_child_that_cannot_be_published_keeps_its_parent_from_nothing(source: Endpoint) -> None:
    """What is in it is accepted, or of no importance; a publication takes children along unless it is told not to."""
    family = (
        "CREATE TABLE lone (n int PRIMARY KEY); CREATE UNLOGGED TABLE offspring () INHERITS (lone); "
        f"ALTER TABLE lone OWNER TO {quoted(APPLICATION)}; ALTER TABLE offspring OWNER TO {quoted(APPLICATION)}"
    )
    with altered(source, family, "DROP TABLE offspring, lone", "orders"):
        source.catching_up().begin_capture(name := capture_name("r7"))

        published = source.admin("SELECT tablename FROM pg_publication_tables", "orders")
        source.catching_up().end_capture(name)
    assert ["lone"] in published
    assert ["offspring"] not in published


def test_a_capture_waits_for_open_transactions_and_nobody_waits_for_it(source: Endpoint) -> None:
    """Longer than for any lock: what such a transaction has written before would be missing."""
    with (
        contextlib.closing(source.connect("orders")) as slow,
        contextlib.closing(source.connect("orders")) as quick,
    ):
        slow.run("BEGIN")
        slow.run("INSERT INTO kept DEFAULT VALUES")
        capturing = threading.Thread(target=source.catching_up().begin_capture, args=[capture_name("r7")])
        capturing.start()
        wait_until(
            lambda: source.admin(
                "SELECT FROM pg_stat_activity WHERE query LIKE '%create_logical%' AND wait_event = 'transactionid'"
            )
        )
        longest = 0.0
        ends = time.monotonic() + 2.5
        while time.monotonic() < ends:
            began = time.monotonic()
            quick.run("INSERT INTO kept DEFAULT VALUES")
            quick.run("UPDATE emptied SET id = id")
            longest = max(longest, time.monotonic() - began)
        assert capturing.is_alive()
        slow.run("COMMIT")
        capturing.join()
    assert longest < 1
    assert 4 == len(source.admin("SELECT FROM pg_replication_slots"))


def test_what_is_committed_at_the_position_is_in_the_copy_and_what_follows_is_not(captured: Endpoint) -> None:
    """The position is the beginning of the last record that was replayed, and that may be a commit."""
    engine, name = captured.catching_up(), capture_name("r6")

    def sent() -> list[str]:
        """Positions of the commits that the one slot of the database would send."""
        changes = captured.admin(
            "SELECT data FROM pg_replication_slots, pg_logical_slot_peek_binary_changes(slot_name, NULL, NULL, "
            f"'proto_version', '1', 'publication_names', '{name}') WHERE database = 'orders'",
            "orders",
        )
        return [f"{data[2:6].hex()}/{data[6:10].hex()}" for (data,) in changes if data[:1] == b"C"]

    with contextlib.closing(captured.connect("orders")) as client:
        for _ in range(3):
            client.run("INSERT INTO kept DEFAULT VALUES")
    _, second, third = sent()

    engine.begin_behind(name, "orders", Position(second))

    assert [third] == sent()


def test_a_position_that_is_not_the_sources_or_a_slot_that_is_gone_is_refused(captured: Endpoint) -> None:
    engine, name = captured.catching_up(), capture_name("r6")

    with pytest.raises(CatchUpFailed, match="minimum is"):
        engine.begin_behind(name, "orders", Position("0/1000000"))
    with pytest.raises(CatchUpFailed, match="the source's log ends at"):
        engine.begin_behind(name, "orders", Position("F/0"))
    captured.admin("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE database = 'orders'")
    with pytest.raises(CatchUpFailed, match="is gone"):
        engine.begin_behind(name, "orders", Position("0/1000000"))


def test_what_the_source_has_thrown_away_is_said_to_be_lost(captured: Endpoint) -> None:
    """It keeps no more than max_slot_wal_keep_size, so that its own disk does not fill."""
    engine, name = captured.catching_up(), capture_name("r6")
    assert not engine.delivery(name, engine).lost
    [[position]] = captured.admin("SELECT pg_current_wal_flush_lsn()")
    keep = "ALTER SYSTEM SET max_slot_wal_keep_size = '{}'"
    with altered(captured, keep.format("1MB"), keep.format("1GB")):
        captured.admin("SELECT pg_reload_conf()")
        for _ in range(4):
            captured.admin("SELECT pg_logical_emit_message(false, 'rds', 'x')")
            captured.admin("SELECT pg_switch_wal()")
        captured.admin("CHECKPOINT")
    captured.admin("SELECT pg_reload_conf()")

    assert engine.delivery(name, engine).lost
    with pytest.raises(CatchUpFailed, match="slot"):
        engine.begin_behind(name, "orders", Position(position))


def test_a_slot_is_advanced_in_strides_and_a_crash_does_not_take_it_back(
    captured: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server reads all of its log in between, which may be more than it reads before a statement times out.

    It writes to the disk how far a slot was advanced when it writes a checkpoint; until then a crash would bring twice
    what the copy has.
    """
    monkeypatch.setattr(postgres_catch_up, "_STRIDE_BYTES", 1000)
    with contextlib.closing(captured.connect("orders")) as client:
        for _ in range(20):
            client.run("INSERT INTO kept DEFAULT VALUES")
        [[position]] = captured.admin("SELECT pg_current_wal_flush_lsn()")
        client.run("INSERT INTO kept DEFAULT VALUES")

    captured.catching_up().begin_behind(capture_name("r6"), CONTROL_DATABASE, Position(position))
    captured.server.crash()
    captured.server.start()

    assert [[True]] == captured.admin(
        f"SELECT confirmed_flush_lsn = pg_lsn '{position}' + 1 FROM pg_replication_slots "
        f"WHERE database = '{CONTROL_DATABASE}'"
    )
