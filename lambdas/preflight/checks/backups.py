"""Automated backups of the source that RDS replicates to other Regions."""

from collections.abc import Iterator

from lambdas.preflight.checks import instance
from lambdas.rotation.ports import BACKUP_REGIONS, Instance, Ports
from lambdas.rotation.state import Finding, Rotation


def replicated(rotation: Rotation, source: Instance, ports: Ports) -> Iterator[Finding]:
    """Whether the target can have the like. What they are like StartRotation has asked, outside the VPC."""
    plan, _ = rotation.planned()
    identifier, found = source.database.identifier, source.backup_replications
    if found and plan.strategy == "blue-green":
        yield Finding(
            name="BackupsReplicated",
            message=f"the automated backups of {identifier} are replicated to {', '.join(found)}; strategy blue-green "
            "does not carry that over",
            advice="rotate it by another strategy; or stop the replication, and start it anew for the target",
        )
        return
    for region in sorted(set(found) - set(ports.settings.defaults.get(BACKUP_REGIONS) or ())):
        yield Finding(
            name="BackupsReplicated",
            message=f"the automated backups of {identifier} are replicated to {region or 'another Region'}, which is "
            "not among the stack's backup_regions",
            advice="list it there and deploy the stack; or stop the replication, and start it anew for the target",
        )
        del found[region]
    unread = rotation.first_look.limitations_of_backups if rotation.first_look is not None else ()
    yield from unread
    if found and source.backup_retention_days == 0:
        yield from instance.backups(source)
    if not unread and set(found.values()) != {backup.arn for backup in plan.replicated_backups}:
        yield Finding(
            name="BackupsReplicated",
            message=f"where the automated backups of {identifier} are replicated to has changed since the start",
            advice="start again",
        )
