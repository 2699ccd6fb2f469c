"""Servers and networks that fail at each phase of a rotation: nothing is lost, and never are two sides open.

What a strike shows is decided by the phase: who still needs that server, and is it back before the retries are over?
"""

import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from sandbox.demo import world
from sandbox.demo.connection import Login, Resolver, connect, hang_up, sqlstate, trusting
from sandbox.demo.world import World
from tests.rotation.scenarios import (
    ROWS,
    WRITERS,
    Scenario,
    assert_invariants,
    on_call,
    params,
    play,
    sandbox_with,
    table_line,
    target_of,
    when_struck,
)
from tests.rotation.support import NOT_ACCEPTING, Customer

OUTLASTS_RETRIES_SECONDS = 45
"""Five retries, with all that the state machine waits between them, are over before."""

NO_CONNECTION_LEFT = "53300"

PHASES: Mapping[str, Mapping[str, Any]] = {
    # The target is there, and followed for the first time.
    "sync": {"function": "wait-for-replication-sync", "statement": 1, "shape": "COMMIT", "when": "after"},
    "fencing": {"function": "pause-application-writes"},
    "fenced": {"function": "pause-application-writes", "statement": 1, "shape": "COMMIT", "when": "after"},
    "draining": {"function": "confirm-drained"},
    "asking": {"function": "promote"},
    "promoting": {"function": "wait-for-promotion"},
    "checking": {"function": "check-target"},
    "released": {"function": "resume-writes", "statement": 1, "shape": "COMMIT", "when": "after"},
    "verifying": {"function": "verify"},
    "decommissioning": {"function": "decommission"},
}

CRASH = {"kind": "crash"}
FAILOVER = {"kind": "failover"}
LONG_FAILOVER = {"kind": "failover", "seconds": OUTLASTS_RETRIES_SECONDS}

TABLE: tuple[tuple[str, Mapping[str, Any], Mapping[str, str]], ...] = (
    # What strikes, and at which phase it ends how: forward, back (with which error), either.
    (
        "source-crash",
        {**CRASH, "side": "source"},
        {"fenced": "forward", "draining": "forward", "promoting": "forward", "released": "forward"},
    ),
    (
        "source-failover",
        {**FAILOVER, "side": "source"},
        {"sync": "forward", "fenced": "forward", "checking": "forward", "verifying": "forward"},
    ),
    (
        "source-away",
        {**LONG_FAILOVER, "side": "source"},
        {
            "fenced": "back DatabaseUnreachable",
            "asking": "back DatabaseUnreachable",
            "checking": "back DatabaseUnreachable",
            "verifying": "forward",
        },
    ),
    (
        "target-crash",
        {**CRASH, "side": "target"},
        {
            "sync": "forward",
            "draining": "forward",
            "asking": "forward",
            "promoting": "either",  # RDS may fail its own operation
            "released": "forward",
        },
    ),
    ("target-failover", {**FAILOVER, "side": "target"}, {"checking": "forward", "released": "forward"}),
    (
        "target-away",
        {**LONG_FAILOVER, "side": "target"},
        {"draining": "back DatabaseUnreachable", "checking": "back DatabaseUnreachable", "verifying": "forward"},
    ),
    ("receiver-killed", {"kind": "receiver-killed"}, {"fenced": "forward", "draining": "forward", "asking": "forward"}),
    ("slot-lost", {"kind": "slot-lost"}, {"fencing": "back DrainIncomplete", "asking": "forward"}),
    ("replication-cut", {"kind": "cut-replication"}, {"fencing": "back DrainIncomplete", "asking": "forward"}),
    ("replication-away", {"kind": "cut-replication", "seconds": 5}, {"sync": "forward", "fencing": "forward"}),
    ("replay-paused", {"kind": "pause-replay"}, {"asking": "forward"}),
    ("source-unheard", {"kind": "cut", "side": "source", "seconds": 20}, {"fenced": "either", "checking": "either"}),
    (
        "source-cut-off",
        {"kind": "cut", "side": "source", "seconds": OUTLASTS_RETRIES_SECONDS, "how": "reset"},
        # While a rollback cannot reach the source, the one-time schedule may come, and take it over.
        {"fencing": "back DatabaseUnreachable", "asking": "back"},
    ),
    (
        "target-unheard",
        {"kind": "cut", "side": "target", "seconds": 20},
        {"draining": "either", "promoting": "forward", "released": "forward"},
    ),
    (
        "target-backed-up",
        {"kind": "answered", "call": "rds.DescribeDBInstances", "parameters": {"DBInstanceStatus": "backing-up"}},
        {"promoting": "forward", "verifying": "forward"},
    ),
    ("target-full", {"kind": "storage-full", "side": "target"}, {"draining": "back DatabaseUnreachable"}),
)


def scenario_of(strike: str, fault: Mapping[str, Any], phase: str, ending: str) -> Scenario:
    ends, _, error = ending.partition(" ")
    return Scenario(f"{strike}-{phase}", ({**fault, **PHASES[phase]},), ends=ends, error=error or None)  # type: ignore[arg-type]


STRUCK = [
    scenario_of(strike, fault, phase, ending)
    for strike, fault, phases in TABLE
    for phase, ending in phases.items()
]  # fmt: skip

