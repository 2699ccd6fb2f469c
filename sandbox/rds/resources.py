"""What RDS keeps: instances, snapshots, automated backups. They know how the API describes them, and do nothing."""

from __future__ import annotations

import datetime as dt
import secrets
import shutil
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from sandbox.rds import storage
from sandbox.rds.errors import invalid_value
from sandbox.rds.servers import Server

if TYPE_CHECKING:
    from sandbox.rds.backups import Backups
    from sandbox.rds.cluster_resources import Cluster
    from sandbox.rds.logs import LogFile
    from sandbox.rds.proxies import Proxy

View = dict[str, Any]
BASE32 = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"

# What a new instance has when nobody says otherwise, by the names of DescribeDBInstances.
DEFAULTS: View = {
    "AutoMinorVersionUpgrade": True,
    "BackupRetentionPeriod": 1,
    "BackupTarget": "region",
    "CACertificateIdentifier": "rds-ca-rsa2048-g1",
    "CopyTagsToSnapshot": False,
    "CustomerOwnedIpEnabled": False,
    "DatabaseInsightsMode": "standard",
    "DedicatedLogVolume": False,
    "DeletionProtection": False,
    "EnabledCloudwatchLogsExports": [],
    "EngineLifecycleSupport": "open-source-rds-extended-support",
    "IAMDatabaseAuthenticationEnabled": False,
    "IsStorageConfigUpgradeAvailable": False,
    "MonitoringInterval": 0,
    "MultiAZ": False,
    "NetworkType": "IPV4",
    "PerformanceInsightsEnabled": False,
    "PubliclyAccessible": False,
    "StorageType": "gp3",
}


TAGS_CACHED_SECONDS = 5 * 60.0
"""AWS says "several minutes"."""


def resource_id(prefix: str) -> str:
    return f"{prefix}-" + "".join(secrets.choice(BASE32) for _ in range(26))


def present(view: View) -> View:
    return {name: value for name, value in view.items() if value is not None}


class Tagged:
    """Tags as moto's tagging calls want them."""

    _before: tuple[tuple[float, list[dict[str, str]]], ...] = ()
    """Until when there were which, of the last minutes."""

    def __init__(self, tags: list[dict[str, str]]) -> None:
        self.tags = tags

    def tags_for_permissions(self, now: float) -> list[dict[str, str]]:
        """Those of a while ago, or its first ones: RDS caches them (RDS User Guide: tagging)."""
        return next((tags for until, tags in self._before if until > now - TAGS_CACHED_SECONDS), self.tags)

    def change_tags_at(self, now: float) -> None:
        """Remember, before a change, what there is."""
        self._before = (*(one for one in self._before if one[0] > now - TAGS_CACHED_SECONDS), (now, self.tags))

    def get_tags(self) -> list[dict[str, str]]:
        return self.tags

    def add_tags(self, tags: list[dict[str, str]]) -> list[dict[str, str]]:
        new = {tag["Key"]: tag.get("Value", "") for tag in tags}
        kept = [tag for tag in self.tags if tag["Key"] not in new]
        self.tags = kept + [{"Key": key, "Value": value} for key, value in new.items()]
        return self.tags

    def remove_tags(self, tag_keys: list[str]) -> None:
        self.tags = [tag for tag in self.tags if tag["Key"] not in tag_keys]


