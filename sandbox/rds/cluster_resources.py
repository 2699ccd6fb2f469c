"""What RDS keeps of Aurora: clusters, their snapshots and automated backups. They know how the API describes them."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from sandbox.rds.resources import DEFAULTS as INSTANCE_DEFAULTS
from sandbox.rds.resources import (
    AutomatedBackup,
    Data,
    Instance,
    Operated,
    Remembered,
    Snapshot,
    View,
    present,
    resource_id,
)
from sandbox.rds.servers import Server

if TYPE_CHECKING:
    from sandbox.rds.backups import Backups

# What a new cluster has when nobody says otherwise, by the names of DescribeDBClusters.
DEFAULTS: View = {
    "AllocatedStorage": 1,
    "AutoMinorVersionUpgrade": True,
    "BackupRetentionPeriod": 1,
    "CopyTagsToSnapshot": False,
    "DatabaseInsightsMode": "standard",
    "DeletionProtection": False,
    "EnabledCloudwatchLogsExports": [],
    "EngineLifecycleSupport": "open-source-rds-extended-support",
    "EngineMode": "provisioned",
    "HttpEndpointEnabled": False,
    "IAMDatabaseAuthenticationEnabled": False,
    "NetworkType": "IPV4",
}
# What it has besides where it is no cluster of Aurora's: RDS then gives all of it to its instances.
DEFAULTS_OF_MULTI_AZ: View = DEFAULTS | {
    name: INSTANCE_DEFAULTS[name]
    for name in ("CACertificateIdentifier", "MonitoringInterval", "PerformanceInsightsEnabled", "PubliclyAccessible")
}
# A cluster's, and shown of each of its instances as well.
SHARED = (
    "BackupRetentionPeriod", "DatabaseInsightsMode", "EnabledCloudwatchLogsExports",
    "IAMDatabaseAuthenticationEnabled", "MasterUsername", "PreferredBackupWindow",
)  # fmt: skip
COMPUTED = ("SubnetGroup", "SecurityGroups", "ParameterGroup", "CACertificateIdentifier")
NOT_ENCRYPTED = "sse-rds"
"""RDS encrypts a new cluster under a key of its own unless it is told of another, and does not call it encrypted."""


class Cluster(Operated):
    """One DB cluster. Its data is on the writer's server, and on those of the readers, which follow it."""

    resource_type = "cluster"

    def __init__(
        self, backend: Backups, name: str, settings: View, tags: list[dict[str, str]], key: str | None
    ) -> None:
        super().__init__(backend, name, settings, tags, key)
        self.cluster_resource_id = resource_id("cluster")
        self.members: list[Instance] = []
        """The writer first."""
        self.password: str | None = None
        """Set for the master user when the first server is made; None: it has the one that is in the data."""
        self.volume: Data | None = None
        """The data while there is no instance."""

    @property
    def is_multi_az(self) -> bool:
        """A Multi-AZ DB cluster of RDS's, no cluster of Aurora's."""
        return "DBClusterInstanceClass" in self.settings

    @property
    def instances(self) -> list[Instance]:
        return list(self.members)

    @property
    def writer(self) -> Instance | None:
        return self.members[0] if self.members else None

    @property
    def readers(self) -> list[Instance]:
        return self.members[1:]

    @property
    def data_server(self) -> Server | None:
        return self.writer.server if self.writer else None

    @property
    def storage_id(self) -> str:
        return self.cluster_resource_id

    @property
    def endpoint_name(self) -> str:
        return self.backend.endpoint_of(self.name, "cluster-")

    @property
    def reader_endpoint_name(self) -> str:
        return self.backend.endpoint_of(self.name, "cluster-ro-")

    def own_endpoint_names(self) -> tuple[str, ...]:
        return self.endpoint_name, self.reader_endpoint_name

    def view(self) -> View:
        earliest = None
        if self.backups_since:
            oldest = self.backend.context.clock.now() - dt.timedelta(days=self.retention_days)
            earliest = max(self.backups_since, oldest)
        certificate = self.settings.get("CACertificateIdentifier")
        zones = sorted({str(member.settings["AvailabilityZone"]) for member in self.members})
        return present(
            {
                **{name: value for name, value in self.settings.items() if name not in COMPUTED},
                **self.common_view(),
                "DBClusterIdentifier": self.name,
                "DBClusterArn": self.arn,
                "DbClusterResourceId": self.cluster_resource_id,
                "Status": self.shown_status,
                "Endpoint": self.endpoint_name,
                "ReaderEndpoint": self.reader_endpoint_name,
                "HostedZoneId": "Z1RLNUO7B9Q6NB",
                "ClusterCreateTime": self.created,
                "StorageEncryptionType": "sse-kms" if self.kms_key_id else NOT_ENCRYPTED,
                "CertificateDetails": {"CAIdentifier": certificate} if certificate else None,
                "DBClusterParameterGroup": self.settings["ParameterGroup"],
                "DBSubnetGroup": self.settings["SubnetGroup"]["DBSubnetGroupName"],
                "MultiAZ": len(zones) > 1,
                "EarliestRestorableTime": earliest,
                "DBClusterMembers": [self._view_in_list(member) for member in self.members],
                "ReadReplicaIdentifiers": [],
                "CrossAccountClone": False,
            }
        )

    def _view_in_list(self, member: Instance) -> View:
        return {
            "DBInstanceIdentifier": member.name,
            "IsClusterWriter": member is self.writer,
            "DBClusterParameterGroupStatus": self.parameters_status(member),
            "PromotionTier": member.settings["PromotionTier"],
        }

    def view_of_member(self, member: Instance) -> View:
        """What an instance is described with because it is a member; nothing is said of who follows whom."""
        return {
            **{name: self.settings.get(name) for name in SHARED},
            "DBClusterIdentifier": self.name,
            "StorageEncryptionType": "sse-kms" if self.kms_key_id else NOT_ENCRYPTED,
            "ReadReplicaDBInstanceIdentifiers": [],
            "LatestRestorableTime": None,
        }

    def parameters_status(self, member: Instance) -> str:
        """Whether an instance has what the cluster's parameter group says."""
        if member.parameters_applying:
            return "applying"
        behind = self.backend.values_of_cluster(self) != member.cluster_in_force
        return "pending-reboot" if behind or member.cluster_group_pending_reboot else "in-sync"


