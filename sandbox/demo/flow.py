"""``python -m sandbox demo``: build, write without pause, rotate, count, report."""

import argparse
import json
import secrets
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from sandbox import mariadb
from sandbox.demo import dialects, inventory, progress, recorder, report, world, writers
from sandbox.demo.account import Account
from sandbox.demo.count import CONTROL_DATABASE, Count, recount

WARM_UP_SECONDS = 1.0
COOL_DOWN_SECONDS = 1.0
DEFAULT_RATE = 50.0
STRATEGIES = ("read-replica", "blue-green", "snapshot", world.CATCH_UP)
ACCEPTED: Mapping[str, Sequence[str]] = {
    "snapshot": ["downtime"],
    "aurora-postgresql/snapshot": ["reader-endpoint"],
    f"{dialects.AURORA_MYSQL}/snapshot": ["reader-endpoint"],
    f"{dialects.MULTI_AZ_POSTGRES}/snapshot": ["reader-endpoint"],
    "aurora-postgresql/blue-green": ["logical-copy"],
    "replicas": ["replicas-away"],
    "fence/network": ["internal-jobs", "logical-slots", "memory-tables", "unlogged-tables"],
}
"""Risks without which it is refused: of a strategy, of an engine by one, of replicas, or of a fence."""


@dataclass(frozen=True)
class Load:
    """How applications behave during the rotation."""

    writers: int = 6
    rate: float = DEFAULT_RATE
    acks: Path | None = None


@dataclass(frozen=True)
class Outcome:
    """A rotation that was watched and counted."""

    report: report.Report
    run: progress.Run
    acks: Sequence[writers.Ack]
    count: Count
    stopped: writers.Stopped
    found: inventory.Difference


