"""The ledger must make a dead execution's late writes fail, and give one database to one rotation at a time."""

from collections.abc import Iterator
from contextlib import nullcontext
from datetime import UTC, datetime

import boto3
import pytest
from moto import mock_aws

from lambdas.rotation.aws import client
from lambdas.rotation.errors import AwsRefused, AwsUnavailable, EpochSuperseded, JournalMoved
from lambdas.rotation.ledger import DynamoLedger
from lambdas.rotation.ports import Lock
from lambdas.rotation.state import Database, Key, Plan, Rotation
from lambdas.start_rotation.handler import start_rotation
from tests.fakes import EXECUTION, RECOVERY, FakeClock, FakePorts, fenced_rotation

TABLE = "ledger"


class FixedClock:
    def now(self) -> datetime:
        return datetime(2027, 1, 1, tzinfo=UTC)

    def monotonic(self) -> float:
        return 0.0

    def pause(self, seconds: float) -> None:
        raise AssertionError("the ledger never waits")


@pytest.fixture
def ledger(monkeypatch: pytest.MonkeyPatch) -> Iterator[DynamoLedger]:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "none")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
    with mock_aws():
        client.client.cache_clear()
        client.table.cache_clear()
        boto3.client("dynamodb").create_table(
            TableName=TABLE,
            BillingMode="PAY_PER_REQUEST",
            KeySchema=[
                {"AttributeName": "database", "KeyType": "HASH"},
                {"AttributeName": "record", "KeyType": "RANGE"},
            ],
            AttributeDefinitions=[
                {"AttributeName": "database", "AttributeType": "S"},
                {"AttributeName": "record", "AttributeType": "S"},
            ],
        )
        yield DynamoLedger(TABLE, FixedClock())
        client.client.cache_clear()
        client.table.cache_clear()


def database(identifier: str = "orders") -> Database:
    return Database(
        identifier=identifier,
        arn=f"arn:aws:rds:eu-central-1:123456789012:db:{identifier}",
        resource_id=f"db-{identifier.upper()}",
        engine="postgres",
        engine_version="16.14",
        address=f"{identifier}.example",
        port=5432,
        kms_key_arn="arn:old",
    )


def rotation(rotation_id: str = "aaaa1111") -> Rotation:
    return Rotation(
        schema=1,
        execution_arn=f"arn:execution:{rotation_id}",
        request={"DBInstanceIdentifier": "orders"},
        rotation_id=rotation_id,
        plan=Plan(base_name="orders"),
        source=database(),
    )


def test_one_database_one_rotation(ledger: DynamoLedger) -> None:
    """Two rotations of one database would each fence and release it under the other's feet."""
    first, second = rotation("aaaa1111"), rotation("bbbb2222")

    assert ledger.acquire(first) is None
    assert ledger.acquire(first) is None, "a retry of the holder gets its own lock again"
    assert Lock("aaaa1111", "arn:execution:aaaa1111") == ledger.acquire(second)


def test_only_the_holder_frees_the_lock(ledger: DynamoLedger) -> None:
    """A rotation that waits for its old key's users has long lost its lock to the next one."""
    ledger.acquire(rotation("aaaa1111"))

    ledger.release_lock(rotation("bbbb2222"))

    assert ledger.acquire(rotation("bbbb2222")) is not None
    ledger.release_lock(rotation("aaaa1111"))
    assert ledger.acquire(rotation("bbbb2222")) is None


def test_the_journal_returns_what_the_last_step_wrote(ledger: DynamoLedger) -> None:
    """A retry arrives with the state from before the step that died; the journal knows more."""
    passed = ledger.open(rotation())
    ledger.record(passed.having(new_key=Key(arn="arn:new", manager="CUSTOMER")))

    journal = ledger.current(passed)

    assert journal.new_key == Key(arn="arn:new", manager="CUSTOMER")


def test_opening_twice_keeps_the_journal(ledger: DynamoLedger) -> None:
    """StartRotation may be retried after it opened the entry."""
    opened = ledger.open(rotation())
    ledger.record(opened.having(target_identifier="orders-rot-aaaa1111"))

    assert ledger.open(rotation()).target_identifier == "orders-rot-aaaa1111"


def test_a_superseded_epoch_can_neither_read_nor_write(ledger: DynamoLedger) -> None:
    """The stopped execution's Lambda lives on; what it still wants to do must not happen."""
    zombie = ledger.open(rotation())
    taken = ledger.take_over(zombie, "arn:execution:recovery")

    with pytest.raises(EpochSuperseded, match="arn:execution:recovery"):
        ledger.record(zombie)
    with pytest.raises(EpochSuperseded):
        ledger.current(zombie)
    with pytest.raises(EpochSuperseded):
        ledger.take_over(zombie, "arn:execution:zombie")
    assert (2, "arn:execution:recovery") == (taken.epoch, ledger.current(taken).execution_arn)


