"""A snapshot of the source and its copy under the new key, whichever step needs them: asked for, seen, trusted."""

from collections.abc import Mapping
from typing import Any

from lambdas.rotation import names
from lambdas.rotation.errors import SnapshotFailed
from lambdas.rotation.ports import Ports
from lambdas.rotation.state import Rotation


def seen(identifier: str, ports: Ports) -> tuple[Mapping[str, Any] | None, bool]:
    """What RDS says of it, and whether it is available. Raises: SnapshotFailed (terminal); RDS has given it up."""
    snapshot = ports.rds.describe_snapshot(identifier)
    status = snapshot.get("Status") if snapshot is not None else None
    if status == "failed":
        raise SnapshotFailed(f"snapshot {identifier} failed; delete it, then start the rotation again")
    return snapshot, status == "available"


def is_copied(original: str, copy: str, rotation: Rotation, ports: Ports) -> bool:
    """Whether the copy is available under the new key. Asks for it where it is not there; does not wait.

    Raises:
        SnapshotFailed: terminal; RDS has given it up, or it is under another key.
    """
    key_arn = rotation.keyed().arn
    found, available = seen(copy, ports)
    if found is None or not available:
        ports.rds.request_snapshot_copy(original, copy, key_arn, tags(rotation))
        return False
    if found.get("KmsKeyId") != key_arn:
        raise SnapshotFailed(f"snapshot {copy} is under {found.get('KmsKeyId')}, not under the new key")
    return True


def tags(rotation: Rotation) -> dict[str, str]:
    plan, _ = rotation.planned()
    return names.our_tags(plan.base_name, rotation.rotation_id)


def pair_of(rotation: Rotation) -> tuple[str, str]:
    """Names of the snapshot under the old key, which is temporary, and of its copy under the new one, which is kept.

    Not after the target, which may have the name of a database that many rotations will have made snapshots of.
    """
    plan, _ = rotation.planned()
    stem = names.target_identifier(plan.base_name, rotation.rotation_id)
    return names.temporary_snapshot(stem), names.kept_snapshot(stem)
