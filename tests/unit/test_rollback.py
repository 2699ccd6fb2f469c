"""Rollback: applications get exactly one place to write to, whatever happened before and whoever is still alive."""

from collections.abc import Callable

import pytest

from lambdas.pause_application_writes.handler import pause_application_writes
from lambdas.promote.handler import promote
from lambdas.resume_writes.handler import resume_writes
from lambdas.rollback.evidence import STILL_A_REPLICA
from lambdas.rollback.handler import rollback
from lambdas.rotation.errors import (
    AccessRefused,
    AwsUnavailable,
    DatabaseUnreachable,
    DecisionLost,
    EpochSuperseded,
    LoginRefused,
    SqlRefused,
)
from lambdas.rotation.ports import Step
from lambdas.rotation.state import Rotation
from lambdas.rotation.undoing import PAGE_AFTER, SLOWEST_FUNCTION
from tests.fakes import (
    EXECUTION,
    ROTATION_ID,
    SOURCE,
    TARGET,
    FakeEngine,
    FakePorts,
    failed,
    fenced_rotation,
    planned_rotation,
    promoted_rotation,
    promoting_rotation,
    switched_rotation,
    synced_rotation,
    visit,
)


def rolled(rotation: Rotation, ports: FakePorts) -> Rotation:
    return visit(rollback, rotation, ports, takes_over=True)


def waited_for(rotation: Rotation, ports: FakePorts) -> Rotation:
    """Until nothing that the failed function has begun can be going on any more, and nothing was decided before."""
    assert rotation.undo is not None
    assert "undecided" == rotation.undo.outcome
    ports.clock.advance((rotation.undo.not_before - ports.clock.now()).total_seconds())
    return rolled(rotation, ports)


def outcome(rotation: Rotation) -> str:
    assert rotation.undo is not None
    return rotation.undo.outcome


def restored(rotation: Rotation, ports: FakePorts) -> Rotation:
    """RestoreConnectivity, as the state machine runs it after ``decided``."""
    assert rotation.connectivity is not None
    rotation = rotation.having(connectivity=rotation.connectivity.having(restored_at=ports.clock.now()))
    ports.ledger.record(rotation)
    return rotation


def writable(ports: FakePorts) -> list[str]:
    """Which sides accept application writes. Never two."""
    return [name for name, server in sorted(ports.rds.servers.items()) if server.accepts_applications()]


# -- what may still be running -----------------------------------------------------------------------------------------


def test_nothing_is_looked_for_while_a_function_may_still_be_making_it() -> None:
    """An execution was stopped while CreateNewKMSKey was at work; the key that it made a second later was left over."""
    ports = FakePorts()
    rotation = rolled(failed(planned_rotation(ports), "States.Timeout"), ports)
    assert rotation.undo is not None
    assert outcome(rotation) == "undecided"

    ports.clock.advance((rotation.undo.not_before - ports.clock.now()).total_seconds())

    assert outcome(rolled(rotation, ports)) == "rolled-back"


# -- before the fence, and under it ------------------------------------------------------------------------------------


@pytest.mark.parametrize("point", [planned_rotation, synced_rotation])
def test_nothing_was_fenced(point: Callable[[FakePorts], Rotation]) -> None:
    """No server is asked, so a rotation that failed for lack of a login can be rolled back."""
    ports = FakePorts()
    ports.source_server.reachable = False

    rotation = rolled(failed(point(ports), "PreflightRefused"), ports)

    assert "rolled-back" == outcome(rotation)
    assert 2 == rotation.epoch


@pytest.mark.parametrize("error", ["FenceIncomplete", "DrainIncomplete", "FenceBroken", "AwsUnavailable"])
def test_a_function_that_said_what_was_wrong_has_ended(error: str) -> None:
    """So the source is opened at once: each second more is a second of outage."""
    ports = FakePorts()
    ports.source_server.own.limit["postgres"] = 17

    rotation = rolled(failed(fenced_rotation(ports), error), ports)

    assert "rolled-back" == outcome(rotation)
    assert [SOURCE] == writable(ports)
    assert 17 == ports.source_server.own.limit["postgres"]
    assert "rollback" == ports.source_server.own.decisions[ROTATION_ID]
    assert error == (rotation.failure.Error if rotation.failure else None)


