"""In-memory ports that behave: a database server that replicates, an RDS that takes its time, a ledger with epochs.

Every port notes what it was asked to *change* in one list, `FakePorts.calls`, so that a test can see the order in which
things happened. Reads are not noted. Faults: `FakePorts.fail("rds.request_promotion", error)` raises once at that call,
before (default) or after it took effect.
"""

import copy
import itertools
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from lambdas.rollback.handler import rollback
from lambdas.rotation.databases import own_name
from lambdas.rotation.engines import CATCHING_UP
from lambdas.rotation.engines.postgres_recovery import end_of_recovery
from lambdas.rotation.errors import (
    AwsRefused,
    CatchUpFailed,
    ConnectivityChanged,
    DatabaseUnreachable,
    DecisionLost,
    EpochSuperseded,
    FenceBroken,
    FenceIncomplete,
    JournalMoved,
    LoginRefused,
    NameTaken,
    PromotionFailed,
    SqlRefused,
    StateIncomplete,
    TargetMismatch,
)
from lambdas.rotation.names import (
    CLUSTER,
    CONTROL_DATABASE,
    DECOMMISSION_TAG,
    ROTATION_ID_TAG,
    is_owners_alias,
    key_alias,
    our_tags,
    owners_tags,
    rotation_id_of,
)
from lambdas.rotation.network_fence import NetworkFence
from lambdas.rotation.ports import (
    BlueGreenDeployment,
    CatchUpEngine,
    ControlView,
    Delivery,
    Engine,
    Entry,
    Instance,
    KeyFacts,
    Lag,
    Lock,
    ProxyTarget,
    Step,
    Watchers,
)
from lambdas.rotation.state import (
    Connectivity,
    Database,
    DatabaseFence,
    DnsRecord,
    DnsRecordName,
    EndpointSecret,
    Failure,
    Fence,
    Finding,
    Key,
    KeyUser,
    ManagedRotation,
    Plan,
    Position,
    Promotion,
    Release,
    ReplicatedBackup,
    Rotation,
    Sync,
    TargetCheck,
    Verdict,
    Verification,
)

START = datetime(2027, 1, 1, tzinfo=UTC)
ACCOUNT = "arn:aws:{service}:eu-central-1:123456789012:{name}"
OLD_KEY = ACCOUNT.format(service="kms", name="key/old")
NEW_KEY = ACCOUNT.format(service="kms", name="key/new")
EXECUTION = ACCOUNT.format(service="states", name="execution:rds-key-rotation-rotate-key:first")
RECOVERY = ACCOUNT.format(service="states", name="execution:rds-key-rotation-rotate-key:recovery")
ROTATION_ID = rotation_id_of(EXECUTION)
SOURCE = "orders"
ISOLATION = "sg-isolation"
BACKUP_REPLICATIONS = "DBInstanceAutomatedBackupsReplications"
TARGET = f"orders-rot-{ROTATION_ID}"


class Calls:
    """What was changed, in order, over all ports; and the faults to come."""

    def __init__(self) -> None:
        self.made: list[str] = []
        self.asked = Counter[str]()
        self._faults: dict[str, list[tuple[Exception, str]]] = {}

    def fail(self, call: str, error: Exception, when: Literal["before", "after"] = "before") -> None:
        self._faults.setdefault(call, []).append((error, when))

    @contextmanager
    def change(self, call: str, subject: str = "") -> Iterator[None]:
        error, when = self._faults[call].pop(0) if self._faults.get(call) else (None, "")
        if error is not None and when == "before":
            raise error
        self.made.append(f"{call} {subject}".rstrip())
        yield
        if error is not None:
            raise error

    def ask(self, call: str) -> None:
        """A read: only counted, but it can fail."""
        self.asked[call] += 1
        if self._faults.get(call):
            raise self._faults[call].pop(0)[0]


class FakeClock:
    """Time passes only when somebody pauses, or a test says so."""

    def __init__(self) -> None:
        self.time = START
        self.on_pause: list[Callable[[], None]] = []
        """Run one after the other, at each pause one: what the world does in the meantime."""

    def now(self) -> datetime:
        return self.time

    def monotonic(self) -> float:
        return (self.time - START).total_seconds()

    def pause(self, seconds: float) -> None:
        self.advance(seconds)
        if self.on_pause:
            self.on_pause.pop(0)()

    def advance(self, seconds: float) -> None:
        self.time += timedelta(seconds=seconds)


class FakeSettings:
    def __init__(self, **defaults: Any) -> None:
        self.defaults = defaults

    @property
    def defaults(self) -> Mapping[str, Any]:
        return {"record_names": ["*"], "endpoint_secret_names": ["*"]} | self._given

    @defaults.setter
    def defaults(self, given: dict[str, Any]) -> None:
        self._given = given


# -- the database server -----------------------------------------------------------------------------------------------


@dataclass
class Catalog:
    """What a copy has, or a replica: everything that the server holds. A slot is none of it."""

    position: int = 0x10
    open: dict[str, bool] = field(default_factory=lambda: {"orders": True, "postgres": True, CONTROL_DATABASE: True})
    limit: dict[str, int] = field(default_factory=dict)
    markers: set[str] = field(default_factory=set)
    decisions: dict[str, Verdict] = field(default_factory=dict)
    claim: tuple[str, str] = ("", "")
    """Rotation, and the server that it is on."""
    roles: tuple[str, ...] = ("app", "rotator")
    rows: dict[str, list[str]] = field(default_factory=lambda: {"orders": []})
    """By database with tables. None of them has a key: what comes twice is there twice."""
    sequences: dict[str, int] = field(default_factory=lambda: {"orders": 0})
    schemas: dict[str, str] = field(default_factory=dict)
    published: dict[str, str] = field(default_factory=dict)
    """By database: the name of its publication."""
    evidence: dict[str, dict[str, tuple[str, int | None]]] = field(default_factory=dict)
    """By rotation, by database: its catalogs and its sequence under the fence."""
    log: list[str] = field(default_factory=list)
    """One file, which is on the disk that a snapshot is taken of."""
    logged_at: datetime = START

    def copy(self) -> "Catalog":
        return copy.deepcopy(self)

    def catalogs(self, database: str) -> str:
        """What of a database is not replicated, and has to be the same on both sides."""
        return f"{self.schemas.get(database)} of {self.roles} beside {sorted(self.open)}"


@dataclass(frozen=True)
class Commit:
    position: int
    database: str
    apply: Callable[[Catalog], None]


@dataclass
class Slot:
    """What a server keeps for a copy: the commits in one database, from ``begin`` on."""

    source: "FakeServer"
    database: str
    begin: int
    subscriber: "FakeServer | None" = None
    connected: bool = False
    lost: bool = False


class FakeServer:
    """A PostgreSQL server, or its replica: a replica shows what its primary holds, or held when replay stopped."""

    def __init__(self, calls: Calls, name: str, primary: "FakeServer | None" = None) -> None:
        self.calls, self.name, self.primary = calls, name, primary
        self.own = Catalog()
        self.replay_stopped = False
        self.reachable = True
        self.found: list[Finding] = []
        self.worth_a_warning: list[Finding] = []
        self.superuser_databases: tuple[str, ...] = ()
        self.boasts = False
        """A replica that claims to be level with what it has received, which is true also of a stream that stopped."""
        self.stubborn: str | None = None
        """Who does not let go of a database, however often it is asked."""
        self.appearing: list[str] = []
        """Databases that somebody creates, one at each fence."""
        self.system_identifier = "7000000000000000001"
        self.commits: list[Commit] = []
        self.followed_by: dict[str, str] = {}
        """Logical replication slots that no rotation has made -> the database of each."""
        self.slots: dict[str, Slot] = {}
        self.subscriptions: dict[str, Slot] = {}
        """Of a copy, by database."""
        self.applies = True
        """A copy that does not is connected, and falls behind."""
        self.attempts: dict[str, int] = {}
        """By rotation: how often somebody has begun to raise a fence that has witnesses."""
        self.uncaptured: str | None = None
        """A table that was made when the capture had begun."""
        self.slipped_through: str | None = None
        """Whom only the probe of the fence finds, which nobody who sends may be there for."""
        self.senders_stay = False
        self.seconds_behind: float | None = None
        self.touched = False
        """Rows were written since it came up, by somebody or by what applies."""

    @property
    def catalog(self) -> Catalog:
        return self.own if self.primary is None or self.replay_stopped else self.primary.catalog

    def stop_replay(self) -> None:
        self.own, self.replay_stopped = self.catalog.copy(), True

    def continue_replay(self) -> None:
        self.replay_stopped = False

    def promote(self) -> None:
        self.own, self.primary, self.replay_stopped = self.catalog.copy(), None, False

    def write(self) -> None:
        """Somebody commits something, with a number that nobody else gets."""
        number = self.own.sequences["orders"] = self.own.sequences["orders"] + 1
        self.commit("orders", lambda there: there.rows["orders"].append(f"order {number}"))

    def commit(self, database: str, apply: Callable[[Catalog], None]) -> None:
        self.own.position += 0x10
        apply(self.own)
        self.commits.append(Commit(self.own.position, database, apply))
        self.send()

    def send(self) -> None:
        """What the slots have kept. Who is connected stays; who is not comes in where the database lets him."""
        for slot in self.slots.values():
            slot.connected = slot.connected or (slot.subscriber is not None and self.own.open.get(slot.database, False))
            there = slot.subscriber
            if there is None or not slot.connected or slot.lost or not (there.applies and there.reachable):
                continue
            for commit in self.commits:
                if commit.database == slot.database and commit.position >= slot.begin:
                    commit.apply(there.own)
                    there.touched = True
            slot.begin = self.own.position + 1

    def recover(self) -> None:
        """As after a crash. What it writes itself from then on has positions of its own."""
        self.own.log.append(redo_done_at(as_position(self.own.position)))
        self.own.position += 0x10_0000

    def cut_off_senders(self) -> None:
        for slot in self.slots.values():
            slot.connected = False

    def accepts_applications(self) -> bool:
        catalog = self.catalog
        return self.primary is None and any(
            is_open and catalog.limit.get(name, -1) != 0
            for name, is_open in catalog.open.items()
            if name != CONTROL_DATABASE
        )


