"""POST /v1/models/{name}:predict and :explain: the KServe V1 protocol, several pictures in one call."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, nullcontext
from dataclasses import dataclass, replace
from functools import partial

from fastapi import APIRouter, Request, Response

from app.api.body import validate
from app.api.build_request import build_request
from app.api.context import UntilSent, answering, runtime_of
from app.api.drawings import Drawings
from app.api.instances import Instances, at_instance, read_instances
from app.api.negotiation import choose
from app.api.openapi import UPLOAD_STATUSES, call, documented
from app.api.pictures import Piece, ReplyPictures, listed, send
from app.api.record import caller_of, record_result
from app.api.replies import Clock, explain_reply, predict_reply
from app.api.targets import check_top_k
from app.errors import ImageError, InvalidParameter, MethodNotAllowed
from app.imaging.reading import DecodeSpec
from app.imaging.shrinking import shrunk_size
from app.parameters import ExplainParameters, PredictParameters
from app.runtime import pipeline
from app.runtime.backend import Backend, ExplainRequest
from app.runtime.picture_request import DecodedPicture, read_picture
from app.runtime.pipeline import Answer
from app.schemas import Explanations, Predictions, Timing

router = APIRouter(tags=["kserve"])

# The network's name stands in the path.
_IN_PATH = frozenset({"model"})
# What a call keeps until its last instance is answered: the overlays of 64 pictures of 1024 x 1024 px, as many pixels
# of other pictures, and an attribution of 64 x 64 positions for each of 1024 explanations.
_MOST_PIXELS = 2**26
_MOST_VALUES = 2**22


@dataclass(frozen=True, slots=True)
class _InstanceReply:
    """The reply to one instance, ready to be sent."""

    pieces: list[Piece]
    timing: Timing


_Read = Callable[[bytes], AbstractAsyncContextManager[DecodedPicture]]
_Answer = Callable[[DecodedPicture], Awaitable[_InstanceReply]]


@router.post(
    "/v1/models/{name}:predict",
    summary="Classify pictures (KServe V1)",
    response_model=Predictions,
    openapi_extra=call("Predict", top_k=3),
    responses=documented(*UPLOAD_STATUSES),
)
async def predict(request: Request, name: str, until_sent: UntilSent) -> Response:
    """Answers with one reply of `/v1/predict` for each instance, in order."""
    clock = Clock(time.perf_counter())
    body = await _receive(request)
    parameters = validate(PredictParameters, body.fields, _IN_PATH)
    runtime = runtime_of(request)
    backend = runtime.network(name)
    check_top_k(parameters, backend)
    pictures = ReplyPictures()

    def render(answer: Answer) -> _InstanceReply:
        reply = predict_reply(answer, parameters.top_k, clock)
        return _InstanceReply(pictures.splice(reply), reply.timing_ms)

    async def classify(decoded: DecodedPicture) -> _InstanceReply:
        return await runtime.offload(partial(render, await pipeline.predict(backend, decoded)))

    spec = DecodeSpec.of(backend.network.preprocessing, parameters.fit)
    read = partial(read_picture, runtime.images, spec=spec, caller=caller_of(request.scope))
    return await _answer(request, until_sent, body, read, classify, "predictions", backend.network.name, "none")


@router.post(
    "/v1/models/{name}:explain",
    summary="Explain pictures (KServe V1)",
    response_model=Explanations,
    openapi_extra=call("Explain", target=["predicted", "least-likely"], include=["heatmap", "overlay"]),
    responses=documented(*UPLOAD_STATUSES),
)
async def explain(request: Request, name: str, until_sent: UntilSent) -> Response:
    """Answers with one reply of `/v1/explain` for each instance, in order.

    The instances of a call, and those of other calls, share batches.
    """
    clock = Clock(time.perf_counter())
    body = await _receive(request)
    parameters = validate(ExplainParameters, body.fields, _IN_PATH)
    runtime = runtime_of(request)
    backend, layers, explain_request = build_request(parameters, runtime, name)
    # To estimate a thousand explanations takes some milliseconds.
    bounds = await asyncio.to_thread(_Bounds, len(body.images), explain_request, parameters, backend)
    drawings, pictures = Drawings(parameters, backend.network, len(explain_request.questions)), ReplyPictures()

    async def explain_one(decoded: DecodedPicture) -> _InstanceReply:
        bounds.count(decoded)
        answer = await pipeline.explain(backend, decoded, explain_request)
        bounds.check(answer)
        rendering = clock.start_rendering()
        drawn = await decoded.render(await runtime.offload(lambda: drawings.specs(answer)))
        until_sent.callback(decoded.keep_drawings())

        def reply() -> _InstanceReply:
            named = drawings.add_to(pictures, drawn)
            reply = explain_reply(answer, parameters, layers, named, rendering)
            return _InstanceReply(pictures.splice(reply), reply.timing_ms)

        return await runtime.offload(reply)

    spec = DecodeSpec.of(backend.network.preprocessing, parameters.fit, drawings.base_side)
    caller = caller_of(request.scope)
    read = partial(read_picture, runtime.images, spec=spec, drawn_bytes=drawings.drawn_bytes, caller=caller)
    return await _answer(
        request, until_sent, body, read, explain_one, "explanations", backend.network.name, parameters.method
    )


@router.get("/v1/models/{name}:predict", include_in_schema=False)
@router.get("/v1/models/{name}:explain", include_in_schema=False)
async def refuse_get(request: Request) -> None:
    """Names the right method, where `/v1/models/{name}` would look for a network of such a name."""
    message = f"{request.url.path} does not support GET"
    raise MethodNotAllowed(message, headers={"Allow": "POST"}, expected="POST")


class _Bounds:
    """Keeps what a call holds until it is answered within bounds."""

    def __init__(
        self, instances: int, request: ExplainRequest, parameters: ExplainParameters, backend: Backend
    ) -> None:
        """Refuses what is known to be too much before any picture is read.

        Raises:
            InvalidParameter: too long, or too many pixels in pictures of the network's size.
        """
        self._instances = instances
        self._parameters = parameters
        self._explanations = len(request.questions)
        self._pixels = 0
        height, width = backend.network.preprocessing.input_size
        drawn = len({"heatmap", "explanation_map", "anti_explanation_map"} & set(parameters.include))
        if instances * self._explanations * drawn * height * width > _MOST_PIXELS:
            expected = f"fewer instances, targets or pictures: at most {_MOST_PIXELS} px besides overlays"
            raise InvalidParameter("the call asks for too many pictures", field="include", expected=expected)
        everything = (replace(each, image_index=image) for image in range(instances) for each in request.questions)
        backend.admit(replace(request, questions=tuple(everything)))

    def count(self, decoded: DecodedPicture) -> None:
        """Adds a picture's overlays to those of the call.

        Raises:
            InvalidParameter: they are too large together.
        """
        picture = decoded.picture
        if "overlay" not in self._parameters.include:
            return
        width, height = shrunk_size((picture.width, picture.height), self._parameters.max_side)
        self._pixels += self._explanations * width * height
        if self._pixels > _MOST_PIXELS:
            expected = (
                f"smaller overlays, fewer instances or targets: the overlays of a call have at most {_MOST_PIXELS} px"
            )
            message = "the overlays of this call are too large together"
            raise InvalidParameter(message, field="max_side", expected=expected, value=self._parameters.max_side)

    def check(self, answer: Answer) -> None:
        """Judges the attributions by those of one instance, for all have the same size.

        Raises:
            InvalidParameter: they have too many values together.
        """
        layers = [layer for explanation in answer.output.explanations for layer in explanation.layers]
        values = self._instances * sum(layer.attribution.numel() for layer in layers)
        if "attribution" in self._parameters.include and values > _MOST_VALUES:
            expected = f"fewer instances, targets or layers: all attributions have at most {_MOST_VALUES} values"
            raise InvalidParameter(f"the attributions would have {values} values", field="include", expected=expected)


async def _receive(request: Request) -> Instances:
    """What a call sent, once it is known that it can be answered at all."""
    choose(request.headers, ("application/json",))
    runtime_of(request).refuse_overload()
    return await read_instances(request)


async def _answer(
    request: Request,
    until_sent: AsyncExitStack,
    body: Instances,
    read: _Read,
    answer_one: _Answer,
    name: str,
    model: str,
    method: str,
) -> Response:
    """Answers all instances, at one place of the queue.

    Args:
        request: the call.
        until_sent: what it holds until its reply is sent.
        body: what it sent.
        read: opens a file as a picture.
        answer_one: makes a reply of a picture.
        name: of the list of replies.
        model: the network.
        method: of attribution, or `none`.

    Raises:
        ServiceError: of the first instance that is wrong, whichever was found out first.
    """
    runtime = runtime_of(request)
    turn = runtime.calls_of_many if len(body.images) > 1 else nullcontext()
    async with answering(request, until_sent):
        await until_sent.enter_async_context(turn)
        done = await _each(body, read, answer_one)
        response = await runtime.offload(lambda: send(listed(name, [reply.pieces for reply in done])))
    return record_result(request, response, model, method, [reply.timing for reply in done])


async def _each(body: Instances, read: _Read, answer_one: _Answer) -> list[_InstanceReply]:
    """Works on all instances at once, and ends with all of them.

    A picture that cannot be used comes before whatever else is wrong, so that the answer does not depend on what was
    found out first: when something is, pictures that are not read yet are read all the same, and nothing more.

    Raises:
        ServiceError: of the first instance whose picture cannot be used; without one, whatever else went wrong.
    """
    tasks: list[asyncio.Task[_InstanceReply | None]] = []
    are_read: set[int] = set()
    failures: list[Exception] = [] if body.flaw is None else [body.flaw]

    async def on(number: int) -> _InstanceReply | None:
        try:
            # Its place among the decoded pictures is given back before any other instance needs it: calls whose
            # instances held their places until the last of them has one would wait for each other for ever.
            async with read(body.images[number]) as decoded:
                are_read.add(number)
                return None if failures else await answer_one(decoded)
        except ImageError:
            for task in tasks[number + 1 :]:
                task.cancel()
            raise
        except Exception as error:
            failures.append(error)
            for other in are_read - {number}:
                tasks[other].cancel()
            raise

    tasks += [asyncio.create_task(on(number)) for number in range(len(body.images))]
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    for number, outcome in enumerate(outcomes):
        if isinstance(outcome, ImageError):
            raise at_instance(number, outcome) from outcome
    if failures:
        raise failures[0]
    return [outcome for outcome in outcomes if isinstance(outcome, _InstanceReply)]
