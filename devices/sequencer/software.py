"""The sequencer in software: it drives stage, camera and column through their Tango servers."""

from __future__ import annotations

import math
import threading
import time
from typing import Final

from devices.camera.snap import SnapRequest, SnapResult, read_snap
from devices.errors import Aborted, DeviceLost, MontangoError
from devices.sequencer.checks import MOVE_DEFAULTS, check_table, move_tail
from devices.sequencer.dose import flux_e_per_a2_s
from devices.sequencer.drift import DriftMeter, frames_apart_s
from devices.sequencer.driver import Blanking, MoveOptions, Table, TileRequest
from devices.sequencer.links import Links, take_every
from devices.stage.moves import SettleMode

NAN: Final = float("nan")
END_TIMEOUT_S: Final = 1.0
"""How long an abort waits for the camera to end its exposure before it blanks the beam all the same."""
FLUX_PERIOD_S: Final = 5.0
"""How old the flux may be that a tile's dose is reckoned with."""


class SoftwareSequencer:
    """Move, settle, expose over Tango; the next move overlaps the readout of the frame before.

    Parameters
    ----------
    stage, camera, column
        Tango device names.
    move_timeout_s, frame_timeout_s
        Longest time a move (with its retries and settling) and a frame (exposure, readout and write) may
        take.
    """

    def __init__(
        self,
        stage: str,
        camera: str,
        column: str,
        move_timeout_s: float = 120.0,
        frame_timeout_s: float = 60.0,
    ) -> None:
        self._links = Links(
            {"stage": stage, "camera": camera, "column": column, "exposure": camera},
            {"stage": move_timeout_s, "camera": frame_timeout_s, "column": 10.0, "exposure": END_TIMEOUT_S},
        )
        self._beam = threading.Lock()
        self._aborted = threading.Event()
        self._options = MoveOptions()
        self._tail: tuple[float, ...] = MOVE_DEFAULTS
        self._beam_on: bool | None = None
        self._shutter_before = ""
        self._set: dict[tuple[str, str], float] = {}
        self._pair = (NAN, NAN)
        self._pixel_nm = NAN
        self._snap_rings = ""
        self._exposed = 0
        self._flux, self._flux_at = NAN, -math.inf
        self._station: tuple[float, float] | None = None
        self._arrived, self._speed_nm_s = -math.inf, NAN

    def open(self) -> None:
        """Nothing to do: a device is connected to when it is first needed."""

    def close(self) -> None:
        """Forget the connections."""
        self._links.close()

    def check(self, table: Table) -> None:
        """Refuse what the stage's limits, its read-back, or the camera's shutter do not allow."""
        check_table(self._links, table)

    def prepare(self, options: MoveOptions) -> None:
        """Make ready for a table; after `park` or `halt`, read back what tables may leave as it is."""
        self._aborted.clear()
        self._options = options
        self._tail = move_tail(options)
        if not self._beam_on:
            self._read_settings()
        self._set_shutter(options.blanking)
        if options.settle_mode == SettleMode.DRIFT:
            (self._snap_rings,) = self._links.read("camera", "snap_rings")
            (unbinned_nm,) = self._links.read("column", "pixel_size_nm")
            self._pixel_nm = float(unbinned_nm) * options.drift_binning
        self._blank(options.blanking == Blanking.COLUMN)
        self._flux_at = -math.inf

    def acquire(self, tile: TileRequest) -> None:
        """Move, settle, expose."""
        self._apply(tile)
        where = self._go(tile)
        drift_s = 0.0
        if self._options.settle_mode == SettleMode.DRIFT:
            drift_s = self._wait_drift()
        if self._options.blanking != Blanking.COLUMN:
            self._expose(tile, where, drift_s)
            return
        self._blank(False)
        try:
            self._expose(tile, where, drift_s)
        finally:
            self._blank(True)

    def finish(self) -> None:
        """Wait until every exposed frame is flushed."""
        self._links.call("camera", "WaitWritten", self._exposed)

    def park(self) -> None:
        """Blank the beam, and give the camera back the shutter mode it had."""
        with self._beam:
            self._beam_on = None
            self._links.write("column", "beam_blanked", True)
            self._beam_on = False
        self._forget_station()
        if self._shutter_before:
            self._links.write("camera", "shutter_mode", self._shutter_before)
            self._shutter_before = ""

    def halt(self) -> None:
        """Blank the beam and stop the stage."""
        take_every(self.park, lambda: self._links.call("stage", "Stop"))

    def abort(self) -> None:
        """Blank the beam, stop the stage, end the exposure; frames exposed before go to the file.

        The exposure ends first: one that saw the beam go would look like a whole one.
        """
        self._aborted.set()
        call = self._links.call
        take_every(
            lambda: call("exposure", "EndExposure"),
            self.park,
            lambda: call("stage", "Stop"),
            lambda: call("camera", "Abort"),
        )

    def _read_settings(self) -> None:
        (x, y), defocus_um = self._links.read("column", "image_shift_um", "defocus_um")
        (exposure_s,) = self._links.read("camera", "exposure_time_s")
        self._pair = float(x), float(y)
        self._set = {
            ("column", "defocus_um"): float(defocus_um),
            ("camera", "exposure_time_s"): float(exposure_s),
        }

    def _set_shutter(self, blanking: int) -> None:
        """Set the camera's shutter as a table needs it; `park` sets it back."""
        if blanking == Blanking.COLUMN:
            return
        wanted = "PRE_SPECIMEN" if blanking == Blanking.SHUTTER else "NONE"
        (mode,) = self._links.read("camera", "shutter_mode")
        if mode != wanted:
            self._shutter_before = self._shutter_before or mode
            self._links.write("camera", "shutter_mode", wanted)

    def _blank(self, blanked: bool) -> None:
        """Blank or unblank the beam, unless an abort has come: then it stays blanked."""
        if self._beam_on is (not blanked):
            return
        with self._beam:
            if not blanked and self._aborted.is_set():
                raise Aborted("the table was ended by Abort")
            self._links.write("column", "beam_blanked", blanked)
            self._beam_on = not blanked

    def _apply(self, tile: TileRequest) -> None:
        """Set what the tile asks for and differs from what is set."""
        pair = (tile.image_shift_x_um, tile.image_shift_y_um)
        if not math.isnan(pair[0]) and pair != self._pair:
            self._links.write("column", "image_shift_um", pair)
            self._pair = pair
        for key, value in (
            (("column", "defocus_um"), tile.defocus_um),
            (("camera", "exposure_time_s"), tile.exposure_time_s),
        ):
            if not math.isnan(value) and self._set.get(key) != value:
                self._links.write(*key, value)
                self._set[key] = value

    def _go(self, tile: TileRequest) -> tuple[float, float, float, float, float, int]:
        """Bring the stage to the tile; return x, y, z read back, the move's and settle time, and tries."""
        station = (tile.x_um, tile.y_um)
        if station == self._station:
            waited_s = self._rest(tile.settle_s)
            (position,) = self._links.read("stage", "position")
            return float(position[0]), float(position[1]), float(position[2]), 0.0, waited_s, 0
        self._forget_station()
        request = (*station, tile.settle_s, *self._tail)
        x, y, z, _, _, move_s, settle_s, tries, speed = self._links.call("stage", "MoveAndSettle", request)
        self._station = station
        self._arrived = time.perf_counter() - settle_s
        self._speed_nm_s = speed
        return x, y, z, move_s, settle_s, tries

    def _rest(self, settle_s: float) -> float:
        """Wait until the stage has been at the station for so long; return what was waited, s."""
        missing_s: float = self._arrived + settle_s - time.perf_counter()
        if missing_s <= 0.0:
            return 0.0
        self._wait(missing_s)
        return missing_s

    def _wait(self, seconds: float) -> None:
        if self._aborted.wait(seconds):
            raise Aborted("the table was ended by Abort")

    def _forget_station(self) -> None:
        """Let the next tile move the stage, wherever it is thought to be."""
        self._station = None
        self._arrived, self._speed_nm_s = -math.inf, NAN

    def _wait_drift(self) -> float:
        """Wait until two short frames show less drift than the limit; return how long was exposed, s.

        At a station that has been found still before, no frame is taken.
        """
        options = self._options
        if self._speed_nm_s <= options.settle_limit_nm_s:
            return 0.0
        meter = DriftMeter(self._pixel_nm)
        apart_s = frames_apart_s(options.settle_limit_nm_s, self._pixel_nm)
        deadline = self._arrived + options.settle_timeout_s
        frames, blind = 0, 0
        request = SnapRequest(options.drift_exposure_s, options.drift_binning)
        while True:
            began = time.perf_counter()
            speed = self._snap_speed(meter, request)
            frames += 1
            if frames > 1 and not meter.smeared:
                self._speed_nm_s = speed
                blind = blind + 1 if math.isnan(speed) else 0
                late = time.perf_counter() >= deadline
                if speed <= options.settle_limit_nm_s or late or blind == 2:
                    return frames * options.drift_exposure_s
            self._wait(max(0.0, began + apart_s - time.perf_counter()))

    def _snap_speed(self, meter: DriftMeter, request: SnapRequest) -> float:
        """Take a short frame and return the drift since the one before, nm/s."""
        column_blanks = self._options.blanking == Blanking.COLUMN
        self._blank(False)
        try:
            numbers = self._links.call("camera", "Snap", request)
        finally:
            if column_blanks:
                self._blank(True)
        snap = read_snap(self._snap_rings, numbers)
        return meter.add(snap.data, SnapResult(*numbers).exposure_start_s)

    def _expose(
        self, tile: TileRequest, where: tuple[float, float, float, float, float, int], drift_s: float
    ) -> None:
        if time.perf_counter() - self._flux_at > FLUX_PERIOD_S:
            self._read_flux()
        if self._aborted.is_set():
            raise Aborted("the table was ended by Abort")
        x, y, z, move_s, settle_s, tries = where
        if drift_s:
            settle_s = time.perf_counter() - self._arrived
        exposure_s = self._set["camera", "exposure_time_s"]
        self._exposed = 1 + self._links.call(
            "camera",
            "Expose",
            (
                tile.raster_index,
                tile.roi,
                tile.row,
                tile.column,
                tile.attempt,
                tile.x_um,
                tile.y_um,
                x,
                y,
                z,
                x + tile.centre_dx_um,
                y + tile.centre_dy_um,
                *self._pair,
                self._set["column", "defocus_um"],
                move_s,
                settle_s,
                tries,
                self._speed_nm_s,
                self._flux * (exposure_s + drift_s),
                tile.prior_dose_e_per_a2,
            ),
        )

    def _read_flux(self) -> None:
        """Read the flux of the beam; a column that does not tell its current leaves the dose unknown."""
        self._flux_at = time.perf_counter()
        try:
            current_na, diameter_um = self._links.read("column", "beam_current_na", "illuminated_area_um")
        except DeviceLost:
            raise
        except MontangoError:
            self._flux = NAN
        else:
            self._flux = flux_e_per_a2_s(float(current_na), float(diameter_um))
