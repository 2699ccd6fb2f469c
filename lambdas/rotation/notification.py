"""What people and programs are told: one schema for every moment of a rotation. Nothing secret is in it."""

from collections.abc import Mapping
from typing import Any

from lambdas.rotation.policy import CLUSTER, DATABASE
from lambdas.rotation.state import RECOVER, Moment, Replica, Rotation

SCHEMA = 1
_ASKED_LENGTH = 200

_SUBJECTS: Mapping[Moment, str] = {
    Moment.REFUSED: "refused: nothing was changed",
    Moment.PLANNED: "planned: this was a dry run",
    Moment.ROLLED_BACK: "rolled back to the old key: nothing was lost",
    Moment.UNDECIDED: "UNDECIDED: applications cannot write",
    Moment.CUT_OVER: "cut over: applications write under the new key",
    Moment.ATTENTION: "NEEDS ATTENTION",
    Moment.KEY_DISABLED: "has disabled the old key: its deletion is due in a week",
    Moment.COMPLETED: "completed",
}

_AFTER_DECOMMISSION = (Moment.KEY_DISABLED, Moment.COMPLETED)
"""By then what the verification has left over is done."""

_WHILE_RDS_SWITCHES = (
    "Look at the deployment in RDS: while it is switched over, only RDS can say which side serves. "
    "The rotation looks again by itself and finishes; if `execution` has ended, start the rotation of the same "
    "database again. Delete neither side by hand."
)

_WHILE_RDS_OPENS = (
    "Nobody can connect to either side. Read `waiting_for` and `failure`, and see what keeps RDS from changing the "
    "security groups. The rotation asks again by itself; if `execution` has ended, start the rotation of the same "
    "database again. Delete neither side: which one is to be opened stands in the ledger."
)

_WHILE_LED_AWAY = (
    "Nobody can write. The target will never be opened, and the source is opened as soon as applications are led back "
    "to it. Read `waiting_for`, and remove what keeps them from being led back. The rotation tries again by itself; if "
    "`execution` has ended, start the rotation of the same database again. Delete neither side by hand."
)

_COULD_NOT_BEGIN = (
    "The rotation of the execution that `recovers` names is as that left it: nobody may be able to write. Read "
    "`failure`, remove its cause, and start the rotation of that database again."
)

_ONLY_THE_OLD_KEY_IS_LEFT = (
    "Applications write to the target, and the source is gone; only the old key is left. Read `failure`, remove its "
    'cause, and start `{"Recover": "<execution>"}` with the `execution` of this message. Starting the rotation of the '
    "database would begin another one, with another write outage."
)

_WHAT_TO_DO: Mapping[Moment, str] = {
    Moment.REFUSED: "Remove the reasons that `failure` lists, then start the rotation again.",
    Moment.PLANNED: "Start the same rotation without DryRun when the plan and its warnings are acceptable.",
    Moment.ROLLED_BACK: "Applications write to the source as before. Read `failure`, remove the cause, start again; "
    "go through `leftovers`, if any: what stands behind a `#` says whether its command may be run yet.",
    Moment.UNDECIDED: "Make the target reachable: the rotation looks again by itself and finishes. If `execution` has "
    "ended, read `failure`, and start the rotation of the same database again. Open neither side by hand, and delete "
    "neither: applications may have written to the target.",
    Moment.CUT_OVER: "Watch the applications. The source stays, closed to writes, until the grace period ends. "
    "Move aliases that `warnings` names (AliasOfOldKey) to the new key. "
    "`leftovers`, if any, the rotation tries again then.",
    Moment.ATTENTION: "Applications write to the target if `released` is set, else to the source. Read `failure`, then "
    "start the rotation of the same database again: it takes up this one.",
    Moment.KEY_DISABLED: "Look for what cannot read its data any more (`DisabledException`, `KMSInvalidState`). If "
    "anything needs the old key, enable it (`aws kms enable-key`): it is kept then. If nobody misses it for a week, "
    "its deletion is scheduled, and 30 days later it is gone with everything under it.",
    Moment.COMPLETED: "Nothing, but to go through `leftovers`, if any. If `old_key.verdict` is kept, `users` says who "
    "still needs the old key; an alias among them is yours to move. If it is gone, that key was deleted, and nothing "
    "under it can be read any more. Old keys that `replicated_backups` names are kept: what was replicated before the "
    "rotation is under them until it expires.",
}


