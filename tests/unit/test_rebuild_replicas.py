"""Readers get a replica of the target under the name that they know, and nobody loses one that is theirs."""

from dataclasses import replace
from datetime import timedelta
from typing import Any, Literal

import pytest

from lambdas.decommission.handler import decommission
from lambdas.notify.handler import notify
from lambdas.preflight.handler import preflight
from lambdas.rebuild_replicas.handler import PATIENCE, PATIENCE_WITH_REFUSALS, rebuild_replicas
from lambdas.rotation.errors import (
    AccessRefused,
    AwsRefused,
    AwsUnavailable,
    PreflightRefused,
    ReplicasNotRebuilt,
    RetirementRefused,
)
from lambdas.rotation.handover import mark_replicas
from lambdas.rotation.marks import SETTLES_IN
from lambdas.rotation.names import (
    DECOMMISSION_TAG,
    RELEASED_TAG,
    ROTATION_ID_TAG,
    TAGS_AT_MOST,
    TAGS_OF_A_DATABASE,
    replaced_identifier,
    successor_identifier,
    target_identifier,
)
from lambdas.rotation.ports import Instance
from lambdas.rotation.state import Moment, Replica, Rotation, Successor
from lambdas.start_rotation.handler import start_rotation
from tests.fakes import (
    EXECUTION,
    NEW_KEY,
    OLD_KEY,
    RECOVERY,
    ROTATION_ID,
    SOURCE,
    TARGET,
    Calls,
    FakePorts,
    failed,
    journaled,
    past_grace,
    switched_rotation,
    visit,
)

REPORTS, SEARCH = "reports", "search"
ACCEPTED = ["replicas-away"]


def interim(replica: str) -> str:
    return successor_identifier(replica, ROTATION_ID)


def replaced(replica: str) -> str:
    return replaced_identifier(replica, ROTATION_ID)


# -- StartRotation and Preflight --


def with_replicas(*replicas: str) -> FakePorts:
    ports = FakePorts(with_target=False, vpc_ids=["vpc-1"])
    for replica in replicas:
        ports.rds.add_replica(replica, of=SOURCE)
    ports.secrets.logins["login"] = ("rotator", "secret")
    ports.dns.records["Z1", "db.example.com"] = (ports.rds.instances[SOURCE].database.address, 300)
    return ports


def started(ports: FakePorts, **request: Any) -> Rotation:
    ways = {"LoginSecret": "login", "Connectivity": "dns", "DnsRecord": "Z1/db.example.com"}
    asked = {"DBInstanceIdentifier": SOURCE, **ways, **request}
    return start_rotation(Rotation(schema=1, execution_arn=EXECUTION, request=asked), ports)


def refusals(rotation: Rotation, ports: FakePorts) -> dict[str, str]:
    with pytest.raises(PreflightRefused) as refused:
        preflight(rotation, ports)
    return {line.partition(": ")[0]: line for line in str(refused.value).splitlines()}


def test_the_plan_says_whose_readers_have_to_wait() -> None:
    """A dry run shows it before anything is made."""
    ports = with_replicas(REPORTS, SEARCH)

    rotation = preflight(started(ports, DryRun=True, Accept=ACCEPTED), ports)

    plan, _ = rotation.planned()
    assert [(name, f"db-{name.upper()}", OLD_KEY) for name in (REPORTS, SEARCH)] == [
        (one.identifier, one.resource_id, one.key_arn) for one in plan.replicas
    ]
    notify(journaled(ports, rotation), ports)
    [(moment, _, message)] = ports.notifier.sent
    assert moment == Moment.PLANNED
    assert [(REPORTS, None), (SEARCH, None)] == [(one["identifier"], one["stage"]) for one in message["replicas"]]


@pytest.mark.parametrize("strategy", ["read-replica", "snapshot", "catch-up"])
def test_readers_that_are_kept_out_have_to_be_accepted_by_name(strategy: str) -> None:
    def reasons(*accept: str) -> dict[str, str]:
        ports = with_replicas(REPORTS)
        ports.rds.alter(SOURCE, status="backing-up")  # a reason that nobody can accept away
        return refusals(started(ports, Strategy=strategy, Accept=["downtime", *accept]), ports)

    told = reasons()["ReplicasAway"]

    assert f"nobody can log in to {REPORTS}" in told
    assert "blue-green" in told
    assert "ReplicasAway" not in reasons(*ACCEPTED)


@pytest.mark.parametrize(("accept", "strategy"), [([], "blue-green"), (ACCEPTED, "read-replica")])
def test_auto_keeps_readers_in_unless_they_may_wait(accept: list[str], strategy: str) -> None:
    ports = with_replicas(REPORTS)

    plan, _ = preflight(started(ports, Strategy="auto", Accept=accept), ports).planned()

    assert strategy == plan.strategy


def test_a_target_without_backups_would_have_no_replica() -> None:
    ports = with_replicas(REPORTS)
    ports.rds.alter(SOURCE, backup_retention_days=0)

    assert ["BackupsOff"] == list(refusals(started(ports, Strategy="snapshot", Accept=["downtime", *ACCEPTED]), ports))


def test_a_network_fence_leaves_replicas_open_and_is_refused() -> None:
    ports = with_replicas(REPORTS)
    rotation = started(ports, Accept=ACCEPTED)
    plan, _ = rotation.planned()
    rotation = journaled(ports, rotation.having(plan=plan.having(strategy="snapshot", fence="network")))

    assert REPORTS in refusals(rotation, ports)["HasReplicas"]


