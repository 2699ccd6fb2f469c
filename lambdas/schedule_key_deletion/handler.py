"""ScheduleKeyDeletion: retire the old key slowly, or keep it and say who needs it."""

from collections.abc import Sequence
from datetime import datetime, timedelta

from lambdas.rotation.errors import AwsRefused, StateIncomplete
from lambdas.rotation.notification import message_of, subject_of
from lambdas.rotation.ports import KeyFacts, Ports
from lambdas.rotation.state import Key, KeyUser, Moment, Retirement, Rotation
from lambdas.rotation.step import logger, step
from lambdas.schedule_key_deletion.gate import ANSWER_PATIENCE, UNANSWERED, reason_to_keep, will_pass

LOOK_AGAIN = timedelta(hours=24)
SOAK = timedelta(days=7)
DISABLED = "no users; disabled"
SETTLED = timedelta(minutes=10)
"""By then KMS says everywhere that a key is disabled (KMS Developer Guide: eventual consistency)."""
PENDING_WINDOW_DAYS = 30
SHOWN_AT_MOST = 200
"""Users in the state, of which Step Functions passes on 256 KB; all of them are judged."""


def schedule_key_deletion(rotation: Rotation, ports: Ports) -> Rotation:
    """Take the next step of a key's retirement: ask who uses it, disable, ask again every day of the soak, schedule.

    Repeatable at every point. Once the deletion has taken effect nothing under the key can ever be read again, so a
    question that could not be answered counts as use, and any use found while the key is disabled enables it again. A
    key that this disabled, and that somebody enabled, is kept, also where a recovery looks between two days. People
    hear once that the key is disabled. One that is deleted already is gone, whoever has scheduled that.
    """
    seen, now = rotation.retirement, ports.clock.now()
    if seen is not None and seen.complete:
        return rotation
    if rotation.old_key is None and rotation.planned()[1].kms_key_arn is None:
        none = Retirement(verdict="no-key", reason="the source was not encrypted", started_at=now, complete=True)
        return rotation.having(retirement=none)
    if rotation.old_key is None:
        raise StateIncomplete("needs the old key: CreateNewKMSKey has not run")
    key = _described(rotation.old_key, ports)
    seen = seen or Retirement(verdict="in-use", reason="", started_at=now, look_again_at=now)
    if key is None:
        why = "KMS does not know it any more: a deletion of it has taken effect"
        gone = seen.having(verdict="gone", reason=why, users=(), look_again_at=None, complete=True)
        return rotation.having(retirement=gone)
    if key.state == "PendingDeletion" and key.deletion_at is not None:
        done = seen.having(verdict="scheduled", reason="no users", users=(), deletion_at=key.deletion_at, complete=True)
        if seen.disabled_at is None:
            found = ports.key_users.users_of(key.arn) if key.manager == "CUSTOMER" else ()
            done = done.having(reason="somebody else has scheduled its deletion", users=_shown(found))
        return rotation.having(retirement=done)
    reason = reason_to_keep(rotation, key, ports)
    if reason is not None:
        users = ports.key_users.users_of(key.arn) if key.manager == "CUSTOMER" else ()
        return rotation.having(retirement=_kept(seen, key, reason, users, ports))
    if seen.disabled_at is not None and not seen.disabled and now < seen.disabled_at + SOAK:
        ports.kms.disable_key(key.arn)  # a retry: whether the first call arrived is not known
        soaking = seen if key.state == "Disabled" else _soak_begun(seen, now)
        return _told(rotation.having(retirement=soaking.having(disabled=True)), ports)
    between_looks = seen.look_again_at is not None and now < seen.look_again_at
    if seen.disabled_at is not None and between_looks and (key.state != "Enabled" or now - seen.disabled_at < SETTLED):
        return _told(rotation, ports)
    users = ports.key_users.users_of(key.arn)
    is_open = any(user.kind == UNANSWERED for user in users)
    seen = seen.having(unanswered_since=(seen.unanswered_since or now) if is_open else None)
    retirement = _judged(rotation, seen, key, users, ports)
    logger.info("old key", verdict=retirement.verdict, reason=retirement.reason, users=len(users))
    return _told(rotation.having(retirement=retirement), ports)


def _described(old_key: Key, ports: Ports) -> KeyFacts | None:
    """None where there is none any more; KMS has known it, or no database could have been under it."""
    try:
        return ports.kms.describe_key(old_key.arn)
    except AwsRefused as refused:
        if refused.code != "NotFoundException":
            raise
        logger.warning("old key is gone", old_key=old_key.arn)
        return None


