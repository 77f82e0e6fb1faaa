"""numba's decorator as the simulation uses it, with the types of what it decorates kept.

Machine code is cached beside the sources, or in the user's cache folder where those cannot be written.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, cast

import numba.core.entrypoints

# else the first compiled function loads what other installed packages register with numba (awkward, sparse):
# 60 MB and 0.8 s a process, for types that no simulation knows
numba.core.entrypoints._already_initialized = True

Function = TypeVar("Function", bound=Callable[..., object])


def kernel(function: Function) -> Function:
    """Compile a function at its first call; other threads run while it does."""
    return cast("Function", numba.njit(cache=True, nogil=True, fastmath=True)(function))


def inlined(function: Function) -> Function:
    """Compile a small function into those that call it."""
    return cast("Function", numba.njit(cache=True, nogil=True, fastmath=True, inline="always")(function))
