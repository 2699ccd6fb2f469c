"""RebuildReplicas: read replicas of the target in place of the source's, under their names and under the new key."""

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta

from lambdas.rebuild_replicas import stages
from lambdas.rotation.errors import (
    AccessRefused,
    AwsRefused,
    AwsUnavailable,
    NameTaken,
    ReplicaKeyRefused,
    ReplicasNotRebuilt,
    SettingsNotCarried,
    WrongKey,
)
from lambdas.rotation.polling import look_again_seconds
from lambdas.rotation.ports import Instance, Ports
from lambdas.rotation.state import Replica, ReplicaRebuild, Rotation, Successor
from lambdas.rotation.step import logger, step

PATIENCE = timedelta(days=2)
"""While RDS is at work and nothing else moves: it copies all of the data."""
PATIENCE_WITH_REFUSALS = timedelta(minutes=30)
OFTEN_SECONDS, SELDOM_SECONDS = 30, 600

Stage = Callable[[Replica, Successor, Instance, Rotation, Ports], tuple[Successor, str | None]]
_STAGES: Mapping[str, Stage] = {"make": stages.make, "swap": stages.swap}

_REFUSALS = (
    AccessRefused, AwsRefused, AwsUnavailable, NameTaken, ReplicaKeyRefused, ReplicasNotRebuilt, SettingsNotCarried,
    WrongKey,
)  # fmt: skip


def rebuild_replicas(rotation: Rotation, ports: Ports) -> Rotation:
    """Do the next thing for each replica of the plan, or see that the last one is not done yet: then it is ``pending``.

    RDS makes a replica of the target with the settings of the old one. When it replicates, the old one, which
    is marked for its removal, gives it its name and the opt-in. One that its owner has deleted or promoted is left out.
    Keeps nobody from writing. Idempotent: sides are told apart by resource id, and a stage begins when the journal has
    it.

    Raises:
        AccessRefused: terminal; where nothing moves for any other replica.
        ReplicasNotRebuilt: terminal; something was refused for 30 minutes, or nothing has moved for two days, or the
            target is gone. Nothing is undone or deleted. A new start has that time anew.
    """
    now = ports.clock.now()
    before = _counted(rotation, now)
    if before.complete:
        return rotation
    target = ports.rds.describe_instance_by_resource_id(rotation.synced_target().resource_id)
    if target is None:
        raise ReplicasNotRebuilt(f"{rotation.synced_target().identifier} no longer exists")
    plan, _ = rotation.planned()
    successors, pending = dict(before.successors), []
    refusals: list[Exception] = []
    for replica in plan.replicas:
        successor = successors.setdefault(replica.resource_id, Successor())
        if successor.stage in ("done", "left-out"):
            continue
        try:
            successor, reason = _STAGES[successor.stage](replica, successor, target, rotation, ports)
            successors[replica.resource_id] = successor
        except _REFUSALS as refused:  # what one is refused keeps no other waiting
            refusals.append(refused)
            reason = str(refused)
        if reason is not None:
            pending.append(f"{replica.identifier}: {reason}")
    for refusal in refusals if len(refusals) == len(pending) else ():
        if isinstance(refusal, AccessRefused):
            raise refusal
    progress = before.having(
        successors=successors,
        pending=tuple(pending),
        complete=all(one.stage in ("done", "left-out") for one in successors.values()),
        started_at=before.started_at if successors == before.successors else now,
        # While RDS is still at work on others, a refusal costs nobody any time.
        refused_since=(before.refused_since or now) if refusals and len(refusals) == len(pending) else None,
    )
    _refuse_if_in_vain(progress, now)
    logger.info("replicas rebuilt" if progress.complete else "replicas not rebuilt yet", pending=pending)
    again = look_again_seconds(progress.started_at, now, often=OFTEN_SECONDS, seldom=SELDOM_SECONDS)
    return rotation.having(replica_rebuild=progress.having(look_again_seconds=again))


def _counted(rotation: Rotation, now: datetime) -> ReplicaRebuild:
    """The progress, with the time that this execution has spent on it: one that ended has used up only its own."""
    seen, own = rotation.replica_rebuild, rotation.execution_arn
    if seen is None:
        return ReplicaRebuild(started_at=now, execution_arn=own)
    return seen if own == seen.execution_arn else seen.having(started_at=now, refused_since=None, execution_arn=own)


def _refuse_if_in_vain(progress: ReplicaRebuild, now: datetime) -> None:
    refused_for = now - progress.refused_since if progress.refused_since is not None else timedelta()
    if refused_for > PATIENCE_WITH_REFUSALS or (progress.pending and now - progress.started_at > PATIENCE):
        raise ReplicasNotRebuilt("; ".join(progress.pending))


handler = step(rebuild_replicas)
