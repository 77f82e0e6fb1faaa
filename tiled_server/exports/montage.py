"""A montage as it is exported: what was recorded of every frame as one table, and where the frames are."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from devices.errors import ConfigurationError
from devices.tiles import IMAGE_DATASET, TILE_COLUMNS
from processing.stitching.frame_files import Frame, FrameError, FrameFile, Image
from processing.stitching.tiled_frames import TiledFrame

Floats = npt.NDArray[np.float64]
IDENTITY: Final = ("roi", "row", "column", "attempt")
"""Columns that name a frame, whole numbers."""
SOLVED: Final = {
    "position_x_px": "solved_x_px", "position_y_px": "solved_y_px", "position_x_um": "solved_x_um",
    "position_y_um": "solved_y_um", "matrix_xx": "matrix_xx", "matrix_xy": "matrix_xy",
    "matrix_yx": "matrix_yx", "matrix_yy": "matrix_yy", "matched": "matched", "residual_px": "residual_px",
}  # fmt: skip
"""Columns of a mosaic's ``alignment`` that the table has, by their names there."""
TEXTS: Final = ("qc_state", "qc_decision", "faults")
_UNJUDGED: Final = ("fail", "pending")


@dataclass(frozen=True)
class Run:
    """A run that took tiles of a montage.

    Attributes
    ----------
    uid, start, stop
        Its uid and documents; ``stop`` is empty where the run was cut off.
    settings
        What devices were set to, by ``device-signal``: the camera's at the tiles, the rest before the first.
    size_px
        Width and height of its frames.
    path
        Its file of frames; None: they are read from the catalog.
    uri, api_key
        Address of its frames in a catalog, and what opens it.
    """

    uid: str
    start: Mapping[str, Any]
    stop: Mapping[str, Any]
    settings: Mapping[str, Any]
    size_px: tuple[int, int]
    path: Path | None = None
    uri: str = ""
    api_key: str = field(default="", repr=False)

    def frame(self, index: int) -> Frame:
        """Return one of its frames, as the camera made it."""
        if self.path is not None:
            return FrameFile(self.path, index, IMAGE_DATASET)
        return TiledFrame(self.uri, index, self.size_px, self.api_key)

    @property
    def calibration(self) -> tuple[float, float]:
        """Size of a pixel, nm, and turn from camera to stage axes, rad.

        Raises
        ------
        ConfigurationError
            Its start document does not have them.
        """
        try:
            given = self.start["calibration"]
            return float(given["pixel_size_nm"]), math.radians(float(given["image_rotation_deg"]))
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigurationError(
                f"run {self.uid} has no {error} of its calibration in its start document: its tiles cannot "
                "be placed; csv and parquet need no places"
            ) from error


@dataclass(frozen=True)
class Mosaic:
    """A live mosaic of a region.

    Attributes
    ----------
    uid, roi, start
        Its run, region and start document.
    path, solution
        Its OME-Zarr folder, and the file with what was solved; None: not at hand.
    """

    uid: str
    roi: int
    start: Mapping[str, Any]
    path: Path | None
    solution: Path | None = None


@dataclass(frozen=True)
class Montage:
    """A montage, or the part of it that is exported.

    Attributes
    ----------
    montage_id
        The montage.
    runs
        Its runs by the time of their start.
    table
        One row a frame, by region, row, column and attempt: ``run_uid``, ``tile_index``, ``best`` (whether it
        is the attempt that counts), the columns of `devices.tiles.TILE_COLUMNS`, the newest verdict, and the
        place that the live mosaic found (`SOLVED`).
    mosaics
        Its live mosaics, one a region.
    missing
        Frames that were announced and cannot be had, one line each.
    left_out
        What a choice left out, one line each.
    """

    montage_id: str
    runs: tuple[Run, ...]
    table: pd.DataFrame
    mosaics: tuple[Mosaic, ...] = ()
    missing: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.table)

    @property
    def start(self) -> Mapping[str, Any]:
        """Start document of the first run."""
        return self.runs[0].start

    @property
    def settings(self) -> Mapping[str, Any]:
        """What the devices of the first run were set to."""
        return self.runs[0].settings

    @property
    def size_px(self) -> tuple[int, int]:
        """Width and height of the frames.

        Raises
        ------
        ConfigurationError
            Its runs have frames of several sizes.
        """
        sizes = {self.run(str(uid)).size_px for uid in self.table["run_uid"].unique()}
        if len(sizes) > 1:
            text = ", ".join(f"{width} x {height}" for width, height in sorted(sizes))
            raise ConfigurationError(f"montage {self.montage_id} has frames of several sizes: {text} px")
        return sizes.pop() if sizes else self.runs[0].size_px

    @property
    def rois(self) -> list[int]:
        """Regions that it has frames of."""
        return sorted(int(roi) for roi in self.table["roi"].unique())

    def run(self, uid: str) -> Run:
        """Return one of its runs."""
        return next(run for run in self.runs if run.uid == uid)

    def column(self, name: str) -> Floats:
        """Return a column as numbers, (frame,), NaN where there are none."""
        if name not in self.table:
            return np.full(len(self.table), np.nan)
        return np.asarray(pd.to_numeric(self.table[name], errors="coerce"), np.float64)

    def frames(self) -> Iterator[Frame]:
        """Return its frames in the order of the table."""
        runs = {run.uid: run for run in self.runs}
        for uid, index in zip(self.table["run_uid"], self.table["tile_index"], strict=True):
            yield runs[uid].frame(int(index))

    def images(self, done: Callable[[int], object] = lambda _: None) -> Iterator[Image]:
        """Return the pixels of its frames one after the other, (y, x) counts; ``done`` is told their bytes.

        Raises
        ------
        FrameError
            A frame cannot be read, or is of another size than the rest.
        """
        runs = {run.uid: run for run in self.runs}
        for uid, frame in zip(self.table["run_uid"], self.frames(), strict=True):
            image = frame.read()
            width, height = runs[uid].size_px
            if image.shape != (height, width):
                raise FrameError(f"{frame.where} is {image.shape[::-1]} px, not {width} x {height}")
            yield image
            done(image.nbytes)

    def nominal_px(self) -> Floats:
        """Return where the stage says that the centres lie, (frame, 2) camera px, x right, y down."""
        return self._places("centre_x_um", "centre_y_um")

    def requested_px(self) -> Floats:
        """Return where the centres were asked for, (frame, 2) camera px."""
        found = self.nominal_px()
        off = [self.column(f"{axis}_um") - self.column(f"{axis}_requested_um") for axis in "xy"]
        asked = found - self._turned(np.stack(off, -1))
        return np.where(np.isfinite(asked), asked, found)

    def _places(self, x: str, y: str) -> Floats:
        return self._turned(np.stack([self.column(x), self.column(y)], -1))

    def _turned(self, places_um: Floats) -> Floats:
        nm, angle = self.runs[0].calibration
        cos, sin = math.cos(angle), math.sin(angle)
        x, y = places_um.T * 1e3 / nm
        return np.stack([cos * x + sin * y, -sin * x + cos * y], -1)


