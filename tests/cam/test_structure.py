"""What the experiments find out about heads, real and made up."""

from dataclasses import replace
from functools import lru_cache

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from app.cam.coalitions import Coalitions
from app.cam.game import Game, GameRow, PassCounter
from app.cam.heads import PooledLinearHead
from app.cam.splitting import split_network
from app.cam.utilities import UTILITIES
from service_models import Random, load_network, resolve
from tests.cam.games import GRID, PoolAndClassify, linear_head, smooth_head, split_tiny


def flattened(channels: int = 4) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(channels * GRID**2, 6), nn.Linear(6, 3))


HEADS = {
    "pooling and a linear layer": (PoolAndClassify, (True, True, True, True)),
    "a kink, pooling and a linear layer": (
        lambda: nn.Sequential(nn.BatchNorm2d(4), nn.ReLU6(), PoolAndClassify()),
        (False, False, True, True),
    ),
    "channels mixed at each position": (
        lambda: nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU(), PoolAndClassify()),
        (False, False, True, False),
    ),
    "positions mixed in each channel": (
        lambda: nn.Sequential(nn.Conv2d(4, 4, 3, padding=1, groups=4), nn.ReLU(), PoolAndClassify()),
        (False, False, False, True),
    ),
    "a linear layer on all positions": (linear_head, (False, False, True, False)),
    "linear layers on all positions": (flattened, (False, False, True, False)),
    "a curve after pooling": (
        lambda: nn.Sequential(PoolAndClassify(4, 6), nn.ReLU(), nn.Linear(6, 3)),
        (True, False, False, False),
    ),
    "a curve after pooling, as wide as the layer": (
        lambda: nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Tanh(), nn.Linear(4, 3)),
        (True, False, False, True),
    ),
    "the largest position": (
        lambda: nn.Sequential(nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(4, 3)),
        (False, False, False, True),
    ),
    "convolution and a curve": (smooth_head, (False, False, False, False)),
}


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("seed", range(3))
def test_a_head_is_what_it_was_made_to_be(name: str, seed: int) -> None:
    make, (pools, is_classifier, additive, channelwise) = HEADS[name]
    torch.manual_seed(seed)
    split, _ = split_tiny(make(), seed)
    assert split.structure.pools == pools
    assert isinstance(split.structure, PooledLinearHead) == is_classifier
    assert split.structure.additive == additive
    assert split.structure.channelwise == channelwise


@lru_cache(maxsize=1)
def catalogue_network(name: str) -> nn.Module:
    spec = resolve(name)
    if name != "tf_efficientnet_lite0":
        spec = replace(spec, weights=Random(0))
    return load_network(spec, torch.device("cpu"), None).model


@pytest.mark.parametrize(
    ("network", "layer", "additive", "channelwise"),
    [
        ("resnet50", "layer4.2.conv3", True, True),
        ("resnet18", "layer4", True, True),
        ("resnet18", "layer4.1.conv2", True, True),
        ("resnet18", "layer4.0.conv2", False, False),
        ("efficientnet_b0", "features.8.0", True, True),
        ("efficientnet_b0", "features.7.0.block.1", False, False),
        ("mobilenet_v2", "features.18.0", True, True),
        ("vgg16", "features.30", False, False),
        ("swin_tiny_patch4_window7_224", "norm", True, True),
        ("swin_tiny_patch4_window7_224", "layers.3.blocks.1.norm1", False, False),
        ("tf_efficientnet_lite0", "bn2", True, True),
        ("tf_efficientnet_lite0", "conv_head", True, True),
    ],
)
def test_the_networks_of_the_catalogue(
    monkeypatch: pytest.MonkeyPatch, network: str, layer: str, additive: bool, channelwise: bool
) -> None:
    model = catalogue_network(network)
    split = split_network(model, layer, (224, 224))
    assert (split.structure.additive, split.structure.channelwise) == (additive, channelwise)
    if additive:
        # Sampling takes the short way, which runs no head, and what it adds up are the logits.
        image = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
        row = GameRow(0, 1, UTILITIES["rest"])
        game = Game(split, image, split.trunk(image), (row,), torch.zeros(1), PassCounter())
        coalitions = Coalitions(game, game.state_of(0), [0])
        half = torch.randint(2, (3, game.players), generator=torch.Generator().manual_seed(1)).float()
        rows = game.state_of(0).take(torch.zeros(3, dtype=torch.int64))
        masked = rows.with_activations(rows.activations * half.reshape(3, 1, *rows.activations.shape[2:]))
        expected = split.head(masked)
        scale = expected.abs().max().item()
        monkeypatch.delattr(type(split), "_run_head")
        torch.testing.assert_close(coalitions.logits(half), expected, rtol=0, atol=1e-4 * scale)


def test_the_last_features_are_those_of_the_linear_layer_that_makes_the_logits() -> None:
    head = nn.Sequential(nn.BatchNorm2d(4), nn.ReLU(), PoolAndClassify())
    split, state = split_tiny(head)
    found = split.last_layer(state)
    assert found is not None
    features, weights, logits = found
    with torch.no_grad():
        expected = head[1](head[0](state.activations)).mean(dim=(2, 3))
    torch.testing.assert_close(features, expected)
    assert weights is head[2].fc.weight
    torch.testing.assert_close(logits, split.head(state))


class LinearByName(nn.Module):
    """Linear layers whose arguments are given by name, as some networks of timm do."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 3)

    def forward(self, activations: Tensor) -> Tensor:
        means = activations.mean(dim=(2, 3))
        return functional.linear(input=means, weight=self.fc.weight, bias=self.fc.bias)


def test_a_linear_layer_whose_arguments_are_given_by_name_is_seen() -> None:
    split, state = split_tiny(nn.Sequential(nn.ReLU(), LinearByName()))
    found = split.last_layer(state)
    assert found is not None
    torch.testing.assert_close(found.features, state.activations.relu().mean(dim=(2, 3)))
    assert split.structure.channelwise


@pytest.mark.parametrize(
    "head",
    [
        nn.Sequential(PoolAndClassify(), nn.Tanh()),
        nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(4, 3, 1), nn.Flatten()),
    ],
)
def test_a_head_that_does_not_end_in_a_linear_layer_has_no_last_features(head: nn.Module) -> None:
    split, state = split_tiny(head)
    assert split.last_layer(state) is None
    assert not split.structure.channelwise
