"""ophyd-async wrapper of a camera."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, cast

import numpy as np
from bluesky.protocols import Movable
from ophyd_async.core import (
    Array1D,
    AsyncStatus,
    Command,
    DetectorAcquireLogic,
    DetectorDataLogic,
    DetectorTriggerLogic,
    SignalDict,
    SignalR,
    SignalRW,
    StandardDetector,
    StreamResourceDataProvider,
    StreamResourceInfo,
)

from devices._tango.wrapper import InstrumentDevice
from devices.camera.frame_count import FrameCount
from devices.camera.snap import Snap, SnapRequest, read_snap
from devices.errors import DeviceLost, MontangoError
from devices.tiles import IMAGE_DATASET, IMAGE_KEY, TILE_COLUMNS, TILE_GROUP

logger = logging.getLogger(__name__)

COLUMN_CHUNK = 512


class _Trigger(DetectorTriggerLogic):
    """Frames timed by the camera, or one at a time as a sequencer asks for them."""

    def __init__(self, camera: Camera) -> None:
        self.camera = camera
        self.frames = 0

    def config_sigs(self) -> set[SignalR[Any]]:
        camera = self.camera
        return {
            camera.exposure_time_s,
            camera.binning,
            camera.region_px,
            camera.shutter_mode,
            camera.bit_depth,
            camera.pixel_size_um,
            camera.temperature_degc,
            camera.file_path,
            camera.ring_path,
            camera.ring_epoch,
        }

    def get_deadtime(self, config_values: SignalDict) -> float:
        return 0.0

    async def prepare_internal(self, num: int, livetime: float, deadtime: float) -> None:
        self.frames = num
        await self._expose_for(livetime)

    async def prepare_edge(self, num: int, livetime: float) -> None:
        self.frames = 0
        await self._expose_for(livetime)

    async def _expose_for(self, livetime: float) -> None:
        if livetime:
            await self.camera.exposure_time_s.set(livetime)


class _Acquire(DetectorAcquireLogic):
    """Starts series; sequenced exposures are the sequencer's."""

    def __init__(self, camera: Camera, trigger: _Trigger) -> None:
        self.camera = camera
        self.trigger = trigger
        self.series: int | None = None

    async def start_acquiring(self) -> None:
        if self.trigger.frames:
            self.series = int(await self.camera.call("Arm", self.trigger.frames))

    async def wait_for_idle(self) -> None:
        if self.series is not None:
            await self.camera.wait_for(self.series, timeout_s=self.camera.frame_timeout_s)
            self.series = None

    async def ensure_stopped(self) -> None:
        if self.series is not None:
            self.series = None
            try:
                await self.camera.call("Abort")
            except DeviceLost as error:
                logger.warning("%s; there is nothing left to stop", error)


class _Files(DetectorDataLogic):
    """One HDF5 file a run: the frames, and a dataset for each number recorded of a tile."""

    def __init__(self, camera: Camera, data_dir: Path) -> None:
        self.camera = camera
        self.data_dir = data_dir
        self.is_open = False
        self._count: FrameCount | None = None

    async def prepare_unbounded(self, datakey_name: str) -> StreamResourceDataProvider:
        camera = self.camera
        now = datetime.now()
        name = f"{camera.file_label}_{now:%H%M%S}_{secrets.token_hex(3)}.h5"
        path = self.data_dir.resolve() / f"{now:%Y/%m/%d}" / name
        await camera.call("OpenFile", str(path), timeout_s=60.0)
        self.is_open = True
        height, width = await camera.read_now("height_px", "width_px")
        image = StreamResourceInfo(
            data_key=IMAGE_KEY,
            shape=(int(height), int(width)),
            chunk_shape=(1,),
            dtype_numpy="<u2",
            parameters={"dataset": IMAGE_DATASET, "swmr": True},
        )
        columns = [
            StreamResourceInfo(
                data_key=column.name,
                shape=(),
                chunk_shape=(COLUMN_CHUNK,),
                dtype_numpy="<f8",
                parameters={"dataset": f"{TILE_GROUP}/{column.name}", "swmr": True},
            )
            for column in TILE_COLUMNS
        ]
        self._count = FrameCount(camera.frames_written, camera.count_written)
        return StreamResourceDataProvider(
            uri=f"file://localhost{path}",
            resources=[image, *columns],
            mimetype="application/x-hdf5",
            collections_written_signal=cast("SignalR[int]", self._count),
        )

    async def stop(self) -> None:
        if self._count is not None:
            self._count.close()
            self._count = None
        if self.is_open:
            self.is_open = False
            try:
                await self.camera.call("CloseFile", timeout_s=60.0)
            except MontangoError as error:
                logger.warning("%s; its file holds every frame that was flushed", error)


