"""Operations that PyTorch cannot differentiate, or not twice, each for another reason."""

from collections.abc import Callable
from typing import Any

import torch
import torchvision
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from tests.cam.games import GRID


class SigmoidOnce(torch.autograd.Function):
    """A sigmoid whose author says that its derivative cannot be differentiated."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor) -> Tensor:
        ctx.save_for_backward(inputs)
        return inputs.sigmoid()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradients: Tensor) -> Tensor:
        values = ctx.saved_tensors[0].sigmoid()
        return gradients * values * (1 - values)


class SigmoidNever(torch.autograd.Function):
    """A sigmoid without a derivative."""

    @staticmethod
    def forward(_ctx: Any, inputs: Tensor) -> Tensor:
        return inputs.sigmoid()


class SigmoidOfNumpy(torch.autograd.Function):
    """A sigmoid whose derivative leaves torch."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor) -> Tensor:
        ctx.save_for_backward(inputs)
        return inputs.sigmoid()

    @staticmethod
    def backward(ctx: Any, gradients: Tensor) -> Tensor:
        values = ctx.saved_tensors[0].sigmoid()
        return torch.from_numpy(gradients.numpy() * (values * (1 - values)).numpy())


@torch.library.custom_op("tests::sigmoid", mutates_args=())
def opaque(inputs: Tensor) -> Tensor:
    return inputs.sigmoid()


def deformed(inputs: Tensor) -> Tensor:
    offsets = inputs.new_full((len(inputs), 18, GRID, GRID), 0.3)
    weights = torch.linspace(-1, 1, 4 * 4 * 9, dtype=inputs.dtype).view(4, 4, 3, 3)
    return torchvision.ops.deform_conv2d(inputs, offsets, weights, padding=1)


def reentrant(inputs: Tensor) -> Tensor:
    return checkpoint(torch.sigmoid, inputs, use_reentrant=True) if inputs.requires_grad else inputs.sigmoid()


def overwritten(inputs: Tensor) -> Tensor:
    output = inputs.sigmoid()
    product = output * 2
    output.mul_(3)
    return product + output


WITHOUT_SECOND: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "by its author": (SigmoidOnce.apply, "SigmoidOnce"),
    "outside torch": (SigmoidOfNumpy.apply, "SigmoidOfNumpy"),
    "in a spelling that is not known": (torch.ops.aten.hardsigmoid.default, "hardsigmoid"),
    "in C++": (deformed, "deform_conv2d"),
}
WITHOUT_FIRST: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "by its author": (SigmoidNever.apply, "SigmoidNever"),
    "unregistered": (opaque, "tests.sigmoid.default"),
    "checkpointed": (reentrant, "torch.utils.checkpoint"),
    "overwritten": (overwritten, "Sigmoid"),
}
