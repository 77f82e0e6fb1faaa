"""The command that stitches a montage from files."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from devices.errors import ConfigurationError
from montango.cli.options import Choice, chosen

if TYPE_CHECKING:
    from processing.kernels.field import FieldModel
    from processing.stitching.offline import Stitched
    from processing.stitching.sources import TileSet


class Blend(StrEnum):
    """How tiles are put together."""

    FLAT = "flat"
    FEATHER = "feather"


def stitch(
    context: typer.Context,
    source: Annotated[
        str, typer.Argument(help="folder of tiles, SerialEM .mdoc, or montage id or run uid of the lab")
    ],
    out: Annotated[Path | None, typer.Option(help="folder for the results; default: NAME-stitched")] = None,
    positions: Annotated[
        Path | None, typer.Option(help="CSV or JSON with the places of a folder's tiles")
    ] = None,
    pattern: Annotated[
        str | None, typer.Option(help="how names give row and column, as tile_{row}_{column}")
    ] = None,
    overlap: Annotated[
        str | None, typer.Option(help="of neighbours, of a tile's side: one number, or X,Y")
    ] = None,
    section: Annotated[int | None, typer.Option(help="section of an .mdoc with several")] = None,
    pixel_size_nm: Annotated[float | None, typer.Option(min=0.0001, help="size of a pixel, nm")] = None,
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
) -> None:
    """Stitch a montage: coordinates, mosaic, report; exit status 1 if no tile could be matched."""
    from processing.stitching.offline import (
        MOSAIC,
        OfflineOptions,
        draw_mosaic,
        overview,
        stitch_tiles,
        write_picture,
    )
    from processing.stitching.options import StitchOptions
    from processing.stitching.report import summary, write_report
    from processing.stitching.tables import write_tables

    if (dark is None) != (bright is None):
        raise ConfigurationError("--dark and --bright are given together, or neither")
    tiles = _tiles(chosen(context), source, positions, pattern, _overlap(overlap), pixel_size_nm, section)
    if dark is not None and bright is not None:
        tiles = tiles.corrected(dark, bright)
    folder = out or Path(f"{tiles.name}-stitched")
    mosaic = folder / MOSAIC
    if mosaic.exists() and not overwrite and not no_mosaic:
        raise ConfigurationError(f"{mosaic} exists already: give another --out, or --overwrite")
    folder.mkdir(parents=True, exist_ok=True)
    options = OfflineOptions(
        StitchOptions(first_search_px=search_px, field=_field(field)), blending=blend.value
    )
    done = stitch_tiles(tiles, options, _say)
    made = write_tables(done, folder)
    if not no_mosaic:
        draw_mosaic(done, mosaic, options, overwrite=overwrite, progress=_say)
        write_picture(folder / "overview.png", overview(mosaic))
        made += [mosaic, folder / "overview.png"]
    made += write_report(done, folder, None if no_mosaic else mosaic)[:1]
    for name, value in summary(done):
        print(f"{name}: {value}")
    _complaints(done)
    print("written: " + ", ".join(path.name for path in made) + f" in {folder}")
    if len(tiles.tiles) > 1 and not done.solution.matched.any():
        raise typer.Exit(1)


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

    given = {"--positions": positions, "--pattern": pattern, "--overlap": overlap, "--section": section}
    for option in [name for name, value in given.items() if value is not None]:
        raise ConfigurationError(
            f"{option} is for files, and {source} is looked for among the lab's montages"
        )
    state = choice.existing_lab().state.root
    journal = state / "journal"
    if not journal.is_dir():
        raise ConfigurationError(
            f"{source} is no folder and no .mdoc, and no journal {journal} has montages; name "
            "the lab's state directory with --state"
        )
    return read_montage(journal, source, state / "calibrations")


def _overlap(text: str | None) -> tuple[float, float] | None:
    if text is None:
        return None
    try:
        shares = [float(one) for one in text.split(",")]
        x, y = shares * 2 if len(shares) == 1 else shares
    except ValueError:
        raise ConfigurationError(f"--overlap {text} must be one number, or two as 0.1,0.12") from None
    return x, y


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
