"""Faults: what goes wrong, and where. Given at the start of a sandbox; nothing changes them while it runs.

A fault is a *kind* at a *place*. A place is the n-th time that something happens:

* ``call``: an AWS call, ``rds.PromoteReadReplica``; by ``function`` if that is given, by anybody's function if not
* ``function`` alone: an invocation of that function (``promote``), by the state machine or whoever
* ``function`` and ``statement``: the n-th SQL statement of one invocation; with a ``shape``, the n-th of that shape
  in the first invocation that has so many

``database`` limits it to the rotations of one database (its base name), so that many scenarios share a sandbox;
``reason`` to the executions whose input gives this ``Reason``, so that many of them share a database. Invocations
that only prove reach, moments before the fence, do not count unless ``rehearsal`` says so.

====================  ==================================================================================================
``error-before``      nothing happens; the caller gets ``code`` (``ServiceUnavailable``; SQL: the connection is lost)
``lost-answer``       it happens, and the connection closes before the answer
``throttle``          as ``error-before`` with ``ThrottlingException``; three times in a row
``denied``            as ``error-before`` with AWS's refusal; from then on, until somebody starts a rotation anew
``killed``            the function's process dies ``when``: before it, or after it and before the answer
``twice``             an invocation is delivered twice: at the same time, or (``when: after``) one after the other
``stopped``           StopExecution, as by an operator; the function lives on, after ``seconds`` of sleep, to its end;
                      ``unheard``: EventBridge loses the event that tells of it; ``until``: it sleeps until this
                      function of the same database has answered once, ``seconds`` at most
``stalled``           nobody carries the execution on for ``seconds`` of the sandbox's clock
``held``              it takes ``seconds`` longer
``cut``               the network to ``side`` (``source``, ``target``) is gone for ``seconds``; ``how`` as TlsFront's
``crash``             the server of ``side`` is killed, and started again ``seconds`` later
``failover``          as ``crash``; it comes back at another address, as after a Multi-AZ failover by RDS; of a cluster
                      a reader takes the writer's place
``storage-full``      RDS calls ``side`` ``storage-full`` and stops its server, until somebody gives it more storage
``receiver-killed``   the target's WAL receiver is killed; it begins anew
``cut-replication``   the network from the target to the source is gone; for ``seconds``, or for good where they are 0
``slot-lost``         the source no longer keeps WAL for the target, which can never catch up again
``pause-replay``      the target receives, and does not apply; for ``seconds``, or for good where they are 0
``reload``            the server of ``side`` reads its settings again; a session that sleeps while it starts wakes up
``replaced``          a copy takes the place of the source, as after a restore; the target follows the one before,
                      which goes on for a while
``led-back``          somebody opens the source and leads the record to it, as if it were to be used again
``altered``           RDS makes the replica as if these ``parameters`` had been given (null: had been left out)
``answered``          RDS's answer has these ``parameters`` as members; an object, in every element of a list
``promotion-fails``   RDS accepts the promotion; then the instance is ``failed``, and still a replica
``promotion-ignored`` RDS accepts the promotion; then the instance is ``available``, and still a replica
====================  ==================================================================================================

The SDK makes up to three attempts of a call by itself: ``times: 3`` is what its caller gets to see.
"""

from __future__ import annotations

import json
import logging
import re
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import flask
from moto.core.exceptions import ServiceException
from moto.core.parse import XFormedDict
from moto.core.responses import ActionResult, BaseResponse

from sandbox.lambda_runtime import Fault as Death
from sandbox.lambda_runtime import Faults, Invocation

if TYPE_CHECKING:
    from sandbox.lambda_runtime import LambdaRuntime
    from sandbox.rds.instances import Instances
    from sandbox.rds.resources import Instance
    from sandbox.rds.service import RdsService

LOG = logging.getLogger("sandbox.faults")

Kind = Literal[
    "error-before", "lost-answer", "throttle", "denied", "killed", "twice", "stopped", "stalled", "held", "cut",
    "crash", "failover", "storage-full", "receiver-killed", "cut-replication", "slot-lost", "pause-replay", "reload",
    "replaced", "led-back", "altered", "answered", "promotion-fails", "promotion-ignored",
]  # fmt: skip
KINDS: tuple[str, ...] = get_args(Kind)
SDK_ATTEMPTS = 3
REHEARSAL = "prove_reach"
STOPPED_BY_HAND = {"error": "StoppedByHand", "cause": "somebody pressed Stop"}

