"""Blue/green: RDS decides, so every step goes by what RDS shows, and nothing that serves is ever deleted."""

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import replace

import pytest

from lambdas.create_blue_green_deployment.handler import create_blue_green_deployment
from lambdas.decommission.handler import decommission
from lambdas.preflight.handler import preflight
from lambdas.roll_back_deployment.handler import roll_back_deployment
from lambdas.roll_back_deployment.removal import remove
from lambdas.rotation import names
from lambdas.rotation.errors import (
    AccessRefused,
    AwsRefused,
    AwsUnavailable,
    EpochSuperseded,
    PreflightRefused,
    RetirementRefused,
    SettingsNotCarried,
    SwitchoverFailed,
    SyncIncomplete,
    TargetMismatch,
    VerificationFailed,
    WrongKey,
)
from lambdas.rotation.marks import SETTLES_IN
from lambdas.rotation.names import DECOMMISSION_TAG, DEPLOYMENT_TAG, GREEN_TAG, RELEASED_TAG, ROTATION_ID_TAG
from lambdas.rotation.notification import message_of
from lambdas.rotation.ports import Instance
from lambdas.rotation.state import Finding, Key, Moment, Rotation, Undo
from lambdas.rotation.step import metrics
from lambdas.rotation.switchover import COMPLETED, SHOWN_WITHIN, UNDER_WAY, serving
from lambdas.rotation.undoing import PAGE_AFTER, SLOWEST_FUNCTION
from lambdas.schedule_key_deletion.handler import schedule_key_deletion
from lambdas.switch_over.handler import switch_over
from lambdas.verify_switchover.handler import PATIENCE, verify_switchover
from lambdas.wait_for_green.handler import wait_for_green
from lambdas.wait_for_switchover.handler import PATIENCE as SWITCHOVER_PATIENCE
from lambdas.wait_for_switchover.handler import wait_for_switchover
from tests.fakes import (
    NEW_KEY,
    OLD_KEY,
    RECOVERY,
    ROTATION_ID,
    SOURCE,
    FakePorts,
    failed,
    journaled,
    planned_rotation,
    visit,
)

GREEN = f"{SOURCE}-green-1"
OLD = f"{SOURCE}-old1"
SWITCHOVER = "blue_green.request_switchover bgd-1"
DELETION = "blue_green.request_deletion bgd-1 with_target=True"


def ports_of(*, replica: bool = False) -> FakePorts:
    ports = FakePorts(with_target=False)
    ports.kms.add(NEW_KEY, tags=names.our_tags(SOURCE, ROTATION_ID))
    ports.rds.alter(SOURCE, tags={"team": "orders", "key-rotation:enabled": "true"})
    if replica:
        ports.rds.add(f"{SOURCE}-r1", key_arn=OLD_KEY, replica_of=SOURCE)
        raw = {**ports.rds.instances[SOURCE].raw, "ReadReplicaDBInstanceIdentifiers": [f"{SOURCE}-r1"]}
        ports.rds.alter(SOURCE, raw=raw)
    return ports


def keyed(ports: FakePorts) -> Rotation:
    rotation = planned_rotation(ports, strategy="blue-green", login_secret=None, connectivity=(), dns_record=None)
    return journaled(ports, rotation.having(new_key=Key(arn=NEW_KEY, manager="CUSTOMER")))


def marked(ports: FakePorts) -> Rotation:
    """Blue is, for so long that it counts."""
    rotation = visit(create_blue_green_deployment, keyed(ports), ports)
    ports.clock.advance(SETTLES_IN.total_seconds())
    return rotation


def created(ports: FakePorts) -> Rotation:
    return visit(create_blue_green_deployment, marked(ports), ports)


def ready(ports: FakePorts) -> Rotation:
    rotation = visit(wait_for_green, created(ports), ports)
    ports.clock.advance(SETTLES_IN.total_seconds())
    return visit(wait_for_green, rotation, ports)


def asked(ports: FakePorts) -> Rotation:
    return visit(switch_over, ready(ports), ports)


def switched(ports: FakePorts) -> Rotation:
    rotation = asked(ports)
    ports.blue_green.complete()
    return visit(wait_for_switchover, rotation, ports)


def undone(rotation: Rotation, ports: FakePorts, visits: int = 30) -> Rotation:
    """The way back, as the state machine walks it: until it is clean or committed."""
    rotation = failed(rotation)
    for _ in range(visits):
        rotation = visit(roll_back_deployment, rotation, ports, takes_over=True)
        assert rotation.undo is not None
        if rotation.undo.clean or rotation.undo.outcome == "committed":
            break
        ports.clock.advance(max(SLOWEST_FUNCTION.total_seconds(), rotation.undo.look_again_seconds))
    return rotation


# -- making it ---------------------------------------------------------------------------------------------------------


def test_every_member_gets_the_new_key_and_the_tag_that_permissions_go_by() -> None:
    """RDS leaves a member that is not named under its old key."""
    ports = ports_of(replica=True)

    rotation = ready(ports)

    assert {NEW_KEY} == {ports.rds.instances[name].database.kms_key_arn for name in (GREEN, f"{SOURCE}-r1-green-1")}
    assert rotation.deployed().ready
    for name in (SOURCE, f"{SOURCE}-r1", GREEN):
        assert ports.rds.instances[name].tags[DEPLOYMENT_TAG] == ROTATION_ID
    assert GREEN_TAG not in ports.rds.instances[SOURCE].tags
    assert ports.rds.instances[GREEN].tags[GREEN_TAG] == ROTATION_ID


def test_a_deployment_whose_answer_got_lost_is_adopted() -> None:
    ports = ports_of()
    rotation = marked(ports)
    ports.fail("blue_green.request", AwsUnavailable("lost"), when="after")
    with pytest.raises(AwsUnavailable):
        visit(create_blue_green_deployment, rotation, ports)

    visit(create_blue_green_deployment, rotation, ports)

    assert 1 == sum(call.startswith("blue_green.request ") for call in ports.calls)


def test_no_deployment_is_asked_for_before_the_marks_count() -> None:
    """RDS shows a tag long before it lets it count for permissions."""
    ports = ports_of(replica=True)
    rotation = visit(create_blue_green_deployment, keyed(ports), ports)
    assert (False, SETTLES_IN.total_seconds()) == (
        rotation.deployed().accepted, rotation.deployed().look_again_seconds
    )  # fmt: skip
    ports.clock.advance(SETTLES_IN.total_seconds() - 1)
    rotation = visit(create_blue_green_deployment, rotation, ports)
    assert not [call for call in ports.calls if call.startswith("blue_green.request")]
    ports.clock.advance(1)

    assert visit(create_blue_green_deployment, rotation, ports).deployed().accepted


def test_a_mark_that_somebody_takes_off_is_set_again_for_an_hour() -> None:
    ports = ports_of()
    rotation = marked(ports)
    ports.rds.alter(SOURCE, tags={})
    rotation = visit(create_blue_green_deployment, rotation, ports)
    assert (SETTLES_IN.total_seconds(), ROTATION_ID) == (
        rotation.deployed().look_again_seconds, ports.rds.instances[SOURCE].tags[DEPLOYMENT_TAG]
    )  # fmt: skip
    ports.rds.alter(SOURCE, tags={})
    ports.clock.advance(3600)

    with pytest.raises(AwsUnavailable, match=f"does not show {DEPLOYMENT_TAG} on {SOURCE}"):
        visit(create_blue_green_deployment, rotation, ports)


def test_its_name_is_in_the_journal_before_rds_is_asked() -> None:
    """Else nobody would look for a deployment of which nobody heard."""
    ports = ports_of()
    rotation = marked(ports)
    ports.fail("blue_green.request", AwsUnavailable("gone"))
    with pytest.raises(AwsUnavailable):
        visit(create_blue_green_deployment, rotation, ports)

    assert ports.ledger.current(rotation).deployed().name == f"{SOURCE}-rot-{ROTATION_ID}"


def test_a_member_that_rds_left_under_its_old_key_ends_the_rotation() -> None:
    """The API may take a request and ignore an entry of it: the rotation would succeed half."""
    ports = ports_of(replica=True)
    ports.blue_green.left_out = {ports.rds.instances[f"{SOURCE}-r1"].database.arn}

    with pytest.raises(WrongKey):
        ready(ports)


