"""RestoreTarget: ask RDS for the target."""

from lambdas.rotation import databases, names, reach, snapshots
from lambdas.rotation.errors import UnknownDatabase
from lambdas.rotation.outage import refuse_if_spent
from lambdas.rotation.ports import Ports
from lambdas.rotation.state import Rotation
from lambdas.rotation.step import logger, step


def restore_target(rotation: Rotation, ports: Ports) -> Rotation:
    """Ask for the target, made of the snapshot under the new key, with every setting that can be given then.

    A cluster has no instance then; WaitForRestore asks for those. It is born fenced: the fence is in the data, if the
    source was fenced; else WaitForRestore closes it.
    Idempotent: a target with this rotation's tag is adopted. Does not wait: WaitForRestore observes.

    Raises:
        NameTaken, AwsRefused, BudgetSpent, CatchUpFailed: terminal; the rollback opens the source if it is fenced, and
            nothing is lost.
    """
    plan, database = rotation.planned()
    restoration = rotation.restored()
    if restoration.stage != "restore":
        return rotation
    target = names.target_identifier(plan.base_name, rotation.rotation_id)
    refuse_if_spent(rotation, target, ports)
    source = databases.by_resource_id(database.resource_id, ports)
    if source is None:
        raise UnknownDatabase(f"{database.identifier} is gone")
    requested_at = restoration.requested_at or ports.clock.now()
    rotation = rotation.having(target_identifier=target, restoration=restoration.having(requested_at=requested_at))
    # Written down before the call: from here on a target may come to exist, and a rollback has to look for it.
    ports.ledger.record(rotation)
    snapshot, tags = snapshots.of_the_target(rotation), snapshots.tags(rotation)
    databases.request_restore(source, target, snapshot, rotation.keyed().arn, tags, ports)
    logger.info("target requested", target=target, snapshot=snapshot)
    return rotation


handler = step(restore_target, reaches=(reach.database,))
