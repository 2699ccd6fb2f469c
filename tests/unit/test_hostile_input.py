"""Whatever an execution is started with, and whatever a tag says: understood, or refused by name; people are told."""

import json
import re
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lambdas.list_opted_in_databases.handler import list_opted_in_databases
from lambdas.notify.handler import notify
from lambdas.rotation.aws.sns import _ascii
from lambdas.rotation.errors import InputRefused, StateIncomplete, UnknownDatabase
from lambdas.rotation.names import BASE_NAME_TAG
from lambdas.rotation.policy import DATABASE, INPUT_BYTES, INPUT_FIELDS, MIN_AGE, RISKS, TAGS, TASK_TOKEN
from lambdas.rotation.state import RECOVER, Failure, Rotation
from lambdas.start_rotation.handler import start_rotation
from tests.fakes import EXECUTION, OLD_KEY, RECOVERY, SOURCE, FakePorts
from tests.hostile import any_json, any_text, instance_identifiers

NUMBERS = [0, 1, 7.5, 300, "7", "1_0", "nan", float("nan"), float("inf"), 10**400]
WORDS = ["auto", "true", "dns", "secret", "read-replica", "snapshot", "catch-up", "Z1/db.example.com", "Z1/a\\999.x"]
PLAUSIBLE = st.sampled_from([True, False, *NUMBERS, *WORDS, [*RISKS], ["dns", 1]])
SUBJECT = re.compile(r"[!-~][ -~]{0,99}")
MESSAGE_BYTES = 256 * 1024
LONGEST_CAUSE = 4096


def requests() -> st.SearchStrategy[dict[str, Any]]:
    """Mostly of known fields, mostly for a database that exists; each value may be anything."""
    fields = st.dictionaries(st.sampled_from(INPUT_FIELDS), PLAUSIBLE | any_json(), max_size=4)
    named: st.SearchStrategy[dict[str, Any]] = st.just({DATABASE: SOURCE}) | st.just({})
    unknown: st.SearchStrategy[dict[str, Any]] = st.just({}) | st.dictionaries(any_text(6), any_json(), max_size=1)
    return st.builds(lambda *parts: parts[2] | parts[1] | parts[0], named, fields, unknown)


def tags() -> st.SearchStrategy[dict[str, str]]:
    values = PLAUSIBLE.map(str) | any_text(10)
    return st.dictionaries(st.sampled_from(TAGS) | any_text(6).map("key-rotation:".__add__), values, max_size=4)


def begun(request: dict[str, Any]) -> Rotation:
    """As the first state of the machine hands it on."""
    return Rotation.from_state({"schema": 1, "execution_arn": EXECUTION, "request": request})


@given(request=requests(), tagged=tags())
@example(request={DATABASE: SOURCE, "GraceDays": 10**400}, tagged={})
@example(request={DATABASE: SOURCE, TASK_TOKEN: 5}, tagged={})
@example(request={DATABASE: "x" * 262_000}, tagged={})
@example(request={DATABASE: SOURCE, "Reason": "y" * 200_000}, tagged={})
@example(request={RECOVER: 5}, tagged={})
@example(request={DATABASE: "a\x07b"}, tagged={})
def test_a_start_is_understood_or_refused_and_people_are_told(request: dict[str, Any], tagged: dict[str, str]) -> None:
    """What fails without a name, or fails once more when it is told, leaves nobody the wiser."""
    ports = FakePorts(with_target=False)
    ports.rds.instances[SOURCE].tags.update(tagged)  # type: ignore[attr-defined]
    rotation = begun(request)
    try:
        started = start_rotation(rotation, ports)
    except (InputRefused, UnknownDatabase) as refused:
        failure = Failure(Error=type(refused).__name__, Cause=str(refused))
        json.dumps(notify(rotation.having(failure=failure), ports).to_state())
        [(_, subject, message)] = ports.notifier.sent
        assert len(failure.Cause) < LONGEST_CAUSE
        assert SUBJECT.fullmatch(_ascii(subject))
        assert len(json.dumps(message, indent=2)) < MESSAGE_BYTES
    else:
        assert started.route in ("rotate", "closed")
        assert isinstance(request.get(TASK_TOKEN, ""), str)  # the answer that a fleet waits for can be given
        assert len(json.dumps(started.to_state()).encode()) < 3 * INPUT_BYTES
        assert Rotation.from_state(json.loads(json.dumps(started.to_state()))) == started
        started.model_dump_json().encode()  # the journal


@given(
    state=any_json(20) | st.dictionaries(st.sampled_from([*Rotation.model_fields, "schema"]), any_json(), max_size=5)
)
def test_a_state_that_is_none_is_refused_without_its_values(state: Any) -> None:
    marked = {"execution_arn": {"planted": "hunter2"}, "request": "hunter2"}
    with pytest.raises(StateIncomplete) as refused:
        Rotation.from_state({**state, **marked} if isinstance(state, dict) else state)

    assert "hunter2" not in str(refused.value)


@given(name=instance_identifiers(), capitals=st.lists(st.booleans(), min_size=63, max_size=63))
def test_a_name_in_other_letters_is_the_same_database(name: str, capitals: list[bool]) -> None:
    """To RDS it is. Two rotations of it, each with a lock of its own, would fence and promote side by side."""
    ports = FakePorts(with_target=False)
    ports.rds.add(name, key_arn=OLD_KEY)
    spelt = "".join(letter.upper() if up else letter for letter, up in zip(name, capitals, strict=False))

    started = start_rotation(begun({DATABASE: spelt}), ports)

    assert started.plan is not None
    assert started.plan.base_name == name
    assert [*ports.ledger.locks] == [name]


@pytest.mark.parametrize("named", ["arn:aws:rds:eu-central-1:123456789012:db:orders", "orders.abc.rds.amazonaws.com"])
def test_an_arn_is_not_a_name(named: str) -> None:
    """RDS would describe it, and the ledger would take it for another database."""
    with pytest.raises(InputRefused, match="not an ARN or an endpoint"):
        start_rotation(begun({DATABASE: named}), FakePorts(with_target=False))


@pytest.mark.parametrize("ended", [5, None, "", "first", ["arn:x"]])
def test_a_recovery_of_nothing_is_refused(ended: Any) -> None:
    """It would end in success, and whoever asked would believe that there was nothing to do."""
    with pytest.raises(InputRefused, match="Recover: must be the ARN"):
        start_rotation(begun({RECOVER: ended}).having(execution_arn=RECOVERY), FakePorts())


@given(
    tagged=st.fixed_dictionaries({}, optional={MIN_AGE: PLAUSIBLE.map(str) | any_text(8), BASE_NAME_TAG: any_text(8)})
)
@example(tagged={MIN_AGE: "inf"})
@example(tagged={MIN_AGE: "nan"})
@example(tagged={MIN_AGE: "999999999"})
@example(tagged={BASE_NAME_TAG: ""})
def test_one_bad_tag_does_not_stop_the_fleet(tagged: dict[str, str]) -> None:
    """Its own rotation says what is wrong with it; the others are rotated."""
    ports = FakePorts(with_target=False)
    for name, more in (("good", {}), ("bad", tagged)):
        ports.rds.add(name, key_arn=OLD_KEY, tags={"key-rotation:enabled": "true"} | more)

    listed = list_opted_in_databases({"scheduled_at": "2027-01-01T00:00:00Z"}, ports)

    assert {"good", "bad"} == {one["identifier"] for one in (*listed["databases"], *listed["skipped"])}
