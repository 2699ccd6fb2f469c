"""Rotations and people that meet in the middle of a rotation: one of them yields, and nothing is lost."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from lambdas.rotation.engines.postgres import OURS
from lambdas.rotation.names import CONTROL_DATABASE
from sandbox.demo import progress, world
from sandbox.demo.connection import literal
from sandbox.demo.world import World
from sandbox.sweep.invariants import INVARIANTS, broken
from sandbox.sweep.scenario import Outcome, executions
from tests.rotation.scenarios import (
    ROWS,
    WRITERS,
    Scenario,
    as_master,
    assert_invariants,
    on_call,
    play,
    sandbox_with,
    servers_of,
    table_line,
    target_of,
    when_struck,
)
from tests.rotation.support import NOT_ACCEPTING, Customer

HELD_SECONDS = 8
BEFORE_THE_LOCK = {
    "kind": "held", "function": "start-rotation", "call": "dynamodb.UpdateItem", "seconds": HELD_SECONDS,
}  # fmt: skip
Deed = Callable[[Customer, World], None]


@dataclass(frozen=True)
class Meddling:
    """What a person does while ``function`` is about to act, and, if they are paged, what repairs it."""

    name: str
    function: str
    deed: Deed
    ends: str = "back"
    error: str | None = None
    repair: Deed | None = None
    before: str | None = None
    afterwards: str | None = None
    """SQL, before the rotation and after it."""

    @property
    def scenario(self) -> Scenario:
        held = {"kind": "held", "function": self.function, "seconds": HELD_SECONDS}
        return Scenario(self.name, (held,), ends=self.ends, error=self.error)  # type: ignore[arg-type]


# -- what people do ----------------------------------------------------------------------------------------------------


def modified(**changes: Any) -> Deed:
    def deed(customer: Customer, built: World) -> None:
        customer.client("rds").modify_db_instance(
            DBInstanceIdentifier=target_of(customer, built), ApplyImmediately=True, **changes
        )

    return deed


def deleted(customer: Customer, built: World) -> None:
    rds, target = customer.client("rds"), target_of(customer, built)
    rds.modify_db_instance(DBInstanceIdentifier=target, DeletionProtection=False)
    rds.delete_db_instance(DBInstanceIdentifier=target, SkipFinalSnapshot=True)


def record_changed(action: str, **facts: Any) -> Deed:
    def deed(customer: Customer, built: World) -> None:
        route53 = customer.client("route53")
        [found] = [
            one
            for one in route53.list_resource_record_sets(HostedZoneId=built.zone_id)["ResourceRecordSets"]
            if one["Name"].rstrip(".") == built.record
        ]
        route53.change_resource_record_sets(
            HostedZoneId=built.zone_id,
            ChangeBatch={"Changes": [{"Action": action, "ResourceRecordSet": {**found, **facts}}]},
        )

    return deed


def login_secret_deleted(customer: Customer, built: World) -> None:
    customer.client("secretsmanager").delete_secret(SecretId=built.login_secret_arn, RecoveryWindowInDays=7)


def login_secret_restored(customer: Customer, built: World) -> None:
    customer.client("secretsmanager").restore_secret(SecretId=built.login_secret_arn)


ROTATED_PASSWORD = "rotated-by-the-secrets-own-function"


def password_rotated(customer: Customer, built: World) -> None:
    """As the function of a managed rotation that was started all the same: first the database, then the secret."""
    as_master(customer, built, built.identifier, f"ALTER ROLE {built.master.user} PASSWORD {literal(ROTATED_PASSWORD)}")
    customer.client("secretsmanager").put_secret_value(
        SecretId=built.login_secret_arn,
        SecretString=json.dumps({"username": built.master.user, "password": ROTATED_PASSWORD}),
    )


def password_rotated_on_the_target(customer: Customer, built: World) -> None:
    target = target_of(customer, built)
    as_master(customer, built, target, f"ALTER ROLE {built.master.user} PASSWORD {literal(ROTATED_PASSWORD)}")


def on_source(statement: str) -> Deed:
    def deed(customer: Customer, built: World) -> None:
        as_master(customer, built, built.identifier, statement)

    return deed


def new_key(customer: Customer, built: World) -> str:
    found = customer.instance(target_of(customer, built))
    assert found is not None
    return str(found["KmsKeyId"])


def key_disabled(customer: Customer, built: World) -> None:
    customer.client("kms").disable_key(KeyId=new_key(customer, built))


def key_deleted(customer: Customer, built: World) -> None:
    customer.client("kms").schedule_key_deletion(KeyId=new_key(customer, built), PendingWindowInDays=7)


MEDDLING = [
    Meddling(
        "replica-renamed-draining",
        "confirm-drained",
        modified(NewDBInstanceIdentifier="replica-renamed-draining-rot-elsewhere"),
    ),
    Meddling("replica-deleted-draining", "confirm-drained", deleted, error="DatabaseUnreachable"),
    Meddling("replica-deleted-asking", "promote", deleted, error="TargetMismatch"),
    Meddling("replica-resized-asking", "promote", modified(DBInstanceClass="db.r6g.large"), error="PromotionFailed"),
    Meddling("target-deleted-checking", "check-target", deleted, error="DatabaseUnreachable"),
    Meddling("target-deleted-releasing", "resume-writes", deleted, error="DatabaseUnreachable"),
    Meddling("record-ttl-changed", "check-target", record_changed("UPSERT", TTL=77), error="ConnectivityChanged"),
    Meddling(
        "login-secret-deleted",
        "promote",
        login_secret_deleted,
        repair=login_secret_restored,
    ),
    Meddling("password-rotated-asking", "promote", password_rotated, ends="forward"),
    Meddling(
        "password-rotated-checking",
        "check-target",
        password_rotated,
        error="LoginRefused",
        repair=password_rotated_on_the_target,
    ),
    Meddling(
        "database-made-asking",
        "promote",
        on_source("CREATE DATABASE late"),
        error="FenceBroken",
        afterwards="DROP DATABASE late",
    ),
    Meddling(
        "database-made-checking",
        "check-target",
        on_source("CREATE DATABASE late"),
        error="TargetMismatch",
        afterwards="DROP DATABASE late",
    ),
    Meddling(
        "role-made-checking",
        "check-target",
        on_source("CREATE ROLE late"),
        error="TargetMismatch",
        afterwards="DROP ROLE late",
    ),
    Meddling(
        "database-dropped-asking",
        "promote",
        on_source("DROP DATABASE spare"),
        error="FenceBroken",
        before="CREATE DATABASE spare",
    ),
    Meddling("key-disabled-draining", "confirm-drained", key_disabled),
    Meddling("key-deleted-checking", "check-target", key_deleted),
]

YIELDS = Scenario("two-at-once", (BEFORE_THE_LOCK,), ends="forward", error="RotationInProgress")
BY_FLEET = Scenario("fleet-and-person", (BEFORE_THE_LOCK,), ends="forward", error="RotationInProgress")
LATE = Scenario(
    "started-late", ({"kind": "held", "function": "decommission", "seconds": HELD_SECONDS},), ends="forward"
)
OPENED = Scenario("opened-again", LATE.faults)
AGAIN = Scenario(
    "again-while-retiring",
    ({"kind": "held", "function": "schedule-key-deletion", "seconds": HELD_SECONDS},),
    request={"RetireKey": "true"},
    ends="forward",
)

ANOTHER_STACK = Scenario("another-stack", error="NameTaken")
ALL = [*(one.scenario for one in MEDDLING), YIELDS, BY_FLEET, LATE, OPENED, AGAIN]


@pytest.fixture(scope="module")
def customer() -> Iterator[Customer]:
    with sandbox_with(ALL) as customer:
        yield customer


@pytest.mark.proof
@pytest.mark.parametrize("meddling", MEDDLING, ids=lambda meddling: meddling.name)
def test_what_somebody_does_in_the_middle(customer: Customer, tmp_path: Path, meddling: Meddling) -> None:
    built = customer.build(meddling.name, rows=ROWS, writers=WRITERS)
    if meddling.before:
        as_master(customer, built, built.identifier, meddling.before, "postgres")

    def tidy(run: progress.Run) -> None:
        if meddling.afterwards:
            as_master(customer, built, built.identifier, meddling.afterwards, "postgres")

    def repair() -> None:
        assert meddling.repair is not None, "somebody is paged"
        meddling.repair(customer, built)

    with (
        on_call(customer, built, repair) as refusals,
        when_struck(customer, meddling.name, lambda: meddling.deed(customer, built)),
    ):
        outcome = play(customer, meddling.scenario, tmp_path / "acks", afterwards=tidy, built=built)

    print(table_line(outcome), outcome.first.cause)
    if meddling.repair is not None:
        assert NOT_ACCEPTING in refusals, "nobody was paged"
        assert None not in refusals
    changed = f"secretsmanager/secret/{built.login_secret_arn}" if meddling.deed is password_rotated else None
    assert_invariants(customer, outcome, changed_by_somebody=changed)
    world.remove(customer.account, built.identifier)


# -- other rotations ---------------------------------------------------------------------------------------------------


@pytest.mark.sample
def test_of_two_that_are_started_at_once_one_goes_on(customer: Customer, tmp_path: Path) -> None:
    """The first is held before it takes the lock, so both have seen a database that nobody rotates."""
    with when_struck(customer, YIELDS.name, lambda: start(customer, YIELDS.name)):
        outcome = play(customer, YIELDS, tmp_path / "acks")

    print(table_line(outcome), outcome.first.cause)
    assert_invariants(customer, outcome)
    assert_one_rotation(outcome)
    assert "wait for" in str(outcome.first.cause)
    world.remove(customer.account, YIELDS.name)


def assert_one_rotation(outcome: Outcome) -> None:
    assert outcome.last.status == "SUCCEEDED", outcome.story
    assert len([record for record in outcome.ledger if record.startswith("rotation#")]) == 1


def start(customer: Customer, name: str, **request: Any) -> str:
    return progress.start(customer.account, {"DBInstanceIdentifier": name, "GraceDays": 0, **request}, f"{name}-too")


@pytest.mark.proof
def test_a_schedule_that_is_delivered_twice_beside_a_person_rotates_once(customer: Customer, tmp_path: Path) -> None:
    states = customer.client("stepfunctions")
    takes_part = {"key-rotation:enabled": "true", "key-rotation:min-age-days": "0", "key-rotation:grace-days": "0"}
    built = customer.build(BY_FLEET.name, rows=ROWS, writers=WRITERS, tags=takes_part)

    def twice() -> list[str]:
        return [
            states.start_execution(
                stateMachineArn=customer.account.rotate_fleet_arn,
                name=f"delivered-{nth}",
                input=json.dumps({"scheduled_at": "2027-01-01T00:00:00Z"}),
            )["executionArn"]
            for nth in (1, 2)
        ]

    with when_struck(customer, BY_FLEET.name, twice) as fleets:
        outcome = play(customer, BY_FLEET, tmp_path / "acks", built=built)
    reports = [progress.follow(customer.account, arn, within_seconds=240) for arn in fleets[0]]
    for name in servers_of(customer, built.identifier):
        found = customer.instance(name)
        assert found is not None
        customer.client("rds").add_tags_to_resource(
            ResourceName=found["DBInstanceArn"], Tags=[{"Key": "key-rotation:enabled", "Value": "false"}]
        )

    print(table_line(outcome), [(one.status, one.error, one.cause) for one in reports])
    assert_invariants(customer, outcome)
    assert_one_rotation(outcome)
    assert [one.status for one in reports] == ["SUCCEEDED", "SUCCEEDED"]
    world.remove(customer.account, built.identifier)


@pytest.mark.sample
def test_what_another_stack_is_rotating_is_left_to_it(customer: Customer, tmp_path: Path) -> None:
    """Two ledgers, two locks: what the two stacks share is the source itself."""
    built = customer.build(ANOTHER_STACK.name, rows=ROWS, writers=WRITERS)
    for database, statement in (
        ("postgres", f"CREATE DATABASE {CONTROL_DATABASE} TEMPLATE template0"),
        ("postgres", f"COMMENT ON DATABASE {CONTROL_DATABASE} IS '{OURS}'"),
        (
            CONTROL_DATABASE,
            "CREATE TABLE claim (only_one int PRIMARY KEY, rotation_id text, resource_id text)",
        ),
        (CONTROL_DATABASE, f"INSERT INTO claim VALUES (1, 'another', '{built.resource_id}')"),
    ):
        as_master(customer, built, built.identifier, statement, database)

    outcome = play(customer, ANOTHER_STACK, tmp_path / "acks", built=built)

    print(table_line(outcome), outcome.first.cause)
    assert broken(customer, outcome) == [f"nothing else is gone, nothing is left: database {CONTROL_DATABASE}"]
    assert (outcome.first.error, outcome.went_forward, outcome.outage_seconds < 1) == ("NameTaken", False, True)
    assert as_master(customer, built, built.identifier, "SELECT rotation_id FROM claim") == [["another"]]
    world.remove(customer.account, built.identifier)


@pytest.mark.proof
def test_a_start_while_the_source_is_being_removed_yields(customer: Customer, tmp_path: Path) -> None:
    """The lock is kept until the source is gone."""
    with when_struck(customer, LATE.name, lambda: start(customer, LATE.name)) as starts:
        outcome = play(customer, LATE, tmp_path / "acks")

    print(table_line(outcome))
    assert_invariants(customer, outcome)
    late = progress.follow(customer.account, starts[0])
    assert (late.status, late.error) == ("FAILED", "RotationInProgress")
    world.remove(customer.account, LATE.name)


@pytest.mark.proof
def test_a_source_that_somebody_opens_in_its_grace_period_stays_until_it_is_closed_again(customer: Customer) -> None:
    """To look something up, say; a client that still uses its endpoint comes back meanwhile, and writes there."""
    built = customer.build(OPENED.name, rows=ROWS, writers=WRITERS)
    database = built.databases[0]

    def open_and_write() -> None:
        as_master(customer, built, built.identifier, f"ALTER DATABASE {database} ALLOW_CONNECTIONS true")
        as_master(customer, built, built.identifier, "CREATE TABLE written_late AS SELECT 1 AS id", database)

    with when_struck(customer, OPENED.name, open_and_write):
        run = customer.rotate({**built.request, "GraceDays": 0})
    assert (run.status, run.error) == ("FAILED", "RetirementRefused")
    assert f"database {database} accepts connections" in str(run.cause)
    customer.until(lambda: "RUNNING" not in executions(customer).values())  # the recovery is refused as well
    assert [[1]] == as_master(customer, built, built.identifier, "SELECT id FROM written_late", database)

    as_master(customer, built, built.identifier, f"ALTER DATABASE {database} ALLOW_CONNECTIONS false")
    run = customer.rotate({"DBInstanceIdentifier": OPENED.name})

    assert run.status == "SUCCEEDED", run.cause
    assert customer.instance(built.identifier) is None
    world.remove(customer.account, OPENED.name)


@pytest.mark.proof
def test_a_rotation_while_the_one_before_waits_for_its_keys_last_users(customer: Customer, tmp_path: Path) -> None:
    """Each retires its own old key, and only that; the data is under the key of the second."""
    with when_struck(customer, AGAIN.name, lambda: start(customer, AGAIN.name)) as starts:
        outcome = play(customer, AGAIN, tmp_path / "acks")

    print(table_line(outcome))
    second = progress.follow(customer.account, starts[0])
    assert (outcome.first.status, second.status) == ("SUCCEEDED", "SUCCEEDED"), (outcome.story, second.cause)
    told = [
        f"{name}: {how}"
        for name, check in INVARIANTS.items()
        if name not in ("nothing else is gone, nothing is left", "no key that is in use is disabled")  # two rotations'
        for how in check(customer, outcome)
    ]
    assert told == []
    found = customer.instance(second.output["target"]["identifier"])
    assert found is not None
    assert found["KmsKeyId"] == second.output["new_key"]["arn"]
    assert second.output["source"]["identifier"] == outcome.first.output["target"]["identifier"]
    assert customer.key_state(found["KmsKeyId"]) == "Enabled"
    assert customer.key_state(outcome.built.key_arn) == "PendingDeletion"
    assert outcome.first.output["retirement"]["users"] == []
    world.remove(customer.account, AGAIN.name)
