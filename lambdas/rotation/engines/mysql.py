"""MariaDB: locked accounts, a global read lock while sessions end, GTID positions, decision row.

A fence here closes accounts, not databases. ``ACCOUNT LOCK`` keeps everybody out who is not in yet, and replicates, so
that the target is born fenced. Whoever is in is ended while ``BACKUP STAGE BLOCK_COMMIT`` stands: no commit can be
under way then, so none is cut off between its effect and its answer, and no client has reason to write anything twice.
The proof that nobody is left is the process list: MariaDB enters a client's name there before it looks at the account,
so whoever is not in the list by name after the lock meets it.

What a locked account cannot stop is refused by `limitations`: events, which run without a session, prepared
transactions, and a replication from elsewhere. Everything is done from the control database, under an account that only
the rotation uses.
"""

import ssl
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import pymysql
from pymysql.connections import Connection
from pymysql.err import MySQLError, OperationalError

from lambdas.rotation.engines.refusals import CONTROL_DATABASE_TAKEN, suppress_states
from lambdas.rotation.engines.replication_filters import leaves_out
from lambdas.rotation.errors import (
    DatabaseUnreachable,
    DecisionLost,
    FenceIncomplete,
    LoginRefused,
    NameTaken,
    RotationError,
    SqlRefused,
)
from lambdas.rotation.names import CONTROL_DATABASE
from lambdas.rotation.ports import Clock, ControlView, Lag
from lambdas.rotation.state import Database, DatabaseFence, Finding, Position, Verdict

OURS = "made by rds-key-rotation"
"""The comment of the control database: without it an existing database of that name is somebody else's."""

_SERVERS = ("mariadb.sys", "mysql.sys", "mysql.session", "mysql.infoschema")
INTERNAL_USERS = ("rdsadmin", "rdsrepladmin", *_SERVERS)
"""RDS's own and the server's; none of them is an application's, and the replica needs one of them.

Not ``root``: on RDS that is nobody's, or the name that somebody has given to the master user.
"""
_OF_NO_ACCOUNT = ("system user", "event_scheduler", "unauthenticated user")
"""What the list of sessions calls threads of the server's own, and who has yet to say who he is."""
INTERNAL_DATABASES = ("mysql", "sys", "information_schema", "performance_schema", CONTROL_DATABASE)

_STORED_NOWHERE = ("VIEW", "SYSTEM VIEW", "TEMPORARY")
"""Types of a table, of which MariaDB has more than BASE TABLE: SYSTEM VERSIONED, and SEQUENCE, have content, too."""

STATEMENT_SECONDS = 10
SESSION = (
    "SET SESSION autocommit = 1, sql_mode = 'STRICT_ALL_TABLES', lock_wait_timeout = 2, innodb_lock_wait_timeout = 2, "
    "max_statement_time = %(seconds)s, wait_timeout = 60"
)
TURN_SECONDS = 5
"""A fence and a decision of the same server take turns; each of them takes milliseconds."""
ACCOUNTS_AT_A_TIME = 50
"""In one statement, which may take STATEMENT_SECONDS."""
REFUSAL_SECONDS = 2
"""Longer than a client takes that is refused, or was killed, to be off the list."""
LONG_TRANSACTION_SECONDS = 60

PRIVILEGES = ("CREATE USER", "PROCESS", "SELECT", "INSERT", "UPDATE", "CREATE", "DROP", "REPLICA MONITOR", "EXECUTE")
_OTHER_NAMES = {"SLAVE MONITOR": "REPLICA MONITOR"}

