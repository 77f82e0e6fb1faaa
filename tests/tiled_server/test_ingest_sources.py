"""What is read of montages of other programs, and what goes into the journal: no catalog is needed."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import mrcfile
import numpy as np
import pytest
import tifffile

from devices.errors import ConfigurationError
from devices.tiles import IMAGE_DATASET
from montango.montage_tiles import read_montage
from plans.record import montages
from processing.callbacks._frame_file import read_parts
from processing.callbacks.journal import find_runs, read_journal
from processing.stitching.frame_files import FrameError, FrameFile
from processing.stitching.image_parts import part, stored
from processing.stored_frames import stored_frames
from tests.tiled_server import foreign_montages as foreign
from tests.tiled_server.montages import COLUMNS, PITCH, PIXEL_UM, ROWS, SIZE
from tiled_server.exports.journal import from_journal
from tiled_server.ingest.ingest import Ingested, Target, ingest
from tiled_server.ingest.serialem import read_serialem, unix_s
from tiled_server.ingest.sources import SourceOptions, find_sources
from tiled_server.mongo.files import read_rows

Take = Callable[..., Ingested]


@pytest.fixture
def target(tmp_path: Path) -> Target:
    return Target(tmp_path / "journal", tmp_path, (tmp_path,))


@pytest.fixture
def take(target: Target) -> Take:
    """Return a function that takes the one montage of a path into the journal."""

    def do(path: Path, montage_id: str | None = None, **options: Any) -> Ingested:
        ((_, read),) = find_sources(path, SourceOptions(**options))
        return ingest(read(), target, montage_id=montage_id)

    return do


SOURCES: Any = pytest.mark.parametrize(
    ("make", "options", "pitch_px"),
    [
        (lambda at: foreign.serialem(at, dtype="u2"), {}, PITCH),
        (lambda at: foreign.pictures(at / "pngs"), {"pixel_size_nm": 10.0, "overlap": (0.25, 0.25)}, 144),
        (lambda at: foreign.listed(at / "tifs"), {"pixel_size_nm": 10.0}, PITCH),
        (lambda at: foreign.ome_tiff(at / "one.ome.tif"), {}, PITCH),
    ],
    ids=["serialem", "names", "list", "ome-tiff"],
)


@SOURCES
def test_frames_and_places(
    make: Callable[[Path], Path],
    options: dict[str, Any],
    pitch_px: float,
    take: Take,
    target: Target,
    tmp_path: Path,
) -> None:
    path = make(tmp_path)
    found = take(path, **options)
    assert (found.added, found.known, found.left_out) == (ROWS * COLUMNS, 0, ())
    tiles = read_montage(target.journal_dir, found.montage_id)
    at = np.array([one.tile.nominal_px for one in tiles.tiles])
    np.testing.assert_allclose(
        at - at[0], [[pitch_px * c, pitch_px * r] for r, c in foreign.PLACES], atol=1e-3
    )
    np.testing.assert_array_equal([one.frame.read() for one in tiles.tiles], foreign.expected())
    out = from_journal(target.journal_dir, found.montage_id)
    np.testing.assert_array_equal(list(out.images()), foreign.expected())
    # again: nothing; and no run to go on with
    again = take(path, **options)
    assert (again.montage_id, again.uid, again.added, again.known) == (found.montage_id, None, 0, 9)
    assert len(find_runs(target.journal_dir)) == 1
    assert montages(target.journal_dir) == {}


def test_a_list_has_numbers_of_the_tiles(take: Take, target: Target, tmp_path: Path) -> None:
    found = take(foreign.listed(tmp_path / "tifs"), pixel_size_nm=10.0)
    table = from_journal(target.journal_dir, found.montage_id).table
    np.testing.assert_allclose(table["defocus_um"], -0.5 * np.arange(9))
    np.testing.assert_allclose(table["x_um"], [5 + PIXEL_UM * PITCH * c for _, c in foreign.PLACES])
    np.testing.assert_allclose(table["centre_x_um"], table["x_um"])
    assert table["z_um"].isna().all()


def test_ome_tiff_numbers(take: Take, target: Target, tmp_path: Path) -> None:
    found = take(foreign.ome_tiff(tmp_path / "a.ome.tif"))
    table = from_journal(target.journal_dir, found.montage_id).table
    np.testing.assert_allclose(table["exposure_time_s"], 0.25)
    (run,) = find_runs(target.journal_dir)
    assert run.start["calibration"] == {"pixel_size_nm": pytest.approx(10), "image_rotation_deg": 0.0}


def test_damaged_and_missing_files_are_named(take: Take, target: Target, tmp_path: Path) -> None:
    tiles = foreign.listed(tmp_path / "tiles")
    whole = (tiles / "004.tif").read_bytes()
    (tiles / "004.tif").write_bytes(whole[: len(whole) // 2])
    (tiles / "007.tif").unlink()
    tifffile.imwrite(tiles / "008.tif", np.zeros((50, 60), np.uint16))
    first = take(tiles, pixel_size_nm=10.0)
    assert first.added == 6
    reasons = dict(first.left_out)
    assert "ends at byte" in reasons["004.tif"]
    assert "does not have it" in reasons["007.tif"]
    assert "60 x 50 px, and the montage uint16, 192 x 192 px" in reasons["008.tif"]
    # the rest when it is there, in the same montage; what was changed as another attempt
    (tiles / "004.tif").write_bytes(whole)
    tifffile.imwrite(tiles / "000.tif", foreign.expected()[0] + 1)
    second = take(tiles, pixel_size_nm=10.0)
    assert (second.montage_id, second.added, second.known) == (first.montage_id, 2, 5)
    runs = find_runs(target.journal_dir)
    assert [run.start.get("resumes") for run in runs] == [None, [first.uid]]
    # the first attempt's pixels are gone with the file
    (tiles / "000.tif").write_bytes(b"II")
    listing = Path(runs[0].start["ingest"]["list"])
    with pytest.raises(FrameError, match="ingest it anew"):
        read_parts(listing, [IMAGE_DATASET], 0)
    assert [one.readable for one in stored_frames(listing)][:2] == [False, True]


def test_a_stack_that_ends_early(take: Take, tmp_path: Path) -> None:
    mdoc = foreign.serialem(tmp_path)
    stack = tmp_path / "gm.mrc"
    size = stack.stat().st_size
    with stack.open("r+b") as file:
        file.truncate(size - SIZE * SIZE * 2 * 2 - 10)
    found = take(mdoc)
    assert found.added == 6
    assert [name for name, _ in found.left_out] == [f"gm.mrc, image {n}" for n in (6, 7, 8)]


def test_an_interrupted_ingest_is_done_again(take: Take, target: Target, tmp_path: Path) -> None:
    path = foreign.pictures(tmp_path / "tiles")
    found = take(path, pixel_size_nm=10.0)
    (run,) = find_runs(target.journal_dir)
    lines = run.path.read_text().splitlines(keepends=True)
    run.path.write_text("".join(lines[:-3]))
    again = take(path, pixel_size_nm=10.0)
    assert (again.uid, again.added) == (found.uid, 9)
    assert [one.name for one in target.journal_dir.iterdir()] == [run.path.parent.name]
    assert sum(name == "start" for name, _ in read_journal(run.path)) == 1


def test_files_elsewhere_are_refused(take: Take, target: Target, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    inside = Target(target.journal_dir, tmp_path / "data", (tmp_path / "data",))
    outside = foreign.pictures(tmp_path / "outside")
    link = tmp_path / "data" / "link"
    link.mkdir()
    for one in outside.iterdir():
        (link / one.name).symlink_to(one)
    for path in (outside, link):
        ((_, read),) = find_sources(path, SourceOptions(pixel_size_nm=10.0))
        with pytest.raises(ConfigurationError, match=r"services\.tiled\.readable"):
            ingest(read(), inside)
    assert find_runs(target.journal_dir) == []
    take(outside, montage_id="mine", pixel_size_nm=10.0)


@pytest.mark.parametrize(
    ("make", "options", "words"),
    [
        (foreign.serialem, {"pattern": "a{row}{column}"}, "--pattern is not for gm.mrc.mdoc"),
        (lambda at: foreign.pictures(at / "a"), {}, "--pixel-size-nm"),
        (lambda at: foreign.pictures(at / "a"), {"section": 1}, "--section is not for a folder"),
        (lambda at: foreign.pictures(at / "a") / "tile_1_1.png", {}, "is one file"),
        (lambda at: at / "nothing", {}, "is not there"),
    ],
)
def test_what_cannot_be_is_said(
    make: Callable[[Path], Path], options: dict[str, Any], words: str, take: Take, tmp_path: Path
) -> None:
    with pytest.raises(ConfigurationError, match=words):
        take(make(tmp_path), **options)


def test_an_id_that_is_taken_by_an_acquired_montage(take: Take, target: Target, tmp_path: Path) -> None:
    from processing.callbacks.journal import Journal
    from tests.processing.documents import MontageRun

    journal = Journal(target.journal_dir)
    run = MontageRun(tmp_path, (8, 8), journal, montage_id="m-1")
    run.stop()
    with pytest.raises(ConfigurationError, match="acquired here"):
        take(foreign.pictures(tmp_path / "tiles"), montage_id="m-1", pixel_size_nm=10.0)


@pytest.mark.parametrize(
    ("name", "image", "section", "off"),
    [
        ("montage_section.mdoc", "LMM.mrc", None, 0.03),
        ("pyserialem_gm.mrc.mdoc", "gm.mrc", None, 0.1),
        ("montage_section_multiple.mdoc", "mmm.mrc", 0, 0.15),
    ],
)
def test_stage_and_image_agree_of_real_microscopes(
    test_data: Path, tmp_path: Path, name: str, image: str, section: int | None, off: float
) -> None:
    shutil.copy(test_data / "serialem" / name, tmp_path / name)
    (tmp_path / image).touch()
    source = read_serialem(tmp_path / name, section=section)
    at = {
        axis: np.array([one.values[f"{axis}_um"] for one in source.frames])
        for axis in ("x", "y", "centre_x", "centre_y")
    }
    step = np.stack([at["centre_x"] - at["x"], at["centre_y"] - at["y"]])
    # the angle in the file is off by up to 8 deg; the wrong turn or hand would be off by whole frames
    extent = max(np.ptp(at["centre_x"]), np.ptp(at["centre_y"]))
    assert np.abs(step).max() < off * extent
    assert all(unix_s(str(one.keys["DateTime"])) > 1.5e9 for one in source.frames)
    assert source.settings["column-magnification"] > 0
    assert source.instrument is not None


def test_real_tiles(test_data: Path, tmp_path: Path) -> None:
    tiles = test_data / "mussel" / "sample_2"
    target = Target(tmp_path / "journal", tmp_path, (test_data,))
    ((_, read),) = find_sources(
        tiles, SourceOptions(pixel_size_nm=4.0, pattern=r"_(?P<row>\d)_(?P<column>\d)$")
    )
    found = ingest(read(), target)
    assert found.added == 9
    read_back = read_montage(target.journal_dir, found.montage_id)
    for one in read_back.tiles[::4]:
        _, row, column = one.tile.key
        np.testing.assert_array_equal(
            one.frame.read(), FrameFile(tiles / f"2_{row + 1}_{column + 1}.png").read()
        )


@pytest.mark.parametrize("kind", ["i1", "i2", "u2", "f4", ">i2"])
def test_parts_of_a_stack(tmp_path: Path, kind: str) -> None:
    data = np.arange(3 * 20 * 30).reshape(3, 20, 30).astype(kind)
    path = tmp_path / "a.mrc"
    with mrcfile.new(path) as file:
        file.set_data(data)
    frame = FrameFile(path, 1)
    assert stored(frame).shape == (20, 30)
    assert stored(frame).dtype == np.dtype(kind).newbyteorder("<")
    np.testing.assert_array_equal(
        part(frame, slice(3, 9, 2), slice(29, 1, -5)), data[1, ::-1][3:9:2, 29:1:-5]
    )
    with pytest.raises(FrameError, match="has 3 images, and image 3"):
        stored(FrameFile(path, 3))


@pytest.mark.parametrize("options", [{}, {"compression": "zlib"}, {"tile": (16, 16)}, {"byteorder": ">"}])
def test_parts_of_a_tiff(tmp_path: Path, options: dict[str, Any]) -> None:
    data = np.arange(2 * 40 * 50, dtype=np.uint16).reshape(2, 40, 50)
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, data, photometric="minisblack", **options)
    np.testing.assert_array_equal(
        part(FrameFile(path, 1), slice(3, 9, 2), slice(8, 1, -3)), data[1, 3:9:2, 8:1:-3]
    )
    assert stored(FrameFile(path, 1)).damage == ""
    colours = tmp_path / "b.tif"
    tifffile.imwrite(colours, np.zeros((4, 5, 3), np.uint8), photometric="rgb")
    assert stored(FrameFile(colours)).shape == part(FrameFile(colours)).shape == (4, 5)


def test_rows_for_mongodb(take: Take, target: Target, tmp_path: Path) -> None:
    take(foreign.listed(tmp_path / "tifs"), pixel_size_nm=10.0)
    (run,) = find_runs(target.journal_dir)
    about = {"mimetype": "application/x-montango-frame-list", "parameters": {}, "shape": [1, SIZE, SIZE]}
    rows = read_rows(about, run.start["ingest"]["list"], 2, 5)
    np.testing.assert_array_equal(rows, foreign.expected()[2:5, None])
    with pytest.raises(ValueError, match="has 9 frames, and 10"):
        read_rows(about, run.start["ingest"]["list"], 8, 10)


@pytest.mark.parametrize(("dtype", "colours"), [("u1", 1), ("u2", 1), ("u1", 3), ("u2", 3)])
def test_parts_of_a_picture(tmp_path: Path, dtype: str, colours: int) -> None:
    data = np.arange(40 * 50 * colours).reshape(40, 50, colours).squeeze().astype(dtype)
    path = tmp_path / "a.png"
    cv2.imwrite(str(path), data)
    frame = FrameFile(path)
    assert stored(frame).dtype == part(frame).dtype == np.dtype(dtype)
    assert stored(frame).shape == part(frame).shape == (40, 50)
    path.write_bytes(path.read_bytes()[:-60])
    assert "damaged" in stored(frame).damage
