"""A fence that nobody logs in for: whoever can still connect, or is taken for closed unseen, loses a write."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from lambdas.check_target.handler import check_target
from lambdas.clean_up.handler import clean_up
from lambdas.copy_snapshot.handler import copy_snapshot
from lambdas.decommission.handler import decommission
from lambdas.isolate_source.handler import ASK_AGAIN, isolate_source
from lambdas.preflight.handler import preflight
from lambdas.restore_target.handler import restore_target
from lambdas.resume_writes.handler import PATIENCE, resume_writes
from lambdas.rollback.handler import rollback
from lambdas.rotation import network_fence, reach
from lambdas.rotation.errors import (
    AwsRefused,
    AwsUnavailable,
    BudgetSpent,
    DatabaseUnreachable,
    DecisionLost,
    FenceBroken,
    JournalMoved,
    NotOpened,
    PreflightRefused,
    RetirementRefused,
    StateIncomplete,
    TargetMismatch,
    VerificationFailed,
)
from lambdas.rotation.names import NETWORK_FENCE_TAG
from lambdas.rotation.notification import message_of
from lambdas.rotation.ports import Step
from lambdas.rotation.state import Moment, Rotation
from lambdas.rotation.undoing import SLOWEST_FUNCTION
from lambdas.start_rotation.handler import start_rotation
from lambdas.take_snapshot.handler import take_snapshot
from lambdas.update_connectivity.handler import update_connectivity
from lambdas.verify.handler import verify
from lambdas.wait_for_restore.handler import wait_for_restore
from lambdas.wait_for_source.handler import wait_for_source
from tests.fakes import (
    ISOLATION,
    NEW_KEY,
    RECOVERY,
    ROTATION_ID,
    SOURCE,
    TARGET,
    FakePorts,
    connectivity_prepared,
    failed,
    journaled,
    past_grace,
    planned_rotation,
    visit,
)
from tests.unit import by_snapshot

APP, ADMIN = "sg-app", "sg-admin"
RISKS = ("downtime", "internal-jobs")


def prepared(engine: str = "oracle-se2") -> tuple[FakePorts, Rotation]:
    """PrepareConnectivity has run; WaitForSource comes next."""
    ports = FakePorts(with_target=False, isolation_group=ISOLATION)
    ports.kms.add(NEW_KEY)
    source = ports.rds.instances[SOURCE]
    ports.rds.alter(SOURCE, database=source.database.having(engine=engine, engine_version="19.0.0.0.ru"))
    ports.security_groups.rules |= {APP: ["sgr-of-app"], ADMIN: ["sgr-of-admin"]}
    ports.rds.put_groups(SOURCE, APP, ADMIN)
    ports.dns.records["Z1", "db.example.com"] = (source.database.address, 5)
    plan = {"strategy": "snapshot", "fence": "network", "login_secret": None, "accept": RISKS}
    rotation = planned_rotation(ports, write_outage_budget_seconds=4 * 60 * 60, **plan)
    return ports, connectivity_prepared(ports, rotation)


def done(step: Step, rotation: Rotation, ports: FakePorts) -> Rotation:
    """As often as it takes, with RDS doing its part in between."""
    if step is isolate_source:
        rotation = visit(step, rotation, ports)
        ports.rds.put_groups(SOURCE, ISOLATION)
        ports.clock.advance(5)
        rotation = visit(step, rotation, ports)
        ports.clock.advance(60)
        ports.rds.finish_reboot(SOURCE)
        ports.clock.advance(5)
    return by_snapshot.done(step, rotation, ports, (TARGET,))


def after(*steps: Step) -> tuple[FakePorts, Rotation]:
    ports, rotation = prepared()
    for step in steps:
        rotation = done(step, rotation, ports)
    ports.calls.clear()
    return ports, rotation


FENCED = (wait_for_source, isolate_source)
RESTORED = (*FENCED, take_snapshot, copy_snapshot, restore_target, wait_for_restore)
SWITCHED = (*RESTORED, check_target, update_connectivity)


def groups(ports: FakePorts, identifier: str) -> list[str]:
    return [one["VpcSecurityGroupId"] for one in ports.rds.instances[identifier].raw["VpcSecurityGroups"]]


def lets_in(ports: FakePorts) -> list[str]:
    instances = ports.rds.instances
    return [name for name in sorted(instances) if ports.network.accepts(f"{name}.abc123", 5432)]


# -- before the fence --------------------------------------------------------------------------------------------------


def test_nothing_speaks_against_a_database_that_nobody_logs_in_to() -> None:
    ports, rotation = prepared()

    seen = preflight(rotation, ports).preflight

    assert seen is not None
    assert {"NotBornFenced", "LoadsLazily"} <= {warning.name for warning in seen.warnings}


@pytest.mark.parametrize(
    ("engine", "how"),
    [
        ("oracle-se2", "job_queue_processes"),
        ("sqlserver-se", "SQL Server Agent"),
        ("db2-se", "administrative task scheduler"),
        ("mysql", "event_scheduler"),
    ],
)
def test_what_writes_inside_has_to_be_accepted_with_how_it_is_stopped(engine: str, how: str) -> None:
    ports, rotation = prepared(engine)
    rotation = journaled(ports, rotation.having(plan=rotation.planned()[0].having(accept=("downtime",))))

    with pytest.raises(PreflightRefused, match=f'InternalJobs: .* — .*{how}.*"Accept": \\["internal-jobs"\\]'):
        preflight(rotation, ports)


def _no_group(ports: FakePorts) -> None:
    ports.settings.defaults = {}


def _open_group(ports: FakePorts) -> None:
    ports.security_groups.rules[ISOLATION] = ["sgr-somebodys"]


def _isolated(ports: FakePorts) -> None:
    ports.rds.put_groups(SOURCE, APP, ISOLATION)


def _unreachable(ports: FakePorts) -> None:
    ports.security_groups.rules |= {APP: [], ADMIN: []}


def _with_groups_of_options(ports: FakePorts) -> None:
    raw = {**ports.rds.instances[SOURCE].raw, "OptionGroupMemberships": [{"OptionGroupName": "orders-options"}]}
    ports.rds.alter(SOURCE, raw=raw)
    ports.rds.options["orders-options"] = ["SSL"]


def _pending_parameters(ports: FakePorts) -> None:
    group = {"DBParameterGroupName": "orders", "ParameterApplyStatus": "pending-reboot"}
    ports.rds.alter(SOURCE, raw={**ports.rds.instances[SOURCE].raw, "DBParameterGroups": [group]})


AGAINST: dict[str, Callable[[FakePorts], None]] = {
    "NoIsolationGroup": _no_group,
    "IsolationGroupOpen": _open_group,
    "AlreadyIsolated": _isolated,
    "NotReachable": _unreachable,
    "OptionLetsIn": _with_groups_of_options,
    "ParametersPending": _pending_parameters,
}


@pytest.mark.parametrize("reason", AGAINST)
def test_what_would_leave_a_door_open_or_make_the_look_at_it_worthless(reason: str) -> None:
    ports, rotation = prepared()
    AGAINST[reason](ports)

    assert [reason] == by_snapshot.refusals(ports, rotation)


@pytest.mark.parametrize(
    ("engine", "risks"),
    [
        ("postgres", ["LogicalSlots", "UnloggedTables"]),
        ("mysql", ["MemoryTables"]),
        ("mariadb", ["MemoryTables"]),
        ("sqlserver-se", ["MemoryTables"]),
        ("oracle-se2", []),
    ],
)
def test_what_nobody_looks_for_has_to_be_accepted(engine: str, risks: list[str]) -> None:
    ports, rotation = prepared(engine)
    plan, _ = rotation.planned()
    fence = ports.engine(ports.rds.instances[SOURCE].database, plan)

    assert risks == [finding.name for finding in fence.limitations(RISKS)]
    assert not fence.limitations((*RISKS, "logical-slots", "unlogged-tables", "memory-tables"))


def test_rds_custom_is_its_owners_host() -> None:
    ports, rotation = prepared("custom-oracle-ee")

    assert ["EngineNotSupported"] == by_snapshot.refusals(ports, rotation)


def test_the_functions_prove_that_they_reach_what_they_will_take_for_closed() -> None:
    ports, rotation = after(wait_for_source)
    reach.network_fence(rotation, ports)
    reach.isolation_group(rotation, ports)
    _unreachable(ports)

    with pytest.raises(PreflightRefused, match="could not be told apart"):
        reach.network_fence(rotation, ports)


def test_a_fence_by_login_asks_nothing_of_the_network() -> None:
    ports, rotation = prepared()
    rotation = rotation.having(plan=rotation.planned()[0].having(fence="server"))
    ports.fail("security_groups.inbound_rules", AwsRefused("not granted"))

    reach.network_fence(rotation, ports)
    reach.isolation_group(rotation, ports)


def test_the_source_may_be_closed_only_once_it_is_marked() -> None:
    ports, _ = after(wait_for_source)

    assert {NETWORK_FENCE_TAG: SOURCE}.items() <= ports.rds.instances[SOURCE].tags.items()


# -- the fence ---------------------------------------------------------------------------------------------------------


def test_journal_and_schedule_then_groups_then_a_restart_behind_the_closed_door() -> None:
    ports, rotation = after(wait_for_source)

    rotation = visit(isolate_source, rotation, ports)
    assert ["ledger.record", "recovery.set", f"rds.request_security_groups {SOURCE}: {ISOLATION}"] == ports.calls[:3]
    assert [APP, ADMIN] == [*reversed(ports.ledger.journal[ROTATION_ID].rotation.fence.databases[0].security_groups)]  # type: ignore[union-attr]

    rotation = visit(isolate_source, rotation, ports)  # RDS shows the group, and has not put it in force
    ports.rds.put_groups(SOURCE, ISOLATION)
    ports.network.lingering.add(SOURCE)
    rotation = visit(isolate_source, rotation, ports)  # nor the network
    assert not [call for call in ports.calls if "reboot" in call]

    ports.network.lingering.clear()
    ports.calls.clear()
    rotation = visit(isolate_source, rotation, ports)
    assert ["recovery.set", "ledger.record", f"rds.request_reboot {SOURCE}"] == ports.calls[:3]
    assert rotation.fence is not None
    assert rotation.fence.position is None

    ports.clock.advance(60)
    ports.rds.finish_reboot(SOURCE)
    restarted_at = ports.clock.now()
    ports.clock.advance(5)
    rotation = visit(isolate_source, rotation, ports)

    assert (True, restarted_at.isoformat()) == (rotation.isolation.complete, rotation.fenced_source()[1])  # type: ignore[union-attr]
    assert [] == lets_in(ports)


def test_a_restart_from_before_the_door_was_closed_ends_nobody() -> None:
    ports, rotation = after(wait_for_source)
    rotation = visit(isolate_source, rotation, ports)
    ports.rds.finish_reboot(SOURCE)
    ports.clock.advance(5)
    ports.rds.put_groups(SOURCE, ISOLATION)

    rotation = visit(isolate_source, rotation, ports)

    assert rotation.isolation is not None
    assert not rotation.isolation.complete
    assert f"rds.request_reboot {SOURCE}" in ports.calls


def test_a_restart_that_nobody_was_asked_for_is_none_of_this_rotations() -> None:
    """The attempt died before the request; then the server restarts by itself, which may end no session."""
    ports, rotation = after(wait_for_source)
    rotation = visit(isolate_source, rotation, ports)
    ports.rds.put_groups(SOURCE, ISOLATION)
    ports.fail("rds.request_reboot", AwsUnavailable("died"))
    with pytest.raises(AwsUnavailable):
        visit(isolate_source, rotation, ports)
    ports.clock.advance(5)
    ports.rds.finish_reboot(SOURCE)
    ports.clock.advance(5)

    rotation = visit(isolate_source, rotation, ports)

    assert rotation.isolation is not None
    assert not rotation.isolation.complete
    assert f"rds.request_reboot {SOURCE}" in ports.calls


def test_a_restart_that_rds_does_not_tell_of_is_asked_for_again() -> None:
    ports, rotation = after(wait_for_source)
    rotation = visit(isolate_source, rotation, ports)
    ports.rds.put_groups(SOURCE, ISOLATION)
    rotation = visit(isolate_source, rotation, ports)
    ports.rds.alter(SOURCE, status="available")
    ports.calls.clear()

    ports.clock.advance(ASK_AGAIN.total_seconds() - 1)
    rotation = visit(isolate_source, rotation, ports)
    assert f"rds.request_reboot {SOURCE}" not in ports.calls
    ports.clock.advance(1)
    visit(isolate_source, rotation, ports)

    assert f"rds.request_reboot {SOURCE}" in ports.calls


def test_an_event_that_is_there_before_the_answer_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    ports, rotation = after(wait_for_source)
    rotation = visit(isolate_source, rotation, ports)
    ports.rds.put_groups(SOURCE, ISOLATION)

    def slowly(identifier: str) -> bool:
        ports.clock.advance(2)
        ports.rds.finish_reboot(identifier)
        ports.clock.advance(2)
        return True

    monkeypatch.setattr(ports.rds, "request_reboot", slowly)
    rotation = visit(isolate_source, rotation, ports)

    assert visit(isolate_source, rotation, ports).isolation.complete  # type: ignore[union-attr]


def test_of_two_deliveries_that_would_ask_for_a_restart_one_asks() -> None:
    """Its twin has written down that it asks; what both would write has to differ for that."""
    ports, rotation = after(wait_for_source)
    rotation = visit(isolate_source, rotation, ports)
    ports.rds.put_groups(SOURCE, ISOLATION)
    ports.fail("rds.request_reboot", AwsUnavailable("died"))
    with pytest.raises(AwsUnavailable):
        visit(isolate_source, rotation, ports)
    of_the_twin = ports.ledger.journal[ROTATION_ID].rotation.isolation
    ports.clock.advance(1)
    ports.fail("rds.request_reboot", AwsUnavailable("died"))
    with pytest.raises(AwsUnavailable):
        visit(isolate_source, rotation, ports)

    assert of_the_twin != ports.ledger.journal[ROTATION_ID].rotation.isolation


def test_a_restart_that_rds_has_not_accepted_is_asked_for_again_at_once() -> None:
    """One of a failover beside it ends the sessions of then, and not those that came in after it."""
    ports, rotation = after(wait_for_source)
    rotation = visit(isolate_source, rotation, ports)
    ports.rds.put_groups(SOURCE, ISOLATION)
    ports.rds.busy = True
    rotation = visit(isolate_source, rotation, ports)
    ports.clock.advance(5)
    ports.rds.finish_reboot(SOURCE)
    ports.rds.busy = False
    ports.calls.clear()

    rotation = visit(isolate_source, rotation, ports)

    assert f"rds.request_reboot {SOURCE}" in ports.calls
    assert rotation.isolation is not None
    assert not rotation.isolation.complete


def test_a_group_on_its_way_out_is_none_to_give_back() -> None:
    ports, rotation = after(wait_for_source)
    leaving = {"VpcSecurityGroupId": "sg-leaving", "Status": "removing"}
    raw = ports.rds.instances[SOURCE].raw
    ports.rds.alter(SOURCE, raw={**raw, "VpcSecurityGroups": [*raw["VpcSecurityGroups"], leaving]})

    rotation = visit(isolate_source, rotation, ports)

    assert rotation.fence is not None
    assert (ADMIN, APP) == rotation.fence.databases[0].security_groups


def test_the_closing_has_one_moment() -> None:
    """Who has come since was born closed: at a later moment one would count that was not."""
    ports, rotation = after(wait_for_source)
    rotation = visit(isolate_source, rotation, ports)
    ports.rds.put_groups(SOURCE, ISOLATION)
    rotation = visit(isolate_source, rotation, ports)
    closed_at = ports.clock.now()
    ports.rds.alter(SOURCE, status="available")
    ports.clock.advance(5)

    rotation = visit(isolate_source, rotation, ports)

    assert rotation.isolation is not None
    assert closed_at == rotation.isolation.closed_at


def test_a_busy_rds_is_asked_again() -> None:
    ports, rotation = after(wait_for_source)
    ports.rds.busy = True
    rotation = visit(isolate_source, rotation, ports)
    ports.rds.busy = False
    ports.calls.clear()

    visit(isolate_source, rotation, ports)

    assert f"rds.request_security_groups {SOURCE}: {ISOLATION}" in ports.calls


def _given_other_groups(ports: FakePorts) -> None:
    ports.rds.put_groups(SOURCE, APP)


@pytest.mark.parametrize("somebody", [_given_other_groups, _open_group])
def test_who_opens_the_door_behind_the_rotation_ends_it(somebody: Callable[[FakePorts], None]) -> None:
    ports, rotation = after(wait_for_source)
    rotation = visit(isolate_source, rotation, ports)
    ports.rds.put_groups(SOURCE, ISOLATION)
    rotation = visit(isolate_source, rotation, ports)
    ports.rds.finish_reboot(SOURCE)
    somebody(ports)

    with pytest.raises(FenceBroken):
        visit(isolate_source, rotation, ports)


def test_a_fence_that_takes_its_time_is_looked_at_less_often() -> None:
    """A day of looking often would use up the execution's history, past its Catch, before the budget is spent."""
    ports, rotation = after(wait_for_source)
    looks = []
    for passed in (0, 3599, 1):
        ports.clock.advance(passed)
        rotation = visit(isolate_source, rotation, ports)
        assert rotation.isolation is not None
        looks.append(rotation.isolation.look_again_seconds)

    assert looks == [15, 15, 120]


