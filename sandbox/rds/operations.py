"""What every part of RDS stands on: names, the books' lock, and operations that take time."""

from __future__ import annotations

import hashlib
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moto.rds.models import RDSBackend

from sandbox.rds.durations import Durations
from sandbox.rds.engines import Engines
from sandbox.rds.errors import instance_not_found, invalid_instance_state, snapshot_not_found
from sandbox.rds.keys import Keys
from sandbox.rds.resources import AutomatedBackup, Instance, Operated, Snapshot
from sandbox.tls_front import AddressBlock, Cut, TlsFront

if TYPE_CHECKING:
    from sandbox.context import Context
    from sandbox.rds.cluster_resources import Cluster

Params = Mapping[str, Any]

# States in which the customer's data is there and RDS takes orders.
AVAILABLE = {"available", "storage-optimization"}


class Abandoned(Exception):
    """The instance or cluster is being deleted; the operation under way has nothing left to do."""


class Operations(RDSBackend):  # type: ignore[misc]
    """RDS in one Region, without its API."""

    context: Context
    durations: Durations
    engines: Engines
    fronts: TlsFront
    addresses: AddressBlock

    def __init__(self, region_name: str, account_id: str) -> None:
        super().__init__(region_name, account_id)
        self.lock = threading.RLock()
        self.keys = Keys(self.context, region_name, self.durations.key_propagation_seconds)
        self.backups: list[AutomatedBackup] = []
        self.failures: list[str] = []
        """Tracebacks of operations that failed; a scenario that did not ask for a failure wants none."""
        self._made = 0
        self._closed = threading.Event()

    def close(self) -> None:
        """Stop the housekeeping and let every operation end."""
        self._closed.set()

    def arn_of(self, kind: str, name: str) -> str:
        return f"arn:{self.partition}:rds:{self.region_name}:{self.account_id}:{kind}:{name}"

    def endpoint_of(self, name: str, kind: str = "") -> str:
        """An endpoint's DNS name; ``kind`` is ``cluster-`` or ``cluster-ro-`` for those of a cluster."""
        # One label per account and Region, as RDS has it.
        label = hashlib.sha256(f"{self.account_id}{self.region_name}".encode()).hexdigest()[:12]
        return f"{name}.{kind}c{label[1:]}.{self.region_name}.rds.amazonaws.com"

    def instance(self, name: str) -> Instance:
        """The instance with this identifier or ARN.

        Raises:
            DBInstanceNotFound
        """
        with self.lock:
            found: Instance | None = self.databases.get(name.rsplit(":", 1)[-1])
            if found is None:
                raise instance_not_found(name)
            return found

    def snapshot(self, name: str) -> Snapshot:
        # The identifier of an automated snapshot has a colon of its own.
        short = name.split(":snapshot:")[-1]
        with self.lock:
            found: Snapshot | None = self.database_snapshots.get(short)
            if found is None:
                raise snapshot_not_found(short)
            return found

    def _must_be_available(self, instance: Instance, what: str, also: tuple[str, ...] = ()) -> None:
        status = instance.shown_status
        if instance.orders and status in AVAILABLE:
            # The status is a moment old: an operation was accepted, and begins.
            status = "modifying"
        if status not in AVAILABLE and status not in also:
            raise invalid_instance_state(
                f"Cannot {what} instance {instance.name}: it is not in available state but {status}."
            )

    def _operate(
        self,
        subject: Operated | None,
        work: Callable[[], None],
        *,
        failed: str = "failed",
        otherwise: Callable[[], None] = lambda: None,
        quiet: bool = False,
    ) -> None:
        """Do the work in a thread of its own, after what is under way for this instance or cluster.

        The clock does not jump between this call and the beginning of the work, nor while the work is real. While it
        is accepted and not done, other orders are refused, unless it is ``quiet``.
        """
        clock = self.context.clock
        clock.hold()
        if subject and not quiet:
            with self.lock:
                subject.orders += 1

        def run() -> None:
            with clock.busy():
                clock.let_go()
                lock = subject.operations if subject else threading.Lock()
                if not lock.acquire(blocking=False):
                    with clock.idle():
                        lock.acquire()
                try:
                    work()
                except Abandoned:
                    otherwise()
                except Exception:
                    if self._closed.is_set():
                        return  # nothing that it works on is there any more
                    self._note_failure()
                    otherwise()
                    if subject and not subject.doomed.is_set():
                        self._show(subject, failed)
                finally:
                    if subject and not quiet:
                        with self.lock:
                            subject.orders -= 1
                    lock.release()

        threading.Thread(target=run, name=f"rds {subject.name if subject else ''}", daemon=True).start()

    def _pass(self, subject: Operated | None, minutes: float, since: float | None = None) -> None:
        """Let RDS be busy for some virtual minutes, counted from ``since``.

        Raises:
            Abandoned: it is being deleted.
        """
        clock = self.context.clock
        began = time.monotonic()
        # Only a deletion's own waits go on when the instance is doomed: they pass None.
        doomed = subject.doomed.is_set if subject else (lambda: False)

        def over() -> bool:
            unattended = clock.executions == 0 and time.monotonic() - began > self.durations.unattended_seconds
            return doomed() or unattended or self._closed.is_set()

        clock.wait_until((clock.time() if since is None else since) + minutes * 60, over)
        if doomed() or self._closed.is_set():
            raise Abandoned

    def _show(self, subject: Operated, status: str) -> None:
        with self.lock:
            if subject.doomed.is_set():
                raise Abandoned
            subject.status = status

    def _note_failure(self) -> None:
        # Nobody waits for a background operation, so nobody would hear of its exception.
        self.failures.append(traceback.format_exc())
        print(self.failures[-1], file=sys.stderr)

    def _open(self, instance: Instance) -> None:
        """Serve the instance's endpoint: its own address, a certificate for its name."""
        assert instance.server
        with self.lock:
            if instance.address is None:
                instance.address = self.addresses.take(instance.port)
        instance.server.offer(
            self.fronts, instance.dbi_resource_id, instance.address, instance.port,
            self.context.ca.issue(*instance.names_served()), instance.parameters,
        )  # fmt: skip
        self._show_the_way()

    def _show_the_way(self) -> None:
        """Let every instance reach the one whose snapshot it was made of, where that is now.

        It is the only one that it can reach, whatever the name: servers have no resolver that knows RDS's names.
        """
        with self.lock:
            alive = {i.dbi_resource_id: i.address for i in self.databases.values() if not i.doomed.is_set()}
            for instance in self.databases.values():
                if instance.restored_from and instance.server and not instance.doomed.is_set():
                    instance.server.reach(alive.get(instance.restored_from))

    def cut(self, instance: Instance, how: Cut) -> None:
        """Cut the network between every client and an instance."""
        for front in instance.fronts:
            self.fronts.cut(front, how)

    def restore_network(self, instance: Instance) -> None:
        for front in instance.fronts:
            self.fronts.restore(front)

    def move(self, instance: Instance) -> None:
        """Serve the instance at another address; whoever still goes to the old one finds nobody."""
        with self.lock:
            if instance.doomed.is_set():
                return
            former, instance.address = instance.address, None
        self.fronts.close_endpoint(instance.dbi_resource_id)
        self._open(instance)
        self._resolve(instance)
        if former:
            self.addresses.give_back(former)

    def _resolve(self, instance: Instance) -> None:
        assert instance.address
        with self.lock:
            if instance.doomed.is_set():
                raise Abandoned
            self.context.names.set(instance.endpoint_name, instance.address)
            instance.endpoint_visible = True

    def take_group(self, instance: Instance) -> None:
        """As at a reboot: everything that the instance's parameter groups say is in force from now on."""
        with self.lock:
            instance.in_force = self.values_of(instance)
            instance.group_pending_reboot = False
            if instance.cluster:
                instance.cluster_in_force = self.values_of_cluster(instance.cluster)
                instance.cluster_group_pending_reboot = False

    def values_of(self, instance: Instance) -> dict[str, str]:
        """What the instance's parameter group says, in force or not."""
        return _values(self.db_parameter_groups.get(instance.settings["ParameterGroup"]))

    def values_of_cluster(self, cluster: Cluster) -> dict[str, str]:
        return _values(self.db_cluster_parameter_groups.get(cluster.settings["ParameterGroup"]))

    def apply_in_force(self, instance: Instance) -> None:
        """Let server and front have the parameters that are in force."""
        assert instance.server
        with instance.parameters_lock:
            instance.server_pending_reboot = instance.server.apply_parameters(instance.parameters)
            self._open(instance)

    @property
    def snapshot_directory(self) -> Path:
        return self.context.work_dir / "rds" / "snapshots"

    def _server_name(self) -> str:
        with self.lock:
            self._made += 1
            return f"i{self._made}"


def _values(group: Any) -> dict[str, str]:
    if group is None:
        return {}
    return {
        name: str(value["ParameterValue"])
        for name, value in group.parameters.items()
        if value.get("ParameterValue") is not None
    }
