"""`montango bench cycle [SIDE]`: a montage with everything on, and where the time of its tiles goes.

Real timing (the stage, exposure and readout of a fast TEM), QC, verdicts, focus on a schedule, journal and
catalog; then the same area by stage moves alone and with image-shift supertiles of 3 x 3.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from bluesky.run_engine import RunEngine

from devices.errors import ConfigurationError
from montango.bench.tiles import _config, instruments, limit, say
from montango.lab import running_lab
from montango.session import Session
from plans.calibrations import Calibration, CalibrationStore
from plans.specs.focus import FocusSpec
from plans.specs.montage import MontageSpec
from processing.callbacks.summary import MontageReport

SIDE: Final = 20
SUPERTILE: Final = 3
CYCLE_LIMIT: Final = 1.03
FRAME_PX: Final = 2048
SETTINGS: Final[dict[str, Any]] = {"exposure_time_s": 0.1, "settle_s": 0.05, "centre_um": (0.0, 0.0)}


def run(arguments: Sequence[str] = ()) -> int:
    """Measure and print; the exit status is 1 if the limit is not kept.

    Raises
    ------
    ConfigurationError
        The side is not a number of tiles.
    """
    side = _side(arguments)
    engine = RunEngine({})
    with (
        tempfile.TemporaryDirectory(prefix="montango-bench-") as folder,
        running_lab(_config(FRAME_PX, "real"), Path(folder) / "lab", wait=True) as lab,
    ):
        info = lab.info()
        devices = instruments(info)
        store = nominal_calibrations(Path(folder) / "calibrations", devices.camera.name)
        with Session(info, lambda _: devices, engine=engine) as session:
            acquire(session, devices, store, MontageSpec(rows=2, columns=2, **SETTINGS))  # all warm
            focus = FocusSpec(every_tiles=5 * side)
            spec = MontageSpec(rows=side, columns=side, focus=focus, **SETTINGS)
            say(
                f"{side} x {side} tiles of {FRAME_PX} px; QC, verdicts, focus every {5 * side} tiles, catalog"
            )
            ratio = tell(acquire(session, devices, store, spec))
            _compare(session, devices, store, side)
    return 0 if limit("cycle / ideal pipelined cycle", ratio, CYCLE_LIMIT, "") else 1


def _side(arguments: Sequence[str]) -> int:
    try:
        (side,) = [int(argument) for argument in arguments] or [SIDE]
    except ValueError:
        side = 0
    if not 2 <= side <= 100:
        raise ConfigurationError(
            f"montango bench cycle {' '.join(arguments)}: give the tiles along a side, 2 to 100, or nothing"
        )
    return side


def _compare(session: Any, devices: Any, store: CalibrationStore, side: int) -> None:
    """Acquire the same area by stage moves alone, and with supertiles."""
    count = max(1, side // (2 * SUPERTILE)) * SUPERTILE
    say(f"the same area, {count} x {count} tiles, without focus")
    seconds, exposed = [], []
    for supertile in ((1, 1), (SUPERTILE, SUPERTILE)):
        spec = MontageSpec(rows=count, columns=count, supertile=supertile, **SETTINGS)
        report = acquire(session, devices, store, spec)
        assert report.times is not None
        seconds.append(report.times.cycle[1])
        exposed.append(report.times.expose[1])
        name = "stage alone" if supertile == (1, 1) else f"supertiles of {SUPERTILE} x {SUPERTILE}"
        say(f"  {name:34s}{seconds[-1]:7.1f} s    duty cycle {exposed[-1] / seconds[-1]:.2f}")
        tell(report)
    gain = exposed[1] / seconds[1] / (exposed[0] / seconds[0])
    say(f"  {'gain in duty cycle':34s}{gain:7.2f} x   (public reference: 9 tiles a move double it)")


def acquire(session: Any, devices: Any, store: CalibrationStore, spec: MontageSpec) -> MontageReport:
    """Run a montage with all that listens, and return its report."""
    plan = session.montage(
        devices.sequencer, devices.camera, devices.column, devices.stage, spec, calibrations=store
    )
    session.RE(plan)
    started = time.monotonic()
    session.drain(120.0)
    say(f"  catalog complete {time.monotonic() - started:.1f} s after the montage")
    report: MontageReport = session.summary.result()
    return report


def tell(report: MontageReport) -> float:
    """Print where the time went; return the cycle over the ideal, focus and holds left out."""
    times = report.times
    assert times is not None
    waits = dict(report.waits_s)
    away = waits.get("focus", 0.0) + waits.get("hold", 0.0) + waits.get("recover", 0.0)
    cycle, software = times.cycle[1] - away, times.software[1] - away
    say(f"  {'':34s} median       total")
    for name, (median, total) in (
        ("cycle", (times.cycle[0], cycle)),
        ("move", times.move),
        ("settle", times.settle),
        ("expose", times.expose),
        ("readout not overlapped", times.readout),
        ("software", (times.software[0], software)),
    ):
        say(f"  {name:34s}{median * 1e3:7.1f} ms {total:8.2f} s")
    for name, spent in waits.items():
        say(f"  {name:34s}{'':10s} {spent:8.2f} s")
    say(f"  {'re-acquired':34s}{len(report.reacquired):7d}")
    return cycle / (cycle - software)


def nominal_calibrations(folder: Path, camera: str) -> CalibrationStore:
    """Return calibrations that say what the simulation has by default: image shift as it is asked for."""
    store = CalibrationStore(folder)
    store.add(
        Calibration(
            uid="nominal",
            kind="image_shift",
            made_at_s=time.time(),
            magnification=5000.0,
            high_voltage_kv=120.0,
            camera=camera,
            binning=1,
            values={"stage_per_shift": [[1.0, 0.0], [0.0, 1.0]], "limit_um": 15.0},
        )
    )
    return store
