"""Drivers, Tango servers and ophyd-async wrappers of the instruments."""

import os

# Where OpenTelemetry's API happens to be installed, PyTango looks into ten variables of the environment at
# each call, 0.15 ms; it reads this one when it is imported. Who wants telemetry sets TANGO_TELEMETRY_ENABLE.
if "TANGO_TELEMETRY_ENABLE" not in os.environ:
    os.environ.setdefault("PYTANGO_DISABLE_TELEMETRY_PATCHING", "1")
