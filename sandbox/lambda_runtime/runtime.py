"""The sandbox's side of Lambda: which process serves an invocation, what it may know, and when it is killed."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import secrets
import select
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import uuid
import zipfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from sandbox.lambda_runtime.traces import TraceDaemon
from sandbox.lambda_runtime.zygote import receive, send

LOG_TAIL_BYTES = 4096
INIT_SECONDS = 30
"""Patience with the import of a handler. Lambda's own is 10 s, on a machine that does nothing else."""
ASYNC_ATTEMPTS = 3
IDLE_SECONDS = 14 * 24 * 60 * 60
WAKING_SECONDS = 60
"""Virtual, both. A function that nobody has called for weeks has lost what Lambda had made for it; the next call is
refused, and so is every other one until that is there again (Lambda Developer Guide: function states)."""

_ZYGOTE = Path(__file__).with_name("zygote.py")
_START_SECONDS = 60
_END_SECONDS = 5

Credentials = Callable[[str, str], Mapping[str, str]]
"""(role ARN, session name) -> AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN of a new session."""


@dataclass(frozen=True)
class Invocation:
    """What came of one invocation: the payload (or Lambda's error object) and the last 4 KB of its log."""

    payload: Any
    is_error: bool
    log: str
    statements: tuple[str, ...] = ()
    """The shapes of the SQL statements that it made; noted only when a `Fault` was to strike at one."""
    struck: bool = False
    """Whether the `Fault` was reached."""


@dataclass(frozen=True)
class Fault:
    """What happens before or after the ``nth`` (from 1; 0: never) AWS call or SQL statement of one invocation."""

    at: Literal["aws_call", "statement"]
    nth: int
    when: Literal["before", "after"]
    what: Literal["kill", "lose", "report"] = "kill"
    """The process dies, the statement's connection is lost, or ``reached`` is called while the process waits."""
    shape: str | None = None
    """Only statements of this shape count (``zygote.shape_of``)."""
    reached: Callable[[], None] = field(default=lambda: None, compare=False)

    def to_json(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "reached"}


class Faults:
    """Where tests reach in. Replace ``runtime.faults`` by a subclass; this one lets everything pass."""

    def before_invoke(self, function_name: str, event: Any) -> Fault | None:
        """May raise, wait, invoke a second time, or return how the process shall die."""
        return None

    def after_invoke(self, function_name: str, event: Any, invocation: Invocation) -> None:
        """May raise, which loses the answer although the work is done."""

    def deliver(
        self, function_name: str, event: Any, trace_id: str, once: Callable[[Fault | None], Invocation]
    ) -> Invocation:
        """Serve one invocation: ``once`` runs the function, and may be called again, also by another thread."""
        invocation = once(self.before_invoke(function_name, event))
        self.after_invoke(function_name, event, invocation)
        return invocation


class _ProcessEnded(Exception):
    """The process is gone; the reason is in the words of Lambda's runtime."""


class _TimedOut(Exception):
    pass


@dataclass(eq=False)
class _Environment:
    """One execution environment of one function version: a forked process that serves one invocation at a time."""

    pid: int
    control: socket.socket
    log_path: Path
    scratch: Path
    ready: bool = False
    end_reason: str = "without providing a reason"
    ended: threading.Event = field(default_factory=threading.Event)


