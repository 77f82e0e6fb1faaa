"""Routes of the marks: ``/custom/montages/{montage_id}/retention`` and ``/custom/retention``."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, date, datetime
from typing import Annotated, Any, Final, Self

from fastapi import APIRouter, HTTPException, Query
from pydantic import BaseModel, ConfigDict, Field, model_validator
from sqlalchemy import select
from sqlalchemy.exc import DBAPIError

from tiled_server.access.roles import RETENTION
from tiled_server.access.visible import Reached, montage_row
from tiled_server.index.access import Tags, visible
from tiled_server.index.schema import montages
from tiled_server.index.store import IndexStore
from tiled_server.operations.marks import Mark, Marks, Row, is_due

_log = logging.getLogger(__name__)

LONGEST: Final = 2000
_BLOCK: Final = 500
_READ: Final = "read:metadata"


class NewMark(BaseModel):
    """A mark that is to be set."""

    model_config = ConfigDict(extra="forbid")

    mark: Mark
    until: date | None = None
    why: str = Field(min_length=1, max_length=LONGEST)

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if (self.mark is Mark.UNTIL) != (self.until is not None):
            raise ValueError("'until' needs a date, and only 'until' has one")
        if not self.why.strip() or "\0" in self.why:
            raise ValueError("a mark has a reason in words, and no NUL")
        return self


def make_router(marks: Marks, store: IndexStore) -> APIRouter:
    """Return the routes over the marks of the montages of an index."""
    router = APIRouter(tags=["retention"])

    @router.get("/montages/{montage_id}/retention")
    async def of_montage(montage_id: str, reach: Reached) -> dict[str, Any]:
        reach.caller.check(_READ)
        await montage_row(store, montage_id, reach.tags())
        async with _asking():
            found = await marks.of(montage_id)
        return {"mark": found[0] if found else None, "history": found}

    @router.post("/montages/{montage_id}/retention", status_code=201)
    async def add(montage_id: str, mark: NewMark, reach: Reached) -> dict[str, Any]:
        reach.caller.check(_READ)
        await montage_row(store, montage_id, reach.tags())
        reach.caller.check(RETENTION)
        principal = reach.caller.principal
        uuid = None if principal is None else str(principal.uuid)
        async with _asking():
            return await marks.add(montage_id, reach.caller.name, uuid, mark.mark, mark.until, mark.why)

    @router.get("/retention")
    async def listed(
        reach: Reached, due: bool = False, on: Annotated[date | None, Query()] = None
    ) -> dict[str, Any]:
        reach.caller.check(_READ)
        if not store.ready:
            raise HTTPException(503, "the index is not open yet; try again in a moment", headers=_AGAIN)
        day = on or datetime.now(UTC).date()
        async with _asking():
            rows = [row | {"due": is_due(row, day)} for row in await marks.holding()]
            found = await _seen([row for row in rows if row["due"] or not due], store, reach.tags())
        return {"on": day.isoformat(), "marks": found}

    return router


async def _seen(rows: list[Row], store: IndexStore, tags: Tags) -> list[Row]:
    """Return those of marks whose montages the caller may see, with what the index knows of these."""
    columns = (montages.c.montage_id, montages.c.sample, montages.c.proposal, montages.c.started)
    found = []
    for first in range(0, len(rows), _BLOCK):
        block = rows[first : first + _BLOCK]
        statement = select(*columns).where(
            montages.c.montage_id.in_([row["montage_id"] for row in block]),
            visible(tags, montages.c.montage_id),
        )
        async with store.reading() as connection:
            known = {one["montage_id"]: dict(one) for one in (await connection.execute(statement)).mappings()}
        found += [row | known[row["montage_id"]] for row in block if row["montage_id"] in known]
    return found


_AGAIN: Final = {"Retry-After": "2"}


@asynccontextmanager
async def _asking() -> AsyncIterator[None]:
    """Tell a database that is away as such."""
    try:
        yield
    except (DBAPIError, OSError) as error:
        _log.warning("marks are not at hand: %s", str(getattr(error, "orig", None) or error).split("\n")[0])
        raise HTTPException(
            503, "the database of marks does not answer; try again in a moment", headers=_AGAIN
        ) from error
