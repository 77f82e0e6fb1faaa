"""A montage stitched from files: places, mosaic, report, and bad input that leaves the rest stitched."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
import tifffile

from devices.errors import ConfigurationError
from processing.kernels.field import FieldModel
from processing.mosaic.pyramid import PyramidStore
from processing.stitching.drawing import draw_mosaic
from processing.stitching.offline import MOSAIC, OfflineOptions, Stitched, overview, stitch_tiles
from processing.stitching.options import StitchOptions
from processing.stitching.report import summary, write_report
from processing.stitching.sources import read_source
from tests.processing.tile_folders import HEIGHT, WIDTH, cut, worst_px, write_folder, write_mdoc

OVERLAP = (0.2, 0.22)
OPTIONS = OfflineOptions(StitchOptions(first_search_px=24.0, degree=1, affine=False))
Frames = list[npt.NDArray[Any]]


@pytest.fixture(scope="module")
def tiles() -> tuple[Frames, npt.NDArray[np.int64]]:
    return cut(3, 3)


def stitched(folder: Path, frames: Frames, options: OfflineOptions = OPTIONS) -> Stitched:
    write_folder(folder, frames, 3)
    return stitch_tiles(read_source(folder, overlap=OVERLAP, pixel_size_nm=5.0), options)


def test_a_folder_is_stitched_into_a_mosaic(
    tmp_path: Path, tiles: tuple[Frames, npt.NDArray[np.int64]]
) -> None:
    frames, true = tiles
    done = stitched(tmp_path / "in", frames)

    assert done.solution.matched.all()
    assert worst_px(done.solution.positions_px, true) < 0.1

    draw_mosaic(done, tmp_path / MOSAIC, OPTIONS)
    with PyramidStore.open(tmp_path / MOSAIC) as store:
        assert store.dtype == np.uint8
        assert store.geometry.pixel_size_nm == 5.0
        shape = np.ptp(true, 0)[::-1] + np.array([HEIGHT, WIDTH])
        assert np.abs(np.array(store.shape) - shape).max() <= 2
        x, y = np.round(done.solution.positions_px[4]).astype(int) - store.geometry.origin_px
        middle = store.read(0, y - 40, x - 40, y + 40, x + 40).astype(float)
    own = frames[4][HEIGHT // 2 - 42 : HEIGHT // 2 + 42, WIDTH // 2 - 42 : WIDTH // 2 + 42].astype(np.float32)
    assert cv2.matchTemplate(own, middle.astype(np.float32), cv2.TM_CCOEFF_NORMED).max() > 0.97
    assert overview(tmp_path / MOSAIC).shape == store.shape
    with pytest.raises(ConfigurationError, match="exists already"):
        draw_mosaic(done, tmp_path / MOSAIC, OPTIONS)


def test_brightness_is_matched(tmp_path: Path, tiles: tuple[Frames, npt.NDArray[np.int64]]) -> None:
    frames = list(tiles[0])
    frames[4] = (0.6 * frames[4]).astype(np.uint8)
    done = stitched(tmp_path / "in", frames)

    levels = {}
    for matched in (True, False):
        path = tmp_path / f"{matched}.zarr"
        draw_mosaic(done, path, replace(OPTIONS, match_brightness=matched, blending="feather"))
        with PyramidStore.open(path) as store:
            x, y = np.round(done.solution.positions_px[[3, 4]]).astype(int).T
            x, y = x - store.geometry.origin_px[0], y - store.geometry.origin_px[1]
            levels[matched] = [
                store.read(0, b - 90, a - 90, b + 90, a + 90).mean() for a, b in zip(x, y, strict=True)
            ]
    assert levels[False][1] / levels[False][0] < 0.75
    assert levels[True][1] / levels[True][0] == pytest.approx(1.0, abs=0.15)


def test_a_report_is_one_page_with_its_pictures(
    tmp_path: Path, tiles: tuple[Frames, npt.NDArray[np.int64]]
) -> None:
    frames = list(tiles[0])
    frames[0] = np.full_like(frames[0], 7)
    done = stitched(tmp_path / "in", frames, OfflineOptions(StitchOptions(first_search_px=24.0, degree=3)))
    draw_mosaic(done, tmp_path / MOSAIC)

    page, *pictures = write_report(done, tmp_path, tmp_path / MOSAIC)

    text = page.read_text()
    titles = re.findall(r"<h2>([^<]+)</h2>", text)
    assert [one for one in titles if one not in ("To look at", "Tiles")] == [
        one.stem.removeprefix("report-").replace("-", " ").capitalize() for one in pictures
    ]
    assert {"Match graph", "Residual map", "Seams", "Mosaic"} <= set(titles)
    assert text.count("data:image/png;base64,") == len(pictures)
    assert "s_1_1.png: prior-only" in text
    assert not re.search(r'(src|href)="(?!data:)', text)
    assert dict(summary(done))["tiles"] == "9, 8 of them matched"


def test_bad_tiles_leave_the_rest_stitched(
    tmp_path: Path, tiles: tuple[Frames, npt.NDArray[np.int64]]
) -> None:
    frames, true = list(tiles[0]), tiles[1]
    frames[2] = frames[2][:200, :300]
    folder = tmp_path / "in"
    write_folder(folder, frames, 3)
    (folder / "s_3_1.png").write_bytes((folder / "s_3_1.png").read_bytes()[:500])
    (folder / "s_3_3.png").unlink()

    done = stitch_tiles(read_source(folder, overlap=OVERLAP), OPTIONS)
    draw_mosaic(done, tmp_path / MOSAIC, OPTIONS)

    reasons = {done.names[one.key]: one.reason for one in done.solution.tiles}
    assert reasons.pop("s_1_3.png") == "prior-only: its frame has 300 x 200 px, the montage 320 x 288"
    assert "s_3_1.png is no image, or damaged" in reasons.pop("s_3_1.png")
    assert set(reasons.values()) == {""}
    assert len(reasons) == 6
    good = [k for k, one in enumerate(done.solution.tiles) if one.matched]
    assert worst_px(done.solution.positions_px[good], true[[0, 1, 3, 4, 5, 7]]) < 0.1
    assert [name for name, _ in done.faults] == ["s_3_1.png"]


def test_saturation_and_gaps_of_data_are_no_obstacle(
    tmp_path: Path, tiles: tuple[Frames, npt.NDArray[np.int64]]
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for k, frame in enumerate(tiles[0]):
        counts = np.minimum(frame.astype(np.float32) * 400, 65535)
        counts[:40, :60] = np.nan if k == 4 else 65535
        tifffile.imwrite(folder / f"s_{k // 3}_{k % 3}.tif", counts)

    done = stitch_tiles(read_source(folder, overlap=OVERLAP), OPTIONS)
    draw_mosaic(done, tmp_path / MOSAIC, OPTIONS)

    assert done.solution.matched.all()
    assert worst_px(done.solution.positions_px, tiles[1]) < 0.3
    with PyramidStore.open(tmp_path / MOSAIC) as store:
        assert store.dtype == np.uint16
        assert store.read(0, 0, 0, *store.shape).max() > 60000


def test_two_islands_keep_their_places(tmp_path: Path, tiles: tuple[Frames, npt.NDArray[np.int64]]) -> None:
    frames = list(tiles[0])
    for k in (3, 4, 5):
        frames[k] = np.full_like(frames[k], 50)

    done = stitched(tmp_path / "in", frames)

    assert done.solution.matched.tolist() == [True] * 3 + [False] * 3 + [True] * 3
    assert sum(one.reason.startswith("island") for one in done.solution.tiles) == 3
    assert worst_px(done.solution.positions_px[:3], tiles[1][:3]) < 0.1
    assert worst_px(done.solution.positions_px[6:], tiles[1][6:]) < 0.1
    assert worst_px(done.solution.positions_px, tiles[1]) < 25


def test_one_tile_is_a_mosaic(tmp_path: Path, tiles: tuple[Frames, npt.NDArray[np.int64]]) -> None:
    write_folder(tmp_path / "in", tiles[0][:1], 1)
    done = stitch_tiles(read_source(tmp_path / "in"))
    draw_mosaic(done, tmp_path / MOSAIC)

    assert write_report(done, tmp_path, tmp_path / MOSAIC)[0].exists()
    with PyramidStore.open(tmp_path / MOSAIC) as store:
        assert np.abs(np.array(store.shape) - (HEIGHT, WIDTH)).max() <= 1


def test_a_field_for_other_frames_is_refused(
    tmp_path: Path, tiles: tuple[Frames, npt.NDArray[np.int64]]
) -> None:
    wrong = OfflineOptions(StitchOptions(field=FieldModel.identity(100, 100)))

    with pytest.raises(ConfigurationError, match="field is for frames of 100 x 100 px"):
        stitched(tmp_path, tiles[0], wrong)


def test_a_serialem_montage_is_stitched(tmp_path: Path, tiles: tuple[Frames, npt.NDArray[np.int64]]) -> None:
    done = stitch_tiles(read_source(write_mdoc(tmp_path, tiles[0], 3, 3)), OPTIONS)

    assert done.solution.matched.all()
    assert worst_px(done.solution.positions_px, tiles[1]) < 0.1


def test_a_wrong_position_is_found_out(tmp_path: Path, tiles: tuple[Frames, npt.NDArray[np.int64]]) -> None:
    frames, true = tiles
    folder = tmp_path / "in"
    write_folder(folder, frames, 3)
    places = true.astype(np.float64)
    places[4] += (21.0, -19.0)
    places[8] += (900.0, 700.0)
    lines = [f"s_{k // 3 + 1}_{k % 3 + 1}.png,{x},{y}" for k, (x, y) in enumerate(places)]
    (folder / "positions.csv").write_text("\n".join(["file,x_px,y_px", *lines]))

    wide = OfflineOptions(StitchOptions(first_search_px=48.0, degree=1, affine=False))
    done = stitch_tiles(read_source(folder), wide)

    found = {done.names[one.key]: one for one in done.solution.tiles}
    near = [found[f"s_{k // 3 + 1}_{k % 3 + 1}.png"] for k in range(8)]
    assert [one.reason for one in near] == [""] * 8
    assert worst_px(np.array([one.position_px for one in near]), true[:8]) < 0.1
    assert found["s_3_3.png"].reason.startswith("prior-only: no neighbour overlaps it")
