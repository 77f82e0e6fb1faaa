"""Shapes of holes: how one is found in a frame, where its edge is looked for, and what is fitted to it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from plans.calibrate.discs import find_disc
from plans.calibrate.measurement import failed
from plans.calibrations import Value
from processing.kernels.edges import edges_along, fit_ellipse
from processing.kernels.slots import Slot, fit_slot, slot_guess, traced

Image = npt.NDArray[Any]
Reals = npt.NDArray[np.float64]
LINES = 720
"""Lines across the edge, along which it is looked for."""
TRACED_OF = 360
SIZE_SHARES = (0.7, 1.4)
"""How much smaller or larger than asked for a hole may be."""


class Fitted(NamedTuple):
    """What was found of a hole, and how well; lengths in um, positions in stage coordinates."""

    values: dict[str, Value]
    residuals: dict[str, float]


@dataclass(frozen=True, slots=True)
class Hole:
    """A hole as it is asked for: a slot with its centre at (0, 0), um; a disc is one whose corners meet."""

    slot: Slot
    disc: bool

    @classmethod
    def of(cls, radius_um: float | None, size_um: tuple[float, float] | None, angle_deg: float) -> Hole:
        """Return a disc or a slot."""
        if size_um is not None:
            long_um, wide_um = max(size_um) / 2, min(size_um) / 2
            turned = angle_deg + (90.0 if size_um[1] > size_um[0] else 0.0)
            return cls(Slot(0.0, 0.0, long_um, wide_um, 0.25 * wide_um, turned % 180.0), disc=False)
        radius = radius_um or 0.0
        return cls(Slot(0.0, 0.0, radius, radius, radius, 0.0), disc=True)

    def at(self, centre_um: npt.ArrayLike) -> Slot:
        """Return it about another centre."""
        x, y = (float(value) for value in np.asarray(centre_um, float))
        one = self.slot
        return Slot(x, y, one.half_length, one.half_width, one.corner, one.angle_deg)

    def find(self, image: Image, um_per_px: Reals, where_um: Reals) -> Slot:
        """Return the hole that lies whole in a frame taken at ``where_um``.

        Raises
        ------
        InstrumentFault
            There is none, or it reaches out of the frame.
        """
        pixel_um = math.sqrt(abs(float(np.linalg.det(um_per_px))))
        if self.disc:
            disc = find_disc("aperture", image, circle=False)
            x, y = where_um + um_per_px @ (disc.x, disc.y)
            radius = disc.radius * pixel_um
            return Slot(float(x), float(y), radius, radius, radius, 0.0)
        seen = slot_guess(image)
        if seen is None or seen.half_width < 8:
            raise failed(
                "aperture", "no slot stands out of the frame; is the beam on, the hole in the frame?"
            )
        height, width = image.shape
        outline, _ = seen.outline(TRACED_OF)
        if (np.abs(outline) > np.array([0.5 * width - 2, 0.5 * height - 2])).any():
            raise failed(
                "aperture",
                f"the slot does not lie within the frame of {width} x {height} px; centre it, or use a lower "
                f"magnification",
            )
        x, y = where_um + um_per_px @ (seen.x, seen.y)
        angle = math.radians(seen.angle_deg)
        along = um_per_px @ (math.cos(angle), math.sin(angle))
        angle_deg = math.degrees(math.atan2(along[1], along[0])) % 180.0
        long, wide, corner = (pixel_um * px for px in (seen.half_length, seen.half_width, seen.corner))
        return Slot(float(x), float(y), long, wide, corner, angle_deg)

    def edge(self, image: Image, about: Slot, um_per_px: Reals, where_um: Reals, reach_um: float) -> Reals:
        """Return the points of the edge that a frame shows, (n, 2) um, within ``reach_um`` of an outline."""
        to_px = np.linalg.inv(um_per_px)
        outline, outwards = about.outline(LINES)
        across = outwards @ to_px.T
        per_px = np.linalg.norm(across, axis=1, keepdims=True)
        reach_px = reach_um * float(per_px.mean())
        size_px = about.half_width * float(per_px.mean())
        directions = across / per_px
        starts = (outline - where_um) @ to_px.T - reach_px * directions
        step = max(0.25, size_px / 400)
        points = edges_along(
            image, starts, directions, np.arange(0.0, 2 * reach_px, step), max(1.0, 0.01 * size_px)
        )
        return np.asarray(where_um + points @ um_per_px.T)

    def fit(self, points: Reals, about: Slot) -> Fitted:
        """Return the hole through points of its edge, um.

        Raises
        ------
        InstrumentFault
            They are too few, or not those of a hole of about this size.
        """
        try:
            return self._ellipse(points) if self.disc else self._slot(points, about)
        except ValueError as error:
            raise failed("aperture", str(error)) from error

    def _ellipse(self, points: Reals) -> Fitted:
        fit = fit_ellipse(points)
        self._check("a radius", fit.radius, self.slot.radius)
        outline = traced(points[fit.used], *fit.outline(TRACED_OF))
        sizes: dict[str, Value] = {
            "radius_um": fit.radius,
            "major_um": fit.major,
            "minor_um": fit.minor,
            "angle_deg": fit.angle_deg,
        }
        return _fitted((fit.x, fit.y), sizes, outline, fit.rms, fit.largest, fit.used)

    def _slot(self, points: Reals, about: Slot) -> Fitted:
        fit = fit_slot(points, about)
        slot = fit.slot
        self._check("half a length", slot.half_length, self.slot.half_length)
        self._check("half a width", slot.half_width, self.slot.half_width)
        outline = traced(points[fit.used], *slot.outline(TRACED_OF))
        sizes: dict[str, Value] = {
            "radius_um": slot.radius,
            "major_um": slot.half_length,
            "minor_um": slot.half_width,
            "angle_deg": slot.angle_deg,
            "corner_um": slot.corner,
        }
        return _fitted((slot.x, slot.y), sizes, outline, fit.rms, fit.largest, fit.used)

    def _check(self, what: str, found_um: float, asked_um: float) -> None:
        low, high = SIZE_SHARES
        if not low <= found_um / asked_um <= high:
            raise failed(
                "aperture", f"the edge found has {what} of {found_um:.2f} um, not about {asked_um:g} um"
            )


def _fitted(
    centre: tuple[float, float],
    sizes: dict[str, Value],
    outline: Reals,
    rms: float,
    largest: float,
    used: npt.NDArray[np.bool_],
) -> Fitted:
    return Fitted(
        {"x_um": centre[0], "y_um": centre[1], **sizes, "outline_um": np.round(outline, 4).tolist()},
        {
            "edge_rms_um": rms,
            "edge_largest_um": largest,
            "edge_points": float(used.sum()),
            "points_out": float((~used).sum()),
        },
    )
