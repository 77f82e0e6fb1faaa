"""What a catalog points to, when it or the files are in another place than before.

Tiled keeps the whole address of every file, folder and database that it points to in its table ``assets``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final
from urllib.parse import quote

from sqlalchemy import bindparam, column, select, table, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from devices.errors import ConfigurationError, MontangoError
from tiled_server.databases import tables_uri
from tiled_server.operations.stores import ARRAYS, TABLES

ASSETS: Final = table("assets", column("id"), column("data_uri"))
_FILE: Final = "file://localhost"
_SQLITE: Final = ("sqlite://localhost/", "sqlite:///")
_BLOCK: Final = 1000


def file_address(path: Path) -> str:
    """Return the address of a file, as Tiled writes it."""
    return _FILE + quote(str(path))


def moved_folders(pairs: Sequence[str]) -> dict[Path, Path]:
    """Return folders before and now, from words ``OLD=NEW``.

    Raises
    ------
    ConfigurationError
        A word is not of two absolute paths.
    """
    found = {}
    for pair in pairs:
        old, equal, new = pair.partition("=")
        if not equal or not old.startswith("/") or not new.startswith("/"):
            raise ConfigurationError(
                f"--moved {pair!r} is not two absolute paths with = between them; give --moved /old=/new"
            )
        found[Path(old)] = Path(new)
    return found


def new_addresses(
    before: Path, now: Path, tables: str | None, moved: Mapping[Path, Path]
) -> list[tuple[str, str]]:
    """Return beginnings of addresses before and now, the longest first.

    Parameters
    ----------
    before, now
        The state directory.
    tables
        Address of the PostgreSQL database of tables now; None for SQLite in the state directory.
    moved
        Folders of data files before, and now.
    """
    old, new = before / "catalog", now / "catalog"
    pairs = [(file_address(old / ARRAYS) + "/", file_address(new / ARRAYS) + "/")]
    if tables is None:
        # Tiled 0.2.20 writes it with a host
        pairs += [(f"{start}{old / TABLES}", f"{start}{new / TABLES}") for start in _SQLITE]
    else:
        from tiled.utils import sanitize_uri

        pairs.append(("postgresql://", str(sanitize_uri(tables_uri(tables))[0])))
    pairs += [(f"{file_address(one)}/", f"{file_address(two)}/") for one, two in moved.items()]
    return sorted((pair for pair in pairs if pair[0] != pair[1]), key=lambda pair: -len(pair[0]))


async def move(connection: AsyncConnection, pairs: Sequence[tuple[str, str]]) -> int:
    """Write the addresses of a catalog anew; return how many changed.

    Raises
    ------
    MontangoError
        Two would be the same.
    """
    last, count = 0, 0
    while True:
        statement = (
            select(ASSETS.c.id, ASSETS.c.data_uri).where(ASSETS.c.id > last).order_by(ASSETS.c.id)
        ).limit(_BLOCK)
        rows = (await connection.execute(statement)).all()
        if not rows:
            return count
        last = rows[-1][0]
        changed = [
            {"of": number, "to": found} for number, uri in rows if (found := moved_address(uri, pairs)) != uri
        ]
        if changed:
            writing = update(ASSETS).where(ASSETS.c.id == bindparam("of")).values(data_uri=bindparam("to"))
            try:
                await connection.execute(writing, changed)
            except IntegrityError as error:
                raise MontangoError(
                    f"two files of the catalog would be the same one ({error.orig})"
                ) from None
            count += len(changed)


def moved_address(uri: str, pairs: Sequence[tuple[str, str]]) -> str:
    """Return an address as it is now."""
    for old, new in pairs:
        if uri.startswith(old):
            # all of the address of a PostgreSQL database: its path names the database
            return new if old == "postgresql://" else new + uri[len(old) :]
    return uri
