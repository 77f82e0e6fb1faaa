"""Threads of an export share one heap, so that its memory does not grow with what it writes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

_THREADS = """
import ctypes, sys, threading
from tiled_server.exports.memory import one_arena
if sys.argv[2] == "one":
    one_arena()
libc, all_run = ctypes.CDLL(None), threading.Barrier(4)
libc.malloc.restype = libc.fopen.restype = ctypes.c_void_p
def allocate():
    all_run.wait()
    libc.malloc(5000)
threads = [threading.Thread(target=allocate) for _ in range(4)]
for thread in threads: thread.start()
for thread in threads: thread.join()
file = ctypes.c_void_p(libc.fopen(sys.argv[1].encode(), b"w"))
libc.malloc_info(0, file)
libc.fclose(file)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the GNU C library is asked how many heaps it has")
def test_threads_share_one_heap(tmp_path: Path) -> None:
    heaps = {}
    for how in ("one", "own"):
        file = tmp_path / how
        subprocess.run([sys.executable, "-c", _THREADS, str(file), how], check=True)
        heaps[how] = file.read_text().count("<heap nr")
    assert heaps["one"] == 1
    assert heaps["own"] > 1
