"""Database engines: everything that speaks SQL. Nothing here knows AWS."""

from collections.abc import Callable
from importlib import import_module

from lambdas.rotation.errors import StateIncomplete
from lambdas.rotation.ports import Clock, Engine
from lambdas.rotation.state import Database

# RDS's engine name -> class. Imported on use, so that a function loads one driver, or none.
ENGINES = {
    "aurora-postgresql": "lambdas.rotation.engines.postgres:AuroraPostgresEngine",
    "mariadb": "lambdas.rotation.engines.mysql:MariadbEngine",
    "postgres": "lambdas.rotation.engines.postgres:PostgresEngine",
}


def engine_for(database: Database, login: tuple[str, str], *, ca_bundle: str, clock: Clock) -> Engine:
    """The engine of one database server. Connects on first use.

    Raises:
        StateIncomplete: terminal; Preflight refuses engines that are not in the registry.
    """
    if database.engine not in ENGINES:
        raise StateIncomplete(f"no engine for {database.engine}: Preflight refuses it")
    module, name = ENGINES[database.engine].split(":")
    make: Callable[..., Engine] = getattr(import_module(module), name)
    return make(database, login, ca_bundle=ca_bundle, clock=clock)
