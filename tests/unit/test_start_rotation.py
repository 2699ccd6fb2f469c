"""StartRotation must find the right database, give it to one rotation, and never lose an unfinished one."""

from datetime import timedelta
from typing import Any

import pytest

from lambdas.rollback.handler import rollback
from lambdas.rotation import outage
from lambdas.rotation.errors import (
    AccessRefused,
    AwsRefused,
    AwsUnavailable,
    InputRefused,
    RecoveryExhausted,
    RotationInProgress,
    UnknownDatabase,
)
from lambdas.rotation.names import BASE_NAME_TAG
from lambdas.rotation.policy import TASK_TOKEN
from lambdas.rotation.ports import Watchers
from lambdas.rotation.state import Decommission, Failure, Finding, Moment, Release, Rotation, Undo, Verification
from lambdas.rotation.undoing import SLOWEST_FUNCTION, taken_over
from lambdas.start_rotation.handler import start_rotation
from tests.fakes import (
    EXECUTION,
    OLD_KEY,
    RECOVERY,
    ROTATION_ID,
    SOURCE,
    TARGET,
    FakePorts,
    fenced_rotation,
    journaled,
    planned_rotation,
    promoting_rotation,
    rolled_back,
    switched_rotation,
    visit,
)

SECOND = EXECUTION.replace(":first", ":second")


def begun(execution_arn: str = SECOND, **request: Any) -> Rotation:
    return Rotation(schema=1, execution_arn=execution_arn, request={"DBInstanceIdentifier": SOURCE} | request)


def released(ports: FakePorts) -> Rotation:
    rotation = switched_rotation(ports)
    return journaled(ports, rotation.having(release=Release(released_at=ports.clock.now(), write_outage_seconds=2.0)))


def test_begins_with_a_plan_a_lock_and_a_journal() -> None:
    ports = FakePorts(with_target=False, grace_days=2)

    rotation = start_rotation(begun(), ports)

    assert ("rotate", 1, SOURCE) == (rotation.route, rotation.epoch, rotation.source and rotation.source.identifier)
    assert rotation.plan is not None
    assert rotation.plan.grace_days == 2
    assert ports.ledger.locks[SOURCE].rotation_id == rotation.rotation_id
    assert ports.ledger.journal[rotation.rotation_id].rotation == rotation


def test_a_repeated_start_is_the_same_rotation() -> None:
    """The function's answer may get lost; the retry must not meet its own lock."""
    ports = FakePorts(with_target=False)

    assert start_rotation(begun(), ports) == start_rotation(begun(), ports)


def test_the_route_53_findings_travel_to_preflight() -> None:
    ports = FakePorts(with_target=False)
    ports.dns.found = [Finding(name="RecordMissing", message="m", advice="a")]

    rotation = start_rotation(begun(Connectivity="dns", DnsRecord="Z1/db.example.com"), ports)

    assert rotation.first_look is not None
    assert tuple(ports.dns.found) == rotation.first_look.limitations


def test_what_keeps_a_proxy_from_being_led_elsewhere_travels_to_preflight() -> None:
    ports = FakePorts(with_target=False)
    ports.proxies.found = [Finding(name="ProxyNotAllowed", message="m", advice="a")]

    rotation = start_rotation(begun(Connectivity="proxy", Proxy="pool"), ports)

    assert rotation.first_look is not None
    assert tuple(ports.proxies.found) == rotation.first_look.limitations_of_proxy


@pytest.mark.parametrize(("ttl_seconds", "names"), [(300, []), (301, ["HighTtl"])])
def test_a_high_ttl_is_a_warning(ttl_seconds: int, names: list[str]) -> None:
    """Somebody who watches the clock has to know that the fence waits for it."""
    ports = FakePorts(with_target=False)
    ports.dns.records["Z1", "db.example.com"] = (ports.rds.instances[SOURCE].database.address, ttl_seconds)

    rotation = start_rotation(begun(Connectivity="dns", DnsRecord="Z1/db.example.com"), ports)

    assert rotation.first_look is not None
    assert names == [warning.name for warning in rotation.first_look.warnings]


def test_who_watches_the_source_is_a_warning() -> None:
    ports = FakePorts(with_target=False)
    ports.monitoring.watchers[SOURCE] = Watchers(alarms=("cpu",), dashboards=("shop",), unseen=2)

    rotation = start_rotation(begun(), ports)

    assert rotation.first_look is not None
    assert ["alarm cpu watches orders", "dashboard shop shows orders"] == [
        warning.message for warning in rotation.first_look.warnings[:2]
    ]
    assert ["AlarmOnInstance", "DashboardOfInstance", "WatchersUnknown"] == [
        warning.name for warning in rotation.first_look.warnings
    ]


