"""One engine a laboratory: the lock, over processes that end in order, are killed or are stopped."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from montango.fence import EngineBusy, EngineLock

HOLD = """
import sys
from montango.fence import EngineLock
lock = EngineLock(sys.argv[1])
lock.acquire()
print("held", flush=True)
sys.stdin.read()
"""
Start = Callable[[], "subprocess.Popen[str]"]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Return a function that starts a process which holds the lock until it ends."""
    started: list[subprocess.Popen[str]] = []

    def begin() -> subprocess.Popen[str]:
        command = [sys.executable, "-c", HOLD, str(tmp_path)]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        return process

    yield begin
    for process in started:
        process.kill()
        process.communicate()


def test_the_one_that_drives_is_named_and_the_lock_ends_with_it(tmp_path: Path, start: Start) -> None:
    other = start()
    lock = EngineLock(tmp_path)
    holder = lock.holder()
    assert holder is not None
    assert holder.pid == other.pid
    with pytest.raises(EngineBusy, match=rf"pid {other.pid}, since 20\d\d-.*montango shell --read-only"):
        lock.acquire()
    other.send_signal(signal.SIGSTOP)  # an engine that is stopped may wake up: it still drives
    with pytest.raises(EngineBusy):
        lock.acquire()
    other.kill()
    other.wait()
    assert lock.holder() is None
    assert lock.acquire().pid == os.getpid()
    assert lock.held
    lock.release()
    lock.release()
    assert not lock.held


def test_two_sessions_of_one_process_exclude_each_other(tmp_path: Path) -> None:
    first, second = EngineLock(tmp_path), EngineLock(tmp_path)
    first.acquire()
    with pytest.raises(EngineBusy, match=f"pid {os.getpid()}"):
        second.acquire()
    first.release()
    second.acquire()
    second.release()


def test_what_was_written_by_another_version_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / "engine.lock").write_text('{"process": 3}')
    lock = EngineLock(tmp_path)
    assert lock.holder() is None
    lock.acquire()
    with pytest.raises(EngineBusy):
        EngineLock(tmp_path).acquire()
    lock.release()