UNFIT: dict[str, dict[str, Any]] = {
    "NotAvailable": {"status": "rebooting"},
    "CascadingReplicas": {"raw": {"ReadReplicaDBInstanceIdentifiers": ["further"]}},
    "BackupsReplicated": {"raw": {"DBInstanceAutomatedBackupsReplications": [{}]}},
    "IacOwned": {"tags": {"aws:cloudformation:stack-name": "shop"}},
    "ActivityStream": {"raw": {"ActivityStreamStatus": "started"}},
    "InDirectory": {"raw": {"DomainMemberships": [{"Domain": "d-1"}]}},
    "TooManyTags": {"tags": {f"tag-{n}": "" for n in range(TAGS_AT_MOST - TAGS_OF_A_DATABASE + 1)}},
    "ChangesPending": {"raw": {"PendingModifiedValues": {"DBInstanceClass": "db.r6g.large"}}},
    "ReplicaNotFollowing": {"replication_normal": False},
    "ReplicaElsewhere": {"raw": {"DBSubnetGroup": {"DBSubnetGroupName": "analysts"}}},
    "BelongsToRotation": {"tags": {ROTATION_ID_TAG: "0a1b2c3d"}},
}


@pytest.mark.parametrize("name", UNFIT)
def test_refuses_what_a_successor_would_not_have(name: str) -> None:
    """After the commit point it would be too late."""
    ports = with_replicas(REPORTS)
    ports.rds.alter(REPORTS, **UNFIT[name])

    found = refusals(started(ports, Accept=ACCEPTED), ports)

    assert [name] == list(found)
    assert REPORTS in found[name]


def grouped(engine: str, version: str, parameters: dict[str, str]) -> FakePorts:
    """The replica has a parameter group that says so."""
    ports = with_replicas(REPORTS)
    for name in (SOURCE, REPORTS):
        ports.rds.alter(name, database=at(ports, name).database.having(engine=engine, engine_version=version))
    ports.rds.alter(REPORTS, raw={"DBParameterGroups": [{"DBParameterGroupName": "of-readers"}]})
    ports.rds.parameters = parameters
    return ports


@pytest.mark.parametrize(
    ("engine", "parameter", "value", "name"),
    [
        ("mariadb", "read_only", "0", "WritableReplica"),
        ("mariadb", "read_only", "OFF", "WritableReplica"),
        ("mariadb", "read_only", "{TrueIfReplica}", None),
        ("mariadb", "replicate-do-db", "shop", "ReplicaApart"),
        ("mariadb", "replicate-wild-ignore-table", "shop.%", "ReplicaApart"),
        ("mariadb", "replicate-do-db", "", None),
        ("postgres", "recovery_min_apply_delay", "3600000", "ReplicaApart"),
        ("postgres", "recovery_min_apply_delay", "0", None),
        ("postgres", "max_standby_streaming_delay", "-1", "ReplicaApart"),
        ("postgres", "max_standby_archive_delay", "-1", "ReplicaApart"),
        ("postgres", "max_standby_streaming_delay", "30000", None),
    ],
)
def test_refuses_what_its_parameters_keep_from_the_fence_or_from_a_successor(
    engine: str, parameter: str, value: str, name: str | None
) -> None:
    ports = grouped(engine, "10.11.14" if engine == "mariadb" else "16.14", {parameter: value})
    rotation = started(ports, Accept=ACCEPTED)

    if name is None:
        assert preflight(rotation, ports).preflight is not None
    else:
        found = refusals(rotation, ports)
        assert [name] == list(found)
        assert "of-readers" in found[name]


def decoding(version: str = "16.14", value: str = "1") -> FakePorts:
    return grouped("postgres", version, {"rds.logical_replication": value})


@pytest.mark.parametrize("strategy", ["read-replica", "snapshot", "catch-up"])
def test_looks_into_a_replica_for_slots_that_its_successor_would_not_have(strategy: str) -> None:
    ports = decoding()
    asked = {"Strategy": strategy, "Accept": ["downtime", *ACCEPTED]}
    rotation = started(ports, **asked)
    assert preflight(rotation, ports).preflight is not None

    ports.rds.servers[REPORTS].followed_by = {"to_the_warehouse": "orders"}

    assert "slot to_the_warehouse of database orders" in refusals(rotation, ports)["LogicalSlots"]


@pytest.mark.parametrize(("version", "value", "accept"), [
    ("16.14", "1", ["logical-slots"]), ("16.14", "0", []), ("15.18", "1", []),
])  # fmt: skip
def test_does_not_look_for_slots_that_may_go_or_cannot_be(version: str, value: str, accept: list[str]) -> None:
    """An older PostgreSQL has none on a replica."""
    ports = decoding(version, value)
    ports.rds.servers[REPORTS].reachable = False

    assert preflight(started(ports, Accept=[*ACCEPTED, *accept]), ports).preflight is not None


def test_slots_that_nobody_could_look_for_may_be_there() -> None:
    ports = decoding()
    ports.rds.servers[REPORTS].reachable = False

    found = refusals(started(ports, Accept=ACCEPTED), ports)

    assert ["LogicalSlots"] == list(found)
    assert f"of-readers, so {REPORTS}, a replica, may have" in found["LogicalSlots"]
    assert f"nobody could look: {REPORTS} does not answer" in found["LogicalSlots"]


def test_without_a_login_nobody_looks_for_slots() -> None:
    ports = decoding()

    assert {"LogicalSlots", "NoLoginSecret"} <= set(refusals(started(ports, LoginSecret=None, Accept=ACCEPTED), ports))


@pytest.mark.parametrize(
    ("facts", "parameter", "name"),
    [
        ({"tags": {ROTATION_ID_TAG: "0a1b2c3d"}}, None, "BelongsToRotation"),
        ({}, "read_only", "WritableReplica"),
        ({}, "rds.logical_replication", "LogicalSlots"),
        ({"replication_normal": False}, "replicate-do-db", None),  # RDS makes another one, while this one serves
    ],
)
def test_a_blue_green_deployment_loses_what_only_the_old_one_has(
    facts: dict[str, Any], parameter: str | None, name: str | None
) -> None:
    values = {"read_only": "0", "rds.logical_replication": "1", "replicate-do-db": "shop"}
    engine = "postgres" if parameter == "rds.logical_replication" else "mariadb"
    version = "16.14" if engine == "postgres" else "10.11.14"
    ports = grouped(engine, version, {parameter: values[parameter]} if parameter else {})
    ports.rds.alter(REPORTS, **facts)
    rotation = started(ports, Strategy="blue-green")

    if name is None:
        assert preflight(rotation, ports).preflight is not None
    else:
        assert [name] == list(refusals(rotation, ports))