def _told(rotation: Rotation, ports: Ports) -> Rotation:
    """Whatever needs the key fails from now on, and only people can know why. Once; a lost answer repeats it.

    From here, and not from a Notify of its own: each rotation would take two state transitions more.
    """
    moment, retirement = Moment.KEY_DISABLED, rotation.retirement
    if retirement is None or not retirement.disabled or retirement.complete or moment in rotation.notified:
        return rotation
    ports.ledger.record(rotation)  # before: another attempt must not disable anew what somebody has enabled meanwhile
    ports.notifier.publish(moment.value, subject_of(rotation, moment), message_of(rotation, moment))
    return rotation.having(notified=(*rotation.notified, moment))


def _judged(rotation: Rotation, seen: Retirement, key: KeyFacts, users: Sequence[KeyUser], ports: Ports) -> Retirement:
    now = ports.clock.now()
    if seen.disabled_at is not None:
        return _soaked(seen, seen.disabled_at + SOAK, key, users, ports)
    if users and not will_pass(users, now - seen.started_at, now - (seen.unanswered_since or now)):
        return _kept(seen, key, "it is in use", users, ports)
    if users:
        return seen.having(
            verdict="in-use",
            reason="its users go by themselves, or are moved",
            users=_shown(users),
            look_again_at=now + LOOK_AGAIN,
        )
    if key.state != "Enabled":
        # A use of it during the soak would have it enabled again, against whoever did that.
        return _kept(seen, key, f"somebody else has made it {key.state}", users, ports)
    soaking = _soak_begun(seen, now)
    ports.ledger.record(rotation.having(retirement=soaking))  # before: a disabled key must never be without an owner
    ports.kms.disable_key(key.arn)
    return soaking.having(disabled=True)


def _soak_begun(seen: Retirement, now: datetime) -> Retirement:
    return seen.having(verdict="soaking", reason=DISABLED, users=(), disabled_at=now, look_again_at=now + LOOK_AGAIN)


def _soaked(seen: Retirement, ends_at: datetime, key: KeyFacts, users: Sequence[KeyUser], ports: Ports) -> Retirement:
    """Look whether anybody misses the key that this has disabled.

    Whoever is named does, also what would have gone by itself: it was refused. A question without an answer names
    nobody. Enabling the key for one would end its retirement for good, because CloudTrail throttles, say, and give
    back nothing that enabling it later does not. So within the soak it is only asked again; what it must never do is
    let a deletion be scheduled.
    """
    now = ports.clock.now()
    if key.state == "Enabled":
        return _kept(seen, key, "somebody enabled it again", users, ports)
    if {user.kind for user in users} - {UNANSWERED}:
        return _kept(seen, key, "somebody used it while it was disabled; it is enabled again", users, ports)
    reason = "a question about its users has no answer" if users else DISABLED
    soaking = seen.having(verdict="soaking", reason=reason, users=_shown(users))
    if now < ends_at:
        return soaking.having(look_again_at=min(now + LOOK_AGAIN, ends_at))
    if users and now - max(seen.unanswered_since or now, ends_at) <= ANSWER_PATIENCE:
        return soaking.having(look_again_at=now + LOOK_AGAIN)
    if users:
        return _kept(seen, key, "it is in use", users, ports)
    deletion_at = ports.kms.schedule_key_deletion(key.arn, PENDING_WINDOW_DAYS)
    return seen.having(
        verdict="scheduled", reason="no users", users=(), deletion_at=deletion_at, look_again_at=None, complete=True
    )


def _kept(seen: Retirement, key: KeyFacts, reason: str, users: Sequence[KeyUser], ports: Ports) -> Retirement:
    """Keep the key, usable: what this rotation disabled it enables again."""
    if seen.disabled_at is not None and key.state == "Disabled":
        ports.kms.enable_key(key.arn)
    return seen.having(verdict="kept", reason=reason, users=_shown(users), look_again_at=None, complete=True)


def _shown(users: Sequence[KeyUser]) -> tuple[KeyUser, ...]:
    shown = tuple(users[:SHOWN_AT_MOST])
    left_out = len(users) - len(shown)
    return (*shown, KeyUser(kind="more", identifier=f"{left_out} more")) if left_out else shown


handler = step(schedule_key_deletion)
