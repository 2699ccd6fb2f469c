"""Decommission: a safety copy under the new key, then and only then the end of the source."""

from datetime import datetime, timedelta
from typing import Literal

from lambdas.decommission import interim
from lambdas.decommission.right import establish, left_behind, orphans
from lambdas.rotation import databases, names, snapshots, switchover
from lambdas.rotation.errors import (
    AccessRefused,
    AwsRefused,
    AwsUnavailable,
    DatabaseUnreachable,
    LoginRefused,
    RetirementRefused,
    SqlRefused,
)
from lambdas.rotation.leftovers import removal_of_control_database
from lambdas.rotation.polling import look_again_seconds
from lambdas.rotation.ports import Instance, Ports
from lambdas.rotation.state import Decommission, Rotation
from lambdas.rotation.step import logger, step

PATIENCE = timedelta(days=7)
"""For one stage; copying a snapshot under another key copies all of it."""
OFTEN_SECONDS, SELDOM_SECONDS, RARELY_SECONDS = 60, 600, 3600
RARELY_AFTER = timedelta(days=1)
"""A week of looking more often, in every stage, would fill the execution's history (25,000 events)."""

_LATER = (AwsUnavailable, DatabaseUnreachable)
_NEVER = (AccessRefused, AwsRefused, LoginRefused, SqlRefused)


def decommission(rotation: Rotation, ports: Ports) -> Rotation:
    """Do the next thing, or see that the last one is not done yet; the state machine comes again until it is complete.

    The right to act is established from live facts at every visit. A source that is gone already is fine. A control
    database that cannot be removed from the target after it is left over, with the command that removes it.

    Raises:
        RetirementRefused: terminal; the live facts do not give the right, or a stage is not done after seven days.
            Nothing more is deleted. A new start has seven days anew.
        SnapshotFailed: terminal; there is no copy to rely on. Nothing more is deleted.
    """
    seen, now = rotation.decommission, ports.clock.now()
    if seen is not None and seen.complete:
        ports.ledger.release_lock(rotation)  # an attempt that was cut off may not have
        return rotation
    _, database = rotation.planned()
    source = databases.by_resource_id(database.resource_id, ports)
    if source is not None and source.status != "deleting":
        establish(rotation, source, ports)
    before = _counted(rotation, now)
    deleted_at = (before.source_deleted_at or now) if source is None else None
    before = before.having(source_deleted_at=deleted_at)
    progress = _STAGES[before.stage](rotation, before, source, ports)
    if progress.stage != before.stage:
        progress = progress.having(started_at=now)
    # After the look, never before: what was in the way may be gone since the last one.
    if now - progress.started_at > PATIENCE:
        raise RetirementRefused(f"{progress.stage} of {database.identifier} is not done after {PATIENCE.days} days")
    logger.info("decommission", stage=progress.stage, complete=progress.complete)
    seldom = SELDOM_SECONDS if now - progress.started_at <= RARELY_AFTER else RARELY_SECONDS
    again = look_again_seconds(progress.started_at, now, often=OFTEN_SECONDS, seldom=seldom)
    return rotation.having(decommission=progress.having(look_again_seconds=again))


def _counted(rotation: Rotation, now: datetime) -> Decommission:
    """The progress, with the time that this execution has spent on it: one that ended has used up only its own."""
    progress = rotation.decommission
    if progress is None:
        temporary, kept = snapshots.pair_of(rotation)
        first = _first_stage(rotation)
        progress = Decommission(stage=first, temporary_snapshot=temporary, kept_snapshot=kept, started_at=now)
    if progress.execution_arn == rotation.execution_arn:
        return progress
    return progress.having(execution_arn=rotation.execution_arn, started_at=now)


def _first_stage(rotation: Rotation) -> Literal["end-deployment", "early", "snapshot"]:
    _, database = rotation.planned()
    stands = database.is_cluster or (rotation.verification is not None and rotation.verification.leftovers)
    if rotation.deployment is not None and stands:
        return "end-deployment"
    return "early" if rotation.capture is not None or rotation.pre_copy is not None else "snapshot"


