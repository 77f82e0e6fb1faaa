"""Documents of a run as JSON: without addresses of files for those who may not read files."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from typing import Any, Final

from bluesky_tiled_plugins.exporters import json_seq_exporter

from tiled_server.access.policy import ProposalPolicy
from tiled_server.access.roles import FILES

_SEPARATOR: Final = "\x1e"
_ADDRESS: Final = re.compile(r"file:|/.*/")


async def json_seq(
    mimetype: str, adapter: Any, metadata: dict[str, Any], filter_for_access: Any
) -> AsyncIterator[str]:
    """Yield the documents of a run, as Tiled asks its serializers; a text of RFC 7464 each."""
    asked = filter_for_access.keywords
    named = not isinstance(asked["access_policy"], ProposalPolicy) or FILES in asked["authn_scopes"]
    async for line in json_seq_exporter(mimetype, adapter, metadata, filter_for_access):
        yield line if named else _without_addresses(line)


def _without_addresses(line: str) -> str:
    document = json.loads(line.removeprefix(_SEPARATOR))
    return f"{_SEPARATOR}{json.dumps(_bare(document))}\n"


def _bare(value: Any) -> Any:
    """Return a value with nothing in the place of each address: sources and settings have them too."""
    if isinstance(value, dict):
        return {name: _bare(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_bare(one) for one in value]
    return "" if isinstance(value, str) and _ADDRESS.match(value) else value
