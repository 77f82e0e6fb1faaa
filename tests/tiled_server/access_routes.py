"""Who gets what from every route of the catalog's server: the table that the matrix test goes through.

A row is a route, what is asked there, and the status for each of `CALLERS`: nobody, observer and scientist of
p-1, scientist of p-2, operator, staff, service. What is asked for is of a montage of p-1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from tests.tiled_server.access_lab import CALLERS, PROVIDER

OPEN: Final = "200 200 200 200 200 200 200"
READ: Final = "401 200 200 404 200 200 200"
KNOWN: Final = "401 200 200 200 200 200 200"
"""Of everyone who is somebody: what is not theirs is left out."""
ABSENT: Final = "401 404 404 404 404 404 404"
ZARR: Final = "404 200 200 404 200 200 200"
"""Tiled asks for no key at these routes: what is not for the caller is not there."""
METRICS: Final = "401 401 401 401 200 200 200"
WRITE: Final = "401 401 401 401 401 200 200"
NOT_THERE: Final = "401 401 401 401 401 404 404"
STAFF: Final = "401 401 401 401 401 200 401"

NO_UUID: Final = "00000000-0000-4000-8000-000000000000"
FRESH: Final = "fresh"
"""Stands for a node that is made for the request."""


@dataclass(frozen=True)
class Row:
    """What is asked of a route, and what each caller gets."""

    statuses: str
    path: str = ""
    given: dict[str, Any] = field(default_factory=dict)

    def expected(self) -> dict[str, int]:
        """Return the statuses by caller."""
        return dict(zip(CALLERS, map(int, self.statuses.split()), strict=True))


def row(statuses: str, path: str = "", **given: Any) -> Row:
    """Return a row; in a path UID is the run, JOB an export of the scientist's, FILE the id of its file."""
    return Row(statuses, path, given)


_RUN, _IMAGE, _TABLE = "UID", "UID/tiles/image", "UID/qc/internal"
_NODE: Final = {
    "structure_family": "container", "metadata": {"start": {"proposal": "p-1"}}, "data_sources": [],
    "specs": [],
}  # fmt: skip
_BYTES: Final = {"Content-Type": "application/octet-stream"}
_NO_FORM: Final = {"grant_type": "password", "username": "sam", "password": "wrong"}
_TOKEN: Final = {"refresh_token": "eyJhbGciOiJIUzI1NiJ9.e30.x"}

_PAGES: Final = {
    f"GET {path}": row(OPEN)
    for path in (
        "/", "/docs", "/docs/oauth2-redirect", "/redoc", "/openapi.json", "/healthz", "/favicon.ico",
        "/tiled-ui-settings", "/api/v1/",
    )
}  # fmt: skip

_AUTH: Final = {
    f"POST /api/v1/auth/provider/{PROVIDER}/token": row("401 401 401 401 401 401 401", data=_NO_FORM),
    "POST /api/v1/auth/session/refresh": row("401 401 401 401 401 401 401", json=_TOKEN),
    "POST /api/v1/auth/session/revoke": row("401 401 401 401 401 401 401", json=_TOKEN),
    "DELETE /api/v1/auth/session/revoke/{session_id}": row("404 404 404 404 404 404 404", NO_UUID),
    "GET /api/v1/auth/whoami": row(OPEN),
    "POST /api/v1/auth/logout": row(OPEN),
    "POST /api/v1/auth/apikey": row(
        "401 401 200 200 200 200 401", json={"expires_in": 60, "scopes": ["read:metadata"]}
    ),
    "GET /api/v1/auth/apikey": row("401 401 401 401 401 401 200"),
    "DELETE /api/v1/auth/apikey": row("401 401 404 404 404 404 401", params={"first_eight": "00000000"}),
    "GET /api/v1/auth/principal": row(STAFF),
    "POST /api/v1/auth/principal": row(STAFF, params={"role": "observer"}),
    "GET /api/v1/auth/principal/{uuid}": row("401 401 401 401 401 404 401", NO_UUID),
    "POST /api/v1/auth/principal/{uuid}/apikey": row(
        "401 401 401 401 401 404 401", NO_UUID, json={"expires_in": 60, "scopes": None}
    ),
    "DELETE /api/v1/auth/principal/{uuid}/apikey": row(
        "401 401 401 401 401 404 401", NO_UUID, params={"first_eight": "00000000"}
    ),
}

