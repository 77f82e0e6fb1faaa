"""A weekend in minutes: ``montango bench weekend --seed N``.

A cassette of samples with sections on film, each in an aperture, is acquired unattended at 50 x speed, while
faults of every kind strike at places that the seed says: bad frames, lost beam, a stage that misses, loads
that jam, device servers that are killed. It must end by itself, with every tile good or accounted for.
"""

from __future__ import annotations

import argparse
import math
import random
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from montango.bench._saboteur import Saboteur
from montango.config import MontangoConfig, dump_config, load_config
from montango.lab import Lab, running_lab
from plans.sample_report import ListReport
from plans.specs.samples import SampleList
from sim.faults import Fault, make_fault

PROFILE = "profiles.simulated"
NO_CATALOG = "http://127.0.0.1:9"
APERTURE_UM = 45.0
SECTION_UM = 8.0
RING_UM = 22.0
SURVEY_MAGNIFICATION, MONTAGE_MAGNIFICATION = 400.0, 2500.0
FRAME_PX = 512
EXPOSURES_PER_ROI = 24
"""About how many: places of faults are drawn from so many."""
FAULTS = (
    ("corrupted_frame", 4), ("focus_jump", 4), ("drift_burst", 4), ("beam_loss", 2), ("charging", 2),
    ("debris", 3), ("fold", 3), ("frozen_frame", 2), ("stage_miss", 2), ("server_crash", 2),
)  # fmt: skip
"""Faults of a weekend: name, how many for 36 ROIs."""
LONGEST = {"debris": 2, "fold": 2}
"""Exposures over which a fault may last; others take one."""
JAMS, KILLS = 2, 4
KILLED = ("stage", "sequencer", "column", "loader", "camera")


@dataclass(frozen=True)
class Weekend:
    """A weekend: how many samples and ROIs, what decides the chances, how fast.

    The beam may be gone for ``beam_loss_s``, s of the microscope.
    """

    seed: int = 1
    samples: int = 12
    rois: int = 3
    time_scale: float = 50.0
    kills: int = KILLS
    faults: bool = True
    beam_loss_s: tuple[float, float] = (60.0, 1800.0)

    @property
    def share(self) -> float:
        """Size against the full one."""
        return self.samples * self.rois / 36


def section(weekend: Weekend, slot: int, number: int) -> tuple[tuple[float, float], ...]:
    """Return the outline of a section, um in the sample's coordinates: a rounded, turned patch."""
    chance = random.Random(f"{weekend.seed} {slot} {number}")
    around = 2 * math.pi * (number + 0.15 * chance.random()) / weekend.rois
    x_um, y_um = RING_UM * math.cos(around), RING_UM * math.sin(around)
    turn, wide = chance.uniform(0, math.pi), chance.uniform(0.75, 1.0)
    corners = []
    for step in range(24):
        angle = 2 * math.pi * step / 24
        u, v = SECTION_UM * math.cos(angle), SECTION_UM * wide * math.sin(angle)
        corners.append(
            (x_um + u * math.cos(turn) - v * math.sin(turn), y_um + u * math.sin(turn) + v * math.cos(turn))
        )
    return tuple(corners)


def make_config(weekend: Weekend) -> MontangoConfig:
    """Return the laboratory: its simulated microscope, and a cassette with the samples."""
    data: dict[str, Any] = yaml.safe_load(dump_config(load_config()))
    chance = random.Random(f"{weekend.seed} cassette")
    samples = [
        {
            "slot": slot,
            "barcode": f"W{slot:02d}",
            "offset_um": [chance.uniform(-3, 3), chance.uniform(-3, 3)],
            "rotation_deg": chance.uniform(-20, 20),
            "specimen": {
                "sections": [
                    {
                        "name": f"s{number}",
                        "outline_um": [list(point) for point in section(weekend, slot, number)],
                    }
                    for number in range(weekend.rois)
                ]
            },
        }
        for slot in range(1, weekend.samples + 1)
    ]
    data["lab"]["name"] = "weekend"
    data["simulation"] |= {
        "seed": weekend.seed,
        "timing": "real",
        "time_scale": weekend.time_scale,
        "samples": samples,
        "loaded_slot": 0,
    }
    data["simulation"]["camera"] |= {"width_px": FRAME_PX, "height_px": FRAME_PX}
    # a rim of resin alone looks like film: no survey can tell where such a section ends
    data["simulation"]["specimen"] |= {"aperture": {"radius_um": APERTURE_UM}, "resin_fraction": 0.0}
    data["instruments"]["loader"] = {
        "device": "em/loader/1",
        "driver": "sim.loader:SimulatedLoader",
        "options": {"slots": max(12, weekend.samples), "load_time_s": 90.0, "unload_time_s": 60.0},
    }
    data["facility"]["ioc"] = None
    data["services"]["tiled"]["uri"] = NO_CATALOG
    data["paths"]["minimum_free_gb"] = 0.2
    return MontangoConfig.model_validate(data)


