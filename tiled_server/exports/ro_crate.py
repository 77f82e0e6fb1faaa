"""An RO-Crate 1.1 in a zip: frames as TIFF, tables, documents, the mosaic; a checksum of every file.

https://www.researchobject.org/ro-crate/specification/1.1/. ``manifest-blake3.txt`` has a line a file, as
``b3sum --check`` reads it: BLAKE3 (https://github.com/BLAKE3-team/BLAKE3), two spaces, path. It comes last
and does not name itself.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, Final

import blake3

from tiled_server.exports.montage import Montage
from tiled_server.exports.mosaic_files import kept_levels
from tiled_server.exports.output import Progress
from tiled_server.exports.tables import description, write_csv, write_parquet
from tiled_server.exports.tiff import frame_name, tiff_bytes
from tiled_server.exports.zip_file import ZipWriter

MANIFEST: Final = "manifest-blake3.txt"
METADATA: Final = "ro-crate-metadata.json"
_CONTEXT: Final = "https://w3id.org/ro/crate/1.1/context"
_PROFILE: Final = "https://w3id.org/ro/crate/1.1"


class _Crate:
    """The zip, and the lines of the manifest, which wait on disk."""

    def __init__(self, archive: ZipWriter, lines: IO[str]) -> None:
        self._archive, self._lines = archive, lines

    def add(self, name: str, content: bytes | Path) -> int:
        """Add a file and its checksum; return its size."""
        hasher = blake3.blake3()
        size = self._archive.add(name, content, hasher.update)
        self._lines.write(f"{hasher.hexdigest()}  {name}\n")
        return size

    def manifest(self) -> Iterator[bytes]:
        """Return the manifest in pieces."""
        self._lines.seek(0)
        for line in self._lines:
            yield line.encode()


def write_ro_crate(montage: Montage, path: Path, progress: Progress, level: int = 0) -> None:
    """Write a crate of a montage.

    Parameters
    ----------
    montage
        What goes into it: its frames, table, documents, and live mosaics.
    path
        The zip.
    progress
        A step a frame.
    level
        The first level of the mosaics that it has.
    """
    with (
        ZipWriter(path) as archive,
        tempfile.TemporaryFile("w+", dir=path.parent, encoding="utf-8") as lines,
    ):
        crate = _Crate(archive, lines)
        sizes = dict(_small_files(crate, montage, path.parent))
        nm, _ = montage.runs[0].calibration
        for (_, row), image in zip(montage.table.iterrows(), montage.images(), strict=True):
            name = f"{_frames(int(row['roi']))}{frame_name(row)}"
            progress.step(crate.add(name, tiff_bytes(image, nm)))
        mosaics = _add_mosaics(crate, montage, level)
        metadata = json.dumps(_metadata(montage, sizes, mosaics), indent=1, ensure_ascii=False)
        crate.add(METADATA, metadata.encode())
        archive.add(MANIFEST, crate.manifest())


def _frames(roi: int) -> str:
    return f"frames/region-{roi}/"


def _small_files(crate: _Crate, montage: Montage, folder: Path) -> Iterator[tuple[str, int]]:
    """Add tables and documents; yield their names and sizes."""
    for name, write in (("tiles.csv", write_csv), ("tiles.parquet", write_parquet)):
        with tempfile.NamedTemporaryFile(dir=folder, suffix=".part") as file:
            write(montage, Path(file.name), Progress(0, lambda *_: None))
            yield name, crate.add(name, Path(file.name))
    about = json.dumps(description(montage), indent=1, default=str).encode()
    yield "montage.json", crate.add("montage.json", about)


def _add_mosaics(crate: _Crate, montage: Montage, level: int) -> list[str]:
    """Add the live mosaics; return their folders in the crate."""
    found = []
    for mosaic in montage.mosaics:
        if mosaic.path is None:
            continue
        folder = f"mosaic/region-{mosaic.roi}.ome.zarr/"
        for name, content in kept_levels(mosaic.path, level):
            crate.add(folder + name, content)
        found.append(folder)
    return found


def _metadata(montage: Montage, sizes: Mapping[str, int], mosaics: list[str]) -> dict[str, Any]:
    start, parts = montage.start, [*sizes, *map(_frames, montage.rois), *mosaics, MANIFEST]
    taken = datetime.fromtimestamp(float(start.get("time", 0.0)), UTC)
    formats = {
        "tiles.csv": ("text/csv", "What was recorded of every frame"),
        "tiles.parquet": ("application/vnd.apache.parquet", "What was recorded of every frame"),
        "montage.json": ("application/json", "Documents of the runs: start, stop, settings"),
    }
    graph: list[dict[str, Any]] = [
        {
            "@id": METADATA,
            "@type": "CreativeWork",
            "about": {"@id": "./"},
            "conformsTo": {"@id": _PROFILE},
        },
        {
            "@id": "./",
            "@type": "Dataset",
            "name": f"Electron microscope montage {montage.montage_id}",
            "description": _summary(montage),
            "datePublished": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
            "dateCreated": f"{taken:%Y-%m-%dT%H:%M:%SZ}",
            "identifier": montage.montage_id,
            "license": "not stated: ask those who acquired it",
            "hasPart": [{"@id": one} for one in parts],
            **({"creator": {"@id": "#operator"}} if start.get("operator") else {}),
            **({"instrument": {"@id": "#instrument"}} if start.get("instrument") else {}),
        },
        *(
            {
                "@id": name, "@type": "File", "name": formats[name][1], "encodingFormat": formats[name][0],
                "contentSize": str(size),
            }
            for name, size in sizes.items()
        ),
        *(
            {
                "@id": _frames(roi), "@type": "Dataset", "name": f"Frames of region {roi}",
                "description": "One TIFF a frame, counts as the camera gave them; tiles.csv says the rest",
                "encodingFormat": "image/tiff",
            }
            for roi in montage.rois
        ),
        *(
            {
                "@id": folder, "@type": "Dataset", "name": "Mosaic, OME-Zarr 0.5",
                "conformsTo": {"@id": "https://ngff.openmicroscopy.org/0.5/"},
            }
            for folder in mosaics
        ),
        {
            "@id": MANIFEST, "@type": "File", "name": "BLAKE3 checksum of every other file",
            "encodingFormat": "text/plain",
        },
    ]  # fmt: skip
    if start.get("operator"):
        graph.append({"@id": "#operator", "@type": "Person", "name": str(start["operator"])})
    if start.get("instrument"):
        graph.append({"@id": "#instrument", "@type": "Thing", "name": str(start["instrument"])})
    return {"@context": _CONTEXT, "@graph": graph}


def _summary(montage: Montage) -> str:
    sample = montage.start.get("sample")
    text = f"{len(montage)} frames of {len(montage.runs)} runs" + (f", sample {sample}" if sample else "")
    return text + ("; left out: " + "; ".join(montage.left_out) if montage.left_out else "")
