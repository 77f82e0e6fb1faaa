"""The picture of a survey: the tiles of a montage put together, with its place on the stage."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
import numpy.typing as npt

from devices.errors import MontangoError
from processing.callbacks._mosaic import Mosaic
from processing.callbacks._tiles import TileSource

Matrix = tuple[tuple[float, float], tuple[float, float]]
Points = npt.NDArray[np.float64]
_PLACE: Final = ("roi", "row", "column", "attempt", "centre_x_um", "centre_y_um")
_TILE_PX: Final = 512


@dataclass(frozen=True, slots=True, eq=False)
class SurveyImage:
    """A picture and where it lies: stage um = origin + stage_per_px_um @ (x, y) px.

    Attributes
    ----------
    pixels
        (y, x) uint16, counts; 0 where there is no tile.
    covered
        (y, x) bool, true where there is one.
    stage_per_px_um
        Stage um for each pixel along the picture's x and y: its columns.
    origin_um
        Stage position of the centre of pixel (0, 0).
    magnification
        Nominal magnification of the tiles; 0: not known.
    run_uids
        The runs it was made from.
    """

    pixels: npt.NDArray[np.uint16]
    covered: npt.NDArray[np.bool_]
    stage_per_px_um: Matrix
    origin_um: tuple[float, float]
    magnification: float = 0.0
    run_uids: tuple[str, ...] = ()

    @property
    def pixel_um(self) -> float:
        """Side of the square that has the area of a pixel, um."""
        (a, b), (c, d) = self.stage_per_px_um
        return float(np.sqrt(abs(a * d - b * c)))

    def to_stage(self, points_px: npt.ArrayLike) -> Points:
        """Return stage positions ``(..., 2)``, um, of points ``(..., 2)``, px."""
        matrix = np.array(self.stage_per_px_um, float)
        points: Points = np.asarray(points_px, float) @ matrix.T + np.asarray(self.origin_um)
        return points

    def to_pixels(self, points_um: npt.ArrayLike) -> Points:
        """Return points ``(..., 2)``, px, of stage positions ``(..., 2)``, um."""
        inverse = np.linalg.inv(np.array(self.stage_per_px_um, float))
        points: Points = (np.asarray(points_um, float) - np.asarray(self.origin_um)) @ inverse.T
        return points

    def resampled(
        self, centre_um: tuple[float, float], stage_per_px_um: npt.ArrayLike, size_px: tuple[int, int]
    ) -> tuple[npt.NDArray[np.float32], float]:
        """Return a cut of the picture in another raster, and the share of it that the picture covers.

        Parameters
        ----------
        centre_um
            Stage position of the middle of the cut.
        stage_per_px_um
            Matrix of the raster, um.
        size_px
            Width and height of the cut.

        Returns
        -------
        tuple
            (y, x) float32, counts (the mean where there is no picture), and 0 to 1.
        """
        raster = np.array(stage_per_px_um, float)
        forward = np.linalg.inv(np.array(self.stage_per_px_um, float)) @ raster
        width, height = size_px
        middle = np.array([(width - 1) / 2, (height - 1) / 2])
        start = self.to_pixels(np.asarray(centre_um)) - forward @ middle
        transform = np.column_stack([forward, start])
        coarser = float(np.sqrt(abs(np.linalg.det(forward))))
        source = np.where(self.covered, self.pixels, self._level()).astype(np.float32)
        if coarser > 1:  # a pixel of the cut is the mean over what it covers
            source = cv2.GaussianBlur(source, (0, 0), 0.4 * coarser)
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        cut = cv2.warpAffine(
            source, transform, size_px, flags=flags, borderMode=cv2.BORDER_CONSTANT, borderValue=self._level()
        )
        known = cv2.warpAffine(self.covered.astype(np.float32), transform, size_px, flags=flags)
        return np.asarray(cut, np.float32), float(known.mean())

    def _level(self) -> float:
        return float(self.pixels[self.covered].mean()) if self.covered.any() else 0.0


class SurveyCollector:
    """Follows the documents of a montage, over all its runs, and puts its tiles together at the end.

    Parameters
    ----------
    max_px
        Longest side of the picture, px.
    calibrations
        Folder of the calibrations; tiles of a run that names a dark and a bright reference are put together
        with them taken out. None: as they are.
    """

    def __init__(self, max_px: int = 2048, *, calibrations: Path | str | None = None) -> None:
        self._max_px = max_px
        self._calibrations = calibrations
        self._runs: dict[str, TileSource] = {}
        self._ranges: list[tuple[TileSource, range]] = []
        self._current: TileSource | None = None
        self._view: dict[str, Any] = {}

    def __call__(self, name: str, doc: dict[str, Any]) -> None:
        """Take a document."""
        if name == "start":
            self._current = self._runs[doc["uid"]] = TileSource(doc, self._calibrations)
            self._view = doc.get("montage_view", self._view)
        elif name == "stop":
            self._current = None
        elif self._current is not None:
            indices = self._current(name, doc)
            if indices:
                self._ranges.append((self._current, indices))

    def picture(self, magnification: float = 0.0) -> SurveyImage:
        """Return the tiles put together; of a tile that was acquired again, the newest.

        Parameters
        ----------
        magnification
            Nominal magnification of the tiles.

        Raises
        ------
        MontangoError
            No tile was acquired, or a frame cannot be read.
        """
        if not self._view:
            raise MontangoError("the survey's run does not say what a frame shows; it did not begin")
        matrix = np.array(self._view["stage_per_px_um"], float)
        mosaic: Mosaic | None = None
        for number, (source, index, place, centre_um) in enumerate(self._tiles()):
            frame = source.frame(index)
            if mosaic is None:
                mosaic = Mosaic(max(1, max(frame.shape) // _TILE_PX), self._max_px)
            u, v = np.linalg.solve(matrix, centre_um)
            mosaic.add(place, number, frame, (float(u), float(v)))
        for source in self._runs.values():
            source.close()
        if mosaic is None:
            raise MontangoError("the survey has no tiles; see the run's stop document for the reason")
        picture = mosaic.picture()
        scaled = matrix * picture.reduction
        origin = matrix @ picture.origin_px
        return SurveyImage(
            picture.pixels,
            picture.covered,
            ((float(scaled[0, 0]), float(scaled[0, 1])), (float(scaled[1, 0]), float(scaled[1, 1]))),
            (float(origin[0]), float(origin[1])),
            magnification,
            tuple(self._runs),
        )

    def _tiles(self) -> Iterator[tuple[TileSource, int, tuple[int, int, int], Points]]:
        for source, indices in self._ranges:
            columns = source.columns(*_PLACE, indices=indices)
            for at, index in enumerate(indices):
                roi, row, column, _, x_um, y_um = (float(columns[name][at]) for name in _PLACE)
                if np.isfinite([roi, row, column, x_um, y_um]).all():
                    yield source, index, (int(roi), int(row), int(column)), np.array([x_um, y_um])
