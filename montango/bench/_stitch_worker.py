"""Stitch one montage of files: ``python -m montango.bench._stitch_worker NAME FOLDER``; see `_stitch_files`.

Writes ``FOLDER/NAME.json`` as the peers do, and the whole solution as ``FOLDER/NAME-solution.json``.
"""

from __future__ import annotations

import json
import math
import resource
import sys
import time
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import tifffile

from processing.stitching.engine import Stitcher, StitchOptions, TileInput


def main(name: str, folder: Path) -> None:
    """Stitch, and write what came of it."""
    cv2.setNumThreads(1)
    given = json.loads((folder / "set.json").read_text())
    first = tifffile.imread(given["paths"][0])
    size = (first.shape[1], first.shape[0])
    middle = (np.array(size) - 1) / 2
    tiles = [
        TileInput((0, row, column), 0, (float(x), float(y)))
        for row, column, (x, y) in zip(
            given["rows"], given["columns"], np.array(given["first_px"]) + middle, strict=True
        )
    ]
    options = StitchOptions(first_search_px=given["search_px"], refit_growth=math.inf)
    if name != "montango":
        options = replace(options, calibrate_field=False, degree=1, affine=False)
    stitcher = Stitcher(options, size, expected=tiles)
    warm_s = time.process_time()
    _warm(options)
    work_s = 0.0
    began_s = time.process_time()
    for tile, path in zip(tiles, given["paths"], strict=True):
        image = tifffile.imread(path)
        before_s = time.process_time()
        stitcher.add(tile, image)
        work_s += time.process_time() - before_s
    before_s = time.process_time()
    solution = stitcher.solution()
    work_s += time.process_time() - before_s
    usage = resource.getrusage(resource.RUSAGE_SELF)
    (folder / f"{name}-solution.json").write_text(solution.to_json())
    result = {
        "first_px": (solution.positions_px - middle).tolist(),
        "cpu_s": usage.ru_utime + usage.ru_stime - (began_s - warm_s),
        "work_s": work_s,
        "peak_mb": peak_mb(),
        "pairs": len(solution.edges),
        "matched": int(solution.matched.sum()),
        "holdout_median_px": solution.holdout_median_px,
        "holdout_p95_px": solution.holdout_p95_px,
    }
    (folder / f"{name}.json").write_text(json.dumps(result))


def peak_mb() -> float:
    """Return the peak of this process's memory, MB; ``ru_maxrss`` would count what its parent had."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    return math.nan


def _warm(options: StitchOptions) -> None:
    """Load the compiled kernels, which take their time once a process."""
    rng = np.random.default_rng(0)
    scene = cv2.GaussianBlur(rng.normal(128, 60, (400, 700)).astype(np.float32), (0, 0), 2)
    scene = np.clip(scene, 0, 255).astype(np.uint8)
    stitcher = Stitcher(options, (400, 400))
    stitcher.add(TileInput((0, 0, 0), 0, (0.0, 0.0)), np.ascontiguousarray(scene[:, :400]))
    stitcher.add(TileInput((0, 0, 1), 0, (300.0, 0.0)), np.ascontiguousarray(scene[:, 300:700]))
    stitcher.solution()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
