"""What has to be seen after a switchover, each as a reason that it is not, or None."""

from collections.abc import Iterator

from lambdas.rotation import databases, switchover
from lambdas.rotation.errors import AccessRefused, AwsRefused
from lambdas.rotation.ports import KEY_OF_INSIGHTS, Instance, Ports
from lambdas.rotation.state import Member, Rotation

NOT_COMPARED = (KEY_OF_INSIGHTS,)
"""RDS copies Performance Insights with the key that it has."""


def deployment(rotation: Rotation, ports: Ports) -> tuple[str | None, tuple[str, ...]]:
    """That of an instance is to go: its end changes nothing there, and RDS deletes none of its members before it.

    Second, what is left over of it: RDS may ask whoever ends a deployment for the right to delete its members (RDS User
    Guide: authorizing access to blue/green deployments), which are production here. Decommission, which may delete the
    former one, asks again.

    That of a cluster stays until Decommission: only as long as there is one does RDS keep the former production from
    being written to (Aurora User Guide: deleting a blue/green deployment). Whoever comes by a stale address would
    commit there, and lose it.
    """
    _, source = rotation.planned()
    if source.is_cluster:
        return None, ()
    live = ports.blue_green.describe(rotation.deployed().name)
    if live is None:
        return None, ()
    try:
        return switchover.ended(live, ports), ()
    except (AccessRefused, AwsRefused) as refused:
        command = f"aws rds delete-blue-green-deployment --blue-green-deployment-identifier {live.identifier}"
        return None, (f"{command}  # without --delete-target; Decommission asks again. {refused}",)


def names_are_exchanged(one: Member, source: Instance | None, target: Instance | None) -> Iterator[str | None]:
    assert target is not None
    if target.database.arn != one.source_arn:
        yield f"the copy of {one.source_identifier} is called {target.database.identifier}"
    if source is not None and source.database.arn == one.source_arn:
        yield f"{one.source_identifier} is the name of its source, too"


def member(
    rotation: Rotation, one: Member, source: Instance | None, target: Instance | None, ports: Ports
) -> Iterator[str | None]:
    assert target is not None
    identifier = target.database.identifier
    if target.status != "available":
        yield f"{identifier} is {target.status}"
    if one == rotation.deployed().primary and target.replica_of is not None:
        yield f"{identifier} is a replica of {target.replica_of}"
    if target.database.kms_key_arn != rotation.keyed().arn:
        yield f"{identifier} is encrypted under {target.database.kms_key_arn}"
    yield _name(source, target, ports)
    if source is not None:
        differences = set(databases.settings_differences(source, target, ports)) - set(NOT_COMPARED)
        yield f"settings differ: {', '.join(sorted(differences))}" if differences else None


def _name(source: Instance | None, target: Instance, ports: Ports) -> str | None:
    """RDS's own names, as the resolver of the functions is told them."""
    address = target.database.address
    led_to = ports.names.addresses(address)
    if not led_to:
        return f"{address} does not lead anywhere yet"
    if source is not None and led_to == ports.names.addresses(source.database.address):
        return f"{address} leads to {source.database.identifier}"
    return None
