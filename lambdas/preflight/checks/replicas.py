"""Read replicas of the source: nobody's are left behind without a word."""

from collections.abc import Iterator

from lambdas.preflight.checks import instance
from lambdas.rotation.names import TAGS_OF_A_DATABASE
from lambdas.rotation.ports import Instance, Ports
from lambdas.rotation.state import Finding, Rotation

HERE, CLUSTERS = "ReadReplicaDBInstanceIdentifiers", "ReadReplicaDBClusterIdentifiers"


def each(source: Instance, ports: Ports) -> Iterator[tuple[Instance | None, list[Finding]]]:
    """Every replica with what speaks against it, whichever way it gets a successor; None: it cannot be looked at."""
    identifier = source.database.identifier
    clusters = source.raw.get(CLUSTERS) or ()
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
            yield replica, list(_unfit(name, identifier, replica))


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
    yield from instance.backups(source)  # which the target has as many of, and RDS replicates nothing without
    live = set()
    for replica, found in each(source, ports):
        yield from found
        if replica is not None:
            live.add(replica.database.resource_id)
            yield from _unlike(rotation, replica, source)
    if live != {replica.resource_id for replica in plan.replicas}:
        yield Finding(
            name="HasReplicas",
            message=f"the replicas of {identifier} are others than at the start",
            advice="start again",
        )


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
