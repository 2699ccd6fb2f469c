"""Verify must not call a cutover good that is not, and must not undo anything either."""

from typing import Any

import pytest

from lambdas.rotation import databases
from lambdas.rotation.errors import AwsUnavailable, ConnectivityChanged, StateIncomplete, VerificationFailed
from lambdas.rotation.names import DECOMMISSION_TAG, OURS, RELEASED_TAG, TAGS_OF_A_DATABASE, our_tags
from lambdas.rotation.ports import ProxyTarget
from lambdas.rotation.state import EndpointSecret, Moment, Release, Replica, Rotation
from lambdas.verify.handler import verify
from tests.fakes import (
    OLD_KEY,
    ROTATION_ID,
    SOURCE,
    TARGET,
    FakeEngine,
    FakePorts,
    failed,
    journaled,
    switched_rotation,
)

RECORD = ("Z1", "db.example.com")
OPT_IN = {"key-rotation:enabled": "true", "key-rotation:connectivity": "dns"}


def released(**plan: Any) -> tuple[FakePorts, Rotation]:
    ports = FakePorts()
    ports.rds.alter(SOURCE, tags=OPT_IN | {"team": "payments"})
    rotation = switched_rotation(ports, **plan)
    assert rotation.fence is not None
    FakeEngine(ports.target_server).decide(ROTATION_ID, "release", rotation.fence.databases)
    ports.dns.records[RECORD] = (ports.rds.instances[TARGET].database.address, 5)
    release = Release(released_at=ports.clock.now(), write_outage_seconds=2.5)
    return ports, journaled(ports, rotation.having(release=release))


def pending(ports: FakePorts, rotation: Rotation) -> str:
    verified = verify(rotation, ports)
    assert verified.verification is not None
    assert not verified.verification.complete
    return "; ".join(verified.verification.pending)


def test_complete_with_evidence_and_the_end_of_the_grace_period() -> None:
    ports, rotation = released(grace_days=2)

    verified = verify(rotation, ports)

    assert verified.verification is not None
    assert verified.verification.complete
    assert verified.verification.evidence["target"]["identifier"] == TARGET
    assert verified.verification.evidence["write_outage_seconds"] == 2.5
    assert set(verified.verification.evidence["databases"]) >= {"orders", "postgres"}
    assert verified.grace_ends_at is not None
    assert 2 == (verified.grace_ends_at - ports.clock.now()).days


@pytest.mark.parametrize(
    ("minutes", "grace_days", "left_hours"),
    [
        (45, 7, 7 * 24 - 0.75),
        (45, 0.5, 12 - 0.75),  # longer than any rotation takes by itself, and still nothing is added
        (2 * 24 * 60, 7, 5 * 24),
        (6.5 * 24 * 60, 7, 24),
        (9 * 24 * 60, 7, 24),
        (9 * 24 * 60, 0.5, 12),
        (9 * 24 * 60, 0, 1 / 6),  # until the marks count, by which the source is removed
    ],
)
def test_a_cutover_that_is_verified_late_has_a_day_of_grace(
    minutes: float, grace_days: float, left_hours: float
) -> None:
    """People hear of it only then: a source that went in the same minute nobody could have looked at."""
    ports, rotation = released(grace_days=grace_days)
    ports.clock.advance(minutes * 60)

    rotation = verify(rotation, ports)

    assert rotation.grace_ends_at is not None
    assert left_hours * 3600 == (rotation.grace_ends_at - ports.clock.now()).total_seconds()


def test_whoever_resumes_before_the_cutover_was_told_has_a_day_of_grace_and_nobody_later() -> None:
    """Replicas that could not be made anew keep a verified cutover from being told; a failed decommission does not."""
    ports, rotation = released(grace_days=7)
    rotation = verify(rotation, ports)
    ports.clock.advance(9 * 24 * 3600)

    resumed = verify(failed(rotation, "ReplicasNotRebuilt"), ports)
    told = rotation.having(notified=(Moment.CUT_OVER,))
    later = verify(failed(told, "RetirementRefused"), ports)

    assert resumed.grace_ends_at is not None
    assert 24 * 3600 == (resumed.grace_ends_at - ports.clock.now()).total_seconds()
    assert later.grace_ends_at == rotation.grace_ends_at


def test_a_name_that_an_earlier_rotation_has_led_to_the_source_is_led_further() -> None:
    """Every rotation but the first."""
    ports, rotation = released()
    ports.ledger.lineage[SOURCE] = ports.rds.instances[SOURCE].database.resource_id

    verified = verify(rotation, ports).verification

    assert verified is not None
    assert verified.complete
    assert ports.ledger.successor(SOURCE) == ports.rds.instances[TARGET].database.resource_id


def test_a_target_that_rds_backs_up_is_up() -> None:
    """The first backup of a primary may take longer than Verify is patient."""
    ports, rotation = released()
    ports.rds.alter(TARGET, status="backing-up")

    verified = verify(rotation, ports).verification

    assert verified is not None
    assert verified.complete


