"""Small games in float64, and the slow, obvious answers to them."""

import itertools
import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from app.cam.split import SplitNetwork
from app.cam.splitting import split_network
from app.cam.state import SplitState

GRID = 3


class Tiny(nn.Module):
    """A pointwise convolution as target layer `features`, followed by any head."""

    def __init__(self, head: nn.Module, channels: int = 4) -> None:
        super().__init__()
        self.features = nn.Conv2d(3, channels, 1)
        self.head = head

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))


class Quadratic(nn.Module):
    """Logits that are quadratic in the activations."""

    def __init__(self, players: int, channels: int = 4, classes: int = 3) -> None:
        super().__init__()
        size = channels * players
        self.linear = nn.Linear(size, classes)
        self.form = nn.Parameter(torch.randn(classes, size, size) / size)

    def forward(self, activations: Tensor) -> Tensor:
        a = activations.flatten(1)
        return self.linear(a) + torch.einsum("ri,kij,rj->rk", a, self.form, a)


class PoolAndClassify(nn.Module):
    """Global average pooling and one linear layer."""

    def __init__(self, channels: int = 4, classes: int = 3) -> None:
        super().__init__()
        self.fc = nn.Linear(channels, classes)

    def forward(self, activations: Tensor) -> Tensor:
        return self.fc(activations.mean(dim=(2, 3)))


def smooth_head(channels: int = 4, classes: int = 3) -> nn.Module:
    """Convolution, a smooth activation, flattening and a linear layer: no derivative is trivial."""
    return nn.Sequential(nn.Conv2d(channels, 5, 2), nn.SiLU(), nn.Flatten(), nn.Linear(5 * (GRID - 1) ** 2, classes))


def linear_head(channels: int = 4, classes: int = 3) -> nn.Module:
    """Logits linear in the activations, each position with weights of its own."""
    return nn.Sequential(nn.Flatten(), nn.Linear(channels * GRID**2, classes))


def split_tiny(head: nn.Module, seed: int = 0, channels: int = 4) -> tuple[SplitNetwork, SplitState]:
    """A tiny network in float64, split at its features, and the state of two images."""
    torch.manual_seed(seed)
    model = Tiny(head, channels).double().eval().requires_grad_(False)
    split = split_network(model, "features", (GRID, GRID))
    images = torch.randn(2, 3, GRID, GRID, dtype=torch.float64)
    return split, split.trunk(images)


def shapley_values(
    split: SplitNetwork, state: SplitState, utility: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor]:
    """Shapley values of the players of a one-row state by enumeration of all coalitions, and U(A) - U(0)."""
    height, width = state.activations.shape[2:]
    players = height * width
    masks = torch.tensor(list(itertools.product((0.0, 1.0), repeat=players)), dtype=torch.float64)
    coalitions = state.take(torch.zeros(len(masks), dtype=torch.long))
    masked = coalitions.activations * masks.reshape(-1, 1, height, width)
    with torch.no_grad():
        values = utility(split.head(coalitions.with_activations(masked)))
    worth = {tuple(mask.int().tolist()): value for mask, value in zip(masks, values, strict=True)}
    shapley = torch.zeros(players, dtype=torch.float64)
    for mask, value in worth.items():
        size = sum(mask)
        for player in range(players):
            if not mask[player]:
                joined = (*mask[:player], 1, *mask[player + 1 :])
                weight = math.factorial(size) * math.factorial(players - size - 1) / math.factorial(players)
                shapley[player] += weight * (worth[joined] - value)
    total = worth[(1,) * players] - worth[(0,) * players]
    return shapley.reshape(height, width), total
