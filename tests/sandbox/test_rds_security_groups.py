"""Security groups of the sandbox keep out whom they keep out on AWS: new connections, and no session that there is."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import pg8000
import pytest

from tests.sandbox.rds_sandbox import Sandbox, code_of, eventually
from tests.sandbox.test_proxies import SSL_REQUEST, Proxy
from tests.sandbox.test_tls_front import GSS_REQUEST

NO_SESSION = (pg8000.exceptions.Error, OSError)
OPEN = {"IpProtocol": "tcp", "FromPort": 5432, "ToPort": 5432, "IpRanges": [{"CidrIp": "10.0.0.0/8"}]}


@pytest.fixture(scope="module")
def groups(sandbox: Sandbox) -> dict[str, str]:
    """One that lets the applications in, and one that lets nobody in."""
    ec2 = sandbox.client("ec2")
    ids = {
        name: ec2.create_security_group(GroupName=name, Description=name)["GroupId"] for name in ("app", "isolation")
    }
    ec2.authorize_security_group_ingress(GroupId=ids["app"], IpPermissions=[OPEN])
    ids["app-of-mysql"] = ec2.create_security_group(GroupName="app-of-mysql", Description="-")["GroupId"]
    of_mysql = OPEN | {"FromPort": 3306, "ToPort": 3306}
    ec2.authorize_security_group_ingress(GroupId=ids["app-of-mysql"], IpPermissions=[of_mysql])
    return ids


@pytest.fixture(scope="module")
def made(sandbox: Sandbox, groups: dict[str, str]) -> dict[str, Any]:
    instance = sandbox.create("orders", VpcSecurityGroupIds=[groups["app"]])
    with sandbox.session(instance) as sql:
        sql.run("CREATE TABLE t AS SELECT 42 AS x")
    return instance


@pytest.fixture
def orders(sandbox: Sandbox, groups: dict[str, str], made: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield made
    change(sandbox, "orders", groups["app"])


def change(sandbox: Sandbox, name: str, *ids: str) -> None:
    """Give an instance these groups, and wait until they are in force."""
    sandbox.rds.modify_db_instance(DBInstanceIdentifier=name, VpcSecurityGroupIds=list(ids))
    eventually(lambda: shown(sandbox, name) == dict.fromkeys(ids, "active"), "its groups are in force")


def shown(sandbox: Sandbox, name: str) -> dict[str, str]:
    return {one["VpcSecurityGroupId"]: one["Status"] for one in sandbox.describe(name)["VpcSecurityGroups"]}


def lets_in(sandbox: Sandbox, instance: dict[str, Any]) -> bool:
    try:
        with sandbox.session(instance) as sql:
            return bool(sql.run("SELECT 1") == [[1]])
    except NO_SESSION:
        return False


def test_other_groups_are_in_force_a_while_later(
    sandbox: Sandbox, groups: dict[str, str], orders: dict[str, Any]
) -> None:
    """Whoever takes the answer for the deed leaves the door open when he believes it closed."""
    sandbox.do("execution", running=True)
    sandbox.do("working", held=True)
    try:
        answer = sandbox.rds.modify_db_instance(
            DBInstanceIdentifier="orders", VpcSecurityGroupIds=[groups["isolation"]]
        )["DBInstance"]

        assert [(one["VpcSecurityGroupId"], one["Status"]) for one in answer["VpcSecurityGroups"]] == [
            (groups["isolation"], "adding"), (groups["app"], "removing"),
        ]  # fmt: skip
        assert sandbox.describe("orders")["DBInstanceStatus"] == "available"
        assert lets_in(sandbox, orders)
    finally:
        sandbox.do("working", held=False)
        sandbox.do("execution", running=False)

    eventually(lambda: shown(sandbox, "orders") == {groups["isolation"]: "active"}, "the group is in force")
    assert not lets_in(sandbox, orders)


def test_sessions_go_on_until_the_server_ends(sandbox: Sandbox, groups: dict[str, str], orders: dict[str, Any]) -> None:
    """The fence that is a change of groups is none before the reboot, and is one from then on."""
    early = socket.create_connection((sandbox.address(orders["Endpoint"]["Address"]), 5432), 5)
    early.sendall(GSS_REQUEST)
    assert early.recv(1) == b"N"
    with early, sandbox.session(orders) as sql:
        change(sandbox, "orders", groups["isolation"])
        assert sql.run("INSERT INTO t VALUES (43) RETURNING x") == [[43]]

        sandbox.rds.reboot_db_instance(DBInstanceIdentifier="orders")
        sandbox.available("orders")

        with pytest.raises(NO_SESSION):
            sql.run("INSERT INTO t VALUES (44)")
        # Nor does somebody get in who had connected before, and had said nothing yet.
        try:
            early.sendall(SSL_REQUEST)
            answer = early.recv(1)
        except OSError:
            answer = b""
        assert answer == b""
    assert not lets_in(sandbox, orders)
    change(sandbox, "orders", groups["app"])
    with sandbox.session(orders) as sql:
        assert sql.run("SELECT x FROM t WHERE x > 42") == [[43]]


@pytest.mark.parametrize("end", ["crash", "fail_over"])
def test_a_server_that_is_lost_takes_its_sessions_along(
    sandbox: Sandbox, groups: dict[str, str], orders: dict[str, Any], end: str
) -> None:
    with sandbox.session(orders) as sql:
        change(sandbox, "orders", groups["isolation"])
        sandbox.do(end, name="orders")

        with pytest.raises(NO_SESSION):
            sql.run("SELECT 1")
        assert not lets_in(sandbox, orders)


@pytest.mark.parametrize(
    ("rule", "lets"),
    [
        ({"IpProtocol": "tcp", "FromPort": 5432, "ToPort": 5432}, True),
        ({"IpProtocol": "tcp", "FromPort": 5000, "ToPort": 6000}, True),
        ({"IpProtocol": "-1"}, True),
        ({"IpProtocol": "tcp", "FromPort": 5433, "ToPort": 5433}, False),
        ({"IpProtocol": "udp", "FromPort": 5432, "ToPort": 5432}, False),
    ],
)
def test_a_rule_counts_from_the_next_connection_on(
    sandbox: Sandbox, groups: dict[str, str], orders: dict[str, Any], rule: dict[str, Any], lets: bool
) -> None:
    """Any source: clients of the sandbox are in nobody's network."""
    ec2 = sandbox.client("ec2")
    permission = rule | {"IpRanges": [{"CidrIp": "10.1.0.0/16"}]}
    change(sandbox, "orders", groups["isolation"])

    ec2.authorize_security_group_ingress(GroupId=groups["isolation"], IpPermissions=[permission])
    assert lets_in(sandbox, orders) is lets
    with_session = sandbox.session(orders) if lets else None
    sql = with_session.__enter__() if with_session else None
    ec2.revoke_security_group_ingress(GroupId=groups["isolation"], IpPermissions=[permission])

    assert not lets_in(sandbox, orders)
    if sql and with_session:
        assert sql.run("SELECT 1") == [[1]]
        with_session.__exit__(None, None, None)


