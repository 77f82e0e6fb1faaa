"""What is done before the first sample of a list: is it the right cassette, and what did a process leave?"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Generator, Mapping
from typing import Any, Final

import bluesky.plan_stubs as bps
import numpy as np
from bluesky.utils import Msg

from devices.camera.device import Camera
from devices.column.device import Column
from devices.errors import ConfigurationError, LimitError, MontangoError
from devices.loader.device import Loader
from plans.continued_list import check_frames, is_open
from plans.interrupted import close_interrupted
from plans.preprocessors import tolerate
from plans.resume import come_to_rest
from plans.sample_report import ListReport
from plans.specs.samples import SampleList
from plans.stubs.ask import ask, read_now
from plans.stubs.load import await_still, recover_loader
from plans.stubs.roi import Instruments

logger = logging.getLogger(__name__)

COLUMN_SETTINGS: Final = ("magnification", "illuminated_area_um", "image_shift_um", "beam_tilt_mrad")
CAMERA_SETTINGS: Final = ("binning",)
"""What plans change for a while and put back at their end, in the order in which it is put back."""


def check_loader(
    loader: Loader, spec: SampleList, report: ListReport, *, accept_changes: bool = False
) -> Generator[Msg, Any, None]:
    """Refuse a list whose slots or barcodes are not the loader's; nothing moves.

    A sample that an earlier process had loaded must have the barcode that it had then.

    Raises
    ------
    LimitError
        A slot does not exist.
    ConfigurationError
        A slot has another barcode.
    """
    slots = {slot.number: slot for slot in (yield from ask(loader.slots))}
    before = {one.name: one for one in report.samples if is_open(one) and one.load_number is not None}
    for sample in spec.samples:
        if sample.slot not in slots:
            raise LimitError(
                f"sample {sample.name!r}: slot = {sample.slot} is outside the loader's 1 to {len(slots)}"
            )
        found = slots[sample.slot].barcode
        if sample.barcode is not None and found != sample.barcode:
            raise ConfigurationError(
                f"sample {sample.name!r}: slot {sample.slot} has barcode {found!r}, not {sample.barcode!r}; "
                f"correct the list or the cassette"
            )
        earlier = before.get(sample.name)
        if earlier is not None and earlier.barcode != found and not accept_changes:
            raise ConfigurationError(
                f"sample {sample.name!r}: slot {sample.slot} has barcode {found!r}, and had "
                f"{earlier.barcode!r} when the list was begun; put the cassette back, or accept the change "
                f"with accept_changes=True (--accept-changes)"
            )


def read_settings(column: Column, camera: Camera) -> Generator[Msg, Any, dict[str, dict[str, Any]]]:
    """Return the settings of column and camera that plans change for a while, by device and attribute."""
    found: dict[str, dict[str, Any]] = {"column": {}, "camera": {}}
    for device, names, values in (
        (column, COLUMN_SETTINGS, found["column"]),
        (camera, CAMERA_SETTINGS, found["camera"]),
    ):
        for name in names:
            try:
                (value,) = yield from read_now(device, name)
            except MontangoError as error:
                logger.info("%s is not kept: %s", name, error)
            else:
                values[name] = value.tolist() if hasattr(value, "tolist") else value
    return found


def put_settings_back(
    column: Column, camera: Camera, settings: Mapping[str, Mapping[str, Any]]
) -> Generator[Msg, Any, None]:
    """Set what `read_settings` returned, with the beam blanked: a killed process did not."""
    yield from bps.abs_set(column.beam_blanked, True, wait=True)
    for kind, device, names in (("column", column, COLUMN_SETTINGS), ("camera", camera, CAMERA_SETTINGS)):
        values = settings.get(kind, {})
        for name in names:
            if name in values:
                value = np.asarray(values[name], float) if isinstance(values[name], list) else values[name]
                plan = bps.abs_set(getattr(device, name), value, wait=True)
                yield from tolerate(plan, f"putting {name} back")


def settle(
    loader: Loader, parts: Instruments, report: ListReport, timeout_s: float
) -> Generator[Msg, Any, None]:
    """Bring to rest what an engine that is gone left running, and to its end what it left in the journal.

    A sample that is on its way is waited for, one that jammed is brought back to its slot. ROIs whose frames
    are not all there any more are opened again in the account.

    Raises
    ------
    MontangoError
        An instrument does not answer, or a sample still moves after ``timeout_s``.
    """
    yield from come_to_rest(parts.sequencer, parts.camera)
    store = parts.options.get("calibrations")
    folder = store.folder if store is not None else None
    ended = yield from ask(
        lambda: asyncio.to_thread(close_interrupted, parts.journal_dir, parts.thresholds, folder)
    )
    logger.info("list %s: %d runs ended only now", report.name, len(ended))
    yield from ask(lambda: asyncio.to_thread(check_frames, report, parts.journal_dir))
    yield from await_still(loader, timeout_s)
    yield from recover_loader(loader, parts.column, parts.stage)
