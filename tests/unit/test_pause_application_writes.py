"""PauseApplicationWrites must be undoable at every moment, so what undoes it is written down first."""

from datetime import timedelta

import pytest

from lambdas.pause_application_writes.handler import FENCE_SECONDS, pause_application_writes
from lambdas.rotation.errors import (
    AwsUnavailable,
    DatabaseUnreachable,
    DecisionLost,
    EpochSuperseded,
    FenceIncomplete,
    JournalMoved,
    PreflightRefused,
    SqlRefused,
    StateIncomplete,
)
from lambdas.rotation.state import DatabaseFence, Finding
from tests.fakes import EXECUTION, ROTATION_ID, START, FakePorts, replicating_rotation, synced_rotation, visit


def test_journal_then_schedule_then_fence_then_marker() -> None:
    ports = FakePorts()
    rotation = synced_rotation(ports)

    pause_application_writes(rotation, ports)

    assert ["ledger.record", "recovery.set", "engine.raise_fence orders", "engine.mark orders"] == ports.calls
    assert START + timedelta(seconds=120 + 60) == ports.recovery.at[ROTATION_ID]


def test_the_journal_holds_what_reopens_each_database() -> None:
    ports = FakePorts()
    rotation = synced_rotation(ports)
    ports.source_server.own.limit["postgres"] = 17
    ports.fail("engine.raise_fence", DatabaseUnreachable("cut"))

    with pytest.raises(DatabaseUnreachable):
        pause_application_writes(rotation, ports)

    fence = ports.ledger.journal[ROTATION_ID].rotation.fence
    assert fence is not None
    assert fence.databases == (
        DatabaseFence(name="orders", kind="allow-connections"),
        DatabaseFence(name="postgres", kind="connection-limit", connection_limit=17),
    )
    assert fence.position is None


def test_a_retry_goes_on_with_the_values_that_were_written_down() -> None:
    """Planned again, it would find closed databases, and write down that they are to be left closed."""
    ports = FakePorts()
    rotation = synced_rotation(ports)
    ports.source_server.own.limit["postgres"] = 17
    ports.fail("engine.raise_fence", DatabaseUnreachable("cut"), when="after")
    with pytest.raises(DatabaseUnreachable):
        visit(pause_application_writes, rotation, ports)

    rotation = visit(pause_application_writes, rotation, ports)

    assert rotation.fence is not None
    assert {"orders": -1, "postgres": 17} == {one.name: one.connection_limit for one in rotation.fence.databases}
    assert not ports.source_server.accepts_applications()


def test_what_a_second_delivery_has_begun_to_close_is_no_reason_to_go_back() -> None:
    """It looks into databases that its twin is closing: their refusal is the twin's work."""
    ports = FakePorts()
    rotation = synced_rotation(ports)
    ports.fail("engine.limitations", SqlRefused("55000", "database orders is not currently accepting connections"))
    ports.fail("ledger.record", JournalMoved("the twin has written its fence"))

    with pytest.raises(JournalMoved):
        pause_application_writes(rotation, ports)


def test_a_refusal_that_is_nobodys_work_stays_one() -> None:
    ports = FakePorts()
    rotation = synced_rotation(ports)
    ports.fail("engine.limitations", SqlRefused("55000", "database orders is not currently accepting connections"))

    with pytest.raises(SqlRefused):
        pause_application_writes(rotation, ports)

    assert ports.ledger.journal[ROTATION_ID].rotation.fence is None


def test_a_retry_after_the_end_changes_nothing() -> None:
    ports = FakePorts()
    rotation = visit(pause_application_writes, synced_rotation(ports), ports)
    ports.calls.clear()

    again = pause_application_writes(rotation, ports)

    assert again == rotation
    assert [] == ports.calls


def test_a_database_that_appears_during_the_fence_is_fenced_too() -> None:
    ports = FakePorts()
    rotation = synced_rotation(ports)
    ports.source_server.appearing = ["late"]

    rotation = pause_application_writes(rotation, ports)

    assert rotation.fence is not None
    assert ["orders", "postgres", "late"] == [one.name for one in rotation.fence.databases]
    assert not ports.source_server.accepts_applications()
    # Written down before it was closed, like the others.
    assert ["engine.raise_fence orders", "ledger.record", "engine.raise_fence orders"] == ports.calls[2:5]


def test_refuses_what_came_up_since_preflight_with_nothing_closed() -> None:
    ports = FakePorts()
    rotation = synced_rotation(ports)
    ports.source_server.found = [Finding(name="PreparedTransactions", message="2 prepared", advice="end them")]

    with pytest.raises(PreflightRefused, match="2 prepared: end them"):
        pause_application_writes(rotation, ports)

    assert ["ledger.record"] == ports.calls


def test_no_fence_without_its_recovery_schedule() -> None:
    """Whoever dies under the fence must be recovered, so a schedule that cannot be made forbids the fence."""
    ports = FakePorts()
    rotation = synced_rotation(ports)
    ports.fail("recovery.set", AwsUnavailable("throttled"))

    with pytest.raises(AwsUnavailable):
        pause_application_writes(rotation, ports)

    assert ports.source_server.accepts_applications()


def test_a_rotation_that_was_taken_over_fences_nothing() -> None:
    ports = FakePorts()
    rotation = synced_rotation(ports)
    ports.ledger.take_over(rotation, EXECUTION)

    with pytest.raises(EpochSuperseded):
        pause_application_writes(rotation, ports)

    assert ports.source_server.accepts_applications()


def test_a_fence_that_comes_after_the_decision_closes_nothing() -> None:
    """The journal was written before the takeover; only the decision row stops this one."""
    ports = FakePorts()
    rotation = synced_rotation(ports)
    engine = ports.engine(ports.rds.instances["orders"].database, rotation.planned()[0])
    engine.decide(ROTATION_ID, "rollback", ())

    with pytest.raises(DecisionLost):
        pause_application_writes(rotation, ports)

    assert ports.source_server.accepts_applications()


def test_somebody_does_not_let_go() -> None:
    ports = FakePorts()
    rotation = synced_rotation(ports)
    ports.source_server.stubborn = "orders: a session"

    with pytest.raises(FenceIncomplete, match=f"within {FENCE_SECONDS} s"):
        pause_application_writes(rotation, ports)


def test_retries_do_not_extend_the_budget() -> None:
    ports = FakePorts()
    rotation = synced_rotation(ports, write_outage_budget_seconds=20)
    ports.fail("engine.raise_fence", DatabaseUnreachable("cut"))
    with pytest.raises(DatabaseUnreachable):
        visit(pause_application_writes, rotation, ports)
    ports.clock.advance(20)

    with pytest.raises(FenceIncomplete, match="20 s is spent"):
        visit(pause_application_writes, rotation, ports)


def test_refuses_before_the_target_is_in_sync() -> None:
    ports = FakePorts()

    with pytest.raises(StateIncomplete):
        pause_application_writes(replicating_rotation(ports), ports)