class _Zygote:
    """The warm parent for functions with the same layers."""

    def __init__(self, opt: Path, work_dir: Path) -> None:
        self._host, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._lock = threading.Lock()
        self._forks: dict[int, Callable[[int], None]] = {}
        self._fork_number = 0
        self._environments: dict[int, _Environment] = {}
        self._ready = threading.Event()
        self._log = (work_dir / "logs" / "lambda-parent.log").open("ab")
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-u", "-X", "utf8", str(_ZYGOTE), str(theirs.fileno()), str(opt),
                 str(work_dir / "clock.offset"), str(work_dir / "names.json")],
                stdin=subprocess.DEVNULL, stdout=self._log, stderr=self._log, close_fds=True,
                pass_fds=[theirs.fileno()],
                env={"PATH": os.defpath, "TZ": ":UTC", "HOME": str(work_dir)}, cwd=work_dir,
            )  # fmt: skip
        threading.Thread(target=self._listen, name="lambda parent", daemon=True).start()

    def fork(self, log_path: Path, scratch: Path) -> _Environment:
        if not self._ready.wait(_START_SECONDS) or self._process.poll() is not None:
            raise RuntimeError(f"the parent of the Lambda processes did not start; see {self._log.name}")
        ours, theirs = socket.socketpair()
        forked = threading.Event()
        environment = _Environment(0, ours, log_path, scratch)

        def note(pid: int) -> None:
            environment.pid = pid
            self._environments[pid] = environment
            forked.set()

        with theirs, log_path.open("ab") as log, self._lock:
            self._fork_number += 1
            self._forks[self._fork_number] = note
            message = json.dumps({"fork": self._fork_number}).encode()
            try:
                socket.send_fds(self._host, [message], [theirs.fileno(), log.fileno()])
            except OSError as error:
                raise RuntimeError(f"the parent of the Lambda processes has ended; see {self._log.name}") from error
        if not forked.wait(_START_SECONDS):
            raise RuntimeError("the parent of the Lambda processes does not answer")
        return environment

    def kill(self, environment: _Environment) -> None:
        with suppress(OSError), self._lock:
            self._host.send(json.dumps({"kill": environment.pid}).encode())

    def stop(self) -> None:
        """The end of the socket ends the parent, and it takes its children with it."""
        with suppress(OSError):
            self._host.shutdown(socket.SHUT_RDWR)
        try:
            self._process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._host.close()
        self._log.close()

    def _listen(self) -> None:
        while True:
            try:
                data = self._host.recv(4096)
            except OSError:
                data = b""
            if not data:
                break
            message = json.loads(data)
            if "forked" in message:
                self._forks.pop(message["forked"])(message["pid"])
            elif "ended" in message:
                if environment := self._environments.pop(message["ended"], None):
                    environment.end_reason = (
                        f"with error: {message['reason']}"
                        if message["reason"] != "exit status 0"
                        else environment.end_reason
                    )
                    environment.ended.set()
            else:
                self._ready.set()
        self._ready.set()
        for environment in list(self._environments.values()):
            environment.ended.set()


