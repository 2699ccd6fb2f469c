"""Two interpreters read the state machines alike: the sandbox's, and one by somebody else that knows nothing of it.

What a step returns here is a rotation of the model, with the parts that this step writes; the whole machine is run over
and over, so that every state is entered, every branch of a Choice and every Catch taken, and every loop no, one and
three times.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from itertools import pairwise
from typing import Any

import pytest
from botocore.exceptions import ClientError

from infra import embed
from lambdas.report_fleet.handler import report_fleet
from lambdas.rotation.errors import FleetIncomplete
from lambdas.rotation.names import identifier_of
from lambdas.rotation.policy import request_for
from lambdas.rotation.state import (
    BackupReplication,
    Capture,
    Decommission,
    Deployment,
    Drain,
    Failure,
    Fence,
    Isolation,
    Key,
    KeyRequest,
    Member,
    Plan,
    Position,
    PreCopy,
    Promotion,
    Release,
    Replica,
    ReplicaRebuild,
    ReplicatedBackup,
    Restoration,
    Retirement,
    Rotation,
    Sync,
    TargetCheck,
    Undo,
    Verification,
)
from lambdas.rotation.step import REHEARSAL
from tests.fakes import EXECUTION, NEW_KEY, ROTATION_ID, SOURCE, START, TARGET, FakePorts
from tests.infra.interpreters import Json, Refusal, Run, sandbox_interpreter, second_opinions, side_by_side
from tests.infra.test_judges import rendered
from tests.infra.test_state_machines import LAMBDA_RETRYABLE, MACHINES, RETRYABLE

pytestmark = pytest.mark.slow

NOW, WEEK = START, timedelta(days=7)

Parts = dict[str, Any]
Answer = Parts | Refusal

PLAN = Plan(base_name=SOURCE)
BLUE_GREEN = PLAN.having(strategy="blue-green")
SNAPSHOT = PLAN.having(strategy="snapshot", write_outage_budget_seconds=14_400)
NETWORK = SNAPSHOT.having(fence="network")
CATCH_UP = PLAN.having(strategy="catch-up")
REPLICATED = PLAN.having(
    replicated_backups=(ReplicatedBackup(region="eu-west-1", arn="b", key_arn="k", retention_days=7),)
)
REQUEST = KeyRequest(token="5f0e", began_at=NOW, requested_at=NOW)
REPLICATION = BackupReplication(started_at=NOW, execution_arn=EXECUTION)
FOLLOWED = PLAN.having(replicas=(Replica(identifier="r", arn="r", resource_id="db-R"),))
REBUILD = ReplicaRebuild(started_at=NOW, execution_arn=EXECUTION, look_again_seconds=32)
CAPTURE = Capture(name="rds_key_rotation_1", begun_at=NOW, databases=(SOURCE,), position=Position("0/10"))
ISOLATION = Isolation(look_again_seconds=6)
RESTORATION = Restoration(temporary_snapshot="s", kept_snapshot="k", look_again_seconds=16)
DEPLOYMENT = Deployment(
    name=TARGET,
    members=(Member(source_identifier=SOURCE, source_arn=SOURCE, source_resource_id=SOURCE),),
    requested_at=NOW,
    look_again_seconds=33,
)
UNDO = Undo(outcome="undecided", started_at=NOW, not_before=NOW, look_again_seconds=14)
ROLLED_BACK = UNDO.having(outcome="rolled-back", clean=True, key_discarded=True)
DECOMMISSION = Decommission(stage="copy", started_at=NOW, look_again_seconds=61)
RETIREMENT = Retirement(verdict="kept", reason="by policy", started_at=NOW)
SYNC = Sync(started_at=NOW, observed_at=NOW, look_again_seconds=31)

DONE: dict[str, Parts] = {
    "StartRotation": {"rotation_id": ROTATION_ID, "epoch": 1, "route": "rotate", "plan": PLAN},
    "CreateNewKMSKey": {
        "key_request": REQUEST.having(complete=True),
        "new_key": Key(arn=NEW_KEY, manager="CUSTOMER"),
    },
    "CreateEncryptedReadReplica": {"target_identifier": TARGET},
    "WaitForReplicationSync": {"sync": SYNC.having(ready=True)},
    "PauseApplicationWrites": {
        "fence": Fence(databases=(), requested_at=NOW, raised_at=NOW, position=Position("0/20"))
    },
    "IsolateSource": {
        "isolation": ISOLATION.having(complete=True),
        "fence": Fence(databases=(), requested_at=NOW, raised_at=NOW, position=Position(NOW.isoformat())),
    },
    "ConfirmDrained": {"drain": Drain(complete=True, observed_at=NOW)},
    "Promote": {"promotion": Promotion(requested_at=NOW)},
    "WaitForPromotion": {"promotion": Promotion(requested_at=NOW, complete=True)},
    "WaitForSource": {"target_identifier": TARGET, "sync": SYNC.having(ready=True)},
    "BeginCapture": {"target_identifier": TARGET, "capture": CAPTURE},
    "WaitForCatchUp": {"capture": CAPTURE.having(applied_from=Position("0/18")), "sync": SYNC.having(ready=True)},
    "EndCatchUp": {"capture": CAPTURE.having(applied_from=Position("0/18"), ended_at=NOW)},
    "CopyAhead": {"pre_copy": PreCopy(started_at=NOW, complete=True)},
    "TakeSnapshot": {"restoration": RESTORATION.having(stage="copy")},
    "CopySnapshot": {"restoration": RESTORATION.having(stage="restore")},
    "RestoreTarget": {"restoration": RESTORATION.having(stage="restore", requested_at=NOW)},
    "WaitForRestore": {"restoration": RESTORATION.having(stage="done", requested_at=NOW)},
    "CheckTarget": {"target_check": TargetCheck(system_identifier="7", databases=(SOURCE,), checked_at=NOW)},
    "ResumeWrites": {"release": Release(released_at=NOW, write_outage_seconds=9.5)},
    "Verify": {
        "verification": Verification(complete=True, started_at=NOW, observed_at=NOW),
        "grace_ends_at": NOW + WEEK + timedelta(milliseconds=700),
    },
    "ReplicateBackups": {"backup_replication": REPLICATION.having(complete=True)},
    "RebuildReplicas": {"replica_rebuild": REBUILD.having(complete=True)},
    "CreateBlueGreenDeployment": {"deployment": DEPLOYMENT.having(accepted=True)},
    "WaitForGreen": {"deployment": DEPLOYMENT.having(ready=True)},
    "WaitForSwitchover": {
        "deployment": DEPLOYMENT.having(ready=True, switched=True),
        "release": Release(released_at=NOW, write_outage_seconds=9.5),
    },
    "VerifySwitchover": {
        "verification": Verification(complete=True, started_at=NOW, observed_at=NOW),
        "grace_ends_at": NOW + WEEK,
    },
    "RollBackDeployment": {"undo": ROLLED_BACK},
    "Decommission": {"decommission": DECOMMISSION.having(complete=True)},
    "ScheduleKeyDeletion": {"retirement": RETIREMENT.having(complete=True)},
    "Rollback": {"undo": ROLLED_BACK},
    "CleanUp": {"undo": ROLLED_BACK},
    "DiscardNewKey": {"undo": ROLLED_BACK},
}
"""What the steps write when there is nothing to wait for. The others write nothing that the machine reads."""

NOT_YET: dict[str, Parts] = {
    "CreateNewKMSKey": {"key_request": REQUEST},
    "CreateBlueGreenDeployment": {"deployment": DEPLOYMENT},
    "IsolateSource": {"isolation": ISOLATION},
    "ResumeWrites": {"release": Release(released_at=NOW, write_outage_seconds=9.5, open=False)},
    "WaitForReplicationSync": {"sync": SYNC},
    "ConfirmDrained": {"drain": Drain(complete=False, observed_at=NOW)},
    "WaitForPromotion": {"promotion": Promotion(requested_at=NOW)},
    "WaitForSource": {"sync": SYNC},
    "WaitForCatchUp": {"sync": SYNC},
    "CopyAhead": {"pre_copy": PreCopy(started_at=NOW, look_again_seconds=62)},
    "TakeSnapshot": {"restoration": RESTORATION},
    "CopySnapshot": {"restoration": RESTORATION.having(stage="copy")},
    "WaitForRestore": {"restoration": RESTORATION.having(stage="restore", requested_at=NOW)},
    "Verify": {"verification": Verification(complete=False, started_at=NOW, observed_at=NOW)},
    "ReplicateBackups": {"backup_replication": REPLICATION},
    "RebuildReplicas": {"replica_rebuild": REBUILD},
    "WaitForGreen": {"deployment": DEPLOYMENT},
    "SwitchOver": {"deployment": DEPLOYMENT},
    "WaitForSwitchover": {"deployment": DEPLOYMENT.having(ready=True)},
    "VerifySwitchover": {"verification": Verification(complete=False, started_at=NOW, observed_at=NOW)},
    "RollBackDeployment": {"undo": UNDO},
    "Decommission": {"decommission": DECOMMISSION},
    "ScheduleKeyDeletion": {"retirement": RETIREMENT.having(look_again_at=NOW + 3 * WEEK)},
    "Rollback": {"undo": UNDO},
    "CleanUp": {"undo": ROLLED_BACK.having(clean=False)},
    "DiscardNewKey": {"undo": ROLLED_BACK.having(key_discarded=False)},
}


@dataclass(frozen=True)
class Scenario:
    """One execution. Each step gives the answers of ``script`` one after the other, and then that it is done."""

    workflow: str
    given: Json
    script: Mapping[str, Sequence[Answer]] = field(default_factory=dict)
    fleet: Sequence[str] = ()
    starts: Mapping[str, Sequence[Exception | None]] = field(default_factory=dict)


def rotation(given: Json | None = None, **script: Sequence[Answer]) -> Scenario:
    return Scenario("rotate_key", given or {"DBInstanceIdentifier": SOURCE}, script)


def fleet(*databases: str, **starts: Sequence[Exception | None]) -> Scenario:
    return Scenario("rotate_fleet", {"scheduled_at": NOW.isoformat()}, fleet=databases, starts=starts)


def started_as(**parts: Any) -> list[Answer]:
    return [DONE["StartRotation"] | parts]


def refused_start(code: str) -> ClientError:
    response: Any = {
        "Error": {"Code": code, "Message": "no"},
        "ResponseMetadata": {"HTTPStatusCode": 400, "RequestId": "1"},
    }
    return ClientError(response, "StartExecution")


RECOVER: Json = {"Recover": EXECUTION}
ENDED = Failure(Error="ExecutionEnded", Cause="it was stopped")

BASES = {
    "success": rotation(),
    "dry run": rotation(StartRotation=started_as(plan=PLAN.having(dry_run=True))),
    "rolled back": rotation(CheckTarget=[Refusal("TargetMismatch")]),
    "recovery finds nothing to do": rotation(RECOVER, StartRotation=started_as(route="closed")),
    "recovery before the commit point": rotation(
        RECOVER,
        StartRotation=started_as(route="rollback", failure=ENDED),
        Rollback=[{"undo": UNDO}, *[{"undo": UNDO.having(outcome="decided")}] * 2, {"undo": ROLLED_BACK}],
        RestoreConnectivity=[{"undo": UNDO}, {}],
    ),
    "recovery at the commit point": rotation(
        RECOVER,
        StartRotation=started_as(route="rollback", failure=ENDED),
        Rollback=[{"undo": UNDO.having(outcome="committed")}],
    ),
    "recovery after the grace period": rotation(
        RECOVER,
        StartRotation=started_as(route="verify"),
        Verify=[DONE["Verify"] | {"grace_ends_at": NOW - WEEK}],
    ),
    "a strategy that there is not": rotation(StartRotation=started_as(plan=PLAN.having(strategy="auto"))),
    "backups in another Region": rotation(StartRotation=started_as(plan=REPLICATED)),
    "replicas": rotation(StartRotation=started_as(plan=FOLLOWED)),
    "snapshot": rotation(StartRotation=started_as(plan=SNAPSHOT)),
    "snapshot, copied ahead": rotation(StartRotation=started_as(plan=SNAPSHOT.having(pre_copy=True))),
    "snapshot, behind a network fence": rotation(StartRotation=started_as(plan=NETWORK)),
    "snapshot, rolled back behind a network fence": rotation(
        StartRotation=started_as(plan=NETWORK), IsolateSource=[Refusal("FenceBroken")]
    ),
    "catch-up": rotation(StartRotation=started_as(plan=CATCH_UP)),
    "catch-up, rolled back before the fence": rotation(
        StartRotation=started_as(plan=CATCH_UP),
        WaitForCatchUp=[{"sync": SYNC}, Refusal("CatchUpFailed")],
        Rollback=[{"undo": UNDO}, {"undo": ROLLED_BACK}],
        CleanUp=[{"undo": ROLLED_BACK.having(clean=False)}, {"undo": ROLLED_BACK}],
    ),
    "catch-up, rolled back under the fence": rotation(
        StartRotation=started_as(plan=CATCH_UP), EndCatchUp=[Refusal("FenceBroken")]
    ),
    "catch-up, rolled back when applications were led away": rotation(
        StartRotation=started_as(plan=CATCH_UP),
        ResumeWrites=[Refusal("DecisionLost")],
        Rollback=[{"undo": UNDO.having(outcome="decided")}, {"undo": ROLLED_BACK}],
    ),
    "catch-up, found released": rotation(
        StartRotation=started_as(plan=CATCH_UP),
        ResumeWrites=[Refusal("AccessRefused")],
        Rollback=[{"undo": UNDO.having(outcome="committed")}],
    ),
    "blue/green": rotation(StartRotation=started_as(plan=BLUE_GREEN)),
    "blue/green, rolled back": rotation(
        StartRotation=started_as(plan=BLUE_GREEN),
        SwitchOver=[Refusal("WrongKey")],
        RollBackDeployment=[{"undo": UNDO}, {"undo": ROLLED_BACK.having(clean=False)}, {"undo": ROLLED_BACK}],
    ),
    "blue/green, recovered after the switchover": rotation(
        RECOVER,
        StartRotation=started_as(plan=BLUE_GREEN, route="rollback", failure=ENDED),
        RollBackDeployment=[{"undo": UNDO.having(outcome="committed")}],
    ),
    "blue/green, recovered after the release": rotation(
        RECOVER, StartRotation=started_as(plan=BLUE_GREEN, route="verify")
    ),
    "auto falls back": rotation(
        StartRotation=started_as(plan=PLAN.having(fallback="blue-green")),
        CreateEncryptedReadReplica=[Refusal("ReplicaKeyRefused")],
        TakeNextStrategy=[{"plan": BLUE_GREEN, "undo": None, "failure": None}],
    ),
    "auto cannot fall back": rotation(
        StartRotation=started_as(plan=PLAN.having(fallback="blue-green")),
        CreateEncryptedReadReplica=[Refusal("ReplicaKeyRefused")],
    ),
    "a fleet of seven": fleet(*(f"db-{number}" for number in range(7))),
    "one of the fleet fails": fleet("orders", "billing", "users", billing=[Refusal("TargetMismatch")]),
    "none of the fleet can be started": fleet(
        "orders", "billing", orders=[refused_start("InvalidName")], billing=[refused_start("ExecutionAlreadyExists")]
    ),
    "a cluster takes part": fleet("orders", "cluster/orders"),
    "a cluster of the fleet fails": fleet("orders", "cluster/orders", **{"cluster/orders": [Refusal("WrongKey")]}),
    "a cluster of the fleet was started already": fleet(
        "orders", "cluster/orders", **{"cluster/orders": [refused_start("ExecutionAlreadyExists")]}
    ),
    "a start is throttled": fleet("orders", "billing", orders=[refused_start("ThrottlingException")] * 5),
    "nobody takes part": fleet(),
}


class Steps:
    """Functions that do to the state what ``lambdas/rotation/step.py`` does: read the journal, act, write it."""

    def __init__(self, scenario: Scenario) -> None:
        self._script = {function: list(answers) for function, answers in scenario.script.items()}
        self._starts = {database: list(outcomes) for database, outcomes in scenario.starts.items()}
        self._fleet = scenario.fleet
        self._journal: Rotation | None = None

    def invoke(self, function: str, event: Json) -> Json:
        name = step_of(function, event)
        answer = self._script[name].pop(0) if self._script.get(name) else DONE.get(name, {})
        if isinstance(answer, Refusal):
            raise answer
        if REHEARSAL in event:
            return {"reached": []}
        if name == "ListOptedInDatabases":
            named = [
                {"identifier": identifier_of(one), "is_cluster": one.startswith("cluster/"), "execution_name": one}
                for one in self._fleet
            ]
            return event | {"databases": named, "skipped": []}
        if name == "ReportFleet":
            return report(event)
        passed = Rotation.from_state(event)
        rotation = self._journal or passed
        if passed.failure is not None:
            rotation = rotation.having(failure=passed.failure)
        self._journal = rotation.having(**answer)
        return self._journal.to_state()

    def execute(self, name: str, given: Json) -> Json:
        outcome = self._starts[name].pop(0) if self._starts.get(name) else None
        if outcome is not None:
            raise outcome
        (field,) = request_for(name)  # an instance and a cluster of one name are two databases
        return {"moment": "CutoverCompleted", "target": given[field]}


def report(event: Json) -> Json:
    try:
        return report_fleet(event, FakePorts())
    except FleetIncomplete:
        raise Refusal("FleetIncomplete") from None


def step_of(function: str, event: Json) -> str:
    """A function is asked for two things, to act and to prove its reach; a script tells them apart."""
    return ("Reach" if REHEARSAL in event else "") + function.removesuffix("FunctionArn")


# -- what follows from the definitions ---------------------------------------------------------------------------------

STATES = {name: state for machine in MACHINES.values() for name, state in embed.states(machine).items()}
CHOICES = {name: state for name, state in STATES.items() if state["Type"] == "Choice"}
LOST = Refusal("DatabaseUnreachable")
FUNCTIONS = [name for name, state in STATES.items() if state.get("Resource") == "${LambdaInvoke}"]
LOOPS = [name for name, state in CHOICES.items() if STATES[state["Default"]]["Type"] == "Wait"]
"""The Choices that lead back to a poll, through a Wait."""
PARTS = {
    name: path[1]
    for name, state in CHOICES.items()
    if len(path := state["Choices"][0].get("Variable", "").split(".")) > 2
}
"""The part of the rotation that a Choice looks into; ``$.route`` belongs to none, it is always there."""


DERIVED = (
    [f"{name} fails" for name in FUNCTIONS]
    + [f"{name} cannot read its part" for name in PARTS]
    + [f"{choice} not yet {times}" for choice in LOOPS for times in ("once", "three times")]
    + [f"{base}, with every answer lost once" for base in BASES]
    + [f"{error} until it counts" for error in sorted(RETRYABLE | LAMBDA_RETRYABLE)]
)


def derived(seen: Mapping[str, Run]) -> dict[str, Scenario]:
    """What follows from the definitions, each from the scenario that gets there with the fewest steps."""

    def on_the_way_to(state: str) -> tuple[Scenario, str, int]:
        base = min((run.path.index(state), name) for name, run in seen.items() if state in run.path)[1]
        return BASES[base], *call_before(state, seen[base])

    scenarios = {f"{name} fails": before(*on_the_way_to(name), [Refusal("AccessRefused")]) for name in FUNCTIONS}
    for name, part in PARTS.items():
        scenarios[f"{name} cannot read its part"] = before(*on_the_way_to(name), [{part: None}])
    for choice in LOOPS:
        call = on_the_way_to(choice)
        not_yet = NOT_YET[call[1]]
        scenarios[f"{choice} not yet once"] = before(*call, [not_yet])
        # More attempts than a Retry has: it counts them anew at every visit.
        scenarios[f"{choice} not yet three times"] = before(*call, [LOST, LOST, LOST, not_yet] * 3)
    for name, scenario in BASES.items():
        for step, calls in Counter(step for _, step in steps_of(seen[name])).items():
            script = [*scenario.script.get(step, ()), *[DONE.get(step, {})] * calls][:calls]
            twice = [one for answer in script for one in (LOST, answer)]
            scenario = replace(scenario, script={**scenario.script, step: twice})
        scenarios[f"{name}, with every answer lost once"] = scenario
    for error in sorted(RETRYABLE | LAMBDA_RETRYABLE):
        scenarios[f"{error} until it counts"] = rotation(StartRotation=[Refusal(error)] * 6)
    return scenarios


def steps_of(run: Run) -> list[tuple[str, str]]:
    """The calls of functions: the state, and the step as a script names it."""
    calls = [(one["state"], one["arguments"]) for one in run.answers if "FunctionName" in one["arguments"]]
    return [(state, step_of(asked["FunctionName"].split(":")[6], asked["Payload"])) for state, asked in calls]


def call_before(state: str, run: Run) -> tuple[str, int]:
    """The step that ran last when ``state`` was entered (its own, if it is a Task), and how often it had run before."""
    path = run.path[: run.path.index(state) + 1]
    last = next(name for name in reversed(path) if name in FUNCTIONS)
    calls = steps_of(run)
    place = next(number for number, (name, _) in enumerate(calls) if name == last)
    return calls[place][1], sum(step == calls[place][1] for _, step in calls[:place])


def before(scenario: Scenario, step: str, number: int, answers: Sequence[Answer]) -> Scenario:
    """The scenario with these answers before the one that this call of the step gets."""
    script = list(scenario.script.get(step, ()))
    script += [DONE.get(step, {})] * (number - len(script))
    return replace(scenario, script={**scenario.script, step: [*script[:number], *answers, *script[number:]]})


@pytest.fixture(scope="module")
def runs() -> dict[str, Run]:
    """Every scenario, in the sandbox's interpreter."""
    with sandbox_interpreter() as interpret:
        definitions = {workflow: rendered(workflow) for workflow in MACHINES}

        def run(scenario: Scenario) -> Run:
            return interpret(definitions[scenario.workflow], scenario.given, Steps(scenario))

        seen = {name: run(scenario) for name, scenario in BASES.items()}
        return seen | {name: run(scenario) for name, scenario in derived(seen).items()}


