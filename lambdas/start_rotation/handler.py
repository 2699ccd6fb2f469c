"""StartRotation: resolve the database, make the plan, take the lock, open the ledger entry. Or take up what is left."""

from lambdas.rotation.errors import AccessRefused, AwsRefused, AwsUnavailable, RotationInProgress
from lambdas.rotation.names import rotation_id_of
from lambdas.rotation.policy import plan_of, recovered_execution, requested_database
from lambdas.rotation.ports import Instance, Ports
from lambdas.rotation.state import DnsRecordName, Finding, FirstLook, Replica, Rotation
from lambdas.rotation.step import logger, step
from lambdas.start_rotation.backups import with_replicated_backups
from lambdas.start_rotation.lineage import resolve
from lambdas.start_rotation.takeover import (
    carry_on_retirements,
    finish_rollback,
    recover,
    take_over,
    without_stale_lock,
)

HIGH_TTL_SECONDS = 300


def start_rotation(rotation: Rotation, ports: Ports) -> Rotation:
    """Begin a rotation, or continue one whose execution ended.

    Idempotent: a repeated call finds its own lock and its own entry.

    Raises:
        InputRefused, UnknownDatabase, RotationInProgress, RecoveryExhausted: terminal; nothing was created.
    """
    ended = recovered_execution(rotation.request)
    if ended is not None:
        return recover(rotation, ended, ports)
    base_name, instance = resolve(requested_database(rotation.request), ports)
    plan = plan_of(base_name, rotation.request, instance.tags, ports.settings.defaults)
    fresh = rotation.having(
        rotation_id=rotation_id_of(rotation.execution_arn), plan=plan, source=instance.database, route="rotate"
    )
    holder = ports.ledger.acquire(fresh)
    if holder is not None:
        taken = take_over(fresh, holder, ports)
        if taken is not None:
            logger.info("unfinished rotation taken over", taken_rotation_id=taken.rotation_id, route=taken.route)
            return taken
        if (other := without_stale_lock(fresh, holder, ports)) is not None:
            raise RotationInProgress(f"rotation {other.rotation_id} of {base_name} has just begun")
    if (left := finish_rollback(fresh, ports)) is not None:
        logger.info("unfinished rollback taken over", taken_rotation_id=left.rotation_id)
        return left
    carry_on_retirements(fresh, ports)
    fresh = _with_replicas(fresh, instance, ports)
    return ports.ledger.open(with_replicated_backups(fresh, instance, _first_look(fresh, ports), ports))


def _with_replicas(rotation: Rotation, source: Instance, ports: Ports) -> Rotation:
    """The plan with those of this Region; what else there is, or what is gone by now, Preflight refuses."""
    plan, _ = rotation.planned()
    listed = source.raw.get("ReadReplicaDBInstanceIdentifiers") or ()
    found = [ports.rds.describe_instance(name) for name in listed if ":" not in name]
    replicas = tuple(
        Replica(
            identifier=one.database.identifier,
            arn=one.database.arn,
            resource_id=one.database.resource_id,
            key_arn=one.database.kms_key_arn,
            allocated_gib=int(one.raw.get("AllocatedStorage") or 0),
        )
        for one in found
        if one is not None
    )
    return rotation.having(plan=plan.having(replicas=replicas))


def _first_look(rotation: Rotation, ports: Ports) -> FirstLook:
    """What Preflight, inside the VPC, may not be able to ask. It reports what is found here."""
    plan, source = rotation.planned()
    seen = FirstLook(warnings=_watchers(source.identifier, ports))
    if "dns" in plan.connectivity and plan.dns_record is not None:
        record = plan.dns_record
        limitations = tuple(ports.dns.limitations(record.zone_id, record.name, source.address))
        more = () if limitations else _ttl(record, ports)
        seen = seen.having(limitations=limitations, warnings=seen.warnings + more)
    if "proxy" in plan.connectivity and plan.proxy is not None:
        seen = seen.having(limitations_of_proxy=tuple(ports.proxies.limitations(plan.proxy, source)))
    return seen


def _ttl(record: DnsRecordName, ports: Ports) -> tuple[Finding, ...]:
    found = ports.dns.describe_record(record.zone_id, record.name)
    if found is None or found[1] <= HIGH_TTL_SECONDS:
        return ()
    return (
        Finding(
            name="HighTtl",
            message=f"{record.name} has a TTL of {found[1]} s, and no fence is raised before it has passed once",
            advice="lower it beforehand, if the rotation has to fit into a window",
        ),
    )


def _watchers(identifier: str, ports: Ports) -> tuple[Finding, ...]:
    """Warnings only: a question about them that is not answered keeps nobody from rotating."""
    try:
        watchers = ports.monitoring.watchers_of(identifier)
    except (AccessRefused, AwsRefused, AwsUnavailable) as refused:
        return (
            Finding(
                name="WatchersUnknown",
                message=f"alarms and dashboards cannot be read: {refused}",
                advice=f"look for those on {identifier} yourself",
            ),
        )
    found = [
        *(("AlarmOnInstance", f"alarm {name} watches {identifier}") for name in watchers.alarms),
        *(("DashboardOfInstance", f"dashboard {name} shows {identifier}") for name in watchers.dashboards),
    ]
    if watchers.unseen:
        found.append(("WatchersUnknown", f"{watchers.unseen} alarms and dashboards or more were not looked at"))
    return tuple(
        Finding(name=name, message=message, advice="after the cutover, let them look at the target")
        for name, message in found
    )


handler = step(start_rotation)
