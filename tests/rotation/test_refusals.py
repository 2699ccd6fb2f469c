"""Every reason to refuse a rotation is given by its name, with advice, and leaves the account as it was.

One database is put into each bad state by the APIs and the SQL that would do it in an account, and back again. What
the sandbox has none of (clusters, directories, other engines, full quotas, pending maintenance) RDS says in its answers
(fault ``answered``), to the one execution that gives the case's name as its ``Reason``.

Some things cannot be had here and are seen in ``tests/engines`` only: a logical slot (nobody may be given REPLICATION;
here a subscription stands for it, which has the same name), a replay that is paused, pg_cron, and a superuser's worker.
"""

import io
import json
import secrets
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from email.utils import parsedate_to_datetime
from functools import cached_property
from typing import Any

import pytest

from lambdas.rotation.names import rotation_id_of, target_identifier
from sandbox.client import SandboxProcess
from sandbox.demo import inventory, progress
from sandbox.demo.connection import Endpoint, Resolver, connect, hang_up, literal, quoted, trusting
from sandbox.demo.world import DATABASES, ZONE, World, wait_available
from tests.rotation.scenarios import ledger_of
from tests.rotation.support import HANDS_OFF, Customer, Inbox

pytestmark = pytest.mark.slow

DATABASE = "refused"
ARN = f"arn:aws:rds:eu-central-1:123456789012:db:{DATABASE}"
DESCRIBE = "rds.DescribeDBInstances"
EXECUTION = "states/execution/rds-key-rotation-rotate-key/"
"""In the inventory."""
NAME_TAKEN = "target-name-taken"
HELD = "held"
HELD_SECONDS = 4.0

Request = dict[str, Any]
Arrange = Callable[["Owner"], AbstractContextManager[Request]]


# -- what is seen ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Seen:
    """An execution that has ended, and what is different since before it."""

    executions: set[str]
    """This one, and the recovery that every failed one gets."""
    status: str
    error: str | None
    cause: str
    found: inventory.Difference
    message: Mapping[str, Any]

    @property
    def reasons(self) -> set[str]:
        return {line.split(":")[0] for line in self.cause.splitlines()}

    def assert_nothing_was_changed(self, *, remembered: bool = True) -> None:
        """New are the executions, and what the ledger remembers: closed, without a lock."""
        assert (self.found.removed, self.found.changed) == ({}, {})
        history = {name for name, facts in self.found.added.items() if "/rotation#" in name and facts["closed"]}
        assert len(history) == remembered
        assert set(self.found.added) - history == {EXECUTION + name for name in self.executions}

    def assert_refused(self, error: str, *words: str) -> None:
        """In the execution, and in what people are told; in neither is a password."""
        assert (self.status, self.error) == ("FAILED", error), self.cause
        assert self.message["moment"] == "RotationRefused"
        assert self.message["failure"] == {"Error": error, "Cause": self.message["failure"]["Cause"]}
        assert _said(self.message["failure"]["Cause"]) == self.cause
        for word in words:
            assert word in self.cause


def _said(cause: str) -> str:
    """Lambda wraps what a function's error said."""
    return str(json.loads(cause)["errorMessage"]) if cause.startswith("{") else cause


# -- the database's owner ----------------------------------------------------------------------------------------------


