"""Schedules start rotations and rules recover abandoned ones: they have to fire, once, with the right input."""

import datetime as dt
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError

from sandbox import step_functions
from sandbox.api import Api
from sandbox.clock import VirtualClock
from sandbox.scheduler import EventBridge, ExpressionInvalid, parse_expression, transform

REGION, ACCOUNT = "eu-central-1", "123456789012"
ROLE = f"arn:aws:iam::{ACCOUNT}:role/any"
DAY = 86_400


def occurrences(text: str, zone: str, start: str, count: int) -> list[str]:
    moment: float | None = dt.datetime.fromisoformat(start).replace(tzinfo=dt.UTC).timestamp()
    expression = parse_expression(text, zone, moment or 0)
    found = []
    for _ in range(count):
        moment = expression.after(moment or 0)
        if moment is None:
            break
        found.append(dt.datetime.fromtimestamp(moment, dt.UTC).strftime("%Y-%m-%d %H:%M"))
    return found


@pytest.mark.parametrize(
    ("expression", "zone", "expected"),
    [
        ("cron(0 0 1 */3 ? *)", "UTC", ["2026-01-01 00:00", "2026-04-01 00:00", "2026-07-01 00:00"]),
        ("cron(0 3 1 1/3 ? *)", "Europe/Berlin", ["2026-01-01 02:00", "2026-04-01 01:00", "2026-07-01 01:00"]),
        ("cron(30 2 29 3 ? *)", "Europe/Berlin", ["2027-03-29 00:30", "2028-03-29 00:30"]),
        ("cron(15 10 L * ? 2026)", "UTC", ["2026-01-31 10:15", "2026-02-28 10:15"]),
        ("cron(0 12 ? * MON#1 *)", "UTC", ["2026-01-05 12:00", "2026-02-02 12:00"]),
        ("cron(0 12 ? * 6L *)", "UTC", ["2025-12-26 12:00", "2026-01-30 12:00"]),
        ("cron(0 8 ? 1 MON-FRI 2026)", "UTC", ["2026-01-01 08:00", "2026-01-02 08:00", "2026-01-05 08:00"]),
        ("cron(0 8 1W 2 ? 2026)", "UTC", ["2026-02-02 08:00"]),
        ("rate(1 hour)", "UTC", ["2025-12-15 13:00", "2025-12-15 14:00"]),
        ("at(2026-03-29T12:00:00)", "Europe/Berlin", ["2026-03-29 10:00"]),
        ("at(2020-01-01T00:00:00)", "UTC", []),
    ],
)
def test_expressions_are_due_when_eventbridge_says(expression: str, zone: str, expected: list[str]) -> None:
    """The quarterly schedule is written in local time; 02:30 does not exist on the day the clocks go forward."""
    assert occurrences(expression, zone, "2025-12-15T12:00:00", len(expected) or 1) == expected


@pytest.mark.parametrize(
    "expression",
    ["cron(0 0 1 * * *)", "cron(0 0 ? * ? *)", "cron(0 0 1 * ?)", "rate(0 hours)", "every day", "cron(60 0 1 * ? *)"],
)
def test_what_eventbridge_refuses_is_refused(expression: str) -> None:
    with pytest.raises(ExpressionInvalid):
        parse_expression(expression, "UTC", 0)


def test_a_transformed_value_is_json_outside_quotes_and_text_inside() -> None:
    """An execution's input that is not JSON is refused, and nothing would be recovered."""
    event = {"detail": {"executionArn": "arn:x", "n": 3, "quoted": 'say "no"'}}
    paths = {"arn": "$.detail.executionArn", "n": "$.detail.n", "quoted": "$.detail.quoted", "gone": "$.detail.gone"}

    result = transform('{"Recover":<arn>,"n":<n>,"text":"<arn>: <quoted>","gone":<gone>}', paths, event, {})

    assert json.loads(result) == {"Recover": "arn:x", "n": 3, "text": 'arn:x: say "no"', "gone": None}


