"""What became of a promotion that was requested. Facts from RDS and from the server itself, never from the state."""

from datetime import timedelta

from lambdas.rotation.ports import Ports
from lambdas.rotation.state import Database, Rotation, Undo

STILL_A_REPLICA = timedelta(seconds=10)
"""RDS may take a moment to show that it has accepted a promotion."""
NOTHING_UNDER_WAY = ("available", "failed", "incompatible", "restore-error")
"""Beginnings of the states in which RDS is not working on an instance: it is in use, or RDS has given it up."""


class Undecided(Exception):
    """Not to be decided at this visit; ``undo`` says why, for the next one."""

    def __init__(self, undo: Undo, reason: str) -> None:
        super().__init__(reason)
        self.undo = undo.having(outcome="undecided", reason=reason)


def promoted_target(rotation: Rotation, undo: Undo, ports: Ports) -> Database | None:
    """The target as a primary; None when it is certain that it can no longer become one.

    Certain is: it does not exist; or it is a replica by RDS's books and by its own words with nothing under way, seen
    twice, some time apart, after every function that could have asked for the promotion has ended.

    Raises:
        Undecided: not known yet.
    """
    plan, _ = rotation.planned()
    target = rotation.synced_target()
    instance = ports.rds.describe_instance_by_resource_id(target.resource_id)
    if instance is None:
        if ports.rds.describe_instance(target.identifier) is not None:
            raise Undecided(undo, f"{target.identifier} is not the instance that was to be promoted")
        return None
    if instance.status == "deleting":
        raise Undecided(undo, f"{target.identifier} is being deleted")
    if not ports.engine(instance.database, plan).is_replica():
        return instance.database
    if not instance.status.startswith(NOTHING_UNDER_WAY) or instance.replica_of is None:
        nothing_seen = undo.having(replica_seen_at=None)
        raise Undecided(nothing_seen, f"{target.identifier} may be about to be promoted (it is {instance.status})")
    now = ports.clock.now()
    if undo.replica_seen_at is None or now - undo.replica_seen_at < STILL_A_REPLICA:
        seen = undo.having(replica_seen_at=undo.replica_seen_at or now)
        raise Undecided(seen, f"{target.identifier} is a replica; to be seen once more")
    return None
