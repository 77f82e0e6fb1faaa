"""Where a place lies in an image, from an anchor of another magnification; on drawn specimens."""

from __future__ import annotations

import math

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from devices.errors import ConfigurationError, InstrumentFault
from plans.realign import Anchor, as_picture, displacement, scaled
from plans.specs.samples import RealignSpec
from plans.specs.view import View
from processing.survey import SurveyImage

SPEC = RealignSpec(max_shift_um=30.0)
SIDE_UM, FINE_UM = 240.0, 0.1


@pytest.fixture(scope="module")
def specimen() -> npt.NDArray[np.float32]:
    """Return structures of all sizes, SIDE_UM wide about stage (0, 0), FINE_UM a pixel."""
    rng = np.random.default_rng(3)
    size = int(SIDE_UM / FINE_UM)
    total = np.zeros((size, size), np.float32)
    for sigma in (4, 12, 40):
        layer = cv2.GaussianBlur(rng.normal(size=(size, size)).astype(np.float32), (0, 0), sigma)
        total += layer / layer.std()
    return total


def seen(
    specimen: npt.NDArray[np.float32],
    view: View,
    at_um: tuple[float, float],
    magnification: float,
    seed: int = 0,
) -> SurveyImage:
    """Return what a camera shows with its middle at a stage position, with noise."""
    matrix = np.array(view.stage_per_px_um) / FINE_UM
    middle = np.array([(view.width_px - 1) / 2, (view.height_px - 1) / 2])
    start = np.array(at_um) / FINE_UM + (specimen.shape[0] - 1) / 2 - matrix @ middle
    scale = math.sqrt(abs(np.linalg.det(matrix)))
    smooth = cv2.GaussianBlur(specimen, (0, 0), 0.4 * scale) if scale > 1 else specimen
    frame = cv2.warpAffine(
        smooth,
        np.column_stack([matrix, start]),
        (view.width_px, view.height_px),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
    )
    noisy = 3000 + 400 * frame + 60 * np.random.default_rng(seed).normal(size=frame.shape)
    return as_picture(noisy.clip(0).astype(np.uint16), view.stage_per_px_um, at_um, magnification)


@settings(max_examples=12)
@given(
    dx=st.floats(-8, 8),
    dy=st.floats(-8, 8),
    ratio=st.sampled_from([1.0, 2.0, 3.0]),
    turn=st.floats(-30, 30),
)
def test_the_place_is_found_at_another_magnification_and_rotation(
    specimen: npt.NDArray[np.float32], dx: float, dy: float, ratio: float, turn: float
) -> None:
    coarse = View.from_nominal(256, 256, 400, 1.5)
    fine = View.from_nominal(256, 256, 400 / ratio, 1.5 + turn)
    place = (10.0, -14.0)
    anchor = Anchor(seen(specimen, coarse, place, 100, 1), place)
    # the optics or the reload has moved the specimen: the place now lies (dx, dy) from where the stage is
    picture = seen(specimen, fine, (place[0] - dx, place[1] - dy), 100 * ratio, 2)
    found_x, found_y, peak = displacement(anchor, picture, (place[0] - dx, place[1] - dy), SPEC)
    assert (found_x, found_y) == pytest.approx((dx, dy), abs=0.06)
    assert peak > 0.5


def test_an_anchor_cut_from_a_survey(specimen: npt.NDArray[np.float32]) -> None:
    survey = seen(specimen, View.from_nominal(500, 500, 400, 0.0), (0.0, 0.0), 100, 1)
    place, off = (40.0, 30.0), (2.5, -1.5)
    at = (place[0] - off[0], place[1] - off[1])
    picture = seen(specimen, View.from_nominal(256, 256, 200, 1.5), at, 200, 2)
    assert displacement(Anchor(survey, place), picture, at, SPEC)[:2] == pytest.approx(off, abs=0.06)


def test_what_does_not_look_alike_is_refused(specimen: npt.NDArray[np.float32]) -> None:
    view = View.from_nominal(128, 128, 400, 0.0)
    anchor = Anchor(seen(specimen, view, (0.0, 0.0), 100), (0.0, 0.0))
    other = seen(specimen[::-1, ::-1].copy(), view, (30.0, 60.0), 100)
    with pytest.raises(InstrumentFault, match="do not look alike"):
        displacement(anchor, other, (30.0, 60.0), SPEC)


def test_a_step_that_is_too_large_says_what_to_do(specimen: npt.NDArray[np.float32]) -> None:
    anchor = Anchor(seen(specimen, View.from_nominal(256, 256, 400, 0.0), (0.0, 0.0), 100), (0.0, 0.0))
    picture = seen(specimen, View.from_nominal(256, 256, 20, 0.0), (0.0, 0.0), 2000)
    with pytest.raises(ConfigurationError, match=r"from magnification 100 to 2000.*realign\.magnifications"):
        displacement(anchor, picture, (0.0, 0.0), SPEC)


def test_an_anchor_that_does_not_reach_is_refused(specimen: npt.NDArray[np.float32]) -> None:
    view = View.from_nominal(128, 128, 400, 0.0)
    anchor = Anchor(seen(specimen, view, (0.0, 0.0), 100), (24.0, 24.0))
    picture = seen(specimen, view, (24.0, 24.0), 100)
    with pytest.raises(ConfigurationError, match="anchor covers"):
        displacement(anchor, picture, (24.0, 24.0), SPEC)


def test_pixels_and_stage_positions_of_a_picture() -> None:
    view = View.from_nominal(100, 60, 500, 20.0)
    picture = as_picture(np.zeros((60, 100), np.uint16), view.stage_per_px_um, (12.0, -5.0), 50)
    assert picture.to_stage((49.5, 29.5)) == pytest.approx((12.0, -5.0))
    points = np.array([[0.0, 0.0], [99.0, 59.0], [3.5, 40.25]])
    assert picture.to_pixels(picture.to_stage(points)) == pytest.approx(points)
    assert picture.pixel_um == pytest.approx(0.5)
    assert scaled(view, 2.0)[0][0] == 2 * view.stage_per_px_um[0][0]
