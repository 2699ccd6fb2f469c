"""One whole rotation under live writes, with something going wrong."""

import json
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from botocore.exceptions import ClientError

from sandbox.demo import inventory, progress, report, writers
from sandbox.demo.connection import Endpoint, Login, Resolver, connect, hang_up, trusting
from sandbox.demo.count import CONTROL_DATABASE, Count, recount
from sandbox.demo.customer import Customer
from sandbox.demo.world import World

BUDGET_SECONDS = 20
WRITERS = 3
"""One of each kind."""

WRITES_PER_SECOND = 17.0
"""Of each writer."""

ROWS = 100
BACK_OFF_SECONDS = 0.2
"""Of a writer that is shut out. Its logins were what a rotation of a sweep cost most; an outage is known to this."""

PATIENCE_SECONDS = 1800.0
"""An undecided rotation looks every minute, for a day: 1,440 times."""
SETTLE_SECONDS = 240.0
WRITABLE_WITHIN_SECONDS = 60.0
NOWHERE = "nowhere"
MADE = ("-rot-", "-green-", "-old")
"""In the names of what a rotation or RDS has made of a database."""

Direction = Literal["back", "forward", "either"]


@dataclass(frozen=True)
class Scenario:
    """``name`` is also the database's; the faults of the sandbox that shares it are told apart by it."""

    name: str
    faults: tuple[Mapping[str, Any], ...] = ()
    ends: Direction = "back"
    error: str | None = None
    """That the first execution ends with; None: it does not matter."""
    request: Mapping[str, Any] = field(default_factory=dict)
    outage_seconds: float | None = None
    """At most."""
    latecomer: bool = False
    """An application begins to log in before the rotation, and is let in when its server wakes it."""
    by_endpoint: bool = False
    """Applications use the endpoint of the instance, and so never get to the target."""
    world: Mapping[str, Any] = field(default_factory=dict)
    """What its database is like: options of `Customer.build`."""

    def in_sandbox(self) -> list[dict[str, Any]]:
        return [{"database": self.name, **fault} for fault in self.faults]


@dataclass(frozen=True)
class Seen:
    """What somebody who looks at both sides all the time has seen."""

    both_writable: tuple[str, ...]
    verdicts: frozenset[tuple[str, str]]
    """(rotation id, verdict), from either side."""


class Onlooker:
    """Tries to log in to every server of a database, as an application would, and reads its decision rows."""

    def __init__(self, customer: Customer, built: World) -> None:
        self._customer, self._built = customer, built
        self._trust = trusting(customer.account.ca_bundle)
        self._dialect = built.dialect
        self._resolver = Resolver(customer.account.dns_host, customer.account.dns_port, self._dialect.port)
        self._both: list[str] = []
        self._verdicts: set[tuple[str, str]] = set()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, name="onlooker", daemon=True)

    def __enter__(self) -> "Onlooker":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    @property
    def seen(self) -> Seen:
        return Seen(tuple(self._both), frozenset(self._verdicts))

    def _look(self) -> None:
        known: list[Endpoint] = []
        round_ = 0
        while not self._ended.wait(0.5):
            if round_ % 3 == 0:
                known = self._servers()
            round_ += 1
            if len(known) < 2:
                continue
            open_ = self._open(known)
            if len(open_) > 1 and self._should_be_closed():
                self._both.append(" and ".join(open_))
            if round_ % 3 == 0:
                for endpoint in known:
                    self._read_verdicts(endpoint)

    def _open(self, known: Sequence[Endpoint]) -> list[str]:
        # Targets before the source: whichever is open here was open when the source, asked later, was open too.
        found = [endpoint.name for endpoint in known[:-1] if self._writable(endpoint)]
        # Where no target is open, the source is nobody's second: it need not be asked.
        return found + [endpoint.name for endpoint in known[-1:] if found and self._writable(endpoint)]

    def _should_be_closed(self) -> bool:
        """All but one; of a source that nobody has fenced the target is open until WaitForRestore has seen it.

        And what was a cluster's blue side from when Decommission asks for the end of its deployment (docs/limits.md).
        """
        state = _latest_state(self._customer, self._built.identifier)
        if self._built.is_cluster and state.get("deployment") and state.get("decommission"):
            return False
        if not state.get("capture"):
            return True
        is_made = (state.get("restoration") or {}).get("stage") == "done"
        # It may have been closed since it was found open.
        return is_made and len(self._open(self._servers())) > 1

    def _servers(self) -> list[Endpoint]:
        found = []
        for address in addresses_of(self._customer, self._built.identifier).values():
            with suppress(Exception):
                found.append(self._resolver.resolve(address))
        return found

    def _writable(self, endpoint: Endpoint) -> bool:
        with suppress(Exception):
            sql = self._dialect.connect(endpoint, self._built.databases[0], self._built.app, self._trust)
            try:
                # RDS keeps the blue side of a deployment from writing; it goes on to let everybody read.
                return self._dialect.takes_writes(sql)
            finally:
                hang_up(sql)
        return False

    def _read_verdicts(self, endpoint: Endpoint) -> None:
        with suppress(Exception):
            sql = self._dialect.connect(endpoint, CONTROL_DATABASE, self._built.master, self._trust)
            try:
                self._verdicts |= {tuple(row) for row in sql.run("SELECT rotation_id, verdict FROM decision")}
            finally:
                hang_up(sql)


