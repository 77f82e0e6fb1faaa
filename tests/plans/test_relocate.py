"""An image of a tile that was acquired says where the stage is; one of another place says nothing."""

from __future__ import annotations

import math
from pathlib import Path

import h5py
import numpy as np
import numpy.typing as npt
import pytest
from scipy.ndimage import gaussian_filter, shift

from devices.errors import ConfigurationError, InstrumentFault, LimitError
from devices.tiles import IMAGE_DATASET, TILE_GROUP
from plans.acquired_tiles import AcquiredTile, acquired_tiles, binned, choose_tile, locate, near_tiles
from plans.record import MontageRecord, RunRecord, TileKey, TileRecord
from plans.relocate import MAX_OFFSET_UM, _check, _check_dose
from plans.specs.grid import make_grid
from plans.specs.montage import MontageSpec
from plans.specs.view import View
from plans.stubs.acquisition import Beam
from plans.stubs.stage_offset import ReferenceImage, StageOffset, reference_doses
from processing.kernels.shift import Shift

SIDE_PX = 128
VIEW = View.from_nominal(SIDE_PX, SIDE_PX, 10.0, 3.0)
"""Fields of 1.28 um."""
SPEC = MontageSpec(rows=3, columns=6, centre_um=(0.0, 0.0), exposure_time_s=0.1)
BEAM = Beam(flux_e_per_a2_s=10.0, diameter_um=2.0)
START = {
    "montage_view": {
        "width_px": SIDE_PX, "height_px": SIDE_PX, "stage_per_px_um": VIEW.stage_per_px_um,
    },
    "montage_centre_um": [0.0, 0.0],
}  # fmt: skip
GRID = make_grid(SPEC, VIEW, (0.0, 0.0))


@pytest.fixture(scope="module")
def texture() -> npt.NDArray[np.float64]:
    """Return something to see, 1024 px a side; a tile is cut from it at its place, not turned."""
    field = gaussian_filter(np.random.default_rng(4).normal(size=(1024, 1024)), 2.0)
    return np.asarray(2000 + 300 * field / field.std(), np.float64)


def cut(texture: npt.NDArray[np.float64], x_px: float, y_px: float, seed: int = 0) -> npt.NDArray[np.uint16]:
    """Return the tile whose middle lies at a pixel of the texture, with its own noise."""
    whole_x, whole_y = math.floor(x_px), math.floor(y_px)
    half = SIDE_PX // 2
    part = texture[whole_y - half - 2 : whole_y + half + 2, whole_x - half - 2 : whole_x + half + 2]
    exact = shift(part, (whole_y - y_px, whole_x - x_px), order=3)[2:-2, 2:-2]
    return np.random.default_rng(seed).poisson(exact).astype(np.uint16)


@pytest.fixture
def record(tmp_path: Path, texture: npt.NDArray[np.float64]) -> MontageRecord:
    """Return a montage of 3 x 6 tiles of which the first two rows are there; one of them is empty."""
    path = tmp_path / "frames.h5"
    done = [tile for tile in GRID.tiles if tile.row < 2]
    frames = []
    for seed, tile in enumerate(done):
        x_px, y_px = VIEW.to_camera((tile.centre_x_um, tile.centre_y_um)) + 512
        frames.append(cut(texture, x_px, y_px, seed))
        if tile.column == 0:
            frames[-1] = np.full_like(frames[-1], 2000)
    with h5py.File(path, "w") as file:
        file[IMAGE_DATASET] = np.array(frames)
        file[f"{TILE_GROUP}/centre_x_um"] = [tile.centre_x_um for tile in done]
        file[f"{TILE_GROUP}/centre_y_um"] = [tile.centre_y_um for tile in done]
    tiles = {
        TileKey(0, tile.row, tile.column): [TileRecord(0, "u", index, path, "pass", readable=True)]
        for index, tile in enumerate(done)
    }
    run = RunRecord("u", dict(START), path, path, ended=True, live=False)
    return MontageRecord("m", SPEC, (run,), tiles)


