"""Database engines: everything that speaks SQL. Nothing here knows AWS."""

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

from lambdas.rotation.errors import StateIncomplete
from lambdas.rotation.ports import CatchUpEngine, Clock, Engine
from lambdas.rotation.state import Database

# RDS's engine name -> class. Imported on use, so that a function loads one driver, or none.
ENGINES = {
    "aurora-postgresql": "lambdas.rotation.engines.postgres:AuroraPostgresEngine",
    "mariadb": "lambdas.rotation.engines.mariadb_snapshot:MariadbSnapshot",
    "postgres": "lambdas.rotation.engines.postgres:PostgresEngine",
}

# Where that differs: whose target RDS makes of the running server, and replicates.
REPLICATING = ENGINES | {"mariadb": "lambdas.rotation.engines.mariadb_replica:MariadbReplica"}

CATCHING_UP = {
    "mariadb": "lambdas.rotation.engines.mariadb_catch_up:MariadbCatchUp",
    "postgres": "lambdas.rotation.engines.postgres_catch_up:PostgresCatchUp",
}


def engine_for(
    database: Database, login: tuple[str, str], *, ca_bundle: str, clock: Clock, replicates: bool = False
) -> Engine:
    """The engine of one database server, whose target is its replica or not. Connects on first use.

    Raises:
        StateIncomplete: terminal; Preflight refuses engines that are not in the registry.
    """
    registry = REPLICATING if replicates else ENGINES
    made: Engine = _class_of(registry, database)(database, login, ca_bundle=ca_bundle, clock=clock)
    return made


def catch_up_engine_for(database: Database, login: tuple[str, str], *, ca_bundle: str, clock: Clock) -> CatchUpEngine:
    """The same, of a server whose restored copy catches up with it."""
    made: CatchUpEngine = _class_of(CATCHING_UP, database)(database, login, ca_bundle=ca_bundle, clock=clock)
    return made


def _class_of(registry: Mapping[str, str], database: Database) -> Callable[..., Any]:
    if database.engine not in registry:
        raise StateIncomplete(f"no engine for {database.engine}: Preflight refuses it")
    module, name = registry[database.engine].split(":")
    found: Callable[..., Any] = getattr(import_module(module), name)
    return found
