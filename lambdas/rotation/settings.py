"""The settings that a target must have of its source, whichever way it was made."""

from collections.abc import Collection, Mapping
from typing import Any

from lambdas.rotation.errors import SettingsNotCarried
from lambdas.rotation.ports import Instance, Ports

Differences = Mapping[str, tuple[Any, Any]]


def request_repair(source: Instance, target: Instance, ports: Ports, *, besides: Collection[str] = ()) -> list[str]:
    """Ask for every setting of the target that differs, and name them in order; nothing differs, nothing is named.

    Args:
        besides: settings that are not compared.

    Raises:
        SettingsNotCarried: terminal; a difference that cannot be repaired.
    """
    found = ports.rds.settings_differences(source, target)
    differences = {name: sides for name, sides in found.items() if name not in besides}
    if differences:
        refuse(target, differences, ports.rds.request_setting_repair(source, target, differences))
    return sorted(differences)


def request_repair_of_cluster(
    source: Instance, target: Instance, ports: Ports, *, besides: Collection[str] = ()
) -> list[str]:
    """The same of a cluster. A function of its own: most steps may not change one."""
    found = ports.clusters.settings_differences(source, target)
    differences = {name: sides for name, sides in found.items() if name not in besides}
    if differences:
        refuse(target, differences, ports.clusters.request_setting_repair(source, target, differences))
    return sorted(differences)


def refuse(target: Instance, differences: Differences, hopeless: Collection[str]) -> None:
    """Raises: SettingsNotCarried (terminal) where there are settings that nothing can be done about."""
    if hopeless:
        listed = "; ".join(f"{name}: {differences[name][0]} became {differences[name][1]}" for name in sorted(hopeless))
        raise SettingsNotCarried(f"{target.database.identifier} cannot be given {listed}")
