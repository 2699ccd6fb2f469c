"""A snapshot of the source and its copy under the new key, whichever step needs them: asked for, seen, trusted."""

from lambdas.rotation import names
from lambdas.rotation.errors import SnapshotFailed
from lambdas.rotation.ports import Ports
from lambdas.rotation.state import Rotation


def is_available(identifier: str, ports: Ports) -> bool:
    """Raises: SnapshotFailed (terminal); RDS has given it up."""
    snapshot = ports.rds.describe_snapshot(identifier)
    if snapshot is not None and snapshot.get("Status") == "failed":
        raise SnapshotFailed(f"snapshot {identifier} failed; delete it, then start the rotation again")
    return snapshot is not None and snapshot.get("Status") == "available"


def is_copied(original: str, copy: str, rotation: Rotation, ports: Ports) -> bool:
    """Whether the copy is available under the new key. Asks for it where it is not there; does not wait.

    Raises:
        SnapshotFailed: terminal; RDS has given it up, or it is under another key.
    """
    key_arn = rotation.keyed().arn
    if not is_available(copy, ports):
        ports.rds.request_snapshot_copy(original, copy, key_arn, tags(rotation))
        return False
    found = ports.rds.describe_snapshot(copy) or {}
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