@pytest.mark.parametrize("kind", [AccessRefused, AwsRefused, AwsUnavailable])
def test_watchers_that_cannot_be_read_keep_nobody_from_rotating(kind: type[Exception]) -> None:
    """Throttled, too: CloudWatch takes a few of these questions in a second, and others ask as well."""
    ports = FakePorts(with_target=False)
    ports.fail("monitoring.watchers_of", kind("cloudwatch:DescribeAlarms"))

    rotation = start_rotation(begun(), ports)

    assert rotation.first_look is not None
    assert ["WatchersUnknown"] == [warning.name for warning in rotation.first_look.warnings]


def test_an_unknown_database_is_named() -> None:
    with pytest.raises(UnknownDatabase, match="nobody"):
        start_rotation(begun(DBInstanceIdentifier="nobody"), FakePorts())


# -- names across quarters --


@pytest.mark.parametrize("name", [SOURCE, TARGET])
def test_the_base_name_leads_to_the_last_target(name: str) -> None:
    """`orders` still exists, in its grace period; the rotation is of what applications write to."""
    ports = FakePorts()
    past = released(ports)
    ports.ledger.open(past.having(rotation_id="past"))
    ports.ledger.close(past.having(rotation_id="past"), "rotated")
    del ports.ledger.journal[past.rotation_id]
    ports.ledger.locks.clear()
    ports.ledger.lineage[SOURCE] = ports.rds.instances[TARGET].database.resource_id

    rotation = start_rotation(begun(DBInstanceIdentifier=name), ports)

    assert rotation.source is not None
    assert rotation.plan is not None
    assert (TARGET, SOURCE) == (rotation.source.identifier, rotation.plan.base_name)


def rotated_from_older(ports: FakePorts, past: Rotation) -> None:
    """Some earlier rotation of the base name ``shop`` had the database ``older`` as its source."""
    older = ports.rds.add("older", key_arn=OLD_KEY, tags={BASE_NAME_TAG: "shop"}).database
    ports.ledger.lineage["shop"] = ports.rds.instances[TARGET].database.resource_id
    plan, _ = past.planned()
    ports.ledger.open(past.having(rotation_id="past", plan=plan.having(base_name="shop"), source=older))


def test_a_database_that_was_left_behind_is_refused() -> None:
    ports = FakePorts()
    rotated_from_older(ports, released(ports))

    with pytest.raises(InputRefused, match='"DBInstanceIdentifier": "shop"'):
        start_rotation(begun(DBInstanceIdentifier="older"), ports)


def test_a_database_whose_rotation_was_undone_was_not_left_behind() -> None:
    """The base name has led further since, to what somebody has restored; this one is a database of its own."""
    ports = FakePorts()
    rotated_from_older(ports, planned_rotation(ports))

    rotation = start_rotation(begun(DBInstanceIdentifier="older"), ports)

    assert ("rotate", "older") == (rotation.route, rotation.planned()[0].base_name)


def test_the_name_of_two_databases_is_nobodys() -> None:
    """One was made under the name of a database that has another one since its rotation."""
    ports = FakePorts()
    ports.ledger.lineage[SOURCE] = ports.rds.instances[TARGET].database.resource_id

    with pytest.raises(InputRefused, match=f"{SOURCE} is {TARGET} since its last rotation"):
        start_rotation(begun(), ports)


def test_a_copied_tag_does_not_make_a_relative() -> None:
    """A snapshot restored for a test carries its origin's tags."""
    ports = FakePorts(with_target=False)
    ports.rds.add("copy", key_arn=OLD_KEY, tags={BASE_NAME_TAG: SOURCE})

    rotation = start_rotation(begun(DBInstanceIdentifier="copy"), ports)

    assert rotation.plan is not None
    assert rotation.plan.base_name == "copy"


# -- somebody else's lock --


def test_refuses_while_the_holder_is_at_work() -> None:
    ports = FakePorts()
    fenced_rotation(ports)

    with pytest.raises(RotationInProgress, match=EXECUTION):
        start_rotation(begun(), ports)

    assert ports.ledger.locks[SOURCE].execution_arn == EXECUTION


