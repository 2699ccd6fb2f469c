"""ResumeWrites is the commit point: it happens entirely or not at all, and only once."""

from typing import Literal

import pytest

from lambdas.resume_writes.handler import resume_writes
from lambdas.rotation.errors import AwsUnavailable, DatabaseUnreachable, DecisionLost, StateIncomplete
from lambdas.rotation.step import metrics
from tests.fakes import ROTATION_ID, TARGET, FakeEngine, FakePorts, promoted_rotation, switched_rotation, visit


def test_decision_and_opening_then_journal_then_schedule() -> None:
    ports = FakePorts()
    rotation = switched_rotation(ports)
    ports.clock.advance(42)

    rotation = resume_writes(rotation, ports)

    assert [f"engine.decide-release {TARGET}", "ledger.record", "recovery.remove"] == ports.calls
    assert rotation.release is not None
    assert 42 == rotation.release.write_outage_seconds
    assert ports.target_server.accepts_applications()
    assert not ports.source_server.accepts_applications()


@pytest.mark.parametrize(("budget", "over"), [(30, 12), (42, 0), (14_400, 0)])
def test_an_outage_is_measured_by_its_own_budget(budget: int, over: float) -> None:
    """By the stack's, a budget of hours would always ring, and one of seconds never."""
    ports = FakePorts()
    rotation = switched_rotation(ports, write_outage_budget_seconds=budget)
    ports.clock.advance(42)

    resume_writes(rotation, ports)

    assert [42] == metrics.metric_set["WriteOutageSeconds"]["Value"]
    assert [over] == metrics.metric_set["WriteOutageOverBudgetSeconds"]["Value"]


def test_saved_limits_come_back() -> None:
    ports = FakePorts()
    ports.source_server.own.limit["postgres"] = 17

    resume_writes(switched_rotation(ports), ports)

    assert 17 == ports.target_server.own.limit["postgres"]


@pytest.mark.parametrize("call", ["engine.decide-release", "recovery.remove"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_dies_anywhere_and_the_retry_finishes(call: str, when: Literal["before", "after"]) -> None:
    ports = FakePorts()
    rotation = switched_rotation(ports)
    ports.fail(call, DatabaseUnreachable("cut") if "engine" in call else AwsUnavailable("cut"), when=when)
    with pytest.raises((DatabaseUnreachable, AwsUnavailable)):
        visit(resume_writes, rotation, ports)

    rotation = visit(resume_writes, rotation, ports)

    assert rotation.release is not None
    assert "release" == ports.target_server.own.decisions[ROTATION_ID]
    assert ports.target_server.accepts_applications()
    assert ROTATION_ID not in ports.recovery.at


def test_the_first_release_is_the_one_that_counts() -> None:
    ports = FakePorts()
    first = visit(resume_writes, switched_rotation(ports), ports)
    ports.clock.advance(60)

    assert first.release == visit(resume_writes, first, ports).release


def test_opens_nothing_when_a_rollback_was_decided() -> None:
    ports = FakePorts()
    rotation = switched_rotation(ports)
    FakeEngine(ports.target_server).decide(ROTATION_ID, "rollback", ())

    with pytest.raises(DecisionLost, match="'rollback' stands"):
        resume_writes(rotation, ports)

    assert not ports.target_server.accepts_applications()
    assert ROTATION_ID in ports.recovery.at


def test_refuses_a_target_that_was_not_checked() -> None:
    ports = FakePorts()

    with pytest.raises(StateIncomplete):
        resume_writes(promoted_rotation(ports), ports)
