"""Whole rotations from another process, through boto3, DNS and SQL only."""

import json
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from sandbox.demo import inventory, progress, recorder
from sandbox.demo.connection import quoted
from sandbox.demo.world import AWS_MANAGED_KEY, DATABASES, World
from tests.rotation import told
from tests.rotation.support import NOT_ACCEPTING, Customer, Inbox

pytestmark = pytest.mark.slow

AFTER_THE_RELEASE = ("Verify", "NotifyCutover", "GracePeriod")
A_QUARTER_DAYS = 91


@pytest.fixture(scope="module")
def built(customer: Customer) -> World:
    return customer.build("orders")


@pytest.fixture(scope="module")
def seen_at_the_source() -> list[str | None]:
    """What an application met that still went to the source's own endpoint after the release."""
    return []


@pytest.fixture(scope="module")
def first(customer: Customer, built: World, seen_at_the_source: list[str | None]) -> progress.Run:
    source = built.finder(customer.account).find().name

    def knock(run: progress.Run) -> None:
        if run.current in AFTER_THE_RELEASE:
            seen_at_the_source.append(customer.refusal(built, source, DATABASES[1]))

    return customer.rotated({"DBInstanceIdentifier": "orders"}, seen=knock)


@pytest.fixture(scope="module")
def second(customer: Customer, first: progress.Run) -> progress.Run:
    customer.let_days_pass(A_QUARTER_DAYS)
    return customer.rotated({"DBInstanceIdentifier": "orders"})


class TestTwiceUnderOneName:
    """One database, rotated now and a quarter later, under the name that its owner gave it."""

    def test_the_name_leads_to_a_database_under_a_new_key(
        self, customer: Customer, built: World, first: progress.Run
    ) -> None:
        endpoint, target = built.finder(customer.account).find(), first.output["target"]["identifier"]
        instance = customer.instance(target)

        assert instance is not None
        assert endpoint.name == instance["Endpoint"]["Address"]
        assert instance["KmsKeyId"] == first.output["new_key"]["arn"] != built.key_arn
        assert instance["DeletionProtection"]
        assert instance["DBParameterGroups"][0]["DBParameterGroupName"] == built.parameter_group
        assert customer.tags(target)["team"] == "orders"

    def test_the_data_is_there_and_can_be_written(self, customer: Customer, built: World, first: progress.Run) -> None:
        endpoint = built.finder(customer.account).find()
        for database in DATABASES:
            assert customer.query(built, endpoint, database, "SELECT count(*) FROM items") == [[built.rows]]
            insert = "INSERT INTO items SELECT max(id) + 1, 'new', 1, now() FROM items RETURNING id"
            assert customer.query(built, endpoint, database, insert) == [[built.rows + 1]]
            customer.query(built, endpoint, database, f"DELETE FROM items WHERE id = {built.rows + 1}")
            customer.query(built, endpoint, database, f"ALTER DATABASE {quoted(database)} SET work_mem = '16MB'")

    def test_the_source_was_fenced_and_is_gone(
        self, customer: Customer, first: progress.Run, seen_at_the_source: list[str | None]
    ) -> None:
        """An application that missed the switch is refused; it must never be acknowledged anything."""
        assert NOT_ACCEPTING in seen_at_the_source
        assert None not in seen_at_the_source
        assert customer.instance(first.output["source"]["identifier"]) is None

    def test_the_customers_own_key_is_kept(self, customer: Customer, built: World, first: progress.Run) -> None:
        assert customer.key_state(built.key_arn) == "Enabled"
        assert first.output["retirement"]["verdict"] == "kept"

    def test_a_quarter_later_the_same_name_works(
        self, customer: Customer, built: World, first: progress.Run, second: progress.Run
    ) -> None:
        target = second.output["target"]["identifier"]
        instance = customer.instance(target)

        assert instance is not None
        assert target.startswith("orders-rot-")
        assert "-rot-" not in target.removeprefix("orders-rot-")
        assert instance["KmsKeyId"] == second.output["new_key"]["arn"] != first.output["new_key"]["arn"]
        assert second.output["source"]["identifier"] == first.output["target"]["identifier"]
        assert built.finder(customer.account).find().name == instance["Endpoint"]["Address"]
        endpoint = built.finder(customer.account).find()
        assert customer.query(built, endpoint, DATABASES[1], "SELECT count(*) FROM items") == [[built.rows]]

    def test_what_the_first_kept_is_under_the_key_of_the_second(
        self, customer: Customer, first: progress.Run, second: progress.Run
    ) -> None:
        """It would have kept the first key from being retired; and nobody asked for it to be deleted."""
        name = f"{first.output['target']['identifier']}-kept-rekeyed-{second.output['rotation_id']}"
        [snapshot] = customer.client("rds").describe_db_snapshots(DBSnapshotIdentifier=name)["DBSnapshots"]

        assert ("available", second.output["new_key"]["arn"]) == (snapshot["Status"], snapshot["KmsKeyId"])

    def test_the_key_that_the_first_made_is_pending_deletion(
        self, customer: Customer, built: World, first: progress.Run, second: progress.Run
    ) -> None:
        """Only once nothing is left under it: the source's retained backups have expired before."""
        rds = customer.client("rds")
        retired = first.output["new_key"]["arn"]

        assert second.output["retirement"]["users"] == []
        assert customer.key_state(retired) == "PendingDeletion"
        assert customer.key_state(second.output["new_key"]["arn"]) == "Enabled"
        assert customer.key_state(built.key_arn) == "Enabled"
        assert second.output["retirement"]["verdict"] == "scheduled"
        left = rds.describe_db_instance_automated_backups()["DBInstanceAutomatedBackups"]
        assert [backup["DbiResourceId"] for backup in left if backup.get("KmsKeyId") == retired] == []
        left = rds.describe_db_snapshots()["DBSnapshots"]
        assert [snapshot["DBSnapshotIdentifier"] for snapshot in left if snapshot.get("KmsKeyId") == retired] == []


