"""MariaDB's clients meet the network they meet on AWS: TLS with the server, no plain sessions, and cuts."""

from __future__ import annotations

import shutil
import socket
import ssl
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pymysql
import pytest

from sandbox.mariadb import PORT, MariadbEngine, MariadbServer
from sandbox.tls_front import AddressBlock, CertificateAuthority, TlsFront
from tests.mariadb import need_mariadb

NAME = "orders.abc.eu-central-1.rds.amazonaws.com"


class Stage:
    def __init__(self, directory: Path) -> None:
        self.engine = MariadbEngine(directory / "m")
        self.server: MariadbServer = self.engine.create("i", master_user="dba", master_password="pw", database="app")
        self.ca = CertificateAuthority(directory / "tls")
        self.front = TlsFront()
        self.block = AddressBlock()
        self.address = self.block.take(PORT)
        self.open(NAME)

    def open(self, name: str, **parameters: str) -> None:
        self.server.apply_parameters(parameters)
        self.server.offer(self.front, "i", self.address, PORT, self.ca.issue(name), parameters)

    def connect(self, tls: ssl.SSLContext | None = None, name: str = NAME, **options: Any) -> pymysql.Connection[Any]:
        return self._connect(name, ssl=tls or ssl.create_default_context(cafile=str(self.ca.bundle)), **options)

    def connect_plainly(self) -> pymysql.Connection[Any]:
        return self._connect(NAME, ssl_disabled=True)

    def _connect(self, name: str, **options: Any) -> pymysql.Connection[Any]:
        raw = socket.create_connection((self.address, PORT), 5)
        connection = pymysql.Connection(
            host=name, database="app", defer_connect=True, **({"user": "dba", "password": "pw"} | options)
        )  # fmt: skip
        try:
            connection.connect(raw)
        except BaseException:
            raw.close()
            raise
        return connection


def ask(connection: pymysql.Connection[Any], statement: str) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(statement)
        return list(cursor.fetchall())


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    need_mariadb()
    directory = Path(tempfile.mkdtemp(prefix="rds-sandbox-"))
    directory.chmod(0o711)
    stage = Stage(directory)
    try:
        yield stage
    finally:
        stage.front.close()
        stage.engine.close()
        stage.block.close()
        shutil.rmtree(directory, ignore_errors=True)


def test_a_verified_session_carries_much_data_both_ways(stage: Stage) -> None:
    with stage.connect() as sql:
        big = "x" * 5_000_000
        assert ask(sql, f"SELECT LENGTH('{big}'), REPEAT('y', 5000000)") == [(5_000_000, "y" * 5_000_000)]
        assert ask(sql, "SHOW STATUS LIKE 'Ssl_cipher'")[0][1]


def test_the_server_sees_where_a_client_comes_from(stage: Stage) -> None:
    """A host of the network; the superuser comes from localhost, and others who may only come from there."""
    with stage.connect() as sql:
        [[port]] = ask(
            sql, "SELECT SUBSTRING_INDEX(host, ':', -1) FROM information_schema.processlist WHERE user = 'dba'"
        )
        assert (ask(sql, "SELECT USER()"), int(port)) == ([("dba@127.0.0.1",)], sql._sock.getsockname()[1])
        ask(sql, "CREATE USER local@localhost IDENTIFIED BY 'pw'")
        with pytest.raises(pymysql.MySQLError, match="Access denied for user 'local'@'127"):
            stage.connect(user="local")
        with pytest.raises(pymysql.MySQLError, match="Access denied for user 'rdsadmin'@'127"):
            stage.connect(user="rdsadmin", password=stage.engine.admin_password)


def test_another_name_and_another_ca_are_not_trusted(stage: Stage) -> None:
    """A certificate is for one endpoint: a CNAME does not verify, and neither does a retired name."""
    for options in ({"name": "db.app.internal"}, {"tls": ssl.create_default_context()}):
        with pytest.raises(pymysql.MySQLError, match="CERTIFICATE_VERIFY_FAILED"):
            stage.connect(**options)


