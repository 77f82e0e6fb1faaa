from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from plans.specs.focus import FocusSpec
from plans.specs.montage import MontageSpec
from plans.specs.roi import Roi
from plans.specs.view import View
from tests.plans.geometries import orders, overlaps, points, rois

SQUARE = Roi(name="a", polygon_um=((0, 0), (5, 0), (5, 5), (0, 5)))
VIEW = View.from_nominal(1000, 700, 4.0, 20.0)
places = st.one_of(
    st.fixed_dictionaries({"rows": st.integers(1, 1000), "columns": st.integers(1, 1000)}),
    st.fixed_dictionaries({"width_um": st.floats(0.1, 3000), "height_um": st.floats(0.1, 3000)}),
    st.fixed_dictionaries({"corners_um": st.lists(points, min_size=2, max_size=5, unique=True)}),
    st.fixed_dictionaries({"rois": rois(VIEW).map(lambda roi: (roi,))}),
    st.fixed_dictionaries({"positions_um": st.lists(points, min_size=1, max_size=5, unique=True)}),
)


@given(place=places, overlap=overlaps | st.floats(0.01, 0.8), order=orders, approach=points)
def test_json_round_trip(place: dict[str, Any], overlap: Any, order: Any, approach: Any) -> None:
    spec = MontageSpec(
        **place,
        overlap=overlap,
        order=order,
        approach_um=(approach[0] / 5, approach[1] / 5),
        supertile=(2, 3),
        focus=FocusSpec(per="block", map="plane"),
        calibrations=("stage_camera",),
    )
    again = MontageSpec.model_validate_json(spec.model_dump_json())
    assert again == spec
    assert again.policy == spec.policy


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        ({"rows": 3, "columns": 3, "overlap": 1.2}, ["overlap", "0.8"]),
        ({"rows": 3, "columns": 3, "overlap": 1}, ["overlap", "1 is not", "10 % is 0.1"]),
        ({"rows": 3, "columns": 3, "overlap": -0.1}, ["overlap", "0"]),
        ({"rows": 3, "columns": 3, "overlap": float("nan")}, ["overlap", "nan"]),
        ({"rows": 3, "columns": 3, "overlap": 0}, ["overlap = 0 along camera x", "0.05 to 0.2"]),
        ({"rows": 3, "columns": 3, "overlap": (0.1, 0)}, ["overlap = 0 along camera y"]),
        ({"width_um": 3, "height_um": 3, "overlap": 0}, ["overlap = 0"]),
        ({"rois": (SQUARE,), "overlap": 0}, ["overlap = 0"]),
        ({"positions_um": ((0, 0),), "overlap": 0, "supertile": (2, 1)}, ["overlap = 0 along camera x"]),
        ({"rows": 0, "columns": 3}, ["rows", "1"]),
        ({"rows": 3}, ["rows", "columns"]),
        ({"rows": 3, "columns": 3, "width_um": 5.0, "height_um": 5.0}, ["width_um", "rows"]),
        ({"rows": 3, "columns": 3, "rois": (SQUARE,)}, ["rows and columns and rois"]),
        ({"rois": (SQUARE,), "positions_um": ((0, 0),)}, ["rois and positions_um"]),
        ({"rows": 3, "height_um": 5.0}, ["rows", "height_um"]),
        ({"rois": ()}, ["nothing"]),
        ({}, ["nothing", "rows"]),
        ({"rois": (SQUARE, SQUARE)}, ["rois has 'a' twice"]),
        ({"positions_um": ((1, 2), (1, 2))}, ["positions_um has (1.0, 2.0) twice"]),
        ({"corners_um": ((1, 2), (1, 2))}, ["corners_um", "2 different"]),
        ({"corners_um": ((1, 2), (3, 2)), "centre_um": (0, 0)}, ["centre_um", "corners_um"]),
        ({"positions_um": ((1, 2),), "rows": 2, "columns": 2, "centre_um": (0, 0)}, ["centre_um"]),
        ({"rows": 3, "columns": 3, "supertile": (0, 3)}, ["supertile", "1"]),
        ({"rows": 3, "columns": 3, "centre_um": (float("inf"), 0)}, ["centre_um", "finite"]),
        ({"rows": 3, "columns": 3, "exposure_time_s": 0}, ["exposure_time_s"]),
        ({"rows": 3, "columns": 3, "order": "zigzag"}, ["order", "row_wise_snake"]),
        ({"rows": 3, "columns": 3, "overlapp": 0.1}, ["overlapp"]),
        ({"rows": 3, "columns": 3, "max_attempts": 0}, ["max_attempts"]),
        ({"rows": 3, "columns": 3, "calibrations": ("pixel",)}, ["calibrations", "stage_camera"]),
    ],
)
def test_wrong_specification_names_field_and_limit(arguments: dict[str, Any], names: list[str]) -> None:
    with pytest.raises(ValidationError) as caught:
        MontageSpec(**arguments)
    for name in names:
        assert name in str(caught.value)


def test_no_overlap_is_needed_where_nothing_lies_beside() -> None:
    assert MontageSpec(rows=1, columns=1, overlap=0).tiles == 1
    assert MontageSpec(rows=1, columns=5, overlap=(0.1, 0)).tiles == 5
    assert MontageSpec(positions_um=((0, 0), (9, 9)), overlap=0).tiles == 2


def test_number_of_tiles() -> None:
    assert MontageSpec(rows=3, columns=4).tiles == 12
    assert MontageSpec(positions_um=((0, 0), (9, 9)), rows=3, columns=4).tiles == 24
    assert MontageSpec(positions_um=((0, 0), (9, 9)), supertile=(3, 2)).tiles == 12
    assert MontageSpec(rois=(SQUARE,)).tiles is None


def test_frozen() -> None:
    spec = MontageSpec(rows=2, columns=2)
    with pytest.raises(ValidationError):
        spec.rows = 3  # type: ignore[misc]
