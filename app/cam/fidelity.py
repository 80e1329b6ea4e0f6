"""How near an attribution is to the Shapley values it stands for."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

GridMap = Float[Tensor, "grid_height grid_width"]


@dataclass(frozen=True, slots=True)
class Fidelity:
    """Agreement of an attribution with Shapley values; NaN where undefined.

    Attributes:
        pearson: correlation over the players, [-1, 1].
        spearman: correlation of their ranks, ties sharing the mean rank, [-1, 1].
        cosine: of the angle between the two as vectors, [-1, 1].
        relative_l2: |attribution - Shapley values| / |Shapley values|.
        efficiency_gap: |sum of the attribution - (U(A) - U(0))| / |U(A) - U(0)|.
    """

    pearson: float
    spearman: float
    cosine: float
    relative_l2: float
    efficiency_gap: float


def compare(attribution: GridMap, shapley: GridMap, available: float) -> Fidelity:
    """Compares an attribution with Shapley values, in float64.

    Args:
        attribution: signed.
        shapley: the Shapley values of the same game.
        available: U(A) - U(0), which Shapley values sum to.
    """
    found, truth = attribution.double().flatten(), shapley.double().flatten()
    gap = abs(found.sum().item() - available)
    return Fidelity(
        pearson=_cosine(found - found.mean(), truth - truth.mean()),
        spearman=_spearman(found, truth),
        cosine=_cosine(found, truth),
        relative_l2=_ratio((found - truth).norm().item(), truth.norm().item()),
        efficiency_gap=_ratio(gap, abs(available)),
    )


def _spearman(one: Float[Tensor, " player"], other: Float[Tensor, " player"]) -> float:
    ranks = [_ranks(values) for values in (one, other)]
    return _cosine(*(rank - rank.mean() for rank in ranks))


def _ranks(values: Float[Tensor, " player"]) -> Float[Tensor, " player"]:
    """Places in ascending order; equal values share the mean of theirs."""
    _, group, counts = torch.unique(values, return_inverse=True, return_counts=True)
    middle: Tensor = counts.cumsum(0) - (counts - 1) / 2
    return middle[group].double()


def _cosine(one: Float[Tensor, " player"], other: Float[Tensor, " player"]) -> float:
    cosine = _ratio((one @ other).item(), (one.norm() * other.norm()).item())
    return math.copysign(min(abs(cosine), 1.0), cosine) if math.isfinite(cosine) else math.nan


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole > 0 else math.nan