def test_takes_up_what_an_ended_execution_left() -> None:
    """A plain new start does what a recovery does: a stopped execution must not leave a database fenced."""
    ports = FakePorts()
    left = fenced_rotation(ports)
    ports.workflow.running.clear()

    taken = start_rotation(begun(**{TASK_TOKEN: "fleet"}), ports)

    assert ("rollback", ROTATION_ID, left.epoch + 1) == (taken.route, taken.rotation_id, taken.epoch)
    assert (SECOND, False, "fleet") == (taken.execution_arn, taken.recovery, taken.request[TASK_TOKEN])
    assert taken.failure is not None
    assert ports.ledger.locks[SOURCE].execution_arn == SECOND


def test_goes_forward_after_the_commit_point() -> None:
    ports = FakePorts()
    released(ports)
    ports.workflow.running.clear()

    taken = start_rotation(begun(), ports)

    assert ("verify", None) == (taken.route, taken.failure)


@pytest.mark.parametrize("complete", [True, False])
def test_what_a_look_has_waited_for_is_waited_for_anew(complete: bool) -> None:
    """Half an hour may have passed before somebody started this; the first look would be the last."""
    ports = FakePorts()
    now = ports.clock.now()
    seen = Verification(started_at=now, observed_at=now, complete=complete)
    journaled(ports, released(ports).having(verification=seen))
    ports.workflow.running.clear()

    assert (seen if complete else None) == start_rotation(begun(), ports).verification


def test_what_people_and_the_fleet_were_told_of_the_ended_execution_they_hear_again_of_this_one() -> None:
    ports = FakePorts()
    told = (Moment.CUT_OVER, Moment.ATTENTION, Moment.UNDECIDED)
    journaled(ports, released(ports).having(notified=told, token_answered=True))
    ports.workflow.running.clear()

    taken = start_rotation(begun(**{TASK_TOKEN: "fleet"}), ports)

    assert ((Moment.CUT_OVER,), False) == (taken.notified, taken.token_answered)


@pytest.mark.parametrize("holds_the_lock", [True, False])
def test_what_is_closed_is_not_taken_up(holds_the_lock: bool) -> None:
    """Notify was cut off between closing the entry and freeing the lock."""
    ports = FakePorts()
    left = rolled_back(ports)
    ports.ledger.close(left, "rolled-back")
    if not holds_the_lock:
        ports.ledger.release_lock(left)
    ports.workflow.running.clear()

    assert start_rotation(begun(), ports).route == "rotate"
    assert ports.ledger.locks[SOURCE].execution_arn == SECOND


def test_a_dry_run_finishes_nothing() -> None:
    ports = FakePorts()
    fenced_rotation(ports)
    ports.workflow.running.clear()

    with pytest.raises(RotationInProgress, match="unfinished"):
        start_rotation(begun(DryRun=True), ports)

    assert ports.calls == []


@pytest.mark.parametrize("dry_run", [False, True])
def test_takes_up_a_rollback_that_had_freed_the_lock(dry_run: bool) -> None:
    """DiscardNewKey failed after CleanUp; a new rotation would leave that one open for ever."""
    ports = FakePorts()
    left = rolled_back(ports)
    ports.ledger.release_lock(left)
    ports.workflow.running.clear()

    if dry_run:
        with pytest.raises(RotationInProgress, match="unfinished"):
            start_rotation(begun(DryRun=True), ports)
        assert ports.ledger.locks == {}
        return
    taken = start_rotation(begun(), ports)

    assert ("rollback", left.rotation_id) == (taken.route, taken.rotation_id)
    assert ports.ledger.locks[SOURCE].rotation_id == left.rotation_id


def test_leaves_a_rollback_alone_that_is_at_work() -> None:
    """It discards its key; the database is free."""
    ports = FakePorts()
    left = rolled_back(ports)
    ports.ledger.release_lock(left)

    assert start_rotation(begun(), ports).route == "rotate"


def with_a_key_to_retire() -> tuple[FakePorts, Rotation]:
    """A rollback found it committed; it has freed the lock, and waits for its old key's users."""
    ports = FakePorts()
    now = ports.clock.now()
    undo = Undo(outcome="committed", reason="the target was released", started_at=now, not_before=now)
    left = journaled(ports, released(ports).having(undo=undo))
    ports.ledger.release_lock(left)
    return ports, left


def test_what_nobody_does_about_an_older_key_is_begun_anew_and_holds_up_nobody() -> None:
    """ScheduleKeyDeletion was refused, say, and nobody else will ever ask it again."""
    ports, left = with_a_key_to_retire()
    ports.workflow.running.clear()

    started = start_rotation(begun(), ports)

    assert started.route == "rotate"
    assert ports.workflow.running == {left.execution_arn}
    start_rotation(begun(), ports)
    recoveries = [call for call in ports.calls if "start_recovery" in call]
    assert recoveries == [f"workflow.start_recovery recover-{left.rotation_id}-{started.rotation_id}"]


