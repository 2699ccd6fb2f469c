"""Which permissions a call needs: the sandbox's claim about AWS, one row per operation.

From the Service Authorization Reference; a test compares actions and resource types with its tables. One call may need
several permissions: tags in a request are authorised a second time as the tagging action, a role handed over needs
``iam:PassRole``, and data under a customer's key needs the key. What RDS needs of its caller's keys is asked by the
sandbox's RDS itself, which knows the key. An operation without a row is refused: teach it here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from sandbox.iam.evaluate import Context
from sandbox.iam.inventory import PARTITION, Inventory, alias_of

ANY = "*"
NEW_KEY = "key/00000000-0000-0000-0000-000000000000"
"""Stands for the id that a key will get."""


@dataclass(frozen=True)
class Check:
    """One permission asked for. ``context``: what the request adds; the resource's tags and facts are looked up."""

    action: str
    resource: str
    context: Context = field(default_factory=dict)


@dataclass(frozen=True)
class Call:
    """One API call: the parameters have the names of the SDK."""

    service: str
    operation: str
    params: Mapping[str, Any]
    inventory: Inventory

    @property
    def action(self) -> str:
        return f"{self.service}:{self.operation}"

    def get(self, name: str, default: str = "") -> str:
        value = self.params.get(name)
        return default if value is None else str(value)

    def here(self, resource: str, service: str = "") -> str:
        return self.inventory.arn(service or self.service, resource)


Row = Callable[[Call], Iterable[Check]]
TABLE: dict[tuple[str, str], Row] = {}


def row(service: str, *operations: str) -> Callable[[Row], Row]:
    def register(function: Row) -> Row:
        for operation in operations:
            TABLE[service, operation] = function
        return function

    return register


def anywhere(service: str, *operations: str) -> None:
    """Actions that AWS knows no resource for."""
    row(service, *operations)(lambda call: [Check(call.action, ANY)])


def on(service: str, resource: Callable[[Call], str], *operations: str) -> None:
    """Actions on one resource, without anything special."""
    row(service, *operations)(lambda call: [Check(call.action, resource(call))])


def request_tags(tags: Any, service: str = "") -> dict[str, str | list[str]]:
    """Condition keys of the tags that a request carries, whatever shape the service gives them."""
    pairs = (
        tags
        if isinstance(tags, Mapping)
        else {
            next(tag[name] for name in ("Key", "TagKey", "key") if name in tag): next(
                (tag[name] for name in ("Value", "TagValue", "value") if name in tag), ""
            )
            for tag in tags or ()
        }
    )
    context: dict[str, str | list[str]] = {f"aws:RequestTag/{key}": str(value) for key, value in pairs.items()}
    if service == "rds":
        context |= {f"rds:req-tag/{key}": str(value) for key, value in pairs.items()}
    return context | ({"aws:TagKeys": list(pairs)} if pairs else {})


def pass_role(call: Call, role: Any, service: str, resource: str = "") -> Iterator[Check]:
    if role:
        context: dict[str, str | list[str]] = {"iam:PassedToService": service}
        if resource:
            context["iam:AssociatedResourceArn"] = resource
        yield Check("iam:PassRole", call.inventory.role_arn(str(role)), context)


def with_key(
    call: Call, key_id: Any, service: str, *actions: str, context: Mapping[str, str] | None = None
) -> Iterator[Check]:
    """Use of a customer's key by ``service`` in the caller's name. AWS managed keys let the account use them."""
    if not call.inventory.is_customer_key(None if key_id is None else str(key_id)):
        return
    through: dict[str, str | list[str]] = {"kms:ViaService": f"{service}.{call.inventory.region}.amazonaws.com"}
    for name, value in (context or {}).items():
        through[f"kms:EncryptionContext:{name}"] = value
    if context:
        through["kms:EncryptionContextKeys"] = list(context)
    for action in actions:
        yield Check(f"kms:{action}", call.inventory.key_arn(str(key_id)), through)


# -- RDS ---------------------------------------------------------------------------------------------------------------


_LOWER_CASE = ("cluster", "cluster-snapshot", "db", "snapshot")


def rds_arn(kind: str, *parameters: str) -> Callable[[Call], str]:
    """The ARN named by the first of these parameters that is present, or every one of its kind."""

    def resource(call: Call) -> str:
        name = next((str(call.params[parameter]) for parameter in parameters if call.params.get(parameter)), ANY)
        return name if name.startswith("arn:") else call.here(f"{kind}:{name.lower() if kind in _LOWER_CASE else name}")

    return resource


_db, _snapshot = rds_arn("db", "DBInstanceIdentifier"), rds_arn("snapshot", "DBSnapshotIdentifier")


def _proxy(call: Call) -> str:
    """Proxies and their target groups have ids in their ARNs; a policy cannot know them by name."""
    proxy = call.inventory.db_proxy(call.get("DBProxyName"))
    return str(proxy.arn) if proxy else call.here(f"db-proxy:{ANY}")


def _target_group(call: Call) -> str:
    proxy = call.inventory.db_proxy(call.get("DBProxyName"))
    return str(proxy.proxy_target_groups["default"].arn) if proxy else call.here(f"target-group:{ANY}")