# is_role: MariaDB keeps roles, which nobody logs in as, in the same table.
_ACCOUNTS = """
SELECT CONCAT(user, '@', host), COALESCE(JSON_VALUE(priv, '$.account_locked'), 0) = 1
FROM mysql.global_priv
WHERE COALESCE(JSON_VALUE(priv, '$.is_role'), 0) <> 1 AND user NOT IN %(internal)s
  AND CONCAT(user, '@', host) <> CURRENT_USER()
ORDER BY 1
"""
# Of such a name the fence would take sessions for the server's. Its own accounts are of localhost.
_ACCOUNTS_IN_DISGUISE = """
SELECT CONCAT(user, '@', host) FROM mysql.global_priv
WHERE user IN %(of_no_account)s OR user IN %(servers)s AND host <> 'localhost' ORDER BY 1
"""
_SESSIONS = """
SELECT id, COALESCE(user, ''), command, user = SUBSTRING_INDEX(CURRENT_USER(), '@', 1)
FROM information_schema.processlist WHERE id <> CONNECTION_ID() AND user NOT IN %(internal)s
  AND user NOT IN %(of_no_account)s
  AND NOT (user = SUBSTRING_INDEX(CURRENT_USER(), '@', 1)
           AND COALESCE(IS_USED_LOCK(CONCAT('rds-key-rotation session ', id)), 0) = id)
  AND command NOT LIKE 'Binlog Dump%%'
"""
_COMES_OR_GOES = ("Connect", "Killed", "Busy")
"""Commands of who has no session, or none any more; Busy is one that changes while it is looked at."""
NOT_THERE = ("1046", "1049", "1146")  # no database selected, no such database, no such table
GONE = "1094"  # unknown thread id: it has ended by itself
_NO_RIGHT = (1044, 1045, 1141, 1142, 1143, 1227, 1370, 1698, 3118, 4151)
_PASSING = (1040, 1053, 1203, 1205, 1213, 1317, 1927, 1969, 2003, 2006, 2013, 2055)
"""No connection, too many of them, shutdown, lock waits, killed, timed out, gone."""

Row = tuple[Any, ...]


