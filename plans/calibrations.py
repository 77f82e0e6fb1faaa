"""Calibrations: what was measured, of what, when and how well; and the folder that keeps them.

A calibration is one JSON file, its arrays an ``.npz`` beside it. Files are never changed: a new measurement
is a new calibration, and runs name the one they used by its uid. A file is written under a temporary name,
flushed to the disk and renamed, arrays before their calibration: at whatever byte the process or the machine
dies, the calibration is there whole or not at all.
"""

from __future__ import annotations

import logging
import math
import os
import secrets
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple, get_args

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from devices.errors import ConfigurationError

logger = logging.getLogger(__name__)

CalibrationKind = Literal[
    "stage_camera",
    "image_shift",
    "dark",
    "bright",
    "exposure",
    "beam",
    "aperture",
    "backlash",
    "distortion",
]
KINDS: Final[tuple[CalibrationKind, ...]] = get_args(CalibrationKind)
EXPOSURE_TOLERANCE: Final = 0.01
"""How far, relative, the exposure of a dark reference may be from that of a frame."""
Value = float | list[float] | list[list[float]]


class Kind(NamedTuple):
    """What a kind of calibration is, which plan makes it, and which settings it holds for."""

    title: str
    plan: str
    magnification: bool
    camera: bool
    binning: bool
    exposure: bool = False


class Settings(NamedTuple):
    """What a calibration is wanted for; None: whatever."""

    magnification: float | None = None
    camera: str | None = None
    binning: int | None = None
    exposure_time_s: float | None = None


ABOUT: Final[Mapping[CalibrationKind, Kind]] = {
    "stage_camera": Kind("pixel size and rotation", "calibrate_stage_camera", True, True, False),
    "image_shift": Kind("image-shift matrix", "calibrate_image_shift", True, True, False),
    "dark": Kind("dark reference", "calibrate_dark", False, True, True, exposure=True),
    "bright": Kind("bright reference", "calibrate_bright", True, True, True),
    "exposure": Kind("exposure time", "calibrate_exposure", True, True, True),
    "beam": Kind("beam centre and diameter", "calibrate_beam", True, True, False),
    "aperture": Kind("aperture centroid and edge", "calibrate_aperture", False, False, False),
    "backlash": Kind("backlash of the stage", "calibrate_backlash", False, False, False),
    "distortion": Kind("distortion of the camera's field", "calibrate_distortion", True, True, False),
}
"""A matrix is kept for unbinned pixels, so it holds for every binning."""


