"""UpdateConnectivity: lead applications to the target, while nobody can write on either side."""

from lambdas.rotation import reach
from lambdas.rotation.errors import StateIncomplete
from lambdas.rotation.ports import Ports
from lambdas.rotation.state import Rotation
from lambdas.rotation.step import logger, step


def update_connectivity(rotation: Rotation, ports: Ports) -> Rotation:
    """Ask for record, secret and proxy to lead to the target. Does not wait for the change to spread.

    Idempotent. Both sides are fenced: a client that arrives early is refused, not misled.

    Raises:
        ConnectivityChanged: terminal; somebody else has changed them. The rotation rolls back, with nothing lost.
    """
    _, source = rotation.planned()
    target, seen = rotation.synced_target(), rotation.connectivity
    if seen is None:
        raise StateIncomplete("needs what PrepareConnectivity wrote down")
    seen = seen.having(switch_requested_at=seen.switch_requested_at or ports.clock.now())
    ports.ledger.record(rotation.having(connectivity=seen))  # before the first change: rollback looks at both sides
    if seen.secret is not None:
        ports.secrets.write_endpoint(seen.secret, target)
    if seen.proxy is not None:
        ports.proxies.lead(seen.proxy, target, instead_of=source)
    if seen.record is not None:
        change_id = ports.dns.write_record(
            seen.record.zone_id,
            seen.record.name,
            target.address,
            seen.record.lowered_ttl_seconds,
            expected=(seen.record.value, seen.record.lowered_ttl_seconds),
        )
        seen = seen.having(change_id=change_id)
    logger.info("switch requested", target=target.identifier, change_id=seen.change_id)
    return rotation.having(connectivity=seen)


handler = step(update_connectivity, reaches=(reach.record, reach.secret, reach.proxy))
