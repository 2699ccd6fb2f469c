"""How applications find the source, and whether a rotation can lead them elsewhere."""

from collections.abc import Iterator

from lambdas.preflight.checks.listed import is_listed
from lambdas.preflight.checks.managed_rotation import managed_rotation
from lambdas.rotation import hosts
from lambdas.rotation.errors import ConnectivityChanged
from lambdas.rotation.ports import Ports
from lambdas.rotation.state import Finding, Rotation


def connectivity(rotation: Rotation, ports: Ports) -> Iterator[Finding]:
    plan, _ = rotation.planned()
    if not plan.connectivity:
        yield Finding(
            name="NoConnectivity",
            message="nothing says how applications find the database; they would stay with the fenced source",
            advice="tag it key-rotation:connectivity = dns, secret or proxy",
        )
    if "dns" in plan.connectivity:
        yield from _record(rotation, ports)
    if "secret" in plan.connectivity:
        yield from _secret(rotation, ports)
    if "proxy" in plan.connectivity:
        yield from _proxy(rotation)


def _record(rotation: Rotation, ports: Ports) -> Iterator[Finding]:
    plan, source = rotation.planned()
    if plan.dns_record is None:
        yield Finding(
            name="NoDnsRecord",
            message="connectivity dns needs to know which record",
            advice="tag it key-rotation:dns-record = <hosted zone id>/<record name>",
        )
        return
    seen_outside = rotation.first_look.limitations if rotation.first_look is not None else ()
    yield from seen_outside
    if seen_outside:
        return
    name = plan.dns_record.name.lower().removesuffix(".")
    if not is_listed(name, "record_names", ports):
        yield Finding(
            name="RecordNotAllowed",
            message=f"the functions may not change {name}",
            advice="add it to record_names in the stack's configuration and deploy",
        )
    # What Route 53's API said is one thing, what a client beside the database is told another.
    led_to = ports.names.addresses(plan.dns_record.name)
    if led_to != ports.names.addresses(source.address):
        yield Finding(
            name="NameLeadsElsewhere",
            message=f"seen from the database's network, {plan.dns_record.name} "
            + (f"leads to {', '.join(sorted(led_to))}, not to {source.address}" if led_to else "does not exist"),
            advice="look for a private zone or a resolver rule of that name",
        )


def _secret(rotation: Rotation, ports: Ports) -> Iterator[Finding]:
    plan, source = rotation.planned()
    if plan.endpoint_secret is None:
        yield Finding(
            name="NoEndpointSecret",
            message="connectivity secret needs to know which secret",
            advice="tag it key-rotation:endpoint-secret = <name or ARN>",
        )
        return
    found = tuple(ports.secrets.limitations(plan.endpoint_secret, purpose="endpoint"))
    yield from found
    if found:
        return
    if plan.endpoint_secret != plan.login_secret:
        yield from managed_rotation(plan.endpoint_secret, ports)
    try:
        endpoint = ports.secrets.describe_endpoint(plan.endpoint_secret)
    except ConnectivityChanged as unfit:
        yield Finding(name="SecretIncomplete", message=str(unfit), advice="add the field host")
        return
    # Secrets Manager puts a hyphen and six characters behind a name.
    name = endpoint.arn.rpartition(":")[2][:-7]
    if not is_listed(name, "endpoint_secret_names", ports):
        yield Finding(
            name="SecretNotAllowed",
            message=f"the functions may not write to {name}",
            advice="add it to endpoint_secret_names in the stack's configuration and deploy",
        )
    if not hosts.are_same(endpoint.host, source.address):
        yield Finding(
            name="SecretLeadsElsewhere",
            message=f"{plan.endpoint_secret} leads to {endpoint.host}, not to {source.address}",
            advice="correct its field host, or key-rotation:endpoint-secret",
        )


def _proxy(rotation: Rotation) -> Iterator[Finding]:
    plan, _ = rotation.planned()
    if plan.proxy is None:
        yield Finding(
            name="NoProxy",
            message="connectivity proxy needs to know which RDS Proxy",
            advice="tag it key-rotation:proxy = <name of the proxy>",
        )
    elif rotation.first_look is not None:
        yield from rotation.first_look.limitations_of_proxy
