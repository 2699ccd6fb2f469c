"""Applications read the secret: only the address may change in it, and nothing of it may ever be printed."""

import json
from datetime import timedelta
from typing import Any

import pytest
from botocore.stub import Stubber

from lambdas.rotation.aws.client import client
from lambdas.rotation.aws.secrets import SecretsManager
from lambdas.rotation.errors import ConnectivityChanged, LoginRefused
from lambdas.rotation.state import Database, EndpointSecret, ManagedRotation
from tests.fakes import START, FakeClock

SOURCE = Database(
    identifier="orders",
    arn="arn:aws:rds:eu-central-1:123456789012:db:orders",
    resource_id="db-1",
    engine="postgres",
    engine_version="16.4",
    address="orders.abc.rds.amazonaws.com",
    port=5432,
)
TARGET = SOURCE.having(identifier="orders-rot-42", address="orders-rot-42.abc.rds.amazonaws.com", port=6432)
FIELDS = {
    "engine": "postgres",
    "password": "hünter2",
    "host": SOURCE.address,
    "port": 5432,
    "username": "app",
    "dbInstanceIdentifier": "orders",
    "extra": {"a": [1, 2]},
}
NAME = "orders-app"


@pytest.fixture
def secrets(clock: FakeClock) -> SecretsManager:
    return SecretsManager(clock)


def stored(text: str, name: str = NAME) -> None:
    client("secretsmanager").create_secret(Name=name, SecretString=text)


def text_of(name: str = NAME) -> str:
    return str(client("secretsmanager").get_secret_value(SecretId=name)["SecretString"])


def test_the_login_has_two_fields(secrets: SecretsManager) -> None:
    stored(json.dumps(FIELDS))

    assert secrets.login(NAME) == ("app", "hünter2")


@pytest.mark.parametrize("text", ["hunter2", "[]", '{"username": "app"}', '{"username": "", "password": "hunter2"}'])
def test_a_login_that_lacks_one_is_refused_without_its_value(secrets: SecretsManager, text: str) -> None:
    stored(text)

    with pytest.raises(LoginRefused) as refused:
        secrets.login(NAME)

    assert "hunter2" not in str(refused.value)


def test_a_login_that_does_not_exist_is_refused(secrets: SecretsManager) -> None:
    with pytest.raises(LoginRefused):
        secrets.login("none")


@pytest.mark.parametrize(
    "style",
    [
        {},
        {"separators": (",", ":")},
        {"indent": 2},
        {"indent": 4, "ensure_ascii": False},
        {"ensure_ascii": False},
    ],
)
def test_only_the_address_changes_to_the_byte(secrets: SecretsManager, style: dict[str, Any]) -> None:
    stored(json.dumps(FIELDS, **style))

    secrets.write_endpoint(secrets.describe_endpoint(NAME), TARGET)

    address = {"host": TARGET.address, "port": 6432, "dbInstanceIdentifier": TARGET.identifier}
    assert json.dumps({**FIELDS, **address}, **style) == text_of()


def test_fields_keep_their_type_and_are_not_invented(secrets: SecretsManager) -> None:
    stored(json.dumps({"host": SOURCE.address, "port": "5432"}))

    secrets.write_endpoint(secrets.describe_endpoint(NAME), TARGET)

    assert json.loads(text_of()) == {"host": TARGET.address, "port": "6432"}


def test_a_repeated_change_is_one_version(secrets: SecretsManager) -> None:
    stored(json.dumps(FIELDS))
    before = secrets.describe_endpoint(NAME)
    secrets.write_endpoint(before, TARGET)
    secrets.write_endpoint(before, TARGET)

    versions = client("secretsmanager").list_secret_version_ids(SecretId=NAME)["Versions"]
    assert 2 == len(versions)


def test_restores_the_address_and_keeps_what_changed_since(secrets: SecretsManager) -> None:
    """A password that was rotated under the fence must not be rolled back with the address."""
    stored(json.dumps(FIELDS))
    before = secrets.describe_endpoint(NAME)
    secrets.write_endpoint(before, TARGET)
    rotated = json.loads(text_of()) | {"password": "new"}
    client("secretsmanager").put_secret_value(SecretId=NAME, SecretString=json.dumps(rotated))

    secrets.restore_endpoint(before, TARGET)
    secrets.restore_endpoint(before, TARGET)

    assert json.loads(text_of()) == FIELDS | {"password": "new"}


def test_somebody_elses_host_is_not_overwritten(secrets: SecretsManager) -> None:
    stored(json.dumps(FIELDS | {"host": "elsewhere"}))
    before = EndpointSecret(arn=NAME, version_id="v", host=SOURCE.address)

    with pytest.raises(ConnectivityChanged, match="elsewhere") as changed:
        secrets.write_endpoint(before, TARGET)

    assert "hünter2" not in str(changed.value)
    assert json.loads(text_of())["host"] == "elsewhere"


@pytest.mark.parametrize("text", ["plain", "{}", '{"host": 5}'])
def test_a_secret_without_a_host_leads_nowhere(secrets: SecretsManager, text: str) -> None:
    stored(text)

    with pytest.raises(ConnectivityChanged):
        secrets.describe_endpoint(NAME)


def limits(secrets: SecretsManager, purpose: str) -> list[str]:
    return [finding.name for finding in secrets.limitations(NAME, purpose=purpose)]


def test_a_fit_secret_has_no_limitations(secrets: SecretsManager) -> None:
    stored(json.dumps(FIELDS))

    assert limits(secrets, "login") == limits(secrets, "endpoint") == []


