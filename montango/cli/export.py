"""The command that exports a montage for other programs."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from devices.errors import ConfigurationError
from montango.cli.options import Choice, chosen
from montango.cli.progress import Progress
from tiled_server.exports.memory import one_arena
from tiled_server.exports.options import ExportOptions, Format

if TYPE_CHECKING:
    from tiled_server.exports.montage import Montage


class Attempts(StrEnum):
    """Which attempts of a tile."""

    BEST = "best"
    ALL = "all"


def export(
    context: typer.Context,
    montage: Annotated[
        str,
        typer.Argument(
            help="montage id or run uid of the lab, or address of a montage in a Tiled catalog, "
            "http://HOST:PORT/MONTAGE"
        ),
    ],
    to: Annotated[Format, typer.Option(help="format")],
    out: Annotated[
        Path | None, typer.Option(help="file or folder to write; default: by its name, here")
    ] = None,
    roi: Annotated[
        int | None, typer.Option("--roi", "--region", min=0, help="only this region, from 0")
    ] = None,
    attempts: Annotated[Attempts, typer.Option(help="the attempt that counts of each tile, or all")] = (
        Attempts.BEST
    ),
    level: Annotated[int, typer.Option(min=0, max=30, help="first level of the mosaic, 0 is the finest")] = 0,
    allow_missing: Annotated[
        bool, typer.Option("--allow-missing", help="leave out frames that cannot be read")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace an earlier export")] = False,
) -> None:
    """Export a montage for other programs: whole, or not at all."""
    one_arena()
    options = ExportOptions(roi=roi, attempts=attempts.value, level=level, allow_missing=allow_missing)
    found = _montage(chosen(context), montage)

    from tiled_server.exports.export import export as write

    progress = Progress()

    def report(number: int, of: int, written: int) -> None:
        progress.show(f"{to.value} {number} of {of}, {written / 1e6:.0f} MB", last=number == of)

    done = write(found, to, out, options, overwrite=overwrite, report=report)
    progress.end()
    for note in done.notes:
        print(note)
    frames = f"{done.frames} frames, " if done.frames else ""
    print(f"written: {', '.join(map(str, done.paths))} ({frames}{done.bytes / 1e6:.1f} MB)")


def _montage(choice: Choice, name: str) -> Montage:
    """Return a montage of the journal, or of a catalog."""
    if name.startswith(("http://", "https://")):
        from tiled_server.exports.catalog import from_address

        return from_address(name)
    from tiled_server.exports.journal import from_journal

    lab = choice.existing_lab()
    journal = lab.state.root / "journal"
    try:
        if not journal.is_dir():
            raise ConfigurationError(
                f"no journal {journal} has montages; name the lab's state directory with --state"
            )
        return from_journal(journal, name)
    except ConfigurationError:
        info = lab.find()
        if info is None:
            raise
    from tiled_server.exports.catalog import from_address

    return from_address(f"{info.tiled['uri']}/{name}", info.tiled["api_key"])
