"""How a montage shows itself: a line of text, or a card in a notebook."""

from __future__ import annotations

import base64
import html
import io
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from PIL import Image

from tiled_server.client.pictures import eight_bit

if TYPE_CHECKING:
    from tiled_server.client._montage import Montage

_THUMBNAIL_PX: Final = 320
_LEFT: Final = " style='text-align:left'"


def montage_text(montage: Montage) -> str:
    """Return one line about a montage."""
    row = montage._row
    about = ", ".join(f"{name} {row[name]!r}" for name in ("sample", "operator") if row.get(name))
    return f"<Montage {montage.montage_id} {about}, {montage.started:%Y-%m-%d %H:%M} UTC, {_state(montage)}>"


def montage_html(montage: Montage) -> str:
    """Return a card about a montage, with a thumbnail of its mosaic or overview."""
    row = montage._row
    rows = {
        "sample": row.get("sample"),
        "operator": row.get("operator"),
        "proposal": row.get("proposal"),
        "began": f"{montage.started:%Y-%m-%d %H:%M:%S} UTC",
        "state": _state(montage),
        "runs": ", ".join(uid[:8] for uid in row["runs"]),
        "results": ", ".join(f"{len(uids)} {recipe}" for recipe, uids in (row["results"] or {}).items()),
    }
    cells = "".join(
        f"<tr><th{_LEFT}>{name}</th><td{_LEFT}>{html.escape(str(value))}</td></tr>"
        for name, value in rows.items()
        if value
    )
    picture = montage.picture()
    image = ""
    if picture is not None:
        data = base64.b64encode(_png(picture.pixels)).decode()
        image = f"<img alt='{html.escape(picture.what)}' src='data:image/png;base64,{data}'>"
    return (
        "<div style='display:flex;gap:1em;align-items:flex-start'>"
        f"{image}<div><b>{html.escape(montage.montage_id)}</b><table>{cells}</table></div></div>"
    )


def tile_text(tile: Mapping[Any, Any]) -> str:
    """Return what is said of a tile over its picture."""
    place = f"row {tile['row']} column {tile['column']}"
    if tile["attempt"]:
        place += f" attempt {tile['attempt']}"
    value = "" if math.isnan(tile["value"]) else f", {tile['value']:.3g}"
    return f"{place}\n{tile['faults'] or tile['qc_state']}{value}"


def _state(montage: Montage) -> str:
    counts = montage.counts
    asked = "" if counts["asked"] is None else f" of {counts['asked']}"
    names = (
        ("passed", "passed"),
        ("failed", "failed"),
        ("needs_review", "for review"),
        ("pending", "pending"),
    )
    judged = ", ".join(f"{counts[name]} {word}" for name, word in names if counts[name])
    again = (counts["exposures"] or 0) - (counts["acquired"] or 0)
    more = f", {again} frames more" if again > 0 else ""
    return f"{montage.status}: {counts['acquired']}{asked} tiles ({judged or 'none judged'}{more})"


def _png(pixels: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(eight_bit(pixels, _THUMBNAIL_PX))).save(file, "PNG")
    return file.getvalue()
