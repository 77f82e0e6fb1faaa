"""What a sequencer must be able to do, and the table of tiles it takes.

A sequencer runs the loop that time matters in: move, settle, expose, for a table of tiles, without a plan in
between. The default is software (`devices.sequencer.software`); a microscope with a hardware sequencer has
a driver of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields
from typing import Protocol

import numpy as np
import numpy.typing as npt

from devices.errors import LimitError


@dataclass(frozen=True, slots=True)
class TileRequest:
    """One row of the table. NaN in image shift, defocus or exposure leaves what is set."""

    raster_index: int
    row: int
    column: int
    attempt: int
    x_um: float
    y_um: float
    settle_s: float
    image_shift_x_um: float = float("nan")
    image_shift_y_um: float = float("nan")
    defocus_um: float = float("nan")
    exposure_time_s: float = float("nan")


TABLE_WIDTH = len(fields(TileRequest))


def pack(tiles: Sequence[TileRequest]) -> npt.NDArray[np.float64]:
    """Return a table as one flat array, `TABLE_WIDTH` numbers a tile, as Tango carries it."""
    return np.array([astuple(tile) for tile in tiles], np.float64).reshape(-1)


def unpack(table: npt.NDArray[np.float64]) -> list[TileRequest]:
    """Return the tiles of a packed table.

    Raises
    ------
    LimitError
        The table is empty or its length is no multiple of `TABLE_WIDTH`.
    """
    if not len(table) or len(table) % TABLE_WIDTH:
        raise LimitError(
            f"a table of tiles has {TABLE_WIDTH} numbers a tile; {len(table)} numbers are no such table"
        )
    return [
        TileRequest(*(int(x) for x in row[:4]), *(float(x) for x in row[4:]))
        for row in np.reshape(table, (-1, TABLE_WIDTH))
    ]


class SequencerDriver(Protocol):
    """A sequencer. `run` comes from one thread; `stop` and `abort` from any."""

    def open(self) -> None:
        """Connect to what it drives."""

    def close(self) -> None:
        """Disconnect."""

    def check(self, tiles: Sequence[TileRequest]) -> None:
        """Refuse a table before anything moves.

        Raises
        ------
        LimitError
            A tile is outside a limit.
        """

    def prepare(self) -> None:
        """Make ready for a first tile: unblank the beam."""

    def acquire(self, tile: TileRequest) -> None:
        """Move, settle, expose; return at the end of the exposure, while the frame is read out.

        Raises
        ------
        MontangoError
            A device failed, timed out or was stopped.
        """

    def finish(self) -> None:
        """Wait until every exposed frame is on disk.

        Raises
        ------
        MontangoError
            A frame failed.
        """

    def park(self) -> None:
        """Blank the beam: no exposure follows."""

    def halt(self) -> None:
        """Blank the beam and stop the stage; frames on their way are kept.

        Does as much as it can when a device does not answer, then raises its error.
        """

    def abort(self) -> None:
        """`halt`, and end the exposure that runs; `acquire` ends with Aborted."""
