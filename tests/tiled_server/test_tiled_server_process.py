"""The server process: what it refuses to start with, the port it keeps, how it ends."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from devices.errors import ConfigurationError
from tiled_server.configuration import from_environment
from tiled_server.sockets import PORT_FILE, bind, lock_state


def start(*options: str, key: str = "abc") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tiled_server", *options],
        env={**os.environ, "TILED_SINGLE_USER_API_KEY": key},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


@pytest.mark.parametrize(
    ("options", "key", "message"),
    [
        ([], "", "TILED_SINGLE_USER_API_KEY is not set"),
        ([], "a-b", "not made of letters and digits"),
        (["--readable", "/nowhere"], "abc", "/nowhere is not a folder"),
    ],
)
def test_a_wrong_setting_is_one_clear_line(
    tmp_path: Path, options: list[str], key: str, message: str
) -> None:
    done = start("--state-dir", str(tmp_path), *options, key=key)
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_state_directory_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = start("--state-dir", str(tmp_path / "file"))
    assert done.returncode == 2
    assert "cannot be written" in done.stderr


def test_a_taken_port_is_refused(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = start("--state-dir", str(tmp_path), "--port", str(port))
    assert done.returncode == 2
    assert f"port {port}" in done.stderr
    assert "taken" in done.stderr


def test_the_port_is_kept_and_given_up_when_taken(tmp_path: Path) -> None:
    with bind(0, tmp_path) as first:
        port = first.getsockname()[1]
    assert (tmp_path / PORT_FILE).read_text() == f"{port}\n"
    with bind(0, tmp_path) as again:
        assert again.getsockname() == ("127.0.0.1", port)
        again.listen()
        with bind(0, tmp_path) as other:
            assert other.getsockname()[1] != port
            assert (tmp_path / PORT_FILE).read_text() == f"{other.getsockname()[1]}\n"
    (tmp_path / PORT_FILE).write_text("rubbish")
    bind(0, tmp_path).close()


def test_one_server_a_state_directory(tmp_path: Path) -> None:
    with lock_state(tmp_path), pytest.raises(ConfigurationError, match=f"pid {os.getpid()}"):
        lock_state(tmp_path)
    lock_state(tmp_path).close()


def test_databases_and_folders_of_a_site(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    environment = {
        "TILED_SINGLE_USER_API_KEY": "abc",
        "MONTANGO_TILED_READABLE": f"{tmp_path / 'b'}{os.pathsep}",
    }
    uri = "postgresql://ada@db/catalog"
    server = from_environment(tmp_path / "state", [tmp_path / "a"], uri, environment=environment)
    catalog = server.tiled_config()["catalog"]
    assert catalog["readable_storage"] == [str(tmp_path / "a"), str(tmp_path / "b")]
    assert (catalog["uri"], catalog["init_if_not_exists"]) == (uri, False)  # made before Tiled starts
    assert server.sqlite_path is None
    assert not server.tiled_config()["expose_raw_assets"]


def test_the_default_reads_the_data_folder_of_the_lab(tmp_path: Path) -> None:
    server = from_environment(tmp_path, [], environment={"TILED_SINGLE_USER_API_KEY": "abc"})
    assert server.readable == (tmp_path / "data",)
    assert server.readable[0].is_dir()
