"""POST /v1/explain: why the network said so."""

import time
from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request, Response

from app.api.asking import ask
from app.api.body import read_body, validate
from app.api.context import runtime_of
from app.api.negotiation import choose
from app.api.openapi import UPLOAD_STATUSES, documented, upload
from app.api.pictures import Pictures
from app.api.progress import followed
from app.api.record import account
from app.api.replies import Clock, explain_reply, header_of
from app.parameters import ExplainParameters
from app.runtime.pipeline import see
from app.schemas import ExplainReply, Timing

router = APIRouter(tags=["explain"])

_JSON, _PNG = "application/json", "image/png"
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
    clock = Clock(time.perf_counter())
    media_type = choose(request.headers, (_JSON, _PNG))
    runtime = runtime_of(request)
    runtime.refuse_overload()
    body = await read_body(request, ExplainParameters, _REPLY_FIELDS)
    parameters = validate(ExplainParameters, body.fields)
    if media_type == _PNG:
        parameters = _for_one_picture(parameters, image)
    served = runtime.network(parameters.model)
    asked = ask(parameters, [parameters.method], [parameters.utility], served, runtime.settings)

    max_side = parameters.max_side if "overlay" in parameters.include else None
    overlays = len(asked.questions)

    async with (
        followed(request) as progress,
        see(runtime, served.network, body.image, parameters.fit, max_side, overlays=overlays) as seen,
    ):
        answer = await asked.explain(served, seen, progress.begin)

        def render() -> tuple[Response, Timing]:
            pictures = Pictures()
            reply = explain_reply(answer, parameters, asked.layers, pictures, clock)
            response = _png_response(reply, image, pictures) if media_type == _PNG else pictures.respond(reply)
            return response, reply.timing_ms

        response, timing = await runtime.offload(render)
    return account(request, response, served.network.name, parameters.method, [timing])


def _for_one_picture(parameters: ExplainParameters, image: Literal["overlay", "heatmap"]) -> ExplainParameters:
    """Leaves out all work that an `image/png` reply does not show."""
    kept = [name for name in parameters.include if name == "attribution"]
    return parameters.model_copy(update={"target": parameters.target[:1], "include": [image, *kept]})


def _png_response(reply: ExplainReply, image: Literal["overlay", "heatmap"], pictures: Pictures) -> Response:
    explanation = reply.explanations[0]
    png = explanation.overlay if image == "overlay" else explanation.heatmap
    assert png is not None
    return Response(pictures.file(png), media_type=_PNG, headers={"X-Explanation": header_of(reply)})
