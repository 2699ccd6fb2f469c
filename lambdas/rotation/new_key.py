"""The key that a rotation makes, in whichever Region."""

from lambdas.rotation import names
from lambdas.rotation.ports import KeyFacts, Kms
from lambdas.rotation.state import Key, Rotation


def make(rotation: Rotation, like: KeyFacts | None, kms: Kms) -> Key:
    """Make this rotation's key, or find the one that an earlier attempt made. It costs money until it is deleted.

    Idempotent by alias and tag.

    Raises:
        DefaultKeyPolicy: terminal; unless `default-key-policy` is accepted.
        NameTaken: terminal; the alias leads to somebody else's key, or one with this rotation's tag is older than it.
    """
    plan, _ = rotation.planned()
    alias = names.key_alias(plan.base_name, rotation.rotation_id)
    arn = kms.ensure_key(
        alias,
        f"RDS {plan.base_name}, rotation {rotation.rotation_id}",
        names.our_tags(plan.base_name, rotation.rotation_id),
        like=like,
        since=rotation.key_first_requested_at,
        default_policy="default-key-policy" in plan.accept,
    )
    return Key(arn=arn, manager="CUSTOMER", alias=alias)
