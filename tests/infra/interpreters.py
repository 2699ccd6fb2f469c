"""The same execution in two interpreters: the sandbox's, and another one that was written by somebody else.

The sandbox's interpreter is asked first, with functions that answer as a test tells them to. The answers that its
history shows are the script of the other one, aws-local-stepfunctions (npm): it has to ask for the same, in the same
states, with the same arguments, to wait as long, and to come to the same end.

What the second interpreter does not check:

* that a time limit strikes, of a Task or of the machine: in the sandbox these are real time;
* which of several branches or iterations is first: their states are compared without an order. Where one branch fails,
  only those that were answered, because how far the others get is a race;
* how an error comes by its name (those of the Lambda service, for instance): it is given names. And the cause that an
  interpreter writes when it fails itself (``States.Runtime``);
* how long it takes when several branches pause before a retry at the same time;
* the answer to a task token: to it, ``startExecution.waitForTaskToken`` is a task like any other;
* ``MaxConcurrency``, and what Lambda returns beside the payload.

Jitter is taken from both: every retry waits as long as it may, so that their delays can be compared as well.
"""

import datetime as dt
import io
import json
import subprocess
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, Protocol
from unittest import mock

from moto.stepfunctions.parser import models
from moto.stepfunctions.parser.asl.component.common.retry import jitter_strategy_decl
from moto.stepfunctions.parser.asl.utils.encoding import to_json_str

from infra import embed
from infra.layer import ROOT
from lambdas.rotation.policy import TASK_TOKEN
from sandbox import step_functions
from sandbox.clock import VirtualClock
from tests.fakes import START

RUNNER = Path(__file__).with_name("second_opinion.mjs")
ACCOUNT, REGION = "123456789012", "eu-central-1"
ROLE = f"arn:aws:iam::{ACCOUNT}:role/states"
HANGS_SECONDS = 60

Json = dict[str, Any]
State = tuple[str, Any]
"""A state that was entered, with its input."""


@dataclass(frozen=True)
class Run:
    """One execution, as the sandbox's interpreter tells it."""

    definition: Json
    arn: str
    given: Json
    entered: list[State]
    answers: list[Json]
    """What each Task asked for (``state``, ``arguments``) and got (``result``, or ``error`` and ``cause``)."""
    end: Json
    """``output``, or ``error`` and ``cause``."""
    waits: list[float] | None = None
    """Seconds, pauses before retries included; None where time passed between them as well."""

    @property
    def path(self) -> list[str]:
        return [name for name, _ in self.entered]


# -- the second interpreter --------------------------------------------------------------------------------------------


