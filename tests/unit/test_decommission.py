"""Nothing is deleted before its safety copy is available, nor without the right to, found anew at every visit."""

from collections.abc import Callable
from contextlib import nullcontext
from datetime import datetime, timedelta
from typing import Any

import pytest

from lambdas.decommission.handler import PATIENCE, decommission
from lambdas.rotation.errors import (
    AccessRefused,
    AwsUnavailable,
    ConnectivityChanged,
    DatabaseUnreachable,
    LoginRefused,
    RetirementRefused,
    SnapshotFailed,
    SqlRefused,
)
from lambdas.rotation.names import CONTROL_DATABASE, DECOMMISSION_TAG, our_tags
from lambdas.rotation.notification import message_of
from lambdas.rotation.ports import ProxyTarget
from lambdas.rotation.state import EndpointSecret, Moment, Rotation
from tests.fakes import (
    NEW_KEY,
    OLD_KEY,
    ROTATION_ID,
    SOURCE,
    TARGET,
    Catalog,
    FakeEngine,
    FakePorts,
    journaled,
    past_grace,
    snapshot,
    switched_rotation,
)

RECORD = ("Z1", "db.example.com")
TEMPORARY, KEPT = f"{TARGET}-source", f"{TARGET}-kept"


def after_grace() -> tuple[FakePorts, Rotation]:
    ports = FakePorts()
    rotation = switched_rotation(ports)
    assert rotation.fence is not None
    FakeEngine(ports.target_server).decide(ROTATION_ID, "release", rotation.fence.databases)
    ports.dns.records[RECORD] = (ports.rds.instances[TARGET].database.address, 5)
    return ports, past_grace(ports, rotation)


def to_the_end(ports: FakePorts, rotation: Rotation, visits: int = 20) -> Rotation:
    for _ in range(visits):
        rotation = decommission(rotation, ports)
        ports.ledger.record(rotation)
        assert rotation.decommission is not None
        if rotation.decommission.complete:
            return rotation
        ports.clock.advance(rotation.decommission.look_again_seconds)
    raise AssertionError(f"not complete: {rotation.decommission}")


def deeds(ports: FakePorts) -> list[str]:
    return [call for call in ports.calls if call != "ledger.record"]


def test_copies_then_deletes_then_frees_the_lock() -> None:
    ports, rotation = after_grace()
    ports.rds.alter(SOURCE, deletion_protection=True)

    to_the_end(ports, rotation)

    assert deeds(ports) == [
        f"rds.request_snapshot {TEMPORARY}",
        f"rds.request_snapshot_copy {KEPT}",
        f"rds.request_snapshot_deletion {TEMPORARY}",
        f"rds.disable_deletion_protection {SOURCE}",
        f"rds.request_instance_deletion {SOURCE} keeping backups",
        f"engine.drop_control_database {TARGET}",
        "ledger.release_lock",
    ]
    assert set(ports.rds.snapshots) == {KEPT}
    assert ports.rds.snapshots[KEPT]["KmsKeyId"] == NEW_KEY
    assert ports.rds.snapshots_under(NEW_KEY, our_tags(SOURCE, ROTATION_ID)) == [KEPT]
    assert SOURCE not in ports.rds.instances
    assert CONTROL_DATABASE not in ports.target_server.own.open
    assert ports.ledger.locks == {}


def test_what_is_replicated_of_a_source_elsewhere_is_left_as_it_is() -> None:
    """Under its key, until it expires: the last way back, from there. The function has no business in that Region."""
    ports, rotation = after_grace()
    key = "arn:aws:kms:eu-west-1:123456789012:key/old"
    left = ports.replicated_backups.add(SOURCE, "eu-west-1", key)

    to_the_end(ports, rotation)

    assert f"rds.request_instance_deletion {SOURCE} keeping backups" in ports.calls
    assert [] == [call for call in ports.calls if "replicated_backups" in call]
    assert left == ports.replicated_backups.at(left.arn)
    assert {} == ports.kms_in("eu-west-1").keys


@pytest.mark.parametrize("call", ["request_snapshot", "request_snapshot_copy", "request_instance_deletion"])
def test_a_lost_answer_is_found_out_at_the_next_visit(call: str) -> None:
    ports, rotation = after_grace()
    ports.fail(f"rds.{call}", AwsUnavailable("lost answer"), when="after")

    with pytest.raises(AwsUnavailable):
        to_the_end(ports, rotation)
    to_the_end(ports, ports.ledger.current(rotation))

    assert 1 == sum(one.startswith(f"rds.{call} ") for one in ports.calls)


