"""What exists: the ARNs, tags and properties of resources that policies speak of, read from moto's backends.

Everything here answers for resources that do not exist as well; whether they should is for the service to say.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from moto.backends import get_backend
from moto.core.resource_tagging import iter_taggable_backends

PARTITION = "aws"


@dataclass(frozen=True)
class Inventory:
    account_id: str
    region: str

    def at(self, arn: str) -> Inventory:
        """Of the Region that an ARN is of."""
        region = arn.split(":")[3] if arn.startswith("arn:") and arn.count(":") >= 5 else ""
        return self.of(region)

    def of(self, region: str) -> Inventory:
        return self if region in ("", self.region) else replace(self, region=region)

    def backend(self, service: str) -> Any:
        return get_backend(service)[self.account_id]["aws" if service in ("iam", "sts", "route53") else self.region]

    def arn(self, service: str, resource: str) -> str:
        return f"arn:{PARTITION}:{service}:{self.region}:{self.account_id}:{resource}"

    def role_arn(self, name_or_arn: str) -> str:
        return (
            name_or_arn
            if name_or_arn.startswith("arn:")
            else f"arn:{PARTITION}:iam::{self.account_id}:role/{name_or_arn}"
        )

    # -- what conditions may ask of a resource -------------------------------------------------------------------------

    def context(self, arn: str) -> dict[str, str | list[str]]:
        """Condition keys that follow from the resource itself: its tags, and the properties its service offers."""
        if (there := self.at(arn)) is not self:
            return there.context(arn)
        tags = self.tags(arn)
        context: dict[str, str | list[str]] = {f"aws:ResourceTag/{key}": value for key, value in tags.items()}
        service, kind = arn.split(":")[2] if arn.startswith("arn:") else "", _kind(arn)
        match service, kind:
            case "rds", (
                "db" | "snapshot" | "pg" | "og" | "subgrp" | "es" | "cluster" | "cluster-snapshot" | "cluster-pg"
            ):
                context |= {f"rds:{kind}-tag/{key}": value for key, value in tags.items()}
                find = {"db": self.db_instance, "cluster": self.db_cluster}.get(kind)
                if find and (found := find(arn)) is not None:
                    context |= _database_context(found)
            case "kms", "key":
                if (key := self.key(arn)) is not None:
                    context |= self._key_context(key)
            case "secretsmanager", _:
                context |= {f"secretsmanager:ResourceTag/{key}": value for key, value in tags.items()}
            case "iam", "role":
                context |= {f"iam:ResourceTag/{key}": value for key, value in tags.items()}
        return context

    def tags(self, arn: str) -> dict[str, str]:
        if not arn.startswith("arn:") or arn.endswith("*"):
            return {}
        service, kind = arn.split(":")[2], _kind(arn)
        found: Any = None
        # A resource that does not exist has no tags; each backend says so with an exception of its own.
        with suppress(Exception):
            match service:
                case "rds":
                    rds = self.backend("rds")
                    found = getattr(rds, "tags_for_permissions", rds.list_tags_for_resource)(arn)
                case "kms" if key := self.key(arn):
                    found = self.backend("kms").list_resource_tags(key.id)["Tags"]
                case "route53":
                    found = self.backend("route53").list_tags_for_resource(arn.rsplit("/", 1)[-1])
                case "iam" if kind == "role":
                    role = self.backend("iam").get_role_by_arn(arn)
                    found = list(role.tags.values()) if isinstance(role.tags, dict) else role.tags
                case "scheduler":
                    # A schedule has the tags of its group.
                    group = arn.split("/")[1]
                    found = self.backend("scheduler").list_tags_for_resource(
                        self.arn("scheduler", f"schedule-group/{group}")
                    )
                case "sqs":
                    found = self.backend("sqs").get_queue(arn.rsplit(":", 1)[-1]).tags
        if found is None:
            base = _unqualified(arn)
            for backend in iter_taggable_backends(self.account_id, self.region):
                if backend.owns_arn(base):
                    for resource in backend.iter_tagged_resources():
                        if resource.arn == base:
                            return dict(resource.tags)
        return _as_dict(found)

    # -- resources by name ---------------------------------------------------------------------------------------------

    def db_instance(self, identifier: str) -> Any | None:
        return self.backend("rds").databases.get(identifier.rsplit(":", 1)[-1])

    def db_cluster(self, identifier: str) -> Any | None:
        return self.backend("rds").clusters.get(identifier.rsplit(":", 1)[-1])

    def db_cluster_members(self, identifier: str) -> list[str]:
        """The ARNs of a cluster's instances; none of one that does not exist."""
        cluster = self.db_cluster(identifier)
        return [] if cluster is None else [str(member.arn) for member in cluster.members]

    def db_replicas(self, identifier: str) -> list[str]:
        """The ARNs of an instance's replicas; none of one that does not exist."""
        return [str(replica.arn) for replica in getattr(self.db_instance(identifier), "replicas", ())]

    def monitored_with(self, identifier: str) -> list[Any]:
        """What has a monitoring role: an instance and its replicas, or a cluster's instances."""
        found = self.db_cluster(identifier) if _kind(identifier) == "cluster" else self.db_instance(identifier)
        members = [*getattr(found, "members", ()), *([found] if found else ()), *getattr(found, "replicas", ())]
        return [one for one in members if getattr(one, "settings", {}).get("MonitoringRoleArn")]

    def db_proxy(self, name: str) -> Any | None:
        return self.backend("rds").db_proxies.get(name)

    def secret(self, secret_id: str) -> Any | None:
        return self.backend("secretsmanager").secrets.get(secret_id)

    def secret_arn(self, secret_id: str) -> str:
        secret = self.secret(secret_id)
        if secret is not None:
            return str(secret.arn)
        return secret_id if secret_id.startswith("arn:") else self.arn("secretsmanager", f"secret:{secret_id}")

    def table_arn(self, name: str) -> str:
        return name if name.startswith("arn:") else self.arn("dynamodb", f"table/{name}")

    def table(self, name: str) -> Any | None:
        return self.backend("dynamodb").tables.get(name.rsplit("/", 1)[-1])

    def topic(self, arn: str) -> Any | None:
        return self.backend("sns").topics.get(arn)

    def queue(self, url: str) -> Any | None:
        return self.backend("sqs").queues.get(url.rstrip("/").rsplit("/", 1)[-1])

    # -- KMS -----------------------------------------------------------------------------------------------------------

    def key_arn(self, key_id: str) -> str:
        """The key's own ARN, whether it was called by id, ARN, alias or alias ARN."""
        if alias := alias_of(key_id):
            target = self._alias_target(alias)
            return self.arn("kms", f"key/{target}") if target else self.arn("kms", alias)
        return key_id if key_id.startswith("arn:") else self.arn("kms", f"key/{key_id}")

    def key(self, key_id: str) -> Any | None:
        return self.backend("kms").keys.get(self.key_arn(key_id).rsplit("/", 1)[-1])

    def key_policy(self, arn: str) -> dict[str, Any] | None:
        key = self.key(arn)
        document = None if key is None else key.policy
        return json.loads(document) if isinstance(document, str) else document

    def is_customer_key(self, key_id: str | None) -> bool:
        """False for none, and for AWS managed keys: their policy lets everybody use them through their service."""
        if not key_id or (alias_of(key_id) or "").startswith("alias/aws/"):
            return False
        key = self.key(key_id)
        return key is None or (
            key.key_manager != "AWS" and not any(name.startswith("alias/aws/") for name in self._aliases(key))
        )

    def _alias_target(self, alias: str) -> str | None:
        # Not moto's own look-up: that one makes the AWS managed key that is asked for.
        return next((str(key.id) for key in self.backend("kms").keys.values() if alias in key.aliases), None)

    def _aliases(self, key: Any) -> list[str]:
        return sorted(str(name) for name in key.aliases)

    def _key_context(self, key: Any) -> dict[str, str | list[str]]:
        context: dict[str, str | list[str]] = {
            "kms:KeySpec": key.key_spec,
            "kms:KeyUsage": key.key_usage,
            "kms:KeyOrigin": key.origin,
            "kms:MultiRegion": str(bool(key.multi_region)).lower(),
        }
        if aliases := self._aliases(key):
            context["kms:ResourceAliases"] = aliases
        return context


