"""Folders of tiles cut from a specimen at known places."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import cv2
import mrcfile
import numpy as np
import numpy.typing as npt

from tests.processing.specimens import tissue

WIDTH: Final = 320
HEIGHT: Final = 288
STEP: Final = (256, 224)
Frame = npt.NDArray[Any]


def cut(rows: int, columns: int, seed: int = 1) -> tuple[list[Frame], npt.NDArray[np.int64]]:
    """Return tiles (row by row, uint8) and places of their first pixels, (n, 2), 0 to 16 px off the grid."""
    rng = np.random.default_rng(seed)
    shape = rows * STEP[1] + HEIGHT + 40, columns * STEP[0] + WIDTH + 40
    specimen = cv2.GaussianBlur(tissue(shape, seed), (0, 0), 1.0)
    grid = np.array([(c * STEP[0], r * STEP[1]) for r in range(rows) for c in range(columns)])
    true = grid + rng.integers(0, 17, grid.shape)
    frames = []
    for x, y in true:
        seen = specimen[y : y + HEIGHT, x : x + WIDTH]
        frames.append(np.clip(110 * seen + 10 + rng.normal(0, 2, seen.shape), 1, 255).astype(np.uint8))
    return frames, true


def write_folder(folder: Path, frames: list[Frame], columns: int, name: str = "s_{row}_{column}.png") -> None:
    """Write tiles as images named by row and column from 1."""
    folder.mkdir(parents=True, exist_ok=True)
    for k, frame in enumerate(frames):
        path = folder / name.format(row=k // columns + 1, column=k % columns + 1)
        assert cv2.imwrite(str(path), frame)


def write_mdoc(folder: Path, frames: list[Frame], rows: int, columns: int) -> Path:
    """Write a SerialEM montage: y of piece coordinates up, rows of the stack from the bottom."""
    lines = ["PixelSpacing = 40", "ImageFile = map.st", f"ImageSize = {WIDTH} {HEIGHT}", "Montage = 1", ""]
    for k in range(len(frames)):
        row, column = divmod(k, columns)
        place = f"{column * STEP[0]} {(rows - 1 - row) * STEP[1]} 0"
        lines += [f"[ZValue = {k}]", f"PieceCoordinates = {place}", "StagePosition = 1 2", "StageZ = 3", ""]
    with mrcfile.new(folder / "map.st", overwrite=True) as file:
        file.set_data(np.stack([frame[::-1] for frame in frames]).astype(np.int16))
    path = folder / "map.st.mdoc"
    path.write_text("\n".join(lines))
    return path


def worst_px(positions: npt.NDArray[np.float64], true: npt.NDArray[np.int64]) -> float:
    """Return the largest error of positions (n, 2), without a common shift."""
    error = positions - true
    return float(np.abs(error - np.median(error, 0)).max())
