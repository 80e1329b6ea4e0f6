"""A network that is loaded in this process, on its worker."""

import logging
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice

import torch
from jaxtyping import Float
from torch import Tensor

from app.cam.chunks import IMAGES_AT_ONCE, Checkpoint
from app.cam.engine import explain
from app.cam.errors import LayerError
from app.cam.trunks import Engine, Precision
from app.cam.views import Smooth, view_count
from app.errors import InvalidParameter
from app.imaging.picture import Pixels
from app.imaging.tensors import normalise
from app.runtime.backend import Backend, CostEstimate, ExplainRequest, NetworkOutput, OnStart, ignore_start
from app.runtime.checking import load_checked
from app.runtime.jobs import BatchKind, JobResult
from app.runtime.layers import NetworkLayers
from app.runtime.readiness import why_not_ready
from app.runtime.worker import DeviceWorker
from app.settings import Settings, TrunkSetting
from service_models import LabelIndex, Network, NetworkSpec
from service_models.errors import UnknownLayer

_LOG = logging.getLogger(__name__)

# Jobs that are estimated to take longer let others pass.
LONG_S = 0.5
_ENGINES: dict[TrunkSetting, dict[str, tuple[Engine, ...]]] = {
    "auto": {"cpu": ("openvino",), "cuda": ("cudagraphs",)},
    "eager": {"cpu": (), "cuda": ()},
    "compile": {"cpu": ("compile",), "cuda": ("compile",)},
    "openvino": {"cpu": ("openvino",), "cuda": ()},
}
# The network is timed again no more often than this.
_MEASURED_AGAIN_S = 30.0
# A request that takes less than this share of its estimate shows that the network was timed in a busy moment.
_OVERESTIMATED = 0.5


def engines_for(trunk: TrunkSetting, device: torch.device) -> tuple[Engine, ...]:
    """What runs trunks on a device, in order of preference."""
    return *_ENGINES[trunk][device.type], "eager"


@dataclass(frozen=True, slots=True)
class _ExplainJob:
    """One request's part of a batch."""

    pixels: Tensor
    request: ExplainRequest
    estimate: CostEstimate
    on_start: OnStart


