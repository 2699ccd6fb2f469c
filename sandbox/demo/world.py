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

from sandbox.demo.account import Account
from sandbox.demo.connection import Endpoint, Finder, Login, connect, finder, hang_up, literal, quoted, trusting
from sandbox.demo.writers import make_tables

Connectivity = Literal["dns", "secret"]

DATABASES = ("orders", 'Größen "Süd" & O\'Neil')
"""The second name has everything that makes careless quoting fail."""

AWS_MANAGED_KEY = "alias/aws/rds"
ZONE = "db.example.internal"
RECORD_TTL_SECONDS = 30
MASTER_USER = "dbadmin"
APP_USER = "app"
CREATED_WITHIN_SECONDS = 120.0
KEY_KNOWN_WITHIN_SECONDS = 30.0

TABLE_OF_DATA = """
CREATE TABLE items (
    id bigint PRIMARY KEY, name text NOT NULL, price numeric(10, 2) NOT NULL, placed_at timestamptz NOT NULL
);
CREATE SEQUENCE invoice_numbers;
"""


@dataclass(frozen=True)
class World:
    """A database as its owner knows it."""

    identifier: str
    resource_id: str
    key_arn: str
    parameter_group: str
    databases: tuple[str, ...]
    rows: int
    """In the table ``items`` of each database."""
    app: Login
    master: Login
    login_secret_arn: str
    connectivity: Connectivity
    record: str | None = None
    zone_id: str | None = None
    endpoint_secret: str | None = None

    def finder(self, account: Account) -> Finder:
        return finder(account, record=self.record, secret=self.endpoint_secret)


def make_key(account: Account, description: str) -> str:
    """A customer managed key; returns its ARN."""
    kms = account.client("kms")
    made = kms.create_key(Description=description, Tags=[{"TagKey": "owner", "TagValue": "orders-team"}])
    return str(made["KeyMetadata"]["Arn"])


def build(
    account: Account,
    *,
    identifier: str = "orders",
    connectivity: Connectivity = "dns",
    rows: int = 200_000,
    writers: int = 6,
    databases: tuple[str, ...] = DATABASES,
    key_arn: str | None = None,
    tags: Mapping[str, str] | None = None,
) -> World:
    """Make all of it and wait until the database is available.

    Args:
        rows: rows of data, spread over the databases.
        key_arn: an existing key, or `AWS_MANAGED_KEY`; without it a new one is made.
        tags: additional tags of the instance, or other values for the usual ones.

    Raises:
        TimeoutError: RDS did not make the instance in time.
    """
    if key_arn is None:
        key_arn = make_key(account, "The key that the database was born with")
    master = Login(MASTER_USER, secrets.token_urlsafe(18))
    app = Login(APP_USER, secrets.token_urlsafe(18))
    group = make_parameter_group(account, f"{identifier}-settings")
    login_secret = account.client("secretsmanager").create_secret(
        Name=f"{identifier}/rotation-login",
        SecretString=json.dumps({"username": master.user, "password": master.password}),
    )["ARN"]
    once_rds_sees_the_key(
        account,
        account.client("rds").create_db_instance,
        DBInstanceIdentifier=identifier,
        DBInstanceClass="db.t4g.medium",
        Engine="postgres",
        AllocatedStorage=20,
        StorageType="gp3",
        StorageEncrypted=True,
        KmsKeyId=key_arn,
        MasterUsername=master.user,
        MasterUserPassword=master.password,
        DBName=databases[0],
        DBParameterGroupName=group,
        BackupRetentionPeriod=7,
        PreferredBackupWindow=_hour_from_now(account, 12),
        DeletionProtection=True,
        CopyTagsToSnapshot=True,
        PubliclyAccessible=False,
        Tags=_as_list({"team": "orders", "key-rotation:enabled": "true"}),
    )
    instance = wait_available(account, identifier)
    endpoint = Endpoint(instance["Endpoint"]["Address"], "", int(instance["Endpoint"]["Port"]), 0)
    record = zone_id = endpoint_secret = None
    opt_in = {"key-rotation:login-secret": login_secret, "key-rotation:connectivity": connectivity}
    if connectivity == "dns":
        record = f"{identifier}.{ZONE}"
        zone_id = make_record(account, record, endpoint.name)
        opt_in["key-rotation:dns-record"] = f"{zone_id}/{record}"
    else:
        endpoint_secret = make_endpoint_secret(account, identifier, endpoint, app)
        opt_in["key-rotation:endpoint-secret"] = endpoint_secret
    account.client("rds").add_tags_to_resource(
        ResourceName=instance["DBInstanceArn"], Tags=_as_list(opt_in | dict(tags or {}))
    )
    world = World(
        identifier=identifier,
        resource_id=instance["DbiResourceId"],
        key_arn=instance["KmsKeyId"],
        parameter_group=group,
        databases=databases,
        rows=rows // len(databases),
        app=app,
        master=master,
        login_secret_arn=login_secret,
        connectivity=connectivity,
        record=record,
        zone_id=zone_id,
        endpoint_secret=endpoint_secret,
    )
    fill(account, world, writers)
    return world


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


