"""A cluster by blue/green, with its instances; it never gets mixed up with an instance of the same name."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from lambdas.create_blue_green_deployment.handler import create_blue_green_deployment
from lambdas.decommission.handler import decommission
from lambdas.list_opted_in_databases.handler import list_opted_in_databases
from lambdas.preflight.handler import preflight
from lambdas.roll_back_deployment.handler import roll_back_deployment
from lambdas.rotation import names
from lambdas.rotation.errors import (
    AwsUnavailable,
    InputRefused,
    PreflightRefused,
    RetirementRefused,
    SettingsNotCarried,
    TargetMismatch,
    UnknownDatabase,
    WrongKey,
)
from lambdas.rotation.marks import SETTLES_IN
from lambdas.rotation.names import DECOMMISSION_TAG, DEPLOYMENT_TAG, GREEN_TAG
from lambdas.rotation.ports import Instance
from lambdas.rotation.state import Key, ManagedRotation, Rotation
from lambdas.rotation.switchover import COMPLETED
from lambdas.rotation.undoing import SLOWEST_FUNCTION
from lambdas.start_rotation.handler import start_rotation
from lambdas.switch_over.handler import switch_over
from lambdas.verify_switchover.handler import verify_switchover
from lambdas.wait_for_green.handler import wait_for_green
from lambdas.wait_for_switchover.handler import wait_for_switchover
from tests.fakes import EXECUTION, NEW_KEY, OLD_KEY, ROTATION_ID, FakePorts, failed, journaled, planned_rotation, visit

SHOP = "cluster/shop"
WRITER, READER = "shop-1", "shop-2"
OWNERS_TAGS = {"team": "shop", "key-rotation:enabled": "true"}


def ports_of() -> FakePorts:
    """A cluster of a writer and a reader, beside an instance that has the cluster's name."""
    ports = FakePorts(with_target=False)
    ports.kms.add(NEW_KEY, tags=names.our_tags(SHOP, ROTATION_ID))
    ports.rds.add_cluster("shop", WRITER, READER, key_arn=OLD_KEY)
    ports.rds.alter(SHOP, tags=OWNERS_TAGS)
    ports.rds.add("shop", key_arn=OLD_KEY)
    return ports


def planned(ports: FakePorts, **plan: object) -> Rotation:
    by_blue_green = {"base_name": SHOP, "strategy": "blue-green", "login_secret": None, "connectivity": ()}
    rotation = planned_rotation(ports, **{**by_blue_green, "dns_record": None, "accept": ("logical-copy",), **plan})
    rotation = rotation.having(source=ports.rds.instances[SHOP].database)
    return journaled(ports, rotation)


def keyed(ports: FakePorts) -> Rotation:
    return journaled(ports, planned(ports).having(new_key=Key(arn=NEW_KEY, manager="CUSTOMER")))


def created(ports: FakePorts) -> Rotation:
    rotation = visit(create_blue_green_deployment, keyed(ports), ports)
    ports.clock.advance(SETTLES_IN.total_seconds())
    return visit(create_blue_green_deployment, rotation, ports)


def ready(ports: FakePorts) -> Rotation:
    rotation = visit(wait_for_green, created(ports), ports)
    ports.clock.advance(SETTLES_IN.total_seconds())
    return visit(wait_for_green, rotation, ports)


def switched(ports: FakePorts) -> Rotation:
    rotation = visit(switch_over, ready(ports), ports)
    ports.blue_green.complete()
    return visit(wait_for_switchover, rotation, ports)


def begun(**request: object) -> Rotation:
    return Rotation(schema=1, execution_arn=EXECUTION, request=request)


# -- which database is meant -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "base_name", "resource_id"),
    [("DBClusterIdentifier", SHOP, "cluster-SHOP"), ("DBInstanceIdentifier", "shop", "db-SHOP")],
)
def test_the_field_says_which_of_two_of_the_same_name(field: str, base_name: str, resource_id: str) -> None:
    ports = ports_of()

    rotation = start_rotation(begun(**{field: "Shop"}), ports)

    plan, source = rotation.planned()
    assert (base_name, resource_id) == (plan.base_name, source.resource_id)
    assert [base_name] == list(ports.ledger.locks), "each has a lock of its own"