class Data:
    """The files of a snapshot; shared by its copies, because they never change. Removed with the last user."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._users = 1
        self._lock = threading.Lock()

    def share(self) -> Data:
        with self._lock:
            self._users += 1
        return self

    def release(self) -> None:
        with self._lock:
            self._users -= 1
            if self._users:
                return
        shutil.rmtree(self.path, ignore_errors=True)


class Operated(Tagged):
    """What RDS works on: one operation at a time, and a status that says which.

    ``settings`` are the members of its description that need no computing.
    """

    resource_type: str

    def __init__(
        self, backend: Backups, name: str, settings: View, tags: list[dict[str, str]], key: str | None
    ) -> None:
        super().__init__(tags)
        self.backend = backend
        self.name = name
        self.settings = settings
        self.kms_key_id = key
        self.created = backend.context.clock.now()
        self.status = "creating"
        self.pending: View = {}
        self.backups_since: dt.datetime | None = None
        """When the first backup was complete; restores are possible from then on."""
        self.last_backup_window: dt.datetime | None = None
        self.master_secret: Any = None
        self.key_lost_at: float | None = None
        self.doomed = threading.Event()
        """It is being deleted: whatever is under way gives up."""
        self.operations = threading.Lock()
        """One operation at a time."""
        self.orders = 0
        """Operations that were accepted and are not done."""
        self.server_lock = threading.RLock()
        """Held while somebody relies on ``data_server``: nobody restarts it, or puts another in its place.

        All instances of a cluster have the cluster's.
        """
        self._associated_roles: list[Any] = []
        self.groups_in_force: list[str] = settings["SecurityGroups"]
        """Its VPC security groups that count; what was changed a moment ago is in the settings only."""

    @property
    def instances(self) -> list[Instance]:
        """Those that its security groups are of."""
        raise NotImplementedError

    @property
    def data_server(self) -> Server | None:
        """The one that has all the data."""
        raise NotImplementedError

    def own_endpoint_names(self) -> tuple[str, ...]:
        raise NotImplementedError

    @property
    def storage_id(self) -> str:
        """By which KMS and the backups know what is stored; it survives a rename."""
        raise NotImplementedError

    # The names by which moto's own code knows these things.
    @property
    def resource_id(self) -> str:
        return self.name

    @property
    def arn(self) -> str:
        return self.backend.arn_of(self.resource_type, self.name)

    @property
    def engine(self) -> str:
        return str(self.settings["Engine"])

    @property
    def engine_version(self) -> str:
        return str(self.settings["EngineVersion"])

    @property
    def port(self) -> int:
        return int(self.settings["Port"])

    @property
    def storage_encrypted(self) -> bool:
        return self.kms_key_id is not None

    @property
    def retention_days(self) -> int:
        return int(self.settings["BackupRetentionPeriod"])

    @property
    def shown_status(self) -> str:
        """The status, with the daily backup that nobody started."""
        if self.status == "available" and self.backend.in_daily_backup(self):
            return "backing-up"
        return self.status

    @property
    def latest_restorable(self) -> dt.datetime | None:
        if not self.backups_since or not self.retention_days:
            return None
        return max(self.backups_since, self.backend.context.clock.now() - dt.timedelta(minutes=5))

    def security_groups(self) -> dict[str, str]:
        """Its VPC security groups, and the status of each; of a cluster what was asked for, its instances know more."""
        return dict.fromkeys(self.settings["SecurityGroups"], "active")

    def common_view(self) -> View:
        """What instances and clusters are described with alike."""
        return {
            "StorageEncrypted": self.storage_encrypted,
            "KmsKeyId": self.kms_key_id,
            "VpcSecurityGroups": [
                {"VpcSecurityGroupId": group, "Status": status} for group, status in self.security_groups().items()
            ],
            "PendingModifiedValues": {
                name: "****" if name == "MasterUserPassword" else value for name, value in self.pending.items()
            },
            "LatestRestorableTime": self.latest_restorable,
            "ActivityStreamStatus": "stopped",
            "AssociatedRoles": [
                present({"RoleArn": role.role_arn, "FeatureName": role.feature_name, "Status": "ACTIVE"})
                for role in self._associated_roles
            ],
            "DomainMemberships": [],
            "TagList": self.tags,
            "MasterUserSecret": self.master_secret and {
                "SecretArn": self.master_secret.secret_arn,
                "SecretStatus": self.master_secret.secret_status,
                "KmsKeyId": self.master_secret.kms_key_id,
            },
        }  # fmt: skip


class Instance(Operated):
    """One DB instance, on its own or a member of a cluster."""

    resource_type = "db"

    def __init__(
        self, backend: Backups, name: str, settings: View, tags: list[dict[str, str]], key: str | None
    ) -> None:
        super().__init__(backend, name, settings, tags, key)
        self.dbi_resource_id = resource_id("db")
        self.server: Server | None = None
        self.address: str | None = None
        """The loopback address of its TLS front; the instance keeps it when it is renamed."""
        self.endpoint_visible = False
        self.restored_from: str | None = None
        """The resource id of the instance whose snapshot it was made of."""
        self.cluster: Cluster | None = None
        self.source: Instance | None = None
        """For a reader of a cluster its writer, which nobody is told."""
        self.replicas: list[Instance] = []
        self.replicating = False
        self.proxies: list[Proxy] = []
        """Those that lead to it; one that is being registered is not among them."""
        self.in_force: dict[str, str] = {}
        """The parameters of its group that it has; what was changed for the next reboot is not among them."""
        self.cluster_in_force: dict[str, str] = {}
        """The same of its cluster's group; where both name one, the instance's own counts."""
        self.group_pending_reboot = False
        """Another group was attached, and nothing of it is in force."""
        self.cluster_group_pending_reboot = False
        self.server_pending_reboot = False
        self.parameters_applying = 0
        self.log_files: list[LogFile] = []
        self.parameters_lock = threading.Lock()

    @property
    def data_server(self) -> Server | None:
        return self.server

    @property
    def storage_id(self) -> str:
        return self.dbi_resource_id

    @property
    def parameters(self) -> dict[str, str]:
        """All that are in force, wherever they are from."""
        return self.cluster_in_force | self.in_force

    # The names by which moto's own code knows these things.
    @property
    def db_instance_identifier(self) -> str:
        return self.name

    @property
    def db_instance_arn(self) -> str:
        return self.arn

    @property
    def db_cluster_identifier(self) -> str | None:
        return self.cluster.name if self.cluster else None

    @property
    def endpoint_name(self) -> str:
        return self.backend.endpoint_of(self.name)

    def own_endpoint_names(self) -> tuple[str, ...]:
        return (self.endpoint_name,)

    def names_served(self) -> tuple[str, ...]:
        """The DNS names by which clients may come."""
        of_cluster = self.cluster.own_endpoint_names() if self.cluster else ()
        return (self.endpoint_name, *of_cluster, *(proxy.endpoint for proxy in self.proxies))

    @property
    def fronts(self) -> tuple[str, ...]:
        """The keys of the fronts by which clients come."""
        return (self.dbi_resource_id, *(proxy.unique_id for proxy in self.proxies if proxy.is_open))

    @property
    def fronts_to_guard(self) -> tuple[str, ...]:
        """The same, with those that are going to be opened."""
        return (self.dbi_resource_id, *(proxy.unique_id for proxy in self.proxies))

    @property
    def instances(self) -> list[Instance]:
        return [self]

    @property
    def has_groups_of(self) -> Operated:
        """Itself, or the cluster that it is a member of."""
        return self.cluster or self

    def security_groups(self) -> dict[str, str]:
        wanted, in_force = self.has_groups_of.settings["SecurityGroups"], self.has_groups_of.groups_in_force
        status = {group: "active" if group in in_force else "adding" for group in wanted}
        return status | {group: "removing" for group in in_force if group not in wanted}

    @property
    def db_instance_class(self) -> str:
        return str(self.settings["DBInstanceClass"])

    @property
    def db_name(self) -> str | None:
        name: str | None = self.settings.get("DBName")
        return name

    @property
    def multi_az(self) -> bool:
        return bool(self.settings["MultiAZ"])

    @property
    def allocated_storage(self) -> int:
        return int(self.settings["AllocatedStorage"])

    @property
    def iops(self) -> int | None:
        iops: int | None = self.settings.get("Iops")
        return iops

    @property
    def endpoint(self) -> View:
        return {"Address": self.endpoint_name, "Port": self.port}

    def view(self) -> View:
        settings = dict(self.settings)
        for computed in ("SubnetGroup", "SecurityGroups", "ParameterGroup", "OptionGroup"):
            del settings[computed]
        return present(
            {
                **({} if self.cluster else storage.shown(settings)),
                **settings,
                **self.common_view(),
                "DBInstanceIdentifier": self.name,
                "DBInstanceArn": self.arn,
                "DbiResourceId": self.dbi_resource_id,
                "DBInstanceStatus": self.shown_status,
                "DbInstancePort": 0,
                "Endpoint": {**self.endpoint, "HostedZoneId": "Z1RLNUO7B9Q6NB"} if self.endpoint_visible else None,
                "InstanceCreateTime": self.created if self.status != "creating" else None,
                "StorageEncryptionType": "sse-kms" if self.storage_encrypted else "none",
                "DBSubnetGroup": self.settings["SubnetGroup"],
                "DBSecurityGroups": [],
                "DBParameterGroups": [
                    {
                        "DBParameterGroupName": self.settings["ParameterGroup"],
                        "ParameterApplyStatus": self._parameters_status(),
                    }
                ],
                "OptionGroupMemberships": [{"OptionGroupName": self.settings["OptionGroup"], "Status": "in-sync"}],
                "CertificateDetails": {
                    "CAIdentifier": settings["CACertificateIdentifier"],
                    "ValidTill": self.created + dt.timedelta(days=3650),
                },
                "DBInstanceAutomatedBackupsReplications": [
                    {"DBInstanceAutomatedBackupsArn": backup.arn} for backup in self.backend.replications_of(self)
                ]
                or None,
                "StorageOperationStatus": "Initializing" if self.status == "storage-initialization" else None,
                "StorageOperationPercentProgress": "50" if self.status == "storage-initialization" else None,
                **(self.cluster.view_of_member(self) if self.cluster else self._view_of_replication()),
            }
        )

    def _view_of_replication(self) -> View:
        return {
            "ReadReplicaSourceDBInstanceIdentifier": self.source.name if self.source else None,
            "ReadReplicaDBInstanceIdentifiers": [replica.name for replica in self.replicas],
            "ReadReplicaDBClusterIdentifiers": [],
            # PostgreSQL's replicas are always open for reading; the member is Oracle's and Db2's.
            "StatusInfos": self._status_infos(),
        }

    def _parameters_status(self) -> str:
        if self.parameters_applying:
            return "applying"
        if self.group_pending_reboot or self.server_pending_reboot or self.backend.values_of(self) != self.in_force:
            return "pending-reboot"
        return "in-sync"

    def _status_infos(self) -> list[View]:
        if self.source is None or not self.endpoint_visible:
            return []
        fine = self.replicating
        return [
            {
                "StatusType": "read replication",
                "Normal": fine,
                "Status": "replicating" if fine else "error",
                "Message": "" if fine else "The replica does not receive from its source.",
            }
        ]


@dataclass(eq=False)
class Remembered(Tagged):
    """What a snapshot or backup knows of the instance or cluster that it is of, which may be gone."""

    backend: Backups
    owner_name: str
    owner_created: dt.datetime
    storage_id: str
    settings: View
    vpc_id: str
    key: str | None
    tags: list[dict[str, str]]

    settings_kept: ClassVar[tuple[str, ...]] = (
        "AllocatedStorage", "AvailabilityZone", "DBName", "Engine", "EngineVersion", "IAMDatabaseAuthenticationEnabled",
        "Iops", "LicenseModel", "MasterUsername", "Port", "StorageThroughput", "StorageType", "DBInstanceClass",
        "MultiAZ", "AutoMinorVersionUpgrade", "BackupRetentionPeriod", "PreferredBackupWindow", "OptionGroup",
    )  # fmt: skip
    settings_hidden: ClassVar[tuple[str, ...]] = (
        "DBName", "DBInstanceClass", "MultiAZ", "AutoMinorVersionUpgrade", "OptionGroup",
    )  # fmt: skip

    @classmethod
    def facts(cls, owner: Operated) -> dict[str, Any]:
        return {
            "backend": owner.backend,
            "owner_name": owner.name,
            "owner_created": owner.created,
            "storage_id": owner.storage_id,
            "settings": {name: owner.settings[name] for name in cls.settings_kept if name in owner.settings},
            "vpc_id": owner.settings["SubnetGroup"]["VpcId"],
            "key": owner.kms_key_id,
        }

    def settings_shown(self) -> View:
        return {name: self.settings.get(name) for name in self.settings_kept if name not in self.settings_hidden}

    def remembered(self) -> View:
        return {
            **self.settings_shown(),
            "DBInstanceIdentifier": self.owner_name,
            "DbiResourceId": self.storage_id,
            "InstanceCreateTime": self.owner_created,
            "Encrypted": self.key is not None,
            "StorageEncryptionType": "sse-kms" if self.key else "none",
            "KmsKeyId": self.key,
            "OptionGroupName": self.settings["OptionGroup"],
            "VpcId": self.vpc_id,
        }


@dataclass(eq=False)
class Snapshot(Remembered):
    """One snapshot, manual or automated."""

    name: str
    kind: str
    taken: dt.datetime
    original: dt.datetime
    status: str = "creating"
    data: Data | None = None
    copied_from: str | None = None
    expires: dt.datetime | None = None
    attributes: dict[str, list[str]] = field(default_factory=lambda: {"restore": []})
    resource_type: ClassVar[str] = "snapshot"

    @property
    def arn(self) -> str:
        return self.backend.arn_of(self.resource_type, self.name)

    @property
    def resource_id(self) -> str:
        return self.name

    @property
    def holder(self) -> str:
        return f"snapshot {self.name}"

    def modify_attribute(self, name: str, add: list[str] | None, remove: list[str] | None) -> dict[str, list[str]]:
        """The attributes afterwards."""
        if name != "restore":
            raise invalid_value(f"Invalid snapshot attribute {name}")
        kept = [value for value in self.attributes["restore"] if value not in (remove or ())]
        self.attributes["restore"] = kept + [value for value in add or () if value not in kept]
        return self.attributes

    def view(self) -> View:
        done = self.status == "available"
        return present(
            {
                **self.remembered(),
                "DBSnapshotIdentifier": self.name,
                "DBSnapshotArn": self.arn,
                "SnapshotType": self.kind,
                "SnapshotTarget": "region",
                "Status": self.status,
                "PercentProgress": 100 if done else 0,
                "SnapshotCreateTime": self.taken if done else None,
                "SnapshotDatabaseTime": self.taken if done else None,
                "OriginalSnapshotCreateTime": self.original,
                "SourceDBSnapshotIdentifier": self.copied_from,
                "FullSnapshotSizeInBytes": int(self.settings["AllocatedStorage"]) << 30 if done else None,
                "TagList": self.tags,
            }
        )


@dataclass(eq=False)
class AutomatedBackup(Remembered):
    """What point-in-time restores need; outlives what it is of when it is retained."""

    retention_days: int
    earliest: dt.datetime | None
    name: str = field(default_factory=lambda: resource_id("ab").lower())
    owner: Operated | None = None
    """None: the instance or cluster is gone, and this is retained."""
    ended: dt.datetime | None = None
    resource_type: ClassVar[str] = "auto-backup"

    @property
    def arn(self) -> str:
        return self.backend.arn_of(self.resource_type, self.name)

    @property
    def holder(self) -> str:
        return f"backup {self.name}"

    @property
    def expires(self) -> dt.datetime | None:
        return self.ended + dt.timedelta(days=self.retention_days) if self.ended else None

    @property
    def status(self) -> str:
        if self.owner is None:
            return "retained"
        return "active" if self.owner.backups_since else "creating"

    @property
    def name_now(self) -> str:
        """A rename moves the backups along."""
        return self.owner.name if self.owner else self.owner_name

    def window(self) -> View | None:
        """The moments that can be restored."""
        since = self.owner.backups_since if self.owner else self.earliest
        if not since:
            return None
        now = self.backend.context.clock.now()
        latest = self.ended or max(since, now - dt.timedelta(minutes=5))
        return {"EarliestTime": max(since, now - dt.timedelta(days=self.retention_days)), "LatestTime": latest}

    def view(self) -> View:
        return present(
            {
                **self.remembered(),
                "BackupTarget": "region",
                "DBInstanceIdentifier": self.name_now,
                "DBInstanceArn": self.backend.arn_of("db", self.name_now),
                "DBInstanceAutomatedBackupsArn": self.arn,
                "Region": self.backend.region_name,
                "Status": self.status,
                "BackupRetentionPeriod": self.retention_days,
                "RestoreWindow": self.window(),
                "TagList": self.tags,
            }
        )
