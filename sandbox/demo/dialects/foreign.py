"""Engines whose SQL nobody here speaks, with servers of PostgreSQL: a rotation cannot log in, only the customer can."""

from collections.abc import Mapping, Sequence

from sandbox.demo.connection import Login, quoted
from sandbox.demo.dialects import Session
from sandbox.demo.dialects.postgres import Postgres


class Foreign(Postgres):
    settings: Mapping[str, str] = {}
    settings_to_follow: Mapping[str, str] = {}
    # They sleep on servers of PostgreSQL only, and those nobody shall see.
    has_latecomers = False
    takes_login = False
    names_database = True

    def admit(self, admin: Session, databases: Sequence[str], app: Login, master: str) -> None:
        if not self.names_database:
            admin.run(f"CREATE DATABASE {quoted(databases[0])}")
        super().admit(admin, databases, app, master)