def redo_done_at(position: Position) -> str:
    return f"2027-01-01 00:00:00 UTC::@:[42]:LOG:  redo done at {position} system usage: CPU: user: 0.00 s"


class FakeEngine:
    """`ports.Engine` on a `FakeServer`."""

    def __init__(self, server: FakeServer) -> None:
        self._server = server

    def _reach(self, call: str) -> Catalog:
        self._connect()
        self._server.calls.ask(f"engine.{call}")
        return self._server.catalog

    def _connect(self) -> None:
        if not self._server.reachable:
            raise DatabaseUnreachable(f"{self._server.name} does not answer")

    def _change(self, call: str) -> AbstractContextManager[None]:
        self._connect()
        assert self._server.primary is None, f"{call} on a replica"
        return self._server.calls.change(f"engine.{call}", self._server.name)

    def login_limitations(self) -> Sequence[Finding]:
        self._reach("login_limitations")
        return []

    def limitations(self, accept: Sequence[str]) -> Sequence[Finding]:
        self._reach("limitations")
        accepted = {"".join(part.title() for part in word.split("-")) for word in accept}
        return [finding for finding in self._server.found if finding.name not in accepted]

    def logical_slots(self) -> Mapping[str, str]:
        self._reach("logical_slots")
        return self._server.followed_by

    def warnings(self) -> Sequence[Finding]:
        self._reach("warnings")
        return self._server.worth_a_warning

    def ensure_control_database(self) -> None:
        self._reach("ensure_control_database")
        if CONTROL_DATABASE not in self._server.catalog.open:
            with self._change("ensure_control_database"):
                self._server.own.open[CONTROL_DATABASE] = True

    def claim(self, rotation_id: str, instead_of: str = "") -> str:
        with self._change("claim"):
            own, here = self._server.own, self._server.name
            if own.claim[0] in ("", instead_of) or own.claim[1] != here:
                own.claim = (rotation_id, here)
            return own.claim[0]

    def drop_control_database(self, rotation_id: str) -> None:
        with self._change("drop_control_database"):
            catalog = self._server.own
            if catalog.claim[1] == self._server.name and catalog.claim[0] not in ("", rotation_id):
                return
            catalog.claim = ("", "")
            catalog.open.pop(CONTROL_DATABASE, None)
            catalog.rows.pop(CONTROL_DATABASE, None)
            for content in (catalog.markers, catalog.decisions, catalog.evidence):
                content.clear()

    def databases_with_superuser_sessions(self) -> Sequence[str]:
        self._reach("databases_with_superuser_sessions")
        return self._server.superuser_databases

    def plan_fence(
        self, superuser_databases: Sequence[str], besides: Sequence[DatabaseFence] = ()
    ) -> tuple[DatabaseFence, ...]:
        catalog = self._reach("plan_fence")
        known = {CONTROL_DATABASE} | {fence.name for fence in besides}
        return tuple(
            DatabaseFence(
                name=name,
                kind="connection-limit" if name in ("postgres", *superuser_databases) else "allow-connections",
                connection_limit=catalog.limit.get(name, -1),
            )
            for name, is_open in sorted(catalog.open.items())
            if is_open and name not in known
        )

    def expected_fence(self) -> tuple[DatabaseFence, ...]:
        self._reach("expected_fence")
        return self.plan_fence(())

    def raise_fence(self, rotation_id: str, databases: Sequence[DatabaseFence], within_seconds: float) -> None:
        with self._change("raise_fence"):
            catalog = self._server.own
            if rotation_id in catalog.decisions:
                raise DecisionLost("a decision stands")
            for fence in databases:
                if fence.kind == "allow-connections":
                    catalog.open[fence.name] = False
                else:
                    catalog.limit[fence.name] = 0
            if self._server.appearing:
                catalog.open[self._server.appearing.pop(0)] = True
            if self._server.stubborn:
                raise FenceIncomplete(f"{self._server.stubborn} did not end within {within_seconds:.0f} s")

    def fence_breach(self, databases: Sequence[DatabaseFence]) -> str | None:
        catalog = self._reach("fence_breach")
        for fence in databases:
            is_open = catalog.open.get(fence.name)
            if is_open is None:
                return f"{fence.name} is gone"
            if is_open and (fence.kind == "allow-connections" or catalog.limit.get(fence.name, -1) != 0):
                return f"{fence.name} accepts connections"
        unknown = {name for name, is_open in catalog.open.items() if is_open}
        unknown -= {CONTROL_DATABASE} | {fence.name for fence in databases}
        return f"{min(unknown)} was never fenced" if unknown else None

    def mark(self, token: str) -> Position:
        with self._change("mark"):
            self._server.commit(CONTROL_DATABASE, lambda there: there.markers.add(token))
        return self.replayed()

    def replayed(self) -> Position:
        return as_position(self._reach("replayed").position)

    def has_replayed(self, position: Position) -> bool:
        return self._reach("has_replayed").position >= as_number(position)

    def shows_marker(self, token: str) -> bool:
        return token in self._reach("shows_marker").markers

    def is_replica(self) -> bool:
        self._reach("is_replica")
        return self._server.primary is not None

    def lag(self) -> Lag:
        catalog = self._reach("lag")
        if self._server.primary is None:
            return Lag(None, None, streaming=False)
        if self._server.boasts:
            return Lag(bytes=0, seconds=0.0, streaming=True)
        behind = self._server.primary.catalog.position - catalog.position
        return Lag(bytes=behind, seconds=float(behind), streaming=not self._server.replay_stopped)

    def control_view(self, rotation_id: str, databases: Sequence[DatabaseFence]) -> ControlView:
        catalog = self._reach("control_view")
        return ControlView(
            system_identifier=self._server.system_identifier,
            in_recovery=self._server.primary is not None,
            position=self.replayed(),
            marker_seen=rotation_id in catalog.markers,
            databases=tuple(sorted(catalog.open)),
            roles=catalog.roles,
            fence_breach=self.fence_breach(databases),
        )

    def decide(self, rotation_id: str, verdict: Verdict, reopen: Sequence[DatabaseFence]) -> Verdict:
        with self._change(f"decide-{verdict}"):
            catalog = self._server.own
            standing = catalog.decisions.setdefault(rotation_id, verdict)
            if standing == verdict:
                for fence in reopen:
                    catalog.open[fence.name] = True
                    catalog.limit[fence.name] = fence.connection_limit
        return standing

    def verdict(self, rotation_id: str) -> Verdict | None:
        return self._reach("verdict").decisions.get(rotation_id)

    def inspect(self) -> Mapping[str, Any]:
        catalog = self._reach("inspect")
        return {name: {"relations": 1} for name, is_open in catalog.open.items() if is_open}


def as_position(number: int) -> Position:
    return Position(f"0/{number:X}")


def as_number(position: Position) -> int:
    return int(position.removeprefix("0/"), 16)


