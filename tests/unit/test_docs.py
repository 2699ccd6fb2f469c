"""What the documentation names exists, and what somebody will look up in it is there."""

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

import pytest

from infra import diagram
from infra.embed import definition, states
from lambdas.rotation import errors
from lambdas.rotation.policy import INPUT_FIELDS, RISKS, TAGS
from lambdas.rotation.state import Moment

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
SHIPPED = sorted((ROOT / "lambdas").rglob("*.py"))
OBSERVABILITY = ROOT / "infra" / "observability.py"
RUNBOOK = ROOT / "docs" / "runbook.md"

HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
FENCED = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)
COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
CODE = re.compile(r"`([^`\n]+)`")


def text(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def prose(page: Path) -> str:
    """What a reader sees, without code blocks: a name that only stands in a drawing is not explained."""
    return COMMENT.sub("", FENCED.sub("", text(page)))


def headings(page: Path) -> list[str]:
    return HEADING.findall(prose(page))


def anchor(heading: str) -> str:
    """The fragment that GitHub gives to a heading.

    >>> anchor("States.Timeout, or `Lambda.Unknown`")
    'statestimeout-or-lambdaunknown'
    """
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def named(page: Path) -> set[str]:
    """Whatever stands in `code` on the page, outside blocks."""
    return set(CODE.findall(prose(page)))


def page_name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def found(pattern: str, *paths: Path) -> list[str]:
    """Each name once; read from the files, because what is imported depends on the tests that ran before."""
    names = {name for path in paths for name in re.findall(pattern, text(path), re.MULTILINE)}
    assert names, f"nothing matches {pattern}: the test looks in the wrong place"
    return sorted(names)


# -- what somebody will look up --

EXTENDING = ROOT / "docs" / "extending.md"
ENGINES = re.compile(r"(aurora-)?(postgres(ql)?|mysql|mariadb)|(oracle|sqlserver|db2)(-.*)?")
STRATEGIES = re.compile("read-replica|blue-green|catch-up")  # `snapshot` is the name of other things, too


@pytest.mark.parametrize(("chapter", "names"), [("An engine", ENGINES), ("A strategy", STRATEGIES)])
def test_whoever_decides_by_the_name_of_an_engine_or_a_strategy_is_written_down(
    chapter: str, names: re.Pattern[str]
) -> None:
    """One module and one line, one fragment and one branch: what else there is to change has a reason, and is known."""
    ships = [path for path in (*SHIPPED, *ROOT.glob("infra/*.py")) if "engines" not in path.parts]
    decides = {page_name(path) for path in ships if any(map(names.fullmatch, strings(path)))}
    section = text(EXTENDING).partition(f"## {chapter}\n")[2].partition("\n## ")[0]

    assert sorted(decides) == sorted(re.findall(r"^\| `([\w/.]+)`", section, re.MULTILINE))


def strings(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(text(path))):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


@pytest.mark.parametrize(
    "error",
    [
        *found(r"^class (\w+)\((?:Retryable|Terminal)\)", *SHIPPED),
        *found(r'Failure\(Error="(\w+)"', *SHIPPED),
    ],
)
def test_every_error_has_a_section_in_the_runbook(error: str) -> None:
    """The execution's history shows a name; at night that name is all that a person has."""
    assert error in headings(RUNBOOK)


FINDINGS = found(r'(?:Finding\(|^\s+)name="([\w-]+)"', *SHIPPED)
"""Reasons and warnings of Preflight; those of StartRotation stand in a pair there."""
FINDINGS += [name for name in found(r'\("([A-Z]\w+)", f"', *SHIPPED) if name not in FINDINGS]


@pytest.mark.parametrize("name", FINDINGS)
def test_every_finding_is_explained_in_the_runbook(name: str) -> None:
    """A refusal lists names; whoever reads one at the phone looks it up here."""
    assert re.fullmatch(r"(?:[A-Z][a-z0-9]*)+", name), "a finding is named like an error"
    assert name in findings_explained()


def test_the_runbook_explains_no_finding_that_does_not_exist() -> None:
    assert set() == findings_explained() - set(FINDINGS)


@pytest.mark.parametrize("risk", RISKS)
def test_a_risk_is_the_name_of_its_finding_or_error(risk: str) -> None:
    assert "".join(part.title() for part in risk.split("-")) in {*FINDINGS, *vars(errors)}


def findings_explained() -> set[str]:
    """The first cells of the tables under the heading."""
    section = text(RUNBOOK).partition("#### Reasons and warnings")[2].partition("\n### ")[0]
    return set(re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE))


