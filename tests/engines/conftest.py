"""One source for all tests of a session; a replica for each test that asks for one."""

import contextlib
from collections.abc import Callable, Iterator

import pg8000.native
import pytest

from sandbox.postgres import quoted
from tests.engines.servers import DATABASES, Endpoint, World


@pytest.fixture(scope="session")
def world() -> Iterator[World]:
    with World.below_a_directory() as made:
        yield made


@pytest.fixture(scope="session")
def shared_source(world: World) -> Endpoint:
    source = world.primary()
    source.engine().ensure_control_database()
    return source


@pytest.fixture
def source(shared_source: Endpoint) -> Iterator[Endpoint]:
    """One source for all tests of a session: each leaves it open, empty of sessions and undecided."""
    yield shared_source
    with shared_source.server.session("postgres") as sql:
        sql.run("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename IN ('master', 'shop app')")
        for name in (*DATABASES, "postgres", "template1"):
            sql.run(f"ALTER DATABASE {quoted(name)} ALLOW_CONNECTIONS true")
            sql.run(f"ALTER DATABASE {quoted(name)} CONNECTION LIMIT -1")
        for (name,) in sql.run("SELECT datname FROM pg_database WHERE datname LIKE 'late%'") or ():
            sql.run(f"DROP DATABASE {quoted(name)} WITH (FORCE)")
        control = sql.run("SELECT 1 FROM pg_database WHERE datname = 'rds_key_rotation'")
    if not control:
        shared_source.engine().ensure_control_database()
    shared_source.admin("TRUNCATE public.marker, public.decision, public.claim", "rds_key_rotation")


@pytest.fixture(scope="session")
def permissive_source(world: World) -> Endpoint:
    """Whose parameters allow what a rotation refuses."""
    source = world.primary(max_prepared_transactions="5", wal_level="logical")
    source.engine().ensure_control_database()
    return source


@pytest.fixture
def replica(world: World, source: Endpoint) -> Iterator[Endpoint]:
    target = world.replica(source)
    yield target
    world.fronts.close_endpoint(target.server.name)
    target.server.destroy()
    source.server.forget_replica(target.server.name)


@pytest.fixture
def opened() -> Iterator[Callable[[pg8000.native.Connection], pg8000.native.Connection]]:
    """Close at the end what a test has opened, also what the server has ended meanwhile."""
    connections: list[pg8000.native.Connection] = []

    def remember(connection: pg8000.native.Connection) -> pg8000.native.Connection:
        connections.append(connection)
        return connection

    yield remember
    for connection in connections:
        with contextlib.suppress(pg8000.exceptions.Error, OSError):
            connection.close()