class FakeCatchUpEngine(FakeEngine):
    """`ports.CatchUpEngine` on a `FakeServer`: a source that keeps what it commits, or a copy that applies that."""

    def __init__(self, server: FakeServer, servers: Mapping[str, FakeServer]) -> None:
        super().__init__(server)
        self._servers = servers

    def _reach(self, call: str) -> Catalog:
        """Between two questions time passes, and what can be sent is."""
        for server in (self._server, *(slot.source for slot in self._server.subscriptions.values())):
            server.send()
        return super()._reach(call)

    def _control(self, call: str) -> Catalog:
        catalog = self._reach(call)
        if CONTROL_DATABASE not in catalog.open:
            raise SqlRefused("3D000", f"database {CONTROL_DATABASE} does not exist")
        return catalog

    def _change_of(self, call: str, subject: str) -> AbstractContextManager[None]:
        self._connect()
        return self._server.calls.change(f"engine.{call}", subject)

    def _slots(self, name: str) -> list[Slot]:
        return [slot for called, slot in self._server.slots.items() if called.startswith(name)]

    def fence_breach(self, databases: Sequence[DatabaseFence]) -> str | None:
        breach = super().fence_breach(databases)
        probed = not any(slot.connected for slot in self._server.slots.values())
        return breach or (self._server.slipped_through if probed else None)

    def begin_capture(self, name: str) -> tuple[tuple[str, ...], Position]:
        self.ensure_control_database()
        with self._change("begin_capture"):
            server, own = self._server, self._server.own
            own.rows.setdefault(CONTROL_DATABASE, [])
            captured = tuple(one for one in sorted(own.rows) if own.open.get(one) and one != CONTROL_DATABASE)
            for database in (*captured, CONTROL_DATABASE):
                own.published[database] = name
                own.position += 0x10  # a slot is written down in the log, where nobody commits it
                server.slots.setdefault(f"{name}_{database}", Slot(server, database, own.position))
        return (*captured, CONTROL_DATABASE), as_position(max(slot.begin for slot in self._slots(name)))

    def leave_a_note(self, rotation_id: str, note: str) -> None:
        row = f"{rotation_id} {note}"
        self._control("leave_a_note")
        with self._change_of("leave_a_note", note):
            if row not in self._server.own.rows[CONTROL_DATABASE]:
                self._server.commit(CONTROL_DATABASE, lambda there: there.rows[CONTROL_DATABASE].append(row))

    def begin_behind(self, name: str, database: str, position: Position) -> None:
        """The slot that sends takes the place of the one that captured."""
        with self._change_of("begin_behind", f"{database} {position}"):
            slots, slot = self._server.slots, f"{name}_{database}"
            if f"{slot}_sends" not in slots:
                if slot not in slots or slots[slot].lost:
                    raise CatchUpFailed(f"slot {slot} is gone")
                begin = max(slots[slot].begin, as_number(position) + 1)
                slots[f"{slot}_sends"] = Slot(self._server, database, begin)
            slots.pop(slot, None)

    def delivery(self, name: str, copy: CatchUpEngine) -> Delivery:
        catalog, slots = self._control("delivery"), self._slots(name)
        begin = min((slot.begin for slot in slots), default=None)
        return Delivery(
            slots=len(slots),
            position=None if begin is None else as_position(begin),
            bytes=0 if begin is None else max(catalog.position + 1 - begin, 0),
            seconds=self._server.seconds_behind,
            connected=bool(slots) and all(slot.connected for slot in slots),
            lost=any(slot.lost for slot in slots),
        )

    def has_delivered(self, name: str, copy: CatchUpEngine, slots: int, position: Position) -> bool:
        """Positions here are those at which commits begin: one that is delivered lies before its slot's."""
        self._control("has_delivered")
        return slots == sum(slot.begin > as_number(position) for slot in self._slots(name))

    @contextmanager
    def witnesses(
        self, rotation_id: str, name: str, databases: Sequence[DatabaseFence]
    ) -> Iterator[Callable[[], None]]:
        server, own = self._server, self._server.own
        if rotation_id in self._control("witnesses").evidence:
            yield lambda: None
            return
        attempt = server.attempts[rotation_id] = server.attempts.get(rotation_id, 0) + 1
        if attempt > 1:
            with self._change("open_once_more"):
                own.open |= {fence.name: True for fence in databases}
                own.limit |= {fence.name: fence.connection_limit for fence in databases}
        if closed := [fence.name for fence in databases if not own.open[fence.name] or own.limit.get(fence.name) == 0]:
            raise SqlRefused("55000", f"database {closed[0]} is not currently accepting connections")
        yield lambda: self._testify(rotation_id, attempt, databases)

    def _testify(self, rotation_id: str, attempt: int, databases: Sequence[DatabaseFence]) -> None:
        own = self._server.own
        with self._change("testify"):
            if rotation_id in own.evidence or attempt != self._server.attempts[rotation_id]:
                raise JournalMoved("another attempt has opened what this one had closed")
            if breach := self.fence_breach(databases):
                raise FenceBroken(breach)
            self._refuse_uncaptured()
            said = {fence.name: (own.catalogs(fence.name), own.sequences.get(fence.name)) for fence in databases}
            self._server.commit(CONTROL_DATABASE, lambda there: there.evidence.update({rotation_id: dict(said)}))

    def _refuse_uncaptured(self) -> None:
        if self._server.uncaptured:
            raise TargetMismatch(f"{self._server.uncaptured} was made after the capture had begun")

    def dismiss_senders(self, name: str) -> bool:
        with self._change("dismiss_senders"):
            for slot in self._slots(name):
                slot.connected = self._server.senders_stay
            self._server.send()  # whoever still subscribes comes back at once, where that is not closed
            return not any(slot.connected for slot in self._slots(name))

    def keep_closed(self) -> None:
        with self._change("keep_closed"):
            last_note = self._server.own.rows[CONTROL_DATABASE][-1]
            if (standing := self._server.own.decisions.get(last_note.partition(" ")[0])) is not None:
                raise DecisionLost(f"'{standing}' stands for the rotation that this copy was made for")
            self._server.own.limit |= {name: 0 for name in self._server.own.open if name != CONTROL_DATABASE}

    def is_untouched(self) -> bool:
        self._control("is_untouched")
        return not self._server.touched

    def end_of_recovery(self, begun: Position, log_lines: Callable[[str], Iterable[str]]) -> Position | None:
        return end_of_recovery(begun, log_lines)

    def is_subscribed(self, name: str, database: str) -> bool:
        self._control("is_subscribed")
        return database in self._server.subscriptions

    def subscribe(self, name: str, database: str, source: Database, position: Position) -> None:
        with self._change_of("subscribe", database):
            sending = self._servers[source.identifier]
            if not sending.reachable or not sending.own.open.get(database):
                raise DatabaseUnreachable(f"{source.identifier} lets nobody subscribe")
            # One that there is not sends nothing.
            slot = sending.slots.get(f"{name}_{database}_sends", Slot(sending, database, 0))
            slot.subscriber = self._server
            self._server.subscriptions[database] = slot

    def differing_catalogs(self, of_the_source: Mapping[str, str]) -> Sequence[str]:
        own = self._reach("differing_catalogs")
        return [f"pg_class of {name}" for name, seen in of_the_source.items() if seen != own.catalogs(name)]

    def catalogs(self, name: str) -> Mapping[str, str]:
        own = self._reach("catalogs")
        self._refuse_uncaptured()
        return {one: own.catalogs(one) for one, is_open in own.open.items() if is_open and one != CONTROL_DATABASE}

    def has_notes_once(self, rotation_id: str, notes: Sequence[str]) -> bool:
        rows = self._control("has_notes_once").rows.get(CONTROL_DATABASE, [])
        return sorted(row for row in rows if row.startswith(rotation_id)) == sorted(
            f"{rotation_id} {note}" for note in notes
        )

    def take_over(self, rotation_id: str, name: str) -> None:
        with self._change("take_over"):
            own = self._server.own
            if rotation_id not in own.evidence:
                raise TargetMismatch(f"the source has not testified for rotation {rotation_id}")
            for database, (catalogs, number) in own.evidence[rotation_id].items():
                if catalogs != own.catalogs(database):
                    raise TargetMismatch(f"{database} was changed since the snapshot")
                if number is not None:
                    own.sequences[database] = number
                self._unsubscribe(database)
            self._unsubscribe(CONTROL_DATABASE)

    def _unsubscribe(self, database: str) -> None:
        """Who sends stays until he notices, or is ended."""
        if slot := self._server.subscriptions.pop(database, None):
            slot.subscriber = None

    def end_capture(self, name: str) -> None:
        """A closed database keeps its publication."""
        with self._change("end_capture"):
            server, own = self._server, self._server.own
            server.slots = {called: slot for called, slot in server.slots.items() if not called.startswith(name)}
            closed = {one for one in own.published if not own.open.get(one) or own.limit.get(one) == 0}
            own.published = {one: called for one, called in own.published.items() if one in closed}


# -- AWS ---------------------------------------------------------------------------------------------------------------


