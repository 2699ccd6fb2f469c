"""What a network fence asks of RDS, EC2 and the network: a wrong word here leaves a door open, or never opens one."""

import errno
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from botocore.stub import Stubber

from lambdas.rotation.aws.client import client
from lambdas.rotation.aws.clusters import AwsClusters
from lambdas.rotation.aws.rds import AwsRds
from lambdas.rotation.aws.security_groups import Ec2SecurityGroups
from lambdas.rotation.errors import AwsRefused, DatabaseUnreachable
from lambdas.rotation.ports import Instance, SystemNetwork
from tests.fakes import FakePorts

SINCE = datetime(2027, 1, 1, tzinfo=UTC)


@contextmanager
def told(operation: str, expected: dict[str, Any], answer: dict[str, Any]) -> Iterator[None]:
    with Stubber(client("rds")) as stub:
        stub.add_response(operation, answer, expected)
        yield


# -- RDS ---------------------------------------------------------------------------------------------------------------


def test_the_groups_alone_are_changed_and_nothing_that_waits_for_a_window() -> None:
    expected = {"DBInstanceIdentifier": "orders", "VpcSecurityGroupIds": ["sg-1", "sg-2"]}

    with told("modify_db_instance", expected, {}):
        AwsRds().request_security_groups("orders", ["sg-1", "sg-2"])


def test_of_a_cluster_they_wait_for_no_window_either() -> None:
    expected = {"DBClusterIdentifier": "shop", "VpcSecurityGroupIds": ["sg-1"], "ApplyImmediately": True}

    with told("modify_db_cluster", expected, {}):
        AwsClusters().request_security_groups("shop", ["sg-1"])


def test_a_cluster_of_which_rds_is_busy_with_something_is_left_for_the_next_visit() -> None:
    with Stubber(client("rds")) as stub:
        for code in ("InvalidDBClusterStateFault", "InvalidDBInstanceState", "InvalidParameterValue"):
            stub.add_client_error("modify_db_cluster", code)
        AwsClusters().request_security_groups("shop", ["sg-1"])
        AwsClusters().request_security_groups("shop", ["sg-1"])
        with pytest.raises(AwsRefused):
            AwsClusters().request_security_groups("shop", ["sg-1"])


def test_an_instance_that_has_just_gone_is_not_restarted() -> None:
    with Stubber(client("rds")) as stub:
        stub.add_client_error("reboot_db_instance", "DBInstanceNotFound")
        assert not AwsRds().request_reboot("shop-1")


def test_a_restart_is_no_failover() -> None:
    with told("reboot_db_instance", {"DBInstanceIdentifier": "orders"}, {}):
        AwsRds().request_reboot("orders")


@pytest.mark.parametrize("request_", ["request_reboot", "request_security_groups"])
def test_a_busy_rds_is_left_for_the_next_visit(request_: str) -> None:
    operation = "reboot_db_instance" if request_ == "request_reboot" else "modify_db_instance"
    with Stubber(client("rds")) as stub:
        stub.add_client_error(operation, "InvalidDBInstanceState")
        stub.add_client_error(operation, "InvalidParameterValue")
        ask = getattr(AwsRds(), request_)
        more = () if request_ == "request_reboot" else (["sg-1"],)
        ask("orders", *more)
        with pytest.raises(AwsRefused):
            ask("orders", *more)


def event(message: str, seconds: float) -> dict[str, Any]:
    return {"Message": message, "Date": SINCE + timedelta(seconds=seconds), "SourceIdentifier": "orders"}


@pytest.mark.parametrize(
    ("events", "restarted"),
    [
        ([event("DB instance restarted", 60)], 60),
        ([event("The DB instance restarted.", 60), event("DB instance restarted", 90)], 90),
        ([event("DB instance shutdown", 60)], None),
        ([event("DB instance restarted with zero downtime", 60)], None),
        ([event("Multi-AZ instance failover completed: DB instance restarted", 60)], None),
        ([event("DB instance restarted", -1)], None),
        ([event("DB instance restarted", 0)], None),
        ([], None),
    ],
)
def test_the_last_restart_behind_the_closed_door(events: list[dict[str, Any]], restarted: int | None) -> None:
    expected = {
        "SourceIdentifier": "orders",
        "SourceType": "db-instance",
        "Duration": 1440,
        "EventCategories": ["availability"],
    }

    with told("describe_events", expected, {"Events": events}):
        found = AwsRds().restarted_at("orders", SINCE)

    assert found == (None if restarted is None else SINCE + timedelta(seconds=restarted))


