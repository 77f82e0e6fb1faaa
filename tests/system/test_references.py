"""A montage with dark and bright references: it names them, and QC and overview see frames corrected."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import pytest
from bluesky.run_engine import RunEngine

from devices.errors import ConfigurationError
from montango.lab import Lab
from plans.calibrations import Calibration, CalibrationKind

if TYPE_CHECKING:
    from montango.session import Session
    from profiles.simulated.devices import Devices

pytestmark = pytest.mark.system

EXPOSURE_S = 0.05


@pytest.fixture
def session(lab: Lab, devices: Devices, engine: RunEngine) -> Iterator[Session[Devices]]:
    """Return a session whose references are gone afterwards."""
    from montango.session import Session

    with Session(lab.info(), lambda _: devices, engine=engine, minimum_free_gb=0.1) as session:
        before = set(session.calibrations.folder.glob("*"))
        yield session
        for path in set(session.calibrations.folder.glob("*")) - before:
            path.unlink()


def keep(session: Session[Devices], kind: CalibrationKind, uid: str, array: Any, **changes: Any) -> None:
    """Keep a reference for the lab as it is set now."""
    fields: dict[str, Any] = {
        "uid": uid,
        "kind": kind,
        "made_at_s": time.time(),
        "magnification": 5000.0,
        "high_voltage_kv": 120.0,
        "camera": session.devices.camera.name,
        "binning": 1,
        "values": {"exposure_time_s": EXPOSURE_S},
    }
    session.calibrations.add(Calibration(**(fields | changes)), {kind: array})


def acquire(session: Session[Devices], **fields: Any) -> tuple[dict[str, Any], dict[int, float], Any]:
    """Return a montage's start document, QC's mean of each tile, and the frames of its file."""
    documents: list[tuple[str, dict[str, Any]]] = []
    devices = session.devices
    instruments = devices.sequencer, devices.camera, devices.column, devices.stage
    spec = session.spec(rows=1, columns=3, exposure_time_s=EXPOSURE_S, settle_s=0, max_attempts=1, **fields)
    session.RE(session.montage(*instruments, spec), lambda *one: documents.append(one))
    assert session.drain()
    uri = next(doc["uri"] for name, doc in documents if name == "stream_resource")
    with h5py.File(uri.removeprefix("file://localhost"), "r", libver="latest", swmr=True) as file:
        frames = file["/entry/data"][:].astype(float)
    events = [doc["data"] for name, doc in documents if name == "event" and "mean_counts" in doc["data"]]
    means = {int(event["tile_index"]): float(event["mean_counts"]) for event in events}
    return documents[0][1], means, frames


def test_references_are_named_and_used(session: Session[Devices]) -> None:
    devices, side = session.devices, 256
    session.RE(session.plans["calibrate_dark"](devices.camera, devices.column, exposure_time_s=EXPOSURE_S))
    (dark,) = (one for one in session.calibrations if one.kind == "dark")
    start, means, frames = acquire(session)
    assert dark.uid not in start["calibration_uids"]  # without a bright one nothing is corrected
    assert means == pytest.approx(dict(enumerate(frames.mean(axis=(1, 2)))), rel=1e-3)

    even = np.ones((side, side), np.float32)
    ramp = even * np.linspace(0.6, 1.4, side, dtype=np.float32)
    keep(session, "bright", "ramp", ramp)
    keep(session, "bright", "elsewhere", even, camera="other")
    keep(session, "bright", "higher", even, magnification=8000.0)
    keep(session, "dark", "longer", even, values={"exposure_time_s": 1.0})
    start, means, frames = acquire(session)
    assert start["calibration_uids"] == [dark.uid, "ramp"]
    light = (frames - dark.load()["dark"]) / ramp
    assert means == pytest.approx(dict(enumerate(light.mean(axis=(1, 2)))), rel=2e-3)
    assert abs(means[0] / frames[0].mean() - 1) > 0.01  # which a mean of raw frames would not be
    _told_in_the_journal(Path(session.lab.journal_dir), start["uid"])


def _told_in_the_journal(folder: Path, uid: str) -> None:
    runs = [path.read_text().replace(" ", "") for path in folder.rglob("*.jsonl")]
    results = [one for one in runs if f'"input_uids":["{uid}"]' in one]
    assert len(results) == 2  # overview and live mosaic
    assert all('"corrected":true' in one for one in results)


def test_one_that_the_specification_asks_for_must_hold(session: Session[Devices]) -> None:
    keep(session, "dark", "longer", np.zeros((256, 256), np.float32), values={"exposure_time_s": 1.0})
    with pytest.raises(ConfigurationError, match=r"calibration dark .*newest is for exposure_time_s 1; run"):
        acquire(session, calibrations=("dark",))
