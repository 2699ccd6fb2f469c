"""Read replicas of the source: nobody's are left behind without a word."""

from collections.abc import Callable, Iterator, Mapping
from functools import cache

from lambdas.preflight.checks import instance
from lambdas.rotation.engines.replication_filters import OF_A_REPLICA, leaves_out
from lambdas.rotation.errors import DatabaseUnreachable, LoginRefused
from lambdas.rotation.names import RELEASED_TAG, ROTATION_ID_TAG, TAGS_OF_A_DATABASE
from lambdas.rotation.ports import Instance, Ports
from lambdas.rotation.state import Finding, Rotation

HERE, CLUSTERS = "ReadReplicaDBInstanceIdentifiers", "ReadReplicaDBClusterIdentifiers"
AT_MOST = 15
"""Replicas that RDS lets one primary have, where the account's quota is no larger (RDS User Guide: quotas)."""
_WAITS_FOR_QUERIES = ("max_standby_streaming_delay", "max_standby_archive_delay")
_DECODES_FROM = 16
"""Version of PostgreSQL from which on a replica may have logical replication slots."""

Groups = Mapping[str, Mapping[str, str]]
"""A replica's parameter groups, and what each of them says."""


def each(rotation: Rotation, source: Instance, ports: Ports) -> Iterator[tuple[Instance | None, list[Finding]]]:
    """Every replica with what speaks against it, whichever way it gets a successor; None: it cannot be looked at."""
    identifier = source.database.identifier
    clusters = source.raw.get(CLUSTERS) or ()
    parameters_of = cache(ports.rds.parameters_of)
    for name in (*(source.raw.get(HERE) or ()), *clusters):
        if ":" in name or name in clusters:
            elsewhere = Finding(
                name="ReplicaElsewhere",
                message=f"{name}, a replica of {identifier}, is a cluster or in another Region, and would stay behind",
                advice="delete it and make it anew after the rotation",
            )
            yield None, [elsewhere]
        else:
            replica = ports.rds.describe_instance(name)
            found = list(_unfit(name, identifier, replica))
            if replica is not None:
                found += _lost_with(rotation, replica, _groups(replica, parameters_of), ports)
            yield replica, found


def _groups(replica: Instance, parameters_of: Callable[[str], Mapping[str, str]]) -> Groups:
    names = [group["DBParameterGroupName"] for group in replica.raw.get("DBParameterGroups") or ()]
    return {name: parameters_of(name) for name in names}


def _unfit(name: str, source: str, replica: Instance | None) -> Iterator[Finding]:
    if replica is None or replica.status != "available":
        yield Finding(
            name="NotAvailable",
            message=f"{name}, a replica of {source}, is {replica.status if replica else 'gone'}",
            advice="wait until it is available, then start again",
        )
    elif replica.raw.get(HERE) or replica.raw.get(CLUSTERS):
        yield Finding(
            name="CascadingReplicas",
            message=f"{name}, a replica of {source}, has replicas of its own, which would stay behind",
            advice="let them follow the source itself, or delete them",
        )


def _lost_with(rotation: Rotation, replica: Instance, groups: Groups, ports: Ports) -> Iterator[Finding]:
    """What only the old one has: its successor is made of the target, or RDS's of green."""
    plan, _ = rotation.planned()
    identifier, engine = replica.database.identifier, replica.database.engine
    if (other := replica.tags.get(ROTATION_ID_TAG)) is not None and RELEASED_TAG not in replica.tags:
        yield Finding(
            name="BelongsToRotation",
            message=f"{identifier}, a replica, was made by rotation {other}, which has never released it: a target "
            "left behind",
            advice=f"where no rotation {other} is at work, and nobody reads it, delete it",
        )
    for group, said in groups.items():
        if engine in ("mariadb", "mysql") and said.get("read_only", "").lower() in ("0", "off"):
            yield Finding(
                name="WritableReplica",
                message=f"read_only is {said['read_only']} in {group}, so {identifier}, a replica, may have rows, "
                "tables and indexes of its own, which its successor would not have",
                advice="move what is its own elsewhere, and set read_only back to {TrueIfReplica}; or delete it, and "
                "make it anew after the rotation",
            )
    if "logical-slots" not in plan.accept:
        yield from _logical_slots(rotation, replica, groups, ports)


