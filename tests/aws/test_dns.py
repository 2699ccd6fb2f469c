"""The record must be replaced as a whole, only when it is what was written down, and never somebody else's."""

from typing import Any

import pytest
from botocore.stub import ANY, Stubber
from hypothesis import example, given
from hypothesis import strategies as st

from lambdas.rotation.aws.client import client
from lambdas.rotation.aws.dns import Route53
from lambdas.rotation.errors import ConnectivityChanged
from lambdas.rotation.hosts import normalised
from lambdas.rotation.ports import SystemNames
from tests.hostile import any_text

SOURCE = "orders.abc.eu-central-1.rds.amazonaws.com"
TARGET = "orders-rot-42.abc.eu-central-1.rds.amazonaws.com"
NAME = "db.example.com"


@pytest.fixture
def dns() -> Route53:
    return Route53()


@pytest.fixture
def zone() -> str:
    return new_zone("example.com", "1")


def new_zone(name: str, reference: str) -> str:
    made = client("route53").create_hosted_zone(Name=name, CallerReference=reference)
    return str(made["HostedZone"]["Id"].rpartition("/")[2])


def put(zone: str, **record: Any) -> None:
    defaults = {"Name": NAME, "Type": "CNAME", "TTL": 300, "ResourceRecords": [{"Value": SOURCE}]}
    change = {"Action": "UPSERT", "ResourceRecordSet": {**defaults, **record}}
    client("route53").change_resource_record_sets(HostedZoneId=zone, ChangeBatch={"Changes": [change]})


def test_reads_the_record_in_any_spelling(dns: Route53, zone: str) -> None:
    put(zone, Name="DB.example.com.", ResourceRecords=[{"Value": SOURCE.upper() + "."}])

    assert dns.describe_record(zone, "db.EXAMPLE.com") == (SOURCE, 300)
    assert dns.describe_record(zone, "other.example.com") is None


@pytest.mark.parametrize(
    ("record", "why"),
    [
        ({"Type": "A", "ResourceRecords": [{"Value": "10.0.0.1"}]}, "not a CNAME"),
        ({"SetIdentifier": "blue", "Weight": 10}, "routing policy"),
    ],
)
def test_refuses_what_is_not_one_simple_cname(dns: Route53, zone: str, record: dict[str, Any], why: str) -> None:
    """Half of a weighted pair would keep leading half of the applications to the source."""
    put(zone, **record)

    with pytest.raises(ConnectivityChanged, match=why):
        dns.describe_record(zone, NAME)
    assert ["RecordNotSimple"] == [finding.name for finding in dns.limitations(zone, NAME, SOURCE)]


def test_refuses_several_sets_of_one_name(dns: Route53, zone: str) -> None:
    put(zone, SetIdentifier="blue", Weight=10)
    put(zone, SetIdentifier="green", Weight=0)

    with pytest.raises(ConnectivityChanged, match="2 record sets"):
        dns.describe_record(zone, NAME)


def test_replaces_the_record(dns: Route53, zone: str) -> None:
    put(zone)

    lowered = dns.write_record(zone, NAME, SOURCE, 5, expected=(SOURCE, 300))
    switched = dns.write_record(zone, NAME, TARGET, 5, expected=(SOURCE, 5))

    assert dns.describe_record(zone, NAME) == (TARGET, 5)
    assert lowered
    assert switched


def test_a_repeated_replacement_writes_nothing(dns: Route53, zone: str) -> None:
    put(zone)
    dns.write_record(zone, NAME, TARGET, 5, expected=(SOURCE, 300))

    assert dns.write_record(zone, NAME, TARGET, 5, expected=(SOURCE, 300)) == ""
    assert dns.describe_record(zone, NAME) == (TARGET, 5)


@pytest.mark.parametrize("now", [("elsewhere.example.com", 300), (SOURCE, 60), None])
def test_somebody_elses_change_is_not_overwritten(dns: Route53, zone: str, now: tuple[str, int] | None) -> None:
    if now is not None:
        put(zone, ResourceRecords=[{"Value": now[0]}], TTL=now[1])

    with pytest.raises(ConnectivityChanged):
        dns.write_record(zone, NAME, TARGET, 5, expected=(SOURCE, 300))

    assert dns.describe_record(zone, NAME) == now


