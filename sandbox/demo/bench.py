"""``python -m sandbox bench``: three ways to the same end, side by side, measured by the same clients.

With ``--strategies``: every strategy of every engine instead, which is another comparison.

* ``article``: replica under the new key, lag zero, promote, switch the name. No fence. How much does it lose?
* ``rotation``: this product.
* ``floor``: nothing but what no procedure can do without: turn clients away, promote, switch, wait until RDS has
  promoted, let them in. Through the same RDS API, TLS front and clients; no proof that nothing is lost, no journal,
  no roles.
"""

import argparse
import json
import secrets
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pg8000.exceptions
from rich.console import Console
from rich.table import Table

from sandbox import mariadb
from sandbox.demo import dialects, flow, inventory, progress, report, strategies, world, writers
from sandbox.demo.account import Account
from sandbox.demo.connection import Endpoint, Resolver, connect, quoted, trusting
from sandbox.demo.count import recount

ROWS = 20_000
STATES = tuple(state for states in progress.PHASES.values() for state in states)
AFTERWARDS_SECONDS = 3.0


@dataclass(frozen=True)
class Result:
    """One run; seconds as the clients measured them, ``states`` on the sandbox's clock (which does not jump then)."""

    way: str
    acknowledged: int
    lost: int
    duplicated: int
    write_outage_seconds: float
    states: Mapping[str, float] = field(default_factory=dict)


def article(account: Account, name: str, load: flow.Load) -> Result:
    """What is usually written about it: wait until the lag is zero, promote, switch."""
    built = world.build(account, identifier=name, rows=ROWS, writers=load.writers)
    return _by_hand("article", account, built, load, _promote_unfenced)


def floor(account: Account, name: str, load: flow.Load) -> Result:
    """The least that any procedure takes."""
    built = world.build(account, identifier=name, rows=ROWS, writers=load.writers)
    return _by_hand("floor", account, built, load, _promote_bluntly)


def rotation(account: Account, name: str, load: flow.Load) -> Result:
    """This product."""
    built = world.build(account, identifier=name, rows=ROWS, writers=load.writers)
    outcome = flow.rotate_well(account, built, load)
    found = outcome.report
    seconds: dict[str, float] = {}
    for visit in outcome.run.visits:
        if visit.name in STATES and visit.seconds is not None:
            seconds[visit.name] = seconds.get(visit.name, 0.0) + visit.seconds
    return Result(
        "rotation", found.acknowledged, found.lost, found.duplicated, found.write_outage_seconds or 0.0, seconds
    )


def _by_hand(
    way: str,
    account: Account,
    built: world.World,
    load: flow.Load,
    promote: Callable[[Account, world.World, Endpoint, Endpoint], None],
) -> Result:
    rds = account.client("rds")
    key, target = world.make_key(account, f"bench {built.identifier}"), f"{built.identifier}-target"
    world.once_rds_sees_the_key(
        account,
        rds.create_db_instance_read_replica,
        DBInstanceIdentifier=target,
        SourceDBInstanceIdentifier=built.identifier,
        KmsKeyId=key,
    )
    _let_time_pass(account, target)
    resolver = Resolver(account.dns_host, account.dns_port)
    source = built.finder(account).find()
    replica = resolver.resolve(
        rds.describe_db_instances(DBInstanceIdentifier=target)["DBInstances"][0]["Endpoint"]["Address"]
    )
    with TemporaryDirectory() as directory:
        path = Path(directory) / "acks"
        applications = writers.Writers(
            account, databases=built.databases, login=built.app, acks=path, writers=load.writers, rate=load.rate,
            record=built.record,
        )  # fmt: skip
        try:
            time.sleep(2.0)
            begin = time.monotonic()
            promote(account, built, source, replica)
            end = time.monotonic()
            time.sleep(world.RECORD_TTL_SECONDS + AFTERWARDS_SECONDS if way == "article" else AFTERWARDS_SECONDS)
        finally:
            applications.stop()
        acks = writers.read_acks(path)
    counted = recount(account, built, acks)
    outage = report.longest_gap([ack.at for ack in acks], begin, end)
    return Result(way, counted.acknowledged, counted.lost, counted.duplicated, outage)