def _nameless(ports: FakePorts) -> None:
    del ports.dns.records[RECORD]


def _named(ports: FakePorts) -> None:
    ports.dns.records[RECORD] = (ports.rds.instances[SOURCE].database.address, 5)


def _unmarked(ports: FakePorts) -> None:
    ports.rds.alter(SOURCE, tags={})


def _of_another(ports: FakePorts) -> None:
    ports.rds.alter(SOURCE, tags={DECOMMISSION_TAG: "another"})


def _ledger_leads_back(ports: FakePorts) -> None:
    ports.ledger.lineage[SOURCE] = ports.rds.instances[SOURCE].database.resource_id


def _successor_gone(ports: FakePorts) -> None:
    del ports.rds.instances[TARGET]


def _has_replicas(ports: FakePorts) -> None:
    ports.rds.alter(SOURCE, raw={"ReadReplicaDBInstanceIdentifiers": ["reports"]})


def _key_disabled(ports: FakePorts) -> None:
    ports.kms.disable_key(NEW_KEY)


def _key_going(ports: FakePorts) -> None:
    ports.kms.schedule_key_deletion(NEW_KEY, 7)


@pytest.mark.parametrize(
    "wrong",
    [
        _nameless, _named, _unmarked, _of_another, _ledger_leads_back, _successor_gone, _has_replicas, _key_disabled,
        _key_going,
    ],
)  # fmt: skip
@pytest.mark.parametrize("visits", [0, 2, 5])
def test_deletes_nothing_without_the_right_to(wrong: Callable[[FakePorts], None], visits: int) -> None:
    """The facts may change between any two visits."""
    ports, rotation = after_grace()
    for _ in range(visits):
        rotation = decommission(rotation, ports)
    wrong(ports)
    ports.calls.clear()

    with pytest.raises(RetirementRefused):
        decommission(rotation, ports)

    assert ports.calls == []
    assert SOURCE in ports.rds.instances


@pytest.mark.parametrize("visits", [0, 2, 4])
def test_a_source_that_somebody_has_opened_again_stays(visits: int) -> None:
    """Clients that still use its endpoint write there, and the target has nothing of it."""
    ports, rotation = after_grace()
    for _ in range(visits):
        rotation = decommission(rotation, ports)
    ports.source_server.own.open["orders"] = True
    ports.calls.clear()

    with pytest.raises(RetirementRefused, match="written to orders since the cutover: orders accepts"):
        decommission(rotation, ports)

    assert [] == ports.calls
    ports.source_server.own.open["orders"] = False
    to_the_end(ports, rotation)
    assert SOURCE not in ports.rds.instances


@pytest.mark.parametrize("unseen", [DatabaseUnreachable("it is stopped"), LoginRefused("another password by now")])
def test_a_source_that_nobody_can_look_into_goes_all_the_same(unseen: Exception) -> None:
    """Verify has seen its fence. It would be kept for ever, and with it the old key."""
    ports, rotation = after_grace()
    for _ in range(20):
        ports.fail("engine.fence_breach", unseen)

    to_the_end(ports, rotation)

    assert SOURCE not in ports.rds.instances


def test_a_source_whose_server_says_something_else_stays() -> None:
    """That the control database is gone, say: somebody has taken the source for theirs."""
    ports, rotation = after_grace()
    ports.fail("engine.fence_breach", SqlRefused("3D000", "database rds_key_rotation does not exist"))

    with pytest.raises(RetirementRefused, match="its fence cannot be seen: database rds_key_rotation does not exist"):
        decommission(rotation, ports)


def test_the_grace_period_counts() -> None:
    ports, rotation = after_grace()
    assert rotation.grace_ends_at is not None
    ports.clock.advance(-1)

    with pytest.raises(RetirementRefused, match="grace"):
        decommission(rotation, ports)


def test_an_unverified_cutover_does_not_count() -> None:
    ports, rotation = after_grace()

    with pytest.raises(RetirementRefused, match="verified"):
        decommission(rotation.having(verification=None), ports)


def test_a_cutover_of_which_not_everything_was_seen_does_not_count() -> None:
    ports, rotation = after_grace()
    assert rotation.verification is not None

    with pytest.raises(RetirementRefused, match="verified"):
        decommission(rotation.having(verification=rotation.verification.having(complete=False)), ports)


def test_a_grace_period_that_nobody_has_begun_is_not_over() -> None:
    ports, rotation = after_grace()

    with pytest.raises(RetirementRefused, match="grace"):
        decommission(rotation.having(grace_ends_at=None), ports)