anywhere(
    "rds", "DescribeAccountAttributes", "DescribeCertificates", "DescribeDBEngineVersions",
    "DescribeEngineDefaultParameters", "DescribeEventCategories", "DescribeEvents", "DescribeOptionGroupOptions",
    "DescribeOrderableDBInstanceOptions", "DescribeReservedDBInstancesOfferings", "DescribeSourceRegions",
)  # fmt: skip
on(
    "rds", _db, "DescribeDBInstances", "DescribeDBLogFiles", "DescribeValidDBInstanceModifications",
    "DownloadDBLogFilePortion", "PromoteReadReplica", "RebootDBInstance", "StartDBInstance", "StopDBInstance",
    "SwitchoverReadReplica",
)  # fmt: skip
on("rds", _snapshot, "DescribeDBSnapshotAttributes", "DeleteDBSnapshot", "ModifyDBSnapshotAttribute")
on(
    "rds", rds_arn("pg", "DBParameterGroupName"), "DescribeDBParameterGroups", "DescribeDBParameters",
    "ModifyDBParameterGroup", "ResetDBParameterGroup", "DeleteDBParameterGroup",
)  # fmt: skip
on("rds", rds_arn("og", "OptionGroupName"), "DescribeOptionGroups", "ModifyOptionGroup", "DeleteOptionGroup")
on(
    "rds",
    rds_arn("subgrp", "DBSubnetGroupName"),
    "DescribeDBSubnetGroups",
    "ModifyDBSubnetGroup",
    "DeleteDBSubnetGroup",
)
on("rds", rds_arn("secgrp", "DBSecurityGroupName"), "DescribeDBSecurityGroups")
on(
    "rds", rds_arn("es", "SubscriptionName"), "DescribeEventSubscriptions", "AddSourceIdentifierToSubscription",
    "RemoveSourceIdentifierFromSubscription", "ModifyEventSubscription", "DeleteEventSubscription",
)  # fmt: skip
on("rds", rds_arn("ri", "ReservedDBInstanceId"), "DescribeReservedDBInstances")
on("rds", _proxy, "DescribeDBProxies", "DescribeDBProxyTargetGroups")
on("rds", rds_arn("db", "ResourceIdentifier"), "ApplyPendingMaintenanceAction")
on("rds", rds_arn("integration", "IntegrationIdentifier"), "DescribeIntegrations")
on("rds", rds_arn("tenant-database", "TenantDBName"), "DescribeTenantDatabases")
on("rds", rds_arn("snapshot", "SourceArn"), "DescribeExportTasks")
on("rds", rds_arn("auto-backup", "DBInstanceAutomatedBackupsArn", "DbiResourceId"), "DeleteDBInstanceAutomatedBackup")
on("rds", rds_arn("db", "SourceDBInstanceArn"), "StopDBInstanceAutomatedBackupsReplication")
on("rds", rds_arn("db", "ResourceName"), "ListTagsForResource")


@row("rds", "DescribeDBProxyTargets")
def _describe_proxy_targets(call: Call) -> Iterator[Check]:
    yield Check(call.action, _proxy(call))
    yield Check(call.action, _target_group(call))


@row("rds", "DescribeDBSnapshots")
def _describe_snapshots(call: Call) -> Iterator[Check]:
    by_db = call.params.get("DBInstanceIdentifier") and not call.params.get("DBSnapshotIdentifier")
    yield Check(call.action, _db(call) if by_db else _snapshot(call))


@row("rds", "DescribeDBInstanceAutomatedBackups")
def _describe_automated_backups(call: Call) -> Iterator[Check]:
    by_db = _db(call)
    yield Check(
        call.action,
        by_db
        if call.params.get("DBInstanceIdentifier")
        else rds_arn("auto-backup", "DBInstanceAutomatedBackupsArn", "DbiResourceId")(call),
    )


def _db_parts(call: Call, source: Any = None, *, always: bool) -> Iterator[str]:
    """Option, parameter and subnet group of a database: those asked for, else (``always``) those it will get."""
    inherited = {
        "og": getattr(source, "option_group_name", None),
        "pg": getattr(source, "db_parameter_group_name", None),
        "subgrp": getattr(getattr(source, "db_subnet_group", None), "name", None),
    }
    asked = {"og": "OptionGroupName", "pg": "DBParameterGroupName", "subgrp": "DBSubnetGroupName"}
    for kind, parameter in asked.items():
        name = call.params.get(parameter)
        if name or always:
            yield call.here(f"{kind}:{name or inherited[kind] or 'default'}")


def add_tags(call: Call, resource: str) -> Iterator[Check]:
    if call.params.get("Tags"):
        yield Check("rds:AddTagsToResource", resource, request_tags(call.params["Tags"], "rds"))


def new_db_context(call: Call) -> dict[str, str | list[str]]:
    context = request_tags(call.params.get("Tags"), "rds")
    for parameter, key in {
        "PubliclyAccessible": "rds:PubliclyAccessible",
        "ManageMasterUserPassword": "rds:ManageMasterUserPassword",
        "BackupTarget": "rds:BackupTarget",
        "Engine": "rds:DatabaseEngine",
        "DBInstanceClass": "rds:DatabaseClass",
        "DBName": "rds:DatabaseName",
        "StorageEncrypted": "rds:StorageEncrypted",
    }.items():
        if call.params.get(parameter) is not None:
            context[key] = (
                str(call.params[parameter]).lower() if isinstance(call.params[parameter], bool) else call.get(parameter)
            )
    return context


@row("rds", "DescribePendingMaintenanceActions")
def _pending_maintenance(call: Call) -> Iterator[Check]:
    """On the kind that a filter names."""
    filters = {one["Name"] for one in call.params.get("Filters") or () if isinstance(one, dict)}
    kind = "cluster" if filters == {"db-cluster-id"} else "db"
    yield Check(call.action, rds_arn(kind, "ResourceIdentifier")(call))


@row(
    "rds",
    "CreateDBInstance",
    "CreateDBInstanceReadReplica",
    "RestoreDBInstanceFromDBSnapshot",
    "RestoreDBInstanceToPointInTime",
)
def _new_db(call: Call) -> Iterator[Check]:
    context = new_db_context(call)
    target = rds_arn("db", "DBInstanceIdentifier", "TargetDBInstanceIdentifier")(call)
    source_id = call.get("SourceDBInstanceIdentifier")
    source = call.inventory.db_instance(source_id) if source_id else None
    yield Check(call.action, target, context)
    if source_id:
        yield Check(call.action, rds_arn("db", "SourceDBInstanceIdentifier")(call), context)
    elif call.params.get("SourceDbiResourceId"):
        yield Check(call.action, call.here(f"auto-backup:{call.get('SourceDbiResourceId')}"), context)
    if call.operation == "CreateDBInstance" and call.params.get("DBClusterIdentifier"):
        yield Check(call.action, rds_arn("cluster", "DBClusterIdentifier")(call), context)
    if call.operation == "RestoreDBInstanceFromDBSnapshot":
        yield Check(call.action, _snapshot(call), context)
    for part in _db_parts(call, source, always=True):
        yield Check(call.action, part, context)
    yield from add_tags(call, target)
    yield from manage_password(call, "db")
    yield from pass_role(call, call.params.get("MonitoringRoleArn"), "monitoring.rds.amazonaws.com", target)
    yield from pass_role(call, call.params.get("DomainIAMRoleName"), "rds.amazonaws.com", target)


