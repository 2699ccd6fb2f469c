"""What fails before the commit point ends at the source: writable, nothing lost, nothing left over."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sandbox.demo import progress
from sandbox.demo.world import described
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
    servers_of,
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
LED_AWAY = Scenario(
    "led-away",
    (
        {
            "kind": "error-before", "function": "resume-writes", "call": "dynamodb.GetItem", "onwards": True,
            "code": "AccessDenied",
        },
        # More than two executions would try that gave up after six visits, and for longer than nobody is told.
        {"kind": "throttle", "function": "restore-connectivity", "call": "route53.ListResourceRecordSets", "times": 60},
    ),
    error="AccessRefused",
)  # fmt: skip
LEDGER_AWAY = Scenario(
    "ledger-away",
    (
        {
            "kind": "error-before", "function": "promote", "call": "rds.DescribeDBInstances", "onwards": True,
            "code": "AccessDenied",
        },
        # More than a rollback and its recovery would try that gave up after six visits.
        {"kind": "throttle", "function": "rollback", "call": "dynamodb.GetItem", "times": 40},
    ),
)  # fmt: skip
SOURCE_DELETED = Scenario("source-deleted", ({"kind": "held", "function": "wait-for-replication-sync", "seconds": 4},))

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
ALL = [*REFUSED, ANOTHER_DATABASE, DENIED, LED_AWAY, LEDGER_AWAY, SOURCE_DELETED, *STOPPED]


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


@pytest.mark.proof
def test_the_way_back_lasts_as_long_as_what_keeps_applications_away(customer: Customer, tmp_path: Path) -> None:
    """They are led to the target, which will never be opened, and the source is not opened before they are led back."""
    outcome = play(customer, LED_AWAY, tmp_path / "acks")

    print(table_line(outcome))
    assert_invariants(customer, outcome)
    assert outcome.struck > 60
    assert any("have to be led back" in message for message in outcome.moments)
    assert second_opinions([recorded(customer.client("stepfunctions"), outcome.first.arn)]) == [[]]


@pytest.mark.proof
def test_the_way_back_outlasts_minutes_without_a_ledger(customer: Customer, tmp_path: Path) -> None:
    """Where nothing of it is in the journal yet, the one-time schedule may take it over meanwhile."""
    outcome = play(customer, LEDGER_AWAY, tmp_path / "acks")

    print(table_line(outcome))
    assert_invariants(customer, outcome)
    assert outcome.struck > 40


def test_the_last_copy_stays_where_somebody_deletes_the_source(customer: Customer) -> None:
    """RDS promotes the replicas of what is deleted, so the target is all that there is of the data."""
    built = customer.build(SOURCE_DELETED.name, rows=ROWS, writers=WRITERS)
    rds = customer.client("rds")
    gone: list[str] = []

    def delete(run: progress.Run) -> None:
        if run.current == "WaitForReplicationSync" and not gone:
            rds.modify_db_instance(DBInstanceIdentifier=built.identifier, DeletionProtection=False)
            customer.until(lambda: not built.describe(customer.account)["DeletionProtection"])
            rds.delete_db_instance(DBInstanceIdentifier=built.identifier, SkipFinalSnapshot=True)
            gone.append(built.identifier)

    with customer.notifications() as inbox:
        run = customer.rotate({**built.request, "GraceDays": 0}, seen=delete)
        told = [json.loads(message["Message"]) for message in inbox.messages()]

    assert gone
    assert (run.status, run.current) == ("FAILED", "Failed")
    [target] = servers_of(customer, built.identifier)
    assert "available" == described(customer.account, target, cluster=False)["DBInstanceStatus"]
    assert customer.key_state(described(customer.account, target, cluster=False)["KmsKeyId"]) == "Enabled"
    database = built.databases[0]
    assert [[built.rows]] == as_master(customer, built, target, "SELECT count(*) FROM items", database)
    [leftovers] = [one["leftovers"] for one in told if one["moment"] == "RotationRolledBack"]
    assert any(f"{target} is kept: somebody has deleted" in one for one in leftovers)
    assert any("not before nothing uses it any more" in one for one in leftovers)


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
