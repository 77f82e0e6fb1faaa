from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from plans.specs.montage import MontageSpec


@given(
    rows=st.integers(1, 1000),
    columns=st.integers(1, 1000),
    overlap=st.floats(0, 0.8) | st.tuples(st.floats(0, 0.8), st.floats(0, 0.8)),
    centre=st.none() | st.tuples(st.floats(-900, 900), st.floats(-900, 900)),
)
def test_json_round_trip(rows: int, columns: int, overlap: Any, centre: Any) -> None:
    spec = MontageSpec(rows=rows, columns=columns, overlap=overlap, centre_um=centre)
    assert MontageSpec.model_validate_json(spec.model_dump_json()) == spec


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        ({"rows": 3, "columns": 3, "overlap": 1.2}, ["overlap", "0.8"]),
        ({"rows": 3, "columns": 3, "overlap": -0.1}, ["overlap", "0"]),
        ({"rows": 0, "columns": 3}, ["rows", "1"]),
        ({"rows": 3}, ["rows", "columns"]),
        ({"rows": 3, "columns": 3, "width_um": 5.0, "height_um": 5.0}, ["width_um", "rows"]),
        ({"rows": 3, "height_um": 5.0}, ["rows", "height_um"]),
        ({}, ["nothing", "rows"]),
        ({"rows": 3, "columns": 3, "exposure_time_s": 0}, ["exposure_time_s"]),
        ({"rows": 3, "columns": 3, "order": "zigzag"}, ["order", "row_wise_snake"]),
        ({"rows": 3, "columns": 3, "overlapp": 0.1}, ["overlapp"]),
        ({"rows": 3, "columns": 3, "max_attempts": 0}, ["max_attempts"]),
    ],
)
def test_wrong_specification_names_field_and_limit(arguments: dict[str, Any], names: list[str]) -> None:
    with pytest.raises(ValidationError) as caught:
        MontageSpec(**arguments)
    for name in names:
        assert name in str(caught.value)


def test_frozen() -> None:
    spec = MontageSpec(rows=2, columns=2)
    with pytest.raises(ValidationError):
        spec.rows = 3  # type: ignore[misc]
