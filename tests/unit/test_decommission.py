"""Nothing is deleted before its safety copy is available, nor without the right to, found anew at every visit."""

from collections.abc import Callable
from typing import Any

import pytest

from lambdas.decommission.handler import decommission
from lambdas.rotation.errors import AwsUnavailable, RetirementRefused, SnapshotFailed
from lambdas.rotation.names import CONTROL_DATABASE, DECOMMISSION_TAG, our_tags
from lambdas.rotation.state import EndpointSecret, Release, Rotation, Verification
from tests.fakes import (
    NEW_KEY,
    OLD_KEY,
    ROTATION_ID,
    SOURCE,
    TARGET,
    Catalog,
    FakeEngine,
    FakePorts,
    journaled,
    snapshot,
    switched_rotation,
)

RECORD = ("Z1", "db.example.com")
TEMPORARY, KEPT = f"{TARGET}-source", f"{TARGET}-kept"


def after_grace() -> tuple[FakePorts, Rotation]:
    ports = FakePorts()
    rotation = switched_rotation(ports)
    assert rotation.fence is not None
    FakeEngine(ports.target_server).decide(ROTATION_ID, "release", rotation.fence.databases)
    ports.dns.records[RECORD] = (ports.rds.instances[TARGET].database.address, 5)
    ports.rds.alter(SOURCE, tags={DECOMMISSION_TAG: ROTATION_ID})
    ports.ledger.lineage[SOURCE] = ports.rds.instances[TARGET].database.resource_id
    now = ports.clock.now()
    rotation = rotation.having(
        release=Release(released_at=now, write_outage_seconds=2.5),
        verification=Verification(complete=True, started_at=now, observed_at=now),
        grace_ends_at=now,
    )
    return ports, journaled(ports, rotation)


def to_the_end(ports: FakePorts, rotation: Rotation, visits: int = 20) -> Rotation:
    for _ in range(visits):
        rotation = decommission(rotation, ports)
        ports.ledger.record(rotation)
        if rotation.decommission is not None and rotation.decommission.complete:
            return rotation
        ports.clock.advance(60)
    raise AssertionError(f"not complete: {rotation.decommission}")


def deeds(ports: FakePorts) -> list[str]:
    return [call for call in ports.calls if call != "ledger.record"]


def test_copies_then_deletes_then_frees_the_lock() -> None:
    ports, rotation = after_grace()
    ports.rds.alter(SOURCE, deletion_protection=True)

    to_the_end(ports, rotation)

    assert deeds(ports) == [
        f"rds.request_snapshot {TEMPORARY}",
        f"rds.request_snapshot_copy {KEPT}",
        f"rds.request_snapshot_deletion {TEMPORARY}",
        f"rds.disable_deletion_protection {SOURCE}",
        f"rds.request_instance_deletion {SOURCE} keeping backups",
        f"engine.drop_control_database {TARGET}",
        "ledger.release_lock",
    ]
    assert set(ports.rds.snapshots) == {KEPT}
    assert ports.rds.snapshots[KEPT]["KmsKeyId"] == NEW_KEY
    assert SOURCE not in ports.rds.instances
    assert CONTROL_DATABASE not in ports.target_server.own.open
    assert ports.ledger.locks == {}


@pytest.mark.parametrize("call", ["request_snapshot", "request_snapshot_copy", "request_instance_deletion"])
def test_a_lost_answer_is_found_out_at_the_next_visit(call: str) -> None:
    ports, rotation = after_grace()
    ports.fail(f"rds.{call}", AwsUnavailable("lost answer"), when="after")

    with pytest.raises(AwsUnavailable):
        to_the_end(ports, rotation)
    to_the_end(ports, ports.ledger.current(rotation))

    assert 1 == sum(one.startswith(f"rds.{call} ") for one in ports.calls)


def _nameless(ports: FakePorts) -> None:
    del ports.dns.records[RECORD]


