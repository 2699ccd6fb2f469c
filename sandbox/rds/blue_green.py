"""Blue/green deployments: a green copy under keys of its own that follows blue, and a switchover that really switches.

What moto has of this makes a green database out of nothing, under blue's key, and is available at once. Here green is
a server that replicates from blue's, and a switchover keeps every client out until green has all that blue has.
"""

from __future__ import annotations

import datetime as dt
import re
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from sandbox.rds.clusters import Clusters
from sandbox.rds.errors import invalid_combination, invalid_instance_state, invalid_value, refuse
from sandbox.rds.filters import passes
from sandbox.rds.operations import AVAILABLE, Params
from sandbox.rds.resources import Instance, Tagged, View, present
from sandbox.rds.servers import Server, ServerError
from sandbox.rds.settings import INSTANCE_QUOTA, STORAGE_QUOTA_GIB, tags_of

DEPLOYMENT_NAME = re.compile(r"(?!.*--)[A-Za-z]([A-Za-z0-9-]{0,58}[A-Za-z0-9])?")
SHORTEST_TIMEOUT, TIMEOUT, LONGEST_TIMEOUT = 30, 300, 3600
ALPHABET = "abcdefghijklmnopqrstuvwxyz0123456789"
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


@dataclass(eq=False)
class Deployment(Tagged):
    """One deployment. ``members``: blue and green, the primaries first."""

    arn_of: Callable[[str, str], str]
    name: str
    tags: list[dict[str, str]]
    members: list[tuple[Instance, Instance]]
    created: dt.datetime
    identifier: str = field(default_factory=lambda: "bgd-" + "".join(secrets.choice(ALPHABET) for _ in range(16)))
    status: str = "PROVISIONING"
    details: str = ""
    deleted: dt.datetime | None = None
    resource_type = "deployment"

    @property
    def arn(self) -> str:
        return self.arn_of("deployment", self.identifier)

    @property
    def blues(self) -> list[Instance]:
        return [blue for blue, _ in self.members]

    @property
    def greens(self) -> list[Instance]:
        return [green for _, green in self.members]

    @property
    def built(self) -> bool:
        return self.status not in ("PROVISIONING", "INVALID_CONFIGURATION")

    def view(self) -> View:
        blue, green = self.members[0]
        return present(
            {
                "BlueGreenDeploymentIdentifier": self.identifier,
                "BlueGreenDeploymentName": self.name,
                # By their names of now: after the switchover the source is the one that is called "-old1".
                "Source": blue.arn,
                "Target": green.arn,
                "SwitchoverDetails": [
                    {"SourceMember": one.arn, "TargetMember": other.arn, "Status": self._status_of(other)}
                    for one, other in self.members
                ],
                "Tasks": [
                    {"Name": task, "Status": "COMPLETED" if self.built else "IN_PROGRESS"}
                    for task in ("CREATING_READ_REPLICA_OF_SOURCE", "CONFIGURE_BACKUPS")
                ],
                "Status": self.status,
                "StatusDetails": self.details or None,
                "CreateTime": self.created,
                "DeleteTime": self.deleted,
                "TagList": self.tags,
            }
        )

    def _status_of(self, green: Instance) -> str:
        if self.status == "DELETING":
            return "AVAILABLE"
        return "PROVISIONING" if green.status == "creating" or not self.built else self.status


