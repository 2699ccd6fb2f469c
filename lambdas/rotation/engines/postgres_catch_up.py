"""PostgreSQL, where a restored copy catches up with its source by logical replication (ADR 17).

The source *captures* from before the snapshot on: in every database with tables a publication that names them, and a
slot. The copy's log says where its recovery ended; replication begins behind exactly that position, so nothing is
missing and nothing comes twice. What is not replicated is refused (`limitations`), compared (the catalogs) or carried
(the sequences).

Whoever comes late, a function whose execution is dead, must not open the source again once a position was taken, nor
close or change a copy that was released: what does so looks at the decision first, under its lock.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from itertools import count

from lambdas.rotation.engines.postgres import (
    MAINTENANCE_DATABASE,
    SLOW_STATEMENT_SECONDS,
    STATEMENT_SECONDS,
    PostgresEngine,
    Session,
    applications,
    quoted,
    verdict_of,
)
from lambdas.rotation.engines.postgres_catalogs import (
    CARRY_SEQUENCES,
    WITH_UNSENT_IDENTITY,
    WITHOUT_IDENTITY,
    catalogs_of,
    differing,
    owners_apart,
    schemas_out_of_reach,
    sequences_of,
    tables_of,
    uncaptured_tables,
)
from lambdas.rotation.engines.postgres_catalogs import limitations as of_a_database
from lambdas.rotation.engines.postgres_recovery import end_of_recovery
from lambdas.rotation.engines.refusals import suppress_states
from lambdas.rotation.errors import (
    CatchUpFailed,
    DatabaseUnreachable,
    DecisionLost,
    FenceBroken,
    JournalMoved,
    PreflightRefused,
    SqlRefused,
    TargetMismatch,
)
from lambdas.rotation.names import CAPTURE, CONTROL_DATABASE, named
from lambdas.rotation.ports import CatchUpEngine, Delivery
from lambdas.rotation.state import Database, DatabaseFence, Finding, Position

_IN_USE, _ALREADY_THERE, _NOT_THERE, _NOT_IN_STATE, _TOOK_TOO_LONG = "55006", "42710", "42704", "55000", "57014"

_PATIENCE_SECONDS = 5.0
_STRIDE_BYTES = 1 << 28
_COMPARE_SECONDS = 20
"""For a statement under the fence: less than a function has."""
_SURE = f"SET LOCAL idle_in_transaction_session_timeout = '{_COMPARE_SECONDS + 5}s'"
"""Of a lock that is kept while another session compares. An attempt that has died lets go of it so late."""

_CONTROL_TABLES = """
CREATE TABLE IF NOT EXISTS public.canary (
    rotation_id text NOT NULL, note text NOT NULL, left_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE TABLE IF NOT EXISTS public.attempt (rotation_id text PRIMARY KEY, number int NOT NULL);
CREATE TABLE IF NOT EXISTS public.evidence (
    rotation_id text, database text, catalogs text NOT NULL, sequences jsonb NOT NULL,
    carried boolean NOT NULL DEFAULT false, PRIMARY KEY (rotation_id, database)
)
"""
# The decisions and attempts of the two sides are not to meet.
_REPLICATED_OF_CONTROL = ("public.canary", "public.evidence", "public.marker")
_TURNS = "SELECT pg_advisory_xact_lock(hashtext('rds-key-rotation'))"

# The rotation for which a server was copied is the one that has left the last note there.
_STANDING = """
SELECT verdict FROM public.decision
WHERE rotation_id = (SELECT rotation_id FROM public.canary ORDER BY left_at DESC LIMIT 1)
"""
# Sessions begin with it; one may override it. Workers that apply never ask (they go past the executor's check).
_ONLY_READ = "ALTER DATABASE {} SET default_transaction_read_only = on"
_WRITE_BY_DEFAULT = "ALTER DATABASE {} RESET default_transaction_read_only"
_INTRUDERS = """
SELECT pid FROM pg_stat_activity
WHERE datname = :name AND backend_type = 'client backend'
  AND NOT (usename = current_user AND application_name = 'rds-key-rotation')
"""

_RIGHTS = """
SELECT rolsuper OR rolreplication OR EXISTS (
           SELECT FROM pg_roles g WHERE g.rolname = 'rds_replication' AND pg_has_role(r.oid, g.oid, 'MEMBER')
       ),
       rolsuper OR EXISTS (SELECT FROM pg_roles g WHERE g.rolname = named AND pg_has_role(r.oid, g.oid, 'USAGE')), named
FROM pg_roles r, (
    SELECT CASE WHEN current_setting('server_version_num')::int >= 160000
                THEN 'pg_create_subscription' ELSE 'rds_superuser' END
) which (named)
WHERE r.rolname = current_user
"""
_SERVER = """
SELECT current_setting('wal_level') = 'logical', current_setting('max_slot_wal_keep_size') <> '-1',
       current_setting('log_min_messages') IN ('fatal', 'panic')
           OR current_setting('lc_messages') !~* '^(C|POSIX|en_[a-z]+)?([.]|$)',
       (SELECT count(*) FROM pg_subscription)
"""
# The copy has the same parameters, and says by its log where its recovery ended, in words that have to be found.
_TOO_OLD = Finding(
    name="EngineVersion",
    message="PostgreSQL before 14 does not reckon with positions of its log",
    advice="upgrade it, or choose another strategy",
)
# Asked in each database, which may have settings of its own. Statements that a client sends may be logged: the one that
# has the password in it is put together on the server.
_TELLTALE = """
SELECT coalesce(current_setting('pg_stat_statements.track', true), '') = 'all'
           AND current_setting('pg_stat_statements.track_utility', true) = 'on'
       OR coalesce(current_setting('pgaudit.log', true), 'none') <> 'none'
"""
# Room for the senders of the source, and for the workers of the copy, which has the same parameters.
_ROOM = """
SELECT name, setting::int, taken + :captured FROM (VALUES
    ('max_replication_slots', 1 + (SELECT count(*) FROM pg_replication_slots WHERE NOT starts_with(slot_name, :ours))),
    ('max_wal_senders', (SELECT count(*) FROM pg_stat_replication WHERE NOT starts_with(application_name, :ours))),
    ('max_logical_replication_workers', 0),
    ('max_active_replication_origins', 0),  -- since 18; before, slots are counted
    ('max_worker_processes', 1)
) needs (parameter, taken) JOIN pg_settings ON name = parameter
WHERE setting::int < taken + :captured ORDER BY 1
"""
# A TRUNCATE counts no row; it gives the table another file, of which pg_class is told.
_WRITTEN_TO = """
SELECT sum(n_tup_ins + n_tup_upd + n_tup_del) > 0 FROM pg_stat_all_tables
WHERE relid = 'pg_class'::regclass OR relid IN (SELECT relid FROM pg_stat_user_tables)
"""
# The exception is raised anew, because the context of the first one would be logged with the password in it. (`OTHERS`
# are all but those that were cancelled, by a timeout too. What cannot be caught is the end of the session itself.)
_SUBSCRIBE = """
DO $$ BEGIN
    EXECUTE format(
        'CREATE SUBSCRIPTION {name} CONNECTION %L PUBLICATION {name} WITH (create_slot = false, slot_name = {slot}, '
        'copy_data = false)', current_setting('rds_key_rotation.connection'));
EXCEPTION WHEN OTHERS OR query_canceled THEN
    RAISE EXCEPTION USING ERRCODE = SQLSTATE, MESSAGE = SQLERRM;
END $$
"""


class PostgresCatchUp(PostgresEngine):
    """`ports.CatchUpEngine`: the source that captures, or the copy that catches up."""

    OUR_SLOTS = CAPTURE
    _witnesses: frozenset[int] = frozenset()

    # -- what forbids it --

    def login_limitations(self) -> Sequence[Finding]:
        findings = list(super().login_limitations())
        with self._session(MAINTENANCE_DATABASE) as sql:
            [[replicates, subscribes, right]] = sql.rows(_RIGHTS)
            databases = [name for name, _, _, owns, connects in applications(sql) if owns and connects]
        missing = [] if replicates else [("replicate", "rds_replication")]
        missing += [] if subscribes else [("subscribe", right)]
        for database in databases:
            with self._session(database) as sql:
                for owner, may_be_granted in owners_apart(sql):
                    what = f"act as {owner}, who owns tables or sequences in {database}"
                    missing.append((what, quoted(owner) if may_be_granted else ""))
                missing += [
                    (f"use schema {schema} of {database}", f"USAGE ON SCHEMA {quoted(schema)}")
                    for schema in schemas_out_of_reach(sql)
                ]
        findings += [
            Finding(
                name="MissingRight",
                message=f"the login {self._user} may not {what}",
                advice=f"run: GRANT {granted} TO {quoted(self._user)}"
                if granted
                # A master user, say, whom only RDS could give members.
                else "let it log in as that role, or give them to one that can be granted (ALTER TABLE … OWNER TO)",
            )
            for what, granted in missing
        ]
        return findings

    def limitations(self, accept: Sequence[str]) -> Sequence[Finding]:
        # Jobs would run on the copy, too, from its first moment on: of those that are seen nobody can accept that.
        findings = list(super().limitations([*accept, "pg-cron"]))
        with self._session(MAINTENANCE_DATABASE) as sql:
            if not sql.value("SELECT current_setting('server_version_num')::int >= 140000"):
                return [*findings, _TOO_OLD]
            databases = [name for name, *_ in applications(sql)]
        captured = 1  # the control database
        telltale = []
        for database in databases:
            with self._session(database, SLOW_STATEMENT_SECONDS) as sql:
                captured += bool(tables_of(sql))
                found = list(of_a_database(sql, database, accept))
                if not found:
                    # With the login's own rights, once before anything depends on it.
                    catalogs_of(sql), sequences_of(sql)
                findings += found
                if sql.value(_TELLTALE):
                    telltale.append(database)
        if telltale:
            findings.append(
                Finding(
                    name="StatementsLogged",
                    message=f"what functions run is logged or kept in {named(telltale)}: the login's password would be "
                    "among it",
                    advice="until the cutover: pg_stat_statements.track = top, pgaudit.log = none",
                )
            )
        with self._session(MAINTENANCE_DATABASE) as sql:
            findings += _of_the_server(sql, captured)
        return findings

    # -- the source --

    def begin_capture(self, name: str) -> tuple[tuple[str, ...], Position]:
        """From now on the source keeps what it commits. Repeatable.

        Returns the databases that have a slot, and a position that none of the slots reaches back behind.

        Raises:
            PreflightRefused: terminal; applications could no longer change the rows of a table.
        """
        self.ensure_control_database()
        with self._control_session() as sql, sql.transaction():
            sql.run(_TURNS)
            sql.run(_CONTROL_TABLES)
            databases = [database for database, *_ in applications(sql)]
        captured = [database for database in databases if self._capture(database, name)]
        self._capture(CONTROL_DATABASE, name, _REPLICATED_OF_CONTROL)
        with self._control_session() as sql:
            position = sql.value(
                "SELECT max(confirmed_flush_lsn)::text FROM pg_replication_slots WHERE starts_with(slot_name, :name)",
                name=name,
            )
        return (*captured, CONTROL_DATABASE), Position(position)

    def _capture(self, database: str, name: str, tables: Sequence[str] = ()) -> bool:
        """The publication before the slot: what is decoded sees the catalogs as they were."""
        with self._session(database, SLOW_STATEMENT_SECONDS) as sql:
            # Longer than for other locks. The end of a vacuum or of a transaction is waited for, and whoever reads or
            # writes waits neither for the one nor for the other.
            sql.run("SET lock_timeout = 0")
            try:
                if not self._publish(sql, database, name, tables):
                    return False
                self._make_slot(sql, _slots_of(sql, name)[0])
            except SqlRefused as refused:
                if refused.state == _TOOK_TOO_LONG:
                    raise DatabaseUnreachable(
                        f"{database}: a transaction or a vacuum does not come to an end"
                    ) from None
                raise
        return True

    def _publish(self, sql: Session, database: str, name: str, tables: Sequence[str]) -> bool:
        # A publication that an earlier attempt made stays as it is: what it lacks was made since, and is noticed.
        with suppress_states(_ALREADY_THERE), sql.transaction():
            if not sql.rows("SELECT FROM pg_publication WHERE pubname = :name", name=name):
                if not (tables := tables or tables_of(sql)):
                    return False
                # Without ONLY it takes the children along, and may publish none that is unlogged, temporary or foreign.
                sql.run(f"CREATE PUBLICATION {quoted(name)} FOR TABLE ONLY {', ONLY '.join(tables)}")
                # Nobody alters a published table before this commits.
                bare = [table for (table,) in (*sql.rows(WITHOUT_IDENTITY), *sql.rows(WITH_UNSENT_IDENTITY))]
                if bare and database != CONTROL_DATABASE:
                    raise PreflightRefused(f"table(s) of {database} without a replica identity: {named(bare)}")
        return True

    def _make_slot(self, sql: Session, slot: str) -> None:
        """Waits for the transactions that are under way: some of them may be in the snapshot by half."""
        if not sql.rows("SELECT FROM pg_replication_slots WHERE slot_name = :slot", slot=slot):
            with suppress_states(_ALREADY_THERE):
                sql.run("SELECT pg_create_logical_replication_slot(:slot, 'pgoutput')", slot=slot)
        # One that is still being made goes away again with the attempt that makes it.
        if not sql.rows(
            "SELECT FROM pg_replication_slots WHERE slot_name = :slot AND confirmed_flush_lsn IS NOT NULL", slot=slot
        ):
            raise DatabaseUnreachable(f"another attempt is making slot {slot}")

    def leave_a_note(self, rotation_id: str, note: str) -> None:
        """A row that the copy has to have once; without a key, so that it could be there twice."""
        with self._control_session() as sql, sql.transaction():
            sql.run(_TURNS)
            sql.run(
                """
                INSERT INTO public.canary SELECT :rotation_id, :note
                WHERE NOT EXISTS (SELECT FROM public.canary WHERE rotation_id = :rotation_id AND note = :note)
                """,
                rotation_id=rotation_id,
                note=note,
            )

    def begin_behind(self, name: str, database: str, position: Position) -> None:
        """Let a slot of the database send what was committed behind ``position``, the end of the copy's recovery.

        Not a byte later: a transaction whose commit record begins there is in the copy, one behind it is not. The slot
        that sends is a copy of the one that captured: a copy is on the disk at once, where a slot that was only
        advanced is back where it was after a crash of the source, and would send twice what the target has.

        Raises:
            CatchUpFailed: terminal; the source no longer has all that lies behind the position.
        """
        with self._session(database, SLOW_STATEMENT_SECONDS) as sql:
            capturing, sending = _slots_of(sql, name)
            there = {slot for (slot,) in sql.rows("SELECT slot_name FROM pg_replication_slots")}
            if sending not in there:
                if capturing not in there:
                    raise CatchUpFailed(f"slot {capturing} of database {database} is gone")
                try:
                    self._advance(sql, capturing, position)
                    sql.run("SELECT pg_copy_logical_replication_slot(:slot, :copy)", slot=capturing, copy=sending)
                except SqlRefused as refused:
                    if refused.state == _NOT_IN_STATE:
                        raise CatchUpFailed(f"slot {capturing} of database {database}: {refused}") from None
                    if refused.state in (_IN_USE, _ALREADY_THERE, _NOT_THERE):
                        raise DatabaseUnreachable(f"another attempt is at slot {capturing}: {refused}") from None
                    raise
            self._drop_slot(sql, capturing)

    def _advance(self, sql: Session, slot: str, position: Position) -> None:
        """In strides that take a moment each: the server reads all of the log between, and keeps how far it came."""
        deadline = self._clock.monotonic() + SLOW_STATEMENT_SECONDS
        came_to = None
        while True:
            [[now_at, is_behind]] = sql.rows(
                """
                SELECT end_lsn::text, end_lsn > CAST(:position AS pg_lsn)
                FROM pg_replication_slots, pg_replication_slot_advance(
                    slot_name, least(CAST(:position AS pg_lsn) + 1, confirmed_flush_lsn + CAST(:stride AS numeric)))
                WHERE pg_replication_slots.slot_name = :slot
                """,
                position=position,
                stride=_STRIDE_BYTES,
                slot=slot,
            )
            if is_behind:
                return
            if now_at == came_to:
                raise CatchUpFailed(f"the source's log ends at {now_at}, before {position}")
            if self._clock.monotonic() >= deadline:
                raise DatabaseUnreachable(f"slot {slot} has come to {now_at} on its way to {position}")
            came_to = now_at

    def delivery(self, name: str, copy: CatchUpEngine) -> Delivery:
        with self._control_session() as sql:
            [[slots, confirmed, bytes_, connected, lost]] = sql.rows(
                """
                SELECT count(*), min(confirmed_flush_lsn)::text,
                       max(pg_wal_lsn_diff(pg_current_wal_lsn(), confirmed_flush_lsn))::bigint,
                       coalesce(bool_and(active), false), coalesce(bool_or(wal_status = 'lost'), false)
                FROM pg_replication_slots WHERE starts_with(slot_name, :name)
                """,
                name=name,
            )
        return Delivery(
            slots=slots, position=confirmed, bytes=bytes_ or 0, seconds=None, connected=connected, lost=lost
        )

    def has_delivered(self, name: str, copy: CatchUpEngine, slots: int, position: Position) -> bool:
        """Whether the copy has applied, and made durable, every commit before ``position``."""
        with self._control_session() as sql:
            return bool(
                sql.value(
                    """
                    SELECT count(*) = :slots FROM pg_replication_slots
                    WHERE starts_with(slot_name, :name) AND confirmed_flush_lsn >= CAST(:position AS pg_lsn)
                    """,
                    name=name,
                    slots=slots,
                    position=position,
                )
            )

    def dismiss_senders(self, name: str) -> bool:
        """End them, and say whether all are gone. A closed database lets none come back."""
        with self._control_session() as sql:
            sql.run(
                "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots "
                "WHERE active AND starts_with(slot_name, :name)",
                name=name,
            )
            return not sql.value(
                "SELECT count(*) FROM pg_replication_slots WHERE starts_with(slot_name, :name) AND active", name=name
            )

    # -- the fence of the source --

    def _spared(self, sql: Session, database: str) -> set[int]:
        """The senders, which bring the rest to the copy, and the witnesses."""
        senders = sql.rows(
            "SELECT active_pid FROM pg_replication_slots WHERE database = :database AND active "
            "AND starts_with(slot_name, :name)",
            database=database,
            name=CAPTURE,
        )
        return {pid for (pid,) in senders} | self._witnesses

    @contextmanager
    def witnesses(
        self, rotation_id: str, name: str, databases: Sequence[DatabaseFence]
    ) -> Iterator[Callable[[], None]]:
        """Sessions in each database from before it is closed; what they read is *testified* under the fence.

        A closed database cannot be asked for its sequences and catalogs by anybody who comes later. An attempt that
        finds databases closed by one before it, which has not testified, opens them once more: no position was taken.
        From then on that one cannot testify any more: nobody knows who came in.

        Raises:
            JournalMoved: retryable; another attempt has testified, or has begun after this one.
            DecisionLost, TargetMismatch, FenceBroken: terminal.
        """
        with self._control_session() as sql:
            testified = _has_testified(sql, rotation_id)
        if testified:
            yield lambda: None
            return
        with ExitStack() as stack:
            with self._control_session() as sql:
                attempt = self._open_once_more(sql, rotation_id, databases)
                _refuse_closed(sql, name, databases)
            sessions = {
                fence.name: stack.enter_context(self._session(fence.name, _COMPARE_SECONDS)) for fence in databases
            }
            self._witnesses = frozenset(one.value("SELECT pg_backend_pid()") for one in sessions.values())
            stack.callback(setattr, self, "_witnesses", frozenset())
            yield lambda: self._testify(rotation_id, attempt, name, databases, sessions)

    def _open_once_more(self, sql: Session, rotation_id: str, databases: Sequence[DatabaseFence]) -> int:
        """The number of this attempt. The first one opens nothing: what is closed then, another has closed."""
        with sql.transaction():
            _refuse_testified(sql, rotation_id)
            attempt: int = sql.value(
                """
                INSERT INTO public.attempt VALUES (:rotation_id, 1)
                ON CONFLICT (rotation_id) DO UPDATE SET number = attempt.number + 1 RETURNING number
                """,
                rotation_id=rotation_id,
            )
            if attempt > 1:
                closed = {
                    name
                    for name, allows, limit in sql.rows("SELECT datname, datallowconn, datconnlimit FROM pg_database")
                    if not allows or limit == 0
                }
                for fence in databases:
                    if fence.name in closed:
                        self._reopen(sql, fence)
        return attempt

    def _testify(
        self,
        rotation_id: str,
        attempt: int,
        name: str,
        databases: Sequence[DatabaseFence],
        sessions: Mapping[str, Session],
    ) -> None:
        with self._control_session() as sql, sql.transaction():
            # Whoever opens once more has to wait for this lock, and finds the testimony then.
            sql.run(_SURE)
            _refuse_testified(sql, rotation_id)
            newest = sql.value("SELECT number FROM public.attempt WHERE rotation_id = :id", id=rotation_id)
            if newest != attempt:
                raise JournalMoved("another attempt has opened what this one had closed")
            # By looking: the witnesses themselves keep the probe from passing.
            if breach := self._breach(sql, databases):
                raise FenceBroken(breach)
            for fence in databases:
                inside = sessions[fence.name]
                _refuse_uncaptured(inside, fence.name, name)
                sql.run(
                    "INSERT INTO public.evidence (rotation_id, database, catalogs, sequences) "
                    "VALUES (:rotation_id, :database, :catalogs, CAST(:sequences AS jsonb))",
                    rotation_id=rotation_id,
                    database=fence.name,
                    catalogs=catalogs_of(inside, fenced=sessions),
                    sequences=sequences_of(inside),
                )

    # -- the copy --

    def keep_closed(self) -> None:
        """Let nobody in but the workers that apply: they are not counted. Ends whoever is in.

        Before applications are led anywhere nobody should be there; what cannot be proven with workers about is proven
        by the fence, once they have gone.

        Raises:
            DecisionLost: terminal; the copy was released, and serves.
        """
        with self._control_session() as sql:
            databases = [database for database, *_ in applications(sql)]
            for database in databases:
                self._leave_room(sql, database, 0)
                self._end_intruders(sql, database)

    def _leave_room(self, sql: Session, database: str, sessions: int) -> None:
        with sql.transaction():
            sql.run("LOCK TABLE public.decision IN SHARE MODE")
            for (standing,) in sql.rows(_STANDING):
                raise DecisionLost(f"'{standing}' stands for the rotation that this copy was made for")
            sql.run(f"ALTER DATABASE {quoted(database)} CONNECTION LIMIT {sessions}")
            # Whoever takes the room, or finds it where an attempt has died, may read: what applies asks nobody.
            sql.run(_WRITE_BY_DEFAULT.format(quoted(database)) if not sessions else _ONLY_READ.format(quoted(database)))

    def _released(self, sql: Session, fence: DatabaseFence) -> None:
        sql.run(_WRITE_BY_DEFAULT.format(quoted(fence.name)))  # an attempt may have left room, and died

    def _end_intruders(self, sql: Session, database: str) -> None:
        # Not the rotation's own: the context of what is ended in the middle is logged, and could be the password's.
        self._terminate(sql, [pid for (pid,) in sql.rows(_INTRUDERS, name=database)])

    @contextmanager
    def _inside(
        self, database: str, statement_seconds: int = SLOW_STATEMENT_SECONDS, **settings: str
    ) -> Iterator[Session]:
        """A session in a database that is kept closed. There is room for one more while it connects, and then none."""
        with ExitStack() as stack:
            if database == CONTROL_DATABASE:
                yield stack.enter_context(self._session(database, statement_seconds, **settings))
                return
            deadline = self._clock.monotonic() + _PATIENCE_SECONDS
            for room in count(1):
                with self._control_session() as control:
                    # Whoever is leaving is still counted, and by PostgreSQL before 16.7 autovacuum is, too.
                    there = control.value("SELECT count(*) FROM pg_stat_activity WHERE datname = :name", name=database)
                    self._leave_room(control, database, there + room)
                try:
                    inside = stack.enter_context(self._session(database, statement_seconds, **settings))
                    break
                except DatabaseUnreachable:
                    # Somebody else knocks as well. Whoever was faster is ended; more room next time.
                    if self._clock.monotonic() >= deadline:
                        raise
                finally:
                    with self._control_session() as control:
                        self._leave_room(control, database, 0)
                        self._end_intruders(control, database)
            yield inside

    def end_of_recovery(self, begun: Position, log_lines: Callable[[str], Iterable[str]]) -> Position | None:
        position = end_of_recovery(begun, log_lines)
        if position is not None:
            self._refuse_prepared()
        return position

    def _refuse_prepared(self) -> None:
        """What was prepared at the snapshot stays so: its end comes as a transaction of its own, and waits for it."""
        with self._control_session() as sql:
            found = [name for (name,) in sql.rows("SELECT DISTINCT database::text FROM pg_prepared_xacts ORDER BY 1")]
        if found:
            raise CatchUpFailed(f"prepared transaction(s) came with the snapshot, in {named(found)}: start anew")

    def is_subscribed(self, name: str, database: str) -> bool:
        with self._control_session() as sql:
            return bool(
                sql.value(
                    "SELECT count(*) FROM pg_subscription s JOIN pg_database d ON d.oid = subdbid "
                    "WHERE subname = :name AND datname = :database",
                    name=name,
                    database=database,
                )
            )

    def subscribe(self, name: str, database: str, source: Database, position: Position) -> None:
        """Let the copy apply what the slot of ``database`` sends. Repeatable."""
        connection = _conninfo(
            host=source.address, port=source.port, dbname=database, user=self._user, password=self._password,
            sslmode="require",
        )  # fmt: skip
        # A setting that the session begins with: no statement has the password in it, nor the parameter of one.
        with (
            self._inside(database, STATEMENT_SECONDS, **{"rds_key_rotation.connection": connection}) as sql,
            suppress_states(_ALREADY_THERE),
        ):
            sql.run(_SUBSCRIBE.format(name=quoted(name), slot=quoted(_slots_of(sql, name)[1])))

    def is_untouched(self) -> bool:
        """By the counters of tables, which a recovery resets, and to which the workers that apply have yet to add."""
        with self._control_session() as sql:
            databases = [database for database, *_ in applications(sql)]
        for database in databases:
            with self._inside(database) as inside:
                if inside.value(_WRITTEN_TO):
                    return False
        return True

    def has_notes_once(self, rotation_id: str, notes: Sequence[str]) -> bool:
        with self._control_session() as sql:
            found = sql.rows("SELECT note FROM public.canary WHERE rotation_id = :id ORDER BY 1", id=rotation_id)
        return [note for (note,) in found] == sorted(notes)

    def catalogs(self, name: str) -> Mapping[str, str]:
        with self._session(MAINTENANCE_DATABASE) as sql:
            databases = [database for database, *_ in applications(sql)]
        found = {}
        for database in databases:
            with self._session(database, SLOW_STATEMENT_SECONDS) as sql:
                _refuse_uncaptured(sql, database, name)
                found[database] = catalogs_of(sql)
        return found

    def differing_catalogs(self, of_the_source: Mapping[str, str]) -> Sequence[str]:
        existing = self._databases()
        found = []
        for database, catalogs in of_the_source.items():
            if database not in existing:
                found.append(f"database {database}")
                continue
            with self._inside(database) as sql:
                found += [f"{one} of {database}" for one in differing(catalogs, catalogs_of(sql, copied=True))]
        return found

    def _databases(self) -> set[str]:
        with self._control_session() as sql:
            return {name for (name,) in sql.rows("SELECT datname FROM pg_database")}

    def take_over(self, rotation_id: str, name: str) -> None:
        """Compare, carry and stop applying, database by database. Repeatable.

        Raises:
            TargetMismatch: terminal; somebody has changed a schema meanwhile.
        """
        with self._control_session() as sql:
            testimony = sql.rows(
                "SELECT database, catalogs, sequences::text, carried FROM public.evidence "
                "WHERE rotation_id = :rotation_id ORDER BY 1",
                rotation_id=rotation_id,
            )
        if not testimony:
            raise TargetMismatch(f"the source has not testified for rotation {rotation_id}")
        existing, fenced = self._databases(), [database for database, *_ in testimony]
        for database, catalogs, sequences, carried in testimony:
            if carried:
                continue
            if database not in existing:
                raise TargetMismatch(f"{database} was made since the snapshot")
            with (
                self._inside(database, _COMPARE_SECONDS) as inside,
                self._control_session() as sql,
                sql.transaction(),
            ):
                # Inside first. An attempt that has lost this right meanwhile has lost its session to the fence.
                sql.run(_SURE)
                if sql.rows(
                    "UPDATE public.evidence SET carried = true "
                    "WHERE rotation_id = :rotation_id AND database = :name AND NOT carried RETURNING 1",
                    rotation_id=rotation_id,
                    name=database,
                ):
                    if changed := differing(catalogs, catalogs_of(inside, fenced=fenced, copied=True)):
                        raise TargetMismatch(f"{database} was changed since the snapshot: {', '.join(changed)}")
                    inside.rows(CARRY_SEQUENCES, sequences=sequences)
                    _unsubscribe(inside, name)
        with self._control_session() as sql:
            _unsubscribe(sql, name)

    # -- both --

    def end_capture(self, name: str) -> None:
        """Remove the slots, and the publications that can be reached: a closed database keeps its own. Repeatable."""
        # Of a capture that ended before it began there is no control database.
        with self._any_session() as sql:
            for (slot,) in sql.rows(
                "SELECT slot_name FROM pg_replication_slots WHERE starts_with(slot_name, :name)", name=name
            ):
                self._drop_slot(sql, slot)
            reachable = [
                database for database, limit, _, owns, connects in applications(sql) if owns and connects and limit != 0
            ]
        for database in (*reachable, *([CONTROL_DATABASE] if self._control else [])):
            with self._session(database) as sql:
                sql.run(f"DROP PUBLICATION IF EXISTS {quoted(name)}")

    def _drop_slot(self, sql: Session, slot: str) -> None:
        """Whoever is connected to it comes back within seconds, so both at once, several times."""
        deadline = self._clock.monotonic() + _PATIENCE_SECONDS
        while True:
            sql.run(
                "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = :slot AND active",
                slot=slot,
            )
            try:
                with suppress_states(_NOT_THERE):
                    sql.run("SELECT pg_drop_replication_slot(:slot)", slot=slot)
                return
            except SqlRefused as refused:
                if refused.state != _IN_USE:
                    raise
                if self._clock.monotonic() >= deadline:
                    raise DatabaseUnreachable(f"slot {slot} is in use: {refused}") from None
                self._clock.pause(0.05)


def _of_the_server(sql: Session, captured: int) -> Iterator[Finding]:
    [[logical, bounded, silent, subscriptions]] = sql.rows(_SERVER)
    if not logical:
        yield Finding(
            name="WalLevel",
            message="the server writes no log that could be decoded (wal_level is not logical)",
            advice="set rds.logical_replication = 1 in its parameter group and reboot it",
        )
    if not bounded:
        yield Finding(
            name="SlotUnbounded",
            message="max_slot_wal_keep_size is -1: what a catch-up keeps for hours could fill the disk",
            advice="set it in the parameter group to what the disk can spare (megabytes; no reboot)",
        )
    if silent:
        yield Finding(
            name="LogSilent",
            message="it would not log in English where a recovery ends (log_min_messages, lc_messages)",
            advice="set log_min_messages = warning and lc_messages = C in the parameter group (no reboot)",
        )
    if subscriptions:
        yield Finding(
            name="Subscriptions",
            message=f"{subscriptions} subscription(s): the copy would go on with them at once, from the same slots",
            advice="drop them and make them anew after the cutover, or choose another strategy",
        )
    for name, setting, needed in sql.rows(_ROOM, captured=captured, ours=CAPTURE):
        yield Finding(
            name="NoRoomToCapture",
            message=f"{name} is {setting}, and {needed} are needed: one for each database with tables, and one more",
            advice="raise it in the parameter group and reboot the database",
        )


def _slots_of(sql: Session, name: str) -> tuple[str, str]:
    """The one that captures and the one that sends, of the database that the session is in. By its oid, which is a
    copy's as well."""
    oid = sql.value("SELECT oid::text FROM pg_database WHERE datname = current_database()")
    return f"{name}_{oid}", f"{name}_{oid}_sends"


def _conninfo(**parts: object) -> str:
    """libpq's way to quote.

    >>> print(_conninfo(host="db.example.com", password="it's \\\\"))
    host='db.example.com' password='it\\'s \\\\'
    """
    return " ".join(
        f"{name}='{str(value).replace(chr(92), chr(92) * 2).replace(chr(39), chr(92) + chr(39))}'"
        for name, value in parts.items()
    )


def _has_testified(sql: Session, rotation_id: str) -> bool:
    return bool(sql.value("SELECT count(*) FROM public.evidence WHERE rotation_id = :id", id=rotation_id))


def _refuse_closed(sql: Session, name: str, databases: Sequence[DatabaseFence]) -> None:
    """Nobody can testify for a captured database that its owner has closed meanwhile."""
    known = {CONTROL_DATABASE, *(fence.name for fence in databases)}
    captured = sql.rows(
        "SELECT database::text FROM pg_replication_slots WHERE starts_with(slot_name, :name)", name=name
    )
    if closed := sorted({database for (database,) in captured} - known):
        raise TargetMismatch(f"{named(closed)} accepted connections when the capture began, and does no more")


def _refuse_testified(sql: Session, rotation_id: str) -> None:
    sql.run("LOCK TABLE public.evidence IN EXCLUSIVE MODE")
    if _has_testified(sql, rotation_id):
        raise JournalMoved("another attempt has proven the fence")
    if (standing := verdict_of(sql, rotation_id)) is not None:
        raise DecisionLost(f"'{standing}' stands for rotation {rotation_id}; no fence is due")


def _refuse_uncaptured(sql: Session, database: str, name: str) -> None:
    """Nothing that is written to such a table would come to the copy, even where the copy has the table."""
    if new := uncaptured_tables(sql, name):
        raise TargetMismatch(f"{', '.join(new)} of {database} was made after the capture had begun")


def _unsubscribe(sql: Session, name: str) -> None:
    if not sql.value(
        "SELECT count(*) FROM pg_subscription WHERE subname = :name AND subdbid = "
        "(SELECT oid FROM pg_database WHERE datname = current_database())",
        name=name,
    ):
        return
    subscription = quoted(name)
    sql.run(f"ALTER SUBSCRIPTION {subscription} DISABLE")
    # The slot is the source's, which is closed and need not answer any more.
    sql.run(f"ALTER SUBSCRIPTION {subscription} SET (slot_name = NONE)")
    sql.run(f"DROP SUBSCRIPTION {subscription}")
