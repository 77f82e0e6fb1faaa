"""Frames as OME-TIFF: an image of one plane a frame, in TIFF tiles, with the place of each in the OME-XML.

https://docs.openmicroscopy.org/ome-model/: positions are those of the stage at the middle of the frame, um;
the shared distortion and solved places have no element there, and stand in the annotation of each image.
"""

from __future__ import annotations

import math
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final
from xml.sax.saxutils import escape, quoteattr

import tifffile

from tiled_server.exports.montage import Montage, setting
from tiled_server.exports.output import Progress

_NAMESPACE: Final = "http://www.openmicroscopy.org/Schemas/OME/2016-06"
_TILE_PX: Final = 512
_TYPES: Final = {"uint8": "uint8", "int16": "int16", "uint16": "uint16", "float32": "float"}
ANNOTATED: Final = (
    "run_uid", "tile_index", "roi", "row", "column", "attempt", "best", "qc_state", "faults", "x_um", "y_um",
    "x_requested_um", "y_requested_um", "image_shift_x_um", "image_shift_y_um", "defocus_um",
    "dose_e_per_a2", "prior_dose_e_per_a2", "focus_score", "solved_x_um", "solved_y_um", "residual_px",
)  # fmt: skip
"""Columns of the table that stand in the annotation of an image."""


def write_ome_tiff(montage: Montage, path: Path, progress: Progress) -> None:
    """Write all frames, one image each, in the order of the table (BigTIFF, not compressed)."""
    images = montage.images()
    first = next(images)
    text = ome_xml(montage, _TYPES[first.dtype.name])
    layout = _layout(first.shape)
    nm, _ = montage.runs[0].calibration
    layout |= {"resolution": (1e7 / nm, 1e7 / nm), "resolutionunit": "CENTIMETER"}
    with tifffile.TiffWriter(path, bigtiff=True, byteorder="<", ome=False) as file:
        for number, image in enumerate(_all(first, images)):
            about = text if number == 0 else ""
            file.write(
                image, photometric="minisblack", metadata=None, contiguous=False,
                description=about.encode() if about else None, software="Montango", **layout,
            )  # fmt: skip
            progress.step(image.nbytes)


def _layout(shape: tuple[int, ...]) -> dict[str, Any]:
    """Return how a frame is cut up in the file: in tiles where it is larger than one."""
    return {"tile": (_TILE_PX, _TILE_PX)} if min(shape) >= _TILE_PX else {}


def _all(first: Any, rest: Iterator[Any]) -> Iterator[Any]:
    yield first
    yield from rest


def ome_xml(montage: Montage, pixel_type: str) -> str:
    """Return the OME-XML of a file with all frames of a montage."""
    run = montage.runs[0]
    start = run.start
    parts = [
        '<?xml version="1.0" encoding="UTF-8"?>',
        f'<OME xmlns="{_NAMESPACE}" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" '
        f'xsi:schemaLocation="{_NAMESPACE} {_NAMESPACE}/ome.xsd" UUID="urn:uuid:{uuid.uuid4()}" '
        'Creator="Montango">',
        f'<Instrument ID="Instrument:0"><Microscope Model={quoteattr(str(start.get("instrument", "")))} '
        'Type="Other"/>'
        '<Detector ID="Detector:0:0" Type="Other"/>'
        f'<Objective ID="Objective:0:0"{_magnification(montage)}/></Instrument>',
    ]
    parts += [_image(montage, index, pixel_type) for index in range(len(montage))]
    parts.append("<StructuredAnnotations>")
    parts += [_annotation(montage, index) for index in range(len(montage))]
    parts.append("</StructuredAnnotations></OME>")
    return "".join(parts)


def _magnification(montage: Montage) -> str:
    found = setting(montage.settings, "magnification")
    return "" if found is None else f' NominalMagnification="{float(found):.9g}"'


def _image(montage: Montage, index: int, pixel_type: str) -> str:
    row = montage.table.iloc[index]
    run = montage.run(str(row["run_uid"]))
    (width, height), (nm, _) = run.size_px, run.calibration
    name = f"region {row['roi']}, row {row['row']}, column {row['column']}, attempt {row['attempt']}"
    taken = float(row["exposure_start_s"])
    when = ""
    if math.isfinite(taken) and taken > 0:
        when = f"<AcquisitionDate>{datetime.fromtimestamp(taken, UTC):%Y-%m-%dT%H:%M:%S}</AcquisitionDate>"
    plane = '<Plane TheZ="0" TheC="0" TheT="0"'
    for attribute, value, unit in (
        ("DeltaT", taken - float(run.start.get("time", math.nan)), "s"),
        ("ExposureTime", row["exposure_time_s"], "s"),
        ("PositionX", row["centre_x_um"], "µm"),
        ("PositionY", row["centre_y_um"], "µm"),
        ("PositionZ", row["z_um"], "µm"),
    ):
        if math.isfinite(value):
            plane += f' {attribute}="{float(value)!r}" {attribute}Unit="{unit}"'
    return (
        f'<Image ID="Image:{index}" Name={quoteattr(name)}>{when}<InstrumentRef ID="Instrument:0"/>'
        '<ObjectiveSettings ID="Objective:0:0"/>'
        f'<Pixels ID="Pixels:{index}" DimensionOrder="XYCZT" Type="{pixel_type}" SizeX="{width}" '
        f'SizeY="{height}" SizeC="1" SizeZ="1" SizeT="1" BigEndian="false" '
        f'PhysicalSizeX="{nm:.9g}" PhysicalSizeXUnit="nm" PhysicalSizeY="{nm:.9g}" PhysicalSizeYUnit="nm">'
        f'<Channel ID="Channel:{index}:0" SamplesPerPixel="1"><DetectorSettings ID="Detector:0:0"'
        f"{_binning(run.settings)}/></Channel>"
        f'<TiffData IFD="{index}" PlaneCount="1"/>{plane}/></Pixels>'
        f'<AnnotationRef ID="Annotation:{index}"/></Image>'
    )


def _binning(settings: Any) -> str:
    binning = setting(settings, "binning")
    return f' Binning="{int(binning)}x{int(binning)}"' if binning in (1, 2, 4, 8) else ""


def _annotation(montage: Montage, index: int) -> str:
    row = montage.table.iloc[index]
    pairs = {"montage_id": montage.montage_id, "sample": montage.start.get("sample", "")}
    pairs |= {name: row[name] for name in ANNOTATED if name in row.index}
    values = "".join(f"<M K={quoteattr(name)}>{escape(_text(value))}</M>" for name, value in pairs.items())
    return (
        f'<MapAnnotation ID="Annotation:{index}" Namespace="montango.tile"><Value>{values}</Value>'
        "</MapAnnotation>"
    )


def _text(value: Any) -> str:
    return repr(float(value)) if isinstance(value, float) else str(value)
