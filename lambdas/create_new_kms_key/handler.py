"""CreateNewKMSKey: the key that the target will be encrypted under."""

from datetime import timedelta

from lambdas.rotation import new_key
from lambdas.rotation.errors import AwsUnavailable
from lambdas.rotation.ports import Ports
from lambdas.rotation.state import Key, Rotation
from lambdas.rotation.step import step

PATIENCE = timedelta(minutes=30)


def create_new_kms_key(rotation: Rotation, ports: Ports) -> Rotation:
    """Make this rotation's key, or go on with the one that an earlier attempt made. It costs money until it is deleted.

    Idempotent by the journal, and by a token in the key's description. The old key is only read. Does not wait until
    KMS knows the key everywhere: until then its request is not complete, and the state machine comes again.

    Raises:
        JournalMoved: retryable; another attempt is making the key.
        AwsUnavailable: retryable; after half an hour without a key also where KMS may just not show it.
        AccessRefused: terminal; for ten minutes, where it is about a new key.
        DefaultKeyPolicy: terminal; the new key would be open to others than the old one.
        NameTaken: terminal; the alias leads to somebody else's key.
    """
    _, source = rotation.planned()
    # An unencrypted source has none; only a blue/green deployment makes an encrypted target of it.
    old = ports.kms.describe_key(source.kms_key_arn) if source.kms_key_arn is not None else None
    if old is not None:
        old_key = Key(arn=old.arn, manager="AWS" if old.manager == "AWS" else "CUSTOMER")
        rotation = rotation.having(old_key=old_key)
    for request, key in new_key.making(rotation, rotation.key_request, rotation.new_key, old, ports.kms, ports.clock):
        rotation = rotation.having(key_request=request, new_key=key)
        ports.ledger.record(rotation)
    asked = rotation.key_request
    if asked is not None and not asked.complete and ports.clock.now() - asked.began_at > PATIENCE:
        raise AwsUnavailable("kms:CreateKey: there is no key after half an hour, and whether there will be is unknown")
    return rotation


handler = step(create_new_kms_key)
