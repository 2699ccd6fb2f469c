"""``python -m sandbox sweep``: a rotation fails at every boundary, in every way; what holds afterwards?

One rotation is recorded to list the boundaries. Then each cell, a boundary and a kind of failure there, is a whole
rotation of its own under live writes, held against the invariants. Results are kept per engine, strategy and commit: a
sweep that was interrupted goes on where it stopped.
"""

import argparse
import json
import os
import random
import shlex
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, get_args

from rich.console import Console
from rich.table import Table

from sandbox import scratch
from sandbox.sweep import page
from sandbox.sweep.batch import Result, to_json
from sandbox.sweep.boundaries import DEFAULT, KINDS, SUBJECTS, Boundary, Cell, Subject, Way, cells, read

ROOT = Path(__file__).resolve().parents[2]
CELLS_PER_SANDBOX = 24
"""A sandbox keeps what its cells leave behind, and each cell takes an inventory of all of it."""

WORKERS = 2 * (os.cpu_count() or 1)
"""A rotation waits half of its time, mostly for servers that start."""
PLAYED = (
    "app.py",
    "cdk.json",
    "config",
    "infra",
    "lambdas",
    "requirements.txt",
    "requirements-dev.txt",
    "sandbox",
    "statemachine",
)
"""What a result depends on: a commit that changes other files leaves it true."""

GOOD = ("kept", "unreached")
"""``unreached``: the place was not crossed in that rotation (one poll less than in the recorded one)."""


class Archive:
    """Results of one commit and subject, one JSON line each; the last one of a cell counts."""

    def __init__(self, directory: Path, subject: Subject = SUBJECTS[DEFAULT], commit: str = "") -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.subject, self.commit = subject, commit
        self.boundaries = directory / "boundaries.json"
        self._path = directory / "results.jsonl"
        self._lock = threading.Lock()

    @classmethod
    def of(cls, subject: Subject, commit: str) -> "Archive":
        return cls(ROOT / "build" / "sweep" / commit / f"{subject.engine}-{subject.strategy}", subject, commit)

    def add(self, result: Result) -> None:
        with self._lock, self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(result) + "\n")

    def results(self) -> dict[str, Result]:
        if not self._path.exists():
            return {}
        return {result["cell"]: result for result in map(json.loads, self._path.read_text().splitlines())}


def commit() -> str:
    """The last one that changed what a sweep plays; with ``-changed`` if that is not all that is there."""

    def git(*words: str) -> str:
        command = ["git", *words, "--", *PLAYED]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()

    found = git("log", "-1", "--format=%h", "--abbrev=12") or "unversioned"
    return f"{found}-changed" if git("status", "-s", "-uno") else found


def record(subject: Subject) -> tuple[list[Boundary], dict[str, Any]]:
    """Rotate once on each way, and list what was crossed; and what such a rotation costs, in core seconds."""
    from sandbox.client import SandboxProcess
    from sandbox.demo.customer import Customer
    from sandbox.sweep.scenario import Scenario, play

    found: list[Boundary] = []
    cost: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="rds-key-rotation-sweep-") as scratch:
        recorded = Path(scratch) / "crossings.jsonl"
        scenarios: dict[Way, Scenario] = {
            way: Scenario(
                f"recorded-{way}", subject.faults(way), request=subject.request,
                world=subject.world,
            )
            for way in get_args(Way)
        }  # fmt: skip
        faults = [fault for one in scenarios.values() for fault in one.in_sandbox()]
        with SandboxProcess(faults=faults, crossings=recorded) as sandbox:
            for way, scenario in scenarios.items():
                recorded.unlink(missing_ok=True)
                outcome = play(Customer.of(sandbox), scenario, Path(scratch) / way)
                if outcome.went_forward != (way == "forward"):
                    raise RuntimeError(f"the recorded rotation did not go {way}: {outcome.story}")
                found += read(way, recorded, subject.name)
                # The first rotation of a sandbox imports what the later ones find in memory.
                cost = dict(outcome.core_seconds)
    return found, cost


def boundaries_of(archive: Archive, console: Console) -> list[Boundary]:
    if archive.boundaries.exists():
        return [Boundary(**one) for one in json.loads(archive.boundaries.read_text())]
    console.print("recording a rotation that succeeds and one that is rolled back")
    found, cost = record(archive.subject)
    per_rotation = sum(cost.values())
    console.print(
        f"{len(found)} boundaries, {len(cells(found))} cells, {per_rotation:.1f} core seconds per rotation: "
        f"{len(cells(found)) * per_rotation / 3600:.1f} core hours for all of them"
    )
    archive.boundaries.write_text(json.dumps([vars(one) for one in found], indent=1) + "\n")
    return found


