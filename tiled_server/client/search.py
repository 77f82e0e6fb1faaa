"""Find montages: by what their runs say, when they began, and how their tiles were judged."""

from __future__ import annotations

import html
from collections.abc import Iterator, Sequence
from datetime import date, datetime
from typing import Any, Final, Protocol, overload

import pandas as pd

from devices.errors import ConfigurationError
from tiled_server.client._montage import Montage
from tiled_server.client.routes import Routes
from tiled_server.client.summaries import QC_CHOICES, Row, RunSource, listing
from tiled_server.client.times import unix_s

_PAGE: Final = 50
_SHOWN: Final = 20


class Source(Protocol):
    """Where rows of montages come from, the newest first."""

    def count(self) -> int:
        """Return how many there are."""

    def rows(self, offset: int, limit: int) -> list[Row]:
        """Return some of them."""


class RouteSource:
    """Rows that the server finds in its index; while that is being made, rows that are found without it.

    Parameters
    ----------
    client
        A Tiled client.
    wanted
        What `montages` was asked for; times in unix s.
    """

    def __init__(self, client: Any, wanted: dict[str, Any]) -> None:
        self._client, self._wanted = client, wanted
        self._routes = Routes(client)
        self._instead: RunSource | None = None

    def count(self) -> int:
        """Return how many montages match."""
        answer = self._routes.json("montages", **self._wanted, limit=0)
        if answer.get("complete", True):
            return int(answer["count"])
        self._instead = RunSource(self._client, self._wanted)
        return self._instead.count()

    def rows(self, offset: int, limit: int) -> list[Row]:
        """Return some of them, the newest first."""
        if self._instead is not None:
            return self._instead.rows(offset, limit)
        answer = self._routes.json("montages", **self._wanted, sort="-started", offset=offset, limit=limit)
        return list(answer["montages"])


class MontageList(Sequence[Montage]):
    """Montages that were searched for, the newest first. Nothing is asked for before it is looked at.

    It is sliced and indexed like a list; a slice asks for its own part only. How many there are is found out
    once: search again for those that came since.
    """

    def __init__(self, client: Any, source: Source, wanted: range | None = None) -> None:
        self._client, self._source = client, source
        self._wanted = wanted
        self._pages: dict[int, list[Row]] = {}

    @overload
    def __getitem__(self, index: int) -> Montage: ...
    @overload
    def __getitem__(self, index: slice) -> MontageList: ...
    def __getitem__(self, index: int | slice) -> Montage | MontageList:
        """Return one montage, or a part of the list."""
        if isinstance(index, slice):
            part = MontageList(self._client, self._source, self._range[index])
            part._pages = self._pages
            return part
        try:
            return Montage(self._client, self._row(self._range[index]))
        except IndexError:
            raise IndexError(f"there are {len(self)} montages: there is no number {index}") from None

    def __len__(self) -> int:
        return len(self._range)

    def __iter__(self) -> Iterator[Montage]:
        for at in self._range:
            yield Montage(self._client, self._row(at))

    def table(self) -> pd.DataFrame:
        """Return a row a montage: id, sample, people, times (UTC), status, how many tiles of which state."""
        return listing([self._row(at) for at in self._range])

    def __repr__(self) -> str:
        shown = self[:_SHOWN].table()
        lines = [f"{len(self)} montages"] + ([shown.to_string(index=False)] if len(shown) else [])
        return "\n".join(lines + self._more())

    def _repr_html_(self) -> str:
        shown = self[:_SHOWN].table()
        more = "".join(f"<p>{html.escape(line)}</p>" for line in self._more())
        table = shown.to_html(index=False, border=0) if len(shown) else ""
        return f"<p><b>{len(self)} montages</b></p>{table}{more}"

    def _more(self) -> list[str]:
        return [f"... and {len(self) - _SHOWN} more"] if len(self) > _SHOWN else []

    @property
    def _range(self) -> range:
        if self._wanted is None:
            self._wanted = range(self._source.count())
        return self._wanted

    def _row(self, at: int) -> Row:
        page = at // _PAGE
        if page not in self._pages:
            self._pages[page] = self._source.rows(page * _PAGE, _PAGE)
        return self._pages[page][at % _PAGE]


def montages(
    client: Any,
    *,
    sample: str | None = None,
    operator: str | None = None,
    proposal: str | None = None,
    session: str | None = None,
    instrument: str | None = None,
    since: datetime | date | str | None = None,
    until: datetime | date | str | None = None,
    qc: str | None = None,
    text: str | None = None,
) -> MontageList:
    """Search for montages.

    Parameters
    ----------
    client
        A Tiled client of the catalog: ``tiled.client.from_uri(...)``.
    sample, operator, proposal, session, instrument
        As in the start documents (``session`` is ``data_session``): whole, or with ``*`` for any text.
    since, until
        When it began: not before the one, not after the other. A datetime, a date (its midnight), or ISO 8601
        text; without an offset from UTC it is the time of this computer.
    qc
        ``"fail"``, ``"needs_review"``, ``"pending"`` or ``"pass"``: a tile that counts is in that state;
        ``"good"``: all passed.
    text
        Words that sample, title or notes have, in any case.

    Returns
    -------
    MontageList
        The newest first; asked of the server when it is looked at.

    Raises
    ------
    ConfigurationError
        A time or state is not one.

    Notes
    -----
    A server of Montango finds them in its index. A plain Tiled server is asked for the runs with these
    fields, and the rest is computed here: ``qc`` then reads the verdicts of every montage found.
    """
    if qc is not None and qc not in QC_CHOICES:
        raise ConfigurationError(f"qc = {qc!r} is none of {', '.join(QC_CHOICES)}")
    wanted: dict[str, Any] = {
        "sample": sample,
        "operator": operator,
        "proposal": proposal,
        "session": session,
        "instrument": instrument,
        "since": None if since is None else unix_s(since, "since"),
        "until": None if until is None else unix_s(until, "until"),
        "qc": qc,
        "text": text,
    }
    if None not in (wanted["since"], wanted["until"]) and wanted["since"] > wanted["until"]:
        raise ConfigurationError(f"since = {since!s} is after until = {until!s}: nothing lies between")
    source: Source = (RouteSource if Routes(client).there else RunSource)(client, wanted)
    return MontageList(client, source)


def montage(client: Any, name: str) -> Montage:
    """Return a montage by its id, or by the uid of one of its runs (or results), or the uid's beginning.

    Raises
    ------
    ConfigurationError
        The catalog has none of this name, or the run belongs to no montage.
    """
    return Montage.named(client, name)
