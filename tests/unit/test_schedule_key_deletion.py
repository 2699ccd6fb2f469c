"""A key that is gone takes everything under it along: when in doubt it stays."""

from dataclasses import replace
from typing import Any, Literal

import pytest

from lambdas.rotation.errors import AccessRefused, AwsRefused, AwsUnavailable, StateIncomplete
from lambdas.rotation.names import our_tags
from lambdas.rotation.notification import message_of
from lambdas.rotation.state import Key, KeyUser, Moment, Rotation
from lambdas.schedule_key_deletion.handler import schedule_key_deletion
from tests.fakes import NEW_KEY, OLD_KEY, SOURCE, START, FakePorts, journaled, switched_rotation

DAY = 24 * 3600
DATABASE = KeyUser(kind="database", identifier="invoices")
BACKUP = KeyUser(kind="automated-backup", identifier="orders (db-1)")
UNANSWERED = KeyUser(kind="unanswered", identifier="events: AccessDenied")
PRINCIPAL = KeyUser(kind="principal", identifier="app (Decrypt)")
TOLD = ("arn", "verdict", "disabled_at")
RECENT = KeyUser(kind="recent-use", identifier="app (Decrypt)")


def decommissioned(**plan: Any) -> tuple[FakePorts, Rotation]:
    """The source and its snapshot are gone, so that nobody is left whom a test does not name."""
    ports = FakePorts()
    rotation = switched_rotation(ports, **({"retire_key": "true"} | plan))
    del ports.rds.instances[SOURCE]
    return ports, journaled(ports, rotation)


def visit(ports: FakePorts, rotation: Rotation) -> Rotation:
    rotation = schedule_key_deletion(rotation, ports)
    ports.ledger.record(rotation)
    return rotation


def verdict(rotation: Rotation) -> tuple[str, bool]:
    assert rotation.retirement is not None
    return rotation.retirement.verdict, rotation.retirement.complete


def deeds(ports: FakePorts) -> list[str]:
    return [call for call in ports.calls if call.startswith("kms.")]


def test_an_unused_key_is_disabled_soaked_and_scheduled() -> None:
    ports, rotation = decommissioned()

    rotation = visit(ports, rotation)
    assert ("soaking", False) == verdict(rotation)
    assert rotation.retirement is not None
    assert rotation.retirement.look_again_at is not None
    assert 1 == (rotation.retirement.look_again_at - ports.clock.now()).days

    rotation = looked_at_daily(ports, rotation)

    assert ("scheduled", True) == verdict(rotation)
    assert [f"kms.disable_key {OLD_KEY}", f"kms.schedule_key_deletion {OLD_KEY} 30"] == deeds(ports)
    assert rotation.retirement is not None
    assert rotation.retirement.deletion_at is not None


def looked_at_daily(ports: FakePorts, rotation: Rotation, visits: int = 30) -> Rotation:
    """As the state machine does, a moment late each time."""
    for _ in range(visits):
        assert rotation.retirement is not None
        if rotation.retirement.look_again_at is None:
            break
        ports.clock.advance((rotation.retirement.look_again_at - ports.clock.now()).total_seconds() + 2)
        rotation = visit(ports, rotation)
    return rotation


def test_a_soak_is_looked_at_seven_times_and_takes_seven_days() -> None:
    """Each look costs three state transitions."""
    ports, rotation = decommissioned()
    rotation = visit(ports, rotation)
    disabled_at = ports.clock.now()

    assert ("soaking", False) == verdict(looked_at_daily(ports, rotation, visits=6))
    ports, rotation = decommissioned()
    rotation = looked_at_daily(ports, visit(ports, rotation), visits=7)

    assert ("scheduled", True) == verdict(rotation)
    assert 7 * DAY + 2 == (ports.clock.now() - disabled_at).total_seconds()


def test_the_soak_is_not_cut_short() -> None:
    ports, rotation = decommissioned()
    rotation = visit(ports, rotation)
    ports.clock.advance(6 * DAY)

    assert ("soaking", False) == verdict(visit(ports, rotation))
    assert ports.kms.keys[OLD_KEY].state == "Disabled"