class Watcher:
    """Live progress on a terminal; one line per state everywhere else."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live: Live | None = None
        self._last, self._since, self._begun = "", 0.0, time.monotonic()
        self._rate: list[tuple[float, int]] = []

    def say(self, what: str) -> None:
        self._console.print(f"[dim]{time.monotonic() - self._begun:6.1f} s[/]  {what}", highlight=False)

    @contextmanager
    def live(self) -> Iterator[None]:
        if not self._console.is_terminal:
            yield
            return
        with Live(console=self._console, refresh_per_second=8, transient=True) as self._live:
            yield
        self._live = None

    def see(self, run: progress.Run, acknowledged: int) -> None:
        now = time.monotonic()
        recent = [(at, n) for at, n in self._rate if now - at < 1.0]
        self._rate = [*(recent or self._rate[-1:]), (now, acknowledged)]
        span = self._rate[-1][0] - self._rate[0][0]
        per_second = (self._rate[-1][1] - self._rate[0][1]) / span if span else 0.0
        if self._live:
            self._live.update(self._picture(run, acknowledged, per_second))
        elif run.current != self._last:
            self.say(f"{run.current:<28} {acknowledged:>8,} acknowledged {per_second:>6.0f}/s")
        self._last = run.current

    def _picture(self, run: progress.Run, acknowledged: int, per_second: float) -> Group:
        phase = next((phase for phase, states in progress.PHASES.items() if run.current in states), "")
        lines = Table.grid(padding=(0, 2))
        for visit in [visit for visit in run.visits if visit.kind in ("Task", "Wait")][-8:]:
            took = "…" if visit.seconds is None else _duration(visit.seconds)
            lines.add_row("[green]✓[/]" if visit.exited_at else "[yellow]▸[/]", visit.name, took)
        bar = "█" * min(60, int(per_second / 8))
        return Group(
            Text.from_markup(f"[bold]rotate_key[/]  {run.status}  [red]{phase}[/]"),
            lines,
            Text(f"{acknowledged:>9,} acknowledged  {per_second:>5.0f}/s {bar}"),
        )


def _duration(seconds: float) -> str:
    if seconds > 2 * 86_400:
        return f"{seconds / 86_400:.1f} days"
    return f"{seconds:.1f} s"


def rotate_under_load(
    account: Account,
    built: world.World,
    load: Load,
    *,
    request: Mapping[str, Any] | None = None,
    watcher: Watcher | None = None,
    within_seconds: float = 300.0,
) -> Outcome:
    """Rotate the database's key while applications write to it, then compare what is there with what they were told.

    Args:
        request: more fields of the execution's input.

    Raises:
        TimeoutError: the execution does not end; the writers are stopped all the same.
    """
    if load.acks is None:
        with tempfile.TemporaryDirectory(prefix="rds-key-rotation-acks-") as scratch:
            load = replace(load, acks=Path(scratch) / "acks.txt")
            return rotate_under_load(
                account, built, load, request=request, watcher=watcher, within_seconds=within_seconds
            )
    watcher = watcher or Watcher(Console(quiet=True))
    before = inventory.take(account)
    databases_before = frozenset(built.databases) | built.dialect.own_databases
    earlier = recorder.newest(account)
    applications = writers.Writers(
        account,
        databases=built.databases,
        login=built.app,
        acks=load.acks,
        writers=load.writers,
        rate=load.rate,
        engine=built.engine,
        record=built.record,
        secret=built.endpoint_secret,
    )
    try:
        _wait_for_writes(applications, load)
        time.sleep(WARM_UP_SECONDS)
        watcher.say(f"{load.writers} writers are at work, the rotation starts")
        arn = progress.start(account, {**built.request, **(request or {})}, f"demo-{secrets.token_hex(4)}")
        counted = applications
        with watcher.live():
            run = progress.follow(
                account, arn, within_seconds=within_seconds, seen=lambda run: watcher.see(run, counted.acknowledged())
            )
        time.sleep(COOL_DOWN_SECONDS)
    finally:
        stopped = applications.stop()
    watcher.say(f"{run.status}; counting")
    acks = writers.read_acks(load.acks)
    counted_now = recount(account, built, acks)
    found = inventory.difference(before, inventory.take(account))
    calls = recorder.calls(account, after=earlier)
    left = list(_leftovers(account, built, run, before, found))
    left += [f"database on the server: {name}" for name in counted_now.databases if name not in databases_before]
    left += [f"in the database: {one}" for one in counted_now.followed_by]
    return Outcome(
        report=_report(built, run, acks, stopped, counted_now, calls, left),
        run=run,
        acks=acks,
        count=counted_now,
        stopped=stopped,
        found=found,
    )


def rotate_well(account: Account, built: world.World, load: Load, **request: Any) -> Outcome:
    """`rotate_under_load` for a measurement: a rotation that is not good measures nothing.

    Args:
        request: more fields of the execution's input. There is no grace period, which is no part of the cutover.

    Raises:
        RuntimeError: it failed, or lost, left or was denied something.
    """
    outcome = rotate_under_load(account, built, load, request={"GraceDays": 0, **request})
    found = outcome.report
    if not found.good:
        raise RuntimeError(
            f"{built.identifier}: {outcome.run.error} {outcome.run.cause} {found.leftovers} {found.denied}"
        )
    return outcome


def _wait_for_writes(applications: writers.Writers, load: Load) -> None:
    give_up_at = time.monotonic() + 30
    while applications.acknowledged() < load.writers:
        if time.monotonic() > give_up_at:
            raise TimeoutError("the writers do not get through to the database")
        time.sleep(0.05)


def expected(account: Account, built: world.World, output: Mapping[str, Any], execution: str) -> inventory.Expected:
    """What a rotation that ended with this state was meant to change, with the facts taken from RDS."""
    identifier = output["target"]["identifier"]
    target = replace(built, identifier=identifier).describe(account)
    return inventory.Expected(
        kind="cluster" if built.is_cluster else "instance",
        source=output["source"]["identifier"],
        source_resource_id=output["source"]["resource_id"],
        target=identifier,
        target_resource_id=target["DbClusterResourceId"] if built.is_cluster else target["DbiResourceId"],
        target_address=target["Endpoint"] if built.is_cluster else target["Endpoint"]["Address"],
        old_key=(output["old_key"] or {}).get("arn"),
        new_key=output["new_key"]["arn"],
        rotation_id=output["rotation_id"],
        execution=execution,
        record=built.record,
        endpoint_secret=built.endpoint_secret,
        proxy=built.proxy,
        target_parameter_group=(
            target["DBClusterParameterGroup"]
            if built.is_cluster
            else target["DBParameterGroups"][0]["DBParameterGroupName"]
        ),
        in_place=identifier == built.identifier,
        members=tuple(one["DBInstanceIdentifier"] for one in target.get("DBClusterMembers", ())),
        master_secret=(target.get("MasterUserSecret") or {}).get("SecretArn"),
        replicas=_rebuilt(output),
    )


def _rebuilt(output: Mapping[str, Any]) -> dict[str, str]:
    """Of each replica that has a successor: the name, and the successor's resource id."""
    found = (output.get("replica_rebuild") or {}).get("successors", {})
    replicas = {one["resource_id"]: one["identifier"] for one in output["plan"].get("replicas", ())}
    return {replicas[old]: new["resource_id"] for old, new in found.items() if new["stage"] == "done"}


