"""The instances of clusters: one writes, the others follow it; what belongs to the cluster is refused of them.

All of Aurora's instances work on one volume. Here each has a server of its own, and the readers replicate from the
writer. A failover lets two instances exchange their servers: whatever was committed is there, as with one volume.
"""

from __future__ import annotations

import time
from functools import partial
from typing import Any

from sandbox.rds.cluster_resources import Cluster
from sandbox.rds.errors import (
    cluster_not_found,
    invalid_cluster_state,
    invalid_combination,
    invalid_instance_state,
    invalid_value,
    refuse,
)
from sandbox.rds.instances import Instances
from sandbox.rds.operations import AVAILABLE, Abandoned, Params
from sandbox.rds.resources import Instance, Snapshot
from sandbox.rds.servers import Server
from sandbox.rds.settings import tags_of

MEMBERS_PER_CLUSTER = 16
TIERS = range(16)
CLASSES = ("db.r", "db.t3.", "db.t4g.", "db.x2g", "db.serverless")
SERVERLESS = "db.serverless"
# Where RDS answers a request for an instance with the name of the call for its cluster. Where its own answer is not
# known (the longer half), it is refused all the same: what is passed over in silence is a setting that is lost.
NOT_FOR_MEMBERS = {
    "BackupRetentionPeriod": "backup retention", "PreferredBackupWindow": "backup window",
    "MasterUserPassword": "master user password", "ManageMasterUserPassword": "master user password",
    "VpcSecurityGroupIds": "vpc security group", "EnableIAMDatabaseAuthentication": "IAM authentication",
    "EnableCloudwatchLogsExports": "log exports", "CloudwatchLogsExportConfiguration": "log exports",
    "MultiAZ": "Multi-AZ", "AllocatedStorage": "storage", "MaxAllocatedStorage": "storage", "Iops": "storage",
    "StorageType": "storage", "StorageThroughput": "storage", "StorageEncrypted": "encryption",
    "KmsKeyId": "encryption",
    "MasterUsername": "master user name", "DBName": "database name", "Port": "port", "DBPortNumber": "port",
}  # fmt: skip


