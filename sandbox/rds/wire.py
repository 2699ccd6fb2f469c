"""Answers of RDS that several calls give."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from moto.core.responses import ActionResult

from sandbox.rds.errors import refuse
from sandbox.rds.resources import View

SMALLEST_PAGE, PAGE = 20, 100


def page(response: Any, member: str, views: list[View]) -> ActionResult:
    """One page; the marker is where the next one begins, which nobody may rely on."""
    size, start = int(response.params.get("MaxRecords") or PAGE), int(response.params.get("Marker") or 0)
    if not SMALLEST_PAGE <= size <= PAGE:
        raise refuse("InvalidParameterValue", f"MaxRecords must be between {SMALLEST_PAGE} and {PAGE}.")
    answer: dict[str, Any] = {member: views[start : start + size]}
    if start + size < len(views):
        answer["Marker"] = str(start + size)
    return ActionResult(answer)


def refuse_this(self: Any) -> ActionResult:
    # A 500 of moto's would look like a passing fault of AWS, and be tried again.
    raise refuse("InvalidAction", "The sandbox does not have this yet.")


def nothing(member: str) -> Callable[[Any], ActionResult]:
    """Things that the sandbox has none of: who asks gets an empty list, as in an account without them."""
    return lambda self: ActionResult({member: []})
