"""`montango bench catalog`: the fast way of filling a catalog makes what the normal way makes."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from devices.errors import ConfigurationError
from montango.bench._catalog_export import measure, write_journal
from montango.bench._catalog_fill import CHECKED, Catalog, begin, fill, spot_check
from montango.bench._catalog_made import Made
from montango.bench._catalog_questions import Question, Times, wrong_answers
from montango.bench._catalog_server import Place, serving, wait_for_index
from montango.bench.catalog import _line, run
from tiled_server.exports.options import Format


def test_a_montage_follows_from_its_seed() -> None:
    first, again, other = Made(1, 7, 50).verdicts(), Made(1, 7, 50).verdicts(), Made(2, 7, 50).verdicts()
    np.testing.assert_array_equal(first["focus_score"], again["focus_score"])
    assert (first["focus_score"] != other["focus_score"]).all()
    assert Made(1, 7, 50).start() == Made(1, 7, 50).start()


@pytest.mark.system
def test_the_fast_way_is_the_normal_way(tmp_path: Path) -> None:
    catalog = Catalog(Place(tmp_path), seed=3, tiles=12, large_tiles=20)
    with serving(catalog.place) as running, running.http() as client:
        begin(catalog, running)
        fill(catalog, 45)
        assert len(catalog.left) == CHECKED
        assert len(spot_check(catalog)) == 2 * CHECKED  # the server has not read them yet
        client.post("/custom/index").raise_for_status()
        wait_for_index(running)
        # now it has read all of them
        catalog.left = list(range(1, 45))
        assert spot_check(catalog) == []
        assert wrong_answers(client, catalog) == []
        answer = client.get("/custom/montages", params={"limit": 0}).json()
        assert answer["count"] == 46
    index = tmp_path / "catalog" / "index.db"
    made = catalog.made(catalog.left[0])
    with closing(sqlite3.connect(index)) as database, database:
        database.execute(
            "UPDATE tiles SET sharpness = sharpness + 1e-6 WHERE run_uid = ? AND tile_index = 3", (made.uid,)
        )
    assert spot_check(catalog) == [f"{made.montage_id}: the rows of its tiles differ"]


def test_memory_of_an_export_is_told(tmp_path: Path) -> None:
    montage_id = write_journal(tmp_path, 40, seed=1)
    done = measure(tmp_path, montage_id, Format.OME_ZARR)
    assert done.tiles == 40
    assert 0 < done.read_mb <= done.tenth_mb <= done.end_mb
    assert done.size_mb > 0


@pytest.mark.parametrize(
    ("p95", "limits", "kept"), [(99.0, True, True), (101.0, True, False), (101.0, False, True)]
)
def test_limits(p95: float, limits: bool, kept: bool, capsys: pytest.CaptureFixture[str]) -> None:
    question = Question("search by sample", lambda _: ("montages", {}), 100)
    assert _line(question, [Times(1, 1, 1), Times(50, p95, 200)], limits=limits) is kept
    assert ("NOT KEPT" in capsys.readouterr().out) is (not kept)


@pytest.mark.parametrize(
    ("words", "said"),
    [(["--montages", "3"], "--montages 3"), (["--export-tiles", "0"], "--export-tiles 0")],
)
def test_options_out_of_range(words: list[str], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        run(words)
