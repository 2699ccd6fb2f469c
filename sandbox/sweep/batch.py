"""Plays cells, one after the other, in one sandbox. As a program: cells on standard input, results on output.

A line of input is a JSON list of cells (`to_json`); each result is a JSON line, printed when its cell is over.
"""

import json
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sandbox.client import SandboxProcess
from sandbox.demo import progress, world
from sandbox.demo.customer import Customer
from sandbox.sweep.boundaries import (
    BEFORE_FENCE,
    CALLED_OFF,
    PERMANENT,
    STOPPING,
    SUBJECTS,
    WAITING,
    ZOMBIE_SECONDS,
    Boundary,
    Cell,
)
from sandbox.sweep.invariants import broken, broken_for_now
from sandbox.sweep.scenario import (
    ROWS,
    WRITERS,
    Outcome,
    Scenario,
    executions,
    is_settled,
    is_to_be_recovered,
    left_by,
    play,
)

QUIET_SECONDS = 4.0
"""Real; so long after its end a rotation that nothing carries on is left to itself."""

HOUR_AND_A_HALF_DAYS = 1.5 / 24
SHUT_OUT_SECONDS = 3000.0
"""Of the sandbox's clock, and on top of a budget. The schedule that recovers a promotion comes after 35 minutes."""

Result = dict[str, Any]
"""``cell``, ``verdict`` (``kept``, ``broken``, ``unreached``, ``error``) and what was seen; see `_result`."""


def to_json(cell: Cell) -> dict[str, Any]:
    return {**asdict(cell.boundary), "kind": cell.kind}


def from_json(given: Mapping[str, Any]) -> Cell:
    fields = dict(given)
    kind = fields.pop("kind")
    return Cell(Boundary(**fields), kind)


def run(cells: Sequence[Cell]) -> Iterator[Result]:
    """Play them; whatever goes wrong with one is its result."""
    scenarios = [scenario_of(f"c{at}", cell) for at, cell in enumerate(cells)]
    with (
        tempfile.TemporaryDirectory(prefix="rds-key-rotation-sweep-") as scratch,
        SandboxProcess(faults=[fault for one in scenarios for fault in one.in_sandbox()]) as sandbox,
    ):
        customer = Customer.of(sandbox)
        for cell, scenario in zip(cells, scenarios, strict=True):
            yield play_cell(customer, cell, scenario, Path(scratch) / f"{scenario.name}.acks")


def scenario_of(name: str, cell: Cell) -> Scenario:
    subject = SUBJECTS[cell.boundary.subject]
    return Scenario(
        name, cell.faults(), ends="either", latecomer=cell.kind == "late", by_endpoint=cell.kind == "led-back",
        world=subject.world, request=subject.request,
    )  # fmt: skip


def play_cell(customer: Customer, cell: Cell, scenario: Scenario, acks: Path) -> Result:
    """Play it in a sandbox that has its faults (`Scenario.in_sandbox`), and remove its database."""
    began = time.monotonic()
    try:
        result = _result(customer, cell, _play(customer, cell, scenario, acks))
    except Exception as error:
        result = {"cell": cell.name, "verdict": "error", "why": [f"{type(error).__name__}: {error}"]}
    world.remove(customer.account, scenario.name)
    return result | {"at": to_json(cell), "seconds": round(time.monotonic() - began, 1)}


