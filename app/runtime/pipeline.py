"""The way of one picture: decode, view, network, explanations."""

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from app.cam.engine import explain
from app.cam.questions import Explanation, Question, Target, image_seed
from app.cam.split import SplitNetwork
from app.imaging import DecodedImage, Fit, View, decode, make_view, normalise, render_view
from app.runtime.runtime import Runtime
from app.runtime.served import ServedNetwork
from service_models import Network


@dataclass(frozen=True, slots=True)
class Seen:
    """A decoded picture and what the network sees of it.

    Attributes:
        picture: the upright original.
        view: where the network's input lies in it.
        pixels: the input before normalisation, HWC uint8.
        digest: SHA-256 of the posted file.
        decode_ms: time from bytes to pixels.
    """

    picture: DecodedImage
    view: View
    pixels: Tensor
    digest: bytes
    decode_ms: float


@dataclass(frozen=True, slots=True)
class Answer:
    """What the network said of one picture.

    Attributes:
        seen: the picture.
        network: who was asked.
        images: the normalised input, (1, 3, height, width), on the network's device.
        logits: (class,), float64 on the CPU.
        explanations: one a question.
        queue_ms: time spent waiting for the device.
        compute_ms: time spent on the device.
    """

    seen: Seen
    network: Network
    images: Float[Tensor, "1 3 height width"]
    logits: Float[Tensor, " class"]
    explanations: tuple[Explanation, ...]
    queue_ms: float
    compute_ms: float


async def see(runtime: Runtime, network: Network, data: bytes, fit: Fit) -> Seen:
    """Decodes a file and renders the network's view of it, off the event loop.

    Raises:
        ImagingError: the file is no picture that can be used.
    """

    def work() -> Seen:
        started = time.perf_counter()
        picture = decode(data, runtime.settings.max_pixels)
        view = make_view(picture.width, picture.height, network.preprocessing, fit)
        pixels = render_view(picture.pixels, network.preprocessing, fit)
        digest = hashlib.sha256(data).digest()
        return Seen(picture, view, pixels, digest, 1e3 * (time.perf_counter() - started))

    return await runtime.offload(work)


async def predict(served: ServedNetwork, seen: Seen) -> Answer:
    """Runs the network without explaining it."""

    def work() -> tuple[Tensor, Tensor]:
        images = normalise(seen.pixels[None], served.network.preprocessing, served.network.device)
        with torch.inference_mode():
            return images, served.network.model(images)[0].double().cpu()

    done = await served.worker.run(work)
    images, logits = done.result
    return Answer(seen, served.network, images, logits, (), done.queue_ms, done.compute_ms)


async def explain_layer(
    served: ServedNetwork,
    seen: Seen,
    layer_path: str,
    targets: list[Target],
    ask: Callable[[Target, int], Question],
    *,
    seed: int,
    metrics: bool,
) -> Answer:
    """Runs the network and explains it at one layer.

    Args:
        served: the network.
        seen: the picture.
        layer_path: module path of the target layer.
        targets: one explanation each.
        ask: makes the question for a target, given the seed of this image.
        seed: the caller's seed.
        metrics: whether quality figures are wanted.

    Raises:
        CamError: the layer, the method or a target cannot be used.
    """

    def work() -> tuple[Tensor, Tensor, tuple[Explanation, ...]]:
        network = served.network
        split: SplitNetwork = served.split_at(layer_path)
        images = normalise(seen.pixels[None], network.preprocessing, network.device)
        own_seed = image_seed(seed, seen.digest)
        questions = [ask(target, own_seed) for target in targets]
        explained = explain(split, images, questions, metrics=metrics)
        return images, explained.logits[0].double().cpu(), explained.explanations

    done = await served.worker.run(work)
    images, logits, explanations = done.result
    return Answer(seen, served.network, images, logits, explanations, done.queue_ms, done.compute_ms)
