"""Servers: each its own cluster, durable, and never reachable past the front."""

from __future__ import annotations

import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pg8000.native
import pytest

from sandbox.postgres import PostgresEngine, PostgresServer
from sandbox.rds.servers import ServerError


@pytest.fixture(scope="module")
def engine() -> Iterator[PostgresEngine]:
    directory = Path(tempfile.mkdtemp(prefix="rds-sandbox-"))
    directory.chmod(0o711)
    engine = PostgresEngine(directory / "pg")
    try:
        yield engine
    finally:
        engine.close()
        shutil.rmtree(directory, ignore_errors=True)


def make(engine: PostgresEngine, name: str) -> PostgresServer:
    return engine.create(name, master_user="dba", master_password="it's \\ hard", database="app")


def master(server: PostgresServer) -> pg8000.native.Connection:
    return pg8000.native.Connection("dba", unix_sock=str(server.socket), database="app", password="it's \\ hard")


def identifier(server: PostgresServer) -> int:
    with server.session() as sql:
        return int(sql.run("SELECT system_identifier FROM pg_control_system()")[0][0])


def test_instances_are_clusters_of_their_own_and_replicas_are_not(engine: PostgresEngine) -> None:
    """A check that compares system identifiers must be able to tell the wrong server."""
    one, other = make(engine, "a1"), make(engine, "a2")
    replica = engine.replicate("a3", one)
    assert identifier(one) != identifier(other)
    assert identifier(one) == identifier(replica)
    assert replica.replication_status() == "replicating"
    assert one.replication_status() == "none"


def test_it_listens_on_nothing_but_its_socket_and_is_durable(engine: PostgresEngine) -> None:
    server = make(engine, "b1")
    with server.session() as sql:
        for name, value in {"listen_addresses": "", "fsync": "on", "synchronous_commit": "on"}.items():
            assert sql.run(f"SHOW {name}") == [[value]]
    # The private directory keeps everybody out but the servers' account and the sandbox's.
    assert server.directory.stat().st_mode & 0o077 == 0
    with master(server) as sql:
        sql.run("CREATE TABLE t AS SELECT 1 AS x")
    server.crash()
    assert server.pid is None
    server.start()
    with master(server) as sql:
        assert sql.run("SELECT x FROM t") == [[1]]


def test_a_server_outlives_the_thread_that_started_it(engine: PostgresEngine) -> None:
    """The kernel's parent-death signal counts threads, and a request's thread is gone in milliseconds."""
    made: list[PostgresServer] = []
    thread = threading.Thread(target=lambda: made.append(make(engine, "c1")))
    thread.start()
    thread.join()
    time.sleep(0.5)
    with master(made[0]) as sql:
        assert sql.run("SELECT 1") == [[1]]


def test_a_promoted_replica_writes_and_its_source_lets_go(engine: PostgresEngine) -> None:
    source = make(engine, "d1")
    replica = engine.replicate("d2", source)
    with pytest.raises(ServerError, match="is not a replica"):
        source.promote()
    replica.promote()
    replica.restart()
    source.forget_replica("d2")
    source.forget_replica("d2")
    with master(replica) as sql:
        sql.run("CREATE TABLE t (x int)")
    with source.session() as sql:
        assert sql.run("SELECT slot_name FROM pg_replication_slots") == []


def test_a_snapshot_is_a_moment_and_restores_as_a_primary(engine: PostgresEngine) -> None:
    source = make(engine, "e1")
    replica = engine.replicate("e2", source)
    with master(source) as sql:
        sql.run("CREATE TABLE t AS SELECT 1 AS x")
        position = sql.run("SELECT pg_current_wal_flush_lsn()")[0][0]
    with replica.session() as sql:
        while sql.run("SELECT pg_last_wal_replay_lsn() >= CAST(:p AS pg_lsn)", p=position) != [[True]]:
            time.sleep(0.02)
    taken = engine.directory / "taken"
    replica.snapshot(taken)
    with master(source) as sql:
        sql.run("INSERT INTO t VALUES (2)")

    restored = engine.restore("e3", taken)

    with master(restored) as sql:
        assert sql.run("SELECT x FROM t") == [[1]]
        sql.run("INSERT INTO t VALUES (3)")


def test_a_stopped_server_can_be_copied(engine: PostgresEngine) -> None:
    server = make(engine, "f1")
    with master(server) as sql:
        sql.run("CREATE TABLE t AS SELECT 1 AS x")
    server.stop()
    server.snapshot(engine.directory / "cold")
    with master(engine.restore("f2", engine.directory / "cold")) as sql:
        assert sql.run("SELECT x FROM t") == [[1]]


def test_parameters_that_the_sandbox_keeps_for_itself_are_ignored(engine: PostgresEngine) -> None:
    server = make(engine, "g1")
    formula = "{DBInstanceClassMemory/32768}"
    parameters = {"work_mem": "8192", "fsync": "0", "rds.force_ssl": "0", "shared_buffers": formula}
    assert server.apply_parameters(parameters) is False
    with server.session() as sql:
        assert (sql.run("SHOW work_mem"), sql.run("SHOW fsync")) == ([["8MB"]], [["on"]])
    assert server.apply_parameters({"rds.logical_replication": "1"}) is True
    server.restart()
    with server.session() as sql:
        assert (sql.run("SHOW wal_level"), sql.run("SHOW work_mem")) == ([["logical"]], [["4MB"]])


def test_destroying_removes_process_and_files(engine: PostgresEngine) -> None:
    server = make(engine, "h1")
    pid = server.pid
    server.destroy()
    assert not Path(f"/proc/{pid}").exists()
    assert not server.directory.exists()
