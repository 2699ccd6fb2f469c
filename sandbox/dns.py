"""Names: what DescribeDBInstances and Route 53 say, answered as a VPC's resolver would answer.

:class:`NameTable` knows the endpoints of instances and reads the records of every hosted zone. Lambda processes read
its file; everything else asks :class:`DnsServer`. A changed record is answered at once; GetChange says PENDING for a
while.
"""

from __future__ import annotations

import json
import os
import secrets
import socketserver
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dnslib

if TYPE_CHECKING:
    from sandbox.context import Context

ENDPOINT_TTL_SECONDS = 5
INSYNC_AFTER_SECONDS = 40.0
LONGEST_CHAIN = 8


@dataclass(frozen=True)
class Answer:
    """One resource record."""

    name: str
    type: str
    value: str
    ttl: int


def canonical(name: str) -> str:
    return name.rstrip(".").lower()


class NameTable:
    """Endpoints and hosted zones. Thread-safe; every change is in ``path`` when the call returns.

    ``path`` holds ``{name: address}`` for every name that leads to an address, CNAMEs followed.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.RLock()
        self._endpoints: dict[str, str] = {}
        self._zones: Iterable[Any] = ()
        self._write()

    def set(self, name: str, address: str) -> None:
        """Let an endpoint's name lead to an address."""
        with self._lock:
            self._endpoints[canonical(name)] = address
            self._write()

    def remove(self, name: str) -> None:
        """Forget an endpoint's name, at once and for everybody. Unknown names are ignored."""
        with self._lock:
            self._endpoints.pop(canonical(name), None)
            self._write()

    def read_zones(self, zones: Iterable[Any]) -> None:
        """Answer from these hosted zones too: any iterable of moto's zones, read again at every refresh."""
        with self._lock:
            self._zones = zones
            self._write()

    def refresh(self) -> None:
        """Hosted zones have changed."""
        with self._lock:
            self._write()

    def resolve(self, name: str, kind: str = "A") -> list[Answer] | None:
        """The chain of records that answers; empty: the name exists, without such records; None: NXDOMAIN."""
        with self._lock:
            return self._resolve(canonical(name), kind, self._records())

    def address(self, name: str) -> str | None:
        """The address that a name leads to."""
        for answer in self.resolve(name) or ():
            if answer.type == "A":
                return answer.value
        return None

    def _records(self) -> dict[str, list[Answer]]:
        records: dict[str, list[Answer]] = {
            name: [Answer(name, "A", address, ENDPOINT_TTL_SECONDS)] for name, address in self._endpoints.items()
        }
        for zone in list(self._zones):
            for record in list(zone.rrsets):
                name = canonical(record.name)
                # Records that Route 53 chooses between (weighted, failover) are not this sandbox's business.
                if record.set_identifier or record.alias_target:
                    continue
                values = [value["Value"] if isinstance(value, dict) else value for value in record.records or ()]
                records.setdefault(name, []).extend(
                    Answer(name, record.type, str(value), int(record.ttl or 0)) for value in values
                )
        return records

    def _resolve(self, name: str, kind: str, records: dict[str, list[Answer]]) -> list[Answer] | None:
        chain: list[Answer] = []
        for _ in range(LONGEST_CHAIN):
            here = records.get(name)
            if here is None:
                # A CNAME to a name that is gone still answers with the CNAME: the client learns that it leads nowhere.
                return chain or None
            if found := [answer for answer in here if answer.type == kind]:
                return chain + found
            alias = next((answer for answer in here if answer.type == "CNAME"), None)
            if alias is None or kind == "CNAME":
                return chain
            chain.append(alias)
            name = canonical(alias.value)
        return chain

    def _write(self) -> None:
        records = self._records()
        table: dict[str, str] = {}
        for name in records:
            for answer in self._resolve(name, "A", records) or ():
                if answer.type == "A":
                    table[name] = answer.value
                    break
        temporary = self.path.with_name(f"{self.path.name}.{os.getpid()}")
        temporary.write_text(json.dumps(table, indent=1, sort_keys=True))
        temporary.replace(self.path)


