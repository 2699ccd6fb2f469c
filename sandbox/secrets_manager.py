"""Secrets Manager's own rotation of a secret, stricter than moto's.

moto rotates with a function that it cannot run, takes a rotation that has finished for one that is under way and the
other way round, forgets schedules, and lets anybody suspend the rotation of a secret that a service owns. Here the
settings are kept as AWS keeps them and refused as AWS refuses them. What is not done: the rotation function is looked
up but not run, so a secret that is rotated at once stays in the middle of it (AWSPENDING), and schedules start nothing.
"""

from __future__ import annotations

from typing import Any

from moto.awslambda.utils import get_backend as lambda_backend
from moto.moto_api._internal import mock_random
from moto.secretsmanager.exceptions import (
    InvalidParameterException,
    InvalidRequestException,
    OperationNotPermittedOnReplica,
    ResourceNotFoundException,
    SecretNotFoundException,
)
from moto.secretsmanager.models import FakeSecret, ReplicaSecret, SecretsManagerBackend

from sandbox.context import Context
from sandbox.scheduler import ExpressionInvalid, parse_expression


def install_secrets(context: Context) -> None:
    """Replace moto's answers to RotateSecret, CancelRotateSecret and, for a rotated secret, DescribeSecret."""

    def rotate_secret(
        backend: Any,
        secret_id: str,
        client_request_token: str | None = None,
        rotation_lambda_arn: str | None = None,
        rotation_rules: dict[str, Any] | None = None,
        rotate_immediately: bool = True,
    ) -> str:
        secret = _secret(backend, secret_id)
        function = rotation_lambda_arn or secret.rotation_lambda_arn
        if not function:
            raise InvalidRequestException("No Lambda rotation function ARN is associated with this secret.")
        rules = rotation_rules or getattr(secret, "rotation_rules", None)
        if not rules:
            raise InvalidRequestException("You must specify RotationRules to turn rotation on.")
        now = context.clock.time()
        due = _next_rotation(rules, now)
        if any("AWSPENDING" in one and "AWSCURRENT" not in one for one in _stages(secret)):
            raise InvalidRequestException("A previous rotation isn't complete. That rotation will be reattempted.")
        try:
            lambda_backend(backend.account_id, backend.region_name).get_function(function)
        except Exception as absent:
            raise ResourceNotFoundException(f"Lambda function {function} does not exist.") from absent
        secret.rotation_requested = secret.rotation_enabled = True
        secret.rotation_lambda_arn, secret.rotation_rules, secret.next_rotation_date = function, dict(rules), int(due)
        if rotate_immediately:
            version = client_request_token or str(mock_random.uuid4())
            secret.versions[version] = {
                "createdate": int(now),
                "version_id": version,
                "version_stages": ["AWSPENDING"],
            }
        return str(secret.to_short_dict())

    def cancel_rotate_secret(backend: Any, secret_id: str) -> str:
        secret = _secret(backend, secret_id)
        if secret.owning_service:
            raise InvalidRequestException(f"The secret is managed by {secret.owning_service}.")
        if not secret.rotation_lambda_arn:
            raise InvalidRequestException("Rotation was never configured for this secret.")
        secret.rotation_enabled, secret.next_rotation_date = False, None
        return str(secret.to_short_dict())

    described = FakeSecret.to_dict

    def to_dict(secret: FakeSecret) -> dict[str, Any]:
        facts: dict[str, Any] = described(secret)
        if rules := getattr(secret, "rotation_rules", None):
            facts["RotationRules"] = rules | _computed(rules, context.clock.time())
            facts["LastRotatedDate"] = None
        return facts

    SecretsManagerBackend.rotate_secret = rotate_secret
    SecretsManagerBackend.cancel_rotate_secret = cancel_rotate_secret
    FakeSecret.to_dict = to_dict


def _secret(backend: Any, secret_id: str) -> Any:
    secret = backend.secrets.get(secret_id)
    if secret is None:
        raise SecretNotFoundException()
    if isinstance(secret, ReplicaSecret):
        raise OperationNotPermittedOnReplica
    if secret.is_deleted():
        raise InvalidRequestException("The secret is marked for deletion.")
    return secret


def _stages(secret: Any) -> list[list[str]]:
    return [version["version_stages"] for version in secret.versions.values()]


def _next_rotation(rules: dict[str, Any], now: float) -> float:
    """AWS counts days from the last change; the end of the window is what it tells."""
    days, schedule = rules.get("AutomaticallyAfterDays"), rules.get("ScheduleExpression")
    if bool(days) == bool(schedule):
        raise InvalidParameterException("Specify either AutomaticallyAfterDays or ScheduleExpression, but not both.")
    if days:
        if not 1 <= int(days) <= 1000:
            raise InvalidParameterException("RotationRules.AutomaticallyAfterDays must be within 1-1000.")
        return now + int(days) * 86400
    try:
        due = parse_expression(str(schedule), "UTC", now).after(now)
    except ExpressionInvalid as invalid:
        raise InvalidParameterException(f"Invalid ScheduleExpression: {invalid}") from invalid
    if due is None:
        raise InvalidParameterException("The ScheduleExpression is never due.")
    return due


def _computed(rules: dict[str, Any], now: float) -> dict[str, Any]:
    """DescribeSecret shows the days between rotations beside a schedule; RotateSecret refuses both together."""
    if "ScheduleExpression" not in rules:
        return {}
    expression = parse_expression(str(rules["ScheduleExpression"]), "UTC", now)
    first = expression.after(now)
    second = expression.after(first) if first is not None else None
    return {} if first is None or second is None else {"AutomaticallyAfterDays": max(1, int((second - first) // 86400))}
