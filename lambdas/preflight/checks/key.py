"""Whether the old key is as it has to be, and what will become of it."""

from collections.abc import Iterator

from lambdas.rotation.errors import AccessRefused, AwsRefused
from lambdas.rotation.names import TAGS_AT_MOST, TAGS_OF_A_KEY, owners_tags
from lambdas.rotation.ports import Instance, Ports
from lambdas.rotation.state import Finding


def old_key(source: Instance, ports: Ports) -> Iterator[Finding]:
    arn = source.database.kms_key_arn
    if arn is None:
        return  # unencrypted: said elsewhere
    try:
        key = ports.kms.describe_key(arn)
    except (AccessRefused, AwsRefused) as refused:
        yield Finding(
            name="OldKeyUnreadable",
            message=f"the key of {source.database.identifier} cannot be described: {refused}",
            advice="let the functions describe it (key policy), or ask the account that owns it",
        )
        return
    if len(tags := owners_tags(key.tags)) > TAGS_AT_MOST - TAGS_OF_A_KEY:
        yield Finding(
            name="TooManyTags",
            message=f"the key of {source.database.identifier} has {len(tags)} tags; the new one inherits them and gets "
            f"{TAGS_OF_A_KEY} more, of {TAGS_AT_MOST}",
            advice=f"leave {TAGS_AT_MOST - TAGS_OF_A_KEY} tags at most",
        )
    if key.state != "Enabled":
        yield Finding(
            name="OldKeyUnusable",
            message=f"the key of {source.database.identifier} is {key.state}: RDS cannot read the source under it",
            advice="enable it (CancelKeyDeletion leaves a key disabled: EnableKey as well)",
        )
