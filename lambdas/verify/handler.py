"""Verify: look at everything after the cutover, and keep the evidence."""

from datetime import timedelta
from typing import Any

from lambdas.rotation import databases, handover, snapshots
from lambdas.rotation.errors import StateIncomplete, VerificationFailed
from lambdas.rotation.handover import advance, mark_members, mark_replicas, move_opt_in
from lambdas.rotation.ports import Instance, Ports
from lambdas.rotation.state import Rotation, Verification
from lambdas.rotation.state_size import as_evidence
from lambdas.rotation.step import logger, step
from lambdas.verify import checks

PATIENCE = timedelta(minutes=30)


def verify(rotation: Rotation, ports: Ports) -> Rotation:
    """Look once; what is not yet as it should be is ``pending``, and the state machine comes again.

    Ends the capture, lets the base name lead to the target, and moves the opt-in there, before anything else: whatever
    is found here, applications write to the target. Idempotent.

    Raises:
        VerificationFailed: terminal; something stays wrong for 30 minutes, or the source accepts writes again.
            Nothing is undone or deleted; a person looks at it.
    """
    release, now = rotation.release, ports.clock.now()
    if release is None:
        raise StateIncomplete("needs a release: the target has not been opened")
    grace_ends_at = handover.grace_ends_at(rotation, release.released_at, now)
    if rotation.verification is not None and rotation.verification.complete:
        # A recovery of a rotation that was further than this.
        return rotation.having(grace_ends_at=grace_ends_at, failure=None)
    _, source = rotation.planned()
    target = rotation.synced_target()
    live_source = databases.by_resource_id(source.resource_id, ports)
    live_target = databases.by_resource_id(target.resource_id, ports)
    if live_target is None:
        raise VerificationFailed(f"{target.identifier} no longer exists, and applications write to it")
    # First: where something below ends this for good, a slot would go on keeping what fills the source's disk.
    captured = checks.capture(rotation, live_source, ports)
    advance(rotation, ports)
    move_opt_in(rotation, live_source, live_target, ports)
    source_members = databases.instances_of(live_source, ports) if live_source is not None else []
    target_members = databases.instances_of(live_target, ports)
    mark_members(rotation, source_members, target_members, ports)
    mark_replicas(rotation, ports)
    unseen_fence, breach = checks.source_is_fenced(rotation, ports) if live_source is not None else (None, None)
    if breach is not None:
        raise VerificationFailed(f"{source.identifier} accepts connections beside the target: {breach}")
    found, unlike = checks.inside(rotation, target, ports)
    pending = (
        checks.target_is_up(live_target),
        checks.key_of_target(rotation, live_target),
        checks.members(rotation, source_members, target_members),
        checks.groups_of_members(rotation, live_target, target_members),
        checks.settings(rotation, live_source, live_target, ports) if live_source is not None else None,
        checks.name(rotation, source, target, ports),
        checks.secret(rotation, target, ports),
        checks.proxy(rotation, target, ports),
        unlike,
        unseen_fence,
        captured,
    )
    verification = Verification(
        complete=not any(pending),
        pending=tuple(reason for reason in pending if reason),
        started_at=rotation.started_at_or(rotation.verification, now),
        observed_at=now,
        evidence=_evidence(rotation, live_target, found),
    )
    if not verification.complete and now - verification.started_at > PATIENCE:
        raise VerificationFailed("; ".join(verification.pending))
    logger.info("verified" if verification.complete else "not verified yet", pending=verification.pending)
    return rotation.having(verification=verification, grace_ends_at=grace_ends_at, failure=None)


def _evidence(rotation: Rotation, target: Instance, found: dict[str, Any]) -> dict[str, Any]:
    """What an auditor asks for, as it was seen: JSON, nothing secret."""
    _, source = rotation.planned()
    release, fence, check = rotation.release, rotation.fence, rotation.target_check
    kept, left_out = as_evidence(found)
    return {
        "source": {"identifier": source.identifier, "resource_id": source.resource_id, "key": source.kms_key_arn},
        "target": {
            "identifier": target.database.identifier,
            "resource_id": target.database.resource_id,
            "key": target.database.kms_key_arn,
        },
        "fence_position": fence.position if fence else None,
        "fence_raised_at": fence.raised_at.isoformat() if fence and fence.raised_at else None,
        "replayed": rotation.drain.replayed if rotation.drain else None,
        "restored_from": snapshots.of_the_target(rotation) if rotation.restoration else None,
        "caught_up_from": rotation.capture.applied_from if rotation.capture else None,
        "system_identifier": check.system_identifier if check else None,
        "released_at": release.released_at.isoformat() if release else None,
        "write_outage_seconds": release.write_outage_seconds if release else None,
        "decision": "release",
        "databases": kept,
        "databases_left_out": left_out,
        "interrupted_by": rotation.failure.Error if rotation.failure else None,
    }


handler = step(verify)
