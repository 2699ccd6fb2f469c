"""Decommission: a safety copy under the new key, then and only then the end of the source."""

from datetime import timedelta

from lambdas.decommission.right import establish, left_behind
from lambdas.rotation import names, snapshots
from lambdas.rotation.errors import RetirementRefused
from lambdas.rotation.ports import Instance, Ports
from lambdas.rotation.state import Decommission, Rotation
from lambdas.rotation.step import logger, step

PATIENCE = timedelta(days=7)
"""For one source; copying a snapshot under another key copies all of it."""
OFTEN_FOR = timedelta(hours=1)
SELDOM_SECONDS = 600
"""A week of looking every minute would fill the execution's history (25,000 events)."""


def decommission(rotation: Rotation, ports: Ports) -> Rotation:
    """Do the next thing, or see that the last one is not done yet; the state machine comes again until it is complete.

    The right to act is established from live facts at every visit. A source that is gone already is fine.

    Raises:
        RetirementRefused: terminal; the live facts do not give the right. Nothing more is deleted.
        SnapshotFailed: terminal; there is no copy to rely on. Nothing more is deleted.
    """
    seen, now = rotation.decommission, ports.clock.now()
    if seen is not None and seen.complete:
        return rotation
    _, database = rotation.planned()
    source = ports.rds.describe_instance_by_resource_id(database.resource_id)
    if source is not None and source.status != "deleting":
        establish(rotation, source, ports)
    temporary, kept = snapshots.pair_of(rotation)
    progress = seen or Decommission(stage="snapshot", temporary_snapshot=temporary, kept_snapshot=kept, started_at=now)
    if now - progress.started_at > PATIENCE:
        raise RetirementRefused(f"{progress.stage} of {database.identifier} is not done after {PATIENCE.days} days")
    progress = _STAGES[progress.stage](rotation, progress, source, ports)
    if now - progress.started_at > OFTEN_FOR:
        progress = progress.having(look_again_seconds=SELDOM_SECONDS)
    logger.info("decommission", stage=progress.stage, complete=progress.complete)
    return rotation.having(decommission=progress)


def _snapshot(rotation: Rotation, progress: Decommission, source: Instance | None, ports: Ports) -> Decommission:
    temporary, kept = _snapshots(progress)
    if ports.rds.describe_snapshot(kept) is not None or snapshots.seen(temporary, ports)[1]:
        return progress.having(stage="copy")
    if source is None:
        logger.warning("source was deleted by somebody else", kept_snapshot=None)
        return progress.having(stage="delete-snapshot")
    ports.rds.request_snapshot(temporary, source.database.identifier, snapshots.tags(rotation))
    return progress


def _copy(rotation: Rotation, progress: Decommission, source: Instance | None, ports: Ports) -> Decommission:
    temporary, kept = _snapshots(progress)
    return (
        progress.having(stage="delete-snapshot") if snapshots.is_copied(temporary, kept, rotation, ports) else progress
    )


def _delete_snapshot(rotation: Rotation, progress: Decommission, source: Instance | None, ports: Ports) -> Decommission:
    """The temporary one holds the old key, and would keep it from ever being retired."""
    temporary, _ = _snapshots(progress)
    if ports.rds.describe_snapshot(temporary) is None:
        return progress.having(stage="delete-source")
    ports.rds.request_snapshot_deletion(temporary)
    return progress


def _delete_source(rotation: Rotation, progress: Decommission, source: Instance | None, ports: Ports) -> Decommission:
    if source is None:
        return progress.having(stage="rekey-kept")
    # Its replicas first: RDS would promote them.
    for instance in left_behind(rotation, ports) or (source,):
        if instance.deletion_protection:
            ports.rds.disable_deletion_protection(instance.database.identifier)
        elif instance.status != "deleting":
            # Its automated backups stay and expire by themselves: the last way back to before the rotation.
            ports.rds.request_instance_deletion(instance.database.identifier, keep_automated_backups=True)
    return progress


def _rekey_kept(rotation: Rotation, progress: Decommission, source: Instance | None, ports: Ports) -> Decommission:
    """What earlier rotations of this database kept is under the old key, and would keep it from ever being retired.

    One at a time: copied under the new key, and deleted only when the copy is available under it.
    """
    plan, _ = rotation.planned()
    old = rotation.old_key
    ours = {names.BASE_NAME_TAG: plan.base_name}
    kept = ports.rds.snapshots_under(old.arn, ours) if old is not None else ()
    if not kept:
        return _finished(rotation, progress, ports)
    if snapshots.is_copied(kept[0], names.rekeyed_snapshot(kept[0], rotation.rotation_id), rotation, ports):
        ports.rds.request_snapshot_deletion(kept[0])
    return progress


def _finished(rotation: Rotation, progress: Decommission, ports: Ports) -> Decommission:
    plan, _ = rotation.planned()
    target = rotation.synced_target()
    # Only a fence needs a control database.
    if rotation.fence is not None and ports.rds.describe_instance_by_resource_id(target.resource_id) is not None:
        ports.engine(target, plan).drop_control_database()
    ports.ledger.release_lock(rotation)
    return progress.having(stage="done", complete=True, source_deleted_at=ports.clock.now())


_STAGES = {
    "snapshot": _snapshot,
    "copy": _copy,
    "delete-snapshot": _delete_snapshot,
    "delete-source": _delete_source,
    "rekey-kept": _rekey_kept,
}


def _snapshots(progress: Decommission) -> tuple[str, str]:
    return str(progress.temporary_snapshot), str(progress.kept_snapshot)


handler = step(decommission)
