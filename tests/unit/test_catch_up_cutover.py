"""From the fence of a rotation by catch-up to its end, either one: every acknowledged commit is on one side, once."""

from typing import Any

import pytest

from lambdas.begin_capture.handler import begin_capture
from lambdas.check_target.handler import check_target
from lambdas.clean_up.handler import PATIENCE, clean_up
from lambdas.confirm_drained.handler import confirm_drained
from lambdas.decommission.handler import decommission
from lambdas.end_catch_up.handler import SENDERS_SECONDS, end_catch_up
from lambdas.pause_application_writes.handler import pause_application_writes
from lambdas.resume_writes.handler import resume_writes
from lambdas.rollback.handler import rollback
from lambdas.rotation.errors import (
    AwsUnavailable,
    DatabaseUnreachable,
    DecisionLost,
    DrainIncomplete,
    FenceBroken,
    FenceIncomplete,
    JournalMoved,
    LoginRefused,
    RetirementRefused,
    SqlRefused,
    StateIncomplete,
    TargetMismatch,
    VerificationFailed,
)
from lambdas.rotation.names import CONTROL_DATABASE
from lambdas.rotation.ports import Step
from lambdas.rotation.snapshots import NOTES
from lambdas.rotation.state import Fence, Rotation, Verification
from lambdas.rotation.undoing import SLOWEST_FUNCTION
from lambdas.verify import handler as verifying
from lambdas.verify.handler import verify
from lambdas.wait_for_restore.handler import wait_for_restore
from tests.fakes import (
    NEW_KEY,
    OLD_KEY,
    ROTATION_ID,
    SOURCE,
    TARGET,
    FakeCatchUpEngine,
    FakePorts,
    as_number,
    failed,
    journaled,
    past_grace,
    visit,
)
from tests.unit import by_snapshot
from tests.unit.by_catch_up import (
    CAPTURE,
    CAPTURED,
    CAUGHT_UP,
    CHECKED,
    COPIED,
    DRAINED,
    EARLY,
    EARLY_KEPT,
    ENDED,
    FENCED,
    REQUESTED,
    RESTORED,
    SENDS_CONTROL,
    SENDS_ORDERS,
    TAKEN,
    after,
    captured,
    deeds,
    done,
    prepared,
    writable,
)

# -- PauseApplicationWrites --------------------------------------------------------------------------------------------


def test_the_witnesses_are_heard_under_the_fence_and_before_the_position() -> None:
    """What applications still write would not be in it; said after the position, it would not come to the target."""
    ports, rotation = after(*CAUGHT_UP)

    rotation = visit(pause_application_writes, rotation, ports)

    raised = [f"engine.raise_fence {SOURCE}", f"engine.testify {SOURCE}", f"engine.mark {SOURCE}"]
    assert ["ledger.record", "recovery.set", *raised] == ports.calls[:5]
    assert ports.source_server.own.evidence == ports.target_server.own.evidence
    assert ports.source_server.own.sequences["orders"] == ports.source_server.own.evidence[ROTATION_ID]["orders"][1]
    assert writable(ports) == []


def test_the_senders_are_not_kept_out_by_the_fence() -> None:
    ports, rotation = after(*CAUGHT_UP)
    ports.target_server.applies = False

    visit(pause_application_writes, rotation, ports)

    assert all(slot.connected for slot in ports.source_server.slots.values())
    ports.target_server.applies = True
    assert drained(visit(confirm_drained, ports.ledger.current(rotation), ports))


@pytest.mark.parametrize("call", ["raise_fence", "testify"])
def test_a_fence_that_was_cut_off_before_the_testimony_is_opened_once_more(call: str) -> None:
    """Whoever comes later cannot ask a closed database. No position was taken, so what is written now comes along."""
    ports, rotation = after(*CAUGHT_UP)
    ports.fail(f"engine.{call}", DatabaseUnreachable("cut"), when="after" if call == "raise_fence" else "before")
    with pytest.raises(DatabaseUnreachable):
        visit(pause_application_writes, rotation, ports)
    assert writable(ports) == []
    ports.source_server.write()  # by whom the fence had not found yet

    rotation = visit(pause_application_writes, ports.ledger.current(rotation), ports)

    rotation = done(end_catch_up, done(confirm_drained, rotation, ports), ports)
    assert ports.source_server.own.rows == ports.target_server.own.rows
    assert ports.source_server.own.sequences == ports.target_server.own.sequences
    assert rotation.fence is not None
    assert {"orders": 17, "postgres": -1} == {one.name: one.connection_limit for one in rotation.fence.databases}


