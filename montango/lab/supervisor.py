"""supervisord: its configuration, its start and its XML-RPC interface on a unix socket."""

from __future__ import annotations

import http.client
import json
import os
import socket
import subprocess
import sys
import time
import xmlrpc.client
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from montango.lab.errors import LabError
from montango.lab.processes import MARK_VARIABLE, ProcessId, dies_with_parent
from montango.lab.state import StateDirectory, write_private

STOP_WAIT_S = 3
"""Time a process has between SIGTERM and SIGKILL."""

STABLE_AFTER_S = 5
"""A process that dies sooner after its start is restarted later and later, not at once."""


@dataclass(frozen=True)
class Program:
    """One process of a laboratory. ``environment`` is its own, beside what all share; it may hold secrets."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    autostart: bool = True


def write_supervisor_config(state: StateDirectory, programs: Sequence[Program]) -> Path:
    """Write ``supervisord.conf`` and return its path."""
    lines = [
        "[supervisord]",
        "nodaemon=true",
        f"directory={_literal(state.run)}",
        f"logfile={_literal(state.log / 'supervisord.log')}",
        "logfile_maxbytes=2MB",
        "logfile_backups=2",
        f"pidfile={_literal(state.run / 'supervisord.pid')}",
        f"childlogdir={_literal(state.log)}",
        "[unix_http_server]",
        f"file={_literal(state.socket)}",
        "chmod=0700",
        "[rpcinterface:supervisor]",
        "supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface",
    ]
    for program in programs:
        lines += _program_lines(state, program)
    path = state.run / "supervisord.conf"
    write_private(path, "\n".join(lines) + "\n")
    return path


def _program_lines(state: StateDirectory, program: Program) -> list[str]:
    environment = ",".join(f'{name}="{_literal(value)}"' for name, value in program.environment.items())
    return [
        f"[program:{program.name}]",
        "command=" + " ".join(_quoted(word) for word in (*dies_with_parent(), *program.command)),
        *([f"environment={environment}"] if environment else []),
        f"autostart={'true' if program.autostart else 'false'}",
        "autorestart=true",
        f"startsecs={STABLE_AFTER_S}",
        "startretries=20",
        f"stopwaitsecs={STOP_WAIT_S}",
        "stopasgroup=true",
        "killasgroup=true",
        "redirect_stderr=true",
        f"stdout_logfile={_literal(state.log / program.name)}.log",
        "stdout_logfile_maxbytes=5MB",
        "stdout_logfile_backups=3",
    ]


def _literal(value: object) -> str:
    """Return a value as supervisord reads it back; what it cannot represent is refused."""
    text = str(value)
    if any(mark in text for mark in ("\n", '"', "'", " ;", " #")):
        raise LabError(
            f"{text!r} cannot be used: quotation marks, line breaks, ' ;' and ' #' are not allowed there"
        )
    return text.replace("%", "%%")


def _quoted(word: str) -> str:
    return f"'{_literal(word)}'"


def start_supervisor(
    state: StateDirectory,
    config: Path,
    environment: Mapping[str, str],
    descriptors: Sequence[int],
    *,
    owned: bool,
) -> ProcessId:
    """Start supervisord, record its identity and return it.

    ``owned``: it is killed when the calling thread ends, and with it everything it started.
    """
    command = [sys.executable, "-m", "supervisor.supervisord", "--silent", "--configuration", str(config)]
    with (state.log / "supervisord.out").open("wb") as output:
        child = subprocess.Popen(
            [*(dies_with_parent() if owned else []), *command],
            env={**environment, MARK_VARIABLE: str(state.root)},
            cwd=state.run,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            pass_fds=descriptors,
            start_new_session=True,
        )
    try:
        identity = ProcessId.of(psutil.Process(child.pid))
    except psutil.NoSuchProcess:
        raise _did_not_start(state, child.wait()) from None
    write_private(state.supervisor_file, json.dumps(identity.fields()))
    _CHILDREN[identity.pid] = child
    return identity


_CHILDREN: dict[int, subprocess.Popen[bytes]] = {}
"""Supervisors this process started, kept so that they can be reaped."""


def reap(identity: ProcessId, timeout_s: float = 10) -> None:
    """Collect the exit status of a supervisor that has ended, and of any other that this process started."""
    if child := _CHILDREN.get(identity.pid):
        with suppress(subprocess.TimeoutExpired):
            child.wait(timeout_s)
    for pid, one in [*_CHILDREN.items()]:
        if one.poll() is not None:
            del _CHILDREN[pid]


def _did_not_start(state: StateDirectory, code: int) -> LabError:
    log = state.log / "supervisord.out"
    return LabError(f"the supervisor ended at once (exit status {code}); its log is {log}:\n{tail(log, 10)}")


def wait_supervisor(state: StateDirectory, identity: ProcessId, timeout_s: float = 20) -> Supervisor:
    """Wait until supervisord answers.

    Raises
    ------
    LabError
        It ended, or does not answer in time.
    """
    supervisor = Supervisor(state.socket)
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        try:
            supervisor.pid()
            return supervisor
        except LabError:
            if identity.process() is None:
                child = _CHILDREN.get(identity.pid)
                raise _did_not_start(state, child.poll() or 0 if child else 0) from None
            time.sleep(0.05)
    raise LabError(
        f"the supervisor (pid {identity.pid}) does not answer; see {state.log / 'supervisord.log'}"
    )


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


class _UnixTransport(xmlrpc.client.Transport):
    def __init__(self, path: Path, timeout_s: float) -> None:
        super().__init__()
        self._path = path
        self._timeout_s = timeout_s

    def make_connection(self, host: Any) -> http.client.HTTPConnection:
        connection = _UnixConnection(self._path, self._timeout_s)
        # The base class closes the connection that it finds here.
        self._connection = (host, connection)
        return connection


@dataclass(frozen=True)
class ProcessInfo:
    """What supervisord says of a process: ``state`` in its words, times in Unix time (s, 0 for never)."""

    name: str
    state: str
    pid: int
    started_at_s: float
    stopped_at_s: float
    exit_status: int


class Supervisor:
    """A supervisord that runs, by its unix socket. Every call raises `LabError` when it does not answer."""

    def __init__(self, socket_path: Path, timeout_s: float = 10) -> None:
        self._path = socket_path
        self._timeout_s = timeout_s

    def _call(self, method: str, *arguments: Any) -> Any:
        transport = _UnixTransport(self._path, self._timeout_s)
        try:
            with xmlrpc.client.ServerProxy("http://localhost", transport=transport) as proxy:
                return getattr(proxy.supervisor, method)(*arguments)
        except xmlrpc.client.Fault as fault:
            raise LabError(f"the supervisor refuses {method}{arguments}: {fault.faultString}") from None
        except (OSError, http.client.HTTPException, xmlrpc.client.Error) as error:
            raise LabError(f"the supervisor does not answer at {self._path} ({error})") from None

    def pid(self) -> int:
        """Return the supervisor's own pid."""
        return int(self._call("getPID"))

    def processes(self) -> list[ProcessInfo]:
        """Return every process."""
        return [
            ProcessInfo(
                one["name"], one["statename"], one["pid"], one["start"], one["stop"], one["exitstatus"]
            )
            for one in self._call("getAllProcessInfo")
        ]

    def start(self, name: str) -> None:
        """Start a process that is stopped; returns before it is ready."""
        self._call("startProcess", name, False)

    def stop(self, name: str, *, wait: bool = True) -> None:
        """Stop a process: SIGTERM, and SIGKILL after `STOP_WAIT_S`."""
        self._call("stopProcess", name, wait)

    def shutdown(self) -> None:
        """End the supervisor, which ends what still runs."""
        self._call("shutdown")


def tail(path: Path, lines: int) -> str:
    """Return the last lines of a log, indented; empty when there is none."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 200 * max(lines, 20)))
            text = file.read().decode(errors="replace")
    except OSError:
        return ""
    return "\n".join(f"    {line}" for line in text.splitlines()[-lines:])
