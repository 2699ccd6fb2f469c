"""What keeps a cluster from being rotated: by RDS's blue/green (Aurora User Guide: limitations), or by a restore, which
brings nothing along but the data (RDS API reference: RestoreDBClusterFromSnapshot)."""

from collections.abc import Iterator, Mapping
from typing import Any

from lambdas.preflight.checks import login, snapshot
from lambdas.preflight.checks.blue_green import in_the_way
from lambdas.preflight.checks.instance import (
    activity_stream,
    carriable,
    engine,
    idle,
    reserved_capacity,
    resource_id_changes,
    room,
    room_for_tags,
)
from lambdas.rotation import databases, names, snapshots
from lambdas.rotation.engines import ENGINES
from lambdas.rotation.limitations import ways_around_a_fence
from lambdas.rotation.names import TAGS_OF_A_MEMBER, tags_of_a_source
from lambdas.rotation.ports import Instance, Ports
from lambdas.rotation.state import Finding, Rotation

COPIED_BY: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "aurora-postgresql": ("rds.logical_replication", ("1", "on")),
    "aurora-mysql": ("binlog_format", ("row", "mixed", "statement")),
}
"""By engine: the parameter of the cluster's group that lets green follow, and the values that do."""
LEFT_OUT: Mapping[str, str] = {
    "aurora-postgresql": "changes of the schema, of roles, grants and passwords, large objects, unlogged tables, "
    "refreshes of materialized views, and changes in tables without a primary key",
    "aurora-mysql": "a database named tmp, and changes of accounts, grants and passwords",
}
"""By engine: what does not get to green, of which nobody has seen whether there is any (Aurora User Guide: limitations
of blue/green deployments).

A logical copy is of tables. Roles are in none that PostgreSQL replicates (PostgreSQL Documentation: logical
replication, restrictions), and what Aurora MySQL 3 replicates does not get into the database ``mysql`` (Aurora User
Guide: replication between Aurora and another Aurora DB cluster).
"""
BY: Mapping[str, tuple[str, ...]] = {
    "blue-green": tuple(COPIED_BY),
    "snapshot": tuple(name for name in (*COPIED_BY, "postgres") if name in ENGINES),
}
"""Strategy -> the engines whose clusters it rotates; a fence of our own has to be known for a snapshot, unless nobody
logs in (`BEHIND_NETWORK`).

A cluster of an engine that is not Aurora's is a Multi-AZ DB cluster, of which RDS makes no blue/green deployment (RDS
User Guide: limitations of blue/green deployments)."""
BEHIND_NETWORK = tuple(COPIED_BY)


def strategy(rotation: Rotation) -> Iterator[Finding]:
    plan, source = rotation.planned()
    by_network = plan.fence == "network"
    engines = BEHIND_NETWORK if by_network else BY.get(plan.strategy)
    if source.is_multi_az_cluster and by_network:
        yield Finding(
            name="ClusterNotServed",
            message=f"a network fence keeps nobody out of a Multi-AZ DB cluster such as {source.identifier}: what "
            "restarts all of its instances, RebootDBCluster, has not been tried",
            advice="rotate one of PostgreSQL with a login (key-rotation:fence = server)",
        )
    elif source.is_multi_az_cluster and source.engine in BY["snapshot"] and plan.strategy != "snapshot":
        yield Finding(
            name="ClusterNotServed",
            message=f"strategy {plan.strategy} does not rotate a Multi-AZ DB cluster such as {source.identifier}",
            advice="rotate it by snapshot (key-rotation:strategy)",
        )
    elif engines is None:
        yield Finding(
            name="ClusterNotServed",
            message=f"strategy {plan.strategy} does not rotate a cluster such as {source.identifier}",
            advice="rotate it by blue-green or snapshot (key-rotation:strategy)",
        )
    elif source.engine not in engines:
        besides = (
            f"; behind a network fence those of {', '.join(BEHIND_NETWORK)}" if plan.strategy == "snapshot" else ""
        )
        yield Finding(
            name="EngineNotSupported",
            message=f"strategy {plan.strategy} does not rotate a cluster of {source.engine}",
            advice=f"it rotates those of {', '.join(engines)}{besides}",
        )


def version(rotation: Rotation, source: Instance) -> Iterator[Finding]:
    """That of a Multi-AZ DB cluster is an instance's; an engine that is not served has been named."""
    if source.database.is_multi_az_cluster and source.database.engine in BY["snapshot"]:
        yield from engine(rotation, source)