class DnsServer:
    """Answers A and CNAME questions on loopback, over UDP and TCP, at one port."""

    def __init__(self, names: NameTable, host: str = "127.0.0.1", port: int = 0) -> None:
        self._servers: list[socketserver.BaseServer] = []
        for attempt in range(20):
            udp = _Udp((host, port), _UdpHandler)
            try:
                tcp = _Tcp((host, udp.server_address[1]), _TcpHandler)
            except OSError:
                # The free UDP port is somebody's TCP port.
                udp.server_close()
                if port or attempt == 19:
                    raise
                continue
            break
        self.host, self.port = host, int(udp.server_address[1])
        for server in (udp, tcp):
            server.names = names
            self._servers.append(server)
            threading.Thread(target=server.serve_forever, args=(0.1,), name="dns", daemon=True).start()

    def close(self) -> None:
        for server in self._servers:
            server.shutdown()
            server.server_close()


class _Udp(socketserver.ThreadingUDPServer):
    daemon_threads = True
    names: NameTable


class _Tcp(socketserver.ThreadingTCPServer):
    daemon_threads = True
    names: NameTable
    allow_reuse_address = True


def _reply(names: NameTable, data: bytes) -> bytes | None:
    try:
        request = dnslib.DNSRecord.parse(data)
    except dnslib.DNSError:
        return None
    reply = request.reply()
    question = request.q
    kind = dnslib.QTYPE.get(question.qtype, str(question.qtype))
    answers = names.resolve(str(question.qname), kind)
    if answers is None:
        reply.header.rcode = dnslib.RCODE.NXDOMAIN
    for answer in answers or ():
        make = {"A": dnslib.A, "CNAME": dnslib.CNAME, "TXT": dnslib.TXT}.get(answer.type)
        if make is not None:
            reply.add_answer(
                dnslib.RR(answer.name, getattr(dnslib.QTYPE, answer.type), rdata=make(answer.value), ttl=answer.ttl)
            )
    return bytes(reply.pack())


