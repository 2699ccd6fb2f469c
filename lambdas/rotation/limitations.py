"""What forbids a rotation, asked once more by the step that is about to change something at the source."""

from collections.abc import Iterator

from lambdas.rotation.errors import PreflightRefused, Terminal
from lambdas.rotation.ports import Engine, Instance, Ports
from lambdas.rotation.state import Finding, Plan, Rotation


def changes_pending(instance: Instance) -> Iterator[Finding]:
    """The same words whoever says it: Preflight tells them once."""
    if pending := instance.raw.get("PendingModifiedValues"):
        yield Finding(
            name="ChangesPending",
            message=f"changes of {instance.database.identifier} are not applied yet: {', '.join(sorted(pending))}",
            advice="apply them (ApplyImmediately, or a reboot) or take them back",
        )


def waiting_for_a_restart(one: Instance) -> Iterator[str]:
    """Parameter groups of which not all is in force: an instance's own, and its cluster's."""
    for group in one.raw.get("DBParameterGroups") or ():
        if group.get("ParameterApplyStatus", "in-sync") != "in-sync":
            yield group["DBParameterGroupName"]
    for member in one.raw.get("DBClusterMembers") or ():
        if member.get("DBClusterParameterGroupStatus", "in-sync") != "in-sync":
            yield one.raw["DBClusterParameterGroup"]


def ways_around_a_fence(cluster: Instance) -> Iterator[Finding]:
    """By which somebody could write to a cluster that lets nobody in; nor does a restore bring them along.

    Of an instance there are none. Asked before a fence, and again while one stands.
    """
    identifier = cluster.database.identifier
    if cluster.raw.get("HttpEndpointEnabled"):
        yield Finding(
            name="DataApi",
            message=f"the Data API of {identifier} is on: it comes in past any security group, and is not carried over",
            advice="switch it off, and on again for the target",
        )
    # Not only is it lost: whoever sits on a reader could write past the fence, which nobody has tried on that.
    if (forwarding := cluster.raw.get("LocalWriteForwardingStatus") or "disabled") != "disabled":
        yield Finding(
            name="WriteForwarding",
            message=f"local write forwarding of {identifier} is {forwarding}; that is not carried over: who writes "
            "through a reader could not after the cutover",
            advice="switch it off (ModifyDBCluster EnableLocalWriteForwarding=false), and on again for the target",
        )


def refuse_if_limited(engine: Engine, plan: Plan) -> None:
    """Raises: PreflightRefused (terminal); something came up since Preflight. The message lists all of it."""
    if reasons := engine.limitations(plan.accept):
        raise PreflightRefused("; ".join(f"{reason.message}: {reason.advice}" for reason in reasons))


def refuse_before_fence(rotation: Rotation, engine: Engine, ports: Ports) -> None:
    """As `refuse_if_limited`, where a second delivery that was quicker may have begun to close what this one looks at.

    Raises:
        PreflightRefused: as above.
        JournalMoved: retryable; it has. Then what refuses is its work, and the retry goes on with its fence.
    """
    try:
        refuse_if_limited(engine, rotation.planned()[0])
    except Terminal:
        ports.ledger.record(rotation)
        raise
