"""Attention that can be differentiated twice."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode


class TwiceDifferentiableAttention(TorchFunctionMode):
    """Runs `scaled_dot_product_attention` by its plain formula while it is entered.

    The fused kernels have no second derivative, neither on the CPU nor on a GPU. Unlike
    `torch.nn.attention.sdpa_kernel` this touches no process-wide switch: only the calling thread sees it.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401 - whatever `func` returns
        if func is functional.scaled_dot_product_attention:
            output, _ = torch.ops.aten._scaled_dot_product_attention_math(*args, **(kwargs or {}))
            return output
        return func(*args, **(kwargs or {}))
