"""Step Functions, as far as a rotation speaks to it."""

import json
from collections.abc import Mapping
from typing import Any

from lambdas.rotation.aws.client import calls, client
from lambdas.rotation.errors import AwsRefused

_CAUSE_LENGTH = 32_768
_ERROR_LENGTH = 256
_OVER = frozenset({"TaskDoesNotExist", "TaskTimedOut", "InvalidToken"})


class StepFunctions:
    """`ports.Workflow` on one state machine."""

    def __init__(self, state_machine_arn: str) -> None:
        self._state_machine_arn = state_machine_arn

    def is_running(self, execution_arn: str) -> bool:
        """An execution that Step Functions no longer knows (history is kept for 90 days) is not running."""
        try:
            with calls("states:DescribeExecution"):
                execution = client("stepfunctions").describe_execution(executionArn=execution_arn)
        except AwsRefused as refused:
            if refused.code == "ExecutionDoesNotExist":
                return False
            raise
        return bool(execution["status"] == "RUNNING")

    def stop(self, execution_arn: str, reason: str) -> None:
        """Stop an execution. Its Lambda functions run on to their end; only the epoch keeps them from harm."""
        try:
            with calls("states:StopExecution"):
                client("stepfunctions").stop_execution(
                    executionArn=execution_arn, error="RecoveryTakesOver", cause=reason[:_CAUSE_LENGTH]
                )
        except AwsRefused as refused:
            if refused.code != "ExecutionDoesNotExist":
                raise

    def start_recovery(self, execution_arn: str, name: str) -> None:
        """Start the recovery of an execution; the same name is started once."""
        try:
            with calls("states:StartExecution"):
                client("stepfunctions").start_execution(
                    stateMachineArn=self._state_machine_arn,
                    name=name,
                    input=json.dumps({"Recover": execution_arn}),
                )
        except AwsRefused as refused:
            if refused.code != "ExecutionAlreadyExists":
                raise

    def answer(self, task_token: str, output: Mapping[str, Any] | None, error: str = "", cause: str = "") -> None:
        """Answer the fleet; a token that was answered before, or that nobody waits for any more, is not an error."""
        try:
            with calls("states:SendTask"):
                if output is not None:
                    client("stepfunctions").send_task_success(
                        taskToken=task_token, output=json.dumps(output, default=str)
                    )
                else:
                    client("stepfunctions").send_task_failure(
                        taskToken=task_token, error=error[:_ERROR_LENGTH], cause=cause[:_CAUSE_LENGTH]
                    )
        except AwsRefused as refused:
            if refused.code not in _OVER:
                raise
