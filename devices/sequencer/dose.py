"""The flux of electrons on the sample, from what the column says of its beam."""

from __future__ import annotations

import math
from typing import Final

ELECTRON_CHARGE_C: Final = 1.602176634e-19
"""Exact, SI 2019."""
_A2_PER_UM2: Final = 1e8


def flux_e_per_a2_s(beam_current_na: float, illuminated_area_um: float) -> float:
    """Return the mean flux over the illuminated disc, electrons a square Angstrom and second.

    Parameters
    ----------
    beam_current_na
        Current of the beam at the sample, nA.
    illuminated_area_um
        Diameter of the illuminated area, um.
    """
    electrons_s = beam_current_na * 1e-9 / ELECTRON_CHARGE_C
    return electrons_s / (math.pi / 4.0 * illuminated_area_um**2 * _A2_PER_UM2)
