"""Layers that nobody named are found by running the network."""

import pytest
import timm
import torch
from torch import Tensor, nn

from service_models import resolve
from service_models.calibration import calibrate_random_weights
from service_models.errors import UnknownLayer
from service_models.layers import check_layers, infer_layers
from service_models.libraries import build


@pytest.mark.parametrize(
    ("name", "layers"),
    [
        (
            "densenet121",
            {"pre_gap": "features.norm5+relu", "last_conv": "features.denseblock4.denselayer16.conv2"},
        ),
        (
            "convnext_tiny",
            {
                "pre_gap": "features.7",
                "last_conv": "features.7.2.block.0",
                "last_norm": "features.7.2.block.2",
            },
        ),
        ("vit_tiny_patch16_224", {"last_norm": "blocks.11.norm1"}),
        ("deit_tiny_distilled_patch16_224", {"last_norm": "blocks.11.norm1"}),
        ("mobilenetv3_large_100", {"pre_gap": "blocks", "last_conv": "blocks.6.0.conv"}),
        ("regnet_y_400mf", {"pre_gap": "trunk_output", "last_conv": "trunk_output.block4.block4-5.f.c.0"}),
        ("squeezenet1_1", {"pre_gap": "classifier.2", "last_conv": "classifier.1"}),
        ("alexnet", {"pre_gap": "features.12", "last_conv": "features.10"}),
        ("googlenet", {"pre_gap": "inception5b", "last_conv": "inception5b.branch4.1.conv"}),
        ("levit_128s", {"pre_gap": "stages"}),
        ("resmlp_12_224", {"pre_gap": "norm"}),
    ],
)
def test_layers_of_networks_outside_the_catalogue(name: str, layers: dict[str, str]) -> None:
    model = calibrate_random_weights(build(resolve(name)), 0, (224, 224))

    assert infer_layers(model, (224, 224)) == layers


class _Tiny(nn.Module):
    """A convolution, an in-place ReLU, pooling; `dead` cuts the logits off from the grid."""

    def __init__(self, dead: bool = False) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, stride=4, padding=1)
        self.conv = nn.Conv2d(4, 8, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)
        self.pool = nn.AdaptiveAvgPool2d(2)
        self.fc = nn.Linear(32, 5)
        self.dead = dead

    def forward(self, images: Tensor) -> Tensor:
        activations = self.relu(self.conv(self.stem(images)))
        if self.dead:
            activations = activations * torch.eye(8)[0, 0] * 0 + activations[:, :, :1, :1]
        return self.fc(self.pool(activations).flatten(1))


def test_an_in_place_relu_is_told_from_the_convolution_whose_tensor_it_returns() -> None:
    assert infer_layers(_Tiny().eval(), (32, 32)) == {"pre_gap": "relu", "last_conv": "conv"}


class _Rectified(nn.Module):
    """A normalisation whose output passes through a ReLU on its way to the pooling, alone or beside itself."""

    def __init__(self, in_place: bool, beside: float) -> None:
        super().__init__()
        self.conv, self.norm, self.fc = nn.Conv2d(3, 4, 3, stride=4, padding=1), nn.BatchNorm2d(4), nn.Linear(4, 5)
        self.in_place, self.beside = in_place, beside

    def forward(self, images: Tensor) -> Tensor:
        maps = self.norm(self.conv(images))
        rectified = nn.functional.relu(maps, inplace=self.in_place)
        if self.beside:
            rectified = rectified + self.beside * maps
        return self.fc(rectified.mean((2, 3)))


@pytest.mark.parametrize(
    ("in_place", "beside", "path"), [(False, 0.0, "norm+relu"), (True, 0.0, "norm+relu"), (False, 0.1, "norm")]
)
def test_a_relu_without_a_module_is_part_of_the_path_where_all_passes_through_it(
    in_place: bool, beside: float, path: str
) -> None:
    torch.manual_seed(0)

    assert infer_layers(_Rectified(in_place, beside).eval(), (32, 32)) == {"pre_gap": path}


def test_the_timm_network_whose_module_has_the_relu_in_it_keeps_the_module() -> None:
    model = calibrate_random_weights(timm.create_model("densenet121", num_classes=5), 0, (64, 64))

    assert infer_layers(model, (64, 64))["pre_gap"] == "features.norm5"


def test_a_grid_of_which_one_position_counts_is_no_layer() -> None:
    assert infer_layers(_Tiny(dead=True).eval(), (32, 32)) == {}


def test_inference_leaves_no_hooks_and_no_gradients() -> None:
    model = _Tiny().eval().requires_grad_(requires_grad=False)

    infer_layers(model, (32, 32))

    assert not any(module._forward_hooks for module in model.modules())
    assert not any(parameter.requires_grad or parameter.grad is not None for parameter in model.parameters())


def test_the_relu_after_a_module_is_a_layer_as_the_module_is() -> None:
    check_layers(_Tiny(), {"pre_gap": "conv+relu"}, "birds")
    with pytest.raises(UnknownLayer, match=r"birds: pre_gap: .*'convv\+relu'; close paths: relu, conv"):
        check_layers(_Tiny(), {"pre_gap": "convv+relu"}, "birds")


def test_a_layer_that_is_no_module_is_refused_with_close_paths() -> None:
    with pytest.raises(UnknownLayer, match=r"birds: last_conv: .*'convv'; close paths: conv"):
        check_layers(_Tiny(), {"last_conv": "convv"}, "birds")
