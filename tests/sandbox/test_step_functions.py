"""The interpreter behaves as Step Functions does, where moto as it comes does not. Each test is one difference."""

import datetime as dt
import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError
from moto.awslambda_simple.models import LambdaSimpleBackend
from moto.core.exceptions import AWSError, JsonRESTError

from sandbox import step_functions
from sandbox.api import Api
from sandbox.clock import VirtualClock

REGION = "eu-central-1"
ROLE = "arn:aws:iam::123456789012:role/states"
DAY = 86_400

Handler = Callable[[Any], Any]


class Aws:
    """A server with Step Functions and functions that are Python callables."""

    def __init__(self, api: Api, clock: VirtualClock) -> None:
        self.clock = clock
        self.changes: list[tuple[str, str]] = []
        self.handlers: dict[str, Handler] = {}
        self._client = boto3.session.Session(region_name=REGION).client(
            "stepfunctions", endpoint_url=api.endpoint_url, aws_access_key_id="a", aws_secret_access_key="b"
        )
        self._machines = 0

    @property
    def states(self) -> Any:
        return self._client

    def create(self, states: dict[str, Any], start: str | None = None, **rest: Any) -> str:
        self._machines += 1
        definition = {"StartAt": start or next(iter(states)), "States": states, **rest}
        arn: str = self.states.create_state_machine(
            name=f"machine-{id(self)}-{self._machines}", definition=json.dumps(definition), roleArn=ROLE
        )["stateMachineArn"]
        return arn

    def start(self, states: dict[str, Any], event: Any = None, **rest: Any) -> str:
        arn: str = self.states.start_execution(
            stateMachineArn=self.create(states, **rest), input=json.dumps(event or {})
        )["executionArn"]
        return arn

    def run(self, states: dict[str, Any], event: Any = None, **rest: Any) -> Any:
        return self.end(self.start(states, event, **rest))

    def end(self, execution: str, real_seconds: float = 120) -> Any:
        deadline = time.monotonic() + real_seconds
        while time.monotonic() < deadline:
            described = self.states.describe_execution(executionArn=execution)
            if described["status"] != "RUNNING":
                return described
            time.sleep(0.02)
        raise AssertionError(
            f"still running: {self.states.get_execution_history(executionArn=execution)['events'][-3:]}"
        )

    def events(self, execution: str) -> list[Any]:
        events: list[Any] = self.states.get_execution_history(executionArn=execution, maxResults=1000)["events"]
        return events


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Aws]:
    clock = VirtualClock(tmp_path_factory.mktemp("clock") / "offset")
    api = Api()
    api.start()
    aws = Aws(api, clock)
    step_functions.install(
        clock, api.endpoint_url, None, lambda execution: aws.changes.append((execution.exec_arn, execution.status))
    )

    def invoke(self: Any, function_name: str, qualifier: Any, body: Any, headers: Any, response_headers: Any) -> bytes:
        event = json.loads(body)
        try:
            with clock.busy():
                return json.dumps(aws.handlers[function_name](event)).encode()
        except JsonRESTError:
            raise
        except Exception as error:
            response_headers["x-amz-function-error"] = "Unhandled"
            return json.dumps({"errorType": type(error).__name__, "errorMessage": str(error)}).encode()

    original, LambdaSimpleBackend.invoke = LambdaSimpleBackend.invoke, invoke
    yield aws
    LambdaSimpleBackend.invoke = original
    api.stop()
    clock.stop()


@pytest.fixture
def aws(server: Aws) -> Aws:
    server.handlers.clear()
    server.changes.clear()
    return server


def task(function: str, **fields: Any) -> dict[str, Any]:
    return {
        "Type": "Task",
        "Resource": "arn:aws:states:::lambda:invoke",
        "Parameters": {"FunctionName": function, "Payload.$": "$"},
        "OutputPath": "$.Payload",
        "TimeoutSeconds": 30,
    } | (fields or {"End": True})