def test_a_key_that_another_database_shares_is_kept_and_its_user_named(customer: Customer) -> None:
    """Retiring it, as this database's owner asks, would make the other database unreadable for good."""
    built = customer.build("tenant-a")
    customer.build("tenant-b", key_arn=built.key_arn)

    with customer.notifications() as inbox:
        run = customer.rotated({"DBInstanceIdentifier": "tenant-a", "RetireKey": "true"})
        messages = customer.until(inbox.messages)

    assert customer.key_state(built.key_arn) == "Enabled"
    assert run.output["retirement"]["verdict"] == "kept"
    last = messages[-1]
    assert "tenant-b" in last["Message"]
    assert "tenant-a" in last["Subject"]


def test_away_from_the_key_that_aws_manages(customer: Customer) -> None:
    """`aws/rds` is shared by a whole account and cannot be deleted; not even an attempt may be made."""
    earlier = recorder.newest(customer.account)
    built = customer.build("on-aws-rds", key_arn=AWS_MANAGED_KEY)

    run = customer.rotated({"DBInstanceIdentifier": "on-aws-rds", "RetireKey": "true"})

    assert run.output["old_key"]["manager"] == "AWS"
    instance = customer.instance(run.output["target"]["identifier"])
    assert instance is not None
    assert instance["KmsKeyId"] == run.output["new_key"]["arn"]
    assert customer.key_state(run.output["old_key"]["arn"]) == "Enabled"
    calls = recorder.calls(customer.account, after=earlier)
    assert not {"kms.ScheduleKeyDeletion", "kms.DisableKey"} & calls.by_operation.keys()
    assert built.key_arn == run.output["old_key"]["arn"]


def test_a_dry_run_changes_nothing_and_tells_the_plan(customer: Customer) -> None:
    customer.build("rehearsed")
    with customer.notifications() as inbox:
        before = inventory.take(customer.account)

        run = customer.rotated({"DBInstanceIdentifier": "rehearsed", "DryRun": True})

        after = inventory.take(customer.account)
        messages = customer.until(inbox.messages)
    execution = f"states/execution/rds-key-rotation-rotate-key/{run.arn.rsplit(':', 1)[-1]}"
    found = inventory.difference(before, after)
    assert (found.removed, found.changed) == ({}, {})
    # What was planned is history, as what was done is.
    history = {name for name in found.added if "/rotation#" in name and found.added[name]["closed"]}
    assert set(found.added) - history == {execution}
    assert "rehearsed" in messages[0]["Subject"]
    assert '"plan"' in messages[0]["Message"]


