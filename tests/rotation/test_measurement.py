"""A measurement that cannot show a loss proves nothing: what the demonstration's clients and count must be able to see.

On one real server behind the TLS front; no rotation.
"""

import shutil
import tempfile
import time
import types
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from sandbox.demo import inventory, report
from sandbox.demo.account import Account
from sandbox.demo.connection import Login, NameNotFound, Resolver, connect, quoted, trusting
from sandbox.demo.count import recount
from sandbox.demo.dialects import KINDS
from sandbox.demo.world import DATABASES, RECORD_TTL_SECONDS, World, fill
from sandbox.demo.writers import Ack, Writers, read_acks
from sandbox.dns import DnsServer, NameTable
from sandbox.postgres import PostgresEngine, PostgresServer
from sandbox.tls_front import AddressBlock, CertificateAuthority, TlsFront

RDS_NAME = "orders.abc.eu-central-1.rds.amazonaws.com"
RECORD = "orders.db.example.internal"
WRITERS = 3


@dataclass
class Place:
    account: Account
    world: World
    server: PostgresServer
    front: TlsFront

    def app(self, database: str) -> Any:
        endpoint = self.world.finder(self.account).find()
        return closing(connect(endpoint, database, self.world.app, trusting(self.account.ca_bundle)))


@pytest.fixture(scope="module")
def place() -> Iterator[Place]:
    # Not pytest's directory, which the servers' account may not enter.
    directory = Path(tempfile.mkdtemp(prefix="measurement-"))
    directory.chmod(0o711)
    engine, front, block = PostgresEngine(directory / "pg"), TlsFront(), AddressBlock()
    authority, names = CertificateAuthority(directory / "ca"), NameTable(directory / "names.json")
    dns = DnsServer(names)
    try:
        server = engine.create("orders", master_user="dbadmin", master_password="m'\"", database=DATABASES[0])
        address = block.take(5432)
        front.open("orders", address, 5432, authority.issue(RDS_NAME), server.socket)
        names.set(RDS_NAME, address)
        record = types.SimpleNamespace(
            name=f"{RECORD}.", type="CNAME", ttl=RECORD_TTL_SECONDS, records=[RDS_NAME], set_identifier=None,
            alias_target=None,
        )  # fmt: skip
        names.read_zones([types.SimpleNamespace(rrsets=[record])])
        account = Account("", "eu-central-1", "", "", dns.host, dns.port, str(authority.bundle))
        world = World(
            "orders", "db-1", "key", "group", DATABASES, 500, Login("app", "p'w"), Login("dbadmin", "m'\""), "login",
            "dns", record=RECORD,
        )  # fmt: skip
        fill(account, world, WRITERS)
        yield Place(account, world, server, front)
    finally:
        dns.close()
        front.close()
        engine.close()
        block.close()
        shutil.rmtree(directory, ignore_errors=True)


def write_for(place: Place, acks: Path, more: int, meanwhile: Callable[[], None]) -> tuple[list[Ack], Any]:
    """Write, let something happen meanwhile, and go on until so many ``more`` are acknowledged."""
    writers = Writers(
        place.account, databases=place.world.databases, login=place.world.app, acks=acks, writers=WRITERS, rate=60,
        record=RECORD,
    )  # fmt: skip
    try:
        _until_acknowledged(writers, 20)
        meanwhile()
        _until_acknowledged(writers, writers.acknowledged() + more)
    finally:
        stopped = writers.stop()
    return read_acks(acks), stopped


def _until_acknowledged(writers: Writers, wanted: int) -> None:
    give_up_at = time.monotonic() + 120
    while writers.acknowledged() < wanted and time.monotonic() < give_up_at:
        time.sleep(0.02)


@pytest.fixture(scope="module")
def written(place: Place, tmp_path_factory: pytest.TempPathFactory) -> list[Ack]:
    """Acknowledged commits of all kinds, through one fence of half a second and one crash."""
    acks = tmp_path_factory.mktemp("acks") / "acks.txt"

    def disturb() -> None:
        with place.server.session("postgres") as sql:
            for database in DATABASES:
                sql.run(f"ALTER DATABASE {quoted(database)} ALLOW_CONNECTIONS false")
            sql.run("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'app'")
            time.sleep(0.5)
            for database in DATABASES:
                sql.run(f"ALTER DATABASE {quoted(database)} ALLOW_CONNECTIONS true")
        time.sleep(0.5)
        place.server.crash()
        place.server.start()

    found, _ = write_for(place, acks, 100, disturb)
    return found


