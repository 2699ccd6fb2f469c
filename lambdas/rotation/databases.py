"""A database of RDS, whichever it is: an instance, or a cluster. A port for each; the resource id tells them apart.

Only for steps that are of clusters, too: a function that asks for what it never meets would have to be allowed to.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from lambdas.rotation.names import CLUSTER, identifier_of
from lambdas.rotation.ports import Instance, Ports
from lambdas.rotation.state import Database, is_cluster

Tags = Mapping[str, str]


def own_name(database: Database) -> str:
    """The base name that it would have without any rotation before."""
    return (CLUSTER if database.is_cluster else "") + database.identifier


def named(base_name: str, ports: Ports) -> Instance | None:
    """The one that has this name, as RDS names it now; ``cluster/`` before the name of a cluster."""
    if base_name.startswith(CLUSTER):
        return ports.clusters.describe(identifier_of(base_name))
    return ports.rds.describe_instance(base_name)


def by_arn(arn: str, ports: Ports) -> Instance | None:
    """The one that has the name in this ARN now: RDS exchanges names, so it need not be the one of before."""
    kind, _, identifier = arn.rpartition(":")
    if kind.endswith(":cluster"):
        return ports.clusters.describe(identifier)
    return ports.rds.describe_instance(identifier)


def by_resource_id(resource_id: str, ports: Ports) -> Instance | None:
    """Follow one through a rename; None when it no longer exists."""
    if is_cluster(resource_id):
        return ports.clusters.describe_by_resource_id(resource_id)
    return ports.rds.describe_instance_by_resource_id(resource_id)


def settings_differences(source: Instance, target: Instance, ports: Ports) -> Mapping[str, tuple[Any, Any]]:
    """Setting name -> (source's, target's), for every carried setting that differs."""
    if source.database.is_cluster:
        return ports.clusters.settings_differences(source, target)
    return ports.rds.settings_differences(source, target)


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


def request_deletion(of: Database, ports: Ports) -> None:
    """No final snapshot. Its automated backups stay and expire by themselves."""
    if of.is_cluster:
        ports.clusters.request_deletion(of.identifier, keep_automated_backups=True)
    else:
        ports.rds.request_instance_deletion(of.identifier, keep_automated_backups=True)
