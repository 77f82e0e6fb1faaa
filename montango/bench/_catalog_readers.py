"""A process that reads a catalog as analysts do, and never forgives what it was once told."""

from __future__ import annotations

import math
import random
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Final

import httpx
import numpy as np

from devices.errors import DeviceLost
from montango.bench._catalog_writers import SAMPLE, VALUE_KEY
from processing.callbacks._catalog_run import connect, disconnect
from tiled_server.client import Montage, montages

_NEWEST: Final = 40
_COMPLETE: Final = 0.8
"""Share of looks that go to a montage that is complete, where there is one."""
LAST_LOOKS_S: Final = 60.0


@dataclass(slots=True)
class Read:
    """What a reader saw.

    Attributes
    ----------
    searches, tables, images
        What it asked for with success.
    times
        Monotonic times of all successes, s.
    took_s
        How long each success took.
    retryable
        Errors that say that the server is away, by their names.
    moved
        How often a montage that was not complete changed while it was looked at.
    faults
        What must not be, in words.
    """

    searches: int = 0
    tables: int = 0
    images: int = 0
    times: list[float] = field(default_factory=list)
    took_s: list[float] = field(default_factory=list)
    retryable: Counter[str] = field(default_factory=Counter)
    moved: int = 0
    faults: list[str] = field(default_factory=list)


def read_montages(
    number: int, uri: str, key: str, seed: int, pause_s: float, ending: Any, results: Any
) -> None:
    """Search, read tables and frames with one client, until told to end.

    One that is told to end looks once more, and again until it has seen a frame, for at most `LAST_LOOKS_S`.

    Parameters
    ----------
    number
        Which reader.
    uri, key
        The server.
    seed
        Of what is looked at.
    pause_s
        Mean time from one look to the next, s.
    ending
        An event: set to end.
    results
        A queue: gets a `Read`.
    """
    chance = random.Random(f"{seed} r{number}")
    reader = _Reader(chance, uri, key)
    give_up = math.inf
    while time.monotonic() < give_up:
        if ending.wait(chance.uniform(0.0, 2 * pause_s)) and give_up == math.inf:
            give_up = time.monotonic() + LAST_LOOKS_S
        began = time.monotonic()
        try:
            reader.once()
        except Exception as error:  # noqa: BLE001  # what it is decides what it counts as
            if away(error):
                reader.seen.retryable[type(error).__name__] += 1
            else:
                reader.seen.faults.append(f"reader {number}: {type(error).__name__}: {error}"[:400])
            time.sleep(pause_s)
        else:
            reader.seen.times.append(time.monotonic())
            reader.seen.took_s.append(time.monotonic() - began)
            if reader.seen.images and give_up < math.inf:
                break
    reader.close()
    results.put(reader.seen)


def away(error: BaseException) -> bool:
    """Return whether an error says that the server is away for the moment, and that to try again helps."""
    if isinstance(error, httpx.HTTPStatusError):
        return error.response.status_code >= httpx.codes.INTERNAL_SERVER_ERROR
    return isinstance(error, httpx.TransportError | ConnectionError | DeviceLost)


class _Reader:
    """What one reader remembers."""

    def __init__(self, chance: random.Random, uri: str, key: str) -> None:
        self._chance, self._uri, self._key = chance, uri, key
        self._client: Any = None
        self._complete: dict[str, int] = {}
        self.seen = Read()

    def once(self) -> None:
        """Look at the catalog once."""
        if self._client is None:
            self._client = connect(self._uri, self._key)
        found = list(montages(self._client, sample=SAMPLE)[:_NEWEST])
        self.seen.searches += 1
        if not found:
            return
        complete = [one for one in found if one.status == "complete"]
        montage = self._chance.choice(complete if complete and self._chance.random() < _COMPLETE else found)
        if montage.status != "complete":
            self._look_at_growing(montage)
            return
        self._look_at(montage)

    def _look_at_growing(self, montage: Montage) -> None:
        """Look at one that is being written; its run may be written anew any moment."""
        if montage.montage_id in self._complete:
            self.seen.faults.append(f"montage {montage.montage_id} was complete, and is {montage.status}")
        try:
            montage.tiles  # noqa: B018  # it is read
        except Exception as error:
            if away(error):
                raise
            self.seen.moved += 1

    def _look_at(self, montage: Montage) -> None:
        """See all of one that is complete: every tile once, every pixel right, and as many as before."""
        name, tiles = montage.montage_id, montage.tiles
        asked = montage.counts["asked"]
        known = self._complete.setdefault(name, len(tiles))
        places = tiles[["row", "column", "attempt"]].drop_duplicates()
        if not (len(tiles) == len(places) == asked == known):
            self.seen.faults.append(
                f"montage {name}: {len(tiles)} tiles, {len(places)} different, {asked} asked for, "
                f"{known} before"
            )
            return
        if (states := set(tiles["qc_state"])) != {"pass"}:
            self.seen.faults.append(f"montage {name}: verdicts {sorted(states)}")
        self.seen.tables += 1
        tile = tiles.iloc[self._chance.randrange(len(tiles))]
        image = montage.image(int(tile["row"]), int(tile["column"]))
        value = int(montage.metadata[VALUE_KEY]) + int(tile["tile_index"])
        if not np.all(image == value):
            self.seen.faults.append(f"montage {name}: a frame of {value} has {np.unique(image)[:5].tolist()}")
        self.seen.images += 1

    def close(self) -> None:
        """Close the client."""
        disconnect(self._client)
