"""What the source is, and is part of, by RDS's own account."""

from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta

from lambdas.rotation import databases
from lambdas.rotation.limitations import changes_pending
from lambdas.rotation.names import (
    DEPLOYMENT_TAG,
    TAGS_AT_MOST,
    TAGS_OF_A_DATABASE,
    owners_tags,
    tags_of_a_source,
    target_identifier,
)
from lambdas.rotation.ports import Instance, Ports
from lambdas.rotation.state import Finding, Rotation

MAINTENANCE_IS_NEAR = timedelta(hours=6)
_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_OLDEST = {"postgres": (14, 1), "mariadb": (10, 6)}
"""A replica of an older PostgreSQL takes no backup before its promotion; RDS has no older MariaDB."""


def encrypted(source: Instance) -> Iterator[Finding]:
    """RDS makes no encrypted replica of an unencrypted database."""
    identifier = source.database.identifier
    if not source.storage_encrypted or source.database.kms_key_arn is None:
        yield Finding(
            name="Unencrypted",
            message=f"{identifier} is not encrypted under a KMS key",
            advice="rotate it by strategy blue-green, catch-up or snapshot",
        )


def backups(source: Instance) -> Iterator[Finding]:
    if source.backup_retention_days == 0:
        yield Finding(
            name="BackupsOff",
            message=f"{source.database.identifier} has no automated backups, and RDS replicates only databases that "
            "have",
            advice="set a backup retention of at least one day",
        )


def idle(rotation: Rotation, source: Instance) -> Iterator[Finding]:
    """Neither another rotation nor RDS is at work on it."""
    identifier = source.database.identifier
    if (other := source.tags.get(DEPLOYMENT_TAG)) not in (None, rotation.rotation_id):
        yield Finding(
            name="BelongsToRotation",
            message=f"{identifier} carries the tag of rotation {other}, which has left it behind or is not done",
            advice=f"start with its base name; where no rotation {other} is at work, remove the tag {DEPLOYMENT_TAG}",
        )
    if source.status != "available":
        yield Finding(
            name="NotAvailable",
            message=f"{identifier} is {source.status}",
            advice="wait until it is available, then start again",
        )


def activity_stream(source: Instance) -> Iterator[Finding]:
    raw, identifier = source.raw, source.database.identifier
    if (raw.get("ActivityStreamStatus") or "stopped") != "stopped":
        yield Finding(
            name="ActivityStream",
            message=f"{identifier} has an activity stream; that is not carried over",
            advice="stop it, and start it anew for the target",
        )


def resource_id_changes(source: Instance) -> Iterator[Finding]:
    if source.raw.get("IAMDatabaseAuthenticationEnabled"):
        yield Finding(
            name="ResourceIdChanges",
            message=f"IAM database authentication is on: policies that name {source.database.resource_id} do not fit "
            "the target (which ones those are cannot be asked without reading all policies)",
            advice="allow rds-db:connect for the target's resource id as soon as the target exists",
        )


def condition(rotation: Rotation, source: Instance) -> Iterator[Finding]:
    """What keeps RDS from copying it, whichever way, or would not be carried over."""
    raw, identifier = source.raw, source.database.identifier
    yield from idle(rotation, source)
    if raw.get("MasterUserSecret") and rotation.planned()[0].strategy not in ("snapshot", "catch-up"):
        yield Finding(
            name="ManagedMasterPassword",
            message=f"RDS manages the master password of {identifier}: it replicates no such database",
            advice="rotate it by strategy catch-up or snapshot, or turn that off (ModifyDBInstance "
            "ManageMasterUserPassword=false with a password of your own)",
        )
    if source.replica_of is not None:
        yield Finding(
            name="IsReplica",
            message=f"{identifier} is a replica of {source.replica_of}",
            advice=f'rotate {source.replica_of}, by strategy blue-green or with "Accept": ["replicas-away"]',
        )
    if (cluster := raw.get("ReadReplicaSourceDBClusterIdentifier")) is not None:
        yield Finding(
            name="IsReplica",
            message=f"{identifier} is a replica of cluster {cluster}",
            advice="rotate the cluster without it, and make it anew afterwards",
        )
    if raw.get("DBClusterIdentifier"):
        yield Finding(
            name="ClusterMember",
            message=f"{identifier} belongs to cluster {raw['DBClusterIdentifier']}",
            advice=f'rotate the cluster: {{"DBClusterIdentifier": "{raw["DBClusterIdentifier"]}"}}',
        )
    yield from activity_stream(source)
    yield from carriable(source, tags_of_a_source(rotation.planned()[0].fence))


