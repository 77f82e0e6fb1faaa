"""The command that takes montages of other programs into the catalog."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from devices.errors import ConfigurationError, MontangoError
from montango.cli.options import Choice, chosen
from montango.cli.progress import Progress
from montango.cli.tile_files import Overlap, Pattern, PixelSize, Positions, shares

if TYPE_CHECKING:
    from montango.lab import LabInfo
    from processing.callbacks._catalog_run import RunStore
    from tiled_server.ingest.ingest import Ingested, Target

_NAMED = 20


def ingest(
    context: typer.Context,
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="PATH...",
            help="SerialEM .mdoc (or its stack, or a folder of them), OME-TIFF, or folder of tiles",
        ),
    ],
    sample: Annotated[str | None, typer.Option(help="what was imaged")] = None,
    proposal: Annotated[str | None, typer.Option(help="proposal that it belongs to")] = None,
    session: Annotated[str | None, typer.Option(help="data session")] = None,
    operator: Annotated[str | None, typer.Option(help="who acquired it")] = None,
    instrument: Annotated[str | None, typer.Option(help="microscope; default: as the files say")] = None,
    title: Annotated[str | None, typer.Option(help="title")] = None,
    notes: Annotated[str | None, typer.Option(help="notes")] = None,
    montage_id: Annotated[
        str | None, typer.Option(help="id of the montage; default: one made of the source's name")
    ] = None,
    positions: Positions = None,
    pattern: Pattern = None,
    overlap: Overlap = None,
    section: Annotated[
        int | None, typer.Option(help="only this section of an .mdoc; default: each is a montage")
    ] = None,
    pixel_size_nm: PixelSize = None,
    rotation_deg: Annotated[
        float | None, typer.Option(help="turn from camera to stage axes of an OME-TIFF, deg")
    ] = None,
) -> None:
    """Take montages of other programs into the catalog, where they lie.

    Nothing is copied. Doing it again adds what is new. Exit status 1 if something is left out.
    """
    from tiled_server.ingest.ingest import complete
    from tiled_server.ingest.ingest import ingest as take
    from tiled_server.ingest.sources import SourceOptions, find_sources

    options = SourceOptions(positions, pattern, shares(overlap), section, pixel_size_nm, rotation_deg)
    found = [(path, one) for path in paths for one in find_sources(path, options)]
    if montage_id is not None and len(found) > 1:
        names = ", ".join(name for _, (name, _) in found[:3])
        raise ConfigurationError(
            f"--montage-id {montage_id} is for one montage, and there are {len(found)} ({names} ...)"
        )
    facts = {
        "sample": sample, "proposal": proposal, "data_session": session, "operator": operator,
        "instrument": instrument, "title": title, "notes": notes,
    }  # fmt: skip
    target = _target(chosen(context))
    progress, done, refused = Progress(), [], []

    def report(what: str, number: int, of: int) -> None:
        progress.show(f"{what}: {number} of {of}", last=number == of)

    for _, (name, read) in found:
        try:
            done.append(take(read(), target, facts, montage_id=montage_id, report=report))
        except MontangoError as error:
            if len(found) == 1:
                raise
            refused.append((name, str(error)))
            continue
        finally:
            progress.end()
        _say(done[-1])
    for name, reason in refused:
        print(f"{name} is not ingested: {reason}")
    failed = complete(target, [one.montage_id for one in done])
    if failed:
        print("in the journal, and not in the catalog yet: montango journal replay completes it")
    for line in failed:
        print(f"  {line}")
    raise typer.Exit(1 if refused or failed or any(one.left_out for one in done) else 0)


def _target(choice: Choice) -> Target:
    """Return journal, data and catalog of the lab; it need not be up."""
    from montango.config import load_config
    from tiled_server.configuration import READABLE_VARIABLE
    from tiled_server.ingest.ingest import Target

    lab = choice.existing_lab()
    info = lab.find()
    config = choice.load_config() if info is None else load_config(info.config)
    data_dir = Path(info.data_dir) if info else config.paths.data_dir or lab.state.root / "data"
    journal = Path(info.journal_dir) if info else lab.state.root / "journal"
    if not lab.state.root.is_dir():
        raise ConfigurationError(
            f"there is no lab in {lab.state.root}: start one (montango up), or name its state directory with "
            "--state"
        )
    more = [Path(one) for one in os.environ.get(READABLE_VARIABLE, "").split(os.pathsep) if one]
    folders = (data_dir, *config.services.tiled.readable, *more)
    return Target(journal, data_dir, folders, _stores(info))


def _stores(info: LabInfo | None) -> tuple[RunStore, ...]:
    """Return what the lab's runs are written to; none while it is down."""
    if info is None:
        return ()
    from processing.callbacks._catalog_run import TiledStore

    found: tuple[RunStore, ...] = (TiledStore(info.tiled["uri"], info.tiled["api_key"]),)
    if "mongo" in info.tiled:
        from tiled_server.mongo.store import MongoStore

        found += (MongoStore(info.tiled["mongo"]),)
    return found


def _say(one: Ingested) -> None:
    """Print what became of a montage."""
    there = f", {one.known} are there already" if one.known else ""
    print(f"{one.montage_id}: {one.added} tiles added{there}" + (f" (run {one.uid})" if one.uid else ""))
    for name, reason in one.left_out[:_NAMED]:
        print(f"  {name} is left out: {reason}")
    if len(one.left_out) > _NAMED:
        print(f"  and {len(one.left_out) - _NAMED} more")
