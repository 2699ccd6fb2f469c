"""Render a state machine: put the strategies' fragments into the spine, and fill its placeholders in.

Where a branch of the spine would stand it names the fragment, which is a state machine of its own::

    "Branches": [{"Fragment": "strategies/read_replica.asl.json"}]

``python -m infra.embed [rotate_key]`` prints the result with its placeholders (``make asl``).
"""

import copy
import json
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

STATE_MACHINES = Path(__file__).resolve().parent.parent / "statemachine"
DEFAULT_STRATEGY = "read_replica"
"""Its states keep their names; the others' carry a suffix, so that a name says which strategy ran."""

PLACEHOLDER = re.compile(r"\$\{([A-Za-z]+)\}")

State = dict[str, Any]


class DefinitionInvalid(Exception):
    """The files do not make up one state machine; the message names the states or placeholders."""


def definition(workflow: str, directory: Path = STATE_MACHINES) -> dict[str, Any]:
    """The whole machine of ``<workflow>.asl.json``, fragments embedded, placeholders untouched.

    Raises:
        DefinitionInvalid: a fragment is missing, or two states of the machine have the same name.
    """
    spine: dict[str, Any] = json.loads((directory / f"{workflow}.asl.json").read_text(encoding="utf-8"))
    for state in states(spine).values():
        if "Branches" in state:
            state["Branches"] = [_embedded(branch, directory) for branch in state["Branches"]]
    _refuse_repeated_names(spine)
    return spine


def render(workflow: str, values: Mapping[str, str], directory: Path = STATE_MACHINES) -> str:
    """The definition as JSON text with every placeholder filled in.

    Raises:
        DefinitionInvalid: a placeholder has no value, or a value has no placeholder.
    """
    text = as_text(definition(workflow, directory))
    refuse_mismatch(workflow, placeholders(text), set(values))
    return PLACEHOLDER.sub(lambda match: values[match[1]], text)


def refuse_mismatch(workflow: str, wanted: set[str], given: set[str]) -> None:
    if wanted != given:
        raise DefinitionInvalid(
            f"{workflow}: no value for {sorted(wanted - given)}, no use for {sorted(given - wanted)}"
        )


def as_text(machine: Mapping[str, Any]) -> str:
    return json.dumps(machine, indent=2, ensure_ascii=False)


def placeholders(text: str) -> set[str]:
    return set(PLACEHOLDER.findall(text))


def states(machine: Mapping[str, Any]) -> dict[str, State]:
    """Every state by name, also those inside Parallel branches and Map processors. A repeated name shows up once."""
    return dict(_walk(machine))


def _walk(machine: Mapping[str, Any]) -> Iterator[tuple[str, State]]:
    for name, state in machine.get("States", {}).items():
        yield name, state
        for inner in [*state.get("Branches", []), state.get("ItemProcessor", {}), state.get("Iterator", {})]:
            yield from _walk(inner)


def _embedded(branch: State, directory: Path) -> State:
    if "Fragment" not in branch:
        return branch
    path = directory / branch["Fragment"]
    if not path.is_file():
        raise DefinitionInvalid(f"the fragment {branch['Fragment']} does not exist")
    fragment: State = json.loads(path.read_text(encoding="utf-8"))
    strategy = path.name.removesuffix(".asl.json")
    if strategy != DEFAULT_STRATEGY:
        fragment = with_suffix(fragment, "-" + "".join(word.title() for word in strategy.split("_")))
    return {key: value for key, value in fragment.items() if key not in ("TimeoutSeconds", "Version")}


def with_suffix(fragment: State, suffix: str) -> State:
    """The fragment with ``suffix`` on the name of each of its states and on every reference to one."""
    machine = copy.deepcopy(fragment)
    for scope in _scopes(machine):
        scope["States"] = {name + suffix: state for name, state in scope["States"].items()}
        scope["StartAt"] += suffix
        for state in scope["States"].values():
            for holder in [state, *state.get("Catch", []), *state.get("Choices", [])]:
                if "Next" in holder:
                    holder["Next"] += suffix
            if "Default" in state:
                state["Default"] += suffix
    return machine


def _scopes(machine: State) -> list[State]:
    """The machine and every branch and processor inside it: whatever has a StartAt of its own."""
    found = [machine]
    for state in machine["States"].values():
        for inner in [*state.get("Branches", []), *(state[k] for k in ("ItemProcessor", "Iterator") if k in state)]:
            found += _scopes(inner)
    return found


def _refuse_repeated_names(machine: State) -> None:
    names = [name for name, _ in _walk(machine)]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise DefinitionInvalid(
            f"state names have to be unique over the whole machine; repeated: {', '.join(repeated)}"
        )


def main() -> None:
    for workflow in sys.argv[1:] or ["rotate_key"]:
        print(as_text(definition(workflow)))


if __name__ == "__main__":
    main()
