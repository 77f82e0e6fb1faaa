"""Dose on the specimen: discs that overlap, against sums done the plain way."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devices.errors import ConfigurationError
from plans.dose import DoseMap, flux_e_per_a2_s, largest_of

places = st.lists(st.tuples(st.floats(-40, 40), st.floats(-40, 40)), min_size=1, max_size=30)


def test_flux_of_a_nanoampere_over_ten_um() -> None:
    assert flux_e_per_a2_s(1.0, 10.0) == pytest.approx(6.2415e9 / 7.85398e9, rel=1e-4)
    for current, diameter in ((0.0, 10.0), (1.0, 0.0), (math.nan, 10.0)):
        with pytest.raises(ConfigurationError, match="dose is not known"):
            flux_e_per_a2_s(current, diameter)


@given(places=places, sizes=st.lists(st.floats(1, 30), min_size=30, max_size=30), x=st.floats(-50, 50))
def test_a_point_has_the_dose_of_every_disc_over_it(
    places: list[tuple[float, float]], sizes: list[float], x: float
) -> None:
    doses = DoseMap()
    for (cx, cy), diameter in zip(places, sizes, strict=False):
        doses.add(cx, cy, diameter, 2.0)
    # points on an edge may fall to either side by rounding
    inside = [
        math.hypot(cx - x, cy) - diameter / 2 for (cx, cy), diameter in zip(places, sizes, strict=False)
    ]
    if all(abs(distance) > 1e-6 for distance in inside):
        assert doses.at(x, 0.0) == 2.0 * sum(distance < 0 for distance in inside)
    assert doses.largest(*places[0], sizes[0]) >= doses.at(*places[0])


def test_an_exposure_that_was_not_made_is_taken_back() -> None:
    doses = DoseMap()
    assert doses.at(0.0, 0.0) == doses.largest(0.0, 0.0, 5.0) == 0.0
    doses.add(0.0, 0.0, 10.0, 3.0)
    doses.add(0.0, 0.0, 10.0, -3.0)
    assert doses.largest(0.0, 0.0, 10.0) == 0.0


@pytest.mark.parametrize(("pitch", "most"), [(11.0, 1), (9.0, 2), (6.0, 4)])
def test_largest_dose_of_a_raster(pitch: float, most: int) -> None:
    raster = [(i * pitch, j * pitch) for i in range(5) for j in range(4)]
    assert largest_of(raster, 10.0, 1.5) == 1.5 * most
    doses = DoseMap()
    for x, y in raster:
        doses.add(x, y, 10.0, 1.5)
    assert max(doses.largest(x, y, 10.0) for x, y in raster) == 1.5 * most
    assert largest_of([], 10.0, 1.0) == 0.0
