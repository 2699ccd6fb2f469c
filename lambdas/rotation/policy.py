"""The plan of one rotation: the execution's input over the database's tags over the stack's defaults.

A name or value that nobody here knows is refused, by name: a misspelt ``key-rotation:grace-days`` that were ignored
would delete a database too early.
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from lambdas.rotation import names
from lambdas.rotation.errors import InputRefused
from lambdas.rotation.names import OPT_IN
from lambdas.rotation.state import RECOVER, DnsRecordName, Plan

ENABLED = f"{OPT_IN}enabled"
MIN_AGE = f"{OPT_IN}min-age-days"

DATABASE = "DBInstanceIdentifier"
CLUSTER = "DBClusterIdentifier"
TASK_TOKEN = "TaskToken"  # noqa: S105 - the name of a field
STARTED_BY = "AWS_STEP_FUNCTIONS_STARTED_BY_EXECUTION_ID"

RISKS = (
    "logical-slots", "logical-copy", "unlogged-tables", "memory-tables", "pg-cron", "iac-owned", "downtime",
    "reader-endpoint", "managed-master-password", "materialized-views", "internal-jobs",
    "replicas-away", "default-key-policy", "transaction-ids",
)  # fmt: skip
"""What a person may accept in ``Accept``; Preflight's reason is the same word as a name (``LogicalSlots``)."""

INPUT_BYTES = 16 * 1024
"""The state carries the input through every step, and Step Functions ends an execution whose state is too large."""

_OF_STRATEGY: Mapping[str, Mapping[str, Any]] = {"snapshot": {"write_outage_budget_seconds": 4 * 60 * 60}}
"""What takes the place of the stack's defaults: what fits a promotion does not fit a copy of all data."""

_BUDGETS: Mapping[str, tuple[int, int]] = {"snapshot": (601, 24 * 60 * 60)}
_BUDGET = (5, 600)
"""Seconds of write outage that a strategy can be given; a shorter one would stop applications for nothing."""

LONGEST_AGE_DAYS = 36_500
_LARGEST_NUMBER = 1e15

_IDENTIFIER = re.compile(r"[A-Za-z](-?[A-Za-z0-9])*")
_IDENTIFIER_LENGTH = 63
_NAMED_LENGTH = 500
"""Of what somebody wrote, in a message: the rest of it would push the advice out."""

Parser = Callable[[Any], Any]


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError("must be a text")
    return value.strip()


def _number(value: Any) -> float:
    """Less than Python takes for a number: ``1_0`` and ``nan`` are slips."""
    if isinstance(value, str) and re.fullmatch(r"-?[0-9]{1,9}(\.[0-9]{1,9})?", value.strip()):
        return float(value)
    if isinstance(value, bool | str) or not isinstance(value, int | float) or not abs(value) <= _LARGEST_NUMBER:
        raise ValueError("must be a number")
    return float(value)


def _age(value: Any) -> float:
    days = _number(value)
    if not 0 <= days <= LONGEST_AGE_DAYS:
        raise ValueError(f"must be a number of days, at most {LONGEST_AGE_DAYS}")
    return days


def _seconds(value: Any) -> int:
    number = _number(value)
    if not number.is_integer():
        raise ValueError("must be a whole number of seconds")
    return int(number)


def _words(value: Any) -> tuple[str, ...]:
    """A list, or a text with spaces between its words: tags allow no commas."""
    words = value.split() if isinstance(value, str) else value
    if not isinstance(words, list | tuple) or not all(isinstance(word, str) for word in words):
        raise ValueError("must be a list of words")
    return tuple(words)


def _risks(value: Any) -> tuple[str, ...]:
    """A misspelt risk would be refused by Preflight all the same, with nobody told why."""
    accepted = _words(value)
    if unknown := sorted(set(accepted) - set(RISKS)):
        raise ValueError(f"knows no {', '.join(unknown)[:_NAMED_LENGTH]}; known: {', '.join(RISKS)}")
    return accepted


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("must be true or false")
    return value


def _switch(value: Any) -> bool:
    """As `_flag`, and as a tag says it."""
    return _flag({"true": True, "false": False}.get(value, value) if isinstance(value, str) else value)


def _choice(*known: str, later: tuple[str, ...] = ()) -> Parser:
    def parse(value: Any) -> str:
        word = str(value).lower() if isinstance(value, bool) else _text(value)
        if word in later:
            raise ValueError(f"{word} is not supported yet")
        if word not in known:
            raise ValueError(f"must be one of {', '.join(known)}")
        return word

    return parse


