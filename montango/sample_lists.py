"""Acquiring a list of samples in a session of its own."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from devices.errors import ConfigurationError
from montango.lab import LabInfo
from plans.continued_list import find_account
from plans.sample_report import ListReport
from plans.specs.samples import SampleList

if TYPE_CHECKING:
    from montango.session import Session

FOLDER = "samples"


@dataclass(frozen=True)
class GoingOn:
    """How to go on with a list whose process has ended.

    ``accept_changes``: although the list differs; ``retry``: what failed is tried again, too.
    """

    accept_changes: bool = False
    retry: bool = False


def acquire_list(
    info: LabInfo,
    listed: SampleList,
    *,
    profile: str,
    report_dir: Path | None = None,
    going_on: GoingOn | None = None,
    say: Callable[[str], None] = print,
    engine: Any = None,
    catalog_timeout_s: float = 120.0,
) -> ListReport:
    """Acquire a list of samples in a laboratory that is up, and return the account.

    Parameters
    ----------
    info
        The laboratory; this process is connected to it.
    listed
        The list.
    profile
        Package with ``devices.py``.
    report_dir
        Folder of the account; None: ``samples`` in the state directory.
    going_on
        Go on with the newest account of this list in that folder; None begins the list.
    say
        Is told what happens, a line at a time.
    engine
        A RunEngine of the caller's; None makes one.
    catalog_timeout_s
        Longest time that is waited for the catalog to be complete, s.

    Raises
    ------
    ConfigurationError
        The laboratory has no loader, or there is no account to go on with.
    MontangoError
        The list is refused: nothing has moved.
    """
    from montango.interrupts import AbortOnInterrupt
    from montango.session import Session

    folder = report_dir or Path(info.state_dir) / FOLDER
    if going_on is not None:
        find_account(folder, listed.name)  # refused before anything is connected
    make_devices = importlib.import_module(f"{profile}.devices").make_devices
    with Session(info, make_devices, engine=engine) as session:
        session.RE.context_managers = [AbortOnInterrupt]
        devices = session.devices
        if devices.loader is None:
            raise ConfigurationError(
                "this laboratory has no loader: give instruments.loader in montango.yaml, or run a montage"
            )
        try:
            return run_list(session, listed, folder, say, going_on)
        finally:
            session.drain(catalog_timeout_s)
            devices.facility.destroy()  # Channel Access complains aloud of servers that end


def run_list(
    session: Session[Any],
    listed: SampleList,
    report_dir: Path,
    say: Callable[[str], None],
    going_on: GoingOn | None = None,
) -> ListReport:
    """Run a list in a session, or go on with one, and return the account, also of one that is stopped.

    The account is read only here: the session is the one that may write it.
    """
    options: dict[str, Any] = {"report_dir": report_dir, "say": say}
    if going_on is not None:
        options |= {**asdict(going_on), "account": find_account(report_dir, listed.name)}
    kept: list[ListReport] = []
    devices = session.devices
    run_samples = session.plans["run_samples"]

    def keeping() -> Any:
        kept.append(
            (
                yield from run_samples(
                    devices.loader,
                    devices.sequencer,
                    devices.camera,
                    devices.column,
                    devices.stage,
                    listed,
                    **options,
                )
            )
        )

    session.RE(keeping())
    return kept[0]
