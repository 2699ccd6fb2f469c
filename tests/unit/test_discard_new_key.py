"""After a rollback the new key goes, and no other; a key that anything depends on stays, and people are told."""

from datetime import timedelta

import pytest

from lambdas.discard_new_key.handler import PATIENCE, SELDOM_SECONDS, discard_new_key
from lambdas.rollback.handler import rollback
from lambdas.rotation.errors import AccessRefused
from lambdas.rotation.names import key_description, our_tags
from lambdas.rotation.new_key import INDEXED
from lambdas.rotation.state import KeyRequest, KeyUser, Moment, Rotation
from tests.fakes import (
    NEW_KEY,
    OLD_KEY,
    ROTATION_ID,
    START,
    TARGET,
    FakePorts,
    failed,
    journaled,
    planned_rotation,
    rolled_back,
    visit,
)


def without_target(ports: FakePorts) -> Rotation:
    """Rolled back, and CleanUp has seen the target go."""
    rotation = rolled_back(ports)
    del ports.rds.instances[TARGET]
    return rotation


def discarded(rotation: Rotation, ports: FakePorts, visits: int = 200) -> Rotation:
    for _ in range(visits):
        rotation = visit(discard_new_key, rotation, ports)
        assert rotation.undo is not None
        if rotation.undo.key_discarded:
            break
        ports.clock.advance(rotation.undo.look_again_seconds)
    return rotation


def test_the_alias_and_then_the_key() -> None:
    """An alias of a key that waits for its deletion would be taken for a usable key."""
    ports = FakePorts()

    rotation = discarded(without_target(ports), ports)

    assert rotation.undo is not None
    assert rotation.undo.key_discarded
    assert [
        f"kms.delete_alias alias/rds-rotation/orders/{ROTATION_ID}",
        f"kms.schedule_key_deletion {NEW_KEY} 7",
    ] == [call for call in ports.calls if call.startswith("kms.")]
    assert "Enabled" == ports.kms.keys[OLD_KEY].state


def test_a_retry_finds_the_key_scheduled_and_leaves_it() -> None:
    ports = FakePorts()
    rotation = without_target(ports)
    discarded(rotation, ports)
    ports.calls.clear()

    assert discarded(rotation, ports).undo.key_discarded  # type: ignore[union-attr]
    assert not any(call.startswith("kms.schedule") for call in ports.calls)


def test_the_alias_goes_also_when_somebody_else_has_scheduled_the_key() -> None:
    ports = FakePorts()
    rotation = without_target(ports)
    ports.kms.schedule_key_deletion(NEW_KEY, 30)

    discarded(rotation, ports)

    assert {} == ports.kms.aliases


REQUEST = KeyRequest(token="5f0e", began_at=START, requested_at=START)
DESCRIPTION = key_description("orders", ROTATION_ID, REQUEST.token)


def turned_back(ports: FakePorts, rotation: Rotation, error: str) -> Rotation:
    """Before anybody knew of a key."""
    return visit(rollback, failed(journaled(ports, rotation), error), ports, takes_over=True)


def test_a_key_that_its_maker_could_not_write_down_is_found() -> None:
    """CreateNewKMSKey made it and died: the journal knows nothing of it, and it would cost money for ever."""
    ports = FakePorts(with_target=False)
    rotation = turned_back(ports, planned_rotation(ports).having(new_key=None, key_request=REQUEST), "AccessRefused")
    ports.kms.add(NEW_KEY, tags=our_tags("orders", ROTATION_ID))
    ports.kms.descriptions[NEW_KEY] = DESCRIPTION

    rotation = discarded(rotation, ports)

    assert "PendingDeletion" == ports.kms.keys[NEW_KEY].state
    assert Moment.ROLLED_BACK == rotation.moment, "something had been created, so it was not just refused"


def stopped(ports: FakePorts) -> Rotation:
    """Right after the new key was asked for; a function of that execution may run for 75 seconds."""
    rotation = turned_back(ports, planned_rotation(ports).having(new_key=None, key_request=REQUEST), "ExecutionEnded")
    ports.clock.advance(85)
    return visit(rollback, rotation, ports, takes_over=True)


def test_a_key_that_the_index_of_tags_does_not_show_yet_is_waited_for() -> None:
    """Somebody stops the execution while KMS makes the key: a look after 85 seconds is too early to say that it did
    not, and a key that is in no ledger costs money for ever."""
    ports = FakePorts(with_target=False)

    rotation = discarded(stopped(ports), ports, visits=1)
    assert rotation.undo is not None
    assert not rotation.undo.key_discarded
    ports.kms.add(NEW_KEY, tags=our_tags("orders", ROTATION_ID))
    ports.kms.descriptions[NEW_KEY] = DESCRIPTION
    rotation = discarded(rotation, ports)

    assert "PendingDeletion" == ports.kms.keys[NEW_KEY].state
    assert Moment.ROLLED_BACK == rotation.moment


