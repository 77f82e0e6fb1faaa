"""PostgreSQL databases into files and back, by PostgreSQL's own programs.

https://www.postgresql.org/docs/current/app-pgdump.html,
https://www.postgresql.org/docs/current/app-pgrestore.html
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from sqlalchemy.engine import make_url

from devices.errors import ConfigurationError, MontangoError
from tiled_server.databases import CONNECT_TIMEOUT_S, shown
from tiled_server.operations.stores import ENDED, RUNS

_PLACES: Final = Path("/usr/lib/postgresql")
_OURS: Final = """
select count(*) from pg_class join pg_namespace on pg_namespace.oid = relnamespace
where relkind in ('r', 'p', 'v', 'm', 'S') and nspname !~ '^pg_' and nspname <> 'information_schema'
"""


def find_program(name: str, places: Path = _PLACES) -> Path:
    """Return a program of PostgreSQL, of the newest version on this machine.

    Raises
    ------
    ConfigurationError
        There is none.
    """
    found = sorted(
        places.glob(f"[0-9]*/bin/{name}"),
        key=lambda path: [int(part) for part in re.findall(r"\d+", path.parts[-3])],
    )
    program = str(found[-1]) if found else shutil.which(name)
    if program is None:
        raise ConfigurationError(
            f"there is no {name} on this machine; install the client programs of PostgreSQL (Debian: "
            f"apt-get install postgresql-client), not older than the server"
        )
    return Path(program).resolve()


@dataclass(frozen=True, slots=True)
class Dumped:
    """A database in a file.

    Attributes
    ----------
    runs
        How many runs it has; None for one without a catalog.
    ended
        Uids of those that had ended.
    versions
        Of the server, and of the program that wrote the file.
    """

    runs: int | None
    ended: frozenset[str]
    versions: dict[str, str]


async def dump(uris: Mapping[str, str], folder: Path) -> dict[str, Dumped]:
    """Write databases to ``NAME.dump``, each as it was at one moment; nobody waits for it.

    Raises
    ------
    ConfigurationError
        The program is missing, or older than the server.
    MontangoError
        The database cannot be read.
    """
    program = find_program("pg_dump")
    opened: list[tuple[str, str, Any]] = []
    found = {}
    try:
        for name, uri in uris.items():  # the first, the catalog, is never newer than the others
            connection = await _connect(uri)
            opened.append((name, uri, connection))
            await connection.execute("begin isolation level repeatable read, read only")
            await connection.fetchval("select 1")
        for name, uri, connection in opened:
            snapshot = await connection.fetchval("select pg_export_snapshot()")
            words, environment = connecting(uri)
            await _run(
                [
                    str(program), "--format=custom", "--no-owner", "--no-privileges", "--no-comments",
                    "--no-password", f"--snapshot={snapshot}", f"--file={folder / name}.dump", *words,
                ],
                environment,
                uri,
            )  # fmt: skip
            found[name] = await _facts(connection, program)
    finally:
        for _, _, connection in opened:
            await connection.close()
    return found


async def _facts(connection: Any, program: Path) -> Dumped:
    there = await connection.fetchval("select to_regclass('public.nodes') is not null")
    return Dumped(
        await connection.fetchval(RUNS) if there else None,
        frozenset(row[0] for row in await connection.fetch(ENDED["postgresql"])) if there else frozenset(),
        {
            "postgresql": str(await connection.fetchval("show server_version")),
            "pg_dump": (await _run([str(program), "--version"], {}, "")).strip(),
        },
    )


async def load(path: Path, uri: str) -> None:
    """Read a file of `dump` into an empty database: all of it, or nothing.

    Raises
    ------
    ConfigurationError
        The database has something in it, or the program is missing.
    MontangoError
        The file cannot be read into it.
    """
    await check_empty(uri)
    words, environment = connecting(uri)
    await _run(
        [
            str(find_program("pg_restore")), "--no-owner", "--no-privileges", "--no-comments",
            "--exit-on-error", "--single-transaction", "--no-password", *words, str(path),
        ],
        environment,
        uri,
    )  # fmt: skip


async def check_empty(uri: str) -> None:
    """See that a database has no tables.

    Raises
    ------
    ConfigurationError
        It has some.
    MontangoError
        It cannot be read.
    """
    connection = await _connect(uri)
    try:
        count = await connection.fetchval(_OURS)
    finally:
        await connection.close()
    if count:
        raise ConfigurationError(
            f"the database {shown(uri)} is not empty ({count} tables): nothing is overwritten; make a new "
            f"one (createdb), and name it"
        )


def connecting(uri: str) -> tuple[list[str], dict[str, str]]:
    """Return words and variables that let a program of PostgreSQL in: no user can read the password."""
    url = make_url(uri)
    bare = url._replace(password=None).render_as_string(hide_password=False)
    return [f"--dbname={bare}"], {"PGPASSWORD": url.password} if url.password else {}


async def _connect(uri: str) -> Any:
    import asyncpg

    try:
        return await asyncpg.connect(dsn=uri, timeout=CONNECT_TIMEOUT_S)
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError, ValueError) as error:
        secret = make_url(uri).password
        text = str(error).replace(secret, "***") if secret else str(error)
        raise MontangoError(
            f"database {shown(uri)} cannot be read ({text or type(error).__name__})"
        ) from None


async def _run(command: list[str], environment: Mapping[str, str], uri: str) -> str:
    process = await asyncio.create_subprocess_exec(
        *command,
        env={**os.environ, **environment},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        out, err = await process.communicate()
    except BaseException:
        if process.returncode is None:
            process.kill()
            await process.wait()
        raise
    if process.returncode:
        text = err.decode(errors="replace").strip()
        if re.search("server version.*mismatch", text, re.DOTALL):
            raise ConfigurationError(
                f"{command[0]} is older than the server of {shown(uri)} ({' '.join(text.split())}); install "
                f"the programs of the server's version"
            )
        raise MontangoError(f"{Path(command[0]).name} of {shown(uri)} failed: {' '.join(text.split())[:600]}")
    return out.decode(errors="replace")
