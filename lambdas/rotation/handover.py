"""What passes from the source to the target after every cutover: the base name's lead, and the owner's opt-in."""

from collections.abc import Iterable
from datetime import datetime, timedelta

from lambdas.rotation import databases, marks, names
from lambdas.rotation.errors import VerificationFailed
from lambdas.rotation.ports import Instance, Ports
from lambdas.rotation.state import Moment, Rotation

_LATE = timedelta(hours=1)
"""Longer than a cutover may take to be verified by itself: a person has come between."""
_TO_LOOK = timedelta(days=1)


def advance(rotation: Rotation, ports: Ports) -> None:
    """Let the base name lead to the target; a name that a later rotation has led further is left alone.

    A database that is gone leads nowhere: somebody has restored one of that name since the last rotation.
    """
    plan, source = rotation.planned()
    led_to = ports.ledger.successor(plan.base_name)
    known = (None, source.resource_id, rotation.synced_target().resource_id)
    if led_to not in known and databases.by_resource_id(led_to or "", ports) is not None:
        raise VerificationFailed(f"{plan.base_name} leads to a database that this rotation does not know")
    ports.ledger.advance(rotation)


def move_opt_in(rotation: Rotation, source: Instance | None, target: Instance, ports: Ports) -> None:
    """To the target first: a fleet that looks in between sees the database twice rather than not at all."""
    _mark(target, names.RELEASED_TAG, rotation, ports)
    if source is None:
        return
    opt_in = names.opt_in_tags(source.tags)
    missing = {name: value for name, value in opt_in.items() if target.tags.get(name) != value}
    if missing:
        ports.rds.set_tags(target.database.arn, missing)
    _mark(source, names.DECOMMISSION_TAG, rotation, ports)
    if opt_in:
        ports.rds.remove_tags(source.database.arn, sorted(opt_in))


def grace_ends_at(rotation: Rotation, released_at: datetime, now: datetime) -> datetime:
    """When the source may go: the grace period after the release.

    Where people hear of the cutover late, because somebody had to help, a day of it begins now, or all of a shorter
    one: a source that went in the same minute nobody could have looked at. Once they have heard, it is as it was.
    """
    plan, _ = rotation.planned()
    if rotation.grace_ends_at is not None and Moment.CUT_OVER in rotation.notified:
        return rotation.grace_ends_at
    grace = timedelta(days=plan.grace_days)
    late = now + min(grace, _TO_LOOK) if now - released_at > _LATE else released_at
    # What may be done to the source then hangs on a mark that it gets now.
    return max(released_at + grace, late, now + marks.SETTLES_IN)


def mark_members(
    rotation: Rotation, of_source: Iterable[Instance], of_target: Iterable[Instance], ports: Ports
) -> None:
    """As the clusters that they belong to: what may go when its time has come, and what no rollback may delete.

    A target's that RDS has made have no tag of ours, without which nothing may mark them; their cluster has the mark.
    """
    for instance in () if rotation.planned()[1].is_multi_az_cluster else of_target:
        _mark(instance, names.RELEASED_TAG, rotation, ports)
    for instance in of_source:
        _mark(instance, names.DECOMMISSION_TAG, rotation, ports)


def mark_replicas(rotation: Rotation, ports: Ports) -> None:
    """The source's, for the end of the grace period. Who renames and replaces them may only do so to what is marked.

    The mark alone ends nothing: `Decommission` asks whether one was replaced, too. One that is no replica any more is
    somebody's database.
    """
    plan, _ = rotation.planned()
    for replica in plan.replicas:
        live = ports.rds.describe_instance_by_resource_id(replica.resource_id)
        if live is not None and live.replica_of is not None and live.status != "deleting":
            _mark(live, names.DECOMMISSION_TAG, rotation, ports)


def _mark(database: Instance, tag: str, rotation: Rotation, ports: Ports) -> None:
    if database.tags.get(tag) != rotation.rotation_id:
        ports.rds.set_tags(database.database.arn, {tag: rotation.rotation_id})
