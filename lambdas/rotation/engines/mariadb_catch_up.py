"""MariaDB, where a restored copy catches up with its source by its binary log (ADR 18).

The volume that was copied has the source's binary log on it, and a server that recovers brings log and data to one
state. So the copy itself names the last transaction of the source that it has: by the source's server id, which none of
its own transactions carries. From there on it replicates, all of it: rows, schemas, accounts, numbers that are given
once. Nothing has to be carried; and what the fence locks at the source is locked at the copy.

Rows come as rows, schema changes as statements. So one thing has to be compared: whether such a statement has let each
server make values of its own for rows that were there.

What a source unlocks would be unlocked there, too. So the copy is closed by something that does not replicate, as no
source changes it: its accounts may have no session at all, until the copy is released.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from lambdas.rotation.engines.mysql import (
    GONE,
    INTERNAL_DATABASES,
    INTERNAL_USERS,
    NOT_THERE,
    PRIVILEGES,
    MariadbEngine,
    Session,
    account_sql,
    gtids,
    tables_apart,
    turn,
    verdict_of,
)
from lambdas.rotation.engines.refusals import suppress_states
from lambdas.rotation.errors import (
    CatchUpFailed,
    DatabaseUnreachable,
    DecisionLost,
    FenceIncomplete,
    JournalMoved,
    SqlRefused,
    TargetMismatch,
)
from lambdas.rotation.names import named
from lambdas.rotation.ports import CatchUpEngine, Delivery
from lambdas.rotation.state import Database, DatabaseFence, Finding, Position, Verdict

EVERYTHING = "*"
"""A binary log has all of its server's databases in it."""
KEPT_HOURS = 96
"""Longer than a target may take to be made (48 hours) and to come close (24)."""
RETENTION = "binlog retention hours"

_CONTROL_TABLES = (
    # Without a key, so that a row could be there twice.
    "CREATE TABLE IF NOT EXISTS note (rotation_id VARCHAR(100) NOT NULL, note VARCHAR(100) NOT NULL, "
    "left_at TIMESTAMP(6) DEFAULT CURRENT_TIMESTAMP(6)) ENGINE = InnoDB",
    # How long the binary log was kept before a capture began.
    "CREATE TABLE IF NOT EXISTS capture (name VARCHAR(100) PRIMARY KEY, retention VARCHAR(20)) ENGINE = InnoDB",
    # Of each table when a capture began: one row, and one for each column that makes values.
    "CREATE TABLE IF NOT EXISTS had (table_schema VARCHAR(64), table_name VARCHAR(64), column_name VARCHAR(64)) "
    "CHARACTER SET utf8mb4 COLLATE utf8mb4_bin ENGINE = InnoDB",
    # The rest is written on copies only. That replication was once begun, and must not begin there again.
    "CREATE TABLE IF NOT EXISTS begun (name VARCHAR(100) PRIMARY KEY) ENGINE = InnoDB",
    # How many sessions an account might have before the copy was closed; -1 where somebody else had closed it.
    "CREATE TABLE IF NOT EXISTS room (account VARCHAR(400) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin PRIMARY KEY, "
    "sessions INT NOT NULL) ENGINE = InnoDB",
)
_ROOM = """
SELECT CONCAT(user, '@', host), COALESCE(JSON_VALUE(priv, '$.max_user_connections'), 0)
FROM mysql.global_priv
WHERE COALESCE(JSON_VALUE(priv, '$.is_role'), 0) <> 1 AND user NOT IN %(internal)s
  AND CONCAT(user, '@', host) <> CURRENT_USER()
"""
# The rotation for which a server was copied is the one that has left the last note there.
_COPIED_FOR = "SELECT rotation_id FROM note ORDER BY left_at DESC LIMIT 1"
# As `had` has it: a column makes values if what it gives is neither a constant (a string is quoted, an expression is
# not, or begins with a parenthesis) nor the time of the statement, which is replicated. Names may differ by case alone.
_HAS = """
SELECT DISTINCT CONVERT(table_schema USING utf8mb4) COLLATE utf8mb4_bin,
  CONVERT(table_name USING utf8mb4) COLLATE utf8mb4_bin,
  IF(extra LIKE '%%auto_increment%%'
     OR column_default NOT REGEXP '^(''|NULL$|-?[0-9][-+.0-9e]*$|current_timestamp[(][0-6]?[)]$)', column_name, '')
FROM information_schema.columns WHERE table_schema NOT IN %(internal)s
"""
# One that was killed, or is being looked at, has another command until it is gone.
_SENDERS = """
SELECT id FROM information_schema.processlist
WHERE user = %(user)s AND (command LIKE 'Binlog Dump%%' OR command IN ('Killed', 'Busy') AND db IS NULL)
"""
# Of SHOW BINLOG EVENTS.
_TYPE, _SERVER, _INFO = 2, 3, 5
_WHERE = re.compile(r"table_id: \d+ \((?P<rows>.*)\)|use `(?P<statement>(?:[^`]|``)*)`;", re.DOTALL)

