"""What a request may do: by who makes it, as the file of people is now, and by the limits of its key."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Final
from urllib.parse import urlencode

from fastapi import Depends, HTTPException, Request
from tiled.access_control.scopes import PUBLIC_SCOPES
from tiled.server.authentication import (
    get_api_key,
    get_current_principal,
    get_current_scopes,
    get_decoded_access_token,
)
from tiled.server.connection_pool import get_database_session_factory
from tiled.server.settings import get_settings

from tiled_server.access.keys import Keys
from tiled_server.access.policy import ProposalPolicy
from tiled_server.access.roles import FILES
from tiled_server.access.rules import Rules, Who
from tiled_server.access.source import AccessSource

INHERIT: Final = "inherit"
_NAMES_FILES: Final = "include_data_sources"


def scopes_by(source: AccessSource, keys: Keys) -> Callable[..., Any]:
    """Return the dependency that takes the place of Tiled's, which would ask roles of before."""

    async def current_scopes(
        request: Request,
        token: Annotated[Any, Depends(get_decoded_access_token)],
        api_key: Annotated[Any, Depends(get_api_key)],
        settings: Annotated[Any, Depends(get_settings)],
        sessions: Annotated[Any, Depends(get_database_session_factory)],
    ) -> set[str]:
        rules = source.rules
        if api_key is not None:
            scopes = await _scopes_of_key(rules, keys, api_key, sessions)
        elif token is not None:
            scopes = set(rules.scopes(rules.who(_identities(request, token))))
        else:
            scopes = {one.value for one in PUBLIC_SCOPES} if settings.allow_anonymous_access else set()
        if FILES not in scopes:
            _hide_addresses(request)
        return scopes

    return current_scopes


async def _scopes_of_key(rules: Rules, keys: Keys, api_key: str, sessions: Any) -> set[str]:
    found = await keys.find(api_key, sessions)
    if found is None:
        return set()
    allowed = set(rules.scopes(rules.principal(found.principal)))
    return allowed if INHERIT in found.scopes else allowed & found.scopes


def _identities(request: Request, token: dict[str, Any]) -> list[tuple[str, str]]:
    if "ids" in token:
        return [(one["idp"], one["id"]) for one in token["ids"]]
    # of a provider that makes tokens itself
    return [(request.app.state.provider, str(token.get("user") or token["sub"]))]


def _hide_addresses(request: Request) -> None:
    """Let an answer be without the addresses of files, for those who may not read them."""
    kept = [(name, value) for name, value in request.query_params.multi_items() if name != _NAMES_FILES]
    if len(kept) < len(request.query_params.multi_items()):
        request.scope["query_string"] = urlencode(kept).encode()
        # it is kept once it has been asked for
        request.__dict__.pop("_query_params", None)


class Caller:
    """Who makes a request, and with which scopes."""

    def __init__(
        self,
        request: Request,
        principal: Annotated[Any, Depends(get_current_principal)],
        scopes: Annotated[Any, Depends(get_current_scopes)],
    ) -> None:
        policy = request.app.state.access_policy
        self.principal = principal
        people = isinstance(policy, ProposalPolicy)
        self.who: Who | None = policy.rules.principal(principal) if people else None
        self.scopes = {str(getattr(one, "value", one)) for one in scopes}
        self._single_user = not request.app.state.authenticated

    @property
    def name(self) -> str:
        """What they are called in records."""
        return "single user" if self.who is None else self.who.shown

    def may(self, scope: str) -> bool:
        """Return whether they may do something that Tiled has no scope for; a single user may."""
        return "write:metadata" in self.scopes if self._single_user else scope in self.scopes

    def check(self, scope: str) -> None:
        """Refuse those who may not.

        Raises
        ------
        HTTPException
            401 without a valid key or token; 403 with one that is not enough.
        """
        if not self.scopes:
            raise HTTPException(401, "give an API key or a token", headers={"WWW-Authenticate": "Bearer"})
        if not self.may(scope):
            raise HTTPException(403, f"this needs the scope {scope}, which you do not have here")


Known = Annotated[Caller, Depends()]
