"""A montage exported to a format: checked before anything is written, then whole or not at all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from devices.errors import ConfigurationError
from tiled_server.exports.montage import Montage, choose
from tiled_server.exports.mosaic_files import METADATA
from tiled_server.exports.options import FOLDERS, MOSAICS, SUFFIXES, ExportOptions, Format
from tiled_server.exports.output import (
    ExportError,
    Progress,
    Report,
    check_places,
    check_space,
    is_export,
    placed,
    size_of,
)

Write = Callable[[list[Path], list[Path], Progress], None]
"""Writes parts, whose names will be the final ones."""
_ROW_BYTES: Final = 1500
"""Of a frame in tables and metadata, at most about."""


@dataclass(frozen=True)
class Exported:
    """What an export wrote.

    Attributes
    ----------
    paths
        Files or folders, the one to open first.
    frames
        How many frames are in it, or were drawn; of a mosaic that was copied 0.
    bytes
        Written.
    notes
        What was left out, and what is to be known of it.
    """

    paths: tuple[Path, ...]
    frames: int
    bytes: int
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Job:
    """What is to be written: the part of the montage, steps, bytes, and what writes it."""

    montage: Montage
    steps: int
    needed: int
    write: Write
    frames: int
    notes: tuple[str, ...] = ()


def export(
    montage: Montage,
    to: Format,
    out: Path | None = None,
    options: ExportOptions | None = None,
    *,
    overwrite: bool = False,
    report: Report = lambda *_: None,
) -> Exported:
    """Export a montage.

    Parameters
    ----------
    montage
        With all its attempts.
    to
        The format.
    out
        File or folder; an existing folder: into it, by the montage's name. None: into the working directory.
    options
        Which part.
    overwrite
        Replace what an export wrote there before.
    report
        Called with steps done, of how many, and bytes written; what it raises ends the export.

    Raises
    ------
    ConfigurationError
        The part that is asked for is not there, frames are missing, there is a file of this name, or the
        format cannot hold what is asked for: before anything is written.
    ExportError
        The disk is full, or a frame cannot be read: nothing is left of it.
    """
    options = options or ExportOptions()
    finals = output_paths(montage, to, out, options)
    check_places(finals, overwrite=overwrite, folder=to in FOLDERS)
    job = _job(montage, to, options)
    check_space(finals[0].parent, job.needed)
    progress = Progress(job.steps, report)
    with placed(finals, overwrite=overwrite, folder=to in FOLDERS) as places:
        parts = [place.part for place in places]
        job.write(parts, finals, progress)
    notes = (*(f"left out: {line}" for line in job.montage.left_out), *job.notes)
    return Exported(tuple(finals), job.frames, sum(map(size_of, finals)), notes)


def output_paths(montage: Montage, to: Format, out: Path | None, options: ExportOptions) -> list[Path]:
    """Return what an export writes: files or folders, the one to open first."""
    part = "" if options.roi is None else f"-region-{options.roi}"
    name = f"{montage.montage_id}{part}{SUFFIXES[to]}"
    path = Path(name) if out is None else out
    if out is not None and out.is_dir() and not (to in FOLDERS and is_export(out)):
        path = out / name
    if to is Format.MRC:
        return [path, path.with_name(path.name + ".mdoc")]
    return [path]


def _job(montage: Montage, to: Format, options: ExportOptions) -> _Job:
    if montage.missing and not options.allow_missing:
        more = f" and {len(montage.missing) - 1} more" if len(montage.missing) > 1 else ""
        raise ConfigurationError(
            f"{montage.missing[0]}{more}: bring the file back, or export the rest with --allow-missing"
        )
    if options.level and to not in (*MOSAICS, Format.RO_CRATE):
        raise ConfigurationError(f"--level is for mosaics (ome-zarr, ro-crate), not for {to.value}")
    # a live mosaic shows what it shows
    attempts = "all" if to is Format.OME_ZARR and _live_mosaic(montage, options.roi) else options.attempts
    part = choose(montage, roi=options.roi, attempts=attempts)
    notes = [*(f"missing: {line}" for line in montage.missing)]
    notes += [f"run {run.uid} has not ended: what it has so far" for run in part.runs if not run.stop]
    if to is Format.OME_ZARR:
        return _mosaic_job(part, options, notes)
    return _frames_job(part, to, options, notes)


def _mosaic_job(part: Montage, options: ExportOptions, notes: list[str]) -> _Job:
    from tiled_server.exports.mosaic_files import copy_mosaic, kept_levels, mosaic_bytes

    if len({*part.rois}) > 1:
        known = ", ".join(map(str, part.rois))
        raise ConfigurationError(
            f"montage {part.montage_id} has regions {known}, and an OME-Zarr is of one: give --roi"
        )
    source = _live_mosaic(part, options.roi)
    if source is not None:
        steps = sum(1 for _ in kept_levels(source, options.level))
        return _Job(
            part, steps, mosaic_bytes(source, options.level),
            lambda parts, _finals, progress: copy_mosaic(source, parts[0], options.level, progress), 0,
            tuple(notes),
        )  # fmt: skip
    if options.level:
        raise ConfigurationError(
            f"--level {options.level}: montage {part.montage_id} has no live mosaic, and one that is "
            "drawn has all levels"
        )
    from tiled_server.exports.ome_zarr import Drawing

    drawing = Drawing.of(part)
    return _Job(
        part, drawing.steps(), drawing.bytes,
        lambda parts, finals, progress: drawing.draw(parts[0], progress, name=finals[0].name), len(part),
        (*notes, "drawn from the frames: there is no live mosaic at hand; montango stitch matches them"),
    )  # fmt: skip


def _live_mosaic(montage: Montage, roi: int | None) -> Path | None:
    rois = montage.rois if roi is None else [roi]
    found = [one.path for one in montage.mosaics if one.roi in rois and one.path is not None]
    return next((path for path in reversed(found) if (path / METADATA).is_file()), None)


def _frames_job(part: Montage, to: Format, options: ExportOptions, notes: list[str]) -> _Job:
    rows = len(part) * _ROW_BYTES
    if to in (Format.CSV, Format.PARQUET):
        from tiled_server.exports.tables import table_steps

        return _Job(part, table_steps(part), rows, _writer(part, to, options), len(part), tuple(notes))
    width, height = part.size_px
    for run in part.runs:
        _ = run.calibration
    needed = len(part) * width * height * 2 + rows
    if to in (Format.TRAKEM2, Format.RENDER):
        from tiled_server.exports.tile_project import check_project

        check_project(part)
    if to is Format.RO_CRATE:
        from tiled_server.exports.mosaic_files import mosaic_bytes

        folders = [one.path for one in part.mosaics if one.path is not None]
        needed += 2 * rows + sum(mosaic_bytes(path, options.level) for path in folders)
    return _Job(part, len(part), needed, _writer(part, to, options), len(part), tuple(notes))


def _writer(part: Montage, to: Format, options: ExportOptions) -> Write:
    """Return what writes a format, with what it needs imported."""
    match to:
        case Format.CSV:
            from tiled_server.exports.tables import write_csv

            return lambda parts, _, progress: write_csv(part, parts[0], progress)
        case Format.PARQUET:
            from tiled_server.exports.tables import write_parquet

            return lambda parts, _, progress: write_parquet(part, parts[0], progress)
        case Format.MRC:
            from tiled_server.exports.mrc import write_mrc

            return lambda parts, finals, progress: write_mrc(
                part, parts[0], parts[1], finals[0].name, progress
            )
        case Format.OME_TIFF:
            from tiled_server.exports.ome_tiff import write_ome_tiff

            return lambda parts, _, progress: write_ome_tiff(part, parts[0], progress)
        case Format.NXEM:
            from tiled_server.exports.nxem import write_nxem

            return lambda parts, _, progress: write_nxem(part, parts[0], progress)
        case Format.RO_CRATE:
            from tiled_server.exports.ro_crate import write_ro_crate

            return lambda parts, _, progress: write_ro_crate(part, parts[0], progress, options.level)
        case Format.TRAKEM2 | Format.RENDER:
            from tiled_server.exports.tile_project import write_project

            program: Literal["trakem2", "render"] = "trakem2" if to is Format.TRAKEM2 else "render"
            return lambda parts, finals, progress: write_project(part, parts[0], finals[0], program, progress)
        case _:
            raise ConfigurationError(f"{to.value} is no format of frames")


__all__ = ["ExportError", "Exported", "export", "output_paths"]
