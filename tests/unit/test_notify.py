"""People and the fleet must hear of every end of a rotation, once, and learn no secret."""

import json
from typing import Any

import pytest

from lambdas.notify.handler import notify
from lambdas.rotation.errors import AwsUnavailable
from lambdas.rotation.notification import message_of
from lambdas.rotation.policy import TASK_TOKEN
from lambdas.rotation.state import (
    Decommission,
    Deployment,
    Failure,
    KeyUser,
    Moment,
    NotTaken,
    Release,
    Retirement,
    Rotation,
    Undo,
)
from lambdas.rotation.step import metrics
from tests.fakes import EXECUTION, RECOVERY, SOURCE, FakePorts, failed, journaled, planned_rotation, switched_rotation

TOKEN = {TASK_TOKEN: "fleet"}


def cut_over(ports: FakePorts) -> Rotation:
    rotation = switched_rotation(ports)
    release = Release(released_at=ports.clock.now(), write_outage_seconds=2.5)
    return journaled(ports, rotation.having(release=release, request=rotation.request | TOKEN))


def completed(ports: FakePorts) -> Rotation:
    users = (KeyUser(kind="database", identifier="invoices"),)
    retirement = Retirement(
        verdict="kept", reason="it is in use", users=users, started_at=ports.clock.now(), complete=True
    )
    return journaled(ports, cut_over(ports).having(retirement=retirement))


def rolled_back(ports: FakePorts) -> Rotation:
    now = ports.clock.now()
    undo = Undo(
        outcome="rolled-back", started_at=now, not_before=now, leftovers=("aws rds …",), clean=True, key_discarded=True
    )
    return journaled(ports, failed(cut_over(ports).having(release=None, undo=undo), "DrainIncomplete"))


def refused(ports: FakePorts) -> Rotation:
    now = ports.clock.now()
    undo = Undo(outcome="rolled-back", started_at=now, not_before=now, clean=True, key_discarded=True)
    rotation = failed(planned_rotation(ports), "PreflightRefused").having(undo=undo)
    return journaled(ports, rotation.having(request=rotation.request | TOKEN))


def dry_run(ports: FakePorts) -> Rotation:
    rotation = planned_rotation(ports, dry_run=True)
    return journaled(ports, rotation.having(request=rotation.request | TOKEN))


def attention(ports: FakePorts) -> Rotation:
    return journaled(ports, failed(cut_over(ports), "VerificationFailed"))


def half_the_way_back(ports: FakePorts) -> Rotation:
    """RestoreConnectivity, CleanUp or DiscardNewKey failed: the source is open, and not everything is as it was."""
    now = ports.clock.now()
    undo = Undo(outcome="rolled-back", started_at=now, not_before=now)
    return journaled(ports, failed(cut_over(ports).having(release=None, undo=undo), "AccessRefused"))


def no_way_back(ports: FakePorts) -> Rotation:
    """Rollback failed before it had written anything down; the source is fenced."""
    return journaled(ports, failed(cut_over(ports).having(release=None), "States.Timeout"))


def undecided(ports: FakePorts) -> Rotation:
    now = ports.clock.now()
    undo = Undo(outcome="undecided", started_at=now, not_before=now, reason="the target does not answer")
    return journaled(ports, no_way_back(ports).having(undo=undo))


def decided(ports: FakePorts) -> Rotation:
    """RestoreConnectivity failed: the source is to serve, and nobody has opened it."""
    now = ports.clock.now()
    return journaled(ports, no_way_back(ports).having(undo=Undo(outcome="decided", started_at=now, not_before=now)))


def open_all_the_time(ports: FakePorts) -> Rotation:
    """The way back failed before there was a fence."""
    return journaled(ports, undecided(ports).having(fence=None))


def not_yet_failed(ports: FakePorts) -> Rotation:
    """As the way back leaves it whose own execution is at an end."""
    return journaled(ports, undecided(ports).having(failure=None))


def while_rds_switches(ports: FakePorts) -> Rotation:
    """Nothing is fenced by us; RDS was asked to switch over, and has not said what became of it."""
    now = ports.clock.now()
    asked = Deployment(name="orders-rot-1", members=(), requested_at=now, switchover_requested_at=now)
    return journaled(ports, undecided(ports).having(fence=None, deployment=asked))


