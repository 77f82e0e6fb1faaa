"""numba's decorator as the kernels use it: cached on disk, other threads run, types kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, cast

import numba.core.entrypoints
from numba import njit

__all__ = ["compiled", "njit"]

# else the first compiled function loads what other installed packages register with numba (awkward, sparse):
# 60 MB and 0.8 s a process, for types that no kernel knows
numba.core.entrypoints._already_initialized = True

Function = TypeVar("Function", bound=Callable[..., object])


def compiled(function: Function) -> Function:
    """Compile a function at its first call; its arrays must be finite (``fastmath``)."""
    return cast("Function", njit(cache=True, nogil=True, fastmath=True)(function))
