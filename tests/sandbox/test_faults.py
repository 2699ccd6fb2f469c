"""Faults strike where they were told to, and nowhere else: a sweep over places proves nothing if they miss."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import boto3
import pytest
from moto import mock_aws
from moto.core.responses import PaginatedResult
from moto.rds.exceptions import DBInstanceNotFoundError
from moto.rds.responses import RDSResponse

from sandbox.faults import Delivery, Fault, FaultInjector, FaultInvalid, read_faults
from sandbox.lambda_runtime import Fault as Death
from sandbox.lambda_runtime import Invocation

PROMOTE = "rds.PromoteReadReplica"
ARN = "arn:aws:states:eu-central-1:123456789012:execution:rotate-key:one"
DONE = Invocation({}, False, "")


class Sandbox:
    """An injector without a sandbox around it: what is called is noted."""

    def __init__(self, *faults: dict[str, Any], crossings: Path | None = None) -> None:
        self.stopped: list[str] = []
        self.unheard: list[str] = []
        self.deaths: list[Any] = []
        self.answer = DONE
        nothing: Any = None
        self.injector = FaultInjector(
            [Fault.from_json(one) for one in faults],
            runtime=nothing,
            rds=nothing,
            administrator=lambda service: self,
            lose_event=self.unheard.append,
            name_prefix="rotation",
            crossings=crossings,
        )

    def stop_execution(self, executionArn: str, **_: str) -> None:
        """Of its own administrator."""
        self.stopped.append(executionArn)

    def invoke(self, function: str, **event: Any) -> None:
        def once(death: Any) -> Invocation:
            self.deaths.append(death)
            return self.answer

        assert self.injector.deliver(f"rotation-{function}", event, "Root=1-2-3;Sampled=0", once) == self.answer

    def due(
        self,
        call: str,
        function: str = "promote",
        database: str = "orders",
        *,
        reason: str | None = None,
        rehearsal: bool = False,
        arn: str = ARN,
    ) -> int:
        event = {"execution_arn": arn, "request": {} if reason is None else {"Reason": reason}}
        delivery = Delivery(function, database, event, rehearsal, lambda: None)
        return len(self.injector._due(delivery, call))


def rotation(database: str = "orders", arn: str = ARN) -> dict[str, Any]:
    return {"execution_arn": arn, "request": {"DBInstanceIdentifier": database}, "plan": {"base_name": database}}


@pytest.mark.parametrize(
    "given, complaint",
    [
        ({"kind": "surprise", "call": "rds.PromoteReadReplica"}, "no kind"),
        ({"kind": "denied"}, "where"),
        ({"kind": "denied", "place": "here"}, "unknown field place"),
        ({"kind": "twice", "function": "promote", "statement": 1}, "at a statement"),
        ({"kind": "killed", "call": "rds.PromoteReadReplica", "statement": 1}, "at a statement"),
        ({"kind": "killed", "function": "promote", "shape": "SELECT ?"}, "which statement"),
        ({"kind": "twice", "function": "promote", "call": "rds.PromoteReadReplica"}, "invocation"),
        ({"kind": "answered", "call": "kms.DescribeKey"}, "answer of RDS"),
        ({"kind": "answered", "function": "preflight"}, "answer of RDS"),
    ],
)
def test_a_fault_that_means_nothing_is_refused(given: dict[str, Any], complaint: str) -> None:
    """A fault that never strikes would pass for a rotation that survives it."""
    with pytest.raises(FaultInvalid, match=complaint):
        Fault.from_json(given)


def test_faults_come_from_a_file_or_as_text(tmp_path: Path) -> None:
    given = [{"kind": "throttle", "function": "promote", "call": "rds.PromoteReadReplica"}]
    file = tmp_path / "faults.json"
    file.write_text(json.dumps(given))

    (from_text,), (from_file,) = read_faults(json.dumps(given)), read_faults(str(file))

    assert from_text == from_file
    assert (from_text.times, from_text.code) == (3, "ThrottlingException")
    assert Fault.from_json(from_text.to_json()) == from_text


@pytest.mark.parametrize(
    "options, struck",
    [
        ({}, [1, 0, 0, 0]),
        ({"nth": 2}, [0, 1, 0, 0]),
        ({"nth": 2, "times": 2}, [0, 1, 1, 0]),
        ({"nth": 3, "onwards": True}, [0, 0, 1, 1]),
    ],
)
def test_which_occurrence(options: dict[str, Any], struck: list[int]) -> None:
    sandbox = Sandbox({"kind": "error-before", "call": "rds.PromoteReadReplica", **options})

    assert [sandbox.due("rds.PromoteReadReplica") for _ in struck] == struck


def test_only_the_place_counts() -> None:
    place = {"function": "promote", "call": "rds.PromoteReadReplica", "database": "orders"}
    sandbox = Sandbox({"kind": "error-before", **place})

    assert sandbox.due("rds.DescribeDBInstances") == 0
    assert sandbox.due("rds.PromoteReadReplica", function="verify") == 0
    assert sandbox.due("rds.PromoteReadReplica", database="payments") == 0
    assert sandbox.due("rds.PromoteReadReplica", rehearsal=True) == 0
    assert sandbox.due("rds.PromoteReadReplica") == 1


def test_an_execution_is_known_by_the_reason_that_it_was_given() -> None:
    """Many executions on one database, each with something else wrong."""
    sandbox = Sandbox({"kind": "error-before", "call": "rds.PromoteReadReplica", "reason": "an audit"})

    assert sandbox.due("rds.PromoteReadReplica") == 0
    assert sandbox.due("rds.PromoteReadReplica", reason="another audit") == 0
    assert sandbox.due("rds.PromoteReadReplica", reason="an audit") == 1


def test_a_recovery_is_known_by_what_it_recovers() -> None:
    """Its input names an execution, not a database."""
    sandbox = Sandbox({"kind": "stopped", "function": "start-rotation", "nth": 2, "database": "orders"})
    sandbox.invoke("start-rotation", execution_arn=ARN, request={"DBInstanceIdentifier": "orders"})
    sandbox.invoke("start-rotation", execution_arn="another", request={"DBInstanceIdentifier": "payments"})
    assert sandbox.stopped == []

    sandbox.invoke("start-rotation", execution_arn="recovery", request={"Recover": ARN})

    assert sandbox.stopped == ["recovery"]


def test_a_rehearsal_is_no_invocation_unless_asked_for() -> None:
    sandbox = Sandbox({"kind": "stopped", "function": "promote"})

    sandbox.invoke("promote", prove_reach=rotation())
    assert sandbox.stopped == []
    sandbox.invoke("promote", **rotation())

    assert sandbox.stopped == [ARN]


@pytest.mark.parametrize(("unheard", "lost"), [(False, []), (True, [ARN])])
def test_that_an_execution_was_stopped_is_not_heard(unheard: bool, lost: list[str]) -> None:
    sandbox = Sandbox({"kind": "stopped", "function": "promote", "unheard": unheard})

    sandbox.invoke("promote", **rotation())

    assert (sandbox.stopped, sandbox.unheard) == ([ARN], lost)


def test_what_is_overtaken_waits_for_an_answer() -> None:
    """Not for a time: on a busy machine what was to come first would come second."""
    stopped = {"kind": "stopped", "function": "promote", "until": "rollback", "seconds": 60, "database": "orders"}
    sandbox = Sandbox(stopped)
    sandbox.invoke("rollback", prove_reach=rotation())  # moments before the fence, and nobody's answer
    sandbox.deaths.clear()
    overtaken = threading.Thread(target=lambda: sandbox.invoke("promote", **rotation()), daemon=True)
    overtaken.start()
    while not sandbox.stopped:
        time.sleep(0.01)

    sandbox.invoke("rollback", **rotation("payments"))
    overtaken.join(0.2)
    assert len(sandbox.deaths) == 1
    sandbox.invoke("rollback", **rotation())
    overtaken.join(60)

    assert len(sandbox.deaths) == 3


def test_who_is_stalled_waits_on_the_sandboxs_clock() -> None:
    slept: list[float] = []
    sandbox = Sandbox({"kind": "stalled", "function": "promote", "seconds": 3600})
    clock: Any = SimpleNamespace(sleep=slept.append, execution_thread=lambda inherited: nullcontext())
    sandbox.injector._rds = SimpleNamespace(context=SimpleNamespace(clock=clock))  # type: ignore[assignment]

    sandbox.invoke("promote", **rotation())

    assert slept == [3600]


def test_how_a_process_dies() -> None:
    sandbox = Sandbox({"kind": "killed", "function": "promote", "statement": 4, "when": "after"})

    sandbox.invoke("promote", **rotation())
    sandbox.invoke("promote", **rotation())

    assert [death and (death.at, death.nth, death.when) for death in sandbox.deaths] == [
        ("statement", 4, "after"),
        None,
    ]


def test_delivered_one_after_the_other() -> None:
    sandbox = Sandbox({"kind": "twice", "function": "promote", "when": "after"})

    sandbox.invoke("promote", **rotation())

    assert len(sandbox.deaths) == 2


def test_a_statement_of_a_shape_is_waited_for_in_every_invocation() -> None:
    """Which visit of a function that is polled comes to it is not the same in every rotation."""
    place = {"function": "promote", "statement": 2, "shape": "SELECT ?"}
    sandbox = Sandbox({"kind": "killed", "when": "after", **place})

    sandbox.invoke("promote")
    sandbox.answer = replace(DONE, struck=True)
    sandbox.invoke("promote")
    sandbox.invoke("promote")

    armed = Death("statement", 2, "after", "kill", "SELECT ?")
    assert sandbox.deaths == [armed, armed, None]


@pytest.mark.parametrize(
    ("kind", "what", "when"),
    [("error-before", "lose", "before"), ("lost-answer", "lose", "after"), ("stopped", "report", "before")],
)
def test_what_a_statement_can_meet(kind: str, what: str, when: str) -> None:
    sandbox = Sandbox({"kind": kind, "function": "promote", "statement": 1})

    sandbox.invoke("promote", execution_arn=ARN)
    for death in sandbox.deaths:
        death.reached()

    assert sandbox.deaths == [Death("statement", 1, when, what)]  # type: ignore[arg-type]
    assert sandbox.stopped == ([ARN] if kind == "stopped" else [])


def test_what_was_denied_for_good_is_repaired_by_whoever_starts_anew() -> None:
    """Not by a recovery, which nobody has to have looked at."""
    sandbox = Sandbox({"kind": "denied", "function": "promote", "call": PROMOTE, "database": "orders"})

    def started(arn: str, **request: str) -> int:
        sandbox.invoke(
            "start-rotation", **rotation(arn=arn) | {"request": {"DBInstanceIdentifier": "orders", **request}}
        )
        return sandbox.due(PROMOTE, arn=arn)

    assert [started(ARN), started("arn:recovery", Recover=ARN), started(ARN), started("arn:anew")] == [1, 1, 1, 0]


def test_crossings_are_noted_in_their_order_and_rehearsals_are_not(tmp_path: Path) -> None:
    sandbox = Sandbox(crossings=tmp_path / "crossings")
    sandbox.answer = replace(DONE, statements=("BEGIN", "COMMIT"))

    sandbox.invoke("promote", **rotation())
    sandbox.invoke("promote", prove_reach=rotation())

    [line] = (tmp_path / "crossings").read_text().splitlines()
    assert json.loads(line) == {
        "function": "promote", "database": "orders", "calls": [], "statements": ["BEGIN", "COMMIT"],
    }  # fmt: skip


@pytest.fixture
def describing(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """An SDK client whose calls come from a function that is being served, in an RDS of two instances."""

    def describe_db_instances(response: Any) -> PaginatedResult:
        if name := response.params.get("DBInstanceIdentifier"):
            raise DBInstanceNotFoundError(name)
        return PaginatedResult({"DBInstances": [{"DBInstanceIdentifier": name} for name in ("orders", "payments")]})

    class Books:
        create_db_instance_read_replica = promote_read_replica = _promote = None

    answers = {
        "rds.DescribeDBInstances": {"DBInstances": {"DBClusterIdentifier": "shop"}},
        "rds.DescribeDBClusters": {"DBClusters": [{"DBClusterIdentifier": "shop"}]},
    }
    world: Any = SimpleNamespace(backend=Books())
    injector = FaultInjector(
        [Fault.from_json({"kind": "answered", "call": call, "parameters": what}) for call, what in answers.items()],
        runtime=world,
        rds=world,
        administrator=print,
        lose_event=print,
        name_prefix="rotation",
    )
    injector._deliveries["1-2-3"] = Delivery("preflight", "orders", {}, False, lambda: None)
    monkeypatch.setattr(RDSResponse, "describe_db_instances", describe_db_instances)
    with mock_aws():
        rds = boto3.client("rds", "eu-central-1", aws_access_key_id="none", aws_secret_access_key="none")
        rds.meta.events.register(
            "before-sign.rds", lambda request, **_: request.headers.add_header("X-Amzn-Trace-Id", "Root=1-2-3")
        )
        injector.install()
        try:
            yield rds
        finally:
            injector.uninstall()


def test_an_answer_shows_what_this_sandbox_does_not_have(describing: Any) -> None:
    instances = describing.describe_db_instances()["DBInstances"]
    clusters = describing.describe_db_clusters()["DBClusters"]

    assert [(one["DBInstanceIdentifier"], one["DBClusterIdentifier"]) for one in instances] == [
        ("orders", "shop"),
        ("payments", "shop"),
    ]
    assert [one["DBClusterIdentifier"] for one in clusters] == ["shop"]
    assert describing.describe_db_subnet_groups()["DBSubnetGroups"] == []  # nothing was said about them


def test_a_refusal_stays_a_refusal(describing: Any) -> None:
    with pytest.raises(describing.exceptions.DBInstanceNotFoundFault):
        describing.describe_db_instances(DBInstanceIdentifier="nobody")
