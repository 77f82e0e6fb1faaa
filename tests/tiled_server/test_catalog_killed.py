"""A catalog whose server is killed under writers and readers: nothing is lost, nothing is there twice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pandas as pd
import pytest

from devices.errors import DeviceLost, MontangoError
from montango.bench._catalog_readers import away
from montango.bench.catalog_kill import kill_catalog, report
from processing.callbacks._catalog_run import RunWriter, write_run
from processing.callbacks.journal import Journal
from tests.tiled_server.kept_catalog import QUIETLY, SmallRun, opened
from tiled_server.client import Montage
from tiled_server.operations.check import check
from tiled_server.operations.stores import Stores

pytestmark = QUIETLY


@pytest.mark.system
@pytest.mark.timeout(600)
def test_killed_under_writers_and_readers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    outcome = kill_catalog(tmp_path, 2.0, writers=2, readers=2, up_s=(0.5, 1.5), pace_s=0.3, pause_s=0.3)
    report(outcome)
    assert outcome.faults == [], capsys.readouterr().out
    assert outcome.kills
    assert sum(one.runs for one in outcome.written) > 0
    assert all(one.images for one in outcome.read), "each reader saw frames of montages that were complete"
    assert len(outcome.recovered_s) == len(outcome.read) * len(outcome.kills)


@pytest.mark.parametrize("rows_arrived", [True, False])
def test_rows_whose_answer_is_lost_are_there_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows_arrived: bool
) -> None:
    """The server is killed after it wrote events, or before: nobody can tell, and nobody guesses."""
    stores, data = Stores(tmp_path / "state"), tmp_path / "data"
    data.mkdir()
    journal = Journal(stores.journal)
    documents: list[tuple[str, dict[str, Any]]] = []

    def emit(name: str, doc: dict[str, Any]) -> None:
        journal(name, doc)
        documents.append((name, doc))

    SmallRun(emit, data)
    with opened(stores, data) as client:
        send = client.context.http_client.patch
        lost: list[Any] = []

        def patch(url: Any, **parameters: Any) -> Any:
            if lost or "/table/" not in str(url):
                return send(url, **parameters)
            lost.append(url)
            if rows_arrived:
                send(url, **parameters)
            raise httpx.ReadError("the connection broke")

        monkeypatch.setattr(client.context.http_client, "patch", patch)
        write = RunWriter(client)
        with pytest.raises(httpx.ReadError):
            _write_all(write, documents)
        assert len(lost) == 1
        assert write_run(client, documents) == "completed"
    assert check(stores, settled_after_s=0.0).faults == []


def test_tiles_of_an_index_that_catches_up_are_not_taken_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a restart a montage may be found complete by its runs, while the index has it as it was."""
    asked: list[tuple[str, ...]] = []

    class Index:
        there = True

        def __init__(self, client: object) -> None:
            del client

        def table(self, *path: str) -> pd.DataFrame:
            asked.append(path)
            return pd.DataFrame({"run_uid": []})

    monkeypatch.setattr("tiled_server.client._montage.Routes", Index)
    row = {"montage_id": "m-1", "status": "complete", "exposures": None}
    for found, times in ((row | {"words": "m"}, 0), (row, 1)):
        montage = Montage(None, found)
        vars(montage)["_tile_runs"] = []
        _ = montage._indexed
        assert len(asked) == times


def _write_all(write: RunWriter, documents: list[tuple[str, dict[str, Any]]]) -> None:
    for name, doc in documents:
        write(name, doc)


def test_which_errors_say_that_the_server_is_away() -> None:
    request = httpx.Request("GET", "http://x")
    assert away(httpx.ConnectError("refused"))
    assert away(DeviceLost("gone"))
    assert away(httpx.HTTPStatusError("", request=request, response=httpx.Response(503)))
    for error in (
        httpx.HTTPStatusError("", request=request, response=httpx.Response(404)),
        KeyError("no montage"),
        MontangoError("the catalog answers 400"),
    ):
        assert not away(error)