@dataclass
class Owner:
    """Whose database it is: does to it whatever makes a rotation impossible."""

    customer: Customer
    built: World
    inbox: Inbox
    messages: list[dict[str, Any]] = field(default_factory=list)
    known: set[str] = field(default_factory=set)
    """Executions that have been looked at."""

    @property
    def identifier(self) -> str:
        return self.built.identifier

    def aws(self, service: str) -> Any:
        return self.customer.client(service)

    def rotation(self, name: str, request: Request, *, reason: str | None = None) -> Seen:
        """Start an execution of this name and see it end."""
        account = self.customer.account
        asked = {"DBInstanceIdentifier": self.identifier, "Reason": reason or name, **request}
        before = inventory.take(account)
        arn = progress.start(account, {key: value for key, value in asked.items() if value is not None}, name)
        ended = self.ended(arn)
        return Seen(
            executions={name} | ({self.recovery_of(arn)} if ended["status"] == "FAILED" else set()),
            status=ended["status"],
            error=ended.get("error"),
            cause=_said(ended.get("cause", "")),
            found=inventory.difference(before, inventory.take(account)),
            message=self.message_of(arn),
        )

    def ended(self, arn: str) -> dict[str, Any]:
        states = self.aws("stepfunctions")

        def look() -> dict[str, Any] | None:
            described: dict[str, Any] = states.describe_execution(executionArn=arn)
            return None if described["status"] == "RUNNING" else described

        ended: dict[str, Any] = self.customer.until(look)
        return ended

    def recovery_of(self, arn: str) -> str:
        """The name of the execution that looks after one that has failed; there is nothing for it to do."""
        states = self.aws("stepfunctions")

        def look() -> str | None:
            machine = self.customer.account.rotate_key_arn
            for page in states.get_paginator("list_executions").paginate(stateMachineArn=machine):
                for one in page["executions"]:
                    if one["status"] == "RUNNING" or one["executionArn"] in self.known:
                        continue
                    self.known.add(one["executionArn"])
                    described = states.describe_execution(executionArn=one["executionArn"])
                    if json.loads(described["input"]) == {"Recover": arn}:
                        assert json.loads(described["output"])["route"] == "closed"
                        return str(one["name"])
            return None

        return str(self.customer.until(look))

    def message_of(self, arn: str) -> Mapping[str, Any]:
        def look() -> Mapping[str, Any] | None:
            self.messages += [json.loads(message["Message"]) for message in self.inbox.messages()]
            return next((message for message in self.messages if message["execution"] == arn), None)

        message: Mapping[str, Any] = self.customer.until(look)
        for login in (self.built.master, self.built.app):
            assert login.password not in json.dumps(message)
        return message

    # -- the instance --

    def instance(self) -> dict[str, Any]:
        found = self.customer.instance(self.identifier)
        assert found is not None
        return found

    @cached_property
    def address(self) -> str:
        return str(self.instance()["Endpoint"]["Address"])

    def modify(self, then: Callable[[dict[str, Any]], Any] = bool, **changes: Any) -> None:
        """At once, and wait until it is so."""
        rds = self.aws("rds")
        rds.modify_db_instance(DBInstanceIdentifier=self.identifier, ApplyImmediately=True, **changes)

        def done() -> bool:
            now = self.instance()
            return now["DBInstanceStatus"] == "available" and not now.get("PendingModifiedValues") and bool(then(now))

        self.customer.until(done)

    def endpoint(self) -> Endpoint:
        return Resolver(self.customer.account.dns_host, self.customer.account.dns_port).resolve(self.address)

    def sql(self, database: str, *statements: str) -> list[list[Any]]:
        """As the master, one after the other; the rows of the last one."""
        connection = connect(self.endpoint(), database, self.built.master, trusting(self.customer.account.ca_bundle))
        try:
            rows: list[list[Any]] = [connection.run(statement) or [] for statement in statements][-1]
            return rows
        finally:
            hang_up(connection)

    def accepts(self) -> bool:
        with suppress(Exception):
            return self.sql("postgres", "SELECT true") == [[True]]
        return False

    # -- what is around it --

    @contextmanager
    def tags(self, **changes: str | None) -> Iterator[None]:
        """Of the instance, without their prefix; None: without that one."""
        rds = self.aws("rds")
        before = self.customer.tags(self.identifier)
        names = {f"key-rotation:{name.replace('_', '-')}": value for name, value in changes.items()}
        wanted = [{"Key": name, "Value": value} for name, value in names.items() if value is not None]
        rds.remove_tags_from_resource(ResourceName=ARN, TagKeys=list(names))
        rds.add_tags_to_resource(ResourceName=ARN, Tags=wanted)
        try:
            yield
        finally:
            rds.remove_tags_from_resource(ResourceName=ARN, TagKeys=list(names))
            back = [{"Key": name, "Value": before[name]} for name in names if name in before]
            rds.add_tags_to_resource(ResourceName=ARN, Tags=back)

    @contextmanager
    def secret(self, fields: Mapping[str, Any], **options: Any) -> Iterator[str]:
        manager = self.aws("secretsmanager")
        arn: str = manager.create_secret(
            Name=f"{self.identifier}/endpoint-{secrets.token_hex(4)}", SecretString=json.dumps(fields), **options
        )["ARN"]
        try:
            yield arn
        finally:
            manager.delete_secret(SecretId=arn, ForceDeleteWithoutRecovery=True)

    def login(self, **changes: Any) -> dict[str, Any]:
        """The fields of a login secret that works, with changes; None: without that field."""
        fields = {"username": self.built.master.user, "password": self.built.master.password, **changes}
        return {name: value for name, value in fields.items() if value is not None}

    @contextmanager
    def record(self, zone_id: str, name: str, **record: Any) -> Iterator[Request]:
        """In a hosted zone; by default a CNAME to the database."""
        route53 = self.aws("route53")
        usual = {"Name": name, "Type": "CNAME", "TTL": 30, "ResourceRecords": [{"Value": self.address}]}

        def change(action: str) -> None:
            batch = {"Changes": [{"Action": action, "ResourceRecordSet": usual | record}]}
            route53.change_resource_record_sets(HostedZoneId=zone_id, ChangeBatch=batch)

        change("CREATE")
        try:
            yield {"DnsRecord": f"{zone_id}/{name}"}
        finally:
            change("DELETE")

    @contextmanager
    def zone(self, name: str) -> Iterator[str]:
        route53 = self.aws("route53")
        made = route53.create_hosted_zone(Name=name, CallerReference=secrets.token_hex(8))["HostedZone"]["Id"]
        try:
            yield made.rsplit("/", 1)[-1]
        finally:
            route53.delete_hosted_zone(Id=made)

    def for_me_only(self) -> str:
        """A key policy that does not leave it to the account's IAM policies."""
        me = {"AWS": self.aws("sts").get_caller_identity()["Arn"]}
        mine = {"Effect": "Allow", "Principal": me, "Action": "kms:*", "Resource": "*"}
        return json.dumps({"Version": "2012-10-17", "Statement": [mine]})

    def rotation_function(self, name: str) -> str:
        """A function by which Secrets Manager may rotate secrets; nobody runs it here."""
        functions = self.aws("lambda")
        with suppress(functions.exceptions.ResourceNotFoundException):
            return str(functions.get_function(FunctionName=name)["Configuration"]["FunctionArn"])
        archive = io.BytesIO()
        with zipfile.ZipFile(archive, "w") as zipped:
            zipped.writestr("index.py", "")
        role = self.aws("iam").list_roles()["Roles"][0]["Arn"]
        made = functions.create_function(
            FunctionName=name, Runtime="python3.13", Role=role, Handler="index.h", Code={"ZipFile": archive.getvalue()}
        )
        return str(made["FunctionArn"])


@pytest.fixture(scope="module")
def customer() -> Iterator[Customer]:
    with SandboxProcess(faults=FAULTS) as sandbox:
        yield Customer.of(sandbox)


