"""The way of one decoded picture through a network to its explanations."""

import logging
from dataclasses import dataclass

from app.imaging.picture import depth_warnings
from app.runtime.backend import Backend, ExplainRequest, NetworkOutput, OnStart, ignore_start
from app.runtime.jobs import JobResult
from app.runtime.picture_request import DecodedPicture
from service_models import Network

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Answer:
    """What the network said of one picture.

    Attributes:
        decoded: the picture.
        network: that was run.
        output: what it said.
        queue_ms: time spent waiting for a decoder and for the device.
        compute_ms: time spent on the device.
    """

    decoded: DecodedPicture
    network: Network
    output: NetworkOutput
    queue_ms: float
    compute_ms: float


async def predict(backend: Backend, decoded: DecodedPicture) -> Answer:
    """Runs the network without explaining it; pictures that come while the device is busy share a batch.

    Predictions have no place for warnings, so the log has them.
    """
    for warning in depth_warnings(decoded.picture.depth, backend.network.preprocessing.max_value):
        _LOG.warning("%s: %s", backend.network.name, warning)
    return _answer(backend, decoded, await backend.classify(decoded.picture.pixels))


async def explain(
    backend: Backend, decoded: DecodedPicture, request: ExplainRequest, on_start: OnStart = ignore_start
) -> Answer:
    """Runs the network and explains what it says.

    Args:
        backend: the network.
        decoded: the picture.
        request: what is to be explained. Its seeds are the caller's: they are combined with the picture's digest.
        on_start: called when the device starts; see `Backend.explain`.

    Raises:
        CamError: a layer, a method or a target cannot be used.
        InvalidParameter: it would take too long.
    """
    request = request.seeded_for(decoded.digest)
    return _answer(backend, decoded, await backend.explain(decoded.picture.pixels, request, on_start))


def _answer(backend: Backend, decoded: DecodedPicture, done: JobResult[NetworkOutput]) -> Answer:
    return Answer(decoded, backend.network, done.result, decoded.wait_ms + done.queue_ms, done.compute_ms)