@pytest.mark.parametrize("when", ["before", "after"])
def test_it_is_written_down_before_it_is_disabled(when: Literal["before", "after"]) -> None:
    """A disabled key that nobody remembers is an outage waiting for the next restart."""
    ports, rotation = decommissioned()
    ports.fail("kms.disable_key", AwsUnavailable("lost answer"), when=when)
    with pytest.raises(AwsUnavailable):
        schedule_key_deletion(rotation, ports)

    rotation = visit(ports, ports.ledger.current(rotation))

    assert ("soaking", False) == verdict(rotation)
    assert ports.kms.keys[OLD_KEY].state == "Disabled"


def test_another_database_keeps_the_key_and_is_named() -> None:
    ports, rotation = decommissioned()
    ports.key_users.others[OLD_KEY] = [DATABASE]

    rotation = visit(ports, rotation)

    assert ("kept", True) == verdict(rotation)
    assert rotation.retirement is not None
    assert (DATABASE,) == rotation.retirement.users
    assert deeds(ports) == []


@pytest.mark.parametrize("kind", ["alias", "automated-backup", "automated-snapshot", "recent-use", "residual-grant"])
def test_backups_are_outwaited(kind: str) -> None:
    """And whatever else ends by itself, or is moved by people, who have been told."""
    ports, rotation = decommissioned()
    ports.key_users.others[OLD_KEY] = [KeyUser(kind=kind, identifier="orders (db-1)")]

    rotation = visit(ports, rotation)
    assert ("in-use", False) == verdict(rotation)
    assert rotation.retirement is not None
    assert rotation.retirement.look_again_at is not None
    assert 1 == (rotation.retirement.look_again_at - ports.clock.now()).days

    ports.key_users.others.clear()
    ports.clock.advance(DAY)
    assert ("soaking", False) == verdict(visit(ports, rotation))


@pytest.mark.parametrize(("user", "days"), [(BACKUP, 61), (UNANSWERED, 4)])
def test_waiting_has_an_end(user: KeyUser, days: int) -> None:
    ports, rotation = decommissioned()
    ports.key_users.others[OLD_KEY] = [user]
    rotation = visit(ports, rotation)
    assert ("in-use", False) == verdict(rotation)
    ports.clock.advance(days * DAY)

    rotation = visit(ports, rotation)

    assert ("kept", True) == verdict(rotation)
    assert deeds(ports) == []


@pytest.mark.parametrize(("user", "days"), [(BACKUP, 36), (UNANSWERED, 2)])
def test_waiting_outlasts_what_is_waited_for(user: KeyUser, days: int) -> None:
    """RDS keeps automated backups for up to 35 days; a question that AWS does not answer today it may tomorrow."""
    ports, rotation = decommissioned()
    ports.key_users.others[OLD_KEY] = [user]
    rotation = visit(ports, rotation)
    ports.clock.advance(days * DAY)

    assert ("in-use", False) == verdict(visit(ports, rotation))


def test_one_question_without_an_answer_ends_no_retirement_that_waits_for_backups() -> None:
    """It is the age of the question that counts: backups are waited for longer than for an answer."""
    ports, rotation = decommissioned()
    ports.key_users.others[OLD_KEY] = [BACKUP]
    rotation = looked_at_daily(ports, visit(ports, rotation), visits=10)

    for users in ([BACKUP, UNANSWERED], [BACKUP], [UNANSWERED], [BACKUP]):
        ports.key_users.others[OLD_KEY] = users
        rotation = looked_at_daily(ports, rotation, visits=2)
        assert ("in-use", False) == verdict(rotation)

    ports.key_users.others.clear()
    assert ("soaking", False) == verdict(looked_at_daily(ports, rotation, visits=1))


def test_a_question_that_nobody_answers_for_days_keeps_the_key_also_where_it_comes_up_late() -> None:
    ports, rotation = decommissioned()
    ports.key_users.others[OLD_KEY] = [BACKUP]
    rotation = looked_at_daily(ports, visit(ports, rotation), visits=10)
    ports.key_users.others[OLD_KEY] = [BACKUP, UNANSWERED]

    rotation = looked_at_daily(ports, rotation, visits=3)
    assert ("in-use", False) == verdict(rotation)

    assert ("kept", True) == verdict(looked_at_daily(ports, rotation, visits=2))
    assert deeds(ports) == []


