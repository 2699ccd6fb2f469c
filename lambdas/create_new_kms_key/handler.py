"""CreateNewKMSKey: the key that the target will be encrypted under."""

from lambdas.rotation import new_key
from lambdas.rotation.ports import Ports
from lambdas.rotation.state import Key, Rotation
from lambdas.rotation.step import logger, step


def create_new_kms_key(rotation: Rotation, ports: Ports) -> Rotation:
    """Make this rotation's key, or find the one that an earlier attempt made. It costs money until it is deleted.

    Idempotent by alias and tag. The old key is only read.

    Raises:
        JournalMoved: retryable; another attempt is making the key.
        DefaultKeyPolicy: terminal; the new key would be open to others than the old one.
        NameTaken: terminal; the alias leads to somebody else's key.
    """
    _, source = rotation.planned()
    # An unencrypted source has none; only a blue/green deployment makes an encrypted target of it.
    old = ports.kms.describe_key(source.kms_key_arn) if source.kms_key_arn is not None else None
    if rotation.new_key is None:
        # CreateKey has no client token: of two deliveries at the same time only one gets further than this.
        now = ports.clock.now()
        rotation = rotation.having(key_requested_at=now, key_first_requested_at=rotation.key_first_requested_at or now)
        ports.ledger.record(rotation)
    key = new_key.make(rotation, old, ports.kms)
    logger.info("new key ready", old_key=old.arn if old else None, new_key=key.arn)
    return rotation.having(
        old_key=Key(arn=old.arn, manager="AWS" if old.manager == "AWS" else "CUSTOMER") if old else None,
        new_key=key,
    )


handler = step(create_new_kms_key)
