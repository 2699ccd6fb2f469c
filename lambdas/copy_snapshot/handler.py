"""CopySnapshot: the same data under the new key."""

from lambdas.rotation import reach, snapshots
from lambdas.rotation.outage import look_again_seconds, refuse_if_spent
from lambdas.rotation.ports import Ports
from lambdas.rotation.state import Rotation
from lambdas.rotation.step import logger, step


def copy_snapshot(rotation: Rotation, ports: Ports) -> Rotation:
    """Look whether the copy is available under the new key, and ask for it where it is not there. Does not wait.

    RDS writes all of it anew: a restore takes no key, a copy does (RDS API reference: CopyDBSnapshot). A fenced
    source's copy stays, as what Decommission would otherwise make to be kept. Idempotent by name and tag.

    A cluster's is not copied: its restore takes a key (RestoreDBClusterFromSnapshot), and applications wait.

    Raises:
        SnapshotFailed, NameTaken, BudgetSpent, CatchUpFailed: terminal; the rollback opens the source if it is fenced,
            and nothing is lost.
    """
    restoration = rotation.restored()
    if restoration.stage != "copy":
        return rotation
    if rotation.planned()[1].is_cluster:
        return rotation.having(restoration=restoration.having(stage="restore"))
    refuse_if_spent(rotation, f"snapshot {restoration.kept_snapshot}", ports)
    original, copy = restoration.temporary_snapshot, restoration.kept_snapshot
    if snapshots.is_copied(ports.rds.describe_snapshot(copy), rotation):
        logger.info("snapshot copied", snapshot=copy)
        return rotation.having(restoration=restoration.having(stage="restore"))
    ports.rds.request_snapshot_copy(original, copy, rotation.keyed().arn, snapshots.tags(rotation))
    return rotation.having(restoration=restoration.having(look_again_seconds=look_again_seconds(rotation, ports)))


handler = step(copy_snapshot, reaches=(reach.snapshot_to_copy,))
