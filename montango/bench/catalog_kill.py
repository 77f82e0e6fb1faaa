"""Kill the catalog's server again and again under writers and readers, and see that nothing was lost.

``montango bench catalog_kill --seconds 120`` starts a catalog of its own, four processes that write montages
(frame file, journal, catalog writer) and eight that read them with the analysts' client, kills the server
with SIGKILL at random moments and starts it again at once. While that goes on, no reader may see a montage
that was complete become less, a tile twice, or a wrong pixel; while the server is away it may get an error
that says so, and goes on by itself. At the end the catalog is checked against journal and files, its
databases for damage, its index against its runs. Exit status 1 if anything does not hold.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sqlite3
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path
from queue import Empty
from typing import Any

from montango.bench._catalog_processes import KEY, CatalogProcess, context, started, warm
from montango.bench._catalog_readers import Read, read_montages
from montango.bench._catalog_writers import SAMPLE, Written, write_runs
from montango.lab.errors import LabError
from tiled_server.configuration import DATABASE_VARIABLE, TABLES_VARIABLE

START_TIMEOUT_S = 180.0
END_TIMEOUT_S = 600.0
PACE_S = 0.8
PAUSE_S = 3.0
UP_S = (2.0, 8.0)


@dataclass
class Outcome:
    """What came of it.

    Attributes
    ----------
    kills
        Monotonic times at which the server was killed, s.
    starts_s
        How long it took to answer again, each time, s.
    written, read
        What each writer and each reader did.
    replayed
        Runs that only a replay at the end completed.
    recovered_s
        For each kill and reader, time from the server's answer to the reader's next success, s.
    checked
        What the check of the catalog counted, in words.
    faults
        What does not hold, in words.
    """

    kills: list[float] = field(default_factory=list)
    starts_s: list[float] = field(default_factory=list)
    written: list[Written] = field(default_factory=list)
    read: list[Read] = field(default_factory=list)
    replayed: int = 0
    recovered_s: list[float] = field(default_factory=list)
    checked: str = ""
    faults: list[str] = field(default_factory=list)


def run(arguments: Sequence[str]) -> int:
    """Run the measurement; return 0 if everything held."""
    parser = argparse.ArgumentParser(prog="montango bench catalog_kill")
    parser.add_argument("--seconds", type=float, default=120.0, help="how long (default %(default)s)")
    parser.add_argument("--writers", type=int, default=4, help="processes that write (default %(default)s)")
    parser.add_argument("--readers", type=int, default=8, help="processes that read (default %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of what is done when (default %(default)s)")
    parser.add_argument(
        "--database", help="address of an empty PostgreSQL database for catalog and tables; default: SQLite"
    )
    parser.add_argument("--keep", type=Path, help="keep the catalog's state in this folder")
    options = parser.parse_args(arguments)
    folder = options.keep or Path(tempfile.mkdtemp(prefix="montango-catalog-kill-"))
    try:
        outcome = kill_catalog(
            folder,
            options.seconds,
            writers=options.writers,
            readers=options.readers,
            seed=options.seed,
            database=options.database,
        )
    finally:
        if options.keep is None:
            shutil.rmtree(folder, ignore_errors=True)
    report(outcome)
    return 1 if outcome.faults else 0


def kill_catalog(
    folder: Path,
    seconds: float,
    *,
    writers: int = 4,
    readers: int = 8,
    seed: int = 1,
    database: str | None = None,
    up_s: tuple[float, float] = UP_S,
    pace_s: float = PACE_S,
    pause_s: float = PAUSE_S,
) -> Outcome:
    """Do it, and return what came of it.

    Parameters
    ----------
    folder
        Where the catalog's state is kept; must be new or empty.
    seconds
        How long the server is killed and started.
    writers, readers
        How many processes of each.
    seed
        Of what is written, read and killed when.
    database
        Address of an empty PostgreSQL database; None for SQLite.
    up_s
        Shortest and longest time from an answer of the server to its end, s.
    pace_s
        Time from tile to tile of a writer, s.
    pause_s
        Mean time from one look of a reader to its next, s.
    """
    warm()
    (folder / "data").mkdir(parents=True, exist_ok=True)
    environment = {DATABASE_VARIABLE: database, TABLES_VARIABLE: database} if database else {}
    server = CatalogProcess(folder, folder / "server.log", environment)
    outcome = Outcome()
    crowd: list[BaseProcess] = []
    stop_writing, stop_reading, results = context.Event(), context.Event(), context.Queue()
    try:
        server.start(START_TIMEOUT_S)
        for number in range(writers):
            known: tuple[Any, ...] = (number, server.uri, KEY, str(folder), seed, pace_s)
            crowd.append(started(write_runs, *known, stop_writing, results, log=folder / "writers.log"))
        for number in range(readers):
            known = (number, server.uri, KEY, seed, pause_s)
            crowd.append(started(read_montages, *known, stop_reading, results, log=folder / "readers.log"))
        _strike(server, outcome, seconds, random.Random(seed), up_s)
        stop_reading.set()
        _gather(outcome, crowd, results, readers)
        stop_writing.set()
        _gather(outcome, crowd, results, writers)
        _complete(server, folder, outcome)
        _check_index(server, outcome)
    finally:
        for process in crowd:
            process.kill()
            process.join()
        server.stop()
    _judge_readers(outcome, server.starts[1:])
    _check_catalog(folder, database, outcome)
    return outcome


def _strike(
    server: CatalogProcess, outcome: Outcome, seconds: float, chance: random.Random, up_s: tuple[float, float]
) -> None:
    """Kill and start it until the time is over; it is up at the end."""
    ends = time.monotonic() + seconds
    while True:
        time.sleep(chance.uniform(*up_s))
        if outcome.kills and time.monotonic() >= ends:
            return
        outcome.kills.append(server.kill())
        outcome.starts_s.append(server.start(START_TIMEOUT_S))
        print(f"kill {len(outcome.kills)}: it answers again after {outcome.starts_s[-1]:.1f} s", flush=True)


def _gather(outcome: Outcome, crowd: Sequence[BaseProcess], results: Any, count: int) -> None:
    """Take what so many processes have to tell.

    Raises
    ------
    LabError
        One of them ended without a word, or tells nothing.
    """
    deadline = time.monotonic() + END_TIMEOUT_S
    for _ in range(count):
        while True:
            try:
                found = results.get(timeout=1.0)
                break
            except Empty:
                bad = [process.exitcode for process in crowd if process.exitcode]
                if bad or time.monotonic() > deadline:
                    raise LabError(
                        f"a writer or reader {'ended: ' + str(bad[0]) if bad else 'does not end'}; see the "
                        f"logs (keep them with --keep DIR)"
                    ) from None
        (outcome.written if isinstance(found, Written) else outcome.read).append(found)


def _complete(server: CatalogProcess, folder: Path, outcome: Outcome) -> None:
    """Do what an operator does at last: replay the journal."""
    from tiled_server.replay import replay

    summary = replay(folder / "journal", server.uri, KEY, settled_after_s=0.0)
    outcome.replayed = len(summary.added) + len(summary.completed)
    outcome.faults += [f"run {uid} cannot be replayed: {error}" for uid, error in summary.failed.items()]
    outcome.faults += [f"run {uid} has not ended" for uid in summary.incomplete]


def _check_index(server: CatalogProcess, outcome: Outcome) -> None:
    """Compare the index with what was written, once it has read everything."""
    import httpx

    runs = sum(one.runs for one in outcome.written)
    frames = sum(one.frames for one in outcome.written)
    deadline = time.monotonic() + END_TIMEOUT_S
    headers = {"Authorization": f"Apikey {KEY}"}
    with httpx.Client(base_url=f"{server.uri}/custom/", headers=headers, timeout=30.0) as client:
        while True:
            state = client.get("index").raise_for_status().json()
            if (state["complete"] and not state["waiting"]) or time.monotonic() > deadline:
                break
            time.sleep(0.2)
        found = client.get("montages", params={"sample": SAMPLE, "limit": 1000}).raise_for_status().json()
    if state["failed"]:
        outcome.faults.append(f"runs that are not in the index: {state['failed']}")
    complete = sum(row["status"] == "complete" for row in found["montages"])
    exposures = sum(row["exposures"] for row in found["montages"])
    if found["count"] != runs or (runs <= len(found["montages"]) and (complete, exposures) != (runs, frames)):
        outcome.faults.append(
            f"the index has {found['count']} montages, {complete} complete, {exposures} frames; written were "
            f"{runs} with {frames}"
        )


def _judge_readers(outcome: Outcome, starts: Sequence[float]) -> None:
    for number, one in enumerate(outcome.read):
        outcome.faults += one.faults
        for start in starts:
            after = [when - start for when in one.times if when > start]
            if after:
                outcome.recovered_s.append(after[0])
        if not any(when > starts[-1] for when in one.times):
            outcome.faults.append(f"reader {number} did not recover from the last kill")


def _check_catalog(folder: Path, database: str | None, outcome: Outcome) -> None:
    """Compare the catalog with journal and files, and see its SQLite files undamaged."""
    from tiled_server.operations.check import check
    from tiled_server.operations.stores import Stores

    stores = Stores(folder, database, database)
    found = check(stores, readable=[folder / "data"], deep=True, settled_after_s=0.0)
    outcome.faults += [f"{one.kind}: run {one.run} {one.subject}: {one.text}" for one in found.faults]
    notes = Counter(one.kind for one in found.findings if not one.fault)
    outcome.checked = f"{found.runs} runs, {found.events} events and frames, {found.files} files" + "".join(
        f"; {kind}: {count} tables" for kind, count in notes.items()
    )
    written = sum(one.runs for one in outcome.written)
    if found.runs != written:
        outcome.faults.append(f"{written} runs were written, the catalog was checked for {found.runs}")
    for path in stores.sqlite_files():
        with closing(sqlite3.connect(path)) as connection:
            (state,) = connection.execute("PRAGMA integrity_check(1)").fetchone()
        if state != "ok":
            outcome.faults.append(f"{path.name} is damaged: {state}")


def report(outcome: Outcome) -> None:
    """Print the figures."""
    took = [one for reader in outcome.read for one in reader.took_s]
    errors = sum((reader.retryable for reader in outcome.read), Counter[str]())
    told = ", ".join(f"{count} {name}" for name, count in errors.most_common()) or "none"
    written, read = outcome.written, outcome.read
    print(f"killed {len(outcome.kills)} times, answered again after {_spread(outcome.starts_s)} s")
    print(f"  runs written                        {sum(one.runs for one in written)}")
    print(f"  frames                              {sum(one.frames for one in written)}")
    print(f"  set aside, completed by the writers {sum(one.set_aside for one in written) - outcome.replayed}")
    print(f"  completed by a replay at the end    {outcome.replayed}")
    print(f"  searches, tables, frames read       {_sums(read)}")
    print(f"  a reader's look took                {_spread(took)} s")
    print(f"  errors while the server was away    {told}")
    print(f"  a reader's next success came after  {_spread(outcome.recovered_s)} s")
    print(f"  catalog against journal and files   {outcome.checked}")
    print(f"  what does not hold                  {len(outcome.faults)}")
    for fault in outcome.faults[:50]:
        print(f"    {fault}")


def _sums(read: Sequence[Read]) -> str:
    counts = (sum(getattr(one, name) for one in read) for name in ("searches", "tables", "images"))
    return ", ".join(map(str, counts))


def _spread(values: Sequence[float]) -> str:
    if not values:
        return "-"
    return f"{statistics.median(values):.2f} (median), at most {max(values):.2f}"
