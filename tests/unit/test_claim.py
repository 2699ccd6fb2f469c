"""Two stacks have two ledgers, and two locks: the source itself says which rotation is at work on it."""

import pytest

from lambdas.begin_capture.handler import begin_capture
from lambdas.clean_up.handler import clean_up
from lambdas.rotation.errors import NameTaken
from lambdas.rotation.names import CONTROL_DATABASE
from lambdas.rotation.ports import Step
from lambdas.wait_for_replication_sync.handler import wait_for_replication_sync
from lambdas.wait_for_source.handler import wait_for_source
from tests.fakes import SOURCE, FakePorts, rolled_back, visit
from tests.unit.test_wait_for_replication_sync import ready_world


@pytest.mark.parametrize("handler", [wait_for_replication_sync, wait_for_source, begin_capture])
def test_a_source_that_another_stack_is_rotating_is_left_to_it(handler: Step) -> None:
    ports, rotation = ready_world()
    ports.source_server.own.claim = ("another", SOURCE)

    with pytest.raises(NameTaken, match="rotation another, which the ledger of this stack does not know"):
        visit(handler, rotation, ports)

    assert ports.source_server.own.claim == ("another", SOURCE)
    assert not ports.source_server.slots


def test_one_that_this_ledger_knows_is_over() -> None:
    """It holds the lock no more; perhaps somebody could not remove what it had made."""
    ports, rotation = ready_world()
    over = rotation.having(rotation_id="an-earlier-one")
    ports.ledger.open(over)
    ports.source_server.own.claim = (over.rotation_id, SOURCE)

    visit(wait_for_replication_sync, rotation, ports)

    assert ports.source_server.own.claim == (rotation.rotation_id, SOURCE)


def test_a_claim_that_came_with_the_data_is_nobodys() -> None:
    """Somebody has restored this database from a snapshot of another one, in the middle of its rotation."""
    ports, rotation = ready_world()
    ports.source_server.own.claim = ("another", "production")

    visit(wait_for_replication_sync, rotation, ports)

    assert ports.source_server.own.claim == (rotation.rotation_id, SOURCE)


def test_what_another_stack_has_claimed_is_not_cleaned_up() -> None:
    ports = FakePorts()
    rotation = rolled_back(ports)
    ports.source_server.own.claim = ("another", SOURCE)

    while rotation.undo is None or not rotation.undo.clean:
        rotation = clean_up(rotation, ports)
        ports.clock.advance(30)

    assert CONTROL_DATABASE in ports.source_server.own.open
    assert rotation.undo.leftovers == ()