@pytest.mark.parametrize("error", ["AwsUnavailable", "JournalMoved"])
def test_before_the_fence_an_earlier_attempt_that_nobody_heard_of_is_waited_for(error: str) -> None:
    """It may suspend a secret's rotation, or lower a TTL, after those were put back. Nobody is kept waiting by that."""
    ports = FakePorts()

    rotation = rolled(failed(synced_rotation(ports), error), ports)

    assert "undecided" == outcome(rotation)
    assert "rolled-back" == outcome(waited_for(rotation, ports))


@pytest.mark.parametrize("error", ["AwsUnavailable", "JournalMoved", "ConnectivityChanged"])
def test_a_late_switch_finds_no_name_that_was_put_back(error: str) -> None:
    """An attempt of UpdateConnectivity that hangs would lead applications to a target that is about to be deleted."""
    ports = FakePorts()

    rotation = rolled(failed(switched_rotation(ports), error), ports)
    ports.clock.advance(SLOWEST_FUNCTION.total_seconds() - 1)

    assert "undecided" == outcome(rolled(rotation, ports))
    assert {} == ports.source_server.own.decisions


def test_epoch_before_anything_else() -> None:
    ports = FakePorts()

    rolled(failed(fenced_rotation(ports), "DrainIncomplete"), ports)

    assert ["ledger.take_over", "ledger.record", "engine.decide-rollback orders", "ledger.record"] == ports.calls


@pytest.mark.parametrize("error", ["States.Timeout", "Lambda.Unknown", "ExecutionEnded", "Exception"])
def test_waits_for_functions_that_may_still_run(error: str) -> None:
    ports = FakePorts()

    rotation = rolled(failed(fenced_rotation(ports), error), ports)
    assert "undecided" == outcome(rotation)
    assert [] == writable(ports)
    ports.clock.advance(SLOWEST_FUNCTION.total_seconds())

    assert "rolled-back" == outcome(rolled(rotation, ports))
    assert [SOURCE] == writable(ports)


def test_a_fence_raised_by_a_dead_execution_cannot_close_the_source_again() -> None:
    """Its journal entry was written before the takeover; the decision row stops what the epoch no longer can."""
    ports = FakePorts()
    dead = fenced_rotation(ports)
    assert dead.fence is not None
    rolled(failed(dead, "FenceIncomplete"), ports)

    with pytest.raises(DecisionLost):
        FakeEngine(ports.source_server).raise_fence(ROTATION_ID, dead.fence.databases, 1)

    assert [SOURCE] == writable(ports)


@pytest.mark.parametrize("step", [pause_application_writes, promote, resume_writes])
def test_no_step_of_the_dead_execution_gets_past_its_journal(step: Step) -> None:
    ports = FakePorts()
    dead = fenced_rotation(ports)
    rolled(failed(dead, "DrainIncomplete"), ports)

    with pytest.raises(EpochSuperseded):
        visit(step, dead, ports)


def test_goes_on_with_what_the_journal_says_when_the_epoch_is_raised() -> None:
    """Promote may write between Rollback's reading of the journal and its takeover; that must not be overlooked."""
    ports = FakePorts()
    stale = failed(fenced_rotation(ports), "States.Timeout")
    visit(promote, stale.having(failure=None), ports)

    rotation = rollback(stale, ports)

    assert rotation.promotion is not None


def test_a_retry_of_rollback_after_its_own_takeover() -> None:
    ports = FakePorts()
    rotation = failed(fenced_rotation(ports), "DrainIncomplete")
    ports.fail("engine.decide-rollback", DatabaseUnreachable("cut"), when="after")
    first = rolled(rotation, ports)
    assert "undecided" == outcome(first)

    # The state machine repeats with the state of before: an epoch too old, the same execution.
    again = rolled(rotation, ports)

    assert "rolled-back" == outcome(again)
    assert 2 == again.epoch


def test_the_lost_answer_of_a_takeover() -> None:
    ports = FakePorts()
    rotation = failed(fenced_rotation(ports), "DrainIncomplete")
    ports.fail("ledger.take_over", AwsUnavailable("answer lost"), when="after")
    with pytest.raises(AwsUnavailable):
        rolled(rotation, ports)

    assert "rolled-back" == outcome(rolled(rotation, ports))


def test_somebody_elses_recovery_keeps_this_execution_out() -> None:
    ports = FakePorts()
    rotation = failed(fenced_rotation(ports), "DrainIncomplete")
    ports.ledger.take_over(ports.ledger.current(rotation), "another execution")

    with pytest.raises(EpochSuperseded):
        rolled(rotation, ports)


