"""The catalog server's own routes about montages, where it has them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote
from weakref import WeakKeyDictionary

import httpx
import pandas as pd

from devices.errors import ConfigurationError, MontangoError

ARROW: Final = "application/vnd.apache.arrow.stream"
_known: WeakKeyDictionary[Any, bool] = WeakKeyDictionary()


class Routes:
    """What a server computes about its montages; a plain Tiled server has none of it.

    Parameters
    ----------
    client
        A Tiled client of the server.
    """

    def __init__(self, client: Any) -> None:
        self._context = client.context
        self._base = httpx.URL(str(self._context.api_uri).rstrip("/") + "/").join("../../custom/")

    @property
    def there(self) -> bool:
        """Whether the server has these routes; asked once a connection."""
        if self._context not in _known:
            _known[self._context] = self._ask("montages", {"limit": 0}).status_code != httpx.codes.NOT_FOUND
        return _known[self._context]

    def json(self, *path: str, **parameters: Any) -> Any:
        """Return the answer of a route.

        Raises
        ------
        KeyError
            There is no such montage, or it may not be seen.
        ConfigurationError
            The server refuses a value; with its words.
        MontangoError
            The server fails.
        """
        return self._get(path, parameters).json()

    def table(self, *path: str, **parameters: Any) -> pd.DataFrame:
        """Return the answer of a route that gives Arrow; see `json`."""
        from pyarrow import ipc

        content = self._get(path, parameters | {"format": "arrow"}).content
        with ipc.open_stream(content) as stream:
            return stream.read_all().to_pandas()  # type: ignore[no-any-return]

    def post(self, content: Mapping[str, Any], *path: str) -> Any:
        """Send something to a route once, and return its answer; see `json`."""
        address = self._base.join(_address(path))
        response: httpx.Response = self._context.http_client.post(
            address, json=dict(content), headers={"Accept": "application/json"}
        )
        return self._checked(response).json()

    def _get(self, path: tuple[str, ...], parameters: Mapping[str, Any]) -> httpx.Response:
        given = {name: value for name, value in parameters.items() if value is not None}
        return self._checked(self._ask(_address(path), given))

    def _checked(self, response: httpx.Response) -> httpx.Response:
        if response.is_success:
            return response
        said = _detail(response)
        if response.status_code == httpx.codes.NOT_FOUND:
            raise KeyError(said)
        if response.status_code in (httpx.codes.BAD_REQUEST, httpx.codes.UNPROCESSABLE_ENTITY):
            raise ConfigurationError(f"the catalog refuses this: {said}")
        raise MontangoError(f"the catalog at {self._base} answers {response.status_code}: {said}")

    def _ask(self, path: str, parameters: Mapping[str, Any]) -> httpx.Response:
        from tiled.client.utils import retry_context

        for attempt in retry_context(self._context):
            with attempt:
                response: httpx.Response = self._context.http_client.get(
                    self._base.join(path),
                    params=dict(parameters),
                    headers={"Accept": f"application/json, {ARROW}"},
                )
                if response.status_code in (httpx.codes.BAD_GATEWAY, httpx.codes.SERVICE_UNAVAILABLE):
                    response.raise_for_status()
        return response


def _address(path: tuple[str, ...]) -> str:
    return "/".join(quote(part, safe="") for part in path)


def _detail(response: httpx.Response) -> str:
    try:
        detail = response.json()["detail"]
    except (ValueError, KeyError, TypeError):
        return response.reason_phrase
    if isinstance(detail, list):  # pydantic's
        return "; ".join(f"{one.get('loc', ['?'])[-1]}: {one.get('msg')}" for one in detail)
    return str(detail)
