"""Up to the fence of a rotation by catch-up: nobody is kept from writing, and nothing that is written is left behind.

A step that is called, and not visited, is one that was cut off before the journal heard of it.
"""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from lambdas.begin_capture.handler import begin_capture
from lambdas.copy_snapshot.handler import copy_snapshot
from lambdas.pause_application_writes.handler import pause_application_writes
from lambdas.restore_target.handler import restore_target
from lambdas.rotation import outage, readiness
from lambdas.rotation.errors import (
    AwsUnavailable,
    BudgetSpent,
    CatchUpFailed,
    DatabaseUnreachable,
    EpochSuperseded,
    PreflightRefused,
    RestoreFailed,
    SnapshotFailed,
    StateIncomplete,
    SyncIncomplete,
    TargetMismatch,
    UnknownDatabase,
    WrongKey,
)
from lambdas.rotation.names import CONTROL_DATABASE
from lambdas.rotation.outage import CAPTURE_PATIENCE
from lambdas.rotation.ports import AwsPorts, Step
from lambdas.rotation.readiness import SMALL_LAG_BYTES
from lambdas.rotation.snapshots import NOTES
from lambdas.rotation.state import Fence, Finding, Position, Rotation
from lambdas.rotation.step import metrics
from lambdas.take_snapshot.handler import take_snapshot
from lambdas.wait_for_catch_up.handler import wait_for_catch_up
from lambdas.wait_for_restore.handler import wait_for_restore
from tests.fakes import (
    EXECUTION,
    NEW_KEY,
    OLD_KEY,
    ROTATION_ID,
    SOURCE,
    TARGET,
    FakePorts,
    Slot,
    as_number,
    as_position,
    journaled,
    redo_done_at,
    visit,
)
from tests.unit.by_catch_up import (
    CAPTURE,
    CAPTURED,
    CAUGHT_UP,
    COPIED,
    EARLY,
    EARLY_KEPT,
    OF_CONTROL,
    OF_ORDERS,
    REQUESTED,
    RESTORED,
    TAKEN,
    after,
    captured,
    deeds,
    done,
    looked,
    prepared,
    waiting_for,
    writable,
    write,
)

AFTER, BEFORE = NOTES


