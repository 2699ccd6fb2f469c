"""Policy evaluation: documents, an action, a resource and a context in; a verdict out. Raises rather than guesses.

Rules: docs.aws.amazon.com/IAM/latest/UserGuide, "Policy evaluation logic" and "IAM JSON policy elements reference".
"""

from __future__ import annotations

import datetime as dt
import enum
import functools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Value = str | Sequence[str]
Context = Mapping[str, Value]
"""Condition keys and what the request has for them. A list is for a key of several values; it wants a quantifier."""
Statement = Mapping[str, Any]


class Effect(enum.Enum):
    ALLOW = "allow"
    EXPLICIT_DENY = "explicit deny"
    IMPLICIT_DENY = "implicit deny"


@dataclass(frozen=True)
class Verdict:
    """What the documents say, and the statement that decided (None: none matched)."""

    effect: Effect
    statement: Statement | None = None

    @property
    def allowed(self) -> bool:
        return self.effect is Effect.ALLOW


def statements(document: Mapping[str, Any]) -> list[Statement]:
    """The statements of one document, each knowing its document's version: variables exist since 2012."""
    return [{**one, "Version": document.get("Version", "2008-10-17")} for one in as_list(document["Statement"])]


def evaluate(policy: Iterable[Statement], action: str, resource: str, context: Context) -> Verdict:
    """An explicit deny wins, then an allow; else nobody said anything.

    Raises:
        NotImplementedError: a condition operator or a construct that this evaluator does not know.
    """
    lowered = {key.lower(): value for key, value in context.items()}
    allowed: Statement | None = None
    for statement in policy:
        if not _applies(statement, action, resource, lowered):
            continue
        if statement["Effect"] == "Deny":
            return Verdict(Effect.EXPLICIT_DENY, statement)
        allowed = allowed or statement
    return Verdict(Effect.ALLOW, allowed) if allowed else Verdict(Effect.IMPLICIT_DENY)


def _applies(statement: Statement, action: str, resource: str, context: Context) -> bool:
    return (
        _matches_action(statement, action)
        and _matches_resource(statement, resource, context)
        and meets_conditions(statement, context)
    )


def _matches_action(statement: Statement, action: str) -> bool:
    if "NotAction" in statement:
        return not any(glob(pattern.lower(), action.lower()) for pattern in as_list(statement["NotAction"]))
    return any(glob(pattern.lower(), action.lower()) for pattern in as_list(statement["Action"]))


def _matches_resource(statement: Statement, resource: str, context: Context) -> bool:
    if "NotResource" in statement:
        return not any(_arn(pattern, resource, statement, context) for pattern in as_list(statement["NotResource"]))
    # Key and trust policies may leave it out: they are about the resource that carries them.
    return any(_arn(pattern, resource, statement, context) for pattern in as_list(statement.get("Resource", "*")))


def meets_conditions(statement: Statement, context: Context) -> bool:
    lowered = {key.lower(): value for key, value in context.items()}
    return all(
        _meets(operator, key, as_list(wanted), statement, lowered)
        for operator, keys in statement.get("Condition", {}).items()
        for key, wanted in keys.items()
    )


def _meets(operator: str, key: str, wanted: list[Any], statement: Statement, context: Context) -> bool:
    has = context.get(key.lower())
    quantifier, _, base = operator.rpartition(":")
    if base == "Null":
        return (has is None or has == []) == (str(wanted[0]).lower() == "true")
    if_exists = base.endswith("IfExists")
    base = base.removesuffix("IfExists")
    negated, compare = _operator(base)
    if if_exists and has is None:
        return True
    values = [] if has is None else [has] if isinstance(has, str) else list(has)

    def one(value: str) -> bool:
        hit = any(compare(str(want), value, statement, context) for want in wanted)
        return not hit if negated else hit

    match quantifier:
        case "ForAllValues":
            return all(map(one, values))
        case "ForAnyValue":
            return any(map(one, values))
        case "":
            if has is None:
                return negated
            if not isinstance(has, str):
                raise NotImplementedError(
                    f"{key} has several values: {operator} on it is undefined; use ForAllValues or ForAnyValue"
                )
            return one(has)
    raise NotImplementedError(f"condition operator {operator}")


_Comparison = Callable[[str, str, Statement, Context], bool]


def _operator(name: str) -> tuple[bool, _Comparison]:
    negated = "Not" in name
    try:
        return negated, _COMPARISONS[name.replace("Not", "")]
    except KeyError:
        raise NotImplementedError(f"condition operator {name}") from None


def _string(want: str, value: str, statement: Statement, context: Context) -> bool:
    text = _literal(want, statement, context)
    return text is not None and text == value


