"""The focus over a specimen: a surface through places where it was measured."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from devices.errors import ConfigurationError
from plans.specs.focus import POINTS_NEEDED, MapKind
from processing.kernels.focus import robust_fit

Reals = npt.NDArray[np.float64]
MAX_CONDITION = 1e3
LEAST_ERROR_UM = 0.01


@dataclass(frozen=True, slots=True)
class MapPoint:
    """Where focus was measured, stage um, the offset found there, um, and its standard deviation."""

    x_um: float
    y_um: float
    offset_um: float
    error_um: float = 0.05


@dataclass(frozen=True)
class FocusMap:
    """A plane or paraboloid of focus offsets; made by `fit`.

    Attributes
    ----------
    kind
        ``"plane"`` or ``"paraboloid"``.
    coefficients
        Of 1, u, v (, u^2, u v, v^2), um, with ``u = (x - x0) / scale``.
    residual_um
        Root mean square of what the surface leaves at the points, outliers left out.
    residuals_um
        What it leaves at each point.
    left_out_um
        At each point, what the surface through the others misses it by: the error to expect between points.
        NaN where the others do not define a surface.
    outliers
        Indices of the points that the fit rejects.
    """

    kind: MapKind
    centre_um: tuple[float, float]
    scale_um: float
    coefficients: tuple[float, ...]
    residual_um: float
    residuals_um: tuple[float, ...]
    left_out_um: tuple[float, ...]
    outliers: tuple[int, ...]

    @classmethod
    def fit(cls, points: Sequence[MapPoint], kind: MapKind = "plane") -> FocusMap:
        """Return the surface through measured points, which an outlier does not move.

        Raises
        ------
        ConfigurationError
            There are too few points, or they lie on a line (for a paraboloid: on a conic).
        """
        needed = POINTS_NEEDED[kind]
        if len(points) < needed:
            raise ConfigurationError(
                f"a focus map has {len(points)} points, but a {kind} needs at least {needed}; measure more"
            )
        x, y, z, error = (
            np.array([getattr(point, name) for point in points], float)
            for name in ("x_um", "y_um", "offset_um", "error_um")
        )
        centre = float(x.mean()), float(y.mean())
        scale = max(float(np.hypot(x - centre[0], y - centre[1]).max()), 1e-9)
        design = _terms((x - centre[0]) / scale, (y - centre[1]) / scale, kind)
        if np.linalg.cond(design) > MAX_CONDITION:
            line = "a line" if kind == "plane" else "a conic section"
            raise ConfigurationError(
                f"the {len(points)} points of the focus map lie (nearly) on {line}, so that no {kind} is "
                f"defined; add points beside it"
            )
        error = np.maximum(error, LEAST_ERROR_UM)
        coefficients, _, _ = robust_fit(design, z, error)
        left = z - design @ coefficients
        spread = np.maximum(error, 1.4826 * np.median(np.abs(left)))
        outliers = np.abs(left) > 4.685 * spread
        kept = left[~outliers] if not outliers.all() else left
        return cls(
            kind,
            centre,
            scale,
            tuple(map(float, coefficients)),
            math.sqrt(float(np.mean(kept**2))),
            tuple(map(float, left)),
            _leave_one_out(design, z, error),
            tuple(int(i) for i in np.flatnonzero(outliers)),
        )

    def offset_um(self, x_um: float, y_um: float) -> float:
        """Return what must be added to a defocus at a place on the stage, um."""
        u, v = (x_um - self.centre_um[0]) / self.scale_um, (y_um - self.centre_um[1]) / self.scale_um
        return float((_terms(np.array([u]), np.array([v]), self.kind) @ np.array(self.coefficients))[0])

    @property
    def left_out_rms_um(self) -> float:
        """Root mean square of ``left_out_um``; NaN where there is none."""
        finite = [value for value in self.left_out_um if math.isfinite(value)]
        return math.sqrt(sum(value**2 for value in finite) / len(finite)) if finite else math.nan


def _terms(u: Reals, v: Reals, kind: MapKind) -> Reals:
    terms = [np.ones_like(u), u, v]
    if kind == "paraboloid":
        terms += [u * u, u * v, v * v]
    return np.stack(terms, axis=1)


def _leave_one_out(design: Reals, values: Reals, errors: Reals) -> tuple[float, ...]:
    missed = []
    for i in range(len(values)):
        others = np.arange(len(values)) != i
        part = design[others]
        if len(part) < part.shape[1] or np.linalg.cond(part) > MAX_CONDITION:
            missed.append(math.nan)
            continue
        coefficients, _, _ = robust_fit(part, values[others], errors[others])
        missed.append(float(values[i] - design[i] @ coefficients))
    return tuple(missed)


def spread_points(places_um: Sequence[tuple[float, float]], count: int) -> list[tuple[float, float]]:
    """Return ``count`` of the places, as far from one another as can be, beginning near their middle.

    Parameters
    ----------
    places_um
        Stage coordinates, such as the tiles'.
    count
        How many; all are returned where there are no more.
    """
    places = np.array(sorted(set(places_um)), float).reshape(-1, 2)
    if len(places) <= count:
        return [(float(x), float(y)) for x, y in places]
    chosen = [int(np.argmin(((places - places.mean(axis=0)) ** 2).sum(axis=1)))]
    distance = ((places - places[chosen[0]]) ** 2).sum(axis=1)
    while len(chosen) < count:
        chosen.append(int(np.argmax(distance)))
        distance = np.minimum(distance, ((places - places[chosen[-1]]) ** 2).sum(axis=1))
    return [(float(places[i, 0]), float(places[i, 1])) for i in chosen]
