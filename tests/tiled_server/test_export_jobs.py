"""Exports over HTTP: asked for, followed, downloaded in parts, bounded, and not another's to see."""

from __future__ import annotations

import io
import json
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import mrcfile
import numpy as np
import pandas as pd
import pytest
from mdocfile.data_models import Mdoc  # type: ignore[import-untyped]

from processing.callbacks.catalog import CatalogWriter
from processing.stitching.tiled_frames import close_clients
from tests.tiled_server.conftest import KEY, Server
from tests.tiled_server.exported_montage import MONTAGE, Made, labels, make_montage
from tiled_server.exports.catalog import from_address
from tiled_server.exports.jobs import Access, Job, Jobs, Limits, Refused
from tiled_server.exports.journal import from_journal
from tiled_server.exports.options import ExportOptions, Format

pytestmark = [pytest.mark.system, pytest.mark.timeout(600)]
PATIENCE_S = 180.0


@pytest.fixture(scope="module")
def made(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("lab")
    server.data.mkdir(exist_ok=True)
    writer = CatalogWriter(server.uri, server.key, folder / "journal")
    found = make_montage(folder, server.data, writer)
    assert writer.close(PATIENCE_S)
    return found


@pytest.fixture
def web(server: Server) -> Iterator[httpx.Client]:
    headers = {"Authorization": f"Apikey {KEY}"}
    with httpx.Client(base_url=f"{server.uri}/custom", headers=headers, timeout=60) as client:
        yield client


def finished(web: httpx.Client, job_id: str) -> dict[str, Any]:
    deadline = time.monotonic() + PATIENCE_S
    while True:
        state: dict[str, Any] = web.get(f"/exports/{job_id}").raise_for_status().json()
        if state["state"] in ("done", "failed"):
            return state
        assert time.monotonic() < deadline, state
        time.sleep(0.05)


def ended(jobs: Jobs, job: Job) -> Job:
    deadline = time.monotonic() + PATIENCE_S
    while True:
        found = jobs.get(job.id, job.owner)
        assert found is not None
        if found.state in ("done", "failed"):
            return found
        assert time.monotonic() < deadline, found
        time.sleep(0.05)


def test_a_catalog_gives_the_montage_that_the_journal_has(server: Server, made: Made) -> None:
    found, own = from_address(f"{server.uri}/{MONTAGE}", KEY), from_journal(made.journal, MONTAGE)
    close_clients()
    pd.testing.assert_frame_equal(found.table[own.table.columns], own.table, check_dtype=False)
    assert [run.path for run in found.runs] == made.files
    assert [one.path for one in found.mosaics] == [made.mosaic]
    assert found.mosaics[0].solution == own.mosaics[0].solution
    assert found.settings == own.settings


def test_an_export_is_asked_for_followed_and_downloaded(web: httpx.Client, made: Made) -> None:
    asked = {"montage": MONTAGE, "format": "mrc", "options": {"attempts": "all"}}
    answer = web.post("/exports", json=asked)
    assert answer.status_code == 202
    job_id = answer.json()["id"]
    assert job_id in [job["id"] for job in web.get("/exports").json()]
    state = finished(web, job_id)
    assert (state["state"], state["done"], state["of"]) == ("done", 8, 8), state

    answer = web.get(f"/exports/{job_id}/file")
    assert f"{MONTAGE}.mrc.zip" in answer.headers["content-disposition"]
    assert len(answer.content) == state["bytes"]
    part = web.get(f"/exports/{job_id}/file", headers={"Range": "bytes=100-199"})
    assert (part.status_code, part.content) == (206, answer.content[100:200])
    past = web.get(f"/exports/{job_id}/file", headers={"Range": "bytes=9999999999-"})
    assert past.status_code == 416
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        stack, text = (archive.read(f"{MONTAGE}{suffix}") for suffix in (".mrc", ".mrc.mdoc"))
    assert len(Mdoc.from_string(text.decode()).section_data) == 8
    with mrcfile.mrcinterpreter.MrcInterpreter(io.BytesIO(stack)) as file:
        for image, key in zip(file.data, labels(made, best=False), strict=True):
            np.testing.assert_array_equal(image[::-1], made.frames[key])

    assert web.delete(f"/exports/{job_id}").status_code == 204
    assert web.get(f"/exports/{job_id}").status_code == 404
    assert web.get(f"/exports/{job_id}/file").status_code == 404


def test_mistakes_are_answered(web: httpx.Client, made: Made) -> None:
    for asked, status in (
        ({"montage": "m-none", "format": "csv"}, 404),
        ({"montage": MONTAGE, "format": "jpeg"}, 422),
        ({"montage": MONTAGE, "format": "csv", "options": {"regions": 1}}, 422),
        ({"montage": MONTAGE, "format": "csv", "options": {"level": -1}}, 422),
    ):
        assert web.post("/exports", json=asked).status_code == status, asked
    assert web.get("/exports/none").status_code == 404
    job_id = web.post("/exports", json={"montage": MONTAGE, "format": "ome-zarr"}).json()["id"]
    state = finished(web, job_id)
    assert state["state"] == "failed"
    assert "give --roi" in state["error"]
    answer = web.get(f"/exports/{job_id}/file")
    assert (answer.status_code, "give --roi" in answer.text) == (409, True)


@pytest.mark.parametrize("method", ["POST /exports", "GET /exports", "GET /exports/x", "DELETE /exports/x"])
def test_nobody_without_a_key_is_answered(server: Server, method: str) -> None:
    verb, _, path = method.partition(" ")
    body = {"montage": MONTAGE, "format": "csv"} if verb == "POST" else None
    for headers in ({}, {"Authorization": "Apikey wrong"}):
        answer = httpx.request(verb, f"{server.uri}/custom{path}", json=body, headers=headers, timeout=60)
        assert answer.status_code == 401


def test_jobs_are_their_owners_bounded_and_survive_the_server(server: Server, tmp_path: Path) -> None:
    wrong = Access(server.uri, "secret")
    limits = Limits(waiting=3, waiting_each=2, keep=2)
    jobs = Jobs(tmp_path, [], limits)
    options = ExportOptions(roi=1)
    mine = [jobs.submit("ada", "m-1", Format.CSV, options, wrong) for _ in range(2)]
    with pytest.raises(Refused, match="2 of them yours"):
        jobs.submit("ada", "m-1", Format.CSV, options, wrong)
    other = jobs.submit("grace", "m-1", Format.CSV, options, wrong)
    with pytest.raises(Refused, match="3 exports wait or run"):
        jobs.submit("joan", "m-1", Format.CSV, options, wrong)
    assert jobs.get(other.id, "ada") is None
    assert [job.id for job in jobs.list("grace")] == [other.id]
    # the key opens nothing: each fails, with its reason
    assert ended(jobs, mine[0]).state == "failed"
    assert "Invalid API key" in ended(jobs, mine[0]).error
    assert "secret" not in "".join(path.read_text() for path in tmp_path.rglob("*.json"))
    jobs.close()

    (tmp_path / other.id / "work").mkdir(exist_ok=True)
    again = Jobs(tmp_path, [], Limits(keep=9))
    left = again.get(other.id, "grace")
    assert left is not None
    assert (left.state, left.options) == ("failed", options)
    assert not (tmp_path / other.id / "work").exists()
    assert len(again.list("ada")) == 2
    fewer = Jobs(tmp_path, [], Limits(keep=1))
    assert len([*fewer.list("ada"), *fewer.list("grace")]) == 1
    over = Jobs(tmp_path, [], Limits(keep_s=0.0))
    assert over.list("ada") == over.list("grace") == []
    assert list(tmp_path.iterdir()) == []


def test_a_result_that_is_too_large_or_unreadable_fails(server: Server, made: Made, tmp_path: Path) -> None:
    access = Access(server.uri, KEY)
    jobs = Jobs(tmp_path / "a", [server.data], Limits(keep_bytes=300_000))
    job = jobs.submit("ada", MONTAGE, Format.OME_TIFF, ExportOptions(), access)
    large = ended(jobs, job)
    assert "larger than the 0.0 GB that the server keeps" in large.error
    assert [path.name for path in (tmp_path / "a" / job.id).iterdir()] == ["job.json"]
    # nothing may be read past the server: the frames come over HTTP, and the mosaic is not at hand
    closed = Jobs(tmp_path / "b", [tmp_path], Limits())
    job = closed.submit("ada", MONTAGE, Format.RO_CRATE, ExportOptions(), access)
    assert ended(closed, job).state == "done", ended(closed, job)
    with zipfile.ZipFile(closed.result(job)) as archive:
        assert not [name for name in archive.namelist() if name.startswith("mosaic/")]
        assert len([name for name in archive.namelist() if name.startswith("frames/")]) == 7
    record = json.loads((tmp_path / "b" / job.id / "job.json").read_text())
    assert (record["state"], KEY in str(record)) == ("done", False)
