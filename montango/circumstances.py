"""What a preview must know of an instrument: from the laboratory that is up, or from the configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from devices.errors import ConfigurationError
from devices.stage.driver import StageLimits
from montango.config import MontangoConfig, load_config
from montango.lab import LabInfo
from plans.calibrations import CalibrationStore
from plans.preview import Beam
from plans.specs.montage import MontageSpec
from plans.specs.view import View
from plans.stubs.view import Setup, measured_view
from plans.timing import Timing
from sim.config import SimulationConfig
from sim.lenses import Lenses, beam_current_na, calibration


class Circumstances(NamedTuple):
    """The instrument as it is, or would be.

    Attributes
    ----------
    source
        Where this is from, in words.
    view
        What a frame shows; None: neither calibrated nor simulated.
    centre_um
        Where the stage is.
    limits
        The stage's limits.
    beam
        The beam, if known.
    timing
        What the instrument takes for the steps of a tile.
    """

    source: str
    view: View | None
    centre_um: tuple[float, float]
    limits: StageLimits
    beam: Beam | None
    timing: Timing


def configured(config: MontangoConfig, spec: MontageSpec) -> Circumstances:
    """Return what the configuration says: the limits, and the simulated column if there is one.

    Raises
    ------
    ConfigurationError
        The simulated column is not calibrated for the magnification.
    """
    limits = StageLimits(**config.instruments.stage.limits.model_dump())
    simulation = config.simulation
    if simulation is None:
        return Circumstances(f"configuration {config.lab.name}", None, (0.0, 0.0), limits, None, Timing())
    lenses = Lenses.first(simulation.column)
    if spec.magnification is not None:
        lenses = replace(lenses, magnification=spec.magnification)
    binning = spec.binning or 1
    pixel_nm, rotation_deg = calibration(simulation, lenses)
    size = simulation.camera.width_px // binning, simulation.camera.height_px // binning
    return Circumstances(
        f"the simulated column of {config.lab.name} at magnification {lenses.magnification:g}",
        View.from_nominal(*size, pixel_nm * binning, rotation_deg),
        (0.0, 0.0),
        limits,
        Beam(beam_current_na(simulation.column, lenses), lenses.illuminated_area_um),
        _timing(simulation),
    )


def present(info: LabInfo, spec: MontageSpec) -> Circumstances:
    """Return what the instruments of a laboratory that is up say, and its calibrations; nothing is changed.

    Raises
    ------
    MontangoError
        A device does not answer, or the pixel size of the magnification is not known.
    """
    column = _read(
        info, "column", "magnification", "high_voltage_kv", "beam_current_na", "illuminated_area_um"
    )
    camera = _read(info, "camera", "width_px", "height_px", "binning", "sensor_width_px")
    stage = _read(info, "stage", "position", "lower_limits", "upper_limits")
    config = load_config(info.config)
    magnification = spec.magnification or float(column["magnification"])
    now, binning = int(camera["binning"]), spec.binning or int(camera["binning"])
    size = int(camera["width_px"]) * now // binning, int(camera["height_px"]) * now // binning
    setup = Setup(magnification, float(column["high_voltage_kv"]), "camera", binning)
    store = CalibrationStore(Path(info.state_dir) / "calibrations")
    view = measured_view(store, setup, size, int(camera["sensor_width_px"]))
    source = f"lab {info.name} as it is"
    if view is None and magnification == float(column["magnification"]):
        nominal = _read(info, "column", "pixel_size_nm", "image_rotation_deg")
        pixel_nm, rotation_deg = float(nominal["pixel_size_nm"]), float(nominal["image_rotation_deg"])
        view = View.from_nominal(*size, pixel_nm * binning, rotation_deg)
    elif view is None:
        view = configured(config, spec).view
        source += f", nominal pixels at magnification {magnification:g}"
    limits = zip(stage["lower_limits"], stage["upper_limits"], strict=True)
    return Circumstances(
        source,
        view,
        (float(stage["position"][0]), float(stage["position"][1])),
        StageLimits(*((float(low), float(high)) for low, high in limits)),
        Beam(float(column["beam_current_na"]), float(column["illuminated_area_um"])),
        _timing(config.simulation) if config.simulation else Timing(),
    )


def with_frame(
    circumstances: Circumstances,
    *,
    pixel_size_nm: float | None = None,
    width_px: int | None = None,
    height_px: int | None = None,
    rotation_deg: float | None = None,
) -> Circumstances:
    """Return circumstances with another frame; what is None stays.

    Raises
    ------
    ConfigurationError
        What is None is not known.
    """
    view = circumstances.view
    given = {"--pixel-size-nm": pixel_size_nm, "--width-px": width_px, "--height-px": height_px,
             "--rotation-deg": rotation_deg}  # fmt: skip
    missing = [name for name, value in given.items() if value is None]
    if view is None and missing:
        raise ConfigurationError(
            f"no lab is up, and {circumstances.source} has no simulated column: what a frame shows is not "
            f"known; give {', '.join(missing)}"
        )
    if view is not None:
        width_px, height_px = width_px or view.width_px, height_px or view.height_px
        if pixel_size_nm is None and rotation_deg is None:
            return circumstances._replace(view=replace(view, width_px=width_px, height_px=height_px))
        pixel_size_nm = view.pixel_size_nm if pixel_size_nm is None else pixel_size_nm
        rotation_deg = view.rotation_deg if rotation_deg is None else rotation_deg
    assert None not in (width_px, height_px, pixel_size_nm, rotation_deg)
    frame = View.from_nominal(width_px, height_px, pixel_size_nm, rotation_deg)  # type: ignore[arg-type]
    if view is not None:
        frame = replace(
            frame, stage_per_shift=view.stage_per_shift, image_shift_limit_um=view.image_shift_limit_um
        )
    return circumstances._replace(view=frame)


def _read(info: LabInfo, device: str, *attributes: str) -> Mapping[str, Any]:
    """Return attributes of a device of the laboratory, by their names."""
    import tango

    from devices._tango.errors import from_devfailed

    name = info.devices[device]
    try:
        proxy = tango.DeviceProxy(f"tango://{info.tango_host}/{name}")
        return {attribute: proxy.read_attribute(attribute).value for attribute in attributes}
    except tango.DevFailed as failure:
        raise from_devfailed(failure, name) from None


def _timing(simulation: SimulationConfig) -> Timing:
    """Return the simulated instrument's own times, at real speed."""
    stage = simulation.stage
    return Timing(
        stage.move_overhead_s,
        stage.acceleration_um_s2,
        stage.speed_um_s,
        simulation.setting_time_s,
        simulation.readout_time_s,
    )
