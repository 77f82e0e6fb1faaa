"""Ways to log in: Tiled's own authenticators, configured by the file of people."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest
import yaml
from cryptography.hazmat.primitives.asymmetric import rsa
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from tiled.config import Config

from tests.tiled_server.access_lab import people_file
from tests.tiled_server.serving import served
from tiled_server.access.roles import Role
from tiled_server.configuration import CatalogServer, from_environment

KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
OTHER = rsa.generate_private_key(public_exponent=65537, key_size=2048)


def configured(folder: Path, **provider: Any) -> CatalogServer:
    changes = {"authentication": {"providers": [{"name": "site", **provider}]}}
    path = folder / "people.yaml"
    path.write_text(yaml.safe_dump(people_file(**changes)))
    environment = {"TILED_SINGLE_USER_API_KEY": "ab" * 24, "SITE_SECRET": "s3cret"}
    return from_environment(folder, [], environment=environment, access=path)


def authenticator(server: CatalogServer) -> Any:
    return Config.model_validate(server.tiled_config()).authentication.authenticators["site"]


class IdentityProvider:
    """A provider of OpenID Connect, as far as a server that asks it needs it."""

    def __init__(self) -> None:
        self.address = ""
        self.signs_with = KEY
        self.routes = [
            Route("/.well-known/openid-configuration", self.about),
            Route("/keys", self.keys),
            Route("/token", self.token, methods=["POST"]),
        ]

    async def about(self, _: Request) -> JSONResponse:
        return JSONResponse(
            {
                "issuer": self.address,
                "jwks_uri": f"{self.address}/keys",
                "token_endpoint": f"{self.address}/token",
                "authorization_endpoint": f"{self.address}/authorize",
                "id_token_signing_alg_values_supported": ["RS256"],
            }
        )

    async def keys(self, _: Request) -> JSONResponse:
        public = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(KEY.public_key()))
        return JSONResponse({"keys": [public | {"kid": "k", "use": "sig", "alg": "RS256"}]})

    async def token(self, request: Request) -> JSONResponse:
        form = await request.form()
        secret = form.get("client_secret") or request.headers.get("authorization", "")
        if form.get("code") != "right" or "s3cret" not in str(secret):
            return JSONResponse({"error": "invalid_grant"}, 400)
        now = int(time.time())
        claims = {
            "iss": self.address, "aud": "montango", "sub": "4711", "preferred_username": "stan",
            "iat": now, "exp": now + 60,
        }  # fmt: skip
        token = jwt.encode(claims, self.signs_with, algorithm="RS256", headers={"kid": "k"})
        return JSONResponse({"id_token": token, "access_token": "a", "token_type": "Bearer"})


def test_openid_connect(tmp_path: Path) -> None:
    provider = IdentityProvider()
    with served(Starlette(routes=provider.routes)) as address:
        provider.address = address
        server = configured(
            tmp_path,
            authenticator="oidc",
            args={
                "audience": "montango",
                "client_id": "montango",
                "client_secret": "${SITE_SECRET}",
                "well_known_uri": f"{address}/.well-known/openid-configuration",
                "user_id_claim": "preferred_username",
                "redirect_on_success": "https://catalog.site.org/ui/auth-callback",
            },
        )
        asked = authenticator(server)

        def logged_in(code: str) -> str | None:
            scope = {
                "type": "http", "method": "GET", "path": "/api/v1/auth/provider/site/code", "scheme": "http",
                "query_string": f"code={code}".encode(), "headers": [(b"host", b"catalog")],
            }  # fmt: skip
            try:
                found = asyncio.run(asked.authenticate(Request(scope)))
            except httpx.HTTPStatusError:
                return None
            return None if found is None else str(found.user_name)

        assert logged_in("right") == "stan"
        assert logged_in("wrong") is None
        provider.signs_with = OTHER  # somebody else's key
        assert logged_in("right") is None
    assert server.access is not None
    assert server.access.rules.who([("site", "stan")]).role is Role.STAFF
    assert server.access.rules.who([("site", "4711")]).role is None


def test_ldap_is_configured(tmp_path: Path) -> None:
    args = {"server_address": "ldap.site.org", "bind_dn_template": "uid={username},ou=people,dc=site,dc=org"}
    asked = authenticator(configured(tmp_path, authenticator="ldap", args=args))
    assert (asked.server_address_list, asked.use_tls) == (["ldap.site.org"], True)


def test_a_dictionary_of_passwords(tmp_path: Path) -> None:
    args = {"users_to_passwords": {"sam": "${SITE_SECRET}"}}
    asked = authenticator(configured(tmp_path, authenticator="dictionary", args=args))
    for name, password, found in (("sam", "s3cret", "sam"), ("sam", "", None), ("stan", "s3cret", None)):
        state = asyncio.run(asked.authenticate(name, password))
        assert (None if state is None else state.user_name) == found


def test_an_authenticator_that_is_none(tmp_path: Path) -> None:
    server = configured(tmp_path, authenticator="no.module:Class")
    with pytest.raises(Exception, match="no"):
        authenticator(server)
