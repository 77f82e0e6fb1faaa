"""The specimen that synthetic montages are cut from: one large image in a memory-mapped file.

Laid out from recorded electron micrographs where their folder is known (the folder of the tests' data, which
holds ``mussel/sample_*/*.png``), otherwise drawn by the simulator. Both are 8-bit, seeded, and as large as
asked for.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import cv2
import numpy as np
import numpy.typing as npt

from sim.frame_geometry import BLOCK
from sim.sample import SpecimenConfig
from sim.specimen.tissue import Tissue

Grey = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
MEAN: Final = 140.0
CONTRAST: Final = 33.0
"""Grey values: the mean of a canvas, and the standard deviation of its patches."""
PATCH_PX: Final = 960
BLEND_PX: Final = 64
_PITCH_PX: Final = PATCH_PX - BLEND_PX
_TEXTURED: Final = 0.65
"""Least part of a patch that must show structure: some resin is kept."""
_PIXEL_NM: Final = 4.0
_STRIPE_PX: Final = 512
_SLOW_PX: Final = 200.0
_FINE_PX: Final = 1.0
"""Blur: the noise of the recorded frames would be a structure that all tiles share."""


def make_canvas(folder: Path, side_px: int, *, recorded: Path | None = None, seed: int = 0) -> Grey:
    """Return a canvas (y, x) of ``side_px`` a side, mapped from a file that is made where it is not there.

    Parameters
    ----------
    folder
        Where the file is kept.
    side_px
        At least 1024.
    recorded
        Folder of recorded data; None, or one without tiles: simulated tissue.
    seed
        Which canvas.
    """
    tiles = sorted(recorded.glob("mussel/sample_*/*.png")) if recorded is not None else []
    path = folder / f"canvas-{'recorded' if tiles else 'simulated'}-{side_px}-{seed}.npy"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        fresh = path.with_suffix(f".{os.getpid()}.npy")
        canvas = np.lib.format.open_memmap(fresh, "w+", np.uint8, (side_px, side_px))
        if tiles:
            _lay(canvas, _patches(tiles), seed)
        else:
            _draw(canvas, seed)
        canvas.flush()
        fresh.replace(path)
    mapped: Grey = np.load(path, mmap_mode="r")
    return mapped


def _patches(tiles: list[Path]) -> list[Floats]:
    """Return the structured corners of recorded tiles, evenly lit, around 0."""
    found: list[Floats] = []
    for path in tiles:
        image = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
        if image is None:
            raise ValueError(f"recorded tile {path} cannot be read; a PNG of grey values is needed")
        height, width = image.shape
        for y in (0, height - PATCH_PX):
            for x in (0, width - PATCH_PX):
                patch = image[y : y + PATCH_PX, x : x + PATCH_PX].astype(np.float32)
                patch = cv2.GaussianBlur(patch, (0, 0), _FINE_PX)
                cells = patch.reshape(PATCH_PX // 32, 32, PATCH_PX // 32, 32).std(axis=(1, 3))
                if np.mean(cells > 0.25 * CONTRAST) >= _TEXTURED:
                    small = cv2.resize(patch, (60, 60), interpolation=cv2.INTER_AREA)
                    small = cv2.GaussianBlur(small, (0, 0), _SLOW_PX * 60 / PATCH_PX)
                    patch -= cv2.resize(small, (PATCH_PX, PATCH_PX), interpolation=cv2.INTER_CUBIC)
                    patch *= CONTRAST / patch.std()
                    found.append(np.clip(patch, -110, 110))
    return found


def _lay(canvas: Grey, patches: list[Floats], seed: int) -> None:
    """Fill a canvas with patches in eight orientations, each blended into the next."""
    rng = np.random.default_rng([seed, 1])
    side = canvas.shape[0]
    count = -(-(side - BLEND_PX) // _PITCH_PX)
    rise = np.sin((np.arange(BLEND_PX) + 0.5) / BLEND_PX * np.pi / 2).astype(np.float32)
    edge = np.ones(PATCH_PX, np.float32)
    edge[:BLEND_PX], edge[-BLEND_PX:] = rise, rise[::-1]
    weight = np.outer(edge, edge)
    order: list[int] = []
    below = np.zeros((BLEND_PX, count * _PITCH_PX + BLEND_PX), np.float32)
    for row in range(count):
        stripe = np.zeros((PATCH_PX, below.shape[1]), np.float32)
        stripe[:BLEND_PX] = below
        for column in range(count):
            order = order or [int(n) for n in rng.permutation(8 * len(patches))]
            which, turn = divmod(order.pop(), 8)
            patch = np.rot90(patches[which], turn % 4)
            x = column * _PITCH_PX
            stripe[:, x : x + PATCH_PX] += (patch.T if turn >= 4 else patch) * weight
        below = stripe[_PITCH_PX:].copy()
        y = row * _PITCH_PX
        filled = canvas[y : y + (_PITCH_PX if row < count - 1 else PATCH_PX)]
        filled[:] = np.clip(stripe[: filled.shape[0], :side] + (MEAN + 0.5), 0, 255)


def _draw(canvas: Grey, seed: int) -> None:
    """Fill a canvas with simulated tissue."""
    # a tile of resin alone would have no truth that images could tell
    tissue = Tissue(1 + seed, SpecimenConfig(resin_fraction=0.0), texture_seed=1)
    side = canvas.shape[0]
    blocks = -(-side // BLOCK)
    x = np.arange(blocks + 1) * BLOCK * _PIXEL_NM
    scale = 0.0
    for top in range(0, side, _STRIPE_PX):
        rows = min(_STRIPE_PX, side - top)
        y = (top + np.arange(-(-rows // BLOCK) + 1) * BLOCK) * _PIXEL_NM
        grid = np.stack([np.broadcast_to(x, (y.size, x.size)), np.broadcast_to(y[:, None], (y.size, x.size))])
        drawn = np.empty((rows, side), np.float32)
        tissue.sample(grid, np.ones((y.size, x.size), np.float32), _PIXEL_NM, drawn)
        if not scale:
            scale, middle = CONTRAST / float(drawn.std()), float(drawn.mean())
        canvas[top : top + rows] = np.clip((drawn - middle) * scale + (MEAN + 0.5), 0, 255)
