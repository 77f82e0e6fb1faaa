"""A list of samples whose process is killed, twice, and gone on with: nothing good is exposed again."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from shapely import Polygon

from devices.camera.counts import CameraCounts
from montango.bench.weekend import SURVEY_MAGNIFICATION, Weekend, make_config, make_list, section
from montango.lab import Lab, running_lab
from plans.record import MontageRecord
from plans.specs.samples import SampleList
from processing.callbacks.journal import find_runs, read_journal
from sim.placement import Loading, Placement
from sim.world import World

pytestmark = [pytest.mark.system, pytest.mark.slow, pytest.mark.timeout(600)]

WEEKEND = Weekend(seed=3, samples=2, rois=2, faults=False)
LONGEST_WAIT_S = 240.0


def two_samples() -> SampleList:
    """Return a list: of one sample the sections are searched for, of the other a place is given."""
    data = make_list(WEEKEND).model_dump()
    config = make_config(WEEKEND).simulation
    assert config is not None
    placement = Placement.of(config, Loading().loaded(2))
    inside = Polygon([placement.to_stage(*point) for point in section(WEEKEND, 2, 0)]).centroid
    centre = (inside.x, inside.y)
    data["samples"][1]["survey"] = {
        "magnification": SURVEY_MAGNIFICATION,
        "montage": {"rows": 1, "columns": 1, "overlap": 0.0, "centre_um": centre},
    }
    data["samples"][1]["rois"] = [{"name": "spot", "centre_um": centre}]
    return SampleList.model_validate(data)


class ListProcess:
    """A process of ``montango samples`` on a laboratory, and what it leaves on the disk."""

    def __init__(self, lab: Lab, folder: Path) -> None:
        self.lab, self.folder = lab, folder
        self.listed = folder / "list.json"
        self.listed.write_text(two_samples().model_dump_json())
        self.counts = CameraCounts(lab.state.root / "camera.json")
        self.process: subprocess.Popen[bytes] | None = None
        self.begun = 0

    def start(self, action: str) -> None:
        """Start the process."""
        command = [sys.executable, "-m", "montango", "--state", str(self.lab.state.root)]
        with (self.folder / "output").open("ab") as output:
            self.process = subprocess.Popen(
                [*command, "samples", action, str(self.listed)], stdout=output, stderr=output
            )

    def kill_when(self, reached: Callable[[], bool]) -> None:
        """Kill it, as the kernel or a power cut would, once something is so."""
        assert self.process is not None
        deadline = time.monotonic() + LONGEST_WAIT_S
        while not reached():
            assert self.process.poll() is None, self.output
            assert time.monotonic() < deadline, self.output
            time.sleep(0.002)
        self.process.kill()
        self.process.wait()

    def end(self) -> int:
        """Return its exit status."""
        assert self.process is not None
        return self.process.wait(LONGEST_WAIT_S)

    def close(self) -> None:
        """End it if it runs."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    @property
    def output(self) -> str:
        """What the processes have written."""
        return (self.folder / "output").read_text()

    def account(self) -> dict[str, Any]:
        """Return the account as it is on the disk now; empty where there is none yet."""
        paths = list((self.lab.state.root / "samples").glob("*.json"))
        assert len(paths) <= 1
        return json.loads(paths[0].read_text()) if paths else {}


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    """Return a laboratory with a cassette of two samples, at 50 x speed."""
    with running_lab(make_config(WEEKEND), tmp_path / "lab") as running:
        yield running


@pytest.fixture
def listing(lab: Lab, tmp_path: Path) -> Iterator[ListProcess]:
    """Return the list, no process of which has been started."""
    made = ListProcess(lab, tmp_path)
    yield made
    made.close()


def test_nothing_good_is_exposed_again(lab: Lab, listing: ListProcess) -> None:
    listing.start("run")
    listing.kill_when(lambda: listing.counts.exposures >= 6)
    cut = listing.account()["samples"][0]
    assert cut["survey_id"]
    assert cut["rois"] == []

    listing.start("continue")
    listing.kill_when(lambda: in_montage(listing, 1, exposures=3))
    first, second = listing.account()["samples"][0]["rois"]
    assert (first["status"], second["status"]) == ("good", "pending")

    listing.start("continue")
    assert listing.end() == 0, listing.output
    account = listing.account()
    assert account["ended"] == "complete"
    assert account["accounted_for"] is True
    assert len(account["continued_s"]) == 2
    rois = [roi for sample in account["samples"] for roi in sample["rois"]]
    assert [roi["status"] for roi in rois] == ["good"] * 3, listing.output
    assert rois[0] == first, "what was done is as it was"
    assert rois[1]["montage_id"] == second["montage_id"]
    assert [len(roi["run_uids"]) for roi in rois] == [1, 2, 1]
    assert [roi["resumes"] for roi in rois] == [0, 1, 0]

    montages = [one["survey_id"] for one in account["samples"]] + [roi["montage_id"] for roi in rois]
    records = [MontageRecord.read(lab.state.journal, one) for one in montages]
    assert [len(record.runs) for record in records] == [2, 1, 1, 2, 1]
    assert [record.good for record in records[:2]] == [16, 1]
    for record in records:
        for attempts in record.tiles.values():
            good = [one.attempt for one in attempts if one.good]
            assert max(one.attempt for one in attempts if one.readable) == min(good)
    with World.open(str(lab.info().world)) as world:
        assert world.loading().loads == 2, "a sample that lies there is not loaded again"
        assert world.loading().slot == 0
        assert world.lenses().beam_blanked
        lit = sum(shot.beam_on for shot in world.truth())
    asked_for = sum(record.exposures for record in records) + images_to_realign(lab)
    assert asked_for <= lit <= listing.counts.exposures <= asked_for + 2, "one exposure a kill has no frame"


def in_montage(listing: ListProcess, number: int, exposures: int) -> bool:
    """Return whether the montage of a ROI of the first sample has made so many exposures."""
    rois = listing.account()["samples"][0]["rois"]
    if number >= len(rois) or not rois[number]["montage_id"]:
        return False
    with World.open(str(listing.lab.info().world)) as world:
        now = world.exposures()
    listing.begun = min(listing.begun or now, now)
    return now >= listing.begun + exposures


def images_to_realign(lab: Lab) -> int:
    """Return how many images were taken to find places again."""
    return sum(
        doc["data"]["images"]
        for run in find_runs(lab.state.journal)
        if run.start["plan_name"] == "realign"
        for name, doc in read_journal(run.path)
        if name == "event"
    )