def _logical_slots(rotation: Rotation, replica: Instance, groups: Groups, ports: Ports) -> Iterator[Finding]:
    """Its parameters say whether there may be one; whether there is, only the replica itself."""
    plan, _ = rotation.planned()
    one = replica.database
    decoding = [name for name in groups if groups[name].get("rds.logical_replication", "").lower() in ("1", "on")]
    if one.engine != "postgres" or int(one.engine_version.partition(".")[0]) < _DECODES_FROM or not decoding:
        return
    unseen = f"strategy {plan.strategy} does not log in to look"
    if plan.strategy != "blue-green" and plan.login_secret is not None:
        try:
            for name, database in ports.engine(one, plan).logical_slots().items():
                yield Finding(
                    name="LogicalSlots",
                    message=f"{one.identifier}, a replica, has the logical replication slot {name} of database "
                    f"{database}, which its successor would not have",
                    advice='recreate it there, and accept it: "Accept": ["logical-slots"]',
                )
            return
        except (DatabaseUnreachable, LoginRefused) as refused:
            unseen = f"nobody could look: {refused}"
    yield Finding(
        name="LogicalSlots",
        message=f"rds.logical_replication is on in {', '.join(decoding)}, so {one.identifier}, a replica, may have "
        f"logical replication slots, which its successor would not have; {unseen}",
        advice='look for them, recreate them on its successor, and accept it: "Accept": ["logical-slots"]; or give it '
        "a parameter group without",
    )


def rebuilt(rotation: Rotation, source: Instance, ports: Ports) -> Iterator[Finding]:
    """Whether each can be made anew of the target, and its readers may wait for that.

    After the commit point nothing may be refused any more: what would be then is refused here.
    """
    plan, _ = rotation.planned()
    identifier = source.database.identifier
    listed = [*(source.raw.get(HERE) or ()), *(source.raw.get(CLUSTERS) or ())]
    if not listed:
        return
    if plan.fence == "network":
        yield Finding(
            name="HasReplicas",
            message=f"{identifier} has the replicas {', '.join(listed)}, which a network fence leaves open: they would "
            "go on showing what is no longer so",
            advice="delete them and make them anew from the target",
        )
        return
    if "replicas-away" not in plan.accept:
        yield Finding(
            name="ReplicasAway",
            message=f"from the fence on nobody can log in to {', '.join(listed)}, until each has a successor under its "
            "name, which takes RDS minutes to hours; sessions that are open go on reading what no longer changes",
            advice='accept it: "Accept": ["replicas-away"]; or rotate by strategy blue-green, with which RDS lets '
            "replicas serve all the while",
        )
    if plan.strategy == "read-replica":
        yield from _room_for_the_target(source, ports)
    yield from instance.backups(source)  # which the target has as many of, and RDS replicates nothing without
    parameters_of = cache(ports.rds.parameters_of)
    live = set()
    for replica, found in each(rotation, source, ports):
        yield from found
        if replica is not None:
            live.add(replica.database.resource_id)
            yield from _unlike(rotation, replica, source)
            yield from _out_of_reach(replica, _groups(replica, parameters_of))
    if live != {replica.resource_id for replica in plan.replicas}:
        yield Finding(
            name="HasReplicas",
            message=f"the replicas of {identifier} are others than at the start",
            advice="start again",
        )


def _room_for_the_target(source: Instance, ports: Ports) -> Iterator[Finding]:
    """The target is a replica of the source, too, until it is promoted."""
    used = len(source.raw.get(HERE) or ())
    _, raised = ports.rds.account_quotas().get("ReadReplicasPerMaster", (0, AT_MOST))
    maximum = max(AT_MOST, raised)
    if used >= maximum:
        yield Finding(
            name="QuotaExhausted",
            message=f"replicas of {source.database.identifier}: {used} of {maximum} used, 1 more needed",
            advice="delete one, and make it anew after the rotation; or raise the quota in Service Quotas; or rotate "
            "by another strategy",
        )


