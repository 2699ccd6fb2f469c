"""RDS Proxies: an endpoint that stays while the database behind it changes.

The sandbox's proxy passes every connection on to one of its own at the database; it does not pool. A real one
multiplexes: clients may keep their connections when it connects elsewhere. Here they lose them, which is the harsher
model. The log-in that its secret is for is tried only to say how the target is.

Known from AWS's documentation ("Quotas and limitations for RDS Proxy", "Using RDS Proxy with Blue/Green Deployments")
and the SDK's model; where neither names a code, the comment says so.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from moto.rds.models import DBProxy, DBProxyTargetGroup
from moto.secretsmanager.exceptions import SecretsManagerClientError
from moto.secretsmanager.models import secretsmanager_backends

from sandbox.rds.cluster_blue_green import ClusterBlueGreen
from sandbox.rds.deployment import Deployment
from sandbox.rds.errors import (
    invalid_combination,
    invalid_instance_state,
    invalid_value,
    proxy_not_found,
    refuse,
)
from sandbox.rds.operations import Params
from sandbox.rds.resources import Instance, View
from sandbox.rds.servers import ServerError

# By EngineFamily. A proxy listens here, wherever its database does.
PORTS = {"MYSQL": 3306, "POSTGRESQL": 5432}
ENGINES = {"MYSQL": ("mariadb", "mysql"), "POSTGRESQL": ("aurora-postgresql", "postgres")}
REGISTRABLE = ("available", "modifying", "backing-up")
"""From RDS's own refusal: "needs to be in [AVAILABLE, MODIFYING, BACKING_UP]" (terraform-provider-aws 19096)."""

ONLY_GROUP = "default"


class Proxy(DBProxy):  # type: ignore[misc]
    """One proxy, and the database that it leads to."""

    def __init__(self, backend: Proxies, **wanted: Any) -> None:
        super().__init__(backend, **wanted)
        self.endpoint = backend.endpoint_of(self.db_proxy_name, "proxy-")
        self.port = PORTS[self.engine_family]
        self.address = backend.addresses.take(self.port)
        self.target: Instance | None = None
        self.door = threading.Lock()
        """Held while its front is opened or closed."""
        self.is_open = False


