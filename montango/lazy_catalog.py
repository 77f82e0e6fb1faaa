"""The catalog of a session."""

from __future__ import annotations

import functools
from typing import Any


class LazyCatalog:
    """The catalog as a Tiled client that connects when it is first used: Tiled takes long to start."""

    def __init__(self, uri: str, api_key: str) -> None:
        self._uri = uri
        self._api_key = api_key

    @functools.cached_property
    def client(self) -> Any:
        """The Tiled client itself."""
        from tiled.client import from_uri

        return from_uri(self._uri, api_key=self._api_key)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self.client, name)

    def __getitem__(self, key: Any) -> Any:
        return self.client[key]

    def __len__(self) -> int:
        return len(self.client)

    def __dir__(self) -> list[str]:
        return dir(self.client)

    def __repr__(self) -> str:
        return repr(self.client)
