"""The tiles of a montage run, as a callback sees them: documents name them, ring or file hold them."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlparse

import numpy as np
import numpy.typing as npt

from devices.errors import MontangoError
from devices.frames import FrameMissed, FrameRingReader
from devices.tiles import IMAGE_KEY, TILE_GROUP
from processing.callbacks._frame_file import read_parts
from processing.references import read_reference

if TYPE_CHECKING:
    from processing.kernels.reference import Reference

_log = logging.getLogger(__name__)

TILES_STREAM = "tiles"
_WHOLE = ("roi", "row", "column", "attempt")
_CENTRE = ("centre_x_um", "centre_y_um")


@dataclass(frozen=True, slots=True)
class Tile:
    """One tile as it was acquired.

    ``index`` is that in the file; ``x_um, y_um`` the stage coordinates of the image's centre, as read back;
    ``row`` and ``column`` are counted in its region of interest.
    """

    index: int
    roi: int
    row: int
    column: int
    attempt: int
    x_um: float
    y_um: float

    @property
    def place(self) -> tuple[int, int, int]:
        """Region, row and column; ``(-1, -1, index)`` where they are not known."""
        return (self.roi, self.row, self.column) if self.row >= 0 else (-1, -1, self.index)


class TileSource:
    """Follows the ``tiles`` stream of one run and gives its frames.

    Feed it every document but the start, and `close` it when the run has ended.

    Parameters
    ----------
    start
        Start document of the run.
    calibrations
        Folder of the calibrations: `frame` takes out the dark and bright reference that the run names. A
        reference that cannot be read, or is not of the frames' size, is logged, and frames stay as they are.
    """

    def __init__(
        self, start: Mapping[str, Any] | None = None, calibrations: Path | str | None = None
    ) -> None:
        self._start = start or {}
        self._calibrations = calibrations
        self._reference: Reference | None = None
        self._reference_read = False
        self.path: Path | None = None
        self.bit_depth: int | None = None
        self.missed = 0
        self._descriptor = ""
        self._image_resource = ""
        self._dataset = ""
        self._ring: FrameRingReader | None = None
        self._epoch = 0

    def __call__(self, name: str, doc: Mapping[str, Any]) -> range:
        """Take a document; return the indices of the frames that it announces."""
        if name == "descriptor" and doc.get("name") == TILES_STREAM:
            self._descriptor = doc["uid"]
            self._configure(doc)
        elif name == "stream_resource" and doc["data_key"] == IMAGE_KEY and self._descriptor:
            self.close()
            self._image_resource = doc["uid"]
            self._dataset = doc["parameters"]["dataset"]
            self.path = Path(unquote(urlparse(doc["uri"]).path))
        elif name == "stream_datum" and doc["stream_resource"] == self._image_resource:
            return range(doc["indices"]["start"], doc["indices"]["stop"])
        return range(0)

    @property
    def corrected(self) -> bool:
        """Whether frames are given with the references taken out."""
        return self._correction() is not None

    def frame(self, index: int) -> npt.NDArray[np.unsignedinteger[Any]]:
        """Return a frame, (y, x) in counts: from the ring, or the file when the ring has it no more.

        With a reference it is corrected; pixels that were saturated still are.

        Raises
        ------
        MontangoError
            Neither has it.
        """
        frame, reference = self._raw(index), self._correction()
        if reference is None:
            return frame
        try:
            return reference.apply(frame, saturation_counts=self.full_counts(frame.dtype))
        except ValueError:
            _log.exception("frames of %s are not corrected", self.path)
            self._reference = None
            return frame

    def full_counts(self, dtype: np.dtype[Any]) -> int:
        """Return the value at which a pixel of the camera saturates."""
        largest = int(np.iinfo(dtype).max)
        return min(largest, 2**self.bit_depth - 1) if self.bit_depth else largest

    def _correction(self) -> Reference | None:
        """Return the run's reference, read when it is first asked for: not in the thread of the documents."""
        if not self._reference_read:
            self._reference_read = True
            try:
                self._reference = read_reference(self._start, self._calibrations)
            except MontangoError:
                _log.exception("frames of run %s are not corrected", self._start.get("uid"))
        return self._reference

    def _raw(self, index: int) -> npt.NDArray[np.unsignedinteger[Any]]:
        if self._ring is not None:
            try:
                return self._ring.get(self._epoch, index)  # type: ignore[return-value]  # the camera's type
            except FrameMissed:
                self.missed += 1
        try:
            (frame,) = read_parts(self._file(), [self._dataset], index)
        except (OSError, KeyError, ValueError, IndexError) as error:
            raise MontangoError(f"frame {index} of {self.path} cannot be read: {error}") from error
        return frame

    def tiles(self, indices: range) -> Iterator[Tile]:
        """Yield what the file says of some tiles.

        Raises
        ------
        MontangoError
            The file cannot be read.
        """
        values = self.columns(*_WHOLE, *_CENTRE, indices=indices)
        for position, index in enumerate(indices):
            whole = [_whole(float(values[name][position])) for name in _WHOLE]
            centre = [float(values[name][position]) for name in _CENTRE]
            yield Tile(index, *whole, *centre)

    def columns(self, *names: str, indices: range) -> dict[str, npt.NDArray[np.float64]]:
        """Return columns of some tiles, NaN where the file has no value yet.

        Raises
        ------
        MontangoError
            The file cannot be read.
        """
        try:
            datasets = [f"{TILE_GROUP}/{name}" for name in names]
            parts = read_parts(self._file(), datasets, slice(indices.start, indices.stop))
        except (OSError, KeyError, ValueError) as error:
            raise MontangoError(f"{TILE_GROUP} of {self.path} cannot be read: {error}") from error
        return {
            name: np.pad(part, (0, len(indices) - len(part)), constant_values=np.nan)
            for name, part in zip(names, parts, strict=True)
        }

    def close(self) -> None:
        """Let go of the ring; the next frame attaches to it again."""
        if self._ring is not None:
            self._ring.close()

    def _configure(self, descriptor: Mapping[str, Any]) -> None:
        for device in descriptor.get("configuration", {}).values():
            for key, value in device["data"].items():
                if key.endswith("-ring_path") and value:
                    self._ring = FrameRingReader(value)
                elif key.endswith("-ring_epoch"):
                    self._epoch = int(value)
                elif key.endswith("-bit_depth"):
                    self.bit_depth = int(value)

    def _file(self) -> Path:
        if self.path is None:
            raise MontangoError("no file of frames was named before the first frame")
        return self.path


def _whole(value: float) -> int:
    return -1 if np.isnan(value) else round(value)
