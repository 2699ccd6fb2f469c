"""What fails before the commit point ends at the source: writable, nothing lost, nothing left over."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sandbox.demo import progress
from tests.infra.interpreters import recorded, second_opinions
from tests.rotation.scenarios import (
    BUDGET_SECONDS,
    ROWS,
    WRITERS,
    Scenario,
    as_master,
    assert_invariants,
    params,
    play,
    sandbox_with,
    table_line,
    target_of,
)
from tests.rotation.support import Customer

REPLICA = "rds.CreateDBInstanceReadReplica"
PROMOTION = "rds.PromoteReadReplica"
SUBNETS = "elsewhere"

REFUSED = [
    Scenario(
        "replica-key-refused",
        (
            {
                "kind": "error-before", "call": REPLICA, "onwards": True, "code": "InvalidParameterCombination",
                "message": "You cannot use another KMS key for a read replica in the same Region.",
            },
        ),
        error="ReplicaKeyRefused",
    ),
    Scenario("replica-wrong-key", ({"kind": "altered", "parameters": {"KmsKeyId": None}},), error="WrongKey"),
    Scenario(
        "setting-not-carried",
        ({"kind": "altered", "parameters": {"DBSubnetGroupName": SUBNETS}},),
        error="SettingsNotCarried",
    ),
    Scenario(
        "drain-too-slow",
        ({"kind": "pause-replay", "function": "pause-application-writes"},),
        error="DrainIncomplete",
        outage_seconds=BUDGET_SECONDS + 5,
    ),
    Scenario(
        "promotion-refused",
        (
            {
                "kind": "error-before", "call": PROMOTION, "onwards": True, "code": "InvalidDBInstanceState",
                "message": "Cannot promote: it is not in available state.",
            },
        ),
        error="PromotionFailed",
    ),
    Scenario("promotion-fails", ({"kind": "promotion-fails"},), error="PromotionFailed"),
]  # fmt: skip

ANOTHER_DATABASE = Scenario(
    "another-database", ({"kind": "held", "function": "check-target", "seconds": 8},), error="TargetMismatch"
)
DENIED = Scenario("update-denied", error="AccessRefused")

STOPPED = [
    # Where a function is stopped in the middle, its next act comes after the recovery has begun.
    Scenario(name, ({"kind": "stopped", "seconds": 4, **where},), ends=ends, error="StoppedByHand")  # type: ignore[arg-type]
    for name, ends, where in (
        ("stopped-pausing", "back", {"function": "pause-application-writes", "call": "scheduler.CreateSchedule"}),
        ("stopped-draining", "back", {"function": "confirm-drained"}),
        ("stopped-promoting", "back", {"function": "promote", "call": PROMOTION}),
        ("stopped-promoted", "back", {"function": "wait-for-promotion", "call": "rds.DescribeDBInstances"}),
        ("stopped-checking", "back", {"function": "check-target"}),
        (
            "stopped-switching",
            "back",
            {"function": "update-connectivity", "call": "route53.ChangeResourceRecordSets"},
        ),
        ("stopped-releasing", "either", {"function": "resume-writes"}),
    )
]

SAMPLE = {"replica-key-refused", "stopped-promoting"}
ALL = [*REFUSED, ANOTHER_DATABASE, DENIED, *STOPPED]


@pytest.fixture(scope="module")
def customer() -> Iterator[Customer]:
    with sandbox_with(ALL) as customer:
        yield customer


@pytest.mark.parametrize("scenario", params(REFUSED, SAMPLE))
def test_a_refusal_or_failure_of_rds(customer: Customer, tmp_path: Path, scenario: Scenario) -> None:
    built = customer.build(scenario.name, rows=ROWS, writers=WRITERS)
    if scenario.name == "setting-not-carried":
        make_subnet_group(customer)
    if scenario.name == "promotion-fails":
        # RDS may refuse to change an instance that failed, so a protected one would be left over.
        customer.client("rds").modify_db_instance(DBInstanceIdentifier=scenario.name, DeletionProtection=False)

    outcome = play(customer, scenario, tmp_path / "acks", built=built)

    print(table_line(outcome))
    assert_invariants(customer, outcome)
    assert outcome.first.status == "FAILED"
    assert any(str(scenario.error) in message for message in outcome.moments)
    assert second_opinions([recorded(customer.client("stepfunctions"), outcome.first.arn)]) == [[]]


def make_subnet_group(customer: Customer) -> None:
    subnets = [subnet["SubnetId"] for subnet in customer.client("ec2").describe_subnets()["Subnets"]]
    customer.client("rds").create_db_subnet_group(
        DBSubnetGroupName=SUBNETS, DBSubnetGroupDescription="another", SubnetIds=subnets
    )


@pytest.mark.proof
def test_a_database_that_somebody_makes_on_the_target(customer: Customer, tmp_path: Path) -> None:
    """After the promotion the target is a primary: whoever may create databases can create one there."""
    built = customer.build(ANOTHER_DATABASE.name, rows=ROWS, writers=WRITERS)
    made: list[str] = []

    def meddle(run: progress.Run) -> None:
        if run.current == "CheckTarget" and not made:
            target = target_of(customer, built)
            as_master(customer, built, target, "CREATE DATABASE surplus TEMPLATE template0")
            made.append(target)

    outcome = play(customer, ANOTHER_DATABASE, tmp_path / "acks", seen=meddle, built=built)

    print(table_line(outcome))
    assert made
    assert_invariants(customer, outcome)
    assert "surplus" in str(outcome.first.cause)


@pytest.mark.proof
def test_a_switch_that_is_denied_for_good(customer: Customer, tmp_path: Path) -> None:
    with denying(customer, "update-connectivity", "route53:ChangeResourceRecordSets"):
        outcome = play(customer, DENIED, tmp_path / "acks")

    print(table_line(outcome))
    assert_invariants(customer, outcome)
    assert "route53:ChangeResourceRecordSets" in str(outcome.first.cause)


@contextmanager
def denying(customer: Customer, function: str, *actions: str) -> Iterator[None]:
    iam = customer.client("iam")
    configuration = customer.client("lambda").get_function_configuration(FunctionName=f"rds-key-rotation-{function}")
    role = configuration["Role"].rsplit("/", 1)[-1]
    statement = {"Effect": "Deny", "Action": list(actions), "Resource": "*"}
    iam.put_role_policy(
        RoleName=role, PolicyName="denied", PolicyDocument=json.dumps({"Version": "2012-10-17", "Statement": statement})
    )
    try:
        yield
    finally:
        iam.delete_role_policy(RoleName=role, PolicyName="denied")


@pytest.mark.parametrize("scenario", params(STOPPED, SAMPLE))
def test_an_execution_that_is_stopped_by_hand(customer: Customer, tmp_path: Path, scenario: Scenario) -> None:
    """Its function lives on to its end, which may come after the recovery has begun."""
    outcome = play(customer, scenario, tmp_path / "acks")

    print(table_line(outcome))
    assert_invariants(customer, outcome)
    assert outcome.first.status == "ABORTED"
    assert len(outcome.executions) >= 2
