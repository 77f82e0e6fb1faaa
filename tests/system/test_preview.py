"""`montango preview` with a laboratory: what its instruments and its calibrations say, and nothing moves."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pytest
import tango

from devices.errors import DeviceLost
from montango.circumstances import present
from montango.lab import Lab
from plans.calibrations import Calibration, CalibrationStore
from plans.specs.montage import MontageSpec

pytestmark = pytest.mark.system

SPEC = MontageSpec(rows=2, columns=3)


def stage_of(lab: Lab) -> tango.DeviceProxy:
    info = lab.info()
    return tango.DeviceProxy(f"tango://{info.tango_host}/{info.devices['stage']}")


def test_the_instruments_as_they_are(lab: Lab) -> None:
    before = stage_of(lab).moves_done
    found = present(lab.info(), SPEC)
    assert found.view is not None
    assert (found.view.width_px, found.view.height_px) == (256, 256)
    assert found.view.pixel_size_nm == pytest.approx(4.0)
    assert found.limits.x_um == (-990.0, 990.0)
    assert found.beam is not None
    assert found.beam.illuminated_area_um == pytest.approx(22.0)
    assert found.centre_um == pytest.approx(tuple(stage_of(lab).position[:2]), abs=0.1)
    assert stage_of(lab).moves_done == before


def test_another_magnification_and_binning(lab: Lab) -> None:
    found = present(lab.info(), SPEC.model_copy(update={"magnification": 2500.0, "binning": 2}))
    assert found.view is not None
    assert (found.view.width_px, found.view.pixel_size_nm) == pytest.approx((128, 16.0))
    assert "nominal" in found.source


def test_a_calibration_counts_more_than_the_nominal_size(lab: Lab, tmp_path: Path) -> None:
    store = CalibrationStore(tmp_path / "calibrations")
    store.add(
        Calibration(
            uid="a1",
            kind="stage_camera",
            made_at_s=time.time(),
            magnification=5000.0,
            high_voltage_kv=120.0,
            camera="camera",
            binning=1,
            values={"stage_per_px_um": [[0.0041, 0.0], [0.0, 0.0041]], "sensor_width_px": 256},
        )
    )
    found = present(replace(lab.info(), state_dir=str(tmp_path)), SPEC)
    assert found.view is not None
    assert found.view.pixel_size_nm == pytest.approx(4.1)


def test_a_device_that_does_not_answer_is_named(lab: Lab) -> None:
    info = lab.info()
    with pytest.raises(DeviceLost, match="em/none/1"):
        present(replace(info, devices={**info.devices, "stage": "em/none/1"}), SPEC)