def test_a_cluster_that_there_is_not_is_unknown_though_an_instance_has_the_name() -> None:
    ports = FakePorts(with_target=False)

    with pytest.raises(UnknownDatabase):
        start_rotation(begun(DBClusterIdentifier="orders"), ports)


def test_one_rotation_is_of_one_database() -> None:
    with pytest.raises(InputRefused, match="one database"):
        start_rotation(begun(DBClusterIdentifier="shop", DBInstanceIdentifier="shop"), ports_of())


def test_the_name_leads_to_the_target_the_next_time() -> None:
    ports = ports_of()
    rotation = switched(ports)
    visit(verify_switchover, rotation, ports)
    ports.ledger.locks.clear()

    again = start_rotation(begun(DBClusterIdentifier="shop").having(execution_arn=EXECUTION + "2"), ports)

    assert again.source is not None
    assert again.source.resource_id == rotation.synced_target().resource_id


def test_the_fleet_lists_clusters_too() -> None:
    ports = ports_of()
    ports.settings.defaults = {"min_age_days": 0}

    (listed,) = list_opted_in_databases({"scheduled_at": "2027-01-01T00:00:00Z"}, ports)["databases"]

    assert (listed["identifier"], listed["is_cluster"]) == ("shop", True)
    assert listed["execution_name"] == "fleet-20270101T000000Z-cluster_shop"


# -- what speaks against it --------------------------------------------------------------------------------------------


def refusals(ports: FakePorts, **plan: object) -> list[str]:
    with pytest.raises(PreflightRefused) as refused:
        preflight(planned(ports, **plan), ports)
    return [line.partition(":")[0] for line in str(refused.value).splitlines()]


def test_a_cluster_that_can_be_copied_is_not_refused() -> None:
    ports = ports_of()

    rotation = preflight(planned(ports), ports)

    assert rotation.preflight is not None
    assert ["SwitchoverByRds", "AutoScaling"] == [warning.name for warning in rotation.preflight.warnings]


def test_warns_of_policies_that_name_the_resource_id() -> None:
    ports = ports_of()
    ports.rds.alter(SHOP, **having(ports.rds.instances[SHOP], IAMDatabaseAuthenticationEnabled=True))

    rotation = preflight(planned(ports), ports)

    assert rotation.preflight is not None
    assert ["SwitchoverByRds", "ResourceIdChanges", "AutoScaling"] == [
        warning.name for warning in rotation.preflight.warnings
    ]


@pytest.mark.parametrize("strategy", ["read-replica", "catch-up"])
def test_a_replica_is_no_way_to_rotate_a_cluster(strategy: str) -> None:
    """Nor is a copy that catches up: where its recovery ended is known of an instance only."""
    assert ["ClusterNotServed"] == refusals(ports_of(), strategy=strategy)


def test_auto_takes_blue_green() -> None:
    ports = ports_of()

    rotation = preflight(planned(ports, strategy="auto"), ports)

    assert rotation.plan is not None
    assert ("blue-green", None) == (rotation.plan.strategy, rotation.plan.fallback)
    assert [("read-replica", True)] == [
        (one.strategy, one.reasons[0].startswith("ClusterNotServed")) for one in rotation.plan.not_taken
    ]


def having(instance: Instance, **members: object) -> dict[str, object]:
    return {"raw": {**instance.raw, **members}}


@pytest.mark.parametrize(
    ("name", "members"),
    [
        ("ManagedMasterPassword", {"MasterUserSecret": {"SecretArn": "arn:secret"}}),
        ("HasReplicas", {"ReadReplicaIdentifiers": ["arn:aws:rds:eu-west-1:1:cluster:shop"]}),
        ("EngineNotSupported", {"EngineMode": "serverless"}),
        ("GlobalDatabase", {"GlobalClusterIdentifier": "world"}),
        ("GlobalDatabase", {"GlobalWriteForwardingStatus": "disabled"}),
        ("ActivityStream", {"ActivityStreamStatus": "started"}),
        ("CustomEndpoints", {"CustomEndpoints": ["reporting"]}),
        ("NoInstances", {"DBClusterMembers": []}),
        ("BacktrackEnabled", {"BacktrackWindow": 3600}),
    ],
)
def test_refuses_what_rds_does_not_copy_or_carry(name: str, members: dict[str, object]) -> None:
    ports = ports_of()
    ports.rds.alter(SHOP, **having(ports.rds.instances[SHOP], **members))

    assert [name] == refusals(ports)