@pytest.fixture(scope="module")
def disagreements(runs: dict[str, Run]) -> dict[str, list[str]]:
    return dict(zip(runs, second_opinions(runs.values()), strict=True))


@pytest.mark.parametrize("scenario", [*BASES, *DERIVED])
def test_both_take_the_same_path(scenario: str, disagreements: dict[str, list[str]]) -> None:
    """The same states with the same input, the same calls, the same waits, the same end."""
    assert disagreements[scenario] == []


def test_every_scenario_was_compared(disagreements: dict[str, list[str]]) -> None:
    assert list(disagreements) == [*BASES, *DERIVED]


def test_every_state_is_entered(runs: dict[str, Run]) -> None:
    assert {name for run in runs.values() for name in run.path} == set(STATES)


def test_every_branch_of_a_choice_and_every_catch_is_taken(runs: dict[str, Run]) -> None:
    branches = {
        (name, follower)
        for name, state in CHOICES.items()
        for follower in [*(rule["Next"] for rule in state["Choices"]), state["Default"]]
    }
    caught = {
        (inner, catcher["Next"])
        for name, state in STATES.items()
        for catcher in state.get("Catch", [])
        for inner in [name, *(one for branch in state.get("Branches", ()) for one in embed.states(branch))]
        if STATES[inner]["Type"] == "Task"
    }

    assert (branches | caught) - {pair for run in runs.values() for pair in transitions(run)} == set()


