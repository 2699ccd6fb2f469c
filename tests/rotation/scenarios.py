"""Scenarios in tests: what holds after any rotation, and how this one was meant to end."""

from sandbox.demo.customer import Customer
from sandbox.sweep.invariants import broken
from sandbox.sweep.scenario import (
    BUDGET_SECONDS,
    ROWS,
    WRITERS,
    Outcome,
    Scenario,
    is_settled,
    ledger_of,
    play,
    servers_of,
    table_line,
)

__all__ = [
    "BUDGET_SECONDS",
    "FENCED",
    "ROWS",
    "WRITERS",
    "Scenario",
    "assert_invariants",
    "is_settled",
    "ledger_of",
    "play",
    "servers_of",
    "table_line",
]

FENCED = "55000"


def assert_invariants(customer: Customer, outcome: Outcome) -> None:
    scenario, story = outcome.scenario, outcome.story
    assert outcome.struck >= len(scenario.faults), f"it shows nothing: {story}"
    assert broken(customer, outcome) == [], story
    if scenario.ends != "either":
        assert outcome.went_forward == (scenario.ends == "forward"), story
    if scenario.error is not None:
        assert outcome.first.error == scenario.error, story
    if scenario.outage_seconds is not None:
        assert outcome.outage_seconds <= scenario.outage_seconds, story
