"""The file of people as it is now: read again when it changes; a mistake in it leaves what was before."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

from devices.errors import ConfigurationError
from tiled_server.access.people import Authentication, People, load
from tiled_server.access.rules import Rules

_log = logging.getLogger(__name__)

_EVERY_S: Final = 1.0

Changed = Callable[[People], Awaitable[None]]


class AccessSource:
    """Rules from a file.

    Parameters
    ----------
    path
        The file of people.
    environment
        Variables that it names.
    every_s
        How often it is looked at, s.

    Raises
    ------
    ConfigurationError
        The file is wrong.
    """

    def __init__(
        self, path: Path, environment: Mapping[str, str] = os.environ, *, every_s: float = _EVERY_S
    ) -> None:
        self.path = path
        self._environment = environment
        self._every_s = every_s
        self._stamp = self._look()
        self.rules = Rules(load(path, environment))
        self.authentication: Authentication = self.rules.file.authentication
        """As at the start: it cannot change while the server runs."""
        self._task: asyncio.Task[None] | None = None
        self._changed: Changed | None = None

    def describe(self) -> str:
        """Return in a few words what the file has."""
        file = self.rules.file
        return f"{len(file.people)} people, {len(file.proposals)} proposals, from {self.path}"

    def reload(self) -> bool:
        """Read the file if it changed; return whether there are new rules."""
        stamp = self._look()
        if stamp == self._stamp:
            return False
        try:
            file = load(self.path, self._environment)
        except ConfigurationError as error:
            _log.error("%s; the people and proposals of before still hold", error)
            self._stamp = stamp
            return False
        self._stamp = stamp
        if file.authentication != self.authentication:
            _log.warning("%s: authentication changed; that counts from the next start on", self.path)
        self.rules = Rules(file)
        _log.warning("people and proposals were read again: %s", self.describe())
        return True

    async def start(self, changed: Changed) -> None:
        """Begin to look at the file; ``changed`` is awaited after each change."""
        self._changed = changed
        self._task = asyncio.create_task(self._watch(), name="people")

    async def stop(self) -> None:
        """Look at it no more."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    async def _watch(self) -> None:
        due = False
        while True:
            await asyncio.sleep(self._every_s)
            due = self.reload() or due
            if due and self._changed is not None:
                try:
                    await self._changed(self.rules.file)
                    due = False
                except Exception as error:  # noqa: BLE001  # a database that is away must not end this
                    _log.warning("accounts are not as %s says yet (%s)", self.path, error)

    def _look(self) -> tuple[int, int, int] | None:
        try:
            found = self.path.stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_size, found.st_ino