class MariadbEngine:
    """`ports.Engine` for one MariaDB server, as a login without SUPER."""

    PRIVILEGES: tuple[str, ...] = PRIVILEGES
    LOG_FORMATS: tuple[str, ...] = ("ROW", "MIXED")
    REPLAYED = "SELECT @@global.gtid_current_pos"

    def __init__(self, database: Database, login: tuple[str, str], *, ca_bundle: str, clock: Clock) -> None:
        self._database = database
        self._user, self._password = login
        self._ca_bundle = ca_bundle
        self._clock = clock
        self._kept: Connection[Any] | None = None

    # -- what forbids a rotation --

    def login_limitations(self) -> Sequence[Finding]:
        with self._session(in_control=False) as sql:
            [[account]] = sql.rows("SELECT CURRENT_USER()")
            held = {
                _OTHER_NAMES.get(privilege, privilege)
                for (privilege,) in sql.rows(
                    "SELECT privilege_type FROM information_schema.user_privileges WHERE grantee = %(grantee)s",
                    grantee="'{}'@'{}'".format(*_user_and_host(account)),
                )
            }
        missing = [privilege for privilege in self.PRIVILEGES if privilege not in held]
        return [
            Finding(
                name="MissingRight",
                message=f"the login {account} lacks {privilege}",
                advice=f"run: GRANT {privilege} ON *.* TO {account_sql(account)}",
            )
            for privilege in missing
        ]

    def limitations(self, accept: Sequence[str]) -> Sequence[Finding]:
        with self._session() as sql:
            findings = [*_prepared_transactions(sql), *_events(sql), *_fed_from_elsewhere(sql), *_durability(sql)]
            formats, of_tables = self._by_tables(sql)
            findings += [*_replication_settings(sql, formats), *of_tables]
            if "memory-tables" not in accept:
                findings += _memory_tables(sql)
            if disguised := sql.rows(_ACCOUNTS_IN_DISGUISE, of_no_account=_OF_NO_ACCOUNT, servers=_SERVERS):
                findings.append(
                    Finding(
                        name="AccountsInDisguise",
                        message=f"{', '.join(account for (account,) in disguised)}: what the server does itself is "
                        "called so, and a fence leaves that alone",
                        advice="rename such accounts (RENAME USER), or drop them",
                    )
                )
            if shared := _staying(sql, self._clock, only_own=True):
                findings.append(
                    Finding(
                        name="LoginShared",
                        message=f"{len(shared)} session(s) of {self._user} are not the rotation's; its account stays "
                        "open",
                        advice="give the rotation an account of its own in key-rotation:login-secret",
                    )
                )
            if self._control_state(sql) == "foreign":
                findings.append(CONTROL_DATABASE_TAKEN)
        return findings

    def _by_tables(self, sql: "Session") -> tuple[Sequence[str], Sequence[Finding]]:
        """By the engines of its tables: log formats that will do, and what stands in the way."""
        return self.LOG_FORMATS, ()

    def logical_slots(self) -> Mapping[str, str]:
        return {}  # a binary log is everybody's

    def warnings(self) -> Sequence[Finding]:
        with self._session() as sql:
            long = sql.rows(
                "SELECT trx_mysql_thread_id, TIMESTAMPDIFF(SECOND, trx_started, NOW()) "
                "FROM information_schema.innodb_trx "
                "WHERE trx_started < NOW() - INTERVAL %(seconds)s SECOND ORDER BY trx_started",
                seconds=LONG_TRANSACTION_SECONDS,
            )
            apart = tables_apart(sql, besides=("InnoDB", "MEMORY"))
        return [
            *(
                Finding(
                    name="LongTransaction",
                    message=f"the transaction of connection {thread} is open for {seconds} s",
                    advice="the fence ends it; let it finish, or start the rotation at another time",
                )
                for thread, seconds in long
            ),
            *(
                Finding(
                    name="NoTransactions",
                    message=f"{count} table(s) of engine {engine} in {schema} know no transactions",
                    advice="a statement that the fence ends may have been half done, and a snapshot may have them "
                    "damaged; make them InnoDB",
                )
                for schema, engine, count in apart
            ),
        ]

    # -- the control database --

    def ensure_control_database(self) -> None:
        """Make it, or finish making it. Adopts only what a rotation has made.

        Raises:
            NameTaken: terminal; a database of that name is somebody else's.
        """
        with self._session() as sql:
            if self._control_state(sql) == "foreign":
                raise NameTaken(f"a database {CONTROL_DATABASE} exists that no rotation made")
            name = quoted(CONTROL_DATABASE)
            # One statement makes it ours, so an attempt that dies after it has nothing left to be told apart by.
            sql.run(f"CREATE DATABASE IF NOT EXISTS {name} COMMENT %(ours)s", ours=OURS)
            sql.run(f"USE {name}")
            # Each of them InnoDB, whatever is the default: a verdict that a crash undid would open the other side, too.
            sql.run(
                "CREATE TABLE IF NOT EXISTS marker (token VARCHAR(100) PRIMARY KEY, marks INT NOT NULL) ENGINE = InnoDB"
            )
            sql.run(
                "CREATE TABLE IF NOT EXISTS identity (only_one INT PRIMARY KEY, uuid VARCHAR(36) NOT NULL) "
                "ENGINE = InnoDB"
            )
            sql.run("INSERT IGNORE INTO identity VALUES (1, UUID())")
            sql.run(
                "CREATE TABLE IF NOT EXISTS decision (rotation_id VARCHAR(100) PRIMARY KEY, "
                "verdict ENUM('release', 'rollback') NOT NULL, decided_at TIMESTAMP(6) DEFAULT CURRENT_TIMESTAMP(6)) "
                "ENGINE = InnoDB"
            )
            sql.run(
                "CREATE TABLE IF NOT EXISTS claim "
                "(only_one INT PRIMARY KEY, rotation_id VARCHAR(100) NOT NULL, resource_id VARCHAR(100) NOT NULL) "
                "ENGINE = InnoDB"
            )

    def claim(self, rotation_id: str, instead_of: str = "") -> str:
        with self._control_session() as sql:
            here = self._database.resource_id
            sql.run("INSERT IGNORE INTO claim VALUES (1, %(own)s, %(here)s)", own=rotation_id, here=here)
            # One statement: of two at the same time the second one waits for the first, and finds another holder.
            # By the key, for servers in safe update mode.
            sql.run(
                "UPDATE claim SET rotation_id = %(own)s, resource_id = %(here)s "
                "WHERE only_one = 1 AND (rotation_id = %(over)s OR resource_id <> %(here)s)",
                own=rotation_id,
                over=instead_of,
                here=here,
            )
            return str(sql.value("SELECT rotation_id FROM claim"))

    def drop_control_database(self, rotation_id: str) -> None:
        self._disconnect()
        with self._session() as sql:
            if self._control_state(sql) == "ours" and self._holder(sql) in (None, rotation_id):
                sql.run(f"DROP DATABASE IF EXISTS {quoted(CONTROL_DATABASE)}")

    def _holder(self, sql: "Session") -> str | None:
        """Of the claim on this server, or None."""
        claimed = "SELECT rotation_id FROM claim WHERE resource_id = %(here)s"
        with suppress_states(*NOT_THERE):
            return next((holder for (holder,) in sql.rows(claimed, here=self._database.resource_id)), None)
        return None

    def _control_state(self, sql: "Session") -> str:
        """absent, ours or foreign."""
        rows = sql.rows(
            "SELECT schema_comment FROM information_schema.schemata WHERE schema_name = %(name)s", name=CONTROL_DATABASE
        )
        if not rows:
            return "absent"
        return "ours" if rows[0][0] == OURS else "foreign"

    # -- the fence --

    def databases_with_superuser_sessions(self) -> Sequence[str]:
        return ()  # an account's lock asks nobody who is in

    def plan_fence(
        self, superuser_databases: Sequence[str], besides: Sequence[DatabaseFence] = ()
    ) -> tuple[DatabaseFence, ...]:
        with self._control_session() as sql:
            return _fence_of(sql, besides)

    def expected_fence(self) -> tuple[DatabaseFence, ...]:
        with self._session(in_control=False) as sql:
            return _fence_of(sql, ())

    def raise_fence(self, rotation_id: str, databases: Sequence[DatabaseFence], within_seconds: float) -> None:
        with self._control_session() as sql:
            with turn(sql):
                if (standing := verdict_of(sql, rotation_id)) is not None:
                    raise DecisionLost(f"'{standing}' stands for rotation {rotation_id}; no fence is due")
                for some in _not_yet(sql, databases, locked=True):
                    sql.run(f"ALTER USER IF EXISTS {accounts_sql(some)} ACCOUNT LOCK")
            deadline = self._clock.monotonic() + within_seconds
            # They never end by themselves, so there is nothing to wait for while applications stand still.
            for prepared in _prepared_transactions(sql):
                raise FenceIncomplete(prepared.message)
            self._end_sessions(sql, deadline)
            # Now that nobody can enable an event or prepare a transaction: at an earlier look somebody still could.
            for outlasts in (*_events(sql), *_prepared_transactions(sql)):
                raise FenceIncomplete(outlasts.message)

    def _end_sessions(self, sql: "Session", deadline: float) -> None:
        """Until the list was empty twice: whoever it shows has passed its account's lock, or is about to meet it."""
        empty = 0
        while empty < 2:
            with _no_commits(sql):
                met = _sessions(sql)
                for thread, *_ in met:
                    with suppress_states(GONE):
                        sql.run("CALL mysql.rds_kill(%(thread)s)", thread=thread)
                # Before commits may go on: who waits with one, and has been killed, must have given it up.
                while met and _sessions(sql) and self._clock.monotonic() < deadline:
                    self._clock.pause(0.01)
            empty = 0 if met else empty + 1
            if empty < 2 and self._clock.monotonic() >= deadline:
                raise FenceIncomplete(
                    f"sessions that do not end: {_listed(_sessions(sql)) or 'one comes after another'}"
                )

    def fence_breach(self, databases: Sequence[DatabaseFence]) -> str | None:
        with self._control_session() as sql:
            return _breach(sql, databases, self._clock)

    # -- position, marker, replication --

    def mark(self, token: str) -> Position:
        with self._control_session() as sql:
            # Each mark is a commit of its own, which a replica can be seen to replay.
            sql.run("INSERT INTO marker VALUES (%(token)s, 1) ON DUPLICATE KEY UPDATE marks = marks + 1", token=token)
            # A GTID is given in the order of the binary log: it lies after this commit and after every one before it.
            return Position(sql.value("SELECT @@global.gtid_binlog_pos"))

    def replayed(self) -> Position:
        with self._control_session() as sql:
            return Position(sql.value(self.REPLAYED))

    def has_replayed(self, position: Position) -> bool:
        with self._control_session() as sql:
            reached = _by_domain(sql.value(self.REPLAYED))
        return all(reached.get(domain, -1) >= sequence for domain, sequence in _by_domain(position).items())

    def shows_marker(self, token: str) -> bool:
        with suppress_states(*NOT_THERE), self._control_session() as sql:
            return _marked(sql, token)
        return False  # a target that has not yet replayed the making of the control database

    def is_replica(self) -> bool:
        with self._control_session() as sql:
            return bool(sql.named("SHOW ALL SLAVES STATUS"))

    def lag(self) -> Lag:
        with self._control_session() as sql:
            channels = sql.named("SHOW ALL SLAVES STATUS")
        if not channels:
            return Lag(bytes=None, seconds=None, streaming=False)
        [channel] = channels[:1]
        same_file = channel["Master_Log_File"] == channel["Relay_Master_Log_File"]
        behind = int(channel["Read_Master_Log_Pos"]) - int(channel["Exec_Master_Log_Pos"])
        return Lag(
            # Across files of the source the positions say nothing; what has been received and not deleted is the most.
            bytes=behind if same_file else int(channel["Relay_Log_Space"]),
            seconds=None if channel["Seconds_Behind_Master"] is None else float(channel["Seconds_Behind_Master"]),
            streaming=len(channels) == 1
            and (channel["Slave_IO_Running"], channel["Slave_SQL_Running"]) == ("Yes", "Yes"),
        )

    # -- the decision --

    def control_view(self, rotation_id: str, databases: Sequence[DatabaseFence]) -> ControlView:
        with self._control_session() as sql:
            names = sql.rows("SELECT schema_name FROM information_schema.schemata ORDER BY 1")
            accounts = sql.rows("SELECT CONCAT(user, '@', host) FROM mysql.global_priv ORDER BY 1")
            return ControlView(
                # Of a replica's own there is nothing that it shares with its source: this row it has got from there.
                system_identifier=sql.value("SELECT uuid FROM identity"),
                in_recovery=bool(sql.named("SHOW ALL SLAVES STATUS")),
                position=Position(sql.value(self.REPLAYED)),
                marker_seen=_marked(sql, rotation_id),
                databases=tuple(name for (name,) in names),
                roles=tuple(account for (account,) in accounts),
                fence_breach=_breach(sql, databases, self._clock),
            )

    def decide(self, rotation_id: str, verdict: Verdict, reopen: Sequence[DatabaseFence]) -> Verdict:
        """The row first, the accounts after it, some at a time: DDL knows no transaction here. All is repeatable."""
        with self._control_session() as sql, turn(sql):
            sql.run(
                "INSERT IGNORE INTO decision (rotation_id, verdict) VALUES (%(rotation_id)s, %(verdict)s)",
                rotation_id=rotation_id,
                verdict=verdict,
            )
            standing = verdict_of(sql, rotation_id)
            assert standing is not None
            if standing == verdict:
                for some in _not_yet(sql, reopen, locked=False):
                    sql.run(f"ALTER USER IF EXISTS {accounts_sql(some)} ACCOUNT UNLOCK")
        return standing

    def verdict(self, rotation_id: str) -> Verdict | None:
        with suppress_states(*NOT_THERE), self._control_session() as sql:
            return verdict_of(sql, rotation_id)
        return None

    # -- after the release --

    def inspect(self) -> Mapping[str, Any]:
        """Per database the number of its relations; per account that may log in, that it may."""
        with self._control_session() as sql:
            relations = sql.rows(
                "SELECT table_schema, COUNT(*) FROM information_schema.tables WHERE table_schema NOT IN %(internal)s "
                "GROUP BY table_schema ORDER BY 1",
                internal=INTERNAL_DATABASES,
            )
            accounts = accounts_of(sql)
        return {name: {"relations": count} for name, count in relations} | {
            account: {"locked": False} for account, locked in accounts if not locked
        }

    # -- sessions --

    @contextmanager
    def _control_session(self) -> Iterator["Session"]:
        """The one session that is kept open: a poll in the write outage must not connect each time."""
        if self._kept is None:
            self._kept = self._connect()
        try:
            yield Session(self._kept)
        except RotationError:
            self._disconnect()  # whatever state it is in, the next call gets a new one
            raise

    @contextmanager
    def _session(self, *, in_control: bool = True) -> Iterator["Session"]:
        connection = self._connect(in_control=in_control)
        try:
            yield Session(connection)
        finally:
            _close_quietly(connection)

    def _connect(self, *, in_control: bool = True) -> "Connection[Any]":
        """In the control database, if there is one. Raises: DatabaseUnreachable, LoginRefused, SqlRefused."""
        where = f"{self._database.identifier} ({self._database.address}:{self._database.port})"
        try:
            connection: Connection[Any] = pymysql.connect(
                host=self._database.address,
                port=self._database.port,
                user=self._user,
                password=self._password,
                ssl=ssl.create_default_context(cafile=self._ca_bundle),  # verifies chain and name, without exception
                charset="utf8mb4",
                connect_timeout=10,
                read_timeout=STATEMENT_SECONDS + 2,  # the server's own timeout comes first
                write_timeout=STATEMENT_SECONDS + 2,
                program_name="rds-key-rotation",
                local_infile=False,
            )
        except OperationalError as error:
            raise _meaning(error, f"no connection to {where}") from None
        except (MySQLError, OSError, UnicodeError) as error:
            raise DatabaseUnreachable(f"no connection to {where}: {error}") from None
        session = Session(connection)
        try:
            session.run(SESSION, seconds=STATEMENT_SECONDS)
            # By this the rotation's own sessions are told from an application's under the same account.
            session.run("DO GET_LOCK(CONCAT('rds-key-rotation session ', CONNECTION_ID()), 0)")
            if in_control:
                with suppress_states(*NOT_THERE):
                    session.run(f"USE {quoted(CONTROL_DATABASE)}")
        except BaseException:
            _close_quietly(connection)
            raise
        return connection

    def _disconnect(self) -> None:
        if self._kept is not None:
            _close_quietly(self._kept)
            self._kept = None