def modified(call: Call, kind: str, name: str, parts: Iterable[str]) -> Iterator[Check]:
    """What is changed has its name in ``<name>Identifier``; ``parts`` are what it gets."""
    managed = call.params.get("ManageMasterUserPassword")
    context: dict[str, str | list[str]] = (
        {} if managed is None else {"rds:ManageMasterUserPassword": str(managed).lower()}
    )
    yield Check(call.action, rds_arn(kind, f"{name}Identifier")(call), context)
    if call.params.get(f"New{name}Identifier"):
        # A rename is a change to the name it takes as well.
        yield Check(call.action, rds_arn(kind, f"New{name}Identifier")(call), context)
    for part in parts:
        yield Check(call.action, part, context)
    yield from manage_password(call, kind)


def manage_password(call: Call, kind: str) -> Iterator[Check]:
    """RDS makes a secret in its caller's name (RDS User Guide: permissions for the Secrets Manager integration)."""
    if not call.params.get("ManageMasterUserPassword"):
        return
    secret = call.here(f"secret:rds!{kind}-new", "secretsmanager")
    yield Check("secretsmanager:CreateSecret", secret)
    yield Check("secretsmanager:TagResource", secret)
    yield from with_key(call, call.params.get("MasterUserSecretKmsKeyId"), "rds", "DescribeKey")


@row("rds", "ModifyDBInstance")
def _modify_db(call: Call) -> Iterator[Check]:
    yield from modified(call, "db", "DBInstance", _db_parts(call, always=False))
    yield from pass_role(call, call.params.get("MonitoringRoleArn"), "monitoring.rds.amazonaws.com", _db(call))
    yield from pass_role(call, call.params.get("DomainIAMRoleName"), "rds.amazonaws.com", _db(call))


@row("rds", "DeleteDBInstance")
def _delete_db(call: Call) -> Iterator[Check]:
    yield Check(call.action, _db(call))
    if call.params.get("FinalDBSnapshotIdentifier"):
        yield Check("rds:CreateDBSnapshot", _db(call))
        yield Check("rds:CreateDBSnapshot", rds_arn("snapshot", "FinalDBSnapshotIdentifier")(call))


@row("rds", "CreateDBSnapshot")
def _create_snapshot(call: Call) -> Iterator[Check]:
    context = request_tags(call.params.get("Tags"), "rds")
    yield Check(call.action, _db(call), context)
    yield Check(call.action, _snapshot(call), context)
    yield from add_tags(call, _snapshot(call))


@row("rds", "CopyDBSnapshot")
def _copy_snapshot(call: Call) -> Iterator[Check]:
    context = request_tags(call.params.get("Tags"), "rds")
    target = rds_arn("snapshot", "TargetDBSnapshotIdentifier")(call)
    yield Check(call.action, rds_arn("snapshot", "SourceDBSnapshotIdentifier")(call), context)
    yield Check(call.action, target, context)
    yield from add_tags(call, target)


@row("rds", "ModifyDBSnapshot")
def _modify_snapshot(call: Call) -> Iterator[Check]:
    yield Check(call.action, _snapshot(call))
    if call.params.get("OptionGroupName"):
        yield Check(call.action, rds_arn("og", "OptionGroupName")(call))


def new_rds_thing(operation: str, kind: str, parameter: str) -> None:
    @row("rds", operation)
    def new(call: Call) -> Iterator[Check]:
        resource = rds_arn(kind, parameter)(call)
        yield Check(call.action, resource, request_tags(call.params.get("Tags"), "rds"))
        yield from add_tags(call, resource)


new_rds_thing("CreateDBParameterGroup", "pg", "DBParameterGroupName")
new_rds_thing("CreateOptionGroup", "og", "OptionGroupName")
new_rds_thing("CreateDBSubnetGroup", "subgrp", "DBSubnetGroupName")
new_rds_thing("CreateEventSubscription", "es", "SubscriptionName")


@row("rds", "CopyDBParameterGroup", "CopyOptionGroup")
def _copy_group(call: Call) -> Iterator[Check]:
    kind, name = ("pg", "DBParameterGroup") if "Parameter" in call.operation else ("og", "OptionGroup")
    context = request_tags(call.params.get("Tags"), "rds")
    target = rds_arn(kind, f"Target{name}Identifier")(call)
    yield Check(call.action, rds_arn(kind, f"Source{name}Identifier")(call), context)
    yield Check(call.action, target, context)
    yield from add_tags(call, target)


@row("rds", "AddTagsToResource")
def _tag_rds(call: Call) -> Iterator[Check]:
    yield Check(call.action, rds_arn("db", "ResourceName")(call), request_tags(call.params.get("Tags"), "rds"))


@row("rds", "RemoveTagsFromResource")
def _untag_rds(call: Call) -> Iterator[Check]:
    yield Check(call.action, rds_arn("db", "ResourceName")(call), {"aws:TagKeys": list(call.params.get("TagKeys", []))})


@row("rds", "AddRoleToDBInstance")
def _add_role(call: Call) -> Iterator[Check]:
    yield Check(call.action, _db(call))
    yield from pass_role(call, call.params.get("RoleArn"), "rds.amazonaws.com", _db(call))


on("rds", _db, "RemoveRoleFromDBInstance")


@row("rds", "RegisterDBProxyTargets", "DeregisterDBProxyTargets")
def _proxy_targets(call: Call) -> Iterator[Check]:
    yield Check(call.action, _target_group(call))
    if call.operation == "DeregisterDBProxyTargets":
        yield Check(call.action, _proxy(call))
        for kind, parameter in (("db", "DBInstanceIdentifiers"), ("cluster", "DBClusterIdentifiers")):
            for identifier in call.params.get(parameter, []):
                yield Check(call.action, call.here(f"{kind}:{identifier.lower()}"))


