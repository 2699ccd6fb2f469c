"""A cluster by a snapshot of it: restored under the new key without instances, which are made one for one."""

from dataclasses import replace

import pytest

from lambdas.check_target.handler import check_target
from lambdas.clean_up.handler import clean_up
from lambdas.copy_snapshot.handler import copy_snapshot
from lambdas.decommission.handler import decommission
from lambdas.pause_application_writes.handler import pause_application_writes
from lambdas.preflight.handler import preflight
from lambdas.restore_target.handler import restore_target
from lambdas.resume_writes.handler import resume_writes
from lambdas.rotation import reach
from lambdas.rotation.errors import (
    NameTaken,
    PreflightRefused,
    RestoreFailed,
    RetirementRefused,
    SettingsNotCarried,
    SnapshotFailed,
    TargetMismatch,
    WrongKey,
)
from lambdas.rotation.names import CLUSTER, CONTROL_DATABASE, DECOMMISSION_TAG, RELEASED_TAG, ROTATION_ID_TAG, our_tags
from lambdas.rotation.ports import Step
from lambdas.rotation.state import Finding, Rotation
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
from tests.unit.by_snapshot import deeds, refusals

SHOP = f"{CLUSTER}shop"
WRITER, READER = "shop-1", "shop-2"
TARGET = f"shop-rot-{ROTATION_ID}"
TARGETS_WRITER, TARGETS_READER = f"shop-1-rot-{ROTATION_ID}", f"shop-2-rot-{ROTATION_ID}"
TEMPORARY, KEPT = f"{TARGET}-source", f"{TARGET}-kept"
MADE = (f"{CLUSTER}{TARGET}", TARGETS_WRITER, TARGETS_READER)
ACCEPTED = ("downtime", "reader-endpoint")


def prepared(**plan: object) -> tuple[FakePorts, Rotation]:
    """PrepareConnectivity has run; WaitForSource comes next."""
    ports = FakePorts(with_target=False)
    ports.kms.add(NEW_KEY, tags=our_tags(SHOP, ROTATION_ID))
    cluster = ports.rds.add_cluster("shop", WRITER, READER, key_arn=OLD_KEY).database
    ports.rds.alter(SHOP, tags={"team": "shop", "key-rotation:enabled": "true"})
    del ports.rds.servers["shop"].own.open[CONTROL_DATABASE]
    ports.dns.records["Z1", "db.example.com"] = (cluster.address, 5)
    by_snapshot = {"base_name": SHOP, "strategy": "snapshot", "write_outage_budget_seconds": 14_400, "accept": ACCEPTED}
    rotation = planned_rotation(ports, **{**by_snapshot, **plan})
    return ports, connectivity_prepared(ports, rotation.having(source=cluster))


def unencrypted(ports: FakePorts, rotation: Rotation) -> Rotation:
    database = ports.rds.instances[SHOP].database.having(kms_key_arn=None)
    ports.rds.alter(SHOP, database=database)
    return journaled(ports, rotation.having(source=database))


def after(*steps: Step, encrypted: bool = True) -> tuple[FakePorts, Rotation]:
    ports, rotation = prepared()
    return by_snapshot.after((ports, rotation if encrypted else unencrypted(ports, rotation)), steps, MADE)


def done(step: Step, rotation: Rotation, ports: FakePorts) -> Rotation:
    return by_snapshot.done(step, rotation, ports, MADE)


REQUESTED = (wait_for_source, pause_application_writes, take_snapshot, copy_snapshot, restore_target)
RESTORED = (*REQUESTED, wait_for_restore)
RELEASED = (*RESTORED, check_target, resume_writes)


def writable(ports: FakePorts) -> list[str]:
    return [name for name in ("shop", TARGET) if ports.rds.servers[name].accepts_applications()]


# -- what speaks against it --------------------------------------------------------------------------------------------


def having(ports: FakePorts, name: str, **members: object) -> None:
    ports.rds.alter(name, raw={**ports.rds.instances[name].raw, **members})


def test_a_cluster_that_can_be_restored_is_not_refused() -> None:
    ports, rotation = prepared()

    seen = preflight(rotation, ports).preflight

    assert seen is not None
    assert ["AutoScaling"] == [warning.name for warning in seen.warnings]


