"""Every route of the catalog's server, for everyone: what they may not see or do is refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.tiled_server.access_lab import CALLERS, LAB_KEY, NOBODY, PASSWORD, SERVICE, AccessLab
from tests.tiled_server.access_routes import FRESH, TABLE, address
from tests.tiled_server.conftest import Server
from tiled_server.configuration import from_environment

pytestmark = [pytest.mark.system, pytest.mark.timeout(600)]
SECRET = "wombat cortex"
"""The sample of p-1, which the others never see."""


def routes_of(application: Any) -> Iterator[tuple[str, str]]:
    """Yield method and path of every route of an application."""
    for route in application.routes:
        if (inner := getattr(route, "effective_candidates", None)) is not None:
            yield from routes_of(Routes([*inner(), *route.effective_low_priority_routes()]))
            continue
        # nothing answers a websocket: the server has them off
        if type(getattr(route, "original_route", route)).__name__ == "APIWebSocketRoute":
            continue
        for method in sorted(getattr(route, "methods", None) or {"GET"}):
            yield method, route.path


class Routes:
    """Something that has routes."""

    def __init__(self, routes: list[Any]) -> None:
        self.routes = routes


@pytest.fixture(scope="module")
def lab(access_lab: AccessLab) -> AccessLab:
    access_lab.acquire("m-1", proposal="p-1", sample=SECRET)
    access_lab.acquire("m-2", proposal="p-2", sample="other")
    return access_lab


@pytest.fixture(scope="module")
def words(lab: AccessLab) -> dict[str, str]:
    """What stands in the table for things that get their names here."""
    files = lab.ask("sam", "GET", "/custom/montages/m-1/files").raise_for_status().json()["files"]
    return {"UID": lab.made["m-1"].uid, "JOB": lab.export(), "FILE": files[0]["id"]}


def test_every_route_has_a_rule(tmp_path: Path) -> None:
    from tiled_server.service import make_application

    access = AccessLab(Server(tmp_path), tmp_path / "people.yaml")
    access.write_people()
    environment = {"TILED_SINGLE_USER_API_KEY": LAB_KEY, "LAB_PASSWORD": PASSWORD}
    server = from_environment(tmp_path, [], environment=environment, access=access.file)
    application = make_application(server)
    while not hasattr(application, "routes"):
        application = application._application
    found = {f"{method} {path}" for method, path in routes_of(application)}
    assert len(found) > 100
    pages = {name for name in found if name.startswith("HEAD /") and f"GET{name[4:]}" in TABLE}
    missing = sorted(found - TABLE.keys() - pages)
    assert not missing, "routes without a rule: say in access_routes.py who gets what"
    assert not sorted(TABLE.keys() - found), "rules for routes that are not there any more"


@pytest.mark.parametrize("name", list(TABLE))
def test_who_gets_what(lab: AccessLab, words: dict[str, str], name: str) -> None:
    row = TABLE[name]
    method, template = name.split(" ")
    found = {}
    for caller in CALLERS:
        filled = row.path
        if filled == FRESH:
            made = lab.ask(SERVICE, "POST", "/api/v1/metadata/", json=NEW_NODE).raise_for_status()
            filled = made.json()["id"]
        for word, value in words.items():
            filled = filled.replace(word, value)
        answer = lab.ask(caller, method, address(template, filled), **row.given)
        found[caller] = answer.status_code
        if caller in (NOBODY, "tess"):
            assert SECRET not in answer.text, caller
    assert found == row.expected()


NEW_NODE = {"structure_family": "container", "metadata": {"x": 1}, "data_sources": [], "specs": []}
