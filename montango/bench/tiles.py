"""`montango bench tiles`: what the software costs per tile, and how near the cycle is to the ideal one."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Generator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import bluesky.plans as bp
import h5py
import numpy as np
import yaml
from bluesky.run_engine import RunEngine
from bluesky.utils import Msg

from montango.config import MontangoConfig, dump_config, load_config
from montango.lab import LabInfo, running_lab

SEQUENCED_LIMIT_MS, STEPPED_LIMIT_MS, CATALOG_LIMIT_MS, CYCLE_LIMIT = 1.0, 4.5, 1.0, 1.03
SIDE = 20
REAL_SIDE = 6


class Run(NamedTuple):
    """One montage: the times of its tiles in s, as arrays (tile,)."""

    cycle_s: np.ndarray[Any, np.dtype[np.float64]]
    move_s: np.ndarray[Any, np.dtype[np.float64]]
    settle_s: np.ndarray[Any, np.dtype[np.float64]]
    exposure_s: np.ndarray[Any, np.dtype[np.float64]]

    @property
    def median_ms(self) -> float:
        """Median time of a tile, ms."""
        return float(np.median(self.cycle_s)) * 1e3


def run() -> int:
    """Measure and print; the exit status is 1 if a limit is not kept."""
    kept = []
    with tempfile.TemporaryDirectory(prefix="montango-bench-") as folder:
        engine = RunEngine({})
        kept += _overhead(engine, Path(folder))
        kept += _cycle(engine, Path(folder))
    return 0 if all(kept) else 1


def _overhead(engine: RunEngine, folder: Path) -> list[bool]:
    """Software alone: no delays, frames of 64 x 64."""
    say("software per tile, 64 px frames, no simulated delays (median of the time between exposures)")
    with running_lab(_config(64, "fast"), folder / "fast", wait=True) as lab:
        info = lab.info()
        devices = instruments(info)
        _montage(engine, devices, mode="sequenced", side=5)  # everything connected, compiled, warm
        sequenced = _montage(engine, devices, mode="sequenced", side=SIDE)
        stepped = _montage(engine, devices, mode="stepped", side=SIDE)
        stock_ms = _stock(engine, info, folder / "stock")
        with_catalog = _with_session(engine, info, devices)
    rise_ms = with_catalog.median_ms - sequenced.median_ms
    say(f"  stock ophyd-async grid_scan       {stock_ms:7.2f} ms   (the peer, on the same servers)")
    return [
        limit("sequenced", sequenced.median_ms, SEQUENCED_LIMIT_MS, "ms", stock_ms),
        limit("stepped", stepped.median_ms, STEPPED_LIMIT_MS, "ms", stock_ms),
        limit("rise with journal, QC, catalog", rise_ms, CATALOG_LIMIT_MS, "ms"),
    ]


def _cycle(engine: RunEngine, folder: Path) -> list[bool]:
    """Real timing, 2048 x 2048 frames: cycle over max(move + settle, readout) + exposure."""
    config = _config(2048, "real")
    assert config.simulation is not None
    readout_s = config.simulation.readout_time_s
    say(f"cycle with real timing, 2048 px frames, readout {readout_s * 1e3:.0f} ms")
    with running_lab(config, folder / "real") as lab:
        info = lab.info()
        devices = instruments(info)
        _montage(engine, devices, mode="sequenced", side=2)
        run_ = _montage(engine, devices, mode="sequenced", side=REAL_SIDE, settle_s=0.05, exposure_time_s=0.1)
    ideal_s = np.maximum(run_.move_s + run_.settle_s, readout_s)[1:] + run_.exposure_s[:-1]
    ratio = float(run_.cycle_s.sum() / ideal_s.sum())
    for name, values in (("move", run_.move_s), ("settle", run_.settle_s), ("exposure", run_.exposure_s)):
        say(f"  {name:34s}{np.median(values) * 1e3:7.1f} ms")
    say(f"  {'cycle':34s}{run_.median_ms:7.1f} ms")
    return [limit("cycle / ideal pipelined cycle", ratio, CYCLE_LIMIT, "")]


def _config(frame_px: int, timing: str) -> MontangoConfig:
    data = yaml.safe_load(dump_config(load_config()))
    data["simulation"]["timing"] = timing
    data["simulation"]["camera"].update(width_px=frame_px, height_px=frame_px)
    data["paths"]["minimum_free_gb"] = 0.5
    data["lab"]["name"] = "bench"
    data["facility"]["ioc"] = None
    return MontangoConfig.model_validate(data)


def instruments(info: LabInfo) -> Any:
    """Return the instruments by name; the facility's signals are not read."""
    from profiles.simulated.devices import make_instruments

    column, stage, camera, sequencer = make_instruments(info)[:4]
    facility = SimpleNamespace(connected=False)
    return SimpleNamespace(column=column, stage=stage, camera=camera, sequencer=sequencer, facility=facility)


