"""The server's port: bound before anything slow happens, kept over restarts, one server a state directory."""

from __future__ import annotations

import fcntl
import os
import socket
from pathlib import Path
from typing import Final, TextIO

from devices.errors import ConfigurationError

HOST: Final = "127.0.0.1"
PORT_FILE: Final = "tiled.port"


def lock_state(run_folder: Path) -> TextIO:
    """Take the lock of a state directory; it is free again when the file closes or the process ends.

    Raises
    ------
    ConfigurationError
        Another server holds it.
    """
    file = (run_folder / "tiled.lock").open("a+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        holder = file.read().strip() or "unknown"
        file.close()
        raise ConfigurationError(
            f"a catalog server (pid {holder}) runs already on {run_folder.parent}; stop it, or give another "
            f"--state-dir"
        ) from None
    file.truncate(0)
    file.write(f"{os.getpid()}\n")
    file.flush()
    return file


def bind(port: int, run_folder: Path) -> socket.socket:
    """Bind a loopback port and write it to ``run_folder/tiled.port``; nobody listens on it yet.

    Port 0 means the port of the last start, where it is still free, or else any free one.

    Raises
    ------
    ConfigurationError
        The port asked for is taken.
    """
    port_file = run_folder / PORT_FILE
    bound = None
    if port == 0 and (last := _read_port(port_file)) is not None:
        bound = _try_bind(last)
    bound = bound or _try_bind(port)
    if bound is None:
        raise ConfigurationError(
            f"port {port} on {HOST} is taken by another program; give another with --port, or 0 for "
            f"any free one"
        )
    fresh = port_file.with_suffix(".new")
    fresh.write_text(f"{bound.getsockname()[1]}\n")
    fresh.rename(port_file)
    return bound


def _read_port(path: Path) -> int | None:
    try:
        port = int(path.read_text())
    except (OSError, ValueError):
        return None
    return port if 0 < port < 65536 else None


def _try_bind(port: int) -> socket.socket | None:
    bound = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((HOST, port))
    except OSError:
        bound.close()
        return None
    return bound
