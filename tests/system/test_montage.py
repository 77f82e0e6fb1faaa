"""Whole montages through Tango, Bluesky and Tiled, on laboratories that are up."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import bluesky.plan_stubs as bps
import h5py
import numpy as np
import pytest
import tango
from bluesky.run_engine import RunEngine

from devices.errors import ConfigurationError, DeviceLost, LimitError, MontangoError
from montango.config import MontangoConfig
from montango.lab import Lab
from plans.montage import montage
from plans.specs.montage import MontageSpec
from sim.faults import inject, make_fault
from sim.world import World

if TYPE_CHECKING:
    from montango.session import Session
    from profiles.simulated.devices import Devices

pytestmark = [pytest.mark.system, pytest.mark.timeout(600)]

Document = tuple[str, dict[str, Any]]


def instruments(devices: Devices) -> tuple[Any, Any, Any, Any]:
    """Return the devices in the order that plans take them."""
    return devices.sequencer, devices.camera, devices.column, devices.stage


@pytest.fixture
def connected(make_lab: Callable[..., Lab], engine: RunEngine) -> Iterator[Callable[[Lab], Devices]]:
    """Return a function that returns the devices of a laboratory of the test's own, until it goes down."""
    from profiles.simulated.devices import make_devices

    made: list[Devices] = []
    before = dict(os.environ)

    def connect(own: Lab) -> Devices:
        own.connect()
        made.append(make_devices(own.info()))
        return made[-1]

    yield connect
    for devices in made:
        devices.disconnect()
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="module")
def large(
    make_config: Callable[..., MontangoConfig], tmp_path_factory: pytest.TempPathFactory, engine: RunEngine
) -> Iterator[tuple[Lab, Devices]]:
    """Return a laboratory with frames of 1024 px and a catalog, and its devices."""
    from profiles.simulated.devices import make_devices

    own = Lab(make_config(1024), tmp_path_factory.mktemp("large") / "lab")
    own.up()
    devices = make_devices(own.info())
    yield own, devices
    devices.disconnect()
    own.down()


def frames_file(documents: list[Document]) -> Path:
    """Return the file that the documents name."""
    uri = next(doc["uri"] for name, doc in documents if name == "stream_resource")
    return Path(uri.removeprefix("file://localhost"))


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """Open a file of frames as a reader does while it may grow."""
    with h5py.File(path, "r", libver="latest", swmr=True) as file:
        yield file


@contextmanager
def session_of(own: Lab, devices: Devices, engine: RunEngine) -> Iterator[Session[Devices]]:
    """Return a session, with all that listens to it."""
    from montango.session import Session

    options: dict[str, Any] = {"engine": engine, "minimum_free_gb": 0.1}
    with Session(own.info(), lambda _: devices, **options) as session:
        yield session


@contextmanager
def catalog_of(own: Lab) -> Iterator[Any]:
    """Return a plain Tiled client of a laboratory's catalog."""
    from tiled.client import from_uri

    info = own.info()
    client = from_uri(info.tiled["uri"], api_key=info.tiled["api_key"])
    try:
        yield client
    finally:
        client.context.close()


def acquire(engine: RunEngine, devices: Devices, spec: MontageSpec, **options: Any) -> list[Document]:
    """Run a montage and return its documents."""
    documents: list[Document] = []
    plan = montage(*instruments(devices), spec, minimum_free_gb=0.1, **options)
    engine(plan, lambda name, doc: documents.append((name, doc)))
    return documents


def see_mosaic(mosaic: Any) -> None:
    """Check the mosaic of the montage of 4 x 4 tiles whose eighth was acquired again."""
    from processing.mosaic.pyramid import PyramidStore

    start, table = mosaic.metadata["start"], mosaic["alignment"].read()
    assert (start["complete"], start["problems"]) == (True, [])
    assert start["tiles"] == start["tiles_matched"] == 16
    assert (np.hypot(*(table[f"position_{x}_px"] - table[f"nominal_{x}_px"] for x in "xy")) < 500).all()
    assert sorted(table["tile_index"].values.tolist()) == [*range(7), *range(8, 17)]
    pixels = mosaic["mosaic"]["level_0"]
    with PyramidStore.open(start["mosaic"]) as store:
        assert pixels.shape == store.shape
        x, y = (int(table[f"position_{x}_px"].values.mean()) for x in "xy")
        left, top = x - store.geometry.origin_px[0], y - store.geometry.origin_px[1]
        part = pixels[top - 300 : top + 200, left - 100 : left + 400]
        np.testing.assert_array_equal(part, store.read(0, top - 300, left - 100, top + 200, left + 400))
        assert part.min() > 0


