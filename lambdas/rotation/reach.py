"""What a function of the cutover proves before the fence: that it reaches what it is going to need.

A missing route, a closed security group, a changed password or a lacking permission found here costs nothing; found
under the fence it costs the write outage. One read per service, a login per server. Every probe raises what the real
call would raise.
"""

from collections.abc import Callable

from lambdas.rotation import databases, hosts, snapshots
from lambdas.rotation.errors import ConnectivityChanged
from lambdas.rotation.limitations import refuse_if_limited
from lambdas.rotation.network_fence import NetworkFence
from lambdas.rotation.ports import ISOLATION_GROUP, Ports
from lambdas.rotation.state import Rotation

Probe = Callable[[Rotation, Ports], None]


def rds(rotation: Rotation, ports: Ports) -> None:
    ports.rds.describe_instance(rotation.target_or_source.identifier)


def database(rotation: Rotation, ports: Ports) -> None:
    _, source = rotation.planned()
    databases.like(source, rotation.target_or_source.identifier, ports)


def snapshot(rotation: Rotation, ports: Ports) -> None:
    _, source = rotation.planned()
    temporary, _ = snapshots.pair_to_restore(rotation)
    databases.describe_snapshot(source, temporary, ports)


def snapshot_to_copy(rotation: Rotation, ports: Ports) -> None:
    """Of an instance: a cluster's is not copied under the fence."""
    _, source = rotation.planned()
    if not source.is_cluster:
        temporary, _ = snapshots.pair_to_restore(rotation)
        ports.rds.describe_snapshot(temporary)


def new_key(rotation: Rotation, ports: Ports) -> None:
    ports.kms.key_state(rotation.keyed().arn)


def source_server(rotation: Rotation, ports: Ports) -> None:
    plan, source = rotation.planned()
    ports.engine(source, plan).verdict(rotation.rotation_id)


def writer(rotation: Rotation, ports: Ports) -> None:
    """Of a cluster: which of its instances writes, RDS is asked."""
    _, source = rotation.planned()
    if source.is_cluster:
        ports.clusters.describe_by_resource_id(source.resource_id)


def target_server(rotation: Rotation, ports: Ports) -> None:
    plan, _ = rotation.planned()
    ports.engine(rotation.target_or_source, plan).verdict(rotation.rotation_id)


def network_fence(rotation: Rotation, ports: Ports) -> None:
    """That the function comes to the source at all: else it would take for closed what it never reached."""
    plan, source = rotation.planned()
    if plan.fence == "network":
        refuse_if_limited(NetworkFence(source, plan, ports), plan)


def isolation_group(rotation: Rotation, ports: Ports) -> None:
    """Of a network fence: whoever looks at it asks for the group's rules."""
    plan, _ = rotation.planned()
    if plan.fence == "network":
        ports.security_groups.inbound_rules(str(ports.settings.defaults[ISOLATION_GROUP]))


def record(rotation: Rotation, ports: Ports) -> None:
    """And that nobody has changed it since PrepareConnectivity, which may be days ago."""
    if rotation.connectivity is not None and (named := rotation.connectivity.record) is not None:
        found = ports.dns.describe_record(named.zone_id, named.name)
        if found != (expected := (named.value, named.lowered_ttl_seconds)):
            raise ConnectivityChanged(f"{named.name} is {found}, not {expected} as this rotation wrote down")


def secret(rotation: Rotation, ports: Ports) -> None:
    """As `record`."""
    if rotation.connectivity is not None and (written := rotation.connectivity.secret) is not None:
        host = ports.secrets.describe_endpoint(written.arn).host
        if not hosts.are_same(host, written.host):
            raise ConnectivityChanged(f"{written.arn} leads to {host}, not to {written.host} as was written down")


def proxy(rotation: Rotation, ports: Ports) -> None:
    """As `record`."""
    if rotation.connectivity is not None and rotation.connectivity.proxy is not None:
        _, source = rotation.planned()
        databases.led_to_by(rotation.connectivity.proxy, source, ports.proxies)


def managed_rotations(rotation: Rotation, ports: Ports) -> None:
    for managed in rotation.connectivity.managed_rotations if rotation.connectivity is not None else ():
        ports.secrets.managed_rotation(managed.secret_arn)


def topic(rotation: Rotation, ports: Ports) -> None:
    """Of who may have to tell people that nobody can write. A permission to publish is not proven by it."""
    ports.notifier.describe_topic()


def recovery_schedule(rotation: Rotation, ports: Ports) -> None:
    ports.recovery.is_set(rotation)
