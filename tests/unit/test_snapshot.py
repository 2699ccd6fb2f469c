"""A rotation by snapshot: applications stand still for hours, so each way out of it has to be the right one."""

from datetime import timedelta
from typing import Any

import pytest

from lambdas.check_target.handler import check_target
from lambdas.clean_up.handler import clean_up
from lambdas.copy_snapshot.handler import copy_snapshot
from lambdas.pause_application_writes.handler import pause_application_writes
from lambdas.preflight.handler import preflight
from lambdas.restore_target.handler import restore_target
from lambdas.resume_writes.handler import resume_writes
from lambdas.rollback.handler import rollback
from lambdas.rotation import reach
from lambdas.rotation.errors import (
    AwsRefused,
    AwsUnavailable,
    BudgetSpent,
    DecisionLost,
    EpochSuperseded,
    FenceBroken,
    NameTaken,
    PreflightRefused,
    RestoreFailed,
    SettingsNotCarried,
    SnapshotFailed,
    StateIncomplete,
    SyncIncomplete,
    TargetMismatch,
    WrongKey,
)
from lambdas.rotation.names import CONTROL_DATABASE
from lambdas.rotation.outage import FENCE_MARGIN, hangs
from lambdas.rotation.ports import Step
from lambdas.rotation.state import Rotation
from lambdas.rotation.undoing import SLOWEST_FUNCTION
from lambdas.take_snapshot.handler import take_snapshot
from lambdas.wait_for_restore.handler import wait_for_restore
from lambdas.wait_for_source.handler import OBSERVATIONS, wait_for_source
from tests.fakes import (
    EXECUTION,
    NEW_KEY,
    OLD_KEY,
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

TEMPORARY, KEPT = f"{TARGET}-source", f"{TARGET}-kept"
MADE = (TARGET,)
BUDGET = 4 * 60 * 60


def prepared() -> tuple[FakePorts, Rotation]:
    """PrepareConnectivity has run; WaitForSource comes next."""
    ports = FakePorts(with_target=False)
    ports.kms.add(NEW_KEY)
    del ports.source_server.own.open[CONTROL_DATABASE]
    rotation = planned_rotation(ports, strategy="snapshot", write_outage_budget_seconds=BUDGET, accept=("downtime",))
    return ports, connectivity_prepared(ports, rotation)


def after(*steps: Step) -> tuple[FakePorts, Rotation]:
    return by_snapshot.after(prepared(), steps, MADE)


def done(step: Step, rotation: Rotation, ports: FakePorts) -> Rotation:
    return by_snapshot.done(step, rotation, ports, MADE)


FENCED = (wait_for_source, pause_application_writes)
TAKEN = (*FENCED, take_snapshot)
COPIED = (*TAKEN, copy_snapshot)
REQUESTED = (*COPIED, restore_target)
RESTORED = (*REQUESTED, wait_for_restore)
CHECKED = (*RESTORED, check_target)


def writable(ports: FakePorts) -> list[str]:
    return [name for name, server in sorted(ports.rds.servers.items()) if server.accepts_applications()]


def stage(rotation: Rotation) -> str:
    return rotation.restored().stage


def deeds(ports: FakePorts) -> list[str]:
    return [call for call in ports.calls if not call.startswith(("ledger", "recovery"))]


# -- before the fence --------------------------------------------------------------------------------------------------


def test_nobody_is_kept_from_writing_who_has_not_accepted_it() -> None:
    ports, rotation = prepared()
    rotation = journaled(ports, rotation.having(plan=rotation.planned()[0].having(accept=())))

    with pytest.raises(PreflightRefused, match=r'Downtime: .*14400 s at most — .*"Accept": \["downtime"\]'):
        preflight(rotation, ports)


def managed(ports: FakePorts, rotation: Rotation, *accept: str, key: str = "aws-secretsmanager") -> Rotation:
    """RDS manages the master password; the rotation has a login of its own."""
    secret = {"SecretArn": "arn:of-the-source", "SecretStatus": "active", "KmsKeyId": key}
    raw = {**ports.rds.instances[SOURCE].raw, "MasterUserSecret": secret, "MasterUsername": "dbadmin"}
    ports.kms.add("aws-secretsmanager", manager="AWS")
    ports.rds.alter(SOURCE, raw=raw)
    ports.dns.records["Z1", "db.example.com"] = (ports.rds.instances[SOURCE].database.address, 300)
    ports.secrets.logins["login"] = ("rotator", "secret")
    plan, _ = rotation.planned()
    return journaled(ports, rotation.having(plan=plan.having(accept=("downtime", *accept))))


def test_another_master_password_has_to_be_accepted() -> None:
    ports, rotation = prepared()

    with pytest.raises(PreflightRefused, match=r"ManagedMasterPassword: .* arn:of-the-source goes with the source"):
        preflight(managed(ports, rotation), ports)

    assert preflight(managed(ports, rotation, "managed-master-password"), ports).preflight is not None


def test_a_copy_of_the_masters_password_is_no_login_where_rds_will_change_it() -> None:
    """On the target it would open nothing, and that would show under the fence."""
    ports, rotation = prepared()
    rotation = managed(ports, rotation, "managed-master-password")
    ports.secrets.logins["login"] = ("dbadmin", "a-copy")

    with pytest.raises(PreflightRefused) as refused:
        preflight(rotation, ports)

    assert [line.partition(":")[0] for line in str(refused.value).splitlines()] == ["LoginIsMaster"]


def test_a_master_secret_under_a_key_that_cannot_be_lent_is_refused() -> None:
    """RDS would be refused under the fence, with everybody waiting."""
    ports, rotation = prepared()

    with pytest.raises(PreflightRefused) as refused:
        preflight(managed(ports, rotation, "managed-master-password", key=OLD_KEY), ports)

    assert [line.partition(":")[0] for line in str(refused.value).splitlines()] == ["MasterSecretKey"]


def test_an_unencrypted_database_without_backups_is_welcome() -> None:
    """RDS replicates neither, and copies a snapshot of either under a key."""
    ports, rotation = prepared()
    ports.rds.alter(SOURCE, storage_encrypted=False, backup_retention_days=0)
    ports.dns.records["Z1", "db.example.com"] = (ports.rds.instances[SOURCE].database.address, 300)
    ports.secrets.logins["login"] = ("rotator", "secret")

    passed = preflight(rotation, ports).preflight

    assert passed is not None
    assert ["LoadsLazily"] == [warning.name for warning in passed.warnings]


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        ({"raw": {"ReadReplicaDBInstanceIdentifiers": ["r1"]}}, "ReplicasAway"),
        ({"raw": {"MasterUserSecret": {"SecretArn": "arn:s"}}}, "ManagedMasterPassword"),
        ({"status": "backing-up"}, "NotAvailable"),
    ],
)
def test_what_a_restore_would_not_carry_over_is_refused(facts: dict[str, Any], reason: str) -> None:
    ports, rotation = prepared()
    ports.rds.alter(SOURCE, **facts)

    with pytest.raises(PreflightRefused, match=f"^{reason}: |\n{reason}: "):
        preflight(rotation, ports)


