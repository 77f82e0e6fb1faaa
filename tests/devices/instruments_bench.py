"""Plain Tango clients of a laboratory, and plans that must fail: what the tests of instruments share."""

from __future__ import annotations

from typing import Any

import pytest
import tango
from bluesky.run_engine import RunEngine
from bluesky.utils import FailedStatus

from devices.errors import MontangoError
from montango.lab import Lab


def refused(engine: RunEngine, plan: Any) -> BaseException:
    """Run a plan that must fail and return the instrument's own error."""
    with pytest.raises((FailedStatus, MontangoError)) as caught:
        engine(plan)
    return caught.value.__cause__ or caught.value


def proxy(lab: Lab, name: str) -> Any:
    """Return a plain Tango client of an instrument."""
    info = lab.info()
    instrument = {"montage_control": "control"}.get(name, name)
    return tango.DeviceProxy(f"tango://{info.tango_host}/{info.devices[instrument]}")
