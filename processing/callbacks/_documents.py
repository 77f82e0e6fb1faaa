"""Documents of Bluesky, and which run each belongs to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, TypeAlias

Document: TypeAlias = tuple[str, dict[str, Any]]
"""A document with its name, like ``("start", {...})``."""

Callback: TypeAlias = Callable[[str, dict[str, Any]], object]
"""What documents are sent to."""

KEPT: Final = (
    "montage_id",
    "sample",
    "operator",
    "proposal",
    "data_session",
    "instrument",
    "tiled_access_tags",
)
"""What a run that is derived from a montage has of the montage's start document."""


class RunIndex:
    """Tells the run of a document; remembers the descriptors and stream resources of open runs."""

    def __init__(self) -> None:
        self._members: dict[str, str] = {}

    def run_of(self, name: str, doc: Mapping[str, Any]) -> str | None:
        """Return the uid of the run that a document belongs to, None when its descriptor was never seen."""
        if name == "start":
            return str(doc["uid"])
        if name == "stop":
            run = str(doc["run_start"])
            self._members = {member: owner for member, owner in self._members.items() if owner != run}
            return run
        if name in ("descriptor", "stream_resource", "resource"):
            owner = doc.get("run_start")
            if owner is not None:
                self._members[doc["uid"]] = str(owner)
            return None if owner is None else str(owner)
        for key in ("descriptor", "stream_resource", "resource"):
            if key in doc:
                return self._members.get(doc[key])
        return None