_STATUS = {"ServiceUnavailable": 503, "ThrottlingException": 400, "AccessDenied": 403, "TooManyRequestsException": 429}
_IMPLIED_CALLS = {
    "altered": "rds.CreateDBInstanceReadReplica",
    "promotion-fails": "rds.PromoteReadReplica",
    "promotion-ignored": "rds.PromoteReadReplica",
}
_FOLLOWED = (*_IMPLIED_CALLS, "answered")
"""Kinds that the call itself heeds while it is served."""
_AT_STATEMENTS = (
    "killed", "error-before", "lost-answer", "stopped", "held", "cut", "crash", "failover", "storage-full",
    "receiver-killed", "cut-replication", "slot-lost", "pause-replay",
)  # fmt: skip
_ROOT = re.compile(r"Root=([^;]+)")
_SCOPE = re.compile(r"Credential=[^/]+/\d+/[^/]*/([^/]+)/aws4_request")
_SERVICES = {"monitoring": "cloudwatch", "email": "ses", "tagging": "resourcegroupstaggingapi"}


class FaultInvalid(ValueError):
    """A fault that cannot be; the message says what is wrong with it."""


@dataclass(frozen=True)
class Fault:
    """One fault. ``nth`` counts from 1; ``times`` in a row from there, or for good if ``onwards``."""

    kind: Kind
    function: str | None = None
    call: str | None = None
    statement: int | None = None
    shape: str | None = None
    database: str | None = None
    reason: str | None = None
    nth: int = 1
    times: int = 1
    onwards: bool = False
    rehearsal: bool = False
    unheard: bool = False
    until: str | None = None
    code: str = ""
    message: str = "Injected."
    when: Literal["before", "after"] = "before"
    seconds: float = 0.0
    side: Literal["source", "target"] = "target"
    how: Literal["silence", "reset"] = "silence"
    parameters: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_json(cls, given: Mapping[str, Any]) -> Fault:
        """Raises: FaultInvalid."""
        unknown = sorted(set(given) - {one.name for one in fields(cls)})
        if unknown:
            raise FaultInvalid(f"unknown field {', '.join(unknown)} of a fault")
        kind = given.get("kind")
        if kind not in KINDS:
            raise FaultInvalid(f"{kind!r} is no kind of fault; there are {', '.join(KINDS)}")
        usual: dict[str, Any] = {}
        if kind in _IMPLIED_CALLS:
            # Not only the first call: a new key is refused a few times before RDS sees it.
            usual |= {"call": _IMPLIED_CALLS[kind], "onwards": True}
        if kind == "throttle":
            usual |= {"times": SDK_ATTEMPTS, "code": "ThrottlingException"}
        if kind == "answered":
            usual["onwards"] = True
        if kind == "denied":
            usual |= {"onwards": True, "code": "AccessDenied"}
        if kind == "error-before":
            usual["code"] = "ServiceUnavailable"
        fault = cls(**{**usual, **given})
        if fault.function is None and fault.call is None:
            raise FaultInvalid(f"{kind} where? A fault needs a function, a call, or both")
        if fault.statement is not None and (kind not in _AT_STATEMENTS or fault.function is None or fault.call):
            raise FaultInvalid(f"at a statement of a function there can be {', '.join(_AT_STATEMENTS)}")
        if fault.shape is not None and fault.statement is None:
            raise FaultInvalid("which statement of this shape?")
        if kind == "answered" and not (fault.call or "").startswith("rds."):
            raise FaultInvalid("only an answer of RDS can be altered")
        if kind == "twice" and fault.call is not None:
            raise FaultInvalid("it is an invocation that is delivered twice, not a call")
        return fault

    def to_json(self) -> dict[str, Any]:
        """Only what differs from the defaults of a fault without a kind."""
        return {
            one.name: getattr(self, one.name)
            for one in fields(self)
            if one.name == "kind" or getattr(self, one.name) != getattr(_NONE, one.name)
        }


_NONE = Fault("held")


