"""The product with one mechanism taken out, in a cell of the sweep that the whole product survives.

A proof that stays green without the mechanism that it is about proves nothing. Each case plays the same cell twice in
one sandbox, first with the product as it is and then without one mechanism, and names the invariant that breaks.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from sandbox.sweep.batch import Result, play_cell, scenario_of
from sandbox.sweep.boundaries import Boundary, Cell
from tests.rotation.scenarios import params, sandbox_with
from tests.rotation.support import ROOT, Customer

Files = dict[str, str]
Without = Callable[[Customer], AbstractContextManager[None]]

RULE = "rds-key-rotation-ended-unfinished"
HOURLY = "rds-key-rotation-recover-rotations"
POSTGRES = "lambdas/rotation/engines/postgres.py"


CHANGES: list[Callable[[Files], None]] = []
"""Everything that is taken out of the sources."""


def replace(files: Files, path: str, old: str, new: str) -> None:
    """Replace text of a shipped file that is there just once: a change that misses shows nothing."""
    assert files[path].count(old) == 1, f"{path} has {files[path].count(old)} times: {old}"
    files[path] = files[path].replace(old, new)


def changed(change: Callable[[Files], None], *functions: str) -> Without:
    """The functions (all that ``rotate_key`` calls, if none is named) run changed code."""

    CHANGES.append(change)

    @contextmanager
    def without(customer: Customer) -> Iterator[None]:
        those = functions or functions_of(customer)
        customer.deploy_changed(change, *those)
        try:
            yield
        finally:
            customer.deploy_changed(lambda files: None, *those)

    return without


def functions_of(customer: Customer) -> tuple[str, ...]:
    states = customer.client("stepfunctions")
    definition = states.describe_state_machine(stateMachineArn=customer.account.rotate_key_arn)["definition"]
    return tuple(sorted(set(re.findall(r"function:rds-key-rotation-([a-z-]+):\d+", definition))))


# -- what is taken out -------------------------------------------------------------------------------------------------


def no_probe(files: Files) -> None:
    """Who is in a database is read from the list of sessions; nothing is tried."""
    replace(
        files, POSTGRES, 'sql.run(f"ALTER DATABASE {quoted(database)} RENAME TO {quoted(elsewhere)}")', "elsewhere = ''"
    )


def no_marker(files: Files) -> None:
    """It is written, and nobody looks for it: the position alone counts."""
    seen = 'return bool(sql.value("SELECT count(*) FROM public.marker WHERE token = :token", token=token))'
    replace(files, POSTGRES, seen, "return True")
    replace(files, POSTGRES, "marker_seen=marked", "marker_seen=True")


def no_write_before_act(files: Files) -> None:
    """What is about to be done is not written down; what was done is, with the result of the step."""
    record = "ports.ledger.record(rotation)\n"
    replace(
        files,
        "lambdas/pause_application_writes/handler.py",
        f"    rotation = rotation.having(fence=fence)\n    {record}    return",
        "    rotation = rotation.having(fence=fence)\n    return",
    )
    replace(files, "lambdas/create_encrypted_read_replica/handler.py", f"    {record}", "")
    replace(files, "lambdas/promote/handler.py", f"    {record}", "")


def no_epoch(files: Files) -> None:
    """Whoever comes late reads and writes the journal like whoever has replaced them."""
    ledger = "lambdas/rotation/ledger.py"
    replace(files, ledger, "if journal.epoch != rotation.epoch and not ours:", "if False:")
    replace(files, ledger, 'return Attr("epoch").eq(epoch) & Attr', "return Attr")
    # Whoever replaces somebody writes, so the revision alone would still tell the two apart.
    replace(files, ledger, "return _open_in(rotation.epoch) & same", "return _open_in(rotation.epoch)")


def no_decision_row(files: Files) -> None:
    """It is written, and binds nobody."""
    replace(files, POSTGRES, "if standing == verdict:", "if True:")
    replace(files, POSTGRES, "return standing\n", "return verdict\n")


def no_schedule(files: Files) -> None:
    """Nothing is set up before the fence that would recover the rotation."""
    replace(
        files,
        "lambdas/pause_application_writes/handler.py",
        "    ports.recovery.set(rotation, deadline + FENCE_MARGIN)\n",
        "",
    )
    replace(
        files,
        "lambdas/promote/handler.py",
        "    ports.recovery.set(rotation, ports.clock.now() + PROMOTION_MAY_TAKE)\n",
        "",
    )


@contextmanager
def no_rule(customer: Customer) -> Iterator[None]:
    """Nobody hears how an execution ends."""
    events = customer.client("events")
    events.disable_rule(Name=RULE)
    try:
        yield
    finally:
        events.enable_rule(Name=RULE)


@contextmanager
def no_hourly_look(customer: Customer) -> Iterator[None]:
    """Nobody looks into the ledger for what is unfinished."""
    scheduler = customer.client("scheduler")
    schedule = scheduler.get_schedule(Name=HOURLY)
    given = {name: schedule[name] for name in ("Name", "ScheduleExpression", "FlexibleTimeWindow", "Target")}
    scheduler.update_schedule(**given, State="DISABLED")
    try:
        yield
    finally:
        scheduler.update_schedule(**given, State="ENABLED")


def no_live_look(files: Files) -> None:
    """The journal says where the name leads, and that the source is fenced."""
    right = "lambdas/decommission/right.py"
    replace(files, right, ":= _name_leads_elsewhere(rotation, successor, ports))", ":= None)")
    replace(files, right, "return _opened_again(rotation, source, ports)", "return None")


def no_adoption(files: Files) -> None:
    """A target of that name is somebody else's, also after an answer that got lost."""
    tagged = "lambdas/rotation/aws/tagged.py"
    replace(files, tagged, "    if adopted():\n        return\n", "")
    replace(files, tagged, "if refused.code != exists or not adopted():\n            raise", "raise")


