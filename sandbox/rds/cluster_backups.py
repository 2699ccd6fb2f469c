"""Snapshots and automated backups of clusters, and clusters made of them."""

from __future__ import annotations

from collections.abc import MutableMapping

from sandbox.rds.backups import SNAPSHOT_IDENTIFIER, SNAPSHOT_QUOTA
from sandbox.rds.cluster_resources import Cluster, ClusterBackup, ClusterSnapshot
from sandbox.rds.cluster_settings import ClusterSettings
from sandbox.rds.errors import cluster_snapshot_not_found, invalid_value, refuse
from sandbox.rds.resources import AutomatedBackup, Operated, Snapshot


class ClusterBackups(ClusterSettings):
    """Everything that holds a cluster's data outside of it."""

    def snapshots_like(self, owner: Operated | Snapshot) -> MutableMapping[str, Snapshot]:
        if isinstance(owner, Cluster | ClusterSnapshot):
            book: MutableMapping[str, Snapshot] = self.cluster_snapshots
            return book
        return super().snapshots_like(owner)

    def kinds_of_backups(self, owner: Operated) -> tuple[type[Snapshot], type[AutomatedBackup]]:
        return (ClusterSnapshot, ClusterBackup) if isinstance(owner, Cluster) else super().kinds_of_backups(owner)

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
