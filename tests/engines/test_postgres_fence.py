"""The fence on real servers: whoever was connected, is connecting or will connect, nobody commits after it."""

import threading
import time
from collections.abc import Callable
from typing import Any

import pg8000.native
import pytest

from lambdas.rotation.errors import DecisionLost, FenceIncomplete
from lambdas.rotation.state import DatabaseFence
from sandbox.postgres import quoted
from tests.engines.servers import APPLICATION, AWKWARD, DATABASES, LONG, MASTER, Endpoint

Opened = Callable[[pg8000.native.Connection], pg8000.native.Connection]

ENDED = (pg8000.exceptions.Error, OSError)


def rows(endpoint: Endpoint, database: str = "orders") -> int:
    count: int = endpoint.admin("SELECT count(*) FROM kept", database)[0][0]
    return count


def fenced_by_admin(endpoint: Endpoint, database: str) -> int:
    """The rows of a fenced database: RDS's superuser does not get in either, so it is opened for a moment."""
    endpoint.admin(f"ALTER DATABASE {quoted(database)} ALLOW_CONNECTIONS true")
    try:
        return rows(endpoint, database)
    finally:
        endpoint.admin(f"ALTER DATABASE {quoted(database)} ALLOW_CONNECTIONS false")


def test_every_database_is_closed_and_opened_again_with_its_own_limit(source: Endpoint) -> None:
    """Names with quotes, spaces and umlauts, and one of 63 bytes, which leaves no room for a suffix."""
    source.admin(f"ALTER DATABASE {quoted(AWKWARD)} CONNECTION LIMIT 17")
    source.admin("ALTER DATABASE postgres CONNECTION LIMIT 5")
    engine = source.engine()
    plan = engine.plan_fence(())
    assert plan == source.engine().expected_fence(), "asked without the control database"

    engine.raise_fence("r", plan, 10)

    assert {*DATABASES, "postgres", "template1"} == {fence.name for fence in plan}
    for name in (*DATABASES, "postgres"):
        with pytest.raises(pg8000.exceptions.DatabaseError, match=r"55000|53300"):
            source.connect(name)
    assert engine.fence_breach(plan) is None
    assert "rollback" == engine.decide("r", "rollback", plan)
    for name in (*DATABASES, "postgres"):
        source.connect(name).close()
    limits = dict(source.admin("SELECT datname, datconnlimit FROM pg_database"))
    assert (17, 5, -1) == (limits[AWKWARD], limits["postgres"], limits[LONG])
    assert engine.fence_breach(plan) is not None


def test_templates_of_customers_are_closed_too(source: Endpoint) -> None:
    source.admin("CREATE DATABASE late_template OWNER master")
    source.admin("UPDATE pg_database SET datistemplate = true WHERE datname = 'late_template'")
    try:
        assert "late_template" in {fence.name for fence in source.engine().plan_fence(())}
    finally:
        source.admin("UPDATE pg_database SET datistemplate = false WHERE datname = 'late_template'")


def test_nobody_changes_roles_or_databases_from_template1(source: Endpoint, opened: Opened) -> None:
    """Everybody may connect there, and what belongs to the whole server can be changed from there.

    After the promotion such a change is acknowledged by the source alone: a password or a database that nobody has.
    """
    master = opened(source.connect("template1", MASTER))
    engine = source.engine()
    plan = engine.plan_fence(())

    engine.raise_fence("r", plan, 10)

    with pytest.raises(ENDED):
        master.run("CREATE ROLE late")
    for user in (MASTER, APPLICATION):
        with pytest.raises(pg8000.exceptions.DatabaseError, match="53300"):
            source.connect("template1", user)
    assert engine.fence_breach(plan) is None
    assert "rollback" == engine.decide("r", "rollback", plan)
    opened(source.connect("template1", MASTER)).run("SELECT 1")


@pytest.mark.parametrize(
    "begin, options",
    [
        ("BEGIN", None),
        ("BEGIN READ WRITE", None),
        ("BEGIN", "-c default_transaction_read_only=off"),
    ],
    ids=["ordinary", "read-write", "option"],
)
def test_a_pooled_session_with_an_open_transaction_loses_it(
    source: Endpoint, opened: Opened, begin: str, options: str | None
) -> None:
    before = rows(source)
    pooled = opened(source.connect("orders", startup_params={"options": options} if options else None))
    pooled.run(begin)
    pooled.run("INSERT INTO kept DEFAULT VALUES")
    engine = source.engine()
    plan = engine.plan_fence(())

    engine.raise_fence("r", plan, 10)

    with pytest.raises(ENDED):
        pooled.run("COMMIT")
    assert before == fenced_by_admin(source, "orders")
    assert engine.fence_breach(plan) is None


