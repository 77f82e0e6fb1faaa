"""The shared distortion: model, inverse, and its fit to synthetic matches of known coefficients."""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from processing.kernels._legendre import degrees
from processing.kernels.blocks import BlockMatches
from processing.kernels.field import FieldModel, field_change, fit_field

Reals = npt.NDArray[np.float64]
WIDTH, HEIGHT = 1024, 900
SIZE = np.array([WIDTH, HEIGHT])


def model(degree: int = 5, rms_px: float = 2.0, seed: int = 0) -> FieldModel:
    terms = len(degrees(degree))
    values = np.random.default_rng(seed).normal(0, 1, (2, terms))
    return FieldModel(WIDTH, HEIGHT, degree, values * rms_px / max(terms, 1) ** 0.5)


@dataclass
class Montage:
    """Matches of a montage that is known: field, places, matrices, and what the noise of a match is."""

    field: FieldModel
    nominal: Reals
    places: Reals
    pairs: list[tuple[int, int, BlockMatches]]


def montage(
    field: FieldModel,
    rows: int,
    columns: int,
    *,
    overlap: float = 0.15,
    bend_px: float = 0.0,
    noise_px: float = 0.1,
) -> Montage:
    """Make matches every 60 px of the overlaps, 2 % of them wrong."""
    rng = np.random.default_rng(7)
    nominal = np.array([(c, r) for r in range(rows) for c in range(columns)], float) * SIZE * (1 - overlap)
    places = nominal + rng.normal(0, 8, nominal.shape)
    matrices = np.eye(2) + rng.normal(0, bend_px, (len(nominal), 2, 2)) / (WIDTH / 2)

    def seen(tile: int, points: Reals) -> Reals:
        return field.inverse((points - places[tile]) @ np.linalg.inv(matrices[tile]).T)

    pairs = []
    for i in range(len(nominal)):
        for j in (i + 1, i + columns):
            if j >= len(nominal) or (j == i + 1 and j % columns == 0):
                continue
            low = np.maximum(places[i], places[j]) - SIZE / 2 + 30
            high = np.minimum(places[i], places[j]) + SIZE / 2 - 30
            axes = [np.arange(a, b, 60) for a, b in zip(low, high, strict=True)]
            points = np.stack(np.meshgrid(*axes), -1).reshape(-1, 2)
            first, second = seen(i, points), seen(j, points)
            second = second + rng.normal(0, noise_px, second.shape)
            wrong = rng.random(len(second)) < 0.02
            second[wrong] += rng.uniform(-20, 20, (int(wrong.sum()), 2))
            pairs.append((i, j, BlockMatches(first, second, np.full(len(first), 0.8))))
    return Montage(field, nominal, places, pairs)


@given(st.integers(1, 7), st.integers(0, 1000))
def test_the_inverse_undoes_the_distortion(degree: int, seed: int) -> None:
    field = model(degree, 2.0, seed)
    points = np.random.default_rng(seed).uniform(-0.5, 0.5, (3, 4, 2)) * SIZE
    np.testing.assert_allclose(field.inverse(field.undistort(points)), points, atol=1e-4)


def test_a_field_has_no_affine_part() -> None:
    field = model(5, 3.0)
    x, y = np.meshgrid(np.linspace(-0.5, 0.5, 201) * WIDTH, np.linspace(-0.5, 0.5, 201) * HEIGHT)
    points = np.stack([x.ravel(), y.ravel()], 1)
    design = np.column_stack([np.ones(len(points)), points])
    affine = np.linalg.lstsq(design, field.displacement_px(points), rcond=None)[0]
    assert np.abs(design @ affine).max() < 0.2


