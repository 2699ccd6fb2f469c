"""What the customer says to a database of each engine: one module per engine, and nothing of them anywhere else."""

import ssl
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import import_module
from typing import Any, Protocol

from sandbox.demo.connection import ANSWER_SECONDS, Endpoint, Login

KINDS = ("plain", "read-write", "option-off")
"""Of writers: see `sandbox.demo.writers`."""

LATE = "late"
"""The kind of a latecomer."""

FOREIGN = ("oracle-se2", "sqlserver-se", "db2-se")
"""Engines that are rotated by RDS alone: by a snapshot, behind a fence of the network."""

ENGINES = ("postgres", "mariadb", "mysql", *FOREIGN)
MULTI_AZ_POSTGRES = "multi-az-postgres"
AURORA_MYSQL = "aurora-mysql"
CLUSTERS: Mapping[str, str] = {
    "aurora-postgresql": "postgres",
    AURORA_MYSQL: AURORA_MYSQL,
    MULTI_AZ_POSTGRES: "postgres",
}
"""Engines of clusters, and whose dialect they speak. A Multi-AZ DB cluster has the engine of an instance, and a name of
its own here."""


class Session(Protocol):
    def run(self, statement: str) -> Any:
        """The rows of the last of the statements (they are separated by semicolons)."""
        ...

    def close(self) -> None: ...


class Dialect(Protocol):
    engine: str
    port: int
    databases: tuple[str, ...]
    """Names for a customer's databases. One has everything in it that makes careless quoting fail."""
    settings: Mapping[str, str]
    """Parameters, with values that differ from RDS's defaults: what a rotation must carry over."""
    settings_to_follow: Mapping[str, str]
    """Parameters that let a copy follow by logical replication; some need a reboot where they are not there from the
    beginning."""
    own_databases: frozenset[str]
    """What every server has."""
    duplicate_key: str
    """The code of the refusal of a row that is there."""
    errors: tuple[type[Exception], ...]
    """What says that there is no connection, or no more, or that the server refuses."""
    takes_login: bool
    """Whether the rotation logs in to it: somebody here has tried what it says there."""
    names_database: bool
    """Whether RDS makes the first database."""
    has_latecomers: bool
    """Whether a session can sleep after the server has let it in and before anybody sees it."""

    def connect(
        self,
        endpoint: Endpoint,
        database: str | None,
        login: Login,
        trust: ssl.SSLContext,
        *,
        kind: str = KINDS[0],
        answer_seconds: float = ANSWER_SECONDS,
    ) -> Session:
        """Log in at this endpoint, as a writer of this kind does. No database: where administrators work.

        Raises:
            OSError, or an error that has a `code`: no connection was made, and nothing of it is left open.
        """
        ...

    def code(self, error: BaseException) -> str | None:
        """The server's own error code; None when the error did not come from the server."""
        ...

    def admit(self, admin: Session, databases: Sequence[str], app: Login, master: str) -> None:
        """Let applications in: their account, and databases that belong to it (the first exists)."""
        ...

    def let_follow(self, admin: Session, login: str, owner: str) -> None:
        """Give a login what a copy needs that is to follow by logical replication, in databases of this owner."""
        ...

    def fill(self, sql: Session, rows: int) -> None:
        """The data that was there before: the table ``items``, and numbers that are given once."""
        ...

    def make_tables(self, sql: Session, writers: int) -> None:
        """What the writers need in a database: ``ledger`` and ``counters``; run as the role that they log in as."""
        ...

    def write(self, kind: str, row: str, writer: int, sequence: int) -> str:
        """Everything of a writer's transaction but its COMMIT."""
        ...

    def write_late(self, row: str, writer: int) -> str:
        """A latecomer's whole transaction."""
        ...

    def distrust_indexes(self, sql: Session) -> None:
        """Let this session read tables themselves: a broken unique index would hide just what is looked for."""
        ...

    def takes_writes(self, sql: Session) -> bool:
        """Whether a session that could log in could write, too."""
        ...

    def followed_by(self, admin: Session) -> list[str]:
        """What replicates this database, or could: a customer of the sandbox has nothing of the kind."""
        ...

    def all_databases(self, admin: Session) -> list[str]:
        """What the server has, the rotation's own included."""
        ...


@cache
def of(engine: str) -> Dialect:
    """The dialect of one of `ENGINES`, or of `CLUSTERS`."""
    dialect: Dialect = import_module(_module(CLUSTERS.get(engine, engine))).DIALECT
    return dialect


def _module(engine: str) -> str:
    return f"{__name__}.{engine.replace('-', '_')}"