def test_the_source_is_looked_at_until_it_is_ready() -> None:
    ports, rotation = prepared()
    ports.source_server.superuser_databases = ("orders",)

    rotation = visit(wait_for_source, rotation, ports)

    assert rotation.sync is not None
    assert not rotation.sync.ready
    assert ["old TTL", "sessions"] == [
        next(word for word in ("old TTL", "sessions", "?") if word in reason) for reason in rotation.sync.waiting_for
    ]
    assert CONTROL_DATABASE in ports.source_server.own.open
    assert rotation.target_identifier == TARGET
    ports.source_server.superuser_databases = ()
    rotation = done(wait_for_source, rotation, ports)
    assert rotation.sync is not None
    assert rotation.sync.ready
    assert ("orders",) == rotation.sync.superuser_databases, "seen once is enough"
    assert writable(ports) == [SOURCE]


def test_nothing_is_fenced_shortly_before_a_backup() -> None:
    ports, rotation = prepared()
    ports.rds.alter(SOURCE, raw={"PreferredBackupWindow": "00:35-01:05"})

    for _ in range(OBSERVATIONS):
        ports.clock.advance(120)
        rotation = visit(wait_for_source, rotation, ports)

    assert rotation.sync is not None
    assert rotation.sync.waiting_for == ("the backup window of orders (00:35-01:05 UTC) to pass",)


def test_a_source_that_rds_is_at_work_on_is_not_logged_in_to() -> None:
    ports, rotation = prepared()
    ports.rds.alter(SOURCE, status="rebooting")
    ports.source_server.reachable = False

    rotation = visit(wait_for_source, rotation, ports)

    assert rotation.sync is not None
    assert "orders to be available (it is rebooting)" in rotation.sync.waiting_for
    ports.clock.advance(24 * 3600)
    with pytest.raises(SyncIncomplete, match="24 hours"):
        visit(wait_for_source, rotation, ports)