_SIGNALLED = "1644"  # RDS's procedures raise their own words so
_LOG_IS_GONE = 1236  # the source no longer has the binary log in which the copy's position lies
_CLOSING_SECONDS = 5.0


class MariadbCatchUp(MariadbEngine):
    """`ports.CatchUpEngine`: the source that captures, or the copy that catches up."""

    PRIVILEGES = (*PRIVILEGES, "REPLICATION SLAVE", "BINLOG MONITOR")
    # A statement may read what a restored copy does not have: temporary tables, say.
    LOG_FORMATS = ("ROW",)
    # Of a copy: what it has written itself has numbers of the same kind.
    REPLAYED = "SELECT @@global.gtid_slave_pos"

    # -- what forbids it --

    def limitations(self, accept: Sequence[str]) -> Sequence[Finding]:
        findings = list(super().limitations([*accept, "memory-tables"]))  # those are refused with others, even empty
        with self._session() as sql:
            findings += [*_of_the_log(sql), *_of_replication(sql), *_tables_apart(sql), *_telltale(sql)]
        return findings

    # -- the source --

    def begin_capture(self, name: str) -> tuple[tuple[str, ...], Position]:
        """From now on the source keeps its binary log. Repeatable."""
        self.ensure_control_database()
        with self._control_session() as sql:
            for statement in _CONTROL_TABLES:
                sql.run(statement)
            # An earlier rotation's, when this server was its copy. Once, before there is another copy: it replicates.
            if _written_down(sql):
                sql.run("TRUNCATE room")
            with turn(sql):
                # One that an earlier rotation could not give back is older than what is set now.
                found = sql.rows("SELECT retention FROM capture")
                earlier = found[0][0] if found else _retention(sql)
                if not sql.rows("SELECT 1 FROM capture WHERE name = %(name)s", name=name):
                    # Before the row that says it was done, and never again: a late delivery would find what came since.
                    sql.run("TRUNCATE had")
                    sql.run(f"INSERT INTO had {_HAS}", internal=INTERNAL_DATABASES)
                sql.run("INSERT IGNORE INTO capture VALUES (%(name)s, %(earlier)s)", name=name, earlier=earlier)
                if earlier is None or int(earlier) < KEPT_HOURS:
                    _keep(sql, str(KEPT_HOURS))
            # Behind a commit of this server's own, so it is there by this server's id.
            return (EVERYTHING,), Position(sql.value("SELECT @@global.gtid_binlog_pos"))

    def leave_a_note(self, rotation_id: str, note: str) -> None:
        with self._control_session() as sql, turn(sql):
            if (note,) not in _notes(sql, rotation_id):
                sql.run(
                    "INSERT INTO note (rotation_id, note) VALUES (%(rotation_id)s, %(note)s)",
                    rotation_id=rotation_id,
                    note=note,
                )

    def begin_behind(self, name: str, database: str, position: Position) -> None:
        """Nothing: whoever connects says from where."""

    def delivery(self, name: str, copy: CatchUpEngine) -> Delivery:
        """Asks the copy; how much lies behind it only the source knows.

        Raises:
            CatchUpFailed: terminal; the copy could not apply a row or a statement.
        """
        assert isinstance(copy, MariadbCatchUp)
        with self._control_session() as sql:
            logs = {log: int(size) for log, size, *_ in sql.rows("SHOW BINARY LOGS")}
        with copy._control_session() as sql:
            channel = _channel(sql)
            position = Position(sql.value(self.REPLAYED))
        if channel is None:
            return Delivery(slots=1, position=None, bytes=sum(logs.values()), seconds=None, connected=False, lost=False)
        if number := int(channel["Last_SQL_Errno"]):
            # Only its number: the text has the row's values in it.
            raise CatchUpFailed(f"the target could not apply what the source has sent (error {number})")
        return Delivery(
            slots=1,
            position=position,
            bytes=_behind(logs, channel["Relay_Master_Log_File"], int(channel["Exec_Master_Log_Pos"])),
            # Its transactions come one after the other: few bytes may take long.
            seconds=channel["Seconds_Behind_Master"],
            connected=_threads(channel) == ("Yes", "Yes"),
            lost=int(channel["Last_IO_Errno"]) == _LOG_IS_GONE,
        )

    def has_delivered(self, name: str, copy: CatchUpEngine, slots: int, position: Position) -> bool:
        return copy.has_replayed(position)

    def catalogs(self, name: str) -> Mapping[str, str]:
        return {}  # replicated like everything else

    @contextmanager
    def witnesses(
        self, rotation_id: str, name: str, databases: Sequence[DatabaseFence]
    ) -> Iterator[Callable[[], None]]:
        yield lambda: None  # nothing but what is replicated has to be known

    def dismiss_senders(self, name: str) -> bool:
        with self._control_session() as sql:
            for (thread,) in sql.rows(_SENDERS, user=self._user):
                with suppress_states(GONE):
                    sql.run("CALL mysql.rds_kill(%(thread)s)", thread=thread)
            return not sql.rows(_SENDERS, user=self._user)

    # -- the copy --

    def keep_closed(self) -> None:
        """Let no account but the rotation's have a session, and end those that there are. Repeatable.

        Raises:
            DecisionLost: terminal; the copy was released, and serves.
        """
        with self._control_session() as sql:
            with turn(sql):
                _refuse_decided(sql)
                written_down = _written_down(sql)
                for account, sessions in _rooms(sql).items():
                    if account not in written_down:
                        sql.run(
                            "INSERT INTO room VALUES (%(account)s, %(sessions)s)", account=account, sessions=sessions
                        )
                    if sessions != -1:
                        _give_room(sql, account, -1)
            try:
                self._end_sessions(sql, self._clock.monotonic() + _CLOSING_SECONDS)
            except FenceIncomplete as incomplete:
                raise DatabaseUnreachable(f"{self._database.identifier}: {incomplete}") from None

    def decide(self, rotation_id: str, verdict: Verdict, reopen: Sequence[DatabaseFence]) -> Verdict:
        standing = super().decide(rotation_id, verdict, reopen)
        if standing == verdict == "release":
            with suppress_states(*NOT_THERE), self._control_session() as sql, turn(sql):
                # It goes with the control database, not before: a release that comes again must find the same.
                room = _written_down(sql)
                closed = {account for account, sessions in _rooms(sql).items() if sessions == -1}
                # One that was renamed at the source has its new name among those that the fence closed.
                for account in closed & {*room, *(fence.name for fence in reopen)}:
                    _give_room(sql, account, room.get(account, 0))
        return standing

    def inspect(self) -> Mapping[str, Any]:
        with self._control_session() as sql:
            closed = {account for account, sessions in _rooms(sql).items() if sessions == -1}
            with suppress_states(*NOT_THERE):
                closed -= {account for account, sessions in _written_down(sql).items() if sessions == -1}
        return {name: seen for name, seen in super().inspect().items() if name not in closed}

    def is_untouched(self) -> bool:
        """By what it has written into its binary log itself, but for RDS's and the rotation's own databases.

        (A table's update_time does not tell: a recovery may commit, too.)
        """
        with self._control_session() as sql:
            own = sql.value("SELECT @@global.server_id")
            for log, *_ in reversed(sql.rows("SHOW BINARY LOGS")):
                events = sql.rows("SHOW BINLOG EVENTS IN %(log)s", log=log)
                if events[0][_SERVER] != own:
                    break  # begun by the source: what lies before came with the snapshot
                if any(event[_SERVER] == own and _changes_databases(event[_TYPE], event[_INFO]) for event in events):
                    return False
        return True

    def end_of_recovery(self, begun: Position, log_lines: Callable[[str], Iterable[str]]) -> Position | None:
        """By the copy's binary log, which goes on where the source's ended. Its data has the same end: both are written
        for each commit, or neither is.

        Raises:
            CatchUpFailed: terminal; the binary log was not restored, or others have written to it.
        """
        with self._control_session() as sql:
            state, own = sql.value("SELECT @@global.gtid_binlog_state"), int(sql.value("SELECT @@global.server_id"))
        return _end_of_recovery(begun, state, own)

    def is_subscribed(self, name: str, database: str) -> bool:
        with self._control_session() as sql:
            channel = _channel(sql)
        return channel is not None and not _stands_still(channel)

    def subscribe(self, name: str, database: str, source: Database, position: Position) -> None:
        """Replicate from behind ``position``. It is set once: set again it would bring twice what has come since.

        Raises:
            JournalMoved: retryable; it has caught up already.
            CatchUpFailed: terminal; RDS did not begin where it was asked to.
        """
        with self._control_session() as sql, turn(sql):
            _refuse_decided(sql)
            channel = _channel(sql)
            if not sql.rows("SELECT 1 FROM begun WHERE name = %(name)s", name=name):
                if channel is None:
                    self._set_source(sql, source, position)
                self._refuse_elsewhere(sql, position)
                sql.run("INSERT INTO begun VALUES (%(name)s)", name=name)
            elif channel is None:
                raise JournalMoved(f"{self._database.identifier} has caught up already")
            channel = _channel(sql)
            if channel is not None and _stands_still(channel):
                with suppress_states(_SIGNALLED):  # not connected yet: it goes on trying, and the next look sees it
                    sql.run("CALL mysql.rds_start_replication")

    def _set_source(self, sql: Session, source: Database, position: Position) -> None:
        for finding in _telltale(sql):
            raise CatchUpFailed(finding.message)
        sql.run("SET SESSION slow_query_log = 0")
        # Not in the call: that takes its time, and whoever samples what a server does (Performance Insights) keeps it.
        sql.run("SET @rds_key_rotation = %(password)s", password=self._password)
        try:
            sql.run(
                "CALL mysql.rds_set_external_master_gtid("
                "%(host)s, %(port)s, %(user)s, @rds_key_rotation, %(position)s, 1)",
                host=source.address,
                port=source.port,
                user=self._user,
                position=position,
            )
        except SqlRefused as refused:
            # The server's words may quote the statement, which has the password in it.
            raise SqlRefused(refused.state, "mysql.rds_set_external_master_gtid was refused") from None

    def _refuse_elsewhere(self, sql: Session, position: Position) -> None:
        channel, begins_at = _channel(sql), sql.value(self.REPLAYED)
        if channel is None or channel["Using_Gtid"] != "Slave_Pos" or set(gtids(begins_at)) != set(gtids(position)):
            raise CatchUpFailed(f"replication would begin at {begins_at}, not behind {position}")
        if channel["Master_SSL_Allowed"] != "Yes":
            raise CatchUpFailed("replication would not be encrypted")

    def has_notes_once(self, rotation_id: str, notes: Sequence[str]) -> bool:
        with self._control_session() as sql:
            return sorted(note for (note,) in _notes(sql, rotation_id)) == sorted(notes)

    def differing_catalogs(self, of_the_source: Mapping[str, str]) -> Sequence[str]:
        """All is replicated but two things. A distributed transaction is committed in the log before it is in the data:
        cut off in between it is in the copy's log, and never comes; there it is prepared still. And a column that was
        added to a table, or changed, so that each server has made its values itself."""
        with self._control_session() as sql:
            prepared = sql.rows("XA RECOVER")
            made = _made_apart(sql)
        return [*([f"{len(prepared)} prepared XA transaction(s)"] if prepared else []), *made]

    def take_over(self, rotation_id: str, name: str) -> None:
        """Stop applying, and forget the source with the login's password. Repeatable.

        Raises:
            TargetMismatch: terminal; a schema change has made other values here than at the source.
        """
        with self._control_session() as sql, turn(sql):
            if (standing := verdict_of(sql, rotation_id)) is not None:
                raise DecisionLost(f"'{standing}' stands for rotation {rotation_id}")
            if made := _made_apart(sql):
                raise TargetMismatch(f"changed since the snapshot: {named(made)}")
            if (channel := _channel(sql)) is not None:
                if _threads(channel) != ("No", "No"):
                    sql.run("CALL mysql.rds_stop_replication")
                sql.run("CALL mysql.rds_reset_external_master")
            if _channel(sql) is not None:
                raise DatabaseUnreachable(f"{self._database.identifier} has not ended its replication yet")

    # -- both --

    def end_capture(self, name: str) -> None:
        """Keep the binary log as long as before. A copy has that from its source. Repeatable."""
        with suppress_states(*NOT_THERE), self._control_session() as sql, turn(sql):
            for (earlier,) in sql.rows("SELECT retention FROM capture WHERE name = %(name)s", name=name):
                _keep(sql, earlier)
                sql.run("TRUNCATE capture")  # no login needs the right to delete rows


