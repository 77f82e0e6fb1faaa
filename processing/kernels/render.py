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
from typing import Any, Final, Literal, Protocol

import cv2
import numpy as np
import numpy.typing as npt

from processing.kernels import _warp
from processing.kernels._cubic import warp_cubic
from processing.kernels._undistort import Field as Field
from processing.kernels._undistort import step_px, undo

Image = npt.NDArray[np.number[Any]]
Floats = npt.NDArray[np.float32]
Matrix = tuple[tuple[float, float], tuple[float, float]]
Interpolation = Literal["linear", "cubic", "lanczos"]
IDENTITY: Final[Matrix] = ((1.0, 0.0), (0.0, 1.0))
WEIGHT_STEPS: Final = _warp.WEIGHT_STEPS
"""Steps of a weight a px."""
_METHODS: Final = {"linear": cv2.INTER_LINEAR, "cubic": cv2.INTER_CUBIC, "lanczos": cv2.INTER_LANCZOS4}
_SUPPORT_PX: Final = {"linear": 1, "cubic": 2, "lanczos": 4}
_STRIP_PX: Final = 1 << 17
"""Drawn at a time: so much stays in a core's cache."""
_NO_SHIFT_PX: Final = 1 / 64
_CUBIC_REACH: Final = 2
_CUBIC: Final = -0.75
"""The free parameter of OpenCV's cubic kernel (Keys, doi:10.1109/TASSP.1981.1163711)."""


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
    within: Area | None = None,
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
    within
        Draw only what lies there, and a few pixels more; None: all.

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
        patch = _shifted(image, transform, within)
    else:
        patch = _warped(image, transform, interpolation, within)
    if mask is not None and not mask.all():
        near = 2 * _SUPPORT_PX[interpolation] - 1
        usable = cv2.erode(mask.astype(np.uint8), np.ones((near, near), np.uint8), borderValue=1)
        drawn = _warped(255 * usable, transform, "linear", within)
        patch.weight[drawn.pixels < 255] = 0
    return patch


