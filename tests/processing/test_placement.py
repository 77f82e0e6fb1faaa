"""Places of tiles from steps between them: known answers, wrong edges, blank tiles, islands, real stages."""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse
from scipy.sparse import csgraph

from processing.kernels._placement_solve import Links, components
from processing.kernels.placement import Edge, Placement, Predictor, place

Reals = npt.NDArray[np.float64]
STEP_PX = 900.0
NOISE_PX = 0.03


def grid(rows: int, columns: int) -> Reals:
    """Return nominal places."""
    return np.array([(c, r) for r in range(rows) for c in range(columns)], float) * STEP_PX


def neighbours(rows: int, columns: int) -> list[tuple[int, int]]:
    index = np.arange(rows * columns).reshape(rows, columns)
    pairs = [*zip(index[:, :-1].ravel(), index[:, 1:].ravel(), strict=True)]
    pairs += zip(index[:-1].ravel(), index[1:].ravel(), strict=True)
    return [(int(a), int(b)) for a, b in pairs]


def edge(first: int, second: int, step: Reals, ncc: float = 0.7, sigma_px: float = NOISE_PX) -> Edge:
    return Edge(first, second, float(step[0]), float(step[1]), (sigma_px**2, 0.0, sigma_px**2), ncc)


def measured(true: Reals, pairs: list[tuple[int, int]], rng: np.random.Generator) -> list[Edge]:
    return [edge(a, b, true[b] - true[a] + rng.normal(0, NOISE_PX, 2)) for a, b in pairs]


def errors(placement: Placement, true: Reals) -> Reals:
    """Return the distances from the truth, apart from a common shift, px."""
    wrong = placement.positions_px - true
    return np.asarray(np.hypot(*(wrong - np.median(wrong, 0)).T))


@pytest.mark.parametrize("seed", range(4))
def test_wrong_edges_move_no_tile(seed: int) -> None:
    rng = np.random.default_rng(seed)
    nominal = grid(16, 16)
    true = nominal + rng.normal(0, 10, nominal.shape)
    edges = measured(true, neighbours(16, 16), rng)
    wrong = rng.random(len(edges)) < 0.02
    for k in np.flatnonzero(wrong):
        one = edges[k]
        off = rng.uniform(5, 60, 2) * rng.choice((-1, 1), 2)
        edges[k] = edge(one.first, one.second, np.array([one.dx_px, one.dy_px]) + off, rng.uniform(0.13, 0.3))
    placement = place(nominal, edges)
    assert wrong.sum() > 2
    assert (placement.rejected == wrong).all()
    assert errors(placement, true).max() < 0.5
    assert placement.matched.all()
    assert placement.stage_sigma_px == pytest.approx(10, rel=0.2)


def test_a_wrong_edge_at_a_corner_loses_against_the_stage() -> None:
    rng = np.random.default_rng(3)
    nominal = grid(4, 4)
    true = nominal + rng.normal(0, 5, nominal.shape)
    edges = measured(true, neighbours(4, 4), rng)
    corner = next(k for k, one in enumerate(edges) if one.first == 0)
    edges[corner] = edge(0, edges[corner].second, np.array([STEP_PX - 80.0, 40.0]))
    placement = place(nominal, edges)
    assert placement.rejected[corner]
    assert errors(placement, true).max() < 0.5
    assert "doubtful: 1 of 2" in placement.reasons[0]


@pytest.mark.parametrize("off", [(20.0, 0.0), (60.0, 0.0), (40.0, -45.0)])
@pytest.mark.parametrize(("rows", "columns", "tile"), [(3, 3, 4), (3, 3, 8), (8, 8, 0), (8, 8, 36)])
def test_a_single_tile_far_from_an_exact_stage_is_placed_by_its_matches(
    rows: int, columns: int, tile: int, off: tuple[float, float]
) -> None:
    true = 240 / STEP_PX * grid(rows, columns)
    nominal = true.copy()
    nominal[tile] += off
    placement = place(nominal, measured(true, neighbours(rows, columns), np.random.default_rng(0)))
    assert errors(placement, true).max() < 0.15
    assert not placement.rejected.any()
    assert placement.reasons == ("",) * len(true)


