"""CreateBlueGreenDeployment: ask RDS for a copy of the source and of all that belongs to it, under the new key."""

from datetime import timedelta

from lambdas.rotation import databases, marks, names
from lambdas.rotation.errors import AwsUnavailable, UnknownDatabase
from lambdas.rotation.ports import Instance, Ports
from lambdas.rotation.state import Deployment, Member, Rotation
from lambdas.rotation.step import logger, step

PATIENCE = timedelta(hours=1)


def create_blue_green_deployment(rotation: Rotation, ports: Ports) -> Rotation:
    """Ask for a blue/green deployment with one key for each member: RDS leaves one that is not named under its old key.

    A cluster is named alone: its instances have its key. Idempotent: a deployment with this rotation's tag is adopted.
    Does not wait: the state machine comes again when blue's marks count, and WaitForGreen observes. The members cost as
    much as what they are copies of, until the deployment is deleted or the grace period is over.

    Raises:
        DeploymentRefused, NameTaken, AwsRefused: terminal; the source serves as before.
        AwsUnavailable: retryable; also when somebody keeps taking the marks off again.
    """
    plan, database = rotation.planned()
    key = rotation.keyed()
    source = databases.by_resource_id(database.resource_id, ports)
    if source is None:
        raise UnknownDatabase(f"{database.identifier} is gone")
    members = (source, *_followers(source, rotation, ports))
    now = ports.clock.now()
    if rotation.deployment is None:
        deployment = Deployment(
            name=names.deployment_name(plan.base_name, rotation.rotation_id),
            members=tuple(_member(instance) for instance in members),
            requested_at=now,
        )
        rotation = rotation.having(deployment=deployment)
    deployment = rotation.deployed()
    # Green gets blue's tags, and what may be copied and switched over is told by this one.
    unmarked = [one for one in members if one.tags.get(names.DEPLOYMENT_TAG) != rotation.rotation_id]
    if unmarked and now - deployment.requested_at > PATIENCE:
        named = ", ".join(one.database.identifier for one in unmarked)
        raise AwsUnavailable(f"RDS does not show {names.DEPLOYMENT_TAG} on {named}")
    if unmarked:
        deployment = deployment.having(marked_at=now)
    seconds = marks.seconds_to_settle(deployment.marked_at, now)
    rotation = rotation.having(deployment=deployment.having(look_again_seconds=seconds))
    # Written down before the calls: whatever becomes of their answers, a rollback has to look for this deployment.
    ports.ledger.record(rotation)
    for one in unmarked:
        ports.rds.set_tags(one.database.arn, {names.DEPLOYMENT_TAG: rotation.rotation_id})
    if seconds:
        logger.info("deployment not requested before the marks count", seconds=seconds)
        return rotation
    keyed = deployment.members[:1] if database.is_cluster else deployment.members
    keys = {member.source_arn: key.arn for member in keyed}
    ports.blue_green.request(deployment.name, members, keys, names.our_tags(plan.base_name, rotation.rotation_id))
    logger.info("deployment requested", deployment=deployment.name, members=list(keys), new_key=key.arn)
    return rotation.having(deployment=deployment.having(accepted=True))


def _followers(source: Instance, rotation: Rotation, ports: Ports) -> list[Instance]:
    """A cluster's instances, or replicas: those of before the deployment, while which green follows the source, too."""
    if rotation.deployment is not None:
        known = [member.source_resource_id for member in rotation.deployment.members[1:]]
        found = [ports.rds.describe_instance_by_resource_id(resource_id) for resource_id in known]
    else:
        found = [ports.rds.describe_instance(identifier) for identifier in databases.followers_of(source)]
    if None in found:
        raise UnknownDatabase(f"what belongs to {source.database.identifier} has changed meanwhile; start again")
    return [follower for follower in found if follower is not None]


def _member(instance: Instance) -> Member:
    database = instance.database
    return Member(
        source_identifier=database.identifier, source_arn=database.arn, source_resource_id=database.resource_id
    )


handler = step(create_blue_green_deployment)
