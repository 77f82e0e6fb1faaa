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
from plans.stubs.reference import references_for
from plans.stubs.view import Setup
from processing.references import NEEDED

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
        ({"made_at_s": time.time() - 7200}, r"stale: 2(\.\d)? h old, over 1 h"),
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


def test_a_dark_reference_is_of_one_exposure(store: CalibrationStore) -> None:
    now = time.time()
    for uid, age_s, exposure_s in (("short", 200, 0.1), ("long", 100, 0.5)):
        values: dict[str, Any] = {"exposure_time_s": exposure_s}
        store.add(calibration("dark", uid, made_at_s=now - age_s, values=values))
    store.add(calibration("bright", "bright", values={"exposure_time_s": 0.5}))
    assert store.require("dark", **HERE).uid == "long"
    assert store.require("dark", **HERE, exposure_time_s=0.1004).uid == "short"
    assert store.require("bright", **HERE, exposure_time_s=0.1).uid == "bright"
    with pytest.raises(ConfigurationError, match=r"exposure_time_s 0.2 .*newest is for exposure_time_s 0.5"):
        store.require("dark", **HERE, exposure_time_s=0.2)


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({}, ""),
        ({"dark": {"camera": "other"}}, None),
        ({"bright": {"magnification": 8000.0}}, None),
        ({"dark": {"values": {"exposure_time_s": 0.3}}}, None),
        ({"bright": {"binning": 2}}, None),
        ({"dark": {"values": {"exposure_time_s": 0.1, "width_px": 64.0, "height_px": 64.0}}}, "64 x 64 px"),
        ({"bright": {"values": {"spread": 0.03}, "residuals": {"pixel_rms": 0.029}}}, "more noise"),
    ],
)
def test_references_that_hold_for_frames(
    store: CalibrationStore,
    changed: dict[str, dict[str, Any]],
    told: str | None,
    caplog: pytest.LogCaptureFixture,
) -> None:
    fits = {"exposure_time_s": 0.1, "width_px": 128.0, "height_px": 96.0}
    for kind in NEEDED:
        fields = {"values": {**fits, "spread": 0.03}, "residuals": {"pixel_rms": 0.01}}
        store.add(
            calibration(kind, f"{kind}-1", **(fields | changed.get(kind, {}))), {kind: np.ones((96, 128))}
        )
    found = references_for(store, Setup(5000.0, 120.0, "camera", 1), 0.1, (128, 96))
    assert [one.uid for one in found or ()] == ([] if changed else ["dark-1", "bright-1"])
    assert (told or "") in caplog.text
    assert bool(caplog.text) == bool(told)
