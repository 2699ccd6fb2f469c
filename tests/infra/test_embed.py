"""The machine that runs is put together from files; a slip there would show up in nobody's editor."""

import json
from pathlib import Path
from typing import Any

import pytest

from infra import embed

LEAF = {"Type": "Succeed"}


def write(directory: Path, name: str, machine: dict[str, Any]) -> None:
    path = directory / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(machine))


def spine(*fragments: str) -> dict[str, Any]:
    return {
        "StartAt": "Scope",
        "States": {"Scope": {"Type": "Parallel", "End": True, "Branches": [{"Fragment": name} for name in fragments]}},
    }


def fragment(*names: str) -> dict[str, Any]:
    return {"StartAt": names[0], "States": dict.fromkeys(names, LEAF)}


def test_the_default_strategy_keeps_its_names_and_the_others_get_a_suffix(tmp_path: Path) -> None:
    """An execution's history has to say which strategy ran, and two states of one name would be refused by AWS."""
    write(tmp_path, "m.asl.json", spine("s/read_replica.asl.json", "s/blue_green.asl.json"))
    write(tmp_path, "s/read_replica.asl.json", fragment("Pause"))
    write(tmp_path, "s/blue_green.asl.json", fragment("Pause"))

    machine = embed.definition("m", tmp_path)

    assert ["Scope", "Pause", "Pause-BlueGreen"] == list(embed.states(machine))
    assert "Pause-BlueGreen" == machine["States"]["Scope"]["Branches"][1]["StartAt"]


def test_every_reference_gets_the_suffix() -> None:
    """Next, Default, a choice's Next and a catcher's Next: one forgotten leads to a state that does not exist."""
    inner = {"StartAt": "I", "States": {"I": {"Type": "Pass", "Next": "J"}, "J": LEAF}}
    machine = {
        "StartAt": "A",
        "States": {
            "A": {"Type": "Task", "Next": "B", "Catch": [{"ErrorEquals": ["States.ALL"], "Next": "C"}]},
            "B": {"Type": "Choice", "Choices": [{"Variable": "$.x", "IsNull": True, "Next": "C"}], "Default": "D"},
            "C": LEAF,
            "D": {"Type": "Map", "ItemProcessor": inner, "End": True},
        },
    }

    suffixed = embed.with_suffix(machine, "-S")

    names = set(embed.states(suffixed))
    assert {"A-S", "B-S", "C-S", "D-S", "I-S", "J-S"} == names
    assert set() == {target for target in references(suffixed) if target not in names}


def references(machine: dict[str, Any]) -> set[str]:
    found = {machine["StartAt"]}
    for state in machine["States"].values():
        for holder in [state, *state.get("Catch", []), *state.get("Choices", [])]:
            found |= {holder[key] for key in ("Next", "Default") if key in holder}
        for inner in [*state.get("Branches", []), *([state["ItemProcessor"]] if "ItemProcessor" in state else [])]:
            found |= references(inner)
    return found


def test_refuses_a_name_that_is_used_twice(tmp_path: Path) -> None:
    """Names are unique over the whole machine in AWS, branches included; most interpreters do not look."""
    write(tmp_path, "m.asl.json", spine("s/read_replica.asl.json"))
    write(tmp_path, "s/read_replica.asl.json", fragment("Pause", "Scope"))

    with pytest.raises(embed.DefinitionInvalid, match="repeated: Scope"):
        embed.definition("m", tmp_path)


def test_refuses_a_fragment_that_does_not_exist(tmp_path: Path) -> None:
    write(tmp_path, "m.asl.json", spine("s/none.asl.json"))

    with pytest.raises(embed.DefinitionInvalid, match=r"s/none\.asl\.json does not exist"):
        embed.definition("m", tmp_path)


@pytest.mark.parametrize("values", [{}, {"Fn": "arn", "Other": "x"}])
def test_refuses_values_that_are_not_exactly_the_placeholders(tmp_path: Path, values: dict[str, str]) -> None:
    """CloudFormation leaves an unknown placeholder in the text, and the machine fails when it gets there."""
    write(tmp_path, "m.asl.json", {"StartAt": "A", "States": {"A": {"Type": "Task", "Resource": "${Fn}"}}})

    with pytest.raises(embed.DefinitionInvalid):
        embed.render("m", values, tmp_path)


def test_renders(tmp_path: Path) -> None:
    write(tmp_path, "m.asl.json", {"StartAt": "A", "States": {"A": {"Type": "Task", "Resource": "${Fn}"}}})

    assert "arn:x" == json.loads(embed.render("m", {"Fn": "arn:x"}, tmp_path))["States"]["A"]["Resource"]
