"""ResumeWrites: the commit point. The target is released, and the write outage ends."""

from aws_lambda_powertools.metrics import MetricUnit

from lambdas.rotation import reach
from lambdas.rotation.errors import DecisionLost, StateIncomplete
from lambdas.rotation.ports import Ports
from lambdas.rotation.state import Release, Rotation
from lambdas.rotation.step import logger, measure, step


def resume_writes(rotation: Rotation, ports: Ports) -> Rotation:
    """Write the decision and open the target's databases, in one transaction.

    Repeatable: when an earlier attempt died after its commit, this one finds its own verdict and goes on.

    Raises:
        DecisionLost: terminal; a rollback has been decided on this target. Nothing was opened.
    """
    plan, _ = rotation.planned()
    _, target, fence, _ = rotation.fenced()
    if rotation.target_check is None:
        raise StateIncomplete("needs a checked target: CheckTarget has not run")
    standing = ports.engine(target, plan).decide(rotation.rotation_id, "release", fence.databases)
    if standing != "release":
        raise DecisionLost(f"'{standing}' stands on {target.identifier}: it is not released")
    if rotation.release is None:
        now = ports.clock.now()
        outage_seconds = (now - fence.requested_at).total_seconds()
        rotation = rotation.having(release=Release(released_at=now, write_outage_seconds=outage_seconds))
        # Before the schedule goes: whoever recovers this rotation must see that it can only go forward.
        ports.ledger.record(rotation)
        measure(rotation, "WriteOutageSeconds", MetricUnit.Seconds, outage_seconds)
        logger.info("target released", target=target.identifier, write_outage_seconds=outage_seconds)
    ports.recovery.remove(rotation)
    return rotation


handler = step(resume_writes, reaches=(reach.target_server, reach.recovery_schedule))
