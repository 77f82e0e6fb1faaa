"""Commands about the catalog that analysts open."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from devices.errors import ConfigurationError, DeviceLost
from montango.cli import catalog_marks, catalog_moving, catalog_operations
from montango.cli.options import chosen

if TYPE_CHECKING:
    import httpx

app = typer.Typer(help="Work with the catalog.", no_args_is_help=True)
app.command()(catalog_moving.migrate)
app.command()(catalog_moving.copy)
catalog_operations.register(app)
catalog_marks.register(app)

_POLL_S = 0.5
_TIMEOUT_S = 30.0


@app.command()
def reindex(
    context: typer.Context,
    wait: Annotated[bool, typer.Option(help="return when every run was read")] = True,
) -> None:
    """Make the index of montages and tiles anew from the catalog and the files of frames.

    The server does it while it goes on; queries answer from the rows that are there.
    """
    import httpx

    tiled = chosen(context).existing_lab().info().tiled
    started = time.monotonic()
    with httpx.Client(headers={"Authorization": f"Apikey {tiled['api_key']}"}, timeout=_TIMEOUT_S) as client:
        address = tiled["uri"].rstrip("/").removesuffix("/api/v1") + "/custom/index"
        state = _answer(client, "POST", address)
        while wait and not (state["complete"] and not state["waiting"]):
            time.sleep(_POLL_S)
            state = _answer(client, "GET", address)
    for uid, error in state["failed"].items():
        print(f"run {uid}: {error}")
    if not wait:
        print("the server reads every run anew")
        return
    print(f"the index has {state['runs']} runs; it took {time.monotonic() - started:.1f} s")
    raise typer.Exit(1 if state["failed"] else 0)


def _answer(client: httpx.Client, method: str, address: str) -> dict[str, Any]:
    """Return what the server says of its index.

    Raises
    ------
    DeviceLost
        It does not answer.
    ConfigurationError
        It has no index, or the key does not open it.
    """
    import httpx

    try:
        response = client.request(method, address)
    except httpx.HTTPError as error:
        raise DeviceLost(f"no catalog answers at {address} ({error}); start it (montango up)") from error
    if response.status_code == httpx.codes.NOT_FOUND:
        raise ConfigurationError(f"the catalog at {address} has no index: it is not a server of Montango")
    if response.is_error:
        raise ConfigurationError(f"the catalog refuses {address}: {response.text[:200]}")
    found: dict[str, Any] = response.json()
    return found
