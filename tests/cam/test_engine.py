"""Whole explanations: batches, several targets, the number of passes, randomness, warnings."""

from copy import deepcopy
from dataclasses import replace
from itertools import cycle

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from app.cam.engine import explain
from app.cam.errors import MethodError, TargetError
from app.cam.heatmap import heatmap
from app.cam.methods import METHODS
from app.cam.metrics import compute_metrics
from app.cam.questions import Explanation, Question, image_seed
from app.cam.split import HookSplit, SplitNetwork
from app.cam.splitting import split_network
from app.cam.state import SplitState
from app.cam.utilities import UTILITIES
from app.cam.work import SamplingOptions

SIZE = (64, 64)
REST = UTILITIES["rest"]
# Of the games at `layer2`, whose 64 players no closed form helps, a few permutations are enough to compare.
SMALL = SamplingOptions(permutations=4, nodes=2)


@pytest.fixture(scope="module")
def network() -> nn.Module:
    """Small, with batch norm, skip connections and a curved head; its random weights make nothing trivial."""
    torch.manual_seed(0)
    model = torchvision.models.resnet18(weights=None, num_classes=10)
    model.train()
    with torch.no_grad():
        for _ in range(5):
            model(torch.randn(16, 3, *SIZE))
        model.fc.weight.mul_(20)
    return model.eval().requires_grad_(False)


@pytest.fixture(scope="module", params=["layer4", "layer4.1.conv2", "layer2"])
def split(request: pytest.FixtureRequest, network: nn.Module) -> SplitNetwork:
    return split_network(network, request.param, SIZE)


@pytest.fixture
def images() -> Tensor:
    return torch.randn(4, 3, *SIZE, generator=torch.Generator().manual_seed(9))


@pytest.fixture(scope="module")
def exact_split(split: SplitNetwork, network: nn.Module) -> SplitNetwork:
    """The same in double precision: rounding flips no ReLU, so that equal formulas agree on every processor."""
    return split_network(deepcopy(network).double(), split.layer, SIZE)


def same(one: Explanation, other: Explanation) -> None:
    tolerance = 1e-6
    assert one.target_class == other.target_class
    scale = other.attribution.abs().max()
    assert (one.attribution - other.attribution).abs().max() <= tolerance * scale
    assert one.utility_value == pytest.approx(other.utility_value, rel=1e-6, abs=1e-6)
    assert (one.hvp_norm is None) == (other.hvp_norm is None)
    assert one.hvp_norm is None or one.hvp_norm == pytest.approx(other.hvp_norm, rel=1e-6)
    assert (one.layers[0].available is None) == (other.layers[0].available is None)
    assert one.layers[0].available is None or one.layers[0].available == pytest.approx(
        other.layers[0].available, rel=1e-6, abs=1e-6
    )
    assert (one.metrics is None) == (other.metrics is None)
    for name, value in (one.metrics or {}).items():
        assert value == pytest.approx((other.metrics or {})[name], abs=1e-4, nan_ok=True), name
    assert one.warnings == other.warnings


