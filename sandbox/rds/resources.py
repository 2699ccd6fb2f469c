"""What RDS keeps: instances, snapshots, automated backups. They know how the API describes them, and do nothing."""

from __future__ import annotations

import datetime as dt
import secrets
import shutil
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sandbox.rds.servers import Server

if TYPE_CHECKING:
    from sandbox.rds.backups import Backups

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


def resource_id(prefix: str) -> str:
    return f"{prefix}-" + "".join(secrets.choice(BASE32) for _ in range(26))


def present(view: View) -> View:
    return {name: value for name, value in view.items() if value is not None}


class Tagged:
    """Tags as moto's tagging calls want them."""

    def __init__(self, tags: list[dict[str, str]]) -> None:
        self.tags = tags

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


class Instance(Tagged):
    """One DB instance. ``settings`` are the members of DescribeDBInstances that need no computing."""

    resource_type = "db"

    def __init__(
        self, backend: Backups, name: str, settings: View, tags: list[dict[str, str]], key: str | None
    ) -> None:
        super().__init__(tags)
        self.backend = backend
        self.name = name
        self.settings = settings
        self.kms_key_id = key
        self.dbi_resource_id = resource_id("db")
        self.created = backend.context.clock.now()
        self.status = "creating"
        self.server: Server | None = None
        self.address: str | None = None
        """The loopback address of its TLS front; the instance keeps it when it is renamed."""
        self.endpoint_visible = False
        self.source: Instance | None = None
        self.replicas: list[Instance] = []
        self.replicating = False
        self.pending: View = {}
        self.in_force: dict[str, str] = {}
        """The parameters of its group that it has; what was changed for the next reboot is not among them."""
        self.group_pending_reboot = False
        """Another group was attached, and nothing of it is in force."""
        self.server_pending_reboot = False
        self.parameters_applying = 0
        self.parameters_lock = threading.Lock()
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
        self._associated_roles: list[Any] = []

    # The names by which moto's own code knows these things.
    @property
    def db_instance_identifier(self) -> str:
        return self.name

    @property
    def resource_id(self) -> str:
        return self.name

    @property
    def arn(self) -> str:
        return self.backend.arn_of("db", self.name)

    db_instance_arn = arn

    @property
    def engine(self) -> str:
        return str(self.settings["Engine"])

    @property
    def port(self) -> int:
        return int(self.settings["Port"])

    @property
    def endpoint_name(self) -> str:
        return self.backend.endpoint_of(self.name)

    @property
    def engine_version(self) -> str:
        return str(self.settings["EngineVersion"])

    @property
    def db_cluster_identifier(self) -> None:
        return None

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

    def view(self) -> View:
        settings = dict(self.settings)
        subnet_group, groups = settings.pop("SubnetGroup"), settings.pop("SecurityGroups")
        parameter_group, option_group = settings.pop("ParameterGroup"), settings.pop("OptionGroup")
        now = self.backend.context.clock.now()
        latest = None
        if self.backups_since and self.retention_days:
            latest = max(self.backups_since, now - dt.timedelta(minutes=5))
        return present(
            {
                **settings,
                "DBInstanceIdentifier": self.name,
                "DBInstanceArn": self.arn,
                "DbiResourceId": self.dbi_resource_id,
                "DBInstanceStatus": self.shown_status,
                "DbInstancePort": 0,
                "Endpoint": {**self.endpoint, "HostedZoneId": "Z1RLNUO7B9Q6NB"} if self.endpoint_visible else None,
                "InstanceCreateTime": self.created if self.status != "creating" else None,
                "StorageEncrypted": self.storage_encrypted,
                "StorageEncryptionType": "sse-kms" if self.storage_encrypted else "none",
                "KmsKeyId": self.kms_key_id,
                "DBSubnetGroup": subnet_group,
                "VpcSecurityGroups": [{"VpcSecurityGroupId": group, "Status": "active"} for group in groups],
                "DBSecurityGroups": [],
                "DBParameterGroups": [
                    {
                        "DBParameterGroupName": parameter_group,
                        "ParameterApplyStatus": self._parameters_status(),
                    }
                ],
                "OptionGroupMemberships": [{"OptionGroupName": option_group, "Status": "in-sync"}],
                "PendingModifiedValues": {
                    name: "****" if name == "MasterUserPassword" else value for name, value in self.pending.items()
                },
                "LatestRestorableTime": latest,
                "ReadReplicaSourceDBInstanceIdentifier": self.source.name if self.source else None,
                "ReadReplicaDBInstanceIdentifiers": [replica.name for replica in self.replicas],
                "ReadReplicaDBClusterIdentifiers": [],
                # PostgreSQL's replicas are always open for reading; the member is Oracle's and Db2's.
                "StatusInfos": self._status_infos(),
                "CertificateDetails": {
                    "CAIdentifier": settings["CACertificateIdentifier"],
                    "ValidTill": self.created + dt.timedelta(days=3650),
                },
                "ActivityStreamStatus": "stopped",
                "AssociatedRoles": [
                    {"RoleArn": role.role_arn, "FeatureName": role.feature_name, "Status": "ACTIVE"}
                    for role in self._associated_roles
                ],
                "DomainMemberships": [],
                "TagList": self.tags,
                "MasterUserSecret": self.master_secret and {
                    "SecretArn": self.master_secret.secret_arn,
                    "SecretStatus": self.master_secret.secret_status,
                    "KmsKeyId": self.master_secret.kms_key_id,
                },
                "StorageOperationStatus": "Initializing" if self.status == "storage-initialization" else None,
                "StorageOperationPercentProgress": "50" if self.status == "storage-initialization" else None,
            }
        )  # fmt: skip

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


