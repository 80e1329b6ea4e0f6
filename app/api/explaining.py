"""What explanations and comparisons do alike: read a request, explain its picture, and draw those of the reply."""

import time
from collections.abc import Callable
from contextlib import AsyncExitStack

from fastapi import Request, Response

from app.api.body import Parameters, read_body, validate
from app.api.context import runtime_of
from app.api.drawings import Drawings
from app.api.negotiation import choose
from app.api.progress import answering_with_progress
from app.api.record import caller_of, record_result
from app.api.replies import Clock
from app.imaging.reading import DecodeSpec
from app.runtime import pipeline
from app.runtime.backend import Backend, ExplainRequest
from app.runtime.drawn_picture import DrawnPicture
from app.runtime.picture_request import read_picture
from app.runtime.pipeline import Answer
from app.schemas import Timing

JSON, PNG = "application/json", "image/png"

MakeResponse = Callable[[Answer, list[list[DrawnPicture]], Clock], tuple[Response, Timing]]
"""Makes a response of an answer and its drawn pictures."""


async def read_request(
    request: Request,
    model: type[Parameters],
    reply_fields: frozenset[str] = frozenset(),
    offered: tuple[str, ...] = (JSON, PNG),
) -> tuple[Clock, str, bytes, Parameters]:
    """Reads a request that these media types may answer; other arguments and errors are those of `read_body`.

    Returns:
        When it began, the media type of the reply, the file, and the fields, which are known to be right.
    """
    clock = Clock(time.perf_counter())
    media_type = choose(request.headers, offered)
    runtime_of(request).refuse_overload()
    body = await read_body(request, model, reply_fields)
    return clock, media_type, body.image, validate(model, body.fields)


async def answer_with_pictures(
    request: Request,
    until_sent: AsyncExitStack,
    clock: Clock,
    file: bytes,
    explain_request: ExplainRequest,
    backend: Backend,
    drawings: Drawings,
    make_response: MakeResponse,
) -> Response:
    """Explains a picture and draws those of the reply, whose memory is held until it is sent.

    Args:
        request: that is answered.
        until_sent: what it holds until its reply is sent.
        clock: when it began.
        file: the picture.
        explain_request: what it asks.
        backend: the network.
        drawings: the pictures of the reply.
        make_response: called in a thread.
    """
    runtime = runtime_of(request)
    async with answering_with_progress(request, until_sent) as progress:
        spec = DecodeSpec.of(backend.network.preprocessing, drawings.parameters.fit, drawings.base_side)
        caller = caller_of(request.scope)
        reading = read_picture(runtime.images, file, spec, drawn_bytes=drawings.drawn_bytes, caller=caller)
        decoded = await until_sent.enter_async_context(reading)
        answer = await pipeline.explain(backend, decoded, explain_request, progress.start)
        rendering = clock.start_rendering()
        drawn = await decoded.render(await runtime.offload(lambda: drawings.specs(answer)))
        response, timing = await runtime.offload(lambda: make_response(answer, drawn, rendering))
    methods = {question.method.name for question in explain_request.questions}
    method = methods.pop() if len(methods) == 1 else "several"
    return record_result(request, response, backend.network.name, method, [timing])
