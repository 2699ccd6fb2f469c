"""Events of the sandbox: what has happened to an instance, on its clock, for two weeks; nothing that is not served."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest

from tests.sandbox.rds_sandbox import Sandbox, code_of, eventually

RESTARTED = "DB instance restarted"


@pytest.fixture(scope="module")
def orders(sandbox: Sandbox) -> dict[str, Any]:
    sandbox.create("bystander")
    return sandbox.create("orders")


def events(sandbox: Sandbox, name: str = "orders", **more: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = sandbox.rds.describe_events(SourceType="db-instance", SourceIdentifier=name, **more)[
        "Events"
    ]
    return found


def told(sandbox: Sandbox, name: str = "orders", **more: Any) -> list[str]:
    return [event["Message"] for event in events(sandbox, name, **more)]


def now(sandbox: Sandbox) -> dt.datetime:
    return dt.datetime.fromtimestamp(sandbox.do("time"), dt.UTC)


def test_a_new_instance_is_created_and_backed_up(sandbox: Sandbox, orders: dict[str, Any]) -> None:
    eventually(lambda: "Finished DB instance backup" in told(sandbox), "it is backed up")

    first, *backup = events(sandbox)[:3]

    assert (first["Message"], first["EventCategories"]) == ("DB instance created", ["creation"])
    assert (first["SourceIdentifier"], first["SourceType"]) == ("orders", "db-instance")
    assert first["SourceArn"] == orders["DBInstanceArn"]
    assert first["Date"].microsecond % 1000 == 0
    assert [(one["Message"], one["EventCategories"]) for one in backup] == [
        ("Backing up DB instance", ["backup"]), ("Finished DB instance backup", ["backup"]),
    ]  # fmt: skip


def test_a_reboot_says_when_the_server_ended_and_when_it_was_back(sandbox: Sandbox, orders: dict[str, Any]) -> None:
    """Every session that began before the first of the two is over."""
    asked_at = now(sandbox)
    sandbox.rds.reboot_db_instance(DBInstanceIdentifier="orders")
    sandbox.available("orders")
    eventually(lambda: RESTARTED in told(sandbox, StartTime=asked_at), "it was restarted")

    ended, back = events(sandbox, StartTime=asked_at - dt.timedelta(milliseconds=1), EventCategories=["availability"])

    assert [one["Message"] for one in (ended, back)] == ["DB instance shutdown", RESTARTED]
    assert asked_at - dt.timedelta(milliseconds=1) <= ended["Date"] <= back["Date"] <= now(sandbox)
    with sandbox.session(orders) as sql:
        [[began]] = sql.run("SELECT pg_postmaster_start_time()")
    assert ended["Date"] <= began.astimezone(dt.UTC)
    assert RESTARTED not in told(sandbox, "bystander")


@pytest.mark.parametrize(
    ("deed", "said"),
    [
        ("crash", [RESTARTED]),
        ("fail_over", ["Multi-AZ instance failover started.", RESTARTED, "Multi-AZ instance failover completed"]),
    ],
)
def test_a_server_that_is_lost_is_restarted(
    sandbox: Sandbox, orders: dict[str, Any], deed: str, said: list[str]
) -> None:
    asked_at = now(sandbox) + dt.timedelta(milliseconds=1)

    sandbox.do(deed, name="orders")

    assert told(sandbox, StartTime=asked_at) == said


def test_an_instance_that_is_promoted_is_restarted(sandbox: Sandbox, orders: dict[str, Any]) -> None:
    sandbox.replica("orders", "orders-r")
    sandbox.rds.promote_read_replica(DBInstanceIdentifier="orders-r")

    eventually(lambda: RESTARTED in told(sandbox, "orders-r"), "it was restarted")
    sandbox.available("orders-r")


def test_what_is_restored_says_of_what(sandbox: Sandbox, orders: dict[str, Any]) -> None:
    sandbox.rds.create_db_snapshot(DBInstanceIdentifier="orders", DBSnapshotIdentifier="orders-s")
    sandbox.snapshot_available("orders-s")
    sandbox.rds.restore_db_instance_from_db_snapshot(DBInstanceIdentifier="orders-2", DBSnapshotIdentifier="orders-s")
    sandbox.available("orders-2")

    assert told(sandbox, "orders-2")[0] == "Restored from snapshot orders-s"


def test_a_period_is_what_the_request_says_and_the_last_hour_if_it_says_nothing(
    sandbox: Sandbox, orders: dict[str, Any]
) -> None:
    sandbox.jump(hours=2)
    later = now(sandbox)
    sandbox.do("crash", name="bystander")

    assert told(sandbox, "bystander") == [RESTARTED]
    assert told(sandbox, "bystander", Duration=24 * 60, EventCategories=["creation"]) == ["DB instance created"]
    assert "DB instance created" in told(sandbox, "bystander", StartTime=later - dt.timedelta(days=1), EndTime=later)
    assert RESTARTED not in told(sandbox, "bystander", StartTime=later - dt.timedelta(days=1), Duration=23 * 60)
    assert told(sandbox, "bystander", EndTime=later, Duration=1) == []
    assert told(sandbox, "nobody", Duration=24 * 60) == []


def test_pages(sandbox: Sandbox, orders: dict[str, Any]) -> None:
    for number in range(21):
        sandbox.do("note", name="bystander", message=str(number))
    every = {"SourceType": "db-instance", "SourceIdentifier": "bystander"}

    first = sandbox.rds.describe_events(**every, MaxRecords=20)
    rest = sandbox.rds.describe_events(**every, MaxRecords=20, Marker=first["Marker"])

    assert len(first["Events"]) == 20
    assert first["Events"] + rest["Events"] == events(sandbox, "bystander")
    assert "Marker" not in rest


def test_what_is_not_served_is_refused(sandbox: Sandbox, orders: dict[str, Any]) -> None:
    """An empty list would be taken for the answer."""
    describe, later = sandbox.rds.describe_events, now(sandbox)

    assert "InvalidAction" == code_of(describe)
    assert "InvalidAction" == code_of(describe, SourceType="db-snapshot")
    assert "InvalidParameterValue" == code_of(
        describe, SourceType="db-instance", Filters=[{"Name": "a", "Values": ["b"]}]
    )
    assert "InvalidParameterCombination" == code_of(
        describe, SourceType="db-instance", StartTime=later, EndTime=later - dt.timedelta(minutes=1)
    )


def test_events_are_gone_after_two_weeks(sandbox: Sandbox, orders: dict[str, Any]) -> None:
    created = now(sandbox) - dt.timedelta(hours=12)
    sandbox.jump(days=13)
    assert "DB instance created" in told(sandbox, "bystander", StartTime=created)

    sandbox.jump(days=1)
    assert told(sandbox, "bystander", StartTime=created, EventCategories=["creation"]) == []
