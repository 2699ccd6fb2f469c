"""Applications must be led to one database, and back, without ever overwriting somebody else's change."""

from typing import Any

import pytest

from lambdas.prepare_connectivity.handler import prepare_connectivity
from lambdas.restore_connectivity.handler import restore_connectivity
from lambdas.rollback.handler import rollback
from lambdas.rotation import reach
from lambdas.rotation.errors import (
    AccessRefused,
    AwsRefused,
    AwsUnavailable,
    ConnectivityChanged,
    PreflightRefused,
    StateIncomplete,
)
from lambdas.rotation.ports import ProxyTarget
from lambdas.rotation.state import EndpointSecret, ManagedRotation, Rotation, Undo
from lambdas.update_connectivity.handler import update_connectivity
from tests.fakes import (
    SOURCE,
    TARGET,
    FakePorts,
    failed,
    journaled,
    planned_rotation,
    promoted_rotation,
    replicating_rotation,
    switched_rotation,
    visit,
)

RECORD = ("Z1", "db.example.com")
SECRET = "arn:secret"


def led_to(ports: FakePorts, identifier: str, ttl_seconds: int) -> tuple[str, int]:
    return ports.rds.instances[identifier].database.address, ttl_seconds


def world(*, ttl_seconds: int = 300) -> FakePorts:
    ports = FakePorts()
    ports.dns.records[RECORD] = led_to(ports, SOURCE, ttl_seconds)
    address = ports.rds.instances[SOURCE].database.address
    ports.secrets.endpoints[SECRET] = EndpointSecret(arn=SECRET, version_id="v1", host=address, port=5432)
    return ports


def prepared(ports: FakePorts, **plan: object) -> Rotation:
    return prepare_connectivity(planned_rotation(ports, **plan), ports)


def test_writes_down_before_it_lowers() -> None:
    """Rollback restores from the journal; a TTL that was lowered before it was written down would be lost."""
    ports = world()

    rotation = prepared(ports)

    assert ["ledger.record", f"dns.write_record {RECORD[1]} {led_to(ports, SOURCE, 5)[0]} 5"] == ports.calls
    assert rotation.connectivity is not None
    assert rotation.connectivity.record is not None
    assert (300, 5) == (rotation.connectivity.record.ttl_seconds, rotation.connectivity.record.lowered_ttl_seconds)


def test_a_retry_never_takes_the_lowered_ttl_for_the_original() -> None:
    ports = world()
    rotation = planned_rotation(ports)
    ports.fail("dns.write_record", AwsUnavailable("lost answer"), when="after")
    with pytest.raises(AwsUnavailable):
        prepare_connectivity(rotation, ports)

    again = prepare_connectivity(ports.ledger.current(rotation), ports)

    assert again.connectivity is not None
    assert again.connectivity.record is not None
    assert again.connectivity.record.ttl_seconds == 300
    assert ports.dns.records[RECORD] == led_to(ports, SOURCE, 5)


def test_a_ttl_that_is_low_already_is_left_alone() -> None:
    ports = world(ttl_seconds=3)

    prepared(ports)

    assert ["ledger.record"] == ports.calls
    assert ports.dns.records[RECORD] == led_to(ports, SOURCE, 3)


def test_refuses_a_record_that_leads_elsewhere() -> None:
    ports = world()
    ports.dns.records[RECORD] = ("elsewhere.example.com", 60)

    with pytest.raises(ConnectivityChanged, match="elsewhere"):
        prepared(ports)


def test_refuses_a_secret_that_leads_elsewhere() -> None:
    ports = world()
    ports.secrets.endpoints[SECRET] = ports.secrets.endpoints[SECRET].having(host="elsewhere")

    with pytest.raises(ConnectivityChanged, match="elsewhere"):
        prepared(ports, connectivity=("secret",), endpoint_secret=SECRET)


def switched(ports: FakePorts) -> Rotation:
    rotation = promoted_rotation(ports)
    assert rotation.connectivity is not None
    seen = rotation.connectivity.having(secret=ports.secrets.endpoints[SECRET])
    ports.dns.records[RECORD] = led_to(ports, SOURCE, 5)
    return update_connectivity(rotation.having(connectivity=seen), ports)


def test_leads_applications_to_the_target() -> None:
    ports = world()

    rotation = switched(ports)

    assert ports.dns.records[RECORD] == led_to(ports, TARGET, 5)
    assert ports.secrets.endpoints[SECRET].host == led_to(ports, TARGET, 5)[0]
    assert ports.calls[0] == "ledger.record"
    assert rotation.connectivity is not None
    assert rotation.connectivity.change_id == "change-1"