@pytest.mark.parametrize("call", ["testify", "mark"])
def test_what_was_testified_is_not_asked_again(call: str) -> None:
    """The fence has stood ever since: to open it now would let somebody in whom the testimony does not know."""
    ports, rotation = after(*CAUGHT_UP)
    ports.fail(f"engine.{call}", DatabaseUnreachable("cut"), when="after")
    with pytest.raises(DatabaseUnreachable):
        visit(pause_application_writes, rotation, ports)
    ports.calls.clear()

    rotation = visit(pause_application_writes, ports.ledger.current(rotation), ports)

    assert [f"engine.raise_fence {SOURCE}", f"engine.mark {SOURCE}"] == deeds(ports)
    assert rotation.fence is not None
    assert rotation.fence.position is not None


def test_a_retry_after_the_end_changes_nothing() -> None:
    ports, rotation = after(*FENCED)

    assert rotation == pause_application_writes(rotation, ports)
    assert [] == ports.calls


def test_of_two_attempts_at_once_the_later_one_testifies() -> None:
    """It has opened what the other one had closed; whoever came in then is not in that one's testimony."""
    ports, rotation = after(*CAUGHT_UP)
    plan, source = rotation.planned()
    engine = ports.catching_up(source, plan)
    databases = engine.plan_fence(())
    rotation = journaled(ports, rotation.having(fence=Fence(databases=databases, requested_at=ports.clock.now())))
    with engine.witnesses(ROTATION_ID, CAPTURE, databases) as testify:
        engine.raise_fence(ROTATION_ID, databases, 1)

        visit(pause_application_writes, rotation, ports)

        with pytest.raises(JournalMoved):
            testify()
    assert [f"engine.open_once_more {SOURCE}"] == [call for call in ports.calls if "open" in call]


def test_whoever_came_in_before_the_testimony_breaks_the_fence(monkeypatch: pytest.MonkeyPatch) -> None:
    ports, rotation = after(*CAUGHT_UP)
    raise_fence = FakeCatchUpEngine.raise_fence

    def and_open(engine: FakeCatchUpEngine, *fence: Any) -> None:
        raise_fence(engine, *fence)
        ports.source_server.own.open["orders"] = True

    monkeypatch.setattr(FakeCatchUpEngine, "raise_fence", and_open)
    with pytest.raises(FenceBroken, match="orders accepts connections"):
        visit(pause_application_writes, rotation, ports)

    assert {} == ports.source_server.own.evidence


def test_a_table_that_was_made_at_the_last_moment() -> None:
    """Nobody has captured what was written to it."""
    ports, rotation = after(*CAUGHT_UP)
    ports.source_server.uncaptured = "public.newcomer of orders"

    with pytest.raises(TargetMismatch, match=r"public\.newcomer of orders was made after the capture had begun"):
        visit(pause_application_writes, rotation, ports)

    back(failed(ports.ledger.current(rotation), "TargetMismatch"), ports)
    assert writable(ports) == [SOURCE]


def test_a_database_that_appears_while_the_others_are_closed_is_not_forgotten() -> None:
    ports, rotation = after(*CAUGHT_UP)
    ports.source_server.appearing = ["late"]

    rotation = visit(pause_application_writes, rotation, ports)
    assert writable(ports) == []
    rotation = visit(confirm_drained, rotation, ports)

    with pytest.raises(TargetMismatch, match="changed since the snapshot"):
        visit(end_catch_up, rotation, ports)


# -- ConfirmDrained ----------------------------------------------------------------------------------------------------


def behind() -> tuple[FakePorts, Rotation]:
    """Fenced, while the target does not apply: it shows nothing of what was written at last."""
    ports, rotation = after(*CAUGHT_UP)
    ports.target_server.applies = False
    ports.source_server.write()
    return ports, visit(pause_application_writes, rotation, ports)


def drained(rotation: Rotation) -> bool:
    assert rotation.drain is not None
    return rotation.drain.complete


