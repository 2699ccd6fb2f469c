"""DB cluster parameter groups: as those of instances, for every member of the clusters that have them."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any

from moto.rds.models import DBClusterParameterGroup

from sandbox.rds.engines import Kind
from sandbox.rds.errors import invalid_value, refuse
from sandbox.rds.operations import Params
from sandbox.rds.parameters import GROUP_QUOTA, ParameterGroups, as_dictionary, at_once, merged
from sandbox.rds.resources import View


class ClusterParameterGroups(ParameterGroups):
    """An instance has what is changed with ``immediate`` a moment later, and the rest after its next reboot."""

    def __init__(self, region_name: str, account_id: str) -> None:
        super().__init__(region_name, account_id)
        for kind in self._clustered():
            self._enter_group(kind.parameter_group, f"Default cluster parameter group for {kind.family}", kind.family)

    def _clustered(self) -> list[Kind]:
        return [kind for kind in self.engines.kinds.values() if kind.cluster_parameters is not None]

    def create_db_cluster_parameter_group(
        self,
        db_cluster_parameter_group_name: str,
        db_parameter_group_family: str,
        description: str,
        tags: list[dict[str, str]] | None,
    ) -> DBClusterParameterGroup:
        with self.lock:
            if db_parameter_group_family not in {kind.family for kind in self._clustered()}:
                raise invalid_value(
                    f"ParameterGroupFamily {db_parameter_group_family} is not a valid parameter group family"
                )
            self._must_be_new(db_cluster_parameter_group_name)
            return self._enter_group(db_cluster_parameter_group_name, description, db_parameter_group_family, tags)

    def copy_db_cluster_parameter_group(
        self,
        source_db_cluster_parameter_group_identifier: str,
        target_db_cluster_parameter_group_identifier: str,
        target_db_cluster_parameter_group_description: str,
        tags: list[dict[str, str]] | None = None,
    ) -> DBClusterParameterGroup:
        with self.lock:
            source = self.cluster_group(source_db_cluster_parameter_group_identifier)
            if source.name.startswith("default."):
                raise invalid_value("Default parameter groups cannot be copied.")
            name = target_db_cluster_parameter_group_identifier
            self._must_be_new(name)
            made = self._enter_group(
                name, target_db_cluster_parameter_group_description, source.db_parameter_group_family, tags
            )
            made.update_cluster_parameters([dict(parameter) for parameter in source.parameters.values()])
            return made

    def modify_db_cluster_parameter_group(
        self, db_cluster_parameter_group_name: str, db_cluster_parameter_group_parameters: Iterable[dict[str, Any]]
    ) -> DBClusterParameterGroup:
        changes = [as_dictionary(change) for change in db_cluster_parameter_group_parameters]
        with self.lock:
            group = self._own_cluster_group(db_cluster_parameter_group_name)
            rules = self._rules_of(group)
            self._check(rules, changes, "ParameterName", "ParameterValue", "ApplyMethod")
            group.update_cluster_parameters(changes)
        self._bring_into_force_in_clusters(group, at_once(changes))
        return group

    def reset_db_cluster_parameter_group(self, params: Params) -> DBClusterParameterGroup:
        with self.lock:
            group = self._own_cluster_group(params["DBClusterParameterGroupName"])
            changes = self._to_reset(params, group.parameters, self._rules_of(group))
            for change in changes:
                group.parameters.pop(change["ParameterName"], None)
        self._bring_into_force_in_clusters(group, at_once(changes))
        return group

    def describe_db_cluster_parameter_groups(self, group_name: str | None = None) -> list[DBClusterParameterGroup]:
        return [self.cluster_group(group_name)] if group_name else list(self.db_cluster_parameter_groups.values())

    def delete_db_cluster_parameter_group(self, db_cluster_parameter_group_name: str) -> None:
        with self.lock:
            name = self.cluster_group(db_cluster_parameter_group_name).name
            if name.startswith("default."):
                raise refuse("InvalidDBParameterGroupState", "Default parameter groups cannot be deleted.")
            if any(cluster.settings["ParameterGroup"] == name for cluster in self.clusters.values()):
                raise refuse(
                    "InvalidDBParameterGroupState",
                    f"One or more DB clusters are still members of this parameter group {name}, so the group cannot be "
                    "deleted",
                )
            del self.db_cluster_parameter_groups[name]

    def views_of_cluster_parameters(self, params: Params) -> list[View]:
        with self.lock:
            group = self.cluster_group(params["DBClusterParameterGroupName"])
            return self._parameters(group.parameters, self._rules_of(group), params.get("Source"))

    def cluster_group(self, name: str) -> DBClusterParameterGroup:
        """The group with this name or ARN.

        Raises:
            DBClusterParameterGroupNotFound
        """
        short = name.rsplit(":", 1)[-1].lower()
        if short not in self.db_cluster_parameter_groups:
            raise refuse("DBClusterParameterGroupNotFound", f"DBClusterParameterGroup not found: {short}")
        return self.db_cluster_parameter_groups[short]

    def _own_cluster_group(self, name: str) -> DBClusterParameterGroup:
        group = self.cluster_group(name)
        if group.name.startswith("default."):
            raise invalid_value("Default parameter groups cannot be modified.")
        return group

    def _must_be_new(self, name: str) -> None:
        if name.lower() in self.db_cluster_parameter_groups:
            raise refuse("DBParameterGroupAlreadyExists", f"Parameter group {name} already exists")
        if len(self.db_cluster_parameter_groups) >= GROUP_QUOTA:
            raise refuse("DBParameterGroupQuotaExceeded", "The quota of DB cluster parameter groups would be exceeded.")

    def _enter_group(
        self, name: str, description: str, family: str, tags: list[dict[str, str]] | None = None
    ) -> DBClusterParameterGroup:
        made = DBClusterParameterGroup(self, name, description, family, tags)
        self.db_cluster_parameter_groups[made.name] = made
        return made

    def _rules_of(self, group: DBClusterParameterGroup) -> Any:
        kind = next(kind for kind in self._clustered() if kind.family == group.db_parameter_group_family)
        # An instance's parameters may stand here, too; then they are for every member that has none of its own.
        return {**kind.parameters, **(kind.cluster_parameters or {})}

    def _bring_into_force_in_clusters(self, group: DBClusterParameterGroup, names: set[str]) -> None:
        with self.lock:
            members = [
                member
                for cluster in self.clusters.values()
                if cluster.settings["ParameterGroup"] == group.name
                for member in cluster.members
                if names and not member.cluster_group_pending_reboot
            ]
            for member in members:
                after = self.values_of_cluster(member.cluster)
                member.cluster_in_force = merged(member.cluster_in_force, after, names)
                member.parameters_applying += 1
        for member in members:
            self._operate(None, partial(self._apply_parameters, member))