def test_the_budget_ends_a_fence_that_does_not_come_to_stand() -> None:
    ports, rotation = after(wait_for_source)
    rotation = visit(isolate_source, rotation, ports)
    ports.clock.advance(4 * 60 * 60)

    with pytest.raises(BudgetSpent, match="orders to be closed: its security groups are sg-isolation"):
        visit(isolate_source, rotation, ports)


def test_a_late_attempt_closes_nothing_once_it_is_decided() -> None:
    ports, rotation = after(wait_for_source)
    ports.ledger.decisions[ROTATION_ID] = "rollback"

    with pytest.raises(DecisionLost):
        isolate_source(rotation, ports)

    assert [APP, ADMIN] == groups(ports, SOURCE)


def test_what_came_up_since_preflight_closes_nothing() -> None:
    ports, rotation = after(wait_for_source)
    _open_group(ports)

    with pytest.raises(PreflightRefused, match="inbound rules: sgr-somebodys"):
        isolate_source(rotation, ports)

    assert ports.ledger.journal[ROTATION_ID].rotation.fence is None


def test_what_a_second_delivery_has_begun_to_close_is_no_reason_to_go_back() -> None:
    ports, rotation = after(wait_for_source)
    ports.rds.put_groups(SOURCE, ISOLATION)
    ports.fail("ledger.record", JournalMoved("the twin has written its fence"))

    with pytest.raises(JournalMoved):
        isolate_source(rotation, ports)


