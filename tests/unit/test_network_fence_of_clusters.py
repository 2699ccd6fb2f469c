"""A cluster that nobody logs in to: every instance of it is a door, and a session of before may be on each."""

from collections.abc import Callable
from datetime import timedelta

import pytest

from lambdas.check_target.handler import check_target
from lambdas.clean_up.handler import clean_up
from lambdas.copy_snapshot.handler import copy_snapshot
from lambdas.isolate_source.handler import ASK_AGAIN, PATIENCE, isolate_source
from lambdas.preflight.handler import preflight
from lambdas.restore_target.handler import restore_target
from lambdas.resume_writes.handler import resume_writes
from lambdas.rollback.handler import rollback
from lambdas.rotation import marks, reach
from lambdas.rotation.errors import (
    AwsRefused,
    AwsUnavailable,
    DatabaseUnreachable,
    DecisionLost,
    FenceBroken,
    JournalMoved,
    PreflightRefused,
    SyncIncomplete,
    TargetMismatch,
    VerificationFailed,
)
from lambdas.rotation.names import CLUSTER, NETWORK_FENCE_TAG
from lambdas.rotation.ports import Step
from lambdas.rotation.state import Rotation
from lambdas.rotation.undoing import SLOWEST_FUNCTION
from lambdas.take_snapshot.handler import take_snapshot
from lambdas.update_connectivity.handler import update_connectivity
from lambdas.verify.handler import verify
from lambdas.wait_for_restore.handler import wait_for_restore
from lambdas.wait_for_source.handler import wait_for_source
from tests.fakes import (
    ISOLATION,
    NEW_KEY,
    OLD_KEY,
    ROTATION_ID,
    FakePorts,
    connectivity_prepared,
    failed,
    journaled,
    planned_rotation,
    visit,
)
from tests.unit import by_snapshot

SHOP = f"{CLUSTER}shop"
WRITER, READER = "shop-1", "shop-2"
TARGET = f"shop-rot-{ROTATION_ID}"
TARGETS_WRITER, TARGETS_READER = f"shop-1-rot-{ROTATION_ID}", f"shop-2-rot-{ROTATION_ID}"
MADE = (f"{CLUSTER}{TARGET}", TARGETS_WRITER, TARGETS_READER)
APP, ADMIN = "sg-app", "sg-admin"
RISKS = ("downtime", "reader-endpoint", "internal-jobs", "memory-tables")


def prepared(engine: str = "aurora-mysql", key_arn: str | None = OLD_KEY) -> tuple[FakePorts, Rotation]:
    """PrepareConnectivity has run; WaitForSource comes next."""
    ports = FakePorts(with_target=False, isolation_group=ISOLATION)
    ports.kms.add(NEW_KEY)
    ports.rds.add_cluster("shop", WRITER, READER, key_arn=OLD_KEY, engine=engine)
    cluster = ports.rds.instances[SHOP].database.having(kms_key_arn=key_arn)
    ports.rds.alter(SHOP, database=cluster)
    ports.security_groups.rules |= {APP: ["sgr-of-app"], ADMIN: ["sgr-of-admin"]}
    ports.rds.put_groups(SHOP, APP, ADMIN)
    ports.dns.records["Z1", "db.example.com"] = (cluster.address, 5)
    plan = {"strategy": "snapshot", "fence": "network", "login_secret": None, "accept": RISKS, "base_name": SHOP}
    rotation = planned_rotation(ports, write_outage_budget_seconds=4 * 60 * 60, **plan)
    return ports, connectivity_prepared(ports, rotation.having(source=cluster))


def closed(ports: FakePorts, rotation: Rotation) -> Rotation:
    """The groups are asked for, and in force."""
    rotation = visit(isolate_source, rotation, ports)
    ports.rds.put_groups(SHOP, ISOLATION)
    ports.clock.advance(5)
    return rotation


def restarted(ports: FakePorts, *instances: str) -> None:
    ports.clock.advance(60)
    for one in instances:
        ports.rds.finish_reboot(one)
    ports.clock.advance(5)


def done(step: Step, rotation: Rotation, ports: FakePorts) -> Rotation:
    """As often as it takes, with RDS doing its part in between."""
    if step is isolate_source:
        rotation = visit(step, closed(ports, rotation), ports)
        restarted(ports, WRITER, READER)
    return by_snapshot.done(step, rotation, ports, MADE)


def after(*steps: Step, key_arn: str | None = OLD_KEY) -> tuple[FakePorts, Rotation]:
    ports, rotation = prepared(key_arn=key_arn)
    for step in steps:
        rotation = done(step, rotation, ports)
    ports.calls.clear()
    return ports, rotation


FENCED = (wait_for_source, isolate_source)
RESTORED = (*FENCED, take_snapshot, copy_snapshot, restore_target, wait_for_restore)
SWITCHED = (*RESTORED, check_target, update_connectivity)


def groups(ports: FakePorts, key: str) -> list[str]:
    return [one["VpcSecurityGroupId"] for one in ports.rds.instances[key].raw["VpcSecurityGroups"]]


def having(ports: FakePorts, key: str, **members: object) -> None:
    ports.rds.alter(key, raw={**ports.rds.instances[key].raw, **members})