@row("rds", "StartDBInstanceAutomatedBackupsReplication")
def _replicate_backups(call: Call) -> Iterator[Check]:
    yield Check(call.action, rds_arn("db", "SourceDBInstanceArn")(call), request_tags(call.params.get("Tags"), "rds"))
    yield Check(call.action, call.here("auto-backup:*"), request_tags(call.params.get("Tags"), "rds"))
    yield from add_tags(call, call.here("auto-backup:*"))


# -- KMS ---------------------------------------------------------------------------------------------------------------


def _key_check(call: Call, key_id: str, action: str = "", context: Context | None = None) -> Check:
    merged = dict(context or {})
    if alias := alias_of(key_id):
        merged["kms:RequestAlias"] = alias
    return Check(action or call.action, call.inventory.key_arn(key_id), merged)


def _encryption_context(call: Call, parameter: str = "EncryptionContext") -> dict[str, str | list[str]]:
    pairs = call.params.get(parameter) or {}
    context: dict[str, str | list[str]] = {f"kms:EncryptionContext:{key}": str(value) for key, value in pairs.items()}
    return context | ({"kms:EncryptionContextKeys": list(pairs)} if pairs else {})


anywhere("kms", "ListAliases", "ListKeys", "ListRetirableGrants", "GenerateRandom")


@row(
    "kms", "DescribeKey", "EnableKey", "DisableKey", "DisableKeyRotation", "CancelKeyDeletion", "GetKeyPolicy",
    "ListKeyPolicies", "GetKeyRotationStatus", "ListKeyRotations", "GetKeyLastUsage", "ListGrants",
    "ListResourceTags", "RotateKeyOnDemand", "UpdateKeyDescription", "GetPublicKey",
)  # fmt: skip
def _on_key(call: Call) -> Iterator[Check]:
    yield _key_check(call, call.get("KeyId"))


@row("kms", "Encrypt", "GenerateDataKey", "GenerateDataKeyWithoutPlaintext")
def _use_key(call: Call) -> Iterator[Check]:
    yield _key_check(call, call.get("KeyId"), context=_encryption_context(call))


@row("kms", "Decrypt")
def _decrypt(call: Call) -> Iterator[Check]:
    key_id = call.get("KeyId") or _key_of_ciphertext(call.params.get("CiphertextBlob"))
    yield _key_check(call, key_id, context=_encryption_context(call))


@row("kms", "ReEncrypt")
def _re_encrypt(call: Call) -> Iterator[Check]:
    source = call.get("SourceKeyId") or _key_of_ciphertext(call.params.get("CiphertextBlob"))
    yield _key_check(call, source, "kms:ReEncryptFrom", _encryption_context(call, "SourceEncryptionContext"))
    yield _key_check(
        call, call.get("DestinationKeyId"), "kms:ReEncryptTo", _encryption_context(call, "DestinationEncryptionContext")
    )


def _key_of_ciphertext(blob: Any) -> str:
    """moto's ciphertext begins with the id of its key."""
    return bytes(blob or b"")[:36].decode("ascii", errors="replace").rstrip("\0")


@row("kms", "CreateKey")
def _create_key(call: Call) -> Iterator[Check]:
    context: dict[str, str | list[str]] = {
        "kms:KeySpec": call.get("KeySpec") or call.get("CustomerMasterKeySpec", "SYMMETRIC_DEFAULT"),
        "kms:KeyUsage": call.get("KeyUsage", "ENCRYPT_DECRYPT"),
        "kms:KeyOrigin": call.get("Origin", "AWS_KMS"),
        "kms:MultiRegion": str(bool(call.params.get("MultiRegion"))).lower(),
        "kms:BypassPolicyLockoutSafetyCheck": str(bool(call.params.get("BypassPolicyLockoutSafetyCheck"))).lower(),
        **request_tags(call.params.get("Tags")),
    }
    yield Check(call.action, ANY, context)
    if call.params.get("Tags"):
        yield Check("kms:TagResource", call.here(NEW_KEY), request_tags(call.params["Tags"]))


@row("kms", "CreateAlias", "DeleteAlias", "UpdateAlias")
def _alias(call: Call) -> Iterator[Check]:
    alias = call.get("AliasName")
    yield Check(call.action, call.here(alias))
    current = call.inventory.key(alias)
    if call.operation != "CreateAlias" and current is not None:
        yield Check(call.action, current.arn)
    if call.params.get("TargetKeyId"):
        yield Check(call.action, call.inventory.key_arn(call.get("TargetKeyId")))


@row("kms", "CreateGrant")
def _create_grant(call: Call) -> Iterator[Check]:
    context: dict[str, str | list[str]] = {
        "kms:GrantIsForAWSResource": "false",
        "kms:GrantOperations": list(call.params.get("Operations", [])),
        "kms:GranteePrincipal": call.get("GranteePrincipal"),
    }
    if call.params.get("RetiringPrincipal"):
        context["kms:RetiringPrincipal"] = call.get("RetiringPrincipal")
    if constraints := call.params.get("Constraints"):
        context["kms:GrantConstraintType"] = next(iter(constraints))
    yield _key_check(call, call.get("KeyId"), context=context)


@row("kms", "RevokeGrant", "RetireGrant")
def _end_grant(call: Call) -> Iterator[Check]:
    yield _key_check(call, call.get("KeyId"), context={"kms:GrantIsForAWSResource": "false"})


@row("kms", "EnableKeyRotation")
def _enable_rotation(call: Call) -> Iterator[Check]:
    yield _key_check(
        call, call.get("KeyId"), context={"kms:RotationPeriodInDays": call.get("RotationPeriodInDays", "365")}
    )


@row("kms", "ScheduleKeyDeletion")
def _schedule_key_deletion(call: Call) -> Iterator[Check]:
    window = call.get("PendingWindowInDays", "30")
    yield _key_check(call, call.get("KeyId"), context={"kms:ScheduleKeyDeletionPendingWindowInDays": window})