def message_of(rotation: Rotation, moment: Moment) -> dict[str, Any]:
    """The message of a moment, derived from the state alone."""
    plan, release = rotation.plan, rotation.release
    retirement, undo = rotation.retirement, rotation.undo
    keys = rotation.backup_replication.new_keys if rotation.backup_replication else {}
    return {
        "schema": SCHEMA,
        "moment": moment.value,
        "rotation_id": rotation.rotation_id,
        "execution": rotation.execution_arn,
        "recovers": _asked(rotation, RECOVER),
        "base_name": plan.base_name if plan else None,
        "reason": plan.reason if plan else _asked(rotation, "Reason"),
        "strategy": plan.strategy if plan else None,
        "not_taken": [one.model_dump(mode="json") for one in plan.not_taken] if plan else [],
        "source": rotation.source.identifier if rotation.source else _asked_for(rotation),
        "target": rotation.target_identifier,
        "old_key": {
            "arn": rotation.old_key.arn if rotation.old_key else None,
            "verdict": retirement.verdict if retirement else None,
            "why": retirement.reason if retirement else None,
            "disabled_at": retirement.disabled_at.isoformat() if retirement and retirement.disabled_at else None,
            "deletion_at": retirement.deletion_at.isoformat() if retirement and retirement.deletion_at else None,
        },
        "new_key": rotation.new_key.arn if rotation.new_key else None,
        "replicated_backups": [
            {
                "region": backup.region,
                "retention_days": backup.retention_days,
                "old_key": backup.key_arn,
                "new_key": keys[backup.region].arn if backup.region in keys else None,
            }
            for backup in (plan.replicated_backups if plan else ())
        ],
        "replicas": [
            {"identifier": replica.identifier, "old_key": replica.key_arn, "stage": _stage(rotation, replica)}
            for replica in (plan.replicas if plan and plan.strategy != "blue-green" else ())
        ],
        "released": release.released_at.isoformat() if release else None,
        "write_outage_seconds": release.write_outage_seconds if release else None,
        "grace_ends_at": rotation.grace_ends_at.isoformat() if rotation.grace_ends_at else None,
        "plan": plan.model_dump(mode="json") if plan and moment is Moment.PLANNED else None,
        "warnings": [w.model_dump() for w in rotation.preflight.warnings] if rotation.preflight else [],
        "monthly_cost_usd": rotation.preflight.monthly_cost_usd if rotation.preflight else None,
        "waiting_for": undo.reason if undo and moment is Moment.UNDECIDED else None,
        "failure": rotation.failure.model_dump() if rotation.failure else None,
        "users": [user.model_dump() for user in retirement.users] if retirement else [],
        "leftovers": [
            *(undo.leftovers if undo else ()),
            *(rotation.connectivity.leftovers if rotation.connectivity else ()),
            *(rotation.decommission.leftovers if rotation.decommission else ()),
            *(rotation.verification.leftovers if rotation.verification and moment not in _AFTER_DECOMMISSION else ()),
        ],
        "what_to_do": _what_to_do(rotation, moment),
        "evidence": rotation.verification.evidence if rotation.verification else {},
    }


def _stage(rotation: Rotation, replica: Replica) -> str | None:
    """How far its successor is; None before anything of it was begun."""
    found = rotation.replica_rebuild.successors.get(replica.resource_id) if rotation.replica_rebuild else None
    return found.stage if found else None


def subject_of(rotation: Rotation, moment: Moment) -> str:
    named = (
        rotation.plan.base_name if rotation.plan else _asked_for(rotation) or _asked(rotation, RECOVER) or "a database"
    )
    if moment is Moment.UNDECIDED and rotation.deployment is not None:
        return f"Key rotation of {named} UNDECIDED: RDS has not said which side serves"
    return f"Key rotation of {named} {_SUBJECTS[moment]}"


def _what_to_do(rotation: Rotation, moment: Moment) -> str:
    if moment is Moment.UNDECIDED and rotation.deployment is not None:
        return _WHILE_RDS_SWITCHES  # nothing is fenced, and deleting the target could be deleting production
    if moment is Moment.UNDECIDED and rotation.undo is not None and rotation.undo.outcome == "decided":
        return _WHILE_LED_AWAY
    if moment is Moment.UNDECIDED and rotation.isolation is not None:
        return _WHILE_RDS_OPENS
    if moment is Moment.ATTENTION and rotation.plan is None:
        return _COULD_NOT_BEGIN
    if moment is Moment.ATTENTION and rotation.decommission is not None and rotation.decommission.complete:
        return _ONLY_THE_OLD_KEY_IS_LEFT
    return _WHAT_TO_DO[moment]


def _asked_for(rotation: Rotation) -> str | None:
    return _asked(rotation, DATABASE) or _asked(rotation, CLUSTER)


def _asked(rotation: Rotation, field: str) -> str | None:
    """What the input says while nobody has judged it: anything, and as much as Step Functions takes."""
    value = rotation.request.get(field)
    return None if value is None else str(value)[:_ASKED_LENGTH]
