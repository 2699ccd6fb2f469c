"""What a customer has before the first rotation, made through the AWS APIs and SQL.

A key, a database under it, data, a login for the rotation, a way for applications to find the database, opt-in tags.
"""

import json
import secrets
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from email.utils import parsedate_to_datetime
from typing import Any, Literal

from botocore.exceptions import ClientError

from sandbox.demo import dialects
from sandbox.demo.account import Account
from sandbox.demo.connection import Endpoint, Finder, Login, finder, hang_up, trusting
from sandbox.demo.dialects import Dialect

Fence = Literal["network"]
"""What keeps writers away, where the rotation does not log in: nobody gets through to the database."""

Connectivity = Literal["dns", "secret", "proxy", "endpoint"]
"""``endpoint``: applications use RDS's own name, which only a blue/green deployment lets them keep."""

DATABASES = dialects.of("postgres").databases

CATCH_UP = "catch-up"
"""The strategy that wants more of a database, and of the rotation's login, than the others."""

FAMILIES = {"postgres": "POSTGRESQL", "mariadb": "MYSQL"}
"""Of engines, as RDS Proxy has them."""

AWS_MANAGED_KEY = "alias/aws/rds"
ZONE = "db.example.internal"
RECORD_TTL_SECONDS = 30
MASTER_USER = "dbadmin"
APPLICATIONS = "10.0.0.0/8"
"""Where they are."""
APP_USER = "app"
CREATED_WITHIN_SECONDS = 120.0
DELETED_WITHIN_SECONDS = 60.0
INSTANCES = 3
"""Of a cluster: a writer, and readers."""
LETS_FOLLOW = {dialects.AURORA_MYSQL: ("binlog_format", "ROW")}
"""By engine, if it is not PostgreSQL's: the parameter of a cluster that lets a copy follow."""
BY_ENGINE: Mapping[str, Mapping[str, Any]] = {dialects.AURORA_MYSQL: {"BacktrackWindow": 3600}}
"""What only a cluster of this engine has."""
OF_MULTI_AZ = {"DBClusterInstanceClass": "db.m6gd.large", "AllocatedStorage": 100, "Iops": 1000}
KEY_KNOWN_WITHIN_SECONDS = 30.0


@dataclass(frozen=True)
class World:
    """A database as its owner knows it."""

    identifier: str
    resource_id: str
    key_arn: str | None
    parameter_group: str
    databases: tuple[str, ...]
    rows: int
    """In the table ``items`` of each database."""
    app: Login
    master: Login
    login_secret_arn: str | None
    """Of the rotation's login, if it is given one."""
    connectivity: Connectivity
    record: str | None = None
    zone_id: str | None = None
    endpoint_secret: str | None = None
    proxy: str | None = None
    engine: str = "postgres"
    fence: Fence | None = None
    security_groups: tuple[str, ...] = ()
    """Those that the database was given; none: it has the default one."""

    @property
    def dialect(self) -> Dialect:
        return dialects.of(self.engine)

    @property
    def is_cluster(self) -> bool:
        return self.engine in dialects.CLUSTERS

    @property
    def request(self) -> dict[str, str]:
        """The input that asks for its rotation."""
        return {"DBClusterIdentifier" if self.is_cluster else "DBInstanceIdentifier": self.identifier}

    def describe(self, account: Account) -> dict[str, Any]:
        """What RDS says of the database, instance or cluster, that has the name now."""
        return described(account, self.identifier, cluster=self.is_cluster)

    def finder(self, account: Account) -> Finder:
        return finder(account, record=self.record, secret=self.endpoint_secret, port=self.dialect.port)


def make_key(account: Account, description: str, region: str | None = None) -> str:
    """A customer managed key; returns its ARN."""
    kms = account.client("kms", region)
    made = kms.create_key(Description=description, Tags=[{"TagKey": "owner", "TagValue": "orders-team"}])
    return str(made["KeyMetadata"]["Arn"])


