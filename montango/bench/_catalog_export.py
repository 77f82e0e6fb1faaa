"""Memory of an export of very many tiles, each in a process of its own: ``python -m`` this, see `measure`."""

from __future__ import annotations

import json
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from montango.bench._catalog_made import PITCH_UM, Made, tile_numbers, write_frames
from montango.lab.processes import dies_with_parent
from processing.callbacks.journal import encode
from tiled_server.exports.memory import one_arena
from tiled_server.exports.options import Format

FORMATS: Final = (Format.OME_ZARR, Format.RO_CRATE)
LIMIT_MB: Final = 64.0
"""Most that memory may grow from a tenth of the tiles to the last."""
_FRAME_PX: Final = 32


@dataclass(frozen=True)
class Exported:
    """An export: tiles, time, s, size, MB, and the largest memory of its process, MB, at three moments."""

    tiles: int
    seconds: float
    size_mb: float
    read_mb: float
    tenth_mb: float
    end_mb: float


def write_journal(folder: Path, tiles: int, seed: int) -> str:
    """Write a montage of small frames into a journal, straight into its file; return its id."""
    made = Made(seed, 1, tiles)
    (folder / "data").mkdir(parents=True)
    path = folder / "data" / "frames.h5"
    rng = np.random.default_rng(seed)
    write_frames(path, tiles, rng.integers(1, 60_000, (_FRAME_PX, _FRAME_PX), dtype=np.uint16))
    day = folder / "journal" / time.strftime("%Y-%m-%d", time.localtime(made.started))
    day.mkdir(parents=True)
    with (day / f"{made.uid}.jsonl").open("wb") as journal:
        journal.writelines(_lines(made, path))
    return made.montage_id


def _lines(made: Made, path: Path) -> Iterator[bytes]:
    side = 1 + int(tile_numbers(made.tiles)["row"].max())
    start = made.start() | {"montage_spec": {"rows": side, "columns": side}}
    # so large that these small frames overlap by a tenth
    start["calibration"] = {"pixel_size_nm": 1e3 * PITCH_UM / (0.9 * _FRAME_PX), "image_rotation_deg": 0.0}
    yield encode("start", start)
    keys = {"image": {"shape": [1, _FRAME_PX, _FRAME_PX], "dtype": "array", "source": ""}}
    common = {"run_start": made.uid}
    yield encode(
        "descriptor", {"uid": "d", "name": "tiles", "data_keys": keys, "configuration": {}, **common}
    )
    resource_doc = {"uid": "r", "data_key": "image", "mimetype": "application/x-hdf5", "parameters": {}}
    yield encode("stream_resource", {**resource_doc, "uri": f"file://localhost{path}", **common})
    span = {"indices": {"start": 0, "stop": made.tiles}, "seq_nums": {"start": 1, "stop": made.tiles + 1}}
    yield encode("stream_datum", {"uid": "r/0", "stream_resource": "r", "descriptor": "d", **span})
    yield encode("descriptor", {"uid": "q", "name": "qc", "data_keys": {}, **common})
    verdicts = {name: values.tolist() for name, values in made.verdicts().items()}
    for index in range(made.tiles):
        data = {name: values[index] for name, values in verdicts.items()}
        event = {"uid": f"e{index}", "descriptor": "q", "seq_num": index + 1, "time": 0, "timestamps": {}}
        yield encode("event", {**event, "data": data | {"qc_state": "pass"}})
    yield encode("stop", made.stop())


def measure(folder: Path, montage_id: str, to: Format) -> Exported:
    """Export a montage of a journal in a process of its own; return what it took."""
    command = [*dies_with_parent(), sys.executable, "-m", __spec__.name, str(folder), montage_id, to.value]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"the export failed: {done.stderr[-1000:]}")
    return Exported(**json.loads(done.stdout.splitlines()[-1]))


def _peak_mb() -> float:
    """Return the largest memory of this process so far, MB."""
    status = Path("/proc/self/status")
    if status.exists():  # the kernel's other figure begins with that of the parent
        line = next(one for one in status.read_text().splitlines() if one.startswith("VmHWM:"))
        return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _export(folder: Path, montage_id: str, to: Format) -> dict[str, Any]:
    one_arena()  # as the command and the jobs of a server begin

    from tiled_server.exports.export import export
    from tiled_server.exports.journal import from_journal

    montage = from_journal(folder / "journal", montage_id)
    seen = {"read_mb": _peak_mb()}

    def report(done: int, of: int, _: int) -> None:
        if 10 * done >= of:
            seen.setdefault("tenth_mb", _peak_mb())

    began = time.monotonic()
    made = export(montage, to, folder / "out", overwrite=True, report=report)
    seconds = time.monotonic() - began
    for path in made.paths:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    end = _peak_mb()
    return {
        "tiles": len(montage), "seconds": seconds, "size_mb": made.bytes / 1e6, "end_mb": end,
        "tenth_mb": seen.get("tenth_mb", end), "read_mb": seen["read_mb"],
    }  # fmt: skip


if __name__ == "__main__":
    print(json.dumps(_export(Path(sys.argv[1]), sys.argv[2], Format(sys.argv[3]))))