def asked_to_restart(ports: FakePorts) -> list[str]:
    return [call.removeprefix("rds.request_reboot ") for call in ports.calls if "reboot" in call]


def is_complete(rotation: Rotation) -> bool:
    assert rotation.isolation is not None
    return rotation.isolation.complete


def members(ports: FakePorts, *names: str) -> None:
    """The first one writes."""
    listed = [{"DBInstanceIdentifier": name, "IsClusterWriter": name == names[0]} for name in names]
    having(ports, SHOP, DBClusterMembers=listed)


def joined(ports: FakePorts, *, after_closing: bool | None) -> None:
    """None: RDS does not say when."""
    ports.rds.add("shop-3", key_arn=OLD_KEY)
    hours = {None: None, True: 1, False: -1}[after_closing]
    created = {} if hours is None else {"InstanceCreateTime": ports.clock.now() + timedelta(hours=hours)}
    having(ports, "shop-3", DBClusterIdentifier="shop", **created)
    members(ports, WRITER, READER, "shop-3")
    ports.rds.put_groups(SHOP, ISOLATION)


# -- before the fence --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key_arn", [OLD_KEY, None])
def test_nothing_speaks_against_an_aurora_mysql_cluster(key_arn: str | None) -> None:
    """Nothing else rotates one that has no key: RDS makes no encrypted copy of it by blue/green."""
    ports, rotation = prepared(key_arn=key_arn)

    seen = preflight(rotation, ports).preflight

    assert seen is not None
    assert {"NotBornFenced", "AutoScaling"} == {warning.name for warning in seen.warnings}


def test_backtracking_is_carried_over_and_no_reason_to_refuse() -> None:
    """By blue/green it would be lost."""
    ports, rotation = prepared()
    having(ports, SHOP, BacktrackWindow=3600)

    assert preflight(rotation, ports).preflight is not None


def test_a_multi_az_db_cluster_is_refused_by_name() -> None:
    ports, rotation = prepared("postgres")

    with pytest.raises(PreflightRefused, match=r"ClusterNotServed: .* Multi-AZ DB cluster such as shop: .*RebootDB"):
        preflight(rotation, ports)


@pytest.mark.parametrize(
    ("engine", "risks", "how"),
    [
        ("aurora-mysql", ["MemoryTables"], "event_scheduler"),
        ("aurora-postgresql", ["LogicalSlots", "UnloggedTables"], "pg_cron"),
    ],
)
def test_what_nobody_looks_for_or_stops_has_to_be_accepted(engine: str, risks: list[str], how: str) -> None:
    ports, rotation = prepared(engine)
    plan = rotation.planned()[0].having(accept=("downtime", "reader-endpoint"))
    rotation = journaled(ports, rotation.having(plan=plan))

    with pytest.raises(PreflightRefused, match=f"InternalJobs: .* — .*{how}"):
        preflight(rotation, ports)
    assert ["InternalJobs", *risks] == by_snapshot.refusals(ports, rotation)


def _closed_at_a_reader(ports: FakePorts) -> None:
    """A network rule of its subnet, say."""
    having(ports, READER, VpcSecurityGroups=[])


def _isolated(ports: FakePorts) -> None:
    ports.rds.put_groups(SHOP, APP, ISOLATION)


def _pending_at_an_instance(ports: FakePorts) -> None:
    group = {"DBParameterGroupName": "of-a-reader", "ParameterApplyStatus": "pending-reboot"}
    having(ports, READER, DBParameterGroups=[group])


def _pending_at_the_cluster(ports: FakePorts) -> None:
    *others, last = ports.rds.instances[SHOP].raw["DBClusterMembers"]
    having(ports, SHOP, DBClusterMembers=[*others, {**last, "DBClusterParameterGroupStatus": "pending-reboot"}])


@pytest.mark.parametrize("one", [SHOP, READER])
@pytest.mark.parametrize(("tags", "against"), [(45, []), (46, ["TooManyTags"])])
def test_the_mark_of_the_fence_needs_room_as_well(one: str, tags: int, against: list[str]) -> None:
    ports, rotation = prepared()
    ports.rds.alter(one, tags={f"tag-{number}": "" for number in range(tags)})

    if against:
        assert against == by_snapshot.refusals(ports, rotation)
    else:
        assert preflight(rotation, ports).preflight is not None


def _changes_of_an_instance(ports: FakePorts) -> None:
    having(ports, READER, PendingModifiedValues={"DBInstanceClass": "db.r6g.large"})


def _changes_of_the_cluster(ports: FakePorts) -> None:
    having(ports, SHOP, PendingModifiedValues={"BackupRetentionPeriod": 7})


@pytest.mark.parametrize("so", [_changes_of_an_instance, _changes_of_the_cluster])
def test_what_has_been_queued_since_preflight_closes_nothing(so: Callable[[FakePorts], None]) -> None:
    """The change of groups is applied at once, and everything that waits with it."""
    ports, rotation = after(wait_for_source)
    so(ports)

    with pytest.raises(PreflightRefused, match="are not applied yet"):
        visit(isolate_source, rotation, ports)

    assert [APP, ADMIN] == groups(ports, SHOP)


