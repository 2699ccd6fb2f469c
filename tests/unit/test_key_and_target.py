"""The new key and the target must be made once, and be recognisable as this rotation's."""

from contextlib import suppress
from datetime import timedelta
from typing import Literal

import pytest

from lambdas.create_encrypted_read_replica.handler import create_encrypted_read_replica
from lambdas.create_new_kms_key.handler import create_new_kms_key
from lambdas.rotation.errors import (
    AccessRefused,
    AwsRefused,
    AwsUnavailable,
    JournalMoved,
    NameTaken,
    ReplicaKeyRefused,
    StateIncomplete,
    UnknownDatabase,
)
from lambdas.rotation.names import ROTATION_ID_TAG, our_tags
from lambdas.rotation.new_key import INDEXED, SETTLED
from lambdas.rotation.state import Key, KeyRequest, Rotation
from tests.fakes import (
    NEW_KEY,
    OLD_KEY,
    ROTATION_ID,
    SOURCE,
    START,
    TARGET,
    FakePorts,
    journaled,
    planned_rotation,
    visit,
)


def begun() -> tuple[FakePorts, Rotation]:
    """A rotation that has made nothing yet."""
    ports = FakePorts(with_target=False)
    return ports, journaled(ports, planned_rotation(ports))


def made_at_last(rotation: Rotation, ports: FakePorts) -> Rotation:
    """As the state machine comes again, ten seconds later."""
    for _ in range(100):
        rotation = visit(create_new_kms_key, rotation, ports)
        if rotation.key_request is not None and rotation.key_request.complete:
            return rotation
        ports.clock.advance(10)
    raise AssertionError("there is no key after all")


def made_by_a_rotation(ports: FakePorts) -> list[str]:
    return [arn for arn, key in ports.kms.keys.items() if key.tags.get(ROTATION_ID_TAG) == ROTATION_ID]


