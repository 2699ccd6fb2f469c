"""How an application finds its database and logs in: a name that is asked for, an address that is verified by TLS.

Nothing is remembered beyond what is written here: a name is resolved for every connection that is made, and whoever
keeps a connection for longer than ``Endpoint.ttl_seconds`` talks to a database that the name may have left.
"""

import contextlib
import json
import socket
import ssl
import threading
import time
from dataclasses import dataclass, field
from typing import Any, Protocol

import dnslib
import pg8000.exceptions
import pg8000.native

from sandbox import scram
from sandbox.demo.account import Account

scram.remember()

PORT = 5432
CONNECT_SECONDS = 5.0
ANSWER_SECONDS = 20.0
"""After so long a silence a client gives its connection up."""


class NameNotFound(OSError):
    """The name leads to no address."""


@dataclass(frozen=True)
class Login:
    user: str
    password: str = field(repr=False)


@dataclass(frozen=True)
class Endpoint:
    """Where a name led when it was asked: ``name`` is the one in the server's certificate."""

    name: str
    address: str
    port: int
    ttl_seconds: float


class Finder(Protocol):
    def find(self) -> Endpoint:
        """Where the application's database is now. Raises OSError."""
        ...


class Resolver:
    """Asks one DNS server, every time. Thread-safe."""

    def __init__(self, host: str, port: int, database_port: int = PORT) -> None:
        self._server = (host, port)
        self._database_port = database_port

    def resolve(self, name: str) -> Endpoint:
        """Follow CNAMEs from ``name`` to an address; the TTL is that of the first record.

        Raises:
            NameNotFound: the name does not exist or leads nowhere.
            OSError: the server does not answer.
        """
        reply = self._ask(name)
        known = {str(record.rname).rstrip(".").lower(): record for record in reply.rr}
        at, ttl = name.rstrip(".").lower(), None
        for _ in range(8):
            record = known.get(at)
            if record is None:
                break
            ttl = record.ttl if ttl is None else ttl
            if record.rtype == dnslib.QTYPE.A:
                return Endpoint(at, str(record.rdata), self._database_port, float(ttl))
            at = str(record.rdata).rstrip(".").lower()
        raise NameNotFound(f"{name} leads to no address")

    def _ask(self, name: str) -> Any:
        question = dnslib.DNSRecord.question(name)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
            udp.settimeout(1.0)
            for attempt in range(3):
                udp.sendto(question.pack(), self._server)
                with contextlib.suppress(TimeoutError):
                    return dnslib.DNSRecord.parse(udp.recv(4096))
                if attempt == 2:
                    raise TimeoutError(f"no answer from DNS server {self._server}")
        raise AssertionError


class DnsFinder:
    """The application knows a name (connectivity ``dns``)."""

    def __init__(self, resolver: Resolver, name: str) -> None:
        self._resolver, self._name = resolver, name

    def find(self) -> Endpoint:
        return self._resolver.resolve(self._name)


class SecretFinder:
    """The application knows a secret that holds the host (connectivity ``secret``).

    It is read when a connection has to be made, but not more often than every ``HOLD_SECONDS`` for all of them.
    """

    HOLD_SECONDS = 0.1
    TTL_SECONDS = 30.0

    def __init__(self, resolver: Resolver, secrets: Any, secret_id: str) -> None:
        self._resolver, self._secrets, self._secret_id = resolver, secrets, secret_id
        self._lock = threading.Lock()
        self._read_at = -1e9
        self._fields: dict[str, Any] = {}

    def find(self) -> Endpoint:
        with self._lock:
            if time.monotonic() - self._read_at > self.HOLD_SECONDS:
                try:
                    answer = self._secrets.get_secret_value(SecretId=self._secret_id)
                except Exception as error:
                    raise OSError(f"the endpoint secret cannot be read: {error}") from error
                self._fields = json.loads(answer["SecretString"])
                self._read_at = time.monotonic()
            host, port = str(self._fields["host"]), int(self._fields["port"])
        found = self._resolver.resolve(host)
        return Endpoint(found.name, found.address, port, self.TTL_SECONDS)


def finder(account: Account, *, record: str | None = None, secret: str | None = None, port: int = PORT) -> Finder:
    """The way to the database that this record, or this secret, leads to.

    Args:
        port: where the database listens, if the record does not say.
    """
    resolver = Resolver(account.dns_host, account.dns_port, port)
    if secret is not None:
        return SecretFinder(resolver, account.client("secretsmanager"), secret)
    assert record is not None
    return DnsFinder(resolver, record)


def trusting(ca_bundle: str) -> ssl.SSLContext:
    """verify-full: the chain against the bundle, and the name."""
    return ssl.create_default_context(cafile=ca_bundle)


def connect(
    endpoint: Endpoint,
    database: str,
    login: Login,
    trust: ssl.SSLContext,
    *,
    options: str | None = None,
    answer_seconds: float = ANSWER_SECONDS,
) -> pg8000.native.Connection:
    """Log in at this endpoint, a PostgreSQL database.

    Args:
        options: server settings of the session, as libpq's ``options``.
        answer_seconds: so long may an answer take.

    Raises:
        OSError, pg8000.exceptions.Error: no connection was made, and nothing of it is left open.
    """
    raw = socket.create_connection((endpoint.address, endpoint.port), CONNECT_SECONDS)
    try:
        raw.settimeout(answer_seconds)
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return pg8000.native.Connection(
            login.user,
            host=endpoint.name,
            database=database,
            password=login.password,
            ssl_context=trust,
            startup_params={"options": options} if options else None,
            sock=raw,
        )
    except BaseException:
        raw.close()
        raise


def hang_up(connection: Any) -> None:
    """Close a connection that may be broken already."""
    with contextlib.suppress(Exception):
        connection.close()


def sqlstate(error: BaseException) -> str | None:
    """PostgreSQL's own error code; None when the error did not come from the server."""
    if isinstance(error, pg8000.exceptions.DatabaseError) and error.args and isinstance(error.args[0], dict):
        code = error.args[0].get("C")
        return None if code is None else str(code)
    return None


def quoted(name: str) -> str:
    """Any name as an SQL identifier of PostgreSQL."""
    return '"' + name.replace('"', '""') + '"'


def literal(value: str) -> str:
    """Any text as an SQL string of PostgreSQL (``standard_conforming_strings``)."""
    return "'" + value.replace("'", "''") + "'"