@row("kms", "PutKeyPolicy")
def _put_key_policy(call: Call) -> Iterator[Check]:
    bypass = str(bool(call.params.get("BypassPolicyLockoutSafetyCheck"))).lower()
    yield _key_check(call, call.get("KeyId"), context={"kms:BypassPolicyLockoutSafetyCheck": bypass})


@row("kms", "TagResource")
def _tag_key(call: Call) -> Iterator[Check]:
    yield _key_check(call, call.get("KeyId"), context=request_tags(call.params.get("Tags")))


@row("kms", "UntagResource")
def _untag_key(call: Call) -> Iterator[Check]:
    yield _key_check(call, call.get("KeyId"), context={"aws:TagKeys": list(call.params.get("TagKeys", []))})


# -- Route 53 ----------------------------------------------------------------------------------------------------------


def _route53(resource: str) -> str:
    return f"arn:{PARTITION}:route53:::{resource}"


def _zone(call: Call) -> str:
    return _route53("hostedzone/" + (call.get("HostedZoneId") or call.get("Id")).rsplit("/", 1)[-1])


anywhere(
    "route53", "ListHostedZones", "ListHostedZonesByName", "TestDNSAnswer", "CreateHostedZone",
    "GetHostedZoneCount", "ListHostedZonesByVPC",
)  # fmt: skip
on("route53", _zone, "GetHostedZone", "DeleteHostedZone", "ListResourceRecordSets")
on("route53", lambda call: _route53("change/" + call.get("Id").rsplit("/", 1)[-1]), "GetChange")
on(
    "route53",
    lambda call: _route53(f"{call.get('ResourceType')}/{call.get('ResourceId')}"),
    "ListTagsForResource",
    "ChangeTagsForResource",
)


@row("route53", "ChangeResourceRecordSets")
def _change_records(call: Call) -> Iterator[Check]:
    changes = [dict(change) for change in call.params.get("ChangeBatch", {}).get("Changes", [])]
    context: dict[str, str | list[str]] = {
        "route53:ChangeResourceRecordSetsNormalizedRecordNames": _distinct(
            normalized(change["ResourceRecordSet"]["Name"]) for change in changes
        ),
        "route53:ChangeResourceRecordSetsRecordTypes": _distinct(
            change["ResourceRecordSet"]["Type"] for change in changes
        ),
        "route53:ChangeResourceRecordSetsActions": _distinct(change["Action"] for change in changes),
    }
    yield Check(call.action, _zone(call), context)


def normalized(name: str) -> str:
    """Lower case, no final dot; anything but a-z, 0-9, ``-``, ``_`` and ``.`` as a backslash and three octal digits."""
    escaped = re.sub(r"[^a-z0-9._\\-]", lambda found: f"\\{ord(found.group()):03o}", str(name).lower())
    return escaped.removesuffix(".")


def _distinct(values: Iterable[str]) -> list[str]:
    return sorted(set(values))


# -- Secrets Manager and Parameter Store -------------------------------------------------------------------------------


def _secret(call: Call) -> str:
    return call.inventory.secret_arn(call.get("SecretId"))


def _secret_check(call: Call, context: Context | None = None, action: str = "") -> Check:
    return Check(
        action or call.action, _secret(call), {"secretsmanager:SecretId": call.get("SecretId"), **(context or {})}
    )


anywhere("secretsmanager", "ListSecrets", "GetRandomPassword")


@row("secretsmanager", "DescribeSecret", "ListSecretVersionIds", "DeleteSecret", "RestoreSecret",
"GetResourcePolicy", "CancelRotateSecret")  # fmt: skip
def _on_secret(call: Call) -> Iterator[Check]:
    yield _secret_check(call)


@row("secretsmanager", "RotateSecret")
def _rotate_secret(call: Call) -> Iterator[Check]:
    function = call.get("RotationLambdaARN")
    at_once = call.params.get("RotateImmediately", True)
    context: dict[str, str | list[str]] = {"secretsmanager:RotateImmediately": str(bool(at_once)).lower()}
    if function:
        context["secretsmanager:RotationLambdaARN"] = function
    context["secretsmanager:ModifyRotationRules"] = str("RotationRules" in call.params).lower()
    yield _secret_check(call, context)
    function = function or str(getattr(call.inventory.secret(call.get("SecretId")), "rotation_lambda_arn", ""))
    if function:
        yield Check("lambda:InvokeFunction", function)


@row("secretsmanager", "UpdateSecretVersionStage")
def _stage_secret(call: Call) -> Iterator[Check]:
    yield _secret_check(call, {"secretsmanager:VersionStage": call.get("VersionStage")})


@row("secretsmanager", "GetSecretValue")
def _get_secret(call: Call) -> Iterator[Check]:
    yield _secret_check(call, {"secretsmanager:VersionStage": call.get("VersionStage", "AWSCURRENT")})
    yield from _secret_key(call, "Decrypt")


@row("secretsmanager", "PutSecretValue", "UpdateSecret")
def _put_secret(call: Call) -> Iterator[Check]:
    context: dict[str, str | list[str]] = {}
    if call.params.get("KmsKeyId"):
        context["secretsmanager:KmsKeyId"] = call.get("KmsKeyId")
    yield _secret_check(call, context)
    yield from _secret_key(call, "GenerateDataKey", "Decrypt")


def _secret_key(call: Call, *actions: str) -> Iterator[Check]:
    secret = call.inventory.secret(call.get("SecretId"))
    key_id = call.params.get("KmsKeyId") or getattr(secret, "kms_key_id", None)
    yield from with_key(call, key_id, "secretsmanager", *actions, context={"SecretARN": _secret(call)})


@row("secretsmanager", "CreateSecret")
def _create_secret(call: Call) -> Iterator[Check]:
    resource = call.here(f"secret:{call.get('Name')}-XXXXXX")
    tags = request_tags(call.params.get("Tags"))
    yield Check(call.action, resource, {"secretsmanager:Name": call.get("Name"), **tags})
    if tags:
        yield Check("secretsmanager:TagResource", resource, tags)
    yield from with_key(
        call,
        call.params.get("KmsKeyId"),
        "secretsmanager",
        "GenerateDataKey",
        "Decrypt",
        context={"SecretARN": resource},
    )


