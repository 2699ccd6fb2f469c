"""Real MariaDB servers, arranged as RDS arranges them.

The binaries come from Debian's packages (``make setup-mariadb``). A server listens at a loopback address that it shares
with nobody, where replicas come to it directly and clients through their endpoint's front; and on a unix socket in a
private directory. The superuser is ``rdsadmin``, who can log in at the socket only, with a password that only the
sandbox knows; the customer gets a master user without SUPER and what follows from it.
"""

import contextlib
import random
import re
import secrets
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pymysql
import pymysql.cursors

from sandbox.local_servers import LocalEngine, LocalServer, give, make_directory
from sandbox.rds.servers import Server, ServerError
from sandbox.reaper import Reaper
from sandbox.tls_front import AddressBlock, CertificateAuthority, TlsFront

PORT = 3306
ADMIN = "rdsadmin"
REPLICATION = "rdsrepladmin"
NUMBERS_AHEAD = 1_000_000
"""More transactions than applications commit between a replacement and the end of a cutover."""
PROGRAMS = ("mariadbd", "mariadb-install-db", "mariadb-backup")
SERVES = ("mariadb", "mysql")
"""RDS's engines that have its servers here. There is no MySQL to be had; it is served to those who never log in."""

HOW_TO_INSTALL = "run `make setup-mariadb` (as root; Debian or Ubuntu)"
SEARCHED = "/usr/sbin:/usr/bin:/sbin:/bin"

SETTINGS = {
    "bind-address": "",
    "port": str(PORT),
    "skip-name-resolve": "1",
    # The server's own address, from which the front tells who the client is. (Not the socket: there MariaDB goes on
    # taking a client for one of localhost.)
    "proxy-protocol-networks": "",
    "tls-version": "TLSv1.2,TLSv1.3",
    "innodb-buffer-pool-size": "16M",
    "innodb-buffer-pool-dump-at-shutdown": "0",
    "innodb-buffer-pool-load-at-startup": "0",
    "innodb-log-file-size": "32M",
    "innodb-temp-data-file-path": "ibtmp1:4M:autoextend",
    "key-buffer-size": "1M",
    "aria-pagecache-buffer-size": "1M",
    "performance-schema": "0",
    # Durable, as on RDS: a commit that was acknowledged survives a crash.
    "innodb-flush-log-at-trx-commit": "1",
    "sync-binlog": "1",
    "log-bin": "mysql-bin-changelog",
    "binlog-format": "ROW",
    "log-slave-updates": "1",
    "relay-log": "relaylog",
    "relay-log-recovery": "1",
    "gtid-domain-id": "0",
    "slave-net-timeout": "10",
}

# Parameters of a DB parameter group that the sandbox keeps for itself.
NOT_OURS = re.compile(
    "|".join(re.escape(name.replace("-", "_")) for name in SETTINGS)
    + r"|ssl_.*|socket|datadir|tmpdir|basedir|pid_file|log_error.*|general_log.*|slow_query_log.*|server_id|skip_.*"
)

READ_ONLY = "read_only"
TRUE_IF_REPLICA = "{TrueIfReplica}"
# RDS's for MariaDB 10.11, but for the second: there plain clients are let in. Here a client has to show that it can.
DEFAULTS = {READ_ONLY: TRUE_IF_REPLICA, "require_secure_transport": "1"}

MASTER_MAY = (
    "SELECT, INSERT, UPDATE, DELETE, CREATE, DROP, RELOAD, PROCESS, REFERENCES, INDEX, ALTER, SHOW DATABASES, "
    "CREATE TEMPORARY TABLES, LOCK TABLES, EXECUTE, REPLICATION SLAVE, BINLOG MONITOR, SLAVE MONITOR, CREATE VIEW, "
    "SHOW VIEW, CREATE ROUTINE, ALTER ROUTINE, CREATE USER, EVENT, TRIGGER"
)

