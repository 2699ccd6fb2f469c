"""Names of databases, roles and passwords are anybody's: each is one name to the server, and never a piece of SQL."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pg8000.native
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from lambdas.rotation.errors import LoginRefused, SqlRefused
from sandbox.postgres import quoted
from tests.engines.servers import MAKER, MASTER, Endpoint
from tests.hostile import any_text

LONGEST_BYTES = 63
NASTIEST = (
    "\"; DROP DATABASE orders; --",
    "' OR ''='\"\"'",
    ":name $1 $$ %s {0} /*",
    "zeile\n1\tü\\",
    "日本" * 10 + "ab",
    " ",
    "postgres ",
    "ORDERS",
)  # fmt: skip


def names() -> st.SearchStrategy[str]:
    """All that PostgreSQL takes: any characters but NUL, 1 to 63 bytes of them."""
    short = any_text(40).map(lambda text: text.replace("\0", "")).map(cut)
    return short.filter(lambda name: bool(name) and not name.startswith("pg_"))


def cut(text: str) -> str:
    return text.encode()[:LONGEST_BYTES].decode(errors="ignore")


@contextmanager
def databases(source: Endpoint, named: tuple[str, ...]) -> Iterator[None]:
    """Each with an owner of the same name, of which the rotation's login is a member."""
    try:
        for name in named:
            source.admin(f"CREATE ROLE {quoted(name)}")
            source.admin(f"GRANT {quoted(name)} TO {MASTER}")
            source.admin(f"GRANT {quoted(name)} TO {MAKER} WITH ADMIN OPTION")
            source.admin(f"CREATE DATABASE {quoted(name)} OWNER {quoted(name)} CONNECTION LIMIT 17")
        yield
    finally:
        for name in named:
            source.admin(f"DROP DATABASE IF EXISTS {quoted(name)} WITH (FORCE)")
            source.admin(f"DROP ROLE IF EXISTS {quoted(name)}")


def everything(source: Endpoint) -> list[Any]:
    return [
        source.admin("SELECT datname, datallowconn, datconnlimit, datdba FROM pg_database ORDER BY 1"),
        source.admin("SELECT rolname, rolsuper, rolcreatedb, rolcanlogin FROM pg_roles ORDER BY 1"),
        source.admin("SELECT roleid, member FROM pg_auth_members ORDER BY 1, 2"),
    ]


@settings(max_examples=2, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(named=st.lists(names(), min_size=3, max_size=3, unique=True).map(tuple))
@example(named=NASTIEST)
def test_a_name_is_a_name_to_every_statement(source: Endpoint, named: tuple[str, ...]) -> None:
    engine = source.engine()
    with databases(source, named):
        before = everything(source)
        assert [] == list(engine.login_limitations())
        assert [] == list(engine.limitations(()))
        assert [] == list(engine.databases_with_superuser_sessions())
        plan = engine.plan_fence((named[0],))
        assert {*named} <= {fence.name for fence in plan}
        session = source.connect(named[1])

        engine.raise_fence(named[0], plan, 30)

        with pytest.raises((pg8000.exceptions.Error, OSError)):
            session.run("SELECT 1")
        for name in named:
            with pytest.raises(pg8000.exceptions.DatabaseError, match=r"55000|53300"):
                source.connect(name)
        assert engine.fence_breach(plan) is None
        engine.mark(named[0])
        assert engine.shows_marker(named[0])
        view = engine.control_view(named[0], plan)
        assert view.marker_seen
        assert {*named} <= {*view.databases}
        assert {*named} <= {*view.roles}
        assert "rollback" == engine.decide(named[0], "rollback", plan)
        assert "rollback" == engine.verdict(named[0])
        assert before == everything(source)
        for name in named:
            source.connect(name).close()
        assert {*named} <= {*engine.inspect()}
        source.admin("TRUNCATE public.marker, public.decision", "rds_key_rotation")


def test_the_advice_for_a_hostile_owner_can_be_run_as_it_stands(source: Endpoint) -> None:
    with databases(source, NASTIEST[:4]):
        for name in NASTIEST[:4]:
            source.admin(f"REVOKE {quoted(name)} FROM {MASTER}")
            source.admin(f"REVOKE CONNECT ON DATABASE {quoted(name)} FROM PUBLIC")
        before = everything(source)[:2]

        for finding in source.engine().login_limitations():
            source.admin(finding.advice.removeprefix("run: "))

        assert [] == list(source.engine().login_limitations())
        assert before == everything(source)[:2]


def test_a_name_in_another_encoding_is_refused_by_what_to_do(source: Endpoint) -> None:
    """It is stored in the encoding of the database in which it was given, and read in that of another."""
    source.admin("CREATE DATABASE late_latin ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0")
    with source.server.session("late_latin") as sql:
        sql.run('CREATE ROLE "später"')
        try:
            assert ["late_latin"] == list(source.engine().databases_with_superuser_sessions())
            with pytest.raises(SqlRefused, match="not UTF-8: rename it"):
                source.engine().control_view("r", ())
        finally:
            sql.run('DROP ROLE "später"')


def test_an_encoding_that_an_owner_prefers_does_not_stop_the_rotation(source: Endpoint) -> None:
    """A database named in Japanese cannot be named in Latin-1."""
    with databases(source, ("日本",)):
        source.admin("ALTER ROLE master SET client_encoding = 'LATIN1'")
        try:
            assert "日本" in {fence.name for fence in source.engine().plan_fence(())}
        finally:
            source.admin("ALTER ROLE master RESET client_encoding")


@pytest.mark.parametrize("password", ["hunter2\a", "hunter2\u0627a", "hunter2\ufffe", "hunter2" * 9000])
def test_a_password_that_cannot_be_sent_is_refused_and_not_told(source: Endpoint, password: str) -> None:
    engine = source.engine()
    engine._password = password

    with pytest.raises(LoginRefused) as refused:
        engine.is_replica()

    assert "hunter2" not in str(refused.value)
    assert refused.value.__cause__ is None
