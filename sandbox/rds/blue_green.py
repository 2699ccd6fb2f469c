"""Blue/green deployments: a green copy under keys of its own that follows blue, and a switchover that really switches.

What moto has of this makes a green database out of nothing, under blue's key, and is available at once. Here green is
a server that replicates from blue's, and a switchover keeps every client out until green has all that blue has.
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from functools import partial
from typing import Any, Protocol, runtime_checkable

from sandbox.rds.cluster_resources import Cluster
from sandbox.rds.deployment import ALPHABET, Deployment
from sandbox.rds.errors import (
    invalid_cluster_state,
    invalid_combination,
    invalid_instance_state,
    invalid_value,
    refuse,
)
from sandbox.rds.filters import passes
from sandbox.rds.multi_az_clusters import MultiAzClusters
from sandbox.rds.operations import AVAILABLE, Params
from sandbox.rds.resources import Instance, Operated, View
from sandbox.rds.servers import Server, ServerError
from sandbox.rds.settings import INSTANCE_QUOTA, STORAGE_QUOTA_GIB, tags_of

DEPLOYMENT_NAME = re.compile(r"(?!.*--)[A-Za-z]([A-Za-z0-9-]{0,58}[A-Za-z0-9])?")
SHORTEST_TIMEOUT, TIMEOUT, LONGEST_TIMEOUT = 30, 300, 3600
MAY_BE_SWITCHED = ("AVAILABLE", "SWITCHOVER_FAILED")


@runtime_checkable
class Switchable(Server, Protocol):
    """A server of an engine that RDS makes blue/green deployments of."""

    def refuse_writes(self, within_seconds: float) -> None:
        """End every client's session and let no later one write; returns when nobody is at work any more."""
        ...

    def accept_writes(self) -> None: ...

    def position(self) -> str:
        """A point in the history of writes that lies after everything that was committed."""
        ...

    def has_replayed(self, position: str) -> bool: ...


@runtime_checkable
class Clusterable(Switchable, Protocol):
    """A server of an engine that RDS makes blue/green deployments of clusters of."""

    def forbid_writes(self) -> None:
        """Let no session write, whatever it says, until :meth:`allow_writes`. Those that there are end."""
        ...

    def allow_writes(self) -> None:
        """The end of :meth:`forbid_writes` and of :meth:`refuse_writes`: any session writes, also one of before."""
        ...


