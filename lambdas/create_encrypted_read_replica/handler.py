"""CreateEncryptedReadReplica: ask RDS for the target."""

from lambdas.rotation import names
from lambdas.rotation.errors import UnknownDatabase
from lambdas.rotation.ports import Ports
from lambdas.rotation.state import Rotation
from lambdas.rotation.step import logger, step


def create_encrypted_read_replica(rotation: Rotation, ports: Ports) -> Rotation:
    """Ask for a replica of the source under the new key, with every setting that can be given at creation.

    Idempotent: a target with this rotation's tag is adopted. Does not wait: WaitForReplicationSync observes.

    Raises:
        UnknownDatabase: terminal; the source is gone, whatever has its name by now.
        ReplicaKeyRefused, NameTaken, AwsRefused: terminal; the source was not touched.
    """
    plan, source = rotation.planned()
    key = rotation.keyed()
    instance = ports.rds.describe_instance_by_resource_id(source.resource_id)
    if instance is None:
        raise UnknownDatabase(f"{source.identifier} is gone")
    target = names.target_identifier(plan.base_name, rotation.rotation_id)
    rotation = rotation.having(target_identifier=target)
    # Written down before the call: whatever becomes of its answer, a rollback has to look for this target.
    ports.ledger.record(rotation)
    ports.rds.request_read_replica(instance, target, key.arn, names.our_tags(plan.base_name, rotation.rotation_id))
    logger.info("target requested", target=target, new_key=key.arn)
    return rotation


handler = step(create_encrypted_read_replica)
