"""The write outage budget, where a step waits for RDS under the fence."""

from lambdas.rotation import polling
from lambdas.rotation.errors import BudgetSpent
from lambdas.rotation.ports import Ports
from lambdas.rotation.state import Rotation

OFTEN_SECONDS, SELDOM_SECONDS = 15, 120


def refuse_if_spent(rotation: Rotation, waiting_for: str, ports: Ports) -> None:
    """Raises: BudgetSpent (terminal); the rollback opens the source, and nothing is lost."""
    plan, _ = rotation.planned()
    if ports.clock.now() >= rotation.outage_ends_by:
        raise BudgetSpent(
            f"the write outage budget of {plan.write_outage_budget_seconds} s is spent, still waiting for {waiting_for}"
        )


def look_again_seconds(rotation: Rotation, ports: Ports) -> int:
    """Until the next look at what RDS is making."""
    fence, _ = rotation.fenced_source()
    return polling.look_again_seconds(fence.requested_at, ports.clock.now(), often=OFTEN_SECONDS, seldom=SELDOM_SECONDS)