def no_restart(files: Files) -> None:
    """Nobody new comes in, and whoever is there stays."""
    replace(
        files,
        "lambdas/isolate_source/handler.py",
        "[_restarted_at(isolation, server, ports) for",
        "[ports.clock.now() for",
    )


# -- where it shows ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    name: str
    without: Without
    mechanism: str
    cell: Cell
    breaks: str
    """How the line begins by which the sweep says what is wrong: the name of an invariant, or its own words."""

    @property
    def row(self) -> str:
        return f"| {self.mechanism} | `{self.cell.name}` | {self.breaks} |"


def cell(function: str, what: str, kind: str) -> Cell:
    return Cell(Boundary("forward", function, what), kind)


NOTHING_LOST = "nothing is lost"
NAME = "the name reaches a writable database"
NEXT = "the next rotation can start"
STOOD_STILL = "nobody carried it on at once, and nobody could write meanwhile"
OVERTAKEN = "a function that was overtaken shut everybody out"
SHUT_OUT = "nobody could write for"
CALLED_OFF = "a fault that passes made it end FAILED and go back"

WRITTEN_BEFORE = changed(no_write_before_act, "pause-application-writes", "create-encrypted-read-replica", "promote")
REPLICA = "rds.CreateDBInstanceReadReplica"

CASES = [
    Case(
        "probe",
        changed(no_probe),
        "the probe",
        cell("verify", "invocation", "late"),
        NOTHING_LOST,
    ),
    Case(
        "marker",
        changed(no_marker),
        "the marker",
        cell("pause-application-writes", "invocation", "replaced"),
        NOTHING_LOST,
    ),
    Case(
        "write-before-act",
        WRITTEN_BEFORE,
        "the fence in the journal before it is raised",
        cell("pause-application-writes", "COMMIT", "killed"),
        NAME,
    ),
    Case(
        "write-before-act-promotion",
        WRITTEN_BEFORE,
        "the promotion in the journal before it is asked for",
        cell("promote", "rds.PromoteReadReplica", "killed"),
        CALLED_OFF,
    ),
    Case(
        "epoch",
        changed(no_epoch),
        "the epoch",
        cell("pause-application-writes", "invocation", "overtaken"),
        OVERTAKEN,
    ),
    Case(
        "decision-row",
        changed(no_decision_row),
        "the decision row",
        cell("resume-writes", "COMMIT", "zombie"),
        NOTHING_LOST,
    ),
    Case(
        "recovery-by-rule",
        no_rule,
        "the rule on the status of executions",
        cell("confirm-drained", "invocation", "stopped"),
        STOOD_STILL,
    ),
    Case(
        "recovery-by-schedule",
        changed(no_schedule, "pause-application-writes", "promote"),
        "the one-time schedule",
        cell("confirm-drained", "invocation", "stalled"),
        SHUT_OUT,
    ),
    Case(
        "recovery-by-hourly-look",
        no_hourly_look,
        "the hourly sweep of the ledger",
        cell("create-encrypted-read-replica", "invocation", "unheard"),
        NEXT,
    ),
    Case(
        "live-look",
        changed(no_live_look, "decommission"),
        "the last look where the name leads, and whether the source is closed",
        cell("decommission", "invocation", "led-back"),
        NOTHING_LOST,
    ),
    Case(
        "adoption",
        changed(no_adoption, "create-encrypted-read-replica"),
        "the adoption of a replica that is there",
        cell("create-encrypted-read-replica", REPLICA, "killed"),
        CALLED_OFF,
    ),
    Case(
        "restart",
        changed(no_restart, "isolate-source"),
        "the restart behind a network fence",
        Cell(
            Boundary("forward", "take-snapshot", "rds.CreateDBSnapshot", subject="oracle-se2/snapshot"), "lost-answer"
        ),
        NOTHING_LOST,
    ),
]


@pytest.fixture(scope="module")
def customer() -> Iterator[Customer]:
    scenarios = [scenario_of(f"{case.name}-{side}", case.cell) for case in CASES for side in ("whole", "without")]
    with sandbox_with(scenarios) as customer:
        yield customer


@pytest.mark.parametrize("case", params(CASES, sample=()))
def test_what_breaks_without_it(customer: Customer, tmp_path: Path, case: Case) -> None:
    def played(side: str) -> Result:
        name = f"{case.name}-{side}"
        result = play_cell(customer, case.cell, scenario_of(name, case.cell), tmp_path / f"{name}.acks")
        print(result)
        return result

    whole = played("whole")
    with case.without(customer):
        without = played("without")
    print(f"without {case.mechanism}: {case.cell.name}, {without.get('lost')} lost: {'; '.join(without['why'])}")

    assert (whole["verdict"], whole["why"]) == ("kept", [])
    assert without["verdict"] == "broken"
    assert any(why.startswith(case.breaks) for why in without["why"]), without["why"]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_every_change_finds_what_it_takes_out(change: Callable[[Files], None]) -> None:
    """A source that was written anew would else be noticed by the next long proof."""
    files = {str(path.relative_to(ROOT)): path.read_text() for path in (ROOT / "lambdas").rglob("*.py")}
    before = dict(files)

    change(files)

    assert files != before


def test_the_decision_record_shows_every_case() -> None:
    record = (ROOT / "docs" / "adr" / "0011-every-mechanism-is-needed.md").read_text()

    assert [line for line in record.splitlines() if line.startswith("| the ")] == [case.row for case in CASES]