def _ledger_leads_nowhere(ports: FakePorts) -> None:
    ports.ledger.lineage.clear()


def _successor_going(ports: FakePorts) -> None:
    ports.rds.alter(TARGET, status="deleting")


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        (_ledger_leads_nowhere, "leads to orders itself"),
        (_ledger_leads_back, "leads to orders itself"),
        (_successor_gone, "may be the last copy"),
        (_successor_going, "may be the last copy"),
    ],
)
def test_without_a_name_that_says_so_the_ledger_and_its_successor_decide(
    wrong: Callable[[FakePorts], None], why: str
) -> None:
    """A hook, a proxy or a name that RDS has exchanged is looked up nowhere."""
    ports, rotation = after_grace()
    wrong(ports)

    with pytest.raises(RetirementRefused, match=why):
        decommission(rotation.having(connectivity=None), ports)

    assert ports.calls == []


def test_a_later_targets_key_counts_and_not_the_one_that_this_rotation_made() -> None:
    ports, rotation = after_grace()
    key_arn = NEW_KEY.replace("/", "/later-")
    ports.kms.add(key_arn)
    later = ports.rds.add("orders-rot-later", key_arn=key_arn)
    ports.ledger.lineage[SOURCE] = later.database.resource_id
    ports.dns.records[RECORD] = (later.database.address, 5)
    ports.kms.disable_key(key_arn)

    with pytest.raises(RetirementRefused, match=f"{key_arn} of the target is Disabled"):
        decommission(rotation, ports)


def test_where_rds_shows_no_key_of_the_successor_the_rotations_own_counts() -> None:
    ports, rotation = after_grace()
    ports.rds.alter(TARGET, database=ports.rds.instances[TARGET].database.having(kms_key_arn=None))

    to_the_end(ports, rotation)

    assert SOURCE not in ports.rds.instances


def test_the_target_is_no_replica_that_keeps_its_source() -> None:
    """RDS may list it for a moment after its promotion."""
    ports, rotation = after_grace()
    ports.rds.alter(SOURCE, raw={"ReadReplicaDBInstanceIdentifiers": [TARGET]})

    to_the_end(ports, rotation)

    assert SOURCE not in ports.rds.instances


