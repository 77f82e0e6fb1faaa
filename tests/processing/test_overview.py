"""The overview: tiles lie where the stage said they were, upright, the best of each, in bounded memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import event_model
import h5py
import numpy as np
import pytest

from devices.errors import ConfigurationError
from processing.callbacks._documents import Document
from processing.callbacks._mosaic import Mosaic
from processing.callbacks.overview import Overview
from tests.processing.documents import MontageRun
from tests.processing.specimens import tissue

Start = Callable[..., MontageRun]


@pytest.fixture
def emitted() -> list[Document]:
    return []


@pytest.fixture
def overview(tmp_path: Path, emitted: list[Document]) -> Overview:
    return Overview(tmp_path / "out", lambda *doc: emitted.append(doc), reduction=2)


@pytest.fixture
def start(tmp_path: Path, overview: Overview) -> Iterator[Start]:
    runs = []

    def make(shape: tuple[int, int], **options: Any) -> MontageRun:
        run = MontageRun(tmp_path, shape, options.pop("emit", overview), **options)
        runs.append(run)
        return run

    yield make
    for run in runs:
        run.close()


def read(emitted: list[Document]) -> tuple[np.ndarray, dict[str, Any]]:
    path = Path(dict(emitted)["stream_resource"]["uri"].removeprefix("file://localhost"))
    with h5py.File(path) as file:
        return file["/entry/overview"][:], dict(file["/entry/overview"].attrs)


@pytest.mark.parametrize("rotation_deg", [0.0, 30.0, -100.0])
def test_tiles_lie_where_the_stage_read_back(
    start: Start, emitted: list[Document], rotation_deg: float
) -> None:
    specimen = (tissue((400, 500)) * 30000).astype(np.uint16)
    shape, pixel_um = (120, 160), 0.02
    angle = math.radians(rotation_deg)
    run = start(shape, pixel_size_nm=pixel_um * 1e3, image_rotation_deg=rotation_deg, ring_slots=20)
    frames, positions = [], []
    for top in range(0, 281, 100):
        for left in range(0, 341, 140):
            frames.append(specimen[top : top + 120, left : left + 160].copy())
            u, v = left + 80, top + 60
            x_um = pixel_um * (math.cos(angle) * u - math.sin(angle) * v)
            positions.append((x_um + 5.0, pixel_um * (math.sin(angle) * u + math.cos(angle) * v) - 3.0))
    # rows and columns matter only for telling attempts apart; the place comes from the stage alone
    run.tiles(frames, positions)
    run.stop()
    picture, attributes = read(emitted)
    expected = cv2.resize(specimen[:320, :440], None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    assert picture.shape == expected.shape
    np.testing.assert_allclose(picture, expected, atol=2)
    assert attributes["pixel_size_nm"] == pytest.approx(40)
    assert attributes["image_rotation_deg"] == rotation_deg
    x_um = pixel_um * (math.cos(angle) * 0.5 - math.sin(angle) * 0.5)
    y_um = pixel_um * (math.sin(angle) * 0.5 + math.cos(angle) * 0.5)
    # the stage offset of (5, -3) um moves the origin with it, to the rounding of one pixel
    np.testing.assert_allclose(attributes["origin_um"], [x_um + 5, y_um - 3], atol=0.04)


def test_the_picture_to_look_at_has_robust_contrast(
    start: Start, emitted: list[Document], overview: Overview
) -> None:
    frame = (tissue((128, 128)) * 10000 + 20000).astype(np.uint16)
    frame[:2, :2] = 65535  # a hot corner takes no contrast from the rest
    run = start((128, 128), pixel_size_nm=10.0)
    run.tiles([frame, frame], [(0.0, 0.0), (2.0, 0.0)], row=0.0)
    run.stop()
    assert overview.last_png is not None
    png = cv2.imread(str(overview.last_png), cv2.IMREAD_UNCHANGED)
    assert png is not None
    assert png.dtype == np.uint8
    assert png.shape == (64, 164)
    left, gap = png[:, :64], png[:, 64:100]
    assert (gap == 0).all()
    assert left.max() == 255
    assert np.ptp(np.percentile(left, [5, 95])) > 150


def test_documents_of_the_derived_run_are_valid_and_name_their_input(
    start: Start, emitted: list[Document]
) -> None:
    run = start((64, 64))
    run.tiles([np.full((64, 64), 7, np.uint16)])
    run.stop()
    for name, doc in emitted:
        event_model.schema_validators[event_model.DocumentNames[name]].validate(doc)
    assert [name for name, _ in emitted] == ["start", "descriptor", "stream_resource", "stream_datum", "stop"]
    derived = emitted[0][1]
    assert derived["input_uids"] == [run.uid]
    assert (derived["purpose"], derived["recipe"]) == ("processing", "overview")
    assert (derived["montage_id"], derived["sample"], derived["operator"]) == ("m-1", "s-1", "ada")
    assert "montango" in derived["software"]
    assert Path(derived["png"]).is_file()


@pytest.mark.parametrize(
    ("states", "shown"),
    [
        ([None, None], 1),
        (["fail", "pass"], 1),
        (["pass", "fail"], 0),
        (["fail", "fail"], 1),
        (["fail", None], 1),
        (["pass", "pass"], 1),
        (["fail", "pass", "fail"], 1),
        (["pass", "fail", "fail", "pass"], 3),
    ],
)
def test_the_best_attempt_is_shown(
    start: Start, emitted: list[Document], states: list[str | None], shown: int
) -> None:
    run = start((64, 64))
    for attempt, state in enumerate(states):
        frame = np.full((64, 64), 1000 * (attempt + 1), np.uint16)
        run.tiles([frame], [(0.0, 0.0)], row=0.0, column=0.0, attempt=float(attempt))
        if state:
            run.verdict({"tile_index": attempt, "qc_state": state, "faults": "[]"})
    run.stop()
    picture, _ = read(emitted)
    assert (picture == 1000 * (shown + 1)).all()


def test_the_picture_stays_bounded_while_the_montage_grows() -> None:
    mosaic = Mosaic(reduction=1, max_px=300)
    for index in range(400):
        row, column = divmod(index, 20)
        frame = np.full((100, 100), index + 1, np.uint16)
        mosaic.add((0, row, column), index, frame, (column * 90.0, row * 90.0))
        assert max(mosaic.picture().pixels.shape) <= 300 if index in (0, 3, 50, 399) else True
    picture = mosaic.picture()
    assert picture.reduction == 8
    assert picture.covered.all()  # overlapping tiles leave no gap, whatever the rounding
    assert len(mosaic) == 400


def test_tiles_edge_to_edge_leave_no_gap() -> None:
    mosaic = Mosaic(reduction=7, max_px=4096)
    for index in range(16):
        row, column = divmod(index, 4)
        mosaic.add((0, row, column), index, np.full((100, 100), 9, np.uint16), (column * 100.0, row * 100.0))
    assert mosaic.picture().covered.all()


def test_a_run_without_tiles_or_calibration(start: Start, emitted: list[Document], tmp_path: Path) -> None:
    start((64, 64)).stop()
    assert emitted == []
    run = start((64, 64), emit=None, calibration={})
    run.tiles([np.zeros((64, 64), np.uint16)])
    overview = Overview(tmp_path, lambda *_: None)
    *before, (name, doc) = [one for one in run.documents if one[0] != "stream_datum"] + [
        one for one in run.documents if one[0] == "stream_datum"
    ][:1]
    for earlier in before:
        overview(*earlier)
    with pytest.raises(ConfigurationError, match="image_rotation_deg"):
        overview(name, doc)
    with pytest.raises(ConfigurationError, match="max_px"):
        Overview(tmp_path, lambda *_: None, max_px=1)
