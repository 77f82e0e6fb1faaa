"""What analysts get from a plain Tiled client: the same from the server's index and from the runs alone."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from tiled.client import from_uri
from tiled.client.container import DEFAULT_STRUCTURE_CLIENT_DISPATCH

from devices.errors import ConfigurationError
from processing.callbacks.catalog import CatalogWriter
from processing.mosaic.pyramid import PyramidStore
from tests.processing.documents import MontageRun
from tests.tiled_server.conftest import Server
from tests.tiled_server.montages import (
    PATIENCE_S,
    PITCH,
    PIXEL_UM,
    SIZE,
    SPECIMEN,
    SPECS,
    Acquired,
    acquire,
    frame_of,
    until,
)
from tiled_server.client import Montage, montage, montages, routes, stage_map, statistics, worst

pytestmark = [pytest.mark.system, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def acquired(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Acquired:
    """The montage, in the catalog and in its index."""
    made = acquire(server, tmp_path_factory.mktemp("client"))
    client = server.client()
    until(lambda: len(_found(client, "notes")) == 1)
    return made


def _found(client: Any, text: str) -> list[Any]:
    """Return the montages of the index that are wholly known."""
    if not routes.Routes(client).there:
        return [None]
    return [
        one
        for one in montages(client, session="s-42")
        if one.counts["exposures"] == 10 and len(one._row["results"].get("live_mosaic", ())) == 2
    ]


@pytest.fixture(params=["index", "runs"])
def client(request: pytest.FixtureRequest, server: Server, acquired: Acquired) -> Iterator[Any]:
    """A client of the server; and a bare one of Tiled, that finds none of the server's routes."""
    if request.param == "runs":
        made = _bare(server)
    else:
        made = server.client()
        if not routes.Routes(made).there:
            pytest.skip("the server has no index")
    yield made
    made.context.close()


def _bare(server: Server) -> Any:
    """Return a client as on a host without bluesky-tiled-plugins, of a server without an index."""
    known = DEFAULT_STRUCTURE_CLIENT_DISPATCH["numpy"]
    added = {"CatalogOfBlueskyRuns", "BlueskyRun", "BlueskyEventStream", "EMMontage"}
    kinds = {name: known[name] for name in known if name not in added}
    made = from_uri(server.uri, api_key=server.key, structure_clients=kinds)
    routes._known[made.context] = False
    return made


@pytest.fixture
def found(client: Any, acquired: Acquired) -> Montage:
    return montage(client, acquired.montage_id)


HERE = timedelta(hours=1)


@pytest.mark.parametrize(
    ("wanted", "count"),
    [
        ({"sample": "mouse 7 hippocampus"}, 1),
        ({"sample": "mouse*campus", "operator": "grace", "proposal": "p-2", "session": "s-42"}, 1),
        ({"session": "s-42", "sample": "mouse 7"}, 0),
        ({"session": "s-42", "text": "FILAMENT hippocampus"}, 1),
        ({"session": "s-42", "text": "filament cerebellum"}, 0),
        ({"session": "s-42", "since": datetime.now() - HERE, "until": datetime.now(UTC) + HERE}, 1),
        ({"session": "s-42", "since": (datetime.now(UTC) + HERE).isoformat()}, 0),
        ({"session": "s-42", "until": "2020-01-01"}, 0),
        ({"session": "s-42", "qc": "good"}, 1),
        ({"session": "s-42", "qc": "fail"}, 0),
    ],
)
def test_montages_are_found(client: Any, wanted: dict[str, Any], count: int) -> None:
    assert len(montages(client, **wanted)) == count


def test_a_list_is_sliced_and_shows_itself(client: Any, acquired: Acquired) -> None:
    every = montages(client)
    names = [one.montage_id for one in every]
    assert acquired.montage_id in names
    assert [one.montage_id for one in every[1:]] == names[1:]
    assert every[-1].montage_id == names[-1]
    assert every.table()["started"].is_monotonic_decreasing
    one = montages(client, session="s-42")
    assert acquired.montage_id in repr(one)
    assert "<table" in one._repr_html_()
    assert len(one[1:]) == 0
    with pytest.raises(IndexError, match="there are 1 montages"):
        one[1]


def test_a_montage_has_a_name_and_runs_have_one_montage(client: Any, acquired: Acquired) -> None:
    of_result = montage(client, acquired.montage_id).results[-1].metadata["start"]["uid"]
    for name in (acquired.uids[0], acquired.uids[1][:8], of_result):
        assert montage(client, name).montage_id == acquired.montage_id
    with pytest.raises(ConfigurationError, match=r"neither a montage nor a run 'm-none'"):
        montage(client, "m-none")


