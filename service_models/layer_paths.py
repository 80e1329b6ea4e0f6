"""Paths of layers: that of a module, or `MODULE+relu` where a ReLU without a path of its own takes its output."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

RELU = "+relu"

RELU_FUNCTIONS: frozenset[Callable[..., Any]] = frozenset(
    {functional.relu, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_}
)
"""In all spellings; `functional.relu_` is `torch.relu_`."""


def module_of(path: str) -> str:
    """The path of the module whose output, or the ReLU of it, is meant."""
    return path.removesuffix(RELU)


class ReluWatch(TorchFunctionMode):
    """Hands each ReLU that runs while it is entered, inside of a module or not, to a function of its own."""

    def __init__(self, around: Callable[[Tensor, Callable[[], Tensor]], Tensor]) -> None:
        """Takes what runs in place of a ReLU.

        Args:
            around: is given the tensor that enters and what computes the ReLU; returns what the network goes on with.
        """
        super().__init__()
        self._around = around

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:  # noqa: ANN401 - torch's own
        kwargs = kwargs or {}
        if func not in RELU_FUNCTIONS:
            return func(*args, **kwargs)
        entering = args[0] if args else kwargs["input"]
        return self._around(entering, lambda: func(*args, **kwargs))
