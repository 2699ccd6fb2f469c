"""The warm parent of every Lambda process; also all that runs inside one.

Run by the sandbox as a script, with ``python -I -S``: the standard library and the layer are all it sees. It imports
what every function needs, holds no credentials, and forks a child per execution environment. A child gets its
environment from the sandbox over a socket of its own, after the fork, so nothing of one function is ever in the memory
of another.

    zygote.py <descriptor of the socket to the sandbox> <opt directory> <clock offset file> <name table file>

Standard library only, and no import from the sandbox: this file is run by its path.
"""

from __future__ import annotations

import array
import ctypes
import functools
import gc
import importlib
import json
import logging
import mmap
import os
import re
import select
import signal
import socket
import struct
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Any

_LENGTH = struct.Struct("!I")
_OFFSET = struct.Struct("<d")
_LOG_FORMAT = "[%(levelname)s]\t%(asctime)s.%(msecs)03dZ\t%(name)s\t%(message)s"

PREWARMED_MODULES = (
    "boto3", "pydantic", "aws_lambda_powertools", "aws_lambda_powertools.metrics", "aws_lambda_powertools.tracing",
    "asyncio", "wrapt", "pkgutil", "zoneinfo", "ssl",
)  # fmt: skip
PREWARMED_CLIENTS = (
    "rds", "kms", "dynamodb", "sns", "route53", "secretsmanager", "stepfunctions", "scheduler",
    "resourcegroupstaggingapi",
    "cloudwatch", "cloudtrail", "ssm", "sts", "backup", "dms",
)  # fmt: skip


def send(sock: socket.socket, message: dict[str, Any]) -> None:
    data = json.dumps(message).encode()
    sock.sendall(_LENGTH.pack(len(data)) + data)


def receive(sock: socket.socket) -> dict[str, Any] | None:
    """The next message, or None when the other side is gone."""
    header = _receive_exactly(sock, _LENGTH.size)
    body = _receive_exactly(sock, _LENGTH.unpack(header)[0]) if header else None
    return json.loads(body) if body else None


def _receive_exactly(sock: socket.socket, size: int) -> bytes | None:
    data = bytearray()
    while len(data) < size:
        try:
            piece = sock.recv(size - len(data))
        except ConnectionResetError:
            return None
        if not piece:
            return None
        data += piece
    return bytes(data)


# -- the world as a Lambda function sees it ----------------------------------------------------------------------------


def follow_clock(offset_path: str) -> None:
    """Wall clock = real time + offset. The monotonic clock and sleep stay real."""
    with open(offset_path, "rb") as file:
        shared = mmap.mmap(file.fileno(), _OFFSET.size, prot=mmap.PROT_READ)
    real, real_ns = time.time, time.time_ns

    def virtual_time() -> float:
        return real() + float(_OFFSET.unpack_from(shared)[0])

    def virtual_time_ns() -> int:
        return real_ns() + int(float(_OFFSET.unpack_from(shared)[0]) * 1_000_000_000)

    time.time, time.time_ns = virtual_time, virtual_time_ns


