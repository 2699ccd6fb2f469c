"""A server that answers nobody who asks about its WAL, and copies of it: marker, position and identity all the same."""

from collections.abc import Iterator

import pg8000.native
import pytest

from lambdas.rotation.engines.postgres import AuroraPostgresEngine, PostgresEngine
from lambdas.rotation.errors import LoginRefused
from lambdas.rotation.state import Position
from sandbox.postgres import AuroraEngine
from tests.engines.servers import DATABASES, Endpoint, World


@pytest.fixture(scope="module")
def aurora() -> Iterator[World]:
    with World.below_a_directory(AuroraEngine) as made:
        yield made


@pytest.fixture(scope="module")
def source(aurora: World) -> Endpoint:
    made = aurora.primary()
    engine_of(made).ensure_control_database()
    return made


def engine_of(endpoint: Endpoint) -> PostgresEngine:
    return endpoint.engine(engine="aurora-postgresql")


def test_the_engine_is_chosen_by_name(source: Endpoint) -> None:
    assert isinstance(engine_of(source), AuroraPostgresEngine)
    assert not isinstance(source.engine(), AuroraPostgresEngine)


def test_what_is_asked_of_postgresql_is_refused(source: Endpoint) -> None:
    with pytest.raises(LoginRefused, match="permission denied for function"):
        source.engine().mark("another")


def test_a_fence_and_what_is_restored_under_it(aurora: World, source: Endpoint) -> None:
    """The whole cutover, in SQL: nothing in it may ask for the WAL."""
    engine = engine_of(source)
    assert not engine.login_limitations()
    assert not engine.limitations(())
    before = aurora.restored(source)
    plan = engine.plan_fence(())
    engine.raise_fence("r", plan, 10)
    position = engine.mark("r")
    assert engine.has_replayed(position)
    restored = engine_of(target := aurora.restored(source))

    assert (True, True) == (restored.has_replayed(position), restored.shows_marker("r"))
    assert (False, False) == (engine_of(before).has_replayed(position), engine_of(before).shows_marker("r"))
    here, there = engine.control_view("r", plan), restored.control_view("r", plan)
    assert (here.system_identifier, here.databases, here.roles) == (
        there.system_identifier, there.databases, there.roles,
    )  # fmt: skip
    assert (False, True, None) == (there.in_recovery, there.marker_seen, there.fence_breach)
    for name in DATABASES:
        with pytest.raises(pg8000.exceptions.DatabaseError, match="not currently accepting"):
            target.connect(name)

    assert "release" == restored.decide("r", "release", plan)

    target.connect("orders").close()
    assert "rollback" == engine.decide("r", "rollback", plan)
    source.connect("orders").close()


def test_a_position_is_the_last_transaction_that_has_begun(source: Endpoint) -> None:
    """One more is what the next marker will be, and no copy has that yet."""
    engine = engine_of(source)
    marked = int(engine.mark("r"))

    assert (marked, True) == (int(engine.replayed()), engine.has_replayed(Position(str(marked))))
    assert not engine.has_replayed(Position(str(marked + 1)))


def test_another_server_is_no_continuation(aurora: World, source: Endpoint) -> None:
    made = aurora.primary()
    made.admin("CREATE TABLE of_its_own ()")
    other = engine_of(made)
    other.ensure_control_database()
    other.mark("r")

    assert other.control_view("r", ()).system_identifier != engine_of(source).control_view("r", ()).system_identifier