def _notes(sql: Session, rotation_id: str) -> list[tuple[Any, ...]]:
    return sql.rows("SELECT note FROM note WHERE rotation_id = %(rotation_id)s", rotation_id=rotation_id)


def _made_apart(sql: Session) -> list[str]:
    """Columns that tables of before the capture have since, and whose values each server makes by itself.

    A table that was made since has had its rows replicated as rows. Here `had` is the source's, by snapshot.
    """
    had = set(sql.rows("SELECT table_schema, table_name, column_name FROM had"))
    tables = {table[:2] for table in had}
    return [
        f"{'.'.join(column)} (its values are made by each server)"
        for column in sorted(set(sql.rows(_HAS, internal=INTERNAL_DATABASES)) - had)
        if column[:2] in tables and column[2]
    ]


def _refuse_decided(sql: Session) -> None:
    for (rotation_id,) in sql.rows(_COPIED_FOR):
        if (standing := verdict_of(sql, rotation_id)) is not None:
            raise DecisionLost(f"'{standing}' stands for rotation {rotation_id}, which this copy was made for")


def _rooms(sql: Session) -> dict[str, int]:
    """How many sessions each account may have that is not the server's, RDS's or ours; 0 is any number, -1 none."""
    return {account: int(sessions) for account, sessions in sql.rows(_ROOM, internal=INTERNAL_USERS)}