def _let_time_pass(account: Account, target: str) -> None:
    """A replica is made in minutes of the sandbox's clock, which moves while an execution waits."""
    rds = account.client("rds")
    for _ in range(40):
        if rds.describe_db_instances(DBInstanceIdentifier=target)["DBInstances"][0]["DBInstanceStatus"] == "available":
            return
        _wait_in_an_execution(account, 60)
    raise TimeoutError(f"{target} does not become available")


def _wait_in_an_execution(account: Account, seconds: int) -> None:
    iam, states, name = account.client("iam"), account.client("stepfunctions"), f"bench-wait-{secrets.token_hex(3)}"
    trust = {"Effect": "Allow", "Principal": {"Service": "states.amazonaws.com"}, "Action": "sts:AssumeRole"}
    role = iam.create_role(
        RoleName=name, AssumeRolePolicyDocument=json.dumps({"Version": "2012-10-17", "Statement": [trust]})
    )["Role"]["Arn"]
    wait = {"StartAt": "Wait", "States": {"Wait": {"Type": "Wait", "Seconds": seconds, "End": True}}}
    machine = states.create_state_machine(name=name, definition=json.dumps(wait), roleArn=role)["stateMachineArn"]
    arn = states.start_execution(stateMachineArn=machine, name=name, input="{}")["executionArn"]
    progress.follow(account, arn)
    states.delete_state_machine(stateMachineArn=machine)
    iam.delete_role(RoleName=name)


def _promote_unfenced(account: Account, built: world.World, source: Endpoint, replica: Endpoint) -> None:
    account.client("rds").promote_read_replica(DBInstanceIdentifier=f"{built.identifier}-target")
    _wait_until_promoted(account, built, replica)
    _switch(account, built, replica)


