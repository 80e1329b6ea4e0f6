"""Networks with sigmoids, and with a single logit, against plain PyTorch in float64."""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from app.cam.engine import explain
from app.cam.methods import METHODS
from app.cam.metrics import Metrics
from app.cam.questions import Explanation, Question
from app.cam.splitting import split_network
from app.cam.utilities import CANONICAL, UTILITIES, utilities_of
from app.cam.work import SamplingOptions
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

[networks.tiny]
architecture = "timm:test_resnet"
weights = "random"
classes = 5
scores = "sigmoid"
preprocessing = { input_size = 64, resize_size = 64 }
"""
PLAIN: dict[str, Callable[[Tensor], Tensor]] = {
    "pre-softmax": lambda y: y,
    "post-softmax": torch.sigmoid,
    "log-softmax": logsigmoid,
    "rest": lambda y: y + logsigmoid(y),
}


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Network]:
    path = tmp_path_factory.mktemp("scores") / "networks.toml"
    path.write_text(CONFIG)
    loaded = (
        load_network(spec, torch.device("cpu")) for spec in find_networks(["findings", "malignant", "tiny"], path)
    )
    return {network.name: replace(network, model=network.model.double()) for network in loaded}


@dataclass(frozen=True)
class Plain:
    """U, its gradient and its Hessian-vector product at a layer, by a forward hook and autograd."""

    activations: Tensor
    gradients: Tensor
    hvp: Tensor
    value: float


def plain(network: Network, layer: str, image: Tensor, target: int, utility: str) -> Plain:
    model, module, seen = network.model, network.model.get_submodule(layer), []

    def as_leaf(_module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
        seen.append(output.detach().requires_grad_())
        return seen[-1].clone()

    handle = module.register_forward_hook(as_leaf)
    try:
        value = PLAIN[utility](model(image)[0, target])
    finally:
        handle.remove()
    (leaf,) = seen
    (gradients,) = torch.autograd.grad(value, leaf, create_graph=True)
    hvp = torch.zeros_like(leaf)
    if gradients.requires_grad:
        (found,) = torch.autograd.grad(gradients, leaf, leaf.detach(), allow_unused=True)
        hvp = hvp if found is None else found
    return Plain(leaf.detach()[0], gradients.detach()[0], hvp[0], value.item())


def attribution_of(method: str, plainly: Plain) -> Tensor:
    a, g, w = plainly.activations, plainly.gradients, plainly.gradients - plainly.hvp / 2
    mean = (1, 2)
    return {
        "gradcam": lambda: (g.mean(mean)[:, None, None] * a).sum(0),
        "hirescam": lambda: (g * a).sum(0),
        "gradcam-e": lambda: (g * a).relu().sum(0),
        "layercam": lambda: (g.relu() * a).sum(0),
        "xgradcam": lambda: (((g * a) / (a.sum(mean)[:, None, None] + 1e-7)).sum(mean)[:, None, None] * a).sum(0),
        "shapleycam": lambda: (w.mean(mean)[:, None, None] * a).sum(0),
        "shapleycam-h": lambda: (w * a).sum(0),
        "shapleycam-e": lambda: (w * a).relu().sum(0),
    }[method]()


GRADIENT_METHODS = ("gradcam", "hirescam", "gradcam-e", "layercam", "shapleycam", "shapleycam-h", "shapleycam-e")


@pytest.mark.parametrize(("name", "targets"), [("findings", (3,)), ("malignant", (0, 1))])
@pytest.mark.parametrize("layer", ["pre_gap", "last_conv"])
def test_gradient_methods_equal_hooks_and_autograd(
    networks: dict[str, Network], name: str, layer: str, targets: tuple[int, ...]
) -> None:
    network = networks[name]
    size, path = network.preprocessing.input_size, network.layers[layer]
    image = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(1)).double()
    split = split_network(network.model, path, size)
    asked = list(itertools.product(GRADIENT_METHODS, PLAIN, targets))
    questions = [Question(0, METHODS[m], utilities_of(SIGMOID)[u], target) for m, u, target in asked]
    found = explain(split, image, questions, metrics=False).explanations
    answers = {pair: plain(network, path, image, pair[1], pair[0]) for pair in itertools.product(PLAIN, targets)}
    for (method, utility, target), explanation in zip(asked, found, strict=True):
        plainly = answers[utility, target]
        expected = attribution_of(method, plainly)
        error = (explanation.attribution - expected).abs().max() / expected.abs().max()
        assert error < 1e-6, (method, utility, target)
        assert explanation.utility_value == pytest.approx(plainly.value, rel=1e-9)


@pytest.mark.parametrize("utility", PLAIN)
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


def head_of(network: Network, layer: str, image: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """The activations of one image, and the logits that the network makes of others in their place."""
    module, seen = network.model.get_submodule(layer), []
    handle = module.register_forward_hook(lambda _module, _inputs, output: seen.append(output.detach()))
    network.model(image)
    handle.remove()

    def head(activations: Tensor) -> Tensor:
        handle = module.register_forward_hook(lambda _module, _inputs, _output: activations.clone())
        try:
            return network.model(image.expand(len(activations), -1, -1, -1))
        finally:
            handle.remove()

    return seen[0], head


@pytest.mark.parametrize("utility", PLAIN)
@pytest.mark.parametrize("layer", ["pre_gap", "last_conv"])
def test_values_of_the_game_equal_enumeration_and_integration(
    networks: dict[str, Network], layer: str, utility: str
) -> None:
    network, target = networks["tiny"], 2
    path, size = network.layers[layer], network.preprocessing.input_size
    image = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(2)).double()
    activations, head = head_of(network, path, image)
    height, width = activations.shape[2:]
    players = height * width
    assert players <= 4
    subsets = torch.tensor(list(itertools.product((0.0, 1.0), repeat=players)), dtype=torch.float64)
    with torch.no_grad():
        worth = PLAIN[utility](head(activations * subsets.reshape(-1, 1, height, width))[:, target])
    value = {tuple(map(int, row)): worth[n].item() for n, row in enumerate(subsets.tolist())}
    shapley = torch.zeros(players, dtype=torch.float64)
    for player in range(players):
        for row in value:
            if not row[player]:
                joined = (*row[:player], 1, *row[player + 1 :])
                weight = math.factorial(sum(row)) * math.factorial(players - 1 - sum(row)) / math.factorial(players)
                shapley[player] += weight * (value[joined] - value[row])
    split = split_network(network.model, path, size)
    sampling = SamplingOptions(permutations=64, nodes=32)
    questions = [
        Question(0, METHODS[name], utilities_of(SIGMOID)[utility], target, sampling=sampling)
        for name in ("shapley-sampling", "aumann-shapley")
    ]
    sampled, integrated = explain(split, image, questions, metrics=False).explanations
    torch.testing.assert_close(sampled.attribution.flatten().double(), shapley, rtol=1e-5, atol=1e-8)

    nodes, weights = (torch.from_numpy(part) for part in np.polynomial.legendre.leggauss(32))
    scaled = ((nodes[:, None, None, None] + 1) / 2 * activations).requires_grad_()
    (slopes,) = torch.autograd.grad(PLAIN[utility](head(scaled)[:, target]).sum(), scaled)
    by_hand = (activations * torch.einsum("n,nchw->chw", weights / 2, slopes)).sum(dim=1)[0]
    torch.testing.assert_close(integrated.attribution.double(), by_hand, rtol=1e-5, atol=1e-7)
    available = value[(1,) * players] - value[(0,) * players]
    assert sampled.attribution.sum().item() == pytest.approx(available, rel=1e-5, abs=1e-7)


def test_liftcam_of_a_pooled_linear_head_shares_the_gain_by_the_change_of_the_logit(
    networks: dict[str, Network],
) -> None:
    network = networks["malignant"]
    path, size = network.layers["pre_gap"], network.preprocessing.input_size
    image = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(3)).double()
    activations, _ = head_of(network, path, image)
    (linear,) = [module for module in network.model.modules() if isinstance(module, nn.Linear)][-1:]
    means = activations.mean(dim=(2, 3))[0]
    split = split_network(network.model, path, size)
    for target, utility in itertools.product((0, 1), PLAIN):
        row, bias = linear.weight[target], linear.bias[target]
        change = means @ row
        gain = PLAIN[utility](bias + change) - PLAIN[utility](bias)
        contributions = means * row * gain / change
        expected = (contributions[:, None, None] * activations[0]).sum(dim=0)
        question = Question(0, METHODS["liftcam"], utilities_of(SIGMOID)[utility], target)
        (found,) = explain(split, image, [question], metrics=False).explanations
        torch.testing.assert_close(found.attribution.double(), expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(("name", "target"), [("findings", 7), ("malignant", 0), ("malignant", 1)])
def test_metrics_equal_those_of_probabilities_by_sigmoid(networks: dict[str, Network], name: str, target: int) -> None:
    network = networks[name]
    path, size = network.layers["pre_gap"], network.preprocessing.input_size
    image = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(4)).double()
    split = split_network(network.model, path, size)
    question = Question(0, METHODS["gradcam"], utilities_of(SIGMOID)["rest"], target)
    (found,) = explain(split, image, [question]).explanations
    again = explain(split, image * found.heatmap, [question], metrics=False).explanations[0]
    assert found.metrics == pytest.approx(naive_metrics(network, image, target, found, again), abs=1e-4)


def naive_metrics(
    network: Network, image: Tensor, target: int, found: Explanation, again: Explanation
) -> dict[str, float]:
    heatmap = found.heatmap.double()
    with torch.no_grad():
        y, o, d = (
            torch.sigmoid(network.model(x))[0, target].item() for x in (image, image * heatmap, image * (1 - heatmap))
        )
    drop, deletion = 100 * max(0, y - o) / y, 100 * max(0, y - d) / y
    pair = torch.stack((heatmap.flatten(), again.heatmap.double().flatten()))
    is_constant = bool((pair.amax(dim=1) == pair.amin(dim=1)).any())
    coherency = 0.0 if is_constant else 50 * (1 + torch.corrcoef(pair)[0, 1].item())
    complexity = 100 * heatmap.mean().item()
    terms = (coherency, 100 - complexity, 100 - drop)
    adcc = 0.0 if min(terms) <= 0 else 3 / sum(1 / term for term in terms)
    names = ("average_drop", "coherency", "complexity", "adcc", "increase_in_confidence", "average_drop_in_deletion")
    assert set(names) == set(Metrics.__slots__)
    return dict(zip(names, (drop, coherency, complexity, adcc, 100.0 * (o > y), deletion), strict=True))


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
