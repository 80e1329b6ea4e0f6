"""DeepLIFT contributions close their sum on networks of the catalogue."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import Tensor

from app.cam.errors import MethodError
from app.cam.lift import contributions
from app.cam.splitting import split_network
from service_models import CATALOGUE, Network, load_network
from service_models.spec import Random
from testing.photographs import photographs
from tests.cam.lift_heads import available, utility_of

EMBEDDED = "tf_efficientnet_lite0"


@pytest.fixture(scope="module", params=[EMBEDDED, "resnet18", "vgg16", "efficientnet_b0", "mobilenet_v2"])
def network(request: pytest.FixtureRequest) -> Network:
    return load(request.param)


def load(name: str) -> Network:
    spec = CATALOGUE[name]
    return load_network(spec if name == EMBEDDED else replace(spec, weights=Random(0)), torch.device("cpu"), None)


def cat(network: Network) -> Tensor:
    return photographs(network.preprocessing, ("chelsea.png",))


def assert_closed(network: Network, layer: str) -> None:
    split = split_network(network.model, network.layers[layer], network.preprocessing.input_size)
    state = split.trunk(cat(network))
    with torch.no_grad():
        target = int(split.head(state).argmax())
    expected = available(split, state, utility_of("rest", target))
    assert expected.abs() > 1
    for contributions_of in (split.lift_contributions, partial(contributions, split)):
        found = contributions_of(state, utility_of("rest", target))
        assert found.shape == (1, split.grid.channels)
        torch.testing.assert_close(found.sum(dim=1).double(), expected, rtol=1e-4, atol=0)


def test_the_sum_closes_at_every_named_layer(network: Network) -> None:
    for layer in network.layers:
        assert_closed(network, layer)


def test_a_transformer_is_refused_where_attention_follows_and_explained_after_it() -> None:
    network = load("swin_tiny_patch4_window7_224")
    assert_closed(network, "pre_gap")
    split = split_network(network.model, network.layers["last_norm"], network.preprocessing.input_size)
    with pytest.raises(MethodError, match=r"no rule for matmul .*follows 'layers\.3\.blocks\.1\.norm1'"):
        split.lift_contributions(split.trunk(cat(network)), utility_of("rest"))
