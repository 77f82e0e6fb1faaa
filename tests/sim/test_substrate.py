"""Sections on film and holes in a frame, in frames at low and high magnification."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from pydantic import ValidationError

from sim.camera import SimulatedCamera
from sim.column import SimulatedColumn
from sim.sample import ApertureConfig, SectionConfig
from sim.specimen.substrate import Frame, hole_centres_um
from sim.stage import SimulatedStage
from sim.world import World

Make = Callable[..., World]
Image = npt.NDArray[np.float64]
SIDE_PX = 256
STILL = {"step_noise_um": 0.0, "backlash_um": 0.0, "cyclic_amplitude_um": 0.0, "skew_deg": 0.0}
PLAIN = {"image_rotation_deg": 0.0, "distortion": 0.0, "illuminated_area_um": 500.0}
SQUARE = [[-6.0, -4.0], [6.0, -4.0], [6.0, 4.0], [-6.0, 4.0]]


def frame(
    make_world: Make, magnification: float, specimen: dict[str, Any], x_um: float = 0.0, y_um: float = 0.0
) -> Image:
    """Return a frame over the mean of its brightest tenth: film is about 1."""
    column = {**PLAIN, "magnification": magnification, "dose_rate_e_nm2_s": 5.0 * (magnification / 500) ** 2}
    sensor: dict[str, float] = {"width_px": SIDE_PX, "height_px": SIDE_PX}
    sensor |= {"gain_counts": 20.0, "gain_spread": 0.0, "offset_counts": 0.0}
    world = make_world(f"w{magnification:g}", stage=STILL, column=column, camera=sensor, specimen=specimen)
    stage, camera = SimulatedStage(world.path), SimulatedCamera(world.path)
    camera.open()
    stage.start_move({"x_um": x_um, "y_um": y_um})
    camera.expose()
    seen = camera.read(10.0).data.astype(float)
    return np.asarray(seen / np.mean(seen[seen >= np.percentile(seen, 90)]))


def points_um(pixel_nm: float, x_um: float = 0.0, y_um: float = 0.0) -> tuple[Image, Image]:
    """Return the specimen points of a frame's pixels."""
    v, u = (np.indices((SIDE_PX, SIDE_PX)) - (SIDE_PX - 1) / 2) * pixel_nm * 1e-3
    return x_um + u, y_um + v


@pytest.mark.parametrize(("magnification", "pixel_nm"), [(200.0, 100.0), (400.0, 50.0)])
def test_a_survey_shows_sections_dark_on_film(
    make_world: Make, magnification: float, pixel_nm: float
) -> None:
    specimen = {"sections": [{"outline_um": SQUARE}], "resin_fraction": 0.0}
    seen = frame(make_world, magnification, specimen)
    x, y = points_um(pixel_nm)
    inside = (abs(x) < 6.0 - pixel_nm * 1e-3) & (abs(y) < 4.0 - pixel_nm * 1e-3)
    outside = (abs(x) > 6.0 + pixel_nm * 1e-3) | (abs(y) > 4.0 + pixel_nm * 1e-3)
    assert seen[inside].mean() < 0.8 * seen[outside].mean()
    # film has no structure but the noise of its electrons
    assert seen[outside].std() < 0.2 * (seen[outside].mean() - seen[inside].mean())


def test_the_edge_of_a_section_does_not_alias(make_world: Make) -> None:
    """The dark area is the section's to a tenth of a pixel along its outline, wherever the edges fall."""
    outline = [[-5.03, -4.07], [5.51, -3.2], [3.3, 4.49], [-4.2, 3.1]]
    specimen = {"sections": [{"outline_um": outline}], "kind": "tissue", "resin_fraction": 0.0}
    seen = frame(make_world, 400.0, specimen)
    film = np.median(seen[:40])
    tissue = np.median(seen[108:148, 108:148])
    area_um2 = float(np.sum((film - seen)[40:216, 10:246]) / (film - tissue)) * 0.05**2
    true_um2 = cv2.contourArea(np.array(outline, np.float32))
    assert area_um2 == pytest.approx(true_um2, rel=0.04)


def test_far_from_a_section_the_film_is_bare(make_world: Make) -> None:
    specimen = {"sections": [{"outline_um": SQUARE}]}
    on_film = frame(make_world, 5000.0, specimen, x_um=30.0)
    assert on_film.std() < 0.05
    on_tissue = frame(make_world, 5000.0, {**specimen, "resin_fraction": 0.0})
    assert on_tissue.std() > 0.1