class SlowClient(threading.Thread):
    """A client that is let in before the fence and seen by nobody for a while; it writes then, and after the proof.

    Anybody may set post_auth_delay. Whatever it commits before the fence is proven lies before the fence position.
    """

    def __init__(self, endpoint: Endpoint, database: str, user: str, statement: str) -> None:
        super().__init__()
        self.proven = threading.Event()
        self.done: list[str] = []
        self._connect: Callable[[], pg8000.native.Connection] = lambda: endpoint.connect(
            database, user, startup_params={"options": "-c post_auth_delay=3"}
        )
        self._statement = statement
        self.start()
        time.sleep(0.7)

    def run(self) -> None:
        try:
            connection = self._connect()
            connection.run(self._statement)
            self.done.append("before the proof")
            self.proven.wait(10)
            connection.run(self._statement)
            self.done.append("after the proof")
        except ENDED:
            return

    def finish(self) -> None:
        self.proven.set()
        self.join(10)


def test_a_connection_that_takes_its_time_is_invisible_and_is_caught(source: Endpoint) -> None:
    """Without the probe such a client writes after the fence position, and the write is lost."""
    before = rows(source)
    client = SlowClient(source, "orders", APPLICATION, "INSERT INTO kept DEFAULT VALUES")
    engine = source.engine()
    plan = engine.plan_fence(())
    source.admin("ALTER DATABASE orders ALLOW_CONNECTIONS false")
    assert [] == source.admin("SELECT pid FROM pg_stat_activity WHERE datname = 'orders'"), "nobody is to be seen"
    with engine._control_session() as sql:
        assert engine._probe(sql, "orders", within_seconds=0.3) is not None, "and the probe sees somebody"

    engine.raise_fence("r", plan, 10)
    client.finish()

    assert "after the proof" not in client.done
    assert before + len(client.done) == fenced_by_admin(source, "orders")


def test_a_slow_connection_to_the_limited_database_is_caught_as_well(source: Endpoint) -> None:
    """Where a superuser's session makes the probe impossible, the weaker proof must see who is starting."""
    engine = source.engine()
    with source.server.session("postgres"):
        client = SlowClient(source, "postgres", MASTER, "SELECT 1")
        engine.raise_fence("r", (DatabaseFence(name="postgres", kind="connection-limit"),), 10)
        client.finish()

    assert "after the proof" not in client.done


def test_a_superusers_session_is_left_alone_where_the_plan_says_so(source: Endpoint) -> None:
    """RDS's own agent is in there, and may not be ended."""
    engine = source.engine()
    with source.server.session("postgres") as agent:
        assert ["postgres"] == list(engine.databases_with_superuser_sessions())
        engine.raise_fence("r", engine.plan_fence(("postgres",)), 10)

        assert [[1]] == agent.run("SELECT 1")


def test_a_superusers_session_elsewhere_is_reported(source: Endpoint) -> None:
    engine = source.engine()
    plan = engine.plan_fence(())
    with source.server.session("orders"), pytest.raises(FenceIncomplete, match="orders: client backend of rdsadmin"):
        engine.raise_fence("r", plan, 1)


def test_a_superusers_database_gets_the_other_kind_of_fence(source: Endpoint) -> None:
    plan = source.engine().plan_fence(("orders",))

    assert "connection-limit" == next(fence.kind for fence in plan if fence.name == "orders")


def test_a_prepared_transaction_ends_the_attempt_at_once(permissive_source: Endpoint, opened: Opened) -> None:
    """It would survive the fence and could be committed afterwards; waiting for it would only cost outage."""
    source = permissive_source
    client = opened(source.connect("orders"))
    client.run("BEGIN")
    client.run("INSERT INTO kept DEFAULT VALUES")
    client.run("PREPARE TRANSACTION 'x'")
    client.close()
    engine = source.engine()
    plan = engine.plan_fence(())
    try:
        assert ["PreparedTransactions"] == [finding.name for finding in engine.limitations(())]
        began = time.monotonic()

        with pytest.raises(FenceIncomplete, match="orders: 1 prepared transaction"):
            engine.raise_fence("r", plan, 10)

        assert time.monotonic() - began < 3
    finally:
        engine.decide("r", "rollback", plan)
        source.admin("ROLLBACK PREPARED 'x'", "orders")


def test_a_database_made_during_the_fence_is_found(source: Endpoint) -> None:
    engine = source.engine()
    plan = engine.plan_fence(())
    engine.raise_fence("r", plan, 10)
    source.admin("CREATE DATABASE late OWNER master")

    assert "database late was never fenced" == engine.fence_breach(plan)
    appeared = engine.plan_fence((), besides=plan)
    assert ["late"] == [fence.name for fence in appeared]

    engine.raise_fence("r", plan + appeared, 10)

    assert engine.fence_breach(plan + appeared) is None
    assert () == engine.plan_fence((), besides=plan + appeared)