def test_warns_of_what_is_not_carried_and_of_what_the_server_says() -> None:
    ports, rotation = prepared()
    having(ports, SHOP, DatabaseInsightsMode="advanced")
    said = Finding(name="LongTransaction", message="one is open", advice="end it")
    ports.rds.servers["shop"].worth_a_warning = [said]

    seen = preflight(rotation, ports).preflight

    assert seen is not None
    assert {"AutoScaling", "DatabaseInsights", said.name} == {warning.name for warning in seen.warnings}


def test_instances_may_have_parameter_groups_of_their_own() -> None:
    """Each is made anew with that of its original, which RDS does with no copy by blue/green."""
    ports, rotation = prepared()
    having(ports, READER, DBParameterGroups=[{"DBParameterGroupName": "of-its-own"}])
    having(ports, WRITER, DBParameterGroups=[{"DBParameterGroupName": "default"}])

    assert preflight(rotation, ports).preflight is not None


@pytest.mark.parametrize(
    ("name", "members"),
    [
        ("DataApi", {"HttpEndpointEnabled": True}),
        ("WriteForwarding", {"LocalWriteForwardingStatus": "enabled"}),
        ("WriteForwarding", {"LocalWriteForwardingStatus": "requested"}),
        ("InDirectory", {"DomainMemberships": [{"Domain": "d"}]}),
        ("ChangesPending", {"PendingModifiedValues": {"EngineVersion": "17"}}),
        ("ManagedMasterPassword", {"MasterUserSecret": {"SecretArn": "arn:secret"}}),
        ("HasReplicas", {"ReadReplicaIdentifiers": ["arn:aws:rds:eu-west-1:1:cluster:shop"]}),
        ("GlobalDatabase", {"GlobalWriteForwardingStatus": "disabled"}),
        ("CustomEndpoints", {"CustomEndpoints": ["reporting"]}),
    ],
)
def test_refuses_what_a_restore_would_leave_behind(name: str, members: dict[str, object]) -> None:
    ports, rotation = prepared()
    having(ports, SHOP, **members)

    assert [name] == refusals(ports, rotation)


@pytest.mark.parametrize("instance", [WRITER, READER])
def test_an_instance_of_which_rds_makes_no_more_is_refused(instance: str) -> None:
    """Each is made anew, the readers' too, when nobody can write any more."""
    ports, rotation = prepared()
    having(ports, WRITER, DBInstanceClass="db.r6g.large")
    having(ports, READER, DBInstanceClass="db.r6g.large")
    having(ports, instance, DBInstanceClass="db.r3.large")
    ports.rds.no_longer_made.add(("aurora-postgresql", "16.14", "db.r3.large"))

    assert ["NotOrderable"] == refusals(ports, rotation)


def test_no_write_forwarding_is_nothing_to_leave_behind() -> None:
    ports, rotation = prepared()
    having(ports, SHOP, LocalWriteForwardingStatus="disabled")

    assert preflight(rotation, ports).preflight is not None


@pytest.mark.parametrize(("other", "refused"), [(f"{READER}-rot-83bcb8d2", True), ("shop-3-rot-83bcb8d2", False)])
def test_refuses_two_instances_whose_successors_would_have_one_name(other: str, refused: bool) -> None:
    """The one was made by an earlier rotation, the other added since under the old name: one would never be made."""
    ports, rotation = prepared()
    ports.rds.add(other, key_arn=OLD_KEY)
    members = ports.rds.instances[SHOP].raw["DBClusterMembers"]
    having(ports, SHOP, DBClusterMembers=[*members, {"DBInstanceIdentifier": other, "IsClusterWriter": False}])

    if refused:
        with pytest.raises(PreflightRefused, match=f"{READER} and {other}.* one name, {TARGETS_READER}"):
            preflight(rotation, ports)
        assert ["MemberNames"] == refusals(ports, rotation)
    else:
        assert preflight(rotation, ports).preflight is not None