def test_a_successor_of_an_earlier_rotation_passes() -> None:
    ports = with_replicas(REPORTS)
    ports.rds.alter(REPORTS, tags={ROTATION_ID_TAG: "0a1b2c3d", RELEASED_TAG: "0a1b2c3d"})

    assert preflight(started(ports, Accept=ACCEPTED), ports).preflight is not None


def test_refuses_a_replica_that_has_stopped_and_is_called_normal() -> None:
    ports = with_replicas(REPORTS)
    ports.rds.alter(REPORTS, raw={"StatusInfos": [{"StatusType": "read replication", "Status": "stopped"}]})

    assert "(stopped)" in refusals(started(ports, Accept=ACCEPTED), ports)["ReplicaNotFollowing"]


@pytest.mark.parametrize(
    ("replica", "words"),
    [
        ({"AllocatedStorage": 400}, "reports, a replica, has 400 GiB gp3 of storage, orders 200 GiB gp3"),
        ({"AllocatedStorage": 100}, "has 100 GiB gp3 of storage"),
        ({"StorageType": "io2"}, "has 200 GiB io2 of storage"),
        ({"MaxAllocatedStorage": 200}, "may grow to 200 GiB"),
        ({"MaxAllocatedStorage": 219}, "less than 10 % above 200 GiB"),
        ({"MaxAllocatedStorage": 220}, None),
        ({}, None),
    ],
)
def test_refuses_a_replica_whose_storage_does_not_fit_a_successor(replica: dict[str, Any], words: str | None) -> None:
    ports = with_replicas(REPORTS)
    stored = {"AllocatedStorage": 200, "StorageType": "gp3"}
    ports.rds.alter(SOURCE, raw={**at(ports, SOURCE).raw, **stored})
    ports.rds.alter(REPORTS, raw={**stored, **replica})
    rotation = started(ports, Accept=ACCEPTED)

    if words is None:
        assert preflight(rotation, ports).preflight is not None
    else:
        found = refusals(rotation, ports)
        assert ["ReplicaStorage"] == list(found)
        assert words in found["ReplicaStorage"]


@pytest.mark.parametrize(
    ("strategy", "raised", "refused"),
    [("read-replica", 15, True), ("read-replica", 5, True), ("read-replica", 20, False), ("snapshot", 15, False)],
)
def test_keeps_a_place_for_the_target_among_the_replicas(strategy: str, raised: int, refused: bool) -> None:
    ports = with_replicas(*(f"r{number:02}" for number in range(15)))
    ports.rds.quotas = {"ReadReplicasPerMaster": (15, raised)}
    rotation = started(ports, Strategy=strategy, Accept=["downtime", *ACCEPTED])

    if refused:
        assert "15 of 15 used, 1 more needed" in refusals(rotation, ports)["QuotaExhausted"]
    else:
        assert preflight(rotation, ports).preflight is not None


def test_refuses_a_replica_that_is_newer_than_its_source() -> None:
    ports = with_replicas(REPORTS)
    newer = ports.rds.instances[REPORTS].database.having(engine_version="17.2")
    ports.rds.alter(REPORTS, database=newer)

    assert "16.14, as the target" in refusals(started(ports, Accept=ACCEPTED), ports)["ReplicaVersion"]


@pytest.mark.parametrize(
    "raw",
    [
        {"ReadReplicaDBInstanceIdentifiers": ["arn:aws:rds:eu-west-1:1:db:far"]},
        {"ReadReplicaDBClusterIdentifiers": ["a-cluster"]},
    ],
)
def test_refuses_replicas_that_are_clusters_or_far_away(raw: dict[str, Any]) -> None:
    ports = with_replicas()
    ports.rds.alter(SOURCE, raw=raw)

    assert ["ReplicaElsewhere"] == list(refusals(started(ports, Accept=ACCEPTED), ports))


@pytest.mark.parametrize("more", [True, False])
def test_refuses_other_replicas_than_at_the_start(more: bool) -> None:
    """Nobody has looked at one that was begun since."""
    ports = with_replicas(*(() if more else (REPORTS,)))
    rotation = started(ports, Accept=ACCEPTED)
    if more:
        ports.rds.add_replica(REPORTS, of=SOURCE)
    else:
        del ports.rds.instances[REPORTS]

    assert "start again" in refusals(rotation, ports)["HasReplicas" if more else "NotAvailable"]


def test_counts_a_successor_for_each_replica() -> None:
    ports = with_replicas(REPORTS, SEARCH)
    for name in (SOURCE, REPORTS, SEARCH):
        ports.rds.alter(name, raw={**at(ports, name).raw, "AllocatedStorage": 400})
    ports.rds.quotas = {"DBInstances": (38, 40), "AllocatedStorage": (100, 1299), "ManualSnapshots": (0, 100)}
    rotation = started(ports, Accept=ACCEPTED)

    with pytest.raises(PreflightRefused) as refused:
        preflight(rotation, ports)

    assert ["DBInstances: 38 of 40 used, 3 more", "AllocatedStorage: 100 of 1299 used, 1200 more"] == [
        line.removeprefix("QuotaExhausted: ").partition(" needed")[0] for line in str(refused.value).splitlines()
    ]


def test_no_successor_has_the_name_of_a_target() -> None:
    """After a rotation the base name is free, and somebody may call a replica so."""
    assert target_identifier(SOURCE, ROTATION_ID) != successor_identifier(SOURCE, ROTATION_ID)
    long = "o" * 63
    assert 3 == len({target_identifier(long, "1" * 8), interim(long), replaced(long)})
    assert {63} == {len(interim(long)), len(replaced(long))}


# -- RebuildReplicas --