@pytest.fixture(scope="module")
def owner(customer: Customer, bystander: Request) -> Iterator[Owner]:
    built = customer.build(DATABASE, rows=50, writers=1)
    wait_available(customer.account, bystander["DBInstanceIdentifier"])
    with customer.notifications() as inbox:
        yield Owner(customer, built, inbox)


@pytest.fixture(scope="module")
def bystander(customer: Customer) -> Request:
    """Another database, without encryption and without backups, that is being made; how to log in to it.

    Its name is the one that a certain rotation will want for its target.
    """
    executions = customer.account.rotate_key_arn.replace(":stateMachine:", ":execution:")
    name = target_identifier(DATABASE, rotation_id_of(f"{executions}:{NAME_TAKEN}"))
    login = {"username": "dbadmin", "password": secrets.token_urlsafe(18)}
    customer.client("rds").create_db_instance(
        DBInstanceIdentifier=name,
        DBInstanceClass="db.t4g.medium",
        Engine="postgres",
        AllocatedStorage=20,
        MasterUsername=login["username"],
        MasterUserPassword=login["password"],
        BackupRetentionPeriod=0,
        Tags=[{"Key": tag, "Value": value} for tag, value in HANDS_OFF.items()],
    )
    secret = customer.client("secretsmanager").create_secret(Name=f"{name}/login", SecretString=json.dumps(login))
    return {"DBInstanceIdentifier": name, "LoginSecret": secret["ARN"]}


# -- bad states --------------------------------------------------------------------------------------------------------


def as_it_is(owner: Owner) -> AbstractContextManager[Request]:
    return nullcontext({})


@contextmanager
def stopped(owner: Owner) -> Iterator[Request]:
    rds = owner.aws("rds")
    rds.stop_db_instance(DBInstanceIdentifier=owner.identifier)
    owner.customer.until(lambda: owner.instance()["DBInstanceStatus"] == "stopped")
    try:
        yield {}
    finally:
        rds.start_db_instance(DBInstanceIdentifier=owner.identifier)
        owner.customer.until(lambda: owner.instance()["DBInstanceStatus"] == "available" and owner.accepts())


@contextmanager
def rds_manages_the_password(owner: Owner) -> Iterator[Request]:
    owner.modify(ManageMasterUserPassword=True)
    try:
        yield {"LoginSecret": owner.instance()["MasterUserSecret"]["SecretArn"]}
    finally:
        owner.modify(ManageMasterUserPassword=False, MasterUserPassword=owner.built.master.password)


@contextmanager
def a_copy_of_the_managed_password(owner: Owner) -> Iterator[Request]:
    with rds_manages_the_password(owner) as managed:
        value = owner.aws("secretsmanager").get_secret_value(SecretId=managed["LoginSecret"])["SecretString"]
        with owner.secret(json.loads(value)) as arn:
            yield {"LoginSecret": arn}


@contextmanager
def a_replica(owner: Owner) -> Iterator[Request]:
    """Yields what to ask for to have it rotated."""
    rds, name, zone_id = owner.aws("rds"), "refused-replica", str(owner.built.zone_id)
    rds.create_db_instance_read_replica(DBInstanceIdentifier=name, SourceDBInstanceIdentifier=owner.identifier)
    try:
        address = wait_available(owner.customer.account, name)["Endpoint"]["Address"]
        with owner.record(zone_id, f"replica.{ZONE}", ResourceRecords=[{"Value": address}]) as request:
            login = {"LoginSecret": owner.built.login_secret_arn, "Connectivity": ["dns"]}
            yield {**request, **login, "DBInstanceIdentifier": name}
    finally:
        rds.delete_db_instance(DBInstanceIdentifier=name, SkipFinalSnapshot=True)
        owner.customer.until(lambda: owner.customer.instance(name) is None)


@contextmanager
def changes_pending(owner: Owner) -> Iterator[Request]:
    owner.aws("rds").modify_db_instance(DBInstanceIdentifier=owner.identifier, MultiAZ=True, ApplyImmediately=False)
    try:
        yield {}
    finally:
        owner.modify(lambda now: now["MultiAZ"], MultiAZ=True)
        owner.modify(lambda now: not now["MultiAZ"], MultiAZ=False)


@contextmanager
def target_of_a_proxy(owner: Owner) -> Iterator[Request]:
    rds = owner.aws("rds")
    rds.create_db_proxy(
        DBProxyName="pool",
        EngineFamily="POSTGRESQL",
        Auth=[{"AuthScheme": "SECRETS", "SecretArn": owner.built.login_secret_arn, "IAMAuth": "DISABLED"}],
        RoleArn="arn:aws:iam::123456789012:role/pool",
        VpcSubnetIds=[subnet["SubnetIdentifier"] for subnet in owner.instance()["DBSubnetGroup"]["Subnets"]],
    )
    try:
        rds.register_db_proxy_targets(DBProxyName="pool", DBInstanceIdentifiers=[owner.identifier])
        yield {}
    finally:
        rds.delete_db_proxy(DBProxyName="pool")


@contextmanager
def maintenance_in_two_hours(owner: Owner) -> Iterator[Request]:
    """What there is to do RDS says by itself (`ANSWERS`)."""
    rds = owner.aws("rds")
    answer = rds.describe_db_instances(DBInstanceIdentifier=owner.identifier)
    windows = ("PreferredMaintenanceWindow", "PreferredBackupWindow")
    before = {name: answer["DBInstances"][0][name] for name in windows}
    opens = parsedate_to_datetime(answer["ResponseMetadata"]["HTTPHeaders"]["date"]) + timedelta(hours=2)
    hour, later = timedelta(hours=1), opens + timedelta(hours=8)
    owner.modify(
        PreferredMaintenanceWindow=f"{opens:%a:%H:%M}-{opens + hour:%a:%H:%M}".lower(),
        # RDS lets the two not overlap, whatever the hour of the test.
        PreferredBackupWindow=f"{later:%H:%M}-{later + hour:%H:%M}",
    )
    try:
        yield {}
    finally:
        owner.modify(**before)