@pytest.mark.parametrize("error", [DatabaseUnreachable("gone"), LoginRefused("password changed")])
def test_a_source_that_cannot_be_reached_is_tried_until_it_can(error: Exception) -> None:
    ports = FakePorts()
    ports.fail("engine.decide-rollback", error)

    rotation = rolled(failed(fenced_rotation(ports), "DrainIncomplete"), ports)
    assert "undecided" == outcome(rotation)
    assert rotation.undo is not None
    assert str(error) in rotation.undo.reason

    assert "rolled-back" == outcome(rolled(rotation, ports))


# -- a promotion was requested -----------------------------------------------------------------------------------------


def test_a_refusal_that_nobody_expected_does_not_end_the_rollback() -> None:
    """It would leave applications standing for ever."""
    ports = FakePorts()
    ports.fail("engine.decide-rollback", SqlRefused("XX001", "could not read block"))

    rotation = rolled(failed(fenced_rotation(ports), "DrainIncomplete"), ports)

    assert "undecided" == outcome(rotation)
    assert "could not read block" in (rotation.undo.reason if rotation.undo else "")
    assert "rolled-back" == outcome(rolled(rotation, ports))


def test_a_promotion_under_way_is_waited_for() -> None:
    """Opening the source now could give two primaries."""
    ports = FakePorts()
    ports.rds.promotion_takes = 3
    rotation = rolled(failed(promoting_rotation(ports), "PromotionFailed"), ports)
    assert "undecided" == outcome(rotation)
    assert [] == writable(ports)

    while outcome(rotation) == "undecided":
        rotation = rolled(rotation, ports)

    assert "rolled-back" == outcome(rotation)
    assert "rollback" == ports.target_server.own.decisions[ROTATION_ID]
    assert [SOURCE] == writable(ports)


def test_a_refused_promotion_needs_the_replica_to_be_seen_twice() -> None:
    ports = FakePorts()
    rotation = promoting_rotation(ports)
    ports.rds.refuse_promotion(TARGET)
    rotation = rolled(failed(rotation, "PromotionFailed"), ports)
    assert "undecided" == outcome(rotation)
    assert "undecided" == outcome(rolled(rotation, ports)), "too soon"
    ports.clock.advance(STILL_A_REPLICA.total_seconds())

    assert "rolled-back" == outcome(rolled(rotation, ports))
    assert [SOURCE] == writable(ports)


def test_a_replica_that_rds_has_given_up_is_not_waited_for_for_ever() -> None:
    ports = FakePorts()
    rotation = promoting_rotation(ports)
    ports.rds.refuse_promotion(TARGET)
    ports.rds.alter(TARGET, status="failed")
    rotation = rolled(failed(rotation, "PromotionFailed"), ports)
    assert "undecided" == outcome(rotation)
    ports.clock.advance(STILL_A_REPLICA.total_seconds())

    assert "rolled-back" == outcome(rolled(rotation, ports))
    assert [SOURCE] == writable(ports)


@pytest.mark.parametrize(
    "status", ["storage-full", "inaccessible-encryption-credentials-recoverable", "insufficient-capacity"]
)
def test_a_promotion_that_may_go_on_is_waited_for(status: str) -> None:
    """As soon as its owner has helped the target: a source that was open by then would be the second primary."""
    ports = FakePorts()
    ports.rds.promotion_takes = 1000
    rotation = promoting_rotation(ports)
    ports.rds.alter(TARGET, status=status)
    rotation = rolled(failed(rotation, "PromotionFailed"), ports)
    for _ in range(2):
        ports.clock.advance(STILL_A_REPLICA.total_seconds())
        rotation = rolled(rotation, ports)
        assert "undecided" == outcome(rotation)
        assert [] == writable(ports)

    ports.rds.alter(TARGET, status="available", replica_of=None)
    ports.target_server.promote()

    assert "rolled-back" == outcome(rolled(rotation, ports))
    assert "rollback" == ports.target_server.own.decisions[ROTATION_ID]
    assert [SOURCE] == writable(ports)


def test_a_replica_counts_as_one_only_when_nobody_can_ask_for_its_promotion_any_more() -> None:
    """An attempt of Promote that nobody heard of may be about to; no epoch and no decision row stops its call."""
    assert STILL_A_REPLICA > SLOWEST_FUNCTION


def test_a_replica_that_rds_no_longer_calls_one_is_about_to_be_promoted() -> None:
    ports = FakePorts()
    rotation = promoting_rotation(ports)
    ports.rds.refuse_promotion(TARGET)
    ports.rds.alter(TARGET, replica_of=None)
    rotation = rolled(failed(rotation, "PromotionFailed"), ports)
    ports.clock.advance(STILL_A_REPLICA.total_seconds())

    assert "undecided" == outcome(rolled(rotation, ports))
    assert [] == writable(ports)


