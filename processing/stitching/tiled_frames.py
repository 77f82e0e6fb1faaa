"""Frames of a Tiled server, read over HTTP where they are needed: https://blueskyproject.io/tiled."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from processing.stitching.frame_files import FrameError, Image, plain, reference


@dataclass(frozen=True, slots=True)
class TiledFrame:
    """A frame of an array in a Tiled server, (frame, 1, y, x): it can be sent to another process.

    Attributes
    ----------
    uri
        Address of the array, as ``http://127.0.0.1:8000/api/v1/metadata/...``.
    index
        Which frame.
    size
        Width and height, px.
    api_key
        What opens the server; it goes to workers with the frame, and is not written down.
    dark, bright
        Files with the references to take out; None: none. Both or neither.
    """

    uri: str
    index: int
    size: tuple[int, int]
    api_key: str = field(default="", repr=False)
    dark: Path | None = None
    bright: Path | None = None

    @property
    def where(self) -> str:
        """Address of the frame's pixels."""
        return f"{self.uri.replace('/metadata/', '/array/full/')}?slice={self.index},0"

    def size_px(self) -> tuple[int, int]:
        """Return width and height."""
        return self.size

    def read(self) -> Image:
        """Return the frame, (y, x), counts.

        Raises
        ------
        FrameError
            The server does not give it.
        """
        try:
            image = plain(np.asarray(tiled_client(self.uri, self.api_key)[self.index, 0]))
            if self.dark is None or self.bright is None:
                return image
            return np.asarray(reference(self.dark, self.bright).apply(image))
        # clients raise anything
        except Exception as error:
            raise FrameError(f"{self.where} cannot be read: {error or type(error).__name__}") from error

    def absent(self) -> bool:
        """Return whether the server does not answer here."""
        import httpx

        try:
            httpx.get(self.uri, timeout=10)
        except httpx.HTTPError:
            return True
        return False

    def stamp(self) -> tuple[int, ...]:
        """Return nothing: a frame of a run never changes."""
        return ()

    def corrected(self, dark: Path, bright: Path) -> TiledFrame:
        """Return it with a dark and a bright reference to be taken out."""
        return replace(self, dark=dark, bright=bright)


_clients: dict[tuple[str, str], Any] = {}


def tiled_client(uri: str, api_key: str) -> Any:
    """Return the client of a node of a server; one a process, until `close_clients`."""
    from tiled.client import from_uri

    if (uri, api_key) not in _clients:
        _clients[uri, api_key] = from_uri(uri, api_key=api_key or None)
    return _clients[uri, api_key]


def close_clients() -> None:
    """Close the connections of all clients of this process."""
    while _clients:
        _clients.popitem()[1].context.close()
