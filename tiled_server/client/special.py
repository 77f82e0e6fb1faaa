"""What a Tiled client gives for a run of a montage, by its spec: a run as ever, that knows its montage.

Tiled finds the class by the entry point ``EMMontage`` of group ``tiled.special_client``. Where Montango is
not installed the same run is a ``BlueskyRun`` of bluesky-tiled-plugins, or a plain container.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from bluesky_tiled_plugins.clients.bluesky_run import BlueskyRunV3


class MontageRun(BlueskyRunV3):  # type: ignore[misc]  # the package is not typed
    """One run of a montage: a `BlueskyRun` with streams, and the montage that it is a part of."""

    @property
    def montage(self) -> Any:
        """The whole montage, of all its runs: `tiled_server.client.Montage`."""
        from tiled_server.client import montage  # this class is imported with every Tiled client

        catalog = self.parent
        return montage(catalog, str(self.metadata["start"]["montage_id"]))

    def __repr__(self) -> str:
        start = self.metadata["start"]
        stop = self.metadata.get("stop") or {}
        began = datetime.fromtimestamp(start["time"], UTC)
        return (
            f"<MontageRun {start['uid'][:8]} of {start.get('montage_id')}, {began:%Y-%m-%d %H:%M} UTC, "
            f"{stop.get('exit_status', 'goes on')}, streams {sorted(self._stream_names)}>"
        )
