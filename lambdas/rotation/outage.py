"""The write outage budget, where a step waits for RDS under the fence."""

from datetime import timedelta

from lambdas.rotation.errors import BudgetSpent
from lambdas.rotation.ports import Ports
from lambdas.rotation.state import Rotation

OFTEN_SECONDS, SELDOM_SECONDS = 15, 120
OFTEN_FOR = timedelta(hours=1)


def refuse_if_spent(rotation: Rotation, waiting_for: str, ports: Ports) -> None:
    """Raises: BudgetSpent (terminal); the rollback opens the source, and nothing is lost."""
    plan, _ = rotation.planned()
    if ports.clock.now() >= rotation.outage_ends_by:
        raise BudgetSpent(
            f"the write outage budget of {plan.write_outage_budget_seconds} s is spent, still waiting for {waiting_for}"
        )


def look_again_seconds(rotation: Rotation, ports: Ports) -> int:
    """Until the next look at what RDS is making; a day of looking often would fill the history (25,000 events)."""
    long = rotation.fence is not None and ports.clock.now() - rotation.fence.requested_at >= OFTEN_FOR
    return SELDOM_SECONDS if long else OFTEN_SECONDS
