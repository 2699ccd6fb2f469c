"""RDS Proxies of the sandbox: they lead to the database that is registered, and to no other, and say how it is."""

from __future__ import annotations

import json
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any

import pg8000
import pymysql
import pytest

from tests.mariadb import need_mariadb
from tests.sandbox.rds_sandbox import PASSWORD, Sandbox, code_of, eventually
from tests.sandbox.test_blue_green import create, is_, ready

NUMBERS = count()
SSL_REQUEST = bytes.fromhex("00000008 04d2162f")
NO_SESSION = (pg8000.exceptions.Error, OSError)


@pytest.fixture(scope="module")
def orders(sandbox: Sandbox) -> dict[str, Any]:
    return made(sandbox, "orders")


@pytest.fixture(scope="module")
def successor(sandbox: Sandbox) -> dict[str, Any]:
    return made(sandbox, "successor")


@pytest.fixture
def pool(sandbox: Sandbox) -> Iterator[Proxy]:
    proxy = Proxy(sandbox, "POSTGRESQL")
    yield proxy
    sandbox.rds.delete_db_proxy(DBProxyName=proxy.name)


def made(sandbox: Sandbox, name: str) -> dict[str, Any]:
    instance = sandbox.create(name)
    with sandbox.session(instance) as sql:
        sql.run("CREATE TABLE t (x int)")
    return instance


