"""CheckTarget: is the target, promoted or restored, the continuation of the source?"""

from lambdas.rotation import arrival, fenced_writer, reach
from lambdas.rotation.errors import StateIncomplete, TargetMismatch
from lambdas.rotation.names import named
from lambdas.rotation.ports import ControlView, Ports
from lambdas.rotation.state import Rotation, TargetCheck
from lambdas.rotation.step import logger, step


def check_target(rotation: Rotation, ports: Ports) -> Rotation:
    """Compare what the two control databases show. Everything else is closed on both sides; Verify looks inside later.

    The last step before applications are led to the target, so the fence is looked at on both sides once more, and
    whether the key can be used that all of it depends on.

    Raises:
        TargetMismatch: terminal; lists everything that differs. Rollback re-opens the source, nothing is lost.
    """
    plan, _ = rotation.planned()
    source, target, fence, position = rotation.fenced()
    if not rotation.target_stands_alone:
        raise StateIncomplete("needs a fenced primary: WaitForPromotion, WaitForRestore or EndCatchUp has not finished")
    on_target = ports.engine(target, plan)
    there = on_target.control_view(rotation.rotation_id, fence.databases)
    here = ports.engine(source, plan).control_view(rotation.rotation_id, fence.databases)
    reasons = _differences(here, there)
    arrived = arrival.of(rotation, on_target, ports)
    if not arrived.is_complete():
        reasons.append(f"its position {arrived.position()} lies before the fence position {position}")
    key_arn = rotation.keyed().arn
    if (state := ports.kms.key_state(key_arn)) != "Enabled":
        # RDS notices it late, and then the target would go away with everything that was written to it.
        reasons.append(f"the new key {key_arn} is {state}; whoever did that has to know of this rotation")
    # Last: from here on only who removes the source looks at it again.
    if changed := fenced_writer.taken_over_now(source, fence, ports):
        reasons.append(changed)
    if missing := {one.name for one in fence.databases} - {*there.databases, *there.roles}:
        reasons.append(f"what was fenced is missing: {named(sorted(missing))}")
    if reasons:
        raise TargetMismatch(
            f"{target.identifier} is not the continuation of {source.identifier}: {'; '.join(reasons)}"
        )
    logger.info("target checked", system_identifier=there.system_identifier, databases=len(there.databases))
    return rotation.having(
        target_check=TargetCheck(system_identifier=there.system_identifier, checked_at=ports.clock.now())
    )


def _differences(source: ControlView, target: ControlView) -> list[str]:
    reasons = []
    if target.in_recovery:
        reasons.append("it is still a replica")
    if not target.marker_seen:
        reasons.append("it does not show the marker")
    if target.system_identifier != source.system_identifier:
        reasons.append(f"system identifier {target.system_identifier}, not {source.system_identifier}")
    shown = {source.first_database, target.first_database} - {None}
    if len(shown) > 1:
        reasons.append(f"it was made with the database {target.first_database}, not {source.first_database}")
    for what, of_source, of_target in (
        ("databases", set(source.databases), set(target.databases)),
        ("roles", set(source.roles), set(target.roles)),
    ):
        if of_source != of_target:
            reasons.append(f"{what} differ: {named(sorted(of_source ^ of_target))}")
    for side, view in (("source", source), ("target", target)):
        if view.fence_breach:
            reasons.append(f"the fence of the {side} does not hold: {view.fence_breach}")
    return reasons


handler = step(
    check_target, reaches=(reach.isolation_group, reach.source_server, reach.writer, reach.target_server, reach.new_key)
)
