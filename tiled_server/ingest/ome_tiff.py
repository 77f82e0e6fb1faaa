"""OME-TIFF: tiles are its images or planes, or each is a file of a folder; the OME-XML has their places.

https://docs.openmicroscopy.org/ome-model/6.3.1/ome-tiff/specification.html. A frame is the first plane of an
image, or each plane where planes of one image lie at different places. y of a position points down.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, NamedTuple
from xml.etree import ElementTree

import numpy as np

from devices.errors import ConfigurationError
from devices.tiles import TILE_COLUMNS
from processing.stitching.frame_files import FrameFile
from processing.stitching.solution import Key
from processing.stitching.sources import ranked
from tiled_server.ingest.source import Floats, Source, SourceFrame, number, turned_um

SUFFIXES: Final = (".ome.tif", ".ome.tiff")
_UM: Final = {
    "m": 1e6, "mm": 1e3, "cm": 1e4, "µm": 1.0, "μm": 1.0, "um": 1.0, "nm": 1e-3, "pm": 1e-6, "Å": 1e-4,
}  # fmt: skip
_S: Final = {"s": 1.0, "ms": 1e-3, "µs": 1e-6, "μs": 1e-6, "min": 60.0}
_PLACES: Final = ("PositionX", "PositionY")
_OWN: Final = "montango.tile"
_OURS: Final = ("roi", "row", "column")
_COLUMNS: Final = frozenset(column.name for column in TILE_COLUMNS) - {"raster_index", "attempt", *_OURS}


class _Plane(NamedTuple):
    """A plane: its file and page, its attributes, those of its pixels and image, and our notes on it."""

    file: Path
    page: int
    plane: Mapping[str, str]
    pixels: Mapping[str, str]
    image: Mapping[str, str]
    taken: str
    notes: Mapping[str, str]


def is_ome_tiff(path: Path) -> bool:
    """Return whether a file is named as an OME-TIFF."""
    return path.name.lower().endswith(SUFFIXES)


def ome_files(folder: Path) -> list[Path]:
    """Return the OME-TIFFs of a folder."""
    return sorted(one for one in folder.iterdir() if one.is_file() and is_ome_tiff(one))


def read_ome_tiffs(
    path: Path,
    files: Sequence[Path],
    *,
    pixel_size_nm: float | None = None,
    image_rotation_deg: float = 0.0,
) -> Source:
    """Return the tiles of OME-TIFFs.

    Parameters
    ----------
    path
        What they are called by: the file, or their folder.
    files
        The files.
    pixel_size_nm
        Size of a pixel; None: ``PhysicalSizeX``.
    image_rotation_deg
        Turn from the camera's axes to those of the positions: OME-XML has no word for it.

    Raises
    ------
    ConfigurationError
        None of them says where its tiles lie, or how large a pixel is.
    """
    planes: list[_Plane] = []
    left_out: list[tuple[str, str]] = []
    for file in files:
        try:
            found = list(_planes(file))
        # readers of broken files raise anything
        except Exception as error:  # noqa: BLE001
            left_out.append((file.name, f"cannot be read: {error or type(error).__name__}"))
            continue
        placed = [one for one in found if all(name in one.plane for name in _PLACES)]
        planes += placed
        if len(placed) < len(found) or not found:
            left_out.append((file.name, f"{len(found) - len(placed)} planes have no PositionX and PositionY"))
    if not planes:
        why = f": {left_out[0][0]}: {left_out[0][1]}" if left_out else ""
        raise ConfigurationError(
            f"{path} has no plane with a position in its OME-XML{why}; give the folder of the tiles and "
            "--positions FILE, or --pattern"
        )
    size = pixel_size_nm or _pixel_size_nm(planes)
    if size is None:
        raise ConfigurationError(f"{path} has no PhysicalSizeX: give the size of a pixel, --pixel-size-nm")
    return _source(path, planes, size, image_rotation_deg, left_out)


def _source(
    path: Path,
    planes: Sequence[_Plane],
    size: float,
    turn: float,
    left_out: list[tuple[str, str]],
) -> Source:
    places = np.array([[_um(one, name, one.plane) for name in _PLACES] for one in planes]).reshape(-1, 2)
    frames = tuple(
        SourceFrame(key, FrameFile(one.file, one.page), _name(one), _values(one, place), _keys(one))
        for key, one, place in zip(_tile_keys(planes, places, size, turn), planes, places, strict=True)
    )
    name = path.name
    for suffix in SUFFIXES:
        name = name.removesuffix(suffix)
    return Source(name, "ome-tiff", path, frames, size, turn, left_out=tuple(left_out))


def _planes(path: Path) -> Iterator[_Plane]:
    """Yield the planes of a file that are frames."""
    import tifffile

    with tifffile.TiffFile(path) as file:
        text = file.ome_metadata
        if not text:
            raise ConfigurationError("it has no OME-XML")
        root = ElementTree.fromstring(text)
        notes = _notes(root)
        images = [one for one in root if _tag(one) == "Image"]
        for image, series in zip(images, file.series, strict=False):
            pixels = next(one for one in image if _tag(one) == "Pixels")
            found = [one.attrib for one in pixels if _tag(one) == "Plane"]
            pages = list(series.pages)
            taken = next((one.text or "" for one in image if _tag(one) == "AcquisitionDate"), "")
            ours = next((notes[one.get("ID", "")] for one in image if one.get("ID") in notes), {})
            for number in _frames(found, len(pages)):
                page: Any = pages[number]
                plane = found[number] if number < len(found) else {}
                if page is not None:
                    at = Path(page.parent.filehandle.path)
                    yield _Plane(at, page.index, plane, pixels.attrib, image.attrib, taken, ours)


def _frames(planes: Sequence[Mapping[str, str]], pages: int) -> range:
    """Return which planes of an image are frames: all where they lie at different places, else the first."""
    places = {tuple(one.get(name) for name in _PLACES) for one in planes}
    return range(min(pages, len(planes)) if len(places) > 1 else 1)


def _notes(root: ElementTree.Element) -> dict[str, dict[str, str]]:
    """Return what Montango's own export wrote of each tile, by the id of the annotation."""
    return {
        one.get("ID", ""): {m.get("K", ""): m.text or "" for m in one.iter() if _tag(m) == "M"}
        for one in root.iter()
        if _tag(one) == "MapAnnotation" and one.get("Namespace") == _OWN
    }