def carriable(source: Instance, tags: int = TAGS_OF_A_DATABASE) -> Iterator[Finding]:
    """Nothing is left behind where a target is asked for setting by setting, and nothing changes meanwhile.

    ``tags``: how many of ours it will have.
    """
    raw, identifier = source.raw, source.database.identifier
    if raw.get("DomainMemberships"):
        yield Finding(
            name="InDirectory",
            message=f"{identifier} is a member of a directory; that is not carried over",
            advice="not supported yet",
        )
    if (kept := raw.get("BackupTarget") or "region") != "region" or raw.get("CustomerOwnedIpEnabled"):
        where = f"keeps its backups in {kept}" if kept != "region" else "has a customer-owned IP address"
        yield Finding(
            name="OnOutposts",
            message=f"{identifier} {where}, as on an Outpost or in a Dedicated Local Zone; that is not carried over",
            advice="not supported yet",
        )
    if raw.get("TdeCredentialArn"):
        yield Finding(
            name="TdeKeyStore",
            message=f"{identifier} has the key of its Transparent Data Encryption in {raw['TdeCredentialArn']}, for "
            "which RDS asks the password whenever it makes a database of its data",
            advice="not supported yet",
        )
    yield from room_for_tags(source, tags)
    yield from changes_pending(source)


def storage_limit(source: Instance) -> Iterator[Finding]:
    """Autoscaling itself brings a database near its limit."""
    size, limit = int(source.raw.get("AllocatedStorage") or 0), source.raw.get("MaxAllocatedStorage")
    if is_too_near(limit, size):
        yield Finding(
            name="StorageLimit",
            message=f"the storage of {source.database.identifier} may grow to {limit} GiB, and has {size} GiB: RDS "
            "takes no limit for the target that is less than 10 % above that",
            advice="raise the limit (MaxAllocatedStorage), or switch autoscaling off: a limit of what it has",
        )


def is_too_near(limit: int | None, size: int) -> bool:
    """Whether RDS refuses this limit for so many GiB of storage (RDS User Guide: storage autoscaling).

    >>> [is_too_near(limit, 200) for limit in (None, 219, 220)]
    [False, True, False]
    """
    return limit is not None and 10 * int(limit) < 11 * size


def room_for_tags(instance: Instance, ours: int) -> Iterator[Finding]:
    """For so many of ours, on itself or on what takes its place; whatever is tagged has to have it.

    The last of them are set after the commit point, where nothing may be refused any more.
    """
    if len(tags := owners_tags(instance.tags)) > TAGS_AT_MOST - ours:
        yield Finding(
            name="TooManyTags",
            message=f"{instance.database.identifier} has {len(tags)} tags; a rotation sets {ours}, of {TAGS_AT_MOST}",
            advice=f"leave {TAGS_AT_MOST - ours} tags at most",
        )


def engine(rotation: Rotation, source: Instance) -> Iterator[Finding]:
    """What the rotation's own fence knows."""
    plan, _ = rotation.planned()
    name, version = source.database.engine, source.database.engine_version
    if name not in _OLDEST or _numbers(version) < _OLDEST[name]:
        served = ", ".join(f"{engine} {'.'.join(map(str, oldest))}" for engine, oldest in sorted(_OLDEST.items()))
        yield Finding(
            name="EngineNotSupported",
            message=f"strategy {plan.strategy} does not support {name} {version}",
            advice=f"these versions, and later ones, are supported: {served}; or, by strategy snapshot with "
            "key-rotation:fence = network, any of RDS's",
        )


