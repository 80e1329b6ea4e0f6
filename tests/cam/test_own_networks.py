"""Networks of operators against plain PyTorch in float64: sigmoids, one logit, grey, own code, a softmax inside."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from app.cam.engine import explain
from app.cam.methods import METHODS
from app.cam.questions import Explanation, Question
from app.cam.splitting import split_network
from app.cam.utilities import UTILITIES, utilities_of
from app.cam.work import SamplingOptions
from app.imaging.decode import open_image
from app.imaging.picture import pixels_of
from app.imaging.reading import DecodeSpec, read_image
from app.imaging.tensors import normalise
from service_models import Network, find_networks, load_network
from testing.pictures import MAX_PIXELS, encoded, photograph
from tests.cam.plain import (
    GRADIENT_METHODS,
    PLAIN,
    Game,
    PlainUtility,
    attribution_of,
    head_of,
    mean_slopes,
    naive_metrics,
    plain,
)

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

[networks.grey]
architecture = "timm:resnet18"
weights = "random"
classes = 5
[networks.grey.preprocessing]
channels = 1
input_size = 64
resize_size = 64
max_value = 4095
mean = 0.4
std = 0.2

[networks.dictionary]
architecture = "python:mine.py:build"
output = "scores.logits"
preprocessing = { input_size = 32, mean = [0.5, 0.5, 0.5], std = [0.25, 0.25, 0.25] }

[networks.inside]
architecture = "python:mine.py:build"
arguments = { ends_with_softmax = true }
output = "scores.logits"
output_is = "probabilities"
preprocessing = { input_size = 32, mean = [0.5, 0.5, 0.5], std = [0.25, 0.25, 0.25] }
"""
CODE = """
import torch
from torch import nn


class Mine(nn.Module):
    def __init__(self, ends_with_softmax):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 12, 3, stride=4, padding=1), nn.BatchNorm2d(12), nn.ReLU(inplace=True),
            nn.Conv2d(12, 20, 3, stride=4, padding=1), nn.SiLU(),
        )
        self.hidden = nn.Linear(20, 16)
        self.out = nn.Linear(16, 6)
        self.ends_with_softmax = ends_with_softmax

    def forward(self, x):
        a = self.features(x)
        y = self.out(self.hidden(a.mean((2, 3))).relu())
        return {"features": a, "scores": {"logits": y.softmax(1) if self.ends_with_softmax else y}}


def build(ends_with_softmax=False):
    torch.manual_seed(3)
    return Mine(ends_with_softmax)
"""
NAMES = ("findings", "malignant", "grey", "dictionary", "inside")
TARGETS = {"findings": (3,), "malignant": (0, 1), "grey": (2,), "dictionary": (4,), "inside": (1,)}
# Few enough positions for all their coalitions.
SIZES_OF_GAMES = {"findings": 64, "malignant": 64, "grey": 64, "dictionary": 32, "inside": 32}
LAYERS = ("pre_gap", "last_conv")


@dataclass(frozen=True)
class Case:
    """A network as it is served, and as its user has it."""

    network: Network
    model: nn.Module
    logits_of: Callable[[Tensor], Tensor]
    utilities: dict[str, PlainUtility]

    def module(self, layer: str) -> nn.Module:
        return self.model.get_submodule(self.network.layers[layer])

    def ask(
        self, layer: str, image: Tensor, asked: list[tuple[str, str, int]], *, metrics: bool = False
    ) -> list[Explanation]:
        """The answers of the engine to (method, utility, label)."""
        split = split_network(
            self.network.model, self.network.layers[layer], (image.shape[2], image.shape[3]), image.shape[1]
        )
        sampling = SamplingOptions(permutations=64, nodes=32)
        utilities = utilities_of(self.network.scores)
        questions = [
            Question(0, METHODS[method], utilities[utility], label, sampling=sampling)
            for method, utility, label in asked
        ]
        return list(explain(split, image, questions, metrics=metrics).explanations)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("own")
    (folder / "networks.toml").write_text(CONFIG)
    (folder / "mine.py").write_text(CODE)
    return folder