@dataclass(eq=False)
class _OfCluster(Remembered):
    settings_kept: ClassVar[tuple[str, ...]] = (
        "AllocatedStorage", "AvailabilityZones", "BackupRetentionPeriod", "DatabaseName", "Engine", "EngineMode",
        "EngineVersion", "IAMDatabaseAuthenticationEnabled", "LicenseModel", "MasterUsername", "Port",
        "PreferredBackupWindow",
    )  # fmt: skip
    settings_hidden: ClassVar[tuple[str, ...]] = ("DatabaseName",)

    def remembered(self) -> View:
        return {
            **self.settings_shown(),
            "ClusterCreateTime": self.owner_created,
            "DBClusterIdentifier": self.owner_name,
            "DbClusterResourceId": self.storage_id,
            "KmsKeyId": self.key,
            "StorageEncrypted": self.key is not None,
            "StorageEncryptionType": "sse-kms" if self.key else NOT_ENCRYPTED,
            "TagList": self.tags,
            "VpcId": self.vpc_id,
        }


@dataclass(eq=False)
class ClusterSnapshot(_OfCluster, Snapshot):
    """One DB cluster snapshot, manual or automated."""

    resource_type: ClassVar[str] = "cluster-snapshot"

    def view(self) -> View:
        done = self.status == "available"
        return present(
            {
                **self.remembered(),
                "DBClusterSnapshotIdentifier": self.name,
                "DBClusterSnapshotArn": self.arn,
                "SnapshotType": self.kind,
                "Status": self.status,
                "PercentProgress": 100 if done else 0,
                "SnapshotCreateTime": self.taken if done else None,
                "SourceDBClusterSnapshotArn": self.copied_from,
            }
        )


@dataclass(eq=False)
class ClusterBackup(_OfCluster, AutomatedBackup):
    """What point-in-time restores of one cluster need."""

    resource_type: ClassVar[str] = "cluster-auto-backup"

    def view(self) -> View:
        return present(
            {
                **self.remembered(),
                "DBClusterAutomatedBackupsArn": self.arn,
                "DBClusterIdentifier": self.name_now,
                "DBClusterArn": self.backend.arn_of("cluster", self.name_now),
                "Region": self.backend.region_name,
                "Status": self.status,
                "BackupRetentionPeriod": self.retention_days,
                "RestoreWindow": self.window(),
            }
        )
