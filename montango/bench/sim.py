"""How fast the simulated microscope draws: ``montango bench sim``."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from sim.camera import SimulatedCamera
from sim.config import CameraConfig, SimulationConfig, SpecimenConfig
from sim.stage import SimulatedStage
from sim.world import World

FRAME_LIMIT_MS = 60.0
OVERHEAD_LIMIT_MS = 0.3
_STEP_UM = 7.4


def _timed_ms(action: Callable[[], object], clock: Callable[[], float]) -> float:
    start = clock()
    action()
    return 1e3 * (clock() - start)


def frame_times_ms(folder: Path, specimen: SpecimenConfig, frames: int = 12) -> tuple[float, float, float]:
    """Return ``(open, new, seen)``: to open the camera, and medians of frames at new and at seen places, ms.

    Frames are 2048 x 2048 and timed in processor time, the opening in wall time.
    """
    path = folder / "world"
    World.create(path, SimulationConfig(timing="fast", specimen=specimen)).close()
    stage, camera = SimulatedStage(path), SimulatedCamera(path)
    opening = _timed_ms(camera.open, time.perf_counter)

    def frame(x_um: float) -> float:
        stage.start_move({"x_um": x_um, "y_um": 3.0})
        stage.wait_still(5.0)
        camera.expose()
        return _timed_ms(lambda: camera.read(5.0), time.process_time)

    places = [_STEP_UM * (index - frames / 2) for index in range(frames)]
    new = [frame(x_um) for x_um in places]
    seen = [frame(x_um) for x_um in places]
    return opening, statistics.median(new), statistics.median(seen)


def overhead_ms(folder: Path, exposures: int = 2000) -> tuple[float, float]:
    """Return ``(expose and read, move)``: medians of a 64-pixel camera without delays, ms."""
    path = folder / "world"
    specimen = SpecimenConfig(texture_px=1024)
    camera_config = CameraConfig(width_px=64, height_px=64)
    World.create(path, SimulationConfig(timing="fast", camera=camera_config, specimen=specimen)).close()
    stage, camera = SimulatedStage(path), SimulatedCamera(path)
    camera.open()

    def exposure() -> None:
        camera.expose()
        camera.read(5.0)

    moves, frames = [], []
    for index in range(exposures):
        target = {"x_um": 0.2 * (index % 1000), "y_um": 0.0}
        moves.append(_timed_ms(lambda target=target: stage.start_move(target), time.perf_counter))  # type: ignore[misc]
        frames.append(_timed_ms(exposure, time.perf_counter))
    return statistics.median(frames), statistics.median(moves)


def run() -> int:
    """Print the times beside their limits; return 0 if all are kept, else 1."""
    import cv2
    import tifffile

    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    kept = True
    try:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            picture = folder / "micrograph.tif"
            rng = np.random.default_rng(1)
            tifffile.imwrite(picture, rng.integers(0, 255, (4096, 4096), dtype=np.uint8))
            print("frame of 2048 x 2048, processor time of one core      ms   of the limit")
            for label, specimen in (
                ("tissue", SpecimenConfig()),
                ("image", SpecimenConfig(kind="image", file=picture, specimen_pixel_size_nm=8.0)),
            ):
                opening, new, seen = frame_times_ms(folder, specimen)
                for where, value in (("new place", new), ("seen place", seen)):
                    ratio = value / FRAME_LIMIT_MS
                    kept = kept and ratio <= 1.0
                    print(f"  {label + ', ' + where:44s} {value:9.1f}   {ratio:5.2f} x {FRAME_LIMIT_MS:g} ms")
                print(f"  {label + ', opening the camera (wall)':44s} {opening:9.1f}")
            frame, move = overhead_ms(folder)
            kept = kept and frame <= OVERHEAD_LIMIT_MS
            print(
                f"  64 px camera, expose + read (wall)           {frame:9.3f}   "
                f"{frame / OVERHEAD_LIMIT_MS:5.2f} x {OVERHEAD_LIMIT_MS:g} ms"
            )
            print(f"  64 px camera, start of a move (wall)         {move:9.3f}")
    finally:
        cv2.setNumThreads(threads)
    return 0 if kept else 1
