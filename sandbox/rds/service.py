"""Composes RDS: engines, fronts, addresses, and the wire."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from moto.core.responses import ActionResult, EmptyResult
from moto.rds.models import rds_backends
from moto.rds.responses import RDSResponse

from sandbox.local_servers import make_directory
from sandbox.rds.backend import SandboxRds
from sandbox.rds.backups import SNAPSHOT_QUOTA
from sandbox.rds.cluster_settings import CLUSTER_QUOTA
from sandbox.rds.cluster_wire import install_cluster_wire
from sandbox.rds.durations import Durations
from sandbox.rds.engines import Engines
from sandbox.rds.orderable import orderable
from sandbox.rds.resources import Instance
from sandbox.rds.security_groups import install_security_groups
from sandbox.rds.settings import INSTANCE_QUOTA, STORAGE_QUOTA_GIB
from sandbox.rds.wire import nothing, page, refuse_this
from sandbox.tls_front import AddressBlock, Cut, TlsFront

if TYPE_CHECKING:
    from sandbox.context import Context


class RdsService:
    """The handle on RDS: for closing it, and for the faults that no API can cause."""

    def __init__(self, context: Context, durations: Durations | None = None) -> None:
        self.context = context
        self.durations = durations or Durations()
        directory = context.work_dir / "rds"
        directory.mkdir(parents=True)
        for part in (context.work_dir, directory):
            # The servers' account passes through, and sees nothing.
            part.chmod(part.stat().st_mode | 0o011)
        self.engines = Engines(directory, context.reaper)
        self.engines.servers("postgres")
        make_directory(directory / "snapshots")
        self.fronts = TlsFront()
        context.reaper.track(self.fronts.pid)
        self.addresses = AddressBlock()
        started: list[SandboxRds] = []
        self._started = started
        rds_backends.backend = type(
            "SandboxRdsOfThisContext",
            (SandboxRds,),
            {
                "__module__": SandboxRds.__module__,
                "context": context,
                "durations": self.durations,
                "engines": self.engines,
                "fronts": self.fronts,
                "addresses": self.addresses,
                "started": started,
            },
        )
        install_security_groups(started)
        _install_wire()
        install_cluster_wire()

    @property
    def backend(self) -> SandboxRds:
        backend: SandboxRds = rds_backends[self.context.account_id][self.context.region]
        return backend

    @property
    def failures(self) -> list[str]:
        """Tracebacks of operations that failed."""
        return [failure for backend in self._started for failure in backend.failures]

    def instance(self, name: str) -> Instance:
        """The instance of this name; where that is a cluster's, the one that writes."""
        cluster = self.backend.clusters.get(name)
        return (cluster and cluster.writer) or self.backend.instance(name)

    def cut(self, name: str, how: Cut = "silence") -> None:
        """Cut the network between every client and an instance."""
        self.backend.cut(self.instance(name), how)

    def restore_network(self, name: str) -> None:
        self.backend.restore_network(self.instance(name))

    def crash(self, name: str, *, down_seconds: float = 0.0) -> None:
        """Kill an instance's server as a failing host would, and start it again as RDS would, real seconds later."""
        instance = self.instance(name)
        server = instance.server
        assert server
        self.backend.hang_up(instance)
        server.crash()

        def recover() -> None:
            server.start()
            self.backend.note(instance, "availability", "DB instance restarted")

        self._after(down_seconds, recover)

    def fail_over(self, name: str, *, down_seconds: float = 0.0) -> None:
        """As :meth:`crash`, and another host takes over: its name leads to another address from then on.

        The storage is the same, so what was acknowledged is there; RDS does not change the status. Of a cluster a
        reader takes over at once.
        """
        instance = self.instance(name)
        if instance.cluster and self.backend.lose_writer(instance.cluster):
            return
        server = instance.server
        assert server
        self.backend.hang_up(instance)
        server.crash()
        self.backend.note(instance, "failover", "Multi-AZ instance failover started.")

        def take_over() -> None:
            server.start()
            self.backend.note(instance, "availability", "DB instance restarted")
            self.backend.move(instance)
            self.backend.note(instance, "failover", "Multi-AZ instance failover completed")

        self._after(down_seconds, take_over)

    def open_like(self, name: str, other: str) -> None:
        """Let in at once to an instance whom the groups of another one let in."""
        self.backend.copy_groups(self.instance(name), self.instance(other))

    def fill_storage(self, name: str) -> None:
        """RDS's answer to a full disk: it says so, and the server is down until somebody gives it more storage."""
        instance = self.instance(name)
        with instance.operations:  # after what RDS is doing with it, which would show another status
            assert instance.server
            instance.status = "storage-full"
            self.backend.hang_up(instance)
            instance.server.crash()

    def _after(self, seconds: float, work: Callable[[], None]) -> None:
        """Now, or in a thread of its own; the clock does not jump until it is done."""
        self.context.clock.hold()

        def late() -> None:
            try:
                time.sleep(seconds)
                work()
            finally:
                self.context.clock.let_go()

        if seconds:
            threading.Thread(target=late, name="recovering server", daemon=True).start()
        else:
            late()

    def replace(self, name: str) -> None:
        """Put a copy in the place of an instance's server, and let its replicas follow the one that was there.

        Nobody can write while it is copied. The old one goes on for a while (a migration, of which the copy was to be
        the undoing): what its replicas have replayed lies behind the position of the copy, and is another history.
        """
        old = self.instance(name).server
        assert old
        with self.context.clock.busy():
            self.cut(name, "reset")
            self.backend.put_copy_in_place(name)
            self.restore_network(name)
            old.go_on()

    def close(self) -> None:
        """End fronts and servers. The files are the reaper's."""
        for backend in self._started:
            backend.close()
        self.fronts.close()
        self.engines.close()
        self.addresses.close()


