"""A Multi-AZ DB cluster by a snapshot of it: RDS makes its instances, and copies none of its snapshots."""

import pytest

from lambdas.check_target.handler import check_target
from lambdas.clean_up.handler import clean_up
from lambdas.copy_snapshot.handler import copy_snapshot
from lambdas.decommission.handler import decommission
from lambdas.pause_application_writes.handler import pause_application_writes
from lambdas.preflight.handler import preflight
from lambdas.restore_target.handler import restore_target
from lambdas.resume_writes.handler import resume_writes
from lambdas.rotation import names, reach
from lambdas.rotation.errors import (
    AccessRefused,
    DatabaseUnreachable,
    FenceBroken,
    FenceIncomplete,
    PreflightRefused,
    RestoreFailed,
    RetirementRefused,
    TargetMismatch,
    UnknownDatabase,
    WrongKey,
)
from lambdas.rotation.names import CLUSTER, CONTROL_DATABASE, DECOMMISSION_TAG, RELEASED_TAG, our_tags
from lambdas.rotation.ports import Step
from lambdas.rotation.state import Key, Rotation
from lambdas.take_snapshot.handler import take_snapshot
from lambdas.verify.handler import verify
from lambdas.wait_for_restore.handler import wait_for_restore
from lambdas.wait_for_source.handler import wait_for_source
from tests.fakes import (
    NEW_KEY,
    OLD_KEY,
    ROTATION_ID,
    FakePorts,
    connectivity_prepared,
    journaled,
    planned_rotation,
    visit,
)
from tests.unit import by_snapshot
from tests.unit.by_snapshot import deeds, failed_over, refusals

BOOKS = f"{CLUSTER}books"
MEMBERS = ("books-instance-1", "books-instance-2", "books-instance-3")
TARGET = f"books-rot-{ROTATION_ID}"
TARGETS_MEMBERS = tuple(f"{TARGET}-instance-{number}" for number in (1, 2, 3))
TEMPORARY, KEPT, INTERIM = f"{TARGET}-source", f"{TARGET}-kept", f"{TARGET}-interim"
MADE = (CLUSTER + TARGET, *TARGETS_MEMBERS)


def prepared(**plan: object) -> tuple[FakePorts, Rotation]:
    """PrepareConnectivity has run; WaitForSource comes next."""
    ports = FakePorts(with_target=False)
    ports.kms.add(NEW_KEY, tags=our_tags(BOOKS, ROTATION_ID))
    cluster = ports.rds.add_cluster("books", *MEMBERS, key_arn=OLD_KEY, engine="postgres").database
    ports.rds.alter(BOOKS, tags={"team": "books", "key-rotation:enabled": "true"})
    having(ports, DBClusterInstanceClass="db.m6gd.large", AllocatedStorage=100)
    del ports.rds.servers["books"].own.open[CONTROL_DATABASE]
    ports.dns.records["Z1", "db.example.com"] = (cluster.address, 5)
    by = {"base_name": BOOKS, "strategy": "snapshot", "write_outage_budget_seconds": 14_400}
    rotation = planned_rotation(ports, **{**by, "accept": ("downtime", "reader-endpoint"), **plan})
    return ports, connectivity_prepared(ports, rotation.having(source=cluster))


def having(ports: FakePorts, **members: object) -> None:
    ports.rds.alter(BOOKS, raw={**ports.rds.instances[BOOKS].raw, **members})


def after(*steps: Step) -> tuple[FakePorts, Rotation]:
    return by_snapshot.after(prepared(), steps, MADE)


REQUESTED = (wait_for_source, pause_application_writes, take_snapshot, copy_snapshot, restore_target)
RELEASED = (*REQUESTED, wait_for_restore, check_target, resume_writes)


# -- what speaks against it --------------------------------------------------------------------------------------------


