"""`montango stitch`, from files and from a journal without a lab that is up."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from devices.errors import ConfigurationError
from montango.cli.app import app
from montango.lab.state import STATE_VARIABLE
from processing.callbacks.journal import Journal
from tests.processing.documents import MontageRun
from tests.processing.tile_folders import HEIGHT, STEP, WIDTH, cut, worst_px, write_folder


@pytest.fixture(autouse=True)
def _no_lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(STATE_VARIABLE, str(tmp_path / "no-lab"))


@pytest.fixture(scope="module")
def tiles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiles")
    write_folder(folder, cut(2, 2)[0], 2)
    return folder


def run(*words: str | Path) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["stitch", *map(str, words)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout


def test_everything_is_written(tiles: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    code, text = run(tiles, "--out", out, "--overlap", "0.2,0.22", "--search-px", "24")

    assert code == 0, text
    assert "tiles: 4, 4 of them matched" in text
    names = {one.name for one in out.iterdir()}
    assert names >= {
        "positions.csv", "solution.json", "trakem2.xml", "render.json", "feabas.txt", "mosaic.ome.zarr",
        "overview.png", "report.html",
    }  # fmt: skip
    with pytest.raises(ConfigurationError, match="--overwrite"):
        run(tiles, "--out", out)

    again, text = run(
        tiles, "--out", out, "--overlap", "0.2,0.22", "--field", out / "solution.json", "--overwrite",
        "--blend", "feather",
    )  # fmt: skip
    assert again == 0
    assert json.loads((out / "solution.json").read_text())["field_origin"] == "given"


def test_coordinates_alone(tiles: Path, tmp_path: Path) -> None:
    code, _ = run(tiles, "--out", tmp_path / "out", "--no-mosaic", "--search-px", "50")

    assert code == 0
    assert not (tmp_path / "out" / "mosaic.ome.zarr").exists()
    assert (tmp_path / "out" / "report.html").exists()


def test_tiles_that_do_not_match_are_a_failure_and_still_placed(tmp_path: Path) -> None:
    write_folder(tmp_path / "in", [np.full((64, 80), 9, np.uint8)] * 2, 2)

    code, text = run(tmp_path / "in", "--out", tmp_path / "out", "--no-mosaic")

    assert code == 1
    assert "s_1_1.png: prior-only" in text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--dark", "d.png"], "given together"),
        (["--overlap", "ten"], "one number"),
        (["--overlap", "0.95"], "0 to 0.9"),
        (["--field", "none.json"], "cannot be used"),
        (["--section", "1"], "is a folder"),
    ],
)
def test_wrong_options_are_explained(tiles: Path, tmp_path: Path, words: list[str], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        run(tiles, "--out", tmp_path / "out", *words)
    assert not list(tmp_path.glob("out/*"))


def test_a_montage_is_looked_for_in_the_journal(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"no journal .*no-lab.*--state"):
        run("20261121-a")
    (tmp_path / "no-lab" / "journal").mkdir(parents=True)
    with pytest.raises(ConfigurationError, match="has no montage '20261121-a'"):
        run("20261121-a")


def test_a_montage_of_several_runs_is_stitched_from_its_best_attempts(tmp_path: Path) -> None:
    frames, true = cut(2, 2)
    counts = [frame.astype(np.uint16) * 100 for frame in frames]
    spoiled = np.full_like(counts[0], 500)
    journal = Journal(tmp_path / "lab" / "journal")
    # a camera turned by 90 deg: its x is the stage's y, its y the stage's -x
    places = [(-0.01 * STEP[1] * (k // 2), 0.01 * STEP[0] * (k % 2)) for k in range(4)]
    spec = {"rows": 2, "columns": 2}
    for tiles in (
        ((0, 0, "pass"), (1, 0, "fail"), (2, 0, "pass")),
        ((1, 1, "pass"), (3, 0, "pass"), (2, 1, "fail")),
    ):
        run = MontageRun(tmp_path, (HEIGHT, WIDTH), journal, image_rotation_deg=90.0, montage_spec=spec)
        for index, (tile, attempt, state) in enumerate(tiles):
            frame = counts[tile] if state == "pass" else spoiled
            run.tiles([frame], [places[tile]], row=tile // 2, column=tile % 2, attempt=attempt)
            run.verdict({"tile_index": index, "qc_state": state})
        run.stop()
    journal.close()

    runner = CliRunner()
    words = [
        "--state",
        tmp_path / "lab",
        "stitch",
        run.uid[:12],
        "--out",
        tmp_path / "out",
        "--search-px",
        "30",
    ]
    result = runner.invoke(app, [*map(str, words)], catch_exceptions=False)

    assert "tiles: 4, 4 of them matched" in result.stdout
    with (tmp_path / "out" / "positions.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert [int(line["attempt"]) for line in lines] == [0, 1, 0, 0]
    found = np.array([(float(line["x_px"]), float(line["y_px"])) for line in lines])
    assert worst_px(found, true) < 0.1
    mosaic = json.loads((tmp_path / "out" / "mosaic.ome.zarr" / "zarr.json").read_text())
    assert len(mosaic["attributes"]["montango"]["input_uids"]) == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--workers", "2"], "--workers is for --dask local"),
        (["--dask", "tcp://h:1", "--workers", "2"], "--workers is for --dask local"),
    ],
)
def test_workers_are_for_a_local_cluster(tmp_path: Path, words: list[str], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        run(tmp_path / "not-read", *words)


def test_a_run_that_was_cut_off_goes_on(tiles: Path, tmp_path: Path) -> None:
    out, words = tmp_path / "out", ("--overlap", "0.2,0.22", "--search-px", "24")
    # a folder where a table is to be written
    (out / "positions.csv").mkdir(parents=True)
    with pytest.raises(IsADirectoryError):
        run(tiles, "--out", out, *words)
    assert list((out / ".stitching").glob("match_job-*.job"))
    (out / "positions.csv").rmdir()

    result = CliRunner().invoke(app, ["stitch", str(tiles), "--out", str(out), *words])
    assert result.exit_code == 0, result.exception
    assert re.search(r"going on in \S+, where \d+ parts are done", result.stderr)
    assert not (out / ".stitching").exists()
    assert (out / "mosaic.ome.zarr").exists()
