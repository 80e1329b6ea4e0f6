"""The way of one picture: decode, view, network, explanations."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice

import torch
from jaxtyping import Float
from torch import Tensor

from app.cam.chunks import Pause
from app.cam.engine import explain
from app.cam.questions import Explanation, Question, image_seed
from app.cam.views import Smooth
from app.imaging.reading import Order
from app.imaging.tensors import normalise
from app.imaging.view import Fit
from app.runtime.decoding import Reading
from app.runtime.jobs import Kind
from app.runtime.runtime import Runtime
from app.runtime.served import ServedNetwork
from service_models import Network

# What is estimated to take longer lets others pass.
LONG_S = 0.5


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


async def predict(served: ServedNetwork, seen: Reading) -> Answer:
    """Runs the network without explaining it; pictures that come while the device is busy share a batch."""
    kind = Kind(("predict", served.network.name), partial(_classify, served), served.images_at_once("none"))
    done = await served.worker.run(kind, torch.from_numpy(seen.picture.pixels))
    images, logits = done.result
    return Answer(seen, served.network, images, logits, (), seen.wait_ms + done.queue_ms, done.compute_ms)


def _classify(served: ServedNetwork, batch: Sequence[Tensor], _pause: Pause) -> list[tuple[Tensor, Tensor]]:
    images = normalise(torch.stack(list(batch)), served.network.preprocessing, served.network.device)
    logits = served.logits(images).double().cpu()
    return list(zip(images.split(1), logits, strict=True))


@dataclass(frozen=True, slots=True)
class _Wanted:
    """One request's part of a batch."""

    pixels: Tensor
    questions: Sequence[Question]


_Explained = tuple[Tensor, Tensor, tuple[Explanation, ...]]


async def explain_layers(
    served: ServedNetwork,
    seen: Reading,
    layer_paths: tuple[str, ...],
    questions: Sequence[Question],
    *,
    smooth: Smooth,
    limit_s: float,
) -> Answer:
    """Runs the network and explains it at one layer, or at several together.

    Requests about the same layers that come while the device is busy share a batch, whatever their methods,
    utilities, targets and figures. Long ones run alone, in slices, and let batches of short ones pass in between.

    Args:
        served: the network.
        seen: the picture.
        layer_paths: module paths of the target layers.
        questions: about image 0; their seeds are the caller's, and are combined with the picture's digest.
        smooth: over which views attributions are averaged.
        limit_s: what is estimated to take longer is refused.

    Raises:
        CamError: a layer, a method or a target cannot be used.
        InvalidParameter: it would take too long.
    """
    asked = [replace(question, seed=image_seed(question.seed, seen.digest)) for question in questions]
    estimate = served.estimate_s(layer_paths, asked, smooth)
    # A layer that was never used must be split and timed first: a long job, like what takes long itself.
    is_long = estimate is None or estimate > LONG_S
    kind = Kind(
        object() if is_long else ("explain", served.network.name, layer_paths, smooth),
        partial(_explain, served, layer_paths, smooth, limit_s),
        served.images_at_once(smooth),
        is_long,
    )
    done = await served.worker.run(kind, _Wanted(torch.from_numpy(seen.picture.pixels), asked), estimate or 0.0)
    images, logits, explanations = done.result
    return Answer(seen, served.network, images, logits, explanations, seen.wait_ms + done.queue_ms, done.compute_ms)


def _explain(
    served: ServedNetwork,
    layer_paths: tuple[str, ...],
    smooth: Smooth,
    limit_s: float,
    batch: Sequence[_Wanted],
    pause: Pause,
) -> list[_Explained]:
    pause()
    splits = [served.split_at(path) for path in layer_paths]
    for wanted in batch:
        # Layers that were not known when the request came are judged only now.
        served.refuse_beyond(limit_s, layer_paths, wanted.questions, smooth)
    pixels = torch.stack([wanted.pixels for wanted in batch])
    images = normalise(pixels, served.network.preprocessing, served.network.device)
    questions = [replace(q, image=number) for number, wanted in enumerate(batch) for q in wanted.questions]
    explained = explain(splits, images, questions, smooth=smooth, pause=pause)
    answers = iter(explained.explanations)
    return [
        (image, logits, tuple(islice(answers, len(wanted.questions))))
        for image, logits, wanted in zip(images.split(1), explained.logits.double().cpu(), batch, strict=True)
    ]
