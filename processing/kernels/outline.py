"""Outlines of sections in a picture of low magnification: what is section, film, or the opaque carrier.

A section on a film in an aperture gives three levels: the carrier around the aperture lets nothing through,
the film nearly everything, the section something between, with the texture of tissue. The opaque part is
found by its level against the brightest, and because it goes on beyond the picture; film and section by
Otsu's threshold (doi:10.1109/TSMC.1979.4310076) on the smoothed picture of what is left, moved towards the
film as far as tissue varies more than film does. What such a threshold adds to a blurred edge is taken off
again.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import IntEnum
from statistics import NormalDist
from typing import Final, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]
OPAQUE_FRACTION: Final = 0.2
"""Share of the film's level under which something is opaque."""
MIN_CONTRAST: Final = 0.05
"""Smallest difference of section and film, as a share of the film's level, that is believed."""
MIN_SEPARABILITY: Final = 0.7
"""Smallest share of the variance that lies between the two classes."""
MIN_WEIGHT: Final = 0.15
"""Closest the threshold comes to the film, as a share of the contrast."""
_BINS: Final = 256


class Label(IntEnum):
    """What a pixel shows."""

    NOTHING = 0
    OPAQUE = 1
    FILM = 2
    SECTION = 3


@dataclass(frozen=True, slots=True)
class Outline:
    """The outline of a section.

    Attributes
    ----------
    polygon_px
        (n, 2) float64: corners x (column), y (row) in px, pixel centres at whole numbers; not closed.
    centroid_px
        Centre of its area, x, y in px.
    area_px
        Area in px^2.
    confidence
        0 to 1: contrast against what lies around it, times how compact it is, times the share of its
        outline that is not cut by the picture's edge or the carrier. Higher is better.
    """

    polygon_px: npt.NDArray[np.float64]
    centroid_px: tuple[float, float]
    area_px: float
    confidence: float


def segment(
    image: npt.NDArray[np.generic], *, covered: Mask | None = None, smooth_px: float = 2.0
) -> npt.NDArray[np.uint8]:
    """Return what each pixel shows.

    Parameters
    ----------
    image
        (y, x), intensity in any unit with 0 for no electrons.
    covered
        (y, x) bool, where there is picture; None: everywhere.
    smooth_px
        Detail that is smoothed before anything is decided, rms px.

    Returns
    -------
    numpy.ndarray
        (y, x) uint8 of `Label`; no pixel is SECTION where film and section cannot be told apart.

    Raises
    ------
    ValueError
        The image is not two-dimensional, or ``smooth_px`` is negative.
    """
    if image.ndim != 2 or smooth_px < 0:
        raise ValueError(f"image has {image.ndim} dimensions, not 2; or smooth_px = {smooth_px:g} is below 0")
    inside = np.ones(image.shape, np.bool_) if covered is None else covered
    labels = np.full(image.shape, Label.NOTHING, np.uint8)
    if not inside.any():
        return labels
    smooth = _smooth(image, inside, smooth_px)
    level = float(np.percentile(smooth[inside], 98))
    opaque = _from_the_edge(inside & (smooth < OPAQUE_FRACTION * level), inside)
    labels[inside] = Label.FILM
    labels[opaque] = Label.OPAQUE
    # the carrier's edge is smeared over what is transparent: its flank is neither film nor section
    width = 2 * math.ceil(2 * smooth_px) + 1
    flank = cv2.dilate(opaque.astype(np.uint8), np.ones((width, width), np.uint8)).astype(np.bool_)
    open_area = inside & ~flank
    if open_area.sum() < 16:
        return labels
    levels = _levels(smooth[open_area])
    if levels is not None:
        threshold = levels.film - levels.weight * (levels.film - levels.section)
        grown_px = -smooth_px * NormalDist().inv_cdf(levels.weight)
        labels[_clean(open_area & (smooth < threshold), smooth_px, grown_px) & ~opaque] = Label.SECTION
    return labels