def test_it_is_not_refused_and_nobody_is_warned_of_scaling_policies() -> None:
    ports, rotation = prepared()

    seen = preflight(rotation, ports).preflight

    assert seen is not None
    assert ["LoadsLazily"] == [warning.name for warning in seen.warnings]
    assert not any("read-replica" in warning.advice for warning in seen.warnings)


@pytest.mark.parametrize("strategy", ["blue-green", "read-replica", "catch-up"])
def test_no_other_strategy_rotates_it(strategy: str) -> None:
    ports, rotation = prepared(strategy=strategy, write_outage_budget_seconds=120)

    assert "ClusterNotServed" in refusals(ports, rotation)
    with pytest.raises(PreflightRefused, match="rotate it by snapshot"):
        preflight(rotation, ports)


def test_of_an_older_version_than_an_instance_may_have_it_is_refused() -> None:
    ports, rotation = prepared()
    database = ports.rds.instances[BOOKS].database.having(engine_version="13.7")
    ports.rds.alter(BOOKS, database=database)

    assert ["EngineNotSupported"] == refusals(ports, journaled(ports, rotation.having(source=database)))


def test_one_of_mysql_is_not_served() -> None:
    ports, rotation = prepared()
    database = ports.rds.instances[BOOKS].database.having(engine="mysql")
    ports.rds.alter(BOOKS, database=database)

    assert ["EngineNotSupported"] == refusals(ports, journaled(ports, rotation.having(source=database)))


def test_rds_encrypts_none_that_is_not() -> None:
    ports, rotation = prepared()
    database = ports.rds.instances[BOOKS].database.having(kms_key_arn=None)
    ports.rds.alter(BOOKS, database=database)

    assert ["Unencrypted"] == refusals(ports, journaled(ports, rotation.having(source=database)))


@pytest.mark.parametrize(
    ("quota", "enough", "too_few"),
    [
        ("DBClusters", (38, 40), (39, 40)),
        ("DBInstances", (34, 40), (35, 40)),
        ("AllocatedStorage", (99_400, 100_000), (99_401, 100_000)),
        ("ManualClusterSnapshots", (98, 100), (99, 100)),
    ],
)
def test_there_has_to_be_room_for_the_target_and_for_what_its_last_snapshot_is_restored_as(
    quota: str, enough: tuple[int, int], too_few: tuple[int, int]
) -> None:
    ports, rotation = prepared()
    ports.rds.quotas[quota] = enough
    assert preflight(rotation, ports).preflight is not None

    ports.rds.quotas[quota] = too_few
    assert ["QuotaExhausted"] == refusals(ports, rotation)


def test_the_names_of_its_instances_are_rdss() -> None:
    ports, rotation = prepared()
    ports.rds.add(other := f"{MEMBERS[1]}-rot-83bcb8d2", key_arn=OLD_KEY)
    listed = ports.rds.instances[BOOKS].raw["DBClusterMembers"]
    having(ports, DBClusterMembers=[*listed, {"DBInstanceIdentifier": other, "IsClusterWriter": False}])

    assert preflight(rotation, ports).preflight is not None


def test_a_long_name_leaves_room_for_those_of_its_instances() -> None:
    """RDS takes 52 characters."""
    long = CLUSTER + "o" * 52

    assert {52} == {len(make(long, ROTATION_ID)) for make in (names.target_identifier, names.interim_cluster)}


def test_its_backups_have_a_window_and_are_waited_for() -> None:
    ports, rotation = prepared()
    opens = ports.clock.now()
    having(ports, PreferredBackupWindow=f"{opens:%H:%M}-{opens.replace(hour=(opens.hour + 1) % 24):%H:%M}")

    rotation = visit(wait_for_source, rotation, ports)

    assert rotation.sync is not None
    assert any("backup window" in reason for reason in rotation.sync.waiting_for)


# -- there -------------------------------------------------------------------------------------------------------------


