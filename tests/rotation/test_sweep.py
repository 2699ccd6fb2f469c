"""A fixed sample of the sweep: the places where somebody else's rotation would lose a write, or lose its way."""

import pytest

from sandbox.sweep.batch import Result, run
from sandbox.sweep.boundaries import Boundary, Cell

pytestmark = pytest.mark.sample

SAMPLE = [
    # The promotion is under way, and whoever asked for it does not know.
    Cell(Boundary("forward", "promote", "rds.PromoteReadReplica"), "lost-answer"),
    # The fence is committed, and whoever raised it is dead.
    Cell(Boundary("forward", "pause-application-writes", "COMMIT"), "killed"),
    # The release is committed, and whoever decided it is not told.
    Cell(Boundary("forward", "resume-writes", "COMMIT"), "lost-answer"),
    # The source is being opened by a function that lives on when another one has done it.
    Cell(Boundary("back", "rollback", "COMMIT"), "zombie"),
]


@pytest.fixture(scope="module")
def results() -> dict[str, Result]:
    return {result["cell"]: result for result in run(SAMPLE)}


@pytest.mark.parametrize("cell", SAMPLE, ids=lambda cell: cell.name)
def test_every_invariant_is_kept(results: dict[str, Result], cell: Cell) -> None:
    result = results[cell.name]

    print(result)
    assert (result["verdict"], result["why"]) == ("kept", [])
    assert result["acknowledged"] > 100
    assert result["went"] == cell.boundary.way
