"""Rotations of databases whose applications come through an RDS Proxy: they follow it, and lose nothing.

Its target is exchanged by two calls, and whoever dies between them leaves a proxy that leads nowhere.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from sandbox.sweep.boundaries import BY_SNAPSHOT
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

REGISTER, DEREGISTER = "rds.RegisterDBProxyTargets", "rds.DeregisterDBProxyTargets"
MARIADB = {"engine": "mariadb"}

SCENARIOS = [
    Scenario("px-plain", ends="forward"),
    Scenario("px-mariadb", ends="forward", world=MARIADB),
    Scenario("px-snapshot", ends="forward", request=BY_SNAPSHOT),
    Scenario(
        "px-dies-between", ({"kind": "killed", "function": "update-connectivity", "call": REGISTER},), ends="forward"
    ),
    Scenario(
        "px-lost-answer",
        (
            {"kind": "lost-answer", "function": "update-connectivity", "call": DEREGISTER},
            {"kind": "lost-answer", "function": "update-connectivity", "call": REGISTER},
        ),
        ends="forward",
    ),
    Scenario(
        "px-denied",
        ({"kind": "denied", "function": "update-connectivity", "call": REGISTER},),
        error="AccessRefused",
    ),
    Scenario(
        "px-stopped-between",
        ({"kind": "stopped", "function": "update-connectivity", "call": REGISTER, "seconds": 1},),
        error="StoppedByHand",
    ),
    Scenario(
        "px-way-back-dies",
        (
            {"kind": "denied", "function": "update-connectivity", "call": REGISTER},
            {"kind": "killed", "function": "restore-connectivity", "call": REGISTER, "when": "after"},
        ),
        error="AccessRefused",
    ),
]
SAMPLE = {"px-dies-between", "px-denied"}


@pytest.fixture(scope="module")
def customer() -> Iterator[Customer]:
    with sandbox_with(SCENARIOS) as customer:
        yield customer


def leads_to(customer: Customer, name: str) -> list[str]:
    found = customer.client("rds").describe_db_proxy_targets(DBProxyName=f"{name}-pool")["Targets"]
    return [target["RdsResourceId"] for target in found if target["TargetHealth"]["State"] == "AVAILABLE"]


@pytest.mark.parametrize("scenario", params(SCENARIOS, SAMPLE))
def test_applications_follow_the_proxy_and_nothing_is_lost(
    customer: Customer, tmp_path: Path, scenario: Scenario
) -> None:
    if scenario.world == MARIADB:
        need_mariadb()
    built = customer.build(scenario.name, rows=ROWS, writers=WRITERS, connectivity="proxy", **(scenario.world or {}))

    outcome = play(customer, scenario, tmp_path / "acks", built=built)

    print(table_line(outcome))
    assert_invariants(customer, outcome)
    assert leads_to(customer, scenario.name) == [
        outcome.state["target"]["identifier"] if scenario.ends == "forward" else scenario.name
    ]