def test_it_comes_with_its_instances_and_none_is_asked_for() -> None:
    ports, rotation = after(*REQUESTED)

    ports.rds.finish_restore(CLUSTER + TARGET)
    rotation = visit(wait_for_restore, rotation, ports)
    assert [f"as {name}: the target to be available (it is creating)" for name in TARGETS_MEMBERS] == list(
        rotation.restored().waiting_for
    )
    for name in TARGETS_MEMBERS:
        ports.rds.finish_restore(name)

    assert visit(wait_for_restore, rotation, ports).restored().complete
    assert [] == deeds(ports)


def test_an_instance_that_rds_has_not_begun_with_is_waited_for() -> None:
    ports, rotation = after(*REQUESTED)
    for name in MADE:
        ports.rds.finish_restore(name)
    cluster = ports.rds.instances[CLUSTER + TARGET]
    ports.rds.alter(CLUSTER + TARGET, raw={**cluster.raw, "DBClusterMembers": cluster.raw["DBClusterMembers"][:2]})

    rotation = visit(wait_for_restore, rotation, ports)

    assert (f"1 more instances of {TARGET}",) == rotation.restored().waiting_for


@pytest.mark.parametrize("error", [WrongKey, RestoreFailed])
def test_an_instance_that_is_not_what_it_has_to_be_ends_the_rotation(error: type[Exception]) -> None:
    ports, rotation = after(*REQUESTED)
    for name in MADE:
        ports.rds.finish_restore(name)
    last = ports.rds.instances[TARGETS_MEMBERS[2]]
    if error is WrongKey:
        ports.rds.alter(TARGETS_MEMBERS[2], database=last.database.having(kms_key_arn=OLD_KEY))
    else:
        ports.rds.alter(TARGETS_MEMBERS[2], status="failed")

    with pytest.raises(error):
        visit(wait_for_restore, rotation, ports)


# -- a reader that takes the writer's place ----------------------------------------------------------------------------


def test_who_writes_is_written_down_before_anything_is_closed() -> None:
    """Whoever takes its place from then on is another one: also between that and the fence, and for a retry."""
    ports, rotation = after(wait_for_source)
    ports.fail("engine.raise_fence", FenceIncomplete("somebody stays"))

    with pytest.raises(FenceIncomplete):
        visit(pause_application_writes, rotation, ports)
    in_the_journal = ports.ledger.journal[ROTATION_ID].rotation.fence
    failed_over(ports, BOOKS, MEMBERS[1])
    rotation = visit(pause_application_writes, rotation, ports)

    assert in_the_journal is not None
    assert rotation.fence is not None
    assert (MEMBERS[0], MEMBERS[0]) == (in_the_journal.writer, rotation.fence.writer)


def test_nothing_is_closed_while_nobody_knows_who_writes() -> None:
    ports, rotation = after(wait_for_source)
    failed_over(ports, BOOKS, None)

    with pytest.raises(DatabaseUnreachable, match="no instance of books that writes"):
        visit(pause_application_writes, rotation, ports)

    assert ports.ledger.journal[ROTATION_ID].rotation.fence is None
    assert ports.rds.servers["books"].accepts_applications()


def test_nothing_is_closed_of_a_cluster_that_is_gone() -> None:
    ports, rotation = after(wait_for_source)
    del ports.rds.instances[BOOKS]

    with pytest.raises(UnknownDatabase, match="books is gone"):
        visit(pause_application_writes, rotation, ports)


def test_of_a_source_that_has_failed_over_behind_its_fence_no_snapshot_is_taken() -> None:
    """Its sessions of before stay, and may write: the rotation would go back after hours, so it does so now."""
    ports, rotation = after(*REQUESTED[:2])
    failed_over(ports, BOOKS, MEMBERS[2])

    with pytest.raises(FenceBroken, match=f"{MEMBERS[2]} writes in books, not {MEMBERS[0]} as when the fence was"):
        visit(take_snapshot, rotation, ports)

    assert {} == ports.rds.snapshots