def test_says_what_becomes_of_those_who_read_at_a_reader() -> None:
    """A pool that is open there is not refused: it would go on reading what is older every day."""
    ports, rotation = prepared(accept=("downtime",))

    with pytest.raises(PreflightRefused, match="new connections are refused, and sessions that are open on a reader"):
        preflight(rotation, ports)


def test_room_for_the_cluster_in_between_is_asked_for_where_one_is_needed() -> None:
    ports, rotation = prepared()
    ports.rds.quotas["DBClusters"] = (38, 40)
    assert preflight(unencrypted(ports, rotation), ports).preflight is not None

    ports.rds.quotas["DBClusters"] = (39, 40)
    assert ["QuotaExhausted"] == refusals(ports, unencrypted(ports, rotation))


def test_room_for_one_cluster_suffices_where_its_snapshot_is_copied() -> None:
    ports, rotation = prepared()
    ports.rds.quotas["DBClusters"] = (39, 40)

    assert preflight(rotation, ports).preflight is not None


def test_aurora_mysql_is_left_to_blue_green() -> None:
    """Nobody here has fenced one: there is no server of it to try on."""
    ports, rotation = prepared()
    database = ports.rds.instances[SHOP].database.having(engine="aurora-mysql")
    ports.rds.alter(SHOP, database=database)

    assert ["EngineNotSupported"] == refusals(ports, journaled(ports, rotation.having(source=database)))


@pytest.mark.parametrize(
    ("missing", "name"), [("downtime", "Downtime"), ("reader-endpoint", "ReaderEndpoint")], ids=lambda one: str(one)
)
def test_what_it_costs_has_to_be_accepted(missing: str, name: str) -> None:
    ports, rotation = prepared(accept=tuple(risk for risk in ACCEPTED if risk != missing))

    assert [name] == refusals(ports, rotation)


def test_where_nobody_only_reads_there_is_no_reader_endpoint_to_mind() -> None:
    ports, rotation = prepared(accept=("downtime",))
    having(ports, SHOP, DBClusterMembers=ports.rds.instances[SHOP].raw["DBClusterMembers"][:1])

    assert preflight(rotation, ports).preflight is not None


def test_it_has_to_be_reached_where_its_instances_are() -> None:
    """Of a cluster RDS does not say which VPC it is in."""
    ports, rotation = prepared()
    ports.settings.defaults = {"vpc_ids": ["vpc-other"]}

    with pytest.raises(PreflightRefused, match="VpcNotReachable: shop is in vpc-1"):
        preflight(rotation, ports)
    assert ["VpcNotReachable"] == refusals(ports, rotation)


def test_neither_name_is_mixed_up_with_that_of_an_instance() -> None:
    ports, rotation = prepared()
    ports.rds.add(TARGET, key_arn=OLD_KEY)
    assert preflight(rotation, ports).preflight is not None

    ports.rds.add_cluster(TARGET, key_arn=OLD_KEY)
    assert ["TargetNameTaken"] == refusals(ports, rotation)


def test_its_backups_are_continuous_and_not_waited_for() -> None:
    ports, rotation = prepared()
    having(ports, SHOP, PreferredBackupWindow="00:00-01:00")

    rotation = done(wait_for_source, rotation, ports)

    assert rotation.sync is not None
    assert rotation.sync.ready


# -- there -------------------------------------------------------------------------------------------------------------


def test_the_snapshot_is_not_copied_and_the_restore_gets_the_new_key() -> None:
    """Applications wait: what is kept is copied by Decommission."""
    ports, rotation = after(*REQUESTED[:2])

    for step in (take_snapshot, copy_snapshot, restore_target):
        rotation = done(step, rotation, ports)

    assert [f"rds.request_snapshot {TEMPORARY}", f"clusters.request_restore {TARGET} of {TEMPORARY}"] == deeds(ports)
    assert ports.rds.instances[CLUSTER + TARGET].database.kms_key_arn == NEW_KEY
    assert set(our_tags(SHOP, ROTATION_ID).items()) <= set(ports.rds.instances[CLUSTER + TARGET].tags.items())


