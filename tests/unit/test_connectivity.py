"""Applications must be led to one database, and back, without ever overwriting somebody else's change."""

import pytest

from lambdas.prepare_connectivity.handler import prepare_connectivity
from lambdas.restore_connectivity.handler import restore_connectivity
from lambdas.rotation.errors import AwsUnavailable, ConnectivityChanged, StateIncomplete
from lambdas.rotation.state import EndpointSecret, Rotation
from lambdas.update_connectivity.handler import update_connectivity
from tests.fakes import SOURCE, TARGET, FakePorts, planned_rotation, promoted_rotation, replicating_rotation

RECORD = ("Z1", "db.example.com")
SECRET = "arn:secret"


def led_to(ports: FakePorts, identifier: str, ttl_seconds: int) -> tuple[str, int]:
    return ports.rds.instances[identifier].database.address, ttl_seconds


def world(*, ttl_seconds: int = 300) -> FakePorts:
    ports = FakePorts()
    ports.dns.records[RECORD] = led_to(ports, SOURCE, ttl_seconds)
    address = ports.rds.instances[SOURCE].database.address
    ports.secrets.endpoints[SECRET] = EndpointSecret(arn=SECRET, version_id="v1", host=address, port=5432)
    return ports


def prepared(ports: FakePorts, **plan: object) -> Rotation:
    return prepare_connectivity(planned_rotation(ports, **plan), ports)


def test_writes_down_before_it_lowers() -> None:
    """Rollback restores from the journal; a TTL that was lowered before it was written down would be lost."""
    ports = world()

    rotation = prepared(ports)

    assert ["ledger.record", f"dns.write_record {RECORD[1]} {led_to(ports, SOURCE, 5)[0]} 5"] == ports.calls
    assert rotation.connectivity is not None
    assert rotation.connectivity.record is not None
    assert (300, 5) == (rotation.connectivity.record.ttl_seconds, rotation.connectivity.record.lowered_ttl_seconds)


def test_a_retry_never_takes_the_lowered_ttl_for_the_original() -> None:
    ports = world()
    rotation = planned_rotation(ports)
    ports.fail("dns.write_record", AwsUnavailable("lost answer"), when="after")
    with pytest.raises(AwsUnavailable):
        prepare_connectivity(rotation, ports)

    again = prepare_connectivity(ports.ledger.current(rotation), ports)

    assert again.connectivity is not None
    assert again.connectivity.record is not None
    assert again.connectivity.record.ttl_seconds == 300
    assert ports.dns.records[RECORD] == led_to(ports, SOURCE, 5)


def test_a_ttl_that_is_low_already_is_left_alone() -> None:
    ports = world(ttl_seconds=3)

    prepared(ports)

    assert ["ledger.record"] == ports.calls
    assert ports.dns.records[RECORD] == led_to(ports, SOURCE, 3)


def test_refuses_a_record_that_leads_elsewhere() -> None:
    ports = world()
    ports.dns.records[RECORD] = ("elsewhere.example.com", 60)

    with pytest.raises(ConnectivityChanged, match="elsewhere"):
        prepared(ports)


def test_refuses_a_secret_that_leads_elsewhere() -> None:
    ports = world()
    ports.secrets.endpoints[SECRET] = ports.secrets.endpoints[SECRET].having(host="elsewhere")

    with pytest.raises(ConnectivityChanged, match="elsewhere"):
        prepared(ports, connectivity=("secret",), endpoint_secret=SECRET)


def switched(ports: FakePorts) -> Rotation:
    rotation = promoted_rotation(ports)
    assert rotation.connectivity is not None
    seen = rotation.connectivity.having(secret=ports.secrets.endpoints[SECRET])
    ports.dns.records[RECORD] = led_to(ports, SOURCE, 5)
    return update_connectivity(rotation.having(connectivity=seen), ports)


def test_leads_applications_to_the_target() -> None:
    ports = world()

    rotation = switched(ports)

    assert ports.dns.records[RECORD] == led_to(ports, TARGET, 5)
    assert ports.secrets.endpoints[SECRET].host == led_to(ports, TARGET, 5)[0]
    assert ports.calls[0] == "ledger.record"
    assert rotation.connectivity is not None
    assert rotation.connectivity.change_id == "change-1"


def test_a_repeated_switch_is_one_switch() -> None:
    ports = world()
    rotation = switched(ports)

    assert rotation == update_connectivity(rotation, ports)


def test_does_not_overwrite_somebody_elses_change() -> None:
    ports = world()
    rotation = promoted_rotation(ports)
    ports.dns.records[RECORD] = ("maintenance.example.com", 5)

    with pytest.raises(ConnectivityChanged):
        update_connectivity(rotation, ports)

    assert ports.dns.records[RECORD] == ("maintenance.example.com", 5)


def test_needs_what_was_written_down() -> None:
    ports = world()

    with pytest.raises(StateIncomplete):
        update_connectivity(promoted_rotation(ports).having(connectivity=None), ports)


def test_restores_name_secret_and_ttl() -> None:
    ports = world()

    restored = restore_connectivity(switched(ports), ports)

    assert ports.dns.records[RECORD] == led_to(ports, SOURCE, 300)
    assert ports.secrets.endpoints[SECRET].host == led_to(ports, SOURCE, 0)[0]
    assert restored.connectivity is not None
    assert restored.connectivity.restored_at is not None


def test_restores_the_ttl_when_only_that_was_changed() -> None:
    ports = world()
    rotation = replicating_rotation(ports)
    ports.dns.records[RECORD] = led_to(ports, SOURCE, 5)

    restore_connectivity(rotation, ports)

    assert ports.dns.records[RECORD] == led_to(ports, SOURCE, 300)


def test_a_second_restore_does_nothing() -> None:
    ports = world()
    restored = restore_connectivity(switched(ports), ports)
    ports.calls.clear()

    assert restored == restore_connectivity(restored, ports)
    assert ports.calls == []


def test_leaves_alone_what_somebody_else_changed_by_now() -> None:
    """A rollback must open the source all the same."""
    ports = world()
    rotation = switched(ports)
    ports.dns.records[RECORD] = ("maintenance.example.com", 60)

    restored = restore_connectivity(rotation, ports)

    assert ports.dns.records[RECORD] == ("maintenance.example.com", 60)
    assert restored.connectivity is not None
    assert restored.connectivity.restored_at is not None


def test_nothing_written_down_nothing_to_restore() -> None:
    ports = world()
    rotation = planned_rotation(ports)

    assert rotation == restore_connectivity(rotation, ports)
