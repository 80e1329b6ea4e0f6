"""Estimates before the work: they count what is then done."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from app.cam.cost import Costs, costliest, estimate_s, measure_costs
from app.cam.engine import explain, with_references
from app.cam.game import Effort, Work
from app.cam.methods import METHODS
from app.cam.questions import Question
from app.cam.split import SplitNetwork, State
from app.cam.utilities import UTILITIES
from app.cam.views import Smooth
from tests.cam.games import PoolAndClassify, split_tiny
from tests.cam.test_shapley import additive_head, curved_head, split_grid

REST = UTILITIES["rest"]
PASSES_ONLY = Costs(image_s=1.0, head_row_s=0.0, coalition_s=0.0)
HEADS_ONLY = Costs(image_s=0.0, head_row_s=1.0, coalition_s=0.0)


def question(name: str, **effort: int) -> Question:
    return Question(0, METHODS[name], REST, 1, effort=Effort(**effort))


def count_rows(split: SplitNetwork, monkeypatch: pytest.MonkeyPatch) -> Callable[[], tuple[int, int]]:
    """Counts the images that pass through the trunk and the rows that pass through the head."""
    counted = [0, 0]
    trunk, head = split.trunk, split.head

    def counting_trunk(images: Tensor) -> State:
        counted[0] += len(images)
        return trunk(images)

    def counting_head(state: State, *mode: object) -> Tensor:
        counted[1] += len(state)
        return head(state, *mode)

    monkeypatch.setattr(split, "trunk", counting_trunk)
    monkeypatch.setattr(split, "head", counting_head)
    return lambda: (counted[0], counted[1])


@pytest.mark.parametrize("metrics", [False, True])
@pytest.mark.parametrize("smooth", ["none", "flip", "flip-scale"])
@pytest.mark.parametrize("name", ["gradcam", "scorecam", "ablationcam", "shapley-sampling"])
def test_the_passes_that_are_estimated_are_made(
    name: str, smooth: Smooth, metrics: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    split, image = split_grid(curved_head(16), (4, 4))
    counted = count_rows(split, monkeypatch)
    asked = question(name, permutations=6)
    (found,) = explain(split, image, [asked], metrics=metrics, smooth=smooth).explanations
    estimate = estimate_s([split], [PASSES_ONLY], [asked], metrics=metrics, smooth=smooth)
    images, _rows = counted()
    assert images == estimate == found.forward_passes


@pytest.mark.parametrize("head", [curved_head(16), additive_head(), PoolAndClassify()])
@pytest.mark.parametrize("name", ["ablationcam", "shapley-sampling", "aumann-shapley"])
def test_the_heads_rows_are_estimated_to_a_few(
    name: str, head: torch.nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    split, image = split_grid(head, (4, 4))
    counted = count_rows(split, monkeypatch)
    asked = question(name, permutations=40, nodes=20)
    explain(split, image, [asked], metrics=False)
    rows = counted()[1]
    estimate = estimate_s([split], [HEADS_ONLY], [asked], metrics=False, smooth="none")
    if name == "aumann-shapley":
        estimate /= 3  # with the backward pass
    assert rows - 4 <= estimate <= rows + 4


def test_references_and_layers_and_targets_are_counted() -> None:
    split, _ = split_grid(curved_head(16), (4, 4))
    several = [Question(0, METHODS["scorecam"], REST, target, reference=True) for target in range(3)]
    asked, _ = with_references(several)
    assert len(asked) == 6
    plain = estimate_s([split], [PASSES_ONLY], asked, metrics=False, smooth="none")
    assert plain == 1 + split.grid.channels  # the targets share the masked images
    two = estimate_s([split, split], [PASSES_ONLY] * 2, asked, metrics=False, smooth="none")
    assert two == 2 * plain
    sampled = estimate_s([split], [HEADS_ONLY], asked, metrics=True, smooth="none")
    assert sampled >= 256 * 15
    assert costliest([split], [HEADS_ONLY], asked).name == "shapley-sampling"
    assert costliest([split], [PASSES_ONLY], asked).name == "scorecam"


def test_few_players_cost_all_their_coalitions() -> None:
    split, _ = split_tiny(curved_head(9))
    assert METHODS["shapley-sampling"].work(split, Effort()) == Work(head_rows=2**9)


def test_costs_are_measured() -> None:
    split, image = split_grid(additive_head(), (4, 4))
    costs = measure_costs(split, image)
    assert 0 < costs.coalition_s < costs.head_row_s < 1
    assert 0 < costs.image_s < 1
    assert measure_costs(split, image, image_s=5.0).image_s == 5.0