def test_limitations_of_the_content(secrets: SecretsManager) -> None:
    assert limits(secrets, "login") == ["SecretUnknown"]
    host = f"{SOURCE.address.upper()}."
    stored(json.dumps(FIELDS | {"host": host, "url": f"postgres://{SOURCE.address}/orders", "password": ""}))

    assert limits(secrets, "login") == ["SecretIncomplete"]
    assert limits(secrets, "endpoint") == ["SecretNamesHostElsewhere"]


@pytest.mark.parametrize(
    ("facts", "refused"),
    [
        ({"VersionIdsToStages": {"a" * 32: ["AWSCURRENT"], "b" * 32: ["AWSPENDING"]}}, True),
        ({"VersionIdsToStages": {"a" * 32: ["AWSCURRENT", "AWSPENDING"]}}, False),
        ({"RotationEnabled": True, "NextRotationDate": START + timedelta(minutes=119)}, True),
        ({"RotationEnabled": True, "NextRotationDate": START + timedelta(hours=3)}, False),
        ({"RotationEnabled": False, "NextRotationDate": START}, False),
    ],
)
def test_a_secret_that_is_about_to_change_is_no_login(
    secrets: SecretsManager, facts: dict[str, Any], refused: bool
) -> None:
    """The password would change between fence and release, and nobody could open either side."""
    arn = "arn:aws:secretsmanager:eu-central-1:123456789012:secret:orders-app-abcdef"
    with Stubber(client("secretsmanager")) as stub:
        stub.add_response("describe_secret", {"Name": NAME, "RotationLambdaARN": FUNCTION, **facts})
        value = {"ARN": arn, "VersionId": "v" * 32, "SecretString": json.dumps(FIELDS)}
        stub.add_response("get_secret_value", value)

        assert limits(secrets, "login") == (["SecretAboutToRotate"] if refused else [])


# -- Secrets Manager's own rotation of a secret --

ARN = "arn:aws:secretsmanager:eu-central-1:123456789012:secret:orders-app-abcdef"
FUNCTION = "arn:aws:lambda:eu-central-1:123456789012:function:rotate"
MANAGED = ManagedRotation(secret_arn=ARN, function_arn=FUNCTION, rules={"ScheduleExpression": "rate(4 days)"})
SWITCHED_ON = {
    "ARN": ARN,
    "Name": NAME,
    "RotationEnabled": True,
    "RotationLambdaARN": FUNCTION,
    "RotationRules": {"AutomaticallyAfterDays": 4, "ScheduleExpression": "rate(4 days)"},
}


@pytest.mark.parametrize(
    ("facts", "name"),
    [
        ({"OwningService": "rds", "RotationEnabled": True}, "SecretOwnedByService"),
        ({"RotationEnabled": True}, "SecretOwnedByService"),
        ({"RotationEnabled": True, "RotationLambdaARN": FUNCTION}, None),
    ],
)
def test_a_secret_that_a_service_rotates_is_refused(
    secrets: SecretsManager, facts: dict[str, Any], name: str | None
) -> None:
    """Its rotation cannot be suspended: the password could change under the fence."""
    with Stubber(client("secretsmanager")) as stub:
        stub.add_response("describe_secret", {"Name": NAME, "ARN": ARN, **facts})
        value = {"ARN": ARN, "VersionId": "v" * 32, "SecretString": json.dumps(FIELDS)}
        stub.add_response("get_secret_value", value)

        assert limits(secrets, "login") == ([name] if name else [])


def test_notes_a_schedule_as_it_can_be_given_back(secrets: SecretsManager) -> None:
    """DescribeSecret shows the days of a schedule as well, and RotateSecret refuses both together."""
    with Stubber(client("secretsmanager")) as stub:
        stub.add_response("describe_secret", SWITCHED_ON)

        assert MANAGED == secrets.managed_rotation(NAME)


@pytest.mark.parametrize("facts", [{}, {"RotationEnabled": False, "RotationLambdaARN": FUNCTION}])
def test_a_rotation_that_is_switched_off_is_none(secrets: SecretsManager, facts: dict[str, Any]) -> None:
    with Stubber(client("secretsmanager")) as stub:
        stub.add_response("describe_secret", {"ARN": ARN, "Name": NAME, **facts})

        assert secrets.managed_rotation(NAME) is None


def test_switches_it_off_and_on_again_without_rotating(secrets: SecretsManager) -> None:
    """RotateImmediately is true unless it is said to be false."""
    with Stubber(client("secretsmanager")) as stub:
        stub.add_response("describe_secret", SWITCHED_ON, {"SecretId": ARN})
        stub.add_response("cancel_rotate_secret", {"ARN": ARN}, {"SecretId": ARN})
        stub.add_response("describe_secret", SWITCHED_ON | {"RotationEnabled": False})
        stub.add_response(
            "rotate_secret",
            {"ARN": ARN},
            {
                "SecretId": ARN,
                "RotationLambdaARN": FUNCTION,
                "RotationRules": {"ScheduleExpression": "rate(4 days)"},
                "RotateImmediately": False,
            },
        )

        secrets.suspend_rotation(MANAGED)
        secrets.restore_rotation(MANAGED)


def test_neither_is_asked_for_twice(secrets: SecretsManager) -> None:
    """One that a person has switched on meanwhile keeps what that person chose."""
    with Stubber(client("secretsmanager")) as stub:
        stub.add_response("describe_secret", SWITCHED_ON | {"RotationEnabled": False})
        stub.add_response("describe_secret", SWITCHED_ON)

        secrets.suspend_rotation(MANAGED)
        secrets.restore_rotation(MANAGED)