def _promote_bluntly(account: Account, built: world.World, source: Endpoint, replica: Endpoint) -> None:
    with closing(connect(source, "postgres", built.master, trusting(account.ca_bundle))) as sql:
        for database in built.databases:
            sql.run(f"ALTER DATABASE {quoted(database)} ALLOW_CONNECTIONS false")
        sql.run(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{built.app.user}'")
    account.client("rds").promote_read_replica(DBInstanceIdentifier=f"{built.identifier}-target")
    _switch(account, built, replica)
    _wait_until_rds_says_so(account, built)
    with closing(connect(replica, "postgres", built.master, trusting(account.ca_bundle))) as sql:
        for database in built.databases:
            sql.run(f"ALTER DATABASE {quoted(database)} ALLOW_CONNECTIONS true")


def _wait_until_promoted(account: Account, built: world.World, replica: Endpoint) -> None:
    give_up_at = time.monotonic() + 120
    while time.monotonic() < give_up_at:
        try:
            with closing(connect(replica, "postgres", built.master, trusting(account.ca_bundle))) as sql:
                while sql.run("SELECT pg_is_in_recovery()") == [[True]]:
                    time.sleep(0.01)
                return
        except (OSError, pg8000.exceptions.Error):
            time.sleep(0.01)
    raise TimeoutError("the replica was not promoted")


def _wait_until_rds_says_so(account: Account, built: world.World) -> None:
    """A promotion is over when RDS says so: until then it may restart the server under whoever was let in."""
    rds, target, give_up_at = account.client("rds"), f"{built.identifier}-target", time.monotonic() + 120
    while time.monotonic() < give_up_at:
        instance = rds.describe_db_instances(DBInstanceIdentifier=target)["DBInstances"][0]
        if instance["DBInstanceStatus"] == "available" and not instance.get("ReadReplicaSourceDBInstanceIdentifier"):
            return
        time.sleep(0.05)
    raise TimeoutError("RDS did not finish the promotion")


def _switch(account: Account, built: world.World, replica: Endpoint) -> None:
    record = {
        "Name": f"{built.record}.", "Type": "CNAME", "TTL": world.RECORD_TTL_SECONDS,
        "ResourceRecords": [{"Value": replica.name}],
    }  # fmt: skip
    account.client("route53").change_resource_record_sets(
        HostedZoneId=built.zone_id, ChangeBatch={"Changes": [{"Action": "UPSERT", "ResourceRecordSet": record}]}
    )


def show(console: Console, cold: Result, results: Sequence[Result]) -> None:
    columns = ("way", "runs", "median", "min", "max", "acked", "lost", "twice")
    table = Table(*columns, title="Write outage in seconds", title_justify="left")
    for way, of_it in (("rotation, cold", [cold]), *_by_way(results).items()):
        outages = [one.write_outage_seconds for one in of_it]
        # The article leaves both sides open: that there is no outage is what loses the writes.
        figures = ["-"] * 3 if way == "article" else [f"{f(outages):.2f}" for f in (statistics.median, min, max)]
        table.add_row(
            way, str(len(of_it)), *figures,
            f"{sum(one.acknowledged for one in of_it):,}", str(sum(one.lost for one in of_it)),
            str(sum(one.duplicated for one in of_it)),
        )  # fmt: skip
    console.print(table)
    states = Table("state", "median (s)", "max (s)", title="Where the time goes (rotation)", title_justify="left")
    rotations = _by_way(results).get("rotation", [])
    for state in STATES:
        seconds = [one.states[state] for one in rotations if state in one.states]
        if seconds:
            states.add_row(state, f"{statistics.median(seconds):.2f}", f"{max(seconds):.2f}")
    console.print(states)


def _by_way(results: Sequence[Result]) -> dict[str, list[Result]]:
    found: dict[str, list[Result]] = {}
    for one in results:
        found.setdefault(one.way, []).append(one)
    return found


def main(argv: Sequence[str]) -> int:
    """0 only if no rotation lost or duplicated anything.

    Raises:
        RuntimeError: a rotation failed, and there is nothing to compare.
    """
    parser = argparse.ArgumentParser(prog="python -m sandbox bench", description=__doc__)
    parser.add_argument(
        "--runs", type=int, default=3, help="of each way; one more rotation comes first, and is not counted"
    )
    parser.add_argument("--writers", type=int, default=6)
    parser.add_argument("--rate", type=float, default=flow.DEFAULT_RATE)
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--strategies", action="store_true", help="compare the strategies, of every engine there is")
    parser.add_argument("--document", type=Path, help="write docs/strategies.md (with --strategies)")
    options = parser.parse_args(argv)
    if options.document and not options.strategies:
        parser.error("--document needs --strategies")
    from sandbox.client import SandboxProcess

    console, load = Console(), flow.Load(writers=options.writers, rate=options.rate)
    watcher = flow.Watcher(console)
    results: list[Result] = []
    with SandboxProcess() as sandbox:
        account = Account.from_facts(sandbox.facts)
        if options.strategies:
            return _compare_strategies(account, load, options, console, watcher)
        watcher.say("the first rotation, cold")
        cold = rotation(account, "cold", load)
        world.remove(account, "cold")
        ways: tuple[tuple[str, Callable[[Account, str, flow.Load], Result]], ...] = (
            ("rotation", rotation), ("floor", floor), ("article", article)
        )  # fmt: skip
        for at in range(options.runs):
            for name, way in ways:
                results.append(way(account, f"{name}-{at}", load))
                world.remove(account, f"{name}-{at}")
                watcher.say(f"{name} {at + 1}: {results[-1].write_outage_seconds:.2f} s, {results[-1].lost} lost")
    show(console, cold, results)
    if options.json:
        found: dict[str, Any] = {"cold": asdict(cold), "results": [asdict(one) for one in results]}
        options.json.write_text(json.dumps(found, indent=2) + "\n")
    return 1 if any(one.lost or one.duplicated for one in (cold, *results) if one.way == "rotation") else 0


def _compare_strategies(
    account: Account, load: flow.Load, options: argparse.Namespace, console: Console, watcher: flow.Watcher
) -> int:
    engines = {*dialects.ENGINES, *dialects.CLUSTERS}
    if not mariadb.is_installed():
        console.print(f"Without MariaDB: {mariadb.HOW_TO_INSTALL}.", highlight=False)
        if options.document:
            return 2  # half a table would look like a whole one
        engines -= set(mariadb.SERVES)
    rows = strategies.measure(account, load, options.runs, watcher, engines)
    strategies.show(console, rows)
    if options.json:
        found = {row.subject.name: [one.to_json() for one in row.reports] for row in rows}
        options.json.write_text(json.dumps(inventory.jsonable(found), indent=2) + "\n")
    if options.document:
        options.document.write_text(strategies.document(rows, load))
    return 0