class ClusterMembers(Instances):
    """The life of an instance that is a member of a cluster."""

    def cluster(self, name: str) -> Cluster:
        """The cluster with this identifier or ARN.

        Raises:
            DBClusterNotFoundFault
        """
        with self.lock:
            found: Cluster | None = self.clusters.get(name.rsplit(":", 1)[-1])
            if found is None:
                raise cluster_not_found(name)
            return found

    def _cluster_must_be_available(self, cluster: Cluster, what: str, also: tuple[str, ...] = ()) -> None:
        status = cluster.shown_status
        if cluster.orders and status in AVAILABLE:
            # The status is a moment old: an operation was accepted, and begins.
            status = "modifying"
        if status not in AVAILABLE and status not in also:
            raise invalid_cluster_state(
                f"Cannot {what} cluster {cluster.name}: it is not in available state but {status}."
            )

    # -- create --------------------------------------------------------------------------------------------------------

    def create_db_instance(self, params: Params) -> Instance:
        if not params.get("DBClusterIdentifier"):
            return super().create_db_instance(params)
        with self.lock:
            cluster = self.cluster(params["DBClusterIdentifier"])
            # RDS may take instances while it makes the cluster; nobody who waits is the worse for a refusal.
            self._cluster_must_be_available(cluster, "create an instance in", also=("backing-up",))
            _refuse_what_is_the_clusters(params, "The requested DB Instance will be a member of a DB Cluster.")
            if params.get("Engine") != cluster.engine:
                raise invalid_combination(
                    f"The engine name requested for your DB instance ({params.get('Engine')}) doesn't match the engine "
                    f"name of your DB cluster ({cluster.engine})."
                )
            kind = self._kind(cluster.engine, params.get("EngineVersion"))
            if (version := params.get("EngineVersion")) and version not in (cluster.engine_version, kind.major):
                raise invalid_combination(
                    f"The engine version that you requested for your DB instance ({version}) does not match the engine "
                    f"version of your DB cluster ({cluster.engine_version})."
                )
            subnets = params.get("DBSubnetGroupName")
            if subnets and subnets != cluster.settings["SubnetGroup"]["DBSubnetGroupName"]:
                raise invalid_combination("The requested DB Instance will be in the subnet group of its DB Cluster.")
            zones = cluster.settings["AvailabilityZones"]
            if (zone := params.get("AvailabilityZone")) and zone not in zones:
                # API reference: one of those that have copies of the storage. How RDS says so is not known.
                raise invalid_combination(f"Availability Zone {zone} is not one of the cluster's: {', '.join(zones)}.")
            if len(cluster.members) >= MEMBERS_PER_CLUSTER:
                raise invalid_cluster_state(f"Cluster {cluster.name} has {MEMBERS_PER_CLUSTER} instances.")
            name = self._new_name(params["DBInstanceIdentifier"])
            _check_class(params.get("DBInstanceClass"), cluster)
            instance = self._new_member(cluster, name, self._chosen(params, kind), tags_of(params), _tier(params) or 0)
        make = partial(self._member_server, instance, cluster)
        self._operate(instance, lambda: self._build(instance, make, self.durations.create))
        return instance

    def _new_member(
        self, cluster: Cluster, name: str, chosen: dict[str, Any], tags: list[dict[str, str]], tier: int
    ) -> Instance:
        kind, zones = self._kind(cluster.engine), cluster.settings["AvailabilityZones"]
        settings = {
            **self._defaults(
                name, kind, {**chosen, "PreferredBackupWindow": cluster.settings["PreferredBackupWindow"]}
            ),
            "AvailabilityZone": zones[len(cluster.members) % len(zones)],
            **chosen,
            # Of the cluster; an instance of its own would have backups of its own.
            "AllocatedStorage": cluster.settings["AllocatedStorage"],
            "BackupRetentionPeriod": 0,
            "DBName": cluster.settings.get("DatabaseName"),
            "EngineVersion": cluster.engine_version,
            "MasterUsername": cluster.settings["MasterUsername"],
            "Port": cluster.port,
            "PromotionTier": tier,
            "SecurityGroups": cluster.settings["SecurityGroups"],
            "StorageType": cluster.settings.get("StorageType", "aurora"),
            "SubnetGroup": cluster.settings["SubnetGroup"],
        }
        instance = Instance(self, name, settings, tags, cluster.kms_key_id)
        instance.cluster, instance.server_lock = cluster, cluster.server_lock
        cluster.members.append(instance)
        self.databases[name] = instance
        return instance

    def _make_instances(self, cluster: Cluster) -> None:
        """Those that RDS makes with it; of Aurora's none."""

    def _await_instances(self, cluster: Cluster) -> None:
        """Until they are available."""

    def _delete_instances(self, cluster: Cluster) -> None:
        """Those that RDS deletes with it."""

    def _secure(self, instance: Instance) -> None:
        cluster = instance.cluster
        if cluster is None:
            super()._secure(instance)
        elif cluster.backups_since is None and instance is cluster.writer:
            # Continuous, and without a status: the cluster has been available for a while.
            self._begin_backups(cluster, self._copy_of(cluster))

    def _member_server(self, instance: Instance, cluster: Cluster) -> Server:
        """The first instance's server has the cluster's data, or none yet; all others follow the writer's."""
        servers, name = self.engines.servers(instance.engine), self._server_name()
        while True:
            with cluster.server_lock:
                if instance.doomed.is_set():
                    raise Abandoned
                writer = cluster.writer
                assert writer
                if writer is instance:
                    # Under the lock it is known to the others as soon as it is there.
                    instance.server = self._server_with_the_data(name, cluster)
                    return instance.server
                if writer.server and not writer.doomed.is_set():
                    server = servers.replicate(name, writer.server)
                    instance.source = writer
                    writer.replicas.append(instance)
                    return server
            self._pass(instance, 0.1)

    def _server_with_the_data(self, name: str, cluster: Cluster) -> Server:
        servers, user = self.engines.servers(cluster.engine), cluster.settings["MasterUsername"]
        volume, cluster.volume = cluster.volume, None
        if volume is None:
            assert cluster.password
            return servers.create(
                name, master_user=user, master_password=cluster.password,
                database=cluster.settings.get("DatabaseName"),
            )  # fmt: skip
        server = servers.restore(name, volume.path)
        volume.release()
        if cluster.password:
            server.set_master_password(user, cluster.password)
        return server

    # -- endpoints -----------------------------------------------------------------------------------------------------

    def _resolve(self, instance: Instance) -> None:
        super()._resolve(instance)
        if instance.cluster:
            self.point(instance.cluster)

    def point(self, cluster: Cluster) -> None:
        """Let the cluster's endpoints lead to the writer and to a reader; to nobody while there is none."""
        with self.lock:
            there = [member for member in cluster.members if member.endpoint_visible and not member.doomed.is_set()]
            writer = cluster.writer if cluster.writer in there else None
            reader = next((member for member in there if member is not writer), writer)
            for name, member in ((cluster.endpoint_name, writer), (cluster.reader_endpoint_name, reader)):
                if member and member.address:
                    self.context.names.set(name, member.address)
                else:
                    self.context.names.remove(name)

    # -- fail over -----------------------------------------------------------------------------------------------------

    def failover_db_cluster(self, params: Params) -> Cluster:
        with self.lock:
            cluster = self.cluster(params["DBClusterIdentifier"])
            self._cluster_must_be_available(cluster, "fail over")
            target = self._failover_target(cluster, params.get("TargetDBInstanceIdentifier"))
            members = list(cluster.members)
            for member in members:
                self._must_be_available(member, "fail over to or from")
            for member in members:
                member.orders += 1

        def fail_over() -> None:
            try:
                time.sleep(self.durations.stale_status_seconds)
                self._show(cluster, "failing-over")
                self._let_write(cluster, target)
                time.sleep(self.durations.promotion_seconds)
                self._show(cluster, "available")
            finally:
                with self.lock:
                    for member in members:
                        member.orders -= 1

        self._operate(cluster, fail_over)
        return cluster

    def lose_writer(self, cluster: Cluster) -> bool:
        """A reader takes the writer's place, as where the host of that fails; False: there is none."""
        heir = self._heir(cluster)
        if heir:
            self._let_write(cluster, heir)
        return heir is not None

    def _failover_target(self, cluster: Cluster, wanted: str | None) -> Instance:
        if wanted:
            target = self.instance(wanted)
            if target not in cluster.readers:
                raise invalid_instance_state(f"{target.name} is not a reader of cluster {cluster.name}.")
            return target
        heir = self._heir(cluster)
        if heir is None:
            raise invalid_cluster_state(f"Cluster {cluster.name} has no reader that could take over.")
        return heir

    def _heir(self, cluster: Cluster) -> Instance | None:
        """The reader that is to take over: the one of the first tier."""
        able = [m for m in cluster.readers if m.status in AVAILABLE and m.server and not m.doomed.is_set()]
        return min(able, key=lambda member: member.settings["PromotionTier"], default=None)

    def _let_write(self, cluster: Cluster, target: Instance) -> None:
        """Let an instance take the writer's place; everybody's sessions with the two end."""
        with cluster.server_lock:
            former = cluster.writer
            assert former
            assert former.server
            assert target.server
            pair = (former, target)
            # An heir that is still being made has no clients yet.
            served = [member for member in pair if member.endpoint_visible]
            for member in served:
                self.fronts.cut(member.dbi_resource_id, "reset")
            former.server.restart()
            for member in pair:
                self.note(member, "availability", "DB instance restarted")
            with self.lock:
                former.server, target.server = target.server, former.server
                followers = [*(follower for follower in former.replicas if follower is not target), former]
                former.replicas, target.replicas = [], followers
                # That of a cluster which follows another one as a whole.
                target.source = former.source
                if target.source:
                    target.source.replicas.remove(former)
                    target.source.replicas.append(target)
                for follower in followers:
                    follower.source = target
                cluster.members.remove(target)
                cluster.members.insert(0, target)
            for member in pair:
                # Both have begun anew, as after a reboot.
                self.take_group(member)
                if member.server and member.server.apply_parameters(member.parameters):
                    member.server.restart()
                if not member.doomed.is_set():
                    self.apply_in_force(member)
            for member in served:
                self.fronts.restore(member.dbi_resource_id)
            self.point(cluster)

    # -- delete --------------------------------------------------------------------------------------------------------

    def delete_db_instance(
        self,
        db_instance_identifier: str,
        final_db_snapshot_identifier: str | None = None,
        skip_final_snapshot: bool | None = False,
        delete_automated_backups: bool | None = True,
    ) -> Instance:
        with self.lock:
            instance = self.instance(db_instance_identifier)
            cluster = instance.cluster
            if cluster is None:
                return super().delete_db_instance(
                    db_instance_identifier, final_db_snapshot_identifier, skip_final_snapshot, delete_automated_backups
                )
            if instance.status == "deleting":
                raise invalid_instance_state(f"Instance {instance.name} is already being deleted.")
            if final_db_snapshot_identifier:
                raise invalid_combination(
                    "FinalDBSnapshotIdentifier can not be specified when deleting a cluster instance"
                )
            self._doom(instance)
        self._operate(instance, lambda: self._delete_member(instance, cluster))
        return instance

    def _doom(self, instance: Instance) -> None:
        instance.status = "deleting"
        instance.doomed.set()

    def _delete_member(self, instance: Instance, cluster: Cluster) -> None:
        # The real work is done under the lock, and the waiting without it: others wait for it and hold the clock.
        with cluster.server_lock:
            if instance is cluster.writer:
                if heir := self._heir(cluster) or self._heir_to_be(cluster):
                    self._let_write(cluster, heir)
                elif instance.server and not cluster.doomed.is_set():
                    # The volume is the cluster's, and stays without an instance.
                    cluster.volume = self._copy_of(cluster)
            self.context.names.remove(instance.endpoint_name)
            self._end_server(instance)
            self.point(cluster)
        self._forget(instance, forget_backups=True)
        with self.lock:
            cluster.members.remove(instance)
        self.point(cluster)

    def _heir_to_be(self, cluster: Cluster) -> Instance | None:
        """One that is not available yet, and has all the data already."""
        return next((m for m in cluster.readers if m.server and not m.doomed.is_set()), None)

    # -- what is not for members ---------------------------------------------------------------------------------------

    def modify_db_instance(self, db_instance_identifier: str, params: Params) -> Instance:
        with self.lock:
            instance = self.instance(db_instance_identifier)
            if instance.cluster:
                _refuse_what_is_the_clusters(params, "The specified DB Instance is a member of a cluster.")
                if params.get("EngineVersion") or params.get("DBSubnetGroupName"):
                    raise invalid_combination("The version and the subnets of a member are those of its DB Cluster.")
                if params.get("DBInstanceClass"):
                    _check_class(params["DBInstanceClass"], instance.cluster)
                if (tier := _tier(params)) is not None:
                    instance.settings["PromotionTier"] = tier
            return super().modify_db_instance(db_instance_identifier, params)

    def create_db_snapshot(self, params: Params) -> Snapshot:
        if self.instance(params["DBInstanceIdentifier"]).cluster:
            raise invalid_value(
                "The specified instance is a member of a cluster and a snapshot cannot be created directly. Please use "
                "the CreateDBClusterSnapshot API instead."
            )
        return super().create_db_snapshot(params)

    def create_db_instance_read_replica(self, params: Params) -> Instance:
        source = params.get("SourceDBInstanceIdentifier")
        if source and self.instance(source).cluster:
            # The API reference: Aurora doesn't support this operation. With which code is not known.
            raise invalid_combination(f"{source} is a member of a cluster; use CreateDBInstance.")
        return super().create_db_instance_read_replica(params)

    def promote_read_replica(self, params: Params) -> Instance:
        if self.instance(params["DBInstanceIdentifier"]).cluster:
            raise invalid_instance_state("DB Instance is not a read replica")
        return super().promote_read_replica(params)

    def stop_db_instance(self, db_instance_identifier: str, db_snapshot_identifier: str | None = None) -> Instance:
        instance = self.instance(db_instance_identifier)
        if instance.cluster:
            raise invalid_combination(f"{instance.engine} DB instances are not eligible for stopping and starting.")
        return super().stop_db_instance(db_instance_identifier, db_snapshot_identifier)

    def add_role_to_db_instance(self, db_instance_identifier: str, role_arn: str, feature_name: str) -> None:
        if self.instance(db_instance_identifier).cluster:
            raise invalid_instance_state("Roles of a cluster are added with AddRoleToDBCluster.")
        super().add_role_to_db_instance(db_instance_identifier, role_arn, feature_name)