def transitions(run: Run) -> Iterator[tuple[str, str]]:
    """What follows what; and which state was entered once a state that runs beside others had failed."""
    yield from pairwise(run.path)
    beside = side_by_side(run.definition)
    for answer in run.answers:
        name = answer["state"]
        if name in beside and "error" in answer:
            after = run.path[run.path.index(name) :]
            yield name, next((one for one in after if one not in beside), "")
            yield from ((name, one) for one in after if one in beside and STATES[one]["Type"] != "Task")


def without(pattern: str, replacement: str) -> Json:
    """The definition of rotate_key with one thing changed, for the second interpreter alone."""
    text = json.dumps(json.loads(rendered("rotate_key")))
    assert pattern in text
    changed: Json = json.loads(text.replace(pattern, replacement))
    return changed


@pytest.mark.parametrize(
    ("pattern", "replacement", "scenario"),
    [
        ('"StringEquals": "rollback"', '"StringEquals": "roll-back"', "recovery before the commit point"),
        ('"ResultPath": "$.failure"', '"ResultPath": "$"', "rolled back"),
        ('"OutputPath": "$[0]"', '"OutputPath": "$"', "success"),
        ('"ResultPath": null', '"ResultPath": "$.reached"', "success"),
        ('"TimestampPath": "$.grace_ends_at"', '"Seconds": 604800', "success"),
        ('"MaxAttempts": 5', '"MaxAttempts": 4', "AwsUnavailable until it counts"),
        ('"BackoffRate": 2', '"BackoffRate": 3', "AwsUnavailable until it counts"),
        ('"AwsUnavailable", ', "", "AwsUnavailable until it counts"),
        ('"prove_reach.$": "$"', '"prove_reach.$": "$.plan"', "success"),
    ],
)
def test_a_difference_would_be_seen(pattern: str, replacement: str, scenario: str, runs: dict[str, Run]) -> None:
    """A second opinion that always agrees is none."""
    run = runs[scenario]

    assert second_opinions([run], [without(pattern, replacement)]) != [[]]
