"""CopyAhead: what is made while applications write, that nothing is made of it, and that nothing of it stays."""

import pytest

from lambdas.copy_ahead.handler import PATIENCE, copy_ahead
from lambdas.resume_writes.handler import resume_writes
from lambdas.rotation.errors import AwsUnavailable, SnapshotFailed, UnknownDatabase
from lambdas.rotation.state import PreCopy, Rotation
from tests.fakes import NEW_KEY, OLD_KEY, ROTATION_ID, SOURCE, TARGET, FakePorts, failed, past_grace, visit
from tests.unit import by_snapshot
from tests.unit.by_catch_up import EARLY, EARLY_KEPT
from tests.unit.test_snapshot import CHECKED, KEPT, MADE, any_snapshot, back, prepared


def copied_ahead() -> tuple[FakePorts, Rotation]:
    ports, rotation = prepared()
    for _ in range(3):
        rotation = visit(copy_ahead, rotation, ports)
    assert ahead(rotation).complete
    return ports, rotation


def ahead(rotation: Rotation) -> PreCopy:
    assert rotation.pre_copy is not None
    return rotation.pre_copy


def requests(ports: FakePorts) -> list[str]:
    return [call for call in ports.calls if call.startswith("rds.request")]


def test_a_snapshot_and_its_copy_under_the_new_key_are_asked_for_once() -> None:
    ports, rotation = copied_ahead()

    rotation = visit(copy_ahead, rotation, ports)

    assert requests(ports) == [f"rds.request_snapshot {EARLY}", f"rds.request_snapshot_copy {EARLY_KEPT}"]
    assert {EARLY: OLD_KEY, EARLY_KEPT: NEW_KEY} == {name: one["KmsKeyId"] for name, one in ports.rds.snapshots.items()}
    assert ports.source_server.accepts_applications()


def test_rds_is_waited_for() -> None:
    ports, rotation = prepared()
    rotation = visit(copy_ahead, rotation, ports)
    ports.rds.snapshots[EARLY]["Status"] = "creating"

    rotation = visit(copy_ahead, rotation, ports)

    assert (ahead(rotation).complete, ahead(rotation).look_again_seconds) == (False, 60)
    ports.clock.advance(3601)
    assert ahead(visit(copy_ahead, rotation, ports)).look_again_seconds == 600
    assert requests(ports) == [f"rds.request_snapshot {EARLY}"]


@pytest.mark.parametrize("call", ["rds.request_snapshot", "rds.request_snapshot_copy"])
def test_the_journal_has_it_before_rds_has(call: str) -> None:
    """Else a rollback would not look for what a lost answer was about."""
    ports, rotation = prepared()
    ports.fail(call, AwsUnavailable("lost answer"), when="after")

    with pytest.raises(AwsUnavailable):  # noqa: PT012 - the first or the second visit
        for _ in range(3):
            rotation = visit(copy_ahead, rotation, ports)

    assert ports.ledger.journal[ROTATION_ID].rotation.pre_copy is not None


@pytest.mark.parametrize("name", [EARLY, EARLY_KEPT])
def test_what_rds_gives_up_is_known_before_the_fence(name: str) -> None:
    ports, rotation = prepared()
    with pytest.raises(SnapshotFailed, match=name):  # noqa: PT012 - the second or the third visit
        for _ in range(3):
            rotation = visit(copy_ahead, rotation, ports)
            if name in ports.rds.snapshots:
                ports.rds.snapshots[name]["Status"] = "failed"


def test_it_does_not_wait_for_ever() -> None:
    ports, rotation = prepared()
    rotation = visit(copy_ahead, rotation, ports)
    ports.rds.snapshots[EARLY]["Status"] = "creating"
    ports.clock.advance(PATIENCE.total_seconds())

    with pytest.raises(SnapshotFailed, match="48 hours"):
        visit(copy_ahead, rotation, ports)


def test_a_strangers_snapshot_of_that_name_and_a_source_that_is_gone() -> None:
    ports, rotation = prepared()
    ports.rds.snapshots[EARLY_KEPT] = {**any_snapshot(), "TagList": []}
    with pytest.raises(SnapshotFailed, match=OLD_KEY):
        visit(copy_ahead, rotation, ports)

    ports, rotation = prepared()
    del ports.rds.instances[SOURCE]
    with pytest.raises(UnknownDatabase):
        visit(copy_ahead, rotation, ports)


def test_the_target_is_made_of_what_was_taken_under_the_fence() -> None:
    ports, rotation = copied_ahead()
    ports.source_server.own.rows["orders"].append("written meanwhile")

    by_snapshot.after((ports, rotation), CHECKED, MADE)

    assert "written meanwhile" in ports.rds.servers[TARGET].own.rows["orders"]
    assert "written meanwhile" not in ports.rds.snapshots[EARLY_KEPT]["Catalog"].rows["orders"]
    assert {EARLY, EARLY_KEPT, KEPT, f"{TARGET}-source"} == ports.rds.snapshots.keys()


def test_decommission_removes_both_and_keeps_the_copy_of_the_fenced_source() -> None:
    ports, rotation = by_snapshot.after(copied_ahead(), CHECKED, MADE)
    ports.dns.records["Z1", "db.example.com"] = (ports.rds.instances[TARGET].database.address, 5)
    rotation = past_grace(ports, visit(resume_writes, rotation, ports))

    by_snapshot.decommissioned(ports, rotation)

    assert [KEPT] == list(ports.rds.snapshots)


@pytest.mark.parametrize("visits", [1, 2, 3])
def test_a_rollback_leaves_neither(visits: int) -> None:
    ports, rotation = prepared()
    for _ in range(visits):
        rotation = visit(copy_ahead, rotation, ports)
    ports.clock.advance(80)
    rotation = back(failed(rotation, "SnapshotFailed"), ports)

    by_snapshot.cleaned_up(ports, rotation)

    assert {} == ports.rds.snapshots