def test_a_question_that_comes_up_long_after_the_soak_is_asked_again() -> None:
    """The execution ended in the soak, and a recovery looks a week after it would have been over."""
    ports, rotation = decommissioned()
    rotation = visit(ports, rotation)
    ports.clock.advance(14 * DAY)
    ports.key_users.others[OLD_KEY] = [UNANSWERED]

    rotation = visit(ports, rotation)
    assert ("soaking", False) == verdict(rotation)

    ports.key_users.others.clear()
    assert ("scheduled", True) == verdict(looked_at_daily(ports, rotation, visits=1))


def test_a_journal_that_knows_of_no_open_question_is_counted_from_now() -> None:
    """As versions before this one wrote it."""
    ports, rotation = decommissioned()
    ports.key_users.others[OLD_KEY] = [UNANSWERED]
    state = visit(ports, rotation).to_state()
    del state["retirement"]["unanswered_since"]
    ports.clock.advance(10 * DAY)

    assert ("in-use", False) == verdict(visit(ports, Rotation.from_state(state)))


def test_a_user_that_stays_is_not_outwaited_beside_one_that_goes() -> None:
    ports, rotation = decommissioned()
    ports.key_users.others[OLD_KEY] = [BACKUP, DATABASE]

    assert ("kept", True) == verdict(visit(ports, rotation))


def test_an_unanswered_question_counts_as_use() -> None:
    ports, rotation = decommissioned()
    ports.key_users.others[OLD_KEY] = [UNANSWERED]

    visit(ports, rotation)

    assert deeds(ports) == []


@pytest.mark.parametrize("days", [1, 3, 7])
@pytest.mark.parametrize("users", [[PRINCIPAL], [RECENT], [UNANSWERED, RECENT]])
def test_use_while_disabled_enables_it_again_at_the_next_look(users: list[KeyUser], days: int) -> None:
    """Also one that would have been outwaited before: it was refused. Whoever needs the key is without it meanwhile."""
    ports, rotation = decommissioned()
    rotation = visit(ports, rotation)
    ports.clock.advance(days * DAY)
    ports.key_users.others[OLD_KEY] = users

    rotation = visit(ports, rotation)

    assert ("kept", True) == verdict(rotation)
    assert ports.kms.keys[OLD_KEY].state == "Enabled"


def test_an_unanswered_question_while_disabled_is_asked_again_and_then_enables_it() -> None:
    ports, rotation = decommissioned()
    rotation = visit(ports, rotation)
    ports.clock.advance(7 * DAY)
    ports.key_users.others[OLD_KEY] = [UNANSWERED]

    rotation = visit(ports, rotation)
    assert ("soaking", False) == verdict(rotation)
    assert ports.kms.keys[OLD_KEY].state == "Disabled"

    ports.clock.advance(4 * DAY)
    assert ("kept", True) == verdict(visit(ports, rotation))
    assert ports.kms.keys[OLD_KEY].state == "Enabled"


def test_an_unanswered_question_within_the_soak_neither_ends_it_nor_lets_it_end() -> None:
    """Enabling the key would end its retirement for good, for one day without CloudTrail; nobody is named."""
    ports, rotation = decommissioned()
    rotation = visit(ports, rotation)
    ports.key_users.others[OLD_KEY] = [UNANSWERED]

    rotation = looked_at_daily(ports, rotation, visits=7)
    assert ("soaking", False) == verdict(rotation)
    assert rotation.retirement is not None
    assert ((UNANSWERED,), "a question about its users has no answer") == (
        rotation.retirement.users,
        rotation.retirement.reason,
    )
    assert ports.kms.keys[OLD_KEY].state == "Disabled"

    ports.key_users.others.clear()
    assert ("scheduled", True) == verdict(looked_at_daily(ports, rotation, visits=1))


def test_people_are_told_once_that_the_key_is_disabled() -> None:
    """What fails for it fails from now on, and nobody else knows why."""
    ports, rotation = decommissioned()

    rotation = looked_at_daily(ports, visit(ports, rotation))

    [(moment, subject, message)] = ports.notifier.sent
    assert moment == Moment.KEY_DISABLED
    assert "disabled" in subject
    assert (OLD_KEY, "soaking", START.isoformat()) == tuple(message["old_key"][it] for it in TOLD)
    assert (Moment.KEY_DISABLED,) == rotation.notified
    assert Moment.COMPLETED == rotation.moment