def test_a_repeated_switch_is_one_switch() -> None:
    ports = world()
    rotation = switched(ports)

    assert rotation == update_connectivity(rotation, ports)


def test_does_not_overwrite_somebody_elses_change() -> None:
    ports = world()
    rotation = promoted_rotation(ports)
    ports.dns.records[RECORD] = ("maintenance.example.com", 5)

    with pytest.raises(ConnectivityChanged):
        update_connectivity(rotation, ports)

    assert ports.dns.records[RECORD] == ("maintenance.example.com", 5)


def test_needs_what_was_written_down() -> None:
    ports = world()

    with pytest.raises(StateIncomplete):
        update_connectivity(promoted_rotation(ports).having(connectivity=None), ports)


def test_restores_name_secret_and_ttl() -> None:
    ports = world()

    restored = restore_connectivity(switched(ports), ports)

    assert ports.dns.records[RECORD] == led_to(ports, SOURCE, 300)
    assert ports.secrets.endpoints[SECRET].host == led_to(ports, SOURCE, 0)[0]
    assert restored.connectivity is not None
    assert restored.connectivity.restored_at is not None


def test_restores_the_ttl_when_only_that_was_changed() -> None:
    ports = world()
    rotation = replicating_rotation(ports)
    ports.dns.records[RECORD] = led_to(ports, SOURCE, 5)

    restore_connectivity(rotation, ports)

    assert ports.dns.records[RECORD] == led_to(ports, SOURCE, 300)


def test_what_may_pass_keeps_nobody_from_the_source_for_longer_than_it_lasts() -> None:
    """The verdict stands, and the source waits for the name: who gave up here would leave both sides closed."""
    ports = world()
    rotation = failed(journaled(ports, switched(ports)), "AwsUnavailable")
    for _ in range(20):
        ports.fail("dns.describe_record", AwsUnavailable("route53:ListResourceRecordSets: Throttling"))

    visits = 0
    while rotation.undo is None or rotation.undo.outcome != "rolled-back":
        assert not ports.source_server.accepts_applications()
        rotation = visit(rollback, rotation, ports, takes_over=True)
        assert rotation.undo is not None
        if rotation.undo.outcome == "decided":
            rotation = visit(restore_connectivity, rotation, ports)
            visits += 1
        assert rotation.undo is not None
        ports.clock.advance(rotation.undo.look_again_seconds if rotation.undo.outcome == "undecided" else 0)

    assert visits == 21
    assert ports.dns.records[RECORD] == led_to(ports, SOURCE, 300)
    assert ports.source_server.accepts_applications()
    [(moment, _, message)] = ports.notifier.sent
    assert moment == "RotationUndecided"
    assert message["waiting_for"].endswith("cannot be yet: route53:ListResourceRecordSets: Throttling")
    assert message["what_to_do"].startswith("Nobody can write. The target will never be opened")


@pytest.mark.parametrize("outcome", [None, "rolled-back", "committed"])
def test_where_nobody_is_kept_waiting_it_is_an_error(outcome: Any) -> None:
    ports = world()
    rotation, now = switched(ports), ports.clock.now()
    undo = Undo(outcome=outcome, started_at=now, not_before=now) if outcome else None
    ports.fail("dns.describe_record", AwsUnavailable("throttled"))

    with pytest.raises(AwsUnavailable):
        restore_connectivity(rotation.having(undo=undo), ports)


def test_a_second_restore_does_nothing() -> None:
    ports = world()
    restored = restore_connectivity(switched(ports), ports)
    ports.calls.clear()

    assert restored == restore_connectivity(restored, ports)
    assert ports.calls == []


def test_leaves_alone_what_somebody_else_changed_by_now() -> None:
    """A rollback must open the source all the same."""
    ports = world()
    rotation = switched(ports)
    ports.dns.records[RECORD] = ("maintenance.example.com", 60)

    restored = restore_connectivity(rotation, ports)

    assert ports.dns.records[RECORD] == ("maintenance.example.com", 60)
    assert restored.connectivity is not None
    assert restored.connectivity.restored_at is not None


def test_nothing_written_down_nothing_to_restore() -> None:
    ports = world()
    rotation = planned_rotation(ports)

    assert rotation == restore_connectivity(rotation, ports)


# -- an RDS Proxy --

POOL = "pool"


