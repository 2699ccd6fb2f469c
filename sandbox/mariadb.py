"""Real MariaDB servers, arranged as RDS arranges them.

The binaries come from Debian's packages (``make setup-mariadb``). A server listens at a loopback address that it shares
with nobody, where replicas come to it directly and clients through their endpoint's front; and on a unix socket in a
private directory. The superuser is ``rdsadmin``, who can log in at the socket only, with a password that only the
sandbox knows; the customer gets a master user without SUPER and what follows from it.

A server that its customer lets follow another one, by RDS's procedures, comes through the other's front as clients do.
"""

import contextlib
import random
import re
import secrets
import shutil
import signal
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pymysql
import pymysql.cursors

from sandbox.local_servers import LocalEngine, LocalServer, give
from sandbox.rds.servers import LOGIN_SECONDS, Server, ServerError
from sandbox.reaper import Reaper
from sandbox.tls_front import AddressBlock, CertificateAuthority, TlsFront

PORT = 3306
ADMIN = "rdsadmin"
REPLICATION = "rdsrepladmin"
NUMBERS_AHEAD = 1_000_000
"""More transactions than applications commit between a replacement and the end of a cutover."""
PROGRAMS = ("mariadbd", "mariadb-install-db")
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
    "log-slave-updates": "1",
    "relay-log": "relaylog",
    "relay-log-recovery": "1",
    "gtid-domain-id": "0",
    "slave-net-timeout": "10",
}

# RDS's own, which every server has (RDS User Guide, SHOW SLAVE STATUS); one option for each.
NOT_REPLICATED = (
    "mysql.rds_sysinfo", "mysql.rds_history", "mysql.rds_replication_status", "mysql.plugin",
    "innodb_memcache.cache_policies", "innodb_memcache.config_options",
)  # fmt: skip

# Parameters of a DB parameter group that the sandbox keeps for itself.
NOT_OURS = re.compile(
    "|".join(re.escape(name.replace("-", "_")) for name in SETTINGS)
    + r"|ssl_.*|socket|datadir|tmpdir|basedir|pid_file|log_error.*|general_log.*|slow_query_log.*|server_id|skip_.*"
)

READ_ONLY = "read_only"
TRUE_IF_REPLICA = "{TrueIfReplica}"
# RDS's for MariaDB 10.11, but for the second: there plain clients are let in. Here a client has to show that it can.
DEFAULTS = {READ_ONLY: TRUE_IF_REPLICA, "require_secure_transport": "1", "binlog_format": "MIXED"}

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

NOBODY_THERE = "255.255.255.255"
"""An address to which the operating system connects nobody."""

OF_RDS = (
    "CREATE TABLE mysql.rds_heartbeat2 (id INT PRIMARY KEY, value BIGINT) ENGINE = InnoDB",
    "CREATE TABLE mysql.rds_configuration (name VARCHAR(100) PRIMARY KEY, value VARCHAR(100), "
    "description VARCHAR(300) NOT NULL) ENGINE = InnoDB",
    "INSERT INTO mysql.rds_configuration VALUES ('binlog retention hours', NULL, 'binlog retention hours specifies "
    "the duration in hours before binary logs are automatically deleted.')",
    "CREATE TABLE mysql.rds_replication_status (action_timestamp TIMESTAMP NOT NULL, called_by_user VARCHAR(352), "
    "action VARCHAR(20), mysql_version VARCHAR(50), master_host VARCHAR(255), master_port INT) ENGINE = InnoDB",
)

# RDS wants autocommit: in a transaction sql_log_bin cannot be changed.
PROCEDURE = """
CREATE DEFINER = rdsadmin@localhost PROCEDURE mysql.{signature}
MODIFIES SQL DATA
BEGIN
    DECLARE configured BOOLEAN DEFAULT EXISTS (
        SELECT * FROM mysql.rds_replication_status WHERE master_host IS NOT NULL
    );
    DECLARE threads INT DEFAULT (
        SELECT COUNT(*) FROM information_schema.processlist
        WHERE user = 'system user' AND command IN ('Connect', 'Slave_IO', 'Slave_SQL')
    );
    DECLARE refused VARCHAR(200) DEFAULT CASE {refusals} END;
    DECLARE logging BOOLEAN DEFAULT @@sql_log_bin;
    DECLARE looks INT DEFAULT 40;
    DECLARE EXIT HANDLER FOR SQLEXCEPTION BEGIN
        SET sql_log_bin = logging;
        RESIGNAL;
    END;
    IF refused IS NOT NULL THEN
        SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = refused;
    END IF;
    SET sql_log_bin = 0;
    {body}
    SET sql_log_bin = logging;
END
"""

