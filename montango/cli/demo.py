"""The command that shows everything once: a montage on a laboratory of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from montango.cli.options import chosen


def demo(
    context: typer.Context,
    specimen: Annotated[
        Path | None, typer.Option(help="micrograph to put on the stage (PNG, TIFF, JPEG, MRC)")
    ] = None,
    replay: Annotated[
        Path | None, typer.Option(help="folder of recorded tiles, *_ROW_COL.png, in place of simulated ones")
    ] = None,
    rows: Annotated[int | None, typer.Option(min=1, max=100, help="rows of tiles")] = None,
    columns: Annotated[int | None, typer.Option(min=1, max=100, help="columns of tiles")] = None,
    overlap: Annotated[float, typer.Option(help="overlap of neighbours, fraction of a tile, 0 to 0.8")] = 0.1,
    pixels: Annotated[int | None, typer.Option(min=64, max=8192, help="side of a frame, px")] = None,
    fast: Annotated[bool, typer.Option("--fast", help="no delays: as fast as the software goes")] = False,
    fault: Annotated[bool, typer.Option(help="spoil one tile's focus, so that it is acquired again")] = True,
) -> None:
    """Start a lab, acquire and judge a montage, catalog it, print a report, stop everything."""
    from montango.demo import DEMO_STATE, DemoOptions, run_demo

    choice = chosen(context)
    options = DemoOptions(
        state=choice.state or Path(DEMO_STATE),
        config=choice.config,
        specimen=specimen,
        replay=replay,
        rows=rows,
        columns=columns,
        overlap=overlap,
        pixels=pixels,
        fast=fast,
        fault=fault,
    )
    run_demo(options)
