"""How far a fault reaches over tiles that touch each other."""

from __future__ import annotations

import itertools

import pytest

from processing.callbacks._neighbours import Neighbours


@pytest.mark.parametrize("order", [*itertools.permutations([(0, 1, 2), (0, 2, 1), (0, 3, 2)])])
def test_three_that_touch_are_persistent_in_any_order(order: tuple[tuple[int, int, int], ...]) -> None:
    neighbours = Neighbours(3)
    scopes = []
    for place in order:
        neighbours.note(place, {"damaged"})
        scopes.append(neighbours.scope(place, "damaged"))
    assert scopes == ["transient", "transient", "persistent"]


def test_far_tiles_other_regions_and_other_kinds_do_not_count() -> None:
    neighbours = Neighbours(2)
    for place in ((0, 0, 0), (0, 0, 2), (1, 0, 1)):
        neighbours.note(place, {"dark"})
    neighbours.note((0, 1, 0), {"blurred"})
    assert neighbours.scope((0, 0, 0), "dark") == "transient"
    neighbours.note((0, 0, 1), {"dark", "blurred"})
    assert neighbours.scope((0, 0, 1), "dark") == "critical"
    assert neighbours.scope((0, 0, 1), "blurred") == "persistent"


def test_a_tile_that_passed_since_counts_no_more() -> None:
    neighbours = Neighbours(2)
    neighbours.note((0, 0, 0), {"blurred"})
    neighbours.note((0, 0, 0), ())
    neighbours.note((0, 0, 1), {"blurred"})
    assert neighbours.scope((0, 0, 1), "blurred") == "transient"