def test_whoever_reads_is_told_that_every_session_ends() -> None:
    ports, rotation = prepared()
    accepted = tuple(risk for risk in RISKS if risk != "reader-endpoint")
    rotation = journaled(ports, rotation.having(plan=rotation.planned()[0].having(accept=accepted)))

    with pytest.raises(PreflightRefused, match=r"ReaderEndpoint: .* sessions that are open end, for every reader is"):
        preflight(rotation, ports)


@pytest.mark.parametrize(
    ("so", "reason", "what"),
    [
        (_closed_at_a_reader, "NotReachable", f"nobody at shop-ro.*, {READER}.*:5432: whether"),
        (_changes_of_an_instance, "ChangesPending", f"changes of {READER} are not applied yet: DBInstanceClass"),
        (_changes_of_the_cluster, "ChangesPending", "changes of shop are not applied yet: BackupRetentionPeriod"),
        (_isolated, "AlreadyIsolated", "shop has the security group sg-isolation"),
        (_pending_at_an_instance, "ParametersPending", "changes of of-a-reader wait"),
        (_pending_at_the_cluster, "ParametersPending", "changes of orders-of-a-cluster wait"),
    ],
)
def test_every_instance_is_looked_at(so: Callable[[FakePorts], None], reason: str, what: str) -> None:
    ports, rotation = prepared()
    so(ports)

    assert [reason] == by_snapshot.refusals(ports, rotation)
    with pytest.raises(PreflightRefused, match=what):
        preflight(rotation, ports)


def test_every_instance_may_be_restarted_only_once_it_is_marked() -> None:
    ports, _ = after(wait_for_source)

    for one in (SHOP, WRITER, READER):
        assert {NETWORK_FENCE_TAG: SHOP}.items() <= ports.rds.instances[one].tags.items()


def test_the_source_is_ready_once_every_instance_is_available_and_marked() -> None:
    ports, rotation = prepared()
    ports.rds.alter(READER, status="backing-up")
    rotation = done(wait_for_source, rotation, ports)
    assert rotation.sync is not None
    assert (False, (f"{READER} to be available (it is backing-up)",)) == (
        rotation.sync.ready,
        rotation.sync.waiting_for,
    )
    ports.rds.alter(READER, status="available")
    for one in (SHOP, WRITER, READER):
        ports.rds.alter(one, tags={})

    rotation = visit(wait_for_source, rotation, ports)
    assert rotation.sync is not None
    told = ("shop", "shop-1", "shop-2")
    assert tuple(f"RDS to show the mark of {one}" for one in told) == rotation.sync.waiting_for
    rotation = visit(wait_for_source, rotation, ports)
    assert rotation.sync is not None
    assert ("the marks to count for permissions",) == rotation.sync.waiting_for
    ports.clock.advance(marks.SETTLES_IN.total_seconds())
    rotation = visit(wait_for_source, rotation, ports)

    assert rotation.sync is not None
    assert rotation.sync.ready


@pytest.mark.parametrize("one", [SHOP, WRITER, READER])
def test_before_the_fence_nobody_waits_for_an_instance_that_is_busy(one: str) -> None:
    ports, rotation = after(wait_for_source)
    ports.rds.alter(one, status="rebooting")

    rotation = visit(isolate_source, rotation, ports)
    assert rotation.fence is None
    assert rotation.isolation is not None
    assert "to be available (it is rebooting)" in rotation.isolation.waiting_for[0]
    assert ["ledger.record"] == ports.calls
    ports.rds.alter(one, status="available")
    rotation = visit(isolate_source, rotation, ports)

    assert rotation.fence is not None
    assert ports.clock.now() == rotation.fence.requested_at


def test_it_does_not_wait_for_ever_before_the_fence() -> None:
    ports, rotation = after(wait_for_source)
    ports.rds.alter(READER, status="storage-full")
    rotation = visit(isolate_source, rotation, ports)
    ports.clock.advance(PATIENCE.total_seconds())

    with pytest.raises(SyncIncomplete, match=f"{READER} to be available"):
        visit(isolate_source, rotation, ports)
    rotation = gone_back(ports, rotation)

    assert rotation.undo is not None
    assert "rolled-back" == rotation.undo.outcome
    assert [] == [call for call in ports.calls if "request" in call]


def test_an_instance_that_nobody_may_restart_is_found_before_anything_is_closed() -> None:
    ports, rotation = after(wait_for_source)
    joined(ports, after_closing=True)
    ports.rds.put_groups(SHOP, APP, ADMIN)

    with pytest.raises(PreflightRefused, match="shop-3 came after WaitForSource"):
        visit(isolate_source, rotation, ports)

    assert [APP, ADMIN] == groups(ports, SHOP)
    assert ports.ledger.journal[ROTATION_ID].rotation.fence is None


def test_what_a_second_delivery_has_begun_to_close_is_no_reason_to_go_back() -> None:
    ports, rotation = after(wait_for_source)
    ports.rds.alter(READER, tags={})
    ports.fail("ledger.record", JournalMoved("the twin has written its fence"))

    with pytest.raises(JournalMoved):
        isolate_source(rotation, ports)


WAYS_AROUND: dict[str, dict[str, object]] = {
    "the Data API of shop is on": {"HttpEndpointEnabled": True},
    "local write forwarding of shop is enabling": {"LocalWriteForwardingStatus": "enabling"},
    "local write forwarding of shop is enabled": {"LocalWriteForwardingStatus": "enabled"},
}
"""What lets somebody write to a cluster whose security group lets nobody in: what is said of it -> what RDS shows."""


