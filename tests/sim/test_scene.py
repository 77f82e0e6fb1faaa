"""Frames: where they show the specimen, what the optics and the sensor do to them."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from devices.camera.driver import CameraSettings, Region
from sim.camera import SimulatedCamera
from sim.column import SimulatedColumn
from sim.stage import SimulatedStage
from sim.world import TrueExposure, World

SIDE_PX = 256
LARGE = {"width_px": SIDE_PX, "height_px": SIDE_PX}
Make = Callable[..., World]
Frame = npt.NDArray[np.uint16]


class Scope:
    """The drivers of a world."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.stage = SimulatedStage(world.path)
        self.column = SimulatedColumn(world.path)
        self.camera = SimulatedCamera(world.path)
        self.camera.open()

    def frame(self, x_um: float = 0.0, y_um: float = 0.0, settings: CameraSettings | None = None) -> Frame:
        self.stage.start_move({"x_um": x_um, "y_um": y_um})
        self.stage.wait_still(5.0)
        if settings is not None:
            self.camera.configure(settings)
        self.camera.expose()
        return self.camera.read(5.0).data


def whole_shift(first: Frame, second: Frame) -> tuple[int, int]:
    """Return what `shift_of` does, to a pixel, by correlation with FFTs."""
    window = np.hanning(first.shape[0])[:, None] * np.hanning(first.shape[1])[None, :]
    spectra = [np.fft.fft2((frame - frame.mean()) * window) for frame in (first, second)]
    cross = spectra[0] * np.conj(spectra[1])
    surface = np.fft.ifft2(cross / np.sqrt(np.abs(cross))).real
    at = np.unravel_index(int(np.argmax(surface)), surface.shape)
    dv, du = ((int(i) + size // 2) % size - size // 2 for i, size in zip(at, surface.shape, strict=True))
    return du, dv


def shift_of(first: Frame, second: Frame) -> tuple[float, float]:
    """Return (du, dv) such that ``second[v, u]`` shows ``first[v + dv, u + du]``, to a fraction of a pixel.

    The overlap is found by correlation; least squares on its gradients, smoothed, give the rest.
    """
    du, dv = whole_shift(first, second)
    rows, columns = first.shape[0] - abs(dv), first.shape[1] - abs(du)
    a, b = (
        cv2.GaussianBlur(frame.astype(np.float64), (0, 0), 2.0)
        for frame in (
            first[max(dv, 0) :, max(du, 0) :][:rows, :columns],
            second[max(-dv, 0) :, max(-du, 0) :][:rows, :columns],
        )
    )
    b *= a.mean() / b.mean()
    gradient_v, gradient_u = np.gradient(0.5 * (a + b))
    inner = (slice(8, -8), slice(8, -8))
    system = np.stack([gradient_u[inner].ravel(), gradient_v[inner].ravel()], axis=1)
    rest, *_ = np.linalg.lstsq(system, (b - a)[inner].ravel(), rcond=None)
    return du + float(rest[0]), dv + float(rest[1])


def expected_shift(exposures: list[TrueExposure], rotation_deg: float) -> tuple[float, float]:
    first, second = exposures
    turn = math.radians(rotation_deg)
    dx, dy = (
        (b - a) * 1e3 / first.pixel_size_nm for a, b in ((first.x_um, second.x_um), (first.y_um, second.y_um))
    )
    return math.cos(turn) * dx + math.sin(turn) * dy, math.cos(turn) * dy - math.sin(turn) * dx


def detail(frame: Frame) -> float:
    """Return the power at fine detail, relative to the mean squared."""
    values = frame.astype(float)
    return float(np.mean((values[2:] - 2 * values[1:-1] + values[:-2]) ** 2) / values.mean() ** 2)


def specimen_settings(kind: str, folder: Path) -> dict[str, Any]:
    if kind == "tissue":
        return {"kind": "tissue", "texture_px": 1024}
    rng = np.random.default_rng(5)
    coarse = Image.fromarray(rng.integers(0, 255, (150, 150), dtype=np.uint8))
    coarse.resize((600, 600), Image.Resampling.BICUBIC).save(folder / "micrograph.png")
    return {"kind": "image", "file": folder / "micrograph.png", "specimen_pixel_size_nm": 5.0}


@pytest.mark.parametrize("kind", ["tissue", "image"])
@pytest.mark.parametrize("rotation_deg", [0.0, 1.5, -40.0])
def test_neighbours_overlap_where_the_truth_says(
    make_world: Make, tmp_path: Path, kind: str, rotation_deg: float
) -> None:
    optics = {"image_rotation_deg": rotation_deg, "distortion": 0.0}
    specimen = specimen_settings(kind, tmp_path)
    scope = Scope(make_world(camera=LARGE, column=optics, specimen=specimen, stage={"step_noise_um": 0.01}))
    frames = [scope.frame(0.0, 0.0), scope.frame(0.30, -0.12)]
    expected = expected_shift(scope.world.truth(), rotation_deg)
    assert shift_of(*frames) == pytest.approx(expected, abs=0.05)


def test_without_rotation_columns_grow_with_x_and_rows_with_y(make_world: Make) -> None:
    stage = {"step_noise_um": 0.0, "backlash_um": 0.0, "cyclic_amplitude_um": 0.0, "skew_deg": 0.0}
    scope = Scope(
        make_world(camera=LARGE, stage=stage, column={"image_rotation_deg": 0.0, "distortion": 0.0})
    )
    first, second = scope.frame(0.0, 0.0), scope.frame(0.4, 0.2)
    assert shift_of(first, second) == pytest.approx((100.0, 50.0), abs=0.15)


def test_an_image_shift_moves_the_view_like_the_stage(make_world: Make) -> None:
    scope = Scope(make_world(camera=LARGE, column={"distortion": 0.0}))
    first = scope.frame()
    scope.column.set("image_shift_um", (0.2, 0.1))
    second = scope.frame()
    assert shift_of(first, second) == pytest.approx(expected_shift(scope.world.truth(), 1.5), abs=0.15)
    assert scope.world.truth()[1].x_um == pytest.approx(scope.world.truth()[0].x_um + 0.2)


def test_a_micrograph_lies_with_its_middle_at_the_origin(make_world: Make, tmp_path: Path) -> None:
    picture = np.full((400, 400), 250, np.uint8)
    picture[230:250, 300:320] = 5
    Image.fromarray(picture).save(tmp_path / "mark.png")
    specimen = {"kind": "image", "file": tmp_path / "mark.png", "specimen_pixel_size_nm": 4.0}
    stage = {"step_noise_um": 0.0, "backlash_um": 0.0, "cyclic_amplitude_um": 0.0, "skew_deg": 0.0}
    optics = {"image_rotation_deg": 0.0, "distortion": 0.0}
    scope = Scope(make_world(camera=LARGE, specimen=specimen, stage=stage, column=optics))
    dark = np.argwhere(scope.frame() < 0.4 * scope.frame().mean())
    assert dark.mean(axis=0) == pytest.approx([239.5 - 199.5 + 127.5, 309.5 - 199.5 + 127.5], abs=0.3)


def test_the_seed_makes_the_world(make_world: Make) -> None:
    frames = [Scope(make_world(str(i), seed=seed)).frame(3.0, 4.0) for i, seed in enumerate((1, 1, 2))]
    assert (frames[0] == frames[1]).all()
    assert (frames[0] != frames[2]).mean() > 0.9


def test_two_exposures_differ_by_noise_alone(make_world: Make) -> None:
    scope = Scope(make_world(camera=LARGE))
    first, second = scope.frame(2.0, 2.0).astype(float), scope.frame(2.0, 2.0).astype(float)
    assert (first != second).mean() > 0.9
    # electrons: counts over gain; the difference of two Poisson frames has twice the variance of one
    gain = 0.45 * 65535 / 2400
    electrons = (first + second) / 2 / gain
    assert np.var((first - second) / gain) == pytest.approx(2 * electrons.mean(), rel=0.1)


def test_tissue_has_contrast_and_resin_has_none(make_world: Make) -> None:
    tissue = Scope(make_world("tissue", camera=LARGE, specimen={"resin_fraction": 0.0})).frame()
    resin = Scope(make_world("resin", camera=LARGE, specimen={"resin_fraction": 0.9, "texture_px": 512}))
    frames = [resin.frame(10.0 * i, 0.0) for i in range(4)]
    blank = min(frames, key=lambda frame: float(frame.std() / frame.mean()))
    assert tissue.std() / tissue.mean() > 0.15
    assert blank.std() / blank.mean() < 0.05
    assert blank.mean() > tissue.mean()


def test_detail_falls_with_defocus(make_world: Make) -> None:
    scope = Scope(make_world(camera=LARGE, specimen={"texture_px": 1024}))
    details = []
    for defocus_um in (-0.5, -4.0, -10.0, -25.0):
        scope.column.set("defocus_um", defocus_um)
        details.append(detail(scope.frame()))
    assert details == sorted(details, reverse=True)
    assert details[2] < 0.5 * details[0]


def test_astigmatism_blurs_one_direction(make_world: Make) -> None:
    scope = Scope(make_world(camera=LARGE, column={"astigmatism_um": 0.0}, specimen={"texture_px": 1024}))
    scope.column.set("defocus_um", -10.0)
    ratios = []
    for stigmator in (-0.9, 0.0, 0.9):
        scope.column.set("objective_stigmator", (stigmator, 0.0))
        frame = scope.frame().astype(float)
        ratios.append(np.var(np.diff(frame, axis=0)) / np.var(np.diff(frame, axis=1)))
    assert ratios == sorted(ratios) or ratios == sorted(ratios, reverse=True)
    assert max(ratios) > 1.2 * min(ratios)


@pytest.mark.parametrize(
    ("name", "value"), [("beam_blanked", True), ("column_valves_open", False), ("screen_position", "DOWN")]
)
def test_without_a_beam_the_frame_is_dark(make_world: Make, name: str, value: Any) -> None:
    scope = Scope(make_world())
    bright = scope.frame()
    scope.column.set(name, value)
    dark = scope.frame()
    assert dark.mean() < 0.02 * bright.mean()
    assert [exposure.beam_on for exposure in scope.world.truth()] == [True, False]


def test_a_shifted_beam_leaves_the_frame(make_world: Make) -> None:
    scope = Scope(make_world())
    bright = scope.frame()
    scope.column.set("beam_shift_um", (30.0, 0.0))
    assert scope.frame().mean() < 0.02 * bright.mean()


def test_counts_follow_exposure_and_saturate(make_world: Make) -> None:
    scope = Scope(make_world(camera={"bit_depth": 12}))
    means = [scope.frame(settings=CameraSettings(time_s)).mean() for time_s in (0.05, 0.1, 10.0)]
    assert means[1] == pytest.approx(2 * means[0], rel=0.03)
    assert means[2] == 4095


def test_binning_and_region_show_the_same_specimen(make_world: Make) -> None:
    scope = Scope(make_world(camera=LARGE, column={"defocus_um": -8.0}))
    whole = scope.frame().astype(float)
    part = scope.frame(settings=CameraSettings(region=Region(32, 64, 96, 48))).astype(float)
    expected = whole[64:112, 32:128]
    assert np.corrcoef(part.ravel(), expected.ravel())[0, 1] > 0.95
    binned = scope.frame(settings=CameraSettings(binning=2)).astype(float)
    halves = whole.reshape(128, 2, 128, 2).mean(axis=(1, 3))
    assert np.corrcoef(binned.ravel(), halves.ravel())[0, 1] > 0.97
    assert binned.mean() == pytest.approx(halves.mean(), rel=0.03)


def test_low_magnification_is_the_high_one_made_small(make_world: Make) -> None:
    scope = Scope(make_world(camera=LARGE, column={"distortion": 0.0}, specimen={"texture_px": 1024}))
    fine = scope.frame().astype(float)
    scope.column.set("magnification", 1200.0)
    coarse = scope.frame().astype(float)
    small = fine.reshape(64, 4, 64, 4).mean(axis=(1, 3))
    ratio = 16.667 / 16.0
    middle = np.asarray(Image.fromarray(coarse[97:159, 97:159]).resize((int(62 * ratio),) * 2))
    edge = (middle.shape[0] - 60) // 2
    crop = middle[edge : edge + 60, edge : edge + 60]
    best = max(
        np.corrcoef(crop.ravel(), small[v : v + 60, u : u + 60].ravel())[0, 1]
        for v in range(5)
        for u in range(5)
    )
    assert best > 0.6


def test_diffraction_shows_the_central_beam(make_world: Make) -> None:
    scope = Scope(make_world(camera=LARGE))
    scope.column.set("projection_mode", "DIFFRACTION")
    frame = scope.frame()
    assert frame[126:130, 126:130].mean() > 20 * frame[:20, :20].mean()
