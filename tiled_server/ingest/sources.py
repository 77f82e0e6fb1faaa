"""What montages a path has: an ``.mdoc``, a folder of them, a folder of tiles, OME-TIFF."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from devices.errors import ConfigurationError
from processing.stitching.frame_files import TIFFS
from tiled_server.ingest.folders import read_tiles
from tiled_server.ingest.ome_tiff import is_ome_tiff, ome_files, read_ome_tiffs
from tiled_server.ingest.serialem import mdoc_sections, read_serialem
from tiled_server.ingest.source import Source

MDOC: Final = ".mdoc"

Reader = Callable[[], Source]


@dataclass(frozen=True)
class SourceOptions:
    """What a source does not say itself; None: it does.

    Attributes
    ----------
    positions, pattern, overlap
        Of a folder of tiles; see `processing.stitching.folder.read_folder`.
    section
        The only section of an ``.mdoc`` to take.
    pixel_size_nm
        Size of a pixel.
    image_rotation_deg
        Turn from the camera's axes to those of the positions of an OME-TIFF.
    """

    positions: Path | None = None
    pattern: str | None = None
    overlap: tuple[float, float] | None = None
    section: int | None = None
    pixel_size_nm: float | None = None
    image_rotation_deg: float | None = None


def find_sources(path: Path, options: SourceOptions) -> list[tuple[str, Reader]]:
    """Return the montages that a path has: what each is called in messages, and what reads it.

    Raises
    ------
    ConfigurationError
        There is none, or an option is not for it.
    """
    if not path.exists():
        raise ConfigurationError(f"{path} is not there; give an .mdoc, an OME-TIFF, or a folder of tiles")
    beside = path if path.suffix == MDOC else path.with_name(path.name + MDOC)
    if path.is_file() and beside.is_file():
        return _serialem(beside, options)
    if path.is_dir():
        return _folder(path, options)
    if path.name.lower().endswith(TIFFS) and (is_ome_tiff(path) or _has_ome(path)):
        return [(path.name, _ome(path, [path], options))]
    raise ConfigurationError(
        f"{path} is one file: give its {path.name}{MDOC}, an OME-TIFF with positions, or the folder of tiles"
    )


def _folder(path: Path, options: SourceOptions) -> list[tuple[str, Reader]]:
    told = options.positions is not None or options.pattern is not None
    if not told:
        mdocs = sorted(path.glob(f"*{MDOC}"))
        if mdocs:
            return [one for file in mdocs for one in _serialem(file, options)]
        if files := ome_files(path):
            return [(path.name, _ome(path, files, options))]
    _only(options, "a folder of tiles", "positions", "pattern", "overlap", "pixel_size_nm")
    reader = partial(
        read_tiles, path, positions=options.positions, pattern=options.pattern, overlap=options.overlap,
        pixel_size_nm=options.pixel_size_nm,
    )  # fmt: skip
    return [(path.name, reader)]


def _serialem(path: Path, options: SourceOptions) -> list[tuple[str, Reader]]:
    _only(options, f"{path.name}", "section", "pixel_size_nm")
    known = mdoc_sections(path)
    wanted: list[int | None] = [*known] if len(known) > 1 else [None]
    if options.section is not None:
        wanted = [options.section]
    return [
        (
            path.name if one is None else f"{path.name}, section {one}",
            partial(read_serialem, path, section=one, pixel_size_nm=options.pixel_size_nm),
        )
        for one in wanted
    ]


def _ome(path: Path, files: list[Path], options: SourceOptions) -> Reader:
    _only(options, "an OME-TIFF", "pixel_size_nm", "image_rotation_deg")
    return partial(
        read_ome_tiffs,
        path,
        files,
        pixel_size_nm=options.pixel_size_nm,
        image_rotation_deg=options.image_rotation_deg or 0.0,
    )


def _only(options: SourceOptions, what: str, *known: str) -> None:
    """Refuse options that are not for this kind of source."""
    for name in SourceOptions.__dataclass_fields__:
        if name not in known and getattr(options, name) is not None:
            option = "rotation-deg" if name == "image_rotation_deg" else name.replace("_", "-")
            raise ConfigurationError(f"--{option} is not for {what}: leave it out")


def _has_ome(path: Path) -> bool:
    import tifffile

    try:
        with tifffile.TiffFile(path) as file:
            return bool(file.is_ome)
    # readers of broken files raise anything
    except Exception as error:
        raise ConfigurationError(f"{path} cannot be read: {error or type(error).__name__}") from error