def test_nothing_is_lost_where_nothing_was_taken_away(place: Place, written: list[Ack]) -> None:
    """A fence and a crash interrupt the writers; calling that a loss would discredit the next one."""
    counted = recount(place.account, place.world, written)

    assert (counted.lost, counted.duplicated, counted.remarks) == (0, 0, ())
    assert counted.acknowledged == len(written) > 100
    assert {ack.kind for ack in written} == set(KINDS)
    assert {ack.database for ack in written} == set(DATABASES)


def test_an_outage_is_the_longest_gap_between_acknowledgements(written: list[Ack]) -> None:
    """The half second is measured from the clients' side, not taken from whoever caused it."""
    moments = [ack.at for ack in written]
    gap_at = max(range(len(moments) - 1), key=lambda at: moments[at + 1] - moments[at])

    assert report.longest_gap(moments, moments[0], moments[-1]) == moments[gap_at + 1] - moments[gap_at] >= 0.5
    assert report.longest_gap(moments, moments[gap_at + 1] + 1e-6, moments[-1]) < moments[gap_at + 1] - moments[gap_at]


def test_every_planted_loss_and_duplicate_is_found(place: Place, written: list[Ack]) -> None:
    """Rows taken out behind the clients' backs, a transaction applied twice, data gone: each in its own figure."""
    victims = [ack for ack in written if ack.database == DATABASES[1]][10:13]
    with place.app(DATABASES[1]) as sql, place.app(DATABASES[0]) as other:
        sql.run(
            "CREATE TABLE aside AS SELECT * FROM ledger WHERE id = ANY (:ids)", ids=[str(ack.id) for ack in victims]
        )
        sql.run("DELETE FROM ledger WHERE id IN (SELECT id FROM aside)")
        other.run("UPDATE counters SET n = n + 1 WHERE writer = 1")
        other.run("DELETE FROM items WHERE id <= 7")
        try:
            counted = recount(place.account, place.world, written)
        finally:
            sql.run("INSERT INTO ledger SELECT * FROM aside")
            sql.run("DROP TABLE aside")
            other.run("UPDATE counters SET n = n - 1 WHERE writer = 1")
            other.run("INSERT INTO items SELECT i, 'x', 1, now() FROM generate_series(1, 7) AS i")

    assert counted.lost == 3 + 7
    assert counted.duplicated == 1
    assert set(counted.lost_ids) == {str(ack.id) for ack in victims}
    assert recount(place.account, place.world, written).lost == 0


def test_a_row_that_is_there_twice_is_found_behind_a_unique_index(place: Place, written: list[Ack]) -> None:
    """A replayed transaction can get past an index that is itself broken; the count must read the table."""
    with place.app(DATABASES[0]) as sql:
        sql.run("ALTER TABLE ledger DROP CONSTRAINT ledger_pkey")
        sql.run("INSERT INTO ledger SELECT * FROM ledger ORDER BY at LIMIT 2")
        try:
            counted = recount(place.account, place.world, written)
        finally:
            sql.run("DELETE FROM ledger AS one USING ledger AS other WHERE one.id = other.id AND one.ctid > other.ctid")
            sql.run("ALTER TABLE ledger ADD PRIMARY KEY (id)")

    assert counted.duplicated == 2


def test_two_kinds_of_writers_do_not_mind_a_read_only_database(place: Place, tmp_path: Path) -> None:
    """`default_transaction_read_only` is no fence; a load of plain writers alone would not show it."""
    with place.server.session("postgres") as sql:
        for database in DATABASES:
            sql.run(f"ALTER DATABASE {quoted(database)} SET default_transaction_read_only = on")

    def terminate() -> None:
        with place.server.session("postgres") as sql:
            sql.run("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'app'")

    try:
        found, stopped = write_for(place, tmp_path / "acks", 50, terminate)
    finally:
        with place.server.session("postgres") as sql:
            for database in DATABASES:
                sql.run(f"ALTER DATABASE {quoted(database)} RESET default_transaction_read_only")

    assert {ack.kind for ack in found} == {"read-write", "option-off"}
    assert stopped.errors["25006"] > 0


def test_a_commit_whose_answer_was_lost_is_settled_and_not_repeated(place: Place, tmp_path: Path) -> None:
    """Connections are reset in the middle of commits, again and again: none may be there twice."""

    doubts = tmp_path / "acks.ambiguous"

    def cut_often() -> None:
        """Until one has met a commit; each waits a little longer, for clients that take their time to come back."""
        for number in range(60):
            place.front.cut("orders", "reset")
            place.front.restore("orders")
            time.sleep(0.1 + number / 100)
            if number > 12 and doubts.stat().st_size:
                return

    found, stopped = write_for(place, tmp_path / "acks", 50, cut_often)

    with place.app(DATABASES[0]) as one, place.app(DATABASES[1]) as two:
        present = Counter(row[0] for sql in (one, two) for row in sql.run("SELECT id FROM ledger"))
    assert stopped.ambiguous > 0
    assert all(present[ack.id] == 1 for ack in found)


