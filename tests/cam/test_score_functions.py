"""What score functions make of logits; tests/cam/test_own_networks.py has whole networks with them."""

from dataclasses import replace

import pytest
import torch

from app.cam.utilities import CANONICAL, UTILITIES, utilities_of
from service_models import SIGMOID, Network, find_networks, load_network

CONFIG = """
[networks.findings]
architecture = "timm:densenet121"
weights = "random"
classes = 14
scores = "sigmoid"

[networks.malignant]
architecture = "torchvision:efficientnet_b0"
weights = "random"
classes = 1
scores = "sigmoid"
labels = ["malignant"]
"""


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Network]:
    path = tmp_path_factory.mktemp("scores") / "networks.toml"
    path.write_text(CONFIG)
    loaded = (load_network(spec, torch.device("cpu")) for spec in find_networks(["findings", "malignant"], path))
    return {network.name: replace(network, model=network.model.double()) for network in loaded}


@pytest.mark.parametrize("utility", UTILITIES)
def test_derivatives_of_the_utilities_are_those_of_the_formulas(utility: str) -> None:
    y = torch.linspace(-8, 8, 9, dtype=torch.float64).requires_grad_()
    s = torch.sigmoid(y.detach())
    first, second = {
        "pre-softmax": (torch.ones_like(s), torch.zeros_like(s)),
        "post-softmax": (s * (1 - s), s * (1 - s) * (1 - 2 * s)),
        "log-softmax": (1 - s, -s * (1 - s)),
        "rest": (2 - s, -s * (1 - s)),
    }[utility]
    logits = torch.stack((torch.zeros_like(y), y), dim=1)
    values = utilities_of(SIGMOID)[utility].of(logits, torch.ones(9, dtype=torch.int64))
    (gradient,) = torch.autograd.grad(values.sum(), y, create_graph=True)
    torch.testing.assert_close(gradient.detach(), first, rtol=1e-12, atol=1e-15)
    if gradient.requires_grad:
        (curvature,) = torch.autograd.grad(gradient.sum(), y, allow_unused=True, materialize_grads=True)
        torch.testing.assert_close(curvature, second, rtol=1e-10, atol=1e-13)


def test_a_logit_far_from_zero_keeps_its_logarithm() -> None:
    logits = torch.tensor([[-900.0, 0.0]])
    value = utilities_of(SIGMOID)["log-softmax"].of(logits, torch.tensor([0]))
    assert value.item() == -900.0


def test_one_logit_has_two_labels_whose_probabilities_sum_to_1(networks: dict[str, Network]) -> None:
    network = networks["malignant"]
    assert network.labels == ("not malignant", "malignant")
    assert not network.is_multi_label
    assert networks["findings"].is_multi_label
    logits = network.model(torch.randn(3, 3, 224, 224).double())
    assert logits.shape == (3, 2)
    torch.testing.assert_close(logits[:, 0], -logits[:, 1])
    torch.testing.assert_close(network.scores.probabilities(logits).sum(dim=1), torch.ones(3, dtype=torch.float64))


def test_both_names_of_a_utility_mean_the_same() -> None:
    aliases = {"logit": "pre-softmax", "probability": "post-softmax", "log-probability": "log-softmax"}
    assert {**{name: name for name in UTILITIES}, **aliases} == CANONICAL
