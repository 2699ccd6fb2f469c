"""Ends what the sandbox started, and removes its directory, when the sandbox dies: also after SIGKILL.

A small process of its own. It learns of processes through a pipe; the end of the pipe, or the end of the sandbox's
process, is the signal. A process is known by id *and* start time: an id that the kernel gave to a stranger is left
alone.
"""

import contextlib
import os
import select
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path


def start_time(pid: int) -> str | None:
    """The process's start time in clock ticks since boot; None when there is no such process (or only its corpse)."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = stat[stat.rindex(")") + 2 :].split()
    return None if fields[0] == "Z" else fields[19]


class Reaper:
    """The sandbox's end of the pipe. Thread-safe."""

    def __init__(self, directory: Path, *, remove_directory: bool = True) -> None:
        """Start the reaper. ``directory`` is removed at the end, with everything in it."""
        self._lock = threading.Lock()
        self._process = subprocess.Popen(
            # -I: nothing of the caller's environment or directory is imported; the file has no dependencies.
            [sys.executable, "-I", str(Path(__file__).resolve()), str(os.getpid()), str(directory)]
            + (["--remove"] if remove_directory else []),
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            # A session of its own: an interrupt at the terminal ends the sandbox, and the reaper after it.
            start_new_session=True,
            text=True,
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    def track(self, pid: int) -> None:
        """End this process when the sandbox dies. Ignored when it is gone already."""
        if began := start_time(pid):
            self._say(f"track {pid} {began}")

    def forget(self, pid: int) -> None:
        """This process has ended, or is no longer the sandbox's concern."""
        self._say(f"forget {pid}")

    def close(self, timeout: float = 120.0) -> None:
        """Let the reaper do its work now, and wait for it."""
        with self._lock, contextlib.suppress(OSError):
            assert self._process.stdin is not None
            self._process.stdin.close()
        self._process.wait(timeout)

    def _say(self, line: str) -> None:
        # A reaper that is gone must not take the sandbox with it.
        with self._lock, contextlib.suppress(OSError, ValueError):
            assert self._process.stdin is not None
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()


def _end(tracked: dict[int, str]) -> None:
    def living() -> list[int]:
        return [pid for pid, began in tracked.items() if start_time(pid) == began]

    # SIGQUIT is an immediate shutdown for a postmaster: its children go with it and it leaves no shared memory.
    for sent, patience in ((signal.SIGQUIT, 3.0), (signal.SIGKILL, 3.0)):
        for pid in living():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, sent)
        deadline = time.monotonic() + patience
        while living() and time.monotonic() < deadline:
            time.sleep(0.02)


def _remove(directory: Path) -> None:
    # Again and again: a server that is just ending may still write a file into a directory that was empty.
    for _ in range(50):
        shutil.rmtree(directory, ignore_errors=True)
        if not directory.exists():
            return
        time.sleep(0.1)


def _watch(sandbox: int, directory: Path, remove: bool) -> None:
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    tracked: dict[int, str] = {}
    poll = select.poll()
    poll.register(0, select.POLLIN | select.POLLHUP)
    # The pipe alone is not enough: a child forked from the sandbox keeps its writing end open.
    with contextlib.suppress(OSError, AttributeError):
        poll.register(os.pidfd_open(sandbox), select.POLLIN)
    pending = b""
    gone = os.getppid() != sandbox  # it may have died before this process could look at it
    while True:
        # What the sandbox said before it died counts, so the pipe is read to its end (or until nobody speaks).
        ready = [descriptor for descriptor, _ in poll.poll(0 if gone else None)]
        gone = gone or any(descriptor != 0 for descriptor in ready)
        data = os.read(0, 65536) if 0 in ready else b""
        if not data and (gone or 0 in ready):
            break
        *lines, pending = (pending + data).split(b"\n")
        for line in lines:
            word, pid, *rest = line.decode().split()
            if word == "track":
                tracked[int(pid)] = rest[0]
            else:
                tracked.pop(int(pid), None)
    _end(tracked)
    if remove:
        _remove(directory)


if __name__ == "__main__":
    _watch(int(sys.argv[1]), Path(sys.argv[2]), "--remove" in sys.argv)
