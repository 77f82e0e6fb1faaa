"""Frames for `montango bench qc`: drawn by the simulated camera in-process, or cut from recorded tiles."""

from __future__ import annotations

import dataclasses
import math
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, Protocol

import cv2
import numpy as np
import numpy.typing as npt

from devices.camera.driver import CameraSettings
from sim.config import CameraConfig, SimulationConfig, SpecimenConfig
from sim.exposure import DRIFT_BURST_UM, FOCUS_JUMP_UM, Shot, expose
from sim.faults import FAULT_NAMES, Fault
from sim.scene import Scene
from sim.specimen.sources import find_tiles, read_image
from sim.world import World

Counts = npt.NDArray[np.uint16]
SIDE_PX: Final = 512
ASTIGMATISM_UM: Final = 10.0
"""Of severity 1, difference of focus."""
_REACH_UM: Final = 60.0
"""Tiles of a montage are taken from the middle of the specimen."""
_STEP: Final = 0.9
"""Of a frame's width, between neighbours: an overlap of a tenth."""
_DOSE_E: Final = 800.0
"""Electrons a pixel of recorded tiles where they are white."""
_GAIN: Final = 14.0
_OFFSET: Final = 200.0
_READ_COUNTS: Final = 12.0
_UNCHANGED: Final = 0.9
_SECOND_LAYER: Final = 0.7
_DEFOCUS_PX, _BLUR_PX, _FADE, _LOST = 6.0, 24.0, 0.9, 0.6
"""What severity 1 is on recorded tiles: radius of the blur disc, length of the smear, share of the light and
of the lines that are lost."""


class Frames(Protocol):
    """Where clean and spoiled frames of one kind of specimen come from."""

    @property
    def name(self) -> str:
        """In words."""

    @property
    def faults(self) -> tuple[str, ...]:
        """What it can spoil a frame with."""

    def montage(self, seed: int, tiles: int) -> Iterator[Counts]:
        """Yield the clean tiles of a montage, (y, x) counts."""

    def spoiled(self, seed: int, fault: str, severity: float) -> Counts:
        """Return a tile with a fault ("": none) at place ``seed % 1000`` of montage ``seed // 1000``."""


