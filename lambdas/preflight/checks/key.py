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


def aliases(source: Instance, ports: Ports) -> Iterator[Finding]:
    """An alias may be what infrastructure as code or a bucket goes by. The rotation moves none: whose it is only its
    owner knows. Those of another account's key are that account's."""
    database = source.database
    if database.kms_key_arn is None or database.kms_key_arn.split(":")[4] != database.arn.split(":")[4]:
        return
    if found := ports.kms.owners_aliases(database.kms_key_arn):
        lead = "lead" if found[1:] else "leads"
        yield Finding(
            name="AliasOfOldKey",
            message=f"{', '.join(found)} {lead} to the key of {database.identifier}: new things get under the old key",
            advice="move it to the new key after the cutover (aws kms update-alias); until then the old one is kept",
        )