def cut_over(*replicas: str, **facts: Any) -> tuple[FakePorts, Rotation]:
    """Verify has run; the fence stands on the source, and on its replicas."""
    ports = FakePorts()
    rotation = past_grace(ports, switched_rotation(ports))
    made = [ports.rds.add_replica(name, of=SOURCE, **facts) for name in replicas]
    plan, _ = rotation.planned()
    planned = tuple(
        Replica(identifier=one.database.identifier, arn=one.database.arn, resource_id=one.database.resource_id)
        for one in made
    )
    rotation = journaled(ports, rotation.having(plan=plan.having(replicas=planned)))
    mark_replicas(rotation, ports)
    ports.clock.advance(SETTLES_IN.total_seconds())
    ports.calls.clear()
    return ports, rotation


def rds_goes_on(ports: FakePorts) -> None:
    for name, one in list(ports.rds.instances.items()):
        if one.status in ("creating", "renaming"):
            ports.rds.finish(name)
    ports.clock.advance(30)


def to_the_end(ports: FakePorts, rotation: Rotation, visits: int = 12) -> Rotation:
    for _ in range(visits):
        rotation = visit(rebuild_replicas, rotation, ports)
        assert rotation.replica_rebuild is not None
        if rotation.replica_rebuild.complete:
            return rotation
        rds_goes_on(ports)
    raise AssertionError(f"not complete: {rotation.replica_rebuild}")


def pending(rotation: Rotation) -> str:
    assert rotation.replica_rebuild is not None
    assert not rotation.replica_rebuild.complete
    return "; ".join(rotation.replica_rebuild.pending)


def at(ports: FakePorts, identifier: str) -> Instance:
    return ports.rds.instances[identifier]


def assert_replaced(ports: FakePorts, *replicas: str) -> None:
    for name in replicas:
        new, old = at(ports, name), at(ports, replaced(name))
        assert (NEW_KEY, TARGET, ROTATION_ID) == (
            new.database.kms_key_arn, new.replica_of, new.tags[ROTATION_ID_TAG],
        )  # fmt: skip
        assert (f"db-{name.upper()}", SOURCE, ROTATION_ID) == (
            old.database.resource_id, old.replica_of, old.tags[DECOMMISSION_TAG],
        )  # fmt: skip


def deeds(ports: FakePorts) -> list[str]:
    return [call for call in ports.calls if not call.startswith("ledger.")]


def test_each_replica_gets_a_successor_under_its_name_and_the_new_key() -> None:
    ports, rotation = cut_over(REPORTS, SEARCH, tags={"team": "pay", "key-rotation:enabled": "false"})

    to_the_end(ports, rotation)

    assert_replaced(ports, REPORTS, SEARCH)
    for name in (REPORTS, SEARCH):
        assert "false" == at(ports, name).tags["key-rotation:enabled"], "the opt-in goes with the name"
        assert "key-rotation:enabled" not in at(ports, replaced(name)).tags
        assert ROTATION_ID == at(ports, name).tags[RELEASED_TAG], "no rollback may delete what somebody reads"
    assert [] == [call for call in deeds(ports) if "delet" in call or call.startswith("engine.")]


def test_the_old_one_gives_its_name_away_before_the_new_one_takes_it() -> None:
    """RDS gives no name to two."""
    ports, rotation = cut_over(REPORTS)

    to_the_end(ports, rotation)

    assert deeds(ports) == [
        f"rds.request_read_replica {interim(REPORTS)} like {REPORTS}",
        f"rds.set_tags arn:aws:rds:eu-central-1:123456789012:db:{interim(REPORTS)}",
        f"rds.request_rename {REPORTS} to {replaced(REPORTS)}",
        f"rds.request_rename {interim(REPORTS)} to {REPORTS}",
    ]


def test_a_name_is_taken_away_only_when_the_successor_is_fit_for_it() -> None:
    ports, rotation = cut_over(REPORTS)
    rotation = visit(rebuild_replicas, rotation, ports)
    assert "to appear" in pending(rotation)
    rotation = visit(rebuild_replicas, rotation, ports)
    assert "creating" in pending(rotation)
    ports.rds.finish(interim(REPORTS))
    ports.rds.alter(interim(REPORTS), replication_normal=False)
    rotation = visit(rebuild_replicas, rotation, ports)
    assert "to replicate" in pending(rotation)
    ports.rds.alter(interim(REPORTS), replication_normal=True)
    ports.rds.differences = {"backup retention": (7, 0), "engine version": ("16.14", "16.13")}
    rotation = visit(rebuild_replicas, rotation, ports)
    assert "backup retention" in pending(rotation)
    assert "engine version" in ports.rds.differences, "it has that of the target, which nothing changes"

    assert {REPORTS, interim(REPORTS)} < set(ports.rds.instances)
    to_the_end(ports, rotation)
    assert_replaced(ports, REPORTS)


def test_a_parameter_group_of_its_own_is_in_force_before_it_has_the_name() -> None:
    """RDS makes a replica with its source's; another one needs a restart, which readers would notice."""
    ports, rotation = cut_over(REPORTS)
    rotation = visit(rebuild_replicas, rotation, ports)
    rds_goes_on(ports)
    group = {"DBParameterGroupName": "of-readers", "ParameterApplyStatus": "pending-reboot"}
    ports.rds.alter(interim(REPORTS), raw={"DBParameterGroups": [group]})

    rotation = visit(rebuild_replicas, rotation, ports)

    assert f"{interim(REPORTS)} to restart with of-readers" in pending(rotation)
    rotation = visit(rebuild_replicas, rotation, ports)
    assert "rebooting" in pending(rotation)
    assert [f"rds.request_reboot {interim(REPORTS)}"] == [call for call in ports.calls if "reboot" in call]
    assert not [call for call in ports.calls if "rename" in call]
    ports.rds.finish_reboot(interim(REPORTS))
    ports.rds.alter(interim(REPORTS), raw={"DBParameterGroups": [{**group, "ParameterApplyStatus": "in-sync"}]})
    to_the_end(ports, rotation)
    assert_replaced(ports, REPORTS)


