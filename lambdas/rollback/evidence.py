"""What became of a target that was asked for: by RDS, the server itself and the journal, never by the state passed."""

from datetime import timedelta

from lambdas.rotation import databases
from lambdas.rotation.ports import GIVEN_UP, Instance, Ports
from lambdas.rotation.state import Database, Rotation, Undo

STILL_A_REPLICA = timedelta(minutes=2)
"""RDS may take a moment to show that it has accepted a promotion, and an attempt that nobody heard of one to ask for it
(longer than any function runs). Neither epoch nor decision row stops that: a source that was opened too early is opened
by its own writes on the target, too, which then accepts applications beside it."""
NOTHING_UNDER_WAY = ("available", *GIVEN_UP)
"""Beginnings of the states in which RDS is not working on an instance: it is in use, or RDS has given it up.

Not every state in which it is unusable: of one that is full, or has lost its key, a promotion may go on as soon as its
owner has helped. WaitForPromotion does not wait for that, because here people are told after five minutes."""


class Undecided(Exception):
    """Not to be decided at this visit; ``undo`` says why, for the next one."""

    def __init__(self, undo: Undo, reason: str) -> None:
        super().__init__(reason)
        self.undo = undo.having(outcome="undecided", reason=reason)


def releasable_target(rotation: Rotation, undo: Undo, ports: Ports) -> Database | None:
    """The target as a primary, where it may have been released; None when it is certain that it never will be.

    Raises:
        Undecided: not known yet.
    """
    if rotation.promotion is not None:
        return promoted_target(rotation, undo, ports)
    if rotation.restoration is not None:
        return restored_target(rotation, undo, ports)
    return None


def restored_target(rotation: Rotation, undo: Undo, ports: Ports) -> Database | None:
    """None when it does not exist, or was never checked, whatever RDS makes of it meanwhile.

    Only ResumeWrites releases, and only where the journal has CheckTarget's result. Nobody of before writes to the
    journal any more, and nobody of before is alive: without that result no target of this rotation was released, or
    ever can be (ADR 14). It need not be waited for while RDS is still making it, nor while it does not answer: it is
    born fenced, and CleanUp removes it.

    Raises:
        Undecided: not known yet.
    """
    if rotation.target_check is None:
        return None
    found = _existing(rotation, undo, ports)
    return found.database if found is not None else None


def promoted_target(rotation: Rotation, undo: Undo, ports: Ports) -> Database | None:
    """The target as a primary; None when it is certain that it can no longer become one.

    Certain is: it does not exist; or it is a replica by RDS's books and by its own words with nothing under way, seen
    twice, some time apart, after every function that could have asked for the promotion has ended.

    Raises:
        Undecided: not known yet.
    """
    plan, _ = rotation.planned()
    target = rotation.synced_target()
    instance = _existing(rotation, undo, ports)
    if instance is None:
        return None
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


def _existing(rotation: Rotation, undo: Undo, ports: Ports) -> Instance | None:
    target = rotation.synced_target()
    instance = databases.by_resource_id(target.resource_id, ports)
    if instance is None and databases.like(target, target.identifier, ports) is not None:
        raise Undecided(undo, f"{target.identifier} is not the instance that this rotation has seen")
    if instance is not None and instance.status == "deleting":
        raise Undecided(undo, f"{target.identifier} is being deleted")
    return instance