def _instance(method: str) -> Any:
    def respond(self: Any) -> ActionResult:
        return ActionResult({"DBInstance": getattr(self.backend, method)(self.params).view()})

    return respond


def _install_wire() -> None:
    """Let moto's RDS answer with the sandbox's views, and to the calls that moto does not know."""

    def modify_db_instance(self: Any) -> ActionResult:
        return _one(self.backend.modify_db_instance(self.params["DBInstanceIdentifier"], self.params))

    def reboot_db_instance(self: Any) -> ActionResult:
        return _one(self.backend.reboot_db_instance(self.params["DBInstanceIdentifier"]))

    def start_db_instance(self: Any) -> ActionResult:
        return _one(self.backend.start_db_instance(self.params["DBInstanceIdentifier"]))

    def stop_db_instance(self: Any) -> ActionResult:
        return _one(
            self.backend.stop_db_instance(self.params["DBInstanceIdentifier"], self.params.get("DBSnapshotIdentifier"))
        )

    def delete_db_instance(self: Any) -> ActionResult:
        return _one(
            self.backend.delete_db_instance(
                self.params["DBInstanceIdentifier"],
                self.params.get("FinalDBSnapshotIdentifier"),
                self.params.get("SkipFinalSnapshot"),
                self.params.get("DeleteAutomatedBackups"),
            )
        )

    def restore_db_instance_from_db_snapshot(self: Any) -> ActionResult:
        return _one(self.backend.restore_db_instance_from_db_snapshot(self.params["DBSnapshotIdentifier"], self.params))

    def describe_db_instances(self: Any) -> ActionResult:
        return page(self, "DBInstances", self.backend.views_of_instances(self.params))

    def describe_events(self: Any) -> ActionResult:
        return page(self, "Events", self.backend.views_of_events(self.params))

    def create_db_snapshot(self: Any) -> ActionResult:
        return ActionResult({"DBSnapshot": self.backend.create_db_snapshot(self.params).view()})

    def copy_db_snapshot(self: Any) -> ActionResult:
        return ActionResult({"DBSnapshot": self.backend.copy_db_snapshot(self.params).view()})

    def delete_db_snapshot(self: Any) -> ActionResult:
        return ActionResult({"DBSnapshot": self.backend.delete_db_snapshot(self.params["DBSnapshotIdentifier"]).view()})

    def describe_db_snapshots(self: Any) -> ActionResult:
        return page(self, "DBSnapshots", self.backend.views_of_snapshots(self.params))

    def describe_db_instance_automated_backups(self: Any) -> ActionResult:
        return page(self, "DBInstanceAutomatedBackups", self.backend.views_of_backups(self.params))

    def delete_db_instance_automated_backup(self: Any) -> ActionResult:
        backup = self.backend.delete_db_instance_automated_backup(self.params)
        return ActionResult({"DBInstanceAutomatedBackup": backup.view()})

    def start_db_instance_automated_backups_replication(self: Any) -> ActionResult:
        return ActionResult({"DBInstanceAutomatedBackup": self.backend.start_replication(self.params).view()})

    def stop_db_instance_automated_backups_replication(self: Any) -> ActionResult:
        return ActionResult({"DBInstanceAutomatedBackup": self.backend.stop_replication(self.params).view()})

    def create_blue_green_deployment(self: Any) -> ActionResult:
        return ActionResult({"BlueGreenDeployment": self.backend.request_deployment(self.params).view()})

    def describe_blue_green_deployments(self: Any) -> ActionResult:
        return page(self, "BlueGreenDeployments", self.backend.views_of_deployments(self.params))

    def switchover_blue_green_deployment(self: Any) -> ActionResult:
        return ActionResult({"BlueGreenDeployment": self.backend.request_switchover(self.params).view()})

    def delete_blue_green_deployment(self: Any) -> ActionResult:
        return ActionResult({"BlueGreenDeployment": self.backend.request_deployment_deletion(self.params).view()})

    def describe_db_log_files(self: Any) -> ActionResult:
        return page(self, "DescribeDBLogFiles", self.backend.views_of_log_files(self.params))

    def download_db_log_file_portion(self: Any) -> ActionResult:
        return ActionResult(self.backend.portion_of_log(self.params))

    def register_db_proxy_targets(self: Any) -> ActionResult:
        return ActionResult({"DBProxyTargets": self.backend.request_proxy_targets(self.params)})

    def deregister_db_proxy_targets(self: Any) -> EmptyResult:
        self.backend.deregister_proxy_targets(self.params)
        return EmptyResult()

    def describe_db_proxy_targets(self: Any) -> ActionResult:
        return page(self, "Targets", self.backend.views_of_proxy_targets(self.params))

    def describe_account_attributes(self: Any) -> ActionResult:
        backend = self.backend
        with backend.lock:
            manual = sum(s.kind == "manual" for s in backend.database_snapshots.values())
            of_clusters = sum(s.kind == "manual" for s in backend.cluster_snapshots.values())
            storage = sum(i.settings["AllocatedStorage"] for i in backend.databases.values())
            quotas = {
                "DBInstances": (len(backend.databases), INSTANCE_QUOTA),
                "ManualSnapshots": (manual, SNAPSHOT_QUOTA),
                "AllocatedStorage": (storage, STORAGE_QUOTA_GIB),
                "ReadReplicasPerMaster": (max((len(i.replicas) for i in backend.databases.values()), default=0), 15),
                "DBParameterGroups": (len(backend.db_parameter_groups), 50),
                "ManualClusterSnapshots": (of_clusters, SNAPSHOT_QUOTA),
                "DBClusters": (len(backend.clusters), CLUSTER_QUOTA),
                "DBClusterParameterGroups": (len(backend.db_cluster_parameter_groups), 50),
            }
        return ActionResult(
            {
                "AccountQuotas": [
                    {"AccountQuotaName": name, "Used": used, "Max": limit} for name, (used, limit) in quotas.items()
                ]
            }
        )

    def describe_db_engine_versions(self: Any) -> ActionResult:
        engine, version = self.params.get("Engine"), self.params.get("EngineVersion")
        versions = [
            {
                "Engine": kind.name,
                "EngineVersion": one,
                "MajorEngineVersion": kind.major,
                "DBParameterGroupFamily": kind.family,
                "Status": "available",
                "SupportsReadReplica": kind.has_read_replicas,
                "ValidUpgradeTarget": [],
            }
            for kind in self.backend.engines.kinds.values()
            for one in kind.versions
            if engine in (None, kind.name) and version in (None, one, kind.major)
        ]
        if self.params.get("DefaultOnly"):
            versions = versions[:1]
        return ActionResult({"DBEngineVersions": versions})

    def describe_orderable_db_instance_options(self: Any) -> ActionResult:
        kinds = self.backend.engines.kinds.values()
        return page(self, "OrderableDBInstanceOptions", orderable(kinds, self.params))

    def reset_db_parameter_group(self: Any) -> ActionResult:
        return ActionResult({"DBParameterGroupName": self.backend.reset_db_parameter_group(self.params).name})

    def describe_db_parameters(self: Any) -> ActionResult:
        return page(self, "Parameters", self.backend.views_of_parameters(self.params))

    def describe_certificates(self: Any) -> ActionResult:
        return ActionResult(
            {
                "Certificates": [{"CertificateIdentifier": "rds-ca-rsa2048-g1", "CertificateType": "CA"}],
                "DefaultCertificateForNewLaunches": "rds-ca-rsa2048-g1",
            }
        )

    for method in (
        modify_db_instance, reboot_db_instance, start_db_instance, stop_db_instance, delete_db_instance,
        restore_db_instance_from_db_snapshot, describe_db_instances, create_db_snapshot, copy_db_snapshot,
        delete_db_snapshot, describe_db_snapshots, describe_db_instance_automated_backups,
        delete_db_instance_automated_backup, describe_account_attributes, describe_db_engine_versions,
        describe_orderable_db_instance_options, describe_certificates, reset_db_parameter_group,
        describe_db_parameters, create_blue_green_deployment,
        describe_blue_green_deployments, switchover_blue_green_deployment, delete_blue_green_deployment,
        describe_db_log_files, download_db_log_file_portion, register_db_proxy_targets, deregister_db_proxy_targets,
        describe_db_proxy_targets, describe_events, start_db_instance_automated_backups_replication,
        stop_db_instance_automated_backups_replication,
    ):  # fmt: skip
        setattr(RDSResponse, method.__name__, method)
    for name in ("create_db_instance", "create_db_instance_read_replica", "promote_read_replica"):
        setattr(RDSResponse, name, _instance(name))
    for name in (
        "restore_db_instance_to_point_in_time",
        "start_export_task",
        "modify_db_proxy",
        "create_db_proxy_endpoint",
    ):
        setattr(RDSResponse, name, refuse_this)
    for name, member in (
        ("describe_pending_maintenance_actions", "PendingMaintenanceActions"),
        ("describe_tenant_databases", "TenantDatabases"),
        ("describe_integrations", "Integrations"),
        ("describe_db_snapshot_tenant_databases", "DBSnapshotTenantDatabases"),
    ):
        setattr(RDSResponse, name, nothing(member))


def _one(instance: Instance) -> ActionResult:
    return ActionResult({"DBInstance": instance.view()})


__all__ = ["RdsService"]