def _connectivity(value: Any) -> tuple[str, ...]:
    parse = _choice("dns", "secret", "proxy", later=("parameter", "rename", "hook"))
    return tuple(dict.fromkeys(parse(word) for word in _words(value)))


def _dns_record(value: Any) -> DnsRecordName:
    zone_id, slash, name = _text(value).partition("/")
    if not slash or not re.fullmatch(r"[A-Z0-9]+", zone_id) or "." not in name:
        raise ValueError("must be <hosted zone id>/<record name>")
    return DnsRecordName(zone_id=zone_id, name=name.lower().removesuffix("."))


def _not_yet(value: Any) -> Any:
    raise ValueError("is not supported yet; remove it")


@dataclass(frozen=True)
class _Option:
    """One decision: the plan's field, the input that sets it, the tag that sets it."""

    field: str
    parse: Parser
    input: str | None = None
    tag: str | None = None


_OPTIONS = (
    _Option("strategy", _choice("read-replica", "blue-green", "snapshot", "catch-up", "auto"), "Strategy", "strategy"),
    _Option("grace_days", _number, "GraceDays", "grace-days"),
    _Option("retire_key", _choice("auto", "true", "false"), "RetireKey", "retire-key"),
    _Option("login_secret", _text, "LoginSecret", "login-secret"),
    _Option("connectivity", _connectivity, "Connectivity", "connectivity"),
    _Option("dns_record", _dns_record, "DnsRecord", "dns-record"),
    _Option("endpoint_secret", _text, "EndpointSecret", "endpoint-secret"),
    _Option("proxy", _text, "Proxy", "proxy"),
    _Option("write_outage_budget_seconds", _seconds, "WriteOutageBudgetSeconds", "write-outage-budget"),
    _Option("pre_copy", _switch, "PreCopy", "pre-copy"),
    _Option("fence", _choice("server", "network"), "Fence", "fence"),
    _Option("dry_run", _flag, "DryRun"),
    _Option("reason", _text, "Reason"),
    _Option("accept", _risks, "Accept"),
    # Ignoring one of these would start a rotation at a time, or without a person or a step, that its owner demands.
    _Option("", _not_yet, None, "approval"),
    _Option("", _not_yet, None, "window"),
    _Option("", _not_yet, None, "endpoint-parameter"),
    _Option("", _not_yet, None, "hook"),
)

_PLUMBING = (DATABASE, CLUSTER, RECOVER, TASK_TOKEN, STARTED_BY)
INPUT_FIELDS = (*_PLUMBING, *(option.input for option in _OPTIONS if option.input))
TAGS = (ENABLED, MIN_AGE, *(OPT_IN + option.tag for option in _OPTIONS if option.tag))


def requested_database(request: Mapping[str, Any]) -> str:
    """The base name that the input asks for, as RDS stores names.

    ``Orders`` and ``orders`` are one database to RDS, so they must be one to the ledger: it gives one lock per name.

    Raises:
        InputRefused: terminal; a field is unknown, there is no database, or its name is none.
    """
    _refuse_unknown("input field", request, INPUT_FIELDS)
    if len(json.dumps(request)) > INPUT_BYTES:
        raise InputRefused(f"the input has more than {INPUT_BYTES} bytes; shorten its texts")
    if DATABASE in request and CLUSTER in request:
        raise InputRefused(f"the input has {DATABASE} and {CLUSTER}; a rotation is of one database")
    kind, prefix = (CLUSTER, names.CLUSTER) if CLUSTER in request else (DATABASE, "")
    named = request.get(kind)
    if not isinstance(named, str) or not named:
        raise InputRefused(f'the input needs {DATABASE}, as in {{"{DATABASE}": "orders"}}, or {CLUSTER}')
    if len(named) > _IDENTIFIER_LENGTH or not _IDENTIFIER.fullmatch(named):
        raise InputRefused(
            f"{kind}: no database can be named {named[:_IDENTIFIER_LENGTH]!r}; give its identifier, not an ARN or "
            "an endpoint (letters, digits and single hyphens, a letter first)"
        )
    if TASK_TOKEN in request and task_token(request) is None:
        raise InputRefused(f"{TASK_TOKEN}: must be a text; only the fleet gives one")
    return prefix + named.lower()


def request_for(base_name: str) -> dict[str, str]:
    """The input that asks for it.

    >>> request_for("cluster/orders")
    {'DBClusterIdentifier': 'orders'}
    """
    return {CLUSTER if base_name.startswith(names.CLUSTER) else DATABASE: names.identifier_of(base_name)}


