"""Probes, and the front door."""

from fastapi import APIRouter, Request
from fastapi.responses import RedirectResponse, Response

from app.api.context import runtime_of
from app.api.negotiation import prefers
from app.api.openapi import documented
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


@router.get("/readyz", summary="Can requests be answered?", responses=documented(503))
async def readyz(request: Request) -> Status:
    """200 while every configured network is loaded and its device works; 503 while the service is stopping."""
    await runtime_of(request).check_ready()
    return Status(status="ready")
