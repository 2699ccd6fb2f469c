"""DiscardNewKey: after a rollback, schedule the deletion of the key that was made for nothing."""

from datetime import timedelta

from lambdas.rotation import names, new_key
from lambdas.rotation.errors import AccessRefused, AwsRefused
from lambdas.rotation.polling import backing_off_seconds
from lambdas.rotation.ports import Ports
from lambdas.rotation.state import Key, Rotation, Undo
from lambdas.rotation.step import logger, step

PATIENCE = timedelta(hours=2)
OFTEN_SECONDS, SELDOM_SECONDS = 60, 900
PENDING_WINDOW_DAYS = 7


def discard_new_key(rotation: Rotation, ports: Ports) -> Rotation:
    """Schedule the deletion of this rotation's key once nothing depends on it.

    Where the step that made it has died before it could write it down, it is looked for by its description, for as long
    as the index of tags may be behind; where none was asked for there is none, whatever tags a key has. A key that is
    still used after two hours, or that may not be deleted, stays, with the command that deletes it. Repeatable. A key
    that another rotation made is never found here.
    """
    plan, _ = rotation.planned()
    undo = rotation.undo
    assert undo is not None  # the state machine comes here from CleanUp only
    alias = names.key_alias(plan.base_name, rotation.rotation_id)
    arn = _new_key(rotation, ports)
    request = rotation.key_request
    if arn is None and request is not None and new_key.may_appear(request, ports.clock):
        logger.info("new key asked for, and not found yet")
        waiting_for = ("the index of tags, which may not show the new key yet",)
        return rotation.having(undo=undo.having(waiting_for=waiting_for, look_again_seconds=OFTEN_SECONDS))
    if arn is None:
        return rotation.having(undo=undo.having(key_discarded=True, waiting_for=()))
    rotation = rotation.having(new_key=Key(arn=arn, manager="CUSTOMER", alias=alias))
    try:
        if ports.kms.key_state(arn) == "PendingDeletion":
            ports.kms.delete_alias(alias)  # somebody else may have scheduled it
            return rotation.having(undo=undo.having(key_discarded=True))
        users = ports.key_users.users_of(arn)
        if not users:
            ports.kms.delete_alias(alias)
            deletion_at = ports.kms.schedule_key_deletion(arn, PENDING_WINDOW_DAYS)
            logger.info("deletion of the new key scheduled", key=arn, deletion_at=deletion_at.isoformat())
            return rotation.having(undo=undo.having(key_discarded=True))
        reason = "not before nothing uses it any more: it is used by " + ", ".join(
            f"{user.kind} {user.identifier}" for user in users
        )
    except (AccessRefused, AwsRefused) as refused:
        return _left_over(rotation, undo, arn, str(refused))
    since, now = undo.ended_at or undo.started_at, ports.clock.now()
    if now - since < PATIENCE:
        logger.info("new key not discarded yet", key=arn, reason=reason)
        again = backing_off_seconds(since, now, often=OFTEN_SECONDS, seldom=SELDOM_SECONDS)
        return rotation.having(undo=undo.having(waiting_for=(f"{arn}: {reason}",), look_again_seconds=again))
    return _left_over(rotation, undo, arn, reason)


def _new_key(rotation: Rotation, ports: Ports) -> str | None:
    if rotation.new_key is not None:
        return rotation.new_key.arn
    return None if rotation.key_request is None else new_key.found(rotation, rotation.key_request, ports.kms)


def _left_over(rotation: Rotation, undo: Undo, arn: str, reason: str) -> Rotation:
    logger.warning("new key left over", key=arn, reason=reason)
    command = f"aws kms schedule-key-deletion --key-id {arn} --pending-window-in-days {PENDING_WINDOW_DAYS}"
    return rotation.having(
        undo=undo.having(key_discarded=True, waiting_for=(), leftovers=(*undo.leftovers, f"{command}  # {reason}"))
    )


handler = step(discard_new_key)