class FakeRds:
    """Instances by identifier, each on a server of its own. A promotion takes `promotion_takes` looks."""

    def __init__(self, calls: Calls, clock: FakeClock) -> None:
        self._calls, self._clock = calls, clock
        self.instances: dict[str, Instance] = {}
        self.servers: dict[str, FakeServer] = {}
        self.differences: dict[str, tuple[Any, Any]] = {}
        self.unrepairable: list[str] = []
        self.backups: dict[str, datetime] = {}
        self.snapshots: dict[str, dict[str, Any]] = {}
        self.quotas: dict[str, tuple[int, int]] = {}
        self.proxies: dict[str, list[str]] = {}
        self.integrations: dict[str, list[str]] = {}
        """By source's ARN."""
        self.parameters: dict[str, str] = {}
        self.maintenance: dict[str, list[str]] = {}
        self.event_subscriptions: dict[str, list[str]] = {}
        self.options: dict[str, list[str]] = {}
        self.no_longer_made: set[tuple[str, str, str]] = set()
        """Engine, version and class."""
        self.restarts: dict[str, datetime] = {}
        self.busy = False
        """With whatever RDS does by itself: it takes no request then."""
        self.busy_with: set[str] = set()
        """Instances of which that is so, while of others it is not."""
        self.promotion_takes = 2
        self._promoting: dict[str, int] = {}
        self._deleting: dict[str, int] = {}

    def add(
        self,
        identifier: str,
        *,
        key_arn: str,
        replica_of: str | None = None,
        tags: Mapping[str, str] | None = None,
        **facts: Any,
    ) -> Instance:
        """Put an instance there, with its server."""
        database = Database(
            identifier=identifier,
            arn=ACCOUNT.format(service="rds", name=f"db:{identifier}"),
            resource_id=f"db-{identifier.upper()}",
            engine="postgres",
            engine_version="16.14",
            address=f"{identifier}.abc123.eu-central-1.rds.amazonaws.com",
            port=5432,
            kms_key_arn=key_arn,
            vpc_id="vpc-1",
        )
        instance = Instance(
            database=database,
            status="available",
            tags=dict(tags or {}),
            storage_encrypted=True,
            backup_retention_days=7,
            deletion_protection=False,
            replica_of=replica_of,
            replication_normal=replica_of is not None,
            has_status_infos=replica_of is not None,
            raw={"PreferredBackupWindow": "12:00-12:30"},
        )
        self.instances[identifier] = replace(instance, **facts)
        primary = self.servers.get(replica_of) if replica_of else None
        self.servers[identifier] = FakeServer(self._calls, identifier, primary)
        return self.instances[identifier]

    def add_cluster(
        self, identifier: str, *instances: str, key_arn: str, engine: str = "aurora-postgresql"
    ) -> Instance:
        """Put a cluster there, under ``cluster/<identifier>``, and its instances."""
        for name in instances:
            self.add(name, key_arn=key_arn, raw={"DBClusterIdentifier": identifier})
        of_an_instance = self.add(identifier, key_arn=key_arn)
        del self.instances[identifier]
        self.instances[CLUSTER + identifier] = replace(
            of_an_instance,
            database=of_an_instance.database.having(
                arn=ACCOUNT.format(service="rds", name=f"cluster:{identifier}"),
                resource_id=f"cluster-{identifier.upper()}",
                engine=engine,
                vpc_id=None,
            ),
            raw={
                "DBClusterMembers": [
                    {"DBInstanceIdentifier": name, "IsClusterWriter": name == instances[0]} for name in instances
                ],
                "DBClusterParameterGroup": "orders-of-a-cluster",
                "ReaderEndpoint": f"{identifier}-ro.abc123.eu-central-1.rds.amazonaws.com",
            },
        )
        return self.instances[CLUSTER + identifier]

    def alter(self, identifier: str, **facts: Any) -> None:
        self.instances[identifier] = replace(self.instances[identifier], **facts)

    def alter_at(self, arn: str, **facts: Any) -> None:
        (name,) = [name for name, one in self.instances.items() if one.database.arn == arn]
        self.alter(name, **facts)

    def describe_instance(self, identifier: str) -> Instance | None:
        assert not identifier.startswith(CLUSTER), "RDS knows no such name"
        return self._look(identifier)

    def _look(self, key: str) -> Instance | None:
        self._calls.ask("rds.describe_instance")
        self._time_passes(key)
        return self.instances.get(key)

    def describe_instance_by_resource_id(self, resource_id: str) -> Instance | None:
        self._calls.ask("rds.describe_instance_by_resource_id")
        found = [name for name, one in self.instances.items() if one.database.resource_id == resource_id]
        return self._look(found[0]) if found else None

    def log_lines(self, identifier: str, words: str, since: datetime) -> Sequence[str]:
        self._calls.ask("rds.log_lines")
        disk = self.servers[identifier].own
        return [line for line in disk.log if words in line and disk.logged_at >= since]

    def describe_opted_in(self) -> Sequence[Instance]:
        return [one for one in self._opted_in() if not one.database.is_cluster]

    def _opted_in(self) -> Sequence[Instance]:
        return [one for one in self.instances.values() if one.tags.get("key-rotation:enabled") == "true"]

    def request_read_replica(
        self,
        source: Instance,
        identifier: str,
        key_arn: str,
        tags: Mapping[str, str],
        *,
        like: Instance | None = None,
    ) -> None:
        if identifier in self.instances:
            raise NameTaken(f"{identifier} exists")
        settings = f" like {like.database.identifier}" if like is not None else ""
        with self._calls.change("rds.request_read_replica", identifier + settings):
            made = {"status": "creating"} if like is not None else {}
            self.add(identifier, key_arn=key_arn, replica_of=source.database.identifier, tags=tags, **made)

    def request_rename(self, instance: Instance, identifier: str) -> None:
        """It is called so at once; `finish_rename` lets it be available again."""
        if instance.status != "available":
            return
        former = instance.database.identifier
        with self._calls.change("rds.request_rename", f"{former} to {identifier}"):
            if identifier in self.instances:
                raise AwsRefused(f"{identifier} exists", "DBInstanceAlreadyExists")
            named = instance.database.having(
                identifier=identifier,
                arn=ACCOUNT.format(service="rds", name=f"db:{identifier}"),
                address=f"{identifier}.abc123.eu-central-1.rds.amazonaws.com",
            )
            self.instances[identifier] = replace(self.instances.pop(former), database=named, status="renaming")
            self.servers[identifier] = self.servers.pop(former)
            self._list_replicas()

    def finish(self, identifier: str) -> None:
        """Whatever RDS was at with it is done."""
        self.alter(identifier, status="available")

    def add_replica(self, identifier: str, of: str, **facts: Any) -> Instance:
        """Put one there, which its source lists."""
        made = self.add(identifier, replica_of=of, **{"key_arn": OLD_KEY, **facts})
        self._list_replicas()
        return made

    def become_primary(self, identifier: str) -> None:
        """Somebody promotes it, or its source is gone."""
        self.servers[identifier].promote()
        self.alter(identifier, replica_of=None, replication_normal=False, has_status_infos=False)
        self._list_replicas()

    def _list_replicas(self) -> None:
        for name, one in list(self.instances.items()):
            listed = sorted(other for other, its in self.instances.items() if its.replica_of == name)
            self.alter(name, raw={**one.raw, "ReadReplicaDBInstanceIdentifiers": listed})

    def request_restore(self, source: Instance, target_identifier: str, snapshot: str, tags: Mapping[str, str]) -> None:
        """The target has what the snapshot has, on a server of its own; it is there when `finish_restore` says so."""
        if (existing := self.instances.get(target_identifier)) is not None:
            if existing.tags.get(ROTATION_ID_TAG) != tags[ROTATION_ID_TAG]:
                raise NameTaken(f"{target_identifier} exists")
            return
        with self._calls.change("rds.request_restore", target_identifier):
            key_arn = self.snapshots[snapshot]["KmsKeyId"]
            made = self.add(target_identifier, key_arn=key_arn, tags=tags, status="creating")
            self.alter(target_identifier, database=made.database.having(address="", port=0))
            server = self.servers[target_identifier]
            server.own, server.reachable = self.snapshots[snapshot]["Catalog"].copy(), False
            self.put_groups_like(source.raw, target_identifier)

    def finish_restore(self, key: str) -> None:
        """``cluster/`` before the identifier of a cluster."""
        database = self.instances[key].database
        address = f"{database.identifier}.abc123.eu-central-1.rds.amazonaws.com"
        self.alter(key, status="available", database=database.having(address=address, port=5432))
        server = self.servers[database.identifier]
        server.reachable = True
        server.recover()
        server.own.logged_at = self._clock.now()

    def request_member(
        self, source: Instance, identifier: str, cluster_identifier: str, key_arn: str, tags: Mapping[str, str]
    ) -> None:
        """It is there when `finish_restore` says so; the first one lets the cluster answer."""
        if identifier in self.instances:
            raise NameTaken(f"{identifier} exists")
        with self._calls.change("rds.request_member", f"{identifier} like {source.database.identifier}"):
            of = {"DBClusterIdentifier": cluster_identifier}
            self.add(identifier, key_arn=key_arn, tags=tags, status="creating", raw=of)
            cluster = self.instances[CLUSTER + cluster_identifier]
            members = cluster.raw["DBClusterMembers"]
            member = {"DBInstanceIdentifier": identifier, "IsClusterWriter": not members}
            self.alter(CLUSTER + cluster_identifier, raw={**cluster.raw, "DBClusterMembers": [*members, member]})
            self.put_groups_like(cluster.raw, identifier)

    def settings_differences(self, source: Instance, target: Instance) -> Mapping[str, tuple[Any, Any]]:
        return dict(self.differences)

    def request_setting_repair(self, source: Instance, target: Instance, differences: Collection[str]) -> list[str]:
        with self._calls.change("rds.request_setting_repair", ",".join(sorted(differences))):
            for name in set(differences) - set(self.unrepairable):
                del self.differences[name]
        return [name for name in differences if name in self.unrepairable]

    def account_quotas(self) -> Mapping[str, tuple[int, int]]:
        return self.quotas

    def is_orderable(self, engine: str, version: str, instance_class: str) -> bool:
        self._calls.ask("rds.is_orderable")
        return (engine, version, instance_class) not in self.no_longer_made

    def parameters_of(self, group: str) -> Mapping[str, str]:
        self._calls.ask("rds.parameter")
        return self.parameters

    def proxies_of(self, identifier: str) -> Sequence[str]:
        return self.proxies.get(identifier, [])

    def integrations_of(self, arn: str) -> Sequence[str]:
        return self.integrations.get(arn, [])

    def pending_maintenance(self, arn: str) -> Sequence[str]:
        return self.maintenance.get(arn, [])

    def event_subscriptions_of(self, identifier: str) -> Sequence[str]:
        return self.event_subscriptions.get(identifier, [])

    def last_backup_at(self, resource_id: str) -> datetime | None:
        return self.backups.get(resource_id)

    def request_promotion(self, target_identifier: str, source: Instance) -> None:
        if self.instances[target_identifier].replica_of is None:
            raise PromotionFailed(f"{target_identifier} is not a replica")
        if (status := self.instances[target_identifier].status) != "available":
            raise PromotionFailed(f"{target_identifier} is {status}")
        with self._calls.change("rds.request_promotion", target_identifier):
            self._promoting[target_identifier] = self.promotion_takes
            self.alter(target_identifier, status="modifying")

    def refuse_promotion(self, identifier: str) -> None:
        """RDS accepted the promotion and gives it up: the instance is a replica as before."""
        del self._promoting[identifier]
        self.alter(identifier, status="available")

    def _time_passes(self, identifier: str) -> None:
        if identifier in self._promoting:
            self._promoting[identifier] -= 1
            if self._promoting[identifier] < 0:
                del self._promoting[identifier]
                self.servers[identifier].promote()
                self.alter(
                    identifier, status="available", replica_of=None, replication_normal=False, has_status_infos=False
                )
        if identifier in self._deleting:
            self._deleting[identifier] -= 1
            if self._deleting[identifier] < 0:
                del self._deleting[identifier], self.instances[identifier]
                self.servers[identifier.removeprefix(CLUSTER)].reachable = False

    def options_with_groups(self, option_group: str) -> Sequence[str]:
        return self.options.get(option_group, [])

    def request_security_groups(self, identifier: str, groups: Sequence[str]) -> None:
        with self._calls.change("rds.request_security_groups", f"{identifier}: {', '.join(groups)}"):
            if not self.busy:
                self.put_groups(identifier, *groups, status="adding")

    def put_groups(self, key: str, *groups: str, status: str = "active") -> None:
        """``cluster/`` before the identifier of a cluster, whose instances show them, too."""
        shown = [{"VpcSecurityGroupId": group, "Status": status} for group in groups]
        members = self.instances[key].raw.get("DBClusterMembers", ())
        for one in (key, *(member["DBInstanceIdentifier"] for member in members)):
            self.alter(one, raw={**self.instances[one].raw, "VpcSecurityGroups": shown})

    def put_groups_like(self, raw: Mapping[str, Any], key: str) -> None:
        if groups := raw.get("VpcSecurityGroups"):
            self.put_groups(key, *(one["VpcSecurityGroupId"] for one in groups))

    def request_reboot(self, identifier: str) -> bool:
        with self._calls.change("rds.request_reboot", identifier):
            is_busy = self.busy or identifier in self.busy_with
            if not is_busy:
                self.alter(identifier, status="rebooting")
            return not is_busy

    def finish_reboot(self, identifier: str) -> None:
        self.alter(identifier, status="available")
        self.restarts[identifier] = self._clock.now()

    def restarted_at(self, identifier: str, since: datetime) -> datetime | None:
        self._calls.ask("rds.restarted_at")
        moment = self.restarts.get(identifier)
        return moment if moment is not None and moment > since else None

    def set_tags(self, arn: str, tags: Mapping[str, str]) -> None:
        with self._calls.change("rds.set_tags", arn):
            self.alter_at(arn, tags={**self._by_arn(arn).tags, **tags})

    def remove_tags(self, arn: str, names: Sequence[str]) -> None:
        with self._calls.change("rds.remove_tags", arn):
            self.alter_at(arn, tags={k: value for k, value in self._by_arn(arn).tags.items() if k not in names})

    def _by_arn(self, arn: str) -> Instance:
        return next(one for one in self.instances.values() if one.database.arn == arn)

    def describe_snapshot(self, identifier: str) -> Mapping[str, Any] | None:
        return self.snapshots.get(identifier)

    def snapshots_under(self, key_arn: str, tags: Mapping[str, str]) -> Sequence[str]:
        return sorted(
            name
            for name, one in self.snapshots.items()
            if one["KmsKeyId"] == key_arn
            and tags.items() <= {tag["Key"]: tag["Value"] for tag in one["TagList"]}.items()
        )

    def request_snapshot(self, identifier: str, source_identifier: str, tags: Mapping[str, str]) -> None:
        if identifier in self.snapshots:
            return
        with self._calls.change("rds.request_snapshot", identifier):
            key_arn = self.instances[source_identifier].database.kms_key_arn
            catalog = self.servers[source_identifier.removeprefix(CLUSTER)].catalog.copy()
            taken_at = dict.fromkeys(("SnapshotCreateTime", "OriginalSnapshotCreateTime"), self._clock.now())
            self.snapshots[identifier] = snapshot(identifier, key_arn, tags, catalog) | taken_at

    def request_snapshot_copy(self, source: str, copy: str, key_arn: str, tags: Mapping[str, str]) -> None:
        if copy in self.snapshots:
            return
        with self._calls.change("rds.request_snapshot_copy", copy):
            original = self.snapshots[source]
            taken_at = {
                "SnapshotCreateTime": self._clock.now(),
                "OriginalSnapshotCreateTime": original.get("OriginalSnapshotCreateTime"),
            }
            self.snapshots[copy] = snapshot(copy, key_arn, tags, original["Catalog"]) | taken_at

    def request_snapshot_deletion(self, identifier: str) -> None:
        with self._calls.change("rds.request_snapshot_deletion", identifier):
            del self.snapshots[identifier]

    def disable_deletion_protection(self, identifier: str) -> None:
        with self._calls.change("rds.disable_deletion_protection", identifier):
            self.alter(identifier, deletion_protection=False)

    def request_instance_deletion(self, of: Database, *, keep_automated_backups: bool) -> None:
        identifier = CLUSTER + of.identifier if of.is_cluster else of.identifier
        if self.instances[identifier].deletion_protection:
            raise AwsRefused(f"{identifier} is protected against deletion")
        kept = " keeping backups" if keep_automated_backups else ""
        with self._calls.change("rds.request_instance_deletion", identifier + kept):
            self._deleting[identifier] = 1
            self.alter(identifier, status="deleting")


