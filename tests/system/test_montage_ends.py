"""Montages that end or halt in their middle, in real time: what was exposed is kept, not exposed again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import pytest
from bluesky.run_engine import RunEngine

from devices.errors import Aborted, InstrumentFault
from montango.lab import Lab
from plans.control import LocalControl, Request
from plans.montage import montage
from plans.record import MontageRecord
from plans.resume import resume_montage
from plans.specs.montage import MontageSpec
from processing.callbacks.journal import Journal
from sim.faults import inject, make_fault
from sim.world import World
from tests.system.montage_bench import after

if TYPE_CHECKING:
    from profiles.simulated.devices import Devices

pytestmark = pytest.mark.system

SIMULATION = {"timing": "real", "time_scale": 2.0, "readout_time_s": 0.5}
"""A slow readout: at any moment there is a frame on its way."""
CENTRE = ("centre_x_um", "centre_y_um")
READOUT_TIMEOUT_S = 2.0
TILES: dict[str, Any] = {
    "rows": 3,
    "columns": 5,
    "exposure_time_s": 0.1,
    "settle_s": 0.5,  # without, the first tile of a run is smeared, and a resume judges it
    "centre_um": (0.0, 0.0),
}


class Bench:
    """A laboratory in real time with a journal, and montages on it."""

    def __init__(self, lab: Lab, devices: Devices, engine: RunEngine, world: World) -> None:
        self.lab, self.devices, self.engine, self.world = lab, devices, engine, world
        self.control = LocalControl()
        self.documents: list[tuple[str, dict[str, Any]]] = []
        self.made = 0

    def run(
        self,
        plan: Callable[..., Any],
        *args: Any,
        watch: Callable[[str, dict[str, Any]], None] = lambda name, doc: None,
        **options: Any,
    ) -> None:
        """Run a plan on the instruments; count the exposures that the camera makes."""
        one, before = self.devices, self.world.exposures()
        instruments = one.sequencer, one.camera, one.column, one.stage
        self.documents = []
        journal = Journal(self.lab.state.journal).queued()

        def listen(name: str, doc: dict[str, Any]) -> None:
            self.documents.append((name, doc))
            journal(name, doc)
            watch(name, doc)

        shared: dict[str, Any] = {"minimum_free_gb": 0.1, "control": self.control}
        try:
            self.engine(plan(*instruments, *args, **shared, **options), listen)
        finally:
            assert journal.close(60)
            self.made = self.world.exposures() - before

    def acquire(self, montage_id: str, **options: Any) -> None:
        """Acquire a montage that nobody judges."""
        self.run(montage, MontageSpec(**TILES), {"montage_id": montage_id}, **options)

    def resume(self, montage_id: str, **options: Any) -> None:
        """Go on with a montage."""
        self.run(resume_montage, montage_id, journal_dir=self.lab.state.journal, **options)

    def record(self, montage_id: str) -> MontageRecord:
        """Return what there is of a montage."""
        return MontageRecord.read(self.lab.state.journal, montage_id)

    @property
    def announced(self) -> int:
        """How many frames the documents of the last plan name."""
        stops = [doc["indices"]["stop"] for name, doc in self.documents if name == "stream_datum"]
        return max(stops, default=0)

    @property
    def incidents(self) -> list[str]:
        """Kinds of the incidents of the last plan."""
        events = [doc["data"] for name, doc in self.documents if name == "event"]
        return [data["incident_kind"] for data in events if "incident_kind" in data]


@pytest.fixture(scope="module")
def bench(make_config: Any, tmp_path_factory: pytest.TempPathFactory, engine: RunEngine) -> Iterator[Bench]:
    from montango.lab import running_lab
    from profiles.simulated.devices import make_devices

    config = make_config(
        256,
        False,
        facility={"ioc": None},
        simulation=SIMULATION,
        instruments={"camera": {"readout_timeout_s": READOUT_TIMEOUT_S}},
    )
    with running_lab(config, tmp_path_factory.mktemp("ends")) as lab:
        devices = make_devices(lab.info())
        with World.open(str(lab.info().world)) as world:
            yield Bench(lab, devices, engine, world)
        devices.disconnect()


def test_an_abort_keeps_every_frame_that_was_exposed_and_none_is_exposed_again(bench: Bench) -> None:
    with pytest.raises(Aborted, match="the operator ended"):
        bench.acquire("m-cut", watch=after(3, lambda: bench.control.ask(Request.ABORT)))
    first = bench.record("m-cut")
    assert 3 <= first.exposures < 15
    assert first.exposures == bench.made == bench.announced
    bench.resume("m-cut")
    record = bench.record("m-cut")
    assert record.exposures == 15
    assert bench.made == 15 - first.exposures
    assert all(len(tiles) == 1 for tiles in record.tiles.values())


def test_a_pause_at_once_exposes_no_tile_again(bench: Bench) -> None:
    def pause() -> None:
        bench.control.ask(Request.PAUSE_NOW)
        bench.control.ask(Request.RESUME)

    bench.acquire("m-halt", watch=after(3, pause))
    assert bench.made == bench.record("m-halt").exposures == 15
    assert bench.incidents[0] == "request"
    assert "frames_given_up" not in bench.incidents


def test_a_camera_that_hangs_loses_one_frame_and_the_montage_goes_on(bench: Bench) -> None:
    inject(bench.world, make_fault("camera_timeout", at_exposure=bench.world.exposures() + 6))
    bench.acquire("m-hung")
    record = bench.record("m-hung")
    assert len(record.tiles) == 15
    assert all(len(tiles) == 1 and tiles[0].readable for tiles in record.tiles.values())
    assert bench.made == 16
    assert bench.incidents == ["frames_given_up", "camera_timeout"]


def test_a_stage_that_was_reset_is_found_again_with_one_image(bench: Bench) -> None:
    def abort_after(frames: int) -> Callable[[str, dict[str, Any]], None]:
        return after(frames, lambda: bench.control.ask(Request.ABORT))

    # fields of 2 um, and a stage that is 1.2 um off
    spec = MontageSpec(**{**TILES, "rows": 4, "magnification": 2500.0})
    with pytest.raises(Aborted):
        bench.run(montage, spec, {"montage_id": "m-reset"}, watch=abort_after(9))
    inject(bench.world, make_fault("stage_reset", at_exposure=bench.world.exposures(), severity=0.12))
    with pytest.raises(InstrumentFault, match=r"is 1\.\d+ um off, over max_offset_um = 0\.5"):
        bench.resume("m-reset", reference="image", max_offset_um=0.5)
    assert bench.made == 1
    assert not [doc for name, doc in bench.documents if doc.get("purpose") == "montage"]

    with pytest.raises(Aborted):
        bench.resume("m-reset", reference="image", watch=abort_after(3))
    bench.resume("m-reset")
    record = bench.record("m-reset")
    assert (len(record.tiles), record.exposures) == (20, 20)
    starts = [run.start for run in record.runs]
    assert "stage_offset_um" not in starts[0]
    assert np.hypot(*starts[1]["stage_offset_um"]) == pytest.approx(1.2, abs=0.15)
    assert starts[2]["stage_offset_um"] == starts[1]["stage_offset_um"]
    image = starts[1]["stage_reference"]
    assert (image["exposure_time_s"], image["binning"]) == (0.025, 2)
    assert image["dose_e_per_a2"] > 0
    assert "stage_reference" not in starts[2]
    assert truth_less_stored(bench, record) < 0.25


def truth_less_stored(bench: Bench, record: MontageRecord) -> float:
    """Return how far the specimen was from where the files say, over all tiles of a montage, at most, um."""
    truth, errors = bench.world.truth(), []
    for run in record.runs:
        with h5py.File(run.path, "r", libver="latest", swmr=True) as file:
            columns = [file[f"/entry/tiles/{name}"][:] for name in ("exposure_start_s", *CENTRE)]
        for start_s, x_um, y_um in zip(*columns, strict=True):
            true = min(truth, key=lambda one: abs(one.time_s - start_s))
            errors.append(float(np.hypot(true.x_um - x_um, true.y_um - y_um)))
    return max(errors)
