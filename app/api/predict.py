"""POST /v1/predict: what the network sees."""

from functools import partial

from fastapi import APIRouter, Request, Response

from app.api.context import UntilSent, answering, runtime_of
from app.api.explaining import JSON, read_request
from app.api.openapi import UPLOAD_STATUSES, documented, upload
from app.api.pictures import send
from app.api.record import caller_of, record_result
from app.api.replies import predict_reply
from app.api.targets import check_top_k
from app.imaging.reading import DecodeSpec
from app.parameters import PredictParameters
from app.runtime import pipeline
from app.runtime.picture_request import read_picture
from app.schemas import PredictReply

router = APIRouter(tags=["predict"])


@router.post(
    "/v1/predict",
    summary="Classify a picture",
    response_model=PredictReply,
    openapi_extra=upload("Predict", PredictParameters),
    responses=documented(*UPLOAD_STATUSES),
)
async def predict(request: Request, until_sent: UntilSent) -> Response:
    """Answers with the most likely classes."""
    clock, _, file, parameters = await read_request(request, PredictParameters, offered=(JSON,))
    runtime = runtime_of(request)
    backend = runtime.network(parameters.model)
    check_top_k(parameters, backend)
    spec, caller = DecodeSpec.of(backend.network.preprocessing, parameters.fit), caller_of(request.scope)
    async with answering(request, until_sent):
        # The picture is not needed any more when it has been classified.
        async with read_picture(runtime.images, file, spec, caller=caller) as decoded:
            answer = await pipeline.predict(backend, decoded)
        reply = await runtime.offload(partial(predict_reply, answer, parameters.top_k, clock))
    response = send([reply.model_dump_json().encode()])
    return record_result(request, response, backend.network.name, "none", [reply.timing_ms])
