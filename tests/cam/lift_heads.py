"""Heads around one operation each, for the tests of DeepLIFT contributions, and what these must sum to."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from app.cam.split import SplitNetwork
from app.cam.state import SplitState
from app.cam.utilities import UTILITIES
from tests.cam.games import GRID

CLASS = 1
Function = Callable[[Tensor], Tensor]


def utility_of(name: str, target: int = CLASS) -> Function:
    return lambda logits: UTILITIES[name].of(logits, torch.full((len(logits),), target))


def available(split: SplitNetwork, state: SplitState, utility: Function) -> Tensor:
    """U(A) - U(0), in float64."""
    with torch.no_grad():
        empty_logits = split.head(state.with_activations(torch.zeros_like(state.activations)))
        return utility(split.head(state).double()) - utility(empty_logits.double())


class Apply(nn.Module):
    def __init__(self, function: Function) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def head_with(function: Function | nn.Module, channels: int = 4, classes: int = 3) -> nn.Module:
    """A convolution, something else of the same shape, and a linear layer; the same weights at every call."""
    torch.manual_seed(1)
    middle = function if isinstance(function, nn.Module) else Apply(function)
    size = 5 * (GRID - 1) ** 2
    return nn.Sequential(nn.Conv2d(channels, 5, 2), middle, nn.Flatten(), nn.Linear(size, classes))


class SqueezeAndExcite(nn.Module):
    def __init__(self, channels: int = 5) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(channels, 3, 1), nn.Conv2d(3, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        gate = functional.silu(self.down(functional.adaptive_avg_pool2d(x, 1)), inplace=True)
        return torch.sigmoid(self.up(gate)) * x
