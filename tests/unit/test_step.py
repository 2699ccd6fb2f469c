"""What every Task does around its decision."""

import inspect
from typing import Any

import pytest
from aws_lambda_powertools.utilities.typing import LambdaContext

from lambdas.check_target.handler import handler as check_target
from lambdas.notify import handler as notify
from lambdas.pause_application_writes.handler import handler as pause_application_writes
from lambdas.rollback import handler as rollback
from lambdas.rotation import reach, step
from lambdas.rotation.errors import AwsUnavailable, DatabaseUnreachable, EpochSuperseded
from lambdas.rotation.ports import Ports
from lambdas.rotation.state import Rotation
from tests.fakes import FakePorts, failed, fenced_rotation


class Context(LambdaContext):
    def __init__(self) -> None:
        self._function_name = "promote"
        self._memory_limit_in_mb = 512
        self._invoked_function_arn = "arn:aws:lambda:eu-central-1:123456789012:function:promote"
        self._aws_request_id = "request"


@pytest.fixture
def ports(monkeypatch: pytest.MonkeyPatch) -> FakePorts:
    monkeypatch.setenv("POWERTOOLS_TRACE_DISABLED", "true")
    step.metrics.clear_metrics()  # what other tests have measured
    monkeypatch.setattr(step.metrics.provider, "namespace", "rotation")
    fake = FakePorts()
    monkeypatch.setattr(step, "aws_ports", lambda: fake)
    return fake


def forbidden(rotation: Rotation, ports: Ports) -> Rotation:
    raise AssertionError("a rehearsal must not act")


def renamed(rotation: Rotation, ports: Ports) -> Rotation:
    return rotation.having(target_identifier="renamed")


def called(handler: Any, event: dict[str, Any]) -> dict[str, Any]:
    answer: dict[str, Any] = handler(event, Context())
    return answer


def test_the_journal_is_read_before_and_written_after(ports: FakePorts) -> None:
    """A retry arrives with an older state; and what a step did must be known before the state machine hears of it."""
    rotation = fenced_rotation(ports)
    stale = rotation.having(fence=None).to_state()

    answer = called(step.step(renamed), stale)

    assert answer["fence"] is not None, "from the journal, not from the state that was passed"
    assert "renamed" == ports.ledger.current(rotation).target_identifier


def test_people_hear_of_a_rollback_that_failed_after_it_had_raised_the_epoch(ports: FakePorts) -> None:
    """The state machine passes the state of before. A stranger with that state is told nothing."""
    before = failed(fenced_rotation(ports))
    ports.ledger.take_over(before, before.execution_arn)

    called(notify.handler, before.to_state())

    assert ["RotationUndecided"] == [moment for moment, _, _ in ports.notifier.sent]
    ports.ledger.take_over(before.having(epoch=2), "arn:execution:another")
    with pytest.raises(EpochSuperseded):
        called(notify.handler, before.to_state())


def test_a_superseded_function_does_not_act(ports: FakePorts) -> None:
    rotation = fenced_rotation(ports)
    ports.ledger.take_over(rotation, rotation.execution_arn)

    with pytest.raises(EpochSuperseded):
        called(step.step(forbidden), rotation.to_state())


def test_a_rehearsal_probes_and_neither_acts_nor_writes(ports: FakePorts) -> None:
    rotation = fenced_rotation(ports)
    ports.calls.clear()

    answer = called(
        step.step(forbidden, reaches=(reach.rds, reach.target_server)), {"prove_reach": rotation.to_state()}
    )

    assert {"reached": ["rds", "target_server"]} == answer
    assert [] == ports.calls, "reads only"


def test_a_rehearsal_fails_as_the_real_call_would(ports: FakePorts) -> None:
    """Before the fence, where it costs nothing."""
    rotation = fenced_rotation(ports)
    ports.source_server.reachable = False

    with pytest.raises(DatabaseUnreachable):
        called(step.step(forbidden, reaches=(reach.source_server,)), {"prove_reach": rotation.to_state()})


@pytest.mark.parametrize("handler", [pause_application_writes, check_target])
def test_who_asks_rds_which_instance_writes_proves_that_it_can(ports: FakePorts, handler: Any) -> None:
    rotation = fenced_rotation(ports)

    assert "writer" in called(handler, {"prove_reach": rotation.to_state()})["reached"]


def test_who_may_have_to_page_proves_before_the_fence_that_it_reaches_the_topic(ports: FakePorts) -> None:
    rotation = fenced_rotation(ports)
    ports.fail("notifier.describe_topic", AwsUnavailable("sns:GetTopicAttributes: ConnectTimeoutError"))

    with pytest.raises(AwsUnavailable, match="sns"):
        called(rollback.handler, {"prove_reach": rotation.to_state()})
    assert "topic" in called(rollback.handler, {"prove_reach": rotation.to_state()})["reached"]


def test_every_probe_changes_nothing(ports: FakePorts) -> None:
    rotation = fenced_rotation(ports)
    assert rotation.connectivity is not None
    record = rotation.connectivity.record
    assert record is not None
    ports.dns.records[record.zone_id, record.name] = (record.value, record.lowered_ttl_seconds)
    ports.calls.clear()
    probes = [probe for _, probe in inspect.getmembers(reach, inspect.isfunction) if probe.__module__ == reach.__name__]

    for probe in probes:
        probe(rotation, ports)

    assert len(probes) >= 6
    assert [] == ports.calls