class Proxy:
    """A proxy that logs in as the master user, unless its secret is changed."""

    def __init__(self, sandbox: Sandbox, family: str, **more: Any) -> None:
        self.sandbox, self.rds, self.secrets = sandbox, sandbox.rds, sandbox.client("secretsmanager")
        self.name = f"pool-{next(NUMBERS)}"
        self.secret = self.secrets.create_secret(Name=self.name)["ARN"]
        self.log_in_as(PASSWORD)
        subnets = sandbox.client("ec2").describe_subnets()["Subnets"]
        self.described = self.rds.create_db_proxy(
            DBProxyName=self.name, EngineFamily=family, RoleArn="arn:aws:iam::123456789012:role/pool",
            VpcSubnetIds=[subnet["SubnetId"] for subnet in subnets],
            Auth=[{"AuthScheme": "SECRETS", "SecretArn": self.secret, "IAMAuth": "DISABLED"}], **more,
        )["DBProxy"]  # fmt: skip
        self.endpoint = str(self.described["Endpoint"])

    def log_in_as(self, password: str) -> None:
        login = {"username": "dba", "password": password}
        self.secrets.put_secret_value(SecretId=self.secret, SecretString=json.dumps(login))

    def register(self, *instances: str, **more: Any) -> str:
        """The code of the refusal, if it is one."""
        named = {"DBInstanceIdentifiers": list(instances)} if instances else {}
        return code_of(self.rds.register_db_proxy_targets, DBProxyName=self.name, **named, **more)

    def deregister(self, *instances: str, **more: Any) -> str:
        named = {"DBInstanceIdentifiers": list(instances)} if instances else {}
        return code_of(self.rds.deregister_db_proxy_targets, DBProxyName=self.name, **named, **more)

    def targets(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.rds.describe_db_proxy_targets(DBProxyName=self.name)["Targets"]
        return found

    def health(self) -> tuple[str, str | None]:
        health = self.targets()[0]["TargetHealth"]
        return health["State"], health.get("Reason")

    def leads_to(self, instance: str) -> None:
        assert self.register(instance) == ""
        self.available()

    def available(self) -> None:
        eventually(lambda: self.health() == ("AVAILABLE", None), f"{self.name} is available", 20)

    def session(self, **options: Any) -> Any:
        return self.sandbox.session_at(self.endpoint, **options)


def numbers(sandbox: Sandbox, instance: dict[str, Any]) -> list[int]:
    with sandbox.session(instance) as sql:
        return [row[0] for row in sql.run("SELECT x FROM t ORDER BY x")]


@contextmanager
def fenced(sandbox: Sandbox, instance: dict[str, Any]) -> Iterator[None]:
    with sandbox.session(instance, "postgres") as sql:
        sql.run("ALTER DATABASE app ALLOW_CONNECTIONS false")
        try:
            yield
        finally:
            sql.run("ALTER DATABASE app ALLOW_CONNECTIONS true")


def test_who_writes_through_a_proxy_writes_to_its_database(
    sandbox: Sandbox, pool: Proxy, orders: dict[str, Any]
) -> None:
    pool.leads_to("orders")

    with pool.session() as sql:
        sql.run("INSERT INTO t VALUES (1)")

    assert 1 in numbers(sandbox, orders)
    name, _, rest = pool.endpoint.partition(".")
    assert name == pool.name
    assert rest.startswith("proxy-")
    assert pool.targets() == [
        {"RdsResourceId": "orders", "Endpoint": orders["Endpoint"]["Address"], "Port": 5432, "Type": "RDS_INSTANCE",
         "Role": "READ_WRITE", "TargetHealth": {"State": "AVAILABLE"}}
    ]  # fmt: skip


def test_a_proxy_shows_a_certificate_of_its_own_name(sandbox: Sandbox, pool: Proxy, orders: dict[str, Any]) -> None:
    """Whoever looks for another one at its address is told by TLS."""
    pool.leads_to("orders")
    address = sandbox.address(pool.endpoint)
    assert address
    assert address != sandbox.address(orders["Endpoint"]["Address"])
    trust = ssl.create_default_context(cafile=sandbox.ca_bundle)

    with socket.create_connection((address, 5432), 5) as raw:
        raw.sendall(SSL_REQUEST)
        assert raw.recv(1) == b"S"
        with pytest.raises(ssl.SSLCertVerificationError):
            trust.wrap_socket(raw, server_hostname="elsewhere.eu-central-1.rds.amazonaws.com")


def test_a_proxy_that_is_registered_elsewhere_leads_there_and_ends_its_sessions(
    sandbox: Sandbox, pool: Proxy, orders: dict[str, Any], successor: dict[str, Any]
) -> None:
    """A session that went on would write to the database that was left."""
    pool.leads_to("orders")
    with pool.session() as former:
        former.run("INSERT INTO t VALUES (10)")

        assert pool.deregister("orders") == ""
        with pytest.raises(NO_SESSION):
            former.run("INSERT INTO t VALUES (11)")
        pool.leads_to("successor")
        with pool.session() as sql:
            sql.run("INSERT INTO t VALUES (12)")

    assert 11 not in numbers(sandbox, orders) + numbers(sandbox, successor)
    assert 12 in numbers(sandbox, successor)
    assert 12 not in numbers(sandbox, orders)


def test_a_proxy_without_a_target_lets_nobody_in(sandbox: Sandbox, pool: Proxy, orders: dict[str, Any]) -> None:
    assert pool.targets() == []
    with pytest.raises(NO_SESSION), pool.session():
        pass
    pool.leads_to("orders")
    assert pool.deregister("orders") == ""
    assert pool.targets() == []
    with pytest.raises(NO_SESSION), pool.session():
        pass


def test_registering_takes_a_moment_in_which_nobody_gets_through(
    sandbox: Sandbox, pool: Proxy, orders: dict[str, Any]
) -> None:
    sandbox.do("working", held=True)
    sandbox.do("execution", running=True)
    try:
        assert pool.register("orders") == ""
        assert pool.health() == ("REGISTERING", None)
        with pytest.raises(NO_SESSION), pool.session():
            pass
        assert pool.health() == ("REGISTERING", None)
        sandbox.do("working", held=False)
        pool.available()
    finally:
        sandbox.do("execution", running=False)


def test_what_is_deregistered_while_it_is_being_registered_is_not_led_to(
    sandbox: Sandbox, pool: Proxy, orders: dict[str, Any], successor: dict[str, Any]
) -> None:
    assert pool.register("orders") == ""
    assert pool.deregister("orders") == ""
    pool.leads_to("successor")
    with pool.session() as sql:
        sandbox.do("cut", name="orders", how="reset")
        sandbox.do("restore", name="orders")
        sql.run("INSERT INTO t VALUES (20)")
    assert 20 in numbers(sandbox, successor)


def test_a_target_that_does_not_let_the_proxy_in_is_unavailable_until_it_does(
    sandbox: Sandbox, pool: Proxy, orders: dict[str, Any]
) -> None:
    """As a database behind a fence is; and as one is whose password has changed."""
    pool.leads_to("orders")

    with fenced(sandbox, orders):
        assert pool.health() == ("UNAVAILABLE", "AUTH_FAILURE")
    assert pool.health() == ("AVAILABLE", None)

    pool.log_in_as("another-password")
    # Often: the server may be gone before the driver has said goodbye.
    assert {pool.health() for _ in range(10)} == {("UNAVAILABLE", "AUTH_FAILURE")}
    pool.log_in_as(PASSWORD)
    assert pool.health() == ("AVAILABLE", None)


def test_a_proxy_without_credentials_is_told_so(sandbox: Sandbox, pool: Proxy, orders: dict[str, Any]) -> None:
    pool.leads_to("orders")
    for broken in ("no JSON", "{}", "[]"):
        pool.secrets.put_secret_value(SecretId=pool.secret, SecretString=broken)
        assert pool.health() == ("UNAVAILABLE", "AUTH_FAILURE")
    pool.secrets.delete_secret(SecretId=pool.secret, RecoveryWindowInDays=7)
    assert pool.health() == ("UNAVAILABLE", "AUTH_FAILURE")
    assert "registered credentials" in pool.targets()[0]["TargetHealth"]["Description"]


def test_a_proxy_follows_its_database(sandbox: Sandbox, pool: Proxy) -> None:
    """Through a failover, a server that was replaced, a stop and a rename: it is the same instance."""
    instance = made(sandbox, "wanderer")
    pool.leads_to("wanderer")

    def writes(number: int) -> None:
        with pool.session() as sql:
            sql.run(f"INSERT INTO t VALUES ({number})")

    def serves() -> bool:
        try:
            writes(0)
        except NO_SESSION:
            return False
        return True

    sandbox.do("crash", name="wanderer", down_seconds=2.0)
    assert pool.health() == ("UNAVAILABLE", "CONNECTION_FAILED")
    eventually(serves, "the proxy serves after a crash")
    sandbox.do("fail_over", name="wanderer")
    writes(1)
    with pool.session() as former:
        sandbox.do("replace", name="wanderer")
        with pytest.raises(NO_SESSION):
            former.run("INSERT INTO t VALUES (2)")
    writes(3)
    sandbox.rds.stop_db_instance(DBInstanceIdentifier="wanderer")
    eventually(lambda: sandbox.describe("wanderer")["DBInstanceStatus"] == "stopped", "stopped")
    sandbox.rds.start_db_instance(DBInstanceIdentifier="wanderer")
    sandbox.available("wanderer")
    writes(4)
    rename = {"DBInstanceIdentifier": "wanderer", "NewDBInstanceIdentifier": "settler", "ApplyImmediately": True}
    sandbox.rds.modify_db_instance(**rename)
    eventually(lambda: code_of(sandbox.rds.describe_db_instances, DBInstanceIdentifier="settler") == "", "renamed")
    instance = sandbox.available("settler")
    writes(5)

    assert [number for number in numbers(sandbox, instance) if number] == [1, 3, 4, 5]
    assert pool.targets()[0]["RdsResourceId"] == "settler"


def test_a_cut_network_is_cut_for_those_who_come_through_a_proxy(
    sandbox: Sandbox, pool: Proxy, orders: dict[str, Any]
) -> None:
    pool.leads_to("orders")
    with pool.session() as sql:
        sandbox.do("cut", name="orders", how="reset")
        try:
            with pytest.raises(NO_SESSION):
                sql.run("SELECT 1")
        finally:
            sandbox.do("restore", name="orders")
    with pool.session() as sql:
        assert sql.run("SELECT 1") == [[1]]


def test_the_target_goes_with_its_database(sandbox: Sandbox, pool: Proxy, orders: dict[str, Any]) -> None:
    made(sandbox, "doomed")
    pool.leads_to("doomed")
    sandbox.rds.delete_db_instance(DBInstanceIdentifier="doomed", SkipFinalSnapshot=True)
    sandbox.gone("doomed")
    assert pool.targets() == []
    with pytest.raises(NO_SESSION), pool.session():
        pass
    pool.leads_to("orders")


def test_a_switchover_takes_the_proxy_along_to_green(sandbox: Sandbox, pool: Proxy) -> None:
    """RDS user guide, "Using RDS Proxy with Blue/Green Deployments"."""
    made(sandbox, "blue")
    pool.leads_to("blue")
    identifier = create(sandbox, "blue", {})
    ready(sandbox, identifier)
    other = Proxy(sandbox, "POSTGRESQL")
    assert other.register("blue") == "InvalidDBInstanceState"
    with pool.session() as former:
        sandbox.rds.switchover_blue_green_deployment(BlueGreenDeploymentIdentifier=identifier)
        is_(sandbox, identifier, "SWITCHOVER_COMPLETED")
        with pytest.raises(NO_SESSION):
            former.run("INSERT INTO t VALUES (1)")
    with pool.session() as sql:
        sql.run("INSERT INTO t VALUES (2)")

    assert numbers(sandbox, sandbox.describe("blue")) == [2]
    assert numbers(sandbox, sandbox.describe("blue-old1")) == []
    assert pool.targets()[0]["RdsResourceId"] == "blue"
    assert pool.deregister("blue") == ""


def test_a_proxy_of_mysql_leads_to_mariadb(sandbox: Sandbox) -> None:
    """MariaDB speaks TLS itself, and its accounts can be locked."""
    need_mariadb()
    instance = sandbox.create("shop", Engine="mariadb")
    proxies = [Proxy(sandbox, "MYSQL"), Proxy(sandbox, "MYSQL")]
    for proxy in proxies:
        proxy.leads_to("shop")

    for name in (proxies[0].endpoint, proxies[1].endpoint, instance["Endpoint"]["Address"]):
        address = sandbox.address(name)
        assert address
        connection = pymysql.Connection(
            host=name, user="dba", password=PASSWORD, database="app", defer_connect=True, autocommit=True,
            ssl=ssl.create_default_context(cafile=sandbox.ca_bundle), read_timeout=20,
        )  # fmt: skip
        connection.connect(socket.create_connection((address, 3306), 10))
        with connection, connection.cursor() as cursor:
            cursor.execute("CREATE TABLE IF NOT EXISTS t (x INT)")
            cursor.execute("INSERT INTO t VALUES (1)")
            cursor.execute("SELECT count(*) FROM t")
            counted = cursor.fetchone()
    assert counted == (3,)

    proxies[0].log_in_as("another-password")
    assert proxies[0].health() == ("UNAVAILABLE", "AUTH_FAILURE")
    sandbox.do("server", name="shop", what="crash")
    assert proxies[1].health() == ("UNAVAILABLE", "CONNECTION_FAILED")
    sandbox.do("server", name="shop", what="start")
    assert proxies[1].health() == ("AVAILABLE", None)


@pytest.mark.parametrize(
    "operation",
    ["register_db_proxy_targets", "deregister_db_proxy_targets", "describe_db_proxy_targets",
     "describe_db_proxy_target_groups", "describe_db_proxies", "delete_db_proxy"],
)  # fmt: skip
def test_an_unknown_proxy(sandbox: Sandbox, operation: str) -> None:
    assert code_of(getattr(sandbox.rds, operation), DBProxyName="nobody") == "DBProxyNotFoundFault"


def test_an_unknown_proxy_has_no_target_group_to_modify(sandbox: Sandbox) -> None:
    modify = sandbox.rds.modify_db_proxy_target_group
    assert code_of(modify, DBProxyName="nobody", TargetGroupName="default") == "DBProxyNotFoundFault"


def test_a_proxy_has_the_target_group_default_and_no_other(
    sandbox: Sandbox, pool: Proxy, orders: dict[str, Any]
) -> None:
    unknown = "DBProxyTargetGroupNotFoundFault"
    assert pool.register("orders", TargetGroupName="other") == unknown
    assert pool.deregister("orders", TargetGroupName="other") == unknown
    look = sandbox.rds.describe_db_proxy_targets
    assert code_of(look, DBProxyName=pool.name, TargetGroupName="other") == unknown
    assert pool.register("orders", TargetGroupName="default") == ""


def test_what_is_not_registered(sandbox: Sandbox, pool: Proxy, orders: dict[str, Any], successor: Any) -> None:
    assert pool.register("nobody") == "DBInstanceNotFound"
    assert pool.register(DBClusterIdentifiers=["nobody"]) == "DBClusterNotFoundFault"
    assert pool.register() == "InvalidParameterCombination"
    assert pool.register("orders", "successor") == "InvalidParameterCombination"
    sandbox.create_cluster("flock")
    assert pool.register(DBClusterIdentifiers=["flock"]) == "InvalidAction"
    sandbox.add_member("flock", "sheep")
    assert pool.register("sheep") == "InvalidParameterCombination"
    assert Proxy(sandbox, "MYSQL").register("orders") == "InvalidParameterCombination"
    sandbox.replica("orders", "orders-r")
    assert pool.register("orders-r") == "InvalidDBInstanceState"
    sandbox.rds.stop_db_instance(DBInstanceIdentifier="successor")
    eventually(lambda: sandbox.describe("successor")["DBInstanceStatus"] == "stopped", "stopped")
    assert pool.register("successor") == "InvalidDBInstanceState"
    sandbox.rds.start_db_instance(DBInstanceIdentifier="successor")
    sandbox.available("successor")
    assert pool.targets() == []


def test_a_proxy_has_one_target(sandbox: Sandbox, pool: Proxy, orders: dict[str, Any], successor: Any) -> None:
    pool.leads_to("orders")
    assert pool.register("orders") == "DBProxyTargetAlreadyRegisteredFault"
    assert pool.register("successor") == "DBProxyTargetAlreadyRegisteredFault"
    assert [target["RdsResourceId"] for target in pool.targets()] == ["orders"]


def test_only_what_is_registered_is_deregistered(
    sandbox: Sandbox, pool: Proxy, orders: dict[str, Any], successor: Any
) -> None:
    assert pool.deregister("orders") == "DBProxyTargetNotFoundFault"
    pool.leads_to("orders")
    assert pool.deregister("successor") == "DBProxyTargetNotFoundFault"
    assert pool.deregister(DBClusterIdentifiers=["flock"]) == "DBProxyTargetNotFoundFault"
    assert pool.deregister() == "InvalidParameterCombination"
    pool.available()
    assert pool.deregister("ORDERS") == ""
    assert pool.deregister("orders") == "DBProxyTargetNotFoundFault"


@pytest.mark.parametrize(
    ("operation", "arguments"),
    [
        ("modify_db_proxy", {"DBProxyName": "x"}),
        ("create_db_proxy_endpoint", {"DBProxyName": "x", "DBProxyEndpointName": "y", "VpcSubnetIds": ["z"]}),
    ],
)
def test_what_the_sandboxs_proxies_do_not_have_is_refused_by_name(
    sandbox: Sandbox, operation: str, arguments: dict[str, Any]
) -> None:
    assert code_of(getattr(sandbox.rds, operation), **arguments) == "InvalidAction"


def test_an_engine_family_that_the_sandbox_has_no_engine_of(sandbox: Sandbox) -> None:
    wanted = {"DBProxyName": "x", "EngineFamily": "SQLSERVER", "RoleArn": f"arn:{'x' * 20}", "VpcSubnetIds": ["s"]}
    assert code_of(sandbox.rds.create_db_proxy, **wanted, Auth=[]) == "InvalidParameterValue"


def test_a_deleted_proxy_is_gone_with_its_name_and_leaves_the_database(
    sandbox: Sandbox, orders: dict[str, Any]
) -> None:
    proxy = Proxy(sandbox, "POSTGRESQL")
    proxy.leads_to("orders")
    address = sandbox.address(proxy.endpoint)
    assert address
    with proxy.session() as sql:
        sandbox.rds.delete_db_proxy(DBProxyName=proxy.name)
        with pytest.raises(NO_SESSION):
            sql.run("SELECT 1")
    assert sandbox.address(proxy.endpoint) is None
    with pytest.raises(OSError, match="refused"):
        socket.create_connection((address, 5432), 5).close()
    with sandbox.session(orders) as sql:
        assert sql.run("SELECT 1") == [[1]]


def test_proxies_and_target_groups_have_tags_of_their_own(sandbox: Sandbox) -> None:
    proxy = Proxy(sandbox, "POSTGRESQL", Tags=[{"Key": "team", "Value": "a"}])
    tags = sandbox.rds.list_tags_for_resource
    group = sandbox.rds.describe_db_proxy_target_groups(DBProxyName=proxy.name)["TargetGroups"][0]["TargetGroupArn"]
    sandbox.rds.add_tags_to_resource(ResourceName=group, Tags=[{"Key": "team", "Value": "b"}])

    assert tags(ResourceName=proxy.described["DBProxyArn"])["TagList"] == [{"Key": "team", "Value": "a"}]
    assert tags(ResourceName=group)["TagList"] == [{"Key": "team", "Value": "b"}]
    assert code_of(tags, ResourceName=f"{group}x") == "InvalidParameterValue"