class Calibration(BaseModel):
    """One measurement; ``values`` and ``residuals`` end in their unit.

    Lengths are those of the specimen, in stage coordinates; pixels are unbinned pixels of the camera.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    uid: str = Field(min_length=1, description="uid of the run that measured it")
    kind: CalibrationKind
    made_at_s: float = Field(gt=0, allow_inf_nan=False, description="Unix time, s")
    magnification: float = Field(gt=0)
    high_voltage_kv: float = Field(ge=0)
    camera: str = Field(min_length=1, description="name of the camera")
    binning: int = Field(ge=1)
    values: dict[str, Value]
    residuals: dict[str, float] = Field(default_factory=dict)
    arrays: Path | None = Field(default=None, description="the .npz beside it")

    def number(self, name: str) -> float:
        """Return a value that is one number.

        Raises
        ------
        ConfigurationError
            There is no such number in this calibration.
        """
        value = self.values.get(name)
        if not isinstance(value, int | float):
            raise ConfigurationError(self._lacks(name))
        return float(value)

    def matrix(self, name: str) -> tuple[tuple[float, float], tuple[float, float]]:
        """Return a value that is a 2 x 2 matrix, by rows.

        Raises
        ------
        ConfigurationError
            There is no such matrix in this calibration.
        """
        try:
            value = np.asarray(self.values.get(name, math.nan), float)
        except ValueError:  # rows of different lengths
            value = np.empty(0)
        if value.shape != (2, 2):
            raise ConfigurationError(self._lacks(name))
        (a, b), (c, d) = value.tolist()
        return (a, b), (c, d)

    def load(self) -> dict[str, npt.NDArray[np.float32]]:
        """Return the arrays by name.

        Raises
        ------
        ConfigurationError
            It has none, or their file is missing or damaged.
        """
        if self.arrays is None:
            raise ConfigurationError(f"calibration {self.kind} {self.uid} has no arrays")
        try:
            with self.arrays.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
                return {name: file[name] for name in file.files}
        except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
            raise ConfigurationError(
                f"the arrays {self.arrays} of calibration {self.kind} cannot be read ({error}); "
                f"run {ABOUT[self.kind].plan} again"
            ) from error

    def _lacks(self, name: str) -> str:
        return f"calibration {self.kind} {self.uid} has no {name}; run {ABOUT[self.kind].plan} again"


class CalibrationStore:
    """The calibrations of an instrument: a folder.

    Parameters
    ----------
    folder
        Where they are; made with the first one.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)

    def add(
        self, calibration: Calibration, arrays: Mapping[str, npt.NDArray[Any]] | None = None
    ) -> Calibration:
        """Keep a calibration with its arrays; it is on the disk when this returns.

        Returns
        -------
        Calibration
            As it is kept: with the path of its arrays.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        stem = f"{calibration.kind}-{calibration.made_at_s:.3f}-{calibration.uid}"
        if arrays:
            path = self.folder / f"{stem}.npz"
            _write(path, lambda file: np.savez(file, **arrays))  # type: ignore[arg-type]
            calibration = calibration.model_copy(update={"arrays": path})
        kept = calibration.model_copy(
            update={"arrays": Path(calibration.arrays.name) if calibration.arrays else None}
        )
        text = kept.model_dump_json(indent=1).encode()
        _write(self.folder / f"{stem}.json", lambda file: file.write(text))
        return calibration

    def __iter__(self) -> Iterator[Calibration]:
        """Yield every calibration, newest first; a file that is none is left out and logged."""
        found = [self._read(path) for path in self.folder.glob("*.json")]
        yield from sorted((one for one in found if one), key=lambda one: one.made_at_s, reverse=True)

    def get(self, uid: str) -> Calibration:
        """Return the calibration that a run measured.

        Raises
        ------
        ConfigurationError
            There is none of that uid.
        """
        for one in self:
            if one.uid == uid:
                return one
        raise ConfigurationError(f"there is no calibration of run {uid} in {self.folder}")

    def newest(
        self,
        kind: CalibrationKind,
        *,
        magnification: float | None = None,
        camera: str | None = None,
        binning: int | None = None,
        exposure_time_s: float | None = None,
    ) -> Calibration | None:
        """Return the newest calibration of a kind that holds for these settings, or None.

        A setting that is None, or that the kind does not depend on (`ABOUT`), is not compared.
        """
        wanted = Settings(magnification, camera, binning, exposure_time_s)
        return next((one for one in self._of(kind) if not misfits(one, wanted)), None)

    def require(
        self,
        kind: CalibrationKind,
        *,
        magnification: float | None = None,
        camera: str | None = None,
        binning: int | None = None,
        exposure_time_s: float | None = None,
        max_age_s: float = math.inf,
    ) -> Calibration:
        """Return the newest calibration of a kind that holds for these settings and is no older than allowed.

        Raises
        ------
        ConfigurationError
            Naming the kind, what it is needed for, why none will do, and the plan that makes it.
        """
        about, wanted = ABOUT[kind], Settings(magnification, camera, binning, exposure_time_s)
        held = self._of(kind)
        one = next((one for one in held if not misfits(one, wanted)), None)
        if one is None:
            reason = "it was never made"
            if held:
                reason = f"the newest is for {' and '.join(misfits(held[0], wanted))}"
        else:
            age_s = time.time() - one.made_at_s
            if age_s <= max_age_s:
                return one
            reason = f"the newest is stale: {age_s / 3600:.2g} h old, over {max_age_s / 3600:.2g} h"
        raise ConfigurationError(
            f"calibration {kind} ({about.title}) {_wanted(about, wanted)}is missing: {reason}; "
            f"run {about.plan}"
        )

    def _of(self, kind: CalibrationKind) -> list[Calibration]:
        return [one for one in self if one.kind == kind]

    def _read(self, path: Path) -> Calibration | None:
        try:
            one = Calibration.model_validate_json(path.read_bytes())
        except (OSError, ValidationError) as error:
            logger.warning("%s is no calibration and is left out: %s", path, str(error).splitlines()[0])
            return None
        return one.model_copy(update={"arrays": self.folder / one.arrays.name}) if one.arrays else one


def misfits(one: Calibration, wanted: Settings) -> list[str]:
    """Return what of a calibration is of other settings than those wanted, in words."""
    about = ABOUT[one.kind]
    wrong = []
    same = wanted.magnification is None or math.isclose(one.magnification, wanted.magnification, rel_tol=1e-6)
    if about.magnification and not same:
        wrong.append(f"magnification {one.magnification:g}")
    if about.camera and wanted.camera is not None and one.camera != wanted.camera:
        wrong.append(f"camera {one.camera}")
    if about.binning and wanted.binning is not None and one.binning != wanted.binning:
        wrong.append(f"binning {one.binning}")
    if about.exposure and wanted.exposure_time_s is not None:
        exposure_s = one.number("exposure_time_s")
        if not math.isclose(exposure_s, wanted.exposure_time_s, rel_tol=EXPOSURE_TOLERANCE):
            wrong.append(f"exposure_time_s {exposure_s:g}")
    return wrong


def _wanted(about: Kind, wanted: Settings) -> str:
    named = zip(Settings._fields, wanted, strict=True)
    matters = (about.magnification, about.camera, about.binning, about.exposure)
    words = [
        f"{name} {value if isinstance(value, str) else f'{value:g}'}"
        for matter, (name, value) in zip(matters, named, strict=True)
        if matter and value is not None
    ]
    return f"for {', '.join(words)} " if words else ""


def _write(path: Path, write: Callable[[Any], object]) -> None:
    """Write a file whole: under another name, flushed, then renamed; the folder is flushed too."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    try:
        with fresh.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
    finally:
        fresh.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
