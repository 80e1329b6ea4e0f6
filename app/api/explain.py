"""POST /v1/explain: why the network said so."""

from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request, Response

from app.api.build_request import build_request
from app.api.context import UntilSent, runtime_of
from app.api.drawings import Drawings
from app.api.explaining import JSON, PNG, answer_with_pictures, read_request
from app.api.openapi import UPLOAD_STATUSES, documented, upload
from app.api.pictures import ReplyPictures, send_png
from app.api.replies import Clock, explain_reply, header_of
from app.parameters import ExplainParameters
from app.runtime.drawn_picture import DrawnPicture
from app.runtime.pipeline import Answer
from app.schemas import ExplainReply, Timing

router = APIRouter(tags=["explain"])

_REPLY_FIELDS = frozenset({"image"})


@router.post(
    "/v1/explain",
    summary="Explain a picture",
    response_model=ExplainReply,
    openapi_extra=upload("Explain", ExplainParameters),
    responses=documented(
        *UPLOAD_STATUSES,
        png="The explanation, or with `Accept: image/png` its first picture.",
        headers={"X-Explanation": "With `image/png`: the figures for the first target as compact JSON."},
    ),
)
async def explain(
    request: Request,
    until_sent: UntilSent,
    image: Annotated[
        Literal["overlay", "heatmap"],
        Query(description="Which picture an `image/png` reply is; JSON replies carry what `include` names."),
    ] = "overlay",
) -> Response:
    """Answers with class scores, signed attributions, heatmaps, overlays and quality figures.

    The image comes as the multipart part `image`, as base64 in JSON, or as the body itself (`image/*`, the
    fields then stand in the query string). With `Accept: image/png` the answer is the first target's overlay,
    and the figures travel in the header `X-Explanation`.
    """
    clock, media_type, file, parameters = await read_request(request, ExplainParameters, _REPLY_FIELDS)
    if media_type == PNG:
        parameters = _for_one_picture(parameters, image)
    backend, layers, explain_request = build_request(parameters, runtime_of(request), parameters.model)
    drawings = Drawings(parameters, backend.network, len(explain_request.questions))

    def make_response(answer: Answer, drawn: list[list[DrawnPicture]], clock: Clock) -> tuple[Response, Timing]:
        pictures = ReplyPictures()
        reply = explain_reply(answer, parameters, layers, drawings.add_to(pictures, drawn), clock)
        if media_type == JSON:
            return pictures.respond(reply), reply.timing_ms
        response = send_png(drawn[0][drawings.names.index(image)])
        response.headers["X-Explanation"] = header_of(reply)
        return response, reply.timing_ms

    return await answer_with_pictures(
        request, until_sent, clock, file, explain_request, backend, drawings, make_response
    )


def _for_one_picture(parameters: ExplainParameters, image: Literal["overlay", "heatmap"]) -> ExplainParameters:
    """Leaves out all work that an `image/png` reply does not show."""
    kept = [name for name in parameters.include if name == "attribution"]
    return parameters.model_copy(update={"target": parameters.target[:1], "include": [image, *kept]})
