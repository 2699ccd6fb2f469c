"""The sweep lists every boundary, repeats none, forgets no result, and fails when one is bad or missing."""

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import pytest
from rich.console import Console

from sandbox import sweep
from sandbox.demo import dialects, flow
from sandbox.demo.dialects import CLUSTERS, ENGINES
from sandbox.demo.inventory import Difference
from sandbox.sweep import Archive, invariants, page
from sandbox.sweep.batch import from_json, scenario_of, to_json
from sandbox.sweep.boundaries import AT_SOME_INVOCATIONS, DEFAULT, SUBJECTS, Boundary, Cell, Way, cells, read
from sandbox.sweep.invariants import INVARIANTS

PROMOTE = Boundary("forward", "promote", "rds.PromoteReadReplica")
DECOMMISSION = Boundary("forward", "decommission", "invocation")
QUIET = Console(quiet=True)


def recorded(
    directory: Path, *invocations: tuple[str, Sequence[str], Sequence[str]], way: Way = "forward"
) -> list[str]:
    path = directory / "crossings.jsonl"
    lines = [{"function": name, "calls": calls, "statements": sql} for name, calls, sql in invocations]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return [f"{one.function} {one.what} {one.nth}" for one in read(way, path)]


def test_first_and_last_occurrence(tmp_path: Path) -> None:
    """Not of what only reads: its last one leaves what the change before it leaves."""
    statements = ["BEGIN", "ALTER ?", "BEGIN", "ALTER ?", "ALTER ?"]
    found = recorded(tmp_path, ("promote", ["rds.X", "rds.Y", "rds.X"], statements))

    assert found == [
        "promote invocation 1", "promote rds.X 1", "promote rds.X 2", "promote rds.Y 1",
        "promote BEGIN 1", "promote ALTER ? 1", "promote ALTER ? 3",
    ]  # fmt: skip


def test_how_often_a_function_is_polled_is_no_place(tmp_path: Path) -> None:
    """The last of eleven calls is the last of ten in the next rotation, and would never be reached."""
    found = recorded(tmp_path, ("verify", ["rds.X"], ["ALTER ?"]), ("verify", ["rds.X"], ["ALTER ?", "ALTER ?"]))

    assert found == ["verify invocation 1", "verify rds.X 1", "verify ALTER ? 1", "verify ALTER ? 2"]


def test_the_way_back_is_what_the_way_forward_has_not(tmp_path: Path) -> None:
    found = recorded(tmp_path, ("promote", ["rds.X"], []), ("rollback", ["rds.Y"], []), way="back")

    assert found == ["rollback invocation 1", "rollback rds.Y 1"]


@pytest.mark.parametrize(
    ("what", "kinds"),
    [
        ("invocation", "error-before lost-answer twice again stopped unheard"),
        ("rds.PromoteReadReplica", "error-before lost-answer throttle denied killed zombie"),
        ("dynamodb.GetItem", "throttle denied"),
        ("ALTER DATABASE ? ALLOW_CONNECTIONS false", "error-before lost-answer killed zombie"),
        ("COMMIT", "error-before lost-answer killed zombie"),
        ("SELECT pg_is_in_recovery()", "error-before"),
        (
            "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots",
            "error-before lost-answer killed zombie",
        ),
    ],
)
def test_every_kind_that_shows_something_new(what: str, kinds: str) -> None:
    assert [cell.kind for cell in cells([Boundary("forward", "f", what)])] == kinds.split()


@pytest.mark.parametrize(
    ("function", "kinds"),
    [
        ("preflight", ""),
        ("create-new-kms-key", "overtaken"),
        ("pause-application-writes", "overtaken replaced"),
        ("isolate-source", "overtaken"),
        ("confirm-drained", "stalled overtaken late"),
        ("verify", "late"),
        ("decommission", "led-back"),
    ],
)
def test_what_can_happen_only_there(function: str, kinds: str) -> None:
    found = cells([Boundary("forward", function, "invocation")], AT_SOME_INVOCATIONS)

    assert [cell.kind for cell in found] == kinds.split()


def test_who_takes_part_follows_from_the_cell() -> None:
    place = Boundary("forward", "verify", "invocation")
    late, led_back = scenario_of("a", Cell(place, "late")), scenario_of("b", Cell(DECOMMISSION, "led-back"))

    assert (late.latecomer, late.by_endpoint) == (True, False)
    assert (led_back.latecomer, led_back.by_endpoint) == (False, True)


