"""A MariaDB database of the demonstration moves to another key under load, by hand: what the sandbox shows is true.

Whoever does it well loses nothing, whoever does it as articles tell loses writes, and both are seen.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sandbox.demo import world
from sandbox.demo.account import Account
from sandbox.demo.connection import Endpoint, Resolver, hang_up, trusting
from sandbox.demo.count import recount
from sandbox.demo.dialects import KINDS, of
from sandbox.demo.world import World
from sandbox.demo.writers import Writers, read_acks
from tests.mariadb import need_mariadb
from tests.sandbox.rds_sandbox import REGION, Sandbox, eventually, running

pytestmark = pytest.mark.proof

WRITERS = 3
MARIADB = of("mariadb")
ACCOUNT_LOCKED = "4151"


class Customer:
    def __init__(self, sandbox: Sandbox) -> None:
        self.sandbox, self.rds = sandbox, sandbox.rds
        dns = sandbox.dns
        self.account = Account(sandbox.endpoint_url, REGION, "ak", "sk", dns["host"], dns["port"], sandbox.ca_bundle)

    def build(self, identifier: str) -> World:
        return world.build(self.account, identifier=identifier, engine="mariadb", rows=400, writers=WRITERS)

    def writers(self, built: World, acks: Path) -> Writers:
        made = Writers(
            self.account, databases=built.databases, login=built.app, acks=acks, writers=WRITERS, rate=60,
            engine="mariadb", record=built.record,
        )  # fmt: skip
        eventually(lambda: made.acknowledged() > 30, "the writers are at work")
        return made

    def endpoint(self, identifier: str) -> Endpoint:
        name = self.sandbox.describe(identifier)["Endpoint"]["Address"]
        return Resolver(self.account.dns_host, self.account.dns_port, MARIADB.port).resolve(name)

    def master(self, built: World, identifier: str, *statements: str) -> list[Any]:
        sql = MARIADB.connect(self.endpoint(identifier), None, built.master, trusting(self.account.ca_bundle))
        try:
            return [list(sql.run(statement)) for statement in statements][-1]
        finally:
            hang_up(sql)

    def replicate(self, built: World, target: str) -> None:
        self.rds.copy_db_parameter_group(
            SourceDBParameterGroupIdentifier=built.parameter_group, TargetDBParameterGroupIdentifier=target,
            TargetDBParameterGroupDescription="of the target",
        )  # fmt: skip
        self.sandbox.replica(built.identifier, target, KmsKeyId=self.sandbox.key(), DeletionProtection=False)
        self.sandbox.give_group(target, target)

    def set_read_only(self, built: World, value: str) -> None:
        self.rds.modify_db_parameter_group(
            DBParameterGroupName=built.parameter_group,
            Parameters=[{"ParameterName": "read_only", "ParameterValue": value, "ApplyMethod": "immediate"}],
        )
        eventually(
            lambda: self.master(built, built.identifier, "SELECT @@global.read_only") == [(int(value),)], "in force"
        )

    def promote(self, target: str) -> None:
        self.rds.promote_read_replica(DBInstanceIdentifier=target)
        eventually(
            lambda: "ReadReplicaSourceDBInstanceIdentifier" not in self.sandbox.describe(target), f"{target} on its own"
        )
        self.sandbox.available(target)

    def switch(self, built: World, target: str) -> None:
        record = {
            "Name": f"{built.record}.", "Type": "CNAME", "TTL": 1,
            "ResourceRecords": [{"Value": self.sandbox.describe(target)["Endpoint"]["Address"]}],
        }  # fmt: skip
        self.sandbox.route53.change_resource_record_sets(
            HostedZoneId=built.zone_id, ChangeBatch={"Changes": [{"Action": "UPSERT", "ResourceRecordSet": record}]}
        )


@pytest.fixture(scope="module")
def customer() -> Iterator[Customer]:
    need_mariadb()
    with running() as sandbox:
        yield Customer(sandbox)


@pytest.fixture(scope="module")
def built(customer: Customer) -> World:
    return customer.build("orders")


def test_the_customer_has_what_a_customer_has(customer: Customer, built: World) -> None:
    """Two databases, one with an awkward name; a login; a record; a group of its own that is in force."""
    tags = {tag["Key"]: tag["Value"] for tag in customer.sandbox.describe("orders")["TagList"]}
    assert tags["key-rotation:enabled"] == "true"
    assert tags["key-rotation:dns-record"] == f"{built.zone_id}/{built.record}"
    databases = {name for (name,) in customer.master(built, "orders", "SHOW DATABASES")}
    assert databases == set(MARIADB.databases) | MARIADB.own_databases
    assert built.finder(customer.account).find().port == 3306
    for parameter, value in MARIADB.settings.items():
        assert customer.master(built, "orders", f"SELECT @@global.{parameter}") == [(value,)]


def test_a_fenced_rotation_loses_nothing(customer: Customer, built: World, tmp_path: Path) -> None:
    acks = tmp_path / "acks.txt"
    customer.replicate(built, "orders-rot")
    writers = customer.writers(built, acks)
    try:
        customer.master(built, "orders", "ALTER USER app@'%' ACCOUNT LOCK")
        customer.set_read_only(built, "1")
        others = "SELECT id FROM information_schema.processlist WHERE user = 'app'"
        while sessions := customer.master(built, "orders", others):
            customer.master(built, "orders", *(f"CALL mysql.rds_kill({session})" for (session,) in sessions))
        [[position]] = customer.master(built, "orders", "SELECT @@global.gtid_binlog_pos")
        assert customer.master(built, "orders-rot", f"SELECT MASTER_GTID_WAIT('{position}', 30)") == [(0,)]
        # The lock has come along: the target is born fenced.
        trust = trusting(customer.account.ca_bundle)
        with pytest.raises(Exception, match="locked") as refused:
            MARIADB.connect(customer.endpoint("orders-rot"), built.databases[0], built.app, trust)
        assert MARIADB.code(refused.value) == ACCOUNT_LOCKED
        customer.promote("orders-rot")
        customer.switch(built, "orders-rot")
        before = writers.acknowledged()
        customer.master(built, "orders-rot", "ALTER USER app@'%' ACCOUNT UNLOCK")
        eventually(lambda: writers.acknowledged() > before + 30, "the writers have followed", 60)
    finally:
        stopped = writers.stop()

    counted = recount(customer.account, built, read_acks(acks))

    assert (counted.lost, counted.duplicated, counted.remarks) == (0, 0, ())
    assert counted.acknowledged > 60
    assert {ack.kind for ack in read_acks(acks)} == set(KINDS)
    assert counted.endpoint.startswith("orders-rot.")
    assert set(counted.databases) == set(MARIADB.databases) | MARIADB.own_databases
    assert ACCOUNT_LOCKED in stopped.errors


def test_a_rotation_without_a_fence_loses_and_the_count_shows_it(customer: Customer, tmp_path: Path) -> None:
    built, acks = customer.build("naive"), tmp_path / "acks.txt"
    customer.replicate(built, "naive-rot")
    writers = customer.writers(built, acks)
    try:
        customer.promote("naive-rot")
        time.sleep(1)
        customer.switch(built, "naive-rot")
    finally:
        writers.stop()

    counted = recount(customer.account, built, read_acks(acks))

    assert counted.lost > 0
    assert len(counted.lost_ids) == counted.lost
    assert all("acknowledged transactions are missing" in remark for remark in counted.remarks)


def test_the_count_sees_one_row_one_number_and_one_item(customer: Customer, built: World, tmp_path: Path) -> None:
    acks = tmp_path / "acks.txt"
    writers = customer.writers(built, acks)
    time.sleep(0.5)
    writers.stop()
    name = f"`{MARIADB.databases[1].replace('`', '``')}`"
    current = built.finder(customer.account).find().name.split(".")[0]

    def counted_after(*statements: str) -> tuple[int, int]:
        customer.master(built, current, *statements)
        counted = recount(customer.account, built, read_acks(acks))
        return counted.lost, counted.duplicated

    assert counted_after("DO 0") == (0, 0)
    assert counted_after(f"UPDATE {name}.counters SET n = n + 1 WHERE writer = 0") == (0, 1)
    assert counted_after(f"UPDATE {name}.counters SET n = n - 2 WHERE writer = 0") == (1, 0)
    assert counted_after(f"UPDATE {name}.counters SET n = n + 1 WHERE writer = 0") == (0, 0)
    assert counted_after(f"DELETE FROM {name}.items WHERE id = 1") == (1, 0)
    # Of the acknowledged one, which is in no other database: writers take turns.
    last = next(ack for ack in reversed(read_acks(acks)) if ack.database == MARIADB.databases[1])
    assert counted_after(f"DELETE FROM {name}.ledger WHERE id = '{last.id}'") == (2, 0)
