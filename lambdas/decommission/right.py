"""The right to remove a source, established anew from live facts at every visit."""

from collections.abc import Iterable

from lambdas.rotation import databases, fenced_writer, hosts, names
from lambdas.rotation.errors import (
    ConnectivityChanged,
    DatabaseUnreachable,
    LoginRefused,
    RetirementRefused,
    SqlRefused,
)
from lambdas.rotation.network_fence import other_groups
from lambdas.rotation.ports import Instance, Ports
from lambdas.rotation.state import Rotation
from lambdas.rotation.step import logger


def limitation(rotation: Rotation, source: Instance, ports: Ports) -> str | None:
    """Why this source may not be removed, or None."""
    plan, _ = rotation.planned()
    identifier = source.database.identifier
    if rotation.verification is None or not rotation.verification.complete:
        return "the cutover has not been verified"
    if rotation.grace_ends_at is None or ports.clock.now() < rotation.grace_ends_at:
        return f"the grace period of {identifier} is not over"
    if source.tags.get(names.DECOMMISSION_TAG) != rotation.rotation_id:
        return f"{identifier} is not marked for removal by this rotation ({names.DECOMMISSION_TAG})"
    # Aurora's is not asked: there a reader that takes over ends its sessions, and while the instances are removed, one
    # by one, another one writes.
    if source.database.is_multi_az_cluster and (changed := fenced_writer.taken_over(rotation.fence, source)):
        return changed
    if (taken_back := _taken_back(rotation, source, ports)) is not None:
        return taken_back
    if strangers := _unmarked(rotation, source, ports):
        return f"{identifier} has instances that this rotation has not marked for removal: {', '.join(strangers)}"
    successor_id = ports.ledger.successor(plan.base_name)
    if successor_id is None or successor_id == source.database.resource_id:
        return f"{plan.base_name} leads to {identifier} itself"
    successor = databases.by_resource_id(successor_id, ports)
    if successor is None or successor.status == "deleting":
        return f"the database that {plan.base_name} leads to does not exist: {identifier} may be the last copy"
    key_arn = successor.database.kms_key_arn or rotation.keyed().arn
    if (state := ports.kms.key_state(key_arn)) != "Enabled":
        return f"the key {key_arn} of the target is {state}: {identifier} may soon be all that can be read"
    target = rotation.synced_target().identifier
    ours = {target, *(replica.database.identifier for replica in left_behind(rotation, source, ports))}
    followers = source.raw.get("ReadReplicaDBInstanceIdentifiers") or source.raw.get("ReadReplicaIdentifiers") or ()
    replicas = set(followers) - ours
    if rotation.replaced:
        replicas = _live(replicas, ports)
    if replicas:
        return f"{identifier} has replicas: {', '.join(sorted(replicas))}"
    try:
        if (leads_back := _name_leads_elsewhere(rotation, successor, ports)) is not None:
            return leads_back
    except ConnectivityChanged as changed:
        return str(changed)
    return _opened_again(rotation, source, ports)


def _opened_again(rotation: Rotation, source: Instance, ports: Ports) -> str | None:
    """What is written there is nowhere but in the kept snapshot, and nobody knows.

    Verify has seen the fence, a grace period ago. A source that cannot be looked into any more goes all the same: with
    the secret rotated its login has the password of before, and its owner may have stopped it, or closed its network.
    """
    plan, _ = rotation.planned()
    if rotation.fence is None:
        return None
    fences, identifier = rotation.fence.databases, source.database.identifier
    try:
        if plan.fence == "network":
            parts = [one for one in databases.parts_of(source, ports) if one.status != "deleting"]
            breach = other_groups(parts, fences[0].isolation_group)
        else:
            breach = ports.engine(source.database, plan).fence_breach(fences)
    except (DatabaseUnreachable, LoginRefused) as unseen:
        logger.warning("the fence of the source cannot be looked at", source=identifier, reason=str(unseen))
        return None
    except SqlRefused as refused:
        breach = f"its fence cannot be seen: {refused}"
    return f"somebody may have written to {identifier} since the cutover: {breach}" if breach else None


