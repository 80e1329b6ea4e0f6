"""The utilities, methods and figures of whole networks in plain PyTorch: hooks, autograd, enumeration, quadrature."""

import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from app.cam.metrics import Metrics
from app.cam.questions import Explanation

# Of logits (row, label), the value of each row for a label.
PlainUtility = Callable[[Tensor, int], Tensor]

PLAIN: Mapping[str, Mapping[str, PlainUtility]] = {
    "sigmoid": {
        "pre-softmax": lambda y, label: y[:, label],
        "post-softmax": lambda y, label: torch.sigmoid(y[:, label]),
        "log-softmax": lambda y, label: logsigmoid(y[:, label]),
        "rest": lambda y, label: y[:, label] + logsigmoid(y[:, label]),
    },
    "softmax": {
        "pre-softmax": lambda y, label: y[:, label],
        "post-softmax": lambda y, label: y.softmax(1)[:, label],
        "log-softmax": lambda y, label: y.log_softmax(1)[:, label],
        "rest": lambda y, label: y[:, label] + y.log_softmax(1)[:, label],
    },
}


@dataclass(frozen=True)
class Plain:
    """U, its gradient and its Hessian-vector product at a layer of one image, (channel, height, width)."""

    activations: Tensor
    gradients: Tensor
    hvp: Tensor
    value: float


