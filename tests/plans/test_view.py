from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from shapely import Polygon

from devices.errors import ConfigurationError
from plans.specs.view import View
from tests.plans.geometries import points, views


@given(pixel_nm=st.floats(0.1, 500), rotation_deg=st.floats(-179, 179))
def test_nominal_view_says_what_it_was_made_of(pixel_nm: float, rotation_deg: float) -> None:
    view = View.from_nominal(2048, 1024, pixel_nm, rotation_deg)
    assert view.pixel_size_nm == pytest.approx(pixel_nm)
    assert view.rotation_deg == pytest.approx(rotation_deg, abs=1e-9)
    assert (view.width_um, view.height_um) == pytest.approx((2.048 * pixel_nm, 1.024 * pixel_nm))


def test_camera_axes_on_the_stage() -> None:
    view = View.from_nominal(100, 100, 1000.0, 90.0)
    assert view.to_stage((1.0, 0.0)) == pytest.approx((0.0, 1.0))
    assert view.to_stage((0.0, 1.0)) == pytest.approx((-1.0, 0.0))
    mirrored = View(100, 100, ((-1.0, 0.0), (0.0, 1.0)))
    assert abs(mirrored.rotation_deg) == pytest.approx(180.0)  # camera x goes along stage -x
    assert mirrored.pixel_size_nm == pytest.approx(1000.0)


@given(view=views(), offset=points)
def test_stage_camera_and_image_shift_are_inverses(view: View, offset: tuple[float, float]) -> None:
    assert view.to_stage(view.to_camera(offset)) == pytest.approx(offset, abs=1e-6)
    assert np.array(view.stage_per_shift) @ view.to_shift(offset) == pytest.approx(offset, abs=1e-6)


@given(view=views())
def test_the_area_of_a_frame_is_its_pixels_times_their_area(view: View) -> None:
    area = Polygon(view.corners(3.0, -4.0)).area
    assert area == pytest.approx(view.width_px * view.height_px * (view.pixel_size_nm * 1e-3) ** 2)
    assert np.mean(view.corners(3.0, -4.0), axis=0) == pytest.approx((3.0, -4.0))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"width_px": 0}, "width_px = 0"),
        ({"stage_per_px_um": ((1.0, 1.0), (1.0, 1.0))}, "stage_per_px_um.*singular"),
        ({"stage_per_px_um": ((1.0, math.nan), (0.0, 1.0))}, "stage_per_px_um.*2 x 2"),
        ({"stage_per_shift": ((0.0, 0.0), (0.0, 1.0))}, "stage_per_shift.*singular"),
        ({"image_shift_limit_um": -1.0}, "image_shift_limit_um = -1"),
    ],
)
def test_impossible_views_are_refused(options: dict[str, Any], words: str) -> None:
    good: dict[str, Any] = {"width_px": 8, "height_px": 8, "stage_per_px_um": ((1.0, 0.0), (0.0, 1.0))}
    with pytest.raises(ValueError, match=words):
        View(**{**good, **options})


@pytest.mark.parametrize("pixel_nm", [0.0, -4.0, math.nan])
def test_a_magnification_that_is_not_calibrated_is_refused(pixel_nm: float) -> None:
    with pytest.raises(ConfigurationError, match="not calibrated"):
        View.from_nominal(8, 8, pixel_nm, 0.0)
