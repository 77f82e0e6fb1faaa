"""A montage stitched by a Dask cluster, or after a kill: the same as in one process, nothing done twice."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import textwrap
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dask import config

from devices.errors import ConfigurationError
from processing.stitching import rounds
from processing.stitching._jobs import Matched
from processing.stitching.cluster import DaskWorkers, cluster
from processing.stitching.drawing import draw_mosaic
from processing.stitching.frame_files import FrameFile
from processing.stitching.offline import MOSAIC, OfflineOptions, Stitched, inputs, stitch_tiles
from processing.stitching.options import StitchOptions
from processing.stitching.sources import TileSet, read_source
from processing.stitching.workers import FOLDER, InProcess, Record, half_drawn
from tests.processing.tile_folders import cut, worst_px, write_folder

OVERLAP = (0.2, 0.22)
OPTIONS = OfflineOptions(StitchOptions(first_search_px=24.0, degree=3))
ROWS, COLUMNS = 6, 7
TILES_A_JOB = 6


@pytest.fixture(scope="module", autouse=True)
def _small_jobs() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rounds, "_TILES", TILES_A_JOB)
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tiles")
    frames, _ = cut(ROWS, COLUMNS)
    frames[9] = np.full_like(frames[9], 7)
    write_folder(path, frames, COLUMNS)
    return path


@pytest.fixture(scope="module")
def tiles(folder: Path) -> TileSet:
    return read_source(folder, overlap=OVERLAP, pixel_size_nm=5.0)


@dataclass
class Counting:
    """Does jobs here, and counts them."""

    jobs: Counter[str] = field(default_factory=Counter)

    def run(
        self, function: Callable[[Any], Any], jobs: Sequence[Any], done: Callable[[int, Any], None]
    ) -> None:
        self.jobs[function.__name__] += len(jobs)
        InProcess().run(function, jobs, done)

    def check(self, frames: Sequence[Any], folder: Path) -> None:
        """Do nothing."""


@pytest.fixture(scope="module")
def alone(tiles: TileSet, tmp_path_factory: pytest.TempPathFactory) -> tuple[Stitched, Path, Counting]:
    """The montage stitched in one process, its mosaic, and the jobs that it took."""
    path, workers = tmp_path_factory.mktemp("alone") / MOSAIC, Counting()
    done = stitch_tiles(tiles, OPTIONS, workers=workers)
    draw_mosaic(done, path, OPTIONS, workers=workers)
    return done, path, workers


@pytest.fixture(scope="module")
def dask() -> Iterator[DaskWorkers]:
    with config.set({"distributed.scheduler.allowed-failures": 1}), cluster("local", 2) as workers:
        yield workers


def contents(folder: Path) -> dict[str, bytes]:
    return {str(one.relative_to(folder)): one.read_bytes() for one in folder.rglob("*") if one.is_file()}


def test_the_solution_of_jobs_is_right(alone: tuple[Stitched, Path, Counting]) -> None:
    done, _, workers = alone

    good = [k for k in range(ROWS * COLUMNS) if k != 9]
    assert worst_px(done.solution.positions_px[good], cut(ROWS, COLUMNS)[1][good]) < 0.1
    assert np.flatnonzero(~done.solution.matched).tolist() == [9]
    assert workers.jobs["match_job"] > 4


def test_a_cluster_makes_the_same_to_the_last_bit_though_a_worker_is_killed(
    tiles: TileSet, alone: tuple[Stitched, Path, Counting], dask: DaskWorkers, tmp_path: Path
) -> None:
    killed: list[int] = []

    def kill(what: str, done: int, of: int) -> None:
        if what == "match" and 0 < done < of and not killed:
            killed.append(next(iter(dask.client.run(os.getpid).values())))
            os.kill(killed[0], signal.SIGKILL)

    dask.check([one.frame for one in tiles.tiles], tmp_path)
    done = stitch_tiles(tiles, OPTIONS, kill, workers=dask)
    draw_mosaic(done, tmp_path / MOSAIC, OPTIONS, workers=dask)

    assert killed
    assert done.solution.to_json() == alone[0].solution.to_json()
    assert done.levels == alone[0].levels
    assert contents(tmp_path / MOSAIC) == contents(alone[1])


def test_files_that_workers_do_not_have_are_named_with_the_host(dask: DaskWorkers, tmp_path: Path) -> None:
    mine = os.open(tmp_path, os.O_RDONLY)
    high = os.dup2(mine, 963, inheritable=False)
    try:
        here_only = FrameFile(Path(f"/proc/self/fd/{high}"))
        assert not here_only.absent()
        with (
            cluster(dask.client.scheduler.address) as same,
            pytest.raises(
                ConfigurationError, match=rf"on host \S+ does not have /proc/\S+fd/{high}, which is here"
            ),
        ):
            same.check([here_only], tmp_path)
    finally:
        os.close(mine)
        os.close(high)
    assert not list(tmp_path.iterdir())


def test_jobs_that_no_worker_survives_end_with_what_to_do(dask: DaskWorkers) -> None:
    from devices.errors import MontangoError

    with pytest.raises(MontangoError, match=r"2 workers died.*die.*memory"):
        dask.run(die, [1], lambda *_: None)


def die(job: int) -> None:
    """Take the worker with it."""
    os.kill(os.getpid(), signal.SIGKILL * job)


def test_a_cluster_that_is_not_there_is_refused() -> None:
    with (
        pytest.raises(
            ConfigurationError, match=r"no Dask scheduler answers at tcp://127.0.0.1:9 .*dask worker"
        ),
        cluster("tcp://127.0.0.1:9", timeout_s=0.5),
    ):
        pass
    with pytest.raises(ConfigurationError, match="--workers is for --dask local"), cluster("tcp://h:1", 3):
        pass


KILLED = """
import os, signal, sys
from pathlib import Path
from tests.processing.test_stitch_dask import *
folder, out = map(Path, sys.argv[1:3])
rounds._TILES = TILES_A_JOB
tiles = read_source(folder, overlap=OVERLAP, pixel_size_nm=5.0)
def kill(what, done, of):
    if what == sys.argv[3] and done > 0:
        os.kill(os.getpid(), signal.SIGKILL)