@contextmanager
def with_many_tags(owner: Owner) -> Iterator[Request]:
    rds, names = owner.aws("rds"), [f"t{at}" for at in range(48)]
    arn = rds.describe_db_instances(DBInstanceIdentifier=owner.built.identifier)["DBInstances"][0]["DBInstanceArn"]
    rds.add_tags_to_resource(ResourceName=arn, Tags=[{"Key": name, "Value": "x"} for name in names])
    try:
        yield {}
    finally:
        rds.remove_tags_from_resource(ResourceName=arn, TagKeys=names)


@contextmanager
def key_disabled(owner: Owner) -> Iterator[Request]:
    kms = owner.aws("kms")
    kms.disable_key(KeyId=owner.built.key_arn)
    try:
        yield {}
    finally:
        kms.enable_key(KeyId=owner.built.key_arn)


@contextmanager
def key_for_its_owner_only(owner: Owner) -> Iterator[Request]:
    kms, key = owner.aws("kms"), owner.built.key_arn
    before = kms.get_key_policy(KeyId=key, PolicyName="default")["Policy"]
    kms.put_key_policy(KeyId=key, PolicyName="default", Policy=owner.for_me_only())
    try:
        yield {}
    finally:
        kms.put_key_policy(KeyId=key, PolicyName="default", Policy=before)


def without_tag(name: str) -> Arrange:
    @contextmanager
    def arrange(owner: Owner) -> Iterator[Request]:
        with owner.tags(**{name: None}):
            yield {}

    return arrange


def with_login(**fields: Any) -> Arrange:
    @contextmanager
    def arrange(owner: Owner) -> Iterator[Request]:
        with owner.secret(owner.login(**fields)) as arn:
            yield {"LoginSecret": arn}

    return arrange


@contextmanager
def login_under_a_key_of_its_owner(owner: Owner) -> Iterator[Request]:
    key = owner.aws("kms").create_key(Policy=owner.for_me_only())["KeyMetadata"]["Arn"]
    with owner.secret(owner.login(), KmsKeyId=key) as arn:
        yield {"LoginSecret": arn}


@contextmanager
def login_without_rights(owner: Owner) -> Iterator[Request]:
    """A role like any other, that may not even connect everywhere."""
    password, name = secrets.token_urlsafe(18), quoted(owner.built.databases[1])
    owner.sql(
        "postgres",
        f"CREATE ROLE plain LOGIN PASSWORD {literal(password)}",
        f"REVOKE CONNECT ON DATABASE {name} FROM PUBLIC",
    )
    try:
        with owner.secret({"username": "plain", "password": password}) as arn:
            yield {"LoginSecret": arn}
    finally:
        owner.sql("postgres", f"GRANT CONNECT ON DATABASE {name} TO PUBLIC", "DROP ROLE plain")


def with_endpoint(**fields: Any) -> Arrange:
    """Applications read a secret, with these fields beside its host; ``{source}`` is the database's address."""

    @contextmanager
    def arrange(owner: Owner) -> Iterator[Request]:
        given = {"host": "{source}", **fields}
        filled = {name: value.format(source=owner.address) for name, value in given.items() if value is not None}
        with owner.secret(filled) as arn:
            yield {"Connectivity": ["secret"], "EndpointSecret": arn}

    return arrange


def rotated(secret: str, arranged: Arrange, function: str, *, at_once: bool = False) -> Arrange:
    """As arranged, and Secrets Manager rotates the secret that this field of the input names."""

    @contextmanager
    def arrange(owner: Owner) -> Iterator[Request]:
        with arranged(owner) as request:
            owner.aws("secretsmanager").rotate_secret(
                SecretId=request[secret],
                RotationLambdaARN=owner.rotation_function(function),
                RotationRules={"AutomaticallyAfterDays": 30},
                RotateImmediately=at_once,
            )
            yield request

    return arrange


@contextmanager
def login_due_within_the_hour(owner: Owner) -> Iterator[Request]:
    manager = owner.aws("secretsmanager")
    with owner.secret(owner.login()) as arn:
        answer = manager.describe_secret(SecretId=arn)["ResponseMetadata"]["HTTPHeaders"]["date"]
        hour = (parsedate_to_datetime(answer) + timedelta(hours=1)).hour
        manager.rotate_secret(
            SecretId=arn,
            RotationLambdaARN=owner.rotation_function(ALLOWED),
            RotationRules={"ScheduleExpression": f"cron(0 {hour} * * ? *)"},
            RotateImmediately=False,
        )
        yield {"LoginSecret": arn}


@contextmanager
def login_that_names_the_source(owner: Owner) -> Iterator[Request]:
    """The function that rotates it goes by the address in it."""
    login = rotated("LoginSecret", with_login(host=owner.address), ALLOWED)
    with login(owner) as request:
        yield request


@contextmanager
def login_that_names_the_source_beside_an_endpoint_without_host(owner: Owner) -> Iterator[Request]:
    with login_that_names_the_source(owner) as login, with_endpoint(host=None, port="5432")(owner) as endpoint:
        yield login | endpoint


def with_record(name: str, **record: Any) -> Arrange:
    @contextmanager
    def arrange(owner: Owner) -> Iterator[Request]:
        with owner.record(str(owner.built.zone_id), f"{name}.{ZONE}", **record) as request:
            yield request

    return arrange