def test_what_a_montage_says_of_itself(found: Montage, acquired: Acquired) -> None:
    assert [run.metadata["start"]["uid"] for run in found.runs] == acquired.uids
    assert found.status == "complete"
    assert found.counts == {
        "asked": 9, "acquired": 9, "passed": 9, "failed": 0, "needs_review": 0, "pending": 0, "exposures": 10
    }  # fmt: skip
    assert found.metadata["operator"] == "grace"
    assert "9 of 9 tiles (9 passed, 1 frames more)" in repr(found)
    page = found._repr_html_()
    assert "data:image/png;base64," in page
    assert "mouse 7 hippocampus" in page


def test_tiles_are_those_of_all_runs(found: Montage, acquired: Acquired) -> None:
    tiles = found.tiles
    assert len(tiles) == 10
    assert tiles["best"].sum() == 9
    twice = tiles[(tiles["row"] == 0) & (tiles["column"] == 1)]
    assert twice["attempt"].tolist() == [0, 1]
    assert twice["best"].tolist() == [False, True]
    assert twice["qc_state"].tolist() == ["fail", "pass"]
    assert twice["faults"].tolist() == ["blurred", ""]
    assert twice["severity"].iloc[0] == 0.8
    assert twice["run_uid"].tolist() == [acquired.uids[0]] * 2
    assert tiles["run_uid"].iloc[-1] == acquired.uids[1]
    assert set(tiles["status"]) == {"acquired"}
    assert set(tiles["transfer_state"]) == {"unknown"}
    best = found.best
    # the stage of this montage is right: tiles lie where it says, within a pixel
    assert np.abs(best["solved_x_um"] - best["centre_x_um"]).max() < PIXEL_UM
    assert best["residual_px"].notna().all()
    assert tiles["time"].dt.tz is not None
    assert tiles["readout_time_s"].tolist() == [0.05] * 10


def test_the_index_and_the_runs_give_the_same(server: Server, acquired: Acquired) -> None:
    with_index, without = server.client(), _bare(server)
    if not routes.Routes(with_index).there:
        pytest.skip("the server has no index")
    one, other = (montage(client, acquired.montage_id) for client in (with_index, without))
    pd.testing.assert_frame_equal(one.tiles, other.tiles)
    pd.testing.assert_frame_equal(one.heatmap("sharpness")[0], other.heatmap("sharpness")[0])
    assert one.counts == other.counts
    names = set(one._row) - {"access_tags"}
    assert {name: one._row[name] for name in names} == {name: other._row[name] for name in names}
    first, second = one.statistics("focus_score"), other.statistics("focus_score")
    assert first.keys() == second.keys()
    assert all(first[name] == pytest.approx(second[name]) for name in first)
    ranked = [worst(client, session="s-42", by="sharpness", n=4) for client in (with_index, without)]
    maps = [stage_map(client, session="s-42", metric="sharp", bins=5) for client in (with_index, without)]
    for name in ("values", "counts"):
        pd.testing.assert_frame_equal(getattr(maps[0], name), getattr(maps[1], name))
    assert maps[0].counts.to_numpy().sum() == 9
    assert "9 tiles, 5 x 5 squares" in repr(maps[0])
    for client in (with_index, without):
        of_sample = stage_map(client, session="s-42", sample="mouse*", metric="sharp", bins=5)
        pd.testing.assert_frame_equal(of_sample.values, maps[0].values)
        assert of_sample.title == "s-42, mouse*"
        assert len(worst(client, session="s-42", sample="other")) == 0
        assert statistics(client, sample="mouse 7 hippocampus")["count"] == 9
        with pytest.raises(ConfigurationError, match="montage and sample are both given"):
            worst(client, montage=acquired.montage_id, sample="other")
    assert repr(stage_map(without, session="none")) == "<StageMap of focus_score, dB; no tiles>"
    assert repr(stage_map(with_index, session="none")) == "<StageMap of focus_score, dB; no tiles>"
    columns = ["montage_id", "row", "column", "attempt", "value", "qc_state"]
    pd.testing.assert_frame_equal(ranked[0][columns], ranked[1][columns], check_dtype=False)
    without.context.close()


def test_what_the_server_says_of_a_wrong_question(server: Server, acquired: Acquired) -> None:
    asked = routes.Routes(server.client())
    if not asked.there:
        pytest.skip("the server has no index")
    with pytest.raises(ConfigurationError, match=r"the catalog refuses this: qc = 'bad'"):
        asked.json("montages", qc="bad")
    with pytest.raises(KeyError, match="m-none"):
        asked.json("montages", "m-none")
    with pytest.raises(KeyError, match="Not Found"):
        asked.json("montages", "../worst")


