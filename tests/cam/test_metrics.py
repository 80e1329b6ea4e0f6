"""The six figures against a second, slow, obvious implementation, and at their edges."""

import math
import statistics

import pytest
import torch
from torch import Tensor

from app.cam.metrics import adcc, coherency, compute_metrics


def slow_metrics(y: float, o: float, d: float, heat: Tensor, other: Tensor) -> dict[str, float]:
    """Equations 18 to 23 in plain Python on probabilities."""
    a, b = heat.flatten().tolist(), other.flatten().tolist()
    drop = 100 * max(0, y - o) / y
    agreement = 0.0
    if max(a) > min(a) and max(b) > min(b):
        agreement = 100 * (statistics.correlation(a, b) + 1) / 2
    complexity = 100 * sum(a) / len(a)
    terms = (agreement, 100 - complexity, 100 - drop)
    return {
        "average_drop": drop,
        "coherency": agreement,
        "complexity": complexity,
        "adcc": 0.0 if min(terms) == 0 else statistics.harmonic_mean(terms),
        "increase_in_confidence": 100.0 if o > y else 0.0,
        "average_drop_in_deletion": 100 * max(0, y - d) / y,
    }


def maps(seed: int) -> Tensor:
    return torch.rand(6, 20, 20, generator=torch.Generator().manual_seed(seed))


def test_metrics_equal_the_slow_implementation() -> None:
    scores = torch.tensor(
        [
            [0.9, 0.5, 0.1],
            [0.2, 0.8, 0.2],
            [0.5, 0.5, 0.9],
            [1e-9, 1e-10, 2e-9],
            [1.0, 1e-6, 1.0],
            [0.3, 0.0, 0.3],
        ],
        dtype=torch.float64,
    )
    heat, other = maps(1), maps(2)
    other[1] = heat[1]
    other[2] = 1 - heat[2]
    heat[4] = 0.25
    found = compute_metrics(*scores.log().T, heat, other)
    for row in range(len(scores)):
        expected = slow_metrics(*scores[row].tolist(), heat[row].double(), other[row].double())
        for name, value in expected.items():
            assert getattr(found, name)[row].item() == pytest.approx(value, abs=1e-9), (name, row)


def test_coherency_of_equal_opposite_and_constant_maps() -> None:
    heat = maps(3)[:3]
    others = torch.stack((heat[0], 1 - heat[1], torch.zeros(20, 20)))
    assert coherency(heat, others).tolist() == pytest.approx([100, 0, 0], abs=1e-5)
    assert coherency(torch.zeros(1, 20, 20), heat[:1]).item() == 0


def test_nothing_positive_scores_zero() -> None:
    """An all-zero heatmap hides everything: no coherency, no complexity, ADCC 0."""
    nothing = torch.zeros(1, 8, 8)
    found = compute_metrics(*torch.tensor([[0.9], [0.1], [0.9]]).log(), nothing, nothing)
    assert found.coherency.item() == found.complexity.item() == found.adcc.item() == 0
    assert found.average_drop.item() == pytest.approx(100 * 0.8 / 0.9, rel=1e-6)
    assert found.average_drop_in_deletion.item() == 0


def test_a_zero_score_leaves_drops_and_adcc_undefined() -> None:
    heat = maps(4)[:1]
    score = torch.tensor([-2000.0])
    found = compute_metrics(score, torch.tensor([-1.0]), torch.tensor([-3000.0]), heat, maps(5)[:1])
    assert math.isnan(found.average_drop.item())
    assert math.isnan(found.average_drop_in_deletion.item())
    assert math.isnan(found.adcc.item())
    assert found.increase_in_confidence.item() == 100
    assert not math.isnan(found.coherency.item())


def test_a_score_below_single_precision_still_has_a_drop() -> None:
    heat = maps(6)[:1]
    score = torch.tensor([-400.0])
    found = compute_metrics(score, score - math.log(4), score, heat, heat)
    assert found.average_drop.item() == pytest.approx(75, abs=1e-4)


@pytest.mark.parametrize("terms", [(0.0, 50.0, 20.0), (80.0, 100.0, 20.0), (80.0, 50.0, 100.0)])
def test_adcc_is_zero_where_any_term_is(terms: tuple[float, float, float]) -> None:
    assert adcc(*(torch.tensor([term], dtype=torch.float64) for term in terms)).item() == 0