def _plan(devices: Any, mode: str, side: int, **spec: float) -> Generator[Msg, Any, Any]:
    from plans.montage import montage
    from plans.specs.montage import MontageSpec

    settings = {"settle_s": 0.0, "exposure_time_s": 0.001, **spec}
    made = MontageSpec(rows=side, columns=side, mode=mode, centre_um=(0.0, 0.0), **settings)  # type: ignore[arg-type]
    return (
        yield from montage(
            devices.sequencer, devices.camera, devices.column, devices.stage, made, minimum_free_gb=0.2
        )
    )


def _montage(engine: RunEngine, devices: Any, mode: str, side: int, **spec: float) -> Run:
    documents: list[tuple[str, Any]] = []
    token = engine.subscribe(lambda name, doc: documents.append((name, doc)))
    try:
        engine(_plan(devices, mode, side, **spec))
    finally:
        engine.unsubscribe(token)
    return read_times(documents)


def read_times(documents: list[tuple[str, Any]]) -> Run:
    """Return the times of the tiles, from the file that the documents name."""
    uri = next(doc["uri"] for name, doc in documents if name == "stream_resource")
    with h5py.File(uri.removeprefix("file://localhost"), "r", libver="latest", swmr=True) as file:
        group = file["/entry/tiles"]
        columns = [
            group[f"{name}_s"][:] for name in ("exposure_start", "move_time", "settle_time", "exposure_time")
        ]
    return Run(np.diff(columns[0]), *columns[1:])


def _stock(engine: RunEngine, info: LabInfo, folder: Path) -> float:
    """Return the median time of a tile of stock `grid_scan`, ms, from the times of its events."""
    from montango.bench._stock import stock_devices

    folder.mkdir()
    stage, camera = stock_devices(f"tango://{info.tango_host}/", dict(info.devices), folder)
    times: list[float] = []
    token = engine.subscribe(lambda _, doc: times.append(doc["time"]), "event")
    span = (SIDE - 1) / 2
    try:
        engine(
            bp.grid_scan([camera], stage.y, -span, span, SIDE, stage.x, -span, span, SIDE, snake_axes=True)
        )
    finally:
        engine.unsubscribe(token)
    return float(np.median(np.diff(times))) * 1e3


def _with_session(engine: RunEngine, info: LabInfo, devices: Any) -> Run:
    """Measure with everything that listens to a montage: journal, QC, overview, summary, catalog."""
    from montango.session import Session

    with Session(info, lambda _: devices, engine=engine) as session:
        measured = _montage(session.RE, devices, mode="sequenced", side=SIDE)
        started = time.monotonic()
        session.drain(120)
        say(f"  catalog complete {time.monotonic() - started:.1f} s after the montage")
    return measured


def limit(name: str, value: float, most: float, unit: str, peer: float | None = None) -> bool:
    """Print a figure beside its limit, as a ratio, and its peer; return whether it keeps the limit."""
    kept = value <= most
    beside = f"   {value / peer:5.2f} of stock" if peer else ""
    say(
        f"  {name:34s}{value:7.3f} {unit:2s}   limit {most:g} {unit:2s} ratio {value / most:5.2f}   "
        f"{'kept' if kept else 'NOT KEPT'}{beside}"
    )
    return kept


def say(line: str) -> None:
    """Print a line of the report."""
    print(line, flush=True)