@row("secretsmanager", "TagResource")
def _tag_secret(call: Call) -> Iterator[Check]:
    yield _secret_check(call, request_tags(call.params.get("Tags")))


@row("secretsmanager", "UntagResource")
def _untag_secret(call: Call) -> Iterator[Check]:
    yield _secret_check(call, {"aws:TagKeys": list(call.params.get("TagKeys", []))})


def _parameter(call: Call, name: str) -> str:
    return name if name.startswith("arn:") else call.here(f"parameter/{name.removeprefix('/')}")


anywhere("ssm", "DescribeParameters")
on("ssm", lambda call: _parameter(call, call.get("ResourceId")), "ListTagsForResource")


@row(
    "ssm",
    "GetParameter",
    "GetParameters",
    "GetParameterHistory",
    "GetParametersByPath",
    "DeleteParameter",
    "DeleteParameters",
)
def _read_parameters(call: Call) -> Iterator[Check]:
    names = [str(name) for name in call.params.get("Names", [])] or [call.get("Name") or call.get("Path")]
    for name in names:
        yield Check(call.action, _parameter(call, name))
        if call.params.get("WithDecryption"):
            stored = call.inventory.backend("ssm").get_parameter(name)
            key_id = getattr(stored, "keyid", None) if getattr(stored, "type", "") == "SecureString" else None
            yield from with_key(call, key_id, "ssm", "Decrypt", context={"PARAMETER_ARN": _parameter(call, name)})


@row("ssm", "PutParameter")
def _put_parameter(call: Call) -> Iterator[Check]:
    resource, tags = _parameter(call, call.get("Name")), request_tags(call.params.get("Tags"))
    yield Check(call.action, resource, {"ssm:Overwrite": str(bool(call.params.get("Overwrite"))).lower(), **tags})
    if tags:
        yield Check("ssm:AddTagsToResource", resource, tags)
    if call.get("Type") == "SecureString":
        yield from with_key(call, call.params.get("KeyId"), "ssm", "Encrypt", context={"PARAMETER_ARN": resource})


@row("ssm", "AddTagsToResource")
def _tag_parameter(call: Call) -> Iterator[Check]:
    yield Check(call.action, _parameter(call, call.get("ResourceId")), request_tags(call.params.get("Tags")))


# -- SNS and SQS -------------------------------------------------------------------------------------------------------

anywhere(
    "sns", "ListTopics", "ListSubscriptions", "GetSubscriptionAttributes", "SetSubscriptionAttributes", "Unsubscribe"
)
on(
    "sns",
    lambda call: call.get("TopicArn"),
    "GetTopicAttributes",
    "SetTopicAttributes",
    "DeleteTopic",
    "ListSubscriptionsByTopic",
)
on("sns", lambda call: call.get("ResourceArn"), "ListTagsForResource")


@row("sns", "Publish", "PublishBatch")
def _publish(call: Call) -> Iterator[Check]:
    arn = call.get("TopicArn") or call.get("TargetArn") or ANY
    yield Check("sns:Publish", arn)
    topic = call.inventory.topic(arn)
    key_id = getattr(topic, "kms_master_key_id", None)
    yield from with_key(call, key_id, "sns", "GenerateDataKey", "Decrypt", context={"aws:sns:topicArn": arn})


@row("sns", "Subscribe")
def _subscribe(call: Call) -> Iterator[Check]:
    yield Check(
        call.action, call.get("TopicArn"), {"sns:Protocol": call.get("Protocol"), "sns:Endpoint": call.get("Endpoint")}
    )


@row("sns", "CreateTopic")
def _create_topic(call: Call) -> Iterator[Check]:
    tags, resource = request_tags(call.params.get("Tags")), call.here(call.get("Name"))
    yield Check(call.action, resource, tags)
    if tags:
        yield Check("sns:TagResource", resource, tags)


def _queue(call: Call) -> str:
    return call.here((call.get("QueueUrl") or call.get("QueueName")).rstrip("/").rsplit("/", 1)[-1])


anywhere("sqs", "ListQueues")
on(
    "sqs", _queue, "GetQueueUrl", "GetQueueAttributes", "DeleteMessage", "ChangeMessageVisibility", "PurgeQueue",
    "DeleteQueue", "SetQueueAttributes", "ListQueueTags", "CreateQueue", "ListDeadLetterSourceQueues",
)  # fmt: skip


@row("sqs", "SendMessage", "SendMessageBatch", "ReceiveMessage", "DeleteMessageBatch")
def _message(call: Call) -> Iterator[Check]:
    yield Check(call.action.removesuffix("Batch"), _queue(call))
    key_id = getattr(call.inventory.queue(call.get("QueueUrl")), "kms_master_key_id", None)
    sending = ("GenerateDataKey",) if call.operation.startswith("Send") else ()
    if not call.operation.startswith("Delete"):
        yield from with_key(call, key_id, "sqs", *sending, "Decrypt", context={"aws:sqs:arn": _queue(call)})


# -- DynamoDB ----------------------------------------------------------------------------------------------------------

anywhere("dynamodb", "ListTables", "DescribeLimits", "DescribeEndpoints")
on(
    "dynamodb", lambda call: call.inventory.table_arn(call.get("TableName")), "DescribeTable",
    "DescribeContinuousBackups", "DescribeTimeToLive", "UpdateTable", "DeleteTable", "UpdateContinuousBackups",
    "UpdateTimeToLive",
)  # fmt: skip
on("dynamodb", lambda call: call.inventory.table_arn(call.get("ResourceArn")), "ListTagsOfResource")


