"""The demonstration: a whole laboratory, one montage, a report, and everything stopped again."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from devices.errors import ConfigurationError, MontangoError
from montango.config import MontangoConfig, dump_config, load_config
from montango.lab import Lab, LabInfo, running_lab

DEMO_STATE = "montango-demo"
DEMO_ROWS, DEMO_COLUMNS = 5, 6
MICROGRAPH_FRAME_PX = 1024
SPOILED_TILE = 13
CATALOG_TIMEOUT_S = 120.0


@dataclass(frozen=True)
class DemoOptions:
    """What `montango demo` was asked for; None leaves a choice to the demonstration."""

    state: Path
    config: Path | None = None
    specimen: Path | None = None
    replay: Path | None = None
    rows: int | None = None
    columns: int | None = None
    overlap: float = 0.1
    pixels: int | None = None
    fast: bool = False
    fault: bool = True


def run_demo(options: DemoOptions, say: Callable[[str], None] = print) -> None:
    """Run the demonstration and print its report.

    Raises
    ------
    MontangoError
        What went wrong, in one line; nothing is left running.
    """
    spec, config = plan_demo(options)
    say(f"starting a laboratory in {options.state}")
    with running_lab(config, options.state, report=lambda line: say(f"  {line}")) as lab:
        _acquire(lab, config, spec, options, say)
    say("everything is stopped")


def plan_demo(options: DemoOptions) -> tuple[Any, MontangoConfig]:
    """Return the montage's specification and the laboratory's configuration.

    Raises
    ------
    ConfigurationError
        The micrograph or the folder of tiles cannot be used, or an option is out of its range.
    """
    from pydantic import ValidationError

    from plans.specs.montage import MontageSpec

    rows, columns = options.rows or DEMO_ROWS, options.columns or DEMO_COLUMNS
    simulation: dict[str, Any] = {"timing": "fast" if options.fast else "real"}
    pixels, driver = options.pixels, None
    if options.specimen is not None and options.replay is not None:
        raise ConfigurationError("--specimen and --replay exclude each other; give one of them")
    if options.specimen is not None:
        pixels = pixels or MICROGRAPH_FRAME_PX
        height, width = _micrograph_shape(options.specimen)
        rows = options.rows or _tiles_in(height, pixels, options.overlap)
        columns = options.columns or _tiles_in(width, pixels, options.overlap)
        simulation["specimen"] = {"kind": "image", "file": str(options.specimen.absolute())}
        simulation["camera"] = {"width_px": pixels, "height_px": pixels}
    elif options.replay is not None:
        rows, columns, bits = _replayed_grid(options.replay)
        folder = str(options.replay.absolute())
        simulation["specimen"] = {"kind": "replay", "folder": folder, "replay_overlap": options.overlap}
        simulation["camera"] = {"bit_depth": bits}
        driver = "sim.replay:ReplayCamera"
    elif pixels:
        simulation["camera"] = {"width_px": pixels, "height_px": pixels}
    try:
        spec = MontageSpec(rows=rows, columns=columns, overlap=options.overlap, centre_um=(0.0, 0.0))
    except ValidationError as error:
        raise ConfigurationError(spec_errors(error)) from None
    return spec, _configure(options, simulation, driver)


def spec_errors(error: Any) -> str:
    """Return one line for what pydantic says of a montage's specification."""
    return "; ".join(
        f"{'.'.join(map(str, item['loc']))} = {item['input']!r}: {item['msg'].removeprefix('Value error, ')}"
        for item in error.errors()
    )


def _configure(options: DemoOptions, simulation: dict[str, Any], camera_driver: str | None) -> MontangoConfig:
    data = yaml.safe_load(dump_config(load_config(options.config)))
    if data.get("simulation") is None:
        raise ConfigurationError(
            "the demonstration runs on a simulated microscope: this configuration has no simulation section; "
            "leave --config out"
        )
    for key, value in simulation.items():
        data["simulation"][key] = {**data["simulation"][key], **value} if isinstance(value, dict) else value
    data["lab"]["name"] = "demo"
    if camera_driver is not None:
        data["instruments"]["camera"]["driver"] = camera_driver
    return MontangoConfig.model_validate(data)