# RDS raises its refusal as the unknown column of that name.
KILLERS = """
CREATE DEFINER = rdsadmin@localhost PROCEDURE mysql.{procedure} (IN thread BIGINT)
READS SQL DATA
BEGIN
    DECLARE l_user VARCHAR(128);
    DECLARE l_host VARCHAR(64);
    DECLARE refused VARCHAR(64);
    SELECT user, host INTO l_user, l_host FROM information_schema.processlist WHERE id = thread;
    IF l_user = 'rdsadmin' AND l_host LIKE 'localhost%' THEN
        SELECT `ERROR (RDS): CANNOT KILL RDSADMIN {thing}` INTO refused;
    ELSEIF l_user = 'rdsrepladmin' THEN
        SELECT `ERROR (RDS): CANNOT KILL RDSREPLADMIN {thing}` INTO refused;
    ELSE
        {statement} thread;
    END IF;
END
"""

CLIENTS = f"""
SELECT id FROM information_schema.processlist
WHERE user NOT IN ('{ADMIN}', '{REPLICATION}', 'system user', 'event_scheduler') AND command <> 'Binlog Dump'
"""

Row = tuple[Any, ...]


def quoted(identifier: str) -> str:
    """An SQL identifier."""
    return "`" + identifier.replace("`", "``") + "`"


def literal(value: str) -> str:
    """An SQL string."""
    return "'" + value.replace("\\", "\\\\").replace("'", "''") + "'"


def find_program(name: str) -> str:
    """Where one of MariaDB's programs is.

    Raises:
        ServerError: it is not installed; says how to.
    """
    found = shutil.which(name, path=SEARCHED)
    if found is None:
        raise ServerError(f"MariaDB is not installed ({name} is missing): {HOW_TO_INSTALL}")
    return found


def is_installed() -> bool:
    return all(shutil.which(name, path=SEARCHED) for name in PROGRAMS)


def installed_version() -> str:
    """The version of the server that is installed, such as ``10.11.6``.

    Raises:
        ServerError: none is.
    """
    said = subprocess.run([find_program("mariadbd"), "--version"], capture_output=True, text=True).stdout
    if not (version := re.search(r"Ver (\d+\.\d+\.\d+)-MariaDB", said)):
        raise ServerError(f"this is not MariaDB: {said.strip()}")
    return version[1]


class Session:
    """A session of the superuser."""

    def __init__(self, connection: "pymysql.Connection[pymysql.cursors.Cursor]") -> None:
        self._connection = connection

    def run(self, statement: str, *values: Any) -> list[Row]:
        with self._connection.cursor() as cursor:
            cursor.execute(statement, values or None)
            return list(cursor.fetchall())

    def facts(self, statement: str) -> dict[str, Any]:
        """The first row by the names of its columns; empty when there is none."""
        with self._connection.cursor(pymysql.cursors.DictCursor) as cursor:
            cursor.execute(statement)
            return dict(cursor.fetchone() or {})


