"""A catalog of two proposals and the people on them, on a real server."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx
import numpy as np
import yaml

from processing.callbacks.catalog import CatalogWriter
from processing.callbacks.journal import Journal
from tests.processing.documents import MontageRun
from tests.tiled_server.conftest import Server
from tests.tiled_server.montages import until

LAB_KEY: Final = secrets.token_hex(24)
PASSWORD: Final = secrets.token_hex(8)
PROVIDER: Final = "lab"
NOBODY, SERVICE = "nobody", "service"
ROLES: Final = {
    "olive": "observer", "sam": "scientist", "tess": "scientist", "opal": "operator", "stan": "staff",
}  # fmt: skip
"""People: olive and sam are on proposal p-1, tess is on p-2."""
CALLERS: Final = (NOBODY, *ROLES, SERVICE)
SHAPE: Final = (48, 64)
PATIENCE_S: Final = 120.0


def people_file(**changes: Any) -> dict[str, Any]:
    """Return what is in the file of people."""
    dictionary = {"users_to_passwords": dict.fromkeys([*ROLES, "stranger"], "${LAB_PASSWORD}")}
    return {
        "authentication": {
            "providers": [{"name": PROVIDER, "authenticator": "dictionary", "args": dictionary}]
        },
        "people": dict(ROLES),
        "proposals": {"p-1": {"members": ["olive", "sam"]}, "p-2": {"members": ["tess"]}},
        **changes,
    }


@dataclass
class Made:
    """A montage that was written."""

    montage_id: str
    uid: str
    path: Path


@dataclass
class AccessLab:
    """The server, its file of people, the montages, and a way in for everyone."""

    server: Server
    file: Path
    made: dict[str, Made] = field(default_factory=dict)
    _web: httpx.Client = field(default_factory=lambda: httpx.Client(timeout=60))
    _job: str = ""
    _headers: dict[str, dict[str, str]] = field(default_factory=dict)

    def write_people(self, **changes: Any) -> None:
        """Write the file of people, in one step."""
        fresh = self.file.with_suffix(".new")
        fresh.write_text(yaml.safe_dump(people_file(**changes)))
        fresh.rename(self.file)

    def start(self) -> None:
        """Start the server."""
        self.write_people()
        environment = {
            "TILED_SINGLE_USER_API_KEY": LAB_KEY,
            "MONTANGO_TILED_ACCESS": str(self.file),
            "LAB_PASSWORD": PASSWORD,
        }
        self.server.environment |= environment
        self.server.key = LAB_KEY
        self.server.start()

    def acquire(self, montage_id: str, **start: Any) -> Made:
        """Write a montage of three tiles with the lab's key, and wait until it is in the index."""
        self.server.data.mkdir(exist_ok=True)
        journal = Journal(self.server.state_dir / "journal")
        writer = CatalogWriter(self.server.uri, self.server.key, journal.directory)

        def emit(name: str, doc: dict[str, Any]) -> None:
            journal(name, doc)
            writer(name, doc)

        run = MontageRun(self.server.data, SHAPE, emit, montage_id=montage_id, **start)
        run.tiles([np.full(SHAPE, 100 * (index + 1), np.uint16) for index in range(3)])
        verdict: dict[str, Any] = {"tile_index": 1, "qc_state": "fail", "qc_decision": "keep", "faults": "[]"}
        run.verdict(verdict | {"focus_score": -7.5, "tile_attempt": 0})
        run.stop()
        journal.close()
        assert writer.close(PATIENCE_S), writer.state
        made = self.made[montage_id] = Made(montage_id, run.uid, run.path)
        path = f"/custom/montages/{montage_id}"
        until(lambda: self.ask(SERVICE, "GET", path).json().get("acquired") == 3)
        return made

    def export(self) -> str:
        """Return the id of an export that sam asked for, and that is done."""
        if not self._job:
            asked = {"montage": "m-1", "format": "csv"}
            self._job = self.ask("sam", "POST", "/custom/exports", json=asked).raise_for_status().json()["id"]
        path, state = f"/custom/exports/{self._job}", {}

        def ended() -> bool:
            state.update(self.ask("sam", "GET", path).raise_for_status().json())
            return state["state"] in ("done", "failed")

        until(ended)
        assert state["state"] == "done", state["error"]
        return self._job

    def close(self) -> None:
        """End the server, and all connections to it."""
        self.server.close()
        self._web.close()

    def log_in(self, name: str, password: str = PASSWORD) -> httpx.Response:
        """Ask for tokens."""
        form = {"username": name, "password": password}
        address = f"{self.server.uri}/api/v1/auth/provider/{PROVIDER}/token"
        self._web.cookies.clear()
        return self._web.post(address, data=form)

    def headers(self, name: str) -> dict[str, str]:
        """Return the headers that somebody's requests have."""
        if name not in self._headers:
            if name == NOBODY:
                self._headers[name] = {}
            elif name == SERVICE:
                self._headers[name] = {"Authorization": f"Apikey {self.server.key}"}
            else:
                token = self.log_in(name).raise_for_status().json()["access_token"]
                self._headers[name] = {"Authorization": f"Bearer {token}"}
        return self._headers[name]

    def ask(self, name: str, method: str, path: str, **given: Any) -> httpx.Response:
        """Ask as somebody."""
        headers = self.headers(name) | given.pop("headers", {})
        self._web.cookies.clear()
        # a refusal leaves the body of the request unread
        headers = {"Connection": "close"} | headers
        return self._web.request(method, f"{self.server.uri}{path}", headers=headers, **given)
