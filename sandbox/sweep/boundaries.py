"""Where a rotation can fail, and how: boundaries, read from a rotation that was recorded, and the cells of the sweep.

A boundary is a place where a function crosses into something that can fail on its own: an AWS call, a SQL statement,
the invocation itself. A cell is a boundary and a kind of failure there.

What would repeat another cell is left out. A process that dies before it reads has left what it left when it died after
its last write, and so has one whose connection is lost where it reads something once more. A first error that the SDK
tries again by itself is seen at calls that change something.
"""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from sandbox.demo.dialects import AURORA_MYSQL, MULTI_AZ_POSTGRES
from sandbox.demo.world import CATCH_UP, Connectivity

Way = Literal["forward", "back"]


@dataclass(frozen=True)
class Subject:
    """What is swept: an engine, by a strategy."""

    engine: str
    strategy: str
    lasting: Mapping[str, Any]
    """What goes wrong anyway on the way back, as late as can be: all that was made by then has to be undone."""
    undone_by: str
    """The function that decides a rollback."""
    never: tuple[str, ...] = ()
    """Kinds of failure that it cannot have."""
    connectivity: Connectivity = "dns"
    request: Mapping[str, Any] = field(default_factory=dict)
    """More fields of the execution's input."""

    @property
    def name(self) -> str:
        return f"{self.engine}/{self.strategy}"

    @property
    def world(self) -> dict[str, Any]:
        """What its databases are like: options of `world.build`."""
        prepared = {"strategy": self.strategy} if self.strategy == CATCH_UP else {}
        return {"engine": self.engine, "connectivity": self.connectivity, **prepared}

    def faults(self, way: Way) -> tuple[Mapping[str, Any], ...]:
        """What goes wrong anyway, so that this way is taken."""
        return (self.lasting,) if way == "back" else ()


DEFAULT = "postgres/read-replica"
_NAME_STAYS = {"kind": "denied", "function": "update-connectivity", "call": "route53.ChangeResourceRecordSets"}
_NOT_SWITCHED = {"kind": "denied", "function": "switch-over", "call": "rds.SwitchoverBlueGreenDeployment"}
BY_SNAPSHOT: Mapping[str, Any] = {
    "Strategy": "snapshot",
    "Accept": ["downtime"],
    "WriteOutageBudgetSeconds": 4 * 60 * 60,
}
BY_NETWORK: Mapping[str, Any] = {**BY_SNAPSHOT, "Accept": ["downtime", "internal-jobs"]}
CLUSTER_BY_NETWORK: Mapping[str, Any] = {
    **BY_SNAPSHOT,
    "Accept": ["downtime", "reader-endpoint", "internal-jobs", "memory-tables"],
}
CLUSTER_BY_SNAPSHOT: Mapping[str, Any] = {**BY_SNAPSHOT, "Accept": ["downtime", "reader-endpoint"]}
_NOT_BY_RDS = ("late", "led-back", "stalled")
"""Kinds that RDS does not let happen: it fences itself, and the name that applications use stays."""
SUBJECTS: Mapping[str, Subject] = {
    subject.name: subject
    for subject in (
        Subject("postgres", "read-replica", _NAME_STAYS, "rollback"),
        # No session of MariaDB sleeps where a fence does not see it.
        Subject("mariadb", "read-replica", _NAME_STAYS, "rollback", ("late",)),
        Subject("postgres", "blue-green", _NOT_SWITCHED, "roll-back-deployment", _NOT_BY_RDS, "endpoint"),
        Subject("mariadb", "blue-green", _NOT_SWITCHED, "roll-back-deployment", _NOT_BY_RDS, "endpoint"),
        Subject(
            "aurora-postgresql",
            "blue-green",
            _NOT_SWITCHED,
            "roll-back-deployment",
            _NOT_BY_RDS,
            "endpoint",
            request={"Accept": ["logical-copy"]},
        ),
        Subject("postgres", "snapshot", _NAME_STAYS, "rollback", request={**BY_SNAPSHOT, "PreCopy": True}),
        Subject("postgres", CATCH_UP, _NAME_STAYS, "rollback", ("stalled",)),
        Subject("mariadb", "snapshot", _NAME_STAYS, "rollback", ("late",), request=BY_SNAPSHOT),
        Subject("mariadb", CATCH_UP, _NAME_STAYS, "rollback", ("late", "stalled")),
        Subject(
            "aurora-postgresql",
            "snapshot",
            _NAME_STAYS,
            "rollback",
            request=CLUSTER_BY_SNAPSHOT,
        ),
        Subject(MULTI_AZ_POSTGRES, "snapshot", _NAME_STAYS, "rollback", request=CLUSTER_BY_SNAPSHOT),
        # Nobody logs in to it, so nothing in it can wake up there.
        Subject("oracle-se2", "snapshot", _NAME_STAYS, "rollback", ("late",), request=BY_NETWORK),
        Subject(AURORA_MYSQL, "snapshot", _NAME_STAYS, "rollback", ("late",), request=CLUSTER_BY_NETWORK),
    )
}

