"""`montango ingest`: without a lab that is up, the journal has it and the catalog comes later."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from montango.cli.app import app
from processing.callbacks.journal import find_runs
from tests.tiled_server import foreign_montages as foreign


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """Return the state directory of a lab that is down."""
    made = tmp_path / "state"
    (made / "data").mkdir(parents=True)
    return made


def test_into_the_journal(state: Path) -> None:
    tiles = foreign.pictures(state / "data" / "tiles")
    command = ["--state", str(state), "ingest", str(tiles), "--pixel-size-nm", "10", "--sample", "mouse 3"]
    done = CliRunner().invoke(app, command)
    assert "9 tiles added" in done.output, done.output
    assert "montango journal replay" in done.output
    assert done.exit_code == 1
    (run,) = find_runs(state / "journal")
    assert run.start["sample"] == "mouse 3"
    again = CliRunner().invoke(app, command)
    assert "0 tiles added, 9 are there already" in again.output


def test_one_of_several_is_refused_and_the_rest_goes_in(state: Path) -> None:
    folder = state / "data" / "scope"
    folder.mkdir()
    foreign.serialem(folder, "a")
    (folder / "b.mdoc").write_text("PixelSpacing = 1\n\n[ZValue = 0]\nTiltAngle = 3\n")
    done = CliRunner().invoke(app, ["--state", str(state), "ingest", str(folder)])
    assert "9 tiles added" in done.output, done.output
    assert "b.mdoc is not ingested" in done.output
    assert done.exit_code == 1


def test_one_id_is_for_one_montage(state: Path) -> None:
    folder = state / "data" / "scope"
    folder.mkdir()
    foreign.serialem(folder, "a")
    foreign.serialem(folder, "b")
    done = CliRunner().invoke(app, ["--state", str(state), "ingest", str(folder), "--montage-id", "x"])
    assert done.exit_code != 0
    assert "--montage-id x is for one montage" in str(done.exception)
    assert not (state / "journal").exists()
