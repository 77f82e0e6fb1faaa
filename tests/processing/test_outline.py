"""Outlines of sections in drawn pictures whose outlines are known."""

from __future__ import annotations

import math

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shapely.geometry import Polygon

from processing.kernels.outline import Label, find_outlines, segment

Floats = npt.NDArray[np.float64]
SIDE = 320


def star(centre: tuple[float, float], radius_px: float, seed: int = 0) -> Floats:
    """Return a smooth closed outline of about a radius, (n, 2), x, y in px."""
    rng = np.random.default_rng(seed)
    angle = np.linspace(0, 2 * np.pi, 90, endpoint=False)
    radius = radius_px * (1 + 0.08 * np.cos(2 * angle + rng.uniform(0, 6)) + 0.05 * np.cos(3 * angle))
    return np.stack([centre[0] + radius * np.cos(angle), centre[1] + radius * np.sin(angle)], 1)


def draw(
    sections: list[Floats],
    *,
    hole_px: float | None = 150,
    film: float = 0.97,
    tissue: float = 0.6,
    noise: float = 0.03,
    falloff: float = 0.1,
    seed: int = 1,
) -> Floats:
    """Return a picture: carrier with a hole, film, textured sections; lit less towards its corners."""
    rng = np.random.default_rng(seed)
    texture = cv2.GaussianBlur(rng.normal(size=(SIDE, SIDE)), (0, 0), 2)
    texture = 0.12 * texture / texture.std()
    image = np.full((SIDE, SIDE), film)
    for outline in sections:
        mask = np.zeros((SIDE, SIDE), np.uint8)
        cv2.fillPoly(mask, [np.round(outline * 16).astype(np.int32)], 1, shift=4)
        image = np.where(mask > 0, tissue + texture, image)
    y, x = np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2
    if hole_px is not None:
        image = np.where(np.hypot(x, y) < hole_px, image, 0.005)
    image = image * (1 - falloff * (x * x + y * y) / (SIDE / 2) ** 2 / 2)
    return np.asarray(1000 * (image + noise * rng.normal(size=image.shape)))


def overlap(found: Floats, true: Floats) -> float:
    """Return intersection over union of two outlines."""
    one, other = Polygon(found).buffer(0), Polygon(true).buffer(0)
    return float(one.intersection(other).area / one.union(other).area)


def test_section_film_and_carrier_are_told_apart() -> None:
    true = star((150, 170), 60)
    labels = segment(draw([true]))
    assert labels[170, 150] == Label.SECTION
    assert labels[170, 260] == Label.FILM
    assert labels[5, 5] == Label.OPAQUE


@settings(max_examples=15)
@given(
    seed=st.integers(0, 1000),
    x=st.floats(130, 190),
    y=st.floats(130, 190),
    radius=st.floats(30, 70),
    tissue=st.floats(0.3, 0.65),
)
def test_outline_and_centroid_of_one_section(
    seed: int, x: float, y: float, radius: float, tissue: float
) -> None:
    true = star((x, y), radius, seed)
    best = find_outlines(draw([true], tissue=tissue, seed=seed), smooth_px=2.5)[0]
    around = 2 * 1.6 / radius  # what is lost by an outline that is off by 1.6 px all around
    assert overlap(best.polygon_px, true) > 1 - around
    centroid = Polygon(true).centroid
    assert math.hypot(best.centroid_px[0] - centroid.x, best.centroid_px[1] - centroid.y) < 1.0
    assert best.area_px == pytest.approx(Polygon(true).area, rel=around)
    assert best.confidence > 0.8


def test_several_sections_are_told_apart_and_dirt_is_left_out() -> None:
    sections = [star((110, 120), 35, 1), star((210, 120), 35, 2), star((160, 220), 35, 3)]
    dirt = star((160, 165), 5, 4)
    found = find_outlines(draw([*sections, dirt]), min_area_px=400)
    assert len(found) == 3
    for true in sections:
        assert max(overlap(one.polygon_px, true) for one in found) > 0.93


@pytest.mark.parametrize("kind", ["film", "carrier", "tissue", "dark"])
def test_nothing_is_found_where_no_section_is(kind: str) -> None:
    image = {
        "film": draw([]),
        "carrier": draw([], hole_px=0),
        "tissue": draw([star((160, 160), 600)], hole_px=None),
        "dark": np.zeros((SIDE, SIDE)),
    }[kind]
    assert [one for one in find_outlines(image) if one.confidence > 0.3] == []


def test_a_section_cut_by_the_picture_is_less_sure() -> None:
    whole = find_outlines(draw([star((160, 160), 50)], hole_px=None))[0]
    cut = find_outlines(draw([star((20, 160), 50)], hole_px=None))[0]
    assert cut.confidence < 0.8 * whole.confidence


def test_what_is_not_covered_is_not_looked_at() -> None:
    true = star((150, 170), 50)
    covered = np.ones((SIDE, SIDE), np.bool_)
    covered[:60] = False
    image = draw([true])
    image[:60] = 700.0
    found = find_outlines(image, covered=covered)
    assert overlap(found[0].polygon_px, true) > 0.95
    assert (segment(image, covered=covered)[:60] == Label.NOTHING).all()


def test_wrong_input_is_refused() -> None:
    with pytest.raises(ValueError, match="3 dimensions"):
        segment(np.zeros((2, 3, 4)))
    with pytest.raises(ValueError, match="smooth_px"):
        find_outlines(np.zeros((20, 20)), smooth_px=-1)
