"""Promote must never let go of a committed write."""

from datetime import timedelta
from typing import Any

import pytest

from lambdas.promote.handler import promote
from lambdas.rotation.errors import (
    AwsUnavailable,
    DecisionLost,
    DrainIncomplete,
    EpochSuperseded,
    FenceBroken,
    PromotionFailed,
    TargetMismatch,
)
from tests.fakes import (
    EXECUTION,
    ROTATION_ID,
    SOURCE,
    START,
    TARGET,
    FakeEngine,
    FakePorts,
    fenced_rotation,
    visit,
)


def was_asked(ports: FakePorts) -> bool:
    return any(call.startswith("rds.request_promotion") for call in ports.calls)


def test_journal_then_schedule_then_rds() -> None:
    """Written down first: a rollback must know that RDS may have been asked."""
    ports = FakePorts()
    rotation = fenced_rotation(ports)

    promote(rotation, ports)

    assert ["ledger.record", "recovery.set", f"rds.request_promotion {TARGET}"] == ports.calls
    assert START + timedelta(minutes=35) == ports.recovery.at[ROTATION_ID]
    assert ports.ledger.journal[ROTATION_ID].rotation.promotion is not None


def test_refuses_a_target_one_byte_short_of_the_fence() -> None:
    """Nothing was promoted, so the source is still the truth and rollback is safe."""
    ports = FakePorts()
    rotation = fenced_rotation(ports)
    ports.target_server.stop_replay()
    ports.target_server.own.position -= 1

    with pytest.raises(DrainIncomplete, match=f"{TARGET} has not replayed 0/20"):
        promote(rotation, ports)

    assert [] == ports.calls


@pytest.mark.parametrize("how", ["opened by hand", "a new database"])
def test_refuses_when_the_fence_no_longer_holds(how: str) -> None:
    ports = FakePorts()
    rotation = fenced_rotation(ports)
    ports.source_server.own.open["orders" if how == "opened by hand" else "new"] = True

    with pytest.raises(FenceBroken, match="accepts connections" if how == "opened by hand" else "new was never fenced"):
        promote(rotation, ports)

    assert [] == ports.calls


def test_refuses_a_rotation_that_was_decided() -> None:
    ports = FakePorts()
    rotation = fenced_rotation(ports)
    FakeEngine(ports.source_server).decide(ROTATION_ID, "rollback", ())
    ports.calls.clear()

    with pytest.raises(DecisionLost):
        promote(rotation, ports)

    assert [] == ports.calls


def test_an_older_epoch_never_reaches_rds() -> None:
    ports = FakePorts()
    rotation = fenced_rotation(ports)
    ports.ledger.take_over(rotation, EXECUTION)

    with pytest.raises(EpochSuperseded):
        promote(rotation, ports)

    assert not was_asked(ports)


@pytest.mark.parametrize("looks", [0, 5])
def test_promotes_exactly_once_however_often_it_is_retried(looks: int) -> None:
    """A retry may follow a success nobody heard of; RDS refuses to promote a primary."""
    ports = FakePorts()
    rotation = fenced_rotation(ports)
    ports.fail("rds.request_promotion", AwsUnavailable("answer lost"), when="after")
    with pytest.raises(AwsUnavailable):
        visit(promote, rotation, ports)
    for _ in range(looks):  # RDS goes on meanwhile
        ports.rds.describe_instance(TARGET)

    visit(promote, rotation, ports)

    assert 1 == sum(call.startswith("rds.request_promotion") for call in ports.calls)


def test_asks_again_when_the_request_never_arrived() -> None:
    ports = FakePorts()
    rotation = fenced_rotation(ports)
    ports.fail("rds.request_promotion", AwsUnavailable("throttled"))
    with pytest.raises(AwsUnavailable):
        visit(promote, rotation, ports)

    visit(promote, rotation, ports)

    assert was_asked(ports)


@pytest.mark.parametrize("status", ["available", "backing-up"])
def test_a_refusal_is_reported_as_such(status: str) -> None:
    ports = FakePorts()
    rotation = fenced_rotation(ports)
    ports.rds.alter(TARGET, status=status)
    ports.fail("rds.request_promotion", PromotionFailed("not now"))

    with pytest.raises(PromotionFailed):
        promote(rotation, ports)

    # What RDS may have been asked for has to be settled before the source is opened: not before a backup has ended.
    assert (ports.ledger.journal[ROTATION_ID].rotation.promotion is not None) == (status == "available")


def test_a_request_that_never_arrived_is_not_taken_for_one_that_a_backup_holds_up() -> None:
    """Else applications would wait half an hour for a promotion that nobody has asked for."""
    ports = FakePorts()
    rotation = fenced_rotation(ports)
    ports.fail("rds.request_promotion", AwsUnavailable("the function died"))
    with pytest.raises(AwsUnavailable):
        visit(promote, rotation, ports)
    ports.rds.alter(TARGET, status="backing-up")

    with pytest.raises(PromotionFailed, match="is backing-up"):
        visit(promote, rotation, ports)


@pytest.mark.parametrize("shows", [{"status": "modifying"}, {"status": "rebooting"}, {"replica_of": None}])
def test_a_promotion_that_is_under_way_is_no_refusal(shows: dict[str, Any]) -> None:
    """The answer to the first request got lost, and RDS says ``available`` for a moment longer."""
    ports = FakePorts()
    rotation = fenced_rotation(ports)
    ports.fail("rds.request_promotion", PromotionFailed("it is not in available state but modifying"))
    ports.clock.on_pause = [lambda: None, lambda: ports.rds.alter(TARGET, **shows)]

    promoting = promote(rotation, ports)

    assert promoting.promotion is not None
    assert ports.clock.on_pause == []


@pytest.mark.parametrize("change", ["another instance", "another key", "gone"])
def test_refuses_an_instance_that_only_has_the_name(change: str) -> None:
    ports = FakePorts()
    rotation = fenced_rotation(ports)
    database = ports.rds.instances[TARGET].database
    if change == "gone":
        del ports.rds.instances[TARGET]
    elif change == "another key":
        ports.rds.alter(TARGET, database=database.having(kms_key_arn="other"))
    else:
        ports.rds.alter(TARGET, database=database.having(resource_id="db-other"))

    with pytest.raises(TargetMismatch):
        promote(rotation, ports)

    assert not was_asked(ports)


def test_somebody_else_promoted_it() -> None:
    ports = FakePorts()
    rotation = fenced_rotation(ports)
    ports.rds.alter(TARGET, replica_of=None)

    with pytest.raises(TargetMismatch, match="somebody else"):
        promote(rotation, ports)


def test_a_source_that_is_gone_cannot_be_rotated() -> None:
    ports = FakePorts()
    rotation = fenced_rotation(ports)
    del ports.rds.instances[SOURCE]

    with pytest.raises(PromotionFailed, match="orders is gone"):
        promote(rotation, ports)


@pytest.mark.parametrize("status", ["modifying", "rebooting"])
def test_a_target_that_somebody_else_is_changing_is_not_taken_for_one_that_is_promoted(status: str) -> None:
    """Else applications would wait half an hour for a promotion that nobody has asked for."""
    ports = FakePorts()
    rotation = fenced_rotation(ports)
    ports.rds.alter(TARGET, status=status)
    ports.calls.clear()

    with pytest.raises(PromotionFailed, match=f"is {status}: RDS or somebody"):
        promote(rotation, ports)

    assert ports.calls == []
