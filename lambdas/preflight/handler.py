"""Preflight: everything that can be known before anything is created."""

from collections.abc import Callable, Iterable, Mapping, Sequence

from lambdas.preflight.checks import (
    backups,
    blue_green,
    catch_up,
    cluster,
    connectivity,
    instance,
    key,
    login,
    managed_rotation,
    network,
    replicas,
    snapshot,
)
from lambdas.rotation import databases
from lambdas.rotation.errors import MESSAGE_BYTES, AccessRefused, AwsRefused, PreflightRefused
from lambdas.rotation.ports import Instance, Ports
from lambdas.rotation.state import Finding, NotTaken, Preflight, Rotation, Strategy
from lambdas.rotation.state_size import as_findings
from lambdas.rotation.step import logger, step

IN_THIS_ORDER: tuple[Strategy, ...] = ("read-replica", "blue-green")
"""Of ``auto``: first what proves by itself that nothing is lost, then what leaves the proof to RDS.

Not a snapshot: hours without writes have to be asked for by name.
"""

KEY_COST_USD = 1.0
"""Per month and customer managed key; the target's instance hours come on top during sync and grace period."""


def preflight(rotation: Rotation, ports: Ports) -> Rotation:
    """Read-only. Collect every reason to refuse and every warning; with ``auto``, choose the strategy.

    ``auto`` takes the first strategy that nothing speaks against, and keeps the next such one to fall back to.

    Raises:
        PreflightRefused: terminal; lists the reasons, of every kind at least one, a line each, with what to do.
            Nothing was created.
    """
    plan, database = rotation.planned()
    source = databases.by_arn(database.arn, ports)
    if source is None:
        raise PreflightRefused(f"UnknownDatabase: {database.identifier} is gone — start again with an existing one")
    candidates = IN_THIS_ORDER if plan.strategy == "auto" else (plan.strategy,)
    against = {strategy: _reasons(_by(strategy, rotation), source, ports) for strategy in candidates}
    possible = [strategy for strategy in candidates if not against[strategy]]
    if not possible:
        logger.info("rotation refused", reasons={s: [one.name for one in found] for s, found in against.items()})
        told = {strategy: as_findings(found, MESSAGE_BYTES // 2) for strategy, found in against.items()}
        raise PreflightRefused("\n".join(_told(told)))
    if plan.strategy == "auto":
        rotation = rotation.having(
            plan=plan.having(
                strategy=possible[0],
                fallback=possible[1] if possible[1:] else None,
                not_taken=tuple(
                    NotTaken(strategy=strategy, reasons=tuple(map(_line, as_findings(found))))
                    for strategy, found in against.items()
                    if found
                ),
            )
        )
        logger.info("strategy chosen", strategy=possible[0], fallback=possible[1:])
    seen = (
        *(rotation.first_look.warnings if rotation.first_look else ()),
        *(finding for warning in _warnings(rotation, source, ports) for finding in _answer(warning)),
    )
    return rotation.having(
        preflight=Preflight(warnings=as_findings(seen), monthly_cost_usd=KEY_COST_USD, checked_at=ports.clock.now())
    )


def _by(strategy: Strategy, rotation: Rotation) -> Rotation:
    plan, _ = rotation.planned()
    return rotation.having(plan=plan.having(strategy=strategy))


def _reasons(rotation: Rotation, source: Instance, ports: Ports) -> list[Finding]:
    return [finding for check in _checks(rotation, source, ports) for finding in _answer(check)]


def _told(against: Mapping[Strategy, Sequence[Finding]]) -> list[str]:
    """A line for each reason; where there was a choice, with the strategies that it speaks against."""
    told: dict[str, list[Strategy]] = {}
    for strategy, reasons in against.items():
        for reason in reasons:
            told.setdefault(_line(reason), []).append(strategy)
    if len(against) == 1:
        return list(told)
    return [f"{line} (against {', '.join(strategies)})" for line, strategies in told.items()]


def _line(reason: Finding) -> str:
    return f"{reason.name}: {reason.message} — {reason.advice}"


Check = Callable[[], Iterable[Finding]]


def _checks(rotation: Rotation, source: Instance, ports: Ports) -> tuple[Check, ...]:
    plan, database = rotation.planned()
    by_login: tuple[Check, ...] = (
        lambda: instance.reachable(source, ports),
        lambda: connectivity.connectivity(rotation, ports),
        lambda: login.login(rotation, ports),
    )
    by_network: tuple[Check, ...] = (
        lambda: instance.reachable(source, ports),
        lambda: connectivity.connectivity(rotation, ports),
        lambda: network.fence(rotation, source, ports),
    )
    by_fence = by_network if plan.fence == "network" else by_login
    if database.is_cluster:
        of_clusters: Mapping[str, tuple[Check, ...]] = {
            "blue-green": (
                lambda: blue_green.room_in_a_deployment(source, ports),
                lambda: cluster.replication(rotation, source, ports),
                lambda: cluster.backtracked(source),
                lambda: managed_rotation.switched_off(rotation, ports),
                lambda: instance.backups(source),
            ),
            "snapshot": (
                lambda: snapshot.downtime(rotation, source),
                lambda: snapshot.orderable(source, ports),
                lambda: cluster.restorable(rotation, source),
                lambda: cluster.version(rotation, source),
                *by_fence,
            ),
        }
        return (
            lambda: cluster.strategy(rotation),
            lambda: cluster.condition(rotation, source),
            lambda: cluster.instances(rotation, source, ports),
            *of_clusters.get(plan.strategy, ()),
            lambda: instance.surroundings(rotation, source, ports),
            lambda: instance.maintenance(source, ports),
            lambda: cluster.quotas(source, ports),
            lambda: key.old_key(source, ports),
        )
    whichever: tuple[Check, ...] = (
        lambda: instance.surroundings(rotation, source, ports),
        lambda: instance.maintenance(source, ports),
        lambda: instance.quotas(rotation, source, ports),
        lambda: key.old_key(source, ports),
    )
    of_instances: tuple[Check, ...] = (
        lambda: replicas.rebuilt(rotation, source, ports),
        lambda: instance.condition(rotation, source),
        lambda: instance.storage_limit(source),
        lambda: backups.replicated(rotation, source, ports),
        *whichever,
        lambda: () if plan.fence == "network" else instance.engine(rotation, source),
        *by_fence,
    )
    by_strategy: Mapping[str, tuple[Check, ...]] = {
        "read-replica": (
            lambda: instance.encrypted(source),
            lambda: instance.backups(source),
            *of_instances,
        ),
        "snapshot": (
            lambda: snapshot.downtime(rotation, source),
            lambda: snapshot.orderable(source, ports),
            lambda: snapshot.master_password(rotation, source, ports),
            *of_instances,
        ),
        "catch-up": (
            lambda: catch_up.engine(source),
            lambda: snapshot.orderable(source, ports),
            lambda: snapshot.master_password(rotation, source, ports),
            *of_instances,
        ),
        "blue-green": (
            lambda: blue_green.shape(rotation, source, ports),
            lambda: instance.condition(rotation, source),
            lambda: backups.replicated(rotation, source, ports),
            lambda: instance.backups(source),
            lambda: blue_green.engine(source),
            *whichever,
            lambda: blue_green.replication(rotation, source, ports),
            lambda: blue_green.inside(rotation, ports),
        ),
    }
    return by_strategy[plan.strategy]


def _warnings(rotation: Rotation, source: Instance, ports: Ports) -> tuple[Check, ...]:
    plan, database = rotation.planned()
    if database.is_cluster:
        if plan.strategy == "blue-green":
            return (lambda: cluster.warnings_of_blue_green(source, ports), lambda: key.aliases(source, ports))
        return (
            lambda: instance.warnings(source, ports),
            lambda: cluster.warnings_of_snapshot(rotation, source, ports),
            lambda: key.aliases(source, ports),
        )
    of_the_strategy: Mapping[str, Check] = {
        "read-replica": lambda: login.warnings(rotation, ports),
        "snapshot": lambda: snapshot.warnings(rotation, source, ports),
        "catch-up": lambda: (*snapshot.warnings(rotation, source, ports), *catch_up.warnings(source)),
        "blue-green": lambda: blue_green.warnings(rotation, source),
    }
    return (
        lambda: instance.warnings(source, ports),
        of_the_strategy[plan.strategy],
        lambda: key.aliases(source, ports),
    )


def _answer(check: Check) -> tuple[Finding, ...]:
    """A question that AWS refuses to answer is a reason too: what it would have said is not known."""
    found: list[Finding] = []
    try:
        found.extend(check())
    except (AccessRefused, AwsRefused) as refused:
        found.append(
            Finding(
                name="QuestionUnanswered",
                message=str(refused),
                advice="compare the functions' roles with the permission matrix (infra/tasks.py)",
            )
        )
    return tuple(found)


handler = step(preflight)
