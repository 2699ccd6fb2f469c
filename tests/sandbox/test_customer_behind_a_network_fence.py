"""A customer's database that nobody but its applications logs in to: what it is given, and what keeps them out."""

from __future__ import annotations

import argparse
from typing import Any
from urllib.parse import quote

import pytest

from sandbox.demo import dialects, flow, world
from sandbox.demo.account import Account
from sandbox.demo.connection import hang_up, trusting
from sandbox.demo.count import recount
from sandbox.demo.writers import Ack
from tests.mariadb import need_mariadb
from tests.sandbox.rds_sandbox import REGION, Sandbox
from tests.sandbox.test_rds_security_groups import change

WORLDS = [
    *((engine, {}) for engine in dialects.FOREIGN),
    ("mysql", {"strategy": "snapshot"}),
    ("postgres", {"strategy": "snapshot", "fence": "network"}),
    ("mariadb", {"strategy": "snapshot", "fence": "network"}),
]


@pytest.fixture
def account(sandbox: Sandbox) -> Account:
    dns = sandbox.dns
    return Account(sandbox.endpoint_url, REGION, "ak", "sk", dns["host"], dns["port"], sandbox.ca_bundle)


@pytest.mark.parametrize(("engine", "options"), WORLDS)
def test_it_asks_for_the_fence_and_gives_no_login(
    sandbox: Sandbox, account: Account, engine: str, options: dict[str, Any]
) -> None:
    if engine in ("mysql", "mariadb"):
        need_mariadb()
    built = world.build(account, identifier=f"for-{engine}", engine=engine, rows=40, writers=1, **options)
    dialect = built.dialect

    found = sandbox.describe(built.identifier)
    tags = {tag["Key"]: tag["Value"] for tag in found["TagList"]}
    assert (tags["key-rotation:fence"], tags["key-rotation:strategy"]) == ("network", "snapshot")
    assert "key-rotation:login-secret" not in tags
    assert (built.fence, built.login_secret_arn) == ("network", None)
    secrets = sandbox.client("secretsmanager").list_secrets()["SecretList"]
    assert not [one["Name"] for one in secrets if one["Name"].startswith(f"{built.identifier}/rotation")]
    assert (found["Engine"], found["Endpoint"]["Port"]) == (engine, dialect.port)
    assert found["DBParameterGroups"][0]["DBParameterGroupName"] == f"{built.identifier}-settings"
    # Not the default one, which a restore gives to everybody.
    (group,) = sandbox.client("ec2").describe_security_groups(GroupIds=list(built.security_groups))["SecurityGroups"]
    assert [one["VpcSecurityGroupId"] for one in found["VpcSecurityGroups"]] == [group["GroupId"]]
    assert (group["GroupName"], len(group["IpPermissions"])) == (f"{built.identifier}-app", 1)

    def write(row: str, sequence: int) -> None:
        endpoint = built.finder(account).find()
        sql = dialect.connect(endpoint, built.databases[1], built.app, trusting(account.ca_bundle))
        try:
            sql.run(dialect.write("plain", row, 0, sequence))
            sql.run("COMMIT")
        finally:
            hang_up(sql)

    rows = [f"00000000-0000-0000-0000-{number:012}" for number in range(3)]
    write(rows[0], 1)
    isolation = sandbox.client("ec2").create_security_group(GroupName=f"closed-{engine}", Description="-")["GroupId"]
    for groups, is_open in (([isolation], False), (list(built.security_groups), True)):
        change(sandbox, built.identifier, *groups)
        if is_open:
            write(rows[2], 2)
        else:
            with pytest.raises(dialect.errors):
                write(rows[1], 2)

    acks = [Ack.from_line(f"1.0 {quote(built.databases[1], safe='')} {row} 0 plain") for row in (rows[0], rows[2])]
    count = recount(account, built, acks)
    assert (count.acknowledged, count.lost, count.duplicated) == (2, 0, 0), count.remarks
    assert set(count.databases) - dialect.own_databases == set(built.databases)


def test_who_can_be_logged_in_to_gives_a_login(sandbox: Sandbox, account: Account) -> None:
    built = world.build(account, identifier="plain", rows=40, writers=1, strategy="snapshot")

    tags = {tag["Key"]: tag["Value"] for tag in sandbox.describe("plain")["TagList"]}
    assert tags["key-rotation:login-secret"] == built.login_secret_arn
    assert "key-rotation:fence" not in tags
    assert (built.fence, built.security_groups) == (None, ())


# -- the command -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ("--engine oracle-se2", "by --strategy snapshot only"),
        ("--engine db2-se --strategy blue-green", "by --strategy snapshot only"),
        ("--engine mysql", "by --strategy blue-green or snapshot"),
        ("--fence network", "--strategy snapshot only"),
        ("--engine aurora-mysql --strategy blue-green", "by --strategy snapshot only"),
        ("--engine multi-az-postgres --strategy snapshot --fence network", "Multi-AZ DB cluster"),
        ("--engine sqlserver-se --strategy snapshot --connectivity proxy", "--connectivity proxy is of --engine"),
        ("--replicas 1 --strategy blue-green", "another --strategy than blue-green"),
        ("--replicas 1 --strategy snapshot --fence network", "of no --fence network"),
    ],
)
def test_what_there_is_no_way_for_is_refused(words: str, why: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        flow.main(words.split())
    assert why in capsys.readouterr().err


UNSEEN = ["internal-jobs", "logical-slots", "memory-tables", "unlogged-tables"]
"""What nobody looks for who does not log in, of any engine."""


@pytest.mark.parametrize(
    ("words", "fence", "risks"),
    [
        ("--strategy snapshot", None, ["downtime"]),
        ("--strategy snapshot --fence network", "network", ["downtime", *UNSEEN]),
        ("--engine oracle-se2 --strategy snapshot", "network", ["downtime", *UNSEEN]),
        ("--engine mysql --strategy snapshot", "network", ["downtime", *UNSEEN]),
        ("--engine aurora-mysql --strategy snapshot", "network", ["downtime", "reader-endpoint", *UNSEEN]),
        ("--engine mysql --strategy blue-green", None, []),
        ("--strategy snapshot --replicas 2", None, ["downtime", "replicas-away"]),
        ("--strategy catch-up --replicas 2", None, ["replicas-away"]),
    ],
)
def test_the_demo_accepts_the_risks_of_what_it_asks_for(words: str, fence: Any, risks: list[str]) -> None:
    options = flow._options(words.split())

    assert flow.accepted(options, argparse.Namespace(fence=fence)) == risks  # type: ignore[arg-type]
