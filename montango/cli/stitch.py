"""The command that stitches a montage from files."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from devices.errors import ConfigurationError
from montango.cli.options import Choice, chosen
from montango.cli.tile_files import Overlap, Pattern, PixelSize, Positions, shares

if TYPE_CHECKING:
    from processing.kernels.field import FieldModel
    from processing.stitching.offline import OfflineOptions, Stitched
    from processing.stitching.sources import TileSet
    from processing.stitching.workers import Workers


class Blend(StrEnum):
    """How tiles are put together."""

    FLAT = "flat"
    FEATHER = "feather"


def stitch(
    context: typer.Context,
    source: Annotated[
        str,
        typer.Argument(
            help="folder of tiles, SerialEM .mdoc, montage id or run uid of the lab, or address of a montage "
            "in a Tiled catalog, http://HOST:PORT/UID"
        ),
    ],
    out: Annotated[Path | None, typer.Option(help="folder for the results; default: NAME-stitched")] = None,
    positions: Positions = None,
    pattern: Pattern = None,
    overlap: Overlap = None,
    section: Annotated[int | None, typer.Option(help="section of an .mdoc with several")] = None,
    pixel_size_nm: PixelSize = None,
    search_px: Annotated[
        float | None, typer.Option(min=1, max=99999, help="how far the first pairs are searched, px")
    ] = None,
    dark: Annotated[Path | None, typer.Option(help="dark reference, an image")] = None,
    bright: Annotated[Path | None, typer.Option(help="bright reference, an image, dark taken off")] = None,
    field: Annotated[
        Path | None, typer.Option(help="distortion to use: solution.json of a montage, or its field")
    ] = None,
    blend: Annotated[Blend, typer.Option(help="how tiles are put together")] = Blend.FLAT,
    no_mosaic: Annotated[bool, typer.Option("--no-mosaic", help="coordinates and report only")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace the mosaic in --out")] = False,
    dask: Annotated[
        str | None, typer.Option(metavar="ADDRESS|local", help="let the workers of a Dask cluster do it")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="how many of --dask local; default: one a core")
    ] = None,
) -> None:
    """Stitch a montage: coordinates, mosaic, report; exit status 1 if no tile could be matched.

    A run that was cut off goes on where it was when the same command is given again.
    """
    from processing.stitching.offline import OfflineOptions
    from processing.stitching.options import StitchOptions
    from processing.stitching.report import summary

    if (dark is None) != (bright is None):
        raise ConfigurationError("--dark and --bright are given together, or neither")
    known, overlaps = _field(field), shares(overlap)
    with _workers(dask, workers) as them:
        tiles = _tiles(chosen(context), source, positions, pattern, overlaps, pixel_size_nm, section)
        if dark is not None and bright is not None:
            tiles = tiles.corrected(dark, bright)
        options = OfflineOptions(StitchOptions(first_search_px=search_px, field=known), blending=blend.value)
        folder = out or Path(f"{tiles.name}-stitched")
        done, made = _stitched(tiles, options, folder, them, mosaic=not no_mosaic, overwrite=overwrite)
    for name, value in summary(done):
        print(f"{name}: {value}")
    _complaints(done)
    print("written: " + ", ".join(path.name for path in made) + f" in {folder}")
    if len(tiles.tiles) > 1 and not done.solution.matched.any():
        raise typer.Exit(1)


@contextmanager
def _workers(dask: str | None, count: int | None) -> Iterator[Workers]:
    from processing.stitching.workers import InProcess

    if dask is None:
        if count is not None:
            raise ConfigurationError("--workers is for --dask local")
        yield InProcess()
        return
    from processing.stitching.cluster import cluster

    with cluster(dask, count) as found:
        yield found


def _stitched(
    tiles: TileSet, options: OfflineOptions, folder: Path, workers: Workers, *, mosaic: bool, overwrite: bool
) -> tuple[Stitched, list[Path]]:
    """Return the montage, and the files that were made."""
    from processing.stitching.drawing import draw_mosaic
    from processing.stitching.offline import MOSAIC, inputs, overview, stitch_tiles, write_picture
    from processing.stitching.report import write_report
    from processing.stitching.tables import write_tables
    from processing.stitching.workers import Record, half_drawn

    path, picture = folder / MOSAIC, folder / "overview.png"
    overwrite = overwrite or half_drawn(folder)
    if path.exists() and mosaic and not overwrite:
        raise ConfigurationError(f"{path} exists already: give another --out, or --overwrite")
    with Record(folder, inputs(tiles, options)) as record:
        if record.differences:
            differ = ", ".join(record.differences)
            typer.echo(f"{folder} has part of a run with other {differ}: it is stitched anew", err=True)
        elif record.found:
            typer.echo(f"going on in {folder}, where {record.found} parts are done", err=True)
        workers.check([one.frame for one in tiles.tiles], folder)
        done = stitch_tiles(tiles, options, _say, workers=workers, record=record)
        made = write_tables(done, folder)
        if mosaic:
            draw_mosaic(
                done, path, options, overwrite=overwrite, progress=_say, workers=workers, record=record
            )
            write_picture(picture, overview(path))
            made += [path, picture]
        made += write_report(done, folder, path if mosaic else None)[:1]
        record.remove()
    return done, made


def _tiles(
    choice: Choice,
    source: str,
    positions: Path | None,
    pattern: str | None,
    overlap: tuple[float, float] | None,
    pixel_size_nm: float | None,
    section: int | None,
) -> TileSet:
    from processing.stitching.sources import read_source

    given = {"--positions": positions, "--pattern": pattern, "--overlap": overlap, "--section": section}
    named = [name for name, value in given.items() if value is not None]
    if source.startswith(("http://", "https://")):
        from montango.montage_catalog import read_catalog

        if named:
            raise ConfigurationError(f"{named[0]} is for files, and {source} is a catalog")
        return read_catalog(source)
    if Path(source).exists() or "/" in source or source.endswith(".mdoc"):
        return read_source(
            Path(source),
            positions=positions,
            pattern=pattern,
            overlap=overlap,
            pixel_size_nm=pixel_size_nm,
            section=section,
        )
    from montango.montage_tiles import read_montage

    if named:
        raise ConfigurationError(
            f"{named[0]} is for files, and {source} is looked for among the lab's montages"
        )
    lab = choice.existing_lab()
    state = lab.state.root
    journal = state / "journal"
    try:
        if not journal.is_dir():
            raise ConfigurationError(
                f"{source} is no folder and no .mdoc, and no journal {journal} has montages; name "
                "the lab's state directory with --state"
            )
        return read_montage(journal, source, state / "calibrations")
    except ConfigurationError:
        info = lab.find()
        if info is None:
            raise
    from montango.montage_catalog import read_catalog

    address = f"{info.tiled['uri']}/{source}"
    return read_catalog(address, api_key=info.tiled["api_key"], calibrations=state / "calibrations")


def _field(path: Path | None) -> FieldModel | None:
    if path is None:
        return None
    from processing.kernels.field import FieldModel

    try:
        content = json.loads(path.read_text())
        return FieldModel.from_dict(content.get("field", content))
    except (OSError, ValueError, AttributeError) as error:
        raise ConfigurationError(f"--field {path} cannot be used: {error}") from error


def _complaints(done: Stitched) -> None:
    names = done.names
    for tile in done.solution.tiles:
        if tile.reason:
            print(f"  {names[tile.key]}: {tile.reason}")
    for name, reason in done.tiles.left_out:
        print(f"  {name}: left out: {reason}")


def _say(what: str, done: int, of: int) -> None:
    if done == 0:
        typer.echo(f"{what} {of} tiles" if of > 1 else what, err=True)
