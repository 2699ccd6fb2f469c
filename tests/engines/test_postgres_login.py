"""What the rotation's login needs, what in a database forbids a rotation, and what becomes of a connection."""

import contextlib
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from unittest.mock import patch

import pytest

from lambdas.rotation.errors import DatabaseUnreachable, FenceIncomplete, LoginRefused, NameTaken
from lambdas.rotation.names import CONTROL_DATABASE
from sandbox.postgres import ADMIN, PORT, quoted
from sandbox.tls_front import CertificateAuthority
from tests import pg_cron
from tests.engines.servers import APPLICATION, MASTER, Endpoint, World


@contextlib.contextmanager
def altered(endpoint: Endpoint, there: str, back: str, database: str = "postgres") -> Iterator[None]:
    endpoint.admin(there, database)
    try:
        yield
    finally:
        endpoint.admin(back, database)


# -- rights ------------------------------------------------------------------------------------------------------------


def test_rdss_master_user_has_what_it_takes(source: Endpoint) -> None:
    assert [] == list(source.engine().login_limitations())
    assert [] == list(source.engine().limitations(()))


@pytest.mark.parametrize(
    "revoke, grant",
    [
        (f"REVOKE {quoted(APPLICATION)} FROM master", f'GRANT {quoted(APPLICATION)} TO "master"'),
        ("ALTER ROLE master NOCREATEDB", 'ALTER ROLE "master" CREATEDB'),
    ],
)
def test_a_missing_right_comes_with_the_grant_that_gives_it(source: Endpoint, revoke: str, grant: str) -> None:
    """And that grant, run as it stands, is enough."""
    source.admin(revoke)
    findings = source.engine().login_limitations()
    advice = {finding.advice.removeprefix("run: ") for finding in findings if finding.name == "MissingRight"}
    assert grant in advice

    for statement in advice:
        source.admin(statement)

    assert [] == list(source.engine().login_limitations())


def test_the_master_user_can_follow_every_advice(world: World) -> None:
    """It is no superuser, and from PostgreSQL 16 on nobody can be made a member of it."""
    source = world.primary()
    world.passwords["rotator"] = world.passwords[MASTER]
    # As on RDS, where the master user has made whatever role there is.
    source.admin(f"GRANT {quoted(APPLICATION)} TO {MASTER} WITH ADMIN OPTION")
    with contextlib.closing(source.connect("postgres", MASTER)) as master:
        master.run(f"CREATE ROLE rotator LOGIN PASSWORD '{world.passwords['rotator']}'")
        missing = source.engine("rotator").login_limitations()
        advice = [finding.advice.removeprefix("run: ") for finding in missing]
        assert 'GRANT "rotator" TO "master"; ALTER DATABASE "postgres" OWNER TO "rotator"' in advice
        assert f'GRANT {quoted(APPLICATION)} TO "rotator"' in advice

        for statement in dict.fromkeys(advice):
            master.run(statement)

    assert [] == list(source.engine("rotator").login_limitations())


def test_an_ordinary_login_is_told_everything_at_once(source: Endpoint) -> None:
    messages = " ".join(finding.message for finding in source.engine(APPLICATION).login_limitations())

    for what in ("create databases", "end other sessions", "see other sessions", "close database postgres"):
        assert what in messages


# -- what forbids a rotation -------------------------------------------------------------------------------------------


def test_unlogged_relations_with_content(source: Endpoint) -> None:
    """They are empty on a promoted replica, and nobody would notice before it is too late."""
    with altered(source, "CREATE UNLOGGED TABLE quick (n int)", "DROP TABLE quick", "orders"):
        assert [] == list(source.engine().limitations(()))
        source.admin("INSERT INTO quick VALUES (1)", "orders")

        assert ["UnloggedTables"] == [finding.name for finding in source.engine().limitations(())]
        assert [] == list(source.engine().limitations(("unlogged-tables",)))


def test_unlogged_sequences(source: Endpoint) -> None:
    """They count from their beginning on the target, and give out again what was given out."""
    with altered(source, "CREATE UNLOGGED SEQUENCE quick", "DROP SEQUENCE quick", "orders"):
        assert ["UnloggedTables"] == [finding.name for finding in source.engine().limitations(())]


def test_logical_slots(permissive_source: Endpoint) -> None:
    source = permissive_source
    create = "SELECT pg_create_logical_replication_slot('follower', 'pgoutput')"
    with altered(source, create, "SELECT pg_drop_replication_slot('follower')", "orders"):
        [finding] = source.engine().limitations(())

        assert "LogicalSlots" == finding.name
        assert "follower of database orders" in finding.message
        assert [] == list(source.engine().limitations(("logical-slots",)))


