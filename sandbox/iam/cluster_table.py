"""Which permissions RDS's calls about clusters need: rows of the table, as table.py says."""

from __future__ import annotations

from collections.abc import Iterator

from sandbox.iam.table import (
    Call,
    Check,
    add_tags,
    manage_password,
    modified,
    new_db_context,
    new_rds_thing,
    on,
    pass_role,
    rds_arn,
    request_tags,
    row,
)

_cluster = rds_arn("cluster", "DBClusterIdentifier")
_snapshot = rds_arn("cluster-snapshot", "DBClusterSnapshotIdentifier")
_group = rds_arn("cluster-pg", "DBClusterParameterGroupName")
_backup = rds_arn("cluster-auto-backup", "DbClusterResourceId")
_GROUPS = {"cluster-pg": "DBClusterParameterGroupName", "og": "OptionGroupName"}

on("rds", _cluster, "DescribeDBClusters", "DescribeDBClusterEndpoints", "FailoverDBCluster",
   "PromoteReadReplicaDBCluster", "StartDBCluster", "StopDBCluster")  # fmt: skip
on("rds", _snapshot, "DeleteDBClusterSnapshot", "DescribeDBClusterSnapshotAttributes",
   "ModifyDBClusterSnapshotAttribute")  # fmt: skip
on("rds", _group, "DescribeDBClusterParameterGroups", "DescribeDBClusterParameters", "ModifyDBClusterParameterGroup",
   "ResetDBClusterParameterGroup", "DeleteDBClusterParameterGroup")  # fmt: skip
on("rds", _backup, "DeleteDBClusterAutomatedBackup")
on("rds", rds_arn("global-cluster", "GlobalClusterIdentifier"), "DescribeGlobalClusters")
new_rds_thing("CreateDBClusterParameterGroup", "cluster-pg", "DBClusterParameterGroupName")


@row("rds", "DescribeDBClusterSnapshots", "DescribeDBClusterAutomatedBackups")
def _describe(call: Call) -> Iterator[Check]:
    own = _snapshot if call.operation == "DescribeDBClusterSnapshots" else _backup
    named = call.params.get("DBClusterSnapshotIdentifier") or call.params.get("DbClusterResourceId")
    by_cluster = call.params.get("DBClusterIdentifier") and not named
    yield Check(call.action, _cluster(call) if by_cluster else own(call))


@row("rds", "CreateDBCluster", "RestoreDBClusterFromSnapshot")
def _new(call: Call) -> Iterator[Check]:
    context = new_db_context(call)
    yield Check(call.action, _cluster(call), context)
    if call.operation == "RestoreDBClusterFromSnapshot":
        yield Check(call.action, rds_arn("cluster-snapshot", "SnapshotIdentifier")(call), context)
    for kind, parameter in (*_GROUPS.items(), ("subgrp", "DBSubnetGroupName")):
        yield Check(call.action, call.here(f"{kind}:{call.params.get(parameter) or 'default'}"), context)
    if call.params.get("DBClusterInstanceClass"):
        # A dependent action in AWS's table; on what, and with which tags, is not known.
        yield Check("rds:CreateDBInstance", call.here(f"db:{call.get('DBClusterIdentifier')}-instance-1"))
        yield Check("rds:CreateDBInstance", _cluster(call))
    yield from add_tags(call, _cluster(call))
    yield from manage_password(call, "cluster")
    yield from _pass_roles(call)


@row("rds", "ModifyDBCluster")
def _modify(call: Call) -> Iterator[Check]:
    parts = {**_GROUPS, "pg": "DBInstanceParameterGroupName"}
    given = (rds_arn(kind, parameter)(call) for kind, parameter in parts.items() if call.params.get(parameter))
    yield from modified(call, "cluster", "DBCluster", given)
    yield from _its_instances(call, "rds:ModifyDBInstance")
    yield from _pass_roles(call)


def _its_instances(call: Call, action: str) -> Iterator[Check]:
    """A dependent action in AWS's table. Taken to be asked for where the call changes, or deletes, instances, too."""
    cluster = call.inventory.db_cluster(call.get("DBClusterIdentifier"))
    if cluster is not None and cluster.is_multi_az:
        for member in call.inventory.db_cluster_members(_cluster(call)):
            yield Check(action, member)


def _pass_roles(call: Call) -> Iterator[Check]:
    yield from pass_role(call, call.params.get("MonitoringRoleArn"), "monitoring.rds.amazonaws.com", _cluster(call))
    yield from pass_role(call, call.params.get("DomainIAMRoleName"), "rds.amazonaws.com", _cluster(call))
    for role in call.params.get("AssociatedRoles") or ():
        yield from pass_role(call, role.get("RoleArn"), "rds.amazonaws.com", _cluster(call))


@row("rds", "DeleteDBCluster")
def _delete(call: Call) -> Iterator[Check]:
    yield Check(call.action, _cluster(call))
    yield from _its_instances(call, "rds:DeleteDBInstance")
    if call.params.get("FinalDBSnapshotIdentifier"):
        final = rds_arn("cluster-snapshot", "FinalDBSnapshotIdentifier")(call)
        yield Check(call.action, final)
        yield Check("rds:CreateDBClusterSnapshot", _cluster(call))
        yield Check("rds:CreateDBClusterSnapshot", final)


@row("rds", "RebootDBCluster")
def _reboot(call: Call) -> Iterator[Check]:
    yield Check(call.action, _cluster(call))
    for member in call.inventory.db_cluster_members(_cluster(call)):
        yield Check("rds:RebootDBInstance", member)


@row("rds", "AddRoleToDBCluster", "RemoveRoleFromDBCluster")
def _role(call: Call) -> Iterator[Check]:
    yield Check(call.action, _cluster(call))
    yield from pass_role(call, call.params.get("RoleArn"), "rds.amazonaws.com", _cluster(call))


@row("rds", "CreateDBClusterSnapshot")
def _create_snapshot(call: Call) -> Iterator[Check]:
    context = request_tags(call.params.get("Tags"), "rds")
    yield Check(call.action, _cluster(call), context)
    yield Check(call.action, _snapshot(call), context)
    yield from add_tags(call, _snapshot(call))


@row("rds", "CopyDBClusterSnapshot", "CopyDBClusterParameterGroup")
def _copy(call: Call) -> Iterator[Check]:
    kind = "cluster-snapshot" if call.operation == "CopyDBClusterSnapshot" else "cluster-pg"
    name = call.operation.removeprefix("Copy")
    context = request_tags(call.params.get("Tags"), "rds")
    target = rds_arn(kind, f"Target{name}Identifier")(call)
    yield Check(call.action, rds_arn(kind, f"Source{name}Identifier")(call), context)
    yield Check(call.action, target, context)
    yield from add_tags(call, target)
