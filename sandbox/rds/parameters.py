"""DB parameter groups: what may stand in one, and when it is in force on the instances that have it."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from moto.rds.models import DBParameterGroup

from sandbox.rds.errors import invalid_combination, invalid_value, refuse
from sandbox.rds.operations import Operations, Params
from sandbox.rds.resources import Instance, View

GROUP_QUOTA = 50
PARAMETERS_PER_REQUEST = 20
Change = Mapping[str, Any]


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
        changes = [_as_dictionary(change) for change in db_parameter_group_parameters]
        with self.lock:
            group = self._own_group(db_parameter_group_name)
            self._check(group, changes, "ParameterName", "ParameterValue", "ApplyMethod")
            group.update_parameters(changes)
        self._bring_into_force(group, {c["ParameterName"] for c in changes if c["ApplyMethod"] == "immediate"})
        return group

    def reset_db_parameter_group(self, params: Params) -> DBParameterGroup:
        with self.lock:
            group = self._own_group(params["DBParameterGroupName"])
            changes = [_as_dictionary(change) for change in params.get("Parameters") or ()]
            if params.get("ResetAllParameters", True) is not False and not changes:
                # As a whole: dynamic parameters at once, static ones with the next reboot.
                known = self._known(group)
                changes = [
                    {
                        "ParameterName": n,
                        "ApplyMethod": "pending-reboot" if n in known and known[n].static else "immediate",
                    }
                    for n in group.parameters
                ]
            self._check(group, changes, "ParameterName", "ApplyMethod")
            for change in changes:
                group.parameters.pop(change["ParameterName"], None)
        self._bring_into_force(group, {c["ParameterName"] for c in changes if c["ApplyMethod"] == "immediate"})
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
            own, known = dict(group.parameters), self._known(group)
        wanted = params.get("Source")
        views = []
        for name in sorted(own.keys() | known.keys()):
            rule = known.get(name)
            view = {
                "ParameterName": name,
                "ParameterValue": rule.default if rule else None,
                "Source": "user" if name in own else "system",
                "ApplyType": "static" if rule and rule.static else "dynamic",
                "DataType": rule.data_type if rule else "string",
                "AllowedValues": rule.allowed if rule else None,
                "IsModifiable": True,
                "ApplyMethod": "pending-reboot",
            } | own.get(name, {})
            if wanted in (None, view["Source"]):
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

    def _known(self, group: DBParameterGroup) -> Any:
        return next((kind.parameters for kind in self.engines.kinds.values() if kind.family == group.family), {})

    def _must_have_room(self) -> None:
        if len(self.db_parameter_groups) >= GROUP_QUOTA:
            raise refuse("DBParameterGroupQuotaExceeded", "The quota of DB parameter groups would be exceeded.")

    def _check(self, group: DBParameterGroup, changes: Sequence[Change], *needed: str) -> None:
        if not changes or len(changes) > PARAMETERS_PER_REQUEST:
            raise invalid_value(f"A request changes 1 to {PARAMETERS_PER_REQUEST} parameters.")
        known = self._known(group)
        for change in changes:
            if missing := [member for member in needed if not change.get(member)]:
                raise invalid_value(f"The parameter {missing[0]} must be provided and must not be blank.")
            name, value = change["ParameterName"], change.get("ParameterValue")
            rule = known.get(name)
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
                kept = {name: value for name, value in instance.in_force.items() if name not in names}
                changed = {name: value for name, value in self.values_of(instance).items() if name in names}
                instance.in_force = kept | changed
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


def _as_dictionary(change: Any) -> dict[str, Any]:
    """A change by the API's own names; moto's dictionary answers to others, too."""
    original = getattr(change, "original_dict", None)
    return dict(original()) if original else dict(change)
