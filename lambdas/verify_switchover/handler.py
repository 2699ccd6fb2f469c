"""VerifySwitchover: look at everything after RDS has switched over, and keep the evidence."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from lambdas.rotation import databases, handover, names
from lambdas.rotation.errors import StateIncomplete, VerificationFailed
from lambdas.rotation.handover import advance, move_opt_in
from lambdas.rotation.ports import Instance, Ports
from lambdas.rotation.state import Member, Rotation, Verification
from lambdas.rotation.step import logger, step
from lambdas.verify_switchover import checks

PATIENCE = timedelta(minutes=30)

Side = tuple[Member, Instance | None, Instance | None]
"""A member, and its source and target as RDS shows them now."""


def verify_switchover(rotation: Rotation, ports: Ports) -> Rotation:
    """Look once; what is not yet as it should be is ``pending``, and the state machine comes again.

    First lets the base name lead to the target, and the opt-in. Then, of an instance, asks RDS to delete the
    deployment, which keeps both sides; one that it may not delete is left over, with the command. That of a cluster
    stays. Logs in to no database. Idempotent.

    Raises:
        VerificationFailed: terminal; something stays wrong for 30 minutes, or the target is gone. Nothing is undone;
            a person looks at it.
    """
    release, now = rotation.release, ports.clock.now()
    if release is None:
        raise StateIncomplete("needs a release: RDS has not been seen to have switched over")
    grace_ends_at = handover.grace_ends_at(rotation, release.released_at, now)
    if rotation.verification is not None and rotation.verification.complete:
        # A recovery of a rotation that was further than this.
        return rotation.having(grace_ends_at=grace_ends_at, failure=None)
    deployment = rotation.deployed()
    sides = [(member, *_sides(member, rotation, ports)) for member in deployment.members]
    for member, _, target in sides:
        if target is None:
            raise VerificationFailed(f"{member.source_identifier} no longer exists, and applications write to it")
    advance(rotation, ports)
    # Tags go by name: before RDS shows both sides as they are called now, those of the source would be production's.
    pending = [reason for side in sides for reason in checks.names_are_exchanged(*side)]
    leftovers: tuple[str, ...] = ()
    if not any(pending):
        pending, leftovers = _handed_over(rotation, sides, ports)
    verification = Verification(
        complete=not any(pending),
        pending=tuple(reason for reason in pending if reason),
        leftovers=leftovers,
        started_at=rotation.started_at_or(rotation.verification, now),
        observed_at=now,
        evidence=_evidence(rotation, [(source, target) for _, source, target in sides]),
    )
    if not verification.complete and now - verification.started_at > PATIENCE:
        raise VerificationFailed("; ".join(verification.pending))
    logger.info(
        "verified" if verification.complete else "not verified yet", pending=verification.pending, left=leftovers
    )
    return rotation.having(verification=verification, grace_ends_at=grace_ends_at, failure=None)


def _handed_over(rotation: Rotation, sides: Sequence[Side], ports: Ports) -> tuple[list[str | None], tuple[str, ...]]:
    """Hand over what is left to hand over, and say what is not yet as it should be, and what stays so."""
    for _, source, target in sides:
        assert target is not None
        move_opt_in(rotation, source, target, ports)
        _remember(rotation, source, target, ports)
    deployment, leftovers = checks.deployment(rotation, ports)
    reasons = (reason for side in sides for reason in checks.member(rotation, *side, ports))
    return [deployment, *reasons], leftovers


def _sides(member: Member, rotation: Rotation, ports: Ports) -> tuple[Instance | None, Instance | None]:
    source = databases.by_resource_id(member.source_resource_id, ports)
    return source, databases.by_resource_id(member.target_resource_id or "", ports)


def _remember(rotation: Rotation, source: Instance | None, target: Instance, ports: Ports) -> None:
    """What was left behind is known by its base name; it is called by no name that the ledger knows."""
    plan, _ = rotation.planned()
    if source is not None and source.tags.get(names.BASE_NAME_TAG) != plan.base_name:
        ports.rds.set_tags(source.database.arn, {names.BASE_NAME_TAG: plan.base_name})
    if names.DEPLOYMENT_TAG in target.tags:
        ports.rds.remove_tags(target.database.arn, [names.DEPLOYMENT_TAG])


def _evidence(rotation: Rotation, sides: list[tuple[Instance | None, Instance | None]]) -> dict[str, Any]:
    """What an auditor asks for, as it was seen: JSON, nothing secret."""
    deployment, release = rotation.deployed(), rotation.release
    return {
        "source": _facts(sides[0][0]),
        "target": _facts(sides[0][1]),
        "replicas": [{"source": _facts(source), "target": _facts(target)} for source, target in sides[1:]],
        "deployment": {"name": deployment.name, "identifier": deployment.identifier},
        "switchover_requested_at": deployment.switchover_requested_at.isoformat()
        if deployment.switchover_requested_at
        else None,
        "released_at": release.released_at.isoformat() if release else None,
        "write_outage_seconds": release.write_outage_seconds if release else None,
        "interrupted_by": rotation.failure.Error if rotation.failure else None,
    }


def _facts(instance: Instance | None) -> dict[str, str | None] | None:
    if instance is None:
        return None
    database = instance.database
    return {"identifier": database.identifier, "resource_id": database.resource_id, "key": database.kms_key_arn}


handler = step(verify_switchover)
