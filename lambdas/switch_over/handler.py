"""SwitchOver: the commit point. RDS is asked to let green take blue's place."""

from collections.abc import Iterator, Sequence

from lambdas.rotation import databases, switchover
from lambdas.rotation.errors import SwitchoverFailed, TargetMismatch, WrongKey
from lambdas.rotation.ports import BlueGreenDeployment, Instance, Ports
from lambdas.rotation.state import Member, Rotation
from lambdas.rotation.step import logger, step

SHORTEST_TIMEOUT_SECONDS = 30
"""RDS takes 30 to 3600 seconds."""
ASKED_FOR = (switchover.UNDER_WAY, switchover.COMPLETED)

Side = tuple[Instance, Instance]
"""A member and its copy."""


def switch_over(rotation: Rotation, ports: Ports) -> Rotation:
    """Ask RDS for the switchover, provided that every member is what it has to be at this moment. Does not wait.

    From the request on RDS alone decides; what it decided is read from RDS (WaitForSwitchover, or the way back). It
    stops writes, lets green catch up, and exchanges the names, or rolls all of it back within the write outage budget.

    Where a member is not available (its daily backup has begun) nothing is asked, and the deployment no longer ready.
    The same where an instance that has joined blue meanwhile is on its way out again.
    Idempotent: one that is under way or done is left as it is. A request whose answer got lost is made again, which RDS
    refuses while the first one is being worked on; of that it may show nothing yet. So a refusal decides nothing:
    WaitForSwitchover looks for two minutes whether a switchover begins.

    Raises:
        WrongKey, TargetMismatch: terminal; switching over now would complete a rotation that did not happen.
        SwitchoverFailed: terminal; RDS has rolled it back.
    """
    deployment = rotation.deployed()
    live = ports.blue_green.describe(deployment.name)
    if live is None or live.identifier != deployment.identifier:
        raise TargetMismatch(f"{deployment.name} is not the deployment that was ready ({deployment.identifier})")
    if live.status in ASKED_FOR:
        return _requested(rotation, ports)
    if live.status != switchover.AVAILABLE:
        raise SwitchoverFailed(f"{live.name} is {live.status}: {live.details}")
    waiting_for = _seen_once_more(rotation, live, ports)
    if waiting_for and deployment.switchover_requested_at is None:
        return rotation.having(deployment=deployment.having(ready=False, waiting_for=waiting_for))
    rotation = _requested(rotation, ports)
    plan, _ = rotation.planned()
    timeout_seconds = max(SHORTEST_TIMEOUT_SECONDS, plan.write_outage_budget_seconds)
    refusal = ports.blue_green.request_switchover(live.identifier, timeout_seconds)
    logger.info("switchover requested", deployment=live.identifier, refusal=refusal)
    waiting_for = (f"RDS to switch over: {refusal}",) if refusal else ()
    return rotation.having(deployment=rotation.deployed().having(waiting_for=waiting_for))


def _requested(rotation: Rotation, ports: Ports) -> Rotation:
    """Written down before the call: from here on nobody may take for granted that blue serves."""
    deployment, now = rotation.deployed(), ports.clock.now()
    first = deployment.switchover_requested_at or now
    asked = deployment.having(switchover_requested_at=first, switchover_last_asked_at=now)
    rotation = rotation.having(deployment=asked)
    ports.ledger.record(rotation)
    return rotation


def _seen_once_more(rotation: Rotation, live: BlueGreenDeployment, ports: Ports) -> tuple[str, ...]:
    """The last look at every member, as RDS shows it now; what has to be waited for."""
    deployment = rotation.deployed()
    if dict(live.members) != {member.source_arn: member.target_arn for member in deployment.members}:
        raise TargetMismatch(f"the members of {live.name} are not those that were ready: {dict(live.members)}")
    state = ports.kms.key_state(rotation.keyed().arn)
    if state != "Enabled":
        raise TargetMismatch(f"the key of {live.name} is {state}: it could soon not be read")
    sides = [_both_sides(rotation, member, ports) for member in deployment.members]
    return *_leaving(sides, ports), *(
        f"{instance.database.identifier} to be available (it is {instance.status})"
        for pair in sides
        for instance in pair
        if instance.status != "available"
    )


def _leaving(sides: Sequence[Side], ports: Ports) -> Iterator[str]:
    """Instances that have joined blue since its copy was asked for (a person's, or Auto Scaling's), and leave it again.

    Raises: TargetMismatch for one that stays. It has no copy, and RDS would leave it behind, with those who read there.
    """
    known = {one.database.identifier for pair in sides for one in pair if not one.database.is_cluster}
    listed = {name: source for source, _ in sides for name in databases.followers_of(source)}
    for name in sorted(set(listed) - known):
        elsewhere = ":" in name  # an ARN, of another Region
        found = None if elsewhere else ports.rds.describe_instance(name)
        if elsewhere or (found is not None and found.status != "deleting"):
            raise TargetMismatch(
                f"{name} has joined {listed[name].database.identifier} meanwhile, and has no copy: applications that "
                "read from it would go on reading from what is left behind; delete it, and make it anew afterwards"
            )
        if found is not None:
            yield f"{name} to be gone (it is {found.status})"


def _both_sides(rotation: Rotation, member: Member, ports: Ports) -> tuple[Instance, Instance]:
    source = databases.by_arn(member.source_arn, ports)
    if source is None or source.database.resource_id != member.source_resource_id:
        raise TargetMismatch(f"{member.source_identifier} is not the database that was copied")
    target = databases.by_resource_id(member.target_resource_id or "", ports)
    if target is None:
        raise TargetMismatch(f"the copy of {member.source_identifier} is gone")
    if target.database.kms_key_arn != rotation.keyed().arn:
        raise WrongKey(f"{target.database.identifier} is encrypted under {target.database.kms_key_arn}")
    return source, target


handler = step(switch_over)
