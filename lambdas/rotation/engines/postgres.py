"""PostgreSQL: fence, probe, marker, decision row.

The proof that nobody can commit is the *rename probe*: ``ALTER DATABASE … RENAME`` inside a transaction that is rolled
back. It takes the lock that a starting session holds before it is visible anywhere, and counts sessions and prepared
transactions in the shared process array, so nothing slips between looking and closing. It takes a few milliseconds and
leaves a few hundred bytes of WAL, nothing else.

Everything is done from the control database, which is never fenced.
"""

import ssl
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from types import MappingProxyType
from typing import Any
from uuid import uuid4

from pg8000.exceptions import DatabaseError, InterfaceError
from pg8000.native import Connection
from scramp import ScramException

from lambdas.rotation.engines.refusals import CONTROL_DATABASE_TAKEN, suppress_states
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

MAINTENANCE_DATABASE = "postgres"
TEMPLATE = "template1"
NEVER_FENCED = (CONTROL_DATABASE, "rdsadmin")
"""The control database, which only its owner may enter, and RDS's own, which nobody else may."""

OURS = "made by rds-key-rotation"
"""The control database's comment: without it an existing database of that name is somebody else's."""

# Nothing that a customer has made is found by a bare name: PostgreSQL prefers a function or an operator whose arguments
# fit exactly, wherever on the path it is, and would run it with the login's rights (its manual, 10.3; CVE-2018-1058).
# Nor is a policy's function run. A backslash is itself, whatever the database or the login is set to.
SESSION = """
SET lock_timeout = '2s'; SET idle_in_transaction_session_timeout = '10s'; SET synchronous_commit = {commit};
SET search_path = pg_catalog, pg_temp; SET row_security = off; SET standard_conforming_strings = on;
SET statement_timeout = '{seconds}s'
"""

STATEMENT_SECONDS = 10
SLOW_STATEMENT_SECONDS = 45
"""CREATE and DROP DATABASE write a checkpoint."""
PROBE_SECONDS = 8
"""The server itself waits 5 s for sessions to leave before it refuses a rename."""
WEAK_PROOF_SECONDS = 1.0
LONG_TRANSACTION_SECONDS = 60

_ACCEPTING = """
SELECT datname, datconnlimit, pg_get_userbyid(datdba),
       pg_has_role(current_user, datdba, 'USAGE'), has_database_privilege(oid, 'CONNECT')
FROM pg_database WHERE datallowconn AND datconnlimit <> -2 ORDER BY datname
"""
_OWNERS_WITHOUT_NEW_MEMBERS = """
SELECT DISTINCT pg_get_userbyid(datdba) FROM pg_database
WHERE current_setting('server_version_num')::int >= 160000 AND NOT EXISTS (
    SELECT FROM pg_auth_members JOIN pg_roles r ON r.oid = member
    WHERE roleid = datdba AND admin_option AND NOT rolsuper
)
"""
_DATABASES = "SELECT datname, datallowconn, datconnlimit FROM pg_database"
_USER_RELATIONS = """
SELECT count(*) FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace
WHERE nspname NOT LIKE 'pg\\_%' AND nspname <> 'information_schema' AND relkind <> 'i'
  AND NOT EXISTS (SELECT FROM pg_depend WHERE classid = 'pg_class'::regclass AND objid = c.oid AND deptype = 'e')
"""
# An update where the row exists: each mark is a commit of its own, which a replica can be seen to replay.
_MARK = "INSERT INTO public.marker (token) VALUES (:token) ON CONFLICT (token) DO UPDATE SET token = :token"
_SESSIONS = """
SELECT pid, coalesce(rolname::text, 'nobody'), coalesce(rolsuper, false), coalesce(backend_type, 'session')
FROM pg_stat_activity LEFT JOIN pg_roles r ON r.oid = usesysid
WHERE datname = :name AND pid <> pg_backend_pid() AND coalesce(backend_type, '') NOT LIKE 'autovacuum%'
"""
_OF_SUPERUSERS = """
SELECT datname::text, backend_type, count(*) FROM pg_stat_activity JOIN pg_roles r ON r.oid = usesysid
WHERE rolsuper AND datname IS NOT NULL AND backend_type NOT LIKE 'autovacuum%' GROUP BY 1, 2 ORDER BY 1, 2
"""
_RDSS_KINDS = ("client backend", "parallel worker", "pg_cron launcher")
"""Of a superuser's sessions those of RDS's own agent, which nobody else can end. Another worker may be anybody's: what
pglogical receives is applied by one, and no fence keeps that out."""
# Told by what it belongs to: anybody may have made a view of that name, whose functions would run with our rights.
_CRON_JOBS = """
SELECT row_security_active(c.oid) FROM pg_extension e
JOIN pg_depend ON refclassid = 'pg_extension'::regclass AND refobjid = e.oid AND deptype = 'e'
JOIN pg_class c ON classid = 'pg_class'::regclass AND objid = c.oid
JOIN pg_namespace n ON n.oid = relnamespace
WHERE extname = 'pg_cron' AND nspname = 'cron' AND relname = 'job' AND relkind = 'r'
"""
# A session that has passed the check of its right to connect and is not yet in pg_stat_activity holds this lock.
_STARTING = """
SELECT pid FROM pg_locks
WHERE locktype = 'object' AND classid = 'pg_database'::regclass AND granted AND pid <> pg_backend_pid()
  AND objid = (SELECT oid FROM pg_database WHERE datname = :name)
"""

