"""Recovery hangs on these: a schedule that fires once and late enough, an execution that is asked about, an answer."""

import json
from datetime import timedelta
from typing import Any

import pytest
from botocore.stub import Stubber

from lambdas.rotation.aws.client import client
from lambdas.rotation.aws.scheduler import SchedulerRecovery
from lambdas.rotation.aws.sns import SnsNotifier
from lambdas.rotation.aws.step_functions import StepFunctions
from lambdas.rotation.errors import AccessRefused, AwsRefused
from lambdas.rotation.state import Rotation
from tests.fakes import EXECUTION, START

MACHINE = "arn:aws:states:eu-central-1:123456789012:stateMachine:rotate"
ROTATION = Rotation(schema=1, execution_arn=EXECUTION, request={}, rotation_id="42")


@pytest.fixture
def recovery() -> SchedulerRecovery:
    client("scheduler").create_schedule_group(Name="recovery")
    return SchedulerRecovery(
        group="recovery",
        state_machine_arn=MACHINE,
        role_arn="arn:aws:iam::123456789012:role/recovery",
        dead_letter_arn="arn:aws:sqs:eu-central-1:123456789012:recovery",
    )


def schedule() -> Any:
    return client("scheduler").get_schedule(Name="42", GroupName="recovery")


def test_makes_a_schedule_that_recovers_this_execution_once(recovery: SchedulerRecovery) -> None:
    recovery.set(ROTATION, START + timedelta(seconds=0.5))

    made = schedule()
    assert ("at(2027-01-01T00:00:01)", "UTC") == (made["ScheduleExpression"], made["ScheduleExpressionTimezone"])
    assert ("DELETE", "OFF") == (made["ActionAfterCompletion"], made["FlexibleTimeWindow"]["Mode"])
    assert {"Recover": EXECUTION} == json.loads(made["Target"]["Input"])
    assert made["Target"]["DeadLetterConfig"]["Arn"].endswith(":recovery")


def test_moves_it_and_removes_it_once(recovery: SchedulerRecovery) -> None:
    recovery.set(ROTATION, START)
    recovery.set(ROTATION, START + timedelta(minutes=35))
    assert schedule()["ScheduleExpression"] == "at(2027-01-01T00:35:00)"

    recovery.remove(ROTATION)
    recovery.remove(ROTATION)

    assert [] == client("scheduler").list_schedules(GroupName="recovery")["Schedules"]


@pytest.mark.parametrize("status", ["RUNNING", "SUCCEEDED", "ABORTED"])
def test_only_a_running_execution_is_running(status: str) -> None:
    with Stubber(client("stepfunctions")) as stub:
        described = {"executionArn": EXECUTION, "stateMachineArn": MACHINE, "status": status, "startDate": START}
        stub.add_response("describe_execution", described)

        assert (status == "RUNNING") == StepFunctions(MACHINE).is_running(EXECUTION)


def test_a_forgotten_execution_is_not_running() -> None:
    with Stubber(client("stepfunctions")) as stub:
        stub.add_client_error("describe_execution", "ExecutionDoesNotExist")

        assert not StepFunctions(MACHINE).is_running(EXECUTION)


def test_a_recovery_is_started_once() -> None:
    with Stubber(client("stepfunctions")) as stub:
        asked = {"stateMachineArn": MACHINE, "name": "recover-1", "input": json.dumps({"Recover": EXECUTION})}
        stub.add_response("start_execution", {"executionArn": EXECUTION, "startDate": START}, asked)
        stub.add_client_error("start_execution", "ExecutionAlreadyExists")

        StepFunctions(MACHINE).start_recovery(EXECUTION, "recover-1")
        StepFunctions(MACHINE).start_recovery(EXECUTION, "recover-1")


def test_answers_the_fleet_with_success_or_the_errors_name() -> None:
    workflow = StepFunctions(MACHINE)
    with Stubber(client("stepfunctions")) as stub:
        stub.add_response("send_task_success", {}, {"taskToken": "t", "output": '{"moment": "x"}'})
        stub.add_response("send_task_failure", {}, {"taskToken": "t", "error": "E" * 256, "cause": "why"})

        workflow.answer("t", {"moment": "x"})
        workflow.answer("t", None, error="E" * 300, cause="why")


@pytest.mark.parametrize("code", ["TaskTimedOut", "TaskDoesNotExist", "InvalidToken"])
def test_a_token_that_nobody_waits_for_is_no_error(code: str) -> None:
    """The fleet may be over; the rotation is not."""
    with Stubber(client("stepfunctions")) as stub:
        stub.add_client_error("send_task_success", code)

        StepFunctions(MACHINE).answer("t", {})


def test_any_other_refusal_is_one() -> None:
    with Stubber(client("stepfunctions")) as stub:
        stub.add_client_error("send_task_success", "InvalidOutput")

        with pytest.raises(AwsRefused):
            StepFunctions(MACHINE).answer("t", {})


def test_a_notification_has_a_short_ascii_subject_and_its_moment_to_filter_on() -> None:
    topic = "arn:aws:sns:eu-central-1:123456789012:t"
    with Stubber(client("sns")) as stub:
        stub.add_response(
            "publish",
            {},
            {
                "TopicArn": topic,
                "Subject": "Bestellungen f?r M?nchen",
                "Message": '{\n  "schema": 1\n}',
                "MessageAttributes": {"moment": {"DataType": "String", "StringValue": "RotationCompleted"}},
            },
        )

        SnsNotifier(topic).publish("RotationCompleted", "Bestellungen\nfür München", {"schema": 1})


def test_whether_the_topic_can_be_reached_is_asked_without_telling_anybody() -> None:
    topic = "arn:aws:sns:eu-central-1:123456789012:t"
    with Stubber(client("sns")) as stub:
        stub.add_response("get_topic_attributes", {"Attributes": {"TopicArn": topic}}, {"TopicArn": topic})
        stub.add_client_error("get_topic_attributes", "AuthorizationError", "no", http_status_code=403)

        SnsNotifier(topic).describe_topic()
        with pytest.raises(AccessRefused, match="sns:GetTopicAttributes"):
            SnsNotifier(topic).describe_topic()