def test_nothing_is_closed_before_the_source_is_ready() -> None:
    ports, rotation = prepared()

    with pytest.raises(StateIncomplete, match="WaitForSource"):
        isolate_source(rotation, ports)


def test_nothing_is_snapshotted_that_somebody_can_connect_to() -> None:
    ports, rotation = after(*FENCED)
    _given_other_groups(ports)

    with pytest.raises(FenceBroken, match="its security groups are sg-app"):
        visit(take_snapshot, rotation, ports)


# -- the target --------------------------------------------------------------------------------------------------------


def test_the_target_is_born_fenced() -> None:
    ports, rotation = after(*RESTORED)

    assert [ISOLATION] == groups(ports, TARGET)
    assert [] == lets_in(ports)
    assert visit(check_target, rotation, ports).target_check is not None


@pytest.mark.parametrize("side", [SOURCE, TARGET])
def test_a_side_that_somebody_can_connect_to_is_not_switched(side: str) -> None:
    ports, rotation = after(*RESTORED)
    ports.rds.put_groups(side, APP)

    with pytest.raises(TargetMismatch, match=r"the fence of the (source|target) does not hold"):
        visit(check_target, rotation, ports)


def test_the_groups_of_a_target_are_nothing_to_repair() -> None:
    """A late attempt would find the source's on one that is open by now, and take them from it."""
    ports, rotation = after(*FENCED, take_snapshot, copy_snapshot, restore_target)
    ports.rds.differences["security groups"] = ((ISOLATION,), (APP,))

    rotation = done(wait_for_restore, rotation, ports)

    assert rotation.restored().complete


