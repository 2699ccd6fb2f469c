"""The demonstration on a small database: under load, nothing lost, nothing denied, nothing left over."""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from urllib.parse import unquote

import pytest

from sandbox.demo import flow, report
from sandbox.demo.dialects import KINDS
from sandbox.demo.world import DATABASES
from tests.infra.interpreters import recorded, second_opinions
from tests.rotation.support import ROOT, Customer

pytestmark = pytest.mark.slow

FIELDS = {
    "status", "strategy", "engine", "acknowledged", "lost", "duplicated", "write_outage_seconds", "read_outage_seconds",
    "old_key", "new_key", "states", "state_transitions", "api_calls", "decisions", "denied", "leftovers", "evidence",
}  # fmt: skip


def test_nothing_is_lost(customer: Customer, tmp_path: Path) -> None:
    """The promise of the product, counted twice: by the demonstration, and here from its file with SQL of our own."""
    acks, picture = tmp_path / "acks.txt", tmp_path / "cutover.png"
    built = customer.build("demo", rows=20_000)

    outcome = flow.rotate_under_load(customer.account, built, flow.Load(acks=acks))

    found = outcome.report
    assert found.status == "SUCCEEDED", f"{outcome.run.error}: {outcome.run.cause}"
    assert (found.lost, found.duplicated, found.denied, found.leftovers) == (0, 0, [], []), outcome.count.remarks
    assert found.good
    assert found.decisions > 100
    assert found.old_key == built.key_arn != found.new_key
    assert {ack.kind for ack in outcome.acks} == set(KINDS)
    assert found.to_json().keys() == FIELDS
    assert json.dumps(found.to_json())
    assert found.write_outage_seconds is not None
    assert 0 < found.write_outage_seconds < 60
    assert second_opinions([recorded(customer.client("stepfunctions"), outcome.run.arn)]) == [[]]
    assert list(outcome.run.phases()) == ["fence", "drain", "promote", "switch", "release"]
    report.draw(picture, outcome.acks, outcome.run.phases())
    assert picture.read_bytes().startswith(b"\x89PNG")

    lines = [line.split() for line in acks.read_text().splitlines()]
    assert len(lines) == found.acknowledged > 500
    endpoint = built.finder(customer.account).find()
    for database in DATABASES:
        told = {row for _, name, row, _, _ in lines if unquote(name) == database}
        rows = Counter(str(row) for (row,) in customer.query(built, endpoint, database, "SELECT id FROM ledger"))
        assert told
        assert {row: rows[row] for row in told if rows[row] != 1} == {}
        assert customer.query(built, endpoint, database, "SELECT sum(n) FROM counters") == [[len(rows)]]


def test_the_command_and_its_exit_code(tmp_path: Path) -> None:
    """Other programs drive this: what it prints may change, its options, its JSON and its exit code may not."""
    results = tmp_path / "r.json"

    done = subprocess.run(
        [sys.executable, "-m", "sandbox", "demo", "--connectivity", "secret", "--writers", "3", "--rows", "2000",
         "--json", str(results),
         "--acks", str(tmp_path / "a.txt"), "--picture", str(tmp_path / "cutover.png")],
        cwd=ROOT, capture_output=True, text=True, timeout=400, check=False,
    )  # fmt: skip

    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(results.read_text())
    assert found.keys() == FIELDS
    assert found["status"] == "SUCCEEDED"
    assert (found["lost"], found["duplicated"], found["denied"], found["leftovers"]) == (0, 0, [], [])
    assert len((tmp_path / "a.txt").read_text().splitlines()) == found["acknowledged"]
    assert (tmp_path / "cutover.png").stat().st_size > 10_000
