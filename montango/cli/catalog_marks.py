"""Commands about how long raw data is kept."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime
from enum import StrEnum
from typing import Annotated, Any
from urllib.parse import quote

import typer

from devices.errors import ConfigurationError, DeviceLost
from montango.cli.options import chosen
from montango.cli.table import table

_TIMEOUT_S = 30.0


class Mark(StrEnum):
    """What is to become of raw data."""

    KEEP = "keep"
    UNTIL = "until"
    MAY_GO = "may-go"


def register(app: typer.Typer) -> None:
    """Add the commands to those about the catalog."""
    app.command()(mark)
    app.command()(retention)


def mark(
    context: typer.Context,
    montage: Annotated[str, typer.Argument(help="montage id")],
    what: Annotated[Mark, typer.Argument(metavar="MARK", help="keep, until or may-go")],
    why: Annotated[str, typer.Option(help="the reason, in words")],
    until: Annotated[
        str | None, typer.Option(metavar="DATE", help="last day on which raw data is kept, 2031-12-31")
    ] = None,
) -> None:
    """Say how long the raw data of a montage is kept; earlier marks stay in its history."""
    day = _day("--until", until)
    if (what is Mark.UNTIL) != (day is not None):
        raise ConfigurationError("'until' needs --until DATE, and only 'until' has one")
    given = {"mark": what.value, "why": why, **({"until": day} if day else {})}
    made = _ask(context, "POST", f"montages/{quote(montage, safe='')}/retention", json=given)
    print(f"{montage}: {described(made)}, by {made['author']}")


def retention(
    context: typer.Context,
    due: Annotated[bool, typer.Option("--due", help="only those whose raw data may go")] = False,
    on: Annotated[
        str | None, typer.Option(metavar="DATE", help="as of this day; default: today (UTC)")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="as JSON")] = False,
) -> None:
    """List the montages with a mark. Nothing is ever deleted by Montango."""
    day = _day("--on", on)
    found = _ask(context, "GET", "retention", params={"due": due, **({"on": day} if day else {})})
    if as_json:
        print(json.dumps(found, indent=1))
        return
    rows = [
        (
            row["montage_id"],
            row["sample"] or "",
            row["proposal"] or "",
            "" if row["started"] is None else f"{datetime.fromtimestamp(row['started'], UTC):%Y-%m-%d}",
            described(row),
            "yes" if row["due"] else "",
            row["author"],
            row["why"],
        )
        for row in found["marks"]
    ]
    if rows:
        print(table(("MONTAGE", "SAMPLE", "PROPOSAL", "BEGUN", "MARK", "DUE", "BY", "WHY"), rows))
    print(f"{len(rows)} montages on {found['on']}")


def described(row: dict[str, Any]) -> str:
    """Return a mark in words."""
    return {
        "keep": "keep",
        "may-go": "raw data may go",
        "until": f"keep until {row['until']}",
    }[row["mark"]]


def _day(name: str, text: str | None) -> str | None:
    if text is None:
        return None
    try:
        return date.fromisoformat(text).isoformat()
    except ValueError:
        raise ConfigurationError(f"{name} {text!r} is no day; give it as 2031-12-31") from None


def _ask(context: typer.Context, method: str, path: str, **given: Any) -> dict[str, Any]:
    """Return what the lab's catalog answers.

    Raises
    ------
    DeviceLost
        It does not answer.
    ConfigurationError
        It refuses.
    """
    import httpx

    tiled = chosen(context).existing_lab().info().tiled
    address = tiled["uri"].rstrip("/").removesuffix("/api/v1") + f"/custom/{path}"
    headers = {"Authorization": f"Apikey {tiled['api_key']}"}
    try:
        answer = httpx.request(method, address, headers=headers, timeout=_TIMEOUT_S, **given)
    except httpx.HTTPError as error:
        raise DeviceLost(f"no catalog answers at {address} ({error}); start it (montango up)") from error
    if answer.is_error:
        raise ConfigurationError(f"the catalog refuses {method} {address}: {answer.text[:300]}")
    found: dict[str, Any] = answer.json()
    return found
