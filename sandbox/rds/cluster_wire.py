"""The calls about clusters, put into moto's RDS."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from moto.core.responses import ActionResult, EmptyResult
from moto.rds.responses import RDSResponse

from sandbox.rds.wire import nothing, page, refuse_this


def install_cluster_wire() -> None:
    """Let moto's RDS answer with the sandbox's views."""
    for name, answer in {
        "create_db_cluster": _about("DBCluster", "create_db_cluster"),
        "modify_db_cluster": _about("DBCluster", "modify_db_cluster"),
        "failover_db_cluster": _about("DBCluster", "failover_db_cluster"),
        "delete_db_cluster": _about("DBCluster", "delete_db_cluster"),
        "promote_read_replica_db_cluster": _about("DBCluster", "promote_read_replica_db_cluster"),
        "describe_db_clusters": _list("DBClusters", "views_of_clusters"),
        "create_db_cluster_snapshot": _about("DBClusterSnapshot", "create_db_cluster_snapshot"),
        "copy_db_cluster_snapshot": _about("DBClusterSnapshot", "copy_db_cluster_snapshot"),
        "delete_db_cluster_snapshot": _about("DBClusterSnapshot", "delete_db_cluster_snapshot"),
        "describe_db_cluster_snapshots": _list("DBClusterSnapshots", "views_of_cluster_snapshots"),
        "restore_db_cluster_from_snapshot": _about("DBCluster", "restore_db_cluster_from_snapshot"),
        "describe_db_cluster_automated_backups": _list("DBClusterAutomatedBackups", "views_of_cluster_backups"),
        "delete_db_cluster_automated_backup": _about("DBClusterAutomatedBackup", "delete_db_cluster_automated_backup"),
        "remove_role_from_db_cluster": _done("remove_role_from_db_cluster"),
        "reset_db_cluster_parameter_group": _reset_group,
        "describe_db_cluster_parameters": _list("Parameters", "views_of_cluster_parameters"),
        "describe_db_cluster_endpoints": nothing("DBClusterEndpoints"),
        "restore_db_cluster_to_point_in_time": refuse_this,
        "restore_db_cluster_from_s3": refuse_this,
        "create_db_cluster_endpoint": refuse_this,
        "create_global_cluster": refuse_this,
        "start_db_cluster": refuse_this,
        "stop_db_cluster": refuse_this,
        "reboot_db_cluster": refuse_this,
    }.items():
        setattr(RDSResponse, name, answer)


def _about(member: str, method: str) -> Callable[[Any], ActionResult]:
    return lambda self: ActionResult({member: getattr(self.backend, method)(self.params).view()})


def _list(member: str, method: str) -> Callable[[Any], ActionResult]:
    return lambda self: page(self, member, getattr(self.backend, method)(self.params))


def _done(method: str) -> Callable[[Any], EmptyResult]:
    def respond(self: Any) -> EmptyResult:
        getattr(self.backend, method)(self.params)
        return EmptyResult()

    return respond


def _reset_group(self: Any) -> ActionResult:
    return ActionResult(
        {"DBClusterParameterGroupName": self.backend.reset_db_cluster_parameter_group(self.params).name}
    )
