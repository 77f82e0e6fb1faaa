"""The stitching engine: synthetic montages of known places and distortion, real ones, and what goes wrong."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from scipy import ndimage

from processing.kernels._legendre import degrees
from processing.kernels.field import FieldModel, field_change
from processing.stitching.engine import Added, Key, Stitcher, StitchOptions, StitchSolution, TileInput
from tests.processing.specimens import resin, tissue

Frame = npt.NDArray[np.uint16]
Reals = npt.NDArray[np.float64]
WIDTH, HEIGHT = 400, 360
RIGID = StitchOptions(degree=1, affine=False)


@dataclass
class Montage:
    """Tiles with their true places; ``nominal`` is what the stage says."""

    tiles: list[TileInput]
    frames: list[Frame]
    true: Reals


def montage(
    rows: int,
    columns: int,
    *,
    overlap: float = 0.22,
    stage_px: float = 6.0,
    field: FieldModel | None = None,
    blank: Sequence[int] = (),
    noise: float = 300.0,
    seed: int = 0,
) -> Montage:
    """Cut tiles of a specimen at places between pixels, as a camera with a distortion sees them."""
    rng = np.random.default_rng(seed)
    step = np.array([WIDTH, HEIGHT]) * (1 - overlap)
    nominal = np.array([(c, r) for r in range(rows) for c in range(columns)], float) * step
    true = nominal + rng.normal(0, stage_px, nominal.shape)
    margin = 240
    shape = int(rows * step[1] + HEIGHT) + 2 * margin, int(columns * step[0] + WIDTH) + 2 * margin
    specimen = ndimage.spline_filter(cv2.GaussianBlur(tissue(shape, seed), (0, 0), 1.0))
    grid = np.stack(np.meshgrid(np.arange(WIDTH) - (WIDTH - 1) / 2, np.arange(HEIGHT) - (HEIGHT - 1) / 2), -1)
    ideal = grid if field is None else field.undistort(grid)
    frames = []
    for k, place in enumerate(true):
        at = ideal + place + margin
        seen = ndimage.map_coordinates(specimen, [at[..., 1], at[..., 0]], order=3, prefilter=False)
        image = resin(seen.shape, 0.0) if k in blank else seen
        frames.append(np.clip(8000 * image + rng.normal(0, noise, image.shape), 0, 65535).astype(np.uint16))
    tiles = [
        TileInput((0, k // columns, k % columns), 0, (float(x), float(y))) for k, (x, y) in enumerate(nominal)
    ]
    return Montage(tiles, frames, true)


def stitched(
    one: Montage, options: StitchOptions = RIGID, order: Sequence[int] | None = None, **arguments: Any
) -> tuple[Stitcher, list[Added]]:
    stitcher = Stitcher(options, (WIDTH, HEIGHT), **arguments)
    return stitcher, [stitcher.add(one.tiles[k], one.frames[k]) for k in order or range(len(one.tiles))]


def recorded(path: Path) -> npt.NDArray[np.uint8]:
    frame = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    assert frame is not None, path
    return np.asarray(frame, np.uint8)


def errors(solution: StitchSolution, one: Montage, keys: Sequence[Key] | None = None) -> Reals:
    """Return the distances from the truth but for a common shift, px."""
    chosen = [k for k, tile in enumerate(one.tiles) if keys is None or tile.key in keys]
    wrong = np.array([solution.tile(one.tiles[k].key).position_px for k in chosen]) - one.true[chosen]
    return np.asarray(np.hypot(*(wrong - np.median(wrong, 0)).T))


def test_tiles_are_placed_and_live_is_as_offline() -> None:
    one = montage(4, 4)
    stitcher, added = stitched(one, expected=one.tiles)
    now, solution = stitcher.solution(final=False), stitcher.solution()
    assert errors(solution, one).max() < 0.06
    assert errors(now, one).max() < 0.06
    assert solution.matched.all()
    assert [tile.reason for tile in solution.tiles] == [""] * 16
    assert len(solution.edges) == 24
    assert all(edge.accepted and edge.residual_px < 0.2 for edge in solution.edges)
    assert added[0].reason == "prior-only: no neighbour overlaps it"
    assert solution.tiles[0].position_px == pytest.approx(one.tiles[0].nominal_px)
    other, _ = stitched(one, order=[5, 0, 10, 15, 1, 2, 3, 4, 6, 7, 8, 9, 11, 12, 13, 14])
    again = other.solution()
    keys = [tile.key for tile in one.tiles]
    places = [np.array([s.tile(key).position_px for key in keys]) for s in (solution, again)]
    shift = places[1] - places[0]
    assert np.abs(shift - shift.mean(0)).max() < 0.05


def test_a_solution_survives_json() -> None:
    one = montage(2, 2, blank=[3])
    solution = stitched(one)[0].solution()
    again = StitchSolution.from_json(solution.to_json())
    np.testing.assert_array_equal(again.positions_px, solution.positions_px)
    assert again.tiles == solution.tiles
    assert [edge.reason for edge in again.edges] == [edge.reason for edge in solution.edges]
    assert again.stage_affine == solution.stage_affine
    assert math.isnan(again.edges[-1].residual_px)
    with pytest.raises(ValueError, match="format 1"):
        StitchSolution.from_json("{}")


def test_a_blank_tile_stays_at_its_stage_place_and_says_why() -> None:
    one = montage(3, 3, blank=[8])
    stitcher, added = stitched(one)
    solution = stitcher.solution()
    assert solution.matched.tolist() == [True] * 8 + [False]
    assert "prior-only: none of 2 neighbours matched" in solution.tiles[8].reason
    assert not added[8].matched
    assert errors(solution, one, [tile.key for tile in one.tiles[:8]]).max() < 0.06
    away = np.array(solution.tiles[8].position_px) - one.true[8]
    assert np.hypot(*away) < 30


def test_frames_go_when_no_neighbour_can_come() -> None:
    one = montage(5, 4)
    stitcher = Stitcher(RIGID, (WIDTH, HEIGHT), expected=one.tiles)
    kept = []
    for tile, frame in zip(one.tiles, one.frames, strict=True):
        stitcher.add(tile, frame)
        kept.append(stitcher.frames_kept)
    assert max(kept) <= 6
    assert kept[-1] == 0
    unknown, _ = stitched(one)
    # without a list of what comes only those inside are known to be done
    assert 0 < unknown.frames_kept <= 14


def test_frames_beyond_the_memory_allowed_go_and_the_edges_say_so() -> None:
    one = montage(2, 3)
    stitcher, _ = stitched(one, StitchOptions(degree=1, affine=False, keep_mb=0.6))
    assert stitcher.frames_kept <= 2
    reasons = [edge.reason for edge in stitcher.solution().edges if not edge.accepted]
    assert reasons
    assert all("raise keep_mb" in reason for reason in reasons)
    frames = {tile.key: frame for tile, frame in zip(one.tiles, one.frames, strict=True)}
    loaded, _ = stitched(
        one, StitchOptions(degree=1, affine=False, keep_mb=0.6), load=lambda tile: frames[tile.key]
    )
    assert loaded.solution().matched.all()


def test_a_later_attempt_takes_the_place_of_a_bad_one() -> None:
    one = montage(3, 3)
    blurred = cv2.GaussianBlur(one.frames[4], (0, 0), 25.0)
    frames = {tile.key: frame for tile, frame in zip(one.tiles, one.frames, strict=True)}
    stitcher = Stitcher(RIGID, (WIDTH, HEIGHT), load=lambda tile: frames[tile.key])
    for k, tile in enumerate(one.tiles):
        stitcher.add(tile, blurred if k == 4 else one.frames[k])
    assert not stitcher.solution().tile((0, 1, 1)).matched
    later = TileInput((0, 1, 1), 1, one.tiles[4].nominal_px)
    replaced = stitcher.replace(later, one.frames[4])
    assert replaced.index == 4
    assert replaced.matched
    assert len(replaced.matches) == 4
    solution = stitcher.solution()
    assert solution.tile((0, 1, 1)).attempt == 1
    assert errors(solution, one).max() < 0.06
    for wrong, message in ((later, "not later than 1"), (TileInput((0, 9, 9), 1, (0.0, 0.0)), "add")):
        with pytest.raises(ValueError, match=message):
            stitcher.replace(wrong, one.frames[4])


def test_two_islands_and_a_list_without_rows() -> None:
    one, other = montage(2, 2), montage(2, 2, seed=5)
    stitcher, _ = stitched(one)
    for tile, frame in zip(other.tiles, other.frames, strict=True):
        x, y = tile.nominal_px
        stitcher.add(TileInput((1, 0, tile.key[1] * 2 + tile.key[2]), 0, (x + 30_000, y - 4_000)), frame)
    solution = stitcher.solution()
    assert solution.matched.all()
    assert len(solution.edges) == 8
    assert all("island: 4 tiles" in tile.reason for tile in solution.tiles[4:])
    drift = solution.positions_px[4:] - [tile.nominal_px for tile in solution.tiles[4:]]
    assert np.abs(drift.mean(0)).max() < 20


def test_bad_input_is_named_and_the_rest_is_solved() -> None:
    one = montage(2, 2)
    stitcher, _ = stitched(Montage(one.tiles[:3], one.frames[:3], one.true[:3]))
    with pytest.raises(ValueError, match=r"nominal_px = .*nan.* of tile"):
        stitcher.add(TileInput((0, 5, 5), 0, (math.nan, 0.0)), one.frames[3])
    with pytest.raises(ValueError, match="was added before"):
        stitcher.add(one.tiles[0], one.frames[0])
    small = stitcher.add(one.tiles[3], one.frames[3][:100])
    assert small.reason == f"prior-only: its frame has {WIDTH} x 100 px, the montage {WIDTH} x {HEIGHT}"
    colour = stitcher.add(TileInput((0, 2, 0), 0, (0.0, 600.0)), np.zeros((9, 9, 3), np.uint8))
    assert "not (y, x) of uint8" in colour.reason
    solution = stitcher.solution()
    assert len(solution.tiles) == 5
    assert solution.matched.tolist() == [True, True, True, False, False]
    with pytest.raises(ValueError, match="size_px"):
        Stitcher(RIGID, (0, 5))
    with pytest.raises(ValueError, match="the tiles have 400 x 360"):
        Stitcher(StitchOptions(field=FieldModel.identity(100, 100)), (WIDTH, HEIGHT))
    with pytest.raises(ValueError, match="degree = 9"):
        StitchOptions(degree=9)


def test_a_single_tile_and_none() -> None:
    stitcher = Stitcher(StitchOptions(), (WIDTH, HEIGHT))
    assert stitcher.solution().tiles == ()
    stitcher.add(TileInput((0, 0, 0), 0, (7.0, 8.0)), np.zeros((HEIGHT, WIDTH), np.uint8))
    solution = stitcher.solution()
    assert solution.positions_px.tolist() == [[7.0, 8.0]]
    assert solution.tiles[0].reason == "prior-only: no neighbour overlaps it"


def test_large_errors_of_the_stage_are_followed() -> None:
    """The nominal step is 3 % too long and each tile up to 40 px away: more than the least search."""
    one = montage(4, 4, stage_px=12.0, seed=2)
    tiles = [TileInput(t.key, 0, (1.03 * t.nominal_px[0], 1.03 * t.nominal_px[1])) for t in one.tiles]
    stitcher, _ = stitched(Montage(tiles, one.frames, one.true))
    solution = stitcher.solution()
    assert solution.matched.all()
    assert errors(solution, one).max() < 0.06
    assert solution.stage_sigma_px == pytest.approx(12, rel=0.5)
    assert solution.stage_affine[0][0] == pytest.approx(1 / 1.03, abs=0.02)


@pytest.fixture(scope="module")
def distorted() -> tuple[FieldModel, Montage]:
    terms = len(degrees(3))
    values = np.random.default_rng(4).normal(0, 0.3, (2, terms))
    field = FieldModel(WIDTH, HEIGHT, 3, values)
    return field, montage(4, 4, overlap=0.35, field=field, noise=100.0)


def test_the_distortion_is_found_from_the_overlaps(distorted: tuple[FieldModel, Montage]) -> None:
    field, one = distorted
    stitcher, added = stitched(one, StitchOptions(degree=3))
    assert any(one.refitted for one in added)
    solution = stitcher.solution()
    assert solution.field_origin == "calibrated"
    assert field_change(field, solution.field).rms_px < 0.2
    assert solution.holdout_median_px < 0.2
    # seams, by the truth: the same point of the specimen from two tiles
    for edge in solution.edges:
        a, b = (one.true[[t.key for t in one.tiles].index(key)] for key in (edge.first, edge.second))
        point = (a + b) / 2
        ends = [
            solution.to_mosaic(key, field.inverse(point - at))
            for key, at in ((edge.first, a), (edge.second, b))
        ]
        assert np.hypot(*(ends[0] - ends[1])) < 0.3
    rigid = stitched(one)[0].solution()
    assert rigid.residual_median_px > 2 * solution.residual_median_px


def test_a_known_distortion_is_used_and_watched(distorted: tuple[FieldModel, Montage]) -> None:
    field, one = distorted
    solution = stitched(one, StitchOptions(degree=3, field=field))[0].solution()
    assert solution.field is field
    assert solution.field_origin == "given"
    assert solution.field_change_px is not None
    assert solution.field_change_px[0] < 0.2
    assert errors(solution, one).max() < 0.3
    changed = FieldModel(WIDTH, HEIGHT, 3, field.coefficients + np.eye(2, field.coefficients.shape[1]) * 2)
    watched = stitched(one, StitchOptions(degree=3, field=changed))[0].solution()
    assert watched.field_change_px is not None
    assert watched.field_change_px[0] > 1.0
    assert watched.field_origin == "outdated"
    assert field_change(field, watched.field).rms_px < 0.2
    assert watched.holdout_median_px < 0.2


@pytest.mark.parametrize(
    ("sample", "median_px", "p95_px"), [("sample_2", 0.25, 0.65), ("sample_1", 0.6, 2.5)]
)
def test_real_montages(test_data: Path, sample: str, median_px: float, p95_px: float) -> None:
    paths = sorted((test_data / "mussel" / sample).glob("*.png"))
    frames = [recorded(path) for path in paths]
    height, width = frames[0].shape
    stitcher = Stitcher(StitchOptions(), (width, height))
    for path, frame in zip(paths, frames, strict=True):
        row, column = (int(part) - 1 for part in path.stem.split("_")[1:])
        stitcher.add(TileInput((0, row, column), 0, (0.9 * width * column, 0.9 * height * row)), frame)
    solution = stitcher.solution()
    assert solution.holdout_median_px < median_px
    assert solution.holdout_p95_px < p95_px
    assert all(tile.matched or tile.reason for tile in solution.tiles)
    assert sample != "sample_2" or solution.matched.all()
    assert all(edge.residual_px < 2 for edge in solution.edges if edge.accepted)


def test_the_published_solution_of_a_real_montage_is_met(test_data: Path) -> None:
    folder = test_data / "array_tomography"
    with (folder / "positions.csv").open() as opened:
        rows = list(csv.DictReader(opened))
    frames = [recorded(folder / row["file"]) for row in rows]
    height, width = frames[0].shape
    stitcher = Stitcher(StitchOptions(), (width, height))
    published = []
    for row, frame in zip(rows, frames, strict=True):
        x, y = float(row["stage_x_px"]), float(row["stage_y_px"])
        stitcher.add(TileInput((0, round(y / 857), round(x / 1142)), 0, (x, y)), frame)
        linear = np.array([[row["ref_a"], row["ref_b"]], [row["ref_c"], row["ref_d"]]], float)
        centre = np.array([(width - 1) / 2, (height - 1) / 2])
        published.append(linear @ centre + np.array([row["ref_tx"], row["ref_ty"]], float))
    solution = stitcher.solution()
    assert solution.matched.all()
    assert solution.holdout_median_px < 0.13
    assert solution.holdout_p95_px < 0.30
    design = np.column_stack([solution.positions_px, np.ones(len(rows))])
    wrong = design @ np.linalg.lstsq(design, np.array(published), rcond=None)[0] - published
    assert math.sqrt(float(np.mean(np.sum(wrong**2, 1)))) < 0.7