@pytest.mark.parametrize("dry_run", [False, True])
def test_who_waits_for_the_users_of_an_older_key_is_left_alone(dry_run: bool) -> None:
    ports, _ = with_a_key_to_retire()
    if dry_run:
        ports.workflow.running.clear()

    start_rotation(begun(DryRun=True) if dry_run else begun(), ports)

    assert not any("start_recovery" in call for call in ports.calls)


def test_a_lock_without_an_entry_is_freed() -> None:
    """The holder died between taking the lock and opening its entry."""
    ports = FakePorts(with_target=False)
    planned_rotation(ports)
    ports.ledger.journal.clear()
    ports.workflow.running.clear()

    rotation = start_rotation(begun(), ports)

    assert rotation.route == "rotate"
    assert ports.ledger.locks[SOURCE].execution_arn == SECOND


def test_a_rotation_that_waits_for_its_keys_users_does_not_hold_up_the_next() -> None:
    ports = FakePorts()
    waiting = released(ports)
    ports.ledger.advance(waiting)
    ports.ledger.release_lock(waiting)

    assert start_rotation(begun(), ports).route == "rotate"


# -- recovery --


def recovery(of: str = EXECUTION) -> Rotation:
    return Rotation(schema=1, execution_arn=RECOVERY, request={"Recover": of})


def test_recovers_an_ended_execution_once() -> None:
    """Three triggers may ask for the same recovery; the second finds that the rotation is in other hands."""
    ports = FakePorts()
    left = fenced_rotation(ports)
    ports.workflow.running.clear()

    taken = start_rotation(recovery(), ports)
    late = start_rotation(recovery().having(execution_arn=SECOND), ports)

    assert ("rollback", True, left.epoch + 1) == (taken.route, taken.recovery, taken.epoch)
    assert ("closed", None) == (late.route, late.plan)


def test_a_repeated_takeover_is_one_takeover() -> None:
    ports = FakePorts()
    left = fenced_rotation(ports)
    ports.workflow.running.clear()

    first = start_rotation(recovery(), ports)
    ports.ledger.record(first)
    again = start_rotation(recovery(), ports)

    assert left.epoch + 1 == first.epoch == again.epoch
    assert again.route == "rollback"


def test_nothing_to_recover_is_closed() -> None:
    assert start_rotation(recovery(), FakePorts()).route == "closed"


@pytest.mark.parametrize("rotation_at", [fenced_rotation, promoting_rotation])
def test_a_holder_is_stopped_only_when_it_hangs(rotation_at: Any) -> None:
    """Stopping a rotation that is only slow would turn a success into a rollback."""
    ports = FakePorts()
    left = rotation_at(ports)

    assert start_rotation(recovery(), ports).route == "closed"
    assert ports.calls == []

    ports.clock.advance(36 * 60)
    taken = start_rotation(recovery(), ports)

    assert ports.calls[0] == f"workflow.stop {EXECUTION}"
    assert ("rollback", left.rotation_id) == (taken.route, taken.rotation_id)


def test_a_holder_hangs_exactly_from_when_its_schedule_fires() -> None:
    """Earlier, the one schedule would find nothing to do, and nobody would come again."""
    ports = FakePorts()
    fenced_rotation(ports, write_outage_budget_seconds=120)
    ports.clock.advance(timedelta(seconds=180).total_seconds())

    assert start_rotation(recovery(), ports).route == "rollback"


def test_a_way_back_that_is_at_work_does_not_hang() -> None:
    """It may begin at the end of the budget, and waits for whatever the failed step has begun."""
    ports = FakePorts()
    left = fenced_rotation(ports, write_outage_budget_seconds=120)
    ports.clock.advance(119)
    left = taken_over(left, ports)
    assert left.undo is not None
    waits = left.undo.not_before - ports.clock.now()
    assert waits == SLOWEST_FUNCTION, "longer than until the schedule fires"

    ports.clock.advance((waits + outage.FENCE_MARGIN).total_seconds() - 1)
    assert start_rotation(recovery(), ports).route == "closed"
    assert not any(call.startswith("workflow.stop") for call in ports.calls)