class ServedNetwork(Backend):
    """A network with its worker.

    Attributes:
        worker: owner of its device.
        layers: its splits and their costs.
    """

    def __init__(
        self, network: Network, worker: DeviceWorker, trunk: TrunkSetting = "eager", precision: Precision = "float32"
    ) -> None:
        self.network = network
        self.worker = worker
        self.layers = NetworkLayers(network)
        self.module_paths = frozenset(path for path, _ in network.model.named_modules())
        self.labels = LabelIndex(network.labels)
        self._engines = engines_for(trunk, network.device)
        self._precision = precision
        self._measured_at = -math.inf

    def warm(self) -> None:
        """Has everything that requests commonly need compiled and run once."""
        self.layers.warm(self._engines, self._precision)

    def admit(self, request: ExplainRequest) -> ExplainRequest:
        """See `Backend`; of layers that were never used only what is certain counts."""
        return replace(request, estimate=self._estimate(request))

    async def classify(self, pixels: Pixels) -> JobResult[NetworkOutput]:
        """See `Backend`."""
        kind = BatchKind(("predict", self.network.name), self._classify, self.images_at_once("none"))
        return await self.worker.run(kind, torch.from_numpy(pixels))

    async def explain(
        self, pixels: Pixels, request: ExplainRequest, on_start: OnStart = ignore_start
    ) -> JobResult[NetworkOutput]:
        """See `Backend`.

        Requests about the same layers that come while the device is busy share a batch, whatever their methods,
        utilities, targets and figures. Long ones run alone, in slices, and let batches of short ones pass in between.
        """
        estimate = request.estimate
        if estimate is None or (not estimate.is_measured and self.layers.are_measured(request.paths)):
            estimate = self._estimate(request)
        # A layer that was never used must be split and timed first, which takes long.
        is_long = estimate.seconds > LONG_S or not estimate.is_measured
        kind = BatchKind(
            object() if is_long else ("explain", self.network.name, request.paths, request.smooth),
            self._explain,
            self.images_at_once(request.smooth),
            is_long,
        )
        job = _ExplainJob(torch.from_numpy(pixels), request, estimate, on_start)
        return await self.worker.run(kind, job, estimate.seconds)

    async def why_not_ready(self, longest_s: float) -> str | None:
        """See `Backend`."""
        return await why_not_ready(self.worker, self.probe, longest_s)

    def images_at_once(self, smooth: Smooth) -> int:
        """How many images make a full batch on this device, where each is shown in so many views."""
        return max(1, IMAGES_AT_ONCE[self.network.device.type] // view_count(smooth))

    def logits(self, images: Float[Tensor, "batch colour height width"]) -> Float[Tensor, "batch class"]:
        """Runs the network without explaining it, on the fastest trunk that it has."""
        named = self.layers.named(self.network.layers.get(self.default_layer, ""))
        with torch.inference_mode():
            return named.logits(images) if named else self.network.model(images)

    def probe(self) -> None:
        """Has the device run the network once; raises whatever is wrong with it."""
        self.logits(self.layers.noise()).sum().item()

    def _estimate(self, request: ExplainRequest) -> CostEstimate:
        """Estimates a request.

        A refusal has the layers timed again when the device is free: they may have been timed in a busy moment.

        Raises:
            InvalidParameter: it would take too long.
        """
        estimate = self.layers.estimate(request)
        if estimate.certain_s <= request.limit_s:
            return estimate
        self._measure_soon(request.paths)
        method = self.layers.costliest_method(request)
        field = next((name for name in ("permutations", "nodes") if name in method.parameters), "method")
        raise InvalidParameter(
            f"'{method.name}' at this layer would take about {estimate.certain_s:.3g} s for this request, more than "
            f"the {request.limit_s:g} s that a request may take",
            field=field,
            expected="what fits the time: another method or layer, fewer targets or permutations, or metrics=false",
            estimate_s=round(estimate.certain_s, 1),
            limit_s=request.limit_s,
        )

    def _classify(self, batch: Sequence[Tensor], _checkpoint: Checkpoint) -> list[NetworkOutput]:
        images = self._normalised(batch)
        logits = self.logits(images).double().cpu()
        return [NetworkOutput(image, scores) for image, scores in zip(images.split(1), logits, strict=True)]

    def _explain(self, batch: Sequence[_ExplainJob], checkpoint: Checkpoint) -> list[NetworkOutput]:
        """Explains the images of one batch, whose requests have the same layers and views."""
        checkpoint()
        started = time.perf_counter()
        for job in batch:
            job.on_start(job.estimate.seconds)
        paths, smooth = batch[0].request.paths, batch[0].request.smooth
        splits = [self.layers.split_at(path, checkpoint) for path in paths]
        for job in batch:
            if not job.estimate.is_measured:  # the layers were split just now, and their costs are known
                estimate = self._estimate(job.request)
                job.on_start(time.perf_counter() - started + estimate.seconds)
        images = self._normalised([job.pixels for job in batch])
        questions = [replace(each, image_index=n) for n, job in enumerate(batch) for each in job.request.questions]
        explained = explain(splits, images, questions, smooth=smooth, checkpoint=checkpoint)
        took_s, estimate = time.perf_counter() - started, batch[0].estimate
        if len(batch) == 1 and estimate.is_measured and took_s < _OVERESTIMATED * estimate.seconds:
            self._measure_soon(paths)
        answers = iter(explained.explanations)
        return [
            NetworkOutput(image, logits, tuple(islice(answers, len(job.request.questions))))
            for image, logits, job in zip(images.split(1), explained.logits.double().cpu(), batch, strict=True)
        ]

    def _normalised(self, pixels: Sequence[Tensor]) -> Tensor:
        return normalise(pixels, self.network.preprocessing, self.network.device)

    def _measure_soon(self, paths: Sequence[str]) -> None:
        if time.monotonic() - self._measured_at < _MEASURED_AGAIN_S:
            return
        self._measured_at = time.monotonic()
        self.worker.submit(lambda: self._measure_again(paths))

    def _measure_again(self, paths: Sequence[str]) -> None:
        """Times the network and one of the layers; jobs that wait by then have a turn before the next layer."""
        self.layers.measure_image()
        if paths:
            if paths[1:]:
                self.worker.submit(lambda: self._measure_again(paths[1:]))
            self.layers.measure_again(paths[0])


def serve_network(spec: NetworkSpec, worker: DeviceWorker, settings: Settings) -> ServedNetwork:
    """Loads and warms a network; blocks.

    Args:
        spec: which.
        worker: owner of its device.
        settings: where weights lie, and what runs the trunks.

    Raises:
        NetworkError: it cannot be loaded; the message says what to do.
    """
    _LOG.info("loading %s on %s", spec.name, worker.device)
    started = time.perf_counter()
    network = load_checked(spec, worker.device, settings.weights_dir)
    served = ServedNetwork(network, worker, settings.trunk, settings.precision)
    try:
        worker.submit(served.warm).result()
    except LayerError as error:
        raise UnknownLayer(f"{spec.name}: layers: {error}") from error
    seconds = time.perf_counter() - started
    _LOG.info(
        "%s is ready: weights %s, %d classes, %.1f s", spec.name, network.weights, len(network.labels), seconds
    )  # fmt: skip
    return served
