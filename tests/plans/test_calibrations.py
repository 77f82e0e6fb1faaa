"""The store of calibrations: what it finds, what it refuses and why, and that nothing is ever half there."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from devices.errors import ConfigurationError
from plans.calibrations import ABOUT, KINDS, Calibration, CalibrationKind, CalibrationStore

HERE: dict[str, Any] = {"magnification": 5000.0, "camera": "camera", "binning": 1}


def calibration(kind: CalibrationKind = "stage_camera", uid: str = "a", **changes: Any) -> Calibration:
    """Return a calibration made now."""
    fields: dict[str, Any] = {
        "uid": uid,
        "kind": kind,
        "made_at_s": time.time(),
        "high_voltage_kv": 120.0,
        "values": {"pixel_size_nm": 4.0, "stage_per_px_um": [[0.004, 0.0], [0.0, 0.004]]},
        "residuals": {"position_rms_um": 0.01},
        **HERE,
    }
    return Calibration(**(fields | changes))


@pytest.fixture
def store(tmp_path: Path) -> CalibrationStore:
    """Return an empty store."""
    return CalibrationStore(tmp_path / "calibrations")


def test_what_is_kept_is_found_again(store: CalibrationStore) -> None:
    arrays = {"dark": np.arange(12, dtype=np.float32).reshape(3, 4)}
    kept = store.add(calibration("dark", "d1"), arrays)
    again = CalibrationStore(store.folder).get("d1")
    assert again == kept
    assert np.array_equal(again.load()["dark"], arrays["dark"])
    plain = store.add(calibration(uid="s1"))
    assert store.get("s1") == plain
    assert plain.number("pixel_size_nm") == 4.0
    assert plain.matrix("stage_per_px_um") == ((0.004, 0.0), (0.0, 0.004))
    with pytest.raises(ConfigurationError, match="no calibration of run nobody"):
        store.get("nobody")


def test_a_value_that_is_missing_or_of_another_shape_is_named() -> None:
    one = calibration(values={"pair": [1.0, 2.0], "ragged": [[1.0], [2.0, 3.0]], "number": 1.0})
    for name in ("absent", "pair"):
        with pytest.raises(ConfigurationError, match=f"no {name}; run calibrate_stage_camera"):
            one.number(name)
    for name in ("absent", "pair", "ragged", "number"):
        with pytest.raises(ConfigurationError, match=f"no {name}"):
            one.matrix(name)
    with pytest.raises(ConfigurationError, match="no arrays"):
        one.load()


def test_newest_that_fits(store: CalibrationStore) -> None:
    now = time.time()
    for uid, age_s, changes in (
        ("old", 300, {}),
        ("new", 200, {}),
        ("other", 100, {"magnification": 8000.0}),
        ("binned", 50, {"binning": 4}),
    ):
        store.add(calibration(uid=uid, made_at_s=now - age_s, **changes))
    assert store.newest("stage_camera", magnification=8000.0, camera="camera") is not None
    found = store.newest("stage_camera", **HERE)
    assert found is not None
    assert found.uid == "binned", "a matrix for unbinned pixels holds for every binning"
    assert [one.uid for one in store] == ["binned", "other", "new", "old"]


def test_each_kind_depends_on_what_its_table_says(store: CalibrationStore) -> None:
    for kind in KINDS:
        store.add(calibration(kind, f"uid-{kind}"))
        about = ABOUT[kind]
        for name, other, matters in (
            ("magnification", 5001.0, about.magnification),
            ("camera", "other", about.camera),
            ("binning", 2, about.binning),
        ):
            found = store.newest(kind, **(HERE | {name: other}))
            assert (found is None) == matters, (kind, name)


@pytest.mark.parametrize("kind", KINDS)
def test_missing_is_refused_by_name(store: CalibrationStore, kind: CalibrationKind) -> None:
    with pytest.raises(ConfigurationError) as caught:
        store.require(kind, **HERE)
    message = str(caught.value)
    assert f"calibration {kind} ({ABOUT[kind].title})" in message
    assert "never made" in message
    assert f"run {ABOUT[kind].plan}" in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"magnification": 8000.0}, "the newest is for magnification 8000"),
        ({"camera": "ccd2"}, "the newest is for camera ccd2"),
        ({"camera": "ccd2", "binning": 4}, "the newest is for camera ccd2 and binning 4"),
        ({"made_at_s": time.time() - 7200}, "stale: 2 h old, over 1 h"),
    ],
)
def test_why_none_will_do(store: CalibrationStore, changes: dict[str, Any], why: str) -> None:
    store.add(calibration("bright", **changes))
    with pytest.raises(ConfigurationError, match=why):
        store.require("bright", **HERE, max_age_s=3600)
    fresh = store.add(calibration("bright", "b"))
    assert store.require("bright", **HERE, max_age_s=3600) == fresh


def test_a_torn_file_is_left_out_at_whatever_byte_it_ends(
    store: CalibrationStore, caplog: pytest.LogCaptureFixture
) -> None:
    whole = store.add(calibration(uid="whole", made_at_s=1000.0))
    torn = store.folder / "torn.json"
    content = next(store.folder.glob("*.json")).read_bytes()
    with caplog.at_level(logging.CRITICAL):
        for size in range(len(content)):
            torn.write_bytes(content[:size])
            assert list(store) == [whole]
    torn.write_bytes(content[: len(content) // 2])
    assert list(store) == [whole]
    assert "torn.json is no calibration" in caplog.text


def test_damaged_arrays_are_refused(store: CalibrationStore) -> None:
    kept = store.add(calibration("dark"), {"dark": np.zeros((64, 64), np.float32)})
    assert kept.arrays is not None
    content = kept.arrays.read_bytes()
    for size in (0, 10, len(content) // 2, len(content) - 1):
        kept.arrays.write_bytes(content[:size])
        with pytest.raises(ConfigurationError, match=r"cannot be read.*run calibrate_dark again"):
            kept.load()
    kept.arrays.write_bytes(content[:300] + b"\xff" + content[301:])
    with pytest.raises(ConfigurationError, match="cannot be read"):
        kept.load()
    kept.arrays.unlink()
    with pytest.raises(ConfigurationError, match="cannot be read"):
        kept.load()


WRITER = """
import sys, itertools, numpy as np
sys.path.insert(0, sys.argv[2])
from plans.calibrations import Calibration, CalibrationStore
store = CalibrationStore(sys.argv[1])
for n in itertools.count():
    one = Calibration(uid=str(n), kind="dark", made_at_s=1.0 + n, magnification=1, high_voltage_kv=1,
                      camera="c", binning=1, values={"n": float(n)})
    store.add(one, {"dark": np.full((300, 300), n, np.float32)})
    print(n, flush=True)
"""


def test_a_writer_killed_leaves_whole_calibrations(store: CalibrationStore) -> None:
    root = str(Path(__file__).parents[2])
    command = [sys.executable, "-c", WRITER, str(store.folder), root]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        last = -1
        for line in writer.stdout:
            last = int(line)
            if last >= 5:
                break
        os.kill(writer.pid, signal.SIGKILL)
    found = list(store)
    assert {one.uid for one in found} >= {str(n) for n in range(last + 1)}
    for one in found:
        assert (one.load()["dark"] == one.number("n")).all()


@pytest.mark.parametrize(
    "changes",
    [
        {"uid": ""},
        {"kind": "guess"},
        {"made_at_s": float("nan")},
        {"magnification": 0},
        {"binning": 0},
        {"values": {"x": "text"}},
        {"surprise": 1},
    ],
)
def test_what_is_no_calibration(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        calibration(**changes)