def test_options_that_are_let_in_by_groups_of_their_own() -> None:
    own = [{"VpcSecurityGroupId": "sg-1", "Status": "active"}]
    options = [{"OptionName": "SSL", "VpcSecurityGroupMemberships": own}, {"OptionName": "STATSPACK"}]
    answer = {"OptionGroupsList": [{"OptionGroupName": "of-orders", "Options": options}]}

    with told("describe_option_groups", {"OptionGroupName": "of-orders"}, answer):
        assert ["SSL"] == AwsRds().options_with_groups("of-orders")


@pytest.mark.parametrize(("engine", "zones"), [("sqlserver-se", None), ("oracle-se2", True)])
def test_sql_server_is_restored_in_one_zone(engine: str, zones: bool | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """RDS refuses two where backups are off; what differs afterwards is repaired."""
    source = FakePorts().rds.instances["orders"]
    of_engine = source.database.having(engine=engine)
    source = Instance(**{**vars(source), "database": of_engine, "raw": {"MultiAZ": True}})
    asked: dict[str, Any] = {}
    rds = AwsRds()
    monkeypatch.setattr(rds, "_adopted", lambda *_: False)
    monkeypatch.setattr(
        client("rds"), "restore_db_instance_from_db_snapshot", lambda **given: asked.update(given), raising=False
    )

    rds.request_restore(source, "orders-rot-1", "kept", {})

    assert asked.get("MultiAZ") is zones


@pytest.mark.parametrize(("options", "is_made"), [([{"Engine": "oracle-se2"}], True), ([], False)])
def test_what_rds_makes_is_asked_for_by_version_and_class(options: list[dict[str, str]], is_made: bool) -> None:
    asked = {"Engine": "oracle-se2", "EngineVersion": "19.0.0.0", "DBInstanceClass": "db.m5.large"}

    with told("describe_orderable_db_instance_options", asked, {"OrderableDBInstanceOptions": options}):
        assert is_made == AwsRds().is_orderable("oracle-se2", "19.0.0.0", "db.m5.large")


# -- EC2 ---------------------------------------------------------------------------------------------------------------


def test_rules_that_let_in_and_no_others() -> None:
    ec2 = client("ec2")
    vpc = ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
    group = ec2.create_security_group(GroupName="isolation", Description="none", VpcId=vpc)["GroupId"]
    assert [] == Ec2SecurityGroups().inbound_rules(group)

    ec2.authorize_security_group_ingress(
        GroupId=group, IpProtocol="tcp", FromPort=1521, ToPort=1521, CidrIp="10.0.0.0/8"
    )

    (rule,) = Ec2SecurityGroups().inbound_rules(group)
    assert rule.startswith("sgr-")


def test_a_group_that_does_not_exist_is_no_empty_one() -> None:
    with Stubber(client("ec2")) as stub:
        stub.add_client_error("describe_security_group_rules", "InvalidGroup.NotFound")
        with pytest.raises(AwsRefused):
            Ec2SecurityGroups().inbound_rules("sg-0")


# -- the network -------------------------------------------------------------------------------------------------------


def test_whoever_listens_accepts_and_who_does_not_is_closed() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert SystemNetwork().accepts("127.0.0.1", port)

    assert not SystemNetwork().accepts("127.0.0.1", port)


@pytest.mark.parametrize(
    "error", [TimeoutError(), ConnectionRefusedError(), ConnectionResetError(), OSError(errno.EHOSTUNREACH, "no way")]
)
def test_what_does_not_answer_is_closed(error: OSError, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "create_connection", refusing(error))

    assert not SystemNetwork().accepts("orders.example", 1521)


@pytest.mark.parametrize(
    "error", [socket.gaierror(socket.EAI_NONAME, "unknown"), OSError(errno.EMFILE, "too many open files")]
)
def test_what_could_not_even_be_tried_proves_nothing(error: OSError, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "create_connection", refusing(error))

    with pytest.raises(DatabaseUnreachable, match="cannot be tried"):
        SystemNetwork().accepts("orders.example", 1521)


def refusing(error: OSError) -> Any:
    def create_connection(*_: Any, **__: Any) -> None:
        raise error

    return create_connection