class LambdaRuntime:
    """Serves every invocation of every function from processes forked from one warm parent per set of layers.

    ``work_dir`` holds ``clock.offset`` (one little-endian double: seconds to add to the real time; written in place)
    and ``names.json`` (``{"name": "address"}``; reread when it changes), both written by others, ``logs/`` and
    ``traces``.
    Everything public may be called from any thread.
    """

    def __init__(self, work_dir: Path, endpoint_url: str, region: str, credentials: Credentials) -> None:
        self.faults = Faults()
        self.on_event_failure: Callable[[str, Any, Invocation], None] | None = None
        self._work_dir = work_dir
        self._endpoint_url = endpoint_url
        self._region = region
        self._credentials = credentials
        self._lock = threading.Lock()
        self._zygotes: dict[str, _Zygote] = {}
        self._unpacking: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
        self._idle: defaultdict[str, list[_Environment]] = defaultdict(list)
        self._alive: set[_Environment] = set()
        self._serving: list[tuple[str, Any, _Environment]] = []
        self._active_at: dict[str, float] = {}
        """By function: when it was called last, or, while it wakes up, when it will be active again."""
        self._log_locks: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
        self._stopped = False
        self._uninstall: Callable[[], None] | None = None

    # -- life ----------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Prepare the work directory. A parent starts with the first function that needs it, or by :meth:`warm_up`."""
        for name in ("logs", "code", "opt", "scratch"):
            (self._work_dir / name).mkdir(parents=True, exist_ok=True)
        offset = self._work_dir / "clock.offset"
        if not offset.exists():
            offset.write_bytes(bytes(8))
        self._traces = TraceDaemon(self._work_dir / "traces")

    def warm_up(self, function: Any) -> None:
        """Unpack the code of ``function`` (moto's) and start its parent, so that its first invocation need not."""
        self._zygote(function)
        self._code(function)

    def stop(self) -> None:
        """Ends every process, also those that are serving an invocation. Does not wait for them to finish."""
        with self._lock:
            self._stopped = True
            zygotes, environments = list(self._zygotes.values()), list(self._alive)
            self._zygotes.clear()
            self._idle.clear()
        for zygote in zygotes:
            zygote.stop()
        for environment in environments:
            environment.ended.set()
        self._traces.stop()
        if self._uninstall is not None:
            self._uninstall()

    # -- invoking ------------------------------------------------------------------------------------------------------

    def invoke(self, function: Any, event: Any, qualifier: str | None = None) -> Invocation:
        """Run ``function`` (of moto: one version with its code and environment) once and wait for its end.

        Whoever stops waiting for this call does not stop the function: it ends by itself or at its own timeout.
        """
        trace_id = _trace_id(function)
        return self.faults.deliver(
            str(function.function_name),
            event,
            trace_id,
            lambda fault: self._invoke(function, event, qualifier, fault, trace_id),
        )

    def refuse_while_inactive(self, function: Any) -> None:
        """Raises: moto's exception for what Invoke answers then; which it is depends on what has to be made again."""
        from moto.core.exceptions import JsonRESTError

        name, now = str(function.function_name), time.time()
        with self._lock:
            active_at = self._active_at.get(name, now)
            if now - active_at > IDLE_SECONDS:
                active_at = now + WAKING_SECONDS
            self._active_at[name] = max(active_at, now)
        if active_at <= now:
            return
        if function.vpc_config:
            refusal = JsonRESTError(
                "ResourceNotReadyException", "The function is inactive and its VPC connection is no longer available."
            )
            refusal.code = 502
        else:
            refusal = JsonRESTError("CodeArtifactUserPendingException", "Lambda is initializing your function.")
            refusal.code = 409
        raise refusal

    def end_invocation(self, trace_id: str) -> None:
        """Kill the processes that serve this invocation, and wait until they are gone."""
        with self._lock:
            serving = [(function, one) for known, function, one in self._serving if known == trace_id]
        for function, environment in serving:
            self._end(function, environment)

    def _invoke(
        self, function: Any, event: Any, qualifier: str | None, fault: Fault | None, trace_id: str
    ) -> Invocation:
        request_id = str(uuid.uuid4())
        timeout_seconds = int(function.timeout)
        started = time.monotonic()
        with self._environment(function) as environment:
            offset = environment.log_path.stat().st_size
            initialized_seconds = 0.0
            try:
                if not environment.ready:
                    answer = self._exchange(environment, self._setup(function, environment), INIT_SECONDS)
                    environment.ready = "error" not in answer
                    initialized_seconds = time.monotonic() - started
                else:
                    answer = {}
                if environment.ready:
                    request = {
                        "request_id": request_id,
                        "event": event,
                        "invoked_function_arn": _invoked_arn(function, qualifier),
                        "timeout_seconds": timeout_seconds,
                        "trace_id": trace_id,
                        "fault": fault.to_json() if fault else None,
                    }
                    serving = (trace_id, function, environment)
                    with self._lock:
                        self._serving.append(serving)
                    try:
                        answer = self._exchange(
                            environment, request, timeout_seconds, fault.reached if fault else lambda: None
                        )
                    finally:
                        with self._lock:
                            self._serving.remove(serving)
            except _TimedOut:
                why = f"Task timed out after {timeout_seconds}.00 seconds"
                answer = _failed("Sandbox.Timedout", request_id, why)
                self._end(function, environment)
            except _ProcessEnded as end:
                answer = _failed("Runtime.ExitError", request_id, f"Runtime exited {end}") | {"struck": True}
            log = self._write_log(
                function,
                environment,
                offset,
                request_id,
                initialized_seconds,
                time.monotonic() - started,
                answer.get("error"),
            )
        noted: tuple[tuple[str, ...], bool] = (tuple(answer.get("statements", ())), bool(answer.get("struck")))
        if "error" in answer:
            return Invocation(answer["error"], True, log, *noted)
        return Invocation(json.loads(answer["payload"]), False, log, *noted)

    def _exchange(
        self,
        environment: _Environment,
        message: dict[str, Any],
        timeout_seconds: float,
        reached: Callable[[], None] = lambda: None,
    ) -> dict[str, Any]:
        end = time.monotonic() + timeout_seconds
        try:
            send(environment.control, message)
            # poll, not select: the sandbox may well have more than 1,024 descriptors open.
            answered = select.poll()
            answered.register(environment.control, select.POLLIN)
            while True:
                if not answered.poll(max(0.0, end - time.monotonic()) * 1000):
                    raise _TimedOut
                answer = receive(environment.control)
                if answer is None or "reached" not in answer:
                    break
                reached()
                send(environment.control, {})
        except (BrokenPipeError, ConnectionResetError):
            answer = None
        if answer is None:
            # The socket closes with the process; the parent tells how it ended a moment later.
            environment.ended.wait(_END_SECONDS)
            environment.ready = False
            raise _ProcessEnded(environment.end_reason)
        return answer

    @contextmanager
    def _environment(self, function: Any) -> Iterator[_Environment]:
        """An execution environment for one invocation: an idle one of exactly this version, or a new one."""
        key = _identity(function)
        with self._lock:
            environment = self._idle[key].pop() if self._idle[key] else None
        if environment is None or environment.ended.is_set():
            environment = self._new_environment(function)
        try:
            yield environment
        finally:
            with self._lock:
                reusable = environment.ready and not environment.ended.is_set() and not self._stopped
                if reusable:
                    self._idle[key].append(environment)
                else:
                    self._alive.discard(environment)
            if not reusable:
                environment.control.close()
                shutil.rmtree(environment.scratch, ignore_errors=True)

    def _new_environment(self, function: Any) -> _Environment:
        zygote = self._zygote(function)
        scratch = Path(tempfile.mkdtemp(dir=self._work_dir / "scratch", prefix=f"{function.function_name}-"))
        environment = zygote.fork(scratch / "log", scratch)
        with self._lock:
            self._alive.add(environment)
        return environment

    def _end(self, function: Any, environment: _Environment) -> None:
        environment.ready = False
        self._zygote(function).kill(environment)
        environment.ended.wait(_END_SECONDS)

    # -- what a function may know --------------------------------------------------------------------------------------

    def _setup(self, function: Any, environment: _Environment) -> dict[str, Any]:
        tmp = environment.scratch / "tmp"
        tmp.mkdir()
        opt = str(self._opt(function))
        variables = {
            name: opt + value.removeprefix("/opt") if value == "/opt" or value.startswith("/opt/") else value
            for name, value in function.environment_vars.items()
        }
        stream = f"{time.strftime('%Y/%m/%d')}/[{_version(function)}]{secrets.token_hex(16)}"
        task_root = str(self._code(function))
        # The function's own variables first: what Lambda reserves cannot be overridden.
        return {
            "handler": function.handler,
            "task_root": task_root,
            "environment": variables
            | {
                "PATH": os.defpath,
                "LANG": "en_US.UTF-8",
                "TZ": ":UTC",
                "HOME": str(tmp),
                "TMPDIR": str(tmp),
                "LAMBDA_TASK_ROOT": task_root,
                "LAMBDA_RUNTIME_DIR": "/var/runtime",
                "PYTHONPATH": "/var/runtime",
                "_HANDLER": function.handler,
                "AWS_REGION": self._region,
                "AWS_DEFAULT_REGION": self._region,
                "AWS_ENDPOINT_URL": self._endpoint_url,
                "AWS_EC2_METADATA_DISABLED": "true",
                "AWS_EXECUTION_ENV": f"AWS_Lambda_{function.run_time}",
                "AWS_LAMBDA_FUNCTION_NAME": function.function_name,
                "AWS_LAMBDA_FUNCTION_VERSION": _version(function),
                "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": str(function.memory_size),
                "AWS_LAMBDA_LOG_GROUP_NAME": function.logs_group_name,
                "AWS_LAMBDA_LOG_STREAM_NAME": stream,
                "AWS_LAMBDA_INITIALIZATION_TYPE": "on-demand",
                "AWS_XRAY_CONTEXT_MISSING": "LOG_ERROR",
                "AWS_XRAY_DAEMON_ADDRESS": self._traces.address,
                "_X_AMZN_TRACE_ID": _trace_id(function),
            }
            | dict(self._credentials(function.role, function.function_name)),
        }

    def _code(self, function: Any) -> Path:
        return self._unpacked(self._work_dir / "code", [function])

    def _opt(self, function: Any) -> Path:
        return self._unpacked(self._work_dir / "opt", _layers(function))

    def _zygote(self, function: Any) -> _Zygote:
        opt = self._opt(function)
        with self._unpacking[f"parent of {opt}"]:
            with self._lock:
                if self._stopped:
                    raise RuntimeError("the Lambda runtime has stopped")
                zygote = self._zygotes.get(opt.name)
            if zygote is None:
                zygote = _Zygote(opt, self._work_dir)
                with self._lock:
                    self._zygotes[opt.name] = zygote
            return zygote

    def _unpacked(self, parent: Path, archives: list[Any]) -> Path:
        """The archives, one over the other as Lambda does with layers, in a directory named after their content."""
        digest = hashlib.sha256()
        for archive in archives:
            digest.update(archive.code_sha_256.encode())
        directory = parent / digest.hexdigest()[:16]
        with self._unpacking[str(directory)]:
            if not directory.exists():
                unfinished = Path(tempfile.mkdtemp(dir=parent))
                for archive in archives:
                    with zipfile.ZipFile(io.BytesIO(archive.code_bytes)) as content:
                        content.extractall(unfinished)
                unfinished.rename(directory)
        return directory

    # -- logs ----------------------------------------------------------------------------------------------------------

    def _write_log(
        self,
        function: Any,
        environment: _Environment,
        offset: int,
        request_id: str,
        initialized_seconds: float,
        seconds: float,
        error: dict[str, Any] | None,
    ) -> str:
        """Append what the invocation printed to the function's log; returns its last 4 KB."""
        with environment.log_path.open("rb") as file:
            file.seek(offset)
            printed = file.read().decode(errors="replace")
        if printed and not printed.endswith("\n"):
            printed += "\n"
        if error and error["errorType"] in ("Sandbox.Timedout", "Runtime.ExitError"):
            printed += f"{error['errorMessage']}\n"
        report = f"Duration: {(seconds - initialized_seconds) * 1000:.2f} ms\tMemory Size: {function.memory_size} MB"
        if initialized_seconds:
            report += f"\tInit Duration: {initialized_seconds * 1000:.2f} ms"
        text = (
            f"START RequestId: {request_id} Version: {_version(function)}\n{printed}END RequestId: {request_id}\n"
            f"REPORT RequestId: {request_id}\t{report}\n"
        )
        name = function.function_name
        with self._log_locks[name], (self._work_dir / "logs" / f"{name}.log").open("a", encoding="utf-8") as log:
            log.write(text)
        return text.encode()[-LOG_TAIL_BYTES:].decode(errors="ignore")

    # -- moto ----------------------------------------------------------------------------------------------------------

    def install(self) -> None:
        """Let moto's Lambda run functions here. Needs moto's configuration ``lambda.use_docker = False``."""
        from moto.awslambda_simple.models import LambdaSimpleBackend

        original = LambdaSimpleBackend.invoke
        runtime = self

        def invoke(
            self: Any,
            function_name: str,
            qualifier: str | None,
            body: Any,
            headers: Any,
            response_headers: dict[str, str],
        ) -> bytes:
            function = self.get_function(function_name, qualifier)
            event = json.loads(body or b"{}")
            response_headers["X-Amz-Executed-Version"] = _version(function)
            invocation_type = headers.get("X-Amz-Invocation-Type", "RequestResponse")
            if invocation_type == "DryRun":
                return b""
            if invocation_type == "Event":
                arguments = (function, event, qualifier)
                threading.Thread(
                    target=runtime._invoke_event, args=arguments, name=function.function_name, daemon=True
                ).start()
                return b""
            runtime.refuse_while_inactive(function)
            invocation = runtime.invoke(function, event, qualifier)
            if invocation.is_error:
                response_headers["x-amz-function-error"] = "Unhandled"
            response_headers["x-amz-log-result"] = base64.b64encode(invocation.log.encode()).decode()
            return json.dumps(invocation.payload).encode()

        def uninstall() -> None:
            LambdaSimpleBackend.invoke = original

        LambdaSimpleBackend.invoke = invoke
        self._uninstall = uninstall

    def _invoke_event(self, function: Any, event: Any, qualifier: str | None) -> None:
        """An asynchronous invocation: three attempts, as Lambda makes, without its minutes in between."""
        for _ in range(ASYNC_ATTEMPTS):
            invocation = self.invoke(function, event, qualifier)
            if not invocation.is_error or self._stopped:
                return
        if self.on_event_failure is not None:
            self.on_event_failure(function.function_name, event, invocation)


