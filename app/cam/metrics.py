"""The six quality figures of an explanation, in percent, 0 to 100; NaN where one is undefined."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from app.cam.heatmap import is_constant

Percent = Float[Tensor, " row"]


@dataclass(frozen=True, slots=True)
class Metrics:
    """Quality figures of each row, float64, in percent; NaN marks an undefined one.

    Attributes:
        average_drop: 100 max(0, y - o) / y (Eq. 18).
        coherency: correlation of the heatmap with that of the explanation map (Eq. 19).
        complexity: mean of the heatmap (Eq. 20).
        adcc: harmonic mean of coherency, 100 - complexity and 100 - average drop (Eq. 21).
        increase_in_confidence: 100 if o > y else 0 (Eq. 22).
        average_drop_in_deletion: 100 max(0, y - d) / y (Eq. 23).
    """

    average_drop: Percent
    coherency: Percent
    complexity: Percent
    adcc: Percent
    increase_in_confidence: Percent
    average_drop_in_deletion: Percent


def compute_metrics(
    score: Float[Tensor, " row"],
    explained_score: Float[Tensor, " row"],
    deleted_score: Float[Tensor, " row"],
    heatmaps: Float[Tensor, "row height width"],
    explained_heatmaps: Float[Tensor, "row height width"],
) -> Metrics:
    """Computes all six.

    Args:
        score: y, log-probability of the target class on the image.
        explained_score: o, the same on the explanation map x * heatmap.
        deleted_score: d, the same on the anti-explanation map x * (1 - heatmap).
        heatmaps: of the image, in [0, 1].
        explained_heatmaps: of the explanation map, by the same method for the same class.

    Returns:
        The figures. Drops are undefined where the score itself is zero in double precision.
    """
    average_drop = _drop(score, explained_score)
    agreement = coherency(heatmaps, explained_heatmaps)
    complexity = 100 * heatmaps.double().mean(dim=(1, 2))
    return Metrics(
        average_drop=average_drop,
        coherency=agreement,
        complexity=complexity,
        adcc=adcc(agreement, complexity, average_drop),
        increase_in_confidence=torch.where(explained_score > score, 100.0, 0.0).double(),
        average_drop_in_deletion=_drop(score, deleted_score),
    )


def _drop(score: Float[Tensor, " row"], other: Float[Tensor, " row"]) -> Percent:
    """100 max(0, y - o) / y from log-probabilities, exact also where y is tiny; undefined where y is 0."""
    score, other = score.double(), other.double()
    drop = -100 * torch.expm1((other - score).clamp_max(0.0)) + 0.0  # never -0.0
    return torch.where(score.exp() > 0, drop, torch.nan)


def coherency(heatmaps: Float[Tensor, "row height width"], others: Float[Tensor, "row height width"]) -> Percent:
    """Pearson correlation of two heatmaps, mapped from [-1, 1] to [0, 100]; 0 where either is constant (Eq. 19)."""
    a = heatmaps.double().flatten(1)
    b = others.double().flatten(1)
    a = a - a.mean(dim=1, keepdim=True)
    b = b - b.mean(dim=1, keepdim=True)
    correlation = (a * b).sum(dim=1) / (a.norm(dim=1) * b.norm(dim=1))
    constant = is_constant(heatmaps) | is_constant(others)
    return torch.where(constant, 0.0, 50 * (1 + correlation.clamp(-1, 1)))


def adcc(coherency: Percent, complexity: Percent, average_drop: Percent) -> Percent:
    """Harmonic mean of coherency, 100 - complexity and 100 - average drop (Eq. 21).

    0 where any of the three is 0, NaN where one is undefined. For a data set, hand it the *means* of the
    three, as the paper's tables do.
    """
    terms = torch.stack((coherency, 100 - complexity, 100 - average_drop))
    mean = 3 / (1 / terms).sum(dim=0)
    return torch.where((terms <= 0).any(dim=0) & ~terms.isnan().any(dim=0), 0.0, mean)
