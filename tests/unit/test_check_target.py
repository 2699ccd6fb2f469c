"""CheckTarget: the last chance to find out at no cost that the target is not the source's continuation."""

from collections.abc import Callable

import pytest

from lambdas.check_target.handler import check_target
from lambdas.rotation.errors import StateIncomplete, TargetMismatch
from tests.fakes import NEW_KEY, FakePorts, fenced_rotation, promoted_rotation


def test_the_same_cluster_with_everything_in_it() -> None:
    ports = FakePorts()

    rotation = check_target(promoted_rotation(ports), ports)

    assert rotation.target_check is not None
    assert ports.target_server.system_identifier == rotation.target_check.system_identifier
    assert [] == ports.calls


def _drop_database(ports: FakePorts) -> None:
    del ports.target_server.own.open["orders"]


def _add_database(ports: FakePorts) -> None:
    ports.target_server.own.open["stray"] = False


def _drop_role(ports: FakePorts) -> None:
    ports.target_server.own.roles = ("rotator",)


def _forget_marker(ports: FakePorts) -> None:
    ports.target_server.own.markers.clear()


def _go_back(ports: FakePorts) -> None:
    ports.target_server.own.position = 0x1F


def _be_another(ports: FakePorts) -> None:
    ports.target_server.system_identifier = "1"


def _still_replica(ports: FakePorts) -> None:
    ports.target_server.primary = ports.source_server


def _open_target(ports: FakePorts) -> None:
    ports.target_server.own.open["orders"] = True


def _open_source(ports: FakePorts) -> None:
    ports.source_server.own.open["orders"] = True


def _disable_key(ports: FakePorts) -> None:
    ports.kms.disable_key(NEW_KEY)


def _let_key_go(ports: FakePorts) -> None:
    ports.kms.schedule_key_deletion(NEW_KEY, 7)


@pytest.mark.parametrize(
    "spoil, reason",
    [
        (_drop_database, "orders"),
        (_add_database, "databases differ: stray"),
        (_drop_role, "roles differ: app"),
        (_forget_marker, "marker"),
        (_go_back, "0/1F lies before the fence position 0/20"),
        (_be_another, "system identifier 1, not 7"),
        (_still_replica, "still a replica"),
        (_open_target, "fence of the target does not hold"),
        (_open_source, "fence of the source does not hold"),
        (_disable_key, "the new key .* is Disabled"),
        (_let_key_go, "the new key .* is PendingDeletion"),
    ],
)
def test_says_what_differs(spoil: Callable[[FakePorts], None], reason: str) -> None:
    ports = FakePorts()
    rotation = promoted_rotation(ports)
    spoil(ports)

    with pytest.raises(TargetMismatch, match=reason):
        check_target(rotation, ports)


def test_lists_all_differences_at_once() -> None:
    ports = FakePorts()
    rotation = promoted_rotation(ports)
    _drop_role(ports)
    _forget_marker(ports)

    with pytest.raises(TargetMismatch, match=r"marker; .*roles differ"):
        check_target(rotation, ports)


def test_refuses_before_the_promotion_is_complete() -> None:
    ports = FakePorts()

    with pytest.raises(StateIncomplete):
        check_target(fenced_rotation(ports), ports)