def test_a_promotion_that_shows_late_starts_the_count_again() -> None:
    ports = FakePorts()
    rotation = promoting_rotation(ports)
    ports.rds.refuse_promotion(TARGET)
    rotation = rolled(failed(rotation, "PromotionFailed"), ports)
    ports.rds.alter(TARGET, status="modifying")
    rotation = rolled(rotation, ports)
    ports.rds.alter(TARGET, status="available")
    ports.clock.advance(STILL_A_REPLICA.total_seconds())

    assert "undecided" == outcome(rolled(rotation, ports))
    assert [] == writable(ports)


def test_a_promoted_target_is_decided_on_the_target_first() -> None:
    ports = FakePorts()

    rotation = rolled(failed(promoted_rotation(ports), "TargetMismatch"), ports)

    assert "rolled-back" == outcome(rotation)
    decisions = [call for call in ports.calls if "decide" in call]
    assert [f"engine.decide-rollback {TARGET}", f"engine.decide-rollback {SOURCE}"] == decisions
    assert [SOURCE] == writable(ports)


def test_a_late_release_finds_the_rollback_and_opens_nothing() -> None:
    ports = FakePorts()
    dead = switched_rotation(ports)
    assert dead.fence is not None
    waited_for(rolled(failed(dead, "AwsRefused"), ports), ports)

    assert "rollback" == FakeEngine(ports.target_server).decide(ROTATION_ID, "release", dead.fence.databases)
    assert [] == writable(ports)


def test_an_unseen_target_keeps_both_sides_fenced_and_pages_once() -> None:
    ports = FakePorts()
    rotation = promoted_rotation(ports)
    ports.target_server.reachable = False
    rotation = rolled(failed(rotation, "DatabaseUnreachable"), ports)

    for _ in range(30):
        assert "undecided" == outcome(rotation)
        assert [] == writable(ports)
        ports.clock.advance(15)
        rotation = rolled(rotation, ports)

    assert ["RotationUndecided"] == [moment for moment, _, _ in ports.notifier.sent]
    assert "does not answer" in ports.notifier.sent[0][2]["waiting_for"]


@pytest.mark.parametrize("error", [AccessRefused("sns:Publish: denied"), AwsUnavailable("sns:Publish: no endpoint")])
def test_a_page_that_cannot_be_sent_ends_nothing_and_is_tried_again(error: Exception) -> None:
    """Where a function has no way to SNS the rollback ended at each of its visits, and lost what it had seen."""
    ports = FakePorts()
    rotation = promoted_rotation(ports)
    ports.target_server.reachable = False
    rotation = rolled(failed(rotation, "DatabaseUnreachable"), ports)
    ports.clock.advance(PAGE_AFTER.total_seconds())
    ports.fail("notifier.publish", error)

    rotation = rolled(rotation, ports)

    assert rotation.undo is not None
    assert ("undecided", None, f"{type(error).__name__}: {error}") == (
        rotation.undo.outcome,
        rotation.undo.paged_at,
        rotation.undo.untold,
    )

    rotation = rolled(rotation, ports)

    assert rotation.undo is not None
    assert (ports.clock.now(), None) == (rotation.undo.paged_at, rotation.undo.untold)
    assert ["RotationUndecided"] == [moment for moment, _, _ in ports.notifier.sent]


def test_what_a_visit_has_seen_is_written_down_before_people_are_told_of_it() -> None:
    """A function that ends while SNS keeps it waiting would see a replica for the first time, for ever."""
    ports = FakePorts()
    rotation = promoting_rotation(ports)
    ports.rds.refuse_promotion(TARGET)
    ports.target_server.reachable = False
    rotation = rolled(failed(rotation, "PromotionFailed"), ports)
    ports.clock.advance(PAGE_AFTER.total_seconds())
    ports.target_server.reachable = True
    ports.fail("notifier.publish", TimeoutError("the function is cut off"))
    with pytest.raises(TimeoutError):
        rolled(rotation, ports)
    ports.clock.advance(STILL_A_REPLICA.total_seconds())

    assert "rolled-back" == outcome(rolled(rotation, ports))