def _written_down(sql: Session) -> dict[str, int]:
    """The same of before a copy was closed."""
    return dict(sql.rows("SELECT account, sessions FROM room"))


def _give_room(sql: Session, account: str, sessions: int) -> None:
    sql.run(f"ALTER USER IF EXISTS {account_sql(account)} WITH MAX_USER_CONNECTIONS {sessions}")


def _changes_databases(event: str, info: str) -> bool:
    """Whether rows or a statement are of a database that is not the server's, RDS's or ours.

    >>> _changes_databases("Table_map", "table_id: 19 (shop.kept)")
    True
    >>> _changes_databases("Query", "use `rds_key_rotation`; ALTER USER …"), _changes_databases("Query", "COMMIT")
    (False, False)
    """
    if event not in ("Table_map", "Query") or (found := _WHERE.match(info)) is None:
        return False
    if (rows := found["rows"]) is not None:
        return not rows.startswith(tuple(f"{one}." for one in INTERNAL_DATABASES))
    return found["statement"] not in INTERNAL_DATABASES


def _retention(sql: Session) -> str | None:
    """Hours; None is RDS's default, as short as it can."""
    settings = {row["name"]: row["value"] for row in sql.named("CALL mysql.rds_show_configuration")}
    kept: str | None = settings.get(RETENTION)
    return kept


