"""Small networks in double precision, and the embedded one, for the tests of masking, layers and smoothing."""

from collections.abc import Iterator

import pytest
import timm
import torch
from torch import Tensor, nn

from app.cam.split import SplitNetwork
from app.cam.splitting import split_network
from service_models import Network, calibrate_random_weights, load_network, resolve
from service_models.calibration import structured_images
from tests.cam.one_image import EMBEDDED, SIZE, Case, predicted

SWIN = {"img_size": SIZE, "embed_dim": 16, "depths": (1, 1, 1, 2), "num_heads": (1, 2, 4, 8)}
LAYERS = {
    "resnet": ["layer2", "layer3.0.conv2", "layer4", "layer4.0.conv2"],
    "efficientnet": ["conv_head", "bn2"],
    "swin": ["norm", "layers.3.blocks.1.norm1"],
}


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Thousands of passes of a millisecond each lose more by waiting for threads than they gain."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def networks() -> dict[str, nn.Module]:
    """Small relatives of the paper's networks, in double precision, so that only definitions can differ."""
    models = {
        "resnet": timm.create_model("test_resnet", num_classes=10),
        "efficientnet": timm.create_model("test_efficientnet", num_classes=10),
        "swin": timm.create_model("swin_tiny_patch4_window7_224", num_classes=10, **SWIN),
    }
    return {
        name: calibrate_random_weights(model, 0, SIZE).double().requires_grad_(False) for name, model in models.items()
    }


@pytest.fixture(scope="module")
def resnet(networks: dict[str, nn.Module]) -> nn.Module:
    return networks["resnet"]


@pytest.fixture(scope="module")
def images() -> Tensor:
    return structured_images(3, SIZE, torch.Generator().manual_seed(3)).double()


@pytest.fixture(scope="module")
def embedded() -> Network:
    """Of photographs; in double precision, since rounding at the kinks of ReLU6 turns gradients on and off."""
    network = load_network(resolve(EMBEDDED, {}), torch.device("cpu"), None)
    network.model.double()
    return network


@pytest.fixture(scope="module")
def embedded_splits(embedded: Network) -> dict[str, SplitNetwork]:
    size = embedded.preprocessing.input_size
    return {path: split_network(embedded.model, path, size) for path in ("blocks.2", "blocks.4", "conv_head", "bn2")}


@pytest.fixture(scope="module", params=[(name, layer) for name, layers in LAYERS.items() for layer in layers], ids=str)
def case(request: pytest.FixtureRequest, networks: dict[str, nn.Module], images: Tensor) -> Case:
    name, layer = request.param
    return Case(networks[name], layer, images[0], predicted(networks[name], images[0]), name == "swin")