class Session:
    """Statements on one connection. Errors carry the server's words, never a statement or its parameters."""

    def __init__(self, connection: "Connection[Any]") -> None:
        self._connection = connection

    def rows(self, statement: str, **parameters: Any) -> list[Row]:
        return self._ask(pymysql.cursors.Cursor, statement, parameters)

    def named(self, statement: str) -> list[dict[str, Any]]:
        """Rows by the names of their columns, which SHOW adds to from version to version."""
        return self._ask(pymysql.cursors.DictCursor, statement, {})

    def run(self, statement: str, **parameters: Any) -> None:
        self.rows(statement, **parameters)

    def value(self, statement: str, **parameters: Any) -> Any:
        [[value]] = self.rows(statement, **parameters)
        return value

    def _ask(self, kind: Any, statement: str, parameters: Mapping[str, Any]) -> list[Any]:
        try:
            with self._connection.cursor(kind) as cursor:
                cursor.execute(statement, dict(parameters) or None)
                return list(cursor.fetchall())
        except MySQLError as error:
            raise _meaning(error, "the database refused") from None
        except OSError as error:
            raise DatabaseUnreachable(f"the connection ended: {error}") from None


def quoted(identifier: str) -> str:
    """An SQL identifier, whatever is in it.

    >>> print(quoted('Käufe `neu`'))
    `Käufe ``neu```
    """
    return "`" + identifier.replace("`", "``") + "`"


