"""Raw files of the catalog: which there are, of which runs, and opened if they may be."""

from __future__ import annotations

import os
import stat
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import ColumnElement, select
from sqlalchemy.orm import aliased
from tiled.catalog import orm
from tiled.utils import path_from_uri

from tiled_server.access.tree import ROOT
from tiled_server.index.access import Tags

_FILE = "file://"


@dataclass(frozen=True, slots=True)
class Asset:
    """A file or folder that the catalog refers to, and a run that it belongs to."""

    number: int
    uri: str
    folder: bool
    mimetype: str
    run: str

    @property
    def path(self) -> Path:
        """Where it is."""
        return Path(path_from_uri(self.uri))


class Assets:
    """The assets of a catalog, as far as a caller may see their runs.

    Parameters
    ----------
    catalog
        The catalog's adapter.
    """

    def __init__(self, catalog: Any) -> None:
        self._catalog = catalog

    async def of_runs(self, uids: Collection[str], tags: Tags) -> list[Asset]:
        """Return the files of runs, by run and address."""
        run = aliased(orm.Node)
        found = await self._find(run, run.key.in_(list(uids)), tags)
        unique = {(one.run, one.uri): one for one in found}
        return [unique[key] for key in sorted(unique)]

    async def numbered(self, number: int, tags: Tags) -> Asset | None:
        """Return an asset by its number; None: there is none, or it is of no run that the caller may see."""
        found = await self._find(aliased(orm.Node), orm.Asset.id == number, tags)
        return found[0] if found else None

    async def _find(self, run: Any, which: ColumnElement[bool], tags: Tags) -> list[Asset]:
        of_asset = orm.DataSourceAssetAssociation
        statement = (
            select(orm.Asset.id, orm.Asset.data_uri, orm.Asset.is_directory, orm.DataSource.mimetype, run.key)
            .join(of_asset, of_asset.asset_id == orm.Asset.id)
            .join(orm.DataSource, orm.DataSource.id == of_asset.data_source_id)
            .join(orm.NodesClosure, orm.NodesClosure.descendant == orm.DataSource.node_id)
            .join(run, run.id == orm.NodesClosure.ancestor)
            .where(run.parent == ROOT, orm.Asset.data_uri.startswith(_FILE), which)
            .distinct()
        )
        if tags is not None:
            association, tag = orm.NodeAccessTagAssociation, orm.AccessTag
            having = (
                select(association.node_id)
                .join(tag, tag.id == association.tag_id)
                .where(association.node_id == run.id, tag.name.in_(sorted(tags)))
            )
            statement = statement.where(having.exists())
        async with self._catalog.context.session() as session:
            return [Asset(*row) for row in await session.execute(statement)]


class Readable:
    """Folders whose files are handed out; what leads out of them is not there.

    Parameters
    ----------
    folders
        The folders.
    """

    def __init__(self, folders: Iterable[Path]) -> None:
        self._folders: Sequence[Path] = [folder.resolve() for folder in folders]

    def size(self, path: Path) -> int | None:
        """Return the size of a file in bytes; None where it is not handed out."""
        try:
            with open_file(path, self._folders) as file:
                return os.fstat(file.fileno()).st_size
        except OSError:
            return None

    def open(self, path: Path) -> Any:
        """Open a file for reading bytes.

        Raises
        ------
        OSError
            There is none, it is no plain file, or not in the folders.
        """
        return open_file(path, self._folders)


def open_file(path: Path, folders: Sequence[Path]) -> Any:
    """Open a plain file that lies, links followed, in one of some folders.

    Raises
    ------
    OSError
        It does not, or is none.
    """
    resolved = path.resolve(strict=True)
    # a pipe would wait, and a link that is put there now is not followed
    descriptor = os.open(resolved, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    file = os.fdopen(descriptor, "rb", buffering=0)
    try:
        # what was opened, whatever was moved meanwhile
        opened = Path(f"/proc/self/fd/{descriptor}").readlink()
        if not any(opened.is_relative_to(folder) for folder in folders):
            raise PermissionError(f"{path.name} is not in a folder that may be read")
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise IsADirectoryError(f"{path.name} is no plain file")
    except BaseException:
        file.close()
        raise
    return file
