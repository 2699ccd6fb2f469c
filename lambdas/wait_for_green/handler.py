"""WaitForGreen: is every copy ready to take its source's place? Looks once; the state machine waits."""

from datetime import timedelta

from lambdas.rotation import switchover
from lambdas.rotation.errors import SyncIncomplete
from lambdas.rotation.polling import look_again_seconds
from lambdas.rotation.ports import BlueGreenDeployment, Ports
from lambdas.rotation.state import Deployment, Rotation
from lambdas.rotation.step import logger, step
from lambdas.wait_for_green.readiness import observed

PATIENCE = timedelta(hours=48)
"""Longer than a replica's: RDS copies every member, and loads its storage, before it may be switched over."""
OFTEN_SECONDS, SELDOM_SECONDS = 60, 300


def wait_for_green(rotation: Rotation, ports: Ports) -> Rotation:
    """Observe the deployment once, and say what is still being waited for.

    Ready: the deployment is available; and every member's copy is there, encrypted under the new key, available, with
    its storage loaded and its settings carried over. Gives the copies the tag that says that they are no production.

    Raises:
        WrongKey, SettingsNotCarried: terminal; nothing is at stake yet.
        SyncIncomplete: terminal; the deployment failed, or is not ready after 48 hours.
    """
    deployment, now = rotation.deployed(), ports.clock.now()
    live = ports.blue_green.describe(deployment.name)
    waiting_for = _usable(deployment, live)
    if live is not None:
        deployment = deployment.having(identifier=live.identifier)
        found, deployment = observed(rotation, deployment, live, ports)
        waiting_for += found
    if waiting_for and now - deployment.requested_at >= PATIENCE:
        raise SyncIncomplete(f"{deployment.name}: after 48 hours still waiting for {'; '.join(waiting_for)}")
    logger.info("deployment observed", deployment=deployment.name, waiting_for=waiting_for)
    return rotation.having(
        deployment=deployment.having(
            observed_at=now,
            waiting_for=tuple(waiting_for),
            ready=not waiting_for,
            look_again_seconds=look_again_seconds(
                deployment.requested_at, now, often=OFTEN_SECONDS, seldom=SELDOM_SECONDS
            ),
        )
    )


def _usable(deployment: Deployment, live: BlueGreenDeployment | None) -> list[str]:
    if live is None:
        if deployment.identifier is not None:
            raise SyncIncomplete(f"{deployment.name} is gone: somebody has deleted it")
        return ["the deployment to appear"]
    if live.status == "PROVISIONING":
        return [f"RDS to make {live.name}"]
    if live.status != switchover.AVAILABLE:
        raise SyncIncomplete(f"{live.name} is {live.status}: {live.details}")
    return []


handler = step(wait_for_green)