def refused_after_our_read(stub: Stubber, found: tuple[str, int]) -> None:
    """Route 53 refuses the exchange of the record that was read; ``found``: what is there then."""

    def record(value: str, ttl_seconds: int) -> dict[str, Any]:
        return {"Name": f"{NAME}.", "Type": "CNAME", "TTL": ttl_seconds, "ResourceRecords": [{"Value": value}]}

    def listed(one: dict[str, Any]) -> dict[str, Any]:
        return {"ResourceRecordSets": [one], "IsTruncated": False, "MaxItems": "100"}

    changes = [
        {"Action": "DELETE", "ResourceRecordSet": record(SOURCE, 300)},
        {"Action": "CREATE", "ResourceRecordSet": record(TARGET, 5)},
    ]
    stub.add_response("list_resource_record_sets", listed(record(SOURCE, 300)))
    stub.add_client_error(
        "change_resource_record_sets",
        "InvalidChangeBatch",
        expected_params={"HostedZoneId": ANY, "ChangeBatch": {"Changes": changes}},
    )
    stub.add_response("list_resource_record_sets", listed(record(*found)))


@pytest.mark.parametrize("found", [(SOURCE, 60), ("elsewhere.example.com", 300), (TARGET, 300)])
def test_the_condition_is_route_53s_own(dns: Route53, zone: str, found: tuple[str, int]) -> None:
    """Between our read and our write somebody may change the record: the DELETE of what we saw then fails the batch."""
    with Stubber(client("route53")) as stub:
        refused_after_our_read(stub, found)

        with pytest.raises(ConnectivityChanged, match="while it was being replaced"):
            dns.write_record(zone, NAME, TARGET, 5, expected=(SOURCE, 300))


def test_a_call_that_the_sdk_repeats_finds_its_own_change(dns: Route53, zone: str) -> None:
    """The answer got lost: the second attempt deletes a record that the first one has replaced."""
    with Stubber(client("route53")) as stub:
        refused_after_our_read(stub, (TARGET, 5))

        assert dns.write_record(zone, NAME, TARGET, 5, expected=(SOURCE, 300)) == ""


def test_limitations_by_name(dns: Route53, zone: str) -> None:
    def names() -> list[str]:
        return [finding.name for finding in dns.limitations(zone, NAME, SOURCE)]

    assert names() == ["RecordMissing"]
    put(zone, ResourceRecords=[{"Value": TARGET}])
    assert names() == ["RecordLeadsElsewhere"]
    put(zone)
    assert names() == []
    other = new_zone("example.com", "2")
    assert names() == []
    put(other)
    assert names() == ["RecordInTwoZones"]
    assert ["ZoneUnknown"] == [finding.name for finding in dns.limitations("Z0", NAME, SOURCE)]


@given(name=st.text(st.characters(max_codepoint=255)).map(str.lower).filter(lambda name: not name.endswith(".")))
@example(name="a\\052")
def test_every_name_has_one_spelling(name: str) -> None:
    """As Route 53 writes what is not a letter, a digit, a hyphen or an underscore."""
    escaped = "".join(
        letter if letter.isascii() and (letter.isalnum() or letter in "-_.") else f"\\{ord(letter):03o}"
        for letter in name
    )

    assert name == normalised(escaped) == normalised(escaped.upper() + ".")


@given(name=any_text())
@example(name="a\\999.x")
@example(name="a\\²²².x")
def test_a_name_that_means_nothing_is_one_all_the_same(name: str) -> None:
    """It is compared with others; Route 53 or the resolver has to say what is wrong with it."""
    normalised(name)


@pytest.mark.parametrize("name", ["a..b", "x" * 64 + ".example", ".", "\u0130" * 40])
def test_what_can_be_no_name_leads_nowhere(name: str) -> None:
    assert frozenset() == SystemNames().addresses(name)