def find_outlines(
    image: npt.NDArray[np.generic],
    *,
    covered: Mask | None = None,
    smooth_px: float = 2.0,
    min_area_px: float = 100.0,
    max_area_px: float = math.inf,
    fill: float = 0.5,
) -> list[Outline]:
    """Return the outlines of the sections in a picture, the most confident first.

    Parameters
    ----------
    image, covered, smooth_px
        As for `segment`.
    min_area_px, max_area_px
        Smaller objects are dirt, larger ones are not sections, px^2.
    fill
        Bites out of a section (resin without tissue is as bright as film) that are narrower than this share
        of its size, the square root of its area, belong to it.

    Raises
    ------
    ValueError
        As for `segment`.
    """
    labels = segment(image, covered=covered, smooth_px=smooth_px)
    section = labels == Label.SECTION
    count, parts, stats, _ = cv2.connectedComponentsWithStats(section.astype(np.uint8), connectivity=4)
    smooth = _smooth(image, labels != Label.NOTHING, smooth_px)
    found = []
    for part in range(1, count):
        seen = float(stats[part, cv2.CC_STAT_AREA])
        if seen < min_area_px:
            continue
        whole = _closed(parts == part, fill * math.sqrt(seen) / 2) & (labels != Label.OPAQUE)
        area = float(whole.sum())
        polygon = _trace(whole, smooth_px)
        if area <= max_area_px and len(polygon) >= 3:
            y, x = (float(axis.mean()) for axis in np.nonzero(whole))
            confidence = _confidence(whole, parts == part, section, labels, smooth, polygon, smooth_px)
            found.append(Outline(polygon, (x, y), area, confidence))
    return sorted(found, key=lambda outline: -outline.confidence)


def _from_the_edge(mask: Mask, inside: Mask) -> Mask:
    """Return the parts of a mask that touch the edge of what is covered: dark cells in a section do not."""
    _, parts = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
    padded = np.pad(inside, 1).astype(np.uint8)
    edge = inside & ~cv2.erode(padded, np.ones((3, 3), np.uint8))[1:-1, 1:-1].astype(np.bool_)
    return np.asarray(mask & np.isin(parts, np.unique(parts[edge & mask])), np.bool_)


def _smooth(image: npt.NDArray[np.generic], inside: Mask, sigma_px: float) -> Floats:
    """Return the smoothed image; what is not covered does not darken its surroundings."""
    values = np.where(inside, image, 0).astype(np.float32)
    if sigma_px == 0:
        return values
    weight = cv2.GaussianBlur(inside.astype(np.float32), (0, 0), sigma_px)
    total = cv2.GaussianBlur(values, (0, 0), sigma_px)
    return np.asarray(np.divide(total, weight, out=np.zeros_like(total), where=weight > 1e-3), np.float32)


class _Levels(NamedTuple):
    """Means of section and film, and where between them to cut: 0 at the film, 0.5 midway."""

    section: float
    film: float
    weight: float


def _levels(values: Floats) -> _Levels | None:
    """Return the levels of two classes, None where there is one class only."""
    low, high = (float(level) for level in np.percentile(values, (0.5, 99.5)))
    if high <= low:
        return None
    counts, edges = np.histogram(values, _BINS, (low, high))
    share = counts / max(1, counts.sum())
    centres = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(share)[:-1]
    first = np.cumsum(share * centres)[:-1]
    mean = float((share * centres).sum())
    between = np.zeros_like(below)
    valid = (below > 0) & (below < 1)
    between[valid] = (mean * below[valid] - first[valid]) ** 2 / (below[valid] * (1 - below[valid]))
    best = int(np.argmax(between))
    section, film = float(first[best] / below[best]), float((mean - first[best]) / (1 - below[best]))
    variance = float((share * (centres - mean) ** 2).sum())
    separable = between[best] / variance if variance > 0 else 0.0
    # one normal class cut in two has a separability of 2/pi
    if film - section < MIN_CONTRAST * film or separable < MIN_SEPARABILITY:
        return None
    spread_film = float(np.std(values[values > edges[best + 1]]))
    spread_section = float(np.std(values[values <= edges[best + 1]]))
    weight = spread_film / (spread_film + spread_section) if spread_section > 0 else 0.5
    return _Levels(section, film, min(0.5, max(MIN_WEIGHT, weight)))