def account_sql(name: str) -> str:
    """``user@host`` as SQL; a user may have an @ in it, a host may not.

    >>> print(account_sql("o`hara@home@10.0.%"))
    `o``hara@home`@`10.0.%`
    """
    return "@".join(quoted(part) for part in _user_and_host(name))


def accounts_sql(names: Iterable[str]) -> str:
    """Several of them.

    >>> print(accounts_sql(["app@%", "`, x@%"]))
    `app`@`%`, ```, x`@`%`
    """
    return ", ".join(account_sql(name) for name in names)


def _user_and_host(account: str) -> tuple[str, str]:
    user, _, host = account.rpartition("@")
    return user, host


@contextmanager
def turn(sql: Session) -> Iterator[None]:
    """One at a time on this server: a fence that comes late sees the verdict, and closes nothing that was opened."""
    if sql.value("SELECT GET_LOCK('rds-key-rotation', %(seconds)s)", seconds=TURN_SECONDS) != 1:
        raise DatabaseUnreachable("another function of a rotation is at work on this server")
    try:
        yield
    finally:
        with suppress(RotationError):
            sql.run("DO RELEASE_LOCK('rds-key-rotation')")


@contextmanager
def _no_commits(sql: Session) -> Iterator[None]:
    """No commit is under way, and none can begin: what is ended meanwhile is not cut off from its answer.

    Not FLUSH TABLES WITH READ LOCK, which RDS excepts from RELOAD. Where this is refused as well, or a backup or a long
    statement is in the way, sessions are ended without it: a client may then not know whether its last commit was done.
    """
    with suppress(DatabaseUnreachable, LoginRefused, SqlRefused):
        sql.run("BACKUP STAGE START")
        sql.run("BACKUP STAGE FLUSH")
        sql.run("BACKUP STAGE BLOCK_DDL")
        sql.run("BACKUP STAGE BLOCK_COMMIT")
    try:
        yield
    finally:
        with suppress(RotationError):
            sql.run("BACKUP STAGE END")


