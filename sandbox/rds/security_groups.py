"""VPC security groups: who may begin to talk to an instance.

EC2 has the groups and their rules; a change of those counts for the next connection. What goes on when a group, or a
rule, is taken away is a connection that was made before (EC2 User Guide: security group connection tracking): it ends
with the server, by a failover, or when somebody hangs up. EC2 also has connections that it does not track, which such a
change ends at once; those of the sandbox are all tracked, which is the harsher model of a fence.

A rule may name any source: clients on loopback have no address or group of their own. Who is not let in would hear
nothing from AWS, and give up after a while; here he is refused at once, as by a port that nobody listens on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from moto.ec2.exceptions import DependencyViolationError
from moto.ec2.models import EC2Backend, ec2_backends

from sandbox.rds.errors import invalid_combination, invalid_value
from sandbox.rds.operations import Operations, Params
from sandbox.rds.resources import Instance, Operated

PROTOCOLS = ("tcp", "-1")


class SecurityGroups(Operations):
    """The groups of an instance, or of all of a cluster's, from the request to the moment when they are in force."""

    def _named_groups(self, params: Params, vpc_id: str) -> list[str]:
        """The groups that a request names, which belong where the instance is."""
        groups = list(params.get("VpcSecurityGroupIds") or ())
        for group in groups:
            found = self._ec2.get_security_group_from_id(group)
            if found is None:
                raise invalid_value(f"Invalid security group , groupId= {group}, groupName=.")
            if found.vpc_id != vpc_id:
                raise invalid_combination(
                    "The DB instance and EC2 security group are in different VPCs. The DB instance is in "
                    f"{vpc_id} and the EC2 security group is in {found.vpc_id}"
                )
        return groups

    def _default_security_group(self, vpc_id: str) -> str:
        return str(self._ec2.get_default_security_group(vpc_id).id)

    def _change_groups(self, owner: Operated, groups: list[str]) -> None:
        """Let it have these groups, a moment later; it is available meanwhile, and takes other orders."""
        owner.settings["SecurityGroups"] = groups

        def bring_into_force() -> None:
            self._pass(None, self.durations.security_groups)
            with self.lock:
                # Overtaken by another change: that one brings its own into force.
                if owner.settings["SecurityGroups"] is groups:
                    owner.groups_in_force = groups
            for instance in owner.instances:
                self.guard(instance)

        self._operate(None, bring_into_force)

    def copy_groups(self, instance: Instance, other: Instance) -> None:
        """Let an instance, or the cluster that it is of, have the groups of another one, in force at once."""
        owner = instance.has_groups_of
        with self.lock:
            owner.settings["SecurityGroups"] = owner.groups_in_force = list(other.has_groups_of.groups_in_force)
        for one in owner.instances:
            self.guard(one)

    def _open(self, instance: Instance) -> None:
        self.guard(instance)
        super()._open(instance)

    def guard(self, instance: Instance) -> None:
        """Let the instance's fronts do what its groups say now."""
        with self.lock:
            guard = self.fronts.admit if self._is_let_in(instance) else self.fronts.bar
            for front in instance.fronts_to_guard:
                guard(front)

    def guard_all(self) -> None:
        """The rules of a group have changed."""
        with self.lock:
            for instance in list(self.databases.values()):
                self.guard(instance)

    def _is_let_in(self, instance: Instance) -> bool:
        """Whether a new connection to the instance's port is: one rule of one group is enough."""
        groups = map(self._ec2.get_security_group_from_id, instance.has_groups_of.groups_in_force)
        return any(_covers(rule, instance.port) for group in groups if group for rule in group.ingress_rules)

    def has_group(self, group: str) -> bool:
        """Whether something of RDS's has a security group, or gives it up only now."""
        with self.lock:
            return any(
                group in (*owner.settings["SecurityGroups"], *owner.groups_in_force)
                for owner in (*self.databases.values(), *self.clusters.values())
            )

    @property
    def _ec2(self) -> Any:
        return ec2_backends[self.account_id][self.region_name]


def _covers(rule: Any, port: int) -> bool:
    if rule.ip_protocol not in PROTOCOLS:
        return False
    return rule.from_port is None or rule.from_port <= port <= rule.to_port


def install_security_groups(started: list[Any]) -> None:
    """Put an EC2 into moto whose groups RDS minds, before its first request.

    Args:
        started: the RDS of each Region that somebody has used; grows.
    """

    class GuardedEc2(EC2Backend):  # type: ignore[misc]
        __module__ = EC2Backend.__module__  # moto finds the URLs of a service by the module of its backend

        def create_security_group(self, *arguments: Any, **wanted: Any) -> Any:
            group = super().create_security_group(*arguments, **wanted)
            if group.is_default:
                # Those who have it may talk to each other. moto's lets nobody in.
                super().authorize_security_group_ingress(
                    group.id, "-1", None, None, [], source_groups=[{"GroupId": group.id}], vpc_id=group.vpc_id
                )
            return group

        def delete_security_group(self, name: str | None = None, group_id: str | None = None) -> None:
            found = self.get_security_group_from_id(group_id) if group_id else self.get_security_group_from_name(name)
            if found and any(rds.has_group(found.id) for rds in started):
                raise DependencyViolationError(f"resource {found.id} has a dependent object")
            super().delete_security_group(name, group_id)

    def minded(name: str) -> Callable[..., Any]:
        def change(self: Any, *arguments: Any, **wanted: Any) -> Any:
            result = getattr(EC2Backend, name)(self, *arguments, **wanted)
            for rds in started:
                rds.guard_all()
            return result

        return change

    for name in ("authorize_security_group_ingress", "revoke_security_group_ingress", "modify_security_group_rules"):
        setattr(GuardedEc2, name, minded(name))
    ec2_backends.backend = GuardedEc2
