"""TakeNextStrategy: what AWS refused is undone; go on with the next strategy that Preflight found possible."""

from lambdas.rotation.errors import StateIncomplete
from lambdas.rotation.ports import Ports
from lambdas.rotation.state import NotTaken, Rotation
from lambdas.rotation.step import logger, step


def take_next_strategy(rotation: Rotation, ports: Ports) -> Rotation:
    """Begin again under the plan's ``fallback``, with the key that is there, as if the first strategy had not been.

    ``failure`` stays, and the rotation ends with it, where another rotation has taken the lock that the clean-up freed,
    or where something of the first strategy could not be removed: nobody would hear of it.

    Raises:
        StateIncomplete: terminal; writes were fenced, or the first strategy is not undone.
    """
    plan, _ = rotation.planned()
    undo, failure = rotation.undo, rotation.failure
    if undo is None:
        return rotation.having(failure=None)  # this function's own earlier attempt, whose answer got lost
    if plan.fallback is None or failure is None:
        return rotation
    if rotation.fence is not None or undo.outcome != "rolled-back":
        raise StateIncomplete("needs a strategy that was refused before writes were fenced, and that is undone")
    left = (*undo.leftovers, *(rotation.connectivity.leftovers if rotation.connectivity else ()))
    if left or ports.ledger.acquire(rotation) is not None:
        logger.info("no next strategy", leftovers=left)
        return rotation.having(plan=plan.having(fallback=None))
    refused = NotTaken(strategy=plan.strategy, reasons=(f"{failure.Error}: {failure.Cause}",))
    logger.info("next strategy", strategy=plan.fallback, refused=plan.strategy)
    return rotation.having(
        plan=plan.having(strategy=plan.fallback, fallback=None, not_taken=(*plan.not_taken, refused)),
        preflight=None,
        target_identifier=None,
        target=None,
        connectivity=None,
        sync=None,
        deployment=None,
        undo=None,
        failure=None,
    )


handler = step(take_next_strategy)
