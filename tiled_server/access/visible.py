"""Which montages a caller may see, or do more with."""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated, Any

from fastapi import Depends, HTTPException, Request
from sqlalchemy.exc import DBAPIError
from tiled.server.authentication import get_current_access_tags

from tiled_server.access.roles import READ
from tiled_server.access.scopes import Known
from tiled_server.index import queries
from tiled_server.index.access import Tags
from tiled_server.index.store import IndexStore

_AGAIN = {"Retry-After": "2"}


class Reach:
    """What a caller reaches: the tags of which a run must have one, for reading and for doing something."""

    def __init__(
        self, request: Request, caller: Known, key_tags: Annotated[Any, Depends(get_current_access_tags)]
    ) -> None:
        self.caller = caller
        self._policy = request.app.state.access_policy
        self._key_tags = key_tags

    def tags(self, scopes: Collection[str] = READ) -> Tags:
        """Return the tags; None: every run."""
        who = self.caller.who
        if who is None:
            return None
        if self._key_tags is None and self._policy.rules.sees_all(who):
            return None
        found: Tags = self._policy.visible_tags(who, self._key_tags, scopes)
        return found


Reached = Annotated[Reach, Depends()]


async def montage_row(store: IndexStore, montage_id: str, tags: Tags) -> dict[str, Any]:
    """Return the index's row of a montage.

    Raises
    ------
    HTTPException
        404: there is none, or it is not for the caller; 503: the index is not open.
    """
    if not store.ready:
        raise HTTPException(503, "the index is not open yet; try again in a moment", headers=_AGAIN)
    try:
        async with store.reading() as connection:
            row = await queries.montage(connection, montage_id, tags)
    except (DBAPIError, OSError) as error:
        raise HTTPException(503, "the index's database does not answer; try again", headers=_AGAIN) from error
    if row is None:
        raise HTTPException(404, f"no montage {montage_id!r}")
    return row
