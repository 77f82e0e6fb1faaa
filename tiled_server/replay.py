"""Complete a catalog from the journal, as often as one likes."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from devices.errors import DeviceLost, MontangoError
from processing.callbacks._catalog_run import RunStore, TiledStore, replay_lock
from processing.callbacks.journal import JournalledRun, find_runs

_SETTLED_AFTER_S: Final = 30.0


@dataclass(slots=True)
class ReplaySummary:
    """What a replay did: uids of runs, by what became of them.

    Attributes
    ----------
    added
        Runs that were not in the catalog.
    completed
        Runs of which the catalog had a part.
    present
        Runs that were complete already.
    incomplete
        Runs without a stop document (being written, or ended by a crash), and runs that are being written to
        the catalog by another process. They are left alone.
    failed
        Runs that could not be written, with the error.
    """

    added: list[str] = field(default_factory=list)
    completed: list[str] = field(default_factory=list)
    present: list[str] = field(default_factory=list)
    incomplete: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        lines = [
            f"added {len(self.added)}, completed {len(self.completed)}, "
            f"already complete {len(self.present)}, "
            f"left alone {len(self.incomplete)} (not ended, or on their way), failed {len(self.failed)}"
        ]
        return "\n".join(lines + [f"{uid}: {error}" for uid, error in self.failed.items()])


def replay(
    journal_dir: str | Path,
    uri: str,
    api_key: str,
    *,
    store: RunStore | None = None,
    settled_after_s: float = _SETTLED_AFTER_S,
) -> ReplaySummary:
    """Write every ended run of a journal that the catalog has not, or not wholly.

    Parameters
    ----------
    journal_dir
        The journal.
    uri, api_key
        The Tiled server.
    store
        Where runs are written to instead of the Tiled server.
    settled_after_s
        A run whose last document is younger than this, in s, may still be on its way to the catalog by
        itself: if the catalog has a part of it, it is left alone.

    Raises
    ------
    DeviceLost
        The server does not answer.
    MontangoError
        Another process replays this journal now.
    """
    store = store or TiledStore(uri, api_key)
    if not store.is_up():
        raise DeviceLost(f"no catalog answers at {store}; start it (montango up), and replay again")
    summary = ReplaySummary()
    with replay_lock(Path(journal_dir), store.lock) as mine:
        if not mine:
            raise MontangoError(
                f"the journal {journal_dir} is being replayed by another process; wait for it"
            )
        client = store.connect()
        try:
            for run in find_runs(journal_dir):
                _replay_one(store, client, run, settled_after_s, summary)
        finally:
            store.disconnect(client)
    return summary


def _replay_one(
    store: RunStore, client: Any, run: JournalledRun, settled_after_s: float, summary: ReplaySummary
) -> None:
    young = time.time() - run.path.stat().st_mtime < settled_after_s
    if not run.complete or run.live or (young and store.half_there(client, run.uid)):
        summary.incomplete.append(run.uid)
        return
    try:
        getattr(summary, store.replay(client, run.path)).append(run.uid)
    except Exception as error:  # noqa: BLE001  # one bad run keeps no other out of the catalog
        summary.failed[run.uid] = f"{type(error).__name__}: {error}"
