"""The results of a sweep as one HTML page: a row for each boundary, a column for each kind."""

from collections.abc import Iterable
from html import escape

from sandbox.sweep.batch import Result
from sandbox.sweep.boundaries import KINDS

STYLE = """
body { font: 14px/1.4 system-ui, sans-serif; margin: 2rem; color: #1c1c1c; background: #fff; }
table { border-collapse: collapse; } th, td { padding: .15rem .5rem; border: 1px solid #ddd; text-align: left; }
th { position: sticky; top: 0; background: #f4f4f4; } td.place { font-family: ui-monospace, monospace; }
.kept { background: #e6f4e6; } .unreached { background: #f0f0f0; color: #666; }
.broken, .error { background: #f9d6d5; font-weight: 600; } .empty { background: #fafafa; }
"""


def render(commit: str, results: Iterable[Result]) -> str:
    """A cell shows where the rotation went and its longest write outage; what broke is in its title."""
    every = {one["cell"]: one for one in results}
    rows: dict[str, dict[str, Result]] = {}
    for name, result in every.items():
        boundary, _, kind = name.rpartition(":")
        rows.setdefault(boundary, {})[kind] = result
    counts = ", ".join(
        f"{sum(one['verdict'] == verdict for one in every.values())} {verdict}"
        for verdict in ("kept", "unreached", "broken", "error")
    )
    acknowledged = sum(one.get("acknowledged", 0) for one in every.values())
    lost = sum(one.get("lost", 0) for one in every.values())
    head = "".join(f"<th>{escape(kind)}</th>" for kind in KINDS)
    body = "".join(
        f'<tr><td class="place">{escape(boundary)}</td>{"".join(_cell(of_it.get(kind)) for kind in KINDS)}</tr>'
        for boundary, of_it in rows.items()
    )
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Sweep of {escape(commit)}</title>'
        f"<style>{STYLE}</style><h1>Sweep of {escape(commit)}</h1>"
        f"<p>{len(every)} cells: {counts}. {acknowledged:,} acknowledged writes, {lost} lost.</p>"
        "<p>Each cell is a whole rotation under live writes that failed there, in that way: where it went, and its "
        "longest write outage.</p>"
        f"<table><thead><tr><th>boundary</th>{head}</tr></thead><tbody>{body}</tbody></table></html>\n"
    )


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
