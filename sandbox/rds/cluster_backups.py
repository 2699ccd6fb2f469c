"""Snapshots and automated backups of clusters, and clusters made of them."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any

from moto.rds.models import AssociatedRole

from sandbox.rds.backups import SNAPSHOT_IDENTIFIER, SNAPSHOT_QUOTA
from sandbox.rds.cluster_resources import Cluster, ClusterBackup, ClusterSnapshot
from sandbox.rds.cluster_settings import ZONES_OF_A_CLUSTER, ClusterSettings
from sandbox.rds.errors import (
    cluster_snapshot_not_found,
    invalid_cluster_snapshot_state,
    invalid_cluster_state,
    invalid_combination,
    invalid_value,
    refuse,
)
from sandbox.rds.filters import passes
from sandbox.rds.keys import TO_COPY, TO_USE
from sandbox.rds.operations import Params
from sandbox.rds.resources import AutomatedBackup, Data, Operated, Snapshot, View
from sandbox.rds.settings import tags_of

MULTI_AZ_ENGINES = ("postgres", "mysql")
"""Of clusters that are not Aurora's."""


class ClusterBackups(ClusterSettings):
    """Everything that holds a cluster's data outside of it."""

    def snapshots_like(self, owner: Operated | Snapshot) -> MutableMapping[str, Snapshot]:
        if isinstance(owner, Cluster | ClusterSnapshot):
            book: MutableMapping[str, Snapshot] = self.cluster_snapshots
            return book
        return super().snapshots_like(owner)

    def kinds_of_backups(self, owner: Operated) -> tuple[type[Snapshot], type[AutomatedBackup]]:
        return (ClusterSnapshot, ClusterBackup) if isinstance(owner, Cluster) else super().kinds_of_backups(owner)

    def create_db_cluster_snapshot(self, params: Params) -> ClusterSnapshot:
        with self.lock:
            cluster = self.cluster(params["DBClusterIdentifier"])
            name = self._new_cluster_snapshot_name(params["DBClusterSnapshotIdentifier"])
            self._cluster_must_be_available(cluster, "take a snapshot of")
            if cluster.volume is None and cluster.data_server is None:
                raise invalid_cluster_state(f"Cluster {cluster.name} has no data yet.")
            snapshot = self._new_snapshot(cluster, name, tags=tags_of(params) if params.get("Tags") else None)
            assert isinstance(snapshot, ClusterSnapshot)
            cluster.status = "backing-up"

        def take() -> None:
            self._take(cluster, snapshot)
            self._show(cluster, "available")

        def failed() -> None:
            snapshot.status = "failed"

        self._operate(cluster, take, otherwise=failed)
        return snapshot

    def _copy_of(self, owner: Operated) -> Data:
        with owner.server_lock:
            if isinstance(owner, Cluster) and owner.volume:
                return owner.volume.share()
            return super()._copy_of(owner)

    def copy_db_cluster_snapshot(self, params: Params) -> Snapshot:
        with self.lock:
            source = self.cluster_snapshot(params["SourceDBClusterSnapshotIdentifier"])
            name = self._new_cluster_snapshot_name(params["TargetDBClusterSnapshotIdentifier"])
            _must_be_complete(source)
            if source.settings["Engine"] in MULTI_AZ_ENGINES:
                raise invalid_combination("A snapshot of a Multi-AZ DB cluster can't be copied.")
            if params.get("KmsKeyId") and source.key is None:
                raise invalid_combination(
                    "You can't specify a KMS key to copy an unencrypted DB cluster snapshot; a restore gives it one."
                )
            return self._copy_snapshot(source, name, params)

    def delete_db_cluster_snapshot(self, params: Params) -> ClusterSnapshot:
        with self.lock:
            snapshot = self.cluster_snapshot(params["DBClusterSnapshotIdentifier"])
            if snapshot.kind != "manual":
                raise invalid_cluster_snapshot_state(f"{snapshot.name} is automated and cannot be deleted.")
            if snapshot.status not in ("available", "failed"):
                raise invalid_cluster_snapshot_state(
                    f"Cannot delete the snapshot because it is not available: {snapshot.status}."
                )
            self._drop_snapshot(snapshot)
            snapshot.status = "deleted"
            return snapshot

    def views_of_cluster_snapshots(self, params: Params) -> list[View]:
        with self.lock:
            self._expire()
            name, of = params.get("DBClusterSnapshotIdentifier"), params.get("DBClusterIdentifier")
            snapshots = [self.cluster_snapshot(name)] if name else list(self.cluster_snapshots.values())
            return [
                s.view()
                for s in snapshots
                if of is None or s.owner_name == of.rsplit(":", 1)[-1].lower()
                if params.get("SnapshotType") in (None, s.kind)
                if params.get("DbClusterResourceId") in (None, s.storage_id)
                if passes(
                    params,
                    {
                        "db-cluster-id": [s.owner_name, self.arn_of("cluster", s.owner_name)],
                        "db-cluster-snapshot-id": [s.name],
                        "snapshot-type": [s.kind],
                        "engine": [s.settings["Engine"]],
                    },
                )
            ]

    def describe_db_cluster_snapshot_attributes(self, db_cluster_snapshot_identifier: str) -> dict[str, list[str]]:
        return self.cluster_snapshot(db_cluster_snapshot_identifier).attributes

    def modify_db_cluster_snapshot_attribute(
        self,
        db_cluster_snapshot_identifier: str,
        attribute_name: str,
        values_to_add: list[str] | None = None,
        values_to_remove: list[str] | None = None,
    ) -> dict[str, list[str]]:
        with self.lock:
            snapshot = self.cluster_snapshot(db_cluster_snapshot_identifier)
            return snapshot.modify_attribute(attribute_name, values_to_add, values_to_remove)

    def cluster_snapshot(self, name: str) -> ClusterSnapshot:
        """The snapshot with this identifier or ARN.

        Raises:
            DBClusterSnapshotNotFoundFault
        """
        # The identifier of an automated snapshot has a colon of its own.
        short = name.split(":cluster-snapshot:")[-1]
        with self.lock:
            found: ClusterSnapshot | None = self.cluster_snapshots.get(short)
            if found is None:
                raise cluster_snapshot_not_found(short)
            return found

    def _new_cluster_snapshot_name(self, name: str) -> str:
        name = name.lower()
        if not SNAPSHOT_IDENTIFIER.fullmatch(name):
            raise invalid_value(f"The snapshot identifier {name} is not a valid identifier.")
        if name in self.cluster_snapshots:
            raise refuse(
                "DBClusterSnapshotAlreadyExistsFault",
                f"Cannot create the snapshot because a snapshot with the identifier {name} already exists.",
            )
        if sum(snapshot.kind == "manual" for snapshot in self.cluster_snapshots.values()) >= SNAPSHOT_QUOTA:
            raise refuse(
                "SnapshotQuotaExceeded",
                "The request cannot be processed because it would exceed the maximum number of snapshots.",
            )
        return name

    # -- restore -------------------------------------------------------------------------------------------------------

    def restore_db_cluster_from_snapshot(self, params: Params) -> Cluster:
        """A cluster with the snapshot's data and without an instance; what is not asked for is RDS's default."""
        with self.lock:
            name = self._new_cluster_name(params["DBClusterIdentifier"])
            snapshot = self.cluster_snapshot(params["SnapshotIdentifier"])
            _must_be_complete(snapshot)
            if params["Engine"] != snapshot.settings["Engine"]:
                raise invalid_combination(
                    f"The snapshot is of {snapshot.settings['Engine']}, and cannot be restored as {params['Engine']}."
                )
            kind = self._clustered_kind(params["Engine"], params.get("EngineVersion"))
            kept = ("AllocatedStorage", "BackupRetentionPeriod", "DatabaseName", "MasterUsername", "Port")
            # Not those of the snapshot, unless they are asked for: it is RDS's choice.
            others = {"AvailabilityZones": self._zones()[-ZONES_OF_A_CLUSTER:]}
            kept_or_chosen = {**others, **{m: snapshot.settings[m] for m in kept}}
            settings = self._cluster_settings(name, kind, params, kept_or_chosen)
            if kind.versions.index(settings["EngineVersion"]) > kind.versions.index(snapshot.settings["EngineVersion"]):
                raise invalid_combination("A snapshot cannot be restored to an older version.")
            cluster = Cluster(self, name, settings, tags_of(params), self._key_of_restored(params, snapshot))
            cluster._associated_roles = roles_of(params)
            assert snapshot.data
            cluster.volume = snapshot.data.share()
            self._enter_cluster(cluster)
            self.keys.used(cluster.kms_key_id, "Decrypt")
            self._make_instances(cluster)

        def restore() -> None:
            self._pass(cluster, self.durations.restore)
            self._await_instances(cluster)
            if cluster.backups_since is None:  # its first instance may have begun them
                self._begin_backups(cluster, self._copy_of(cluster))
            self._show(cluster, "available")

        self._operate(cluster, restore)
        return cluster

    def _key_of_restored(self, params: Params, snapshot: ClusterSnapshot) -> str | None:
        """Any key, also where the snapshot has none; without one the snapshot's own, which must be usable in any case.

        AWS does not say what it asks of the caller for another key; as for a copy is the most that it can be.
        """
        wanted = params.get("KmsKeyId")
        if wanted is None:
            return self.keys.accept(snapshot.key) if snapshot.key else None
        if snapshot.key is None and snapshot.settings["Engine"] in MULTI_AZ_ENGINES:
            raise invalid_combination("An unencrypted Multi-AZ DB cluster can't be encrypted.")
        key = self.keys.accept(wanted, TO_COPY if snapshot.key else TO_USE)
        if snapshot.key and snapshot.key != key:
            self.keys.accept(snapshot.key, TO_COPY)
        return key

    # -- automated backups ---------------------------------------------------------------------------------------------

    def views_of_cluster_backups(self, params: Params) -> list[View]:
        with self.lock:
            self._expire()
            of, resource = params.get("DBClusterIdentifier"), params.get("DbClusterResourceId")
            return [
                backup.view()
                for backup in self.backups
                if isinstance(backup, ClusterBackup)
                if of is None or backup.name_now == of.rsplit(":", 1)[-1].lower()
                if resource in (None, backup.storage_id)
                if passes(
                    params,
                    {
                        "status": [backup.status],
                        "db-cluster-id": [backup.name_now, self.arn_of("cluster", backup.name_now)],
                        "db-cluster-resource-id": [backup.storage_id],
                    },
                )
            ]

    def delete_db_cluster_automated_backup(self, params: Params) -> AutomatedBackup:
        with self.lock:
            resource = params["DbClusterResourceId"]
            for backup in self.backups:
                if isinstance(backup, ClusterBackup) and backup.storage_id == resource:
                    if backup.owner:
                        raise refuse("InvalidDBClusterAutomatedBackupStateFault", "The automated backup is active.")
                    self._drop_backup(backup)
                    self._drop_automated_snapshots(backup.storage_id)
                    return backup
        raise refuse("DBClusterAutomatedBackupNotFoundFault", f"No automated backup for {resource}.")


def roles_of(params: Params) -> list[Any]:
    """The roles that a request for a new cluster brings along."""
    return [AssociatedRole(role["RoleArn"], role.get("FeatureName")) for role in params.get("AssociatedRoles") or ()]


def _must_be_complete(snapshot: ClusterSnapshot) -> None:
    if snapshot.status != "available":
        raise invalid_cluster_snapshot_state(f"Snapshot {snapshot.name} is not available: {snapshot.status}.")
