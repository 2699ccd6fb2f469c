"""Whose a source is. The ledger's lock keeps one stack from rotating a database twice; this one keeps two stacks."""

from lambdas.rotation.errors import NameTaken
from lambdas.rotation.ports import Engine, Ports
from lambdas.rotation.state import Rotation


def claim_source(rotation: Rotation, engine: Engine, ports: Ports) -> None:
    """Make the control database, and have it say that this rotation is at work there. Repeatable; before any fence.

    A rotation that this ledger knows is no obstacle: the lock says that it is over. Nor is a claim on another server,
    which came with a snapshot or by replication. A verdict is none either way: of what was decided to be undone
    applications may still have to be led back, and the source be opened.

    Raises:
        NameTaken: terminal; a rotation of another stack is at work there, or a database of that name is somebody
            else's. Nothing was closed.
    """
    plan, source = rotation.planned()
    own = rotation.rotation_id
    engine.ensure_control_database()
    holder = engine.claim(own)
    if holder != own and ports.ledger.entry(plan.base_name, holder) is not None:
        holder = engine.claim(own, instead_of=holder)
    if holder != own:
        raise NameTaken(
            f"rotation {holder}, which the ledger of this stack does not know, is at work on {source.identifier}: let "
            "one stack rotate it. Where that one is gone, empty the table claim of its database rds_key_rotation"
        )