def test_explanations_of_a_batch_equal_those_of_its_images_one_by_one(
    exact_split: SplitNetwork, images: Tensor
) -> None:
    """Methods, utilities and targets differ inside the batch."""
    names = [name for name in METHODS if name not in {"cam", "scorecam"}]
    questions = [
        Question(n % 4, METHODS[name], utility, target, seed=n % 4, sampling=SMALL)
        for n, (name, utility, target) in enumerate(
            (name, utility, target)
            for name in names
            for utility, target in zip(UTILITIES.values(), cycle(("predicted", 3, "least-likely", 0)), strict=False)
        )
    ]
    if exact_split.layer == "layer2":  # whose head takes long: one utility of each method
        questions = [questions[4 * n + n % 4] for n in range(len(questions) // 4)]
    images = images.double()
    together = explain(exact_split, images, questions)
    for question, explanation in zip(questions, together.explanations, strict=True):
        alone = replace(question, image_index=0)
        single = explain(exact_split, images[question.image_index : question.image_index + 1], [alone])
        same(explanation, single.explanations[0])
        torch.testing.assert_close(together.logits[question.image_index], single.logits[0], rtol=1e-9, atol=1e-9)


class Counting(SplitNetwork):
    """Counts the images that pass through the trunk."""

    def __init__(self, inner: SplitNetwork) -> None:
        self.inner, self.passes = inner, []
        self.layer, self.calls, self.grid = inner.layer, inner.calls, inner.grid
        for name in ("structure", "whole_head"):
            setattr(self, name, getattr(inner, name))

    def trunk(self, images: Tensor) -> SplitState:
        self.passes.append(len(images))
        return self.inner.trunk(images)

    def head(self, state: SplitState, mode: TorchFunctionMode | None = None) -> Tensor:
        return self.inner.head(state, mode)

    def _run_trunk(self, images: Tensor) -> tuple[Tensor, ...]:
        raise NotImplementedError

    def _run_head(self, output: Tensor, *carry: Tensor) -> Tensor:
        raise NotImplementedError


@pytest.mark.parametrize(("metrics", "passes"), [(False, [1]), (True, [1, 6])])
def test_all_targets_share_one_pass_and_all_figures_one_batch(
    split: SplitNetwork, images: Tensor, metrics: bool, passes: list[int]
) -> None:
    counting = Counting(split)
    questions = [Question(0, METHODS["shapleycam"], REST, target) for target in ("predicted", 2, "least-likely")]
    found = explain(counting, images[:1], questions, metrics=metrics)
    assert counting.passes == passes
    assert {e.forward_passes for e in found.explanations} == {3 if metrics else 1}


@pytest.mark.parametrize("method", [name for name in METHODS if name not in {"cam", "scorecam"}])
def test_metrics_equal_those_of_separate_passes(
    split: SplitNetwork, network: nn.Module, images: Tensor, method: str
) -> None:
    question = Question(0, METHODS[method], REST, 4, seed=11, sampling=SMALL)
    (found,) = explain(split, images[:1], [question]).explanations
    explained = images[:1] * found.heatmap
    deleted = images[:1] * (1 - found.heatmap)
    with torch.no_grad():
        scores = [network(x).double().log_softmax(dim=1)[:, 4] for x in (images[:1], explained, deleted)]
    (again,) = explain(split, explained, [question], metrics=False).explanations
    again_heatmap = again.heatmap
    if method == "randomcam":
        # A second draw: the weights that the same generator gives next.
        generator = torch.Generator().manual_seed(11)
        weights = [2 * torch.rand(split.grid.channels, generator=generator) - 1 for _ in range(2)]
        activations = split.trunk(explained).activations[0]
        again_heatmap = heatmap(torch.einsum("c,chw->hw", weights[1], activations)[None], SIZE)[0]
        first = torch.einsum("c,chw->hw", weights[0], split.trunk(images[:1]).activations[0])
        torch.testing.assert_close(found.attribution, first, rtol=1e-4, atol=1e-4)
    expected = compute_metrics(*scores, found.heatmap[None], again_heatmap[None])
    assert found.metrics is not None
    for name, value in found.metrics.items():
        assert value == pytest.approx(getattr(expected, name).item(), abs=0.1), name


def test_all_methods_about_one_class_share_its_derivatives(
    split: SplitNetwork, images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows: list[int] = []
    head = split.head
    monkeypatch.setattr(split, "head", lambda state, *mode: (rows.append(len(state)), head(state, *mode))[1])
    names = [name for name, method in METHODS.items() if method.needs and method.needs <= {"gradients", "hvp"}]
    questions = [Question(0, METHODS[name], REST, target) for target in (1, 2, 3) for name in names]
    explain(split, images[:1], questions, metrics=False)
    # A row a class for the derivatives, and one for the empty coalition: not one a question.
    assert len(questions) >= 27
    assert sum(rows) <= 6


@pytest.mark.parametrize("name", ["scorecam", "ablationcam", "shapley-sampling", "aumann-shapley", "gradcam"])
def test_work_can_be_abandoned(split: SplitNetwork, images: Tensor, name: str) -> None:
    calls = 0

    class CheckpointRaised(Exception):
        pass

    def checkpoint() -> None:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise CheckpointRaised

    question = Question(0, METHODS[name], REST, sampling=SamplingOptions(permutations=2048))
    questions = [replace(question, image_index=n) for n in range(36)]
    with pytest.raises(CheckpointRaised):
        explain(split, images.repeat(9, 1, 1, 1), questions, checkpoint=checkpoint)
    (found,) = explain(split, images[:1], [Question(0, METHODS["gradcam"], REST)]).explanations
    assert found.metrics is not None


def test_targets_mean_what_they_say(split: SplitNetwork, images: Tensor) -> None:
    targets = ("predicted", "least-likely", 7)
    questions = [Question(n, METHODS["gradcam"], REST, t) for n in range(4) for t in targets]
    found = explain(split, images, questions, metrics=False)
    for explanation in found.explanations:
        logits = found.logits[explanation.question.image_index]
        wanted = {"predicted": logits.argmax().item(), "least-likely": logits.argmin().item(), 7: 7}
        assert explanation.target_class == wanted[explanation.question.target]


@pytest.mark.parametrize("target", [10, -1])
def test_a_class_that_does_not_exist_is_refused(split: SplitNetwork, images: Tensor, target: int) -> None:
    with pytest.raises(TargetError, match="does not exist"):
        explain(split, images[:1], [Question(0, METHODS["gradcam"], REST, target)])


def test_cam_is_refused_where_it_has_no_meaning(network: nn.Module, images: Tensor) -> None:
    before_pooling = split_network(network, "layer4", SIZE)
    with pytest.raises(MethodError, match="pre-softmax only"):
        explain(before_pooling, images[:1], [Question(0, METHODS["cam"], REST)])
    split = split_network(network, "layer4.1.conv2", SIZE)
    with pytest.raises(MethodError, match="global average pooling"):
        explain(split, images[:1], [Question(0, METHODS["cam"], UTILITIES["pre-softmax"])])


def test_efficiency_closes_for_a_linear_utility_before_pooling(network: nn.Module, images: Tensor) -> None:
    split = split_network(network, "layer4", SIZE)
    for method in ("gradcam", "hirescam", "xgradcam", "shapleycam", "shapleycam-h"):
        (found,) = explain(
            split, images[:1], [Question(0, METHODS[method], UTILITIES["pre-softmax"])], metrics=False
        ).explanations
        assert found.layers[0].available is not None
        assert found.attribution.sum().item() == pytest.approx(found.layers[0].available, rel=1e-3)
    for method in ("gradcam-e", "layercam", "gradcam++", "randomcam", "shapleycam-e"):
        (found,) = explain(split, images[:1], [Question(0, METHODS[method], REST)], metrics=False).explanations
        assert found.layers[0].available is None


def test_only_the_elementwise_methods_are_in_units_of_the_utility_inside_a_block(
    network: nn.Module, images: Tensor
) -> None:
    split = split_network(network, "layer4.1.conv2", SIZE)
    questions = [Question(0, METHODS[name], REST) for name in ("hirescam", "shapleycam-h", "gradcam", "shapleycam")]
    found = explain(split, images[:1], questions, metrics=False).explanations
    assert [e.layers[0].available is not None for e in found] == [True, True, False, False]


def test_a_map_without_positive_evidence_is_zeros_and_says_so(images: Tensor) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    with torch.no_grad():
        model[4].weight[0] = -model[4].weight[0].abs()
    split = split_network(model.eval().requires_grad_(False), "1", SIZE)
    (found,) = explain(split, images[:1], [Question(0, METHODS["gradcam"], UTILITIES["pre-softmax"], 0)]).explanations
    assert torch.count_nonzero(found.heatmap) == 0
    assert found.attribution.min() < 0
    assert any("no position speaks" in warning for warning in found.warnings)
    assert found.metrics is not None
    assert found.metrics["adcc"] == 0


def test_an_exactly_zero_hvp_is_reported(network: nn.Module, images: Tensor) -> None:
    split = split_network(network, "layer4", SIZE)
    (found,) = explain(
        split, images[:1], [Question(0, METHODS["shapleycam"], UTILITIES["pre-softmax"])], metrics=False
    ).explanations
    assert found.hvp_norm == 0
    assert any("exactly zero" in warning for warning in found.warnings)
    (plain,) = explain(
        split, images[:1], [Question(0, METHODS["gradcam"], UTILITIES["pre-softmax"])], metrics=False
    ).explanations
    assert plain.hvp_norm is None
    torch.testing.assert_close(found.attribution, plain.attribution)


def test_seeds_differ_between_images_and_between_callers() -> None:
    seeds = {image_seed(seed, digest) for seed in (0, 1, 2**63 - 1) for digest in (b"one", b"two")}
    assert len(seeds) == 6
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert image_seed(3, b"one") == image_seed(3, b"one")


@pytest.mark.parametrize("name", ["gradcam", "scorecam", "ablationcam", "liftcam", "aumann-shapley", "fakecam"])
def test_passes_are_counted_where_the_network_cannot_be_cut(network: nn.Module, images: Tensor, name: str) -> None:
    """With hooks the head is a whole forward pass, and every start of one counts."""
    cut = split_network(network, "layer2.1.conv2", SIZE)
    hooks = HookSplit(network, cut.layer, cut.grid, cut.calls)
    started = 0

    def count(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        nonlocal started
        started += len(inputs[0])

    question = Question(0, METHODS[name], REST, 3, sampling=SMALL)
    handle = network.register_forward_pre_hook(count)
    try:
        (found,) = explain(hooks, images[:1], [question], metrics=False).explanations
    finally:
        handle.remove()
    empty_coalition = 1 if METHODS[name].efficient == "always" else 0  # for U(0)
    assert found.forward_passes == started - empty_coalition
    (expected,) = explain(cut, images[:1], [question], metrics=False).explanations
    torch.testing.assert_close(found.attribution, expected.attribution, rtol=1e-3, atol=1e-3)
