"""Lists of samples on a laboratory with a loader: a short weekend, and what the policy says of failures."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from bluesky.run_engine import RunEngine
from shapely import Polygon, contains_xy

from devices.errors import ConfigurationError, LimitError
from montango.bench.weekend import (
    MONTAGE_MAGNIFICATION,
    Weekend,
    make_config,
    make_list,
    saboteur,
    section,
)
from montango.config import MontangoConfig
from montango.lab import Lab, running_lab
from montango.sample_lists import GoingOn, run_list
from montango.session import Session
from plans.sample_report import ListReport, SampleReport
from plans.specs.samples import SampleList
from sim.placement import Loading, Placement
from sim.world import World

if TYPE_CHECKING:
    from montango.bench._saboteur import Saboteur

pytestmark = [pytest.mark.system, pytest.mark.slow]

WEEKEND = Weekend(seed=3, samples=2, rois=2, kills=1, beam_loss_s=(60.0, 200.0))


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory, engine: RunEngine) -> Iterator[Lab]:
    """Return a laboratory with a cassette of two samples and a catalog, at 50 x speed, connected."""
    before = dict(os.environ)
    data = make_config(WEEKEND).model_dump()
    data["services"]["tiled"]["uri"] = None
    with running_lab(MontangoConfig.model_validate(data), tmp_path_factory.mktemp("lab")) as running:
        running.connect()
        yield running
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="module")
def session(lab: Lab, engine: RunEngine) -> Iterator[Session[Any]]:
    """Return a session on the laboratory."""
    from profiles.simulated.devices import make_devices

    with Session(lab.info(), make_devices, engine=engine) as made:
        yield made
        made.devices.disconnect()


def acquired(session: Session[Any], listed: SampleList, folder: Path) -> ListReport:
    """Run a list and return its account."""
    return run_list(session, listed, folder, lambda _: None)


@pytest.fixture(scope="module")
def weekend(
    lab: Lab, session: Session[Any], tmp_path_factory: pytest.TempPathFactory
) -> tuple[ListReport, Saboteur, Path]:
    """Return the account of a short weekend with faults and a killed server, what was done, its folder."""
    folder = tmp_path_factory.mktemp("account")
    with saboteur(WEEKEND, lab) as breaking:
        account = acquired(session, make_list(WEEKEND), folder)
    return account, breaking, folder


def test_it_ends_by_itself_with_every_tile_accounted_for(weekend: tuple[ListReport, Saboteur, Path]) -> None:
    account, breaking, _ = weekend
    text = account.as_text()
    assert account.ended == "complete", text
    assert account.accounted_for, text
    assert [len(sample.rois) for sample in account.samples] == [2, 2], text
    assert all(roi.tiles > 10 and roi.good + len(roi.bad) == roi.tiles for roi in account.rois), text
    assert sum(roi.good for roi in account.rois) > 0.9 * sum(roi.tiles for roi in account.rois), text
    assert breaking.killed, breaking.describe()


def test_faults_left_their_traces(weekend: tuple[ListReport, Saboteur, Path]) -> None:
    account, breaking, _ = weekend
    assert sum(roi.reimaged for roi in account.rois) > 0, breaking.describe()
    assert any("jammed" in text for sample in account.samples for text in sample.incidents)


def test_the_microscope_is_left_safe(weekend: tuple[ListReport, Saboteur, Path]) -> None:
    _, breaking, _ = weekend
    assert breaking.blanked_at_end
    assert breaking.loaded_at_end == 0


def test_the_account_is_written(weekend: tuple[ListReport, Saboteur, Path]) -> None:
    account, _, folder = weekend
    (written,) = folder.glob("*.json")
    data = json.loads(written.read_text())
    assert data["accounted_for"] is True
    assert [sample["barcode"] for sample in data["samples"]] == ["W01", "W02"]
    assert written.with_suffix(".txt").read_text() == account.as_text() + "\n"


def test_the_catalog_has_what_was_done_with_the_samples(
    weekend: tuple[ListReport, Saboteur, Path], lab: Lab, session: Session[Any]
) -> None:
    """Loads, sections and alignments, read with a plain client, are those of the account."""
    from tiled.client import from_uri

    info = lab.info()
    lab.up(wait=True)
    assert session.drain(120.0)
    client = from_uri(info.tiled["uri"], api_key=info.tiled["api_key"])
    try:
        for sample in weekend[0].samples:
            check_streams(client, sample)
    finally:
        client.context.close()


def check_streams(client: Any, sample: SampleReport) -> None:
    """See that streams ``loader``, ``rois`` and ``alignment`` of a sample say what its account says."""
    from tiled.queries import Key

    def runs(plan: str) -> Any:
        return client.search(Key("start.plan_name") == plan).search(Key("start.sample") == sample.name)

    (load,) = (run["loader"].read() for run in runs("load_sample").values())
    assert load["loaded_slot"].values.tolist() == [sample.slot]
    assert load["loaded_barcode"].values.tolist() == [sample.barcode]
    assert load["load_number"].values.tolist() == [sample.load_number]
    found = runs("find_rois").values().last()["rois"].read()
    assert found["roi_name"].values.tolist() == [roi.name for roi in sample.rois]
    assert found["roi_confidence"].values.tolist() == [roi.confidence for roi in sample.rois]
    for roi, text in zip(sample.rois, found["roi_polygon_um"].values, strict=True):
        assert roi.place is not None
        np.testing.assert_allclose(json.loads(text), roi.place["polygon_um"], atol=1e-4)
    realigned = [roi for roi in sample.rois if roi.offset_um is not None]
    assert realigned
    for roi in realigned:
        where = runs("realign").search(Key("start.roi") == roi.name).values().last()["alignment"].read()
        assert (where["offset_x_um"].values[0], where["offset_y_um"].values[0]) == roi.offset_um


def test_what_was_acquired_is_what_was_asked_for(
    weekend: tuple[ListReport, Saboteur, Path], lab: Lab
) -> None:
    """The true exposures at the montage's magnification cover the sections as they really lay.

    A sample that was loaded again (its first load jammed halfway, or the loader was killed) lies anew.
    """
    with World.open(str(lab.info().world)) as world:
        config, loading = world.config, world.loading()
        shots = [shot for shot in world.truth() if shot.beam_on and abs(shot.pixel_size_nm - 8.0) < 0.1]
    centres = np.array([(shot.x_um, shot.y_um) for shot in shots])
    checked = 0
    for slot, sample in enumerate(weekend[0].samples, 1):
        placements = [
            Placement.of(config, Loading(slot, 1, {str(slot): times}))
            for times in range(1, loading.times[str(slot)] + 1)
        ]
        for number, roi in enumerate(sample.rois):
            if roi.bad:
                continue  # a tile that is accounted for as bad may have been dark, or nowhere
            outline = section(WEEKEND, slot, number)
            seen = [
                share_seen(Polygon([placement.to_stage(*point) for point in outline]), centres)
                for placement in placements
            ]
            assert max(seen) > 0.98, (slot, number, seen, roi)
            checked += 1
    assert checked >= 2


def share_seen(outline: Polygon, centres: np.ndarray[Any, Any]) -> float:
    """Return which share of an outline, 0 to 1, lay in a frame around any of the centres (n x 2, um)."""
    low_x, low_y, high_x, high_y = outline.bounds
    grid = np.meshgrid(np.arange(low_x, high_x, 0.2), np.arange(low_y, high_y, 0.2))
    points = np.stack(grid, axis=-1).reshape(-1, 2)
    points = points[contains_xy(outline, *points.T)]
    half_um = 512 * 8.0e-3 / 2 + 0.15
    inside = np.abs(points[:, None, :] - centres[None, :, :]).max(axis=2) <= half_um
    return float(inside.any(axis=1).mean())


def given(samples: list[dict[str, Any]], **policy: Any) -> SampleList:
    """Return a list of samples with given ROIs of one tile."""
    montage = {"rows": 1, "columns": 1, "overlap": 0.0, "magnification": MONTAGE_MAGNIFICATION}
    return SampleList.model_validate(
        {"name": "given", "montage": montage, "samples": samples, "policy": {"attempts": 1, **policy}}
    )


FAR = {"name": "far", "centre_um": [5000, 0]}
NEAR = {"name": "near", "centre_um": [1, 2]}


def test_it_carries_on_past_what_fails(session: Session[Any], tmp_path: Path) -> None:
    samples = [
        {"slot": 5, "name": "empty", "rois": [NEAR]},
        {"slot": 1, "name": "there", "rois": [FAR, NEAR]},
    ]
    account = acquired(session, given(samples), tmp_path)
    assert account.ended == "complete"
    assert account.accounted_for
    empty, there = account.samples
    assert empty.status == "failed"
    assert "slot 5 is EMPTY" in empty.reason
    assert [roi.status for roi in there.rois] == ["failed", "good"], account.as_text()
    assert "x_um = 5000 um is outside its limits" in there.rois[0].reason


def test_stop_means_stop(lab: Lab, session: Session[Any], tmp_path: Path) -> None:
    samples = [
        {"slot": 1, "name": "first", "rois": [FAR, NEAR]},
        {"slot": 2, "name": "second", "rois": [NEAR]},
    ]
    account = acquired(session, given(samples, on_montage_failure="stop"), tmp_path)
    assert account.ended == "stopped"
    assert "first, ROI far" in account.reason
    assert [roi.status for roi in account.samples[0].rois] == ["failed", "skipped"]
    assert account.samples[1].status == "skipped"
    assert account.accounted_for
    with World.open(str(lab.info().world)) as world:
        assert world.loading().slot == 0


def test_a_list_that_was_stopped_goes_on_and_what_is_done_is_not_exposed_again(
    lab: Lab, session: Session[Any], tmp_path: Path
) -> None:
    """The sample was taken out meanwhile: it is loaded again, for the ROI alone that is open."""
    last = {"name": "last", "centre_um": [3, -2]}
    samples = [{"slot": 1, "name": "first", "rois": [NEAR, FAR, last]}]
    stopped = acquired(session, given(samples, on_montage_failure="stop"), tmp_path)
    assert [roi.status for roi in stopped.rois] == ["good", "failed", "skipped"]

    def goes_on(listed: SampleList, how: GoingOn) -> tuple[ListReport, int, int]:
        with World.open(str(lab.info().world)) as world:
            loads, exposures = world.loading().loads, world.exposures()
            account = run_list(session, listed, tmp_path, lambda _: None, how)
            return account, world.loading().loads - loads, world.exposures() - exposures

    with pytest.raises(ConfigurationError, match=r"policy\.on_montage_failure was .stop. and is .skip."):
        goes_on(given(samples), GoingOn())
    account, loads, exposures = goes_on(given(samples), GoingOn(accept_changes=True))
    assert [roi.status for roi in account.rois] == ["good", "failed", "good"], account.as_text()
    assert (account.ended, loads, exposures) == ("complete", 1, 1)
    assert account.rois[0] == stopped.rois[0]
    assert account.samples[0].load_number == (stopped.samples[0].load_number or 0) + 1

    account, loads, exposures = goes_on(given(samples), GoingOn())
    assert (account.ended, loads, exposures) == ("complete", 0, 0)
    account, loads, exposures = goes_on(given(samples), GoingOn(retry=True))
    assert (account.rois[1].attempts, loads, exposures) == (1, 1, 0)
    assert len(list(tmp_path.glob("*.json"))) == 1


def test_a_wrong_cassette_is_refused_before_anything_moves(
    lab: Lab, session: Session[Any], tmp_path: Path
) -> None:
    with World.open(str(lab.info().world)) as world:
        loads = world.loading().loads
        for sample, error, words in (
            (
                {"slot": 1, "name": "a", "barcode": "X9", "rois": [NEAR]},
                ConfigurationError,
                "'W01', not 'X9'",
            ),
            ({"slot": 99, "name": "a", "rois": [NEAR]}, LimitError, "slot = 99 is outside"),
        ):
            with pytest.raises(error, match=words):
                acquired(session, given([sample]), tmp_path)
        assert world.loading().loads == loads
    assert list(tmp_path.iterdir()) == []
