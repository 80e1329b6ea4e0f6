"""POST /v1/predict: what the network sees."""

import time
from functools import partial

from fastapi import APIRouter, Request, Response

from app.api.body import read_body, validate
from app.api.context import admitted, runtime_of
from app.api.negotiation import choose
from app.api.openapi import UPLOAD_STATUSES, documented, upload
from app.api.record import account
from app.api.replies import Clock, predict_reply
from app.api.targets import check_top_k
from app.parameters import PredictParameters
from app.runtime.pipeline import predict as run_network
from app.runtime.pipeline import see
from app.schemas import PredictReply

router = APIRouter(tags=["predict"])


@router.post(
    "/v1/predict",
    summary="Classify a picture",
    response_model=PredictReply,
    openapi_extra=upload("Predict", PredictParameters),
    responses=documented(*UPLOAD_STATUSES),
)
async def predict(request: Request) -> Response:
    """Answers with the most likely classes."""
    clock = Clock(time.perf_counter())
    choose(request.headers, ("application/json",))
    runtime = runtime_of(request)
    runtime.refuse_overload()
    body = await read_body(request, PredictParameters)
    parameters = validate(PredictParameters, body.fields)
    served = runtime.network(parameters.model)
    check_top_k(parameters, served)
    async with admitted(request), see(runtime, served.network, body.image, parameters.fit) as seen:
        answer = await run_network(served, seen)
        reply = await runtime.offload(partial(predict_reply, answer, parameters.top_k, clock))
    response = Response(reply.model_dump_json(), media_type="application/json")
    return account(request, response, served.network.name, "none", [reply.timing_ms])
