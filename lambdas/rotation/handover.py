"""What passes from the source to the target after every cutover: the base name's lead, and the owner's opt-in."""

from lambdas.rotation import names
from lambdas.rotation.errors import VerificationFailed
from lambdas.rotation.ports import Instance, Ports
from lambdas.rotation.state import Rotation


def advance(rotation: Rotation, ports: Ports) -> None:
    """Let the base name lead to the target; a name that a later rotation has led further is left alone."""
    plan, source = rotation.planned()
    known = (None, source.resource_id, rotation.synced_target().resource_id)
    if ports.ledger.successor(plan.base_name) not in known:
        raise VerificationFailed(f"{plan.base_name} leads to a database that this rotation does not know")
    ports.ledger.advance(rotation)


def move_opt_in(rotation: Rotation, source: Instance | None, target: Instance, ports: Ports) -> None:
    """To the target first: a fleet that looks in between sees the database twice rather than not at all."""
    if target.tags.get(names.RELEASED_TAG) != rotation.rotation_id:
        ports.rds.set_tags(target.database.arn, {names.RELEASED_TAG: rotation.rotation_id})
    if source is None:
        return
    opt_in = names.opt_in_tags(source.tags)
    missing = {name: value for name, value in opt_in.items() if target.tags.get(name) != value}
    if missing:
        ports.rds.set_tags(target.database.arn, missing)
    if source.tags.get(names.DECOMMISSION_TAG) != rotation.rotation_id:
        ports.rds.set_tags(source.database.arn, {names.DECOMMISSION_TAG: rotation.rotation_id})
    if opt_in:
        ports.rds.remove_tags(source.database.arn, sorted(opt_in))