@pytest.mark.parametrize("way", WAYS_AROUND)
def test_a_way_around_the_fence_that_came_since_preflight_closes_nothing(way: str) -> None:
    ports, rotation = after(wait_for_source)
    having(ports, SHOP, **WAYS_AROUND[way])

    with pytest.raises(PreflightRefused, match=way):
        reach.network_fence(rotation, ports)
    with pytest.raises(PreflightRefused, match=way):
        visit(isolate_source, rotation, ports)

    assert [APP, ADMIN] == groups(ports, SHOP)


def test_ways_that_rds_shows_to_be_closed_are_none() -> None:
    ports, rotation = after(wait_for_source)
    having(ports, SHOP, HttpEndpointEnabled=False, LocalWriteForwardingStatus="disabled")

    assert is_complete(done(isolate_source, rotation, ports))


# -- the fence ---------------------------------------------------------------------------------------------------------


def test_the_groups_are_the_clusters_and_every_instance_restarts_behind_them() -> None:
    ports, rotation = after(wait_for_source)

    rotation = closed(ports, rotation)
    asked = ["ledger.record", "recovery.set", f"rds.request_security_groups {SHOP}: {ISOLATION}"]
    assert asked == ports.calls[:3]
    ports.calls.clear()
    rotation = visit(isolate_source, rotation, ports)
    assert [
        "recovery.set",
        "ledger.record", f"rds.request_reboot {WRITER}",
        "ledger.record", f"rds.request_reboot {READER}", "ledger.record",
    ] == ports.calls[:6]  # fmt: skip
    assert ports.ledger.journal[ROTATION_ID].rotation.isolation is not None

    restarted(ports, WRITER)
    ports.rds.alter(READER, status="available")
    rotation = visit(isolate_source, rotation, ports)
    assert not is_complete(rotation)
    restarted(ports, READER)
    last = ports.rds.restarts[READER]
    rotation = visit(isolate_source, rotation, ports)

    assert (True, last.isoformat()) == (is_complete(rotation), rotation.fenced_source()[1])


@pytest.mark.parametrize("label", ["shop", "shop-ro", WRITER, READER])
def test_a_door_that_is_still_open_is_no_closed_cluster(label: str) -> None:
    ports, rotation = after(wait_for_source)
    rotation = closed(ports, rotation)
    ports.network.lingering.add(label)

    visit(isolate_source, rotation, ports)

    assert [] == asked_to_restart(ports)


def test_a_cluster_that_rds_is_still_busy_with_is_not_closed_yet() -> None:
    """Its instances may look as they did before."""
    ports, rotation = after(wait_for_source)
    rotation = closed(ports, rotation)
    ports.rds.alter(SHOP, status="modifying")

    rotation = visit(isolate_source, rotation, ports)

    assert [] == asked_to_restart(ports)
    assert rotation.isolation is not None
    assert ("shop to be available (it is modifying)",) == rotation.isolation.waiting_for


def test_an_instance_that_is_down_is_not_taken_for_closed() -> None:
    """Nobody gets in, whatever its groups are."""
    ports, rotation = after(wait_for_source)
    rotation = closed(ports, rotation)
    ports.rds.alter(READER, status="rebooting")

    rotation = visit(isolate_source, rotation, ports)

    assert [] == asked_to_restart(ports)
    assert rotation.isolation is not None
    assert (None, (f"{READER} to be available (it is rebooting)",)) == (
        rotation.isolation.closed_at, rotation.isolation.waiting_for
    )  # fmt: skip


def test_an_instance_of_which_rds_shows_the_groups_on_their_way_is_waited_for() -> None:
    """RDS shows of a cluster at once what it was asked for."""
    ports, rotation = after(wait_for_source)
    rotation = closed(ports, rotation)
    having(ports, READER, VpcSecurityGroups=[
        {"VpcSecurityGroupId": ISOLATION, "Status": "adding"}, {"VpcSecurityGroupId": APP, "Status": "removing"}
    ])  # fmt: skip

    rotation = visit(isolate_source, rotation, ports)

    assert [] == asked_to_restart(ports)
    assert rotation.isolation is not None
    assert (
        f"{READER}'s security groups are sg-app (removing), sg-isolation (adding)" in rotation.isolation.waiting_for[0]
    )


def test_a_reader_that_becomes_the_writer_has_no_session_of_before() -> None:
    """A failover between the closing and the restart."""
    ports, rotation = after(wait_for_source)
    rotation = closed(ports, rotation)
    ports.clock.advance(5)
    ports.rds.finish_reboot(READER)  # of the failover: not what was asked for
    members(ports, READER, WRITER)

    rotation = visit(isolate_source, rotation, ports)
    restarted(ports, WRITER)
    ports.rds.alter(READER, status="available")
    rotation = visit(isolate_source, rotation, ports)

    assert [READER, WRITER] == asked_to_restart(ports)
    assert not is_complete(rotation)