def _end_deployment(rotation: Rotation, progress: Decommission, source: Instance | None, ports: Ports) -> Decommission:
    """Before anything of the source is removed: RDS deletes no member of a deployment.

    Written down first: from here on RDS lets sessions write to the source, if that is a cluster. What they write before
    the snapshot is in that. A deployment that somebody has deleted is gone, and what RDS refuses is asked for again.
    """
    ports.ledger.record(rotation.having(decommission=progress))
    left = switchover.left_of(rotation.deployed(), ports)
    return progress if left else progress.having(stage="snapshot")


def _early(rotation: Rotation, progress: Decommission, source: Instance | None, ports: Ports) -> Decommission:
    """What was made while applications wrote: nobody needs it any more, and one of the two holds the old key."""
    left = [snapshots.request_removal(one, rotation, ports) for one in snapshots.early_pair_of(rotation)]
    return progress if any(left) else progress.having(stage="snapshot")


def _snapshot(rotation: Rotation, progress: Decommission, source: Instance | None, ports: Ports) -> Decommission:
    _, database = rotation.planned()
    temporary, kept = _snapshots(progress)
    if databases.describe_snapshot(database, kept, ports) is not None or snapshots.is_available(
        databases.describe_snapshot(database, temporary, ports)
    ):
        return progress.having(stage="copy")
    if source is None:
        logger.warning("source was deleted by somebody else", kept_snapshot=None)
        return progress.having(stage="delete-snapshot")
    databases.request_snapshot(source.database, temporary, snapshots.tags(rotation), ports)
    return progress


def _copy(rotation: Rotation, progress: Decommission, source: Instance | None, ports: Ports) -> Decommission:
    temporary, kept = _snapshots(progress)
    _, database = rotation.planned()
    if all(databases.describe_snapshot(database, name, ports) is None for name in (temporary, kept)):
        return progress.having(stage="snapshot")  # somebody has deleted it
    if interim.is_needed(rotation):
        is_copied = interim.is_copied(temporary, kept, source, rotation, ports)
    else:
        is_copied = _is_copied(temporary, kept, rotation, ports)
    return progress.having(stage="delete-snapshot") if is_copied else progress


def _is_copied(original: str, copy: str, rotation: Rotation, ports: Ports) -> bool:
    """Asks for the copy where it is not there."""
    if _is_kept(copy, rotation, ports):
        return True
    _, database = rotation.planned()
    key_arn, tags = rotation.keyed().arn, snapshots.tags(rotation)
    databases.request_snapshot_copy(database, original, copy, key_arn, tags, ports)
    return False


def _delete_snapshot(rotation: Rotation, progress: Decommission, source: Instance | None, ports: Ports) -> Decommission:
    """The temporary one holds the old key, and would keep it from ever being retired."""
    _, database = rotation.planned()
    temporary, kept = _snapshots(progress)
    if databases.describe_snapshot(database, temporary, ports) is None:
        return progress.having(stage="delete-source")
    if not _is_kept(kept, rotation, ports):
        return progress.having(stage="copy")
    databases.request_snapshot_deletion(database, temporary, ports)
    return progress


def _delete_source(rotation: Rotation, progress: Decommission, source: Instance | None, ports: Ports) -> Decommission:
    if source is None:
        if left := orphans(rotation, ports):
            raise RetirementRefused(f"the source was deleted by somebody else, and RDS has promoted {', '.join(left)}")
        return progress.having(stage="rekey-kept")
    _, kept = _snapshots(progress)
    if source.status != "deleting" and not _is_kept(kept, rotation, ports):
        return progress.having(stage="snapshot")
    # Its replicas first: RDS would promote them; and a cluster's instances, which keep it from being deleted.
    for one in left_behind(rotation, source, ports) or (source,):
        if one.deletion_protection:
            databases.disable_deletion_protection(one.database, ports)
        elif one.status != "deleting":
            # Automated backups stay and expire by themselves: the last way back to before the rotation. RDS keeps none
            # of a Multi-AZ DB cluster (RDS User Guide: retaining automated backups).
            keeps = not one.database.is_multi_az_cluster
            databases.request_deletion(one.database, ports, keep_automated_backups=keeps)
    return progress