def test_the_targets_own_position_says_nothing() -> None:
    """It writes a log of its own since its recovery, whose numbers are soon the higher ones."""
    ports, rotation = behind()
    _, position = rotation.fenced_source()
    assert ports.target_server.own.position > as_number(position)
    ports.target_server.own.markers.add(ROTATION_ID)

    rotation = visit(confirm_drained, rotation, ports)

    assert not drained(rotation)
    ports.target_server.applies = True
    assert drained(visit(confirm_drained, rotation, ports))
    assert ports.source_server.own.rows == ports.target_server.own.rows


@pytest.mark.parametrize("slot", [SENDS_ORDERS, SENDS_CONTROL])
def test_one_slot_that_is_behind_is_enough(slot: str) -> None:
    ports, rotation = behind()
    ports.source_server.slots[slot].connected = False
    ports.source_server.slots[slot].subscriber = None
    ports.target_server.own.markers.add(ROTATION_ID)
    ports.target_server.applies = True

    assert not drained(visit(confirm_drained, rotation, ports))


def test_a_slot_that_is_gone_has_delivered_nothing() -> None:
    ports, rotation = after(*FENCED)
    del ports.source_server.slots[SENDS_ORDERS]

    assert not drained(visit(confirm_drained, rotation, ports))


def test_the_marker_has_to_be_there_as_well() -> None:
    ports, rotation = after(*FENCED)
    ports.target_server.own.markers.clear()

    assert not drained(visit(confirm_drained, rotation, ports))


def test_sees_it_arrive_while_looking() -> None:
    ports, rotation = behind()
    ports.clock.on_pause = [lambda: None, lambda: setattr(ports.target_server, "applies", True)]

    assert drained(visit(confirm_drained, rotation, ports))
    assert ports.clock.on_pause == []


def test_the_budget_ends_a_drain_and_says_how_far_it_came() -> None:
    ports, rotation = behind()
    plan, source = rotation.planned()
    publisher, copy = ports.catching_up(source, plan), ports.catching_up(rotation.synced_target(), plan)
    delivered = publisher.delivery(CAPTURE, copy).position
    ports.clock.advance(60)

    with pytest.raises(DrainIncomplete, match=f"has replayed {delivered}, not"):
        visit(confirm_drained, rotation, ports)


def test_a_sender_that_breaks_off_under_the_fence_does_not_come_back() -> None:
    """The database is closed to it, too. Nothing is lost: the rollback opens the source."""
    ports, rotation = behind()
    ports.source_server.cut_off_senders()
    ports.target_server.applies = True

    rotation = visit(confirm_drained, rotation, ports)
    assert not drained(rotation)
    ports.clock.advance(60)
    with pytest.raises(DrainIncomplete):
        visit(confirm_drained, rotation, ports)

    back(failed(rotation, "DrainIncomplete"), ports)
    assert writable(ports) == [SOURCE]


# -- EndCatchUp --------------------------------------------------------------------------------------------------------


def test_the_target_lets_go_first_and_then_both_sides_are_proven_closed() -> None:
    """A sender comes back to whoever still applies; and where one is, the fence can only be looked at."""
    ports, rotation = after(*DRAINED)

    rotation = visit(end_catch_up, rotation, ports)

    assert deeds(ports) == [
        f"engine.take_over {TARGET}",
        f"engine.dismiss_senders {SOURCE}",
        f"engine.raise_fence {TARGET}",
    ]
    assert captured(rotation).ended_at == ports.clock.now()
    assert {} == ports.target_server.subscriptions
    assert ports.source_server.own.sequences == ports.target_server.own.sequences
    assert not any(slot.connected for slot in ports.source_server.slots.values())
    assert not ports.target_server.own.open["orders"]
    assert SENDS_ORDERS in ports.source_server.slots, "CheckTarget asks them once more"


@pytest.mark.parametrize("point", [CAUGHT_UP, FENCED])
def test_needs_a_drain(point: tuple[Step, ...]) -> None:
    ports, rotation = after(*point)

    with pytest.raises(StateIncomplete):
        visit(end_catch_up, rotation, ports)

    assert [] == deeds(ports)


def test_a_drain_that_is_not_complete_is_none() -> None:
    ports, rotation = behind()
    rotation = visit(confirm_drained, rotation, ports)

    with pytest.raises(StateIncomplete, match="ConfirmDrained has not finished"):
        visit(end_catch_up, rotation, ports)


