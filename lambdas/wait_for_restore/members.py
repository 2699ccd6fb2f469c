"""The instances of a restored cluster: of Aurora's RDS restores none, so one is made for each of the source's."""

from lambdas.rotation import databases, making, names, snapshots
from lambdas.rotation.errors import RestoreFailed
from lambdas.rotation.ports import Instance, Ports
from lambdas.rotation.settings import request_repair
from lambdas.rotation.state import Rotation


def waiting_for(rotation: Rotation, source: Instance, target: Instance, ports: Ports) -> list[str]:
    """Ask for the instances that are missing, and for the settings that differ; what is still being waited for.

    Raises:
        WrongKey, SettingsNotCarried, RestoreFailed, NameTaken: terminal; one will not be what its original is.
    """
    if target.database.is_multi_az_cluster:
        return _made_by_rds(rotation, source, target, ports)
    waiting: list[str] = []
    originals = databases.instances_of(source, ports)
    for original in originals:
        identifier = names.member_identifier(original.database.identifier, rotation.rotation_id)
        instance = ports.rds.describe_instance(identifier)
        if instance is None:
            key_arn, tags = rotation.keyed().arn, snapshots.tags(rotation)
            ports.rds.request_member(original, identifier, target.database.identifier, key_arn, tags)
        waiting += _waiting_for(rotation, original, instance, ports)
        if instance is None and original is originals[0]:
            break  # the writer's: RDS lets the first one write, so no other may be there before it
    return waiting


def _made_by_rds(rotation: Rotation, source: Instance, target: Instance, ports: Ports) -> list[str]:
    """Those of a Multi-AZ DB cluster; their settings are the cluster's."""
    there = databases.instances_of(target, ports)
    waiting = [
        f"as {one.database.identifier}: {reason}"
        for one in there
        for reason in making.waiting_for(rotation, one, RestoreFailed)
    ]
    if (missing := len(source.raw.get("DBClusterMembers") or ()) - len(there)) > 0:
        waiting.append(f"{missing} more instances of {target.database.identifier}")
    return waiting


def _waiting_for(rotation: Rotation, original: Instance, instance: Instance | None, ports: Ports) -> list[str]:
    if reasons := making.waiting_for(rotation, instance, RestoreFailed):
        return [f"for {original.database.identifier}: {reason}" for reason in reasons]
    assert instance is not None
    if differing := request_repair(original, instance, ports):
        return [f"the settings {', '.join(differing)} of {instance.database.identifier}"]
    return []