def second_opinions(runs: Iterable[Run], definitions: Sequence[Json] = ()) -> list[list[str]]:
    """For every run, how the second interpreter disagrees; an empty list where it does not.

    ``definitions`` are what it reads instead of the runs' own.
    """
    runs = list(runs)
    executions = [
        {
            "definition": definition,
            "input": run.given,
            "context": {"Execution": {"Id": run.arn}},
            "answers": run.answers,
            "start": START.timestamp() * 1000,
        }
        for run, definition in zip(runs, definitions or [run.definition for run in runs], strict=True)
    ]
    done = subprocess.run(
        ["node", str(RUNNER)], input=json.dumps(executions), cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return [_disagreements(run, told) for run, told in zip(runs, json.loads(done.stdout), strict=True)]


def _disagreements(run: Run, told: Json) -> list[str]:
    given_up = side_by_side(run.definition, "Task") - {answer["state"] for answer in run.answers}
    ours = _settled(run.entered, run.definition, given_up)
    theirs = _settled([(one["name"], one["input"]) for one in told["entered"]], run.definition, given_up)
    end: Json = {key: told[key] for key in ("output", "error", "cause") if key in told}
    waits_in_turn = run.waits is not None and not _pauses_overlap(run)
    compared: dict[str, tuple[Any, Any]] = {
        "path": ([name for name, _ in ours], [name for name, _ in theirs]),
        "inputs": (ours, theirs),
        "answers not asked for": ([], told["unused"]),
        "asked for besides": ([], [one for one in told["unanswered"] if one["state"] not in given_up]),
        "end": (_without_own_cause(run.end), _without_own_cause(end)),
        "waits": (run.waits, told["waits"]) if waits_in_turn else ((), ()),
    }
    return [f"{what}: {mine} here, {yours} there" for what, (mine, yours) in compared.items() if mine != yours]


def _settled(entered: list[State], definition: Json, given_up: set[str]) -> list[State]:
    beside = side_by_side(definition)
    settled: list[State] = []
    for unordered, states in groupby((one for one in entered if one[0] not in given_up), lambda one: one[0] in beside):
        in_turn = list(states)
        settled += sorted(in_turn, key=json.dumps) if unordered else in_turn
    return settled


def side_by_side(definition: Json, kind: str | None = None) -> set[str]:
    """The states that run at the same time as others."""
    return {
        name
        for state in embed.states(definition).values()
        for inner in [*state.get("Branches", ()), state.get("ItemProcessor", {})]
        if len(state.get("Branches", ())) != 1
        for name, one in embed.states(inner).items()
        if kind in (None, one["Type"])
    }


def _pauses_overlap(run: Run) -> bool:
    """Two Tasks side by side that both failed: the clock of the one goes on while the other pauses, or does not."""
    beside = side_by_side(run.definition)
    failed = {json.dumps(one["arguments"]) for one in run.answers if "error" in one and one["state"] in beside}
    return len(failed) > 1


def _without_own_cause(end: Json) -> Json:
    return {"error": end["error"]} if str(end.get("error", "")).startswith("States.") else end


# -- the sandbox's interpreter -----------------------------------------------------------------------------------------


def run_of(definition: Json, arn: str, history: Sequence[Json], waits: list[float] | None = None) -> Run:
    """What the history of an execution says, whoever ran it."""
    events = {event["id"]: event for event in history}

    def latest(kind: str, event: Json) -> Json:
        while kind not in event:
            event = events[event["previousEventId"]]
        details: Json = event[kind]
        return details

    def asked(event: Json) -> Json:
        arguments: Json = json.loads(latest("taskScheduledEventDetails", event)["parameters"])
        if TASK_TOKEN in arguments.get("Input", ()):
            arguments["Input"][TASK_TOKEN] = "a task token"
        return {"state": latest("stateEnteredEventDetails", event)["name"], "arguments": arguments}

    entered: list[State] = []
    answers: list[Json] = []
    given: Json = {}
    end: Json = {}
    for event in history:
        match event:
            case {"executionStartedEventDetails": details}:
                given = json.loads(details["input"])
            case {"stateEnteredEventDetails": details}:
                entered.append((details["name"], json.loads(details["input"])))
            case {"taskSucceededEventDetails": details}:
                answers.append(asked(event) | {"result": json.loads(details["output"])})
            case {"taskFailedEventDetails": details}:
                answers.append(asked(event) | _failure(details))
            case {"executionSucceededEventDetails": details}:
                end = {"output": json.loads(details["output"])}
            case {"executionFailedEventDetails": details}:
                end = _failure(details)
    return Run(definition, arn, given, entered, answers, end, waits)


def recorded(states: Any, arn: str) -> Run:
    """An execution that has run in a sandbox, read from its API."""
    machine = states.describe_execution(executionArn=arn)["stateMachineArn"]
    definition = json.loads(states.describe_state_machine(stateMachineArn=machine)["definition"])
    pages = states.get_paginator("get_execution_history").paginate(executionArn=arn)
    return run_of(definition, arn, [event for page in pages for event in page["events"]])


def _failure(details: Json) -> Json:
    return {"error": details["error"], "cause": details.get("cause", "")}


class Refusal(Exception):
    """What a function raises, by its name."""

    def __init__(self, error: str) -> None:
        super().__init__(error)
        self.error = error


class Functions(Protocol):
    """What stands behind the Tasks. Raise :class:`Refusal` for a function's error, ClientError for the service's."""

    def invoke(self, function: str, event: Json) -> Any: ...

    def execute(self, name: str, given: Json) -> Any:
        """What the started execution answers to its task token."""


class _InstantClock(VirtualClock):
    """Every wait is over at once, and takes exactly as long as it should."""

    def __init__(self) -> None:
        super().__init__()
        self.restart()

    def restart(self) -> None:
        self._offset = 0.0
        self.waits: list[float] = []

    def time(self) -> float:
        return START.timestamp() + self.offset

    def wait_until(self, deadline: float | dt.datetime, interrupted: Any = None) -> bool:
        moment = deadline.timestamp() if isinstance(deadline, dt.datetime) else deadline
        if moment > self.time():
            self.waits.append(round(moment - self.time(), 3))
            self._offset = moment - START.timestamp()
        return True


class _Client:
    """Lambda and Step Functions to the interpreter."""

    def __init__(self, functions: Functions, backend: Any) -> None:
        self._functions, self._backend = functions, backend

    def invoke(self, FunctionName: str, Payload: bytes) -> Json:
        response: Json = {"StatusCode": 200, "ExecutedVersion": "1", "ResponseMetadata": {}}
        try:
            payload = self._functions.invoke(FunctionName.split(":")[6], json.loads(Payload))
        except Refusal as refusal:
            response["FunctionError"] = "Unhandled"
            payload = {"errorMessage": "as told", "errorType": refusal.error}
        return response | {"Payload": io.BytesIO(json.dumps(payload).encode())}

    def start_execution(self, stateMachineArn: str, name: str, input: str) -> Json:
        given = json.loads(input)
        token = given[TASK_TOKEN]
        try:
            self._backend.send_task_success(token, json.dumps(self._functions.execute(name, given)))
        except Refusal as refusal:
            self._backend.send_task_failure(token, refusal.error, "as told")
        return {"executionArn": f"{stateMachineArn}:{name}", "startDate": START, "ResponseMetadata": {}}


Interpret = Callable[[str, Json, Functions], Run]


@contextmanager
def sandbox_interpreter() -> Iterator[Interpret]:
    """Runs executions in this process: a definition (as text), its input, and the functions that it calls."""
    clock = _InstantClock()
    engine = step_functions.install(clock, "", None, lambda execution: None)
    backend = models.stepfunctions_parser_backends[ACCOUNT][REGION]
    machines: dict[str, str] = {}

    def interpret(definition: str, given: Json, functions: Functions) -> Run:
        if definition not in machines:
            machines[definition] = backend.create_state_machine(f"machine-{len(machines)}", definition, ROLE).arn
        engine.client = lambda *which: _Client(functions, backend)  # type: ignore[method-assign]
        clock.restart()
        execution = backend.start_execution(machines[definition], execution_input=json.dumps(given))
        assert execution.ended.wait(HANGS_SECONDS), f"still running: {execution.exec_arn}"
        history = json.loads(to_json_str(backend.get_execution_history(execution.exec_arn)["events"]))
        return run_of(json.loads(definition), execution.exec_arn, history, clock.waits)

    class Longest:
        uniform = staticmethod(lambda low, high: high)

    with mock.patch.object(jitter_strategy_decl, "random", Longest):
        yield interpret
    backend.reset()
    clock.stop()