def test_a_week_passes_between_two_functions(aws: Aws) -> None:
    """The grace period, in a moment; both functions ran once."""
    seen: list[float] = []

    def look(event: Any) -> Any:
        seen.append(aws.clock.time())
        return event

    aws.handlers["look"] = look

    end = aws.run(
        {
            "Before": task("look", Next="Grace"),
            "Grace": {"Type": "Wait", "Seconds": 7 * DAY, "Next": "After"},
            "After": task("look"),
        },
        {"database": "orders"},
    )

    assert end["status"] == "SUCCEEDED"
    assert json.loads(end["output"]) == {"database": "orders"}
    assert seen[1] - seen[0] == pytest.approx(7 * DAY, abs=10)


def test_a_timestamp_is_not_reached_early(aws: Aws) -> None:
    """A wait until the old TTL has passed would otherwise end a second before it."""
    woke: list[float] = []
    aws.handlers["look"] = lambda event: woke.append(aws.clock.time())
    until = aws.clock.now() + dt.timedelta(hours=3, milliseconds=700)

    aws.run(
        {"Wait": {"Type": "Wait", "TimestampPath": "$.until", "Next": "Look"}, "Look": task("look")},
        {"until": until.strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"},
    )

    assert 0 <= woke[0] - (until.timestamp() - until.microsecond % 1000 / 1e6) < 3600


def test_a_branch_that_works_keeps_the_other_from_jumping(aws: Aws) -> None:
    """Two databases in one fleet: while one is being cut over, a week must not pass for it."""
    offsets: list[float] = []

    def work(event: Any) -> None:
        offsets.append(aws.clock.offset)
        time.sleep(0.5)
        offsets.append(aws.clock.offset)

    aws.handlers["work"] = work
    branch = {"StartAt": "Grace", "States": {"Grace": {"Type": "Wait", "Seconds": DAY, "End": True}}}
    busy = {"StartAt": "Work", "States": {"Work": task("work")}}

    assert aws.run({"Both": {"Type": "Parallel", "Branches": [branch, busy], "End": True}})["status"] == "SUCCEEDED"

    assert offsets[0] == offsets[1]


def test_retries_wait_on_the_clock(aws: Aws) -> None:
    """A retry after ten minutes is as quick as any other wait, and as late in virtual time."""
    at: list[float] = []

    class AwsUnavailable(Exception):
        pass

    def fail_once(event: Any) -> str:
        at.append(aws.clock.time())
        if len(at) == 1:
            raise AwsUnavailable
        return "done"

    aws.handlers["flaky"] = fail_once
    retry = [{"ErrorEquals": ["AwsUnavailable"], "IntervalSeconds": 600, "MaxAttempts": 2}]

    assert aws.run({"Flaky": task("flaky", Retry=retry, End=True)})["status"] == "SUCCEEDED"

    assert at[1] - at[0] == pytest.approx(600, abs=5)


def test_a_handlers_error_keeps_its_class_name(aws: Aws) -> None:
    """Step Functions compares names: this is what every Retry and Catch stands on."""

    class DrainIncomplete(Exception):
        pass

    def refuse(event: Any) -> None:
        raise DrainIncomplete("one byte short")

    aws.handlers["refuse"] = refuse

    end = aws.run({"Refuse": task("refuse")})

    assert (end["status"], end["error"]) == ("FAILED", "DrainIncomplete")
    assert json.loads(end["cause"])["errorMessage"] == "one byte short"


@pytest.mark.parametrize(
    ("code", "status", "name"),
    [
        ("TooManyRequestsException", 429, "Lambda.TooManyRequestsException"),
        ("ServiceException", 500, "Lambda.ServiceException"),
        ("ResourceNotReadyException", 502, "Lambda.ResourceNotReadyException"),
        ("AccessDeniedException", 403, "Lambda.AWSLambdaException"),
        ("ResourceNotFoundException", 404, "Lambda.ResourceNotFoundException"),
    ],
)
def test_lambdas_own_errors_have_their_names(aws: Aws, code: str, status: int, name: str) -> None:
    """A throttled Invoke is retried by its name; a forbidden one must not be mistaken for it."""

    class Refusal(JsonRESTError):  # type: ignore[misc]
        pass

    def refuse(event: Any) -> None:
        refusal = Refusal(code, "no")
        refusal.code = status
        raise refusal

    aws.handlers["refuse"] = refuse

    assert aws.run({"Refuse": task("refuse")})["error"] == name


def test_stop_abandons_a_running_lambda(aws: Aws) -> None:
    """The execution ends at once, with the reason given; the Lambda lives on to its own end and holds the clock."""
    entered, release, ended = threading.Event(), threading.Event(), threading.Event()

    def work(event: Any) -> None:
        entered.set()
        release.wait(20)
        ended.set()

    aws.handlers["work"] = work
    execution = aws.start({"Work": task("work")})
    assert entered.wait(5)

    aws.states.stop_execution(executionArn=execution, error="Operator", cause="changed my mind")
    end = aws.states.describe_execution(executionArn=execution)

    assert (end["status"], end["error"], end["cause"]) == ("ABORTED", "Operator", "changed my mind")
    assert "stopDate" in end
    assert not ended.is_set()
    other = aws.start({"Grace": {"Type": "Wait", "Seconds": DAY, "End": True}})
    time.sleep(0.4)
    assert aws.states.describe_execution(executionArn=other)["status"] == "RUNNING"
    release.set()
    assert ended.wait(5)
    assert aws.end(other)["status"] == "SUCCEEDED"
    assert [event["type"] for event in aws.events(execution)][-1] == "ExecutionAborted"
    assert not [event for event in aws.events(execution) if event["type"].startswith("TaskFailed")]


def test_stop_interrupts_a_wait(aws: Aws) -> None:
    execution = aws.start({"Approval": {"Type": "Wait", "Seconds": 4, "End": True}})

    aws.states.stop_execution(executionArn=execution)

    assert aws.end(execution, 2)["status"] == "ABORTED"


def test_a_task_that_exceeds_its_timeout_is_caught(aws: Aws) -> None:
    aws.handlers["slow"] = lambda event: time.sleep(3)
    catch = [{"ErrorEquals": ["States.Timeout"], "Next": "Rollback"}]

    end = aws.run(
        {
            "Slow": task("slow", TimeoutSeconds=1, Catch=catch, End=True),
            "Rollback": {"Type": "Pass", "Result": "rolled back", "End": True},
        }
    )

    assert json.loads(end["output"]) == "rolled back"


def test_a_task_that_exceeds_its_timeout_in_a_branch_is_caught_outside(aws: Aws) -> None:
    """A strategy is a branch: moto gave up the whole execution there, where AWS rolls back."""
    aws.handlers["slow"] = lambda event: time.sleep(3)
    branch = {"StartAt": "Slow", "States": {"Slow": task("slow", TimeoutSeconds=1, End=True)}}
    catch = [{"ErrorEquals": ["States.ALL"], "Next": "Rollback"}]

    end = aws.run(
        {
            "Strategy": {"Type": "Parallel", "Branches": [branch], "Catch": catch, "End": True},
            "Rollback": {"Type": "Pass", "End": True},
        }
    )

    assert json.loads(end["output"])["Error"] == "States.Timeout"


def test_a_choice_about_a_field_that_is_not_there_ends_the_execution(aws: Aws) -> None:
    """moto takes the default. And States.ALL does not catch States.Runtime: nothing but a recovery does."""
    choice = {"Type": "Choice", "Choices": [{"Variable": "$.sync.ready", "BooleanEquals": True, "Next": "Done"}]}
    branch = {
        "StartAt": "InSync",
        "States": {"InSync": choice | {"Default": "Done"}, "Done": {"Type": "Pass", "End": True}},
    }
    catch = [{"ErrorEquals": ["States.ALL"], "Next": "Rollback"}]

    end = aws.run(
        {
            "Strategy": {"Type": "Parallel", "Branches": [branch], "Catch": catch, "End": True},
            "Rollback": {"Type": "Pass", "End": True},
        },
        {"sync": None},
    )

    assert (end["status"], end["error"]) == ("FAILED", "States.Runtime")
    assert "Invalid path '$.sync.ready'" in end["cause"]


def test_a_choice_may_ask_whether_a_field_is_there(aws: Aws) -> None:
    rule = {"Variable": "$.sync", "IsPresent": True, "Next": "There"}
    states = {
        "There?": {"Type": "Choice", "Choices": [rule], "Default": "Not"},
        "There": {"Type": "Pass", "Result": "there", "End": True},
        "Not": {"Type": "Pass", "Result": "not there", "End": True},
    }

    assert [json.loads(aws.run(states, event)["output"]) for event in ({"sync": 1}, {})] == ["there", "not there"]


def test_a_start_answers_another_machines_token(aws: Aws) -> None:
    """The fleet: startExecution.waitForTaskToken in a Map, spelled as AWS spells it, names taken from the input."""
    child = aws.create({"Work": {"Type": "Wait", "Seconds": DAY, "Next": "Done"}, "Done": task("answer")}, start="Work")
    aws.handlers["answer"] = lambda event: (
        aws.states.send_task_success(taskToken=event["TaskToken"], output=json.dumps({"done": event["name"]}))
        and {"answered": True}
    )
    start = {
        "Type": "Task",
        "Resource": "arn:aws:states:::states:startExecution.waitForTaskToken",
        "TimeoutSeconds": 60,
        "Parameters": {
            "StateMachineArn": child,
            "Name.$": "States.Format('rotate-{}', $.name)",
            "Input": {"TaskToken.$": "$$.Task.Token", "name.$": "$.name"},
        },
        "End": True,
    }
    fleet = {
        "Each": {
            "Type": "Map",
            "ItemsPath": "$.databases",
            "MaxConcurrency": 2,
            "ItemProcessor": {
                "ProcessorConfig": {"Mode": "INLINE"},
                "StartAt": "RotateOne",
                "States": {"RotateOne": start},
            },
            "End": True,
        }
    }

    end = aws.run(fleet, {"databases": [{"name": "orders"}, {"name": "billing"}, {"name": "users"}]})

    assert json.loads(end["output"]) == [{"done": "orders"}, {"done": "billing"}, {"done": "users"}]
    names = {execution["name"] for execution in aws.states.list_executions(stateMachineArn=child)["executions"]}
    assert names == {"rotate-orders", "rotate-billing", "rotate-users"}


@pytest.mark.parametrize(
    ("code", "name"),
    [
        ("ThrottlingException", "StepFunctions.AWSStepFunctionsException"),
        ("AccessDeniedException", "StepFunctions.AWSStepFunctionsException"),
        ("ExecutionAlreadyExists", "StepFunctions.ExecutionAlreadyExistsException"),
    ],
)
def test_a_refused_start_has_its_name(aws: Aws, monkeypatch: pytest.MonkeyPatch, code: str, name: str) -> None:
    """What the API's model does not list has the SDK's general name: a Retry by the code's own name never matches."""
    child = aws.create({"Done": {"Type": "Succeed"}})
    start = step_functions.StepFunctionsBackend.start_execution

    class Refused(AWSError):  # type: ignore[misc]
        TYPE = code
        STATUS = 400

    def refuse(self: Any, state_machine_arn: str, *args: Any, **kwargs: Any) -> Any:
        if state_machine_arn == child:
            raise Refused("no")
        return start(self, state_machine_arn, *args, **kwargs)

    monkeypatch.setattr(step_functions.StepFunctionsBackend, "start_execution", refuse)

    end = aws.run(
        {
            "Start": {
                "Type": "Task",
                "Resource": "arn:aws:states:::states:startExecution.waitForTaskToken",
                "TimeoutSeconds": 30,
                "Parameters": {"StateMachineArn": child, "Input": {"TaskToken.$": "$$.Task.Token"}},
                "End": True,
            }
        }
    )

    assert end["error"] == name


def test_a_failure_sent_to_a_token_keeps_its_cause(aws: Aws) -> None:
    """The fleet reports why a rotation failed, not only that it did; and a token is answered once."""
    tokens: list[str] = []
    aws.handlers["ask"] = lambda event: tokens.append(event["token"])
    execution = aws.start(
        {
            "Ask": {
                "Type": "Task",
                "Resource": "arn:aws:states:::lambda:invoke.waitForTaskToken",
                "TimeoutSeconds": 30,
                "Parameters": {"FunctionName": "ask", "Payload": {"token.$": "$$.Task.Token"}},
                "End": True,
            }
        }
    )
    while not tokens:
        time.sleep(0.01)

    aws.states.send_task_failure(taskToken=tokens[0], error="RolledBack", cause="the budget was exceeded")
    end = aws.end(execution)

    assert (end["error"], end["cause"]) == ("RolledBack", "the budget was exceeded")
    with pytest.raises(ClientError) as refusal:
        aws.states.send_task_success(taskToken=tokens[0], output="{}")
    assert refusal.value.response["Error"]["Code"] == "TaskTimedOut"


def test_repeated_state_names_are_refused(aws: Aws) -> None:
    """moto accepts them across branches; AWS does not, and the strategies are embedded side by side."""
    branch = {"StartAt": "Promote", "States": {"Promote": {"Type": "Pass", "End": True}}}

    with pytest.raises(ClientError, match=r"DUPLICATE_STATE_NAME: Promote") as refusal:
        aws.create(
            {
                "First": {"Type": "Parallel", "Branches": [branch], "Next": "Second"},
                "Second": {"Type": "Parallel", "Branches": [branch], "End": True},
            }
        )

    assert refusal.value.response["Error"]["Code"] == "InvalidDefinition"


def test_the_context_can_be_written_into_the_output(aws: Aws) -> None:
    """moto puts dates there, and DescribeExecution fails on them."""
    end = aws.run(
        {
            "Look": {
                "Type": "Pass",
                "Parameters": {"started.$": "$$.Execution.StartTime", "entered.$": "$$.State.EnteredTime"},
                "End": True,
            }
        }
    )

    output = json.loads(end["output"])
    assert output["started"].endswith("Z")
    assert output["entered"].endswith("Z")
    assert dt.datetime.fromisoformat(output["started"].replace("Z", "+00:00")) <= aws.clock.now()


def test_starts_without_a_name_do_not_collide(aws: Aws) -> None:
    machine = aws.create({"Only": {"Type": "Succeed"}})

    arns = {aws.states.start_execution(stateMachineArn=machine)["executionArn"] for _ in range(3)}

    assert len(arns) == 3
    assert not [arn for arn in arns if arn.endswith("None")]


def test_the_history_has_pages_and_an_order(aws: Aws) -> None:
    execution = aws.start({"One": {"Type": "Pass", "Next": "Two"}, "Two": {"Type": "Pass", "End": True}})
    aws.end(execution)

    first = aws.states.get_execution_history(executionArn=execution, maxResults=2)
    rest = aws.states.get_execution_history(executionArn=execution, nextToken=first["nextToken"])
    latest = aws.states.get_execution_history(executionArn=execution, reverseOrder=True, maxResults=1)

    assert [event["id"] for event in first["events"] + rest["events"]] == [1, 2, 3, 4, 5, 6]
    assert latest["events"][0]["type"] == "ExecutionSucceeded"


def test_ends_are_reported(aws: Aws) -> None:
    """Recovery starts from these reports."""
    execution = aws.start({"Refuse": {"Type": "Fail", "Error": "Refused", "Cause": "because"}})
    aws.end(execution)

    deadline = time.monotonic() + 2
    while (execution, "FAILED") not in aws.changes and time.monotonic() < deadline:
        time.sleep(0.01)

    assert aws.changes == [(execution, "RUNNING"), (execution, "FAILED")]


def test_a_machine_that_exceeds_its_timeout_ends_timed_out(aws: Aws, tmp_path: Path) -> None:
    aws.handlers["slow"] = lambda event: time.sleep(2.5)

    end = aws.run({"Slow": task("slow")}, TimeoutSeconds=1)

    assert end["status"] == "TIMED_OUT"
    assert "stopDate" in end