@pytest.mark.parametrize(
    ("facts", "waiting"),
    [
        ({"status": "storage-initialization"}, "to be available"),
        ({"raw": {"StorageOperationStatus": "Initializing"}}, "the storage of"),
        ({"replication_normal": False}, "to replicate"),
    ],
)
def test_waits_until_green_is_truly_ready(facts: dict[str, object], waiting: str) -> None:
    """RDS calls a deployment available before its members are, and then refuses the switchover."""
    ports = ports_of()
    rotation = created(ports)
    ports.rds.alter(GREEN, **facts)

    rotation = visit(wait_for_green, rotation, ports)

    assert not rotation.deployed().ready
    assert waiting in rotation.deployed().waiting_for[0]


def test_a_setting_that_green_cannot_be_given_ends_the_rotation() -> None:
    ports = ports_of()
    rotation = ready(ports)
    ports.rds.differences = {"port": (5432, 5433)}
    ports.rds.unrepairable = ["port"]

    with pytest.raises(SettingsNotCarried):
        visit(wait_for_green, rotation, ports)


def test_a_mark_whose_answer_got_lost_is_as_new_for_the_next_attempt() -> None:
    """Else it would take blue's, which is old, for the time of green's, and be refused."""
    ports = ports_of()
    rotation = created(ports)
    ports.clock.advance(60)
    ports.fail("rds.set_tags", AwsUnavailable("lost"), when="after")
    with pytest.raises(AwsUnavailable):
        visit(wait_for_green, rotation, ports)

    assert ports.ledger.current(rotation).deployed().marked_at == ports.clock.now()
    assert ports.rds.instances[GREEN].tags[GREEN_TAG] == ROTATION_ID


def test_green_is_not_repaired_before_its_mark_counts() -> None:
    ports = ports_of()
    rotation = created(ports)
    ports.rds.differences = {"backup retention": (7, 1)}
    rotation = visit(wait_for_green, rotation, ports)
    assert ([f"the mark of {GREEN} to count"], False) == (
        list(rotation.deployed().waiting_for), rotation.deployed().ready
    )  # fmt: skip
    assert ports.rds.differences
    ports.clock.advance(SETTLES_IN.total_seconds())

    visit(wait_for_green, rotation, ports)

    assert not ports.rds.differences


def test_a_parameter_group_that_green_was_given_is_in_force_before_it_serves() -> None:
    """A change of the group waits for a restart, and the switchover is none: applications would notice the next one."""
    ports = ports_of(replica=True)
    rotation, green = ready(ports), f"{SOURCE}-r1-green-1"
    group = {"DBParameterGroupName": "of-readers", "ParameterApplyStatus": "pending-reboot"}
    ports.rds.alter(green, raw={"DBParameterGroups": [group]})

    rotation = visit(wait_for_green, rotation, ports)
    assert (f"{green} to restart with of-readers",) == rotation.deployed().waiting_for

    assert [f"rds.request_reboot {green}"] == [call for call in ports.calls if "reboot" in call]
    rotation = visit(wait_for_green, rotation, ports)
    assert "rebooting" in rotation.deployed().waiting_for[0]
    ports.rds.finish_reboot(green)
    ports.rds.alter(green, raw={"DBParameterGroups": [{**group, "ParameterApplyStatus": "in-sync"}]})
    assert visit(wait_for_green, rotation, ports).deployed().ready


@pytest.mark.parametrize("status", ["INVALID_CONFIGURATION", "SWITCHOVER_IN_PROGRESS", "DELETING"])
def test_a_deployment_that_somebody_else_is_at_is_not_waited_for(status: str) -> None:
    ports = ports_of()
    rotation = created(ports)
    ports.blue_green.becomes(status)

    with pytest.raises(SyncIncomplete):
        visit(wait_for_green, rotation, ports)


# -- the commit point --------------------------------------------------------------------------------------------------


def test_the_request_is_in_the_journal_before_rds_is_asked() -> None:
    ports = ports_of()
    rotation = ready(ports)
    ports.fail("blue_green.request_switchover", AwsUnavailable("gone"))
    with pytest.raises(AwsUnavailable):
        visit(switch_over, rotation, ports)

    assert ports.ledger.current(rotation).deployed().switchover_requested_at is not None


def test_a_lost_answer_asks_rds_no_second_time() -> None:
    ports = ports_of()
    rotation = ready(ports)
    ports.fail("blue_green.request_switchover", AwsUnavailable("lost"), when="after")
    with pytest.raises(AwsUnavailable):
        visit(switch_over, rotation, ports)

    visit(switch_over, rotation, ports)

    assert [SWITCHOVER] == [call for call in ports.calls if "switchover" in call]


def test_a_refusal_may_be_about_a_request_whose_answer_got_lost() -> None:
    """RDS has accepted the first one, and shows nothing of it yet. Taken for the last word, it began a rollback."""
    ports = ports_of()
    ports.rds.alter(SOURCE, deletion_protection=True)
    rotation = ready(ports)
    ports.fail("blue_green.request_switchover", AwsUnavailable("lost"), when="after")
    with pytest.raises(AwsUnavailable):
        visit(switch_over, rotation, ports)
    ports.blue_green.shows_stale_status = True

    rotation = visit(switch_over, rotation, ports)

    assert "cannot be switched over now" in rotation.deployed().waiting_for[0]
    assert not visit(wait_for_switchover, rotation, ports).deployed().switched
    ports.blue_green.shows_stale_status = False
    ports.blue_green.complete()
    assert visit(wait_for_switchover, rotation, ports).deployed().switched


def test_a_switchover_that_rds_refuses_fails_with_its_words() -> None:
    ports = ports_of()
    rotation = ready(ports)
    ports.blue_green.refuses = True
    rotation = visit(switch_over, rotation, ports)
    ports.clock.advance(SHOWN_WITHIN.total_seconds() + 1)

    with pytest.raises(SwitchoverFailed, match="cannot be switched over now"):
        visit(wait_for_switchover, rotation, ports)


def test_a_key_that_was_exchanged_in_the_last_moment_is_seen() -> None:
    ports = ports_of()
    rotation = ready(ports)
    database = ports.rds.instances[GREEN].database.having(kms_key_arn=OLD_KEY)
    ports.rds.alter(GREEN, database=database)

    with pytest.raises(WrongKey):
        visit(switch_over, rotation, ports)
    assert SWITCHOVER not in ports.calls


def test_nothing_is_switched_to_under_a_key_that_goes_away() -> None:
    ports = ports_of()
    rotation = ready(ports)
    ports.kms.keys[NEW_KEY] = replace(ports.kms.keys[NEW_KEY], state="PendingDeletion")

    with pytest.raises(TargetMismatch):
        visit(switch_over, rotation, ports)
    assert SWITCHOVER not in ports.calls


@pytest.mark.parametrize("name", [SOURCE, GREEN])
def test_a_daily_backup_that_begins_in_the_last_moment_is_waited_for(name: str) -> None:
    """RDS would refuse; to undo a copy of hours for that would be to begin anew before the next backup."""
    ports = ports_of()
    rotation = ready(ports)
    ports.rds.alter(name, status="backing-up")

    rotation = visit(switch_over, rotation, ports)

    assert not rotation.deployed().ready
    assert rotation.deployed().waiting_for == (f"{name} to be available (it is backing-up)",)
    assert rotation.deployed().switchover_requested_at is None
    assert not visit(wait_for_green, rotation, ports).deployed().ready
    assert SWITCHOVER not in ports.calls
    ports.rds.alter(name, status="available")
    assert visit(switch_over, visit(wait_for_green, rotation, ports), ports).deployed().switchover_requested_at


def test_a_rotation_that_was_taken_over_asks_for_nothing() -> None:
    """Its rollback has begun: a switchover now would make production of what is being deleted."""
    ports = ports_of()
    rotation = ready(ports)
    ports.ledger.take_over(rotation, RECOVERY)

    with pytest.raises(EpochSuperseded):
        switch_over(rotation, ports)
    assert SWITCHOVER not in ports.calls


def test_afterwards_the_target_has_the_name_and_the_source_another() -> None:
    ports = ports_of()
    rotation = asked(ports)
    assert not visit(wait_for_switchover, rotation, ports).deployed().switched
    ports.blue_green.complete()

    rotation = visit(wait_for_switchover, rotation, ports)

    _, source = rotation.planned()
    assert (OLD, OLD_KEY) == (source.identifier, source.kms_key_arn)
    assert (SOURCE, NEW_KEY) == (rotation.synced_target().identifier, rotation.synced_target().kms_key_arn)
    assert rotation.release is not None