_READS: Final = {
    "GET /api/v1/search/{path:path}": row(KNOWN, ""),
    "GET /api/v1/search-deep/{path:path}": row(KNOWN, ""),
    "GET /api/v1/distinct/{path:path}": row(KNOWN, "", params={"metadata": "start.sample"}),
    "GET /api/v1/metadata/{path:path}": row(READ, _RUN),
    "GET /api/v1/revisions/{path:path}": row(READ, _RUN),
    "GET /api/v1/array/block/{path:path}": row(READ, _IMAGE, params={"block": "0,0,0,0"}),
    "GET /api/v1/array/full/{path:path}": row(READ, _IMAGE),
    "GET /api/v1/table/full/{path:path}": row(READ, _TABLE),
    "POST /api/v1/table/full/{path:path}": row(READ, _TABLE, json=["qc_state"]),
    "GET /api/v1/table/partition/{path:path}": row(READ, _TABLE, params={"partition": 0}),
    "POST /api/v1/table/partition/{path:path}": row(READ, _TABLE, params={"partition": 0}, json=["qc_state"]),
    "GET /api/v1/container/full/{path:path}": row(READ, _RUN, params={"format": "application/json-seq"}),
    "POST /api/v1/container/full/{path:path}": row(
        READ, _RUN, params={"format": "application/json-seq"}, json=["qc"]
    ),
    "GET /api/v1/node/full/{path:path}": row(READ, _TABLE),
    "GET /api/v1/ragged/full/{path:path}": row(ABSENT, _IMAGE),
    "GET /api/v1/awkward/buffers/{path:path}": row(ABSENT, _IMAGE),
    "POST /api/v1/awkward/buffers/{path:path}": row(ABSENT, _IMAGE, json=["x"]),
    "GET /api/v1/awkward/full/{path:path}": row(ABSENT, _IMAGE),
    # shut for all: it let a crafted path out of the readable folders
    "GET /api/v1/asset/bytes/{path:path}": row("401 403 403 404 403 403 403", _IMAGE, params={"id": 1}),
    "GET /api/v1/asset/manifest/{path:path}": row("401 403 403 403 403 403 403", _IMAGE, params={"id": 1}),
    "DELETE /api/v1/asset/{path:path}": row("401 401 401 401 401 403 403", _IMAGE, params={"id": 1}),
    "GET /zarr/v2/{path:path}": row(ZARR, _RUN),
    "GET /zarr/v2/{path:path}/.zattrs": row(ZARR, _RUN),
    "GET /zarr/v2{path:path}.zattrs": row("404 200 200 200 200 200 200", "/"),
    "GET /zarr/v2/{path:path}/.zgroup": row(ZARR, _RUN),
    "GET /zarr/v2{path:path}.zgroup": row("404 200 200 200 200 200 200", "/"),
    "GET /zarr/v2/{path:path}/.zarray": row(ZARR, _IMAGE),
    "GET /zarr/v3/{path:path}": row(ZARR, _RUN),
    "GET /zarr/v3/{path:path}/zarr.json": row(ZARR, _RUN),
    "GET /zarr/v3/{path:path}zarr.json": row("404 200 200 200 200 200 200", ""),
    "GET /zarr/v3/{path:path}/c/{block:path}": row(ZARR, f"{_IMAGE}\n0/0/0/0"),
}