def build(
    account: Account,
    *,
    identifier: str = "orders",
    engine: str = "postgres",
    connectivity: Connectivity = "dns",
    rows: int = 200_000,
    writers: int = 6,
    databases: tuple[str, ...] | None = None,
    key_arn: str | None = None,
    encrypted: bool = True,
    strategy: str | None = None,
    fence: Fence | None = None,
    tags: Mapping[str, str] | None = None,
) -> World:
    """Make all of it and wait until the database is available.

    Args:
        rows: rows of data, spread over the databases.
        databases: their names, which the engine's dialect has if nobody else does.
        key_arn: an existing key, or `AWS_MANAGED_KEY`; without it a new one is made.
        strategy: the one that the database asks for, and is prepared for.
        fence: with ``network`` the rotation is given no login, and the database a security group of its applications';
            so it is with engines to which nobody logs in, and they ask for strategy snapshot.
        connectivity: with ``endpoint`` the database asks for strategy blue-green, and gives the rotation no login.
        tags: additional tags of the instance, or other values for the usual ones.

    Raises:
        TimeoutError: RDS did not make the instance in time.
    """
    if encrypted and key_arn is None:
        key_arn = make_key(account, "The key that the database was born with")
    master = Login(MASTER_USER, secrets.token_urlsafe(18))
    app = Login(APP_USER, secrets.token_urlsafe(18))
    dialect = dialects.of(engine)
    databases = databases or dialect.databases
    if not dialect.takes_login and connectivity != "endpoint":
        fence, strategy = "network", strategy or "snapshot"
    login_secret = None if fence else make_login_secret(account, identifier, master)
    security_groups = (make_security_group(account, f"{identifier}-app", dialect.port),) if fence else ()
    common = {
        "Engine": "postgres" if engine == dialects.MULTI_AZ_POSTGRES else engine,
        "StorageEncrypted": encrypted,
        **({"KmsKeyId": key_arn} if encrypted else {}),
        "MasterUsername": master.user,
        "MasterUserPassword": master.password,
        "BackupRetentionPeriod": 7,
        "PreferredBackupWindow": _hour_from_now(account, 12),
        "DeletionProtection": True,
        "CopyTagsToSnapshot": True,
        **({"VpcSecurityGroupIds": list(security_groups)} if security_groups else {}),
        "Tags": _as_list({"team": "orders", "key-rotation:enabled": "true"}),
    }
    follows = strategy == CATCH_UP
    if engine in dialects.CLUSTERS:
        made = make_cluster(account, identifier, databases[0], common)
    else:
        made = make_instance(account, identifier, databases[0], common, follows=follows)
    endpoint = made.endpoint
    record = zone_id = endpoint_secret = proxy = None
    opt_in: dict[str, str] = {"key-rotation:connectivity": connectivity}
    if login_secret:
        opt_in["key-rotation:login-secret"] = login_secret
    if fence:
        opt_in["key-rotation:fence"] = fence
    if connectivity == "dns":
        record = f"{identifier}.{ZONE}"
        zone_id = make_record(account, record, endpoint.name)
        opt_in["key-rotation:dns-record"] = f"{zone_id}/{record}"
    elif connectivity == "proxy":
        proxy = f"{identifier}-pool"
        record = make_proxy(account, proxy, identifier, FAMILIES[engine], app)
        opt_in["key-rotation:proxy"] = proxy
    elif connectivity == "endpoint":
        record = endpoint.name
        opt_in = {"key-rotation:strategy": "blue-green"}
    else:
        endpoint_secret = make_endpoint_secret(account, identifier, engine, endpoint, app)
        opt_in["key-rotation:endpoint-secret"] = endpoint_secret
    if strategy:
        opt_in["key-rotation:strategy"] = strategy
    account.client("rds").add_tags_to_resource(ResourceName=made.arn, Tags=_as_list(opt_in | dict(tags or {})))
    world = World(
        identifier=identifier,
        resource_id=made.resource_id,
        key_arn=made.key_arn,
        parameter_group=made.parameter_group,
        databases=databases,
        rows=rows // len(databases),
        app=app,
        master=master,
        login_secret_arn=login_secret,
        connectivity=connectivity,
        record=record,
        zone_id=zone_id,
        endpoint_secret=endpoint_secret,
        proxy=proxy,
        engine=engine,
        fence=fence,
        security_groups=security_groups,
    )
    fill(account, world, writers, follows=follows)
    return world


