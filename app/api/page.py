"""The web page at the front door, and the files it is made of."""

import hashlib
from os import PathLike, stat_result
from pathlib import Path

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, Response
from fastapi.staticfiles import StaticFiles
from starlette.datastructures import Headers
from starlette.staticfiles import NotModifiedResponse
from starlette.types import Scope

from app.api.negotiation import prefers
from app.imaging.formats import FORMATS, titles
from app.schemas import Status

FILES = "/page/"
_FOLDER = Path(__file__).resolve().parents[1] / "web"
_INDEX = _FOLDER / "index.html"
# Browsers keep them, and ask before they use them again: a new version shows at once.
_CACHE = "no-cache"


class _Files(StaticFiles):
    """The files of the page, with the formats of pictures filled into its HTML."""

    def __init__(self) -> None:
        super().__init__(directory=_FOLDER)
        html = _INDEX.read_text(encoding="utf-8")
        media_types = ",".join(entry.media_type for entry in FORMATS.values())
        self._html = html.replace("{{media_types}}", media_types).replace("{{formats}}", titles())
        self._etag = f'"{hashlib.sha256(self._html.encode()).hexdigest()}"'

    def file_response(
        self, full_path: PathLike[str] | str, stat_result: stat_result, scope: Scope, status_code: int = 200
    ) -> Response:
        if Path(full_path) != _INDEX:
            return super().file_response(full_path, stat_result, scope, status_code)
        response = HTMLResponse(self._html, headers={"ETag": self._etag})
        is_kept = self.is_not_modified(response.headers, Headers(scope=scope))
        return NotModifiedResponse(response.headers) if is_kept else response


_FILES = _Files()
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
    response = await _FILES.get_response(path, request.scope)
    response.headers["Cache-Control"] = _CACHE
    return response
