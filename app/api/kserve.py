"""POST /v1/models/{name}:predict and :explain: the KServe V1 protocol, several pictures in one call."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial

from fastapi import APIRouter, Request, Response

from app.api.asking import Asked, ask
from app.api.body import validate
from app.api.context import admitted, runtime_of
from app.api.handlers import as_service_error
from app.api.instances import Instances, at_instance, read_instances
from app.api.negotiation import choose
from app.api.openapi import UPLOAD_STATUSES, call, documented
from app.api.pictures import Pictures, Piece, listed, send
from app.api.record import account
from app.api.replies import Clock, explain_reply, predict_reply
from app.api.targets import check_top_k
from app.errors import InvalidParameter, MethodNotAllowed
from app.imaging.errors import ImagingError
from app.imaging.shrinking import shrunk_size
from app.parameters import ExplainParameters, PredictParameters
from app.runtime.backend import Backend
from app.runtime.decoding import Reading
from app.runtime.pipeline import Answer, see
from app.runtime.pipeline import predict as run_network
from app.schemas import Explanations, Predictions, Timing

router = APIRouter(tags=["kserve"])

# The network's name stands in the path.
_IN_PATH = frozenset({"model"})
# What a call keeps until its last instance is answered: the overlays of 64 pictures of 1024 x 1024 px, as many pixels
# of other pictures, and an attribution of 64 x 64 positions for each of 1024 explanations.
_MOST_PIXELS = 2**26
_MOST_VALUES = 2**22


@dataclass(frozen=True, slots=True)
class _Done:
    """The reply to one instance, ready to be sent."""

    pieces: list[Piece]
    timing: Timing


_Read = Callable[[bytes], AbstractAsyncContextManager[Reading]]
_Answer = Callable[[Reading], Awaitable[_Done]]


@router.post(
    "/v1/models/{name}:predict",
    summary="Classify pictures (KServe V1)",
    response_model=Predictions,
    openapi_extra=call("Predict", top_k=3),
    responses=documented(*UPLOAD_STATUSES),
)
async def predict(request: Request, name: str) -> Response:
    """Answers with one reply of `/v1/predict` for each instance, in order."""
    clock = Clock(time.perf_counter())
    body = await _receive(request)
    parameters = validate(PredictParameters, body.fields, _IN_PATH)
    runtime = runtime_of(request)
    served = runtime.network(name)
    check_top_k(parameters, served)
    pictures = Pictures()

    def render(answer: Answer) -> _Done:
        reply = predict_reply(answer, parameters.top_k, clock)
        return _Done(pictures.splice(reply), reply.timing_ms)

    async def classify(seen: Reading) -> _Done:
        return await runtime.offload(partial(render, await run_network(served, seen)))

    read = partial(see, runtime, served.network, fit=parameters.fit)
    return await _answer(request, body, read, classify, "predictions", served.network.name, "none")


@router.post(
    "/v1/models/{name}:explain",
    summary="Explain pictures (KServe V1)",
    response_model=Explanations,
    openapi_extra=call("Explain", target=["predicted", "least-likely"], include=["heatmap", "overlay"]),
    responses=documented(*UPLOAD_STATUSES),
)
async def explain(request: Request, name: str) -> Response:
    """Answers with one reply of `/v1/explain` for each instance, in order.

    The instances of a call, and those of other calls, share batches.
    """
    clock = Clock(time.perf_counter())
    body = await _receive(request)
    parameters = validate(ExplainParameters, body.fields, _IN_PATH)
    runtime = runtime_of(request)
    served = runtime.network(name)
    asked = ask(parameters, [parameters.method], [parameters.utility], served, runtime.settings)
    # To estimate a thousand explanations takes some milliseconds.
    bounds = await asyncio.to_thread(_Bounds, len(body.images), asked, parameters, served)
    pictures = Pictures()

    def render(answer: Answer) -> _Done:
        reply = explain_reply(answer, parameters, asked.layers, pictures, clock)
        return _Done(pictures.splice(reply), reply.timing_ms)

    async def explain_one(seen: Reading) -> _Done:
        bounds.count(seen)
        answer = await asked.explain(served, seen)
        bounds.check(answer)
        return await runtime.offload(partial(render, answer))

    max_side = parameters.max_side if "overlay" in parameters.include else None
    overlays = len(asked.questions)
    read = partial(see, runtime, served.network, fit=parameters.fit, max_side=max_side, overlays=overlays)
    return await _answer(request, body, read, explain_one, "explanations", served.network.name, parameters.method)


@router.get("/v1/models/{name}:predict", include_in_schema=False)
@router.get("/v1/models/{name}:explain", include_in_schema=False)
async def refuse_get(request: Request) -> None:
    """Names the right method, where `/v1/models/{name}` would look for a network of such a name."""
    message = f"{request.url.path} does not take GET"
    raise MethodNotAllowed(message, headers={"Allow": "POST"}, takes="POST")


class _Bounds:
    """Keeps what a call holds until it is answered within bounds."""

    def __init__(self, instances: int, asked: Asked, parameters: ExplainParameters, served: Backend) -> None:
        """Refuses what is known to be too much before any picture is read.

        Raises:
            InvalidParameter: too long, or too many pixels in pictures of the network's size.
        """
        self._instances = instances
        self._parameters = parameters
        self._explanations = len(asked.questions)
        self._pixels = 0
        everything = [replace(question, image=image) for image in range(instances) for question in asked.questions]
        served.refuse_beyond(asked.limit_s, tuple(asked.layers.values()), everything, parameters.smooth)
        height, width = served.network.preprocessing.input_size
        drawn = len({"heatmap", "explanation_map", "anti_explanation_map"} & set(parameters.include))
        if instances * self._explanations * drawn * height * width > _MOST_PIXELS:
            takes = f"fewer instances, targets or pictures: at most {_MOST_PIXELS} px besides overlays"
            raise InvalidParameter("the call asks for too many pictures", field="include", takes=takes)

    def count(self, seen: Reading) -> None:
        """Adds a picture's overlays to those of the call.

        Raises:
            InvalidParameter: they are too large together.
        """
        picture = seen.picture
        if "overlay" not in self._parameters.include:
            return
        width, height = shrunk_size((picture.width, picture.height), self._parameters.max_side)
        self._pixels += self._explanations * width * height
        if self._pixels > _MOST_PIXELS:
            takes = (
                f"smaller overlays, fewer instances or targets: the overlays of a call have at most {_MOST_PIXELS} px"
            )
            message = "the overlays of this call are too large together"
            raise InvalidParameter(message, field="max_side", takes=takes, value=self._parameters.max_side)

    def check(self, answer: Answer) -> None:
        """Judges the attributions by those of one instance, for all have the same size.

        Raises:
            InvalidParameter: they have too many values together.
        """
        layers = [layer for explanation in answer.explanations for layer in explanation.layers]
        values = self._instances * sum(layer.attribution.numel() for layer in layers)
        if "attribution" in self._parameters.include and values > _MOST_VALUES:
            takes = f"fewer instances, targets or layers: the attributions of a call have at most {_MOST_VALUES} values"
            raise InvalidParameter(f"the attributions would have {values} values", field="include", takes=takes)


async def _receive(request: Request) -> Instances:
    """What a call sent, once it is known that it can be answered at all."""
    choose(request.headers, ("application/json",))
    runtime_of(request).refuse_overload()
    return await read_instances(request)


async def _answer(
    request: Request, body: Instances, read: _Read, answer_one: _Answer, name: str, model: str, method: str
) -> Response:
    """Answers all instances, at one place of the queue.

    Args:
        request: the call.
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
    async with admitted(request), turn:
        done = await _each(request, body, read, answer_one)
        response = await runtime.offload(lambda: send(listed(name, [reply.pieces for reply in done])))
    return account(request, response, model, method, [reply.timing for reply in done])


async def _each(request: Request, body: Instances, read: _Read, answer_one: _Answer) -> list[_Done]:
    """Works on all instances at once, and ends with all of them.

    A picture that cannot be used comes before whatever else is wrong, so that the answer does not depend on what was
    found out first: when something is, pictures that are not read yet are read all the same, and nothing more.

    Raises:
        ServiceError: of the first instance whose picture cannot be used; without one, whatever else went wrong.
    """
    tasks: list[asyncio.Task[_Done | None]] = []
    are_read: set[int] = set()
    failures: list[Exception] = [] if body.flaw is None else [body.flaw]

    async def on(number: int) -> _Done | None:
        try:
            # Its place among the decoded pictures is given back before any other instance needs it: calls whose
            # instances held their places until the last of them has one would wait for each other for ever.
            async with read(body.images[number]) as seen:
                are_read.add(number)
                return None if failures else await answer_one(seen)
        except ImagingError:
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
        if isinstance(outcome, ImagingError):
            raise at_instance(number, as_service_error(request, outcome)) from outcome
    if failures:
        raise failures[0]
    return [outcome for outcome in outcomes if isinstance(outcome, _Done)]