def _tile_keys(planes: Sequence[_Plane], places_um: Floats, size_nm: float, turn_deg: float) -> list[Key]:
    """Return region, row and column: as Montango wrote them, or else by the places."""
    if all(set(_OURS) <= one.notes.keys() for one in planes):
        written = [(int(one.notes["roi"]), int(one.notes["row"]), int(one.notes["column"])) for one in planes]
        if len(set(written)) == len(written):
            return written
    pixels = planes[0].pixels
    # turned back, in px
    places_px = turned_um(places_um, 1e3, -turn_deg) * 1e3 / size_nm
    return ranked(places_px, (int(pixels["SizeX"]), int(pixels["SizeY"])))


def _pixel_size_nm(planes: Sequence[_Plane]) -> float | None:
    sizes = [_um(one, "PhysicalSizeX", one.pixels) * 1e3 for one in planes if "PhysicalSizeX" in one.pixels]
    return sizes[0] if sizes else None


def _um(plane: _Plane, name: str, attributes: Mapping[str, str]) -> float:
    """Return a length in um. A length without a unit that is one ("reference frame") is taken as um."""
    unit = attributes.get(f"{name}Unit", "µm")
    try:
        value = float(attributes[name]) * _UM.get(unit, 1.0)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ConfigurationError(
            f"{plane.file}, page {plane.page}: {name} = {attributes[name]} must be a number"
        )
    return value


def _values(plane: _Plane, place: Any) -> dict[str, float]:
    x, y = float(place[0]), float(place[1])
    found = {"x_um": x, "y_um": y, "centre_x_um": x, "centre_y_um": y}
    if "PositionZ" in plane.plane:
        found["z_um"] = _um(plane, "PositionZ", plane.plane)
    if "ExposureTime" in plane.plane:
        unit = plane.plane.get("ExposureTimeUnit", "s")
        found["exposure_time_s"] = number(plane.plane["ExposureTime"]) * _S.get(unit, 1.0)
    found["exposure_start_s"] = _unix_s(plane.taken)
    return found | {name: number(plane.notes[name]) for name in _COLUMNS & plane.notes.keys()}


def _unix_s(text: str) -> float:
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return math.nan
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()


def _keys(plane: _Plane) -> dict[str, str]:
    names = {"Image": plane.image, "Pixels": plane.pixels, "Plane": plane.plane, "Montango": plane.notes}
    found = {f"{kind}.{name}": str(value) for kind, one in names.items() for name, value in one.items()}
    return found | ({"AcquisitionDate": plane.taken} if plane.taken else {})


def _name(plane: _Plane) -> str:
    return f"{plane.file.name}, page {plane.page}" if plane.page else plane.file.name


def _tag(element: ElementTree.Element) -> str:
    return element.tag.rpartition("}")[2]
