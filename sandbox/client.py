"""A sandbox in a process of its own, for tests and for the demonstration: everything else goes through its AWS."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import boto3
import dnslib
from botocore.config import Config

ROOT = Path(__file__).resolve().parent.parent
STOP_SECONDS = 60


class SandboxProcess:
    """``python -m sandbox up --json``. A context manager; ``facts`` is the line that it printed.

    It ends with this process, however this process ends: its standard input is a pipe from here.
    """

    def __init__(
        self,
        *,
        stderr: IO[Any] | int | None = None,
        faults: Sequence[Mapping[str, Any]] = (),
        crossings: Path | None = None,
    ) -> None:
        """Start it and wait until it is ready. ``stderr``: where it may complain (default: here).

        ``faults``: what goes wrong in it, as ``sandbox/faults.py`` has it in JSON. ``crossings``: gets a JSON line for
        each invocation, with its calls and SQL statements.

        Raises:
            RuntimeError: it did not start; it has said why on stderr.
        """
        options = ["--faults", json.dumps(list(faults))] if faults else []
        options += ["--crossings", str(crossings)] if crossings else []
        self._process = subprocess.Popen(
            [sys.executable, "-m", "sandbox", "up", "--json", "--until-eof", *options],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            # An interrupt at the terminal is for whoever started this; they end the sandbox when they are done.
            start_new_session=True,
        )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the sandbox did not start: exit code {self._process.wait()}")
        self.facts: dict[str, Any] = json.loads(line)

    def __enter__(self) -> SandboxProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def endpoint_url(self) -> str:
        return str(self.facts["endpoint_url"])

    @property
    def ca_bundle(self) -> Path:
        return Path(self.facts["ca_bundle"])

    @cached_property
    def _clients(self) -> dict[str, Any]:
        return {}

    def client(self, service: str) -> Any:
        """A boto3 client of the administrator; one per service."""
        if service not in self._clients:
            keys = self.facts["credentials"]
            self._clients[service] = boto3.session.Session(region_name=self.facts["region"]).client(
                service,
                endpoint_url=self.endpoint_url,
                aws_access_key_id=keys["access_key_id"],
                aws_secret_access_key=keys["secret_access_key"],
                config=Config(retries={"mode": "standard", "total_max_attempts": 3}, read_timeout=120),
            )
        return self._clients[service]

    def resolve(self, name: str) -> str | None:
        """The address that the sandbox's DNS has for a name, CNAMEs followed; None if it has none."""
        dns = self.facts["dns"]
        answer = dnslib.DNSRecord.parse(dnslib.DNSRecord.question(name).send(dns["host"], dns["port"], timeout=5))
        addresses = [str(record.rdata) for record in answer.rr if record.rtype == dnslib.QTYPE.A]
        return addresses[0] if addresses else None

    def stop(self) -> int:
        """End it, and wait until nothing of it is left. Its exit code."""
        if self._process.stdin is not None and not self._process.stdin.closed:
            self._process.stdin.close()
        try:
            return self._process.wait(STOP_SECONDS)
        finally:
            if self._process.poll() is None:
                self._process.kill()
