"""The customer of a MariaDB database."""

import socket
import ssl
from collections.abc import Mapping, Sequence
from typing import Any

import pymysql
from pymysql.constants import CLIENT, ER

from sandbox.demo.connection import ANSWER_SECONDS, CONNECT_SECONDS, Endpoint, Login
from sandbox.demo.dialects import Session

# Not ALL: to that belongs DELETE HISTORY, which RDS's master user may not give on.
ALL_THAT_THE_MASTER_HAS = (
    "SELECT, INSERT, UPDATE, DELETE, CREATE, DROP, REFERENCES, INDEX, ALTER, CREATE TEMPORARY TABLES, LOCK TABLES, "
    "EXECUTE, CREATE VIEW, SHOW VIEW, CREATE ROUTINE, ALTER ROUTINE, EVENT, TRIGGER"
)

CLIENTS_OWN_ERRORS = range(2000, 3000)

DATA = """
CREATE TABLE items (
    id BIGINT PRIMARY KEY, name TEXT NOT NULL, price DECIMAL(10, 2) NOT NULL, placed_at DATETIME NOT NULL
);
CREATE TABLE invoices (number BIGINT PRIMARY KEY AUTO_INCREMENT) AUTO_INCREMENT = 4712
"""

# ``number`` is the server's: two servers that give it out at a time give one twice.
TABLES = """
CREATE TABLE ledger (
    id UUID PRIMARY KEY, number BIGINT NOT NULL AUTO_INCREMENT UNIQUE, writer INT NOT NULL, seq BIGINT NOT NULL,
    at DATETIME(6) NOT NULL, via TEXT NOT NULL
);
CREATE TABLE counters (writer INT PRIMARY KEY, n BIGINT NOT NULL DEFAULT 0)
"""


def quoted(name: str) -> str:
    """Any name as an SQL identifier."""
    return "`" + name.replace("`", "``") + "`"


def literal(value: str) -> str:
    """Any text as an SQL string."""
    return "'" + value.replace("\\", "\\\\").replace("'", "''") + "'"


class Mariadb:
    engine = "mariadb"
    port = 3306
    databases = ("orders", "Größen `Süd` & O'Neil")
    # What is no number to the server must not become one.
    settings: Mapping[str, str] = {"sql_mode": "STRICT_ALL_TABLES,NO_ZERO_DATE"}
    settings_to_follow: Mapping[str, str] = {"binlog_format": "ROW"}
    own_databases = frozenset({"information_schema", "mysql", "performance_schema", "sys"})
    duplicate_key = str(ER.DUP_ENTRY)
    errors = (OSError, pymysql.MySQLError)
    takes_login = True
    names_database = True
    has_latecomers = False

    def connect(
        self,
        endpoint: Endpoint,
        database: str | None,
        login: Login,
        trust: ssl.SSLContext,
        *,
        kind: str = "plain",
        answer_seconds: float = ANSWER_SECONDS,
    ) -> "Connection":
        raw = socket.create_connection((endpoint.address, endpoint.port), CONNECT_SECONDS)
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        made: pymysql.Connection[Any] = pymysql.Connection(
            host=endpoint.name, user=login.user, password=login.password, database=database, ssl=trust,
            charset="utf8mb4", autocommit=True, client_flag=CLIENT.MULTI_STATEMENTS, defer_connect=True,
            read_timeout=answer_seconds, write_timeout=answer_seconds,
            # As a fence that only asks is undone by a client.
            init_command="SET SESSION tx_read_only = OFF" if kind == "option-off" else None,
        )  # fmt: skip
        try:
            made.connect(raw)
        except BaseException:
            raw.close()
            raise
        return Connection(made)

    def code(self, error: BaseException) -> str | None:
        number = error.args[0] if isinstance(error, pymysql.MySQLError) and error.args else None
        return str(number) if isinstance(number, int) and number and number not in CLIENTS_OWN_ERRORS else None

    def admit(self, admin: Session, databases: Sequence[str], app: Login, master: str) -> None:
        account = f"{literal(app.user)}@'%'"
        admin.run(f"CREATE USER {account} IDENTIFIED BY {literal(app.password)}")
        for name in databases:
            admin.run(f"CREATE DATABASE IF NOT EXISTS {quoted(name)}")
            # In a grant's name of a database % and _ stand for others.
            pattern = name.replace("\\", "\\\\").replace("_", "\\_").replace("%", "\\%")
            admin.run(f"GRANT {ALL_THAT_THE_MASTER_HAS} ON {quoted(pattern)}.* TO {account}")

    def let_follow(self, admin: Session, login: str, owner: str) -> None:
        # The source's server knows the copy by the same login with which RDS's procedures are called.
        admin.run(f"GRANT REPLICATION SLAVE, BINLOG MONITOR, EXECUTE ON *.* TO {literal(login)}@'%'")

    def fill(self, sql: Session, rows: int) -> None:
        sql.run(DATA)
        sql.run(
            "INSERT INTO items SELECT seq, CONCAT('item ', seq), (seq % 10000) / 100.0, NOW() - INTERVAL seq MINUTE "
            f"FROM seq_1_to_{rows}"
        )

    def make_tables(self, sql: Session, writers: int) -> None:
        sql.run(TABLES)
        sql.run(f"INSERT INTO counters (writer) SELECT seq FROM seq_0_to_{writers - 1}")

    def write(self, kind: str, row: str, writer: int, sequence: int) -> str:
        return (
            f"START TRANSACTION{' READ WRITE' if kind == 'read-write' else ''}; "
            "INSERT INTO ledger (id, writer, seq, at, via) VALUES "
            f"('{row}', {writer}, {sequence}, NOW(6), '{kind}'); "
            f"UPDATE counters SET n = n + 1 WHERE writer = {writer}"
        )

    def write_late(self, row: str, writer: int) -> str:
        raise NotImplementedError

    def distrust_indexes(self, sql: Session) -> None:
        """A table of InnoDB is its primary key; there is nothing else to read."""

    def takes_writes(self, sql: Session) -> bool:
        return bool(sql.run("SELECT @@global.read_only") == [(0,)])

    def followed_by(self, admin: Session) -> list[str]:
        kept = admin.run("SELECT value FROM mysql.rds_configuration WHERE name = 'binlog retention hours'")
        return [
            # Set up, whether it runs or not.
            *(f"replication from {host}" for _, _, _, host, *_ in admin.run("SHOW ALL SLAVES STATUS")),
            *(f"binary logs for {hours} hours" for (hours,) in kept if hours is not None),
        ]

    def all_databases(self, admin: Session) -> list[str]:
        return sorted(name for (name,) in admin.run("SHOW DATABASES"))


class Connection:
    """A session, spoken to as one of PostgreSQL's driver is."""

    def __init__(self, made: "pymysql.Connection[Any]") -> None:
        self._made = made

    def run(self, statement: str) -> list[tuple[Any, ...]]:
        with self._made.cursor() as cursor:
            cursor.execute(statement)
            rows = cursor.fetchall()
            while cursor.nextset():
                rows = cursor.fetchall()
        return list(rows)

    def close(self) -> None:
        self._made.close()


DIALECT = Mariadb()