def test_a_window_of_nothing_is_no_backtracking() -> None:
    ports = ports_of()
    ports.rds.alter(SHOP, **having(ports.rds.instances[SHOP], BacktrackWindow=0))

    assert preflight(planned(ports), ports).preflight is not None


@pytest.mark.parametrize(
    ("name", "facts"),
    [
        ("NotAvailable", {"status": "backing-up"}),
        ("BackupsOff", {"backup_retention_days": 0}),
        ("HasReplicas", {"replica_of": "arn:aws:rds:eu-west-1:1:cluster:shop"}),
        ("BelongsToRotation", {"tags": {DEPLOYMENT_TAG: "another"}}),
        ("TooManyTags", {"tags": {f"t{at}": "" for at in range(46)}}),
    ],
)
def test_refuses_a_cluster_in_a_state_that_will_not_do(name: str, facts: dict[str, object]) -> None:
    ports = ports_of()
    ports.rds.alter(SHOP, **facts)

    assert [name] == refusals(ports)


@pytest.mark.parametrize(
    ("raw", "name"),
    [
        ({"ClusterScalabilityType": "limitless"}, "EngineNotSupported"),
        ({"LimitlessDatabase": {"Status": "enabled"}}, "EngineNotSupported"),
        ({"VPCNetworkingEnabled": False}, "OutsideVpc"),
        ({"InternetAccessGatewayEnabled": True}, "OutsideVpc"),
    ],
)
def test_refuses_a_cluster_of_a_kind_that_is_not_known(raw: dict[str, object], name: str) -> None:
    ports = ports_of()
    ports.rds.alter(SHOP, raw={**ports.rds.instances[SHOP].raw, **raw})

    assert [name] == refusals(ports)


def test_what_is_said_of_every_ordinary_cluster_is_not_refused() -> None:
    ports = ports_of()
    ordinary = {"ClusterScalabilityType": "standard", "LimitlessDatabase": {"Status": "disabled"}}
    inside = {"VPCNetworkingEnabled": True, "InternetAccessGatewayEnabled": False}
    ports.rds.alter(SHOP, raw={**ports.rds.instances[SHOP].raw, **ordinary, **inside})

    assert preflight(planned(ports), ports).preflight is not None


def test_warns_of_capacity_that_is_reserved_for_an_instance_of_a_cluster() -> None:
    ports = ports_of()
    ports.rds.alter(READER, raw={**ports.rds.instances[READER].raw, "DBCapacityReservationIdentifier": "dbcr-1"})

    passed = preflight(planned(ports), ports)

    assert passed.preflight is not None
    assert READER in next(one.message for one in passed.preflight.warnings if one.name == "CapacityReservation")


def test_refuses_an_unencrypted_cluster() -> None:
    """RDS makes no encrypted one of it by blue/green; a restore does."""
    ports = ports_of()
    ports.rds.alter(SHOP, database=ports.rds.instances[SHOP].database.having(kms_key_arn=None))

    assert ["Unencrypted"] == refusals(ports)


def test_refuses_an_engine_that_is_no_aurora() -> None:
    ports = ports_of()
    ports.rds.alter(SHOP, database=ports.rds.instances[SHOP].database.having(engine="neptune"))

    assert ["EngineNotSupported"] == refusals(ports)


def test_refuses_a_cluster_one_of_whose_instances_is_busy() -> None:
    ports = ports_of()
    ports.rds.alter(READER, status="rebooting")

    assert ["NotAvailable"] == refusals(ports)


def test_refuses_a_cluster_one_of_whose_instances_has_no_room_for_a_tag() -> None:
    """The last of ours is set after the commit point."""
    ports = ports_of()
    ports.rds.alter(READER, tags={f"t{at}": "" for at in range(46)})

    assert ["TooManyTags"] == refusals(ports)


def test_refuses_a_cluster_one_of_whose_instances_is_gone_by_now() -> None:
    ports = ports_of()
    del ports.rds.instances[READER]

    assert ["NotAvailable"] == refusals(ports)


