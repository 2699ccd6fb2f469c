"""The permission matrix as it is deployed: databases that need all of it, and roles that lack a part of it."""

import io
import json
import re
import secrets
import time
import zipfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property, partial
from typing import Any

from infra.config import load
from infra.tasks import permission_matrix
from lambdas.rotation.names import BASE_NAME_TAG, DEPLOYMENT_TAG, RELEASED_TAG, ROTATION_ID_TAG, region_of
from lambdas.rotation.policy import request_for
from sandbox.demo import world
from sandbox.demo.dialects import AURORA_MYSQL, MULTI_AZ_POSTGRES
from sandbox.demo.world import CATCH_UP, Connectivity, World
from sandbox.sweep.scenario import servers_of
from tests.rotation.support import Customer, Inbox

CONFIG = load("sandbox")
TASKS = {task.state_name: task for task in permission_matrix(CONFIG)}

Permission = tuple[str, str]
"""The state whose function has it, and the action."""

PERMISSIONS: tuple[Permission, ...] = tuple(
    (name, action)
    for name, task in TASKS.items()
    for action in sorted({action for grant in task.grants for action in grant.actions})
)

GRANTS = "grants"
"""The policy of a role in which `infra/task_function.py` puts the whole row."""

PATIENCE_SECONDS = 180.0
KEY_ROTATION_DAYS = 180
BYSTANDERS_BASE = "elsewhere"
IDLE_LOOKS = 4
UNFINISHED_RULE = CONFIG.name("ended-unfinished")


def called(permission: Permission) -> str:
    """``("Promote", "rds:PromoteReadReplica")`` -> ``promote-rds:PromoteReadReplica``."""
    state, action = permission
    return f"{TASKS[state].package.replace('_', '-')}-{action}"


@dataclass(frozen=True)
class Ended:
    """What people can read of a rotation that has ended, or that waits for somebody."""

    cause: str
    """Of the executions that failed."""
    told: str
    """Messages, output, and the journal of what is not over."""


