"""The steps of the strategy ``snapshot``, one after the other, each as often as it takes."""

from collections.abc import Sequence

import pytest

from lambdas.clean_up.handler import clean_up
from lambdas.copy_snapshot.handler import copy_snapshot
from lambdas.decommission.handler import decommission
from lambdas.preflight.handler import preflight
from lambdas.rollback.handler import rollback
from lambdas.rotation import marks
from lambdas.rotation.errors import PreflightRefused
from lambdas.rotation.ports import Step
from lambdas.rotation.state import Rotation
from lambdas.rotation.undoing import SLOWEST_FUNCTION
from lambdas.take_snapshot.handler import take_snapshot
from lambdas.wait_for_restore.handler import wait_for_restore
from lambdas.wait_for_source.handler import OBSERVATIONS, wait_for_source
from tests.fakes import FakePorts, failed, visit


def refusals(ports: FakePorts, rotation: Rotation) -> list[str]:
    with pytest.raises(PreflightRefused) as refused:
        preflight(rotation, ports)
    return [line.partition(":")[0] for line in str(refused.value).splitlines()]


def deeds(ports: FakePorts) -> list[str]:
    return [call for call in ports.calls if not call.startswith(("ledger", "recovery", "engine"))]


def done(step: Step, rotation: Rotation, ports: FakePorts, made: Sequence[str]) -> Rotation:
    """``made``: what a restore makes, in the order in which it is asked for."""
    if step is wait_for_source:
        for _ in range(OBSERVATIONS):
            ports.clock.advance(marks.SETTLES_IN.total_seconds() / (OBSERVATIONS - 1))
            rotation = visit(step, rotation, ports)
        return rotation
    if step in (take_snapshot, copy_snapshot):
        rotation = visit(step, rotation, ports)
    if step is wait_for_restore:
        for one in made:
            ports.rds.finish_restore(one)
            rotation = visit(step, rotation, ports)
    return visit(step, rotation, ports)


def after(
    prepared: tuple[FakePorts, Rotation], steps: Sequence[Step], made: Sequence[str]
) -> tuple[FakePorts, Rotation]:
    ports, rotation = prepared
    for step in steps:
        rotation = done(step, rotation, ports, made)
    ports.calls.clear()
    return ports, rotation


def failed_over(ports: FakePorts, cluster: str, writer: str | None) -> None:
    """Another instance writes; None: RDS shows none for a moment."""
    raw = ports.rds.instances[cluster].raw
    listed = [{**one, "IsClusterWriter": one["DBInstanceIdentifier"] == writer} for one in raw["DBClusterMembers"]]
    ports.rds.alter(cluster, raw={**raw, "DBClusterMembers": listed})


def rolled_back(ports: FakePorts, rotation: Rotation) -> Rotation:
    """The restore has failed, and nobody of that rotation is alive any more."""
    rotation = visit(rollback, failed(rotation, "RestoreFailed"), ports)
    ports.clock.advance(SLOWEST_FUNCTION.total_seconds() + 1)
    return visit(rollback, rotation, ports)


def cleaned_up(ports: FakePorts, rotation: Rotation) -> None:
    """A rollback is over: all that the rotation made is removed, with nothing left to tell of."""
    for _ in range(10):
        rotation = visit(clean_up, rotation, ports)
        ports.clock.advance(30)
    assert rotation.undo is not None
    assert (rotation.undo.clean, rotation.undo.leftovers) == (True, ())


def decommissioned(ports: FakePorts, rotation: Rotation) -> None:
    """The grace period is over: the source is removed, with all that goes with it."""
    for _ in range(20):
        rotation = visit(decommission, rotation, ports)
        ports.clock.advance(60)
    assert rotation.decommission is not None
    assert rotation.decommission.complete
