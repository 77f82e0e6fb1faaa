"""The sequencer on a microscope in real time: supertiles, settling, blanking, pause, lease; and snaps."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import bluesky.plan_stubs as bps
import h5py
import numpy as np
import numpy.typing as npt
import pytest
import tango
from bluesky.run_engine import RunEngine
from bluesky.utils import FailedStatus

from devices.errors import InstrumentFault, LimitError
from devices.sequencer.driver import Blanking, MoveOptions, Table, TileRequest, pack
from devices.stage.moves import SettleMode
from montango.lab import Lab, running_lab
from plans.stubs.ask import ask
from plans.stubs.snap import snap
from sim.beam_log import stray_intervals
from sim.faults import inject, make_fault
from sim.world import World

if TYPE_CHECKING:
    from montango.config import MontangoConfig
    from profiles.simulated.devices import Devices

pytestmark = [pytest.mark.system, pytest.mark.timeout(600)]
Columns = dict[str, npt.NDArray[np.float64]]


@pytest.fixture(scope="module")
def real(
    make_config: Callable[..., MontangoConfig], tmp_path_factory: pytest.TempPathFactory, engine: RunEngine
) -> Iterator[Lab]:
    """Return a laboratory with real timing and no catalog; after the engine, and the shared one with it."""
    config = make_config(
        frame_px=512,
        catalog=False,
        simulation={"timing": "real", "readout_time_s": 0.02},
        facility={"ioc": None},
    )
    with running_lab(config, tmp_path_factory.mktemp("real")) as lab:
        yield lab


@pytest.fixture(scope="module")
def scope(real: Lab) -> Iterator[Devices]:
    """Return its devices."""
    from profiles.simulated.devices import make_devices

    devices = make_devices(real.info())
    yield devices
    devices.disconnect()


@pytest.fixture(scope="module")
def world(real: Lab) -> Iterator[World]:
    """Return its world."""
    with World.open(str(real.info().world)) as opened:
        yield opened


class Bench:
    """Plain Tango clients of the microscope, and tables run on it."""

    def __init__(self, lab: Lab, folder: Path) -> None:
        info = lab.info()
        self.folder = folder
        self.stage, self.camera, self.column, self.sequencer = (
            tango.DeviceProxy(f"tango://{info.tango_host}/{info.devices[name]}")
            for name in ("stage", "camera", "column", "sequencer")
        )
        self.camera.exposure_time_s = 0.02

    def file(self) -> Path:
        """Open a new file for frames."""
        path = self.folder / f"{time.time_ns()}.h5"
        self.camera.OpenFile(str(path))
        return path

    def wait(self, table: int) -> None:
        """Wait until a table is done."""
        while self.sequencer.tables_done < table:
            assert self.sequencer.failed_id < table, self.sequencer.last_error

    def run(self, tiles: list[TileRequest], **options: Any) -> Columns:
        """Run a table and return what was recorded."""
        path = self.file()
        self.wait(self.sequencer.QueueTable(pack(Table(tuple(tiles), MoveOptions(**options)))))
        return self.close(path)

    def close(self, path: Path) -> Columns:
        """Close the file and return what was recorded."""
        self.camera.CloseFile()
        with h5py.File(path, "r") as file:
            return {name: data[:] for name, data in file["/entry/tiles"].items()}


@pytest.fixture
def bench(real: Lab, tmp_path: Path) -> Bench:
    return Bench(real, tmp_path)


def line(count: int, step_um: float = 3.0, **fields: float) -> list[TileRequest]:
    """Return tiles along x."""
    return [TileRequest(k, 2, 0, k, 0, step_um * k, 1.0, 0.02, **fields) for k in range(count)]  # type: ignore[arg-type]


def test_tiles_of_a_station_do_not_move_the_stage(bench: Bench, world: World) -> None:
    tiles = [
        TileRequest(
            k, 0, 0, k, 0, 5.0 * (k // 3), 0.0, 0.05,
            image_shift_x_um=1.0 * (k % 3), image_shift_y_um=-0.5,
            centre_dx_um=0.9 * (k % 3), centre_dy_um=0.1, prior_dose_e_per_a2=7.0,
        )
        for k in range(6)
    ]  # fmt: skip
    before = world.motion().moves
    seen = bench.run(tiles)
    assert world.motion().moves - before == 2
    assert seen["stage_tries"].tolist() == [1, 0, 0, 1, 0, 0]
    assert seen["move_time_s"][[1, 2, 4, 5]].tolist() == [0.0] * 4
    assert seen["image_shift_x_um"].tolist() == [0, 1, 2, 0, 1, 2]
    assert seen["centre_x_um"] - seen["x_um"] == pytest.approx([0, 0.9, 1.8, 0, 0.9, 1.8])
    assert seen["centre_y_um"] - seen["y_um"] == pytest.approx(0.1)
    assert seen["settle_time_s"][[0, 3]].min() > 0.0499
    # the settle time is how long the stage has been there: the others need not wait again
    assert seen["settle_time_s"][[1, 2, 4, 5]].tolist() == [0.0] * 4
    assert (seen["prior_dose_e_per_a2"] == 7.0).all()
    truth = world.truth()[-6:]
    assert [shot.x_um for shot in truth] == pytest.approx(
        [5.0 * (k // 3) + 1.0 * (k % 3) for k in range(6)], abs=0.4
    )


def test_dose_is_flux_times_time(bench: Bench, world: World) -> None:
    seen = bench.run(line(2, exposure_time_s=0.03))
    current_na, diameter_um = bench.column.beam_current_na, bench.column.illuminated_area_um
    flux = current_na * 1e-9 / 1.602176634e-19 / (math.pi / 4 * (diameter_um * 1e4) ** 2)
    assert seen["dose_e_per_a2"] == pytest.approx(flux * 0.03, rel=0.02)
    assert np.isnan(seen["drift_nm_s"]).all()


@pytest.mark.parametrize("blanking", Blanking)
def test_beam_between_exposures(bench: Bench, world: World, blanking: Blanking) -> None:
    # the column's blanker alone, as with a camera that has no shutter of its own
    mode = "NONE" if blanking is Blanking.COLUMN else "PRE_SPECIMEN"
    bench.camera.shutter_mode = mode
    seen = bench.run(line(4), blanking=blanking)
    # from the first exposure to the end of the last: how long the sample had beam that no frame shows, and
    # how often it began
    first, last = seen["exposure_start_s"][[0, -1]]
    stray = stray_intervals(world.beam_log(), first, last + seen["exposure_time_s"][-1])
    between = last - first - seen["exposure_time_s"][:-1].sum()
    total = sum(end - start for start, end in stray)
    if blanking is Blanking.OFF:
        assert total > 0.5 * between  # the beam stays on while the stage moves
        assert len(stray) <= 3 + 2
    elif blanking is Blanking.COLUMN:
        assert 0.0 < total < between  # what the blanker takes to act, before and after each exposure
        assert 2 * 4 - 2 <= len(stray) <= 2 * 4
    else:
        assert stray == []
    assert bench.camera.shutter_mode == mode
    assert bench.column.beam_blanked
    bench.camera.shutter_mode = "PRE_SPECIMEN"


def test_drift_is_waited_for_and_recorded(bench: Bench, world: World) -> None:
    bench.run(line(1))
    inject(world, make_fault("slow_settle", at_exposure=world.exposures(), severity=0.8))
    tiles = [TileRequest(0, 0, 0, 0, 0, 20.0, 0.0, 0.0), TileRequest(1, 0, 0, 1, 0, 20.0, 0.0, 0.0)]
    first = bench.camera.exposure_count
    seen = bench.run(
        tiles,
        settle_mode=SettleMode.DRIFT,
        settle_limit_nm_s=60.0,
        settle_timeout_s=10.0,
        drift_exposure_s=0.02,
    )
    # 80 % of 24 times 40 nm/s falls below 60 nm/s after 3.4 s; what shakes when the move ends is no stillness
    assert seen["settle_time_s"][0] > 0.8
    assert seen["drift_nm_s"].max() <= 60.0
    drift_frames = seen["exposure_count"][0] - first - 1
    assert drift_frames >= 2
    assert seen["exposure_count"][1] == seen["exposure_count"][0] + 1
    ratio = seen["dose_e_per_a2"][0] / seen["dose_e_per_a2"][1]
    assert ratio == pytest.approx(1.0 + drift_frames, rel=0.01)
    assert len(seen["row"]) == 2


def test_drift_that_does_not_end_is_exposed_and_told(bench: Bench, world: World) -> None:
    inject(world, make_fault("slow_settle", at_exposure=world.exposures()))
    tiles = [TileRequest(0, 0, 0, 0, 0, -20.0, 0.0, 0.0)]
    seen = bench.run(
        tiles,
        settle_mode=SettleMode.DRIFT,
        settle_limit_nm_s=30.0,
        settle_timeout_s=0.1,
        drift_exposure_s=0.02,
    )
    assert seen["drift_nm_s"][0] > 30.0  # of 960 nm/s in the beginning


def test_a_miss_of_the_stage_is_corrected_or_named(
    bench: Bench, world: World, engine: RunEngine, scope: Devices
) -> None:
    inject(world, make_fault("stage_miss", at_exposure=world.exposures(), count=2))
    seen = bench.run(line(3), tolerance_um=0.5)
    assert seen["stage_tries"].tolist() == [3, 1, 1]
    assert abs(seen["x_um"] - seen["x_requested_um"]).max() < 0.5
    inject(world, make_fault("stage_miss", at_exposure=world.exposures(), count=3))
    path = bench.file()
    with pytest.raises(FailedStatus) as caught:
        engine(bps.mv(scope.sequencer, Table(tuple(line(3)), MoveOptions(tolerance_um=0.5, retries=2))))
    bench.close(path)
    error = caught.value.__cause__
    assert isinstance(error, InstrumentFault)
    for words in ("tile 0 (roi 2, row 0, column 0, attempt 0)", "missed its target", "0.5 um after 3 moves"):
        assert words in str(error)
    assert bench.column.beam_blanked


def test_a_table_behind_one_that_failed_tells_why_that_failed(
    bench: Bench, world: World, engine: RunEngine, scope: Devices
) -> None:
    inject(world, make_fault("stage_miss", at_exposure=world.exposures(), count=3))
    path = bench.file()
    missed = Table(tuple(line(3)), MoveOptions(tolerance_um=0.5, retries=2))
    failed = bench.sequencer.QueueTable(pack(missed))
    while bench.sequencer.failed_id < failed:
        pass
    scope.sequencer._running.add(failed)  # whoever waits for it has not heard of it yet
    try:
        with pytest.raises(FailedStatus) as caught:
            engine(bps.mv(scope.sequencer, line(2)))
    finally:
        scope.sequencer._running.discard(failed)
        bench.close(path)
    assert isinstance(caught.value.__cause__, InstrumentFault)
    assert "missed its target" in str(caught.value.__cause__)


def test_pause_holds_before_the_next_tile_and_resume_goes_on(bench: Bench, world: World) -> None:
    path, sequencer = bench.file(), bench.sequencer
    done = sequencer.tiles_done
    first = sequencer.QueueTable(pack(line(6)))
    second = sequencer.QueueTable(pack(line(4)))
    while sequencer.tiles_done < done + 2:
        pass
    assert not sequencer.held
    sequencer.Pause()
    while not sequencer.held or sequencer.state() != tango.DevState.STANDBY:
        pass
    held_at, exposures = sequencer.tiles_done - done, world.exposures()
    assert 2 <= held_at < 10
    assert bench.column.beam_blanked
    assert sequencer.tiles_queued == 10 - held_at
    # somebody works meanwhile, and the column is read again afterwards
    bench.camera.Snap([0.01])
    bench.column.defocus_um = -1.25
    assert world.exposures() == exposures + 1
    sequencer.Resume()
    bench.wait(first)
    bench.wait(second)
    seen = bench.close(path)
    bench.column.defocus_um = -0.5
    assert seen["raster_index"].tolist() == [*range(6), *range(4)]
    assert seen["defocus_um"][held_at - 1] == -0.5
    assert (seen["defocus_um"][held_at:] == -1.25).all()
    assert sequencer.current_tile == 3
    assert not sequencer.held


def test_abort_ends_a_pause(bench: Bench) -> None:
    path, sequencer = bench.file(), bench.sequencer
    sequencer.Pause()
    table = sequencer.QueueTable(pack(line(3)))
    while sequencer.state() != tango.DevState.STANDBY:
        pass
    sequencer.Abort()
    while sequencer.failed_id < table:
        pass
    assert sequencer.last_error.startswith("Aborted")
    assert bench.column.beam_blanked
    assert not sequencer.held
    assert len(bench.close(path)["row"]) == 0
    assert len(bench.run(line(2))["row"]) == 2


def test_only_the_owner_queues_tables(bench: Bench, engine: RunEngine, scope: Devices) -> None:
    sequencer = scope.sequencer

    def owned() -> Any:
        yield from ask(lambda: sequencer.acquire("anna, pid 1"))
        yield from bps.mv(sequencer, line(2))

    path = bench.file()
    engine(owned())
    assert bench.sequencer.owner == "anna, pid 1"
    refused: tuple[Callable[[], Any], ...] = (
        lambda: bench.sequencer.QueueTable(pack(line(1))),
        lambda: bench.sequencer.QueueTable(pack(line(1), 12345)),
        lambda: bench.sequencer.Acquire("bert, pid 2"),
        lambda: bench.sequencer.Release("bert, pid 2"),
    )
    for call in refused:
        with pytest.raises(tango.DevFailed, match="belongs to anna, pid 1"):
            call()
    # the same owner once more: the process that had the first token is shut out
    before = sequencer.owner_token
    engine(ask_once(lambda: sequencer.acquire("anna, pid 1")))
    with pytest.raises(tango.DevFailed, match="anna"):
        bench.sequencer.QueueTable(pack(line(1), before))
    engine(ask_once(lambda: sequencer.release("anna, pid 1")))
    assert bench.sequencer.owner == ""
    bench.wait(bench.sequencer.QueueTable(pack(line(1))))
    assert len(bench.close(path)["row"]) == 3


def ask_once(question: Callable[[], Any]) -> Any:
    """Return a plan that asks a device something."""
    return (yield from ask(question))


@pytest.mark.parametrize("open_file", [True, False])
def test_snap_leaves_file_settings_and_beam_alone(
    bench: Bench, engine: RunEngine, scope: Devices, open_file: bool
) -> None:
    path = bench.file() if open_file else None
    frames = bench.camera.frames_written
    count = bench.camera.exposure_count
    snaps: list[Any] = []

    def plan() -> Any:
        for dark in (False, True):
            snaps.append((yield from snap(scope.camera, scope.column, 0.03, binning=2, dark=dark)))
        region = (64, 32, 128, 256)
        snaps.append((yield from snap(scope.camera, scope.column, 0.03, region_px=region)))

    engine(plan())
    light, dark, part = snaps
    assert light.data.shape == dark.data.shape == (256, 256)
    assert part.data.shape == (256, 128)
    assert (light.binning, part.binning, light.exposure_time_s) == (2, 1, 0.03)
    assert [shot.exposure_count for shot in snaps] == [count + 1, count + 2, count + 3]
    assert light.data.mean() > 5 * dark.data.mean()
    assert bench.column.beam_blanked
    assert (bench.camera.binning, bench.camera.exposure_time_s) == (1, 0.02)
    assert bench.camera.frames_written == frames
    if path is not None:
        bench.wait(bench.sequencer.QueueTable(pack(line(2))))
        assert len(bench.close(path)["row"]) == 2


def test_an_exposure_may_take_longer_than_a_usual_answer(engine: RunEngine, scope: Devices) -> None:
    made: list[Any] = []

    def plan() -> Any:
        made.append((yield from snap(scope.camera, scope.column, 3.2, binning=8)))

    engine(plan())
    assert made[0].exposure_time_s == 3.2


def test_a_snap_that_is_refused_or_fails_leaves_the_camera_as_it_was(
    bench: Bench, engine: RunEngine, scope: Devices, world: World
) -> None:
    with pytest.raises(LimitError, match="binning"):
        engine(snap(scope.camera, scope.column, 0.02, binning=3))
    inject(world, make_fault("disk_full", at_exposure=world.exposures()))
    with pytest.raises(InstrumentFault):
        engine(snap(scope.camera, scope.column, 0.02, binning=2))
    assert (bench.camera.binning, bench.camera.exposure_time_s) == (1, 0.02)
    assert bench.column.beam_blanked
    assert len(bench.run(line(2))["row"]) == 2
