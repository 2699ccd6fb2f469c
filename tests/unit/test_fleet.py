"""A fleet must rotate what asks for it, leave the rest alone with a reason, and fail where somebody has to look."""

import inspect
import json
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from functools import reduce
from pathlib import Path
from typing import Any

import pytest

from infra.config import load
from infra.tasks import permission_matrix
from lambdas.list_opted_in_databases.handler import LISTED_AT_MOST, list_opted_in_databases
from lambdas.notify.handler import CAUSE_LENGTH
from lambdas.recover_rotations.handler import recover_rotations
from lambdas.report_fleet.handler import report_fleet
from lambdas.rotation import errors
from lambdas.rotation.errors import AccessRefused, AwsRefused, AwsUnavailable, FleetIncomplete, RecoveryIncomplete
from lambdas.rotation.names import BASE_NAME_TAG, DECOMMISSION_TAG
from lambdas.rotation.outage import FENCE_MARGIN
from lambdas.rotation.state import Release
from tests.fakes import EXECUTION, OLD_KEY, ROTATION_ID, SOURCE, START, FakePorts, fenced_rotation

ENABLED = {"key-rotation:enabled": "true"}
EVENT = {"scheduled_at": "2027-01-01T00:00:00Z"}


def fleet(**tags: dict[str, str]) -> FakePorts:
    """Databases by name, each with a key that is 90 days old."""
    ports = FakePorts(with_target=False, min_age_days=30)
    ports.kms.keys[OLD_KEY] = replace(ports.kms.keys[OLD_KEY], created_at=START - timedelta(days=90))
    for name, more in tags.items():
        ports.rds.add(name, key_arn=OLD_KEY, tags=ENABLED | more)
    return ports


def names(rows: list[dict[str, Any]]) -> list[str]:
    return [row["identifier"] for row in rows]


def test_lists_what_is_opted_in() -> None:
    ports = fleet(shop={}, pay={})

    listed = list_opted_in_databases(EVENT, ports)

    assert ["shop", "pay"] == names(listed["databases"])
    assert listed["databases"][0]["execution_name"] == "fleet-20270101T000000Z-shop"
    assert listed == list_opted_in_databases(EVENT, ports)


def test_skips_with_a_reason() -> None:
    ports = fleet(old={DECOMMISSION_TAG: "1"}, reader={}, young={"key-rotation:min-age-days": "91"})
    ports.rds.alter("reader", replica_of="old")

    listed = list_opted_in_databases(EVENT, ports)

    assert [] == listed["databases"]
    assert {"old": "left it behind", "reader": "replica", "young": "90 days old"} == {
        row["identifier"]: next(w for w in ("left it behind", "replica", "90 days old") if w in row["reason"])
        for row in listed["skipped"]
    }


def test_a_second_fleet_rotates_only_what_is_left() -> None:
    """The key of what the first one rotated is young."""
    ports = fleet(shop={}, pay={})
    ports.kms.add("arn:aws:kms:eu-central-1:123456789012:key/young")
    database = ports.rds.instances["pay"].database
    ports.rds.alter("pay", database=database.having(kms_key_arn="arn:aws:kms:eu-central-1:123456789012:key/young"))

    assert ["shop"] == names(list_opted_in_databases(EVENT, ports)["databases"])


def test_a_rotated_database_goes_by_its_base_name() -> None:
    ports = fleet(**{"shop-rot-1": {BASE_NAME_TAG: "shop"}, "copy": {BASE_NAME_TAG: "shop"}})
    ports.ledger.lineage["shop"] = ports.rds.instances["shop-rot-1"].database.resource_id

    listed = list_opted_in_databases(EVENT, ports)

    assert [f"fleet-20270101T000000Z-{name}" for name in ("shop", "copy")] == [
        row["execution_name"] for row in listed["databases"]
    ]


def test_two_databases_of_one_name_get_an_execution_each() -> None:
    """The first one was rotated, then somebody has made another one of the old name: neither may be passed over."""
    ports = fleet(**{"shop-rot-1": {BASE_NAME_TAG: "shop"}, "shop": {}})
    ports.ledger.lineage["shop"] = ports.rds.instances["shop-rot-1"].database.resource_id

    listed = list_opted_in_databases(EVENT, ports)["databases"]

    assert 2 == len({row["execution_name"] for row in listed})


def test_a_database_with_a_broken_tag_is_started_and_refused_there() -> None:
    """Skipping it would hide the mistake behind a green fleet."""
    ports = fleet(shop={"key-rotation:min-age-days": "old"})

    assert ["shop"] == names(list_opted_in_databases(EVENT, ports)["databases"])


