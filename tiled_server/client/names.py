"""Which montage is meant by a name."""

from __future__ import annotations

from typing import Any, Final

from devices.errors import ConfigurationError
from tiled_server.client.routes import Routes
from tiled_server.client.runs import all_runs, start_of
from tiled_server.client.summaries import Row, summary

_SHORTEST: Final = 5
"""Characters of a uid that may do."""


def find_row(client: Any, montage_id: str) -> Row | None:
    """Return the row of a montage; None if there is none."""
    routes = Routes(client)
    if routes.there:
        try:
            return dict(routes.json("montages", montage_id))
        except KeyError:
            pass  # or the index has not come to it yet
    return summary(montage_id, all_runs(client, montage_id))


def id_of_run(client: Any, name: str) -> str:
    """Return the montage that a run belongs to, by its uid or the beginning of it."""
    from tiled.queries import Like

    # a plain client knows whole uids only
    found = client.search(Like("start.uid", f"{name}%")).values().head(2) if len(name) >= _SHORTEST else []
    if len(found) > 1:
        raise ConfigurationError(f"several runs begin with {name!r}: give more of the uid")
    if not found:
        raise ConfigurationError(
            f"the catalog has neither a montage nor a run {name!r}; look for it with montages(client, "
            f"sample=...), or complete the catalog: montango journal replay"
        )
    start = start_of(found[0])
    if "montage_id" not in start:
        raise ConfigurationError(
            f"run {name} is a {start.get('plan_name')} and belongs to no montage; give a run of a montage"
        )
    return str(start["montage_id"])
