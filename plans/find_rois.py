"""Finding the sections of a sample in its survey."""

from __future__ import annotations

import json
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

import bluesky.preprocessors as bpp
import numpy as np
from bluesky.utils import Msg
from shapely import Polygon

from plans.specs.samples import RoiSearch, SampleRoi
from plans.verdicts import EventReadable, save_event
from processing.kernels.outline import Outline, find_outlines
from processing.survey import SurveyImage


@dataclass(frozen=True, slots=True)
class FoundRoi:
    """A section found in a survey: its outline and centre in stage um, and how sure that is, 0 to 1."""

    name: str
    polygon_um: tuple[tuple[float, float], ...]
    centre_um: tuple[float, float]
    area_um2: float
    confidence: float

    def as_roi(self, **changes: Any) -> SampleRoi:
        """Return it as an entry of a sample list."""
        return SampleRoi(name=self.name, polygon_um=self.polygon_um, **changes)


def find_rois(
    overview: SurveyImage, *, spec: RoiSearch | None = None, md: dict[str, Any] | None = None
) -> Generator[Msg, Any, tuple[FoundRoi, ...]]:
    """Find sections in a survey by image analysis, and record them in a run that names its input.

    Parameters
    ----------
    overview
        The survey's picture.
    spec
        What counts as a section; None: the defaults of `RoiSearch`.
    md
        Metadata of the run.

    Returns
    -------
    tuple
        Sections, named ``section-1``, ``section-2``, ... from top to bottom, then left to right, in stage um.

    Raises
    ------
    ValueError
        The picture is not two-dimensional.

    Examples
    --------
    >>> rois = yield from find_rois(picture, spec=RoiSearch(min_area_um2=500))  # doctest: +SKIP
    """
    search = spec or RoiSearch()
    found = sections_in(overview, search)
    metadata = {
        "plan_name": "find_rois",
        "purpose": "survey",
        "inputs": list(overview.run_uids),
        "recipe": "processing.kernels.outline.find_outlines",
        "parameters": search.model_dump(mode="json"),
        **(md or {}),
    }

    def events() -> Generator[Msg, Any, None]:
        readable = EventReadable("rois", "processing.kernels.outline")
        for roi in found:
            yield from save_event(readable, _event(roi))

    yield from bpp.run_wrapper(events(), md=metadata)
    return found


def sections_in(overview: SurveyImage, search: RoiSearch) -> tuple[FoundRoi, ...]:
    """Return the sections in a picture; see `find_rois`."""
    pixel_um = overview.pixel_um
    outlines = find_outlines(
        overview.pixels,
        covered=overview.covered,
        smooth_px=max(0.7, search.smooth_um / pixel_um),
        min_area_px=search.min_area_um2 / pixel_um**2,
        max_area_px=(search.max_area_um2 or np.inf) / pixel_um**2,
        fill=search.fill,
    )
    sure = [one for one in outlines if one.confidence >= search.min_confidence][: search.max_rois]
    sure.sort(key=lambda one: (round(one.centroid_px[1] / overview.pixels.shape[0], 1), one.centroid_px[0]))
    return tuple(_on_stage(overview, outline, number) for number, outline in enumerate(sure, 1))


def _on_stage(overview: SurveyImage, outline: Outline, number: int) -> FoundRoi:
    corners = overview.to_stage(outline.polygon_px)
    shape = Polygon(corners)
    if not shape.is_valid:  # a whisker that crosses itself: keep the largest part
        parts = getattr(shape.buffer(0), "geoms", [shape.buffer(0)])
        shape = max(parts, key=lambda part: part.area)
        corners = np.asarray(shape.exterior.coords)[:-1]
    centre = overview.to_stage(outline.centroid_px)
    return FoundRoi(
        f"section-{number}",
        tuple((float(x), float(y)) for x, y in corners),
        (float(centre[0]), float(centre[1])),
        outline.area_px * overview.pixel_um**2,
        outline.confidence,
    )


def _event(roi: FoundRoi) -> dict[str, Any]:
    return {
        "roi_name": roi.name,
        "roi_polygon_um": json.dumps([[round(x, 4), round(y, 4)] for x, y in roi.polygon_um]),
        "roi_x_um": roi.centre_um[0],
        "roi_y_um": roi.centre_um[1],
        "roi_area_um2": roi.area_um2,
        "roi_confidence": roi.confidence,
    }
