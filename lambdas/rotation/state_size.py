"""How large a rotation's state may become. It travels through Step Functions, which takes 256 KB.

What is larger ends the execution past every Catch (``States.DataLimitExceeded``), and every recovery likewise, with
everybody kept out. So the part that grows with the database, the fence, is measured before anything is closed, and
what later steps add is bounded.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from lambdas.rotation.errors import PreflightRefused
from lambdas.rotation.state import DatabaseFence, Finding, Rotation

MOST_BYTES = 204_800
"""Of a state. On top of it comes at most the cause of a failure, to which Step Functions gives 32,768 characters."""

UNTIL_THE_FENCE_BYTES = 10_000
"""What the steps between Preflight and the fence add at most, Preflight's warnings included."""

LATER_BYTES = 64_000
"""What the steps after the fence add at most: evidence, users of the old key, and what little all others note."""

EVIDENCE_BYTES = 20_000
"""Of these, what is kept of each database."""


def bytes_of(part: Any) -> int:
    """As the ledger has it; Step Functions counts other letters than ASCII's as less."""
    return len(json.dumps(part))


def limitation(rotation: Rotation, fence: Sequence[DatabaseFence]) -> Finding | None:
    """Why a rotation with this fence could not be carried to its end, or None."""
    plan, _ = rotation.planned()
    listed = [one.model_dump(mode="json") for one in fence]
    captured = [one.name for one in fence] if plan.strategy == "catch-up" and rotation.capture is None else []
    still_to_come = LATER_BYTES if rotation.sync is not None else UNTIL_THE_FENCE_BYTES + LATER_BYTES
    expected = bytes_of(rotation.to_state()) + bytes_of(listed) + bytes_of(captured) + still_to_come
    if expected <= MOST_BYTES:
        return None
    return Finding(
        name="FenceTooLarge",
        message=f"the fence would list {len(fence)} databases or accounts, with what re-opens each: in all "
        f"{expected:,} bytes, and a rotation's state may have {MOST_BYTES:,}",
        advice="drop or close what nobody uses (what is closed already is not listed), or take a strategy without a "
        "login: blue-green, or snapshot behind a network fence",
    )


def refuse_if_too_large(rotation: Rotation, fence: Sequence[DatabaseFence]) -> None:
    """Raises: PreflightRefused (terminal); more has come up since Preflight. Nothing was closed."""
    if found := limitation(rotation, fence):
        raise PreflightRefused(f"{found.message}: {found.advice}")


def as_evidence(found: Mapping[str, Any]) -> tuple[dict[str, Any], int]:
    """What is kept of what was found, by name, and of how many nothing is."""
    kept: dict[str, Any] = {}
    left = EVIDENCE_BYTES
    for name, seen in found.items():
        left -= bytes_of({name: seen})
        if left < 0:
            break
        kept[name] = seen
    return kept, len(found) - len(kept)
