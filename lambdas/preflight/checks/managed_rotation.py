"""Whether Secrets Manager's own rotation of a secret can be suspended for the cutover and restored after it."""

from collections.abc import Iterator

from lambdas.preflight.checks.listed import is_listed
from lambdas.rotation import hosts
from lambdas.rotation.errors import AccessRefused, AwsRefused, ConnectivityChanged
from lambdas.rotation.ports import Ports
from lambdas.rotation.state import EndpointSecret, Finding, Plan, Rotation


def managed_rotation(secret_id: str, ports: Ports) -> Iterator[Finding]:
    """Only for a secret that has no limitations: one that another service rotates is refused there."""
    managed = ports.secrets.managed_rotation(secret_id)
    if managed is None:
        return
    if not is_listed(managed.function_arn or "", "secret_rotation_function_arns", ports):
        yield Finding(
            name="RotationFunctionNotAllowed",
            message=f"{secret_id} is rotated by {managed.function_arn}; that is suspended during the cutover, and the "
            "stack may not switch it on again",
            advice="add the function to secret_rotation_function_arns in the stack's configuration and deploy, or "
            "switch the secret's rotation off yourself",
        )


def switched_off(rotation: Rotation, ports: Ports) -> Iterator[Finding]:
    """Nothing may change a password on blue that green does not get (`cluster.LEFT_OUT`): after the switchover whoever
    reads the new one would be locked out. Of the secrets that the plan names; nobody knows of any other.

    Not suspended as for a fence: that is hours before the switchover, and RDS alone knows when it is.
    """
    plan, source = rotation.planned()
    for secret in filter(None, dict.fromkeys((plan.login_secret, plan.endpoint_secret))):
        if ports.secrets.managed_rotation(secret) is not None:
            yield Finding(
                name="SecretRotationOn",
                message=f"Secrets Manager rotates {secret}: a password of {source.identifier} that it changes before "
                "the switchover is not green's, and locks out whoever reads it",
                advice=f"aws secretsmanager cancel-rotate-secret --secret-id {secret}, and switch it on again after "
                "the switchover",
            )
        elif (why := ports.secrets.rotation_under_way(secret)) is not None:
            yield Finding(
                name="SecretAboutToRotate", message=why, advice="let its function finish, or finish what it has begun"
            )


def login_address(rotation: Rotation, ports: Ports) -> Iterator[Finding]:
    """The function that rotates a login goes by the address in the secret: it would change a database left behind."""
    plan, source = rotation.planned()
    if plan.login_secret is None or ports.secrets.managed_rotation(plan.login_secret) is None:
        return
    try:
        login = ports.secrets.describe_endpoint(plan.login_secret)
    except ConnectivityChanged:
        return  # the function knows the address from elsewhere
    if not hosts.are_same(login.host, source.address):
        return
    if not _is_followed(login, plan, ports):
        yield Finding(
            name="LoginSecretNamesSource",
            message=f"Secrets Manager rotates {plan.login_secret}, whose host is {source.address}: after the cutover "
            "it would go on changing the password there, not on the target",
            advice="let its host be the DNS record, or let key-rotation:endpoint-secret name the same secret "
            "(connectivity secret)",
        )


def _is_followed(login: EndpointSecret, plan: Plan, ports: Ports) -> bool:
    """Whether the rotation leads the login's own address to the target: it is the applications' secret as well."""
    if "secret" not in plan.connectivity or plan.endpoint_secret is None:
        return False
    try:
        return ports.secrets.describe_endpoint(plan.endpoint_secret).arn == login.arn
    except (AccessRefused, AwsRefused, ConnectivityChanged):
        return False  # what is wrong with it is said elsewhere; the login's secret could be read
