"""Rotations of a MariaDB database under live writes: to the target, and back when something is in the way."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from sandbox.sweep.boundaries import BY_SNAPSHOT
from tests.mariadb import need_mariadb
from tests.rotation.scenarios import Scenario, assert_invariants, params, play, sandbox_with, table_line
from tests.rotation.support import Customer

MARIADB = {"engine": "mariadb"}
RESTORE = "rds.RestoreDBInstanceFromDBSnapshot"

SCENARIOS = [
    Scenario("m-forward", ends="forward", world=MARIADB),
    Scenario("m-by-snapshot", ends="forward", request=BY_SNAPSHOT, world=MARIADB),
    # As late as can be: the target is promoted by then, and all of it has to be undone.
    Scenario(
        "m-denied",
        ({"kind": "denied", "function": "update-connectivity", "call": "route53.ChangeResourceRecordSets"},),
        error="AccessRefused",
        world=MARIADB,
    ),
    # Nobody is left to undo it but recovery.
    Scenario("m-stopped", ({"kind": "stopped", "function": "confirm-drained"},), error="StoppedByHand", world=MARIADB),
    # The journal says that it was about to ask; the function lives on, and asks after the stop.
    Scenario(
        "m-stopped-restoring",
        ({"kind": "stopped", "function": "restore-target", "call": RESTORE, "seconds": 1},),
        error="StoppedByHand",
        request=BY_SNAPSHOT,
        world=MARIADB,
    ),
]
SAMPLE = {"m-stopped"}


@pytest.fixture(scope="module")
def customer() -> Iterator[Customer]:
    need_mariadb()
    with sandbox_with(SCENARIOS) as customer:
        yield customer


@pytest.mark.parametrize("scenario", params(SCENARIOS, SAMPLE))
def test_one_side_serves_and_nothing_is_lost(customer: Customer, tmp_path: Path, scenario: Scenario) -> None:
    outcome = play(customer, scenario, tmp_path / "acks")

    print(table_line(outcome))
    assert_invariants(customer, outcome)
    if scenario.ends == "forward":
        assert outcome.last.status == "SUCCEEDED", outcome.story
