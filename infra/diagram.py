"""Draw the state machines as they are rendered: Mermaid, between markers in ``docs/how-it-works.md``.

``python -m infra.diagram`` rewrites the drawings; a test fails when they are not those of ``statemachine/``.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from infra.embed import State, definition

PAGE = Path(__file__).resolve().parent.parent / "docs" / "how-it-works.md"

BLOCK = re.compile(r"(<!-- diagram: (?P<workflow>\w+) -->\n).*?(<!-- /diagram -->)", re.DOTALL)

INDENT = "  "


def diagram(workflow: str) -> str:
    """The whole machine as a Mermaid ``stateDiagram-v2``. Retries are left out: they lead nowhere else."""
    return "\n".join(["stateDiagram-v2", *(INDENT + line for line in _scope(definition(workflow)))])


def rewritten(page: str) -> str:
    """``page`` with each marked block replaced by the drawing of the workflow that its marker names."""
    return BLOCK.sub(lambda block: f"{block[1]}```mermaid\n{diagram(block['workflow'])}\n```\n{block[3]}", page)


def _scope(machine: Mapping[str, Any]) -> Iterator[str]:
    """One scope: what is inside it comes before what leads through it, so that nested scopes are drawn as boxes."""
    for name, state in machine["States"].items():
        yield from _box(name, state)
    yield f"[*] --> {_identifier(machine['StartAt'])}"
    for name, state in machine["States"].items():
        reasons: dict[str, list[str]] = {}
        for following, reason in _transitions(state):
            reasons.setdefault(following, []).append(reason)
        for following, labels in reasons.items():
            label = ", or ".join(filter(None, labels))
            yield f"{_identifier(name)} --> {following}" + (f" : {label}" if label else "")


def _box(name: str, state: State) -> Iterator[str]:
    inner = [*state.get("Branches", []), *(state[key] for key in ("ItemProcessor",) if key in state)]
    if _label(name, state) != _identifier(name):
        yield f'state "{_label(name, state)}" as {_identifier(name)}'
    if inner:
        yield f"state {_identifier(name)} {{"
        for machine in inner:
            yield from (INDENT + line for line in _scope(machine))
        yield "}"


def _label(name: str, state: State) -> str:
    if "Seconds" in state:
        return f"{name} ({state['Seconds']} s)"
    if "TimestampPath" in state:
        return f"{name} (until {_field(state['TimestampPath'])})"
    return name


def _transitions(state: State) -> Iterator[tuple[str, str]]:
    for choice in state.get("Choices", []):
        yield _identifier(choice["Next"]), _condition(choice)
    if "Default" in state:
        yield _identifier(state["Default"]), "otherwise"
    if "Next" in state:
        yield _identifier(state["Next"]), ""
    for catch in state.get("Catch", []):
        names = " or ".join(catch["ErrorEquals"])
        yield _identifier(catch["Next"]), "any failure" if names == "States.ALL" else names
    if state.get("End") or state["Type"] in ("Succeed", "Fail"):
        yield "[*]", ""


def _condition(choice: Mapping[str, Any]) -> str:
    """A comparison of one field with a constant, or several that all have to hold; the machines use nothing else.

    >>> _condition({"Variable": "$.route", "StringEquals": "rotate", "Next": "Preflight"})
    'route = rotate'
    >>> _condition({"Variable": "$.sync.ready", "BooleanEquals": True, "Next": "PauseApplicationWrites"})
    'sync.ready'
    >>> _condition({"Variable": "$.failure", "IsNull": True, "Next": "Preflight"})
    'no failure'
    """
    if "And" in choice:
        return " and ".join(_condition(one) for one in choice["And"])
    if "IsNull" in choice:
        return f"no {_field(choice['Variable'])}"
    value = next(choice[key] for key in choice if key not in ("Variable", "Next", "Comment"))
    field = _field(choice["Variable"])
    return field if value is True else f"{field} = {str(value).lower() if isinstance(value, bool) else value}"


def _field(path: str) -> str:
    return path.removeprefix("$.")


def _identifier(name: str) -> str:
    """A name that Mermaid accepts: a question mark ends no identifier there.

    >>> _identifier("Resume?"), _identifier("Promote-Snapshot")
    ('Resume_q', 'Promote_Snapshot')
    """
    return re.sub(r"\W", "_", name.replace("?", "_q"))


def main() -> None:
    PAGE.write_text(rewritten(PAGE.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