@pytest.mark.parametrize(("writer", "who"), [(MEMBERS[1], MEMBERS[1]), (None, "no instance")])
def test_nobody_is_led_away_from_a_source_in_which_another_one_writes(writer: str | None, who: str) -> None:
    """What a session of before has written there since the snapshot is on no target."""
    ports, rotation = after(*REQUESTED, wait_for_restore)
    failed_over(ports, BOOKS, writer)

    with pytest.raises(TargetMismatch, match=f"{who} writes in books, not {MEMBERS[0]}"):
        visit(check_target, rotation, ports)
    rotation = by_snapshot.rolled_back(ports, rotation)

    assert rotation.undo is not None
    assert "rolled-back" == rotation.undo.outcome
    assert ports.rds.servers["books"].accepts_applications()


def test_nobody_is_led_away_from_a_source_that_is_gone() -> None:
    ports, rotation = after(*REQUESTED, wait_for_restore)
    del ports.rds.instances[BOOKS]

    with pytest.raises(TargetMismatch, match="books is gone"):
        visit(check_target, rotation, ports)


def test_a_fence_from_before_the_writer_was_written_down_stands_as_it_did() -> None:
    """Executions wait for weeks while deployments go on."""
    ports, rotation = after(*REQUESTED, wait_for_restore)
    assert rotation.fence is not None
    rotation = journaled(ports, rotation.having(fence=rotation.fence.having(writer=None)))
    failed_over(ports, BOOKS, MEMBERS[1])

    assert visit(check_target, rotation, ports).target_check is not None


def test_a_source_in_which_another_one_writes_is_not_removed_before_somebody_has_looked() -> None:
    """Whoever has, lets the instance write again that did at the fence."""
    ports, rotation = verified()
    ports.clock.advance(8 * 24 * 3600)
    failed_over(ports, BOOKS, MEMBERS[1])
    ports.calls.clear()

    with pytest.raises(RetirementRefused, match=f"{MEMBERS[1]} writes in books, not {MEMBERS[0]}"):
        visit(decommission, rotation, ports)
    assert [] == deeds(ports)
    failed_over(ports, BOOKS, MEMBERS[0])
    decommissioned(ports, rotation)

    assert BOOKS not in ports.rds.instances


def test_whether_rds_says_who_writes_is_proven_before_the_fence() -> None:
    ports, rotation = after(wait_for_source)
    ports.fail("rds.describe_instance_by_resource_id", AccessRefused("no"))

    with pytest.raises(AccessRefused):
        reach.writer(rotation, ports)


# -- and back ----------------------------------------------------------------------------------------------------------


def test_back_it_goes_with_its_instances_of_which_none_is_deleted_by_itself() -> None:
    ports, rotation = after(*REQUESTED, wait_for_restore)

    by_snapshot.cleaned_up(ports, by_snapshot.rolled_back(ports, rotation))

    assert not set(MADE) & set(ports.rds.instances)
    assert [f"rds.request_instance_deletion {CLUSTER}{TARGET}"] == [
        call for call in deeds(ports) if "instance_deletion" in call
    ]
    assert {} == ports.rds.snapshots


def test_what_is_left_over_is_deleted_with_one_command() -> None:
    ports, rotation = after(*REQUESTED, wait_for_restore)
    rotation = by_snapshot.rolled_back(ports, rotation)
    for _ in range(4):
        ports.fail("rds.request_instance_deletion", RetirementRefused("not ours"))

    rotation = visit(clean_up, rotation, ports)

    assert rotation.undo is not None
    assert not any("its instances first" in command for command in rotation.undo.leftovers)


# -- afterwards --------------------------------------------------------------------------------------------------------


def verified() -> tuple[FakePorts, Rotation]:
    ports, rotation = after(*RELEASED)
    ports.dns.records["Z1", "db.example.com"] = (ports.rds.instances[CLUSTER + TARGET].database.address, 5)
    return ports, visit(verify, rotation, ports)