def _fence_of(sql: Session, besides: Sequence[DatabaseFence]) -> tuple[DatabaseFence, ...]:
    known = {fence.name for fence in besides}
    # An account that is locked already stays locked: nobody would open it again.
    return tuple(
        DatabaseFence(name=account, kind="account-lock")
        for account, locked in accounts_of(sql)
        if not locked and account not in known
    )


def accounts_of(sql: Session) -> list[tuple[str, bool]]:
    """What a fence closes: every account that is not the server's, RDS's or ours, and whether it is locked."""
    return [(account, bool(locked)) for account, locked in sql.rows(_ACCOUNTS, internal=INTERNAL_USERS)]


def _not_yet(sql: Session, fences: Sequence[DatabaseFence], *, locked: bool) -> Iterator[Sequence[str]]:
    """Accounts that are not known to be as they shall be, as many at a time as one statement takes.

    So every attempt gets further than the one before it, however many there are.
    """
    now = dict(accounts_of(sql))
    names = [fence.name for fence in fences if now.get(fence.name) is not locked]
    for at in range(0, len(names), ACCOUNTS_AT_A_TIME):
        yield names[at : at + ACCOUNTS_AT_A_TIME]


def _sessions(sql: Session) -> list[Row]:
    """Whoever is in, or on the way in, and is not the server's, RDS's or the rotation's."""
    return sql.rows(_SESSIONS, internal=INTERNAL_USERS, of_no_account=_OF_NO_ACCOUNT)