def alias_of(key_id: str) -> str | None:
    """``alias/orders`` of an alias or of an alias's ARN; None for anything else."""
    name = key_id.split(":", 5)[-1]
    return name if name.startswith("alias/") else None


def _kind(arn: str) -> str:
    """``db`` of ``…:db:orders``, ``key`` of ``…:key/1234``."""
    fields = arn.split(":", 5)
    return fields[5].replace("/", ":").split(":")[0] if len(fields) == 6 else ""


def _unqualified(arn: str) -> str:
    service = arn.split(":")[2]
    return ":".join(arn.split(":")[:7]) if service in ("lambda", "states") else arn


def _as_dict(tags: Any) -> dict[str, str]:
    """Backends answer with a dict, or with a list of {"Key": …, "Value": …} or {"TagKey": …}, in any case."""
    if not tags:
        return {}
    if isinstance(tags, dict):
        return (
            _as_dict(tags["Tags"])
            if isinstance(tags.get("Tags"), list)
            else {str(key): str(value) for key, value in tags.items()}
        )
    return dict(_pairs(tags))


def _pairs(tags: Iterable[dict[str, Any]]) -> Iterable[tuple[str, str]]:
    for tag in tags:
        lowered = {name.lower(): value for name, value in tag.items()}
        yield (
            str(lowered.get("key", lowered.get("tagkey"))),
            str(lowered.get("value", lowered.get("tagvalue", "")) or ""),
        )


def _database_context(instance: Any) -> dict[str, str]:
    """Of an instance or a cluster; what one does not have is no condition key of its."""
    facts = {
        "rds:DatabaseEngine": getattr(instance, "engine", None),
        "rds:DatabaseClass": getattr(instance, "db_instance_class", None),
        "rds:DatabaseName": getattr(instance, "db_name", None),
        "rds:MultiAz": getattr(instance, "multi_az", None),
        "rds:StorageEncrypted": getattr(instance, "storage_encrypted", None),
        "rds:StorageSize": getattr(instance, "allocated_storage", None),
        "rds:Piops": getattr(instance, "iops", None),
    }
    return {
        key: str(value).lower() if isinstance(value, bool) else str(value)
        for key, value in facts.items()
        if value is not None
    }
