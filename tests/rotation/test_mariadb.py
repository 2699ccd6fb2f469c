"""Rotations of a MariaDB database under live writes: to the target, and back when something is in the way."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from sandbox.client import SandboxProcess
from sandbox.demo import flow, writers
from sandbox.demo.count import recount
from tests.mariadb import need_mariadb
from tests.rotation.scenarios import is_settled, servers_of
from tests.rotation.support import Customer

pytestmark = pytest.mark.slow

BACK = {
    # As late as can be: the target is promoted by then, and all of it has to be undone.
    "m-denied": {"kind": "denied", "function": "update-connectivity", "call": "route53.ChangeResourceRecordSets"},
    # Nobody is left to undo it but recovery.
    "m-stopped": {"kind": "stopped", "function": "confirm-drained"},
}


@pytest.fixture(scope="module")
def customer() -> Iterator[Customer]:
    need_mariadb()
    with SandboxProcess(faults=[{"database": name, **fault} for name, fault in BACK.items()]) as sandbox:
        yield Customer.of(sandbox)


@pytest.mark.parametrize("strategy", ["read-replica", pytest.param("snapshot", marks=pytest.mark.proof)])
def test_nothing_is_lost_on_the_way_to_the_target(customer: Customer, tmp_path: Path, strategy: str) -> None:
    built = customer.build(f"m-by-{strategy}", rows=5000, engine="mariadb")
    request = {"Strategy": strategy, "Accept": flow.ACCEPTED.get(strategy, ())}

    outcome = flow.rotate_under_load(customer.account, built, flow.Load(acks=tmp_path / "acks"), request=request)

    found = outcome.report
    assert found.good, (found.status, outcome.run.error, outcome.run.cause, outcome.count.remarks, found.leftovers)
    assert found.engine == "mariadb"
    assert found.acknowledged > 300


@pytest.mark.parametrize("name", [pytest.param("m-denied", marks=pytest.mark.proof), "m-stopped"])
def test_nothing_is_lost_on_the_way_back(customer: Customer, tmp_path: Path, name: str) -> None:
    built = customer.build(name, rows=200, writers=3, engine="mariadb")
    load = writers.Writers(
        customer.account, databases=built.databases, login=built.app, acks=tmp_path / "acks", writers=3, rate=20,
        engine="mariadb", record=built.record,
    )  # fmt: skip
    try:
        customer.until(lambda: load.acknowledged() > 20)
        run = customer.rotate({"DBInstanceIdentifier": name, "GraceDays": 0})
        customer.until(lambda: is_settled(customer, name), 240)
        at_the_end = load.acknowledged()
        customer.until(lambda: load.acknowledged() > at_the_end + 20)
    finally:
        load.stop()

    assert run.status != "SUCCEEDED"
    count = recount(customer.account, built, writers.read_acks(tmp_path / "acks"))
    assert (count.lost, count.duplicated) == (0, 0), count.remarks
    assert count.endpoint.startswith(f"{name}.")
    customer.until(lambda: servers_of(customer, name) == [name])
