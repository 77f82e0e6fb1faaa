"""`montango bench qc`: how well tile QC tells spoiled tiles from clean ones, and what that costs.

Every fault that shows in a frame, at rising severity, against the clean tiles of several montages: drawn by
the simulated camera of procedural tissue and of a real micrograph, and cut from recorded tiles. It prints
tables, and writes the curves as pictures and everything as JSON.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from devices.errors import ConfigurationError
from montango.bench._qc_cost import LIMIT_MS_PER_MPX, Cost, costs
from montango.bench._qc_frames import SIDE_PX, Frames, Simulated, sources
from montango.bench._qc_rates import MONTAGE, Judged, judge_source
from processing.callbacks.verdicts import QCThresholds
from sim.config import SpecimenConfig

SEVERITIES: Final = (0.05, 0.1, 0.2, 0.4, 0.7, 1.0)
MATTERS: Final[dict[str, tuple[float, float, str]]] = {
    "corrupted_frame": (0.2, 1.0, "an eighth of the lines and more"),
    "dropout": (0.05, 1.0, "a thirtieth of the lines and more"),
    "incomplete": (0.05, 1.0, "a twentieth of the lines and more are missing"),
    "beam_loss": (0.05, 1.0, "there is no beam"),
    "gain": (0.4, 1.0, "a third of the light and more is lost"),
    "drift_burst": (0.2, 1.0, "a smear of 10 px and more"),
    "blur": (0.4, 1.0, "a smear of 10 px and more"),
    "focus_jump": (0.4, 1.0, "8 um and more: a disc of 5 px across"),
    "defocus": (0.4, 1.0, "a disc of 5 px across and more"),
    "astigmatism": (0.7, 1.0, "7 um and more"),
    "charging": (0.2, 1.0, "brightness varies by a tenth and more"),
    "debris": (0.1, 1.0, "a lump of a fifth of the field and more"),
    "fold": (0.7, 1.0, "a tenth of the field wide and more, of tissue"),
    "beam_edge": (0.4, 1.0, "a third of the field and more without light; 0.2 is within the overlap"),
    "frozen_frame": (0.05, 1.0, "the frame before once more"),
}
"""From which severity to which a fault matters, and what that is: the tile is of no use, or partly."""
AREA_LIMIT: Final = 0.99
ALARM_LIMIT: Final = 1e-3
_DATA_VARIABLE: Final = "MONTANGO_TEST_DATA"


def run(arguments: Sequence[str] = ()) -> int:
    """Print the figures beside their limits; return 0 if all are kept, else 1."""
    choice = _choice(arguments)
    found = sources(choice.data, choice.frame_px)
    if choice.source is not None:
        found = [one for one in found if choice.source in one.name]
    if not found:
        raise ConfigurationError(f"--source {choice.source!r} is in the name of no source of tiles")
    kept = True
    judged = []
    for frames in found:
        judged.append(judge_source(frames, SEVERITIES, choice.tiles, choice.spoiled, QCThresholds()))
        kept = _print_source(frames, judged[-1]) and kept
    prices = {} if choice.no_cost else {side: _cost(side) for side in (512, 1024, 2048, 4096)}
    for side, rows in prices.items():
        kept = _print_costs(side, rows) and kept
    if choice.out is not None:
        choice.out.mkdir(parents=True, exist_ok=True)
        (choice.out / "qc.json").write_text(json.dumps(_as_json(found, judged, prices), indent=1))
        from montango.bench._qc_plots import draw

        for frames, one in zip(found, judged, strict=True):
            draw(choice.out, frames.faults, SEVERITIES, one)
        print(f"\nwritten to {choice.out}")
    return 0 if kept else 1


def _choice(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="montango bench qc", description=__doc__)
    parser.add_argument("--tiles", type=int, default=1500, help="clean tiles of each source")
    parser.add_argument("--spoiled", type=int, default=30, help="tiles of each fault and severity")
    parser.add_argument("--frame-px", type=int, default=SIDE_PX, help="side of the frames, 256 to 2048")
    parser.add_argument("--source", help="only sources with this in their name")
    default = os.environ.get(_DATA_VARIABLE)
    parser.add_argument(
        "--data", type=Path, default=Path(default) if default else None, help="folder of recorded data"
    )
    parser.add_argument("--out", type=Path, help="folder for pictures and JSON")
    parser.add_argument("--no-cost", action="store_true", help="leave the processor time out")
    choice = parser.parse_args(arguments)
    for name, low, high in (("tiles", 20, 100_000), ("spoiled", 1, 10_000), ("frame_px", 256, 2048)):
        if not low <= getattr(choice, name) <= high:
            option = name.replace("_", "-")
            raise ConfigurationError(f"--{option} {getattr(choice, name)}: must be {low} to {high}")
    if choice.data is not None and not choice.data.is_dir():
        raise ConfigurationError(f"--data {choice.data} is no folder; leave it out to do without real tiles")
    return choice


def _cost(side_px: int) -> list[Cost]:
    frames = Simulated("", SpecimenConfig(), side_px)
    return costs(next(iter(frames.montage(0, 1))), repeats=max(5, 20_000_000 // side_px**2))


def passes(judged: Judged, fault: str) -> bool:
    """Whether every severity of a fault that matters is told apart."""
    low, high, _ = MATTERS[fault]
    areas = [judged.area(fault, severity) for severity in SEVERITIES if low <= severity <= high]
    return min(areas) >= AREA_LIMIT


def _print_source(frames: Frames, judged: Judged) -> bool:
    allowed = ALARM_LIMIT * len(judged.clean)
    alarms = sum(judged.alarms.values())
    kept = alarms <= allowed or alarms <= 1
    print(f"\n{judged.name}: {alarms} false alarms of {len(judged.clean)} clean tiles ", end="")
    print(f"({1e3 * judged.false_alarm_rate:.2f} in 1,000) {dict(judged.alarms) or ''}")
    print(f"  noted: {judged.noted}; {100 * judged.judged_share:.0f} % show enough for a blur to be told")
    print(f"  {'area under the curve / found, at':<34}" + "".join(f"{s:>13g}" for s in SEVERITIES) + "  from")
    for fault in frames.faults:
        cells = "".join(
            f"{judged.area(fault, s):7.3f} {100 * judged.found(fault, s):3.0f} %" + " " for s in SEVERITIES
        )
        good = passes(judged, fault)
        kept = kept and good
        print(f"  {fault:<34}{cells}  {MATTERS[fault][0]:g} {'kept' if good else 'NOT KEPT'}")
    return kept


def _print_costs(side_px: int, rows: Sequence[Cost]) -> bool:
    print(f"\n{side_px} x {side_px} uint16, ms of one core a megapixel      ours   NumPy and SciPy")
    for cost in rows:
        print(f"  {cost.what:<48}{cost.ours:8.2f} {cost.plain:12.1f}")
    return rows[-1].ours <= LIMIT_MS_PER_MPX


def _as_json(
    found: Sequence[Frames], judged: Sequence[Judged], prices: dict[int, list[Cost]]
) -> dict[str, Any]:
    results = {
        one.name: {
            "clean": len(one.clean),
            "montage": MONTAGE,
            "alarms": dict(one.alarms),
            "noted": one.noted,
            "judged_share": one.judged_share,
            "faults": {
                fault: {
                    str(severity): {
                        "area": one.area(fault, severity),
                        "found": one.found(fault, severity),
                        "named": dict(one.named[fault, severity]),
                        "scores": np.round(one.statistic(fault, severity), 4).tolist(),
                    }
                    for severity in SEVERITIES
                }
                for fault in frames.faults
            },
        }
        for frames, one in zip(found, judged, strict=True)
    }
    cost = {str(side): [row._asdict() for row in rows] for side, rows in prices.items()}
    return {"sources": results, "ms_per_mpx": cost}