# The refusals and their words are of RDS for MySQL 8, whose procedures customers have published; those of RDS for
# MariaDB nobody has. RDS's start and stop also wait for three seconds.
PROCEDURES: Mapping[str, tuple[str, str]] = {
    # The operating system does not know RDS's names; a file beside the data has the address (see `reach`).
    "rds_set_external_master_gtid (host_name VARCHAR(255), host_port INT, replication_user_name TEXT,"
    " replication_user_password TEXT, gtid TEXT, ssl_encryption TINYINT)": (
        "WHEN FALSE THEN NULL",
        f"""
        SET GLOBAL gtid_slave_pos = gtid;
        -- First: what is configured, and not known as that, could never be reset.
        DELETE FROM mysql.rds_replication_status;
        INSERT INTO mysql.rds_replication_status
        VALUES (NOW(), SESSION_USER(), 'set master', VERSION(), host_name, host_port);
        EXECUTE IMMEDIATE CONCAT(
            'CHANGE MASTER TO MASTER_HOST = ',
            QUOTE(COALESCE(CONVERT(LOAD_FILE('../way') USING utf8mb4), '{NOBODY_THERE}')),
            ', MASTER_PORT = ', host_port, ', MASTER_USER = ', QUOTE(replication_user_name),
            ', MASTER_PASSWORD = ', QUOTE(replication_user_password), ', MASTER_SSL = ', ssl_encryption <> 0,
            ', MASTER_SSL_VERIFY_SERVER_CERT = 0, MASTER_CONNECT_RETRY = 1, MASTER_HEARTBEAT_PERIOD = 2, '
            'MASTER_USE_GTID = slave_pos'
        );
        """,
    ),
    "rds_start_replication ()": (
        "WHEN NOT configured THEN 'You can''t start replication because the replica isn''t configured."
        " First call mysql.rds_set_external_master.'"
        " WHEN threads > 0 THEN 'Replication may already be running. Call rds_stop_replication to stop replication'",
        r"""
        START SLAVE;
        UPDATE mysql.rds_replication_status SET action = 'start slave', action_timestamp = NOW();
        WHILE NOT EXISTS (
            SELECT * FROM information_schema.global_status
            WHERE variable_name = 'slave_running' AND variable_value = 'ON'
        ) DO
            IF looks = 0 THEN
                -- It goes on trying all the same.
                SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT =
                    'Slave has encountered an error. Run SHOW SLAVE STATUS\\G; to see the error.';
            END IF;
            SET looks = looks - 1;
            DO SLEEP(0.05);
        END WHILE;
        SELECT 'Slave running normally.' AS Message;
        """,
    ),
    "rds_stop_replication ()": (
        r"WHEN threads = 0 THEN 'Slave is already stopped or may not be configured. Run SHOW SLAVE STATUS\\G;'",
        """
        STOP SLAVE;
        UPDATE mysql.rds_replication_status SET action = 'stop slave', action_timestamp = NOW();
        SELECT 'Slave is now down or disabled' AS Message;
        """,
    ),
    "rds_reset_external_master ()": (
        "WHEN NOT configured THEN 'You can''t reset replication because replication isn''t configured."
        " First run mysql.rds_set_external_master.'",
        """
        STOP SLAVE;
        RESET SLAVE ALL;
        UPDATE mysql.rds_replication_status
        SET action = 'reset slave', action_timestamp = NOW(), master_host = NULL, master_port = NULL;
        SELECT 'Slave has been reset' AS message;
        """,
    ),
    "rds_set_configuration (name VARCHAR(30), value INT)": (
        "WHEN NOT EXISTS (SELECT * FROM mysql.rds_configuration AS known WHERE known.name = name)"
        " THEN CONCAT('Cannot set unknown configuration parameter ', QUOTE(name),"
        " ' using mysql.rds_set_configuration.')"
        " WHEN value NOT BETWEEN 1 AND 168"
        " THEN 'For binlog retention hours the value must be between 1 and 168 inclusive or be NULL'",
        "UPDATE mysql.rds_configuration AS known SET known.value = value WHERE known.name = name;",
    ),
    "rds_show_configuration ()": ("WHEN FALSE THEN NULL", "SELECT * FROM mysql.rds_configuration;"),
}

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
        self.restores_binary_logs = True
        """Whether a restored server has those of the snapshot's; RDS documents neither."""
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
        server.start_copy()
        position = server.position()
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
        server.start_copy(binlog=self.restores_binary_logs)
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
            for statement in OF_RDS:
                sql.run(statement)
            for signature, (refusals, body) in PROCEDURES.items():
                sql.run(PROCEDURE.format(signature=signature, refusals=refusals, body=body))
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
        self._way = directory / "way"
        self._way_lock = threading.Lock()

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
                        break
                if time.monotonic() > deadline:
                    raise ServerError(f"{self.name} does not accept connections: {self.log_tail()}")
                time.sleep(0.02)
            self._go_the_way()

    def start_copy(self, *, binlog: bool = True) -> None:
        """Start from the files of another server, without its part in a replication, nor its history unless ``binlog``.

        As after a crash, at the moment of which the files are: what was committed then is there, and
        ``gtid_binlog_state`` says what that is.
        """
        self.forget_history(binlog=not binlog)
        self.start()
        with self.session() as sql:
            sql.run("DELETE FROM mysql.rds_replication_status")

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

    def reach(self, address: str | None) -> None:
        where = address or NOBODY_THERE
        if where != self._where():
            # At once, and for everybody to read: LOAD_FILE takes no other.
            new = self._way.with_suffix(".new")
            new.write_text(where)
            new.chmod(0o644)
            new.replace(self._way)
            self._go_the_way()

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

    def login_refusal(self, user: str, password: str, database: str | None) -> str | None:
        # Where clients come, and by TLS: accounts may demand both.
        unverified = ssl.create_default_context()
        unverified.check_hostname, unverified.verify_mode = False, ssl.CERT_NONE
        try:
            pymysql.connect(
                host=self.address, port=PORT, user=user, password=password, database=database, ssl=unverified,
                connect_timeout=LOGIN_SECONDS, read_timeout=LOGIN_SECONDS, write_timeout=LOGIN_SECONDS,
            ).close()  # fmt: skip
        except (pymysql.Error, OSError) as error:
            # Those of the two thousands are the client's own.
            if isinstance(error, pymysql.Error) and error.args[0] // 1000 != 2:
                return str(error.args[1])
            raise ServerError(f"{self.name} does not answer: {error}") from error
        return None

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
        """As RDS takes one, of a volume: a server that starts from it recovers as after a crash.

        Whoever writes waits for the copy.
        """
        with self._lock, self._frozen():
            self._engine.copy(self.data, into)

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
            # TLS on a socket of this machine protects nothing, and reading the authorities costs more than the session.
            autocommit=True, connect_timeout=10, read_timeout=70, write_timeout=70, ssl_disabled=True,
        )  # fmt: skip

    @contextlib.contextmanager
    def _frozen(self, within_seconds: float = 10.0) -> Iterator[None]:
        """Let the process, if it runs, do nothing for the block.

        Raises:
            ServerError: one of its threads does not stop.
        """
        process = self._process if self.pid else None
        if process is None:
            yield
            return
        process.send_signal(signal.SIGSTOP)
        try:
            deadline = time.monotonic() + within_seconds
            # Whoever is in the middle of a write ends that first.
            while not _is_stopped(process.pid):
                if time.monotonic() > deadline:
                    raise ServerError(f"{self.name} does not stand still")
                time.sleep(0.001)
            yield
        finally:
            process.send_signal(signal.SIGCONT)

    def _where(self) -> str:
        return self._way.read_text() if self._way.exists() else NOBODY_THERE

    def _go_the_way(self) -> None:
        """Let a replication that the customer has set up go to where its source is now."""
        if self.source or not (self.data / "master.info").exists():
            return
        # Of a server that is about to start or to end: at its start somebody looks again.
        with self._way_lock, contextlib.suppress(pymysql.Error, OSError), self.session() as sql:
            status, where = sql.facts("SHOW SLAVE STATUS"), self._where()
            if status and status["Master_Host"] != where:
                running = [thread for thread in ("IO", "SQL") if status[f"Slave_{thread}_Running"] != "No"]
                sql.run("STOP SLAVE")
                sql.run("CHANGE MASTER TO MASTER_HOST = %s", where)
                for thread in running:
                    sql.run(f"START SLAVE {thread}_THREAD")

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
        lines += [f"replicate-ignore-table = {table}\n" for table in NOT_REPLICATED]
        self._options.write_text("".join(["[mariadbd]\n", *lines]))
        give(self._options)


def _setting(value: str) -> str:
    return value if re.fullmatch(r"-?\d+(\.\d+)?", value) else literal(value)


def _is_stopped(pid: int) -> bool:
    """Whether every thread of a process is."""
    try:
        stats = [stat.read_text() for stat in Path(f"/proc/{pid}/task").glob("*/stat")]
    except OSError:  # one of them has just ended
        return False
    return all(stat.rpartition(")")[2].split()[0] in "Tt" for stat in stats)