class Names:
    """The VPC's resolver: the sandbox's name table and nothing else. A name that is not in it does not exist."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._read_at: tuple[int, int] | None = None
        self._table: dict[str, str] = {}

    def address(self, name: str) -> str:
        """Raises ``socket.gaierror`` for a name that is not in the table."""
        try:
            stat = os.stat(self._path)
        except FileNotFoundError:
            self._table, self._read_at = {}, None
        else:
            if (stat.st_mtime_ns, stat.st_ino) != self._read_at:
                with open(self._path, encoding="utf-8") as file:
                    table = json.load(file)
                self._table = {known.lower().rstrip("."): address for known, address in table.items()}
                self._read_at = (stat.st_mtime_ns, stat.st_ino)
        try:
            return self._table[name.lower().rstrip(".")]
        except KeyError:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known") from None

    def install(self) -> None:
        resolve = socket.getaddrinfo

        def getaddrinfo(host: Any, port: Any, *args: Any, **kwargs: Any) -> Any:
            name = host.decode("ascii") if isinstance(host, bytes) else host
            return resolve(name if _needs_no_resolver(name) else self.address(name), port, *args, **kwargs)

        def gethostbyname(name: str) -> str:
            return "127.0.0.1" if name == "localhost" else name if _needs_no_resolver(name) else self.address(name)

        socket.getaddrinfo = getaddrinfo
        socket.gethostbyname = gethostbyname


def _needs_no_resolver(name: str | None) -> bool:
    if name is None or name in ("", "localhost"):
        return True
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            socket.inet_pton(family, name.split("%")[0])
        except OSError:
            continue
        return True
    return False


def prewarm() -> None:
    """Import, and read, what every function would.

    Drivers are left out: a function without a database must not have one. So is the X-Ray SDK, which decides at import
    whether it is in Lambda; only what it imports itself is here.
    """
    for module in PREWARMED_MODULES:
        with suppress(ImportError):
            importlib.import_module(module)
    with suppress(Exception), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # pydantic imports its parts when they are asked for, and most of them when the first model is made.
        pydantic = sys.modules["pydantic"]
        for name in pydantic.__all__:
            getattr(pydantic, name, None)
        pydantic.create_model("Prewarmed", text=(str, ...), moment=(pydantic.AwareDatetime | None, None))
    if "boto3" not in sys.modules:
        return
    import botocore.config
    import botocore.loaders
    import botocore.session

    # Reading the service models is most of what a client costs. Sessions do not share them; processes of ours do.
    botocore.loaders.JSONFileLoader.load_file = functools.lru_cache(maxsize=None)(
        botocore.loaders.JSONFileLoader.load_file
    )
    botocore.loaders.JSONFileLoader.__hash__ = lambda self: hash(type(self))
    botocore.loaders.JSONFileLoader.__eq__ = lambda self, other: type(self) is type(other)
    session = botocore.session.Session()
    unsigned = botocore.config.Config(signature_version=botocore.UNSIGNED)
    for service in PREWARMED_CLIENTS:
        # The layer carries only the services that it needs.
        with suppress(Exception):
            session.create_client(service, region_name="us-east-1", endpoint_url="http://127.0.0.1:9", config=unsigned)


# -- faults ------------------------------------------------------------------------------------------------------------

_VARYING = re.compile(r"""'(?:[^']|'')*'|"(?:[^"]|"")*"|`(?:[^`]|``)*`|\$\w*\$.*?\$\w*\$|\b\d+\b""", re.DOTALL)


def shape_of(statement: str) -> str:
    """A SQL statement without what differs from run to run: literals, quoted names, numbers, white space.

    >>> shape_of('ALTER DATABASE "o""r"  CONNECTION LIMIT 0 -- \'x\'')
    'ALTER DATABASE ? CONNECTION LIMIT ? -- ?'
    """
    return " ".join(_VARYING.sub("?", statement).split())


