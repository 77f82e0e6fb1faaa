"""A montage as files that any stitcher can read, what a stitcher made of it, and how they are run.

Each stitcher is a process of its own, which reads the same files and writes where it puts each tile; so its
processor time and memory, with what it imports, are its own.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import tifffile

Image = npt.NDArray[np.number[Any]]
Reals = npt.NDArray[np.float64]
PEERS: Final = ("itk-montage", "feabas", "feabas-elastic", "ashlar", "multiview-stitcher")
PACKAGES: Final = (
    "itk-montage==0.8.5", "feabas==3.0.6", "ashlar==1.20.0", "multiview-stitcher==0.1.62",
    "scikit-image>=0.25", "tifffile", "opencv-python-headless",
)  # fmt: skip
"""What the peers' environment holds: the versions that docs/reference/stitching-figures.md compares with."""
_SCRIPT: Final = Path(__file__).with_name("_peer_script.py")
_TIMEOUT_S: Final = 1800.0


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """What a stitcher made of a montage.

    ``first_px`` is where the first pixel of each tile lies, (n, 2); None where it failed, for ``error``.
    ``cpu_s`` is that of the whole process, ``work_s`` without its imports (NaN where not known), ``peak_mb``
    the most resident memory of its main process.
    """

    first_px: Reals | None
    error: str
    cpu_s: float
    work_s: float
    peak_mb: float
    extra: dict[str, Any]


def write_montage(
    folder: Path,
    images: Iterable[Image],
    nominal_first_px: Reals,
    rows: Sequence[int],
    columns: Sequence[int],
    search_px: float,
) -> None:
    """Write a montage for stitchers: a TIFF a tile, and ``set.json``."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for i, image in enumerate(images):
        paths.append(str(folder / f"tile_{i:05d}.tif"))
        tifffile.imwrite(paths[-1], image)
    given = {
        "paths": paths,
        "first_px": np.asarray(nominal_first_px, float).tolist(),
        "rows": [int(row) for row in rows],
        "columns": [int(column) for column in columns],
        "search_px": search_px,
    }
    (folder / "set.json").write_text(json.dumps(given))


def run_ours(folder: Path, *, distortion: bool) -> Outcome:
    """Stitch a montage of files with Montango, in a process of its own.

    Parameters
    ----------
    folder
        As `write_montage` leaves it.
    distortion
        Whether tiles may be distorted.
    """
    name = "montango" if distortion else "montango-translation"
    return _run(
        [sys.executable, "-m", "montango.bench._stitch_worker", name, str(folder)], folder / f"{name}.json"
    )


def run_peer(python: Path, peer: str, folder: Path) -> Outcome:
    """Stitch a montage of files with one of `PEERS`, by the interpreter of their environment."""
    return _run([str(python), str(_SCRIPT), peer, str(folder)], folder / f"{peer}.json")


def peers_python(folder: Path, say: Any = print) -> Path:
    """Return the interpreter of the peers' environment; it is made there at the first time.

    Raises
    ------
    subprocess.CalledProcessError
        The packages cannot be installed.
    """
    python = folder / "bin" / "python"
    if not python.exists():
        say(f"installing {', '.join(PACKAGES[:4])} into {folder} (some minutes)")
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        try:
            subprocess.run([str(python), "-m", "pip", "install", "-q", *PACKAGES], check=True)
        except BaseException:
            python.unlink(missing_ok=True)  # next time anew
            raise
    return python


def _run(command: Sequence[str], written: Path) -> Outcome:
    written.unlink(missing_ok=True)
    try:
        ended = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
        tail = ended.stderr.strip().splitlines()[-1:] or [f"exit code {ended.returncode}"]
    except subprocess.TimeoutExpired:
        tail = [f"not done within {_TIMEOUT_S:g} s"]
    if not written.exists():
        return Outcome(None, tail[0], np.nan, np.nan, np.nan, {})
    result = json.loads(written.read_text())
    first = result.pop("first_px", None)
    return Outcome(
        None if first is None else np.array(first, np.float64),
        str(result.pop("error", "")),
        float(result.pop("cpu_s")),
        float(result.pop("work_s", np.nan)),
        float(result.pop("peak_mb")),
        result,
    )