_NOT_THERE = ("3D000", "42P01")  # no such database, no such table
_HALF_DROPPED = "55000"
"""What nobody can connect to any more, because its removal was interrupted (since PostgreSQL 14.9 and 15.4)."""
_BUSY = ("55P03", "57014", "40001", "40P01", "XX000")  # lock or statement timeout, "tuple concurrently updated"
_CUT_OFF = ("08", "57P", "53", "25P03")  # connection, shutdown or termination, resources, idle in transaction
_ELSEWHERE = "25006"
"""Read only: after a failover of Aurora its endpoint leads to the former writer until DNS has followed."""
_NO_RIGHT = ("28", "42501")
_NOT_TEXT = "22021"

Row = list[Any]


class PostgresEngine:
    """`ports.Engine` for one PostgreSQL server, as a login that is no superuser."""

    IDENTITY = "SELECT system_identifier::text FROM pg_control_system()"
    """What a physical copy has in common with its original, and nothing else has."""
    POSITION = "SELECT CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END::text"
    # >=: the source's own position goes on (checkpoints), the fence position does not.
    HAS_REPLAYED = """
    SELECT CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END
           >= CAST(:position AS pg_lsn)
    """

    OUR_SLOTS = ""
    """Beginning of the names of slots that are no limitation; of this engine's there are none."""

    def __init__(self, database: Database, login: tuple[str, str], *, ca_bundle: str, clock: Clock) -> None:
        self._database = database
        self._user, self._password = login
        self._ca_bundle = ca_bundle
        self._clock = clock
        self._control: Connection | None = None

    # -- what forbids a rotation --

    def login_limitations(self) -> Sequence[Finding]:
        with self._session(MAINTENANCE_DATABASE) as sql:
            [role] = sql.rows(
                """
                SELECT rolsuper OR rolcreatedb, pg_has_role(oid, 'pg_signal_backend', 'USAGE'),
                       pg_has_role(oid, 'pg_monitor', 'USAGE'), rolsuper, oid
                FROM pg_roles WHERE rolname = current_user
                """
            )
            creates, signals, monitors, superuser, _ = role
            databases = applications(sql)
            # Before PostgreSQL 16 whoever may create roles may grant each of them.
            owners_to_stay = {name for (name,) in sql.rows(_OWNERS_WITHOUT_NEW_MEMBERS)}
        user = quoted(self._user)
        missing = []
        if not creates:
            missing.append(("create databases", f"ALTER ROLE {user} CREATEDB"))
        if not signals:
            missing.append(("end other sessions", f"GRANT pg_signal_backend TO {user}"))
        if not monitors:
            missing.append(("see other sessions", f"GRANT pg_monitor TO {user}"))
        for name, _, owner, owns, connects in databases:
            if not owns and not superuser:
                grant = f"GRANT {quoted(owner)} TO {user}"
                if owner in owners_to_stay:
                    # Of a master user, say: it hands its database over, and keeps its rights there as a member.
                    grant = f"GRANT {user} TO {quoted(owner)}; ALTER DATABASE {quoted(name)} OWNER TO {user}"
                missing.append((f"close database {name}", grant))
            if not connects:
                missing.append((f"look into database {name}", f"GRANT CONNECT ON DATABASE {quoted(name)} TO {user}"))
        return [
            Finding(name="MissingRight", message=f"the login {self._user} may not {what}", advice=f"run: {grant}")
            for what, grant in missing
        ]

    def limitations(self, accept: Sequence[str]) -> Sequence[Finding]:
        findings: list[Finding] = []
        with self._session(MAINTENANCE_DATABASE) as sql:
            for name, count in sql.rows("SELECT database, count(*) FROM pg_prepared_xacts GROUP BY 1 ORDER BY 1"):
                findings.append(
                    Finding(
                        name="PreparedTransactions",
                        message=f"{count} prepared transaction(s) in database {name} would outlast the fence",
                        advice="COMMIT PREPARED or ROLLBACK PREPARED those of: SELECT gid FROM pg_prepared_xacts",
                    )
                )
            if "logical-slots" not in accept:
                findings += self._logical_replication(sql)
            if sql.value("SELECT pg_is_in_recovery()") and sql.value("SELECT pg_is_wal_replay_paused()"):
                findings.append(
                    Finding(
                        name="ReplayPaused",
                        message="replay is paused",
                        advice="run: SELECT pg_wal_replay_resume()",
                    )
                )
            if self._control_state(sql) == "foreign":
                findings.append(CONTROL_DATABASE_TAKEN)
            findings += [
                Finding(
                    name="SuperuserWorkers",
                    message=f"{count} {kind} of a superuser in database {name}: nobody can end that, and it may write "
                    "past the fence",
                    advice="end what it serves until the cutover (of pglogical drop the node or the subscription), "
                    "or rotate by strategy blue-green",
                )
                for name, kind, count in sql.rows(_OF_SUPERUSERS)
                if kind not in _RDSS_KINDS
            ]
            databases = [name for name, *_ in applications(sql)]
        for name in databases:
            findings += self._limitations_inside(name, accept)
        return findings

    def _logical_replication(self, sql: "Session") -> Iterator[Finding]:
        for name, database in self._logical_slots(sql).items():
            yield Finding(
                name="LogicalSlots",
                message=f"logical replication slot {name} of database {database} does not survive a promotion",
                advice='recreate it on the target after the cutover, and accept it: "Accept": ["logical-slots"]',
            )
        for name, database in sql.rows(
            "SELECT subname, datname FROM pg_subscription JOIN pg_database d ON d.oid = subdbid ORDER BY 1"
        ):
            yield Finding(
                name="LogicalSlots",
                message=f"subscription {name} of database {database} keeps a slot on another server",
                advice='disable it before the cutover, enable it after, and accept it: "Accept": ["logical-slots"]',
            )

    def logical_slots(self) -> Mapping[str, str]:
        with self._session(MAINTENANCE_DATABASE) as sql:
            return self._logical_slots(sql)

    def _logical_slots(self, sql: "Session") -> Mapping[str, str]:
        rows = sql.rows(
            """
            SELECT slot_name, database FROM pg_replication_slots
            WHERE slot_type = 'logical' AND (:ours = '' OR left(slot_name, length(:ours)) <> :ours) ORDER BY 1
            """,
            ours=self.OUR_SLOTS,
        )
        return {str(name): str(database) for name, database in rows}

    def _limitations_inside(self, database: str, accept: Sequence[str]) -> Iterator[Finding]:
        with self._session(database) as sql:
            if "unlogged-tables" not in accept:
                unlogged = sql.value(
                    """
                    SELECT count(*) FROM pg_class
                    WHERE relpersistence = 'u' AND (relkind IN ('r', 'm') AND pg_relation_size(oid::regclass) > 0
                                                    OR relkind = 'S')
                    """
                )
                if unlogged:
                    yield Finding(
                        name="UnloggedTables",
                        message=f"{unlogged} unlogged relation(s) with content, or sequences, in {database}: empty on "
                        "the target, or at their beginning",
                        advice='ALTER TABLE … SET LOGGED, or accept it: "Accept": ["unlogged-tables"]',
                    )
            if "pg-cron" not in accept:
                yield from cron_jobs(sql, database)

    def warnings(self) -> Sequence[Finding]:
        with self._session(MAINTENANCE_DATABASE) as sql:
            long = sql.rows(
                """
                SELECT pid, usename, datname, extract(epoch FROM clock_timestamp() - xact_start)::int
                FROM pg_stat_activity
                WHERE backend_type = 'client backend' AND datname IS NOT NULL
                  AND clock_timestamp() - xact_start > make_interval(secs => :seconds) ORDER BY xact_start
                """,
                seconds=LONG_TRANSACTION_SECONDS,
            )
        return [
            Finding(
                name="LongTransaction",
                message=f"a transaction of {user} in database {name} is open for {seconds} s (pid {pid})",
                advice="the fence ends it; let it finish, or start the rotation at another time",
            )
            for pid, user, name, seconds in long
        ]

    # -- the control database --

    def ensure_control_database(self) -> None:
        """Make it, or finish making it. Adopts only what a rotation has made.

        Raises:
            NameTaken: terminal; a database of that name with content is somebody else's.
        """
        with self._session(MAINTENANCE_DATABASE, SLOW_STATEMENT_SECONDS) as sql:
            state = self._control_state(sql)
            name = quoted(CONTROL_DATABASE)
            if state == "foreign":
                raise NameTaken(f"a database {CONTROL_DATABASE} exists that no rotation made")
            if state == "absent":
                # template0: what a customer has put into template1 does not belong here.
                with suppress_states("42P04", "23505"):  # another attempt of this step was faster
                    sql.run(f"CREATE DATABASE {name} TEMPLATE template0")
            if state != "ours":
                sql.run(f"REVOKE CONNECT, TEMPORARY ON DATABASE {name} FROM PUBLIC")
        with self._control_session() as sql, sql.transaction():
            sql.run("SELECT pg_advisory_xact_lock(hashtext('rds-key-rotation'))")  # IF NOT EXISTS alone is a race
            sql.run("CREATE TABLE IF NOT EXISTS public.marker (token text PRIMARY KEY)")
            sql.run(
                """
                CREATE TABLE IF NOT EXISTS public.decision (
                    rotation_id text PRIMARY KEY,
                    verdict text NOT NULL CHECK (verdict IN ('release', 'rollback')),
                    decided_at timestamptz NOT NULL DEFAULT clock_timestamp()
                )
                """
            )
            sql.run(
                "CREATE TABLE IF NOT EXISTS public.claim "
                "(only_one int PRIMARY KEY, rotation_id text NOT NULL, resource_id text NOT NULL)"
            )
            if state != "ours":
                # Last: from here on the database is known to be complete, and ours.
                sql.run(f"COMMENT ON DATABASE {name} IS '{OURS}'")

    def claim(self, rotation_id: str, instead_of: str = "") -> str:
        with self._control_session() as sql:
            # One statement, so of two claims at the same time the second one waits for the first, and sees it.
            sql.run(
                """
                INSERT INTO public.claim AS standing VALUES (1, :own, :here)
                ON CONFLICT (only_one) DO UPDATE
                SET rotation_id = excluded.rotation_id, resource_id = excluded.resource_id
                WHERE standing.rotation_id = :over OR standing.resource_id <> excluded.resource_id
                """,
                own=rotation_id,
                over=instead_of,
                here=self._database.resource_id,
            )
            return str(sql.value("SELECT rotation_id FROM public.claim"))

    def drop_control_database(self, rotation_id: str) -> None:
        self._disconnect()
        # First: where another's fence stands, nobody gets into the maintenance database.
        if self._holder() not in (None, rotation_id):
            return
        with self._session(MAINTENANCE_DATABASE, SLOW_STATEMENT_SECONDS) as sql:
            if self._control_state(sql) == "ours":
                since_13 = sql.value("SELECT current_setting('server_version_num')::int >= 130000")
                force = "WITH (FORCE)" if since_13 else ""
                with suppress_states("3D000"):
                    sql.run(f"DROP DATABASE {quoted(CONTROL_DATABASE)} {force}")

    def _holder(self) -> str | None:
        """Of the claim on this server; None where there is none, or nobody may look."""
        claimed = "SELECT rotation_id FROM public.claim WHERE resource_id = :here"
        with (
            suppress(LoginRefused),  # somebody else's database of that name
            suppress_states(*_NOT_THERE, _HALF_DROPPED),
            self._session(CONTROL_DATABASE) as sql,
        ):
            return next((holder for (holder,) in sql.rows(claimed, here=self._database.resource_id)), None)
        return None

    def _control_state(self, sql: "Session") -> str:
        """absent, unfinished, ours or foreign."""
        rows = sql.rows(
            """
            SELECT shobj_description(oid, 'pg_database'), pg_has_role(current_user, datdba, 'USAGE')
            FROM pg_database WHERE datname = :name
            """,
            name=CONTROL_DATABASE,
        )
        if not rows:
            return "absent"
        comment, owned = rows[0]
        if not owned:
            return "foreign"
        if comment == OURS:
            return "ours"
        with self._session(CONTROL_DATABASE) as control:
            return "foreign" if control.value(_USER_RELATIONS) else "unfinished"

    # -- the fence --

    def databases_with_superuser_sessions(self) -> Sequence[str]:
        with self._any_session() as sql:
            found = {name for name, kind, _ in sql.rows(_OF_SUPERUSERS) if kind in _RDSS_KINDS}
        return sorted(found - set(NEVER_FENCED))

    def plan_fence(
        self, superuser_databases: Sequence[str], besides: Sequence[DatabaseFence] = ()
    ) -> tuple[DatabaseFence, ...]:
        with self._control_session() as sql:
            return _fence_of(sql, superuser_databases, besides)

    def expected_fence(self) -> tuple[DatabaseFence, ...]:
        with self._session(MAINTENANCE_DATABASE) as sql:
            return _fence_of(sql, (), ())

    def raise_fence(self, rotation_id: str, databases: Sequence[DatabaseFence], within_seconds: float) -> None:
        deadline = self._clock.monotonic() + within_seconds
        with self._control_session() as sql:
            self._close(sql, rotation_id, databases, deadline)
            for fence in databases:
                while (obstacle := self._obstacle(sql, fence, deadline)) is not None:
                    if self._clock.monotonic() >= deadline:
                        raise FenceIncomplete(f"{fence.name}: {obstacle}")
                    self._clock.pause(0.02)

    def _close(self, sql: "Session", rotation_id: str, databases: Sequence[DatabaseFence], deadline: float) -> None:
        """Let nobody new in: all databases in one transaction, unless the rotation is decided.

        The table lock makes this and `decide` take turns, so a fence that comes late (a function of a dead execution)
        sees the verdict and closes nothing that was opened again.
        """
        while True:
            try:
                with sql.transaction():
                    sql.run("LOCK TABLE public.decision IN SHARE MODE")
                    if (standing := verdict_of(sql, rotation_id)) is not None:
                        raise DecisionLost(f"'{standing}' stands for rotation {rotation_id}; no fence is due")
                    for fence in databases:
                        how = "ALLOW_CONNECTIONS false" if fence.kind == "allow-connections" else "CONNECTION LIMIT 0"
                        sql.run(f"ALTER DATABASE {quoted(fence.name)} {how}")
                return
            except SqlRefused as refused:
                # Somebody else is changing the same row of pg_database this very moment.
                if refused.state not in _BUSY or self._clock.monotonic() >= deadline:
                    raise
                self._clock.pause(0.05)

    def _obstacle(self, sql: "Session", fence: DatabaseFence, deadline: float) -> str | None:
        """End whoever is in the database; why it is not proven empty, or None."""
        spared = self._spared(sql, fence.name)
        superusers, others = self._end_sessions(sql, fence.name)
        if others:
            return ", ".join(others)
        if prepared := sql.value("SELECT count(*) FROM pg_prepared_xacts WHERE database = :name", name=fence.name):
            # They never end by themselves, so there is nothing to wait for while applications stand still.
            raise FenceIncomplete(f"{fence.name}: {prepared} prepared transaction(s)")
        if superusers and fence.kind == "allow-connections":
            return ", ".join(superusers)
        if superusers or spared:
            return self._weaker_proof(sql, fence.name)
        patience = min(PROBE_SECONDS, deadline - self._clock.monotonic())
        obstacle = self._probe(sql, fence.name, within_seconds=patience)
        if obstacle is not None:
            # Perhaps a session that takes its time to start, and is visible only by its lock.
            self._terminate(sql, self._starting(sql, fence.name))
        return obstacle

    def _spared(self, sql: "Session", database: str) -> set[int]:
        """Sessions in a database that the fence leaves there, because they are the rotation's own."""
        return set()

    def _end_sessions(self, sql: "Session", database: str) -> tuple[list[str], list[str]]:
        """Terminate every visible session; returns whom it met: RDS's own, and others."""
        spared = self._spared(sql, database)
        met = [session for session in sql.rows(_SESSIONS, name=database) if session[0] not in spared]
        self._terminate(sql, [pid for pid, *_ in met])
        superusers, others = list[str](), list[str]()
        for pid, user, is_superuser, kind in met:
            (superusers if _is_rdss(is_superuser, kind) else others).append(f"{kind} of {user} (pid {pid})")
        return superusers, others

    def _terminate(self, sql: "Session", pids: Iterable[int]) -> None:
        for pid in pids:
            with suppress_states("42501"):  # a superuser's
                sql.run("SELECT pg_terminate_backend(:pid)", pid=pid)

    def _starting(self, sql: "Session", database: str) -> set[int]:
        return {pid for (pid,) in sql.rows(_STARTING, name=database)}

    def _probe(self, sql: "Session", database: str, within_seconds: float = PROBE_SECONDS) -> str | None:
        """None: nobody is in the database and nobody is on the way. Leaves nothing behind."""
        patience = max(int(within_seconds * 1000), 100)
        elsewhere = f"rds_key_rotation_probe_{uuid4().hex}"  # 55 bytes of 63
        try:
            with sql.transaction(commit=False):
                sql.run(f"SET LOCAL statement_timeout = {patience}; SET LOCAL lock_timeout = {min(patience, 2000)}")
                sql.run(f"ALTER DATABASE {quoted(database)} RENAME TO {quoted(elsewhere)}")
        except SqlRefused as refused:
            if refused.state in ("55006", *_BUSY):
                return refused.detail or str(refused)
            raise
        return None

    def _weaker_proof(self, sql: "Session", database: str) -> str | None:
        """Where a session may not or must not be ended, so that the probe cannot pass: two looks.

        Whoever was let in before the database was closed is in one of the two lists at the first look, and must be in
        neither at the second. Locks are read first: a session leaves that list only after it has entered the other one.
        Who is being turned away holds the lock as well, for a moment, so that one waits only where somebody does.
        """
        starting = self._starting(sql, database)
        _, others = self._end_sessions(sql, database)
        deadline = self._clock.monotonic() + WEAK_PROOF_SECONDS
        while starting and not others and self._clock.monotonic() < deadline:
            self._clock.pause(0.02)
            starting &= self._starting(sql, database)
        if not others:
            _, others = self._end_sessions(sql, database)
            self._terminate(sql, starting)
            others += [f"a starting session (pid {pid})" for pid in sorted(starting)]
        return ", ".join(others) or None

    def fence_breach(self, databases: Sequence[DatabaseFence]) -> str | None:
        with self._control_session() as sql:
            return self._breach(sql, databases)

    def _breach(self, sql: "Session", databases: Sequence[DatabaseFence]) -> str | None:
        now = {name: (allows, limit) for name, allows, limit in sql.rows(_DATABASES)}
        for fence in databases:
            if fence.name not in now:
                return f"database {fence.name} is gone"
            allows, limit = now[fence.name]
            if allows and (fence.kind == "allow-connections" or limit != 0):
                return f"database {fence.name} accepts connections"
        fenced = {fence.name for fence in databases}
        for name, (allows, limit) in sorted(now.items()):
            if allows and limit != -2 and name not in fenced and name not in NEVER_FENCED:
                return f"database {name} was never fenced"
        is_replica = sql.value("SELECT pg_is_in_recovery()")
        for fence in databases:
            spared = self._spared(sql, fence.name)
            sessions = [
                f"{kind} of {user} (pid {pid})"
                for pid, user, is_superuser, kind in sql.rows(_SESSIONS, name=fence.name)
                if not _is_rdss(is_superuser, kind) and pid not in spared
            ]
            if sessions:
                return f"database {fence.name} has {', '.join(sessions)}"
            if is_replica or spared or fence.kind != "allow-connections":
                continue
            if obstacle := self._probe(sql, fence.name):
                return f"database {fence.name}: {obstacle}"
        return None

    # -- position, marker, replication --

    def mark(self, token: str) -> Position:
        with self._control_session() as sql:
            sql.run(_MARK, token=token)
            # After the commit above was flushed (synchronous_commit), so it lies behind every commit before it as well,
            # those of sessions with synchronous_commit=off included.
            return Position(sql.value("SELECT pg_current_wal_flush_lsn()::text"))

    def replayed(self) -> Position:
        with self._control_session() as sql:
            return Position(sql.value(self.POSITION))

    def has_replayed(self, position: Position) -> bool:
        with self._control_session() as sql:
            return bool(sql.value(self.HAS_REPLAYED, position=position))

    def shows_marker(self, token: str) -> bool:
        with suppress_states(*_NOT_THERE), self._control_session() as sql:
            return bool(sql.value("SELECT count(*) FROM public.marker WHERE token = :token", token=token))
        return False  # a target that has not yet replayed the making of the control database

    def is_replica(self) -> bool:
        with self._any_session() as sql:
            return bool(sql.value("SELECT pg_is_in_recovery()"))

    def lag(self) -> Lag:
        with self._any_session() as sql:
            [[is_replica, behind, seconds, streaming]] = sql.rows(
                """
                SELECT pg_is_in_recovery(),
                       greatest(pg_wal_lsn_diff(coalesce(r.latest_end_lsn, pg_last_wal_receive_lsn()),
                                                pg_last_wal_replay_lsn()), 0)::bigint,
                       CASE WHEN pg_last_wal_replay_lsn() >= pg_last_wal_receive_lsn() THEN 0
                            ELSE extract(epoch FROM clock_timestamp() - pg_last_xact_replay_timestamp())
                       END::float8,
                       coalesce(r.status = 'streaming', false)
                FROM (SELECT) one LEFT JOIN pg_stat_wal_receiver r ON true
                """
            )
            paused = is_replica and sql.value("SELECT pg_is_wal_replay_paused()")
        if not is_replica:
            return Lag(bytes=None, seconds=None, streaming=False)
        return Lag(bytes=behind, seconds=seconds, streaming=streaming and not paused)

    # -- the decision --

    def control_view(self, rotation_id: str, databases: Sequence[DatabaseFence]) -> ControlView:
        with self._control_session() as sql:
            [[in_recovery, marked]] = sql.rows(
                "SELECT pg_is_in_recovery(), EXISTS (SELECT FROM public.marker WHERE token = :token)",
                token=rotation_id,
            )
            names = sorted(name for name, _, _ in sql.rows(_DATABASES))
            roles = sql.rows("SELECT rolname FROM pg_roles WHERE rolname NOT LIKE 'pg\\_%'")
            return ControlView(
                system_identifier=sql.value(self.IDENTITY),
                in_recovery=in_recovery,
                position=Position(sql.value(self.POSITION)),
                marker_seen=marked,
                databases=tuple(names),
                roles=tuple(sorted(name for (name,) in roles)),
                fence_breach=self._breach(sql, databases),
            )

    def decide(self, rotation_id: str, verdict: Verdict, reopen: Sequence[DatabaseFence]) -> Verdict:
        with self._control_session() as sql, sql.transaction():
            # Waits for a concurrent decision of the same rotation, and sees it then.
            sql.run(
                """
                INSERT INTO public.decision (rotation_id, verdict) VALUES (:rotation_id, :verdict)
                ON CONFLICT (rotation_id) DO NOTHING
                """,
                rotation_id=rotation_id,
                verdict=verdict,
            )
            standing = verdict_of(sql, rotation_id)
            assert standing is not None
            if standing == verdict:
                existing = {name for name, _, _ in sql.rows(_DATABASES)}
                for fence in reopen:
                    if fence.name in existing:  # one that was dropped must not keep the others closed
                        self._reopen(sql, fence)
                        if verdict == "release":
                            self._released(sql, fence)
        return standing

    def _released(self, sql: "Session", fence: DatabaseFence) -> None:
        """What else has to end for a target that serves, in the transaction of the verdict."""

    def _reopen(self, sql: "Session", fence: DatabaseFence) -> None:
        # Both: a copy that catches up is closed by the limit before it is closed altogether.
        opened = "ALLOW_CONNECTIONS true " if fence.kind == "allow-connections" else ""
        sql.run(f"ALTER DATABASE {quoted(fence.name)} {opened}CONNECTION LIMIT {fence.connection_limit}")

    def verdict(self, rotation_id: str) -> Verdict | None:
        with suppress_states(*_NOT_THERE), self._control_session() as sql:
            return verdict_of(sql, rotation_id)
        return None

    # -- after the release --

    def inspect(self) -> Mapping[str, Any]:
        with self._control_session() as sql:
            names = [name for name, *_ in applications(sql)]
        seen = {}
        for name in names:
            with self._session(name) as sql:
                seen[name] = {
                    "relations": sql.value(_USER_RELATIONS),
                    "sequences": sql.value("SELECT count(*) FROM pg_sequences"),
                    "invalid_indexes": [
                        index
                        for (index,) in sql.rows("SELECT indexrelid::regclass::text FROM pg_index WHERE NOT indisvalid")
                    ],
                }
        return seen

    # -- sessions --

    @contextmanager
    def _control_session(self) -> Iterator["Session"]:
        """The one session to the control database, kept open: a poll in the write outage must not connect each time."""
        if self._control is None:
            self._control = self._connect(CONTROL_DATABASE)
        try:
            yield Session(self._control)
        except SqlRefused as refused:
            self._disconnect()  # whatever state it is in, the next call gets a new one
            raise _meaning(refused) from None
        except DatabaseUnreachable:
            self._disconnect()
            raise

    @contextmanager
    def _session(
        self, database: str, statement_seconds: int = STATEMENT_SECONDS, **settings: str
    ) -> Iterator["Session"]:
        connection = self._connect(database, statement_seconds, settings)
        try:
            yield Session(connection)
        except SqlRefused as refused:
            raise _meaning(refused) from None
        finally:
            _close_quietly(connection)

    @contextmanager
    def _any_session(self) -> Iterator["Session"]:
        """A session that need not see the control database, which a young target does not show yet."""
        try:
            self._control = self._control or self._connect(CONTROL_DATABASE)
        except SqlRefused as refused:
            if refused.state not in _NOT_THERE:
                raise
        with self._control_session() if self._control else self._session(MAINTENANCE_DATABASE) as sql:
            yield sql

    def _connect(
        self,
        database: str,
        statement_seconds: int = STATEMENT_SECONDS,
        settings: Mapping[str, str] = MappingProxyType({}),
    ) -> Connection:
        """Raises: DatabaseUnreachable, LoginRefused, SqlRefused."""
        where = f"{self._database.identifier} ({self._database.address}:{self._database.port})"
        tls = ssl.create_default_context(cafile=self._ca_bundle)  # verifies chain and name, without exception
        try:
            connection = Connection(
                self._user,
                host=self._database.address,
                port=self._database.port,
                database=database,
                password=self._password,
                ssl_context=tls,
                timeout=statement_seconds + 2,  # the server's own timeout comes first
                application_name="rds-key-rotation",
                # A courtesy setting of the database or of the role must not keep us from working.
                startup_params={
                    "client_encoding": "UTF8",
                    "options": "-c default_transaction_read_only=off",
                    **settings,
                },
            )
        except DatabaseError as error:
            raise _meaning(_refused(error)) from None
        except ScramException:
            # Said by the driver before the server has seen the password: its characters, or a server that is not ours.
            raise LoginRefused(
                f"the login {self._user} cannot prove its password to {where}: give it one of printable characters"
            ) from None
        except (InterfaceError, OSError) as error:
            raise DatabaseUnreachable(f"no connection to {where}: {error.__cause__ or error}") from None
        try:
            # Of a Multi-AZ DB cluster a commit outlasts a failover once a reader has it; a fence, and its end, must.
            commit = "on" if self._database.is_multi_az_cluster else "local"
            Session(connection).run(SESSION.format(seconds=statement_seconds, commit=commit))
        except BaseException:
            _close_quietly(connection)
            raise
        return connection

    def _disconnect(self) -> None:
        if self._control is not None:
            _close_quietly(self._control)
            self._control = None


