"""What a target must have of its source: one table, read at creation, at the comparison and at every repair.

Neither a replica nor what is restored inherits most of it: RDS fills what is left out with defaults. Each row says how
a setting reads in DescribeDBInstances, which parameter gives it at creation, and which parameter of ModifyDBInstance
repairs it. A setting without either is still compared: a difference then ends the rotation.

The table of clusters (`carried_cluster_settings`) is made of the same rows, and read by the same functions.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from lambdas.rotation import names
from lambdas.rotation.ports import ASSOCIATED_ROLES, KEY_OF_INSIGHTS, SECURITY_GROUPS, TAGS, Instance

Raw = Mapping[str, Any]
Parameters = dict[str, Any]


@dataclass(frozen=True)
class Setting:
    """One row of the table.

    Attributes:
        wanted: the value that the target must have, given the source and the target's (new) key.
        seen: the value that an instance has.
        create: parameters of the call that makes an instance, for a wanted value; empty when it cannot be given there.
        replicate: the same of CreateDBInstanceReadReplica; None where that takes them, too.
        restore: the same of RestoreDBInstanceFromDBSnapshot; None where that takes them, too.
        repair: parameters of ModifyDBInstance for (wanted, seen); None when ModifyDBInstance cannot change it (so).
        satisfied: whether a seen value is as good as the wanted one.
        pending: the name under PendingModifiedValues that says that a repair is under way.
    """

    name: str
    seen: Callable[[Raw], Any]
    create: Callable[[Any], Parameters] = lambda wanted: {}
    replicate: Callable[[Any], Parameters] | None = None
    restore: Callable[[Any], Parameters] | None = None
    repair: Callable[[Any, Any], Parameters | None] | None = None
    wanted: Callable[[Raw, str | None], Any] | None = None
    satisfied: Callable[[Any, Any], bool] = lambda wanted, seen: bool(wanted == seen)
    pending: str | None = None

    def wanted_of(self, source: Raw, key_arn: str | None) -> Any:
        return self.seen(source) if self.wanted is None else self.wanted(source, key_arn)


def if_chosen(wanted: Any, seen: Any) -> bool:
    """`Setting.satisfied` of what RDS chooses by itself where nobody has."""
    return bool(wanted is None or wanted == seen)


def whatever(wanted: Any, seen: Any) -> bool:
    """`Setting.satisfied` of what is asked for, and not insisted upon."""
    return True


def _not_taken(wanted: Any) -> Parameters:
    return {}


def plain(
    name: str,
    field: str,
    *,
    create: str | None = None,
    restore: str | None = None,
    modify: str | None = None,
    default: Any = None,
) -> Setting:
    """A setting that is one field, and one parameter in each call; an absent value is not passed.

    ``restore``: where it is not the one of ``create``; empty where that call has none.
    """
    return Setting(
        name,
        seen=lambda raw: raw.get(field, default),
        create=lambda wanted: {create: wanted} if create and wanted is not None else {},
        restore=None if restore is None else lambda wanted: {restore: wanted} if restore and wanted is not None else {},
        repair=(lambda wanted, seen: {modify: wanted}) if modify else None,
        satisfied=if_chosen,
        pending=modify,
    )


def _only(items: Iterable[Raw], field: str) -> str | None:
    return next((str(item[field]) for item in items if item.get(field)), None)


_GP3_FROM_GIB = {"oracle": 200, "sqlserver": 0}
_GP3_OF_OTHERS_FROM_GIB = 400


def _is_gp3_to_choose_for(raw: Raw) -> bool:
    """Whether it takes IOPS and throughput: a smaller one shows a baseline, and refuses to be given it.

    RDS User Guide: gp3 storage.
    """
    engine = str(raw.get("Engine", ""))
    from_gib = next((least for name, least in _GP3_FROM_GIB.items() if name in engine), _GP3_OF_OTHERS_FROM_GIB)
    return raw.get("StorageType") == "gp3" and int(raw.get("AllocatedStorage") or 0) >= from_gib


def _provisioned_iops(raw: Raw) -> int | None:
    chosen = str(raw.get("StorageType", "")).startswith("io") or _is_gp3_to_choose_for(raw)
    return raw.get("Iops") if chosen else None


def _provisioned_throughput(raw: Raw) -> int | None:
    return raw.get("StorageThroughput") if _is_gp3_to_choose_for(raw) else None


def _insights_key(source: Raw, key_arn: str | None) -> str | None:
    """Performance Insights under the old key moves to the new one with the storage; a key of its own stays."""
    if not source.get("PerformanceInsightsEnabled"):
        return None
    key = source.get("PerformanceInsightsKMSKeyId")
    return key_arn if key is not None and key == source.get("KmsKeyId") else key


def when(value: Any, **parameters: Any) -> Parameters:
    return parameters if value else {}


_OF_A_VOLUME = ("AllocatedStorage", "IOPS", "MaxAllocatedStorage", "StorageThroughput", "StorageType")
Volumes = Mapping[str, Parameters]


def _volumes(raw: Raw) -> Volumes:
    """Those beside the primary one, by name; of Oracle and SQL Server (RDS User Guide: additional storage volumes)."""
    return {
        str(one["VolumeName"]).lower(): {
            member: value.lower() if isinstance(value, str) else value
            for member in _OF_A_VOLUME
            if (value := one.get(member)) is not None
        }
        for one in raw.get("AdditionalStorageVolumes") or ()
    }


def _shortfalls(wanted: Volumes, seen: Volumes) -> Volumes:
    """By name, what each volume lacks. One that is larger has grown, and shows a baseline where none was chosen."""
    return {
        name: lacking
        for name, volume in wanted.items()
        if (lacking := {member: value for member, value in volume.items() if _lacks(seen.get(name, {}), member, value)})
    }


def _lacks(volume: Parameters, member: str, wanted: Any) -> bool:
    has = volume.get(member)
    return bool(has < wanted) if member == "AllocatedStorage" and has is not None else bool(has != wanted)


def _volume_repair(wanted: Volumes, seen: Volumes) -> Parameters | None:
    """None where one is missing: what RDS would add is empty, and the data that belongs on it is not there."""
    if set(wanted) - set(seen):
        return None
    lacking = _shortfalls(wanted, seen)
    return {"AdditionalStorageVolumes": [{"VolumeName": name, **volume} for name, volume in lacking.items()]}


def _monitoring(raw: Raw) -> tuple[int, str | None]:
    interval = int(raw.get("MonitoringInterval") or 0)
    return interval, raw.get("MonitoringRoleArn") if interval else None


def _monitoring_parameters(wanted: tuple[int, str | None]) -> Parameters:
    interval, role = wanted
    return {"MonitoringInterval": interval} | when(role, MonitoringRoleArn=role)


def _insights(raw: Raw) -> tuple[bool, int | None]:
    enabled = bool(raw.get("PerformanceInsightsEnabled"))
    return enabled, raw.get("PerformanceInsightsRetentionPeriod") if enabled else None


def _insights_parameters(wanted: tuple[bool, int | None]) -> Parameters:
    enabled, days = wanted
    return {"EnablePerformanceInsights": enabled} | when(days, PerformanceInsightsRetentionPeriod=days)


def log_exports(raw: Raw) -> tuple[str, ...]:
    return tuple(sorted(raw.get("EnabledCloudwatchLogsExports") or ()))


def log_export_repair(wanted: tuple[str, ...], seen: tuple[str, ...]) -> Parameters:
    changes = {
        "EnableLogTypes": sorted(set(wanted) - set(seen)),
        "DisableLogTypes": sorted(set(seen) - set(wanted)),
    }
    return {"CloudwatchLogsExportConfiguration": {name: logs for name, logs in changes.items() if logs}}


def security_groups(raw: Raw) -> tuple[str, ...]:
    return tuple(sorted(group["VpcSecurityGroupId"] for group in raw.get("VpcSecurityGroups") or ()))


def _processor_features(raw: Raw) -> tuple[tuple[str, str], ...]:
    return tuple(sorted((f["Name"], f["Value"]) for f in raw.get("ProcessorFeatures") or ()))


def _processor_parameters(wanted: tuple[tuple[str, str], ...]) -> Parameters:
    return when(wanted, ProcessorFeatures=[{"Name": name, "Value": value} for name, value in wanted])


def _port(raw: Raw) -> int | None:
    return (raw.get("Endpoint") or {}).get("Port")


def _domain(raw: Raw) -> tuple[str, ...]:
    return tuple(sorted(m.get("Domain") or m.get("FQDN", "") for m in raw.get("DomainMemberships") or ()))


# Of an instance, and of a Multi-AZ DB cluster, by the same names.
PROVISIONED_IOPS = "provisioned IOPS"
ALLOCATED_STORAGE = Setting(
    "allocated storage",
    seen=lambda raw: int(raw.get("AllocatedStorage") or 0),
    repair=lambda wanted, seen: {"AllocatedStorage": wanted},
    satisfied=lambda wanted, seen: seen >= wanted,  # storage only grows, and autoscaling may have been here
    pending="AllocatedStorage",
)
INSIGHTS = Setting(
    "Performance Insights",
    seen=_insights,
    create=_insights_parameters,
    restore=_not_taken,
    repair=lambda wanted, seen: _insights_parameters(wanted),
)
# It cannot be changed while Performance Insights is on: given at creation, or together with switching it on.
INSIGHTS_KEY = Setting(
    KEY_OF_INSIGHTS,
    seen=lambda raw: raw.get("PerformanceInsightsKMSKeyId") if raw.get("PerformanceInsightsEnabled") else None,
    wanted=_insights_key,
    create=lambda wanted: when(wanted, PerformanceInsightsKMSKeyId=wanted),
    restore=_not_taken,
    repair=lambda wanted, seen: {"PerformanceInsightsKMSKeyId": wanted} if seen is None else None,
)
ENHANCED_MONITORING = Setting(
    "enhanced monitoring",
    seen=_monitoring,
    create=_monitoring_parameters,
    restore=_not_taken,
    repair=lambda wanted, seen: _monitoring_parameters(wanted),
)

SETTINGS: tuple[Setting, ...] = (
    plain("instance class", "DBInstanceClass", create="DBInstanceClass", modify="DBInstanceClass"),
    plain("engine version", "EngineVersion"),
    plain("storage type", "StorageType", create="StorageType", modify="StorageType"),
    ALLOCATED_STORAGE,
    Setting(
        PROVISIONED_IOPS,
        seen=_provisioned_iops,
        create=lambda wanted: when(wanted, Iops=wanted),
        repair=lambda wanted, seen: {"Iops": wanted},
        satisfied=if_chosen,  # larger than its source it shows some
        pending="Iops",
    ),
    Setting(
        "storage throughput",
        seen=_provisioned_throughput,
        create=lambda wanted: when(wanted, StorageThroughput=wanted),
        repair=lambda wanted, seen: {"StorageThroughput": wanted},
        satisfied=if_chosen,
        pending="StorageThroughput",
    ),
    plain(
        "storage autoscaling limit",
        "MaxAllocatedStorage",
        create="MaxAllocatedStorage",
        restore="",
        modify="MaxAllocatedStorage",
    ),
    Setting(  # a restore brings them along, and takes none away (RDS User Guide: storage of RDS for Oracle, restoring)
        "additional storage volumes",
        seen=_volumes,
        repair=_volume_repair,
        satisfied=lambda wanted, seen: not _shortfalls(wanted, seen),
        pending="AdditionalStorageVolumes",
    ),
    plain("dedicated log volume", "DedicatedLogVolume", create="DedicatedLogVolume", modify="DedicatedLogVolume"),
    Setting(  # a replica is born with its source's; RDS refuses another one (RDS API: CreateDBInstanceReadReplica)
        "parameter group",
        seen=lambda raw: _only(raw.get("DBParameterGroups") or (), "DBParameterGroupName"),
        create=lambda wanted: when(wanted, DBParameterGroupName=wanted),
        replicate=_not_taken,
        repair=lambda wanted, seen: {"DBParameterGroupName": wanted},
        pending="DBParameterGroupName",
    ),
    Setting(
        "option group",
        seen=lambda raw: _only(raw.get("OptionGroupMemberships") or (), "OptionGroupName"),
        create=lambda wanted: when(wanted, OptionGroupName=wanted),
        repair=lambda wanted, seen: {"OptionGroupName": wanted},
        pending="OptionGroupName",
    ),
    Setting(
        SECURITY_GROUPS,
        seen=security_groups,
        create=lambda wanted: when(wanted, VpcSecurityGroupIds=list(wanted)),
        repair=lambda wanted, seen: {"VpcSecurityGroupIds": list(wanted)},
    ),
    Setting(
        "subnet group",
        seen=lambda raw: (raw.get("DBSubnetGroup") or {}).get("DBSubnetGroupName"),
        create=lambda wanted: when(wanted, DBSubnetGroupName=wanted),
    ),
    plain(
        "public access",
        "PubliclyAccessible",
        create="PubliclyAccessible",
        modify="PubliclyAccessible",
        default=False,
    ),
    Setting(
        "port",
        seen=_port,
        create=lambda wanted: when(wanted, Port=wanted),
        repair=lambda wanted, seen: {"DBPortNumber": wanted},
        pending="Port",
    ),
    plain("network type", "NetworkType", create="NetworkType", modify="NetworkType"),
    plain("Multi-AZ", "MultiAZ", create="MultiAZ", modify="MultiAZ", default=False),
    # A wish: RDS need not have room there (`placement`), and nothing that is carried depends on it. Of two zones it
    # takes none (RDS API reference: RestoreDBInstanceFromDBSnapshot).
    Setting(
        "Availability Zone",
        seen=lambda raw: None if raw.get("MultiAZ") else raw.get("AvailabilityZone"),
        create=lambda wanted: when(wanted, AvailabilityZone=wanted),
        satisfied=whatever,
    ),
    Setting(
        "processor features",
        seen=_processor_features,
        create=_processor_parameters,
        repair=lambda wanted, seen: _processor_parameters(wanted),
        pending="ProcessorFeatures",
    ),
    plain("license model", "LicenseModel", modify="LicenseModel"),
    plain(
        "CA certificate",
        "CACertificateIdentifier",
        create="CACertificateIdentifier",
        modify="CACertificateIdentifier",
    ),
    plain(
        "automatic minor upgrades",
        "AutoMinorVersionUpgrade",
        create="AutoMinorVersionUpgrade",
        modify="AutoMinorVersionUpgrade",
    ),
    plain(
        "Extended Support", "EngineLifecycleSupport", restore="EngineLifecycleSupport", modify="EngineLifecycleSupport"
    ),
    plain(
        "backup retention", "BackupRetentionPeriod", restore="BackupRetentionPeriod", modify="BackupRetentionPeriod"
    ),  # a replica is born with backups off
    plain("backup window", "PreferredBackupWindow", restore="PreferredBackupWindow", modify="PreferredBackupWindow"),
    plain("promotion tier", "PromotionTier", modify="PromotionTier"),  # of an instance of a cluster
    plain("maintenance window", "PreferredMaintenanceWindow", modify="PreferredMaintenanceWindow"),
    plain(
        "deletion protection",
        "DeletionProtection",
        create="DeletionProtection",
        modify="DeletionProtection",
        default=False,
    ),
    plain(
        "tags copied to snapshots",
        "CopyTagsToSnapshot",
        create="CopyTagsToSnapshot",
        modify="CopyTagsToSnapshot",
        default=False,
    ),
    plain(
        "IAM database authentication",
        "IAMDatabaseAuthenticationEnabled",
        create="EnableIAMDatabaseAuthentication",
        modify="EnableIAMDatabaseAuthentication",
        default=False,
    ),
    # A restore has no parameter for it, and that of a replica is "not supported" (RDS API reference).
    plain("Database Insights mode", "DatabaseInsightsMode", modify="DatabaseInsightsMode"),
    INSIGHTS,
    INSIGHTS_KEY,
    ENHANCED_MONITORING,
    Setting(
        "log exports",
        seen=log_exports,
        create=lambda wanted: when(wanted, EnableCloudwatchLogsExports=list(wanted)),
        repair=log_export_repair,
        pending="PendingCloudwatchLogsExports",
    ),
    Setting(  # RDS makes a new password and a secret for it; Preflight asks for that to be accepted
        "managed master password",
        seen=lambda raw: bool(raw.get("MasterUserSecret")),
        repair=lambda wanted, seen: {"ManageMasterUserPassword": wanted},
        satisfied=lambda wanted, seen: seen or not wanted,
        pending="MasterUserPassword",
    ),
    Setting("domain", seen=_domain),  # Preflight refuses a source in a directory
)

OF_A_MEMBER = (
    "instance class", "parameter group", "public access", "CA certificate", "automatic minor upgrades",
    "Performance Insights", KEY_OF_INSIGHTS, "enhanced monitoring",
)  # fmt: skip
"""What an instance of a cluster has for itself, and CreateDBInstance takes; the rest is its cluster's."""
_COMPARED_OF_A_MEMBER = tuple(
    setting for setting in SETTINGS if setting.name in (*OF_A_MEMBER, "promotion tier", "maintenance window")
)


