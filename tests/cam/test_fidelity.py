"""Agreement with Shapley values, against numpy's formulas and cases with known answers."""

import math
from dataclasses import astuple

import numpy as np
import pytest
import torch

from app.cam.engine import explain
from app.cam.fidelity import compare
from app.cam.methods import METHODS
from app.cam.questions import Question
from app.cam.utilities import UTILITIES
from tests.cam.games import PoolAndClassify, smooth_head, split_tiny
from tests.cam.test_shapley import curved_head, split_grid

PRE, REST = UTILITIES["pre-softmax"], UTILITIES["rest"]


@pytest.mark.parametrize("seed", range(4))
def test_figures_equal_numpys(seed: int) -> None:
    one, other = np.random.default_rng(seed).normal(size=(2, 7, 7))
    found = compare(torch.from_numpy(one), torch.from_numpy(other), 3.0)
    assert found.pearson == pytest.approx(np.corrcoef(one.ravel(), other.ravel())[0, 1])
    ranks = [values.ravel().argsort().argsort() for values in (one, other)]
    assert found.spearman == pytest.approx(np.corrcoef(*ranks)[0, 1])
    assert found.cosine == pytest.approx((one * other).sum() / np.sqrt((one**2).sum() * (other**2).sum()))
    assert found.relative_l2 == pytest.approx(np.linalg.norm(one - other) / np.linalg.norm(other))
    assert found.efficiency_gap == pytest.approx(abs(one.sum() - 3.0) / 3.0)


def test_equal_values_share_their_mean_rank() -> None:
    found = compare(torch.tensor([[1.0, 2.0, 2.0, 3.0]]), torch.tensor([[1.0, 2.0, 3.0, 4.0]]), 10.0)
    # Ranks 1, 2.5, 2.5, 4 against 1, 2, 3, 4.
    assert found.spearman == pytest.approx(4.5 / math.sqrt(4.5 * 5))


def test_the_same_agrees_entirely_and_the_opposite_not_at_all() -> None:
    values = torch.tensor([[1.0, -2.0], [3.0, 0.5]])
    assert astuple(compare(values, values, 2.5)) == pytest.approx((1, 1, 1, 0, 0))
    opposite = compare(-values, values, 2.5)
    assert (opposite.pearson, opposite.spearman, opposite.cosine) == pytest.approx((-1, -1, -1))
    assert (opposite.relative_l2, opposite.efficiency_gap) == pytest.approx((2, 2))


def test_what_is_constant_or_pays_nothing_is_undefined_not_zero() -> None:
    flat = compare(torch.ones(2, 2), torch.tensor([[1.0, 2.0], [3.0, 4.0]]), 0.0)
    assert math.isnan(flat.pearson)
    assert math.isnan(flat.spearman)
    assert flat.cosine == pytest.approx(10 / math.sqrt(4 * 30))
    assert math.isnan(flat.efficiency_gap)
    assert math.isnan(compare(torch.ones(2, 2), torch.zeros(2, 2), 0.0).relative_l2)


def test_an_exact_method_is_faithful_where_it_is_exact() -> None:
    split, _ = split_tiny(PoolAndClassify())
    image = torch.randn(1, 3, 3, 3, dtype=torch.float64)
    (found,) = explain(split, image, [Question(0, METHODS["gradcam"], PRE, reference=True)]).explanations
    assert found.fidelity is not None
    assert found.fidelity.pearson == pytest.approx(1, abs=1e-9)
    assert found.fidelity.relative_l2 == pytest.approx(0, abs=1e-9)
    assert found.fidelity.efficiency_gap == pytest.approx(0, abs=1e-9)


def test_the_reference_is_the_same_game_and_only_the_one_that_asks_gets_it() -> None:
    split, _ = split_tiny(smooth_head())
    images = torch.randn(2, 3, 3, 3, dtype=torch.float64)
    questions = [
        Question(image, METHODS[method], utility, target, reference=method == "hirescam")
        for image in range(2)
        for utility in (PRE, REST)
        for target in (0, "predicted")
        for method in ("hirescam", "gradcam", "shapley-sampling")
    ]
    found = explain(split, images, questions, metrics=False).explanations
    for start in range(0, len(found), 3):
        hirescam, gradcam, exact = found[start : start + 3]  # nine players: sampling enumerates
        assert exact.layers[0].available is not None
        assert hirescam.fidelity == compare(hirescam.attribution, exact.attribution, exact.layers[0].available)
        assert gradcam.fidelity is None
        assert exact.fidelity is None


def test_a_sample_is_not_held_against_itself() -> None:
    split, image = split_grid(curved_head(16), (4, 4))
    (found,) = explain(split, image, [Question(0, METHODS["shapley-sampling"], REST, reference=True)]).explanations
    assert found.fidelity is not None
    assert 1e-5 < found.fidelity.relative_l2 < 0.2
    assert found.fidelity.efficiency_gap < 1e-9


def test_undefined_figures_are_named() -> None:
    split, image = split_grid(nn_constant(), (4, 4))
    (found,) = explain(split, image, [Question(0, METHODS["gradcam"], PRE, 0, reference=True)]).explanations
    assert any("undefined against the Shapley values" in warning for warning in found.warnings)


def nn_constant() -> torch.nn.Module:
    """Logits that do not depend on the activations."""
    head = PoolAndClassify()
    torch.nn.init.zeros_(head.fc.weight)
    return head
