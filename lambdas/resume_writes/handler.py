"""ResumeWrites: the commit point. The target is released, and the write outage ends."""

from datetime import timedelta

from lambdas.rotation import outage, reach
from lambdas.rotation.errors import DecisionLost, NotOpened, StateIncomplete
from lambdas.rotation.ports import Ports, StillClosed
from lambdas.rotation.state import Release, Rotation
from lambdas.rotation.step import logger, step

PATIENCE = timedelta(minutes=30)
"""For RDS to give a released target its security groups; it is a matter of seconds unless RDS is at work on it."""


def resume_writes(rotation: Rotation, ports: Ports) -> Rotation:
    """Write the decision and open the target's databases, in one transaction; where RDS has to open, ask for it.

    Repeatable: when an earlier attempt died after its commit, this one finds its own verdict and goes on. Until RDS has
    opened, ``release.open`` is false, and the state machine comes again.

    Raises:
        DecisionLost: terminal; a rollback has been decided on this target. Nothing was opened.
        NotOpened: terminal; the target was released, and RDS does not open it. A person does.
    """
    plan, _ = rotation.planned()
    _, target, fence, _ = rotation.fenced()
    if rotation.target_check is None:
        raise StateIncomplete("needs a checked target: CheckTarget has not run")
    still_closed = None
    try:
        standing = ports.engine(target, plan).decide(rotation.rotation_id, "release", fence.databases)
    except StillClosed as closed:
        standing, still_closed = "release", str(closed)
    if standing != "release":
        raise DecisionLost(f"'{standing}' stands on {target.identifier}: it is not released")
    now, seen = ports.clock.now(), rotation.release
    if seen is None or not seen.open:
        outage_seconds = (now - fence.requested_at).total_seconds()
        asked_since = (seen.asked_since if seen is not None else None) or now
        release = Release(
            released_at=seen.released_at if seen is not None else now,
            write_outage_seconds=outage_seconds,
            open=still_closed is None,
            asked_since=asked_since,
        )
        rotation = rotation.having(release=release)
        # Before the schedule goes: whoever recovers this rotation must see that it can only go forward.
        ports.ledger.record(rotation)
        logger.info("target released", target=target.identifier, waiting_for=still_closed)
        if still_closed is not None:
            if now - asked_since >= PATIENCE:
                raise NotOpened(still_closed)
            return rotation
        outage.measured(rotation, outage_seconds)
    ports.recovery.remove(rotation)
    return rotation


handler = step(resume_writes, reaches=(reach.target_server, reach.recovery_schedule))