def test_an_open_target_without_its_decision_row_is_not_verified() -> None:
    """Somebody has opened it by hand: *released* means that the row says so."""
    ports, rotation = released()
    ports.target_server.own.decisions.clear()

    assert "the decision row says None" in pending(ports, rotation)


def test_a_database_that_was_never_seen_is_not_looked_for() -> None:
    """RDS takes no empty filter."""
    ports = FakePorts()
    ports.fail("rds.describe_instance_by_resource_id", AssertionError("asked"))

    assert databases.by_resource_id("", ports) is None


def test_replicas_of_the_source_are_marked_for_those_who_replace_them() -> None:
    """One that its owner has promoted is a database of its own."""
    ports, rotation = released()
    made = [ports.rds.add_replica(name, of=SOURCE).database for name in ("reports", "search")]
    ports.rds.become_primary("search")
    plan, _ = rotation.planned()
    planned = tuple(Replica(identifier=one.identifier, arn=one.arn, resource_id=one.resource_id) for one in made)

    verify(rotation.having(plan=plan.having(replicas=planned)), ports)

    assert ports.rds.instances["reports"].tags[DECOMMISSION_TAG] == ROTATION_ID
    assert DECOMMISSION_TAG not in ports.rds.instances["search"].tags


def test_the_opt_in_moves_to_the_target_and_is_never_absent() -> None:
    """A fleet that looks in between sees the database twice rather than not at all."""
    ports, rotation = released()

    verify(rotation, ports)

    assert ports.rds.instances[TARGET].tags.items() >= OPT_IN.items()
    assert ports.rds.instances[SOURCE].tags == {"team": "payments", DECOMMISSION_TAG: ROTATION_ID}
    target, source = ports.rds.instances[TARGET].database.arn, ports.rds.instances[SOURCE].database.arn
    expected = [
        "ledger.advance",
        *2 * [f"rds.set_tags {target}"],
        f"rds.set_tags {source}",
        f"rds.remove_tags {source}",
    ]
    assert expected == ports.calls
    assert ports.rds.instances[TARGET].tags[RELEASED_TAG] == ROTATION_ID


def test_sets_no_more_tags_than_preflight_keeps_free() -> None:
    """Of fifty; a source that was a target itself has some of ours already, and its last one is set only now."""
    ports, rotation = released()
    before = our_tags(SOURCE, "00000000") | {RELEASED_TAG: "00000000"}
    ports.rds.alter(SOURCE, tags={**ports.rds.instances[SOURCE].tags, **before})

    verify(rotation, ports)

    ours = [name for name in ports.rds.instances[SOURCE].tags if name.startswith(OURS)]
    assert TAGS_OF_A_DATABASE == len(ours)


def test_a_second_look_changes_nothing_more() -> None:
    ports, rotation = released()
    ports.dns.records[RECORD] = (ports.rds.instances[SOURCE].database.address, 5)
    rotation = verify(rotation, ports)
    ports.calls.clear()

    verify(rotation, ports)

    assert ports.calls == ["ledger.advance"]


def test_the_name_has_to_lead_to_the_target() -> None:
    ports, rotation = released()
    ports.dns.records[RECORD] = (ports.rds.instances[SOURCE].database.address, 5)

    assert "db.example.com does not lead to" in pending(ports, rotation)


def test_the_secret_has_to_lead_to_the_target() -> None:
    ports, rotation = released()
    address = ports.rds.instances[SOURCE].database.address
    secret = EndpointSecret(arn="arn:secret", version_id="v1", host=address)
    ports.secrets.endpoints["arn:secret"] = secret
    assert rotation.connectivity is not None

    rotation = rotation.having(connectivity=rotation.connectivity.having(secret=secret))

    assert "arn:secret leads to" in pending(ports, rotation)


def test_a_host_is_the_same_in_capital_letters_and_with_a_dot() -> None:
    """As its owner may have written it since the cutover."""
    ports, rotation = released()
    address = ports.rds.instances[TARGET].database.address
    secret = EndpointSecret(arn="arn:secret", version_id="v1", host=f"{address.upper()}.")
    ports.secrets.endpoints["arn:secret"] = secret
    assert rotation.connectivity is not None

    verified = verify(rotation.having(connectivity=rotation.connectivity.having(secret=secret)), ports)

    assert verified.verification is not None
    assert () == verified.verification.pending


@pytest.mark.parametrize(
    ("found", "says"),
    [
        (None, "pool leads to nothing"),
        (ProxyTarget(SOURCE, None), f"pool leads to {SOURCE}"),
        (ProxyTarget(TARGET, "UNAVAILABLE AUTH_FAILURE"), "pool cannot use"),
    ],
)
def test_applications_have_to_come_through_the_proxy(found: ProxyTarget | None, says: str) -> None:
    ports, rotation = released()
    ports.proxies.targets["pool"] = found
    assert rotation.connectivity is not None

    rotation = rotation.having(connectivity=rotation.connectivity.having(proxy="pool"))

    assert says in pending(ports, rotation)
    ports.proxies.targets["pool"] = ProxyTarget(TARGET, None)
    verification = verify(rotation, ports).verification
    assert verification is not None
    assert verification.complete


