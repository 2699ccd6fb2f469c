"""Whether everything before the fence has come to the target, whichever way it comes there."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from lambdas.rotation.ports import Engine, Ports
from lambdas.rotation.state import Position, Rotation


@dataclass(frozen=True)
class Arrival:
    """By positions, never by lag. To ask again takes no other login: it is asked inside the write outage."""

    is_complete: Callable[[], bool]
    position: Callable[[], Position]
    """How far, in the source's positions."""


def of(rotation: Rotation, on_target: Engine, ports: Ports) -> Arrival:
    """A copy that catches up may have positions of its own, so its source is asked; any other target is."""
    plan, _ = rotation.planned()
    source, target, _, position = rotation.fenced()
    capture = rotation.capture
    if capture is None:
        return Arrival(partial(on_target.has_replayed, position), on_target.replayed)
    on_source, on_copy = ports.catching_up(source, plan), ports.catching_up(target, plan)
    return Arrival(
        partial(on_source.has_delivered, capture.name, on_copy, len(capture.databases), position),
        lambda: on_source.delivery(capture.name, on_copy).position or Position("nothing"),
    )