class Simulated:
    """Tiles that the simulated camera draws of a specimen."""

    faults = (
        *("corrupted_frame", "beam_loss", "drift_burst", "charging", "debris", "fold", "focus_jump"),
        *("frozen_frame", "incomplete", "beam_edge", "astigmatism"),
    )

    def __init__(self, name: str, specimen: SpecimenConfig, side_px: int = SIDE_PX) -> None:
        self.name = name
        camera = CameraConfig(width_px=side_px, height_px=side_px)
        config = SimulationConfig(timing="fast", specimen=specimen, camera=camera)
        with tempfile.TemporaryDirectory() as folder:
            world = World.create(Path(folder) / "world", config)
            self._shot = expose(world, 0, 0.0, 0.1, 0.0)
            world.close()
        self._scene = Scene(config)
        self._step_um = _STEP * side_px * self._shot.pixel_size_nm * 1e-3

    def montage(self, seed: int, tiles: int) -> Iterator[Counts]:
        """Yield the clean tiles of a montage, row by row."""
        for tile in range(tiles):
            yield self._scene.render(self._at(seed, tile, tiles), CameraSettings())

    def spoiled(self, seed: int, fault: str, severity: float) -> Counts:
        """Return a tile with a fault of the simulator."""
        shot = self._at(seed // 1000, seed % 1000, 1000)
        shot = dataclasses.replace(shot, index=shot.index + 7)
        if fault in FAULT_NAMES:
            shot = dataclasses.replace(shot, faults=(Fault(fault, severity=severity),))
        if fault == "beam_edge":
            field = math.hypot(*self._scene.frame_shape) * shot.pixel_size_nm * 1e-3
            far, angle = shot.beam_radius_um + (severity - 0.5) * field, 1.7 * shot.index
            shot = dataclasses.replace(shot, beam_um=(far * math.cos(angle), far * math.sin(angle)))
        elif fault == "astigmatism":
            angle = 1.7 * shot.index
            strength = severity * ASTIGMATISM_UM
            components = (strength * math.cos(angle), strength * math.sin(angle))
            shot = dataclasses.replace(shot, astigmatism_um=components)
        elif fault == "beam_loss":
            shot = dataclasses.replace(shot, beam_on=False)
        elif fault == "focus_jump":
            shot = dataclasses.replace(shot, defocus_um=shot.defocus_um + severity * FOCUS_JUMP_UM)
        elif fault == "drift_burst":
            angle = 2.4 * shot.index
            length = severity * DRIFT_BURST_UM
            drift = (length * math.cos(angle), length * math.sin(angle))
            shot = dataclasses.replace(shot, drift_um=drift)
        frame = self._scene.render(shot, CameraSettings())
        return _cut_short(frame, severity) if fault == "incomplete" else frame

    def _at(self, seed: int, tile: int, tiles: int) -> Shot:
        """Return the exposure of a tile of a montage that lies anywhere on the specimen."""
        x, y = np.random.default_rng([seed, 5]).uniform(-_REACH_UM, _REACH_UM, 2)
        row, column = divmod(tile, max(1, math.isqrt(tiles)))
        return dataclasses.replace(
            self._shot,
            index=seed * 10_000 + tile,
            x_um=x + column * self._step_um,
            y_um=y + row * self._step_um,
        )


class Recorded:
    """Sub-tiles of recorded micrographs, exposed anew with the noise of another dose.

    A montage runs over the micrographs one by one, row by row, with an overlap of a tenth, as an acquisition
    of smaller frames would have. Montages differ by where the raster begins, by mirroring the whole of it,
    and by noise: lines stay lines, and tiles beside each other are neighbours. Sub-tiles of different
    montages share what they show; `scenes` is how many do not.
    """

    faults = ("defocus", "blur", "gain", "dropout", "incomplete")

    def __init__(self, name: str, images: Sequence[npt.NDArray[Any]], side_px: int = SIDE_PX) -> None:
        self.name = name
        self._images = [image.astype(np.float32) / float(np.iinfo(image.dtype).max) for image in images]
        self._side = side_px
        step = int(_STEP * side_px)
        self._places = [
            (number, row * step, column * step)
            for number, image in enumerate(self._images)
            for row in range((image.shape[0] - side_px) // step + 1)
            for column in range((image.shape[1] - side_px) // step + 1)
        ]

    @property
    def scenes(self) -> int:
        """How many sub-tiles the micrographs hold that show nothing in common but the overlap."""
        return len(self._places)

    def montage(self, seed: int, tiles: int) -> Iterator[Counts]:
        """Yield sub-tiles, row by row; begins anew, from another corner, when all have been shown."""
        for tile in range(tiles):
            yield _exposed(self._cut(seed, tile), [seed, tile])

    def spoiled(self, seed: int, fault: str, severity: float) -> Counts:
        """Return a sub-tile out of focus, smeared, with too little light or with lost lines."""
        rng = np.random.default_rng([seed, 9])
        part = self._cut(seed // 1000, seed % 1000)
        if fault == "defocus":
            part = cv2.filter2D(part, -1, _disc(severity * _DEFOCUS_PX), borderType=cv2.BORDER_REFLECT)
        elif fault == "blur":
            smear = _line(severity * _BLUR_PX, rng.uniform(0, math.pi))
            part = cv2.filter2D(part, -1, smear, borderType=cv2.BORDER_REFLECT)
        frame = _exposed(part, [seed, 3], 1 - _FADE * severity if fault == "gain" else 1.0)
        if fault == "incomplete":
            return _cut_short(frame, severity)
        if fault == "dropout":
            lost = max(1, int(severity * _LOST * len(frame)))
            first = int(rng.integers(0, len(frame) - lost + 1))
            frame[first : first + lost] = int(rng.choice([0, int(frame.mean()), int(frame.max())]))
        return frame

    def _cut(self, seed: int, tile: int) -> npt.NDArray[np.float32]:
        lap, place = divmod(tile, len(self._places))
        rng = np.random.default_rng([seed, lap])
        mirrored, turned = rng.random(2) < 0.5
        far = rng.random(2)
        number, y, x = self._places[-1 - place if mirrored else place]
        image = self._images[number]
        step = int(_STEP * self._side)
        top, left = (
            start + int(share * ((length - self._side) % step + 1))
            for start, share, length in zip((y, x), far, image.shape, strict=True)
        )
        part = image[top : top + self._side, left : left + self._side]
        return np.ascontiguousarray(part[:: -1 if mirrored else 1, :: -1 if turned else 1])


def has_tissue(frame: Counts) -> bool:
    """Whether a clean frame shows more than resin: blocks of a 64th of its side vary by a tenth (rms)."""
    blocks = cv2.resize(frame, (64, 64), interpolation=cv2.INTER_AREA)
    return bool(blocks.std() > 0.1 * blocks.mean())


def is_darker(frame: Counts, spoiled: Counts) -> bool:
    """Whether most of what a fault darkens has lost 30 % of its light, as under a second layer of tissue."""
    before, after = (
        cv2.resize(one, (64, 64), interpolation=cv2.INTER_AREA).astype(float) for one in (frame, spoiled)
    )
    left = after / np.maximum(before, 1.0)
    darkened = left < _UNCHANGED
    return bool(darkened.any() and np.median(left[darkened]) < _SECOND_LAYER)


def _cut_short(frame: Counts, severity: float) -> Counts:
    """Return a frame whose last lines, up to all but a tenth, were never read out."""
    frame[len(frame) - max(1, round(0.9 * severity * len(frame))) :] = 0
    return frame


def _exposed(image: npt.NDArray[np.float32], seed: list[int], light: float = 1.0) -> Counts:
    noise = np.random.default_rng(seed).standard_normal(image.shape, np.float32)
    electrons = np.maximum(image, 0) * (light * _DOSE_E)  # enough that Poisson's distribution is normal
    counts = electrons * _GAIN + np.sqrt(electrons * _GAIN**2 + _READ_COUNTS**2) * noise + _OFFSET
    return np.clip(counts, 0, 65535).astype(np.uint16)


def _disc(radius_px: float) -> npt.NDArray[np.float32]:
    reach = math.ceil(radius_px) + 1
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    disc = np.clip(radius_px + 0.5 - np.hypot(y, x), 0, 1)
    return np.asarray(disc / disc.sum(), np.float32)


def _line(length_px: float, angle_rad: float) -> npt.NDArray[np.float32]:
    reach = math.ceil(length_px / 2) + 1
    line = np.zeros((2 * reach + 1, 2 * reach + 1), np.float32)
    for at in np.linspace(-length_px / 2, length_px / 2, 8 * reach):
        y, x = reach + at * math.sin(angle_rad), reach + at * math.cos(angle_rad)
        i, j = int(y), int(x)
        for di, wy in ((0, 1 - y + i), (1, y - i)):
            for dj, wx in ((0, 1 - x + j), (1, x - j)):
                line[i + di, j + dj] += wy * wx
    return np.asarray(line / line.sum(), np.float32)


def sources(data: Path | None, side_px: int = SIDE_PX) -> list[Frames]:
    """Return procedural tissue and, where the data are there, the real mosaic and the recorded tiles.

    Parameters
    ----------
    data
        Folder with ``specimen`` (a micrograph) and folders of recorded tiles; None for none.
    side_px
        Width and height of the frames.
    """
    found: list[Frames] = [Simulated("procedural tissue", SpecimenConfig(), side_px)]
    if data is None or not data.is_dir():
        return found
    for path in sorted((data / "specimen").glob("*_u8.*"))[:1]:
        found.append(Simulated("real mosaic", SpecimenConfig(kind="image", file=path), side_px))
    for folder in sorted(data.glob("mussel/sample_*")):
        images = [read_image(path) for path in find_tiles(folder).values()]
        found.append(Recorded(f"real tiles {folder.name}", images, side_px))
    return found
