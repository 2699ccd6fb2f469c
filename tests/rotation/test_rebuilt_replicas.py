"""Rotations of a database with replicas: whoever reads by their names sees what was written after the cutover.

Whoever dies on the way must not leave a reader without a replica, or two of them.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from lambdas.rotation.names import replaced_identifier, successor_identifier
from sandbox.demo.connection import Resolver
from sandbox.demo.progress import Run
from sandbox.demo.world import World, make_replica
from sandbox.sweep.boundaries import BY_SNAPSHOT
from sandbox.sweep.scenario import Outcome, executions
from tests.mariadb import need_mariadb
from tests.rotation.scenarios import (
    ROWS,
    WRITERS,
    Scenario,
    assert_invariants,
    params,
    play,
    sandbox_with,
    table_line,
)
from tests.rotation.support import Customer

ACCEPTED = {"Accept": ["replicas-away"]}
BY_A_COPY = {**BY_SNAPSHOT, "Accept": ["downtime", "replicas-away"]}
BY_CATCH_UP = {"Strategy": "catch-up", "Accept": ["replicas-away"]}
CREATE, MODIFY, TAG = "rds.CreateDBInstanceReadReplica", "rds.ModifyDBInstance", "rds.AddTagsToResource"


def of_the_step(kind: str, call: str, **more: Any) -> dict[str, Any]:
    return {"kind": kind, "function": "rebuild-replicas", "call": call, **more}


def killed_after(*calls: str) -> tuple[dict[str, Any], ...]:
    """One invocation after the other: the next one goes on from what each of them has left."""
    return tuple(of_the_step("killed", call, when="after") for call in calls)


SCENARIOS = [
    Scenario("rr-plain", ends="forward", request=ACCEPTED),
    Scenario(
        "rr-dies-after-writes",
        # Of the settings that the request does not take, the mark, and each name.
        (*killed_after(CREATE, MODIFY, TAG), *(of_the_step("killed", MODIFY, when="after", nth=n) for n in (2, 3))),
        ends="forward",
        request=ACCEPTED,
    ),
    Scenario(
        "rr-dies-before-writes",
        tuple(of_the_step("killed", call) for call in (CREATE, MODIFY, TAG, "rds.RemoveTagsFromResource")),
        ends="forward",
        request=ACCEPTED,
    ),
    Scenario(
        "rr-lost-answers",
        tuple(of_the_step("lost-answer", call) for call in (CREATE, MODIFY, TAG)),
        ends="forward",
        request=ACCEPTED,
    ),
    Scenario("rr-twice", ({"kind": "twice", "function": "rebuild-replicas"},), ends="forward", request=ACCEPTED),
    Scenario("rr-denied", (of_the_step("denied", CREATE),), ends="forward", request=ACCEPTED, error="AccessRefused"),
    Scenario(
        "rr-refused",
        (of_the_step("error-before", CREATE, code="InsufficientDBInstanceCapacity", times=90),),
        ends="forward",
        request=ACCEPTED,
        error="ReplicasNotRebuilt",
    ),
    Scenario("rr-by-snapshot", ends="forward", request=BY_A_COPY),
    Scenario("rr-by-catch-up", ends="forward", request=BY_CATCH_UP, world={"strategy": "catch-up"}),
    Scenario(
        "rr-mariadb",
        (of_the_step("denied", MODIFY),),
        ends="forward",
        request=ACCEPTED,
        world={"engine": "mariadb"},
        error="AccessRefused",
    ),
]


@pytest.fixture(scope="module")
def customer() -> Iterator[Customer]:
    need_mariadb()
    with sandbox_with(SCENARIOS) as customer:
        yield customer


def replica_of(built: World) -> str:
    return f"{built.identifier}-reports"


def rows_at(customer: Customer, built: World, identifier: str) -> list[int]:
    """How many rows of live writes a reader counts there, by database."""
    names = Resolver(customer.account.dns_host, customer.account.dns_port, built.dialect.port)
    found = names.resolve(customer.address(identifier))
    return [int(customer.query(built, found, name, "SELECT count(*) FROM ledger")[0][0]) for name in built.databases]


def assert_rebuilt(customer: Customer, outcome: Outcome, before: Mapping[str, Any]) -> None:
    """Under its name, like it, of the target; and nothing is left of the old one."""
    built, name = outcome.built, before["DBInstanceIdentifier"]
    target = outcome.state["target"]["identifier"]
    now = customer.instance(name)
    assert now is not None
    assert (target, outcome.state["new_key"]["arn"]) == (now["ReadReplicaSourceDBInstanceIdentifier"], now["KmsKeyId"])
    same = (
        "DBInstanceClass", "DeletionProtection", "CopyTagsToSnapshot", "PreferredMaintenanceWindow",
        "DBParameterGroups",  # and that it is in force
    )  # fmt: skip
    assert {fact: before[fact] for fact in same} == {fact: now[fact] for fact in same}
    assert before["Endpoint"]["Address"] == now["Endpoint"]["Address"], "readers find it where it was"
    assert ("readers", "false") == tuple(customer.tags(name)[tag] for tag in ("team", "key-rotation:enabled"))
    shown = customer.instance(target)
    assert shown is not None
    assert [name] == shown["ReadReplicaDBInstanceIdentifiers"]
    for identifier in (
        replaced_identifier(name, outcome.state["rotation_id"]),
        successor_identifier(name, outcome.state["rotation_id"]),
        outcome.state["source"]["identifier"],
    ):
        assert customer.instance(identifier) is None
    written = rows_at(customer, built, target)
    customer.until(lambda: rows_at(customer, built, name) == written)


@pytest.mark.parametrize("scenario", params(SCENARIOS, ("rr-dies-after-writes",)))
def test_readers_find_what_was_written_after_the_cutover(
    customer: Customer, tmp_path: Path, scenario: Scenario
) -> None:
    built = customer.build(scenario.name, rows=ROWS, writers=WRITERS, **scenario.world)
    before = make_replica(customer.account, built.identifier, replica_of(built))
    earlier = set(executions(customer))

    def somebody_repairs(first: Run) -> None:
        """Nobody's denial goes by itself: its recovery has failed, too, when the database is started again."""
        if scenario.error is None:
            return
        customer.until(
            lambda: (
                ["FAILED"] * 2 == [now for arn, now in executions(customer).items() if arn not in earlier]
                or scenario.error != "AccessRefused"
            )
        )
        if scenario.error == "AccessRefused":
            assert_readers_are_kept_out(customer, built, before)
            customer.rotated({**built.request, **scenario.request, "GraceDays": 0})

    outcome = play(customer, scenario, tmp_path / "acks", built=built, afterwards=somebody_repairs)

    print(table_line(outcome))
    assert_invariants(customer, outcome)
    assert outcome.last.status == "SUCCEEDED", outcome.story
    assert_rebuilt(customer, outcome, before)
    [told] = [one for one in map(json.loads, outcome.moments) if one["moment"] == "CutoverCompleted"][-1:]
    assert [{"identifier": before["DBInstanceIdentifier"], "old_key": built.key_arn, "stage": "done"}] == told[
        "replicas"
    ]


