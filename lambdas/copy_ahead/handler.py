"""CopyAhead: a snapshot and its copy under the new key while applications write, before the ones that they wait for."""

from datetime import timedelta

from lambdas.rotation import snapshots
from lambdas.rotation.errors import SnapshotFailed, UnknownDatabase
from lambdas.rotation.polling import look_again_seconds
from lambdas.rotation.ports import Ports
from lambdas.rotation.state import PreCopy, Rotation
from lambdas.rotation.step import logger, step

PATIENCE = timedelta(hours=48)
OFTEN_SECONDS, SELDOM_SECONDS = 60, 600


def copy_ahead(rotation: Rotation, ports: Ports) -> Rotation:
    """Do the next thing, or see that the last one is not done yet. Does not wait, and fences nothing. Repeatable.

    Nothing is ever restored from these two. RDS stores what has changed since the last snapshot, so the one under the
    fence has less to do (RDS User Guide: snapshots are incremental); and a copy under this key that fails, fails while
    applications can write. Decommission, or CleanUp, removes them.

    Raises:
        SnapshotFailed: terminal; RDS has given one of them up, or is not done after 48 hours.
        NameTaken, UnknownDatabase: terminal.
    """
    _, database = rotation.planned()
    now = ports.clock.now()
    ahead = rotation.pre_copy or PreCopy(started_at=now)
    if ahead.complete:
        return rotation
    original, copy = snapshots.early_pair_of(rotation)
    if snapshots.is_copied(ports.rds.describe_snapshot(copy), rotation):
        logger.info("copied ahead", snapshot=copy)
        return rotation.having(pre_copy=ahead.having(complete=True))
    if now - ahead.started_at >= PATIENCE:
        raise SnapshotFailed(f"{original} and its copy {copy} are not done after 48 hours")
    again = look_again_seconds(ahead.started_at, now, often=OFTEN_SECONDS, seldom=SELDOM_SECONDS)
    rotation = rotation.having(pre_copy=ahead.having(look_again_seconds=again))
    # Written down before the call: whatever becomes of its answer, a rollback has to look for these two.
    ports.ledger.record(rotation)
    taken = ports.rds.describe_snapshot(original)
    if taken is None:
        source = ports.rds.describe_instance_by_resource_id(database.resource_id)
        if source is None:
            raise UnknownDatabase(f"{database.identifier} is gone")
        ports.rds.request_snapshot(original, source.database.identifier, snapshots.tags(rotation))
    elif snapshots.is_available(taken):
        ports.rds.request_snapshot_copy(original, copy, rotation.keyed().arn, snapshots.tags(rotation))
    return rotation


handler = step(copy_ahead)