@pytest.mark.parametrize(
    ("make", "moment", "outcome", "frees"),
    [
        (cut_over, Moment.CUT_OVER, None, False),
        (completed, Moment.COMPLETED, "rotated", True),
        (rolled_back, Moment.ROLLED_BACK, "rolled-back", True),
        (refused, Moment.REFUSED, "refused", True),
        (dry_run, Moment.PLANNED, "planned", True),
        (attention, Moment.ATTENTION, None, False),
        (half_the_way_back, Moment.ATTENTION, None, False),
        (no_way_back, Moment.UNDECIDED, None, False),
        (undecided, Moment.UNDECIDED, None, False),
        (decided, Moment.UNDECIDED, None, False),
        (not_yet_failed, Moment.UNDECIDED, None, False),
        (while_rds_switches, Moment.UNDECIDED, None, False),
        (open_all_the_time, Moment.ATTENTION, None, False),
    ],
)
def test_each_moment_is_told_and_ends_what_it_ends(make: Any, moment: Moment, outcome: str | None, frees: bool) -> None:
    ports = FakePorts()
    rotation = make(ports)

    notify(rotation, ports)

    assert [moment.value] == [sent[0] for sent in ports.notifier.sent]
    assert outcome == ports.ledger.journal[rotation.rotation_id].outcome
    assert frees == (SOURCE not in ports.ledger.locks)
    assert ["fleet"] == [token for token, _, _ in ports.workflow.answers]


def test_who_cannot_write_hears_what_it_waits_for_and_that_nobody_may_be_looking_any_more() -> None:
    """A recovery that failed is not recovered again: its message must not tell people to wait for one."""
    ports = FakePorts()

    notify(undecided(ports), ports)

    message = ports.notifier.sent[0][2]
    assert "the target does not answer" == message["waiting_for"]
    assert "If `execution` has ended" in message["what_to_do"]
    assert "delete neither" in message["what_to_do"]  # the target may have been released, with the answer lost


def test_where_only_the_old_key_is_left_nobody_is_told_to_start_another_rotation() -> None:
    ports = FakePorts()
    progress = Decommission(stage="done", started_at=ports.clock.now(), complete=True)

    notify(failed(cut_over(ports).having(decommission=progress), "RetirementRefused"), ports)

    [(moment, _, message)] = ports.notifier.sent
    assert "AttentionNeeded" == moment
    assert '{"Recover": "<execution>"}' in message["what_to_do"]
    assert "another write outage" in message["what_to_do"]


def test_while_rds_switches_over_nobody_is_told_to_delete_a_side() -> None:
    """The target could be production by then."""
    ports = FakePorts()

    notify(while_rds_switches(ports), ports)

    [(_, subject, message)] = ports.notifier.sent
    assert subject.endswith("UNDECIDED: RDS has not said which side serves")
    assert "Delete neither side by hand" in message["what_to_do"]


def test_a_recovery_that_could_not_begin_has_not_refused_anything() -> None:
    """What it was for may keep everybody from writing."""
    ports = FakePorts()
    begun = Rotation(schema=1, execution_arn=RECOVERY, request={"Recover": EXECUTION})

    notify(failed(begun, "AccessRefused"), ports)

    [(moment, subject, message)] = ports.notifier.sent
    assert ("AttentionNeeded", EXECUTION) == (moment, message["recovers"])
    assert EXECUTION in subject
    assert "start the rotation of that database again" in message["what_to_do"]


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (cut_over, ""),
        (completed, ""),
        (dry_run, ""),
        (rolled_back, "DrainIncomplete"),
        (attention, "VerificationFailed"),
    ],
)
def test_the_fleet_hears_success_or_the_errors_name(make: Any, error: str) -> None:
    ports = FakePorts()

    notify(make(ports), ports)

    ((_, output, told),) = ports.workflow.answers
    assert (error, not error) == (told, output is not None)


@pytest.mark.parametrize("make", [cut_over, completed])
@pytest.mark.parametrize(("recovery", "error"), [(False, "RotationTakenUp"), (True, "")])
def test_an_older_rotation_that_a_fleets_start_has_finished_is_not_this_ones(
    make: Any, recovery: bool, error: str
) -> None:
    """Else the report says that a database was rotated, whose rotation of this quarter nobody has begun."""
    ports = FakePorts()
    execution = EXECUTION.replace(":first", ":second")
    taken = make(ports).having(execution_arn=execution, recovery=recovery)

    notify(journaled(ports, taken), ports)

    ((_, output, told),) = ports.workflow.answers
    assert (error, not error) == (told, output is not None)


def test_the_fleet_is_answered_once_and_each_moment_told_once() -> None:
    """The cutover answers; weeks later, at the end, nobody waits any more."""
    ports = FakePorts()
    rotation = notify(notify(cut_over(ports), ports), ports)
    retirement = Retirement(verdict="kept", reason="r", started_at=ports.clock.now(), complete=True)

    notify(rotation.having(retirement=retirement), ports)

    assert 1 == len(ports.workflow.answers)
    assert [Moment.CUT_OVER.value, Moment.COMPLETED.value] == [sent[0] for sent in ports.notifier.sent]


def test_a_retry_does_not_tell_again_what_was_told() -> None:
    ports = FakePorts()
    rotation = cut_over(ports)
    ports.fail("workflow.answer", AwsUnavailable("lost answer"))
    with pytest.raises(AwsUnavailable):
        notify(rotation, ports)

    notify(ports.ledger.current(rotation), ports)

    assert 1 == len(ports.notifier.sent)
    assert 1 == len(ports.workflow.answers)