class Fault:
    """What happens before or after the n-th AWS call or SQL statement (``shape``: of this shape) of one invocation.

    ``kill``: the process dies. ``lose``: the connection to the server is lost. ``report``: the sandbox is told, and
    does what it has to before this goes on. ``nth`` 0 never happens, and only notes the statements.
    """

    def __init__(self, at: str, nth: int, when: str, what: str, shape: str | None) -> None:
        self.at, self.nth, self.when, self.what, self.shape = at, nth, when, what, shape
        self.seen = 0
        self.struck = False
        self.statements: list[str] = []
        self.report: Callable[[], None] = lambda: None

    def around(self, kind: str, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if kind != self.at:
            return call(*args, **kwargs)
        if kind == "statement":
            shape = shape_of(str(args[1]))
            self.statements.append(shape)
            if self.shape not in (None, shape):
                return call(*args, **kwargs)
        self.seen += 1
        due = self.seen == self.nth
        if due and self.when == "before":
            self._strike(args[0])
        try:
            return call(*args, **kwargs)
        finally:
            if due and self.when == "after":
                self._strike(args[0])

    def _strike(self, caller: Any) -> None:
        self.struck = True
        if self.what == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif self.what == "report":
            self.report()
        else:
            lost = _lose(caller)
            if self.when == "after":
                raise lost


def _lose(connection: Any) -> Exception:
    """Cut a connection to a database; returns what its driver says to that."""
    raw = getattr(connection, "_usock", None)
    if raw is not None:
        raw.shutdown(socket.SHUT_RDWR)
        return sys.modules["pg8000.exceptions"].InterfaceError("network error")  # type: ignore[no-any-return]
    connection._sock.shutdown(socket.SHUT_RDWR)
    return sys.modules["pymysql.err"].OperationalError(  # type: ignore[no-any-return]
        2013, "Lost connection to MySQL server during query"
    )


class Faults:
    """The places where a fault may strike; installed in a child only when the first fault is asked of it."""

    def __init__(self, report: Callable[[], None]) -> None:
        self.current: Fault | None = None
        self._report = report
        self._watched: set[str] = set()

    def set(self, fault: dict[str, Any] | None) -> None:
        self.current = Fault(**fault) if fault else None
        if self.current is not None:
            self.current.report = self._report
        if fault is None:
            return
        if fault["at"] == "aws_call":
            self._watch("botocore.client", "BaseClient", "_make_api_call", "aws_call")
        else:
            self._watch("pg8000.core", "CoreConnection", "execute_simple", "statement")
            self._watch("pg8000.core", "CoreConnection", "execute_unnamed", "statement")
            self._watch("pg8000.core", "CoreConnection", "execute_named", "statement")
            self._watch("pymysql.connections", "Connection", "query", "statement")

    def _watch(self, module: str, owner: str, method: str, kind: str) -> None:
        if f"{owner}.{method}" in self._watched:
            return
        self._watched.add(f"{owner}.{method}")
        try:
            owning_class = getattr(importlib.import_module(module), owner)
        except ImportError:
            return
        original = getattr(owning_class, method)

        @functools.wraps(original)
        def watched(*args: Any, **kwargs: Any) -> Any:
            if self.current is None:
                return original(*args, **kwargs)
            return self.current.around(kind, original, *args, **kwargs)

        setattr(owning_class, method, watched)


# -- one execution environment -----------------------------------------------------------------------------------------


class Context:
    """What Lambda hands to a handler beside the event."""

    identity = None
    client_context = None

    def __init__(self, request: dict[str, Any]) -> None:
        self.aws_request_id: str = request["request_id"]
        self.invoked_function_arn: str = request["invoked_function_arn"]
        self.function_name = os.environ["AWS_LAMBDA_FUNCTION_NAME"]
        self.function_version = os.environ["AWS_LAMBDA_FUNCTION_VERSION"]
        self.memory_limit_in_mb = os.environ["AWS_LAMBDA_FUNCTION_MEMORY_SIZE"]
        self.log_group_name = os.environ["AWS_LAMBDA_LOG_GROUP_NAME"]
        self.log_stream_name = os.environ["AWS_LAMBDA_LOG_STREAM_NAME"]
        self._deadline = time.monotonic() + float(request["timeout_seconds"])

    def get_remaining_time_in_millis(self) -> int:
        return max(0, int((self._deadline - time.monotonic()) * 1000))


def _error(error: BaseException) -> dict[str, Any]:
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if frame.filename != __file__]
    return {
        "errorMessage": str(error),
        "errorType": type(error).__name__,
        "stackTrace": traceback.format_list(own),
    }


def _load_handler(name: str) -> Callable[[Any, Context], Any] | dict[str, Any]:
    """The handler, or the error that Lambda reports when there is none."""
    module_name, _, function_name = name.rpartition(".")
    try:
        module = importlib.import_module(module_name.replace("/", "."))
    except ImportError as error:
        problem = _error(error)
        return problem | {
            "errorType": "Runtime.ImportModuleError",
            "errorMessage": f"Unable to import module '{module_name}': {error}",
        }
    except SyntaxError as error:
        return _error(error) | {"errorType": "Runtime.UserCodeSyntaxError"}
    except Exception as error:
        return _error(error)
    handler: Callable[[Any, Context], Any] | None = getattr(module, function_name, None)
    if handler is None:
        message = f"Handler '{function_name}' missing on module '{module_name}'"
        return {"errorType": "Runtime.HandlerNotFound", "errorMessage": message, "stackTrace": []}
    return handler


def _respond(handler: Callable[[Any, Context], Any], request: dict[str, Any]) -> dict[str, Any]:
    os.environ["_X_AMZN_TRACE_ID"] = request["trace_id"]
    try:
        result = handler(request["event"], Context(request))
    except Exception as error:
        problem = _error(error)
        print(json.dumps(problem), file=sys.stderr)
        return {"error": problem}
    try:
        return {"payload": json.dumps(result)}
    except (TypeError, ValueError) as error:
        problem = {
            "errorType": "Runtime.MarshalError",
            "errorMessage": f"Unable to marshal response: {error}",
            "stackTrace": [],
        }
        return {"error": problem}