def test_a_line_of_the_acks_file_says_which_database() -> None:
    """Names with spaces, quotes and umlauts go through a file whose fields are separated by spaces."""
    ack = Ack(12.5, DATABASES[1], uuid.uuid4(), 3, "option-off")

    assert len(ack.to_line().split()) == 5
    assert Ack.from_line(ack.to_line()) == ack


def test_the_ttl_is_that_of_the_name_that_was_asked_for(place: Place) -> None:
    """Clients follow the record that a rotation changes, not the endpoint's own few seconds."""
    resolver = Resolver(place.account.dns_host, place.account.dns_port)

    assert resolver.resolve(RECORD).ttl_seconds == RECORD_TTL_SECONDS
    assert resolver.resolve(RECORD).name == RDS_NAME
    with pytest.raises(NameNotFound):
        resolver.resolve("orders.db.example.com")


NEW, OLD = "arn:aws:kms:eu-central-1:123456789012:key/new", "arn:aws:kms:eu-central-1:123456789012:key/old"
EXPECTED = inventory.Expected(
    "orders",
    "db-OLD",
    "orders-rot-1",
    "db-NEW",
    "target.example",
    OLD,
    NEW,
    "1",
    "ours",
    record="orders.db.example.internal",
)
BEFORE: dict[str, dict[str, Any]] = {
    "rds/instance/orders": {"key": OLD, "status": "available"},
    "rds/automated-backup/db-OLD": {"key": OLD, "status": "active"},
    f"kms/key/{OLD}": {"state": "Enabled", "grants": ['["rds.amazonaws.com"]']},
    "route53/record/orders.db.example.internal. CNAME": {"ttl": 30, "values": ["source.example"]},
}
AFTER: dict[str, dict[str, Any]] = {
    "rds/instance/orders-rot-1": {"key": NEW, "status": "available"},
    "rds/snapshot/orders-rot-1-kept": {"key": NEW, "status": "available", "database": "orders"},
    "rds/automated-backup/db-OLD": {"key": OLD, "status": "retained"},
    f"kms/key/{OLD}": {"state": "Enabled", "grants": []},
    f"kms/key/{NEW}": {"state": "Enabled", "grants": ['["rds.amazonaws.com"]']},
    "kms/alias/alias/rds-rotation/orders/1": {"key": "new"},
    "route53/record/orders.db.example.internal. CNAME": {"ttl": 30, "values": ["target.example"]},
}


def test_what_a_rotation_is_meant_to_change_is_no_leftover() -> None:
    assert inventory.leftovers(inventory.difference(BEFORE, AFTER), EXPECTED) == []


@pytest.mark.parametrize(
    "name, facts",
    [
        ("rds/snapshot/orders-rot-1-source", {"key": OLD, "status": "available", "database": "orders"}),
        ("rds/snapshot/orders-rot-1-kept", {"key": OLD, "status": "available", "database": "orders"}),
        ("rds/instance/orders", {"key": OLD, "status": "deleting"}),
        ("rds/instance/orders-rot-2", {"key": NEW, "status": "available"}),
        (f"kms/key/{OLD}", {"state": "PendingDeletion", "grants": []}),
        (f"kms/key/{OLD}", {"state": "Enabled", "grants": ['["somebody"]']}),
        ("rds/automated-snapshot/rds:another-2027", {"key": OLD, "status": "available", "database": "another"}),
        ("kms/key/another", {"state": "Enabled", "grants": []}),
        ("route53/record/orders.db.example.internal. CNAME", {"ttl": 5, "values": ["target.example"]}),
        ("scheduler/schedule/recovery/1", {"state": "ENABLED"}),
        ("dynamodb/item/ledger/orders/lock", {"closed": False}),
        ("dynamodb/item/ledger/orders/rotation#1", {"closed": False}),
    ],
)
def test_everything_else_is(name: str, facts: dict[str, Any]) -> None:
    """Under the old key, unfinished, another rotation's, a lowered TTL, a lock: none of it may pass."""
    found = inventory.leftovers(inventory.difference(BEFORE, {**AFTER, name: facts}), EXPECTED)

    assert len(found) >= 1
    assert all(name in line for line in found)