@pytest.fixture(scope="module", params=NAMES)
def case(request: pytest.FixtureRequest, folder: Path) -> Case:
    return case_of(request.param, folder)


def case_of(name: str, folder: Path) -> Case:
    (spec,) = find_networks([name], folder / "networks.toml")
    network = load_network(spec, torch.device("cpu"))
    network.model.double()
    utilities = dict(PLAIN[network.scores.name])
    if name not in {"dictionary", "inside"}:
        return Case(network, network.model, network.model, utilities)
    own: dict[str, Any] = {}
    exec(CODE, own)  # noqa: S102 - as its user would import it
    model: nn.Module = own["build"](ends_with_softmax=name == "inside").double().eval().requires_grad_(False)
    model.load_state_dict(network.model.state_dict())

    def logits(images: Tensor) -> Tensor:
        found: Tensor = model(images)["scores"]["logits"]
        # Probabilities are logits too, but for a constant, once their logarithm is taken.
        return found.log() if name == "inside" else found

    return Case(network, model, logits, utilities)


def image_for(case: Case, size: int) -> Tensor:
    return torch.randn(
        1, case.network.preprocessing.channels, size, size, generator=torch.Generator().manual_seed(1)
    ).double()


def assert_near(found: Tensor, expected: Tensor, tolerance: float, what: object) -> None:
    assert (found.double().flatten() - expected.flatten()).abs().max() <= tolerance * expected.abs().max() + 1e-12, what


@pytest.mark.parametrize("layer", LAYERS)
def test_gradient_methods_equal_hooks_and_autograd(case: Case, layer: str) -> None:
    size, targets = case.network.preprocessing.input_size[0], TARGETS[case.network.name]
    image = image_for(case, size)
    asked = list(itertools.product(GRADIENT_METHODS, UTILITIES, targets))
    found = case.ask(layer, image, asked)
    answers = {
        (utility, label): plain(case.logits_of, case.module(layer), image, label, case.utilities[utility])
        for utility, label in itertools.product(UTILITIES, targets)
    }
    for (method, utility, label), explanation in zip(asked, found, strict=True):
        plainly = answers[utility, label]
        assert_near(explanation.attribution, attribution_of(method, plainly), 1e-6, (method, utility, label))
        assert explanation.utility_value == pytest.approx(plainly.value, rel=1e-9)


@pytest.mark.parametrize("layer", LAYERS)
def test_values_of_the_game_equal_enumeration_and_integration(case: Case, layer: str) -> None:
    image = image_for(case, SIZES_OF_GAMES[case.network.name])
    activations, head = head_of(case.logits_of, case.module(layer), image)
    assert activations.shape[2:].numel() <= 4
    pairs = list(itertools.product(UTILITIES, TARGETS[case.network.name]))
    methods = ("shapley-sampling", "aumann-shapley")
    answers = iter(case.ask(layer, image, [(method, *pair) for pair in pairs for method in methods]))
    for utility, label in pairs:

        def worth(rows: Tensor, utility: str = utility, label: int = label) -> Tensor:
            return case.utilities[utility](head(rows), label)

        game = Game.of(activations, worth)
        integral = (activations * mean_slopes(worth, activations)).sum(dim=1)[0]
        sampled, integrated = next(answers), next(answers)
        assert_near(sampled.attribution, game.shapley(), 1e-5, (utility, label))
        assert sampled.attribution.sum().item() == pytest.approx(game.gain, rel=1e-5, abs=1e-7)
        assert_near(integrated.attribution, integral, 1e-5, (utility, label))


