"""Whether the old key may be retired at all, and whether its users will go."""

from collections.abc import Sequence
from datetime import timedelta

from lambdas.rotation import names
from lambdas.rotation.ports import KeyFacts, Ports
from lambdas.rotation.state import KeyUser, Rotation

EXPIRING = frozenset({"alias", "automated-backup", "automated-snapshot", "recent-use", "residual-grant"})
"""Users that go by themselves: retention ends, RDS takes its grant back. And an alias, which people move: they are told
before the rotation and after the cutover, and a key that was kept for it at once nobody would retire any more."""

UNANSWERED = "unanswered"
"""Not a user, but a question that nobody has answered."""

EXPIRY_PATIENCE = timedelta(days=60)
"""Longer than RDS's longest retention (35 days)."""

ANSWER_PATIENCE = timedelta(days=3)
"""For a question that could not be asked today and may be tomorrow. For its answer alone: a backup may take weeks."""


def reason_to_keep(rotation: Rotation, key: KeyFacts, ports: Ports) -> str | None:
    """Why this key is not retired whoever uses it, or None."""
    plan, source = rotation.planned()
    if rotation.new_key is not None and key.arn == rotation.new_key.arn:
        return "it is the new key"
    if key.manager != "CUSTOMER":
        return "it belongs to AWS, which never deletes it"
    if _account(key.arn) != _account(source.arn):
        return f"account {_account(key.arn)} owns it"
    if key.multi_region and key.has_replica_keys:
        return "it is a multi-Region key with replica keys"
    if plan.retire_key == "false":
        return "key-rotation:retire-key is false"
    marked = names.ROTATION_ID_TAG in key.tags
    if (plan.retire_key == "auto" or marked) and not _made_by_a_rotation(key, ports):
        # The right to retire a key of any name is bound to that tag: it must not stand for the stack's list.
        unknown = f"its tag {names.ROTATION_ID_TAG} names no rotation of this stack's that has made it"
        return unknown if marked else "no rotation made it; key-rotation:retire-key=true would retire it"
    return None


def _made_by_a_rotation(key: KeyFacts, ports: Ports) -> bool:
    """Tag and ledger have to agree: a tag alone can be copied."""
    rotation_id, base_name = key.tags.get(names.ROTATION_ID_TAG), key.tags.get(names.BASE_NAME_TAG)
    if rotation_id is None or base_name is None:
        return False
    entry = ports.ledger.entry(base_name, rotation_id)
    made = entry.rotation.new_key if entry is not None else None
    return made is not None and made.arn == key.arn


def will_pass(users: Sequence[KeyUser], waited: timedelta, unanswered: timedelta) -> bool:
    """Whether waiting longer can help. ``unanswered``: how much of what was ``waited`` a question has been open now."""
    kinds = {user.kind for user in users}
    if not kinds <= EXPIRING | {UNANSWERED}:
        return False
    return waited <= EXPIRY_PATIENCE and unanswered <= ANSWER_PATIENCE


def _account(arn: str) -> str:
    return arn.split(":")[4]
