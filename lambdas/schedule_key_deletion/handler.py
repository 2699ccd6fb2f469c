"""ScheduleKeyDeletion: retire the old key slowly, or keep it and say who needs it."""

from collections.abc import Sequence
from datetime import timedelta

from lambdas.rotation.errors import StateIncomplete
from lambdas.rotation.ports import KeyFacts, Ports
from lambdas.rotation.state import KeyUser, Retirement, Rotation
from lambdas.rotation.step import logger, step
from lambdas.schedule_key_deletion.gate import reason_to_keep, will_pass

LOOK_AGAIN = timedelta(hours=24)
SOAK = timedelta(days=7)
SETTLED = timedelta(minutes=10)
"""By then KMS says everywhere that a key is disabled (KMS Developer Guide: eventual consistency)."""
PENDING_WINDOW_DAYS = 30
SHOWN_AT_MOST = 200
"""Users in the state, of which Step Functions passes on 256 KB; all of them are judged."""


def schedule_key_deletion(rotation: Rotation, ports: Ports) -> Rotation:
    """Take the next step of a key's retirement: ask who uses it, disable, soak, ask again, schedule.

    Repeatable at every point. Once the deletion has taken effect nothing under the key can ever be read again, so a
    question that could not be answered counts as use, and any use found while the key is disabled enables it again. A
    key that this disabled, and that somebody enabled, is kept, also where a recovery looks before the soak is over.
    """
    seen, now = rotation.retirement, ports.clock.now()
    if seen is not None and seen.complete:
        return rotation
    if rotation.old_key is None and rotation.planned()[1].kms_key_arn is None:
        none = Retirement(verdict="no-key", reason="the source was not encrypted", started_at=now, complete=True)
        return rotation.having(retirement=none)
    if rotation.old_key is None:
        raise StateIncomplete("needs the old key: CreateNewKMSKey has not run")
    key = ports.kms.describe_key(rotation.old_key.arn)
    seen = seen or Retirement(verdict="in-use", reason="", started_at=now, look_again_at=now)
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
    if seen.disabled_at is not None and seen.look_again_at is not None and now < seen.look_again_at:
        if not seen.disabled:
            ports.kms.disable_key(key.arn)  # a retry: whether the first call arrived is not known
            return rotation.having(retirement=seen.having(disabled=True))
        if key.state != "Enabled" or now - seen.disabled_at < SETTLED:
            return rotation
    users = ports.key_users.users_of(key.arn)
    retirement = _judged(rotation, seen, key, users, ports)
    logger.info("old key", verdict=retirement.verdict, reason=retirement.reason, users=len(users))
    return rotation.having(retirement=retirement)


def _judged(rotation: Rotation, seen: Retirement, key: KeyFacts, users: Sequence[KeyUser], ports: Ports) -> Retirement:
    now = ports.clock.now()
    since = seen.disabled_at or seen.started_at
    if seen.disabled_at is not None and key.state == "Enabled":
        return _kept(seen, key, "somebody enabled it again", users, ports)
    if users and seen.disabled_at is not None and {user.kind for user in users} != {"unanswered"}:
        return _kept(seen, key, "somebody used it while it was disabled; it is enabled again", users, ports)
    if users and not will_pass(users, now - since - (SOAK if seen.disabled_at else timedelta())):
        return _kept(seen, key, "it is in use", users, ports)
    if users:
        verdict = "soaking" if seen.disabled_at else "in-use"
        return seen.having(
            verdict=verdict, reason="its users go by themselves", users=_shown(users), look_again_at=now + LOOK_AGAIN
        )
    if seen.disabled_at is None and key.state != "Enabled":
        # A use of it during the soak would have it enabled again, against whoever did that.
        return _kept(seen, key, f"somebody else has made it {key.state}", users, ports)
    if seen.disabled_at is None:
        soaking = seen.having(
            verdict="soaking", reason="no users; disabled", users=(), disabled_at=now, look_again_at=now + SOAK
        )
        ports.ledger.record(
            rotation.having(retirement=soaking)
        )  # before: a disabled key must never be without an owner
        ports.kms.disable_key(key.arn)
        return soaking.having(disabled=True)
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
