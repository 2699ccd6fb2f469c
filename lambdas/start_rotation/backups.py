"""The source's automated backups in other Regions, which Preflight, inside the VPC, cannot ask about."""

from lambdas.rotation.errors import AccessRefused, AwsRefused
from lambdas.rotation.names import TAGS_AT_MOST, TAGS_OF_A_KEY, owners_tags
from lambdas.rotation.ports import BACKUP_REGIONS, Instance, Ports
from lambdas.rotation.state import Finding, FirstLook, ReplicatedBackup, Rotation


def with_replicated_backups(rotation: Rotation, source: Instance, seen: FirstLook, ports: Ports) -> Rotation:
    """The plan with those in the Regions that the stack lists, and what speaks against beginning them anew."""
    plan, _ = rotation.planned()
    listed = ports.settings.defaults.get(BACKUP_REGIONS) or ()
    found: list[ReplicatedBackup] = []
    limitations: list[Finding] = []
    for region, arn in source.backup_replications.items():
        if region in listed:
            try:
                backup = ports.replicated_backups.at(arn)
                reason = _limitation(backup, ports) if backup is not None else f"{arn} is not there"
            except (AccessRefused, AwsRefused) as refused:
                backup, reason = None, str(refused)
            if backup is not None:
                found.append(backup)
            if reason is not None:
                limitations.append(_finding(source.database.identifier, region, reason))
    seen = seen.having(limitations_of_backups=tuple(limitations))
    return rotation.having(plan=plan.having(replicated_backups=tuple(found)), first_look=seen)


def _limitation(backup: ReplicatedBackup, ports: Ports) -> str | None:
    """After the commit point the new key inherits from this one, and nothing may be refused any more."""
    if backup.key_arn is None:
        return None
    key = ports.kms_in(backup.region).describe_key(backup.key_arn)
    if len(tags := owners_tags(key.tags)) > TAGS_AT_MOST - TAGS_OF_A_KEY:
        return (
            f"their key has {len(tags)} tags, and {TAGS_AT_MOST - TAGS_OF_A_KEY} are the most that a new one inherits"
        )
    return None


def _finding(identifier: str, region: str, reason: str) -> Finding:
    return Finding(
        name="BackupsReplicated",
        message=f"the automated backups of {identifier} in {region} cannot be begun anew: {reason}",
        advice="let the functions read them and their key, whose key policy may say otherwise; or stop the replication",
    )
