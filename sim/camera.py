"""The simulated camera: the driver that a camera server loads as ``sim.camera:SimulatedCamera``."""

from __future__ import annotations

import errno
import math
import os
import signal
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt

from devices.camera.driver import CameraInfo, CameraSettings, Frame
from devices.errors import Aborted, LimitError, OperationTimeout, check_limit
from sim.config import SimulationConfig
from sim.exposure import Shot, expose, truth
from sim.world import World

SHUTTER_SLACK_S: Final = 0.5
"""How much later an exposure counts as over than its shutter closes, if the driver has died."""
READOUT_PATIENCE_S: Final = 60.0
"""How long `expose` waits for somebody to read the frame before."""

Watch = tuple[str, int]
"""What is waited for, exposing or reading, and how often that had been ended when the wait began."""


class Picture(Protocol):
    """What draws the frames."""

    @property
    def frame_shape(self) -> tuple[int, int]:
        """Size of the sensor, ``(height, width)`` in pixels."""

    @property
    def bit_depth(self) -> int:
        """Bits of a pixel."""

    def render(self, shot: Shot, settings: CameraSettings) -> npt.NDArray[np.uint16]:
        """Return the frame of an exposure, ``(y, x)`` counts."""


def make_picture(config: SimulationConfig) -> Picture:
    """Return what draws the frames of this microscope."""
    # imported here because numba takes most of a second, and stage and column do not need it
    if config.specimen.kind == "replay":
        from sim.replay import RecordedTiles

        return RecordedTiles(config)
    from sim.scene import Scene

    return Scene(config)


@dataclass(frozen=True, slots=True)
class _Exposed:
    shot: Shot
    settings: CameraSettings
    start_s: float
    ready_s: float


