"""A fixed sample of every sweep: the places where somebody else's rotation would lose a write, or lose its way."""

import pytest

from sandbox.mariadb import is_installed
from sandbox.sweep.batch import Result, run
from sandbox.sweep.boundaries import SUBJECTS, Boundary, Cell
from tests.mariadb import need_mariadb

pytestmark = pytest.mark.sample

SAMPLE = [
    # The promotion is under way, and whoever asked for it does not know.
    Cell(Boundary("forward", "promote", "rds.PromoteReadReplica"), "lost-answer"),
    # The fence is committed, and whoever raised it is dead.
    Cell(Boundary("forward", "pause-application-writes", "COMMIT"), "killed"),
    # The source is being opened by a function that lives on when another one has done it.
    Cell(Boundary("back", "rollback", "COMMIT"), "zombie"),
    Cell(Boundary("forward", "promote", "rds.PromoteReadReplica", subject="mariadb/read-replica"), "killed"),
    # RDS switches over, and whoever asked for it does not know, or is dead.
    Cell(
        Boundary("forward", "switch-over", "rds.SwitchoverBlueGreenDeployment", subject="postgres/blue-green"),
        "lost-answer",
    ),
    Cell(
        Boundary("forward", "switch-over", "rds.SwitchoverBlueGreenDeployment", subject="mariadb/blue-green"),
        "killed",
    ),
    # Green is being deleted, and nobody knows.
    Cell(
        Boundary(
            "back",
            "roll-back-deployment",
            "rds.DeleteBlueGreenDeployment",
            subject="aurora-postgresql/blue-green",
        ),
        "lost-answer",
    ),
    # RDS makes something of the fenced source, and whoever asked for it is dead, or does not know.
    Cell(Boundary("forward", "take-snapshot", "rds.CreateDBSnapshot", subject="mariadb/snapshot"), "lost-answer"),
    Cell(
        Boundary("forward", "restore-target", "rds.RestoreDBInstanceFromDBSnapshot", subject="postgres/snapshot"),
        "killed",
    ),
    # The databases are closed, and nobody has read in them what is not replicated.
    Cell(Boundary("forward", "pause-application-writes", "COMMIT", nth=2, subject="postgres/catch-up"), "killed"),
    # The copy knows from where it is to replicate, and nobody knows that it does.
    Cell(
        Boundary(
            "forward",
            "wait-for-catch-up",
            "CALL mysql.rds_set_external_master_gtid(?, ?, ?, @rds_key_rotation, ?, ?)",
            subject="mariadb/catch-up",
        ),
        "killed",
    ),
    Cell(
        Boundary("forward", "wait-for-restore", "rds.CreateDBInstance", subject="aurora-postgresql/snapshot"),
        "killed",
    ),
    # What is kept of the source is to be made of a cluster that nobody knows of.
    Cell(
        Boundary("forward", "decommission", "rds.RestoreDBClusterFromSnapshot", subject="multi-az-postgres/snapshot"),
        "killed",
    ),
    # The verdict stands, RDS opens the target, and whoever asked for it is dead.
    Cell(Boundary("forward", "resume-writes", "rds.ModifyDBInstance", subject="oracle-se2/snapshot"), "killed"),
    # One of several instances restarts, and whoever was to ask for the others is dead.
    Cell(Boundary("forward", "isolate-source", "rds.RebootDBInstance", subject="aurora-mysql/snapshot"), "killed"),
]


def needs_mariadb(cell: Cell) -> bool:
    return cell.boundary.subject.startswith("mariadb/")


@pytest.fixture(scope="module")
def results() -> dict[Cell, Result]:
    possible = [cell for cell in SAMPLE if is_installed() or not needs_mariadb(cell)]
    return dict(zip(possible, run(possible), strict=True))


@pytest.mark.parametrize("cell", SAMPLE, ids=lambda cell: f"{cell.boundary.subject}/{cell.name}")
def test_every_invariant_is_kept(results: dict[Cell, Result], cell: Cell) -> None:
    if needs_mariadb(cell):
        need_mariadb()
    result = results[cell]

    print(result)
    assert (result["verdict"], result["why"]) == ("kept", [])
    assert result["acknowledged"] > 100
    assert result["went"] == cell.boundary.way


def test_every_sweep_is_sampled() -> None:
    assert {cell.boundary.subject for cell in SAMPLE} == set(SUBJECTS)