def not_there(owner: Owner) -> AbstractContextManager[Request]:
    return nullcontext({"DnsRecord": f"{owner.built.zone_id}/nobody.{ZONE}"})


@contextmanager
def record_in_a_second_zone(owner: Owner) -> Iterator[Request]:
    with owner.zone(ZONE) as second, owner.record(second, str(owner.built.record)):
        yield {}


@contextmanager
def another_zone_answers(owner: Owner) -> Iterator[Request]:
    """A zone of a longer name: Route 53's API shows the record as it should be, and no resolver ever sees it."""
    name, address = f"orders.deep.{ZONE}", [{"Value": "10.0.0.1"}]
    with (
        owner.zone(f"deep.{ZONE}") as deeper,
        owner.record(deeper, name, Type="A", ResourceRecords=address),
        owner.record(str(owner.built.zone_id), name) as request,
    ):
        yield request


def with_sql(database: str, do: str, undo: str) -> Arrange:
    """Statements are separated by semicolons: each is sent by itself."""

    @contextmanager
    def arrange(owner: Owner) -> Iterator[Request]:
        name = owner.built.databases[1] if database == APPLICATION else database
        owner.sql(name, *do.split("; "))
        try:
            yield {}
        finally:
            owner.sql(name, *undo.split("; "))

    return arrange


@contextmanager
def prepared_transaction(owner: Owner) -> Iterator[Request]:
    """There can be one only while a parameter of the server lets there be some."""
    rds, database = owner.aws("rds"), owner.built.databases[1]

    def let_there_be(number: int) -> None:
        parameter = {"ParameterName": "max_prepared_transactions", "ParameterValue": str(number)}
        rds.modify_db_parameter_group(
            DBParameterGroupName=owner.built.parameter_group,
            Parameters=[parameter | {"ApplyMethod": "pending-reboot"}],
        )
        rds.reboot_db_instance(DBInstanceIdentifier=owner.identifier)
        owner.customer.until(
            lambda: owner.accepts() and owner.sql("postgres", "SHOW max_prepared_transactions") == [[str(number)]]
        )
        wait_available(owner.customer.account, owner.identifier)

    let_there_be(5)
    try:
        owner.sql(database, "BEGIN", "INSERT INTO items VALUES (-1, '', 0, now())", "PREPARE TRANSACTION 'forgotten'")
        yield {}
        owner.sql(database, "ROLLBACK PREPARED 'forgotten'")
    finally:
        let_there_be(0)


@contextmanager
def control_database_of_somebody_else(owner: Owner) -> Iterator[Request]:
    owner.sql("postgres", "CREATE DATABASE rds_key_rotation")
    try:
        owner.sql("rds_key_rotation", "CREATE TABLE mine (id int)")
        yield {}
    finally:
        owner.sql("postgres", "DROP DATABASE rds_key_rotation")


# -- the cases ---------------------------------------------------------------------------------------------------------

ALLOWED = "SecretsManager-rotation"
NOT_ALLOWED = "somebody-elses-rotation"
APPLICATION = "of an application"
QUOTAS = {"DBInstances": (40, 40), "AllocatedStorage": (99_990, 100_000), "ManualSnapshots": (99, 100)}

ANSWERS: dict[str, tuple[str, dict[str, Any]]] = {
    "cluster-member": (DESCRIBE, {"DBInstances": {"DBClusterIdentifier": "orders-cluster"}}),
    "backups-replicated": (
        DESCRIBE,
        {
            "DBInstances": {
                "DBInstanceAutomatedBackupsReplications": [
                    {"DBInstanceAutomatedBackupsArn": "arn:aws:rds:eu-south-1:123456789012:auto-backup:ab-1"}
                ]
            }
        },
    ),
    "in-directory": (
        DESCRIBE, {"DBInstances": {"DomainMemberships": [{"Domain": "d-1234567890", "Status": "joined"}]}}
    ),
    "activity-stream": (DESCRIBE, {"DBInstances": {"ActivityStreamStatus": "started"}}),
    "near-its-limit": (DESCRIBE, {"DBInstances": {"MaxAllocatedStorage": 21}}),
    "mysql": (DESCRIBE, {"DBInstances": {"Engine": "mysql", "EngineVersion": "8.4.3"}}),
    "old-postgres": (DESCRIBE, {"DBInstances": {"EngineVersion": "13.22"}}),
    "maintenance-pending": (
        "rds.DescribePendingMaintenanceActions",
        {
            "PendingMaintenanceActions": [
                {
                    "ResourceIdentifier": ARN,
                    "PendingMaintenanceActionDetails": [
                        {"Action": "system-update", "Description": "New Operating System update is available"}
                    ],
                }
            ]
        },
    ),
    **{
        name: (
            "rds.DescribeAccountAttributes",
            {"AccountQuotas": [{"AccountQuotaName": name, "Used": used, "Max": maximum}]},
        )
        for name, (used, maximum) in QUOTAS.items()
    },
}  # fmt: skip