def test_reach_is_proven_where_there_is_no_target_yet() -> None:
    ports, rotation = after(wait_for_source)

    for probe in (reach.rds, reach.snapshot, reach.target_server):
        probe(rotation, ports)
    ports.source_server.reachable = False

    with pytest.raises(Exception, match="orders does not answer"):
        reach.target_server(rotation, ports)


def test_the_recovery_schedule_and_a_start_by_hand_respect_the_long_budget() -> None:
    ports, rotation = after(*FENCED)
    assert rotation.fence is not None
    ends = rotation.fence.requested_at + timedelta(seconds=BUDGET) + FENCE_MARGIN

    entry = ports.ledger.journal[ROTATION_ID]
    assert ports.recovery.at[ROTATION_ID] == ends
    assert not hangs(entry, ends - timedelta(seconds=1))
    assert hangs(entry, ends)


# -- the way there -----------------------------------------------------------------------------------------------------


def test_the_fenced_source_comes_to_life_under_the_new_key() -> None:
    ports, rotation = after(*FENCED)

    for step in (take_snapshot, copy_snapshot, restore_target, wait_for_restore, check_target, resume_writes):
        rotation = done(step, rotation, ports)

    assert deeds(ports) == [
        f"rds.request_snapshot {TEMPORARY}",
        f"rds.request_snapshot_copy {KEPT}",
        f"rds.request_restore {TARGET}",
        f"engine.raise_fence {TARGET}",
        f"engine.decide-release {TARGET}",
    ]
    assert rotation.synced_target().kms_key_arn == NEW_KEY
    assert writable(ports) == [TARGET]
    assert rotation.release is not None


@pytest.mark.parametrize("before", [FENCED, TAKEN, COPIED])
def test_a_lost_answer_is_found_out_and_nothing_made_twice(before: tuple[Step, ...]) -> None:
    ports, rotation = after(*before)
    step = {FENCED: take_snapshot, TAKEN: copy_snapshot, COPIED: restore_target}[before]
    call = {FENCED: "request_snapshot", TAKEN: "request_snapshot_copy", COPIED: "request_restore"}[before]
    ports.fail(f"rds.{call}", AwsUnavailable("lost answer"), when="after")

    with pytest.raises(AwsUnavailable):
        visit(step, rotation, ports)
    visit(step, rotation, ports)

    assert 1 == sum(one.startswith(f"rds.{call} ") for one in ports.calls)


@pytest.mark.parametrize("before", [FENCED, COPIED])
def test_the_journal_says_what_is_about_to_be_asked(before: tuple[Step, ...]) -> None:
    """Whatever becomes of the answer, a rollback knows what to look for."""
    ports, rotation = after(*before)
    ports.fail("rds.request_snapshot", AwsUnavailable("lost answer"), when="after")
    ports.fail("rds.request_restore", AwsUnavailable("lost answer"), when="after")

    with pytest.raises(AwsUnavailable):
        visit(take_snapshot if before is FENCED else restore_target, rotation, ports)

    assert ports.calls[0] == "ledger.record"
    written = ports.ledger.journal[ROTATION_ID].rotation.restored()
    assert written.temporary_snapshot == TEMPORARY
    assert (written.requested_at is None) == (before is FENCED)


def test_waits_while_rds_is_at_it() -> None:
    ports, rotation = after(*FENCED)
    rotation = visit(take_snapshot, rotation, ports)
    ports.rds.snapshots[TEMPORARY]["Status"] = "creating"

    rotation = visit(take_snapshot, rotation, ports)

    assert (stage(rotation), rotation.restored().look_again_seconds) == ("snapshot", 15)
    ports.clock.advance(3600)
    rotation = visit(take_snapshot, rotation, ports)
    assert rotation.restored().look_again_seconds == 120, "a day of looking often would fill the history"
    ports.rds.snapshots[TEMPORARY]["Status"] = "available"
    assert stage(visit(take_snapshot, rotation, ports)) == "copy"


def test_a_server_that_stands_still_for_its_snapshot_is_left_alone() -> None:
    """RDS suspends the storage of a single instance for a moment: that is no reason to go back."""
    ports, rotation = after(*FENCED)
    rotation = visit(take_snapshot, rotation, ports)
    ports.rds.snapshots[TEMPORARY]["Status"] = "creating"
    ports.source_server.reachable = False

    assert stage(visit(take_snapshot, rotation, ports)) == "snapshot"


