"""What RDS makes no blue/green deployment of, or what one would break (RDS User Guide: limitations)."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial

from lambdas.preflight.checks import replicas
from lambdas.preflight.checks.instance import room_for_tags
from lambdas.rotation import engines
from lambdas.rotation.engines.replication_filters import OF_A_BINARY_LOG, OF_A_REPLICA, leaves_out
from lambdas.rotation.errors import DatabaseUnreachable, LoginRefused
from lambdas.rotation.names import TAGS_OF_A_MEMBER
from lambdas.rotation.ports import Instance, Ports
from lambdas.rotation.state import Finding, Rotation

ENGINES = ("postgres", "mariadb", "mysql")
NOT_COPIED = (
    "LogicalSlots", "UnloggedTables", "MemoryTables", "EventsEnabled", "StatementReplication", "ReplicationFilters",
    "ReplicationErrorsSkipped", "TriggersRunTwice", "Subscriptions", "TablesNotRecovered",
)  # fmt: skip
"""Of what an engine finds inside; the rest of that is about a fence of our own."""


@dataclass(frozen=True)
class Setting:
    """A parameter that keeps green from becoming what blue is: asked for without a login.

    Attributes:
        hinders: whether a value, in lower case, is in the way.
        unset: by the engine's version, what the server does where the group says nothing.
    """

    parameter: str
    hinders: Callable[[str], bool]
    name: str
    why: str
    advice: str
    risk: str | None = None
    unset: Callable[[str], str | None] = lambda version: None


def one_of(*values: str) -> Callable[[str], bool]:
    return lambda value: value in values


def events_of_mysql(version: str) -> str:
    """``event_scheduler`` where nobody has set it (MySQL Reference Manual, WL#9644); a version not known here is new.

    >>> [events_of_mysql(version) for version in ("5.7.44", "8.0.39", "8.4.6", "8.0.mysql_aurora.3.04.0")]
    ['OFF', 'ON', 'ON', 'ON']
    """
    return "OFF" if version.startswith("5.") else "ON"


# RDS User Guide: green has to have no event scheduler, and replicates what blue's binary log says.
_EVENTS = Setting(
    "event_scheduler",
    one_of("1", "on"),
    "EventsEnabled",
    "green has the same group, and would run every event a second time",
    "set it to OFF in a parameter group of its own until the rotation is over",
)
_STATEMENTS = Setting(
    "binlog_format",
    one_of("statement"),
    "StatementReplication",
    "a statement may have another effect on green than it had on blue",
    "set it to MIXED or ROW",
)


def _filter(parameter: str) -> Setting:
    """Green has blue's group, so it leaves out as a replica what that names, and has it not after the switchover."""
    return Setting(
        parameter,
        partial(leaves_out, parameter),
        "ReplicationFilters",
        "green would not have what it leaves out",
        "remove the filter from the parameter group",
    )


_FILTERS = tuple(map(_filter, OF_A_REPLICA))
_OF_MYSQL = (replace(_EVENTS, unset=events_of_mysql), _STATEMENTS, *_FILTERS)
IN_THE_WAY: Mapping[str, tuple[Setting, ...]] = {
    "postgres": (
        Setting(
            "rds.logical_replication",
            one_of("1", "on"),
            "LogicalSlots",
            "what replicates logically from or to the database breaks at the switchover, and RDS may refuse it",
            'remove slots, publications and subscriptions, then accept it: "Accept": ["logical-slots"]',
            "logical-slots",
        ),
    ),
    "mariadb": (_EVENTS, _STATEMENTS, *_FILTERS),  # whose events are off unless somebody wants them
    "mysql": _OF_MYSQL,
    "aurora-mysql": (*_OF_MYSQL, *map(_filter, OF_A_BINARY_LOG)),
}
UNSEEN: Mapping[str, Finding] = {
    "postgres": Finding(
        name="UnloggedUnseen",
        message="without a login nobody has looked for unlogged tables, whose content does not get to green",
        advice="look for pg_class.relpersistence = 'u', or give a login (key-rotation:login-secret)",
    ),
    "mariadb": Finding(
        name="MemoryUnseen",
        message="without a login nobody has looked for MEMORY tables, whose content does not get to green, nor for "
        "MyISAM and the like, of which green may lack rows",
        advice="look for another information_schema.tables.engine than InnoDB, or give a login "
        "(key-rotation:login-secret)",
    ),
    "mysql": Finding(
        name="MemoryUnseen",
        message="a rotation does not log in to MySQL: nobody has looked for MEMORY tables, whose content does not get "
        "to green, nor for MyISAM and the like, of which green may lack rows",
        advice="look for another information_schema.tables.engine than InnoDB",
    ),
}


def shape(rotation: Rotation, source: Instance, ports: Ports) -> Iterator[Finding]:
    """Its replicas are copied along; not every kind of them."""
    for replica, found in replicas.each(rotation, source, ports):
        yield from found
        if replica is not None:
            yield from room_for_tags(replica, TAGS_OF_A_MEMBER)
    yield from room_in_a_deployment(source, ports)


def room_in_a_deployment(source: Instance, ports: Ports) -> Iterator[Finding]:
    """It is in no other one, and takes the tags of a member."""
    identifier = source.database.identifier
    yield from room_for_tags(source, TAGS_OF_A_MEMBER)
    for deployment in ports.blue_green.deployments_of(source.database.arn):
        yield Finding(
            name="DeploymentExists",
            message=f"{identifier} is in the blue/green deployment {deployment} already",
            advice="finish or delete it; RDS takes a database into one at a time",
        )


def engine(source: Instance) -> Iterator[Finding]:
    name = source.database.engine
    if name not in ENGINES:
        yield Finding(
            name="EngineNotSupported",
            message=f"strategy blue-green does not support {name} yet",
            advice="PostgreSQL, MariaDB and MySQL are supported",
        )


def replication(rotation: Rotation, source: Instance, ports: Ports) -> Iterator[Finding]:
    """Slots, subscriptions and events cannot be seen without a login; whether there can be any is a parameter."""
    for group in source.raw.get("DBParameterGroups") or ():
        name = group["DBParameterGroupName"]
        yield from in_the_way(rotation, name, ports.rds.parameters_of(name))


def in_the_way(rotation: Rotation, group: str, parameters: Mapping[str, str]) -> Iterator[Finding]:
    """``parameters``: those to which the group gives a value."""
    plan, source = rotation.planned()
    for setting in IN_THE_WAY.get(source.engine, ()):
        if setting.risk in plan.accept:
            continue
        said = parameters.get(setting.parameter)
        value = said or setting.unset(source.engine_version)
        if value is not None and setting.hinders(value.lower()):
            shown = said or f"not set, which means {value},"
            yield Finding(
                name=setting.name,
                message=f"{setting.parameter} is {shown} in {group}: {setting.why}",
                advice=setting.advice,
            )


def inside(rotation: Rotation, ports: Ports) -> Iterator[Finding]:
    """Only where the rotation has a login, which this strategy does not need."""
    plan, source = rotation.planned()
    if not _can_look_inside(rotation):
        return
    try:
        yield from (one for one in ports.engine(source, plan).limitations(plan.accept) if one.name in NOT_COPIED)
    except (LoginRefused, DatabaseUnreachable) as unseen:
        yield Finding(
            name="InsideUnseen",
            message=f"{plan.login_secret} is given, and nothing could be seen with it: {unseen}",
            advice="correct it, or remove key-rotation:login-secret: this strategy needs no login",
        )


def _can_look_inside(rotation: Rotation) -> bool:
    plan, source = rotation.planned()
    return plan.login_secret is not None and source.engine in engines.ENGINES


def warnings(rotation: Rotation, source: Instance) -> Iterator[Finding]:
    if not _can_look_inside(rotation):
        yield UNSEEN[source.database.engine]
    yield Finding(
        name="SwitchoverByRds",
        message=f"RDS itself stops the writes on {source.database.identifier} and exchanges the names; the rotation "
        "has no proof of its own that green has everything",
        advice="choose read-replica where that proof is wanted",
    )
    if source.raw.get("PerformanceInsightsKMSKeyId") not in (None, source.database.kms_key_arn):
        return
    if source.raw.get("PerformanceInsightsEnabled"):
        yield Finding(
            name="InsightsKeepKey",
            message=f"Performance Insights of {source.database.identifier} is under its storage's key, and RDS may "
            "copy it so: then the old key stays in use",
            advice="switch it off and on again after the rotation",
        )
