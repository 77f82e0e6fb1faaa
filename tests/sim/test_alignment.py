"""What the column's shifts and tilts really do, in its numbers and in the frames."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from sim.alignment import astigmatism_um, beam_centre_um, image_shift_um, tilt_shift_um
from sim.camera import SimulatedCamera
from sim.column import SimulatedColumn
from sim.config import ColumnConfig, SimulationConfig
from sim.lenses import Lenses, beam_current_na, dose_rate_e_nm2_s, true_geometry
from sim.world import World

Make = Callable[..., World]
SIDE_PX = 512
STILL = {"step_noise_um": 0.0, "backlash_um": 0.0, "cyclic_amplitude_um": 0.0, "skew_deg": 0.0}


def drivers(world: World) -> tuple[SimulatedColumn, SimulatedCamera]:
    camera = SimulatedCamera(world.path)
    camera.open()
    return SimulatedColumn(world.path), camera


def frame(camera: SimulatedCamera) -> npt.NDArray[np.float32]:
    camera.expose()
    return camera.read(10.0).data.astype(np.float32)


def moved_px(first: npt.NDArray[np.float32], second: npt.NDArray[np.float32]) -> tuple[float, float]:
    """Return how far what ``second`` shows lies right of and below where ``first`` shows it, px."""
    window = cv2.createHanningWindow(first.shape[::-1], cv2.CV_32F)
    (dx, dy), _ = cv2.phaseCorrelate(first - first.mean(), second - second.mean(), window)
    return dx, dy


def test_the_true_pixel_differs_from_the_calibrated_one(make_world: Make) -> None:
    column = {"pixel_size_error": 0.02, "rotation_error_deg": 0.7}
    world = make_world(column=column)
    assert (SimulatedColumn(world.path).get("pixel_size_nm"),) == (4.0,)
    assert SimulatedColumn(world.path).get("image_rotation_deg") == 1.5
    assert true_geometry(world.config, world.lenses()) == pytest.approx((4.08, 2.2))
    frame(drivers(world)[1])
    assert world.truth()[0].pixel_size_nm == pytest.approx(4.08)


def test_an_image_shift_acts_by_its_matrix(make_world: Make) -> None:
    matrix = [[0.98, 0.05], [-0.03, 1.04]]
    world = make_world(stage=STILL, column={"image_shift_matrix": matrix})
    column, camera = drivers(world)
    column.set("image_shift_um", (2.0, -1.0))
    frame(camera)
    truth = world.truth()[0]
    assert (truth.x_um, truth.y_um) == pytest.approx((1.91, -1.10))
    assert image_shift_um(world.config.column, world.lenses()) == pytest.approx((1.91, -1.10))


@pytest.mark.parametrize("defocus_um", [-5.0, -1.0, 0.0, 2.0])
def test_a_tilt_pair_shows_the_defocus(make_world: Make, defocus_um: float) -> None:
    """The shift between two tilts of 5 mrad is theirs times the defocus, to 0.1 um of defocus."""
    optics = {"image_rotation_deg": 0.0, "distortion": 0.0, "magnification": 10_000.0}
    large = {"width_px": SIDE_PX, "height_px": SIDE_PX}
    world = make_world(camera=large, stage=STILL, column=optics, specimen={"texture_px": 1024})
    column, camera = drivers(world)
    column.set("defocus_um", defocus_um)
    frames = []
    for tilt in ((5.0, 0.0), (-5.0, 0.0)):
        column.set("beam_tilt_mrad", tilt)
        frames.append(frame(camera))
    dx, dy = moved_px(*frames)
    # the view of the second lies 10 mrad x (defocus + Cs t^2) to the left, so its image moves to the right
    measured_um = dx * 2.0 / 10.0 - 2.7e3 * 0.005**2
    assert measured_um == pytest.approx(defocus_um, abs=0.1)
    assert abs(dy) < 0.3
    first, second = world.truth()
    shift_um = first.x_um - second.x_um
    assert shift_um == pytest.approx(10e-3 * (first.defocus_um + 2.7e3 * 0.005**2), abs=1e-9)


def test_tilts_along_y_move_along_y() -> None:
    x_um, y_um = tilt_shift_um(ColumnConfig(), Lenses(beam_tilt_mrad=(0.0, 10.0)), -2.0)
    assert x_um == 0.0
    assert y_um == pytest.approx(-0.02 + 2700 * 1e-6)


def test_the_beam_is_off_its_nominal_centre(make_world: Make) -> None:
    config = ColumnConfig(beam_offset_um=(2.0, -1.0), beam_tilt_pivot_um_per_mrad=(0.1, 0.2))
    lenses = Lenses(beam_shift_um=(0.5, 0.5), beam_tilt_mrad=(10.0, -10.0))
    assert beam_centre_um(config, lenses) == pytest.approx((3.5, -2.5))
    settings: dict[str, Any] = {"beam_offset_um": [2.0, 0.0], "image_rotation_deg": 0.0}
    world = make_world(camera={"width_px": 256, "height_px": 256}, column=settings, specimen={"film": 1.0,
                       "sections": [{"outline_um": [[900, 900], [901, 900], [900, 901]]}]})  # fmt: skip
    column, camera = drivers(world)
    column.set("magnification", 2500.0)
    column.set("illuminated_area_um", 1.0)
    seen = frame(camera)
    # 2 um are 250 px of 8 nm: out of the frame; shifted back, the spot lies in its middle
    assert seen.max() < 1000
    column.set("beam_shift_um", (-2.0, 0.0))
    seen = frame(camera)
    v, u = np.nonzero(seen > 0.5 * seen.max())
    assert (u.mean(), v.mean()) == pytest.approx((127.5, 127.5), abs=1.0)


def test_a_wider_beam_keeps_its_current() -> None:
    lenses = Lenses()
    nominal, wide = ColumnConfig(), ColumnConfig(beam_size_error=0.1)
    assert beam_current_na(wide, lenses) == beam_current_na(nominal, lenses)
    ratio = dose_rate_e_nm2_s(wide, lenses) / dose_rate_e_nm2_s(nominal, lenses)
    assert ratio == pytest.approx(1.1**-2)


def test_current_over_area_is_the_mean_flux() -> None:
    """What a dose is reckoned from, current over the illuminated disc, is the flux that the camera gets."""
    config = SimulationConfig().column
    for lenses in (Lenses(), Lenses(illuminated_area_um=5.0), Lenses(spot_size_index=5)):
        area_nm2 = math.pi * (500.0 * lenses.illuminated_area_um) ** 2
        mean = beam_current_na(config, lenses) * 1e-9 / 1.602176634e-19 / area_nm2
        assert mean == pytest.approx(0.875 * dose_rate_e_nm2_s(config, lenses))


def test_a_turned_stigmator_acts_along_other_axes() -> None:
    plain = ColumnConfig(astigmatism_um=0.0)
    assert astigmatism_um(plain, Lenses(objective_stigmator=(0.1, 0.0))) == pytest.approx((1.0, 0.0))
    turned = ColumnConfig(astigmatism_um=0.0, stigmator_rotation_deg=45.0)
    assert astigmatism_um(turned, Lenses(objective_stigmator=(0.1, 0.0))) == pytest.approx((0.0, 1.0))
    assert astigmatism_um(turned, Lenses(objective_stigmator=(0.0, 0.1))) == pytest.approx((-1.0, 0.0))


def test_a_beam_clamped_at_low_magnification_comes_back(make_world: Make) -> None:
    column = SimulatedColumn(make_world().path)
    before = column.get("illuminated_area_um")
    for magnification in (100.0, 50.0, 5000.0):
        column.set("magnification", magnification)
    assert column.get("illuminated_area_um") == pytest.approx(before)
