"""The source's automated backups in other Regions, which Preflight, inside the VPC, cannot ask about."""

from collections.abc import Iterator

from lambdas.rotation.errors import AccessRefused, AwsRefused
from lambdas.rotation.names import TAGS_AT_MOST, TAGS_OF_A_KEY, owners_tags
from lambdas.rotation.ports import BACKUP_REGIONS, Instance, Ports
from lambdas.rotation.state import Finding, FirstLook, ReplicatedBackup, Rotation
from lambdas.rotation.state_size import as_findings

QUOTA = 20
"""Of replicated backups in a Region, unless AWS has raised it (RDS User Guide: quotas)."""


def with_replicated_backups(rotation: Rotation, source: Instance, seen: FirstLook, ports: Ports) -> Rotation:
    """The plan with those in the Regions that the stack lists, and what speaks against beginning them anew."""
    plan, _ = rotation.planned()
    listed = ports.settings.defaults.get(BACKUP_REGIONS) or ()
    found: list[ReplicatedBackup] = []
    limitations: list[Finding] = []
    warnings = list(seen.warnings)
    for region, arn in source.backup_replications.items():
        if region in listed:
            try:
                backup = ports.replicated_backups.at(arn)
                reason = _limitation(backup, ports) if backup is not None else f"{arn} is not there"
                warnings += _warnings(region, ports)
            except (AccessRefused, AwsRefused) as refused:
                backup, reason = None, str(refused)
            if backup is not None:
                found.append(backup)
            if reason is not None:
                limitations.append(_finding(source.database.identifier, region, reason))
    seen = seen.having(limitations_of_backups=tuple(limitations), warnings=as_findings(warnings))
    return rotation.having(plan=plan.having(replicated_backups=tuple(found)), first_look=seen)


def _limitation(backup: ReplicatedBackup, ports: Ports) -> str | None:
    """After the commit point the new key inherits from this one, and nothing may be refused any more."""
    if backup.key_arn is None:
        return None
    key = ports.kms_in(backup.region).describe_key(backup.key_arn)
    if key.state != "Enabled":
        return f"their key is {key.state}"
    if len(tags := owners_tags(key.tags)) > TAGS_AT_MOST - TAGS_OF_A_KEY:
        return (
            f"their key has {len(tags)} tags, and {TAGS_AT_MOST - TAGS_OF_A_KEY} are the most that a new one inherits"
        )
    return None


def _warnings(region: str, ports: Ports) -> Iterator[Finding]:
    """Source and target count until the grace period ends. Whether AWS allows more RDS does not tell here."""
    if (there := ports.replicated_backups.count(region)) >= QUOTA:
        yield Finding(
            name="BackupQuota",
            message=f"the backups of {there} databases are replicated to {region}; RDS takes {QUOTA} unless that has "
            "been raised, and would refuse those of the target, after the cutover",
            advice=f"have the quota of {region} raised, or rotate this database when a grace period has ended",
        )


def _finding(identifier: str, region: str, reason: str) -> Finding:
    return Finding(
        name="BackupsReplicated",
        message=f"the automated backups of {identifier} in {region} cannot be begun anew: {reason}",
        advice="let StartRotation and ReplicateBackups read them and their key, whose policy may say otherwise; or "
        "stop the replication",
    )
