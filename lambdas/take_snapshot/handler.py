"""TakeSnapshot: the source, fenced or captured, as it is, under the old key."""

from lambdas.rotation import databases, fenced_writer, reach, snapshots
from lambdas.rotation.errors import FenceBroken, UnknownDatabase
from lambdas.rotation.outage import look_again_seconds, refuse_if_spent
from lambdas.rotation.ports import Ports
from lambdas.rotation.snapshots import NOTES
from lambdas.rotation.state import Restoration, Rotation
from lambdas.rotation.step import logger, step

AFTER, BEFORE = NOTES


def take_snapshot(rotation: Rotation, ports: Ports) -> Rotation:
    """Ask for the snapshot, or look whether it is available. Does not wait.

    The fence has a position before this asks, so everything that was acknowledged is in the snapshot. Whatever is
    written to the source from then on is not: the fence is looked at once more. Without a fence the source keeps what
    it commits from before the snapshot on. Idempotent by name and tag.

    Raises:
        FenceBroken: terminal; somebody can write to the source. Nothing was asked for.
        SnapshotFailed, NameTaken, BudgetSpent, CatchUpFailed: terminal; the rollback opens the source if it is fenced,
            and nothing is lost.
    """
    if rotation.capture is None:
        rotation.fenced_source()
    temporary, kept = snapshots.pair_to_restore(rotation)
    restoration = rotation.restoration or Restoration(temporary_snapshot=temporary, kept_snapshot=kept)
    if restoration.stage != "snapshot":
        return rotation
    refuse_if_spent(rotation, f"snapshot {temporary}", ports)
    restoration = restoration.having(look_again_seconds=look_again_seconds(rotation, ports))
    # Not at every look: while RDS takes a snapshot the server may not answer for a moment.
    plan, database = rotation.planned()
    found = databases.describe_snapshot(database, temporary, ports) if rotation.restoration is not None else None
    if found is None:
        rotation = rotation.having(restoration=restoration)
        _ask(rotation, temporary, ports)
    elif snapshots.is_available(found):
        logger.info("snapshot taken", snapshot=temporary)
        if rotation.capture is not None:
            ports.catching_up(database, plan).leave_a_note(rotation.rotation_id, AFTER)
        restoration = restoration.having(stage="copy")
    return rotation.having(restoration=restoration)


def _ask(rotation: Rotation, snapshot: str, ports: Ports) -> None:
    """RDS takes no snapshot of an instance that is busy: then the next visit asks again."""
    plan, database = rotation.planned()
    source = databases.by_resource_id(database.resource_id, ports)
    if source is None:
        raise UnknownDatabase(f"{database.identifier} is gone")
    if rotation.capture is not None:
        ports.catching_up(database, plan).leave_a_note(rotation.rotation_id, BEFORE)
    else:
        fence, _ = rotation.fenced_source()
        if breach := ports.engine(database, plan).fence_breach(fence.databases):
            raise FenceBroken(f"{database.identifier}: {breach}")
        if changed := fenced_writer.taken_over(fence, source):  # CheckTarget would say so, hours later
            raise FenceBroken(changed)
    # Written down before the call: whatever becomes of its answer, a rollback has to look for this snapshot.
    ports.ledger.record(rotation)
    databases.request_snapshot(source.database, snapshot, snapshots.tags(rotation), ports)
    logger.info("snapshot requested", snapshot=snapshot)


handler = step(take_snapshot, reaches=(reach.database, reach.snapshot, reach.isolation_group, reach.source_server))
