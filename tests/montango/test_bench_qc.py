"""`montango bench qc` in small: frames, judging, curves, files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from devices.errors import ConfigurationError
from montango.bench import qc
from montango.bench._qc_cost import costs
from montango.bench._qc_frames import Recorded, Simulated
from montango.bench._qc_rates import Judged, judge_source
from processing.callbacks.verdicts import QCThresholds
from sim.config import SpecimenConfig
from tests.processing.specimens import tissue


def test_faults_of_the_simulator_are_told_from_clean_tissue() -> None:
    frames = Simulated("tissue", SpecimenConfig(texture_px=1024))
    judged = judge_source(frames, (0.7,), clean=60, spoiled=6, thresholds=QCThresholds())
    assert len(judged.clean) == 60
    assert sum(judged.alarms.values()) == 0
    areas = {fault: judged.area(fault, 0.7) for fault in frames.faults}
    assert {fault: area for fault, area in areas.items() if area < qc.AREA_LIMIT} == {}
    named = {fault: set(judged.named[fault, 0.7]) for fault in frames.faults}
    assert named["frozen_frame"] == {"frozen"}
    assert named["incomplete"] == {"incomplete"}
    assert named["charging"] == {"charging"}
    assert named["debris"] <= {"debris", "vignetted"}


def test_sub_tiles_of_micrographs_are_spoiled_as_asked() -> None:
    micrograph = (tissue((700, 900)) * 255).astype(np.uint8)
    frames = Recorded("micrograph", [micrograph], 256)
    clean = frames.spoiled(5, "", 0.0).astype(float)
    assert clean.shape == (256, 256)
    assert frames.spoiled(5, "gain", 1.0).mean() < 0.2 * clean.mean()
    assert frames.spoiled(5, "defocus", 1.0).std() < 0.8 * clean.std()
    lost = frames.spoiled(5, "dropout", 0.5)
    assert np.sum(lost.std(axis=1) == 0) == 76
    short = frames.spoiled(5, "incomplete", 0.5)
    assert not short[-115:].any()
    assert short[:-115].all()
    assert len(list(frames.montage(0, 3))) == 3


def test_a_montage_of_sub_tiles_has_neighbours_that_overlap() -> None:
    micrograph = (tissue((700, 900)) * 255).astype(np.uint8)
    frames = Recorded("micrograph", [micrograph], 256)
    assert frames.scenes == 6
    first, second = list(frames.montage(3, 2))
    # a tenth of the width, but for noise; montages may be mirrored
    sides = [(first[:, -26:], second[:, :26]), (first[:, :26], second[:, -26:])]
    assert max(np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in sides) > 0.9


def test_what_cannot_be_judged_is_left_out_of_the_clean_tiles_of_a_blur() -> None:
    judged = Judged("known", clean=[{"blurred": 0.9}, {"blurred": 0.1}], judgeable=[False, True])
    judged.spoiled["blur", 1.0] = [{"blurred": 0.5}]
    assert judged.area("blur", 1.0) == 1
    assert judged.judged_share == 0.5


def test_the_area_under_the_curve_has_known_values() -> None:
    judged = Judged(
        "known", clean=[{"dark": 0.1}, {"dark": 0.3}], spoiled={("beam_loss", 1.0): [{"dark": 0.2}]}
    )
    assert judged.area("beam_loss", 1.0) == 0.5
    judged.spoiled["beam_loss", 1.0] = [{"dark": 0.3}]
    assert judged.area("beam_loss", 1.0) == 0.75


def test_the_command_writes_figures_and_pictures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MONTANGO_TEST_DATA", raising=False)
    small = ["--tiles", "20", "--spoiled", "1", "--frame-px", "256", "--no-cost"]
    assert qc.run([*small, "--out", str(tmp_path)]) in (0, 1)  # one tile of each is no measure
    figures = json.loads((tmp_path / "qc.json").read_text())["sources"]["procedural tissue"]
    assert figures["clean"] == 20
    assert set(figures["faults"]) == set(Simulated.faults)
    assert (tmp_path / "roc-procedural-tissue.png").stat().st_size > 10_000
    assert "clean tiles" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--tiles", "3"], "--tiles 3"), (["--data", "/nowhere"], "/nowhere"), (["--source", "moon"], "moon")],
)
def test_what_cannot_be_measured_is_refused(arguments: list[str], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        qc.run(arguments)


def test_cost_is_measured_of_every_part() -> None:
    frame = np.random.default_rng(0).integers(1000, 9000, (512, 512)).astype(np.uint16)
    rows = costs(frame, repeats=1)
    assert [row.what for row in rows][-1] == "everything"
    assert all(row.ours > 0 and row.plain > 0 for row in rows)
