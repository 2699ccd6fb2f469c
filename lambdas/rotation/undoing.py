"""What every way back begins with, whatever strategy it undoes: taking the rotation over, and telling people."""

from datetime import timedelta
from typing import Literal

from aws_lambda_powertools.metrics import MetricUnit

from lambdas.rotation import errors
from lambdas.rotation.errors import RotationError, Terminal
from lambdas.rotation.notification import message_of, subject_of
from lambdas.rotation.ports import Ports
from lambdas.rotation.state import Moment, Rotation, Undo
from lambdas.rotation.step import logger, measure

SLOWEST_FUNCTION = timedelta(seconds=75)
"""Longer than any function may run, so that none of a dead execution is alive after it; a test compares."""
PAGE_AFTER = timedelta(minutes=5)
SELDOM_SECONDS = 60


def taken_over(rotation: Rotation, ports: Ports) -> Rotation:
    """Raise the epoch, so that no function of before can write any more, and go on with what the journal says *then*.

    What such a function has already begun may go on until its timeout, unless it is known to have ended.
    """
    taken = ports.ledger.take_over(rotation, rotation.execution_arn).having(failure=rotation.failure)
    now = ports.clock.now()
    not_before = now if _has_ended(taken) else now + SLOWEST_FUNCTION
    undo = Undo(outcome="undecided", started_at=now, not_before=not_before)
    taken = taken.having(undo=undo)
    ports.ledger.record(taken)
    return taken


def _has_ended(rotation: Rotation) -> bool:
    """Whether the function that failed can do nothing any more that a rollback would not notice.

    An error of ours is the last thing that an attempt says, but a retryable one is said by the last of several, and an
    earlier one that nobody heard of may go on. Under the fence the decision row stops that, and each second more is a
    second of outage. Before it nobody is kept waiting. And once applications were being led to the target nothing stops
    a late write that leads them there again, nor a late request for a switchover.
    """
    seen, deployment = rotation.connectivity, rotation.deployment
    if rotation.failure is None or (seen is not None and seen.switch_requested_at is not None):
        return False
    if deployment is not None and deployment.switchover_requested_at is not None:
        return False
    # Nor does the decision row stop a late request that closes the source by its security groups.
    if rotation.isolation is not None:
        return False
    error = getattr(errors, rotation.failure.Error, None)
    return isinstance(error, type) and issubclass(error, Terminal if rotation.fence is None else RotationError)


def free_lock(rotation: Rotation, ports: Ports) -> None:
    """Unless another strategy may follow: a late attempt to undo the first one would free what the second one holds."""
    plan, _ = rotation.planned()
    if plan.fallback is None:
        ports.ledger.release_lock(rotation)


def ended_with(
    rotation: Rotation, outcome: Literal["undecided", "decided", "committed", "rolled-back"], reason: str
) -> Rotation:
    assert rotation.undo is not None
    return rotation.having(undo=rotation.undo.having(outcome=outcome, reason=reason))


def rolled_back(rotation: Rotation, reason: str, ports: Ports) -> Rotation:
    assert rotation.undo is not None
    rotation = rotation.having(undo=rotation.undo.having(ended_at=ports.clock.now()))
    if rotation.new_key is not None:
        measure(rotation, "RotationRolledBack", MetricUnit.Count, 1)
    return ended_with(rotation, "rolled-back", reason)


def paged(rotation: Rotation, undo: Undo, ports: Ports) -> Rotation:
    """Once, after five minutes: nobody may be asked to guess before that.

    A page that cannot be sent ends nothing: people are told again at the next visit, and by the metric's alarm, which
    needs no way to SNS, at each until then.
    """
    if ports.clock.now() - undo.started_at < PAGE_AFTER:
        return rotation
    # From now on it waits for people, perhaps for a day: the execution's history has to last (25,000 events).
    undo = undo.having(look_again_seconds=SELDOM_SECONDS)
    rotation = rotation.having(undo=undo)
    if undo.paged_at is not None:
        return rotation
    # What this visit has seen counts, also where SNS does not answer before the function's time is up.
    ports.ledger.record(rotation)
    moment = Moment.UNDECIDED
    measure(rotation, "RotationUndecided", MetricUnit.Count, 1)
    try:
        ports.notifier.publish(moment.value, subject_of(rotation, moment), message_of(rotation, moment))
    except RotationError as unsent:
        logger.warning("page not sent", reason=str(unsent))
        return rotation.having(undo=undo.having(untold=f"{type(unsent).__name__}: {unsent}"))
    return rotation.having(undo=undo.having(paged_at=ports.clock.now(), untold=None))
