"""Whether the rotation can log in to the source, and what the databases themselves say against it."""

from collections.abc import Iterator

from lambdas.preflight.checks.managed_rotation import login_address, managed_rotation
from lambdas.rotation import state_size
from lambdas.rotation.engines import CATCHING_UP, ENGINES
from lambdas.rotation.errors import DatabaseUnreachable, LoginRefused
from lambdas.rotation.ports import Ports
from lambdas.rotation.state import Finding, Rotation

STILL_A_LOGIN = ("SecretAboutToRotate", "SecretOwnedByService")
"""What does not keep it from logging in now: what the databases say is reported together with it."""


def login(rotation: Rotation, ports: Ports) -> Iterator[Finding]:
    plan, source = rotation.planned()
    if plan.login_secret is None:
        yield Finding(
            name="NoLoginSecret",
            message=f"strategy {plan.strategy} needs a login of its own to fence the databases",
            advice="tag it key-rotation:login-secret = <name or ARN of a secret with username and password>",
        )
        return
    unfit = tuple(ports.secrets.limitations(plan.login_secret, purpose="login"))
    yield from unfit
    if any(finding.name not in STILL_A_LOGIN for finding in unfit):
        return
    if not unfit:
        yield from managed_rotation(plan.login_secret, ports)
        yield from login_address(rotation, ports)
    if source.engine not in (CATCHING_UP if plan.strategy == "catch-up" else ENGINES):
        return  # nobody here speaks to it, which is said elsewhere
    try:
        try:
            yield from _inside(rotation, ports)
        except DatabaseUnreachable:
            # A server may end a session for reasons that pass; only one that does so again stands against a rotation.
            yield from _inside(rotation, ports)
    except LoginRefused as refused:
        yield Finding(
            name="LoginRefused", message=str(refused), advice="correct the login secret or the login's rights"
        )
    except DatabaseUnreachable as unreachable:
        yield Finding(
            name="DatabaseUnreachable",
            message=str(unreachable),
            advice=f"let the functions' security group in on port {source.port}",
        )


def _inside(rotation: Rotation, ports: Ports) -> tuple[Finding, ...]:
    plan, source = rotation.planned()
    engine = ports.engine(source, plan)
    if unfit := tuple(engine.login_limitations()):
        return unfit
    found = tuple(engine.limitations(plan.accept))
    too_large = state_size.limitation(rotation, engine.expected_fence())
    return (*found, too_large) if too_large else found


def warnings(rotation: Rotation, ports: Ports) -> Iterator[Finding]:
    """Only asked when nothing stands against the rotation, so the login works."""
    plan, source = rotation.planned()
    yield from ports.engine(source, plan).warnings()
