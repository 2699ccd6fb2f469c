"""What fails at or after the commit point goes forward; what nobody carries on any more is taken up, by any trigger."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sandbox.demo import progress
from sandbox.demo.world import DATABASES
from tests.rotation.scenarios import (
    ROWS,
    WRITERS,
    Scenario,
    assert_invariants,
    is_settled,
    params,
    play,
    refusals_of,
    sandbox_with,
    table_line,
)
from tests.rotation.support import DAY_SECONDS, NOT_ACCEPTING, Customer

HOUR_DAYS = 3600 / DAY_SECONDS
RULE = "rds-key-rotation-ended-unfinished"
RECOVERY_GROUP = "rds-key-rotation-recovery"

FORWARD = [
    # The first write to the journal comes after the release is committed.
    Scenario(
        "dies-after-commit",
        ({"kind": "killed", "function": "resume-writes", "call": "dynamodb.UpdateItem"},),
        ends="forward",
    ),
    Scenario(
        "dies-between-databases",
        ({"kind": "killed", "function": "resume-writes", "statement": 7},),
        ends="forward",
    ),
    Scenario(
        "stopped-after-commit",
        ({"kind": "stopped", "function": "resume-writes", "call": "dynamodb.UpdateItem", "seconds": 2},),
        ends="forward",
        error="StoppedByHand",
    ),
    Scenario(
        "verify-fails-once",
        ({"kind": "error-before", "function": "verify", "call": "rds.DescribeDBInstances", "code": "AccessDenied"},),
        ends="forward",
        error="AccessRefused",
    ),
]

CUT_SECONDS = 60
UNSEEN = Scenario(
    "target-unseen",
    (
        {"kind": "cut", "function": "wait-for-promotion", "seconds": CUT_SECONDS, "how": "reset"},
        {"kind": "stopped", "function": "wait-for-promotion"},
    ),
    ends="back",
    error="StoppedByHand",
)

STOP_AT_DRAIN = ({"kind": "stopped", "function": "confirm-drained", "seconds": 1},)
BY_RULE, BY_SCHEDULE, BY_SWEEP, BY_NEW_START = (
    Scenario(f"by-{trigger}", STOP_AT_DRAIN, error="StoppedByHand")
    for trigger in ("rule", "schedule", "sweep", "new-start")
)

SAMPLE = {"stopped-after-commit"}
ALL = [*FORWARD, UNSEEN, BY_RULE, BY_SCHEDULE, BY_SWEEP, BY_NEW_START]


@pytest.fixture(scope="module")
def customer() -> Iterator[Customer]:
    with sandbox_with(ALL) as customer:
        yield customer


@pytest.mark.parametrize("scenario", params(FORWARD, SAMPLE))
def test_from_the_commit_on_it_goes_forward(customer: Customer, tmp_path: Path, scenario: Scenario) -> None:
    outcome = play(customer, scenario, tmp_path / "acks")

    print(table_line(outcome))
    assert_invariants(customer, outcome)
    assert outcome.last.status == "SUCCEEDED"
    assert {verdict for _, verdict in outcome.seen.verdicts} <= {"release"}


@pytest.mark.proof
def test_a_target_that_cannot_be_seen_pages_and_finishes_when_it_can(customer: Customer, tmp_path: Path) -> None:
    """It may have been promoted, and may have been released: as long as nobody knows, nobody writes."""
    built = customer.build(UNSEEN.name, rows=ROWS, writers=WRITERS)
    refusals: list[str | None] = []

    with customer.notifications() as inbox:

        def wait_for_the_page(run: progress.Run) -> None:
            page = customer.until(inbox.messages, CUT_SECONDS + 60)
            assert "RotationUndecided" in str(page)
            refusals.extend(refusals_of(customer, built))

        outcome = play(customer, UNSEEN, tmp_path / "acks", afterwards=wait_for_the_page, built=built)

    print(table_line(outcome))
    assert len(refusals) == 2 * len(DATABASES)
    assert set(refusals) <= {NOT_ACCEPTING, "unreachable"}
    assert NOT_ACCEPTING in refusals
    assert_invariants(customer, outcome)


# -- who starts a recovery ---------------------------------------------------------------------------------------------


@contextmanager
def without_the_rule(customer: Customer) -> Iterator[None]:
    events = customer.client("events")
    events.disable_rule(Name=RULE)
    try:
        yield
    finally:
        events.enable_rule(Name=RULE)


def recovered(
    customer: Customer, scenario: Scenario, acks: Path, afterwards: Callable[[progress.Run], None] = lambda run: None
) -> dict[str, str]:
    """Play it, hold it against the invariants, and return the executions that came after the first."""
    outcome = play(customer, scenario, acks, afterwards=afterwards)
    print(table_line(outcome))
    assert_invariants(customer, outcome)
    first = outcome.first.arn.rsplit(":", 1)[-1]
    return {name: status for name, status in outcome.executions.items() if name != first}


@pytest.mark.proof
def test_the_status_of_the_execution_starts_it(customer: Customer, tmp_path: Path) -> None:
    assert recovered(customer, BY_RULE, tmp_path / "acks")


@pytest.mark.proof
def test_the_schedule_made_before_the_fence_starts_it(customer: Customer, tmp_path: Path) -> None:
    def later(run: progress.Run) -> None:
        assert not is_settled(customer, BY_SCHEDULE.name)
        customer.let_days_pass(HOUR_DAYS / 10)

    with without_the_rule(customer):
        assert recovered(customer, BY_SCHEDULE, tmp_path / "acks", later)


@pytest.mark.proof
def test_the_hourly_look_into_the_ledger_starts_it(customer: Customer, tmp_path: Path) -> None:
    def later(run: progress.Run) -> None:
        scheduler = customer.client("scheduler")
        for schedule in scheduler.list_schedules(GroupName=RECOVERY_GROUP)["Schedules"]:
            scheduler.delete_schedule(GroupName=RECOVERY_GROUP, Name=schedule["Name"])
        assert not is_settled(customer, BY_SWEEP.name)
        customer.let_days_pass(1.5 * HOUR_DAYS)

    with without_the_rule(customer):
        after = recovered(customer, BY_SWEEP, tmp_path / "acks", later)

    assert any(name.startswith("recover-") for name in after)


@pytest.mark.proof
def test_a_plain_new_start_finishes_what_was_left_instead_of_beginning_anew(customer: Customer, tmp_path: Path) -> None:
    runs: list[progress.Run] = []

    def later(run: progress.Run) -> None:
        runs.append(customer.rotate({"DBInstanceIdentifier": BY_NEW_START.name}))

    with without_the_rule(customer):
        assert recovered(customer, BY_NEW_START, tmp_path / "acks", later)

    (run,) = runs
    assert run.status == "FAILED"
    assert run.error == "ExecutionEnded"
