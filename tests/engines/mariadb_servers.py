"""A real MariaDB primary and its GTID replica behind the front, as RDS offers them."""

from __future__ import annotations

import contextlib
import secrets
import shutil
import ssl
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pymysql

from lambdas.rotation.engines import catch_up_engine_for, engine_for
from lambdas.rotation.engines.mariadb_catch_up import MariadbCatchUp
from lambdas.rotation.engines.mysql import MariadbEngine
from lambdas.rotation.ports import SystemClock
from lambdas.rotation.state import Database
from sandbox.mariadb import PORT, MariadbServer
from sandbox.mariadb import MariadbEngine as Servers
from sandbox.reaper import Reaper
from sandbox.tls_front import AddressBlock, CertificateAuthority, TlsFront
from tests.mariadb import need_mariadb

MASTER = "master"
ROTATION = "kms rotation"
APPLICATION = "shop`s @pp"
"""A user's name may have anything in it."""


@dataclass
class Endpoint:
    server: MariadbServer
    address: str
    bundle: Path
    passwords: dict[str, str]

    def connect(self, user: str = APPLICATION, **options: Any) -> pymysql.Connection[Any]:
        """A client's session, as an application opens it."""
        return pymysql.connect(
            host=self.address,
            port=PORT,
            user=user,
            password=self.passwords[user],
            ssl=ssl.create_default_context(cafile=str(self.bundle)),
            read_timeout=30,
            **({"database": "shop", "autocommit": True} | options),
        )

    def engine(self, user: str = ROTATION, *, replicates: bool = True, **facts: Any) -> MariadbEngine:
        login = (user, self.passwords[user])
        engine = engine_for(
            self.database(**facts), login, ca_bundle=str(self.bundle), clock=SystemClock(), replicates=replicates
        )
        assert isinstance(engine, MariadbEngine)
        return engine

    def catching_up(self, user: str = ROTATION) -> MariadbCatchUp:
        login = (user, self.passwords[user])
        engine = catch_up_engine_for(self.database(), login, ca_bundle=str(self.bundle), clock=SystemClock())
        assert isinstance(engine, MariadbCatchUp)
        return engine

    def database(self, **facts: Any) -> Database:
        return Database.model_validate(
            {
                "identifier": self.server.name,
                "arn": f"arn:aws:rds:eu-central-1:123456789012:db:{self.server.name}",
                "resource_id": "db-1",
                "engine": "mariadb",
                "engine_version": "10.11",
                "address": self.address,
                "port": PORT,
            }
            | facts
        )

    def admin(self, statement: str, *, binlog: bool = True) -> list[Any]:
        with self.server.session(binlog=binlog) as sql:
            return sql.run(statement)

    def written(self) -> int:
        [[count]] = self.admin("SELECT COUNT(*) FROM shop.kept")
        return int(count)


class World:
    @classmethod
    @contextlib.contextmanager
    def below_a_directory(cls) -> Iterator[World]:
        """A short one, which a server of another user may enter. Ends all of it."""
        need_mariadb()
        with tempfile.TemporaryDirectory(prefix="rot-", ignore_cleanup_errors=True) as directory:
            Path(directory).chmod(0o711)
            made = cls(Path(directory))
            try:
                yield made
            finally:
                made.close()

    def __init__(self, directory: Path) -> None:
        self.servers = Servers(directory / "servers", Reaper(directory / "servers"))
        self.authority = CertificateAuthority(directory / "ca")
        self.fronts = TlsFront()
        self.addresses = AddressBlock()
        self.passwords = {name: secrets.token_hex(8) for name in (MASTER, ROTATION, APPLICATION)}
        self.count = 0

    def primary(self) -> Endpoint:
        """A source with an application's account and the rotation's, which has been given what a master may give."""
        self.count += 1
        server = self.servers.create(
            f"m{self.count}", master_user=MASTER, master_password=self.passwords[MASTER], database="shop"
        )
        with server.session(MASTER, self.passwords[MASTER], binlog=True) as sql:
            sql.run(f"CREATE USER {account(APPLICATION)} IDENTIFIED BY '{self.passwords[APPLICATION]}'")
            sql.run(f"GRANT SELECT, INSERT, UPDATE, DELETE ON shop.* TO {account(APPLICATION)}")
            sql.run(f"CREATE USER {account(ROTATION)} IDENTIFIED BY '{self.passwords[ROTATION]}'")
            sql.run(
                "GRANT CREATE USER, RELOAD, PROCESS, SELECT, INSERT, UPDATE, CREATE, DROP, SLAVE MONITOR, EXECUTE "
                f"ON *.* TO {account(ROTATION)}"
            )
            sql.run("CREATE TABLE shop.kept (id BIGINT AUTO_INCREMENT PRIMARY KEY, worker INT)")
        return self.serve(server)

    def replica(self, source: Endpoint) -> Endpoint:
        self.count += 1
        return self.serve(self.servers.replicate(f"m{self.count}", source.server))

    def restored(self, source: Endpoint) -> Endpoint:
        """A copy as RDS restores it from a snapshot of the volume; it finds the source by whatever name."""
        self.count += 1
        snapshot = source.server.directory.parent / f"snapshot-{self.count}"
        source.server.snapshot(snapshot)
        server = self.servers.restore(f"m{self.count}", snapshot)
        shutil.rmtree(snapshot)
        server.reach(source.address)
        return self.serve(server)

    def serve(self, server: MariadbServer) -> Endpoint:
        address = self.addresses.take(PORT)
        server.offer(self.fronts, server.name, address, PORT, self.authority.issue(address), {})
        return Endpoint(server, address, self.authority.bundle, self.passwords)

    def close(self) -> None:
        self.fronts.close()
        self.servers.close()
        self.addresses.close()


def account(user: str) -> str:
    return f"`{user.replace('`', '``')}`@`%`"
