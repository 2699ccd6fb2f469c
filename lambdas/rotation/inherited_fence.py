"""The fence on the target, where it arrived with the data: by replication, or in a snapshot."""

from lambdas.rotation.errors import DatabaseUnreachable, FenceBroken
from lambdas.rotation.ports import Ports
from lambdas.rotation.state import Rotation

FENCE_SECONDS = 5


def is_fenced_primary(rotation: Rotation, ports: Ports) -> bool:
    """Whether the target answers as a primary; then the fence is proven on it.

    Raises:
        FenceBroken: terminal; applications can reach the target before its release.
        FenceIncomplete: terminal; somebody did not let go of the target in time.
    """
    plan, _ = rotation.planned()
    _, target, fence, _ = rotation.fenced()
    engine = ports.engine(target, plan)
    try:
        if engine.is_replica():
            return False
        # What arrived with the data ends no session: whoever was reading from a replica could write now.
        engine.raise_fence(rotation.rotation_id, fence.databases, FENCE_SECONDS)
        breach = engine.fence_breach(fence.databases)
    except DatabaseUnreachable:
        return False  # the reboot that belongs to a promotion; the first minutes of a server that was restored
    if breach:
        raise FenceBroken(f"{target.identifier}: {breach}")
    return True
