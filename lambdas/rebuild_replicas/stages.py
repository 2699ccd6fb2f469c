"""What is done for one replica: first a successor is made, then the two change names.

Each gives the stage that comes next, or the same one and what is being waited for.
"""

from lambdas.rotation import handover, making, marks, names, settings
from lambdas.rotation.errors import AwsRefused, ReplicasNotRebuilt
from lambdas.rotation.limitations import waiting_for_a_restart
from lambdas.rotation.ports import Instance, Ports
from lambdas.rotation.state import Replica, Rotation, Successor
from lambdas.rotation.step import logger

Next = tuple[Successor, str | None]

_NOT_YET = "InvalidDBInstanceState"
"""RDS replicates nothing that is at work, or has no backup yet, which takes hours of what was restored."""
_OF_THE_PRIMARY = ("engine version",)
"""RDS may have upgraded either side since the start: the successor has that of the target."""


def make(replica: Replica, successor: Successor, target: Instance, rotation: Rotation, ports: Ports) -> Next:
    """Ask for a replica of the target, and see it replicate under the new key with the old one's settings."""
    plan, database = rotation.planned()
    identifier = names.successor_identifier(replica.identifier, rotation.rotation_id)
    old = ports.rds.describe_instance_by_resource_id(replica.resource_id)
    new = ports.rds.describe_instance(identifier)
    named = ports.rds.describe_instance(replica.identifier) if old is None else None
    if named is not None and named.database.resource_id == replica.resource_id:
        return successor, "to be seen by its resource id, too"
    if old is None or old.replica_of is None:
        if old is not None and ports.rds.describe_instance_by_resource_id(database.resource_id) is None:
            # Not its owner: RDS promotes the replicas of what is deleted.
            raise ReplicasNotRebuilt(f"{database.identifier} was deleted, and RDS has promoted {replica.identifier}")
        if old is not None and names.DECOMMISSION_TAG in old.tags:
            ports.rds.remove_tags(old.database.arn, [names.DECOMMISSION_TAG])
        return _leave_out(successor, replica, new, rotation, ports)
    if new is None or not _is_ours(new, rotation):
        ours = names.our_tags(plan.base_name, rotation.rotation_id)
        try:
            ports.rds.request_read_replica(target, identifier, rotation.keyed().arn, ours, like=old)
        except AwsRefused as refused:
            if refused.code != _NOT_YET:
                raise
            return successor, str(refused)
        logger.info("replica requested", replica=replica.identifier, identifier=identifier)
        return successor, f"{identifier} to appear"
    if waiting_for := making.waiting_for(rotation, new, ReplicasNotRebuilt):
        return successor, f"{identifier}: {'; '.join(waiting_for)}"
    if (reason := _not_following(new, target)) is not None:
        return successor, reason
    if repaired := settings.request_repair(old, new, ports, besides=_OF_THE_PRIMARY):
        return successor, f"settings of {identifier} ({', '.join(repaired)})"
    if waiting := list(waiting_for_a_restart(new)):  # a group of the old one's own: nobody reads the new one yet
        ports.rds.request_reboot(identifier)
        return successor, f"{identifier} to restart with {', '.join(waiting)}"
    return successor.having(stage="swap", resource_id=new.database.resource_id), f"{identifier} to get the name"


def swap(replica: Replica, successor: Successor, target: Instance, rotation: Rotation, ports: Ports) -> Next:
    """Let the old one give its name away, then the successor take it. Readers find it by that name from then on.

    RDS takes minutes for each, and nobody finds either meanwhile; nobody could log in to the old one anyway.
    """
    old = ports.rds.describe_instance_by_resource_id(replica.resource_id)
    new = ports.rds.describe_instance_by_resource_id(str(successor.resource_id))
    if new is None:
        return Successor(), "its successor is gone, and is made anew"
    if new.database.identifier != replica.identifier:
        given_away = names.replaced_identifier(replica.identifier, rotation.rotation_id)
        if old is not None and old.database.identifier != given_away:
            _refuse_to_rename(replica, old, rotation)
            verified_at = rotation.verification.observed_at if rotation.verification else None
            if marks.seconds_to_settle(verified_at, ports.clock.now()):
                return successor, "its mark to count, by which it may be renamed"
            handover.move_opt_in(rotation, old, new, ports)
            ports.rds.request_rename(old, given_away)
            return successor, "the old one to give its name away"
        # Also where the old one is gone: what serves readers is no rollback's and no leftover.
        handover.move_opt_in(rotation, None, new, ports)
        ports.rds.request_rename(new, replica.identifier)
        return successor, f"{new.database.identifier} to take the name"
    if new.status != "available" or not new.database.address:
        return successor, f"it is {new.status}"
    if (reason := _not_following(new, target)) is not None:
        return successor, reason
    logger.info("replica replaced", replica=replica.identifier, resource_id=new.database.resource_id)
    return successor.having(stage="done"), None


def _refuse_to_rename(replica: Replica, old: Instance, rotation: Rotation) -> None:
    """What its owner has changed meanwhile is the owner's to decide on."""
    if old.tags.get(names.DECOMMISSION_TAG) != rotation.rotation_id:
        # Verify has set it. This step, which renames what has it, may set it nowhere.
        raise ReplicasNotRebuilt(f"{replica.identifier} has lost its tag {names.DECOMMISSION_TAG}")
    if old.database.identifier != replica.identifier:
        raise ReplicasNotRebuilt(f"it is called {old.database.identifier} now")
    if old.replica_of is None:
        raise ReplicasNotRebuilt(f"{replica.identifier} is no replica any more, and keeps its name")


def _is_ours(new: Instance, rotation: Rotation) -> bool:
    return new.tags.get(names.ROTATION_ID_TAG) == rotation.rotation_id


def _not_following(new: Instance, target: Instance) -> str | None:
    identifier = new.database.identifier
    if new.replica_of != target.database.identifier:
        return f"{identifier} replicates {new.replica_of}"
    return None if new.replication_normal else f"{identifier} to replicate"


def _leave_out(successor: Successor, replica: Replica, new: Instance | None, rotation: Rotation, ports: Ports) -> Next:
    """Its owner has deleted or promoted it: what was made in its place has no readers, and is removed."""
    if new is None or not _is_ours(new, rotation):
        logger.warning("replica left out: it is gone, or no replica any more", replica=replica.identifier)
        return successor.having(stage="left-out"), None
    identifier = new.database.identifier
    if new.deletion_protection:
        ports.rds.disable_deletion_protection(identifier)
    elif new.status != "deleting":
        ports.rds.request_instance_deletion(new.database, keep_automated_backups=False)
    return successor, f"{identifier} to be gone, which nobody reads"
