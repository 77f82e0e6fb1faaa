"""The same instruments through stock ophyd-async: a subscription for each operation, one axis at a time.

The peer that `montango bench tiles` measures beside our wrappers.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated as A
from typing import Any

import numpy as np
from ophyd_async.core import (
    Array1D,
    AsyncStatus,
    Command,
    DetectorAcquireLogic,
    DetectorDataLogic,
    DetectorTriggerLogic,
    Reference,
    SignalR,
    SignalRW,
    StandardDetector,
    StandardReadable,
    StreamResourceDataProvider,
    StreamResourceInfo,
    wait_for_value,
)
from ophyd_async.core import StandardReadableFormat as Format
from ophyd_async.tango.core import TangoDevice

TIMEOUT_S = 10.0


class StockAxis(StandardReadable):
    """One axis, moved by the stage's command and awaited by its counter."""

    def __init__(self, stage: StockStage, index: int) -> None:
        self._stage = Reference(stage)
        self._index = index
        super().__init__()

    @AsyncStatus.wrap
    async def set(self, value: float) -> None:
        """Move and wait."""
        stage = self._stage()
        target = np.full(5, np.nan)
        target[self._index] = value
        status = stage.MoveTo.execute(target)
        await status
        move = status.result()
        await wait_for_value(stage.moves_done, lambda done: done >= move, timeout=TIMEOUT_S)

    async def read(self) -> dict[str, Any]:
        """Read the position."""
        signal = (self._stage().x_um, self._stage().y_um)[self._index]
        return {self.name: (await signal.read())[signal.name]}

    async def describe(self) -> dict[str, Any]:
        """Describe the position."""
        signal = (self._stage().x_um, self._stage().y_um)[self._index]
        return {self.name: (await signal.describe())[signal.name]}


class StockStage(TangoDevice, StandardReadable):
    """The stage as ophyd-async makes it."""

    x_um: A[SignalR[float], Format.HINTED_SIGNAL]
    y_um: A[SignalR[float], Format.HINTED_SIGNAL]
    moves_done: SignalR[int]
    MoveTo: Command[[Array1D[np.float64]], int]

    def __init__(self, trl: str, name: str = "") -> None:
        super().__init__(trl, support_events=True, auto_fill_signals=False, name=name)
        self.x, self.y = StockAxis(self, 0), StockAxis(self, 1)
        self.set_name(name)


class _Trigger(DetectorTriggerLogic):
    def __init__(self) -> None:
        self.frames = 1

    async def prepare_internal(self, num: int, livetime: float, deadtime: float) -> None:
        self.frames = num


class _Acquire(DetectorAcquireLogic):
    def __init__(self, camera: StockCamera, trigger: _Trigger) -> None:
        self._camera, self._trigger = camera, trigger

    async def start_acquiring(self) -> None:
        await self._camera.Arm.execute(self._trigger.frames)

    async def wait_for_idle(self) -> None:
        return None

    async def ensure_stopped(self) -> None:
        return None


class _Files(DetectorDataLogic):
    def __init__(self, camera: StockCamera, folder: Path) -> None:
        self._camera, self._folder = camera, folder
        self._count = 0

    async def prepare_unbounded(self, datakey_name: str) -> StreamResourceDataProvider:
        camera = self._camera
        self._count += 1
        path = self._folder / f"stock-{self._count}.h5"
        await camera.OpenFile.execute(str(path))
        height, width = await asyncio.gather(camera.height_px.get_value(), camera.width_px.get_value())
        image = StreamResourceInfo(
            data_key=datakey_name,
            shape=(height, width),
            chunk_shape=(1,),
            dtype_numpy="<u2",
            parameters={"dataset": "/entry/data", "swmr": True},
        )
        return StreamResourceDataProvider(
            uri=f"file://localhost{path}",
            resources=[image],
            mimetype="application/x-hdf5",
            collections_written_signal=camera.frames_written,
        )

    async def stop(self) -> None:
        await self._camera.CloseFile.execute()


class StockCamera(TangoDevice, StandardDetector):
    """The camera as ophyd-async makes it."""

    exposure_time_s: SignalRW[float]
    frames_written: SignalR[int]
    height_px: SignalR[int]
    width_px: SignalR[int]
    OpenFile: Command[[str], int]
    CloseFile: Command[[], int]
    Arm: Command[[int], int]

    def __init__(self, trl: str, folder: Path, name: str = "") -> None:
        super().__init__(trl, support_events=True, auto_fill_signals=False, name=name)
        trigger = _Trigger()
        self.add_detector_logics(trigger, _Acquire(self, trigger), _Files(self, folder))


def stock_devices(host: str, devices: dict[str, str], folder: Path) -> tuple[StockStage, StockCamera]:
    """Return stage and camera, connected."""
    from ophyd_async.core import init_devices

    with init_devices():
        stock_stage = StockStage(host + devices["stage"])
        stock_camera = StockCamera(host + devices["camera"], folder)
    return stock_stage, stock_camera


__all__ = ["StockCamera", "StockStage", "stock_devices"]