def _named(ports: FakePorts) -> None:
    ports.dns.records[RECORD] = (ports.rds.instances[SOURCE].database.address, 5)


def _unmarked(ports: FakePorts) -> None:
    ports.rds.alter(SOURCE, tags={})


def _of_another(ports: FakePorts) -> None:
    ports.rds.alter(SOURCE, tags={DECOMMISSION_TAG: "another"})


def _ledger_leads_back(ports: FakePorts) -> None:
    ports.ledger.lineage[SOURCE] = ports.rds.instances[SOURCE].database.resource_id


def _successor_gone(ports: FakePorts) -> None:
    del ports.rds.instances[TARGET]


def _has_replicas(ports: FakePorts) -> None:
    ports.rds.alter(SOURCE, raw={"ReadReplicaDBInstanceIdentifiers": ["reports"]})


def _key_disabled(ports: FakePorts) -> None:
    ports.kms.disable_key(NEW_KEY)


def _key_going(ports: FakePorts) -> None:
    ports.kms.schedule_key_deletion(NEW_KEY, 7)


@pytest.mark.parametrize(
    "wrong",
    [
        _nameless, _named, _unmarked, _of_another, _ledger_leads_back, _successor_gone, _has_replicas, _key_disabled,
        _key_going,
    ],
)  # fmt: skip
@pytest.mark.parametrize("visits", [0, 2, 5])
def test_deletes_nothing_without_the_right_to(wrong: Callable[[FakePorts], None], visits: int) -> None:
    """The facts may change between any two visits."""
    ports, rotation = after_grace()
    for _ in range(visits):
        rotation = decommission(rotation, ports)
    wrong(ports)
    ports.calls.clear()

    with pytest.raises(RetirementRefused):
        decommission(rotation, ports)

    assert ports.calls == []
    assert SOURCE in ports.rds.instances


def test_the_grace_period_counts() -> None:
    ports, rotation = after_grace()
    assert rotation.grace_ends_at is not None
    ports.clock.advance(-1)

    with pytest.raises(RetirementRefused, match="grace"):
        decommission(rotation, ports)


def test_an_unverified_cutover_does_not_count() -> None:
    ports, rotation = after_grace()

    with pytest.raises(RetirementRefused, match="verified"):
        decommission(rotation.having(verification=None), ports)


def test_a_secret_that_leads_back_counts() -> None:
    ports, rotation = after_grace()
    secret = EndpointSecret(arn="arn:s", version_id="v", host=ports.rds.instances[SOURCE].database.address)
    ports.secrets.endpoints["arn:s"] = secret
    assert rotation.connectivity is not None
    seen: Any = rotation.connectivity.having(secret=secret)

    with pytest.raises(RetirementRefused, match="arn:s"):
        decommission(rotation.having(connectivity=seen), ports)


def test_a_later_target_is_as_good_a_successor() -> None:
    """The next quarter's rotation came before this source was removed."""
    ports, rotation = after_grace()
    later = ports.rds.add("orders-rot-later", key_arn=NEW_KEY)
    ports.ledger.lineage[SOURCE] = later.database.resource_id
    ports.dns.records[RECORD] = (later.database.address, 5)

    to_the_end(ports, rotation)

    assert SOURCE not in ports.rds.instances


def test_a_copy_under_the_wrong_key_stops_everything() -> None:
    ports, rotation = after_grace()
    ports.rds.snapshots[KEPT] = {"Status": "available", "KmsKeyId": OLD_KEY}

    with pytest.raises(SnapshotFailed, match="not under the new key"):
        to_the_end(ports, rotation)

    assert SOURCE in ports.rds.instances


