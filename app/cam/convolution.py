"""Convolution by weights that are frozen, whose second derivative costs what it must and no more."""

from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

_Settings = tuple[Any, ...]


_Size = int | tuple[int, ...] | str


def frozen_conv2d(
    maps: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: _Size = 1,
    padding: _Size = 0,
    dilation: _Size = 1,
    groups: int = 1,
) -> Tensor:
    """The same as `torch.conv2d`, with derivatives that take weights and bias for constants.

    PyTorch's own second derivative finds that of the weights too, whether anybody wants it or not, and for grouped
    convolutions it does so group by group: in a network of depthwise convolutions that takes ten times as long as all
    the rest.
    """
    is_plain = maps.dim() == 4 and not isinstance(padding, str)
    if not (is_plain and torch.is_grad_enabled() and maps.requires_grad) or weight.requires_grad:
        return functional.conv2d(maps, weight, bias, stride, padding, dilation, groups)  # type: ignore[arg-type]
    settings = (_pair(stride), _pair(padding), _pair(dilation), False, (0, 0), groups)
    return cast(Tensor, _Convolution.apply(maps, weight, bias, settings))


def _pair(size: _Size) -> tuple[int, ...]:
    if isinstance(size, int):
        return size, size
    return tuple(int(part) for part in (size if len(size) == 2 else (*size, *size)))


class _Convolution(torch.autograd.Function):
    """y = W x + b."""

    @staticmethod
    def forward(ctx: Any, maps: Tensor, weight: Tensor, bias: Tensor | None, settings: _Settings) -> Tensor:  # noqa: ANN401
        ctx.save_for_backward(maps, weight)
        ctx.settings = settings
        return torch.convolution(maps, weight, bias, *settings)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:  # noqa: ANN401
        maps, weight = ctx.saved_tensors
        return _Transposed.apply(gradient, maps.detach(), weight, ctx.settings), None, None, None


class _Transposed(torch.autograd.Function):
    """W^T g, which is linear in g: its derivative is the convolution again, without the bias."""

    @staticmethod
    def forward(ctx: Any, gradient: Tensor, maps: Tensor, weight: Tensor, settings: _Settings) -> Tensor:  # noqa: ANN401
        ctx.save_for_backward(weight)
        ctx.settings = settings
        wanted = [True, False, False]
        found = torch.ops.aten.convolution_backward(gradient, maps, weight, None, *settings, wanted)
        return cast(Tensor, found[0])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, direction: Tensor) -> tuple[Tensor, None, None, None]:  # noqa: ANN401
        (weight,) = ctx.saved_tensors
        return torch.convolution(direction, weight, None, *ctx.settings), None, None, None