def task_token(request: Mapping[str, Any]) -> str | None:
    """By which the fleet is answered, if one waits."""
    token = request.get(TASK_TOKEN)
    return token if isinstance(token, str) and token else None


def recovered_execution(request: Mapping[str, Any]) -> str | None:
    """The execution that is to be recovered, when that is what was asked for.

    Raises:
        InputRefused: terminal; something else was asked for as well, or the value is no ARN.
    """
    if RECOVER not in request:
        return None
    _refuse_unknown("input field", request, (RECOVER,))
    ended = request[RECOVER]
    if not isinstance(ended, str) or not ended.startswith("arn:"):
        raise InputRefused(f"{RECOVER}: must be the ARN of an execution that has ended")
    return ended


def plan_of(base_name: str, request: Mapping[str, Any], tags: Mapping[str, str], defaults: Mapping[str, Any]) -> Plan:
    """Input over tags over defaults.

    Raises:
        InputRefused: terminal; lists every unknown name and every value that means nothing.
    """
    _refuse_unknown("input field", request, INPUT_FIELDS)
    _refuse_unknown("tag", {name: value for name, value in tags.items() if name.startswith(OPT_IN)}, TAGS)
    decided: dict[str, Any] = {}
    problems: list[str] = []
    for option in _OPTIONS:
        # The first option is the strategy.
        default = {**defaults, **_OF_STRATEGY.get(decided.get("strategy", ""), {})}.get(option.field)
        given = [
            (source, value)
            for source, value in (
                (f"the stack's default {option.field}", default),
                (OPT_IN + (option.tag or ""), tags.get(OPT_IN + option.tag) if option.tag else None),
                (option.input, request.get(option.input) if option.input else None),
            )
            if value is not None
        ]
        for source, value in given[-1:]:
            try:
                decided[option.field] = option.parse(value)
            except ValueError as problem:
                problems.append(f"{source}: {problem}")
    problems += _budget_problems(decided)
    problems += _pre_copy_problems(base_name, decided)
    problems += _fence_problems(decided)
    if MIN_AGE in tags:
        try:
            _age(tags[MIN_AGE])
        except ValueError as problem:
            problems.append(f"{MIN_AGE}: {problem}")
    if not problems:
        try:
            return Plan(base_name=base_name, **decided)
        except ValidationError as error:
            problems = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]
    raise InputRefused("; ".join(problems))


def _budget_problems(decided: Mapping[str, Any]) -> list[str]:
    strategy, seconds = decided.get("strategy", "read-replica"), decided.get("write_outage_budget_seconds")
    least, most = _BUDGETS.get(strategy, _BUDGET)
    if seconds is None or least <= seconds <= most:
        return []
    return [f"WriteOutageBudgetSeconds: strategy {strategy} takes {least} to {most} seconds, not {seconds}"]


def _pre_copy_problems(base_name: str, decided: Mapping[str, Any]) -> list[str]:
    """Ignored, it would leave somebody with a longer outage than they have asked for."""
    if not decided.get("pre_copy"):
        return []
    if base_name.startswith(names.CLUSTER):
        return ["PreCopy: a cluster is restored without a copy; remove it"]
    if (strategy := decided.get("strategy", "read-replica")) != "snapshot":
        return [f"PreCopy: strategy {strategy} copies nothing while applications wait; remove it"]
    return []


def _fence_problems(decided: Mapping[str, Any]) -> list[str]:
    """Ignored, it would have the rotation log in where its owner wants nobody to."""
    if decided.get("fence", "server") == "server":
        return []
    if (strategy := decided.get("strategy", "read-replica")) != "snapshot":
        return [f"Fence: network goes with strategy snapshot, not with {strategy}"]
    return []


def min_age_days(tags: Mapping[str, str], defaults: Mapping[str, Any]) -> float:
    """How old a database's key has to be before the fleet rotates it.

    Raises:
        InputRefused: terminal; the tag is not a number of days.
    """
    try:
        return _age(tags.get(MIN_AGE, defaults.get("min_age_days", 30)))
    except ValueError as problem:
        raise InputRefused(f"{MIN_AGE}: {problem}") from problem


def _refuse_unknown(kind: str, given: Mapping[str, Any], known: tuple[str, ...]) -> None:
    unknown = sorted(set(given) - set(known))
    if unknown:
        named = ", ".join(unknown)
        raise InputRefused(f"unknown {kind} {named[:_NAMED_LENGTH]}; known: {', '.join(sorted(known))}")
