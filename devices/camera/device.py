"""ophyd-async wrapper of a camera."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

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
from devices.errors import DeviceLost, MontangoError
from devices.tiles import IMAGE_DATASET, IMAGE_KEY, TILE_COLUMNS, TILE_GROUP

logger = logging.getLogger(__name__)

COLUMN_CHUNK = 512
COUNTER_TIMEOUT_S = 15.0
RENEW_S = 2.0


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

    async def prepare_unbounded(self, datakey_name: str) -> StreamResourceDataProvider:
        camera = self.camera
        now = datetime.now()
        name = f"{camera.file_label}_{now:%H%M%S}_{secrets.token_hex(3)}.h5"
        path = self.data_dir.resolve() / f"{now:%Y/%m/%d}" / name
        await camera.call("OpenFile", str(path), timeout_s=60.0)
        self.is_open = True
        await camera.wait_reset()
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
        return StreamResourceDataProvider(
            uri=f"file://localhost{path}",
            resources=[image, *columns],
            mimetype="application/x-hdf5",
            collections_written_signal=camera.frames_written,
        )

    async def stop(self) -> None:
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
    temperature_degc: SignalR[float]
    frame_rate_hz: SignalR[float]
    frames_written: SignalR[int]
    frames_waiting: SignalR[int]
    series_done: SignalR[int]
    exposure_count: SignalR[int]
    file_path: SignalR[str]
    ring_path: SignalR[str]
    ring_epoch: SignalR[int]
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

    async def wait_written(self, count: int, timeout_s: float) -> None:
        """Wait until ``count`` frames of the open file are flushed and this process knows it.

        Raises
        ------
        MontangoError
            A frame failed, the server was lost, or they are not there after ``timeout_s``.
        """
        await self.call("WaitWritten", count, timeout_s=timeout_s)
        await self._until(lambda written: written >= count)

    async def wait_reset(self) -> None:
        """Wait until the event of a newly opened file's empty counter is here."""
        await self._until(lambda written: written == 0)

    async def _until(self, agrees: Callable[[int], bool]) -> None:
        """Wait for the cached counter; the server pushes it again every 0.5 s, so silence is a lost one."""
        renewed = time.monotonic()
        try:
            async with asyncio.timeout(COUNTER_TIMEOUT_S):
                while not agrees(await self.frames_written.get_value()):
                    await asyncio.sleep(0.002)
                    if time.monotonic() - renewed > RENEW_S:
                        self.renew(self.frames_written)
                        renewed = time.monotonic()
        except TimeoutError as error:
            raise DeviceLost(
                f"{self.trl}: no event of frames_written for {COUNTER_TIMEOUT_S:g} s; see `montango status`"
            ) from error
