"""Means of a number in squares of the stage, on SQLite and PostgreSQL, against numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.tiled_server.own_index import FOCUS, Index
from tests.tiled_server.postgres import Postgres
from tiled_server.index.maps import Bins, stage_map
from tiled_server.index.queries import Scope

PLACES_UM = np.random.default_rng(3).uniform((-40, 5), (60, 30), (40, 2))
TILES = [(i, 0, 0, "pass") for i in range(40)]


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def index(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Index:
    """Two montages of a session on one sample, and one that others may not see."""
    if request.param == "postgresql":
        postgres: Postgres = request.getfixturevalue("postgres")
        made = Index(postgres.database("maps"))
    else:
        made = Index(tmp_path_factory.mktemp("maps") / "index.db")
    made.prepare()
    for number, name in enumerate("ab"):
        centres = PLACES_UM + 2.5 * number
        made.add(name, TILES, montage_id=f"m-{name}", time=1.0, data_session="s", centres_um=centres)
    made.add("c", [(0, 0, 0, "pass")], montage_id="m-c", time=2.0, tags=("p2",), centres_um=np.zeros((1, 2)))
    return made


@pytest.mark.parametrize("bins", [1, 7, 500])
def test_means_are_those_of_numpy(index: Index, bins: int) -> None:
    found = index.ask(stage_map, Scope(texts={"session": "s"}), "focus_score", bins, None)
    places = np.concatenate([PLACES_UM, PLACES_UM + 2.5])
    scores = np.tile(FOCUS[np.arange(40) % len(FOCUS)], 2)
    rows, columns = len(found["values"]), len(found["values"][0])
    assert max(rows, columns) == bins
    first, size = (found["x0_um"], found["y0_um"]), found["bin_um"]
    edges = [first[axis] + size * np.arange(count + 1) for axis, count in ((1, rows), (0, columns))]
    counts, *_ = np.histogram2d(places[:, 1], places[:, 0], edges)
    sums, *_ = np.histogram2d(places[:, 1], places[:, 0], edges, weights=scores)
    assert found["counts"] == counts.astype(int).tolist()
    assert counts.sum() == 80
    with np.errstate(invalid="ignore"):
        np.testing.assert_allclose(np.array(found["values"], float), sums / counts)


def test_squares_are_as_many_as_the_tiles_of_a_grid_fill(index: Index) -> None:
    whole = index.ask(stage_map, Scope(texts={"session": "s"}), "focus_score", None, None)
    assert max(len(whole["values"]), len(whole["values"][0])) == 8  # of 80 tiles
    turn = np.array([[1.0, -0.03], [0.03, 1.0]])
    for rows, columns in ((5, 6), (3, 9), (1, 30), (7, 4), (40, 40)):
        straight = np.array([(7.3 * x, 7.3 * y) for y in range(rows) for x in range(columns)])
        for at in (straight, straight @ turn.T if rows < 20 else straight):
            bins = Bins.over(tuple(at.min(0).tolist()), tuple(at.max(0).tolist()), len(at))
            filled = np.floor((at - (bins.x0_um, bins.y0_um)) / bins.size_um).astype(int)
            assert filled.min() == 0
            assert tuple(1 + filled.max(0)) == (bins.columns, bins.rows)
            assert len(np.unique(filled, axis=0)) == bins.rows * bins.columns


def test_one_place_is_one_square(index: Index) -> None:
    found = index.ask(stage_map, Scope(montage_id="m-c"), "focus_score", 64, None)
    assert (found["values"], found["counts"]) == ([[FOCUS[0]]], [[1]])
    assert (found["x0_um"], found["y0_um"], found["bin_um"]) == pytest.approx((-0.5, -0.5, 1.0))


def test_only_what_the_caller_may_see_is_in_it(index: Index) -> None:
    nothing: dict[str, Any] = {"x0_um": None, "y0_um": None, "bin_um": None, "values": [], "counts": []}
    assert index.ask(stage_map, Scope(montage_id="m-c"), "focus_score", 64, {"p1"}) == nothing
    assert index.ask(stage_map, Scope(), "focus_score", 8, {"p2"})["counts"] == [[1]]
    assert (
        index.ask(stage_map, Scope(texts={"session": "s"}), "residual_px", 8, None) == nothing
    )  # no tile has it


@pytest.mark.parametrize("count", [1, 2, 3, 64, 500])
def test_every_position_is_in_a_square(count: int) -> None:
    low, high = np.array([0.1, -3.0]), np.array([7.4, 1.0])
    bins = Bins.over((0.1, -3.0), (7.4, 1.0), 9, count)
    assert bins.columns == count
    first, last = ((at - (bins.x0_um, bins.y0_um)) / bins.size_um for at in (low, high))
    assert (np.floor(first) == 0).all()
    assert np.floor(last).tolist() == [bins.columns - 1, bins.rows - 1]