def test_refuses_a_cluster_whose_instances_have_different_parameter_groups() -> None:
    """RDS takes one for all of green; to give an instance another one takes a reboot that nobody asks for."""
    ports = ports_of()
    for name, group in ((WRITER, "default"), (READER, "of-its-own")):
        groups = [{"DBParameterGroupName": group}]
        ports.rds.alter(name, **having(ports.rds.instances[name], DBParameterGroups=groups))

    assert ["GroupsDiffer"] == refusals(ports)


def test_refuses_a_cluster_that_an_integration_reads_from() -> None:
    ports = ports_of()
    ports.rds.integrations[ports.rds.instances[SHOP].database.arn] = ["to-the-warehouse"]

    assert ["ZeroEtlIntegration"] == refusals(ports)


def test_refuses_a_cluster_that_is_in_a_deployment() -> None:
    ports = ports_of()
    ports.blue_green.others = ["of-somebody-else"]

    assert ["DeploymentExists"] == refusals(ports)


@pytest.mark.parametrize(
    ("quota", "used"), [("DBClusters", (40, 40)), ("DBInstances", (39, 40)), ("ManualClusterSnapshots", (99, 100))]
)
def test_refuses_when_there_is_no_room(quota: str, used: tuple[int, int]) -> None:
    ports = ports_of()
    ports.rds.quotas[quota] = used

    assert ["QuotaExhausted"] == refusals(ports)


def test_refuses_a_cluster_whose_key_is_disabled() -> None:
    ports = ports_of()
    ports.kms.keys[OLD_KEY] = replace(ports.kms.keys[OLD_KEY], state="Disabled")

    assert ["OldKeyUnusable"] == refusals(ports)


@pytest.mark.parametrize("value", [None, "0"])
def test_refuses_a_cluster_that_nothing_can_follow(value: str | None) -> None:
    ports = ports_of()
    ports.clusters.parameters = {"rds.logical_replication": value} if value else {}

    assert ["ReplicationOff"] == refusals(ports)


@pytest.mark.parametrize(
    ("version", "parameters", "refused"),
    [
        (3, {"binlog_format": "ROW", "event_scheduler": "OFF"}, []),
        (3, {"binlog_format": "STATEMENT", "event_scheduler": "OFF"}, ["StatementReplication"]),
        (3, {"binlog_format": "OFF", "event_scheduler": "OFF"}, ["ReplicationOff"]),
        (3, {"binlog_format": "MIXED", "event_scheduler": "ON"}, ["EventsEnabled"]),
        (3, {"binlog_format": "MIXED"}, ["EventsEnabled"]),
        (2, {"binlog_format": "MIXED"}, []),
        *(
            (3, {"binlog_format": "ROW", "event_scheduler": "OFF", name: "shop"}, ["ReplicationFilters"])
            for name in ("binlog-do-db", "binlog-ignore-db", "replicate-do-db", "replicate-wild-ignore-table")
        ),
        (3, {"binlog_format": "ROW", "event_scheduler": "OFF", "binlog-ignore-db": ""}, []),
    ],
)
def test_of_aurora_mysql_the_binary_log_decides(version: int, parameters: dict[str, str], refused: list[str]) -> None:
    ports = of_aurora_mysql(parameters, version)

    if refused:
        assert refused == refusals(ports)
    else:
        assert preflight(planned(ports), ports).preflight is not None


CAN_BE_COPIED = {"binlog_format": "ROW", "event_scheduler": "OFF"}


def of_aurora_mysql(parameters: dict[str, str] = CAN_BE_COPIED, version: int = 3) -> FakePorts:
    ports = ports_of()
    engine_version = {2: "5.7.mysql_aurora.2.11.6", 3: "8.0.mysql_aurora.3.04.0"}[version]
    database = ports.rds.instances[SHOP].database
    ports.rds.alter(SHOP, database=database.having(engine="aurora-mysql", engine_version=engine_version))
    ports.clusters.parameters = parameters
    return ports


@pytest.mark.parametrize(
    ("prepared", "left_out"),
    [
        (ports_of, "changes of the schema"),
        (of_aurora_mysql, "a database named tmp"),
        (ports_of, "roles, grants and passwords"),
        (of_aurora_mysql, "accounts, grants and passwords"),
    ],
)
def test_a_logical_copy_has_to_be_accepted(prepared: Callable[[], FakePorts], left_out: str) -> None:
    """It leaves out what the engine's logical replication leaves out, and without a login nobody can look for that."""
    ports = prepared()

    with pytest.raises(PreflightRefused, match=f"^LogicalCopy: .*{left_out}"):
        preflight(planned(ports, accept=()), ports)


