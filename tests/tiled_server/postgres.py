"""A real PostgreSQL of the tests' own: a folder of its own, a free loopback port, a user with a password."""

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
from pathlib import Path

USER = "montango"
_USERS = ("postgres", "nobody")


def find_programs() -> Path | None:
    """Return the folder of initdb and postgres, the newest version's; None where there is none."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    program = found[-1] if found else shutil.which("initdb")
    return None if program is None else Path(program).resolve().parent


class Postgres:
    """One server process; root starts it as another user, for it refuses root."""

    def __init__(self, programs: Path) -> None:
        self._programs = programs
        self.password = secrets.token_hex(8)
        # not in pytest's folder, which another user cannot enter
        self._folder = Path(tempfile.mkdtemp(prefix="montango-pg-", dir="/tmp"))
        self._as: list[str] = []
        if os.getuid() == 0:
            account = next(pwd.getpwnam(name) for name in _USERS if _has_user(name))
            self._as = [f"--reuid={account.pw_uid}", f"--regid={account.pw_gid}", "--clear-groups"]
            os.chown(self._folder, account.pw_uid, account.pw_gid)
        self._process: subprocess.Popen[bytes] | None = None
        self.port = 0
        self._make()

    def _make(self) -> None:
        secret = self._folder / "password"
        secret.write_text(self.password)
        secret.chmod(0o644)
        options = ["--no-sync", "--locale=C", "--encoding=UTF8", "--auth=scram-sha-256"]
        self._run("initdb", "-D", str(self._folder / "data"), "-U", USER, f"--pwfile={secret}", *options)

    def start(self) -> None:
        """Start it, on a free port if it had none, and wait until it answers."""
        for _ in range(5):
            self.port = self.port or _free_port()
            log = (self._folder / "log").open("ab")
            with log:
                self._process = subprocess.Popen(
                    [
                        *self._words("postgres"),
                        *("-D", str(self._folder / "data"), "-h", "127.0.0.1", "-p", str(self.port)),
                        *("-k", "", "-F"),
                    ],
                    stdout=log,
                    stderr=log,
                    cwd="/",
                )
            deadline = time.monotonic() + 60
            while self._process.poll() is None and time.monotonic() < deadline:
                if self._run("pg_isready", "-h", "127.0.0.1", "-p", str(self.port), check=False) == 0:
                    return
                time.sleep(0.05)
            self.stop()
            self.port = 0
        raise AssertionError((self._folder / "log").read_text())

    def database(self, name: str) -> str:
        """Make a database and return its address, with the password."""
        self._run("createdb", "-h", "127.0.0.1", "-p", str(self.port), "-U", USER, "-w", name)
        return self.uri(name)

    def uri(self, name: str, password: str | None = None) -> str:
        """Return the address of a database."""
        return f"postgresql://{USER}:{password or self.password}@127.0.0.1:{self.port}/{name}"

    def stop(self) -> None:
        """End it at once, as a power failure would."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGQUIT)
            self._process.wait(60)

    def remove(self) -> None:
        """End it and remove its folder."""
        self.stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _words(self, program: str) -> list[str]:
        return ["setpriv", "--pdeathsig", "KILL", *self._as, str(self._programs / program)]

    def _run(self, program: str, *arguments: str, check: bool = True) -> int:
        done = subprocess.run(
            [*self._words(program), *arguments],
            env=os.environ | {"PGPASSWORD": self.password},
            capture_output=True,
            check=False,
            cwd="/",
            timeout=120,
        )
        assert not check or done.returncode == 0, done.stderr.decode()
        return done.returncode


def _has_user(name: str) -> bool:
    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
