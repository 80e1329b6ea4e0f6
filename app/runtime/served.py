"""A loaded network as the service holds it: on its worker, with its splits and what they cost."""

import math
import time
from collections import OrderedDict
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from app.cam.cost import Costs, costliest, estimate_s, measure_costs
from app.cam.engine import explain, with_references
from app.cam.methods import METHODS
from app.cam.questions import Question
from app.cam.split import SplitNetwork
from app.cam.splitting import split_network
from app.cam.utilities import UTILITIES
from app.cam.views import Smooth
from app.errors import InvalidParameter
from app.runtime.worker import DeviceWorker
from service_models import Network

_OTHER_SPLITS = 16
# Requests that are refused have the network timed no more often than this.
_MEASURED_AGAIN_S = 30.0


class ServedNetwork:
    """A network with its worker; its splits are made and used on the worker's thread only.

    Attributes:
        network: the loaded network.
        worker: owner of its device.
    """

    def __init__(self, network: Network, worker: DeviceWorker) -> None:
        self.network = network
        self.worker = worker
        self._image_s: float | None = None
        self._measured_at = -math.inf
        self._named: dict[str, tuple[SplitNetwork, Costs]] = {}
        self._others: OrderedDict[str, tuple[SplitNetwork, Costs]] = OrderedDict()

    @property
    def default_layer(self) -> str:
        """`pre_gap`; for a network that pools by class token, the first layer it names."""
        layers = self.network.layers
        return "pre_gap" if "pre_gap" in layers or not layers else next(iter(layers))

    def warm(self) -> None:
        """Splits the network at its named layers and runs each once, as requests will."""
        images = self._noise()
        for path in self.network.layers.values():
            split = split_network(self.network.model, path, self.network.preprocessing.input_size)
            explain(split, images, [Question(0, METHODS["shapleycam"], UTILITIES["rest"])])
            self._named[path] = (split, self._measure(split))

    def split_at(self, path: str) -> SplitNetwork:
        """The split at a module path.

        Other layers than the named ones are kept in a small cache: they cost a few forward passes to make.

        Raises:
            LayerError: the module cannot be a target layer.
        """
        if path in self._named:
            return self._named[path][0]
        if path not in self._others:
            split = split_network(self.network.model, path, self.network.preprocessing.input_size)
            self._others[path] = (split, self._measure(split))
            if len(self._others) > _OTHER_SPLITS:
                self._others.popitem(last=False)
        self._others.move_to_end(path)
        return self._others[path][0]

    def refuse_beyond(
        self,
        limit_s: float,
        paths: Sequence[str],
        questions: Sequence[Question],
        *,
        metrics: bool,
        smooth: Smooth,
    ) -> None:
        """Refuses what would take longer than a request may; layers that were never used are not judged.

        A refusal has the layers timed again when the device is free: the last time may have fallen on a busy moment.

        Args:
            limit_s: how long a request may take.
            paths: module paths of the layers.
            questions: what is asked of them.
            metrics: whether quality figures are wanted.
            smooth: the views.

        Raises:
            InvalidParameter: with the estimate.
        """
        known = [self._named.get(path) or self._others.get(path) for path in paths]
        found = [pair for pair in known if pair is not None]
        if len(found) < len(paths):
            return
        splits, costs = [split for split, _ in found], [cost for _, cost in found]
        asked, _ = with_references(questions)
        seconds = estimate_s(splits, costs, asked, metrics=metrics, smooth=smooth)
        if seconds <= limit_s:
            return
        self._measure_soon(paths)
        method = costliest(splits, costs, asked)
        field = next((name for name in ("permutations", "nodes") if name in method.parameters), "method")
        raise InvalidParameter(
            f"'{method.name}' at this layer would take about {seconds:.3g} s for this request, more than "
            f"the {limit_s:g} s that a request may take",
            field=field,
            takes="what fits the time: another method or layer, fewer targets or permutations, or metrics=false",
            estimate_s=round(seconds, 1),
            limit_s=limit_s,
        )

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

    def _measure(self, split: SplitNetwork) -> Costs:
        costs = measure_costs(split, self._noise(), self._image_s)
        self._image_s = costs.image_s
        return costs

    def _noise(self) -> Tensor:
        height, width = self.network.preprocessing.input_size
        noise = torch.randn(1, 3, height, width, generator=torch.Generator().manual_seed(0))
        return noise.to(self.network.device)
