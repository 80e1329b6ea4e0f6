"""GET /v1/requests/{request_id}: how far a request is."""

import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Annotated

from fastapi import APIRouter, Path, Request

from app.api.context import answering, runtime_of
from app.api.observing import REQUEST_ID
from app.api.openapi import documented
from app.api.record import record_of
from app.errors import NotFound
from app.runtime.progress import RequestProgress
from app.schemas import ProgressReply

router = APIRouter(tags=["explain"])

_ID = Path(
    description="The `X-Request-ID` that the request was posted with.",
    json_schema_extra={"pattern": f"^{REQUEST_ID.pattern}$"},
)


@asynccontextmanager
async def answering_with_progress(request: Request, until_sent: AsyncExitStack) -> AsyncIterator[RequestProgress]:
    """Like `answering`, for a request that can be asked about until it ends."""
    async with answering(request, until_sent):
        with runtime_of(request).tracking_progress(record_of(request.scope).request_id) as progress:
            yield progress


# An id may hold slashes.
@router.get("/v1/requests/{request_id:path}", summary="Ask how far a request is", responses=documented(401, 404, 500))
async def show_progress(request: Request, request_id: Annotated[str, _ID]) -> ProgressReply:
    """How far an explanation or a comparison is that is in flight; of several with one id the last.

    Nothing is known of one that has not arrived yet, or was answered. That is no error: who polls cannot tell, and
    browsers would write each one to their console.
    """
    if not REQUEST_ID.fullmatch(request_id):
        expected = "1 to 128 letters, digits and ._:/+=@-"
        raise NotFound(f"'{request_id}' is not a valid request id", field="request_id", expected=expected)
    progress = runtime_of(request).progress_of(request_id)
    if progress is None:
        return ProgressReply(request_id=request_id, state="unknown", waited_s=None, running_s=None, estimate_s=None)
    now, started = time.perf_counter(), progress.started
    return ProgressReply(
        request_id=request_id,
        state="waiting" if started is None else "running",
        waited_s=round((started or now) - progress.accepted, 3),
        running_s=None if started is None else round(now - started, 3),
        estimate_s=progress.estimate_s,
    )