@pytest.mark.parametrize("moment", list(Moment))
def test_every_notification_has_a_section_in_the_runbook(moment: Moment) -> None:
    assert moment.value in headings(RUNBOOK)


@pytest.mark.parametrize("alarm", found(r'\balarm\(\s*"([a-z-]+)"', OBSERVABILITY))
def test_every_alarm_has_a_section_in_the_runbook(alarm: str) -> None:
    assert alarm in headings(RUNBOOK)


@pytest.mark.parametrize("metric", found(r'\bpromise\("(\w+)"', OBSERVABILITY))
def test_every_metric_is_explained(metric: str) -> None:
    assert metric in named(RUNBOOK)


@pytest.mark.parametrize(
    "state",
    [
        name
        for workflow in ("rotate_key", "rotate_fleet")
        for name, state in states(definition(workflow)).items()
        if state["Type"] == "Task"
    ],
)
def test_every_task_is_explained(state: str) -> None:
    """Where somebody sees a state in the console, the page says what it does and what its failure leads to."""
    assert state in named(ROOT / "docs" / "how-it-works.md")


@pytest.mark.parametrize("name", [*INPUT_FIELDS, *TAGS])
def test_every_input_field_and_tag_is_explained(name: str) -> None:
    """An unknown one is refused; so whoever reads the refusal looks here for the known ones."""
    assert any(name in named(page) for page in PAGES)


@pytest.mark.parametrize("risk", found(r'"([a-z-]+)" not in (?:\w+\.)*accept', *SHIPPED))
def test_every_risk_that_can_be_accepted_is_named(risk: str) -> None:
    assert risk in named(ROOT / "README.md")
    assert risk in named(ROOT / "docs" / "limits.md")


# -- what the documentation names --


def test_the_drawings_are_those_of_the_definitions() -> None:
    """`python -m infra.diagram` draws them anew."""
    page = text(diagram.PAGE)

    assert diagram.rewritten(page) == page
    assert {"rotate_key", "rotate_fleet"} == {block["workflow"] for block in diagram.BLOCK.finditer(page)}


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_every_link_leads_somewhere(page: Path) -> None:
    """Files of the repository, and headings in them. What lies outside is not asked."""
    broken = []
    for link in LINK.findall(prose(page)):
        if "://" in link:
            continue
        path, _, fragment = unquote(link).partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (fragment and fragment not in map(anchor, headings(target))):
            broken.append(link)

    assert broken == []


def test_the_readme_shows_the_picture_that_there_is() -> None:
    """The demo draws it; until it has been drawn, the line that shows it is a comment."""
    picture = ROOT / "docs" / "img" / "cutover.png"

    assert (f"({picture.relative_to(ROOT)})" in prose(ROOT / "README.md")) == picture.exists()


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_every_file_that_is_named_exists(page: Path) -> None:
    """A path in `code` that begins with a directory of this repository."""
    directories = {path.name for path in ROOT.iterdir() if path.is_dir()} - {"build"}
    paths = [name for name in named(page) if re.fullmatch(r"[\w.-]+/[\w./-]*", name)]

    missing = [name for name in paths if name.split("/")[0] in directories and not (ROOT / name).exists()]

    assert missing == []


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_every_make_target_that_is_named_exists(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", text(ROOT / "Makefile"), re.MULTILINE))
    wanted = {
        name for name in re.findall(r"^make ([a-z-]+)|`make ([a-z-]+)", text(page), re.MULTILINE) for name in name
    }

    assert set() == wanted - {""} - targets


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_every_input_that_is_shown_is_json(page: Path) -> None:
    """Somebody copies it."""
    for shown in re.findall(r"--input '(\{.*?\})'", text(page)):
        json.loads(shown)


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_promises_nothing_that_was_not_measured(page: Path) -> None:
    """RDS promotes in its own time, and nobody writes meanwhile."""
    assert not re.search(r"zero[- ]downtime|no downtime|seamless", text(page), re.IGNORECASE)
