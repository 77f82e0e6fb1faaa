"""Runs copied from one place to another, run by run, and compared."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from tiled_server.moving.content import differences, events_sum
from tiled_server.moving.places import Place

Report = Callable[[str], None]
SETTLED_AFTER_S: Final = 30.0


@dataclass(slots=True)
class Copied:
    """What a copy did.

    Attributes
    ----------
    added, completed, present
        Runs that were not there, of which a part was there, and that were there.
    unended
        Runs that are left alone: without a stop document, or on their way to the target.
    events, keys, frames
        What was compared: events of tables, data keys whose data lie in files, frames of these.
    unequal
        Runs that differ, by uid, and in what.
    failed
        Runs that could not be copied or compared, by uid, and why.
    """

    added: list[str] = field(default_factory=list)
    completed: list[str] = field(default_factory=list)
    present: list[str] = field(default_factory=list)
    unended: int = 0
    events: int = 0
    keys: int = 0
    frames: int = 0
    unequal: dict[str, list[str]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)

    @property
    def equal(self) -> bool:
        """Whether every run that has ended is in both places, and the same."""
        return not self.unequal and not self.failed


def copy_runs(
    source: Place,
    target: Place,
    *,
    every_pixel: bool = False,
    compare_only: bool = False,
    settled_after_s: float = SETTLED_AFTER_S,
    report: Report = lambda _: None,
) -> Copied:
    """Copy every run that has ended and is not in the target, and compare each with what is there.

    A run has its stop document last: one whose copy was interrupted is copied anew. Files of frames are not
    copied; both places name the same ones.

    Parameters
    ----------
    source, target
        From where, to where.
    every_pixel
        Compare every frame; otherwise the first, the middle and the last one of each run and data key.
    compare_only
        Copy nothing.
    settled_after_s
        A run that ended less than this ago, in s, and of which a part is in the target, may be on its way
        there by itself: it is left alone.
    report
        Told of each run.
    """
    done = Copied(unended=source.unended())
    there = set(target.uids())
    uids = source.uids()
    for number, uid in enumerate(uids, 1):
        try:
            outcome = "present"
            if uid not in there and compare_only:
                done.unequal[uid] = [f"it is not in {target.name}"]
                continue
            if uid not in there:
                documents = source.documents(uid)
                young = time.time() - float(documents[-1][1]["time"]) < settled_after_s
                if young and target.begun(uid):
                    done.unended += 1
                    continue
                outcome = target.write(documents)
            getattr(done, outcome).append(uid)
            _compare(source, target, uid, every_pixel, done)
        except Exception as error:  # noqa: BLE001  # one bad run keeps no other from being copied
            done.failed[uid] = f"{type(error).__name__}: {error}"
        report(f"{number} of {len(uids)}: run {uid}")
    return done


def _compare(source: Place, target: Place, uid: str, every_pixel: bool, done: Copied) -> None:
    here, there = source.content(uid), target.content(uid)
    if found := list(differences(here, there, every_pixel=every_pixel)):
        done.unequal[uid] = found
    events, keys, frames = events_sum(here)
    done.events += events
    done.keys += keys
    done.frames += frames
