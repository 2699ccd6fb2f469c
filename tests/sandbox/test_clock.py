"""The virtual clock may skip waiting, and nothing else: never real work, never a brief wait, never an idle account."""

import datetime as dt
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandbox.clock import BRIEF_SECONDS, SETTLE_SECONDS, VirtualClock

DAY = 86_400.0


@pytest.fixture
def clock(tmp_path: Path) -> Iterator[VirtualClock]:
    clock = VirtualClock(tmp_path / "clock.offset")
    yield clock
    clock.stop()


class Waiting:
    """A thread that waits on the clock, inside an execution unless told otherwise."""

    def __init__(self, clock: VirtualClock, seconds: float, *, execution: bool = True) -> None:
        self.came: bool | None = None
        self.woke_at = 0.0
        self.stop = threading.Event()
        self._clock, self._seconds, self._execution = clock, seconds, execution
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        if self._execution:
            with self._clock.running(), self._clock.execution_thread():
                self._wait()
        else:
            self._wait()

    def _wait(self) -> None:
        self.came = self._clock.sleep(self._seconds, self.stop)
        self.woke_at = self._clock.time()

    def ended_within(self, real_seconds: float) -> bool:
        self.thread.join(real_seconds)
        return not self.thread.is_alive()


def test_a_week_of_grace_takes_no_time(clock: VirtualClock) -> None:
    """Otherwise nobody would ever see a rotation end."""
    before = clock.time()

    waiting = Waiting(clock, 7 * DAY)

    assert waiting.ended_within(2)
    assert waiting.came is True
    assert 7 * DAY <= waiting.woke_at - before < 7 * DAY + 5


def test_nothing_jumps_without_an_execution(clock: VirtualClock) -> None:
    """A quarterly schedule would otherwise fire twenty times a second."""
    waiting = Waiting(clock, DAY, execution=False)

    assert not waiting.ended_within(0.4)
    assert clock.offset == 0
    waiting.stop.set()
    assert waiting.ended_within(1)
    assert waiting.came is False


def test_real_work_holds_the_clock(clock: VirtualClock) -> None:
    """A Lambda that runs while another execution waits must not see a week pass."""
    with clock.busy():
        waiting = Waiting(clock, DAY)
        assert not waiting.ended_within(0.4)
        assert clock.offset == 0

    assert waiting.ended_within(2)


def test_the_earliest_wakes_first_and_is_not_jumped_over(clock: VirtualClock) -> None:
    """Whoever wakes holds the clock again before the next jump is considered."""
    later = Waiting(clock, 30 * DAY)
    woke: list[float] = []

    def first() -> None:
        with clock.running(), clock.execution_thread():
            clock.sleep(DAY)
            woke.append(clock.offset)
            time.sleep(0.3)  # real work after the wake-up
            woke.append(clock.offset)

    thread = threading.Thread(target=first, daemon=True)
    thread.start()
    thread.join(3)

    assert woke[0] == woke[1] < DAY + 1
    assert later.ended_within(2)


def test_what_is_not_an_execution_is_woken_on_the_way(clock: VirtualClock) -> None:
    """Backups, schedules and key deletions happen when their time comes, also inside a longer wait."""
    before = clock.time()
    backup = Waiting(clock, DAY, execution=False)
    time.sleep(0.05)

    grace = Waiting(clock, 2 * DAY)

    assert backup.ended_within(2)
    assert backup.woke_at - before < DAY + 5
    assert grace.ended_within(2)


def test_brief_waits_are_real_and_hold_the_clock(clock: VirtualClock) -> None:
    """They are the polls inside the write outage, which is measured in real seconds."""
    long = Waiting(clock, DAY)
    started = time.monotonic()

    with clock.running(), clock.execution_thread():
        assert clock.sleep(0.5)

    assert time.monotonic() - started >= 0.5
    assert BRIEF_SECONDS == 5
    assert long.ended_within(2)


def test_an_execution_that_awaits_only_a_token_does_not_make_the_seasons_pass(clock: VirtualClock) -> None:
    """It may wait for a person's approval; schedules must not race meanwhile."""
    schedule = Waiting(clock, 90 * DAY, execution=False)

    with clock.running(), clock.execution_thread(), clock.idle():
        time.sleep(0.4)

    assert clock.offset == 0
    schedule.stop.set()


def test_jumps_are_apart(clock: VirtualClock) -> None:
    """Something real, a heartbeat or a connection, has a chance between any two of them."""
    started = time.monotonic()

    with clock.running(), clock.execution_thread():
        for _ in range(5):
            clock.sleep(3600)

    assert time.monotonic() - started >= 5 * SETTLE_SECONDS


def test_other_processes_read_the_offset(clock: VirtualClock) -> None:
    """Lambda processes add it to their own time."""
    assert Waiting(clock, DAY).ended_within(2)
    assert clock.offset_path is not None

    (published,) = struct.unpack("<d", clock.offset_path.read_bytes())

    assert published == clock.offset > DAY - 5


_GOVERNED = """
import datetime as dt, threading, time
from sandbox.clock import VirtualClock
clock = VirtualClock()
clock.govern_process()
monotonic, began = time.monotonic(), time.time()
with clock.running(), clock.execution_thread():
    clock.sleep(86400)
assert 86400 <= time.time() - began < 86405, time.time() - began
assert abs(dt.datetime.now(dt.UTC).timestamp() - clock.time()) < 0.1
assert abs(dt.datetime.utcnow().replace(tzinfo=dt.UTC).timestamp() - clock.time()) < 0.1
assert time.monotonic() - monotonic < 5
waited = time.monotonic()
threading.Event().wait(0.2)
assert 0.2 <= time.monotonic() - waited < 1
clock.stop()
assert time.time() - began < 10
"""


def test_the_governed_process_lives_in_virtual_time_with_real_patience() -> None:
    """moto's dates follow the clock; its timeouts do not. In a process of its own, because it governs all of it."""
    subprocess.run([sys.executable, "-W", "ignore", "-c", _GOVERNED], check=True, timeout=60)


def test_now_is_aware(clock: VirtualClock) -> None:
    assert clock.now().tzinfo is dt.UTC
