from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devices.errors import ConfigurationError, LimitError
from devices.stage.driver import StageLimits
from plans.checks import (
    check_disk,
    check_dose,
    check_montage_id,
    check_positions,
    dose_per_exposure,
    largest_dose,
)
from plans.specs.grid import make_grid
from plans.specs.montage import MontageSpec
from plans.specs.roi import Roi
from plans.specs.view import View

FIELD = View.from_nominal(1000, 1000, 8.0, 0.0)


def test_grid_outside_the_limits_names_tile_axis_value_and_limit() -> None:
    grid = make_grid(MontageSpec(rows=2, columns=2, centre_um=(988.0, 0.0)), FIELD, (0.0, 0.0))
    with pytest.raises(LimitError, match=r"row 0, column 1.*x_um = 991\.6 um.*-990 to 990"):
        check_positions(grid.tiles, StageLimits())


def test_a_tile_outside_the_limits_is_named_with_its_roi() -> None:
    square = ((0.0, 0.0), (4.0, 0.0), (4.0, 4.0), (0.0, 4.0))
    far = tuple((x + 990.0, y) for x, y in square)
    rois = (Roi(name="near", polygon_um=square), Roi(name="far", polygon_um=far))
    grid = make_grid(MontageSpec(rois=rois), FIELD, (0.0, 0.0))
    with pytest.raises(
        LimitError, match=r"^tile \(ROI 'far', row 0, column 0\) .*; or move or cut that ROI$"
    ):
        check_positions(grid.tiles, StageLimits(), grid.roi_names)


@given(
    x=st.floats(-2000, 2000),
    y=st.floats(-2000, 2000),
    low=st.floats(-1000, -1),
    high=st.floats(1, 1000),
)
def test_limits_hold_for_both_axes(x: float, y: float, low: float, high: float) -> None:
    grid = make_grid(MontageSpec(rows=1, columns=1, centre_um=(x, y)), FIELD, (0.0, 0.0))
    limits = StageLimits(x_um=(low, high), y_um=(low / 2, high / 2))
    inside = low <= x <= high and low / 2 <= y <= high / 2
    if inside:
        check_positions(grid.tiles, limits)
    else:
        with pytest.raises(LimitError):
            check_positions(grid.tiles, limits)


def test_disk_too_small_says_what_is_needed_and_free(tmp_path: Path) -> None:
    check_disk(tmp_path / "not" / "there", 1000, reserve_gb=0)
    with pytest.raises(LimitError, match=r"needs 9000000\.00 GB.*only .* GB are"):
        check_disk(tmp_path, 9 * 10**15, reserve_gb=0)
    with pytest.raises(LimitError, match="minimum_free_gb"):
        check_disk(tmp_path, 0, reserve_gb=1e9)


def test_dose_of_one_nanoampere_over_a_disc_of_ten_um() -> None:
    # 1e-9 C/s / 1.602e-19 C = 6.2415e9 e/s over pi/4 * (1e5 A)^2 = 7.854e9 A^2
    assert dose_per_exposure(1.0, 10.0, 2.0) == pytest.approx(2 * 6.2415e9 / 7.85398e9, rel=1e-4)
    with pytest.raises(ConfigurationError, match="dose is not known"):
        dose_per_exposure(0.0, 10.0, 2.0)


@given(beam=st.floats(1, 40), overlap=st.floats(0.01, 0.6), rows=st.integers(1, 6), columns=st.integers(1, 6))
def test_largest_dose_is_a_bound(beam: float, overlap: float, rows: int, columns: int) -> None:
    spec = MontageSpec(rows=rows, columns=columns, overlap=overlap)
    grid = make_grid(spec, FIELD, (0.0, 0.0))
    bound = largest_dose(grid, beam, 1.0)
    for point in grid.tiles:
        hits = sum(
            math.hypot(tile.x_um - point.x_um, tile.y_um - point.y_um) <= beam / 2 for tile in grid.tiles
        )
        assert hits <= bound


def test_dose_over_budget_names_both() -> None:
    check_dose(10.0, 9.0)
    with pytest.raises(LimitError, match=r"12 e/A\^2.*max_dose_e_per_a2 = 10"):
        check_dose(10.0, 12.0)


@pytest.mark.parametrize("montage_id", ["", "../up", "a/b", ".hidden", "a b", "m" * 101])
def test_an_id_that_cannot_name_files_is_refused(montage_id: str) -> None:
    with pytest.raises(ConfigurationError, match="montage_id"):
        check_montage_id(montage_id)


@pytest.mark.parametrize("montage_id", ["m20261121-a1b2c3", "grid_7.section-2"])
def test_an_id_that_can_name_files_is_taken(montage_id: str) -> None:
    check_montage_id(montage_id)