class _UdpHandler(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        data, socket_ = self.request
        if answer := _reply(self.server.names, data):  # type: ignore[attr-defined]
            socket_.sendto(answer, self.client_address)


class _TcpHandler(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        while len(head := self.rfile.read(2)) == 2:
            data = self.rfile.read(int.from_bytes(head, "big"))
            answer = _reply(self.server.names, data)  # type: ignore[attr-defined]
            if answer is None:
                return
            self.wfile.write(len(answer).to_bytes(2, "big") + answer)


def install_route53(context: Context) -> None:
    """Put a stricter Route 53 into moto: a batch is all or nothing, reaches the names, and takes time to be INSYNC."""
    from moto.route53.exceptions import Route53ClientError
    from moto.route53.models import FakeZone, Route53Backend, route53_backends
    from moto.route53.responses import Route53
    from moto.utilities.utils import get_partition

    lock = threading.RLock()
    changes: dict[str, float] = {}

    class StrictRoute53(Route53Backend):  # type: ignore[misc]
        __module__ = Route53Backend.__module__  # moto finds the URLs of a service by the module of its backend

        def change_resource_record_sets(self, zoneid: str, change_list: list[dict[str, Any]]) -> None:
            with lock:
                zone = self.get_hosted_zone(zoneid)
                before = list(zone.rrsets)
                try:
                    for change in change_list:
                        _apply(zone, change)
                except Route53ClientError:
                    # A batch is all or nothing.
                    zone.rrsets = before
                    raise
                context.names.refresh()

    def refuse(message: str) -> Route53ClientError:
        return Route53ClientError("InvalidChangeBatch", f"[{message}]")

    def _apply(zone: Any, change: dict[str, Any]) -> None:
        wanted = dict(change["ResourceRecordSet"])
        wanted["Name"] = canonical(wanted["Name"]) + "."
        name, kind = wanted["Name"], wanted["Type"]
        wanted["ResourceRecords"] = [record["Value"] for record in wanted.get("ResourceRecords") or ()]
        if not canonical(name).endswith(canonical(zone.name)):
            raise refuse(f"RRSet with DNS name {name} is not permitted in zone {zone.name}")
        same_name = [record for record in zone.rrsets if canonical(record.name) == canonical(name)]
        present = next(
            (r for r in same_name if r.type == kind and r.set_identifier == wanted.get("SetIdentifier")), None
        )
        described = f"resource record set [name='{name}', type='{kind}']"
        match change["Action"]:
            case "DELETE":
                if present is None:
                    raise refuse(f"Tried to delete {described} but it was not found")
                if (present.records or []) != wanted["ResourceRecords"] or str(present.ttl) != str(wanted.get("TTL")):
                    raise refuse(f"Tried to delete {described} but the values provided do not match the current values")
                zone.rrsets = [record for record in zone.rrsets if record is not present]
                return
            case "CREATE" if present is not None:
                raise refuse(f"Tried to create {described} but it already exists")
        if any((record.type == "CNAME") != (kind == "CNAME") for record in same_name):
            raise refuse(
                f"RRSet of type {kind} with DNS name {name} is not permitted as it conflicts with other records with "
                f"the same DNS name in zone {zone.name}"
            )
        if not wanted.get("AliasTarget") and (wanted.get("TTL") is None or not wanted["ResourceRecords"]):
            raise Route53ClientError("InvalidInput", f"Invalid request: {described} needs a TTL and resource records")
        zone.rrsets = [record for record in zone.rrsets if record is not present]
        # Past moto's journal: zone.add_rrset as CloudFormation calls it.
        zone.add_rrset(wanted)

    def change_resource_record_sets(self: Any) -> Any:
        result = original_change(self)
        identifier = "C" + secrets.token_hex(10).upper()
        with lock:
            changes[identifier] = context.clock.time()
        return type(result)({"ChangeInfo": change_info(identifier)})

    def get_change(self: Any) -> Any:
        from moto.core.responses import ActionResult

        identifier = str(self._get_param("Id")).rsplit("/", 1)[-1]
        with lock:
            if identifier not in changes:
                raise Route53ClientError("NoSuchChange", f"Could not find resource with ID: {identifier}")
            return ActionResult({"ChangeInfo": change_info(identifier)})

    def change_info(identifier: str) -> dict[str, Any]:
        submitted = changes[identifier]
        in_sync = context.clock.time() >= submitted + INSYNC_AFTER_SECONDS
        return {
            "Id": f"/change/{identifier}",
            "Status": "INSYNC" if in_sync else "PENDING",
            "SubmittedAt": datetime.fromtimestamp(submitted, context.clock.now().tzinfo),
        }

    # CloudFormation puts records into a zone without a change batch.
    def refreshing(method: Any) -> Any:
        def change(self: Any, *arguments: Any, **options: Any) -> Any:
            result = method(self, *arguments, **options)
            context.names.refresh()
            return result

        return change

    original_change = Route53.change_resource_record_sets
    if getattr(original_change, "sandbox", None):
        original_change = original_change.sandbox
    change_resource_record_sets.sandbox = original_change  # type: ignore[attr-defined]
    Route53.change_resource_record_sets = change_resource_record_sets
    Route53.get_change = get_change
    for name in ("add_rrset", "upsert_rrset", "delete_rrset", "delete_rrset_by_id"):
        method = getattr(FakeZone, name)
        method = getattr(method, "sandbox", method)
        changed = refreshing(method)
        changed.sandbox = method
        setattr(FakeZone, name, changed)
    route53_backends.backend = StrictRoute53

    class Zones:
        def __iter__(self) -> Any:
            backend = route53_backends[context.account_id][get_partition(context.region)]
            return iter(list(backend.zones.values()))

    context.names.read_zones(Zones())
