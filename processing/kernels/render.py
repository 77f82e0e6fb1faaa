"""A tile drawn into the mosaic: the shared field taken out, its matrix and sub-pixel position put in.

A tile's point p, counted from its centre, lies in the mosaic at ``position + L (p + D(p))``. A pixel of the
mosaic is drawn from where that comes from: ``q = L^-1 (m - position)`` is an affine of the pixel, and the
field is undone by ``p = q + E(q)``. E is found once for a field and a size, by fixed point, on a grid; a
tile then costs a step more at nodes (128 along its longer side), interpolation between, and one `cv2.remap`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, Literal, Protocol

import cv2
import numpy as np
import numpy.typing as npt

from processing.kernels import _warp

Image = npt.NDArray[np.number[Any]]
Points = npt.NDArray[np.float64]
Matrix = tuple[tuple[float, float], tuple[float, float]]
Interpolation = Literal["linear", "cubic", "lanczos"]
IDENTITY: Final[Matrix] = ((1.0, 0.0), (0.0, 1.0))
WEIGHT_STEPS: Final = _warp.WEIGHT_STEPS
"""Steps of a weight a px."""
_METHODS: Final = {"linear": cv2.INTER_LINEAR, "cubic": cv2.INTER_CUBIC, "lanczos": cv2.INTER_LANCZOS4}
_SUPPORT_PX: Final = {"linear": 1, "cubic": 2, "lanczos": 4}
_NODES: Final = 128
_FINEST_PX: Final = 4
_ITERATIONS: Final = 50
_UNDONE_PX: Final = 1e-3
_STRIP_PX: Final = 1 << 20
_NO_SHIFT_PX: Final = 1 / 64
_CUBIC: Final = -0.75
"""The free parameter of OpenCV's cubic kernel (Keys, doi:10.1109/TASSP.1981.1163711)."""


class Field(Protocol):
    """A distortion that all tiles share."""

    def __hash__(self) -> int:
        """Return a hash: fields are told apart by it."""
        ...

    def displacement_px(self, points_px: npt.NDArray[np.float64], /) -> npt.NDArray[np.float64]:
        """Return D at points (..., 2) from the tile's centre, (..., 2) px."""
        ...


