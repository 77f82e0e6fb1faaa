"""Routes of the notes: ``GET`` and ``POST /custom/montages/{montage_id}/notes``."""

from __future__ import annotations

import logging
from typing import Annotated, Any, Final

from fastapi import APIRouter, HTTPException, Query
from pydantic import BaseModel, ConfigDict, Field, field_validator
from sqlalchemy.exc import DBAPIError

from tiled_server.access.notes import LONGEST, Notes
from tiled_server.access.roles import NOTES
from tiled_server.access.visible import Reached, montage_row
from tiled_server.index.store import IndexStore

_log = logging.getLogger(__name__)

_LARGEST: Final = 2**31 - 1
_AGAIN: Final = {"Retry-After": "2"}


class NewNote(BaseModel):
    """A note that is to be added."""

    model_config = ConfigDict(extra="forbid")

    text: str = Field(min_length=1, max_length=LONGEST)

    @field_validator("text")
    @classmethod
    def _words(cls, value: str) -> str:
        if not value.strip() or "\0" in value:
            raise ValueError("a note has words, and no NUL")
        return value


def make_router(notes: Notes, store: IndexStore) -> APIRouter:
    """Return the routes over the notes on the montages of an index."""
    router = APIRouter(tags=["notes"])

    @router.get("/montages/{montage_id}/notes")
    async def listed(
        montage_id: str, reach: Reached, after: Annotated[int, Query(ge=0, le=_LARGEST)] = 0
    ) -> dict[str, Any]:
        reach.caller.check("read:metadata")
        await montage_row(store, montage_id, reach.tags())
        try:
            return {"notes": await notes.of(montage_id, after)}
        except (DBAPIError, OSError) as error:
            raise _away(error) from error

    @router.post("/montages/{montage_id}/notes", status_code=201)
    async def add(montage_id: str, note: NewNote, reach: Reached) -> dict[str, Any]:
        reach.caller.check("read:metadata")
        await montage_row(store, montage_id, reach.tags())
        reach.caller.check(NOTES)
        try:
            await montage_row(store, montage_id, reach.tags({NOTES}))
        except HTTPException as error:
            if error.status_code != 404:
                raise
            raise HTTPException(403, "notes are for those who are on the proposal") from None
        principal = reach.caller.principal
        uuid = None if principal is None else str(principal.uuid)
        try:
            return await notes.add(montage_id, reach.caller.name, uuid, note.text)
        except (DBAPIError, OSError) as error:
            raise _away(error) from error

    return router


def _away(error: BaseException) -> HTTPException:
    _log.warning("notes are not at hand: %s", str(getattr(error, "orig", None) or error).split("\n")[0])
    return HTTPException(503, "the database of notes does not answer; try again in a moment", headers=_AGAIN)
