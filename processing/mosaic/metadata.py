"""What a pyramid says of itself: OME-NGFF 0.5 multiscales, and where its pixels come from.

https://ngff.openmicroscopy.org/0.5/: a pixel of level l is 2^l pixels wide, and its centre lies half of that
less half a pixel of level 0 after the centre of pixel (0, 0) there. Lengths are in micrometer. Under the key
``montango`` stands the rest; see `group_metadata`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from importlib.metadata import version
from typing import Any, Final, Self

import numpy as np

from devices.errors import ConfigurationError
from processing.mosaic._layout import Layout

NGFF_VERSION: Final = "0.5"
KEY: Final = "montango"
FORMAT: Final = 1
"""Version of what stands under `KEY`."""
NO_DATA: Final = 0
_SOFTWARE: Final = ("montango", "numpy", "opencv-python-headless", "tensorstore")


@dataclass(frozen=True, slots=True)
class Geometry:
    """Where the pixels of a pyramid lie.

    Attributes
    ----------
    shape
        (y, x) of level 0, px.
    pixel_size_nm
        Size of a pixel of level 0, above 0.
    origin_px
        Mosaic coordinates (x, y) of the centre of pixel (0, 0) of level 0, whole numbers.
    translation_um
        Where the zero of the mosaic's coordinates lies, (x, y) along the mosaic's axes.
    """

    shape: tuple[int, int]
    pixel_size_nm: float
    origin_px: tuple[int, int] = (0, 0)
    translation_um: tuple[float, float] = (0.0, 0.0)

    def level_shape(self, level: int) -> tuple[int, int]:
        """Return (y, x) of a level: half of the one before, rounded up."""
        rows, columns = self.shape
        return -(-rows >> level), -(-columns >> level)

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON."""
        return {key: [*value] if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Return what `to_json` described."""
        rows, columns = values["shape"]
        x, y = values["origin_px"]
        u, v = values["translation_um"]
        return cls((rows, columns), float(values["pixel_size_nm"]), (x, y), (u, v))

    def scale_um(self, level: int) -> float:
        """Return the size of a level's pixel."""
        return self.pixel_size_nm * 1e-3 * (1 << level)

    def first_um(self, level: int) -> tuple[float, float]:
        """Return (x, y) of the centre of a level's pixel (0, 0)."""
        pixel_um, half = self.pixel_size_nm * 1e-3, ((1 << level) - 1) / 2
        x, y = (
            shift + pixel_um * (origin + half)
            for shift, origin in zip(self.translation_um, self.origin_px, strict=True)
        )
        return x, y


_RESERVED: Final = {"format", "no_data", "layout", *(one.name for one in fields(Geometry))}


def group_metadata(
    geometry: Geometry,
    paths: Sequence[str],
    layout: Layout,
    *,
    name: str,
    window: tuple[float, float] | None,
    provenance: Mapping[str, Any],
) -> dict[str, Any]:
    """Return the metadata of a pyramid's group.

    Parameters
    ----------
    geometry
        Where its pixels lie.
    paths
        Of its levels, level 0 first.
    layout
        How they are stored, for opening it again.
    name
        Of the image.
    window
        Counts shown as black and as white; None: the range of the dtype.
    provenance
        JSON: ``input_uids``, ``recipe``, ``parameters``, ``transforms`` and whatever else.

    Returns
    -------
    dict
        With attributes ``ome`` (multiscales and omero) and ``montango``: ``format``, ``no_data`` (pixels of
        this value have none), ``origin_px``, ``translation_um``, ``pixel_size_nm``, ``shape``, ``layout``,
        ``software`` and the provenance.
    """
    datasets = [
        {
            "path": path,
            "coordinateTransformations": [
                {"type": "scale", "scale": [geometry.scale_um(level)] * 2},
                {"type": "translation", "translation": [*reversed(geometry.first_um(level))]},
            ],
        }
        for level, path in enumerate(paths)
    ]
    axes = [{"name": axis, "type": "space", "unit": "micrometer"} for axis in ("y", "x")]
    limits = np.iinfo(layout.numpy_dtype)
    start, end = window or (limits.min, limits.max)
    channel = {
        "label": name,
        "active": True,
        "color": "FFFFFF",
        "coefficient": 1,
        "family": "linear",
        "inverted": False,
        "window": {"min": int(limits.min), "max": int(limits.max), "start": start, "end": end},
    }
    own = {
        "software": {one: version(one) for one in _SOFTWARE},
        **provenance,
        "format": FORMAT,
        "no_data": NO_DATA,
        **geometry.to_json(),
        "layout": layout.to_json(),
    }
    multiscale = {
        "name": name,
        "axes": axes,
        "datasets": datasets,
        "type": "mean of 2 x 2 pixels with data",
    }
    omero = {
        "name": name,
        "channels": [channel],
        "rdefs": {"model": "greyscale", "defaultT": 0, "defaultZ": 0},
    }
    ome = {"version": NGFF_VERSION, "multiscales": [multiscale], "omero": omero}
    return {"zarr_format": 3, "node_type": "group", "attributes": {"ome": ome, KEY: own}}


def provenance(own: Mapping[str, Any]) -> dict[str, Any]:
    """Return what was given as provenance out of what stands under `KEY`."""
    return {key: value for key, value in own.items() if key not in _RESERVED}


def own_attributes(group: Mapping[str, Any], where: object) -> dict[str, Any]:
    """Return what stands under `KEY` in a group's metadata.

    Raises
    ------
    ConfigurationError
        It is no pyramid of this kind, or of a newer format.
    """
    own = group.get("attributes", {}).get(KEY)
    if not isinstance(own, dict) or "layout" not in own or "ome" not in group["attributes"]:
        raise ConfigurationError(
            f"{where} is no mosaic of Montango: its attributes have no {KEY!r}, 'layout'"
        )
    if own["format"] > FORMAT:
        raise ConfigurationError(
            f"{where} has format {own['format']}, newer than {FORMAT}: install a newer Montango"
        )
    return own
