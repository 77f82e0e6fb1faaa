"""Serve the catalog of a lab: ``python -m tiled_server --state-dir DIR [--port N]``.

The API key comes from ``TILED_SINGLE_USER_API_KEY``, addresses of databases from ``MONTANGO_TILED_DATABASE``
and ``MONTANGO_TILED_TABLES``: with a password they belong there, not into an option that every user can read.
With a file of people (``--access``) they log in and see their proposals; without, the key opens everything.
Exit status 0 after SIGTERM or Ctrl-C, 2 for a wrong option or setting, with one line that says what to do.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NoReturn

from devices.errors import ConfigurationError
from tiled_server.configuration import (
    ACCESS_VARIABLE,
    DATABASE_VARIABLE,
    READABLE_VARIABLE,
    TABLES_VARIABLE,
    from_environment,
)
from tiled_server.databases import check_reachable
from tiled_server.sockets import HOST, bind, lock_state

PATIENCE_S: Final = 7.0
"""Time a database has to answer: longer than the supervisor takes for a start that failed, so that it goes on
starting the server however long a database is away."""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tiled_server", description="Serve the catalog of a lab.")
    parser.add_argument("--state-dir", type=Path, required=True, help="the lab's state directory")
    parser.add_argument(
        "--port", type=int, default=0, help="loopback port; 0: that of the last start, or any free"
    )
    parser.add_argument(
        "--readable",
        type=Path,
        action="append",
        default=[],
        help=f"a folder whose data files may be served (repeat for more; also {READABLE_VARIABLE}); "
        f"default: the state directory's data folder",
    )
    parser.add_argument(
        "--database", help=f"catalog's database, postgresql://user@host/name (also {DATABASE_VARIABLE})"
    )
    parser.add_argument("--tables", help=f"that of the tables of events (also {TABLES_VARIABLE})")
    parser.add_argument(
        "--access", type=Path, help=f"file of people, roles and proposals (also {ACCESS_VARIABLE})"
    )
    return parser


def _end(*_: object) -> NoReturn:
    raise SystemExit(0)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the server until SIGTERM or SIGINT, and return the exit status."""
    signal.signal(signal.SIGTERM, _end)
    signal.signal(signal.SIGINT, _end)
    options = _parser().parse_args(arguments)
    try:
        server = from_environment(
            options.state_dir, options.readable, options.database, options.tables, access=options.access
        )
        lock = lock_state(server.run_folder)
        for name, uri in (
            ("database", server.database_uri),
            ("tables", server.table_uri),
            ("accounts", server.accounts_uri),
        ):
            if uri is not None and not uri.startswith("sqlite"):
                check_reachable(name, uri, PATIENCE_S)
        bound = bind(options.port, server.run_folder)
    except ConfigurationError as error:
        print(f"tiled_server: {error}", file=sys.stderr)
        return 2
    print(f"tiled_server: http://{HOST}:{bound.getsockname()[1]} (starting)", flush=True)
    print(f"tiled_server: {server.describe_access()}", flush=True)
    with lock, bound:
        from tiled_server.service import serve  # imports Tiled: seconds

        try:
            serve(server, bound)
        except ConfigurationError as error:
            print(f"tiled_server: {error}", file=sys.stderr)
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