@pytest.mark.parametrize("mode", ["sequenced", "stepped"])
def test_documents_and_file_say_the_same(engine: RunEngine, devices: Devices, mode: Any) -> None:
    spec = MontageSpec(rows=3, columns=4, settle_s=0, exposure_time_s=0.01, mode=mode, centre_um=(5.0, 5.0))
    documents = acquire(engine, devices, spec, md={"sample": "grid 7", "operator": "vm"})
    by_name = dict(documents)
    start = documents[0][1]
    assert start["montage_spec"] == spec.model_dump(mode="json")
    assert (start["sample"], start["operator"], start["purpose"]) == ("grid 7", "vm", "montage")
    assert by_name["stop"]["exit_status"] == "success"
    assert by_name["stop"]["num_events"] == {"baseline": 2, "tiles": 12, "verdict": 1}
    with opened(frames_file(documents)) as file:
        table = {name: column[:] for name, column in file["/entry/tiles"].items()}
        assert file["/entry/data"].shape == (12, 256, 256)
    assert table["raster_index"].tolist() == list(range(12))
    assert table["row"].tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert table["column"].tolist() == [0, 1, 2, 3, 3, 2, 1, 0, 0, 1, 2, 3]
    assert np.abs(table["x_um"] - table["x_requested_um"]).max() < 0.5
    assert (np.diff(table["exposure_start_s"]) > 0).all()
    assert (table["exposure_time_s"] == 0.01).all()
    assert (table["prior_dose_e_per_a2"][1:] > 0).all()
    del table["drift_nm_s"]  # not measured with a fixed settle
    assert np.isfinite(np.array(list(table.values()))).all()


def test_grid_outside_the_limits_moves_nothing(lab: Lab, engine: RunEngine, devices: Devices) -> None:
    engine(bps.mv(devices.stage, (0.0, 0.0)))
    stage = tango.DeviceProxy(f"tango://{lab.info().tango_host}/em/stage/1")
    moves, documents = stage.moves_done, []
    spec = MontageSpec(rows=1, columns=9, centre_um=(989.0, 0.0))
    with pytest.raises(LimitError, match=r"row 0, column \d.*x_um"):
        engine(montage(*instruments(devices), spec), lambda name, doc: documents.append(name))
    assert stage.moves_done == moves
    assert not documents


def test_missing_calibration_is_named_and_nothing_moves(
    lab: Lab, engine: RunEngine, devices: Devices
) -> None:
    engine(bps.mv(devices.column.magnification, 80_000.0))
    try:
        with pytest.raises(ConfigurationError, match=r"em/column/1.*80000"):
            acquire(engine, devices, MontageSpec(rows=2, columns=2))
    finally:
        engine(bps.mv(devices.column.magnification, 5000.0))


def test_disk_and_dose_are_checked_before_the_run(engine: RunEngine, devices: Devices) -> None:
    spec = MontageSpec(rows=2, columns=2)
    with pytest.raises(LimitError, match="minimum_free_gb"):
        engine(montage(*instruments(devices), spec, minimum_free_gb=1e9))
    spec = MontageSpec(rows=2, columns=2, max_dose_e_per_a2=1e-6)
    with pytest.raises(LimitError, match="max_dose_e_per_a2"):
        engine(montage(*instruments(devices), spec, minimum_free_gb=0.1))