def test_a_retry_does_not_answer_again_what_was_answered() -> None:
    ports = FakePorts()
    rotation = completed(ports)
    ports.fail("ledger.close", AwsUnavailable("lost answer"))
    with pytest.raises(AwsUnavailable):
        notify(rotation, ports)

    notify(ports.ledger.current(rotation), ports)

    assert 1 == len(ports.workflow.answers)
    assert "rotated" == ports.ledger.journal[rotation.rotation_id].outcome


@pytest.mark.parametrize(
    ("make", "measured"),
    [(cut_over, set()), (completed, {"RotationCompleted"}), (undecided, {"RotationUndecided"}), (attention, set())],
)
def test_alarms_hear_of_an_end_and_of_who_cannot_write(make: Any, measured: set[str]) -> None:
    ports = FakePorts()

    notify(make(ports), ports)

    assert measured == set(metrics.metric_set)


def test_a_failure_that_nobody_named_is_known_by_its_moment() -> None:
    ports = FakePorts()

    notify(rolled_back(ports).having(failure=None), ports)

    assert [("fleet", None, "RotationRolledBack")] == ports.workflow.answers


def test_the_fleet_hears_no_more_of_a_failure_than_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of hundreds of databases: its state has 256 KB, and what is too much for it no Catch sees."""
    ports, causes = FakePorts(), []
    answer = ports.workflow.answer

    def heard(token: str, output: Any, error: str = "", cause: str = "") -> None:
        causes.append(cause)
        answer(token, output, error, cause)

    monkeypatch.setattr(ports.workflow, "answer", heard)
    said = json.dumps(
        {"errorMessage": 'Größe "of"\n' + "x" * 5000, "errorType": "VerificationFailed", "stackTrace": []}
    )
    rotation = attention(ports).having(failure=Failure(Error="VerificationFailed", Cause=said))

    notify(journaled(ports, rotation), ports)

    assert ["Gr??e 'of' " + "x" * 69] == causes
    assert 82 == len(json.dumps(causes[0])), "nothing in it takes more space in JSON"


def test_a_start_that_was_refused_has_no_ledger_entry_and_frees_nobodys_lock() -> None:
    """RotationInProgress: the lock is another rotation's."""
    ports = FakePorts()
    planned_rotation(ports)
    request = {"DBInstanceIdentifier": SOURCE} | TOKEN
    failure = Failure(Error="RotationInProgress", Cause="wait")
    rotation = Rotation(schema=1, execution_arn=EXECUTION, request=request, failure=failure)

    notify(rotation, ports)

    assert SOURCE in ports.ledger.locks
    assert [("fleet", None, "RotationInProgress")] == ports.workflow.answers
    assert SOURCE in ports.notifier.sent[0][1]


def test_the_other_user_of_the_old_key_is_named() -> None:
    ports = FakePorts()

    notify(completed(ports), ports)

    (_, _, message) = ports.notifier.sent[0]
    assert [{"kind": "database", "identifier": "invoices"}] == message["users"]
    assert message["old_key"]["verdict"] == "kept"


def test_auto_tells_what_it_took_and_why_not_another() -> None:
    """Who asked for auto would otherwise not know whose proof they have."""
    ports = FakePorts()
    rotation = cut_over(ports)
    plan, _ = rotation.planned()
    not_taken = (NotTaken(strategy="read-replica", reasons=("LoginRefused: m — a",)),)
    rotation = journaled(ports, rotation.having(plan=plan.having(strategy="blue-green", not_taken=not_taken)))

    notify(rotation, ports)

    (_, _, message) = ports.notifier.sent[0]
    assert message["strategy"] == "blue-green"
    assert message["not_taken"] == [{"strategy": "read-replica", "reasons": ["LoginRefused: m — a"]}]


def test_what_could_not_be_undone_comes_with_the_commands() -> None:
    ports = FakePorts()

    notify(rolled_back(ports), ports)

    assert ["aws rds …"] == ports.notifier.sent[0][2]["leftovers"]


@pytest.mark.parametrize("make", [cut_over, completed, rolled_back, refused, dry_run, attention])
@pytest.mark.parametrize("moment", list(Moment))
def test_one_schema_for_every_moment(make: Any, moment: Moment) -> None:
    """Programs read these; a field that comes and goes breaks them."""
    ports = FakePorts()

    message = json.loads(json.dumps(message_of(make(ports), moment)))

    assert set(message) >= {
        "schema",
        "moment",
        "rotation_id",
        "strategy",
        "not_taken",
        "source",
        "target",
        "old_key",
        "new_key",
        "write_outage_seconds",
        "failure",
        "users",
        "leftovers",
        "what_to_do",
        "evidence",
    }
    assert "fleet" not in json.dumps(message)
