"""Route 53: one simple CNAME, read and replaced.

Called only by functions outside the VPC: Route 53's API may not be reachable from inside it.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from lambdas.rotation.aws.client import calls, client
from lambdas.rotation.errors import AccessRefused, AwsRefused, ConnectivityChanged
from lambdas.rotation.hosts import are_same, normalised
from lambdas.rotation.state import Finding

Record = Mapping[str, Any]


class Route53:
    """`ports.Dns`."""

    def describe_record(self, zone_id: str, name: str) -> tuple[str, int] | None:
        """Value and TTL of the record, None when there is none.

        Raises:
            ConnectivityChanged: terminal; it is not exactly one simple CNAME with one value.
        """
        record = self._simple_cname(zone_id, name)
        return None if record is None else (_value(record), int(record["TTL"]))

    def limitations(self, zone_id: str, name: str, address: str) -> Sequence[Finding]:
        """Why this record cannot lead applications from ``address`` to somewhere else."""
        try:
            found = self.describe_record(zone_id, name)
        except ConnectivityChanged as unfit:
            return [Finding(name="RecordNotSimple", message=str(unfit), advice="replace it by one simple CNAME")]
        except AccessRefused as refused:
            return [
                Finding(
                    name="ZoneNotAllowed",
                    message=str(refused),
                    advice="add the zone to hosted_zone_ids in the stack's configuration and deploy",
                )
            ]
        except AwsRefused as refused:
            return [
                Finding(
                    name="ZoneUnknown", message=str(refused), advice="correct the zone id in key-rotation:dns-record"
                )
            ]
        if found is None:
            return [
                Finding(
                    name="RecordMissing",
                    message=f"zone {zone_id} has no record {name}",
                    advice="create it as a CNAME to the database's endpoint, or correct key-rotation:dns-record",
                )
            ]
        if not are_same(found[0], address):
            return [
                Finding(
                    name="RecordLeadsElsewhere",
                    message=f"{name} leads to {found[0]}, not to {address}",
                    advice="point it at the database's endpoint, or correct key-rotation:dns-record",
                )
            ]
        return self._second_zones(zone_id, name)

    def write_record(self, zone_id: str, name: str, value: str, ttl_seconds: int, expected: tuple[str, int]) -> str:
        """Replace the record, only if it is ``expected``; returns the change id, "" when it is as wanted already.

        The condition is Route 53's own: the old record is deleted and the new one created in one batch, and a batch
        whose DELETE does not match the record exactly is refused as a whole. Does not wait for it to spread.

        Raises:
            ConnectivityChanged: terminal; somebody changed the record. Nothing was written.
        """
        record = self._simple_cname(zone_id, name)
        wanted = (normalised(value), ttl_seconds)
        seen = None if record is None else (_value(record), int(record["TTL"]))
        if seen == wanted:
            return ""  # an earlier attempt, whose answer got lost
        if record is None or seen != (normalised(expected[0]), expected[1]):
            raise ConnectivityChanged(f"{name} is {seen}, not {expected} as this rotation wrote down")
        replacement = {**record, "TTL": ttl_seconds, "ResourceRecords": [{"Value": value}]}
        try:
            with calls("route53:ChangeResourceRecordSets"):
                answer = client("route53").change_resource_record_sets(
                    HostedZoneId=zone_id,
                    ChangeBatch={
                        "Changes": [
                            {"Action": "DELETE", "ResourceRecordSet": record},
                            {"Action": "CREATE", "ResourceRecordSet": replacement},
                        ]
                    },
                )
        except AwsRefused as refused:
            if refused.code == "InvalidChangeBatch":
                if self.describe_record(zone_id, name) == wanted:
                    return ""  # the SDK has repeated a call that took effect, or a second delivery was quicker
                raise ConnectivityChanged(f"{name} changed while it was being replaced: {refused}") from refused
            raise
        return str(answer["ChangeInfo"]["Id"]).rpartition("/")[2]

    def _simple_cname(self, zone_id: str, name: str) -> Record | None:
        records = _records_named(zone_id, name)
        if not records:
            return None
        if len(records) > 1:
            kinds = ", ".join(sorted(str(record["Type"]) for record in records))
            raise ConnectivityChanged(f"{name} has {len(records)} record sets ({kinds})")
        (record,) = records
        if record["Type"] != "CNAME" or "AliasTarget" in record:
            raise ConnectivityChanged(f"{name} is {_kind(record)}, not a CNAME")
        if "SetIdentifier" in record:
            raise ConnectivityChanged(f"{name} has a routing policy ({record['SetIdentifier']})")
        if len(record.get("ResourceRecords") or ()) != 1:
            raise ConnectivityChanged(f"{name} does not have exactly one value")
        return record

    def _second_zones(self, zone_id: str, name: str) -> Sequence[Finding]:
        """Zones of the same name (public and private) that hold the record too: clients there would not follow."""
        with calls("route53:GetHostedZone"):
            zone_name = client("route53").get_hosted_zone(Id=zone_id)["HostedZone"]["Name"]
        with calls("route53:ListHostedZonesByName"):
            listed = client("route53").list_hosted_zones_by_name(DNSName=zone_name)["HostedZones"]
        findings = []
        for zone in listed:
            other = zone["Id"].rpartition("/")[2]
            if not are_same(zone["Name"], zone_name) or other == zone_id:
                continue
            try:
                ambiguous = bool(_records_named(other, name))
            except (AccessRefused, AwsRefused):
                ambiguous = True  # a zone that may not be looked into may hold it
            if ambiguous:
                findings.append(
                    Finding(
                        name="RecordInTwoZones",
                        message=f"zone {other} has the same name as {zone_id} and may hold {name} as well",
                        advice="keep the record in one zone, or let the stack read both (hosted_zone_ids)",
                    )
                )
        return findings


def _value(record: Record) -> str:
    return normalised(record["ResourceRecords"][0]["Value"])


def _kind(record: Record) -> str:
    return "an alias" if "AliasTarget" in record else f"of type {record['Type']}"


def _records_named(zone_id: str, name: str) -> list[Record]:
    """All record sets of this very name; Route 53 lists in order, so one page from the name on has them all."""
    with calls("route53:ListResourceRecordSets"):
        listed = client("route53").list_resource_record_sets(
            HostedZoneId=zone_id, StartRecordName=name, MaxItems="100"
        )["ResourceRecordSets"]
    return [record for record in listed if are_same(record["Name"], name)]