def test_a_plain_session_is_refused_as_a_wrong_password_is(stage: Stage) -> None:
    """MariaDB does not say that it wants TLS, so whoever hears this must think of it."""
    with pytest.raises(pymysql.MySQLError) as refused:
        stage.connect_plainly()
    assert refused.value.args == (1045, "Access denied for user 'dba'@'127.0.0.1' (using password: YES)")
    stage.open(NAME, require_secure_transport="0")
    try:
        with stage.connect_plainly() as sql:
            assert ask(sql, "SELECT 1") == [(1,)]
    finally:
        stage.open(NAME)


def test_a_silent_cut_hangs_and_heals(stage: Stage) -> None:
    with stage.connect() as sql:
        stage.front.cut("i", "silence")
        answers: list[Any] = []

        def connect_anew() -> None:
            with stage.connect() as another:
                answers.append(ask(another, "SELECT 3"))

        asking = [
            threading.Thread(target=lambda: answers.append(ask(sql, "SELECT 2"))),
            threading.Thread(target=connect_anew),
        ]
        for thread in asking:
            thread.start()
        for thread in asking:
            thread.join(0.5)
            assert thread.is_alive()
        # Not even the greeting gets through.
        with socket.create_connection((stage.address, PORT), 5) as raw:
            raw.settimeout(0.3)
            with pytest.raises(TimeoutError):
                raw.recv(1)
        stage.front.restore("i")
        for thread in asking:
            thread.join(5)
        assert sorted(answers) == [[(2,)], [(3,)]]


def test_a_reset_ends_sessions_and_refuses_new_ones(stage: Stage) -> None:
    sql = stage.connect()
    assert stage.front.connections("i") == 1
    stage.front.cut("i", "reset")
    try:
        with pytest.raises(pymysql.MySQLError):
            ask(sql, "SELECT 1")
        with pytest.raises(ConnectionRefusedError):
            stage.connect()
    finally:
        stage.front.restore("i")
    with stage.connect() as again:
        assert ask(again, "SELECT 1") == [(1,)]


def test_who_is_barred_is_turned_away_and_who_is_in_goes_on(stage: Stage) -> None:
    """Also who has been sent into silence before: nothing of him had got through."""
    with stage.connect() as inside:
        stage.front.cut("i", "silence")
        with socket.create_connection((stage.address, PORT), 5) as raw:
            stage.front.bar("i")
            stage.front.restore("i")
            try:
                answer = raw.recv(1)
            except ConnectionResetError:
                answer = b""
            assert answer == b""
        with pytest.raises(ConnectionRefusedError):
            stage.connect()
        assert ask(inside, "SELECT 1") == [(1,)]
        stage.front.admit("i")
    with stage.connect() as sql:
        assert ask(sql, "SELECT 2") == [(2,)]


def test_a_renamed_endpoint_shows_its_new_name_and_keeps_its_sessions(stage: Stage) -> None:
    with stage.connect() as open_before:
        stage.open("renamed.example")
        try:
            with stage.connect(name="renamed.example") as sql:
                assert ask(sql, "SELECT 1") == [(1,)]
            with pytest.raises(pymysql.MySQLError, match="CERTIFICATE_VERIFY_FAILED"):
                stage.connect()
            assert ask(open_before, "SELECT 1") == [(1,)]
        finally:
            stage.open(NAME)


def test_a_server_that_is_down_looks_down(stage: Stage) -> None:
    stage.server.stop()
    try:
        with pytest.raises((pymysql.MySQLError, OSError)):
            stage.connect()
    finally:
        stage.server.start()
    with stage.connect() as sql:
        assert ask(sql, "SELECT 1") == [(1,)]


def test_clients_that_leave_early_leave_nothing_behind(stage: Stage) -> None:
    """A port scan, or a client that changes its mind, must not use up the server's connections."""
    for greeted in (False, True) * 20:
        with socket.create_connection((stage.address, PORT), 5) as raw:
            if greeted:
                raw.recv(4)
    with stage.connect() as sql:
        assert stage.front.connections("i") == 1
        waiting = "SELECT COUNT(*) FROM information_schema.processlist WHERE user = 'unauthenticated user'"
        for _ in range(100):
            if ask(sql, waiting) == [(0,)]:
                break
        else:
            pytest.fail("connections of clients that are gone are still there")
