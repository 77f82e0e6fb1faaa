"""Tiled's writer of runs, but rows of events that may have arrived are not sent a second time.

Where the answer to an append is lost (a server that is killed, a connection that breaks), TiledWriter 2.0
sends the rows again, and notes that they may be there twice. Here that is an error: the run is written anew
from the journal, and has every row once.
"""

from __future__ import annotations

from typing import Any

from bluesky_tiled_plugins import TiledWriter
from bluesky_tiled_plugins.writing.tiled_writer import RunNormalizer, _RunWriter


class _CarefulRunWriter(_RunWriter):  # type: ignore[misc]  # the package is not typed
    """Writes one run."""

    def _append_with_retry(self, df_client: Any, table: Any, desc_name: str) -> None:
        del desc_name
        # the client itself tries again what cannot have arrived
        df_client.append_partition(0, table)


class CarefulWriter(TiledWriter):  # type: ignore[misc]  # the package is not typed
    """Writes documents of runs to Tiled; raises where rows may or may not have been written."""

    def _factory(self, name: str, doc: dict[str, Any]) -> tuple[list[Any], list[Any]]:
        del name, doc
        normalizer = RunNormalizer(patches=self.patches, spec_to_mimetype=self.spec_to_mimetype)
        normalizer.subscribe(
            _CarefulRunWriter(self.client, batch_size=self._batch_size, max_array_size=self._max_array_size)
        )
        return [normalizer], []