class FakeClusters:
    """Those of a `FakeRds`, which has everything."""

    def __init__(self, calls: Calls, rds: FakeRds) -> None:
        self._calls, self._rds = calls, rds
        self.differences: dict[str, tuple[Any, Any]] = {}
        self.describe_snapshot = rds.describe_snapshot
        self.describe_by_resource_id = rds.describe_instance_by_resource_id
        self.snapshots_under = rds.snapshots_under
        self.request_snapshot_deletion = rds.request_snapshot_deletion
        self.parameters = {"rds.logical_replication": "1"}
        self.unrepairable: list[str] = []
        self.restored_like: dict[str, Mapping[str, Any]] = {}
        """Of each cluster that was restored: the raw facts that its settings were taken from."""

    def describe(self, identifier: str) -> Instance | None:
        return self._rds._look(CLUSTER + identifier)

    def describe_opted_in(self) -> Sequence[Instance]:
        return [one for one in self._rds._opted_in() if one.database.is_cluster]

    def settings_differences(self, source: Instance, target: Instance) -> Mapping[str, tuple[Any, Any]]:
        return dict(self.differences)

    def request_setting_repair(self, source: Instance, target: Instance, differences: Collection[str]) -> list[str]:
        with self._calls.change("clusters.request_setting_repair", ",".join(sorted(differences))):
            for name in set(differences) - set(self.unrepairable):
                del self.differences[name]
        return [name for name in differences if name in self.unrepairable]

    def request_missing_roles(self, source: Instance, target: Instance) -> None:
        with self._calls.change("clusters.request_missing_roles", target.database.identifier):
            del self.differences["associated roles"]

    def request_restore(
        self, source: Instance, target_identifier: str, snapshot: str, key_arn: str, tags: Mapping[str, str]
    ) -> None:
        """It has what the snapshot has, and answers when `FakeRds.finish_restore` says so."""
        if CLUSTER + target_identifier in self._rds.instances:
            raise NameTaken(f"{target_identifier} exists")
        with self._calls.change("clusters.request_restore", f"{target_identifier} of {snapshot}"):
            engine, number = source.database.engine, 3 if source.database.is_multi_az_cluster else 0
            comes_with = [f"{target_identifier}-instance-{one + 1}" for one in range(number)]
            self._rds.add_cluster(target_identifier, *comes_with, key_arn=key_arn, engine=engine)
            for instance in comes_with:
                self._rds.alter(instance, status="creating")
            protected = source.deletion_protection
            made = {"tags": dict(tags), "status": "creating", "deletion_protection": protected}
            self._rds.alter(CLUSTER + target_identifier, **made)
            self._rds.put_groups_like(source.raw, CLUSTER + target_identifier)
            self.restored_like[target_identifier] = source.raw
            server = self._rds.servers[target_identifier]
            server.own, server.reachable = self._rds.snapshots[snapshot]["Catalog"].copy(), False

    def parameters_of(self, group: str) -> Mapping[str, str]:
        return self.parameters

    def request_security_groups(self, identifier: str, groups: Sequence[str]) -> None:
        self._rds.request_security_groups(CLUSTER + identifier, groups)

    def request_snapshot(self, identifier: str, source_identifier: str, tags: Mapping[str, str]) -> None:
        self._rds.request_snapshot(identifier, CLUSTER + source_identifier, tags)

    def request_snapshot_copy(self, source: str, copy: str, key_arn: str, tags: Mapping[str, str]) -> None:
        if self._rds.snapshots[source]["KmsKeyId"] is None:
            raise AwsRefused(f"{source} is unencrypted: RDS copies no such snapshot under a key")
        if any(one.database.is_multi_az_cluster for one in self._rds.instances.values()):
            raise AwsRefused(f"{source} is of a Multi-AZ DB cluster: RDS copies no such snapshot")
        self._rds.request_snapshot_copy(source, copy, key_arn, tags)

    def disable_deletion_protection(self, identifier: str) -> None:
        self._rds.disable_deletion_protection(CLUSTER + identifier)

    def request_deletion(self, of: Database, *, keep_automated_backups: bool) -> None:
        cluster = self._rds.instances[CLUSTER + of.identifier]
        members = [one["DBInstanceIdentifier"] for one in cluster.raw["DBClusterMembers"]]
        if cluster.database.is_multi_az_cluster and not cluster.deletion_protection:
            for name in members:
                self._rds.instances.pop(name, None)
        if not any(name in self._rds.instances for name in members):
            self._rds.request_instance_deletion(of, keep_automated_backups=keep_automated_backups)


class FakeBlueGreen:
    """One deployment at a time, available at once. A switchover goes on until a test says how it ends."""

    def __init__(self, calls: Calls, rds: FakeRds) -> None:
        self._calls, self._rds = calls, rds
        self.live: BlueGreenDeployment | None = None
        self.pairs: list[tuple[str, str]] = []
        """Resource ids of blue and green."""
        self.left_out: set[str] = set()
        """ARNs of members whose key RDS ignores, though it was told one."""
        self.others: list[str] = []
        self.refuses = False
        """A switchover, whatever it shows."""
        self.shows_stale_status = False
        """As RDS may for a moment: available, though it has accepted a switchover."""

    def describe(self, name: str) -> BlueGreenDeployment | None:
        self._calls.ask("blue_green.describe")
        live = self.live
        if live is None or live.name != name:
            return None
        if live.status == "DELETING":
            self.live = None
        if self.shows_stale_status:
            live = replace(live, status="AVAILABLE")
        return replace(live, members=tuple((self._arn(blue), self._arn(green)) for blue, green in self.pairs))

    def deployments_of(self, source_arn: str) -> Sequence[str]:
        return self.others

    def request(self, name: str, members: Sequence[Instance], keys: Mapping[str, str], tags: Mapping[str, str]) -> None:
        if self.live is not None:
            return
        source = members[0]
        with self._calls.change("blue_green.request", name):
            if source.database.is_cluster:
                self._copy_cluster(source, keys)
            blues = [one for one in self._rds.instances.values() if one.database.arn in keys]
            for blue in blues if not source.database.is_cluster else ():
                arn, identifier = blue.database.arn, blue.database.identifier
                key = blue.database.kms_key_arn if arn in self.left_out else keys[arn]
                green = self._rds.add(
                    f"{identifier}-green-1", key_arn=key or "", replica_of=identifier, tags=blue.tags,
                    deletion_protection=blue.deletion_protection,
                )  # fmt: skip
                self.pairs.append((blue.database.resource_id, green.database.resource_id))
            self.live = BlueGreenDeployment("bgd-1", name, "AVAILABLE", "", dict(tags), ())

    def _copy_cluster(self, blue: Instance, keys: Mapping[str, str]) -> None:
        """RDS refuses an entry of an instance of the cluster."""
        (key_arn,) = keys.values()
        names = [one["DBInstanceIdentifier"] for one in blue.raw["DBClusterMembers"]]
        if blue.database.arn in self.left_out:
            key_arn = blue.database.kms_key_arn or ""
        green = self._rds.add_cluster(
            f"{blue.database.identifier}-green-1", *(f"{name}-green-1" for name in names), key_arn=key_arn
        )
        self._rds.alter_at(green.database.arn, tags=blue.tags, deletion_protection=blue.deletion_protection)
        self.pairs.append((blue.database.resource_id, green.database.resource_id))
        for name in names:
            one, other = self._rds.instances[name], self._rds.instances[f"{name}-green-1"]
            self.pairs.append((one.database.resource_id, other.database.resource_id))

    def request_switchover(self, identifier: str, timeout_seconds: int) -> str | None:
        if self.live is None or self.live.status != "AVAILABLE" or self.refuses:
            return f"{identifier} cannot be switched over now"
        with self._calls.change("blue_green.request_switchover", identifier):
            self.becomes("SWITCHOVER_IN_PROGRESS")
        return None

    def request_deletion(self, identifier: str, *, with_target: bool) -> bool:
        if self.live is None:
            return True
        if self.live.status in ("PROVISIONING", "SWITCHOVER_IN_PROGRESS"):
            return False
        if with_target and any(self._of(green).deletion_protection for _, green in self.pairs):
            return False
        if with_target and self.live.status == "SWITCHOVER_COMPLETED":
            raise AwsRefused("DeleteTarget cannot be given now", "InvalidParameterCombination")
        with self._calls.change("blue_green.request_deletion", f"{identifier} with_target={with_target}"):
            for _, green in self.pairs if with_target else ():
                del self._rds.instances[_key(self._of(green).database)]
            self.becomes("DELETING")
        return True

    def becomes(self, status: str) -> None:
        assert self.live is not None
        self.live = replace(self.live, status=status)

    def complete(self) -> None:
        """RDS exchanges the names; green gets blue's tags."""
        for blue_id, green_id in self.pairs:
            blue, green = self._of(blue_id), self._of(green_id)
            name = blue.database.identifier
            del self._rds.instances[_key(green.database)]
            followers = "ReadReplicaDBInstanceIdentifiers"
            left = {followers: [f"{one}-old1" for one in blue.raw.get(followers, ())]}
            self._put(replace(blue, raw={**blue.raw, **left, **_members(blue, "-old1")}), f"{name}-old1")
            exchanged = replace(green, replica_of=blue.replica_of, tags=dict(blue.tags))
            self._put(replace(exchanged, raw={**green.raw, **_members(blue, "")}), name)
        self.becomes("SWITCHOVER_COMPLETED")

    def _put(self, instance: Instance, name: str) -> None:
        address = f"{name}.abc123.eu-central-1.rds.amazonaws.com"
        arn = f"{instance.database.arn.rpartition(':')[0]}:{name}"
        self._rds.servers[name] = FakeServer(self._calls, name)
        database = instance.database.having(identifier=name, arn=arn, address=address)
        self._rds.instances[_key(database)] = replace(instance, database=database)

    def _of(self, resource_id: str) -> Instance:
        return next(one for one in self._rds.instances.values() if one.database.resource_id == resource_id)

    def _arn(self, resource_id: str) -> str:
        found = [o.database.arn for o in self._rds.instances.values() if o.database.resource_id == resource_id]
        return found[0] if found else ""


