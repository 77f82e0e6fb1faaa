"""Kill what acquires a montage at a random moment, go on, and see that nothing was lost or exposed twice.

``montango bench kill --kills N --seed S`` kills the engine, a device server, the Tango database or the whole
laboratory (as a power cut would) in the middle of accelerated montages, resumes each, and checks after each
kill: every frame that was in a file is still there, byte for byte; no tile with a good frame was exposed
again; the camera's own count shows at most one exposure more than frames; beam blanked and stage still
whenever control was lost; no process is left. At the end the catalog is compared with the journal.
"""

from __future__ import annotations

import argparse
import random
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from montango.bench._damage import Damage, Montage, catalog_differences
from montango.bench._engine_process import EngineProcess
from montango.config import MontangoConfig, dump_config, load_config
from montango.lab import Lab
from montango.lab.errors import LabError

SERVERS = ("column", "stage", "camera", "sequencer", "control")
KINDS = {"engine": 6, "server": 8, "database": 2, "lab": 2}
"""What is killed, and how often of all."""
ROWS, COLUMNS = 5, 6
SETTLE_S = 0.04
LOST_AFTER_S = 2.0
FRAME_PX = 256
TIMEOUT_S = 180.0
TRIES = 4


@dataclass
class Outcome:
    """What one kill came to.

    Attributes
    ----------
    target
        What was killed.
    at_tile
        How many exposures the montage had had.
    interrupted
        Whether the montage had to be resumed.
    extra
        Exposures more than frames that were asked for.
    safe_after_s
        From the loss of control to a blanked beam and a still stage; 0 where control was not lost.
    faults
        Invariants that do not hold, in words.
    """

    target: str
    at_tile: int
    interrupted: bool = False
    extra: int = 0
    safe_after_s: float = 0.0
    faults: list[str] = field(default_factory=list)