# What a snapshot or backup remembers of its instance.
REMEMBERED = (
    "AllocatedStorage", "AvailabilityZone", "DBName", "Engine", "EngineVersion", "IAMDatabaseAuthenticationEnabled",
    "Iops", "LicenseModel", "MasterUsername", "Port", "StorageThroughput", "StorageType", "DBInstanceClass", "MultiAZ",
    "AutoMinorVersionUpgrade", "BackupRetentionPeriod", "PreferredBackupWindow",
)  # fmt: skip


@dataclass(eq=False)
class _Remembered:
    backend: Backups
    instance_name: str
    instance_created: dt.datetime
    dbi_resource_id: str
    settings: View
    vpc_id: str
    key: str | None
    option_group: str

    @classmethod
    def facts(cls, instance: Instance) -> dict[str, Any]:
        return {
            "backend": instance.backend,
            "instance_name": instance.name,
            "instance_created": instance.created,
            "dbi_resource_id": instance.dbi_resource_id,
            "settings": {name: instance.settings[name] for name in REMEMBERED if name in instance.settings},
            "vpc_id": instance.settings["SubnetGroup"]["VpcId"],
            "key": instance.kms_key_id,
            "option_group": instance.settings["OptionGroup"],
        }

    def remembered(self) -> View:
        shown = {
            name: self.settings.get(name)
            for name in REMEMBERED
            if name not in ("DBName", "DBInstanceClass", "MultiAZ", "AutoMinorVersionUpgrade")
        }
        return {
            **shown,
            "DBInstanceIdentifier": self.instance_name,
            "DbiResourceId": self.dbi_resource_id,
            "InstanceCreateTime": self.instance_created,
            "Encrypted": self.key is not None,
            "StorageEncryptionType": "sse-kms" if self.key else "none",
            "KmsKeyId": self.key,
            "OptionGroupName": self.option_group,
            "VpcId": self.vpc_id,
            "BackupTarget": "region",
        }


@dataclass(eq=False)
class Snapshot(_Remembered, Tagged):
    """One DB snapshot, manual or automated."""

    name: str
    kind: str
    tags: list[dict[str, str]]
    taken: dt.datetime
    original: dt.datetime
    status: str = "creating"
    data: Data | None = None
    copied_from: str | None = None
    expires: dt.datetime | None = None
    attributes: dict[str, list[str]] = field(default_factory=lambda: {"restore": []})
    resource_type = "snapshot"

    @property
    def arn(self) -> str:
        return self.backend.arn_of("snapshot", self.name)

    @property
    def resource_id(self) -> str:
        return self.name

    @property
    def holder(self) -> str:
        return f"snapshot {self.name}"

    def view(self) -> View:
        done = self.status == "available"
        view = self.remembered()
        del view["BackupTarget"]
        return present(
            {
                **view,
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
class AutomatedBackup(_Remembered, Tagged):
    """What point-in-time restores of one instance need; outlives the instance when it is retained."""

    tags: list[dict[str, str]]
    retention_days: int
    earliest: dt.datetime | None
    name: str = field(default_factory=lambda: resource_id("ab").lower())
    instance: Instance | None = None
    """None: the instance is gone, and this is retained."""
    ended: dt.datetime | None = None

    @property
    def arn(self) -> str:
        return self.backend.arn_of("auto-backup", self.name)

    @property
    def holder(self) -> str:
        return f"backup {self.name}"

    @property
    def expires(self) -> dt.datetime | None:
        return self.ended + dt.timedelta(days=self.retention_days) if self.ended else None

    @property
    def status(self) -> str:
        if self.instance is None:
            return "retained"
        return "active" if self.instance.backups_since else "creating"

    def view(self) -> View:
        since = self.instance.backups_since if self.instance else self.earliest
        now = self.backend.context.clock.now()
        window = None
        if since:
            latest = self.ended or max(since, now - dt.timedelta(minutes=5))
            window = {"EarliestTime": max(since, now - dt.timedelta(days=self.retention_days)), "LatestTime": latest}
        view = self.remembered()
        return present(
            {
                **view,
                # A rename moves the backups along.
                "DBInstanceIdentifier": self.instance.name if self.instance else self.instance_name,
                "DBInstanceArn": self.backend.arn_of("db", self.instance.name if self.instance else self.instance_name),
                "DBInstanceAutomatedBackupsArn": self.arn,
                "Region": self.backend.region_name,
                "Status": self.status,
                "BackupRetentionPeriod": self.retention_days,
                "RestoreWindow": window,
                "TagList": self.tags,
            }
        )


def matches(filters: list[View], facts: Mapping[str, list[str]]) -> bool:
    """Whether a resource passes the filters; ``facts`` gives its values by filter name."""
    return all(
        {value.lower() for value in wanted["Values"]} & {fact.lower() for fact in facts[wanted["Name"]]}
        for wanted in filters
    )
