"""WaitForSwitchover: has RDS switched over? Looks once; the state machine waits."""

from datetime import timedelta

from lambdas.rotation import databases, outage, switchover
from lambdas.rotation.errors import SwitchoverFailed, TargetMismatch
from lambdas.rotation.ports import Ports
from lambdas.rotation.state import Release, Rotation
from lambdas.rotation.step import logger, step

PATIENCE = timedelta(minutes=5)
"""On top of the budget, after which RDS itself rolls back. Then the way back looks on, and tells people: until RDS has
decided it changes nothing either."""


def wait_for_switchover(rotation: Rotation, ports: Ports) -> Rotation:
    """Read from RDS which side serves; once it is green, write down that the rotation can only go forward.

    From then on the source is what is called ``…-old1``, and the target has the name that the source had.

    Raises:
        SwitchoverFailed: terminal; RDS has rolled it back, or it does not come to an end. What became of it is decided
            by what RDS shows, on the way back.
    """
    deployment = rotation.deployed()
    if rotation.release is not None:
        return rotation
    live = ports.blue_green.describe(deployment.name)
    side, why = switchover.serving(rotation, live, ports)
    if side == "target":
        return _released(rotation, ports)
    waited = ports.clock.now() - (deployment.switchover_requested_at or deployment.requested_at)
    status = live.status if live is not None else "gone"
    if side == "source":
        said = "; ".join(filter(None, (why, *deployment.waiting_for, live.details if live else "")))
        raise SwitchoverFailed(f"{deployment.name} is {status}: {said}")
    budget = timedelta(seconds=rotation.planned()[0].write_outage_budget_seconds)
    if waited > budget + PATIENCE:
        raise SwitchoverFailed(f"{deployment.name} is still {status}: {why}")
    logger.info("switchover observed", deployment=deployment.name, status=status, reason=why)
    again = 2 if waited < switchover.SHOWN_WITHIN else 15
    return rotation.having(deployment=deployment.having(look_again_seconds=again))


def _released(rotation: Rotation, ports: Ports) -> Rotation:
    deployment, now = rotation.deployed(), ports.clock.now()
    source = databases.by_resource_id(deployment.primary.source_resource_id, ports)
    target = databases.by_arn(deployment.primary.source_arn, ports)
    if target is None:
        raise TargetMismatch(f"{deployment.primary.source_identifier} is gone")
    began = deployment.switchover_requested_at or now
    release = Release(released_at=now, write_outage_seconds=(now - began).total_seconds())
    primary = deployment.primary.having(target_resource_id=target.database.resource_id, target_arn=target.database.arn)
    rotation = rotation.having(
        deployment=deployment.having(switched=True, members=(primary, *deployment.members[1:])),
        # One that somebody has deleted meanwhile keeps its old name here.
        source=source.database if source is not None else rotation.source,
        target=target.database,
        target_identifier=target.database.identifier,
        release=release,
    )
    outage.measured(rotation, release.write_outage_seconds)
    logger.info("switched over", source=rotation.planned()[1].identifier, target=target.database.identifier)
    return rotation


handler = step(wait_for_switchover)
