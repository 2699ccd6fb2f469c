"""RestoreConnectivity: lead applications back to the source, and give the record its TTL back."""

from lambdas.rotation.errors import ConnectivityChanged
from lambdas.rotation.ports import Ports
from lambdas.rotation.state import DnsRecord, Rotation
from lambdas.rotation.step import logger, step


def restore_connectivity(rotation: Rotation, ports: Ports) -> Rotation:
    """Put record and secret back to what was written down. Repeatable; nothing written down, nothing to do.

    What leads neither to the source nor to the target by now was changed by somebody else, and is left as it is.
    """
    seen = rotation.connectivity
    if seen is None or seen.restored_at is not None:
        return rotation
    if seen.secret is not None and seen.switch_requested_at is not None and rotation.target is not None:
        try:
            ports.secrets.restore_endpoint(seen.secret, rotation.target)
        except ConnectivityChanged as changed:
            logger.warning("secret left as it is", reason=str(changed))
    if seen.record is not None:
        _restore(seen.record, rotation, ports)
    return rotation.having(connectivity=seen.having(restored_at=ports.clock.now()))


def _restore(record: DnsRecord, rotation: Rotation, ports: Ports) -> None:
    found = ports.dns.describe_record(record.zone_id, record.name)
    if found is None or found == (record.value, record.ttl_seconds):
        return
    ours = {record.value}
    if rotation.target is not None:
        ours.add(rotation.target.address.lower())
    if found[0] not in ours or found[1] != record.lowered_ttl_seconds:
        logger.warning("record left as it is", record=record.name, found=found)
        return
    ports.dns.write_record(record.zone_id, record.name, record.value, record.ttl_seconds, expected=found)


handler = step(restore_connectivity)