ROTATED = ManagedRotation(secret_arn="arn:app", function_arn="arn:f:rotate", rules={"AutomaticallyAfterDays": 30})


@pytest.mark.parametrize("prepared", [ports_of, of_aurora_mysql])
@pytest.mark.parametrize("named", ["login_secret", "endpoint_secret"])
def test_refuses_a_secret_whose_password_could_change_before_the_switchover(
    prepared: Callable[[], FakePorts], named: str
) -> None:
    """Blue would have the new one, green the old one, and whoever reads the secret would be locked out of green."""
    ports = prepared()
    ports.secrets.managed["app"] = ROTATED

    assert ["SecretRotationOn"] == refusals(ports, **{named: "app"})

    ports.secrets.suspended.add(ROTATED.secret_arn)
    assert preflight(planned(ports, **{named: "app"}), ports).preflight is not None


def test_refuses_a_secret_whose_rotation_was_switched_off_in_the_middle() -> None:
    ports = ports_of()
    ports.secrets.under_way = ["app is being rotated"]

    assert ["SecretAboutToRotate"] == refusals(ports, login_secret="app")


# -- there -------------------------------------------------------------------------------------------------------------


def test_the_cluster_is_named_alone_and_every_member_is_looked_at() -> None:
    ports = ports_of()

    rotation = ready(ports)

    greens = {name: one for name, one in ports.rds.instances.items() if "green" in name}
    assert {NEW_KEY} == {one.database.kms_key_arn for one in greens.values()}
    assert {ROTATION_ID} == {one.tags[GREEN_TAG] for one in greens.values()}
    assert [f"{SHOP}-green-1", f"{WRITER}-green-1", f"{READER}-green-1"] == sorted(
        greens, key=lambda one: "/" not in one
    )
    assert rotation.deployed().ready
    for name in (SHOP, WRITER, READER):
        assert ports.rds.instances[name].tags[DEPLOYMENT_TAG] == ROTATION_ID
    assert DEPLOYMENT_TAG not in ports.rds.instances["shop"].tags, "the instance of that name has no part in it"


@pytest.mark.parametrize("name", [f"{SHOP}-green-1", f"{WRITER}-green-1", f"{READER}-green-1"])
def test_waits_for_every_member(name: str) -> None:
    ports = ports_of()
    rotation = ready(ports)
    ports.rds.alter(name, status="storage-initialization")

    rotation = visit(wait_for_green, rotation, ports)

    assert not rotation.deployed().ready
    assert [f"{names.identifier_of(name)} to be available (it is storage-initialization)"] == list(
        rotation.deployed().waiting_for
    )


def test_the_parameter_group_of_a_green_cluster_is_in_force_before_it_serves() -> None:
    """A cluster's group waits for a restart of each of its instances."""
    ports = ports_of()
    rotation, green = ready(ports), f"{SHOP}-green-1"
    as_made = ports.rds.instances[green].raw
    waiting = [{**one, "DBClusterParameterGroupStatus": "pending-reboot"} for one in as_made["DBClusterMembers"]]
    ports.rds.alter(green, raw={**as_made, "DBClusterParameterGroup": "of-the-cluster", "DBClusterMembers": waiting})

    rotation = visit(wait_for_green, rotation, ports)

    assert ("shop-green-1 to restart with of-the-cluster",) == rotation.deployed().waiting_for[:1]

    asked = [f"rds.request_reboot {name}-green-1" for name in (WRITER, READER)]
    assert asked == [call for call in ports.calls if "reboot" in call]


def test_a_cluster_that_rds_left_under_its_old_key_ends_the_rotation() -> None:
    ports = ports_of()
    ports.blue_green.left_out = {ports.rds.instances[SHOP].database.arn}

    with pytest.raises(WrongKey):
        ready(ports)


def test_a_setting_that_green_does_not_have_ends_the_rotation() -> None:
    ports = ports_of()
    ports.clusters.differences = {"backup retention": (7, 1)}

    with pytest.raises(SettingsNotCarried, match="backup retention: 7 became 1"):
        ready(ports)


