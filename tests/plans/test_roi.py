from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from plans.specs.roi import Roi
from plans.specs.view import View
from tests.plans.geometries import rois

SQUARE = ((0.0, 0.0), (10.0, 0.0), (10.0, 10.0), (0.0, 10.0))


def test_turned_from_stage_x_towards_y_about_the_centroid() -> None:
    bar = Roi(name="bar", polygon_um=((-10, -1), (10, -1), (10, 1), (-10, 1)), rotation_deg=30)
    x, y = max(bar.shape().exterior.coords)  # type: ignore[union-attr]  # one piece
    assert (x, y) == pytest.approx((9.1603, 4.1340), abs=1e-3) or (x, y) == pytest.approx(
        (8.1603, 5.8660), abs=1e-3
    )
    assert bar.shape().centroid.coords[0] == pytest.approx((0.0, 0.0))


def test_dilation_widens_and_narrows() -> None:
    assert Roi(name="a", polygon_um=SQUARE, dilation_um=2).shape().bounds == pytest.approx((-2, -2, 12, 12))
    assert Roi(name="a", polygon_um=SQUARE, dilation_um=-2).shape().bounds == pytest.approx((2, 2, 8, 8))


def test_the_last_corner_may_repeat_the_first() -> None:
    closed = Roi(name="a", polygon_um=(*SQUARE, SQUARE[0]))
    assert closed.shape().equals(Roi(name="a", polygon_um=SQUARE).shape())


@given(data=st.data())
def test_json_round_trip(data: st.DataObject) -> None:
    roi = data.draw(rois(View.from_nominal(1000, 700, 4.0, 20.0)))
    assert Roi.model_validate_json(roi.model_dump_json()) == roi


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"polygon_um": ((0, 0), (10, 10), (10, 0), (0, 10))}, r"'a' crosses.*\(5, 5\) um"),
        ({"polygon_um": ((0, 0), (20, 0), (20, 20), (10, 0), (0, 20))}, r"touches itself at stage \(10, 0\)"),
        ({"polygon_um": ((0, 0), (1, 1))}, "'a' has 2 different corners.*at least 3"),
        ({"polygon_um": ((0, 0), (1, 1), (2, 2))}, "'a' crosses or touches itself"),
        ({"polygon_um": ((0, 0), (float("nan"), 1), (2, 2))}, "finite"),
        ({"polygon_um": SQUARE, "dilation_um": -5.1}, r"nothing is left of ROI 'a' with dilation_um = -5\.1"),
        ({"polygon_um": SQUARE, "name": ""}, "at least 1"),
        ({"polygon_um": SQUARE, "rotation": 3}, "rotation"),
    ],
)
def test_wrong_regions_are_refused(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        Roi(**{"name": "a", **arguments})
