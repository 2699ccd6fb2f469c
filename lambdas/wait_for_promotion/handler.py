"""WaitForPromotion: is the target a standalone primary, and still fenced?"""

from datetime import timedelta

from lambdas.rotation import reach
from lambdas.rotation.errors import PromotionFailed, StateIncomplete
from lambdas.rotation.inherited_fence import is_fenced_primary
from lambdas.rotation.ports import Ports
from lambdas.rotation.state import Promotion, Rotation
from lambdas.rotation.step import logger, step

PATIENCE = timedelta(minutes=30)
POLL_SECONDS = 10.0
PAUSE_SECONDS = 1.0
CLEAN_OBSERVATIONS = 2
SERVES = ("available", "backing-up")
"""RDS may back up what it has promoted (RDS API reference: PromoteReadReplica). With its source forgotten that is no
replica any more, whatever the status, and the backup of a primary may take its time while applications write."""


def wait_for_promotion(rotation: Rotation, ports: Ports) -> Rotation:
    """Look for up to 10 s, then let the state machine wait.

    RDS still says ``available`` for a moment after it was asked, so one clean answer proves nothing: two in a row, a
    second apart, and the server itself no longer in recovery.

    Raises:
        FenceBroken: terminal; applications can reach the target before its release.
        PromotionFailed: terminal; RDS leaves it to its owner, or it is not a primary after 30 minutes, or gone.
    """
    _, target, _, _ = rotation.fenced()
    promotion = rotation.promotion
    if promotion is None:
        raise StateIncomplete("needs a promotion: Promote has not run")
    if promotion.complete:
        return rotation
    began = ports.clock.monotonic()
    while not (promotion := _observed(rotation, promotion, ports)).complete:
        if ports.clock.now() - promotion.requested_at >= PATIENCE:
            raise PromotionFailed(f"{target.identifier} is not a primary 30 minutes after RDS was asked")
        if ports.clock.monotonic() - began >= POLL_SECONDS:
            break
        ports.clock.pause(PAUSE_SECONDS)
    logger.info("promotion observed", target=target.identifier, complete=promotion.complete)
    return rotation.having(promotion=promotion)


def _observed(rotation: Rotation, promotion: Promotion, ports: Ports) -> Promotion:
    _, target, _, _ = rotation.fenced()
    instance = ports.rds.describe_instance(target.identifier)
    if instance is None:
        raise PromotionFailed(f"{target.identifier} is gone")
    if instance.is_unusable:
        raise PromotionFailed(f"{target.identifier} is {instance.status}")
    clean = instance.replica_of is None and not instance.has_status_infos and instance.status in SERVES
    if not clean:
        return promotion.having(clean_observations=0)
    seen = promotion.clean_observations + 1
    if seen < CLEAN_OBSERVATIONS or not is_fenced_primary(rotation, ports):
        return promotion.having(clean_observations=min(seen, CLEAN_OBSERVATIONS - 1))
    return promotion.having(clean_observations=seen, complete=True, completed_at=ports.clock.now())


handler = step(wait_for_promotion, reaches=(reach.rds, reach.source_server, reach.target_server))
