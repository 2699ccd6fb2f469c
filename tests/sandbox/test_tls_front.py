"""Clients of the sandbox meet the network they meet on AWS: verified TLS, no plain sessions, and cuts."""

from __future__ import annotations

import shutil
import socket
import ssl
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pg8000.native
import pytest

from sandbox.postgres import PostgresEngine, PostgresServer
from sandbox.tls_front import AddressBlock, CertificateAuthority, TlsFront

NAME = "orders.abc.eu-central-1.rds.amazonaws.com"
GSS_REQUEST = b"\x00\x00\x00\x08\x04\xd2\x16\x30"
"""RDS answers that it does not speak it."""


class Stage:
    def __init__(self, directory: Path) -> None:
        self.engine = PostgresEngine(directory / "pg")
        self.server: PostgresServer = self.engine.create("i", master_user="dba", master_password="pw", database="app")
        self.ca = CertificateAuthority(directory / "tls")
        self.front = TlsFront()
        self.block = AddressBlock()
        self.address = self.block.take(5432)
        self.open(NAME)

    def open(self, name: str, **options: Any) -> None:
        self.front.open("i", self.address, 5432, self.ca.issue(name), self.server.socket, **options)

    def connect(self, tls: ssl.SSLContext | bool | None = None, name: str = NAME) -> pg8000.native.Connection:
        if tls is None:
            tls = ssl.create_default_context(cafile=str(self.ca.bundle))
        raw = socket.create_connection((self.address, 5432), 5)
        try:
            return pg8000.native.Connection("dba", password="pw", database="app", host=name, sock=raw, ssl_context=tls)
        except BaseException:
            raw.close()
            raise


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
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
        assert sql.run("SELECT length(CAST(:v AS text)), repeat('y', 5000000)", v=big) == [[5_000_000, "y" * 5_000_000]]


def test_another_name_and_another_ca_are_not_trusted(stage: Stage) -> None:
    """A certificate is for one endpoint: a CNAME does not verify, and neither does a retired name."""
    with pytest.raises(ssl.SSLCertVerificationError):
        stage.connect(name="db.app.internal")
    with pytest.raises(ssl.SSLCertVerificationError):
        stage.connect(ssl.create_default_context())


def test_a_plain_session_is_refused_in_the_words_of_force_ssl(stage: Stage) -> None:
    with pytest.raises(pg8000.exceptions.DatabaseError) as refused:
        stage.connect(False)
    assert refused.value.args[0]["C"] == "28000"
    assert refused.value.args[0]["M"] == (
        'no pg_hba.conf entry for host "127.0.0.1", user "dba", database "app", no encryption'
    )
    stage.open(NAME, require_tls=False)
    try:
        with stage.connect(False) as sql:
            assert sql.run("SELECT 1") == [[1]]
    finally:
        stage.open(NAME)


def test_bytes_before_the_handshake_are_not_believed(stage: Stage) -> None:
    """What a man in the middle slips in before TLS must not reach the server."""
    with socket.create_connection((stage.address, 5432), 5) as raw:
        raw.sendall(b"\x00\x00\x00\x08\x04\xd2\x16\x2f" + b"smuggled")
        try:
            answer = raw.recv(1)
        except ConnectionResetError:
            answer = b""
        assert answer == b""


def test_a_silent_cut_hangs_and_heals(stage: Stage) -> None:
    with stage.connect() as sql:
        stage.front.cut("i", "silence")
        answers: list[Any] = []
        asking = threading.Thread(target=lambda: answers.append(sql.run("SELECT 2")))
        asking.start()
        asking.join(0.5)
        assert asking.is_alive()
        stage.front.restore("i")
        asking.join(5)
        assert answers == [[[2]]]


def test_a_reset_ends_sessions_and_refuses_new_ones(stage: Stage) -> None:
    sql = stage.connect()
    stage.front.cut("i", "reset")
    try:
        with pytest.raises(pg8000.exceptions.InterfaceError):
            sql.run("SELECT 1")
        with pytest.raises(ConnectionRefusedError):
            stage.connect()
    finally:
        stage.front.restore("i")
    with stage.connect() as again:
        assert again.run("SELECT 1") == [[1]]


