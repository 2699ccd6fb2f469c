"""How long a step waits for RDS: under the fence for the write outage budget, without one for two days; when an
execution has held the fence for too long; and how long an outage was, beside its budget."""

from datetime import datetime, timedelta

from aws_lambda_powertools.metrics import MetricUnit

from lambdas.rotation import polling
from lambdas.rotation.errors import BudgetSpent, CatchUpFailed
from lambdas.rotation.ports import Entry, Ports
from lambdas.rotation.state import Rotation
from lambdas.rotation.step import measure
from lambdas.rotation.undoing import SLOWEST_FUNCTION

OFTEN_SECONDS, SELDOM_SECONDS = 15, 120
UNFENCED_SECONDS = 600
CAPTURE_PATIENCE = timedelta(hours=48)
"""The source keeps what it commits meanwhile, and its disk is not endless."""
FENCE_MARGIN = timedelta(seconds=60)
"""After the budget: when the recovery schedule fires, which is set before the fence."""
REPEATED_FOR = timedelta(minutes=15)
"""Longer than the state machine repeats a visit of a way back that does not get to its journal; a test compares."""
PROMOTION_MAY_TAKE = timedelta(minutes=35)
"""When it fires once Promote has moved it. Longer than WaitForPromotion is patient."""


def refuse_if_spent(rotation: Rotation, waiting_for: str, ports: Ports) -> None:
    """Raises: BudgetSpent, CatchUpFailed (terminal); the rollback opens the source if it is fenced, nothing is lost."""
    plan, _ = rotation.planned()
    if rotation.fence is None:
        if ports.clock.now() - rotation.captured().begun_at >= CAPTURE_PATIENCE:
            raise CatchUpFailed(f"after two days still waiting for {waiting_for}")
        return
    if ports.clock.now() >= rotation.outage_ends_by:
        raise BudgetSpent(
            f"the write outage budget of {plan.write_outage_budget_seconds} s is spent, still waiting for {waiting_for}"
        )


def look_again_seconds(rotation: Rotation, ports: Ports) -> int:
    """Until the next look at what RDS is making. Where nobody waits for it, two days have to fit the history."""
    fence = rotation.fence
    since = fence.requested_at if fence is not None else rotation.captured().begun_at
    seldom = SELDOM_SECONDS if fence is not None else UNFENCED_SECONDS
    return polling.look_again_seconds(since, ports.clock.now(), often=OFTEN_SECONDS, seldom=seldom)


def measured(rotation: Rotation, outage_seconds: float) -> None:
    """And by how much it was over its own budget: a tag or the input may have given it another one than the stack's."""
    plan, _ = rotation.planned()
    over_budget = max(outage_seconds - plan.write_outage_budget_seconds, 0)
    measure(rotation, "WriteOutageSeconds", MetricUnit.Seconds, outage_seconds)
    measure(rotation, "WriteOutageOverBudgetSeconds", MetricUnit.Seconds, over_budget)


def hangs(entry: Entry, now: datetime) -> bool:
    """Whether a running execution holds the fence for longer than any of its steps may take.

    A way back may begin as late as the last of them fails, and take as long as what it waits for: it hangs when it no
    longer looks. What it sees it writes down at each visit. Once it has opened the source nobody is kept waiting.
    """
    left = entry.rotation
    undo = left.undo
    if left.fence is None or left.release is not None or (undo is not None and undo.ended_at is not None):
        return False
    ends_by = (
        left.promotion.requested_at + PROMOTION_MAY_TAKE
        if left.promotion is not None
        else left.outage_ends_by + FENCE_MARGIN
    )
    if undo is None:
        return now >= ends_by
    looks_by = entry.recorded_at + timedelta(seconds=undo.look_again_seconds) + SLOWEST_FUNCTION + REPEATED_FOR
    return now >= max(ends_by, looks_by)
