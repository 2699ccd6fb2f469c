"""What a cluster must have of its source: as `carried_settings`, by the names of DescribeDBClusters.

``restore`` is of RestoreDBClusterFromSnapshot, ``repair`` of ModifyDBCluster (RDS API reference, as of boto3 1.44.5).
"""

from typing import Any

from lambdas.rotation.aws.carried_settings import (
    ALLOCATED_STORAGE,
    ENHANCED_MONITORING,
    INSIGHTS,
    INSIGHTS_KEY,
    PROVISIONED_IOPS,
    Setting,
    if_chosen,
    log_export_repair,
    log_exports,
    plain,
    security_groups,
    whatever,
    when,
)
from lambdas.rotation.names import DEPLOYMENT_TAG
from lambdas.rotation.ports import SECURITY_GROUPS, Instance

AT_MOST_ZONES = 3
"""RDS API reference: CreateDBCluster."""


def _named(name: str, field: str, *, restore: str = "", modify: str | None = None, default: Any = None) -> Setting:
    return plain(name, field, restore=restore, modify=modify, default=default)


def _both(name: str, field: str, *, default: Any = None) -> Setting:
    """One name everywhere."""
    return _named(name, field, restore=field, modify=field, default=default)


SETTINGS: tuple[Setting, ...] = (
    _named("engine version", "EngineVersion", restore="EngineVersion"),  # left out, RDS takes its default version
    _named("port", "Port", restore="Port"),
    _both("backup retention", "BackupRetentionPeriod"),
    _both("backup window", "PreferredBackupWindow"),
    _named("maintenance window", "PreferredMaintenanceWindow", modify="PreferredMaintenanceWindow"),
    _named(
        "parameter group",
        "DBClusterParameterGroup",
        restore="DBClusterParameterGroupName",
        modify="DBClusterParameterGroupName",
    ),
    _named("subnet group", "DBSubnetGroup", restore="DBSubnetGroupName"),
    # Else RDS may choose others than those in which its instances are asked for. A wish, as an instance's is.
    Setting(
        "Availability Zones",
        seen=lambda raw: tuple(sorted(raw.get("AvailabilityZones") or ())),
        restore=lambda wanted: when(wanted, AvailabilityZones=list(wanted[:AT_MOST_ZONES])),
        satisfied=whatever,
    ),
    Setting(
        SECURITY_GROUPS,
        seen=security_groups,
        restore=lambda wanted: when(wanted, VpcSecurityGroupIds=list(wanted)),
        repair=lambda wanted, seen: {"VpcSecurityGroupIds": list(wanted)},
    ),
    _both("deletion protection", "DeletionProtection", default=False),
    _named(
        "IAM authentication",
        "IAMDatabaseAuthenticationEnabled",
        restore="EnableIAMDatabaseAuthentication",
        modify="EnableIAMDatabaseAuthentication",
        default=False,
    ),
    Setting(
        "log exports",
        seen=log_exports,
        restore=lambda wanted: when(wanted, EnableCloudwatchLogsExports=list(wanted)),
        repair=log_export_repair,
        pending="PendingCloudwatchLogsExports",
    ),
    _both("copy tags to snapshots", "CopyTagsToSnapshot", default=False),
    _both("storage type", "StorageType"),
    _both("serverless capacity", "ServerlessV2ScalingConfiguration"),
    _both("network type", "NetworkType"),
    _named("Extended Support", "EngineLifecycleSupport", restore="EngineLifecycleSupport"),
    Setting(
        "backtrack window",
        seen=lambda raw: int(raw.get("BacktrackWindow") or 0),
        restore=lambda wanted: when(wanted, BacktrackWindow=wanted),  # other engines' take not even 0
        repair=lambda wanted, seen: {"BacktrackWindow": wanted},
    ),
)

OF_MULTI_AZ: tuple[Setting, ...] = (
    # None of these is this kind's; its network is always IPv4 (RDS User Guide: limitations of Multi-AZ DB clusters),
    # and RDS places its instances (RDS API reference: RestoreDBClusterFromSnapshot).
    *(s for s in SETTINGS if s.name not in ("serverless capacity", "network type", "Availability Zones")),
    _named(
        "instance class", "DBClusterInstanceClass", restore="DBClusterInstanceClass", modify="DBClusterInstanceClass"
    ),
    _both(PROVISIONED_IOPS, "Iops"),  # asked for with whichever storage type
    ALLOCATED_STORAGE,
    _named("public access", "PubliclyAccessible", restore="PubliclyAccessible", default=False),
    _named("automatic minor upgrades", "AutoMinorVersionUpgrade", restore="", modify="AutoMinorVersionUpgrade"),
    Setting(
        "CA certificate",
        seen=lambda raw: (raw.get("CertificateDetails") or {}).get("CAIdentifier"),
        repair=lambda wanted, seen: {"CACertificateIdentifier": wanted},
        satisfied=if_chosen,
        pending="CertificateDetails",
    ),
    _named("Database Insights mode", "DatabaseInsightsMode", restore="", modify="DatabaseInsightsMode"),
    INSIGHTS,
    INSIGHTS_KEY,
    ENHANCED_MONITORING,
)
"""With what the instances of a Multi-AZ DB cluster get from it; those of Aurora have it for themselves."""

OF_GREEN: tuple[Setting, ...] = (
    *SETTINGS,
    Setting("Data API", seen=lambda raw: bool(raw.get("HttpEndpointEnabled"))),
    Setting(
        "local write forwarding",
        seen=lambda raw: raw.get("LocalWriteForwardingStatus") in ("requested", "enabling", "enabled"),
    ),
    Setting("Database Insights mode", seen=lambda raw: raw.get("DatabaseInsightsMode") or "standard"),
)
"""With what RDS copies of Aurora's clusters, or not: nothing of it is asked for, so what green lacks ends the rotation.

Applications that come by the Data API, or write through a reader, would find the door closed after the switchover.
A restore brings none of it along; Preflight refuses the former two there, and warns of the third.
"""


def settings_of(cluster: Instance) -> tuple[Setting, ...]:
    """By ``cluster``, which is the source. Blue has the tag of its deployment from before that is asked for."""
    if cluster.database.is_multi_az_cluster:
        return OF_MULTI_AZ
    return OF_GREEN if DEPLOYMENT_TAG in cluster.tags else SETTINGS