def sweep(
    chosen: Sequence[Cell], archive: Archive, console: Console, workers: int, *, anew: bool = False
) -> dict[str, Result]:
    """Play what has no result yet; the results of all of ``chosen``."""
    known = {} if anew else archive.results()
    missing = [cell for cell in chosen if cell.name not in known]
    size = max(1, min(CELLS_PER_SANDBOX, -(-len(missing) // workers)))
    batches = [missing[at : at + size] for at in range(0, len(missing), size)]
    began, done = time.monotonic(), Counter[str]()

    def play(batch: Sequence[Cell]) -> None:
        for result in _in_a_process(batch):
            archive.add(result)
            known[result["cell"]] = result
            done[result["verdict"]] += 1
            told = ", ".join(f"{verdict} {n}" for verdict, n in done.items())
            line = (
                f"{time.monotonic() - began:6.0f} s  {sum(done.values()):4d}/{len(missing)}  {told}  {result['cell']}"
            )
            if result["verdict"] not in GOOD:
                line += f"\n{replay(archive.subject, result['cell'])}\n  {'; '.join(result['why'])}"
            console.print(line, highlight=False, markup=False, soft_wrap=True)

    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(play, batches))
    return {cell.name: known[cell.name] for cell in chosen if cell.name in known}


def _in_a_process(batch: Sequence[Cell]) -> Iterable[Result]:
    """Each batch has a sandbox and an interpreter of its own; what that does not answer is an error of each cell."""
    process = subprocess.Popen(
        [sys.executable, "-m", "sandbox.sweep"],
        cwd=ROOT,
        env=os.environ | {"TMPDIR": scratch.directory()},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    answered = set()
    try:
        with suppress(BrokenPipeError):
            process.stdin.write(json.dumps([to_json(cell) for cell in batch]) + "\n")
            process.stdin.close()
        for line in process.stdout:
            result: Result = json.loads(line)
            answered.add(result["cell"])
            yield result
    finally:
        if len(answered) < len(batch):
            process.terminate()
        process.wait()
    for cell in batch:
        if cell.name not in answered:
            why = [f"its process ended with {process.returncode}"]
            yield {"cell": cell.name, "verdict": "error", "why": why, "at": to_json(cell)}


def replay(subject: Subject, cell: str) -> str:
    which = "" if subject.name == DEFAULT else f"--engine {subject.engine} --strategy {subject.strategy} "
    return f"  python -m sandbox sweep {which}--cell {shlex.quote(cell)}"


def choose(found: Sequence[Boundary], options: argparse.Namespace) -> list[Cell]:
    """Raises: SystemExit, for a cell that there is not."""
    chosen = cells(found, options.kinds.split(",") if options.kinds else KINDS)
    if options.cell:
        chosen = [cell for cell in chosen if cell.name in options.cell]
        if unknown := sorted(set(options.cell) - {cell.name for cell in chosen}):
            raise SystemExit(f"no cell {', '.join(unknown)}; --list shows them all")
    if options.sample:
        # The same ones every time: a sample that changes is green by luck.
        chosen = random.Random(options.seed).sample(chosen, min(options.sample, len(chosen)))
    if options.shard:
        part, parts = (int(number) for number in options.shard.split("/"))
        chosen = chosen[part - 1 :: parts]
    return chosen


def show(console: Console, results: Iterable[Result]) -> None:
    table = Table("kind", "cells", "kept", "unreached", "broken", "error", "acknowledged", "lost", "worst outage (s)")
    every = list(results)
    for kind in [*KINDS, "all"]:
        of_it = [one for one in every if kind in ("all", one["cell"].rsplit(":", 1)[-1])]
        if not of_it:
            continue
        verdicts = Counter(one["verdict"] for one in of_it)
        table.add_row(
            kind, str(len(of_it)), *(str(verdicts[verdict]) for verdict in ("kept", "unreached", "broken", "error")),
            f"{sum(one.get('acknowledged', 0) for one in of_it):,}", str(sum(one.get("lost", 0) for one in of_it)),
            f"{page.longest(of_it):.1f}",
        )  # fmt: skip
    console.print(table)


def main(argv: Sequence[str]) -> int:
    """0 only if every chosen cell has a result and keeps every invariant."""
    parser = argparse.ArgumentParser(prog="python -m sandbox sweep", description=__doc__)
    parser.add_argument("--engine", default="postgres")
    parser.add_argument("--strategy", default="read-replica")
    parser.add_argument("--kinds", help=f"only these, comma separated: {', '.join(KINDS)}")
    parser.add_argument("--sample", type=int, help="only so many cells, the same ones for the same --seed")
    parser.add_argument("--seed", default="sweep")
    parser.add_argument("--shard", metavar="i/n", help="every n-th cell, from the i-th")
    parser.add_argument("--cell", action="append", help="this one, played anew whatever is known of it")
    parser.add_argument("--list", action="store_true", help="name the cells, and play none")
    parser.add_argument("--workers", type=int, default=WORKERS, help="sandboxes at a time")
    parser.add_argument("--json", type=Path, help="write the results here")
    parser.add_argument("--html", type=Path, help="write a page with all results of this commit here")
    parser.add_argument("--document", type=Path, help="write its part of docs/reliability.md from all results")
    options = parser.parse_args(argv)
    subject = SUBJECTS.get(f"{options.engine}/{options.strategy}")
    if subject is None:
        parser.error(f"there is no {options.strategy} of {options.engine}; there is {', '.join(SUBJECTS)}")
    console, archive = Console(), Archive.of(subject, commit())
    found = boundaries_of(archive, console)
    chosen = choose(found, options)
    if options.list:
        for cell in chosen:
            print(cell.name)
        return 0
    results = sweep(chosen, archive, console, options.workers, anew=bool(options.cell))
    show(console, results.values())
    if options.json:
        options.json.write_text(
            json.dumps({"commit": archive.commit, "results": list(results.values())}, indent=1) + "\n"
        )
    if options.html:
        options.html.write_text(page.render(subject, archive.commit, found, archive.results().values()))
    if options.document:
        before = options.document.read_text() if options.document.exists() else ""
        today, every = time.strftime("%Y-%m-%d"), archive.results().values()
        part = page.part(subject, archive.commit, today, len(cells(found)), every)
        options.document.write_text(page.document(before, part))
    bad = {cell.name: results.get(cell.name, {}).get("verdict", "no result") for cell in chosen}
    bad = {name: verdict for name, verdict in bad.items() if verdict not in GOOD}
    for name, verdict in bad.items():
        console.print(f"{verdict}:\n{replay(subject, name)}", markup=False, soft_wrap=True)
    return 1 if bad else 0