def test_liftcam_of_a_pooled_head_equals_the_rescale_rule_by_hand(case: Case) -> None:
    image = image_for(case, SIZES_OF_GAMES[case.network.name])
    activations, head = head_of(case.logits_of, case.module("pre_gap"), image)
    means = activations.mean(dim=(2, 3))
    model = case.model
    if case.network.name in {"dictionary", "inside"}:
        hidden, out = model.hidden, model.out
        before, after = hidden.bias, hidden(means)[0]
        rescale = (after.relu() - before.relu()) / (after - before)
        matrix = out.weight @ (rescale[:, None] * hidden.weight)
        own_start, own_end = out(before.relu())[None], out(after.relu())[None]
    else:
        matrix = [module for module in model.modules() if isinstance(module, nn.Linear)][-1].weight
    start, end = head(torch.zeros_like(activations)).detach(), head(activations).detach()
    pairs = list(itertools.product(UTILITIES, TARGETS[case.network.name]))
    answers = case.ask("pre_gap", image, [("liftcam", *pair) for pair in pairs])
    for (utility, label), found in zip(pairs, answers, strict=True):
        slopes = mean_slopes(lambda rows, u=utility, c=label: case.utilities[u](rows, c), end, start, 1000)
        if case.network.name == "inside":
            # Down through the logarithm and the softmax, whose mean slopes are along the line of what they take.
            slopes = slopes * (end - start) / (end.exp() - start.exp())
            slopes = mean_slopes(lambda rows, m=slopes: rows.softmax(1) @ m[0], own_end, own_start, 1000)
        contributions = (slopes @ matrix)[0] * means[0]
        expected = (contributions[:, None, None] * activations[0]).sum(dim=0)
        assert_near(found.attribution, expected, 1e-6, (utility, label))


def test_metrics_equal_those_of_the_networks_own_probabilities(case: Case) -> None:
    image = image_for(case, case.network.preprocessing.input_size[0])
    for label in TARGETS[case.network.name]:

        def probability(picture: Tensor, label: int = label) -> float:
            with torch.no_grad():
                return float(case.utilities["post-softmax"](case.logits_of(picture), label))

        (found,) = case.ask("pre_gap", image, [("gradcam", "rest", label)], metrics=True)
        (again,) = case.ask("pre_gap", image * found.heatmap, [("gradcam", "rest", label)])
        assert found.metrics == pytest.approx(naive_metrics(probability, image, found, again), abs=1e-4)


def test_a_grey_network_explains_a_picture_of_12_bits(folder: Path) -> None:
    case = case_of("grey", folder)
    network = case.network
    grey = np.asarray(photograph("chelsea").convert("L").crop((100, 100, 164, 164)), np.uint16)
    levels = (grey * 16 + np.random.default_rng(0).integers(0, 16, grey.shape)).astype(np.uint16)
    decoding = DecodeSpec.of(network.preprocessing)
    read = read_image(open_image(encoded(Image.fromarray(levels), "PNG"), MAX_PIXELS), decoding)
    pixels = pixels_of(read.view, decoding, is_deep=read.depth is not None)
    served = normalise([torch.tensor(pixels)], network.preprocessing, "cpu").double()
    by_hand = torch.from_numpy((levels / 4095 - 0.4) / 0.2)[None, None]
    torch.testing.assert_close(served, by_hand, rtol=0, atol=2e-6)
    label = int(network.model(by_hand).argmax())
    plainly = plain(case.logits_of, case.module("pre_gap"), by_hand, label, case.utilities["rest"])
    (found,) = case.ask("pre_gap", served, [("shapleycam", "rest", label)])
    assert_near(found.attribution, attribution_of("shapleycam", plainly), 1e-4, "shapleycam")


def test_one_logit_has_two_labels_whose_probabilities_sum_to_1(folder: Path) -> None:
    network = case_of("malignant", folder).network
    assert network.labels == ("not malignant", "malignant")
    assert not network.is_multi_label
    assert case_of("findings", folder).network.is_multi_label
    logits = network.model(torch.randn(3, 3, 64, 64).double())
    assert logits.shape == (3, 2)
    torch.testing.assert_close(logits[:, 0], -logits[:, 1])
    torch.testing.assert_close(network.scores.probabilities(logits).sum(dim=1), torch.ones(3, dtype=torch.float64))