def _members(of: Instance, suffix: str) -> dict[str, Any]:
    """As a switchover names the instances of a cluster."""
    members = of.raw.get("DBClusterMembers", ())
    renamed = [{**one, "DBInstanceIdentifier": one["DBInstanceIdentifier"] + suffix} for one in members]
    return {"DBClusterMembers": renamed} if members else {}


def _key(database: Database) -> str:
    return (CLUSTER if database.is_cluster else "") + database.identifier


def snapshot(identifier: str, key_arn: str | None, tags: Mapping[str, str], catalog: Catalog) -> dict[str, Any]:
    """``Catalog``: the data, which RDS does not show."""
    return {
        "DBSnapshotIdentifier": identifier,
        "Status": "available",
        "KmsKeyId": key_arn,
        "TagList": [{"Key": name, "Value": value} for name, value in tags.items()],
        "Catalog": catalog,
    }


class FakeKms:
    def __init__(self, calls: Calls, clock: FakeClock, region: str = "") -> None:
        self._calls, self._clock, self._region = calls, clock, region
        self.keys: dict[str, KeyFacts] = {}
        self.aliases: dict[str, str] = {}
        self.descriptions: dict[str, str] = {}
        self._names = itertools.count(1)

    def add(self, arn: str, *, manager: str = "CUSTOMER", tags: Mapping[str, str] | None = None) -> KeyFacts:
        self.keys[arn] = KeyFacts(arn, manager, "Enabled", False, dict(tags or {}), self._clock.now())
        return self.keys[arn]

    def describe_key(self, key: str) -> KeyFacts:
        self._calls.ask("kms.describe_key")
        arn = self.aliases.get(key, key)
        if arn not in self.keys:
            raise AwsRefused(f"{key} does not exist", "NotFoundException")
        return self.keys[arn]

    def key_state(self, key_arn: str) -> str:
        return self.describe_key(key_arn).state

    def created_at(self, key_arn: str) -> datetime:
        return self.describe_key(key_arn).created_at

    def owners_aliases(self, key_arn: str) -> Sequence[str]:
        self._calls.ask("kms.owners_aliases")
        return [alias for alias, arn in self.aliases.items() if arn == key_arn and is_owners_alias(alias)]

    def create_key(self, description: str, tags: Mapping[str, str], like: KeyFacts | None, default_policy: bool) -> str:
        with self._calls.change("kms.create_key", self._region):
            made = ACCOUNT.format(service="kms", name=f"key/made-{next(self._names)}")
            arn = made.replace("eu-central-1", self._region or "eu-central-1")
            self.add(arn, tags=(owners_tags(like.tags) if like else {}) | dict(tags))
            self.descriptions[arn] = description
        return arn

    def complete_key(self, key_arn: str, alias: str, like: KeyFacts | None) -> None:
        with self._calls.change("kms.complete_key", alias):
            self.aliases[alias] = key_arn

    def find_key(self, description: str, rotation_id: str) -> str | None:
        self._calls.ask("kms.find_key")
        tagged = (one for one in self.keys.values() if one.tags.get(ROTATION_ID_TAG) == rotation_id)
        ours = [one for one in tagged if self.descriptions.get(one.arn) == description]
        return min(ours, key=lambda one: one.created_at).arn if ours else None

    def delete_alias(self, alias: str) -> None:
        with self._calls.change("kms.delete_alias", alias):
            self.aliases.pop(alias, None)

    def disable_key(self, key_arn: str) -> None:
        with self._calls.change("kms.disable_key", key_arn):
            self.keys[key_arn] = replace(self.keys[key_arn], state="Disabled")

    def enable_key(self, key_arn: str) -> None:
        with self._calls.change("kms.enable_key", key_arn):
            self.keys[key_arn] = replace(self.keys[key_arn], state="Enabled")

    def schedule_key_deletion(self, key_arn: str, pending_window_days: int) -> datetime:
        with self._calls.change("kms.schedule_key_deletion", f"{key_arn} {pending_window_days}"):
            deletion_at = self._clock.now() + timedelta(days=pending_window_days)
            self.keys[key_arn] = replace(self.keys[key_arn], state="PendingDeletion", deletion_at=deletion_at)
        return deletion_at


class FakeReplicatedBackups:
    """By Region and resource id. RDS lists what it was asked for at once, unless it is `slow`."""

    def __init__(self, calls: Calls, rds: FakeRds) -> None:
        self._calls, self._rds = calls, rds
        self.there: dict[tuple[str, str], ReplicatedBackup] = {}
        self.others = 0
        """Of other databases, in each Region."""
        self.slow = False

    def add(self, identifier: str, region: str, key_arn: str | None, retention_days: int = 7) -> ReplicatedBackup:
        """Put it there, and let the instance say so."""
        instance = self._rds.instances[identifier]
        arn = f"arn:aws:rds:{region}:123456789012:auto-backup:ab-{identifier}"
        backup = ReplicatedBackup(region=region, arn=arn, key_arn=key_arn, retention_days=retention_days)
        self.there[region, instance.database.resource_id] = backup
        shown = [*instance.raw.get(BACKUP_REPLICATIONS, ()), {"DBInstanceAutomatedBackupsArn": arn}]
        self._rds.alter(identifier, raw={**instance.raw, BACKUP_REPLICATIONS: shown})
        return backup

    def at(self, arn: str) -> ReplicatedBackup | None:
        self._calls.ask("replicated_backups.at")
        return next((one for one in self.there.values() if one.arn == arn), None)

    def of(self, database: Database, region: str) -> ReplicatedBackup | None:
        self._calls.ask("replicated_backups.of")
        return None if self.slow else self.there.get((region, database.resource_id))

    def count(self, region: str) -> int:
        return self.others + sum(there == region for there, _ in self.there)

    def request(self, database: Database, region: str, key_arn: str, retention_days: int) -> None:
        with self._calls.change("replicated_backups.request", f"{region} {database.identifier} {retention_days}"):
            if (region, database.resource_id) not in self.there:
                self.add(database.identifier, region, key_arn, retention_days)


class FakeKeyUsers:
    """Instances and snapshots use their keys; `others` are users that a test adds."""

    def __init__(self, rds: FakeRds) -> None:
        self._rds = rds
        self.others: dict[str, list[KeyUser]] = {}

    def users_of(self, key_arn: str) -> Sequence[KeyUser]:
        users = [
            KeyUser(kind="database", identifier=name)
            for name, one in self._rds.instances.items()
            if one.database.kms_key_arn == key_arn
        ]
        users += [
            KeyUser(kind="snapshot", identifier=name)
            for name, one in self._rds.snapshots.items()
            if one["KmsKeyId"] == key_arn
        ]
        return users + self.others.get(key_arn, [])


class FakeDns:
    def __init__(self, calls: Calls) -> None:
        self._calls = calls
        self.records: dict[tuple[str, str], tuple[str, int]] = {}
        self.found: list[Finding] = []

    def describe_record(self, zone_id: str, name: str) -> tuple[str, int] | None:
        self._calls.ask("dns.describe_record")
        return self.records.get((zone_id, name))

    def limitations(self, zone_id: str, name: str, address: str) -> Sequence[Finding]:
        return self.found

    def write_record(self, zone_id: str, name: str, value: str, ttl_seconds: int, expected: tuple[str, int]) -> str:
        with self._calls.change("dns.write_record", f"{name} {value} {ttl_seconds}"):
            if self.records[zone_id, name] not in (expected, (value, ttl_seconds)):
                raise ConnectivityChanged(f"{name} is {self.records[zone_id, name]}, not {expected}")
            self.records[zone_id, name] = (value, ttl_seconds)
        return "change-1"


class FakeProxies:
    def __init__(self, calls: Calls) -> None:
        self._calls = calls
        self.targets: dict[str, ProxyTarget | None] = {}
        self.found: list[Finding] = []

    def limitations(self, proxy: str, database: Database) -> Sequence[Finding]:
        return self.found

    def target_of(self, proxy: str) -> ProxyTarget | None:
        self._calls.ask("proxies.target_of")
        return self.targets[proxy]

    def lead(self, proxy: str, database: Database, instead_of: Database) -> None:
        with self._calls.change("proxies.lead", f"{proxy} {database.identifier}"):
            found = self.targets[proxy]
            if found is not None and found.name not in (own_name(database), own_name(instead_of)):
                raise ConnectivityChanged(f"{proxy} leads to {found.name}")
            self.targets[proxy] = ProxyTarget(own_name(database), None)


