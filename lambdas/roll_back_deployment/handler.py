"""RollBackDeployment: delete green and let blue serve, or find out that it is too late, or not yet known."""

from lambdas.roll_back_deployment.removal import remove
from lambdas.rotation import switchover
from lambdas.rotation.errors import AccessRefused, AwsRefused, AwsUnavailable
from lambdas.rotation.ports import Ports
from lambdas.rotation.state import Rotation
from lambdas.rotation.step import logger, step
from lambdas.rotation.undoing import ended_with, free_lock, paged, rolled_back, taken_over

_UNSEEN = (AwsUnavailable, AccessRefused, AwsRefused)
"""What keeps the facts from being seen: then nothing is decided."""


def roll_back_deployment(rotation: Rotation, ports: Ports) -> Rotation:
    """Decide from RDS which side serves, and remove the other one's deployment unless it was switched over.

    Repeatable; each visit ends in one of three outcomes. ``rolled-back``: blue serves, and no function of ours can ask
    for a switchover any more; further visits remove what is left until all of it is gone (``clean``). ``committed``:
    green serves, and the rotation goes forward, also where a person has switched over by hand. ``undecided``: RDS is at
    it, or does not say; after five minutes people are told.

    Once a switchover was asked for, what decides is that RDS accepts the deletion of the deployment: it accepts none
    while it switches over, and none of a green that serves. Nothing is done to green before RDS would show that it
    switches over: its deletion protection is production's then.
    """
    if rotation.undo is None:
        rotation = taken_over(rotation, ports)
    try:
        rotation = _settled(rotation, ports)
    except _UNSEEN as unseen:
        rotation = ended_with(rotation, "undecided", f"{type(unseen).__name__}: {unseen}")
    undo = rotation.undo
    assert undo is not None
    logger.info("way back observed", outcome=undo.outcome, reason=undo.reason, waiting_for=undo.waiting_for)
    if undo.outcome == "committed":
        return rotation.having(failure=None)
    if undo.outcome == "undecided":
        return paged(rotation, undo, ports)
    if undo.clean:
        free_lock(rotation, ports)
    return rotation


def _settled(rotation: Rotation, ports: Ports) -> Rotation:
    undo = rotation.undo
    assert undo is not None
    if undo.clean:
        return rotation
    if rotation.release is not None:
        return ended_with(rotation, "committed", "the target serves")
    if ports.clock.now() < undo.not_before:
        # What it makes later (a deployment, a key) would be looked for in vain now.
        return ended_with(rotation, "undecided", "a function of the failed step may still be running")
    if rotation.deployment is None:
        return remove(rolled_back(rotation, "no deployment was asked for", ports), ports)
    live = ports.blue_green.describe(rotation.deployment.name)
    side, why = switchover.serving(rotation, live, ports)
    if side == "target":
        return ended_with(rotation, "committed", why)
    if side == "undecided":
        return ended_with(rotation, "undecided", why)
    if undo.outcome == "rolled-back":
        return remove(rotation, ports)
    was_asked_for = rotation.deployment.switchover_requested_at is not None
    if was_asked_for and live is not None and live.status != switchover.DELETING:
        seen = remove(rotation, ports).undo  # accepted or not: the next visit sees it
        left = "; ".join((*seen.waiting_for, *seen.leftovers)) if seen else ""
        return ended_with(rotation, "undecided", f"{why}, which is certain once its deployment is deleted: {left}")
    return remove(rolled_back(rotation, why, ports), ports)


handler = step(roll_back_deployment, takes_over=True)