@pytest.mark.parametrize("error", [AccessRefused("kms:DescribeKey is not allowed"), AwsRefused("no such key")])
def test_a_database_whose_key_cannot_be_seen_is_started_and_refused_there(error: Exception) -> None:
    """One of them must not keep all others from being rotated."""
    ports = fleet(shop={})
    ports.fail("kms.describe_key", error)

    assert ["shop"] == names(list_opted_in_databases(EVENT, ports)["databases"])


def test_a_database_without_a_key_is_not_too_young() -> None:
    ports = fleet(shop={})
    ports.rds.alter("shop", database=ports.rds.instances["shop"].database.having(kms_key_arn=None))
    ports.fail("kms.describe_key", AssertionError("there is no key to ask about"))

    assert ["shop"] == names(list_opted_in_databases(EVENT, ports)["databases"])


def outcome(name: str, error: str | None = None) -> dict[str, Any]:
    return {"database": name} | ({"failure": {"Error": error, "Cause": "why"}} if error else {})


def test_a_fleet_without_failures_succeeds() -> None:
    ports = FakePorts()

    report_fleet({"databases": [outcome("shop")], "skipped": [{"identifier": "pay"}]}, ports)

    ((moment, _, message),) = ports.notifier.sent
    assert ("FleetRotated", ["shop"]) == (moment, message["rotated"])


def test_one_failure_fails_the_fleet_and_names_it() -> None:
    ports = FakePorts()

    with pytest.raises(FleetIncomplete, match="pay: PreflightRefused: why"):
        report_fleet({"databases": [outcome("shop"), outcome("pay", "PreflightRefused")]}, ports)

    ((moment, _, message),) = ports.notifier.sent
    assert ("FleetIncomplete", ["shop"], "pay") == (moment, message["rotated"], message["failed"][0]["database"])


def test_what_another_delivery_of_the_schedule_has_started_is_no_failure() -> None:
    """Whoever started it waits for it, and reports how it ended."""
    ports = FakePorts()

    report_fleet({"databases": [outcome("shop", "StepFunctions.ExecutionAlreadyExistsException")]}, ports)

    ((moment, subject, message),) = ports.notifier.sent
    assert ("FleetRotated", [], ["shop"]) == (moment, message["rotated"], message["started_already"])
    assert "0 rotated, 0 failed" in subject


def test_nobody_opted_in_is_a_failure() -> None:
    """A quarter in which nothing happens and everything is green is how rotations are forgotten."""
    ports = FakePorts()

    with pytest.raises(FleetIncomplete, match="key-rotation:enabled"):
        report_fleet({"databases": [], "skipped": []}, ports)

    assert ["FleetIncomplete"] == [moment for moment, _, _ in ports.notifier.sent]


def as_passed(state: str, data: dict[str, Any]) -> dict[str, Any]:
    """What a Pass state of the fleet's Map makes of a database."""
    machine = json.loads(Path("statemachine/rotate_fleet.asl.json").read_text())

    def filled(given: dict[str, Any]) -> dict[str, Any]:
        made: dict[str, Any] = {}
        for name, value in given.items():
            if isinstance(value, dict):
                made[name] = filled(value)
            elif name.endswith(".$"):
                made[name.removesuffix(".$")] = reduce(lambda part, key: part[key], value.split(".")[1:], data)
            else:
                made[name] = value
        return made

    return filled(machine["States"]["RotateEach"]["ItemProcessor"]["States"][state]["Parameters"])


STEP_FUNCTIONS_BYTES = SNS_BYTES = 262_144
LONGEST_ERROR = max((name for name, one in vars(errors).items() if inspect.isclass(one)), key=len)
REFUSED = {"Error": LONGEST_ERROR, "Cause": "'" * CAUSE_LENGTH}
NOT_STARTED = {
    "Error": "StepFunctions.ExecutionAlreadyExistsException",
    "Cause": "Execution Already Exists: " + "x" * 400,
}


