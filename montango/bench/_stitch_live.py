"""How soon a tile is judged, solved and in the live mosaic: frames at a period through the real callbacks.

A thread stands for the camera: it puts frames into an HDF5 file and a ring as the camera server does, and
announces them by the documents of a run. Tile QC and live mosaic take them behind their queues, as in a
session. A frame is timed from when it is flushed to the file. Processor time is that of the process less the
camera's: of all threads, those that compress and write among them.
"""

from __future__ import annotations

import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from devices.tiles import IMAGE_DATASET
from montango.bench._stitch_canvas import make_canvas
from montango.bench._stitch_line import Line
from montango.bench._stitch_run import PIXEL_UM, CameraRun
from montango.bench._stitch_sets import SETS, SetSpec, SyntheticSet
from processing.callbacks._worker import QueuedCallback
from processing.callbacks.live_mosaic import LiveMosaic
from processing.callbacks.tile_qc import TileQC
from processing.mosaic.pyramid import PyramidStore
from processing.stitching.frame_files import FrameFile
from processing.stitching.offline import stitch_tiles
from processing.stitching.solution import StitchSolution, TileInput
from processing.stitching.sources import SourceTile, TileSet

Reals = npt.NDArray[np.float64]
LIMIT_MS: Final = 250.0
AGREEMENT_LIMIT_PX: Final = 0.05
PERIOD_S: Final = 0.4
_COUNTS: Final = 16
"""Grey values of the sets are shown as so many counts: a camera of 12 bits."""
_WARM: Final = 5
"""Tiles that do not count: they compile, allocate, and are what others are compared with."""
_STEPS: Final = (
    ("judged", "judged", True),
    ("solved", "solved", True),
    ("drawn", "in the pyramid", True),
    ("written", "and readable on disk", False),
)
_LIVE: Final = (
    replace(SETS["k64"], name="live 2K", rows=4, columns=5),
    SetSpec("live 4K", 4, 4, 4096, 470, 10.0, 12.0),
)
"""Both are cut from the canvas of k64."""


def live(folder: Path, data: Path | None, *, period_s: float = PERIOD_S) -> list[Line]:
    """Return how soon tiles of 2K and 4K are there, what they cost, and how live and offline places agree."""
    lines: list[Line] = []
    for spec in _LIVE:
        canvas = make_canvas(folder, SETS["k64"].canvas_px, recorded=data, seed=spec.seed)
        with tempfile.TemporaryDirectory(prefix="montango-live-") as temporary:
            lines += live_figures(SyntheticSet(spec, canvas), Path(temporary), period_s=period_s)
    return lines


def live_figures(made: SyntheticSet, folder: Path, *, period_s: float, warm: int = _WARM) -> list[Line]:
    """Return the figures of one montage.

    Parameters
    ----------
    made
        The montage.
    folder
        Where its file and its mosaic go.
    period_s
        From frame to frame.
    warm
        Tiles at the beginning that are not timed.
    """
    ran = _Ran(made, folder, period_s, warm)
    name, large = made.spec.name, made.tile_px >= 4096
    lines = []
    for step, what, limited in _STEPS:
        found = np.percentile(ran.latencies_ms(step, warm), (50, 95)).tolist()
        limit = LIMIT_MS if large and limited else np.nan
        lines.append(Line(f"{name}: {what}, p50", found[0], "ms"))
        lines.append(Line(f"{name}: {what}, p95", found[1], "ms", limit))
    lines.append(Line(f"{name}: CPU a tile, all threads", 1e3 * ran.cpu_s / (len(made) - warm), "ms"))
    lines.append(Line(f"{name}: tiles not readable when announced", float(ran.unreadable), "", 0))
    apart = _apart_px(ran.solution, offline_solution(ran.path, made))
    lines.append(Line(f"{name}: live and offline places apart, at most", apart, "px", AGREEMENT_LIMIT_PX))
    return lines