def test_a_name_that_leads_nowhere_leads_to_no_successor_either(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two answers that are both empty are equal."""
    ports, rotation = after_grace()
    monkeypatch.setattr(ports.names, "addresses", lambda _: frozenset())

    with pytest.raises(RetirementRefused, match="does not lead to"):
        decommission(rotation, ports)


@pytest.mark.parametrize("in_the_secret", [True, False])
def test_a_host_is_the_same_in_capital_letters_and_with_a_dot(in_the_secret: bool) -> None:
    ports, rotation = after_grace()
    target = ports.rds.instances[TARGET].database
    host = f"{target.address.upper()}." if in_the_secret else target.address
    ports.secrets.endpoints["arn:s"] = EndpointSecret(arn="arn:s", version_id="v", host=host)
    if not in_the_secret:
        ports.rds.alter(TARGET, database=target.having(address=target.address.upper()))
    assert rotation.connectivity is not None
    seen: Any = rotation.connectivity.having(record=None, secret=ports.secrets.endpoints["arn:s"])

    decommission(rotation.having(connectivity=seen), ports)

    assert TEMPORARY in ports.rds.snapshots


def test_a_secret_that_leads_back_counts() -> None:
    ports, rotation = after_grace()
    secret = EndpointSecret(arn="arn:s", version_id="v", host=ports.rds.instances[SOURCE].database.address)
    ports.secrets.endpoints["arn:s"] = secret
    assert rotation.connectivity is not None
    seen: Any = rotation.connectivity.having(secret=secret)

    with pytest.raises(RetirementRefused, match="arn:s"):
        decommission(rotation.having(connectivity=seen), ports)


@pytest.mark.parametrize("found", [None, ProxyTarget(SOURCE, None), ProxyTarget(TARGET, None)])
def test_a_proxy_that_leads_back_counts(found: ProxyTarget | None) -> None:
    ports, rotation = after_grace()
    ports.proxies.targets["pool"] = found
    assert rotation.connectivity is not None
    seen: Any = rotation.connectivity.having(proxy="pool")
    leads_there = found is not None and found.name == TARGET

    with nullcontext() if leads_there else pytest.raises(RetirementRefused, match="RDS Proxy pool"):
        decommission(rotation.having(connectivity=seen), ports)


def test_a_proxy_that_is_gone_is_a_reason_too() -> None:
    ports, rotation = after_grace()
    assert rotation.connectivity is not None
    ports.fail("proxies.target_of", ConnectivityChanged("there is no RDS Proxy pool"))

    with pytest.raises(RetirementRefused, match="no RDS Proxy pool"):
        decommission(rotation.having(connectivity=rotation.connectivity.having(proxy="pool")), ports)


def test_a_later_target_is_as_good_a_successor() -> None:
    """The next quarter's rotation came before this source was removed."""
    ports, rotation = after_grace()
    later = ports.rds.add("orders-rot-later", key_arn=NEW_KEY)
    ports.ledger.lineage[SOURCE] = later.database.resource_id
    ports.dns.records[RECORD] = (later.database.address, 5)

    to_the_end(ports, rotation)

    assert SOURCE not in ports.rds.instances


def test_a_copy_under_the_wrong_key_stops_everything() -> None:
    ports, rotation = after_grace()
    ports.rds.snapshots[KEPT] = _kept(KEPT, OLD_KEY, SOURCE, ROTATION_ID)

    with pytest.raises(SnapshotFailed, match="not under the new key"):
        to_the_end(ports, rotation)

    assert SOURCE in ports.rds.instances


def test_a_target_that_somebody_has_renamed_is_asked_under_its_new_address() -> None:
    """RDS gives the old one to nobody: the lock would never be free, and the old key never retired."""
    ports, rotation = after_grace()
    live = ports.rds.instances[TARGET]
    assert rotation.target is not None
    stale = rotation.target.having(address="gone.example.com")
    rotation = journaled(ports, rotation.having(target=stale))
    asked: list[str] = []
    engine = ports.engine
    ports.engine = lambda database, plan: (asked.append(database.address), engine(database, plan))[1]  # type: ignore[method-assign, func-returns-value]

    to_the_end(ports, rotation)

    assert "gone.example.com" not in asked
    assert live.database.address in asked


def test_a_copy_that_is_not_available_is_waited_for() -> None:
    ports, rotation = after_grace()
    for _ in range(3):
        rotation = decommission(rotation, ports)
    ports.rds.snapshots[KEPT]["Status"] = "copying"
    ports.fail("rds.request_snapshot_copy", AssertionError("asked twice"), when="before")
    ports.rds.request_snapshot_copy = lambda *_: None  # type: ignore[method-assign]  # the adapter adopts its own

    rotation = decommission(rotation, ports)

    assert rotation.decommission is not None
    assert rotation.decommission.stage == "copy"
    assert SOURCE in ports.rds.instances


def test_a_failed_copy_is_told() -> None:
    ports, rotation = after_grace()
    for _ in range(3):
        rotation = decommission(rotation, ports)
    ports.rds.snapshots[KEPT]["Status"] = "failed"

    with pytest.raises(SnapshotFailed, match="failed"):
        decommission(rotation, ports)


def test_a_source_that_is_gone_already_is_fine() -> None:
    ports, rotation = after_grace()
    del ports.rds.instances[SOURCE]

    to_the_end(ports, rotation)

    assert ports.ledger.locks == {}


def test_with_both_sides_gone_there_is_no_control_database_to_drop() -> None:
    """Nobody would answer, and the rotation would hold the lock until somebody frees it by hand."""
    ports, rotation = after_grace()
    del ports.rds.instances[SOURCE], ports.rds.instances[TARGET]

    to_the_end(ports, rotation)

    assert ["ledger.release_lock"] == deeds(ports)


def deleted_at(rotation: Rotation) -> datetime | None:
    assert rotation.decommission is not None
    return rotation.decommission.source_deleted_at


def test_the_journal_says_when_the_source_was_gone_and_not_when_all_was_done() -> None:
    """Days may lie between the two: what earlier rotations have kept is copied in between."""
    ports, rotation = after_grace()
    earlier = "orders-rot-00000000-kept"
    ports.rds.snapshots[earlier] = _kept(earlier, OLD_KEY, "orders")
    rotation = until("delete-source", ports, rotation)
    assert deleted_at(rotation) is None
    rotation = until("rekey-kept", ports, rotation)
    gone_at = ports.clock.now()
    ports.clock.advance(DAY)

    assert gone_at == deleted_at(to_the_end(ports, rotation))


def test_a_source_that_somebody_else_has_deleted_was_gone_when_that_was_seen() -> None:
    ports, rotation = after_grace()
    rotation = until("copy", ports, rotation)
    del ports.rds.instances[SOURCE]
    gone_at = ports.clock.now()

    assert gone_at == deleted_at(to_the_end(ports, rotation))


# -- the control database on the target, when the source is gone --


DROP = "psql postgres -c 'DROP DATABASE rds_key_rotation WITH (FORCE)'"


@pytest.mark.parametrize("passing", [DatabaseUnreachable("it fails over"), AwsUnavailable("GetSecretValue: throttled")])
def test_a_target_that_cannot_be_asked_now_is_asked_again(passing: Exception) -> None:
    """A restart takes longer than the state machine's retries; the source is gone, so there is nothing to refuse."""
    ports, rotation = after_grace()
    for _ in range(10):
        ports.fail("engine.drop_control_database", passing)

    rotation = to_the_end(ports, rotation)

    assert CONTROL_DATABASE not in ports.target_server.own.open
    assert () == leftovers(rotation)
    assert {} == ports.ledger.locks


def leftovers(rotation: Rotation) -> tuple[str, ...]:
    assert rotation.decommission is not None
    assert list(rotation.decommission.leftovers) == message_of(rotation, Moment.COMPLETED)["leftovers"]
    return rotation.decommission.leftovers


def test_a_target_that_nobody_reaches_for_a_week_keeps_its_control_database() -> None:
    """And no new start fails there: the lock would never be free, and the old key never retired."""
    ports, rotation = after_grace()
    rotation = until("rekey-kept", ports, rotation)
    ports.target_server.reachable = False
    since = ports.clock.now()

    rotation = to_the_end(ports, rotation, visits=400)

    assert PATIENCE < ports.clock.now() - since < PATIENCE + timedelta(hours=2)
    assert (f"{DROP}  # {TARGET} does not answer",) == leftovers(rotation)
    assert {} == ports.ledger.locks


@pytest.mark.parametrize(
    "refused",
    [
        LoginRefused("another password by now"),
        SqlRefused("42501", "must be owner"),
        AccessRefused("secretsmanager:GetSecretValue"),
    ],
)
def test_a_control_database_that_may_not_be_removed_is_left_over_with_the_command(refused: Exception) -> None:
    ports, rotation = after_grace()
    ports.fail("engine.drop_control_database", refused)

    rotation = to_the_end(ports, rotation)

    assert (f"{DROP}  # {refused}",) == leftovers(rotation)
    assert {} == ports.ledger.locks


def test_a_login_that_is_gone_ends_no_rotation(monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody has deleted the secret in the grace period; that is found out before anybody is asked."""
    ports, rotation = after_grace()
    rotation = until("rekey-kept", ports, rotation)

    def without_login(*_: Any) -> Any:
        raise LoginRefused("the login secret cannot be read: ResourceNotFoundException")

    monkeypatch.setattr(ports, "engine", without_login)
    rotation = to_the_end(ports, rotation)

    [leftover] = leftovers(rotation)
    assert leftover.startswith(f"{DROP}  # the login secret cannot be read")


def test_what_rds_deletes_already_needs_no_right_any_more() -> None:
    """Its name and its tags may go before it does; nothing further is asked for."""
    ports, rotation = after_grace()
    rotation = until("delete-source", ports, rotation)
    ports.rds.alter(SOURCE, status="deleting", tags={})
    _nameless(ports)
    ports.calls.clear()

    rotation = decommission(rotation, ports)

    assert ("delete-source", []) == (stage_of(rotation), ports.calls)


def test_a_copy_that_is_there_already_is_not_made_again() -> None:
    ports, rotation = after_grace()
    ports.rds.snapshots[KEPT] = _kept(KEPT, NEW_KEY, SOURCE, ROTATION_ID)

    to_the_end(ports, rotation)

    assert not [call for call in ports.calls if call.startswith("rds.request_snapshot")]
    assert SOURCE not in ports.rds.instances


def test_somebody_elses_snapshot_of_that_name_is_not_taken_for_the_copy() -> None:
    """It may be of any database, and the source would be deleted for it."""
    ports, rotation = after_grace()
    ports.rds.snapshots[KEPT] = _kept(KEPT, NEW_KEY, "invoices")

    with pytest.raises(RetirementRefused, match="not of this rotation's"):
        to_the_end(ports, rotation)

    assert SOURCE in ports.rds.instances


def test_an_instance_that_had_no_key_is_copied_under_the_new_one_like_any_other() -> None:
    """RDS refuses that of a cluster only; and no key is left whose snapshots would keep it."""
    ports, rotation = after_grace()
    _, source = rotation.planned()
    ports.rds.alter(SOURCE, database=source.having(kms_key_arn=None))
    rotation = journaled(ports, rotation.having(source=source.having(kms_key_arn=None), old_key=None))

    to_the_end(ports, rotation)

    assert {KEPT: NEW_KEY} == {name: one["KmsKeyId"] for name, one in ports.rds.snapshots.items()}
    assert not [call for call in ports.calls if call.startswith("clusters.")]


def test_what_is_temporary_is_known_as_ours() -> None:
    """Permissions to copy and to delete go by the tags."""
    ports, rotation = after_grace()

    decommission(rotation, ports)

    assert [TEMPORARY] == ports.rds.snapshots_under(OLD_KEY, our_tags(SOURCE, ROTATION_ID))


def test_repeating_the_end_changes_nothing() -> None:
    ports, rotation = after_grace()
    done = to_the_end(ports, rotation)
    assert done.decommission is not None
    assert done.decommission.source_deleted_at is not None
    ports.calls.clear()

    assert done == decommission(done, ports)
    assert ports.calls == ["ledger.release_lock"], "the end may have been cut off before it"


# -- patience --


DAY = 24 * 3600


def stuck(ports: FakePorts, rotation: Rotation) -> Rotation:
    """RDS does not get done with the first snapshot."""
    rotation = decommission(rotation, ports)
    ports.rds.snapshots[TEMPORARY]["Status"] = "creating"
    return journaled(ports, rotation)


def test_it_does_not_try_for_ever() -> None:
    """And looks before it gives up: whoever has removed what was in the way wants the rotation to go on."""
    ports, rotation = after_grace()
    rotation = stuck(ports, rotation)
    ports.clock.advance(8 * DAY)
    with pytest.raises(RetirementRefused, match="snapshot of orders is not done after 7 days"):
        decommission(rotation, ports)
    assert SOURCE in ports.rds.instances

    ports.rds.snapshots[TEMPORARY]["Status"] = "available"
    to_the_end(ports, rotation)

    assert SOURCE not in ports.rds.instances
    assert ports.ledger.locks == {}


def test_a_source_that_rds_does_not_delete_may_be_deleted_by_hand() -> None:
    ports, rotation = after_grace()
    ports.rds.request_instance_deletion = lambda *_, **__: None  # type: ignore[method-assign]  # RDS: not now
    for _ in range(6):
        rotation = decommission(rotation, ports)
    ports.clock.advance(8 * DAY)
    with pytest.raises(RetirementRefused, match="delete-source"):
        decommission(rotation, ports)

    del ports.rds.instances[SOURCE]
    to_the_end(ports, rotation)

    assert set(ports.rds.snapshots) == {KEPT}
    assert ports.ledger.locks == {}


def test_every_stage_has_a_week_of_its_own() -> None:
    """Large databases take days for the snapshot and days for its copy; neither keeps the lock for ever."""
    ports, rotation = after_grace()
    rotation = stuck(ports, rotation)
    ports.clock.advance(6 * DAY)
    ports.rds.snapshots[TEMPORARY]["Status"] = "available"
    for _ in range(2):
        rotation = decommission(rotation, ports)
    ports.rds.snapshots[KEPT]["Status"] = "creating"
    ports.clock.advance(6 * DAY)

    rotation = decommission(rotation, ports)

    assert rotation.decommission is not None
    assert rotation.decommission.stage == "copy"
    ports.clock.advance(2 * DAY)
    with pytest.raises(RetirementRefused, match="copy of orders"):
        decommission(rotation, ports)


def test_a_new_start_has_patience_anew() -> None:
    """It found the cause, perhaps, but RDS needs its time; it may not fail at its first look."""
    ports, rotation = after_grace()
    rotation = stuck(ports, rotation)
    ports.clock.advance(8 * DAY)
    with pytest.raises(RetirementRefused):
        decommission(rotation, ports)

    taken = decommission(ports.ledger.take_over(rotation, "another"), ports)

    assert taken.decommission is not None
    assert ("snapshot", 60) == (taken.decommission.stage, taken.decommission.look_again_seconds)
    ports.clock.advance(6 * DAY)
    taken = decommission(taken, ports)
    ports.clock.advance(2 * DAY)
    with pytest.raises(RetirementRefused, match="7 days"):
        decommission(taken, ports)


def test_a_journal_that_names_no_execution_yet_is_counted_from_now() -> None:
    """As versions before this one wrote it."""
    ports, rotation = after_grace()
    state = stuck(ports, rotation).to_state()
    del state["decommission"]["execution_arn"]
    ports.clock.advance(8 * DAY)

    rotation = decommission(Rotation.from_state(state), ports)

    assert rotation.decommission is not None
    assert rotation.decommission.started_at == ports.clock.now()


def test_looks_less_and_less_often() -> None:
    """A week of looking every minute would fill the execution's history; the next stage may be done in minutes."""
    ports, rotation = after_grace()
    rotation = stuck(ports, rotation)
    seen = []
    for seconds in (0, 3700, DAY):
        ports.clock.advance(seconds)
        rotation = decommission(rotation, ports)
        seen.append(rotation.decommission.look_again_seconds if rotation.decommission is not None else None)
    ports.rds.snapshots[TEMPORARY]["Status"] = "available"

    rotation = decommission(rotation, ports)

    assert [60, 600, 3600] == seen
    assert rotation.decommission is not None
    assert ("copy", 60) == (rotation.decommission.stage, rotation.decommission.look_again_seconds)


def test_waiting_fits_the_history_of_an_execution() -> None:
    """Of 25,000 events; the steps before and after wait for days, too."""
    stages, events_of_a_visit = 5, 9
    ports, rotation = after_grace()
    rotation, visits, since = stuck(ports, rotation), 0, ports.clock.now()
    while ports.clock.now() - since <= PATIENCE:
        rotation, visits = decommission(rotation, ports), visits + 1
        assert rotation.decommission is not None
        ports.clock.advance(rotation.decommission.look_again_seconds)

    assert stages * visits * events_of_a_visit < 16_000


# -- the copy, before what it is a copy of --


def stage_of(rotation: Rotation) -> str | None:
    return rotation.decommission.stage if rotation.decommission is not None else None


def until(stage: str, ports: FakePorts, rotation: Rotation) -> Rotation:
    while stage_of(rotation) != stage:
        rotation = decommission(rotation, ports)
    return rotation


def test_a_copy_that_somebody_deleted_is_made_anew_before_the_source_goes() -> None:
    """Days after the copy was seen, when deletions were refused or nobody was there to start again."""
    ports, rotation = after_grace()
    rotation = until("delete-source", ports, rotation)
    ports.rds.snapshots.clear()
    ports.calls.clear()

    to_the_end(ports, rotation)

    assert deeds(ports)[:4] == [
        f"rds.request_snapshot {TEMPORARY}",
        f"rds.request_snapshot_copy {KEPT}",
        f"rds.request_snapshot_deletion {TEMPORARY}",
        f"rds.request_instance_deletion {SOURCE} keeping backups",
    ]
    assert {KEPT: NEW_KEY} == {name: one["KmsKeyId"] for name, one in ports.rds.snapshots.items()}


def test_a_copy_that_somebody_deleted_is_made_anew_before_its_original_goes() -> None:
    """Of a source that is gone, too, it is all there is."""
    ports, rotation = after_grace()
    rotation = until("delete-snapshot", ports, rotation)
    del ports.rds.snapshots[KEPT], ports.rds.instances[SOURCE]

    to_the_end(ports, rotation)

    assert set(ports.rds.snapshots) == {KEPT}


def test_an_original_that_somebody_deleted_before_it_was_copied_is_taken_anew() -> None:
    ports, rotation = after_grace()
    rotation = until("copy", ports, rotation)
    ports.rds.snapshots.clear()

    to_the_end(ports, rotation)

    assert [KEPT] == list(ports.rds.snapshots)
    assert SOURCE not in ports.rds.instances


def test_the_end_is_written_down_before_the_lock_is_free() -> None:
    """An attempt that is cut off between the two is repeated, and would drop the next rotation's control database."""
    ports, rotation = after_grace()
    ports.fail("ledger.release_lock", AwsUnavailable("gone"))
    with pytest.raises(AwsUnavailable):
        to_the_end(ports, rotation)
    left = ports.ledger.journal[ROTATION_ID].rotation
    assert left.decommission is not None
    assert left.decommission.complete

    decommission(left, ports)

    assert {} == ports.ledger.locks


def test_each_kept_snapshot_has_a_week_of_its_own() -> None:
    ports, rotation = after_grace()
    for at in range(3):
        name = f"{SOURCE}-rot-0000000{at}-kept"
        ports.rds.snapshots[name] = _kept(name, OLD_KEY, SOURCE)
    rotation = until("rekey-kept", ports, rotation)

    for _ in range(3):
        ports.clock.advance(PATIENCE.total_seconds() - 60)
        for _ in range(2):
            rotation = decommission(rotation, ports)
            ports.ledger.record(rotation)

    to_the_end(ports, rotation)


def test_a_copy_that_turned_out_wrong_keeps_the_source() -> None:
    ports, rotation = after_grace()
    rotation = until("delete-source", ports, rotation)
    ports.rds.snapshots[KEPT]["KmsKeyId"] = OLD_KEY

    with pytest.raises(SnapshotFailed, match="not under the new key"):
        decommission(rotation, ports)

    assert SOURCE in ports.rds.instances


def test_a_source_that_is_being_deleted_is_not_asked_for_another_snapshot() -> None:
    """RDS takes none of it any more; the step would wait for one for ever."""
    ports, rotation = after_grace()
    rotation = until("delete-source", ports, rotation)
    ports.rds.alter(SOURCE, status="deleting")
    ports.rds.snapshots.clear()

    for _ in range(3):
        rotation = decommission(rotation, ports)

    assert stage_of(rotation) == "delete-source"
    assert ports.rds.snapshots == {}


# -- what earlier rotations kept --


def test_what_an_earlier_rotation_kept_goes_under_the_new_key_before_it_goes() -> None:
    """The first quarter's safety copy is under the key that the second quarter retires."""
    ports, rotation = after_grace()
    earlier = "orders-rot-00000000-kept"
    ports.rds.snapshots[earlier] = _kept(earlier, OLD_KEY, "orders")
    ports.rds.snapshots["billing-rot-1-kept"] = _kept("billing-rot-1-kept", OLD_KEY, "billing")
    ports.rds.snapshots["theirs"] = _kept("theirs", OLD_KEY, None)

    to_the_end(ports, rotation)

    rekeyed = f"{earlier}-rekeyed-{ROTATION_ID}"
    assert NEW_KEY == ports.rds.snapshots[rekeyed]["KmsKeyId"]
    assert earlier not in ports.rds.snapshots
    assert {"billing-rot-1-kept", "theirs"} <= ports.rds.snapshots.keys(), "not this database's, not ours"
    copied, deleted = f"rds.request_snapshot_copy {rekeyed}", f"rds.request_snapshot_deletion {earlier}"
    assert deeds(ports).index(copied) < deeds(ports).index(deleted)


def test_an_earlier_copy_is_not_deleted_for_one_under_the_wrong_key() -> None:
    ports, rotation = after_grace()
    earlier = "orders-rot-00000000-kept"
    rekeyed = f"{earlier}-rekeyed-{ROTATION_ID}"
    ports.rds.snapshots[earlier] = _kept(earlier, OLD_KEY, "orders")
    ports.rds.snapshots[rekeyed] = _kept(rekeyed, "arn:another", "orders", ROTATION_ID)

    with pytest.raises(SnapshotFailed, match="arn:another"):
        to_the_end(ports, rotation)

    assert earlier in ports.rds.snapshots


def test_an_earlier_copy_stays_until_the_one_under_the_new_key_is_available() -> None:
    ports, rotation = after_grace()
    earlier = "orders-rot-00000000-kept"
    ports.rds.snapshots[earlier] = _kept(earlier, OLD_KEY, "orders")
    rotation = decommission(until("rekey-kept", ports, rotation), ports)
    ports.rds.snapshots[f"{earlier}-rekeyed-{ROTATION_ID}"]["Status"] = "creating"

    for _ in range(3):
        rotation = decommission(rotation, ports)
    assert earlier in ports.rds.snapshots

    ports.rds.snapshots[f"{earlier}-rekeyed-{ROTATION_ID}"]["Status"] = "available"
    to_the_end(ports, rotation)
    assert earlier not in ports.rds.snapshots


def test_a_snapshot_of_that_name_without_our_tags_is_not_ours() -> None:
    ports, rotation = after_grace()
    name = "orders-rot-00000000-kept"
    ports.rds.snapshots[name] = _kept(name, OLD_KEY, None)

    to_the_end(ports, rotation)

    assert {name, KEPT} == ports.rds.snapshots.keys()


@pytest.mark.parametrize("name", ["orders-rot-00000000-before-release", "orders-rot-00000000-kept-2", "release-7"])
def test_a_snapshot_that_its_owner_took_of_a_target_is_not_ours(name: str) -> None:
    """RDS copies a target's tags to it (CopyTagsToSnapshot); whoever looks for it by its name has to find it."""
    ports, rotation = after_grace()
    theirs = _kept(name, OLD_KEY, "orders")
    ports.rds.snapshots[name] = dict(theirs)

    to_the_end(ports, rotation)

    assert theirs == ports.rds.snapshots[name]
    assert {name, KEPT} == ports.rds.snapshots.keys()
    assert ports.ledger.locks == {}


def _kept(name: str, key_arn: str, base_name: str | None, rotation_id: str = "00000000") -> dict[str, Any]:
    return snapshot(name, key_arn, {} if base_name is None else our_tags(base_name, rotation_id), Catalog())
