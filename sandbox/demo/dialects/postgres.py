"""The customer of a PostgreSQL database."""

import ssl
from collections.abc import Mapping, Sequence
from typing import Any

import pg8000.exceptions

from sandbox.demo import connection
from sandbox.demo.connection import ANSWER_SECONDS, Endpoint, Login, literal, quoted, sqlstate
from sandbox.demo.dialects import LATE, Session

LATE_SECONDS = 2000
"""Until somebody wakes it; the server takes no more than 2147."""

OPTIONS = {
    "option-off": "-c default_transaction_read_only=off",
    LATE: f"-c post_auth_delay={LATE_SECONDS}",
}

DATA = """
CREATE TABLE items (
    id bigint PRIMARY KEY, name text NOT NULL, price numeric(10, 2) NOT NULL, placed_at timestamptz NOT NULL
);
CREATE SEQUENCE invoice_numbers;
"""

TABLES = """
CREATE TABLE ledger (
    id uuid PRIMARY KEY, writer int NOT NULL, seq bigint NOT NULL, at timestamptz NOT NULL, via text NOT NULL
);
CREATE TABLE counters (writer int PRIMARY KEY, n bigint NOT NULL DEFAULT 0);
"""


class Postgres:
    engine = "postgres"
    port = connection.PORT
    databases = ("orders", 'Größen "Süd" & O\'Neil')
    settings: Mapping[str, str] = {"work_mem": "8192"}
    # The latter in MB: so much a slot may keep before the source's storage matters more.
    settings_to_follow: Mapping[str, str] = {"rds.logical_replication": "1", "max_slot_wal_keep_size": "1024"}
    own_databases = frozenset({"postgres", "rdsadmin", "template0", "template1"})
    duplicate_key = "23505"
    errors = (OSError, pg8000.exceptions.Error)
    takes_login = True
    names_database = True
    has_latecomers = True

    def connect(
        self,
        endpoint: Endpoint,
        database: str | None,
        login: Login,
        trust: ssl.SSLContext,
        *,
        kind: str = "plain",
        answer_seconds: float = ANSWER_SECONDS,
    ) -> Any:
        return connection.connect(
            endpoint, database or "postgres", login, trust, options=OPTIONS.get(kind),
            answer_seconds=LATE_SECONDS if kind == LATE else answer_seconds,
        )  # fmt: skip

    def code(self, error: BaseException) -> str | None:
        return sqlstate(error)

    def admit(self, admin: Session, databases: Sequence[str], app: Login, master: str) -> None:
        admin.run(f"CREATE ROLE {quoted(app.user)} LOGIN PASSWORD {literal(app.password)}")
        admin.run(f"GRANT {quoted(app.user)} TO {quoted(master)}")
        # On RDS the master owns the first database.
        admin.run(f"ALTER DATABASE {quoted(databases[0])} OWNER TO {quoted(app.user)}")
        for name in databases[1:]:
            admin.run(f"CREATE DATABASE {quoted(name)} OWNER {quoted(app.user)}")

    def let_follow(self, admin: Session, login: str, owner: str) -> None:
        admin.run(f"GRANT rds_replication, pg_create_subscription TO {quoted(login)}")
        # What a subscription applies it applies as the table's owner.
        admin.run(f"GRANT {quoted(owner)} TO {quoted(login)} WITH INHERIT TRUE, SET TRUE")
        if admin.run(f"SELECT rolreplication FROM pg_roles WHERE rolname = {literal(login)}") == [[False]]:
            # What membership in rds_replication is on RDS, where nobody may say this.
            admin.run(f"ALTER ROLE {quoted(login)} REPLICATION")

    def fill(self, sql: Session, rows: int) -> None:
        sql.run(DATA)
        sql.run(
            "INSERT INTO items SELECT i, 'item ' || i, (i % 10000) / 100.0, now() - i * interval '1 minute' "
            f"FROM generate_series(1, {rows}) AS i"
        )
        sql.run("SELECT setval('invoice_numbers', 4711)")

    def make_tables(self, sql: Session, writers: int) -> None:
        sql.run(TABLES)
        sql.run(f"INSERT INTO counters (writer) SELECT generate_series(0, {writers - 1})")

    def write(self, kind: str, row: str, writer: int, sequence: int) -> str:
        return (
            f"{'BEGIN READ WRITE' if kind == 'read-write' else 'BEGIN'}; "
            "INSERT INTO ledger (id, writer, seq, at, via) VALUES "
            f"('{row}', {writer}, {sequence}, clock_timestamp(), '{kind}'); "
            f"UPDATE counters SET n = n + 1 WHERE writer = {writer}"
        )

    def write_late(self, row: str, writer: int) -> str:
        return (
            "INSERT INTO ledger (id, writer, seq, at, via) "
            f"VALUES ('{row}', {writer}, 0, clock_timestamp(), '{LATE}'); "
            f"INSERT INTO counters AS c (writer, n) VALUES ({writer}, 1) ON CONFLICT (writer) DO UPDATE SET n = c.n + 1"
        )

    def distrust_indexes(self, sql: Session) -> None:
        sql.run("SET enable_indexscan = off; SET enable_indexonlyscan = off; SET enable_bitmapscan = off")

    def takes_writes(self, sql: Session) -> bool:
        return bool(sql.run("SHOW transaction_read_only") == [["off"]])

    def followed_by(self, admin: Session) -> list[str]:
        found = admin.run(
            "SELECT 'publication ' || pubname FROM pg_publication UNION SELECT 'subscription ' || subname "
            "FROM pg_subscription UNION SELECT 'slot ' || slot_name FROM pg_replication_slots "
            "WHERE slot_type = 'logical' ORDER BY 1"
        )
        return [name for (name,) in found]

    def all_databases(self, admin: Session) -> list[str]:
        return [name for (name,) in admin.run("SELECT datname FROM pg_database ORDER BY datname")]


DIALECT = Postgres()
