"""How large a rotation's state may become. It travels through Step Functions, which takes 256 KB.

What is larger ends the execution past every Catch (``States.DataLimitExceeded``), and every recovery likewise, with
everybody kept out. So the part that grows with the database, the fence, is measured before anything is closed, and
what later steps add is bounded.
"""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from lambdas.rotation.errors import PreflightRefused
from lambdas.rotation.names import named
from lambdas.rotation.state import DatabaseFence, Finding, Rotation

MOST_BYTES = 204_800
"""Of a state. On top of it comes at most the cause of a failure, to which Step Functions gives 32,768 characters."""

FINDINGS_BYTES = 6_000
"""What one list of findings is cut to: Preflight's warnings, say. One long transaction, or alarm, is one finding."""

UNTIL_THE_FENCE_BYTES = 2 * FINDINGS_BYTES + 8_000
"""What is added at most from Preflight's last check to the fence: its warnings, why `auto` takes a strategy and not the
other, and what the steps note."""

LATER_BYTES = 64_000
"""What the steps after the fence add at most: evidence, users of the old key, and what little all others note."""

EVIDENCE_BYTES = 20_000
"""Of these, what is kept of each database."""

_ROOM_FOR_THE_COUNT = 500


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


def as_findings(found: Iterable[Finding], most: int = FINDINGS_BYTES) -> tuple[Finding, ...]:
    """What is kept of them in so many bytes, of each name the first one before the second of any; and last, how many
    are not."""
    every, turns = list(found), Counter[str]()
    if bytes_of([one.model_dump() for one in every]) <= most:
        return tuple(every)
    by_turns = []
    for at, one in enumerate(every):
        turns[one.name] += 1
        by_turns.append((turns[one.name], at))
    left, kept = most - _ROOM_FOR_THE_COUNT, set[int]()
    for _, at in sorted(by_turns):
        left -= bytes_of(every[at].model_dump()) + len(", ")
        if left < 0:
            break
        kept.add(at)
    others = Counter(one.name for at, one in enumerate(every) if at not in kept)
    counts = [f"{count} {name}" for name, count in others.most_common()]
    rest = Finding(
        name="MoreFindings",
        message=f"{others.total()} more are not listed: {named(counts)}",
        advice="what is listed is of each kind the first",
    )
    return (*(every[at] for at in sorted(kept)), rest)


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