@pytest.mark.parametrize("off", [20.0, 60.0])
def test_a_match_alone_decides_against_the_stage_by_its_strength_and_with_doubt(off: float) -> None:
    true = 240 / STEP_PX * grid(1, 8)
    nominal = true.copy()
    nominal[7] += (off, -off / 3)
    edges = measured(true, neighbours(1, 8), np.random.default_rng(0))
    placement = place(nominal, edges)
    assert errors(placement, true).max() < 0.2
    assert placement.reasons[:7] == ("",) * 7
    assert re.match(
        rf"doubtful: a match alone takes it {math.hypot(off, off / 3):.0f} px", placement.reasons[7]
    )
    edges[6] = edge(6, 7, true[7] - true[6], ncc=0.2)
    weak = place(nominal, edges)
    assert errors(weak, true)[:7].max() < 0.2
    assert weak.reasons[7]
    assert weak.matched[7] == (off < 30)


def test_rows_after_a_jump_of_the_stage_hang_together_with_the_others() -> None:
    nominal = grid(8, 8)
    true = nominal + (nominal[:, 1:] > 3 * STEP_PX) * np.array([60.0, 25.0])
    placement = place(nominal, measured(true, neighbours(8, 8), np.random.default_rng(1)))
    assert errors(placement, true).max() < 0.3
    assert set(placement.component.tolist()) == {0}


@pytest.mark.parametrize("size_px", [4.0, 15.0, 60.0])
@pytest.mark.parametrize("shape", [(2, 2), (2, 3), (3, 3)])
def test_a_wrong_pair_of_few_tiles_is_found_by_its_correlation_or_told(
    shape: tuple[int, int], size_px: float
) -> None:
    for seed in range(6):
        rng = np.random.default_rng(seed)
        nominal = grid(*shape)
        true = nominal + rng.normal(0, 8, nominal.shape)
        edges = measured(true, neighbours(*shape), rng)
        wrong = int(rng.integers(len(edges)))
        one = edges[wrong]
        away = size_px * np.array([math.cos(seed), math.sin(seed)])
        for ncc in (0.2, 0.7):
            step = np.array([one.dx_px, one.dy_px]) + away
            edges[wrong] = edge(one.first, one.second, step, ncc)
            placement = place(nominal, edges)
            if ncc == 0.2:
                assert np.flatnonzero(placement.rejected).tolist() == [wrong]
                assert errors(placement, true).max() < 0.5
            elif errors(placement, true).max() > 0.5:
                assert "doubtful" in placement.reasons[one.first] + placement.reasons[one.second]


def test_a_weak_match_alone_is_doubtful() -> None:
    true = grid(1, 6)
    edges = measured(true, neighbours(1, 6), np.random.default_rng(2))
    strong, weak = (
        place(true, [*edges[:4], Edge(4, 5, STEP_PX + 3, 0.0, (0.01, 0.0, 0.01), ncc, z)])
        for ncc, z in ((0.7, 30.0), (0.2, 8.0))
    )
    assert strong.reasons == ("",) * 6
    assert weak.reasons[5].startswith("doubtful: a weak match alone")
    assert weak.matched.all()


def test_a_turned_and_scaled_stage_is_no_stage_error() -> None:
    rng = np.random.default_rng(1)
    turn = math.radians(1.5)
    matrix = 1.01 * np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
    nominal = grid(6, 6)
    true = nominal @ matrix.T + rng.normal(0, 4, nominal.shape)
    blank = 35
    edges = [one for one in measured(true, neighbours(6, 6), rng) if blank not in (one.first, one.second)]
    placement = place(nominal, edges)
    assert placement.stage_sigma_px < 8
    np.testing.assert_allclose(placement.stage_affine[:, :2], matrix, atol=3e-3)
    assert not placement.matched[blank]
    assert placement.reasons[blank].startswith("prior-only")
    # without the correction the blank corner would be 140 px from its neighbours' place
    corrected = placement.stage_affine[:, :2] @ nominal[blank] + placement.stage_affine[:, 2]
    np.testing.assert_allclose(placement.positions_px[blank], corrected, atol=1e-6)
    assert errors(placement, true)[blank] < 25