def test_nothing_is_renamed_before_the_journal_says_so() -> None:
    ports, rotation = cut_over(REPORTS)
    while not any("request_rename" in call for call in ports.calls):
        before = ports.ledger.current(rotation).replica_rebuild
        rotation = visit(rebuild_replicas, rotation, ports)
        rds_goes_on(ports)

    assert before is not None
    assert {f"db-{REPORTS.upper()}": "swap"} == {old: one.stage for old, one in before.successors.items()}


CHANGES = {
    "rds.request_read_replica": 2, "rds.remove_tags": 2, "rds.request_rename": 4, "rds.set_tags": 4, "ledger.record": 5,
}  # fmt: skip
"""How often each is made for two replicas, at least."""


def test_no_replica_is_renamed_before_its_mark_counts() -> None:
    ports, rotation = cut_over(REPORTS)
    assert rotation.verification is not None
    seen = rotation.verification.having(observed_at=ports.clock.now())
    rotation = journaled(ports, rotation.having(verification=seen))
    for _ in range(5):
        rotation = visit(rebuild_replicas, rotation, ports)
        rds_goes_on(ports)
    assert "its mark to count" in pending(rotation)
    assert not [call for call in ports.calls if "rename" in call]
    ports.clock.advance(SETTLES_IN.total_seconds())

    to_the_end(ports, rotation)


class Killed(BaseException):
    """As a function that is no more: nobody catches it."""


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(("call", "nth"), [(call, n + 1) for call, times in CHANGES.items() for n in range(times)])
def test_repeats_nothing_that_took_effect(
    monkeypatch: pytest.MonkeyPatch, call: str, nth: int, when: Literal["before", "after"]
) -> None:
    """Killed at the n-th such call; the next attempt has the journal, and what is there."""
    ports, rotation = cut_over(REPORTS, SEARCH, tags={"key-rotation:enabled": "false"})
    change, seen = Calls.change, []

    def killed(calls: Calls, name: str, subject: str = "") -> Any:
        if name == call:
            seen.append(subject)
            if len(seen) == nth:
                calls.fail(call, Killed(), when)  # type: ignore[arg-type]
        return change(calls, name, subject)

    monkeypatch.setattr(Calls, "change", killed)
    for _ in range(14):
        try:
            rotation = visit(rebuild_replicas, rotation, ports)
        except Killed:
            continue
        if rotation.replica_rebuild is not None and rotation.replica_rebuild.complete:
            break
        rds_goes_on(ports)

    assert len(seen) >= nth
    assert_replaced(ports, REPORTS, SEARCH)
    assert {SOURCE, TARGET, REPORTS, SEARCH, replaced(REPORTS), replaced(SEARCH)} == set(ports.rds.instances)
    for once in ("rds.request_read_replica", "rds.request_rename"):
        asked = [one for one in ports.calls if one.startswith(once)]
        assert len(asked) == len(set(asked))


def test_what_is_done_is_not_looked_at_again() -> None:
    """Somebody may have renamed it since, with every right."""
    ports, rotation = cut_over(REPORTS)
    rotation = to_the_end(ports, rotation)
    ports.calls.clear()
    ports.rds.instances.clear()

    assert rotation == rebuild_replicas(rotation, ports)


@pytest.mark.parametrize("deed", ["delete", "promote"])
def test_one_that_its_owner_has_given_up_is_left_out(deed: str) -> None:
    ports, rotation = cut_over(REPORTS, SEARCH)
    if deed == "delete":
        del ports.rds.instances[REPORTS]
    else:
        ports.rds.become_primary(REPORTS)

    rotation = to_the_end(ports, rotation)

    assert_replaced(ports, SEARCH)
    if deed == "promote":
        assert DECOMMISSION_TAG not in at(ports, REPORTS).tags, "a fleet passes over what is marked"
    assert not [call for call in ports.calls if REPORTS in call and "remove_tags" not in call]
    assert [f"db-{SEARCH.upper()}"] == [resource_id for _, resource_id in rotation.replaced]
    assert (deed == "promote") == (REPORTS in ports.rds.instances)


@pytest.mark.parametrize("deed", ["delete", "promote"])
@pytest.mark.parametrize("protected", [True, False])
def test_what_was_made_for_one_that_is_given_up_is_removed(deed: str, protected: bool) -> None:
    """It costs money, and nobody reads it."""
    ports, rotation = cut_over(REPORTS)
    rotation = visit(rebuild_replicas, rotation, ports)
    ports.rds.alter(interim(REPORTS), deletion_protection=protected, status="available")
    if deed == "delete":
        del ports.rds.instances[REPORTS]
    else:
        ports.rds.become_primary(REPORTS)

    rotation = to_the_end(ports, rotation)

    assert interim(REPORTS) not in ports.rds.instances
    assert () == rotation.replaced
    assert [f"rds.request_instance_deletion {interim(REPORTS)}"] == [c for c in ports.calls if "instance_del" in c]


def test_what_somebody_else_has_made_for_one_that_is_given_up_is_theirs() -> None:
    ports, rotation = cut_over(REPORTS)
    ports.rds.add(interim(REPORTS), key_arn=OLD_KEY)
    del ports.rds.instances[REPORTS]

    to_the_end(ports, rotation)

    assert interim(REPORTS) in ports.rds.instances


@pytest.mark.parametrize("facts", [{"status": "rebooting"}, {"replication_normal": False}])
def test_it_is_not_done_before_readers_are_served(facts: dict[str, Any]) -> None:
    """A rename restarts it."""
    ports, rotation = cut_over(REPORTS)
    while REPORTS not in ports.rds.instances or at(ports, REPORTS).replica_of != TARGET:
        rotation = visit(rebuild_replicas, rotation, ports)
        rds_goes_on(ports)
    ports.rds.alter(REPORTS, **facts)

    rotation = visit(rebuild_replicas, rotation, ports)

    assert REPORTS in pending(rotation)
    ports.rds.alter(REPORTS, status="available", replication_normal=True)
    to_the_end(ports, rotation)