class Lab:
    """Databases that use everything the matrix allows, in one sandbox; whoever breaks something repairs it here."""

    def __init__(self, customer: Customer, inbox: Inbox) -> None:
        self.customer, self._inbox = customer, inbox
        self._built: list[World] = []
        self._with_a_rotated_login: list[World] = []
        # A recovery by itself would begin while the permission is still missing. Here it begins when it is back.
        customer.client("events").disable_rule(Name=UNFINISHED_RULE)

    # -- what there is -------------------------------------------------------------------------------------------------

    @cached_property
    def quick(self) -> World:
        return self._furnished("quick")

    @cached_property
    def slow(self) -> World:
        """The sandbox holds some of its steps up for a moment, so that a test can interfere."""
        return self._furnished("slow")

    @cached_property
    def served(self) -> World:
        return self.one_served("served")

    def one_served(self, identifier: str) -> World:
        """Its applications use RDS's own name, so that only a blue/green deployment will do."""
        built = self.customer.build(identifier, rows=20, writers=1, databases=("orders",), connectivity="endpoint")
        self._built.append(built)
        return built

    @cached_property
    def clustered(self) -> World:
        """A cluster with a role that RDS does not copy."""
        return self._cluster("clustered", "endpoint")

    @cached_property
    def restored(self) -> World:
        """The same with a login and a record, so that a snapshot will do."""
        return self._cluster("restored", "dns")

    @cached_property
    def spread(self) -> World:
        """A Multi-AZ DB cluster, which comes with its instances, and of which RDS copies no snapshot."""
        return self._cluster("spread", "dns", MULTI_AZ_POSTGRES)

    @cached_property
    def isolated(self) -> World:
        """Nobody logs in to it; its options may have groups of their own, so they are looked at."""
        built = self.customer.build("isolated", rows=20, writers=1, databases=("ORCL",), engine="oracle-se2")
        rds, options = self.customer.client("rds"), "of-isolated"
        rds.create_option_group(
            OptionGroupName=options, EngineName="oracle-se2", MajorEngineVersion="19", OptionGroupDescription="none"
        )
        rds.modify_db_instance(DBInstanceIdentifier=built.identifier, OptionGroupName=options, ApplyImmediately=True)
        self._wait_idle(built.identifier)
        self._built.append(built)
        return built

    @cached_property
    def walled(self) -> World:
        """A cluster that nobody logs in to."""
        return self._cluster("walled", "dns", AURORA_MYSQL)

    def _cluster(self, identifier: str, connectivity: Connectivity, engine: str = "aurora-postgresql") -> World:
        built = self.customer.build(
            identifier,
            rows=20,
            writers=1,
            databases=("orders",),
            connectivity=connectivity,
            engine=engine,
        )
        (imports,) = CONFIG.associated_role_arns
        self._role(imports.rsplit("/", 1)[-1], "rds")
        self.customer.client("rds").add_role_to_db_cluster(
            DBClusterIdentifier=built.identifier, RoleArn=imports, FeatureName="s3Import"
        )
        self._built.append(built)
        return built

    @cached_property
    def replicated(self) -> World:
        """Its backups are replicated to another Region, under a key that the next one there is to be like."""
        built = self.customer.build("replicated", rows=20, writers=1, databases=("orders",))
        (region,) = CONFIG.backup_regions
        key = world.replicate_backups(self.customer.account, built.identifier, region, retention_days=1)
        kms = self.customer.client("kms", region)
        kms.enable_key_rotation(KeyId=key, RotationPeriodInDays=KEY_ROTATION_DAYS)
        self._built.append(built)
        return built

    @cached_property
    def read(self) -> World:
        """`read_at` is its replica."""
        built = self.customer.build("read", rows=20, writers=1, databases=("orders",))
        self._built.append(built)
        return built

    def read_at(self, built: World) -> str:
        """Its replica, which has roles of its own; one that the last rotation has left without is made anew."""
        replica = f"{built.identifier}-reports"
        if self.customer.instance(replica) is None:
            [primary] = servers_of(self.customer, built.identifier)
            world.make_replica(self.customer.account, primary, replica)
            self.lend_roles_to(replica)
        return replica

    @cached_property
    def followed(self) -> World:
        """Prepared for a copy that catches up with it."""
        return self._furnished("followed", strategy=CATCH_UP)

    @cached_property
    def fickle(self) -> World:
        """RDS makes no replica of it under another key (the sandbox's fault), and a deployment all the same."""
        return self._furnished("fickle", has_proxy=False)

    @cached_property
    def bystander(self) -> World:
        """Takes part in the fleet, whose schedule it never fits, and came with the tags of somebody else's snapshot."""
        tags = {
            "key-rotation:enabled": "true",
            "key-rotation:min-age-days": "36500",
            "key-rotation:window": "never",
            BASE_NAME_TAG: BYSTANDERS_BASE,
        }
        built = self.customer.build("bystander", rows=20, databases=("orders",), tags=tags)
        self._item(BYSTANDERS_BASE, "lineage", resource_id="db-SOMEBODYELSES")
        return built

    def _furnished(self, identifier: str, *, has_proxy: bool = True, **more: Any) -> World:
        """A database with everything that some grant is for. A proxy keeps RDS from making a deployment of it."""
        account, rds, kms = self.customer.account, self.customer.client("rds"), self.customer.client("kms")
        built = self.customer.build(identifier, rows=20, writers=1, databases=("orders",), **more)
        self.lend_roles_to(built.identifier)
        kms.enable_key_rotation(KeyId=built.key_arn, RotationPeriodInDays=KEY_ROTATION_DAYS)
        rds.modify_db_instance(
            DBInstanceIdentifier=identifier,
            EnablePerformanceInsights=True,
            PerformanceInsightsKMSKeyId=built.key_arn,
            BackupRetentionPeriod=1,  # the sooner the backups of a source expire, the sooner its key can be retired
            ApplyImmediately=True,
        )
        self._wait_idle(identifier)
        instance = self.customer.instance(identifier)
        assert instance is not None
        key = world.make_key(account, "The key of the secrets")
        address = {"host": instance["Endpoint"]["Address"], "port": instance["Endpoint"]["Port"]}
        login = {"username": built.master.user, "password": built.master.password}
        manager = self.customer.client("secretsmanager")
        tags = {"key-rotation:connectivity": "dns secret"}
        for purpose, fields in (("login", login), ("endpoint", address)):
            arn = manager.create_secret(
                Name=f"{identifier}/{purpose}-under-a-key", SecretString=json.dumps(fields), KmsKeyId=key
            )["ARN"]
            tags[f"key-rotation:{purpose}-secret"] = arn
        self._switch_rotation_on(tags["key-rotation:login-secret"])
        if has_proxy:
            tags["key-rotation:proxy"] = f"{identifier}-pool"
            tags["key-rotation:connectivity"] += " proxy"
            world.make_proxy(account, tags["key-rotation:proxy"], identifier, "POSTGRESQL", built.app)
        rds.add_tags_to_resource(
            ResourceName=instance["DBInstanceArn"], Tags=[{"Key": name, "Value": value} for name, value in tags.items()]
        )
        self._built.append(built)
        self._with_a_rotated_login.append(built)
        return built

    def lend_roles_to(self, identifier: str) -> None:
        """One that RDS monitors it by, and one that it imports by: what a copy of before does not have."""
        rds = self.customer.client("rds")
        for arn in CONFIG.monitoring_role_arns + CONFIG.associated_role_arns:
            self._role(arn.rsplit("/", 1)[-1], "rds")
        rds.modify_db_instance(
            DBInstanceIdentifier=identifier,
            MonitoringInterval=60,
            MonitoringRoleArn=CONFIG.monitoring_role_arns[0],
            ApplyImmediately=True,
        )
        self._wait_idle(identifier)
        rds.add_role_to_db_instance(
            DBInstanceIdentifier=identifier, RoleArn=CONFIG.associated_role_arns[0], FeatureName="s3Import"
        )

    def put_another_group_into_force(self, built: World) -> None:
        rds = self.customer.client("rds")
        own = f"{built.identifier}-own"
        rds.copy_db_parameter_group(
            SourceDBParameterGroupIdentifier=built.parameter_group,
            TargetDBParameterGroupIdentifier=own,
            TargetDBParameterGroupDescription="The same settings",
        )
        rds.modify_db_instance(DBInstanceIdentifier=built.identifier, DBParameterGroupName=own, ApplyImmediately=True)
        self._wait_idle(built.identifier)
        rds.reboot_db_instance(DBInstanceIdentifier=built.identifier)
        self._wait_idle(built.identifier)

    def greens_of(self, built: World) -> list[str]:
        """Copies that RDS has made of a database for a deployment."""
        found = self.customer.client("rds").describe_db_instances()["DBInstances"]
        names = [str(one["DBInstanceIdentifier"]) for one in found]
        return [name for name in names if name.startswith(f"{built.identifier}-green-")]

    def _wait_idle(self, identifier: str) -> bool:
        """For a moment after an order RDS still shows the status from before it. False: its end has been ordered."""
        looks = 0
        while looks < IDLE_LOOKS:
            time.sleep(0.2)
            found = self.customer.instance(identifier)
            if found is None or found["DBInstanceStatus"] == "deleting":
                return False
            looks = looks + 1 if found["DBInstanceStatus"] == "available" else 0
        return True

    @cached_property
    def _rotator(self) -> str:
        """A function by which Secrets Manager rotates secrets; and what else an account has that is asked about."""
        archive = io.BytesIO()
        with zipfile.ZipFile(archive, "w") as zipped:
            zipped.writestr("index.py", "")
        made = self.customer.client("lambda").create_function(
            FunctionName="SecretsManagerOrders", Runtime="python3.13", Role=self._role("rotator", "lambda"),
            Handler="index.handler", Code={"ZipFile": archive.getvalue()},
        )  # fmt: skip
        subnets = [subnet["SubnetId"] for subnet in self.customer.client("ec2").describe_subnets()["Subnets"]]
        self.customer.client("rds").create_db_proxy(
            DBProxyName="elsewhere", EngineFamily="POSTGRESQL", RoleArn=self._role("proxy", "rds"),
            VpcSubnetIds=subnets, Auth=[{"AuthScheme": "SECRETS", "IAMAuth": "DISABLED"}],
        )  # fmt: skip
        self.customer.client("backup").create_backup_vault(BackupVaultName="vault")
        return str(made["FunctionArn"])

    def _role(self, name: str, service: str) -> str:
        iam = self.customer.client("iam")
        trust = {"Effect": "Allow", "Principal": {"Service": f"{service}.amazonaws.com"}, "Action": "sts:AssumeRole"}
        with suppress(iam.exceptions.EntityAlreadyExistsException):
            iam.create_role(
                RoleName=name, AssumeRolePolicyDocument=json.dumps({"Version": "2012-10-17", "Statement": [trust]})
            )
        return str(iam.get_role(RoleName=name)["Role"]["Arn"])

    # -- permissions ---------------------------------------------------------------------------------------------------

    @cached_property
    def roles(self) -> Mapping[str, str]:
        """State -> the name of its function's role."""
        describe = self.customer.client("lambda").get_function_configuration
        return {
            name: describe(FunctionName=task.function_name(CONFIG))["Role"].rsplit("/", 1)[-1]
            for name, task in TASKS.items()
        }

    @contextmanager
    def without(self, *permissions: Permission) -> Iterator[None]:
        """Take these actions out of the policies of the roles, wherever they are granted; put them back at the end."""
        iam = self.customer.client("iam")
        policies = {
            state: iam.get_role_policy(RoleName=self.roles[state], PolicyName=GRANTS)["PolicyDocument"]
            for state, _ in permissions
        }
        try:
            for state, policy in policies.items():
                missing = {action for owner, action in permissions if owner == state}
                left = [less for one in policy["Statement"] if (less := _without(one, missing)) is not None]
                assert left != policy["Statement"]
                if left:
                    self._write_policy(state, {**policy, "Statement": left})
                else:
                    iam.delete_role_policy(RoleName=self.roles[state], PolicyName=GRANTS)
            yield
        finally:
            for state, policy in policies.items():
                self._write_policy(state, policy)

    def _write_policy(self, state: str, policy: Mapping[str, Any]) -> None:
        self.customer.client("iam").put_role_policy(
            RoleName=self.roles[state], PolicyName=GRANTS, PolicyDocument=json.dumps(policy)
        )

    def used(self) -> set[Permission]:
        """What the functions have asked for so far and been allowed, as CloudTrail has it."""
        states = {role: state for state, role in self.roles.items()}
        found: set[Permission] = set()
        for page in self.customer.client("cloudtrail").get_paginator("lookup_events").paginate():
            for event in page["Events"]:
                detail = json.loads(event["CloudTrailEvent"])
                issuer = detail["userIdentity"].get("sessionContext", {}).get("sessionIssuer", {})
                if state := states.get(issuer.get("userName", "")):
                    asked = detail["additionalEventData"]["authorizations"]
                    found |= {(state, one["action"]) for one in asked if one["allowed"]}
        return found

    def names(self, permission: Permission, text: str) -> bool:
        """Whether a text says that this role may not do this; a list of unanswered questions has the action alone."""
        state, action = permission
        denial = rf"assumed-role/{self.roles[state]}/\S+ is not authorized to perform: {action} "
        return bool(re.search(rf"{denial}|AccessDenied \({action}\)", text))

    # -- rotations -----------------------------------------------------------------------------------------------------

    def rotate(self, built: World, until: Callable[[], bool] = lambda: False, **request: Any) -> Ended:
        """Rotate, to the end of the execution, or until something is so."""
        return self.run(built.request | {"GraceDays": 0} | request, until)

    def run(self, request: Mapping[str, Any], until: Callable[[], bool] = lambda: False) -> Ended:
        """As `rotate`, for any input."""
        arn = self.start(request)
        self.wait(lambda: not self._is_running(arn) or until())
        return self.ended([arn])

    def run_fleet(self) -> Ended:
        arn = self.start({}, self.customer.account.rotate_fleet_arn)
        self.wait(lambda: not self._is_running(arn))
        return self.ended([arn])

    def invoke(self, state: str, event: Mapping[str, Any] | None = None) -> Ended:
        """Call a function as its caller would: what it answers is told."""
        answer = self.customer.client("lambda").invoke(
            FunctionName=TASKS[state].function_name(CONFIG), Payload=json.dumps(event or {})
        )
        text = answer["Payload"].read().decode()
        return Ended(cause=text, told="") if "FunctionError" in answer else Ended(cause="", told=text)

    def start(self, request: Mapping[str, Any], machine: str | None = None) -> str:
        self._inbox.messages()  # what was told before is somebody else's
        started = self.customer.client("stepfunctions").start_execution(
            stateMachineArn=machine or self.customer.account.rotate_key_arn,
            name=f"lab-{secrets.token_hex(4)}",
            input=json.dumps(request),
        )
        return str(started["executionArn"])

    def ended(self, executions: Sequence[str]) -> Ended:
        states = self.customer.client("stepfunctions")
        described = [states.describe_execution(executionArn=arn) for arn in executions]
        waiting = {one["executionArn"] for one in described if one["status"] == "RUNNING"}
        told = [
            *map(str, self._inbox.messages()),
            *(one.get("output", "") for one in described),
            *(entry["state"]["S"] for entry in self.entries() if entry["execution_arn"]["S"] in waiting),
        ]
        failed = [one for one in described if one["status"] == "FAILED"]
        return Ended(cause="\n".join(f"{one.get('error')}: {one.get('cause')}" for one in failed), told="\n".join(told))

    def ended_since(self, before: Collection[str]) -> Ended:
        """Of every execution but these: a recovery's, too."""
        return self.ended(sorted(set(self.executions()) - set(before)))

    def hear(self, before: Collection[str], enough: Callable[[str], bool]) -> str:
        """What is told since, until it is enough, or an execution has failed."""
        heard: list[str] = []

        def is_known() -> bool:
            now = self.ended_since(before)
            heard.append(now.told)
            return bool(now.cause) or enough("".join(heard))

        self.wait(is_known)
        return "".join(heard)

    def executions(self) -> dict[str, str]:
        pages = self.customer.client("stepfunctions").get_paginator("list_executions")
        found = pages.paginate(stateMachineArn=self.customer.account.rotate_key_arn)
        return {one["executionArn"]: one["status"] for page in found for one in page["executions"]}

    def _is_running(self, execution: str) -> bool:
        described = self.customer.client("stepfunctions").describe_execution(executionArn=execution)
        return bool(described["status"] == "RUNNING")

    @staticmethod
    def wait(what: Callable[[], Any]) -> None:
        give_up_at = time.monotonic() + PATIENCE_SECONDS
        while not what():
            assert time.monotonic() < give_up_at, "still not so"
            time.sleep(0.1)

    # -- the ledger ----------------------------------------------------------------------------------------------------

    def entries(self, base_name: str = "") -> list[dict[str, Any]]:
        """Rotations of the ledger, of one database or of all."""
        return [
            item
            for item in self._items()
            # moto's table shows an item that is just being made without some of its columns; this one is the last.
            if "opened_at" in item and base_name in ("", item["database"]["S"].rpartition("/")[2])
        ]

    def journal(self, built: World) -> dict[str, Any]:
        """The state of the unfinished rotation of this database; empty when there is none."""
        left = [entry for entry in self.entries(built.identifier) if "closed_at" not in entry]
        holder = ("execution_arn", "epoch")
        if not left:
            return {}
        columns = {name: next(iter(left[0][name].values())) for name in holder}
        return {**json.loads(left[0]["state"]["S"]), **columns, "epoch": int(columns["epoch"])}

    def new_key(self) -> dict[str, Any]:
        """The key that the last rotation has made and discarded: its tags, and days between rotations."""
        kms, latest = self.customer.client("kms"), max(self.entries(), key=lambda entry: entry["opened_at"]["S"])
        arn = latest["new_key"]["S"]
        if self.customer.key_state(arn) == "PendingDeletion":
            kms.cancel_key_deletion(KeyId=arn)  # KMS tells little about such a key
        return self._facts_of_key(arn)

    def new_key_abroad(self) -> dict[str, Any]:
        """The same of the one in another Region, which stays."""
        latest = max(self.entries(self.replicated.identifier), key=lambda entry: entry["opened_at"]["S"])
        (key,) = json.loads(latest["state"]["S"])["backup_replication"]["new_keys"].values()
        return self._facts_of_key(key["arn"])

    def _facts_of_key(self, arn: str) -> dict[str, Any]:
        kms = self.customer.client("kms", region_of(arn))
        return {
            "tags": self.tags_of_key(arn),
            "days": kms.get_key_rotation_status(KeyId=arn).get("RotationPeriodInDays"),
        }

    def tags_of_key(self, arn: str) -> dict[str, str]:
        tags = self.customer.client("kms", region_of(arn)).list_resource_tags(KeyId=arn)["Tags"]
        return {tag["TagKey"]: tag["TagValue"] for tag in tags}

    def key_of(self, built: World) -> str:
        return str(self._now(built)["KmsKeyId"])

    def change_owner(self, built: World) -> str:
        """Give the database that is behind this name now another value of its tag ``team``."""
        team = secrets.token_hex(2)
        self.tag(built, "team", team)
        return team

    def tag(self, built: World, key: str, value: str) -> None:
        self.customer.client("rds").add_tags_to_resource(
            ResourceName=self._now(built)["DBInstanceArn"], Tags=[{"Key": key, "Value": value}]
        )

    def _now(self, built: World) -> dict[str, Any]:
        """The instance that this name leads to."""
        lineage = [
            one for one in self._items() if (one["record"]["S"], one["database"]["S"]) == ("lineage", built.identifier)
        ]
        found = self.customer.instance(lineage[0]["identifier"]["S"] if lineage else built.identifier)
        assert found is not None
        return found

    def secret_under(self, key_arn: str) -> str:
        name = f"late-{secrets.token_hex(2)}"
        made = self.customer.client("secretsmanager").create_secret(Name=name, SecretString="{}", KmsKeyId=key_arn)
        return str(made["ARN"])

    def forget_secret(self, arn: str) -> None:
        self.customer.client("secretsmanager").delete_secret(SecretId=arn, ForceDeleteWithoutRecovery=True)

    def remove_recovery_schedules(self) -> None:
        scheduler = self.customer.client("scheduler")
        for schedule in scheduler.list_schedules(GroupName=CONFIG.recovery_group)["Schedules"]:
            with suppress(scheduler.exceptions.ResourceNotFoundException):
                scheduler.delete_schedule(GroupName=CONFIG.recovery_group, Name=schedule["Name"])

    def _items(self) -> list[dict[str, Any]]:
        pages = self.customer.client("dynamodb").get_paginator("scan").paginate(TableName=CONFIG.name("ledger"))
        return [item for page in pages for item in page["Items"]]

    def _item(self, base_name: str, record: str, **columns: str) -> None:
        item = {"database": base_name, "record": record} | columns
        self.customer.client("dynamodb").put_item(
            TableName=CONFIG.name("ledger"), Item={name: {"S": value} for name, value in item.items()}
        )

    @contextmanager
    def stale_lock(self, built: World) -> Iterator[None]:
        """The lock of an execution that left nothing else, and that nobody knows any more."""
        gone = self.customer.account.rotate_key_arn.replace(":stateMachine:", ":execution:") + ":gone"
        self._item(built.identifier, "lock", rotation_id="gone", execution_arn=gone, acquired_at="long ago")
        try:
            yield
        finally:
            self._unlock()

    def reopen(self, built: World) -> None:
        """As if nobody had finished the last rotation of this database: it had still to retire its key."""
        last = max(self.entries(built.identifier), key=lambda entry: entry["opened_at"]["S"])
        self.customer.client("dynamodb").update_item(
            TableName=CONFIG.name("ledger"),
            Key={name: last[name] for name in ("database", "record")},
            UpdateExpression="REMOVE closed_at",
        )

    def _unlock(self) -> None:
        for item in self._items():
            if item["record"]["S"] == "lock":
                key = {name: item[name] for name in ("database", "record")}
                self.customer.client("dynamodb").delete_item(TableName=CONFIG.name("ledger"), Key=key)

    # -- repair --------------------------------------------------------------------------------------------------------

    def go_on(self, built: World) -> Ended:
        """Take the rotation of this database up where it was left."""
        return self.run({"Recover": self.journal(built)["execution_arn"]})

    def settle(self) -> list[str]:
        """With all permissions back: finish what was left. Returns what a person had to put right after that."""
        self.wait(lambda: "RUNNING" not in self.executions().values())
        for _ in range(4):
            left = [entry for entry in self.entries() if "closed_at" not in entry]
            for entry in left:
                ended = self.run({"Recover": entry["execution_arn"]["S"]})
                if "RecoveryExhausted" in ended.cause:
                    self.run(request_for(entry["database"]["S"]))
        assert not [entry for entry in self.entries() if "closed_at" not in entry]
        self._unlock()
        rds = self.customer.client("rds")
        for snapshot in rds.describe_db_snapshots(SnapshotType="manual")["DBSnapshots"]:
            # Each rotation copies what the earlier ones have kept.
            rds.delete_db_snapshot(DBSnapshotIdentifier=snapshot["DBSnapshotIdentifier"])
        for snapshot in rds.describe_db_cluster_snapshots(SnapshotType="manual")["DBClusterSnapshots"]:
            rds.delete_db_cluster_snapshot(DBClusterSnapshotIdentifier=snapshot["DBClusterSnapshotIdentifier"])
        for built in self._built:
            if not built.is_cluster:  # the window of which nothing here waits for
                self._keep_backups_away(self._now(built))
        return [
            *self.remove_deployments(),
            *self.remove_targets(),
            *self._owners_settings_restored(),
            *self._proxies_led_back(),
        ]

    def _is_used_by(self, proxy: str) -> bool:
        targets = self.customer.client("rds").describe_db_proxy_targets(DBProxyName=proxy)["Targets"]
        return all(one["TargetHealth"]["State"] == "AVAILABLE" for one in targets)

    def _proxies_led_back(self) -> list[str]:
        """Those that a rollback has left leading nowhere, as its message says."""
        rds, led = self.customer.client("rds"), []
        for built in self._built:
            name = f"{built.identifier}-pool"
            known = [proxy["DBProxyName"] for proxy in rds.describe_db_proxies()["DBProxies"]]
            if name in known and not rds.describe_db_proxy_targets(DBProxyName=name)["Targets"]:
                rds.register_db_proxy_targets(
                    DBProxyName=name, DBInstanceIdentifiers=[self._now(built)["DBInstanceIdentifier"]]
                )
                self.wait(partial(self._is_used_by, name))
                led.append(name)
        return led

    def remove_deployments(self) -> list[str]:
        """Those that a rotation has left, as its message says: with green, and without its mark on blue."""
        rds, removed = self.customer.client("rds"), []
        for deployment in rds.describe_blue_green_deployments()["BlueGreenDeployments"]:
            if deployment["Status"] == "DELETING":
                continue
            name, identifier = deployment["BlueGreenDeploymentName"], deployment["BlueGreenDeploymentIdentifier"]
            green = deployment["Target"].rpartition(":")[2]
            self._wait_idle(green)
            rds.modify_db_instance(DBInstanceIdentifier=green, DeletionProtection=False, ApplyImmediately=True)
            self._wait_idle(green)
            rds.delete_blue_green_deployment(BlueGreenDeploymentIdentifier=identifier, DeleteTarget=True)
            removed.append(f"deployment {name}")
        for built in self._built:
            instance = self.customer.instance(built.identifier)
            marks = [tag["Key"] for tag in (instance or {}).get("TagList", ()) if tag["Key"] == DEPLOYMENT_TAG]
            if instance and marks:
                rds.remove_tags_from_resource(ResourceName=instance["DBInstanceArn"], TagKeys=marks)
                removed.append(f"mark of {built.identifier}")
        return removed

    def remove_targets(self) -> list[str]:
        """Those to which no name leads, and that nobody removes."""
        removed, rds = [], self.customer.client("rds")
        led_to = {item["resource_id"]["S"] for item in self._items() if item["record"]["S"] == "lineage"}
        for instance in rds.describe_db_instances()["DBInstances"]:
            tags = {tag["Key"] for tag in instance["TagList"]}
            is_read = RELEASED_TAG in tags and instance.get("ReadReplicaSourceDBInstanceIdentifier") is not None
            on_its_own = ROTATION_ID_TAG in tags and not is_read and not instance.get("DBClusterIdentifier")
            if on_its_own and instance["DbiResourceId"] not in led_to and instance["DBInstanceStatus"] != "deleting":
                self.remove(instance["DBInstanceIdentifier"])
                removed.append(f"target {instance['DBInstanceIdentifier']}")
        for cluster in rds.describe_db_clusters()["DBClusters"]:
            made = any(tag["Key"] == ROTATION_ID_TAG for tag in cluster["TagList"])
            if made and cluster["DbClusterResourceId"] not in led_to and cluster["Status"] != "deleting":
                for member in cluster["DBClusterMembers"]:
                    self.remove(member["DBInstanceIdentifier"])
                name = {"DBClusterIdentifier": cluster["DBClusterIdentifier"]}
                rds.modify_db_cluster(**name, DeletionProtection=False, ApplyImmediately=True)
                world.wait_available(self.customer.account, *name.values(), cluster=True)
                rds.delete_db_cluster(**name, SkipFinalSnapshot=True)
                removed.append(f"target {cluster['DBClusterIdentifier']}")
        return removed

    def _owners_settings_restored(self) -> list[str]:
        restored = []
        manager, route53 = self.customer.client("secretsmanager"), self.customer.client("route53")
        for built in self._built:
            if built.zone_id is None or built.is_cluster:
                continue  # no login of its own
            login = f"{built.identifier}/login-under-a-key"
            if built in self._with_a_rotated_login and not manager.describe_secret(SecretId=login).get(
                "RotationEnabled"
            ):
                self._switch_rotation_on(login)
                restored.append(f"rotation of {login}")
            (record,) = [
                one
                for one in route53.list_resource_record_sets(HostedZoneId=built.zone_id)["ResourceRecordSets"]
                if one["Name"] == f"{built.record}."
            ]
            if record["TTL"] != world.RECORD_TTL_SECONDS:
                change = {"Action": "UPSERT", "ResourceRecordSet": record | {"TTL": world.RECORD_TTL_SECONDS}}
                route53.change_resource_record_sets(HostedZoneId=built.zone_id, ChangeBatch={"Changes": [change]})
                restored.append(f"TTL of {built.record}")
        return restored

    def _switch_rotation_on(self, secret: str) -> None:
        self.customer.client("secretsmanager").rotate_secret(
            SecretId=secret,
            RotationLambdaARN=self._rotator,
            RotationRules={"AutomaticallyAfterDays": 1000},
            RotateImmediately=False,
        )

    def remove(self, identifier: str) -> None:
        rds = self.customer.client("rds")
        if not self._wait_idle(identifier):
            return  # the rotation was quicker
        rds.modify_db_instance(DBInstanceIdentifier=identifier, DeletionProtection=False, ApplyImmediately=True)
        self._wait_idle(identifier)
        rds.delete_db_instance(DBInstanceIdentifier=identifier, SkipFinalSnapshot=True, DeleteAutomatedBackups=True)

    def _keep_backups_away(self, instance: Mapping[str, Any]) -> None:
        """A rotation waits, by looking again and again, for a backup window that is near to pass."""
        rds = self.customer.client("rds")
        headers = rds.describe_db_instances(MaxRecords=20)["ResponseMetadata"]["HTTPHeaders"]
        now = datetime.strptime(headers["date"], "%a, %d %b %Y %H:%M:%S GMT").replace(tzinfo=UTC)
        opens = datetime.strptime(instance["PreferredBackupWindow"][:5], "%H:%M").replace(tzinfo=UTC)
        day = timedelta(days=1)
        if (opens - now) % day < timedelta(hours=6) or (now - opens) % day < timedelta(hours=1):
            kept_free = instance["PreferredMaintenanceWindow"].replace("-", ":").split(":")[1::3]
            hours = [f"{now - timedelta(hours=hours):%H}" for hours in (2, 4, 6)]
            hour = next(one for one in hours if one not in kept_free)  # RDS lets the two windows share no minute
            window = f"{hour}:00-{hour}:59"
            identifier = instance["DBInstanceIdentifier"]
            rds.modify_db_instance(DBInstanceIdentifier=identifier, PreferredBackupWindow=window, ApplyImmediately=True)
            self._wait_idle(identifier)


def _without(statement: Mapping[str, Any], missing: set[str]) -> Mapping[str, Any] | None:
    granted = statement["Action"] if isinstance(statement["Action"], list) else [statement["Action"]]
    left = [action for action in granted if action not in missing]
    return {**statement, "Action": left} if left else None