def make_parameter_group(account: Account, name: str) -> str:
    """A parameter group of the database's own, with a setting that a rotation must carry over."""
    rds = account.client("rds")
    rds.create_db_parameter_group(
        DBParameterGroupName=name, DBParameterGroupFamily="postgres16", Description="Settings of the orders database"
    )
    rds.modify_db_parameter_group(
        DBParameterGroupName=name,
        Parameters=[{"ParameterName": "work_mem", "ParameterValue": "8192", "ApplyMethod": "immediate"}],
    )
    return name


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


def make_endpoint_secret(account: Account, identifier: str, endpoint: Endpoint, app: Login) -> str:
    """The secret that applications read the database's address from; has a field of the customer's own."""
    fields = {
        "engine": "postgres", "host": endpoint.name, "port": endpoint.port, "dbInstanceIdentifier": identifier,
        "username": app.user, "password": app.password, "owner": "orders-team",
    }  # fmt: skip
    arn: str = account.client("secretsmanager").create_secret(
        Name=f"{identifier}/endpoint", SecretString=json.dumps(fields)
    )["ARN"]
    return arn


def wait_available(
    account: Account, identifier: str, within_seconds: float = CREATED_WITHIN_SECONDS
) -> Mapping[str, Any]:
    """The instance, once it is available (real seconds).

    Raises:
        TimeoutError: it is not, in time.
    """
    rds, give_up_at = account.client("rds"), time.monotonic() + within_seconds
    while True:
        instance: Mapping[str, Any] = rds.describe_db_instances(DBInstanceIdentifier=identifier)["DBInstances"][0]
        if instance["DBInstanceStatus"] == "available":
            return instance
        if time.monotonic() > give_up_at:
            raise TimeoutError(f"{identifier} is still {instance['DBInstanceStatus']}")
        time.sleep(0.2)


def fill(account: Account, world: World, writers: int) -> None:
    """Roles, databases, tables and data."""
    trust = trusting(account.ca_bundle)
    endpoint = world.finder(account).find()
    admin = connect(endpoint, "postgres", world.master, trust)
    try:
        admin.run(f"CREATE ROLE {APP_USER} LOGIN PASSWORD {literal(world.app.password)}")
        admin.run(f"GRANT {APP_USER} TO {MASTER_USER}")
        # On RDS the master owns the first database.
        admin.run(f"ALTER DATABASE {quoted(world.databases[0])} OWNER TO {APP_USER}")
        for name in world.databases[1:]:
            admin.run(f"CREATE DATABASE {quoted(name)} OWNER {APP_USER}")
    finally:
        hang_up(admin)
    for name in world.databases:
        sql = connect(endpoint, name, world.app, trust)
        try:
            sql.run(TABLE_OF_DATA)
            sql.run(
                "INSERT INTO items SELECT i, 'item ' || i, (i % 10000) / 100.0, now() - i * interval '1 minute' "
                f"FROM generate_series(1, {world.rows}) AS i"
            )
            sql.run("SELECT setval('invoice_numbers', 4711)")
            make_tables(sql, writers)
        finally:
            hang_up(sql)


def remove(account: Account, identifier: str) -> None:
    """Ask for the end of a database and of all that was made of it; their servers would be in the way of the next."""
    rds = account.client("rds")
    for page in rds.get_paginator("describe_db_instances").paginate():
        for name in (one["DBInstanceIdentifier"] for one in page["DBInstances"]):
            if name == identifier or name.startswith(f"{identifier}-"):
                # Replicas first or last, protected or not: what cannot go now is in nobody's way.
                with suppress(ClientError):
                    rds.modify_db_instance(DBInstanceIdentifier=name, DeletionProtection=False, ApplyImmediately=True)
                with suppress(ClientError):
                    rds.delete_db_instance(
                        DBInstanceIdentifier=name, SkipFinalSnapshot=True, DeleteAutomatedBackups=True
                    )


def _as_list(tags: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"Key": key, "Value": value} for key, value in tags.items()]