def test_its_instances_are_marked_with_it() -> None:
    """Permissions tell by the marks what may go with a cluster that is deleted."""
    ports, rotation = verified()

    tags = {name: one.tags for name, one in ports.rds.instances.items()}
    assert rotation.verification is not None
    assert rotation.verification.complete
    assert {ROTATION_ID} == {tags[name][DECOMMISSION_TAG] for name in (BOOKS, *MEMBERS)}
    assert ROTATION_ID == tags[CLUSTER + TARGET][RELEASED_TAG]
    assert [{}] * 3 == [tags[name] for name in TARGETS_MEMBERS], "nothing may mark what has no tag of a rotation's"


def test_a_reader_that_rds_shows_as_a_replica_is_a_reader() -> None:
    ports, rotation = after(*RELEASED)
    ports.dns.records["Z1", "db.example.com"] = (ports.rds.instances[CLUSTER + TARGET].database.address, 5)
    ports.rds.alter(TARGETS_MEMBERS[1], replica_of=TARGETS_MEMBERS[0])

    rotation = visit(verify, rotation, ports)

    assert rotation.verification is not None
    assert () == rotation.verification.pending


def decommissioned(ports: FakePorts, rotation: Rotation) -> None:
    for _ in range(2):
        rotation = visit(decommission, rotation, ports)
    for name in (INTERIM, *(f"{INTERIM}-instance-{number}" for number in (1, 2, 3))):
        ports.rds.finish_restore(CLUSTER + name if name == INTERIM else name)
    by_snapshot.decommissioned(ports, rotation)


def test_what_is_kept_is_a_snapshot_of_its_last_snapshot_restored_and_it_goes_as_a_whole() -> None:
    ports, rotation = verified()
    having(
        ports, EnabledCloudwatchLogsExports=["postgresql"], PubliclyAccessible=True, DeletionProtection=True, Iops=3000
    )
    ports.clock.advance(8 * 24 * 3600)
    ports.calls.clear()

    decommissioned(ports, rotation)

    assert [
        f"clusters.request_restore {INTERIM} of {TEMPORARY}",
        f"rds.request_snapshot {KEPT}",
        f"rds.request_instance_deletion {CLUSTER}{INTERIM}",
        f"rds.request_snapshot_deletion {TEMPORARY}",
        f"rds.request_instance_deletion {BOOKS}",
    ] == deeds(ports)
    assert (NEW_KEY, [KEPT]) == (ports.rds.snapshots[KEPT]["KmsKeyId"], list(ports.rds.snapshots))
    assert {CLUSTER + TARGET, *TARGETS_MEMBERS} == set(ports.rds.instances) - {"orders"}
    like = ports.clusters.restored_like[INTERIM]
    assert ("db.m6gd.large", 3000) == (like["DBClusterInstanceClass"], like["Iops"])
    assert not {"EnabledCloudwatchLogsExports", "PubliclyAccessible", "DeletionProtection"} & set(like)


def test_what_an_earlier_rotation_kept_stays_under_its_key() -> None:
    """RDS copies none, and may not restore it as what the database is today."""
    ports, rotation = verified()
    earlier = "books-rot-83bcb8d2-kept"
    ports.rds.request_snapshot(earlier, BOOKS, our_tags(BOOKS, "83bcb8d2"))
    rotation = journaled(ports, rotation.having(old_key=Key(arn=OLD_KEY, manager="CUSTOMER")))
    ports.clock.advance(8 * 24 * 3600)

    decommissioned(ports, rotation)

    assert {KEPT, earlier} == set(ports.rds.snapshots)


def test_what_was_in_between_is_removed_though_somebody_deletes_both_snapshots_and_the_source() -> None:
    ports, rotation = verified()
    ports.clock.advance(8 * 24 * 3600)
    for _ in range(2):
        rotation = visit(decommission, rotation, ports)
    assert CLUSTER + INTERIM in ports.rds.instances
    ports.rds.snapshots.clear()
    for name in (BOOKS, *MEMBERS):
        del ports.rds.instances[name]

    by_snapshot.decommissioned(ports, rotation)

    assert CLUSTER + INTERIM not in ports.rds.instances
