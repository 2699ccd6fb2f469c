"""RDS, KMS and Route 53 of the sandbox behind moto's server, in a process of their own, for the tests beside this file.

Run as a program it is that process: one JSON line says where it listens; each line of its standard input is a command.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import boto3
import pg8000.native
from botocore.config import Config

REGION = "eu-central-1"
PASSWORD = "correct-horse"
ROOT = Path(__file__).resolve().parents[2]


@contextmanager
def running(**options: Any) -> Iterator[Sandbox]:
    """A sandbox for the block, in which no operation of RDS may have failed at the end."""
    # Not pytest's directory: the servers' account could not pass through it.
    directory = Path(tempfile.mkdtemp(prefix="rds-sandbox-"))
    sandbox = Sandbox(directory, **options)
    try:
        yield sandbox
        assert sandbox.failures() == []
    finally:
        sandbox.close()
        shutil.rmtree(directory, ignore_errors=True)


class Sandbox:
    """The test's end: SDK clients, a clock that can be pushed, and faults."""

    def __init__(self, work_dir: Path, **options: Any) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.sandbox.rds_sandbox", str(work_dir), json.dumps(options)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
            text=True,
        )
        self._lock = threading.Lock()
        ready = self._read()
        self.endpoint_url, self.ca_bundle = ready["endpoint_url"], ready["ca_bundle"]
        self.dns = ready["dns"]
        self.reaper_pid = ready["reaper"]
        self.names_path = work_dir / "names.json"
        self.rds, self.kms, self.route53 = self.client("rds"), self.client("kms"), self.client("route53")

    def client(self, service: str, region: str = REGION) -> Any:
        return boto3.client(
            service,
            endpoint_url=self.endpoint_url,
            region_name=region,
            aws_access_key_id="ak",
            aws_secret_access_key="sk",
            # A refusal is what these tests want to see, not to outwait.
            config=Config(retries={"total_max_attempts": 1}),
        )

    def do(self, command: str, **arguments: Any) -> Any:
        with self._lock:
            assert self.process.stdin
            self.process.stdin.write(json.dumps({"do": command, **arguments}) + "\n")
            self.process.stdin.flush()
            answer = self._read()
        assert "error" not in answer, answer["error"]
        return answer["ok"]

    def jump(self, **period: float) -> None:
        """Let an execution wait this long: ``days=7``, ``hours=2``, ``minutes=…``."""
        units = {"days": 86400, "hours": 3600, "minutes": 60}
        self.do("jump", seconds=sum(units[unit] * count for unit, count in period.items()))

    def failures(self) -> list[str]:
        """Operations of RDS that ended in an exception."""
        return list(self.do("failures"))

    def close(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait(150)

    def _read(self) -> Any:
        assert self.process.stdout
        line = self.process.stdout.readline()
        assert line, "the sandbox's process has ended"
        return json.loads(line)

    # -- conveniences --------------------------------------------------------------------------------------------------

    def key(self, region: str = REGION) -> str:
        """A new key that is old enough to be known everywhere."""
        arn: str = self.client("kms", region).create_key()["KeyMetadata"]["Arn"]
        self.do("settle_key", arn=arn)
        return arn

    def create(self, name: str, **changes: Any) -> dict[str, Any]:
        """An available database."""
        wanted = {
            "DBInstanceIdentifier": name,
            "DBInstanceClass": "db.m7g.large",
            "Engine": "postgres",
            "AllocatedStorage": 20,
            "MasterUsername": "dba",
            "MasterUserPassword": PASSWORD,
            "DBName": "app",
            **changes,
        }
        self.rds.create_db_instance(**{k: v for k, v in wanted.items() if v is not None})
        return self.available(name)

    def replica(self, of: str, name: str, **changes: Any) -> dict[str, Any]:
        self.rds.create_db_instance_read_replica(DBInstanceIdentifier=name, SourceDBInstanceIdentifier=of, **changes)
        return self.available(name)

    def give_group(self, name: str, group: str) -> None:
        """In force afterwards: it takes a reboot."""
        self.rds.modify_db_instance(DBInstanceIdentifier=name, DBParameterGroupName=group, ApplyImmediately=True)
        assert self.describe(name)["DBParameterGroups"][0]["ParameterApplyStatus"] == "pending-reboot"
        while self.available(name)["DBParameterGroups"][0]["ParameterApplyStatus"] != "in-sync":
            with suppress(self.rds.exceptions.InvalidDBInstanceStateFault):  # RDS is at work on it
                self.rds.reboot_db_instance(DBInstanceIdentifier=name)
            time.sleep(0.2)

    def create_cluster(self, name: str, **changes: Any) -> dict[str, Any]:
        """An available cluster, without an instance."""
        wanted = {
            "DBClusterIdentifier": name,
            "Engine": "aurora-postgresql",
            "MasterUsername": "dba",
            "MasterUserPassword": PASSWORD,
            "DatabaseName": "app",
            **changes,
        }
        self.rds.create_db_cluster(**{k: v for k, v in wanted.items() if v is not None})
        return self.cluster_available(name)

    def add_member(self, of: str, name: str, **changes: Any) -> dict[str, Any]:
        """An available instance of a cluster; the first one writes."""
        self.rds.create_db_instance(
            **{"DBInstanceIdentifier": name, "DBClusterIdentifier": of, "DBInstanceClass": "db.r7g.large",
               "Engine": "aurora-postgresql", **changes}
        )  # fmt: skip
        return self.available(name)

    def cluster(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = self.rds.describe_db_clusters(DBClusterIdentifier=name)["DBClusters"][0]
        return found

    def cluster_available(self, name: str) -> dict[str, Any]:
        eventually(lambda: self.cluster(name)["Status"] == "available", f"cluster {name} is available")
        return self.cluster(name)

    def cluster_gone(self, name: str) -> None:
        eventually(
            lambda: name not in [c["DBClusterIdentifier"] for c in self.rds.describe_db_clusters()["DBClusters"]],
            f"cluster {name} is gone",
        )

    def describe(self, name: str) -> dict[str, Any]:
        instance: dict[str, Any] = self.rds.describe_db_instances(DBInstanceIdentifier=name)["DBInstances"][0]
        return instance

    def available(self, name: str) -> dict[str, Any]:
        eventually(lambda: self.describe(name)["DBInstanceStatus"] == "available", f"{name} is available")
        return self.describe(name)

    def gone(self, name: str) -> None:
        eventually(
            lambda: name not in [i["DBInstanceIdentifier"] for i in self.rds.describe_db_instances()["DBInstances"]],
            f"{name} is gone",
        )

    def snapshot_available(self, name: str) -> dict[str, Any]:
        def look() -> dict[str, Any]:
            snapshot: dict[str, Any] = self.rds.describe_db_snapshots(DBSnapshotIdentifier=name)["DBSnapshots"][0]
            return snapshot

        eventually(lambda: look()["Status"] == "available", f"snapshot {name} is available")
        return look()

    def cluster_snapshot_available(self, name: str) -> dict[str, Any]:
        def look() -> dict[str, Any]:
            found = self.rds.describe_db_cluster_snapshots(DBClusterSnapshotIdentifier=name)
            snapshot: dict[str, Any] = found["DBClusterSnapshots"][0]
            return snapshot

        eventually(lambda: look()["Status"] == "available", f"cluster snapshot {name} is available")
        return look()

    def address(self, name: str) -> str | None:
        found: str | None = json.loads(self.names_path.read_text()).get(name)
        return found

    @contextmanager
    def session(self, instance: dict[str, Any], database: str = "app", **options: Any) -> Iterator[Any]:
        """A verified TLS session as the master user, as an application would open it."""
        with self.session_at(instance["Endpoint"]["Address"], instance["Endpoint"]["Port"], database, **options) as sql:
            yield sql

    @contextmanager
    def session_at(self, name: str, port: int = 5432, database: str = "app", **options: Any) -> Iterator[Any]:
        context = ssl.create_default_context(cafile=self.ca_bundle)
        address = self.address(name)
        assert address, f"{name} does not resolve"
        raw = socket.create_connection((address, port), 10)
        connection = pg8000.native.Connection(
            **{"user": "dba", "password": PASSWORD, "database": database, "host": name, "sock": raw,
               "ssl_context": context, "timeout": 20, **options}
        )  # fmt: skip
        try:
            yield connection
        finally:
            with suppress(pg8000.exceptions.Error, OSError):
                connection.close()


def eventually(condition: Callable[[], bool], what: str, seconds: float = 90) -> None:
    """Wait in real time; without an execution the sandbox's operations take no more than their work."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.03)


def code_of(call: Callable[..., Any], **arguments: Any) -> str:
    """The wire code with which AWS would refuse this call; empty when it does not."""
    from botocore.exceptions import ClientError

    try:
        call(**arguments)
    except ClientError as error:
        return str(error.response["Error"]["Code"])
    return ""


# -- the other process -------------------------------------------------------------------------------------------------


class _Allow:
    """An authorizer that lets everything through but what a test names."""

    def __init__(self) -> None:
        self.denied: set[str] = set()
        self.asked: list[list[str]] = []

    def require(self, action: str, resource: str, context: Any = None) -> None:
        from sandbox.iam import AccessDenied

        self.asked.append([action, resource, json.dumps(context, sort_keys=True)])
        if action in self.denied:
            raise AccessDenied.__new__(AccessDenied)

    def allows(self, action: str, resource: str, context: Any = None) -> bool:
        return action not in self.denied


def _serve(work_dir: Path, options: dict[str, Any]) -> None:
    from sandbox.api import Api
    from sandbox.clock import VirtualClock
    from sandbox.context import Context
    from sandbox.dns import DnsServer, NameTable, install_route53
    from sandbox.kms import install_kms
    from sandbox.mariadb import MariadbEngine
    from sandbox.rds import install_rds
    from sandbox.rds.durations import Durations
    from sandbox.reaper import Reaper
    from sandbox.tls_front import CertificateAuthority

    reaper = Reaper(work_dir)
    clock = VirtualClock(work_dir / "clock.offset")
    allow = _Allow()
    context = Context(
        work_dir=work_dir, region=REGION, account_id="123456789012", clock=clock,
        names=NameTable(work_dir / "names.json"),
        ca=CertificateAuthority(work_dir / "tls"), authorizer=allow, reaper=reaper,  # type: ignore[arg-type]
    )  # fmt: skip
    clock.govern_process()
    install_kms(context)
    rds = install_rds(context, Durations(**options))
    install_route53(context)
    dns = DnsServer(context.names)
    api = Api()
    api.start()
    print(
        json.dumps(
            {
                "endpoint_url": api.endpoint_url, "ca_bundle": str(context.ca.bundle),
                "dns": {"host": dns.host, "port": dns.port}, "reaper": reaper.pid,
            }
        ), flush=True,
    )  # fmt: skip

    def jump(seconds: float) -> None:
        with clock.running(), clock.execution_thread():
            clock.wait_until(clock.time() + seconds)

    executions: list[Any] = []

    def execution(running: bool) -> None:
        """An execution that waits for ever, or its end."""
        if running:
            stop = threading.Event()

            def wait() -> None:
                with clock.running(), clock.execution_thread():
                    while not stop.is_set():
                        clock.wait_until(clock.time() + 10, stop)

            executions.append((stop, threading.Thread(target=wait, daemon=True)))
            executions[-1][1].start()
        else:
            stop, thread = executions.pop()
            stop.set()
            thread.join()

    def working(held: bool) -> None:
        """Somebody works in real time, as a function between fence and release does: the clock does not jump."""
        clock.hold() if held else clock.let_go()

    def settle_key(arn: str) -> None:
        from moto.kms.models import kms_backends

        kms_backends[context.account_id][arn.split(":")[3]].find(arn).seen_by_rds = True

    def deny(actions: list[str]) -> None:
        allow.denied = set(actions)

    def binary_logs_in_restores(there: bool) -> None:
        engine = rds.backend.engines.servers("mariadb")
        assert isinstance(engine, MariadbEngine)
        engine.restores_binary_logs = there

    commands: dict[str, Callable[..., Any]] = {
        "jump": jump,
        "execution": execution,
        "working": working,
        "settle_key": settle_key,
        "deny": deny,
        "asked": lambda: allow.asked,
        "failures": lambda: rds.failures,
        "time": clock.time,
        "cut": rds.cut,
        "restore": rds.restore_network,
        "crash": rds.crash,
        "fail_over": rds.fail_over,
        "fill_storage": rds.fill_storage,
        "replace": rds.replace,
        "note": lambda name, message: rds.backend.note(rds.instance(name), "notification", message),
        "server": lambda name, what: getattr(rds.instance(name).server, what)(),
        "lose_slot": lambda name: rds.instance(name).server.source.forget_replica(rds.instance(name).server.name),  # type: ignore[union-attr]
        "pause_replay": lambda name: rds.instance(name).server.pause_replay(),  # type: ignore[union-attr]
        "resume_replay": lambda name: rds.instance(name).server.resume_replay(),  # type: ignore[union-attr]
        "binary_logs_in_restores": binary_logs_in_restores,
        "pids": lambda: [i.server.pid for i in rds.backend.databases.values() if i.server],
    }
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = {"ok": commands[request.pop("do")](**request)}
        except Exception as error:
            answer = {"error": repr(error)}
        print(json.dumps(answer), flush=True)
    rds.close()
    dns.close()
    api.stop()
    clock.stop()
    reaper.close()
    os._exit(0)


if __name__ == "__main__":
    _serve(Path(sys.argv[1]), json.loads(sys.argv[2]))
