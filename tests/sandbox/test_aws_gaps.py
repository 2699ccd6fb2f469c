"""What moto does not know, the sandbox answers as an account does that has none of it; and old messages are gone."""

from collections.abc import Iterator

import boto3
import pytest
import time_machine
from moto import mock_aws

from lambdas.rotation.aws import client, key_users
from sandbox.aws_gaps import install_gaps
from tests.fakes import FakeClock

KEY = "arn:aws:kms:eu-central-1:123456789012:key/11111111-2222-3333-4444-555555555555"
OF_DMS = [question for question in key_users.QUESTIONS if question.__name__.startswith("_dms")]


@pytest.fixture(autouse=True)
def an_account_without_dms(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    install_gaps()
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
    client.client_of_a_search.cache_clear()
    with mock_aws():
        yield
    client.client_of_a_search.cache_clear()


@pytest.mark.parametrize("question", OF_DMS, ids=lambda question: question.__name__)
def test_every_question_about_dms_has_an_answer(question: key_users.Question) -> None:
    """One without would count as a user: no rotation of the sandbox could ever retire a key."""
    assert [] == list(question(key_users._Key(KEY, frozenset({KEY})), key_users._Search(FakeClock(), ends_at=1)))


def test_a_message_that_is_too_old_bars_no_other() -> None:
    sqs = boto3.client("sqs")
    url = sqs.create_queue(QueueName="inbox", Attributes={"MessageRetentionPeriod": "60"})["QueueUrl"]
    with time_machine.travel(0, tick=False) as traveller:
        sqs.send_message(QueueUrl=url, MessageBody="old")
        traveller.shift(61)
        sqs.send_message(QueueUrl=url, MessageBody="new")

        assert [one["Body"] for one in sqs.receive_message(QueueUrl=url)["Messages"]] == ["new"]