def test_a_takeover_does_not_overwrite_what_was_written_since_it_was_read(ledger: DynamoLedger) -> None:
    """Promote records its request while Rollback holds an older copy; overlooked, the source would open too early."""
    copy = ledger.open(rotation())
    ledger.record(copy.having(target_identifier="orders-rot-1"))

    taken = ledger.take_over(copy, "arn:execution:recovery")

    assert ("orders-rot-1", 2) == (taken.target_identifier, taken.epoch)
    assert taken == ledger.current(taken)


def test_a_second_delivery_does_not_overwrite_what_has_been_written_since_it_read(ledger: DynamoLedger) -> None:
    """Preflight was delivered twice, and the slower one wrote its copy over the key that had been made meanwhile."""
    opened, twin = ledger.open(rotation()), DynamoLedger(TABLE, FixedClock())
    late = twin.current(opened)
    ledger.record(opened.having(new_key=Key(arn="arn:new", manager="CUSTOMER")))

    with pytest.raises(JournalMoved):
        twin.record(late)
    with pytest.raises(JournalMoved):
        twin.close(late, "refused")

    assert ledger.current(opened).new_key == Key(arn="arn:new", manager="CUSTOMER")
    twin.record(twin.current(late).having(target_identifier="orders-rot-1"))
    assert ledger.current(opened).target_identifier == "orders-rot-1", "who has read it again may go on"


def test_a_write_that_the_sdk_repeats_is_not_somebody_elses(ledger: DynamoLedger) -> None:
    """The answer got lost; the second attempt finds what the first has written."""
    opened = ledger.open(rotation())
    twin = DynamoLedger(TABLE, FixedClock())
    twin.current(opened)
    written = opened.having(target_identifier="orders-rot-1")
    ledger.record(written)

    twin.record(written)
    twin.record(written.having(target_identifier="orders-rot-2"))

    assert ledger.current(opened).target_identifier == "orders-rot-2"


def test_an_entry_without_a_revision_can_be_written(ledger: DynamoLedger) -> None:
    """A rotation that an older version began goes on."""
    opened = ledger.open(rotation())
    client.table(TABLE).update_item(
        Key={"database": "orders", "record": f"rotation#{opened.rotation_id}"}, UpdateExpression="REMOVE revision"
    )

    ledger.record(ledger.current(opened).having(target_identifier="orders-rot-1"))

    assert ledger.current(opened).target_identifier == "orders-rot-1"


def test_a_step_that_takes_over_may_come_again_with_the_epoch_before(ledger: DynamoLedger) -> None:
    """Rollback raised the epoch and died; its retry still carries the older one. A stranger's does not get in."""
    before = ledger.open(rotation())
    ledger.take_over(before, before.execution_arn)

    assert ledger.current(before, takes_over=True).epoch == 2
    with pytest.raises(EpochSuperseded):
        ledger.current(before.having(execution_arn="arn:execution:stranger"), takes_over=True)


def test_a_takeover_that_the_sdk_repeats_is_not_somebody_elses(ledger: DynamoLedger) -> None:
    opened = ledger.open(rotation())
    twin = DynamoLedger(TABLE, FixedClock())
    ledger.take_over(opened, "arn:execution:recovery")

    assert twin.take_over(opened, "arn:execution:recovery").epoch == 2
    twin.record(twin.current(opened.having(epoch=2)))
    with pytest.raises(EpochSuperseded):
        twin.take_over(opened, "arn:execution:another")


@pytest.mark.parametrize(
    ("by", "dies"),
    [
        ("recovery", "after raising the epoch"),
        ("recovery", "before the lock"),
        ("recovery", "before the journal"),
        ("recovery", "at its answer"),
        # A start asks for the lock before it takes over.
        ("start", "after raising the epoch"),
        ("start", "before the journal"),
        ("start", "at its answer"),
    ],
)
def test_a_takeover_that_died_half_way_is_finished_by_the_next_attempt(
    ledger: DynamoLedger, monkeypatch: pytest.MonkeyPatch, by: str, dies: str
) -> None:
    """Nobody recovers a recovery: if its second attempt found nothing to do, nobody could write until a person came."""
    ports = FakePorts()
    left = ledger.open(fenced_rotation(ports))
    ledger.acquire(left)
    ports.workflow.running = {RECOVERY}
    request = {"Recover": EXECUTION} if by == "recovery" else {"DBInstanceIdentifier": left.planned()[0].base_name}

    def attempt(at: str = "") -> Rotation:
        ports.ledger = DynamoLedger(TABLE, FixedClock())  # type: ignore[assignment]
        with monkeypatch.context() as broken:
            if at:
                broken.setattr(DynamoLedger, at, lambda *_: (_ for _ in ()).throw(AwsUnavailable("throttled")))
            taken = start_rotation(Rotation(schema=1, execution_arn=RECOVERY, request=request), ports)
        if dies != "before the journal" or finishing:
            ports.ledger.record(taken)
        return taken

    finishing = False
    method = {"after raising the epoch": "_begin", "before the lock": "acquire"}.get(dies, "")
    with pytest.raises(AwsUnavailable) if method else nullcontext():
        attempt(method)
    finishing = True

    taken = attempt()

    assert (taken.route, taken.rotation_id, taken.epoch) == ("rollback", left.rotation_id, 2)
    assert (taken.execution_arn, taken.recovery) == (RECOVERY, by == "recovery")
    assert taken.failure is not None
    assert "ended before" in taken.failure.Cause
    assert ledger.acquire(left.having(rotation_id="another")) == Lock(left.rotation_id, RECOVERY)


