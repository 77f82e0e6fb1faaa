"""The access tags of a run: what its start document says, or else its proposal, or its session."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping
from typing import Any, Final

from sqlalchemy import select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from tiled.catalog import orm

from tiled_server.access.people import bad_tag

_log = logging.getLogger(__name__)

_PAGE: Final = 500
PROPOSAL_KEYS: Final = ("proposal_id", "id", "number", "name")
"""Where the id is in a ``proposal`` that is a mapping, as some facilities write it."""


def tags_of(metadata: Mapping[str, Any]) -> frozenset[str]:
    """Return the tags of a run by its metadata; what cannot be a tag is left out, and logged.

    Examples
    --------
    >>> sorted(tags_of({"start": {"proposal": "p-1", "data_session": "s-42"}}))
    ['p-1']
    """
    start = metadata.get("start")
    if not isinstance(start, Mapping):
        return frozenset()
    named = start.get("tiled_access_tags")
    if isinstance(named, str):
        named = [named]
    if not named:
        named = [_proposal(start.get("proposal")) or start.get("data_session")]
    return usable((one for one in named if one not in (None, "")), str(start.get("uid", "")))


def usable(names: Iterable[Any], run: str = "") -> frozenset[str]:
    """Return those names that can be tags; the others are logged."""
    found = []
    for name in names:
        text = str(name)
        if why := bad_tag(text):
            _log.warning("run %s: %.80r is no access tag (%s)", run, text, why)
        else:
            found.append(text)
    return frozenset(found)


def _proposal(value: Any) -> Any:
    if isinstance(value, Mapping):
        return next((value[key] for key in PROPOSAL_KEYS if value.get(key)), None)
    return value


class TagTable:
    """Tiled's table of tags: a tag has to be there before a node can have it.

    Parameters
    ----------
    engine
        Of the catalog's database.
    """

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._known: set[str] = set()

    async def ensure(self, names: Collection[str]) -> None:
        """Make the tags that are missing."""
        if missing := sorted(set(names) - self._known):
            async with self._engine.begin() as connection:
                await connection.execute(_make(self._engine.dialect.name, missing))
            self._known.update(missing)

    async def tag_runs(self, root_id: int) -> int:
        """Give tags to the runs that have none, being from before; return how many got some."""
        last, count = -1, 0
        has_tags = select(orm.NodeAccessTagAssociation.node_id).where(
            orm.NodeAccessTagAssociation.node_id == orm.Node.id
        )
        while True:
            async with AsyncSession(self._engine) as session:
                found = (
                    await session.execute(
                        select(orm.Node.id, orm.Node.metadata_)
                        .where(orm.Node.parent == root_id, orm.Node.id > last, ~has_tags.exists())
                        .order_by(orm.Node.id)
                        .limit(_PAGE)
                    )
                ).all()
            if not found:
                return count
            last = found[-1][0]
            wanted = {node_id: tags for node_id, metadata in found if (tags := tags_of(metadata or {}))}
            await self._write(wanted, root_id)
            count += len(wanted)

    async def _write(self, wanted: Mapping[int, frozenset[str]], root_id: int) -> None:
        names = frozenset().union(*wanted.values())
        if not names:
            return
        await self.ensure(names)
        table = orm.AccessTag.__table__
        async with self._engine.begin() as connection:
            ids = {
                name: number
                for number, name in await connection.execute(
                    select(table.c.id, table.c.name).where(table.c.name.in_(names))
                )
            }
            rows = [
                {"node_id": node_id, "tag_id": ids[tag], "parent_id": root_id}
                for node_id, tags in wanted.items()
                for tag in tags
            ]
            insert = _insert(self._engine.dialect.name)(orm.NodeAccessTagAssociation.__table__)
            await connection.execute(insert.on_conflict_do_nothing(), rows)


def _insert(dialect: str) -> Any:
    return postgresql.insert if dialect == "postgresql" else sqlite.insert


def _make(dialect: str, names: Collection[str]) -> Any:
    statement = _insert(dialect)(orm.AccessTag.__table__)
    rows = [{"name": name, "is_public": False} for name in names]
    return statement.values(rows).on_conflict_do_nothing(index_elements=["name"])
