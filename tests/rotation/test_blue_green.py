"""Rotations by blue/green under live writes: RDS switches over or does not; whoever dies on the way, one side serves.

The names of the databases stay, so the side that serves is told by the instance that has the name.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from sandbox.demo.world import DATABASES
from tests.mariadb import need_mariadb
from tests.rotation.scenarios import (
    ROWS,
    WRITERS,
    Scenario,
    assert_invariants,
    params,
    play,
    sandbox_with,
    table_line,
)
from tests.rotation.support import Customer

SWITCHOVER = "rds.SwitchoverBlueGreenDeployment"
RDS_ROLLS_BACK_SECONDS = 30
"""The shortest time limit that RDS takes, longer than the budget of these rotations."""

BY_ENDPOINT = {"connectivity": "endpoint"}
MARIADB = {"engine": "mariadb", "connectivity": "endpoint"}
MYSQL = {"engine": "mysql", "connectivity": "endpoint"}
AURORA = {"engine": "aurora-postgresql", "connectivity": "endpoint"}
LOGICALLY = {"Accept": ["logical-copy"]}
FORWARD = [
    Scenario("bg-plain", ends="forward"),
    # Both strategies are possible, and RDS does not do what the first one needs.
    Scenario(
        "bg-after-all",
        (
            {
                "kind": "error-before",
                "call": "rds.CreateDBInstanceReadReplica",
                "onwards": True,
                "code": "InvalidParameterCombination",
                "message": "KmsKeyId cannot differ from that of the source.",
            },
        ),
        ends="forward",
        request={"Strategy": "auto"},
        world={"connectivity": "dns"},
    ),
    Scenario("bg-mariadb", ends="forward", world=MARIADB),
    Scenario("bg-mysql", ends="forward", world=MYSQL),
    Scenario("bg-cluster", ends="forward", request=LOGICALLY, world=AURORA),
    # At the end of its grace period, too, only one side takes writes.
    Scenario(
        "bg-cluster-kept",
        ({"kind": "held", "function": "decommission", "seconds": 5},),
        ends="forward",
        request={**LOGICALLY, "GraceDays": 1},
        world=AURORA,
    ),
    Scenario(
        "bg-cluster-stopped-at-request",
        ({"kind": "stopped", "function": "switch-over", "call": SWITCHOVER, "seconds": 1},),
        ends="forward",
        error="StoppedByHand",
        request=LOGICALLY,
        world=AURORA,
    ),
    Scenario(
        "bg-dies-after-request",
        ({"kind": "killed", "function": "switch-over", "call": SWITCHOVER, "when": "after"},),
        ends="forward",
    ),
    # The journal says that it was about to ask; the function that was stopped lives on, and asks.
    Scenario(
        "bg-stopped-at-request",
        ({"kind": "stopped", "function": "switch-over", "call": SWITCHOVER, "seconds": 1},),
        ends="forward",
        error="StoppedByHand",
    ),
    Scenario(
        "bg-stopped-after-request",
        ({"kind": "stopped", "function": "wait-for-switchover"},),
        ends="forward",
        error="StoppedByHand",
    ),
    # RDS may ask whoever ends a deployment for the right to delete its members, production among them.
    Scenario(
        "bg-end-denied",
        (
            {
                "kind": "error-before",
                "function": "verify-switchover",
                "call": "rds.DeleteBlueGreenDeployment",
                "onwards": True,
                "code": "AccessDenied",
            },
        ),
        ends="forward",
    ),
]
BACK = [
    Scenario(
        "bg-stopped-before",
        ({"kind": "stopped", "function": "wait-for-green", "seconds": 1},),
        error="StoppedByHand",
    ),
    # Written down and never asked for: only an accepted deletion of the deployment proves that.
    Scenario(
        "bg-denied",
        ({"kind": "error-before", "call": SWITCHOVER, "onwards": True, "code": "AccessDenied"},),
        error="AccessRefused",
    ),
    Scenario(
        "bg-rds-rolls-back",
        ({"kind": "pause-replay", "function": "switch-over"},),
        error="SwitchoverFailed",
        outage_seconds=RDS_ROLLS_BACK_SECONDS + 15,
    ),
    Scenario(
        "bg-cluster-denied",
        ({"kind": "error-before", "call": SWITCHOVER, "onwards": True, "code": "AccessDenied"},),
        error="AccessRefused",
        request=LOGICALLY,
        world=AURORA,
    ),
    Scenario(
        "bg-mariadb-rolls-back",
        ({"kind": "pause-replay", "function": "switch-over"},),
        error="SwitchoverFailed",
        world=MARIADB,
    ),
]
SAMPLE = {"bg-after-all", "bg-denied"}


@pytest.fixture(scope="module")
def customer() -> Iterator[Customer]:
    with sandbox_with([*FORWARD, *BACK]) as customer:
        yield customer


@pytest.mark.parametrize("scenario", params([*FORWARD, *BACK], SAMPLE))
def test_one_side_serves_and_nothing_is_lost(customer: Customer, tmp_path: Path, scenario: Scenario) -> None:
    if scenario.world in (MARIADB, MYSQL):
        need_mariadb()
    built = customer.build(scenario.name, rows=ROWS, writers=WRITERS, **(scenario.world or BY_ENDPOINT))

    outcome = play(customer, scenario, tmp_path / "acks", built=built)

    print(table_line(outcome))
    assert_invariants(customer, outcome)
    if scenario.ends == "forward":
        assert outcome.last.status == "SUCCEEDED", outcome.story
        assert customer.instance(f"{scenario.name}-old1") is None
    else:
        tags = {tag["Key"]: tag["Value"] for tag in built.describe(customer.account)["TagList"]}
        assert tags["key-rotation:strategy"] == "blue-green"


@pytest.mark.proof
def test_a_quarter_later_the_same_name_works(customer: Customer) -> None:
    """The first rotation's key is ours, and nothing is left under it: it is retired."""
    built = customer.build("bg-twice", rows=ROWS, writers=WRITERS, connectivity="endpoint")
    request = {"DBInstanceIdentifier": "bg-twice", "GraceDays": 0}

    first = customer.rotated(request).output
    customer.let_days_pass(90)
    second = customer.rotated(request).output

    assert second["old_key"]["arn"] == first["new_key"]["arn"] != built.key_arn
    assert customer.key_state(first["new_key"]["arn"]) == "PendingDeletion"
    assert customer.key_state(built.key_arn) == "Enabled"
    live = customer.instance("bg-twice")
    assert live is not None
    assert live["KmsKeyId"] == second["new_key"]["arn"]
    assert customer.instance("bg-twice-old1") is None
    assert customer.query(built, built.finder(customer.account).find(), DATABASES[0], "SELECT count(*) FROM items") == [
        [built.rows]
    ]