with Record(out, inputs(tiles, OPTIONS)) as record:
    done = stitch_tiles(tiles, OPTIONS, kill, record=record)
    draw_mosaic(done, out / MOSAIC, OPTIONS, progress=kill, record=record)
"""


def test_after_a_kill_nothing_is_done_twice(
    folder: Path, tiles: TileSet, alone: tuple[Stitched, Path, Counting], tmp_path: Path
) -> None:
    kept = []
    for moment in ("match", "draw"):
        ended = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(KILLED), folder, tmp_path, moment],
            cwd=Path(__file__).parents[2], check=False,
        )  # fmt: skip
        assert ended.returncode == -signal.SIGKILL
        kept.append(len(list((tmp_path / FOLDER).glob("*.job"))))
        assert half_drawn(tmp_path) == (moment == "draw")
    assert kept[0] == 1

    workers = Counting()
    with Record(tmp_path, inputs(tiles, OPTIONS)) as record:
        assert record.found == kept[1]
        with pytest.raises(ConfigurationError, match="open for writing elsewhere"):
            Record(tmp_path, inputs(tiles, OPTIONS))
        done = stitch_tiles(tiles, OPTIONS, workers=workers, record=record)
        draw_mosaic(done, tmp_path / MOSAIC, OPTIONS, workers=workers, record=record)
        record.remove()

    assert not +workers.jobs
    assert done.solution.to_json() == alone[0].solution.to_json()
    assert contents(tmp_path) == {f"{MOSAIC}/{name}": one for name, one in contents(alone[1]).items()}


def test_a_mosaic_that_was_removed_is_drawn_again(
    tiles: TileSet, alone: tuple[Stitched, Path, Counting], tmp_path: Path
) -> None:
    def stop(what: str, done: int, _of: int) -> None:
        if done == 1:
            raise KeyboardInterrupt(what)

    with Record(tmp_path, inputs(tiles, OPTIONS)) as record:
        with pytest.raises(KeyboardInterrupt, match="draw"):
            draw_mosaic(alone[0], tmp_path / MOSAIC, OPTIONS, record=record, progress=stop)
        shutil.rmtree(tmp_path / MOSAIC)
        draw_mosaic(alone[0], tmp_path / MOSAIC, OPTIONS, record=record)
        with pytest.raises(ConfigurationError, match="exists already"):
            draw_mosaic(alone[0], alone[1], OPTIONS)

    assert contents(tmp_path / MOSAIC) == contents(alone[1])


def test_what_was_done_with_other_inputs_is_given_up(tiles: TileSet, tmp_path: Path) -> None:
    with Record(tmp_path, inputs(tiles, OPTIONS)) as record:
        record.put("match_job-1", {})
    os.utime(tiles.tiles[3].frame.where, ns=(1, 1))

    feather = replace(OPTIONS, blending="feather")
    with Record(tmp_path, inputs(tiles, feather)) as record:
        assert record.differences == ["files", "options"]
        assert record.found == 0
        assert record.get("match_job-1") is None


def test_what_a_job_found_is_kept_to_the_last_bit(tiles: TileSet) -> None:
    seen: list[Matched] = []

    class Keeping(InProcess):
        def run(self, function: Any, jobs: Any, done: Any) -> None:
            def came(index: int, found: Any) -> None:
                seen.append(found)
                done(index, found)

            super().run(function, jobs, came)

    stitch_tiles(tiles, OPTIONS, workers=Keeping())

    for found in seen:
        again = Matched.from_json(found.to_json())
        assert (again.levels, again.faults, again.unread) == (found.levels, found.faults, found.unread)
        for one, other in zip(found.pairs, again.pairs, strict=True):
            assert (one.first, one.second, one.match) == (other.first, other.second, other.match)
            if one.blocks is not None:
                assert other.blocks is not None
                assert np.array_equal(one.blocks.second_px, other.blocks.second_px)


def test_the_number_of_tiles_a_job_changes_nothing_that_matters(
    tiles: TileSet, alone: tuple[Stitched, Path, Counting], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rounds, "_TILES", 400)
    whole = stitch_tiles(tiles, OPTIONS).solution.positions_px

    assert np.abs(whole - alone[0].solution.positions_px).max() < 0.02