def condition(rotation: Rotation, source: Instance) -> Iterator[Finding]:
    """What keeps RDS from copying it, or would not be carried over."""
    plan, _ = rotation.planned()
    raw, identifier = source.raw, source.database.identifier
    yield from idle(rotation, source)
    if source.database.kms_key_arn is None and source.database.is_multi_az_cluster:
        yield Finding(
            name="Unencrypted",
            message=f"{identifier} is encrypted under no KMS key, and RDS encrypts no unencrypted Multi-AZ DB cluster",
            advice="move its data to an encrypted one of your own",
        )
    elif plan.strategy == "blue-green" and source.database.kms_key_arn is None:
        yield Finding(
            name="Unencrypted",
            message=f"{identifier} is encrypted under no KMS key: RDS makes no encrypted cluster of it by blue/green",
            advice="rotate it by snapshot (key-rotation:strategy)",
        )
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
    if raw.get("ClusterScalabilityType") == "limitless" or _is_limitless(raw):
        yield Finding(
            name="EngineNotSupported",
            message=f"{identifier} is an Aurora PostgreSQL Limitless Database, whose data is on shards",
            advice="not supported yet",
        )
    if raw.get("VPCNetworkingEnabled") is False or raw.get("InternetAccessGatewayEnabled"):
        yield Finding(
            name="OutsideVpc",
            message=f"{identifier} is reached by an internet access gateway and not in a VPC; that is not carried over",
            advice="not supported yet",
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


def _is_limitless(raw: Mapping[str, Any]) -> bool:
    return (raw.get("LimitlessDatabase") or {}).get("Status") not in (None, "not-in-use", "disabled")


def instances(rotation: Rotation, source: Instance, ports: Ports) -> Iterator[Finding]:
    """They are copied along, or made anew, one for one; RDS gives those of green one parameter group."""
    plan, database = rotation.planned()
    identifier, there = database.identifier, databases.instances_of(source, ports)
    found = {one.database.identifier: one.status for one in there}
    members = [one["DBInstanceIdentifier"] for one in source.raw.get("DBClusterMembers") or ()]
    if not members:
        yield Finding(
            name="NoInstances",
            message=f"{identifier} has no instances, so nobody can write to it, and RDS copies no such cluster",
            advice="give it one, then start again",
        )
    for name in members:
        if found.get(name) != "available":
            yield Finding(
                name="NotAvailable",
                message=f"{name}, an instance of {identifier}, is {found.get(name, 'gone')}",
                advice="wait until it is available, then start again",
            )
    for one in there:
        yield from room_for_tags(
            one, TAGS_OF_A_MEMBER if plan.strategy == "blue-green" else tags_of_a_source(plan.fence)
        )
    groups = {group["DBParameterGroupName"] for one in there for group in one.raw.get("DBParameterGroups") or ()}
    if plan.strategy == "blue-green" and len(groups) > 1:
        yield Finding(
            name="GroupsDiffer",
            message=f"the instances of {identifier} have the parameter groups {', '.join(sorted(groups))}; RDS gives "
            "those of green one",
            advice="give them one, and reboot them",
        )


def quotas(source: Instance, ports: Ports) -> Iterator[Finding]:
    """Room for a second cluster like this and for two snapshots, for as long as the grace period lasts.

    And at its end for one more, where a snapshot has to be restored to get under a key (`decommission.interim`).
    """
    members = len(source.raw.get("DBClusterMembers") or ())
    of_multi_az = source.database.is_multi_az_cluster
    clusters = 1 if snapshots.can_be_copied(source.database) else 2
    instances = members * clusters if of_multi_az else members
    needed = {"DBClusters": clusters, "DBInstances": instances, "ManualClusterSnapshots": 2}
    if of_multi_az:
        needed["AllocatedStorage"] = instances * int(source.raw.get("AllocatedStorage") or 0)
    yield from room(needed, ports)


def restorable(rotation: Rotation, source: Instance) -> Iterator[Finding]:
    """What a restore would leave behind, or lead astray."""
    plan, database = rotation.planned()
    raw = source.raw
    yield from ways_around_a_fence(source)
    yield from carriable(source, tags_of_a_source(plan.fence))
    if not database.is_multi_az_cluster:  # RDS names the instances of one itself
        yield from _member_names(rotation, source)
    if len(raw.get("DBClusterMembers") or ()) > 1 and "reader-endpoint" not in plan.accept:
        open_sessions, besides = (
            ("end, for every reader is restarted", "")
            if plan.fence == "network"
            else (
                "on a reader go on reading what was there at the fence, until they end",
                " and to restart clients that keep sessions there",
            )
        )
        yield Finding(
            name="ReaderEndpoint",
            message=f"nothing leads those who use the reader endpoint {raw.get('ReaderEndpoint')} to the target: from "
            f"the fence on new connections are refused, and sessions that are open {open_sessions}",
            advice=f'be ready to lead them to the target{besides}, and accept it: "Accept": ["reader-endpoint"]',
        )


def _member_names(rotation: Rotation, source: Instance) -> Iterator[Finding]:
    """Each gets a successor named after it, without the mark of an earlier rotation: two must not get the same."""
    named: dict[str, list[str]] = {}
    for one in source.raw.get("DBClusterMembers") or ():
        original = one["DBInstanceIdentifier"]
        named.setdefault(names.member_identifier(original, rotation.rotation_id), []).append(original)
    for successor, originals in named.items():
        if len(originals) > 1:
            yield Finding(
                name="MemberNames",
                message=f"the successors of {' and '.join(originals)}, instances of {source.database.identifier}, "
                f"would have one name, {successor}",
                advice="rename one of them (ModifyDBInstance NewDBInstanceIdentifier)",
            )


def replication(rotation: Rotation, source: Instance, ports: Ports) -> Iterator[Finding]:
    """Green follows by the engine's own logical replication, which has to be on, and does not carry everything."""
    plan, database = rotation.planned()
    if database.engine not in COPIED_BY:
        return
    parameter, on = COPIED_BY[database.engine]
    group = str(source.raw.get("DBClusterParameterGroup") or "")
    parameters = ports.clusters.parameters_of(group)
    value = parameters.get(parameter)
    if value is None or value.lower() not in on:
        yield Finding(
            name="ReplicationOff",
            message=f"{parameter} is {value} in {group}: RDS lets no copy of {database.identifier} follow it",
            advice=f"set it to {on[0]} in a cluster parameter group of its own, and reboot the writer",
        )
    yield from in_the_way(rotation, group, parameters)
    if "logical-copy" not in plan.accept:
        yield Finding(
            name="LogicalCopy",
            message=f"RDS copies {database.identifier} logically, and without this: {LEFT_OUT[database.engine]}",
            advice='see to it that there are none until the switchover, and accept it: "Accept": ["logical-copy"]',
        )


def backtracked(source: Instance) -> Iterator[Finding]:
    """Green follows by the binary log, which backtracking does not go with, and cannot get it later."""
    if seconds := int(source.raw.get("BacktrackWindow") or 0):
        yield Finding(
            name="BacktrackEnabled",
            message=f"{source.database.identifier} can be backtracked by {seconds} s, and green could not: RDS makes "
            "it without that",
            advice="rotate it by snapshot behind a network fence, which carries it over; or give it up "
            "(ModifyDBCluster BacktrackWindow=0)",
        )


def warnings_of_blue_green(source: Instance, ports: Ports) -> Iterator[Finding]:
    yield Finding(
        name="SwitchoverByRds",
        message=f"RDS itself stops the writes on {source.database.identifier} and exchanges the names; the rotation "
        "has no proof of its own that green has everything",
        advice="compare counts of your own before the grace period ends",
    )
    yield from resource_id_changes(source)
    yield from reserved_capacity(source, ports)
    yield Finding(
        name="AutoScaling",
        message=f"scaling policies of {source.database.identifier} are not copied to green, and nobody has looked for "
        "any; an instance that one adds before the switchover ends the rotation, and one that it adds to what is left "
        "behind keeps that from being removed",
        advice="take them away until the switchover, and configure them anew after it",
    )


def warnings_of_snapshot(rotation: Rotation, source: Instance, ports: Ports) -> Iterator[Finding]:
    identifier = source.database.identifier
    yield from login.warnings(rotation, ports)
    if source.database.is_multi_az_cluster:
        yield from snapshot.loads_lazily(source, "be ready for that")
        return
    if (source.raw.get("DatabaseInsightsMode") or "standard") != "standard":
        yield Finding(
            name="DatabaseInsights",
            message=f"{identifier} has Database Insights in mode {source.raw['DatabaseInsightsMode']}; that is not "
            "carried over",
            advice="set it for the target after the rotation",
        )
    yield Finding(
        name="AutoScaling",
        message=f"scaling policies of {identifier} are not carried over, and nobody has looked for any; instances that "
        "one has added are made anew, and stay",
        advice="register the target with Application Auto Scaling after the rotation",
    )