@dataclass(frozen=True)
class Made:
    """What RDS says of a database that was made a moment ago."""

    arn: str
    resource_id: str
    key_arn: str | None
    parameter_group: str
    endpoint: Endpoint


def make_instance(
    account: Account, identifier: str, database: str, common: Mapping[str, Any], *, follows: bool = False
) -> Made:
    """``follows``: a copy of it is to follow it by logical replication."""
    dialect = dialects.of(common["Engine"])
    group = make_parameter_group(account, f"{identifier}-settings", dialect, follows=follows)
    once_rds_sees_the_key(
        account,
        account.client("rds").create_db_instance,
        DBInstanceIdentifier=identifier,
        DBInstanceClass="db.t4g.medium",
        AllocatedStorage=20,
        StorageType="gp3",
        **({"DBName": database} if dialect.names_database else {}),
        DBParameterGroupName=group,
        PubliclyAccessible=False,
        **common,
    )
    instance = wait_available(account, identifier)
    endpoint = Endpoint(instance["Endpoint"]["Address"], "", int(instance["Endpoint"]["Port"]), 0)
    return Made(instance["DBInstanceArn"], instance["DbiResourceId"], instance.get("KmsKeyId"), group, endpoint)


def make_cluster(account: Account, identifier: str, database: str, common: Mapping[str, Any]) -> Made:
    """A writer and readers, with a parameter group that lets a copy follow them."""
    rds = account.client("rds")
    group = {"DBClusterParameterGroupName": f"{identifier}-settings"}
    family = rds.describe_db_engine_versions(Engine=common["Engine"])["DBEngineVersions"][-1]["DBParameterGroupFamily"]
    rds.create_db_cluster_parameter_group(**group, DBParameterGroupFamily=family, Description="Lets a copy follow")
    name, value = LETS_FOLLOW.get(common["Engine"], ("rds.logical_replication", "1"))
    parameter = {"ParameterName": name, "ParameterValue": value, "ApplyMethod": "pending-reboot"}
    rds.modify_db_cluster_parameter_group(**group, Parameters=[parameter])
    multi_az = not common["Engine"].startswith("aurora")
    once_rds_sees_the_key(
        account, rds.create_db_cluster, DBClusterIdentifier=identifier, DatabaseName=database, **group, **common,
        **(OF_MULTI_AZ if multi_az else {}), **BY_ENGINE.get(common["Engine"], {}),
    )  # fmt: skip
    wait_available(account, identifier, cluster=True)
    # Those of a Multi-AZ DB cluster came with it.
    members = [f"{identifier}-{number + 1}" for number in range(0 if multi_az else INSTANCES)]
    for member in members:
        rds.create_db_instance(
            DBInstanceIdentifier=member,
            DBClusterIdentifier=identifier,
            DBInstanceClass="db.t4g.medium",
            Engine=common["Engine"],
        )
        wait_available(account, member)
    cluster = described(account, identifier, cluster=True)
    endpoint = Endpoint(cluster["Endpoint"], "", int(cluster["Port"]), 0)
    return Made(
        cluster["DBClusterArn"], cluster["DbClusterResourceId"], cluster.get("KmsKeyId"),
        group["DBClusterParameterGroupName"], endpoint,
    )  # fmt: skip


def make_replica(account: Account, of: str, identifier: str) -> Mapping[str, Any]:
    """A read replica of an instance, with settings that no other has, once it is available; what RDS says of it."""
    rds = account.client("rds")
    rds.create_db_instance_read_replica(
        DBInstanceIdentifier=identifier,
        SourceDBInstanceIdentifier=of,
        DBInstanceClass="db.t4g.large",
        DeletionProtection=True,
        CopyTagsToSnapshot=True,
        Tags=_as_list({"team": "readers", "key-rotation:enabled": "false"}),
    )
    group = wait_available(account, identifier)["DBParameterGroups"][0]["DBParameterGroupName"]
    own = f"{identifier}-settings"
    with suppress(rds.exceptions.DBParameterGroupAlreadyExistsFault):
        rds.copy_db_parameter_group(
            SourceDBParameterGroupIdentifier=group,
            TargetDBParameterGroupIdentifier=own,
            TargetDBParameterGroupDescription="Settings of its readers",
        )
    rds.modify_db_instance(  # which the request for a replica does not take
        DBInstanceIdentifier=identifier,
        DBParameterGroupName=own,
        PreferredMaintenanceWindow="sun:04:00-sun:04:30",
        ApplyImmediately=True,
    )
    while (made := wait_available(account, identifier))["DBParameterGroups"][0]["ParameterApplyStatus"] != "in-sync":
        with suppress(rds.exceptions.InvalidDBInstanceStateFault):  # RDS is at work on it
            rds.reboot_db_instance(DBInstanceIdentifier=identifier)
        time.sleep(0.2)
    return made


