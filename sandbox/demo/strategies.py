"""Every strategy of every engine, one after the other in one sandbox, each measured by the same clients."""

import statistics
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime

from rich.console import Console
from rich.table import Table

from sandbox.demo import flow, world
from sandbox.demo.account import Account
from sandbox.demo.report import Report
from sandbox.sweep import commit
from sandbox.sweep.boundaries import SUBJECTS, Subject

ROWS = 20_000
CUT_OVER = "NotifyCutover"
USD_PER_TRANSITION = 25 / 1_000_000
"""Of a standard workflow, beyond the free ones (AWS, Step Functions pricing)."""

COLUMNS = (
    "engine", "strategy", "write outage (s)", "read outage (s)", "until cut over (s)", "state transitions",
    "price (USD)", "API calls", "acknowledged", "lost",
)  # fmt: skip

DOCUMENT = """\
# Strategies compared

Written by `python -m sandbox bench --strategies --document docs/strategies.md`, not by hand.

| {columns} |
|{rules}|
{rows}

{date}, commit `{commit}`: the median of {runs} rotations each (of an outage, in brackets, the longest), one after the
other in one sandbox, {writers} clients with {rate:g} transactions per second each, {items:,} rows. Outages are seconds
without an acknowledged write, or a read, as the clients saw it. *Until cut over* is on the sandbox's clock, from the
start to `{cut_over}`. What RDS takes for its own part is the sandbox's assumption in all of these: a promotion and a
switchover take about a second there and minutes on RDS, and copying data takes as long as there is data. Compare the
columns with each other; what a strategy takes for a database of yours, [only that database can show](limits.md).
Above all the outage of `snapshot`: RDS's minutes pass on the sandbox's clock alone, and no client waits for them.
State transitions are of the whole rotation, without a grace period; the price is for 25 USD per million.
"""


@dataclass(frozen=True)
class Row:
    subject: Subject
    reports: tuple[Report, ...]

    def cells(self) -> tuple[str, ...]:
        transitions = statistics.median([one.state_transitions for one in self.reports])
        return (
            self.subject.engine,
            self.subject.strategy,
            _with_worst([one.write_outage_seconds or 0.0 for one in self.reports]),
            _with_worst([one.read_outage_seconds or 0.0 for one in self.reports]),
            f"{statistics.median([until_cut_over(one) for one in self.reports]):,.0f}",
            f"{transitions:.0f}",
            f"{transitions * USD_PER_TRANSITION:.4f}",
            f"{statistics.median([sum(one.api_calls.values()) for one in self.reports]):.0f}",
            f"{sum(one.acknowledged for one in self.reports):,}",
            str(sum(one.lost + one.duplicated for one in self.reports)),
        )


def _with_worst(seconds: Sequence[float]) -> str:
    return f"{statistics.median(seconds):.1f} ({max(seconds):.1f})"


def until_cut_over(report: Report) -> float:
    """Seconds on the sandbox's clock, from the first state to the one that tells of the cutover."""
    entered = {state["name"]: datetime.fromisoformat(state["entered_at"]) for state in reversed(report.states)}
    return (entered[CUT_OVER] - min(entered.values())).total_seconds()


def measure(account: Account, load: flow.Load, runs: int, watcher: flow.Watcher, engines: Collection[str]) -> list[Row]:
    """Rotate ``runs`` databases of each kind, one more before that, which is not counted: it finds nothing loaded yet.

    Raises:
        RuntimeError: a rotation failed, or lost, left or was denied something.
    """
    rows = []
    for subject in (one for one in SUBJECTS.values() if one.engine in engines):
        reports = []
        for run in range(runs + 1):
            name = f"{subject.engine}-{subject.strategy}-{run}"
            built = world.build(account, identifier=name, rows=ROWS, writers=load.writers, **subject.world)
            found = flow.rotate_well(account, built, load, **subject.request).report
            world.remove(account, name)
            watcher.say(f"{name}: {found.write_outage_seconds:.2f} s, {found.lost} lost")
            reports.append(found)
        rows.append(Row(subject, tuple(reports[1:])))
    return rows


def show(console: Console, rows: Sequence[Row]) -> None:
    table = Table(*COLUMNS, title="Strategies", title_justify="left")
    for row in rows:
        table.add_row(*row.cells())
    console.print(table)


def document(rows: Sequence[Row], load: flow.Load) -> str:
    """``docs/strategies.md``, with this commit's name in it."""
    return DOCUMENT.format(
        columns=" | ".join(COLUMNS),
        rules="|".join("---" for _ in COLUMNS),
        rows="\n".join(f"| {' | '.join(row.cells())} |" for row in rows),
        date=time.strftime("%Y-%m-%d"),
        commit=commit(),
        runs=len(rows[0].reports),
        writers=load.writers,
        rate=load.rate,
        items=ROWS,
        cut_over=CUT_OVER,
    )
