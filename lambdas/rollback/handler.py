"""Rollback: return to the source, or find out that it is too late, or not yet known."""

from datetime import timedelta

from aws_lambda_powertools.metrics import MetricUnit

from lambdas.rollback.evidence import Undecided, promoted_target
from lambdas.rotation import errors, reach
from lambdas.rotation.errors import (
    AccessRefused,
    AwsRefused,
    AwsUnavailable,
    DatabaseUnreachable,
    LoginRefused,
    RotationError,
)
from lambdas.rotation.notification import message_of, subject_of
from lambdas.rotation.ports import Ports
from lambdas.rotation.state import Fence, Moment, Rotation, Undo
from lambdas.rotation.step import logger, measure, step

SLOWEST_FUNCTION = timedelta(seconds=75)
"""Longer than any function may run, so that none of a dead execution is alive after it; a test compares."""
PAGE_AFTER = timedelta(minutes=5)
SELDOM_SECONDS = 60

_UNSEEN = (AwsUnavailable, AccessRefused, AwsRefused, DatabaseUnreachable, LoginRefused)
"""What keeps the facts from being seen. A rollback that gave up here would leave applications standing for ever."""


def rollback(rotation: Rotation, ports: Ports) -> Rotation:
    """Decide the rotation against its target and open the source, unless the target was released before.

    Repeatable; each visit ends in one of four outcomes. ``rolled-back``: the source is open. ``decided``: the target
    can no longer be released, but applications are led to it; once they are led back, the source is opened.
    ``committed``: the target was released, so the rotation goes forward. ``undecided``: both sides stay fenced, the
    next visit looks again, and after five minutes people are told.
    """
    if rotation.undo is None:
        rotation = _taken_over(rotation, ports)
    try:
        rotation = _settled(rotation, ports)
    except Undecided as undecided:
        rotation = rotation.having(undo=undecided.undo)
    except _UNSEEN as unseen:
        rotation = _with(rotation, "undecided", f"{type(unseen).__name__}: {unseen}")
    assert rotation.undo is not None
    logger.info("rollback observed", outcome=rotation.undo.outcome, reason=rotation.undo.reason)
    if rotation.undo.outcome == "committed":
        return rotation.having(failure=None)
    if rotation.undo.outcome == "undecided":
        return _paged(rotation, rotation.undo, ports)
    return rotation


def _taken_over(rotation: Rotation, ports: Ports) -> Rotation:
    """Raise the epoch, so that no function of before can write any more, and go on with what the journal says *then*.

    What such a function has already begun may go on until its timeout, unless it is known to have ended: an error of
    ours is the last thing that a function says.
    """
    taken = ports.ledger.take_over(rotation, rotation.execution_arn).having(failure=rotation.failure)
    now = ports.clock.now()
    has_ended = rotation.failure is not None and _is_ours(rotation.failure.Error)
    undo = Undo(outcome="undecided", started_at=now, not_before=now if has_ended else now + SLOWEST_FUNCTION)
    taken = taken.having(undo=undo)
    ports.ledger.record(taken)
    return taken


def _is_ours(name: str) -> bool:
    error = getattr(errors, name, None)
    return isinstance(error, type) and issubclass(error, RotationError)


def _settled(rotation: Rotation, ports: Ports) -> Rotation:
    undo = rotation.undo
    assert undo is not None
    if undo.outcome == "rolled-back":
        return rotation
    if rotation.release is not None:
        return _with(rotation, "committed", "the target was released")
    if ports.clock.now() < undo.not_before:
        # Without a fence, too: what it makes or changes later (a key, a record) would be looked for in vain now.
        raise Undecided(undo, "a function of the failed step may still be running")
    fence = rotation.fence
    if fence is None:
        return _rolled_back(rotation, "nothing was fenced", ports)
    if rotation.promotion is not None and undo.decided_at is None:
        plan, _ = rotation.planned()
        target = promoted_target(rotation, undo, ports)
        # Nothing is opened there: the row keeps a late ResumeWrites from doing it.
        if target and ports.engine(target, plan).decide(rotation.rotation_id, "rollback", ()) == "release":
            return _with(rotation, "committed", "the target was released")
        rotation = rotation.having(undo=undo.having(decided_at=ports.clock.now()))
    return _source_opened(rotation, fence, ports)


def _source_opened(rotation: Rotation, fence: Fence, ports: Ports) -> Rotation:
    """Only where no target can be released any more."""
    plan, source = rotation.planned()
    seen = rotation.connectivity
    led_away = seen is not None and seen.switch_requested_at is not None and seen.restored_at is None
    engine = ports.engine(source, plan)
    if engine.decide(rotation.rotation_id, "rollback", () if led_away else fence.databases) == "release":
        return _with(rotation, "committed", "the target was released")
    if led_away:
        return _with(rotation, "decided", "applications have to be led back before the source is opened")
    return _rolled_back(rotation, f"{source.identifier} is open", ports)


def _rolled_back(rotation: Rotation, reason: str, ports: Ports) -> Rotation:
    assert rotation.undo is not None
    rotation = rotation.having(undo=rotation.undo.having(ended_at=ports.clock.now()))
    if rotation.new_key is not None:
        measure(rotation, "RotationRolledBack", MetricUnit.Count, 1)
    return _with(rotation, "rolled-back", reason)


def _with(rotation: Rotation, outcome: str, reason: str) -> Rotation:
    assert rotation.undo is not None
    return rotation.having(undo=rotation.undo.having(outcome=outcome, reason=reason))


def _paged(rotation: Rotation, undo: Undo, ports: Ports) -> Rotation:
    """Once, after five minutes: nobody can write, and nobody may be asked to guess before that."""
    now = ports.clock.now()
    if now - undo.started_at < PAGE_AFTER:
        return rotation
    # From now on it waits for people, perhaps for a day: the execution's history has to last (25,000 events).
    undo = undo.having(look_again_seconds=SELDOM_SECONDS)
    if undo.paged_at is not None:
        return rotation.having(undo=undo)
    moment = Moment.UNDECIDED
    measure(rotation, "RotationUndecided", MetricUnit.Count, 1)
    ports.notifier.publish(
        moment.value, subject_of(rotation, moment), message_of(rotation, moment) | {"waiting_for": undo.reason}
    )
    return rotation.having(undo=undo.having(paged_at=now))


handler = step(rollback, takes_over=True, reaches=(reach.rds, reach.source_server, reach.target_server))
