"""A configured layer that cannot be explained ends the start in words."""

from collections.abc import Iterator

import pytest
import torch

from app.runtime.served import serve_network
from app.runtime.worker import DeviceWorker
from app.settings import Settings
from service_models import NetworkError, NetworkSpec, Random


@pytest.fixture
def worker() -> Iterator[DeviceWorker]:
    worker = DeviceWorker(torch.device("cpu"))
    yield worker
    worker.close()


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("layer4+relu", r"birds: layers: there is no 'layer4\+relu': the network applies no ReLU to what 'layer4' ret"),
        ("global_pool", r"birds: layers: the output of 'global_pool' \(96\) has no spatial grid"),
    ],
)
def test_it_names_the_network_and_the_layer(worker: DeviceWorker, path: str, words: str) -> None:
    spec = NetworkSpec("birds", "timm", "test_resnet", Random(), classes=3, layers={"pre_gap": path})
    with pytest.raises(NetworkError, match=words):
        serve_network(spec, worker, Settings(trunk="eager"))