def test_a_switchover_that_rds_rolled_back_is_none() -> None:
    ports = ports_of()
    rotation = asked(ports)
    ports.blue_green.becomes("SWITCHOVER_FAILED")

    with pytest.raises(SwitchoverFailed, match=f"is SWITCHOVER_FAILED: {SOURCE} is the source$"):
        visit(wait_for_switchover, rotation, ports)


def test_what_was_answered_once_is_not_measured_again() -> None:
    ports = ports_of()
    rotation = asked(ports)
    ports.clock.advance(40)
    ports.blue_green.complete()
    rotation = visit(wait_for_switchover, rotation, ports)
    assert rotation.release is not None
    assert rotation.release.write_outage_seconds == 40
    ports.clock.advance(60)

    assert rotation == visit(wait_for_switchover, rotation, ports)
    assert [40] == metrics.metric_set["WriteOutageSeconds"]["Value"]
    assert [0] == metrics.metric_set["WriteOutageOverBudgetSeconds"]["Value"]


def test_the_outage_is_counted_from_the_first_request() -> None:
    """Of which an answer got lost, perhaps: RDS may have begun then."""
    ports = ports_of()
    first = asked(ports)
    ports.clock.advance(30)

    again = visit(switch_over, first, ports)

    assert first.deployed().switchover_requested_at == again.deployed().switchover_requested_at
    assert first.deployed().switchover_last_asked_at != again.deployed().switchover_last_asked_at


def test_green_is_looked_for_by_the_name_that_it_has_where_it_was_never_seen() -> None:
    """Somebody has switched over by hand before WaitForGreen had looked."""
    ports = ports_of()
    rotation = created(ports)
    primary = rotation.deployed().primary.having(target_resource_id=None)
    rotation = journaled(ports, rotation.having(deployment=rotation.deployed().having(members=(primary,))))
    ports.blue_green.complete()

    rotation = visit(wait_for_switchover, rotation, ports)

    assert rotation.deployed().primary.target_resource_id == ports.rds.instances[SOURCE].database.resource_id


def test_another_deployment_of_that_name_is_not_switched_over() -> None:
    ports = ports_of()
    rotation = ready(ports)
    assert ports.blue_green.live is not None
    ports.blue_green.live = replace(ports.blue_green.live, identifier="bgd-2")

    with pytest.raises(TargetMismatch, match="is not the deployment that was ready"):
        visit(switch_over, rotation, ports)
    assert ports.ledger.current(rotation).deployed().switchover_requested_at is None


def test_nothing_is_asked_of_a_deployment_that_somebody_else_is_at() -> None:
    ports = ports_of()
    rotation = ready(ports)
    ports.blue_green.becomes("INVALID_CONFIGURATION")

    with pytest.raises(SwitchoverFailed, match="is INVALID_CONFIGURATION"):
        visit(switch_over, rotation, ports)
    assert ports.ledger.current(rotation).deployed().switchover_requested_at is None


@pytest.mark.parametrize(
    ("name", "why"), [(SOURCE, "is not the database that was copied"), (GREEN, f"the copy of {SOURCE} is gone")]
)
def test_a_member_that_somebody_has_made_anew_is_another_one(name: str, why: str) -> None:
    """It has the ARN of the one that was ready, and not its data."""
    ports = ports_of()
    rotation = ready(ports)
    former = ports.rds.instances[name].database.resource_id
    ports.rds.alter(name, database=ports.rds.instances[name].database.having(resource_id="db-ANEW"))
    ports.blue_green.pairs = [
        tuple("db-ANEW" if one == former else one for one in pair)  # type: ignore[misc]
        for pair in ports.blue_green.pairs
    ]

    with pytest.raises(TargetMismatch, match=why):
        visit(switch_over, rotation, ports)
    assert SWITCHOVER not in ports.calls


def followed_by(ports: FakePorts, name: str, *followers: str) -> None:
    """As RDS lists replicas."""
    raw = {**ports.rds.instances[name].raw, "ReadReplicaDBInstanceIdentifiers": [*followers]}
    ports.rds.alter(name, raw=raw)


@pytest.mark.parametrize("of", [SOURCE, f"{SOURCE}-r1"])
@pytest.mark.parametrize("name", [f"{SOURCE}-r2", "arn:aws:rds:us-east-1:1:db:orders-far"])
def test_a_replica_that_has_joined_blue_meanwhile_ends_the_rotation(of: str, name: str) -> None:
    """It has no copy: after the switchover it would follow what is left behind, and its readers with it."""
    ports = ports_of(replica=True)
    rotation = ready(ports)
    if ":" not in name:
        ports.rds.add(name, key_arn=OLD_KEY, replica_of=of)
    followed_by(ports, of, *ports.rds.instances[of].raw.get("ReadReplicaDBInstanceIdentifiers", ()), name)

    with pytest.raises(TargetMismatch, match=f"^{name} has joined {of} meanwhile, and has no copy"):
        visit(switch_over, rotation, ports)
    assert SWITCHOVER not in ports.calls
    assert ports.ledger.current(rotation).deployed().switchover_requested_at is None, "it goes back"


def test_green_follows_blue_and_has_not_joined_it() -> None:
    ports = ports_of(replica=True)
    rotation = ready(ports)
    followed_by(ports, SOURCE, f"{SOURCE}-r1", GREEN)

    assert visit(switch_over, rotation, ports).deployed().switchover_requested_at


def test_what_was_asked_for_once_is_asked_for_again_whatever_a_member_does() -> None:
    """It may be the switchover that it is busy with; to wait for it anew would be to forget that RDS was asked."""
    ports = ports_of()
    rotation = ready(ports)
    ports.fail("blue_green.request_switchover", AwsUnavailable("lost"))
    with pytest.raises(AwsUnavailable):
        visit(switch_over, rotation, ports)
    ports.rds.alter(GREEN, status="modifying")

    rotation = visit(switch_over, rotation, ports)

    assert (rotation.deployed().ready, rotation.deployed().waiting_for) == (True, ())
    assert SWITCHOVER in ports.calls