def _listed(sessions: Iterable[Row]) -> str:
    return ", ".join(f"{command} of {user} (connection {thread})" for thread, user, command, _ in sessions)


def _staying(sql: Session, clock: Clock, *, only_own: bool = False) -> list[Row]:
    """Sessions, and whoever is on the way in and stays there. Behind a fence only once all accounts were seen locked.

    Who is being refused is on the list for a moment, too, and where many clients connect there is always one. But who
    is not on the first list meets the lock; and of those who were, who is gone has no session. Of our own account
    another function's session may have yet to be marked: an application's stays.
    """
    met = [one for one in _sessions(sql) if not only_own or one[-1]]
    deadline = clock.monotonic() + REFUSAL_SECONDS
    while met and all(own or command in _COMES_OR_GOES for *_, command, own in met) and clock.monotonic() < deadline:
        clock.pause(0.05)
        there = {thread for thread, *_ in met}
        met = [one for one in _sessions(sql) if one[0] in there]
    return met


def _breach(sql: Session, fences: Sequence[DatabaseFence], clock: Clock) -> str | None:
    """Asked of the source, and of a target that is no replica any more."""
    for fed in _fed_from_elsewhere(sql):
        return fed.message
    now = dict(accounts_of(sql))
    fenced = {fence.name for fence in fences}
    for account, locked in now.items():
        if not locked:
            return f"account {account} {'is open' if account in fenced else 'was never locked'}"
    if gone := fenced - set(now):
        return f"account {min(gone)} is gone"
    if met := _staying(sql, clock):
        return _listed(met)
    return None


def gtids(position: str) -> list[tuple[int, int, int]]:
    """Replication domain, server id and sequence number of each.

    >>> gtids("0-17-42,1-17-7"), gtids("")
    ([(0, 17, 42), (1, 17, 7)], [])
    """
    return [
        (int(domain), int(server), int(number))
        for domain, server, number in (gtid.split("-") for gtid in position.split(",") if gtid.strip())
    ]


def _by_domain(position: str) -> dict[int, int]:
    return {domain: number for domain, _, number in gtids(position)}


def _marked(sql: Session, token: str) -> bool:
    return bool(sql.value("SELECT COUNT(*) FROM marker WHERE token = %(token)s", token=token))


def verdict_of(sql: Session, rotation_id: str) -> Verdict | None:
    rows = sql.rows("SELECT verdict FROM decision WHERE rotation_id = %(rotation_id)s", rotation_id=rotation_id)
    verdict: Verdict | None = rows[0][0] if rows else None
    return verdict


def _prepared_transactions(sql: Session) -> Iterator[Finding]:
    if prepared := sql.rows("XA RECOVER"):
        yield Finding(
            name="PreparedTransactions",
            message=f"{len(prepared)} prepared XA transaction(s) would outlast the fence",
            advice="XA COMMIT or XA ROLLBACK those of: XA RECOVER",
        )


def _events(sql: Session) -> Iterator[Finding]:
    if sql.value("SELECT @@global.event_scheduler") in ("OFF", "DISABLED"):
        return
    for schema, name in sql.rows(
        "SELECT db, name FROM mysql.event WHERE status = 'ENABLED' ORDER BY 1, 2"  # of the schema one sees one's own
    ):
        yield Finding(
            name="EventsEnabled",
            message=f"event {schema}.{name} needs no session, so no lock of an account stops its writes",
            advice="disable it, or the scheduler (parameter event_scheduler), and enable it on the target afterwards",
        )