def test_beam_is_blanked_and_stage_still_after_success_and_after_failure(
    lab: Lab, engine: RunEngine, devices: Devices
) -> None:
    host = f"tango://{lab.info().tango_host}/"
    column, stage = tango.DeviceProxy(host + "em/column/1"), tango.DeviceProxy(host + "em/stage/1")
    spec = MontageSpec(rows=2, columns=3, settle_s=0, exposure_time_s=0.01, centre_um=(0.0, 0.0))
    acquire(engine, devices, spec)
    assert column.beam_blanked
    assert lab.info().world is not None
    with World.open(str(lab.info().world)) as world:
        inject(world, make_fault("disk_full", at_exposure=world.exposures() + 3))
    with pytest.raises(MontangoError, match=r"(?i)disk|space|ENOSPC"):
        acquire(engine, devices, spec)
    assert column.beam_blanked
    assert stage.stage_state == "READY"
    acquire(engine, devices, spec)


def test_spoiled_tile_is_acquired_again_and_the_montage_reads_as_one(
    large: tuple[Lab, Devices], engine: RunEngine
) -> None:
    own, devices = large
    with World.open(str(own.info().world)) as world:
        inject(world, make_fault("focus_jump", at_exposure=world.exposures() + 7))
    with session_of(own, devices, engine) as session:
        documents: list[Document] = []
        spec = MontageSpec(rows=4, columns=4, settle_s=0, exposure_time_s=0.1, centre_um=(0.0, 0.0))
        plan = session.montage(*instruments(devices), spec, {"sample": "spoiled"})
        session.RE(plan, lambda name, doc: documents.append((name, doc)))
        assert session.drain(300)
        from tiled.queries import Key

    with catalog_of(own) as client:
        (run,) = client.search(Key("sample") == "spoiled").search(Key("purpose") == "montage").values()
        assert run["tiles"]["image"].shape == (17, 1, 1024, 1024)
        table = run["qc"].read()
        results = {
            one.metadata["start"]["recipe"]: one
            for one in client.search(Key("purpose") == "processing").values()
            if one.metadata["start"]["input_uids"] == [run.metadata["start"]["uid"]]
        }
        assert min(results["overview"]["overview"]["overview"].shape[-2:]) > 64
        see_mosaic(results["live_mosaic"])
    qc = [doc["data"] for name, doc in documents if name == "event" and "qc_state" in doc["data"]]
    failed = [(event["tile_index"], event["tile_attempt"]) for event in qc if event["qc_state"] == "fail"]
    assert failed == [(7, 0)]
    again = next(event for event in qc if event["tile_attempt"] == 1)
    spoiled = next(event for event in qc if event["tile_index"] == 7)
    assert (again["tile_row"], again["tile_column"]) == (spoiled["tile_row"], spoiled["tile_column"])
    assert again["qc_state"] == "pass"
    assert len(table["qc_state"]) == len(qc)


def test_killed_camera_is_named_and_the_same_engine_goes_on(
    make_lab: Callable[..., Lab], connected: Callable[[Lab], Devices], engine: RunEngine
) -> None:
    own = make_lab(frame_px=256, simulation={"timing": "real"}, facility={"ioc": None})
    own.up()
    devices = connected(own)
    pid = next(one.pid for one in own.status().processes if one.name == "camera")
    assert pid is not None
    documents: list[Document] = []

    def watch(name: str, doc: dict[str, Any]) -> None:
        documents.append((name, doc))
        if name == "stream_datum" and doc["indices"]["stop"] >= 3:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    spec = MontageSpec(rows=2, columns=6, settle_s=0.05, exposure_time_s=0.1, centre_um=(0.0, 0.0))
    with pytest.raises(DeviceLost, match=r"em/camera/1.*montango logs camera"):
        engine(montage(*instruments(devices), spec, minimum_free_gb=0.1), watch)
    assert tango.DeviceProxy(f"tango://{own.info().tango_host}/em/column/1").beam_blanked
    announced = max(doc["indices"]["stop"] for name, doc in documents if name == "stream_datum")
    with opened(frames_file(documents)) as file:
        assert len(file["/entry/data"]) >= announced >= 3
        assert (file["/entry/data"][:announced].std(axis=(1, 2)) > 0).all()
        assert np.isfinite(file["/entry/tiles/x_um"][:announced]).all()

    own.restart("camera")  # returns when the supervisor's new camera answers
    again = acquire(
        engine, devices, MontageSpec(rows=2, columns=2, exposure_time_s=0.1, centre_um=(0.0, 0.0))
    )
    with opened(frames_file(again)) as file:
        assert len(file["/entry/data"]) == 4
        counts = file["/entry/tiles/exposure_count"][:]
    assert counts[0] > announced  # the camera's own count survived the kill


