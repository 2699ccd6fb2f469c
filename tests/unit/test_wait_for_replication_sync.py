"""WaitForReplicationSync lets nothing pass that would only be found out inside the write outage."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from lambdas.rotation.errors import SettingsNotCarried, SyncIncomplete, WrongKey
from lambdas.rotation.names import CONTROL_DATABASE
from lambdas.rotation.readiness import _is_near
from lambdas.rotation.state import Rotation
from lambdas.rotation.step import metrics
from lambdas.wait_for_replication_sync.handler import wait_for_replication_sync
from tests.fakes import OLD_KEY, SOURCE, TARGET, FakePorts, replicating_rotation, visit


def observed(rotation: Rotation, ports: FakePorts, times: int = 1) -> Rotation:
    """So many observations, half a minute apart."""
    for _ in range(times):
        rotation = visit(wait_for_replication_sync, rotation, ports)
        ports.clock.advance(30)
    return rotation


def waiting_for(rotation: Rotation) -> str:
    assert rotation.sync is not None
    assert not rotation.sync.ready
    return "; ".join(rotation.sync.waiting_for)


def ready_world() -> tuple[FakePorts, Rotation]:
    ports = FakePorts()
    rotation = replicating_rotation(ports)
    ports.clock.advance(300)  # the old TTL
    return ports, rotation


def test_ready_after_three_steady_observations() -> None:
    """One good sample of the lag says nothing about the next minute."""
    ports, rotation = ready_world()

    rotation = observed(rotation, ports, 2)
    assert "2 of 3" in waiting_for(rotation)
    rotation = observed(rotation, ports)

    assert rotation.sync is not None
    assert rotation.sync.ready
    assert rotation.target == ports.rds.instances[TARGET].database


def test_a_lag_in_between_starts_the_count_again() -> None:
    ports, rotation = ready_world()
    rotation = observed(rotation, ports, 2)
    ports.target_server.stop_replay()
    ports.source_server.write()
    rotation = observed(rotation, ports)
    ports.target_server.continue_replay()

    rotation = observed(rotation, ports)

    assert "1 of 3" in waiting_for(rotation)


def test_each_source_has_a_lag_of_its_own() -> None:
    """Of several rotations the alarm has to see the one that lags, and to say which."""
    ports, rotation = ready_world()

    observed(rotation, ports)

    assert [0.0] == metrics.metric_set["ReplicationLagBytes"]["Value"]
    assert metrics.provider.dimension_set["source"] == SOURCE


def test_an_unknown_lag_is_not_measured_as_none() -> None:
    """A replica measures what it has received; what it does not receive is no lag of 0 bytes."""
    ports, rotation = ready_world()
    ports.rds.alter(TARGET, replication_normal=False)

    observed(rotation, ports)

    assert {} == metrics.metric_set


def test_expects_the_position_of_the_observation_before() -> None:
    """What a replica says about its own lag cannot show that its stream has stopped."""
    ports, rotation = ready_world()
    rotation = observed(rotation, ports)
    ports.target_server.stop_replay()
    ports.target_server.own.markers.add(f"{rotation.rotation_id}-sync")
    ports.target_server.own.position = 0
    ports.target_server.boasts = True

    rotation = observed(rotation, ports)

    assert "to replay 0/" in waiting_for(rotation)


@pytest.mark.parametrize(
    "facts, expected",
    [
        ({"status": "creating"}, "it is creating"),
        ({"backup_retention_days": 0}, "backups of the target"),
        ({"replication_normal": False}, "replication to stream"),
        ({"raw": {"PreferredBackupWindow": "00:30-01:00"}}, "backup window"),
    ],
)
def test_waits_for(facts: dict[str, Any], expected: str) -> None:
    ports, rotation = ready_world()
    ports.rds.alter(TARGET, **facts)

    rotation = observed(rotation, ports)

    assert expected in waiting_for(rotation)


def test_waits_for_the_first_backup() -> None:
    """A target without a backup would be promoted into a gap of point-in-time recovery."""
    ports, rotation = ready_world()
    ports.rds.backups.clear()

    assert "first backup" in waiting_for(observed(rotation, ports))


def test_waits_until_resolvers_have_forgotten_the_old_ttl() -> None:
    ports = FakePorts()
    rotation = replicating_rotation(ports)

    assert "TTL of db.example.com" in waiting_for(observed(rotation, ports))


def test_repairs_a_setting_and_comes_again() -> None:
    ports, rotation = ready_world()
    ports.rds.differences = {"MultiAZ": (True, False)}

    rotation = observed(rotation, ports)

    assert "MultiAZ" in waiting_for(rotation)
    assert "rds.request_setting_repair MultiAZ" in ports.calls
    assert "MultiAZ" not in waiting_for(observed(rotation, ports))


def test_a_setting_that_cannot_be_repaired_ends_the_rotation_before_any_outage() -> None:
    ports, rotation = ready_world()
    ports.rds.differences = {"StorageType": ("io2", "gp3")}
    ports.rds.unrepairable = ["StorageType"]

    with pytest.raises(SettingsNotCarried, match="StorageType: io2 became gp3"):
        wait_for_replication_sync(rotation, ports)


def test_the_wrong_key_is_seen_while_the_target_is_still_being_made() -> None:
    ports, rotation = ready_world()
    database = ports.rds.instances[TARGET].database
    ports.rds.alter(TARGET, status="creating", database=database.having(kms_key_arn=OLD_KEY))

    with pytest.raises(WrongKey, match="key/old"):
        wait_for_replication_sync(rotation, ports)


@pytest.mark.parametrize("status", ["failed", "incompatible-network", "storage-full"])
def test_does_not_wait_a_day_for_a_target_that_failed(status: str) -> None:
    ports, rotation = ready_world()
    ports.rds.alter(TARGET, status=status)

    with pytest.raises(SyncIncomplete, match=status):
        wait_for_replication_sync(rotation, ports)


def test_somebody_else_promoted_the_target() -> None:
    ports, rotation = ready_world()
    ports.rds.alter(TARGET, replica_of=None)

    with pytest.raises(SyncIncomplete, match="promoted"):
        wait_for_replication_sync(rotation, ports)


def test_gives_up_after_a_day_and_says_what_was_missing() -> None:
    ports, rotation = ready_world()
    ports.rds.alter(TARGET, status="creating")
    rotation = observed(rotation, ports)
    ports.clock.advance(timedelta(hours=24).total_seconds())

    with pytest.raises(SyncIncomplete, match="it is creating"):
        wait_for_replication_sync(rotation, ports)


def test_makes_the_control_database_and_waits_until_the_target_shows_it() -> None:
    ports, rotation = ready_world()
    del ports.source_server.own.open[CONTROL_DATABASE]
    ports.target_server.stop_replay()

    rotation = observed(rotation, ports)

    assert "engine.ensure_control_database orders" in ports.calls
    assert "replication to stream" in waiting_for(rotation)


def test_remembers_every_database_that_a_superuser_was_seen_in() -> None:
    """The kind of a fence is chosen before it is raised, so one look in the last second would not do."""
    ports, rotation = ready_world()
    ports.source_server.superuser_databases = ("orders",)
    rotation = observed(rotation, ports)
    ports.source_server.superuser_databases = ()

    rotation = observed(rotation, ports)

    assert rotation.sync is not None
    assert ("orders",) == rotation.sync.superuser_databases


@pytest.mark.parametrize(
    "window, near",
    [
        ("12:00-12:30", False),
        ("00:10-00:40", True),
        ("23:00-23:59", False),
        ("23:40-00:10", True),
        ("00:00-00:05", True),
    ],
)
def test_backup_window_around_midnight(window: str, near: bool) -> None:
    assert near == _is_near(window, datetime(2027, 1, 1, 0, 4, tzinfo=UTC))
