"""Accounts, tags and notes in databases, on SQLite and PostgreSQL."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import insert, select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from tiled.authn_database.orm import APIKey, Identity
from tiled.catalog import orm
from tiled.utils import ensure_specified_sql_driver

from devices.errors import ConfigurationError
from tests.tiled_server.access_lab import people_file
from tests.tiled_server.conftest import Server
from tests.tiled_server.postgres import Postgres
from tiled_server.access.accounts import make_accounts, prepare, signing_key
from tiled_server.access.notes import Notes
from tiled_server.access.people import People
from tiled_server.access.tags import TagTable, tags_of
from tiled_server.databases import make_catalog

pytestmark = pytest.mark.filterwarnings("ignore:No path_separator:DeprecationWarning")
BOTH = pytest.mark.parametrize(
    "database", ["sqlite", pytest.param("postgresql", marks=pytest.mark.system)], indirect=True
)


@pytest.fixture
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[str], str]:
    """Return the address of a new database."""
    if request.param == "sqlite":
        return lambda name: f"sqlite:///{tmp_path / name}.db"
    postgres: Postgres = request.getfixturevalue("postgres")
    return postgres.database


def file_of(**changes: Any) -> People:
    return People.model_validate(people_file(**changes))


def roles_and_key(uri: str) -> tuple[dict[str, list[str]], list[Any]]:
    async def read() -> tuple[dict[str, list[str]], list[Any]]:
        engine = create_async_engine(ensure_specified_sql_driver(uri))
        async with AsyncSession(engine) as session:
            keys = (await session.execute(select(APIKey.hashed_secret, APIKey.principal_id))).all()
            roles: dict[str, list[str]] = {name: [] for name in await session.scalars(select(Identity.id))}
        async with engine.connect() as connection:
            rows = await connection.exec_driver_sql(
                "SELECT i.id, r.name FROM identities i JOIN principal_role_association a "
                "ON a.principal_id = i.principal_id JOIN roles r ON r.id = a.role_id"
            )
            for name, role in rows:
                roles[name].append(role)
        await engine.dispose()
        return roles, [*keys]

    return asyncio.run(read())


@BOTH
def test_accounts_are_as_the_file_and_the_key_say(database: Callable[[str], str]) -> None:
    uri = database("accounts_kept")
    first, second = b"a" * 24, b"b" * 24
    prepare(uri, file_of(), first)
    roles, keys = roles_and_key(uri)
    assert roles == {
        "olive": ["observer"], "sam": ["scientist"], "tess": ["scientist"], "opal": ["operator"],
        "stan": ["staff"],
    }  # fmt: skip
    assert [one.hashed_secret for one in keys] == [hashlib.sha256(first).digest()]
    # again, with another key, and somebody less
    prepare(uri, file_of(people={"sam": "staff", "olive": "observer", "tess": "scientist"}), second)
    roles, changed = roles_and_key(uri)
    assert (roles["sam"], roles["stan"]) == (["staff"], ["user"])
    assert [one.hashed_secret for one in changed] == [hashlib.sha256(second).digest()]
    assert changed[0].principal_id == keys[0].principal_id


@BOTH
def test_a_database_of_something_else_is_refused(database: Callable[[str], str]) -> None:
    uri = database("accounts_taken")
    make_catalog(uri, where="there")
    with pytest.raises(ConfigurationError, match="name a database of its own"):
        make_accounts(uri)


def test_the_secret_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    assert signing_key(path) == signing_key(path)
    assert len(signing_key(path)) == 64
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("start", "tags"),
    [
        ({"proposal": "p-1", "data_session": "s-1"}, {"p-1"}),
        ({"tiled_access_tags": ["a", "b"], "proposal": "p-1"}, {"a", "b"}),
        ({"tiled_access_tags": "a"}, {"a"}),
        ({"data_session": "s-1"}, {"s-1"}),
        ({"proposal": {"proposal_id": 312, "title": "x"}}, {"312"}),
        ({"proposal": 312}, {"312"}),
        ({"proposal": "public"}, set()),
        ({"proposal": "user:sam"}, set()),
        ({"proposal": "x" * 300}, set()),
        ({"proposal": ""}, set()),
        ({}, set()),
        (None, set()),
    ],
)
def test_tags_of_a_run(start: Any, tags: set[str]) -> None:
    assert tags_of({"start": start}) == tags


@BOTH
def test_runs_of_before_get_their_tags(database: Callable[[str], str]) -> None:
    uri = database("tagged")
    make_catalog(uri, where="there")
    starts = [{"proposal": "p-1"}, {"proposal": "p-2"}, {}, {"data_session": "s"}, {"proposal": "p-1"}]

    async def run() -> tuple[int, int, list[tuple[str, str, int]]]:
        engine = create_async_engine(ensure_specified_sql_driver(uri))
        common = {"parent": 0, "structure_family": "container", "specs": []}
        rows = [{"key": f"r{n}", "metadata_": {"start": one}, **common} for n, one in enumerate(starts)]
        async with AsyncSession(engine) as session:
            await session.execute(insert(orm.Node), rows)
            await session.commit()
        table = TagTable(engine)
        counts = await table.tag_runs(0), await table.tag_runs(0)
        association = orm.NodeAccessTagAssociation
        async with AsyncSession(engine) as session:
            found = await session.execute(
                select(orm.Node.key, orm.AccessTag.name, association.parent_id)
                .join(association, association.node_id == orm.Node.id)
                .join(orm.AccessTag, orm.AccessTag.id == association.tag_id)
                .where(orm.Node.parent == 0)
                .order_by(orm.Node.key)
            )
            tags = [(key, tag, parent) for key, tag, parent in found]
        await engine.dispose()
        return *counts, tags

    first, second, tags = asyncio.run(run())
    assert (first, second) == (4, 0)
    assert tags == [("r0", "p-1", 0), ("r1", "p-2", 0), ("r3", "s", 0), ("r4", "p-1", 0)]


@pytest.mark.system
def test_notes_on_postgresql(postgres: Postgres) -> None:
    uri = postgres.database("notes_kept")

    async def run() -> None:
        notes = Notes(uri)
        made = await notes.add("m-1", "sam", None, "A fold")
        await notes.add("m-2", "sam", None, "50% dark_corner")
        assert await notes.of("m-1") == [made]
        assert await notes.of("m-1", after=made["id"]) == []
        assert await notes.montages_with("FOLD") == {"m-1"}
        assert await notes.montages_with("0%") == {"m-2"}
        assert await notes.montages_with("dark.corner") == set()
        async with notes._engine.connect() as connection:
            for statement in ("UPDATE montango.notes SET text = ''", "DELETE FROM montango.notes"):
                with pytest.raises(DBAPIError, match="never changed"):
                    await connection.exec_driver_sql(statement)
                await connection.rollback()
        await notes.close()
        again = Notes(uri)
        assert len(await again.of("m-1")) == 1
        await again.close()

    asyncio.run(run())


@pytest.mark.system
def test_a_single_users_catalog_opens_nothing_without_the_key(server: Server) -> None:
    with httpx.Client(base_url=server.uri, timeout=60) as web:
        # Tiled asks for no key here by itself
        for path in ("/zarr/v2/.zgroup", "/zarr/v3/zarr.json", "/zarr/v2/x/.zarray", "/zarr/v3/"):
            assert web.get(path).status_code == 404, path
            key = {"Authorization": f"Apikey {server.key}"}
            if "/x/" not in path:
                assert web.get(path, headers=key).status_code == 200, path
        answer = web.post("/api/graphql", json={"query": "{ entities { name } }"})
        assert answer.json()["data"] == {"entities": []}
        for path in ("/custom/files/" + "0" * 48, "/custom/montages/m/notes", "/custom/montages/m/files"):
            assert web.get(path).status_code == 401, path
            assert web.get(path, headers=key).status_code == 404, path
