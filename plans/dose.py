"""Electron dose on the specimen: what each place has had, exposures of neighbours and of focusing included.

The beam is a disc of even intensity, as wide as the illuminated area. A camera sees a part of it; the rest of
the disc falls on the neighbours of a tile, so a place gets the dose of every exposure whose disc reaches it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import cache

import numpy as np
import numpy.typing as npt

from devices.errors import ConfigurationError

ELECTRON_CHARGE_C = 1.602176634e-19
"""Exact, SI 2019."""
RINGS = ((0.0, 1), (0.35, 6), (0.7, 12), (0.99, 24))
"""Where the dose of a disc is looked at: radius as a fraction of the disc's, and points on it."""

Points = npt.NDArray[np.float64]


def flux_e_per_a2_s(beam_current_na: float, illuminated_area_um: float) -> float:
    """Return the flux in e/A^2/s: beam current over the illuminated disc, whose diameter is given.

    Raises
    ------
    ConfigurationError
        Current or diameter is not positive, so that the dose is not known.
    """
    if not (beam_current_na > 0 and illuminated_area_um > 0):
        raise ConfigurationError(
            f"the dose is not known: beam_current_na = {beam_current_na:g}, illuminated_area_um = "
            f"{illuminated_area_um:g}; switch the beam on, or leave max_dose_e_per_a2 out"
        )
    area_a2 = math.pi / 4 * (illuminated_area_um * 1e4) ** 2
    return beam_current_na * 1e-9 / ELECTRON_CHARGE_C / area_a2


class DoseMap:
    """Discs of dose on the specimen.

    Examples
    --------
    >>> doses = DoseMap()
    >>> doses.add(0.0, 0.0, diameter_um=10.0, dose_e_per_a2=2.0)
    >>> doses.add(6.0, 0.0, diameter_um=10.0, dose_e_per_a2=2.0)
    >>> doses.at(3.0, 0.0), doses.at(-2.0, 0.0), doses.largest(0.0, 0.0, 10.0)
    (4.0, 2.0, 4.0)
    """

    def __init__(self) -> None:
        self._cell_um = 0.0
        self._largest_um = 0.0
        self._cells: dict[tuple[int, int], list[tuple[float, float, float, float]]] = {}

    def add(self, x_um: float, y_um: float, diameter_um: float, dose_e_per_a2: float) -> None:
        """Add an exposure; a negative dose takes one back that was not made.

        Parameters
        ----------
        x_um, y_um
            Centre of the disc, stage coordinates.
        diameter_um
            Of the disc.
        dose_e_per_a2
            Dose in it.
        """
        if not self._cell_um:
            self._cell_um = diameter_um
        self._largest_um = max(self._largest_um, diameter_um)
        disc = (x_um, y_um, (diameter_um / 2) ** 2, dose_e_per_a2)
        self._cells.setdefault(self._cell(x_um, y_um), []).append(disc)

    def at(self, x_um: float, y_um: float) -> float:
        """Return the dose of a point, e/A^2."""
        return float(self._doses(np.array([[x_um, y_um]])).max(initial=0.0))

    def largest(self, x_um: float, y_um: float, diameter_um: float) -> float:
        """Return the largest dose in a disc, e/A^2, at the 43 points of `RINGS`."""
        return float(self._doses(_disc() * (diameter_um / 2) + (x_um, y_um)).max(initial=0.0))

    def _cell(self, x_um: float, y_um: float) -> tuple[int, int]:
        return math.floor(x_um / self._cell_um), math.floor(y_um / self._cell_um)

    def _doses(self, points: Points) -> Points:
        """Return the dose of points (point, 2) that lie close together."""
        if not self._cells:
            return np.zeros(len(points))
        reach = self._largest_um / 2
        first = self._cell(*(points.min(axis=0) - reach))
        last = self._cell(*(points.max(axis=0) + reach))
        discs = [
            disc
            for i in range(first[0], last[0] + 1)
            for j in range(first[1], last[1] + 1)
            for disc in self._cells.get((i, j), ())
        ]
        if not discs:
            return np.zeros(len(points))
        x, y, radius2, dose = np.array(discs).T
        distance2 = (points[:, :1] - x) ** 2 + (points[:, 1:] - y) ** 2
        return np.asarray((distance2 <= radius2 * (1 + 1e-9)) @ dose)


@cache
def _disc() -> Points:
    """Return the points of the unit disc at which a dose is looked at, (point, 2)."""
    return np.array(
        [
            (radius * math.cos(angle), radius * math.sin(angle))
            for radius, count in RINGS
            for angle in np.arange(count) * (2 * math.pi / count)
        ]
    )


def largest_of(places_um: Iterable[tuple[float, float]], diameter_um: float, exposure_dose: float) -> float:
    """Return the largest dose that equal exposures at some places give any point, e/A^2.

    Parameters
    ----------
    places_um
        Centres of the exposures, stage coordinates.
    diameter_um
        Of the illuminated disc.
    exposure_dose
        Dose of one exposure, e/A^2.
    """
    from scipy.spatial import cKDTree

    centres = np.array(list(places_um), float).reshape(-1, 2)
    if not len(centres):
        return 0.0
    tree = cKDTree(centres)
    most = 0
    for point in _disc() * (diameter_um / 2):
        hits = tree.query_ball_point(centres + point, diameter_um / 2 * (1 + 1e-9), return_length=True)
        most = max(most, int(hits.max()))
    return most * exposure_dose
