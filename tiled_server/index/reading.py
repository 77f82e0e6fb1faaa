"""What the index takes from Tiled: runs, their tags, the numbers of their tiles, their tables of events."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import anyio
import h5py
import numpy as np
import numpy.typing as npt
from sqlalchemy import func, select
from tiled.catalog import orm
from tiled.storage import FileStorage
from tiled.utils import ensure_awaitable, path_from_uri

from devices.tiles import IMAGE_KEY
from processing.callbacks._tiles import TILES_STREAM
from tiled_server.frames import READING
from tiled_server.mimetypes import HDF5

_EVENTS: Final = "internal"
"""Key of the table of events in a stream, as TiledWriter names it."""

Numbers = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class RunStamp:
    """A run in the catalog, and what changes with it: its node, the edits of its metadata, its tags."""

    key: str
    node_id: int
    stamp: str


@dataclass(frozen=True, slots=True)
class FoundRun:
    """A run as the catalog has it now."""

    key: str
    node_id: int
    stamp: str
    metadata: Mapping[str, Any]
    tags: tuple[str, ...]


class CatalogReader:
    """Reads runs out of a Tiled catalog of the same process.

    Parameters
    ----------
    catalog
        The catalog's adapter; its children are the runs.
    """

    def __init__(self, catalog: Any) -> None:
        self._catalog = catalog
        self._context = catalog.context

    async def page(self, after_id: int, limit: int) -> list[RunStamp]:
        """Return runs in the order in which they were added, those after a node."""
        edits = (
            select(func.count())
            .where(orm.Revision.node_id == orm.Node.id)
            .correlate(orm.Node)
            .scalar_subquery()
        )
        statement = (
            select(orm.Node.key, orm.Node.id, orm.Node.time_updated, edits)
            .where(orm.Node.parent == self._catalog.node.id, orm.Node.id > after_id)
            .order_by(orm.Node.id)
            .limit(limit)
        )
        async with self._context.session() as session:
            found = (await session.execute(statement)).all()
            tags = await _tags(session, [node_id for _, node_id, *_ in found])
        return [
            RunStamp(key, node_id, stamp_of(node_id, updated, edits, tags.get(node_id, ())))
            for key, node_id, updated, edits in found
        ]

    async def present(self, keys: Sequence[str]) -> set[str]:
        """Return which of these runs the catalog has."""
        statement = select(orm.Node.key).where(
            orm.Node.parent == self._catalog.node.id, orm.Node.key.in_(list(keys))
        )
        async with self._context.session() as session:
            return set((await session.execute(statement)).scalars())

    async def run(self, key: str) -> FoundRun | None:
        """Return a run as it is now; None if there is none of this name."""
        edits = select(func.count()).where(orm.Revision.node_id == orm.Node.id).scalar_subquery()
        statement = select(orm.Node.id, orm.Node.time_updated, orm.Node.metadata_, edits).where(
            orm.Node.parent == self._catalog.node.id, orm.Node.key == key
        )
        async with self._context.session() as session:
            found = (await session.execute(statement)).first()
            if found is None:
                return None
            node_id, updated, metadata, count = found
            tags = (await _tags(session, [node_id])).get(node_id, ())
        return FoundRun(key, node_id, stamp_of(node_id, updated, count, tags), metadata or {}, tags)

    async def tile_numbers(self, run: FoundRun, names: Sequence[str]) -> tuple[int, dict[str, Numbers]]:
        """Return how many frames a run has, and columns of what was recorded of them, (tile,) float64.

        A column that is not there, or whose file is gone, is left out.
        """
        parts = await self._arrays(run.node_id, [IMAGE_KEY, *names])
        if IMAGE_KEY not in parts:
            events = await self.events(run.key, TILES_STREAM, names)
            count = max(map(len, events.values()), default=0)
            return count, {name: np.asarray(values, np.float64) for name, values in events.items()}
        count = parts[IMAGE_KEY].length
        found: dict[str, Numbers] = {}
        files: dict[Path, dict[str, _Array]] = {}
        for name in names:
            if name not in parts:
                continue
            path = self._readable(parts[name])
            if path is not None:
                files.setdefault(path, {})[name] = parts[name]
            else:
                entry = await self._catalog.lookup_adapter([run.key, TILES_STREAM, name])
                found[name] = np.asarray(await ensure_awaitable(entry.read), np.float64).ravel()[:count]
        for path, wanted in files.items():
            found |= await anyio.to_thread.run_sync(_read_columns, path, wanted, count)
        return count, found

    async def events(self, key: str, stream: str, names: Sequence[str]) -> dict[str, npt.NDArray[Any]]:
        """Return columns of a stream's table of events, oldest first; empty without such a stream."""
        try:
            entry = await self._catalog.lookup_adapter([key, stream, _EVENTS])
        except LookupError:
            return {}
        known = [name for name in ("seq_num", *names) if name in entry.structure().columns]
        table = await ensure_awaitable(entry.read, known)
        if "seq_num" in known:  # PostgreSQL has no order of its own
            table = table.sort_values("seq_num", kind="stable")
        return {name: table[name].to_numpy() for name in known if name != "seq_num"}

    async def _arrays(self, node_id: int, names: Sequence[str]) -> dict[str, _Array]:
        """Return where the arrays of a run's stream of tiles lie."""
        stream = (
            select(orm.Node.id)
            .where(orm.Node.parent == node_id, orm.Node.key == TILES_STREAM)
            .scalar_subquery()
        )
        statement = (
            select(
                orm.Node.key,
                orm.DataSource.mimetype,
                orm.DataSource.parameters,
                orm.Structure.structure,
                orm.Asset.data_uri,
            )
            .join(orm.DataSource, orm.DataSource.node_id == orm.Node.id)
            .join(orm.Structure, orm.Structure.id == orm.DataSource.structure_id)
            .join(
                orm.DataSourceAssetAssociation,
                orm.DataSourceAssetAssociation.data_source_id == orm.DataSource.id,
            )
            .join(orm.Asset, orm.Asset.id == orm.DataSourceAssetAssociation.asset_id)
            .where(orm.Node.parent == stream, orm.Node.key.in_(list(names)))
        )
        found: dict[str, _Array] = {}
        async with self._context.session() as session:
            for key, mimetype, parameters, structure, uri in await session.execute(statement):
                several = found.get(key)
                found[key] = _Array(
                    mimetype if several is None else "several files",
                    parameters or {},
                    int(structure["shape"][0]),
                    uri,
                )
        return found

    def _readable(self, array: _Array) -> Path | None:
        """Return the file of an array if it can be read directly, and may be."""
        if array.mimetype != HDF5 or {"slice", "squeeze"} & {k for k, v in array.parameters.items() if v}:
            return None
        path = Path(path_from_uri(array.uri)).resolve()
        folders = [
            one.path for one in self._context.readable_storage.values() if isinstance(one, FileStorage)
        ]
        return path if any(path.is_relative_to(Path(one).resolve()) for one in folders) else None