def creation_parameters(source: Raw, key_arn: str) -> dict[str, Any]:
    """Every setting of the source that CreateDBInstanceReadReplica takes."""
    parameters: dict[str, Any] = {}
    for setting in SETTINGS:
        parameters |= (setting.replicate or setting.create)(setting.wanted_of(source, key_arn))
    return parameters


def restoration_parameters(source: Raw, settings: Iterable[Setting] = SETTINGS) -> dict[str, Any]:
    """Every setting of the source that the call takes which restores it; the others are repaired afterwards."""
    parameters: dict[str, Any] = {}
    for setting in settings:
        parameters |= (setting.restore or setting.create)(setting.wanted_of(source, None))
    return parameters


def member_parameters(source: Raw, key_arn: str) -> dict[str, Any]:
    """Every setting of an instance of a cluster that CreateDBInstance takes for one of another cluster."""
    parameters = {name: source[name] for name in ("AvailabilityZone", "PromotionTier") if source.get(name) is not None}
    for setting in SETTINGS:
        if setting.name in OF_A_MEMBER:
            parameters |= setting.create(setting.wanted_of(source, key_arn))
    return parameters


def settings_of(instance: Instance) -> tuple[Setting, ...]:
    """What an instance has for itself: not what one of a cluster only shows, which RDS refuses to change there."""
    return _COMPARED_OF_A_MEMBER if instance.raw.get("DBClusterIdentifier") else SETTINGS