@pytest.mark.parametrize(
    "aperture",
    [
        {"radius_um": 5.0, "centre_um": [1.3, -0.7], "roughness_um": 0.1},
        {
            "shape": "slot",
            "size_um": [12.0, 6.0],
            "radius_um": 1.5,
            "rotation_deg": 20.0,
            "roughness_um": 0.1,
        },
    ],
)
def test_a_hole_is_where_it_was_said_to_be(make_world: Make, aperture: dict[str, Any]) -> None:
    specimen = {"aperture": aperture, "sections": [{"outline_um": [[900, 900], [901, 900], [900, 901]]}]}
    seen = frame(make_world, 200.0, specimen)
    bright = np.clip(seen, 0, 1)
    x, y = points_um(100.0)
    centre = (float(np.sum(axis * bright) / bright.sum()) for axis in (x, y))
    assert tuple(centre) == pytest.approx(aperture.get("centre_um", (0.0, 0.0)), abs=0.1)
    config = ApertureConfig.model_validate(aperture)
    edge = Frame(config, seed=1)
    step = (slice(None, None, 4), slice(None, None, 4))
    depths = np.vectorize(edge.depth_um)(x[step], y[step])
    expected = np.clip(0.5 + depths / 0.1, 0, 1)
    assert np.abs(bright[step] - expected)[abs(depths) > 0.15].max() < 0.25
    assert np.abs(bright[step] - expected).mean() < 0.02


def test_the_edge_is_rough_by_what_it_says() -> None:
    config = ApertureConfig(radius_um=50.0, roughness_um=0.4)
    edge = Frame(config, seed=3)
    offsets = []
    for degree in range(360):
        angle = math.radians(degree)
        offsets.append(edge.depth_um(50.0 * math.cos(angle), 50.0 * math.sin(angle)))
    assert np.mean(offsets) == pytest.approx(0.0, abs=0.02)
    assert np.std(offsets) == pytest.approx(0.4, rel=0.2)
    centroid = np.mean(np.array(offsets) * np.exp(1j * np.radians(np.arange(360))))
    assert abs(centroid) < 0.02


def test_a_grid_has_its_holes_at_its_pitch() -> None:
    config = ApertureConfig(radius_um=20.0, pitch_um=(100.0, 80.0), rotation_deg=30.0, centre_um=(5.0, 0.0))
    edge = Frame(config, seed=1)
    centres = list(hole_centres_um(config, (-200.0, 200.0), (-200.0, 200.0)))
    assert (5.0, 0.0) in centres
    assert len(centres) == pytest.approx(400 * 400 / 8000, abs=4)
    for x_um, y_um in centres:
        assert edge.depth_um(x_um, y_um) == pytest.approx(20.0, abs=0.01)
    assert edge.depth_um(5.0 + 50.0 * math.cos(math.pi / 6), 50.0 * math.sin(math.pi / 6)) < -25.0


@pytest.mark.parametrize(
    ("model", "settings", "words"),
    [
        (ApertureConfig, {"shape": "slot"}, "size_um"),
        (ApertureConfig, {"shape": "slot", "size_um": [0, 5]}, "over 0"),
        (ApertureConfig, {"radius_um": 50, "pitch_um": [90, 200]}, "pitch_um"),
        (SectionConfig, {"outline_um": [[0, 0], [1, 1], [2, 2]]}, "area"),
        (SectionConfig, {"outline_um": [[0, 0], [1, 1]]}, "at least 3"),
    ],
)
def test_impossible_substrates_are_named(model: Any, settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        model.model_validate(settings)


def test_grain_agrees_between_overlapping_frames(make_world: Make) -> None:
    specimen = {"grain": 0.3, "film": 1.0, "sections": [{"outline_um": [[900, 900], [901, 900], [900, 901]]}]}
    column = {**PLAIN, "magnification": 20_000.0, "illuminated_area_um": 22.0, "dose_rate_e_nm2_s": 20_000.0}
    world = make_world(
        stage=STILL, column=column, camera={"width_px": SIDE_PX, "height_px": SIDE_PX}, specimen=specimen
    )
    stage, camera = SimulatedStage(world.path), SimulatedCamera(world.path)
    SimulatedColumn(world.path).set("defocus_um", 0.0)
    camera.open()
    frames = []
    for x_um in (2.0, 2.064):
        stage.start_move({"x_um": x_um})
        camera.expose()
        frames.append(camera.read(10.0).data.astype(float))
    first, second = frames[0][:, 64:], frames[1][:, :-64]
    assert np.corrcoef(first.ravel(), second.ravel())[0, 1] > 0.7
    assert abs(np.corrcoef(frames[0].ravel(), frames[1].ravel())[0, 1]) < 0.1