@dataclass(frozen=True, slots=True)
class _Array:
    mimetype: str
    parameters: Mapping[str, Any]
    length: int
    uri: str


def _read_columns(path: Path, wanted: Mapping[str, _Array], count: int) -> dict[str, Numbers]:
    """Read datasets of one file; a file that is gone has none."""
    swmr = any(bool(one.parameters.get("swmr")) for one in wanted.values())
    try:
        with READING, h5py.File(path, "r", libver="latest", swmr=swmr) as file:
            return {
                name: np.asarray(file[_dataset(one)][:count], np.float64).ravel()
                for name, one in wanted.items()
            }
    except FileNotFoundError:
        return {}


def _dataset(array: _Array) -> str:
    name = array.parameters.get("dataset", "/")
    return name if isinstance(name, str) else "/".join(name)


async def _tags(session: Any, node_ids: Sequence[int]) -> dict[int, tuple[str, ...]]:
    """Return the access tags of nodes, sorted."""
    statement = (
        select(orm.NodeAccessTagAssociation.node_id, orm.AccessTag.name)
        .join(orm.AccessTag, orm.AccessTag.id == orm.NodeAccessTagAssociation.tag_id)
        .where(orm.NodeAccessTagAssociation.node_id.in_(list(node_ids)))
        .order_by(orm.AccessTag.name)
    )
    found: dict[int, tuple[str, ...]] = {}
    for node_id, name in await session.execute(statement):
        found[node_id] = (*found.get(node_id, ()), name)
    return found


def stamp_of(node_id: int, updated: Any, edits: int, tags: Sequence[str]) -> str:
    """Return what changes with a run: its node, when that was updated, its edits, its tags."""
    return f"{node_id} {updated} {edits} {','.join(tags)}"