class Proxies(ClusterBlueGreen):
    """The life of proxies."""

    def create_db_proxy(self, **wanted: Any) -> Proxy:
        if wanted["engine_family"] not in PORTS:
            raise invalid_value(f"The sandbox has no engine of the family {wanted['engine_family']}.")
        with self.lock:
            # Its checks are wanted; what it makes has moto's endpoint, which leads nowhere.
            name = super().create_db_proxy(**wanted).db_proxy_name
            proxy = self.db_proxies[name] = Proxy(self, **wanted)
        self.context.names.set(proxy.endpoint, proxy.address)
        return proxy

    def delete_db_proxy(self, proxy_name: str) -> Proxy:
        with self.lock:
            proxy = self._proxy(proxy_name)
            del self.db_proxies[proxy_name]
        self._disconnect(proxy)
        self.context.names.remove(proxy.endpoint)
        self.addresses.give_back(proxy.address)
        return proxy

    def describe_db_proxy_target_groups(self, proxy_name: str) -> list[DBProxyTargetGroup]:
        self._proxy(proxy_name)
        groups: list[DBProxyTargetGroup] = super().describe_db_proxy_target_groups(proxy_name)
        return groups

    def modify_db_proxy_target_group(self, proxy_name: str, config: dict[str, Any]) -> DBProxyTargetGroup:
        self._proxy(proxy_name)
        return super().modify_db_proxy_target_group(proxy_name, config)

    def views_of_proxy_targets(self, params: Params) -> list[View]:
        with self.lock:
            proxy = self._of_group(params)
            target = proxy.target
        return [self._view_of_target(proxy, target)] if target else []

    def request_proxy_targets(self, params: Params) -> list[View]:
        """Let a proxy lead to a database, a while later."""
        with self.lock:
            proxy = self._of_group(params)
            for name in params.get("DBClusterIdentifiers") or ():
                self.cluster(name)
                raise refuse("InvalidAction", "The sandbox's proxies do not lead to clusters yet.")
            instances = [self.instance(name) for name in params.get("DBInstanceIdentifiers") or ()]
            if len(instances) != 1:
                # AWS's code is not known.
                raise invalid_combination("A proxy is registered with one DB instance or one DB cluster.")
            (instance,) = instances
            self._must_fit(proxy, instance)
            proxy.target = instance
        self._operate(None, lambda: self._register(proxy, instance))
        return [self._view_of_target(proxy, instance)]

    def deregister_proxy_targets(self, params: Params) -> None:
        """Take a proxy's database from it; its connections end."""
        named = [*(params.get("DBInstanceIdentifiers") or ()), *(params.get("DBClusterIdentifiers") or ())]
        with self.lock:
            proxy = self._of_group(params)
            if not named:
                raise invalid_combination("A DB instance or DB cluster has to be named.")  # AWS's code is not known
            for name in named:
                if proxy.target is None or proxy.target.name != name.lower():
                    raise refuse(
                        "DBProxyTargetNotFoundFault", f"{name} is not registered with proxy {proxy.db_proxy_name}."
                    )
        self._disconnect(proxy)

    def _proxy(self, name: str) -> Proxy:
        found: Proxy | None = self.db_proxies.get(name)
        if found is None:
            raise proxy_not_found(name)
        return found

    def _of_group(self, params: Params) -> Proxy:
        proxy = self._proxy(params["DBProxyName"])
        if (group := params.get("TargetGroupName") or ONLY_GROUP) != ONLY_GROUP:
            raise refuse("DBProxyTargetGroupNotFoundFault", f"Proxy {proxy.db_proxy_name} has no target group {group}.")
        return proxy

    def _must_fit(self, proxy: Proxy, instance: Instance) -> None:
        if proxy.target:
            # That a proxy has one target is documented; with which code RDS refuses another one is not. With this one
            # nobody can take it for "the one that I wanted is there".
            raise refuse(
                "DBProxyTargetAlreadyRegisteredFault",
                f"Proxy {proxy.db_proxy_name} is already registered with {proxy.target.name}.",
            )
        # AWS's codes for these are not known, but for that of the status.
        if instance.cluster:
            raise invalid_combination(f"{instance.name} is a member of cluster {instance.cluster.name}: register that.")
        if instance.engine not in ENGINES[proxy.engine_family]:
            raise invalid_combination(f"{instance.engine} is not of the engine family {proxy.engine_family}.")
        if instance.shown_status not in REGISTRABLE:
            raise invalid_instance_state(
                f"DB Instance {instance.name} is in an unsupported state - {instance.shown_status}, needs to be in "
                f"{list(REGISTRABLE)}"
            )
        if instance.source:
            raise invalid_instance_state(f"{instance.name} is a read replica: a proxy leads to its source only.")
        if self._deployment_with(instance):
            raise invalid_instance_state(f"{instance.name} is in a blue/green deployment: register it before.")

    def _register(self, proxy: Proxy, instance: Instance) -> None:
        self._pass(None, self.durations.proxy_registration)

        def lead() -> None:
            with self.lock:
                if proxy.target is not instance or proxy in instance.proxies:
                    return
                instance.proxies.append(proxy)
            # What is stopped is served when it starts.
            if instance.server and instance.server.pid:
                self._open(instance)

        # After what is under way there: it may be restarting.
        self._operate(instance, lead, quiet=True)

    def _disconnect(self, proxy: Proxy) -> None:
        with self.lock:
            former, proxy.target = proxy.target, None
            if former and proxy in former.proxies:
                former.proxies.remove(proxy)
        with proxy.door:
            proxy.is_open = False
            self.fronts.close_endpoint(proxy.unique_id)

    def _get_resource_for_tagging(self, arn: str) -> Any:
        for proxy in self.db_proxies.values():
            for resource in (proxy, *proxy.proxy_target_groups.values()):
                if resource.arn == arn:
                    return resource
        return super()._get_resource_for_tagging(arn)

    # -- what happens to the database ----------------------------------------------------------------------------------

    def _open(self, instance: Instance) -> None:
        super()._open(instance)
        for proxy in list(instance.proxies):
            with proxy.door:
                if proxy.target is instance:
                    assert instance.server
                    instance.server.offer(
                        self.fronts, proxy.unique_id, proxy.address, proxy.port,
                        # MariaDB has one certificate for all who come.
                        self.context.ca.issue(*instance.names_served()), instance.parameters,
                    )  # fmt: skip
                    proxy.is_open = True

    def _end_server(self, instance: Instance) -> None:
        for proxy in list(self.db_proxies.values()):
            if proxy.target is instance:
                self._disconnect(proxy)
        super()._end_server(instance)

    def _exchange_names(self, deployment: Deployment) -> None:
        with self.lock:
            for blue, green in zip(deployment.blues, deployment.greens, strict=True):
                for proxy in blue.proxies:
                    proxy.target = green
                green.proxies, blue.proxies = blue.proxies, []
        super()._exchange_names(deployment)

    # -- how the target is ---------------------------------------------------------------------------------------------

    def _view_of_target(self, proxy: Proxy, instance: Instance) -> View:
        """Without a TargetArn: the API does not return it, whatever its model says (Terraform's documentation)."""
        return {
            "Endpoint": instance.endpoint_name,
            "RdsResourceId": instance.name,
            "Port": instance.port,
            "Type": "RDS_INSTANCE",
            "Role": "READ_WRITE" if proxy.is_open else "UNKNOWN",
            "TargetHealth": self._health(proxy, instance),
        }

    def _health(self, proxy: Proxy, instance: Instance) -> View:
        """Whether the proxy can log in, found out by doing it."""
        if not proxy.is_open:
            return {"State": "REGISTERING"}
        if not self._is_let_in(instance):
            # A real proxy goes on with the connections that it has, and may not notice before it needs another one.
            return {"State": "UNAVAILABLE", "Reason": "UNREACHABLE", "Description": "No security group lets it in."}
        assert instance.server
        reason = "AUTH_FAILURE"
        if (login := self._login(proxy)) is None:
            refusal: str | None = "Proxy does not have any registered credentials"
        else:
            try:
                refusal = instance.server.login_refusal(
                    login["username"], login["password"], login.get("dbname") or instance.db_name
                )
            except ServerError as error:
                reason, refusal = "CONNECTION_FAILED", str(error)
        if refusal is None:
            return {"State": "AVAILABLE"}
        return {"State": "UNAVAILABLE", "Reason": reason, "Description": refusal}

    def _login(self, proxy: Proxy) -> Mapping[str, str] | None:
        """What the proxy's first secret says; None without a secret that is one."""
        backend = secretsmanager_backends[self.account_id][self.region_name]
        with suppress(SecretsManagerClientError, LookupError, ValueError):
            secret = backend.get_secret_value(proxy.auth[0]["SecretArn"], None, "AWSCURRENT")
            login = json.loads(secret["SecretString"])
            if isinstance(login, dict) and {"username", "password"} <= login.keys():
                return login
        return None
