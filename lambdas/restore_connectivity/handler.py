"""RestoreConnectivity: lead applications to where they belong; give record and secrets back what was theirs."""

import json
import shlex

from lambdas.rotation import hosts, reach
from lambdas.rotation.databases import own_name
from lambdas.rotation.errors import AccessRefused, AwsRefused, AwsUnavailable, ConnectivityChanged
from lambdas.rotation.ports import Ports
from lambdas.rotation.state import DnsRecord, ManagedRotation, Rotation
from lambdas.rotation.step import logger, step
from lambdas.rotation.undoing import ended_with


def restore_connectivity(rotation: Rotation, ports: Ports) -> Rotation:
    """Undo what PrepareConnectivity and UpdateConnectivity changed, as far as the commit point allows.

    Before it: record, secret and proxy lead to the source again. After it they lead to the target and stay so; only the
    record's TTL goes back to what it was. Either way Secrets Manager goes on rotating the secrets, from the next time
    on that its schedule says. Repeatable; nothing written down, nothing to do.

    What leads neither to the source nor to the target by now was changed by somebody else, and is left as it is: the
    notification says so, as it says what could not be written although applications are led right.

    Where the source stays closed until applications are led back, what may pass ends nothing, however long it lasts:
    the outcome is ``undecided``, so the state machine waits, and comes again by Rollback, which tells people.

    Raises:
        AwsUnavailable: retryable; nobody waits for it to be writable again.
        AccessRefused, AwsRefused: terminal; applications are led wrong, and that could not be changed.
    """
    try:
        return _connectivity_restored(rotation, ports)
    except AwsUnavailable as unavailable:
        if rotation.undo is None or rotation.undo.outcome != "decided":
            raise
        logger.warning("applications not led back yet", reason=str(unavailable))
        reason = f"applications have to be led back before the source is opened, and cannot be yet: {unavailable}"
        return ended_with(rotation, "undecided", reason)


def _connectivity_restored(rotation: Rotation, ports: Ports) -> Rotation:
    seen = rotation.connectivity
    if seen is None or seen.restored_at is not None:
        return rotation
    leftovers = []
    may_lead_away = rotation.release is None and seen.switch_requested_at is not None
    if may_lead_away and seen.secret is not None:
        try:
            ports.secrets.restore_endpoint(seen.secret, rotation.synced_target())
        except ConnectivityChanged as changed:
            leftovers.append(f"secret left as it is: {changed}")
    if seen.record is not None and (leftover := _restored(seen.record, rotation, ports)):
        leftovers.append(leftover)
    # After the secret: the function that rotates it goes by the address in it.
    leftovers += filter(None, (_rotation_restored(managed, ports) for managed in seen.managed_rotations))
    # Last: a proxy that RDS is at work on keeps nobody else away.
    if may_lead_away and seen.proxy is not None and (leftover := _led_back(seen.proxy, rotation, ports)):
        leftovers.append(leftover)
    for leftover in leftovers:
        logger.warning("connectivity left as it is", reason=leftover)
    seen = seen.having(restored_at=ports.clock.now(), leftovers=tuple(leftovers))
    return rotation.having(connectivity=seen)


def _led_back(proxy: str, rotation: Rotation, ports: Ports) -> str | None:
    """Returns what a person has to know about it when it could not be, and leads nobody to the target all the same."""
    (_, source), target = rotation.planned(), rotation.synced_target()
    try:
        ports.proxies.lead(proxy, source, instead_of=target)
    except ConnectivityChanged as changed:
        return f"proxy left as it is: {changed}"
    except (AccessRefused, AwsRefused) as refused:
        found = ports.proxies.target_of(proxy)
        if found is not None and found.name == own_name(target):
            raise
        kind = "cluster" if source.is_cluster else "instance"
        command = f"aws rds register-db-proxy-targets --db-proxy-name {proxy} --db-{kind}-identifiers"
        return f"proxy {proxy} leads nowhere ({refused}); to lead it back: {command} {source.identifier}"
    return None


def _restored(record: DnsRecord, rotation: Rotation, ports: Ports) -> str | None:
    """Write the record as it should be; returns what a person has to know about it when it could not be."""
    target = hosts.normalised(rotation.target.address) if rotation.target is not None else record.value
    wanted = (target if rotation.release is not None else record.value, record.ttl_seconds)
    try:
        found = ports.dns.describe_record(record.zone_id, record.name)
    except ConnectivityChanged as changed:
        return f"record left as it is: {changed}"
    if found == wanted:
        return None
    if found is None or found[0] not in (record.value, target):
        leads = found[0] if found is not None else "nothing"
        return f"record {record.name} left as it is: somebody has led it to {leads}"
    try:
        # Whatever its TTL is by now: a name that leads to the wrong side is worse than a TTL that somebody set.
        ports.dns.write_record(record.zone_id, record.name, *wanted, expected=found)
    except (AccessRefused, AwsRefused) as refused:
        if found[0] != wanted[0]:
            raise
        return f"record {record.name} keeps a TTL of {found[1]} s instead of {wanted[1]} s: {refused}"
    return None


def _rotation_restored(managed: ManagedRotation, ports: Ports) -> str | None:
    """Whatever is written down, also where it is not known to be suspended: the answer may have got lost."""
    try:
        ports.secrets.restore_rotation(managed)
    except (AccessRefused, AwsRefused) as refused:
        command = (
            f"aws secretsmanager rotate-secret --secret-id {managed.secret_arn} --no-rotate-immediately "
            f"--rotation-lambda-arn {managed.function_arn} --rotation-rules {shlex.quote(json.dumps(managed.rules))}"
        )
        return f"managed rotation stays suspended ({refused}); to switch it on: {command}"
    return None


handler = step(restore_connectivity, reaches=(reach.record, reach.secret, reach.proxy, reach.managed_rotations))
