"""Loaded networks: real predictions, frozen, complete; and clear words where the parts do not go together."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from skimage import data
from torchvision.transforms import v2

from service_models import CATALOGUE, Network, NetworkSpec, Preprocessing, Random, load_network, resolve
from service_models.errors import ArchitectureError, ConfigError, UnknownLayer, WeightsError
from service_models.libraries import build
from service_models.spec import CheckpointFile

CPU = torch.device("cpu")
RANDOM = NetworkSpec("net", "torchvision", "mobilenet_v3_small", weights=Random())


@pytest.fixture(scope="module")
def lite0() -> Network:
    return load_network(CATALOGUE["tf_efficientnet_lite0"], CPU)


def test_the_embedded_default_sees_the_cat(lite0: Network) -> None:
    view = v2.Compose(
        [
            v2.Resize(lite0.preprocessing.resize_size, v2.InterpolationMode(lite0.preprocessing.interpolation)),
            v2.CenterCrop(lite0.preprocessing.input_size),
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(lite0.preprocessing.mean, lite0.preprocessing.std),
        ]
    )
    logits = lite0.model(view(Image.fromarray(data.chelsea()))[None])

    # Tabby, tiger cat, Persian, Siamese, Egyptian cat.
    assert 281 <= int(logits.argmax()) <= 285
    assert float(logits.softmax(dim=1)[:, 281:286].sum()) > 0.5


def test_a_loaded_network_is_complete_and_frozen(lite0: Network) -> None:
    assert (lite0.name, lite0.weights, lite0.device) == ("tf_efficientnet_lite0", "embedded", CPU)
    assert dict(lite0.layers) == {"pre_gap": "bn2", "last_conv": "conv_head"}
    assert len(lite0.labels) == 1000
    assert not lite0.model.training
    assert not any(parameter.requires_grad for parameter in lite0.model.parameters())


def test_layers_that_are_not_named_are_inferred() -> None:
    network = load_network(replace(RANDOM, layers={"last_conv": "features.11.block.3.0"}), CPU)

    assert dict(network.layers) == {"pre_gap": "features.12", "last_conv": "features.11.block.3.0"}


@pytest.mark.parametrize("name", ["inception_v3", "googlenet"])
def test_networks_with_auxiliary_heads_answer_with_logits_alone(name: str) -> None:
    network = load_network(replace(resolve(name), weights=Random()), CPU)

    logits = network.model(torch.zeros(2, 3, *network.preprocessing.input_size))
    assert logits.shape == (2, 1000)


@pytest.mark.parametrize("library", ["torchvision", "timm"])
def test_a_users_own_checkpoint_with_its_own_classes(library: str, tmp_path: Path) -> None:
    spec = NetworkSpec(
        "birds",
        library,  # type: ignore[arg-type]
        "resnet18",
        weights=CheckpointFile(tmp_path / "birds.pth"),
        labels=("magpie", "robin", "wren"),
        classes=3,
    )
    saved = build(spec)
    torch.save({"state_dict": saved.state_dict()}, tmp_path / "birds.pth")

    network = load_network(spec, CPU)

    images = torch.rand(2, 3, 224, 224)
    with torch.no_grad():
        torch.testing.assert_close(network.model(images), saved.eval()(images))
    assert (network.labels, network.weights) == (("magpie", "robin", "wren"), "file/birds.pth")
    assert network.layers["pre_gap"] == "layer4"


def test_a_checkpoint_with_other_classes_says_how_many(tmp_path: Path) -> None:
    spec = NetworkSpec("birds", "timm", "mobilenetv3_small_050", classes=37)
    torch.save(build(spec).state_dict(), tmp_path / "birds.pth")

    with pytest.raises(WeightsError, match=r"file has \(37, 1024\), network has \(1000, 1024\).*set classes = 37"):
        load_network(replace(spec, classes=None), CPU, tmp_path)


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "vit_b_32"])
def test_transformers_are_built_for_the_configured_input(name: str) -> None:
    view = Preprocessing((160, 160), 160)

    network = load_network(replace(resolve(name), weights=Random(), preprocessing=view), CPU)

    assert network.model(torch.zeros(1, 3, 160, 160)).shape == (1, 1000)


@pytest.mark.parametrize(
    ("spec", "error", "message"),
    [
        (replace(RANDOM, layers={"pre_gap": "features.99"}), UnknownLayer, r"no module 'features.99'; close paths: f"),
        (replace(RANDOM, labels=("a", "b")), ConfigError, "2 labels for a network with 1000 classes"),
        (
            NetworkSpec("v", "torchvision", "vit_b_32", weights=Random(), preprocessing=Preprocessing((96, 64), 96)),
            ArchitectureError,
            "does not take 96 x 64 px",
        ),
        (
            replace(resolve("vit_small_patch14_dinov2"), weights=Random()),
            ArchitectureError,
            "a backbone without a classifier",
        ),
    ],
)
def test_parts_that_do_not_go_together(spec: NetworkSpec, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        load_network(spec, CPU)


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    state = build(RANDOM).state_dict()
    state["classifier.3.bias"][0] = torch.nan
    torch.save(state, tmp_path / "net.pth")

    with pytest.raises(ArchitectureError, match="net: its logits are not finite"):
        load_network(replace(RANDOM, weights=CheckpointFile(tmp_path / "net.pth")), CPU)