def _out_of_reach(replica: Instance, groups: Groups) -> Iterator[Finding]:
    """The fence is in the data: what does not apply all of that at once stays open, and shows what is no longer so."""
    identifier = replica.database.identifier
    infos = replica.raw.get("StatusInfos") or ()
    states = [str(one.get("Status")) for one in infos if one.get("StatusType") == "read replication"]
    follows = replica.replication_normal and all(state == "replicating" for state in states)
    if replica.status == "available" and not follows:
        yield Finding(
            name="ReplicaNotFollowing",
            message=f"{identifier}, a replica, does not follow its source ({', '.join(states) or 'no state'}): the "
            "fence would not get there, and people could go on reading what is no longer so",
            advice="let it replicate again, or delete it, and make it anew after the rotation",
        )
    for group, said in groups.items():
        if apart := {name: said[name] for name in said if _is_apart(replica.database.engine, name, said[name])}:
            shown = ", ".join(f"{name} is {value}" for name, value in sorted(apart.items()))
            yield Finding(
                name="ReplicaApart",
                message=f"{shown} in {group}: the fence would get to {identifier}, a replica, late or not at all, and "
                "until then people could go on reading what is no longer so",
                advice="take that out of its parameter group; or delete it, and make it anew after the rotation",
            )


def _is_apart(engine: str, parameter: str, value: str) -> bool:
    """Whether a replica leaves out what it receives, or may keep it waiting without bound.

    >>> [_is_apart("postgres", "recovery_min_apply_delay", value) for value in ("", "0", "3600000")]
    [False, False, True]
    >>> [_is_apart("postgres", "max_standby_streaming_delay", value) for value in ("30000", "-1")]
    [False, True]
    >>> [_is_apart("mariadb", "replicate-do-db", value) for value in ("", "shop")]
    [False, True]
    """
    if engine == "postgres":
        if parameter in _WAITS_FOR_QUERIES:
            return value == "-1"
        return parameter == "recovery_min_apply_delay" and value not in ("", "0")
    return parameter in OF_A_REPLICA and leaves_out(parameter, value)


def _unlike(rotation: Rotation, replica: Instance, source: Instance) -> Iterator[Finding]:
    """What its successor would not have."""
    identifier = replica.database.identifier
    if replica.database.engine_version != source.database.engine_version:
        yield Finding(
            name="ReplicaVersion",
            message=f"{identifier} has version {replica.database.engine_version}; its successor would have "
            f"{source.database.engine_version}, as the target",
            advice="upgrade the source to it first, or make the replica anew after the rotation",
        )
    yield from _stored_unlike(replica, source)
    there, here = (_subnet_group(one) for one in (replica, source))
    if there != here:
        yield Finding(
            name="ReplicaElsewhere",
            message=f"{identifier}, a replica, is in subnet group {there}, {source.database.identifier} in {here}; RDS "
            "need not place its successor in another one than the target's",
            advice="delete it, and make it anew in that of the source, or after the rotation",
        )
    if found := replica.backup_replications:
        yield Finding(
            name="BackupsReplicated",
            message=f"the automated backups of {identifier}, a replica, are replicated to {', '.join(found)}; that is "
            "not carried over",
            advice="stop the replication, and start it anew for its successor",
        )
    yield from instance.iac_owned(rotation, replica, "its successor")
    yield from instance.activity_stream(replica)
    yield from instance.carriable(replica, TAGS_OF_A_DATABASE)


def _subnet_group(one: Instance) -> str | None:
    return (one.raw.get("DBSubnetGroup") or {}).get("DBSubnetGroupName")


def _stored_unlike(replica: Instance, source: Instance) -> Iterator[Finding]:
    """RDS gives a replica the size of what it is made of; the rest of what is asked for has to fit that."""
    identifier = replica.database.identifier
    there, here = (_storage(one) for one in (replica, source))
    limit = replica.raw.get("MaxAllocatedStorage")
    if there != here:
        message = f"{identifier}, a replica, has {there} of storage, {source.database.identifier} {here}"
    elif instance.is_too_near(limit, int(source.raw.get("AllocatedStorage") or 0)):
        message = f"the storage of {identifier}, a replica, may grow to {limit} GiB, less than 10 % above {here}"
    else:
        return
    yield Finding(
        name="ReplicaStorage",
        message=f"{message}; RDS gives its successor the size of the target's",
        advice="give both the same size and type, and a limit 10 % above that or none; or delete the replica, and make "
        "it anew after the rotation",
    )


def _storage(one: Instance) -> str:
    return f"{int(one.raw.get('AllocatedStorage') or 0)} GiB {one.raw.get('StorageType') or ''}".rstrip()