def test_logical_slots_of_a_replica_are_its_own(world: World, permissive_source: Endpoint) -> None:
    """What the primary says of itself tells nothing about them."""
    source, replica = permissive_source, world.replica(permissive_source)
    slot = "pg_create_logical_replication_slot('to_the_warehouse', 'pgoutput')"
    with ThreadPoolExecutor(1) as pool:
        created = pool.submit(replica.admin, f"SELECT {slot}", "orders")  # it waits for something to begin at
        while wait([created], timeout=0.1).not_done:
            source.admin("SELECT pg_log_standby_snapshot()")

    assert {"to_the_warehouse": "orders"} == replica.engine().logical_slots()
    assert {} == source.engine().logical_slots()


def test_active_cron_jobs(source: Endpoint) -> None:
    with altered(source, f"{pg_cron.INSTALL}; {pg_cron.SHOW_TO_ALL}", pg_cron.REMOVE, "orders"):
        assert [] == list(source.engine().limitations(()))
        source.admin("INSERT INTO cron.job VALUES (1, 'somebody', true)", "orders")

        [finding] = source.engine().limitations(())
        assert ("PgCron", "1 active") == (finding.name, finding.message[:8])
        assert [] == list(source.engine().limitations(("pg-cron",)))


def test_cron_jobs_that_only_their_owners_see(source: Endpoint) -> None:
    """None of its own says nothing about others'."""
    with altered(source, pg_cron.INSTALL, pg_cron.REMOVE, "orders"):
        [finding] = source.engine().limitations(())

        assert ("PgCron", True) == (finding.name, "no jobs of others" in finding.message)
        assert [] == list(source.engine().limitations(("pg-cron",)))


def test_a_worker_with_a_superusers_rights_is_no_agent_of_rdss(world: World) -> None:
    """It goes on writing behind the fence, as that of a subscriber of pglogical does, and nobody can end it."""
    source, publisher = world.primary(wal_level="logical"), world.primary(wal_level="logical")
    for one in (source, publisher):
        one.admin("CREATE TABLE sent (n int)", "orders")
    publisher.admin("CREATE PUBLICATION all_of_it FOR TABLE sent", "orders")
    publisher.admin("SELECT pg_create_logical_replication_slot('them', 'pgoutput')", "orders")
    there = publisher.server
    where = f"host={there.socket.parent} port={PORT} user={ADMIN} password={there._engine.admin_password} dbname=orders"
    source.admin(
        f"CREATE SUBSCRIPTION them CONNECTION '{where}' PUBLICATION all_of_it WITH (create_slot = false)", "orders"
    )
    engine = source.engine()
    while not source.admin("SELECT pid FROM pg_stat_activity WHERE backend_type LIKE 'logical replication%worker'"):
        time.sleep(0.05)
    try:
        found = {finding.name: finding.message for finding in engine.limitations(("logical-slots",))}
        assert ["SuperuserWorkers"] == list(found)
        assert "in database orders" in found["SuperuserWorkers"]
        assert "orders" not in engine.databases_with_superuser_sessions()

        engine.ensure_control_database()
        with pytest.raises(FenceIncomplete, match="logical replication"):
            engine.raise_fence("r", engine.plan_fence(["orders"]), 1.0)
    finally:
        source.admin("ALTER SUBSCRIPTION them DISABLE; ALTER SUBSCRIPTION them SET (slot_name = NONE)", "orders")
        source.admin("DROP SUBSCRIPTION them", "orders")