def test_cells_have_names_of_their_own_and_survive_the_journey_to_another_process() -> None:
    found = cells(
        [
            Boundary(way, "f", what, nth)
            for way in get_args(Way)
            for what in ("SELECT a", "SELECT b", "s3.Put")
            for nth in (1, 2)
        ]
    )

    assert len({cell.name for cell in found}) == len(found)
    assert [from_json(json.loads(json.dumps(to_json(cell)))) for cell in found] == found


def test_the_way_back_is_taken_because_something_else_goes_wrong() -> None:
    cell = Cell(Boundary("back", "rollback", "ALTER ?", 2), "killed")

    assert cell.faults() == (
        *SUBJECTS[DEFAULT].faults("back"),
        {"function": "rollback", "statement": 2, "shape": "ALTER ?", "kind": "killed", "when": "after"},
    )


# -- results -----------------------------------------------------------------------------------------------------------


def result(cell: Cell, verdict: str = "kept") -> dict[str, Any]:
    why = [] if verdict == "kept" else ["nothing is lost: 3 lost <of> 100"]
    return {"cell": cell.name, "verdict": verdict, "why": why, "went": "back", "outage_seconds": 1.5, "lost": len(why)}


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, str]], list[str]]:
    """Let cells end as told (kept, if nothing was), and note which ones were played."""
    seen: list[str] = []

    def prepare(verdicts: dict[str, str]) -> list[str]:
        def play(batch: Sequence[Cell]) -> Any:
            for cell in batch:
                seen.append(cell.name)
                yield result(cell, verdicts.get(cell.kind, "kept"))

        monkeypatch.setattr(sweep, "_in_a_process", play)
        return seen

    return prepare


def test_an_interrupted_sweep_goes_on_where_it_stopped(tmp_path: Path, played: Any) -> None:
    chosen, archive, seen = cells([PROMOTE]), Archive(tmp_path), played({})
    archive.add(result(chosen[0]))

    results = sweep.sweep(chosen, archive, QUIET, 2)

    assert sorted(seen) == sorted(cell.name for cell in chosen[1:])
    assert list(results) == [cell.name for cell in chosen]
    assert set(Archive(tmp_path).results()) == set(results)


@pytest.mark.parametrize(("verdict", "code"), [("kept", 0), ("unreached", 0), ("broken", 1), ("error", 1)])
def test_one_bad_cell_fails_the_sweep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, played: Any, verdict: str, code: int,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    archive = Archive(tmp_path)
    archive.boundaries.write_text(json.dumps([vars(PROMOTE)]))
    monkeypatch.setattr(Archive, "of", lambda subject, commit: archive)
    played({"lost-answer": verdict})

    assert sweep.main(["--json", str(tmp_path / "found.json")]) == code

    found = json.loads((tmp_path / "found.json").read_text())
    assert [one["verdict"] for one in found["results"]].count(verdict) == (6 if verdict == "kept" else 1)
    assert ("--cell forward/promote/rds.PromoteReadReplica:lost-answer" in capsys.readouterr().out) == bool(code)


