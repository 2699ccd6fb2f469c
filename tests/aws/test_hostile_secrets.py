"""A secret is written by people and programs of all kinds: whatever is in it, it is used or refused, and never told."""

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from lambdas.rotation.aws.client import client
from lambdas.rotation.aws.secrets import SecretsManager
from lambdas.rotation.errors import ConnectivityChanged, LoginRefused
from lambdas.rotation.state import EndpointSecret
from tests.fakes import FakeClock
from tests.hostile import any_json, any_text

MARK = "hunter2"
LARGEST = 65_536

marked = any_text(6).map(MARK.__add__)
values = st.recursive(
    marked | st.sampled_from([MARK + "\ud800", MARK + "\0"]) | any_json(3), lambda inner: st.lists(inner, max_size=2)
)
objects = st.dictionaries(
    st.sampled_from(["username", "password", "host", "port", "dbInstanceIdentifier", "url", "\ud800"]),
    values,
    max_size=6,
)
contents = objects.map(json.dumps) | values.map(json.dumps) | marked


@pytest.fixture(scope="module")
def secret() -> str:
    return "hostile"


def put(secret: str, text: str) -> None:
    manager = client("secretsmanager")
    try:
        manager.put_secret_value(SecretId=secret, SecretString=text)
    except manager.exceptions.ResourceNotFoundException:
        manager.create_secret(Name=secret, SecretString=text)


fuzzed = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])


@fuzzed
@given(text=contents)
@example(text="[" * LARGEST)
@example(text="{" * 3 + MARK)
@example(text=json.dumps({"username": "app", "password": [MARK]}))
@example(text=json.dumps({"username": "app", "password": MARK + "\0"}))
@example(text=json.dumps({"username": "app", "password": MARK + "\ud800"}))
@example(text=json.dumps({"host": 5, "url": MARK}))
@example(text='{"host": "h", "port": 1e999}')
def test_is_used_or_refused_and_never_told(secret: str, text: str) -> None:
    """What Preflight lets through can be used; what can be said of the rest names fields, and no value but the host."""
    secrets = SecretsManager(FakeClock())
    put(secret, text)
    said: list[Any] = []

    login = secrets.limitations(secret, purpose="login")
    try:
        for part in secrets.login(secret):
            part.encode()
    except LoginRefused as refused:
        assert login, text
        said.append(refused)
    else:
        assert not login
    endpoint = secrets.limitations(secret, purpose="endpoint")
    try:
        secrets.describe_endpoint(secret).model_dump_json()
    except ConnectivityChanged as refused:
        assert endpoint, text
        said.append(refused)

    assert MARK not in " ".join(map(str, [*said, *login, *endpoint]))


@pytest.mark.parametrize("purpose", ["login", "endpoint"])
def test_a_binary_secret_is_refused(secret: str, purpose: str) -> None:
    client("secretsmanager").create_secret(Name="binary", SecretBinary=b'{"username": "app"}\xff')

    [finding] = SecretsManager(FakeClock()).limitations("binary", purpose=purpose)

    assert "SecretIncomplete" == finding.name


@fuzzed
@given(fields=objects, indent=st.sampled_from([None, 2, 3]))
def test_leads_to_the_target_and_back_with_every_other_field_as_it_was(
    secret: str, fields: dict[str, Any], indent: int | None
) -> None:
    """Another way of writing the same numbers is the same to whoever reads JSON."""
    fields = fields | {"host": "source.example", "port": "5432"}
    put(secret, json.dumps(fields, indent=indent))
    secrets = SecretsManager(FakeClock())
    seen: EndpointSecret = secrets.describe_endpoint(secret)

    secrets._rewrite(seen, "source.example", "target.example", {"host": "target.example", "port": 6432})
    led = stored(secret)
    secrets._rewrite(seen, "target.example", "source.example", {"host": "source.example", "port": 5432})

    assert ("target.example", "6432") == (led["host"], led["port"])
    assert same(fields) == same(stored(secret))
    assert same(fields | {"host": "target.example", "port": "6432"}) == same(led)


def stored(secret: str) -> dict[str, Any]:
    fields: dict[str, Any] = json.loads(client("secretsmanager").get_secret_value(SecretId=secret)["SecretString"])
    return fields


def same(fields: dict[str, Any]) -> str:
    """NaN is not equal to itself."""
    return json.dumps(fields, sort_keys=True)
