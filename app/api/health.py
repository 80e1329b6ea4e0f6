"""Probes."""

from fastapi import APIRouter, Request

from app.api.context import runtime_of
from app.api.openapi import documented
from app.schemas import Status

router = APIRouter(tags=["health"])


@router.get("/livez", summary="Is the process alive?")
async def livez() -> Status:
    """Answers as long as the event loop turns."""
    return Status(status="alive")


@router.get("/readyz", summary="Can requests be answered?", responses=documented(503))
async def readyz(request: Request) -> Status:
    """200 while every configured network is loaded and its device works; 503 while the service is stopping."""
    await runtime_of(request).check_ready()
    return Status(status="ready")
