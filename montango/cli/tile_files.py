"""Options that say what files of tiles do not: where the tiles lie, and how large a pixel is."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from devices.errors import ConfigurationError

Positions = Annotated[Path | None, typer.Option(help="CSV or JSON with the places of a folder's tiles")]
Pattern = Annotated[str | None, typer.Option(help="how names give row and column, as tile_{row}_{column}")]
Overlap = Annotated[str | None, typer.Option(help="of neighbours, of a tile's side: one number, or X,Y")]
PixelSize = Annotated[float | None, typer.Option(min=0.0001, help="size of a pixel, nm")]


def shares(overlap: str | None) -> tuple[float, float] | None:
    """Return the overlaps along x and y, of a tile's side.

    Raises
    ------
    ConfigurationError
        The text is neither a number nor two.
    """
    if overlap is None:
        return None
    try:
        given = [float(one) for one in overlap.split(",")]
        x, y = given * 2 if len(given) == 1 else given
    except ValueError:
        raise ConfigurationError(f"--overlap {overlap} must be one number, or two as 0.1,0.12") from None
    return x, y
