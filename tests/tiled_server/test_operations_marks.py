"""Marks of how long raw data is kept, and figures of the server."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import httpx
import pytest

from processing.callbacks.catalog import CatalogWriter
from processing.callbacks.journal import Journal
from tests.tiled_server.conftest import Server
from tests.tiled_server.kept_catalog import SmallRun
from tests.tiled_server.montages import PATIENCE_S, until
from tests.tiled_server.postgres import Postgres
from tiled_server.operations.marks import Mark, Marks, is_due


@pytest.mark.parametrize(
    ("mark", "last", "on", "due"),
    [
        ("keep", None, date(2099, 1, 1), False),
        ("may-go", None, date(2000, 1, 1), True),
        ("until", "2026-05-01", date(2026, 5, 1), False),
        ("until", "2026-05-01", date(2026, 5, 2), True),
    ],
)
def test_when_raw_data_may_go(mark: str, last: str | None, on: date, due: bool) -> None:
    assert is_due({"mark": mark, "until": last}, on) is due


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_the_newest_mark_holds_and_all_are_kept(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    async def use(uri: str | Path) -> None:
        marks = Marks(uri)
        first = await marks.add("m-1", "ada", "u-1", Mark.UNTIL, date(2026, 5, 1), "five years")
        await marks.add("m-2", "ada", None, Mark.MAY_GO, None, "a test")
        second = await marks.add("m-1", "eve", None, Mark.KEEP, None, "published")
        await marks.close()
        again = Marks(uri)
        assert await again.of("m-1") == [second, first]
        assert [(row["montage_id"], row["mark"]) for row in await again.holding()] == [
            ("m-1", "keep"), ("m-2", "may-go"),
        ]  # fmt: skip
        assert first["until"] == "2026-05-01"
        assert "principal" not in first, "who asked is told by name"
        await again.close()

    if kind == "sqlite":
        asyncio.run(use(tmp_path / "marks.db"))
    else:
        postgres: Postgres = request.getfixturevalue("postgres")
        asyncio.run(use(postgres.database("marks")))


@pytest.fixture(scope="module")
def routes(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A client of the server's own routes, and a montage ``m-1`` in its index."""
    journal = Journal(tmp_path_factory.mktemp("marks"))
    writer = CatalogWriter(server.uri, server.key, journal.directory)

    def emit(name: str, doc: dict[str, Any]) -> None:
        journal(name, doc)
        writer(name, doc)

    server.data.mkdir(exist_ok=True)
    SmallRun(emit, server.data)
    assert writer.close(PATIENCE_S), writer.state
    headers = {"Authorization": f"Apikey {server.key}"}
    with httpx.Client(base_url=f"{server.uri}/custom/", headers=headers, timeout=60.0) as client:
        until(lambda: client.get("montages/m-1").status_code == httpx.codes.OK)
        yield client


@pytest.mark.system
def test_marks_over_http(routes: httpx.Client) -> None:
    address = "montages/m-1/retention"
    assert routes.get(address).json() == {"mark": None, "history": []}
    for wrong in (
        {"mark": "burn", "why": "x"},
        {"mark": "until", "why": "x"},
        {"mark": "keep", "until": "2026-05-01", "why": "x"},
        {"mark": "keep", "why": "  "},
        {"mark": "keep"},
    ):
        assert routes.post(address, json=wrong).status_code == httpx.codes.UNPROCESSABLE_ENTITY
    assert routes.post("montages/m-none/retention", json={"mark": "keep", "why": "x"}).status_code == 404
    made = routes.post(address, json={"mark": "until", "until": "2026-05-01", "why": "the rule"})
    assert made.status_code == httpx.codes.CREATED
    assert made.json()["author"] == "single user"
    assert routes.get(address).json()["mark"] == made.json()
    due = routes.get("retention", params={"due": True, "on": "2026-05-01"}).json()["marks"]
    assert "m-1" not in {row["montage_id"] for row in due}
    due = routes.get("retention", params={"due": True, "on": "2026-05-02"}).json()["marks"]
    (row,) = [row for row in due if row["montage_id"] == "m-1"]
    assert row["due"] is True
    assert row["started"] > 0
    routes.post(address, json={"mark": "keep", "why": "published"})
    due = routes.get("retention", params={"due": True, "on": "2099-01-01"}).json()["marks"]
    assert "m-1" not in {row["montage_id"] for row in due}
    assert len(routes.get(address).json()["history"]) == 2
    assert httpx.get(routes.base_url.join("retention")).status_code == httpx.codes.UNAUTHORIZED


@pytest.mark.system
def test_figures_are_those_of_routes_and_never_of_addresses(routes: httpx.Client) -> None:
    before = _count(routes.get("metrics").text, "/montages/{montage_id}", "404")
    for name in ("one", "two"):
        assert routes.get(f"montages/{name}").status_code == httpx.codes.NOT_FOUND
    routes.get("no/such/route/one")
    text = routes.get("metrics").text
    assert _count(text, "/montages/{montage_id}", "404") == before + 2
    assert "one" not in set(re.findall(r'route="[^"]*?([^"/]*)"', text))
    for name in (
        "montango_index_complete 1.0",
        'montango_index_rows{table="montages"}',
        "montango_index_lag_seconds",
        'montango_disk_free_bytes{folder="state"}',
        'montango_database_bytes{file="catalog.db"}',
        'tiled_db_pool_established{uri="index"}',
        "tiled_request_duration_seconds_count",
        "process_resident_memory_bytes",
    ):
        assert name in text, name
    refused = httpx.get(routes.base_url.join("metrics"))
    assert refused.status_code == httpx.codes.UNAUTHORIZED


def _count(text: str, route: str, code: str) -> float:
    """Return how many requests of a route were answered so, below both of its addresses."""
    lines = [
        line
        for line in text.splitlines()
        if line.startswith("montango_request_seconds_count") and f'{route}"' in line and f'"{code}"' in line
    ]
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines)