_WRITES: Final = {
    "POST /api/v1/metadata/{path:path}": row(WRITE, "", json=_NODE),
    "POST /api/v1/register/{path:path}": row(WRITE, "", json=_NODE),
    "PUT /api/v1/metadata/{path:path}": row(WRITE, FRESH, json={"metadata": {"a": 1}}),
    "PATCH /api/v1/metadata/{path:path}": row(
        WRITE,
        FRESH,
        json={"content-type": "application/merge-patch+json", "metadata": {"b": 2}, "specs": []},
    ),
    "DELETE /api/v1/metadata/{path:path}": row(WRITE, FRESH),
    "DELETE /api/v1/revisions/{path:path}": row(NOT_THERE, FRESH, params={"number": 77}),
    "PUT /api/v1/data_source/{path:path}": row("401 401 401 401 401 422 422", _IMAGE, json={}),
    "PUT /api/v1/array/full/{path:path}": row(NOT_THERE, FRESH, content=b"1", headers=_BYTES),
    "PUT /api/v1/array/block/{path:path}": row(
        NOT_THERE, FRESH, params={"block": "0"}, content=b"1", headers=_BYTES
    ),
    "PATCH /api/v1/array/full/{path:path}": row(
        "401 401 401 401 401 422 422", _IMAGE, params={"offset": "x", "shape": "1"}, content=b"1"
    ),
    "PUT /api/v1/table/full/{path:path}": row(NOT_THERE, _IMAGE, content=b"1"),
    "PUT /api/v1/node/full/{path:path}": row(NOT_THERE, _IMAGE, content=b"1"),
    "PUT /api/v1/table/partition/{path:path}": row(
        "401 401 401 401 401 405 405", _IMAGE, params={"partition": 0}, content=b"1"
    ),
    "PATCH /api/v1/table/partition/{path:path}": row(
        "401 401 401 401 401 405 405", _IMAGE, params={"partition": 0}, content=b"1"
    ),
    "PUT /api/v1/ragged/full/{path:path}": row(NOT_THERE, _IMAGE, content=b"1"),
    "PUT /api/v1/ragged/block/{path:path}": row(NOT_THERE, _IMAGE, params={"block": "0"}, content=b"1"),
    "PATCH /api/v1/ragged/full/{path:path}": row(
        NOT_THERE, _IMAGE, params={"offset": "0", "shape": "1"}, content=b"1"
    ),
    "PUT /api/v1/awkward/full/{path:path}": row(NOT_THERE, _IMAGE, content=b"1"),
    "DELETE /api/v1/stream/close/{path:path}": row(WRITE, FRESH),
    "GET /api/graphql": row(OPEN, headers={"Accept": "text/html"}),
    "POST /api/graphql": row(OPEN, json={"query": "{ entities { name } }"}),
}

_NOTE: Final = {"text": "seen"}
_MARK: Final = {"mark": "keep", "why": "published"}
_OWN: Final = {
    "GET /montages": row(KNOWN),
    "GET /montages/{montage_id}": row(READ, "m-1"),
    "GET /montages/{montage_id}/tiles": row(READ, "m-1"),
    "GET /montages/{montage_id}/heatmap": row(READ, "m-1"),
    "GET /montages/{montage_id}/notes": row(READ, "m-1"),
    "POST /montages/{montage_id}/notes": row("401 403 201 404 201 201 201", "m-1", json=_NOTE),
    "GET /montages/{montage_id}/retention": row(READ, "m-1"),
    "POST /montages/{montage_id}/retention": row("401 403 403 404 403 201 403", "m-1", json=_MARK),
    "GET /retention": row(KNOWN),
    "GET /metrics": row(METRICS),
    "GET /montages/{montage_id}/files": row("401 403 200 404 200 200 200", "m-1"),
    "GET /files/{file_id}": row("401 403 200 404 200 200 200", "FILE"),
    "HEAD /files/{file_id}": row("401 403 200 404 200 200 200", "FILE"),
    "GET /worst": row(KNOWN),
    "GET /heatmap": row(KNOWN),
    "GET /statistics": row(KNOWN),
    "GET /index": row(METRICS),
    "POST /index": row(WRITE),
    "GET /exports": row(KNOWN),
    "POST /exports": row(ABSENT, json={"montage": "m-none", "format": "csv"}),
    "GET /exports/{job_id}": row("401 404 200 404 404 404 404", "JOB"),
    "GET /exports/{job_id}/file": row("401 404 200 404 404 404 404", "JOB"),
    "DELETE /exports/{job_id}": row(ABSENT, "none"),
}
"""Routes of our own: Tiled serves them below two addresses."""

_BELOW: Final = ("/custom", "/api/v1")

TABLE: Final[dict[str, Row]] = {
    **_PAGES,
    "GET /ui/{path:path}": row(OPEN, ""),
    "GET /static": row("404 404 404 404 404 404 404", "/none"),
    **_AUTH,
    **_READS,
    **_WRITES,
    **{
        f"{method} {below}{path}": one
        for name, one in _OWN.items()
        for below in _BELOW
        for method, path in [name.split(" ")]
    },
}

Prepare = Callable[[], str]


def address(template: str, filled: str) -> str:
    """Return the address of a route: parameters in its path filled in, a line of ``filled`` each."""
    values = filled.split("\n")
    if "{" not in template:
        return template + filled
    parts = template.split("{")
    found = parts[0]
    for part, value in zip(parts[1:], values, strict=True):
        found += value + part.partition("}")[2]
    return found