def pooled(ports: FakePorts, rotation: Rotation) -> Rotation:
    """Applications come through a proxy, too."""
    assert rotation.connectivity is not None
    ports.proxies.targets[POOL] = ProxyTarget(SOURCE, None)
    ports.dns.records[RECORD] = led_to(ports, SOURCE, 5)
    return journaled(ports, rotation.having(connectivity=rotation.connectivity.having(proxy=POOL)))


def test_writes_down_which_proxy_led_to_the_source() -> None:
    ports = world()
    ports.proxies.targets[POOL] = ProxyTarget(SOURCE, None)

    rotation = prepared(ports, connectivity=("proxy",), proxy=POOL)

    assert rotation.connectivity is not None
    assert rotation.connectivity.proxy == POOL


@pytest.mark.parametrize("found", [None, ProxyTarget("elsewhere", None), ProxyTarget(f"cluster/{SOURCE}", None)])
def test_refuses_a_proxy_that_does_not_lead_to_the_source(found: ProxyTarget | None) -> None:
    ports = world()
    ports.proxies.targets[POOL] = found

    with pytest.raises(ConnectivityChanged, match=POOL):
        prepared(ports, connectivity=("proxy",), proxy=POOL)


def test_leads_the_proxy_to_the_target() -> None:
    ports = world()

    update_connectivity(pooled(ports, promoted_rotation(ports)), ports)

    assert ports.proxies.targets[POOL] == ProxyTarget(TARGET, None)


def test_a_rollback_leads_the_proxy_back() -> None:
    ports = world()
    rotation = update_connectivity(pooled(ports, promoted_rotation(ports)), ports)

    restore_connectivity(rotation, ports)

    assert ports.proxies.targets[POOL] == ProxyTarget(SOURCE, None)


def test_a_rollback_leads_a_proxy_back_that_was_left_with_nothing() -> None:
    """Between RDS's two calls it leads nowhere, and a function may die there."""
    ports = world()
    rotation = pooled(ports, promoted_rotation(ports))
    ports.fail("proxies.lead", AwsUnavailable("cut off"))
    with pytest.raises(AwsUnavailable):
        update_connectivity(rotation, ports)
    ports.proxies.targets[POOL] = None

    restore_connectivity(ports.ledger.current(rotation), ports)

    assert ports.proxies.targets[POOL] == ProxyTarget(SOURCE, None)


def test_a_proxy_that_was_never_led_elsewhere_is_left_alone() -> None:
    ports = world()
    rotation = pooled(ports, replicating_rotation(ports))
    ports.proxies.targets[POOL] = None

    restore_connectivity(rotation, ports)

    assert ports.proxies.targets[POOL] is None


def test_leaves_a_proxy_alone_that_somebody_else_has_led_elsewhere_by_now() -> None:
    ports = world()
    rotation = update_connectivity(pooled(ports, promoted_rotation(ports)), ports)
    ports.proxies.targets[POOL] = ProxyTarget("elsewhere", None)

    restored = restore_connectivity(rotation, ports)

    assert ports.proxies.targets[POOL] == ProxyTarget("elsewhere", None)
    assert restored.connectivity is not None
    assert ("proxy left as it is: pool leads to elsewhere",) == restored.connectivity.leftovers


def test_a_proxy_that_rds_cannot_lead_back_holds_nobody_up_where_it_leads_nowhere() -> None:
    """Those who do not come through it are let in; people get the command."""
    ports = world()
    rotation = update_connectivity(pooled(ports, promoted_rotation(ports)), ports)
    ports.fail("proxies.lead", AwsRefused("storage-full", "InvalidDBInstanceState"))
    ports.proxies.targets[POOL] = None

    restored = restore_connectivity(rotation, ports)

    assert ports.dns.records[RECORD] == led_to(ports, SOURCE, 300)
    assert restored.connectivity is not None
    (leftover,) = restored.connectivity.leftovers
    assert leftover.endswith(
        f"aws rds register-db-proxy-targets --db-proxy-name {POOL} --db-instance-identifiers {SOURCE}"
    )


def test_a_proxy_that_stays_with_the_target_is_no_leftover() -> None:
    """The source would be opened while some are led to the target; the record is right by then, all the same."""
    ports = world()
    rotation = update_connectivity(pooled(ports, promoted_rotation(ports)), ports)
    ports.fail("proxies.lead", AccessRefused("not allowed"))

    with pytest.raises(AccessRefused):
        restore_connectivity(rotation, ports)

    assert ports.dns.records[RECORD] == led_to(ports, SOURCE, 300)