def _refuse_what_is_the_clusters(params: Params, why: str) -> None:
    if params.get("DeletionProtection"):
        raise invalid_combination(
            "Deletion Protection can only be applied on the Cluster level, not for individual instances"
        )
    if params.get("DatabaseInsightsMode"):
        raise invalid_combination(
            "You can't modify the Database Insights mode for DB instances within a DB cluster. To modify the Database "
            "Insights mode, you must modify the DB cluster."
        )
    for member, what in NOT_FOR_MEMBERS.items():
        if params.get(member) is not None:
            raise invalid_combination(f"{why} Set {what} for the DB Cluster.")


def _check_class(name: str | None, cluster: Cluster) -> None:
    if not name:
        raise refuse("MissingParameter", "The request must contain the parameter DBInstanceClass.")
    if not name.startswith(CLASSES):
        raise invalid_combination(
            "RDS does not support creating a DB instance with the following combination: "
            f"DBInstanceClass={name}, Engine={cluster.engine}."
        )
    if name == SERVERLESS and not cluster.settings.get("ServerlessV2ScalingConfiguration"):
        raise invalid_value(
            "Set the Serverless v2 scaling configuration on the parent DB cluster before creating a Serverless v2 DB "
            "instance."
        )


def _tier(params: Params) -> int | None:
    tier = params.get("PromotionTier")
    if tier is not None and int(tier) not in TIERS:
        raise invalid_value(f"PromotionTier must be between {TIERS.start} and {TIERS.stop - 1}.")
    return None if tier is None else int(tier)


__all__ = ["ClusterMembers"]
