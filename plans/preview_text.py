"""A preview in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from plans.specs.grid import Grid

if TYPE_CHECKING:
    from plans.preview import Preview

SHOWN_ROIS = 12


def describe(preview: Preview) -> str:
    """Return the figures of a preview, a line each, and what the time supposes."""
    spec, view, grid, duration = preview.spec, preview.view, preview.grid, preview.duration
    lines = [
        ("tiles", f"{preview.tiles}{_shape(preview)}"),
        ("stage positions", f"{preview.stations}{_supertile(grid)}"),
        (
            "a tile",
            f"{view.width_px} x {view.height_px} px, {view.width_um:.4g} x {view.height_um:.4g} um; pixel "
            f"{view.pixel_size_nm:.4g} nm, turned by {view.rotation_deg:.4g} deg",
        ),
        ("overlap", f"{spec.overlap_xy[0]:.3g} along camera x, {spec.overlap_xy[1]:.3g} along camera y"),
        ("pixels", f"{preview.pixels / 1e6:.4g} million"),
        ("size", f"{preview.size_bytes / 1e9:.4g} GB, uncompressed"),
        ("dose", _dose(preview)),
        ("time", f"{clock(duration.total_s)} ({_parts(preview)})"),
    ]
    width = max(len(name) for name, _ in lines)
    text = [f"{name:<{width}}  {value}" for name, value in lines]
    text += [f"{'note':<{width}}  {remark}" for remark in preview.remarks]
    text.append(f"{'supposed':<{width}}  {_supposed(preview)}")
    text += [f"{'REFUSED':<{width}}  {refusal}" for refusal in preview.refusals]
    return "\n".join(text)


def _shape(preview: Preview) -> str:
    """Return what the tiles are of: rows and columns, regions with their tiles."""
    grid = preview.grid
    if len(grid.roi_names) == 1:
        left_out = grid.rows * grid.columns - preview.tiles
        skipped = f", {left_out} outside the region left out" if left_out else ""
        return f" ({grid.rows} rows x {grid.columns} columns{skipped})"
    counts = list(preview.as_dict()["rois"].items())
    named = ", ".join(f"{name} {count}" for name, count in counts[:SHOWN_ROIS])
    more = f", {len(counts) - SHOWN_ROIS} more" if len(counts) > SHOWN_ROIS else ""
    return f" in {len(counts)} regions: {named}{more}"


def _supertile(grid: Grid) -> str:
    columns, rows = grid.supertile
    return f", up to {columns} x {rows} tiles at each by image shift" if columns * rows > 1 else ""


def _dose(preview: Preview) -> str:
    if preview.dose_e_per_a2 is None or preview.largest_dose_e_per_a2 is None:
        return "not known (beam current and illuminated area are not)"
    most = preview.largest_dose_e_per_a2
    times = round(most / preview.dose_e_per_a2)
    return f"{preview.dose_e_per_a2:.3g} e/A^2 an exposure, {most:.3g} e/A^2 where {times} of them overlap"


def _parts(preview: Preview) -> str:
    one = preview.duration
    parts = {
        "move": one.move_s,
        "settle": one.settle_s,
        "expose": one.expose_s,
        "wait for readout": one.readout_s,
        "software": one.software_s,
        "focus": one.focus_s,
    }
    cycle_s = one.total_s / max(1, preview.tiles)
    shown = ", ".join(f"{name} {clock(value)}" for name, value in parts.items() if value)
    return f"{cycle_s:.3g} s a tile; {shown}"


def _supposed(preview: Preview) -> str:
    timing, spec = preview.timing, preview.spec
    tail = "" if spec.settle_mode == "fixed" else f"; settle_mode = {spec.settle_mode} may wait longer"
    return (
        f"stage {timing.move_overhead_s:g} s + way at {timing.acceleration_um_s2:g} um/s^2 up to "
        f"{timing.speed_um_s:g} um/s, image shift {timing.image_shift_s:g} s, readout {timing.readout_s:g} s "
        f"(during it the stage moves), software {timing.software_s:g} s a tile; no tile twice{tail}"
    )


def clock(seconds: float) -> str:
    """Return a length of time in words."""
    if seconds < 120:
        return f"{seconds:.3g} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes >= 60 else f"{minutes} min"