class Aws:
    def __init__(self, api: Api, clock: VirtualClock) -> None:
        self.clock, self.endpoint_url = clock, api.endpoint_url
        self._clients: dict[str, Any] = {}
        self._machines = 0

    def __getattr__(self, service: str) -> Any:
        if service not in self._clients:
            self._clients[service] = boto3.session.Session(region_name=REGION).client(
                service, endpoint_url=self.endpoint_url, aws_access_key_id="a", aws_secret_access_key="b"
            )
        return self._clients[service]

    def machine(self, state: dict[str, Any]) -> str:
        self._machines += 1
        arn: str = self.stepfunctions.create_state_machine(
            name=f"scheduled-{id(self)}-{self._machines}",
            definition=json.dumps({"StartAt": "Only", "States": {"Only": state}}),
            roleArn=ROLE,
        )["stateMachineArn"]
        return arn

    def inputs(self, machine: str) -> list[Any]:
        executions = self.stepfunctions.list_executions(stateMachineArn=machine)["executions"]
        described = [self.stepfunctions.describe_execution(executionArn=one["executionArn"]) for one in executions]
        return [json.loads(one["input"]) for one in sorted(described, key=lambda one: one["startDate"])]

    def let_pass(self, seconds: int) -> None:
        """An execution that waits lets the time pass."""
        waiting = self.machine({"Type": "Wait", "Seconds": seconds, "End": True})
        execution = self.stepfunctions.start_execution(stateMachineArn=waiting)["executionArn"]
        eventually(lambda: self.stepfunctions.describe_execution(executionArn=execution)["status"] == "SUCCEEDED")

    def queue(self, name: str) -> tuple[str, str]:
        url = self.sqs.create_queue(QueueName=name)["QueueUrl"]
        return url, self.sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]


