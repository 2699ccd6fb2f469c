"""TakeSnapshot: the fenced source, as it is, under the old key."""

from lambdas.rotation import reach, snapshots
from lambdas.rotation.errors import FenceBroken, UnknownDatabase
from lambdas.rotation.outage import look_again_seconds, refuse_if_spent
from lambdas.rotation.ports import Ports
from lambdas.rotation.state import Restoration, Rotation
from lambdas.rotation.step import logger, step


def take_snapshot(rotation: Rotation, ports: Ports) -> Rotation:
    """Look whether the snapshot is available, and ask for it where it is not there. Does not wait.

    The fence has a position before this asks, so everything that was acknowledged is in the snapshot. Whatever is
    written to the source from then on is not: the fence is looked at once more. Idempotent by name and tag.

    Raises:
        FenceBroken: terminal; somebody can write to the source. Nothing was asked for.
        SnapshotFailed, NameTaken, BudgetSpent: terminal; the rollback opens the source, and nothing is lost.
    """
    plan, database = rotation.planned()
    fence, _ = rotation.fenced_source()
    temporary, kept = snapshots.pair_of(rotation)
    restoration = rotation.restoration or Restoration(temporary_snapshot=temporary, kept_snapshot=kept)
    if restoration.stage != "snapshot":
        return rotation
    refuse_if_spent(rotation, f"snapshot {temporary}", ports)
    if snapshots.is_available(temporary, ports):
        logger.info("snapshot taken", snapshot=temporary)
        return rotation.having(restoration=restoration.having(stage="copy"))
    source = ports.rds.describe_instance_by_resource_id(database.resource_id)
    if source is None:
        raise UnknownDatabase(f"{database.identifier} is gone")
    if breach := ports.engine(database, plan).fence_breach(fence.databases):
        raise FenceBroken(f"{database.identifier}: {breach}")
    # Written down before the call: whatever becomes of its answer, a rollback has to look for this snapshot.
    rotation = rotation.having(restoration=restoration.having(look_again_seconds=look_again_seconds(rotation, ports)))
    ports.ledger.record(rotation)
    ports.rds.request_snapshot(temporary, source.database.identifier, snapshots.tags(rotation))
    return rotation


handler = step(take_snapshot, reaches=(reach.rds, reach.snapshot, reach.source_server))
