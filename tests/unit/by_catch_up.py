"""The steps of the strategy ``catch-up``, one after the other, while applications write."""

from collections.abc import Sequence

from lambdas.begin_capture.handler import begin_capture
from lambdas.check_target.handler import check_target
from lambdas.confirm_drained.handler import confirm_drained
from lambdas.copy_snapshot.handler import copy_snapshot
from lambdas.end_catch_up.handler import end_catch_up
from lambdas.pause_application_writes.handler import pause_application_writes
from lambdas.restore_target.handler import restore_target
from lambdas.rotation.names import CONTROL_DATABASE
from lambdas.rotation.ports import Step
from lambdas.rotation.readiness import STEADY_OBSERVATIONS
from lambdas.rotation.state import Capture, Rotation
from lambdas.take_snapshot.handler import take_snapshot
from lambdas.wait_for_catch_up.handler import wait_for_catch_up
from lambdas.wait_for_restore.handler import wait_for_restore
from tests.fakes import NEW_KEY, ROTATION_ID, TARGET, FakePorts, connectivity_prepared, planned_rotation, visit
from tests.unit import by_snapshot

CAPTURE = f"rds_key_rotation_{ROTATION_ID}"
OF_ORDERS, OF_CONTROL = f"{CAPTURE}_orders", f"{CAPTURE}_{CONTROL_DATABASE}"
SENDS_ORDERS, SENDS_CONTROL = f"{OF_ORDERS}_sends", f"{OF_CONTROL}_sends"
EARLY, EARLY_KEPT = f"{TARGET}-early-source", f"{TARGET}-early-kept"

CAPTURED: tuple[Step, ...] = (begin_capture,)
TAKEN = (*CAPTURED, take_snapshot)
COPIED = (*TAKEN, copy_snapshot)
REQUESTED = (*COPIED, restore_target)
RESTORED = (*REQUESTED, wait_for_restore)
CAUGHT_UP = (*RESTORED, wait_for_catch_up)
FENCED = (*CAUGHT_UP, pause_application_writes)
DRAINED = (*FENCED, confirm_drained)
ENDED = (*DRAINED, end_catch_up)
CHECKED = (*ENDED, check_target)


def prepared() -> tuple[FakePorts, Rotation]:
    """PrepareConnectivity has run; BeginCapture comes next. One database has a limit of its own."""
    ports = FakePorts(with_target=False)
    ports.kms.add(NEW_KEY)
    ports.source_server.own.limit["orders"] = 17
    del ports.source_server.own.open[CONTROL_DATABASE]
    ports.source_server.write()
    rotation = planned_rotation(ports, strategy="catch-up", write_outage_budget_seconds=60)
    return ports, connectivity_prepared(ports, rotation)


def done(step: Step, rotation: Rotation, ports: FakePorts) -> Rotation:
    """As often as it takes. Whoever can write does so before each step, and between two looks."""
    write(ports)
    if step is wait_for_catch_up:
        for _ in range(STEADY_OBSERVATIONS - 1):
            rotation = looked(rotation, ports)
        ports.clock.advance(150)
    return by_snapshot.done(step, rotation, ports, (TARGET,))


def after(*steps: Step) -> tuple[FakePorts, Rotation]:
    ports, rotation = prepared()
    for step in steps:
        rotation = done(step, rotation, ports)
    ports.calls.clear()
    return ports, rotation


def looked(rotation: Rotation, ports: FakePorts) -> Rotation:
    """WaitForCatchUp, once, after a while in which somebody has written."""
    ports.clock.advance(150)
    write(ports)
    return visit(wait_for_catch_up, rotation, ports)


def write(ports: FakePorts) -> None:
    if ports.source_server.accepts_applications():
        ports.source_server.write()


def waiting_for(rotation: Rotation) -> Sequence[str]:
    assert rotation.sync is not None
    assert rotation.sync.ready == (not rotation.sync.waiting_for)
    return rotation.sync.waiting_for


def captured(rotation: Rotation) -> Capture:
    assert rotation.capture is not None
    return rotation.capture


def deeds(ports: FakePorts) -> list[str]:
    return [call for call in ports.calls if not call.startswith(("ledger", "recovery"))]


def writable(ports: FakePorts) -> list[str]:
    return [name for name, server in sorted(ports.rds.servers.items()) if server.accepts_applications()]
