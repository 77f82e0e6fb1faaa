"""A catalog moved from SQLite into PostgreSQL: all of it, proven, gone on with after an interruption."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from datetime import date
from pathlib import Path
from typing import Any

import asyncpg
import numpy as np
import pytest
from sqlalchemy.engine import make_url
from typer.testing import CliRunner

from devices.errors import ConfigurationError
from montango.cli.app import app
from montango.cli.catalog_moving import DATABASE_VARIABLE, TABLES_VARIABLE
from processing.callbacks._catalog_run import write_run
from tests.processing.documents import MontageRun
from tests.tiled_server.catalogued import Catalogued, look
from tests.tiled_server.exported_montage import MONTAGE
from tests.tiled_server.postgres import Postgres
from tiled_server import configuration
from tiled_server.access.notes import Notes
from tiled_server.moving.event_tables import EventTables
from tiled_server.moving.migrate import migrate
from tiled_server.moving.opening import opened
from tiled_server.operations.marks import Mark, Marks
from tiled_server.sockets import lock_state

pytestmark = [pytest.mark.system, pytest.mark.filterwarnings("ignore:No path_separator found")]


def ask(uri: str, *statements: str) -> list[Any]:
    async def work() -> list[Any]:
        connection = await asyncpg.connect(uri)
        try:
            return [await connection.fetchval(one) for one in statements]
        finally:
            await connection.close()

    return asyncio.run(work())


@pytest.fixture(scope="module")
def moved(catalogued: Catalogued, postgres: Postgres) -> str:
    """The address of a database that has the catalog, after an interrupted first try."""
    uri = postgres.database("moved")
    asyncio.run(_annotate(catalogued.state / "catalog"))
    lines: list[str] = []

    def interrupted(line: str) -> None:
        lines.append(line)
        if "copying the catalog" in line:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        migrate(catalogued.state, uri, uri, interrupted)
    assert ask(uri, "select count(*) from nodes") == [1]  # the catalog is in it whole, or not at all
    done = migrate(catalogued.state, uri, uri, lines.append)
    assert done.equal, list(map(str, done.compared))
    assert done.rows > 100
    assert done.events == 0  # these were there
    return uri


async def _annotate(folder: Path) -> None:
    notes, marks = Notes(folder / "notes.db"), Marks(folder / "marks.db")
    await notes.add(MONTAGE, "grace", None, "a fold in the middle")
    await marks.add(MONTAGE, "grace", None, Mark.UNTIL, date(2030, 1, 2), "until the paper is out")
    await notes.close()
    await marks.close()


def test_every_row_is_there_and_again_only_compares(catalogued: Catalogued, moved: str) -> None:
    again = migrate(catalogued.state, moved, moved)
    assert again.equal
    assert (again.rows, again.events) == (0, 0)
    names = {one.name: one.source.rows for one in again.compared}
    assert names["nodes"] > 60
    assert (names["notes"], names["retention_marks"]) == (1, 1)
    assert ask(moved, "select text from montango.notes", "select until from montango.retention_marks") == [
        "a fold in the middle", "2030-01-02"
    ]  # fmt: skip
    assert names["nodes_closure"] > names["nodes"]
    with closing(sqlite3.connect(catalogued.state / "catalog" / "tables.db")) as tables:
        counted = sum(
            tables.execute(f'select count(*) from "{name}"').fetchone()[0]
            for (name,) in tables.execute(
                "select name from sqlite_master where name like 'table_%'"
            ).fetchall()
        )
    assert sum(rows for name, rows in names.items() if name.startswith("events")) == counted > 12


def test_the_command_says_what_to_set_next(
    catalogued: Catalogued, moved: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(DATABASE_VARIABLE, moved)
    done = CliRunner().invoke(app, ["--state", str(catalogued.state), "catalog", "migrate"])
    assert done.exit_code == 0, done.output
    assert "ok   nodes: " in done.output
    host = moved.rpartition("@")[2]
    assert f"database: postgresql://montango@{host}" in done.output
    assert str(make_url(moved).password) not in done.output


def test_the_montage_is_the_same_from_both_and_goes_on(catalogued: Catalogued, moved: str) -> None:
    made = catalogued.made
    with opened(catalogued.server(moved)) as client:
        catalogued.seen.check_same(look(client))
        run = MontageRun(made.data, montage_id=MONTAGE)
        run.tiles([np.full((64, 64), 7, np.uint16)])
        run.verdict({"tile_index": 0, "qc_state": "pass", "faults": "[]", "focus_score": -14.0})
        run.stop()
        write_run(client, run.documents)
        assert len(client) == 4
        assert (client[run.uid]["tiles"]["image"].read() == 7).all()
    with pytest.raises(ConfigurationError, match=r"has another catalog .*rows here.*name an empty database"):
        migrate(catalogued.state, moved, moved)


def test_a_changed_row_is_found(catalogued: Catalogued, postgres: Postgres) -> None:
    uri = postgres.database("changed")
    assert migrate(catalogued.state, uri, uri).equal
    ask(uri, "update nodes set metadata = jsonb_set(metadata, '{start,sample}', '\"mouse 8\"') where id = 1")
    with pytest.raises(ConfigurationError, match=r"nodes: .* of which some differ"):
        migrate(catalogued.state, uri, uri)


def test_a_changed_event_is_found(catalogued: Catalogued, postgres: Postgres) -> None:
    uri = postgres.database("events")
    assert migrate(catalogued.state, uri, uri).equal
    (table,) = ask(
        uri,
        "select table_name from information_schema.columns where column_name = 'focus_score' "
        "and table_name like 'table_%'",
    )
    ask(uri, f"update {table} set focus_score = focus_score + 1e-9 where seq_num = 2")
    with pytest.raises(ConfigurationError, match=f"{table}: .* of which some differ"):
        migrate(catalogued.state, uri, uri)


def test_what_cannot_be_moved_is_said_before_anything_is_written(
    catalogued: Catalogued, postgres: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state, uri = catalogued.state, postgres.database("refused")
    with pytest.raises(ConfigurationError, match="there is no catalog"):
        migrate(tmp_path, uri, uri)
    with (
        lock_state(state / "run"),
        pytest.raises(ConfigurationError, match=r"a catalog server .* runs already"),
    ):
        migrate(state, uri, uri)
    with pytest.raises(ConfigurationError, match=r"--to postgresql://.*: database \"none\" does not exist"):
        migrate(state, postgres.uri("none"), uri)
    with pytest.raises(ConfigurationError, match="--tables is not the address"):
        migrate(state, uri, "mysql://ada:secret@host/x")
    assert ask(uri, "select to_regclass('nodes')") == [None]
    # tables of another catalog are never touched
    schema = next(iter(_schemas(catalogued).items()))
    ask(uri, f'create table "{schema[0]}" (a int)')
    with pytest.raises(ConfigurationError, match="of another catalog; name an empty database"):
        migrate(state, uri, uri)
    assert ask(uri, f'select count(*) from "{schema[0]}"') == [0]


def _schemas(catalogued: Catalogued) -> dict[str, Any]:
    from sqlalchemy import create_engine

    from tiled_server.moving.migrate import _Migration

    catalog = catalogued.state / "catalog"
    migration = _Migration(catalog / "catalog.db", catalog / "tables.db", "", "postgresql://h/d", print)
    engine = create_engine(f"sqlite:///{catalog / 'catalog.db'}")
    with engine.connect() as connection:
        events, _ = migration._event_tables(connection)
    engine.dispose()
    assert isinstance(events, EventTables)
    return dict(events._schemas)


def test_the_command_reads_the_variables_of_the_server() -> None:
    assert (DATABASE_VARIABLE, TABLES_VARIABLE) == (
        configuration.DATABASE_VARIABLE,
        configuration.TABLES_VARIABLE,
    )
