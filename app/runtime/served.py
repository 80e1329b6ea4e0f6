"""A network that is loaded in this process: on its worker, with its splits and what they cost."""

import logging
import math
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice

import torch
from jaxtyping import Float
from torch import Tensor

from app.cam.acceleration import accelerate
from app.cam.chunks import IMAGES_AT_ONCE, Pause
from app.cam.cost import Costs, costliest, estimate_s, measure_costs
from app.cam.engine import explain, with_references
from app.cam.methods import METHODS
from app.cam.questions import Question
from app.cam.split import GraphSplit, SplitNetwork
from app.cam.splitting import split_network
from app.cam.trunks import Engine, Precision
from app.cam.utilities import UTILITIES
from app.cam.views import Smooth, view_count
from app.errors import InvalidParameter
from app.imaging.tensors import normalise
from app.runtime.backend import Backend, Begun, Pixels, Seen, nobody_asks
from app.runtime.jobs import Done, Kind
from app.runtime.readiness import why_not_ready
from app.runtime.worker import DeviceWorker
from app.settings import Settings, TrunkSetting
from service_models import Network, NetworkSpec, load_network
from service_models.lively import structured_images

_LOG = logging.getLogger(__name__)

_OTHER_SPLITS = 16
# What is estimated to take longer lets others pass.
LONG_S = 0.5
_ENGINES: dict[TrunkSetting, dict[str, tuple[Engine, ...]]] = {
    "auto": {"cpu": ("openvino",), "cuda": ("cudagraphs",)},
    "eager": {"cpu": (), "cuda": ()},
    "compile": {"cpu": ("compile",), "cuda": ("compile",)},
    "openvino": {"cpu": ("openvino",), "cuda": ()},
}
_Kept = tuple[SplitNetwork, Costs]

# Requests that are refused have the network timed no more often than this.
_MEASURED_AGAIN_S = 30.0


def engines_for(trunk: TrunkSetting, device: torch.device) -> tuple[Engine, ...]:
    """What runs trunks on a device, in order of preference."""
    return *_ENGINES[trunk][device.type], "eager"


@dataclass(frozen=True, slots=True)
class _Wanted:
    """One request's part of a batch."""

    pixels: Tensor
    questions: Sequence[Question]
    begun: Begun