def _micrograph_shape(path: Path) -> tuple[int, int]:
    from sim.specimen.micrograph import to_grey
    from sim.specimen.sources import read_image

    height, width = to_grey(read_image(path)).shape
    return height, width


def _tiles_in(length_px: int, tile_px: int, overlap: float) -> int:
    """Return how many tiles fit into a length, at least 2 and at most 8."""
    pitch = tile_px * (1 - min(max(overlap, 0.0), 0.8))
    return max(2, min(8, 1 + int((length_px - tile_px) / pitch)))


def _replayed_grid(folder: Path) -> tuple[int, int, int]:
    """Return rows, columns and bits a pixel of a folder of recorded tiles."""
    from sim.specimen.sources import find_tiles, read_image

    tiles = find_tiles(folder)
    rows, columns = zip(*tiles, strict=True)
    bits = 8 * read_image(next(iter(tiles.values()))).dtype.itemsize
    return 1 + max(rows) - min(rows), 1 + max(columns) - min(columns), min(bits, 16)


def _acquire(
    lab: Lab, config: MontangoConfig, spec: Any, options: DemoOptions, say: Callable[[str], None]
) -> None:
    """Acquire the montage, wait for the catalog and print the report."""
    from montango.interrupts import AbortOnInterrupt
    from montango.session import Session
    from processing.callbacks.progress import Progress
    from profiles.simulated.devices import make_devices

    info = lab.info()
    logging.basicConfig(filename=Path(info.log_dir) / "demo.log", level=logging.INFO, force=True)
    if options.fault and options.replay is None:
        _spoil_one(info, spec)
    metadata = {"sample": _sample(options), "purpose": "test", "proposal": "demo"}
    with Session(info, make_devices, thresholds=config.qc, metadata=metadata) as session:
        devices = session.devices
        progress = Progress()
        session.RE.subscribe(progress)
        session.RE.context_managers = [AbortOnInterrupt]
        say(f"acquiring {spec.rows} x {spec.columns} tiles")
        try:
            session.RE(
                session.montage(devices.sequencer, devices.camera, devices.column, devices.stage, spec)
            )
        finally:
            progress.close()
            devices.facility.destroy()  # Channel Access complains aloud of servers that end
        say("waiting for the overview, the mosaic and the catalog")
        if not session.drain(CATALOG_TIMEOUT_S):
            raise MontangoError(
                f"the catalog at {info.tiled['uri']} is not complete after {CATALOG_TIMEOUT_S:g} s; see "
                f"`montango --state {options.state} logs tiled`, then `montango journal replay`"
            )
        report = session.summary.result()
        mosaic = session.live_mosaic
        places = {
            "overview": session.overview.last_png,
            "mosaic": mosaic.paths[0] if mosaic is not None and mosaic.paths else None,
            "catalog": info.tiled["uri"],
        }
        say("\n" + report.as_text(**places))
        say("\n" + _how_to_open(options, info, report.run_uid))


def _spoil_one(info: LabInfo, spec: Any) -> None:
    """Arm a focus jump for one tile of the montage to come."""
    from sim.faults import inject, make_fault
    from sim.world import World

    if info.world is None:
        return
    with World.open(info.world) as world:
        tile = min(SPOILED_TILE, spec.rows * spec.columns - 1)
        inject(world, make_fault("focus_jump", at_exposure=world.exposures() + tile))


def _sample(options: DemoOptions) -> str:
    if options.specimen is not None:
        return options.specimen.name
    return options.replay.name if options.replay is not None else "simulated neuropil"


def _how_to_open(options: DemoOptions, info: LabInfo, run_uid: str) -> str:
    return "\n".join(
        (
            f"to open the run: montango --state {options.state} up --wait, and in Python",
            "    from tiled.client import from_uri",
            f'    run = from_uri("{info.tiled["uri"]}", api_key="{info.tiled["api_key"]}")["{run_uid}"]',
            '    tile = run["tiles"]["image"][0]',
        )
    )
