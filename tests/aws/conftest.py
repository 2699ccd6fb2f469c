"""Adapters on moto, where moto is honest; `tests/sandbox` has what only a stricter AWS shows."""

from collections.abc import Iterator
from typing import Any

import pytest
from botocore.stub import Stubber
from moto import mock_aws
from moto.backends import get_backend

from lambdas.rotation.aws import client
from tests.fakes import FakeClock

REGION = "eu-central-1"
SERVICES = ("rds", "kms", "route53", "secretsmanager", "scheduler", "sns", "sqs", "stepfunctions", "cloudwatch")


@pytest.fixture(autouse=True, scope="package")
def moto() -> Iterator[None]:
    """One moto and one client per service for all tests: making them takes longer than any test here."""
    with pytest.MonkeyPatch.context() as patch, mock_aws():
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
            patch.setenv(name, "none")
        patch.setenv("AWS_DEFAULT_REGION", REGION)
        patch.setenv("MOTO_EC2_LOAD_DEFAULT_AMIS", "false")  # a second per test, for nothing here
        _forget_clients()
        yield
        _forget_clients()


def _forget_clients() -> None:
    for make in (client.client, client.client_that_asks_once, client.client_in_a_hurry, client.table):
        make.cache_clear()


@pytest.fixture(autouse=True)
def account() -> None:
    """An empty account for each test."""
    for service in SERVICES:
        get_backend(service).reset()


@pytest.fixture(autouse=True)
def every_stubbed_answer_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test has AWS answer says what it expects to be asked: not to be asked is no pass."""
    leave = Stubber.__exit__

    def leave_nothing(self: Stubber, kind: type[BaseException] | None, *rest: Any) -> None:
        leave(self, kind, *rest)
        if kind is None:
            self.assert_no_pending_responses()

    monkeypatch.setattr(Stubber, "__exit__", leave_nothing)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()