def assert_readers_are_kept_out(customer: Customer, built: World, before: Mapping[str, Any]) -> None:
    """The fence is replicated: nobody reads what is no longer so. And the step has renamed nothing."""
    name = before["DBInstanceIdentifier"]
    sides = [customer.address(built.identifier), str(before["Endpoint"]["Address"])]
    of_the_source, of_the_replica = (
        {customer.refusal(built, side, database) for database in built.databases} for side in sides
    )
    assert of_the_source == of_the_replica
    assert not {None, "unreachable"} & of_the_replica
    found = customer.instance(name)
    assert found is not None
    assert found["DbiResourceId"] == before["DbiResourceId"]
    now = customer.instance(name)
    assert now is not None
    assert before["DbiResourceId"] == now["DbiResourceId"]


@pytest.mark.proof
def test_the_next_rotation_replaces_what_this_one_has_made_and_retires_its_key(customer: Customer) -> None:
    """The old key has no user left: neither the source nor a replica of it."""
    built = customer.build("rr-again", rows=ROWS, writers=WRITERS)
    replica = make_replica(customer.account, built.identifier, replica_of(built))

    first, second = (
        customer.rotated({**built.request, **ACCEPTED, "GraceDays": days, "RetireKey": "auto"}).output
        for days in (0, 0.1)
    )

    now = customer.instance(replica["DBInstanceIdentifier"])
    assert now is not None
    assert second["new_key"]["arn"] == now["KmsKeyId"]
    assert second["target"]["identifier"] == now["ReadReplicaSourceDBInstanceIdentifier"]
    assert customer.key_state(first["new_key"]["arn"]) == "PendingDeletion"
    assert customer.key_state(built.key_arn) == "Enabled", "no rotation made it"


@pytest.mark.proof
@pytest.mark.parametrize("deed", ["delete", "promote"])
def test_a_replica_that_its_owner_gives_up_meanwhile_is_the_owners(customer: Customer, deed: str) -> None:
    built = customer.build(f"rr-{deed}", rows=ROWS, writers=WRITERS)
    name, rds = replica_of(built), customer.client("rds")
    replica = make_replica(customer.account, built.identifier, name)
    successor: list[str] = []

    def give_up(run: Run) -> None:
        """When its successor is being made."""
        made = [one for one in instances(customer) if one.startswith(f"{name}-rot-")]
        if made and not successor:
            successor.extend(made)
            if deed == "delete":
                rds.modify_db_instance(DBInstanceIdentifier=name, DeletionProtection=False, ApplyImmediately=True)
                rds.delete_db_instance(DBInstanceIdentifier=name, SkipFinalSnapshot=True)
            else:
                rds.promote_read_replica(DBInstanceIdentifier=name)

    state = customer.rotated({**built.request, **ACCEPTED, "GraceDays": 0}, seen=give_up).output

    assert successor
    assert "left-out" == state["replica_rebuild"]["successors"][replica["DbiResourceId"]]["stage"]
    left = {one for one in instances(customer) if one.startswith(built.identifier)}
    assert left == {state["target"]["identifier"], *([name] if deed == "promote" else [])}


def instances(customer: Customer) -> list[str]:
    return [one["DBInstanceIdentifier"] for one in customer.client("rds").describe_db_instances()["DBInstances"]]
