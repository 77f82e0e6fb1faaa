"""`montango export`, from a journal without a lab that is up."""

from __future__ import annotations

from pathlib import Path

import mrcfile
import pytest
from typer.testing import CliRunner

from devices.errors import ConfigurationError
from montango.cli.app import app
from montango.lab.state import STATE_VARIABLE
from tests.tiled_server.exported_montage import MONTAGE, Made, make_montage
from tiled_server.exports.options import SUFFIXES, Format


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("lab")
    (folder / "data").mkdir()
    return make_montage(folder, folder / "data")


@pytest.fixture(autouse=True)
def _lab(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(STATE_VARIABLE, str(made.journal.parent))


def run(*words: str | Path) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["export", *map(str, words)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout


@pytest.mark.parametrize("to", sorted(Format))
def test_each_format_is_written_by_name(tmp_path: Path, to: Format) -> None:
    code, text = run(MONTAGE, "--to", to.value, "--out", tmp_path, "--roi", "0")

    assert code == 0, text
    path = tmp_path / f"{MONTAGE}-region-0{SUFFIXES[to]}"
    assert path.exists()
    assert f"written: {path}" in text
    assert "left out: 1 frames of 1 other regions" in text


def test_into_the_working_directory_by_default(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, text = run(made.uids[0][:8], "--to", "mrc", "--attempts", "all")

    assert code == 0
    assert "left out" not in text
    assert "(8 frames, 1.5 MB)" in text
    with mrcfile.open(f"{MONTAGE}.mrc", header_only=True) as file:
        assert int(file.header.nz) == 8
    assert {one.name for one in tmp_path.iterdir()} == {f"{MONTAGE}.mrc", f"{MONTAGE}.mrc.mdoc"}


def test_mistakes_are_one_line(made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigurationError, match=f"no montage 'm2026'; .* is '{MONTAGE}'"):
        run("m2026", "--to", "csv", "--out", tmp_path)
    code, _ = run(MONTAGE, "--to", "jpeg", "--out", tmp_path)
    assert code == 2
    with pytest.raises(ConfigurationError, match="names no montage"):
        run("http://127.0.0.1:9", "--to", "csv", "--out", tmp_path)
    monkeypatch.setenv(STATE_VARIABLE, str(tmp_path / "none"))
    with pytest.raises(ConfigurationError, match=r"no journal .*--state"):
        run(MONTAGE, "--to", "csv", "--out", tmp_path)
    assert list(tmp_path.iterdir()) == []
