"""The way of one picture: decode, view, network, explanations."""

import asyncio
import hashlib
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from app.cam.engine import explain
from app.cam.questions import Explanation, Question, image_seed
from app.cam.views import Smooth
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


class Abandoned(Exception):
    """Nobody waits for the answer any more."""


async def explain_layers(
    served: ServedNetwork,
    seen: Seen,
    layer_paths: Sequence[str],
    questions: Sequence[Question],
    *,
    metrics: bool,
    smooth: Smooth,
    limit_s: float,
) -> Answer:
    """Runs the network and explains it at one layer, or at several together.

    Args:
        served: the network.
        seen: the picture.
        layer_paths: module paths of the target layers.
        questions: about image 0; their seeds are the caller's, and are combined with the picture's digest.
        metrics: whether quality figures are wanted.
        smooth: over which views attributions are averaged.
        limit_s: what is estimated to take longer is refused.

    Raises:
        CamError: a layer, a method or a target cannot be used.
        InvalidParameter: it would take too long.
    """
    abandoned = threading.Event()

    def pause() -> None:
        if abandoned.is_set():
            raise Abandoned

    def work() -> tuple[Tensor, Tensor, tuple[Explanation, ...]]:
        network = served.network
        splits = []
        for path in layer_paths:
            pause()
            splits.append(served.split_at(path))
        asked = [replace(question, seed=image_seed(question.seed, seen.digest)) for question in questions]
        # Layers that were not known when the request came are judged only now.
        served.refuse_beyond(limit_s, layer_paths, asked, metrics=metrics, smooth=smooth)
        images = normalise(seen.pixels[None], network.preprocessing, network.device)
        explained = explain(splits, images, asked, metrics=metrics, smooth=smooth, pause=pause)
        return images, explained.logits[0].double().cpu(), explained.explanations

    try:
        done = await served.worker.run(work)
    except asyncio.CancelledError:
        # The thread cannot be stopped; it looks at this between chunks of long work.
        abandoned.set()
        raise
    images, logits, explanations = done.result
    return Answer(seen, served.network, images, logits, explanations, done.queue_ms, done.compute_ms)
