"""A catalog out of a backup, into a state directory or databases that have none."""

from __future__ import annotations

import asyncio
import shutil
import tarfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from devices.errors import ConfigurationError, MontangoError
from tiled_server.configuration import DATABASE_VARIABLE, TABLES_VARIABLE
from tiled_server.databases import shown
from tiled_server.operations import dumps
from tiled_server.operations.addresses import move, new_addresses
from tiled_server.operations.backup import ARRAYS_FILE, JOURNAL_FILE, SECRET_FILE
from tiled_server.operations.manifest import read_manifest, sync
from tiled_server.operations.positions import to_replay
from tiled_server.operations.stores import ARRAYS, CATALOG, ENDED, RUNS, Stores, asking
from tiled_server.sockets import lock_state

Say = Callable[[str], object]


@dataclass(frozen=True, slots=True)
class Restored:
    """What is there now.

    Attributes
    ----------
    runs
        Runs in the catalog.
    moved
        Addresses that were written anew, for state directory, databases or files are elsewhere now.
    replay
        Uids of runs that have ended in the journal and not in the catalog: replay adds them.
    open
        Uids of runs that have ended in neither.
    lost
        Uids of runs that had not ended in the backup and are not in the journal: they end nowhere.
    """

    runs: int
    moved: int
    replay: tuple[str, ...]
    open: tuple[str, ...]
    lost: tuple[str, ...]


def restore(
    folder: Path, stores: Stores, *, moved: Mapping[Path, Path] | None = None, say: Say = print
) -> Restored:
    """Make a catalog from a backup; nothing that is there is overwritten.

    Parameters
    ----------
    folder
        The backup.
    stores
        Where to: a state directory without a catalog, and empty databases for each that was dumped.
    moved
        Folders of data files when the backup was made, and now.
    say
        Told what is done, line by line.

    Raises
    ------
    ConfigurationError
        It is no backup, or there is something in the place of what it has.
    MontangoError
        The backup is damaged, or something cannot be written.
    """
    folder = folder.expanduser().absolute()
    facts = read_manifest(folder)
    say(f"the backup of {facts['made']} is whole: {facts['runs']} runs, {facts['ended']} of them ended")
    _check_kinds(facts, stores)
    stores.run_folder.mkdir(parents=True, exist_ok=True)
    with lock_state(stores.run_folder):
        _check_place(stores, facts)
        asyncio.run(_check_databases(stores))
        part = stores.state_dir / ".catalog.restoring"
        shutil.rmtree(part, ignore_errors=True)
        try:
            _unpack(folder, part, facts)
            count = asyncio.run(_load(folder, stores, part, facts, moved or {}, say))
            if stores.folder.exists():
                shutil.rmtree(stores.folder)  # folders without files
            part.rename(stores.folder)
            _unpack_journal(folder, stores)
        except OSError as error:
            raise MontangoError(
                f"the catalog cannot be restored to {stores.state_dir} ({error.strerror or error})"
            ) from error
        finally:
            shutil.rmtree(part, ignore_errors=True)
    return asyncio.run(_told(stores, facts, count))


def _check_kinds(facts: Mapping[str, Any], stores: Stores) -> None:
    """See that what was in PostgreSQL goes there, and what was in SQLite too."""
    for name, option, variable, uri in (
        ("database", "services.tiled.database", DATABASE_VARIABLE, stores.database),
        ("tables", "services.tiled.tables", TABLES_VARIABLE, stores.tables),
    ):
        if facts[name] and not uri:
            raise ConfigurationError(
                f"the backup's {name} was in PostgreSQL ({facts[name]}); make an empty database and name it "
                f"({option} in montango.yaml, or {variable})"
            )
        if uri and not facts[name]:
            raise ConfigurationError(
                f"the backup's {name} was in SQLite, and {shown(uri)} is PostgreSQL; restore it without, "
                f"then take it there (docs/how-to/postgresql.md)"
            )
    if len(stores.postgres()) != len(facts["dumps"]):
        raise ConfigurationError(
            f"the backup has {len(facts['dumps'])} databases, and {len(stores.postgres())} are named; name "
            f"one for catalog and tables, or two, as it was"
        )


def _check_place(stores: Stores, facts: Mapping[str, Any]) -> None:
    there = [path for path in stores.folder.rglob("*") if not path.is_dir()] if stores.folder.exists() else []
    if there:
        raise ConfigurationError(
            f"{stores.folder} has a catalog ({there[0].name}, ...): nothing is overwritten; name a new state "
            f"directory with --state, or move the folder away"
        )
    if JOURNAL_FILE in facts["files"] and any(stores.journal.glob("*/*.jsonl")):
        raise ConfigurationError(
            f"the backup has a journal, and {stores.journal} is one: nothing is overwritten; move it away"
        )


async def _check_databases(stores: Stores) -> None:
    for uri in stores.postgres().values():
        await dumps.check_empty(uri)


def _unpack(folder: Path, part: Path, facts: Mapping[str, Any]) -> None:
    (part / ARRAYS).mkdir(parents=True)
    for name in facts["files"]:
        if name.endswith(".db") or name == SECRET_FILE:
            shutil.copyfile(folder / name, part / name)
            (part / name).chmod(0o600)  # one may have people and keys
    if ARRAYS_FILE in facts["files"]:
        with tarfile.open(folder / ARRAYS_FILE) as archive:
            archive.extractall(part / ARRAYS, filter="data")
    sync([*(path for path in part.iterdir() if path.is_file()), part])


def _unpack_journal(folder: Path, stores: Stores) -> None:
    path = folder / JOURNAL_FILE
    if path.is_file():
        stores.journal.mkdir(parents=True, exist_ok=True)
        with tarfile.open(path) as archive:
            archive.extractall(stores.journal, filter="data")


async def _load(
    folder: Path, stores: Stores, part: Path, facts: Mapping[str, Any], moved: Mapping[Path, Path], say: Say
) -> int:
    """Read the dumps, and write the addresses of the catalog anew; return how many changed."""
    for name, uri in stores.postgres().items():
        say(f"{name}.dump into {shown(uri)}")
        await dumps.load(folder / f"{name}.dump", uri)
    pairs = new_addresses(Path(facts["state_dir"]), stores.state_dir, stores.tables, moved)
    if not pairs:
        return 0
    async with asking(stores.database or part / CATALOG, writing=True) as connection:
        return await move(connection, pairs)


async def _told(stores: Stores, facts: Mapping[str, Any], moved: int) -> Restored:
    from sqlalchemy import text

    async with asking(stores.catalog_address) as connection:
        runs = await connection.scalar(text(RUNS))
        found = await connection.execute(text(ENDED[connection.dialect.name]))
        ended = set(found.scalars())
    replay, unended = to_replay(stores.journal, ended)
    journal = facts["journal"]
    unknown = {*journal["open"], *journal["behind"]} - ended - {*replay, *unended}
    return Restored(int(runs or 0), moved, tuple(replay), tuple(unended), tuple(sorted(unknown)))
