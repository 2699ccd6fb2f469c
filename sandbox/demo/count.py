"""What the databases hold now, against what their clients were told. Reads tables, not indexes."""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from uuid import UUID

from sandbox.demo.account import Account
from sandbox.demo.connection import Endpoint, hang_up, trusting
from sandbox.demo.dialects import Session
from sandbox.demo.world import World
from sandbox.demo.writers import Ack

CONTROL_DATABASE = "rds_key_rotation"


@dataclass(frozen=True)
class Count:
    """``lost`` and ``duplicated`` are transactions; ``remarks`` says where each of them was seen."""

    acknowledged: int
    lost: int
    duplicated: int
    endpoint: str
    databases: tuple[str, ...]
    """All that the server has, the rotation's own included."""
    remarks: tuple[str, ...] = ()
    followed_by: tuple[str, ...] = ()
    """What replicates them still; a slot that nobody reads fills its server's disk."""
    lost_ids: tuple[str, ...] = field(default=(), repr=False)


def recount(account: Account, world: World, acks: Sequence[Ack]) -> Count:
    """Compare the acknowledged commits with the databases that the application's name leads to now.

    Lost: acknowledged and not there; counted once and recorded more often than counted; data that was there before.
    Duplicated: there more than once, or counted more often than recorded.

    Raises:
        OSError, or the driver's error: the name leads to no database that can be read.
    """
    trust, endpoint = trusting(account.ca_bundle), world.finder(account).find()
    dialect = world.dialect
    lost_ids: list[str] = []
    lost = duplicated = 0
    remarks: list[str] = []
    followed_by: set[str] = set()
    for database in world.databases:
        sql = dialect.connect(endpoint, database, world.app, trust)
        try:
            dialect.distrust_indexes(sql)
            rows = [(UUID(str(id_)), writer) for id_, writer in sql.run("SELECT id, writer FROM ledger")]
            counted = dict(sql.run("SELECT writer, n FROM counters"))
            (items,) = sql.run("SELECT count(*) FROM items")[0]
        finally:
            hang_up(sql)
        with _master(account, world, endpoint, database) as admin:
            followed_by |= {f"{database}: {one}" for one in dialect.followed_by(admin)}
        present = Counter(id_ for id_, _ in rows)
        absent = [ack for ack in acks if ack.database == database and ack.id not in present]
        missing, missed_by = [str(ack.id) for ack in absent], Counter(ack.writer for ack in absent)
        if missing:
            remarks.append(f"{database}: {len(missing)} acknowledged transactions are missing")
        repeated = sum(times - 1 for times in present.values())
        if repeated:
            remarks.append(f"{database}: {repeated} transactions are there more than once")
        recorded = Counter(writer for _, writer in rows)
        for writer in sorted(recorded.keys() | counted.keys()):
            surplus = counted.get(writer, 0) - recorded[writer]
            if surplus:
                remarks.append(
                    f"{database}: writer {writer} counted {counted.get(writer, 0)} and recorded {recorded[writer]}"
                )
            # A row that went missing after it was counted is lost already.
            duplicated += max(0, surplus - missed_by[writer])
            lost += max(0, -surplus)
        if items != world.rows:
            remarks.append(f"{database}: {items} of {world.rows} items")
            lost += max(0, world.rows - items)
            duplicated += max(0, items - world.rows)
        lost_ids += missing
        lost += len(missing)
        duplicated += repeated
    return Count(
        acknowledged=len(acks),
        lost=lost,
        duplicated=duplicated,
        endpoint=endpoint.name,
        databases=_databases(account, world, endpoint),
        remarks=tuple(remarks),
        followed_by=tuple(sorted(followed_by)),
        lost_ids=tuple(lost_ids),
    )


def _databases(account: Account, world: World, endpoint: Endpoint) -> tuple[str, ...]:
    with _master(account, world, endpoint) as admin:
        return tuple(world.dialect.all_databases(admin))


@contextmanager
def _master(account: Account, world: World, endpoint: Endpoint, database: str | None = None) -> Iterator[Session]:
    """A session that sees what concerns the server: applications of MariaDB see their own only."""
    admin = world.dialect.connect(endpoint, database, world.master, trusting(account.ca_bundle))
    try:
        yield admin
    finally:
        hang_up(admin)
