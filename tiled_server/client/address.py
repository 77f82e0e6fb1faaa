"""A montage named by an address of a Tiled server: ``http://HOST:PORT/NAME``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final, Self
from urllib.parse import parse_qs, urlsplit

from devices.errors import ConfigurationError, MontangoError
from processing.stitching.tiled_frames import tiled_client

_PAGES: Final = ("api", "v1", "metadata", "ui", "browse")
"""Parts of an address that are the server's own."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where a montage is.

    Attributes
    ----------
    server
        ``http://HOST:PORT``.
    folders
        The containers that the catalog lies in.
    name
        Montage id, or the uid of one of its runs.
    api_key
        What opens the server; empty: that of the variable TILED_API_KEY.
    """

    server: str
    folders: tuple[str, ...]
    name: str
    api_key: str = field(default="", repr=False)

    @classmethod
    def parse(cls, text: str, api_key: str = "") -> Self:
        """Return the parts of an address, also as the server's pages have it; it may end ``?api_key=KEY``.

        Raises
        ------
        ConfigurationError
            It names no montage.
        """
        parts = urlsplit(text)
        *folders, name = [part for part in parts.path.split("/") if part and part not in _PAGES] or [""]
        if not name:
            raise ConfigurationError(
                f"{text} names no montage: put its id, or the uid of a run, after the host"
            )
        key = api_key or parse_qs(parts.query).get("api_key", [""])[0]
        return cls(f"{parts.scheme}://{parts.netloc}", tuple(folders), name, key)

    def catalog(self) -> Any:
        """Return a Tiled client of the catalog; used within `asked`."""
        found = tiled_client(self.server, self.api_key)
        for folder in self.folders:
            found = found[folder]
        return found

    @contextmanager
    def asked(self) -> Iterator[None]:
        """Say in words what fails while the server is asked.

        Raises
        ------
        ConfigurationError
            No server answers, or it does not give what is asked for.
        """
        try:
            yield
        except MontangoError:
            raise
        # clients raise anything
        except Exception as error:
            # Tiled's own words may be a page with examples
            lines = [line.strip(" .") for line in str(error).splitlines() if line.strip()]
            why = lines[0] if lines else type(error).__name__
            raise ConfigurationError(
                f"{self.server} does not give {self.name}: {why}; see that the server is up and that "
                "TILED_API_KEY opens it"
            ) from error


def montage_id_of(catalog: Any, name: str) -> str:
    """Return the montage of a run's uid, or the name itself where there is no such run.

    Raises
    ------
    ConfigurationError
        The run belongs to no montage.
    """
    try:
        start = catalog[name].metadata["start"]
    except (KeyError, ValueError):  # the standard client takes a name for the beginning of a uid
        return name
    if "montage_id" not in start:
        raise ConfigurationError(f"run {name} is a {start.get('plan_name')}; give a run of a montage")
    return str(start["montage_id"])
