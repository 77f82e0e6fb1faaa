"""A montage as the live mosaic sees it, with known places, and all that comes out of the mosaic."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from processing.callbacks._documents import Document
from processing.callbacks.live_mosaic import LiveMosaic
from processing.callbacks.verdicts import TileFault
from tests.processing.documents import MontageRun
from tests.processing.specimens import expose, tissue

SIZE = 256
PITCH = 208
PIXEL_UM = 0.01
ROWS, COLUMNS = 3, 4
ANGLE = np.deg2rad(20.0)
VIEW = PIXEL_UM * np.array([[np.cos(ANGLE), -np.sin(ANGLE)], [np.sin(ANGLE), np.cos(ANGLE)]])
SPECIMEN = expose(tissue((900, 1100), seed=3), seed=1)
Start = Callable[..., MontageRun]
Frames = npt.NDArray[np.uint16]


def grid() -> list[tuple[int, int]]:
    """Return rows and columns in the order of acquisition: there and back."""
    lines = [[(row, column) for column in range(COLUMNS)] for row in range(ROWS)]
    return [place for line in lines for place in (line if not line[0][0] % 2 else line[::-1])]


def corner(row: int, column: int) -> tuple[int, int]:
    """Return where a tile really begins in the specimen, (x, y): the stage misses by some pixels."""
    rng = np.random.default_rng(100 * row + column)
    dx, dy = rng.integers(-9, 10, 2).tolist()
    return 20 + PITCH * column + dx, 20 + PITCH * row + dy


def nominal_um(row: int, column: int, shift_px: tuple[float, float] = (0.0, 0.0)) -> tuple[float, float]:
    """Return where the stage says the centre of a tile is."""
    centre = np.array([20 + PITCH * column, 20 + PITCH * row]) + (SIZE - 1) / 2 + shift_px
    x_um, y_um = (VIEW @ centre).tolist()
    return x_um, y_um


def cut(row: int, column: int, specimen: Frames = SPECIMEN) -> Frames:
    """Return the frame of a tile."""
    x, y = corner(row, column)
    return specimen[y : y + SIZE, x : x + SIZE].copy()


def acquire(run: MontageRun, places: Sequence[tuple[int, int]], **columns: float) -> None:
    """Acquire tiles one by one."""
    for row, column in places:
        run.tiles([cut(row, column)], [nominal_um(row, column)], row=row, column=column, **columns)


class Watched:
    """A live mosaic with all that comes out of it."""

    def __init__(self, folder: Path, **options: Any) -> None:
        self.emitted: list[Document] = []
        self.faults: list[tuple[str, int, TileFault]] = []
        self.mosaic = LiveMosaic(
            folder / "mosaics",
            lambda *doc: self.emitted.append(doc),
            report=lambda run, index, faults: self.faults.extend((run, index, one) for one in faults),
            minimum_free_gb=0.0,
            **options,
        )

    def starts(self) -> list[dict[str, Any]]:
        """Return the start documents of the mosaics' runs."""
        return [doc for name, doc in self.emitted if name == "start"]

    def events(self) -> list[dict[str, Any]]:
        """Return the data of the events of stream ``alignment``."""
        return [doc["data"] for name, doc in self.emitted if name == "event"]


def error_px(events: Sequence[dict[str, Any]]) -> float:
    """Return the largest distance of a solved place from the true one, px, but for a common shift."""
    found = np.array([(event["position_x_px"], event["position_y_px"]) for event in events])
    true = np.array([corner(event["tile_row"], event["tile_column"]) for event in events])
    off = found - true
    return float(np.hypot(*(off - off.mean(0)).T).max())