def test_an_instance_that_is_busy_is_asked_again_and_no_other() -> None:
    ports, rotation = after(wait_for_source)
    rotation = closed(ports, rotation)
    ports.rds.busy_with = {READER}
    rotation = visit(isolate_source, rotation, ports)
    restarted(ports, WRITER)
    ports.rds.finish_reboot(READER)  # by whatever it was busy with
    ports.rds.busy_with.clear()
    ports.calls.clear()
    ports.clock.advance(1)

    rotation = visit(isolate_source, rotation, ports)

    assert ([READER], False) == (asked_to_restart(ports), is_complete(rotation))


def test_restarts_that_nobody_heard_of_are_asked_for_again() -> None:
    """The attempt died between the two requests, or RDS tells of only one restart."""
    ports, rotation = after(wait_for_source)
    rotation = closed(ports, rotation)
    ports.fail("rds.request_reboot", AwsUnavailable("died"), "after")
    with pytest.raises(AwsUnavailable):
        visit(isolate_source, rotation, ports)
    assert [WRITER] == asked_to_restart(ports)
    restarted(ports, WRITER, READER)  # the reader by itself: Aurora may restart one without ending its sessions
    ports.calls.clear()

    rotation = visit(isolate_source, rotation, ports)
    assert ([WRITER, READER], False) == (asked_to_restart(ports), is_complete(rotation))
    restarted(ports, WRITER)
    ports.rds.alter(READER, status="available")
    ports.clock.advance(ASK_AGAIN.total_seconds())
    rotation = visit(isolate_source, rotation, ports)
    assert ([WRITER, READER, READER], False) == (asked_to_restart(ports), is_complete(rotation))
    restarted(ports, READER)

    assert is_complete(visit(isolate_source, rotation, ports))


@pytest.mark.parametrize(("after_closing", "is_asked"), [(True, False), (False, True), (None, True)])
def test_an_instance_that_has_joined_restarts_unless_it_was_born_closed(
    after_closing: bool | None, is_asked: bool
) -> None:
    ports, rotation = after(wait_for_source)
    rotation = visit(isolate_source, closed(ports, rotation), ports)
    joined(ports, after_closing=after_closing)
    restarted(ports, WRITER, READER)

    rotation = visit(isolate_source, rotation, ports)

    assert is_asked == ("shop-3" in asked_to_restart(ports))
    assert is_asked != is_complete(rotation)


def test_one_that_was_there_at_the_closing_restarts_whatever_rds_says_of_its_age() -> None:
    ports, rotation = after(wait_for_source)
    rotation = visit(isolate_source, closed(ports, rotation), ports)
    having(ports, READER, InstanceCreateTime=ports.clock.now() + timedelta(hours=1))
    restarted(ports, WRITER)
    ports.rds.alter(READER, status="available")

    assert not is_complete(visit(isolate_source, rotation, ports))


@pytest.mark.parametrize("listed", [True, False])
def test_one_that_leaves_is_waited_for_until_it_is_gone(listed: bool) -> None:
    """Whoever is on it may write until then, if it was the writer; the cluster need not list it any more."""
    ports, rotation = after(wait_for_source)
    rotation = closed(ports, rotation)
    ports.rds.busy_with = {WRITER}
    rotation = visit(isolate_source, rotation, ports)
    ports.rds.alter(WRITER, status="deleting")
    members(ports, READER, *((WRITER,) if listed else ()))
    restarted(ports, READER)

    rotation = visit(isolate_source, rotation, ports)
    assert not is_complete(rotation)
    del ports.rds.instances[WRITER]
    members(ports, READER)
    rotation = visit(isolate_source, rotation, ports)

    assert (True, ports.rds.restarts[READER].isoformat()) == (is_complete(rotation), rotation.fenced_source()[1])


def test_one_that_leaves_before_the_closing_is_waited_for_as_well() -> None:
    ports, rotation = after(wait_for_source)
    rotation = closed(ports, rotation)
    ports.rds.alter(WRITER, status="deleting")
    members(ports, READER)
    rotation = visit(isolate_source, rotation, ports)
    restarted(ports, READER)

    rotation = visit(isolate_source, rotation, ports)
    assert not is_complete(rotation)
    del ports.rds.instances[WRITER]

    assert is_complete(visit(isolate_source, rotation, ports))


def test_a_cluster_that_has_lost_all_instances_is_not_taken_for_fenced() -> None:
    ports, rotation = after(wait_for_source)
    rotation = visit(isolate_source, closed(ports, rotation), ports)
    members(ports)
    for one in (WRITER, READER):
        ports.rds.restarts.pop(one, None)
        ports.rds.alter(one, status="deleting")
    having(ports, SHOP, DBClusterMembers=[{"DBInstanceIdentifier": "shop-9", "IsClusterWriter": True}])
    ports.rds.add("shop-9", key_arn=OLD_KEY)
    having(ports, "shop-9", InstanceCreateTime=ports.clock.now() + timedelta(hours=1))
    ports.rds.put_groups(SHOP, ISOLATION)
    for one in (WRITER, READER):
        del ports.rds.instances[one]

    rotation = visit(isolate_source, rotation, ports)

    assert not is_complete(rotation)
    assert rotation.isolation is not None
    assert ("RDS to say that an instance of shop has restarted",) == rotation.isolation.waiting_for