@pytest.mark.parametrize("when", ["before", "after"])
def test_people_are_told_also_where_the_first_message_is_lost(when: Literal["before", "after"]) -> None:
    """And a key that somebody has enabled meanwhile is not disabled anew for it."""
    ports, rotation = decommissioned()
    ports.fail("notifier.publish", AwsUnavailable("lost answer"), when=when)
    with pytest.raises(AwsUnavailable):
        schedule_key_deletion(rotation, ports)

    rotation = visit(ports, ports.ledger.current(rotation))

    assert Moment.KEY_DISABLED == ports.notifier.sent[-1][0]
    assert (Moment.KEY_DISABLED,) == rotation.notified
    assert [f"kms.disable_key {OLD_KEY}"] == deeds(ports)


def test_a_soak_that_could_not_begin_begins_when_it_can() -> None:
    """A stack that does not list the key may not disable it; somebody corrects that days later."""
    ports, rotation = decommissioned()
    ports.fail("kms.disable_key", AccessRefused("kms:DisableKey"))
    with pytest.raises(AccessRefused):
        schedule_key_deletion(rotation, ports)
    ports.clock.advance(3 * DAY)

    rotation = visit(ports, ports.ledger.current(rotation))
    assert ("soaking", False) == verdict(rotation)
    assert ports.kms.keys[OLD_KEY].state == "Disabled"

    assert ("soaking", False) == verdict(looked_at_daily(ports, rotation, visits=6))
    assert 6 * DAY <= (ports.clock.now() - START).total_seconds() - 3 * DAY < 7 * DAY


def test_nobody_is_told_of_a_key_that_is_kept() -> None:
    ports, rotation = decommissioned(retire_key="false")

    visit(ports, rotation)

    assert [] == ports.notifier.sent


def test_what_was_waited_for_before_the_soak_does_not_count_after_it() -> None:
    """Weeks for a backup; the question that nobody answers now is asked again all the same."""
    ports, rotation = decommissioned()
    ports.key_users.others[OLD_KEY] = [BACKUP]
    rotation = visit(ports, rotation)
    ports.clock.advance(30 * DAY)
    ports.key_users.others.clear()
    rotation = visit(ports, rotation)
    ports.clock.advance(7 * DAY)
    ports.key_users.others[OLD_KEY] = [UNANSWERED]

    assert ("soaking", False) == verdict(visit(ports, rotation))


def test_a_key_that_cannot_be_enabled_now_is_not_asked_for() -> None:
    """KMS refuses that, and people would never hear that the key is kept."""
    ports, rotation = decommissioned()
    rotation = visit(ports, rotation)
    ports.clock.advance(7 * DAY)
    ports.kms.keys[OLD_KEY] = replace(ports.kms.keys[OLD_KEY], state="Unavailable")
    ports.key_users.others[OLD_KEY] = [PRINCIPAL]

    assert ("kept", True) == verdict(visit(ports, rotation))
    assert [f"kms.disable_key {OLD_KEY}"] == deeds(ports)


def test_the_end_is_the_end() -> None:
    """A key that was kept because of its users stays when they are gone: people have been told."""
    ports, rotation = decommissioned()
    ports.key_users.others[OLD_KEY] = [DATABASE]
    kept = visit(ports, rotation)
    ports.key_users.others.clear()

    assert kept == visit(ports, kept)
    assert [] == deeds(ports)


def test_a_key_that_nobody_wrote_down_is_not_taken_for_none() -> None:
    ports, rotation = decommissioned()

    with pytest.raises(StateIncomplete, match="CreateNewKMSKey"):
        schedule_key_deletion(rotation.having(old_key=None), ports)


def test_a_key_that_somebody_enabled_again_is_kept() -> None:
    ports, rotation = decommissioned()
    rotation = visit(ports, rotation)
    ports.clock.advance(7 * DAY)
    ports.kms.enable_key(OLD_KEY)

    assert ("kept", True) == verdict(visit(ports, rotation))
    assert not any("schedule" in deed for deed in deeds(ports))