def _play(customer: Customer, cell: Cell, scenario: Scenario, acks: Path) -> tuple[Outcome, str]:
    built = customer.build(scenario.name, rows=ROWS, writers=WRITERS, **scenario.world)
    helped = ["nobody"]

    def finish(first: progress.Run) -> None:
        """Let it come to its end: by itself, in an hour, or when somebody who has repaired the cause starts it anew."""
        if cell.kind == "zombie":
            # Settled is what nobody changes any more; this function has yet to wake up.
            time.sleep(ZOMBIE_SECONDS + QUIET_SECONDS)
        if _comes_to_rest(customer, scenario.name):
            if cell.kind in PERMANENT and is_to_be_recovered(customer):
                customer.let_days_pass(HOUR_AND_A_HALF_DAYS)  # nobody may delete it
                _comes_to_rest(customer, scenario.name)
            return
        helped.append("time")
        customer.let_days_pass(HOUR_AND_A_HALF_DAYS)
        if _comes_to_rest(customer, scenario.name) or cell.kind not in PERMANENT:
            return
        helped.append("a new start")
        request = {**built.request, "GraceDays": 0, **scenario.request}
        if left := left_by(customer, scenario.name):
            # Only the old key is left, and another rotation would hide what becomes of it. Whoever starts, if only to
            # look, has repaired the cause (`faults`).
            customer.rotate({**request, "DryRun": True})
            request = {"Recover": left}
        customer.rotate(request)
        _comes_to_rest(customer, scenario.name)

    return play(customer, scenario, acks, afterwards=finish, built=built, settles=False), helped[-1]


def _comes_to_rest(customer: Customer, name: str) -> bool:
    """Wait until it is settled, or until nothing has run for a while; whether it is settled."""
    quiet_since = time.monotonic()
    while not (settled := is_settled(customer, name)):
        if "RUNNING" in executions(customer).values():
            quiet_since = time.monotonic()
        elif time.monotonic() - quiet_since > QUIET_SECONDS:
            break
        time.sleep(0.5)
    return settled


def _result(customer: Customer, cell: Cell, played: tuple[Outcome, str]) -> Result:
    outcome, helped = played
    holds = broken_for_now if cell.kind in WAITING else broken
    why = [*holds(customer, outcome), *_not_as_meant(cell, outcome, helped)]
    reached = outcome.struck >= len(outcome.scenario.faults)
    return {
        "cell": cell.name,
        "verdict": "broken" if why else "kept" if reached else "unreached",
        "why": why,
        "story": outcome.story if why else "",
        "went": "forward" if outcome.went_forward else "back",
        "first": outcome.first.status,
        "error": outcome.first.error,
        "executions": len(outcome.executions),
        "helped": helped,
        "acknowledged": outcome.count.acknowledged,
        "lost": outcome.count.lost,
        "duplicated": outcome.count.duplicated,
        "outage_seconds": round(outcome.outage_seconds, 2),
        "shut_out_seconds": round(outcome.shut_out_seconds, 1),
        "core_seconds": round(sum(outcome.core_seconds.values()), 1),
    }


def _not_as_meant(cell: Cell, outcome: Outcome, helped: str) -> Iterator[str]:
    """A passing fault ends in success; a lasting one as the next start leaves it; what is stopped is carried on."""
    wanted = "SUCCEEDED" if cell.boundary.way == "forward" else "FAILED"
    budget = SUBJECTS[cell.boundary.subject].request.get("WriteOutageBudgetSeconds", 0)
    if outcome.shut_out_seconds > SHUT_OUT_SECONDS + budget and cell.kind not in PERMANENT:
        yield f"nobody could write for {outcome.shut_out_seconds:.0f} s"
    if cell.kind in WAITING and not any("RetirementRefused" in moment for moment in outcome.moments):
        yield "nobody was told"
    if cell.kind in (*PERMANENT, *CALLED_OFF, *WAITING):
        return
    if cell.kind in STOPPING:
        if cell.kind == "overtaken" and cell.boundary.function in BEFORE_FENCE and outcome.shut_out_seconds:
            yield f"a function that was overtaken shut everybody out for {outcome.shut_out_seconds:.0f} s"
        if helped == "a new start":
            yield "it was not carried on by itself"
        if helped != "nobody" and outcome.shut_out_seconds and cell.kind != "unheard":
            yield "nobody carried it on at once, and nobody could write meanwhile"
        return
    if (outcome.first.status, outcome.went_forward) != (wanted, cell.boundary.way == "forward"):
        went = "forward" if outcome.went_forward else "back"
        yield f"a fault that passes made it end {outcome.first.status} and go {went}"


def main() -> int:
    cells = [from_json(one) for one in json.loads(sys.stdin.readline())]
    for result in run(cells):
        print(json.dumps(result), flush=True)
    return 0