def test_somebody_who_opens_an_instance_behind_the_rotation_ends_it() -> None:
    ports, rotation = after(wait_for_source)
    rotation = visit(isolate_source, closed(ports, rotation), ports)
    restarted(ports, WRITER, READER)
    ports.rds.put_groups(READER, APP)

    with pytest.raises(FenceBroken, match=f"shop: {READER}'s security groups are sg-app"):
        visit(isolate_source, rotation, ports)


def test_nothing_is_snapshotted_while_a_reader_lets_somebody_in() -> None:
    ports, rotation = after(*FENCED)
    ports.network.lingering.add(READER)

    with pytest.raises(FenceBroken, match=f"accepts connections at {READER}"):
        visit(take_snapshot, rotation, ports)


def test_nothing_is_snapshotted_of_a_cluster_that_is_given_other_groups() -> None:
    """Its instances may not show them yet."""
    ports, rotation = after(*FENCED)
    having(ports, SHOP, VpcSecurityGroups=[{"VpcSecurityGroupId": APP, "Status": "active"}])

    with pytest.raises(FenceBroken, match="its security groups are sg-app"):
        visit(take_snapshot, rotation, ports)


@pytest.mark.parametrize("way", WAYS_AROUND)
def test_a_way_around_the_fence_that_somebody_opens_while_it_stands_ends_the_rotation(way: str) -> None:
    """It needs no security group: what comes in by it after the snapshot would be lost."""
    ports, rotation = after(wait_for_source)
    rotation = visit(isolate_source, closed(ports, rotation), ports)
    restarted(ports, WRITER, READER)
    having(ports, SHOP, **WAYS_AROUND[way])
    with pytest.raises(FenceBroken, match=f"shop: {way}"):
        visit(isolate_source, rotation, ports)

    ports, rotation = after(*FENCED)
    having(ports, SHOP, **WAYS_AROUND[way])
    with pytest.raises(FenceBroken, match=f"shop: {way}"):
        visit(take_snapshot, rotation, ports)

    assert {} == ports.rds.snapshots


def _is_leaving(ports: FakePorts) -> None:
    members(ports, WRITER, "shop-3", READER)
    ports.rds.alter("shop-3", status="deleting")


def _is_being_made(ports: FakePorts) -> None:
    made = ports.rds.instances["shop-3"].database.having(address="", port=0)
    ports.rds.alter("shop-3", status="creating", database=made)
    members(ports, WRITER, "shop-3", READER)


def _has_no_name_yet(ports: FakePorts) -> None:
    ports.rds.alter("shop-3", status="creating")
    having(ports, "shop-3", VpcSecurityGroups=[])
    ports.network.unknown.add("shop-3")


@pytest.mark.parametrize("so", [_is_leaving, _is_being_made, _has_no_name_yet])
def test_an_instance_that_comes_or_goes_has_no_address_to_try(so: Callable[[FakePorts], None]) -> None:
    ports, rotation = after(*FENCED)
    joined(ports, after_closing=True)
    so(ports)

    visit(take_snapshot, rotation, ports)

    assert f"rds.request_snapshot {TARGET}-source" in ports.calls


@pytest.mark.parametrize("status", ["available", "backing-up"])
def test_an_instance_that_serves_and_shows_no_groups_is_not_taken_for_closed(status: str) -> None:
    ports, rotation = after(*FENCED)
    joined(ports, after_closing=True)
    _has_no_name_yet(ports)
    ports.network.unknown.clear()
    ports.rds.alter("shop-3", status=status)

    with pytest.raises(FenceBroken, match="shop-3's security groups are "):
        visit(take_snapshot, rotation, ports)


def test_an_instance_that_is_being_made_with_other_groups_is_a_door() -> None:
    ports, rotation = after(*FENCED)
    joined(ports, after_closing=True)
    ports.rds.alter("shop-3", status="creating")
    ports.rds.put_groups("shop-3", APP)

    with pytest.raises(FenceBroken, match="shop-3's security groups are sg-app"):
        visit(take_snapshot, rotation, ports)


def test_an_instance_that_serves_under_a_name_that_is_not_known_proves_nothing() -> None:
    ports, rotation = after(*FENCED)
    ports.network.unknown.add(READER)

    with pytest.raises(DatabaseUnreachable, match="leads nowhere"):
        visit(take_snapshot, rotation, ports)


# -- the target --------------------------------------------------------------------------------------------------------


def test_the_target_is_born_fenced_with_its_instances() -> None:
    ports, rotation = after(*RESTORED)

    assert [[ISOLATION]] * 3 == [groups(ports, one) for one in MADE]
    assert visit(check_target, rotation, ports).target_check is not None


@pytest.mark.parametrize("key", [SHOP, READER, f"{CLUSTER}{TARGET}", TARGETS_READER])
def test_a_side_of_which_an_instance_is_open_is_not_switched(key: str) -> None:
    ports, rotation = after(*RESTORED)
    ports.rds.put_groups(key, APP)

    with pytest.raises(TargetMismatch, match=r"the fence of the (source|target) does not hold"):
        visit(check_target, rotation, ports)


@pytest.mark.parametrize("way", WAYS_AROUND)
def test_a_side_with_a_way_around_its_fence_is_not_switched(way: str) -> None:
    ports, rotation = after(*RESTORED)
    having(ports, SHOP, **WAYS_AROUND[way])

    with pytest.raises(TargetMismatch, match=f"the fence of the source does not hold: {way}"):
        visit(check_target, rotation, ports)