def test_roles_that_rds_does_not_copy_are_asked_for_and_waited_for() -> None:
    ports = ports_of()
    ports.clusters.differences = {"associated roles": (("arn:role", "s3Import"), ())}

    rotation = ready(ports)

    assert ["the associated roles of shop-green-1"] == list(rotation.deployed().waiting_for)
    assert visit(wait_for_green, rotation, ports).deployed().ready


def joined(ports: FakePorts, name: str, cluster: str = SHOP) -> None:
    """Somebody, or Auto Scaling, adds an instance to a cluster."""
    if name not in ports.rds.instances:
        ports.rds.add(name, key_arn=OLD_KEY)
    members = [*ports.rds.instances[cluster].raw["DBClusterMembers"], {"DBInstanceIdentifier": name}]
    ports.rds.alter(cluster, **having(ports.rds.instances[cluster], DBClusterMembers=members))


@pytest.mark.parametrize("name", ["application-autoscaling-1", "shop"])
def test_an_instance_that_has_joined_blue_ends_the_rotation(name: str) -> None:
    """It has no copy: RDS would leave it behind, and applications that read from it with it. It may have any name."""
    ports = ports_of()
    rotation = ready(ports)
    joined(ports, name)

    with pytest.raises(TargetMismatch, match=f"^{name} has joined shop meanwhile, and has no copy"):
        visit(switch_over, rotation, ports)
    assert not [call for call in ports.calls if "request_switchover" in call]
    assert ports.ledger.current(rotation).deployed().switchover_requested_at is None, "it goes back"


def test_an_instance_that_leaves_blue_again_is_waited_for() -> None:
    """To undo a copy of hours because of it would be for nothing."""
    ports = ports_of()
    rotation = ready(ports)
    joined(ports, "shop-3")
    ports.rds.alter("shop-3", status="deleting")

    rotation = visit(switch_over, rotation, ports)

    assert not rotation.deployed().ready
    assert rotation.deployed().waiting_for == ("shop-3 to be gone (it is deleting)",)
    assert rotation.deployed().switchover_requested_at is None
    del ports.rds.instances["shop-3"]  # RDS may list it for a moment longer
    assert visit(switch_over, visit(wait_for_green, rotation, ports), ports).deployed().switchover_requested_at


def test_a_member_that_rds_has_added_ends_the_rotation() -> None:
    ports = ports_of()
    rotation = ready(ports)
    ports.blue_green.pairs.append(("db-SHOP", "db-SHOP"))

    with pytest.raises(TargetMismatch):
        visit(switch_over, rotation, ports)


def test_afterwards_the_name_is_the_targets_and_the_owners_tags_are_on_it() -> None:
    ports = ports_of()
    rotation = switched(ports)
    for _ in range(3):
        rotation = visit(verify_switchover, rotation, ports)

    _, source = rotation.planned()
    assert ("shop-old1", "shop") == (source.identifier, rotation.synced_target().identifier)
    assert rotation.verification is not None
    assert rotation.verification.complete, rotation.verification.pending
    assert OWNERS_TAGS.items() <= ports.rds.instances[SHOP].tags.items()
    assert ports.rds.instances[f"{SHOP}-old1"].tags[DECOMMISSION_TAG] == ROTATION_ID
    assert ports.ledger.successor(SHOP) == rotation.synced_target().resource_id


DELETION = "blue_green.request_deletion bgd-1 with_target=False"


def after_grace(ports: FakePorts) -> Rotation:
    rotation = visit(verify_switchover, switched(ports), ports)
    assert rotation.verification is not None
    assert rotation.verification.complete, rotation.verification.pending
    ports.clock.advance(7 * 86400)
    ports.calls.clear()
    return rotation


def stage_of(rotation: Rotation) -> str:
    assert rotation.decommission is not None
    return rotation.decommission.stage


def test_the_deployment_stands_for_the_whole_grace_period() -> None:
    """Only as long does RDS keep the source from being written to: whoever comes by a stale address commits there."""
    ports = ports_of()
    rotation = visit(verify_switchover, switched(ports), ports)
    ports.clock.advance(7 * 86400 - 1)

    with pytest.raises(RetirementRefused, match="the grace period of shop-old1 is not over"):
        visit(decommission, rotation, ports)
    assert ports.blue_green.live is not None
    assert ports.blue_green.live.status == COMPLETED
    assert DELETION not in ports.calls


