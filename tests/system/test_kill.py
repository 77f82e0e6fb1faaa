"""Kills in the middle of montages: a short run of ``montango bench kill``."""

from __future__ import annotations

from pathlib import Path

import pytest

from montango.bench.kill import kill

pytestmark = [pytest.mark.system, pytest.mark.slow]


def test_nothing_is_lost_or_exposed_twice_whatever_is_killed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    targets = ("engine", "sequencer", "lab", "camera")
    assert kill(tmp_path, 4, seed=1, catalog=False, targets=targets) == 0, capsys.readouterr().out
    report = capsys.readouterr().out
    assert "invariants that do not hold         0" in report
    assert all(target in report for target in targets)
