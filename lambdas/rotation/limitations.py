"""What forbids a rotation, asked once more by the step that is about to change something at the source."""

from lambdas.rotation.errors import PreflightRefused
from lambdas.rotation.ports import Engine
from lambdas.rotation.state import Plan


def refuse_if_limited(engine: Engine, plan: Plan) -> None:
    """Raises: PreflightRefused (terminal); something came up since Preflight. The message lists all of it."""
    if reasons := engine.limitations(plan.accept):
        raise PreflightRefused("; ".join(f"{reason.message}: {reason.advice}" for reason in reasons))
