"""The database of accounts: Tiled's tables of principals, roles and keys, kept as the file of people says."""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, Final

from sqlalchemy import delete, event, select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.orm import selectinload

from devices.errors import ConfigurationError
from tiled_server.access.people import People
from tiled_server.access.roles import SCOPES, Role
from tiled_server.databases import shown

LAB_KEY: Final = "the lab's own key"
"""Note of the key by which writer, engine and client of the lab come in."""
_NEWCOMER: Final = "user"
"""Tiled's role of everyone who logs in for the first time."""
_SHORTEST_BYTES: Final = 16
_SECRET_BYTES: Final = 32


def lab_secret(api_key: str) -> bytes:
    """Return the lab's key as Tiled's database of keys takes it.

    Raises
    ------
    ConfigurationError
        It is none that can be kept there.
    """
    try:
        secret = bytes.fromhex(api_key)
    except ValueError:
        secret = b""
    if len(secret) < _SHORTEST_BYTES or secret.hex() != api_key:
        raise ConfigurationError(
            f"the catalog's key ({len(api_key)} characters) cannot be the key of a service: with a file of "
            f"people it has to be {2 * _SHORTEST_BYTES} or more digits 0-9 a-f, as of: openssl rand -hex 32"
        )
    return secret


def signing_key(path: Path) -> str:
    """Return the secret that signs tokens and file ids, kept in a file that only its owner can read."""
    try:
        return path.read_text().strip()
    except FileNotFoundError:
        pass
    fresh = path.with_suffix(".new")
    fresh.unlink(missing_ok=True)
    fresh.touch(mode=0o600)
    fresh.write_text(secrets.token_hex(_SECRET_BYTES))
    fresh.rename(path)
    return path.read_text().strip()


def make_accounts(uri: str) -> None:
    """Make the tables where there are none.

    Raises
    ------
    ConfigurationError
        They are of another version of Tiled, or cannot be made.
    """
    from tiled.alembic_utils import (
        DatabaseUpgradeNeeded,
        UninitializedDatabase,
        UnrecognizedDatabase,
        check_database,
        stamp_head,
    )
    from tiled.authn_database.alembic_constants import ALEMBIC_DIR, ALEMBIC_INI_TEMPLATE_PATH
    from tiled.authn_database.core import ALL_REVISIONS, REQUIRED_REVISION, initialize_database
    from tiled.utils import ensure_specified_sql_driver

    async def make() -> bool:
        engine = _engine(uri)
        try:
            await check_database(engine, REQUIRED_REVISION, ALL_REVISIONS)
        except UninitializedDatabase:
            await initialize_database(engine)
            return True
        finally:
            await engine.dispose()
        return False

    try:
        # stamping starts an event loop of its own
        if asyncio.run(make()):
            stamp_head(ALEMBIC_INI_TEMPLATE_PATH, ALEMBIC_DIR, ensure_specified_sql_driver(uri))
    except (DatabaseUpgradeNeeded, UnrecognizedDatabase) as error:
        raise ConfigurationError(
            f"accounts in {shown(uri)}: tables of another version or program "
            f"({' '.join(str(error).split())[:200]}); back it up and run tiled admin upgrade-database, or "
            f"name a database of its own"
        ) from None
    except DBAPIError as error:
        raise ConfigurationError(
            f"accounts in {shown(uri)} cannot be made ({str(error.orig).splitlines()[0]}); the user needs "
            f"the right CREATE on the database"
        ) from None


class Accounts:
    """Principals, roles and keys.

    Parameters
    ----------
    uri
        The database, whose tables are there.
    """

    def __init__(self, uri: str) -> None:
        self._engine = _engine(uri)

    async def take(self, people: People) -> None:
        """Let roles and principals be as a file of people says; a person that is gone loses every role."""
        from tiled.authn_database.core import create_user
        from tiled.authn_database.orm import Identity, Principal

        async with AsyncSession(self._engine, expire_on_commit=False) as session:
            roles = await _roles(session)
            wanted = {
                (people.provider_of(name), name): roles[person.role] for name, person in people.people.items()
            }
            statement = select(Identity).options(
                selectinload(Identity.principal).selectinload(Principal.roles)
            )
            there = {(one.provider, one.id): one.principal for one in await session.scalars(statement)}
            for provider, name in wanted.keys() - there.keys():
                there[provider, name] = await create_user(session, provider, name)
            for identity, principal in there.items():
                role = wanted.get(identity, roles[_NEWCOMER])
                await session.refresh(principal, ["roles"])
                if [one.id for one in principal.roles] != [role.id]:
                    principal.roles = [role]
            await session.commit()

    async def take_key(self, secret: bytes) -> None:
        """Let the lab's key be that of a service; one that it had before opens nothing any more."""
        from tiled.authn_database.core import create_service
        from tiled.authn_database.orm import APIKey

        hashed = hashlib.sha256(secret).digest()
        async with AsyncSession(self._engine, expire_on_commit=False) as session:
            await _roles(session)
            statement = select(APIKey.hashed_secret, APIKey.principal_id).where(APIKey.note == LAB_KEY)
            keys = (await session.execute(statement)).all()
            if [one.hashed_secret for one in keys] == [hashed]:
                return
            owner = keys[0].principal_id if keys else (await create_service(session, Role.SERVICE.value)).id
            await session.execute(delete(APIKey).where(APIKey.note == LAB_KEY))
            session.add(
                APIKey(
                    principal_id=owner,
                    note=LAB_KEY,
                    scopes=["inherit"],
                    access_tags=None,
                    first_eight=secret.hex()[:8],
                    hashed_secret=hashed,
                )
            )
            await session.commit()

    async def close(self) -> None:
        """Close all connections."""
        await self._engine.dispose()


async def _roles(session: AsyncSession) -> dict[str, Any]:
    """Let Tiled's table of roles have ours, and return them by name."""
    from tiled.authn_database.orm import Role as Row

    there = {one.name: one for one in await session.scalars(select(Row))}
    for name, scopes in _scopes_of_roles():
        if (row := there.get(name)) is None:
            there[name] = Row(name=name, description="of the catalog", scopes=scopes)
            session.add(there[name])
        elif row.scopes != scopes:
            row.scopes = scopes
    await session.commit()
    return there


def _scopes_of_roles() -> Iterator[tuple[str, list[str]]]:
    for role, scopes in SCOPES.items():
        yield role.value, sorted(scopes)
    # those of Tiled may do more than a scientist
    yield _NEWCOMER, sorted(SCOPES[Role.OBSERVER])
    yield "admin", sorted(SCOPES[Role.STAFF])


def _engine(uri: str) -> AsyncEngine:
    from tiled.utils import ensure_specified_sql_driver

    engine = create_async_engine(ensure_specified_sql_driver(uri))
    if engine.dialect.name == "sqlite":
        event.listen(engine.sync_engine, "connect", _enforce_keys)
    return engine


def _enforce_keys(connection: Any, _: Any) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.close()


def prepare(uri: str, people: People, secret: bytes, *, private: Collection[Path] = ()) -> None:
    """Make the tables, and let them be as file and key say; files in ``private`` are closed to others."""
    make_accounts(uri)
    for path in private:
        path.chmod(0o600)

    async def fill() -> None:
        accounts = Accounts(uri)
        try:
            await accounts.take(people)
            await accounts.take_key(secret)
        finally:
            await accounts.close()

    asyncio.run(fill())
