"""The settings of an instance: RDS's defaults, and what a request may choose."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from typing import Any

from sandbox.rds.engines import Kind
from sandbox.rds.errors import instance_exists, invalid_combination, invalid_value, refuse
from sandbox.rds.events import Events
from sandbox.rds.operations import Params
from sandbox.rds.orderable import classes_of
from sandbox.rds.resources import DEFAULTS, View
from sandbox.rds.security_groups import SecurityGroups
from sandbox.rds.windows import DAYS, refusal

INSTANCE_QUOTA = 40
STORAGE_QUOTA_GIB = 100_000
IDENTIFIER = re.compile(r"(?!.*--)[a-z]([a-z0-9-]{0,61}[a-z0-9])?")


class Settings(SecurityGroups, Events):
    """Checks and defaults."""

    def _new_name(self, name: str, *, renaming: bool = False) -> str:
        name = name.lower()
        if not IDENTIFIER.fullmatch(name):
            raise invalid_value(
                "The parameter DBInstanceIdentifier is not a valid identifier. Identifiers must begin with a letter; "
                "must contain only ASCII letters, digits, and hyphens; and must not end with a hyphen or contain two "
                "consecutive hyphens."
            )
        pending = (i.pending.get("DBInstanceIdentifier") for i in self.databases.values())
        if name in self.databases or name in pending:
            raise instance_exists()
        if not renaming and len(self.databases) >= INSTANCE_QUOTA:
            raise refuse("InstanceQuotaExceeded", "The quota of DB instances would be exceeded.")
        return name

    def _kind(self, name: str, version: str | None = None) -> Kind:
        try:
            kind = self.engines.kind(name)
        except KeyError as unknown:
            raise invalid_value(f"Invalid DB engine: {name}. {unknown.args[0]}") from None
        if version and not kind.takes(version):
            raise invalid_combination(f"Cannot find version {version} for {name}")
        return kind

    def _database(self, params: Params, kind: Kind) -> str | None:
        """What RDS makes with the instance; for Oracle that is its SID."""
        name: str | None = params.get("DBName")
        if name and not kind.longest_database_name:
            raise invalid_value(f"DBName must be null for engine: {kind.name}")
        if name and len(name) > kind.longest_database_name:
            raise invalid_value(
                f"The parameter DBName is not valid: {kind.name} takes {kind.longest_database_name} characters at most."
            )
        return name or kind.default_database

    def _storage(self, params: Params) -> int:
        size = params.get("AllocatedStorage")
        if size is None:
            raise invalid_value("The parameter AllocatedStorage must be provided.")
        if int(size) < 20:
            raise invalid_value(f"Invalid storage size for engine name {params['Engine']} and storage type gp3: {size}")
        used = sum(i.settings["AllocatedStorage"] for i in self.databases.values())
        if used + int(size) > STORAGE_QUOTA_GIB:
            raise refuse("StorageQuotaExceeded", "The quota of storage would be exceeded.")
        return int(size)

    def _defaults(self, name: str, kind: Kind, given: View | None = None) -> View:
        """What RDS chooses where nothing is ``given``."""
        # RDS draws the windows at random; drawn from the name, they are the same in every run.
        draw = int.from_bytes(hashlib.sha256(name.encode()).digest()[:6], "big")
        start = 20 * 60 + draw % 16 * 30
        day = DAYS[draw // 16 % 7]
        other = (start + 240) % 1440
        # Never over the other window, where only that one is given.
        if backup := (given or {}).get("PreferredBackupWindow"):
            other = (int(backup[:2]) * 60 + 720) % 1440
        elif maintenance := (given or {}).get("PreferredMaintenanceWindow"):
            start = (int(maintenance[4:6]) * 60 + 720) % 1440
        subnets = (given or {}).get("SubnetGroup") or self._subnet_group(None)
        return {
            **DEFAULTS,
            "AvailabilityZone": f"{self.region_name}a",
            "Engine": kind.name,
            "EngineVersion": kind.full((given or {}).get("EngineVersion")),
            "LicenseModel": kind.license_model,
            "OptionGroup": kind.option_group,
            "ParameterGroup": kind.parameter_group,
            "Port": kind.port,
            "PreferredBackupWindow": f"{_clock(start)}-{_clock(start + 30)}",
            "PreferredMaintenanceWindow": f"{day}:{_clock(other)}-{day}:{_clock(other + 30)}",
            "SecurityGroups": [self._default_security_group(subnets["VpcId"])],
            "SubnetGroup": subnets,
        }

    def _chosen(self, params: Params, kind: Kind, subnets: View | None = None) -> View:
        """The settings that a request names, checked. ``subnets``: where it is if the request does not say."""
        same_name = (
            "AutoMinorVersionUpgrade", "AvailabilityZone", "BackupRetentionPeriod", "CACertificateIdentifier",
            "CopyTagsToSnapshot", "DBInstanceClass", "DatabaseInsightsMode", "DedicatedLogVolume",
            "DeletionProtection", "EngineLifecycleSupport", "Iops", "LicenseModel", "MaxAllocatedStorage",
            "MonitoringInterval", "MonitoringRoleArn", "MultiAZ", "NetworkType", "PerformanceInsightsRetentionPeriod",
            "Port", "PreferredBackupWindow", "PreferredMaintenanceWindow", "PubliclyAccessible", "StorageThroughput",
            "StorageType", "AllocatedStorage",
        )  # fmt: skip
        chosen = {member: params[member] for member in same_name if params.get(member) is not None}
        if chosen.get("MultiAZ") and chosen.get("AvailabilityZone"):
            # RDS's words: terraform-provider-aws, issue 485.
            raise invalid_combination("Requesting a specific availability zone is not valid for Multi-AZ instances.")
        if (name := chosen.get("DBInstanceClass")) and name not in classes_of(kind):
            raise invalid_combination(
                "RDS does not support creating a DB instance with the following combination: "
                f"DBInstanceClass={name}, Engine={kind.name}."
            )
        licenses = (kind.license_model, *kind.other_license_models)
        if (license_model := chosen.get("LicenseModel", licenses[0])) not in licenses:
            raise invalid_combination(
                f"Invalid license model '{license_model}' for engine '{kind.name}'. Valid license models are: "
                f"{', '.join(licenses)}."
            )
        if "BackupRetentionPeriod" in chosen:
            retention_of(chosen["BackupRetentionPeriod"])
        if "MonitoringInterval" in chosen and bool(chosen["MonitoringInterval"]) != bool(
            chosen.get("MonitoringRoleArn")
        ):
            if chosen["MonitoringInterval"]:
                raise invalid_combination(
                    "A MonitoringRoleARN value is required if you specify a MonitoringInterval value other than 0."
                )
            raise invalid_combination(
                "You must specify a MonitoringInterval value other than 0 when you specify a MonitoringRoleARN value."
            )
        for window in ("PreferredBackupWindow", "PreferredMaintenanceWindow"):
            if window in chosen:
                chosen[window] = str(chosen[window]).lower()
        if "PreferredBackupWindow" in chosen and "PreferredMaintenanceWindow" in chosen:
            self._check_windows(chosen["PreferredMaintenanceWindow"], chosen["PreferredBackupWindow"])
        if (authentication := params.get("EnableIAMDatabaseAuthentication")) is not None:
            chosen["IAMDatabaseAuthenticationEnabled"] = authentication
        if (exports := params.get("EnableCloudwatchLogsExports")) is not None:
            chosen["EnabledCloudwatchLogsExports"] = list(exports)
        if (insights := params.get("EnablePerformanceInsights")) is not None:
            chosen["PerformanceInsightsEnabled"] = insights
            if insights:
                # Not the storage's key: Performance Insights has one of its own.
                chosen["PerformanceInsightsKMSKeyId"] = self.keys.accept(params.get("PerformanceInsightsKMSKeyId"))
                chosen.setdefault("PerformanceInsightsRetentionPeriod", 7)
        if name := params.get("DBSubnetGroupName"):
            chosen["SubnetGroup"] = subnets = self._subnet_group(name)
        if groups := self._named_groups(params, (subnets or self._subnet_group(None))["VpcId"]):
            chosen["SecurityGroups"] = groups
        if group := params.get("DBParameterGroupName"):
            group = group.lower()
            if group not in self.db_parameter_groups:
                raise refuse("DBParameterGroupNotFound", f"DBParameterGroup not found: {group}")
            if (family := self.db_parameter_groups[group].family) != kind.family:
                raise invalid_combination(
                    f"The parameter group {group} with DBParameterGroupFamily {family} can't be used for this instance."
                    f" Please use a parameter group with DBParameterGroupFamily {kind.family}"
                )
            chosen["ParameterGroup"] = group
        if group := params.get("OptionGroupName"):
            if group not in self.option_groups and not group.startswith(f"default:{kind.name}-"):
                raise refuse("OptionGroupNotFoundFault", f"Specified OptionGroupName: {group} not found.")
            chosen["OptionGroup"] = group
        return chosen

    def _check_windows(self, maintenance: Any, backup: Any) -> None:
        if message := refusal(maintenance, backup):
            raise invalid_value(message)

    def _subnet_group(self, name: str | None) -> View:
        if name and name != "default":
            if name not in self.subnet_groups:
                raise refuse("DBSubnetGroupNotFoundFault", f"DB subnet group '{name}' does not exist.")
            group = self.subnet_groups[name]
            return {
                "DBSubnetGroupName": group.name,
                "DBSubnetGroupDescription": group.description,
                "DBSubnetGroupArn": group.arn,
                "VpcId": group.vpc_id,
                "SubnetGroupStatus": "Complete",
                "Subnets": group.subnets,
            }
        vpc = self._ec2.default_vpc
        subnets = [s for zone in self._ec2.subnets.values() for s in zone.values() if s.vpc_id == vpc.id]
        return {
            "DBSubnetGroupName": "default",
            "DBSubnetGroupDescription": "default",
            "DBSubnetGroupArn": self.arn_of("subgrp", "default"),
            "VpcId": vpc.id,
            "SubnetGroupStatus": "Complete",
            "Subnets": [
                {
                    "SubnetIdentifier": subnet.id,
                    "SubnetAvailabilityZone": {"Name": subnet.availability_zone},
                    "SubnetStatus": "Active",
                }
                for subnet in subnets
            ],
        }


def tags_of(params: Params) -> list[dict[str, str]]:
    tags = [{"Key": tag["Key"], "Value": tag.get("Value") or ""} for tag in params.get("Tags") or ()]
    check_tags(tags)
    return tags


def check_tags(tags: Iterable[Mapping[str, str]]) -> None:
    for tag in tags:
        if tag["Key"].lower().startswith(("aws:", "rds:")):
            raise invalid_value(f"Tag key {tag['Key']} begins with a reserved prefix.")


def retention_of(days: int) -> int:
    if not 0 <= int(days) <= 35:
        raise invalid_value(f"Invalid backup retention period: {days}. Must be between 0 and 35.")
    return int(days)


def check_password(password: str | None) -> None:
    if not password:
        raise invalid_value("The parameter MasterUserPassword must be provided and must not be blank.")
    if not 8 <= len(password) <= 128:
        raise invalid_value(
            "The parameter MasterUserPassword is not a valid password because it is shorter than 8 characters."
        )
    if re.search(r"[/@\" ]|[^ -~]", password):
        raise invalid_value(
            "The parameter MasterUserPassword is not a valid password. Only printable ASCII characters besides "
            "'/', '@', '\"', ' ' may be used."
        )


def check_master_password(params: Params) -> None:
    """Of something new: one that is given, or RDS's own."""
    if not params.get("ManageMasterUserPassword"):
        check_password(params.get("MasterUserPassword"))
    elif params.get("MasterUserPassword"):
        raise invalid_combination(
            "You can't specify MasterUserPassword for an instance with ManageMasterUserPassword enabled."
        )


def _clock(minutes: int) -> str:
    return f"{minutes // 60 % 24:02}:{minutes % 60:02}"
