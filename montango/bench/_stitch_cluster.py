"""A montage stitched by the command, mosaic and report included: in one process, and by Dask workers."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import psutil

from montango.bench._stitch_line import Line

WORKERS: Final = 2
_POLL_S: Final = 0.5


def cluster_lines(name: str, folder: Path) -> list[Line]:
    """Return wall and processor time, peak memory, and whether both results are the same.

    Parameters
    ----------
    name
        Of the montage.
    folder
        As `montango.bench._stitch_files.write_montage` leaves it.
    """
    given = json.loads((folder / "set.json").read_text())
    rows = zip(given["paths"], given["first_px"], given["rows"], given["columns"], strict=True)
    with (folder / "positions.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "x_px", "y_px", "row", "column"])
        writer.writerows([Path(path).name, x, y, row, column] for path, (x, y), row, column in rows)
    lines: list[Line] = []
    results: list[dict[str, bytes]] = []
    for who, more in (
        ("one process", ()),
        (f"--dask local --workers {WORKERS}", ("--dask", "local", "--workers", str(WORKERS))),
    ):
        out = folder / f"out-{len(results)}"
        words = [str(folder), "--out", str(out), "--search-px", str(given["search_px"]), *more]
        wall_s, cpu_s, peak_mb = _measured(words)
        lines += [
            Line(f"{name} montango stitch, {who}: wall", wall_s, "s"),
            Line(f"{name} montango stitch, {who}: CPU of all processes", cpu_s, "s"),
            Line(f"{name} montango stitch, {who}: peak memory of the largest", peak_mb, "MB"),
        ]
        results.append({one.name: one.read_bytes() for one in out.glob("solution.json")} | _files(out))
    differ = sum(results[0].get(one) != results[1].get(one) for one in results[0].keys() | results[1].keys())
    lines.append(Line(f"{name} files of solution and mosaic that differ between the two", differ, "", 0.0))
    return lines


def _files(out: Path) -> dict[str, bytes]:
    mosaic = out / "mosaic.ome.zarr"
    return {str(one.relative_to(out)): one.read_bytes() for one in mosaic.rglob("*") if one.is_file()}


def _measured(words: Sequence[str]) -> tuple[float, float, float]:
    """Run the command; return wall time, processor time of all its processes, and the largest peak, MB."""
    began = time.perf_counter()
    command = subprocess.Popen(
        [sys.executable, "-m", "montango", "stitch", *words], stdout=subprocess.DEVNULL
    )
    process = psutil.Process(command.pid)
    cpu: dict[int, float] = {}
    peak = 0.0
    while command.poll() is None:
        for one in (process, *_children(process)):
            try:
                times = one.cpu_times()
                cpu[one.pid] = max(cpu.get(one.pid, 0.0), times.user + times.system)
                status = Path(f"/proc/{one.pid}/status").read_text()
            except (psutil.Error, OSError):
                continue
            peaks = [int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmHWM:")]
            peak = max(peak, *peaks, 0.0)
        time.sleep(_POLL_S)
    if command.returncode:
        raise RuntimeError(f"montango stitch {' '.join(words)} ended with {command.returncode}")
    return time.perf_counter() - began, sum(cpu.values()), peak


def _children(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.children(recursive=True)
    except psutil.Error:
        return []