def test_the_end_of_the_deployment_comes_before_the_end_of_the_source() -> None:
    """RDS deletes none of its members before."""
    ports = ports_of()
    rotation = after_grace(ports)
    for _ in range(2):
        rotation = visit(decommission, rotation, ports)
        assert stage_of(rotation) == "end-deployment"
        assert [DELETION] == deeds(ports)
    rotation = visit(decommission, rotation, ports)
    assert stage_of(rotation) == "snapshot"
    assert [DELETION] == deeds(ports)

    visit(decommission, rotation, ports)

    assert len(deeds(ports)) == 2
    assert ports.rds.snapshots


def deeds(ports: FakePorts) -> list[str]:
    """What was asked of RDS."""
    return [call for call in ports.calls if "request_" in call]


def test_a_deployment_that_somebody_has_deleted_is_gone() -> None:
    ports = ports_of()
    rotation = after_grace(ports)
    ports.blue_green.live = None

    rotation = visit(decommission, rotation, ports)

    assert (stage_of(rotation), deeds(ports)) == ("snapshot", [])


def test_a_deployment_that_does_not_go_keeps_the_source() -> None:
    """What RDS refuses is asked for again, for seven days; then a person looks at it."""
    ports = ports_of()
    rotation = after_grace(ports)
    ports.blue_green.becomes("SWITCHOVER_IN_PROGRESS")
    rotation = visit(decommission, rotation, ports)
    ports.clock.advance(7 * 86400)
    rotation = visit(decommission, rotation, ports)
    assert (stage_of(rotation), deeds(ports)) == ("end-deployment", [])
    ports.clock.advance(1)

    with pytest.raises(RetirementRefused, match="end-deployment of shop-old1 is not done after 7 days"):
        visit(decommission, rotation, ports)
    assert not ports.rds.snapshots


def test_that_the_source_may_be_written_to_is_in_the_journal_before_rds_is_asked() -> None:
    """Whoever looks for what wrote there finds since when it could."""
    ports = ports_of()
    rotation = after_grace(ports)
    ports.fail("blue_green.request_deletion", AwsUnavailable("lost"), when="after")

    with pytest.raises(AwsUnavailable):
        visit(decommission, rotation, ports)

    assert stage_of(ports.ledger.current(rotation)) == "end-deployment"


def test_a_deployment_whose_source_has_the_name_again_is_left_alone() -> None:
    """Somebody has gone back by hand: it may be what keeps the target from being written to."""
    ports = ports_of()
    rotation = after_grace(ports)
    old = ports.rds.instances[f"{SHOP}-old1"].database
    ports.rds.alter(f"{SHOP}-old1", database=old.having(arn=rotation.deployed().primary.source_arn))

    with pytest.raises(RetirementRefused, match="has the name that applications use again"):
        visit(decommission, rotation, ports)
    assert deeds(ports) == []


def decommissioned(rotation: Rotation, ports: FakePorts) -> Rotation:
    for _ in range(3):
        rotation = visit(verify_switchover, rotation, ports)
    ports.clock.advance(8 * 86400)
    for _ in range(30):
        rotation = visit(decommission, rotation, ports)
    return rotation


def test_the_old_cluster_goes_after_its_instances_and_its_last_snapshot_stays() -> None:
    ports = ports_of()
    ports.rds.alter(SHOP, deletion_protection=True)

    rotation = decommissioned(switched(ports), ports)

    assert rotation.decommission is not None
    assert rotation.decommission.complete
    assert {SHOP, WRITER, READER, "shop", "orders"} == set(ports.rds.instances)
    deletions = [call.split()[1] for call in ports.calls if "request_instance_deletion" in call]
    assert [f"{WRITER}-old1", f"{READER}-old1", f"{SHOP}-old1"] == list(dict.fromkeys(deletions))
    assert {f"shop-rot-{ROTATION_ID}-kept": NEW_KEY} == {n: one["KmsKeyId"] for n, one in ports.rds.snapshots.items()}
    assert not [call for call in ports.calls if call.startswith("engine.")], "no login is needed"


