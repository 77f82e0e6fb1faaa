"""How well and how fast montages are stitched: ``montango bench stitch``.

Synthetic montages with exact truth (made from a seed, see `_stitch_sets`), recorded ones scored by blocks of
one tile found in another (`_block_residual`), the cost of a pair, of a solve, and of the pyramid, how soon a
tile is in the live mosaic (`_stitch_live`); with ``--peers`` other stitchers on the same files in the same
run, in an environment of their own.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from montango.bench._stitch_cluster import cluster_lines
from montango.bench._stitch_files import PEERS, Outcome, peers_python, run_ours, run_peer, write_montage
from montango.bench._stitch_line import Line, printed
from montango.bench._stitch_live import live
from montango.bench._stitch_parts import costs
from montango.bench._stitch_real import REAL, real_results
from montango.bench._stitch_sets import SETS, SyntheticSet, open_set

LIMITS_PX: Final = {"s25": 0.03, "s100": 0.03, "k64": 0.03, "s400": 0.06, "n100": 0.07, "e100": 0.04}
MEMORY_LIMIT_MB: Final = 300.0
PARTS: Final = ("sets", "real", "costs", "live")
CLUSTER_SET: Final = "s400"
"""Stitched by the whole command, too: in one process and by workers."""
DEFAULT_SETS: Final = ("s100", "n100", "e100", "k64", "s400")


def run(arguments: Sequence[str] = ()) -> int:
    """Run the measurement; return 0 if every limit is kept."""
    parser = argparse.ArgumentParser(prog="montango bench stitch", description=__doc__)
    parser.add_argument(
        "--sets", default=",".join(DEFAULT_SETS), help="synthetic montages: " + ", ".join(SETS)
    )
    parser.add_argument("--real", default=",".join(REAL), help="recorded montages: " + ", ".join(REAL))
    parser.add_argument("--data", type=Path, help="folder of the recorded data; without it there are none")
    parser.add_argument("--parts", default=",".join(PARTS), help="what to measure: " + ", ".join(PARTS))
    parser.add_argument("--peers", action="store_true", help="run other stitchers on the same files")
    parser.add_argument(
        "--peers-environment", type=Path, help="their environment (made where it is not there)"
    )
    parser.add_argument("--only", default="", help="peers to run: " + ", ".join(PEERS))
    parser.add_argument("--cache", type=Path, help="keeps what montages are cut from for the next time")
    parser.add_argument("--out", type=Path, help="write all figures there, as JSON")
    options = parser.parse_args(list(arguments))
    lines: list[Line] = []
    with tempfile.TemporaryDirectory(prefix="montango-stitch-") as temporary:
        folder = Path(temporary)
        python = None
        if options.peers:
            python = peers_python(options.peers_environment or folder / "peers")
        peers = [peer for peer in PEERS if not options.only or peer in options.only.split(",")]
        for name in filter(None, options.sets.split(",") if "sets" in options.parts else ()):
            made = open_set(name, options.cache or folder / "canvas", options.data)
            lines += synthetic(made, folder / name, python, peers)
            shutil.rmtree(folder / name)
        if options.data is not None and "real" in options.parts:
            for name in filter(None, options.real.split(",")):
                lines += printed(name, real_results(name, options.data, folder / name, python, peers))
        if "costs" in options.parts:
            lines += printed("costs", costs(options.cache or folder / "canvas", options.data))
        if "live" in options.parts:
            lines += printed("live", live(options.cache or folder / "canvas", options.data))
    if options.out is not None:
        options.out.write_text(json.dumps([vars(line) for line in lines], indent=1))
    missed = [line for line in lines if not line.holds]
    print(f"\n{len(lines) - len(missed)} of {len(lines)} figures keep their limit")
    return 1 if missed else 0


def synthetic(made: SyntheticSet, folder: Path, python: Path | None, peers: Sequence[str]) -> list[Line]:
    """Stitch a montage whose truth is known; print and return the figures."""
    spec, half = made.spec, (made.tile_px - 1) / 2
    search_px = max(60.0, 3.2 * spec.stage_sigma_px)
    images = (image for _, image in made.tiles())
    write_montage(folder, images, made.nominal_px - half, made.row.tolist(), made.column.tolist(), search_px)
    print(
        f"\n{spec.name}: {spec.rows} x {spec.columns} tiles of {spec.tile_px} px, "
        f"overlap {spec.overlap_px} px, stage {spec.stage_sigma_px:g} px, noise {spec.noise_sigma:g}"
    )
    pairs = np.array(list(made.pairs()))
    outcome = run_ours(folder, distortion=False)
    lines = _scored(spec.name, "montango", outcome, made, pairs)
    lines[0].limit = LIMITS_PX.get(spec.name, math.nan)
    lines[1].limit = 0
    if spec.name == "s400":
        lines[4].limit = MEMORY_LIMIT_MB
    lines += _scored(spec.name, "montango, distortion free", run_ours(folder, distortion=True), made, pairs)
    if spec.name == CLUSTER_SET:
        lines += cluster_lines(spec.name, folder)
    for line in lines:
        print(line)
    for peer in peers if python is not None else ():
        if peer == "feabas-elastic":
            continue  # nothing is bent here: its places are those of the meshes' middles
        assert python is not None
        theirs = _scored(spec.name, peer, run_peer(python, peer, folder), made, pairs)
        for line, ours in zip(theirs, lines, strict=False):
            if math.isnan(line.value):
                continue
            ratio = (
                "" if not line.value or not ours.value else f"   ours / theirs {ours.value / line.value:.2f}"
            )
            print(f"{line}{ratio}")
    return lines


def _scored(name: str, who: str, outcome: Outcome, made: SyntheticSet, pairs: Any) -> list[Line]:
    if outcome.first_px is None:
        print(f"  {who}: {outcome.error}")
        return [Line(f"{name} {who}: failed", math.inf, limit=0.0)]
    error = outcome.first_px + (made.tile_px - 1) / 2 - made.true_px
    error -= np.median(error, axis=0)
    seams = np.hypot(*(error[pairs[:, 1]] - error[pairs[:, 0]]).T)
    per_pair = 1e3 / len(pairs)
    return [
        Line(f"{name} {who}: RMSE", float(np.sqrt((error**2).sum(1).mean())), "px"),
        Line(f"{name} {who}: seams wrong by over 1 px", float((seams > 1).sum()), f"of {len(pairs)}"),
        Line(f"{name} {who}: CPU a seam, whole process", outcome.cpu_s * per_pair, "ms"),
        Line(f"{name} {who}: CPU a seam, imports apart", outcome.work_s * per_pair, "ms"),
        Line(f"{name} {who}: peak memory", outcome.peak_mb, "MB"),
    ]
