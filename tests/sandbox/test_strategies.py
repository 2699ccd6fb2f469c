"""The table of strategies says what was measured: medians, the worst outage, time until the cutover, price."""

from typing import Any

from sandbox.demo import flow
from sandbox.demo.report import Report
from sandbox.demo.strategies import COLUMNS, Row, document, until_cut_over
from sandbox.sweep.boundaries import DEFAULT, SUBJECTS

STATES = [
    {"name": "Begin", "entered_at": "2026-11-21T10:00:00+00:00", "seconds": 0.0},
    {"name": "NotifyCutover", "entered_at": "2026-11-21T10:20:05+00:00", "seconds": 1.0},
    {"name": "Notify", "entered_at": "2026-11-28T10:00:00+00:00", "seconds": 1.0},
]


def measured(outage: float, **facts: Any) -> Report:
    usual: dict[str, Any] = {
        "status": "SUCCEEDED", "strategy": "read-replica", "engine": "postgres", "acknowledged": 1000, "lost": 0,
        "duplicated": 0, "write_outage_seconds": outage, "read_outage_seconds": outage / 2, "old_key": None,
        "new_key": None, "states": STATES, "state_transitions": 80, "api_calls": {"rds.A": 300, "kms.B": 20},
        "decisions": 0, "denied": [], "leftovers": [], "evidence": {},
    }  # fmt: skip
    return Report(**usual | facts)


def test_a_row_is_the_median_of_its_runs_and_names_the_worst() -> None:
    row = Row(SUBJECTS[DEFAULT], (measured(2.0), measured(9.0, state_transitions=100), measured(3.0)))

    shown = dict(zip(COLUMNS, row.cells(), strict=True))

    assert (shown["write outage (s)"], shown["read outage (s)"]) == ("3.0 (9.0)", "1.5 (4.5)")
    assert (shown["until cut over (s)"], shown["state transitions"]) == ("1,205", "80")
    assert (shown["price (USD)"], shown["API calls"]) == ("0.0020", "320")
    assert (shown["acknowledged"], shown["lost"]) == ("3,000", "0")


def test_the_time_ends_with_the_first_notification_of_the_cutover() -> None:
    """What comes after a recovery tells of it again."""
    again = [*STATES, {"name": "NotifyCutover", "entered_at": "2026-11-29T10:00:00+00:00", "seconds": 1.0}]

    assert until_cut_over(measured(1.0, states=again)) == 1205


def test_what_is_lost_is_in_the_document() -> None:
    rows = [Row(SUBJECTS[DEFAULT], (measured(2.0, lost=3),))]

    shown = document(rows, flow.Load(writers=6, rate=50))

    assert "| postgres | read-replica | 2.0 (2.0) | 1.0 (1.0) | 1,205 | 80 | 0.0020 | 320 | 1,000 | 3 |" in shown
    assert "the median of 1 rotations each" in shown