def test_a_decided_rotation_proves_no_fence_on_its_target() -> None:
    ports, rotation = after(*RESTORED)
    ports.ledger.decisions[ROTATION_ID] = "rollback"
    plan, _ = rotation.planned()
    _, target, fence, _ = rotation.fenced()

    with pytest.raises(DecisionLost):
        ports.engine(target, plan).raise_fence(ROTATION_ID, fence.databases, 5)


def test_a_snapshot_from_before_the_fence_is_not_the_source() -> None:
    ports, rotation = after(*RESTORED)
    kept = ports.rds.snapshots[f"{TARGET}-kept"]
    kept["OriginalSnapshotCreateTime"] -= timedelta(hours=1)

    with pytest.raises(TargetMismatch, match="lies before the fence position"):
        visit(check_target, rotation, ports)


@pytest.mark.parametrize("said", network_fence.IDENTITY)
def test_another_database_is_not_the_source(said: str) -> None:
    ports, rotation = after(*RESTORED)
    ports.rds.alter(TARGET, raw={**ports.rds.instances[TARGET].raw, said: "OTHER"})

    with pytest.raises(TargetMismatch, match="system identifier"):
        visit(check_target, rotation, ports)


# -- the release -------------------------------------------------------------------------------------------------------


def opened(ports: FakePorts, rotation: Rotation) -> Rotation:
    rotation = visit(resume_writes, rotation, ports)
    ports.rds.put_groups(TARGET, ADMIN, APP)
    ports.clock.advance(5)
    return visit(resume_writes, rotation, ports)


