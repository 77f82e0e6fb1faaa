"""Images to test image processing with: tissue-like, resin-like, and real micrographs."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

Image = npt.NDArray[np.float32]
REAL = Path(__file__).parents[3] / "shared" / "data" / "mussel"


def tissue(shape: tuple[int, int], seed: int = 0) -> Image:
    """Return dark membranes around bright cells with grey organelles, 0 to 1: edges a pixel or two wide."""
    rng = np.random.default_rng(seed)

    def blobs(scale_px: float) -> Image:
        noise = rng.standard_normal(shape).astype(np.float32)
        smooth = cv2.GaussianBlur(noise, (0, 0), scale_px, borderType=cv2.BORDER_REFLECT)
        return np.asarray(smooth / smooth.std(), np.float32)

    cells, organelles = blobs(12), blobs(4)
    image = np.where(np.abs(cells) < 0.12, 0.3, 0.9) - 0.35 * (organelles > 1.1)
    smooth = cv2.GaussianBlur(image.astype(np.float32), (0, 0), 0.6)
    return np.clip(np.asarray(smooth, np.float32), 0.05, 1)


def resin(shape: tuple[int, int], shading: float = 0.1) -> Image:
    """Return structureless resin under a beam that falls off to one side, 0 to 1."""
    ramp = np.linspace(1 - shading, 1, shape[1], dtype=np.float32)
    return np.broadcast_to(0.9 * ramp, shape).astype(np.float32)


def expose(
    image: Image, seed: int = 0, electrons: float = 2000, blur_px: float = 0
) -> npt.NDArray[np.uint16]:
    """Return counts of an exposure: blur, shot noise, read noise, an offset of 200 counts."""
    rng = np.random.default_rng(seed)
    seen = cv2.GaussianBlur(image, (0, 0), blur_px) if blur_px else image
    counts = rng.poisson(np.clip(seen, 0, None) * electrons) * 12 + 200 + rng.normal(0, 12, image.shape)
    return np.clip(counts, 0, 65535).astype(np.uint16)


def real_tiles(sample: int) -> list[Image]:
    """Return the tiles of a real montage, row by row, 0 to 1; empty where the data are not there."""
    paths = sorted((REAL / f"sample_{sample}").glob("*.png"))
    images = [cv2.imread(str(path), cv2.IMREAD_GRAYSCALE) for path in paths]
    return [(image / 255 * 0.7 + 0.3).astype(np.float32) for image in images if image is not None]