def differences(
    source: Instance, target: Instance, settings: Iterable[Setting] = SETTINGS
) -> dict[str, tuple[Any, Any]]:
    """Setting name -> (wanted, seen), for every setting of the table in which the target falls short."""
    found: dict[str, tuple[Any, Any]] = {}
    for setting in settings:
        wanted = setting.wanted_of(source.raw, target.database.kms_key_arn)
        seen = setting.seen(target.raw)
        if not setting.satisfied(wanted, seen):
            found[setting.name] = (wanted, seen)
    if missing_roles(source, target):
        found[ASSOCIATED_ROLES] = (_roles(source.raw), _roles(target.raw))
    if missing := missing_tags(source, target):
        found[TAGS] = (missing, {name: target.tags.get(name) for name in missing})
    return found


def repairs(
    source: Instance, target: Instance, differing: Collection[str], settings: Iterable[Setting] = SETTINGS
) -> tuple[Parameters, list[str]]:
    """What to ask RDS for in one modification, and the names of the differences that none repairs.

    What RDS is already changing is not asked for a second time.
    """
    pending = target.raw.get("PendingModifiedValues") or {}
    parameters: Parameters = {}
    hopeless: list[str] = []
    for setting in settings:
        if setting.name not in differing or setting.pending in pending:
            continue
        wanted = setting.wanted_of(source.raw, target.database.kms_key_arn)
        asked = setting.repair(wanted, setting.seen(target.raw)) if setting.repair is not None else None
        if asked is None:
            hopeless.append(setting.name)
        else:
            parameters |= asked
    return _with_partners(parameters, source, target, settings), hopeless


