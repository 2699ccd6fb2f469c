"""What came of it: the figures, the JSON, the table and the picture."""

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from sandbox.demo.writers import Ack

BIN_SECONDS = 0.05
AROUND_SECONDS = 3.0
COLOURS = {
    "fence": "#d62728", "drain": "#ff7f0e", "promote": "#9467bd", "switch": "#1f77b4", "release": "#2ca02c",
    "switchover": "#9467bd", "snapshot": "#ff7f0e", "copy": "#8c564b", "restore": "#9467bd",
    "end catch-up": "#9467bd",
}  # fmt: skip


@dataclass(frozen=True)
class Report:
    """Design section 7; ``seconds`` of states and the outages are seconds, ``entered_at`` the sandbox's clock."""

    status: str
    strategy: str
    engine: str
    acknowledged: int
    lost: int
    duplicated: int
    write_outage_seconds: float | None
    read_outage_seconds: float | None
    old_key: str | None
    new_key: str | None
    states: list[dict[str, Any]]
    state_transitions: int
    api_calls: dict[str, int]
    decisions: int
    denied: list[str]
    leftovers: list[str]
    evidence: Mapping[str, Any]

    @property
    def good(self) -> bool:
        """Nothing at all went wrong."""
        return self.status == "SUCCEEDED" and not (self.lost or self.duplicated or self.denied or self.leftovers)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def longest_gap(moments: Sequence[float], begin: float, end: float) -> float:
    """The longest time without any of ``moments`` (ascending) that touches the time between ``begin`` and ``end``."""
    longest = 0.0
    for earlier, later in itertools.pairwise(moments):
        if later >= begin and earlier <= end:
            longest = max(longest, later - earlier)
    return longest


def longest_overlapping(gaps: Sequence[tuple[float, float]], begin: float, end: float) -> float:
    return max((later - earlier for earlier, later in gaps if later >= begin and earlier <= end), default=0.0)


def show(
    console: Console, report: Report, *, remarks: Sequence[str] = (), names: Mapping[str, str] | None = None
) -> None:
    """The table at the end."""
    table = Table(title="Key rotation under load", title_justify="left", show_header=False, pad_edge=False)
    table.add_column(style="bold")
    table.add_column()
    colour = "green" if report.good else "red"
    table.add_row("status", f"[{colour}]{report.status}[/]")
    for name, value in (names or {}).items():
        table.add_row(name, value)
    table.add_row("old key", report.old_key or "-")
    table.add_row("new key", report.new_key or "-")
    table.add_row("acknowledged writes", f"{report.acknowledged:,}")
    table.add_row("lost", _count(report.lost))
    table.add_row("duplicated", _count(report.duplicated))
    table.add_row("write outage", _seconds(report.write_outage_seconds))
    table.add_row("… on the sandbox's clock", _seconds(report.evidence.get("write_outage_seconds")))
    table.add_row("read outage", _seconds(report.read_outage_seconds))
    table.add_row("state transitions", str(report.state_transitions))
    table.add_row("API calls of the roles", f"{sum(report.api_calls.values()):,} ({report.decisions:,} decisions)")
    table.add_row("denied", _count(len(report.denied)))
    table.add_row("leftovers", _count(len(report.leftovers)))
    console.print(table)
    for line in (*remarks, *report.denied, *report.leftovers):
        console.print(f"[red]{line}[/]", highlight=False, soft_wrap=True)


def show_states(console: Console, report: Report) -> None:
    """Where the time went: every state, visits added up."""
    visits: dict[str, list[float]] = {}
    for state in report.states:
        visits.setdefault(state["name"], []).append(state["seconds"] or 0.0)
    columns = ("state", "visits", "seconds (sandbox's clock)")
    table = Table(*columns, title="State by state", title_justify="left", pad_edge=False)
    for name, seconds in visits.items():
        table.add_row(name, str(len(seconds)), f"{sum(seconds):,.2f}")
    console.print(table)


def _count(number: int) -> str:
    return f"[{'green' if number == 0 else 'red'}]{number}[/]"


def _seconds(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds:.2f} s"


def draw(
    path: Path,
    acks: Sequence[Ack],
    phases: Mapping[str, tuple[float, float]],
    *,
    title: str = "",
    around: float = AROUND_SECONDS,
) -> None:
    """A PNG of acknowledged writes per 50 ms over the cutover; the phases are shaded.

    Without phases (the fence was never reached) the whole run is drawn.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(11, 4.2), dpi=120)
    moments = [ack.at for ack in acks]
    if phases:
        zero = min(begin for begin, _ in phases.values())
        first, last = zero - around, max(end for _, end in phases.values()) + around
    else:
        first, last = (moments[0], moments[-1]) if moments else (0.0, 1.0)
        zero = first
    bins = Counter(int((moment - first) / BIN_SECONDS) for moment in moments if first <= moment <= last)
    edges = range(int((last - first) / BIN_SECONDS) + 1)
    axes.bar(
        [first - zero + (at + 0.5) * BIN_SECONDS for at in edges], [bins[at] for at in edges],
        width=BIN_SECONDS, color="#30506a", linewidth=0,
    )  # fmt: skip
    top = max(bins.values(), default=1)
    for level, (phase, (begin, end)) in enumerate(phases.items()):
        axes.axvspan(begin - zero, end - zero, color=COLOURS[phase], alpha=0.22, linewidth=0)
        axes.text(
            (begin + end) / 2 - zero, top * (1.06 + 0.06 * (level % 3)), f"{phase} {end - begin:.2f} s",
            ha="center", color=COLOURS[phase], fontsize=8,
        )  # fmt: skip
    axes.set_ylim(0, top * 1.28)
    axes.set_xlim(first - zero, last - zero)
    axes.set_xlabel("seconds since the fence was asked for")
    axes.set_ylabel("acknowledged writes per 50 ms")
    if title:
        axes.set_title(title, loc="left", fontsize=10)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    figure.tight_layout()
    figure.savefig(path)
    pyplot.close(figure)
