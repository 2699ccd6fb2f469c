"""Marker, drain, promotion, decision: on a real primary and its real replica."""

import threading
import time

import pg8000.native
import pytest

from lambdas.rotation.engines.postgres import PostgresEngine
from lambdas.rotation.errors import DatabaseUnreachable
from lambdas.rotation.state import Position, Verdict
from tests.engines.servers import DATABASES, Endpoint


def replays(engine: PostgresEngine, position: Position, token: str, seconds: float = 10) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if engine.has_replayed(position) and engine.shows_marker(token):
            return True
        time.sleep(0.02)
    return False


def test_the_target_is_born_fenced_and_released_by_the_decision(source: Endpoint, replica: Endpoint) -> None:
    """The whole cutover, in SQL."""
    source.admin("TRUNCATE kept RESTART IDENTITY; INSERT INTO kept DEFAULT VALUES", "orders")
    on_source, on_target = source.engine(), replica.engine()
    plan = on_source.plan_fence(())
    on_source.raise_fence("r", plan, 10)
    position = on_source.mark("r")
    assert replays(on_target, position, "r")
    here, there = on_source.control_view("r", plan), on_target.control_view("r", plan)
    assert there.in_recovery
    assert (here.system_identifier, here.databases, here.roles) == (
        there.system_identifier,
        there.databases,
        there.roles,
    )

    replica.server.promote()

    promoted = on_target.control_view("r", plan)
    assert (False, True, None) == (promoted.in_recovery, promoted.marker_seen, promoted.fence_breach)
    assert not on_target.is_replica()
    assert on_target.has_replayed(position)
    for name in DATABASES:
        with pytest.raises(pg8000.exceptions.DatabaseError, match="not currently accepting"):
            replica.connect(name)
    assert on_target.verdict("r") is None

    assert "release" == on_target.decide("r", "release", plan)

    client = replica.connect("orders")
    assert [[1]] == client.run("SELECT count(*) FROM kept")
    client.run("INSERT INTO kept DEFAULT VALUES")
    client.close()
    assert "release" == on_target.verdict("r")
    assert on_source.verdict("r") is None
    with pytest.raises(pg8000.exceptions.DatabaseError, match="not currently accepting"):
        source.connect("orders")
    seen = on_target.inspect()
    assert {*DATABASES, "postgres", "template1"} == set(seen)
    assert {"relations": 2, "sequences": 1, "invalid_indexes": []} == seen["orders"]


def test_a_rollback_before_the_promotion_reaches_the_replica(source: Endpoint, replica: Endpoint) -> None:
    """So that this replica can never be released for this rotation, even if somebody promotes it later."""
    on_source, on_target = source.engine(), replica.engine()
    plan = on_source.plan_fence(())
    on_source.raise_fence("r", plan, 10)
    on_source.decide("r", "rollback", plan)
    assert replays(on_target, on_source.mark("after"), "after")

    replica.server.promote()

    assert "rollback" == on_target.decide("r", "release", plan)


def test_a_session_that_read_from_the_replica_does_not_live_to_write(source: Endpoint, replica: Endpoint) -> None:
    reader = replica.connect("orders")
    assert [[True]] == reader.run("SELECT pg_is_in_recovery()")
    on_source, on_target = source.engine(), replica.engine()
    plan = on_source.plan_fence(())
    on_source.raise_fence("r", plan, 10)
    assert replays(on_target, on_source.mark("r"), "r")
    replica.server.promote()
    assert "client backend of shop app" in (on_target.fence_breach(plan) or "")

    on_target.raise_fence("r", plan, 10)

    with pytest.raises((pg8000.exceptions.Error, OSError)):
        reader.run("INSERT INTO kept DEFAULT VALUES")
    assert on_target.fence_breach(plan) is None


def test_a_paused_replay_shows_neither_marker_nor_position(source: Endpoint, replica: Endpoint) -> None:
    """It receives everything, and lag in what it received says nothing about what it has replayed."""
    on_source, on_target = source.engine(), replica.engine()
    assert replays(on_target, on_source.mark("before"), "before")
    assert on_target.lag().streaming
    replica.server.pause_replay()
    position = on_source.mark("r")

    assert not replays(on_target, position, "r", seconds=1)
    lag = on_target.lag()
    assert not lag.streaming
    assert lag.bytes
    assert lag.bytes > 0
    assert "ReplayPaused" in [finding.name for finding in on_target.limitations(())]
    replica.server.resume_replay()

    assert replays(on_target, position, "r")
    assert on_target.replayed() >= position or on_target.has_replayed(position)


def test_a_young_replica_shows_no_marker_and_no_verdict(source: Endpoint, replica: Endpoint) -> None:
    """The control database reaches it some time after the source has it."""
    source.engine().drop_control_database("r")
    time.sleep(0.5)
    on_target = replica.engine()

    assert not on_target.shows_marker("r")
    assert on_target.verdict("r") is None
    assert on_target.is_replica()
    assert on_target.lag().streaming