def replicate_backups(account: Account, identifier: str, region: str, retention_days: int) -> str:
    """Let RDS replicate the automated backups of an instance; returns the ARN of the key there, which is a new one."""
    key, there = make_key(account, f"Backups of {identifier}", region), account.client("rds", region)
    # Unlike any key that is made without more: who compares two of them has to see whether that was copied.
    kms = account.client("kms", region)
    kms.enable_key_rotation(KeyId=key, RotationPeriodInDays=200)
    policy = json.loads(kms.get_key_policy(KeyId=key, PolicyName="default")["Policy"])
    auditors = {**policy["Statement"][0], "Sid": "Auditors", "Action": "kms:DescribeKey"}
    kms.put_key_policy(
        KeyId=key, PolicyName="default", Policy=json.dumps({**policy, "Statement": [*policy["Statement"], auditors]})
    )
    once_rds_sees_the_key(
        account,
        there.start_db_instance_automated_backups_replication,
        SourceDBInstanceArn=described(account, identifier, cluster=False)["DBInstanceArn"],
        KmsKeyId=key,
        BackupRetentionPeriod=retention_days,
    )
    while not wait_available(account, identifier).get("DBInstanceAutomatedBackupsReplications"):
        time.sleep(0.2)
    return key


def once_rds_sees_the_key(account: Account, create: Callable[..., Any], **arguments: Any) -> None:
    """Create something under a key that may be new: KMS takes a moment to tell everybody about it."""
    give_up_at = time.monotonic() + KEY_KNOWN_WITHIN_SECONDS
    while True:
        try:
            create(**arguments)
            return
        except account.client("rds").exceptions.KMSKeyNotAccessibleFault:
            if time.monotonic() > give_up_at:
                raise
            time.sleep(0.2)


def _hour_from_now(account: Account, hours: int) -> str:
    """A window of an hour that begins so much later than now; a rotation waits for one that is near to pass."""
    answer = account.client("rds").describe_db_instances(MaxRecords=20)["ResponseMetadata"]["HTTPHeaders"]
    begin = parsedate_to_datetime(answer["date"]) + timedelta(hours=hours)
    return f"{begin:%H}:00-{begin + timedelta(hours=1):%H}:00"


def make_parameter_group(account: Account, name: str, dialect: Dialect, *, follows: bool = False) -> str:
    """A parameter group of the database's own, with settings that a rotation must carry over.

    Raises:
        LookupError: RDS does not have the engine.
    """
    rds = account.client("rds")
    versions = rds.describe_db_engine_versions(Engine=dialect.engine)["DBEngineVersions"]
    if not versions:
        raise LookupError(f"RDS does not have the engine {dialect.engine} here")
    rds.create_db_parameter_group(
        DBParameterGroupName=name,
        DBParameterGroupFamily=versions[-1]["DBParameterGroupFamily"],
        Description="Settings of the orders database",
    )
    parameters = [
        {"ParameterName": parameter, "ParameterValue": value, "ApplyMethod": "immediate"}
        for parameter, value in dialect.settings.items()
    ] + [
        # Some are static, and a new instance has all of its group from the beginning.
        {"ParameterName": parameter, "ParameterValue": value, "ApplyMethod": "pending-reboot"}
        for parameter, value in (dialect.settings_to_follow if follows else {}).items()
    ]
    if parameters:
        rds.modify_db_parameter_group(DBParameterGroupName=name, Parameters=parameters)
    return name


def make_login_secret(account: Account, identifier: str, login: Login) -> str:
    """The secret with the login that the rotation is given; returns its ARN."""
    arn: str = account.client("secretsmanager").create_secret(
        Name=f"{identifier}/rotation-login",
        SecretString=json.dumps({"username": login.user, "password": login.password}),
    )["ARN"]
    return arn