class FakeMonitoring:
    def __init__(self, calls: Calls) -> None:
        self._calls = calls
        self.watchers: dict[str, Watchers] = {}

    def watchers_of(self, identifier: str) -> Watchers:
        self._calls.ask("monitoring.watchers_of")
        return self.watchers.get(identifier, Watchers())


class FakeNames:
    """What a client is told: records lead to the addresses of instances, and each of those is one IP address."""

    def __init__(self, dns: FakeDns, rds: FakeRds) -> None:
        self._dns, self._rds = dns, rds
        self.private: dict[str, str] = {}
        """Names that lead elsewhere inside the VPC than Route 53's API says."""

    def addresses(self, name: str) -> frozenset[str]:
        cnames = {record: value for (_, record), (value, _) in self._dns.records.items()} | self.private
        name = cnames.get(name, name)
        return frozenset(
            f"10.0.0.{number}"
            for number, one in enumerate(self._rds.instances.values())
            if one.database.address == name
        )


class FakeSecrets:
    def __init__(self, calls: Calls) -> None:
        self._calls = calls
        self.logins: dict[str, tuple[str, str]] = {}
        self.endpoints: dict[str, EndpointSecret] = {}
        self.found: dict[str, list[Finding]] = {}
        """By purpose: what speaks against the secret."""
        self.managed: dict[str, ManagedRotation] = {}
        """By secret: Secrets Manager's own rotation, switched on or not."""
        self.suspended: set[str] = set()
        self.under_way: list[str] = []
        """By look: what somebody who looks for a rotation under way sees; nothing when there is no more of it."""

    def login(self, secret_id: str) -> tuple[str, str]:
        self._calls.ask("secrets.login")
        if secret_id not in self.logins:
            raise LoginRefused(f"the login secret cannot be read: {secret_id}")
        return self.logins[secret_id]

    def describe_endpoint(self, secret_id: str) -> EndpointSecret:
        return self.endpoints[secret_id]

    def limitations(self, secret_id: str, *, purpose: str) -> Sequence[Finding]:
        return self.found.get(purpose, [])

    def write_endpoint(self, secret: EndpointSecret, database: Database) -> None:
        with self._calls.change("secrets.write_endpoint", database.address):
            self.endpoints[secret.arn] = secret.having(host=database.address, port=database.port)

    def restore_endpoint(self, secret: EndpointSecret, database: Database) -> None:
        with self._calls.change("secrets.restore_endpoint", secret.host):
            if self.endpoints[secret.arn].host == database.address:
                self.endpoints[secret.arn] = secret

    def managed_rotation(self, secret_id: str) -> ManagedRotation | None:
        self._calls.ask("secrets.managed_rotation")
        managed = self.managed.get(secret_id)
        return None if managed is None or managed.secret_arn in self.suspended else managed

    def rotation_under_way(self, secret_id: str) -> str | None:
        return (self.under_way.pop(0) or None) if self.under_way else None

    def suspend_rotation(self, managed: ManagedRotation) -> None:
        if managed.secret_arn not in self.suspended:
            with self._calls.change("secrets.suspend_rotation", managed.secret_arn):
                self.suspended.add(managed.secret_arn)

    def restore_rotation(self, managed: ManagedRotation) -> None:
        if managed.secret_arn in self.suspended:
            with self._calls.change("secrets.restore_rotation", managed.secret_arn):
                self.suspended.discard(managed.secret_arn)


class FakeRecovery:
    """The one-time schedules, by rotation id."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls
        self.at: dict[str, datetime] = {}

    def is_set(self, rotation: Rotation) -> bool:
        self._calls.ask("recovery.is_set")
        return rotation.rotation_id in self.at

    def set(self, rotation: Rotation, at: datetime) -> None:
        with self._calls.change("recovery.set"):
            self.at[rotation.rotation_id] = at

    def remove(self, rotation: Rotation) -> None:
        with self._calls.change("recovery.remove"):
            self.at.pop(rotation.rotation_id, None)


class FakeWorkflow:
    def __init__(self, calls: Calls) -> None:
        self._calls = calls
        self.running: set[str] = {EXECUTION}
        self.names: set[str] = set()
        """Used up: of an execution that is over nothing is started again."""
        self.answers: list[tuple[str, Mapping[str, Any] | None, str]] = []

    def is_running(self, execution_arn: str) -> bool:
        return execution_arn in self.running

    def stop(self, execution_arn: str, reason: str) -> None:
        with self._calls.change("workflow.stop", execution_arn):
            self.running.discard(execution_arn)

    def start_recovery(self, execution_arn: str, name: str) -> None:
        with self._calls.change("workflow.start_recovery", name):
            if name not in self.names:
                self.running.add(execution_arn)
            self.names.add(name)

    def answer(self, task_token: str, output: Mapping[str, Any] | None, error: str = "", cause: str = "") -> None:
        with self._calls.change("workflow.answer", task_token):
            self.answers.append((task_token, output, error))


class FakeNotifier:
    def __init__(self, calls: Calls) -> None:
        self._calls = calls
        self.sent: list[tuple[str, str, Mapping[str, Any]]] = []

    def publish(self, moment: str, subject: str, message: Mapping[str, Any]) -> None:
        with self._calls.change("notifier.publish", moment):
            self.sent.append((moment, subject, message))

    def describe_topic(self) -> None:
        self._calls.ask("notifier.describe_topic")


class FakeLedger:
    """Lock and journal with epochs, as `ledger.DynamoLedger` keeps them."""

    def __init__(self, calls: Calls, clock: FakeClock) -> None:
        self._calls, self._clock = calls, clock
        self.locks: dict[str, Lock] = {}
        self.unreadable: list[str] = []
        self.journal: dict[str, Entry] = {}
        self.lineage: dict[str, str] = {}
        self.decisions: dict[str, Verdict] = {}

    def decide(self, rotation_id: str, base_name: str, verdict: Verdict) -> Verdict:
        with self._calls.change("ledger.decide", verdict):
            return self.decisions.setdefault(rotation_id, verdict)

    def verdict(self, rotation_id: str, base_name: str) -> Verdict | None:
        return self.decisions.get(rotation_id)

    def acquire(self, rotation: Rotation) -> Lock | None:
        plan, _ = rotation.planned()
        mine = Lock(rotation.rotation_id, rotation.execution_arn)
        holder = self.locks.setdefault(plan.base_name, mine)
        if holder.rotation_id != rotation.rotation_id:
            return holder
        self.locks[plan.base_name] = mine
        return None

    def release_lock(self, rotation: Rotation) -> None:
        with self._calls.change("ledger.release_lock"):
            plan, _ = rotation.planned()
            holder = self.locks.get(plan.base_name)
            if holder is not None and holder.rotation_id == rotation.rotation_id:
                del self.locks[plan.base_name]

    def open(self, rotation: Rotation) -> Rotation:
        if rotation.rotation_id not in self.journal:
            self.journal[rotation.rotation_id] = Entry(rotation.having(epoch=1), self._clock.now())
        return self.journal[rotation.rotation_id].rotation

    def current(self, rotation: Rotation, *, takes_over: bool = False) -> Rotation:
        journal = self.journal[rotation.rotation_id].rotation
        ours = takes_over and journal.execution_arn == rotation.execution_arn
        if journal.epoch != rotation.epoch and not ours:
            raise EpochSuperseded("taken over")
        return journal

    def record(self, rotation: Rotation) -> None:
        entry = self.journal[rotation.rotation_id]
        if entry.rotation.epoch != rotation.epoch:
            raise EpochSuperseded("taken over")
        with self._calls.change("ledger.record"):
            if entry.closed_at is None:
                self.journal[rotation.rotation_id] = replace(entry, rotation=rotation, recorded_at=self._clock.now())

    def take_over(self, rotation: Rotation, execution_arn: str) -> Rotation:
        entry = self.journal[rotation.rotation_id]
        if entry.rotation.epoch != rotation.epoch:
            raise EpochSuperseded("taken over")
        with self._calls.change("ledger.take_over"):
            taken = entry.rotation.having(epoch=rotation.epoch + 1, execution_arn=execution_arn)
            self.journal[rotation.rotation_id] = replace(entry, rotation=taken)
        return taken

    def close(self, rotation: Rotation, outcome: str) -> None:
        with self._calls.change("ledger.close", outcome):
            self.journal[rotation.rotation_id] = Entry(rotation, self._clock.now(), outcome, self._clock.now())

    def entry(self, base_name: str, rotation_id: str) -> Entry | None:
        found = self.journal.get(rotation_id)
        return found if found is not None and found.rotation.planned()[0].base_name == base_name else None

    def entries(self, base_name: str) -> Sequence[Entry]:
        return [one for one in self.journal.values() if one.rotation.planned()[0].base_name == base_name]

    def unfinished(self) -> tuple[Sequence[Entry], Sequence[str]]:
        return [one for one in self.journal.values() if one.closed_at is None], self.unreadable

    def left_by(self, execution_arn: str) -> Entry | None:
        found = (one for one in self.unfinished()[0] if one.rotation.execution_arn == execution_arn)
        return next(found, None)

    def successor(self, base_name: str) -> str | None:
        if not base_name:
            raise AwsRefused("dynamodb:GetItem: an empty key", "ValidationException")
        return self.lineage.get(base_name)

    def advance(self, rotation: Rotation) -> None:
        with self._calls.change("ledger.advance"):
            self.lineage[rotation.planned()[0].base_name] = rotation.synced_target().resource_id


class FakeSecurityGroups:
    """By group: the ids of its inbound rules."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls
        self.rules: dict[str, list[str]] = {ISOLATION: []}

    def inbound_rules(self, group_id: str) -> Sequence[str]:
        self._calls.ask("security_groups.inbound_rules")
        return self.rules.get(group_id, ["sgr-1"])


