"""What the state machines and the functions have to agree on."""

import inspect
import json
from typing import Any

import pytest

from infra import embed
from infra.config import load
from infra.tasks import Task, permission_matrix
from lambdas.rotation import errors
from lambdas.rotation.outage import REPEATED_FOR
from lambdas.rotation.step import REHEARSAL
from lambdas.rotation.undoing import PAGE_AFTER, SLOWEST_FUNCTION

WORKFLOWS = ("rotate_key", "rotate_fleet")
MACHINES = {workflow: embed.definition(workflow) for workflow in WORKFLOWS}
ROWS = {task.placeholder: task for task in permission_matrix(load("sandbox"))}

TASK_STATES = [
    pytest.param(state, id=f"{workflow}-{name}")
    for workflow, machine in MACHINES.items()
    for name, state in embed.states(machine).items()
    if state["Type"] == "Task" and state["Resource"] == "${LambdaInvoke}"
]
RETRYABLE = {
    name for name, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, errors.Retryable)
} - {"Retryable"}
LAMBDA_RETRYABLE = {
    "Lambda.ServiceException",
    "Lambda.AWSLambdaException",
    "Lambda.SdkClientException",
    "Lambda.ClientExecutionTimeoutException",
    "Lambda.TooManyRequestsException",
    "Lambda.Unknown",
    "Runtime.ExitError",
    "Sandbox.Timedout",
}
"""Lambda's own troubles: the function may have run or not, so every step may be repeated."""


WAKING = {
    "Lambda.ResourceNotReadyException",
    "Lambda.ENINotReadyException",
    "Lambda.CodeArtifactUserPendingException",
}
"""What a function says that nobody has called for weeks, as is every one of them at the beginning of a quarter."""
WAKING_SECONDS = 106
"""The longest that somebody has seen it take (accelerated-intelligent-document-processing-on-aws issue 801)."""


EVER_RELEASED = {
    "begin-capture", "check-target", "clean-up", "confirm-drained", "copy-ahead", "copy-snapshot",
    "create-blue-green-deployment", "create-encrypted-read-replica", "create-new-kms-key", "decommission",
    "discard-new-key", "end-catch-up", "isolate-source", "list-opted-in-databases", "notify",
    "pause-application-writes", "preflight", "prepare-connectivity", "promote", "rebuild-replicas",
    "recover-rotations", "replicate-backups", "report-fleet", "restore-connectivity", "restore-target",
    "resume-writes", "roll-back-deployment", "rollback", "schedule-key-deletion", "start-rotation", "switch-over",
    "take-next-strategy", "take-snapshot", "update-connectivity", "verify", "verify-switchover", "wait-for-catch-up",
    "wait-for-green", "wait-for-promotion", "wait-for-replication-sync", "wait-for-restore", "wait-for-source",
    "wait-for-switchover",
}  # fmt: skip
"""Every function that a release has had, by its name without the stack's prefix. None is taken off this list before a
year has passed since the last state machine that named it: so long may an execution take."""


def test_a_function_outlives_the_executions_that_call_it() -> None:
    """CloudFormation deletes what the stack no longer has, every version with it, also the retained ones: executions
    that began before the deployment, and wait in a grace period, would find nobody to call."""
    names = {row.function_name(load("sandbox")).removeprefix(load("sandbox").name("")) for row in ROWS.values()}

    assert set() == EVER_RELEASED - names, "gone or renamed (docs/extending.md: what executions still call)"
    assert set() == names - EVER_RELEASED, "new: write it down"


def row_of(state: dict[str, Any]) -> Task:
    return ROWS[state["Parameters"]["FunctionName"].removeprefix("${").removesuffix("}")]


@pytest.mark.parametrize("state", TASK_STATES)
def test_retries_exactly_what_is_retryable(state: dict[str, Any]) -> None:
    """Step Functions compares names, not classes: a renamed error silently stops being retried."""
    retried = {error for rule in state["Retry"] for error in rule["ErrorEquals"]}

    assert RETRYABLE | LAMBDA_RETRYABLE | WAKING == retried


@pytest.mark.parametrize("name", ["Rollback", "RestoreConnectivity", "ResumeWritesAgain"])
def test_while_both_sides_are_closed_nobody_gives_up_before_people_are_told(name: str) -> None:
    """A recovery tries once more, and then nobody does: what keeps a function from its ledger may last for minutes."""
    retry = embed.states(MACHINES["rotate_key"])[name]["Retry"]
    (rule,) = [rule for rule in retry if "AwsUnavailable" in rule["ErrorEquals"]]
    waits = [
        min(rule["IntervalSeconds"] * rule["BackoffRate"] ** attempt, rule["MaxDelaySeconds"])
        for attempt in range(rule["MaxAttempts"])
    ]

    assert RETRYABLE | {"Lambda.TooManyRequestsException"} <= set(rule["ErrorEquals"])
    assert rule["JitterStrategy"] == "FULL"  # so half of it is what to expect
    assert sum(waits) / 2 >= PAGE_AFTER.total_seconds()
    assert sum(waits) < REPEATED_FOR.total_seconds(), "who waits for it does not hang"


