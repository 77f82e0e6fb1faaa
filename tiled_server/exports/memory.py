"""Memory that the C library keeps of threads that write."""

from __future__ import annotations

import ctypes
import sys
from typing import Final

_M_ARENA_MAX: Final = -8
"""Of ``mallopt`` in the GNU C library's malloc.h."""


def one_arena() -> None:
    """Let all threads of this process allocate from one heap; call it before it has threads.

    The GNU C library gives each thread a heap of its own, up to eight a core, and what is freed in one is not
    given to the others: the memory of an export grows with the shards that it writes. Where there is another
    C library nothing is changed.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, 1)