def test_a_copy_that_is_not_available_is_waited_for() -> None:
    ports, rotation = after_grace()
    for _ in range(3):
        rotation = decommission(rotation, ports)
    ports.rds.snapshots[KEPT]["Status"] = "copying"
    ports.fail("rds.request_snapshot_copy", AssertionError("asked twice"), when="before")
    ports.rds.request_snapshot_copy = lambda *_: None  # type: ignore[method-assign]  # the adapter adopts its own

    rotation = decommission(rotation, ports)

    assert rotation.decommission is not None
    assert rotation.decommission.stage == "copy"
    assert SOURCE in ports.rds.instances


def test_a_failed_copy_is_told() -> None:
    ports, rotation = after_grace()
    for _ in range(3):
        rotation = decommission(rotation, ports)
    ports.rds.snapshots[KEPT]["Status"] = "failed"

    with pytest.raises(SnapshotFailed, match="failed"):
        decommission(rotation, ports)


def test_a_source_that_is_gone_already_is_fine() -> None:
    ports, rotation = after_grace()
    del ports.rds.instances[SOURCE]

    to_the_end(ports, rotation)

    assert ports.ledger.locks == {}


def test_repeating_the_end_changes_nothing() -> None:
    ports, rotation = after_grace()
    done = to_the_end(ports, rotation)
    ports.calls.clear()

    assert done == decommission(done, ports)
    assert ports.calls == []


def test_it_does_not_try_for_ever() -> None:
    ports, rotation = after_grace()
    rotation = decommission(rotation, ports)
    ports.clock.advance(8 * 24 * 3600)

    with pytest.raises(RetirementRefused, match="7 days"):
        decommission(rotation, ports)


def test_what_an_earlier_rotation_kept_goes_under_the_new_key_before_it_goes() -> None:
    """The first quarter's safety copy is under the key that the second quarter retires."""
    ports, rotation = after_grace()
    earlier = "orders-rot-00000000-kept"
    ports.rds.snapshots[earlier] = _kept(earlier, OLD_KEY, "orders")
    ports.rds.snapshots["billing-rot-1-kept"] = _kept("billing-rot-1-kept", OLD_KEY, "billing")
    ports.rds.snapshots["theirs"] = _kept("theirs", OLD_KEY, None)

    to_the_end(ports, rotation)

    rekeyed = f"{earlier}-rekeyed-{ROTATION_ID}"
    assert NEW_KEY == ports.rds.snapshots[rekeyed]["KmsKeyId"]
    assert earlier not in ports.rds.snapshots
    assert {"billing-rot-1-kept", "theirs"} <= ports.rds.snapshots.keys(), "not this database's, not ours"
    copied, deleted = f"rds.request_snapshot_copy {rekeyed}", f"rds.request_snapshot_deletion {earlier}"
    assert deeds(ports).index(copied) < deeds(ports).index(deleted)


def test_an_earlier_copy_is_not_deleted_for_one_under_the_wrong_key() -> None:
    ports, rotation = after_grace()
    earlier = "orders-rot-00000000-kept"
    rekeyed = f"{earlier}-rekeyed-{ROTATION_ID}"
    ports.rds.snapshots[earlier] = _kept(earlier, OLD_KEY, "orders")
    ports.rds.snapshots[rekeyed] = _kept(rekeyed, "arn:another", "orders")

    with pytest.raises(SnapshotFailed, match="arn:another"):
        to_the_end(ports, rotation)

    assert earlier in ports.rds.snapshots


def _kept(name: str, key_arn: str, base_name: str | None) -> dict[str, Any]:
    return snapshot(name, key_arn, {} if base_name is None else our_tags(base_name, "00000000"), Catalog())


def test_looks_less_often_after_an_hour() -> None:
    """A week of looking every minute would fill the execution's history."""
    ports, rotation = after_grace()
    rotation = decommission(rotation, ports)
    assert rotation.decommission is not None
    assert 60 == rotation.decommission.look_again_seconds
    ports.clock.advance(3700)

    rotation = decommission(rotation, ports)

    assert rotation.decommission is not None
    assert 600 == rotation.decommission.look_again_seconds
