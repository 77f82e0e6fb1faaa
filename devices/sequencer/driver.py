"""What a sequencer must be able to do, and the table of tiles it takes.

A sequencer runs the loop that time matters in: move, settle, expose, for a table of tiles, without a plan in
between. The default is software (`devices.sequencer.software`); a microscope with a hardware sequencer has
a driver of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields
from enum import IntEnum
from typing import Protocol

import numpy as np
import numpy.typing as npt

from devices.errors import LimitError
from devices.stage.moves import SettleMode


class Blanking(IntEnum):
    """What keeps electrons off the sample between the exposures of a table."""

    SHUTTER = 0
    """The camera's pre-specimen shutter; the column's blanker is open for the whole table."""
    COLUMN = 1
    """The column's blanker, opened and closed for every exposure."""
    OFF = 2
    """Nothing: the beam is on the sample for the whole table."""


@dataclass(frozen=True, slots=True)
class TileRequest:
    """One row of the table. NaN in image shift, defocus or exposure leaves what is set.

    ``settle_s`` is how long the stage has been there, at least, when the exposure begins. ``centre_dx_um``
    and ``centre_dy_um`` are what the image shift adds to the stage's read-back to give the image's centre;
    ``prior_dose_e_per_a2`` the dose there before this exposure, as the plan knows it.
    """

    raster_index: int
    roi: int
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
    centre_dx_um: float = 0.0
    centre_dy_um: float = 0.0
    prior_dose_e_per_a2: float = float("nan")


@dataclass(frozen=True, slots=True)
class MoveOptions:
    """How the tiles of a table are approached, settled and blanked; see `devices.stage.moves.MoveRequest`.

    ``drift_exposure_s`` and ``drift_binning`` are those of the short frames of `SettleMode.DRIFT`.
    """

    tolerance_um: float = 0.0
    retries: int = 3
    approach_x_um: float = 0.0
    approach_y_um: float = 0.0
    settle_mode: int = SettleMode.FIXED
    settle_limit_nm_s: float = 50.0
    settle_timeout_s: float = 5.0
    drift_exposure_s: float = 0.05
    drift_binning: int = 4
    blanking: int = Blanking.SHUTTER


@dataclass(frozen=True, slots=True)
class Table:
    """Tiles to acquire one after the other, and how.

    ``follows`` is the id of a table (0: none) that must not have failed: else this one is refused. So what is
    queued behind a table is not exposed when that one has failed a moment before.
    """

    tiles: tuple[TileRequest, ...]
    options: MoveOptions = MoveOptions()
    follows: int = 0


TILE_WIDTH = len(fields(TileRequest))
OPTIONS_WIDTH = len(fields(MoveOptions))
HEAD_WIDTH = 2 + OPTIONS_WIDTH
_WHOLE_OPTIONS = ("retries", "settle_mode", "drift_binning", "blanking")
_WHOLE_TILE = 5


def pack(table: Sequence[TileRequest] | Table, token: int = 0) -> npt.NDArray[np.float64]:
    """Return a table as one flat array, as Tango carries it.

    The token of the lease (0: none), the table it follows (0: none), then the numbers of `MoveOptions`, then
    those of each `TileRequest`.
    """
    if not isinstance(table, Table):
        table = Table(tuple(table))
    numbers = [float(token), float(table.follows), *astuple(table.options)]
    for tile in table.tiles:
        numbers += astuple(tile)
    return np.array(numbers, np.float64)


def unpack(numbers: npt.NDArray[np.float64]) -> tuple[Table, int]:
    """Return a packed table and its token.

    Raises
    ------
    LimitError
        There is no tile, or the length is that of no table.
    """
    if len(numbers) < HEAD_WIDTH + TILE_WIDTH or (len(numbers) - HEAD_WIDTH) % TILE_WIDTH:
        raise LimitError(
            f"a table has {HEAD_WIDTH} numbers and {TILE_WIDTH} a tile, one tile at least; {len(numbers)} "
            f"numbers are no such table (client and server must be of one Montango version)"
        )
    values = np.asarray(numbers, np.float64).tolist()
    head = dict(zip((field.name for field in fields(MoveOptions)), values[2:HEAD_WIDTH], strict=True))
    options = MoveOptions(**{name: int(x) if name in _WHOLE_OPTIONS else x for name, x in head.items()})
    tiles = tuple(
        TileRequest(*map(int, values[at : at + _WHOLE_TILE]), *values[at + _WHOLE_TILE : at + TILE_WIDTH])
        for at in range(HEAD_WIDTH, len(values), TILE_WIDTH)
    )
    return Table(tiles, options, int(values[1])), int(values[0])


class SequencerDriver(Protocol):
    """A sequencer. `run` comes from one thread; `stop` and `abort` from any."""

    def open(self) -> None:
        """Connect to what it drives."""

    def close(self) -> None:
        """Disconnect."""

    def check(self, table: Table) -> None:
        """Refuse a table before anything moves.

        Raises
        ------
        LimitError
            A tile or an option is outside a limit.
        ConfigurationError
            The instruments cannot do what an option asks for.
        """

    def prepare(self, options: MoveOptions) -> None:
        """Make ready for the tiles of a table; the first after `park` or `halt` gets the beam back."""

    def acquire(self, tile: TileRequest) -> None:
        """Move, settle, expose; return at the end of the exposure, while the frame is read out.

        A tile at the stage position of the one before does not move the stage.

        Raises
        ------
        MontangoError
            A device failed, timed out or was stopped, or the stage missed its target.
        """

    def finish(self) -> None:
        """Wait until every exposed frame is on disk.

        Raises
        ------
        MontangoError
            A frame failed.
        """

    def park(self) -> None:
        """Blank the beam: no exposure follows until `prepare`."""

    def halt(self) -> None:
        """Blank the beam and stop the stage; frames on their way are kept.

        Does as much as it can when a device does not answer, then raises its error.
        """

    def abort(self) -> None:
        """`halt`, and end the exposure that runs; `acquire` ends with Aborted."""
