"""DeepLIFT contributions: what they sum to, whatever the head computes, and what must not change them."""

import gc
import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from app.cam.heads import PooledLinearHead
from app.cam.lift import contributions
from app.cam.utilities import UTILITIES, values_of_rows
from tests.cam.games import GRID, PoolAndClassify, smooth_head, split_tiny
from tests.cam.lift_heads import Function, SqueezeAndExcite, available, head_with, utility_of


def gelu_by_hand(x: Tensor) -> Tensor:
    return 0.5 * x * (1 + torch.erf(x / math.sqrt(2)))


def hardswish_in_place(x: Tensor) -> Tensor:
    return x.mul_(functional.relu6(x + 3).div_(6))


ELEMENTWISE: dict[str, Function | nn.Module] = {
    "relu": nn.ReLU(),
    "relu method": Tensor.relu,
    "torch.relu": torch.relu,
    "relu6": nn.ReLU6(),
    "hardtanh": nn.Hardtanh(-0.3, 0.4),
    "leaky relu": nn.LeakyReLU(0.2),
    "prelu": nn.PReLU(5),
    "elu": nn.ELU(1.5),
    "celu": nn.CELU(0.7),
    "selu": nn.SELU(),
    "silu": nn.SiLU(),
    "swish by hand": lambda x: x * x.sigmoid(),
    "gelu": nn.GELU(),
    "gelu tanh": nn.GELU(approximate="tanh"),
    "gelu by hand": gelu_by_hand,
    "sigmoid": torch.sigmoid,
    "hardsigmoid": nn.Hardsigmoid(),
    "hardswish": nn.Hardswish(),
    "tanh": Tensor.tanh,
    "softplus": nn.Softplus(beta=2),
    "mish": nn.Mish(),
    "logsigmoid": nn.LogSigmoid(),
    "softsign": nn.Softsign(),
    "exp": torch.exp,
    "clamp": lambda x: x.clamp(min=-0.2, max=0.5),
    "square": lambda x: x**2,
    "pow": lambda x: x.clamp(min=1e-6).pow(3),
}
IN_PLACE: dict[str, tuple[Function | nn.Module, Function | nn.Module]] = {
    "relu": (nn.ReLU(inplace=True), nn.ReLU()),
    "relu positional": (lambda x: functional.relu(x, True), functional.relu),
    "relu_ method": (lambda x: x.relu_(), functional.relu),
    "torch.relu_": (torch.relu_, functional.relu),
    "relu6": (nn.ReLU6(inplace=True), nn.ReLU6()),
    "silu": (nn.SiLU(inplace=True), nn.SiLU()),
    "sigmoid_": (lambda x: x.sigmoid_(), torch.sigmoid),
    "clamp_": (lambda x: x.clamp_(min=0.1), lambda x: x.clamp(min=0.1)),
    "leaky_relu_": (functional.leaky_relu_, functional.leaky_relu),
    "hardswish": (hardswish_in_place, functional.hardswish),
    "mul_": (lambda x: x.mul_(x.sigmoid()), functional.silu),
}


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_contributions_sum_to_the_gain_of_the_utility(name: str) -> None:
    split, state = split_tiny(head_with(ELEMENTWISE[name]))
    for utility in UTILITIES:
        found = split.lift_contributions(state, utility_of(utility))
        expected = available(split, state, utility_of(utility))
        torch.testing.assert_close(found.sum(dim=1), expected, rtol=1e-9, atol=1e-12)
        assert not found.requires_grad
        assert expected.abs().min() > 1e-4


@pytest.mark.parametrize("name", IN_PLACE)
def test_operations_in_place_contribute_as_those_that_are_not(name: str) -> None:
    in_place, plain = IN_PLACE[name]
    split, state = split_tiny(head_with(in_place))
    before = state.activations.clone()
    found = split.lift_contributions(state, utility_of("rest"))
    torch.testing.assert_close(state.activations, before, rtol=0, atol=0)
    expected = contributions(*split_tiny(head_with(plain)), utility_of("rest"))
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


def test_an_operation_in_place_whose_result_is_dropped_still_happens() -> None:
    def overwrite(x: Tensor) -> Tensor:
        functional.relu6(x, inplace=True)
        return x

    found = contributions(*split_tiny(head_with(overwrite)), utility_of("rest"))
    expected = contributions(*split_tiny(head_with(functional.relu6)), utility_of("rest"))
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


def test_what_is_overwritten_later_was_noted_before() -> None:
    def overwrite(x: Tensor) -> Tensor:
        gate = x.sigmoid()
        return x.mul_(2).add_(gate)

    split, state = split_tiny(head_with(overwrite))
    found = split.lift_contributions(state, utility_of("rest"))
    expected = contributions(*split_tiny(head_with(lambda x: 2 * x + x.sigmoid())), utility_of("rest"))
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


