"""Which classes RDS makes instances of, by engine: a few of many."""

from __future__ import annotations

from collections.abc import Iterable

from sandbox.rds.engines import Kind
from sandbox.rds.operations import Params
from sandbox.rds.resources import View

SIZES = ("micro", "small", "medium", "large", "xlarge", "2xlarge")
FAMILIES = ("t3", "t4g", "m6g", "m6gd", "m7g", "r6g", "r7g")
OF_AURORA = ("t3", "t4g", "r6g", "r7g")
SERVERLESS = "db.serverless"


def classes_of(kind: Kind) -> tuple[str, ...]:
    families = OF_AURORA if kind.is_auroras else FAMILIES
    made = tuple(f"db.{family}.{size}" for family in families for size in SIZES)
    return (*made, SERVERLESS) if kind.is_auroras else made


def orderable(kinds: Iterable[Kind], params: Params) -> list[View]:
    """What DescribeOrderableDBInstanceOptions answers; of what there is not, nothing."""
    return [
        {
            "Engine": kind.name,
            "EngineVersion": version,
            "DBInstanceClass": name,
            "LicenseModel": kind.license_model,
            "Vpc": True,
        }
        for kind in kinds
        if kind.name == params["Engine"]
        for version in kind.versions
        if params.get("EngineVersion") in (None, version)
        for name in classes_of(kind)
        if params.get("DBInstanceClass") in (None, name)
    ]
