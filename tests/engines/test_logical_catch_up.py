"""What PostgreSQL does that a catch-up after a restore would stand on (docs/adr/0017); no rotation does it yet.

The copy is made while clients write. Replication begins where the copy's recovery has ended, and nothing is missing.
"""

import contextlib
import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pg8000.exceptions
import pytest

from sandbox.postgres import PORT
from tests.engines.servers import APPLICATION, MASTER, Endpoint, World

DATABASE = "orders"
SLOT = "capture"


@dataclass
class Writers:
    """Clients that commit one row after the other, and know which ones were acknowledged."""

    source: Endpoint
    acknowledged: list[int] = field(default_factory=list)

    def __enter__(self) -> "Writers":
        self._threads = [threading.Thread(target=self._write) for _ in range(4)]
        for thread in self._threads:
            thread.start()
        self.wait_for(200)
        return self

    def __exit__(self, *_: object) -> None:
        self.source.admin(
            f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{APPLICATION}'", "postgres"
        )
        for thread in self._threads:
            thread.join()

    def wait_for(self, more: int) -> None:
        wanted = len(self.acknowledged) + more
        wait_until(lambda: len(self.acknowledged) >= wanted)

    def _write(self) -> None:
        with (
            contextlib.suppress(pg8000.exceptions.Error, OSError),
            contextlib.closing(self.source.connect(DATABASE)) as sql,
        ):
            while True:
                [[number]] = sql.run("INSERT INTO kept DEFAULT VALUES RETURNING id")
                self.acknowledged.append(number)


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def end_of_recovery(copy: Endpoint) -> str:
    """Where the last record lies that the copy has replayed, as its log says."""
    found = re.findall(r"redo done at ([0-9A-F]+/[0-9A-F]+)", copy.server.log.read_text())
    assert len(found) == 1
    return str(found[0])


@pytest.fixture
def source(world: World) -> Iterator[Endpoint]:
    source = world.primary(wal_level="logical")
    source.admin(f"ALTER ROLE {MASTER} REPLICATION")  # what membership in rds_replication is on RDS
    with contextlib.closing(source.connect(DATABASE, MASTER)) as sql:
        sql.run("CREATE PUBLICATION capture FOR TABLE kept")
        sql.run(f"SELECT pg_create_logical_replication_slot('{SLOT}', 'pgoutput')")
    yield source
    source.server.destroy()


def subscribe(source: Endpoint, copy: Endpoint) -> None:
    # Past the front: the wheel's libpq speaks no TLS.
    where = f"host={source.server.socket.parent} port={PORT} dbname={DATABASE}"
    login = f"user={MASTER} password={source.passwords[MASTER]}"
    with contextlib.closing(copy.connect(DATABASE, MASTER)) as sql:
        sql.run(
            f"CREATE SUBSCRIPTION capture CONNECTION '{where} {login}' PUBLICATION capture "
            f"WITH (create_slot = false, slot_name = '{SLOT}', copy_data = false)"
        )


def advance(source: Endpoint, position: str, by: int = 1) -> None:
    """``by`` 1: behind the beginning of the record at ``position``, so that a commit there is not sent again."""
    source.admin(f"SELECT pg_replication_slot_advance('{SLOT}', pg_lsn '{position}' + {by})", DATABASE)


def is_drained(source: Endpoint, position: str) -> bool:
    [[drained]] = source.admin(
        f"SELECT confirmed_flush_lsn >= '{position}' FROM pg_replication_slots WHERE slot_name = '{SLOT}'"
    )
    return bool(drained)


def test_a_copy_catches_up_from_where_its_recovery_ended(world: World, source: Endpoint) -> None:
    with Writers(source) as writers:
        copy = world.restored(source)
        writers.wait_for(50)
        advance(source, end_of_recovery(copy))
        subscribe(source, copy)
        # Sessions are counted, the workers that apply are not: nobody can log in, and the copy catches up.
        copy.admin(f"ALTER DATABASE {DATABASE} CONNECTION LIMIT 0")
        with pytest.raises(pg8000.exceptions.DatabaseError, match="53300"):
            copy.connect(DATABASE)
        writers.wait_for(50)
        # Whoever is in stays in, the sender too; nobody comes in any more.
        source.admin(f"ALTER DATABASE {DATABASE} ALLOW_CONNECTIONS false")
    [[position]] = source.admin("SELECT pg_current_wal_flush_lsn()")
    wait_until(lambda: is_drained(source, position))

    rows = [number for (number,) in copy.admin("SELECT id FROM kept", DATABASE)]
    assert sorted(writers.acknowledged) == sorted(rows)
    # The strong proof counts the sender, so it can only be had after the drain.
    with pytest.raises(pg8000.exceptions.DatabaseError, match="55006"):
        source.admin(f"ALTER DATABASE {DATABASE} RENAME TO elsewhere")
    for statement in ("DISABLE", "SET (slot_name = NONE)"):
        copy.admin(f"ALTER SUBSCRIPTION capture {statement}", DATABASE)
    copy.admin("DROP SUBSCRIPTION capture", DATABASE)
    source.admin(f"ALTER DATABASE {DATABASE} RENAME TO elsewhere")
    # From another database: this one is closed.
    source.admin(f"SELECT pg_drop_replication_slot('{SLOT}')", "postgres")


def test_from_anywhere_else_something_is_missing_or_comes_twice(world: World, source: Endpoint) -> None:
    with Writers(source) as writers:
        copy = world.restored(source)
        in_the_copy = {number for (number,) in copy.admin("SELECT id FROM kept", DATABASE)}
        writers.wait_for(50)
    [[later]] = source.admin("SELECT pg_current_wal_flush_lsn()")

    def changes() -> int:
        [[number]] = source.admin(
            f"SELECT count(*) FROM pg_logical_slot_peek_binary_changes('{SLOT}', NULL, NULL, 'proto_version', '1', "
            "'publication_names', 'capture') WHERE get_byte(data, 0) = ascii('I')",
            DATABASE,
        )
        return int(number)

    missing = len(set(writers.acknowledged) - in_the_copy)
    assert changes() > missing  # from the slot's own beginning: the copy has some of them
    advance(source, end_of_recovery(copy))
    assert changes() == missing
    advance(source, later, by=0)
    assert changes() == 0
