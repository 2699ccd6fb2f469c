"""PrepareConnectivity: write down how applications find the database, then make them look more often."""

from lambdas.rotation.errors import ConnectivityChanged
from lambdas.rotation.ports import Ports
from lambdas.rotation.state import Connectivity, DnsRecord, DnsRecordName, EndpointSecret, Rotation
from lambdas.rotation.step import logger, step

LOWERED_TTL_SECONDS = 5


def prepare_connectivity(rotation: Rotation, ports: Ports) -> Rotation:
    """Write down record and secret as they are, and lower the record's TTL to 5 s where it is higher.

    Runs long before the fence, because resolvers keep the old TTL for as long as it says. Idempotent: what was written
    down once is not written down again, so a retry never takes the lowered TTL for the original.

    Raises:
        ConnectivityChanged: terminal; record or secret does not lead to the source.
    """
    plan, source = rotation.planned()
    seen = rotation.connectivity
    if seen is None:
        record, secret = None, None
        if "dns" in plan.connectivity and plan.dns_record is not None:
            record = _record(plan.dns_record, source.address, ports)
        if "secret" in plan.connectivity and plan.endpoint_secret is not None:
            secret = _secret(plan.endpoint_secret, source.address, ports)
        seen = Connectivity(record=record, secret=secret)
        ports.ledger.record(rotation.having(connectivity=seen))  # before the first change: rollback restores from it
    if seen.record is not None and seen.ttl_lowered_at is None:
        record = seen.record
        if record.lowered_ttl_seconds < record.ttl_seconds:
            ports.dns.write_record(
                record.zone_id,
                record.name,
                record.value,
                record.lowered_ttl_seconds,
                expected=(record.value, record.ttl_seconds),
            )
            logger.info("TTL lowered", record=record.name, ttl_seconds=record.ttl_seconds)
        seen = seen.having(ttl_lowered_at=ports.clock.now())
    return rotation.having(connectivity=seen)


def _record(named: DnsRecordName, address: str, ports: Ports) -> DnsRecord:
    found = ports.dns.describe_record(named.zone_id, named.name)
    if found is None or found[0] != address.lower():
        raise ConnectivityChanged(f"{named.name} leads to {found[0] if found else 'nothing'}, not to {address}")
    value, ttl_seconds = found
    return DnsRecord(
        zone_id=named.zone_id,
        name=named.name,
        value=value,
        ttl_seconds=ttl_seconds,
        lowered_ttl_seconds=min(ttl_seconds, LOWERED_TTL_SECONDS),
    )


def _secret(secret_id: str, address: str, ports: Ports) -> EndpointSecret:
    secret = ports.secrets.describe_endpoint(secret_id)
    if secret.host.lower().removesuffix(".") != address.lower():
        raise ConnectivityChanged(f"{secret_id} leads to {secret.host}, not to {address}")
    return secret


handler = step(prepare_connectivity)
