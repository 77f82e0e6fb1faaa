"""`montango bench catalog`: what analysts wait for, with very many montages, on PostgreSQL and on SQLite.

Catalogs are made from a seed by copying rows of a montage that the normal writer wrote; some montages of
each are read by the server the normal way, and compared. Questions go over HTTP to a server of the
measurement's own. Each figure stands beside its limit, and how it grows with the catalog. The exit status is
1 if a limit is not kept or an answer is wrong.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from devices.errors import ConfigurationError
from montango.bench._catalog_export import FORMATS, LIMIT_MB, Exported, measure, write_journal
from montango.bench._catalog_fill import LARGE, Catalog, begin, fill, spot_check
from montango.bench._catalog_pixels import pixel_times, write_pixels
from montango.bench._catalog_questions import Question, Times, answers, wrong_answers
from montango.bench._catalog_server import Place, serving
from montango.bench._postgres import postgres

PARTS: Final = ("postgresql", "sqlite", "pixels", "export", "killed")
_SHARES: Final = (0.01, 0.1, 1.0)
"""Parts of the whole catalog at which everything is asked."""


def run(arguments: Sequence[str] = ()) -> int:
    """Measure and print; return 0 if every limit is kept, else 1."""
    choice = _choice(arguments)
    folder = choice.keep or Path(tempfile.mkdtemp(prefix="montango-bench-catalog-"))
    folder.mkdir(parents=True, exist_ok=True)
    say(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    kept = True
    try:
        for part in choice.parts:
            kept = _PARTS[part](folder / part, choice) and kept
    finally:
        if choice.keep is None:
            shutil.rmtree(folder, ignore_errors=True)
    return 0 if kept else 1


def _choice(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="montango bench catalog", description=__doc__)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART",
                        help=f"of {', '.join(PARTS)}; default: all")  # fmt: skip
    parser.add_argument("--montages", type=int, default=10_000, help="montages on PostgreSQL")
    parser.add_argument("--sqlite-montages", type=int, default=1_000, help="montages on SQLite")
    parser.add_argument("--tiles", type=int, default=100, help="tiles of a montage")
    parser.add_argument("--export-tiles", type=int, default=100_000, help="tiles of the exported montage")
    parser.add_argument("--seconds", type=int, default=120, help="how long the server is killed")
    parser.add_argument("--seed", type=int, default=1, help="what everything follows from")
    parser.add_argument("--keep", type=Path, help="keep everything in this folder")
    choice = parser.parse_args(arguments)
    for name, low, high in (
        ("montages", 40, 900_000), ("sqlite_montages", 40, 900_000), ("tiles", 1, 2772),
        ("export_tiles", 10, 1_000_000), ("seconds", 5, 86_400),
    ):  # fmt: skip
        if not low <= getattr(choice, name) <= high:
            option = name.replace("_", "-")
            raise ConfigurationError(f"--{option} {getattr(choice, name)}: must be {low} to {high}")
    if choice.keep is not None and any(choice.keep.glob("*")):
        raise ConfigurationError(f"--keep {choice.keep} is not empty: name a new folder")
    return choice


def _postgresql(folder: Path, choice: argparse.Namespace) -> bool:
    with postgres("catalog", "tables") as (database, tables):
        catalog = Catalog(Place(folder, database, tables), choice.seed, choice.tiles)
        return _ask(catalog, choice.montages, "PostgreSQL", limits=True)


def _sqlite(folder: Path, choice: argparse.Namespace) -> bool:
    catalog = Catalog(Place(folder), choice.seed, choice.tiles)
    return _ask(catalog, choice.sqlite_montages, "SQLite", limits=False)


def _ask(catalog: Catalog, count: int, name: str, *, limits: bool) -> bool:
    """Ask a catalog that grows to so many montages."""
    say(f"\n{name}: {count:,} montages of {catalog.tiles} tiles and one of {LARGE:,}, seed {catalog.seed}")
    with serving(catalog.place) as running:
        begin(catalog, running)
    found: list[dict[str, Times]] = []
    asked: dict[str, Question] = {}
    sizes: list[int] = []
    faults: list[str] = []
    for share in _SHARES:
        began = time.monotonic()
        fill(catalog, max(catalog.count + 10, int(count * share)))
        sizes.append(catalog.count)
        say(
            f"  filled to {catalog.count:,} montages in {time.monotonic() - began:.1f} s",
        )
        with serving(catalog.place) as running, running.http() as client:
            faults += [*spot_check(catalog), *wrong_answers(client, catalog)]
            found.append({})
            for question, times in answers(running, catalog):
                asked[question.name] = question
                found[-1][question.name] = times
    say(f"  {len(_SHARES)} times {len(catalog.left)} montages read by the server as any other: "
        f"{'equal' if not faults else 'NOT EQUAL'}")  # fmt: skip
    for fault in faults:
        say(f"  WRONG: {fault}")
    say(
        f"  {'p95 of an answer over HTTP, ms, at':<42}"
        + "".join(f"{size:>9,}" for size in sizes)
        + "   p50   CPU"
    )
    kept = [_line(one, [times[one.name] for times in found], limits=limits) for one in asked.values()]
    return all(kept) and not faults


def _line(question: Question, times: Sequence[Times], *, limits: bool) -> bool:
    """Print the times of a question as the catalog grows; return whether the last keeps the limit."""
    cells = "".join(f"{one.p95:9.1f}" for one in times) + f"{times[-1].p50:6.1f}{times[-1].cpu:6.1f}"
    most = question.limit_ms
    if most is None or (not limits and most < 200):
        say(f"  {question.name:<42}{cells}")
        return True
    kept = times[-1].p95 <= most
    say(f"  {question.name:<42}{cells}   limit {most:g} {'kept' if kept else 'NOT KEPT'}")
    return kept


def _pixels(folder: Path, choice: argparse.Namespace) -> bool:
    say("\npixels over HTTP, through Tiled's client, uint16")
    place = Place(folder)
    with serving(place) as running:
        montage, mosaic = write_pixels(place, running, choice.seed)
        say(f"  {'ms':<42}{'p50':>9}{'p95':>9}{'CPU':>9}")
        kept = True
        for name, most, times in pixel_times(running, montage, mosaic, choice.seed):
            good = most is None or times.p50 <= most
            beside = "" if most is None else f"   limit p50 {most:g} {'kept' if good else 'NOT KEPT'}"
            say(f"  {name:<42}{times.p50:9.1f}{times.p95:9.1f}{times.cpu:9.1f}{beside}")
            kept = kept and good
    return kept


def _export(folder: Path, choice: argparse.Namespace) -> bool:
    say("\nmemory of an export, MB at most so far: montage read, a tenth written, all written")
    kept = True
    for tiles in (choice.export_tiles // 10, choice.export_tiles):
        with _scratch(folder / str(tiles)) as scratch:
            montage_id = write_journal(scratch, tiles, choice.seed)
            for to in FORMATS:
                kept = _exported(to.value, measure(scratch, montage_id, to)) and kept
    return kept


def _exported(name: str, one: Exported) -> bool:
    rise = one.end_mb - one.tenth_mb
    kept = rise <= LIMIT_MB
    say(
        f"  {name:<10}{one.tiles:>9,} tiles{one.seconds:8.1f} s{one.size_mb:9.1f} MB written "
        f"{one.read_mb:8.0f}{one.tenth_mb:8.0f}{one.end_mb:8.0f}   rise {rise:.0f}, limit {LIMIT_MB:g} "
        f"{'kept' if kept else 'NOT KEPT'}"
    )
    return kept


@contextmanager
def _scratch(folder: Path) -> Iterator[Path]:
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _killed(folder: Path, choice: argparse.Namespace) -> bool:
    from montango.bench import catalog_kill

    say("\nserver killed under writers and readers")
    folder.mkdir(parents=True)
    return catalog_kill.run(["--seconds", str(choice.seconds), "--seed", str(choice.seed)]) == 0


_PARTS: Final = {
    "postgresql": _postgresql,
    "sqlite": _sqlite,
    "pixels": _pixels,
    "export": _export,
    "killed": _killed,
}


def say(line: str) -> None:
    """Print a line of the report."""
    print(line, flush=True)