@pytest.mark.parametrize(
    "error", [ConnectivityChanged("there is no RDS Proxy pool"), AwsUnavailable("at work on pool")]
)
def test_a_proxy_that_cannot_be_seen_is_looked_at_again(error: Exception) -> None:
    ports, rotation = released()
    assert rotation.connectivity is not None
    ports.fail("proxies.target_of", error)

    assert "pool" in pending(ports, rotation.having(connectivity=rotation.connectivity.having(proxy="pool")))


def test_the_target_has_to_be_under_the_new_key() -> None:
    ports, rotation = released()
    ports.rds.alter(TARGET, database=ports.rds.instances[TARGET].database.having(kms_key_arn=OLD_KEY))

    assert OLD_KEY in pending(ports, rotation)


def test_settings_have_to_be_carried() -> None:
    ports, rotation = released()
    ports.rds.differences = {"Multi-AZ": (True, False)}

    assert "Multi-AZ" in pending(ports, rotation)


def test_every_fenced_database_has_to_be_open() -> None:
    """ResumeWrites died between two databases."""
    ports, rotation = released()
    ports.target_server.own.open["orders"] = False

    assert "not open on the target: orders" in pending(ports, rotation)


def test_gives_up_after_thirty_minutes() -> None:
    ports, rotation = released()
    ports.rds.differences = {"Multi-AZ": (True, False)}
    rotation = verify(rotation, ports)
    ports.clock.advance(31 * 60)

    with pytest.raises(VerificationFailed, match="Multi-AZ"):
        verify(rotation, ports)


def test_a_source_that_is_open_is_told_at_once() -> None:
    """Two databases that accept writes: every second counts."""
    ports, rotation = released()
    ports.source_server.own.open["orders"] = True

    with pytest.raises(VerificationFailed, match="orders"):
        verify(rotation, ports)


def test_a_source_that_cannot_be_seen_is_looked_at_again() -> None:
    ports, rotation = released()
    ports.source_server.reachable = False

    assert "cannot be seen" in pending(ports, rotation)


def test_a_target_that_cannot_be_seen_is_looked_at_again() -> None:
    """It fails over, say, which takes longer than a state's retries."""
    ports, rotation = released()
    ports.target_server.reachable = False

    assert f"{TARGET} cannot be seen" in pending(ports, rotation)


def test_a_source_that_is_gone_does_not_matter() -> None:
    ports, rotation = released()
    del ports.rds.instances[SOURCE]

    verified = verify(rotation, ports)

    assert verified.verification is not None
    assert verified.verification.complete


def test_a_target_that_is_gone_does() -> None:
    ports, rotation = released()
    del ports.rds.instances[TARGET]

    with pytest.raises(VerificationFailed):
        verify(rotation, ports)


def test_the_failure_that_led_here_is_evidence_and_over() -> None:
    """ResumeWrites died after the commit; the rotation went forward and must not end as if it had failed."""
    ports, rotation = released()

    verified = verify(failed(rotation, "States.Timeout"), ports)

    assert verified.failure is None
    assert verified.verification is not None
    assert verified.verification.evidence["interrupted_by"] == "States.Timeout"


def test_a_recovery_of_a_later_moment_leaves_the_lineage_alone() -> None:
    """This rotation waits for its old key's users; another has followed meanwhile, and the name leads to its target."""
    ports, rotation = released()
    verified = verify(rotation, ports)
    ports.ledger.lineage[SOURCE] = "db-LATER"
    ports.calls.clear()

    verify(verified, ports)

    assert ports.calls == []


def test_a_name_that_leads_to_a_stranger_is_not_taken() -> None:
    ports, rotation = released()
    stranger = ports.rds.add("stranger", key_arn=OLD_KEY).database.resource_id
    ports.ledger.lineage[SOURCE] = stranger

    with pytest.raises(VerificationFailed, match="does not know"):
        verify(rotation, ports)
    assert stranger == ports.ledger.lineage[SOURCE]


def test_a_name_that_leads_to_what_is_gone_leads_to_the_target() -> None:
    """The target of the last rotation was lost, and what is rotated was restored under its name."""
    ports, rotation = released()
    ports.ledger.lineage[SOURCE] = "db-GONE"

    verify(rotation, ports)

    assert ports.rds.instances[TARGET].database.resource_id == ports.ledger.lineage[SOURCE]


def test_needs_a_release() -> None:
    ports, rotation = released()

    with pytest.raises(StateIncomplete):
        verify(rotation.having(release=None), ports)