def _clean(mask: Mask, smooth_px: float, grown_px: float) -> Mask:
    """Return the mask without specks and whiskers, its holes filled, its edge ``grown_px`` further in."""
    size = 2 * math.ceil(smooth_px) + 1
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size))
    cleaned = cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_CLOSE, kernel)
    cleaned = cv2.morphologyEx(cleaned, cv2.MORPH_OPEN, kernel)
    contours, _ = cv2.findContours(cleaned, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    filled = np.zeros_like(cleaned)
    cv2.drawContours(filled, contours, -1, 1, cv2.FILLED)
    if grown_px > 0:
        bordered = cv2.copyMakeBorder(filled, 1, 1, 1, 1, cv2.BORDER_REPLICATE)
        filled = (cv2.distanceTransform(bordered, cv2.DIST_L2, 5) > grown_px)[1:-1, 1:-1].astype(np.uint8)
    return np.asarray(filled, np.bool_)


def _closed(mask: Mask, radius_px: float) -> Mask:
    """Return the mask with everything in it that a disc cannot enter from outside."""
    reach = math.ceil(radius_px) + 2
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    box = np.pad(mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1], reach)
    grown = cv2.distanceTransform((~box).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE) <= radius_px
    closed = cv2.distanceTransform(grown.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE) > radius_px
    whole = mask.copy()
    whole[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] |= closed[reach:-reach, reach:-reach]
    return whole


def _trace(mask: Mask, smooth_px: float) -> npt.NDArray[np.float64]:
    """Return the outline of a mask; it is traced at twice the size, as contours run through pixel centres."""
    double = cv2.resize(mask.astype(np.uint8), None, fx=2, fy=2, interpolation=cv2.INTER_NEAREST)
    contours, _ = cv2.findContours(double, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    contour = max(contours, key=cv2.contourArea)
    simple = cv2.approxPolyDP(contour, max(1.0, smooth_px), True)[:, 0, :]
    return np.asarray((simple - 0.5) / 2, np.float64)


def _confidence(
    part: Mask,
    seen: Mask,
    section: Mask,
    labels: npt.NDArray[np.uint8],
    smooth: Floats,
    polygon: npt.NDArray[np.float64],
    smooth_px: float,
) -> float:
    """Return how sure an outline is, 0 to 1; see `Outline`."""
    reach = 2 * math.ceil(3 * smooth_px) + 3
    grown = cv2.dilate(part.astype(np.uint8), np.ones((reach, reach), np.uint8)).astype(np.bool_)
    around = grown & ~section & (labels == Label.FILM)
    if not around.any():
        return 0.0
    film, tissue = float(np.median(smooth[around])), float(np.median(smooth[seen]))
    contrast = max(0.0, film - tissue) / film if film > 0 else 0.0
    hull = cv2.contourArea(cv2.convexHull(polygon.astype(np.float32)))
    area = cv2.contourArea(polygon.astype(np.float32))
    compact = min(1.0, area / hull) if hull > 0 else 0.0
    ring = grown & ~part
    free = float((ring & ~section & (labels == Label.FILM)).sum()) / max(1.0, _full_ring(part, reach))
    return min(1.0, contrast / (2 * MIN_CONTRAST)) * compact * min(1.0, free)


def _full_ring(part: Mask, reach: int) -> float:
    """Return the area that the ring around a mask would have without the picture's edge, px^2."""
    padded = np.pad(part, reach).astype(np.uint8)
    return float(cv2.dilate(padded, np.ones((reach, reach), np.uint8)).sum() - padded.sum())
