"""Sections found in pictures of the simulated microscope, against the outlines that it was given."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from bluesky.run_engine import RunEngine
from shapely import Polygon

from plans.find_rois import find_rois, sections_in
from plans.realign import as_picture
from plans.specs.samples import RoiSearch
from plans.specs.view import View
from processing.survey import SurveyImage
from sim.camera import SimulatedCamera
from sim.config import SimulationConfig
from sim.placement import Placement
from sim.world import World

SEARCH = RoiSearch(min_area_um2=60, smooth_um=0.6)
MAGNIFICATION, PIXEL_NM, ROTATION_DEG = 200.0, 100.0, 1.5


def patch(x_um: float, y_um: float, wide_um: float, high_um: float) -> list[list[float]]:
    """Return a trapezoid, as a diamond knife cuts it, um."""
    return [
        [x_um - wide_um / 2, y_um - high_um / 2],
        [x_um + wide_um / 2, y_um - high_um / 2],
        [x_um + 0.35 * wide_um, y_um + high_um / 2],
        [x_um - 0.35 * wide_um, y_um + high_um / 2],
    ]


OUTLINES = [patch(-11, -8, 14, 10), patch(9, -10, 12, 12), patch(-2, 11, 18, 11)]


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[SurveyImage, list[Polygon]]]:
    """Return a picture of three sections in an aperture, and where they really are on the stage."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        path = tmp_path_factory.mktemp("world") / "world"
        yield _seen(path, [{"outline_um": outline} for outline in OUTLINES])


def _seen(path: Path, sections: list[dict[str, Any]]) -> tuple[SurveyImage, list[Polygon]]:
    config = SimulationConfig.model_validate(
        {
            "timing": "fast",
            "camera": {"width_px": 512, "height_px": 512},
            "column": {"magnification": MAGNIFICATION},
            "specimen": {"texture_px": 2048, "aperture": {"radius_um": 23.0}},
            "samples": [
                {
                    "slot": 1,
                    "offset_um": [1.0, -0.5],
                    "rotation_deg": 8.0,
                    "specimen": {"sections": sections},
                }
            ],
            "loaded_slot": 1,
        }
    )
    with World.create(path, config) as world:
        # the beam of the configuration is that of magnification 5000
        world.column.write(replace(world.lenses(), illuminated_area_um=500.0, spot_size_index=2).pack())
        placement: Placement = world.placement()
        camera = SimulatedCamera(path)
        camera.open()
        camera.expose()
        frame = camera.read(5.0).data
        camera.close()
    view = View.from_nominal(512, 512, PIXEL_NM, ROTATION_DEG)
    outlines = [[placement.to_stage(x, y) for x, y in one["outline_um"]] for one in sections]
    picture = as_picture(frame, view.stage_per_px_um, (0.0, 0.0), MAGNIFICATION)
    return picture, [Polygon(outline) for outline in outlines]


def test_outlines_and_centroids(seen: tuple[SurveyImage, list[Polygon]]) -> None:
    picture, truth = seen
    found = sections_in(picture, SEARCH)
    assert [one.name for one in found] == ["section-1", "section-2", "section-3"]
    for true in truth:
        best = max(found, key=lambda one: Polygon(one.polygon_um).intersection(true).area)
        outline = Polygon(best.polygon_um)
        assert outline.intersection(true).area / outline.union(true).area > 0.9
        assert math.dist(best.centre_um, true.centroid.coords[0]) < 0.5
        assert best.area_um2 == pytest.approx(true.area, rel=0.08)
        assert best.confidence > 0.8


def test_the_carriers_edge_is_no_section(seen: tuple[SurveyImage, list[Polygon]]) -> None:
    picture, truth = seen
    for one in sections_in(picture, SEARCH.model_copy(update={"min_area_um2": 3.0})):
        assert any(Polygon(one.polygon_um).intersects(true) for true in truth)


def test_only_the_most_confident_are_taken(seen: tuple[SurveyImage, list[Polygon]]) -> None:
    picture, _ = seen
    assert len(sections_in(picture, SEARCH.model_copy(update={"max_rois": 2}))) == 2
    assert sections_in(picture, SEARCH.model_copy(update={"max_area_um2": 61.0})) == ()


def test_bare_film_has_none(tmp_path: Path) -> None:
    far = {"outline_um": patch(400, 400, 10, 10)}
    picture, _ = _seen(tmp_path / "world", [far])
    assert sections_in(picture, SEARCH) == ()


def test_they_are_recorded_in_a_run_that_names_its_input(
    engine: RunEngine, seen: tuple[SurveyImage, list[Polygon]]
) -> None:
    picture, _ = seen
    documents: list[tuple[str, Any]] = []
    results: list[Any] = []

    def plan() -> Any:
        results.append((yield from find_rois(replace(picture, run_uids=("abc",)), spec=SEARCH)))

    engine(plan(), lambda name, doc: documents.append((name, doc)))
    start = next(doc for name, doc in documents if name == "start")
    assert start["inputs"] == ["abc"]
    assert start["parameters"]["min_area_um2"] == 60
    events = [doc["data"] for name, doc in documents if name == "event"]
    assert [event["roi_name"] for event in events] == [one.name for one in results[0]]
    assert events[0]["roi_confidence"] == results[0][0].confidence