def surroundings(rotation: Rotation, source: Instance, ports: Ports) -> Iterator[Finding]:
    """What leads to the source, owns it, or would come in between."""
    plan, database = rotation.planned()
    for proxy in ports.rds.proxies_of(database.identifier):
        if proxy == plan.proxy and "proxy" in plan.connectivity and plan.strategy != "blue-green":
            continue
        yield Finding(
            name="ProxyTarget",
            message=f"RDS Proxy {proxy} leads to {database.identifier}; strategy {plan.strategy} would leave it there",
            advice="name it in key-rotation:proxy, with connectivity proxy and any strategy but blue-green; or "
            "deregister it, and register the target after the rotation",
        )
    yield from integrations(source, ports)
    yield from iac_owned(rotation, source, "the target")
    target = target_identifier(plan.base_name, rotation.rotation_id)
    if databases.like(database, target, ports) is not None:
        yield Finding(
            name="TargetNameTaken",
            message=f"a database named {target} exists",
            advice="delete or rename it; a new start uses another name",
        )


def integrations(source: Instance, ports: Ports) -> Iterator[Finding]:
    """RDS switches over with none (RDS and Aurora User Guide: limitations of blue/green deployments).

    By any other strategy it goes on reading from a source to which nobody writes: the warehouse stays as it was at the
    cutover, and nothing fails that would tell.
    """
    for integration in ports.rds.integrations_of(source.database.arn):
        yield Finding(
            name="ZeroEtlIntegration",
            message=f"the zero-ETL integration {integration} reads from {source.database.identifier}; it would not "
            "follow to the target",
            advice="delete it (DeleteIntegration), and make it anew from the target after the rotation",
        )


def iac_owned(rotation: Rotation, instance: Instance, successor: str) -> Iterator[Finding]:
    plan, _ = rotation.planned()
    stack = instance.tags.get("aws:cloudformation:stack-name")
    if stack is not None and "iac-owned" not in plan.accept:
        yield Finding(
            name="IacOwned",
            message=f"CloudFormation stack {stack} owns {instance.database.identifier}; its next update may replace "
            f"{successor}",
            advice='take it out of the stack (DeletionPolicy: Retain), or accept it: "Accept": ["iac-owned"]',
        )


def reachable(source: Instance, ports: Ports) -> Iterator[Finding]:
    """Only for what logs in to it. Of a cluster RDS does not say where it is, but of its instances."""
    database = source.database
    vpcs = ports.settings.defaults.get("vpc_ids") or ()
    servers = databases.instances_of(source, ports) if database.is_cluster else [source]
    for vpc_id in sorted({str(server.database.vpc_id) for server in servers} - set(vpcs)) if vpcs else ():
        yield Finding(
            name="VpcNotReachable",
            message=f"{database.identifier} is in {vpc_id}; the functions run in {', '.join(vpcs)}",
            advice=f"deploy a stack for {vpc_id}, and let its security group in on port {database.port}",
        )


def maintenance(source: Instance, ports: Ports) -> Iterator[Finding]:
    """Maintenance that would fall into the rotation."""
    window = source.raw.get("PreferredMaintenanceWindow") or ""
    actions = ports.rds.pending_maintenance(source.database.arn)
    if actions and _is_near(window, ports.clock.now()):
        yield Finding(
            name="MaintenancePending",
            message=f"RDS will do {'; '.join(actions)} in the maintenance window {window}, which is near",
            advice="apply it now, or start after the window",
        )