def _keep(sql: Session, hours: str | None) -> None:
    value = None if hours is None else int(hours)
    sql.run("CALL mysql.rds_set_configuration(%(name)s, %(value)s)", name=RETENTION, value=value)


def _channel(sql: Session) -> dict[str, Any] | None:
    """The one replication that a copy has."""
    return next(iter(sql.named("SHOW ALL SLAVES STATUS")), None)


def _stands_still(channel: Mapping[str, Any]) -> bool:
    """Stopped, and not by an error: nobody has started it yet, or the server has begun anew."""
    errors = int(channel["Last_SQL_Errno"]) or int(channel["Last_IO_Errno"])
    return not errors and _threads(channel) == ("No", "No")


def _threads(channel: Mapping[str, Any]) -> tuple[str, str]:
    """Whether it receives (``Connecting``, too), and whether it applies."""
    return channel["Slave_IO_Running"], channel["Slave_SQL_Running"]


def _behind(logs: Mapping[str, int], file: str, offset: int) -> int:
    """Bytes of the source's binary log behind a place in it.

    >>> _behind({"log.1": 500, "log.2": 300, "log.3": 20}, "log.2", 260)
    60
    >>> _behind({"log.2": 300, "log.3": 20}, "", 4)  # it has not connected yet
    320
    """
    return sum(size for log, size in logs.items() if log >= file) - (offset if file in logs else 0)