class MariadbEngine(LocalEngine["MariadbServer"]):
    """Makes MariaDB servers below one directory. Thread-safe."""

    QUICKLY = signal.SIGKILL
    ON_PARENT_DEATH = "KILL"
    name = "mariadb"
    port = PORT

    def __init__(self, directory: Path, reaper: Reaper | None = None) -> None:
        """Raises ServerError when MariaDB is not installed."""
        for program in PROGRAMS:
            find_program(program)
        super().__init__(directory, reaper)
        self.version = installed_version()
        self.replication_password = secrets.token_hex(16)
        self.addresses = AddressBlock()
        # Without a certificate a server does not speak TLS at all. It is replaced by that of the server's endpoint.
        self.certificate = CertificateAuthority(directory / "tls").issue("localhost")

    def create(self, name: str, *, master_user: str, master_password: str, database: str | None) -> "MariadbServer":
        server = self._new(name)
        self.copy(self.golden(), server.data)
        server.start()
        account = f"{literal(master_user)}@'%'"
        with server.session() as sql:
            sql.run(f"CREATE USER {account} IDENTIFIED BY {literal(master_password)}")
            sql.run(f"GRANT {MASTER_MAY} ON *.* TO {account} WITH GRANT OPTION")
            if database:
                sql.run(f"CREATE DATABASE {quoted(database)}")
        return server

    def replicate(self, name: str, source: Server) -> "MariadbServer":
        assert isinstance(source, MariadbServer)
        server = self._new(name)
        source.snapshot(server.data)
        server.source = source
        position = server.start_copy()
        with server.session() as sql:
            sql.run("SET GLOBAL gtid_slave_pos = %s", position)
            sql.run(
                "CHANGE MASTER TO MASTER_HOST = %s, MASTER_PORT = %s, MASTER_USER = %s, MASTER_PASSWORD = %s, "
                "MASTER_SSL = 1, MASTER_SSL_VERIFY_SERVER_CERT = 0, MASTER_CONNECT_RETRY = 1, "
                "MASTER_HEARTBEAT_PERIOD = 2, MASTER_USE_GTID = slave_pos",
                source.address, PORT, REPLICATION, self.replication_password,
            )  # fmt: skip
            sql.run("START SLAVE")
        server.wait_until_replicating()
        return server

    def restore(self, name: str, snapshot: Path) -> "MariadbServer":
        server = self._new(name)
        self.copy(snapshot, server.data)
        server.start_copy()
        return server

    def close(self) -> None:
        super().close()
        self.addresses.close()

    def program(self, name: str) -> str:
        return find_program(name)

    def environment(self) -> dict[str, str]:
        return {"PATH": SEARCHED, "LC_ALL": "C.UTF-8", "TZ": "UTC", "MYSQL_PWD": self.admin_password}

    def _server(self, name: str, directory: Path) -> "MariadbServer":
        return MariadbServer(self, name, directory)

    def _make_golden(self) -> Path:
        server = self._with_directories(self._server("golden", self.directory / "golden"))
        self.run(
            "mariadb-install-db", "--no-defaults", "--basedir=/usr", f"--datadir={server.data}", "--skip-name-resolve",
            "--skip-test-db", "--auth-root-authentication-method=normal", f"--tmpdir={server.socket.parent}",
            f"--innodb-log-file-size={SETTINGS['innodb-log-file-size']}",
        )  # fmt: skip
        server.start(password="", user="root")
        with server.session("root", "") as sql:
            sql.run(f"CREATE USER rdsadmin@localhost IDENTIFIED BY {literal(self.admin_password)}")
            sql.run("GRANT ALL ON *.* TO rdsadmin@localhost WITH GRANT OPTION")
        with server.session() as sql:
            for user, host in sql.run("SELECT user, host FROM mysql.user WHERE user IN ('', 'root')"):
                sql.run(f"DROP USER {literal(user)}@{literal(host)}")
            sql.run(f"CREATE USER {REPLICATION}@'%' IDENTIFIED BY {literal(self.replication_password)} REQUIRE SSL")
            sql.run(f"GRANT REPLICATION SLAVE ON *.* TO {REPLICATION}@'%'")
            sql.run("CREATE TABLE mysql.rds_heartbeat2 (id INT PRIMARY KEY, value BIGINT) ENGINE = InnoDB")
            for procedure, thing, statement in (
                ("rds_kill", "SESSION", "KILL"),
                ("rds_kill_query", "QUERY", "KILL QUERY"),
            ):
                sql.run(KILLERS.format(procedure=procedure, thing=thing, statement=statement))
            # An instance's history is its own.
            sql.run("RESET MASTER")
        server.stop()
        server.forget_history()
        return server.data