def test_a_busy_instance_is_asked_for_its_snapshot_again() -> None:
    ports, rotation = after(*FENCED)
    rotation = visit(take_snapshot, rotation, ports)
    del ports.rds.snapshots[TEMPORARY]  # RDS refused: it was backing up
    rotation = visit(take_snapshot, rotation, ports)

    assert stage(visit(take_snapshot, rotation, ports)) == "copy"


def test_no_snapshot_is_taken_of_a_source_that_somebody_can_write_to() -> None:
    """What is written after it would be lost."""
    ports, rotation = after(*FENCED)
    ports.source_server.own.open["orders"] = True

    with pytest.raises(FenceBroken, match="orders accepts connections"):
        visit(take_snapshot, rotation, ports)

    assert {} == ports.rds.snapshots


@pytest.mark.parametrize(("before", "step", "name"), [(FENCED, take_snapshot, TEMPORARY), (TAKEN, copy_snapshot, KEPT)])
def test_a_snapshot_that_rds_has_given_up(before: tuple[Step, ...], step: Step, name: str) -> None:
    ports, rotation = after(*before)
    rotation = visit(step, rotation, ports)
    ports.rds.snapshots[name]["Status"] = "failed"

    with pytest.raises(SnapshotFailed, match=name):
        visit(step, rotation, ports)


def test_a_copy_under_another_key_is_not_restored() -> None:
    ports, rotation = after(*TAKEN)
    rotation = visit(copy_snapshot, rotation, ports)
    ports.rds.snapshots[KEPT]["KmsKeyId"] = OLD_KEY

    with pytest.raises(SnapshotFailed, match=OLD_KEY):
        visit(copy_snapshot, rotation, ports)


def test_a_strangers_database_of_that_name() -> None:
    ports, rotation = after(*COPIED)
    ports.rds.add(TARGET, key_arn=OLD_KEY)

    with pytest.raises(NameTaken):
        visit(restore_target, rotation, ports)


@pytest.mark.parametrize("step", [take_snapshot, copy_snapshot, restore_target, wait_for_restore, check_target])
def test_a_step_that_comes_too_early_does_nothing(step: Step) -> None:
    ports, rotation = prepared()

    with pytest.raises(StateIncomplete):
        visit(step, rotation, ports)

    assert deeds(ports) == []


@pytest.mark.parametrize(
    ("facts", "error"),
    [
        ({"status": "restore-error"}, RestoreFailed),
        ({"status": "incompatible-parameters"}, RestoreFailed),
        ({"key": OLD_KEY}, WrongKey),
        ({"key": None}, WrongKey),
    ],
)
def test_a_target_that_will_never_do(facts: dict[str, Any], error: type[Exception]) -> None:
    ports, rotation = after(*REQUESTED)
    ports.rds.finish_restore(TARGET)
    if "key" in facts:
        facts = {"database": ports.rds.instances[TARGET].database.having(kms_key_arn=facts["key"])}
    ports.rds.alter(TARGET, **facts)

    with pytest.raises(error):
        visit(wait_for_restore, rotation, ports)


def test_settings_that_a_restore_does_not_take_are_asked_for_and_waited_for() -> None:
    ports, rotation = after(*REQUESTED)
    ports.rds.finish_restore(TARGET)
    ports.rds.differences = {"enhanced monitoring": (60, 0)}

    rotation = visit(wait_for_restore, rotation, ports)

    assert ("the settings enhanced monitoring",) == rotation.restored().waiting_for
    assert deeds(ports) == ["rds.request_setting_repair enhanced monitoring"]
    assert stage(visit(wait_for_restore, rotation, ports)) == "done"


def test_a_setting_that_cannot_be_repaired_ends_it() -> None:
    ports, rotation = after(*REQUESTED)
    ports.rds.finish_restore(TARGET)
    ports.rds.differences, ports.rds.unrepairable = {"subnet group": ("a", "b")}, ["subnet group"]

    with pytest.raises(SettingsNotCarried, match="subnet group"):
        visit(wait_for_restore, rotation, ports)


def test_a_target_that_is_not_there_or_does_not_answer_is_waited_for() -> None:
    ports, rotation = after(*REQUESTED)
    assert "it is creating" in visit(wait_for_restore, rotation, ports).restored().waiting_for[0]
    ports.rds.finish_restore(TARGET)
    ports.target_server.reachable = False

    rotation = visit(wait_for_restore, rotation, ports)

    assert (f"{TARGET} to answer",) == rotation.restored().waiting_for
    assert stage(rotation) == "restore"


