"""A snapshot of the source and its copy under the new key, whichever step needs them: their names, and whether they are
to be trusted."""

from collections.abc import Callable, Mapping
from typing import Any

from lambdas.rotation import databases, names
from lambdas.rotation.errors import SnapshotFailed
from lambdas.rotation.ports import Ports
from lambdas.rotation.state import Database, Rotation


def can_be_copied(of: Database) -> bool:
    """Whether RDS copies its snapshots under a key: of no cluster without one, and of no Multi-AZ DB cluster."""
    return not of.is_multi_az_cluster and not (of.is_cluster and of.kms_key_arn is None)


def is_available(snapshot: Mapping[str, Any] | None) -> bool:
    """By what RDS says of it. Raises: SnapshotFailed (terminal); RDS has given it up."""
    if snapshot is None:
        return False
    if snapshot.get("Status") == "failed":
        raise SnapshotFailed(f"snapshot {_name(snapshot)} failed; delete it, then start the rotation again")
    return snapshot.get("Status") == "available"


def is_copied(copy: Mapping[str, Any] | None, rotation: Rotation) -> bool:
    """Whether the copy is available under the new key.

    Raises:
        SnapshotFailed: terminal; RDS has given it up, or it is under another key.
    """
    if copy is None or not is_available(copy):
        return False
    if copy.get("KmsKeyId") != rotation.keyed().arn:
        raise SnapshotFailed(f"snapshot {_name(copy)} is under {copy.get('KmsKeyId')}, not under the new key")
    return True


def _name(snapshot: Mapping[str, Any]) -> str:
    return str(snapshot.get("DBSnapshotIdentifier") or snapshot.get("DBClusterSnapshotIdentifier"))


def tags(rotation: Rotation) -> dict[str, str]:
    plan, _ = rotation.planned()
    return names.our_tags(plan.base_name, rotation.rotation_id)


def of_the_target(rotation: Rotation) -> str:
    """Name of the snapshot that the target is restored from: the copy, or of a cluster, which needs none, the original.

    The copy of a cluster's is made by Decommission, when nobody waits for it.
    """
    _, database = rotation.planned()
    restoration = rotation.restored()
    return restoration.temporary_snapshot if database.is_cluster else restoration.kept_snapshot


def is_ours(snapshot: Mapping[str, Any], rotation: Rotation) -> bool:
    """One without this rotation's tag was there before, and is not for us to touch."""
    mark = {"Key": names.ROTATION_ID_TAG, "Value": rotation.rotation_id}
    return mark in (snapshot.get("TagList") or ())


def request_removal(
    identifier: str, rotation: Rotation, ports: Ports, *, refuse: Callable[[], None] = lambda: None
) -> str | None:
    """Ask for the deletion of one that is ours. Returns what is then waited for, None when none is left to remove.

    ``refuse`` may raise before it is asked for, where there is one.
    """
    _, database = rotation.planned()
    found = databases.describe_snapshot(database, identifier, ports)
    if found is None or not is_ours(found, rotation):
        return None
    refuse()
    databases.request_snapshot_deletion(database, identifier, ports)
    return f"snapshot {identifier} to be deleted (it is {found.get('Status')})"


NOTES = ("after the snapshot", "before the snapshot")
"""Rows that a captured source is given around the snapshot. The target shows each once, or it began elsewhere."""


def pair_to_restore(rotation: Rotation) -> tuple[str, str]:
    """`pair_of`, where that is what the target is made of; else an earlier pair, from before the target caught up."""
    return pair_of(rotation) if rotation.capture is None else early_pair_of(rotation)


def early_pair_of(rotation: Rotation) -> tuple[str, str]:
    """Of a snapshot that was taken while applications wrote, and of its copy: nobody needs them after the cutover."""
    return _pair(rotation, "-early")


def pair_of(rotation: Rotation) -> tuple[str, str]:
    """Names of the snapshot under the old key, which is temporary, and of its copy under the new one, which is kept.

    Not after the target, which may have the name of a database that many rotations will have made snapshots of.
    """
    return _pair(rotation)


def _pair(rotation: Rotation, moment: str = "") -> tuple[str, str]:
    plan, _ = rotation.planned()
    stem = names.target_identifier(plan.base_name, rotation.rotation_id) + moment
    return names.temporary_snapshot(stem), names.kept_snapshot(stem)