class SimulatedCamera:
    """A camera of a `World`.

    `expose` samples the state of stage, column and faults; `read` draws the picture. `expose` waits until the
    frame before has been read out, which `read` does: one thread exposes, another reads.

    Parameters
    ----------
    world
        Path of the world's file.
    """

    def __init__(self, world: str | Path) -> None:
        self._world = World.open(world)
        self._config = self._world.config
        self._picture = self._make_picture()
        height_px, width_px = self._picture.frame_shape
        sensor = self._config.camera
        self._info = CameraInfo(
            model=sensor.model,
            width_px=width_px,
            height_px=height_px,
            bit_depth=self._picture.bit_depth,
            pixel_size_um=sensor.pixel_size_um,
            exposure_range_s=(sensor.exposure_min_s, sensor.exposure_max_s),
            shutter_modes=("PRE_SPECIMEN", "NONE"),
        )
        self._settings = CameraSettings()
        self._shutter_open: bool | None = None
        self._frame_before: npt.NDArray[np.uint16] | None = None
        self._changed = threading.Condition()
        self._exposed: _Exposed | None = None
        self._ended = {"exposing": 0, "reading": 0}

    def _make_picture(self) -> Picture:
        return make_picture(self._config)

    @property
    def info(self) -> CameraInfo:
        """Fixed properties."""
        return self._info

    def open(self) -> None:
        """Connect; the first frame is drawn here, so that later ones take no longer than the rest."""
        shot = expose(self._world, 0, time.monotonic(), self._settings.exposure_time_s, 0.0)
        self._picture.render(shot, self._settings)
        self._rest_shutter()

    def close(self) -> None:
        """Disconnect; an exposure that runs is dropped."""
        self.abort()

    def configure(self, settings: CameraSettings) -> None:
        """Apply settings to the frames to come.

        Raises
        ------
        LimitError
            Exposure, binning, region or shutter mode outside what the camera can do; nothing is changed.
        """
        check_settings(self._info, settings)
        with self._changed:
            self._settings = settings
            self._rest_shutter()

    def temperature_degc(self) -> float:
        """Return the sensor's temperature in deg C."""
        return self._config.camera.temperature_degc + 0.05 * math.sin(time.time() / 20.0)

    def expose(self) -> None:
        """Make one exposure and return at its end, before it is read out.

        Raises
        ------
        OperationTimeout
            Nobody read the frame before.
        Aborted
            `abort` or `end_exposure` ended it.
        """
        with self._changed:
            watch = self._watch("exposing")
            if not self._wait_for(False, READOUT_PATIENCE_S, watch):
                raise OperationTimeout(
                    f"the frame before was not read within {READOUT_PATIENCE_S:g} s; read it, or abort"
                )
            started_s, start_s = time.monotonic(), time.time()
            settings = self._settings
            exposure_s = settings.exposure_time_s
            wall_s = self._config.delay_s(exposure_s)
            self._open_shutter(wall_s)
            try:
                if wall_s > 0.0:
                    self._wait_until(started_s + wall_s, watch)
            finally:
                self._close_shutter()
            index = self._world.exposures()
            shot = expose(self._world, index, started_s, exposure_s, wall_s)
            self._world.record(truth(shot, start_s, self._world.motion().encoder(started_s)[2]))
            self._world.count_exposure(index)
            ready_s = started_s + wall_s + self._config.delay_s(self._config.readout_time_s)
            self._exposed = _Exposed(shot, settings, start_s, ready_s)
            self._changed.notify_all()
        if shot.faults and shot.fault("server_crash"):
            os.kill(os.getpid(), signal.SIGKILL)

    def read(self, timeout_s: float) -> Frame:
        """Return the exposed frame once it is read out, waiting at most ``timeout_s`` for it.

        Raises
        ------
        OperationTimeout
            No frame came; one that comes later stays to be read.
        Aborted
            `abort` dropped it.
        OSError
            The fault disk_full: no space is left on the host (ENOSPC).
        """
        deadline_s = time.monotonic() + timeout_s
        with self._changed:
            watch = self._watch("reading")
            if not self._wait_for(True, timeout_s, watch):
                raise OperationTimeout(f"camera made no frame in {timeout_s:g} s; is it exposing?")
            exposed = self._exposed
        assert exposed is not None
        if exposed.shot.faults:
            self._fail(exposed.shot, deadline_s, timeout_s, watch)
        data = self._draw(exposed)
        with self._changed:
            if exposed.ready_s > time.monotonic():
                self._wait_until(min(exposed.ready_s, deadline_s), watch)
            self._check(watch)
            if exposed.ready_s > deadline_s:
                raise OperationTimeout(f"camera did not read out in {timeout_s:g} s; allow it more time")
            self._drop()
        return Frame(data, exposed.start_s, exposed.shot.exposure_s)

    def abort(self) -> None:
        """End the exposure that runs and drop the frame that waits; `expose` works again at once."""
        with self._changed:
            self._ended["reading"] += 1
            self._ended["exposing"] += 1
            self._drop()

    def end_exposure(self) -> None:
        """End the exposure that runs, or waits to begin; the frame exposed before stays to be read."""
        with self._changed:
            self._ended["exposing"] += 1
            self._changed.notify_all()

    def _draw(self, exposed: _Exposed) -> npt.NDArray[np.uint16]:
        before = self._frame_before
        frozen = exposed.shot.faults and exposed.shot.fault("frozen_frame")
        if frozen and before is not None and before.shape == exposed.settings.frame_shape(self._info):
            return before
        self._frame_before = self._picture.render(exposed.shot, exposed.settings)
        return self._frame_before

    def _pre_specimen(self) -> bool:
        return (self._settings.shutter_mode or self._info.shutter_modes[0]) == "PRE_SPECIMEN"

    def _rest_shutter(self) -> None:
        """Put the shutter where it is between exposures."""
        rests_open = not self._pre_specimen()
        if rests_open != self._shutter_open:
            self._shutter_open = rests_open
            self._world.log_beam("shutter", rests_open)

    def _open_shutter(self, wall_s: float) -> None:
        # the shutter of a camera whose driver has died closes by itself at the end of the exposure, and the
        # exposure ends after it
        self._world.log_beam("exposure", True, wall_s + SHUTTER_SLACK_S)
        if not self._shutter_open:
            self._world.log_beam("shutter", True, wall_s)

    def _close_shutter(self) -> None:
        if not self._shutter_open:
            self._world.log_beam("shutter", False)
        self._world.log_beam("exposure", False)

    def _fail(self, shot: Shot, deadline_s: float, timeout_s: float, watch: Watch) -> None:
        if shot.fault("disk_full"):
            with self._changed:
                self._drop()
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if shot.fault("camera_timeout"):
            with self._changed:
                if self._config.timing == "real":
                    self._wait_until(deadline_s, watch)
                self._check(watch)
            raise OperationTimeout(f"camera sent no frame in {timeout_s:g} s; abort and expose again")

    def _drop(self) -> None:
        self._exposed = None
        self._changed.notify_all()

    def _wait_for(self, frame_waits: bool, timeout_s: float, watch: Watch) -> bool:
        """Wait, with the lock held, until a frame waits to be read (or none does)."""
        deadline_s = time.monotonic() + timeout_s
        while (self._exposed is not None) != frame_waits:
            left_s = deadline_s - time.monotonic()
            if left_s <= 0.0:
                return False
            self._changed.wait(left_s)
            self._check(watch)
        return True

    def _wait_until(self, moment_s: float, watch: Watch) -> None:
        """Wait, with the lock held, until a moment of the monotonic clock."""
        while (left_s := moment_s - time.monotonic()) > 0.0:
            self._changed.wait(left_s)
            self._check(watch)

    def _watch(self, what: str) -> Watch:
        return what, self._ended[what]

    def _check(self, watch: Watch) -> None:
        if self._watch(watch[0]) != watch:
            raise Aborted("exposure ended by abort")


def check_settings(info: CameraInfo, settings: CameraSettings) -> None:
    """Refuse settings that the camera cannot do.

    Raises
    ------
    LimitError
        Naming the setting, its value and what is allowed.
    """
    check_limit("camera exposure_time_s", settings.exposure_time_s, *info.exposure_range_s, "s")
    if settings.binning not in info.binnings:
        allowed = ", ".join(map(str, info.binnings))
        raise LimitError(f"camera binning = {settings.binning} is not one of {allowed}")
    if settings.shutter_mode is not None and settings.shutter_mode not in info.shutter_modes:
        allowed = ", ".join(info.shutter_modes)
        raise LimitError(f"camera shutter_mode = {settings.shutter_mode} is not one of {allowed}")
    region = settings.region
    if region is None:
        return
    for name, offset, size, whole in (
        ("x", region.x_px, region.width_px, info.width_px),
        ("y", region.y_px, region.height_px, info.height_px),
    ):
        if offset < 0 or size < settings.binning or offset + size > whole:
            raise LimitError(
                f"camera region {name} from {offset} of {size} px does not lie on the sensor of {whole} px"
            )
        if size % settings.binning:
            raise LimitError(
                f"camera region {name} of {size} px is not a multiple of binning {settings.binning}"
            )