class Shutter(Movable[Array1D[np.float64]]):
    """One sequenced exposure as a thing that a plan sets: done at the end of the exposure."""

    parent = None

    def __init__(self, camera: Camera) -> None:
        self._camera = camera

    @property
    def name(self) -> str:
        """Name of the camera with ``-shutter`` behind it."""
        return f"{self._camera.name}-shutter"

    @AsyncStatus.wrap
    async def set(self, value: Array1D[np.float64]) -> None:
        """Expose; ``value`` holds the tile's `devices.tiles.SEQUENCER_COLUMNS`."""
        await self._camera.call("Expose", value, timeout_s=self._camera.frame_timeout_s)


class Camera(InstrumentDevice, StandardDetector):
    """The camera: a detector for stock plans, and the one a sequencer exposes.

    Frames go to an HDF5 file under ``data_dir`` and are data key ``image`` (y, x) uint16 in counts; the
    numbers of `devices.tiles.TILE_COLUMNS` are a data key each. Exposures are in s.
    """

    DONE_ATTRIBUTE = "series_done"

    exposure_time_s: SignalRW[float]
    binning: SignalRW[int]
    region_px: SignalRW[Array1D[np.int64]]
    width_px: SignalR[int]
    height_px: SignalR[int]
    sensor_width_px: SignalR[int]
    sensor_height_px: SignalR[int]
    bit_depth: SignalR[int]
    pixel_size_um: SignalR[float]
    shutter_mode: SignalRW[str]
    shutter_modes: SignalR[Sequence[str]]
    temperature_degc: SignalR[float]
    frame_rate_hz: SignalR[float]
    frames_written: SignalR[int]
    frames_waiting: SignalR[int]
    frames_given_up: SignalR[int]
    series_done: SignalR[int]
    exposure_count: SignalR[int]
    file_path: SignalR[str]
    ring_path: SignalR[str]
    ring_epoch: SignalR[int]
    snap_rings: SignalR[str]
    last_mean: SignalR[float]
    last_std: SignalR[float]
    last_min: SignalR[int]
    last_max: SignalR[int]
    Arm: Command[[int], int]
    CloseFile: Command[[], int]
    Abort: Command[[], int]

    frame_timeout_s: float = 60.0
    file_label: str = "frames"
    """Beginning of the names of the files to come."""

    def __init__(self, trl: str, data_dir: str | Path, name: str = "") -> None:
        super().__init__(trl, name)
        self.data_dir = Path(data_dir)
        self.shutter = Shutter(self)
        trigger = _Trigger(self)
        self.add_detector_logics(trigger, _Acquire(self, trigger), _Files(self, self.data_dir))

    async def snap(
        self, exposure_time_s: float, *, binning: int = 1, region_px: Sequence[int] | None = None
    ) -> Snap:
        """Take one frame that goes into no file; the camera's settings stay as they are.

        Works with and without an open file; waits until frames on their way are written, and for exposures
        that others ask for.

        Parameters
        ----------
        exposure_time_s
            Exposure, in s.
        binning
            Pixels added along each axis.
        region_px
            Offset x, y and size x, y on the sensor, unbinned pixels; None is the whole sensor.

        Raises
        ------
        LimitError
            Outside what the camera can do; nothing is exposed.
        MontangoError
            The camera failed, was aborted or does not answer.
        """
        request = SnapRequest(exposure_time_s, binning, *(region_px or ()))
        timeout_s = exposure_time_s + self.frame_timeout_s
        numbers = await self.call("Snap", request, timeout_s=timeout_s)
        return read_snap(await self.snap_rings.get_value(), numbers)

    async def wait_written(self, count: int, timeout_s: float) -> None:
        """Wait until ``count`` frames of the open file are flushed.

        Raises
        ------
        MontangoError
            A frame failed, the server was lost, or they are not there after ``timeout_s``.
        """
        await self.call("WaitWritten", count, timeout_s=timeout_s)

    async def count_written(self) -> int:
        """Return how many frames of the open (or last) file are flushed, read from the server.

        Raises
        ------
        MontangoError
            The server does not answer.
        """
        (count,) = await self.read_now("frames_written")
        return int(count)