def _string_ignoring_case(want: str, value: str, statement: Statement, context: Context) -> bool:
    text = _literal(want, statement, context)
    return text is not None and text.lower() == value.lower()


def _like(want: str, value: str, statement: Statement, context: Context) -> bool:
    pattern = _pattern(want, statement, context)
    return pattern is not None and pattern.fullmatch(value) is not None


def _arn(pattern: str, value: str, statement: Statement, context: Context) -> bool:
    """ARNs are compared field by field, so that no wildcard reaches beyond its own; the last may hold colons."""
    if pattern == "*":
        return True
    if not pattern.startswith("arn:") or not value.startswith("arn:"):
        return _like(pattern, value, statement, context)
    # An incomplete ARN is completed with wildcards.
    patterns = _split_arn(pattern)
    fields = patterns + ["*"] * (6 - len(patterns))
    values = value.split(":", 5)
    return len(values) == 6 and all(_like(*pair, statement, context) for pair in zip(fields, values, strict=True))


def _split_arn(pattern: str) -> list[str]:
    """As ``split(":", 5)``, but a policy variable holds colons of its own."""
    masked = re.sub(r"\$\{[^}]*\}", lambda found: found.group().replace(":", "\0"), pattern)
    return [field.replace("\0", ":") for field in masked.split(":", 5)]


def _numeric(compare: Callable[[float, float], bool]) -> _Comparison:
    return lambda want, value, _statement, _context: compare(float(value), float(want))


def _date(compare: Callable[[float, float], bool]) -> _Comparison:
    return lambda want, value, _statement, _context: compare(_moment(value), _moment(want))


def _moment(text: str) -> float:
    if re.fullmatch(r"\d+(\.\d+)?", text):
        return float(text)
    moment = dt.datetime.fromisoformat(text)
    return (moment if moment.tzinfo else moment.replace(tzinfo=dt.UTC)).timestamp()


def _bool(want: str, value: str, _statement: Statement, _context: Context) -> bool:
    return want.lower() == value.lower()


_COMPARISONS: dict[str, _Comparison] = {
    "StringEquals": _string,
    "StringEqualsIgnoreCase": _string_ignoring_case,
    "StringLike": _like,
    "ArnEquals": _arn,
    "ArnLike": _arn,
    "Bool": _bool,
    "NumericEquals": _numeric(lambda value, want: value == want),
    "NumericLessThan": _numeric(lambda value, want: value < want),
    "NumericLessThanEquals": _numeric(lambda value, want: value <= want),
    "NumericGreaterThan": _numeric(lambda value, want: value > want),
    "NumericGreaterThanEquals": _numeric(lambda value, want: value >= want),
    "DateEquals": _date(lambda value, want: value == want),
    "DateLessThan": _date(lambda value, want: value < want),
    "DateLessThanEquals": _date(lambda value, want: value <= want),
    "DateGreaterThan": _date(lambda value, want: value > want),
    "DateGreaterThanEquals": _date(lambda value, want: value >= want),
}

_VARIABLE = re.compile(r"\$\{([^},]*)(?:,\s*'([^']*)')?\}")


def _pieces(text: str, statement: Statement, context: Context) -> list[tuple[str, bool]] | None:
    """The text with its variables filled in; with each piece whether it was one. None: a variable has no value."""
    if statement["Version"] != "2012-10-17":
        return [(text, False)]
    pieces, end = [], 0
    for found in _VARIABLE.finditer(text):
        pieces.append((text[end : found.start()], False))
        name, default = found.group(1).strip(), found.group(2)
        value = name if name in ("*", "?", "$") else context.get(name.lower(), default)
        if value is None or not isinstance(value, str):
            return None
        pieces.append((value, True))
        end = found.end()
    return [*pieces, (text[end:], False)]


def _literal(text: str, statement: Statement, context: Context) -> str | None:
    pieces = _pieces(text, statement, context)
    return None if pieces is None else "".join(piece for piece, _ in pieces)


def _pattern(text: str, statement: Statement, context: Context) -> re.Pattern[str] | None:
    pieces = _pieces(text, statement, context)
    return None if pieces is None else _compiled(tuple(pieces))


@functools.lru_cache(maxsize=4096)
def _compiled(pieces: tuple[tuple[str, bool], ...]) -> re.Pattern[str]:
    # A wildcard in a variable's value is only a character.
    parts = [
        re.escape(text) if fixed else re.escape(text).replace(r"\*", ".*").replace(r"\?", ".") for text, fixed in pieces
    ]
    return re.compile("".join(parts), re.DOTALL)


def glob(pattern: str, text: str) -> bool:
    return _compiled(((pattern, False),)).fullmatch(text) is not None


def as_list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else [value]