class BlueGreen(MultiAzClusters):
    """Deployments of RDS for PostgreSQL, and of whatever else has switchable servers."""

    # -- create --------------------------------------------------------------------------------------------------------

    def request_deployment(self, params: Params) -> Deployment:
        with self.lock:
            name = str(params.get("BlueGreenDeploymentName") or "")
            if not DEPLOYMENT_NAME.fullmatch(name):
                raise invalid_value("The parameter BlueGreenDeploymentName is not a valid name.")
            if any(d.name.lower() == name.lower() for d in self._deployments()):
                raise refuse(
                    "BlueGreenDeploymentAlreadyExistsFault", f"A blue/green deployment named {name} already exists."
                )
            make = self._deployment_of_cluster if ":cluster:" in params["Source"] else self._deployment_of_instance
            deployment = make(params, name)
            self.blue_green_deployments[deployment.identifier] = deployment
            # As of this moment: what is under way changes the deployment, and the answer is about the request.
        self._operate(
            deployment.target,
            lambda: self._build_greens(deployment),
            otherwise=lambda: self._spoil(deployment, "creation failed"),
        )
        return deployment

    def _deployment_of_instance(self, params: Params, name: str) -> Deployment:
        source = self.instance(params["Source"])
        self._must_be_fit_for_blue(source)
        blues = [source, *source.replicas]
        for replica in source.replicas:
            if replica.replicas:
                raise refuse(
                    "SourceDatabaseNotSupportedFault", "Blue/green deployments do not support cascading replicas."
                )
            self._must_be_available(replica, "create a blue/green deployment of")
        self._must_have_room_for(blues)
        keys = self._keys_of(params, blues)
        group = self._target_group(params)
        greens = [self._green_of(blue, keys[blue], group) for blue in blues]
        self._follow(source, greens)
        for green in greens:
            self._enter(green)
        members = list(zip(blues, greens, strict=True))
        return Deployment(self.arn_of, name, tags_of(params), members, self.context.clock.now())

    def _deployment_of_cluster(self, params: Params, name: str) -> Deployment:
        raise NotImplementedError

    def _must_have_room_for(self, blues: list[Instance]) -> None:
        if len(self.databases) + len(blues) > INSTANCE_QUOTA:
            raise refuse("InstanceQuotaExceeded", "The quota of DB instances would be exceeded.")
        used = sum(i.settings["AllocatedStorage"] for i in self.databases.values())
        if used + sum(blue.settings["AllocatedStorage"] for blue in blues) > STORAGE_QUOTA_GIB:
            raise refuse("StorageQuotaExceeded", "The quota of storage would be exceeded.")

    def _target_group(self, params: Params) -> str | None:
        group: str | None = params.get("TargetDBParameterGroupName")
        return self._group(group).name if group else None

    def _follow(self, blue: Instance, greens: list[Instance]) -> None:
        """Let the first green follow blue, and the others the first."""
        for upstream, green in ((blue, greens[0]), *((greens[0], green) for green in greens[1:])):
            green.source = upstream
            upstream.replicas.append(green)

    def _must_be_fit_for_blue(self, source: Instance) -> None:
        unsupported = "SourceDatabaseNotSupportedFault"
        switchable = source.server is None or isinstance(source.server, Switchable)
        if not switchable or not self._kind(source.engine).has_blue_green_deployments:
            raise refuse(unsupported, f"Blue/green deployments do not support {source.engine}.")
        if source.source:
            raise refuse(unsupported, f"{source.name} is a read replica.")
        if source.master_secret:
            raise refuse(unsupported, f"The master password of {source.name} is managed by RDS in Secrets Manager.")
        if source.cluster:
            raise refuse(unsupported, f"{source.name} is a member of a cluster; a deployment is of the cluster.")
        if self._deployment_with(source):
            raise refuse(unsupported, f"{source.name} is a member of another blue/green deployment.")
        self._must_be_available(source, "create a blue/green deployment of")
        if not source.retention_days or source.backups_since is None:
            raise invalid_instance_state(f"Automated backups are not enabled for {source.name}, or none is complete.")

    def _named_keys(self, params: Params, arns: list[str]) -> Mapping[str, str | None]:
        """The key that each entry of the request names, by the ARN that it is for."""
        named: dict[str, str | None] = {}
        for entry in params.get("TargetResourceConfigurations") or ():
            if entry["SourceArn"] in named:
                raise invalid_value(f"{entry['SourceArn']} is in more than one TargetResourceConfiguration.")
            if entry["SourceArn"] not in arns:
                raise invalid_value(f"{entry['SourceArn']} is not a resource of the blue environment.")
            named[entry["SourceArn"]] = entry.get("TargetKmsKeyId")
        return named

    def _keys_of(self, params: Params, blues: list[Instance]) -> Mapping[Instance, str | None]:
        """The key of each green: the one that its entry names, else its blue's."""
        named = self._named_keys(params, [blue.arn for blue in blues])
        keys = {blue: named.get(blue.arn) or blue.kms_key_id for blue in blues}
        if keys[blues[0]] is None and any(keys[blue] for blue in blues[1:]):
            raise invalid_combination("An unencrypted primary cannot have encrypted read replicas.")
        return {blue: self.keys.accept(key) if key else None for blue, key in keys.items()}

    def _green_of(self, blue: Instance, key: str | None, group: str | None) -> Instance:
        settings = {
            **blue.settings,
            # Left out it is not blue's: found by others in 2026 (terraform-provider-aws, pull request 49167).
            "ParameterGroup": group or self._kind(blue.engine).parameter_group,
        }
        # Without blue's associated roles: RDS does not copy them.
        return Instance(self, self._new_name(green_name(blue.name)), settings, [dict(tag) for tag in blue.tags], key)

    def _build_greens(self, deployment: Deployment) -> None:
        for _, green in deployment.members:
            since = self.context.clock.time()
            green.server = self._server_of_green(green)
            self.take_group(green)
            if green.server.apply_parameters(green.parameters):
                green.server.restart()
            self.keys.used(green.kms_key_id, "Decrypt")
            self._pass(green, self.durations.green, since)
            self.apply_in_force(green)
            self._resolve(green)
            self._watch_replica(green)
            self._show(green, "storage-initialization")
        with self.lock:
            # Green is said to be available while its storage is still being loaded; a switchover is refused until then.
            deployment.status = "AVAILABLE"
            if deployment.clusters:
                self._show(deployment.clusters[1], "available")
        for green in deployment.greens:
            self._pass(green, self.durations.storage_initialization)
            self._secure(green)
            self._show(green, "available")

    def _server_of_green(self, green: Instance) -> Server:
        assert green.source
        with (green.source.cluster or green.source).server_lock:
            assert green.source.server
            return self.engines.servers(green.engine).replicate(self._server_name(), green.source.server)

    def _spoil(self, deployment: Deployment, why: str) -> None:
        with self.lock:
            if deployment.status != "DELETING":
                deployment.status, deployment.details = "INVALID_CONFIGURATION", why

    # -- describe ------------------------------------------------------------------------------------------------------

    def _deployments(self) -> list[Deployment]:
        return list(self.blue_green_deployments.values())

    def _deployment_with(self, resource: Operated) -> Deployment | None:
        return next((d for d in self._deployments() if resource in d.resources), None)

    def deployment(self, identifier: str) -> Deployment:
        with self.lock:
            found: Deployment | None = self.blue_green_deployments.get(str(identifier).lower())
            if found is None:
                raise refuse(
                    "BlueGreenDeploymentNotFoundFault", f"Blue/green deployment with name {identifier} not found."
                )
            return found

    def views_of_deployments(self, params: Params) -> list[View]:
        with self.lock:
            identifier = params.get("BlueGreenDeploymentIdentifier")
            chosen = [self.deployment(identifier)] if identifier else self._deployments()
            views = []
            for deployment in chosen:
                view = deployment.view()
                facts = {
                    "blue-green-deployment-identifier": [deployment.identifier],
                    "blue-green-deployment-name": [deployment.name],
                    "source": [view["Source"]],
                    "target": [view["Target"]],
                }
                if passes(params, facts):
                    views.append(view)
            return views

    def _get_resource_for_tagging(self, arn: str) -> Any:
        if arn.split(":")[5:6] == ["deployment"]:
            return self.deployment(arn.rsplit(":", 1)[-1])
        return super()._get_resource_for_tagging(arn)

    # -- switch over ---------------------------------------------------------------------------------------------------

    def request_switchover(self, params: Params) -> Deployment:
        timeout = int(params.get("SwitchoverTimeout") or TIMEOUT)
        if not SHORTEST_TIMEOUT <= timeout <= LONGEST_TIMEOUT:
            raise invalid_value(f"SwitchoverTimeout must be between {SHORTEST_TIMEOUT} and {LONGEST_TIMEOUT}.")
        with self.lock:
            deployment = self.deployment(params["BlueGreenDeploymentIdentifier"])
            if deployment.status not in MAY_BE_SWITCHED or deployment.source.orders:
                raise _not_now(deployment, "switched over")
            for member in deployment.resources:
                if member.shown_status not in AVAILABLE or member.orders:
                    raise refuse(
                        "InvalidBlueGreenDeploymentStateFault",
                        f"Blue Green Deployment {deployment.identifier} cannot be switched over: {member.name} is not "
                        f"in available state but {member.shown_status}.",
                    )
            for member in deployment.resources[1:]:
                member.orders += 1
        self._operate(
            deployment.source,
            lambda: self._switch(deployment, timeout),
            otherwise=lambda: self._switchover_failed(deployment, "internal failure"),
        )
        return deployment

    def _switch(self, deployment: Deployment, timeout_seconds: float) -> None:
        began = time.monotonic()
        blue, green = deployment.primaries
        try:
            time.sleep(self.durations.stale_status_seconds)
            deployment.status = "SWITCHOVER_IN_PROGRESS"
            on_blue, on_green = blue.server, green.server
            assert isinstance(on_blue, Switchable)
            assert isinstance(on_green, Switchable)
            if not self._guarded(deployment):
                return
            with self._everybody_out(deployment):
                limit = min(timeout_seconds, self.durations.longest_switchover_seconds)
                if not _has_everything(on_green, on_blue, began + limit):
                    on_blue.accept_writes()
                    self._switchover_failed(deployment, "The switchover timed out; all changes were rolled back.")
                    return
                self._make_primary(green)
                if deployment.clusters:
                    assert isinstance(on_blue, Clusterable)
                    on_blue.forbid_writes()
                if (left := self.durations.switchover_seconds - (time.monotonic() - began)) > 0:
                    time.sleep(left)
                self._exchange_names(deployment)
            with self.lock:
                deployment.status, deployment.details = "SWITCHOVER_COMPLETED", ""
        finally:
            with self.lock:
                for member in deployment.resources[1:]:
                    member.orders -= 1

    def _guarded(self, deployment: Deployment) -> bool:
        """RDS looks at the replication before it touches anything."""
        for member in deployment.greens:
            if member.server is None or member.server.replication_status() != "replicating":
                self._switchover_failed(deployment, f"{member.name} does not replicate.")
                return False
        return True

    def _switchover_failed(self, deployment: Deployment, why: str) -> None:
        with self.lock:
            deployment.status, deployment.details = "SWITCHOVER_FAILED", why

    @contextmanager
    def _everybody_out(self, deployment: Deployment) -> Iterator[None]:
        """End all connections to both sides, and let nobody in."""
        members = [*deployment.blues, *deployment.greens]
        for member in members:
            self.cut(member, "reset")
        try:
            yield
        finally:
            for member in members:
                self.restore_network(member)

    def _exchange_names(self, deployment: Deployment) -> None:
        with self.lock:
            for resource in deployment.resources:
                for name in resource.own_endpoint_names():
                    self.context.names.remove(name)
                del self._book_of(resource)[resource.name]
            for blue, green in deployment.pairs:
                book = self._book_of(blue)
                number = next(n for n in range(1, 1000) if f"{blue.name}-old{n}" not in book)
                blue.name, green.name = f"{blue.name}-old{number}", blue.name
                for resource in (blue, green):
                    book[resource.name] = resource
                # Green is told whose place it takes, also by the tags: all that somebody has set on it is gone.
                green.tags = [dict(tag) for tag in blue.tags]
        for member in (*deployment.greens, *deployment.blues):
            self._open(member)
            self._resolve(member)

    def _book_of(self, resource: Operated) -> MutableMapping[str, Operated]:
        book: MutableMapping[str, Operated] = self.clusters if isinstance(resource, Cluster) else self.databases
        return book

    # -- delete --------------------------------------------------------------------------------------------------------

    def request_deployment_deletion(self, params: Params) -> Deployment:
        with self.lock:
            deployment = self.deployment(params["BlueGreenDeploymentIdentifier"])
            with_target = bool(params.get("DeleteTarget"))
            switched = deployment.status == "SWITCHOVER_COMPLETED"
            busy = deployment.status in ("PROVISIONING", "SWITCHOVER_IN_PROGRESS", "DELETING")
            if busy or (deployment.source.orders and not switched):
                raise _not_now(deployment, "deleted")
            if with_target and switched:
                raise invalid_combination("DeleteTarget cannot be specified after a switchover has completed.")
            if with_target and (kept := [g.name for _, g in deployment.pairs if g.settings.get("DeletionProtection")]):
                invalid = invalid_cluster_state if deployment.clusters else invalid_instance_state
                raise invalid(f"Deletion protection of {', '.join(kept)} is enabled.")
            deployment.status, deployment.deleted = "DELETING", self.context.clock.now()
            targets = [green for _, green in deployment.pairs] if with_target else []
            doomed = [green for green in targets if self._book_of(green).get(green.name) is green]
            for green in doomed:
                green.status = "deleting"
                green.doomed.set()
        # Replicas before their primary: RDS would promote them.
        for green in reversed(doomed):
            if isinstance(green, Instance):
                self._operate(green, partial(self._delete_green, green))

        def finish() -> None:
            if not with_target:
                self._let_go(deployment, switched=switched)
            while any(self.databases.get(green.name) is green for green in doomed):
                self._pass(None, 0.1)
            for green in doomed:
                if isinstance(green, Cluster):
                    self._forget_cluster(green, forget_backups=True)
            self._pass(None, self.durations.deployment_deletion)
            with self.lock:
                self.blue_green_deployments.pop(deployment.identifier, None)

        self._operate(None, finish)
        return deployment

    def _delete_green(self, green: Instance) -> None:
        if green.cluster:
            self._delete_member(green, green.cluster)
        else:
            self._delete(green, None, True)

    def _let_go(self, deployment: Deployment, *, switched: bool) -> None:
        """What stays is on its own from now on."""
        blue, green = deployment.primaries
        if not switched:
            if green.source and green.server:
                self._make_primary(green)
        elif deployment.clusters:
            # RDS protects the former production cluster only as long as there is a deployment (Aurora User Guide:
            # deleting a blue/green deployment); an instance it leaves as it is (RDS User Guide: the same).
            assert isinstance(blue.server, Clusterable)
            with blue.server_lock:  # a backup that is under way comes first: here it would end as a standby's
                blue.server.allow_writes()

    def delete_db_instance(self, db_instance_identifier: str, *arguments: Any, **options: Any) -> Instance:
        with self.lock:
            instance = self.instance(db_instance_identifier)
            if deployment := self._deployment_with(instance):
                raise invalid_instance_state(
                    f"{instance.name} is a member of blue/green deployment {deployment.identifier}."
                )
        return super().delete_db_instance(db_instance_identifier, *arguments, **options)

    def delete_db_cluster(self, params: Params) -> Cluster:
        with self.lock:
            cluster = self.cluster(params["DBClusterIdentifier"])
            if deployment := self._deployment_with(cluster):
                raise invalid_cluster_state(
                    f"{cluster.name} is a member of blue/green deployment {deployment.identifier}."
                )
        return super().delete_db_cluster(params)

    def promote_read_replica(self, params: Params) -> Instance:
        promoted = super().promote_read_replica(params)
        for deployment in self._deployments():
            if promoted in deployment.greens and deployment.status != "SWITCHOVER_COMPLETED":
                self._spoil(deployment, f"{promoted.name} was promoted.")
        return promoted


def green_name(blue: str) -> str:
    suffix = "".join(secrets.choice(ALPHABET) for _ in range(6))
    return f"{blue[: 63 - len('-green-') - len(suffix)].rstrip('-')}-green-{suffix}"


def _has_everything(green: Switchable, blue: Switchable, give_up_at: float) -> bool:
    """Stop the writes on blue, and wait until green has all of them."""
    try:
        blue.refuse_writes(give_up_at - time.monotonic())
    except ServerError:
        return False
    position = blue.position()
    while not green.has_replayed(position):
        if time.monotonic() > give_up_at:
            return False
        time.sleep(0.02)
    return True


def _not_now(deployment: Deployment, what: str) -> Exception:
    return refuse(
        "InvalidBlueGreenDeploymentStateFault",
        f"Blue Green Deployment {deployment.identifier} cannot be {what}: it is {deployment.status}.",
    )