ZOMBIE_SECONDS = 4.0
"""So long a function that was stopped sleeps before it lives on: its recovery has begun by then."""

READS = ("Describe", "Download", "Get", "List", "Lookup", "Query", "Scan")
READING = ("SELECT", "SET", "SHOW", "BEGIN", "START", "ROLLBACK", "LOCK", "USE", "DO")
CHANGING = re.compile(r"pg_(create|copy|drop)_\w*slot|pg_replication_slot_advance|setval", re.IGNORECASE)
"""Functions that change something, though they are selected."""

AT_WRITES: Mapping[str, Mapping[str, Any]] = {
    "error-before": {"kind": "error-before"},
    "lost-answer": {"kind": "lost-answer"},
    "throttle": {"kind": "throttle"},
    "denied": {"kind": "denied"},
    "killed": {"kind": "killed", "when": "after"},
    "zombie": {"kind": "stopped", "seconds": ZOMBIE_SECONDS},
}
AT_READS = {kind: AT_WRITES[kind] for kind in ("throttle", "denied")}
AT_CHANGING_STATEMENTS = {kind: AT_WRITES[kind] for kind in ("error-before", "lost-answer", "killed", "zombie")}
AT_READING_STATEMENTS = {kind: AT_WRITES[kind] for kind in ("error-before",)}
AT_INVOCATIONS: dict[str, Mapping[str, Any]] = {
    "error-before": {"kind": "error-before", "code": "ServiceException"},
    "lost-answer": {"kind": "lost-answer"},
    "twice": {"kind": "twice"},
    "again": {"kind": "twice", "when": "after"},
    "stopped": {"kind": "stopped"},
    "unheard": {"kind": "stopped", "unheard": True},
}
BEFORE_RELEASE = (
    "confirm-drained", "end-catch-up", "promote", "wait-for-promotion", "take-snapshot", "copy-snapshot",
    "restore-target", "wait-for-restore", "check-target", "update-connectivity", "resume-writes",
)  # fmt: skip
BEFORE_FENCE = (
    "create-new-kms-key", "create-encrypted-read-replica", "prepare-connectivity", "wait-for-replication-sync",
    "copy-ahead", "wait-for-source", "begin-capture", "wait-for-catch-up", "pause-application-writes",
    "isolate-source", "create-blue-green-deployment", "wait-for-green", "switch-over",
)  # fmt: skip
STALLED_SECONDS = 6 * 3600
PATIENCE_SECONDS = 120
"""Real; so long an invocation that is overtaken waits for the rollback, which comes at once."""
AT_SOME_INVOCATIONS: Mapping[str, tuple[tuple[str, ...], Mapping[str, Any]]] = {
    # Only while nobody can write: at any other time nobody minds.
    "stalled": (BEFORE_RELEASE, {"kind": "stalled", "seconds": STALLED_SECONDS}),
    # It comes to work when a rollback has opened what was closed, or found nothing to open.
    "overtaken": ((*BEFORE_FENCE, *BEFORE_RELEASE), {"kind": "stopped", "seconds": PATIENCE_SECONDS}),
    # A session that began before the fence, and is awake when nobody may be in the source any more.
    "late": ((*BEFORE_RELEASE, "verify"), {"kind": "reload", "side": "source"}),
    # The last moment at which applications can still write to what takes the source's place.
    "replaced": (("pause-application-writes",), {"kind": "replaced"}),
    "led-back": (("decommission",), {"kind": "led-back"}),
}
"""What shows something only there: kind -> at which functions, and the fault."""