def test_the_writer_is_asked_for_alone_and_the_others_together() -> None:
    """RDS lets the first instance of a cluster write."""
    ports, rotation = after(*REQUESTED)
    having(ports, SHOP, DBClusterMembers=[
        {"DBInstanceIdentifier": READER, "IsClusterWriter": False},
        {"DBInstanceIdentifier": WRITER, "IsClusterWriter": True},
    ])  # fmt: skip

    rotation = visit(wait_for_restore, rotation, ports)
    assert [] == deeds(ports), "the cluster itself is not there"
    ports.rds.finish_restore(CLUSTER + TARGET)
    rotation = visit(wait_for_restore, rotation, ports)
    assert [f"rds.request_member {TARGETS_WRITER} like {WRITER}"] == deeds(ports)
    rotation = visit(wait_for_restore, rotation, ports)
    assert f"rds.request_member {TARGETS_READER} like {READER}" == deeds(ports)[-1]
    rotation = visit(wait_for_restore, rotation, ports)

    assert [
        f"for {WRITER}: the target to be available (it is creating)",
        f"for {READER}: the target to be available (it is creating)",
    ] == list(rotation.restored().waiting_for)
    for name in (TARGETS_WRITER, TARGETS_READER):
        ports.rds.finish_restore(name)
    assert visit(wait_for_restore, rotation, ports).restored().complete
    assert 2 == len(deeds(ports)), "each was asked for once"


def test_an_instance_that_somebody_else_made_ends_the_rotation() -> None:
    ports, rotation = after(*REQUESTED)
    ports.rds.add(TARGETS_WRITER, key_arn=OLD_KEY)
    ports.rds.finish_restore(CLUSTER + TARGET)

    with pytest.raises((WrongKey, NameTaken)):
        visit(wait_for_restore, rotation, ports)


def test_settings_that_a_restore_does_not_take_are_repaired_before_the_instances() -> None:
    """An instance shows those of its cluster, and RDS refuses to change them there."""
    ports, rotation = after(*REQUESTED)
    ports.clusters.differences = {"maintenance window": ("mon:01:00-mon:01:30", "sun:01:00-sun:01:30")}
    ports.rds.finish_restore(CLUSTER + TARGET)

    rotation = visit(wait_for_restore, rotation, ports)

    assert ["clusters.request_setting_repair maintenance window"] == deeds(ports)
    assert ("the settings maintenance window",) == rotation.restored().waiting_for
    visit(wait_for_restore, rotation, ports)
    assert deeds(ports)[-1].startswith("rds.request_member")


def test_a_setting_of_an_instance_is_repaired_and_waited_for() -> None:
    ports, rotation = after(*REQUESTED)
    for made in (CLUSTER + TARGET, TARGETS_WRITER):
        ports.rds.finish_restore(made)
        rotation = visit(wait_for_restore, rotation, ports)
    ports.rds.differences = {"instance class": ("db.r6g.large", "db.t4g.medium")}

    rotation = visit(wait_for_restore, rotation, ports)

    assert f"the settings instance class of {TARGETS_WRITER}" in rotation.restored().waiting_for


@pytest.mark.parametrize("broken", [CLUSTER + TARGET, TARGETS_READER])
def test_what_rds_gives_up_ends_the_rotation(broken: str) -> None:
    ports, rotation = after(*REQUESTED)
    for made in (CLUSTER + TARGET, TARGETS_WRITER, TARGETS_READER):
        if made in ports.rds.instances:
            ports.rds.finish_restore(made)
        if made != TARGETS_READER:
            rotation = visit(wait_for_restore, rotation, ports)
    ports.rds.alter(broken, status="incompatible-network")

    with pytest.raises(RestoreFailed):
        visit(wait_for_restore, rotation, ports)


def test_a_setting_beyond_repair_ends_the_rotation() -> None:
    ports, rotation = after(*REQUESTED)
    ports.clusters.differences, ports.clusters.unrepairable = {"port": (5433, 5432)}, ["port"]
    ports.rds.finish_restore(CLUSTER + TARGET)

    with pytest.raises(SettingsNotCarried, match="port: 5433 became 5432"):
        visit(wait_for_restore, rotation, ports)


def test_the_target_is_released_and_the_source_stays_fenced() -> None:
    ports, rotation = after(*RELEASED)

    assert rotation.synced_target().is_cluster
    assert [TARGET] == writable(ports)


