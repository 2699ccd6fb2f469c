"""Names lead where AWS says they lead: instance endpoints, CNAMEs of hosted zones, and nothing that is gone."""

from __future__ import annotations

import json
import socket
import struct
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dnslib
import pytest

from sandbox.dns import DnsServer, NameTable
from tests.sandbox.rds_sandbox import Sandbox, code_of


def record(name: str, kind: str, *values: str, ttl: int = 60) -> Any:
    return SimpleNamespace(name=name, type=kind, ttl=ttl, records=list(values), set_identifier=None, alias_target=None)


@pytest.fixture
def table(tmp_path: Path) -> NameTable:
    return NameTable(tmp_path / "names.json")


def test_a_cname_of_a_hosted_zone_leads_to_the_endpoint(table: NameTable) -> None:
    table.set("Orders.rds.amazonaws.com", "127.77.1.1")
    table.read_zones([SimpleNamespace(rrsets=[record("db.app.internal.", "CNAME", "orders.rds.amazonaws.com")])])

    assert table.address("DB.app.internal.") == "127.77.1.1"
    assert [(a.type, a.ttl) for a in table.resolve("db.app.internal") or ()] == [("CNAME", 60), ("A", 5)]
    assert json.loads(table.path.read_text()) == {
        "db.app.internal": "127.77.1.1", "orders.rds.amazonaws.com": "127.77.1.1"
    }  # fmt: skip


def test_a_name_that_is_gone_is_gone_for_its_aliases_too(table: NameTable) -> None:
    table.set("orders", "127.77.1.1")
    table.read_zones([SimpleNamespace(rrsets=[record("db.internal.", "CNAME", "orders")])])
    table.remove("orders")

    assert table.resolve("orders") is None
    assert table.address("db.internal") is None
    assert json.loads(table.path.read_text()) == {}


def test_a_loop_of_aliases_ends(table: NameTable) -> None:
    table.read_zones([SimpleNamespace(rrsets=[record("a.", "CNAME", "b"), record("b.", "CNAME", "a")])])
    assert table.address("a") is None


def test_the_server_answers_over_udp_and_tcp(table: NameTable) -> None:
    table.set("orders.internal", "127.77.1.9")
    server = DnsServer(table)
    try:
        for name, code, values in (("orders.internal", 0, ["127.77.1.9"]), ("nowhere.internal", 3, [])):
            question = dnslib.DNSRecord.question(name).pack()
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
                udp.settimeout(5)
                udp.sendto(question, (server.host, server.port))
                over_udp = udp.recv(4096)
            with socket.create_connection((server.host, server.port), 5) as tcp:
                tcp.sendall(struct.pack("!H", len(question)) + question)
                over_tcp = tcp.recv(4096)[2:]
            for data in (over_udp, over_tcp):
                answer = dnslib.DNSRecord.parse(data)
                assert answer.header.rcode == code
                assert [str(rr.rdata) for rr in answer.rr] == values
    finally:
        server.close()


# -- Route 53 ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def zone(sandbox: Sandbox) -> str:
    return str(sandbox.route53.create_hosted_zone(Name="app.internal", CallerReference="1")["HostedZone"]["Id"])


def change(action: str, name: str, value: str, kind: str = "CNAME", ttl: int = 60) -> dict[str, Any]:
    return {
        "Action": action,
        "ResourceRecordSet": {"Name": name, "Type": kind, "TTL": ttl, "ResourceRecords": [{"Value": value}]},
    }


def apply(sandbox: Sandbox, zone: str, *changes: dict[str, Any]) -> Any:
    return sandbox.route53.change_resource_record_sets(HostedZoneId=zone, ChangeBatch={"Changes": list(changes)})


def refusal(sandbox: Sandbox, zone: str, *changes: dict[str, Any]) -> str:
    call = sandbox.route53.change_resource_record_sets
    return code_of(call, HostedZoneId=zone, ChangeBatch={"Changes": list(changes)})


def test_a_changed_record_is_answered_at_once_and_in_sync_later(sandbox: Sandbox, zone: str) -> None:
    """INSYNC is something to wait for after the cutover, never during it."""
    apply(sandbox, zone, change("CREATE", "target.app.internal", "127.77.9.1", "A"))
    answer = apply(sandbox, zone, change("UPSERT", "db.app.internal", "target.app.internal"))
    assert sandbox.address("db.app.internal") == "127.77.9.1"
    identifier = answer["ChangeInfo"]["Id"]
    assert sandbox.route53.get_change(Id=identifier)["ChangeInfo"]["Status"] == "PENDING"
    sandbox.jump(minutes=1)
    assert sandbox.route53.get_change(Id=identifier)["ChangeInfo"]["Status"] == "INSYNC"
    assert code_of(sandbox.route53.get_change, Id="C123") == "NoSuchChange"


def test_a_batch_is_refused_as_a_whole(sandbox: Sandbox, zone: str) -> None:
    """An UPSERT that slips through beside a refused DELETE would switch a name without its journal."""
    apply(sandbox, zone, change("CREATE", "whole.app.internal", "one.example"))
    for batch in (
        [change("UPSERT", "whole.app.internal", "two.example"), change("DELETE", "absent.app.internal", "x")],
        [change("CREATE", "whole.app.internal", "two.example")],
        [change("DELETE", "whole.app.internal", "other.example")],
        [change("DELETE", "whole.app.internal", "one.example", ttl=5)],
        [change("CREATE", "whole.app.internal", "127.0.0.1", "A")],
        [change("CREATE", "elsewhere.example", "x")],
    ):
        assert refusal(sandbox, zone, *batch) == "InvalidChangeBatch", batch
    records = sandbox.route53.list_resource_record_sets(HostedZoneId=zone)["ResourceRecordSets"]
    (whole,) = [r for r in records if r["Name"] == "whole.app.internal."]
    assert (whole["TTL"], whole["ResourceRecords"]) == (60, [{"Value": "one.example"}])
    apply(sandbox, zone, change("DELETE", "whole.app.internal", "one.example"))
    assert sandbox.address("whole.app.internal") is None
