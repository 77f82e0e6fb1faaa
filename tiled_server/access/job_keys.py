"""Keys by which work that goes on after a request reads the catalog as the one who asked for it."""

from __future__ import annotations

import hashlib
import secrets
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from sqlalchemy import delete, select
from tiled.authn_database.orm import APIKey, Principal

from tiled_server.access.roles import FILES, READ

NOTE: Final = "an export"
_LIFE: Final = timedelta(hours=24)
_KEPT: Final = 10
"""How many each owner has: more than exports that they may have waiting."""
_SECRET_BYTES: Final = 36


async def job_key(principal: Any, sessions: Any) -> str:
    """Make a key that reads what its owner may read, for a day; the oldest of the owner's go.

    Parameters
    ----------
    principal
        Tiled's principal.
    sessions
        Opens a session of the database of accounts.
    """
    secret = secrets.token_bytes(_SECRET_BYTES)
    async with sessions() as session:
        number = await session.scalar(select(Principal.id).where(Principal.uuid == principal.uuid))
        own = (APIKey.principal_id == number, APIKey.note == NOTE)
        newest = (
            select(APIKey.hashed_secret).where(*own).order_by(APIKey.expiration_time.desc()).limit(_KEPT - 1)
        )
        kept = (await session.execute(newest)).scalars().all()
        await session.execute(delete(APIKey).where(*own, APIKey.hashed_secret.not_in(kept)))
        session.add(
            APIKey(
                principal_id=number,
                note=NOTE,
                scopes=sorted(READ | {FILES}),
                access_tags=None,
                expiration_time=datetime.now(UTC) + _LIFE,
                first_eight=secret.hex()[:8],
                hashed_secret=hashlib.sha256(secret).digest(),
            )
        )
        await session.commit()
    return secret.hex()
