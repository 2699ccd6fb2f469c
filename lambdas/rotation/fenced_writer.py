"""Which instance of a cluster wrote when its fence was raised by a login, and whether it still does.

Such a fence refuses new sessions everywhere and ends those on the writer. What is open on a reader stays, and cannot
write there. But when that reader takes the writer's place, PostgreSQL keeps its sessions, and lets them write from then
on (PostgreSQL manual: Hot Standby, User's Overview); a Multi-AZ DB cluster fails over by that. No look at the fence
shows it: every database still refuses whoever is new. That another instance writes, RDS shows.
"""

from lambdas.rotation.errors import DatabaseUnreachable, UnknownDatabase
from lambdas.rotation.ports import Instance, Ports
from lambdas.rotation.state import Database, Fence


def to_be_fenced(source: Database, ports: Ports) -> str | None:
    """The name of the instance that writes now; None where the source is no cluster.

    Asked before the first database is closed: who takes its place from then on is another one.

    Raises:
        UnknownDatabase: terminal; the cluster is gone. Nothing was closed.
        DatabaseUnreachable: retryable; RDS shows no writer, as in the middle of a failover. Nothing was closed.
    """
    if not source.is_cluster:
        return None
    cluster = ports.clusters.describe_by_resource_id(source.resource_id)
    if cluster is None:
        raise UnknownDatabase(f"{source.identifier} is gone")
    if (writer := _writer(cluster)) is None:
        raise DatabaseUnreachable(f"RDS shows no instance of {source.identifier} that writes")
    return writer


def taken_over(fence: Fence | None, cluster: Instance) -> str | None:
    """Why somebody may have written to a source whose fence stands, or None.

    Of a fence that says nothing of a writer nothing is known: of an instance, by the network, or from before it did.
    """
    if fence is None or fence.writer is None:
        return None
    writer = _writer(cluster)
    if writer == fence.writer:
        return None
    return (
        f"{writer or 'no instance'} writes in {cluster.database.identifier}, not {fence.writer} as when the fence was "
        "raised: a session that was open there by then may have written past the fence"
    )


def taken_over_now(source: Database, fence: Fence, ports: Ports) -> str | None:
    """As `taken_over`, of the source as RDS shows it now; it is only asked where there is something to compare."""
    if fence.writer is None:
        return None
    cluster = ports.clusters.describe_by_resource_id(source.resource_id)
    return f"{source.identifier} is gone" if cluster is None else taken_over(fence, cluster)


def _writer(cluster: Instance) -> str | None:
    listed = cluster.raw.get("DBClusterMembers") or ()
    return next((str(one["DBInstanceIdentifier"]) for one in listed if one.get("IsClusterWriter")), None)
