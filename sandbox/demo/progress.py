"""An execution, watched from outside: which state it is in, and when on the writers' clock it entered each one."""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sandbox.demo.account import Account

LOOK_EVERY_SECONDS = 0.25
LOOK_DURING_CUTOVER_SECONDS = 0.05
OVER = ("SUCCEEDED", "FAILED", "TIMED_OUT", "ABORTED")

PHASES = {
    "fence": ("PauseApplicationWrites",),
    "drain": ("ConfirmDrained",),
    "promote": ("Promote", "WaitForPromotion", "CheckTarget"),
    "switch": ("UpdateConnectivity",),
    "release": ("ResumeWrites",),
    "switchover": tuple(
        f"{name}-BlueGreen" for name in ("SwitchOver", "WaitForSwitchover", "SwitchedOver?", "WaitWhileRdsSwitches")
    ),
}
"""The cutover, in the states that make it, by either strategy. Each phase begins when its first state is entered."""


@dataclass(frozen=True)
class StateVisit:
    name: str
    entered_at: datetime
    """The sandbox's clock."""
    exited_at: datetime | None
    kind: str

    @property
    def seconds(self) -> float | None:
        return None if self.exited_at is None else (self.exited_at - self.entered_at).total_seconds()


@dataclass
class Run:
    """One execution.

    ``earliest`` and ``latest`` bound the difference between the monotonic clock and the sandbox's during the cutover,
    when the latter does not jump: an event has happened after the last look that did not show it, and before the first
    that did.
    """

    arn: str
    status: str = "RUNNING"
    error: str | None = None
    cause: str | None = None
    output: Mapping[str, Any] = field(default_factory=dict)
    visits: list[StateVisit] = field(default_factory=list)
    transitions: int = 0
    earliest: float | None = None
    latest: float | None = None

    @property
    def offset(self) -> float | None:
        """Monotonic seconds minus the sandbox's clock, during the cutover."""
        if self.earliest is None or self.latest is None:
            return None
        return (self.earliest + self.latest) / 2

    @property
    def current(self) -> str:
        """The innermost state that has been entered and not left."""
        for visit in reversed(self.visits):
            if visit.exited_at is None and visit.kind != "Parallel":
                return visit.name
        return self.visits[-1].name if self.visits else ""

    @property
    def in_cutover(self) -> bool:
        return any(self.current in states for states in PHASES.values())

    def phases(self) -> dict[str, tuple[float, float]]:
        """Phase -> begin and end on the monotonic clock; only phases that were reached."""
        if self.offset is None:
            return {}
        found: dict[str, tuple[float, float]] = {}
        for phase, states in PHASES.items():
            visits = [visit for visit in self.visits if visit.name in states and visit.exited_at]
            if visits:
                ends = [visit.exited_at for visit in visits if visit.exited_at]
                found[phase] = (
                    min(visit.entered_at for visit in visits).timestamp() + self.offset,
                    max(ends).timestamp() + self.offset,
                )
        return found


def start(account: Account, request: Mapping[str, Any], name: str) -> str:
    """Start ``rotate_key``; returns the execution's ARN."""
    arn: str = account.client("stepfunctions").start_execution(
        stateMachineArn=account.rotate_key_arn, name=name, input=json.dumps(request)
    )["executionArn"]
    return arn


def follow(
    account: Account,
    arn: str,
    *,
    within_seconds: float = 300.0,
    every_seconds: float = LOOK_EVERY_SECONDS,
    seen: Callable[[Run], None] = lambda run: None,
) -> Run:
    """Watch an execution to its end.

    Args:
        within_seconds: real time.
        seen: called after every look.

    Raises:
        TimeoutError: it is still running; it is left running.
    """
    states, give_up_at = account.client("stepfunctions"), time.monotonic() + within_seconds
    run, looked_before = Run(arn), time.monotonic()
    while True:
        described = states.describe_execution(executionArn=arn)
        looking = time.monotonic()
        events = _history(states, arn)
        _read(run, events, looked_before, time.monotonic())
        looked_before = looking
        run.status = described["status"]
        if run.status in OVER:
            run.output = json.loads(described.get("output") or "{}")
            run.error, run.cause = described.get("error"), described.get("cause")
            seen(run)
            return run
        seen(run)
        if time.monotonic() > give_up_at:
            raise TimeoutError(f"after {within_seconds:.0f} s the execution is still in {run.current}")
        time.sleep(min(every_seconds, LOOK_DURING_CUTOVER_SECONDS) if run.in_cutover else every_seconds)


def _history(states: Any, arn: str) -> list[dict[str, Any]]:
    pages = states.get_paginator("get_execution_history").paginate(
        executionArn=arn, includeExecutionData=False, PaginationConfig={"PageSize": 1000}
    )
    return [event for page in pages for event in page["events"]]


def _read(run: Run, events: Sequence[Mapping[str, Any]], after: float, before: float) -> None:
    visits: list[StateVisit] = []
    open_visits: dict[str, int] = {}
    known = sum(1 + (visit.exited_at is not None) for visit in run.visits)
    fresh = 0
    for event in events:
        kind: str = event["type"]
        if entered := event.get("stateEnteredEventDetails"):
            open_visits[entered["name"]] = len(visits)
            visits.append(StateVisit(entered["name"], event["timestamp"], None, kind.removesuffix("StateEntered")))
        elif exited := event.get("stateExitedEventDetails"):
            at = open_visits.pop(exited["name"], None)
            if at is None:
                continue
            visit = visits[at]
            visits[at] = StateVisit(visit.name, visit.entered_at, event["timestamp"], visit.kind)
        else:
            continue
        fresh += 1
        if fresh > known:
            _calibrate(run, event, after, before)
    run.visits, run.transitions = visits, len(visits)


def _calibrate(run: Run, event: Mapping[str, Any], after: float, before: float) -> None:
    details = event.get("stateEnteredEventDetails") or event.get("stateExitedEventDetails") or {}
    if any(details["name"] in states for states in PHASES.values()):
        shown = event["timestamp"].timestamp()
        run.earliest = max(after - shown, run.earliest if run.earliest is not None else after - shown)
        run.latest = min(before - shown, run.latest if run.latest is not None else before - shown)