@pytest.mark.parametrize("of_target", ["shop", None])
def test_a_cluster_that_was_made_with_another_database_is_not_the_source(of_target: str | None) -> None:
    """RDS need not show it of a cluster that was restored."""
    ports, rotation = after(*RESTORED)
    having(ports, SHOP, DatabaseName="shop")
    having(ports, f"{CLUSTER}{TARGET}", DatabaseName=of_target)
    assert visit(check_target, rotation, ports).target_check is not None

    having(ports, f"{CLUSTER}{TARGET}", DatabaseName="other")
    with pytest.raises(TargetMismatch, match="made with the database other, not shop"):
        visit(check_target, rotation.having(target_check=None), ports)


def test_a_snapshot_from_before_the_last_restart_is_not_the_source() -> None:
    ports, rotation = after(*RESTORED)
    ports.rds.snapshots[f"{TARGET}-source"]["SnapshotCreateTime"] -= timedelta(hours=1)

    with pytest.raises(TargetMismatch, match="lies before the fence position"):
        visit(check_target, rotation, ports)


def test_the_groups_of_a_target_are_nothing_to_repair() -> None:
    ports, rotation = after(*FENCED, take_snapshot, copy_snapshot, restore_target)
    ports.clusters.differences["security groups"] = ((ISOLATION,), (APP,))

    assert done(wait_for_restore, rotation, ports).restored().complete


# -- the release -------------------------------------------------------------------------------------------------------


def opened(ports: FakePorts, rotation: Rotation) -> Rotation:
    rotation = visit(resume_writes, rotation, ports)
    ports.rds.put_groups(f"{CLUSTER}{TARGET}", ADMIN, APP)
    ports.clock.advance(5)
    return visit(resume_writes, rotation, ports)


def test_the_decision_stands_before_the_target_opens() -> None:
    ports, rotation = after(*SWITCHED)

    rotation = visit(resume_writes, rotation, ports)
    asked = ["ledger.decide release", f"rds.request_security_groups {CLUSTER}{TARGET}: {ADMIN}, {APP}"]
    assert asked == [call for call in ports.calls if not call.startswith("ledger.record")]
    assert rotation.release is not None
    assert not rotation.release.open

    ports.rds.put_groups(f"{CLUSTER}{TARGET}", ADMIN, APP)
    ports.network.lingering.discard(TARGET)
    ports.rds.alter(TARGETS_WRITER, status="rebooting")
    assert not visit(resume_writes, rotation, ports).release.open  # type: ignore[union-attr]
    ports.rds.alter(TARGETS_WRITER, status="available")
    assert visit(resume_writes, rotation, ports).release.open  # type: ignore[union-attr]


@pytest.mark.parametrize("one", [f"{CLUSTER}{TARGET}", TARGETS_WRITER])
def test_what_rds_is_busy_with_is_not_released(one: str) -> None:
    ports, rotation = after(*SWITCHED)
    ports.rds.alter(one, status="modifying")

    with pytest.raises(DatabaseUnreachable, match="modifying"):
        visit(resume_writes, rotation, ports)

    assert ports.ledger.decisions == {}


def test_a_reader_that_rds_is_busy_with_keeps_nobody_waiting() -> None:
    ports, rotation = after(*SWITCHED)
    ports.rds.alter(TARGETS_READER, status="rebooting")

    visit(resume_writes, rotation, ports)

    assert ports.ledger.decisions == {ROTATION_ID: "release"}


def test_verify_sees_the_groups_that_were_written_down() -> None:
    ports, rotation = after(*SWITCHED)
    rotation = opened(ports, rotation)
    ports.clusters.differences["security groups"] = ((ISOLATION,), (ADMIN, APP))

    rotation = visit(verify, rotation, ports)

    assert rotation.verification is not None
    assert () == rotation.verification.pending
    assert {SHOP: {"security_groups": [ADMIN, APP]}} == rotation.verification.evidence["databases"]


def _isolated_alone(ports: FakePorts, key: str) -> None:
    having(ports, key, VpcSecurityGroups=[{"VpcSecurityGroupId": ISOLATION, "Status": "active"}])


def test_a_release_asks_for_a_reader_again_and_verify_waits_for_it() -> None:
    ports, rotation = after(*SWITCHED)
    rotation = visit(resume_writes, rotation, ports)
    ports.rds.put_groups(f"{CLUSTER}{TARGET}", ADMIN, APP)
    _isolated_alone(ports, TARGETS_READER)
    ports.rds.busy = True
    ports.calls.clear()

    rotation = visit(resume_writes, rotation, ports)
    assert f"rds.request_security_groups {CLUSTER}{TARGET}: {ADMIN}, {APP}" in ports.calls
    assert rotation.release is not None
    assert rotation.release.open
    rotation = visit(verify, rotation, ports)
    assert rotation.verification is not None
    assert (f"without the security groups of {TARGET}: {TARGETS_READER}",) == rotation.verification.pending
    ports.rds.put_groups(TARGETS_READER, ADMIN, APP)

    assert visit(verify, rotation, ports).verification.complete  # type: ignore[union-attr]