@pytest.mark.parametrize("call", ["kms.create_key", "kms.complete_key", "ledger.record"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_makes_one_key_however_often_an_answer_is_lost(call: str, when: Literal["before", "after"]) -> None:
    """CreateKey has no client token, and every key costs money until somebody finds it."""
    ports, rotation = begun()
    for _ in range(3):
        ports.fail(call, AwsUnavailable("lost answer"), when=when)
        with suppress(AwsUnavailable):
            made_at_last(rotation, ports)

    made = made_at_last(rotation, ports)

    assert made.new_key is not None
    assert [made.new_key.arn] == made_by_a_rotation(ports)
    assert made.new_key.alias == f"alias/rds-rotation/{SOURCE}/{ROTATION_ID}"
    assert made.new_key.arn == ports.kms.aliases[str(made.new_key.alias)]


def test_a_key_is_written_down_before_anything_else_is_asked_of_it() -> None:
    """KMS may not know it for minutes: whoever comes again has to know which one it was."""
    ports, rotation = begun()

    made = visit(create_new_kms_key, rotation, ports)

    calls = [call.partition(" ")[0] for call in ports.calls]
    assert ["ledger.record", "kms.create_key", "ledger.record", "kms.complete_key"] == calls[:4]
    assert made.key_request is not None
    assert 32 == len(made.key_request.token)
    assert made.key_request.token in ports.kms.descriptions[made_by_a_rotation(ports)[0]]


def test_a_key_whose_answer_was_lost_is_waited_for_until_the_index_of_tags_shows_it() -> None:
    """Asked for at once, there would be two."""
    ports, rotation = begun()
    ports.fail("kms.create_key", AwsUnavailable("lost answer"), when="after")
    with pytest.raises(AwsUnavailable):
        visit(create_new_kms_key, rotation, ports)
    [(arn, facts)] = [(arn, ports.kms.keys.pop(arn)) for arn in made_by_a_rotation(ports)]

    assert visit(create_new_kms_key, rotation, ports).new_key is None
    ports.clock.advance(INDEXED.total_seconds() - 10)
    assert visit(create_new_kms_key, rotation, ports).new_key is None
    ports.kms.keys[arn] = facts

    made = made_at_last(rotation, ports)
    assert made.new_key is not None
    assert [arn] == [made.new_key.arn] == made_by_a_rotation(ports)


def test_a_key_that_never_shows_is_given_up() -> None:
    """The attempt after a lost answer waits, which the state machine takes for progress: its retries begin anew."""
    ports, rotation = begun()
    began_at, said = ports.clock.now(), ""
    while "no key after half an hour" not in said and ports.clock.now() - began_at < timedelta(hours=1):
        ports.fail("kms.create_key", AwsUnavailable("lost answer"))
        try:
            visit(create_new_kms_key, rotation, ports)
        except AwsUnavailable as unavailable:
            said = str(unavailable)
        ports.clock.advance(10)

    assert "no key" in said
    assert timedelta(minutes=30) < ports.clock.now() - began_at < timedelta(minutes=35)


def test_a_key_that_kms_has_refused_is_not_waited_for() -> None:
    """There is none; whoever has removed the cause wants to go on."""
    ports, rotation = begun()
    ports.fail("kms.create_key", AwsRefused("LimitExceededException"))
    with pytest.raises(AwsRefused):
        visit(create_new_kms_key, rotation, ports)

    made = visit(create_new_kms_key, rotation, ports)

    assert made.new_key is not None


UNSETTLED = [
    AwsRefused("kms:CreateAlias", "NotFoundException"),
    AwsRefused("kms:EnableKeyRotation", "DisabledException"),
    AwsRefused("kms:EnableKeyRotation", "KMSInvalidStateException"),
    AccessRefused("kms:CreateAlias: its tags do not count yet"),
]


@pytest.mark.parametrize("refusal", UNSETTLED, ids=lambda refusal: getattr(refusal, "code", "") or "denied")
def test_a_key_that_kms_does_not_know_everywhere_is_waited_for_and_no_longer(refusal: Exception) -> None:
    """It says NotFound in the same second, and its tags count for permissions up to five minutes later."""
    ports, rotation = begun()
    for _ in range(31):
        ports.fail("kms.complete_key", refusal)

    made = made_at_last(rotation, ports)

    assert made.new_key is not None
    assert made.key_request is not None
    assert [made.new_key.arn] == made_by_a_rotation(ports)
    late = journaled(ports, made.having(key_request=made.key_request.having(complete=False)))
    ports.clock.advance(SETTLED.total_seconds())
    ports.fail("kms.complete_key", refusal)
    with pytest.raises(type(refusal)):
        visit(create_new_kms_key, late, ports)


def test_a_journal_of_before_tokens_is_read() -> None:
    """What a rotation of an earlier release has made is in the history, which the retirement of its key asks."""
    ports = FakePorts(with_target=False)
    state = planned_rotation(ports).having(new_key=Key(arn=NEW_KEY, manager="CUSTOMER")).to_state()
    del state["key_request"]
    abroad: dict[str, object] = {
        "new_keys": {},
        "key_requested_at": None,
        "started_at": "2026-01-01T00:00:00Z",
        "execution_arn": "a",
    }

    read = Rotation.from_state(
        {**state, "key_first_requested_at": None, "key_requested_at": None, "backup_replication": abroad}
    )

    assert read.new_key is not None
    assert NEW_KEY == read.new_key.arn


def test_an_alias_that_is_taken_is_not_waited_for() -> None:
    ports, rotation = begun()
    ports.fail("kms.complete_key", NameTaken("somebody else's"))

    with pytest.raises(NameTaken):
        visit(create_new_kms_key, rotation, ports)


def test_a_key_with_the_tag_of_the_rotation_is_not_adopted() -> None:
    """Ids of a fleet's rotations follow from its schedule, and anybody may tag a key of his own."""
    ports, rotation = begun()
    ports.fail("kms.create_key", AwsUnavailable("lost answer"))
    with pytest.raises(AwsUnavailable):
        visit(create_new_kms_key, rotation, ports)
    theirs = ports.kms.add(NEW_KEY, tags=our_tags(SOURCE, ROTATION_ID)).arn
    ports.kms.descriptions[theirs] = f"RDS {SOURCE}, rotation {ROTATION_ID} (guessed)"

    made = made_at_last(rotation, ports)

    assert made.new_key is not None
    assert theirs != made.new_key.arn


def test_of_two_deliveries_at_the_same_time_only_one_makes_a_key() -> None:
    """The other one would see no tag yet, and leave a key that nobody knows of."""
    ports = FakePorts(with_target=False)
    rotation = planned_rotation(ports)
    ports.fail("ledger.record", JournalMoved("the twin makes the key"))

    with pytest.raises(JournalMoved):
        create_new_kms_key(rotation, ports)

    assert not [call for call in ports.calls if call.startswith("kms.create_key")]


def test_what_two_deliveries_write_before_the_key_differs() -> None:
    """The ledger takes a write of the same state for its own, repeated by the SDK."""
    ports = FakePorts(with_target=False)
    rotation = planned_rotation(ports)
    token = "0" * 32
    asked = rotation.having(key_request=KeyRequest(token=token, began_at=START, requested_at=None))
    written = []
    for start in (rotation, rotation, asked, asked):
        ports.fail("kms.create_key", AwsUnavailable("lost answer"))
        with pytest.raises(AwsUnavailable):
            create_new_kms_key(start, ports)
        written.append(ports.ledger.journal[ROTATION_ID].rotation.key_request)
        ports.clock.advance(0.001)

    assert 4 == len(set(map(str, written)))
    assert [token, token] == [one.token for one in written[2:] if one is not None]


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


def test_a_database_that_has_only_the_name_of_the_source_gets_no_replica() -> None:
    """Somebody has restored another one under it since the start: the target would have that one's data."""
    ports = FakePorts(with_target=False)
    ports.kms.add(NEW_KEY)
    rotation = planned_rotation(ports).having(new_key=Key(arn=NEW_KEY, manager="CUSTOMER"))
    source = ports.rds.instances[SOURCE].database
    ports.rds.alter(SOURCE, database=source.having(resource_id="db-ANOTHER"))

    with pytest.raises(UnknownDatabase, match=f"{SOURCE} is gone"):
        create_encrypted_read_replica(rotation, ports)

    assert TARGET not in ports.rds.instances


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