class Mixture(nn.Module):
    """Linear operations of many kinds around one that is not."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.drop, self.scale = nn.BatchNorm2d(5), nn.Dropout(), nn.Parameter(torch.rand(5, 1, 1))
        self.norm.running_mean = torch.randn(5)

    def forward(self, x: Tensor) -> Tensor:
        left, right = self.drop(self.norm(x)).chunk(2, dim=3)
        right = right.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2) / 3 - self.scale
        rows = x.new_zeros(x.shape)
        rows[:, :, :1] = x[:, :, 1:]
        padded = functional.pad(functional.avg_pool2d(x, 2), (0, 1, 0, 1), mode="replicate")
        x = torch.cat((1 - left, right), dim=3) * self.scale
        x = torch.where(torch.tensor([True, False]), x, -x) + rows + padded
        x += torch.einsum("rchw,cd->rdhw", x, torch.eye(5, dtype=x.dtype))
        return functional.gelu(x)


@pytest.mark.parametrize("utility", UTILITIES)
@pytest.mark.parametrize(
    "middle",
    [SqueezeAndExcite(), Mixture(), nn.MaxPool2d(2, 1, 1, ceil_mode=False)],
    ids=["squeeze and excite", "mixture", "overlapping max pooling"],
)
def test_products_pools_and_linear_maps_close_the_sum(middle: nn.Module, utility: str) -> None:
    size = 5 * (GRID if isinstance(middle, nn.MaxPool2d) else GRID - 1) ** 2
    head = nn.Sequential(nn.Conv2d(4, 5, 2), middle, nn.Flatten(), nn.Linear(size, 3))
    split, state = split_tiny(head)
    found = split.lift_contributions(state, utility_of(utility))
    expected = available(split, state, utility_of(utility))
    torch.testing.assert_close(found.sum(dim=1), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("utility", UTILITIES)
def test_the_closed_form_equals_the_general_route(utility: str) -> None:
    split, state = split_tiny(PoolAndClassify())
    assert split.structure.is_closed_form
    found = split.lift_contributions(state, utility_of(utility))
    torch.testing.assert_close(found, contributions(split, state, utility_of(utility)), rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("utility", ["rest", "post-softmax"])
@pytest.mark.parametrize("size", [1.0, 30.0, 200.0])
def test_the_line_through_a_sharp_softmax_is_integrated_to_rounding(size: float, utility: str) -> None:
    """A thousand classes of which another leads half way."""
    split, state = split_tiny(PoolAndClassify(classes=1000))
    assert isinstance(split.structure, PooledLinearHead)
    classifier = split.structure.classifier
    with torch.no_grad():
        classifier.bias[7] = size / 2
        change = classifier(state.activations.mean(dim=(2, 3))) - classifier.bias
        state = state.with_activations(state.activations * size / change.amax(dim=1)[:, None, None, None])
        targets = split.head(state).topk(2, dim=1).indices
    target = int(targets[0, 0]) if int(targets[0, 0]) != 7 else int(targets[0, 1])
    found = split.lift_contributions(state, utility_of(utility, target))
    expected = available(split, state, utility_of(utility, target))
    torch.testing.assert_close(found.sum(dim=1), expected, rtol=1e-9, atol=1e-9)


def test_rows_do_not_mix() -> None:
    split, state = split_tiny(nn.Sequential(SqueezeAndExcite(4), smooth_head()))
    state = state.take(torch.tensor([0, 1, 1]))
    targets, names = torch.tensor([2, 0, 1]), ["rest", "post-softmax", "pre-softmax"]

    def of_rows(rows: Sequence[int]) -> Tensor:
        index = torch.tensor(rows)
        utilities = [UTILITIES[names[row]] for row in rows]
        return split.lift_contributions(
            state.take(index), lambda logits: values_of_rows(logits, targets[index], utilities)
        )

    alone = torch.cat([of_rows([row]) for row in range(3)])
    torch.testing.assert_close(of_rows([0, 1, 2]), alone, rtol=1e-9, atol=1e-12)


def test_activations_at_the_reference_contribute_nothing() -> None:
    split, state = split_tiny(head_with(nn.SiLU()))
    zeros = state.with_activations(torch.zeros_like(state.activations))
    assert torch.count_nonzero(split.lift_contributions(zeros, utility_of("rest"))) == 0


@pytest.mark.parametrize("module", [nn.SiLU(), nn.ELU(), nn.Hardswish()])
def test_multipliers_near_the_reference_keep_float32_precision(module: nn.Module) -> None:
    """A quotient of float32 differences would be off by percents here."""
    head = head_with(module)
    split, state = split_tiny(head)
    state = state.with_activations(1e-5 * state.activations)
    expected = split.lift_contributions(state, utility_of("rest"))
    head.float()
    found = split.lift_contributions(state.with_activations(state.activations.float()), utility_of("rest"))
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


def test_contributions_leave_nothing_behind() -> None:
    split, state = split_tiny(nn.Sequential(SqueezeAndExcite(4), smooth_head()))

    def live_tensors() -> int:
        return sum(issubclass(type(item), Tensor) for item in gc.get_objects())

    split.lift_contributions(state, utility_of("rest"))
    gc.collect()
    tensors = live_tensors()
    gc.disable()  # a cycle would have to wait for the collector: there must be none
    try:
        for _ in range(20):
            split.lift_contributions(state, utility_of("rest"))
        assert live_tensors() <= tensors
    finally:
        gc.enable()
    assert torch.is_grad_enabled()
    assert torch.overrides._get_current_function_mode_stack() == []