def test_frames_are_as_the_camera_made_them(found: Montage) -> None:
    np.testing.assert_array_equal(found.image(2, 1), frame_of(2, 1))
    np.testing.assert_array_equal(found.image(0, 1), frame_of(0, 1))
    assert (found.image(0, 1, attempt=0) == 700).all()
    with pytest.raises(ConfigurationError, match=r"no tile at row 9, .*rows 0 to 2, columns 0 to 2"):
        found.image(9, 0)
    with pytest.raises(ConfigurationError, match="no tile at row 0, column 0 of region 4; it has regions"):
        found.image(0, 0, roi=4)
    with pytest.raises(ConfigurationError, match=r"attempt = 2 .* there are \[0, 1\]"):
        found.image(0, 1, attempt=2)


def test_a_stack_is_read_where_it_is_looked_at(found: Montage) -> None:
    stack = found.stack()
    assert stack.shape == (9, SIZE, SIZE)
    assert stack.chunksize == (1, SIZE, SIZE)
    sizes = _watched(found)
    part = stack[4, 10:20, 30:60].compute()
    np.testing.assert_array_equal(part, frame_of(1, 1)[10:20, 30:60])
    assert sizes == [part.nbytes]
    at = int(np.flatnonzero((found.best["row"] == 0) & (found.best["column"] == 1))[0])
    np.testing.assert_array_equal(stack[at].compute(), frame_of(0, 1))


def test_a_region_of_a_mosaic_is_read_where_it_is_looked_at(found: Montage, acquired: Acquired) -> None:
    mosaic = found.mosaic()
    assert acquired.mosaic is not None
    with PyramidStore.open(acquired.mosaic) as store:
        expected = store.read(0, 100, 50, 180, 250)
        assert mosaic.shape == store.geometry.level_shape(0)
        assert found.mosaic(-1).shape == store.geometry.level_shape(store.levels - 1)
    sizes = _watched(found)
    region = mosaic[100:180, 50:250].compute()
    np.testing.assert_array_equal(region, expected)
    assert sizes == [region.nbytes]
    with pytest.raises(ConfigurationError, match="level = 99"):
        found.mosaic(99)
    with pytest.raises(ConfigurationError, match="no mosaic of region 3"):
        found.mosaic(roi=3)


def _watched(found: Montage) -> list[int]:
    """Return a list that gets the size of each array that is sent from now on, bytes."""
    sizes: list[int] = []

    def note(response: Any) -> None:
        if "/array/full/" in str(response.url):
            response.read()
            sizes.append(len(response.content))

    found.client.context.http_client.event_hooks["response"].append(note)
    return sizes


def test_a_heatmap_shows_numbers_where_the_tiles_lie(found: Montage) -> None:
    heatmap = found.heatmap("focus")
    assert heatmap.metric == "focus_score"
    assert heatmap.label == "focus_score, dB"
    np.testing.assert_allclose(heatmap.to_numpy(), [[-10, -10.5, -11], [-11, -11.5, -12], [-12, -12.5, -13]])
    assert list(heatmap) == [0]
    assert heatmap[0].loc[2, 1] == -12.5
    assert "3 x 3" in repr(heatmap)
    assert "<table" in heatmap._repr_html_()
    with pytest.raises(ConfigurationError, match="no region 5"):
        heatmap[5]
    for name, said in (("sharpnes_", "did you mean 'sharpness'"), ("sh", "may be sharpness, shading")):
        with pytest.raises(ConfigurationError, match=said):
            found.heatmap(name)


def test_the_worst_and_their_statistics(client: Any, found: Montage, acquired: Acquired) -> None:
    table = found.worst(2, by="sharpness")
    assert list(zip(table["row"], table["column"], strict=True)) == [(0, 0), (0, 1)]
    assert table["value"].tolist() == pytest.approx([0.5, 0.51])
    plain = found.worst(3)  # nothing that counts has a fault
    assert plain["value"].isna().all()
    assert plain["focus_score"].tolist() == found.worst(3, by="focus_score")["value"].tolist()
    with pytest.raises(ConfigurationError, match="n = 0"):
        found.worst(0)
    with pytest.raises(ConfigurationError, match="neither a small nor a large x_um"):
        found.worst(by="x_um")
    everywhere = worst(client, session="s-42", by="sharpness", n=3)
    assert everywhere["montage_id"].tolist() == [acquired.montage_id] * 3
    assert everywhere["value"].tolist() == pytest.approx([0.5, 0.51, 0.52])
    numbers = statistics(client, montage=found, metric="sharpness")
    assert numbers["count"] == 9
    assert numbers["median"] == pytest.approx(0.54)
    assert numbers["states"] == {"pass": 9}
    with pytest.raises(ConfigurationError, match="montage and session are both given"):
        worst(client, montage=found, session="s-42")