def test_a_way_back_may_take_as_long_as_what_it_waits_for() -> None:
    """Who stopped it because it is undecided would use up its only recovery, and decide nothing."""
    ports = FakePorts()
    left = taken_over(fenced_rotation(ports), ports)
    ports.target_server.reachable = ports.source_server.reachable = False
    for _ in range(24 * 60):
        ports.clock.advance(60)
        left = visit(rollback, left, ports)
        assert left.undo is not None
        assert "undecided" == left.undo.outcome

    assert start_rotation(recovery(), ports).route == "closed"
    assert not any(call.startswith("workflow.stop") for call in ports.calls)


def test_a_way_back_hangs_when_it_has_written_nothing_for_longer_than_any_of_its_visits_takes() -> None:
    ports = FakePorts()
    left = taken_over(fenced_rotation(ports), ports)
    ports.clock.advance(3600)
    assert left.undo is not None
    ports.ledger.record(left.having(undo=left.undo.having(look_again_seconds=60)))
    silent = timedelta(seconds=60) + SLOWEST_FUNCTION + outage.REPEATED_FOR
    ports.clock.advance(silent.total_seconds() - 1)
    assert start_rotation(recovery(), ports).route == "closed"

    ports.clock.advance(1)

    assert start_rotation(recovery(), ports).route == "rollback"
    assert f"workflow.stop {EXECUTION}" in ports.calls


def test_a_way_back_that_has_opened_the_source_hangs_nowhere() -> None:
    """It waits for RDS to remove the target, and nobody for it."""
    ports = FakePorts()
    left = taken_over(fenced_rotation(ports), ports)
    assert left.undo is not None
    ports.ledger.record(left.having(undo=left.undo.having(ended_at=ports.clock.now())))
    ports.clock.advance(7 * 24 * 3600)

    assert start_rotation(recovery(), ports).route == "closed"
    assert not any(call.startswith("workflow.stop") for call in ports.calls)


def test_a_promotion_may_take_longer_than_the_fence() -> None:
    """RDS restarts the target; until it has decided, nobody can."""
    ports = FakePorts()
    promoting_rotation(ports)
    ports.clock.advance(34 * 60)

    assert start_rotation(recovery(), ports).route == "closed"
    assert ports.calls == []


def test_a_holder_that_has_released_hangs_nowhere() -> None:
    """It waits for its grace period to end, and nobody for it."""
    ports = FakePorts()
    released(ports)
    ports.clock.advance(7 * 24 * 3600)

    assert start_rotation(recovery(), ports).route == "closed"
    assert ports.calls == []


def test_who_stops_a_rotation_does_not_want_another_strategy_instead() -> None:
    """What AWS refused is being undone, and the next strategy would switch production over."""
    ports = FakePorts()
    left = fenced_rotation(ports)
    plan, _ = left.planned()
    journaled(ports, left.having(plan=plan.having(fallback="blue-green"), failure=Failure(Error="WrongKey")))
    ports.workflow.running.clear()

    taken = start_rotation(recovery(), ports)

    assert ("rollback", None) == (taken.route, taken.planned()[0].fallback)
    assert taken.failure is not None
    assert taken.failure.Error == "WrongKey", "what it ended with, not that it ended"


def test_a_failed_recovery_is_not_recovered_again() -> None:
    """It pages instead: a loop of recoveries would hide that nobody can finish this one."""
    ports = FakePorts()
    fenced_rotation(ports)
    ports.workflow.running.clear()
    start_rotation(recovery(), ports)
    ports.ledger.record(ports.ledger.journal[ROTATION_ID].rotation.having(recovery=True))

    with pytest.raises(RecoveryExhausted, match=SOURCE):
        start_rotation(Rotation(schema=1, execution_arn=SECOND, request={"Recover": RECOVERY}), ports)


def test_after_the_release_a_failed_recovery_may_be_recovered() -> None:
    """Nobody is kept from writing, and the lock that would lead a plain start to it may be free by then."""
    ports = FakePorts()
    journaled(ports, released(ports).having(recovery=True))
    ports.workflow.running.clear()

    assert start_rotation(recovery(), ports).route == "verify"


def test_a_recovery_while_waiting_for_key_users_leaves_the_lock_alone() -> None:
    ports = FakePorts()
    left = released(ports)
    done = Decommission(stage="done", started_at=ports.clock.now(), complete=True)
    journaled(ports, left.having(decommission=done))
    ports.ledger.locks.clear()
    ports.workflow.running.clear()

    assert start_rotation(recovery(), ports).route == "verify"
    assert ports.ledger.locks == {}