@pytest.mark.parametrize(("budget", "timeout"), [(5, 30), (90, 90)])
def test_rds_gets_the_budget_or_the_least_that_it_takes(
    budget: int, timeout: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    ports, asked_with = ports_of(), []
    rotation = ready(ports)
    plan, _ = rotation.planned()
    rotation = journaled(ports, rotation.having(plan=plan.having(write_outage_budget_seconds=budget)))
    monkeypatch.setattr(ports.blue_green, "request_switchover", lambda _, seconds: asked_with.append(seconds))

    visit(switch_over, rotation, ports)

    assert [timeout] == asked_with


# -- which side serves -------------------------------------------------------------------------------------------------


def observed(rotation: Rotation, ports: FakePorts) -> tuple[str, str]:
    """By the way back, which does nothing while RDS has not said."""
    return serving(rotation, ports.blue_green.describe(rotation.deployed().name), ports)


def test_nobody_serves_while_the_names_are_exchanged() -> None:
    ports = ports_of()
    rotation = asked(ports)
    ports.blue_green.complete()
    del ports.rds.instances[SOURCE]

    assert ("undecided", f"no database is named {SOURCE} at this moment") == observed(rotation, ports)


def test_a_source_that_rds_shows_under_its_old_name_after_the_switchover_does_not_serve() -> None:
    ports = ports_of()
    rotation = asked(ports)
    ports.blue_green.becomes(COMPLETED)
    ports.clock.advance(SHOWN_WITHIN.total_seconds())

    assert "undecided" == observed(rotation, ports)[0]


@pytest.mark.parametrize("asked_at", [{}, {"switchover_last_asked_at": None}])
def test_for_two_minutes_after_a_request_a_source_need_not_serve(asked_at: dict[str, None]) -> None:
    """Journals of before know the first request only."""
    ports = ports_of()
    rotation = asked(ports)
    rotation = rotation.having(deployment=rotation.deployed().having(**asked_at))
    ports.blue_green.becomes("AVAILABLE")
    ports.clock.advance(SHOWN_WITHIN.total_seconds() - 1)
    assert "undecided" == observed(rotation, ports)[0]

    ports.clock.advance(1)
    assert "source" == observed(rotation, ports)[0]


def test_somebody_elses_database_of_that_name_is_neither_side() -> None:
    ports = ports_of()
    rotation = asked(ports)
    ports.blue_green.complete()
    ports.rds.alter(SOURCE, database=ports.rds.instances[SOURCE].database.having(resource_id="db-ANOTHER"))

    assert "undecided" == observed(rotation, ports)[0]
    assert visit(wait_for_switchover, rotation, ports).release is None


@pytest.mark.parametrize("status", [None, "DELETING", "AVAILABLE", "SWITCHOVER_FAILED"])
@pytest.mark.parametrize("was_seen", [True, False])
def test_a_target_that_has_the_name_serves_where_nothing_speaks_against_it(status: str | None, was_seen: bool) -> None:
    """Whoever deletes a deployment after a switchover, or RDS, may be faster than this look."""
    ports = ports_of()
    rotation = asked(ports)
    ports.blue_green.complete()
    if status is None:
        ports.blue_green.live = None
    else:
        ports.blue_green.becomes(status)
    if not was_seen:
        primary = rotation.deployed().primary.having(target_resource_id=None)
        rotation = rotation.having(deployment=rotation.deployed().having(members=(primary,)))

    decided = was_seen and status in (None, "DELETING")
    assert ("target" if decided else "undecided") == observed(rotation, ports)[0]


def test_a_switchover_that_does_not_end_is_left_to_the_way_back() -> None:
    """RDS itself gives it up within the budget; to look on a little longer costs nobody anything."""
    ports = ports_of()
    rotation = asked(ports)
    assert 2 == visit(wait_for_switchover, rotation, ports).deployed().look_again_seconds
    budget = rotation.planned()[0].write_outage_budget_seconds
    ports.clock.advance(budget + SWITCHOVER_PATIENCE.total_seconds())
    assert 15 == visit(wait_for_switchover, rotation, ports).deployed().look_again_seconds
    ports.clock.advance(1)

    with pytest.raises(SwitchoverFailed, match="is still SWITCHOVER_IN_PROGRESS"):
        visit(wait_for_switchover, rotation, ports)


# -- the way back ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reached", [keyed, created, ready], ids=lambda one: one.__name__)
def test_before_the_switchover_green_goes_and_blue_stays(reached: Callable[[FakePorts], Rotation]) -> None:
    ports = ports_of()
    rotation = undone(reached(ports), ports)

    assert rotation.undo is not None
    assert ("rolled-back", True, ()) == (rotation.undo.outcome, rotation.undo.clean, rotation.undo.leftovers)
    assert {SOURCE} == set(ports.rds.instances)
    assert DEPLOYMENT_TAG not in ports.rds.instances[SOURCE].tags


def test_a_protected_green_is_unprotected_and_a_protected_blue_is_not() -> None:
    ports = ports_of()
    ports.rds.alter(SOURCE, deletion_protection=True)

    undone(ready(ports), ports)

    assert {SOURCE} == set(ports.rds.instances)
    assert ports.rds.instances[SOURCE].deletion_protection


def test_a_switchover_under_way_is_waited_for_and_people_are_told() -> None:
    ports = ports_of()
    rotation = undone(asked(ports), ports)
    assert rotation.undo is not None
    assert rotation.undo.outcome == "undecided"
    assert not any("deletion" in call for call in ports.calls)
    ports.clock.advance(PAGE_AFTER.total_seconds())
    rotation = visit(roll_back_deployment, rotation, ports)
    assert rotation.undo is not None
    assert rotation.undo.paged_at is not None
    assert rotation.undo.look_again_seconds == 60, "it may take days"
    assert [1.0] == metrics.metric_set["RotationUndecided"]["Value"]
    ports.blue_green.complete()

    rotation = visit(roll_back_deployment, rotation, ports)

    assert rotation.undo is not None
    assert rotation.undo.outcome == "committed"
    assert rotation.failure is None, "it goes forward"
    assert {SOURCE, OLD} == set(ports.rds.instances)
    released = visit(wait_for_switchover, rotation, ports)
    assert released.synced_target().kms_key_arn == NEW_KEY


def test_a_page_that_cannot_be_sent_does_not_keep_rds_from_being_asked_again() -> None:
    ports = ports_of()
    rotation = asked(ports)
    ports.fail("notifier.publish", AccessRefused("sns:Publish: denied"))

    rotation = undone(rotation, ports)

    assert rotation.undo is not None
    assert "undecided" == rotation.undo.outcome
    assert rotation.undo.paged_at is not None
    assert ["RotationUndecided"] == [moment for moment, _, _ in ports.notifier.sent]


def test_green_keeps_its_protection_while_rds_may_have_begun_to_switch_over() -> None:
    """It would be production's, and nobody would give it back."""
    ports = ports_of()
    ports.rds.alter(SOURCE, deletion_protection=True)
    rotation = failed(asked(ports), "AccessRefused")
    ports.blue_green.shows_stale_status = True
    for _ in range(2):
        rotation = visit(roll_back_deployment, rotation, ports, takes_over=True)
        assert rotation.undo is not None
        assert rotation.undo.outcome == "undecided"
        ports.clock.advance(SHOWN_WITHIN.total_seconds() / 2 - 1)
    ports.blue_green.shows_stale_status = False
    ports.blue_green.complete()

    rotation = visit(roll_back_deployment, rotation, ports, takes_over=True)

    assert rotation.undo is not None
    assert rotation.undo.outcome == "committed"
    assert ports.rds.instances[SOURCE].deletion_protection


def test_after_a_request_only_an_accepted_deletion_decides() -> None:
    """RDS may still show a deployment as available whose switchover it has accepted."""
    ports = ports_of()
    rotation = ready(ports)
    ports.fail("blue_green.request_switchover", AwsUnavailable("gone"))
    with pytest.raises(AwsUnavailable):
        visit(switch_over, rotation, ports)
    rotation = failed(rotation)
    outcomes = []
    for _ in range(6):
        rotation = visit(roll_back_deployment, rotation, ports, takes_over=True)
        assert rotation.undo is not None
        outcomes.append((rotation.undo.outcome, DELETION in ports.calls))
        ports.clock.advance(SLOWEST_FUNCTION.total_seconds())

    assert ("rolled-back", False) not in outcomes
    assert ("rolled-back", True) == outcomes[-1]


def test_a_switchover_that_rds_has_given_up_is_undone_once_nobody_can_ask_for_another() -> None:
    """An attempt of SwitchOver that nobody heard of has written down that it asks, and not asked yet."""
    ports = ports_of()
    rotation = failed(asked(ports), "SwitchoverFailed")
    ports.blue_green.becomes("SWITCHOVER_FAILED")

    rotation = visit(roll_back_deployment, rotation, ports, takes_over=True)
    assert DELETION not in ports.calls

    ports.clock.advance(SLOWEST_FUNCTION.total_seconds())
    rotation = visit(roll_back_deployment, rotation, ports)
    assert DELETION in ports.calls

    rotation = visit(roll_back_deployment, rotation, ports)
    assert rotation.undo is not None
    assert rotation.undo.outcome == "rolled-back", "RDS has accepted the deletion"


def test_the_two_minutes_begin_with_the_last_request() -> None:
    """Its retries may take as long, and the last one may be the one that RDS has accepted."""
    ports = ports_of()
    rotation = asked(ports)
    ports.clock.advance(SHOWN_WITHIN.total_seconds())
    rotation = visit(switch_over, rotation, ports)
    ports.blue_green.shows_stale_status = True

    assert visit(wait_for_switchover, rotation, ports).release is None


@pytest.mark.parametrize("status", [UNDER_WAY, COMPLETED, "DELETING"])
def test_what_rds_is_making_production_is_not_unprotected(status: str) -> None:
    """Between the look that decides and the one before the deletion RDS may have begun, or be through."""
    ports = ports_of()
    rotation = ready(ports)
    ports.rds.alter(GREEN, deletion_protection=True)
    now = ports.clock.now()
    undo = Undo(outcome="rolled-back", started_at=now, not_before=now)
    ports.blue_green.becomes(status)

    remove(rotation.having(undo=undo), ports)

    assert DELETION not in ports.calls
    assert ports.rds.instances[GREEN].deletion_protection


def test_what_has_a_blues_resource_id_is_never_unprotected_whatever_rds_lists_as_green() -> None:
    """It is production, or was until a moment ago."""
    ports = ports_of()
    rotation = ready(ports)
    ports.rds.alter(SOURCE, deletion_protection=True)
    now = ports.clock.now()
    ports.blue_green.pairs = [(green, blue) for blue, green in ports.blue_green.pairs]

    remove(rotation.having(undo=Undo(outcome="rolled-back", started_at=now, not_before=now)), ports)

    assert ports.rds.instances[SOURCE].deletion_protection
    assert GREEN_TAG not in ports.rds.instances[SOURCE].tags


def test_a_green_that_nobody_has_marked_yet_is_marked_before_it_is_unprotected() -> None:
    """The mark is what permissions go by: without it the deletion protection stays, and green with it."""
    ports = ports_of()
    ports.rds.alter(SOURCE, deletion_protection=True)
    rotation = created(ports)
    green = ports.rds.instances[GREEN].database.arn
    ports.calls.clear()

    undone(rotation, ports)

    deeds = [call for call in ports.calls if "set_tags" in call or "deletion_protection" in call]
    assert [f"rds.set_tags {green}", f"rds.disable_deletion_protection {GREEN}"] == deeds


def test_another_rotations_mark_on_blue_stays() -> None:
    ports = ports_of()
    rotation = ready(ports)
    ports.rds.alter(SOURCE, tags={DEPLOYMENT_TAG: "another"})

    undone(rotation, ports)

    assert ports.rds.instances[SOURCE].tags[DEPLOYMENT_TAG] == "another"


def test_a_green_whose_deployment_somebody_has_deleted_is_left_over_by_its_own_name() -> None:
    """The console keeps green then, and no command about the deployment would remove it."""
    ports = ports_of()
    rotation = ready(ports)
    now = ports.clock.now()
    rotation = rotation.having(undo=Undo(outcome="rolled-back", started_at=now, not_before=now))
    ports.blue_green.live = None
    rotation = remove(rotation, ports)
    assert rotation.undo is not None
    assert not rotation.undo.clean
    ports.clock.advance(24 * 3600)

    undo = remove(rotation, ports).undo

    assert undo is not None
    assert undo.clean
    assert undo.leftovers[0].startswith(f"aws rds delete-db-instance --db-instance-identifier {GREEN} ")


def test_people_are_told_what_keeps_the_deployment_from_being_deleted() -> None:
    ports = ports_of()
    rotation = failed(asked(ports))
    ports.blue_green.becomes("AVAILABLE")
    ports.clock.advance(SLOWEST_FUNCTION.total_seconds())
    rotation = visit(roll_back_deployment, rotation, ports, takes_over=True)
    ports.clock.advance(PAGE_AFTER.total_seconds())
    ports.fail("blue_green.request_deletion", AccessRefused("rds:DeleteBlueGreenDeployment is not allowed"))

    visit(roll_back_deployment, rotation, ports)

    [(moment, _, message)] = ports.notifier.sent
    assert moment == "RotationUndecided"
    assert "rds:DeleteBlueGreenDeployment is not allowed" in str(message)


def test_a_status_that_is_a_moment_old_does_not_make_blue_serve() -> None:
    """The deletion of what RDS has begun to switch over is refused, whatever its status says."""
    ports = ports_of()
    rotation = asked(ports)
    ports.blue_green.shows_stale_status = True

    rotation = undone(rotation, ports)

    assert rotation.undo is not None
    assert rotation.undo.outcome == "undecided"
    ports.blue_green.shows_stale_status = False
    ports.blue_green.complete()
    rotation = undone(rotation, ports)
    assert rotation.undo is not None
    assert rotation.undo.outcome == "committed"


def test_waits_for_functions_that_may_still_be_running() -> None:
    ports = ports_of()
    rotation = failed(ready(ports), "States.Timeout")

    rotation = visit(roll_back_deployment, rotation, ports, takes_over=True)

    assert rotation.undo is not None
    assert rotation.undo.outcome == "undecided"
    assert DELETION not in ports.calls


def test_a_switchover_by_hand_goes_forward_also_while_green_is_being_removed() -> None:
    """Somebody presses the button in the console: then green is production."""
    ports = ports_of()
    rotation = failed(created(ports), "WrongKey")
    ports.blue_green.becomes("PROVISIONING")
    rotation = visit(roll_back_deployment, rotation, ports, takes_over=True)
    assert rotation.undo is not None
    assert (rotation.undo.outcome, rotation.undo.clean) == ("rolled-back", False)
    ports.blue_green.becomes("SWITCHOVER_IN_PROGRESS")
    rotation = visit(roll_back_deployment, rotation, ports)
    assert rotation.undo is not None
    assert rotation.undo.outcome == "undecided"
    ports.blue_green.complete()

    rotation = visit(roll_back_deployment, rotation, ports)

    assert rotation.undo is not None
    assert rotation.undo.outcome == "committed"
    assert {SOURCE, OLD} == set(ports.rds.instances)


def test_a_deployment_of_somebody_else_is_not_touched() -> None:
    ports = ports_of()
    rotation = created(ports)
    assert ports.blue_green.live is not None
    ports.blue_green.live = replace(ports.blue_green.live, tags={ROTATION_ID_TAG: "another"})

    undone(rotation, ports)

    assert DELETION not in ports.calls


@pytest.mark.parametrize("error", [AwsUnavailable("503"), AccessRefused("not allowed"), AwsRefused("invalid")])
def test_when_rds_does_not_answer_nothing_is_decided(error: Exception) -> None:
    ports = ports_of()
    rotation = failed(ready(ports), "WrongKey")
    ports.fail("blue_green.describe", error)

    rotation = visit(roll_back_deployment, rotation, ports, takes_over=True)

    assert rotation.undo is not None
    assert rotation.undo.outcome == "undecided"


def test_after_the_release_nobody_is_asked_which_side_serves() -> None:
    ports = ports_of()
    rotation = failed(switched(ports), "VerificationFailed")
    ports.fail("blue_green.describe", AwsUnavailable("503"))

    rotation = visit(roll_back_deployment, rotation, ports, takes_over=True)

    assert rotation.undo is not None
    assert rotation.undo.outcome == "committed"


@pytest.mark.parametrize("fallback", [None, "read-replica"])
def test_the_lock_is_free_when_all_is_gone_unless_another_strategy_follows(fallback: str | None) -> None:
    ports = ports_of()
    rotation = ready(ports)
    plan, _ = rotation.planned()
    rotation = journaled(ports, rotation.having(plan=plan.having(fallback=fallback)))

    rotation = undone(rotation, ports)

    assert rotation.undo is not None
    assert rotation.undo.clean
    assert (fallback is not None) == (SOURCE in ports.ledger.locks)


def test_what_is_clean_is_not_looked_at_again() -> None:
    """A look that failed would have people told that nobody knows which side serves."""
    ports = ports_of()
    rotation = undone(ready(ports), ports)
    undo = rotation.undo
    ports.fail("blue_green.describe", AwsUnavailable("503"))

    assert undo == visit(roll_back_deployment, rotation, ports).undo
    assert undo == remove(rotation, ports).undo


def test_a_rollback_is_counted_once_however_long_its_removal_takes() -> None:
    ports = ports_of()
    rotation = failed(created(ports), "SyncIncomplete")
    ports.blue_green.becomes("PROVISIONING")

    for _ in range(3):
        rotation = visit(roll_back_deployment, rotation, ports, takes_over=True)

    assert rotation.undo is not None
    assert ("rolled-back", False) == (rotation.undo.outcome, rotation.undo.clean)
    assert [1.0] == metrics.metric_set["RotationRolledBack"]["Value"]


def test_what_ends_before_there_is_a_key_is_no_rollback_to_count() -> None:
    ports = ports_of()
    rotation = journaled(ports, keyed(ports).having(new_key=None))

    undone(rotation, ports)

    assert "RotationRolledBack" not in metrics.metric_set


@pytest.mark.parametrize("error", [AwsUnavailable("503"), AwsRefused("not in this state")])
def test_a_removal_that_fails_is_tried_again_and_undecides_nothing(error: Exception) -> None:
    ports = ports_of()
    rotation = failed(ready(ports), "WrongKey")
    ports.fail("blue_green.request_deletion", error)

    rotation = visit(roll_back_deployment, rotation, ports, takes_over=True)

    assert rotation.undo is not None
    assert ("rolled-back", False, (f"{type(error).__name__}: {error}",)) == (
        rotation.undo.outcome, rotation.undo.clean, rotation.undo.waiting_for,
    )  # fmt: skip
    rotation = undone(rotation, ports)
    assert {SOURCE} == set(ports.rds.instances)


def test_a_removal_that_is_not_allowed_is_left_over_with_its_command() -> None:
    ports = ports_of()
    rotation = failed(ready(ports), "WrongKey")
    ports.fail("blue_green.request_deletion", AccessRefused("rds:DeleteBlueGreenDeployment"))

    rotation = visit(roll_back_deployment, rotation, ports, takes_over=True)

    assert rotation.undo is not None
    assert ("rolled-back", True) == (rotation.undo.outcome, rotation.undo.clean)
    leftover, *unmarking = rotation.undo.leftovers
    assert leftover.startswith("aws rds delete-blue-green-deployment --blue-green-deployment-identifier bgd-1 ")
    arn = ports.rds.instances[SOURCE].database.arn
    unmark = f"aws rds remove-tags-from-resource --resource-name {arn} --tag-keys {DEPLOYMENT_TAG}"
    assert [unmark] == unmarking, "it keeps the next rotation away"


def test_a_green_that_is_marked_on_the_way_back_is_deleted_when_the_mark_counts() -> None:
    """A wrong key ends the rotation before green is marked: given up then, every member would be paid for, for good."""
    ports = ports_of()
    rotation = failed(created(ports), "WrongKey")
    ports.clock.advance(SLOWEST_FUNCTION.total_seconds())
    rotation = visit(roll_back_deployment, rotation, ports, takes_over=True)
    assert rotation.undo is not None
    assert any("to count" in one for one in rotation.undo.waiting_for)
    ports.clock.advance(SETTLES_IN.total_seconds() - 1)
    rotation = visit(roll_back_deployment, rotation, ports)
    assert DELETION not in ports.calls

    rotation = undone(rotation, ports)

    assert {SOURCE} == set(ports.rds.instances)
    assert rotation.undo is not None
    assert rotation.undo.leftovers == ()


# -- afterwards --------------------------------------------------------------------------------------------------------


def test_the_cutover_is_verified_and_the_deployment_ended() -> None:
    ports = ports_of()
    rotation = visit(verify_switchover, switched(ports), ports)
    assert rotation.verification is not None
    assert not rotation.verification.complete
    for _ in range(2):
        rotation = visit(verify_switchover, rotation, ports)

    assert rotation.verification is not None
    assert rotation.verification.complete
    target, source = ports.rds.instances[SOURCE].tags, ports.rds.instances[OLD].tags
    assert {"team": "orders", "key-rotation:enabled": "true", RELEASED_TAG: ROTATION_ID} == target
    assert (ROTATION_ID, SOURCE) == (source[DECOMMISSION_TAG], source[names.BASE_NAME_TAG])
    assert "key-rotation:enabled" not in source
    assert ports.ledger.successor(SOURCE) == rotation.synced_target().resource_id
    assert "blue_green.request_deletion bgd-1 with_target=False" in ports.calls
    assert DELETION not in ports.calls


@pytest.mark.parametrize("refusal", [AccessRefused("rds:DeleteDBInstance"), AwsRefused("no", "SomethingElse")])
def test_a_deployment_that_may_not_be_ended_is_left_to_decommission(refusal: Exception) -> None:
    """RDS may ask for the right to delete its members, which this step must not have: they are production."""
    ports = ports_of()
    rotation = visit(wait_for_switchover, switched(ports), ports)
    ports.fail("blue_green.request_deletion", refusal)

    rotation = visit(verify_switchover, rotation, ports)

    assert complete(rotation)
    [leftover] = message_of(rotation, Moment.CUT_OVER)["leftovers"]
    assert leftover.startswith("aws rds delete-blue-green-deployment --blue-green-deployment-identifier bgd-1  # ")
    assert "--delete-target" not in leftover.partition("#")[0]
    assert str(refusal) in leftover

    ports.clock.advance(8 * 86400)
    ports.calls.clear()
    for _ in range(30):
        rotation = visit(decommission, rotation, ports)
        for snapshot in ports.rds.snapshots.values():
            snapshot["Status"] = "available"

    assert rotation.decommission is not None
    assert rotation.decommission.complete
    assert (set(ports.rds.instances), ports.blue_green.live) == ({SOURCE}, None)
    deeds = [call for call in ports.calls if "request_" in call]
    assert deeds[0] == "blue_green.request_deletion bgd-1 with_target=False", "RDS deletes none of its members before"
    assert message_of(rotation, Moment.COMPLETED)["leftovers"] == []


def test_a_deployment_that_may_not_be_looked_at_is_no_leftover() -> None:
    """Nothing is known of it then."""
    ports = ports_of()
    rotation = switched(ports)
    ports.fail("blue_green.describe", AccessRefused("rds:DescribeBlueGreenDeployments"))

    with pytest.raises(AccessRefused):
        visit(verify_switchover, rotation, ports)


def complete(rotation: Rotation) -> bool:
    assert rotation.verification is not None
    return rotation.verification.complete


def _under_the_old_key(ports: FakePorts) -> None:
    ports.rds.alter(SOURCE, database=ports.rds.instances[SOURCE].database.having(kms_key_arn=OLD_KEY))


def _a_replica_still(ports: FakePorts) -> None:
    ports.rds.alter(SOURCE, replica_of=OLD)


@pytest.mark.parametrize("wrong", [_under_the_old_key, _a_replica_still])
def test_a_target_that_is_not_what_it_has_to_be_is_not_verified(wrong: Callable[[FakePorts], None]) -> None:
    ports = ports_of()
    rotation = switched(ports)
    wrong(ports)
    for _ in range(3):
        rotation = visit(verify_switchover, rotation, ports)

    assert not complete(rotation)


def test_a_target_that_is_gone_is_for_a_person() -> None:
    ports = ports_of()
    rotation = switched(ports)
    del ports.rds.instances[SOURCE]

    with pytest.raises(VerificationFailed, match=f"{SOURCE} no longer exists"):
        visit(verify_switchover, rotation, ports)
    assert ports.ledger.successor(SOURCE) is None


def test_what_was_verified_once_is_not_judged_again() -> None:
    """A recovery of a rotation that was further than this: weeks later everything may be different."""
    ports = ports_of()
    rotation = switched(ports)
    for _ in range(3):
        rotation = visit(verify_switchover, rotation, ports)
    assert complete(rotation)
    ports.rds.alter(SOURCE, status="storage-full")
    ports.clock.advance(PATIENCE.total_seconds() + 1)

    again = visit(verify_switchover, failed(rotation), ports)

    assert (rotation.verification, None) == (again.verification, again.failure)


def test_a_switchover_that_is_verified_late_has_a_day_of_grace() -> None:
    ports = ports_of()
    rotation = switched(ports)
    ports.clock.advance(9 * 24 * 3600)
    late = visit(verify_switchover, rotation, ports)

    assert late.grace_ends_at is not None
    assert 24 * 3600 == (late.grace_ends_at - ports.clock.now()).total_seconds()


def test_a_deployment_that_is_being_deleted_is_not_asked_for_its_end_again(monkeypatch: pytest.MonkeyPatch) -> None:
    ports = ports_of()
    rotation = switched(ports)
    ports.blue_green.becomes("DELETING")
    monkeypatch.setattr(ports.blue_green, "request_deletion", None)

    assert not complete(visit(verify_switchover, rotation, ports))


def test_an_opt_in_that_green_has_otherwise_is_the_sources() -> None:
    """RDS copied the tags when green was made; what the owner has changed since counts."""
    ports = ports_of()
    rotation = switched(ports)
    ports.rds.alter(SOURCE, tags={"key-rotation:enabled": "false"})

    visit(verify_switchover, rotation, ports)

    assert ports.rds.instances[SOURCE].tags["key-rotation:enabled"] == "true"


def shows_the_former_name(ports: FakePorts, of: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """RDS shows what has this name under the one that it had before the switchover, when asked by its resource id."""
    arn, resource_id = ports.rds.instances[SOURCE].database.arn, ports.rds.instances[of].database.resource_id
    now = ports.rds.describe_instance_by_resource_id
    former = {"identifier": SOURCE, "arn": arn} if of == OLD else {"identifier": GREEN, "arn": f"{arn}-green-1"}

    def stale(wanted: str) -> Instance | None:
        found = now(wanted)
        if found is None or wanted != resource_id:
            return found
        return replace(found, database=found.database.having(**former))

    monkeypatch.setattr(ports.rds, "describe_instance_by_resource_id", stale)


@pytest.mark.parametrize("of", [OLD, SOURCE])
def test_nothing_is_tagged_by_a_name_that_rds_has_given_away(of: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mark for removal would be production's, and stay there: the fleet would pass it over for ever."""
    ports = ports_of()
    rotation = switched(ports)
    before = {name: one.tags for name, one in ports.rds.instances.items()}
    with monkeypatch.context() as moment:
        shows_the_former_name(ports, of, moment)
        rotation = visit(verify_switchover, rotation, ports)
    assert rotation.verification is not None
    assert before == {name: one.tags for name, one in ports.rds.instances.items()}
    assert not rotation.verification.complete

    for _ in range(3):
        rotation = visit(verify_switchover, rotation, ports)

    assert rotation.verification is not None
    assert rotation.verification.complete
    assert DECOMMISSION_TAG not in ports.rds.instances[SOURCE].tags


def test_the_source_is_not_known_by_the_name_that_it_had(monkeypatch: pytest.MonkeyPatch) -> None:
    ports = ports_of()
    rotation = asked(ports)
    ports.blue_green.complete()
    with monkeypatch.context() as moment:
        shows_the_former_name(ports, OLD, moment)
        rotation = visit(wait_for_switchover, rotation, ports)
        assert rotation.release is None

    rotation = visit(wait_for_switchover, rotation, ports)

    assert (OLD, SOURCE) == (rotation.planned()[1].identifier, rotation.synced_target().identifier)


def test_no_side_gets_more_tags_than_preflight_keeps_free() -> None:
    """Of fifty; what was a target of an earlier rotation has some of ours already."""
    ports = ports_of()
    before = names.our_tags(SOURCE, "00000000") | {RELEASED_TAG: "00000000"}
    ports.rds.alter(SOURCE, tags={**ports.rds.instances[SOURCE].tags, **before})

    rotation = ready(ports)
    green_is_ready = _most_of_ours(ports)
    rotation = visit(switch_over, rotation, ports)
    ports.blue_green.complete()
    for step in (wait_for_switchover, *3 * (verify_switchover,)):
        rotation = visit(step, rotation, ports)

    assert (names.TAGS_OF_A_MEMBER, names.TAGS_OF_A_MEMBER) == (green_is_ready, _most_of_ours(ports))


def _most_of_ours(ports: FakePorts) -> int:
    """The number of a rotation's tags on the database that has most of them."""
    return max(len([name for name in one.tags if name.startswith(names.OURS)]) for one in ports.rds.instances.values())


def test_the_old_side_is_removed_after_the_grace_period_replicas_first() -> None:
    ports, rotation = after_grace()
    for _ in range(30):
        rotation = visit(decommission, rotation, ports)
        for snapshot in ports.rds.snapshots.values():
            snapshot["Status"] = "available"

    assert rotation.decommission is not None
    assert rotation.decommission.complete
    assert {SOURCE, f"{SOURCE}-r1"} == set(ports.rds.instances)
    deletions = [call for call in ports.calls if "request_instance_deletion" in call]
    assert [f"rds.request_instance_deletion {SOURCE}-r1-old1", f"rds.request_instance_deletion {OLD}"] == [
        " ".join(call.split()[:2]) for call in dict.fromkeys(deletions)
    ]
    assert [f"{SOURCE}-rot-{ROTATION_ID}-kept"] == list(ports.rds.snapshots)
    assert not [call for call in ports.calls if call.startswith("engine.")], "no login is needed"


def after_grace() -> tuple[FakePorts, Rotation]:
    ports = ports_of(replica=True)
    rotation = switched(ports)
    for _ in range(3):
        rotation = visit(verify_switchover, rotation, ports)
    ports.clock.advance(8 * 86400)
    ports.calls.clear()
    return ports, rotation


def go_back_by_hand(ports: FakePorts, name: str) -> None:
    """Rename the target away, and the source to the name that applications use."""
    old, new = ports.rds.instances.pop(f"{name}-old1"), ports.rds.instances.pop(name)
    for one, called in ((old, name), (new, f"{name}-new")):
        arn = f"{one.database.arn.rpartition(':')[0]}:{called}"
        ports.rds.instances[called] = replace(one, database=one.database.having(identifier=called, arn=arn))


@pytest.mark.parametrize("name", [SOURCE, f"{SOURCE}-r1"])
@pytest.mark.parametrize("visits", [0, 3])
def test_what_somebody_has_gone_back_to_by_hand_is_production(name: str, visits: int) -> None:
    """No record and no secret would show it: applications use RDS's own name."""
    ports, rotation = after_grace()
    for _ in range(visits):
        rotation = visit(decommission, rotation, ports)
    go_back_by_hand(ports, name)

    with pytest.raises(RetirementRefused, match="has the name that applications use again"):
        visit(decommission, rotation, ports)
    assert name in ports.rds.instances
    assert not [call for call in ports.calls if "deletion" in call and "snapshot" not in call]


def test_a_replica_that_somebody_lets_serve_under_the_sources_name_is_production() -> None:
    ports, rotation = after_grace()
    new, replica = ports.rds.instances.pop(SOURCE), ports.rds.instances.pop(f"{SOURCE}-r1-old1")
    for one, called in ((replica, SOURCE), (new, f"{SOURCE}-new")):
        arn = f"{one.database.arn.rpartition(':')[0]}:{called}"
        ports.rds.instances[called] = replace(one, database=one.database.having(identifier=called, arn=arn))

    with pytest.raises(RetirementRefused, match=f"{SOURCE} has the name that applications use again"):
        visit(decommission, rotation, ports)


def test_a_replica_that_somebody_has_promoted_is_no_replica_to_delete() -> None:
    ports, rotation = after_grace()
    ports.rds.alter(f"{SOURCE}-r1-old1", replica_of=None)

    with pytest.raises(RetirementRefused, match=f"{SOURCE}-r1-old1 is no replica any more"):
        visit(decommission, rotation, ports)


def test_a_replica_that_somebody_has_made_of_the_old_side_keeps_it() -> None:
    """RDS would promote it; it has no successor, and nobody has marked it."""
    ports, rotation = after_grace()
    ports.rds.add("reports", key_arn=OLD_KEY, replica_of=OLD)
    raw = ports.rds.instances[OLD].raw
    followers = [*raw["ReadReplicaDBInstanceIdentifiers"], "reports"]
    ports.rds.alter(OLD, raw={**raw, "ReadReplicaDBInstanceIdentifiers": followers})

    with pytest.raises(RetirementRefused, match=f"{OLD} has replicas: reports"):
        visit(decommission, rotation, ports)


def test_the_old_side_stays_until_its_replicas_are_gone() -> None:
    """RDS would promote those that it has not deleted yet."""
    ports, rotation = after_grace()
    replica = f"{SOURCE}-r1-old1"
    for _ in range(16):
        rotation = visit(decommission, rotation, ports)
        assert replica not in ports.rds.instances or ports.rds.instances[OLD].status == "available"

    assert OLD not in ports.rds.instances


def test_a_replica_that_is_being_deleted_is_nobodys_any_more() -> None:
    """RDS may show it without its source by then, whoever asked for its end."""
    ports, rotation = after_grace()
    ports.rds.alter(f"{SOURCE}-r1-old1", replica_of=None, status="deleting")

    visit(decommission, rotation, ports)

    assert ports.rds.snapshots


def test_replicas_that_go_along_with_a_source_that_somebody_has_deleted_need_nobody() -> None:
    ports, rotation = after_grace()
    del ports.rds.instances[OLD]
    ports.rds.alter(f"{SOURCE}-r1-old1", status="deleting")

    for _ in range(5):
        rotation = visit(decommission, rotation, ports)

    assert rotation.decommission is not None
    assert rotation.decommission.complete


def test_replicas_of_a_source_that_somebody_has_deleted_are_named() -> None:
    """RDS has promoted them, and nobody else would ever look for them."""
    ports, rotation = after_grace()
    del ports.rds.instances[OLD]
    ports.rds.alter(f"{SOURCE}-r1-old1", replica_of=None)

    with pytest.raises(RetirementRefused, match=f"has promoted {SOURCE}-r1-old1"):  # noqa: PT012 - some visits on
        for _ in range(5):
            rotation = visit(decommission, rotation, ports)
    assert f"{SOURCE}-r1-old1" in ports.rds.instances


def test_without_an_old_key_there_is_nothing_to_retire() -> None:
    ports = ports_of()
    rotation = switched(ports)
    _, source = rotation.planned()
    rotation = journaled(ports, rotation.having(old_key=None, source=source.having(kms_key_arn=None)))

    retired = schedule_key_deletion(rotation, ports)

    assert retired.retirement is not None
    assert (retired.retirement.verdict, retired.retirement.complete) == ("no-key", True)


def test_a_target_that_stays_wrong_is_for_a_person() -> None:
    ports = ports_of()
    rotation = visit(verify_switchover, switched(ports), ports)
    ports.rds.alter(SOURCE, status="storage-full")
    ports.clock.advance(PATIENCE.total_seconds() + 1)

    with pytest.raises(Exception, match="storage-full"):
        visit(verify_switchover, rotation, ports)


# -- what it refuses ---------------------------------------------------------------------------------------------------


def refused(ports: FakePorts) -> list[str]:
    rotation = planned_rotation(ports, strategy="blue-green", login_secret=None, connectivity=(), dns_record=None)
    try:
        preflight(rotation, ports)
    except PreflightRefused as refusal:
        return [line.partition(":")[0] for line in str(refusal).splitlines()]
    return []


def test_needs_neither_login_nor_connectivity_nor_a_key_before() -> None:
    ports = ports_of()
    database = ports.rds.instances[SOURCE].database.having(kms_key_arn=None)
    ports.rds.alter(SOURCE, database=database, storage_encrypted=False)

    assert [] == refused(ports)


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        ({"MasterUserSecret": {"SecretArn": "arn"}}, "ManagedMasterPassword"),
        ({"DBClusterIdentifier": "c"}, "ClusterMember"),
        ({"ReadReplicaDBInstanceIdentifiers": ["arn:aws:rds:us-east-1:1:db:far"]}, "ReplicaElsewhere"),
        ({"ReadReplicaDBClusterIdentifiers": ["cluster"]}, "ReplicaElsewhere"),
        ({"ReadReplicaDBInstanceIdentifiers": ["gone"]}, "NotAvailable"),
        ({"PendingModifiedValues": {"DBInstanceClass": "x"}}, "ChangesPending"),
    ],
)
def test_refuses_by_name_what_rds_does_not_copy(raw: dict[str, object], reason: str) -> None:
    ports = ports_of()
    ports.rds.alter(SOURCE, raw=raw)

    assert [reason] == refused(ports)


def test_refuses_a_replica_without_room_for_a_tag() -> None:
    ports = ports_of(replica=True)
    ports.rds.alter(f"{SOURCE}-r1", tags={f"t{at}": "" for at in range(46)})

    assert ["TooManyTags"] == refused(ports)


def test_refuses_cascades_logical_replication_proxies_and_other_deployments() -> None:
    ports = ports_of(replica=True)
    ports.rds.alter(f"{SOURCE}-r1", raw={"ReadReplicaDBInstanceIdentifiers": ["r2"]})
    raw = {**ports.rds.instances[SOURCE].raw, "DBParameterGroups": [{"DBParameterGroupName": "g"}]}
    ports.rds.alter(SOURCE, raw=raw, replica_of="other", backup_retention_days=0)
    ports.rds.parameters["rds.logical_replication"] = "1"
    ports.rds.proxies[SOURCE] = ["proxy"]
    ports.blue_green.others = ["upgrade"]

    assert {
        "CascadingReplicas", "DeploymentExists", "LogicalSlots", "ProxyTarget", "IsReplica", "BackupsOff",
    } == set(refused(ports))  # fmt: skip


LEFT_OUT_BY = (
    "replicate-do-db", "replicate-do-table", "replicate-ignore-db", "replicate-ignore-table", "replicate-wild-do-table",
    "replicate-wild-ignore-table",
)  # fmt: skip


@pytest.mark.parametrize(
    ("engine", "parameter", "value", "reasons"),
    [
        ("mariadb", "event_scheduler", "ON", ["EventsEnabled"]),
        ("mariadb", "event_scheduler", "OFF", []),
        ("mariadb", "event_scheduler", None, []),
        ("mariadb", "binlog_format", "STATEMENT", ["StatementReplication"]),
        ("mariadb", "binlog_format", "MIXED", []),
        ("mariadb", "rds.logical_replication", "1", []),
        ("mysql", "event_scheduler", "ON", ["EventsEnabled"]),
        ("mysql", "event_scheduler", "OFF", []),
        ("mysql", "event_scheduler", None, ["EventsEnabled"]),
        ("mysql", "binlog_format", "STATEMENT", ["StatementReplication"]),
        ("mysql", "binlog_format", "ROW", []),
        ("postgres", "event_scheduler", "ON", []),
        *((engine, name, "shop", ["ReplicationFilters"]) for engine in ("mariadb", "mysql") for name in LEFT_OUT_BY),
        ("mysql", "replicate-do-db", "", []),
        ("mysql", "replicate-ignore-table", "mysql.rds_history,innodb_memcache.cache_policies", []),
        ("mariadb", "replicate-ignore-table", "mysql.rds_history,shop.orders", ["ReplicationFilters"]),
        ("postgres", "replicate-do-db", "shop", []),
    ],
)
def test_refuses_what_green_would_do_differently(
    engine: str, parameter: str, value: str | None, reasons: list[str]
) -> None:
    ports = ports_of()
    in_a_group(ports, engine, {"event_scheduler": "OFF", parameter: value})

    assert reasons == refused(ports)


@pytest.mark.parametrize(
    ("version", "reasons"), [("5.7.44", []), ("8.0.39", ["EventsEnabled"]), ("9.1.0", ["EventsEnabled"])]
)
def test_where_nobody_has_set_it_the_version_decides_whether_events_run(version: str, reasons: list[str]) -> None:
    """The group says nothing, and MySQL's default has changed with version 8."""
    ports = ports_of()
    in_a_group(ports, "mysql", {}, version)

    assert reasons == refused(ports)


def in_a_group(
    ports: FakePorts, engine: str, parameters: Mapping[str, str | None], engine_version: str = "8.4.6"
) -> None:
    """The source is of this engine, and has a group that sets these parameters, if not to None."""
    raw = {**ports.rds.instances[SOURCE].raw, "DBParameterGroups": [{"DBParameterGroupName": "g"}]}
    database = ports.rds.instances[SOURCE].database.having(engine=engine, engine_version=engine_version)
    ports.rds.alter(SOURCE, raw=raw, database=database)
    ports.rds.parameters = {name: value for name, value in parameters.items() if value is not None}


@pytest.mark.parametrize(
    ("engine", "login", "name"),
    [
        ("postgres", None, "UnloggedUnseen"),
        ("mariadb", None, "MemoryUnseen"),
        ("mysql", None, "MemoryUnseen"),
        ("mysql", "rotation-login", "MemoryUnseen"),
    ],
)
def test_says_what_nobody_has_looked_for(engine: str, login: str | None, name: str) -> None:
    ports = ports_of()
    ports.rds.alter(SOURCE, database=ports.rds.instances[SOURCE].database.having(engine=engine))
    rotation = planned_rotation(ports, strategy="blue-green", login_secret=login, connectivity=(), dns_record=None)

    seen = preflight(rotation, ports).preflight

    assert seen is not None
    assert [name, "SwitchoverByRds"] == [warning.name for warning in seen.warnings]


@pytest.mark.parametrize(
    ("name", "is_refused"), [("Subscriptions", True), ("TablesNotRecovered", True), ("NotDurable", False)]
)
def test_with_a_login_it_refuses_what_green_would_not_have(name: str, is_refused: bool) -> None:
    """Not what a fence of our own would not hold, which this strategy has none of."""
    ports = ports_of()
    ports.source_server.found = [Finding(name=name, message="m", advice="a")]
    rotation = planned_rotation(ports, strategy="blue-green", login_secret="login", connectivity=(), dns_record=None)

    with pytest.raises(PreflightRefused, match=name) if is_refused else nullcontext():
        preflight(rotation, ports)


def test_what_another_rotation_left_behind_is_no_database_to_rotate() -> None:
    """Until it is verified nothing but this tag tells ``orders-old1`` from a database of its own."""
    ports = ports_of()
    ports.rds.alter(SOURCE, tags={DEPLOYMENT_TAG: "another"})

    assert ["BelongsToRotation"] == refused(ports)


def test_a_deployment_that_does_not_go_is_looked_at_less_and_less_often() -> None:
    """A day of looking every half minute, after two days of waiting for green, would fill the execution's history."""
    ports = ports_of()
    rotation = failed(created(ports), "SyncIncomplete")
    ports.blue_green.becomes("PROVISIONING")
    seen = []
    for minutes in (61, 1):
        rotation = visit(roll_back_deployment, rotation, ports, takes_over=True)
        assert rotation.undo is not None
        assert ("rolled-back", False) == (rotation.undo.outcome, rotation.undo.clean)
        seen.append(rotation.undo.look_again_seconds)
        ports.clock.advance(60 * minutes)

    assert [30, 300] == seen