def test_what_happened_when(found: Montage) -> None:
    timeline = found.timeline()
    times = timeline[timeline["what"] != "again"]
    assert times["what"].tolist() == [
        "began", "hold", "result", "result", "interrupted",
        "resumed", "focus", "verdict", "result", "result", "ended",
    ] or sorted(times["what"]) == sorted(
        ["began", "hold", "interrupted", "resumed", "focus", "verdict", "ended", *["result"] * 4]
    )  # fmt: skip
    assert timeline["time"].is_monotonic_increasing
    again = timeline[timeline["what"] == "again"].iloc[0]
    assert again["text"] == "row 0 column 1, attempt 1, after blurred"
    assert (again["row"], again["column"], again["attempt"]) == (0, 1, 1)
    assert times.set_index("what").loc["focus", "text"] == "sharpness: +0.25 um, defocus now -1.5 um"


def test_what_it_comes_from(found: Montage, acquired: Acquired) -> None:
    tree = found.provenance()
    assert [run["uid"] for run in tree["runs"]] == acquired.uids
    assert [run["frames"] for run in tree["runs"]] == [7, 3]
    assert tree["runs"][1]["resumes"] == acquired.uids[:1]
    assert tree["calibrations"] == [
        {"uid": "no-such-calibration", "found": False, "what": None, "time": None}
    ]
    assert tree["software"] == {"montango": ["0.1.0"]}
    newest = [one for one in tree["results"] if one["recipe"] == "live_mosaic"][-1]
    assert sorted(newest["inputs"]) == sorted(acquired.uids)
    json.dumps(tree)
    text = str(tree)
    assert f"run {acquired.uids[0][:8]} montage" in text
    assert "abort (interrupted)" in text
    assert "not in this catalog" in text


def test_pictures_lie_where_the_stage_was(found: Montage) -> None:
    from matplotlib import pyplot as plt

    picture = found.picture()
    assert picture is not None
    # a pixel of the specimen is 0.01 um, and pixel (0, 0) of the mosaic one corner of the first tile
    np.testing.assert_allclose(picture.origin_um, [0.2, 0.2], atol=2 * PIXEL_UM)
    inner = picture.pixels[20:400, 20:400].astype(float)
    assert np.corrcoef(inner.ravel(), SPECIMEN[40:420, 40:420].astype(float).ravel())[0, 1] > 0.95
    figure = found.plot()
    (ax,) = figure.axes
    assert ax.get_xlabel() == "stage x, um"
    wide = PIXEL_UM * (2 * PITCH + SIZE)
    assert ax.get_xlim() == pytest.approx((0.195, 0.195 + wide), abs=3 * PIXEL_UM)
    assert ax.get_ylim() == pytest.approx((0.195 + wide, 0.195), abs=3 * PIXEL_UM)  # rows go down
    assert len(found.heatmap("sharpness").plot().axes) == 2  # with its scale
    assert len(stage_map(found.client, montage=found).plot().axes) == 2
    assert len(found.plot_worst(2, by="sharpness").axes) == 2
    overview = found.overview()
    assert overview.shape == pytest.approx(picture.pixels.shape, abs=4)
    plt.close("all")


def test_a_montage_is_looked_at_while_it_goes_on(server: Server, tmp_path: Path) -> None:
    writer = CatalogWriter(server.uri, server.key, tmp_path, batch_size=1, flush_s=0.0)
    run = MontageRun(server.data, (64, 64), writer, montage_id="m-going-on", sample="s", tiled_specs=SPECS)
    run.tiles(np.full((2, 64, 64), 5, np.uint16))
    assert writer.drain(PATIENCE_S)
    client = server.client()
    going = montage(client, "m-going-on")
    assert going.status == "running"
    assert len(going.tiles) == 2
    with pytest.raises(ConfigurationError, match=r"m-going-on \(running\) has no mosaic of region 0"):
        going.mosaic()
    with pytest.raises(ConfigurationError, match="has neither mosaic nor overview"):
        going.plot()
    assert "2 tiles (2 pending)" in going._repr_html_()
    run.tiles(np.full((1, 64, 64), 6, np.uint16), row=0, column=2)
    run.stop()
    assert writer.close(PATIENCE_S)
    assert len(going.tiles) == 2
    until(lambda: going.refresh() or len(going.tiles) == 3)  # type: ignore[func-returns-value]
    until(lambda: going.refresh() or going.status == "complete")  # type: ignore[func-returns-value]
    assert (going.image(0, 2) == 6).all()
