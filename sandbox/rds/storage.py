"""Storage: how large, how fast, and what of that may be asked for.

Sources: the RDS User Guide (gp3 storage, storage autoscaling), and RDS's refusals as people have reported them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sandbox.rds.errors import invalid_combination

View = Mapping[str, Any]

PERFORMANCE = ("Iops", "StorageThroughput")
SMALL, LARGE = (3000, 125), (12000, 500)
"""IOPS and throughput of gp3 where nobody has chosen any, on one volume and on several."""


def several_volumes_from_gib(engine: str) -> int | None:
    """From when on RDS spreads storage over several; never, of SQL Server."""
    if "sqlserver" in engine:
        return None
    return 200 if "oracle" in engine else 400


def takes_performance(settings: View) -> bool:
    """Whether IOPS may be chosen."""
    kind, least = settings["StorageType"], several_volumes_from_gib(settings["Engine"])
    return bool(kind in ("io1", "io2") or (kind == "gp3" and (least is None or settings["AllocatedStorage"] >= least)))


def shown(settings: View) -> dict[str, Any]:
    """What gp3 has where nobody has chosen."""
    if settings["StorageType"] != "gp3":
        return {}
    least = several_volumes_from_gib(settings["Engine"])
    large = least is not None and settings["AllocatedStorage"] >= least
    return dict(zip(PERFORMANCE, LARGE if large else SMALL, strict=True))


def check(asked: View, settings: View) -> None:
    """``asked`` has been put into ``settings``."""
    size, limit = settings["AllocatedStorage"], asked.get("MaxAllocatedStorage")
    if limit is not None and limit <= size:
        raise invalid_combination("Max storage size must be greater than storage size")
    if limit is not None and 10 * limit < 11 * size:
        raise invalid_combination("The maximum allocated storage must be increased by at least 10 percent.")
    if settings["StorageType"] == "gp3" and not takes_performance(settings) and any(asked.get(n) for n in PERFORMANCE):
        engine = settings["Engine"]
        raise invalid_combination(
            f"You can't specify IOPS or storage throughput for engine {engine} and a storage size less than "
            f"{several_volumes_from_gib(engine)}."
        )


def check_change(asked: View, before: View) -> None:
    """What cannot be changed without the other. Throughput is asked for with both, by those who know how."""
    named = {name for name in ("AllocatedStorage", *PERFORMANCE) if asked.get(name) is not None}
    if takes_performance(before) and named and not {"AllocatedStorage", "Iops"} <= named:
        raise invalid_combination(
            "You must specify both the storage size and iops when modifying the storage size or iops on a DB instance "
            "that has iops."
        )