def quotas(rotation: Rotation, source: Instance, ports: Ports) -> Iterator[Finding]:
    """Room for one more instance, another one for each replica, their storage and two snapshots, for as long as the
    grace period lasts."""
    plan, _ = rotation.planned()
    storage = allocated_gib(source) + sum(replica.allocated_gib for replica in plan.replicas)
    snapshots = 4 if plan.pre_copy else 2  # the pair that was made before the fence is there during the other one
    instances = 1 + len(plan.replicas)
    yield from room({"DBInstances": instances, "AllocatedStorage": storage, "ManualSnapshots": snapshots}, ports)


def allocated_gib(one: Instance) -> int:
    """On all of its volumes: Oracle and SQL Server may have more than one."""
    volumes = (one.raw, *(one.raw.get("AdditionalStorageVolumes") or ()))
    return sum(int(volume.get("AllocatedStorage") or 0) for volume in volumes)


def room(needed: Mapping[str, int], ports: Ports) -> Iterator[Finding]:
    """For so many more of what RDS counts."""
    limits = ports.rds.account_quotas()
    for name, more in needed.items():
        used, maximum = limits.get(name, (0, more))
        if used + more > maximum:
            yield Finding(
                name="QuotaExhausted",
                message=f"{name}: {used} of {maximum} used, {more} more needed",
                advice="raise the quota in Service Quotas, or remove what is not needed",
            )


def warnings(source: Instance, ports: Ports) -> Iterator[Finding]:
    """What a rotation does not break but does not carry over either."""
    identifier = source.database.identifier
    for subscription in ports.rds.event_subscriptions_of(identifier):
        yield Finding(
            name="EventSubscription",
            message=f"event subscription {subscription} names {identifier}",
            advice="add the target after the rotation",
        )
    if source.raw.get("AwsBackupRecoveryPointArn"):
        yield Finding(
            name="AwsBackup",
            message=f"AWS Backup keeps the backups of {identifier}; a plan that names its ARN does not know the target",
            advice="add the target to the plan, or let the plan select by a tag",
        )
    yield from resource_id_changes(source)
    yield from reserved_capacity(source, ports)


def reserved_capacity(source: Instance, ports: Ports) -> Iterator[Finding]:
    """Of itself and of all that follows it. Not asked for: as long as the source is there it may hold the last of it,
    and RDS would make no target (RDS API reference: RestoreDBInstanceFromDBSnapshot)."""
    followers = (ports.rds.describe_instance(name) for name in databases.followers_of(source) if ":" not in name)
    for one in (source, *followers):
        if one is not None and (reservation := one.raw.get("DBCapacityReservationIdentifier")):
            yield Finding(
                name="CapacityReservation",
                message=f"{one.database.identifier} has capacity of the reservation {reservation}; what takes its "
                "place has not",
                advice="when the source is gone, move the target there with a change of its class or of Multi-AZ "
                "(ModifyDBInstance DBCapacityReservationIdentifier)",
            )


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())


def _is_near(window: str, now: datetime) -> bool:
    """Whether a weekly window, such as ``sun:04:00-sun:04:30`` (UTC), is open or opens soon.

    >>> from datetime import UTC
    >>> sunday = datetime(2027, 1, 3, 0, 0, tzinfo=UTC)
    >>> _is_near("sun:04:00-sun:04:30", sunday), _is_near("sun:12:00-sun:12:30", sunday)
    (True, False)
    """
    if "-" not in window:
        return False
    opens, closes = (_minute_of_week(end) for end in window.split("-", 1))
    week = 7 * 24 * 60
    minute = now.weekday() * 24 * 60 + now.hour * 60 + now.minute
    is_open = (minute - opens) % week < (closes - opens) % week
    return is_open or (opens - minute) % week <= MAINTENANCE_IS_NEAR.total_seconds() / 60


def _minute_of_week(moment: str) -> int:
    day, hour, minute = moment.lower().split(":")
    return _DAYS.index(day) * 24 * 60 + int(hour) * 60 + int(minute)