def _is_kept(copy: str, rotation: Rotation, ports: Ports) -> bool:
    """Asked anew before each deletion: days may lie between the copy and this, and somebody may have deleted it.

    Raises:
        RetirementRefused: terminal; somebody else has made a snapshot of that name.
    """
    _, database = rotation.planned()
    found = databases.describe_snapshot(database, copy, ports)
    if found is not None and not snapshots.is_ours(found, rotation):
        raise RetirementRefused(f"snapshot {copy} is not of this rotation's: delete it, or give it another name")
    return snapshots.is_copied(found, rotation)


def _rekey_kept(rotation: Rotation, progress: Decommission, source: Instance | None, ports: Ports) -> Decommission:
    """What earlier rotations of this database kept is under the old key, and would keep it from ever being retired.

    One at a time: copied under the new key, and deleted only when the copy is available under it. Told by name: what an
    owner took of a target carries our tags, too, and is not ours to delete. It keeps the old key, which its list names;
    and so does what was kept of a Multi-AZ DB cluster, of which RDS copies nothing.
    """
    if interim.is_needed(rotation):
        return _finished(rotation, progress, ports) if interim.is_removed(rotation, ports) else progress
    plan, database = rotation.planned()
    old = rotation.old_key
    ours = {names.BASE_NAME_TAG: plan.base_name}
    found = databases.snapshots_under(database, old.arn, ours, ports) if old is not None else ()
    kept = [name for name in found if names.is_kept_snapshot(name, plan.base_name)]
    if not kept:
        return _finished(rotation, progress, ports)
    if _is_copied(kept[0], names.rekeyed_snapshot(kept[0], rotation.rotation_id), rotation, ports):
        databases.request_snapshot_deletion(database, kept[0], ports)
        return progress.having(started_at=ports.clock.now())  # each has the patience of a stage
    return progress


def _finished(rotation: Rotation, progress: Decommission, ports: Ports) -> Decommission:
    plan, _ = rotation.planned()
    live = databases.by_resource_id(rotation.synced_target().resource_id, ports)
    leftovers: tuple[str, ...] = ()
    # Only a fence needs a control database. The target may have another name, and with it another address, by now.
    if rotation.fence is not None and live is not None:
        try:
            ports.engine(live.database, plan).drop_control_database(rotation.rotation_id)
        except (*_LATER, *_NEVER) as refused:
            # The source is gone, so this must not end the rotation: each new start would end here, too.
            if isinstance(refused, _LATER) and ports.clock.now() - progress.started_at <= PATIENCE:
                logger.info("control database not removed yet", reason=str(refused))
                return progress
            leftovers = (f"{removal_of_control_database(live.database, plan)}  # {refused}",)
            logger.warning("control database left over", reason=str(refused))
    done = progress.having(stage="done", complete=True, leftovers=leftovers)
    # Before the lock is free: what is not complete would be done again, to the control database of the next rotation.
    ports.ledger.record(rotation.having(decommission=done))
    ports.ledger.release_lock(rotation)
    return done


_STAGES = {
    "end-deployment": _end_deployment,
    "early": _early,
    "snapshot": _snapshot,
    "copy": _copy,
    "delete-snapshot": _delete_snapshot,
    "delete-source": _delete_source,
    "rekey-kept": _rekey_kept,
}


def _snapshots(progress: Decommission) -> tuple[str, str]:
    return str(progress.temporary_snapshot), str(progress.kept_snapshot)


handler = step(decommission)