def plain(
    logits_of: Callable[[Tensor], Tensor], module: nn.Module, image: Tensor, label: int, u: PlainUtility
) -> Plain:
    """Differentiates U twice at what a module returns."""
    seen: list[Tensor] = []

    def as_leaf(_module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
        seen.append(output.detach().requires_grad_())
        return seen[-1].clone()

    handle = module.register_forward_hook(as_leaf)
    try:
        (value,) = u(logits_of(image), label)
    finally:
        handle.remove()
    (leaf,) = seen
    (gradients,) = torch.autograd.grad(value, leaf, create_graph=True)
    hvp = torch.zeros_like(leaf)
    if gradients.requires_grad:
        (found,) = torch.autograd.grad(gradients, leaf, leaf.detach(), allow_unused=True)
        hvp = hvp if found is None else found
    return Plain(leaf.detach()[0], gradients.detach()[0], hvp[0], value.item())


GRADIENT_METHODS = (
    "gradcam",
    "hirescam",
    "gradcam-e",
    "layercam",
    "xgradcam",
    "gradcam++",
    "shapleycam",
    "shapleycam-h",
    "shapleycam-e",
)


def attribution_of(method: str, found: Plain) -> Tensor:
    """The attribution of a gradient method, (height, width)."""
    a, g, w = found.activations, found.gradients, found.gradients - found.hvp / 2
    total = a.sum((1, 2), keepdim=True)

    def weighed(weights: Tensor) -> Tensor:
        return (weights * a).sum(0)

    return {
        "gradcam": lambda: weighed(g.mean((1, 2), keepdim=True)),
        "hirescam": lambda: (g * a).sum(0),
        "gradcam-e": lambda: (g * a).relu().sum(0),
        "layercam": lambda: (g.relu() * a).sum(0),
        "xgradcam": lambda: weighed((g * a / (total + 1e-7)).sum((1, 2), keepdim=True)),
        "gradcam++": lambda: weighed((g**2 / (2 * g**2 + total * g**3 + 1e-6) * g.relu()).sum((1, 2), keepdim=True)),
        "shapleycam": lambda: weighed(w.mean((1, 2), keepdim=True)),
        "shapleycam-h": lambda: (w * a).sum(0),
        "shapleycam-e": lambda: (w * a).relu().sum(0),
    }[method]()


def head_of(
    logits_of: Callable[[Tensor], Tensor], module: nn.Module, image: Tensor
) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """The activations of one image, and the logits that the network makes of others in their place."""
    seen: list[Tensor] = []
    handle = module.register_forward_hook(lambda _module, _inputs, output: seen.append(output.detach().clone()))
    logits_of(image)
    handle.remove()

    def head(activations: Tensor) -> Tensor:
        handle = module.register_forward_hook(lambda _module, _inputs, _output: activations.clone())
        try:
            return logits_of(image.expand(len(activations), -1, -1, -1))
        finally:
            handle.remove()

    return seen[0], head


@dataclass(frozen=True)
class Game:
    """The value of every coalition of the positions of a layer."""

    values: Mapping[tuple[int, ...], float]

    @classmethod
    def of(cls, activations: Tensor, worth: Callable[[Tensor], Tensor]) -> "Game":
        """Evaluates U of every coalition at once."""
        height, width = activations.shape[2:]
        subsets = torch.tensor(list(itertools.product((0.0, 1.0), repeat=height * width)), dtype=activations.dtype)
        with torch.no_grad():
            values = worth(activations * subsets.reshape(-1, 1, height, width)).tolist()
        rows = [tuple(map(int, row)) for row in subsets.tolist()]
        return cls(dict(zip(rows, values, strict=True)))

    @property
    def gain(self) -> float:
        """U(A) - U(0)."""
        return self.values[max(self.values)] - self.values[min(self.values)]

    def shapley(self) -> Tensor:
        """The Shapley value of each position (Eq. 7)."""
        players = len(next(iter(self.values)))
        found = torch.zeros(players, dtype=torch.float64)
        for player in range(players):
            for row in self.values:
                if not row[player]:
                    joined = (*row[:player], 1, *row[player + 1 :])
                    weight = math.factorial(sum(row)) * math.factorial(players - 1 - sum(row)) / math.factorial(players)
                    found[player] += weight * (self.values[joined] - self.values[row])
        return found


def mean_slopes(worth: Callable[[Tensor], Tensor], end: Tensor, start: Tensor | None = None, nodes: int = 32) -> Tensor:
    """The mean gradient of a function of rows along the line from `start` (zero) to `end`, (1, ...)."""
    points, weights = (torch.from_numpy(part) for part in np.polynomial.legendre.leggauss(nodes))
    t = ((points + 1) / 2).reshape(-1, *[1] * (end.ndim - 1))
    begin = torch.zeros_like(end) if start is None else start
    line = (begin + t * (end - begin)).requires_grad_()
    (slopes,) = torch.autograd.grad(worth(line).sum(), line)
    return torch.einsum("n,n...->...", weights / 2, slopes)[None]


def naive_metrics(
    probability_of: Callable[[Tensor], float], image: Tensor, found: Explanation, again: Explanation
) -> dict[str, float]:
    """The six figures of an explanation.

    Args:
        probability_of: of the explained label, for one picture.
        image: (1, channel, height, width).
        found: the explanation.
        again: that of the picture times the heatmap.
    """
    heatmap = found.heatmap.double()
    y, o, d = (probability_of(x) for x in (image, image * heatmap, image * (1 - heatmap)))
    drop, deletion = 100 * max(0, y - o) / y, 100 * max(0, y - d) / y
    pair = torch.stack((heatmap.flatten(), again.heatmap.double().flatten()))
    is_constant = bool((pair.amax(dim=1) == pair.amin(dim=1)).any())
    coherency = 0.0 if is_constant else 50 * (1 + torch.corrcoef(pair)[0, 1].item())
    complexity = 100 * heatmap.mean().item()
    terms = (coherency, 100 - complexity, 100 - drop)
    adcc = 0.0 if min(terms) <= 0 else 3 / sum(1 / term for term in terms)
    names = ("average_drop", "coherency", "complexity", "adcc", "increase_in_confidence", "average_drop_in_deletion")
    assert set(names) == set(Metrics.__slots__)
    return dict(zip(names, (drop, coherency, complexity, adcc, 100.0 * (o > y), deletion), strict=True))
