"""Auto-exposure: the exposure time for a mean count, from a straight line through several."""

from __future__ import annotations

import itertools
from collections.abc import Generator
from typing import Any

import numpy as np
from bluesky.utils import Msg

from devices.camera.device import Camera
from devices.column.device import Column
from plans.calibrate.measurement import Calibrating, Measured, calibrate, check_between, failed
from plans.calibrations import Calibration, CalibrationStore
from plans.stubs.ask import read_now
from plans.stubs.snap import snap
from processing.kernels.calibration import fit_line

SATURATED_SHARE = 1e-3
"""A frame with more of its pixels saturated is not used."""


def calibrate_exposure(
    camera: Camera,
    column: Column,
    *,
    store: CalibrationStore,
    target_counts: float,
    exposure_times_s: tuple[float, ...] = (0.02, 0.04, 0.06, 0.08, 0.1),
    binning: int = 1,
    max_nonlinearity: float = 0.02,
    longest_s: float = 10.0,
    md: dict[str, Any] | None = None,
) -> Generator[Msg, Any, Calibration]:
    """Find the exposure time at which the mean of a frame is ``target_counts``, and check the line.

    Parameters
    ----------
    camera, column
        The instruments, with the illumination to calibrate, over the specimen.
    store
        Keeps the calibration.
    target_counts
        Mean of a frame that is wanted, counts; below the camera's full scale.
    exposure_times_s
        Exposures to measure, at least 3 different ones, s; those that saturate are left out.
    binning
        Of the frames.
    max_nonlinearity
        Largest residual of the line, over the span of the counts.
    longest_s
        Longest exposure to accept, s.
    md
        Metadata of the run.

    Returns
    -------
    Calibration
        ``exposure_time_s``, ``offset_counts``, ``counts_per_s``, ``target_counts``, ``reached_counts``.

    Raises
    ------
    LimitError
        The target is over full scale, or an exposure out of range; nothing is exposed.
    InstrumentFault
        Frames are dark, saturated or not linear in the exposure, or the target needs too long an exposure.

    Examples
    --------
    >>> RE(calibrate_exposure(camera, column, store=store, target_counts=20_000))  # doctest: +SKIP
    """
    (bits,) = yield from read_now(camera, "bit_depth")
    full = 2 ** int(bits) - 1
    check_between("target_counts", target_counts, 1, full, "counts")
    times = sorted(set(exposure_times_s))
    check_between("number of different exposure_times_s", len(times), 3, 100)
    for time_s in times:
        check_between("exposure_times_s", time_s, 1e-6, 600, "s")
    check_between("max_nonlinearity", max_nonlinearity, 1e-6, 1)

    def exposed(time_s: float) -> Generator[Msg, Any, tuple[float, bool]]:
        frame = yield from snap(camera, column, time_s, binning=binning)
        return float(frame.data.mean()), float(np.mean(frame.data >= full)) > SATURATED_SHARE

    def measure() -> Generator[Msg, Any, Measured]:
        counts: dict[float, float] = {}
        for time_s in times:
            mean, saturated = yield from exposed(time_s)
            if saturated:
                break
            counts[time_s] = mean
        if len(counts) < 3:
            raise failed(
                "exposure", f"{len(counts)} exposures are not saturated; take shorter exposure_times_s"
            )
        line = fit_line(list(counts), list(counts.values()))
        rising = all(a < b for a, b in itertools.pairwise(counts.values()))
        if not rising or line.nonlinearity > max_nonlinearity:
            raise failed(
                "exposure",
                f"counts are not linear in the exposure (residual {line.nonlinearity:.3f} of their span, "
                f"over max_nonlinearity = {max_nonlinearity:g}); is the beam on and steady?",
            )
        wanted_s = (target_counts - line.offset) / line.slope
        if not 0 < wanted_s <= longest_s:
            raise failed(
                "exposure",
                f"{target_counts:g} counts need {wanted_s:.3g} s, outside 0 to longest_s = {longest_s:g} s; "
                f"change the illumination",
            )
        reached, saturated = yield from exposed(wanted_s)
        if saturated:
            raise failed("exposure", f"at {wanted_s:.3g} s the bright parts saturate; lower target_counts")
        return Measured(
            {
                "exposure_time_s": wanted_s,
                "offset_counts": line.offset,
                "counts_per_s": line.slope,
                "target_counts": target_counts,
                "reached_counts": reached,
            },
            {"nonlinearity": line.nonlinearity, "target_relative": reached / target_counts - 1},
        )

    settings = {"exposure_times_s": times, "binning": binning, "target_counts": target_counts}
    on = Calibrating(camera, column, None, store, binning=binning)
    return (yield from calibrate("exposure", on, measure, md=md, settings=settings))
