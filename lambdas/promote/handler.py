"""Promote: ask RDS to make the target a standalone primary."""

from lambdas.rotation import reach
from lambdas.rotation.errors import DecisionLost, DrainIncomplete, FenceBroken, PromotionFailed, TargetMismatch
from lambdas.rotation.outage import PROMOTION_MAY_TAKE
from lambdas.rotation.ports import Instance, Ports
from lambdas.rotation.state import Database, Promotion, Rotation
from lambdas.rotation.step import logger, step

STALE_SECONDS = 5.0
"""So long RDS may still say ``available`` of an instance that it refuses to promote because it is being promoted."""

BEING_PROMOTED = ("modifying", "rebooting")
"""Not ``backing-up``: RDS promotes no replica in it (RDS API reference: PromoteReadReplica), so that shows nothing."""


def promote(rotation: Rotation, ports: Ports) -> Rotation:
    """Promote the target, provided that the fence stands and the target has replayed everything up to it.

    Idempotent: a target that RDS no longer calls a replica, or is already promoting, is left as it is. Does not wait,
    but for up to 5 s after a refusal: was it for an earlier request, whose answer got lost?

    Raises:
        FenceBroken, DrainIncomplete, DecisionLost: terminal; promoting now would lose commits. RDS was not asked.
        TargetMismatch: terminal; the instance of that name is not the one that was in sync.
        PromotionFailed: terminal; RDS refused.
    """
    _, source = rotation.planned()
    target = _same(rotation.synced_target(), ports)
    if rotation.promotion is not None and (target.replica_of is None or target.status in BEING_PROMOTED):
        return rotation
    if target.replica_of is None:
        raise TargetMismatch(f"{target.database.identifier} was promoted by somebody else")
    if target.status != "available" and not _asked_for(rotation, ports):
        # Not by us, nor by a second delivery: RDS would refuse, and that look like the refusal of a repeated request.
        # What is written down as asked for keeps both sides closed until RDS has done with the target, a backup too.
        raise PromotionFailed(f"{target.database.identifier} is {target.status}: RDS or somebody is at work on it")
    instance = ports.rds.describe_instance_by_resource_id(source.resource_id)
    if instance is None:
        raise PromotionFailed(f"{source.identifier} is gone")
    _refuse_unless_safe(rotation, ports)
    # Written down before the call: from here on nobody may take for granted that the source is the only primary.
    promotion = rotation.promotion or Promotion(requested_at=ports.clock.now())
    rotation = rotation.having(promotion=promotion)
    ports.ledger.record(rotation)
    ports.recovery.set(rotation, ports.clock.now() + PROMOTION_MAY_TAKE)
    try:
        ports.rds.request_promotion(target.database.identifier, instance)
    except PromotionFailed:
        # The SDK repeats a call without an answer, and a second delivery repeats all of this.
        if not _is_under_way(target.database.identifier, ports):
            raise
    logger.info("promotion requested", target=target.database.identifier)
    return rotation


def _asked_for(rotation: Rotation, ports: Ports) -> bool:
    """Whether the journal says by now that this rotation asks for the promotion."""
    entry = ports.ledger.entry(rotation.planned()[0].base_name, rotation.rotation_id)
    return entry is not None and entry.rotation.promotion is not None


def _is_under_way(identifier: str, ports: Ports) -> bool:
    give_up_at = ports.clock.monotonic() + STALE_SECONDS
    while (now := ports.rds.describe_instance(identifier)) is not None:
        if now.replica_of is None or now.status in BEING_PROMOTED:
            return True
        if now.status != "available" or ports.clock.monotonic() >= give_up_at:
            return False
        ports.clock.pause(0.5)
    return False


def _same(target: Database, ports: Ports) -> Instance:
    found = ports.rds.describe_instance(target.identifier)
    if found is None or found.database.resource_id != target.resource_id:
        raise TargetMismatch(f"{target.identifier} is not the instance that was in sync ({target.resource_id})")
    if found.database.kms_key_arn != target.kms_key_arn:
        raise TargetMismatch(f"{target.identifier} is encrypted under {found.database.kms_key_arn}")
    return found


def _refuse_unless_safe(rotation: Rotation, ports: Ports) -> None:
    """The last look, on the servers themselves."""
    plan, _ = rotation.planned()
    source, target, fence, position = rotation.fenced()
    on_source, on_target = ports.engine(source, plan), ports.engine(target, plan)
    if breach := on_source.fence_breach(fence.databases):
        raise FenceBroken(f"{source.identifier}: {breach}")
    if not (on_target.has_replayed(position) and on_target.shows_marker(rotation.rotation_id)):
        raise DrainIncomplete(f"{target.identifier} has not replayed {position}")
    for identifier, engine in ((source.identifier, on_source), (target.identifier, on_target)):
        if verdict := engine.verdict(rotation.rotation_id):
            raise DecisionLost(f"'{verdict}' stands on {identifier} already")


handler = step(promote, reaches=(reach.rds, reach.source_server, reach.target_server, reach.recovery_schedule))
