"""What has to be seen after the cutover, each as a reason that it is not, or None."""

from collections.abc import Sequence
from typing import Any

from lambdas.rotation import databases, hosts
from lambdas.rotation.errors import AwsUnavailable, ConnectivityChanged, DatabaseUnreachable, LoginRefused, SqlRefused
from lambdas.rotation.names import named
from lambdas.rotation.network_fence import groups_of
from lambdas.rotation.ports import SECURITY_GROUPS, Instance, Ports
from lambdas.rotation.state import Database, Rotation


def key_of_target(rotation: Rotation, target: Instance) -> str | None:
    if target.database.kms_key_arn != rotation.keyed().arn:
        return f"{target.database.identifier} is encrypted under {target.database.kms_key_arn}"
    return None


def target_is_up(target: Instance) -> str | None:
    if target.status not in ("available", "backing-up") or target.replica_of is not None:
        return f"{target.database.identifier} is {target.status}, replica of {target.replica_of}"
    return None


def _is_available(member: Instance) -> str | None:
    """Whom it replicates from is its cluster's affair."""
    return None if member.status == "available" else f"{member.database.identifier} is {member.status}"


def members(rotation: Rotation, of_source: Sequence[Instance], of_target: Sequence[Instance]) -> str | None:
    """The instances of a cluster, one for each of the source's; each has storage under the cluster's key."""
    reasons = [_is_available(one) or key_of_target(rotation, one) for one in of_target]
    # Counted: by now somebody may have given them names that lead nowhere back.
    if len(of_target) < len(of_source):
        target = rotation.synced_target().identifier
        reasons.append(f"{target} has {len(of_target)} instances, the source {len(of_source)}")
    return "; ".join(filter(None, reasons)) or None


def groups_of_members(rotation: Rotation, target: Instance, of_target: Sequence[Instance]) -> str | None:
    """After a network fence: each has those of its cluster, as the release asked. It waited for the writer only."""
    if rotation.fence is None or not any(one.isolation_group for one in rotation.fence.databases):
        return None
    unlike = [one.database.identifier for one in of_target if groups_of(one).keys() != groups_of(target).keys()]
    return f"without the security groups of {target.database.identifier}: {', '.join(unlike)}" if unlike else None


def settings(rotation: Rotation, source: Instance, target: Instance, ports: Ports) -> str | None:
    """But for what a network fence has changed on the source: of that the target has what was written down."""
    differences = dict(databases.settings_differences(source, target, ports))
    fenced = rotation.fence.databases if rotation.fence is not None else ()
    saved = tuple(sorted(group for one in fenced for group in one.security_groups))
    if saved and SECURITY_GROUPS in differences and differences[SECURITY_GROUPS][1] == saved:
        del differences[SECURITY_GROUPS]
    return f"settings differ: {', '.join(sorted(differences))}" if differences else None


def name(rotation: Rotation, source: Database, target: Database, ports: Ports) -> str | None:
    """As a client beside the database is told: Route 53's API need not be reachable from here."""
    record = rotation.connectivity.record if rotation.connectivity else None
    if record is None:
        return None
    led_to = ports.names.addresses(record.name)
    if not led_to or led_to != ports.names.addresses(target.address):
        return f"{record.name} does not lead to {target.identifier} yet"
    if led_to == ports.names.addresses(source.address):
        return f"{record.name} leads to {source.identifier}"
    return None


def secret(rotation: Rotation, target: Database, ports: Ports) -> str | None:
    written_down = rotation.connectivity.secret if rotation.connectivity else None
    if written_down is None:
        return None
    try:
        host = ports.secrets.describe_endpoint(written_down.arn).host
    except ConnectivityChanged as changed:
        return str(changed)
    return None if hosts.are_same(host, target.address) else f"{written_down.arn} leads to {host}"


def proxy(rotation: Rotation, target: Database, ports: Ports) -> str | None:
    """Whether applications come through it to the target: the proxy finds the target some time after its release."""
    written_down = rotation.connectivity.proxy if rotation.connectivity else None
    if written_down is None:
        return None
    try:
        found = databases.led_to_by(written_down, target, ports.proxies)
    except (ConnectivityChanged, AwsUnavailable) as unseen:
        return str(unseen)
    if found.unavailable is not None:
        return f"RDS Proxy {written_down} cannot use {target.identifier}: {found.unavailable}"
    return None


def inside(rotation: Rotation, target: Database, ports: Ports) -> tuple[dict[str, Any], str | None]:
    """What the target shows, and: every database that was fenced is open and readable there, by its decision row."""
    engine = ports.engine(target, rotation.planned()[0])
    try:
        found, verdict = dict(engine.inspect()), engine.verdict(rotation.rotation_id)
    except DatabaseUnreachable as unreachable:  # it fails over, or its disk is full: applications wait for it, too
        return {}, f"{target.identifier} cannot be seen: {unreachable}"
    fenced = {fence.name for fence in rotation.fence.databases} if rotation.fence else set()
    closed = sorted(fenced - set(found))
    if closed:
        return found, f"not open on the target: {named(closed)}"
    return found, None if verdict == "release" else f"the decision row says {verdict}"


def capture(rotation: Rotation, source: Instance | None, ports: Ports) -> str | None:
    """Nothing captures any more. What the source keeps grows until its disk is full."""
    if rotation.capture is None:
        return None
    # The one need not wait for the other.
    sides = [rotation.synced_target(), *([source.database] if source is not None else [])]
    return next(filter(None, [_capture_of(side, rotation, ports) for side in sides]), None)


def _capture_of(side: Database, rotation: Rotation, ports: Ports) -> str | None:
    plan, _ = rotation.planned()
    name = rotation.captured().name
    try:
        ports.catching_up(side, plan).end_capture(name)
    except (DatabaseUnreachable, LoginRefused, SqlRefused) as refused:
        return f"the capture {name} could not be removed: {refused}"
    return None


def source_is_fenced(rotation: Rotation, ports: Ports) -> tuple[str | None, str | None]:
    """(what has to be looked at again, the breach)."""
    plan, source = rotation.planned()
    if rotation.fence is None:
        return None, None
    try:
        return None, ports.engine(source, plan).fence_breach(rotation.fence.databases)
    except DatabaseUnreachable as unreachable:
        return f"the fence of {source.identifier} cannot be seen: {unreachable}", None