class MariadbServer(LocalServer):
    """One MariaDB server's files and, while it runs, its process."""

    SOCKET = "mysql.sock"
    _engine: MariadbEngine

    def __init__(self, engine: MariadbEngine, name: str, directory: Path) -> None:
        super().__init__(engine, name, directory)
        self.source: MariadbServer | None = None
        self.address = engine.addresses.take(PORT)
        """Where it listens, on MariaDB's port: for its replicas, and for the front of its endpoint."""
        # As on RDS: a number that no other server has, and that a copy does not inherit.
        self.server_id = random.SystemRandom().randrange(1, 2**31)
        self._parameters: dict[str, str] = dict(DEFAULTS)
        self._running: dict[str, str] = {}
        self._agent: pymysql.Connection[Any] | None = None

    def start(self, timeout: float = 60.0, *, user: str = ADMIN, password: str | None = None) -> None:
        with self._lock:
            if self.pid:
                return
            if not self._certificate.exists():
                self.secure(self._engine.certificate)
            self._write_options()
            self.socket.unlink(missing_ok=True)
            self._process = process = self._engine.launch(self, "mariadbd", f"--defaults-file={self._options}")
            deadline = time.monotonic() + timeout
            while True:
                if process.poll() is not None:
                    raise ServerError(f"{self.name} ended while it started: {self.log_tail()}")
                if self.socket.exists():
                    with contextlib.suppress(pymysql.Error, OSError):
                        # RDS's own agent is always there, and shows in every process list.
                        self._agent = self._connect(user, password)
                        return
                if time.monotonic() > deadline:
                    raise ServerError(f"{self.name} does not accept connections: {self.log_tail()}")
                time.sleep(0.02)

    def start_copy(self) -> str:
        """Start from the files of another server, with its position and without its part in a replication.

        Returns the position.
        """
        taken_at = self.data / "position"
        position = taken_at.read_text() if taken_at.exists() else None
        self.forget_history(binlog=position is not None)
        taken_at.unlink(missing_ok=True)
        self.start()
        with self.session() as sql:
            if position is not None:
                sql.run("SET GLOBAL gtid_binlog_state = %s", position)
            [[now]] = sql.run("SELECT @@global.gtid_binlog_pos")
        return str(now)

    def forget_history(self, *, binlog: bool = True) -> None:
        """Let a stopped server not know any more of whom it was a replica, nor (``binlog``) what it wrote."""
        patterns = ["master.info", "relay-log.info", "relaylog*", "multi-master.info", "*.pid"]
        for pattern in [*patterns, *(["mysql-bin-changelog.*"] if binlog else [])]:
            for path in self.data.glob(pattern):
                path.unlink()

    def stop(self) -> None:
        self._dismiss_agent()
        self.kill(signal.SIGTERM)

    def crash(self) -> None:
        self.kill(signal.SIGKILL)

    def restart(self) -> None:
        with self._lock:
            self.stop()
            self.start()

    def kill(self, with_signal: signal.Signals, timeout: float = 60.0) -> None:
        super().kill(with_signal, timeout)
        self._dismiss_agent()

    def destroy(self) -> None:
        super().destroy()
        self._engine.addresses.give_back(self.address)

    def offer(
        self, fronts: TlsFront, key: str, address: str, port: int, certificate: Path, parameters: Mapping[str, str]
    ) -> None:
        self.secure(certificate)
        fronts.relay(key, address, port, (self.address, PORT))

    def secure(self, certificate: Path) -> None:
        """Show new clients this certificate; the file holds the key too."""
        with self._lock:
            fresh = self._certificate.with_suffix(".new")
            fresh.touch(mode=0o600)
            fresh.write_bytes(certificate.read_bytes())
            give(fresh)
            fresh.rename(self._certificate)
            if self.pid:
                with self.session() as sql:
                    sql.run("FLUSH LOCAL SSL")

    def promote(self) -> None:
        with self.session() as sql:
            if not sql.facts("SHOW SLAVE STATUS"):
                raise ServerError(f"{self.name} is not a replica")
            sql.run("STOP SLAVE")
            sql.run("RESET SLAVE ALL")
        self.source = None
        self.apply_parameters(self._parameters)

    def forget_replica(self, replica: str) -> None:
        """MariaDB keeps nothing for a replica: its binary log does not depend on who reads it."""

    def replication_status(self) -> str:
        if not self.pid:
            return "error"
        try:
            with self.session() as sql:
                status = sql.facts("SHOW SLAVE STATUS")
        except (pymysql.Error, OSError):
            return "error"
        if not status:
            return "none"
        receives, applies = status["Slave_IO_Running"], status["Slave_SQL_Running"]
        if receives == "No" or applies == "No":
            return "error"
        return "replicating" if receives == "Yes" else "connecting"

    def wait_until_replicating(self, timeout: float = 30.0) -> None:
        """Raises ServerError when it does not within ``timeout`` seconds."""
        deadline = time.monotonic() + timeout
        while self.replication_status() != "replicating":
            if time.monotonic() > deadline:
                raise ServerError(f"{self.name} does not replicate: {self.log_tail()}")
            time.sleep(0.02)

    def pause_replay(self) -> None:
        """Let a replica fall behind: it receives, and does not apply."""
        with self.session() as sql:
            sql.run("STOP SLAVE SQL_THREAD")

    def resume_replay(self) -> None:
        with self.session() as sql:
            sql.run("START SLAVE SQL_THREAD")

    def kill_receiver(self) -> None:
        """End what a replica's source sends; the replica connects again. Other replicas of the source do so too."""
        assert self.source
        with self.source.session() as sql:
            for (thread,) in sql.run("SELECT id FROM information_schema.processlist WHERE command = 'Binlog Dump'"):
                sql.run(f"KILL {thread}")

    def cut_replication(self) -> None:
        """Let a replica not reach its source any more; it goes on trying."""
        self._receive_from(port=9)

    def restore_replication(self) -> None:
        self._receive_from(port=PORT)

    def heartbeat(self, *, skipping: int = 0) -> None:
        """Write what RDS's own agent writes every five minutes, whatever ``read_only`` says: its position moves on.

        ``skipping`` numbers of transactions, as if there had been so many.
        """
        with self.session(binlog=True) as sql:
            if skipping:
                [[position]] = sql.run("SELECT @@global.gtid_binlog_pos")
                sql.run("SET SESSION gtid_seq_no = %s", int(position.rpartition("-")[2] or 0) + skipping)
            now = time.time_ns() // 1_000_000
            sql.run(
                f"INSERT INTO mysql.rds_heartbeat2(id, value) values (1,{now}) ON DUPLICATE KEY UPDATE value = {now}"
            )

    def refuse_writes(self, within_seconds: float) -> None:
        """End every client's session, and let later ones only read."""
        deadline = time.monotonic() + within_seconds
        with self.session() as sql:
            # Waits for the commits that are under way.
            sql.run("SET GLOBAL read_only = 1")
            while clients := sql.run(CLIENTS):
                if time.monotonic() > deadline:
                    raise ServerError(f"{self.name} does not get rid of its clients")
                for (thread,) in clients:
                    with contextlib.suppress(pymysql.Error):  # it has ended by itself
                        sql.run(f"KILL {thread}")
                time.sleep(0.02)

    def accept_writes(self) -> None:
        with self.session() as sql:
            sql.run("SET GLOBAL read_only = 0")

    def position(self) -> str:
        with self.session() as sql:
            return str(sql.run("SELECT @@global.gtid_binlog_pos")[0][0])

    def has_replayed(self, position: str) -> bool:
        with self.session() as sql:
            return str(sql.run("SELECT MASTER_GTID_WAIT(%s, 0)", position)[0][0]) == "0"

    def go_on(self) -> None:
        self.heartbeat(skipping=NUMBERS_AHEAD)

    def open_databases(self) -> None:
        """Let applications in whose accounts are locked, and let them write."""
        with self.session() as sql:
            for user, host in sql.run(
                "SELECT user, host FROM mysql.global_priv"
                " WHERE JSON_VALUE(priv, '$.account_locked') AND user <> 'mariadb.sys'"
            ):
                sql.run(f"ALTER USER {literal(user)}@{literal(host)} ACCOUNT UNLOCK")
            sql.run("SET GLOBAL read_only = 0")

    def reload(self) -> None:
        """Let it read its settings again, as after a change of its parameter group."""
        self.apply_parameters(self._parameters)

    def set_master_password(self, user: str, password: str) -> None:
        # Written to the binary log: a replica's master has its source's password.
        with self.session(binlog=True) as sql:
            sql.run(f"ALTER USER {literal(user)}@'%' IDENTIFIED BY {literal(password)}")

    def apply_parameters(self, parameters: Mapping[str, str]) -> bool:
        with self._lock, self.session() as sql:
            known = {
                name.lower(): read_only == "NO"
                for name, read_only in sql.run(
                    "SELECT variable_name, read_only FROM information_schema.system_variables"
                    " WHERE variable_scope <> 'SESSION ONLY'"
                )
            }
            self._parameters = {
                name: value
                for name, value in (DEFAULTS | dict(parameters)).items()
                # Other formulas ({DBInstanceClassMemory*3/4}) are RDS's own language.
                if name in known and not NOT_OURS.fullmatch(name) and ("{" not in value or name == READ_ONLY)
            }
            wanted = self._resolved()
            for name in sorted(wanted.keys() | self._running.keys()):
                if known[name] and wanted.get(name) != self._running.get(name):
                    value = wanted.get(name)
                    sql.run(f"SET GLOBAL {name} = {'DEFAULT' if value is None else _setting(value)}")
            applied = {name: value for name, value in wanted.items() if known[name]}
            static = {name: value for name, value in self._running.items() if not known[name]}
            self._running = applied | static
            return self._running != wanted

    def snapshot(self, into: Path) -> None:
        if not self.pid:
            self._engine.copy(self.data, into)
            return
        make_directory(into)
        for step in (
            ["--backup", f"--socket={self.socket}", f"--user={ADMIN}", f"--datadir={self.data}"],
            ["--prepare"],
        ):
            self._engine.run(
                "mariadb-backup", "--no-defaults", *step, f"--target-dir={into}", "--innodb-use-native-aio=0"
            )
        information = (into / "xtrabackup_binlog_info").read_text()
        (into / "position").write_text(information.rstrip("\n").split("\t")[2])
        give(into / "position")

    @contextlib.contextmanager
    def session(self, user: str = ADMIN, password: str | None = None, *, binlog: bool = False) -> Iterator[Session]:
        """A session as ``rdsadmin``, the superuser that no customer has.

        What it writes is not replicated unless ``binlog``.
        """
        connection = self._connect(user, password)
        try:
            session = Session(connection)
            if not binlog:
                session.run("SET sql_log_bin = 0")
            yield session
        finally:
            with contextlib.suppress(pymysql.Error, OSError):
                connection.close()

    @property
    def _options(self) -> Path:
        return self.directory / "my.cnf"

    @property
    def _certificate(self) -> Path:
        return self.directory / "tls.pem"

    def _connect(self, user: str, password: str | None) -> "pymysql.Connection[pymysql.cursors.Cursor]":
        return pymysql.connect(
            unix_socket=str(self.socket), user=user,
            password=self._engine.admin_password if password is None else password,
            autocommit=True, connect_timeout=10, read_timeout=70, write_timeout=70,
        )  # fmt: skip

    def _dismiss_agent(self) -> None:
        agent, self._agent = self._agent, None
        if agent:
            with contextlib.suppress(pymysql.Error, OSError):
                agent.close()

    def _receive_from(self, *, port: int) -> None:
        with self.session() as sql:
            sql.run("STOP SLAVE")
            sql.run("CHANGE MASTER TO MASTER_PORT = %s", port)
            sql.run("START SLAVE")

    def _resolved(self) -> dict[str, str]:
        """The parameters, for the part that this server plays now."""
        replica = "1" if self.source else "0"
        return {name: value.replace(TRUE_IF_REPLICA, replica) for name, value in self._parameters.items()}

    def _write_options(self) -> None:
        self._running = self._resolved()
        options = SETTINGS | {
            "datadir": str(self.data),
            "socket": str(self.socket),
            "pid-file": str(self.directory / "s" / "pid"),
            # Its own: a server that starts removes the temporary tables that it finds, whosever they are.
            "tmpdir": str(self.socket.parent),
            "bind-address": self.address,
            "proxy-protocol-networks": self.address,
            "server-id": str(self.server_id),
            "ssl-cert": str(self._certificate),
            "ssl-key": str(self._certificate),
        }
        lines = [f"{name} = {value}\n" for name, value in (options | self._running).items()]
        self._options.write_text("".join(["[mariadbd]\n", *lines]))
        give(self._options)


def _setting(value: str) -> str:
    return value if re.fullmatch(r"-?\d+(\.\d+)?", value) else literal(value)
