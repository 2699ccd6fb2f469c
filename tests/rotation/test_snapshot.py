"""Rotations by snapshot under live writes: nobody can write while RDS copies and restores, and nothing is lost.

RDS's minutes are virtual, so the outages here are to be read on the sandbox's clock.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from sandbox.sweep.boundaries import BY_SNAPSHOT
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

RESTORE = "rds.RestoreDBInstanceFromDBSnapshot"
SHORT = 601
"""Seconds, in which RDS takes the snapshot and copies it, and does not get done with the restore."""

FORWARD = [
    Scenario("sn-plain", ends="forward", request=BY_SNAPSHOT),
    Scenario(
        "sn-dies-after-request",
        ({"kind": "killed", "function": "restore-target", "call": RESTORE, "when": "after"},),
        ends="forward",
        request=BY_SNAPSHOT,
    ),
]
BACK = [
    # The journal says that it was about to ask; the function lives on, and asks after the stop.
    Scenario(
        "sn-stopped-at-request",
        ({"kind": "stopped", "function": "restore-target", "call": RESTORE, "seconds": 1},),
        error="StoppedByHand",
        request=BY_SNAPSHOT,
    ),
    Scenario("sn-budget", error="BudgetSpent", request={**BY_SNAPSHOT, "WriteOutageBudgetSeconds": SHORT}),
]
SAMPLE = {"sn-plain"}


@pytest.fixture(scope="module")
def customer() -> Iterator[Customer]:
    with sandbox_with([*FORWARD, *BACK]) as customer:
        yield customer


@pytest.mark.parametrize("scenario", params([*FORWARD, *BACK], SAMPLE))
def test_one_side_serves_and_nothing_is_lost(customer: Customer, tmp_path: Path, scenario: Scenario) -> None:
    built = customer.build(scenario.name, rows=ROWS, writers=WRITERS)

    outcome = play(customer, scenario, tmp_path / "acks", built=built)

    print(table_line(outcome))
    assert_invariants(customer, outcome)
    manual = customer.client("rds").describe_db_snapshots(SnapshotType="manual")["DBSnapshots"]
    kept = [one["KmsKeyId"] for one in manual if one["DBSnapshotIdentifier"].startswith(f"{scenario.name}-rot-")]
    if scenario.ends == "forward":
        assert outcome.last.status == "SUCCEEDED", outcome.story
        assert kept == [outcome.last.output["new_key"]["arn"]], "one copy, under the new key"
    else:
        assert kept == []
        assert outcome.shut_out_seconds < BY_SNAPSHOT["WriteOutageBudgetSeconds"], "RDS was not waited for"
