"""What spoils a tile shows in its metrics, and what only looks like it does not."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from processing.kernels.quality import measure_tile
from processing.kernels.quality_lines import stale_fraction
from processing.kernels.quality_regions import regions
from tests.processing.specimens import Image, expose, real_tiles, resin, tissue

SHAPE = (512, 512)


def disc(shape: tuple[int, int], x: float, y: float, radius: float) -> npt.NDArray[np.bool_]:
    v, u = np.ogrid[: shape[0], : shape[1]]
    return np.asarray(np.hypot(u - x, v - y) < radius)


def smeared(image: Image, length_px: int, angle_deg: float) -> Image:
    kernel = np.zeros((2 * length_px + 1,) * 2, np.float32)
    for at in np.linspace(-length_px / 2, length_px / 2, 8 * length_px):
        angle = np.deg2rad(angle_deg)
        kernel[round(length_px + at * np.sin(angle)), round(length_px + at * np.cos(angle))] += 1
    return np.asarray(cv2.filter2D(image, -1, kernel / kernel.sum()), np.float32)


@pytest.mark.parametrize("angle_deg", [0, 30, 90, 135])
def test_a_smear_has_a_direction_and_a_blur_has_none(angle_deg: float) -> None:
    metrics = measure_tile(expose(smeared(tissue(SHAPE), 8, angle_deg)))
    assert metrics.smear_db > 4
    off = (metrics.smear_deg - angle_deg + 90) % 180 - 90
    assert abs(off) <= 15
    assert measure_tile(expose(tissue(SHAPE))).smear_db < 2
    assert measure_tile(expose(tissue(SHAPE), blur_px=2)).smear_db < 2


def test_the_direction_of_a_sample_is_no_smear() -> None:
    image = cv2.resize(tissue((512, 128)), (512, 512), interpolation=cv2.INTER_CUBIC)
    stretched = cv2.GaussianBlur(image, (0, 0), 1.0) + 0.2 * (tissue(SHAPE, 5) - 0.7)
    metrics = measure_tile(expose(np.clip(stretched, 0, 1).astype(np.float32)))
    assert metrics.anisotropy_db > 3
    assert metrics.smear_db < 4


def test_dirt_is_thick_and_a_thousand_droplets_are_not() -> None:
    image, rng = tissue(SHAPE), np.random.default_rng(0)
    droplets, dirt = image.copy(), image.copy()
    for x, y in rng.uniform(0, 512, (400, 2)):
        droplets[disc(SHAPE, x, y, 6)] *= 0.05
    dirt[disc(SHAPE, 200, 250, 60)] *= 0.03
    one, many = measure_tile(expose(dirt)), measure_tile(expose(droplets))
    assert many.opaque_fraction > one.opaque_fraction
    assert one.opaque_radius == pytest.approx(60 / 512, rel=0.15)
    assert many.opaque_radius < 0.05
    assert not one.beam_edge


def test_the_edge_of_the_beam_surrounds_what_is_lit() -> None:
    image = tissue(SHAPE)
    image[~disc(SHAPE, 100, 200, 380)] *= 0.01
    metrics = measure_tile(expose(image))
    assert metrics.beam_edge
    assert metrics.opaque_radius > 0.05
    image = tissue(SHAPE)
    image[disc(SHAPE, 0, 0, 150)] *= 0.01  # dirt in a corner: what is lit is hollow there
    assert not measure_tile(expose(image)).beam_edge


def test_a_fold_is_wide_and_dark_right_across_and_a_membrane_is_not() -> None:
    y, x = np.mgrid[:512, :512]
    across = (x - y) / np.sqrt(2) + 8 * np.sin(x / 40)
    fold, membrane, half = tissue(SHAPE), tissue(SHAPE), tissue(SHAPE)
    fold[np.abs(across) < 25] *= 0.4
    membrane[np.abs(across) < 4] *= 0.2
    half[(np.abs(across) < 25) & (x < 256)] *= 0.4
    folded = measure_tile(expose(fold)).fold_contrast
    assert folded > 0.3
    for other in (tissue(SHAPE), membrane, half, resin(SHAPE)):
        assert measure_tile(expose(other)).fold_contrast < 0.3 * folded


@pytest.mark.parametrize("rows", [5, 100, 500])
def test_a_rest_that_never_came_is_counted(rows: int) -> None:
    frame = expose(tissue(SHAPE))
    frame[-rows:] = 0
    assert measure_tile(frame).missing_fraction == rows / 512
    frame = expose(tissue(SHAPE))
    frame[:rows] = 777
    assert measure_tile(frame).missing_fraction == rows / 512


def test_a_stale_rest_is_that_of_the_frame_before() -> None:
    before, now = expose(tissue(SHAPE, 1), 1), expose(tissue(SHAPE, 1), 2)
    marks = measure_tile(before).marks
    assert stale_fraction(measure_tile(now).marks, marks) == 0
    now[300:] = before[300:]
    assert stale_fraction(measure_tile(now).marks, marks) == pytest.approx(212 / 512, abs=1 / 64)
    assert stale_fraction(marks, marks) == 1
    # what is constant is the same in any two frames
    before[300:] = now[300:] = 0
    assert stale_fraction(measure_tile(now).marks, measure_tile(before).marks) == 0


def test_a_displaced_strip_of_lines_is_damage_and_one_line_is_less() -> None:
    frame = expose(tissue(SHAPE), electrons=4000)
    frame[200:230] = np.roll(frame[200:230], 150, axis=1)
    assert measure_tile(frame).damaged_fraction >= 4 / 511
    noise = expose(tissue(SHAPE))
    noise[100:150] = np.random.default_rng(0).integers(0, int(noise.max()), (50, 512))
    assert measure_tile(noise).damaged_fraction > 45 / 511


@pytest.mark.parametrize("electrons", [60, 2000])
def test_tissue_on_bright_resin_has_no_damaged_lines(electrons: float) -> None:
    y, x = np.mgrid[:512, :512]
    inside = np.abs(y - 230 - 8 * np.sin(x / 25)) < 30  # its lines differ more than all of the frame varies
    image = np.where(inside, tissue(SHAPE, 4), np.float32(0.9))
    assert measure_tile(expose(image, electrons=electrons)).damaged_fraction == 0
    image = np.full(SHAPE, 0.9, np.float32)
    image[200:260] = tissue(SHAPE, 4)[200:260]  # cut off like a displaced strip, but for a limit of 4 lines
    assert 0 < measure_tile(expose(image)).damaged_fraction <= 3 / 511


def test_detail_is_lost_in_all_directions_or_in_one() -> None:
    clean, blurred, drifted = (
        measure_tile(expose(image))
        for image in (
            tissue(SHAPE),
            cv2.GaussianBlur(tissue(SHAPE), (0, 0), 1.5),
            smeared(tissue(SHAPE), 6, 0),
        )
    )
    assert clean.detail_db - blurred.detail_db > 6
    assert clean.detail_floor_db < clean.detail_db - 10
    lost = np.array(clean.directions_db) - np.array(drifted.directions_db)
    assert lost[0] > 8  # along x
    assert abs(lost[6]) < 3  # across it
    bare = measure_tile(expose(resin(SHAPE)))
    assert bare.detail_db - bare.detail_floor_db < 6


def test_bright_parts_say_how_much_light_there_is() -> None:
    full, half = (measure_tile(expose(tissue(SHAPE), electrons=electrons)) for electrons in (2000, 1000))
    assert half.bright_counts == pytest.approx(0.5 * full.bright_counts, rel=0.05)
    assert measure_tile(expose(tissue((128, 128)))).bright_counts == 0


def test_bands_of_charge_are_everywhere_and_a_dark_stripe_is_not() -> None:
    image, rng = tissue(SHAPE), np.random.default_rng(0)
    bands = np.repeat(rng.standard_normal(43), 12)[:512, None].astype(np.float32)
    charged = measure_tile(expose((image * np.exp(0.1 * bands)).astype(np.float32)))
    assert 0.04 < charged.banding < 0.1
    image[200:240] *= 0.5
    assert measure_tile(expose(image)).banding < 0.03
    lost = expose(tissue(SHAPE))
    lost[100:140] = 0
    assert measure_tile(lost).banding < 0.03


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_frames_without_light_and_small_frames_have_no_regions(dtype: Any) -> None:
    assert regions(np.zeros(SHAPE, dtype), 10.0).opaque_fraction == 0
    assert regions(np.full((200, 600), 9, dtype)).shading == 1


@pytest.mark.parametrize("sample", [1, 2])
def test_dark_tissue_of_real_montages_is_neither_dirt_nor_fold(sample: int) -> None:
    tiles = real_tiles(sample)
    if not tiles:
        pytest.skip("the real montage is not on this machine")
    for number, tile in enumerate(tiles):
        darker = np.clip((tile - 0.3) / 0.7, 0, 1).astype(np.float32)  # as recorded: droplets are black
        metrics = measure_tile(expose(darker[:1024, :1024], number, 800))
        assert metrics.opaque_radius < 0.05
        assert metrics.fold_contrast < 0.3