def test_the_tile_is_away_from_what_is_to_come_and_not_empty(record: MontageRecord) -> None:
    good = acquired_tiles(record)
    assert len(good) == 12
    chosen = choose_tile(good, record, SPEC, VIEW, BEAM, MAX_OFFSET_UM)
    assert chosen.key.row == 0
    assert chosen.key.column > 0


@pytest.mark.parametrize("scale", [1, 2])
@pytest.mark.parametrize("off_um", [(0.0, 0.0), (0.33, -0.21), (-1.1, 0.4)])
def test_an_image_is_found_among_the_tiles(
    record: MontageRecord, texture: npt.NDArray[np.float64], off_um: tuple[float, float], scale: int
) -> None:
    good = acquired_tiles(record)
    centre = next(one for one in good if one.key == (0, 0, 4)).centre_um
    true_um = centre[0] + off_um[0], centre[1] + off_um[1]
    x_px, y_px = VIEW.to_camera(true_um) + 512
    image = binned(cut(texture, x_px, y_px, seed=99), scale).astype(np.uint16)
    near = near_tiles(good, centre, 3.0)
    assert near[0].centre_um == centre
    found, place_um = locate(image, scale, near, VIEW)
    _check(record, found, 0.0, MAX_OFFSET_UM)
    assert place_um == pytest.approx(true_um, abs=0.01)


def test_an_image_of_another_place_or_a_large_offset_is_refused(
    record: MontageRecord, texture: npt.NDArray[np.float64]
) -> None:
    good = acquired_tiles(record)
    found, _ = locate(cut(texture, 900, 900), 1, good, VIEW)
    with pytest.raises(InstrumentFault, match="looks like no tile within max_offset_um = 10"):
        _check(record, found, 0.0, MAX_OFFSET_UM)
    with pytest.raises(InstrumentFault, match=r"3\.00 um off, over max_offset_um = 2"):
        _check(record, Shift(0.0, 0.0, 0.9, 0.1), 3.0, 2.0)


def test_without_a_good_tile_there_is_nothing_to_compare_with(record: MontageRecord) -> None:
    with pytest.raises(ConfigurationError, match="no good tile"):
        acquired_tiles(MontageRecord("m", SPEC, record.runs, {}))


def test_the_dose_of_the_image_is_within_the_budget(record: MontageRecord) -> None:
    tile: AcquiredTile = acquired_tiles(record)[7]
    offset = StageOffset.known(record)
    with pytest.raises(LimitError, match="over max_dose_e_per_a2 = 2"):
        _check_dose(record, SPEC.model_copy(update={"max_dose_e_per_a2": 2.0}), offset, BEAM, tile)
    _check_dose(record, SPEC.model_copy(update={"max_dose_e_per_a2": 40.0}), offset, BEAM, tile)


def test_an_offset_moves_the_targets_and_is_kept_by_the_runs_that_follow(record: MontageRecord) -> None:
    image = ReferenceImage(0, 1, 2, 0.5, -0.5, 0.9, 0.01, 0.025, 2, 0.25, 2.0)
    found = StageOffset((1.5, -2.0), image)
    first, moved = GRID.tiles[0], found.shifted(GRID).tiles[0]
    assert (moved.x_um - first.x_um, moved.y_um - first.y_um) == pytest.approx((1.5, -2.0))
    assert (moved.centre_x_um - first.centre_x_um, moved.centre_y_um - first.centre_y_um) == pytest.approx(
        (1.5, -2.0)
    )
    later = RunRecord("v", {**START, **found.metadata()}, Path("x"), None, ended=True, live=False)
    record = MontageRecord("m", SPEC, (*record.runs, later), record.tiles)
    known = StageOffset.known(record)
    assert known == StageOffset((1.5, -2.0))
    assert [tuple(one) for one in reference_doses(record, known)] == [(2.0, -2.5, 2.0, 0.25)]
    assert known.metadata() == {"stage_offset_um": [1.5, -2.0]}
    assert StageOffset().metadata() == {}
