"""A copy under the new key where RDS makes none: neither of an unencrypted cluster's snapshot nor of a Multi-AZ DB
cluster's, which it restores under one (RDS API reference: CopyDBClusterSnapshot, RestoreDBClusterFromSnapshot; RDS User
Guide: limitations of Multi-AZ DB clusters).

So the snapshot is restored, and a snapshot is taken of that. The cluster in between has no instance, so nobody can log
in; where RDS makes its instances with it, only those can who could log in to the source, and nobody is told of it.

What earlier rotations have kept is left as it is: an older snapshot may be of a size or a version that RDS does not
restore with the class and the IOPS of today.
"""

from dataclasses import replace

from lambdas.rotation import databases, names, snapshots
from lambdas.rotation.errors import NameTaken, RetirementRefused, SnapshotFailed
from lambdas.rotation.ports import Instance, Ports
from lambdas.rotation.state import Rotation


def is_needed(rotation: Rotation) -> bool:
    return not snapshots.can_be_copied(rotation.planned()[1])


def is_copied(original: str, copy: str, source: Instance | None, rotation: Rotation, ports: Ports) -> bool:
    """Whether the copy is there and nothing in between any more; if not, asks for what comes next. Does not wait.

    Raises:
        SnapshotFailed: terminal; RDS has given it up.
        RetirementRefused: terminal; neither side is there any more.
        NameTaken: terminal; a cluster has the name in between that this rotation did not make.
    """
    _, database = rotation.planned()
    if snapshots.is_copied(databases.describe_snapshot(database, copy, ports), rotation):
        return is_removed(rotation, ports)
    interim, identifier, tags = _seen(rotation, ports), _name(rotation), snapshots.tags(rotation)
    if interim is None:
        # Somebody may have deleted the source, and the target was made like it.
        like = source or databases.by_resource_id(rotation.synced_target().resource_id, ports)
        if like is None:
            raise RetirementRefused(f"{database.identifier} and its successor are gone: {original} is all that is left")
        ports.clusters.request_restore(_unserved(like), identifier, original, rotation.keyed().arn, tags)
    elif interim.is_unusable:
        raise SnapshotFailed(f"{identifier}, made of snapshot {original}, is {interim.status}; delete it, start again")
    elif interim.status == "available":
        ports.clusters.request_snapshot(copy, identifier, tags)
    return False


def is_removed(rotation: Rotation, ports: Ports) -> bool:
    """Asks for it."""
    interim = _seen(rotation, ports)
    if interim is None:
        return True
    if interim.deletion_protection:
        ports.clusters.disable_deletion_protection(interim.database.identifier)
    elif interim.status != "deleting":
        ports.clusters.request_deletion(interim.database, keep_automated_backups=False)
    return False


def _name(rotation: Rotation) -> str:
    plan, _ = rotation.planned()
    return names.interim_cluster(plan.base_name, rotation.rotation_id)


def _seen(rotation: Rotation, ports: Ports) -> Instance | None:
    found = ports.clusters.describe(_name(rotation))
    if found is not None and found.tags.get(names.ROTATION_ID_TAG) != rotation.rotation_id:
        raise NameTaken(f"cluster {_name(rotation)} exists, and this rotation did not make it; rename it")
    return found


def _unserved(like: Instance) -> Instance:
    """Nobody logs in to it, reads its logs, or needs it for longer than a snapshot takes."""
    not_needed = ("BacktrackWindow", "DeletionProtection", "EnabledCloudwatchLogsExports", "PubliclyAccessible")
    return replace(like, raw={name: value for name, value in like.raw.items() if name not in not_needed})
