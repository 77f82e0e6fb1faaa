"""Every plan of a calibration has the form that plans have, and every kind has its plan."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

import plans.calibrate
from plans.calibrations import ABOUT, KINDS

DEVICES = ("camera", "column", "stage")


@pytest.mark.parametrize("kind", KINDS)
def test_form_of_a_plan(kind: Any) -> None:
    plan = getattr(plans.calibrate, ABOUT[kind].plan)
    parameters = inspect.signature(plan).parameters
    devices = [name for name, one in parameters.items() if one.kind is not inspect.Parameter.KEYWORD_ONLY]
    assert tuple(devices) == DEVICES[: len(devices)]
    assert len(devices) >= 2
    assert parameters["store"].default is inspect.Parameter.empty
    assert parameters["md"].default is None
    assert inspect.isgeneratorfunction(plan)
    doc = inspect.getdoc(plan) or ""
    for section in ("Parameters", "Returns", "Raises", "Examples"):
        assert f"\n{section}\n---" in doc
    for name in parameters:
        assert name in doc


def test_every_exported_plan_makes_a_kind() -> None:
    assert sorted(plans.calibrate.__all__) == sorted(about.plan for about in ABOUT.values())
