"""What has to be true of each member before the switchover. Each returns what is still being waited for."""

from lambdas.rotation import databases, marks, names
from lambdas.rotation.errors import SyncIncomplete, WrongKey
from lambdas.rotation.limitations import waiting_for_a_restart
from lambdas.rotation.ports import ASSOCIATED_ROLES, KEY_OF_INSIGHTS, TAGS, BlueGreenDeployment, Instance, Ports
from lambdas.rotation.settings import refuse, request_repair
from lambdas.rotation.state import Deployment, Member, Rotation

NOT_COMPARED = (TAGS, KEY_OF_INSIGHTS)
"""RDS gives green blue's tags at the switchover; it copies Performance Insights with the key that it has, and that key
then stays in use, which the retirement of keys sees."""


def observed(
    rotation: Rotation, deployment: Deployment, live: BlueGreenDeployment, ports: Ports
) -> tuple[list[str], Deployment]:
    """What is being waited for, and the deployment with the members' copies."""
    waiting_for: list[str] = []
    members: list[Member] = []
    copies = dict(live.members)
    for member in deployment.members:
        copy = copies.get(member.source_arn)
        target = databases.by_arn(copy, ports) if copy else None
        if target is None or target.database.resource_id == member.source_resource_id:
            waiting_for.append(f"the copy of {member.source_identifier} to appear")
        else:
            member = member.having(target_resource_id=target.database.resource_id, target_arn=target.database.arn)
            if _is_made(rotation, target):
                deployment = marks.green_marked(rotation, deployment, [target], ports)
                waiting_for += _ready(rotation, deployment, member, target, ports)
            else:
                waiting_for.append(f"{target.database.identifier} to be made")
        members.append(member)
    return waiting_for, deployment.having(members=tuple(members))


def _is_made(rotation: Rotation, target: Instance) -> bool:
    identifier, wanted = target.database.identifier, rotation.keyed().arn
    found = target.database.kms_key_arn
    # RDS may take a request and leave an entry of it out; what it has made is looked at, member by member.
    if found != wanted and (found is not None or target.status != "creating"):
        raise WrongKey(f"{identifier} is encrypted under {found}, not under {wanted}")
    if target.is_unusable:
        raise SyncIncomplete(f"{identifier} is {target.status}")
    return target.status != "creating"


def _ready(rotation: Rotation, deployment: Deployment, member: Member, target: Instance, ports: Ports) -> list[str]:
    identifier = target.database.identifier
    if target.status != "available":
        return [f"{identifier} to be available (it is {target.status})"]
    if (operation := target.raw.get("StorageOperationStatus")) is not None:
        return [f"the storage of {identifier} ({operation}, {target.raw.get('StorageOperationPercentProgress')} %)"]
    if not _is_clusters(target):  # of which RDS does not say how they follow
        if target.replica_of is None:
            raise SyncIncomplete(f"{identifier} is no longer a replica: somebody has promoted it")
        if not target.replication_normal:
            return [f"{identifier} to replicate"]
    source = databases.by_resource_id(member.source_resource_id, ports)
    if source is None:
        raise SyncIncomplete(f"{member.source_identifier} is gone")
    if source.status != "available":
        return [f"{source.database.identifier} to be available (it is {source.status})"]
    if marks.seconds_to_settle(deployment.marked_at, ports.clock.now()):
        return [f"the mark of {identifier} to count"]  # by which its settings may be repaired
    return _settings(source, target, ports) or _restarting(rotation, target, ports)


def _settings(source: Instance, target: Instance, ports: Ports) -> list[str]:
    """Raises: SettingsNotCarried (terminal) for a difference that is not repaired; of a cluster, only roles are."""
    if not source.database.is_cluster:
        differing = request_repair(source, target, ports, besides=NOT_COMPARED)
        return [f"the settings {', '.join(differing)} of {target.database.identifier}"] if differing else []
    found = ports.clusters.settings_differences(source, target)
    differences = {name: sides for name, sides in found.items() if name not in NOT_COMPARED}
    refuse(target, differences, set(differences) - {ASSOCIATED_ROLES})
    if differences:
        ports.clusters.request_missing_roles(source, target)
    return [f"the {ASSOCIATED_ROLES} of {target.database.identifier}"] if differences else []


def _restarting(rotation: Rotation, target: Instance, ports: Ports) -> list[str]:
    """Restart what has a parameter group that is not in force: nobody reads it yet, and a switchover is no restart.

    So is one that was repaired. Allowed only of what has the mark of green, which an instance may get a visit later.
    """
    groups = sorted(set(waiting_for_a_restart(target)))
    for one in (databases.instances_of(target, ports) or [target]) if groups else ():
        if one.tags.get(names.GREEN_TAG) == rotation.rotation_id:
            ports.rds.request_reboot(one.database.identifier)
    return [f"{target.database.identifier} to restart with {', '.join(groups)}"] if groups else []


def _is_clusters(target: Instance) -> bool:
    """A cluster, or an instance of one."""
    return target.database.is_cluster or bool(target.raw.get("DBClusterIdentifier"))
