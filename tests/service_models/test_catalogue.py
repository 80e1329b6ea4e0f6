"""The catalogue: its networks, their layers, their weights, their views."""

import pytest
import timm
import torch
from torchvision.models import get_model_weights

from app.evaluation import published
from service_models import CATALOGUE, Preprocessing
from service_models.calibration import calibrate_random_weights
from service_models.grid import grid_of
from service_models.layers import infer_layers
from service_models.libraries import build
from service_models.preprocessing import library_preprocessing
from service_models.spec import Embedded, Hub

PAPER = list(published.NETWORKS.values())
# The large ones share their code, layers and tags with the small ones; only time tells them apart.
BUILT = [
    "tf_efficientnet_lite0",
    "resnet18",
    "resnet50",
    "vgg16",
    "efficientnet_b0",
    "mobilenet_v2",
    "swin_tiny_patch4_window7_224",
]


def test_holds_the_twelve_networks_of_the_paper_and_the_embedded_default_first() -> None:
    assert next(iter(CATALOGUE)) == "tf_efficientnet_lite0"
    assert CATALOGUE.keys() >= set(PAPER)
    assert len(set(PAPER)) == 12


@pytest.mark.parametrize("name", PAPER)
def test_networks_of_the_paper_have_its_evaluation_view(name: str) -> None:
    assert CATALOGUE[name].preprocessing == Preprocessing((224, 224), 256, "bilinear")


def test_the_embedded_default_has_its_own_view() -> None:
    spec = CATALOGUE["tf_efficientnet_lite0"]

    assert spec.weights == Embedded()
    view = library_preprocessing(spec)
    assert (view.resize_size, view.interpolation, view.mean, view.std) == (
        256,
        "bicubic",
        (0.5,) * 3,
        (0.5,) * 3,
    )


@pytest.mark.parametrize("name", [name for name in CATALOGUE if name != "tf_efficientnet_lite0"])
def test_hub_weights_exist_in_the_library(name: str) -> None:
    spec = CATALOGUE[name]
    assert isinstance(spec.weights, Hub)
    if spec.library == "torchvision":
        assert spec.weights.tag in [entry.name for entry in get_model_weights(name)]
    else:
        assert f"{name}.{spec.weights.tag}" in timm.list_pretrained()


@pytest.mark.parametrize("name", CATALOGUE)
def test_layers_are_modules_of_the_network(name: str) -> None:
    spec = CATALOGUE[name]
    with torch.device("meta"):
        model = build(spec)
    for path in (spec.layers or {}).values():
        model.get_submodule(path)


@pytest.mark.parametrize("name", BUILT)
def test_inference_finds_the_layers_of_the_catalogue(name: str) -> None:
    spec = CATALOGUE[name]
    stated = dict(spec.layers or {})
    model = calibrate_random_weights(build(spec), 0, (224, 224))

    inferred = infer_layers(model, (224, 224))

    if "last_norm" in stated:
        # The paper takes the norm before the attention of the last block, not the one after it.
        assert inferred.pop("last_norm") == stated.pop("last_norm").replace("norm1", "norm2")
    assert inferred == stated


@pytest.mark.parametrize("name", BUILT)
def test_every_named_layer_has_a_grid_of_seven_by_seven_or_its_finer_input(name: str) -> None:
    spec = CATALOGUE[name]
    model = build(spec).eval()
    grids = []
    for path in (spec.layers or {}).values():
        hook = model.get_submodule(path).register_forward_hook(
            lambda _module, _inputs, output: grids.append(grid_of(model, output, (224, 224)))
        )
        with torch.no_grad():
            model(torch.zeros(1, 3, 224, 224))
        hook.remove()
    sizes = [(grid.height, grid.width) for grid in grids if grid is not None]
    # The last convolution of VGG-16 comes before a pooling.
    assert sizes == [(7, 7), (14, 14) if name == "vgg16" else (7, 7)]
