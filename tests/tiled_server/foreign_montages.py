"""Montages as other programs leave them: the frames of `tests.tiled_server.montages`, in their files."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any, Final

import cv2
import mrcfile
import numpy as np
import numpy.typing as npt
import tifffile

from tests.tiled_server.montages import COLUMNS, PITCH, PIXEL_UM, ROWS, SIZE, frame_of

PLACES: Final = [(row, column) for row in range(ROWS) for column in range(COLUMNS)]
TURN: Final = 175.5
"""``RotationAngle`` of the microscope, deg."""


def stage_of(row: int, column: int) -> tuple[float, float]:
    """Return the stage position of a tile as SerialEM has it, y up, um."""
    turn = np.radians(180 - TURN)
    x, y = PITCH * PIXEL_UM * column, PITCH * PIXEL_UM * row
    # px = (cos X + sin Y, sin X - cos Y) is its own inverse
    return (
        400.0 + float(np.cos(turn) * x + np.sin(turn) * y),
        -50.0 + float(np.sin(turn) * x - np.cos(turn) * y),
    )


def serialem(folder: Path, name: str = "gm", dtype: str = "i2") -> Path:
    """Write a stack and its ``.mdoc`` of 3 x 3 pieces; return the ``.mdoc``."""
    frames = np.stack([frame_of(*place)[::-1] for place in PLACES]).astype(dtype)
    with mrcfile.new(folder / f"{name}.mrc") as file:
        file.set_data(frames)
    head = (
        f"PixelSpacing = {PIXEL_UM * 1e4:g}\nVoltage = 120\nImageFile = {name}.mrc\n"
        f"ImageSize = {SIZE} {SIZE}\nMontage = 1\nDataMode = 1\n\n"
        "[T = SerialEM: TU Delft JEM-1400/HC w. F416                  05-Feb-20  14:41:21    ]\n\n"
    )
    text = [head, *(_piece(number, *place) for number, place in enumerate(PLACES))]
    (folder / f"{name}.mrc.mdoc").write_text("".join(text))
    return folder / f"{name}.mrc.mdoc"


def _piece(number: int, row: int, column: int) -> str:
    x, y = stage_of(row, column)
    return (
        f"[ZValue = {number}]\nPieceCoordinates = {PITCH * column} {PITCH * (ROWS - 1 - row)} 0\n"
        f"TiltAngle = -0.1\nStagePosition = {x:.9g} {y:.9g}\nStageZ = 45.1\nMagnification = 2250\n"
        f"Intensity = 0.83\nExposureDose = 0.5\nPixelSpacing = {PIXEL_UM * 1e4:g}\nSpotSize = 3\n"
        f"Defocus = {-1 - number / 10:g}\nImageShift = 0 0\nRotationAngle = {TURN}\nExposureTime = 0.2\n"
        f"Binning = 2\nMagIndex = 10\nTargetDefocus = -2\nDateTime = 05-Feb-20  14:42:{10 + number}\n\n"
    )


def pictures(folder: Path) -> Path:
    """Write a folder of PNG tiles named by row and column, from 1; return it."""
    folder.mkdir()
    for row, column in PLACES:
        cv2.imwrite(str(folder / f"tile_{row + 1}_{column + 1}.png"), frame_of(row, column))
    return folder


def listed(folder: Path) -> Path:
    """Write a folder of plain TIFF tiles with a list of positions in um; return it."""
    folder.mkdir()
    rows: list[dict[str, Any]] = []
    for number, (row, column) in enumerate(PLACES):
        name = f"{number:03d}.tif"
        tifffile.imwrite(folder / name, frame_of(row, column))
        rows.append(
            {
                "file": name, "x_um": 5 + PIXEL_UM * PITCH * column, "y_um": 7 + PIXEL_UM * PITCH * row,
                "row": row, "column": column, "defocus_um": -0.5 * number,
            }
        )  # fmt: skip
    with (folder / "positions.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return folder


def ome_tiff(path: Path) -> Path:
    """Write an OME-TIFF with an image a tile, compressed; return it."""
    with tifffile.TiffWriter(path, ome=True) as file:
        for row, column in PLACES:
            plane = {
                "PositionX": PIXEL_UM * 1e3 * PITCH * column, "PositionXUnit": "nm",
                "PositionY": PIXEL_UM * PITCH * row, "PositionYUnit": "µm",
                "ExposureTime": 250.0, "ExposureTimeUnit": "ms",
            }  # fmt: skip
            file.write(
                frame_of(row, column),
                compression="zlib",
                metadata={
                    "axes": "YX", "PhysicalSizeX": PIXEL_UM, "PhysicalSizeXUnit": "µm",
                    "PhysicalSizeY": PIXEL_UM, "PhysicalSizeYUnit": "µm", "Plane": plane,
                },
            )  # fmt: skip
    return path


def expected() -> npt.NDArray[np.uint16]:
    """Return the frames, (tile, y, x), by row and column."""
    return np.stack([frame_of(*place) for place in PLACES])
