"""A real PostgreSQL primary and its streaming replica behind TLS fronts, as RDS offers them."""

import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pg8000.native

from lambdas.rotation.engines import engine_for
from lambdas.rotation.engines.postgres import PostgresEngine
from lambdas.rotation.engines.postgres_catch_up import PostgresCatchUp
from lambdas.rotation.ports import SystemClock
from lambdas.rotation.state import Database
from sandbox.postgres import PORT, PostgresServer, literal, quoted
from sandbox.postgres import PostgresEngine as Servers
from sandbox.reaper import Reaper
from sandbox.tls_front import AddressBlock, CertificateAuthority, TlsFront

MASTER = "master"
APPLICATION = "shop app"
MAKER = "administrator"
AWKWARD = 'Käufe "neu" 2'
LONG = "ü" * 31 + "x"  # 63 bytes, which is all there is room for
DATABASES = ("orders", AWKWARD, LONG)


@dataclass
class Endpoint:
    """A server, the address where clients reach it, and whom they log in as."""

    server: PostgresServer
    address: str
    bundle: Path
    passwords: dict[str, str]

    def connect(self, database: str, user: str = APPLICATION, **options: Any) -> pg8000.native.Connection:
        """A client's session, as an application opens it."""
        import ssl

        return pg8000.native.Connection(
            user,
            host=self.address,
            port=PORT,
            database=database,
            password=self.passwords[user],
            ssl_context=ssl.create_default_context(cafile=str(self.bundle)),
            timeout=30,
            **options,
        )

    def engine(self, user: str = MASTER, **facts: Any) -> PostgresEngine:
        database = Database.model_validate(
            {
                "identifier": self.server.name,
                "arn": f"arn:aws:rds:eu-central-1:123456789012:db:{self.server.name}",
                "resource_id": "db-1",
                "engine": "postgres",
                "engine_version": "16.14",
                "address": self.address,
                "port": PORT,
            }
            | facts
        )
        login = (user, self.passwords[user])
        engine = engine_for(database, login, ca_bundle=str(self.bundle), clock=SystemClock())
        assert isinstance(engine, PostgresEngine)
        return engine

    def catching_up(self, user: str = MASTER) -> PostgresCatchUp:
        """The engine of a source that captures, or of a copy that catches up."""
        engine = self.engine(user)
        return PostgresCatchUp(
            engine._database, (user, self.passwords[user]), ca_bundle=str(self.bundle), clock=SystemClock()
        )

    def admin(self, statement: str, database: str = "postgres") -> list[Any]:
        with self.server.session(database) as sql:
            return list(sql.run(statement) or [])


class World:
    """Servers below one directory, each with an endpoint."""

    def __init__(self, directory: Path, kind: type[Servers] = Servers) -> None:
        self.servers = kind(directory / "servers", Reaper(directory / "servers"))
        self.authority = CertificateAuthority(directory / "ca")
        self.fronts = TlsFront()
        self.addresses = AddressBlock()
        self.passwords = {MASTER: secrets.token_hex(8), APPLICATION: secrets.token_hex(8)}
        self.count = 0

    def primary(self, **parameters: str) -> Endpoint:
        """A source with three application databases of an owner that the master is a member of."""
        self.count += 1
        server = self.servers.create(
            f"s{self.count}", master_user=MASTER, master_password=self.passwords[MASTER], database=None
        )
        if parameters and server.apply_parameters(parameters):
            server.restart()
        with server.session("postgres") as sql:
            sql.run(f"CREATE ROLE {quoted(APPLICATION)} LOGIN PASSWORD {literal(self.passwords[APPLICATION])}")
            sql.run(f"GRANT {quoted(APPLICATION)} TO {MASTER}")
            # Whoever has made a role may grant it; of a superuser's, as here, that would be nobody else.
            sql.run(f"CREATE ROLE {MAKER}; GRANT {quoted(APPLICATION)} TO {MAKER} WITH ADMIN OPTION")
            for name in DATABASES:
                sql.run(f"CREATE DATABASE {quoted(name)} OWNER {quoted(APPLICATION)}")
        for name in DATABASES:
            with server.session(name) as sql:
                sql.run(
                    f"CREATE TABLE kept (id bigserial PRIMARY KEY); ALTER TABLE kept OWNER TO {quoted(APPLICATION)}"
                )
        return self.serve(server)

    def replica(self, source: Endpoint) -> Endpoint:
        self.count += 1
        return self.serve(self.servers.replicate(f"s{self.count}", source.server))

    def restored(self, source: Endpoint) -> Endpoint:
        """What a snapshot of this moment becomes."""
        self.count += 1
        taken = self.servers.directory / f"taken{self.count}"
        source.server.snapshot(taken)
        server = self.servers.restore(f"s{self.count}", taken)
        server.reach(source.address)
        return self.serve(server)

    def serve(self, server: PostgresServer) -> Endpoint:
        address = self.addresses.take(PORT)
        self.fronts.open(server.name, address, PORT, self.authority.issue(address), server.socket)
        return Endpoint(server, address, self.authority.bundle, self.passwords)

    @classmethod
    @contextmanager
    def below_a_directory(cls, kind: type[Servers] = Servers) -> "Iterator[World]":
        # Not pytest's directory: the path of a unix socket has 107 characters at most.
        with tempfile.TemporaryDirectory(prefix="rot-", ignore_cleanup_errors=True) as directory:
            Path(directory).chmod(0o711)
            made = cls(Path(directory), kind)
            try:
                yield made
            finally:
                made.close()

    def close(self) -> None:
        self.fronts.close()
        self.servers.close()
        self.addresses.close()
