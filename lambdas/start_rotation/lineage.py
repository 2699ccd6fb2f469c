"""Which database a name means, over all rotations that were before."""

import json

from lambdas.rotation import databases
from lambdas.rotation.errors import InputRefused, UnknownDatabase
from lambdas.rotation.names import BASE_NAME_TAG
from lambdas.rotation.policy import request_for
from lambdas.rotation.ports import Instance, Ports


def resolve(name: str, ports: Ports) -> tuple[str, Instance]:
    """The base name and the instance that it leads to now.

    A base name is looked up in the ledger first: after a rotation ``orders`` is the target, though an instance of that
    very name may still exist and be in its grace period. An instance's own identifier is accepted too.

    Raises:
        UnknownDatabase: terminal; nothing of that name exists, nor does the ledger lead from it to anything.
        InputRefused: terminal; the name is that of a database that a rotation has left behind, or of two databases.
    """
    successor, instance = _successor(name, ports), databases.named(name, ports)
    if successor is not None:
        resource_id = successor.database.resource_id
        if instance is not None and instance.database.resource_id != resource_id and not _left(name, instance, ports):
            raise InputRefused(
                f"{name} is {successor.database.identifier} since its last rotation, and the name of another database "
                "that was made since; rename that one, or start the first one by its own identifier"
            )
        return name, successor
    if instance is None:
        raise UnknownDatabase(f"no database named {name} exists in this account and Region")
    base_name = instance.tags.get(BASE_NAME_TAG) or name
    resource_id = instance.database.resource_id
    followed_by = ports.ledger.successor(base_name)
    if followed_by == resource_id:
        return base_name, instance
    # A release without a lineage is a cutover whose Verify never ran: the lock leads to that rotation.
    if followed_by is not None and _left(base_name, instance, ports):
        raise InputRefused(f"{name} was left behind by a rotation; start with {json.dumps(request_for(base_name))}")
    return name, instance  # the tag came along with a snapshot's tags: this is a database of its own


def _left(base_name: str, instance: Instance, ports: Ports) -> bool:
    """Whether a rotation of this name has left it behind."""
    resource_id = instance.database.resource_id
    return any(
        entry.rotation.release and entry.rotation.source and entry.rotation.source.resource_id == resource_id
        for entry in ports.ledger.entries(base_name)
    )


def _successor(base_name: str, ports: Ports) -> Instance | None:
    resource_id = ports.ledger.successor(base_name)
    return None if resource_id is None else databases.by_resource_id(resource_id, ports)