class BlueGreen(Clusters):
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
            source = self.instance(params["Source"])
            self._must_be_fit_for_blue(source)
            blues = [source, *source.replicas]
            for replica in source.replicas:
                if replica.replicas:
                    raise refuse(
                        "SourceDatabaseNotSupportedFault", "Blue/green deployments do not support cascading replicas."
                    )
                self._must_be_available(replica, "create a blue/green deployment of")
            if len(self.databases) + len(blues) > INSTANCE_QUOTA:
                raise refuse("InstanceQuotaExceeded", "The quota of DB instances would be exceeded.")
            used = sum(i.settings["AllocatedStorage"] for i in self.databases.values())
            if used + sum(blue.settings["AllocatedStorage"] for blue in blues) > STORAGE_QUOTA_GIB:
                raise refuse("StorageQuotaExceeded", "The quota of storage would be exceeded.")
            keys = self._keys_of(params, blues)
            group = params.get("TargetDBParameterGroupName")
            if group and group not in self.db_parameter_groups:
                raise refuse("DBParameterGroupNotFound", f"DBParameterGroup not found: {group}")
            tags = tags_of(params)
            greens = [self._green_of(blue, keys[blue], group) for blue in blues]
            deployment = Deployment(
                self.arn_of, name, tags, list(zip(blues, greens, strict=True)), self.context.clock.now()
            )
            for green in greens[1:]:
                green.source = greens[0]
                greens[0].replicas.append(green)
            greens[0].source = source
            source.replicas.append(greens[0])
            for green in greens:
                self._enter(green)
            self.blue_green_deployments[deployment.identifier] = deployment
            # As of this moment: what is under way changes the deployment, and the answer is about the request.
        self._operate(
            greens[0],
            lambda: self._build_greens(deployment),
            otherwise=lambda: self._spoil(deployment, "creation failed"),
        )
        return deployment

    def _must_be_fit_for_blue(self, source: Instance) -> None:
        unsupported = "SourceDatabaseNotSupportedFault"
        if not isinstance(source.server, Switchable) and source.server is not None:
            raise refuse(unsupported, f"Blue/green deployments do not support {source.engine}.")
        if source.source:
            raise refuse(unsupported, f"{source.name} is a read replica.")
        if source.master_secret:
            raise refuse(unsupported, f"The master password of {source.name} is managed by RDS in Secrets Manager.")
        if any(source in (*d.blues, *d.greens) for d in self._deployments()):
            raise refuse(unsupported, f"{source.name} is a member of another blue/green deployment.")
        self._must_be_available(source, "create a blue/green deployment of")
        if not source.retention_days or source.backups_since is None:
            raise invalid_instance_state(f"Automated backups are not enabled for {source.name}, or none is complete.")

    def _keys_of(self, params: Params, blues: list[Instance]) -> Mapping[Instance, str | None]:
        """The key of each green: the one that its entry names, else its blue's."""
        named: dict[str, str | None] = {}
        for entry in params.get("TargetResourceConfigurations") or ():
            if entry["SourceArn"] in named:
                raise invalid_value(f"{entry['SourceArn']} is in more than one TargetResourceConfiguration.")
            if entry["SourceArn"] not in [blue.arn for blue in blues]:
                raise invalid_value(f"{entry['SourceArn']} is not a resource of the blue environment.")
            named[entry["SourceArn"]] = entry.get("TargetKmsKeyId")
        keys = {blue: named.get(blue.arn) or blue.kms_key_id for blue in blues}
        if keys[blues[0]] is None and any(keys[blue] for blue in blues[1:]):
            raise invalid_combination("An unencrypted primary cannot have encrypted read replicas.")
        return {blue: self.keys.accept(key) if key else None for blue, key in keys.items()}

    def _green_of(self, blue: Instance, key: str | None, group: str | None) -> Instance:
        suffix = "".join(secrets.choice(ALPHABET) for _ in range(6))
        settings = {
            **blue.settings,
            # Left out it is not blue's: found by others in 2026 (terraform-provider-aws, pull request 49167).
            "ParameterGroup": group or self._kind(blue.engine).parameter_group,
        }
        name = self._new_name(f"{blue.name[: 63 - len('-green-') - 6].rstrip('-')}-green-{suffix}")
        green = Instance(self, name, settings, [dict(tag) for tag in blue.tags], key)
        green._associated_roles = list(blue._associated_roles)
        return green

    def _build_greens(self, deployment: Deployment) -> None:
        for _, green in deployment.members:
            since = self.context.clock.time()
            upstream = green.source
            assert upstream is not None
            assert upstream.server is not None
            green.server = self.engines.servers(green.engine).replicate(self._server_name(), upstream.server)
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
        for green in deployment.greens:
            self._pass(green, self.durations.storage_initialization)
            self._secure(green)
            self._show(green, "available")

    def _spoil(self, deployment: Deployment, why: str) -> None:
        with self.lock:
            if deployment.status != "DELETING":
                deployment.status, deployment.details = "INVALID_CONFIGURATION", why

    # -- describe ------------------------------------------------------------------------------------------------------

    def _deployments(self) -> list[Deployment]:
        return list(self.blue_green_deployments.values())

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
            if deployment.status not in MAY_BE_SWITCHED or deployment.blues[0].orders:
                raise _not_now(deployment, "switched over")
            for member in (*deployment.blues, *deployment.greens):
                if member.shown_status not in AVAILABLE or member.orders:
                    raise refuse(
                        "InvalidBlueGreenDeploymentStateFault",
                        f"Blue Green Deployment {deployment.identifier} cannot be switched over: {member.name} is not "
                        f"in available state but {member.shown_status}.",
                    )
            for member in deployment.blues[1:] + deployment.greens:
                member.orders += 1
        self._operate(
            deployment.blues[0],
            lambda: self._switch(deployment, timeout),
            otherwise=lambda: self._switchover_failed(deployment, "internal failure"),
        )
        return deployment

    def _switch(self, deployment: Deployment, timeout_seconds: float) -> None:
        began = time.monotonic()
        blue, green = deployment.members[0]
        try:
            time.sleep(self.durations.stale_status_seconds)
            deployment.status = "SWITCHOVER_IN_PROGRESS"
            on_blue, on_green = blue.server, green.server
            assert isinstance(on_blue, Switchable)
            assert isinstance(on_green, Switchable)
            if not self._guarded(deployment):
                return
            with self._everybody_out(deployment):
                if not _has_everything(on_green, on_blue, began + timeout_seconds):
                    on_blue.accept_writes()
                    self._switchover_failed(deployment, "The switchover timed out; all changes were rolled back.")
                    return
                self._make_primary(green)
                if (left := self.durations.switchover_seconds - (time.monotonic() - began)) > 0:
                    time.sleep(left)
                self._exchange_names(deployment)
            with self.lock:
                deployment.status, deployment.details = "SWITCHOVER_COMPLETED", ""
        finally:
            with self.lock:
                for member in deployment.blues[1:] + deployment.greens:
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
            self.fronts.cut(member.dbi_resource_id, "reset")
        try:
            yield
        finally:
            for member in members:
                self.fronts.restore(member.dbi_resource_id)

    def _exchange_names(self, deployment: Deployment) -> None:
        with self.lock:
            for member in (*deployment.blues, *deployment.greens):
                self.context.names.remove(member.endpoint_name)
                del self.databases[member.name]
            for blue, green in deployment.members:
                number = next(n for n in range(1, 1000) if f"{blue.name}-old{n}" not in self.databases)
                blue.name, green.name = f"{blue.name}-old{number}", blue.name
                for member in (blue, green):
                    self.databases[member.name] = member
                # Green is told whose place it takes, also by the tags: all that somebody has set on it is gone.
                green.tags = [dict(tag) for tag in blue.tags]
        for member in (*deployment.greens, *deployment.blues):
            self._open(member)
            self._resolve(member)

    # -- delete --------------------------------------------------------------------------------------------------------

    def request_deployment_deletion(self, params: Params) -> Deployment:
        with self.lock:
            deployment = self.deployment(params["BlueGreenDeploymentIdentifier"])
            with_target = bool(params.get("DeleteTarget"))
            switched = deployment.status == "SWITCHOVER_COMPLETED"
            busy = deployment.status in ("PROVISIONING", "SWITCHOVER_IN_PROGRESS", "DELETING")
            if busy or (deployment.blues[0].orders and not switched):
                raise _not_now(deployment, "deleted")
            if with_target and switched:
                raise invalid_combination("DeleteTarget cannot be specified after a switchover has completed.")
            if with_target and (kept := [g.name for g in deployment.greens if g.settings["DeletionProtection"]]):
                raise invalid_instance_state(f"Deletion protection of {', '.join(kept)} is enabled.")
            deployment.status, deployment.deleted = "DELETING", self.context.clock.now()
            doomed = [g for g in deployment.greens if self.databases.get(g.name) is g] if with_target else []
            for green in doomed:
                green.status = "deleting"
                green.doomed.set()
        # Replicas before their primary: RDS would promote them.
        for green in reversed(doomed):
            self._operate(green, lambda green=green: self._delete(green, None, True))  # type: ignore[misc]

        def finish() -> None:
            if not with_target and not switched:
                self._make_primary(deployment.greens[0])
            while any(self.databases.get(green.name) is green for green in doomed):
                self._pass(None, 0.1)
            self._pass(None, self.durations.deployment_deletion)
            with self.lock:
                self.blue_green_deployments.pop(deployment.identifier, None)

        self._operate(None, finish)
        return deployment

    def delete_db_instance(self, db_instance_identifier: str, *arguments: Any, **options: Any) -> Instance:
        with self.lock:
            instance = self.instance(db_instance_identifier)
            for deployment in self._deployments():
                if instance in (*deployment.blues, *deployment.greens):
                    raise invalid_instance_state(
                        f"{instance.name} is a member of blue/green deployment {deployment.identifier}."
                    )
        return super().delete_db_instance(db_instance_identifier, *arguments, **options)

    def promote_read_replica(self, params: Params) -> Instance:
        promoted = super().promote_read_replica(params)
        for deployment in self._deployments():
            if promoted in deployment.greens and deployment.status != "SWITCHOVER_COMPLETED":
                self._spoil(deployment, f"{promoted.name} was promoted.")
        return promoted


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