KEY_TOO_NEW = Scenario(
    "key-too-new",
    (
        {
            "kind": "error-before", "function": "create-encrypted-read-replica",
            "call": "rds.CreateDBInstanceReadReplica", "code": "KMSKeyNotAccessibleFault",
            "message": "The specified KMS key does not exist, is not enabled or you may not access it.",
        },
    ),
    ends="forward",
)  # fmt: skip
FULL = Scenario(
    "target-full-promoting",
    ({"kind": "storage-full", "side": "target", **PHASES["promoting"]},),
    error="PromotionFailed",
)
FULL_AFTER = Scenario(
    "target-full-verifying", ({"kind": "storage-full", "side": "target", **PHASES["verifying"]},), ends="forward"
)
HOLD = {"kind": "held", "seconds": 8}
STORM = Scenario("storm", ({**HOLD, **PHASES["draining"]},), ends="forward")

SAMPLE = {"source-failover-fenced", "key-too-new"}
ALL = [*STRUCK, KEY_TOO_NEW, FULL, FULL_AFTER, STORM]


@pytest.fixture(scope="module")
def customer() -> Iterator[Customer]:
    with sandbox_with(ALL) as customer:
        yield customer


@pytest.mark.parametrize("scenario", params([*STRUCK, KEY_TOO_NEW], SAMPLE))
def test_it_ends_at_one_writable_side_with_nothing_lost(customer: Customer, tmp_path: Path, scenario: Scenario) -> None:
    built = customer.build(scenario.name, rows=ROWS, writers=WRITERS)
    if scenario.name == "target-crash-promoting":
        # RDS may refuse to change an instance that failed, so a protected one would be left over.
        customer.client("rds").modify_db_instance(DBInstanceIdentifier=scenario.name, DeletionProtection=False)

    outcome = play(customer, scenario, tmp_path / "acks", built=built)

    print(table_line(outcome))
    assert_invariants(customer, outcome)
    if scenario.ends == "forward":
        assert outcome.last.status == "SUCCEEDED", outcome.story
    world.remove(customer.account, scenario.name)


@pytest.mark.proof
def test_a_promoted_target_that_is_full_pages_and_is_undone_when_it_can_be_seen(
    customer: Customer, tmp_path: Path
) -> None:
    """Whether it was released is written on it alone, so as long as it is down nobody writes anywhere."""
    built = customer.build(FULL.name, rows=ROWS, writers=WRITERS)

    def repair() -> None:
        enlarge_the_target(customer, built)

    with on_call(customer, built, repair) as refusals:
        outcome = play(customer, FULL, tmp_path / "acks", built=built)

    print(table_line(outcome))
    assert set(refusals) == {NOT_ACCEPTING, "unreachable"}
    assert_invariants(customer, outcome)


def enlarge_the_target(customer: Customer, built: World) -> None:
    target = target_of(customer, built)
    customer.until(lambda: (customer.instance(target) or {}).get("DBInstanceStatus") == "storage-full")
    customer.client("rds").modify_db_instance(DBInstanceIdentifier=target, AllocatedStorage=60, ApplyImmediately=True)


@pytest.mark.proof
def test_a_released_target_that_is_full_is_waited_for(customer: Customer, tmp_path: Path) -> None:
    """Applications belong there; the source stays fenced."""
    built = customer.build(FULL_AFTER.name, rows=ROWS, writers=WRITERS)

    with when_struck(customer, FULL_AFTER.name, lambda: enlarge_the_target(customer, built)):
        outcome = play(customer, FULL_AFTER, tmp_path / "acks", built=built)

    print(table_line(outcome))
    assert_invariants(customer, outcome)
    assert outcome.last.status == "SUCCEEDED", outcome.story


@pytest.mark.proof
def test_clients_that_connect_without_end(customer: Customer, tmp_path: Path) -> None:
    """They take turns with the fence for the server's connections; it must hold and let the rotation through."""
    built = customer.build(STORM.name, rows=ROWS, writers=WRITERS)
    storm = Storm(customer, built)
    with storm:
        outcome = play(customer, STORM, tmp_path / "acks", built=built)

    print(table_line(outcome), storm.refused, "refused")
    assert storm.refused > 100
    assert_invariants(customer, outcome)


class Storm:
    """Clients that connect to the source's own endpoint, again and again, without a pause while the fence stands."""

    CLIENTS = 12

    def __init__(self, customer: Customer, built: World) -> None:
        self.refused = 0
        self._built = built
        self._endpoint = Resolver(customer.account.dns_host, customer.account.dns_port).resolve(
            customer.address(built.identifier)
        )
        self._trust = trusting(customer.account.ca_bundle)
        self._ended = threading.Event()
        self._clients = [threading.Thread(target=self._connect, daemon=True) for _ in range(self.CLIENTS)]

    def __enter__(self) -> None:
        for client in self._clients:
            client.start()

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        for client in self._clients:
            client.join()

    def _connect(self) -> None:
        login: Login = self._built.app
        while not self._ended.is_set():
            try:
                hang_up(connect(self._endpoint, self._built.databases[0], login, self._trust))
                self._ended.wait(0.2)  # open: there is nothing to storm
            except Exception as error:
                if sqlstate(error) in (NOT_ACCEPTING, NO_CONNECTION_LEFT):
                    self.refused += 1
                else:
                    self._ended.wait(0.2)  # the source is gone