def test_asks_the_slots_itself() -> None:
    ports, rotation = after(*DRAINED)
    ports.source_server.slots[SENDS_ORDERS].begin -= 0x10
    ports.source_server.slots[SENDS_ORDERS].connected = False

    with pytest.raises(DrainIncomplete, match=f"{TARGET} does not have everything before"):
        visit(end_catch_up, rotation, ports)

    assert [] == deeds(ports)


@pytest.mark.parametrize("times", [0, 2])
@pytest.mark.parametrize("note", NOTES)
def test_a_note_that_is_not_there_once(note: str, times: int) -> None:
    ports, rotation = after(*DRAINED)
    rows = ports.target_server.own.rows[CONTROL_DATABASE]
    rows[:] = [row for row in rows if note not in row] + [f"{ROTATION_ID} {note}"] * times

    with pytest.raises(TargetMismatch, match="or has it twice"):
        visit(end_catch_up, rotation, ports)

    assert [] == deeds(ports)


def test_a_schema_that_was_changed_at_the_last_moment() -> None:
    ports, rotation = after(*CAUGHT_UP)
    ports.source_server.own.schemas["orders"] = "with another column"
    rotation = visit(pause_application_writes, rotation, ports)
    rotation = visit(confirm_drained, rotation, ports)

    with pytest.raises(TargetMismatch, match="orders was changed since the snapshot"):
        visit(end_catch_up, rotation, ports)

    back(failed(rotation, "TargetMismatch"), ports)
    assert writable(ports) == [SOURCE]


def test_senders_that_end_slowly_are_waited_for() -> None:
    ports, rotation = after(*DRAINED)
    ports.source_server.senders_stay = True
    ports.clock.on_pause = [lambda: None] * 9 + [lambda: setattr(ports.source_server, "senders_stay", False)]

    rotation = visit(end_catch_up, rotation, ports)

    assert captured(rotation).ended_at is not None


def test_senders_that_do_not_end_are_not_waited_for_for_ever() -> None:
    """With one of them there, whoever slipped through the fence would never be found."""
    ports, rotation = after(*DRAINED)
    ports.source_server.senders_stay = True
    began = ports.clock.monotonic()

    with pytest.raises(FenceIncomplete, match="does not end"):
        visit(end_catch_up, rotation, ports)

    assert SENDERS_SECONDS <= ports.clock.monotonic() - began < SENDERS_SECONDS + 1
    assert "engine.raise_fence" not in str(deeds(ports))


def test_the_probe_finds_who_slipped_through_the_fence() -> None:
    """What he has written since the position is on one side only; nothing was released yet."""
    ports, rotation = after(*CAUGHT_UP)
    ports.source_server.slipped_through = "orders: a session that was starting"
    for step in (pause_application_writes, confirm_drained):
        rotation = visit(step, rotation, ports)

    with pytest.raises(FenceBroken, match="orders: orders: a session that was starting"):
        visit(end_catch_up, rotation, ports)

    assert captured(ports.ledger.current(rotation)).ended_at is None
    with pytest.raises(StateIncomplete):
        visit(check_target, rotation, ports)


def test_somebody_who_does_not_let_go_of_the_target() -> None:
    ports, rotation = after(*DRAINED)
    ports.target_server.stubborn = "orders: a session"

    with pytest.raises(FenceIncomplete):
        visit(end_catch_up, rotation, ports)