def _item_check(call: Call, action: str, request: Mapping[str, Any], enclosing: str = "") -> Iterator[Check]:
    """An action on one item, or on the items of one partition, as ``dynamodb:LeadingKeys`` tells them apart."""
    name = str(request["TableName"])
    table_arn = call.inventory.table_arn(name)
    index = request.get("IndexName")
    context: dict[str, str | list[str]] = {}
    if (keys := _leading_keys(call, name, request)) is not None:
        context["dynamodb:LeadingKeys"] = keys
    if enclosing:
        context["dynamodb:EnclosingOperation"] = enclosing
    for parameter in ("Select", "ReturnValues", "ReturnConsumedCapacity"):
        if request.get(parameter):
            context[f"dynamodb:{parameter}"] = str(request[parameter])
    yield Check(f"dynamodb:{action}", f"{table_arn}/index/{index}" if index else table_arn, context)


def _leading_keys(call: Call, table_name: str, request: Mapping[str, Any]) -> list[str] | None:
    table = call.inventory.table(table_name)
    hash_key = getattr(table, "hash_key_attr", None)
    item = request.get("Key") or request.get("Item")
    if hash_key and item and hash_key in item:
        return [str(next(iter(item[hash_key].values())))]
    if request.get("Keys"):
        return _distinct(str(next(iter(key[hash_key].values()))) for key in request["Keys"])
    names, values = request.get("ExpressionAttributeNames") or {}, request.get("ExpressionAttributeValues") or {}
    for name, value in re.findall(r"(#?\w+)\s*=\s*(:\w+)", str(request.get("KeyConditionExpression") or "")):
        if names.get(name, name) == hash_key and value in values:
            return [str(next(iter(values[value].values())))]
    return None


def _table_key(call: Call, *names: str) -> Iterator[Check]:
    """DynamoDB opens a table under a customer's key in the name of whoever asks."""
    for name in _distinct(names):
        sse = getattr(call.inventory.table(name), "sse_specification", None) or {}
        context = {
            "aws:dynamodb:tableName": name.rsplit("/", 1)[-1],
            "aws:dynamodb:subscriberId": call.inventory.account_id,
        }
        yield from with_key(call, sse.get("KMSMasterKeyId"), "dynamodb", "Decrypt", context=context)


@row("dynamodb", "GetItem", "PutItem", "UpdateItem", "DeleteItem", "Query", "Scan")
def _item(call: Call) -> Iterator[Check]:
    yield from _item_check(call, call.operation, call.params)
    yield from _table_key(call, call.get("TableName"))


@row("dynamodb", "BatchGetItem", "BatchWriteItem")
def _batch(call: Call) -> Iterator[Check]:
    for name, request in call.params.get("RequestItems", {}).items():
        keys = request if isinstance(request, Mapping) else {}
        yield from _item_check(call, call.operation, {"TableName": name, **keys})
        yield from _table_key(call, name)


@row("dynamodb", "TransactWriteItems", "TransactGetItems")
def _transaction(call: Call) -> Iterator[Check]:
    actions = {
        "Put": "PutItem",
        "Update": "UpdateItem",
        "Delete": "DeleteItem",
        "ConditionCheck": "ConditionCheckItem",
        "Get": "GetItem",
    }
    for entry in call.params.get("TransactItems", []):
        for kind, request in entry.items():
            yield from _item_check(call, actions[kind], request, call.operation)
            yield from _table_key(call, str(request["TableName"]))


# -- Step Functions, Scheduler, Events, Lambda -------------------------------------------------------------------------

anywhere(
    "states",
    "SendTaskSuccess",
    "SendTaskFailure",
    "SendTaskHeartbeat",
    "ListStateMachines",
    "ValidateStateMachineDefinition",
)
on(
    "states", lambda call: call.get("executionArn"), "DescribeExecution", "StopExecution", "GetExecutionHistory",
    "RedriveExecution", "DescribeStateMachineForExecution", "ListMapRuns",
)  # fmt: skip
on("states", lambda call: call.get("mapRunArn"), "DescribeMapRun", "UpdateMapRun")
on(
    "states", lambda call: call.get("stateMachineArn"), "DescribeStateMachine", "ListExecutions",
    "DeleteStateMachine", "ListStateMachineVersions", "ListStateMachineAliases", "PublishStateMachineVersion",
)  # fmt: skip
on("states", lambda call: call.get("resourceArn"), "ListTagsForResource")


@row("states", "StartExecution")
def _start_execution(call: Call) -> Iterator[Check]:
    arn = call.get("stateMachineArn")
    fields = arn.split(":")
    context: dict[str, str | list[str]] = {"states:StateMachineQualifier": fields[7]} if len(fields) > 7 else {}
    yield Check(call.action, arn, context)


@row("states", "UpdateStateMachine")
def _update_state_machine(call: Call) -> Iterator[Check]:
    yield Check(call.action, call.get("stateMachineArn"))
    yield from pass_role(call, call.params.get("roleArn"), "states.amazonaws.com")


@row("states", "CreateStateMachine")
def _create_state_machine(call: Call) -> Iterator[Check]:
    tags, resource = request_tags(call.params.get("tags")), call.here(f"stateMachine:{call.get('name')}")
    yield Check(call.action, resource, tags)
    if tags:
        yield Check("states:TagResource", resource, tags)
    yield from pass_role(call, call.params.get("roleArn"), "states.amazonaws.com")


def _schedule(call: Call) -> str:
    return call.here(f"schedule/{call.get('GroupName', 'default')}/{call.get('Name')}")


anywhere("scheduler", "ListSchedules", "ListScheduleGroups")
on("scheduler", _schedule, "GetSchedule", "DeleteSchedule")
on("scheduler", lambda call: call.here(f"schedule-group/{call.get('Name')}"), "GetScheduleGroup", "DeleteScheduleGroup")
on("scheduler", lambda call: call.get("ResourceArn"), "ListTagsForResource")


@row("scheduler", "CreateSchedule", "UpdateSchedule")
def _put_schedule(call: Call) -> Iterator[Check]:
    yield Check(call.action, _schedule(call))
    yield from pass_role(call, call.params.get("Target", {}).get("RoleArn"), "scheduler.amazonaws.com")
    yield from with_key(call, call.params.get("KmsKeyArn"), "scheduler", "DescribeKey", "GenerateDataKey", "Decrypt")