def live(control: socket.socket, log: int) -> None:
    """The life of one execution environment: set up, serve one invocation after the other, end with the socket."""
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)
    setup = receive(control)
    if setup is None:
        return
    os.environ.clear()
    os.environ.update(setup["environment"])
    time.tzset()
    tempfile.tempdir = None
    os.chdir(setup["task_root"])
    sys.path.insert(0, setup["task_root"])
    root_handler = logging.StreamHandler(sys.stdout)
    root_handler.setFormatter(logging.Formatter(_LOG_FORMAT, "%Y-%m-%dT%H:%M:%S"))
    logging.getLogger().addHandler(root_handler)

    handler = _load_handler(setup["handler"])
    if isinstance(handler, dict):
        print(json.dumps(handler), file=sys.stderr)
        send(control, {"error": handler})
        return
    send(control, {})

    def report() -> None:
        send(control, {"reached": True})
        receive(control)

    faults = Faults(report)
    while (request := receive(control)) is not None:
        faults.set(request.get("fault"))
        answer = _respond(handler, request)
        if faults.current is not None:
            answer |= {"statements": faults.current.statements, "struck": faults.current.struck}
        sys.stdout.flush()
        sys.stderr.flush()
        send(control, answer)


def _die_with_parent(parent: int) -> None:
    set_parent_death_signal = 1
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


# -- the parent --------------------------------------------------------------------------------------------------------


def _exit_reason(status: int) -> str:
    """In the words of Lambda's runtime."""
    if os.WIFSIGNALED(status):
        return f"signal: {signal.Signals(os.WTERMSIG(status)).name.removeprefix('SIG').lower()}"
    return f"exit status {os.WEXITSTATUS(status)}"


class Zygote:
    """Forks on request, kills on request, tells of every end. One datagram per message."""

    def __init__(self, host: socket.socket) -> None:
        self._host = host
        self._children: set[int] = set()

    def run(self) -> None:
        wake_up, awakened = os.pipe()
        os.set_blocking(awakened, False)
        signal.signal(signal.SIGCHLD, self._ignore)
        signal.set_wakeup_fd(awakened)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interrupt at the terminal is for the sandbox to handle
        self._tell({"ready": True})
        while True:
            readable, _, _ = select.select([self._host.fileno(), wake_up], [], [])
            if wake_up in readable:
                os.read(wake_up, 512)
            self._reap()
            if self._host.fileno() in readable:
                data, ancillary, _, _ = self._host.recvmsg(4096, socket.CMSG_SPACE(2 * array.array("i").itemsize))
                if not data:
                    break
                self._obey(json.loads(data), [fd for item in ancillary for fd in _descriptors(item)])
        # The children die with this process: each has asked the kernel for it.

    @staticmethod
    def _ignore(_signal: int, _frame: FrameType | None) -> None:
        return

    def _tell(self, message: dict[str, Any]) -> None:
        with suppress(BrokenPipeError, ConnectionResetError):
            self._host.send(json.dumps(message).encode())

    def _obey(self, message: dict[str, Any], descriptors: list[int]) -> None:
        if "kill" in message:
            # Only the parent can know that the id still belongs to that child: it has not been reaped.
            if message["kill"] in self._children:
                os.kill(message["kill"], signal.SIGKILL)
            return
        control, log = descriptors
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            self._live_and_exit(parent, control, log)
        self._children.add(pid)
        os.close(control)
        os.close(log)
        self._tell({"forked": message["fork"], "pid": pid})

    def _live_and_exit(self, parent: int, control: int, log: int) -> None:
        status = 0
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            _die_with_parent(parent)
            self._host.close()
            live(socket.socket(fileno=control), log)
        except SystemExit as ending:
            status = ending.code if isinstance(ending.code, int) else 1 if ending.code else 0
        except BaseException:
            traceback.print_exc()
            status = 1
        finally:
            with suppress(Exception):
                sys.stdout.flush()
            os._exit(status)

    def _reap(self) -> None:
        for pid in list(self._children):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                self._children.discard(pid)
                self._tell({"ended": pid, "reason": _exit_reason(status)})


def _descriptors(item: tuple[int, int, bytes]) -> list[int]:
    level, kind, data = item
    if (level, kind) != (socket.SOL_SOCKET, socket.SCM_RIGHTS):
        return []
    numbers = array.array("i")
    numbers.frombytes(data)
    return list(numbers)


def main() -> None:
    descriptor, opt, clock_offset, names = sys.argv[1:5]
    host = socket.socket(fileno=int(descriptor))
    os.set_inheritable(host.fileno(), False)
    sys.path.insert(0, os.path.join(opt, "python"))
    # Before any import that keeps a reference to the functions replaced.
    follow_clock(clock_offset)
    Names(names).install()
    prewarm()
    gc.collect()
    gc.freeze()
    Zygote(host).run()


if __name__ == "__main__":
    main()