FAULTS: list[dict[str, Any]] = [
    *(
        {"kind": "answered", "reason": reason, "call": call, "parameters": parameters}
        for reason, (call, parameters) in ANSWERS.items()
    ),
    {
        # StartRotation has read the tags by then.
        "kind": "answered", "reason": "iac-owned", "function": "preflight", "call": DESCRIBE,
        "parameters": {"DBInstances": {"TagList": [{"Key": "aws:cloudformation:stack-name", "Value": "shop"}]}},
    },
    {
        "kind": "denied", "reason": "zone-not-allowed", "function": "start-rotation",
        "call": "route53.ListResourceRecordSets",
    },
    {"kind": "denied", "reason": "question-unanswered", "function": "preflight", "call": "rds.DescribeDBProxies"},
    {
        "kind": "cut", "reason": "no-way-in", "function": "preflight", "side": "source", "how": "reset",
        "seconds": 1.5,
    },
    {
        # One that is let through by mistake goes no further than its key: a failure of one test, not of all after it.
        "kind": "error-before", "function": "create-encrypted-read-replica", "call": "rds.CreateDBInstanceReadReplica",
        "onwards": True, "code": "InstanceQuotaExceeded",
    },
    {"kind": "held", "reason": HELD, "function": "preflight", "seconds": HELD_SECONDS},
]  # fmt: skip


@dataclass(frozen=True)
class Case:
    """``name`` is the execution's, and the ``Reason`` in its input."""

    name: str
    reasons: tuple[str, ...]
    arrange: Arrange = as_it_is
    request: Request = field(default_factory=dict)
    words: tuple[str, ...] = ()

    def as_parameter(self) -> Any:
        return pytest.param(self, id=self.name, marks=[pytest.mark.proof] if self.name in ONLY_PROOF else [])


CASES = [
    # what the instance is
    Case("stopped", ("NotAvailable", "DatabaseUnreachable"), stopped, words=("refused is stopped",)),
    Case("password-managed-by-rds", ("ManagedMasterPassword",), a_copy_of_the_managed_password),
    Case("secret-owned-by-rds", ("ManagedMasterPassword", "SecretOwnedByService"), rds_manages_the_password),
    Case("cluster-member", ("ClusterMember",), words=("orders-cluster",)),
    Case("backups-replicated", ("BackupsReplicated",), words=("eu-south-1", "backup_regions")),
    Case("in-directory", ("InDirectory",)),
    Case("activity-stream", ("ActivityStream",)),
    Case("near-its-limit", ("StorageLimit",), words=("may grow to 21 GiB, and has 20 GiB",)),
    Case("changes-pending", ("ChangesPending",), changes_pending, words=("MultiAZ",)),
    Case("too-many-tags", ("TooManyTags",), with_many_tags, words=("46 tags at most",)),
    Case("mysql", ("EngineNotSupported",), words=("mysql",)),
    Case("old-postgres", ("EngineNotSupported",), words=("13.22",)),
    # what is around it
    Case("proxy-target", ("ProxyTarget",), target_of_a_proxy, words=("RDS Proxy pool",)),
    Case("iac-owned", ("IacOwned",), words=("stack shop", '"Accept": ["iac-owned"]')),
    Case(NAME_TAKEN, ("TargetNameTaken",)),
    Case("maintenance-pending", ("MaintenancePending",), maintenance_in_two_hours, words=("system-update",)),
    *(Case(name, ("QuotaExhausted",), words=(f"{name}: {QUOTAS[name][0]} of",)) for name in QUOTAS),
    Case("question-unanswered", ("QuestionUnanswered",), words=("rds:DescribeDBProxies",)),
    Case("key-disabled", ("OldKeyUnusable",), key_disabled),
    Case("key-unreadable", ("OldKeyUnreadable",), key_for_its_owner_only),
    # how applications find it: a record
    Case("no-connectivity", ("NoConnectivity",), without_tag("connectivity")),
    Case("no-record", ("NoDnsRecord",), without_tag("dns_record")),
    Case("record-missing", ("RecordMissing",), not_there),
    Case(
        "record-leads-elsewhere",
        ("RecordLeadsElsewhere",),
        with_record("elsewhere", ResourceRecords=[{"Value": "orders.example.com"}]),
        words=("orders.example.com",),
    ),
    Case(
        "record-is-an-address",
        ("RecordNotSimple",),
        with_record("address", Type="A", ResourceRecords=[{"Value": "10.0.0.1"}]),
    ),
    Case("record-is-weighted", ("RecordNotSimple",), with_record("weighted", SetIdentifier="blue", Weight=10)),
    Case("record-in-two-zones", ("RecordInTwoZones",), record_in_a_second_zone),
    Case("zone-unknown", ("ZoneUnknown",), request={"DnsRecord": f"Z0NOSUCHZONE/refused.{ZONE}"}),
    Case("zone-not-allowed", ("ZoneNotAllowed",), words=("hosted_zone_ids",)),
    Case("name-leads-elsewhere", ("NameLeadsElsewhere",), another_zone_answers, words=("10.0.0.1",)),
    # how applications find it: a secret
    Case("no-endpoint-secret", ("NoEndpointSecret",), request={"Connectivity": ["secret"]}),
    Case(
        "endpoint-unknown", ("SecretUnknown",), request={"Connectivity": ["secret"], "EndpointSecret": "no-such-secret"}
    ),
    Case("endpoint-incomplete", ("SecretIncomplete",), with_endpoint(host=None, port="5432"), words=("host",)),
    Case("endpoint-leads-elsewhere", ("SecretLeadsElsewhere",), with_endpoint(host="db.example.com")),
    Case("endpoint-twice", ("SecretNamesHostElsewhere",), with_endpoint(url="postgres://{source}/"), words=("in url",)),
    Case(
        "endpoint-about-to-rotate",
        ("SecretAboutToRotate",),
        rotated("EndpointSecret", with_endpoint(), ALLOWED, at_once=True),
    ),
    Case(
        "endpoint-rotated-by-others",
        ("RotationFunctionNotAllowed",),
        rotated("EndpointSecret", with_endpoint(), NOT_ALLOWED),
    ),
    # how the rotation logs in
    Case("no-login", ("NoLoginSecret",), without_tag("login_secret")),
    Case("login-unknown", ("SecretUnknown",), request={"LoginSecret": "no-such-secret"}),
    Case("login-not-allowed", ("SecretNotAllowed",), login_under_a_key_of_its_owner, words=("secret_key_arns",)),
    Case("login-incomplete", ("SecretIncomplete",), with_login(password=None), words=("password",)),
    Case("login-refused", ("LoginRefused",), with_login(password="wrong-horse")),
    Case(
        "login-without-rights",
        ("MissingRight",),
        login_without_rights,
        words=(
            'ALTER ROLE "plain" CREATEDB',
            'GRANT pg_signal_backend TO "plain"',
            'GRANT pg_monitor TO "plain"',
            'GRANT "app" TO "plain"',
            'GRANT "plain" TO "dbadmin"; ALTER DATABASE "postgres" OWNER TO "plain"',
            f'GRANT CONNECT ON DATABASE {quoted(DATABASES[1])} TO "plain"',
        ),
    ),
    Case(
        "login-being-rotated",
        ("SecretAboutToRotate",),
        rotated("LoginSecret", with_login(), ALLOWED, at_once=True),
        words=("AWSPENDING",),
    ),
    Case("login-due", ("SecretAboutToRotate",), login_due_within_the_hour, words=("will be rotated at",)),
    Case("login-rotated-by-others", ("RotationFunctionNotAllowed",), rotated("LoginSecret", with_login(), NOT_ALLOWED)),
    Case("login-names-the-source", ("LoginSecretNamesSource",), login_that_names_the_source),
    Case(
        "login-names-the-source-and-nobody-knows-the-endpoint",
        ("LoginSecretNamesSource", "SecretIncomplete"),
        login_that_names_the_source_beside_an_endpoint_without_host,
    ),
    Case("no-way-in", ("DatabaseUnreachable",), words=("security group",)),
    # what the databases hold
    Case("prepared-transaction", ("PreparedTransactions",), prepared_transaction, words=(DATABASES[1],)),
    Case(
        "logical-slots",
        ("LogicalSlots",),
        with_sql(
            APPLICATION,
            "CREATE SUBSCRIPTION follower CONNECTION 'host=elsewhere password=x' PUBLICATION all_of_it "
            "WITH (connect = false, slot_name = NONE)",
            "DROP SUBSCRIPTION follower",
        ),
        words=("follower",),
    ),
    Case(
        "unlogged-tables",
        ("UnloggedTables",),
        with_sql(APPLICATION, "CREATE UNLOGGED TABLE cache AS SELECT 1 AS id", "DROP TABLE cache"),
    ),
    # what it would cost
    Case("downtime", ("Downtime",), request={"Strategy": "snapshot"}, words=("14400 s at most", "downtime")),
    Case("control-database-taken", ("ControlDatabaseTaken",), control_database_of_somebody_else),
]