def test_one_of_several_groups_is_enough(sandbox: Sandbox, groups: dict[str, str], orders: dict[str, Any]) -> None:
    change(sandbox, "orders", groups["isolation"], groups["app"])

    assert lets_in(sandbox, orders)


def test_what_is_restored_has_its_groups_from_the_beginning(
    sandbox: Sandbox, groups: dict[str, str], orders: dict[str, Any]
) -> None:
    """A copy that lets applications in for a moment is a second source for that moment."""
    rds = sandbox.rds
    rds.create_db_snapshot(DBInstanceIdentifier="orders", DBSnapshotIdentifier="orders-s")
    sandbox.snapshot_available("orders-s")
    rds.restore_db_instance_from_db_snapshot(
        DBInstanceIdentifier="restored", DBSnapshotIdentifier="orders-s", VpcSecurityGroupIds=[groups["isolation"]]
    )
    rds.restore_db_instance_from_db_snapshot(DBInstanceIdentifier="careless", DBSnapshotIdentifier="orders-s")

    restored = sandbox.available("restored")
    assert shown(sandbox, "restored") == {groups["isolation"]: "active"}
    assert not lets_in(sandbox, restored)
    # As AWS has it: who has the default group may talk to others that have it.
    assert lets_in(sandbox, sandbox.available("careless"))
    change(sandbox, "restored", groups["app"])
    assert lets_in(sandbox, restored)
    with sandbox.session(restored) as sql:
        assert [42] in sql.run("SELECT x FROM t")


def test_a_rename_does_not_open_what_is_closed(
    sandbox: Sandbox, groups: dict[str, str], orders: dict[str, Any]
) -> None:
    sandbox.create("renamed-later", VpcSecurityGroupIds=[groups["isolation"]])
    sandbox.rds.modify_db_instance(
        DBInstanceIdentifier="renamed-later", NewDBInstanceIdentifier="renamed", ApplyImmediately=True
    )
    eventually(lambda: code_of(sandbox.rds.describe_db_instances, DBInstanceIdentifier="renamed") == "", "renamed")

    assert not lets_in(sandbox, sandbox.available("renamed"))


def test_a_proxy_is_a_client_like_any_other(sandbox: Sandbox, groups: dict[str, str], orders: dict[str, Any]) -> None:
    """Else applications that come by a proxy would write to a source that is fenced."""
    proxy = Proxy(sandbox, "POSTGRESQL")
    assert proxy.register("orders") == ""
    eventually(lambda: proxy.targets()[0]["TargetHealth"]["State"] == "AVAILABLE", "it leads to the database")
    with sandbox.session_at(proxy.endpoint) as sql:
        change(sandbox, "orders", groups["isolation"])

        assert sql.run("SELECT 1") == [[1]]
        with pytest.raises(NO_SESSION), sandbox.session_at(proxy.endpoint):
            pass
        assert proxy.targets()[0]["TargetHealth"]["Reason"] == "UNREACHABLE"
    sandbox.rds.delete_db_proxy(DBProxyName=proxy.name)