def make_table(
    frames: pd.DataFrame, verdicts: pd.DataFrame | None, alignment: pd.DataFrame | None
) -> pd.DataFrame:
    """Return the table of a montage.

    Parameters
    ----------
    frames
        ``run_uid``, ``tile_index`` and `devices.tiles.TILE_COLUMNS` of every frame that can be read.
    verdicts
        Events of ``qc`` with ``run_uid``, in the order in which they were emitted; None: none.
    alignment
        Events of ``alignment`` of the live mosaics, ``tile_run`` and ``tile_index`` among them; None: none.
    """
    table = frames.copy()
    for name in IDENTITY:
        table[name] = table[name].fillna(-1).astype(int)
    table = table[(table["row"] >= 0) & (table["column"] >= 0)]
    table["roi"] = table["roi"].clip(lower=0)
    where = ["run_uid", "tile_index"]
    if verdicts is not None and len(verdicts):
        newest = verdicts.drop_duplicates(where, keep="last")
        own = [name for name in newest if name in where or not str(name).startswith("tile_")]
        table = table.merge(newest[own], on=where, how="left", validate="one_to_one")
    for name in TEXTS:
        usual = "pending" if name == "qc_state" else ""
        table[name] = table[name].fillna(usual) if name in table else usual
    if alignment is not None and len(alignment):
        placed = alignment.rename(columns={**SOLVED, "tile_run": "run_uid"})
        if "matched" in placed:
            placed["matched"] = placed["matched"].astype("boolean")
        kept = [*where, *(name for name in SOLVED.values() if name in placed)]
        placed = placed[kept].drop_duplicates(where, keep="last")
        table = table.merge(placed, on=where, how="left", validate="one_to_one")
    # the newest that passed, else the newest
    order = table.assign(_passed=~table["qc_state"].isin(_UNJUDGED)).sort_values(["_passed", "attempt"])
    best = order.drop_duplicates(["roi", "row", "column"], keep="last").index
    table["best"] = table.index.isin(best)
    return table.sort_values([*IDENTITY, "tile_index"]).reset_index(drop=True)


def choose(montage: Montage, *, roi: int | None, attempts: str) -> Montage:
    """Return a part of a montage; its ``left_out`` says what it lacks.

    Parameters
    ----------
    roi
        Only this region; None: all.
    attempts
        "best": of each tile the attempt that counts; "all".

    Raises
    ------
    ConfigurationError
        There is no frame left.
    """
    table, left_out = montage.table, list(montage.left_out)
    if roi is not None:
        rest = table[table["roi"] != roi]
        if len(rest) == len(table):
            known = ", ".join(map(str, montage.rois)) or "none"
            raise ConfigurationError(
                f"--roi {roi}: montage {montage.montage_id} has no frames of region {roi}; it has {known}"
            )
        if len(rest):
            left_out.append(f"{len(rest)} frames of {rest['roi'].nunique()} other regions")
        table = table[table["roi"] == roi]
    if attempts == "best":
        others = int((~table["best"]).sum())
        if others:
            left_out.append(f"{others} earlier or failed attempts (--attempts all has them)")
        table = table[table["best"]]
    if not len(table):
        raise ConfigurationError(f"montage {montage.montage_id} has no frame that can be read")
    mosaics = tuple(one for one in montage.mosaics if roi is None or one.roi == roi)
    return replace(montage, table=table.reset_index(drop=True), mosaics=mosaics, left_out=tuple(left_out))


def number_columns(names: Sequence[str]) -> list[str]:
    """Return the columns of `devices.tiles.TILE_COLUMNS` that are among names."""
    return [column.name for column in TILE_COLUMNS if column.name in names]


def setting(settings: Mapping[str, Any], name: str) -> Any:
    """Return what a signal was set to, of whatever device has it; None where none has."""
    return next((value for key, value in settings.items() if key.rpartition("-")[2] == name), None)
