"""CleanUp removes what the rotation made, nothing else, and says what it could not remove."""

from dataclasses import replace

import pytest

from lambdas.clean_up.handler import _END_CAPTURE, clean_up
from lambdas.rollback.handler import rollback
from lambdas.rotation.engines import CATCHING_UP
from lambdas.rotation.errors import AccessRefused, LoginRefused, StateIncomplete
from lambdas.rotation.names import CONTROL_DATABASE
from lambdas.rotation.state import Rotation
from tests.fakes import (
    ROTATION_ID,
    SOURCE,
    TARGET,
    FakePorts,
    failed,
    fenced_rotation,
    journaled,
    planned_rotation,
    rolled_back,
    visit,
)


def cleaned(rotation: Rotation, ports: FakePorts, visits: int = 20) -> Rotation:
    for _ in range(visits):
        rotation = visit(clean_up, rotation, ports)
        assert rotation.undo is not None
        if rotation.undo.clean:
            break
        ports.clock.advance(30)
    return rotation


def test_everything_that_the_rotation_made_and_in_which_order() -> None:
    """The control database goes after the target: its verdict is what keeps a living replica from being released."""
    ports = FakePorts()

    rotation = cleaned(rolled_back(ports), ports)

    assert rotation.undo is not None
    assert rotation.undo.clean
    assert () == rotation.undo.leftovers
    removals = [call for call in ports.calls if not call.startswith(("ledger.record", "recovery"))]
    assert removals == [
        f"rds.request_instance_deletion {TARGET}",
        "engine.drop_control_database orders",
        "ledger.release_lock",
    ]
    assert [SOURCE] == list(ports.rds.instances)
    assert CONTROL_DATABASE not in ports.source_server.own.open
    assert {} == ports.recovery.at
    assert {} == ports.ledger.locks


def test_the_lock_stays_where_another_strategy_may_follow() -> None:
    """It would take the lock again under the same rotation, and a late attempt of this step would free it then."""
    ports = FakePorts()
    rotation = rolled_back(ports)
    plan, _ = rotation.planned()
    rotation = journaled(ports, rotation.having(plan=plan.having(fallback="blue-green")))

    for _ in range(2):
        rotation = visit(clean_up, cleaned(rotation, ports), ports)

    assert ROTATION_ID == ports.ledger.locks[SOURCE].rotation_id


def test_deletion_protection_was_carried_over_and_goes_first() -> None:
    ports = FakePorts()
    rotation = rolled_back(ports)
    ports.rds.alter(TARGET, deletion_protection=True)

    rotation = cleaned(rotation, ports)

    assert rotation.undo is not None
    assert rotation.undo.clean
    assert TARGET not in ports.rds.instances


def test_an_instance_without_our_tag_is_not_touched() -> None:
    """NameTaken: somebody had a database of that name before."""
    ports = FakePorts()
    rotation = rolled_back(ports)
    ports.rds.alter(TARGET, tags={})

    cleaned(rotation, ports, visits=1)

    assert TARGET in ports.rds.instances
    assert not any("instance_deletion" in call for call in ports.calls)


@pytest.mark.parametrize("status", [None, "deleting"])
def test_the_last_copy_of_a_source_that_somebody_has_deleted_is_kept(status: str | None) -> None:
    """RDS promotes the replicas of what is deleted: the target has all that there is, and nobody fenced anything."""
    ports = FakePorts()
    rotation = rolled_back(ports)
    if status is None:
        del ports.rds.instances[SOURCE]
    else:
        ports.rds.alter(SOURCE, status=status)

    rotation = cleaned(rotation, ports)

    assert TARGET in ports.rds.instances
    assert not any("instance_deletion" in call or "deletion_protection" in call for call in ports.calls)
    assert rotation.undo is not None
    assert rotation.undo.clean
    assert f"{TARGET} is kept: somebody has deleted {SOURCE}" in rotation.undo.leftovers[0]
    assert "aws rds delete" not in " ".join(rotation.undo.leftovers)


def test_a_target_that_somebody_has_renamed_is_ours_all_the_same() -> None:
    """By its name it would be gone, the lock free, and a replica and its key left over that nobody knows of."""
    ports = FakePorts()
    rotation = rolled_back(ports)
    rename(ports, TARGET, "elsewhere")

    rotation = cleaned(rotation, ports)

    assert [SOURCE] == list(ports.rds.instances)
    assert "elsewhere" == rotation.target_identifier


