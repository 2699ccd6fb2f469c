"""What RDS makes no blue/green deployment of a cluster of, or what one would break (Aurora User Guide: limitations)."""

from collections.abc import Iterator, Mapping

from lambdas.preflight.checks.blue_green import in_the_way, room_in_a_deployment
from lambdas.preflight.checks.instance import activity_stream, idle, resource_id_changes, room
from lambdas.rotation.ports import Instance, Ports
from lambdas.rotation.state import Finding, Rotation

COPIED_BY: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "aurora-postgresql": ("rds.logical_replication", ("1", "on")),
    "aurora-mysql": ("binlog_format", ("row", "mixed", "statement")),
}
"""By engine: the parameter of the cluster's group that lets green follow, and the values that do."""


def strategy(rotation: Rotation) -> Iterator[Finding]:
    plan, source = rotation.planned()
    if plan.strategy != "blue-green":
        yield Finding(
            name="ClusterNotServed",
            message=f"strategy {plan.strategy} does not rotate a cluster such as {source.identifier}",
            advice="rotate it by blue-green (key-rotation:strategy)",
        )
    if source.engine not in COPIED_BY:
        yield Finding(
            name="EngineNotSupported",
            message=f"RDS makes no blue/green deployment of a cluster of {source.engine}",
            advice="clusters of aurora-postgresql and aurora-mysql are supported",
        )


def condition(rotation: Rotation, source: Instance) -> Iterator[Finding]:
    """What keeps RDS from copying it, or would not be carried over."""
    raw, identifier = source.raw, source.database.identifier
    yield from idle(rotation, source)
    if raw.get("MasterUserSecret"):
        yield Finding(
            name="ManagedMasterPassword",
            message=f"RDS manages the master password of {identifier}: it copies no such cluster",
            advice="turn it off (ModifyDBCluster ManageMasterUserPassword=false with a password of your own)",
        )
    if source.replica_of is not None or raw.get("ReadReplicaIdentifiers"):
        yield Finding(
            name="HasReplicas",
            message=f"{identifier} replicates from or to another cluster or Region; RDS copies that not",
            advice="delete the replica, and make it anew after the rotation",
        )
    if (raw.get("EngineMode") or "provisioned") != "provisioned":
        yield Finding(
            name="EngineNotSupported",
            message=f"{identifier} runs in mode {raw['EngineMode']}; RDS copies provisioned ones (and Serverless v2)",
            advice="move it to Serverless v2 first",
        )
    if raw.get("GlobalClusterIdentifier") or raw.get("GlobalWriteForwardingStatus"):
        yield Finding(
            name="GlobalDatabase",
            message=f"{identifier} is a member of a global database; a rotation knows one Region",
            advice="not supported yet",
        )
    yield from activity_stream(source)
    if raw.get("CustomEndpoints"):
        yield Finding(
            name="CustomEndpoints",
            message=f"{identifier} has custom endpoints, which nothing here looks after at the switchover",
            advice="delete them, and make them anew after the rotation",
        )


def shape(source: Instance, ports: Ports) -> Iterator[Finding]:
    """Its instances are copied along, one for one."""
    identifier = source.database.identifier
    members = [one["DBInstanceIdentifier"] for one in source.raw.get("DBClusterMembers") or ()]
    if not members:
        yield Finding(
            name="NoInstances",
            message=f"{identifier} has no instances, so nobody can write to it, and RDS copies no such cluster",
            advice="give it one, then start again",
        )
    groups: set[str] = set()
    for name in members:
        instance = ports.rds.describe_instance(name)
        groups |= {g["DBParameterGroupName"] for g in (instance.raw.get("DBParameterGroups") or () if instance else ())}
        if instance is None or instance.status != "available":
            yield Finding(
                name="NotAvailable",
                message=f"{name}, an instance of {identifier}, is {instance.status if instance else 'gone'}",
                advice="wait until it is available, then start again",
            )
    if len(groups) > 1:
        yield Finding(
            name="GroupsDiffer",
            message=f"the instances of {identifier} have the parameter groups {', '.join(sorted(groups))}; RDS gives "
            "those of green one",
            advice="give them one, and reboot them",
        )
    yield from room_in_a_deployment(source, ports)


def quotas(source: Instance, ports: Ports) -> Iterator[Finding]:
    """Room for a second cluster like this and for two snapshots, for as long as the grace period lasts."""
    members = len(source.raw.get("DBClusterMembers") or ())
    yield from room({"DBClusters": 1, "DBInstances": members, "ManualClusterSnapshots": 2}, ports)


def replication(rotation: Rotation, source: Instance, ports: Ports) -> Iterator[Finding]:
    """Green follows by the engine's own logical replication, which has to be on, and does not carry everything."""
    plan, database = rotation.planned()
    if database.engine not in COPIED_BY:
        return
    parameter, on = COPIED_BY[database.engine]
    group = str(source.raw.get("DBClusterParameterGroup") or "")
    value = ports.clusters.parameter(group, parameter)
    if value is None or value.lower() not in on:
        yield Finding(
            name="ReplicationOff",
            message=f"{parameter} is {value} in {group}: RDS lets no copy of {database.identifier} follow it",
            advice=f"set it to {on[0]} in a cluster parameter group of its own, and reboot the writer",
        )
    yield from in_the_way(rotation, group, ports.clusters.parameter)
    if database.engine == "aurora-postgresql" and "logical-copy" not in plan.accept:
        yield Finding(
            name="LogicalCopy",
            message=f"RDS copies {database.identifier} logically: changes of the schema, large objects, unlogged "
            "tables, refreshes of materialized views, and changes in tables without a primary key do not get to green",
            advice='see to it that there are none until the switchover, and accept it: "Accept": ["logical-copy"]',
        )


def warnings(source: Instance) -> Iterator[Finding]:
    yield Finding(
        name="SwitchoverByRds",
        message=f"RDS itself stops the writes on {source.database.identifier} and exchanges the names; the rotation "
        "has no proof of its own that green has everything",
        advice="compare counts of your own before the grace period ends",
    )
    yield from resource_id_changes(source)
