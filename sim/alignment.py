"""What shifts, tilts and stigmators of the column really do, with the errors of its alignment."""

from __future__ import annotations

import math

from sim.config import ColumnConfig
from sim.lenses import Lenses

Pair = tuple[float, float]


def image_shift_um(column: ColumnConfig, lenses: Lenses) -> Pair:
    """Return how far the image shift moves the specimen point at the image's centre, stage um."""
    (a, b), (c, d) = column.image_shift_matrix
    x, y = lenses.image_shift_um
    return a * x + b * y, c * x + d * y


def tilt_shift_um(column: ColumnConfig, lenses: Lenses, defocus_um: float) -> Pair:
    """Return how far the beam tilt moves the specimen point at the image's centre, stage um.

    It is ``t Df + Cs t^3`` with the tilt ``t`` (rad) along the stage's axes and ``Df`` the true defocus,
    underfocus negative: the gradient of the wave aberration at the tilted beam. Under focus the point moves
    against the tilt.

    References
    ----------
    Koster, van den Bos and van der Mast, Ultramicroscopy 21 (1987) 209, doi:10.1016/0304-3991(87)90146-8.
    """
    x_mrad, y_mrad = lenses.beam_tilt_mrad
    square = (x_mrad**2 + y_mrad**2) * 1e-6
    um_per_mrad = 1e-3 * (defocus_um + 1e3 * column.spherical_aberration_mm * square)
    return x_mrad * um_per_mrad, y_mrad * um_per_mrad


def beam_centre_um(column: ColumnConfig, lenses: Lenses) -> Pair:
    """Return where the beam's centre lies, um along the stage's axes from the untilted image's.

    The beam follows the image shift, as columns whose image and beam shift are coupled make it.
    """
    (x, y), (offset_x, offset_y) = lenses.beam_shift_um, column.beam_offset_um
    (tilt_x, tilt_y), (pivot_x, pivot_y) = lenses.beam_tilt_mrad, column.beam_tilt_pivot_um_per_mrad
    return x + offset_x + pivot_x * tilt_x, y + offset_y + pivot_y * tilt_y


def astigmatism_um(column: ColumnConfig, lenses: Lenses) -> Pair:
    """Return the astigmatism, um: half the difference of focus along 0 and 90 deg, and along 45 and 135 deg.

    The angles are those of camera axes. The residual of the objective and what the stigmator makes are added.
    """
    residual = math.radians(2 * column.astigmatism_angle_deg)
    turn = math.radians(2 * column.stigmator_rotation_deg)
    x, y = lenses.objective_stigmator
    return (
        column.astigmatism_um * math.cos(residual)
        + column.stigmator_um * (math.cos(turn) * x - math.sin(turn) * y),
        column.astigmatism_um * math.sin(residual)
        + column.stigmator_um * (math.sin(turn) * x + math.cos(turn) * y),
    )
