"""What can go wrong with a laboratory as a whole.

::

    MontangoError
    └── LabError          a process did not start, a port is taken, the disk is full, ...
        ├── LabNotRunning the command needs a laboratory that is up
        └── LabAlreadyUp  the caller wanted one of its own
"""

from __future__ import annotations

from devices.errors import MontangoError


class LabError(MontangoError):
    """The laboratory could not be started, stopped or asked."""


class LabNotRunning(LabError):
    """There is no laboratory in this state directory that is up."""


class LabAlreadyUp(LabError):
    """A laboratory that somebody else started is up in this state directory."""