def _end_of_recovery(begun: Position, state: str, own: int) -> Position:
    """The last transaction of each server that wrote before the capture, of those that a copy has.

    >>> _end_of_recovery(Position("0-17-42,1-9-7"), "0-17-50,0-33-51,1-9-7", own=33)
    '0-17-50,1-9-7'
    """
    there = gtids(state)
    ends = []
    if new := {where for where, who, _ in there if who != own} - {where for where, *_ in gtids(begun)}:
        raise CatchUpFailed(f"replication domain {min(new)} appeared after the capture began: start anew")
    for domain, server, number in sorted(gtids(begun)):
        last = max((one for where, who, one in there if (where, who) == (domain, server)), default=-1)
        if last < number or server == own:
            raise CatchUpFailed("the restored target's binary log does not tell where the source's ended: start anew")
        if any(where == domain and who not in (server, own) and one > last for where, who, one in there):
            raise CatchUpFailed("another server has written since the capture began (a failover?): start anew")
        ends.append(f"{domain}-{server}-{last}")
    return Position(",".join(ends))


def _of_the_log(sql: Session) -> Iterator[Finding]:
    if not sql.value("SELECT @@global.log_bin"):
        yield Finding(
            name="BinaryLogOff",
            message="the server writes no binary log, from which a copy could catch up",
            advice="give the database automated backups (a retention of a day or more)",
        )
    if sql.value("SELECT @@global.innodb_flush_log_at_trx_commit") != 1:
        yield Finding(
            name="NotDurable",
            message="innodb_flush_log_at_trx_commit is not 1: a snapshot may have none of the rows that its binary log "
            "has",
            advice="set it to 1 in the parameter group",
        )


def _of_replication(sql: Session) -> Iterator[Finding]:
    if sql.value("SELECT @@global.slave_exec_mode") != "STRICT":
        yield Finding(
            name="ReplicationErrorsSkipped",
            message="slave_exec_mode is not STRICT: the copy would go on where its rows differ",
            advice="set it to STRICT in the parameter group",
        )
    if sql.value("SELECT @@global.gtid_strict_mode"):
        yield Finding(
            name="GtidStrictMode",
            message="gtid_strict_mode is on: the copy has written a few transactions of its own before it catches up",
            advice="set it to OFF in the parameter group until the cutover",
        )


def _tables_apart(sql: Session) -> Iterator[Finding]:
    for schema, engine, count in tables_apart(sql, besides=("InnoDB",)):
        yield Finding(
            name="TablesNotRecovered",
            message=f"{count} table(s) of engine {engine} in {schema}: after a recovery they may be ahead of the "
            "binary log, or behind it",
            advice="ALTER TABLE … ENGINE=InnoDB, or choose another strategy",
        )


def _telltale(sql: Session) -> Iterator[Finding]:
    settings = {
        name.lower(): value.upper()
        for name, value in sql.rows(
            "SELECT variable_name, variable_value FROM information_schema.global_variables "
            "WHERE variable_name IN ('general_log', 'server_audit_logging', 'server_audit_events')"
        )
    }
    events = settings.get("server_audit_events", "")
    audited = settings.get("server_audit_logging") == "ON" and (not events or "QUERY" in events)
    if settings.get("general_log") == "ON" or audited:
        yield Finding(
            name="StatementsLogged",
            message="statements are logged, and the login's password is in the one that lets the copy replicate",
            advice="until the cutover: general_log = 0, and no QUERY among the audit plugin's events",
        )