def test_the_decision_stands_before_the_target_opens_and_the_outage_ends_when_it_has() -> None:
    ports, rotation = after(*SWITCHED)

    rotation = visit(resume_writes, rotation, ports)
    asked = ["ledger.decide release", f"rds.request_security_groups {TARGET}: {ADMIN}, {APP}"]
    assert asked == [call for call in ports.calls if not call.startswith("ledger.record")]
    assert rotation.release is not None
    assert not rotation.release.open
    released_at = rotation.release.released_at

    ports.rds.put_groups(TARGET, ADMIN, APP)
    ports.clock.advance(5)
    rotation = visit(resume_writes, rotation, ports)

    assert rotation.release is not None
    assert (True, released_at) == (rotation.release.open, rotation.release.released_at)
    assert [TARGET] == lets_in(ports)
    assert "recovery.remove" in " ".join(ports.calls)


def test_what_rds_is_busy_with_is_not_released() -> None:
    """It could not open it then, and there would be no way back."""
    ports, rotation = after(*SWITCHED)
    ports.rds.alter(TARGET, status="backing-up")

    with pytest.raises(DatabaseUnreachable, match="backing-up"):
        visit(resume_writes, rotation, ports)

    assert ports.ledger.decisions == {}


def test_a_refusal_to_open_does_not_hide_that_it_was_released() -> None:
    """Somebody has deleted a group that nothing used for hours."""
    ports, rotation = after(*SWITCHED)
    ports.fail("rds.request_security_groups", AwsRefused("InvalidGroup.NotFound"))

    rotation = visit(resume_writes, rotation, ports)

    assert rotation.release is not None
    assert not rotation.release.open
    visit(resume_writes, rotation, ports)
    assert f"rds.request_security_groups {TARGET}: {ADMIN}, {APP}" in ports.calls


