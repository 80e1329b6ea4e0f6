"""POST /v1/compare: explanations side by side."""

import json
import time
from dataclasses import asdict
from functools import partial

import numpy as np
import numpy.typing as npt
from fastapi import APIRouter, Request, Response

from app.api.asking import ask
from app.api.body import read_body, validate
from app.api.context import runtime_of
from app.api.negotiation import choose
from app.api.openapi import UPLOAD_STATUSES, documented, upload
from app.api.pictures import Pictures
from app.api.progress import followed
from app.api.record import account
from app.api.replies import Clock, compare_reply, predictions_of
from app.errors import InvalidParameter
from app.imaging.overlay import overlays
from app.imaging.png import encode_png
from app.imaging.sheet import Cell, contact_sheet, sheet_layout, sheet_size
from app.imaging.shrinking import shrunk_size
from app.parameters import CompareParameters
from app.runtime.decoding import Reading
from app.runtime.pipeline import Answer, see
from app.schemas import CompareReply, Timing

router = APIRouter(tags=["explain"])

_JSON, _PNG = "application/json", "image/png"
_MOST_CELLS = 64
# 64 cells of 512 px and more; a larger one would take seconds to encode.
_MOST_SHEET_PIXELS = 2**25


@router.post(
    "/v1/compare",
    summary="Compare explanations",
    response_model=CompareReply,
    openapi_extra=upload("Compare", CompareParameters),
    responses=documented(
        *UPLOAD_STATUSES,
        png="The comparison, or with `Accept: image/png` its contact sheet.",
        headers={"X-Sheet": "Where the pictures lie in the sheet: numbers of px as compact JSON."},
    ),
)
async def compare(request: Request) -> Response:
    """Answers with a contact sheet: a row for each target, a column for each method and utility.

    The picture passes through the network once, whatever the number of cells; the masked pictures of the quality
    figures pass as one batch. Each cell carries its ADCC. With `Accept: image/png` the answer is the sheet itself.
    Either way the header `X-Sheet` says where its pictures lie.
    """
    clock = Clock(time.perf_counter())
    media_type = choose(request.headers, (_JSON, _PNG))
    runtime = runtime_of(request)
    runtime.refuse_overload()
    body = await read_body(request, CompareParameters)
    parameters = validate(CompareParameters, body.fields)
    _check_cells(parameters)
    served = runtime.network(parameters.model)
    asked = ask(parameters, parameters.method, parameters.utility, served, runtime.settings)
    headers = [f"{method}\n{utility}" for method in parameters.method for utility in parameters.utility]

    async with (
        followed(request) as progress,
        see(runtime, served.network, body.image, parameters.fit, parameters.max_side, overlays=0) as seen,
    ):
        title = f"{served.network.name} · {', '.join(asked.layers)}"
        layout = _layout(seen, parameters, len(asked.questions) // len(headers), headers, title)
        answer = await asked.explain(served, seen, progress.begin)
        draw = partial(_draw, answer, parameters, headers, title)

        def render() -> tuple[Response, Timing]:
            if media_type == _PNG:
                started = time.perf_counter()
                response = Response(encode_png(draw()), media_type=_PNG)
                return response, clock.timing(answer, started)
            pictures = Pictures()
            reply = compare_reply(answer, parameters, asked.layers, draw, pictures, clock)
            return pictures.respond(reply), reply.timing_ms

        response, timing = await runtime.offload(render)
    response.headers["X-Sheet"] = layout
    methods = parameters.method
    method = methods[0] if len(methods) == 1 else "several"
    return account(request, response, served.network.name, method, [timing])


def _check_cells(parameters: CompareParameters) -> None:
    """Refuses more cells than a sheet has."""
    cells = len(parameters.target) * len(parameters.method) * len(parameters.utility)
    if cells > _MOST_CELLS:
        takes = f"at most {_MOST_CELLS} cells: targets times methods times utilities"
        raise InvalidParameter(f"{cells} cells are too many for one sheet", field="method", takes=takes)


def _layout(seen: Reading, parameters: CompareParameters, rows: int, headers: list[str], title: str) -> str:
    """Says where the pictures will lie, and refuses a sheet that is too large."""
    picture = seen.picture
    cell = shrunk_size((picture.width, picture.height), parameters.max_side)
    width, height = sheet_size(cell, rows, headers, title=title)
    if width * height > _MOST_SHEET_PIXELS:
        message = f"the sheet would have {width} x {height} px"
        takes = f"a smaller side of the pictures: a sheet has at most {_MOST_SHEET_PIXELS} px"
        raise InvalidParameter(message, field="max_side", takes=takes, value=parameters.max_side)
    return json.dumps(asdict(sheet_layout(cell, rows, headers, title=title)), separators=(",", ":"))


def _draw(answer: Answer, parameters: CompareParameters, headers: list[str], title: str) -> npt.NDArray[np.uint8]:
    """The contact sheet, HWC uint8."""
    picture = answer.seen.picture
    assert picture.base is not None
    pictures = overlays(
        picture.base,
        (picture.width, picture.height),
        [explanation.heatmap for explanation in answer.explanations],
        answer.seen.picture.view,
        colormap=parameters.colormap,
        alpha=parameters.alpha,
    )
    cells = [
        Cell(picture, _note(explanation.metrics))
        for picture, explanation in zip(pictures, answer.explanations, strict=True)
    ]
    columns = len(headers)
    rows = [cells[start : start + columns] for start in range(0, len(cells), columns)]
    labels = [
        f"{target.label}\n{target.probability:.3g}\nclass {target.index}"
        for target in predictions_of(answer)[::columns]
    ]
    return contact_sheet(rows, headers, labels, title=title)


def _note(metrics: dict[str, float] | None) -> str:
    if metrics is None:
        return ""
    adcc = metrics["adcc"]
    return f"ADCC {adcc:.1f}" if adcc == adcc else "ADCC undefined"