@pytest.mark.parametrize(("state", "failure"), [("NotRotated", REFUSED), ("NotStarted", NOT_STARTED)])
def test_what_a_fleet_keeps_of_a_thousand_databases_fits(state: str, failure: dict[str, str]) -> None:
    """Into its state, whatever becomes of them, and into the message: or nobody would hear of any."""
    ports = fleet(**{f"{number:04}-{'d' * 58}": {} for number in range(LISTED_AT_MOST)})
    listed = list_opted_in_databases(EVENT, ports)
    assert LISTED_AT_MOST == len(listed["databases"])
    assert len(json.dumps(listed)) < STEP_FUNCTIONS_BYTES

    rows = [as_passed(state, {"database": row, "failure": failure}) for row in listed["databases"]]
    ended = listed | {"databases": rows}

    assert len(json.dumps(ended)) < STEP_FUNCTIONS_BYTES - 2_000, "Lambda's answer brings some more"
    try:
        said = json.dumps(report_fleet(ended, ports))
    except FleetIncomplete as incomplete:
        said = str(incomplete)
        assert len(said) < 32_768
    assert rows[0]["database"] in said
    ((_, _, message),) = ports.notifier.sent
    assert len(json.dumps(message, indent=2)) < SNS_BYTES


def test_what_is_skipped_of_a_thousand_databases_fits() -> None:
    name = "d" * 58
    old = {DECOMMISSION_TAG: "1"}
    ports = fleet(**{f"{number:04}-{name}": old if number % 2 else {} for number in range(LISTED_AT_MOST)})
    for row in [one for number, one in enumerate(ports.rds.instances) if number % 2]:
        ports.rds.alter(row, replica_of=name)

    listed = list_opted_in_databases(EVENT, ports)

    assert LISTED_AT_MOST == len(listed["databases"]) + len(listed["skipped"])
    assert len(json.dumps(listed)) < STEP_FUNCTIONS_BYTES


def test_more_than_fit_are_left_for_the_next_fleet_and_the_report_says_so() -> None:
    """What this one rotates is too young for the next one."""
    ports = fleet(**{f"db-{number}": {} for number in range(LISTED_AT_MOST + 7)}, old={DECOMMISSION_TAG: "1"})

    listed = list_opted_in_databases(EVENT, ports)

    assert (LISTED_AT_MOST, []) == (len(listed["databases"]), listed["skipped"])
    assert {"databases": 7, "skipped": 1} == listed["left_out"]
    ended = listed | {"databases": [as_passed("RotatedOne", {"database": row}) for row in listed["databases"]]}
    with pytest.raises(FleetIncomplete, match="7 more take part: start the fleet again"):
        report_fleet(ended, ports)
    ((moment, _, message),) = ports.notifier.sent
    assert ("FleetIncomplete", LISTED_AT_MOST) == (moment, len(message["rotated"]))


def test_a_key_of_many_databases_is_asked_about_once() -> None:
    """Of thousands; each has five minutes to be listed in, with all others."""
    ports = fleet(**{f"db-{number}": {} for number in range(50)})

    assert 50 == len(list_opted_in_databases(EVENT, ports)["databases"])
    assert 1 == ports.asked["kms.describe_key"]


def test_everybody_young_is_not() -> None:
    report_fleet({"databases": [], "skipped": [{"identifier": "pay"}]}, FakePorts())


# -- the hourly sweep --


def test_the_sweep_starts_what_nobody_carries_on() -> None:
    ports = FakePorts()
    fenced_rotation(ports)
    assert recover_rotations(ports) == {"recovered": []}
    ports.workflow.running.clear()

    assert recover_rotations(ports) == {"recovered": [ROTATION_ID]}
    assert ["workflow.start_recovery recover-"] == [
        call[: len("workflow.start_recovery recover-")] for call in ports.calls
    ]


def test_the_sweep_does_not_recover_a_recovery() -> None:
    ports = FakePorts()
    rotation = fenced_rotation(ports)
    ports.ledger.record(rotation.having(recovery=True))
    ports.workflow.running.clear()

    assert recover_rotations(ports) == {"recovered": []}


def test_the_sweep_recovers_what_it_can_and_then_says_what_it_cannot() -> None:
    ports = FakePorts()
    fenced_rotation(ports)
    ports.workflow.running.clear()
    ports.ledger.unreadable.append("rotation#0 of pay: schema 9")

    with pytest.raises(RecoveryIncomplete, match="rotation#0 of pay"):
        recover_rotations(ports)
    assert [call for call in ports.calls if call.startswith("workflow.start_recovery")]