def _leftovers(
    account: Account, built: world.World, run: progress.Run, before: inventory.Inventory, found: inventory.Difference
) -> Sequence[str]:
    execution = run.arn.rsplit(":", 1)[-1]
    if run.status != "SUCCEEDED" or not run.output.get("target"):
        # Failed, or a dry run: nothing was meant to change, and whatever did is a leftover.
        others = inventory.bystanders(before, "")
        nothing = inventory.Expected("", "", "", "", "", "", "", "", execution, bystanders=others)
        return [
            line for line in inventory.leftovers(found, nothing) if not line.startswith(("missing: ", "still there: "))
        ]
    meant = expected(account, built, run.output, execution)
    return inventory.leftovers(found, replace(meant, bystanders=inventory.bystanders(before, built.identifier)))


def _report(
    built: world.World,
    run: progress.Run,
    acks: Sequence[writers.Ack],
    stopped: writers.Stopped,
    counted: Count,
    calls: recorder.Calls,
    left: list[str],
) -> report.Report:
    output = run.output
    phases = run.phases()
    write_outage = read_outage = None
    if phases:
        begin, end = min(begin for begin, _ in phases.values()), max(end for _, end in phases.values())
        write_outage = report.longest_gap([ack.at for ack in acks], begin, end)
        read_outage = report.longest_overlapping(stopped.read_gaps, begin, end)
    return report.Report(
        status=run.status,
        strategy=(output.get("plan") or {}).get("strategy", "read-replica"),
        engine=built.engine,
        acknowledged=counted.acknowledged,
        lost=counted.lost,
        duplicated=counted.duplicated,
        write_outage_seconds=write_outage,
        read_outage_seconds=read_outage,
        old_key=(output.get("old_key") or {}).get("arn"),
        new_key=(output.get("new_key") or {}).get("arn"),
        states=[
            {"name": visit.name, "entered_at": visit.entered_at.isoformat(), "seconds": visit.seconds}
            for visit in run.visits
        ],
        state_transitions=run.transitions,
        api_calls=calls.by_operation,
        decisions=calls.decisions,
        denied=list(calls.denied),
        leftovers=left,
        evidence=(output.get("verification") or {}).get("evidence", {}),
    )


def main(argv: Sequence[str]) -> int:
    options = _options(argv)
    console = Console()
    if sys.platform != "linux":
        console.print("The sandbox runs on Linux only.")
        return 2
    if options.engine in mariadb.SERVES and not mariadb.is_installed():
        console.print(f"MariaDB is not installed: {mariadb.HOW_TO_INSTALL}.", highlight=False)
        return 2
    from sandbox.client import SandboxProcess

    watcher = Watcher(console)
    watcher.say("the sandbox starts: the template is deployed")
    with SandboxProcess() as sandbox:
        account = Account.from_facts(sandbox.facts)
        watcher.say("a key, a database under it, data, a name")
        built = world.build(
            account,
            engine=options.engine,
            connectivity=options.connectivity,
            rows=options.rows,
            writers=options.writers,
            encrypted=not options.unencrypted,
            strategy=options.strategy,
            fence=options.fence,
        )
        for number in range(options.replicas):
            world.make_replica(account, built.identifier, f"{built.identifier}-reader-{number + 1}")
        outcome = rotate_under_load(
            account,
            built,
            Load(writers=options.writers, rate=options.rate, acks=options.acks),
            request={"GraceDays": options.grace_days, "Accept": accepted(options, built)},
            watcher=watcher,
        )
        finish(console, outcome, options.picture)
    if options.json:
        options.json.write_text(
            json.dumps(inventory.jsonable(outcome.report.to_json()), indent=2, ensure_ascii=False) + "\n"
        )
    return 0 if outcome.report.good else 1


def accepted(options: argparse.Namespace, built: world.World) -> list[str]:
    """The risks of what is asked for."""
    replicas = ["replicas"] if options.replicas else []
    names = (options.strategy, f"{options.engine}/{options.strategy}", *replicas, f"fence/{built.fence}")
    return [risk for name in names for risk in ACCEPTED.get(name, ())]


def finish(console: Console, outcome: Outcome, picture: Path | None) -> None:
    """The table, and the picture if one is asked for."""
    found = outcome.report
    remarks = list(outcome.count.remarks)
    if outcome.run.error:
        remarks.append(f"{outcome.run.error}: {outcome.run.cause}")
    if picture is not None:
        title = f"{found.acknowledged:,} acknowledged, {found.lost} lost, {found.duplicated} duplicated"
        if found.write_outage_seconds is not None:
            title += f"; write outage {found.write_outage_seconds:.2f} s"
        picture.parent.mkdir(parents=True, exist_ok=True)
        report.draw(picture, outcome.acks, outcome.run.phases(), title=title)
    report.show_states(console, found)
    report.show(console, found, remarks=remarks, names={"picture": str(picture)} if picture else None)


