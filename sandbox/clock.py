"""One virtual clock for the whole sandbox: real time plus an offset that only grows.

The offset jumps to the next wake-up when every running execution waits and nothing real is going on, so that a grace
period of days takes milliseconds. Nothing else ever moves it: without a running execution the clock only ticks, and
schedules do not race.
"""

from __future__ import annotations

import datetime as dt
import mmap
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import time_machine

BRIEF_SECONDS = 5.0
"""Waits up to this long are taken in real time and hold the clock: they are the ones inside the write outage."""

SETTLE_SECONDS = 0.05
"""Real time without any activity before a jump; so at least this long between two jumps."""

_POLL_SECONDS = 0.02
_OFFSET = struct.Struct("<d")


def real_time() -> float:
    """The machine's time, whichever clock governs this process."""
    return time_machine.escape_hatch.time.time() if time_machine.escape_hatch.is_travelling() else time.time()


@dataclass(eq=False)
class _Waiter:
    deadline: float
    holds: int
    in_execution: bool
    interrupted: Callable[[], bool]
    woken: threading.Event = field(default_factory=threading.Event)
    came: bool = False


class _PerThread(threading.local):
    holds = 0
    in_execution = False


class VirtualClock:
    """Time for everything in the sandbox; ``offset_path`` tells other processes the offset (one little-endian double).

    A thread *holds* the clock while it does something real (:meth:`busy`, :meth:`execution_thread`).
    :meth:`wait_until` and :meth:`idle` give up what the calling thread holds. It jumps only while nobody holds it.
    """

    def __init__(self, offset_path: Path | None = None) -> None:
        self.offset_path = offset_path
        self._offset = 0.0
        self._condition = threading.Condition()
        self._holds = 0
        self._executions = 0
        self._waiters: list[_Waiter] = []
        self._quiet_since = time.monotonic()
        self._local = _PerThread()
        self._stopped = False
        self._travel: time_machine.travel | None = None
        self._traveller: time_machine.Traveller | None = None
        self._published: mmap.mmap | None = None
        if offset_path is not None:
            offset_path.write_bytes(_OFFSET.pack(0.0))
            with offset_path.open("r+b") as file:
                self._published = mmap.mmap(file.fileno(), _OFFSET.size)
        self._ticker = threading.Thread(target=self._tick, name="virtual clock", daemon=True)
        self._ticker.start()

    # -- reading -------------------------------------------------------------------------------------------------------

    @property
    def offset(self) -> float:
        """Seconds by which this clock is ahead of the real one."""
        return self._offset

    @property
    def executions(self) -> int:
        """How many executions are running; without any the clock only ticks."""
        return self._executions

    def time(self) -> float:
        return real_time() + self._offset

    def now(self) -> dt.datetime:
        return dt.datetime.fromtimestamp(self.time(), dt.UTC)

    # -- governing the process -----------------------------------------------------------------------------------------

    def govern_process(self) -> None:
        """Make ``time.time`` and ``datetime.now`` of this whole process follow; monotonic time and sleeps stay real."""
        self._travel = time_machine.travel(self.time(), tick=True)
        self._traveller = self._travel.start()
        time.time()  # the traveller starts to tick at its first reading
        self._traveller.shift(self.time() - time.time())

    def stop(self) -> None:
        with self._condition:
            self._stopped = True
            for waiter in self._waiters:
                waiter.woken.set()
            self._condition.notify_all()
        if self._travel is not None:
            self._travel.stop()
            self._travel = self._traveller = None

    # -- who holds the clock -------------------------------------------------------------------------------------------

    @contextmanager
    def busy(self) -> Iterator[None]:
        """Real work in progress in this thread: no jump until it is over."""
        self.hold()
        self._local.holds += 1
        try:
            yield
        finally:
            self._local.holds -= 1
            self.let_go()

    @contextmanager
    def execution_thread(self, *, inherited: bool = False) -> Iterator[None]:
        """As :meth:`busy`, for a thread that interprets states; its waits are the ones that the clock jumps over.

        ``inherited``: whoever started this thread has called :meth:`hold` for it, and somebody else will let go.
        """
        outer, self._local.in_execution = self._local.in_execution, True
        if not inherited:
            self.hold()
        self._local.holds += 1
        try:
            yield
        finally:
            self._local.holds -= 1
            self._local.in_execution = outer
            if not inherited:
                self.let_go()

    @contextmanager
    def running(self) -> Iterator[None]:
        """One execution is running; without any the clock never jumps."""
        with self._condition:
            self._executions += 1
        try:
            yield
        finally:
            with self._condition:
                self._executions -= 1

    @contextmanager
    def idle(self) -> Iterator[None]:
        """This thread waits for another one, which holds the clock itself if it has to."""
        held = self._local.holds
        with self._condition:
            self._change_holds(-held)
        try:
            yield
        finally:
            with self._condition:
                self._change_holds(held)

    def hold(self) -> None:
        """Hold the clock on behalf of somebody who will :meth:`let_go`; prefer :meth:`busy`."""
        with self._condition:
            self._change_holds(1)

    def let_go(self) -> None:
        with self._condition:
            self._change_holds(-1)

    def _change_holds(self, change: int) -> None:
        self._holds += change
        self._quiet_since = time.monotonic()

    # -- waiting -------------------------------------------------------------------------------------------------------

    def wait_until(
        self, deadline: float | dt.datetime, interrupted: Callable[[], bool] | threading.Event | None = None
    ) -> bool:
        """Wait until this clock shows ``deadline`` (seconds or aware datetime); False if interrupted or shut down."""
        moment = deadline.timestamp() if isinstance(deadline, dt.datetime) else float(deadline)
        if isinstance(interrupted, threading.Event):
            interrupted = interrupted.is_set
        is_interrupted = interrupted or (lambda: False)
        if is_interrupted():
            return False
        remaining = moment - self.time()
        if remaining <= 0:
            return True
        if remaining <= BRIEF_SECONDS:
            with self.busy():
                return self._wait_briefly(remaining, is_interrupted)
        waiter = _Waiter(moment, self._local.holds, self._local.in_execution, is_interrupted)
        with self._condition:
            self._change_holds(-waiter.holds)
            self._waiters.append(waiter)
            self._condition.notify_all()
        # Whoever wakes a waiter takes its holds back for it, so that there is no moment in between for another jump.
        waiter.woken.wait()
        return waiter.came

    def sleep(self, seconds: float, interrupted: Callable[[], bool] | threading.Event | None = None) -> bool:
        return self.wait_until(self.time() + seconds, interrupted)

    def _wait_briefly(self, seconds: float, interrupted: Callable[[], bool]) -> bool:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            if self._stopped or interrupted():
                return False
            time.sleep(min(left, _POLL_SECONDS))
        return True

    def _tick(self) -> None:
        with self._condition:
            while not self._stopped:
                self._wake()
                if self._may_jump():
                    self._jump(min(waiter.deadline for waiter in self._waiters) - self.time())
                    self._wake()
                self._condition.wait(_POLL_SECONDS if self._waiters else None)

    def _wake(self) -> None:
        now = self.time()
        for waiter in list(self._waiters):
            waiter.came = waiter.deadline <= now
            if waiter.came or waiter.interrupted():
                self._waiters.remove(waiter)
                self._change_holds(waiter.holds)
                waiter.woken.set()

    def _may_jump(self) -> bool:
        return (
            self._holds == 0
            # An execution that waits for a moment is all that moves the clock. One that waits for a task token alone
            # may wait for a person; it must not make the seasons pass.
            and any(waiter.in_execution for waiter in self._waiters)
            and time.monotonic() - self._quiet_since >= SETTLE_SECONDS
        )

    def _jump(self, seconds: float) -> None:
        if seconds <= 0:
            return
        self._offset += seconds
        self._quiet_since = time.monotonic()
        if self._published is not None:
            _OFFSET.pack_into(self._published, 0, self._offset)
        if self._traveller is not None:
            self._traveller.shift(float(seconds))
