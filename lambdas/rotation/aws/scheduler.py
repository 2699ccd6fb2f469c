"""EventBridge Scheduler: the one-time schedule that recovers a rotation whose execution died under the fence."""

import json
from datetime import UTC, datetime, timedelta

from lambdas.rotation.aws.client import calls, client
from lambdas.rotation.errors import AwsRefused
from lambdas.rotation.state import Rotation


class SchedulerRecovery:
    """`ports.RecoverySchedule`: one schedule per rotation, in a group of its own; it removes itself when it has run."""

    def __init__(self, *, group: str, state_machine_arn: str, role_arn: str, dead_letter_arn: str) -> None:
        self._group = group
        self._state_machine_arn = state_machine_arn
        self._role_arn = role_arn
        self._dead_letter_arn = dead_letter_arn

    def is_set(self, rotation: Rotation) -> bool:
        try:
            with calls("scheduler:GetSchedule"):
                client("scheduler").get_schedule(Name=rotation.rotation_id, GroupName=self._group)
        except AwsRefused as refused:
            if refused.code != "ResourceNotFoundException":
                raise
            return False
        return True

    def set(self, rotation: Rotation, at: datetime) -> None:
        """Make the schedule, or move it; one that has already run is made again. Repeatable.

        The schedule starts a recovery of the execution that holds the rotation now: after a takeover it is set anew.
        """
        schedule: dict[str, object] = {
            "Name": rotation.rotation_id,
            "GroupName": self._group,
            "ScheduleExpression": _at(at),
            "ScheduleExpressionTimezone": "UTC",
            "FlexibleTimeWindow": {"Mode": "OFF"},
            "ActionAfterCompletion": "DELETE",
            "Target": {
                "Arn": self._state_machine_arn,
                "RoleArn": self._role_arn,
                "Input": json.dumps({"Recover": rotation.execution_arn}),
                "DeadLetterConfig": {"Arn": self._dead_letter_arn},
                "RetryPolicy": {"MaximumEventAgeInSeconds": 3600, "MaximumRetryAttempts": 20},
            },
        }
        try:
            with calls("scheduler:UpdateSchedule"):
                client("scheduler").update_schedule(**schedule)
        except AwsRefused as refused:
            if refused.code != "ResourceNotFoundException":
                raise
            self._create(schedule)

    def remove(self, rotation: Rotation) -> None:
        """Remove the schedule; one that has already run has removed itself. Repeatable."""
        try:
            with calls("scheduler:DeleteSchedule"):
                client("scheduler").delete_schedule(Name=rotation.rotation_id, GroupName=self._group)
        except AwsRefused as refused:
            if refused.code != "ResourceNotFoundException":
                raise

    def _create(self, schedule: dict[str, object]) -> None:
        try:
            with calls("scheduler:CreateSchedule"):
                client("scheduler").create_schedule(**schedule)
        except AwsRefused as refused:
            if refused.code != "ConflictException":
                raise
            with calls("scheduler:UpdateSchedule"):  # made by this step's own earlier attempt, a moment ago
                client("scheduler").update_schedule(**schedule)


def _at(moment: datetime) -> str:
    """Whole seconds, rounded up: a recovery that came early would find that nothing hangs, and there is no second one.

    >>> _at(datetime(2027, 1, 1, 0, 0, 0, 1, tzinfo=UTC))
    'at(2027-01-01T00:00:01)'
    """
    up = moment.astimezone(UTC) + timedelta(microseconds=-moment.microsecond % 1_000_000)
    return f"at({up:%Y-%m-%dT%H:%M:%S})"
