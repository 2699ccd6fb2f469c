"""What every Task does around its decision: read the state, read the journal, act, write the journal."""

import warnings
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

from aws_lambda_powertools import Logger, Metrics, Tracer
from aws_lambda_powertools.metrics import MetricUnit
from aws_lambda_powertools.utilities.typing import LambdaContext

from lambdas.rotation.ports import AwsPorts, Ports, Step
from lambdas.rotation.reach import Probe
from lambdas.rotation.state import Rotation

# Most steps have nothing to measure, and need not say so on every invocation.
warnings.filterwarnings("ignore", message="No application metrics to publish")

logger = Logger()
metrics = Metrics()
tracer = Tracer(patch_modules=["botocore"])

State = dict[str, Any]

REHEARSAL = "prove_reach"
"""Key of the event by which the state machine asks a function, before the fence, whether it reaches what it needs."""


@cache
def aws_ports() -> Ports:
    """Made once per process and kept between invocations."""
    return AwsPorts()


def step(
    act: Step, *, takes_over: bool = False, reaches: Sequence[Probe] = ()
) -> Callable[[State, LambdaContext], State]:
    """The Lambda handler of a step.

    The journal is the truth, the state that was passed is only the way to it: a retry, a Catch and a recovery all
    arrive with a state older than what the step before them wrote. So the rotation is read back first, and what the
    step returns is written before the state machine hears of it. A function whose rotation was taken over gets no
    further than that first line (EpochSuperseded), and its late writes fail the same way.

    Before StartRotation has found the database there is no journal, and nothing is read or written.

    Args:
        takes_over: this step raises the epoch itself (Rollback), or follows one that did and failed (Notify), so it may
            arrive with the epoch before; it is let in when its execution still holds the rotation.
        reaches: what ``{"prove_reach": <rotation>}`` tries instead of acting. Nothing is changed or written down.
    """

    @logger.inject_lambda_context(clear_state=True)
    @metrics.log_metrics
    @tracer.capture_lambda_handler(capture_response=False)  # the response is the state: it does not belong into traces
    def handler(event: State, context: LambdaContext) -> State:
        ports = aws_ports()
        rehearsal = REHEARSAL in event
        passed = Rotation.from_state(event[REHEARSAL] if rehearsal else event)
        rotation = passed if passed.plan is None else ports.ledger.current(passed, takes_over=takes_over)
        if passed.failure is not None:
            rotation = rotation.having(failure=passed.failure)
        logger.append_keys(rotation_id=rotation.rotation_id, source=_source(rotation))
        if rehearsal:
            for probe in reaches:
                probe(rotation, ports)
            return {"reached": [probe.__name__ for probe in reaches]}
        result = act(rotation, ports)
        if result.plan is not None:
            ports.ledger.record(result)
        return result.to_state()

    return handler


def measure(rotation: Rotation, name: str, unit: MetricUnit, value: float, **dimensions: str) -> None:
    """Emit a metric at the end of the invocation, by strategy and engine, and by what else is given."""
    plan, source = rotation.planned()
    for dimension, of in ({"strategy": plan.strategy, "engine": source.engine} | dimensions).items():
        metrics.add_dimension(name=dimension, value=of)
    metrics.add_metric(name=name, unit=unit, value=value)


def _source(rotation: Rotation) -> str | None:
    if rotation.source is not None:
        return rotation.source.identifier
    named = rotation.request.get("DBInstanceIdentifier")
    return named if isinstance(named, str) else None
