"""The layers of a network that is loaded here: its splits, what their parts cost, and what requests will cost."""

import time
from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor

from app.cam.acceleration import accelerate
from app.cam.chunks import Checkpoint, no_checkpoint
from app.cam.cost import Costs, costliest, estimate_s
from app.cam.engine import explain, usable_methods, with_references
from app.cam.heads import HeadStructure
from app.cam.methods import Method
from app.cam.questions import Question
from app.cam.split import GraphSplit, Layer, SplitNetwork
from app.cam.splitting import LayerFacts, Splitter
from app.cam.timing import measure_costs
from app.cam.trunks import Engine, Precision
from app.cam.utilities import utilities_of
from app.runtime.backend import CostEstimate, ExplainRequest
from service_models import Network
from service_models.calibration import structured_images
from service_models.grid import Grid
from service_models.layer_paths import module_of

_OTHER_SPLITS = 16
# The guess for a layer before any was split and timed: it takes as long as so many images through the whole network.
# Afterwards the guess is the mean of the last ones, of which the latest has this share.
_IMAGES_OF_A_SPLIT = 50.0
_SHARE_OF_LATEST = 0.2
_ANY_LAYER = LayerFacts(Grid("nchw", 1, 1, 1, 0), 1, True, HeadStructure())


class NetworkLayers:
    """The splits of one network, and their costs.

    Splits are made and timed on the thread of the network's worker only. Estimates are made on any thread.
    """

    def __init__(self, network: Network) -> None:
        self._network = network
        self._splitter = Splitter(network.model, network.preprocessing.input_size, network.preprocessing.channels)
        self._positions = {path: position for position, path in enumerate(self._splitter.paths)}
        self._named: dict[str, SplitNetwork] = {}
        self._others: OrderedDict[str, SplitNetwork] = OrderedDict()
        self._costs: dict[str, Costs] = {}
        self._image_s = 0.0
        # Seconds to split and time a layer, and to split one again whose costs are known.
        self._split_s = 0.0
        self._split_again_s = 0.0

    def warm(self, engines: tuple[Engine, ...], precision: Precision) -> None:
        """Splits the network at its named layers, compiles the trunks, and runs each once, as requests will."""
        self._image_s = self._splitter.image_s()
        self._split_s = _IMAGES_OF_A_SPLIT * self._image_s
        images = self.noise()
        view = self._network.preprocessing
        example = structured_images(3, view.input_size, torch.Generator().manual_seed(0), view.channels)
        for path in self._network.layers.values():
            split = self._splitter.split(path)
            if isinstance(split, GraphSplit):
                accelerate(split, engines, example.to(self._network.device), precision)
            methods = usable_methods(split, ("shapleycam", "gradcam"))
            explain(split, images, [Question(0, methods[0], utilities_of(self._network.scores)["rest"])])
            self._named[path], self._costs[path] = split, measure_costs(split, images)

    def named(self, path: str) -> SplitNetwork | None:
        """The split at a named layer, once it is warm."""
        return self._named.get(path)

    def split_at(self, path: str, checkpoint: Checkpoint = no_checkpoint) -> SplitNetwork:
        """The split at a module path.

        Layers that the network does not name run eager: callers cannot have anything compiled. The last ones are kept
        in a small cache; the facts and costs of a layer are kept for good.

        Args:
            path: of the module.
            checkpoint: called between the steps.

        Raises:
            LayerError: the module cannot be a target layer.
        """
        if path in self._named:
            return self._named[path]
        if path not in self._others:
            split = self._split(path, checkpoint)
            # Jobs that ran at the checkpoints may have filled the cache.
            self._others[path] = split
            if len(self._others) > _OTHER_SPLITS:
                self._others.popitem(last=False)
        self._others.move_to_end(path)
        return self._others[path]

    def are_measured(self, paths: Sequence[str]) -> bool:
        """Whether all layers were used before, so that their costs are known."""
        return all(path in self._costs for path in paths)

    def estimate(self, request: ExplainRequest) -> CostEstimate:
        """Estimates a request; takes some milliseconds for a thousand questions.

        A layer that was never used is taken for the nearest one whose costs are known, and is yet to be split and
        timed. Certain are only the split and the images that pass through the network.
        """
        is_measured = self.are_measured(request.paths)
        seconds = self._seconds(request, [self._nearest(path) for path in request.paths])
        certain_s = seconds if is_measured else self._seconds(request, self._certain(request.paths))
        return CostEstimate(seconds, certain_s, is_measured)

    def costliest_method(self, request: ExplainRequest) -> Method:
        """The method that takes most of a request's time, of what is certain."""
        layers, costs = zip(*self._certain(request.paths), strict=True)
        return costliest(layers, costs, with_references(request.questions)[0])

    def measure_image(self) -> None:
        """Times the whole network again, and keeps the lesser time."""
        self._image_s = min(self._image_s, self._splitter.image_s())
        self._split_s = min(self._split_s, _IMAGES_OF_A_SPLIT * self._image_s)

    def measure_again(self, path: str) -> None:
        """Times a layer again, where its split is still kept, and keeps the lesser times."""
        if (split := self._named.get(path) or self._others.get(path)) is not None:
            image_s = None if path in self._named else self._image_s
            self._costs[path] = self._costs[path].least(measure_costs(split, self.noise(), image_s))

    def noise(self) -> Tensor:
        """An image of noise on the network's device."""
        view = self._network.preprocessing
        noise = torch.randn(1, view.channels, *view.input_size, generator=torch.Generator().manual_seed(0))
        return noise.to(self._network.device)

    def _split(self, path: str, checkpoint: Checkpoint) -> SplitNetwork:
        """Splits, and times what was never timed; notes how long that took, without the jobs that ran meanwhile."""
        paused_s = 0.0

        def timed_checkpoint() -> None:
            nonlocal paused_s
            started = time.perf_counter()
            checkpoint()
            paused_s += time.perf_counter() - started

        started = time.perf_counter()
        split = self._splitter.split(path, timed_checkpoint)
        if path in self._costs:
            self._split_again_s = time.perf_counter() - started - paused_s
            return split
        self._costs[path] = measure_costs(split, self.noise(), self._image_s, timed_checkpoint)
        self._split_s += _SHARE_OF_LATEST * (time.perf_counter() - started - paused_s - self._split_s)
        return split

    def _seconds(self, request: ExplainRequest, known: Sequence[tuple[Layer, Costs]]) -> float:
        layers, costs = zip(*known, strict=True)
        split_s = sum(self._seconds_to_split(path) for path in request.paths)
        return split_s + estimate_s(layers, costs, with_references(request.questions)[0], request.smooth)

    def _seconds_to_split(self, path: str) -> float:
        if path in self._named or path in self._others:
            return 0.0
        return self._split_again_s if path in self._costs else self._split_s

    def _nearest(self, path: str) -> tuple[Layer, Costs]:
        """What is known of a layer, or of the one nearest to it in the network's order of modules."""
        if not self._costs:  # a network that names no layer
            return _ANY_LAYER, Costs.of_images(self._image_s)
        if path not in self._costs:
            position = self._positions.get(module_of(path), 0)
            path = min(self._costs, key=lambda other: abs(self._positions[module_of(other)] - position))
        return self._splitter.layers[path], self._costs[path]

    def _certain(self, paths: Sequence[str]) -> list[tuple[Layer, Costs]]:
        """The same; of a layer that was never used only images through the network cost anything."""
        return [
            (layer, costs if path in self._costs else Costs.of_images(costs.image_s))
            for path, (layer, costs) in zip(paths, map(self._nearest, paths), strict=True)
        ]