def test_positions_grow_and_marks_are_repeatable(source: Endpoint) -> None:
    engine = source.engine()

    first, second = engine.mark("r"), engine.mark("r")

    assert engine.has_replayed(second)
    assert source.admin(f"SELECT pg_lsn '{second}' > pg_lsn '{first}'") == [[True]]


def test_the_position_covers_commits_that_were_not_flushed(source: Endpoint) -> None:
    """With synchronous_commit=off a commit is acknowledged before its WAL is on disk; the marker's commit flushes."""
    client = source.connect("orders")
    client.run("SET synchronous_commit = off")
    client.run("INSERT INTO kept DEFAULT VALUES")
    [[inserted]] = client.run("SELECT pg_current_wal_insert_lsn()::text")
    client.close()

    position = source.engine().mark("r")

    assert source.admin(f"SELECT pg_lsn '{position}' >= pg_lsn '{inserted}'") == [[True]]


@pytest.mark.parametrize(("resource_id", "commit"), [("db-1", "local"), ("cluster-1", "on")])
def test_a_commit_waits_for_a_reader_where_that_is_what_a_failover_leaves(
    source: Endpoint, resource_id: str, commit: str
) -> None:
    """Of a Multi-AZ DB cluster; an instance has nobody to wait for, and must not wait for what an owner has set up."""
    with source.engine(resource_id=resource_id)._session("postgres") as sql:
        assert commit == sql.value("SHOW synchronous_commit")


def test_of_two_deciders_one_wins_and_both_know_which(source: Endpoint) -> None:
    plan = source.engine().plan_fence(())
    for attempt in range(10):
        verdicts: tuple[Verdict, ...] = ("release", "rollback")
        barrier = threading.Barrier(len(verdicts))
        heard: dict[Verdict, Verdict] = {}

        def decide(
            verdict: Verdict,
            name: str = f"r{attempt}",
            barrier: threading.Barrier = barrier,
            heard: dict[Verdict, Verdict] = heard,
        ) -> None:
            engine = source.engine()
            engine.is_replica()  # connected
            barrier.wait()
            heard[verdict] = engine.decide(name, verdict, plan)

        threads = [threading.Thread(target=decide, args=(verdict,)) for verdict in verdicts]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)

        assert 2 == len(heard)
        assert 1 == len(set(heard.values()))
        assert source.engine().verdict(f"r{attempt}") in heard.values()


def test_the_loser_opens_nothing(source: Endpoint) -> None:
    engine = source.engine()
    plan = engine.plan_fence(())
    engine.raise_fence("r", plan, 10)
    engine.decide("r", "rollback", ())

    assert "rollback" == engine.decide("r", "release", plan)

    with pytest.raises(pg8000.exceptions.DatabaseError, match="not currently accepting"):
        source.connect("orders")
    # The same verdict again may open: it was decided before the name led back.
    assert "rollback" == engine.decide("r", "rollback", plan)
    source.connect("orders").close()


def test_a_decision_that_is_not_committed_opens_nothing(source: Endpoint) -> None:
    """Row and opening are one transaction: dying in the middle leaves neither."""
    engine = source.engine()
    plan = engine.plan_fence(())
    engine.raise_fence("r", plan, 10)
    with source.server.session() as blocker:
        # The last statement of the decision waits for this lock, until its session is ended.
        blocker.run("BEGIN")
        blocker.run("UPDATE pg_database SET datname = datname WHERE datname = 'postgres'")
        thread = threading.Thread(target=lambda: _ignoring(lambda: engine.decide("r", "release", plan)))
        thread.start()
        time.sleep(0.5)
        source.admin(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE application_name = 'rds-key-rotation' AND datname = 'rds_key_rotation'",
            "rdsadmin",
        )
        thread.join(10)
        blocker.run("ROLLBACK")

    again = source.engine()
    assert again.verdict("r") is None
    assert again.fence_breach(plan) is None


def _ignoring(act: object) -> None:
    try:
        act()  # type: ignore[operator]
    except Exception:  # the point is what it leaves behind
        return


def test_a_dropped_database_does_not_keep_the_others_closed(source: Endpoint) -> None:
    source.admin("CREATE DATABASE late OWNER master")
    engine = source.engine()
    plan = engine.plan_fence(())
    engine.raise_fence("r", plan, 10)
    source.admin("DROP DATABASE late")

    assert "rollback" == engine.decide("r", "rollback", plan)

    source.connect("orders").close()


def test_a_server_that_is_a_reader_now_is_asked_again(source: Endpoint, replica: Endpoint) -> None:
    """After a failover of Aurora the cluster's name leads to the former writer for a while; that refuses nothing."""
    token = "reader"
    assert replays(replica.engine(), source.engine().mark(token), token)

    with pytest.raises(DatabaseUnreachable, match="read-only"):
        replica.engine().decide("rotation", "rollback", ())
