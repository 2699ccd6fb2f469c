"""What the sandbox's RDS asks of a database engine.

An engine makes real servers. RDS keeps the books (names, states, keys, backups) and never speaks SQL;
a server knows its own files and processes and nothing of RDS.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from sandbox.tls_front import TlsFront

LOGIN_SECONDS = 2
"""An attempt to log in that takes longer has failed."""


class ServerError(RuntimeError):
    """A server did not do what was asked. The message ends with the tail of its log."""


class Server(Protocol):
    """One database server on this machine. Every method returns when the effect is there, or raises ServerError."""

    @property
    def name(self) -> str: ...

    @property
    def pid(self) -> int | None:
        """The process id while it runs."""
        ...

    @property
    def log(self) -> Path:
        """Where it writes what happens to it."""
        ...

    def start(self) -> None: ...

    def stop(self) -> None:
        """Shut down; sessions end, open transactions are rolled back. Stopping a stopped server does nothing."""
        ...

    def crash(self) -> None:
        """Kill it as a failing host would. What was acknowledged is on disk."""
        ...

    def restart(self) -> None: ...

    def offer(
        self, fronts: TlsFront, key: str, address: str, port: int, certificate: Path, parameters: Mapping[str, str]
    ) -> None:
        """Let clients reach it at an endpoint, by TLS with this certificate (a PEM file with its key).

        Whether plain ones are refused is a parameter's matter. Offering a ``key`` again changes what new clients meet.
        """
        ...

    def reach(self, address: str | None) -> None:
        """Let what it connects to by itself, by whatever name, be at this address from the next connection on.

        None: it finds nobody by a name.
        """
        ...

    def promote(self) -> None:
        """Make a replica a primary. It does not restart, and it does not touch its source."""
        ...

    def forget_replica(self, replica: str) -> None:
        """Release what this source keeps for a replica (WAL, a slot). Unknown replicas are ignored."""
        ...

    def replication_status(self) -> str:
        """``replicating``, ``connecting`` or ``error`` for a replica; ``none`` for a primary."""
        ...

    def set_master_password(self, user: str, password: str) -> None: ...

    def login_refusal(self, user: str, password: str, database: str | None) -> str | None:
        """Why it does not let a client in, now; None: it does.

        Raises:
            ServerError: it does not answer.
        """
        ...

    def apply_parameters(self, parameters: Mapping[str, str]) -> bool:
        """Make these the only parameters that differ from the defaults. True: some need a restart."""
        ...

    def snapshot(self, into: Path) -> None:
        """Copy the data, consistent as of the end of the copy, into a directory that does not exist yet."""
        ...

    def go_on(self) -> None:
        """Go on by more than applications write in a cutover, without a change that anybody could see."""
        ...

    def destroy(self) -> None:
        """End the server and remove its files."""
        ...


class Engine(Protocol):
    """Makes servers of one database engine."""

    @property
    def name(self) -> str: ...

    @property
    def version(self) -> str: ...

    @property
    def port(self) -> int: ...

    def prepare(self) -> None:
        """Make what every server begins with, so that the first one does not take longer (seconds)."""
        ...

    def create(self, name: str, *, master_user: str, master_password: str, database: str | None) -> Server:
        """A running primary with a master user, empty but for what RDS puts there."""
        ...

    def replicate(self, name: str, source: Server) -> Server:
        """A running replica of a running source."""
        ...

    def restore(self, name: str, snapshot: Path) -> Server:
        """A running primary with the data of a snapshot."""
        ...

    def close(self) -> None:
        """End every server that is left."""
        ...
