"""Amazon RDS Proxy: which database a proxy leads to. A proxy has a single one at a time (RDS user guide, limitations of
RDS Proxy), so leading it elsewhere takes two calls, and in between it leads nowhere.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from lambdas.rotation.aws.client import calls, client, pages, tolerating
from lambdas.rotation.databases import led_to_by, own_name
from lambdas.rotation.errors import AccessRefused, AwsRefused, AwsUnavailable, ConnectivityChanged
from lambdas.rotation.names import CLUSTER
from lambdas.rotation.ports import ProxyTarget
from lambdas.rotation.state import Database, Finding

_NOT_NOW = ("InvalidDBProxyState", "InsufficientAvailableIPsInSubnet")


class RdsProxies:
    """`ports.Proxies`."""

    def limitations(self, proxy: str, database: Database) -> Sequence[Finding]:
        """Why this proxy cannot be led from ``database`` to another one."""
        try:
            found = led_to_by(proxy, database, self)
        except AccessRefused as refused:
            advice = "add its ARN and its target group's to proxy_arns in the stack's configuration and deploy"
            return [Finding(name="ProxyNotAllowed", message=str(refused), advice=advice)]
        except AwsRefused as refused:
            advice = "correct key-rotation:proxy: the name of an RDS Proxy, not an ARN"
            return [Finding(name="ProxyUnknown", message=str(refused), advice=advice)]
        except ConnectivityChanged as unfit:
            advice = "correct key-rotation:proxy, or register the database with that proxy"
            return [Finding(name="ProxyLeadsElsewhere", message=str(unfit), advice=advice)]
        if found.unavailable is not None:
            return [
                Finding(
                    name="ProxyUnavailable",
                    message=f"RDS Proxy {proxy} cannot use {database.identifier}: {found.unavailable}",
                    advice="see what its log says, and correct that: nobody comes through it as it is",
                )
            ]
        return []

    def target_of(self, proxy: str) -> ProxyTarget | None:
        """Of a cluster RDS lists the cluster, and beside it the instances that the proxy has found.

        Raises:
            ConnectivityChanged: terminal; there is no such proxy, or it leads to several databases.
            AwsUnavailable: retryable; also while RDS is at work on the proxy.
        """
        try:
            with _asked("rds:DescribeDBProxyTargets"):
                found = pages("rds", "describe_db_proxy_targets", "Targets", DBProxyName=proxy)
        except AwsRefused as refused:
            if refused.code == "DBProxyNotFound":
                raise ConnectivityChanged(f"there is no RDS Proxy {proxy}") from refused
            raise
        clusters = {f"{CLUSTER}{one['RdsResourceId']}" for one in found if one.get("Type") == "TRACKED_CLUSTER"}
        led_to = sorted(clusters or {str(one["RdsResourceId"]) for one in found})
        if len(led_to) > 1:
            raise ConnectivityChanged(f"RDS Proxy {proxy} leads to {', '.join(led_to)}")
        return ProxyTarget(led_to[0], _why_unavailable(found)) if led_to else None

    def lead(self, proxy: str, database: Database, instead_of: Database) -> None:
        """Let it lead to ``database``; does not wait until the proxy has found it. Repeatable, also halfway.

        A proxy that leads nowhere is taken for one that an earlier attempt has left so.

        Raises:
            ConnectivityChanged: terminal; it leads to a third database.
            AwsUnavailable: retryable; also while RDS is at work on the proxy.
            AwsRefused: terminal; such as for a database that is in no state to be registered.
        """
        wanted, former = own_name(database), own_name(instead_of)
        found = self.target_of(proxy)
        led_to = found.name if found is not None else None
        if led_to not in (None, wanted, former):
            raise ConnectivityChanged(f"RDS Proxy {proxy} leads to {led_to}, not to {former}")
        if led_to == former:
            # Gone already: the answer to an earlier call got lost.
            with tolerating("DBProxyTargetNotFound"), _asked("rds:DeregisterDBProxyTargets"):
                client("rds").deregister_db_proxy_targets(DBProxyName=proxy, **_listed(instead_of))
        if led_to != wanted:
            self._register(proxy, database, former)

    def _register(self, proxy: str, database: Database, former: str) -> None:
        try:
            with _asked("rds:RegisterDBProxyTargets"):
                client("rds").register_db_proxy_targets(DBProxyName=proxy, **_listed(database))
        except AwsRefused as refused:
            if refused.code != "DBProxyTargetAlreadyRegistered":
                raise
            found = self.target_of(proxy)
            if found is None or found.name == former:
                raise AwsUnavailable(f"RDS Proxy {proxy} has not given up its former target: {refused}") from refused
            if found.name != own_name(database):
                raise ConnectivityChanged(f"RDS Proxy {proxy} leads to {found.name} by now: {refused}") from refused


@contextmanager
def _asked(call: str) -> Iterator[None]:
    try:
        with calls(call):
            yield
    except AwsRefused as refused:
        if refused.code in _NOT_NOW:
            raise AwsUnavailable(str(refused)) from refused
        raise


def _listed(database: Database) -> dict[str, list[str]]:
    return {"DBClusterIdentifiers" if database.is_cluster else "DBInstanceIdentifiers": [database.identifier]}


def _why_unavailable(targets: list[dict[str, Any]]) -> str | None:
    """What the proxy says of the targets that it connects to: instances, a cluster has no health of its own."""
    instances = [target for target in targets if target.get("Type") != "TRACKED_CLUSTER"]
    health = [target.get("TargetHealth") or {} for target in instances]
    if any(one.get("State") == "AVAILABLE" for one in health):
        return None
    said = (" ".join(filter(None, (one.get("State"), one.get("Reason"), one.get("Description")))) for one in health)
    return "; ".join(filter(None, said)) or "it has found no instance yet"