KINDS = tuple(dict.fromkeys([*AT_WRITES, *AT_INVOCATIONS, *AT_SOME_INVOCATIONS]))
PERMANENT = ("denied",)
STOPPING = ("stopped", "zombie", "unheard", "overtaken")
CALLED_OFF = ("stalled", "replaced")
"""Nobody is to blame, and nothing can be waited for: before the commit point the rotation goes back."""
WAITING = ("led-back",)
"""It ends with a question to a person."""

ON_THE_WAY_BACK = (
    "rollback", "roll-back-deployment", "restore-connectivity", "clean-up", "discard-new-key", "notify",
)  # fmt: skip


@dataclass(frozen=True)
class Boundary:
    """``what``: ``invocation``, an AWS call (``rds.PromoteReadReplica``) or the shape of a SQL statement.

    ``nth``: counted over the rotation; of a SQL statement, within an invocation.
    """

    way: Way
    function: str
    what: str
    nth: int = 1
    subject: str = DEFAULT

    @property
    def is_call(self) -> bool:
        return "." in self.what and not self.is_statement

    @property
    def is_statement(self) -> bool:
        return " " in self.what or self.what.isupper()

    @property
    def name(self) -> str:
        words = self.what
        if self.is_statement:
            words = f"{' '.join(words.split()[:5])} #{hashlib.sha256(words.encode()).hexdigest()[:4]}"
        return f"{self.way}/{self.function}/{words}" + (f"/{self.nth}" if self.nth > 1 else "")

    def kinds(self) -> Mapping[str, Mapping[str, Any]]:
        subject = SUBJECTS[self.subject]
        if self.what == "invocation":
            some = {
                kind: {**fault, "until": subject.undone_by} if kind == "overtaken" else fault
                for kind, (functions, fault) in AT_SOME_INVOCATIONS.items()
                if self.function in functions and kind not in subject.never
            }
            return AT_INVOCATIONS | some
        if self.is_call:
            return AT_READS if self.what.split(".")[1].startswith(READS) else AT_WRITES
        return AT_READING_STATEMENTS if _reads(self.what) else AT_CHANGING_STATEMENTS

    def place(self) -> dict[str, Any]:
        """The place in the terms of ``sandbox/faults.py``."""
        if self.what == "invocation":
            return {"function": self.function}
        if self.is_call:
            return {"function": self.function, "call": self.what, "nth": self.nth}
        return {"function": self.function, "statement": self.nth, "shape": self.what}


@dataclass(frozen=True)
class Cell:
    boundary: Boundary
    kind: str

    @property
    def name(self) -> str:
        return f"{self.boundary.name}:{self.kind}"

    def faults(self) -> tuple[Mapping[str, Any], ...]:
        lasting = SUBJECTS[self.boundary.subject].faults(self.boundary.way)
        return (*lasting, {**self.boundary.place(), **self.boundary.kinds()[self.kind]})


def read(way: Way, recorded: Path, subject: str = DEFAULT) -> list[Boundary]:
    """The boundaries of a rotation, in the order in which they were first crossed.

    First and last occurrence: of a call, where the function is invoked once (how often one is polled is not the same in
    every rotation); of a statement that changes something, in the invocation that made most of it.
    """
    invocations = [json.loads(line) for line in recorded.read_text().splitlines()]
    times = Counter(one["function"] for one in invocations)
    found: dict[Boundary, None] = {}
    for function in times:
        if way == "back" and function not in ON_THE_WAY_BACK:
            continue
        own = [one for one in invocations if one["function"] == function]
        calls, most = Counter(call for one in own for call in one["calls"]), Counter[str]()
        for one in own:
            most |= Counter(one["statements"])
        places = [
            ("invocation", 1),
            *_ends(calls, set(calls) if times[function] == 1 else set()),
            *_ends(most, {statement for statement in most if not _reads(statement)}),
        ]
        found |= dict.fromkeys(Boundary(way, function, what, nth, subject) for what, nth in places)
    return list(found)


def _reads(statement: str) -> bool:
    return statement.startswith(READING) and CHANGING.search(statement) is None


def _ends(counted: Counter[str], with_last: Set[str]) -> Iterator[tuple[str, int]]:
    for what, times in counted.items():
        yield what, 1
        if times > 1 and what in with_last:
            yield what, times


def cells(boundaries: Iterable[Boundary], kinds: Iterable[str] = KINDS) -> list[Cell]:
    wanted = tuple(kinds)
    found = {
        (cell := Cell(boundary, kind)).name: cell
        for boundary in boundaries
        for kind in boundary.kinds()
        if kind in wanted
    }
    return list(found.values())
