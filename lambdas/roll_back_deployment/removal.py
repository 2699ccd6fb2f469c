"""The end of a deployment that was not switched over, and of its green members. Blue serves."""

from datetime import timedelta

from lambdas.rotation import databases, marks, names, switchover
from lambdas.rotation.errors import AccessRefused, AwsRefused, AwsUnavailable
from lambdas.rotation.polling import look_again_seconds
from lambdas.rotation.ports import BlueGreenDeployment, Instance, Ports
from lambdas.rotation.state import Deployment, Rotation

PATIENCE = timedelta(hours=24)
"""RDS deletes no deployment that it is still making, and may take hours to make one."""
OFTEN_SECONDS, SELDOM_SECONDS = 30, 300


def remove(rotation: Rotation, ports: Ports) -> Rotation:
    """Look once at what is left, and ask for its removal.

    What cannot be removed, or not within a day, is left over with the command that removes it.
    """
    undo, deployment, now = rotation.undo, rotation.deployment, ports.clock.now()
    assert undo is not None
    if undo.clean:
        return rotation
    if deployment is None:
        return rotation.having(undo=undo.having(clean=True))
    given_up: str | None = None
    command = _command(deployment)
    try:
        waiting, command, deployment = _removed(deployment, rotation, ports)
    except (AwsUnavailable, AwsRefused) as later:
        waiting = f"{type(later).__name__}: {later}"
    except AccessRefused as never:
        waiting, given_up = None, str(never)
    if waiting and now - undo.started_at >= PATIENCE:
        waiting, given_up = None, waiting
    undo = undo.having(
        waiting_for=(waiting,) if waiting else (),
        leftovers=(f"{command}  # {given_up}", *_unmarking(deployment)) if given_up is not None else (),
        clean=waiting is None,
        ended_at=now,
        look_again_seconds=look_again_seconds(undo.started_at, now, often=OFTEN_SECONDS, seldom=SELDOM_SECONDS),
    )
    return rotation.having(undo=undo, deployment=deployment)


def _removed(deployment: Deployment, rotation: Rotation, ports: Ports) -> tuple[str | None, str, Deployment]:
    """What is being waited for, None when nothing is left; the command that removes it; and what is known by now."""
    live = ports.blue_green.describe(deployment.name)
    # One without our tag was there before (NameTaken), and is not for us to touch.
    if live is not None and live.tags.get(names.ROTATION_ID_TAG) == rotation.rotation_id:
        # By now its members may have exchanged their names: what is called green would be production.
        if live.status not in (switchover.DELETING, switchover.UNDER_WAY, switchover.COMPLETED):
            greens = _greens(deployment, live, ports)
            # WaitForGreen may not have come to it.
            deployment = marks.green_marked(rotation, deployment, greens, ports)
            if greens and marks.seconds_to_settle(deployment.marked_at, ports.clock.now()):
                return f"the mark of {live.name} to count", _command(deployment), deployment
            for protected in (green for green in greens if green.deletion_protection):  # which it has from blue
                databases.disable_deletion_protection(protected.database, ports)
            ports.blue_green.request_deletion(live.identifier, with_target=True)
        return f"{live.name} to be deleted (it is {live.status})", _command(deployment), deployment
    for member in deployment.members:
        green = databases.by_resource_id(member.target_resource_id or "", ports)
        if green is not None:
            # Somebody has deleted the deployment, and kept green: no deletion of ours reaches it any more.
            kind = "cluster" if green.database.is_cluster else "instance"
            command = f"aws rds delete-db-{kind} --db-{kind}-identifier {green.database.identifier}"
            waiting = f"{green.database.identifier} to be deleted (it is {green.status})"
            return waiting, f"{command} --skip-final-snapshot", deployment
    for member in deployment.members:
        blue = databases.by_resource_id(member.source_resource_id, ports)
        if blue is not None and blue.tags.get(names.DEPLOYMENT_TAG) == rotation.rotation_id:
            ports.rds.remove_tags(blue.database.arn, [names.DEPLOYMENT_TAG])
    return None, "", deployment


def _greens(deployment: Deployment, live: BlueGreenDeployment, ports: Ports) -> list[Instance]:
    """Never one whose resource id is a blue's: that would be production."""
    blues = {member.source_resource_id for member in deployment.members}
    found = (databases.by_arn(target_arn, ports) for _, target_arn in live.members)
    return [green for green in found if green is not None and green.database.resource_id not in blues]


def _unmarking(deployment: Deployment) -> list[str]:
    """With the mark on it no rotation of it begins. Nobody comes again to take it off once green is gone."""
    return [
        f"aws rds remove-tags-from-resource --resource-name {member.source_arn} --tag-keys {names.DEPLOYMENT_TAG}"
        for member in deployment.members
    ]


def _command(deployment: Deployment) -> str:
    identifier = deployment.identifier or f"<identifier of {deployment.name}>"
    return f"aws rds delete-blue-green-deployment --blue-green-deployment-identifier {identifier} --delete-target"
