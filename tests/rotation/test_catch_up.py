"""Rotations by catch-up under live writes: the target is restored while applications write, and nothing is lost."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sandbox.demo.connection import Login, Resolver, connect, hang_up, trusting
from sandbox.demo.world import CATCH_UP, World
from tests.rotation.scenarios import (
    ROWS,
    WRITERS,
    Scenario,
    assert_invariants,
    params,
    play,
    sandbox_with,
    table_line,
    when_struck,
)
from tests.rotation.support import Customer

WORLD = {"strategy": CATCH_UP}
PAUSE = "pause-application-writes"
WAIT = "wait-for-catch-up"
RESTORE = "rds.RestoreDBInstanceFromDBSnapshot"
STOPPED = {"kind": "stopped", "seconds": 1}
NAME_STAYS = {"kind": "denied", "function": "update-connectivity", "call": "route53.ChangeResourceRecordSets"}


def dies(function: str, shape: str, nth: int = 1) -> Mapping[str, Any]:
    return {"kind": "killed", "function": function, "statement": nth, "shape": shape, "when": "after"}


FORWARD = [
    Scenario("cu-plain"),
    # Databases are closed, and nobody has read what is not replicated: they have to be opened once more.
    Scenario("cu-dies-closing", (dies(PAUSE, "COMMIT", 2),)),
    # It is read, and nobody knows.
    Scenario("cu-dies-testifying", (dies(PAUSE, "COMMIT", 3),)),
    Scenario("cu-twice", ({"kind": "twice", "function": PAUSE},)),
    # One database has a subscription, the others have none.
    Scenario("cu-dies-beginning", (dies(WAIT, "DO ?"),)),
    Scenario("cu-dies-ending", (dies("end-catch-up", "DROP SUBSCRIPTION ?"),)),
    Scenario("cu-source-crash", ({"kind": "crash", "side": "source", "function": WAIT},)),
    Scenario("cu-target-crash", ({"kind": "crash", "side": "target", "function": "confirm-drained"},)),
]
BACK = [
    # All of it is there: slots, publications, subscriptions, the target and both snapshots have to go.
    Scenario("cu-denied", (NAME_STAYS,), error="AccessRefused"),
    Scenario("cu-stopped-at-request", ({**STOPPED, "function": "restore-target", "call": RESTORE},)),
    Scenario("cu-stopped-under-fence", ({**STOPPED, "function": "end-catch-up"},)),
    # A closed database lets no sender come back.
    Scenario(
        "cu-source-crash-fenced",
        ({"kind": "crash", "side": "source", "function": "confirm-drained"},),
        error="DrainIncomplete",
    ),
]
HELD = {"kind": "held", "seconds": 4}
CHANGED = Scenario("cu-schema-changed", ({**HELD, "function": WAIT},), error="TargetMismatch")

SAMPLE = {"cu-plain", "cu-dies-closing", "cu-denied"}


def all_of() -> list[Scenario]:
    return [
        *(replace(one, ends="forward", world=WORLD) for one in FORWARD),
        *(replace(one, world=WORLD) for one in BACK),
    ]


@pytest.fixture(scope="module")
def customer() -> Iterator[Customer]:
    with sandbox_with([*all_of(), CHANGED]) as customer:
        yield customer


@pytest.mark.parametrize("scenario", params(all_of(), SAMPLE))
def test_one_side_serves_and_nothing_is_lost(customer: Customer, tmp_path: Path, scenario: Scenario) -> None:
    built = customer.build(scenario.name, rows=ROWS, writers=WRITERS, **scenario.world)

    outcome = play(customer, scenario, tmp_path / "acks", built=built)

    print(table_line(outcome))
    assert_invariants(customer, outcome)
    manual = customer.client("rds").describe_db_snapshots(SnapshotType="manual")["DBSnapshots"]
    kept = [one["KmsKeyId"] for one in manual if one["DBSnapshotIdentifier"].startswith(f"{scenario.name}-rot-")]
    if scenario.ends == "forward":
        assert outcome.last.status == "SUCCEEDED", outcome.story
        assert kept == [outcome.last.output["new_key"]["arn"]], "one copy, of the fenced source, under the new key"
    else:
        assert kept == []


@pytest.mark.proof
def test_a_schema_that_changes_meanwhile_costs_no_outage(customer: Customer, tmp_path: Path) -> None:
    built = customer.build(CHANGED.name, rows=ROWS, writers=WRITERS, **WORLD)

    with when_struck(
        customer, CHANGED.name, lambda: run(customer, built, built.identifier, "CREATE TABLE new (a int)")
    ):
        outcome = play(customer, CHANGED, tmp_path / "acks", built=built)

    assert_invariants(customer, outcome)
    assert "new" in str(outcome.first.cause)
    assert outcome.shut_out_seconds == 0


def run(customer: Customer, built: World, instance: str, statement: str) -> Any:
    """As the application, which owns the tables."""
    endpoint = Resolver(customer.account.dns_host, customer.account.dns_port).resolve(customer.address(instance))
    login: Login = built.app
    sql = connect(endpoint, built.databases[0], login, trusting(customer.account.ca_bundle))
    try:
        return sql.run(statement)
    finally:
        hang_up(sql)
