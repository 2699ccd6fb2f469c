"""PauseApplicationWrites: raise the fence on the source. The write outage begins."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

from lambdas.rotation import fenced_writer, reach
from lambdas.rotation.errors import FenceIncomplete, StateIncomplete
from lambdas.rotation.limitations import refuse_before_fence
from lambdas.rotation.outage import FENCE_MARGIN
from lambdas.rotation.ports import CatchUpEngine, Engine, Ports
from lambdas.rotation.state import Fence, Rotation
from lambdas.rotation.state_size import refuse_if_too_large
from lambdas.rotation.step import logger, step

FENCE_SECONDS = 15
"""Less than the function's timeout: what does not let go within it is reported, not cut off."""


def pause_application_writes(rotation: Rotation, ports: Ports) -> Rotation:
    """Close every application database of the source, prove that nobody is left, and take the fence position.

    What re-opens the databases is written down before the first one is closed, and so is the schedule that recovers the
    rotation if its execution dies. A retry goes on with what was written down; it never reads the saved values from
    databases that are already closed.

    Raises:
        PreflightRefused, UnknownDatabase: terminal; something came up since Preflight. Nothing was closed.
        FenceIncomplete: terminal; somebody did not let go in time. Rollback re-opens.
        DecisionLost: terminal; this rotation was decided, and a late attempt closes nothing.
        JournalMoved: retryable; another attempt has begun to close.
    """
    plan, source = rotation.planned()
    if rotation.sync is None or not rotation.sync.ready:
        raise StateIncomplete(
            "needs everything ready for the fence: "
            "WaitForReplicationSync, WaitForSource or WaitForCatchUp has not finished"
        )
    if rotation.fence is not None and rotation.fence.position is not None:
        return rotation
    capture = rotation.capture
    publisher = ports.catching_up(source, plan) if capture is not None else None
    engine = publisher or ports.engine(source, plan)
    rotation, fence = _written_down(rotation, engine, ports)
    deadline = rotation.outage_ends_by
    ports.recovery.set(rotation, deadline + FENCE_MARGIN)
    with _witnesses(rotation, fence, publisher) as testify:
        rotation, fence = _raised(rotation, fence, engine, ports)
        testify()
    # After the fence: every commit that was acknowledged lies before this position.
    position = engine.mark(rotation.rotation_id)
    raised = fence.having(raised_at=ports.clock.now(), position=position)
    logger.info("fence raised", databases=[one.name for one in fence.databases], fence_position=position)
    return rotation.having(fence=raised)


def _witnesses(
    rotation: Rotation, fence: Fence, publisher: CatchUpEngine | None
) -> AbstractContextManager[Callable[[], None]]:
    """A captured source is asked, under the fence, for what is not replicated; any other brings all of it along."""
    if publisher is None:
        return nullcontext(lambda: None)
    return publisher.witnesses(rotation.rotation_id, rotation.captured().name, fence.databases)


def _raised(rotation: Rotation, fence: Fence, engine: Engine, ports: Ports) -> tuple[Rotation, Fence]:
    plan, _ = rotation.planned()
    deadline = rotation.outage_ends_by
    while True:
        left = (deadline - ports.clock.now()).total_seconds()
        if left <= 0:
            raise FenceIncomplete(f"the write outage budget of {plan.write_outage_budget_seconds} s is spent")
        engine.raise_fence(rotation.rotation_id, fence.databases, min(FENCE_SECONDS, left))
        appeared = engine.plan_fence(
            rotation.sync.superuser_databases if rotation.sync else (), besides=fence.databases
        )
        if not appeared:
            return rotation, fence
        # Somebody created a database while the others were being closed.
        fence = fence.having(databases=fence.databases + appeared)
        rotation = rotation.having(fence=fence)
        ports.ledger.record(rotation)


def _written_down(rotation: Rotation, engine: Engine, ports: Ports) -> tuple[Rotation, Fence]:
    """The fence as the journal has it, or a new one that is in the journal now."""
    if rotation.fence is not None:
        return rotation, rotation.fence
    refuse_before_fence(rotation, engine, ports)
    databases = engine.plan_fence(rotation.sync.superuser_databases if rotation.sync else ())
    refuse_if_too_large(rotation, databases)
    writer = fenced_writer.to_be_fenced(rotation.planned()[1], ports)
    fence = Fence(databases=databases, writer=writer, requested_at=ports.clock.now())
    rotation = rotation.having(fence=fence)
    ports.ledger.record(rotation)
    return rotation, fence


handler = step(pause_application_writes, reaches=(reach.source_server, reach.writer, reach.recovery_schedule))