class FakeNetwork:
    """Lets in where a group has a rule. A change of groups is in force a while after RDS has accepted it."""

    def __init__(self, rds: FakeRds, groups: FakeSecurityGroups) -> None:
        self._rds, self._groups = rds, groups
        self.lingering: set[str] = set()
        self.unknown: set[str] = set()
        """First labels of addresses at which the groups that RDS shows are not in force yet."""

    def accepts(self, address: str, port: int) -> bool:
        """A cluster's endpoint leads to its writer, and that of its readers, ``…-ro``, to any instance."""
        label = address.partition(".")[0]
        found = self._rds.instances.get(label) or self._rds.instances[CLUSTER + label.removesuffix("-ro")]
        serving = found
        if found.database.is_cluster:
            members = sorted(found.raw["DBClusterMembers"], key=lambda one: not one["IsClusterWriter"])
            serving = self._rds.instances[members[-1 if label.endswith("-ro") else 0]["DBInstanceIdentifier"]]
        if serving.status == "deleting" or label in self.unknown:
            raise DatabaseUnreachable(f"{address} leads nowhere")
        shown = [one["VpcSecurityGroupId"] for one in serving.raw.get("VpcSecurityGroups") or ()]
        lets_in = label in self.lingering or any(self._groups.inbound_rules(group) for group in shown)
        return lets_in and serving.status == "available"


class FakePorts:
    """The container, with one account in it: `orders`, and its target when `with_target`."""

    def __init__(self, *, with_target: bool = True, **defaults: Any) -> None:
        self._calls = Calls()
        self.clock = FakeClock()
        self.settings = FakeSettings(**defaults)
        self.ledger = FakeLedger(self._calls, self.clock)
        self.rds = FakeRds(self._calls, self.clock)
        self.clusters = FakeClusters(self._calls, self.rds)
        self.blue_green = FakeBlueGreen(self._calls, self.rds)
        self.kms = FakeKms(self._calls, self.clock)
        self.replicated_backups = FakeReplicatedBackups(self._calls, self.rds)
        self._kms_abroad: dict[str, FakeKms] = {}
        self.key_users = FakeKeyUsers(self.rds)
        self.dns = FakeDns(self._calls)
        self.monitoring = FakeMonitoring(self._calls)
        self.proxies = FakeProxies(self._calls)
        self.names = FakeNames(self.dns, self.rds)
        self.security_groups = FakeSecurityGroups(self._calls)
        self.network = FakeNetwork(self.rds, self.security_groups)
        self.secrets = FakeSecrets(self._calls)
        self.recovery = FakeRecovery(self._calls)
        self.workflow = FakeWorkflow(self._calls)
        self.notifier = FakeNotifier(self._calls)
        self.kms.add(OLD_KEY)
        self.rds.add(SOURCE, key_arn=OLD_KEY)
        if with_target:
            tags = our_tags(SOURCE, ROTATION_ID)
            self.kms.add(NEW_KEY, tags=tags)
            self.kms.aliases[key_alias(SOURCE, ROTATION_ID)] = NEW_KEY
            self.rds.add(TARGET, key_arn=NEW_KEY, replica_of=SOURCE, tags=tags)
            self.rds.backups[f"db-{TARGET.upper()}"] = START

    @property
    def calls(self) -> list[str]:
        """Every change that was asked for, in order."""
        return self._calls.made

    @property
    def asked(self) -> Counter[str]:
        """How often each read was asked for."""
        return self._calls.asked

    def fail(self, call: str, error: Exception, when: Literal["before", "after"] = "before") -> None:
        """Raise ``error`` at the next such call; "after": it took effect, and nobody heard of it."""
        self._calls.fail(call, error, when)

    def kms_in(self, region: str) -> FakeKms:
        return self._kms_abroad.setdefault(region, FakeKms(self._calls, self.clock, region))

    def engine(self, database: Database, plan: Plan) -> Engine:
        if plan.fence == "network":
            return NetworkFence(database, plan, self)
        if plan.strategy == "catch-up":
            return self.catching_up(database, plan)
        return FakeEngine(self.rds.servers[database.identifier])

    def catching_up(self, database: Database, plan: Plan) -> FakeCatchUpEngine:
        if database.engine not in CATCHING_UP:
            raise StateIncomplete(f"no engine for {database.engine}: Preflight refuses it")
        return FakeCatchUpEngine(self.rds.servers[database.identifier], self.rds.servers)

    @property
    def source_server(self) -> FakeServer:
        return self.rds.servers[SOURCE]

    @property
    def target_server(self) -> FakeServer:
        return self.rds.servers[TARGET]


# -- rotations at a certain point, in the state and in the fakes' world alike ------------------------------------------


def planned_rotation(ports: FakePorts, **plan: Any) -> Rotation:
    """StartRotation has run."""
    record = DnsRecordName(zone_id="Z1", name="db.example.com")
    the_plan = Plan.model_validate(
        {"base_name": SOURCE, "login_secret": "login", "connectivity": ("dns",), "dns_record": record} | plan
    )
    rotation = Rotation(
        schema=1,
        execution_arn=EXECUTION,
        request={"DBInstanceIdentifier": SOURCE},
        rotation_id=ROTATION_ID,
        epoch=1,
        route="rotate",
        plan=the_plan,
        source=ports.rds.instances[SOURCE].database,
        old_key=Key(arn=OLD_KEY, manager="CUSTOMER"),
    )
    ports.ledger.acquire(rotation)
    return journaled(ports, ports.ledger.open(rotation))


def connectivity_prepared(ports: FakePorts, rotation: Rotation) -> Rotation:
    """The key exists, and the TTL of the record that leads to the source is lowered: PrepareConnectivity has run."""
    _, source = rotation.planned()
    record = DnsRecord(
        zone_id="Z1", name="db.example.com", value=source.address, ttl_seconds=300, lowered_ttl_seconds=5
    )
    rotation = rotation.having(
        new_key=Key(arn=NEW_KEY, manager="CUSTOMER"),
        connectivity=Connectivity(record=record, ttl_lowered_at=ports.clock.now()),
    )
    return journaled(ports, rotation)


def replicating_rotation(ports: FakePorts, **plan: Any) -> Rotation:
    """The key and the target exist, the record's TTL is lowered; WaitForReplicationSync comes next."""
    rotation = connectivity_prepared(ports, planned_rotation(ports, **plan)).having(
        new_key=Key(arn=NEW_KEY, manager="CUSTOMER", alias=key_alias(SOURCE, ROTATION_ID)),
        target_identifier=TARGET,
        target=ports.rds.instances[TARGET].database,
    )
    return journaled(ports, rotation)


def synced_rotation(ports: FakePorts, **plan: Any) -> Rotation:
    """Everything is ready for the fence; PauseApplicationWrites comes next."""
    now = ports.clock.now()
    sync = Sync(started_at=now, observed_at=now, steady_observations=3, ready=True)
    return journaled(ports, replicating_rotation(ports, **plan).having(sync=sync))


def fenced_rotation(ports: FakePorts, **plan: Any) -> Rotation:
    """The fence is raised and the marker written; ConfirmDrained comes next."""
    rotation, now = synced_rotation(ports, **plan), ports.clock.now()
    engine = FakeEngine(ports.source_server)
    databases = engine.plan_fence(())
    engine.raise_fence(ROTATION_ID, databases, 1)
    fence = Fence(databases=databases, requested_at=now, raised_at=now, position=engine.mark(ROTATION_ID))
    ports.recovery.set(rotation, now + timedelta(seconds=180))
    return journaled(ports, rotation.having(fence=fence))


def promoting_rotation(ports: FakePorts, **plan: Any) -> Rotation:
    """RDS has been asked; WaitForPromotion comes next."""
    rotation = fenced_rotation(ports, **plan).having(promotion=Promotion(requested_at=ports.clock.now()))
    ports.rds.request_promotion(TARGET, ports.rds.instances[SOURCE])
    return journaled(ports, rotation)


def promoted_rotation(ports: FakePorts, **plan: Any) -> Rotation:
    """The target is a fenced primary; CheckTarget comes next."""
    rotation = promoting_rotation(ports, **plan)
    while ports.rds.describe_instance(TARGET).replica_of is not None:  # type: ignore[union-attr]
        pass
    now = ports.clock.now()
    promotion = Promotion(requested_at=now, clean_observations=2, complete=True, completed_at=now)
    return journaled(ports, rotation.having(promotion=promotion))


def switched_rotation(ports: FakePorts, **plan: Any) -> Rotation:
    """The target is checked and the name leads to it; ResumeWrites comes next."""
    rotation, now = promoted_rotation(ports, **plan), ports.clock.now()
    assert rotation.connectivity is not None
    check = TargetCheck(system_identifier="7000000000000000001", checked_at=now)
    switched = rotation.connectivity.having(switch_requested_at=now, change_id="change-1")
    return journaled(ports, rotation.having(target_check=check, connectivity=switched))


def past_grace(ports: FakePorts, rotation: Rotation) -> Rotation:
    """Released and verified, the source marked and its grace period over; Decommission comes next."""
    ports.rds.alter(SOURCE, tags={DECOMMISSION_TAG: ROTATION_ID})
    ports.ledger.lineage[SOURCE] = ports.rds.instances[TARGET].database.resource_id
    now = ports.clock.now()
    rotation = rotation.having(
        release=Release(released_at=now, write_outage_seconds=2.5),
        verification=Verification(complete=True, started_at=now, observed_at=now),
        grace_ends_at=now,
    )
    return journaled(ports, rotation)


def journaled(ports: FakePorts, rotation: Rotation) -> Rotation:
    """Put the rotation into the journal as if its step had ended, and forget the calls that led here."""
    ports.ledger.record(rotation)
    ports.calls.clear()
    return rotation


def visit(act: Step, rotation: Rotation, ports: FakePorts, *, takes_over: bool = False) -> Rotation:
    """What `step` does around a step: the journal is read first, and written last."""
    current = ports.ledger.current(rotation, takes_over=takes_over)
    if rotation.failure is not None:
        current = current.having(failure=rotation.failure)
    result = act(current, ports)
    ports.ledger.record(result)
    return result


def failed(rotation: Rotation, error: str = "States.Timeout") -> Rotation:
    """As the state machine's Catch leaves it."""
    return rotation.having(failure=Failure(Error=error))


def rolled_back(ports: FakePorts) -> Rotation:
    """After a drain that took too long: the source is open again, and what the rotation made is still there."""
    rotation = visit(rollback, failed(fenced_rotation(ports), "DrainIncomplete"), ports, takes_over=True)
    ports.calls.clear()
    return rotation
