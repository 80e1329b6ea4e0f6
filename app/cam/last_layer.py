"""Watches the linear layer that makes the logits."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from app.cam.state import RunnableHead, SplitState


class _LastLinear(TorchFunctionMode):
    """Records the input, the weights and the output of the last linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.found: tuple[Tensor, Tensor, Tensor] | None = None

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:  # noqa: ANN401
        kwargs = kwargs or {}
        output = func(*args, **kwargs)
        if func is functional.linear:
            given = {**dict(zip(("input", "weight"), args, strict=False)), **kwargs}
            self.found = (given["input"], given["weight"], output)
        return output


class LastLayer(NamedTuple):
    """One run of the linear layer that makes the logits.

    Attributes:
        features: its input.
        weights: V.
        logits: its output.
    """

    features: Float[Tensor, "row feature"]
    weights: Float[Tensor, "class feature"]
    logits: Float[Tensor, "row class"]


def watch_last_layer(split: RunnableHead, state: SplitState) -> LastLayer | None:
    """Runs the head and watches its last layer; None where that is not linear."""
    mode = _LastLinear()
    with torch.no_grad():
        logits = split.head(state, mode)
    if mode.found is None:
        return None
    features, weights, output = mode.found
    is_last = features.dim() == 2 and output.shape == logits.shape and torch.equal(output, logits)
    return LastLayer(features, weights, logits) if is_last else None