def _options(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m sandbox demo",
        description="Build a database with data, write to it without pause, rotate its key, report. "
        "Exit 0 only if the rotation succeeded and nothing was lost, duplicated, denied or left over.",
    )
    parser.add_argument("--engine", choices=(*dialects.ENGINES, *dialects.CLUSTERS), default="postgres")
    parser.add_argument("--strategy", choices=STRATEGIES, default="read-replica")
    parser.add_argument(
        "--connectivity", choices=["dns", "secret", "proxy"], default="dns", help="of every strategy but blue-green"
    )
    parser.add_argument(
        "--fence",
        choices=get_args(world.Fence),
        help="keep writers away without a login (only by --strategy snapshot; what mysql and others have there anyway)",
    )
    parser.add_argument("--unencrypted", action="store_true", help="begin with no key (not by read-replica)")
    parser.add_argument(
        "--replicas", type=int, choices=range(6), default=0, help="of postgres and mariadb (not by blue-green)"
    )
    parser.add_argument("--writers", type=_positive(int), default=6)
    parser.add_argument("--rows", type=_positive(int), default=200_000)
    parser.add_argument(
        "--rate", type=float, default=DEFAULT_RATE, help="transactions per second of each writer, 0: unbounded"
    )
    parser.add_argument("--grace-days", type=float, default=7, help="days on the sandbox's clock")
    parser.add_argument("--json", type=Path, help="write the report here")
    parser.add_argument("--acks", type=Path, help="write the acknowledged commits here, one a line")
    parser.add_argument("--picture", type=Path, default=Path("build/cutover.png"), help="write the picture here (PNG)")
    options = parser.parse_args(argv)
    if options.engine == dialects.MULTI_AZ_POSTGRES and options.strategy != "snapshot":
        parser.error(f"{options.engine} is rotated by --strategy snapshot only")
    if options.engine in dialects.CLUSTERS and options.strategy == "read-replica":
        parser.error(f"{options.engine} is a cluster, which --strategy blue-green or snapshot rotates")
    if options.engine in (*dialects.FOREIGN, dialects.AURORA_MYSQL) and options.strategy != "snapshot":
        parser.error(f"{options.engine} is rotated by --strategy snapshot only: nobody here logs in to one")
    if options.engine == "mysql" and options.strategy not in ("blue-green", "snapshot"):
        parser.error("mysql is rotated by --strategy blue-green or snapshot: nobody here logs in to one")
    if options.fence and options.strategy != "snapshot":
        parser.error("--fence network is of --strategy snapshot only")
    if options.fence and options.engine == dialects.MULTI_AZ_POSTGRES:
        parser.error("--fence network keeps nobody out of a Multi-AZ DB cluster, which is restarted in another way")
    if options.strategy == world.CATCH_UP and options.engine not in ("postgres", "mariadb"):
        parser.error("--strategy catch-up is of --engine postgres or mariadb only")
    if options.connectivity == "proxy" and options.engine in dialects.CLUSTERS:
        parser.error("--connectivity proxy is of instances only: no proxy here leads to a cluster")
    if options.connectivity == "proxy" and options.engine not in world.FAMILIES:
        parser.error(f"--connectivity proxy is of --engine {' or '.join(world.FAMILIES)} only")
    if options.replicas and (options.engine not in ("postgres", "mariadb") or options.fence):
        parser.error("--replicas are of --engine postgres or mariadb only, and of no --fence network")
    if options.replicas and options.strategy == "blue-green":
        parser.error("--replicas need another --strategy than blue-green: RDS copies them along, as the database")
    if options.strategy == "blue-green":
        options.connectivity = "endpoint"  # the name stays what it is
    elif options.unencrypted and options.strategy == "read-replica":
        parser.error("--unencrypted needs another --strategy than read-replica")
    return options


def _positive(convert: Callable[[str], Any]) -> Callable[[str], Any]:
    def parse(text: str) -> Any:
        value = convert(text)
        if value <= 0:
            raise argparse.ArgumentTypeError("has to be more than 0")
        return value

    return parse


__all__ = ["CONTROL_DATABASE", "Load", "Outcome", "Watcher", "main", "rotate_under_load", "rotate_well"]