class ServedNetwork(Backend):
    """A network with its worker; its splits are made and used on the worker's thread only.

    Attributes:
        worker: owner of its device.
    """

    def __init__(
        self,
        network: Network,
        worker: DeviceWorker,
        trunk: TrunkSetting = "eager",
        precision: Precision = "float32",
    ) -> None:
        self.network = network
        self.worker = worker
        self.module_paths = frozenset(path for path, _ in network.model.named_modules())
        self._engines = engines_for(trunk, network.device)
        self._precision = precision
        self._measured_at = -math.inf
        self._named: dict[str, _Kept] = {}
        self._others: OrderedDict[str, _Kept] = OrderedDict()

    async def classify(self, pixels: Pixels) -> Done[Seen]:
        """See `Backend`."""
        kind = Kind(("predict", self.network.name), self._classify, self.images_at_once("none"))
        return await self.worker.run(kind, torch.from_numpy(pixels))

    async def explain(
        self,
        pixels: Pixels,
        paths: tuple[str, ...],
        questions: Sequence[Question],
        smooth: Smooth,
        limit_s: float,
        begun: Begun = nobody_asks,
    ) -> Done[Seen]:
        """See `Backend`.

        Requests about the same layers that come while the device is busy share a batch, whatever their methods,
        utilities, targets and figures. Long ones run alone, in slices, and let batches of short ones pass in between.
        """
        estimate = self.estimate_s(paths, questions, smooth)
        # A layer that was never used must be split and timed first: a long job, like what takes long itself.
        is_long = estimate is None or estimate > LONG_S
        kind = Kind(
            object() if is_long else ("explain", self.network.name, paths, smooth),
            partial(self._explain, paths, smooth, limit_s),
            self.images_at_once(smooth),
            is_long,
        )
        return await self.worker.run(kind, _Wanted(torch.from_numpy(pixels), questions, begun), estimate or 0.0)

    async def why_not_ready(self, longest_s: float) -> str | None:
        """See `Backend`."""
        return await why_not_ready(self.worker, self.probe, longest_s)

    def warm(self) -> None:
        """Splits the network at its named layers, has the trunks compiled, and runs each once, as requests will."""
        images = self._noise()
        example = structured_images(3, self.network.preprocessing.input_size, torch.Generator().manual_seed(0))
        for path in self.network.layers.values():
            split = split_network(self.network.model, path, self.network.preprocessing.input_size)
            if isinstance(split, GraphSplit):
                accelerate(split, self._engines, example.to(self.network.device), self._precision)
            explain(split, images, [Question(0, METHODS["shapleycam"], UTILITIES["rest"])])
            self._named[path] = (split, measure_costs(split, images))

    def images_at_once(self, smooth: Smooth) -> int:
        """How many images make a full batch on this device, where each is shown in so many views."""
        return max(1, IMAGES_AT_ONCE[self.network.device.type] // view_count(smooth))

    def logits(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch class"]:
        """Runs the network without explaining it, on the fastest trunk that it has."""
        named = self._named.get(self.network.layers.get(self.default_layer, ""))
        with torch.inference_mode():
            return named[0].logits(images) if named else self.network.model(images)

    def probe(self) -> None:
        """Has the device run the network once; raises whatever is wrong with it."""
        self.logits(self._noise()).sum().item()

    def split_at(self, path: str) -> SplitNetwork:
        """The split at a module path.

        Other layers than the named ones run eager and are kept in a small cache: they cost a few forward passes to
        make, and nothing is compiled at a caller's wish.

        Raises:
            LayerError: the module cannot be a target layer.
        """
        if path in self._named:
            return self._named[path][0]
        if path not in self._others:
            split = split_network(self.network.model, path, self.network.preprocessing.input_size)
            self._others[path] = (split, measure_costs(split, self._noise(), self._eager_image_s()))
            if len(self._others) > _OTHER_SPLITS:
                self._others.popitem(last=False)
        self._others.move_to_end(path)
        return self._others[path][0]

    def estimate_s(self, paths: Sequence[str], questions: Sequence[Question], smooth: Smooth) -> float | None:
        """How long explanations take; None where a layer was never used, whose parts were never timed."""
        known = self._known(paths)
        return None if known is None else estimate_s(*known, with_references(questions)[0], smooth)

    def refuse_beyond(
        self, limit_s: float, paths: Sequence[str], questions: Sequence[Question], smooth: Smooth
    ) -> None:
        """See `Backend`; layers that were never used are not judged.

        A refusal has the layers timed again when the device is free: the last time may have fallen on a busy moment.
        """
        known = self._known(paths)
        seconds = self.estimate_s(paths, questions, smooth)
        if known is None or seconds is None or seconds <= limit_s:
            return
        self._measure_soon(paths)
        method = costliest(*known, with_references(questions)[0])
        field = next((name for name in ("permutations", "nodes") if name in method.parameters), "method")
        raise InvalidParameter(
            f"'{method.name}' at this layer would take about {seconds:.3g} s for this request, more than "
            f"the {limit_s:g} s that a request may take",
            field=field,
            takes="what fits the time: another method or layer, fewer targets or permutations, or metrics=false",
            estimate_s=round(seconds, 1),
            limit_s=limit_s,
        )

    def _classify(self, batch: Sequence[Tensor], _pause: Pause) -> list[Seen]:
        images = self._normalised(batch)
        logits = self.logits(images).double().cpu()
        return [Seen(image, scores) for image, scores in zip(images.split(1), logits, strict=True)]

    def _explain(
        self, layer_paths: tuple[str, ...], smooth: Smooth, limit_s: float, batch: Sequence[_Wanted], pause: Pause
    ) -> list[Seen]:
        pause()
        splits = [self.split_at(path) for path in layer_paths]
        for wanted in batch:
            # Layers that were not known when the request came are judged only now.
            self.refuse_beyond(limit_s, layer_paths, wanted.questions, smooth)
            wanted.begun(self.estimate_s(layer_paths, wanted.questions, smooth))
        images = self._normalised([wanted.pixels for wanted in batch])
        questions = [replace(q, image=number) for number, wanted in enumerate(batch) for q in wanted.questions]
        explained = explain(splits, images, questions, smooth=smooth, pause=pause)
        answers = iter(explained.explanations)
        return [
            Seen(image, logits, tuple(islice(answers, len(wanted.questions))))
            for image, logits, wanted in zip(images.split(1), explained.logits.double().cpu(), batch, strict=True)
        ]

    def _normalised(self, pixels: Sequence[Tensor]) -> Tensor:
        return normalise(torch.stack(list(pixels)), self.network.preprocessing, self.network.device)

    def _known(self, paths: Sequence[str]) -> tuple[list[SplitNetwork], list[Costs]] | None:
        found = [kept for path in paths if (kept := self._named.get(path) or self._others.get(path))]
        if len(found) < len(paths):
            return None
        return [split for split, _ in found], [costs for _, costs in found]

    def _eager_image_s(self) -> float | None:
        """What the whole network takes at another layer that is not compiled, where there is one."""
        return next((costs.image_s for _, costs in self._others.values()), None)

    def _measure_soon(self, paths: Sequence[str]) -> None:
        if time.monotonic() - self._measured_at < _MEASURED_AGAIN_S:
            return
        self._measured_at = time.monotonic()
        self.worker.start(partial(self._measure_again, paths))

    def _measure_again(self, paths: Sequence[str]) -> None:
        for path in paths:
            for kept in (self._named, self._others):
                if path in kept:
                    split, costs = kept[path]
                    kept[path] = (split, costs.least(measure_costs(split, self._noise())))

    def _noise(self) -> Tensor:
        height, width = self.network.preprocessing.input_size
        noise = torch.randn(1, 3, height, width, generator=torch.Generator().manual_seed(0))
        return noise.to(self.network.device)


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
    network = load_network(spec, worker.device, settings.weights_dir)
    served = ServedNetwork(network, worker, settings.trunk, settings.precision)
    worker.start(served.warm).result()
    seconds = time.perf_counter() - started
    _LOG.info(
        "%s is ready: weights %s, %d classes, %.1f s", spec.name, network.weights, len(network.labels), seconds
    )  # fmt: skip
    return served