def make_list(weekend: Weekend) -> SampleList:
    """Return the list of samples: sections are found in a survey and found again at each magnification."""
    return SampleList.model_validate(
        {
            "name": f"weekend {weekend.seed}",
            "montage": {
                "overlap": 0.1,
                "magnification": MONTAGE_MAGNIFICATION,
                "exposure_time_s": 0.1,
                "settle_s": 0.05,
                "rows": 1,
                "columns": 1,
            },
            "survey": {
                "magnification": SURVEY_MAGNIFICATION,
                "montage": {"rows": 4, "columns": 4, "overlap": 0.1, "centre_um": [0, 0]},
            },
            "search": {
                "min_area_um2": 60.0,
                "max_area_um2": 800.0,
                "smooth_um": 0.6,
                "min_rois": weekend.rois,
            },
            "realign": {"tolerance_um": 0.3, "max_shift_um": 5.0},
            "policy": {"attempts": 3, "resumes": 6, "max_failures_in_a_row": 8},
            "samples": [
                {"slot": slot, "name": f"sample {slot}", "barcode": f"W{slot:02d}"}
                for slot in range(1, weekend.samples + 1)
            ],
        }
    )


def run_weekend(
    weekend: Weekend, state: Path, say: Callable[[str], None] = print, engine: Any = None
) -> tuple[ListReport, Saboteur]:
    """Run a weekend in a laboratory of its own, and return the account and what was done to it.

    Parameters
    ----------
    weekend
        What to run.
    state
        State directory of the laboratory.
    say
        Is told what happens.
    engine
        A RunEngine of the caller's; None makes one.
    """
    from montango.sample_lists import acquire_list

    with running_lab(make_config(weekend), state, report=lambda _: None) as lab:
        with saboteur(weekend, lab) as saboteur_:
            account = acquire_list(
                lab.info(), make_list(weekend), profile=PROFILE, report_dir=state / "samples", say=say,
                engine=engine, catalog_timeout_s=0.1,
            )  # fmt: skip
        say(saboteur_.describe())
        return account, saboteur_


def saboteur(weekend: Weekend, lab: Lab) -> Saboteur:
    """Return who breaks things, at places that the seed says."""
    chance = random.Random(f"{weekend.seed} faults")
    survey = 16
    exposures = weekend.samples * (survey + weekend.rois * EXPOSURES_PER_ROI)
    faults: list[Fault] = []
    kills: list[tuple[str, int]] = []
    if weekend.faults:
        for name, count in (*FAULTS, ("loader_jam", JAMS)):
            for _ in range(max(1, round(count * weekend.share))):
                seconds = chance.uniform(*weekend.beam_loss_s) if name == "beam_loss" else None
                count_of = chance.randint(1, LONGEST.get(name, 1))
                # a jam needs a load to come
                within = exposures // 2 if name == "loader_jam" else exposures
                faults.append(make_fault(name, chance.randrange(within), count_of, seconds=seconds))
        kills = [(chance.choice(KILLED), chance.randrange(exposures)) for _ in range(weekend.kills)]
    return Saboteur(lab, faults, kills)


def run(arguments: Sequence[str] = ()) -> int:
    """Run a weekend, print its account, and return 0 if it ended by itself with all accounted for, else 1."""
    options = argparse.ArgumentParser(prog="montango bench weekend", description=__doc__)
    options.add_argument("--seed", type=int, default=1, help="what decides the chances")
    options.add_argument("--samples", type=int, default=12)
    options.add_argument("--rois", type=int, default=3)
    options.add_argument("--time-scale", type=float, default=50.0, help="how much faster than real")
    options.add_argument("--kills", type=int, default=KILLS, help="device servers that are killed")
    given = options.parse_args(list(arguments))
    weekend = Weekend(given.seed, given.samples, given.rois, given.time_scale, given.kills)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="montango-weekend-") as folder:
        account, done = run_weekend(weekend, Path(folder))
        print("\n" + account.as_text())
        return judge(weekend, account, done, time.monotonic() - began)


def judge(weekend: Weekend, account: ListReport, done: Saboteur, wall_s: float) -> int:
    """Print what must hold, and return 0 if all of it does."""
    tiles, good = sum(roi.tiles for roi in account.rois), sum(roi.good for roi in account.rois)
    states = Counter(roi.status for roi in account.rois)
    checks = {
        "ended by itself": account.ended == "complete",
        "every tile good or accounted for": account.accounted_for,
        f"{weekend.samples * weekend.rois} ROIs found": len(account.rois) == weekend.samples * weekend.rois,
        "at least 90 % of the tiles good": good >= 0.9 * tiles > 0,
        "no sample left in the microscope": done.loaded_at_end == 0,
        "beam blanked at the end": done.blanked_at_end,
    }
    print()
    for what, holds in checks.items():
        print(f"  {what:<40} {'yes' if holds else 'NO'}")
    simulated_h = (account.ended_s - account.started_s) * weekend.time_scale / 3600
    print(
        f"  {wall_s:.0f} s on the wall, {simulated_h:.1f} h of the microscope; ROIs: "
        + ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
    )
    return 0 if all(checks.values()) else 1
