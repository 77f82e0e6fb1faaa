"""What people write to a montage, where the catalog's server keeps it."""

from __future__ import annotations

from typing import Any

import pandas as pd

from devices.errors import ConfigurationError
from tiled_server.client.routes import Routes


class Annotated:
    """A montage that notes may be added to."""

    montage_id: str
    _routes: Routes

    def annotate(self, text: str) -> None:
        """Add a note; it is kept with your name and the time, and never changed.

        Parameters
        ----------
        text
            1 to 10,000 characters.

        Raises
        ------
        ConfigurationError
            The server keeps no notes, or refuses this one.
        MontangoError
            You may not, or the server fails.
        """
        self._check_kept()
        self._routes.post({"text": text}, "montages", self.montage_id, "notes")

    def annotations(self) -> pd.DataFrame:
        """Return the notes, oldest first: ``time`` (UTC), ``author``, ``text``.

        Raises
        ------
        ConfigurationError
            The server keeps no notes.
        """
        self._check_kept()
        found: list[dict[str, Any]] = []
        while page := self._page(found[-1]["id"] if found else 0):
            found += page
        table = pd.DataFrame(found, columns=["time", "author", "text"])
        return table.assign(time=pd.to_datetime(table["time"].astype(float), unit="s", utc=True))

    def _page(self, after: int) -> list[dict[str, Any]]:
        notes = self._routes.json("montages", self.montage_id, "notes", after=after)["notes"]
        return [dict(one) for one in notes]

    def _check_kept(self) -> None:
        if not self._routes.there:
            raise ConfigurationError(
                "this catalog is not a server of Montango: it keeps no notes on montages"
            )
