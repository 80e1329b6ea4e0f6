"""The web page at the front door, and the files it is made of."""

from pathlib import Path

from fastapi import APIRouter, Request
from fastapi.responses import Response
from fastapi.staticfiles import StaticFiles

from app.api.negotiation import prefers
from app.schemas import Status

FILES = "/page/"
_WEB = StaticFiles(directory=Path(__file__).parent.parent / "web")
# Browsers keep them, and ask before they use them again: a new version shows at once.
_CACHE = "no-cache"

router = APIRouter(tags=["health"])


@router.get("/", response_model=Status, summary="The front door")
async def root(request: Request) -> Response:
    """Tells programs that the service is alive, and answers browsers with the page."""
    if prefers(request.headers, "text/html", "application/json"):
        response = await page_file(request, "index.html")
    else:
        response = Response(Status(status="alive").model_dump_json(), media_type="application/json")
    response.headers["Vary"] = "Accept"
    return response


@router.get(FILES + "{path:path}", include_in_schema=False)
async def page_file(request: Request, path: str) -> Response:
    """A script, a style or an example picture of the page."""
    response = await _WEB.get_response(path, request.scope)
    response.headers["Cache-Control"] = _CACHE
    return response