@pytest.mark.parametrize("changed", [{"state": '{"schema": 9}'}, {"state": "{"}, {"epoch": "x"}, {"state": "NO"}])
def test_an_entry_that_cannot_be_read_hides_no_other(ledger: DynamoLedger, changed: dict[str, str]) -> None:
    """One of a later release, after somebody has gone back to this one; or one that somebody has edited."""
    opened = ledger.open(rotation())
    later = rotation("later")
    ledger.open(later)
    ledger._write("orders", "rotation#later", changed)

    entries, unreadable = ledger.unfinished()

    assert [opened.rotation_id] == [entry.rotation.rotation_id for entry in entries]
    assert unreadable[0].startswith("rotation#later of orders: ")
    found = ledger.left_by(opened.execution_arn)
    assert found is not None
    assert opened.rotation_id == found.rotation.rotation_id
    assert ledger.left_by("arn:nobody") is None


def test_an_entry_says_when_a_step_has_written_it_last(ledger: DynamoLedger) -> None:
    """A takeover raises the epoch, and says nothing of what the one before was doing."""
    ledger._clock = clock = FakeClock()
    opened = ledger.open(rotation())
    clock.advance(60)
    ledger.record(opened)
    written = clock.now()
    clock.advance(60)

    ledger.take_over(opened, "arn:another")

    found = ledger.left_by("arn:another")
    assert found is not None
    assert written == found.recorded_at


def test_an_entry_without_a_column_hides_no_other(ledger: DynamoLedger) -> None:
    opened = ledger.open(rotation())
    ledger._table.put_item(Item={"database": "orders", "record": "rotation#later", "execution_arn": "arn:later"})

    entries, unreadable = ledger.unfinished()

    assert [opened.rotation_id] == [entry.rotation.rotation_id for entry in entries]
    assert unreadable == ["rotation#later of orders: 'epoch'"]


def test_a_closed_entry_is_history(ledger: DynamoLedger) -> None:
    """The sweep must not recover what is finished, and the closing step's own last write is not an error."""
    opened = ledger.open(rotation())
    assert [opened.rotation_id] == [entry.rotation.rotation_id for entry in ledger.unfinished()[0]]

    ledger.close(opened, "rotated")
    ledger.record(opened)

    assert ([], []) == ledger.unfinished()
    assert ledger.left_by(opened.execution_arn) is None
    entry = ledger.entry("orders", opened.rotation_id)
    assert entry is not None
    assert ("rotated", datetime(2027, 1, 1, tzinfo=UTC)) == (entry.outcome, entry.closed_at)


def test_the_base_name_leads_to_the_last_target(ledger: DynamoLedger) -> None:
    """`orders` is how people go on calling it, a quarter and two targets later."""
    assert ledger.successor("orders") is None

    ledger.advance(rotation().having(target=database("orders-rot-aaaa1111")))

    assert ledger.successor("orders") == "db-ORDERS-ROT-AAAA1111"


def test_an_empty_base_name_is_no_key(ledger: DynamoLedger) -> None:
    """A tag may be empty; whoever asks by its value ends here."""
    with pytest.raises(AwsRefused):
        ledger.successor("")


# -- the decision ------------------------------------------------------------------------------------------------------


def test_the_first_verdict_stands_for_ever(ledger: DynamoLedger) -> None:
    """Also for the SDK that repeats a write whose answer got lost."""
    assert ledger.verdict("42", "orders") is None

    assert ledger.decide("42", "orders", "rollback") == "rollback"
    assert ledger.decide("42", "orders", "release") == "rollback"
    assert ledger.decide("42", "orders", "rollback") == "rollback"
    assert (ledger.verdict("42", "orders"), ledger.verdict("43", "orders")) == ("rollback", None)


def test_a_verdict_is_no_journal(ledger: DynamoLedger) -> None:
    ledger.decide("42", "orders", "release")

    assert (list(ledger.entries("orders")), list(ledger.unfinished()[0])) == ([], [])
