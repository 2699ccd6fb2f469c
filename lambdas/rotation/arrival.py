"""Whether everything before the fence has come to the target, whichever way it comes there."""

from lambdas.rotation.ports import Ports
from lambdas.rotation.state import Position, Rotation


def has_arrived(rotation: Rotation, ports: Ports) -> bool:
    """By positions, never by lag. A copy that catches up has positions of its own, so the source is asked."""
    plan, _ = rotation.planned()
    source, target, _, position = rotation.fenced()
    if (capture := rotation.capture) is not None:
        return ports.catching_up(source, plan).has_delivered(capture.name, len(capture.databases), position)
    return ports.engine(target, plan).has_replayed(position)


def arrived(rotation: Rotation, ports: Ports) -> Position:
    """How far, in the source's positions."""
    plan, _ = rotation.planned()
    source, target, _, _ = rotation.fenced()
    if (capture := rotation.capture) is not None:
        return ports.catching_up(source, plan).delivery(capture.name).position or Position("nothing")
    return ports.engine(target, plan).replayed()