def test_a_target_that_cannot_be_tried_after_its_release_is_released_all_the_same() -> None:
    ports, rotation = after(*SWITCHED)
    rotation = visit(resume_writes, rotation, ports)
    ports.rds.put_groups(TARGET, ADMIN, APP)
    ports.network.unknown.add(TARGET)

    rotation = visit(resume_writes, rotation, ports)

    assert rotation.release is not None
    assert not rotation.release.open


def test_a_busy_rds_is_asked_until_it_opens_the_target_or_a_person_does() -> None:
    ports, rotation = after(*SWITCHED)
    ports.rds.busy = True
    rotation = visit(resume_writes, rotation, ports)
    ports.clock.advance(PATIENCE.total_seconds())

    with pytest.raises(NotOpened, match="gets its security groups back"):
        visit(resume_writes, rotation, ports)

    assert ports.ledger.decisions == {ROTATION_ID: "release"}


def test_a_failure_between_decision_and_opening_goes_forward() -> None:
    ports, rotation = after(*SWITCHED)
    rotation = visit(resume_writes, rotation, ports)

    rotation = visit(rollback, failed(rotation), ports)

    assert rotation.undo is not None
    assert rotation.undo.outcome == "committed"
    assert [ISOLATION] == groups(ports, SOURCE)
    assert visit(verify, opened(ports, rotation), ports).verification.complete  # type: ignore[union-attr]


def test_verify_sees_the_groups_that_were_written_down_and_an_open_target() -> None:
    ports, rotation = after(*SWITCHED)
    rotation = opened(ports, rotation)
    ports.rds.differences["security groups"] = ((ISOLATION,), (ADMIN, APP))

    rotation = visit(verify, rotation, ports)

    assert rotation.verification is not None
    assert rotation.verification.complete
    assert {SOURCE: {"security_groups": [ADMIN, APP]}} == rotation.verification.evidence["databases"]


def test_verify_waits_for_other_groups_and_for_a_closed_target() -> None:
    ports, rotation = after(*SWITCHED)
    rotation = opened(ports, rotation)
    ports.rds.differences["security groups"] = ((ISOLATION,), (APP,))
    ports.rds.put_groups(TARGET, "sg-without-rules")
    ports.security_groups.rules["sg-without-rules"] = []

    rotation = visit(verify, rotation, ports)

    assert rotation.verification is not None
    assert ("settings differ: security groups", f"not open on the target: {SOURCE}") == rotation.verification.pending


def test_a_source_that_somebody_opens_beside_the_target_is_told_at_once() -> None:
    ports, rotation = after(*SWITCHED)
    rotation = opened(ports, rotation)
    ports.rds.put_groups(SOURCE, APP)

    with pytest.raises(VerificationFailed, match="accepts connections beside the target"):
        visit(verify, rotation, ports)


# -- the way back ------------------------------------------------------------------------------------------------------