def read_faults(given: str) -> list[Fault]:
    """Faults from a JSON list, or from the file of that name. Raises: FaultInvalid."""
    text = given if given.lstrip().startswith("[") else Path(given).read_text()
    try:
        listed = json.loads(text)
    except json.JSONDecodeError as error:
        raise FaultInvalid(f"faults are a JSON list: {error}") from None
    if not isinstance(listed, list):
        raise FaultInvalid("faults are a JSON list")
    return [Fault.from_json(one) for one in listed]


@dataclass(frozen=True)
class Delivery:
    """One invocation that is being served: which function, for which database, and how to end its process."""

    function: str
    database: str | None
    event: Mapping[str, Any]
    rehearsal: bool
    end: Callable[[], None]
    calls: list[str] = field(default_factory=list)
    """Its AWS calls so far."""

    @property
    def request(self) -> Mapping[str, Any]:
        return self.event.get("request") or {}

    @property
    def execution(self) -> str:
        return str(self.event.get("execution_arn"))

    @property
    def reason(self) -> str | None:
        given = self.request.get("Reason")
        return None if given is None else str(given)


class _Refusal(ServiceException):  # type: ignore[misc]
    def __init__(self, code: str, message: str) -> None:
        super().__init__(code, message)
        self.code, self.status = code, _STATUS.get(code, 400)


_ORDER: ContextVar[Fault | None] = ContextVar("order", default=None)