def test_nothing_that_customers_have_made_runs_with_the_logins_rights(source: Endpoint) -> None:
    """PostgreSQL takes what fits exactly before what is on the path first, and a view's functions are its reader's."""
    source.admin("CREATE TABLE ran (what text, by name); GRANT INSERT ON ran TO PUBLIC", "orders")
    noting = "LANGUAGE plpgsql AS $$ BEGIN INSERT INTO public.ran VALUES ('{}', current_user); RETURN {}; END $$"
    source.admin(
        f"""
        CREATE UNLOGGED TABLE bait (n int);
        CREATE FUNCTION pg_relation_size(oid) RETURNS bigint {noting.format("pg_relation_size", "0")};
        CREATE FUNCTION unlike(name, name) RETURNS bool {noting.format("unlike", "true")};
        CREATE OPERATOR !~~ (FUNCTION = unlike, LEFTARG = name, RIGHTARG = name);
        CREATE FUNCTION jobs() RETURNS bool {noting.format("jobs", "true")};
        CREATE SCHEMA cron; CREATE VIEW cron.job AS SELECT public.jobs() AS active;
        GRANT USAGE ON SCHEMA cron TO PUBLIC; GRANT SELECT ON cron.job TO PUBLIC
        """,
        "orders",
    )
    back = """
        DROP SCHEMA cron CASCADE; DROP OPERATOR !~~ (name, name); DROP FUNCTION unlike; DROP FUNCTION jobs;
        DROP FUNCTION pg_relation_size(oid); DROP TABLE bait, ran
    """
    with altered(source, "SELECT 1", back, "orders"):
        engine = source.engine()
        assert [] == list(engine.limitations(()))
        engine.inspect()

        assert [] == source.admin("SELECT * FROM ran", "orders")


def test_strings_mean_the_same_whatever_a_database_is_set_to(source: Endpoint) -> None:
    """pg\\_% is what is PostgreSQL's own; pg_% would be the customer's pgstuff, too, and nobody would look there."""
    source.admin("CREATE SCHEMA pgstuff; CREATE TABLE pgstuff.theirs (n int)", "orders")
    back = "ALTER DATABASE orders RESET ALL; DROP SCHEMA pgstuff CASCADE"
    seen = source.engine().inspect()
    with altered(source, "ALTER DATABASE orders SET standard_conforming_strings = off", back, "orders"):
        assert seen == source.engine().inspect()


