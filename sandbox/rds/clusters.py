"""Clusters: create, describe, modify, rename, delete. Their instances have a life of their own (cluster_members.py)."""

from __future__ import annotations

import time

from moto.rds.models import AssociatedRole

from sandbox.rds.cluster_backups import ClusterBackups, roles_of
from sandbox.rds.cluster_resources import Cluster
from sandbox.rds.errors import (
    cluster_exists,
    invalid_cluster_state,
    invalid_combination,
    invalid_value,
    refuse,
)
from sandbox.rds.filters import passes
from sandbox.rds.operations import Params
from sandbox.rds.resources import Snapshot, View
from sandbox.rds.settings import check_master_password, check_password, tags_of

# Settings that ModifyDBCluster changes at once, whatever ApplyImmediately says.
AT_ONCE = (
    "AutoMinorVersionUpgrade", "BackupRetentionPeriod", "BacktrackWindow", "CopyTagsToSnapshot", "DatabaseInsightsMode",
    "DeletionProtection", "EngineLifecycleSupport", "PreferredBackupWindow", "PreferredMaintenanceWindow",
)  # fmt: skip


class Clusters(ClusterBackups):
    """The life of a cluster."""

    def create_db_cluster(self, params: Params) -> Cluster:
        with self.lock:
            name = self._new_cluster_name(params["DBClusterIdentifier"])
            kind = self._clustered_kind(params["Engine"], params.get("EngineVersion"))
            if params.get("EngineMode") not in (None, "provisioned"):
                raise invalid_value(f"The sandbox has no clusters of engine mode {params['EngineMode']}.")
            if params.get("ReplicationSourceIdentifier") or params.get("GlobalClusterIdentifier"):
                raise invalid_value("The sandbox has neither global clusters nor replicas of clusters.")
            settings = self._cluster_settings(name, kind, params, {})
            settings["DatabaseName"] = params.get("DatabaseName")
            settings["MasterUsername"] = self._master_user(params, kind)
            check_master_password(params)
            cluster = Cluster(self, name, settings, tags_of(params), self._key_of_new(params))
            cluster.password = self._master_password(cluster, params)
            cluster._associated_roles = roles_of(params)
            self._enter_cluster(cluster)
            self._make_instances(cluster)

        def make() -> None:
            self._pass(cluster, self.durations.create)
            self._await_instances(cluster)
            self._show(cluster, "available")

        self._operate(cluster, make)
        return cluster

    def views_of_clusters(self, params: Params) -> list[View]:
        with self.lock:
            self._expire()
            name = params.get("DBClusterIdentifier")
            clusters = [self.cluster(name)] if name else list(self.clusters.values())
            return [
                cluster.view()
                for cluster in clusters
                if passes(
                    params,
                    {
                        "clone-group-id": [],
                        "db-cluster-id": [cluster.name, cluster.arn],
                        "db-cluster-resource-id": [cluster.cluster_resource_id],
                        "domain": [],
                        "engine": [cluster.engine],
                    },
                )
            ]

    # -- modify --------------------------------------------------------------------------------------------------------

    def modify_db_cluster(self, params: Params) -> Cluster:
        with self.lock:
            cluster = self.cluster(params["DBClusterIdentifier"])
            self._cluster_must_be_available(cluster, "modify", also=("backing-up",))
            if params.get("Port") or params.get("EngineVersion"):
                raise invalid_value("The sandbox changes neither the port nor the version of a cluster.")
            now = bool(params.get("ApplyImmediately"))
            chosen = self._chosen_of_cluster(params, self._kind(cluster.engine), cluster.settings["SubnetGroup"])
            if "PreferredBackupWindow" in chosen or "PreferredMaintenanceWindow" in chosen:
                together = cluster.settings | chosen
                self._check_windows(together["PreferredMaintenanceWindow"], together["PreferredBackupWindow"])
            if chosen.get("BacktrackWindow") and not cluster.settings.get("BacktrackWindow"):
                # Aurora User Guide: only for one that was created, or restored, with it.
                raise invalid_combination(f"Backtrack is not enabled for cluster {cluster.name}.")
            later: View = {}
            if (name := params.get("NewDBClusterIdentifier")) and name.lower() != cluster.name:
                later["DBClusterIdentifier"] = self._new_cluster_name(name, renaming=True)
            authentication = chosen.get("IAMDatabaseAuthenticationEnabled")
            if authentication not in (None, cluster.settings["IAMDatabaseAuthenticationEnabled"]):
                later["IAMDatabaseAuthenticationEnabled"] = authentication
            at_once = self._modify_cluster_password(cluster, params, now)
            for member in AT_ONCE:
                if member in chosen:
                    cluster.settings[member] = chosen[member]
            if chosen.get("SecurityGroups", cluster.settings["SecurityGroups"]) != cluster.settings["SecurityGroups"]:
                self._change_groups(cluster, chosen["SecurityGroups"])
            if "ServerlessV2ScalingConfiguration" in chosen:
                cluster.settings["ServerlessV2ScalingConfiguration"] = chosen["ServerlessV2ScalingConfiguration"]
            self._note_retention(cluster)
            busy = self._modify_log_exports(cluster, params)
            if "ParameterGroup" in chosen and chosen["ParameterGroup"] != cluster.settings["ParameterGroup"]:
                cluster.settings["ParameterGroup"] = chosen["ParameterGroup"]
                # Nothing of another group is in force before an instance is rebooted; its dynamic parameters neither.
                for instance in cluster.members:
                    instance.cluster_group_pending_reboot = True
                busy = True
            cluster.pending.update(later)
            work = {**(cluster.pending if now else {}), **at_once}
        if work or busy:
            self._operate(cluster, lambda: self._apply_to_cluster(cluster, work))
        return cluster

    def _modify_cluster_password(self, cluster: Cluster, params: Params, now: bool) -> View:
        password, managed = params.get("MasterUserPassword"), params.get("ManageMasterUserPassword")
        if password and cluster.master_secret and managed is not False:
            raise invalid_combination("The master password of this DB cluster is managed by RDS.")
        if password:
            check_password(password)
        if managed is None or bool(managed) == bool(cluster.master_secret):
            return {"MasterUserPassword": password} if password else {}
        if not now:
            raise invalid_combination("A change of ManageMasterUserPassword is applied immediately or not at all.")
        if managed:
            return {"MasterUserPassword": self._manage_password(cluster, params.get("MasterUserSecretKmsKeyId"))}
        if not password:
            raise invalid_combination("MasterUserPassword is required to end its management by RDS.")
        cluster.master_secret.delete_secret()
        cluster.master_secret = None
        return {"MasterUserPassword": password}

    def _apply_to_cluster(self, cluster: Cluster, work: View) -> None:
        time.sleep(self.durations.stale_status_seconds)
        if "MasterUserPassword" in work:
            self._show(cluster, "resetting-master-credentials")
            with cluster.server_lock:
                cluster.password = work["MasterUserPassword"]
                if cluster.data_server:
                    cluster.data_server.set_master_password(cluster.settings["MasterUsername"], cluster.password)
        self._show(cluster, "modifying")
        self._pass(cluster, self.durations.modify)
        with self.lock:
            for member, value in work.items():
                cluster.pending.pop(member, None)
                if member in cluster.settings:
                    cluster.settings[member] = value
        if "DBClusterIdentifier" in work:
            self._rename_cluster(cluster, work["DBClusterIdentifier"])
        self._show(cluster, "available")

    def _rename_cluster(self, cluster: Cluster, new: str) -> None:
        """The endpoints have other names from then on; the instances keep theirs, and run on."""
        self._show(cluster, "renaming")
        for name in cluster.own_endpoint_names():
            self.context.names.remove(name)
        self._pass(cluster, self.durations.rename)
        with self.lock:
            # The name may have been taken while this waited for its turn.
            if self.clusters.get(new) not in (None, cluster):
                raise cluster_exists()
            del self.clusters[cluster.name]
            cluster.name = new
            self.clusters[new] = cluster
            members = [member for member in cluster.members if member.server and not member.doomed.is_set()]
        for member in members:
            self._open(member)
        self._pass(cluster, self.durations.rename_until_resolvable)
        self.point(cluster)

    def _maintain_cluster(self, cluster: Cluster) -> None:
        """Apply what waits for the maintenance window."""
        with self.lock:
            work = dict(cluster.pending)
            cluster.status = "modifying"
        self._operate(cluster, lambda: self._apply_to_cluster(cluster, work))

    # -- delete --------------------------------------------------------------------------------------------------------

    def delete_db_cluster(self, params: Params) -> Cluster:
        with self.lock:
            cluster = self.cluster(params["DBClusterIdentifier"])
            final_name, skip = params.get("FinalDBSnapshotIdentifier"), params.get("SkipFinalSnapshot")
            if cluster.status == "deleting":
                raise invalid_cluster_state(f"Cluster {cluster.name} is already being deleted.")
            if cluster.settings["DeletionProtection"]:
                raise invalid_combination(
                    "Cannot delete protected Cluster, please disable deletion protection and try again."
                )
            if skip and final_name:
                raise invalid_combination(
                    "FinalDBSnapshotIdentifier cannot be specified when skip final snapshot is on"
                )
            if not skip and not final_name:
                raise invalid_combination(
                    "FinalDBSnapshotIdentifier is required unless SkipFinalSnapshot is specified."
                )
            if any(not member.doomed.is_set() for member in cluster.members) and not cluster.is_multi_az:
                raise invalid_cluster_state(
                    "Cluster cannot be deleted, it still contains DB instances in non-deleting state."
                )
            final = None
            if final_name:
                if cluster.volume is None and not cluster.members:
                    raise invalid_cluster_state(f"Cluster {cluster.name} has no data yet.")
                final = self._new_snapshot(cluster, self._new_cluster_snapshot_name(final_name), tags=None)
            self._delete_instances(cluster)
            forget = params.get("DeleteAutomatedBackups") is not False
            cluster.status = "deleting"
        self._operate(cluster, lambda: self._delete_cluster(cluster, final, forget))
        return cluster

    def _delete_cluster(self, cluster: Cluster, final: Snapshot | None, forget_backups: bool) -> None:
        while cluster.members:
            self._pass(None, 0.1)
        cluster.doomed.set()
        if final and cluster.volume:
            final.data, final.taken = cluster.volume.share(), self.context.clock.now()
            self._pass(None, self.durations.snapshot)
            final.status = "available"
        self._pass(None, self.durations.delete)
        self._forget_cluster(cluster, forget_backups=forget_backups)

    def _forget_cluster(self, cluster: Cluster, *, forget_backups: bool) -> None:
        with self.lock:
            for name in cluster.own_endpoint_names():
                self.context.names.remove(name)
            self._end_backups(cluster, forget=forget_backups)
            if cluster.volume:
                cluster.volume.release()
                cluster.volume = None
            if cluster.master_secret:
                cluster.master_secret.delete_secret()
            self.keys.release(cluster.kms_key_id, cluster.storage_id, "cluster")
            self.clusters.pop(cluster.name, None)

    # -- roles ---------------------------------------------------------------------------------------------------------

    def add_role_to_db_cluster(self, db_cluster_identifier: str, role_arn: str, feature_name: str | None) -> None:
        with self.lock:
            cluster = self.cluster(db_cluster_identifier)
            self._cluster_must_be_available(cluster, "add a role to")
            if any(
                role.role_arn == role_arn or role.feature_name == feature_name for role in cluster._associated_roles
            ):
                raise refuse(
                    "DBClusterRoleAlreadyExists", f"Cluster {cluster.name} has this role, or one for this feature."
                )
            cluster._associated_roles.append(AssociatedRole(role_arn, feature_name))

    def remove_role_from_db_cluster(self, params: Params) -> None:
        with self.lock:
            cluster = self.cluster(params["DBClusterIdentifier"])
            self._cluster_must_be_available(cluster, "remove a role from")
            gone = [
                role
                for role in cluster._associated_roles
                if (role.role_arn, role.feature_name) == (params["RoleArn"], params.get("FeatureName"))
            ]
            if not gone:
                raise refuse("DBClusterRoleNotFound", f"Cluster {cluster.name} does not have this role.")
            cluster._associated_roles.remove(gone[0])
