"""TakeNextStrategy must begin anew with nothing of the strategy that AWS refused, or leave the rotation as it is."""

from typing import Any

import pytest

from lambdas.rotation.errors import StateIncomplete
from lambdas.rotation.names import target_identifier
from lambdas.rotation.state import Connectivity, Fence, Key, Preflight, Rotation, Undo
from lambdas.take_next_strategy.handler import take_next_strategy
from tests.fakes import EXECUTION, NEW_KEY, ROTATION_ID, SOURCE, FakePorts, failed, journaled, planned_rotation

SECOND = EXECUTION.replace(":first", ":second")


def refused(ports: FakePorts, **parts: Any) -> Rotation:
    """RDS made no replica under another key, and CleanUp has kept the lock."""
    now = ports.clock.now()
    rotation = planned_rotation(ports, fallback="blue-green")
    undo = Undo(outcome="rolled-back", started_at=now, not_before=now, clean=True)
    left = {
        "new_key": Key(arn=NEW_KEY, manager="CUSTOMER"), "target_identifier": target_identifier(SOURCE, ROTATION_ID),
        "preflight": Preflight(checked_at=now), "connectivity": Connectivity(), "undo": undo,
    }  # fmt: skip
    return journaled(ports, failed(rotation, "ReplicaKeyRefused").having(**left | parts))


def test_begins_anew_with_the_key_that_is_there() -> None:
    ports = FakePorts(with_target=False)
    rotation = refused(ports)

    again = take_next_strategy(rotation, ports)

    plan, _ = again.planned()
    assert (plan.strategy, plan.fallback) == ("blue-green", None)
    assert [one.strategy for one in plan.not_taken] == ["read-replica"]
    assert plan.not_taken[0].reasons[0].startswith("ReplicaKeyRefused: ")
    assert again.new_key == rotation.new_key
    assert ports.ledger.locks[SOURCE].rotation_id == ROTATION_ID
    of_the_first = (again.preflight, again.target_identifier, again.connectivity, again.undo, again.failure)
    assert of_the_first == (None,) * 5


def test_a_second_delivery_changes_nothing() -> None:
    """The state that was passed says that it failed; the journal, that it has begun anew."""
    ports = FakePorts(with_target=False)
    rotation = refused(ports)
    again = take_next_strategy(rotation, ports)

    assert take_next_strategy(again.having(failure=rotation.failure), ports) == again


def test_only_once() -> None:
    ports = FakePorts(with_target=False)
    rotation = refused(ports)
    plan, _ = rotation.planned()
    rotation = journaled(ports, rotation.having(plan=plan.having(fallback=None)))

    assert take_next_strategy(rotation, ports) == rotation


def test_ends_where_another_rotation_has_begun() -> None:
    ports = FakePorts(with_target=False)
    rotation = refused(ports)
    ports.ledger.release_lock(rotation)
    ports.ledger.acquire(rotation.having(rotation_id="other", execution_arn=SECOND))

    ended = take_next_strategy(rotation, ports)

    assert (ended.failure, ended.undo) == (rotation.failure, rotation.undo)
    assert ended.planned()[0].fallback is None
    assert ports.ledger.locks[SOURCE].rotation_id == "other"


@pytest.mark.parametrize("part", ["undo", "connectivity"])
def test_ends_where_something_was_left_over(part: str) -> None:
    """The notification of the end has the command that removes it; a rotation that goes on would not tell."""
    ports = FakePorts(with_target=False)
    rotation = refused(ports)
    found = getattr(rotation, part)
    rotation = journaled(ports, rotation.having(**{part: found.having(leftovers=("aws rds …",))}))

    assert take_next_strategy(rotation, ports).failure == rotation.failure


@pytest.mark.parametrize("part", ["fence", "undo"])
def test_refuses_a_rotation_that_is_further(part: str) -> None:
    ports = FakePorts(with_target=False)
    rotation = refused(ports)
    assert rotation.undo is not None
    further = {
        "fence": Fence(databases=(), requested_at=ports.clock.now()),
        "undo": rotation.undo.having(outcome="decided"),
    }
    rotation = journaled(ports, rotation.having(**{part: further[part]}))

    with pytest.raises(StateIncomplete):
        take_next_strategy(rotation, ports)
