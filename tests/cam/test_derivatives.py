"""Gradient and Hessian-vector product against finite differences, and the ways they can be silently wrong."""

import gc
import resource
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from app.cam.convolution import frozen_conv2d
from app.cam.splitting import split_network
from app.cam.utilities import UTILITIES
from tests.cam.games import PoolAndClassify, Quadratic, linear_head, smooth_head, split_tiny


def utility_of(name: str, target: int = 1):
    return lambda logits: UTILITIES[name].of(logits, torch.full((len(logits),), target))


@pytest.mark.parametrize("utility", UTILITIES)
@pytest.mark.parametrize(
    "head", [smooth_head, lambda: Quadratic(9), PoolAndClassify], ids=["smooth", "quadratic", "gap"]
)
def test_derivatives_equal_finite_differences(head, utility: str) -> None:
    split, state = split_tiny(head())
    found = split.differentiate(state, utility_of(utility), second_order=True)
    assert found.hvp is not None
    generator = torch.Generator().manual_seed(3)
    step = 1e-5

    def gradient_at(activations: Tensor) -> Tensor:
        moved = state.with_activations(activations)
        return split.differentiate(moved, utility_of(utility), second_order=False).gradients

    def value_at(activations: Tensor) -> Tensor:
        return utility_of(utility)(split.head(state.with_activations(activations)))

    a = state.activations
    direction = torch.randn(a.shape, generator=generator, dtype=a.dtype)
    slope = (value_at(a + step * direction) - value_at(a - step * direction)) / (2 * step)
    torch.testing.assert_close((found.gradients * direction).sum((1, 2, 3)), slope, rtol=1e-6, atol=1e-9)
    curvature = (gradient_at(a + step * a) - gradient_at(a - step * a)) / (2 * step)
    torch.testing.assert_close(found.hvp, curvature, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("relu", [nn.Identity, nn.ReLU], ids=["linear", "piecewise linear"])
def test_hvp_is_exactly_zero_for_a_linear_head_and_logit_utility(relu: type[nn.Module]) -> None:
    split, state = split_tiny(nn.Sequential(relu(), linear_head()))
    found = split.differentiate(state, utility_of("pre-softmax"), second_order=True)
    assert found.hvp is not None
    assert torch.count_nonzero(found.hvp) == 0
    assert torch.count_nonzero(found.gradients) > 0


def test_a_utility_that_ignores_the_activations_has_zero_derivatives() -> None:
    split, state = split_tiny(linear_head())
    found = split.differentiate(state, lambda logits: logits.detach()[:, 0], second_order=True)
    assert found.hvp is not None
    assert torch.count_nonzero(found.gradients) == torch.count_nonzero(found.hvp) == 0


class Attention(nn.Module):
    """A head whose attention is the fused one, which has no second derivative."""

    def __init__(self, channels: int = 4) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(channels, 3 * channels), nn.Linear(channels, 3)

    def forward(self, activations: Tensor) -> Tensor:
        tokens = activations.flatten(2).transpose(1, 2)
        q, k, v = self.qkv(tokens).unflatten(2, (1, 3, -1)).permute(3, 0, 2, 1, 4).contiguous()
        return self.out(functional.scaled_dot_product_attention(q, k, v).squeeze(1).mean(dim=1))


def test_hvp_through_fused_attention() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 1), Attention()).eval().requires_grad_(False)
    model = model.double()
    split = split_network(model, "0", (4, 4))
    state = split.trunk(torch.randn(2, 3, 4, 4, dtype=torch.float64))
    found = split.differentiate(state, utility_of("rest"), second_order=True)
    assert found.hvp is not None
    step = 1e-5
    ends = [
        split.differentiate(
            state.with_activations(state.activations * s), utility_of("rest"), second_order=False
        ).gradients
        for s in (1 + step, 1 - step)
    ]
    torch.testing.assert_close(found.hvp, (ends[0] - ends[1]) / (2 * step), rtol=1e-4, atol=1e-8)
    assert found.hvp.norm() > 1e-4


def test_a_thousand_explanations_leave_nothing_behind() -> None:
    split, state = split_tiny(smooth_head())

    def live_tensors() -> int:
        return sum(issubclass(type(item), Tensor) for item in gc.get_objects())

    def explain(times: int) -> None:
        for _ in range(times):
            split.differentiate(state, utility_of("rest"), second_order=True)

    explain(50)
    gc.collect()
    tensors, memory_kib = live_tensors(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    gc.disable()  # a cycle would have to wait for the collector: there must be none
    try:
        explain(1000)
        assert live_tensors() <= tensors
    finally:
        gc.enable()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory_kib < 20 * 1024


@pytest.mark.parametrize(
    ("groups", "stride", "padding", "dilation"), [(1, 1, 1, 1), (4, 2, 1, 1), (2, (1, 2), (2, 1), 2), (4, 1, "same", 1)]
)
def test_convolutions_by_frozen_weights_have_torchs_two_derivatives(
    groups: int, stride: Any, padding: Any, dilation: int
) -> None:
    weight = torch.randn(8, 4 // groups, 3, 3, dtype=torch.float64)
    bias, maps = torch.randn(8, dtype=torch.float64), torch.randn(2, 4, 9, 9, dtype=torch.float64, requires_grad=True)
    found = []
    for convolve in (torch.nn.functional.conv2d, frozen_conv2d):
        value = convolve(maps, weight, bias, stride, padding, dilation, groups).tanh().pow(2).sum()
        (gradient,) = torch.autograd.grad(value, maps, create_graph=True)
        (hvp,) = torch.autograd.grad(gradient, maps, maps.detach())
        found.append((value, gradient, hvp))
    for theirs, ours in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