class AuroraPostgresEngine(PostgresEngine):
    """The writer of an Aurora cluster, which answers no question about its WAL unless it replicates logically.

    ``pg_current_wal_lsn`` and its like fail with "wal_level must be set to 'logical'", and nobody says which of the
    others do. A position is the id of a transaction here: it is enough for a restored copy, which has either all that
    was committed before the marker or no marker. Nothing follows such a server by `lag`.
    """

    # Where the control database lies, and in which transaction it was made: the same in a copy of the volume. A server
    # that was set up by the same steps may have it, too; but not this rotation's marker.
    IDENTITY = "SELECT oid::text || ' ' || xmin::text FROM pg_class WHERE oid = 'public.decision'::regclass"
    POSITION = "SELECT (txid_snapshot_xmax(txid_current_snapshot()) - 1)::text"
    HAS_REPLAYED = "SELECT txid_snapshot_xmax(txid_current_snapshot()) > CAST(:position AS bigint)"

    def mark(self, token: str) -> Position:
        with self._control_session() as sql:
            # Its own id: a later one need not be on the volume yet, and then a copy would not have it.
            return Position(sql.value(f"{_MARK} RETURNING txid_current()::text", token=token))


class Session:
    """Statements on one connection. Errors carry the server's words, never a statement or its parameters."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def rows(self, statement: str, **parameters: Any) -> list[Row]:
        try:
            return self._connection.run(statement, **parameters) or []
        except DatabaseError as error:
            raise _refused(error) from None
        except UnicodeDecodeError:
            # A database in another encoding gives what is created there a name in that encoding, for all to see.
            raise SqlRefused(_NOT_TEXT, "the name of a database or role is not UTF-8: rename it") from None
        except (InterfaceError, OSError) as error:
            raise DatabaseUnreachable(f"the connection ended: {error}") from None

    def run(self, statement: str, **parameters: Any) -> None:
        self.rows(statement, **parameters)

    def value(self, statement: str, **parameters: Any) -> Any:
        [[value]] = self.rows(statement, **parameters)
        return value

    @contextmanager
    def transaction(self, *, commit: bool = True) -> Iterator[None]:
        self.run("BEGIN")
        try:
            yield
        except BaseException:
            with suppress(RotationError):
                self.run("ROLLBACK")
            raise
        self.run("COMMIT" if commit else "ROLLBACK")


def quoted(identifier: str) -> str:
    """An SQL identifier, whatever is in it.

    >>> print(quoted('Käufe "neu" 2'))
    "Käufe ""neu"" 2"
    """
    return '"' + identifier.replace('"', '""') + '"'


def _fence_of(
    sql: Session, superuser_databases: Sequence[str], besides: Sequence[DatabaseFence]
) -> tuple[DatabaseFence, ...]:
    known = {fence.name for fence in besides}
    # template1 too: everybody may connect there, and make roles and databases that the target would never hear of.
    limited = {MAINTENANCE_DATABASE, TEMPLATE, *superuser_databases}
    return tuple(
        DatabaseFence(
            name=name,
            kind="connection-limit" if name in limited else "allow-connections",
            connection_limit=limit,
        )
        for name, limit, *_ in applications(sql)
        if name not in known
    )


def applications(sql: Session) -> list[Row]:
    """What a fence closes: all that accept connections, customers' templates included, but not half dropped ones."""
    return [row for row in sql.rows(_ACCEPTING) if row[0] not in NEVER_FENCED]


