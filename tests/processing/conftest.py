"""A live mosaic, and runs that feed it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.processing.documents import MontageRun
from tests.processing.live_montages import COLUMNS, ROWS, SIZE, VIEW, Start, Watched


@pytest.fixture
def watched(tmp_path: Path) -> Watched:
    return Watched(tmp_path)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    runs = []

    def make(emit: Any, **options: Any) -> MontageRun:
        view = {"width_px": SIZE, "height_px": SIZE, "stage_per_px_um": VIEW.tolist()}
        metadata: dict[str, Any] = {
            "montage_view": view,
            "num_points": ROWS * COLUMNS,
            "ring_slots": 20,
        } | options
        runs.append(MontageRun(tmp_path, (SIZE, SIZE), emit, **metadata))
        return runs[-1]

    yield make
    for run in runs:
        run.close()
