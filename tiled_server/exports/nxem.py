"""Frames as NeXus NXem: an event a run, its frames as one stack, and what was recorded of each beside it.

https://manual.nexusformat.org/classes/applications/NXem.html, definitions of 2024 and later. Three things
that NXem requires are taken from the metadata of the runs if they are there: ``simulated``,
``preparation_date`` and ``atom_types``; otherwise false, the start of the montage, "unknown".

HDF5 (h5py 3.16) crashes the process when it closes a file on a full disk. So the room is taken first, HDF5
writes everything but the pixels, and these go to their places in the file after it is closed.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import h5py
import numpy as np

from devices.errors import ConfigurationError
from devices.tiles import TILE_COLUMNS
from tiled_server.exports.montage import Montage, Run, setting
from tiled_server.exports.output import Progress

_LARGEST: Final = 2
"""Bytes of a pixel, at least: what is more is found when it is written."""
_ROW_BYTES: Final = 1500
_HEAD_BYTES: Final = 1 << 20
_STACK: Final = "stack_2d"
_TEXTS: Final = ("qc_state", "qc_decision", "faults", "run_uid")
_UNITS: Final = {column.name: (column.unit, column.description) for column in TILE_COLUMNS}
_UNKNOWN: Final = "unknown"


def write_nxem(montage: Montage, path: Path, progress: Progress) -> None:
    """Write all frames, an ``NXem_event_data`` a run.

    Raises
    ------
    OSError
        There is no room for it.
    """
    start = montage.start
    _take_room(path, len(montage) * (math.prod(montage.size_px) * _LARGEST + _ROW_BYTES) + _HEAD_BYTES)
    stacks: list[tuple[Montage, int, np.dtype[Any]]] = []
    with h5py.File(path, "w", libver="v110") as file:
        file.attrs.update({"NX_class": "NXroot", "default": "entry", "creator": "Montango"})
        file.attrs["file_time"] = _iso(datetime.now(UTC).timestamp())
        entry = _group(file, "entry", "NXentry", default="measurement")
        _fields(
            entry,
            definition="NXem",
            title=f"montage {montage.montage_id}",
            experiment_alias=montage.montage_id,
            start_time=_iso(start.get("time")),
            end_time=_iso(montage.runs[-1].stop.get("time")),
            experiment_description=str(start.get("notes", "")) or None,
            identifier_experiment=start.get("proposal"),
        )
        _sample(entry, start)
        if start.get("operator"):
            _fields(_group(entry, "user1", "NXuser"), name=str(start["operator"]))
        measurement = _group(entry, "measurement", "NXem_measurement", default="event1")
        _instrument(measurement, montage)
        used = [run for run in montage.runs if (montage.table["run_uid"] == run.uid).any()]
        for number, run in enumerate(used, 1):
            own = montage.table[montage.table["run_uid"] == run.uid].reset_index(drop=True)
            event = _group(measurement, f"event{number}", "NXem_event_data", default="image1")
            part = replace(montage, table=own)
            stacks.append((part, *_event(event, part, run, number)))
    with path.open("r+b") as pixels:
        os.posix_fallocate(pixels.fileno(), 0, path.stat().st_size)
        for part, offset, dtype in stacks:
            pixels.seek(offset)
            for image in part.images():
                if image.dtype != dtype:
                    raise ConfigurationError(f"frames of one run are {dtype} and {image.dtype}")
                pixels.write(np.ascontiguousarray(image, dtype).data)
                progress.step(image.nbytes)


def _take_room(path: Path, size: int) -> None:
    """Make sure that a file of a size can be written."""
    with path.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, size)


def _sample(entry: h5py.Group, start: Mapping[str, Any]) -> None:
    sample = _group(entry, "sample1", "NXsample")
    _fields(
        sample,
        is_simulation=bool(start.get("simulated", False)),
        name=str(start.get("sample", _UNKNOWN)),
        preparation_date=str(start.get("preparation_date") or _iso(start.get("time"))),
        atom_types=str(start.get("atom_types", _UNKNOWN)),
        physical_form="thin_film",
        identifier_sample=str(start.get("sample", _UNKNOWN)),
    )
    sample["identifier_sample"].attrs["type"] = "name"


def _instrument(measurement: h5py.Group, montage: Montage) -> None:
    """Write what does not change during a session."""
    name = str(montage.start.get("instrument", _UNKNOWN))
    instrument = _group(measurement, "instrument", "NXem_instrument")
    _fields(instrument, name=name, type="tem")
    made = _group(instrument, "fabrication", "NXfabrication")
    _fields(made, vendor=str(montage.start.get("vendor", _UNKNOWN)), model=name)
    program = _group(instrument, "program1", "NXprogram")
    _fields(program, program="Montango")
    program["program"].attrs["version"] = version("montango")
    source = _group(_group(instrument, "ebeam_column", "NXebeam_column"), "electron_source", "NXsource")
    _fields(source, emitter_type=str(montage.start.get("emitter_type", _UNKNOWN)), probe="electron")
    detector = _group(instrument, "detector1", "NXdetector")
    _fields(detector, name="camera", bit_depth_readout=setting(montage.settings, "bit_depth"))


def _event(event: h5py.Group, montage: Montage, run: Run, number: int) -> tuple[int, np.dtype[Any]]:
    """Write an event; return where in the file its pixels go, and their type."""
    times = montage.column("exposure_start_s")
    ends = times + montage.column("exposure_time_s")
    known = times[np.isfinite(times)]
    _fields(
        event,
        start_time=_iso(known.min() if known.size else run.start.get("time")),
        end_time=_iso(np.nanmax(ends) if np.isfinite(ends).any() else run.stop.get("time")),
        identifier_event=number,
        identifier_sample="sample1",
        type="montage",
        uid=run.uid,
    )
    _settings(_group(event, "instrument", "NXem_instrument"), montage, run)
    image = _group(event, "image1", "NXimage", default=_STACK)
    stack = _group(image, _STACK, "NXdata")
    _recorded(_group(image, "tiles", "NXcollection"), montage)
    return _stack(stack, montage, run)


def _settings(instrument: h5py.Group, montage: Montage, run: Run) -> None:
    nm, angle = run.calibration
    found = run.settings
    column = _group(instrument, "ebeam_column", "NXebeam_column")
    voltage = setting(found, "high_voltage_kv")
    if voltage is not None:
        source = _group(column, "electron_source", "NXsource")
        _numbers(source, voltage=(float(voltage) * 1e3, "V"))
    optics = _group(instrument, "optics", "NXem_optical_system")
    dose, time = montage.column("dose_e_per_a2"), montage.column("exposure_time_s")
    rate = dose[time > 0] / time[time > 0]
    _numbers(
        optics,
        magnification=(setting(found, "magnification"), ""),
        defocus=(setting(found, "defocus_um"), "um"),
        camera_length=(setting(found, "camera_length_mm"), "mm"),
        field_of_view=(run.size_px[0] * nm * 1e-3, "um"),
        rotation=(math.degrees(angle), "deg"),
        dose_rate=(float(np.median(rate)) if rate.size else None, "1/(angstrom^2*s)"),
    )
    stage = _group(instrument, "stage1", "NXmanipulator")
    _numbers(
        stage,
        tilt1=(setting(found, "alpha_deg") or 0.0, "deg"),
        tilt2=(setting(found, "beta_deg") or 0.0, "deg"),
        rotation=(0.0, "deg"),
    )
    place = np.stack([montage.column(name) for name in ("x_um", "y_um", "z_um")], -1)
    stage["position"] = place
    stage["position"].attrs["units"] = "um"
    _fields(_group(instrument, "detector1", "NXdetector"), operation_mode="integrating")


def _stack(stack: h5py.Group, montage: Montage, run: Run) -> tuple[int, np.dtype[Any]]:
    width, height = run.size_px
    nm, _ = run.calibration
    stack.attrs["signal"] = "real"
    stack.attrs["axes"] = ["indices_image", "axis_j", "axis_i"]
    for axis, name in enumerate(("indices_image", "axis_j", "axis_i")):
        stack.attrs[f"{name}_indices"] = np.uint32(axis)
    stack["title"] = f"frames of run {run.uid}"
    stack["indices_image"] = np.arange(len(montage), dtype=np.int64)
    stack["indices_image"].attrs["long_name"] = "frame, in the order of the table tiles"
    for name, size, text in (("axis_j", height, "y, down"), ("axis_i", width, "x, right")):
        stack[name] = np.arange(size) * nm
        stack[name].attrs.update({"units": "nm", "long_name": f"{text}, of the frame (nm)"})
    dtype = next(montage.frames()).read().dtype.newbyteorder("<")
    dataset = _uninitialised(stack, "real", (len(montage), height, width), dtype)
    dataset.attrs.update({"long_name": "counts of the camera", "units": "counts"})
    return dataset.id.get_offset(), dtype


def _uninitialised(
    group: h5py.Group, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]
) -> h5py.Dataset:
    """Return a dataset that has its place in the file, in one piece, and no values."""
    creation = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    creation.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    creation.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    kind, space = h5py.h5t.py_create(dtype, logical=True), h5py.h5s.create_simple(shape)
    return h5py.Dataset(h5py.h5d.create(group.id, name.encode(), kind, space, creation))


def _recorded(group: h5py.Group, montage: Montage) -> None:
    """Write the table, a dataset a column, in the order of the frames."""
    for name in montage.table.columns:
        if name in _TEXTS:
            group.create_dataset(
                name, data=[str(one) for one in montage.table[name]], dtype=h5py.string_dtype()
            )
            continue
        values = montage.column(str(name))
        if not np.isfinite(values).any():
            continue
        group[name] = values
        unit, about = _UNITS.get(str(name), ("", ""))
        group[name].attrs.update({"units": unit, "long_name": about or str(name)})


def _group(parent: h5py.Group, name: str, kind: str, *, default: str = "") -> h5py.Group:
    group = parent.create_group(name)
    group.attrs["NX_class"] = kind
    if default:
        group.attrs["default"] = default
    return group


def _fields(group: h5py.Group, **values: Any) -> None:
    for name, value in values.items():
        if value is not None:
            group[name] = value


def _numbers(group: h5py.Group, **values: tuple[Any, str]) -> None:
    for name, (value, unit) in values.items():
        if value is not None:
            group[name] = float(value)
            if unit:
                group[name].attrs["units"] = unit


def _iso(unix_s: Any) -> str | None:
    return None if unix_s is None else datetime.fromtimestamp(float(unix_s), UTC).isoformat()