def test_a_model_survives_json() -> None:
    field = model()
    again = FieldModel.from_json(field.to_json())
    assert (again.width_px, again.height_px, again.degree) == (WIDTH, HEIGHT, 5)
    np.testing.assert_array_equal(again.coefficients, field.coefficients)
    with pytest.raises(ValueError, match="not a field model"):
        FieldModel.from_json(json.dumps({"width_px": 3}))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 9, 1, np.zeros((2, 0))), "must be 1 or more"),
        ((9, 9, 8, np.zeros((2, 0))), "degree = 8"),
        ((9, 9, 2, np.zeros((2, 2))), r"must be \(2, 3\)"),
        ((9, 9, 2, np.full((2, 3), np.nan)), "finite"),
    ],
)
def test_a_wrong_model_is_refused(arguments: tuple[int, int, int, Reals], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FieldModel(*arguments)


def test_too_steep_a_field_is_not_inverted() -> None:
    with pytest.raises(ValueError, match="cannot be inverted"):
        FieldModel(100, 100, 2, np.full((2, 3), 80.0)).inverse([[49.0, 49.0]])


def test_the_change_of_a_field_leaves_affine_parts_out() -> None:
    field = model(5, 2.0)
    other = FieldModel(WIDTH, HEIGHT, 5, field.coefficients + np.eye(2, field.coefficients.shape[1]) * 0.5)
    change = field_change(field, other)
    assert change.rms_px == pytest.approx(0.5 * 2**0.5, rel=0.1)
    assert change.largest_px > change.rms_px
    assert field_change(field, field).largest_px == pytest.approx(0, abs=1e-9)
    with pytest.raises(ValueError, match="of one size"):
        field_change(field, FieldModel.identity(10, 10))


@pytest.mark.parametrize("bend_px", [0.0, 1.5])
def test_a_known_field_is_found(bend_px: float) -> None:
    truth = montage(model(5, 3.0), 4, 4, bend_px=bend_px)
    fit = fit_field(truth.pairs, truth.nominal, (WIDTH, HEIGHT))
    change = field_change(truth.field, fit.model)
    assert fit.model.degree == 5
    assert change.rms_px < 0.4
    assert change.largest_px < 1.0
    assert fit.matches == len(fit.residuals_px) == sum(len(blocks.ncc) for _, _, blocks in truth.pairs)
    assert fit.holdout_median_px < 0.17
    assert np.median(fit.residuals_px) < fit.holdout_median_px


def test_no_field_is_found_where_there_is_none() -> None:
    truth = montage(FieldModel.identity(WIDTH, HEIGHT), 2, 2, overlap=0.08)
    fit = fit_field(truth.pairs, truth.nominal, (WIDTH, HEIGHT))
    assert fit.model.largest_px < 0.5
    np.testing.assert_allclose(fit.matrices, np.tile(np.eye(2), (4, 1, 1)), atol=1e-3)
    wrong = fit.positions_px - truth.places
    assert np.abs(wrong - wrong.mean(0)).max() < 0.1


def test_few_matches_do_not_run_away() -> None:
    """A 2 x 2 montage tells little of the inside of the tiles; what it does not tell stays small."""
    truth = montage(model(3, 1.0), 2, 2, overlap=0.08)
    fit = fit_field(truth.pairs, truth.nominal, (WIDTH, HEIGHT))
    assert fit.holdout_median_px < 0.3
    assert fit.model.largest_px < 3 * truth.field.largest_px


def test_a_given_field_is_not_changed() -> None:
    truth = montage(model(5, 3.0), 3, 3)
    fit = fit_field(truth.pairs, truth.nominal, (WIDTH, HEIGHT), field=truth.field)
    assert fit.model is truth.field
    assert fit.holdout_median_px < 0.17
    wrong = fit.positions_px - truth.places
    assert np.abs(wrong - wrong.mean(0)).max() < 0.2
    with pytest.raises(ValueError, match="the tiles have 100 x 100"):
        fit_field(truth.pairs, truth.nominal, (100, 100), field=truth.field)


def test_a_tile_without_matches_stays() -> None:
    truth = montage(model(3, 1.0), 3, 3)
    pairs = [one for one in truth.pairs if 8 not in one[:2]]
    fit = fit_field(pairs, truth.nominal, (WIDTH, HEIGHT))
    np.testing.assert_allclose(fit.positions_px[8], truth.nominal[8], atol=1e-6)
    np.testing.assert_allclose(fit.matrices[8], np.eye(2), atol=1e-9)
    nothing = fit_field([], truth.nominal, (WIDTH, HEIGHT))
    assert nothing.matches == 0
    assert np.isnan(nothing.holdout_median_px)


def test_wrong_arguments_are_refused() -> None:
    truth = montage(model(2, 1.0), 2, 2)
    with pytest.raises(ValueError, match="tiles 0 and 1 of 1"):
        fit_field(truth.pairs[:1], truth.nominal[:1], (WIDTH, HEIGHT))
    with pytest.raises(ValueError, match="degree = 9"):
        fit_field(truth.pairs, truth.nominal, (WIDTH, HEIGHT), degree=9)


def test_large_montages_are_solved_sparsely() -> None:
    truth = montage(model(5, 3.0), 10, 10)
    fit = fit_field(truth.pairs, truth.nominal, (WIDTH, HEIGHT))
    assert field_change(truth.field, fit.model).rms_px < 0.1
    assert fit.holdout_median_px < 0.17
