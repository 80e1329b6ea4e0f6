"""Operations of the head that torch cannot differentiate twice, or only at great cost, in an equal form."""

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from app.cam.convolution import frozen_conv2d


class TwiceDifferentiable(TorchFunctionMode):
    """Replaces some operations by their plain formulas while it is entered.

    Fused attention and the hard sigmoid have no second derivative, neither on the CPU nor on a GPU. Batch norm in eval
    mode is an affine map, but its second derivative is computed as if it were not, at several times the cost; so is
    that of convolutions, see `frozen_conv2d`. That of a vector over its norm is not a number where the vector is zero.
    Unlike `torch.nn.attention.sdpa_kernel` this touches no process-wide switch: only the calling thread sees it.
    """

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:  # noqa: ANN401
        formula = FORMULAS.get(func, func)
        return formula(*args, **(kwargs or {}))


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    **options: Any,  # noqa: ANN401 - torch's own
) -> Tensor:
    """softmax(Q K^T / sqrt(d) + M) V in steps; where a mask of booleans is false, M is minus infinity."""
    if attn_mask is not None and attn_mask.dtype == torch.bool:  # the steps below would add it as 0 and 1
        attn_mask = torch.zeros_like(attn_mask, dtype=query.dtype).masked_fill_(~attn_mask, -torch.inf)
    in_steps = torch.ops.aten._scaled_dot_product_attention_math
    return cast(Tensor, in_steps(query, key, value, attn_mask, dropout_p, is_causal, **options)[0])


def _multi_head_attention(
    *args: Any,  # noqa: ANN401 - torch's own signature
    need_weights: bool = True,
    **kwargs: Any,  # noqa: ANN401 - as well
) -> tuple[Tensor, Tensor | None]:
    """Where its weights are asked for, torch computes attention in steps.

    What a function calls inside is not shown to the mode, so fused attention could not be replaced there.
    """
    output, weights = functional.multi_head_attention_forward(*args, **{**kwargs, "need_weights": True})
    return output, weights if need_weights else None


def _hardsigmoid(maps: Tensor, inplace: bool = False) -> Tensor:
    """ReLU6(x + 3) / 6."""
    output = functional.relu6(maps + 3) / 6
    return maps.copy_(output) if inplace else output


def _hardsigmoid_in_place(maps: Tensor) -> Tensor:
    return _hardsigmoid(maps, inplace=True)


def _batch_norm(*args: Any, **kwargs: Any) -> Tensor:  # noqa: ANN401 - torch's own signature
    if torch.is_grad_enabled() and not kwargs.get("training", True):
        return _affine_batch_norm(*args, **kwargs)
    return functional.batch_norm(*args, **kwargs)


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


def _normalize(vectors: Tensor, p: float = 2.0, dim: int = 1, eps: float = 1e-12, out: Tensor | None = None) -> Tensor:
    """Computes v / max(|v|, eps), with the root drawn of what cannot be zero."""
    if p != 2.0 or not torch.is_grad_enabled():
        return functional.normalize(vectors, p, dim, eps, out)
    return vectors / vectors.square().sum(dim, keepdim=True).clamp_min(eps**2).sqrt()


FORMULAS: dict[Callable[..., Any], Callable[..., Any]] = {
    functional.scaled_dot_product_attention: _attention,
    functional.multi_head_attention_forward: _multi_head_attention,
    functional.hardsigmoid: _hardsigmoid,
    torch._C._nn.hardsigmoid: _hardsigmoid,
    torch._C._nn.hardsigmoid_: _hardsigmoid_in_place,
    functional.batch_norm: _batch_norm,
    functional.conv2d: frozen_conv2d,
    functional.normalize: _normalize,
}
"""What a mode is shown, in all spellings, and what runs in its place."""
