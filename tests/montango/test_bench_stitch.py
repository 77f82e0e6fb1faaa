"""The figures of ``montango bench stitch`` rest on these parts: they must see an error where there is one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from montango.bench._block_residual import block_residual, translation
from montango.bench._stitch_files import Outcome, run_ours, write_montage
from montango.bench._stitch_line import Line
from montango.bench._stitch_live import live_figures
from montango.bench._stitch_sets import SetSpec, SyntheticSet
from montango.bench.stitch import synthetic
from tests.processing.specimens import tissue

SPEC = SetSpec("small", 2, 2, 512, 96, 5.0, 6.0)


@pytest.fixture(scope="module")
def small() -> SyntheticSet:
    canvas = 140 + 60 * (tissue((SPEC.canvas_px, SPEC.canvas_px), 3) - 0.5)
    return SyntheticSet(SPEC, np.clip(canvas, 0, 255).astype(np.uint8))


def test_blocks_see_how_far_a_solution_is_off(small: SyntheticSet) -> None:
    images = [image for _, image in small.tiles()]
    pairs = list(small.pairs())
    true = block_residual(images, pairs, translation(small.true_px))
    assert true.median_px < 0.15
    assert true.bad_pairs == 0
    assert true.blocks > 10
    off = small.true_px + np.array([(0, 0), (1.5, 0), (0, 0), (1.5, 0)])
    assert block_residual(images, pairs[:1], translation(off)).median_px == pytest.approx(1.5, abs=0.15)


def test_blocks_that_are_not_there_are_no_evidence(small: SyntheticSet) -> None:
    images = [small.image(0), np.full_like(small.image(1), 90)]
    found = block_residual(images, [(0, 1)], translation(small.true_px))
    assert found.blocks == 0
    assert np.isnan(found.median_px)
    assert found.bad_pairs == 1


@pytest.mark.slow
def test_a_montage_of_files_is_stitched_in_a_process_of_its_own(
    small: SyntheticSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = synthetic(small, tmp_path, None, [])
    rmse, wrong = lines[0], lines[1]
    assert rmse.value < 0.05
    assert wrong.value == 0
    assert "small montango: RMSE" in capsys.readouterr().out


def test_a_stitcher_that_fails_says_why(tmp_path: Path) -> None:
    write_montage(tmp_path, [], np.zeros((0, 2)), [], [], 60.0)
    outcome: Outcome = run_ours(tmp_path, distortion=False)
    assert outcome.first_px is None
    assert "IndexError" in outcome.error


def test_a_limit_that_is_not_kept_is_told() -> None:
    assert Line("memory", 250.0, "MB", 300.0).holds
    assert not Line("memory", 350.0, "MB", 300.0).holds
    assert "NOT KEPT" in str(Line("memory", 350.0, "MB", 300.0))
    assert not Line("rate", 350.0, "MB", 400.0, at_least=True).holds
    assert Line("of no limit", 1.0).holds


def test_tiles_are_followed_into_the_live_mosaic(small: SyntheticSet, tmp_path: Path) -> None:
    lines = {line.what: line for line in live_figures(small, tmp_path, period_s=0.0, warm=1)}
    for step in ("judged", "solved", "in the pyramid", "and readable on disk"):
        middle, high = (lines[f"small: {step}, {share}"].value for share in ("p50", "p95"))
        assert 0 < middle <= high < np.inf
    assert lines["small: tiles not readable when announced"].value == 0
    assert lines["small: live and offline places apart, at most"].holds
    assert lines["small: CPU a tile, all threads"].value > 0