def run(arguments: Sequence[str]) -> int:
    """Run the measurement; return 0 if every invariant held."""
    parser = argparse.ArgumentParser(prog="montango bench kill")
    parser.add_argument("--kills", type=int, default=20, help="how many kills (default %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="seed of what and when (default %(default)s)")
    parser.add_argument("--no-catalog", action="store_true", help="leave the catalog out")
    parser.add_argument("--keep", type=Path, help="keep the laboratory's state in this folder")
    options = parser.parse_args(arguments)
    folder = options.keep or Path(tempfile.mkdtemp(prefix="montango-kill-"))
    try:
        return kill(folder, options.kills, options.seed, catalog=not options.no_catalog)
    finally:
        if options.keep is None:
            shutil.rmtree(folder, ignore_errors=True)


def kill(folder: Path, kills: int, seed: int, *, catalog: bool = True, targets: Sequence[str] = ()) -> int:
    """Kill and resume in a laboratory of its own; print what came of it; return 0 if all held.

    Parameters
    ----------
    folder
        Where its state is kept.
    kills, seed
        How many, and the seed of what is killed and when.
    catalog
        Whether it has a catalog, which is compared with the journal at the end.
    targets
        What is killed, in this order; without, and after them, chance decides.
    """
    began = time.monotonic()
    outcomes: list[Outcome] = []
    faults: list[str] = []
    lab = Lab(bench_config(catalog=catalog), folder / "state")
    lab.up(wait=catalog)
    try:
        bench = Bench(lab, folder / "engine.log", seed)
        try:
            wanted = [*targets, *([None] * kills)][:kills]
            for number, target in enumerate(wanted):
                outcomes.append(bench.one(number, target))
        except LabError as error:  # what was seen until then is told all the same
            faults.append(f"kill {len(outcomes) + 1}: {error}")
        finally:
            bench.close()
        faults += [f"{one.target}: {fault}" for one in outcomes for fault in one.faults]
        if catalog:
            faults += catalog_differences(lab)
    finally:
        lab.down()
    faults += Damage.orphans(lab)
    report(outcomes, faults, time.monotonic() - began)
    return 1 if faults else 0


def bench_config(*, catalog: bool) -> MontangoConfig:
    """Return the configuration of the laboratory: small frames, no waiting, an impatient watch."""
    data = yaml.safe_load(dump_config(load_config()))
    data["lab"]["name"] = "kill"
    data["paths"]["minimum_free_gb"] = 0.2
    data["simulation"] |= {"timing": "fast"}
    data["simulation"]["camera"] |= {"width_px": FRAME_PX, "height_px": FRAME_PX}
    data["facility"]["ioc"] = None
    data["instruments"]["control"]["options"] = {"lost_after_s": LOST_AFTER_S}
    if not catalog:
        data["services"]["tiled"]["uri"] = "http://127.0.0.1:9"
    return MontangoConfig.model_validate(data)


class Bench:
    """The engine at work, another that warms up, and the laboratory that both use."""

    def __init__(self, lab: Lab, log: Path, seed: int) -> None:
        self.lab = lab
        self.damage = Damage(lab)
        self._log = log
        self._chance = random.Random(seed)
        self._engine = self._new()
        self._spare = self._new()
        self._engine.open()

    def one(self, number: int, target: str | None = None) -> Outcome:
        """Acquire a montage, kill something in its middle, resume it, check everything."""
        target = target or self._choose()
        tiles = ROWS * COLUMNS
        outcome = Outcome(target, self._chance.randrange(1, tiles))
        montage = Montage(self.lab, f"kill-{number:04d}", tiles)
        delay_s = self._chance.uniform(0, 1.5 * SETTLE_S)
        spec: dict[str, Any] = {"rows": ROWS, "columns": COLUMNS, "settle_s": SETTLE_S}
        spec |= {"exposure_time_s": 0.01, "centre_um": (0.0, 0.0), "blanking": "column"}
        self._engine.tell(do="montage", montage_id=montage.montage_id, spec=spec)
        montage.wait_exposures(outcome.at_tile, self._engine.answered, TIMEOUT_S)
        time.sleep(delay_s)  # any moment within a tile's cycle
        self._strike(target, montage, outcome)
        for _ in range(TRIES):
            if montage.complete():
                break
            outcome.interrupted = True
            self.damage.wait_ready(TIMEOUT_S)
            self._engine.tell(do="resume", montage_id=montage.montage_id)
            self._note(self._engine.hear(TIMEOUT_S), outcome)
        montage.check(outcome.faults)
        outcome.extra = montage.extra_exposures()
        if outcome.extra > 1:
            outcome.faults.append(f"{outcome.extra} exposures more than frames at tile {outcome.at_tile}")
        print(
            f"{number + 1:4d}  {target:<10}at tile {outcome.at_tile:2d}  "
            f"{'resumed' if outcome.interrupted else 'went on':<8}extra exposures {outcome.extra}"
            + (f"  safe after {outcome.safe_after_s:.1f} s" if outcome.safe_after_s else "")
            + "".join(f"\n      FAULT: {fault}" for fault in outcome.faults),
            flush=True,
        )
        return outcome

    def _choose(self) -> str:
        kind = self._chance.choices([*KINDS], [*KINDS.values()])[0]
        return self._chance.choice(SERVERS) if kind == "server" else kind

    def close(self) -> None:
        """End both engines."""
        self._engine.close()
        self._spare.kill()

    def _strike(self, target: str, montage: Montage, outcome: Outcome) -> None:
        """Kill, see what is left, and that the microscope is safe where control was lost."""
        if target in ("engine", "lab"):
            self._engine.kill()
            struck = time.monotonic()
            if target == "lab":
                self._spare.kill()
                self.damage.kill_lab()
                outcome.faults += self.damage.orphans(self.lab)
                montage.remember()
                self.lab.up()
                struck = time.monotonic()
            else:
                montage.remember()
            self.damage.wait_safe(LOST_AFTER_S, outcome.faults)
            outcome.safe_after_s = time.monotonic() - struck
            self._take_over()
        else:
            self.damage.kill_process(target)
            montage.remember()
            self._note(self._engine.hear(TIMEOUT_S), outcome)
            self.damage.wait_ready(TIMEOUT_S)
            self.damage.wait_safe(LOST_AFTER_S, outcome.faults)

    def _take_over(self) -> None:
        """Let the engine that is warm go on."""
        if not self._spare.alive:
            self._spare = self._new()
        self._engine, self._spare = self._spare, self._new()
        self._engine.open()

    def _new(self) -> EngineProcess:
        return EngineProcess(self.lab.state.root, self._log)

    @staticmethod
    def _note(answer: dict[str, object], outcome: Outcome) -> None:
        error = str(answer.get("error", ""))
        if error.startswith("unforeseen"):
            outcome.faults.append(error)


def report(outcomes: Sequence[Outcome], faults: Sequence[str], took_s: float) -> None:
    """Print the figures."""
    killed = Counter(one.target for one in outcomes)
    safe = [one.safe_after_s for one in outcomes if one.safe_after_s]
    print(
        f"{len(outcomes)} kills in {took_s:.0f} s: " + ", ".join(f"{n} {name}" for name, n in killed.items())
    )
    print(f"  montages resumed                    {sum(one.interrupted for one in outcomes)}")
    print(f"  exposures more than frames          {sum(one.extra for one in outcomes)}, at most one a kill")
    if safe:
        print(
            f"  beam blanked, stage still after     {max(safe):.1f} s at most (an engine is lost after "
            f"{LOST_AFTER_S:g} s)"
        )
    print(f"  invariants that do not hold         {len(faults)}")
    for fault in faults:
        print(f"    {fault}")
    if not outcomes:
        raise LabError("nothing was killed; give --kills 1 or more")
