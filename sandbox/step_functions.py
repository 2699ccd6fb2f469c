"""Step Functions: moto's interpreter, on the virtual clock, under the state machine's own role, and as strict as AWS.

Every patch below names what AWS does and moto does not. They are made once per process; :func:`install` only says for
which sandbox they work.
"""

from __future__ import annotations

import copy
import datetime as dt
import functools
import json
import logging
import sys
import threading
import time
import types
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Protocol

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from moto.core.exceptions import AWSError
from moto.core.responses import ActionResult, EmptyResult
from moto.stepfunctions.parser import models as parser_models
from moto.stepfunctions.parser.api import (
    ExecutionFailedEventDetails,
    ExecutionStatus,
    HistoryEventType,
    TaskFailedEventDetails,
)
from moto.stepfunctions.parser.asl.component.common.error_name.custom_error_name import CustomErrorName
from moto.stepfunctions.parser.asl.component.common.error_name.error_equals_decl import ErrorEqualsDecl
from moto.stepfunctions.parser.asl.component.common.error_name.failure_event import FailureEvent, FailureEventException
from moto.stepfunctions.parser.asl.component.common.error_name.states_error_name import StatesErrorName
from moto.stepfunctions.parser.asl.component.common.error_name.states_error_name_type import StatesErrorNameType
from moto.stepfunctions.parser.asl.component.common.path import result_path
from moto.stepfunctions.parser.asl.component.common.retry import retrier_decl
from moto.stepfunctions.parser.asl.component.common.timeouts.timeout import EvalTimeoutError
from moto.stepfunctions.parser.asl.component.program.program import Program
from moto.stepfunctions.parser.asl.component.state.choice.comparison.comparison_func import ComparisonFuncValue
from moto.stepfunctions.parser.asl.component.state.choice.comparison.comparison_operator_type import (
    ComparisonOperatorType,
)
from moto.stepfunctions.parser.asl.component.state.choice.comparison.variable import NoSuchVariable
from moto.stepfunctions.parser.asl.component.state.exec.execute_state import ExecutionState
from moto.stepfunctions.parser.asl.component.state.exec.state_map.iteration.job import JobPool
from moto.stepfunctions.parser.asl.component.state.exec.state_parallel.branches_decl import BranchWorkerPool
from moto.stepfunctions.parser.asl.component.state.exec.state_task.service import state_task_service_callback
from moto.stepfunctions.parser.asl.component.state.exec.state_task.service.state_task_service import StateTaskService
from moto.stepfunctions.parser.asl.component.state.exec.state_task.service.state_task_service_lambda import (
    StateTaskServiceLambda,
)
from moto.stepfunctions.parser.asl.component.state.exec.state_task.service.state_task_service_sfn import (
    StateTaskServiceSfn,
)
from moto.stepfunctions.parser.asl.component.state.state import CommonStateField
from moto.stepfunctions.parser.asl.component.state.wait.wait_function.timestamp import Timestamp
from moto.stepfunctions.parser.asl.component.state.wait.wait_function.wait_function import WaitFunction
from moto.stepfunctions.parser.asl.eval.callback.callback import (
    CallbackEndpoint,
    CallbackOutcomeFailure,
    CallbackOutcomeSuccess,
    HeartbeatEndpoint,
)
from moto.stepfunctions.parser.asl.eval.evaluation_details import ExecutionDetails
from moto.stepfunctions.parser.asl.eval.event.event_detail import EventDetails
from moto.stepfunctions.parser.asl.eval.event.event_manager import EventManager
from moto.stepfunctions.parser.asl.eval.program_state import ProgramStopped
from moto.stepfunctions.parser.asl.parse.asl_parser import AmazonStateLanguageParser
from moto.stepfunctions.parser.asl.utils import json_path
from moto.stepfunctions.parser.asl.utils.encoding import to_json_str
from moto.stepfunctions.parser.backend import execution as parser_execution
from moto.stepfunctions.parser.backend.execution_worker import ExecutionWorker
from moto.stepfunctions.responses import StepFunctionResponse

from sandbox.clock import VirtualClock

LOG = logging.getLogger("sandbox.step_functions")

