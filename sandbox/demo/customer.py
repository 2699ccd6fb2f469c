"""What a customer, or whoever runs the product for them, does through the APIs: for the tests and for the sweep."""

import io
import json
import re
import secrets
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sandbox.client import SandboxProcess
from sandbox.demo import progress, world
from sandbox.demo.account import Account
from sandbox.demo.connection import Endpoint, Login, NameNotFound, Resolver, hang_up, trusting
from sandbox.demo.world import World

ROOT = Path(__file__).resolve().parents[2]
NOT_ACCEPTING = "55000"
PATIENCE_SECONDS = 500.0
DAY_SECONDS = 86_400
HANDS_OFF = {"key-rotation:enabled": "false"}
"""The fleet leaves such a database alone; its schedule starts it whenever a quarter passes on the sandbox's clock."""


@dataclass(frozen=True)
class Customer:
    account: Account
    sandbox: SandboxProcess

    @classmethod
    def of(cls, sandbox: SandboxProcess) -> "Customer":
        return cls(Account.from_facts(sandbox.facts), sandbox)

    def client(self, service: str, region: str | None = None) -> Any:
        return self.account.client(service, region)

    # -- databases -----------------------------------------------------------------------------------------------------

    def build(self, identifier: str, **options: Any) -> World:
        """A small database that the fleet leaves alone, unless ``tags`` say otherwise."""
        tags = HANDS_OFF | dict(options.pop("tags", {}))
        return world.build(self.account, identifier=identifier, rows=options.pop("rows", 2000), tags=tags, **options)

    def instance(self, identifier: str) -> dict[str, Any] | None:
        rds = self.client("rds")
        try:
            found: dict[str, Any] = rds.describe_db_instances(DBInstanceIdentifier=identifier)["DBInstances"][0]
        except rds.exceptions.DBInstanceNotFoundFault:
            return None
        return found

    def endpoint_of(self, built: World) -> str:
        """The name of the database's own endpoint, whatever leads applications to it."""
        endpoint = built.describe(self.account)["Endpoint"]
        return str(endpoint if built.is_cluster else endpoint["Address"])

    def address(self, identifier: str) -> str:
        """The name of an instance's own endpoint."""
        found = self.instance(identifier)
        assert found is not None
        return str(found["Endpoint"]["Address"])

    def tags(self, identifier: str) -> dict[str, str]:
        found = self.instance(identifier)
        return {tag["Key"]: tag["Value"] for tag in (found or {}).get("TagList", ())}

    def key_state(self, arn: str | None) -> str:
        assert arn is not None, "not encrypted"
        return str(self.client("kms").describe_key(KeyId=arn)["KeyMetadata"]["KeyState"])

    def refusal(self, built: World, endpoint_name: str, database: str) -> str | None:
        """Why an application cannot log in at this endpoint: the server's code, ``unreachable``; None when it can."""
        dialect = built.dialect
        try:
            found = Resolver(self.account.dns_host, self.account.dns_port, dialect.port).resolve(endpoint_name)
            sql = dialect.connect(found, database, built.app, trusting(self.account.ca_bundle))
        except NameNotFound:
            return "unreachable"
        except Exception as error:
            return dialect.code(error) or "unreachable"
        hang_up(sql)
        return None

    def query(
        self, built: World, endpoint: Endpoint, database: str | None, statement: str, login: Login | None = None
    ) -> list[list[Any]]:
        """As an application, unless somebody else is to log in. No database: where administrators work."""
        sql = built.dialect.connect(endpoint, database, login or built.app, trusting(self.account.ca_bundle))
        try:
            rows: list[list[Any]] = sql.run(statement)
            return rows
        finally:
            hang_up(sql)

    # -- executions ----------------------------------------------------------------------------------------------------

    def rotate(
        self,
        request: Mapping[str, Any],
        *,
        seen: Callable[[progress.Run], None] | None = None,
        patience: float = PATIENCE_SECONDS,
    ) -> progress.Run:
        """Start ``rotate_key`` and wait for its end, whatever that is, for so many real seconds.

        ``seen``: called again and again meanwhile. Only where it is given: whoever reads an execution's history ten
        times a second costs the sandbox more than the execution does.
        """
        arn = progress.start(self.account, request, f"test-{secrets.token_hex(4)}")
        if seen is None:
            states = self.client("stepfunctions")
            self.until(
                lambda: states.describe_execution(executionArn=arn)["status"] != "RUNNING",
                patience,
                every_seconds=0.5,
            )
        return progress.follow(
            self.account, arn, within_seconds=patience, every_seconds=0.1, seen=seen or (lambda run: None)
        )

    def rotated(self, request: Mapping[str, Any], **options: Any) -> progress.Run:
        """As `rotate`, for a rotation that has to succeed."""
        run = self.rotate(request, **options)
        assert run.status == "SUCCEEDED", f"{run.current}: {run.error}: {run.cause}"
        return run

    def let_days_pass(self, days: float) -> None:
        """The clock moves while an execution waits, so one is made to wait."""
        iam, states = self.client("iam"), self.client("stepfunctions")
        name = f"calendar-{secrets.token_hex(3)}"
        trust = {"Effect": "Allow", "Principal": {"Service": "states.amazonaws.com"}, "Action": "sts:AssumeRole"}
        role = iam.create_role(
            RoleName=name, AssumeRolePolicyDocument=json.dumps({"Version": "2012-10-17", "Statement": [trust]})
        )["Role"]["Arn"]
        wait = {
            "StartAt": "Wait",
            "States": {"Wait": {"Type": "Wait", "Seconds": int(days * DAY_SECONDS), "End": True}},
        }
        machine = states.create_state_machine(name=name, definition=json.dumps(wait), roleArn=role)["stateMachineArn"]
        arn = states.start_execution(stateMachineArn=machine, name=name, input="{}")["executionArn"]
        run = progress.follow(self.account, arn, within_seconds=PATIENCE_SECONDS)
        states.delete_state_machine(stateMachineArn=machine)
        iam.delete_role(RoleName=name)
        assert run.status == "SUCCEEDED"

    def until(self, what: Callable[[], Any], patience: float = 60.0, every_seconds: float = 0.2) -> Any:
        """The first true answer; fails the test when there is none in time (real seconds)."""
        give_up_at = time.monotonic() + patience
        while not (answer := what()):
            assert time.monotonic() < give_up_at, "still not so"
            time.sleep(every_seconds)
        return answer

    # -- notifications -------------------------------------------------------------------------------------------------

    @contextmanager
    def notifications(self) -> Iterator["Inbox"]:
        """A queue that is subscribed to the product's topic."""
        sqs, sns = self.client("sqs"), self.client("sns")
        # As long as SQS keeps a message: a rotation waits for days between what it tells.
        kept = {"MessageRetentionPeriod": str(14 * 24 * 3600)}
        url = sqs.create_queue(QueueName=f"inbox-{secrets.token_hex(3)}", Attributes=kept)["QueueUrl"]
        arn = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
        topic = next(
            topic["TopicArn"] for topic in sns.list_topics()["Topics"] if topic["TopicArn"].endswith("-notifications")
        )
        subscription = sns.subscribe(TopicArn=topic, Protocol="sqs", Endpoint=arn, ReturnSubscriptionArn=True)
        try:
            yield Inbox(sqs, url)
        finally:
            sns.unsubscribe(SubscriptionArn=subscription["SubscriptionArn"])
            sqs.delete_queue(QueueUrl=url)

    # -- the deployed product ------------------------------------------------------------------------------------------

    def deploy_changed(self, change: Callable[[dict[str, str]], None], *functions: str) -> None:
        """Deploy a changed copy of the code to these functions, and let ``rotate_key`` call the new versions.

        Args:
            change: gets the shipped files (path -> text) to change in place.
            functions: names without the stack's prefix, such as ``promote``.
        """
        files = {
            str(path.relative_to(ROOT)): path.read_text() for path in (ROOT / "lambdas").rglob("*.py")
        }  # fmt: skip
        change(files)
        archive = io.BytesIO()
        with zipfile.ZipFile(archive, "w") as zipped:
            for name, text in files.items():
                zipped.writestr(name, text)
        lambda_, states = self.client("lambda"), self.client("stepfunctions")
        machine = self.account.rotate_key_arn
        definition = states.describe_state_machine(stateMachineArn=machine)["definition"]
        for function in functions:
            name = f"rds-key-rotation-{function}"
            lambda_.update_function_code(FunctionName=name, ZipFile=archive.getvalue())
            version = lambda_.publish_version(FunctionName=name)
            called = re.compile(re.escape(version["FunctionArn"].rsplit(":", 1)[0]) + r":\d+")
            definition, replaced = called.subn(version["FunctionArn"], definition)
            assert replaced, f"{name} is not called by a version"
        states.update_state_machine(stateMachineArn=machine, definition=definition)


@dataclass(frozen=True)
class Inbox:
    sqs: Any
    url: str

    def messages(self) -> list[dict[str, Any]]:
        """Everything that has arrived so far, as ``{"Subject": …, "Message": …}``; taken out of the queue."""
        found: list[dict[str, Any]] = []
        while batch := self.sqs.receive_message(QueueUrl=self.url, MaxNumberOfMessages=10).get("Messages"):
            for message in batch:
                found.append(json.loads(message["Body"]))
                self.sqs.delete_message(QueueUrl=self.url, ReceiptHandle=message["ReceiptHandle"])
        return found
