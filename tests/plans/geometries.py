"""Views, outlines and specifications for tests of the geometry."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
from hypothesis import strategies as st
from shapely import Polygon
from shapely.geometry.base import BaseGeometry

from plans.specs.grid import Tile
from plans.specs.montage import Order
from plans.specs.roi import Roi
from plans.specs.view import Matrix, View

ORDERS: tuple[Order, ...] = (
    "row_wise", "column_wise", "row_wise_snake", "column_wise_snake", "spiral", "centre_out"
)  # fmt: skip
overlaps = st.tuples(st.floats(0.01, 0.8), st.floats(0.01, 0.8))
orders = st.sampled_from(ORDERS)
points = st.tuples(st.floats(-500, 500), st.floats(-500, 500))


@st.composite
def matrices(draw: st.DrawFn, least: float, most: float) -> Matrix:
    """Draw a matrix of two axes that need be neither equal nor square to each other, nor right-handed."""
    first = math.radians(draw(st.floats(-180, 180)))
    second = first + math.radians(draw(st.floats(60, 120))) * draw(st.sampled_from((1, -1)))
    x, y = draw(st.floats(least, most)), draw(st.floats(least, most))
    return (x * math.cos(first), y * math.cos(second)), (x * math.sin(first), y * math.sin(second))


@st.composite
def views(draw: st.DrawFn, image_shift_limit_um: float = 1e9) -> View:
    """Draw a view: any shape of sensor, any matrix to the stage, any matrix of image shift."""
    pixel_um = draw(st.floats(1e-3, 0.1))
    return View(
        draw(st.integers(16, 4096)),
        draw(st.integers(16, 4096)),
        draw(matrices(0.7 * pixel_um, 1.4 * pixel_um)),
        draw(matrices(0.5, 2.0)),
        image_shift_limit_um,
    )


@st.composite
def rois(draw: st.DrawFn, view: View, name: str = "a") -> Roi:
    """Draw a region, concave as it comes, up to six tiles across: corners at rising angles about a point."""
    x, y = draw(points)
    tile_um = math.sqrt(view.width_um * view.height_um)
    angles = np.linspace(0, 2 * math.pi, draw(st.integers(3, 9)), endpoint=False)
    radii = [draw(st.floats(0.1, 3.0)) * tile_um for _ in angles]
    polygon = [
        (x + radius * math.cos(angle), y + radius * math.sin(angle))
        for radius, angle in zip(radii, angles, strict=True)
    ]
    rotation_deg, dilation = draw(st.floats(-180, 180)), draw(st.floats(0, 0.5)) * tile_um
    return Roi(name=name, polygon_um=tuple(polygon), rotation_deg=rotation_deg, dilation_um=dilation)


def frame(view: View, tile: Tile) -> Polygon:
    """Return what a tile shows, in stage um: the camera's corners through the view's matrix."""
    matrix = np.array(view.stage_per_px_um)
    half = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * (view.width_px / 2, view.height_px / 2)
    return Polygon(half @ matrix.T + (tile.centre_x_um, tile.centre_y_um))


def uncovered(shape: BaseGeometry, frames: Iterable[Polygon], slack_um: float) -> BaseGeometry:
    """Return what of a shape no frame, wider by a slack, shows.

    One frame after the other is taken away: the union of many (`shapely.union_all` of GEOS 3.14.1) loses
    whole frames whose edges lie on each other.
    """
    for one in frames:
        shape = shape.difference(one.buffer(slack_um, join_style="mitre"))
    return shape


def centres(tiles: tuple[Tile, ...]) -> npt.NDArray[np.float64]:
    """Return the specimen points of tiles, (tile, 2), um."""
    return np.array([(tile.centre_x_um, tile.centre_y_um) for tile in tiles])
