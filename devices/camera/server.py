"""Tango device server of a camera: frames to a shared-memory ring and an HDF5 file."""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tango import AttrWriteType, AutoTangoAllowThreads, DevState
from tango.server import attribute, command, device_property

from devices._tango.errors import translated
from devices._tango.server import InstrumentServer, serve
from devices.camera.counts import CameraCounts
from devices.camera.driver import CameraDriver, CameraSettings, Region
from devices.camera.ending import end_exposures
from devices.camera.pipeline import FramePipeline
from devices.camera.series import Series
from devices.camera.snap import SnapRequest
from devices.camera.snapshots import Snapshots
from devices.camera.statistics import FrameStatistics
from devices.camera.writer import FrameFile
from devices.errors import InstrumentFault, LimitError, MontangoError
from devices.frames import FrameRing
from devices.tiles import sequencer_values

ANNOUNCE_PERIOD_S = 0.02
HEARTBEAT_S = 0.5
RW = AttrWriteType.READ_WRITE


def _number(doc: str, unit: str = "", dtype: Any = "DevLong64", **options: Any) -> attribute:
    return attribute(dtype=dtype, unit=unit, doc=doc, **options)


class CameraServer(InstrumentServer):
    """A camera: `Expose` (sequenced) or `Arm` (a series), `frames_written` counts what is flushed."""

    DONE_ATTRIBUTE = "series_done"

    ring_slots = device_property(dtype=int, default_value=8, doc="frames in the shared-memory ring")
    ring_dir = device_property(dtype=str, default_value="/dev/shm", doc="folder of the ring")
    state_file = device_property(dtype=str, doc="file of the camera's own counts")
    readout_timeout_s = device_property(dtype=float, default_value=30.0, doc="longest readout and write")
    abort_patience_s = device_property(dtype=float, default_value=5.0, doc="longest wait of Abort for frames")

    exposure_time_s = _number("exposure of the frames to come", "s", float, access=RW, format="%.4f")
    binning = _number("pixels added along each axis", access=RW)
    region_px = _number(
        "offset x, y and size x, y on the sensor", "px", ("DevLong64",), max_dim_x=4, access=RW
    )
    width_px = _number("width of a frame", "px")
    height_px = _number("height of a frame", "px")
    sensor_width_px = _number("width of the sensor", "px")
    sensor_height_px = _number("height of the sensor", "px")
    bit_depth = _number("bits of a pixel", "bit")
    pixel_size_um = _number("pitch of the sensor's pixels", "um", float)
    shutter_mode = _number("PRE_SPECIMEN: beam on the sample only while exposing; NONE", dtype=str, access=RW)
    shutter_modes = _number("shutter modes that the camera has", dtype=(str,), max_dim_x=4)
    temperature_degc = _number("temperature of the sensor", "degC", float, min_alarm=-60, max_alarm=60)
    frame_rate_hz = _number("frames written a second, over the last second", "Hz", float)
    frames_written = _number("frames of the open file that are flushed")
    frames_waiting = _number("frames exposed and not yet written")
    frames_given_up = _number("exposures of the open file whose frames never reached it")
    series_done = _number("id of the newest series that ended well")
    exposure_count = _number("exposures since the camera was installed")
    file_path = _number("file of the frames", dtype=str)
    ring_path = _number("file of the ring", dtype=str)
    ring_epoch = _number("files opened since the camera was installed")
    snap_rings = _number("what the paths of the rings of snaps begin with", dtype=str)
    last_mean = _number("mean of the last frame", "counts", float)
    last_std = _number("standard deviation of the last frame", "counts", float)
    last_min = _number("smallest pixel of the last frame", "counts")
    last_max = _number("largest pixel of the last frame", "counts")

    hardware: CameraDriver

    def start(self) -> None:
        self._settings = CameraSettings(shutter_mode=self.hardware.info.shutter_modes[0])
        self.hardware.configure(self._settings)
        self._counts = CameraCounts(self.state_file)
        self._ring: FrameRing | None = None
        self._ring_shape = (0, 0)
        self._path = ""
        self._statistics = FrameStatistics()
        self._announced_at = 0.0
        self._exposing = threading.Lock()
        self._configuring = threading.Lock()
        self._frames = FramePipeline(
            self.hardware,
            depth=self.ring_slots,
            readout_timeout_s=self.readout_timeout_s,
            on_written=self._announce_written,
            on_frame=self._statistics.measure,
            on_error=self._frame_failed,
        )
        self._series = Series(
            lambda: self._expose(sequencer_values()),
            lambda count: self._frames.wait_written(count, self.readout_timeout_s),
            self.complete,
            self.fail,
        )
        self._snapshots = Snapshots(
            self.hardware, self._counts, self._ring_base() + "-snap", self._boot_id, self._statistics.measure
        )
        self.spawn(self._frames.read_frames, "readout")
        self.spawn(self._frames.write_frames, "write")
        self.spawn(self._series.run, "series")
        self.every(HEARTBEAT_S, self._watch, "watch")

    def wake(self) -> None:
        if hasattr(self, "_frames"):
            with suppress(MontangoError):
                self._frames.close_file(2.0)
            self._frames.stop()
            self._series.stop()

    def delete_device(self) -> None:
        """Write what is on its way, close the file, remove the ring."""
        super().delete_device()
        if hasattr(self, "_snapshots"):
            self._snapshots.close()
            if self._ring is not None:
                self._ring.unlink()

    def _ring_base(self) -> str:
        name = f"montango-{Path(self.state_file).stat().st_ino}-{self.get_name().replace('/', '-')}"
        return str(Path(self.ring_dir) / name)

    def read_exposure_time_s(self) -> float:
        return self._settings.exposure_time_s

    @translated
    def write_exposure_time_s(self, value: float) -> None:
        self._configure(replace(self._settings, exposure_time_s=float(value)))

    def read_binning(self) -> int:
        return self._settings.binning

    @translated
    def write_binning(self, value: int) -> None:
        self._configure(replace(self._settings, binning=int(value)))

    def read_region_px(self) -> tuple[int, int, int, int]:
        region, info = self._settings.region, self.hardware.info
        if region is None:
            return 0, 0, info.width_px, info.height_px
        return region.x_px, region.y_px, region.width_px, region.height_px

    @translated
    def write_region_px(self, value: npt.NDArray[np.int64]) -> None:
        if len(value) != 4:
            raise LimitError(f"region_px = {list(value)} is not (x, y, width, height) in pixels")
        self._configure(replace(self._settings, region=Region(*(int(number) for number in value))))

    def read_shutter_mode(self) -> str:
        return self._settings.shutter_mode or self.hardware.info.shutter_modes[0]

    def read_shutter_modes(self) -> tuple[str, ...]:
        return self.hardware.info.shutter_modes

    @translated
    def write_shutter_mode(self, value: str) -> None:
        modes = {str(mode): mode for mode in self.hardware.info.shutter_modes}
        if value not in modes:
            raise LimitError(f"camera shutter_mode = {value!r} is not one of {', '.join(modes)}")
        self._configure(replace(self._settings, shutter_mode=modes[value]))

    def read_width_px(self) -> int:
        return self._settings.frame_shape(self.hardware.info)[1]

    def read_height_px(self) -> int:
        return self._settings.frame_shape(self.hardware.info)[0]

    def read_sensor_width_px(self) -> int:
        return self.hardware.info.width_px

    def read_sensor_height_px(self) -> int:
        return self.hardware.info.height_px

    def read_bit_depth(self) -> int:
        return self.hardware.info.bit_depth

    def read_pixel_size_um(self) -> float:
        return self.hardware.info.pixel_size_um

    def read_temperature_degc(self) -> float:
        return self.hardware.temperature_degc()

    def read_frame_rate_hz(self) -> float:
        return self._statistics.rate_hz

    def read_frames_written(self) -> int:
        return self._frames.written

    def read_frames_waiting(self) -> int:
        return self._frames.in_flight

    def read_frames_given_up(self) -> int:
        return self._frames.given_up

    def read_series_done(self) -> int:
        return self._done_id

    def read_exposure_count(self) -> int:
        return self._counts.exposures

    def read_file_path(self) -> str:
        return self._path

    def read_ring_path(self) -> str:
        return str(self._ring.path) if self._ring else ""

    def read_ring_epoch(self) -> int:
        return self._counts.files

    def read_snap_rings(self) -> str:
        return self._snapshots.prefix

    def read_last_mean(self) -> float:
        return self._statistics.mean

    def read_last_std(self) -> float:
        return self._statistics.std

    def read_last_min(self) -> int:
        return self._statistics.low

    def read_last_max(self) -> int:
        return self._statistics.high

    @command(dtype_in=str, doc_in="path of a new HDF5 file", dtype_out="DevLong64", doc_out="its epoch")
    @translated
    def OpenFile(self, path: str) -> int:
        """Open a new file for the frames to come; the one before is closed."""
        with self._exposing:
            if self._frames.is_open:
                self._frames.close_file(self.readout_timeout_s)
            shape = self._settings.frame_shape(self.hardware.info)
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            file = FrameFile(path, shape)
            if self._ring is None or self._ring_shape != shape:
                self._ring = FrameRing.create(self._ring_base() + ".ring", self.ring_slots, shape)
                self._ring_shape = shape
            epoch = self._counts.add_file()
            self._frames.open_file(file, self._ring, epoch)
            self._path = path
        self.enter(DevState.RUNNING)
        self.publish(frames_written=0, file_path=path, ring_path=self.read_ring_path(), ring_epoch=epoch)
        return epoch

    @command(dtype_out="DevLong64", doc_out="frames in the file")
    @translated
    def CloseFile(self) -> int:
        """Write the frames on their way and close the file."""
        if not self._frames.is_open:
            return self._frames.written
        try:
            with AutoTangoAllowThreads(self):
                return self._frames.close_file(self.readout_timeout_s)
        finally:
            self.enter(DevState.ON)

    @command(
        dtype_in=(float,),
        doc_in="values of devices.tiles.SEQUENCER_COLUMNS for this tile",
        dtype_out="DevLong64",
        doc_out="index of the frame in the file",
    )
    @translated
    def Expose(self, columns: npt.NDArray[np.float64]) -> int:
        """Make one exposure and return at its end; readout and writing go on meanwhile."""
        values = sequencer_values(columns.tolist())
        with AutoTangoAllowThreads(self):
            return self._expose(values)

    @command(
        dtype_in=(float,),
        doc_in="devices.camera.snap.SnapRequest: exposure in s, binning, region x, y, width, height in px",
        dtype_out=(float,),
        doc_out="devices.camera.snap.SnapResult",
    )
    @translated
    def Snap(self, request: npt.NDArray[np.float64]) -> tuple[float, ...]:
        """Make one exposure that goes into no file; the settings stay as they are."""
        wanted = SnapRequest.unpack(request)
        with AutoTangoAllowThreads(self), self._exposing, self._configuring:
            self._frames.wait_idle(self.readout_timeout_s)
            settings = replace(
                self._settings,
                exposure_time_s=wanted.exposure_time_s,
                binning=wanted.binning,
                region=wanted.region,
            )
            return self._snapshots.take(settings, self._settings, self.readout_timeout_s)

    @command(
        dtype_in="DevLong64",
        doc_in="number of frames",
        dtype_out="DevLong64",
        doc_out="id of the series; it has ended, written, when series_done reaches it",
    )
    @translated
    def Arm(self, frames: int) -> int:
        """Start a series of frames timed by the camera."""
        if frames < 1:
            raise LimitError(f"number of frames = {frames} is below its limit 1")
        if not self._frames.is_open:
            raise InstrumentFault("no file is open for frames; OpenFile first")
        series = self.begin()
        self._series.start(series, frames)
        return series

    @command(dtype_in="DevLong64", doc_in="number of frames", dtype_out="DevLong64", doc_out="frames written")
    @translated
    def WaitWritten(self, count: int) -> int:
        """Wait until so many frames of the file are flushed."""
        with AutoTangoAllowThreads(self):
            return self._frames.wait_written(count, self.readout_timeout_s)

    @command(dtype_out="DevLong64", doc_out="frames written")
    @translated
    def EndExposure(self) -> int:
        """End the exposure that runs and refuse others until Abort or OpenFile; no frame is given up."""
        self._series.end()
        self._frames.end()
        self.hardware.end_exposure()
        return self._frames.written

    @command(dtype_out="DevLong64", doc_out="frames written")
    @translated
    def Abort(self) -> int:
        """End the exposure that runs; frames exposed before are written, or given up after a while."""
        self._series.end()
        with AutoTangoAllowThreads(self):
            missing = end_exposures(self.hardware, self._frames, self._exposing, self.abort_patience_s)
        if missing:
            self.warn_stream(f"Abort: {missing} exposed frames did not reach {self._path} and are given up")
        return self._frames.written

    def _configure(self, settings: CameraSettings) -> None:
        info = self.hardware.info
        if self._frames.is_open and settings.frame_shape(info) != self._settings.frame_shape(info):
            raise InstrumentFault("binning and region cannot change while a file is open; CloseFile first")
        with AutoTangoAllowThreads(self), self._configuring:
            self.hardware.configure(settings)
            self._settings = settings
        self.publish(
            shutter_mode=self.read_shutter_mode(),
            exposure_time_s=settings.exposure_time_s,
            binning=settings.binning,
            region_px=self.read_region_px(),
            width_px=self.read_width_px(),
            height_px=self.read_height_px(),
        )

    def _expose(self, values: dict[str, float]) -> int:
        with self._exposing:
            self._frames.reserve()
            try:
                self.hardware.expose()
            except BaseException:
                self._frames.release()
                self._frames.raise_failure()  # which ended this exposure, too
                raise
            values["exposure_count"] = float(self._counts.add_exposure())
            return self._frames.exposed(values)

    def _announce_written(self, count: int) -> None:
        """Push the counter when no frame follows at once, and 50 times a second otherwise."""
        now = time.monotonic()
        if not self._frames.in_flight or now - self._announced_at > ANNOUNCE_PERIOD_S:
            self._announced_at = now
            self.publish(frames_written=count)

    def _frame_failed(self, error: Exception) -> None:
        self.fail(self._newest_id if self._series.running else self._failed_id, error)

    def _watch(self) -> None:
        """Push what changes slowly, and the frame counter again in case an event was lost."""
        seen = self._statistics
        seen.count(self._frames.written)
        self.publish_changed(
            temperature_degc=self.hardware.temperature_degc(),
            frames_waiting=self._frames.in_flight,
            frames_given_up=self._frames.given_up,
            exposure_count=self._counts.exposures,
            **seen.values(),
        )
        if self._frames.is_open:
            self.publish(frames_written=self._frames.written)


if __name__ == "__main__":
    serve(CameraServer, "MontangoCamera")
