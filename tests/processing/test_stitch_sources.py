"""Where tiles come from: folders with names, lists or nothing, and SerialEM files; and what can be wrong."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
import tifffile

from devices.errors import ConfigurationError
from processing.stitching.frame_files import FrameCache, FrameError, FrameFile
from processing.stitching.mdoc import sections
from processing.stitching.sources import read_source
from tests.processing.tile_folders import HEIGHT, STEP, WIDTH, cut, worst_px, write_folder, write_mdoc


@pytest.mark.parametrize(
    "name",
    [
        "2_{row}_{column}.png",
        "tile_r{row:02d}-c{column:02d}.tif",
        "Row{row}_Col{column}.jpg",
        "x{column}_y{row}.png",
    ],
)
def test_rows_and_columns_are_read_from_usual_names(tmp_path: Path, name: str) -> None:
    write_folder(tmp_path, cut(2, 3)[0], 3, name)

    tiles = read_source(tmp_path, overlap=(0.2, 0.25))

    assert [one.tile.key for one in sorted(tiles.tiles, key=lambda one: one.tile.key)] == [
        (0, row, column) for row in range(2) for column in range(3)
    ]
    assert tiles.size_px == (WIDTH, HEIGHT)
    last = max(tiles.tiles, key=lambda one: one.tile.key)
    assert last.tile.nominal_px == pytest.approx((2 * 0.8 * WIDTH, 0.75 * HEIGHT))


def test_a_pattern_says_what_names_mean(tmp_path: Path) -> None:
    write_folder(tmp_path, cut(1, 2)[0], 2, "a{column}-of-9 b{row}.png")

    tiles = read_source(tmp_path, pattern="a{column}-of-* b{row}")

    assert [one.tile.key for one in tiles.tiles] == [(0, 0, 0), (0, 0, 1)]
    with pytest.raises(ConfigurationError, match="does not fit"):
        read_source(tmp_path, pattern="z{row}_{column}")
    with pytest.raises(ConfigurationError, match="must have"):
        read_source(tmp_path, pattern="a{row}")


def test_two_tiles_of_one_place_are_refused(tmp_path: Path) -> None:
    write_folder(tmp_path, cut(1, 2)[0], 2, "r1_c1_{column}.png")

    with pytest.raises(ConfigurationError, match="are all row 0, column 0"):
        read_source(tmp_path, pattern="r{row}_c{column}_*")


def test_a_list_says_where_tiles_lie(tmp_path: Path) -> None:
    write_folder(tmp_path, cut(1, 3)[0], 3)
    (tmp_path / "positions.csv").write_text(
        "file,x_um,y_um\ns_1_1.png,10,20\ns_1_2.png,12,20\ngone.png,1,2\n"
    )

    tiles = read_source(tmp_path, pixel_size_nm=8.0)

    assert [one.tile.nominal_px for one in tiles.tiles] == [(1250.0, 2500.0), (1500.0, 2500.0)]
    assert [one.tile.key for one in tiles.tiles] == [(0, 0, 0), (0, 0, 1)]
    assert dict(tiles.left_out).keys() == {"gone.png", "s_1_3.png"}
    with pytest.raises(ConfigurationError, match="--pixel-size-nm"):
        read_source(tmp_path)


def test_a_list_may_be_json(tmp_path: Path) -> None:
    write_folder(tmp_path, cut(1, 2)[0], 2)
    places = tmp_path / "where.json"
    places.write_text(json.dumps({"s_1_1.png": [0, 0], "s_1_2.png": [5, 250]}))

    assert [one.tile.key for one in read_source(tmp_path, positions=places).tiles] == [(0, 0, 0), (0, 1, 0)]
    places.write_text(json.dumps([{"file": "s_1_1.png", "x_px": "far", "y_px": 0}]))
    with pytest.raises(ConfigurationError, match=r"s_1_1\.png must be finite"):
        read_source(tmp_path, positions=places)
    places.write_text("{")
    with pytest.raises(ConfigurationError, match="cannot be read"):
        read_source(tmp_path, positions=places)


def test_tiles_of_which_nothing_is_known_are_found(tmp_path: Path) -> None:
    frames, true = cut(2, 3)
    order = [4, 0, 5, 2, 1, 3]
    for k, name in zip(order, "abcdef", strict=True):
        cv2.imwrite(str(tmp_path / f"{name}.png"), frames[k])
    noise = np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH), np.uint8)
    cv2.imwrite(str(tmp_path / "zz.png"), noise)

    tiles = read_source(tmp_path)

    assert [one.name for one in tiles.tiles] == [f"{name}.png" for name in "abcdef"]
    found = np.array([one.tile.nominal_px for one in tiles.tiles])
    assert worst_px(found, true[order]) < 2
    assert [one.tile.key for one in tiles.tiles] == [(0, k // 3, k % 3) for k in order]
    assert [name for name, _ in tiles.left_out] == ["zz.png"]


def test_many_tiles_without_places_are_refused_with_what_to_give(tmp_path: Path) -> None:
    for k in range(31):
        cv2.imwrite(
            str(tmp_path / f"{chr(97 + k // 10)}{'xyzuvwpqrs'[k % 10]}.png"), np.zeros((32, 32), np.uint8)
        )

    with pytest.raises(ConfigurationError, match="--positions FILE"):
        read_source(tmp_path)


def test_a_serialem_montage_is_read_right_side_up(tmp_path: Path) -> None:
    frames, _ = cut(2, 2)
    path = write_mdoc(tmp_path, frames, 2, 2)

    for source in (path, tmp_path / "map.st"):
        tiles = read_source(source)
        assert tiles.pixel_size_nm == pytest.approx(4.0)
        assert [one.tile.key for one in tiles.tiles] == [(0, 0, 0), (0, 0, 1), (0, 1, 0), (0, 1, 1)]
        steps = np.array(tiles.tiles[3].tile.nominal_px) - tiles.tiles[0].tile.nominal_px
        assert steps.tolist() == [*STEP]
        assert np.array_equal(tiles.tiles[2].frame.read(), frames[2].astype(np.float32))


def test_a_serialem_file_without_images_or_places_is_refused(tmp_path: Path) -> None:
    path = write_mdoc(tmp_path, cut(1, 2)[0], 1, 2)
    with pytest.raises(ConfigurationError, match="has no section 3; it has 0"):
        read_source(path, section=3)
    (tmp_path / "map.st").unlink()
    with pytest.raises(ConfigurationError, match="not beside it"):
        read_source(path)
    path.write_text("[ZValue = 0]\nStageZ = 2\n")
    with pytest.raises(ConfigurationError, match="is no montage"):
        read_source(path)


def stage_only(
    folder: Path, frames: list[npt.NDArray[Any]], steps_um: npt.NDArray[np.float64], more: str = ""
) -> Path:
    """Write images whose stage positions alone say where they lie: for a turn of 150 deg, 4 nm a pixel."""
    path = write_mdoc(folder, frames, 1, len(frames))
    lines = ["PixelSpacing = 40", "ImageFile = map.st", f"ImageSize = {WIDTH} {HEIGHT}", ""]
    for k, (x, y) in enumerate(steps_um):
        lines += [f"[ZValue = {k}]", f"StagePosition = {x:.5f} {y:.5f}", more, ""]
    path.write_text("\n".join(lines))
    return path


def test_stage_positions_alone_place_images_by_their_turn(tmp_path: Path) -> None:
    frames, true = cut(2, 3)
    angle = np.radians(180 - 150.0)
    up = true * (1, -1) * 0.004
    stage = up @ np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]]) + (500, -300)

    tiles = read_source(stage_only(tmp_path, frames, stage, "RotationAngle = 150"))

    assert worst_px(np.array([one.tile.nominal_px for one in tiles.tiles]), true) < 0.01
    assert [one.tile.key for one in tiles.tiles] == [
        (0, row, column) for row in (0, 1) for column in (0, 1, 2)
    ]
    assert tiles.pixel_size_nm == pytest.approx(4.0)


@pytest.mark.parametrize(
    ("more", "apart_um", "message"),
    [
        ("", 1.0, "StagePosition without RotationAngle .*--positions"),
        ("RotationAngle = 150", 0.001, "all images have the same StagePosition"),
        ("RotationAngle = 150\nTiltAngle = {k}0", 1.0, "is a tilt series, 0 to 10 deg"),
    ],
)
def test_stage_positions_that_do_not_place_images_are_refused(
    tmp_path: Path, more: str, apart_um: float, message: str
) -> None:
    path = stage_only(tmp_path, cut(1, 2)[0], np.array([[0.0, 0.0], [apart_um, 0.0]]), more)
    first, last = path.read_text().split("[ZValue = 1]")
    path.write_text(first.replace("{k}", "0") + "[ZValue = 1]" + last.replace("{k}", "1"))

    with pytest.raises(ConfigurationError, match=message):
        read_source(path)


def test_stage_positions_of_a_real_montage_agree_with_its_pieces(test_data: Path, tmp_path: Path) -> None:
    text = (test_data / "serialem" / "montage_section.mdoc").read_text()
    (tmp_path / "LMM.mrc").touch()
    (tmp_path / "pieces.mdoc").write_text(text)
    (tmp_path / "stage.mdoc").write_text(
        "\n".join(line for line in text.splitlines() if not line.startswith("PieceCoordinates"))
    )

    pieces, stage = (read_source(tmp_path / name) for name in ("pieces.mdoc", "stage.mdoc"))
    known = {one.name: np.array(one.tile.nominal_px) for one in pieces.tiles}
    steps = []
    for one, other in itertools.pairwise(stage.tiles):
        step = known[other.name] - known[one.name]
        wrong = np.array(other.tile.nominal_px) - one.tile.nominal_px - step
        steps.append(np.hypot(*wrong) / np.hypot(*step))
    assert len(steps) == 61
    assert max(steps) < 0.05


@pytest.mark.parametrize(("name", "pieces"), [("montage_section", 62), ("montage_section_multiple", 90)])
def test_real_serialem_files_are_understood(test_data: Path, name: str, pieces: int) -> None:
    parts = sections((test_data / "serialem" / f"{name}.mdoc").read_text())

    assert sum("PieceCoordinates" in one.keys for one in parts) == pieces
    assert "ImageFile" in parts[0].keys


def test_a_source_that_is_nothing_says_what_it_should_be(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="has no tiles"):
        read_source(tmp_path)
    with pytest.raises(ConfigurationError, match="neither a folder"):
        read_source(tmp_path / "gone")
    (tmp_path / "one.png").write_bytes(b"")
    with pytest.raises(ConfigurationError, match="is one file"):
        read_source(tmp_path / "one.png")
    with pytest.raises(ConfigurationError, match=r"no tile of .* can be read"):
        read_source(tmp_path)


def test_frames_of_all_kinds_become_counts(tmp_path: Path) -> None:
    grey = np.arange(12, dtype=np.uint16).reshape(3, 4) * 1000
    tifffile.imwrite(tmp_path / "a.tif", np.stack([grey, grey + 1]), photometric="minisblack")
    tifffile.imwrite(tmp_path / "b.tif", grey.astype(np.int32))
    cv2.imwrite(str(tmp_path / "c.png"), np.dstack([grey % 200] * 3).astype(np.uint8))
    (tmp_path / "d.png").write_bytes((tmp_path / "c.png").read_bytes()[:60])

    assert np.array_equal(FrameFile(tmp_path / "a.tif", 1).read(), grey + 1)
    assert FrameFile(tmp_path / "b.tif").read().dtype == np.float32
    assert FrameFile(tmp_path / "c.png").read().shape == (3, 4)
    assert FrameFile(tmp_path / "c.png").size_px() == (4, 3)
    with pytest.raises(FrameError, match=r"d\.png"):
        FrameFile(tmp_path / "d.png").read()
    with pytest.raises(FrameError, match=r"gone\.tif"):
        FrameFile(tmp_path / "gone.tif").size_px()


def test_a_reference_is_taken_out(tmp_path: Path) -> None:
    light = np.linspace(0.5, 1.5, 64, dtype=np.float32)[None].repeat(48, 0)
    for name, image in (
        ("dark", np.full((48, 64), 10, np.float32)),
        ("bright", light),
        ("t", 100 * light + 10),
    ):
        tifffile.imwrite(tmp_path / f"{name}.tif", image)

    frame = FrameFile(tmp_path / "t.tif", dark=tmp_path / "dark.tif", bright=tmp_path / "bright.tif")

    assert frame.read() == pytest.approx(np.full((48, 64), 100.0), rel=1e-4)


def test_a_cache_keeps_what_fits(tmp_path: Path) -> None:
    write_folder(tmp_path, cut(1, 2)[0], 2)
    first, second = (FrameFile(path) for path in sorted(tmp_path.iterdir()))
    cache = FrameCache(keep_mb=0.15)

    image = cache.read(first)
    assert cache.read(first) is image
    cache.read(second)
    assert cache.read(first) is not image