def test_one_that_rds_has_promoted_with_the_end_of_its_source_is_nobodys_decision() -> None:
    ports, rotation = cut_over(REPORTS)
    del ports.rds.instances[SOURCE]
    ports.rds.become_primary(REPORTS)

    assert "RDS has promoted" in pending(visit(rebuild_replicas, rotation, ports))


def test_one_that_is_promoted_before_it_has_given_its_name_away_keeps_it() -> None:
    """Somebody may write to it by that name."""
    ports, rotation = cut_over(REPORTS)
    while not _stages(rotation) or "swap" not in _stages(rotation):
        rotation = visit(rebuild_replicas, rotation, ports)
        rds_goes_on(ports)
    ports.rds.become_primary(REPORTS)
    ports.calls.clear()

    assert "keeps its name" in pending(visit(rebuild_replicas, rotation, ports))
    assert [] == deeds(ports)


def test_one_that_is_not_marked_keeps_its_name() -> None:
    """Verify has marked it; whoever took the mark away wants it left alone."""
    ports, rotation = cut_over(REPORTS)
    ports.rds.alter(REPORTS, tags={})
    for _ in range(5):
        rotation = visit(rebuild_replicas, rotation, ports)
        rds_goes_on(ports)

    assert "has lost its tag" in pending(rotation)
    assert {REPORTS, interim(REPORTS)} < set(ports.rds.instances)