class TestFleet:
    """`rotate_fleet` rotates what takes part and says what became of each."""

    TAKES_PART = {"key-rotation:enabled": "true", "key-rotation:min-age-days": "0"}

    def fleet(self, customer: Customer) -> dict[str, Any]:
        states = customer.client("stepfunctions")
        arn = states.start_execution(stateMachineArn=customer.account.rotate_fleet_arn, name="by-hand", input="{}")
        run = progress.follow(customer.account, arn["executionArn"], within_seconds=240)
        return {"status": run.status, "output": run.output, "error": run.error, "cause": run.cause}

    def test_one_that_cannot_be_rotated_fails_the_fleet_and_not_the_others(self, customer: Customer) -> None:
        """A report that says "succeeded" while one database stayed on its old key would hide it for a quarter."""
        good = [customer.build(name, tags=self.TAKES_PART) for name in ("fleet-a", "fleet-b")]
        bad = customer.build("fleet-c", tags=self.TAKES_PART)
        customer.client("secretsmanager").put_secret_value(SecretId=bad.login_secret_arn, SecretString="{}")
        bystander = customer.build("fleet-d")

        try:
            found = self.fleet(customer)
        finally:
            self.leave(customer)

        assert found["status"] == "FAILED"
        assert "fleet-c" in str(found["cause"])
        for built in good:
            instance = customer.instance(self.behind(customer, built))
            assert instance is not None
            assert instance["KmsKeyId"] != built.key_arn
        for built in (bad, bystander):
            instance = customer.instance(built.identifier)
            assert instance is not None
            assert instance["KmsKeyId"] == built.key_arn

    def behind(self, customer: Customer, built: World) -> str:
        return built.finder(customer.account).find().name.split(".")[0]

    def leave(self, customer: Customer) -> None:
        """Other tests let quarters pass; the schedule must find nobody then."""
        rds = customer.client("rds")
        for instance in rds.describe_db_instances()["DBInstances"]:
            if instance["DBInstanceIdentifier"].startswith("fleet-"):
                rds.add_tags_to_resource(
                    ResourceName=instance["DBInstanceArn"], Tags=[{"Key": "key-rotation:enabled", "Value": "false"}]
                )


@dataclass
class Guarded:
    """A database whose secrets hold what can be found again wherever it is told."""

    customer: Customer
    built: World
    inbox: Inbox
    mark: str = field(default_factory=lambda: f"planted-{secrets.token_hex(8)}")
    messages: list[Any] = field(default_factory=list)
    schedules: list[Any] = field(default_factory=list)

    def put(self, secret: str | None, text: str) -> None:
        self.customer.client("secretsmanager").put_secret_value(SecretId=secret, SecretString=text)

    def text_of(self, secret: str | None) -> str:
        return str(self.customer.client("secretsmanager").get_secret_value(SecretId=secret)["SecretString"])

    def rotate(self, *, spoilt: bool = False) -> progress.Run:
        """``spoilt``: during the cutover somebody writes into the endpoint secret what is none."""
        spoil_it = [True] if spoilt else []

        def seen(run: progress.Run) -> None:
            if run.in_cutover:
                self.schedules += told.schedules(self.customer)
                while spoil_it and spoil_it.pop():
                    self.put(self.built.endpoint_secret, f'{{"host": {self.mark}')

        run = self.customer.rotate({"DBInstanceIdentifier": self.built.identifier}, seen=seen if spoilt else None)
        self.messages += self.customer.until(self.inbox.messages)
        return run

    def refused(self, login: Any) -> str:
        """Why, with this as the login secret."""
        good = self.text_of(self.built.login_secret_arn)
        self.put(self.built.login_secret_arn, login if isinstance(login, str) else json.dumps(login))
        try:
            run = self.rotate()
        finally:
            self.put(self.built.login_secret_arn, good)
        assert run.error == "PreflightRefused", run.cause
        return str(run.cause)

    def all_told(self) -> told.Told:
        return told.everything(self.customer, messages=self.messages, schedules=self.schedules)


