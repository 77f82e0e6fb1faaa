"""Plans as a session offers them: with the session's own verdicts, calibrations, control and disk reserve."""

from __future__ import annotations

import functools
import importlib
import inspect
from collections.abc import Callable, Generator, Mapping
from typing import Any

from bluesky.utils import Msg

Plan = Callable[..., Generator[Msg, Any, Any]]

PLANS: Mapping[str, tuple[str, ...]] = {
    "plans.montage": ("montage",),
    "plans.resume": ("resume_montage",),
    "plans.survey": ("survey",),
    "plans.find_rois": ("find_rois",),
    "plans.realign": ("realign",),
    "plans.samples": ("run_samples",),
    "plans.focus": ("autofocus_run", "autostigmate_run", "focus_map_run"),
    "plans.calibrate.stage_camera": ("calibrate_stage_camera",),
    "plans.calibrate.image_shift": ("calibrate_image_shift",),
    "plans.calibrate.references": ("calibrate_dark", "calibrate_bright"),
    "plans.calibrate.exposure": ("calibrate_exposure",),
    "plans.calibrate.beam": ("calibrate_beam",),
    "plans.calibrate.aperture": ("calibrate_aperture",),
    "plans.calibrate.backlash": ("calibrate_backlash",),
    "plans.calibrate.distortion": ("calibrate_distortion",),
}
"""Plans of a session's namespace by the module that has them."""


def offered_plans() -> dict[str, Plan]:
    """Return the plans of a session's namespace by their names."""
    return {
        name: getattr(importlib.import_module(module), name)
        for module, names in PLANS.items()
        for name in names
    }


def bind(plan: Plan, offers: Mapping[str, Callable[[], Any]]) -> Plan:
    """Return a plan whose keyword arguments that a session can give are the session's, where none is given.

    Parameters
    ----------
    plan
        A plan; its signature says what it takes.
    offers
        Returns the value of a keyword argument by its name, asked for when the plan is made.
    """
    signature = inspect.signature(plan)
    names = signature.parameters.keys() & offers.keys()

    @functools.wraps(plan)
    def bound(*args: Any, **kwargs: Any) -> Generator[Msg, Any, Any]:
        given = signature.bind_partial(*args, **kwargs).arguments
        return (
            yield from plan(*args, **kwargs, **{name: offers[name]() for name in names if name not in given})
        )

    return bound