def test_a_replica_that_is_seen_by_its_name_only_is_not_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is left out is left out for good, and one answer may be older than the database."""
    ports, rotation = cut_over(REPORTS)
    with monkeypatch.context() as stale:
        stale.setattr(ports.rds, "describe_instance_by_resource_id", _without(ports, f"db-{REPORTS.upper()}"))
        rotation = visit(rebuild_replicas, rotation, ports)

    assert "to be seen" in pending(rotation)
    to_the_end(ports, rotation)
    assert_replaced(ports, REPORTS)


def _without(ports: FakePorts, unseen: str) -> Any:
    found = ports.rds.describe_instance_by_resource_id
    return lambda resource_id: None if resource_id == unseen else found(resource_id)


def test_a_successor_that_follows_another_database_gets_no_name() -> None:
    ports, rotation = cut_over(REPORTS)
    rotation = visit(rebuild_replicas, rotation, ports)
    ports.rds.finish(interim(REPORTS))
    ports.rds.alter(interim(REPORTS), replica_of=SOURCE)

    assert f"replicates {SOURCE}" in pending(visit(rebuild_replicas, rotation, ports))


def test_a_successor_is_known_by_its_resource_id() -> None:
    """Its owner may call it otherwise, and somebody else may call another database so."""
    ports, rotation = cut_over(REPORTS)
    while "swap" not in _stages(rotation):
        rotation = visit(rebuild_replicas, rotation, ports)
        rds_goes_on(ports)
    ports.rds.request_rename(at(ports, interim(REPORTS)), "reports-new")
    rds_goes_on(ports)
    theirs = ports.rds.add(interim(REPORTS), key_arn=OLD_KEY).database
    ports.rds.alter(interim(REPORTS), database=theirs.having(resource_id="db-THEIRS"))

    to_the_end(ports, rotation)

    assert_replaced(ports, REPORTS)
    assert "db-THEIRS" == at(ports, interim(REPORTS)).database.resource_id


def test_one_that_its_owner_calls_otherwise_is_asked_about() -> None:
    """Its readers may use the new name, which nobody here knows."""
    ports, rotation = cut_over(REPORTS)
    ports.rds.request_rename(at(ports, REPORTS), "reports-2")
    rds_goes_on(ports)
    ports.calls.clear()
    for _ in range(5):
        rotation = visit(rebuild_replicas, rotation, ports)
        rds_goes_on(ports)

    assert "it is called reports-2 now" in pending(rotation)
    assert not [call for call in ports.calls if "request_rename" in call]


def _stages(rotation: Rotation) -> list[str]:
    progress = rotation.replica_rebuild
    return [one.stage for one in progress.successors.values()] if progress else []


@pytest.mark.parametrize("deed", ["delete", "promote"])
def test_the_successor_takes_a_name_that_was_given_away_whatever_becomes_of_the_old_one(deed: str) -> None:
    ports, rotation = cut_over(REPORTS)
    while replaced(REPORTS) not in ports.rds.instances:
        rotation = visit(rebuild_replicas, rotation, ports)
        rds_goes_on(ports)
    if deed == "delete":
        del ports.rds.instances[replaced(REPORTS)]
    else:
        ports.rds.become_primary(replaced(REPORTS))

    to_the_end(ports, rotation)

    assert (TARGET, NEW_KEY) == (at(ports, REPORTS).replica_of, at(ports, REPORTS).database.kms_key_arn)


def test_what_serves_readers_is_released_though_the_old_one_is_gone() -> None:
    """A later rotation would take it for something left behind."""
    ports, rotation = cut_over(REPORTS)
    while "swap" not in _stages(rotation):
        rotation = visit(rebuild_replicas, rotation, ports)
        rds_goes_on(ports)
    del ports.rds.instances[REPORTS]

    to_the_end(ports, rotation)

    assert ROTATION_ID == at(ports, REPORTS).tags[RELEASED_TAG]


def test_a_successor_that_somebody_deletes_is_made_anew() -> None:
    """Like the old one, under whichever name that has by then."""
    ports, rotation = cut_over(REPORTS)
    while replaced(REPORTS) not in ports.rds.instances:
        rotation = visit(rebuild_replicas, rotation, ports)
        rds_goes_on(ports)
    del ports.rds.instances[interim(REPORTS)]

    to_the_end(ports, rotation)

    assert_replaced(ports, REPORTS)
    assert f"rds.request_read_replica {interim(REPORTS)} like {replaced(REPORTS)}" in ports.calls


@pytest.mark.parametrize("wanted", ["successor", "name"])
def test_nothing_that_is_somebody_elses_is_touched(wanted: str) -> None:
    ports, rotation = cut_over(REPORTS)
    if wanted == "successor":
        ports.rds.add(interim(REPORTS), key_arn=OLD_KEY)
    else:
        while replaced(REPORTS) not in ports.rds.instances:
            rotation = visit(rebuild_replicas, rotation, ports)
            rds_goes_on(ports)
        ports.rds.add(REPORTS, key_arn=OLD_KEY)
    theirs = at(ports, interim(REPORTS) if wanted == "successor" else REPORTS)

    rotation = visit(rebuild_replicas, rotation, ports)

    assert "exists" in pending(rotation)
    assert theirs == at(ports, theirs.database.identifier)


def test_what_one_is_refused_keeps_no_other_waiting() -> None:
    ports, rotation = cut_over(REPORTS, SEARCH)
    ports.rds.add(interim(REPORTS), key_arn=OLD_KEY)

    for _ in range(8):
        rotation = visit(rebuild_replicas, rotation, ports)
        rds_goes_on(ports)

    assert_replaced(ports, SEARCH)
    assert pending(rotation).startswith(REPORTS)


@pytest.mark.parametrize(
    "refused",
    [
        AwsRefused("no room", "InsufficientDBInstanceCapacity"),
        AwsUnavailable("KMSKeyNotAccessible"),
        ReplicasNotRebuilt("failed"),
    ],
)
def test_a_refusal_has_thirty_minutes(refused: Exception) -> None:
    ports, rotation = cut_over(REPORTS)
    for _ in range(2):
        ports.fail("rds.request_read_replica", refused)
        rotation = visit(rebuild_replicas, rotation, ports)
        assert str(refused) in pending(rotation)
        ports.clock.advance(PATIENCE_WITH_REFUSALS.total_seconds())

    ports.clock.advance(1)
    ports.fail("rds.request_read_replica", refused)
    with pytest.raises(ReplicasNotRebuilt, match=f"{REPORTS}: {refused}"):
        visit(rebuild_replicas, rotation, ports)


def test_a_new_start_has_thirty_minutes_anew() -> None:
    ports, rotation = cut_over(REPORTS)
    ports.fail("rds.request_read_replica", AwsUnavailable("later"))
    rotation = visit(rebuild_replicas, rotation, ports)
    ports.clock.advance(PATIENCE_WITH_REFUSALS.total_seconds() + 1)
    rotation = journaled(ports, rotation.having(execution_arn=RECOVERY))

    ports.fail("rds.request_read_replica", AwsUnavailable("later"))

    assert "later" in pending(visit(rebuild_replicas, rotation, ports))


def test_a_target_that_rds_is_at_work_on_is_waited_for() -> None:
    """What was restored a moment ago has no backup, and a first one takes as long as there is data."""
    ports, rotation = cut_over(REPORTS)
    for _ in range(2):
        ports.fail("rds.request_read_replica", AwsRefused("it has no backup yet", "InvalidDBInstanceState"))
        rotation = visit(rebuild_replicas, rotation, ports)
        assert "no backup yet" in pending(rotation)
        ports.clock.advance(timedelta(hours=20).total_seconds())

    to_the_end(ports, rotation)

    assert_replaced(ports, REPORTS)


def test_a_refusal_keeps_no_other_from_having_its_two_days() -> None:
    ports, rotation = cut_over(REPORTS, SEARCH)
    ports.rds.add(interim(REPORTS), key_arn=OLD_KEY)
    for _ in range(4):
        rotation = visit(rebuild_replicas, rotation, ports)
        ports.clock.advance(timedelta(hours=5).total_seconds())

    ports.rds.finish(interim(SEARCH))
    for _ in range(6):
        rotation = visit(rebuild_replicas, rotation, ports)
        rds_goes_on(ports)

    assert_replaced(ports, SEARCH)
    assert pending(rotation).startswith(REPORTS)


def test_a_refusal_that_passes_is_forgotten() -> None:
    ports, rotation = cut_over(REPORTS)
    ports.fail("rds.request_read_replica", AwsUnavailable("later"))
    rotation = visit(rebuild_replicas, rotation, ports)

    rotation = visit(rebuild_replicas, rotation, ports)

    assert rotation.replica_rebuild is not None
    assert rotation.replica_rebuild.refused_since is None


def test_a_denial_ends_it_once_the_others_are_served() -> None:
    """It names the call, and nobody's denial goes by itself."""
    ports, rotation = cut_over(REPORTS, SEARCH)
    denied = AccessRefused("rds:CreateDBInstanceReadReplica: denied")

    with pytest.raises(AccessRefused, match="denied"):  # noqa: PT012 - some visits on
        for _ in range(8):
            if interim(REPORTS) not in ports.rds.instances:
                ports.fail("rds.request_read_replica", denied)
            rotation = visit(rebuild_replicas, rotation, ports)
            rds_goes_on(ports)

    assert_replaced(ports, SEARCH)
    assert {REPORTS, SEARCH, replaced(SEARCH), SOURCE, TARGET} == set(ports.rds.instances)


def test_copying_may_take_days_and_is_looked_at_seldom() -> None:
    ports, rotation = cut_over(REPORTS)
    rotation = visit(rebuild_replicas, rotation, ports)
    assert rotation.replica_rebuild is not None
    assert 30 == rotation.replica_rebuild.look_again_seconds
    ports.clock.advance(timedelta(hours=47).total_seconds())
    rotation = visit(rebuild_replicas, rotation, ports)
    assert rotation.replica_rebuild is not None
    assert 600 == rotation.replica_rebuild.look_again_seconds
    ports.rds.finish(interim(REPORTS))
    rotation = visit(rebuild_replicas, rotation, ports)
    assert rotation.replica_rebuild is not None
    assert 30 == rotation.replica_rebuild.look_again_seconds, "names change in minutes"


