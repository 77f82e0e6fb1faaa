"""The sequencer in software: it drives stage, camera and column through their Tango servers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import tango

from devices._tango.arguments import encode
from devices._tango.errors import from_devfailed
from devices.errors import MontangoError
from devices.sequencer.driver import TileRequest
from devices.stage.driver import AXES, StageLimits

NAN = float("nan")


class SoftwareSequencer:
    """Move, settle, expose over Tango; the next move overlaps the readout of the frame before.

    Parameters
    ----------
    stage, camera, column
        Tango device names.
    move_timeout_s, frame_timeout_s
        Longest time a move and a frame (exposure, readout and write) may take.
    """

    def __init__(
        self,
        stage: str,
        camera: str,
        column: str,
        move_timeout_s: float = 35.0,
        frame_timeout_s: float = 60.0,
    ) -> None:
        self._names = {"stage": stage, "camera": camera, "column": column}
        self._timeouts = {"stage": move_timeout_s, "camera": frame_timeout_s, "column": 10.0}
        self._proxies: dict[str, Any] = {}
        self._set: dict[str, Any] = {}
        self._exposed = 0
        self._pair = (NAN, NAN)

    def open(self) -> None:
        """Nothing to do: a device is connected to when it is first needed."""

    def close(self) -> None:
        """Forget the connections."""
        self._proxies.clear()

    def check(self, tiles: Sequence[TileRequest]) -> None:
        """Refuse positions outside the stage's limits, and a camera without an open file."""
        low, high = (self._read("stage", name) for name in ("lower_limits", "upper_limits"))
        limits = StageLimits(*zip(map(float, low), map(float, high), strict=True))
        for tile in tiles:
            limits.check({AXES[0]: tile.x_um, AXES[1]: tile.y_um})

    def prepare(self) -> None:
        """Unblank the beam and read back what a table may leave as it is."""
        self._set.clear()
        self._write("column", "beam_blanked", False)
        x, y = self._read("column", "image_shift_um")
        self._pair = float(x), float(y)
        self._set["defocus_um"] = float(self._read("column", "defocus_um"))

    def acquire(self, tile: TileRequest) -> None:
        """Move, settle, expose."""
        self._apply(tile)
        x, y, z, _, _, move_s, settle_s = self._call(
            "stage", "MoveAndSettle", (tile.x_um, tile.y_um, tile.settle_s)
        )
        self._exposed = 1 + self._call(
            "camera",
            "Expose",
            (
                tile.raster_index,
                tile.row,
                tile.column,
                tile.attempt,
                tile.x_um,
                tile.y_um,
                x,
                y,
                z,
                *self._pair,
                self._set["defocus_um"],
                move_s,
                settle_s,
            ),
        )

    def finish(self) -> None:
        """Wait until every exposed frame is flushed."""
        self._call("camera", "WaitWritten", self._exposed)

    def park(self) -> None:
        """Blank the beam."""
        self._write("column", "beam_blanked", True)

    def halt(self) -> None:
        """Blank the beam and stop the stage."""
        self._each(self.park, lambda: self._call("stage", "Stop"))

    def abort(self) -> None:
        """Blank the beam, stop the stage, end the exposure."""
        self._each(self.park, lambda: self._call("stage", "Stop"), lambda: self._call("camera", "Abort"))

    def _each(self, *steps: Callable[[], Any]) -> None:
        """Take every step, even if another fails; raise the first failure."""
        failures: list[MontangoError] = []
        for step in steps:
            try:
                step()
            except MontangoError as error:
                failures.append(error)
        if failures:
            raise failures[0]

    def _apply(self, tile: TileRequest) -> None:
        """Set what the tile asks for and differs from what is set."""
        pair = (tile.image_shift_x_um, tile.image_shift_y_um)
        if not math.isnan(pair[0]) and pair != self._pair:
            self._write("column", "image_shift_um", pair)
            self._pair = pair
        for kind, name, value in (
            ("column", "defocus_um", tile.defocus_um),
            ("camera", "exposure_time_s", tile.exposure_time_s),
        ):
            if not math.isnan(value) and self._set.get(name) != value:
                self._write(kind, name, value)
                self._set[name] = value

    def _proxy(self, kind: str) -> Any:
        proxy = self._proxies.get(kind)
        if proxy is None:
            proxy = tango.DeviceProxy(self._names[kind])
            proxy.set_timeout_millis(int(self._timeouts[kind] * 1000))
            self._proxies[kind] = proxy
        return proxy

    def _call(self, kind: str, command: str, argument: Any = None) -> Any:
        try:
            # the raw call: command_inout reads ten telemetry variables of the environment, 0.15 ms each time
            return self._proxy(kind).command_inout_raw(command, encode(argument)).extract()
        except tango.DevFailed as failure:
            raise self._lost(kind, failure) from failure

    def _read(self, kind: str, name: str) -> Any:
        try:
            return self._proxy(kind).read_attribute(name).value
        except tango.DevFailed as failure:
            raise self._lost(kind, failure) from failure

    def _write(self, kind: str, name: str, value: Any) -> None:
        try:
            self._proxy(kind).write_attribute(name, value)
        except tango.DevFailed as failure:
            raise self._lost(kind, failure) from failure

    def _lost(self, kind: str, failure: tango.DevFailed) -> MontangoError:
        with suppress(KeyError):
            del self._proxies[kind]  # a restarted server is found by a new proxy at once
        return from_devfailed(failure, self._names[kind])
