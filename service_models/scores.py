"""How the logits of a network become probabilities."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

ScoreName = Literal["softmax", "sigmoid"]


class ScoreFunction:
    """A network's score function; everything that speaks of a probability goes through it.

    Attributes:
        name: as configuration and replies state it.
    """

    name: ScoreName

    def __reduce__(self) -> "tuple[Callable[[ScoreName], ScoreFunction], tuple[ScoreName]]":
        """There is one of each in a process, so that they can be told apart by `is`."""
        return _named, (self.name,)

    def log_probabilities(self, logits: Tensor) -> Tensor:
        """Natural logarithms of the probabilities of logits (..., class), never taken of a rounded probability."""
        raise NotImplementedError

    def probabilities(self, logits: Tensor) -> Tensor:
        """The probabilities of logits (..., class)."""
        raise NotImplementedError


class _Softmax(ScoreFunction):
    """One label a picture: probabilities sum to 1."""

    name = "softmax"

    def log_probabilities(self, logits: Tensor) -> Tensor:
        return torch.log_softmax(logits, dim=-1)

    def probabilities(self, logits: Tensor) -> Tensor:
        return torch.softmax(logits, dim=-1)


class _Sigmoid(ScoreFunction):
    """Every label for itself."""

    name = "sigmoid"

    def log_probabilities(self, logits: Tensor) -> Tensor:
        return functional.logsigmoid(logits)

    def probabilities(self, logits: Tensor) -> Tensor:
        return torch.sigmoid(logits)


SOFTMAX: ScoreFunction = _Softmax()
SIGMOID: ScoreFunction = _Sigmoid()
SCORE_FUNCTIONS: Mapping[ScoreName, ScoreFunction] = MappingProxyType({each.name: each for each in (SOFTMAX, SIGMOID)})


def _named(name: ScoreName) -> ScoreFunction:
    return SCORE_FUNCTIONS[name]