def test_a_process_that_dies_answers_for_its_cells(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cells without an answer would look like cells without a fault."""
    monkeypatch.setattr("sys.executable", "false")

    found = list(sweep._in_a_process(cells([PROMOTE])))

    assert {one["verdict"] for one in found} == {"error"}
    assert len(found) == 6


def options(**given: Any) -> argparse.Namespace:
    usual = {"kinds": None, "cell": None, "sample": None, "seed": "s", "shard": None}
    return argparse.Namespace(**usual | given)


def test_shards_are_all_of_it_and_samples_stay_the_same() -> None:
    found = [PROMOTE, Boundary("forward", "promote", "invocation")]
    every = sweep.choose(found, options())

    shards = [sweep.choose(found, options(shard=f"{part}/3")) for part in (1, 2, 3)]

    assert sorted(cell.name for shard in shards for cell in shard) == sorted(cell.name for cell in every)
    assert sweep.choose(found, options(sample=4)) == sweep.choose(found, options(sample=4)) != every[:4]
    with pytest.raises(SystemExit, match="no cell nonsense"):
        sweep.choose(found, options(cell=["nonsense"]))


def test_the_page_shows_what_broke() -> None:
    good, bad = cells([PROMOTE])[:2]

    shown = page.render(SUBJECTS[DEFAULT], "abc123", [DECOMMISSION, PROMOTE], [result(good), result(bad, "broken")])

    assert 'class="kept" title="">↩ 1.5 s<' in shown
    assert 'class="broken" title="nothing is lost: 3 lost &lt;of&gt; 100"' in shown
    assert shown.index(DECOMMISSION.name) < shown.index(PROMOTE.name)
    assert "2 cells: 1 kept, 0 unreached, 1 broken, 0 error" in shown


def test_the_document_counts_what_was_found() -> None:
    good, bad, *_ = cells([PROMOTE])
    found = [{**result(good), "acknowledged": 900, "executions": 2}, result(bad, "broken")]

    shown = page.part(SUBJECTS[DEFAULT], "abc123", "2026-11-21", 6, found)

    assert "2026-11-21, commit `abc123`" in shown
    assert "**2 of 6 cells played**" in shown
    assert "900 acknowledged writes, **1 lost, 0 duplicated**" in shown
    assert "| `lost-answer` | 1 | 0 | 0 | 1 | 0 | 1 | 1.5 |" in shown


def test_a_new_sweep_replaces_its_own_part_of_the_document() -> None:
    postgres, mariadb = (SUBJECTS[name] for name in (DEFAULT, "mariadb/read-replica"))
    shown = ""
    for subject, commit in [(postgres, "old"), (mariadb, "other"), (postgres, "new")]:
        shown = page.document(shown, page.part(subject, commit, "2026-11-21", 6, []))

    assert [line for line in shown.splitlines() if line.startswith("#")] == [
        "# Reliability", "## MariaDB by read-replica", "## PostgreSQL by read-replica",
    ]  # fmt: skip
    assert ("`new`" in shown, "`other`" in shown, "`old`" in shown) == (True, True, False)


@pytest.mark.parametrize(
    ("subject", "function", "until"),
    [(DEFAULT, "promote", "rollback"), ("postgres/blue-green", "switch-over", "roll-back-deployment")],
)
def test_who_is_overtaken_sleeps_until_its_own_rollback(subject: str, function: str, until: str) -> None:
    (cell,) = cells([Boundary("forward", function, "invocation", subject=subject)], ["overtaken"])

    assert cell.faults()[-1]["until"] == until


def test_what_an_engine_or_a_strategy_cannot_have_is_left_out() -> None:
    found = {
        subject: [cell.kind for cell in cells([Boundary("forward", "verify", "invocation", subject=subject)])]
        for subject in SUBJECTS
    }

    assert {subject for subject, kinds in found.items() if "late" in kinds} == {
        DEFAULT, "postgres/snapshot", "postgres/catch-up", "aurora-postgresql/snapshot", "multi-az-postgres/snapshot",
    }  # fmt: skip


def test_every_strategy_of_every_engine_can_be_swept() -> None:
    # MySQL has MariaDB's servers here, and nothing of ours speaks to them; of the others that nobody logs in to, one.
    of_instances = {f"{engine}/{strategy}" for engine in ("postgres", "mariadb") for strategy in flow.STRATEGIES}
    assert {engine for engine in ENGINES if dialects.of(engine).takes_login} == {"postgres", "mariadb"}
    of_clusters = {f"{engine}/snapshot" for engine in CLUSTERS} | {"aurora-postgresql/blue-green"}
    assert set(SUBJECTS) == of_instances | {"oracle-se2/snapshot"} | of_clusters
    assert len({page.heading(subject) for subject in SUBJECTS.values()}) == len(SUBJECTS)


def test_replaying_names_what_was_swept(capsys: pytest.CaptureFixture[str]) -> None:
    assert "sweep --cell 'a b'" in sweep.replay(SUBJECTS[DEFAULT], "a b")
    assert "sweep --engine mariadb --strategy read-replica --cell x" in sweep.replay(
        SUBJECTS["mariadb/read-replica"], "x"
    )
    with pytest.raises(SystemExit):
        sweep.main(["--engine", "oracle"])
    assert "there is no read-replica of oracle" in capsys.readouterr().err


# -- what a rotation that was undone may leave --

MARK = {"rds-key-rotation:deployment": "42"}
UNMARK = "aws rds remove-tags-from-resource --resource-name arn:orders:db:orders --tag-keys rds-key-rotation:deployment"


def tags(before: dict[str, str], after: dict[str, str]) -> dict[str, Any]:
    return {"changed": {"rds/instance/orders": {"tags": (before, after)}}}


BACKUP = "rds/automated-backup/db-ANOTHER"
EXPIRED = {BACKUP: {"status": "retained"}}
GRANT = '["rds", {"aws:rds:db-id": "db-ANOTHER"}]'


def grants(before: list[str], after: list[str]) -> dict[str, Any]:
    return {"kms/key/of-another": {"grants": (before, after)}}


def test_a_verdict_in_the_ledger_keeps_no_rotation_open() -> None:
    """It stands for ever; a lock, and a rotation that is not closed, do not."""
    (check,) = (check for name, check in INVARIANTS.items() if name == "the next rotation can start")

    def open_(**ledger: bool) -> list[str]:
        return list(check(None, SimpleNamespace(ledger=ledger)))  # type: ignore[arg-type]

    assert open_(**{"decision#42": False, "lineage": False, "rotation#42": True}) == []
    assert open_(**{"rotation#42": False, "lock": False}) == ["the lock is held", "rotation#42 is open"]


@pytest.mark.parametrize(
    ("found", "is_blamed"),
    [
        (tags({"team": "pay"}, {"team": "pay"} | MARK), False),
        (tags({"team": "pay"}, MARK), True),
        (tags({"team": "pay"}, {"team": "pay", "other": "1"}), True),
        ({"changed": {"states/execution/another": {"status": ("RUNNING", "FAILED")}}}, False),
        ({"changed": {"states/execution/another": {"status": ("SUCCEEDED", "FAILED")}}}, True),
        ({"removed": {"kms/key/another": {"state": "PendingDeletion"}}}, False),
        ({"removed": {"kms/key/another": {"state": "Enabled"}}}, True),
        ({"removed": EXPIRED}, False),
        ({"removed": {BACKUP: {"status": "active"}}}, True),
        ({"removed": EXPIRED, "changed": grants([GRANT, "other"], ["other"])}, False),
        ({"removed": EXPIRED, "changed": grants([GRANT, "other"], [GRANT])}, True),
        ({"removed": EXPIRED, "changed": grants([GRANT], ["new"])}, True),
        ({"changed": grants([GRANT], [])}, True),
        ({"added": {"dynamodb/item/ledger/orders/decision#42": {"closed": False}}}, False),
        ({"added": {"dynamodb/item/ledger/orders/rotation#42": {"closed": False}}}, True),
    ],
)
def test_a_rotation_that_was_undone_is_blamed_for_its_own_only(found: dict[str, Any], is_blamed: bool) -> None:
    outcome: Any = SimpleNamespace(
        went_forward=False,
        scenario=SimpleNamespace(faults=()),
        found=Difference(**{"added": {}, "removed": {}, "changed": {}} | found),
        moments=[json.dumps({"leftovers": [UNMARK]})],
        built=SimpleNamespace(record="db", databases=(), dialect=SimpleNamespace(own_databases=frozenset())),
        count=SimpleNamespace(databases=(), followed_by=()),
    )

    blamed = list(INVARIANTS["nothing else is gone, nothing is left"](None, outcome))  # type: ignore[arg-type]

    assert is_blamed == bool(blamed)


def test_a_schedule_that_fires_once_is_left_only_by_whom_was_not_let_remove_it() -> None:
    pending = f"added: {invariants.RECOVERY}1a2b3c4d {{'state': 'ENABLED'}}"
    fired = f"removed: {invariants.RECOVERY}1a2b3c4d"
    denied = outcome_with({"kind": "denied", "call": "scheduler.DeleteSchedule"})

    assert invariants._goes_by_itself(pending, denied)
    assert invariants._goes_by_itself(fired, outcome_with())
    assert not invariants._goes_by_itself(pending, outcome_with({"kind": "denied", "call": "rds.ModifyDBInstance"}))
    assert not invariants._goes_by_itself("removed: rds/instance/orders", denied)


def outcome_with(*faults: Mapping[str, Any]) -> Any:
    return SimpleNamespace(scenario=SimpleNamespace(faults=faults))
