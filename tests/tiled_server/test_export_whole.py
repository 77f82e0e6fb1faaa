"""An export is whole or not there: errors before it begins, and after."""

from __future__ import annotations

import os
import resource
import shutil
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from devices.errors import ConfigurationError, MontangoError
from tests.tiled_server.exported_montage import MONTAGE, Made, make_montage
from tiled_server.exports.export import ExportError, export
from tiled_server.exports.journal import from_journal
from tiled_server.exports.montage import Montage
from tiled_server.exports.options import FOLDERS, ExportOptions, Format
from tiled_server.exports.output import check_space
from tiled_server.exports.zip_file import ZipWriter

FIRST = ExportOptions(roi=0)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("lab")
    (folder / "data").mkdir()
    return make_montage(folder, folder / "data")


@pytest.fixture(scope="module")
def montage(made: Made) -> Montage:
    return from_journal(made.journal, MONTAGE)


@contextmanager
def files_up_to(size: int) -> Iterator[None]:
    """Let no file of this process grow beyond a size, bytes: a write fails as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("to", sorted(Format))
def test_nothing_is_left_on_a_full_disk(montage: Montage, tmp_path: Path, to: Format) -> None:
    with files_up_to(1000), pytest.raises(ExportError, match=r"was not written, the disk is full.* --out"):
        export(montage, to, tmp_path, FIRST)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("to", sorted(Format))
def test_nothing_is_left_of_an_export_that_was_ended(montage: Montage, tmp_path: Path, to: Format) -> None:
    seen: list[list[str]] = []

    def report(done: int, of: int, written: int) -> None:
        if done:
            seen.append([path.name for path in tmp_path.iterdir()])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export(montage, to, tmp_path, FIRST, report=report)
    assert seen[0]
    assert all(name.startswith(".") or name.endswith(".part") for name in seen[0])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("to", sorted(Format))
def test_what_is_there_stays_without_overwrite(montage: Montage, tmp_path: Path, to: Format) -> None:
    first = export(montage, to, tmp_path, FIRST).paths[0]
    if to in FOLDERS:
        (first / "note").write_text("mine")
    with pytest.raises(ConfigurationError, match=r"exists already: .*--overwrite"):
        export(montage, to, tmp_path, FIRST)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    steps: list[tuple[int, int, int]] = []
    done = export(montage, to, tmp_path, FIRST, overwrite=True, report=lambda *one: steps.append(one))
    assert done.paths[0] == first
    assert steps[-1][0] == steps[-1][1] > 0
    assert (first / "note").exists() is False
    assert before[first] != first.stat().st_mtime_ns
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_a_folder_of_the_user_is_not_overwritten(montage: Montage, tmp_path: Path) -> None:
    (tmp_path / "notes").write_text("x")
    (tmp_path / f"{MONTAGE}-region-0-trakem2").mkdir()
    with pytest.raises(ConfigurationError, match="is a folder that no export made"):
        export(montage, Format.TRAKEM2, tmp_path, FIRST, overwrite=True)
    with pytest.raises(ConfigurationError, match="is a file, and the export is a folder"):
        export(montage, Format.RENDER, tmp_path / "notes", FIRST, overwrite=True)
    assert (tmp_path / "notes").read_text() == "x"


def test_mistakes_are_told_before_anything_is_written(montage: Montage, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"--roi 7: .* it has 0, 1"):
        export(montage, Format.CSV, tmp_path, ExportOptions(roi=7))
    with pytest.raises(ConfigurationError, match="no folder"):
        export(montage, Format.CSV, tmp_path / "none" / "a.csv")
    with pytest.raises(ConfigurationError, match="--level is for mosaics"):
        export(montage, Format.MRC, tmp_path, ExportOptions(level=2))
    with pytest.raises(ConfigurationError, match="leave out --attempts all"):
        export(montage, Format.RENDER, tmp_path, ExportOptions(attempts="all"))
    with pytest.raises(ConfigurationError, match=r"GB free and the export takes 1000000.00 GB: make room"):
        check_space(tmp_path, 10**15)
    assert list(tmp_path.iterdir()) == []


def test_missing_frames_are_named(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    made = make_montage(tmp_path, tmp_path / "data")
    size = made.files[1].stat().st_size
    os.truncate(made.files[1], size - 100_000)
    cut_off = from_journal(made.journal, MONTAGE)
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(ConfigurationError, match=rf"{made.uids[1]}: .*--allow-missing"):
        export(cut_off, Format.CSV, out)
    assert list(out.iterdir()) == []
    made.files[1].unlink()
    gone = from_journal(made.journal, MONTAGE)
    with pytest.raises(ConfigurationError, match=r"its file .* is gone \(4 frames\)"):
        export(gone, Format.MRC, out)
    done = export(gone, Format.MRC, out, ExportOptions(allow_missing=True))
    assert done.frames == 4
    assert any("is gone" in note for note in done.notes)


def test_a_frame_that_fails_on_the_way_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    made = make_montage(tmp_path, tmp_path / "data")
    montage = from_journal(made.journal, MONTAGE)
    shutil.copyfile(made.files[0], made.files[1])
    out = tmp_path / "out"
    out.mkdir()
    made.files[1].write_bytes(b"no file of frames")
    with pytest.raises(MontangoError, match="cannot be read"):
        export(montage, Format.RO_CRATE, out)
    assert list(out.iterdir()) == []


def test_a_run_that_goes_on_is_told(made: Made, tmp_path: Path) -> None:
    shutil.copytree(made.journal, tmp_path / "journal")
    (path,) = (tmp_path / "journal").glob(f"*/{made.uids[1]}.jsonl")
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    done = export(from_journal(tmp_path / "journal", MONTAGE), Format.CSV, tmp_path / "a.csv")
    assert f"run {made.uids[1]} has not ended: what it has so far" in done.notes


def test_a_montage_is_found_by_its_run_and_the_nearest_is_named(made: Made) -> None:
    assert from_journal(made.journal, made.uids[1][:8]).montage_id == MONTAGE
    with pytest.raises(
        ConfigurationError, match=f"no montage 'm20260102-0a1b2d'; the nearest is '{MONTAGE}'"
    ):
        from_journal(made.journal, "m20260102-0a1b2d")


def test_zip_of_more_members_than_the_old_directory_holds(tmp_path: Path) -> None:
    path = tmp_path / "many.zip"
    count = 70_000
    with ZipWriter(path) as archive:
        for number in range(count):
            archive.add(f"ä/{number}", b"%d" % number)
        archive.add("last", iter([b"ab", b"", b"cd"]))
        archive.add("view", memoryview(bytes(3 << 20)))
    with zipfile.ZipFile(path) as read:
        names = read.namelist()
        assert len(names) == count + 2
        assert read.read("ä/69999") == b"69999"
        assert (read.read("last"), len(read.read("view"))) == (b"abcd", 3 << 20)
        assert zlib.crc32(b"7") == read.getinfo("ä/7").CRC
    assert [one.name for one in tmp_path.iterdir()] == ["many.zip"]