@pytest.mark.parametrize("state", TASK_STATES)
def test_a_function_has_the_time_to_wake_up(state: dict[str, Any]) -> None:
    (rule,) = [rule for rule in state["Retry"] if set(rule["ErrorEquals"]) == WAKING]

    assert rule["BackoffRate"] == 1
    assert rule["IntervalSeconds"] * rule["MaxAttempts"] > WAKING_SECONDS


@pytest.mark.parametrize("state", TASK_STATES)
def test_the_function_ends_before_its_task(state: dict[str, Any]) -> None:
    """A Task that gives up first would go on to Rollback while its function is still at work."""
    assert row_of(state).timeout_seconds + 15 == state["TimeoutSeconds"]


def test_a_rollback_waits_longer_than_any_function_can_run() -> None:
    """It releases the source; a function of the dead execution that was still alive could release the target."""
    of_rotations = [row.timeout_seconds for row in ROWS.values() if row.workflow != "rotate_fleet"]
    assert max(of_rotations) < SLOWEST_FUNCTION.total_seconds()


@pytest.mark.parametrize("state", TASK_STATES)
def test_passes_the_whole_rotation_in_and_out(state: dict[str, Any]) -> None:
    parameters = state["Parameters"]

    assert parameters.get("Payload.$") == "$" or parameters["Payload"] == {f"{REHEARSAL}.$": "$"}
    assert "$.Payload" == state["OutputPath"]


@pytest.mark.parametrize("suffix", ["", "-Snapshot", "-CatchUp"])
def test_every_function_of_the_cutover_and_of_its_rollback_is_rehearsed(suffix: str) -> None:
    """What cannot be reached under the fence costs the write outage; found before it, it costs nothing."""
    states = embed.states(MACHINES["rotate_key"])
    names = list(states)
    proof = states[f"ProveReach{suffix}"]
    outage = names[names.index(proof["Next"]) : names.index(f"ResumeWrites{suffix}") + 1]
    needed = {states[name]["Parameters"]["FunctionName"] for name in outage if states[name]["Type"] == "Task"}
    rehearsed = {
        state["Parameters"]["FunctionName"]
        for branch in proof["Branches"]
        for state in branch["States"].values()
        if state["Parameters"]["Payload"] == {f"{REHEARSAL}.$": "$"}
    }

    assert needed | {"${RollbackFunctionArn}", "${RestoreConnectivityFunctionArn}"} == rehearsed
    assert f"PauseApplicationWrites{suffix}" in (proof["Next"], states[proof["Next"]].get("Default"))


@pytest.mark.parametrize("workflow", WORKFLOWS)
def test_has_a_time_limit_of_its_own(workflow: str) -> None:
    assert MACHINES[workflow]["TimeoutSeconds"] > 0


@pytest.mark.parametrize("workflow", WORKFLOWS)
def test_its_placeholders_are_the_rows_of_the_matrix(workflow: str) -> None:
    """A state without a row cannot run; a row without a state is authority that nobody needs."""
    found = {name for name in embed.placeholders(json.dumps(MACHINES[workflow])) if name.endswith("FunctionArn")}

    assert {row.placeholder for row in ROWS.values() if row.workflow == workflow} == found


@pytest.mark.parametrize("row", ROWS.values(), ids=lambda row: row.package)
def test_every_row_has_its_package(row: Task) -> None:
    assert (embed.STATE_MACHINES.parent / "lambdas" / row.package / "handler.py").is_file()


def test_every_package_has_its_row() -> None:
    """A handler without a row would ship as dead code, with nobody's permissions."""
    packages = {path.parent.name for path in (embed.STATE_MACHINES.parent / "lambdas").glob("*/handler.py")}

    assert {row.package for row in ROWS.values()} == packages


@pytest.mark.parametrize("workflow", WORKFLOWS)
def test_state_names_are_unique_over_the_whole_machine(workflow: str) -> None:
    """The embedder refuses repeated names; this is that refusal, on the machines that ship."""
    embed.definition(workflow)


@pytest.mark.parametrize("workflow", WORKFLOWS)
def test_nothing_retries_or_swallows_everything(workflow: str) -> None:
    """A blanket retry repeats refusals; a catcher of everything is right only where something is done about it."""
    for name, state in embed.states(MACHINES[workflow]).items():
        retried = {error for rule in state.get("Retry", []) for error in rule["ErrorEquals"]}
        assert not retried & {"States.ALL", "States.TaskFailed", "States.Timeout"}, name
