"""A loaded network as the service holds it: on its worker, with its splits."""

import logging
from collections import OrderedDict

import torch

from app.cam.engine import explain
from app.cam.methods import METHODS
from app.cam.questions import Question
from app.cam.split import SplitNetwork
from app.cam.splitting import split_network
from app.cam.utilities import UTILITIES
from app.runtime.worker import DeviceWorker
from service_models import Network

_LOG = logging.getLogger(__name__)
_OTHER_SPLITS = 16


class ServedNetwork:
    """A network with its worker; its splits are made and used on the worker's thread only.

    Attributes:
        network: the loaded network.
        worker: owner of its device.
    """

    def __init__(self, network: Network, worker: DeviceWorker) -> None:
        self.network = network
        self.worker = worker
        self._named: dict[str, SplitNetwork] = {}
        self._others: OrderedDict[str, SplitNetwork] = OrderedDict()

    @property
    def default_layer(self) -> str:
        """`pre_gap`; for a network that pools by class token, the first layer it names."""
        layers = self.network.layers
        return "pre_gap" if "pre_gap" in layers or not layers else next(iter(layers))

    def warm(self) -> None:
        """Splits the network at its named layers and runs each once, as requests will."""
        height, width = self.network.preprocessing.input_size
        images = torch.randn(1, 3, height, width, generator=torch.Generator().manual_seed(0))
        for path in self.network.layers.values():
            split = split_network(self.network.model, path, (height, width))
            question = Question(0, METHODS["shapleycam"], UTILITIES["rest"])
            explain(split, images.to(self.network.device), [question])
            self._named[path] = split

    def split_at(self, path: str) -> SplitNetwork:
        """The split at a module path.

        Other layers than the named ones are kept in a small cache: they cost a few forward passes to make.

        Raises:
            LayerError: the module cannot be a target layer.
        """
        if path in self._named:
            return self._named[path]
        if path not in self._others:
            self._others[path] = split_network(self.network.model, path, self.network.preprocessing.input_size)
            if len(self._others) > _OTHER_SPLITS:
                self._others.popitem(last=False)
        self._others.move_to_end(path)
        return self._others[path]