def gone_back(ports: FakePorts, rotation: Rotation) -> Rotation:
    """Whatever a function of before had begun has ended: a late request would close the source once it is open."""
    rotation = visit(rollback, failed(rotation, "FenceBroken"), ports)
    assert rotation.undo is not None
    still_running = ("undecided", "a function of the failed step may still be running")
    assert still_running == (rotation.undo.outcome, rotation.undo.reason)
    ports.clock.advance(SLOWEST_FUNCTION.total_seconds())
    return visit(rollback, rotation, ports)


@pytest.mark.parametrize("steps", [FENCED, RESTORED, (*RESTORED, check_target)])
def test_the_source_gets_its_groups_back_once_no_target_can_be_released(steps: tuple[Any, ...]) -> None:
    ports, rotation = after(*steps)
    rotation = gone_back(ports, rotation)

    assert rotation.undo is not None
    assert ("undecided", True) == (rotation.undo.outcome, "gets its security groups back" in rotation.undo.reason)
    asked = ["ledger.decide rollback", f"rds.request_security_groups {SOURCE}: {ADMIN}, {APP}"]
    assert asked == [call for call in ports.calls if call.startswith(("ledger.decide", "rds.request_sec"))][-2:]

    ports.rds.put_groups(SOURCE, ADMIN, APP)
    rotation = visit(rollback, rotation, ports)
    assert rotation.undo is not None
    assert rotation.undo.outcome == "rolled-back"
    assert [SOURCE] == lets_in(ports)

    by_snapshot.cleaned_up(ports, rotation)
    assert NETWORK_FENCE_TAG not in ports.rds.instances[SOURCE].tags


def test_groups_that_somebody_has_chosen_meanwhile_stay() -> None:
    ports, rotation = after(*FENCED)
    ports.rds.put_groups(SOURCE, "sg-somebodys")
    ports.security_groups.rules["sg-somebodys"] = ["sgr-1"]
    rotation = gone_back(ports, rotation)

    assert rotation.undo is not None
    assert rotation.undo.outcome == "rolled-back"
    assert ["sg-somebodys"] == groups(ports, SOURCE)


def test_groups_that_somebody_has_chosen_need_let_nobody_in() -> None:
    """The functions may not be among those who come in by them."""
    ports, rotation = after(*FENCED)
    ports.rds.put_groups(SOURCE, "sg-somebodys")
    ports.security_groups.rules["sg-somebodys"] = []

    rotation = gone_back(ports, rotation)

    assert rotation.undo is not None
    assert "rolled-back" == rotation.undo.outcome


def test_a_group_that_somebody_has_added_to_the_isolation_opens_nothing() -> None:
    ports, rotation = after(*FENCED)
    ports.rds.put_groups(SOURCE, ISOLATION, "sg-somebodys")

    rotation = gone_back(ports, rotation)

    assert f"rds.request_security_groups {SOURCE}: {ADMIN}, {APP}" in ports.calls
    assert rotation.undo is not None
    assert "undecided" == rotation.undo.outcome


def test_the_group_that_counts_is_the_one_of_the_fence_whatever_the_stack_has_by_now() -> None:
    ports, rotation = after(*FENCED)
    ports.settings.defaults = {"isolation_group": "sg-another"}

    rotation = gone_back(ports, rotation)

    assert f"rds.request_security_groups {SOURCE}: {ADMIN}, {APP}" in ports.calls
    assert rotation.undo is not None
    assert rotation.undo.outcome == "undecided"


def test_groups_that_rds_shows_and_nobody_comes_in_by_are_no_open_source() -> None:
    """RDS shows what is asked for before it is in force, and may show what was before."""
    ports, rotation = after(*FENCED)
    ports.rds.put_groups(SOURCE, ADMIN, APP)
    ports.rds.alter(SOURCE, status="rebooting")

    rotation = gone_back(ports, rotation)
    assert rotation.undo is not None
    assert rotation.undo.outcome == "undecided"
    assert "lets nobody in (it is rebooting)" in rotation.undo.reason

    ports.rds.alter(SOURCE, status="available")
    rotation = visit(rollback, rotation, ports)
    assert rotation.undo is not None
    assert rotation.undo.outcome == "rolled-back"


def test_people_are_told_that_nobody_can_connect_and_to_delete_neither_side() -> None:
    ports, rotation = after(*SWITCHED)
    rotation = failed(visit(resume_writes, rotation, ports), "NotOpened")

    assert rotation.moment is Moment.UNDECIDED
    told = message_of(rotation, rotation.moment)["what_to_do"]
    assert "Nobody can connect to either side" in told
    assert "Delete neither side" in told


def test_once_it_is_open_a_failure_is_no_outage() -> None:
    ports, rotation = after(*SWITCHED)

    assert failed(opened(ports, rotation)).moment is Moment.ATTENTION