def test_the_sweep_goes_on_where_one_cannot_be_started() -> None:
    ports = FakePorts()
    fenced_rotation(ports)
    ports.workflow.running.clear()
    left = ports.ledger.journal[ROTATION_ID]
    another = left.rotation.having(rotation_id="another", execution_arn=f"{EXECUTION}-2")
    ports.ledger.journal["another"] = replace(left, rotation=another)
    ports.fail("workflow.start_recovery", AwsUnavailable("throttled"))

    with pytest.raises(RecoveryIncomplete, match=f"^({ROTATION_ID}|another): throttled$") as incomplete:
        recover_rotations(ports)
    other = another.execution_arn if ROTATION_ID in str(incomplete.value) else EXECUTION
    assert {other} == ports.workflow.running


def test_what_was_taken_over_since_gets_a_recovery_of_another_name() -> None:
    """Names of executions are used up for 90 days; a plain start that was stopped, too, has to be recovered."""
    ports = FakePorts()
    rotation = fenced_rotation(ports)
    ports.calls.clear()
    for _ in range(2):
        ports.workflow.running.clear()
        recover_rotations(ports)
        rotation = ports.ledger.take_over(rotation, EXECUTION)

    started = [call for call in ports.calls if call.startswith("workflow.start_recovery")]
    assert 2 == len(set(started))


def test_a_recovery_that_took_nothing_over_is_started_again_an_hour_later() -> None:
    """It died in StartRotation: the ledger was not to be reached, say. Nobody else tries, and both sides are closed."""
    ports = FakePorts()
    fenced_rotation(ports)
    for _ in range(2):
        ports.workflow.running.clear()
        assert recover_rotations(ports) == {"recovered": [ROTATION_ID]}
        assert {EXECUTION} == ports.workflow.running
        recover_rotations(ports)  # delivered twice
        ports.clock.advance(3600)

    assert 2 == len(ports.workflow.names)
    assert all(len(name) <= 80 for name in ports.workflow.names)


def test_the_sweep_recovers_what_holds_the_fence_for_too_long() -> None:
    """Its own schedule may have been used up by a recovery that could not begin."""
    ports = FakePorts()
    rotation = fenced_rotation(ports)
    assert recover_rotations(ports) == {"recovered": []}
    ports.clock.advance((rotation.outage_ends_by + FENCE_MARGIN - ports.clock.now()).total_seconds())

    assert recover_rotations(ports) == {"recovered": [ROTATION_ID]}


def many_left(count: int) -> FakePorts:
    """One holds the fence; so many others are in their grace periods; each question takes a second."""
    ports = FakePorts()
    fenced = fenced_rotation(ports)
    released = fenced.having(release=Release(released_at=START, write_outage_seconds=1))
    entry = ports.ledger.journal.pop(ROTATION_ID)
    for number in range(count):
        waiting = released.having(rotation_id=f"{number}", execution_arn=f"{EXECUTION}-{number}")
        ports.ledger.journal[f"{number}"] = replace(entry, rotation=waiting)
    ports.ledger.journal[ROTATION_ID] = entry
    ports.workflow.running.clear()
    is_running = ports.workflow.is_running

    def slowly(execution_arn: str) -> bool:
        ports.clock.advance(1)
        return is_running(execution_arn)

    ports.workflow.is_running = slowly  # type: ignore[method-assign]
    return ports


def test_the_sweep_looks_first_at_what_may_be_closed_and_stops_in_time() -> None:
    """A grace period takes weeks: of hundreds that wait, the one that nobody can write to came last, and never up."""
    ports = many_left(200)
    began = ports.clock.now()

    with pytest.raises(RecoveryIncomplete, match=r"156 of 201 rotations not looked at in time"):
        recover_rotations(ports)

    (sweep,) = [task for task in permission_matrix(load("example")) if task.state_name == "RecoverRotations"]
    assert (ports.clock.now() - began).total_seconds() + 10 < sweep.timeout_seconds
    started = [call for call in ports.calls if call.startswith("workflow.start_recovery")]
    assert f"-{ROTATION_ID}-" in started[0]
    assert 45 == len(started)


def test_what_the_sweep_has_not_looked_at_has_its_turn_another_time() -> None:
    ports = many_left(200)
    for _ in range(72):
        with suppress(RecoveryIncomplete):
            recover_rotations(ports)
        ports.clock.advance(3600)

    assert 201 == len(ports.workflow.running)


def test_the_sweep_leaves_history_alone() -> None:
    ports = FakePorts()
    rotation = fenced_rotation(ports)
    ports.ledger.close(rotation, "rotated")
    ports.workflow.running.discard(EXECUTION)

    assert recover_rotations(ports) == {"recovered": []}
    assert SOURCE == rotation.planned()[0].base_name