def test_islands_stay_where_the_stage_says() -> None:
    rng = np.random.default_rng(2)
    nominal = np.concatenate([grid(3, 3), grid(3, 3) + np.array([20_000, 0])])
    true = nominal + rng.normal(0, 6, nominal.shape)
    pairs = neighbours(3, 3)
    placement = place(nominal, measured(true, pairs + [(a + 9, b + 9) for a, b in pairs], rng))
    assert placement.component.tolist() == [0] * 9 + [1] * 9
    for island in (slice(0, 9), slice(9, 18)):
        drift = (placement.positions_px - nominal)[island].mean(0)
        assert np.hypot(*drift) < 10
    assert placement.reasons[:9] == ("",) * 9
    assert all("island: 9 tiles" in reason for reason in placement.reasons[9:])


def test_without_edges_the_stage_places_all() -> None:
    placement = place(grid(2, 2), [])
    np.testing.assert_allclose(placement.positions_px, grid(2, 2))
    assert not placement.matched.any()
    assert set(placement.reasons) == {"prior-only: no neighbour matched"}
    assert place([(5.0, 7.0)], []).positions_px.tolist() == [[5.0, 7.0]]


def test_covariance_decides_between_edges() -> None:
    steps = [(0, 1, (900.0, 0.0), 0.02), (1, 2, (900.0, 0.0), 0.02), (0, 2, (1800.9, 0.0), 0.9)]
    edges = [edge(a, b, np.array(step), sigma_px=sigma) for a, b, step, sigma in steps]
    placement = place([(0, 0), (900, 0), (1800, 0)], edges)
    assert placement.positions_px[2, 0] - placement.positions_px[0, 0] == pytest.approx(1800.0, abs=0.05)


def test_a_start_gives_the_same_and_new_contradictions_are_seen() -> None:
    rng = np.random.default_rng(5)
    nominal = grid(5, 5)
    true = nominal + rng.normal(0, 10, nominal.shape)
    edges = measured(true, neighbours(5, 5), rng)
    before = place(nominal, edges[:-1])
    after = place(nominal, edges, start=before)
    np.testing.assert_allclose(after.positions_px, place(nominal, edges).positions_px, atol=0.02)
    edges.append(edge(6, 7, np.array([STEP_PX - 45.0, 45.0]), 0.2))
    worse = place(nominal, edges, start=after)
    assert worse.rejected.tolist() == [False] * (len(edges) - 1) + [True]
    assert errors(worse, true).max() < 0.5