@pytest.mark.parametrize("marked", [{}, {DECOMMISSION_TAG: "another"}])
def test_an_instance_that_has_joined_the_old_cluster_keeps_it(marked: dict[str, str]) -> None:
    """Somebody may use it. RDS deletes no cluster that has an instance: all the others would be gone for nothing."""
    ports = ports_of()
    rotation = after_grace(ports)
    joined(ports, "shop-3", f"{SHOP}-old1")
    ports.rds.alter("shop-3", tags=marked)

    with pytest.raises(
        RetirementRefused, match=r"^shop-old1 has instances that this rotation has not marked for removal: shop-3$"
    ):
        visit(decommission, rotation, ports)
    assert deeds(ports) == []

    ports.rds.alter("shop-3", status="deleting")
    assert stage_of(visit(decommission, rotation, ports)) == "end-deployment"


def test_a_cluster_that_another_one_follows_is_not_removed() -> None:
    ports = ports_of()
    rotation = switched(ports)
    old = f"{SHOP}-old1"
    ports.rds.alter(
        old, **having(ports.rds.instances[old], ReadReplicaIdentifiers=["arn:aws:rds:eu-west-1:1:cluster:x"])
    )

    with pytest.raises(RetirementRefused, match="has replicas"):
        decommissioned(rotation, ports)


@pytest.mark.parametrize("name", [SHOP, WRITER])
def test_a_cluster_that_somebody_has_gone_back_to_by_hand_is_production(name: str) -> None:
    """Its own name, or that of an instance which applications may use, too."""
    ports = ports_of()
    rotation = switched(ports)
    for _ in range(3):
        rotation = visit(verify_switchover, rotation, ports)
    ports.clock.advance(8 * 86400)
    for one, called in ((f"{name}-old1", name), (name, f"{name}-new")):
        database = ports.rds.instances[one].database
        arn = f"{database.arn.rpartition(':')[0]}:{called.removeprefix('cluster/')}"
        ports.rds.alter(one, database=database.having(identifier=called.removeprefix("cluster/"), arn=arn))

    with pytest.raises(RetirementRefused, match="has the name that applications use again"):
        visit(decommission, rotation, ports)


# -- back --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("protected", [False, True])
def test_before_the_switchover_green_goes_and_blue_stays(protected: bool) -> None:
    ports = ports_of()
    ports.rds.alter(SHOP, deletion_protection=protected)
    rotation = failed(ready(ports))
    for _ in range(6):
        rotation = visit(roll_back_deployment, rotation, ports, takes_over=True)
        ports.clock.advance(SLOWEST_FUNCTION.total_seconds())

    assert rotation.undo is not None
    assert ("rolled-back", True, ()) == (rotation.undo.outcome, rotation.undo.clean, rotation.undo.leftovers)
    assert {SHOP, WRITER, READER, "shop", "orders"} == set(ports.rds.instances)
    assert OWNERS_TAGS == ports.rds.instances[SHOP].tags
    assert ports.rds.instances[SHOP].deletion_protection is protected


def test_the_side_that_serves_is_told_by_the_cluster_and_not_by_an_instance_of_its_name() -> None:
    ports = ports_of()
    rotation = visit(switch_over, ready(ports), ports)
    ports.blue_green.complete()
    ports.rds.instances["shop"] = replace(ports.rds.instances["shop"], status="deleting")
    rotation = failed(rotation)
    for _ in range(3):
        rotation = visit(roll_back_deployment, rotation, ports, takes_over=True)
        ports.clock.advance(SLOWEST_FUNCTION.total_seconds())

    assert rotation.undo is not None
    assert rotation.undo.outcome == "committed"


def test_a_green_cluster_whose_deployment_somebody_has_deleted_is_left_over_by_its_own_name() -> None:
    ports = ports_of()
    rotation = failed(ready(ports), "WrongKey")
    ports.blue_green.live = None
    rotation = visit(roll_back_deployment, rotation, ports, takes_over=True)
    ports.clock.advance(24 * 3600)

    undo = visit(roll_back_deployment, rotation, ports).undo

    assert undo is not None
    assert undo.leftovers[0].startswith("aws rds delete-db-cluster --db-cluster-identifier shop-green-1 ")