def test_a_writer_that_is_still_closed_is_no_open_target() -> None:
    ports, rotation = after(*SWITCHED)
    rotation = visit(resume_writes, rotation, ports)
    ports.rds.put_groups(f"{CLUSTER}{TARGET}", ADMIN, APP)
    _isolated_alone(ports, TARGETS_WRITER)
    ports.network.lingering.add(TARGET)

    assert not visit(resume_writes, rotation, ports).release.open  # type: ignore[union-attr]


@pytest.mark.parametrize("way", WAYS_AROUND)
def test_a_way_around_the_fence_of_the_source_is_told_at_once(way: str) -> None:
    ports, rotation = after(*SWITCHED)
    rotation = opened(ports, rotation)
    having(ports, SHOP, **WAYS_AROUND[way])

    with pytest.raises(VerificationFailed, match=way):
        visit(verify, rotation, ports)


def test_a_reader_of_the_source_that_somebody_opens_is_told_at_once() -> None:
    ports, rotation = after(*SWITCHED)
    rotation = opened(ports, rotation)
    ports.rds.put_groups(READER, APP)

    with pytest.raises(VerificationFailed, match="accepts connections beside the target"):
        visit(verify, rotation, ports)


# -- the way back ------------------------------------------------------------------------------------------------------


def gone_back(ports: FakePorts, rotation: Rotation) -> Rotation:
    rotation = visit(rollback, failed(rotation, "FenceBroken"), ports)
    ports.clock.advance(SLOWEST_FUNCTION.total_seconds())
    return visit(rollback, rotation, ports)


@pytest.mark.parametrize("steps", [FENCED, RESTORED])
def test_the_cluster_gets_its_groups_back_and_no_mark_is_left(steps: tuple[Step, ...]) -> None:
    ports, rotation = after(*steps)
    rotation = gone_back(ports, rotation)
    assert rotation.undo is not None
    assert ("undecided", True) == (rotation.undo.outcome, "gets its security groups back" in rotation.undo.reason)
    assert f"rds.request_security_groups {SHOP}: {ADMIN}, {APP}" in ports.calls

    ports.rds.put_groups(SHOP, ADMIN, APP)
    rotation = visit(rollback, rotation, ports)
    assert rotation.undo is not None
    assert "rolled-back" == rotation.undo.outcome

    by_snapshot.cleaned_up(ports, rotation)
    for one in (SHOP, WRITER, READER):
        assert NETWORK_FENCE_TAG not in ports.rds.instances[one].tags


def test_no_reader_of_the_source_is_left_closed() -> None:
    ports, rotation = after(*FENCED)
    rotation = gone_back(ports, rotation)
    ports.rds.put_groups(SHOP, "sg-somebodys")
    ports.security_groups.rules["sg-somebodys"] = ["sgr-1"]
    _isolated_alone(ports, READER)

    rotation = visit(rollback, rotation, ports)
    assert rotation.undo is not None
    assert "undecided" == rotation.undo.outcome
    assert f"{READER} gets its security groups back" in rotation.undo.reason
    assert f"rds.request_security_groups {SHOP}: sg-somebodys" in ports.calls
    rotation = visit(rollback, rotation, ports)

    assert rotation.undo is not None
    assert "rolled-back" == rotation.undo.outcome


def test_a_reader_that_is_leaving_keeps_nobody_from_going_back() -> None:
    ports, rotation = after(*FENCED)
    rotation = gone_back(ports, rotation)
    ports.rds.put_groups(SHOP, ADMIN, APP)
    _isolated_alone(ports, READER)
    ports.rds.alter(READER, status="deleting")

    rotation = visit(rollback, rotation, ports)

    assert rotation.undo is not None
    assert "rolled-back" == rotation.undo.outcome


def test_what_cannot_be_unmarked_is_left_over_with_its_command() -> None:
    ports, rotation = after(*FENCED)
    rotation = gone_back(ports, rotation)
    ports.rds.put_groups(SHOP, ADMIN, APP)
    rotation = visit(rollback, rotation, ports)
    for _ in range(300):
        ports.fail("rds.remove_tags", AwsRefused("not now"))
    for _ in range(5):
        ports.clock.advance(3600)
        rotation = visit(clean_up, rotation, ports)

    assert rotation.undo is not None
    (leftover,) = rotation.undo.leftovers
    assert f":cluster:shop --tag-keys {NETWORK_FENCE_TAG}  # and of its instances" in leftover


def test_a_late_attempt_closes_nothing_once_it_is_decided() -> None:
    ports, rotation = after(wait_for_source)
    ports.ledger.decisions[ROTATION_ID] = "rollback"

    with pytest.raises(DecisionLost):
        isolate_source(rotation, ports)

    assert [APP, ADMIN] == groups(ports, SHOP)


# -- the end -----------------------------------------------------------------------------------------------------------


def test_after_the_grace_period_the_source_goes_as_any_other() -> None:
    ports, rotation = after(*SWITCHED)
    rotation = visit(verify, opened(ports, rotation), ports)
    ports.clock.advance(8 * 24 * 3600)

    by_snapshot.decommissioned(ports, rotation)

    assert not {SHOP, WRITER, READER} & set(ports.rds.instances)
    assert [ADMIN, APP] == groups(ports, f"{CLUSTER}{TARGET}")
    assert {f"{TARGET}-kept": NEW_KEY} == {name: one["KmsKeyId"] for name, one in ports.rds.snapshots.items()}
