"""The way of one picture: decode, view, network, explanations."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

from jaxtyping import Float
from torch import Tensor

from app.cam.questions import Explanation, Question, image_seed
from app.cam.views import Smooth
from app.imaging.reading import Order
from app.imaging.view import Fit
from app.runtime.backend import Backend, Begun, Seen, nobody_asks
from app.runtime.decoding import Reading
from app.runtime.jobs import Done
from app.runtime.runtime import Runtime
from service_models import Network


@dataclass(frozen=True, slots=True)
class Answer:
    """What the network said of one picture.

    Attributes:
        seen: the picture as it was read.
        network: who was asked.
        images: the normalised input, (1, 3, height, width), on the network's device.
        logits: (class,), float64 on the CPU.
        explanations: one a question.
        queue_ms: time spent waiting for a decoder and for the device.
        compute_ms: time spent on the device.
    """

    seen: Reading
    network: Network
    images: Float[Tensor, "1 3 height width"]
    logits: Float[Tensor, " class"]
    explanations: tuple[Explanation, ...]
    queue_ms: float
    compute_ms: float


@asynccontextmanager
async def see(
    runtime: Runtime, network: Network, data: bytes, fit: Fit, max_side: int | None = None, *, overlays: int = 1
) -> AsyncIterator[Reading]:
    """Has a file decoded and the network's view of it rendered; what is made of it is held until the context ends.

    Args:
        runtime: has the decoders.
        network: whose view it is.
        data: the posted file.
        fit: how the picture becomes the network's input.
        max_side: longest side in px of the overlays, 0 for the original's; None where none is wanted.
        overlays: how many the reply will carry.

    Raises:
        ImagingError: the file is no picture that can be used.
    """
    order = Order.of(network.preprocessing, fit, max_side)
    async with runtime.decoders.read(data, order, overlays=overlays) as reading:
        yield reading


async def predict(served: Backend, seen: Reading) -> Answer:
    """Runs the network without explaining it; pictures that come while the device is busy share a batch."""
    return _answer(served, seen, await served.classify(seen.picture.pixels))


async def explain_layers(
    served: Backend,
    seen: Reading,
    layer_paths: tuple[str, ...],
    questions: Sequence[Question],
    *,
    smooth: Smooth,
    limit_s: float,
    begun: Begun = nobody_asks,
) -> Answer:
    """Runs the network and explains it at one layer, or at several together.

    Args:
        served: the network.
        seen: the picture.
        layer_paths: module paths of the target layers.
        questions: about image 0; their seeds are the caller's, and are combined with the picture's digest.
        smooth: over which views attributions are averaged.
        limit_s: what is estimated to take longer is refused.
        begun: called when the device begins; see `Backend.explain`.

    Raises:
        CamError: a layer, a method or a target cannot be used.
        InvalidParameter: it would take too long.
    """
    asked = [replace(question, seed=image_seed(question.seed, seen.digest)) for question in questions]
    done = await served.explain(seen.picture.pixels, layer_paths, asked, smooth, limit_s, begun)
    return _answer(served, seen, done)


def _answer(served: Backend, seen: Reading, done: Done[Seen]) -> Answer:
    found = done.result
    return Answer(
        seen,
        served.network,
        found.image,
        found.logits,
        found.explanations,
        seen.wait_ms + done.queue_ms,
        done.compute_ms,
    )