def core_seconds(pid: int) -> dict[str, float]:
    """CPU time of a sandbox so far, by part: ``api`` (and the interpreter), ``lambda``, ``servers``, ``front``."""
    tick = os.sysconf("SC_CLK_TCK")
    parents: dict[int, int] = {}
    used: dict[int, float] = {}
    names: dict[int, str] = {}
    servers = 0.0
    for directory in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, IndexError, ValueError):
            stat = (directory / "stat").read_text().rpartition(")")[2].split()
            one = int(directory.name)
            parents[one], own, ended = int(stat[1]), sum(map(int, stat[11:13])), sum(map(int, stat[13:15]))
            # What the sandbox itself has started and waited for were servers, and tools of theirs.
            used[one] = (own if one == pid else own + ended) / tick
            servers += ended / tick if one == pid else 0.0
            names[one] = (directory / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    spent = {"api": 0.0, "lambda": 0.0, "servers": servers, "front": 0.0}
    for one, seconds in used.items():
        above = one
        while above not in (0, 1, pid):
            above = parents.get(above, 0)
        if above == pid:
            line = names[one]
            part = (
                "lambda" if "zygote" in line
                else "front" if "tls_front" in line
                else "servers" if line.startswith("postgres") or "/postgres" in line or "/mariadb" in line
                else "api"
            )  # fmt: skip
            spent[part] += seconds
    return spent


def servers_of(customer: Customer, base_name: str) -> list[str]:
    """Targets first, the database that had the base name last."""
    return list(addresses_of(customer, base_name))


def addresses_of(customer: Customer, base_name: str) -> dict[str, str]:
    """As `servers_of`, with the name of each one's endpoint; empty where RDS has not given it one."""
    made = tuple(base_name + part for part in MADE)
    found = {
        one["DBInstanceIdentifier"]: str(one.get("Endpoint", {}).get("Address", ""))
        for one in customer.client("rds").describe_db_instances()["DBInstances"]
        # A cluster's instances have names of their own.
        if (name := one.get("DBClusterIdentifier") or one["DBInstanceIdentifier"]) == base_name or name.startswith(made)
    }
    return {name: found[name] for name in sorted(found, key=lambda name: not any(part in name for part in MADE))}


@dataclass(frozen=True)
class Outcome:
    """Everything that is known about a scenario after it has ended."""

    scenario: Scenario
    built: World
    first: progress.Run
    last: progress.Run
    state: Mapping[str, Any]
    """What the last one gives, or what the ledger has when it gives nothing."""
    executions: Mapping[str, str]
    """Name of each execution of ``rotate_key`` -> its status."""
    count: Count
    outage_seconds: float
    shut_out_seconds: float
    """By the ledger, on the sandbox's clock: from the fence to the release, or to the end of the rollback."""
    found: inventory.Difference
    seen: Seen
    messages: Sequence[Mapping[str, Any]]
    ledger: Mapping[str, bool]
    """Item of this database in the ledger -> whether it is closed."""
    writes_at_the_end: int
    core_seconds: Mapping[str, float]
    """Of the sandbox, from the start of the execution to the end of what followed from it."""
    struck: int
    """How many times a fault of the scenario has struck."""

    @property
    def went_forward(self) -> bool:
        if self.built.proxy is not None:
            return "leads_to" in self.found.changed.get(f"rds/proxy/{self.built.proxy}", {})
        # By blue/green the name stays, and what has it is another one.
        kind = "cluster" if self.built.is_cluster else "instance"
        exchanged = "resource_id" in self.found.changed.get(f"rds/{kind}/{self.built.identifier}", {})
        return exchanged or self.count.endpoint.split(".")[0] not in (self.built.identifier, NOWHERE)

    @property
    def story(self) -> str:
        return (
            f"{self.scenario.name}: {dict(self.executions)}, {self.first.error}: {self.first.cause}; "
            f"last in {self.last.current}: {self.last.error}: {self.last.cause}"
        )

    @property
    def moments(self) -> list[str]:
        return [message["Message"] for message in self.messages]


def play(
    customer: Customer,
    scenario: Scenario,
    acks_path: Path,
    *,
    seen: Callable[[progress.Run], None] | None = None,
    afterwards: Callable[[progress.Run], None] = lambda run: None,
    built: World | None = None,
    settles: bool = True,
) -> Outcome:
    """Build, write, rotate with what goes wrong, and wait until everything that follows from it is over.

    Args:
        seen: called again and again while the first execution runs.
        afterwards: called when it has ended, before the end of what it left is waited for.
        settles: wait for that end; if not, ``afterwards`` has.
    """
    account = customer.account
    built = built or customer.build(scenario.name, rows=ROWS, writers=WRITERS, **scenario.world)
    before = inventory.take(account)
    earlier = set(executions(customer))
    request = {
        **built.request, "GraceDays": 0, "WriteOutageBudgetSeconds": BUDGET_SECONDS, **scenario.request,
    }  # fmt: skip
    applications = writers.Writers(
        account, databases=built.databases, login=built.app, acks=acks_path, writers=WRITERS, rate=WRITES_PER_SECOND,
        record=customer.endpoint_of(built) if scenario.by_endpoint else built.record, reads=False, processes=0,
        latecomer=scenario.latecomer, back_off_seconds=BACK_OFF_SECONDS, engine=built.engine,
    )  # fmt: skip
    with customer.notifications() as inbox, Onlooker(customer, built) as onlooker:
        try:
            customer.until(lambda: applications.acknowledged() > 10)
            if scenario.latecomer:
                customer.until(lambda: _on_the_way(customer, built))
            spent_before = core_seconds(customer.sandbox.pid)
            first = customer.rotate(request, seen=seen, patience=PATIENCE_SECONDS)
            afterwards(first)
            if settles:
                customer.until(lambda: is_settled(customer, scenario.name, earlier), SETTLE_SECONDS)
            spent = core_seconds(customer.sandbox.pid)
            at_the_end = applications.acknowledged()
            with suppress(AssertionError):
                customer.until(lambda: applications.acknowledged() > at_the_end + 20, WRITABLE_WITHIN_SECONDS)
            writes_at_the_end = applications.acknowledged() - at_the_end
        finally:
            applications.stop()
        messages = inbox.messages()
    acks = writers.read_acks(acks_path)
    statuses = {name: status for name, status in executions(customer).items() if name not in earlier}
    last_arn = max(
        (arn for arn in statuses if _did_something(customer, arn)), key=lambda arn: _started(customer, arn)
    )  # fmt: skip
    last = first if last_arn == first.arn else progress.follow(account, last_arn)
    after = inventory.take(account)
    return Outcome(
        scenario=scenario,
        built=built,
        first=first,
        last=last,
        state=last.output if last.output.get("target") else _latest_state(customer, scenario.name),
        executions={arn.rsplit(":", 1)[-1]: status for arn, status in statuses.items()},
        count=_count(customer, built, acks),
        outage_seconds=report.longest_gap([ack.at for ack in acks], acks[0].at, acks[-1].at) or 0.0,
        shut_out_seconds=_shut_out_seconds(customer, scenario.name),
        found=inventory.difference(before, after),
        seen=onlooker.seen,
        messages=messages,
        ledger={
            name.rsplit("/", 1)[-1]: bool(facts["closed"])
            for name, facts in after.items()
            if name.startswith("dynamodb/item/") and f"/{scenario.name}/" in name
        },
        writes_at_the_end=writes_at_the_end,
        core_seconds={part: seconds - spent_before[part] for part, seconds in spent.items()},
        struck=times_struck(customer, scenario.name),
    )


def _on_the_way(customer: Customer, built: World) -> int:
    """How many sessions are in the first database and in no list of sessions."""
    sql = connect(built.finder(customer.account).find(), "postgres", built.master, trusting(customer.account.ca_bundle))
    try:
        [[found]] = sql.run(
            "SELECT count(*) FROM pg_locks WHERE locktype = 'object' AND classid = 'pg_database'::regclass AND granted "
            "AND objid = (SELECT oid FROM pg_database WHERE datname = :name) "
            "AND pid NOT IN (SELECT pid FROM pg_stat_activity)", name=built.databases[0],
        )  # fmt: skip
        return int(found)
    finally:
        hang_up(sql)


def _count(customer: Customer, built: World, acks: Sequence[writers.Ack]) -> Count:
    """What can be read where the name leads; where that is no database that anybody may enter, all is lost to them."""
    try:
        return recount(customer.account, _with_the_password_of_now(customer, built), acks)
    except built.dialect.errors as error:
        endpoint = NOWHERE
        with suppress(OSError):
            endpoint = built.finder(customer.account).find().name
        refused = built.dialect.code(error) or type(error).__name__
        return Count(len(acks), len(acks), 0, endpoint, (), (f"nothing can be read at {endpoint}: {refused}",))


def _with_the_password_of_now(customer: Customer, built: World) -> World:
    """Somebody may have rotated the master's, in the database and in the secret of the rotation's login."""
    if built.login_secret_arn is None:
        return built
    with suppress(ClientError):
        found = json.loads(
            customer.client("secretsmanager").get_secret_value(SecretId=built.login_secret_arn)["SecretString"]
        )
        if found.get("username") == built.master.user:
            return replace(built, master=Login(built.master.user, found["password"]))
    return built


def times_struck(customer: Customer, base_name: str) -> int:
    """How many times a fault of this database's scenario has struck so far."""
    log = (customer.sandbox.ca_bundle.parent.parent / "sandbox.log").read_text().splitlines()
    return sum("sandbox.faults" in line and f"'database': '{base_name}'" in line for line in log)


def executions(customer: Customer) -> dict[str, str]:
    pages = customer.client("stepfunctions").get_paginator("list_executions")
    return {
        one["executionArn"]: one["status"]
        for page in pages.paginate(stateMachineArn=customer.account.rotate_key_arn)
        for one in page["executions"]
    }


def is_settled(customer: Customer, base_name: str, earlier: set[str] | frozenset[str] = frozenset()) -> bool:
    """Nothing runs any more, the ledger's entries of this database are closed, and its lock is free."""
    if any(status == "RUNNING" for arn, status in executions(customer).items() if arn not in earlier):
        return False
    return all(
        closed for record, closed in ledger_of(customer, base_name).items() if not inventory.stands_for_ever(record)
    )


def is_to_be_recovered(customer: Customer) -> bool:
    """Whether a recovery schedule is left, of any database: it comes once, and goes by itself."""
    pages = customer.client("scheduler").get_paginator("list_schedules").paginate()
    return any("recovery" in one["GroupName"] for page in pages for one in page["Schedules"])


def ledger_of(customer: Customer, base_name: str) -> dict[str, bool]:
    """Record of this database -> whether it is closed; a lock never is."""
    return {item["record"]["S"]: "closed_at" in item for item in _ledger(customer, base_name)}


def left_by(customer: Customer, base_name: str) -> str | None:
    """The execution that left a rotation open when its source was gone already: a plain start would rotate again."""
    for item in _ledger(customer, base_name):
        state = json.loads(item.get("state", {}).get("S", "{}"))
        if "closed_at" not in item and (state.get("decommission") or {}).get("complete"):
            return str(item["execution_arn"]["S"])
    return None


def _ledger(customer: Customer, base_name: str) -> list[dict[str, Any]]:
    dynamodb = customer.client("dynamodb")
    (table,) = [name for name in dynamodb.list_tables()["TableNames"] if "ledger" in name.lower()]
    # Filtered there, because those of all earlier rotations are long; and here, because it may be part of another name.
    pages = dynamodb.get_paginator("scan").paginate(
        TableName=table, FilterExpression="contains(#d, :d)", ExpressionAttributeNames={"#d": "database"},
        ExpressionAttributeValues={":d": {"S": base_name}},
    )  # fmt: skip
    items: list[dict[str, Any]] = [item for page in pages for item in page["Items"]]
    return [item for item in items if item["database"]["S"].rpartition("/")[2] == base_name]


def _latest_state(customer: Customer, base_name: str) -> dict[str, Any]:
    """Of the last rotation, as the ledger has it: an execution that fails at its very end gives none."""
    rotations = [item for item in _ledger(customer, base_name) if "state" in item]
    latest = max(rotations, key=lambda item: item["opened_at"]["S"], default=None)
    state: dict[str, Any] = json.loads(latest["state"]["S"]) if latest else {}
    return state


def _shut_out_seconds(customer: Customer, base_name: str) -> float:
    """0 without a fence; as if for ever, if nothing has ended it."""
    longest = 0.0
    for item in _ledger(customer, base_name):
        state = json.loads(item.get("state", {}).get("S", "{}"))
        fence, release, undo = (state.get(part) or {} for part in ("fence", "release", "undo"))
        if begin := fence.get("requested_at"):
            end = release.get("released_at") or undo.get("ended_at")
            seconds = datetime.fromisoformat(end) - datetime.fromisoformat(begin) if end else None
            longest = max(longest, seconds.total_seconds() if seconds else float("inf"))
    return longest


def _started(customer: Customer, arn: str) -> Any:
    return customer.client("stepfunctions").describe_execution(executionArn=arn)["startDate"]


def _did_something(customer: Customer, arn: str) -> bool:
    """Not one that found nothing to recover, or another one at work."""
    history = customer.client("stepfunctions").get_execution_history(executionArn=arn, maxResults=100)["events"]
    return not any(
        event.get("stateEnteredEventDetails", {}).get("name") == "NothingToDo"
        or event.get("executionFailedEventDetails", {}).get("error") == "RotationInProgress"
        for event in history
    )


def table_line(outcome: Outcome) -> str:
    count = outcome.count
    return (
        f"| {outcome.scenario.name} | {'forward' if outcome.went_forward else 'back'}"
        f" | {outcome.first.status} {outcome.first.error or ''} | {len(outcome.executions)} executions"
        f" | {count.acknowledged} acknowledged, {count.lost} lost, {count.duplicated} duplicated"
        f" | outage {outcome.outage_seconds:.1f} s | core seconds {sum(outcome.core_seconds.values()):.1f}"
        f" ({', '.join(f'{part} {seconds:.1f}' for part, seconds in outcome.core_seconds.items())}) |"
    )