class FaultInjector(Faults):
    """Lets the faults of one sandbox strike; ``install`` once, after the authorizer and the trail."""

    def __init__(
        self,
        faults: Iterable[Fault],
        *,
        runtime: LambdaRuntime,
        rds: RdsService,
        administrator: Callable[[str], Any],
        lose_event: Callable[[str], None],
        name_prefix: str,
        crossings: Path | None = None,
    ) -> None:
        """What is it told of?

        Args:
            administrator: gives the AWS client by which a person in the account acts.
            lose_event: lets nobody hear how this execution ends.
            crossings: gets a JSON line for each invocation, with its calls and SQL statements in their order.
        """
        self._runtime, self._rds = runtime, rds
        self._administrator, self._lose_event = administrator, lose_event
        self._prefix = f"{name_prefix}-"
        self._faults = [(fault, _Counter()) for fault in faults]
        self._struck: list[Fault] = []
        """Faults at statements of a shape: these strike once, and where that will be is not known beforehand."""
        self._crossings = crossings
        self._lock = threading.Lock()
        self._deliveries: dict[str, Delivery] = {}
        self._database_of: dict[str, str] = {}
        self._answered: dict[tuple[str | None, str], threading.Event] = {}
        self._undo: list[Callable[[], None]] = []

    def install(self) -> None:
        if not self._faults and self._crossings is None:
            return
        self._runtime.faults = self
        call_action, serialized = BaseResponse.call_action, BaseResponse.serialized
        injector = self

        def struck(response: Any) -> Any:
            return injector._serve(response, call_action)

        def answering(response: Any, answer: ActionResult) -> Any:
            order = _ORDER.get()
            if order is not None and order.kind == "answered" and isinstance(answer.result, dict):  # no refusal
                _answer(answer.result, order.parameters)
            return serialized(response, answer)

        BaseResponse.call_action, BaseResponse.serialized = struck, answering
        backend = type(self._rds.backend)
        create, promote, work = (
            backend.create_db_instance_read_replica, backend.promote_read_replica, backend._promote
        )  # fmt: skip

        def altered_create(self: Instances, params: Any) -> Instance:
            order = _ORDER.get()
            if order is None or order.kind != "altered":
                return create(self, params)
            # RDS's own mistake: the caller's permissions are for what they asked for.
            with self.context.authorizer.acting_as(None):
                return create(self, _altered(params, order.parameters))

        def noted_promote(self: Instances, params: Any) -> Instance:
            order = _ORDER.get()
            if order is not None and order.kind.startswith("promotion-"):
                vars(self.instance(params["DBInstanceIdentifier"]))["promotion_fault"] = order.kind
            return promote(self, params)

        def failing_work(self: Instances, instance: Instance, retention: int, window: str | None) -> None:
            kind = vars(instance).pop("promotion_fault", None)
            if kind is None:
                work(self, instance, retention, window)
                return
            time.sleep(self.durations.stale_status_seconds)
            self._show(instance, "modifying")
            time.sleep(self.durations.promotion_seconds)
            self._show(instance, "failed" if kind == "promotion-fails" else "available")

        for name, replacement in (
            ("create_db_instance_read_replica", altered_create),
            ("promote_read_replica", noted_promote),
            ("_promote", failing_work),
        ):
            setattr(backend, name, replacement)

        def undo() -> None:
            BaseResponse.call_action, BaseResponse.serialized = call_action, serialized
            for name in ("create_db_instance_read_replica", "promote_read_replica", "_promote"):
                delattr(backend, name)

        self._undo.append(undo)

    def uninstall(self) -> None:
        while self._undo:
            self._undo.pop()()

    # -- at an invocation ----------------------------------------------------------------------------------------------

    def deliver(
        self, function_name: str, event: Any, trace_id: str, once: Callable[[Death | None], Invocation]
    ) -> Invocation:
        delivery = self._delivery(function_name, event, trace_id)
        root = _root(trace_id)
        self._deliveries[root] = delivery
        try:
            due = self._due(delivery, None)
            death: Death | None = None
            for fault in due:
                if fault.statement is not None:
                    death = self._at_statement(fault, delivery)
                elif fault.kind == "killed":
                    death = Death("aws_call", 1, "before")
                elif fault.when == "before":
                    self._strike(fault, delivery)
            if self._crossings is not None:
                death = death or Death("statement", 0, "before")
            repeated = next((fault for fault in due if fault.kind == "twice"), None)
            if repeated is not None and repeated.when == "before":
                # The same event at the same time, in a process of its own; nobody waits for the answer.
                threading.Thread(target=once, args=(None,), name="delivered twice", daemon=True).start()
            invocation = once(death)
            if repeated is not None and repeated.when == "after":
                invocation = once(None)
            self._note(delivery, invocation)
            for fault in due:
                if fault.shape is not None and invocation.struck:
                    self._has_struck(fault, delivery)
            for fault in due:
                if fault.statement is not None:
                    continue
                if fault.kind == "lost-answer":
                    _hang_up()
                elif fault.when == "after":
                    self._strike(fault, delivery)
            return invocation
        finally:
            self._deliveries.pop(root, None)
            if not delivery.rehearsal:
                self._has_answered(delivery.database, delivery.function).set()

    def _at_statement(self, fault: Fault, delivery: Delivery) -> Death:
        assert fault.statement is not None
        place = (fault.statement, "after" if fault.kind == "lost-answer" else fault.when)
        match fault.kind:
            case "killed":
                return Death("statement", *place, shape=fault.shape)
            case "error-before" | "lost-answer":
                return Death("statement", *place, "lose", fault.shape)
            case _:
                return Death("statement", *place, "report", fault.shape, lambda: self._strike_once(fault, delivery))

    def _has_struck(self, fault: Fault, delivery: Delivery) -> bool:
        """Whether it had not before."""
        with self._lock:
            first = fault not in self._struck
            if first:
                self._struck.append(fault)
                LOG.info("%s at a statement of %s (%s)", fault.kind, delivery.function, fault.to_json())
        return first

    def _strike_once(self, fault: Fault, delivery: Delivery) -> None:
        """Before it takes effect: a function that lives on meets the one that replaces it at the same statement."""
        if self._has_struck(fault, delivery):
            self._strike(fault, delivery)

    def _note(self, delivery: Delivery, invocation: Invocation) -> None:
        if self._crossings is None or delivery.rehearsal:
            return
        crossed = {
            "function": delivery.function, "database": delivery.database, "calls": delivery.calls,
            "statements": invocation.statements,
        }  # fmt: skip
        with self._lock, self._crossings.open("a", encoding="utf-8") as file:
            file.write(json.dumps(crossed) + "\n")

    def _delivery(self, function_name: str, event: Any, trace_id: str) -> Delivery:
        event = event if isinstance(event, Mapping) else {}
        rehearsal = REHEARSAL in event
        rotation = event[REHEARSAL] if rehearsal else event
        request, execution = rotation.get("request") or {}, str(rotation.get("execution_arn", ""))
        plan = rotation.get("plan") or {}
        with self._lock:
            database = (
                str(plan.get("base_name") or "").rpartition("/")[2]  # without what says that it is a cluster
                or request.get("DBInstanceIdentifier")
                or request.get("DBClusterIdentifier")
                or self._database_of.get(str(request.get("Recover", "")))
            )
            if database:
                self._database_of.setdefault(execution, str(database))
        return Delivery(
            function_name.removeprefix(self._prefix),
            database,
            rotation,
            rehearsal,
            lambda: self._runtime.end_invocation(trace_id),
        )

    # -- at a call -----------------------------------------------------------------------------------------------------

    def _serve(self, response: Any, call_action: Callable[[Any], Any]) -> Any:
        delivery = self._deliveries.get(_root(response.headers.get("X-Amzn-Trace-Id", "")))
        if delivery is None:
            return call_action(response)
        scope = _SCOPE.search(response.headers.get("Authorization", ""))
        service = scope[1] if scope else ""
        call = f"{_SERVICES.get(service, service)}.{response._get_action()}"
        delivery.calls.append(call)
        due = self._due(delivery, call)
        try:
            for fault in due:
                if fault.kind == "killed" and fault.when == "before":
                    delivery.end()
                    _hang_up()
                    return 503, {"status": "503"}, ""  # to nobody
                if fault.when == "before":
                    self._strike(fault, delivery)
        except _Refusal as refusal:
            _, headers, body = response.serialized(ActionResult(refusal))
            return refusal.status, {**headers, "status": str(refusal.status)}, body
        with _ordered(next((fault for fault in due if fault.kind in _FOLLOWED), None)):
            answer = call_action(response)
        for fault in due:
            if fault.kind == "killed" and fault.when == "after":
                delivery.end()
                _hang_up()
            elif fault.kind == "lost-answer":
                _hang_up()
            elif fault.when == "after":
                self._strike(fault, delivery)
        return answer

    def _due(self, delivery: Delivery, call: str | None) -> list[Fault]:
        """The faults that strike here, each counted."""
        due = []
        anew = call is None and delivery.function == "start-rotation" and "Recover" not in delivery.request
        for fault, counter in self._faults:
            if anew and fault.kind == "denied" and fault.database in (None, delivery.database):
                counter.repaired(delivery.execution)
            here = (
                fault.call == call
                and fault.function in (None, delivery.function)
                and fault.database in (None, delivery.database)
                and fault.reason in (None, delivery.reason)
                and (fault.rehearsal or not delivery.rehearsal)
            )
            if here and fault.shape is not None:
                due += [fault] if fault not in self._struck else []
            elif here and counter.counts(fault, delivery.execution):
                LOG.info("%s at %s of %s (%s)", fault.kind, call or "an invocation", delivery.function, fault.to_json())
                due.append(fault)
        return due

    def _strike(self, fault: Fault, delivery: Delivery) -> None:
        """Raises: _Refusal."""
        match fault.kind:
            case "error-before" | "throttle" | "denied":
                raise _Refusal(fault.code, fault.message)
            case "held":
                time.sleep(fault.seconds)
            case "stopped":
                if fault.unheard:
                    self._lose_event(delivery.execution)
                self._administrator("stepfunctions").stop_execution(executionArn=delivery.execution, **STOPPED_BY_HAND)
                if fault.until:
                    self._has_answered(delivery.database, fault.until).wait(fault.seconds)
                else:
                    time.sleep(fault.seconds)
            case "stalled":
                clock = self._rds.context.clock
                # The thread that waits for the answer holds the clock, and lets go only for this.
                with clock.execution_thread(inherited=True):
                    clock.sleep(fault.seconds)
            case "cut":
                name = _identifier(delivery, fault.side)
                self._rds.cut(name, fault.how)
                self._later(fault.seconds, lambda: self._rds.restore_network(name))
            case "crash":
                self._rds.crash(_identifier(delivery, fault.side), down_seconds=fault.seconds)
            case "failover":
                self._rds.fail_over(_identifier(delivery, fault.side), down_seconds=fault.seconds)
            case "storage-full":
                self._rds.fill_storage(_identifier(delivery, fault.side))
            case "receiver-killed":
                self._server(delivery, "target").kill_receiver()
            case "cut-replication":
                server = self._server(delivery, "target")
                server.cut_replication()
                if fault.seconds:
                    self._later(fault.seconds, server.restore_replication)
            case "slot-lost":
                server = self._server(delivery, "target")
                server.source.forget_replica(server.name)
            case "pause-replay":
                server = self._server(delivery, "target")
                server.pause_replay()
                if fault.seconds:
                    self._later(fault.seconds, server.resume_replay)
            case "reload":
                self._server(delivery, fault.side).reload()
            case "replaced":
                self._rds.replace(_identifier(delivery, "source"))
            case "led-back":
                self._lead_back(delivery)

    def _has_answered(self, database: str | None, function: str) -> threading.Event:
        with self._lock:
            return self._answered.setdefault((database, function), threading.Event())

    def _server(self, delivery: Delivery, side: str) -> Any:
        return self._rds.instance(_identifier(delivery, side)).server

    def _lead_back(self, delivery: Delivery) -> None:
        self._server(delivery, "source").open_databases()
        self._rds.open_like(_identifier(delivery, "source"), _identifier(delivery, "target"))
        record = delivery.event["connectivity"]["record"]
        change = {
            "Action": "UPSERT",
            "ResourceRecordSet": {
                "Name": record["name"], "Type": "CNAME", "TTL": record["ttl_seconds"],
                "ResourceRecords": [{"Value": delivery.event["source"]["address"]}],
            },
        }  # fmt: skip
        self._administrator("route53").change_resource_record_sets(
            HostedZoneId=record["zone_id"], ChangeBatch={"Changes": [change]}
        )

    @staticmethod
    def _later(seconds: float, what: Callable[[], None]) -> None:
        def work() -> None:
            # By then the instance may be gone, or no replica any more.
            with suppress(Exception):
                what()

        timer = threading.Timer(seconds, work)
        timer.daemon = True
        timer.start()


