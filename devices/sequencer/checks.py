"""What the software sequencer refuses before anything moves."""

from __future__ import annotations

from typing import Final

from devices.errors import ConfigurationError, LimitError, check_limit
from devices.sequencer.driver import Blanking, MoveOptions, Table
from devices.sequencer.links import Links
from devices.stage.driver import AXES, StageLimits
from devices.stage.mover import check_settle_limit
from devices.stage.moves import MoveRequest, SettleMode

MOVE_DEFAULTS: Final[tuple[float, ...]] = ()


def move_tail(options: MoveOptions) -> tuple[float, ...]:
    """Return the numbers of a `MoveRequest` after x, y and settle time; none where all are the defaults.

    A drift settle is the sequencer's own; to the stage it is a fixed one.
    """
    mode = SettleMode.READBACK if options.settle_mode == SettleMode.READBACK else SettleMode.FIXED
    request = MoveRequest(
        0.0,
        0.0,
        0.0,
        options.tolerance_um,
        options.retries,
        options.approach_x_um,
        options.approach_y_um,
        mode,
        options.settle_limit_nm_s,
        options.settle_timeout_s,
    )
    quiet = mode == SettleMode.FIXED and not (
        options.tolerance_um or options.approach_x_um or options.approach_y_um
    )
    return MOVE_DEFAULTS if quiet else request[3:]


def check_table(links: Links, table: Table) -> None:
    """Refuse a table that the instruments cannot do.

    Raises
    ------
    LimitError
        A position (or the point it is approached from), an image shift or an option outside its limits.
    ConfigurationError
        A shutter that the camera does not have.
    """
    _check_options(links, table.options)
    low, high = links.read("stage", "lower_limits", "upper_limits")
    limits = StageLimits(*zip(map(float, low), map(float, high), strict=True))
    approach = (table.options.approach_x_um, table.options.approach_y_um)
    for tile in table.tiles:
        try:
            limits.check({AXES[0]: tile.x_um, AXES[1]: tile.y_um})
            if any(approach):
                limits.check({AXES[0]: tile.x_um - approach[0], AXES[1]: tile.y_um - approach[1]})
            check_limit("settle_s", tile.settle_s, 0.0, 600.0, "s")
        except LimitError as error:
            raise LimitError(
                f"tile {tile.raster_index} (roi {tile.roi}, row {tile.row}, column {tile.column}): {error}"
            ) from None


def _check_options(links: Links, options: MoveOptions) -> None:
    for name, high, unit in (
        ("settle_limit_nm_s", 1e6, "nm/s"),
        ("drift_exposure_s", 60.0, "s"),
        ("drift_binning", 64.0, ""),
    ):
        value = float(getattr(options, name))
        if not 0.0 < value <= high:
            raise LimitError(f"{name} = {value:g} is not over 0 and at most {high:g} {unit}".rstrip())
    if options.settle_mode not in tuple(SettleMode):
        raise LimitError(f"settle_mode = {options.settle_mode} is not 0 (fixed), 1 (read-back) or 2 (drift)")
    if options.blanking not in tuple(Blanking):
        raise LimitError(f"blanking = {options.blanking} is not 0 (shutter), 1 (column) or 2 (off)")
    MoveRequest(0.0, 0.0, 0.0, *move_tail(options)).check()  # type: ignore[arg-type]
    if options.settle_mode == SettleMode.READBACK:
        (floor_nm_s,) = links.read("stage", "settle_floor_nm_s")
        check_settle_limit(options.settle_limit_nm_s, float(floor_nm_s))
    if options.blanking == Blanking.SHUTTER:
        (modes,) = links.read("camera", "shutter_modes")
        if "PRE_SPECIMEN" not in modes:
            raise ConfigurationError(
                "blanking by the shutter needs a camera with a pre-specimen shutter, and this one has none; "
                'set blanking to "column" (or "off")'
            )