@pytest.mark.parametrize(
    ("nominal", "edges", "message"),
    [
        ([], [], "at least one tile"),
        ([(0.0, math.nan)], [], r"tiles \[0\] is not finite"),
        ([(0.0, 0.0), (9.0, 0.0)], [Edge(0, 2, 9.0, 0.0, (1, 0, 1), 0.5)], "joins tiles 0 and 2 of 2"),
        ([(0.0, 0.0), (9.0, 0.0)], [Edge(0, 1, math.nan, 0.0, (1, 0, 1), 0.5)], "is not finite"),
    ],
)
def test_what_cannot_be_placed_is_refused(nominal: list[object], edges: list[Edge], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        place(np.array(nominal, float).reshape(-1, 2), edges)


def test_a_prediction_takes_the_drift_of_the_neighbours_and_narrows() -> None:
    predictor = Predictor(first_search_px=150, least_search_px=8, most_search_px=150)
    nominal = grid(4, 4)
    rng = np.random.default_rng(0)
    true = nominal + np.array([120.0, -60.0]) + rng.normal(0, 2, nominal.shape)
    pairs = neighbours(4, 4)[:-2]
    solved = place(nominal[:15], [one for one in measured(true, pairs, rng) if one.second < 15])
    at = solved.positions_px + (true[0] - solved.positions_px[0])
    assert predictor.search((STEP_PX, 0.0)) == (150, 150)
    joined = [pair for pair in pairs if 15 not in pair]
    predictor.learn(nominal[:15], at, solved.stage_affine, joined)
    for k, expected in zip((14, 11), predictor.predict((2700.0, 2700.0), [14, 11]), strict=True):
        wrong = np.array(expected.offset_px) - (true[15] - true[k])
        assert np.abs(wrong).max() < min(expected.search_px) < 110
    with pytest.raises(ValueError, match="solved tiles"):
        predictor.predict((0.0, 0.0), [15])


@pytest.mark.parametrize("file", ["pyserialem_gm.mrc.mdoc", "montage_section_multiple.mdoc"])
def test_the_recorded_stage_of_serialem_is_predicted(test_data: Path, file: str) -> None:
    """Stages are wrong by 30 to 140 px rms there: the range that is searched must hold the truth."""
    text = (test_data / "serialem" / file).read_text()
    nominal, true = (
        np.array(re.findall(rf"^{key} = (\S+) (\S+)", text, re.MULTILINE), float)[:25]
        for key in ("PieceCoordinates", "AlignedPieceCoords(?:VS)?")
    )
    if file.startswith("montage"):
        nominal, true = nominal[:9], true[:9]
    step = np.abs(nominal[1:] - nominal[0]).sum(1).min()
    predictor = Predictor(0.15 * step, 8.0, 0.15 * step)
    missed, tried, left, before = 0, 0, [], []
    for k in range(1, len(nominal)):
        near = np.abs(nominal[:, None] - nominal).sum(2) < 1.6 * step
        pairs = [(a, b) for b in range(k) for a in range(b) if near[a, b]]
        edges = [edge(a, b, true[b] - true[a], sigma_px=0.5) for a, b in pairs]
        solved = place(nominal[:k], edges)
        predictor.learn(nominal[:k], solved.positions_px, solved.stage_affine, pairs)
        found = [j for j in range(k) if near[j, k]]
        predictions = predictor.predict((nominal[k, 0], nominal[k, 1]), found) if found else ()
        for j, expected in zip(found, predictions, strict=True):
            wrong = np.abs(np.array(expected.offset_px) - (true[k] - true[j]))
            missed += bool((wrong > expected.search_px).any())
            left.append(np.hypot(*wrong))
            before.append(np.hypot(*(nominal[k] - nominal[j] - true[k] + true[j])))
            tried += 1
    assert tried > len(nominal) / 2
    assert missed <= 0.05 * tried
    assert np.median(left) < np.median(before)


@given(data=st.data(), tiles=st.integers(1, 40))
def test_groups_are_those_that_scipy_finds(data: st.DataObject, tiles: int) -> None:
    ends = st.integers(0, tiles - 1)
    edges = data.draw(st.lists(st.tuples(ends, ends, st.booleans()), max_size=60))
    first, second, used = (np.array([edge[k] for edge in edges], int) for k in range(3))
    flags = used.astype(bool)
    ones = np.ones((len(edges), 2))
    links = Links(first, second, ones, ones, ones[:, 0])
    count, group = components(links, flags, tiles)
    graph = sparse.coo_matrix((np.ones(flags.sum()), (first[flags], second[flags])), shape=(tiles, tiles))
    expected, label = csgraph.connected_components(graph, directed=False)
    assert count == expected
    assert len(set(zip(group.tolist(), label.tolist(), strict=True))) == count
    # numbered by their first tiles
    assert list(dict.fromkeys(group.tolist())) == list(range(count))