class _Counter:
    def __init__(self) -> None:
        self._seen = 0
        self._struck: str | None = None
        self._repaired = False
        self._lock = threading.Lock()

    def counts(self, fault: Fault, execution: str) -> bool:
        """One more; is it one that the fault strikes?"""
        with self._lock:
            self._seen += 1
            if self._repaired or self._seen < fault.nth:
                return False
            self._struck = self._struck or execution
            return fault.onwards or self._seen < fault.nth + fault.times

    def repaired(self, execution: str) -> None:
        """Whoever starts a rotation anew has done something about why the last one failed."""
        with self._lock:
            self._repaired = self._repaired or self._struck not in (None, execution)


@contextmanager
def _ordered(order: Fault | None) -> Iterator[None]:
    token = _ORDER.set(order)
    try:
        yield
    finally:
        _ORDER.reset(token)


def _altered(params: Any, changes: Mapping[str, Any]) -> Any:
    altered = XFormedDict(dict(params))
    for name, value in changes.items():
        if value is None:
            altered.pop(name, None)
        else:
            altered[name] = value
    return altered


def _answer(answer: dict[str, Any], changes: Mapping[str, Any]) -> None:
    """Change an answer before it is written; what it shows of the sandbox's own books stays as it is."""
    for name, value in changes.items():
        if isinstance(value, Mapping) and isinstance(answer.get(name), list):
            value = [{**element, **value} for element in answer[name]]
        answer[name] = value


def _identifier(delivery: Delivery, side: str) -> str:
    deployment = delivery.event.get("deployment")
    if side == "target" and deployment and not delivery.event.get("target_identifier"):
        return str(deployment["members"][0]["target_arn"]).rsplit(":", 1)[-1]
    if side == "target":
        return str(delivery.event["target_identifier"])
    return str(delivery.event["source"]["identifier"])


def _root(trace_id: str) -> str:
    """The part of a trace id that every call of one invocation carries."""
    found = _ROOT.search(trace_id or "")
    return found[1] if found else ""


def _hang_up() -> None:
    """Close the connection of the request that is being served: what is answered now reaches nobody."""
    if not flask.has_request_context():
        return  # an asynchronous invocation: nobody waits for its answer
    with suppress(OSError):
        flask.request.environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
