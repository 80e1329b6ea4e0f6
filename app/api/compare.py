"""POST /v1/compare: explanations side by side."""

from fastapi import APIRouter, Request, Response

from app.api.build_request import build_request
from app.api.context import UntilSent, runtime_of
from app.api.drawings import Drawings, SheetLayout
from app.api.explaining import PNG, answer_with_pictures, read_request
from app.api.openapi import UPLOAD_STATUSES, documented, upload
from app.api.pictures import ReplyPictures, send_png
from app.api.replies import Clock, compare_reply
from app.errors import InvalidParameter
from app.parameters import CompareParameters
from app.runtime.drawn_picture import DrawnPicture
from app.runtime.pipeline import Answer
from app.schemas import CompareReply, Timing

router = APIRouter(tags=["explain"])

_MAX_CELLS = 64
# 64 cells of 512 px and more: to encode more would take seconds.
_MAX_PX = 2**25


@router.post(
    "/v1/compare",
    summary="Compare explanations",
    response_model=CompareReply,
    openapi_extra=upload("Compare", CompareParameters),
    responses=documented(*UPLOAD_STATUSES, png="The comparison, or with `Accept: image/png` its contact sheet."),
)
async def compare(request: Request, until_sent: UntilSent) -> Response:
    """Answers with an explanation for each target, method and utility, in this order: the cells of a table.

    The picture passes through the network once, whatever the number of cells; the masked pictures of the quality
    figures pass as one batch. `include=overlay` sends the overlay of each cell. A contact sheet shows all overlays: a
    row for each target, a column for each method and utility, and on each cell its ADCC. With `Accept: image/png` the
    answer is the sheet itself.
    """
    clock, media_type, file, parameters = await read_request(request, CompareParameters)
    if media_type == PNG:
        parameters = parameters.model_copy(update={"include": ["sheet"]})
    _check_cells(parameters)
    backend, layers, explain_request = build_request(parameters, runtime_of(request), parameters.model)
    columns = tuple(f"{method}\n{utility}" for method in parameters.method for utility in parameters.utility)
    layout = SheetLayout(
        len(explain_request.questions) // len(columns),
        columns,
        f"{backend.network.name} · {', '.join(layers)}",
        parameters.max_side,
    )
    sheet = layout if "sheet" in parameters.include else None
    drawings = Drawings(parameters, backend.network, len(explain_request.questions), sheet, _MAX_PX)

    def make_response(answer: Answer, drawn: list[list[DrawnPicture]], clock: Clock) -> tuple[Response, Timing]:
        pictures = ReplyPictures()
        cells = drawings.add_to(pictures, drawn)
        png = pictures.add(drawn[-1][0]) if sheet is not None else None
        reply = compare_reply(answer, parameters, layers, cells, png, clock)
        response = send_png(drawn[-1][0]) if media_type == PNG else pictures.respond(reply)
        return response, reply.timing_ms

    return await answer_with_pictures(
        request, until_sent, clock, file, explain_request, backend, drawings, make_response
    )


def _check_cells(parameters: CompareParameters) -> None:
    """Refuses more cells than a comparison has."""
    cells = len(parameters.target) * len(parameters.method) * len(parameters.utility)
    if cells > _MAX_CELLS:
        expected = f"at most {_MAX_CELLS} cells: targets times methods times utilities"
        raise InvalidParameter(f"{cells} cells are too many for one sheet", field="method", expected=expected)
