"""A database of RDS, whichever it is: an instance, or a cluster. A port for each; the resource id tells them apart.

Only for steps that are of clusters, too: a function that asks for what it never meets would have to be allowed to.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from lambdas.rotation.errors import ConnectivityChanged
from lambdas.rotation.names import CLUSTER, identifier_of
from lambdas.rotation.ports import Instance, Ports, Proxies, ProxyTarget
from lambdas.rotation.state import Database, is_cluster

Tags = Mapping[str, str]


def own_name(database: Database) -> str:
    """The base name that it would have without any rotation before."""
    return (CLUSTER if database.is_cluster else "") + database.identifier


def led_to_by(proxy: str, database: Database, proxies: Proxies) -> ProxyTarget:
    """This database, as its RDS Proxy sees it.

    Raises:
        ConnectivityChanged: terminal; the proxy leads to another database, or to none.
    """
    found = proxies.target_of(proxy)
    if found is None or found.name != own_name(database):
        led_to = found.name if found is not None else "nothing"
        raise ConnectivityChanged(f"RDS Proxy {proxy} leads to {led_to}, not to {own_name(database)}")
    return found


def named(base_name: str, ports: Ports) -> Instance | None:
    """The one that has this name, as RDS names it now; ``cluster/`` before the name of a cluster."""
    return _described(identifier_of(base_name), base_name.startswith(CLUSTER), ports)


def by_arn(arn: str, ports: Ports) -> Instance | None:
    """The one that has the name in this ARN now: RDS exchanges names, so it need not be the one of before."""
    kind, _, identifier = arn.rpartition(":")
    return _described(identifier, kind.endswith(":cluster"), ports)


def like(database: Database, identifier: str, ports: Ports) -> Instance | None:
    """The one that has this name now, and is what ``database`` is."""
    return _described(identifier, database.is_cluster, ports)


def _described(identifier: str, is_cluster: bool, ports: Ports) -> Instance | None:
    return ports.clusters.describe(identifier) if is_cluster else ports.rds.describe_instance(identifier)


def by_resource_id(resource_id: str, ports: Ports) -> Instance | None:
    """Follow one through a rename; None when it no longer exists, or was never seen (an empty id)."""
    if not resource_id:
        return None
    if is_cluster(resource_id):
        return ports.clusters.describe_by_resource_id(resource_id)
    return ports.rds.describe_instance_by_resource_id(resource_id)


def instances_of(cluster: Instance, ports: Ports) -> list[Instance]:
    """The instances of a cluster, the writer first; what is no cluster has none. One that is gone is left out."""
    listed = sorted(cluster.raw.get("DBClusterMembers") or (), key=lambda one: not one.get("IsClusterWriter"))
    found = [ports.rds.describe_instance(one["DBInstanceIdentifier"]) for one in listed]
    return [instance for instance in found if instance is not None]


def followers_of(database: Instance) -> list[str]:
    """What RDS lists of a cluster's instances, or of an instance's replicas: names, of another Region ARNs."""
    instances = [str(one["DBInstanceIdentifier"]) for one in database.raw.get("DBClusterMembers") or ()]
    return instances or [str(one) for one in database.raw.get("ReadReplicaDBInstanceIdentifiers") or ()]


def parts_of(database: Instance, ports: Ports) -> list[Instance]:
    """Itself, then the instances of a cluster, the writer first."""
    return [database, *instances_of(database, ports)]


def to_be_deleted_with(database: Instance, ports: Ports) -> list[Instance]:
    """What has to be deleted with it, itself the last: Aurora's instances, which keep their cluster from it."""
    before = [] if database.database.is_multi_az_cluster else instances_of(database, ports)
    return [*before, database]


def settings_differences(source: Instance, target: Instance, ports: Ports) -> Mapping[str, tuple[Any, Any]]:
    """Setting name -> (source's, target's), for every carried setting that differs."""
    if source.database.is_cluster:
        return ports.clusters.settings_differences(source, target)
    return ports.rds.settings_differences(source, target)


def request_restore(
    source: Instance, target_identifier: str, snapshot: str, key_arn: str, tags: Tags, ports: Ports
) -> None:
    """An instance gets its snapshot's key, a cluster this one."""
    if source.database.is_cluster:
        ports.clusters.request_restore(source, target_identifier, snapshot, key_arn, tags)
    else:
        ports.rds.request_restore(source, target_identifier, snapshot, tags)


def request_security_groups(of: Database, groups: Sequence[str], ports: Ports) -> None:
    """Of a cluster they are those of each of its instances."""
    if of.is_cluster:
        ports.clusters.request_security_groups(of.identifier, groups)
    else:
        ports.rds.request_security_groups(of.identifier, groups)


# -- its snapshots ---------------------------------------------------------------------------------------------------


def describe_snapshot(of: Database, identifier: str, ports: Ports) -> Mapping[str, Any] | None:
    if of.is_cluster:
        return ports.clusters.describe_snapshot(identifier)
    return ports.rds.describe_snapshot(identifier)


def snapshots_under(of: Database, key_arn: str, tags: Tags, ports: Ports) -> Sequence[str]:
    """Manual snapshots under this key that carry all these tags."""
    if of.is_cluster:
        return ports.clusters.snapshots_under(key_arn, tags)
    return ports.rds.snapshots_under(key_arn, tags)


def request_snapshot(of: Database, identifier: str, tags: Tags, ports: Ports) -> None:
    if of.is_cluster:
        ports.clusters.request_snapshot(identifier, of.identifier, tags)
    else:
        ports.rds.request_snapshot(identifier, of.identifier, tags)


def request_snapshot_copy(of: Database, original: str, copy: str, key_arn: str, tags: Tags, ports: Ports) -> None:
    if of.is_cluster:
        ports.clusters.request_snapshot_copy(original, copy, key_arn, tags)
    else:
        ports.rds.request_snapshot_copy(original, copy, key_arn, tags)


def request_snapshot_deletion(of: Database, identifier: str, ports: Ports) -> None:
    if of.is_cluster:
        ports.clusters.request_snapshot_deletion(identifier)
    else:
        ports.rds.request_snapshot_deletion(identifier)


# -- its end ---------------------------------------------------------------------------------------------------------


def disable_deletion_protection(of: Database, ports: Ports) -> None:
    if of.is_cluster:
        ports.clusters.disable_deletion_protection(of.identifier)
    else:
        ports.rds.disable_deletion_protection(of.identifier)


def request_deletion(of: Database, ports: Ports, *, keep_automated_backups: bool) -> None:
    """No final snapshot: it would hold the old key, or nobody needs it."""
    if of.is_cluster:
        ports.clusters.request_deletion(of, keep_automated_backups=keep_automated_backups)
    else:
        ports.rds.request_instance_deletion(of, keep_automated_backups=keep_automated_backups)