def test_every_member_has_the_groups_of_its_cluster_a_while_later(sandbox: Sandbox, groups: dict[str, str]) -> None:
    """The cluster itself shows at once what was asked for: who believes that takes an open reader for closed."""
    sandbox.create_cluster("ledger", Engine="aurora-mysql", VpcSecurityGroupIds=[groups["app-of-mysql"]])
    names = ("ledger-1", "ledger-2")
    members = [sandbox.add_member("ledger", name, Engine="aurora-mysql") for name in names]
    isolation = groups["isolation"]
    with sandbox.session(members[0]) as at_the_writer, sandbox.session(members[1]) as at_a_reader:
        at_the_writer.run("CREATE TABLE t AS SELECT 42 AS x")
        eventually(lambda: at_a_reader.run("SELECT count(*) FROM pg_class WHERE relname = 't'") == [[1]], "it follows")
        sandbox.do("execution", running=True)
        sandbox.do("working", held=True)
        try:
            asked = sandbox.rds.modify_db_cluster(DBClusterIdentifier="ledger", VpcSecurityGroupIds=[isolation])
            assert [(isolation, "active")] == [
                (one["VpcSecurityGroupId"], one["Status"]) for one in asked["DBCluster"]["VpcSecurityGroups"]
            ]
            for member in members:
                on_their_way = {isolation: "adding", groups["app-of-mysql"]: "removing"}
                assert on_their_way == shown(sandbox, member["DBInstanceIdentifier"])
                assert lets_in(sandbox, member)
        finally:
            sandbox.do("working", held=False)
            sandbox.do("execution", running=False)
        eventually(lambda: [shown(sandbox, name) for name in names] == [{isolation: "active"}] * 2, "it is in force")
        assert [lets_in(sandbox, member) for member in members] == [False, False]

        # Who is on a reader stays there, restart of the writer or not, and writes when that takes over.
        sandbox.rds.reboot_db_instance(DBInstanceIdentifier="ledger-1")
        sandbox.available("ledger-1")
        with pytest.raises(NO_SESSION):
            at_the_writer.run("SELECT 1")
        assert at_a_reader.run("SELECT x FROM t") == [[42]]
        sandbox.rds.reboot_db_instance(DBInstanceIdentifier="ledger-2")
        sandbox.available("ledger-2")
        with pytest.raises(NO_SESSION):
            at_a_reader.run("SELECT 1")
        # One that joins is closed from the beginning.
        assert not lets_in(sandbox, sandbox.add_member("ledger", "ledger-3", Engine="aurora-mysql"))
    for name in names:
        told = sandbox.rds.describe_events(SourceIdentifier=name, SourceType="db-instance")["Events"]
        assert "DB instance restarted" in [event["Message"] for event in told]


def test_a_member_takes_no_groups_of_its_own(sandbox: Sandbox, groups: dict[str, str]) -> None:
    sandbox.create_cluster("single")
    sandbox.add_member("single", "single-1")

    assert "InvalidParameterCombination" == code_of(
        sandbox.rds.modify_db_instance, DBInstanceIdentifier="single-1", VpcSecurityGroupIds=[groups["isolation"]]
    )


def test_groups_of_another_network_are_refused(sandbox: Sandbox, orders: dict[str, Any]) -> None:
    ec2, rds = sandbox.client("ec2"), sandbox.rds
    vpc = ec2.create_vpc(CidrBlock="10.9.0.0/16")["Vpc"]["VpcId"]
    elsewhere = ec2.create_security_group(GroupName="elsewhere", Description="-", VpcId=vpc)["GroupId"]

    for group, code in ((elsewhere, "InvalidParameterCombination"), ("sg-0123456789abcdef0", "InvalidParameterValue")):
        assert code == code_of(rds.modify_db_instance, DBInstanceIdentifier="orders", VpcSecurityGroupIds=[group])


def test_a_group_that_a_database_has_is_not_deleted(
    sandbox: Sandbox, groups: dict[str, str], orders: dict[str, Any]
) -> None:
    ec2 = sandbox.client("ec2")
    extra = ec2.create_security_group(GroupName="extra", Description="-")["GroupId"]
    change(sandbox, "orders", groups["app"], extra)

    assert code_of(ec2.delete_security_group, GroupId=extra) == "DependencyViolation"

    change(sandbox, "orders", groups["app"])
    assert code_of(ec2.delete_security_group, GroupId=extra) == ""