def test_a_key_that_does_not_appear_is_not_waited_for_any_longer() -> None:
    ports = FakePorts(with_target=False)

    rotation = discarded(stopped(ports), ports)

    assert rotation.undo is not None
    assert (True, ()) == (rotation.undo.key_discarded, rotation.undo.waiting_for)
    assert INDEXED <= ports.clock.now() - START < INDEXED + timedelta(minutes=1)
    assert Moment.REFUSED == rotation.moment


def test_a_key_that_kms_has_refused_is_not_waited_for() -> None:
    ports = FakePorts(with_target=False)
    refused = REQUEST.having(requested_at=None)
    rotation = turned_back(ports, planned_rotation(ports).having(new_key=None, key_request=refused), "AccessRefused")

    rotation = discarded(rotation, ports, visits=1)

    assert rotation.undo is not None
    assert rotation.undo.key_discarded


@pytest.mark.parametrize("asked", [None, REQUEST])
def test_a_key_is_not_discarded_for_its_tag(asked: KeyRequest | None) -> None:
    """A rotation's id can be known before it begins, and set on a key that protects something else."""
    ports = FakePorts(with_target=False)
    ports.kms.add(NEW_KEY, tags=our_tags("orders", ROTATION_ID))
    planned = planned_rotation(ports).having(new_key=None, key_request=asked)
    rotation = turned_back(ports, planned, "PreflightRefused")

    rotation = discarded(rotation, ports)

    assert rotation.undo is not None
    assert rotation.undo.key_discarded
    assert "Enabled" == ports.kms.keys[NEW_KEY].state


def test_the_key_that_was_written_down_is_discarded_and_none_that_was_given_its_tag() -> None:
    """Somebody exchanges the tags of two young keys: a search would find the other one, which nobody is seen to use."""
    ports = FakePorts()
    rotation = journaled(ports, without_target(ports).having(key_request=REQUEST))
    other = NEW_KEY + "-of-somebody"
    ports.kms.add(other, tags=our_tags("orders", ROTATION_ID))
    ports.kms.descriptions[other] = DESCRIPTION
    ports.kms.add(NEW_KEY, tags={})

    discarded(rotation, ports)

    assert ("PendingDeletion", "Enabled") == (ports.kms.keys[NEW_KEY].state, ports.kms.keys[other].state)


def test_a_refused_rotation_made_no_key() -> None:
    ports = FakePorts(with_target=False)
    ports.kms.keys.pop(NEW_KEY, None)
    rotation = visit(rollback, failed(planned_rotation(ports), "PreflightRefused"), ports, takes_over=True)

    rotation = discarded(rotation, ports, visits=1)

    assert rotation.undo is not None
    assert rotation.undo.key_discarded
    assert Moment.REFUSED == rotation.moment


def test_a_key_that_somebody_uses_by_now_stays() -> None:
    ports = FakePorts()
    rotation = without_target(ports)
    ports.key_users.others[NEW_KEY] = [KeyUser(kind="db-snapshot", identifier="theirs")]

    rotation = discarded(rotation, ports)

    assert "Enabled" == ports.kms.keys[NEW_KEY].state
    assert rotation.undo is not None
    [leftover] = rotation.undo.leftovers
    assert f"aws kms schedule-key-deletion --key-id {NEW_KEY} --pending-window-in-days 7" in leftover
    assert "db-snapshot theirs" in leftover


def test_a_key_that_is_used_is_looked_at_for_two_hours_more_and_more_seldom() -> None:
    """The target's backups go within minutes; a question that is denied stays denied."""
    ports = FakePorts()
    rotation = without_target(ports)
    ports.key_users.others[NEW_KEY] = [KeyUser(kind="db-snapshot", identifier="theirs")]
    ended_at = ports.clock.now()
    waits = []
    while rotation.undo is not None and not rotation.undo.key_discarded:
        rotation = visit(discard_new_key, rotation, ports)
        assert rotation.undo is not None
        waits.append(rotation.undo.look_again_seconds)
        ports.clock.advance(waits[-1])

    assert waits[:5] == [60, 60, 120, 240, 480]
    assert max(waits) == SELDOM_SECONDS
    assert len(waits) < 20
    assert ports.clock.now() - ended_at >= PATIENCE


@pytest.mark.parametrize("call", ["kms.delete_alias", "kms.schedule_key_deletion"])
def test_a_denial_holds_nobody_up(call: str) -> None:
    ports = FakePorts()
    rotation = without_target(ports)
    ports.fail(call, AccessRefused("not allowed"))

    rotation = discarded(rotation, ports, visits=1)

    assert rotation.undo is not None
    assert rotation.undo.key_discarded
    assert "not allowed" in rotation.undo.leftovers[0]
