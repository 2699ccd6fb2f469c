"""The new key and the target must be made once, and be recognisable as this rotation's."""

import pytest

from lambdas.create_encrypted_read_replica.handler import create_encrypted_read_replica
from lambdas.create_new_kms_key.handler import create_new_kms_key
from lambdas.rotation.errors import AwsUnavailable, JournalMoved, ReplicaKeyRefused, StateIncomplete
from lambdas.rotation.names import ROTATION_ID_TAG
from lambdas.rotation.state import Key
from tests.fakes import NEW_KEY, OLD_KEY, ROTATION_ID, SOURCE, TARGET, FakePorts, planned_rotation


def test_makes_one_key_however_often_the_answer_is_lost() -> None:
    """CreateKey has no client token, and every key costs money until somebody finds it."""
    ports = FakePorts(with_target=False)
    rotation = planned_rotation(ports)
    ports.fail("kms.ensure_key", AwsUnavailable("lost answer"), when="after")
    with pytest.raises(AwsUnavailable):
        create_new_kms_key(rotation, ports)

    made = create_new_kms_key(rotation, ports)

    assert 1 == sum(call.startswith("kms.ensure_key") for call in ports.calls)
    assert made.new_key is not None
    assert ports.kms.keys[made.new_key.arn].tags[ROTATION_ID_TAG] == ROTATION_ID
    assert made.new_key.alias == f"alias/rds-rotation/{SOURCE}/{ROTATION_ID}"


def test_of_two_deliveries_at_the_same_time_only_one_makes_a_key() -> None:
    """The other one would see neither alias nor tag yet, and leave a key that nobody knows of."""
    ports = FakePorts(with_target=False)
    rotation = planned_rotation(ports)
    ports.fail("ledger.record", JournalMoved("the twin makes the key"))

    with pytest.raises(JournalMoved):
        create_new_kms_key(rotation, ports)

    assert not [call for call in ports.calls if call.startswith("kms.ensure_key")]


def test_what_two_deliveries_write_before_the_key_differs() -> None:
    """The ledger takes a write of the same state for its own, repeated by the SDK."""
    ports = FakePorts(with_target=False)
    rotation = planned_rotation(ports)

    first = create_new_kms_key(rotation, ports)
    ports.clock.advance(0.001)
    second = create_new_kms_key(rotation, ports)

    assert first.key_requested_at is not None
    assert first.key_requested_at != second.key_requested_at


@pytest.mark.parametrize("manager", ["AWS", "CUSTOMER"])
def test_keeps_in_mind_whose_the_old_key_is(manager: str) -> None:
    ports = FakePorts(with_target=False)
    ports.kms.add(OLD_KEY, manager=manager)

    made = create_new_kms_key(planned_rotation(ports), ports)

    assert made.old_key is not None
    assert (OLD_KEY, manager) == (made.old_key.arn, made.old_key.manager)


def test_a_source_that_was_not_encrypted_has_no_old_key() -> None:
    """A blue/green deployment encrypts it; there is no key before, whose policy could be taken over."""
    ports = FakePorts(with_target=False)
    rotation = planned_rotation(ports, strategy="blue-green").having(old_key=None)
    source = ports.rds.instances[SOURCE].database.having(kms_key_arn=None)

    made = create_new_kms_key(rotation.having(source=source), ports)

    assert made.old_key is None
    assert made.new_key is not None


def test_asks_for_the_target_under_the_new_key() -> None:
    ports = FakePorts(with_target=False)
    ports.kms.add(NEW_KEY)
    rotation = planned_rotation(ports).having(new_key=Key(arn=NEW_KEY, manager="CUSTOMER"))

    requested = create_encrypted_read_replica(rotation, ports)

    assert TARGET == requested.target_identifier
    target = ports.rds.instances[TARGET]
    assert (NEW_KEY, SOURCE) == (target.database.kms_key_arn, target.replica_of)
    assert target.tags[ROTATION_ID_TAG] == ROTATION_ID


def test_a_refused_key_changes_nothing() -> None:
    ports = FakePorts(with_target=False)
    rotation = planned_rotation(ports).having(new_key=Key(arn=NEW_KEY, manager="CUSTOMER"))
    ports.fail("rds.request_read_replica", ReplicaKeyRefused("not under another key"))

    with pytest.raises(ReplicaKeyRefused):
        create_encrypted_read_replica(rotation, ports)

    assert ["ledger.record"] == ports.calls


def test_the_target_is_written_down_before_anybody_makes_it() -> None:
    """RDS made it, and nobody heard of that: a rollback that does not know its name would leave it, and its key."""
    ports = FakePorts(with_target=False)
    ports.kms.add(NEW_KEY)
    rotation = planned_rotation(ports).having(new_key=Key(arn=NEW_KEY, manager="CUSTOMER"))
    ports.fail("rds.request_read_replica", AwsUnavailable("lost answer"), when="after")

    with pytest.raises(AwsUnavailable):
        create_encrypted_read_replica(rotation, ports)

    assert TARGET in ports.rds.instances
    assert TARGET == ports.ledger.journal[ROTATION_ID].rotation.target_identifier


def test_needs_the_new_key() -> None:
    ports = FakePorts(with_target=False)

    with pytest.raises(StateIncomplete):
        create_encrypted_read_replica(planned_rotation(ports), ports)
