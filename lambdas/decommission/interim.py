"""A copy under the new key where RDS makes none: neither of an unencrypted cluster's snapshot nor of a Multi-AZ DB
cluster's, which it restores under one (RDS API reference: CopyDBClusterSnapshot, RestoreDBClusterFromSnapshot; RDS User
Guide: limitations of Multi-AZ DB clusters).

So the snapshot is restored, and a snapshot is taken of that. The cluster in between has no instance, so nobody can log
in; where RDS makes its instances with it, only those can who could log in to the source, and nobody is told of it.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from lambdas.rotation import databases, names, snapshots
from lambdas.rotation.errors import NameTaken, RetirementRefused, SnapshotFailed
from lambdas.rotation.ports import Instance, Ports
from lambdas.rotation.state import Rotation


def is_needed(rotation: Rotation) -> bool:
    _, database = rotation.planned()
    return database.is_multi_az_cluster or (database.is_cluster and database.kms_key_arn is None)


def is_copied(original: str, copy: str, source: Instance | None, rotation: Rotation, ports: Ports) -> bool:
    """Whether the copy is there and nothing in between any more; if not, asks for what comes next. Does not wait.

    Raises:
        SnapshotFailed: terminal; RDS has given it up.
        RetirementRefused: terminal; neither side is there any more.
        NameTaken: terminal; a cluster has the name in between that this rotation did not make.
    """
    plan, database = rotation.planned()
    identifier, tags = names.interim_cluster(plan.base_name, rotation.rotation_id), snapshots.tags(rotation)
    interim = ports.clusters.describe(identifier)
    if interim is not None and interim.tags.get(names.ROTATION_ID_TAG) != rotation.rotation_id:
        raise NameTaken(f"cluster {identifier} exists, and this rotation did not make it; rename it")
    if snapshots.is_copied(databases.describe_snapshot(database, copy, ports), rotation):
        return _is_removed(interim, ports)
    if interim is None:
        # Somebody may have deleted the source, and the target was made like it.
        like = source or databases.by_resource_id(rotation.synced_target().resource_id, ports)
        if like is None:
            raise RetirementRefused(f"{database.identifier} and its successor are gone: {original} is all that is left")
        found = databases.describe_snapshot(database, original, ports) or {}
        ports.clusters.request_restore(_kept_like(like, found), identifier, original, rotation.keyed().arn, tags)
    elif interim.is_unusable:
        raise SnapshotFailed(f"{identifier}, made of snapshot {original}, is {interim.status}; delete it, start again")
    elif interim.status == "available":
        ports.clusters.request_snapshot(copy, identifier, tags)
    return False


def _kept_like(like: Instance, snapshot: Mapping[str, Any]) -> Instance:
    """Of the snapshot's version, which a later rotation may have left behind, and of that one's default parameters."""
    raw = {**like.raw, "EngineVersion": snapshot.get("EngineVersion"), "DBClusterParameterGroup": None}
    return replace(like, raw=raw)


def _is_removed(interim: Instance | None, ports: Ports) -> bool:
    """Asks for it."""
    if interim is None:
        return True
    if interim.deletion_protection:
        ports.clusters.disable_deletion_protection(interim.database.identifier)
    elif interim.status != "deleting":
        ports.clusters.request_deletion(interim.database.identifier, keep_automated_backups=False)
    return False
