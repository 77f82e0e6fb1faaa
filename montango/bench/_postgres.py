"""A PostgreSQL of a measurement's own: a folder of its own, a free loopback port, gone at the end."""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from devices.errors import ConfigurationError

USER: Final = "montango"
_OTHERS: Final = ("postgres", "nobody")
_PATIENCE_S: Final = 60.0


def programs() -> Path | None:
    """Return the folder of ``initdb`` and ``postgres``, of the newest version; None: there is none."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda one: int(one.parts[-3]))
    program = str(found[-1]) if found else shutil.which("initdb")
    return Path(program).resolve().parent if program else None


@contextmanager
def postgres(*databases: str) -> Iterator[list[str]]:
    """Start a server with some databases; yields their addresses.

    Raises
    ------
    ConfigurationError
        There is no PostgreSQL here, or it does not start.
    """
    folder = programs()
    if folder is None:
        raise ConfigurationError(
            "there is no PostgreSQL on this machine (Debian: apt-get install postgresql); leave the part out "
            "with --sqlite"
        )
    home = Path(tempfile.mkdtemp(prefix="montango-pg-"))
    try:
        with _running(folder, home) as (port, password, words):
            address = f"postgresql://{USER}:{password}@127.0.0.1:{port}"
            for name in databases:
                create = ["createdb", "-h", "127.0.0.1", "-p", str(port), "-U", USER, "-w", name]
                _done([*words, str(folder / create[0]), *create[1:]], password)
            yield [f"{address}/{name}" for name in databases]
    finally:
        shutil.rmtree(home, ignore_errors=True)


@contextmanager
def _running(folder: Path, home: Path) -> Iterator[tuple[int, str, list[str]]]:
    password, words = secrets.token_hex(8), _as_other(home)
    secret = home / "password"
    secret.write_text(password)
    secret.chmod(0o644)
    options = ["--no-sync", "--locale=C", "--encoding=UTF8", "--auth=scram-sha-256", f"--pwfile={secret}"]
    _done([*words, str(folder / "initdb"), "-D", str(home / "data"), "-U", USER, *options], password)
    port = _free_port()
    command = [*words, str(folder / "postgres"), "-D", str(home / "data"), "-h", "127.0.0.1"]
    with (home / "log").open("ab") as log:
        process = subprocess.Popen(
            [*command, "-p", str(port), "-k", "", "-F"], stdout=log, stderr=log, cwd="/"
        )
    try:
        ready = [*words, str(folder / "pg_isready"), "-h", "127.0.0.1", "-p", str(port)]
        deadline = time.monotonic() + _PATIENCE_S
        while subprocess.run(ready, capture_output=True, check=False, cwd="/").returncode:
            if process.poll() is not None or time.monotonic() > deadline:
                raise ConfigurationError(f"PostgreSQL does not start: {(home / 'log').read_text()[-500:]}")
            time.sleep(0.05)
        yield port, password, words
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        process.wait(_PATIENCE_S)


def _as_other(home: Path) -> list[str]:
    """Return the words before a command: it refuses to run as root, and it ends with this process."""
    words = ["setpriv", "--pdeathsig", "KILL"] if shutil.which("setpriv") else []
    if os.getuid() == 0:
        known = {one.pw_name: one for one in pwd.getpwall()}
        account = next(known[name] for name in _OTHERS if name in known)
        words += [f"--reuid={account.pw_uid}", f"--regid={account.pw_gid}", "--clear-groups"]
        os.chown(home, account.pw_uid, account.pw_gid)
    return words


def _done(command: list[str], password: str) -> None:
    environment = os.environ | {"PGPASSWORD": password}
    done = subprocess.run(command, env=environment, capture_output=True, check=False, cwd="/", timeout=120)
    if done.returncode:
        raise ConfigurationError(f"{Path(command[-1]).name}: {done.stderr.decode().strip()[-500:]}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