@pytest.fixture(scope="module")
def guarded(customer: Customer) -> Iterator[Guarded]:
    built = customer.build("guarded", connectivity="secret", rows=50, writers=1)
    with customer.notifications() as inbox:
        guarded = Guarded(customer, built, inbox)
        for secret in (built.login_secret_arn, built.endpoint_secret):
            fields = json.loads(guarded.text_of(secret)) | {"token": guarded.mark, "more": {"key": [guarded.mark]}}
            guarded.put(secret, json.dumps(fields))
        yield guarded


class TestNothingSecretIsTold:
    """Not by a rotation that succeeds, nor by one that is rolled back or refused for what stands in a secret."""

    def test_however_it_ends(self, guarded: Guarded) -> None:
        master, mark, endpoint = guarded.built.master, guarded.mark, guarded.built.endpoint_secret
        before = guarded.text_of(endpoint)

        assert "SecretIncomplete" in guarded.refused(f'{{"username": "{mark}')
        assert "LoginRefused" in guarded.refused({"username": master.user, "password": f"{mark}\a"})
        assert "LoginRefused" in guarded.refused({"username": master.user, "password": mark})
        back = guarded.rotate(spoilt=True)
        guarded.put(endpoint, before)
        forward = guarded.rotate()

        assert (back.status, back.error) == ("FAILED", "ConnectivityChanged")
        assert forward.status == "SUCCEEDED", forward.cause
        assert json.loads(guarded.text_of(endpoint))["token"] == mark
        found = guarded.all_told()
        assert told.places_of(found, (mark, master.password, guarded.built.app.password)) == set()
        assert {place for place in told.PLACES if found[place]} == {*told.PLACES}
        rotation_id = forward.output["rotation_id"]
        assert told.places_of(found, [rotation_id]) >= {"logs", "executions", "ledger", "messages", "resources"}

    def test_what_is_told_is_found(self, guarded: Guarded) -> None:
        """The search above means something only if it finds what a careless line gives away."""
        guarded.customer.deploy_changed(self.careless, "preflight")

        guarded.refused({"username": guarded.built.master.user, "password": [guarded.mark]})

        assert told.places_of(guarded.all_told(), [guarded.mark]) == {
            "logs", "executions", "ledger", "messages", "traces"
        }  # fmt: skip

    @staticmethod
    def careless(files: dict[str, str]) -> None:
        """A message that quotes what it complains of, and a line of log that repeats the message."""
        for path, careful, careless in (
            ("lambdas/rotation/aws/secrets.py", 'f"{secret_id} is not a JSON object with', 'f"{text} is not one with'),
            ("lambdas/preflight/handler.py", "[one.name for", "[one.message for"),
        ):
            assert careful in files[path]
            files[path] = files[path].replace(careful, careless)


def test_the_target_has_what_rds_takes_only_with_something_else(customer: Customer) -> None:
    """A size only with IOPS, where IOPS were chosen; a mode of Database Insights only with Performance Insights."""
    built, rds = customer.build("enlarged", rows=50, writers=1), customer.client("rds")

    def enlarge(size: int, iops: int, **besides: Any) -> None:
        rds.modify_db_instance(
            DBInstanceIdentifier="enlarged", ApplyImmediately=True, AllocatedStorage=size, Iops=iops, **besides
        )

    def has(identifier: str, size: int, iops: int) -> bool:
        found = customer.instance(identifier) or {}
        shown = (found.get("AllocatedStorage"), found.get("Iops"), found.get("DBInstanceStatus"))
        return shown == (size, iops, "available")

    insights = {"EnablePerformanceInsights": True, "PerformanceInsightsRetentionPeriod": 465}
    # In one request: RDS would be at work on the first, unseen, when the second is done.
    enlarge(500, 13_000, **insights, DatabaseInsightsMode="advanced")
    customer.until(lambda: has("enlarged", 500, 13_000))
    grown: list[str] = []

    def grow(run: progress.Run) -> None:
        made = [one["DBInstanceIdentifier"] for one in rds.describe_db_instances()["DBInstances"]]
        if not grown and any(name.startswith("enlarged-rot-") for name in made):
            grown.append(run.current or "")
            enlarge(600, 13_000)

    run = customer.rotated({**built.request, "GraceDays": 0}, seen=grow)

    assert grown
    target = run.output["target"]["identifier"]
    assert has(target, 600, 13_000)
    assert (customer.instance(target) or {})["DatabaseInsightsMode"] == "advanced"
