"""A MongoDB for tests: a server process that speaks its wire protocol, or one in this process.

The server (nx-27017) cannot make text indexes, fails on indexes of several fields with ``_id`` among them,
and gives fields of fields other names where a pipeline chooses them. `shims` leaves those indexes and that
step out, here and nowhere else.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from montango.lab.processes import dies_with_parent

NEEDED = ("pymongo", "suitcase.mongo_normalized", "databroker")


def needs(*names: str) -> None:
    """Skip where a library is not installed."""
    for name in (*NEEDED, *names):
        try:
            found = importlib.util.find_spec(name) is not None
        except ModuleNotFoundError:
            found = False
        if not found:
            pytest.skip(
                f"{name} is not installed (pip install 'montango[mongo]', dependency group test)",
                allow_module_level=True,
            )


class MongoServer:
    """One server process on a loopback port."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self.port = 0

    def start(self) -> None:
        """Start it, on its port if it had one, and wait until it answers."""
        from tests.tiled_server.postgres import _free_port

        self.port = self.port or _free_port()
        self._folder.mkdir(exist_ok=True)
        log = (self._folder / "log").open("ab")
        with log:
            self._process = subprocess.Popen(
                [
                    *dies_with_parent(), str(Path(sys.executable).parent / "nx-27017"),
                    "--data-dir", str(self._folder), "--host",
                    "127.0.0.1", "-p", str(self.port),
                ],
                stdout=log, stderr=log, env=os.environ | {"HOME": str(self._folder)},
            )  # fmt: skip
        import pymongo

        deadline = time.monotonic() + 60
        client: Any
        with pymongo.MongoClient(self.uri("x"), serverSelectionTimeoutMS=200) as client:
            while True:
                assert self._process.poll() is None, (self._folder / "log").read_text()
                try:
                    client.admin.command("ping")
                    return
                except pymongo.errors.PyMongoError:
                    assert time.monotonic() < deadline, "it does not answer"

    def uri(self, database: str) -> str:
        """Return the address of a database."""
        return f"mongodb://127.0.0.1:{self.port}/{database}"

    def stop(self) -> None:
        """End it at once."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(60)


@contextmanager
def shims() -> Iterator[None]:
    """Leave out what nx-27017 cannot do, and MongoDB can."""
    from pymongo.collection import Collection

    original = Collection.create_index

    def create(self: Any, keys: Any, *given: Any, **options: Any) -> Any:
        pairs = keys if isinstance(keys, list) else [(keys, 1)]
        if any(name in ("$**", "_id") for name, _ in pairs):
            return ""
        return original(self, keys, *given, **options)

    aggregate = Collection.aggregate

    def piped(self: Any, pipeline: Any, *given: Any, **options: Any) -> Any:
        steps = [one for one in pipeline if not any("." in name for name in one.get("$project", ()))]
        return aggregate(self, steps, *given, **options)

    patched: Any = Collection
    patched.create_index, patched.aggregate = create, piped
    try:
        yield
    finally:
        patched.create_index, patched.aggregate = original, aggregate
