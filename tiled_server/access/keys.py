"""API keys as requests show them. Tiled looks a key up three times a request, and writes when it was used.

A key that was looked up is believed for some seconds: a run is written in a hundred requests. Its end and the
role of its owner count at once.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Final

from fastapi import Depends, HTTPException, Request
from fastapi.security import SecurityScopes
from tiled.authn_database.core import lookup_valid_api_key
from tiled.server.authentication import (
    get_api_key,
    get_current_access_tags,
    get_current_principal,
    get_decoded_access_token,
    headers_for_401,
    move_api_key,
    oauth2_scheme,
)
from tiled.server.connection_pool import get_database_session_factory
from tiled.server.schemas import Identity, Principal, Role
from tiled.server.settings import get_settings

BELIEVED_S: Final = 5.0
"""How long a key that was revoked may still open the door, s."""
_MOST: Final = 1000


@dataclass(frozen=True, slots=True)
class Key:
    """A valid key: whose it is, and what it is limited to.

    Attributes
    ----------
    principal
        Tiled's principal.
    scopes
        What the key is for; ``inherit``: whatever its owner may do.
    tags
        Access tags that it is for; None: any.
    ends_s
        Unix time; None: never.
    """

    principal: Principal
    scopes: frozenset[str]
    tags: frozenset[str] | None
    ends_s: float | None


class Keys:
    """The keys of a server.

    Parameters
    ----------
    believed_s
        How long a key is not looked up again, s.
    clock
        Monotonic time, s.
    """

    def __init__(self, believed_s: float = BELIEVED_S, clock: Callable[[], float] = time.monotonic) -> None:
        self._believed_s, self._clock = believed_s, clock
        self._known: dict[bytes, tuple[float, Key]] = {}

    async def find(self, api_key: str, sessions: Any) -> Key | None:
        """Return a key; None for one that opens nothing."""
        try:
            secret = bytes.fromhex(api_key)
        except ValueError:
            return None
        hashed, now = hashlib.sha256(secret).digest(), self._clock()
        until, found = self._known.get(hashed, (0.0, None))
        if found is None or until <= now:
            self._known.pop(hashed, None)
            found = await _look_up(secret, sessions)
            if found is None:
                return None
            if len(self._known) >= _MOST:
                self._known.clear()
            self._known[hashed] = now + self._believed_s, found
        return None if found.ends_s is not None and found.ends_s < time.time() else found


async def _look_up(secret: bytes, sessions: Any) -> Key | None:
    async with sessions() as session:
        row = await lookup_valid_api_key(session, secret)
        if row is None:
            return None
        ends = row.expiration_time
        owner = row.principal
        principal = Principal(
            uuid=owner.uuid,
            type=owner.type,
            identities=[Identity(id=one.id, provider=one.provider) for one in owner.identities],
            roles=[Role.from_orm(one) for one in owner.roles],
        )
        found = Key(
            principal,
            frozenset(row.scopes),
            None if row.access_tags is None else frozenset(row.access_tags),
            None if ends is None else ends.replace(tzinfo=UTC).timestamp(),
        )
        row.latest_activity = datetime.now(UTC).replace(microsecond=0)
        await session.commit()
    return found


def principal_by(keys: Keys) -> Callable[..., Any]:
    """Return the dependency that takes the place of Tiled's `get_current_principal`."""

    async def current_principal(
        request: Request,
        security_scopes: SecurityScopes,
        access_token: Annotated[Any, Depends(oauth2_scheme)],
        token: Annotated[Any, Depends(get_decoded_access_token)],
        api_key: Annotated[Any, Depends(get_api_key)],
        settings: Annotated[Any, Depends(get_settings)],
        sessions: Annotated[Any, Depends(get_database_session_factory)],
        _: Annotated[None, Depends(move_api_key)],
    ) -> Principal | None:
        if api_key is None:
            found: Principal | None = await get_current_principal(
                request, security_scopes, access_token, token, None, settings, sessions
            )
            return found
        key = await keys.find(api_key, sessions)
        if key is None:
            headers = headers_for_401(request, security_scopes)
            raise HTTPException(401, "Invalid API key", headers=headers)
        request.state.principal = key.principal
        return key.principal

    return current_principal


def tags_by(keys: Keys) -> Callable[..., Any]:
    """Return the dependency that takes the place of Tiled's `get_current_access_tags`."""

    async def current_tags(
        api_key: Annotated[Any, Depends(get_api_key)],
        sessions: Annotated[Any, Depends(get_database_session_factory)],
    ) -> frozenset[str] | None:
        key = None if api_key is None else await keys.find(api_key, sessions)
        return None if key is None else key.tags

    return current_tags


def overrides(keys: Keys) -> dict[Callable[..., Any], Callable[..., Any]]:
    """Return what is asked instead of Tiled's own dependencies."""
    return {get_current_principal: principal_by(keys), get_current_access_tags: tags_by(keys)}
