"""Addresses of databases: what is refused, and that no message has a password."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy.engine import make_url

from devices.errors import ConfigurationError
from montango.config import MontangoConfig, default_config_path, load_config
from montango.lab.doctor import _remote_databases
from montango.lab.ports import Ports
from montango.lab.programs import TILED, programs
from montango.lab.state import StateDirectory
from montango.lab.supervisor import write_supervisor_config
from tests.tiled_server.conftest import KEY
from tests.tiled_server.postgres import USER, Postgres
from tiled_server.configuration import DATABASE_VARIABLE, TABLES_VARIABLE, from_environment
from tiled_server.databases import check_reachable, checked_uri, make_catalog, shown, tables_uri

SECRET = "sesame"


@pytest.mark.parametrize(
    "uri",
    [
        "mysql://ada:sesame@host/name",
        "postgresql://ada:sesame@host",
        "postgresql://ada:sesame@host:x/name",
        "sqlite:///sesame.db",
        "sesame",
    ],
)
def test_what_is_no_address_of_postgresql_is_refused(uri: str) -> None:
    with pytest.raises(ConfigurationError, match="--database is not the address") as refused:
        checked_uri("--database", uri)
    assert SECRET not in str(refused.value)


def test_addresses_are_as_tiled_takes_them() -> None:
    assert checked_uri("x", "postgresql+asyncpg://ada:a%40b@h:1/n") == "postgresql://ada:a%40b@h:1/n"
    assert tables_uri("postgresql://ada:secret@h:1/n") == "postgresql://ada:secret@h:1/n"
    assert tables_uri("postgresql://ada@h:1/n") == "postgresql://h:1/n?user=ada"
    assert shown("postgresql://ada:sesame@h:1/n") == "postgresql://ada:***@h:1/n"


def test_a_database_that_does_not_answer_is_one_line(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        done = subprocess.run(
            [sys.executable, "-m", "tiled_server", "--state-dir", str(tmp_path)],
            env={
                **os.environ,
                "TILED_SINGLE_USER_API_KEY": KEY,
                DATABASE_VARIABLE: f"postgresql://ada:{SECRET}@127.0.0.1:{port}/catalog",
            },
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith(
        f"tiled_server: database postgresql://ada:***@127.0.0.1:{port}/catalog: nothing listens"
    )
    assert SECRET not in line


def test_who_is_not_let_in_is_told_why(postgres: Postgres) -> None:
    with pytest.raises(ConfigurationError, match="password authentication failed") as refused:
        check_reachable("database", postgres.uri("postgres", SECRET))
    assert SECRET not in str(refused.value)
    with pytest.raises(ConfigurationError, match='database "none" does not exist'):
        check_reachable("tables", postgres.uri("none"))
    with pytest.raises(ConfigurationError, match="host nowhere"):
        check_reachable("database", f"postgresql://{USER}@nowhere.invalid/x")
    check_reachable("database", postgres.uri("postgres"))


def test_a_password_may_be_in_a_file_of_its_own(
    postgres: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "passwords"
    file.write_text(f"127.0.0.1:{postgres.port}:*:{USER}:{postgres.password}\n")
    file.chmod(0o600)
    monkeypatch.setenv("PGPASSFILE", str(file))
    bare = f"postgresql://{USER}@127.0.0.1:{postgres.port}/postgres"
    check_reachable("database", bare)
    import adbc_driver_postgresql.dbapi

    with adbc_driver_postgresql.dbapi.connect(tables_uri(bare)) as connection, connection.cursor() as cursor:
        cursor.execute("select current_user")
        assert cursor.fetchone() == (USER,)


@pytest.mark.filterwarnings("ignore:No path_separator found:DeprecationWarning")
def test_tables_are_made_once_and_an_extension_may_be_there(postgres: Postgres) -> None:
    uri = postgres.database("made")
    import asyncio

    import asyncpg

    async def ask(statement: str) -> object:
        connection = await asyncpg.connect(uri)
        try:
            return await connection.fetchval(statement)
        finally:
            await connection.close()

    asyncio.run(ask("create extension btree_gin"))
    make_catalog(uri, where="made")
    assert asyncio.run(ask("select count(*) from nodes")) == 1
    make_catalog(uri, where="made")
    asyncio.run(ask("update alembic_version set version_num = '6825c778aa3c'"))
    with pytest.raises(ConfigurationError, match="another version of Tiled"):
        make_catalog(uri, where="made")


def config_with(folder: Path, database: str, tables: str) -> MontangoConfig:
    """Return the default configuration with a PostgreSQL."""
    text, empty = default_config_path().read_text(), "    database: null"
    assert empty in text
    path = folder / "montango.yaml"
    path.write_text(text.replace(empty, f'    database: "{database}"\n    tables: "{tables}"'))
    return load_config(path)


def test_the_doctor_asks_the_databases(postgres: Postgres, tmp_path: Path) -> None:
    config = config_with(tmp_path, postgres.uri("postgres"), postgres.uri("none"))
    good, bad = _remote_databases(config)
    assert (good.level, bad.level) == ("OK", "FAIL")
    assert "does not exist" in bad.text
    assert "see that PostgreSQL runs there" in bad.remedy
    assert not any(postgres.password in one.text + one.remedy for one in (good, bad))


def test_the_lab_gives_addresses_by_the_environment(tmp_path: Path) -> None:
    uri = f"postgresql://ada:{SECRET}'%2F@db/catalog"
    state = StateDirectory(tmp_path / "state")
    state.prepare()
    config = config_with(tmp_path, uri, uri)
    (program,) = [
        one
        for one in programs(config, state, Ports(1, 2, 3, 4, 5, 6), tmp_path, {"KEY": "k"})
        if one.name == TILED
    ]
    assert not any(SECRET in word for word in program.command)
    encoded = uri.replace("'", "%27")
    assert program.environment == {"KEY": "k", DATABASE_VARIABLE: encoded, TABLES_VARIABLE: encoded}
    written = write_supervisor_config(state, [program])
    assert written.stat().st_mode & 0o077 == 0
    server = from_environment(
        tmp_path, [], environment={"TILED_SINGLE_USER_API_KEY": "abc", **program.environment}
    )
    assert server.database_uri == server.table_uri
    assert make_url(str(server.database_uri)) == make_url(uri)