ONLY_PROOF = {
    # slow to bring about
    "changes-pending", "password-managed-by-rds", "prepared-transaction",
    # another case asks the same question
    "mysql", "activity-stream",
    "AllocatedStorage", "ManualSnapshots", "old-postgres", "record-is-an-address", "endpoint-unknown",
    "endpoint-incomplete", "endpoint-about-to-rotate", "endpoint-rotated-by-others", "login-due", "login-incomplete",
    "login-names-the-source",
}  # fmt: skip


@pytest.mark.parametrize("case", [case.as_parameter() for case in CASES])
def test_by_name(owner: Owner, case: Case) -> None:
    with case.arrange(owner) as request:
        seen = owner.rotation(case.name, case.request | request)
    if case.name == "no-way-in":
        owner.customer.until(owner.accepts)

    seen.assert_refused("PreflightRefused", *case.words)
    assert seen.reasons == set(case.reasons)
    assert all(line.partition(" — ")[2] for line in seen.cause.splitlines()), "each with advice"
    seen.assert_nothing_was_changed()


@pytest.mark.parametrize("risk", ["logical-slots", "unlogged-tables", "iac-owned", "downtime"])
def test_a_risk_that_is_accepted_by_name_is_let_through(owner: Owner, risk: str) -> None:
    case = next(case for case in CASES if case.name == risk)
    with case.arrange(owner) as request:
        seen = owner.rotation(
            f"{risk}-accepted", case.request | request | {"Accept": [risk], "DryRun": True}, reason=risk
        )

    assert seen.status == "SUCCEEDED", seen.cause
    assert seen.message["moment"] == "RotationPlanned"
    assert seen.message["plan"]["accept"] == [risk]
    seen.assert_nothing_was_changed()


def test_without_encryption_and_without_backups(owner: Owner, bystander: Request) -> None:
    bystanders = owner.customer.instance(bystander["DBInstanceIdentifier"])
    assert bystanders is not None
    values = [{"Value": bystanders["Endpoint"]["Address"]}]
    with owner.record(str(owner.built.zone_id), f"bystander.{ZONE}", ResourceRecords=values) as record:
        seen = owner.rotation("bystander", {**bystander, **record, "Connectivity": ["dns"]})

    seen.assert_refused("PreflightRefused")
    assert seen.reasons == {"Unencrypted", "BackupsOff"}
    seen.assert_nothing_was_changed()


@pytest.mark.proof
def test_neither_a_source_of_replicas_nor_a_replica(owner: Owner) -> None:
    with a_replica(owner) as replica:
        name = replica["DBInstanceIdentifier"]
        of_the_source, of_the_replica = owner.rotation("has-replicas", {}), owner.rotation("is-replica", replica)

    of_the_source.assert_refused("PreflightRefused", name)
    assert of_the_source.reasons == {"ReplicasAway"}
    of_the_source.assert_nothing_was_changed()
    of_the_replica.assert_refused("PreflightRefused", f"rotate {owner.identifier}")
    assert of_the_replica.reasons == {"IsReplica", "BackupsOff"}
    of_the_replica.assert_nothing_was_changed()