@pytest.mark.parametrize("found", [None, ("elsewhere", 5), ("orders.abc123.eu-central-1.rds.amazonaws.com", 60)])
def test_the_record_is_looked_at_again_before_the_fence(found: tuple[str, int] | None) -> None:
    """Under the fence the change is refused, too, and nobody can write until all of it is undone."""
    ports = world()
    rotation = prepared(ports)
    reach.record(rotation, ports)
    if found is None:
        del ports.dns.records[RECORD]
    else:
        ports.dns.records[RECORD] = found

    with pytest.raises(ConnectivityChanged, match=RECORD[1]):
        reach.record(rotation, ports)


def test_the_secret_is_looked_at_again_before_the_fence() -> None:
    ports = world()
    rotation = prepared(ports, connectivity=("secret",), endpoint_secret=SECRET)
    host = ports.secrets.endpoints[SECRET].host
    ports.secrets.endpoints[SECRET] = ports.secrets.endpoints[SECRET].having(host=f"{host.upper()}.", version_id="v2")
    reach.secret(rotation, ports)
    ports.secrets.endpoints[SECRET] = ports.secrets.endpoints[SECRET].having(host="elsewhere")

    with pytest.raises(ConnectivityChanged, match=SECRET):
        reach.secret(rotation, ports)


@pytest.mark.parametrize("found", [None, ProxyTarget("elsewhere", None)])
def test_where_the_proxy_leads_is_asked_again_before_the_fence(found: ProxyTarget | None) -> None:
    ports = world()
    rotation = pooled(ports, replicating_rotation(ports))
    reach.proxy(rotation, ports)
    ports.proxies.targets[POOL] = found

    with pytest.raises(ConnectivityChanged, match=POOL):
        reach.proxy(rotation, ports)


def test_after_the_cutover_the_proxy_stays_with_the_target() -> None:
    ports = world()
    rotation = update_connectivity(pooled(ports, switched_rotation(ports)), ports)
    released = rotation.having(release={"released_at": ports.clock.now(), "write_outage_seconds": 3})

    restore_connectivity(released, ports)

    assert ports.proxies.targets[POOL] == ProxyTarget(TARGET, None)


# -- Secrets Manager's own rotation of the secrets --

LOGIN = ManagedRotation(secret_arn="arn:login", function_arn="arn:function", rules={"AutomaticallyAfterDays": 30})
ENDPOINT = LOGIN.having(secret_arn=SECRET, rules={"ScheduleExpression": "rate(4 days)", "Duration": "2h"})


def rotated(ports: FakePorts) -> None:
    ports.secrets.managed = {"login": LOGIN, SECRET: ENDPOINT}


def both(ports: FakePorts) -> Rotation:
    """Record and secret, as a plan that has both; nothing is prepared."""
    return planned_rotation(ports, connectivity=("dns", "secret"), endpoint_secret=SECRET)


def test_rotations_of_secrets_are_written_down_before_they_are_suspended() -> None:
    """A schedule that nobody wrote down is lost with its suspension."""
    ports = world()
    rotated(ports)

    rotation = prepare_connectivity(both(ports), ports)

    assert ["ledger.record", "secrets.suspend_rotation arn:login", f"secrets.suspend_rotation {SECRET}"] == ports.calls[
        :3
    ]
    assert rotation.connectivity is not None
    assert (LOGIN, ENDPOINT) == rotation.connectivity.managed_rotations
    assert rotation.connectivity.rotations_suspended_at is not None


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_retry_still_knows_which_rotations_it_suspended(when: str) -> None:
    """Asked again, Secrets Manager says that nothing is rotated: that is our own doing."""
    ports = world()
    rotated(ports)
    rotation = both(ports)
    ports.fail("secrets.suspend_rotation", AwsUnavailable("lost answer"), when=when)  # type: ignore[arg-type]
    with pytest.raises(AwsUnavailable):
        prepare_connectivity(rotation, ports)

    again = prepare_connectivity(ports.ledger.current(rotation), ports)

    assert again.connectivity is not None
    assert (LOGIN, ENDPOINT) == again.connectivity.managed_rotations
    assert {"arn:login", SECRET} == ports.secrets.suspended


def test_one_secret_by_two_names_is_suspended_once() -> None:
    ports = world()
    ports.secrets.managed = {"login": ENDPOINT, SECRET: ENDPOINT}

    rotation = prepare_connectivity(both(ports), ports)

    assert rotation.connectivity is not None
    assert (ENDPOINT,) == rotation.connectivity.managed_rotations


