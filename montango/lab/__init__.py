"""The supervised laboratory: its processes, ports, state directory and health.

``Lab(config, state_dir).up()`` starts one, ``down()`` stops it; `running_lab` does both around a block.
"""

from __future__ import annotations

from montango.lab.errors import LabError, LabNotRunning
from montango.lab.lab import Lab
from montango.lab.owned import running_lab
from montango.lab.state import LabInfo
from montango.lab.status import LabStatus

__all__ = ["Lab", "LabError", "LabInfo", "LabNotRunning", "LabStatus", "running_lab"]