def make_security_group(account: Account, name: str, port: int) -> str:
    """A group that lets applications in at this port; returns its id."""
    ec2 = account.client("ec2")
    group: str = ec2.create_security_group(GroupName=name, Description="Applications of the orders team")["GroupId"]
    ec2.authorize_security_group_ingress(
        GroupId=group,
        IpPermissions=[{"IpProtocol": "tcp", "FromPort": port, "ToPort": port, "IpRanges": [{"CidrIp": APPLICATIONS}]}],
    )
    return group


def make_record(account: Account, record: str, target: str) -> str:
    """A CNAME in the customer's zone, which is made if it is missing; returns the zone's id."""
    route53 = account.client("route53")
    zones = route53.list_hosted_zones_by_name(DNSName=f"{ZONE}.")["HostedZones"]
    zone = next((zone for zone in zones if zone["Name"] == f"{ZONE}."), None)
    if zone is None:
        zone = route53.create_hosted_zone(Name=f"{ZONE}.", CallerReference=secrets.token_hex(8))["HostedZone"]
    zone_id = str(zone["Id"]).rsplit("/", 1)[-1]
    wanted = {
        "Name": f"{record}.", "Type": "CNAME", "TTL": RECORD_TTL_SECONDS, "ResourceRecords": [{"Value": target}]
    }  # fmt: skip
    route53.change_resource_record_sets(
        HostedZoneId=zone_id, ChangeBatch={"Changes": [{"Action": "CREATE", "ResourceRecordSet": wanted}]}
    )
    return zone_id


def make_endpoint_secret(account: Account, identifier: str, engine: str, endpoint: Endpoint, app: Login) -> str:
    """The secret that applications read the database's address from; has a field of the customer's own."""
    fields = {
        "engine": engine, "host": endpoint.name, "port": endpoint.port, "dbInstanceIdentifier": identifier,
        "username": app.user, "password": app.password, "owner": "orders-team",
    }  # fmt: skip
    arn: str = account.client("secretsmanager").create_secret(
        Name=f"{identifier}/endpoint", SecretString=json.dumps(fields)
    )["ARN"]
    return arn


def make_proxy(account: Account, name: str, identifier: str, family: str, app: Login) -> str:
    """An RDS Proxy that leads to the database; returns its endpoint, once it lets somebody through.

    Its own login is that of the applications, who do not exist yet; until they do it says ``UNAVAILABLE``.
    """
    rds = account.client("rds")
    login = account.client("secretsmanager").create_secret(
        Name=f"{name}/login", SecretString=json.dumps({"username": app.user, "password": app.password})
    )["ARN"]
    proxy = rds.create_db_proxy(
        DBProxyName=name,
        EngineFamily=family,
        Auth=[{"AuthScheme": "SECRETS", "SecretArn": login, "IAMAuth": "DISABLED"}],
        RoleArn=f"arn:aws:iam::{account.client('sts').get_caller_identity()['Account']}:role/{name}",
        VpcSubnetIds=[subnet["SubnetId"] for subnet in account.client("ec2").describe_subnets()["Subnets"]],
    )["DBProxy"]
    rds.register_db_proxy_targets(DBProxyName=name, DBInstanceIdentifiers=[identifier])
    give_up_at = time.monotonic() + CREATED_WITHIN_SECONDS
    while rds.describe_db_proxy_targets(DBProxyName=name)["Targets"][0]["TargetHealth"]["State"] == "REGISTERING":
        if time.monotonic() > give_up_at:
            raise TimeoutError(f"{name} is still being registered")
        time.sleep(0.2)
    return str(proxy["Endpoint"])


def described(account: Account, identifier: str, *, cluster: bool) -> dict[str, Any]:
    """What RDS says of the instance, or the cluster, that has the name now."""
    rds = account.client("rds")
    found: dict[str, Any] = (
        rds.describe_db_clusters(DBClusterIdentifier=identifier)["DBClusters"][0]
        if cluster
        else rds.describe_db_instances(DBInstanceIdentifier=identifier)["DBInstances"][0]
    )
    return found