def test_copying_proves_no_reach_that_it_does_not_need(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its function may not describe cluster snapshots."""
    ports, rotation = prepared()
    asked: list[str] = []
    for either in (ports.clusters, ports.rds):
        monkeypatch.setattr(either, "describe_snapshot", asked.append)

    reach.snapshot_to_copy(rotation, ports)
    assert [] == asked
    reach.snapshot(rotation, ports)
    assert [TEMPORARY] == asked


# -- back --------------------------------------------------------------------------------------------------------------


def test_a_rollback_opens_the_source_and_removes_instances_cluster_and_snapshot() -> None:
    ports, rotation = after(*RESTORED)
    ports.rds.alter(CLUSTER + TARGET, deletion_protection=True)
    rotation = by_snapshot.rolled_back(ports, rotation)
    assert ["shop"] == writable(ports)

    for _ in range(12):
        rotation = visit(clean_up, rotation, ports)

    assert rotation.undo is not None
    assert rotation.undo.clean
    assert () == rotation.undo.leftovers
    assert {SHOP, WRITER, READER} <= set(ports.rds.instances)
    assert not {CLUSTER + TARGET, TARGETS_WRITER, TARGETS_READER} & set(ports.rds.instances)
    assert {} == ports.rds.snapshots


def test_what_cannot_be_removed_is_left_over_with_the_commands_of_clusters() -> None:
    ports, rotation = after(*RESTORED)
    rotation = by_snapshot.rolled_back(ports, rotation)
    for call in ("rds.request_instance_deletion", "rds.request_snapshot_deletion"):
        for _ in range(4):
            ports.fail(call, RetirementRefused("not ours"))

    rotation = visit(clean_up, rotation, ports)

    assert rotation.undo is not None
    left = "\n".join(rotation.undo.leftovers)
    assert f"aws rds delete-db-cluster --db-cluster-identifier {TARGET} --skip-final-snapshot" in left
    assert "its instances first" in left
    assert f"aws rds delete-db-cluster-snapshot --db-cluster-snapshot-identifier {TEMPORARY}" in left


def test_a_strangers_cluster_of_that_name_is_not_touched() -> None:
    ports, rotation = after(*RESTORED)
    rotation = by_snapshot.rolled_back(ports, rotation)
    ports.rds.alter(CLUSTER + TARGET, tags={ROTATION_ID_TAG: "another"})

    for _ in range(6):
        rotation = visit(clean_up, rotation, ports)

    assert CLUSTER + TARGET in ports.rds.instances
    assert TARGETS_WRITER in ports.rds.instances


# -- afterwards --------------------------------------------------------------------------------------------------------


def verified(*, encrypted: bool = True) -> tuple[FakePorts, Rotation]:
    ports, rotation = after(*RELEASED, encrypted=encrypted)
    ports.dns.records["Z1", "db.example.com"] = (ports.rds.instances[CLUSTER + TARGET].database.address, 5)
    return ports, visit(verify, rotation, ports)


def test_marks_the_instances_of_both_sides() -> None:
    """By these marks permissions tell what may be deleted, and what no rollback may."""
    ports, rotation = verified()

    tags = {name: one.tags for name, one in ports.rds.instances.items()}
    assert {ROTATION_ID} == {tags[name][DECOMMISSION_TAG] for name in (SHOP, WRITER, READER)}
    assert {ROTATION_ID} == {tags[name][RELEASED_TAG] for name in (CLUSTER + TARGET, TARGETS_WRITER, TARGETS_READER)}
    assert rotation.verification is not None
    assert (True, TEMPORARY) == (rotation.verification.complete, rotation.verification.evidence["restored_from"])


@pytest.mark.parametrize(
    ("facts", "pending"),
    [
        ({"status": "rebooting"}, f"{TARGETS_READER} is rebooting"),
        ({"key": OLD_KEY}, f"{TARGETS_READER} is encrypted under {OLD_KEY}"),
    ],
)
def test_looks_at_every_instance(facts: dict[str, str], pending: str) -> None:
    ports, rotation = after(*RELEASED)
    reader = ports.rds.instances[TARGETS_READER]
    database = reader.database.having(kms_key_arn=facts.get("key", NEW_KEY))
    ports.rds.instances[TARGETS_READER] = replace(reader, database=database, status=facts.get("status", "available"))

    rotation = visit(verify, rotation, ports)

    assert rotation.verification is not None
    assert pending in rotation.verification.pending


def test_a_target_without_a_successor_for_everybody_is_not_verified() -> None:
    ports, rotation = after(*RELEASED)
    ports.dns.records["Z1", "db.example.com"] = (ports.rds.instances[CLUSTER + TARGET].database.address, 5)
    members = ports.rds.instances[CLUSTER + TARGET].raw["DBClusterMembers"]
    having(ports, CLUSTER + TARGET, DBClusterMembers=members[:1])

    rotation = visit(verify, rotation, ports)

    assert rotation.verification is not None
    assert (f"{TARGET} has 1 instances, the source 2",) == rotation.verification.pending


def test_the_source_goes_instance_by_instance_and_a_copy_of_the_snapshot_stays() -> None:
    ports, rotation = verified()
    ports.clock.advance(8 * 24 * 3600)

    for _ in range(16):
        rotation = visit(decommission, rotation, ports)

    assert rotation.decommission is not None
    assert rotation.decommission.complete
    assert not {SHOP, WRITER, READER} & set(ports.rds.instances)
    assert [KEPT] == list(ports.rds.snapshots)
    assert ports.rds.snapshots[KEPT]["KmsKeyId"] == NEW_KEY


def test_nobody_is_led_away_from_a_source_in_which_another_instance_writes() -> None:
    ports, rotation = after(*RESTORED)
    by_snapshot.failed_over(ports, SHOP, READER)

    with pytest.raises(TargetMismatch, match=f"{READER} writes in shop, not {WRITER}"):
        visit(check_target, rotation, ports)


def test_one_that_fails_over_in_the_grace_period_is_removed_all_the_same() -> None:
    """Aurora ends the sessions of a reader that takes over; and so does each deletion of a writer, one by one."""
    ports, rotation = verified()
    ports.clock.advance(8 * 24 * 3600)
    by_snapshot.failed_over(ports, SHOP, READER)

    by_snapshot.decommissioned(ports, rotation)

    assert not {SHOP, WRITER, READER} & set(ports.rds.instances)


@pytest.mark.parametrize("tags", [{}, {DECOMMISSION_TAG: "another"}])
def test_an_instance_that_came_meanwhile_keeps_the_cluster(tags: dict[str, str]) -> None:
    """This rotation has not marked it: it may be somebody's."""
    ports, rotation = verified()
    ports.rds.add("shop-9", key_arn=OLD_KEY, tags=tags)
    members = ports.rds.instances[SHOP].raw["DBClusterMembers"]
    having(ports, SHOP, DBClusterMembers=[*members, {"DBInstanceIdentifier": "shop-9", "IsClusterWriter": False}])
    ports.clock.advance(8 * 24 * 3600)

    for _ in range(16):
        rotation = visit(decommission, rotation, ports)

    assert {SHOP, "shop-9"} <= set(ports.rds.instances)
    assert not {WRITER, READER} & set(ports.rds.instances)


# -- one that has no key -----------------------------------------------------------------------------------------------

INTERIM = f"{TARGET}-interim"


def at_the_end_of_grace() -> tuple[FakePorts, Rotation]:
    ports, rotation = verified(encrypted=False)
    ports.rds.alter(SHOP, deletion_protection=True)
    ports.clock.advance(8 * 24 * 3600)
    ports.calls.clear()
    return ports, rotation


def with_the_interim(ports: FakePorts, rotation: Rotation) -> Rotation:
    """The snapshot is restored, and RDS has made that."""
    rotation = visit(decommission, visit(decommission, rotation, ports), ports)
    ports.rds.finish_restore(CLUSTER + INTERIM)
    return rotation


def test_the_copy_that_is_kept_of_an_unencrypted_cluster_is_of_a_restore_of_its_snapshot() -> None:
    ports, rotation = at_the_end_of_grace()

    rotation = with_the_interim(ports, rotation)
    by_snapshot.decommissioned(ports, rotation)

    assert [
        f"clusters.request_restore {INTERIM} of {TEMPORARY}",
        f"rds.request_snapshot {KEPT}",
        f"rds.disable_deletion_protection {CLUSTER}{INTERIM}",
        f"rds.request_instance_deletion {CLUSTER}{INTERIM}",
        f"rds.request_snapshot_deletion {TEMPORARY}",
    ] == deeds(ports)[:5]
    assert (NEW_KEY, [KEPT]) == (ports.rds.snapshots[KEPT]["KmsKeyId"], list(ports.rds.snapshots))
    assert [KEPT] == ports.rds.snapshots_under(NEW_KEY, our_tags(SHOP, ROTATION_ID)), "the next rotation looks for it"
    assert not {SHOP, WRITER, READER, CLUSTER + INTERIM} & set(ports.rds.instances)


def test_nobody_pays_for_backtracking_the_cluster_in_between() -> None:
    ports, rotation = at_the_end_of_grace()
    having(ports, SHOP, BacktrackWindow=3600, StorageType="aurora-iopt1")

    with_the_interim(ports, rotation)

    like = ports.clusters.restored_like[INTERIM]
    assert ("aurora-iopt1", False) == (like["StorageType"], "BacktrackWindow" in like)


def test_nothing_of_the_source_goes_before_that_copy_is_there() -> None:
    ports, rotation = at_the_end_of_grace()
    rotation = visit(decommission, visit(decommission, rotation, ports), ports)

    for _ in range(5):
        rotation = visit(decommission, rotation, ports)

    assert [f"clusters.request_restore {INTERIM} of {TEMPORARY}"] == deeds(ports)
    assert {SHOP, WRITER, READER} <= set(ports.rds.instances)


def test_the_cluster_in_between_is_made_like_the_target_where_the_source_is_gone() -> None:
    ports, rotation = at_the_end_of_grace()
    for one in (SHOP, WRITER, READER):
        del ports.rds.instances[one]

    by_snapshot.decommissioned(ports, with_the_interim(ports, rotation))

    assert [KEPT] == list(ports.rds.snapshots)


def test_a_snapshot_that_nobody_could_restore_is_not_thrown_away() -> None:
    ports, rotation = at_the_end_of_grace()
    rotation = visit(decommission, visit(decommission, rotation, ports), ports)
    ports.rds.alter(CLUSTER + INTERIM, status="incompatible-restore")

    with pytest.raises(SnapshotFailed, match=f"{INTERIM}.* is incompatible-restore"):
        visit(decommission, rotation, ports)
    assert [TEMPORARY] == list(ports.rds.snapshots)


def test_what_somebody_else_has_under_the_name_in_between_is_no_copy_of_the_source() -> None:
    ports, rotation = at_the_end_of_grace()
    ports.rds.add_cluster(INTERIM, key_arn=NEW_KEY)
    rotation = visit(decommission, rotation, ports)

    with pytest.raises(NameTaken):
        visit(decommission, rotation, ports)
    assert (CLUSTER + INTERIM in ports.rds.instances, [TEMPORARY]) == (True, list(ports.rds.snapshots))


def test_a_kept_copy_under_another_key_is_none() -> None:
    ports, rotation = at_the_end_of_grace()
    rotation = with_the_interim(ports, rotation)
    interim = ports.rds.instances[CLUSTER + INTERIM].database.having(kms_key_arn=OLD_KEY)
    ports.rds.alter(CLUSTER + INTERIM, database=interim)
    rotation = visit(decommission, rotation, ports)

    with pytest.raises(SnapshotFailed, match="not under the new key"):
        visit(decommission, rotation, ports)


def test_with_both_sides_gone_the_last_snapshot_stays() -> None:
    ports, rotation = at_the_end_of_grace()
    rotation = visit(decommission, rotation, ports)
    for one in (SHOP, WRITER, READER, CLUSTER + TARGET):
        del ports.rds.instances[one]

    with pytest.raises(RetirementRefused, match=f"{TEMPORARY} is all that is left"):
        visit(decommission, rotation, ports)