@pytest.mark.parametrize(
    "how, breach",
    [
        ("ALTER DATABASE orders ALLOW_CONNECTIONS true", "database orders accepts connections"),
        ("ALTER DATABASE postgres CONNECTION LIMIT 3", "database postgres accepts connections"),
        ("DROP DATABASE late", "database late is gone"),
    ],
)
def test_a_fence_that_somebody_took_down_is_seen(source: Endpoint, how: str, breach: str) -> None:
    source.admin("CREATE DATABASE late OWNER master")
    engine = source.engine()
    plan = engine.plan_fence(())
    engine.raise_fence("r", plan, 10)
    assert engine.fence_breach(plan) is None

    source.admin(how)

    assert breach == engine.fence_breach(plan)


def test_a_fence_that_comes_after_the_decision_closes_nothing(source: Endpoint) -> None:
    """The last act of a function whose execution is long dead."""
    engine, dead = source.engine(), source.engine()
    plan = engine.plan_fence(())
    engine.raise_fence("r", plan, 10)
    engine.decide("r", "rollback", plan)

    with pytest.raises(DecisionLost, match="'rollback' stands"):
        dead.raise_fence("r", plan, 10)

    source.connect("orders").close()


def test_fence_and_decision_take_turns(source: Endpoint) -> None:
    """The late fence looks while the decision is not yet committed: it must wait, not close what is being opened."""
    plan = source.engine().plan_fence(())
    lost: list[BaseException] = []

    def late_fence() -> None:
        try:
            source.engine().raise_fence("r", plan, 10)
        except DecisionLost as error:
            lost.append(error)

    with source.server.session("rds_key_rotation") as deciding:
        deciding.run("BEGIN")
        deciding.run("INSERT INTO public.decision (rotation_id, verdict) VALUES ('r', 'rollback')")
        dead = threading.Thread(target=late_fence)
        dead.start()
        time.sleep(0.5)
        deciding.run("COMMIT")
        dead.join(10)

    assert 1 == len(lost)
    source.connect("orders").close()


def test_nobody_commits_after_the_fence_however_hard_they_try(source: Endpoint) -> None:
    """Pools that reconnect as fast as they can. What was acknowledged is there, and nothing comes after the proof."""
    acknowledged: list[int] = []
    stop = threading.Event()

    def write() -> None:
        connection: pg8000.native.Connection | None = None
        while not stop.is_set():
            try:
                connection = connection or source.connect("orders")
                [[number]] = connection.run("INSERT INTO kept DEFAULT VALUES RETURNING id")
                acknowledged.append(number)
            except ENDED:
                connection = None

    source.admin("TRUNCATE kept RESTART IDENTITY", "orders")
    writers = [threading.Thread(target=write) for _ in range(4)]
    for writer in writers:
        writer.start()
    try:
        time.sleep(0.7)
        engine = source.engine()
        plan = engine.plan_fence(())
        engine.raise_fence("r", plan, 15)
        proven = len(acknowledged)
        engine.mark("r")
        time.sleep(1)
        assert engine.fence_breach(plan) is None
    finally:
        stop.set()
        for writer in writers:
            writer.join(10)
    ids = {number for (number,) in _open_and_read(source)}

    assert proven > 10
    # Some answers were on the way when the fence was proven: a client hears a moment later what was committed before.
    assert len(acknowledged) - proven <= len(writers)
    assert set(acknowledged) <= ids
    assert len(acknowledged) == len(set(acknowledged))


def _open_and_read(source: Endpoint) -> list[Any]:
    source.admin("ALTER DATABASE orders ALLOW_CONNECTIONS true")
    return source.admin("SELECT id FROM kept", "orders")


def test_the_probe_leaves_nothing_behind(source: Endpoint) -> None:
    engine = source.engine()
    plan = engine.plan_fence(())
    engine.raise_fence("r", plan, 10)
    catalog = "SELECT datname, datallowconn, datconnlimit FROM pg_database ORDER BY 1"
    before = source.admin(catalog)
    with engine._control_session() as sql:
        assert engine._probe(sql, LONG) is None

    assert before == source.admin(catalog)


def test_a_login_of_the_application_itself_is_shut_out(source: Endpoint) -> None:
    """The owner of a database passes REVOKE CONNECT, and not this."""
    engine = source.engine()
    engine.raise_fence("r", engine.plan_fence(()), 10)

    for user in (APPLICATION, MASTER):
        with pytest.raises(pg8000.exceptions.DatabaseError, match="not currently accepting connections"):
            source.connect("orders", user)
