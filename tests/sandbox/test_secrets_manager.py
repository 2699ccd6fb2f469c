"""A rotation of a secret is switched off and on as in AWS: not by a secret's owner's rival, not twice, not at once."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import boto3
import pytest
from moto import mock_aws
from moto.backends import get_backend
from moto.secretsmanager.models import FakeSecret, SecretsManagerBackend

from sandbox.secrets_manager import install_secrets
from tests.sandbox.rds_sandbox import code_of

NOW = 1_800_000_000.0
DAY = 86_400


@pytest.fixture
def secrets() -> Iterator[Any]:
    with pytest.MonkeyPatch.context() as patch, mock_aws():
        for service in ("secretsmanager", "lambda", "iam"):
            get_backend(service).reset()
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
            patch.setenv(name, "none")
        for owner, method in (
            (SecretsManagerBackend, "rotate_secret"),
            (SecretsManagerBackend, "cancel_rotate_secret"),
            (FakeSecret, "to_dict"),
        ):
            patch.setattr(owner, method, getattr(owner, method))  # puts moto's own back afterwards
        install_secrets(SimpleNamespace(clock=SimpleNamespace(time=lambda: NOW)))  # type: ignore[arg-type]
        client = boto3.client("secretsmanager", region_name="eu-central-1")
        client.create_secret(Name="login", SecretString="{}")
        yield client


@pytest.fixture
def function(secrets: Any) -> str:
    iam = boto3.client("iam", region_name="eu-central-1")
    role = iam.create_role(RoleName="r", AssumeRolePolicyDocument="{}")["Role"]["Arn"]
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("index.py", "")
    made = boto3.client("lambda", region_name="eu-central-1").create_function(
        FunctionName="rotate", Runtime="python3.13", Role=role, Handler="index.h", Code={"ZipFile": buffer.getvalue()}
    )
    return str(made["FunctionArn"])


def switch_on(secrets: Any, function: str, at_once: bool = False, **rules: Any) -> None:
    rules = rules or {"AutomaticallyAfterDays": 30}
    secrets.rotate_secret(SecretId="login", RotationLambdaARN=function, RotationRules=rules, RotateImmediately=at_once)


def test_off_and_on_again_leaves_the_value_alone(secrets: Any, function: str) -> None:
    before = secrets.get_secret_value(SecretId="login")["VersionId"]
    switch_on(secrets, function)
    secrets.cancel_rotate_secret(SecretId="login")
    off = secrets.describe_secret(SecretId="login")
    assert (off["RotationEnabled"], off["RotationLambdaARN"]) == (False, function)
    assert "NextRotationDate" not in off
    switch_on(secrets, function)

    on = secrets.describe_secret(SecretId="login")
    assert on["RotationEnabled"]
    assert NOW + 30 * DAY == on["NextRotationDate"].timestamp()
    assert {before: ["AWSCURRENT"]} == on["VersionIdsToStages"]


def test_a_schedule_comes_back_with_its_days_and_is_refused_with_them(secrets: Any, function: str) -> None:
    switch_on(secrets, function, ScheduleExpression="rate(4 days)", Duration="2h")

    rules = secrets.describe_secret(SecretId="login")["RotationRules"]

    assert {"ScheduleExpression": "rate(4 days)", "Duration": "2h", "AutomaticallyAfterDays": 4} == rules
    call = {"SecretId": "login", "RotationLambdaARN": function, "RotationRules": rules}
    assert "InvalidParameterException" == code_of(secrets.rotate_secret, **call)


def test_one_that_rotates_at_once_is_under_way(secrets: Any, function: str) -> None:
    """Left out, RotateImmediately is true."""
    rules = {"AutomaticallyAfterDays": 30}
    secrets.rotate_secret(SecretId="login", RotationLambdaARN=function, RotationRules=rules)

    stages = secrets.describe_secret(SecretId="login")["VersionIdsToStages"].values()
    assert ["AWSPENDING"] in stages
    call = {"SecretId": "login", "RotationRules": rules, "RotateImmediately": False}
    assert "InvalidRequestException" == code_of(secrets.rotate_secret, **call)


def test_refuses_what_aws_refuses(secrets: Any, function: str) -> None:
    rules = {"AutomaticallyAfterDays": 30}
    assert "InvalidRequestException" == code_of(secrets.cancel_rotate_secret, SecretId="login")
    assert "InvalidRequestException" == code_of(secrets.rotate_secret, SecretId="login", RotationRules=rules)
    absent = {"RotationLambdaARN": function + "-gone", "RotationRules": rules}
    assert "ResourceNotFoundException" == code_of(secrets.rotate_secret, SecretId="login", **absent)
    assert "ResourceNotFoundException" == code_of(secrets.cancel_rotate_secret, SecretId="none")
    owned = [{"Key": "aws:secretsmanager:owningService", "Value": "rds"}]
    secrets.tag_resource(SecretId="login", Tags=owned)
    assert "InvalidRequestException" == code_of(secrets.cancel_rotate_secret, SecretId="login")
