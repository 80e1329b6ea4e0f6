"""Operations of the head that torch cannot differentiate twice, or only at great cost, in an equal form."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode


class TwiceDifferentiable(TorchFunctionMode):
    """Replaces two operations by their plain formulas while it is entered.

    Fused attention has no second derivative, neither on the CPU nor on a GPU. Batch norm in eval mode is an affine
    map, but its second derivative is computed as if it were not, at several times the cost. Unlike
    `torch.nn.attention.sdpa_kernel` this touches no process-wide switch: only the calling thread sees it.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401 - whatever `func` returns
        kwargs = kwargs or {}
        if func is functional.scaled_dot_product_attention:
            output, _ = torch.ops.aten._scaled_dot_product_attention_math(*args, **kwargs)
            return output
        if func is functional.batch_norm and torch.is_grad_enabled() and not kwargs.get("training", True):
            return _affine_batch_norm(*args, **kwargs)
        return func(*args, **kwargs)


def _affine_batch_norm(
    maps: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    eps: float = 1e-5,
    **_training: object,
) -> Tensor:
    """(x - mean) / sqrt(var + eps) * weight + bias, as scale * x + shift."""
    scale = torch.rsqrt(running_var + eps)
    if weight is not None:
        scale = scale * weight
    shift = -running_mean * scale
    if bias is not None:
        shift = shift + bias
    shape = (1, -1) + (1,) * (maps.dim() - 2)
    return torch.addcmul(shift.view(shape), maps, scale.view(shape))
