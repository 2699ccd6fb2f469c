"""The engines that the sandbox's RDS offers: what its API says of each, and their servers, made on first use."""

import dataclasses
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from sandbox import mariadb
from sandbox.mariadb import MariadbEngine
from sandbox.postgres import VERSION as POSTGRES_VERSION
from sandbox.postgres import AuroraEngine, PostgresEngine
from sandbox.rds.servers import Engine
from sandbox.reaper import Reaper


@dataclass(frozen=True)
class Parameter:
    """What RDS knows of a parameter of a DB parameter group."""

    default: str | None = None
    allowed: str = "0,1"
    """The values that it may have, or (with a hyphen) their bounds, which the sandbox does not check."""
    static: bool = False
    data_type: str = "boolean"

    def takes(self, value: str) -> bool:
        return "-" in self.allowed or value in self.allowed.split(",")


@dataclass(frozen=True)
class Kind:
    """An engine as the API knows it."""

    name: str
    port: int
    license_model: str
    version: str
    major: str
    family: str
    """Of its parameter groups."""
    reserved_masters: frozenset[str]
    parameters: Mapping[str, Parameter]
    """A few of many; of the others RDS's rules are not checked."""
    servers: Callable[[Path, Reaper], Engine]
    older: tuple[str, ...] = ()
    """Versions of which the books know; their servers are of ``version``."""
    cluster_parameters: Mapping[str, Parameter] | None = None
    """Those of a DB cluster parameter group that no instance's has; None: this engine has no clusters."""
    other_license_models: tuple[str, ...] = ()
    longest_database_name: int = 63
    """0: RDS makes no database with the instance."""
    default_database: str | None = None
    has_read_replicas: bool = True
    has_blue_green_deployments: bool = True
    can_be_backtracked: bool = False
    log_file: str | None = None
    """The name of an hour's log, for `strftime`; None: nobody has looked yet what RDS calls it."""

    @property
    def is_auroras(self) -> bool:
        """Its instances are members of clusters; what another engine has of clusters are Multi-AZ DB clusters."""
        return self.name.startswith("aurora-")

    @property
    def versions(self) -> tuple[str, ...]:
        return (self.version, *self.older)

    @property
    def option_group(self) -> str:
        return f"default:{self.name}-{self.major.replace('.', '-')}"

    @property
    def parameter_group(self) -> str:
        return f"default.{self.family}"

    def takes(self, version: str) -> bool:
        """Whether a request may name the engine's version so."""
        return version in (*self.versions, self.major)

    def full(self, version: str | None) -> str:
        """The version that RDS makes of what a request names; the default one if it names none."""
        return version if version in self.versions else self.version


_INSTANCE_PARAMETERS = {
    "default_transaction_read_only": Parameter(),
    "max_connections": Parameter(
        "LEAST({DBInstanceClassMemory/9531392},5000)", "6-262143", static=True, data_type="integer"
    ),
}
# Aurora has these for a cluster as a whole only.
_CLUSTER_PARAMETERS = {
    "rds.force_ssl": Parameter("1"),
    "rds.logical_replication": Parameter("0", static=True),
}


def _postgres() -> Kind:
    major = POSTGRES_VERSION.split(".")[0]
    return Kind(
        name="postgres",
        port=PostgresEngine.port,
        license_model="postgresql-license",
        version=POSTGRES_VERSION,
        major=major,
        family=f"postgres{major}",
        reserved_masters=frozenset(
            {"rdsadmin", "admin", "rds_superuser", "rds_replication", "rds_password", "rdsrepladmin"}
        ),
        parameters={
            **_INSTANCE_PARAMETERS,
            **_CLUSTER_PARAMETERS,
            "max_slot_wal_keep_size": Parameter(None, "-1-2147483647", data_type="integer"),
        },
        servers=PostgresEngine,
        cluster_parameters={},
        log_file="error/postgresql.log.%Y-%m-%d-%H",
    )


def _aurora_postgresql() -> Kind:
    """What a client of Aurora sees of its storage is that all instances have the same data."""
    plain = _postgres()
    major, _, minor = plain.version.partition(".")
    return dataclasses.replace(
        plain,
        name="aurora-postgresql",
        family=f"aurora-postgresql{major}",
        servers=AuroraEngine,
        parameters=_INSTANCE_PARAMETERS,
        # Without it nobody would notice that a restore without a version takes the default one.
        older=(f"{major}.{int(minor) - 1}",),
        cluster_parameters=_CLUSTER_PARAMETERS,
        log_file=None,
    )


def _aurora_mysql() -> Kind:
    """Servers of PostgreSQL behind it: good enough while RDS alone, and no SQL of ours, is at work."""
    return dataclasses.replace(
        _aurora_postgresql(),
        name="aurora-mysql",
        port=3306,
        license_model="general-public-license",
        version="8.0.mysql_aurora.3.10.1",
        major="8.0",
        family="aurora-mysql8.0",
        older=("8.0.mysql_aurora.3.10.0",),
        longest_database_name=64,
        reserved_masters=frozenset({"rdsadmin", "rdsrepladmin", "mysql.sys", "mysql.session", "root"}),
        parameters={},
        cluster_parameters={"binlog_format": Parameter("OFF", "ROW,STATEMENT,MIXED,OFF", True, "string")},
        can_be_backtracked=True,
        has_blue_green_deployments=False,  # RDS has; what follows here would be PostgreSQL's
    )


