"""What the engines have in common: servers as processes of an account that may do nothing, in private directories.

Every server listens on a unix socket in a directory that only its account can enter, so that clients come through the
TLS front.
"""

import os
import queue
import secrets
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

from sandbox.rds.servers import ServerError
from sandbox.reaper import Reaper

NOBODY = 65534
LONGEST_SOCKET_PATH = 107  # sun_path


def give(path: Path) -> None:
    """Let the servers' account have a file or directory."""
    if os.geteuid() == 0:
        os.chown(path, NOBODY, NOBODY)


def make_directory(path: Path) -> None:
    """A directory that only the servers' account can enter."""
    path.mkdir(mode=0o700)
    give(path)


class Launcher:
    """Starts processes from one thread that lives as long as the sandbox.

    The kernel sends the "parent died" signal when the *thread* that started a process ends, so a server started
    from a request's thread would be shut down with the request.
    """

    def __init__(self) -> None:
        self._jobs: queue.Queue[tuple[Callable[[], Any], queue.Queue[Any]]] = queue.Queue()
        threading.Thread(target=self._work, name="launcher", daemon=True).start()

    def popen(self, command: Sequence[str], **options: Any) -> "subprocess.Popen[bytes]":
        answer: queue.Queue[Any] = queue.Queue()
        self._jobs.put((lambda: subprocess.Popen(command, **options), answer))
        result = answer.get()
        if isinstance(result, BaseException):
            raise result
        process: subprocess.Popen[bytes] = result
        return process

    def _work(self) -> None:
        while True:
            job, answer = self._jobs.get()
            try:
                answer.put(job())
            except BaseException as error:  # handed to the caller, whose it is
                answer.put(error)


class LocalServer:
    """One server's files and, while it runs, its process."""

    SOCKET: str

    def __init__(self, engine: "LocalEngine[Any]", name: str, directory: Path) -> None:
        self.name = name
        self.directory = directory
        self.data = directory / "data"
        self.log = directory / "log"
        self.socket = directory / "s" / self.SOCKET
        self._engine = engine
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.RLock()

    @property
    def pid(self) -> int | None:
        process = self._process
        return process.pid if process and process.poll() is None else None

    def kill(self, with_signal: signal.Signals, timeout: float = 60.0) -> None:
        """Send the server a signal that ends it, and wait for the end."""
        with self._lock:
            process = self._process
            if process is None:
                return
            if process.poll() is None:
                process.send_signal(with_signal)
            try:
                process.wait(timeout)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(10)
            self._process = None
            if self._engine.reaper:
                self._engine.reaper.forget(process.pid)

    def destroy(self) -> None:
        self.kill(self._engine.QUICKLY)
        shutil.rmtree(self.directory, ignore_errors=True)
        self._engine.removed(self)

    def log_tail(self) -> str:
        try:
            return self.log.read_text(errors="replace")[-1500:]
        except OSError:
            return "(no log)"


S = TypeVar("S", bound=LocalServer)


class LocalEngine(Generic[S]):
    """Keeps the servers of one engine below one directory. Thread-safe."""

    QUICKLY: signal.Signals
    """Ends a server whose files nobody needs any more."""

    ON_PARENT_DEATH: str
    """The signal's name as setpriv wants it: a shutdown that needs nobody."""

    def __init__(self, directory: Path, reaper: Reaper | None = None) -> None:
        self.directory = directory
        self.reaper = reaper
        self.admin_password = secrets.token_hex(16)
        self._launcher = Launcher()
        self._lock = threading.Lock()
        self._golden: Path | None = None
        self._servers: dict[str, S] = {}
        directory.mkdir(parents=True, exist_ok=True)
        # As root the servers run as an account that may do nothing, and must get through to their files.
        self._as_other = os.geteuid() == 0
        if self._as_other:
            directory.chmod(0o711)
            if subprocess.run([*self.account_prefix(), "test", "-x", str(directory)]).returncode:
                raise ServerError(
                    f"the servers run as user {NOBODY}, who cannot enter {directory}: "
                    "let everybody pass through the directories above it (chmod o+x), or choose another one"
                )

    def close(self) -> None:
        with self._lock:
            servers = list(self._servers.values())
        for server in servers:
            server.kill(self.QUICKLY)

    def prepare(self) -> None:
        self.golden()

    def golden(self) -> Path:
        """The stopped server's files that every instance starts from; made once (seconds)."""
        with self._lock:
            if self._golden is None:
                self._golden = self._make_golden()
            return self._golden

    def run(self, program: str, *arguments: str) -> None:
        """Run one of the engine's programs as the servers' account."""
        done = subprocess.run(
            [*self.account_prefix(), self.program(program), *arguments],
            cwd=self.directory, env=self.environment(), capture_output=True, text=True,
        )  # fmt: skip
        if done.returncode:
            raise ServerError(f"{program} failed: {done.stderr.strip()[-2000:]}")

    def launch(self, server: S, program: str, *arguments: str) -> "subprocess.Popen[bytes]":
        with open(server.log, "ab") as log:
            process = self._launcher.popen(
                [*self.account_prefix("--pdeathsig", self.ON_PARENT_DEATH), self.program(program), *arguments],
                cwd=self.directory, env=self.environment_of(server), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                # Not in the terminal's process group: an interrupt there is for the sandbox, which stops its servers.
                start_new_session=True,
            )  # fmt: skip
        if self.reaper:
            self.reaper.track(process.pid)
        return process

    def account_prefix(self, *options: str) -> list[str]:
        account = [f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"] if self._as_other else []
        return ["setpriv", *account, *options] if account or options else []

    def removed(self, server: LocalServer) -> None:
        with self._lock:
            self._servers.pop(server.name, None)

    def copy(self, source: Path, target: Path) -> None:
        subprocess.run(["cp", "-a", "--reflink=auto", str(source), str(target)], check=True)

    def program(self, name: str) -> str:
        """Where one of the engine's programs is."""
        raise NotImplementedError

    def environment(self) -> Mapping[str, str]:
        """What the engine's programs find in their environment."""
        raise NotImplementedError

    def environment_of(self, server: S) -> Mapping[str, str]:
        """What a server finds there."""
        return self.environment()

    def _server(self, name: str, directory: Path) -> S:
        raise NotImplementedError

    def _make_golden(self) -> Path:
        raise NotImplementedError

    def _new(self, name: str) -> S:
        """A server's directories, and nothing in them yet.

        Raises:
            ServerError: the name is taken, or the path of the socket too long for the kernel.
        """
        with self._lock:
            if name in self._servers:
                raise ServerError(f"a server named {name} exists")
            server = self._servers[name] = self._server(name, self.directory / name)
        if len(str(server.socket)) > LONGEST_SOCKET_PATH:
            raise ServerError(f"the path of the socket is too long for the kernel: {server.socket}")
        return self._with_directories(server)

    def _with_directories(self, server: S) -> S:
        make_directory(server.directory)
        make_directory(server.socket.parent)
        return server
