"""Commands that move a catalog from one database to another, and prove both equal."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, TextIO

import typer

from devices.errors import ConfigurationError
from montango.cli.options import chosen

if TYPE_CHECKING:
    from montango.lab import Lab
    from tiled_server.moving.sums import Compared

_SHOWN = 5
DATABASE_VARIABLE = "MONTANGO_TILED_DATABASE"
TABLES_VARIABLE = "MONTANGO_TILED_TABLES"
"""As in `tiled_server.configuration`, which takes long to import."""


def migrate(
    context: typer.Context,
    to: Annotated[
        str,
        typer.Option(
            envvar=DATABASE_VARIABLE,
            show_envvar=False,
            help="the catalog's new database, postgresql://USER@HOST/NAME; with a password: in "
            f"{DATABASE_VARIABLE}",
        ),
    ],
    tables: Annotated[
        str | None,
        typer.Option(
            envvar=TABLES_VARIABLE,
            show_envvar=False,
            help=f"that of the tables of events; default: the same (also {TABLES_VARIABLE})",
        ),
    ] = None,
) -> None:
    """Copy the lab's catalog from SQLite into PostgreSQL, and prove it equal; the lab is down meanwhile.

    The SQLite files stay as they are. Done again it goes on where it was interrupted, or compares.
    """
    from tiled_server.databases import shown
    from tiled_server.moving.migrate import migrate as move

    lab = chosen(context).existing_lab()
    if lab.find() is not None:
        raise ConfigurationError(f"the lab in {lab.state.root} is up; stop it with `montango down`")
    done = move(lab.state.root, to, tables or to, lambda line: print(f"{line} ..."))
    _print_compared(done.compared)
    if not done.equal:
        print("NOT EQUAL: the catalog's rows were taken back; the lab goes on with its SQLite files")
        raise typer.Exit(1)
    print(
        f"equal. Set in montango.yaml, under services: tiled:\n"
        f"  database: {_without_password(shown(to))}\n"
        f"  tables: {_without_password(shown(tables or to))}\n"
        f"and start the lab; the index of montages is made anew by itself"
    )


def copy(
    context: typer.Context,
    source: Annotated[
        str,
        typer.Option(
            "--from",
            help="lab: the one that is up; http://HOST:PORT of a server (key in TILED_API_KEY), a state "
            "directory, postgresql://..., mongodb://..., or $NAME of a variable with one of them",
        ),
    ],
    target: Annotated[str, typer.Option("--to", help="the same; a state directory or a database may be new")],
    compare_only: Annotated[
        bool, typer.Option("--compare-only", help="copy nothing, say what differs")
    ] = False,
    every_pixel: Annotated[
        bool,
        typer.Option(
            "--every-pixel", help="compare every frame; otherwise the first, middle and last of each run"
        ),
    ] = False,
) -> None:
    """Copy the runs of one catalog to another, and prove them equal; doing it again copies what is missing.

    Frames stay where they are: both catalogs name the same files. A catalog that is named by its state
    directory or its database is opened by this command, and its server must be down.
    """
    from tiled_server.moving.copying import copy_runs
    from tiled_server.moving.places import place

    lab = chosen(context).existing_lab()
    if source == target:
        raise ConfigurationError("--from and --to are the same; name two catalogs")
    (source, key), (target, other_key) = (_address(one, lab) for one in (source, target))
    state = lab.state.root
    with (
        place("--from", source, state, new=False, api_key=key) as here,
        place("--to", target, state, new=not compare_only, api_key=other_key) as there,
    ):
        done = copy_runs(
            here, there, every_pixel=every_pixel, compare_only=compare_only, report=_report(sys.stderr)
        )
        print(f"from {here.name} to {there.name}")
    print(
        f"added {len(done.added)}, completed {len(done.completed)}, already there {len(done.present)}, "
        f"left alone {done.unended} (not ended, or on their way), failed {len(done.failed)}"
    )
    print(
        f"compared: {done.events} events, {done.keys} data keys in files, {done.frames} frames "
        f"({'every one' if every_pixel else 'first, middle and last of each data key'})"
    )
    if not done.events and not done.keys and done.equal:
        print(f"{here.name} has no run that has ended")
        return
    for uid, why in done.failed.items():
        print(f"FAILED {uid}: {why}")
    for uid, found in done.unequal.items():
        print(f"NOT EQUAL {uid}: {'; '.join(found[:_SHOWN])}{' ...' if found[_SHOWN:] else ''}")
    if not done.equal:
        raise typer.Exit(1)
    print("equal")


def _address(address: str, lab: Lab) -> tuple[str, str]:
    """Return an address and what opens it; ``lab`` and ``$NAME``, for passwords, are looked up."""
    if address == "lab":
        info = lab.info()
        return info.tiled["uri"], info.tiled["api_key"]
    if not address.startswith("$"):
        return address, ""
    name = address.removeprefix("$")
    found = os.environ.get(name, "")
    if not found:
        raise ConfigurationError(f"variable {name} of the environment is not set; put the address into it")
    return found, ""


def _report(stream: TextIO) -> Callable[[str], None]:
    """Return what shows progress in place on a terminal, and nothing elsewhere."""
    return (lambda line: print(f"\r{line} ", end="", file=stream)) if stream.isatty() else lambda _: None


def _print_compared(compared: tuple[Compared, ...]) -> None:
    for one in compared:
        if one.source.rows or not one.equal:
            print(f"  {'ok  ' if one.equal else 'WRONG'} {one}")


def _without_password(uri: str) -> str:
    return uri.replace(":***@", "@")
