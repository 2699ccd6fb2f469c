"""``python -m sandbox up``: an AWS that others can use, that decides on every call, and that leaves nothing behind."""

import http.client
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError

from sandbox.client import SandboxProcess

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def sandbox() -> Iterator[SandboxProcess]:
    process = SandboxProcess()
    yield process
    assert process.stop() == 0
    assert nothing_is_left(work_dir(process))


def work_dir(sandbox: SandboxProcess) -> Path:
    return sandbox.ca_bundle.parent.parent


def processes_of(directory: Path) -> list[str]:
    listed = subprocess.run(["ps", "-ewwo", "pid,args"], capture_output=True, text=True, check=True).stdout.splitlines()
    return [line for line in listed if str(directory) in line]


def nothing_is_left(directory: Path) -> bool:
    deadline = time.monotonic() + 30
    while (directory.exists() or processes_of(directory)) and time.monotonic() < deadline:
        time.sleep(0.1)
    return not directory.exists() and not processes_of(directory)


def test_the_line_says_all_that_a_client_needs(sandbox: SandboxProcess) -> None:
    """Other programs drive the sandbox by this line and nothing else."""
    assert sandbox.facts.keys() == {
        "endpoint_url", "region", "credentials", "dns", "ca_bundle", "state_machines", "template",
    }  # fmt: skip
    assert sandbox.facts["credentials"].keys() == {"access_key_id", "secret_access_key"}
    assert sandbox.facts["state_machines"].keys() == {"rotate_key", "rotate_fleet"}
    assert "Resources" in json.loads(Path(sandbox.facts["template"]).read_text())
    assert sandbox.ca_bundle.read_text().startswith("-----BEGIN CERTIFICATE-----")


def test_a_connection_is_kept_for_the_next_request(sandbox: SandboxProcess) -> None:
    """Also after a body that nobody has looked at: what is left of it would be taken for the next request."""
    connection = http.client.HTTPConnection(sandbox.endpoint_url.removeprefix("http://"), timeout=30)
    used = []
    for _ in range(3):
        connection.request("POST", "/nowhere", body=b"GET / HTTP/1.1\r\n\r\n" * 100)
        assert connection.getresponse().read() is not None
        used.append(connection.sock)
    assert used[0] is not None
    assert used == [used[0]] * 3
    connection.close()


def test_strangers_and_the_powerless_are_refused(sandbox: SandboxProcess) -> None:
    """Otherwise a run without a denial would mean nothing."""
    iam = sandbox.client("iam")
    iam.create_user(UserName="powerless")
    key = iam.create_access_key(UserName="powerless")["AccessKey"]

    def as_somebody(access_key: str, secret: str) -> Any:
        return boto3.client(
            "kms",
            region_name=sandbox.facts["region"],
            endpoint_url=sandbox.endpoint_url,
            aws_access_key_id=access_key,
            aws_secret_access_key=secret,
        )

    for client in (as_somebody("AKIASTRANGER", "x"), as_somebody(key["AccessKeyId"], key["SecretAccessKey"])):
        with pytest.raises(ClientError) as refusal:
            client.list_keys()
        assert refusal.value.response["ResponseMetadata"]["HTTPStatusCode"] in (400, 403)


def test_a_function_runs_under_its_own_role(sandbox: SandboxProcess) -> None:
    """From its zip and the layer, on the virtual clock, through the APIs: the sweep reads an empty ledger."""
    answer = sandbox.client("lambda").invoke(FunctionName="rds-key-rotation-recover-rotations", Payload=b"{}")

    assert "FunctionError" not in answer
    trail = sandbox.client("cloudtrail").lookup_events(
        LookupAttributes=[{"AttributeKey": "EventSource", "AttributeValue": "dynamodb.amazonaws.com"}]
    )["Events"]
    (identity, *_) = (json.loads(event["CloudTrailEvent"])["userIdentity"] for event in trail)
    assert identity["type"] == "AssumedRole"
    assert "RecoverRotations" in identity["sessionContext"]["sessionIssuer"]["userName"]


def test_the_trail_has_every_call_also_between_two_that_were_refused(sandbox: SandboxProcess) -> None:
    """What nobody sees a function ask for is taken for a permission that it does not need, or for no denial."""
    rds = sandbox.client("rds")
    for _ in range(3):
        with pytest.raises(rds.exceptions.DBSnapshotNotFoundFault):
            rds.describe_db_snapshots(DBSnapshotIdentifier="never-made")
        rds.describe_certificates()

    events = sandbox.client("cloudtrail").lookup_events()["Events"]

    seen = [event["EventName"] for event in events if event["EventName"] != "LookupEvents"][:6]
    assert ["DescribeCertificates", "DescribeDBSnapshots"] * 3 == seen
    refused = json.loads(events[seen.index("DescribeDBSnapshots")]["CloudTrailEvent"])
    assert (refused["errorCode"], "<" in refused["errorMessage"]) == ("DBSnapshotNotFound", False)


def test_the_deployed_machine_runs_and_refuses_what_is_not_there(sandbox: SandboxProcess) -> None:
    """The whole way: ASL, the machine's role, a function, its error's name, and back."""
    states = sandbox.client("stepfunctions")
    execution = states.start_execution(
        stateMachineArn=sandbox.facts["state_machines"]["rotate_key"],
        input=json.dumps({"DBInstanceIdentifier": "no-such-database"}),
    )["executionArn"]

    deadline = time.monotonic() + 120
    while (end := states.describe_execution(executionArn=execution))["status"] == "RUNNING":
        assert time.monotonic() < deadline
        time.sleep(0.1)

    assert (end["status"], end["error"]) == ("FAILED", "UnknownDatabase")


def test_a_zone_is_answered_by_the_dns(sandbox: SandboxProcess) -> None:
    route53 = sandbox.client("route53")
    zone = route53.create_hosted_zone(Name="up.example.", CallerReference="1")["HostedZone"]["Id"]
    record = {
        "Name": "db.up.example.",
        "Type": "A",
        "TTL": 5,
        "ResourceRecords": [{"Value": "127.0.0.9"}],
    }
    route53.change_resource_record_sets(
        HostedZoneId=zone, ChangeBatch={"Changes": [{"Action": "CREATE", "ResourceRecordSet": record}]}
    )

    assert sandbox.resolve("db.up.example") == "127.0.0.9"
    assert sandbox.resolve("nothing.up.example") is None


def test_nothing_is_left_after_a_kill(sandbox: SandboxProcess) -> None:
    """Neither a directory nor a process, when nobody had the time to clean up; the other sandbox does not notice."""
    victim = SandboxProcess()
    directory = work_dir(victim)
    victim.client("lambda").invoke(FunctionName="rds-key-rotation-recover-rotations", Payload=b"{}")
    assert processes_of(directory)

    os.kill(victim.pid, signal.SIGKILL)

    assert nothing_is_left(directory)
    victim.stop()
    assert sandbox.client("kms").list_keys()["Keys"]
