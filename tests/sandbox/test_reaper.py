"""Nothing stays behind, however the sandbox ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from sandbox.reaper import Reaper, start_time

OWNER = """
import subprocess, sys, time
from pathlib import Path
from sandbox.reaper import Reaper
directory = Path(sys.argv[1])
reaper = Reaper(directory)
kept, ended = (subprocess.Popen(["sleep", "60"], start_new_session=True) for _ in range(2))
reaper.track(kept.pid); reaper.track(ended.pid); reaper.forget(ended.pid)
# A child forked from the sandbox holds the pipe open: its end alone would never come.
import os
child = os.fork()
if not child:
    time.sleep(60)
# Killed before the reaper looks, the sandbox would not be missed in the same way.
while not int(Path(f"/proc/{reaper.pid}/status").read_text().split("SigIgn:")[1].split()[0], 16) & 1 << 14:
    time.sleep(0.05)
time.sleep(0.5)
print(kept.pid, ended.pid, child, reaper.pid, flush=True)
time.sleep(60)
"""


def wait_for(condition: Callable[[], bool], seconds: float = 15) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGTERM])
def test_processes_and_files_go_when_the_sandbox_is_killed(tmp_path: Path, ending: signal.Signals) -> None:
    directory = tmp_path / "work"
    (directory / "deep").mkdir(parents=True)
    root = Path(__file__).resolve().parents[2]
    owner = subprocess.Popen([sys.executable, "-c", OWNER, str(directory)], stdout=subprocess.PIPE, text=True, cwd=root)
    assert owner.stdout
    kept, forgotten, child, reaper = map(int, owner.stdout.readline().split())
    try:
        owner.send_signal(ending)
        owner.wait(10)
        wait_for(lambda: start_time(kept) is None)
        wait_for(lambda: not directory.exists())
        wait_for(lambda: start_time(reaper) is None)
        # Whom it was told to forget is not its concern any more.
        assert start_time(forgotten) is not None
    finally:
        for pid in (forgotten, child):
            os.kill(pid, signal.SIGKILL)


def test_a_stranger_with_the_same_number_is_left_alone(tmp_path: Path) -> None:
    """Process ids are given again."""
    stranger = subprocess.Popen(["sleep", "60"])
    try:
        reaper = Reaper(tmp_path / "work")
        reaper._say(f"track {stranger.pid} 1")
        reaper.close()
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()
