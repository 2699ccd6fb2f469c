"""Scenarios in tests: what holds after any rotation, and how this one was meant to end."""

import threading
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from sandbox.client import SandboxProcess
from sandbox.demo.connection import Resolver, connect, hang_up, trusting
from sandbox.demo.count import CONTROL_DATABASE
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
    "ROWS",
    "WRITERS",
    "Scenario",
    "as_master",
    "assert_invariants",
    "is_settled",
    "ledger_of",
    "on_call",
    "params",
    "play",
    "refusals_of",
    "sandbox_with",
    "servers_of",
    "table_line",
    "target_of",
    "when_struck",
]


@contextmanager
def sandbox_with(scenarios: Iterable[Scenario]) -> Iterator[Customer]:
    """One for all of them: what goes wrong in each is told apart by its database."""
    with SandboxProcess(faults=[fault for one in scenarios for fault in one.in_sandbox()]) as sandbox:
        yield Customer.of(sandbox)


def params(cases: Iterable[Any], sample: Collection[str]) -> list[Any]:
    """Anything with a name as parameters: the ``sample`` in every run, the others in ``make proof``."""
    return [
        pytest.param(one, id=one.name, marks=pytest.mark.sample if one.name in sample else pytest.mark.proof)
        for one in cases
    ]


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


def target_of(customer: Customer, built: World) -> str:
    (target,) = [name for name in servers_of(customer, built.identifier) if name != built.identifier]
    return target


def refusals_of(customer: Customer, built: World) -> list[str | None]:
    """Why an application may not enter each of its databases, on either side."""
    addresses = [customer.address(name) for name in servers_of(customer, built.identifier)]
    return [customer.refusal(built, address, database) for address in addresses for database in built.databases]


def as_master(customer: Customer, built: World, instance: str, statement: str, database: str = CONTROL_DATABASE) -> Any:
    """In the control database, the only one that lets the master user in while the fence stands."""
    endpoint = Resolver(customer.account.dns_host, customer.account.dns_port).resolve(customer.address(instance))
    sql = connect(endpoint, database, built.master, trusting(customer.account.ca_bundle))
    try:
        return sql.run(statement)
    finally:
        hang_up(sql)


@contextmanager
def on_call(customer: Customer, built: World, repair: Callable[[], Any]) -> Iterator[list[str | None]]:
    """Somebody who, once paged, tries both sides as an application would, and then repairs the cause."""
    ended = threading.Event()
    refusals: list[str | None] = []

    def work(inbox: Inbox) -> None:
        while not ended.wait(0.5):
            if any("RotationUndecided" in str(message) for message in inbox.messages()):
                refusals.extend(refusals_of(customer, built))
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