def test_a_long_transaction_is_only_a_warning(source: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lambdas.rotation.engines.postgres.LONG_TRANSACTION_SECONDS", 0)
    client = source.connect("orders")
    client.run("BEGIN")
    client.run("SELECT 1")
    time.sleep(0.05)

    [warning] = [one for one in source.engine().warnings() if "database orders" in one.message]
    client.close()

    assert "LongTransaction" == warning.name
    assert APPLICATION in warning.message


# -- the control database ----------------------------------------------------------------------------------------------


def test_a_control_database_of_somebody_else_is_left_alone(source: Endpoint) -> None:
    engine = source.engine()
    engine.drop_control_database("r")
    source.admin(f"CREATE DATABASE {CONTROL_DATABASE} OWNER master")
    source.admin("CREATE TABLE theirs (n int)", CONTROL_DATABASE)
    try:
        assert ["ControlDatabaseTaken"] == [finding.name for finding in engine.limitations(())]
        with pytest.raises(NameTaken):
            engine.ensure_control_database()
        engine.drop_control_database("r")
        assert [[0]] == source.admin("SELECT count(*) FROM theirs", CONTROL_DATABASE)
    finally:
        source.admin(f"DROP DATABASE {CONTROL_DATABASE} WITH (FORCE)")


def test_a_control_database_that_is_half_made_is_finished(source: Endpoint) -> None:
    """The first attempt died between CREATE DATABASE and the rest."""
    engine = source.engine()
    engine.drop_control_database("r")
    source.admin(f"CREATE DATABASE {CONTROL_DATABASE} OWNER master")

    engine.ensure_control_database()
    engine.ensure_control_database()

    assert engine.verdict("r") is None
    assert source.admin(f"SELECT has_database_privilege('{APPLICATION}', '{CONTROL_DATABASE}', 'CONNECT')") == [[False]]


def test_of_two_rotations_one_is_at_work_on_a_source(source: Endpoint) -> None:
    one, other = source.engine(), source.engine()
    one.drop_control_database("r")
    one.ensure_control_database()

    assert [one.claim("one"), other.claim("other"), one.claim("one")] == ["one"] * 3
    other.drop_control_database("other")
    assert other.claim("other") == "one"

    one.decide("one", "rollback", ())
    assert other.claim("other") == "one", "what was decided is not over: the source may have to be opened"
    assert [other.claim("other", instead_of="another"), other.claim("other", instead_of="one")] == ["one", "other"]
    one.drop_control_database("one")
    one.ensure_control_database()
    other.claim("other")
    with patch.object(one, "_database", one._database.having(resource_id="db-COPY")):
        assert one.claim("one") == "one", "what came with a copy is nobody's"
    one.drop_control_database("one")
    one.ensure_control_database()


def test_a_removal_that_was_interrupted_is_finished(source: Endpoint) -> None:
    """Nobody can connect to such a database any more (PostgreSQL 14.9, 15.4, 16 and later)."""
    engine = source.engine()
    engine.claim("r")
    source.admin(f"UPDATE pg_database SET datconnlimit = -2 WHERE datname = '{CONTROL_DATABASE}'")

    engine.drop_control_database("r")

    assert [] == source.admin(f"SELECT 1 FROM pg_database WHERE datname = '{CONTROL_DATABASE}'")


def test_a_control_database_that_another_one_has_claimed_stays_under_its_fence(source: Endpoint) -> None:
    """Nobody gets into the maintenance database meanwhile, and nobody need."""
    one, other = source.engine(), source.engine()
    one.claim("one")
    one.raise_fence("one", one.plan_fence(()), 10)

    other.drop_control_database("other")

    assert one.claim("one") == "one"


def test_of_two_claims_at_the_same_time_one_stands(source: Endpoint) -> None:
    first, second = source.engine(), source.engine()
    first.drop_control_database("r")
    first.ensure_control_database()
    with first._control_session() as sql, ThreadPoolExecutor(1) as pool:
        with sql.transaction():
            sql.run("INSERT INTO public.claim VALUES (1, 'first', 'db-1')")
            claimed = pool.submit(second.claim, "second")
            with pytest.raises(TimeoutError):
                claimed.result(0.3)
        assert claimed.result(10) == "first"
    first.drop_control_database("first")
    first.ensure_control_database()


def test_is_removed_and_stays_removed(source: Endpoint) -> None:
    engine = source.engine()
    engine.mark("r")
    engine.drop_control_database("r")
    engine.drop_control_database("r")

    assert [] == source.admin(f"SELECT 1 FROM pg_database WHERE datname = '{CONTROL_DATABASE}'")


# -- connections -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("whose", ["ROLE master", "DATABASE rds_key_rotation"])
def test_a_courtesy_setting_does_not_stop_the_rotation(source: Endpoint, whose: str) -> None:
    setting = f"ALTER {whose} SET default_transaction_read_only = on"
    with altered(source, setting, f"ALTER {whose} RESET default_transaction_read_only"):
        engine = source.engine()

        assert engine.mark("r")
        assert "release" == engine.decide("r", "release", engine.plan_fence(()))


def test_a_wrong_password_is_refused_and_not_repeated_to_anybody(source: Endpoint) -> None:
    engine = source.engine()
    engine._password = "hunter2"

    with pytest.raises(LoginRefused) as refused:
        engine.is_replica()

    assert "28P01" in str(refused.value)
    assert "hunter2" not in str(refused.value)


def test_a_server_of_another_authority_is_not_spoken_to(source: Endpoint, tmp_path: Path) -> None:
    engine = source.engine()
    engine._ca_bundle = str(CertificateAuthority(tmp_path / "other").bundle)

    with pytest.raises(DatabaseUnreachable, match="CERTIFICATE_VERIFY_FAILED"):
        engine.is_replica()


def test_a_certificate_for_another_name_is_not_accepted(world: World, source: Endpoint) -> None:
    """verify-full: a certificate of the right authority for another server is no proof."""
    certificate = world.authority.issue("elsewhere.example.com")
    world.fronts.open(source.server.name, source.address, 5432, certificate, source.server.socket)
    try:
        with pytest.raises(DatabaseUnreachable, match="CERTIFICATE_VERIFY_FAILED"):
            source.engine().is_replica()
    finally:
        own = world.authority.issue(source.address)
        world.fronts.open(source.server.name, source.address, 5432, own, source.server.socket)


def test_a_server_that_restarts_is_unreachable_and_then_there_again(source: Endpoint) -> None:
    """The same engine object: a poll outlives the reboot that belongs to a promotion."""
    engine = source.engine()
    assert not engine.is_replica()
    source.server.stop()
    try:
        with pytest.raises(DatabaseUnreachable):
            engine.is_replica()
        with pytest.raises(DatabaseUnreachable):
            engine.is_replica()
    finally:
        source.server.start()

    assert not engine.is_replica()


def test_a_right_that_is_missing_in_the_middle_is_a_login_refused(source: Endpoint) -> None:
    engine = source.engine()
    plan = engine.plan_fence(())
    with altered(source, f"REVOKE {quoted(APPLICATION)} FROM {MASTER}", f"GRANT {quoted(APPLICATION)} TO {MASTER}"):
        with pytest.raises(LoginRefused, match="42501"):
            engine.raise_fence("r", plan, 5)

        # All of them are closed in one transaction, so none is.
        source.connect("orders").close()