def test_what_does_not_move_for_two_days_calls_for_a_person() -> None:
    ports, rotation = cut_over(REPORTS)
    rotation = visit(rebuild_replicas, rotation, ports)
    ports.clock.advance(PATIENCE.total_seconds() + 1)

    with pytest.raises(ReplicasNotRebuilt, match="creating"):
        visit(rebuild_replicas, rotation, ports)

    rotation = journaled(ports, rotation.having(execution_arn=RECOVERY))
    assert "creating" in pending(visit(rebuild_replicas, rotation, ports)), "a new start has its time anew"


@pytest.mark.parametrize(("facts", "words"), [({"status": "failed"}, "failed"), ({"key": OLD_KEY}, "not under")])
def test_a_successor_that_is_none_is_told(facts: dict[str, Any], words: str) -> None:
    ports, rotation = cut_over(REPORTS)
    rotation = visit(rebuild_replicas, rotation, ports)
    new = at(ports, interim(REPORTS))
    database = new.database.having(kms_key_arn=facts.get("key", NEW_KEY))
    ports.rds.instances[interim(REPORTS)] = replace(new, database=database, status=facts.get("status", "available"))

    assert words in pending(visit(rebuild_replicas, rotation, ports))


def test_a_target_that_is_gone_has_no_replicas() -> None:
    ports, rotation = cut_over(REPORTS)
    del ports.rds.instances[TARGET]

    with pytest.raises(ReplicasNotRebuilt, match="no longer exists"):
        visit(rebuild_replicas, rotation, ports)


def test_people_are_told_of_a_replica_without_a_successor() -> None:
    ports, rotation = cut_over(REPORTS)
    rotation = visit(rebuild_replicas, rotation, ports)

    notify(journaled(ports, failed(rotation, "ReplicasNotRebuilt")), ports)

    [(moment, _, message)] = ports.notifier.sent
    assert moment == Moment.ATTENTION
    assert [{"identifier": REPORTS, "old_key": None, "stage": "make"}] == message["replicas"]


# -- Decommission --


def after_grace(*replicas: str) -> tuple[FakePorts, Rotation]:
    ports, rotation = cut_over(*replicas)
    ports.dns.records["Z1", "db.example.com"] = (at(ports, TARGET).database.address, 5)
    rotation = to_the_end(ports, rotation)
    ports.calls.clear()
    return ports, rotation


def decommissioned(ports: FakePorts, rotation: Rotation) -> Rotation:
    for _ in range(20):
        rotation = visit(decommission, rotation, ports)
        for snapshot in ports.rds.snapshots.values():
            snapshot["Status"] = "available"
        ports.clock.advance(60)
    return rotation


def test_the_old_replicas_go_before_their_source() -> None:
    """RDS would promote them."""
    ports, rotation = after_grace(REPORTS, SEARCH)
    ports.rds.alter(replaced(SEARCH), deletion_protection=True)

    rotation = decommissioned(ports, rotation)

    assert rotation.decommission is not None
    assert rotation.decommission.complete
    assert {TARGET, REPORTS, SEARCH} == set(ports.rds.instances)
    deleted = [call.split()[1] for call in ports.calls if "request_instance_deletion" in call]
    assert [SOURCE] == [name for name in deleted if name not in (replaced(REPORTS), replaced(SEARCH))]
    assert SOURCE == deleted[-1]


def test_a_replica_that_was_begun_meanwhile_keeps_the_source() -> None:
    ports, rotation = after_grace(REPORTS)
    ports.rds.add_replica("late", of=SOURCE)

    with pytest.raises(RetirementRefused, match=f"{SOURCE} has replicas: late"):
        visit(decommission, rotation, ports)


def test_an_old_replica_whose_mark_somebody_has_taken_away_stays_and_keeps_the_source() -> None:
    ports, rotation = after_grace(REPORTS)
    ports.rds.alter(replaced(REPORTS), tags={})

    with pytest.raises(RetirementRefused, match=f"{SOURCE} has replicas: {replaced(REPORTS)}"):
        decommissioned(ports, rotation)
    assert {SOURCE, replaced(REPORTS)} < set(ports.rds.instances)


def test_an_old_replica_with_replicas_of_its_own_stays() -> None:
    """RDS would promote them."""
    ports, rotation = after_grace(REPORTS)
    ports.rds.add_replica("child", of=replaced(REPORTS))

    with pytest.raises(RetirementRefused, match="has replicas, which RDS would promote: child"):
        visit(decommission, rotation, ports)


def test_an_old_replica_that_somebody_has_promoted_is_production() -> None:
    ports, rotation = after_grace(REPORTS)
    ports.rds.become_primary(replaced(REPORTS))

    with pytest.raises(RetirementRefused, match=f"{replaced(REPORTS)} is no replica any more"):
        visit(decommission, rotation, ports)


def test_an_old_replica_that_somebody_has_gone_back_to_is_production() -> None:
    ports, rotation = after_grace(REPORTS)
    old = at(ports, replaced(REPORTS))
    del ports.rds.instances[REPORTS]
    ports.rds.request_rename(old, REPORTS)

    with pytest.raises(RetirementRefused, match="has the name that applications use again"):
        visit(decommission, rotation, ports)


def test_one_that_was_left_out_is_not_removed() -> None:
    ports, rotation = cut_over(REPORTS)
    ports.rds.become_primary(REPORTS)
    ports.dns.records["Z1", "db.example.com"] = (at(ports, TARGET).database.address, 5)
    rotation = to_the_end(ports, rotation)

    rotation = decommissioned(ports, rotation)

    assert rotation.decommission is not None
    assert rotation.decommission.complete
    assert {TARGET, REPORTS} == set(ports.rds.instances)


def test_a_successor_that_is_not_done_replaces_nobody() -> None:
    ports, rotation = cut_over(REPORTS)
    rotation = visit(rebuild_replicas, rotation, ports)
    assert rotation.replica_rebuild is not None
    for stage in ("make", "swap", "left-out"):
        successors = {f"db-{REPORTS.upper()}": Successor(stage=stage)}
        progress = rotation.replica_rebuild.having(successors=successors)
        assert () == rotation.having(replica_rebuild=progress).replaced
