"""PrepareConnectivity: write down how applications find and enter the database, then keep that from changing."""

from lambdas.rotation import hosts
from lambdas.rotation.databases import led_to_by
from lambdas.rotation.errors import ConnectivityChanged, PreflightRefused
from lambdas.rotation.ports import Ports
from lambdas.rotation.state import (
    Connectivity,
    DnsRecord,
    DnsRecordName,
    EndpointSecret,
    ManagedRotation,
    Plan,
    Rotation,
)
from lambdas.rotation.step import logger, step

LOWERED_TTL_SECONDS = 5


def prepare_connectivity(rotation: Rotation, ports: Ports) -> Rotation:
    """Write down record and secrets as they are; suspend Secrets Manager's rotation of them; lower the TTL to 5 s.

    Runs long before the fence, because resolvers keep the old TTL for as long as it says. A password that changes
    between fence and release would lock the rotation, or the applications, out. Idempotent: what was written down once
    is not written down again, so a retry takes neither the lowered TTL nor a suspended rotation for the original.

    Raises:
        ConnectivityChanged: terminal; record, secret or proxy does not lead to the source.
        PreflightRefused: terminal; a secret has begun to be rotated since Preflight. It is not cut off in the middle.
    """
    plan, source = rotation.planned()
    seen = rotation.connectivity
    if seen is None:
        record, secret, proxy = None, None, None
        if "dns" in plan.connectivity and plan.dns_record is not None:
            record = _record(plan.dns_record, source.address, ports)
        if "secret" in plan.connectivity and plan.endpoint_secret is not None:
            secret = _secret(plan.endpoint_secret, source.address, ports)
        if "proxy" in plan.connectivity and plan.proxy is not None:
            led_to_by(plan.proxy, source, ports.proxies)
            proxy = plan.proxy
        managed = _managed_rotations(plan, ports)
        seen = Connectivity(record=record, secret=secret, proxy=proxy, managed_rotations=managed)
        ports.ledger.record(rotation.having(connectivity=seen))  # before the first change: rollback restores from it
    if seen.managed_rotations and seen.rotations_suspended_at is None:
        for one in seen.managed_rotations:
            _suspend(one, ports)
        seen = seen.having(rotations_suspended_at=ports.clock.now())
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
    if found is None or not hosts.are_same(found[0], address):
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
    if not hosts.are_same(secret.host, address):
        raise ConnectivityChanged(f"{secret_id} leads to {secret.host}, not to {address}")
    return secret


def _managed_rotations(plan: Plan, ports: Ports) -> tuple[ManagedRotation, ...]:
    """Of the login and of the endpoint secret, which may be one and the same by two names."""
    secrets = [plan.login_secret, plan.endpoint_secret if "secret" in plan.connectivity else None]
    found = (ports.secrets.managed_rotation(secret) for secret in secrets if secret is not None)
    return tuple({managed.secret_arn: managed for managed in found if managed is not None}.values())


def _suspend(managed: ManagedRotation, ports: Ports) -> None:
    """Before and after: a rotation may begin between the look and the suspension, and then goes on beside it."""
    if (why := ports.secrets.rotation_under_way(managed.secret_arn)) is None:
        ports.secrets.suspend_rotation(managed)
        logger.info("managed rotation suspended", secret=managed.secret_arn)
        why = ports.secrets.rotation_under_way(managed.secret_arn)
    if why is not None:
        raise PreflightRefused(f"SecretAboutToRotate: {why} — let it finish, then start again")


handler = step(prepare_connectivity)
