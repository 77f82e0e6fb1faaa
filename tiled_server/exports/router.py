"""Routes of the exports, under ``/custom`` of the catalog's server.

``POST /exports`` {"montage", "format", "options"} -> 202 {"id", ...}; ``GET /exports`` -> the caller's;
``GET /exports/ID`` -> {"state", "done", "of", "bytes", ...}; ``GET /exports/ID/file``, also in ranges;
``DELETE /exports/ID``. A caller sees their own exports, of montages that they may read; all else is 404.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Annotated, Any, Final

import httpx
from fastapi import APIRouter, Depends, HTTPException, Request, Security
from fastapi.responses import FileResponse, Response
from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool
from tiled.server.authentication import check_scopes, get_api_key, get_current_principal, oauth2_scheme
from tiled.server.connection_pool import get_database_session_factory

from tiled_server.access.job_keys import job_key
from tiled_server.exports.jobs import Access, Job, Jobs, Refused
from tiled_server.exports.options import ExportOptions, Format

_SEARCH: Final = "/api/v1/search/"
_GONE: Final = "no such export: it is over, or was removed"


class ExportRequest(BaseModel):
    """What is asked for: a montage (its id or the uid of one of its runs), a format, which part."""

    model_config = ConfigDict(extra="forbid")

    montage: str = Field(min_length=1, max_length=200)
    format: Format
    options: ExportOptions = ExportOptions()


class Caller:
    """Who calls: an owner's name, and the credentials that they gave."""

    def __init__(
        self,
        request: Request,
        principal: Annotated[Any, Depends(get_current_principal)],
        api_key: Annotated[Any, Depends(get_api_key)],
        token: Annotated[Any, Depends(oauth2_scheme)],
        sessions: Annotated[Any, Depends(get_database_session_factory)],
        _: Annotated[None, Security(check_scopes, scopes=["read:metadata", "read:data"])],
    ) -> None:
        if not api_key and not token:
            raise HTTPException(401, "exports are for those who say who they are: give an API key or a token")
        self._request, self._principal, self._sessions = request, principal, sessions
        self.api_key, self.token = str(api_key or ""), str(token or "")
        name = "single user" if principal is None else str(principal.uuid)
        # a key may be allowed less than its owner
        self.owner = f"{name} {hashlib.sha256(self.api_key.encode()).hexdigest()}" if api_key else name

    async def access(self) -> Access:
        """Return how a process of this host reads the catalog as the caller."""
        host, port = self._request.scope["server"]
        # a token ends before a job that waits begins
        api_key = self.api_key or await job_key(self._principal, self._sessions)
        return Access(f"http://{host}:{port}", api_key)

    async def sees(self, montage: str) -> bool:
        """Return whether Tiled shows the caller a run of a montage, or the run of this uid."""
        secret = f"Apikey {self.api_key}" if self.api_key else f"Bearer {self.token}"
        transport = httpx.ASGITransport(app=self._request.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://catalog") as client:
            for key in ("start.montage_id", "start.uid"):
                parameters = {
                    "filter[eq][condition][key]": key,
                    "filter[eq][condition][value]": json.dumps(montage),
                    "page[limit]": 1,
                }
                found = await client.get(_SEARCH, params=parameters, headers={"Authorization": secret})
                if found.status_code == 200 and found.json()["data"]:
                    return True
        return False


Known = Annotated[Caller, Depends()]


def make_router(jobs: Callable[[], Jobs]) -> APIRouter:
    """Return the routes over the jobs of a server; ``jobs`` is called at the first request."""
    router = APIRouter(tags=["exports"])
    made: list[Jobs] = []

    def all_jobs() -> Jobs:
        if not made:
            made.append(jobs())
        return made[0]

    async def own(job_id: str, caller: Caller) -> Job:
        job = await run_in_threadpool(lambda: all_jobs().get(job_id, caller.owner))
        if job is None:
            raise HTTPException(404, _GONE)
        return job

    @router.post("/exports", status_code=202)
    async def submit(asked: ExportRequest, caller: Known) -> dict[str, Any]:
        if not await caller.sees(asked.montage):
            raise HTTPException(404, f"no montage {asked.montage!r}")
        order = asked.montage, asked.format, asked.options, await caller.access()
        try:
            job = await run_in_threadpool(lambda: all_jobs().submit(caller.owner, *order))
        except Refused as error:
            raise HTTPException(429, str(error), headers={"Retry-After": "60"}) from error
        except OSError as error:
            raise HTTPException(507, f"the export cannot be kept: {error.strerror}") from error
        return _shown(job)

    @router.get("/exports")
    async def listed(caller: Known) -> list[dict[str, Any]]:
        return [_shown(job) for job in await run_in_threadpool(lambda: all_jobs().list(caller.owner))]

    @router.get("/exports/{job_id}")
    async def state(job_id: str, caller: Known) -> dict[str, Any]:
        return _shown(await own(job_id, caller))

    @router.get("/exports/{job_id}/file", response_model=None)
    async def file(job_id: str, caller: Known) -> Response:
        job = await own(job_id, caller)
        if not await caller.sees(job.montage):
            raise HTTPException(404, _GONE)
        if job.state != "done":
            raise HTTPException(409, f"the export is {job.state}{f': {job.error}' if job.error else ''}")
        result = all_jobs().result(job)
        # of a type that Tiled does not compress: a range is one of the file's own bytes
        return FileResponse(result, filename=job.file, media_type="binary/octet-stream")

    @router.delete("/exports/{job_id}", status_code=204)
    async def delete(job_id: str, caller: Known) -> None:
        job = await own(job_id, caller)
        await run_in_threadpool(lambda: all_jobs().delete(job))

    return router


def _shown(job: Job) -> dict[str, Any]:
    return {name: value for name, value in job.to_json().items() if name != "owner"}
