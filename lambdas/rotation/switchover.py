"""Which side of a blue/green deployment serves: decided from what RDS shows now, never from the execution's state.

And the end of a deployment that was switched over.
"""

from datetime import timedelta
from typing import Literal

from lambdas.rotation import databases
from lambdas.rotation.ports import BlueGreenDeployment, Ports
from lambdas.rotation.state import Deployment, Member, Rotation

Serving = Literal["source", "target", "undecided"]

AVAILABLE = "AVAILABLE"
UNDER_WAY = "SWITCHOVER_IN_PROGRESS"
COMPLETED = "SWITCHOVER_COMPLETED"
DELETING = "DELETING"

SHOWN_WITHIN = timedelta(minutes=2)
"""So long after the last request RDS may show a deployment as available, though it has accepted one of them."""


def serving(rotation: Rotation, live: BlueGreenDeployment | None, ports: Ports) -> tuple[Serving, str]:
    """The side that has the name that applications use, and why. ``undecided`` while RDS is at it, or may be.

    The name decides together with the deployment: it is the resource id that stays when names are exchanged.
    """
    deployment = rotation.deployed()
    primary = deployment.primary
    if live is not None and live.status == UNDER_WAY:
        return "undecided", f"RDS is switching {live.name} over"
    holder = databases.by_arn(primary.source_arn, ports)
    if holder is None:
        return "undecided", f"no database is named {primary.source_identifier} at this moment"
    resource_id = holder.database.resource_id
    status = live.status if live is not None else None
    if resource_id == primary.source_resource_id:
        if status == COMPLETED:
            return "undecided", f"RDS has switched {primary.source_identifier} over, and shows it under its old name"
        asked_at = deployment.switchover_last_asked_at or deployment.switchover_requested_at
        if status == AVAILABLE and asked_at is not None and ports.clock.now() < asked_at + SHOWN_WITHIN:
            return "undecided", f"{primary.source_identifier} is the source, and RDS may have begun to switch it over"
        return "source", f"{primary.source_identifier} is the source"
    if primary.target_resource_id not in (None, resource_id):
        return "undecided", f"{primary.source_identifier} is neither the source nor the target ({resource_id})"
    if _is_still_called(primary, ports):
        return "undecided", f"RDS shows source and target as {primary.source_identifier}"
    if status == COMPLETED or (status in (None, DELETING) and resource_id == primary.target_resource_id):
        return "target", f"{primary.source_identifier} is the target"
    return "undecided", f"{primary.source_identifier} is the target, and its deployment {status}"


def _is_still_called(primary: Member, ports: Ports) -> bool:
    """An answer of RDS's may be a moment old. Whoever acted on that name would take production for the source."""
    former = databases.by_resource_id(primary.source_resource_id, ports)
    return former is not None and former.database.arn == primary.source_arn


def left_of(deployment: Deployment, ports: Ports) -> str | None:
    """Asks for its end, and says what is being waited for. None when nothing of it is left."""
    live = ports.blue_green.describe(deployment.name)
    return None if live is None else ended(live, ports)


def ended(live: BlueGreenDeployment, ports: Ports) -> str:
    """Without its target: that is production now."""
    if live.status != DELETING:
        ports.blue_green.request_deletion(live.identifier, with_target=False)
    return f"{live.name} is to be deleted (it is {live.status})"