class Reference(Protocol):
    """A flat-field correction."""

    def apply(self, image: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return a frame corrected, of the same size and type."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class TileTransform:
    """Where a tile's points lie in the mosaic: ``position_px + matrix @ (p + field(p))``.

    Attributes
    ----------
    position_px
        Mosaic coordinates (x, y) of the tile's centre, px.
    matrix
        2 x 2, close to the identity.
    field
        Distortion that all tiles share; None: none. Tiles should share the object, as what is worked out from
        it is kept for it.
    """

    position_px: tuple[float, float]
    matrix: Matrix = IDENTITY
    field: Field | None = None

    def __call__(self, points_px: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Return mosaic coordinates (..., 2) of points (..., 2) of the tile, counted from its centre, px."""
        points = np.asarray(points_px, np.float64)
        if self.field is not None:
            points = points + self.field.displacement_px(points)
        return np.asarray(points @ np.asarray(self.matrix).T + np.asarray(self.position_px))


@dataclass(frozen=True, slots=True)
class Area:
    """Pixels of the mosaic: columns ``x0`` to ``x1 - 1`` and rows ``y0`` to ``y1 - 1``."""

    x0: int
    y0: int
    x1: int
    y1: int

    def __and__(self, other: Area) -> Area:
        """Return what both have; it is false if that is nothing."""
        return Area(
            max(self.x0, other.x0), max(self.y0, other.y0), min(self.x1, other.x1), min(self.y1, other.y1)
        )

    def __or__(self, other: Area) -> Area:
        """Return the smallest area that has both."""
        return Area(
            min(self.x0, other.x0), min(self.y0, other.y0), max(self.x1, other.x1), max(self.y1, other.y1)
        )

    def __bool__(self) -> bool:
        """Return whether there are pixels in it."""
        return self.x1 > self.x0 and self.y1 > self.y0


@dataclass(frozen=True, slots=True, eq=False)
class Patch:
    """A tile as it is drawn.

    Attributes
    ----------
    pixels
        (y, x) of the tile's dtype; without meaning where ``weight`` is 0.
    weight
        (y, x) uint16: distance to the tile's edge in steps of 1/8 px, 0 where there is no tile.
    origin_px
        Mosaic coordinates (x, y) of pixel (0, 0), whole numbers.
    """

    pixels: Image
    weight: npt.NDArray[np.uint16]
    origin_px: tuple[int, int]

    @property
    def area(self) -> Area:
        """The pixels of the mosaic that it covers."""
        (x, y), (rows, columns) = self.origin_px, self.weight.shape
        return Area(x, y, x + columns, y + rows)


def footprint(transform: TileTransform, shape: tuple[int, int]) -> Area:
    """Return the pixels whose centres lie in the smallest box around a tile of ``shape`` (height, width)."""
    rows, columns = shape
    u, v = np.linspace(-columns / 2, columns / 2, 65), np.linspace(-rows / 2, rows / 2, 65)
    edges = [(u, np.full(65, side * rows / 2)) for side in (-1, 1)]
    edges += [(np.full(65, side * columns / 2), v) for side in (-1, 1)]
    outline = transform(np.concatenate([np.stack(edge, -1) for edge in edges]))
    (left, top), (right, bottom) = outline.min(0), outline.max(0)
    return Area(math.ceil(left), math.ceil(top), math.floor(right) + 1, math.floor(bottom) + 1)


def render_tile(
    image: Image,
    transform: TileTransform,
    *,
    mask: npt.NDArray[np.bool_] | None = None,
    reference: Reference | None = None,
    interpolation: Interpolation = "cubic",
) -> Patch:
    """Return a tile as it is drawn.

    Parameters
    ----------
    image
        (y, x) uint8, uint16 or float32. NaN is no data.
    transform
        Where it lies.
    mask
        (y, x) bool, true where the image is to be used; None: everywhere.
    reference
        Flat-field correction, done first.
    interpolation
        "cubic", or "linear" (a third of the time, smoother), or "lanczos" (four times, sharper).

    Raises
    ------
    ValueError
        The image is of another type or shape, the mask of another size, a number of the transform is not
        finite, or its matrix or field folds the tile.
    """
    _check(image, mask, transform)
    if reference is not None:
        image = reference.apply(image)
    if image.dtype == np.float32 and not (finite := np.isfinite(image)).all():
        mask = finite if mask is None else mask & finite
        image = np.where(finite, image, np.float32(0))
    if transform.field is None and transform.matrix == IDENTITY and interpolation == "cubic":
        patch = _shifted(image, transform)
    else:
        patch = _warped(image, transform, interpolation)
    if mask is not None and not mask.all():
        near = 2 * _SUPPORT_PX[interpolation] - 1
        usable = cv2.erode(mask.astype(np.uint8), np.ones((near, near), np.uint8), borderValue=1)
        drawn = _warped(255 * usable, transform, "linear")
        patch.weight[drawn.pixels < 255] = 0
    return patch


def tile_weight(transform: TileTransform, shape: tuple[int, int]) -> Patch:
    """Return the weight of a tile of ``shape`` (height, width) without a frame: ``pixels`` is empty."""
    area = footprint(transform, shape)
    weight = np.empty((area.y1 - area.y0, area.x1 - area.x0), np.uint16)
    if transform.field is None and transform.matrix == IDENTITY:
        _warp.straight_weight(*_edges(area, transform, shape), weight)
    else:
        for _ in _strips(area, transform, shape, weight):
            pass
    return Patch(np.empty((0, 0), np.uint8), weight, (area.x0, area.y0))


def _check(image: Image, mask: npt.NDArray[np.bool_] | None, transform: TileTransform) -> None:
    if image.ndim != 2 or image.dtype not in (np.uint8, np.uint16, np.float32):
        raise ValueError(
            f"image is {image.dtype} of shape {image.shape}, not (y, x) uint8, uint16 or float32"
        )
    if mask is not None and mask.shape != image.shape:
        raise ValueError(f"mask has shape {mask.shape}, the image {image.shape}")
    if not np.isfinite([*transform.position_px, *transform.matrix[0], *transform.matrix[1]]).all():
        raise ValueError(f"position {transform.position_px} or matrix {transform.matrix} is not finite")
    if np.linalg.det(transform.matrix) <= 0:
        raise ValueError(
            f"matrix {transform.matrix} folds or mirrors the tile: its determinant must be above 0"
        )


def _edges(
    area: Area, transform: TileTransform, shape: tuple[int, int]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return the distance to the nearer edge of every row and of every column of an area, px."""
    (x, y), (rows, columns) = transform.position_px, shape
    return rows / 2 - np.abs(np.arange(area.y0, area.y1) - y), columns / 2 - np.abs(
        np.arange(area.x0, area.x1) - x
    )


def _shifted(image: Image, transform: TileTransform) -> Patch:
    """Return a tile that is moved only: copied, or filtered along rows and columns."""
    rows, columns = image.shape
    area = footprint(transform, (rows, columns))
    weight = np.empty((area.y1 - area.y0, area.x1 - area.x0), np.uint16)
    _warp.straight_weight(*_edges(area, transform, (rows, columns)), weight)
    corner = transform.position_px[0] - (columns - 1) / 2, transform.position_px[1] - (rows - 1) / 2
    # pixel 0 of the patch lies at these columns and rows of the image
    starts = area.x0 - corner[0], area.y0 - corner[1]
    fractions = [start - round(start) for start in starts]
    pixels = image
    if any(abs(fraction) > _NO_SHIFT_PX for fraction in fractions):
        across, down = (_cubic_kernel(fraction) for fraction in fractions)
        pixels = cv2.sepFilter2D(image, -1, across, down, borderType=cv2.BORDER_REPLICATE)
    left, top = (max(0, -round(start)) for start in starts)
    height, width = weight.shape
    first_x, first_y = (max(0, round(start)) for start in starts)
    pixels = pixels[first_y : first_y + height - top, first_x : first_x + width - left]
    missing = height - top - pixels.shape[0], width - left - pixels.shape[1]
    if left or top or any(missing):
        pixels = cv2.copyMakeBorder(pixels, top, missing[0], left, missing[1], cv2.BORDER_REPLICATE)
    return Patch(pixels, weight, (area.x0, area.y0))


def _cubic_kernel(fraction: float) -> npt.NDArray[np.float64]:
    """Return weights of the five pixels around one, to read ``fraction`` (-0.5 to 0.5) px after it."""
    a, distance = _CUBIC, np.abs(np.arange(-2, 3) - fraction)
    near = ((a + 2) * distance - (a + 3)) * distance**2 + 1
    far = ((a * distance - 5 * a) * distance + 8 * a) * distance - 4 * a
    return np.where(distance <= 1, near, np.where(distance < 2, far, 0.0))


def _warped(image: Image, transform: TileTransform, interpolation: Interpolation) -> Patch:
    rows, columns = image.shape
    area = footprint(transform, (rows, columns))
    weight = np.empty((area.y1 - area.y0, area.x1 - area.x0), np.uint16)
    pixels = np.empty(weight.shape, image.dtype)
    for strip, map_x, map_y in _strips(area, transform, (rows, columns), weight):
        cv2.remap(
            image, map_x, map_y, _METHODS[interpolation], dst=pixels[strip], borderMode=cv2.BORDER_REPLICATE
        )
    return Patch(pixels, weight, (area.x0, area.y0))


def _strips(
    area: Area, transform: TileTransform, shape: tuple[int, int], weight: npt.NDArray[np.uint16]
) -> Iterator[tuple[slice, npt.NDArray[np.float32], npt.NDArray[np.float32]]]:
    """Yield ``(rows, map_x, map_y)`` of strips of an area; each has its part of ``weight`` filled in."""
    rows, columns = shape
    height, width = weight.shape
    step = _step_px(rows, columns)
    x = area.x0 + step * np.arange(math.ceil(width / step) + 1)
    y = area.y0 + step * np.arange(math.ceil(height / step) + 1)
    nodes = np.stack(np.meshgrid(x, y), -1) - np.asarray(transform.position_px)
    points = nodes @ np.linalg.inv(np.asarray(transform.matrix)).T
    if transform.field is not None:
        points = _undo(transform.field, rows, columns)(points)
    points = np.ascontiguousarray(points + np.array([(columns - 1) / 2, (rows - 1) / 2]), np.float32)
    strip = step * max(1, _STRIP_PX // (step * width))
    maps = np.empty((2, min(strip, height), width), np.float32)
    for top in range(0, height, strip):
        count = min(strip, height - top)
        map_x, map_y = maps[0, :count], maps[1, :count]
        _warp.fill_maps(points, top // step, step, columns, rows, map_x, map_y, weight[top : top + count])
        yield slice(top, top + count), map_x, map_y


def _step_px(rows: int, columns: int) -> int:
    return max(_FINEST_PX, math.ceil(max(rows, columns) / _NODES))


@dataclass(frozen=True, slots=True, eq=False)
class _Undo:
    """What leads from q = p + D(p) back to p: E on a grid of q, and a step of the fixed point from there."""

    field: Field
    grid: npt.NDArray[np.float32]
    first: Points
    step: int
    most: Points

    def __call__(self, q: Points) -> Points:
        at = ((q - self.first) / self.step).astype(np.float32)
        back = cv2.remap(self.grid, at[..., 0], at[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        return q - _bounded(self.field, q + back, self.most)


@lru_cache(maxsize=8)
def _undo(field: Field, rows: int, columns: int) -> _Undo:
    """Return the way back of a field; kept by the identity of the field.

    Raises
    ------
    ValueError
        There is none: the field folds the tile.
    """
    half, step = np.array([columns / 2, rows / 2]), _step_px(rows, columns)
    # a little outside it goes on, as nodes just outside matter inside
    most = half + 2 * step
    coarse = np.stack(np.meshgrid(*(np.linspace(-size, size, 33) for size in half)), -1)
    reach = float(np.abs(field.displacement_px(coarse)).max())
    first = -(most + reach)
    across, down = (int(count) for count in np.ceil(-2 * first / step) + 1)
    nodes = first + step * np.stack(np.meshgrid(np.arange(across), np.arange(down)), -1)
    found = np.zeros_like(nodes)
    moved = math.inf
    for _ in range(_ITERATIONS):
        better = -_bounded(field, nodes + found, most)
        moved = float(np.abs(better - found).max())
        found = better
        if moved < _UNDONE_PX:
            return _Undo(field, np.ascontiguousarray(found, np.float32), first, step, most)
    raise ValueError(
        f"the field cannot be undone: after {_ITERATIONS} steps it still moves by {moved:.3g} px; it reaches "
        f"{reach:.3g} px and folds a tile of {rows} x {columns} px"
    )


def _bounded(field: Field, points: Points, most: Points) -> Points:
    """Return D, outside of a box that of the nearest point in it: polynomials run away there."""
    return field.displacement_px(np.clip(points, -most, most))