@row("scheduler", "CreateScheduleGroup")
def _create_schedule_group(call: Call) -> Iterator[Check]:
    tags, resource = request_tags(call.params.get("Tags")), call.here(f"schedule-group/{call.get('Name')}")
    yield Check(call.action, resource, tags)
    if tags:
        yield Check("scheduler:TagResource", resource, tags)


def _rule(call: Call) -> str:
    bus = call.get("EventBusName", "default").rsplit("/", 1)[-1]
    name = call.get("Rule") or call.get("Name")
    return call.here(f"rule/{name}" if bus == "default" else f"rule/{bus}/{name}")


anywhere("events", "ListEventBuses", "ListRules")
on(
    "events",
    _rule,
    "DescribeRule",
    "ListTargetsByRule",
    "PutRule",
    "DeleteRule",
    "EnableRule",
    "DisableRule",
    "RemoveTargets",
)


@row("events", "PutTargets")
def _put_targets(call: Call) -> Iterator[Check]:
    yield Check(
        call.action,
        _rule(call),
        {"events:TargetArn": [str(target["Arn"]) for target in call.params.get("Targets", [])]},
    )
    for target in call.params.get("Targets", []):
        yield from pass_role(call, target.get("RoleArn"), "events.amazonaws.com")


@row("events", "PutEvents")
def _put_events(call: Call) -> Iterator[Check]:
    for entry in call.params.get("Entries", []):
        bus = str(entry.get("EventBusName") or "default")
        resource = bus if bus.startswith("arn:") else call.here(f"event-bus/{bus}")
        yield Check(
            call.action,
            resource,
            {"events:source": str(entry.get("Source")), "events:detail-type": str(entry.get("DetailType"))},
        )


def _function(call: Call) -> str:
    name, qualifier = call.get("FunctionName"), call.get("Qualifier")
    arn = name if name.startswith("arn:") else call.here(f"function:{name}")
    return f"{arn}:{qualifier}" if qualifier and len(arn.split(":")) == 7 else arn


anywhere("lambda", "ListFunctions", "ListLayers", "GetAccountSettings")
on(
    "lambda", _function, "GetFunction", "GetFunctionConfiguration", "ListVersionsByFunction", "ListAliases",
    "GetPolicy", "GetAlias", "PublishVersion", "UpdateFunctionCode", "DeleteFunction", "PutFunctionConcurrency",
    "GetFunctionConcurrency",
)  # fmt: skip
row("lambda", "Invoke", "InvokeAsync")(lambda call: [Check("lambda:InvokeFunction", _function(call))])


@row("lambda", "UpdateFunctionConfiguration", "CreateFunction")
def _put_function(call: Call) -> Iterator[Check]:
    yield Check(call.action, _function(call), request_tags(call.params.get("Tags")))
    yield from pass_role(call, call.params.get("Role"), "lambda.amazonaws.com")


# -- Logs, CloudWatch, CloudTrail, X-Ray -------------------------------------------------------------------------------


def _log_group(call: Call) -> str:
    """Ends with ``:*``, as AWS has it: a policy that names the group without it does not match."""
    name = call.get("logGroupIdentifier") or call.get("logGroupName") or ANY
    return f"{name.removesuffix(':*')}:*" if name.startswith("arn:") else call.here(f"log-group:{name}:*")


def _log_stream(call: Call) -> str:
    return f"{_log_group(call).removesuffix(':*')}:log-stream:{call.get('logStreamName', ANY)}"


anywhere("logs", "DescribeLogGroups")
on(
    "logs", _log_group, "FilterLogEvents", "DescribeLogStreams", "CreateLogGroup", "DeleteLogGroup",
    "PutRetentionPolicy", "CreateLogStream",
)  # fmt: skip
on("logs", _log_stream, "PutLogEvents", "GetLogEvents", "DeleteLogStream")

anywhere("cloudwatch", "GetMetricData", "GetMetricStatistics", "ListMetrics")
on("cloudwatch", lambda call: call.here("alarm:*"), "DescribeAlarms")
anywhere("cloudwatch", "ListDashboards")
on(
    "cloudwatch",
    lambda call: f"arn:{PARTITION}:cloudwatch::{call.inventory.account_id}:dashboard/{call.get('DashboardName')}",
    "GetDashboard",
)


@row("cloudwatch", "PutMetricData")
def _put_metrics(call: Call) -> Iterator[Check]:
    yield Check(call.action, ANY, {"cloudwatch:namespace": call.get("Namespace")})


anywhere("cloudtrail", "LookupEvents", "DescribeTrails")
anywhere("xray", "PutTraceSegments", "PutTelemetryRecords", "GetSamplingRules", "GetSamplingTargets")

# -- others that may know the old key ----------------------------------------------------------------------------------

anywhere("tag", "GetResources", "GetTagKeys", "GetTagValues")
anywhere("backup", "ListBackupVaults", "ListProtectedResources", "ListBackupPlans", "ListRecoveryPointsByResource")
on(
    "backup",
    lambda call: call.here(f"backup-vault:{call.get('BackupVaultName')}"),
    "DescribeBackupVault",
    "ListRecoveryPointsByBackupVault",
)
on("backup", lambda call: call.get("RecoveryPointArn"), "DescribeRecoveryPoint")
anywhere(
    "dms", "DescribeEndpoints", "DescribeReplicationInstances", "DescribeReplicationConfigs",
    "DescribeReplicationTasks", "DescribeReplicationTaskAssessmentRuns", "DescribeCertificates",
)  # fmt: skip
row("dms", "DescribeInstanceProfiles")(lambda call: [Check("dms:ListInstanceProfiles", ANY)])
anywhere(
    "ec2", "DescribeSecurityGroups", "DescribeSecurityGroupRules", "DescribeSubnets", "DescribeVpcs",
    "DescribeVpcEndpoints", "DescribeRegions", "DescribeAvailabilityZones", "DescribeRouteTables",
    "DescribeNetworkInterfaces",
)  # fmt: skip
on(
    "iam", lambda call: call.inventory.role_arn(call.get("RoleName")), "GetRole", "ListRolePolicies",
    "GetRolePolicy", "ListAttachedRolePolicies",
)  # fmt: skip
on("sts", lambda call: call.get("RoleArn"), "AssumeRole")