@pytest.mark.parametrize("call", ["take_over", "dismiss_senders", "raise_fence"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_an_end_that_was_cut_off_is_gone_on_with(call: str, when: Any) -> None:
    ports, rotation = after(*DRAINED)
    ports.fail(f"engine.{call}", DatabaseUnreachable("cut"), when=when)
    with pytest.raises(DatabaseUnreachable):
        visit(end_catch_up, rotation, ports)
    end_catch_up(rotation, ports)  # and the journal did not hear of it

    rotation = visit(check_target, visit(end_catch_up, rotation, ports), ports)

    assert rotation.target_check is not None
    assert ports.source_server.own.sequences == ports.target_server.own.sequences


def test_an_end_that_is_reached_is_left_alone() -> None:
    ports, rotation = after(*ENDED)

    assert rotation == end_catch_up(rotation, ports)
    assert [] == ports.calls


# -- CheckTarget, and the release --------------------------------------------------------------------------------------


@pytest.mark.parametrize("point", [RESTORED, CAUGHT_UP, FENCED, DRAINED])
def test_a_target_that_still_applies_does_not_stand_alone(point: tuple[Step, ...]) -> None:
    """It was restored, which is all that a target needs by snapshot."""
    ports, rotation = after(*point)
    assert rotation.restored().complete

    with pytest.raises(StateIncomplete):
        visit(check_target, rotation, ports)


@pytest.mark.parametrize("shift", ["gone", "behind"])
def test_the_slots_are_asked_once_more(shift: str) -> None:
    ports, rotation = after(*ENDED)
    if shift == "gone":
        del ports.source_server.slots[SENDS_ORDERS]
    else:
        ports.source_server.slots[SENDS_ORDERS].begin = 0x20

    with pytest.raises(TargetMismatch, match=r"its position 0/\w+ lies before the fence position") as refused:
        visit(check_target, rotation, ports)

    assert ("0/20 lies" in str(refused.value)) == (shift == "behind"), "the source's, not the target's own"


def test_nothing_is_released_that_was_not_checked() -> None:
    ports, rotation = after(*ENDED)

    with pytest.raises(StateIncomplete):
        visit(resume_writes, rotation, ports)

    assert writable(ports) == []


def test_the_target_has_every_commit_once_and_goes_on_counting() -> None:
    ports, rotation = after(*CHECKED)

    rotation = visit(resume_writes, rotation, ports)

    orders = ports.target_server.own.rows["orders"]
    assert ports.source_server.own.rows["orders"] == orders
    assert writable(ports) == [TARGET]
    assert len(orders) == len(set(orders)) > len(CAUGHT_UP)
    ports.target_server.write()
    assert len(orders) == len(set(orders)), "a number that was given out comes once"
    assert (17, NEW_KEY) == (ports.target_server.own.limit["orders"], rotation.synced_target().kms_key_arn)


def test_a_late_wait_for_restore_closes_no_target_that_serves() -> None:
    """Its journal was read before the release."""
    ports, rotation = after(*CHECKED)
    late = rotation.having(restoration=rotation.restored().having(stage="restore"))
    rotation = visit(resume_writes, rotation, ports)

    with pytest.raises(DecisionLost):
        wait_for_restore(late, ports)

    assert writable(ports) == [TARGET]


# -- the way back ------------------------------------------------------------------------------------------------------


def back(rotation: Rotation, ports: FakePorts) -> Rotation:
    return visit(rollback, rotation, ports, takes_over=True)


def outcome(rotation: Rotation) -> str:
    assert rotation.undo is not None
    return rotation.undo.outcome


BEFORE_THE_FENCE = [CAPTURED, TAKEN, COPIED, REQUESTED, RESTORED, CAUGHT_UP]


@pytest.mark.parametrize("point", BEFORE_THE_FENCE, ids=len)
def test_where_nothing_was_fenced_no_server_is_asked(point: tuple[Step, ...]) -> None:
    ports, rotation = after(*point)
    ports.source_server.reachable = False

    rotation = back(failed(rotation, "CatchUpFailed"), ports)

    assert outcome(rotation) == "rolled-back"
    assert SOURCE in writable(ports), "it was never closed"


@pytest.mark.parametrize("point", [FENCED, DRAINED, ENDED, CHECKED], ids=len)
def test_under_the_fence_the_source_is_opened_and_nothing_is_lost(point: tuple[Step, ...]) -> None:
    ports, rotation = after(*point)
    orders = list(ports.source_server.own.rows["orders"])

    rolled = back(failed(rotation, "TargetMismatch"), ports)

    assert outcome(rolled) == "rolled-back"
    assert writable(ports) == [SOURCE]
    assert (orders, 17) == (ports.source_server.own.rows["orders"], ports.source_server.own.limit["orders"])
    decided = [f"engine.decide-rollback {TARGET}"] * (point is CHECKED) + [f"engine.decide-rollback {SOURCE}"]
    assert deeds(ports) == decided


def test_a_target_that_was_not_checked_need_not_answer() -> None:
    """Applications are standing; it is closed, and nobody can ever release it."""
    ports, rotation = after(*ENDED)
    ports.target_server.reachable = False

    rotation = back(failed(rotation, "DatabaseUnreachable"), ports)

    assert (outcome(rotation), writable(ports)) == ("rolled-back", [SOURCE])


def test_a_fence_that_was_raised_in_part_is_lifted() -> None:
    """Its function died between two databases, or before the testimony."""
    ports, rotation = after(*CAUGHT_UP)
    ports.fail("engine.testify", DatabaseUnreachable("cut"))
    with pytest.raises(DatabaseUnreachable):
        visit(pause_application_writes, rotation, ports)
    assert writable(ports) == []

    back(failed(ports.ledger.current(rotation), "DatabaseUnreachable"), ports)

    assert writable(ports) == [SOURCE]


def test_a_released_target_goes_forward() -> None:
    """The answer of ResumeWrites got lost before it could write the release down."""
    ports, rotation = after(*CHECKED)
    resume_writes(rotation, ports)

    rotation = back(failed(rotation, "AwsUnavailable"), ports)
    ports.clock.advance(SLOWEST_FUNCTION.total_seconds())

    assert (outcome(back(rotation, ports)), writable(ports)) == ("committed", [TARGET])


# -- CleanUp -----------------------------------------------------------------------------------------------------------


def undone(point: tuple[Step, ...], error: str = "CatchUpFailed") -> tuple[FakePorts, Rotation]:
    ports, rotation = after(*point)
    rotation = back(failed(rotation, error), ports)
    ports.calls.clear()
    return ports, rotation


@pytest.mark.parametrize("point", [CAUGHT_UP, DRAINED], ids=["unfenced", "fenced"])
def test_the_capture_goes_first_however_long_the_rest_takes(point: tuple[Step, ...]) -> None:
    """For as long as there is a slot, the source keeps all that applications write."""
    ports, rotation = undone(point)

    rotation = visit(clean_up, rotation, ports)

    assert [f"engine.end_capture {SOURCE}", f"rds.request_instance_deletion {TARGET}"] == deeds(ports)
    assert {} == ports.source_server.slots
    assert rotation.undo is not None
    assert not rotation.undo.clean
    assert f"{TARGET} to be deleted" in rotation.undo.waiting_for[0]


@pytest.mark.parametrize("point", [*BEFORE_THE_FENCE, FENCED, DRAINED, ENDED, CHECKED], ids=len)
def test_what_was_made_goes_and_nothing_else(point: tuple[Step, ...]) -> None:
    ports, rotation = undone(point)
    theirs = {"DBSnapshotIdentifier": "x", "Status": "available", "KmsKeyId": OLD_KEY, "TagList": []}
    ports.rds.snapshots["orders-rot-00000000-kept"] = theirs

    by_snapshot.cleaned_up(ports, rotation)

    assert [SOURCE] == list(ports.rds.instances)
    assert ["orders-rot-00000000-kept"] == list(ports.rds.snapshots)
    assert ({}, {}) == (ports.source_server.slots, ports.source_server.own.published)
    assert CONTROL_DATABASE not in ports.source_server.own.open
    assert ({}, {}) == (ports.ledger.locks, ports.recovery.at)


def test_a_capture_that_was_only_written_down_leaves_nothing() -> None:
    """BeginCapture died before it had made so much as the control database."""
    ports, rotation = prepared()
    ports.fail("engine.begin_capture", DatabaseUnreachable("cut"))
    with pytest.raises(DatabaseUnreachable):
        visit(begin_capture, rotation, ports)
    del ports.source_server.own.open[CONTROL_DATABASE]
    rotation = back(failed(ports.ledger.current(rotation), "DatabaseUnreachable"), ports)
    ports.clock.advance(SLOWEST_FUNCTION.total_seconds())

    rotation = visit(clean_up, back(rotation, ports), ports)

    assert rotation.undo is not None
    assert (rotation.undo.clean, rotation.undo.leftovers) == (True, ())


def test_a_capture_that_cannot_be_removed_yet_is_come_back_for() -> None:
    ports, rotation = undone(DRAINED)
    ports.fail("engine.end_capture", DatabaseUnreachable("slot is in use"))

    rotation = visit(clean_up, rotation, ports)

    assert rotation.undo is not None
    assert ("DatabaseUnreachable: slot is in use",) == rotation.undo.waiting_for
    visit(clean_up, rotation, ports)
    assert {} == ports.source_server.slots


@pytest.mark.parametrize("refused", [LoginRefused("password changed"), SqlRefused("42501", "no right")])
def test_a_capture_that_is_left_over_comes_with_a_command_that_removes_it(refused: Exception) -> None:
    """Whoever reads it may have an hour until the disk is full."""
    ports, rotation = undone(CAUGHT_UP)
    for _ in range(9):
        ports.fail("engine.end_capture", refused)
    ports.clock.advance(PATIENCE.total_seconds())

    rotation = visit(clean_up, rotation, ports)

    assert rotation.undo is not None
    command, _, reason = rotation.undo.leftovers[0].partition("  # ")
    assert command == (
        'psql postgres -c "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots '
        f"WHERE starts_with(slot_name, '{CAPTURE}') AND active\" "
        '-c "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots '
        f"WHERE starts_with(slot_name, '{CAPTURE}')\"; "
        'psql postgres -Atc "SELECT datname FROM pg_database WHERE datallowconn" | '
        f"while read -r name; do psql \"$name\" -c 'DROP PUBLICATION IF EXISTS {CAPTURE}'; done"
    )
    assert str(refused) in reason
    assert f"rds.request_instance_deletion {TARGET}" in deeds(ports), "which lets nobody connect to the slots any more"


def test_a_slot_of_somebody_else_stays() -> None:
    ports, rotation = undone(CAUGHT_UP)
    ours = ports.source_server.slots[SENDS_ORDERS]
    ports.source_server.slots["theirs"] = ours

    visit(clean_up, rotation, ports)

    assert ["theirs"] == list(ports.source_server.slots)


# -- Verify ------------------------------------------------------------------------------------------------------------


def released() -> tuple[FakePorts, Rotation]:
    ports, rotation = after(*CHECKED)
    rotation = visit(resume_writes, rotation, ports)
    ports.dns.records["Z1", "db.example.com"] = (ports.rds.instances[TARGET].database.address, 5)
    ports.calls.clear()
    return ports, rotation


def verification(rotation: Rotation) -> Verification:
    assert rotation.verification is not None
    return rotation.verification


def test_nothing_captures_any_more_on_either_side() -> None:
    """The publications came to the target with the data."""
    ports, rotation = released()
    assert ports.target_server.own.published

    rotation = visit(verify, rotation, ports)

    assert verification(rotation).complete
    assert [f"engine.end_capture {TARGET}", f"engine.end_capture {SOURCE}"] == [
        call for call in deeds(ports) if "capture" in call
    ]
    assert ({}, {}) == (ports.source_server.slots, ports.target_server.own.published)
    assert captured(rotation).applied_from == verification(rotation).evidence["caught_up_from"]
    assert EARLY_KEPT == verification(rotation).evidence["restored_from"]


@pytest.mark.parametrize("refused", [DatabaseUnreachable("slot is in use"), SqlRefused("55006", "it is in use")])
@pytest.mark.parametrize("side", [TARGET, SOURCE])
def test_a_capture_that_cannot_be_removed_is_looked_for_again(refused: Exception, side: str) -> None:
    ports, rotation = released()
    ports.fail("engine.end_capture", refused, when="after" if side == TARGET else "before")
    if side == SOURCE:
        ports.fail("engine.end_capture", refused)

    rotation = visit(verify, rotation, ports)

    assert not verification(rotation).complete
    assert (f"the capture {CAPTURE} could not be removed: {refused}",) == verification(rotation).pending
    while not verification(rotation).complete:
        rotation = visit(verify, rotation, ports)
    assert {} == ports.source_server.slots


def test_what_keeps_the_target_from_ending_the_capture_does_not_keep_the_source() -> None:
    """A password that was changed there, say. What the source keeps would fill its disk."""
    ports, rotation = released()
    ports.fail("engine.end_capture", LoginRefused("no such password"))

    rotation = visit(verify, rotation, ports)

    assert (f"the capture {CAPTURE} could not be removed: no such password",) == verification(rotation).pending
    assert [f"engine.end_capture {SOURCE}"] == [call for call in deeds(ports) if "capture" in call]
    assert {} == ports.source_server.slots


def test_the_capture_ends_also_where_a_person_has_to_look() -> None:
    ports, rotation = released()
    ports.source_server.own.open["orders"] = True

    with pytest.raises(VerificationFailed, match="accepts connections beside the target"):
        visit(verify, rotation, ports)

    assert {} == ports.source_server.slots


def test_a_source_that_never_lets_go_of_the_capture_is_told() -> None:
    ports, rotation = released()
    ports.source_server.reachable = False
    rotation = visit(verify, rotation, ports)
    ports.clock.advance(verifying.PATIENCE.total_seconds() + 1)

    with pytest.raises(VerificationFailed, match=f"the capture {CAPTURE} could not be removed"):
        visit(verify, rotation, ports)


def test_a_source_that_is_gone_keeps_nothing() -> None:
    ports, rotation = released()
    del ports.rds.instances[SOURCE]
    ports.source_server.reachable = False

    assert verification(visit(verify, rotation, ports)).complete


# -- Decommission ------------------------------------------------------------------------------------------------------


def after_grace() -> tuple[FakePorts, Rotation]:
    ports, rotation = released()
    return ports, past_grace(ports, rotation)


def test_the_early_snapshots_go_before_the_last_one_is_taken() -> None:
    """One of them holds the old key; what is kept is the source as it was when it was closed."""
    ports, rotation = after_grace()
    orders = list(ports.source_server.own.rows["orders"])

    by_snapshot.decommissioned(ports, rotation)

    assert deeds(ports) == [
        f"rds.request_snapshot_deletion {EARLY}",
        f"rds.request_snapshot_deletion {EARLY_KEPT}",
        f"rds.request_snapshot {TARGET}-source",
        f"rds.request_snapshot_copy {TARGET}-kept",
        f"rds.request_snapshot_deletion {TARGET}-source",
        f"rds.request_instance_deletion {SOURCE} keeping backups",
        f"engine.drop_control_database {TARGET}",
    ]
    kept = ports.rds.snapshots[f"{TARGET}-kept"]
    assert (orders, NEW_KEY) == (kept["Catalog"].rows["orders"], kept["KmsKeyId"])
    assert [f"{TARGET}-kept"] == list(ports.rds.snapshots)


@pytest.mark.parametrize("name", [EARLY, EARLY_KEPT])
def test_a_snapshot_of_that_name_that_is_not_ours_stays(name: str) -> None:
    ports, rotation = after_grace()
    ports.rds.snapshots[name]["TagList"] = []

    by_snapshot.decommissioned(ports, rotation)

    assert {name, f"{TARGET}-kept"} == ports.rds.snapshots.keys()


def test_a_snapshot_that_rds_is_still_deleting_is_waited_for() -> None:
    ports, rotation = after_grace()
    ports.rds.request_snapshot_deletion = lambda *_: None  # type: ignore[method-assign]  # RDS takes its time

    for _ in range(2):
        rotation = visit(decommission, rotation, ports)
        assert rotation.decommission is not None
        assert rotation.decommission.stage == "early"

    del ports.rds.snapshots[EARLY], ports.rds.snapshots[EARLY_KEPT]
    rotation = visit(decommission, rotation, ports)
    assert rotation.decommission is not None
    assert rotation.decommission.stage == "snapshot"


@pytest.mark.parametrize("gone", [EARLY, EARLY_KEPT])
def test_one_of_the_two_that_rds_is_still_deleting_is_waited_for(gone: str) -> None:
    ports, rotation = after_grace()
    del ports.rds.snapshots[gone]
    ports.rds.request_snapshot_deletion = lambda *_: None  # type: ignore[method-assign]  # RDS takes its time

    rotation = visit(decommission, rotation, ports)

    assert rotation.decommission is not None
    assert rotation.decommission.stage == "early"


def test_a_lost_answer_is_found_out_at_the_next_visit() -> None:
    ports, rotation = after_grace()
    ports.fail("rds.request_snapshot_deletion", AwsUnavailable("lost answer"), when="after")

    with pytest.raises(AwsUnavailable):
        visit(decommission, rotation, ports)
    by_snapshot.decommissioned(ports, rotation)

    assert [f"{TARGET}-kept"] == list(ports.rds.snapshots)


def test_a_source_that_is_gone_already_leaves_no_early_snapshot() -> None:
    ports, rotation = after_grace()
    del ports.rds.instances[SOURCE]

    by_snapshot.decommissioned(ports, rotation)

    assert {} == ports.rds.snapshots


def test_nothing_is_deleted_without_the_right_to() -> None:
    ports, rotation = after_grace()
    ports.rds.alter(SOURCE, tags={})

    with pytest.raises(RetirementRefused):
        visit(decommission, rotation, ports)

    assert {EARLY, EARLY_KEPT} == ports.rds.snapshots.keys()