def render_strips(
    image: Image,
    transform: TileTransform,
    *,
    reference: Reference | None = None,
    interpolation: Interpolation = "cubic",
    within: Area | None = None,
) -> Iterator[Patch]:
    """Yield a tile as `render_tile` draws it, but in strips from its top; each is lost with the next.

    A strip stays in the cache until it has been put into the mosaic: half the time of a whole tile. Raises as
    `render_tile` does.
    """
    _check(image, None, transform)
    if image.dtype == np.float32 and not np.isfinite(image).all():
        yield render_tile(image, transform, reference=reference, interpolation=interpolation, within=within)
        return
    if reference is not None:
        image = reference.apply(image)
    rows, columns = image.shape
    step = step_px(rows, columns)
    area = _drawn(footprint(transform, (rows, columns)), within, step)
    if transform.field is None and transform.matrix == IDENTITY and interpolation == "cubic":
        strip = step * max(1, _STRIP_PX // (step * max(1, area.x1 - area.x0)))
        for top in range(area.y0, area.y1, strip):
            yield _shifted(image, transform, area & Area(area.x0, top, area.x1, top + strip))
        return
    width = area.x1 - area.x0
    pixels, weight = np.empty((0, width), image.dtype), np.empty((0, width), np.uint16)
    for one in _strips(area, transform, (rows, columns)):
        if not len(pixels):
            pixels, weight = (np.empty((one.count, width), kind) for kind in (image.dtype, np.uint16))
        one.draw(image, interpolation, pixels[: one.count], weight[: one.count])
        yield Patch(pixels[: one.count], weight[: one.count], (area.x0, area.y0 + one.top))


def tile_weight(transform: TileTransform, shape: tuple[int, int]) -> Patch:
    """Return the weight of a tile of ``shape`` (height, width) without a frame: ``pixels`` is empty."""
    area = footprint(transform, shape)
    weight = np.empty((area.y1 - area.y0, area.x1 - area.x0), np.uint16)
    if transform.field is None and transform.matrix == IDENTITY:
        _warp.straight_weight(*_edges(area, transform, shape), weight)
    else:
        for strip in _strips(area, transform, shape):
            strip.fill(shape, weight[strip.top : strip.top + strip.count])
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


def _drawn(whole: Area, within: Area | None, step: int) -> Area:
    """Return the part of a tile's area that is drawn: it begins at a node of the whole."""
    if within is None:
        return whole
    if not whole & within:
        return Area(whole.x0, whole.y0, whole.x0, whole.y0)
    x0, y0 = (
        first + max(0, start - first) // step * step
        for first, start in ((whole.x0, within.x0), (whole.y0, within.y0))
    )
    return Area(x0, y0, min(whole.x1, within.x1), min(whole.y1, within.y1))


def _shifted(image: Image, transform: TileTransform, within: Area | None) -> Patch:
    """Return a tile that is moved only: copied, or filtered along rows and columns."""
    rows, columns = image.shape
    whole = footprint(transform, (rows, columns))
    area = _drawn(whole, within, step_px(rows, columns))
    weight = np.empty((area.y1 - area.y0, area.x1 - area.x0), np.uint16)
    if not area:
        return Patch(np.empty(weight.shape, image.dtype), weight, (area.x0, area.y0))
    _warp.straight_weight(*_edges(area, transform, (rows, columns)), weight)
    corner = transform.position_px[0] - (columns - 1) / 2, transform.position_px[1] - (rows - 1) / 2
    # pixel 0 of the whole lies at these columns and rows of the image
    starts = whole.x0 - corner[0], whole.y0 - corner[1]
    x0, y0 = area.x0 - whole.x0 + round(starts[0]), area.y0 - whole.y0 + round(starts[1])
    x1, y1 = x0 + weight.shape[1], y0 + weight.shape[0]
    first = max(0, y0 - _CUBIC_REACH)
    pixels = image[first : y1 + _CUBIC_REACH]
    fractions = [start - round(start) for start in starts]
    if any(abs(fraction) > _NO_SHIFT_PX for fraction in fractions):
        across, down = (_cubic_kernel(fraction) for fraction in fractions)
        pixels = cv2.sepFilter2D(pixels, -1, across, down, borderType=cv2.BORDER_REPLICATE)
    pixels = pixels[max(0, y0) - first : min(y1, rows) - first, max(0, x0) : min(x1, columns)]
    missing = max(0, -y0), max(0, y1 - rows), max(0, -x0), max(0, x1 - columns)
    if any(missing):
        pixels = cv2.copyMakeBorder(pixels, *missing, cv2.BORDER_REPLICATE)
    return Patch(pixels, weight, (area.x0, area.y0))


def _cubic_kernel(fraction: float) -> npt.NDArray[np.float64]:
    """Return weights of the five pixels around one, to read ``fraction`` (-0.5 to 0.5) px after it."""
    a, distance = _CUBIC, np.abs(np.arange(-2, 3) - fraction)
    near = ((a + 2) * distance - (a + 3)) * distance**2 + 1
    far = ((a * distance - 5 * a) * distance + 8 * a) * distance - 4 * a
    return np.where(distance <= 1, near, np.where(distance < 2, far, 0.0))


def _warped(
    image: Image, transform: TileTransform, interpolation: Interpolation, within: Area | None
) -> Patch:
    rows, columns = image.shape
    area = _drawn(footprint(transform, (rows, columns)), within, step_px(rows, columns))
    weight = np.empty((area.y1 - area.y0, area.x1 - area.x0), np.uint16)
    pixels = np.empty(weight.shape, image.dtype)
    for strip in _strips(area, transform, (rows, columns)):
        lines = slice(strip.top, strip.top + strip.count)
        strip.draw(image, interpolation, pixels[lines], weight[lines])
    return Patch(pixels, weight, (area.x0, area.y0))


@dataclass(frozen=True, slots=True, eq=False)
class _Strip:
    """Some rows of an area, ``top`` and on; ``points`` are where its nodes lie in the image."""

    top: int
    count: int
    points: Floats
    step: int
    maps: Floats

    def draw(
        self, image: Image, interpolation: Interpolation, pixels: Image, weight: npt.NDArray[np.uint16]
    ) -> None:
        """Fill in pixels and weight."""
        if interpolation == "cubic" and image.dtype != np.float32:
            warp_cubic(image, self.points, self.top // self.step, self.step, pixels, weight)
            return
        map_x, map_y = self.fill(image.shape, weight)
        cv2.remap(image, map_x, map_y, _METHODS[interpolation], dst=pixels, borderMode=cv2.BORDER_REPLICATE)

    def fill(self, shape: tuple[int, ...], weight: npt.NDArray[np.uint16]) -> tuple[Floats, Floats]:
        """Fill in the weight, and return from where pixels come: lost with the next strip."""
        map_x, map_y = self.maps[0, : self.count], self.maps[1, : self.count]
        rows, columns = shape
        first = self.top // self.step
        _warp.fill_maps(self.points, first, self.step, columns, rows, map_x, map_y, weight)
        return map_x, map_y


def _strips(area: Area, transform: TileTransform, shape: tuple[int, int]) -> Iterator[_Strip]:
    """Yield strips of an area, from the top."""
    rows, columns = shape
    height, width = area.y1 - area.y0, area.x1 - area.x0
    if not area:
        return
    step = step_px(rows, columns)
    x = area.x0 + step * np.arange(math.ceil(width / step) + 1)
    y = area.y0 + step * np.arange(math.ceil(height / step) + 1)
    nodes = np.stack(np.meshgrid(x, y), -1) - np.asarray(transform.position_px)
    points = nodes @ np.linalg.inv(np.asarray(transform.matrix)).T
    if transform.field is not None:
        points = undo(transform.field, rows, columns)(points)
    points = np.ascontiguousarray(points + np.array([(columns - 1) / 2, (rows - 1) / 2]), np.float32)
    strip = step * max(1, _STRIP_PX // (step * width))
    maps = np.empty((2, min(strip, height), width), np.float32)
    for top in range(0, height, strip):
        yield _Strip(top, min(strip, height - top), points, step, maps)
