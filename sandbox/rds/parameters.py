"""DB parameter groups: what may stand in one, and when it is in force on the instances that have it."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from moto.rds.models import DBParameterGroup

from sandbox.rds.engines import Parameter
from sandbox.rds.errors import invalid_combination, invalid_value, refuse
from sandbox.rds.operations import Operations, Params
from sandbox.rds.resources import Instance, View

GROUP_QUOTA = 50
PARAMETERS_PER_REQUEST = 20
Change = Mapping[str, Any]
Rules = Mapping[str, Parameter]


class ParameterGroups(Operations):
    """A parameter that is changed with ``immediate`` is in force on every instance of the group a moment later."""

    def create_db_parameter_group(self, db_parameter_group_kwargs: Any) -> DBParameterGroup:
        family = db_parameter_group_kwargs.get("db_parameter_group_family")
        if family and family not in {kind.family for kind in self.engines.kinds.values()}:
            raise invalid_value(f"ParameterGroupFamily {family} is not a valid parameter group family")
        with self.lock:
            self._must_have_room()
            return super().create_db_parameter_group(db_parameter_group_kwargs)

    def copy_db_parameter_group(
        self,
        source_db_parameter_group_identifier: str,
        target_db_parameter_group_identifier: str,
        target_db_parameter_group_description: str,
        tags: list[dict[str, str]] | None = None,
    ) -> DBParameterGroup:
        with self.lock:
            source = self._group(source_db_parameter_group_identifier)
            if source.name.startswith("default."):
                raise invalid_value("Default parameter groups cannot be copied.")
            name = target_db_parameter_group_identifier.lower()
            if name in self.db_parameter_groups:
                raise refuse("DBParameterGroupAlreadyExists", f"Parameter group {name} already exists")
            self._must_have_room()
            made = DBParameterGroup(self, name, target_db_parameter_group_description, source.family, tags)
            made.update_parameters([dict(parameter) for parameter in source.parameters.values()])
            self.db_parameter_groups[name] = made
        return made

    def modify_db_parameter_group(
        self, db_parameter_group_name: str, db_parameter_group_parameters: Iterable[dict[str, Any]]
    ) -> DBParameterGroup:
        changes = [as_dictionary(change) for change in db_parameter_group_parameters]
        with self.lock:
            group = self._own_group(db_parameter_group_name)
            self._check(
                self._known(group), changes, "ParameterName", "ParameterValue", "ApplyMethod",
                elsewhere=self._elsewhere(group),
            )  # fmt: skip
            group.update_parameters(changes)
        self._bring_into_force(group, at_once(changes))
        return group

    def reset_db_parameter_group(self, params: Params) -> DBParameterGroup:
        with self.lock:
            group = self._own_group(params["DBParameterGroupName"])
            changes = self._to_reset(params, group.parameters, self._known(group))
            for change in changes:
                group.parameters.pop(change["ParameterName"], None)
        self._bring_into_force(group, at_once(changes))
        return group

    def describe_db_parameter_groups(self, db_parameter_group_kwargs: Params) -> list[DBParameterGroup]:
        name = db_parameter_group_kwargs.get("db_parameter_group_name")
        return [self._group(name)] if name else list(self.db_parameter_groups.values())

    def delete_db_parameter_group(self, db_parameter_group_name: str) -> DBParameterGroup:
        with self.lock:
            name = self._group(db_parameter_group_name).name
            if name.startswith("default."):
                raise refuse("InvalidDBParameterGroupState", "Default parameter groups cannot be deleted.")
            if any(i.settings["ParameterGroup"] == name for i in self.databases.values()):
                raise refuse(
                    "InvalidDBParameterGroupState",
                    "One or more database instances are still members of this parameter group "
                    f"{name}, so the group cannot be deleted",
                )
            return self.db_parameter_groups.pop(name)

    def views_of_parameters(self, params: Params) -> list[View]:
        """Of the group's own, and of those that the sandbox knows: RDS lists some hundreds more."""
        with self.lock:
            group = self._group(params["DBParameterGroupName"])
            return self._parameters(group.parameters, self._known(group), params.get("Source"))

    def _parameters(self, group: Mapping[str, Change], known: Rules, source: str | None) -> list[View]:
        views = []
        for name in sorted(group.keys() | known.keys()):
            rule = known.get(name)
            view = {
                "ParameterName": name,
                "ParameterValue": rule.default if rule else None,
                "Source": "user" if name in group else "system",
                "ApplyType": "static" if rule and rule.static else "dynamic",
                "DataType": rule.data_type if rule else "string",
                "AllowedValues": rule.allowed if rule else None,
                "IsModifiable": True,
                "ApplyMethod": "pending-reboot",
            } | dict(group.get(name, {}))
            if source in (None, view["Source"]):
                views.append({key: value for key, value in view.items() if value is not None})
        return views

    def _group(self, name: str) -> DBParameterGroup:
        short = name.rsplit(":", 1)[-1].lower()
        if short not in self.db_parameter_groups:
            raise refuse("DBParameterGroupNotFound", f"DBParameterGroup not found: {short}")
        return self.db_parameter_groups[short]

    def _own_group(self, name: str) -> DBParameterGroup:
        group = self._group(name)
        if group.name.startswith("default."):
            raise invalid_value("Default parameter groups cannot be modified.")
        return group

    def _known(self, group: DBParameterGroup) -> Rules:
        return next((kind.parameters for kind in self.engines.kinds.values() if kind.family == group.family), {})

    def _elsewhere(self, group: DBParameterGroup) -> Collection[str]:
        """Parameters that the engine has, and groups of this kind have not."""
        kind = next((kind for kind in self.engines.kinds.values() if kind.family == group.family), None)
        return kind.cluster_parameters or () if kind else ()

    def _must_have_room(self) -> None:
        if len(self.db_parameter_groups) >= GROUP_QUOTA:
            raise refuse("DBParameterGroupQuotaExceeded", "The quota of DB parameter groups would be exceeded.")

    def _to_reset(self, params: Params, own: Iterable[str], known: Rules) -> list[dict[str, Any]]:
        changes = [as_dictionary(change) for change in params.get("Parameters") or ()]
        if params.get("ResetAllParameters", True) is not False and not changes:
            # As a whole: dynamic parameters at once, static ones with the next reboot.
            changes = [
                {
                    "ParameterName": name,
                    "ApplyMethod": "pending-reboot" if name in known and known[name].static else "immediate",
                }
                for name in own
            ]
        self._check(known, changes, "ParameterName", "ApplyMethod")
        return changes

    def _check(self, known: Rules, changes: Sequence[Change], *needed: str, elsewhere: Collection[str] = ()) -> None:
        if not changes or len(changes) > PARAMETERS_PER_REQUEST:
            raise invalid_value(f"A request changes 1 to {PARAMETERS_PER_REQUEST} parameters.")
        for change in changes:
            if missing := [member for member in needed if not change.get(member)]:
                raise invalid_value(f"The parameter {missing[0]} must be provided and must not be blank.")
            name, value = change["ParameterName"], change.get("ParameterValue")
            rule = known.get(name)
            if rule is None and name in elsewhere:
                raise invalid_value(f"Could not find parameter with name: {name}")
            if rule and rule.static and change["ApplyMethod"] == "immediate":
                raise invalid_combination(f"cannot use immediate apply method for static parameter: {name}")
            if rule and value is not None and not rule.takes(value):
                raise invalid_value(f"Invalid parameter value: {value} for: {name} allowed values are: {rule.allowed}")

    def _bring_into_force(self, group: DBParameterGroup, names: set[str]) -> None:
        """Those that are changed at once; the others wait for a reboot, and so does a group that was just attached."""
        with self.lock:
            having = [i for i in self.databases.values() if i.settings["ParameterGroup"] == group.name]
            concerned = [instance for instance in having if names and not instance.group_pending_reboot]
            for instance in concerned:
                instance.in_force = merged(instance.in_force, self.values_of(instance), names)
                instance.parameters_applying += 1
        for instance in concerned:
            self._operate(None, partial(self._apply_parameters, instance))

    def _apply_parameters(self, instance: Instance) -> None:
        # Beside what is under way: RDS changes parameters while it takes a snapshot, too.
        time.sleep(self.durations.parameters_seconds)
        try:
            while not (instance.doomed.is_set() or self._closed.is_set()):
                if self._applied(instance):
                    return
                with self.context.clock.idle():
                    time.sleep(0.1)
        finally:
            with self.lock:
                instance.parameters_applying -= 1

    def _applied(self, instance: Instance) -> bool:
        """False while the server is down for a moment; one that is not there at all gets them when it starts."""
        server = instance.server
        if server is None or instance.status in ("creating", "stopped"):
            return True
        try:
            self.apply_in_force(instance)
        except Exception:
            if server.pid:
                raise
            return False
        return True


def at_once(changes: Iterable[Change]) -> set[str]:
    """The parameters that do not wait for a reboot."""
    return {change["ParameterName"] for change in changes if change["ApplyMethod"] == "immediate"}


def merged(before: Mapping[str, str], after: Mapping[str, str], names: Collection[str]) -> dict[str, str]:
    """What was in force, with these parameters (and no others) as they are afterwards."""
    kept = {name: value for name, value in before.items() if name not in names}
    return kept | {name: value for name, value in after.items() if name in names}


def as_dictionary(change: Any) -> dict[str, Any]:
    """A change by the API's own names; moto's dictionary answers to others, too."""
    original = getattr(change, "original_dict", None)
    return dict(original()) if original else dict(change)
