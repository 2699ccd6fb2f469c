"""EndCatchUp: the target has everything; let it stop applying, and close it as the source is closed."""

from lambdas.rotation import reach
from lambdas.rotation.errors import DrainIncomplete, FenceBroken, FenceIncomplete, StateIncomplete, TargetMismatch
from lambdas.rotation.ports import CatchUpEngine, Ports
from lambdas.rotation.snapshots import NOTES
from lambdas.rotation.state import Rotation
from lambdas.rotation.step import logger, step

FENCE_SECONDS = 5
SENDERS_SECONDS = 5.0


def end_catch_up(rotation: Rotation, ports: Ports) -> Rotation:
    """Compare and carry what is not replicated, end the replication; then prove the fence on both sides.

    While senders were connected PostgreSQL's could only be proven by looking. Whoever slipped through is found now, and
    nothing has been released. Repeatable.

    Raises:
        TargetMismatch: terminal; something was changed that is not replicated.
        DrainIncomplete, FenceIncomplete, FenceBroken: terminal; the rollback opens the source, nothing is lost.
    """
    plan, _ = rotation.planned()
    source, target, fence, position = rotation.fenced()
    capture = rotation.captured()
    if capture.ended_at is not None:
        return rotation
    if rotation.drain is None or not rotation.drain.complete:
        raise StateIncomplete("needs a drained target: ConfirmDrained has not finished")
    publisher, copy = ports.catching_up(source, plan), ports.catching_up(target, plan)
    if not publisher.has_delivered(capture.name, copy, len(capture.databases), position):
        raise DrainIncomplete(f"{target.identifier} does not have everything before {position}")
    if not copy.has_notes_once(rotation.rotation_id, NOTES):
        raise TargetMismatch(f"{target.identifier} lacks a row from before or after the snapshot, or has it twice")
    copy.take_over(rotation.rotation_id, capture.name)
    _dismiss_senders(publisher, capture.name, ports)
    copy.raise_fence(rotation.rotation_id, fence.databases, FENCE_SECONDS)
    if breach := publisher.fence_breach(fence.databases):
        raise FenceBroken(f"{source.identifier}: {breach}")
    logger.info("caught up", target=target.identifier, fence_position=position)
    return rotation.having(capture=capture.having(ended_at=ports.clock.now()))


def _dismiss_senders(publisher: CatchUpEngine, name: str, ports: Ports) -> None:
    deadline = ports.clock.monotonic() + SENDERS_SECONDS
    while not publisher.dismiss_senders(name):
        if ports.clock.monotonic() >= deadline:
            raise FenceIncomplete("a replication session of the target does not end")
        ports.clock.pause(0.02)


handler = step(end_catch_up, reaches=(reach.source_server, reach.target_server))
