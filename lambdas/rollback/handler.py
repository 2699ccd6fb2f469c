"""Rollback: return to the source, or find out that it is too late, or not yet known."""

from lambdas.rollback.evidence import Undecided, releasable_target
from lambdas.rotation import reach
from lambdas.rotation.errors import (
    AccessRefused,
    AwsRefused,
    AwsUnavailable,
    DatabaseUnreachable,
    LoginRefused,
    SqlRefused,
)
from lambdas.rotation.ports import Ports, StillClosed
from lambdas.rotation.state import Fence, Rotation
from lambdas.rotation.step import logger, step
from lambdas.rotation.undoing import ended_with, paged, rolled_back, taken_over

_UNSEEN = (AwsUnavailable, AccessRefused, AwsRefused, DatabaseUnreachable, LoginRefused, SqlRefused)
"""What keeps the facts from being seen. A rollback that gave up here would leave applications standing for ever."""


def rollback(rotation: Rotation, ports: Ports) -> Rotation:
    """Decide the rotation against its target and open the source, unless the target was released before.

    Repeatable; each visit ends in one of four outcomes. ``rolled-back``: the source is open. ``decided``: the target
    can no longer be released, but applications are led to it; once they are led back, the source is opened. Where
    RestoreConnectivity could not do that since the last visit, people are told of it as of what is undecided.
    ``committed``: the target was released, so the rotation goes forward. ``undecided``: both sides stay fenced, the
    next visit looks again, and after five minutes people are told.
    """
    if rotation.undo is None:
        rotation = taken_over(rotation, ports)
    before = rotation.undo
    assert before is not None
    try:
        rotation = _settled(rotation, ports)
    except Undecided as undecided:
        rotation = rotation.having(undo=undecided.undo)
    except StillClosed as closed:
        rotation = ended_with(rotation, "undecided", str(closed))
    except _UNSEEN as unseen:
        rotation = ended_with(rotation, "undecided", f"{type(unseen).__name__}: {unseen}")
    assert rotation.undo is not None
    logger.info("rollback observed", outcome=rotation.undo.outcome, reason=rotation.undo.reason)
    if rotation.undo.outcome == "committed":
        return rotation.having(failure=None)
    undo = rotation.undo
    if undo.outcome == "decided" and before.outcome == "undecided" and before.decided_at is not None:
        undo = undo.having(reason=before.reason)  # what RestoreConnectivity has met
        return paged(rotation.having(undo=undo), undo, ports)
    if undo.outcome == "undecided":
        return paged(rotation, undo, ports)
    return rotation


def _settled(rotation: Rotation, ports: Ports) -> Rotation:
    undo = rotation.undo
    assert undo is not None
    if undo.outcome == "rolled-back":
        return rotation
    if rotation.release is not None:
        return ended_with(rotation, "committed", "the target was released")
    if ports.clock.now() < undo.not_before:
        # Without a fence, too: what it makes or changes later (a key, a record) would be looked for in vain now.
        raise Undecided(undo, "a function of the failed step may still be running")
    fence = rotation.fence
    if fence is None:
        return rolled_back(rotation, "nothing was fenced", ports)
    if undo.decided_at is None:
        plan, _ = rotation.planned()
        target = releasable_target(rotation, undo, ports)
        # Nothing is opened there: the row keeps a late ResumeWrites from doing it.
        if target and ports.engine(target, plan).decide(rotation.rotation_id, "rollback", ()) == "release":
            return ended_with(rotation, "committed", "the target was released")
        rotation = rotation.having(undo=undo.having(decided_at=ports.clock.now()))
    return _source_opened(rotation, fence, ports)


def _source_opened(rotation: Rotation, fence: Fence, ports: Ports) -> Rotation:
    """Only where no target can be released any more."""
    plan, source = rotation.planned()
    seen = rotation.connectivity
    led_away = seen is not None and seen.switch_requested_at is not None and seen.restored_at is None
    engine = ports.engine(source, plan)
    if engine.decide(rotation.rotation_id, "rollback", () if led_away else fence.databases) == "release":
        return ended_with(rotation, "committed", "the target was released")
    if led_away:
        return ended_with(rotation, "decided", "applications have to be led back before the source is opened")
    return rolled_back(rotation, f"{source.identifier} is open", ports)


handler = step(
    rollback,
    takes_over=True,
    reaches=(reach.database, reach.source_server, reach.target_server, reach.topic),
)