def eventually(condition: Callable[[], bool], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


@pytest.fixture(scope="module")
def aws(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Aws]:
    clock = VirtualClock(tmp_path_factory.mktemp("clock") / "offset")
    clock.govern_process()
    api = Api()
    api.start()
    events = EventBridge(clock, api.endpoint_url, REGION, ACCOUNT, None)
    step_functions.install(clock, api.endpoint_url, None, events.execution_changed)
    events.start()
    aws = Aws(api, clock)
    yield aws
    events.stop()
    api.stop()
    clock.stop()


def schedule(aws: Aws, name: str, expression: str, target: str, **rest: Any) -> None:
    fields = {"Target": {"Arn": target, "RoleArn": ROLE, "Input": '{"At": "<aws.scheduler.scheduled-time>"}'}} | rest
    aws.scheduler.create_schedule(
        Name=name, ScheduleExpression=expression, FlexibleTimeWindow={"Mode": "OFF"}, **fields
    )


def at(moment: dt.datetime) -> str:
    return moment.strftime("at(%Y-%m-%dT%H:%M:%S)")


def test_a_quarter_passes_and_the_fleet_starts_once(aws: Aws) -> None:
    """At its own time, not when the long wait ends; and never without anything running."""
    fleet = aws.machine({"Type": "Succeed"})
    due = aws.clock.now() + dt.timedelta(days=20)
    schedule(aws, "quarterly", f"cron({due.minute} {due.hour} {due.day} {due.month} ? *)", fleet)
    time.sleep(0.3)
    assert aws.inputs(fleet) == []

    aws.let_pass(30 * DAY)

    eventually(lambda: len(aws.inputs(fleet)) == 1)
    assert aws.inputs(fleet) == [{"At": due.strftime("%Y-%m-%dT%H:%M:00Z")}]
    aws.scheduler.delete_schedule(Name="quarterly")


def test_a_one_time_schedule_fires_and_is_gone(aws: Aws) -> None:
    """The recovery that was asked for before the fence, when nobody removed it; it is no leftover afterwards."""
    machine = aws.machine({"Type": "Succeed"})
    aws.scheduler.create_schedule_group(Name="recovery")
    when = aws.clock.now() + dt.timedelta(hours=2)
    schedule(aws, "recover-orders", at(when), machine, GroupName="recovery", ActionAfterCompletion="DELETE")

    aws.let_pass(DAY)

    eventually(lambda: aws.inputs(machine) == [{"At": when.strftime("%Y-%m-%dT%H:%M:%SZ")}])
    assert aws.scheduler.list_schedules(GroupName="recovery")["Schedules"] == []


def test_a_removed_schedule_does_not_fire_and_a_moved_one_at_its_new_time_only(aws: Aws) -> None:
    """ResumeWrites removes the recovery, Promote moves it: without saying anew that it is enabled."""
    machine = aws.machine({"Type": "Succeed"})
    soon, later = aws.clock.now() + dt.timedelta(hours=1), aws.clock.now() + dt.timedelta(days=40)
    schedule(aws, "removed", at(soon), machine)
    schedule(aws, "moved", at(soon), machine)

    aws.scheduler.delete_schedule(Name="removed")
    aws.scheduler.update_schedule(
        Name="moved",
        ScheduleExpression=at(later),
        FlexibleTimeWindow={"Mode": "OFF"},
        Target={"Arn": machine, "RoleArn": ROLE},
    )
    aws.let_pass(DAY)

    assert aws.inputs(machine) == []
    aws.let_pass(40 * DAY)
    eventually(lambda: aws.inputs(machine) == [{}])
    aws.scheduler.delete_schedule(Name="moved")


def test_an_hourly_schedule_fires_once_per_jump(aws: Aws) -> None:
    """A week of grace would otherwise be 168 stops; the look into the ledger happens where the wait ends."""
    machine = aws.machine({"Type": "Succeed"})
    schedule(aws, "hourly", "rate(1 hour)", machine)

    aws.let_pass(7 * DAY)

    eventually(lambda: len(aws.inputs(machine)) >= 1)
    assert len(aws.inputs(machine)) == 1
    aws.scheduler.delete_schedule(Name="hourly")


def test_what_the_target_refuses_is_buried_with_the_reason(aws: Aws) -> None:
    """An alarm watches that queue: a fleet that could not be started is noticed."""
    url, arn = aws.queue("undelivered-schedules")
    missing = f"arn:aws:states:{REGION}:{ACCOUNT}:stateMachine:missing"
    target = {"Arn": missing, "RoleArn": ROLE, "Input": '{"x": 1}', "DeadLetterConfig": {"Arn": arn}}
    schedule(aws, "hopeless", at(aws.clock.now() + dt.timedelta(hours=1)), missing, Target=target)

    aws.let_pass(DAY)

    messages: list[Any] = []

    def arrived() -> bool:
        messages.extend(aws.sqs.receive_message(QueueUrl=url, MessageAttributeNames=["All"]).get("Messages", []))
        return bool(messages)

    eventually(arrived)
    assert json.loads(messages[0]["Body"]) == {"x": 1}
    assert messages[0]["MessageAttributes"]["ERROR_CODE"]["StringValue"] == "StateMachineDoesNotExist"


def test_a_missing_group_and_a_bad_expression_are_refused(aws: Aws) -> None:
    """moto fails on the one and stores the other."""
    with pytest.raises(ClientError) as no_group:
        schedule(aws, "x", "rate(1 day)", ROLE, GroupName="nowhere")
    with pytest.raises(ClientError) as bad:
        schedule(aws, "x", "cron(0 0 1 * * *)", ROLE)

    assert no_group.value.response["Error"]["Code"] == "ResourceNotFoundException"
    assert bad.value.response["Error"]["Code"] == "ValidationException"


def test_an_execution_that_fails_is_recovered_by_the_rule(aws: Aws, tmp_path: Path) -> None:
    """As the template's rule: only this machine, only unfinished ends, and not the end of a recovery."""
    recovery = aws.machine({"Type": "Succeed"})
    rotation = aws.machine({"Type": "Fail", "Error": "Broken"})
    url, arn = aws.queue("undelivered-events")
    pattern = {
        "source": ["aws.states"],
        "detail-type": ["Step Functions Execution Status Change"],
        "detail": {
            "stateMachineArn": [rotation],
            "status": ["ABORTED", "TIMED_OUT", "FAILED"],
            "input": [{"anything-but": {"prefix": '{"Recover"'}}],
        },
    }
    template = {"InputPathsMap": {"arn": "$.detail.executionArn"}, "InputTemplate": '{"Recover":<arn>}'}
    aws.events.put_rule(Name="unfinished", EventPattern=json.dumps(pattern))
    aws.events.put_targets(
        Rule="unfinished",
        Targets=[
            {"Id": "1", "Arn": recovery, "RoleArn": ROLE, "InputTransformer": template},
            {
                "Id": "2",
                "Arn": f"{recovery}-missing",
                "RoleArn": ROLE,
                "DeadLetterConfig": {"Arn": arn},
                "InputPath": "$.detail",
            },
        ],
    )

    execution = aws.stepfunctions.start_execution(stateMachineArn=rotation, input='{"DBInstanceIdentifier": "orders"}')
    aws.stepfunctions.start_execution(stateMachineArn=rotation, input='{"Recover": "arn:of:another"}')

    eventually(lambda: len(aws.inputs(recovery)) == 1)
    time.sleep(0.3)
    assert aws.inputs(recovery) == [{"Recover": execution["executionArn"]}]
    (message,) = aws.sqs.receive_message(QueueUrl=url)["Messages"]
    assert json.loads(message["Body"])["detail"]["status"] == "FAILED"
    aws.events.remove_targets(Rule="unfinished", Ids=["1", "2"])
    aws.events.delete_rule(Name="unfinished")