def test_a_renamed_target_that_may_not_be_removed_is_left_over_by_its_new_name() -> None:
    ports = FakePorts()
    rotation = rolled_back(ports)
    rename(ports, TARGET, "elsewhere")
    ports.fail("rds.request_instance_deletion", AccessRefused("not allowed"))

    rotation = visit(clean_up, rotation, ports)

    assert rotation.undo is not None
    assert "--db-instance-identifier elsewhere " in rotation.undo.leftovers[0]


def rename(ports: FakePorts, identifier: str, new: str) -> None:
    instance = ports.rds.instances.pop(identifier)
    ports.rds.servers[new] = ports.rds.servers.pop(identifier)
    ports.rds.instances[new] = replace(instance, database=instance.database.model_copy(update={"identifier": new}))


def test_a_refused_rotation_left_nothing() -> None:
    ports = FakePorts(with_target=False)
    rotation = visit(rollback, failed(planned_rotation(ports), "PreflightRefused"), ports, takes_over=True)
    ports.source_server.reachable = False
    ports.calls.clear()

    rotation = cleaned(rotation, ports)

    assert rotation.undo is not None
    assert rotation.undo.clean
    assert ["ledger.release_lock", "ledger.record"] == ports.calls


def test_what_is_forbidden_is_left_over_with_the_command_and_holds_nobody_up() -> None:
    ports = FakePorts()
    rotation = rolled_back(ports)
    ports.fail("engine.drop_control_database", LoginRefused("password changed"))

    rotation = cleaned(rotation, ports)

    assert rotation.undo is not None
    assert rotation.undo.clean
    command = "psql postgres -c 'DROP DATABASE rds_key_rotation WITH (FORCE)'"
    assert (f"{command}  # password changed",) == rotation.undo.leftovers
    assert {} == ports.ledger.locks


def test_while_the_target_lives_its_verdict_lives() -> None:
    ports = FakePorts()
    rotation = rolled_back(ports)
    ports.fail("rds.request_instance_deletion", AccessRefused("not allowed"))

    rotation = visit(clean_up, rotation, ports)

    assert CONTROL_DATABASE in ports.source_server.own.open
    assert "rollback" == ports.source_server.own.decisions[ROTATION_ID]
    assert rotation.undo is not None
    assert 2 == len(rotation.undo.leftovers), "the target, and the control database that has to outlive it"


def test_waits_while_the_target_is_being_deleted() -> None:
    ports = FakePorts()

    rotation = cleaned(rolled_back(ports), ports, visits=1)

    assert rotation.undo is not None
    assert "to be deleted" in rotation.undo.waiting_for[0]


def test_a_rollback_that_took_hours_leaves_time_to_clean_up() -> None:
    """Undecided for three hours, because the target could not be seen: none of them was spent on removing anything."""
    ports = FakePorts()
    fenced = fenced_rotation(ports)
    ports.source_server.reachable = False
    rotation = visit(rollback, failed(fenced, "DrainIncomplete"), ports, takes_over=True)
    ports.clock.advance(3 * 3600)
    ports.source_server.reachable = True
    rotation = visit(rollback, rotation, ports, takes_over=True)

    rotation = cleaned(rotation, ports)

    assert rotation.undo is not None
    assert () == rotation.undo.leftovers
    assert [SOURCE] == list(ports.rds.instances)


def test_touches_nothing_before_the_rollback_has_ended() -> None:
    ports = FakePorts()

    with pytest.raises(StateIncomplete):
        clean_up(fenced_rotation(ports), ports)

    assert [] == ports.calls


def test_a_retry_after_the_end_changes_nothing_but_the_lock() -> None:
    ports = FakePorts()
    rotation = cleaned(rolled_back(ports), ports)
    ports.calls.clear()

    assert rotation == clean_up(rotation, ports)
    assert ["ledger.release_lock"] == ports.calls


def test_every_capture_has_a_command_that_ends_it() -> None:
    assert set(_END_CAPTURE) == set(CATCHING_UP)
