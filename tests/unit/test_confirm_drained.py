"""ConfirmDrained: the position and the marker, or nothing."""

from unittest.mock import Mock

import pytest

from lambdas.confirm_drained.handler import POLL_SECONDS, confirm_drained
from lambdas.rotation.errors import DrainIncomplete
from tests.fakes import ROTATION_ID, FakePorts, fenced_rotation


def test_complete_when_position_and_marker_have_arrived() -> None:
    ports = FakePorts()

    rotation = confirm_drained(fenced_rotation(ports), ports)

    assert rotation.drain is not None
    assert rotation.drain.complete
    assert [] == ports.calls


@pytest.mark.parametrize("missing", ["position", "marker"])
def test_one_without_the_other_is_not_enough(missing: str) -> None:
    ports = FakePorts()
    rotation = fenced_rotation(ports)
    ports.target_server.stop_replay()
    if missing == "position":
        ports.target_server.own.position -= 1
    else:
        ports.target_server.own.markers.clear()

    rotation = confirm_drained(rotation, ports)

    assert rotation.drain is not None
    assert not rotation.drain.complete


def test_looks_for_ten_seconds_and_no_longer() -> None:
    """The function's timeout is near; the state machine waits better than a function does."""
    ports = FakePorts()
    rotation = fenced_rotation(ports)
    ports.target_server.stop_replay()
    ports.target_server.own.position -= 1

    confirm_drained(rotation, ports)

    assert POLL_SECONDS <= ports.clock.monotonic() < POLL_SECONDS + 1


def test_sees_it_arrive_while_looking() -> None:
    ports = FakePorts()
    rotation = fenced_rotation(ports)
    ports.target_server.stop_replay()
    ports.target_server.own.position -= 1
    ports.clock.on_pause = [lambda: None, ports.target_server.continue_replay]

    rotation = confirm_drained(rotation, ports)

    assert rotation.drain is not None
    assert rotation.drain.complete
    assert ports.clock.monotonic() < 1


def test_to_look_again_takes_no_other_login(monkeypatch: pytest.MonkeyPatch) -> None:
    """A login is a secret read and a TLS handshake, and applications are waiting."""
    ports = FakePorts()
    rotation = fenced_rotation(ports)
    ports.target_server.stop_replay()
    ports.target_server.own.position -= 1
    engine = Mock(side_effect=ports.engine)
    monkeypatch.setattr(ports, "engine", engine)

    confirm_drained(rotation, ports)

    engine.assert_called_once()


def test_the_budget_counts_from_the_request_of_the_fence() -> None:
    ports = FakePorts()
    rotation = fenced_rotation(ports, write_outage_budget_seconds=5)
    ports.target_server.stop_replay()
    ports.target_server.own.position -= 1

    with pytest.raises(DrainIncomplete, match="has replayed 0/1F, not 0/20, within 5 s"):
        confirm_drained(rotation, ports)

    assert ports.clock.monotonic() < 6
    assert ROTATION_ID not in ports.source_server.own.decisions
