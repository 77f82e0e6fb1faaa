"""What the parts of stitching cost: a pair, a solve of many tiles with wrong matches, the pyramid, a tile."""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path
from typing import Final

import cv2
import numpy as np

from montango.bench._pyramid import tile_times, writing_rates
from montango.bench._stitch_line import Line
from montango.bench._stitch_sets import open_set
from processing.kernels.pairs import match_pair
from processing.kernels.placement import Edge, place

_PAIR_LIMITS_MS: Final = {"s25": 5.0, "k64": 15.0, "q9": 45.0}
_PAIRS: Final = 10
_SIDE: Final = 100
_WRONG: Final = 0.02


def costs(folder: Path, data: Path | None) -> list[Line]:
    """Return what the parts cost, on one core but for the pyramid."""
    return [*pairs(folder, data), *solve(), *pyramid()]


def pairs(folder: Path, data: Path | None) -> list[Line]:
    """Return the CPU time to match a pair of tiles of 1K, 2K and 4K, ms."""
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    lines = []
    try:
        for name, limit_ms in _PAIR_LIMITS_MS.items():
            made = open_set(name, folder, data)
            spent: list[float] = []
            for i, j in list(made.pairs())[: _PAIRS + 1]:
                a, b = made.image(i), made.image(j)
                offset = made.nominal_px[j] - made.nominal_px[i]
                began = time.process_time()
                match_pair(a, b, (float(offset[0]), float(offset[1])), (64.0, 64.0))
                spent.append(1e3 * (time.process_time() - began))
            # the first one compiles, or loads what is compiled
            lines.append(
                Line(f"CPU a pair, tiles of {made.tile_px} px", statistics.median(spent[1:]), "ms", limit_ms)
            )
    finally:
        cv2.setNumThreads(threads)
    return lines


def solve() -> list[Line]:
    """Return how long 10,000 tiles take, and how far 2 % of wrong matches move any."""
    rng = np.random.default_rng(0)
    at = np.arange(_SIDE**2).reshape(_SIDE, _SIDE)
    nominal = np.stack([at.ravel() % _SIDE, at.ravel() // _SIDE], 1) * 900.0
    true = nominal + rng.normal(0, 10, nominal.shape)
    ends = np.concatenate(
        [
            np.stack([at[:, :-1].ravel(), at[:, 1:].ravel()], 1),
            np.stack([at[:-1].ravel(), at[1:].ravel()], 1),
        ]
    )
    offsets = true[ends[:, 1]] - true[ends[:, 0]] + rng.normal(0, 0.03, ends.shape)
    right = offsets.copy()
    wrong = rng.random(len(ends)) < _WRONG
    offsets[wrong] += rng.uniform(-60, 60, (int(wrong.sum()), 2))
    covariance = (0.03**2, 0.0, 0.03**2)
    edges, clean = (
        [
            Edge(int(i), int(j), float(dx), float(dy), covariance, 0.6)
            for (i, j), (dx, dy) in zip(ends, moved, strict=True)
        ]
        for moved in (offsets, right)
    )
    began = time.perf_counter()
    first = place(nominal, edges)
    first_s = time.perf_counter() - began
    began = time.perf_counter()
    again = place(nominal, edges, start=first)
    again_s = time.perf_counter() - began
    moved = again.positions_px - place(nominal, clean).positions_px
    moved -= np.median(moved, axis=0)
    return [
        Line("solve of 10,000 tiles, 2 % wrong matches, first", first_s, "s"),
        Line("solve of 10,000 tiles, 2 % wrong matches, again", again_s, "s", 0.3),
        Line("furthest that wrong matches move a tile", float(np.hypot(*moved.T).max()), "px", 0.5),
    ]


def pyramid() -> list[Line]:
    """Return how fast the pyramid is written, beside other writers, and what a tile of 4K takes."""
    lines = []
    with tempfile.TemporaryDirectory(prefix="montango-pyramid-") as folder:
        for rate in writing_rates(Path(folder), "uint8"):
            ours = rate.writer.startswith("montango")
            lines.append(
                Line(
                    f"MB a CPU second, {rate.writer}",
                    rate.cpu_mb_s,
                    "MB",
                    400.0 if ours else np.nan,
                    at_least=True,
                )
            )
        for blending in ("flat", "feather"):
            times = tile_times(Path(folder), blending)  # type: ignore[arg-type]
            lines.append(Line(f"tile of 4096 px into the mosaic, {blending}, wall", times.wall_ms, "ms"))
    return lines