def test_a_vpc_that_the_functions_are_not_in(owner: Owner) -> None:
    """This sandbox's stack has no VPC; Preflight is told that it runs in one."""
    functions, states = owner.aws("lambda"), owner.aws("stepfunctions")
    name, machine = "rds-key-rotation-preflight", owner.customer.account.rotate_key_arn
    definition = states.describe_state_machine(stateMachineArn=machine)["definition"]
    environment = functions.get_function_configuration(FunctionName=name)["Environment"]["Variables"]
    defaults = json.loads(environment["ROTATION_DEFAULTS"]) | {"vpc_ids": ["vpc-0a1b2c3d4e5f60718"]}
    changed = environment | {"ROTATION_DEFAULTS": json.dumps(defaults)}
    functions.update_function_configuration(FunctionName=name, Environment={"Variables": changed})
    version = functions.publish_version(FunctionName=name)["FunctionArn"]
    called = next(arn for arn in definition.split('"') if arn.startswith(version.rsplit(":", 1)[0]))
    states.update_state_machine(stateMachineArn=machine, definition=definition.replace(called, version))

    try:
        seen = owner.rotation("vpc-not-reachable", {})
    finally:
        states.update_state_machine(stateMachineArn=machine, definition=definition)

    seen.assert_refused("PreflightRefused", "vpc-0a1b2c3d4e5f60718", "on port 5432")
    assert seen.reasons == {"VpcNotReachable"}
    seen.assert_nothing_was_changed()


def test_several_reasons_are_given_at_once(owner: Owner) -> None:
    """Whoever removes one reason must not find the next one only by trying again."""
    with key_for_its_owner_only(owner), owner.tags(dns_record=None):
        seen = owner.rotation("several", {"LoginSecret": "no-such-secret"})

    seen.assert_refused("PreflightRefused")
    assert seen.reasons == {"OldKeyUnreadable", "NoDnsRecord", "SecretUnknown"}
    seen.assert_nothing_was_changed()


# -- before Preflight --------------------------------------------------------------------------------------------------


def test_a_database_that_does_not_exist(owner: Owner) -> None:
    seen = owner.rotation("unknown-database", {"DBInstanceIdentifier": "nobody"})

    seen.assert_refused("UnknownDatabase", "nobody", "in this account and Region")
    seen.assert_nothing_was_changed(remembered=False)


@pytest.mark.parametrize(
    ("name", "request_", "words"),
    [
        ("unknown-field", {"Grace": 1}, ("unknown input field Grace", "known: ", "GraceDays")),
        ("no-database", {"DBInstanceIdentifier": None}, ("the input needs DBInstanceIdentifier",)),
        (
            "short-budget",
            {"Strategy": "snapshot", "WriteOutageBudgetSeconds": 600},
            ("strategy snapshot takes 601 to 86400 seconds, not 600",),
        ),
        ("unknown-risk", {"Accept": ["slots"]}, ("Accept: knows no slots", "known: logical-slots")),
        ("two-at-once", {"RetireKey": "maybe", "DryRun": "yes"}, ("RetireKey: must be", "DryRun: must be true or")),
    ],
)
def test_an_input_that_means_nothing(owner: Owner, name: str, request_: Request, words: tuple[str, ...]) -> None:
    seen = owner.rotation(name, request_)

    seen.assert_refused("InputRefused", *words)
    seen.assert_nothing_was_changed(remembered=False)


@pytest.mark.parametrize(
    ("name", "tags", "words"),
    [
        (
            "unknown-tag",
            {"grace_day": "7"},
            ("unknown tag key-rotation:grace-day", "known: ", "key-rotation:grace-days"),
        ),
        ("later-tag", {"approval": "required"}, ("key-rotation:approval: is not supported yet; remove it",)),
    ],
)
def test_a_tag_that_means_nothing(owner: Owner, name: str, tags: dict[str, str], words: tuple[str, ...]) -> None:
    """Ignored, a misspelt one would do something else than its owner has asked for."""
    with owner.tags(**tags):
        seen = owner.rotation(name, {})

    seen.assert_refused("InputRefused", *words)
    seen.assert_nothing_was_changed(remembered=False)


def test_a_second_rotation_of_the_same_database(owner: Owner) -> None:
    account = owner.customer.account
    dry = {"DBInstanceIdentifier": owner.identifier, "Reason": HELD, "DryRun": True}
    before = inventory.take(account)
    first = progress.start(account, dry, HELD)
    owner.customer.until(lambda: "lock" in ledger_of(owner.customer, owner.identifier))

    second = progress.start(account, dry | {"Reason": "second"}, "second")
    ended = owner.ended(second)
    assert "lock" in ledger_of(owner.customer, owner.identifier)  # still the first one's

    assert (ended["status"], ended["error"]) == ("FAILED", "RotationInProgress")
    assert f"is at work; wait for {first}" in _said(ended["cause"])
    assert owner.message_of(second)["failure"]["Error"] == "RotationInProgress"
    assert owner.ended(first)["status"] == "SUCCEEDED"
    recovery = owner.recovery_of(second)
    found = inventory.difference(before, inventory.take(account))
    assert (found.removed, found.changed) == ({}, {})
    history = [name for name in found.added if f"/{owner.identifier}/rotation#" in name and found.added[name]["closed"]]
    assert len(history) == 1
    assert found.added.keys() - set(history) == {EXECUTION + name for name in (HELD, "second", recovery)}