def _taken_back(rotation: Rotation, source: Instance, ports: Ports) -> str | None:
    """What has given its name away has none that would show who serves: somebody may have gone back."""
    used = {arn for arn, _ in rotation.replaced}
    if rotation.deployment is not None:
        primary = rotation.deployment.primary
        if source.database.arn == primary.source_arn:
            return f"{source.database.identifier} has the name that applications use again"
        used.add(primary.source_arn)
    for replica in _replicas(rotation, ports):
        if replica.status == "deleting":
            continue
        identifier = replica.database.identifier
        if replica.database.arn in used:
            return f"{identifier} has the name that applications use again"
        if not source.database.is_cluster and replica.replica_of is None:
            return f"{identifier} is no replica any more: somebody may write to it"
        if followers := _live(replica.raw.get("ReadReplicaDBInstanceIdentifiers") or (), ports):
            return f"{identifier} has replicas, which RDS would promote: {', '.join(sorted(followers))}"
    return None


def _unmarked(rotation: Rotation, source: Instance, ports: Ports) -> list[str]:
    """Instances that have joined an old cluster, which nobody has fenced: somebody may use them, and RDS deletes no
    cluster that has any."""
    if rotation.deployment is None:
        return []
    return [
        one.database.identifier
        for one in databases.instances_of(source, ports)
        if one.status != "deleting" and one.tags.get(names.DECOMMISSION_TAG) != rotation.rotation_id
    ]


def _live(names: Iterable[str], ports: Ports) -> set[str]:
    """One that was removed a moment ago may still be listed; one of another Region cannot be looked up, and counts."""
    return {name for name in names if ":" in name or ports.rds.describe_instance(name) is not None}


def _replicas(rotation: Rotation, ports: Ports) -> list[Instance]:
    """What is still there of those that have given their names away."""
    found = (ports.rds.describe_instance_by_resource_id(resource_id) for _, resource_id in rotation.replaced)
    return [one for one in found if one is not None]


def orphans(rotation: Rotation, ports: Ports) -> list[str]:
    """Replicas that a source has left which somebody else has deleted: RDS has promoted them."""
    return [one.database.identifier for one in _replicas(rotation, ports) if one.status != "deleting"]


def left_behind(rotation: Rotation, source: Instance, ports: Ports) -> list[Instance]:
    """Replicas of the source, or instances of the cluster, that have a successor: what is still there, and marked."""
    if source.database.is_multi_az_cluster:
        return []  # its instances are deleted with it
    found = databases.instances_of(source, ports) if source.database.is_cluster else _replicas(rotation, ports)
    return [one for one in found if one.tags.get(names.DECOMMISSION_TAG) == rotation.rotation_id]


def _name_leads_elsewhere(rotation: Rotation, successor: Instance, ports: Ports) -> str | None:
    """The successor in the ledger counts, not the target of this rotation: another may have followed."""
    seen = rotation.connectivity
    if seen is not None and seen.record is not None:
        led_to = ports.names.addresses(seen.record.name)
        if not led_to or led_to != ports.names.addresses(successor.database.address):
            return f"{seen.record.name} does not lead to {successor.database.identifier}"
    if seen is not None and seen.secret is not None:
        host = ports.secrets.describe_endpoint(seen.secret.arn).host
        if not hosts.are_same(host, successor.database.address):
            return f"{seen.secret.arn} leads to {host}, not to {successor.database.identifier}"
    if seen is not None and seen.proxy is not None:
        databases.led_to_by(seen.proxy, successor.database, ports.proxies)
    return None


def establish(rotation: Rotation, source: Instance, ports: Ports) -> None:
    """Raises: RetirementRefused (terminal); nothing further is deleted, a person looks at it."""
    reason = limitation(rotation, source, ports)
    if reason is not None:
        raise RetirementRefused(reason)
