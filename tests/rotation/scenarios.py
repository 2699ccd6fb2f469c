"""Scenarios in tests: what holds after any rotation, and how this one was meant to end."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from sandbox.demo.customer import Customer, Inbox
from sandbox.demo.world import World
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
    times_struck,
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
    "on_call",
    "play",
    "servers_of",
    "table_line",
    "when_struck",
]

FENCED = "55000"


def assert_invariants(customer: Customer, outcome: Outcome, changed_by_somebody: str | None = None) -> None:
    """``changed_by_somebody``: the resource that is not as it was, and that the rotation has nothing to do with."""
    scenario, story = outcome.scenario, outcome.story
    assert outcome.struck >= len(scenario.faults), f"it shows nothing: {story}"
    said = broken(customer, outcome)
    theirs = [line for line in said if changed_by_somebody and f"changed: {changed_by_somebody}" in line]
    ours = [line for line in said if line not in theirs]
    assert not ours, f"{ours}; {story}"
    assert theirs or not changed_by_somebody, "nobody has changed anything"
    if scenario.ends != "either":
        assert outcome.went_forward == (scenario.ends == "forward"), story
    if scenario.error is not None:
        assert outcome.first.error == scenario.error, story
    if scenario.outage_seconds is not None:
        assert outcome.outage_seconds <= scenario.outage_seconds, story


@contextmanager
def on_call(customer: Customer, built: World, repair: Callable[[], Any]) -> Iterator[list[str | None]]:
    """Somebody who, once paged, tries both sides as an application would, and then repairs the cause."""
    ended = threading.Event()
    refusals: list[str | None] = []

    def work(inbox: Inbox) -> None:
        while not ended.wait(0.5):
            if any("RotationUndecided" in str(message) for message in inbox.messages()):
                for name in servers_of(customer, built.identifier):
                    found = customer.instance(name)
                    assert found is not None
                    address = found["Endpoint"]["Address"]
                    refusals.extend(customer.refusal(built, address, database) for database in built.databases)
                repair()
                return

    with customer.notifications() as inbox:
        person = threading.Thread(target=work, args=(inbox,), name="on call", daemon=True)
        person.start()
        try:
            yield refusals
        finally:
            ended.set()
            person.join()


@contextmanager
def when_struck(customer: Customer, base_name: str, deed: Callable[[], Any]) -> Iterator[list[Any]]:
    """Somebody does this once, as soon as a fault has struck this database: while what it holds is held.

    Nobody follows the execution for that, which would cost the sandbox more than the rotation does.
    """
    ended, answers = threading.Event(), []

    def work() -> None:
        while not ended.wait(0.2):
            if times_struck(customer, base_name):
                answers.append(deed())
                return

    somebody = threading.Thread(target=work, name="somebody", daemon=True)
    somebody.start()
    try:
        yield answers
    finally:
        ended.set()
        somebody.join()
    assert answers, f"nobody did anything to {base_name}"