def test_finishes_by_itself_when_the_target_can_be_seen_again() -> None:
    ports = FakePorts()
    rotation = promoted_rotation(ports)
    ports.target_server.reachable = False
    rotation = rolled(failed(rotation, "DatabaseUnreachable"), ports)
    ports.target_server.reachable = True

    assert "rolled-back" == outcome(rolled(rotation, ports))
    assert [SOURCE] == writable(ports)


def test_no_page_in_the_first_five_minutes() -> None:
    ports = FakePorts()
    rotation = rolled(failed(fenced_rotation(ports), "States.Timeout"), ports)
    ports.clock.advance(60)

    rolled(rotation, ports)

    assert [] == ports.notifier.sent


def test_a_deleted_target_can_no_longer_be_released() -> None:
    ports = FakePorts()
    rotation = promoted_rotation(ports)
    ports.rds.request_instance_deletion(ports.rds.instances[TARGET].database, keep_automated_backups=False)

    rotation = rolled(failed(rotation, "TargetMismatch"), ports)
    assert "undecided" == outcome(rotation)
    while outcome(rotation) == "undecided":
        rotation = rolled(rotation, ports)

    assert "rolled-back" == outcome(rotation)
    assert ports.source_server.accepts_applications()


def test_another_instance_of_the_targets_name_proves_nothing() -> None:
    ports = FakePorts()
    rotation = promoted_rotation(ports)
    database = ports.rds.instances[TARGET].database
    ports.rds.alter(TARGET, database=database.having(resource_id="db-other"))

    assert "undecided" == outcome(rolled(failed(rotation, "TargetMismatch"), ports))
    assert [] == writable(ports)


# -- applications were led to the target -------------------------------------------------------------------------------


def test_the_name_goes_back_before_the_source_is_opened() -> None:
    """Otherwise clients that still hold the target's address would wait for a server that never opens."""
    ports = FakePorts()
    rotation = waited_for(rolled(failed(switched_rotation(ports), "AccessRefused"), ports), ports)
    assert "decided" == outcome(rotation)
    assert [] == writable(ports)

    rotation = rolled(restored(rotation, ports), ports)

    assert "rolled-back" == outcome(rotation)
    assert [SOURCE] == writable(ports)


def test_what_is_decided_stays_decided_when_the_target_disappears_from_sight() -> None:
    ports = FakePorts()
    rotation = restored(waited_for(rolled(failed(switched_rotation(ports), "AccessRefused"), ports), ports), ports)
    ports.target_server.reachable = False

    assert "rolled-back" == outcome(rolled(rotation, ports))


# -- after the commit point --------------------------------------------------------------------------------------------


def test_a_release_that_died_after_its_commit_goes_forward() -> None:
    ports = FakePorts()
    rotation = switched_rotation(ports)
    ports.fail("engine.decide-release", DatabaseUnreachable("cut"), when="after")
    with pytest.raises(DatabaseUnreachable):
        visit(resume_writes, rotation, ports)

    rotation = waited_for(rolled(failed(rotation, "DatabaseUnreachable"), ports), ports)

    assert "committed" == outcome(rotation)
    assert rotation.failure is None
    assert [TARGET] == writable(ports)
    rotation = visit(resume_writes, rotation, ports)
    assert rotation.release is not None


def test_a_release_in_the_journal_needs_no_server() -> None:
    ports = FakePorts()
    rotation = visit(resume_writes, switched_rotation(ports), ports)
    ports.target_server.reachable = ports.source_server.reachable = False

    assert "committed" == outcome(rolled(failed(rotation, "States.Timeout"), ports))


def test_a_rollback_that_has_ended_is_not_done_again() -> None:
    ports = FakePorts()
    rotation = rolled(failed(fenced_rotation(ports), "DrainIncomplete"), ports)
    ports.calls.clear()

    assert rotation == rollback(rotation, ports)
    assert [] == ports.calls


@pytest.mark.parametrize("point", [fenced_rotation, promoting_rotation, promoted_rotation, switched_rotation])
@pytest.mark.parametrize("error", ["States.Timeout", "DrainIncomplete"])
def test_there_is_never_more_than_one_place_to_write_to_and_in_the_end_exactly_one(
    point: Callable[[FakePorts], Rotation], error: str
) -> None:
    ports = FakePorts()
    rotation = failed(point(ports), error)

    for _ in range(20):
        rotation = rolled(rotation, ports)
        assert len(writable(ports)) <= 1
        if outcome(rotation) == "decided":
            rotation = restored(rotation, ports)
        ports.clock.advance(15)

    assert "rolled-back" == outcome(rotation)
    assert [SOURCE] == writable(ports)
    assert EXECUTION == rotation.execution_arn