MAX_HISTORY_EVENTS = 25_000
_LAMBDA_READ_TIMEOUT_SECONDS = 930
_STOP_SECONDS = 5.0


class Credentials(Protocol):
    """Where the engine gets the keys of a role: the sandbox's Authorizer."""

    def service_credentials(self, role_arn: str, session: str, source_arn: str | None = None) -> dict[str, str]: ...


@dataclass
class Engine:
    """What the interpreter needs from the sandbox it runs in."""

    clock: VirtualClock
    endpoint_url: str
    credentials: Credentials | None
    on_status_change: Callable[[Any], None]
    clients: dict[tuple[str, str, str, str], Any] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def client(self, region: str, service: str, state_credentials: Any = None) -> Any:
        """An SDK client that acts as the state machine's role, so that its calls are decided on like anybody's."""
        role = getattr(state_credentials, "role_arn", "")
        machine = getattr(_local, "machine_arn", "")
        with self.lock:
            key = (region, service, role, machine)
            if key not in self.clients:
                self.clients[key] = self._new_client(region, service, role, machine)
            return self.clients[key]

    def _new_client(self, region: str, service: str, role: str, machine: str) -> Any:
        keys = {"AWS_ACCESS_KEY_ID": "states", "AWS_SECRET_ACCESS_KEY": "states"}
        if self.credentials is not None:
            keys = self.credentials.service_credentials(role, "states", machine)
        return boto3.session.Session(region_name=region).client(
            service,
            endpoint_url=self.endpoint_url,
            aws_access_key_id=keys["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=keys["AWS_SECRET_ACCESS_KEY"],
            aws_session_token=keys.get("AWS_SESSION_TOKEN"),
            config=Config(
                parameter_validation=False,
                # Step Functions retries what the Retry of the state says, and nothing else.
                retries={"total_max_attempts": 1},
                read_timeout=_LAMBDA_READ_TIMEOUT_SECONDS,
                max_pool_connections=50,
            ),
        )


_engine: Engine | None = None
_patched = False
_local = threading.local()


def install(
    clock: VirtualClock,
    endpoint_url: str,
    credentials: Credentials | None,
    on_status_change: Callable[[Any], None],
) -> Engine:
    """Make this process's Step Functions work for one sandbox. ``on_status_change`` gets each execution that ends."""
    global _engine
    _patch_once()
    _engine = Engine(clock, endpoint_url, credentials, on_status_change)
    return _engine


def stop_executions() -> None:
    """Stop everything that runs, without waiting for it and without reporting it."""
    engine = _current()
    engine.on_status_change = lambda execution: None
    for account in list(parser_models.stepfunctions_parser_backends.values()):
        for backend in list(account.values()):
            for execution in backend._get_executions():
                if execution.status == "RUNNING" and execution.exec_worker.env is not None:
                    execution.exec_worker.stop(stop_date=dt.datetime.now(dt.UTC), error=None, cause="the sandbox ends")


def _current() -> Engine:
    if _engine is None:
        raise RuntimeError("step_functions.install() has not been called")
    return _engine


# -- the API -----------------------------------------------------------------------------------------------------------


class InvalidDefinition(AWSError):  # type: ignore[misc]
    TYPE = "InvalidDefinition"
    STATUS = 400


class InvalidToken(AWSError):  # type: ignore[misc]
    TYPE = "InvalidToken"
    STATUS = 400


class TaskTimedOut(AWSError):  # type: ignore[misc]
    TYPE = "TaskTimedOut"
    STATUS = 400


def _state_names(definition: str) -> Iterator[str]:
    """Every state name of a definition, those of branches and item processors included, repeated where repeated."""

    def scopes(node: Any) -> Iterator[str]:
        if isinstance(node, _Pairs):
            for key, value in node:
                if key == "States" and isinstance(value, _Pairs):
                    yield from (name for name, _ in value)
                yield from scopes(value)
        elif isinstance(node, list):
            for item in node:
                yield from scopes(item)

    with suppress(json.JSONDecodeError):  # moto's parser says what is wrong with it
        yield from scopes(json.loads(definition, object_pairs_hook=_Pairs))


class _Pairs(list[tuple[str, Any]]):
    """A JSON object that keeps repeated keys."""


def _refuse_repeated_names(definition: str) -> None:
    repeated = sorted(name for name, times in Counter(_state_names(definition)).items() if times > 1)
    if repeated:
        raise InvalidDefinition(
            f"Invalid State Machine Definition: 'DUPLICATE_STATE_NAME: {', '.join(repeated)}' "
            "(state names are unique over the whole state machine)"
        )


class StepFunctionsBackend(parser_models.StepFunctionsParserBackend):  # type: ignore[misc]
    """moto's backend, which also refuses what AWS refuses."""

    # moto finds the URLs of a backend through the module name of its class.
    __module__ = "moto.stepfunctions.parser.models"

    def __init__(self, region_name: str, account_id: str) -> None:
        super().__init__(region_name, account_id)
        self._starting = threading.Lock()

    def create_state_machine(self, name: str, definition: str, *args: Any, **kwargs: Any) -> Any:
        _refuse_repeated_names(definition)
        return super().create_state_machine(name, definition, *args, **kwargs)

    def update_state_machine(self, arn: str, definition: str | None = None, *args: Any, **kwargs: Any) -> Any:
        if definition is not None:
            _refuse_repeated_names(definition)
        return super().update_state_machine(arn, definition, *args, **kwargs)

    def start_execution(
        self, state_machine_arn: str, name: str | None = None, execution_input: Any = None, trace_header: Any = None
    ) -> Any:
        if name is not None:
            self._validate_name(name)
        # Two starts of one name at the same moment are one execution.
        with self._starting:
            return super().start_execution(state_machine_arn, name or str(uuid.uuid4()), execution_input, trace_header)

    def stop_execution(self, execution_arn: str, error: str | None = None, cause: str | None = None) -> Any:
        execution = self.describe_execution(execution_arn)
        if execution.status == "RUNNING":
            execution.stop(stop_date=dt.datetime.now(dt.UTC), error=error, cause=cause)
            execution.ended.wait(_STOP_SECONDS)
        return execution

    def send_task_success(self, task_token: str, outcome: str) -> None:
        self._answer(task_token, lambda pool: pool.notify(task_token, CallbackOutcomeSuccess(task_token, outcome)))

    def send_task_failure(self, task_token: str, error: str | None = None, cause: str | None = None) -> None:
        failure = CallbackOutcomeFailure(task_token, error, cause)
        self._answer(task_token, lambda pool: pool.notify(task_token, failure))

    def send_task_heartbeat(self, task_token: str) -> None:
        self._answer(task_token, lambda pool: pool.heartbeat(task_token))

    def _answer(self, task_token: str, notify: Callable[[Any], Any]) -> None:
        for state_machine in self.state_machines:
            for execution in state_machine.executions:
                env = execution.exec_worker.env
                endpoint = env.callback_pool_manager.get(task_token) if env is not None else None
                if endpoint is None:
                    continue
                if execution.status != "RUNNING" or endpoint._notify_event.is_set():
                    raise TaskTimedOut("Task Timed Out: 'Provided task does not exist anymore'")
                notify(env.callback_pool_manager)
                return
        raise InvalidToken("Invalid Token: 'Invalid token'")


class _WorkerCommunication(parser_execution.BaseExecutionWorkerCommunication):  # type: ignore[misc]
    def terminated(self) -> None:
        execution = self.execution
        state = execution.exec_worker.env.program_state()
        if isinstance(state, ProgramStopped):
            execution.error, execution.cause = state.error, state.cause
        super().terminated()
        # What JSON cannot hold must not make DescribeExecution fail later.
        execution.output = json.loads(to_json_str(execution.output))
        execution.ended.set()
        _report(execution)


class Execution(parser_execution.Execution):  # type: ignore[misc]
    """One execution; ``ended`` is set when its status is final."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.ended = threading.Event()

    def start(self) -> None:
        self.exec_status = ExecutionStatus.RUNNING
        _report(self)
        super().start()

    def stop(self, stop_date: dt.datetime, error: str | None, cause: str | None) -> None:
        deadline = time.monotonic() + _STOP_SECONDS
        while self.exec_worker.env is None and time.monotonic() < deadline:
            time.sleep(0.01)
        super().stop(stop_date=stop_date, error=error, cause=cause)

    def get_start_execution_details(self) -> ExecutionDetails:
        return ExecutionDetails(
            arn=self.exec_arn,
            name=self.name,
            role_arn=self.role_arn,
            inpt=self.input_data,
            start_time=_iso(self.start_date),
        )

    def _get_start_execution_worker_comm(self) -> _WorkerCommunication:
        return _WorkerCommunication(self)


def _report(execution: Any) -> None:
    try:
        _current().on_status_change(execution)
    except Exception:
        LOG.exception("status change not delivered: %s", execution.exec_arn)


def _iso(moment: dt.datetime) -> str:
    return moment.astimezone(dt.UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"


def _describe_execution(self: Any) -> ActionResult:
    execution = self.stepfunction_backend.describe_execution(self._get_param("executionArn"))
    response = {
        "executionArn": execution.execution_arn,
        "stateMachineArn": execution.state_machine_arn,
        "name": execution.name,
        "status": execution.status,
        "startDate": execution.start_date,
        "input": execution.execution_input,
        "inputDetails": {"included": True},
        "redriveCount": 0,
    }
    if execution.status != "RUNNING":
        response["stopDate"] = execution.stop_date
    if execution.status == "SUCCEEDED":
        response |= {"output": json.dumps(execution.output), "outputDetails": {"included": True}}
    response |= {key: value for key in ("error", "cause") if (value := getattr(execution, key)) is not None}
    return ActionResult(response)


def _list_executions(self: Any) -> ActionResult:
    results, next_token = self.stepfunction_backend.list_executions(
        self._get_param("stateMachineArn"),
        status_filter=self._get_param("statusFilter"),
        max_results=self._get_int_param("maxResults"),
        next_token=self._get_param("nextToken"),
    )
    executions = [
        {
            "executionArn": execution.execution_arn,
            "stateMachineArn": execution.state_machine_arn,
            "name": execution.name,
            "status": execution.status,
            "startDate": execution.start_date,
        }
        | ({"stopDate": execution.stop_date} if execution.status != "RUNNING" else {})
        for execution in results
    ]
    return ActionResult({"executions": executions, "nextToken": next_token})


def _stop_execution(self: Any) -> ActionResult:
    execution = self.stepfunction_backend.stop_execution(
        self._get_param("executionArn"), self._get_param("error"), self._get_param("cause")
    )
    return ActionResult({"stopDate": execution.stop_date or dt.datetime.now(dt.UTC)})


def _send_task_failure(self: Any) -> EmptyResult:
    self.stepfunction_backend.send_task_failure(
        self._get_param("taskToken"), error=self._get_param("error"), cause=self._get_param("cause")
    )
    return EmptyResult()


_EXECUTION_DATA = frozenset({"input", "inputDetails", "output", "outputDetails", "parameters"})


def _without_data(event: Any) -> dict[str, Any]:
    return {
        name: {key: value for key, value in details.items() if key not in _EXECUTION_DATA}
        if isinstance(details, dict) and name.endswith("EventDetails")
        else details
        for name, details in event.items()
    }


def _get_execution_history(self: Any) -> ActionResult:
    """Pages and order as AWS: up to 1000 events, ``reverseOrder``, a token that is an offset, data only if wanted."""
    history = self.stepfunction_backend.get_execution_history(self._get_param("executionArn"))
    chosen = list(history["events"])
    if self._get_param("reverseOrder"):
        chosen.reverse()
    start = int(self._get_param("nextToken") or 0)
    size = min(self._get_int_param("maxResults") or 100, 1000)
    total, chosen = len(chosen), chosen[start : start + size]
    if self._get_param("includeExecutionData") in (False, "false"):
        chosen = [_without_data(event) for event in chosen]
    events = json.loads(to_json_str(chosen))
    for event in events:
        event["timestamp"] = dt.datetime.fromisoformat(event["timestamp"].replace("Z", "+00:00"))
    page: dict[str, Any] = {"events": events}
    if start + size < total:
        page["nextToken"] = str(start + size)
    return ActionResult(page)


# -- the interpreter ---------------------------------------------------------------------------------------------------


def _patch_once() -> None:
    global _patched
    if _patched:
        return
    _patched = True

    parser_models.stepfunctions_parser_backends.backend = StepFunctionsBackend
    parser_models.Execution = Execution
    # A parsed program keeps no state of an execution; parsing takes a second of CPU, at every start.
    AmazonStateLanguageParser.parse = staticmethod(functools.lru_cache(maxsize=64)(AmazonStateLanguageParser.parse))
    # The same holds for a path, which moto parses at every use.
    for module in (json_path, result_path):
        module.parse = functools.lru_cache(maxsize=256)(module.parse)
    for name, answer in (
        ("describe_execution", _describe_execution),
        ("list_executions", _list_executions),
        ("stop_execution", _stop_execution),
        ("send_task_failure", _send_task_failure),
        ("get_execution_history", _get_execution_history),
    ):
        setattr(StepFunctionResponse, name, answer)

    # moto imports this function by name into each integration.
    for name, module in list(sys.modules.items()):
        if name.startswith("moto.stepfunctions.parser") and hasattr(module, "boto_client_for"):
            vars(module)["boto_client_for"] = lambda region, service, state_credentials=None: _current().client(
                region, service, state_credentials
            )

    _patch_waits()
    _patch_threads()
    _patch_states()
    _patch_errors()
    _patch_tasks()


def _patch_waits() -> None:
    def wait_interval(self: Any, env: Any, wait_seconds: float) -> None:
        _current().clock.sleep(wait_seconds, lambda: not env.is_running())

    def seconds_until_timestamp(self: Any, env: Any) -> float:
        # moto subtracts local from universal time and drops the fraction: it would wake up to a second too early.
        self.string.eval(env=env)
        text = env.stack.pop()
        if not isinstance(text, str) or not self._is_valid_timestamp_pattern(text):
            raise FailureEventException(self._create_failure_event(env, text))
        return dt.datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp() - _current().clock.time()

    def retry_sleep(seconds: float) -> None:
        env = _local.env
        _current().clock.sleep(seconds, lambda: not env.is_running())

    handle_retry = ExecutionState._handle_retry

    def remember_env(self: Any, env: Any, failure_event: Any) -> Any:
        _local.env = env
        return handle_retry(self, env, failure_event)

    WaitFunction._wait_interval = wait_interval
    Timestamp._get_wait_seconds = seconds_until_timestamp
    ExecutionState._handle_retry = remember_env
    retrier_decl.time = types.SimpleNamespace(sleep=retry_sleep)


def _patch_threads() -> None:
    """Which of the interpreter's threads hold the clock: the ones that interpret, not the ones that wait for those."""

    def as_idle(function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            with _current().clock.idle():
                return function(*args, **kwargs)

        return wrapper

    BranchWorkerPool.wait = as_idle(BranchWorkerPool.wait)
    JobPool.await_jobs = as_idle(JobPool.await_jobs)
    CallbackEndpoint.wait = as_idle(CallbackEndpoint.wait)
    HeartbeatEndpoint.clear_and_wait = as_idle(HeartbeatEndpoint.clear_and_wait)
    state_task_service_callback.time = types.SimpleNamespace(sleep=as_idle(time.sleep))

    interpret = Program._eval_body

    def interpret_holding(self: Any, env: Any) -> None:
        with _current().clock.execution_thread():
            interpret(self, env)

    Program._eval_body = interpret_holding

    run = ExecutionWorker._execution_logic

    def run_registered(self: Any) -> None:
        with _current().clock.running():
            run(self)

    ExecutionWorker._execution_logic = run_registered


class _Handover:
    """One hold on the clock, passed from the thread of a state to the thread of its attempt and back, without a gap."""

    def __init__(self, clock: VirtualClock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._attempt_ended = False
        self._abandoned = False
        clock.hold()

    def attempt_ended(self) -> None:
        with self._lock:
            self._attempt_ended = True
            if self._abandoned:
                self._clock.let_go()

    def state_went_on(self) -> None:
        with self._lock:
            self._abandoned = True
            if self._attempt_ended:
                self._clock.let_go()


def _attempt(self: Any, env: Any) -> None:
    """moto's ``_evaluate_with_timeout``, except that a stopped execution abandons its attempt instead of awaiting it.

    An abandoned Lambda runs on to its end, as on AWS, and holds the clock until then.
    """
    clock = _current().clock
    self.timeout.eval(env=env)
    deadline = time.monotonic() + env.stack.pop()

    frame = env.open_frame()
    frame.states.reset(input_value=env.states.get_input())
    frame.stack = copy.deepcopy(env.stack)
    outputs: list[Any] = []
    exceptions: list[Exception] = []
    ended = threading.Event()
    handover = _Handover(clock)

    def evaluate() -> None:
        _local.machine_arn = frame.states.context_object.context_object_data["StateMachine"]["Id"]
        with clock.execution_thread(inherited=True):
            try:
                self._eval_execution(frame)
                outputs.extend(frame.stack)
            except Exception as exception:
                exceptions.append(exception)
        ended.set()
        handover.attempt_ended()

    threading.Thread(target=evaluate, name=f"attempt of {self.name}", daemon=True).start()
    with clock.idle():
        while env.is_running() and (left := deadline - time.monotonic()) > 0 and not ended.wait(min(left, 0.05)):
            pass
    handover.state_went_on()
    if not ended.is_set():
        # What an abandoned attempt does from here on is no part of this history.
        frame.event_manager = EventManager()
    frame.set_ended()
    env.close_frame(frame)

    if not env.is_running():
        return  # stopped or timed out: the caller sees it too, and no event follows
    if exceptions:
        raise exceptions[0]
    if not ended.is_set():
        raise EvalTimeoutError()

    env.stack.append(outputs.pop())
    if not self._is_language_query_jsonpath():
        env.states.set_result(env.stack[-1])
    if self.assign_decl:
        self.assign_decl.eval(env=env)
    if self.result_selector:
        self.result_selector.eval(env=env)
    if self.result_path:
        self.result_path.eval(env)
    else:
        env.states.reset(input_value=env.stack.pop())


def _patch_states() -> None:
    ExecutionState._evaluate_with_timeout = _attempt

    eval_state_input = CommonStateField._eval_state_input

    def entered(self: Any, env: Any) -> None:
        state = env.states.context_object.context_object_data["State"]
        state["EnteredTime"] = _iso(dt.datetime.fromisoformat(state["EnteredTime"]))
        if len(env.event_manager._history_event_list) >= MAX_HISTORY_EVENTS:
            raise _runtime_failure(
                env, f"The execution reached the maximum number of history events ({MAX_HISTORY_EVENTS})."
            )
        eval_state_input(self, env)

    CommonStateField._eval_state_input = entered


def _runtime_failure(env: Any, cause: str) -> FailureEventException:
    error = StatesErrorNameType.StatesRuntime
    return FailureEventException(
        FailureEvent(
            env=env,
            error_name=StatesErrorName(typ=error),
            event_type=HistoryEventType.ExecutionFailed,
            event_details=EventDetails(
                executionFailedEventDetails=ExecutionFailedEventDetails(error=error.to_name(), cause=cause)
            ),
        )
    )


_UNCATCHABLE = frozenset({"States.Runtime", "States.DataLimitExceeded"})


def _patch_errors() -> None:
    def accept_any_name(self: Any, error_name: str | None) -> None:
        # moto refuses names like States.Timeout, so a branch that runs into one ends the execution, past every Catch.
        self.error_name = error_name

    equals = ErrorEqualsDecl._eval_body

    def equals_if_catchable(self: Any, env: Any) -> None:
        name = env.stack[-1].error_name
        equals(self, env)
        if name in _UNCATCHABLE and not any(one.error_name == name for one in self.error_names):
            env.stack[-1] = False  # States.ALL is not all

    compare = ComparisonFuncValue._eval_body

    def compare_what_is_there(self: Any, env: Any) -> None:
        variable = env.stack[-1]
        # moto takes a field that is not there for one that does not match.
        if isinstance(variable, NoSuchVariable) and self.operator_type is not ComparisonOperatorType.IsPresent:
            path = variable.path.split(",")[0]
            raise _runtime_failure(
                env, f"Invalid path '{path}': The choice state's condition path references an invalid value."
            )
        compare(self, env)

    CustomErrorName.__init__ = accept_any_name
    ErrorEqualsDecl._eval_body = equals_if_catchable
    ComparisonFuncValue._eval_body = compare_what_is_there


def _patch_tasks() -> None:
    lambda_from_error = StateTaskServiceLambda._from_error

    def from_lambda_error(self: Any, env: Any, ex: Exception) -> Any:
        if isinstance(ex, BotoCoreError):
            error, cause = "Lambda.SdkClientException", str(ex)
        elif isinstance(ex, ClientError):
            error, cause = _lambda_error(ex)
        else:
            return lambda_from_error(self, env, ex)
        return FailureEvent(
            env=env,
            error_name=CustomErrorName(error),
            event_type=HistoryEventType.TaskFailed,
            event_details=EventDetails(
                taskFailedEventDetails=TaskFailedEventDetails(
                    error=error,
                    cause=cause,
                    resource=self._get_sfn_resource(),
                    resourceType=self._get_sfn_resource_type(),
                )
            ),
        )

    sfn_from_error = StateTaskServiceSfn._from_error

    def from_sfn_error(self: Any, env: Any, ex: Exception) -> Any:
        if isinstance(ex, ClientError):
            code = ex.response["Error"]["Code"]
            known = code in {shape.name for shape in _operation(self, None, None).error_shapes}
            # The SDK's name for what the API's model does not list, such as throttling; moto appends "Exception".
            ex.response["Error"]["Code"] = code.removesuffix("Exception") if known else "AWSStepFunctions"
        return sfn_from_error(self, env, ex)

    StateTaskServiceLambda._from_error = from_lambda_error
    StateTaskServiceSfn._from_error = from_sfn_error
    StateTaskService._normalise_parameters = _to_sdk_spelling
    StateTaskService._normalise_response = _from_sdk_spelling


_NAMED = ("ResourceNotReadyException", "ENINotReadyException", "EC2ThrottledException")
"""Of Lambda's errors with status 502, those that Step Functions is told by name; by its convention, not by a list."""


def _lambda_error(error: ClientError) -> tuple[str, str]:
    """The name that Step Functions gives to a failed Invoke, and its cause."""
    code = error.response["Error"]["Code"]
    status = error.response["ResponseMetadata"]["HTTPStatusCode"]
    request_id = error.response["ResponseMetadata"].get("RequestId", "")
    if "AccessDenied" in code or status == 403:
        name = "AWSLambdaException"
    elif code == "TooManyRequestsException" or status == 429:
        name = "TooManyRequestsException"
    elif status >= 500 and code not in _NAMED:
        name = "ServiceException"
    else:
        name = code
    details = f"Service: AWSLambda; Status Code: {status}; Error Code: {code}; Request ID: {request_id}; Proxy: null"
    return f"Lambda.{name}", f"{error.response['Error']['Message']} ({details})"


def _operation(task: Any, boto_service_name: str | None, service_action_name: str | None) -> Any:
    """The SDK's model of a task's API call. ASL spells members in PascalCase; moto emptied the translation."""
    service = boto_service_name or task._get_boto_service_name()
    if service not in _models:
        _models[service] = boto3.session.Session(region_name="us-east-1").client(service).meta.service_model
    action = (service_action_name or task.resource.api_action).replace("_", "").lower()
    name = next(name for name in _models[service].operation_names if name.lower() == action)
    return _models[service].operation_model(name)


_models: dict[str, Any] = {}


def _to_sdk_spelling(
    self: Any, parameters: Any, boto_service_name: str | None = None, service_action_name: str | None = None
) -> None:
    shape = _operation(self, boto_service_name, service_action_name).input_shape
    if shape is not None:
        self._to_boto_request(parameters, shape)


def _from_sdk_spelling(
    self: Any, response: Any, boto_service_name: str | None = None, service_action_name: str | None = None
) -> None:
    shape = _operation(self, boto_service_name, service_action_name).output_shape
    if shape is not None:
        self._from_boto_response(response, shape)
