"""The key that a rotation makes, in whichever Region."""

import secrets
from collections.abc import Iterator
from datetime import timedelta

from lambdas.rotation import names
from lambdas.rotation.errors import AccessRefused, AwsRefused, DefaultKeyPolicy
from lambdas.rotation.ports import Clock, KeyFacts, Kms
from lambdas.rotation.state import Key, KeyRequest, Rotation
from lambdas.rotation.step import logger

INDEXED = timedelta(minutes=2)
"""By then the index of tags shows a key, and whoever else has asked for one is dead or has written it down."""
SETTLED = timedelta(minutes=10)
"""By then KMS knows a key everywhere, and its tags count for permissions (five minutes: KMS Developer Guide, ABAC)."""
_UNSETTLED = frozenset({"NotFoundException", "DisabledException", "KMSInvalidStateException"})

Progress = tuple[KeyRequest, Key | None]


def making(
    rotation: Rotation, request: KeyRequest | None, key: Key | None, like: KeyFacts | None, kms: Kms, clock: Clock
) -> Iterator[Progress]:
    """Make this rotation's key, or go on with the one that an earlier attempt made. It costs money until it is deleted.

    Each pair that this yields has to be in the journal before the next is asked for. Where none of them is complete KMS
    does not know the key everywhere, or may have made one that it does not show yet: try again later.

    Raises:
        AccessRefused: terminal; of a key that KMS has known for ten minutes.
        DefaultKeyPolicy: terminal; unless `default-key-policy` is accepted.
        NameTaken: terminal; the alias leads to somebody else's key.
    """
    plan, _ = rotation.planned()
    alias = names.key_alias(plan.base_name, rotation.rotation_id)
    if key is None:
        arn = None if request is None else found(rotation, request, kms)
        if arn is None:
            if request is not None and may_appear(request, clock):
                logger.info("new key asked for, and not found yet")
                return
            # Another moment in each: of two deliveries at the same time only one gets further than this.
            now = clock.now()
            request = request or KeyRequest(token=secrets.token_hex(16), began_at=now, requested_at=now)
            request = request.having(requested_at=now)
            yield request, None
            try:
                arn = kms.create_key(
                    names.key_description(plan.base_name, rotation.rotation_id, request.token),
                    names.our_tags(plan.base_name, rotation.rotation_id),
                    like=like,
                    default_policy="default-key-policy" in plan.accept,
                )
            except (AccessRefused, AwsRefused, DefaultKeyPolicy):
                yield request.having(requested_at=None), None
                raise
        assert request is not None
        key = Key(arn=arn, manager="CUSTOMER", alias=alias)
        yield request, key
    if request is None or request.complete:
        return
    try:
        kms.complete_key(key.arn, alias, like)
    except (AccessRefused, AwsRefused) as refused:
        unsettled = isinstance(refused, AccessRefused) or refused.code in _UNSETTLED
        if not unsettled or _age(request, clock) > SETTLED:
            raise
        logger.info("new key not known everywhere yet", key=key.arn, refusal=str(refused))
        return
    logger.info("new key ready", old_key=like.arn if like else None, new_key=key.arn)
    yield request.having(complete=True), key


def may_appear(request: KeyRequest, clock: Clock) -> bool:
    """Whether a key that is not `found` may have been made all the same, or still be."""
    return _age(request, clock) < INDEXED


def _age(request: KeyRequest, clock: Clock) -> timedelta:
    return timedelta.max if request.requested_at is None else clock.now() - request.requested_at


def found(rotation: Rotation, request: KeyRequest, kms: Kms) -> str | None:
    """The ARN of the key that was made for this request; None where there is none, or none can be seen yet."""
    plan, _ = rotation.planned()
    description = names.key_description(plan.base_name, rotation.rotation_id, request.token)
    return kms.find_key(description, rotation.rotation_id)
