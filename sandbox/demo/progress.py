"""An execution, watched from outside: which state it is in, and when on the writers' clock it entered each one."""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from sandbox.demo.account import Account

LOOK_EVERY_SECONDS = 0.25
LOOK_DURING_CUTOVER_SECONDS = 0.05
OVER = ("SUCCEEDED", "FAILED", "TIMED_OUT", "ABORTED")

_BY_FENCE = ("", "-Snapshot", "-CatchUp")
PHASES = {
    "fence": (
        *(f"PauseApplicationWrites{by}" for by in _BY_FENCE),
        *(f"{name}-Snapshot" for name in ("IsolateSource", "Isolated?", "WaitForIsolation")),
    ),
    "drain": ("ConfirmDrained", "ConfirmDrained-CatchUp"),
    "end catch-up": ("EndCatchUp-CatchUp", "CheckTarget-CatchUp"),
    "promote": ("Promote", "WaitForPromotion", "CheckTarget"),
    "snapshot": tuple(f"{name}-Snapshot" for name in ("TakeSnapshot", "SnapshotTaken?", "WaitForSnapshot")),
    "copy": tuple(f"{name}-Snapshot" for name in ("CopySnapshot", "Copied?", "WaitForCopy")),
    "restore": tuple(
        f"{name}-Snapshot"
        for name in ("RestoreTarget", "WaitForRestore", "Restored?", "WaitWhileRdsRestores", "CheckTarget")
    ),
    "switch": tuple(f"UpdateConnectivity{by}" for by in _BY_FENCE),
    "release": (*(f"ResumeWrites{by}" for by in _BY_FENCE), "Open?-Snapshot", "WaitForOpening-Snapshot"),
    "switchover": tuple(
        f"{name}-BlueGreen" for name in ("SwitchOver", "WaitForSwitchover", "SwitchedOver?", "WaitWhileRdsSwitches")
    ),
}
"""The cutover, in the states that make it, by any strategy. Each phase begins when its first state is entered."""


@dataclass(frozen=True)
class StateVisit:
    name: str
    entered_at: datetime
    """The sandbox's clock."""
    exited_at: datetime | None
    kind: str
    entered_seen: float = 0.0
    """The monotonic clock, halfway between the last look that did not show it and the first one that did."""
    exited_seen: float = 0.0

    @property
    def seconds(self) -> float | None:
        return None if self.exited_at is None else (self.exited_at - self.entered_at).total_seconds()


@dataclass
class Run:
    """One execution.

    ``earliest`` and ``latest`` bound the difference between the monotonic clock and the sandbox's during the cutover:
    an event has happened after the last look that did not show it, and before the first that did. Where the sandbox's
    clock jumps meanwhile, as it does while RDS copies a snapshot, they exclude each other.
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
    looks: list[float] = field(default_factory=list)
    """When each entry or exit was seen."""

    @property
    def offset(self) -> float | None:
        """Monotonic seconds minus the sandbox's clock, during the cutover; None also where that has jumped."""
        if self.earliest is None or self.latest is None or self.earliest > self.latest:
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
        found: dict[str, tuple[float, float]] = {}
        for phase, states in PHASES.items():
            visits = [visit for visit in self.visits if visit.name in states and visit.exited_at]
            if visits:
                found[phase] = (min(map(self._began, visits)), max(map(self._ended, visits)))
        return found

    def _began(self, visit: StateVisit) -> float:
        return visit.entered_seen if self.offset is None else visit.entered_at.timestamp() + self.offset

    def _ended(self, visit: StateVisit) -> float:
        if self.offset is None or visit.exited_at is None:
            return visit.exited_seen
        return visit.exited_at.timestamp() + self.offset


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
    fresh = 0
    for event in events:
        kind: str = event["type"]
        entered, exited = event.get("stateEnteredEventDetails"), event.get("stateExitedEventDetails")
        if not entered and (not exited or exited["name"] not in open_visits):
            continue
        if fresh == len(run.looks):
            run.looks.append((after + before) / 2)
            _calibrate(run, event, after, before)
        if entered:
            open_visits[entered["name"]] = len(visits)
            visits.append(
                StateVisit(
                    entered["name"], event["timestamp"], None, kind.removesuffix("StateEntered"), run.looks[fresh]
                )
            )
        elif exited:
            at = open_visits.pop(exited["name"])
            visits[at] = replace(visits[at], exited_at=event["timestamp"], exited_seen=run.looks[fresh])
        fresh += 1
    run.visits, run.transitions = visits, len(visits)


def _calibrate(run: Run, event: Mapping[str, Any], after: float, before: float) -> None:
    details = event.get("stateEnteredEventDetails") or event.get("stateExitedEventDetails") or {}
    if any(details["name"] in states for states in PHASES.values()):
        shown = event["timestamp"].timestamp()
        run.earliest = max(after - shown, run.earliest if run.earliest is not None else after - shown)
        run.latest = min(before - shown, run.latest if run.latest is not None else before - shown)