class _Ran:
    """A montage that went through the callbacks, and when which tile reached which step."""

    def __init__(self, made: SyntheticSet, folder: Path, period_s: float, warm: int) -> None:
        self._lock = threading.Lock()
        self._at: dict[str, dict[int, float]] = {}
        self._made = made
        self.unreadable = 0
        self.qc = TileQC()
        self.mosaic = LiveMosaic(
            folder / "mosaics", lambda *_: None, minimum_free_gb=0.0, told=self._told, report=self.qc.report
        )
        frames = _frames(made, folder)
        queues = [QueuedCallback(self._judged, name="tile QC"), self.mosaic.queued()]

        def emit(name: str, doc: dict[str, Any]) -> None:
            for queue in queues:
                queue(name, doc)

        extent = [*made.nominal_px.min(0).tolist(), *made.nominal_px.max(0).tolist()]
        size = made.tile_px, made.tile_px
        with CameraRun(folder, size, emit, tiles=len(made), montage_extents_px=[extent]) as run:
            self.path = run.path
            self._order = _there_and_back(made)
            due, spent = time.perf_counter(), (0.0, 0.0)
            for number, tile in enumerate(self._order):
                if number == warm:
                    for queue in queues:
                        queue.drain(600)
                    self._wait_written(warm)
                    spent, due = (time.process_time(), time.thread_time()), time.perf_counter()
                time.sleep(max(0.0, due - time.perf_counter()))  # the camera's period
                due += period_s
                place = (0, int(made.row[tile]), int(made.column[tile]))
                index = run.acquire(frames[tile], made.nominal_px[tile], place)
                self._note("file", index)
                run.announce()
            for queue in queues:
                queue.drain(600)
            self.cpu_s = time.process_time() - spent[0] - (time.thread_time() - spent[1])
            run.stop()
            for queue in queues:
                queue.close(600)
        (mosaic,) = self.mosaic.paths
        solution = mosaic.with_name(mosaic.name.replace(".ome.zarr", "_solution.json"))
        self.solution = StitchSolution.from_json(solution.read_text())

    def latencies_ms(self, step: str, warm: int) -> Reals:
        """Return how long after their frames were in the file tiles got to a step, ms; infinity: never."""
        reached, filed = self._at.get(step, {}), self._at["file"]
        return np.array([1e3 * (reached.get(k, np.inf) - filed[k]) for k in sorted(filed) if k >= warm])

    def _wait_written(self, count: int) -> None:
        """Wait until the first tiles are on the disk, which come faster than a camera's."""
        deadline = time.monotonic() + 600
        while len(self._at.get("written", {})) < count and time.monotonic() < deadline:
            time.sleep(0.01)

    def _note(self, step: str, index: int) -> None:
        now = time.perf_counter()
        with self._lock:
            self._at.setdefault(step, {}).setdefault(index, now)

    def _judged(self, name: str, doc: dict[str, Any]) -> None:
        self.qc(name, doc)
        for verdict in self.qc.take():
            self._note("judged", verdict.tile_index)

    def _told(self, step: str, run: str, index: int) -> None:
        self._note(step, index)
        if step == "written":
            self.unreadable += not self._readable(index)

    def _readable(self, index: int) -> bool:
        """Return whether another reader finds the middle of a tile, in the first and in the last level."""
        with PyramidStore.open(self.mosaic.paths[-1]) as store:
            x, y = self._made.nominal_px[self._order[index]].round().astype(int) - store.geometry.origin_px
            return all(
                store.read(level, y >> level, x >> level, (y >> level) + 1, (x >> level) + 1).all()
                for level in (0, store.levels - 1)
            )


def offline_solution(path: Path, made: SyntheticSet) -> StitchSolution:
    """Return where offline stitching puts the tiles of a file."""
    tiles = tuple(
        SourceTile(
            TileInput(
                (0, int(made.row[tile]), int(made.column[tile])),
                0,
                (float(made.nominal_px[tile, 0]), float(made.nominal_px[tile, 1])),
            ),
            FrameFile(path, index, IMAGE_DATASET),
            str(index),
        )
        for index, tile in enumerate(_there_and_back(made))
    )
    size = (made.tile_px, made.tile_px)
    return stitch_tiles(TileSet("bench", tiles, 1e3 * PIXEL_UM, size)).solution


def _apart_px(first: StitchSolution, second: StitchSolution) -> float:
    """Return the largest distance of a tile's places in two solutions, but for a shift of all."""
    away = first.positions_px - np.array([second.tile(one.key).position_px for one in first.tiles])
    away -= np.median(away, axis=0)
    return float(np.hypot(*away.T).max())


def _frames(made: SyntheticSet, folder: Path) -> npt.NDArray[np.uint16]:
    """Return the frames as counts, (tile, y, x): made before, so that only taking them is measured."""
    shape = (len(made), made.tile_px, made.tile_px)
    frames: npt.NDArray[np.uint16] = np.lib.format.open_memmap(folder / "frames.npy", "w+", np.uint16, shape)
    for index, image in made.tiles():
        np.multiply(image, np.uint16(_COUNTS), out=frames[index], dtype=np.uint16)
    return frames


def _there_and_back(made: SyntheticSet) -> list[int]:
    """Return the tiles in the order of a stage that goes there and back."""
    lines = np.arange(len(made)).reshape(made.rows, made.columns)
    return [int(tile) for row, line in enumerate(lines) for tile in (line[::-1] if row % 2 else line)]
