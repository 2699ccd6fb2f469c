"""The results of a sweep: as a page, with a row for each boundary and a column for each kind, and as a document."""

from collections import Counter
from collections.abc import Iterable
from html import escape

from sandbox.demo.dialects import AURORA_MYSQL, MULTI_AZ_POSTGRES
from sandbox.sweep.batch import Result
from sandbox.sweep.boundaries import KINDS, Boundary, Subject

ENGINES = {
    "postgres": "PostgreSQL",
    "mariadb": "MariaDB",
    "aurora-postgresql": "Aurora PostgreSQL",
    AURORA_MYSQL: "Aurora MySQL",
    "oracle-se2": "Oracle",
    MULTI_AZ_POSTGRES: "Multi-AZ DB clusters of PostgreSQL",
}

STYLE = """
body { font: 14px/1.4 system-ui, sans-serif; margin: 2rem; color: #1c1c1c; background: #fff; }
table { border-collapse: collapse; } th, td { padding: .15rem .5rem; border: 1px solid #ddd; text-align: left; }
th { position: sticky; top: 0; background: #f4f4f4; } td { white-space: nowrap; }
td.place { font: 12px/1.3 ui-monospace, monospace; white-space: normal; }
.kept { background: #e6f4e6; } .unreached { background: #f0f0f0; color: #666; }
.broken, .error { background: #f9d6d5; font-weight: 600; } .empty { background: #fafafa; }
"""


def render(subject: Subject, commit: str, boundaries: Iterable[Boundary], results: Iterable[Result]) -> str:
    """A row for each boundary, in the order in which a rotation crosses them.

    A cell shows where the rotation went and its longest write outage; what broke is in its title.
    """
    every = {one["cell"]: one for one in results}
    rows = {
        boundary.name: {kind: every.get(f"{boundary.name}:{kind}") for kind in boundary.kinds()}
        for boundary in boundaries
    }
    counts = ", ".join(
        f"{sum(one['verdict'] == verdict for one in every.values())} {verdict}"
        for verdict in ("kept", "unreached", "broken", "error")
    )
    acknowledged = sum(one.get("acknowledged", 0) for one in every.values())
    lost = sum(one.get("lost", 0) for one in every.values())
    title = escape(f"{heading(subject)}, {commit}")
    head = "".join(f"<th>{escape(kind)}</th>" for kind in KINDS)
    body = "".join(
        f'<tr><td class="place">{escape(boundary)}</td>{"".join(_cell(of_it.get(kind)) for kind in KINDS)}</tr>'
        for boundary, of_it in rows.items()
    )
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Sweep of {title}</title>'
        f"<style>{STYLE}</style><h1>Sweep of {title}</h1>"
        f"<p>{len(every)} cells: {counts}. {acknowledged:,} acknowledged writes, {lost} lost.</p>"
        "<p>Each cell is a whole rotation under live writes that failed there, in that way: where it went, and its "
        "longest write outage.</p>"
        f"<table><thead><tr><th>boundary</th>{head}</tr></thead><tbody>{body}</tbody></table></html>\n"
    )


DOCUMENT = """\
# Reliability

Written by `python -m sandbox sweep --document docs/reliability.md`, not by hand.

A sweep lets a rotation fail at every boundary that it crosses (each AWS call, SQL statement and invocation of each of
its functions, the way back after a failure included), in every way that shows something new there, one whole rotation
for each. Three clients, one of each kind, write without pause. After each rotation the invariants of
[how it works](how-it-works.md) are checked on the databases and the account themselves: every acknowledged commit is
there exactly once, two sides never took writes at once, the name leads to a database that can be written, no key in use
is disabled, nothing else is gone, nothing is left, the next rotation can start, no secret was told.

What the kinds are: `error-before` (AWS answers with an error once; SQL: the connection is lost), `lost-answer` (it took
effect, and nobody is told), `throttle` (three times in a row), `denied` (for good, until somebody starts the rotation
anew), `killed` (the process dies after it took effect), `zombie` (somebody stops the execution there; the function
lives on when its recovery has begun), `twice` and `again` (an invocation is delivered twice, at once or one after the
other), `stopped` (somebody stops the execution before the function does anything), `unheard` (as `stopped`, and the
event that would start a recovery is lost), `overtaken` (the function that was stopped comes to work after the
rollback), `stalled` (nobody carries the execution on for six hours), `late` (a session that was let in before the fence
wakes up there), `replaced` (somebody restores another instance under the source's name), `led-back` (somebody leads
applications back to the source after the cutover).

A place that was not reached: a function that is polled was polled once less than in the rotation that was recorded.
The rotation was held against the invariants all the same. Outages are those of the sandbox, whose RDS takes about a
second for what takes RDS minutes.
"""

PART = """\
## {heading}

{date}, commit `{commit}`: **{cells:,} of {of:,} cells played**, as many rotations and more ({executions:,} executions),
{acknowledged:,} acknowledged writes, **{lost:,} lost, {duplicated:,} duplicated**; longest write outage {outage:.1f} s.

| kind of failure | cells | kept | not reached | broken | went forward | went back | longest outage (s) |
|---|---|---|---|---|---|---|---|
{rows}
"""


def heading(subject: Subject) -> str:
    return f"{ENGINES[subject.engine]} by {subject.strategy}"


def document(before: str, part: str) -> str:
    """``docs/reliability.md`` with this part in it, in place of the one with the same heading."""
    parts = {text.splitlines()[0]: text for text in [*before.split("\n## ")[1:], part.removeprefix("## ")]}
    return "\n## ".join([DOCUMENT, *(parts[name].rstrip() + "\n" for name in sorted(parts))])


def part(subject: Subject, commit: str, date: str, of: int, results: Iterable[Result]) -> str:
    """What was found of one subject. ``of``: how many cells there are."""
    every = list(results)
    rows = []
    for kind in KINDS:
        of_it = [one for one in every if one["cell"].rsplit(":", 1)[-1] == kind]
        if not of_it:
            continue
        verdicts, went = Counter(one["verdict"] for one in of_it), Counter(one.get("went") for one in of_it)
        bad = verdicts["broken"] + verdicts["error"]
        rows.append(
            f"| `{kind}` | {len(of_it)} | {verdicts['kept']} | {verdicts['unreached']} | {bad} | {went['forward']} "
            f"| {went['back']} | {longest(of_it):.1f} |"
        )
    total = {
        name: sum(one.get(name, 0) for one in every) for name in ("executions", "acknowledged", "lost", "duplicated")
    }
    return PART.format(
        heading=heading(subject), date=date, commit=commit, cells=len(every), of=of, outage=longest(every),
        rows="\n".join(rows), **total,
    )  # fmt: skip


def longest(results: Iterable[Result]) -> float:
    return max((one.get("outage_seconds", 0.0) for one in results), default=0.0)


def _cell(result: Result | None) -> str:
    if result is None:
        return '<td class="empty"></td>'
    why = escape("; ".join(result["why"]), quote=True)
    shown = result["verdict"]
    if "went" in result:
        shown = f"{'→' if result['went'] == 'forward' else '↩'} {result['outage_seconds']:.1f} s"
        if result["verdict"] != "kept":
            shown += f" {result['verdict']}"
    return f'<td class="{result["verdict"]}" title="{why}">{escape(shown)}</td>'