def test_a_target_that_lets_applications_in_is_not_taken() -> None:
    """The fence is in the data; where it is not on the target, this is not the data of the fenced source."""
    ports, rotation = after(*REQUESTED)
    ports.rds.finish_restore(TARGET)
    ports.target_server.own.open["appeared"] = True

    with pytest.raises(FenceBroken, match="appeared was never fenced"):
        visit(wait_for_restore, rotation, ports)


def test_a_target_without_the_marker_is_not_the_continuation() -> None:
    ports, rotation = after(*RESTORED)
    ports.target_server.own.markers.clear()

    with pytest.raises(TargetMismatch, match="marker"):
        visit(check_target, rotation, ports)


@pytest.mark.parametrize(
    ("before", "step"),
    [
        (FENCED, take_snapshot),
        (TAKEN, copy_snapshot),
        (COPIED, restore_target),
        (REQUESTED, wait_for_restore),
    ],
)
def test_the_budget_ends_the_outage_whatever_rds_is_at(before: tuple[Step, ...], step: Step) -> None:
    ports, rotation = after(*before)
    ports.clock.advance(BUDGET)

    with pytest.raises(BudgetSpent, match="14400 s"):
        visit(step, rotation, ports)

    assert deeds(ports) == []
    back(failed(rotation, "BudgetSpent"), ports)
    assert writable(ports) == [SOURCE]


# -- the way back ------------------------------------------------------------------------------------------------------


def back(rotation: Rotation, ports: FakePorts) -> Rotation:
    return visit(rollback, rotation, ports, takes_over=True)


@pytest.mark.parametrize("point", [FENCED, TAKEN, COPIED, REQUESTED, RESTORED], ids=["f", "t", "c", "q", "r"])
def test_the_source_is_opened_at_once_where_no_target_was_checked(point: tuple[Step, ...]) -> None:
    """Nobody can have released it, nor ever will: RDS may go on for hours, and applications need not wait for that."""
    ports, rotation = after(*point)
    if point is RESTORED:
        ports.target_server.reachable = False

    rotation = back(failed(rotation, "SnapshotFailed"), ports)

    assert rotation.undo is not None
    assert rotation.undo.outcome == "rolled-back"
    assert writable(ports) == [SOURCE]
    assert ports.source_server.own.decisions == {ROTATION_ID: "rollback"}


def test_a_function_that_may_still_be_at_work_is_waited_for() -> None:
    """It could ask RDS for a target that nobody would look for any more."""
    ports, rotation = after(*COPIED)

    rotation = back(failed(rotation), ports)
    assert rotation.undo is not None
    assert rotation.undo.outcome == "undecided"
    assert writable(ports) == []
    ports.clock.advance(SLOWEST_FUNCTION.total_seconds())
    rotation = back(rotation, ports)

    assert rotation.undo is not None
    assert rotation.undo.outcome == "rolled-back"


def test_a_checked_target_is_decided_first() -> None:
    """ResumeWrites may have opened it; if not, the row keeps a late one from doing so."""
    ports, rotation = after(*CHECKED)

    rolled = back(failed(rotation, "ConnectivityChanged"), ports)

    assert rolled.undo is not None
    assert rolled.undo.outcome == "rolled-back"
    assert [f"engine.decide-rollback {TARGET}", f"engine.decide-rollback {SOURCE}"] == deeds(ports)
    assert writable(ports) == [SOURCE]
    with pytest.raises(DecisionLost):
        resume_writes(rotation, ports)
    with pytest.raises(EpochSuperseded):
        visit(resume_writes, rotation, ports)


def test_a_checked_target_that_does_not_answer_keeps_both_sides_closed() -> None:
    ports, rotation = after(*CHECKED)
    ports.target_server.reachable = False

    rotation = back(failed(rotation, "DatabaseUnreachable"), ports)

    assert rotation.undo is not None
    assert rotation.undo.outcome == "undecided"
    assert writable(ports) == []


def test_a_released_target_goes_forward() -> None:
    """The answer of ResumeWrites got lost before it could write the release down."""
    ports, rotation = after(*CHECKED)
    ports.fail("ledger.record", AwsUnavailable("lost"))
    with pytest.raises(AwsUnavailable):
        resume_writes(rotation, ports)

    rotation = back(failed(rotation, "AwsUnavailable"), ports)
    ports.clock.advance(SLOWEST_FUNCTION.total_seconds())
    rotation = back(rotation, ports)

    assert rotation.undo is not None
    assert rotation.undo.outcome == "committed"
    assert writable(ports) == [TARGET]