def wait_available(
    account: Account, identifier: str, within_seconds: float = CREATED_WITHIN_SECONDS, *, cluster: bool = False
) -> Mapping[str, Any]:
    """The instance, or the cluster, once it is available (real seconds).

    Raises:
        TimeoutError: it is not, in time.
    """
    give_up_at = time.monotonic() + within_seconds
    while True:
        found = described(account, identifier, cluster=cluster)
        status = found["Status" if cluster else "DBInstanceStatus"]
        if status == "available":
            return found
        if time.monotonic() > give_up_at:
            raise TimeoutError(f"{identifier} is still {status}")
        time.sleep(0.2)


def fill(account: Account, world: World, writers: int, *, follows: bool = False) -> None:
    """Accounts, databases, tables and data."""
    trust, dialect = trusting(account.ca_bundle), world.dialect
    endpoint = world.finder(account).find()
    admin = dialect.connect(endpoint, None, world.master, trust)
    try:
        dialect.admit(admin, world.databases, world.app, world.master.user)
        if follows:
            # The master's is the login that the rotation is given.
            dialect.let_follow(admin, world.master.user, world.app.user)
    finally:
        hang_up(admin)
    for name in world.databases:
        sql = dialect.connect(endpoint, name, world.app, trust)
        try:
            dialect.fill(sql, world.rows)
            dialect.make_tables(sql, writers)
        finally:
            hang_up(sql)


def remove(account: Account, identifier: str) -> None:
    """End a database and all that was made of it; their servers, and their end, would be in the way of the next.

    Raises:
        TimeoutError: RDS did not delete them in time.
    """
    rds = account.client("rds")

    def ours(name: str) -> bool:
        return name == identifier or name.startswith(f"{identifier}-")

    def is_being_deleted() -> bool:
        instances = rds.get_paginator("describe_db_instances").paginate().build_full_result()["DBInstances"]
        return any(
            one["Status"] == "deleting" and ours(one["DBClusterIdentifier"])
            for one in rds.describe_db_clusters()["DBClusters"]
        ) or any(one["DBInstanceStatus"] == "deleting" and ours(one["DBInstanceIdentifier"]) for one in instances)

    for page in rds.get_paginator("describe_db_instances").paginate():
        for name in filter(ours, (one["DBInstanceIdentifier"] for one in page["DBInstances"])):
            # Replicas first or last, protected or not: what cannot go now is in nobody's way.
            with suppress(ClientError):
                rds.modify_db_instance(DBInstanceIdentifier=name, DeletionProtection=False, ApplyImmediately=True)
            with suppress(ClientError):
                rds.delete_db_instance(DBInstanceIdentifier=name, SkipFinalSnapshot=True, DeleteAutomatedBackups=True)
    # After their instances, with which RDS deletes none.
    for name in filter(ours, (one["DBClusterIdentifier"] for one in rds.describe_db_clusters()["DBClusters"])):
        with suppress(ClientError):
            rds.modify_db_cluster(DBClusterIdentifier=name, DeletionProtection=False, ApplyImmediately=True)
        with suppress(ClientError):
            rds.delete_db_cluster(DBClusterIdentifier=name, SkipFinalSnapshot=True, DeleteAutomatedBackups=True)
    # A snapshot takes as much room as its database did. Automated ones have gone with their database.
    for one in rds.describe_db_snapshots(SnapshotType="manual")["DBSnapshots"]:
        if ours(one["DBInstanceIdentifier"]):
            with suppress(ClientError):
                rds.delete_db_snapshot(DBSnapshotIdentifier=one["DBSnapshotIdentifier"])
    for one in rds.describe_db_cluster_snapshots(SnapshotType="manual")["DBClusterSnapshots"]:
        if ours(one["DBClusterIdentifier"]):
            with suppress(ClientError):
                rds.delete_db_cluster_snapshot(DBClusterSnapshotIdentifier=one["DBClusterSnapshotIdentifier"])
    deadline = time.monotonic() + DELETED_WITHIN_SECONDS
    while is_being_deleted():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{identifier} is still being deleted after {DELETED_WITHIN_SECONDS:.0f} s")
        time.sleep(0.05)


def _as_list(tags: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"Key": key, "Value": value} for key, value in tags.items()]