@pytest.mark.parametrize(
    ("strategy", "engine", "made_by"),
    [
        ("catch-up", "postgres", "PostgresCatchUp"),
        ("snapshot", "postgres", "PostgresEngine"),
        ("read-replica", "postgres", "PostgresEngine"),
        ("catch-up", "mariadb", "MariadbCatchUp"),
        ("snapshot", "mariadb", "MariadbSnapshot"),
        ("read-replica", "mariadb", "MariadbReplica"),
        ("blue-green", "mariadb", "MariadbReplica"),
    ],
)
def test_every_step_of_a_strategy_logs_in_by_the_engine_that_knows_it(
    strategy: str, engine: str, made_by: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Preflight asks it what cannot be replicated; the fence of any other would end the senders."""
    fakes, rotation = prepared()
    fakes.secrets.logins["login"] = ("rotator", "secret")
    plan, database = rotation.planned()
    monkeypatch.setenv("CA_BUNDLE", "the-authorities.pem")
    ports = AwsPorts()
    ports.secrets = fakes.secrets

    made = ports.engine(database.having(engine=engine), plan.model_copy(update={"strategy": strategy}))

    assert made_by == type(made).__name__
    with pytest.raises(StateIncomplete, match="no engine for mysql"):
        ports.catching_up(database.having(engine="mysql"), plan)


# -- BeginCapture ------------------------------------------------------------------------------------------------------


def test_the_journal_names_the_capture_before_anything_of_it_exists() -> None:
    """The source keeps all that it commits, until a rollback finds the slots by this name."""
    ports, rotation = prepared()
    ports.fail("engine.begin_capture", DatabaseUnreachable("cut"))

    with pytest.raises(DatabaseUnreachable):
        visit(begin_capture, rotation, ports)

    journal = ports.ledger.journal[ROTATION_ID].rotation
    assert "ledger.record" == ports.calls[0]
    assert (CAPTURE, (), TARGET) == (captured(journal).name, captured(journal).databases, journal.target_identifier)
    assert {} == ports.source_server.slots


def test_every_database_with_tables_gets_a_slot_and_nobody_is_kept_from_writing() -> None:
    ports, rotation = prepared()

    capture = captured(done(begin_capture, rotation, ports))

    slots = ports.source_server.slots
    assert ("orders", CONTROL_DATABASE) == capture.databases
    assert {OF_ORDERS, OF_CONTROL} == slots.keys()
    assert capture.position == as_position(max(slot.begin for slot in slots.values()))
    assert writable(ports) == [SOURCE]


def test_what_came_up_since_preflight_is_refused_with_nothing_made() -> None:
    """Of a table without a replica identity the applications' own updates would fail from here on."""
    ports, rotation = prepared()
    ports.source_server.found = [Finding(name="NotReplicable", message="1 table", advice="give it a key")]

    with pytest.raises(PreflightRefused, match="1 table: give it a key"):
        visit(begin_capture, rotation, ports)

    assert [] == ports.calls


def test_what_was_accepted_is_not_refused() -> None:
    ports, rotation = prepared()
    plan, _ = rotation.planned()
    rotation = journaled(ports, rotation.having(plan=plan.having(accept=("materialized-views",))))
    ports.source_server.found = [Finding(name="MaterializedViews", message="1 view", advice="refresh it")]

    assert captured(visit(begin_capture, rotation, ports)).databases


@pytest.mark.parametrize("cut_off", [None, OF_CONTROL, OF_ORDERS])
def test_a_capture_that_was_begun_is_gone_on_with(cut_off: str | None) -> None:
    """A slot that were made anew would begin later; a position from before the last slot would be too early."""
    ports, rotation = prepared()
    begin_capture(rotation, ports)
    ports.source_server.slots.pop(cut_off or "", None)
    began = {name: slot.begin for name, slot in ports.source_server.slots.items()}
    write(ports)

    capture = captured(visit(begin_capture, rotation, ports))

    begin = {name: slot.begin for name, slot in ports.source_server.slots.items()}
    assert {OF_ORDERS, OF_CONTROL} == begin.keys()
    assert began.items() <= begin.items()
    assert capture.position == as_position(max(begin.values()))


def test_the_time_of_a_capture_counts_from_its_first_attempt() -> None:
    """From then on the source may be keeping what it commits."""
    ports, rotation = prepared()
    began = ports.clock.now()
    ports.fail("engine.begin_capture", DatabaseUnreachable("cut"), when="after")
    with pytest.raises(DatabaseUnreachable):
        visit(begin_capture, rotation, ports)
    ports.clock.advance(60)

    assert began == captured(visit(begin_capture, rotation, ports)).begun_at


def test_a_capture_that_is_complete_is_left_alone() -> None:
    ports, rotation = after(*CAPTURED)
    ports.source_server.reachable = False

    assert rotation == begin_capture(rotation, ports)
    assert [] == ports.calls


def test_a_rotation_that_was_taken_over_captures_nothing() -> None:
    ports, rotation = prepared()
    ports.ledger.take_over(rotation, EXECUTION)

    with pytest.raises(EpochSuperseded):
        begin_capture(rotation, ports)

    assert {} == ports.source_server.slots


# -- the snapshot, and what is made of it ------------------------------------------------------------------------------


def test_notes_are_left_before_and_after_the_snapshot() -> None:
    """One comes with the snapshot, the other by replication: a target that has each once has no gap between the two."""
    ports, rotation = after(*CAPTURED)

    rotation = visit(take_snapshot, rotation, ports)

    assert [f"engine.leave_a_note {BEFORE}", "ledger.record", f"rds.request_snapshot {EARLY}"] == ports.calls[:3]
    in_the_snapshot = ports.rds.snapshots[EARLY]["Catalog"].rows[CONTROL_DATABASE]
    ports.calls.clear()
    rotation = visit(take_snapshot, rotation, ports)
    assert [f"engine.leave_a_note {AFTER}"] == deeds(ports)
    assert ([f"{ROTATION_ID} {BEFORE}"], "copy") == (in_the_snapshot, rotation.restored().stage)


def test_no_note_is_left_while_rds_is_at_it() -> None:
    """In the snapshot it would prove nothing. Nor is a server asked that may stand still at that moment."""
    ports, rotation = after(*CAPTURED)
    rotation = visit(take_snapshot, rotation, ports)
    ports.rds.snapshots[EARLY]["Status"] = "creating"
    ports.source_server.reachable = False
    ports.calls.clear()

    rotation = visit(take_snapshot, rotation, ports)

    assert (deeds(ports), rotation.restored().stage) == ([], "snapshot")


def test_a_note_is_there_once_however_often_it_is_left() -> None:
    """RDS refuses an instance that is busy; and what the journal has not heard of is done again."""
    ports, rotation = after(*CAPTURED)
    rotation = visit(take_snapshot, rotation, ports)
    del ports.rds.snapshots[EARLY]
    rotation = visit(take_snapshot, rotation, ports)
    take_snapshot(rotation, ports)

    rotation = visit(take_snapshot, rotation, ports)

    assert rotation.restored().stage == "copy"
    assert sorted(f"{ROTATION_ID} {note}" for note in NOTES) == sorted(ports.source_server.own.rows[CONTROL_DATABASE])


def test_an_answer_of_rds_that_got_lost_is_found_out() -> None:
    ports, rotation = after(*CAPTURED)
    ports.fail("rds.request_snapshot", AwsUnavailable("lost answer"), when="after")
    with pytest.raises(AwsUnavailable):
        visit(take_snapshot, rotation, ports)
    assert EARLY == ports.ledger.journal[ROTATION_ID].rotation.restored().temporary_snapshot

    rotation = visit(take_snapshot, ports.ledger.current(rotation), ports)

    assert rotation.restored().stage == "copy"
    assert 1 == sum(call.startswith("rds.request_snapshot ") for call in ports.calls)


def test_no_snapshot_without_a_fence_or_a_capture_that_is_complete() -> None:
    """What is committed between the snapshot and the capture would be in neither."""
    ports, rotation = prepared()
    with pytest.raises(StateIncomplete):
        visit(take_snapshot, rotation, ports)
    ports.fail("engine.begin_capture", DatabaseUnreachable("cut"))
    with pytest.raises(DatabaseUnreachable):
        visit(begin_capture, rotation, ports)

    with pytest.raises(StateIncomplete, match="BeginCapture has not finished"):
        visit(take_snapshot, rotation, ports)

    assert {} == ports.rds.snapshots


def test_the_snapshots_have_names_of_their_own() -> None:
    """Decommission keeps one of the source as it was at last; this one is of hours before."""
    ports, rotation = after(*COPIED)

    assert {EARLY: OLD_KEY, EARLY_KEPT: NEW_KEY} == {name: one["KmsKeyId"] for name, one in ports.rds.snapshots.items()}
    rotation = visit(restore_target, rotation, ports)
    assert ports.target_server.own.rows == ports.rds.snapshots[EARLY_KEPT]["Catalog"].rows
    assert rotation.target_identifier == TARGET


SLOW: list[tuple[tuple[Step, ...], Step]] = [
    (CAPTURED, take_snapshot),
    (TAKEN, copy_snapshot),
    (COPIED, restore_target),
    (REQUESTED, wait_for_restore),
]


@pytest.mark.parametrize(("before", "step"), SLOW)
def test_rds_may_take_two_days_while_applications_write(before: tuple[Step, ...], step: Step) -> None:
    """No budget of the write outage is spent; but the source keeps what it commits, and its disk is not endless."""
    ports, rotation = after(*before)
    ends = captured(rotation).begun_at + CAPTURE_PATIENCE
    ports.clock.advance((ends - ports.clock.now()).total_seconds() - 1)
    rotation = visit(step, rotation, ports)
    ports.clock.advance(1)
    ports.calls.clear()

    with pytest.raises(CatchUpFailed, match="after two days still waiting for"):
        visit(step, rotation, ports)

    assert [] == deeds(ports)
    assert SOURCE in writable(ports)


@pytest.mark.parametrize(("before", "step"), SLOW)
def test_under_a_fence_the_budget_counts(before: tuple[Step, ...], step: Step) -> None:
    """Of a captured source as of any: nobody can write."""
    ports, rotation = after(*before)
    fence = Fence(databases=(), requested_at=ports.clock.now(), position=Position("0/10"))
    rotation = journaled(ports, rotation.having(fence=fence))
    ports.clock.advance(60)

    with pytest.raises(BudgetSpent, match="60 s"):
        visit(step, rotation, ports)


def test_looks_seldom_where_nobody_is_kept_waiting() -> None:
    """Two days of looking as often as under the fence would use up the execution's history (25,000 events)."""
    ports, rotation = after(*CAPTURED)
    events_of_a_visit, visits, begun_at = 9, 0, captured(rotation).begun_at
    while ports.clock.now() - begun_at < CAPTURE_PATIENCE:
        ports.clock.advance(outage.look_again_seconds(rotation, ports))
        visits += 1
    day = timedelta(days=1).total_seconds()
    looks = 3600 / readiness.OFTEN_SECONDS + day / readiness.SELDOM_SECONDS

    assert (visits + looks) * events_of_a_visit < 25_000 - 16_000, "which Decommission may need"


def test_a_snapshot_that_rds_has_given_up() -> None:
    ports, rotation = after(*CAPTURED)
    rotation = visit(take_snapshot, rotation, ports)
    ports.rds.snapshots[EARLY]["Status"] = "failed"

    with pytest.raises(SnapshotFailed, match=EARLY):
        visit(take_snapshot, rotation, ports)


def test_the_restored_target_is_closed_and_goes_on_applying() -> None:
    """It was made of an open database: whoever wrote to it would write what nobody else has."""
    ports, rotation = after(*REQUESTED)
    ports.rds.finish_restore(TARGET)
    assert writable(ports) == sorted([SOURCE, TARGET])

    wait_for_restore(rotation, ports)
    rotation = visit(wait_for_restore, rotation, ports)

    assert rotation.restored().complete
    assert [f"engine.keep_closed {TARGET}"] * 2 == deeds(ports)
    assert ports.target_server.own.open["orders"], "a closed database would let no worker in"
    assert writable(ports) == [SOURCE]


def test_a_target_that_does_not_answer_is_not_taken_for_closed() -> None:
    ports, rotation = after(*REQUESTED)
    ports.rds.finish_restore(TARGET)
    ports.target_server.reachable = False

    rotation = visit(wait_for_restore, rotation, ports)

    [reason] = rotation.restored().waiting_for
    assert reason.startswith(f"{TARGET} to be closed: ")
    assert "does not answer" in reason
    ports.target_server.reachable = True
    assert visit(wait_for_restore, rotation, ports).restored().complete


def test_a_target_that_rds_has_given_up() -> None:
    ports, rotation = after(*REQUESTED)
    ports.rds.alter(TARGET, status="incompatible-parameters")

    with pytest.raises(RestoreFailed):
        visit(wait_for_restore, rotation, ports)


# -- WaitForCatchUp: from where ----------------------------------------------------------------------------------------


def recovered_at(ports: FakePorts, name: str = EARLY_KEPT) -> Position:
    return as_position(ports.rds.snapshots[name]["Catalog"].position)


def test_applies_from_where_its_recovery_ended() -> None:
    """Every commit that the snapshot does not have, and none that it has."""
    ports, rotation = after(*RESTORED)
    assert len(ports.source_server.own.rows["orders"]) > len(ports.target_server.own.rows["orders"])

    rotation = looked(rotation, ports)

    assert recovered_at(ports) == captured(rotation).applied_from
    assert ports.source_server.own.rows == ports.target_server.own.rows
    assert [
        f"engine.begin_behind orders {recovered_at(ports)}", "engine.subscribe orders",
        f"engine.begin_behind {CONTROL_DATABASE} {recovered_at(ports)}", f"engine.subscribe {CONTROL_DATABASE}",
    ] == deeds(ports)  # fmt: skip
    assert writable(ports) == [SOURCE]


def test_a_log_that_does_not_say_it_yet_is_read_again() -> None:
    ports, rotation = after(*RESTORED)
    log, ports.target_server.own.log = ports.target_server.own.log, []

    rotation = looked(rotation, ports)

    assert ("the target's log to say where its recovery ended",) == tuple(waiting_for(rotation)[:1])
    assert ([], {}) == (deeds(ports), metrics.metric_set), "it has a lag, and nobody knows it"
    ports.target_server.own.log = log
    assert captured(looked(rotation, ports)).applied_from == recovered_at(ports)


@pytest.mark.parametrize(
    "line",
    [
        redo_done_at(Position("0/10")),
        "2027-01-01 00:00:00 UTC:10.0.0.1(1):app@orders:[9]:STATEMENT:  'LOG:  redo done at 7/1000000 system usage:'",
        "\tLOG:  redo done at 7/1000000 system usage: of a statement's second line",
        "2027-01-01 00:00:00 UTC::@:[42]:DETAIL:  redo done at 7/1000000 system usage:",
        '2027-01-01 00:00:00 UTC,"app",,9,,1,,,,,0,LOG,00000,"SELECT \'redo done at 7/1000000 system usage:\'",,,""',
        "2027-01-01 00:00:00 UTC::@:[42]:LOG:  redo done at 7/10 [Your log message was truncated]",
    ],
    ids=["older than the capture", "in a statement", "its second line", "another kind of line", "in CSV", "cut off"],
)
def test_only_the_end_of_its_own_recovery_counts(line: str) -> None:
    """The disk has the source's logs, too, and whoever may log anything could name a position that is too late."""
    ports, rotation = after(*RESTORED)
    ports.target_server.own.log.insert(0, line)

    assert captured(looked(rotation, ports)).applied_from == recovered_at(ports)


def test_the_same_line_in_two_logs_is_one() -> None:
    """PostgreSQL writes CSV beside what people read, where somebody has asked for it."""
    ports, rotation = after(*RESTORED)
    line = f"redo done at {recovered_at(ports)} system usage: CPU: user: 0.00 s"
    ports.target_server.own.log = [
        f"2027-01-01 00:00:00 UTC::@:[42]:LOG:  {line}",
        f'2027-01-01 00:00:00.000 UTC,,,42,,6592.2a,3,,2027-01-01 00:00:00 UTC,,0,LOG,00000,"{line}",,,,,,,,,""',
    ]

    assert captured(looked(rotation, ports)).applied_from == recovered_at(ports)


@pytest.mark.parametrize("which", ["the source's, after a crash", "the target's second"])
def test_two_ends_of_recoveries_are_one_too_many(which: str) -> None:
    """From the wrong one some commits would come twice, or never."""
    ports, rotation = after(*RESTORED)
    if which == "the target's second":
        ports.target_server.recover()
    else:
        ports.target_server.own.log.insert(0, redo_done_at(captured(rotation).position or Position("")))

    with pytest.raises(CatchUpFailed, match="more than once"):
        looked(rotation, ports)

    assert {} == ports.target_server.subscriptions


def test_an_earlier_recovery_in_higher_numbers_is_told_by_its_value() -> None:
    """``9/0`` lies before ``10/0``, whatever the letters say."""
    ports, rotation = after(*CAPTURED)
    capture = captured(rotation)
    rotation = journaled(ports, rotation.having(capture=capture.having(position=Position("10/0"))))
    for step in (take_snapshot, copy_snapshot, restore_target, wait_for_restore):
        rotation = done(step, rotation, ports)
    ports.target_server.own.log = [redo_done_at(Position("9/F0")), redo_done_at(Position("10/A0"))]
    ports.fail("engine.begin_behind", DatabaseUnreachable("cut"))

    with pytest.raises(DatabaseUnreachable):
        looked(rotation, ports)

    assert Position("10/A0") == captured(ports.ledger.current(rotation)).applied_from


def test_a_target_that_somebody_has_written_to_is_given_up() -> None:
    """Restored while nobody was fenced, it was open until it was closed; what was written there nobody would miss."""
    ports, rotation = after(*RESTORED)
    ports.target_server.touched = True

    with pytest.raises(TargetMismatch, match="before it was closed"):
        looked(rotation, ports)

    assert ports.target_server.subscriptions == {}


def test_the_journal_has_the_position_before_anybody_subscribes() -> None:
    """A target that crashes later recovers once more, and RDS keeps its logs for days only."""
    ports, rotation = after(*RESTORED)
    ports.fail("engine.begin_behind", DatabaseUnreachable("cut"))
    with pytest.raises(DatabaseUnreachable):
        looked(rotation, ports)
    assert "ledger.record" == ports.calls[0]
    ports.target_server.recover()

    rotation = looked(ports.ledger.current(rotation), ports)

    assert captured(rotation).applied_from == recovered_at(ports)
    assert ports.source_server.own.rows == ports.target_server.own.rows


def test_a_target_that_somebody_wrote_to_before_it_was_closed_is_not_caught_up_with() -> None:
    """What he wrote is nowhere else, and no position shows it."""
    ports, rotation = after(*RESTORED)
    ports.target_server.touched = True

    with pytest.raises(TargetMismatch, match=f"somebody has written to {TARGET} before it was closed"):
        looked(rotation, ports)

    assert ({}, None) == (ports.target_server.subscriptions, captured(ports.ledger.current(rotation)).applied_from)


def test_what_it_applies_itself_is_not_taken_for_somebodys() -> None:
    ports, rotation = subscribed()
    assert ports.target_server.touched

    assert "the lag to stay small (2 of 3 observations)" in waiting_for(looked(rotation, ports))


@pytest.mark.parametrize("call", ["begin_behind", "subscribe"])
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("earlier", [0, 1])
def test_a_look_that_was_cut_off_is_gone_on_with(call: str, when: Any, earlier: int) -> None:
    """Applied so far by one of two databases, or by none: each commit comes once all the same."""
    ports, rotation = after(*RESTORED)
    for _ in range(earlier):
        ports.fail("engine.subscribe", DatabaseUnreachable("cut"), when="after")
        with pytest.raises(DatabaseUnreachable):
            looked(rotation, ports)
    ports.fail(f"engine.{call}", DatabaseUnreachable("cut"), when=when)
    with pytest.raises(DatabaseUnreachable):
        looked(ports.ledger.current(rotation), ports)

    rotation = looked(ports.ledger.current(rotation), ports)

    assert ports.source_server.own.rows == ports.target_server.own.rows
    assert {"orders", CONTROL_DATABASE} == ports.target_server.subscriptions.keys()


@pytest.mark.parametrize(("shifted_by", "of"), [(-0x40, BEFORE), (0x60, AFTER)])
def test_a_position_that_is_wrong_shows_in_the_notes(shifted_by: int, of: str) -> None:
    """Whatever the log says: begun too early the first note comes twice, too late the second one never."""
    ports, rotation = after(*RESTORED)
    wrong = as_position(as_number(recovered_at(ports)) + shifted_by)
    rotation = journaled(ports, rotation.having(capture=captured(rotation).having(applied_from=wrong)))

    for _ in range(6):
        rotation = looked(rotation, ports)

    notes = ports.target_server.own.rows[CONTROL_DATABASE]
    assert notes.count(f"{ROTATION_ID} {of}") == (2 if of == BEFORE else 0)
    assert ("the rows from before and after the snapshot to be there once",) == waiting_for(rotation)


# -- WaitForCatchUp: how far -------------------------------------------------------------------------------------------


def subscribed() -> tuple[FakePorts, Rotation]:
    ports, rotation = after(*RESTORED)
    rotation = looked(rotation, ports)
    ports.calls.clear()
    return ports, rotation


def test_ready_when_it_stays_close_for_three_looks() -> None:
    ports, rotation = after(*RESTORED)
    seen = []
    for _ in range(3):
        rotation = looked(rotation, ports)
        seen.append([reason for reason in waiting_for(rotation) if "TTL" not in reason])

    assert seen == [[f"the lag to stay small ({n} of 3 observations)"] for n in (1, 2)] + [[]]
    assert rotation.sync is not None
    assert rotation.sync.position == as_position(ports.source_server.own.position + 1)
    assert [0.0] * 3 == metrics.metric_set["ReplicationLagBytes"]["Value"]
    assert metrics.provider.dimension_set["source"] == SOURCE


def _lag(ports: FakePorts) -> None:
    ports.target_server.applies = False
    ports.source_server.own.position += SMALL_LAG_BYTES


def _slow(ports: FakePorts) -> None:
    """Few bytes, which take long to apply."""
    ports.source_server.seconds_behind = 11


def _break_off(ports: FakePorts) -> None:
    ports.target_server.applies = False
    for slot in ports.source_server.slots.values():
        slot.subscriber = None
    ports.source_server.cut_off_senders()


def _reboot(ports: FakePorts) -> None:
    ports.rds.alter(TARGET, status="rebooting")


@pytest.mark.parametrize(
    ("disturb", "reason"),
    [
        (_lag, f"the lag ({SMALL_LAG_BYTES + 0x10} bytes) to become small"),
        (_slow, "the lag (0 bytes, 11 s) to become small"),
        (_break_off, "the target to connect"),
        (_reboot, "the target to be available (it is rebooting)"),
    ],
)
def test_what_keeps_it_from_being_close_starts_the_count_anew(
    disturb: Callable[[FakePorts], None], reason: str
) -> None:
    ports, rotation = subscribed()
    rotation = looked(rotation, ports)
    disturb(ports)

    rotation = looked(rotation, ports)

    assert reason in waiting_for(rotation)
    assert rotation.sync is not None
    assert rotation.sync.steady_observations == 0


def test_a_target_that_fell_behind_comes_after() -> None:
    ports, rotation = subscribed()
    _lag(ports)
    rotation = looked(rotation, ports)
    ports.target_server.applies = True

    for _ in range(3):
        rotation = looked(rotation, ports)

    assert () == waiting_for(rotation)
    assert ports.source_server.own.rows == ports.target_server.own.rows


def _slot_of_orders(ports: FakePorts) -> str:
    [slot] = [name for name, one in ports.source_server.slots.items() if one.database == "orders"]
    return slot


def _lose(ports: FakePorts) -> None:
    ports.source_server.slots[_slot_of_orders(ports)].lost = True


def _drop(ports: FakePorts) -> None:
    del ports.source_server.slots[_slot_of_orders(ports)]


@pytest.mark.parametrize("forget", [_lose, _drop])
@pytest.mark.parametrize("begin", [lambda: after(*RESTORED), subscribed])
def test_what_the_source_has_thrown_away_is_never_caught_up_with(
    forget: Callable[[FakePorts], None], begin: Callable[[], tuple[FakePorts, Rotation]]
) -> None:
    ports, rotation = begin()
    forget(ports)

    with pytest.raises(CatchUpFailed, match=f"what {TARGET} lacks: raise max_slot_wal_keep_size"):
        looked(rotation, ports)

    assert [] == deeds(ports)


def test_a_slot_of_somebody_else_is_none_of_ours() -> None:
    ports, rotation = subscribed()
    ports.source_server.slots["theirs"] = Slot(ports.source_server, "orders", 0, lost=True)

    for _ in range(2):
        rotation = looked(rotation, ports)

    assert () == waiting_for(rotation)


def test_a_schema_that_was_changed_is_found_before_the_fence() -> None:
    """It costs the rotation, and no write outage."""
    ports, rotation = subscribed()
    ports.source_server.own.schemas["orders"] = "with another column"

    rotation = looked(rotation, ports)
    with pytest.raises(TargetMismatch, match="changed since the snapshot: pg_class of orders; start anew"):
        looked(rotation, ports)


@pytest.mark.parametrize("change", ["role", "database", "table"])
def test_what_else_is_not_replicated_is_found_before_the_fence(change: str) -> None:
    ports, rotation = subscribed()
    rotation = looked(rotation, ports)
    if change == "role":
        ports.source_server.own.roles += ("newcomer",)
    elif change == "database":
        ports.source_server.own.open["newcomer"] = True
    else:
        ports.source_server.uncaptured = "public.newcomer of orders"

    with pytest.raises(TargetMismatch):
        looked(rotation, ports)


def test_the_old_ttl_has_to_pass_and_the_count_stays() -> None:
    ports, rotation = after(*RESTORED)
    for _ in range(4):
        write(ports)
        rotation = visit(wait_for_catch_up, rotation, ports)
    assert [reason[:11] for reason in waiting_for(rotation)] == ["the old TTL"]

    ports.clock.advance(300)

    assert () == waiting_for(visit(wait_for_catch_up, rotation, ports))


def test_a_superusers_session_that_was_seen_once_counts() -> None:
    """It comes and goes, and decides how a database is fenced."""
    ports, rotation = subscribed()
    ports.source_server.superuser_databases = ("orders",)
    rotation = looked(rotation, ports)
    ports.source_server.superuser_databases = ()

    for look in (looked, looked):
        rotation = look(rotation, ports)
        assert rotation.sync is not None
        assert rotation.sync.superuser_databases == ("orders",)


def test_it_is_not_waited_for_for_ever() -> None:
    ports, rotation = subscribed()
    _lag(ports)
    assert rotation.sync is not None
    ports.clock.advance((rotation.sync.started_at + readiness.PATIENCE - ports.clock.now()).total_seconds() - 151)
    rotation = looked(rotation, ports)

    with pytest.raises(SyncIncomplete, match="after 24 hours still waiting for the lag"):
        looked(rotation, ports)


def test_looks_often_at_first_and_while_it_counts() -> None:
    ports, rotation = subscribed()
    assert rotation.sync is not None
    assert rotation.sync.look_again_seconds == readiness.OFTEN_SECONDS
    ports.clock.advance(3600)
    _lag(ports)
    rotation = looked(rotation, ports)
    assert rotation.sync is not None
    assert rotation.sync.look_again_seconds == readiness.SELDOM_SECONDS
    ports.target_server.applies = True

    rotation = looked(rotation, ports)

    assert rotation.sync is not None
    assert (rotation.sync.steady_observations, rotation.sync.look_again_seconds) == (1, readiness.OFTEN_SECONDS)


def _fail(ports: FakePorts) -> None:
    ports.rds.alter(TARGET, status="storage-full")


def _rekey(ports: FakePorts) -> None:
    database = ports.rds.instances[TARGET].database
    ports.rds.alter(TARGET, database=database.having(kms_key_arn=OLD_KEY))


def _delete_source(ports: FakePorts) -> None:
    del ports.rds.instances[SOURCE]


@pytest.mark.parametrize(
    ("spoil", "error"), [(_fail, CatchUpFailed), (_rekey, WrongKey), (_delete_source, UnknownDatabase)]
)
def test_what_will_never_do_ends_it(spoil: Callable[[FakePorts], None], error: type[Exception]) -> None:
    ports, rotation = subscribed()
    spoil(ports)

    with pytest.raises(error):
        looked(rotation, ports)


def test_needs_a_target_that_is_closed() -> None:
    """Applied to a target that somebody else may write to as well, nothing would be known of it."""
    ports, rotation = after(*REQUESTED)
    ports.rds.finish_restore(TARGET)

    with pytest.raises(StateIncomplete):
        looked(rotation, ports)

    assert {} == ports.target_server.subscriptions


@pytest.mark.parametrize("before", [CAPTURED, RESTORED])
def test_nothing_is_fenced_before_it_has_caught_up(before: tuple[Step, ...]) -> None:
    ports, rotation = after(*before)

    with pytest.raises(StateIncomplete, match="WaitForCatchUp has not finished"):
        visit(pause_application_writes, rotation, ports)

    assert writable(ports) == [SOURCE]


def test_nobody_was_kept_from_writing_all_the_while() -> None:
    ports, _ = after(*CAUGHT_UP)

    assert writable(ports) == [SOURCE]
    assert len(CAUGHT_UP) < len(ports.source_server.own.rows["orders"])
    assert ports.source_server.own.rows == ports.target_server.own.rows
