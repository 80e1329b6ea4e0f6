"""Probes, and the front door."""

from fastapi import APIRouter, Request
from fastapi.responses import RedirectResponse, Response

from app.api.context import runtime_of
from app.api.negotiation import prefers
from app.api.openapi import documented
from app.errors import NotReady
from app.schemas import Status

router = APIRouter(tags=["health"])


@router.get("/", response_model=Status, summary="The front door")
async def root(request: Request) -> Response:
    """Tells programs that the service is alive, and leads browsers to the API page."""
    if prefers(request.headers, "text/html", "application/json"):
        return RedirectResponse("docs")
    return Response(Status(status="alive").model_dump_json(), media_type="application/json")


@router.get("/livez", summary="Is the process alive?")
async def livez() -> Status:
    """Answers as long as the event loop turns."""
    return Status(status="alive")


@router.get("/readyz", summary="Are all networks ready?", responses=documented(503))
async def readyz(request: Request) -> Status:
    """200 once every configured network is loaded and warm."""
    runtime = runtime_of(request)
    if not runtime.ready:
        loading = [name for name in runtime.settings.models if name not in runtime.networks]
        raise NotReady("networks are still loading", headers={"Retry-After": "1"}, loading=loading)
    return Status(status="ready")