def test_a_secret_that_nobody_rotates_is_left_alone() -> None:
    ports = world()

    rotation = prepare_connectivity(both(ports), ports)

    assert rotation.connectivity is not None
    assert rotation.connectivity.managed_rotations == ()
    assert not [call for call in ports.calls if call.startswith("secrets.")]


def test_does_not_cut_a_rotation_of_a_secret_off() -> None:
    """Cancelled in the middle it can leave the password changed in the database and not in the secret."""
    ports = world()
    rotated(ports)
    ports.secrets.under_way = ["arn:login is being rotated"]

    with pytest.raises(PreflightRefused, match="arn:login is being rotated"):
        prepare_connectivity(both(ports), ports)

    assert ports.secrets.suspended == set()


def test_sees_a_rotation_of_a_secret_that_began_at_the_last_moment() -> None:
    ports = world()
    rotated(ports)
    ports.secrets.under_way = ["", "arn:login is being rotated"]

    with pytest.raises(PreflightRefused, match="arn:login is being rotated"):
        prepare_connectivity(both(ports), ports)

    assert ["arn:login"] == list(ports.secrets.suspended)


def suspended(ports: FakePorts, rotation: Rotation) -> Rotation:
    assert rotation.connectivity is not None
    rotated(ports)
    ports.secrets.suspended = {"arn:login", SECRET}
    ports.dns.records[RECORD] = led_to(ports, SOURCE, 5)
    seen = rotation.connectivity.having(
        managed_rotations=(LOGIN, ENDPOINT),
        rotations_suspended_at=ports.clock.now(),
        secret=ports.secrets.endpoints[SECRET],
    )
    return journaled(ports, rotation.having(connectivity=seen))


def test_a_rollback_lets_the_secrets_be_rotated_again() -> None:
    """Last: whoever rotates a secret goes by the address in it."""
    ports = world()
    rotation = update_connectivity(suspended(ports, promoted_rotation(ports)), ports)
    ports.calls.clear()

    restored = restore_connectivity(rotation, ports)

    assert ports.secrets.suspended == set()
    assert [
        f"secrets.restore_endpoint {led_to(ports, SOURCE, 0)[0]}",
        f"dns.write_record {RECORD[1]} {led_to(ports, SOURCE, 0)[0]} 300",
        "secrets.restore_rotation arn:login",
        f"secrets.restore_rotation {SECRET}",
    ] == ports.calls
    assert restored.connectivity is not None
    assert restored.connectivity.leftovers == ()


def test_after_the_cutover_the_secrets_are_rotated_again() -> None:
    ports = world()
    rotation = update_connectivity(suspended(ports, switched_rotation(ports)), ports)
    released = rotation.having(release={"released_at": ports.clock.now(), "write_outage_seconds": 3})

    restore_connectivity(released, ports)

    assert ports.secrets.suspended == set()
    assert ports.secrets.endpoints[SECRET].host == led_to(ports, TARGET, 0)[0]


def test_a_suspension_whose_answer_got_lost_is_restored_as_well() -> None:
    ports = world()
    rotation = suspended(ports, replicating_rotation(ports))
    assert rotation.connectivity is not None
    unheard = rotation.connectivity.having(rotations_suspended_at=None)

    restore_connectivity(rotation.having(connectivity=unheard), ports)

    assert ports.secrets.suspended == set()


def test_a_rotation_of_a_secret_that_cannot_be_restored_does_not_keep_the_source_closed() -> None:
    """A person is told the command."""
    ports = world()
    rotation = suspended(ports, replicating_rotation(ports))
    ports.fail("secrets.restore_rotation", AccessRefused("secretsmanager:RotateSecret"))

    restored = restore_connectivity(rotation, ports)

    assert {"arn:login"} == ports.secrets.suspended
    assert restored.connectivity is not None
    [leftover] = restored.connectivity.leftovers
    assert "aws secretsmanager rotate-secret --secret-id arn:login --no-rotate-immediately" in leftover
    assert """--rotation-rules '{"AutomaticallyAfterDays": 30}'""" in leftover
    assert restored.connectivity.restored_at is not None


def test_a_repeated_restore_of_a_rotation_is_one() -> None:
    ports = world()
    rotation = suspended(ports, replicating_rotation(ports))
    ports.fail("secrets.restore_rotation", AwsUnavailable("lost answer"), when="after")
    with pytest.raises(AwsUnavailable):
        restore_connectivity(rotation, ports)

    restore_connectivity(rotation, ports)

    assert 1 == ports.calls.count("secrets.restore_rotation arn:login")
    assert ports.secrets.suspended == set()