def test_a_takeover_between_decision_and_opening_finishes_that_first() -> None:
    ports, rotation = after(*SWITCHED)
    left = visit(resume_writes, rotation, ports)
    ports.workflow.running.clear()

    taken = start_rotation(Rotation(schema=1, execution_arn=RECOVERY, request={"DBInstanceIdentifier": SOURCE}), ports)

    assert (left.rotation_id, "rollback") == (taken.rotation_id, taken.route)


def test_whoever_takes_up_a_release_that_rds_did_not_open_has_its_own_time() -> None:
    """RDS opens nothing at once, and hours may lie between the release and somebody who starts it again."""
    ports, rotation = after(*SWITCHED)
    ports.rds.busy = True
    left = visit(resume_writes, rotation, ports)
    ports.workflow.running.clear()
    ports.clock.advance(10 * PATIENCE.total_seconds())
    ports.rds.busy = False

    taken = start_rotation(Rotation(schema=1, execution_arn=RECOVERY, request={"DBInstanceIdentifier": SOURCE}), ports)
    ports.ledger.record(taken)
    taken = visit(rollback, taken, ports)
    assert taken.undo is not None
    assert "committed" == taken.undo.outcome
    taken = visit(resume_writes, taken, ports)
    ports.rds.put_groups(TARGET, ADMIN, APP)
    taken = visit(resume_writes, taken, ports)

    assert left.release is not None
    assert taken.release is not None
    assert (True, left.release.released_at) == (taken.release.open, taken.release.released_at)


def test_a_late_release_opens_nothing() -> None:
    ports, rotation = after(*SWITCHED)
    ports.ledger.decisions[ROTATION_ID] = "rollback"

    with pytest.raises(DecisionLost):
        visit(resume_writes, rotation, ports)

    assert [ISOLATION] == groups(ports, TARGET)


def test_what_cannot_be_unmarked_is_left_over_with_its_command() -> None:
    ports, rotation = after(*FENCED)
    rotation = gone_back(ports, rotation)
    ports.rds.put_groups(SOURCE, ADMIN, APP)
    rotation = visit(rollback, rotation, ports)
    for _ in range(300):
        ports.fail("rds.remove_tags", AwsRefused("not now"))
    for _ in range(5):
        ports.clock.advance(3600)
        rotation = visit(clean_up, rotation, ports)

    assert rotation.undo is not None
    (leftover,) = rotation.undo.leftovers
    assert leftover.startswith("aws rds remove-tags-from-resource --resource-name arn:aws:rds:")
    assert f"--tag-keys {NETWORK_FENCE_TAG}" in leftover


# -- the end -----------------------------------------------------------------------------------------------------------


def test_after_the_grace_period_the_source_goes_as_any_other() -> None:
    ports, rotation = after(*SWITCHED)
    rotation = visit(verify, opened(ports, rotation), ports)

    by_snapshot.decommissioned(ports, past_grace(ports, rotation))

    assert SOURCE not in ports.rds.instances
    assert [ADMIN, APP] == groups(ports, TARGET)


def test_a_target_that_cannot_be_unmarked_is_told_with_the_command_when_the_source_is_gone() -> None:
    ports, rotation = after(*SWITCHED)
    rotation = visit(verify, opened(ports, rotation), ports)
    assert rotation.target is not None
    ports.rds.set_tags(rotation.target.arn, {NETWORK_FENCE_TAG: SOURCE})
    ports.fail("rds.remove_tags", AwsRefused("not this one"))

    by_snapshot.decommissioned(ports, past_grace(ports, rotation))

    done = ports.ledger.journal[ROTATION_ID].rotation.decommission
    command = f"aws rds remove-tags-from-resource --resource-name {rotation.target.arn} --tag-keys {NETWORK_FENCE_TAG}"
    assert done is not None
    assert (f"{command}  # not this one",) == done.leftovers


def test_a_source_that_somebody_has_given_its_groups_back_stays() -> None:
    ports, rotation = after(*SWITCHED)
    rotation = past_grace(ports, visit(verify, opened(ports, rotation), ports))
    ports.rds.put_groups(SOURCE, ADMIN, APP)

    with pytest.raises(
        RetirementRefused, match=f"written to orders since the cutover: its security groups are {ADMIN}"
    ):
        visit(decommission, rotation, ports)

    assert SOURCE in ports.rds.instances
    ports.rds.put_groups(SOURCE, ISOLATION)
    by_snapshot.decommissioned(ports, rotation)
    assert SOURCE not in ports.rds.instances