def _fed_from_elsewhere(sql: Session) -> Iterator[Finding]:
    """Also where it stands still: the server starts it again when it is restarted."""
    if channels := sql.named("SHOW ALL SLAVES STATUS"):
        yield Finding(
            name="Subscriptions",
            message=f"it replicates from {len(channels)} other server(s): no lock of an account stops those writes, "
            "and a copy need not go on with them",
            advice="end that (mysql.rds_reset_external_master), and begin it on the target after the cutover",
        )


def _durability(sql: Session) -> Iterator[Finding]:
    """Not of a server without a binary log, which nothing follows by it."""
    if sql.value("SELECT @@global.log_bin AND @@global.sync_binlog <> 1"):
        yield Finding(
            name="NotDurable",
            message="sync_binlog is not 1: after a crash the server may have commits that its binary log lacks, and "
            "give their numbers to others, which a copy that follows the log then passes over",
            advice="set it to 1 in the parameter group",
        )


def tables_apart(sql: Session, besides: Sequence[str]) -> list[Row]:
    """Of each database and each engine but those: how many tables it has."""
    return sql.rows(
        "SELECT table_schema, engine, COUNT(*) FROM information_schema.tables "
        "WHERE table_type NOT IN %(stored_nowhere)s AND engine NOT IN %(besides)s AND table_schema NOT IN %(internal)s "
        "GROUP BY 1, 2 ORDER BY 1, 2",
        stored_nowhere=_STORED_NOWHERE,
        besides=tuple(besides),
        internal=INTERNAL_DATABASES,
    )


def _memory_tables(sql: Session) -> Iterator[Finding]:
    for schema, count in sql.rows(
        "SELECT table_schema, COUNT(*) FROM information_schema.tables WHERE engine = 'MEMORY' AND table_rows > 0 "
        "AND table_schema NOT IN %(internal)s GROUP BY table_schema ORDER BY 1",
        internal=INTERNAL_DATABASES,
    ):
        yield Finding(
            name="MemoryTables",
            message=f"{count} MEMORY table(s) with content in {schema}: empty on the target",
            advice='ALTER TABLE … ENGINE=InnoDB, or accept it: "Accept": ["memory-tables"]',
        )


def _replication_settings(sql: Session, formats: Sequence[str]) -> Iterator[Finding]:
    if (log_format := sql.value("SELECT @@global.binlog_format")) not in formats:
        yield Finding(
            name="StatementReplication",
            message=f"binlog_format is {log_format}: a target need not end up with the same rows",
            advice=f"set it to {' or '.join(formats)} in the parameter group; sessions have it when they connect anew",
        )
    if sql.value("SELECT @@global.slave_run_triggers_for_rbr") == "ENFORCE":
        yield Finding(
            name="TriggersRunTwice",
            message="slave_run_triggers_for_rbr is ENFORCE: a target would do what a trigger does, and once more what "
            "it did at the source",
            advice="set it to NO in the parameter group",
        )
    if (skipped := sql.value("SELECT @@global.slave_skip_errors")) != "OFF":
        yield Finding(
            name="ReplicationErrorsSkipped",
            message=f"slave_skip_errors is {skipped}: a replica would go on without what it cannot apply",
            advice="set it to OFF in the parameter group",
        )
    filters = [
        name for name, value in sql.rows("SHOW GLOBAL VARIABLES LIKE 'replicate\\_%%'") if leaves_out(name, value or "")
    ]
    if filters:
        yield Finding(
            name="ReplicationFilters",
            message=f"a replica would leave out what {', '.join(filters)} says",
            advice="remove the filters from the parameter group",
        )


def _meaning(error: MySQLError, what: str) -> RotationError:
    """What a refusal means to the state machine; ``state`` of a `SqlRefused` is MariaDB's error number."""
    code = int(error.args[0]) if error.args and isinstance(error.args[0], int) else 0
    said = str(error.args[1]) if len(error.args) > 1 else str(error)
    if code in _NO_RIGHT:
        return LoginRefused(f"{said} ({code})")
    if code in _PASSING or code == 0:  # without a number it is the driver's: the stream ended, or is out of order
        return DatabaseUnreachable(f"{what}: {said} ({code})")
    return SqlRefused(str(code), said)


def _close_quietly(connection: "Connection[Any]") -> None:
    with suppress(MySQLError, OSError):
        connection.close()
