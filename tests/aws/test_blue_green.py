"""RDS is asked for a key of every member, adopted deployments are ours, and its refusals mean what they mean."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from botocore.stub import Stubber

from lambdas.rotation.aws.blue_green import AwsBlueGreen
from lambdas.rotation.aws.client import client, client_that_asks_once
from lambdas.rotation.errors import AwsRefused, AwsUnavailable, DeploymentRefused, NameTaken
from lambdas.rotation.names import our_tags
from lambdas.rotation.ports import Instance
from lambdas.rotation.state import Database

ARN = "arn:aws:rds:eu-central-1:123456789012:db:{}"
KEY = "arn:aws:kms:eu-central-1:123456789012:key/new"
NAME = "orders-rot-42"
OURS = our_tags("orders", "42")
BY_NAME = {"Filters": [{"Name": "blue-green-deployment-name", "Values": [NAME]}]}


@pytest.fixture
def rds() -> Iterator[Stubber]:
    with Stubber(client("rds")) as stubber:
        yield stubber
        stubber.assert_no_pending_responses()


@pytest.fixture
def source() -> Instance:
    database = Database(
        identifier="orders",
        arn=ARN.format("orders"),
        resource_id="db-1",
        engine="postgres",
        engine_version="16.14",
        address="orders.x",
        port=5432,
    )
    raw = {"DBParameterGroups": [{"DBParameterGroupName": "settings"}]}
    return Instance(database, "available", {}, False, 7, False, None, False, False, raw)


def answer(tags: dict[str, str], **more: Any) -> dict[str, Any]:
    deployment = {
        "BlueGreenDeploymentIdentifier": "bgd-1",
        "BlueGreenDeploymentName": NAME,
        "Status": "AVAILABLE",
        "SwitchoverDetails": [{"SourceMember": ARN.format("orders"), "TargetMember": ARN.format("orders-green-1")}],
        "TagList": [{"Key": key, "Value": value} for key, value in tags.items()],
        **more,
    }
    return {"BlueGreenDeployments": [deployment]}


def nothing_yet(rds: Stubber) -> None:
    rds.add_response("describe_blue_green_deployments", {"BlueGreenDeployments": []}, BY_NAME)


KEYS = {ARN.format("orders"): KEY, ARN.format("orders-r1"): KEY}


def test_every_member_is_named_with_its_key_and_the_parameter_group_too(rds: Stubber, source: Instance) -> None:
    """RDS leaves a member without an entry under its old key, and green was seen to lose its parameter group."""
    nothing_yet(rds)
    rds.add_response(
        "create_blue_green_deployment",
        {},
        {
            "BlueGreenDeploymentName": NAME,
            "Source": ARN.format("orders"),
            "TargetResourceConfigurations": [
                {"SourceArn": ARN.format("orders"), "TargetKmsKeyId": KEY},
                {"SourceArn": ARN.format("orders-r1"), "TargetKmsKeyId": KEY},
            ],
            "TargetDBParameterGroupName": "settings",
            "Tags": [{"Key": key, "Value": value} for key, value in OURS.items()],
        },
    )

    AwsBlueGreen().request(NAME, [source], KEYS, OURS)


def request_that_names(group: str | None) -> dict[str, Any]:
    return {
        "BlueGreenDeploymentName": NAME,
        "Source": ARN.format("orders"),
        "TargetResourceConfigurations": [{"SourceArn": member, "TargetKmsKeyId": key} for member, key in KEYS.items()],
        "Tags": [{"Key": key, "Value": value} for key, value in OURS.items()],
        **({"TargetDBParameterGroupName": group} if group else {}),
    }


@pytest.mark.parametrize(("of_the_replica", "named"), [("settings", "settings"), ("of-readers", None)])
def test_no_parameter_group_is_named_where_members_have_different_ones(
    rds: Stubber, source: Instance, of_the_replica: str, named: str | None
) -> None:
    """RDS gives the one that is named to every instance of green; none, and each has that of its blue one."""
    database = source.database.having(identifier="orders-r1", arn=ARN.format("orders-r1"), resource_id="db-2")
    replica = replace(source, database=database, raw={"DBParameterGroups": [{"DBParameterGroupName": of_the_replica}]})
    nothing_yet(rds)
    rds.add_response("create_blue_green_deployment", {}, request_that_names(named))

    AwsBlueGreen().request(NAME, [source, replica], KEYS, OURS)


def test_of_a_cluster_its_own_group_is_named_and_that_of_its_writer(rds: Stubber, source: Instance) -> None:
    arn = ARN.format("orders").replace(":db:", ":cluster:")
    database = source.database.having(arn=arn, resource_id="cluster-1")
    cluster = replace(source, database=database, raw={"DBClusterParameterGroup": "of-the-cluster"})
    nothing_yet(rds)
    rds.add_response(
        "create_blue_green_deployment",
        {},
        {
            "BlueGreenDeploymentName": NAME,
            "Source": arn,
            "TargetResourceConfigurations": [{"SourceArn": arn, "TargetKmsKeyId": KEY}],
            "TargetDBClusterParameterGroupName": "of-the-cluster",
            "TargetDBParameterGroupName": "settings",
            "Tags": [{"Key": key, "Value": value} for key, value in OURS.items()],
        },
    )

    AwsBlueGreen().request(NAME, [cluster, source], {arn: KEY}, OURS)


def test_its_own_is_adopted_and_a_foreign_one_is_not(rds: Stubber, source: Instance) -> None:
    rds.add_response("describe_blue_green_deployments", answer(OURS), BY_NAME)
    AwsBlueGreen().request(NAME, [source], KEYS, OURS)

    rds.add_response("describe_blue_green_deployments", answer({}), BY_NAME)
    with pytest.raises(NameTaken):
        AwsBlueGreen().request(NAME, [source], KEYS, OURS)


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("SourceDatabaseNotSupportedFault", DeploymentRefused),
        ("InvalidParameterCombination", DeploymentRefused),
        ("InvalidAction", DeploymentRefused),
        ("KMSKeyNotAccessibleFault", AwsUnavailable),
        ("InstanceQuotaExceeded", AwsRefused),
    ],
)
def test_a_refused_deployment(rds: Stubber, source: Instance, code: str, error: type[Exception]) -> None:
    nothing_yet(rds)
    rds.add_client_error("create_blue_green_deployment", code)

    with pytest.raises(error):
        AwsBlueGreen().request(NAME, [source], KEYS, OURS)


def test_a_switchover_is_given_its_time_limit_and_a_refusal_is_told() -> None:
    """Asked for by a client that asks once: the refusal of a repeated request would be about the first one."""
    with Stubber(client_that_asks_once("rds")) as rds:
        wanted = {"BlueGreenDeploymentIdentifier": "bgd-1", "SwitchoverTimeout": 120}
        rds.add_response("switchover_blue_green_deployment", {}, wanted)
        assert AwsBlueGreen().request_switchover("bgd-1", 120) is None

        rds.add_client_error("switchover_blue_green_deployment", "InvalidBlueGreenDeploymentStateFault")
        refusal = AwsBlueGreen().request_switchover("bgd-1", 120)
    assert refusal is not None
    assert "InvalidBlueGreenDeploymentState" in refusal


@pytest.mark.parametrize(
    ("code", "accepted"),
    [
        ("BlueGreenDeploymentNotFoundFault", True),
        ("InvalidBlueGreenDeploymentStateFault", False),
        ("InvalidDBInstanceState", False),
    ],
)
def test_whether_a_deletion_was_accepted(rds: Stubber, code: str, accepted: bool) -> None:
    """After a request to switch over this alone says that none can come any more."""
    rds.add_client_error("delete_blue_green_deployment", code)

    assert accepted == AwsBlueGreen().request_deletion("bgd-1", with_target=True)


def test_a_target_that_serves_is_never_named_for_deletion(rds: Stubber) -> None:
    rds.add_response("delete_blue_green_deployment", {}, {"BlueGreenDeploymentIdentifier": "bgd-1"})
    assert AwsBlueGreen().request_deletion("bgd-1", with_target=False)

    rds.add_client_error("delete_blue_green_deployment", "InvalidParameterCombination")
    with pytest.raises(AwsRefused):
        AwsBlueGreen().request_deletion("bgd-1", with_target=True)