def test_a_key_that_somebody_enabled_again_is_kept_by_whoever_looks_before_the_soak_is_over() -> None:
    """A recovery comes at any time; disabled once more, the key would be scheduled by the look at the end."""
    ports, rotation = decommissioned()
    rotation = visit(ports, rotation)
    ports.clock.advance(DAY)
    ports.kms.enable_key(OLD_KEY)
    ports.calls.clear()

    rotation = visit(ports, rotation)

    assert ("kept", True) == verdict(rotation)
    assert rotation.retirement is not None
    assert "somebody enabled it again" == rotation.retirement.reason
    assert [] == deeds(ports)


@pytest.mark.parametrize(("seconds", "state"), [(60, "Enabled"), (DAY, "Disabled"), (DAY, "Unavailable")])
def test_a_look_before_the_soak_is_over_changes_nothing_where_nobody_misses_the_key(seconds: int, state: str) -> None:
    """In the first minutes KMS may still say that the key is enabled; kept for that, it would stay disabled."""
    ports, rotation = decommissioned()
    rotation = visit(ports, rotation)
    ports.clock.advance(seconds)
    ports.kms.keys[OLD_KEY] = replace(ports.kms.keys[OLD_KEY], state=state)
    ports.calls.clear()

    assert ("soaking", False) == verdict(visit(ports, rotation))
    assert [] == deeds(ports)


@pytest.mark.parametrize("state", ["Disabled", "Unavailable"])
def test_a_key_that_somebody_else_has_disabled_stays_as_it_is(state: str) -> None:
    """It may have leaked: an attempt to use it during our soak would have it enabled again."""
    ports, rotation = decommissioned()
    ports.kms.keys[OLD_KEY] = replace(ports.kms.keys[OLD_KEY], state=state)

    rotation = visit(ports, rotation)

    assert ("kept", True) == verdict(rotation)
    assert [] == deeds(ports)


@pytest.mark.parametrize("visits", [0, 1])
def test_a_key_that_is_deleted_already_is_gone_and_holds_nobody_up(visits: int) -> None:
    """The execution died, in the soak or before, and nobody looked for as long as a deletion takes."""
    ports, rotation = decommissioned()
    for _ in range(visits):
        rotation = visit(ports, rotation)
    del ports.kms.keys[OLD_KEY]
    ports.clock.advance(60 * DAY)
    ports.calls.clear()

    rotation = visit(ports, rotation)

    assert ("gone", True) == verdict(rotation)
    assert [] == deeds(ports)
    assert Moment.COMPLETED == rotation.moment
    message = message_of(rotation, rotation.moment)
    assert ("gone", "KMS does not know it any more: a deletion of it has taken effect") == (
        message["old_key"]["verdict"],
        message["old_key"]["why"],
    )
    assert "If it is gone, that key was deleted" in message["what_to_do"]


def test_another_refusal_does_not_mean_that_a_key_is_gone() -> None:
    ports, rotation = decommissioned()
    ports.fail("kms.describe_key", AwsRefused("not this one", "InvalidArnException"))

    with pytest.raises(AwsRefused):
        schedule_key_deletion(rotation, ports)


def test_a_deletion_that_somebody_else_has_scheduled_is_not_told_as_ours() -> None:
    """Nobody has looked for users before it; people hear of those that there are."""
    ports, rotation = decommissioned()
    ports.key_users.others[OLD_KEY] = [DATABASE]
    ports.kms.schedule_key_deletion(OLD_KEY, 7)

    retirement = visit(ports, rotation).retirement

    assert retirement is not None
    assert ("scheduled", (DATABASE,)) == (retirement.verdict, retirement.users)
    assert "somebody else" in retirement.reason


@pytest.mark.parametrize(
    ("kind", "scheduled"), [("database", False), ("automated-snapshot", False), ("database", True)]
)
def test_so_many_users_that_no_state_could_have_them_are_counted(kind: str, scheduled: bool) -> None:
    """All are judged; Step Functions passes on 256 KB, and what is too much for it no Catch sees."""
    ports, rotation = decommissioned()
    ports.key_users.others[OLD_KEY] = [KeyUser(kind=kind, identifier=f"orders-{at}") for at in range(1200)]
    if scheduled:
        ports.kms.schedule_key_deletion(OLD_KEY, 7)

    retirement = visit(ports, rotation).retirement

    assert retirement is not None
    assert (201, "1000 more") == (len(retirement.users), retirement.users[-1].identifier)
    assert len(rotation.having(retirement=retirement).model_dump_json()) < 100_000