def test_catalog_that_was_down_is_completed_and_a_second_replay_adds_nothing(
    make_lab: Callable[..., Lab], connected: Callable[[Lab], Devices], engine: RunEngine
) -> None:
    from montango.lab.supervisor import Supervisor
    from tiled_server.replay import replay

    own = make_lab(frame_px=64, catalog=True)
    own.up(wait=True)
    devices = connected(own)
    Supervisor(own.state.socket).stop("tiled")
    info = own.info()
    with session_of(own, devices, engine) as session:
        spec = MontageSpec(
            rows=5, columns=5, settle_s=0, exposure_time_s=0.01, centre_um=(0.0, 0.0), max_attempts=1
        )
        session.RE(session.montage(*instruments(devices), spec))
    own.restart("tiled")
    first = replay(info.journal_dir, info.tiled["uri"], info.tiled["api_key"])
    second = replay(info.journal_dir, info.tiled["uri"], info.tiled["api_key"])
    with catalog_of(own) as client:
        assert len(client) == 3  # the montage, its overview and its mosaic
        run = next(run for run in client.values() if run.metadata["start"]["purpose"] == "montage")
        assert run["tiles"]["image"].shape == (25, 1, 64, 64)
        assert run.metadata["stop"]["exit_status"] == "success"
    assert not first.failed
    assert second.added == second.completed == []
    assert len(second.present) == 3


@pytest.mark.slow
def test_hundred_tiles_identical_in_file_and_catalog_and_where_the_world_says(
    large: tuple[Lab, Devices], engine: RunEngine
) -> None:
    own, devices = large
    documents: list[Document] = []
    with session_of(own, devices, engine) as session:
        spec = MontageSpec(rows=10, columns=10, settle_s=0, exposure_time_s=0.1, centre_um=(0.0, 0.0))
        plan = session.montage(*instruments(devices), spec)
        session.RE(plan, lambda name, doc: documents.append((name, doc)))
        assert session.drain(300)
    with catalog_of(own) as client, opened(frames_file(documents)) as file:
        run = client[documents[0][1]["uid"]]
        assert len(file["/entry/data"]) >= 100
        for index in range(100):
            assert (run["tiles"]["image"][index][0] == file["/entry/data"][index]).all(), index
        x, y = file["/entry/tiles/x_um"][:], file["/entry/tiles/y_um"][:]
        table = run["tiles"].read(variables=["x_um", "y_um"])
        assert (table["x_um"].values == x).all()
        assert (table["y_um"].values == y).all()
    with World.open(str(own.info().world)) as world:
        truth = world.truth()[-len(x) :]
        bound = own.config.simulation.stage.error_bound_um() if own.config and own.config.simulation else 0.0
    assert len(truth) == len(x)
    for exposure, (x_um, y_um) in zip(truth, zip(x, y, strict=True), strict=True):
        assert abs(exposure.x_um - x_um) < bound
        assert abs(exposure.y_um - y_um) < bound


@pytest.mark.slow
def test_two_thousand_tiles_on_a_loaded_machine(
    make_lab: Callable[..., Lab], connected: Callable[[Lab], Devices], engine: RunEngine
) -> None:
    own = make_lab(frame_px=64, facility={"ioc": None})
    own.up()
    devices = connected(own)
    burners = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2)]
    try:
        spec = MontageSpec(rows=40, columns=50, overlap=0.1, settle_s=0, exposure_time_s=0.001)
        documents = acquire(engine, devices, spec)
    finally:
        for burner in burners:
            burner.kill()
            burner.wait()
    with opened(frames_file(documents)) as file:
        assert file["/entry/tiles/raster_index"][:].tolist() == list(range(2000))
        assert len(file["/entry/data"]) == 2000
    assert documents[-1][1]["num_events"]["tiles"] == 2000