def _with_partners(
    parameters: Parameters, source: Instance, target: Instance, settings: Iterable[Setting]
) -> Parameters:
    """With what RDS wants to be told again, though it is so already (RDS API reference: ModifyDBInstance, -Cluster).

    Size and IOPS only together, where IOPS were chosen, and both with the rest of the storage; the advanced mode of
    Database Insights with Performance Insights.
    """
    if parameters.get("DatabaseInsightsMode") == "advanced":
        parameters = parameters | _insights_parameters(_insights(source.raw))
    iops = next((one.seen(source.raw) for one in settings if one.name == PROVISIONED_IOPS), None)
    if iops is not None and parameters.keys() & {"AllocatedStorage", "Iops", "StorageThroughput", "StorageType"}:
        return {"AllocatedStorage": ALLOCATED_STORAGE.seen(target.raw), "Iops": iops} | parameters
    return parameters


def missing_roles(source: Instance, target: Instance) -> tuple[tuple[str, str], ...]:
    """(role ARN, feature) of the source that the target lacks.

    A cluster's may be for none, and is then asked for without; an instance's is always for one (RDS API reference:
    AddRoleToDBCluster, AddRoleToDBInstance).
    """
    return tuple(sorted(set(_roles(source.raw)) - set(_roles(target.raw))))


def missing_tags(source: Instance, target: Instance) -> dict[str, str]:
    return {name: value for name, value in carried_tags(source.tags).items() if target.tags.get(name) != value}


def carried_tags(tags: Mapping[str, str]) -> dict[str, str]:
    """The owner's own tags. Reserved ones cannot be set, a rotation's own say who made what, and the opt-in tags move
    at the release: before it the fleet must go on finding the source.

    >>> carried_tags({"team": "pay", "aws:cloudformation:stack-id": "s", "key-rotation:enabled": "true"})
    {'team': 'pay'}
    """
    own = names.owners_tags(tags)
    return {name: value for name, value in own.items() if not name.startswith(("rds:", names.OPT_IN))}


def _roles(raw: Raw) -> tuple[tuple[str, str], ...]:
    return tuple(
        sorted(
            (role["RoleArn"], role.get("FeatureName") or "")
            for role in raw.get("AssociatedRoles") or ()
            if role.get("Status") != "DELETING"
        )
    )