def test_a_lost_answer_of_the_deletion_is_found_out() -> None:
    ports, rotation = decommissioned()
    rotation = visit(ports, rotation)
    ports.clock.advance(7 * DAY)
    ports.fail("kms.schedule_key_deletion", AwsUnavailable("lost answer"), when="after")
    with pytest.raises(AwsUnavailable):
        schedule_key_deletion(rotation, ports)

    rotation = visit(ports, rotation)

    assert ("scheduled", True) == verdict(rotation)
    assert 1 == sum("schedule" in deed for deed in deeds(ports))


# -- policy --


def _kept(ports: FakePorts, rotation: Rotation) -> str:
    kept = visit(ports, rotation)
    assert ("kept", True) == verdict(kept)
    assert deeds(ports) == []
    assert kept.retirement is not None
    return kept.retirement.reason


def test_auto_keeps_what_no_rotation_made_and_lists_its_users() -> None:
    ports, rotation = decommissioned(retire_key="auto")
    ports.key_users.others[OLD_KEY] = [DATABASE]

    assert "no rotation made it" in _kept(ports, rotation)
    kept = ports.ledger.current(rotation).retirement
    assert kept is not None
    assert (DATABASE,) == kept.users


def test_auto_retires_what_an_earlier_rotation_made() -> None:
    ports, rotation = decommissioned(retire_key="auto")
    ports.kms.add(OLD_KEY, tags=our_tags(SOURCE, "earlier"))
    earlier = rotation.having(rotation_id="earlier", new_key=Key(arn=OLD_KEY, manager="CUSTOMER"))
    ports.ledger.open(earlier)

    assert ("soaking", False) == verdict(visit(ports, rotation))


@pytest.mark.parametrize("retire_key", ["auto", "true"])
@pytest.mark.parametrize("made", [NEW_KEY, None])
def test_a_tag_alone_is_not_trusted(made: str | None, retire_key: str) -> None:
    """Tags can be copied, and the right to retire a key is bound to one; the ledger has to say the same."""
    ports, rotation = decommissioned(retire_key=retire_key)
    ports.kms.add(OLD_KEY, tags=our_tags(SOURCE, "earlier"))
    if made is not None:
        ports.ledger.open(rotation.having(rotation_id="earlier", new_key=Key(arn=made, manager="CUSTOMER")))

    assert "names no rotation of this stack's that has made it" in _kept(ports, rotation)


def test_false_keeps_it() -> None:
    assert "false" in _kept(*decommissioned(retire_key="false"))


def test_aws_owns_its_keys() -> None:
    ports, rotation = decommissioned()
    ports.kms.add(OLD_KEY, manager="AWS")
    ports.key_users.others[OLD_KEY] = [DATABASE]

    assert "AWS" in _kept(ports, rotation)
    kept = ports.ledger.current(rotation).retirement
    assert kept is not None
    assert () == kept.users, "nobody is asked about a key that nobody can retire"


def test_another_accounts_key_is_theirs() -> None:
    ports, rotation = decommissioned()
    foreign = OLD_KEY.replace("123456789012", "999999999999")
    ports.kms.add(foreign)

    assert "999999999999" in _kept(ports, rotation.having(old_key=Key(arn=foreign, manager="CUSTOMER")))


def test_a_multi_region_key_with_replicas_is_kept() -> None:
    ports, rotation = decommissioned()
    ports.kms.keys[OLD_KEY] = replace(ports.kms.keys[OLD_KEY], multi_region=True, has_replica_keys=True)

    assert "multi-Region" in _kept(ports, rotation)


def test_a_multi_region_key_without_replicas_is_like_any_other() -> None:
    ports, rotation = decommissioned()
    ports.kms.keys[OLD_KEY] = replace(ports.kms.keys[OLD_KEY], multi_region=True)

    assert ("soaking", False) == verdict(visit(ports, rotation))


def test_the_new_key_is_never_the_old_one() -> None:
    ports, rotation = decommissioned()

    assert "new key" in _kept(ports, rotation.having(old_key=Key(arn=NEW_KEY, manager="CUSTOMER")))