def _mariadb() -> Kind:
    version = mariadb.installed_version()
    major = version.rpartition(".")[0]
    return Kind(
        name="mariadb",
        port=MariadbEngine.port,
        license_model="general-public-license",
        version=version,
        major=major,
        family=f"mariadb{major}",
        longest_database_name=64,
        reserved_masters=frozenset({"rdsadmin", "rdsrepladmin", "mariadb.sys", "mysql"}),
        parameters={
            "read_only": Parameter(mariadb.TRUE_IF_REPLICA, f"0,1,{mariadb.TRUE_IF_REPLICA}"),
            "event_scheduler": Parameter("OFF", "ON,OFF", data_type="string"),
            "binlog_format": Parameter(mariadb.DEFAULTS["binlog_format"], "ROW,STATEMENT,MIXED", data_type="string"),
            "require_secure_transport": Parameter(mariadb.DEFAULTS["require_secure_transport"]),
            "max_connections": Parameter("{DBInstanceClassMemory/12582880}", "1-100000", data_type="integer"),
            "performance_schema": Parameter("0", static=True),
        },
        servers=MariadbEngine,
    )


def _mysql() -> Kind:
    """RDS for MySQL with servers of MariaDB behind it: good enough while RDS alone, and no SQL of ours, is at work."""
    plain = _mariadb()
    return dataclasses.replace(
        plain,
        # Without a value what counts is the engine's own default, which is ON (MySQL 8.4 Reference Manual). What RDS's
        # default group says is not known here: the less convenient of the two.
        parameters={**plain.parameters, "event_scheduler": Parameter(None, "ON,OFF", data_type="string")},
        name="mysql",
        version="8.4.6",
        major="8.4",
        family="mysql8.4",
        reserved_masters=frozenset({"rdsadmin", "rdsrepladmin", "mysql.sys", "mysql.session", "root"}),
    )


def _foreign() -> Iterator[Kind]:
    """Engines that nobody here can run, with servers of PostgreSQL behind them.

    Good enough while RDS alone, and no SQL of ours, is at work; their parameters are whatever a group says.
    """
    plain = dataclasses.replace(
        _postgres(), parameters={}, cluster_parameters=None, log_file=None, has_blue_green_deployments=False,
        has_read_replicas=False,
    )  # fmt: skip
    yield dataclasses.replace(
        plain,
        name="oracle-se2",
        port=1521,
        license_model="license-included",
        other_license_models=("bring-your-own-license",),
        version="19.0.0.0.ru-2025-04.rur-2025-04.r1",
        major="19",
        family="oracle-se2-19",
        reserved_masters=frozenset({"rdsadmin", "sys", "system", "public", "dbsnmp", "outln"}),
        # Its SID.
        longest_database_name=8,
        default_database="ORCL",
    )
    yield dataclasses.replace(
        plain,
        name="sqlserver-se",
        port=1433,
        license_model="license-included",
        version="15.00.4430.1.v1",
        major="15.00",
        family="sqlserver-se-15.0",
        reserved_masters=frozenset({"rdsadmin", "sa", "sysadmin", "public", "guest", "dbo"}),
        longest_database_name=0,
    )
    yield dataclasses.replace(
        plain,
        name="db2-se",
        port=50000,
        license_model="bring-your-own-license",
        other_license_models=("marketplace-license",),
        version="11.5.9.0.sb00063198.r1",
        major="11.5",
        family="db2-se-11.5",
        reserved_masters=frozenset({"rdsadmin", "db2inst1", "rdsdb", "public", "guests", "admins", "users", "local"}),
        longest_database_name=8,
    )


class Engines:
    """Those whose programs are here. Thread-safe."""

    def __init__(self, directory: Path, reaper: Reaper) -> None:
        others = [_mariadb(), _mysql()] if mariadb.is_installed() else []
        self.kinds = {
            kind.name: kind for kind in (_postgres(), _aurora_postgresql(), _aurora_mysql(), *others, *_foreign())
        }
        self._directory = directory
        self._reaper = reaper
        self._lock = threading.Lock()
        self._made: dict[Callable[[Path, Reaper], Engine], Engine] = {}

    def kind(self, name: str) -> Kind:
        """Raises KeyError, whose text says what to do, for an engine that is not here."""
        if name not in self.kinds:
            hint = f" MariaDB is not installed: {mariadb.HOW_TO_INSTALL}." if name in mariadb.SERVES else ""
            raise KeyError(f"The sandbox has {', '.join(sorted(self.kinds))}.{hint}")
        return self.kinds[name]

    def servers(self, name: str) -> Engine:
        with self._lock:
            make = self.kinds[name].servers
            if make not in self._made:
                # One letter: the path of a socket has little room.
                self._made[make] = made = make(self._directory / name[0], self._reaper)
                # The files that every server begins with take seconds; nobody waits for them unless he is in a hurry.
                threading.Thread(target=made.prepare, name=f"first {name}", daemon=True).start()
            return self._made[make]

    def close(self) -> None:
        with self._lock:
            for engine in self._made.values():
                engine.close()