def _failed(error_type: str, request_id: str, why: str) -> dict[str, Any]:
    return {"error": {"errorType": error_type, "errorMessage": f"RequestId: {request_id} Error: {why}"}}


def _is_published(function: Any) -> bool:
    return bool(function.function_arn.split(":function:")[-1].count(":"))


def _version(function: Any) -> str:
    return str(function.version) if _is_published(function) else "$LATEST"


def _invoked_arn(function: Any, qualifier: str | None) -> str:
    arn = str(function.function_arn)
    return arn if _is_published(function) or not qualifier else f"{arn}:{qualifier}"


def _trace_id(function: Any) -> str:
    sampled = 1 if (function.tracing_config or {}).get("Mode") == "Active" else 0
    return f"Root=1-{int(time.time()):08x}-{secrets.token_hex(12)};Parent={secrets.token_hex(8)};Sampled={sampled}"


def _layers(function: Any) -> list[Any]:
    from moto.awslambda.utils import get_backend

    backend = get_backend(function.account_id, function.region)
    return [backend.layers_versions_by_arn(layer["Arn"]) for layer in function.layers]


def _identity(function: Any) -> str:
    """Two invocations may share a process only if all of this is the same."""
    facts = [
        function.function_arn, function.code_sha_256, function.environment_vars, function.role, function.handler,
        function.timeout, function.memory_size, [layer["Arn"] for layer in function.layers],
    ]  # fmt: skip
    return json.dumps(facts, sort_keys=True)