def _is_rdss(is_superuser: bool, kind: str) -> bool:
    return is_superuser and kind in _RDSS_KINDS


def cron_jobs(sql: Session, database: str, *, unseen_accepted: bool = False) -> Iterator[Finding]:
    """What pg_cron does in this database: it asks for no connection, so ``CONNECTION LIMIT 0`` stops none of its jobs.

    Its policy shows everybody his own jobs only (pg_cron.sql); ``unseen_accepted`` does without the others.
    """
    for (hidden,) in sql.rows(_CRON_JOBS):
        if hidden and not unseen_accepted:
            yield Finding(
                name="PgCron",
                message=f"pg_cron in database {database} shows the login no jobs of others: they need not obey a fence",
                advice="deactivate all of them (cron.alter_job, each as its owner) until the cutover, and accept it: "
                '"Accept": ["pg-cron"]',
            )
        if not hidden and (jobs := sql.value("SELECT count(*) FROM cron.job WHERE active")):
            yield Finding(
                name="PgCron",
                message=f"{jobs} active pg_cron job(s) in database {database}, which need not obey a fence",
                advice='deactivate them until the cutover (cron.alter_job), or accept it: "Accept": ["pg-cron"]; by '
                "catch-up, where they would run on the copy, too, and write there, they cannot be accepted",
            )


def verdict_of(sql: Session, rotation_id: str) -> Verdict | None:
    rows = sql.rows("SELECT verdict FROM public.decision WHERE rotation_id = :rotation_id", rotation_id=rotation_id)
    verdict: Verdict | None = rows[0][0] if rows else None
    return verdict


def _refused(error: DatabaseError) -> SqlRefused:
    fields = error.args[0] if error.args and isinstance(error.args[0], dict) else {}
    return SqlRefused(fields.get("C", "XXUUU"), fields.get("M", "unknown error"), fields.get("D", ""))


def _meaning(refused: SqlRefused) -> RotationError:
    """What a refusal means to the state machine."""
    if refused.state.startswith(_NO_RIGHT):
        return LoginRefused(str(refused))
    if refused.state.startswith(_CUT_OFF) or refused.state in (*_BUSY, _ELSEWHERE):
        return DatabaseUnreachable(str(refused))
    return refused


def _close_quietly(connection: Connection) -> None:
    with suppress(DatabaseError, InterfaceError, OSError):
        connection.close()
