"""A session that looks on: devices can be read and a montage of another session steered, nothing is run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from bluesky.run_engine import RunEngine

from montango.config import load_config
from montango.fence import EngineBusy, EngineLock
from montango.lab import LabInfo
from montango.offers import Plan
from montango.session import SessionDevices
from plans.calibrations import CalibrationStore
from plans.specs.montage import MontageSpec
from plans.tango_control import TangoControl

READ_ONLY_VARIABLE = "MONTANGO_READ_ONLY"


class NoEngine:
    """Stands where an onlooker would have a RunEngine."""

    def __init__(self, lock: EngineLock) -> None:
        self._lock = lock

    def __call__(self, *_: Any, **__: Any) -> NoReturn:
        """Refuse.

        Raises
        ------
        EngineBusy
            Naming who drives.
        """
        driver = self._lock.holder()
        raise EngineBusy(
            f"this session only looks on and runs no plan; {driver or 'nobody'} drives; a session without "
            f"--read-only can when that has ended"
        )

    def __repr__(self) -> str:
        return "<no RunEngine: this session only looks on>"


class Onlooker:
    """What another terminal has of a laboratory while a session drives it.

    Parameters
    ----------
    lab
        The laboratory.
    make_devices
        Returns its devices, connected.
    engine
        A RunEngine of the caller's, in whose event loop the devices live; None makes one. It runs no plan.
    """

    def __init__(
        self,
        lab: LabInfo,
        make_devices: Callable[[LabInfo], SessionDevices],
        *,
        engine: RunEngine | None = None,
    ) -> None:
        self.lab = lab
        self.config = load_config(lab.config)
        self._engine = engine or RunEngine({})
        self.RE = NoEngine(EngineLock(lab.state_dir))
        self.devices = make_devices(lab)
        self.calibrations = CalibrationStore(Path(lab.state_dir) / "calibrations")
        self.control = TangoControl(f"tango://{lab.tango_host}/{lab.devices['control']}", drives=False)

    @property
    def plans(self) -> dict[str, Plan]:
        """None: there is nothing to run them."""
        return {}

    def spec(self, **fields: Any) -> MontageSpec:
        """Return the specification of a montage, as `montango.session.Session.spec` does."""
        return MontageSpec(**{**self.config.montage, **fields})

    def close(self) -> None:
        """Nothing is held."""
        self.control.close()
