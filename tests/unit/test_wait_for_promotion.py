"""WaitForPromotion believes neither RDS nor the server alone, and neither of them at once."""

from typing import Any

import pytest

from lambdas.rotation.errors import DecisionLost, FenceBroken, PromotionFailed
from lambdas.wait_for_promotion.handler import wait_for_promotion
from tests.fakes import ROTATION_ID, TARGET, FakeEngine, FakePorts, promoting_rotation, visit


def test_a_standalone_primary_twice_in_a_row() -> None:
    ports = FakePorts()
    rotation = promoting_rotation(ports)

    rotation = wait_for_promotion(rotation, ports)

    assert rotation.promotion is not None
    assert rotation.promotion.complete
    assert not ports.target_server.accepts_applications()
    assert ports.clock.monotonic() >= 1


def test_lets_the_state_machine_wait() -> None:
    ports = FakePorts()
    ports.rds.promotion_takes = 100
    rotation = promoting_rotation(ports)

    rotation = visit(wait_for_promotion, rotation, ports)

    assert rotation.promotion is not None
    assert not rotation.promotion.complete
    assert 10 <= ports.clock.monotonic() < 12


def test_one_clean_answer_is_the_one_from_before_the_promotion() -> None:
    ports = FakePorts()
    ports.rds.promotion_takes = 1000
    rotation = promoting_rotation(ports)
    modifying = ports.rds.instances[TARGET]
    ports.rds.alter(TARGET, status="available", replica_of=None, has_status_infos=False)
    ports.clock.on_pause = [lambda: ports.rds.alter(TARGET, status=modifying.status)]

    rotation = wait_for_promotion(rotation, ports)

    assert rotation.promotion is not None
    assert (0, False) == (rotation.promotion.clean_observations, rotation.promotion.complete)


def test_looks_twice_even_when_everything_is_clean_at_once() -> None:
    """RDS reboots the instance that it promotes, and between the two it may look finished."""
    ports = FakePorts()
    ports.rds.promotion_takes = 0
    rotation = promoting_rotation(ports)

    rotation = wait_for_promotion(rotation, ports)

    assert rotation.promotion is not None
    assert (2, True) == (rotation.promotion.clean_observations, rotation.promotion.complete)
    assert 1 <= ports.clock.monotonic()


def test_a_backup_of_the_primary_is_not_waited_for() -> None:
    """RDS may take one as part of the promotion; of a large database it takes longer than the patience here."""
    ports = FakePorts()
    rotation = promoting_rotation(ports)
    for _ in range(5):
        ports.rds.describe_instance(TARGET)
    ports.rds.alter(TARGET, status="backing-up")

    rotation = wait_for_promotion(rotation, ports)

    assert rotation.promotion is not None
    assert (2, True) == (rotation.promotion.clean_observations, rotation.promotion.complete)
    assert not ports.target_server.accepts_applications()


@pytest.mark.parametrize("missing", [{"replica_of": "orders"}, {"has_status_infos": True}])
def test_a_backup_of_what_is_still_a_replica_proves_nothing(missing: dict[str, Any]) -> None:
    ports = FakePorts()
    ports.rds.promotion_takes = 1000
    rotation = promoting_rotation(ports)
    ports.rds.alter(TARGET, **{"status": "backing-up", "replica_of": None, "has_status_infos": False, **missing})

    rotation = wait_for_promotion(rotation, ports)

    assert rotation.promotion is not None
    assert (0, False) == (rotation.promotion.clean_observations, rotation.promotion.complete)


def test_the_server_has_the_last_word() -> None:
    ports = FakePorts()
    ports.rds.promotion_takes = 1000
    rotation = promoting_rotation(ports)
    ports.rds.alter(TARGET, status="available", replica_of=None, has_status_infos=False)

    rotation = wait_for_promotion(rotation, ports)

    assert rotation.promotion is not None
    assert not rotation.promotion.complete


def test_the_reboot_is_not_an_error() -> None:
    ports = FakePorts()
    rotation = promoting_rotation(ports)
    ports.target_server.reachable = False

    def rebooted() -> None:
        ports.target_server.reachable = True

    ports.clock.on_pause = [lambda: None] * 6 + [rebooted]

    rotation = wait_for_promotion(rotation, ports)

    assert rotation.promotion is not None
    assert rotation.promotion.complete


def test_ends_sessions_that_were_reading_from_the_replica() -> None:
    """The fence arrives by replication and ends no session; after the promotion such a session could write."""
    ports = FakePorts()

    wait_for_promotion(promoting_rotation(ports), ports)

    assert f"engine.raise_fence {TARGET}" in ports.calls


def test_a_late_visit_does_not_close_a_released_target() -> None:
    ports = FakePorts()
    rotation = promoting_rotation(ports)
    for _ in range(5):
        ports.rds.describe_instance(TARGET)
    assert rotation.fence is not None
    FakeEngine(ports.target_server).decide(ROTATION_ID, "release", rotation.fence.databases)

    with pytest.raises(DecisionLost):
        wait_for_promotion(rotation, ports)

    assert ports.target_server.accepts_applications()


def test_refuses_a_target_that_was_not_born_fenced() -> None:
    ports = FakePorts()
    rotation = promoting_rotation(ports)
    ports.source_server.own.open["stray"] = True

    with pytest.raises(FenceBroken, match="stray was never fenced"):
        wait_for_promotion(rotation, ports)


def test_thirty_minutes_are_enough() -> None:
    ports = FakePorts()
    ports.rds.promotion_takes = 1000
    rotation = promoting_rotation(ports)
    ports.clock.advance(30 * 60)

    with pytest.raises(PromotionFailed, match="30 minutes"):
        wait_for_promotion(rotation, ports)


def test_a_target_that_is_gone() -> None:
    ports = FakePorts()
    rotation = promoting_rotation(ports)
    del ports.rds.instances[TARGET]

    with pytest.raises(PromotionFailed, match="gone"):
        wait_for_promotion(rotation, ports)


@pytest.mark.parametrize(
    "status",
    [
        "failed",
        "storage-full",
        "inaccessible-encryption-credentials-recoverable",
        "insufficient-capacity",
        "deleting",
    ],
)
def test_what_rds_leaves_to_its_owner_is_not_waited_for(status: str) -> None:
    """Applications stand still meanwhile: thirty minutes of hope would be an outage of thirty minutes."""
    ports = FakePorts()
    ports.rds.promotion_takes = 1000
    rotation = promoting_rotation(ports)
    ports.rds.alter(TARGET, status=status)

    with pytest.raises(PromotionFailed, match=f"is {status}"):
        wait_for_promotion(rotation, ports)

    assert ports.clock.monotonic() < 1


def test_a_retry_after_the_end_changes_nothing() -> None:
    ports = FakePorts()
    rotation = visit(wait_for_promotion, promoting_rotation(ports), ports)
    ports.calls.clear()

    assert wait_for_promotion(rotation, ports) == rotation
    assert [] == ports.calls