def test_who_is_barred_is_turned_away_and_who_is_in_goes_on(stage: Stage) -> None:
    """A security group that is taken away ends no session; whoever comes later meets a closed door."""
    with stage.connect() as inside:
        stage.front.bar("i")
        try:
            with pytest.raises(ConnectionRefusedError):
                stage.connect()
            stage.open(NAME)  # an endpoint that is opened again, as after a reboot, is barred still
            with pytest.raises(ConnectionRefusedError):
                stage.connect()
            assert inside.run("SELECT 1") == [[1]]
        finally:
            stage.front.admit("i")
    with stage.connect() as sql:
        assert sql.run("SELECT 2") == [[2]]


def test_a_cut_and_a_bar_do_not_end_each_other(stage: Stage) -> None:
    stage.front.cut("i", "reset")
    stage.front.bar("i")
    stage.front.admit("i")
    with pytest.raises(ConnectionRefusedError):
        stage.connect()
    stage.front.bar("i")
    stage.front.restore("i")
    try:
        with pytest.raises(ConnectionRefusedError):
            stage.connect()
    finally:
        stage.front.admit("i")
    with stage.connect() as sql:
        assert sql.run("SELECT 1") == [[1]]


def test_who_has_only_connected_gets_in_until_the_server_ends(stage: Stage) -> None:
    """He came before the door was barred; the server that he would have talked to is what he came to."""
    tls = ssl.create_default_context(cafile=str(stage.ca.bundle))
    early, late = (socket.create_connection((stage.address, 5432), 5) for _ in range(2))
    for raw in (early, late):
        raw.sendall(GSS_REQUEST)
        assert raw.recv(1) == b"N"
    stage.front.bar("i")
    try:
        login: dict[str, Any] = {"user": "dba", "password": "pw", "database": "app", "ssl_context": tls, "host": NAME}
        with pg8000.native.Connection(sock=early, **login) as sql:
            assert sql.run("SELECT 1") == [[1]]
            stage.front.hang_up("i")
            assert sql.run("SELECT 2") == [[2]]
        with pytest.raises((OSError, pg8000.exceptions.InterfaceError)):
            pg8000.native.Connection(sock=late, **login)
    finally:
        late.close()
        stage.front.admit("i")


def test_what_was_sent_into_silence_is_no_connection_yet(stage: Stage) -> None:
    """Nothing of it had got through when the door was barred."""
    stage.front.cut("i", "silence")
    with socket.create_connection((stage.address, 5432), 5) as raw:
        raw.sendall(GSS_REQUEST)
        stage.front.bar("i")
        try:
            stage.front.restore("i")
            try:
                answer = raw.recv(1)
            except ConnectionResetError:
                answer = b""
            assert answer == b""
        finally:
            stage.front.admit("i")


def test_a_renamed_endpoint_shows_its_new_name_at_the_same_address(stage: Stage) -> None:
    stage.open("renamed.example")
    try:
        with stage.connect(name="renamed.example") as sql:
            assert sql.run("SELECT 1") == [[1]]
        with pytest.raises(ssl.SSLCertVerificationError):
            stage.connect()
    finally:
        stage.open(NAME)


def test_a_server_that_is_down_looks_down(stage: Stage) -> None:
    stage.server.stop()
    try:
        with pytest.raises((pg8000.exceptions.InterfaceError, OSError)):
            stage.connect()
    finally:
        stage.server.start()
    with stage.connect() as sql:
        assert sql.run("SELECT 1") == [[1]]


def test_addresses_are_nobody_elses() -> None:
    """Two sandboxes on one machine share the port, so they must not share an address."""
    blocks = [AddressBlock() for _ in range(5)]
    try:
        addresses = [block.take(5432) for block in blocks for _ in range(2)]
        assert len(set(addresses)) == len(addresses)
        assert all(address.startswith("127.77.") for address in addresses)
        with socket.socket() as taken:
            taken.bind((addresses[0], 6543))
            taken.listen()
            fresh = AddressBlock()
            blocks.append(fresh)
            blocks[0].give_back(addresses[0])
            assert blocks[0].take(6543) != addresses[0]
    finally:
        for block in blocks:
            block.close()