@pytest.mark.parametrize("gone", ["deleted", "deleting", "replaced"])
def test_a_checked_target_that_is_no_longer_there(gone: str) -> None:
    ports, rotation = after(*CHECKED)
    if gone == "deleting":
        ports.rds.alter(TARGET, status="deleting")
    else:
        del ports.rds.instances[TARGET]
    if gone == "replaced":
        made = ports.rds.add(TARGET, key_arn=OLD_KEY)
        ports.rds.alter(TARGET, database=made.database.having(resource_id="db-ANOTHER"))

    rotation = back(failed(rotation, "ConnectivityChanged"), ports)

    assert rotation.undo is not None
    assert rotation.undo.outcome == ("rolled-back" if gone == "deleted" else "undecided")


@pytest.mark.parametrize("point", [FENCED, TAKEN, COPIED, REQUESTED, CHECKED], ids=["f", "t", "c", "q", "k"])
def test_what_was_made_goes_and_nothing_else(point: tuple[Step, ...]) -> None:
    ports, rotation = after(*point)
    ports.rds.snapshots["orders-rot-00000000-kept"] = {**any_snapshot(), "TagList": []}
    rotation = back(failed(rotation, "BudgetSpent"), ports)

    by_snapshot.cleaned_up(ports, rotation)

    assert ["orders-rot-00000000-kept"] == list(ports.rds.snapshots)
    assert [SOURCE] == list(ports.rds.instances)
    assert CONTROL_DATABASE not in ports.source_server.own.open
    assert {} == ports.ledger.locks
    assert {} == ports.recovery.at


def any_snapshot() -> dict[str, Any]:
    return {"DBSnapshotIdentifier": "x", "Status": "available", "KmsKeyId": OLD_KEY}


def test_a_snapshot_of_that_name_that_is_not_ours_stays() -> None:
    ports, rotation = after(*TAKEN)
    ports.rds.snapshots[KEPT] = {**any_snapshot(), "TagList": []}
    rotation = back(failed(rotation, "NameTaken"), ports)

    for _ in range(5):
        rotation = visit(clean_up, rotation, ports)

    assert [KEPT] == list(ports.rds.snapshots)


def test_the_last_copy_of_a_source_that_somebody_has_deleted_is_kept() -> None:
    ports, rotation = after(*REQUESTED)
    rotation = back(failed(rotation, "BudgetSpent"), ports)
    del ports.rds.instances[SOURCE]

    rotation = visit(clean_up, rotation, ports)

    assert {TEMPORARY, KEPT} <= set(ports.rds.snapshots)
    assert TARGET in ports.rds.instances
    assert rotation.undo is not None
    assert 3 == sum("may be the last copy" in one for one in rotation.undo.leftovers)


def test_a_snapshot_that_rds_is_still_making_is_waited_for() -> None:
    ports, rotation = after(*COPIED)
    rotation = back(failed(rotation, "BudgetSpent"), ports)
    ports.fail("rds.request_snapshot_deletion", AwsRefused("it is being copied"))

    rotation = visit(clean_up, rotation, ports)

    assert rotation.undo is not None
    assert not rotation.undo.clean
    assert CONTROL_DATABASE not in ports.source_server.own.open, "that need not wait"


# -- afterwards --------------------------------------------------------------------------------------------------------


def test_decommission_keeps_the_copy_that_the_target_was_made_of() -> None:
    """The source was fenced ever since: another snapshot of it would say the same."""
    ports, rotation = after(*CHECKED)
    ports.dns.records["Z1", "db.example.com"] = (ports.rds.instances[TARGET].database.address, 5)
    rotation = visit(resume_writes, rotation, ports)
    rotation = past_grace(ports, rotation)

    by_snapshot.decommissioned(ports, rotation)

    assert [KEPT] == list(ports.rds.snapshots)
    assert not [call for call in ports.calls if call.startswith(("rds.request_snapshot ", "rds.request_snapshot_copy"))]
    assert [TARGET] == list(ports.rds.instances)


def test_a_rotation_that_was_taken_over_asks_rds_for_nothing() -> None:
    ports, rotation = after(*COPIED)
    ports.ledger.take_over(rotation, EXECUTION)
    ports.calls.clear()

    with pytest.raises(EpochSuperseded):
        restore_target(rotation, ports)

    assert [] == ports.calls
