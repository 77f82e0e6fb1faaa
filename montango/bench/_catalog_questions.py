"""What is asked of the catalog over HTTP, how long it takes, and what it may take."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import httpx
import numpy as np

from montango.bench._catalog_fill import LARGE, Catalog
from montango.bench._catalog_made import A_SESSION, EVERY_S, FIRST_S, PROPOSALS, SAMPLES
from montango.bench._catalog_server import Running

Ask = Callable[[random.Random], tuple[str, Mapping[str, Any]]]
DAY_S: Final = 86_400.0


@dataclass(frozen=True)
class Question:
    """A question, asked ``repeats`` times.

    Attributes
    ----------
    name
        What it is.
    ask
        Address below ``/custom`` and parameters, drawn anew each time.
    limit_ms
        What 95 of 100 may take on PostgreSQL, ms; None: it is only told.
    repeats
        How often it is asked.
    """

    name: str
    ask: Ask
    limit_ms: float | None = None
    repeats: int = 60


@dataclass(frozen=True)
class Times:
    """How long answers took, ms: the median, what 95 of 100 took, the server's processor time for one."""

    p50: float
    p95: float
    cpu: float

    @classmethod
    def of(cls, seconds: list[float], cpu_s: float) -> Times:
        """Return the figures of some times, s, and of the processor time of all of them, s."""
        p50, p95 = 1e3 * np.percentile(seconds, (50, 95))
        return cls(float(p50), float(p95), 1e3 * cpu_s / len(seconds))


def questions(catalog: Catalog) -> list[Question]:
    """Return what is asked of a catalog of its size."""
    count, large = catalog.count, catalog.large.montage_id
    sessions = max(1, count // A_SESSION)

    def since(rng: random.Random, days: float) -> dict[str, float]:
        first = FIRST_S + rng.random() * EVERY_S * count
        return {"since": first, "until": first + days * DAY_S}

    def of_session(rng: random.Random) -> dict[str, str]:
        return {"session": f"s-{rng.randrange(sessions)}"}

    return [
        Question(
            "search by sample", lambda r: ("montages", {"sample": f"mouse {r.randrange(SAMPLES)}"}), 100
        ),
        Question("search by sample, *", lambda r: ("montages", {"sample": f"mouse {r.randrange(30)}*"}), 100),
        Question("search by time, a day", lambda r: ("montages", since(r, 1)), 100),
        Question(
            "search by proposal", lambda r: ("montages", {"proposal": f"p-{r.randrange(PROPOSALS)}"}), 100
        ),
        Question(
            "search by time, proposal, failed tiles",
            lambda r: ("montages", since(r, 10) | {"proposal": f"p-{r.randrange(PROPOSALS)}", "qc": "fail"}),
            100,
        ),
        Question(
            "search by two words", lambda r: ("montages", {"text": f"vessel {r.randrange(count)}"}), 100
        ),
        Question("newest 100 of all", lambda _: ("montages", {}), 100, 30),
        Question(f"heatmap of {LARGE} tiles", lambda _: (f"montages/{large}/heatmap", {}), 300, 30),
        Question("worst 20 of a session, by faults", lambda r: ("worst", of_session(r)), 300, 30),
        Question(
            "worst 20 of a session, by focus",
            lambda r: ("worst", of_session(r) | {"by": "focus_score"}),
            300,
            30,
        ),
        Question("worst 20 of all, by faults", lambda _: ("worst", {}), None, 10),
        Question("statistics of a session", lambda r: ("statistics", of_session(r)), None, 20),
        Question("map of the stage, a session", lambda r: ("heatmap", of_session(r)), 300, 20),
        Question("map of the stage, all tiles", lambda _: ("heatmap", {}), None, 5),
        Question(
            f"table of {LARGE} tiles, Arrow",
            lambda _: (f"montages/{large}/tiles", {"format": "arrow"}),
            None,
            10,
        ),
    ]


def answers(running: Running, catalog: Catalog) -> Iterator[tuple[Question, Times]]:
    """Ask everything, one after the other; yield how long it took."""
    rng = random.Random(catalog.seed)
    with running.http() as client:
        for question in questions(catalog):
            for _ in range(2):  # the first open connections and warm what is kept
                _asked(client, *question.ask(rng))
            before = running.cpu_s()
            seconds = [_asked(client, *question.ask(rng)) for _ in range(question.repeats)]
            yield question, Times.of(seconds, running.cpu_s() - before)


def _asked(client: httpx.Client, path: str, parameters: Mapping[str, Any]) -> float:
    """Ask, and return how long it took, s."""
    began = time.perf_counter()
    answer = client.get(f"/custom/{path}", params=dict(parameters))
    taken = time.perf_counter() - began
    answer.raise_for_status()
    return taken


def wrong_answers(client: httpx.Client, catalog: Catalog) -> list[str]:
    """Return which answers are not what the montages are made of."""
    faults = []
    rng = random.Random(catalog.seed + 1)
    made = catalog.made(rng.randrange(catalog.count))
    start = made.start()
    alike = {catalog.made(k).montage_id for k in range(made.number % SAMPLES, catalog.count, SAMPLES)}
    found = _montages(client, sample=start["sample"])
    if found - {catalog.large.montage_id} != alike:
        faults.append(f"search by sample {start['sample']}: {len(found)} montages, and {len(alike)} are made")
    if made.montage_id not in _montages(client, since=made.started - 1, until=made.started + 1):
        faults.append(f"search by time does not find {made.montage_id}")
    worst = client.get(
        "/custom/worst", params={"session": start["data_session"], "by": "focus_score", "n": 1}
    )
    lowest = min(
        catalog.made(k).verdicts()["focus_score"].min()
        for k in range(catalog.count)
        if k // A_SESSION == made.number // A_SESSION
    )
    value = worst.raise_for_status().json()["tiles"][0]["value"]
    if abs(value - lowest) > 1e-9:
        faults.append(f"the worst tile of {start['data_session']} has {value}, and {lowest} is made")
    return faults


def _montages(client: httpx.Client, **parameters: Any) -> set[str]:
    answer = client.get("/custom/montages", params={**parameters, "limit": 1000}).raise_for_status()
    return {one["montage_id"] for one in answer.json()["montages"]}
