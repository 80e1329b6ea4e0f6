"""Estimates before the work: they count what is then done."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from app.cam.cost import Costs, costliest, estimate_s, measure_costs
from app.cam.engine import explain, with_references
from app.cam.game import Effort, Work
from app.cam.methods import METHODS
from app.cam.questions import Question
from app.cam.split import SplitNetwork, State
from app.cam.splitting import split_network
from app.cam.utilities import UTILITIES
from app.cam.views import Smooth
from tests.cam.games import PoolAndClassify, split_tiny
from tests.cam.test_shapley import additive_head, curved_head, split_grid

REST = UTILITIES["rest"]
PASSES_ONLY = Costs(image_s=1.0, head_row_s=0.0, coalition_s=0.0)
HEADS_ONLY = Costs(image_s=0.0, head_row_s=1.0, coalition_s=0.0)
Counted = Callable[[], tuple[int, int]]


def question(name: str, **effort: int) -> Question:
    return Question(0, METHODS[name], REST, 1, effort=Effort(**effort))


def estimated(
    splits: list[SplitNetwork], costs: list[Costs], questions: list[Question], *, metrics: bool, smooth: Smooth
) -> float:
    """The estimate where the figures of all questions are wanted, or of none."""
    return estimate_s(splits, costs, [replace(question, metrics=metrics) for question in questions], smooth)


def count_rows(split: SplitNetwork, monkeypatch: pytest.MonkeyPatch) -> Counted:
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
    estimate = estimated([split], [PASSES_ONLY], [asked], metrics=metrics, smooth=smooth)
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
    estimate = estimated([split], [HEADS_ONLY], [asked], metrics=False, smooth="none")
    if name == "aumann-shapley":
        estimate /= 3  # with the backward pass
    assert rows - 4 <= estimate <= rows + 4


def test_references_and_layers_and_targets_are_counted() -> None:
    split, _ = split_grid(curved_head(16), (4, 4))
    several = [Question(0, METHODS["scorecam"], REST, target, reference=True) for target in range(3)]
    asked, _ = with_references(several)
    assert len(asked) == 6
    plain = estimated([split], [PASSES_ONLY], asked, metrics=False, smooth="none")
    assert plain == 1 + split.grid.channels  # the targets share the masked images
    two = estimated([split, split], [PASSES_ONLY] * 2, asked, metrics=False, smooth="none")
    assert two == 2 * plain
    sampled = estimated([split], [HEADS_ONLY], asked, metrics=True, smooth="none")
    assert sampled >= 256 * 15
    assert costliest([split], [HEADS_ONLY], asked).name == "shapley-sampling"
    assert costliest([split], [PASSES_ONLY], asked).name == "scorecam"


def test_few_players_cost_all_their_coalitions() -> None:
    split, _ = split_tiny(curved_head(9))
    assert METHODS["shapley-sampling"].work(split, Effort()) == Work(head_rows=2**9, is_shared=True)


def test_costs_are_measured() -> None:
    split, image = split_grid(additive_head(), (4, 4))
    costs = measure_costs(split, image)
    assert 0 < costs.coalition_s < costs.head_row_s < 1
    assert 0 < costs.image_s < 1
    assert measure_costs(split, image, image_s=5.0).image_s == 5.0


def two_layers(monkeypatch: pytest.MonkeyPatch) -> tuple[list[SplitNetwork], Tensor, list[Counted]]:
    """A network in float64 split at two layers, two images, and what passes through each split."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1), torch.nn.Tanh(), torch.nn.Conv2d(4, 6, 1), torch.nn.Tanh())
    model.extend([torch.nn.Flatten(), torch.nn.Linear(6 * 16, 3)]).double().eval().requires_grad_(False)
    splits = [split_network(model, path, (4, 4)) for path in ("0", "2")]
    images = torch.randn(2, 3, 4, 4, dtype=torch.float64)
    return splits, images, [count_rows(split, monkeypatch) for split in splits]


@pytest.mark.parametrize("metrics", [False, True])
@pytest.mark.parametrize("smooth", ["none", "flip-scale"])
def test_the_passes_of_layers_references_and_figures_are_made_as_estimated(
    smooth: Smooth, metrics: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each layer at a price of its own, so that a pass cannot be counted at the wrong one."""
    splits, images, counted = two_layers(monkeypatch)
    questions = [
        Question(0, METHODS["scorecam"], REST, 1, reference=True),
        Question(0, METHODS["scorecam"], UTILITIES["pre-softmax"], 2),
        Question(1, METHODS["scorecam"], REST, 0),
        Question(1, METHODS["gradcam"], REST, 0, reference=True),
    ]
    explain(splits, images, questions, metrics=metrics, smooth=smooth)
    estimate = estimated(
        splits, [PASSES_ONLY, Costs(1000.0, 0.0, 0.0)], with_references(questions)[0], metrics=metrics, smooth=smooth
    )
    first, second = (images for images, _rows in (count() for count in counted))
    assert estimate == first + 1000 * second
    # The opposites of the explanation maps are shown at the first layer only; the channels are 4 and 6.
    views = {"none": 1, "flip-scale": 6}[smooth]
    shown = len(questions) if metrics else 0
    masked = 2 + 3 * metrics  # once for each image, and for each explanation map
    assert (first, second) == (views * (2 + shown + 4 * masked) + shown, views * (2 + shown + 6 * masked))


def test_only_the_figures_that_are_wanted_are_estimated() -> None:
    split, _ = split_grid(curved_head(16), (4, 4))
    wanted, unwanted = question("scorecam"), replace(question("scorecam"), target=2, metrics=False)
    # Both share the image and its masks; one explanation map with masks of its own, and its opposite.
    assert estimate_s([split], [PASSES_ONLY], [wanted, unwanted], "none") == (1 + 4) + (1 + 4) + 1


def test_figures_of_a_reference_are_not_estimated() -> None:
    split, _ = split_grid(curved_head(16), (4, 4))
    alone = Question(0, METHODS["hirescam"], REST, 1)
    with_its_reference, _ = with_references([replace(alone, reference=True)])
    for costs in (PASSES_ONLY, HEADS_ONLY):
        for metrics in (False, True):
            plain, held = (
                estimated([split], [costs], asked, metrics=metrics, smooth="none")
                for asked in ([alone], with_its_reference)
            )
            assert held - plain == costs.head_row_s * 256 * 15


@pytest.mark.parametrize(
    ("name", "costs", "work"),
    [("scorecam", PASSES_ONLY, 4), ("ablationcam", HEADS_ONLY, 4), ("shapley-sampling", HEADS_ONLY, 6 * 15)],
)
def test_shared_work_counts_once_for_each_image_and_again_on_every_explanation_map(
    name: str, costs: Costs, work: int
) -> None:
    split, _ = split_grid(curved_head(16), (4, 4))

    def estimate(questions: list[Question], metrics: bool = False) -> float:
        passes = len({q.image for q in questions}) + 2 * metrics * len(questions)
        total = estimated([split], [costs], questions, metrics=metrics, smooth="none")
        return total - costs.image_s * passes

    asked = [
        replace(question(name, permutations=6), target=target, utility=utility)
        for target in (0, 1, 2)
        for utility in UTILITIES.values()
    ]
    assert estimate(asked) == work
    assert estimate([*asked, *(replace(one, image=1) for one in asked)]) == 2 * work
    assert estimate(asked, metrics=True) == work + len(asked) * work


def test_permutations_of_another_seed_count_anew() -> None:
    split, _ = split_grid(curved_head(16), (4, 4))
    asked = [replace(question("shapley-sampling", permutations=6), seed=seed) for seed in (0, 1, 0)]
    assert estimated([split], [HEADS_ONLY], asked, metrics=False, smooth="none") == 2 * 6 * 15


def test_work_that_is_not_shared_counts_for_each_question() -> None:
    split, _ = split_grid(curved_head(16), (4, 4))
    asked = [replace(question("aumann-shapley", nodes=5), target=target) for target in (0, 1, 2)]
    for questions, times in [(asked[:1], 1), (asked, 3), ([*asked, replace(asked[0], image=1)], 4)]:
        for metrics in (False, True):
            estimate = estimated([split], [HEADS_ONLY], questions, metrics=metrics, smooth="none")
            assert estimate == 3 * 5 * times * (1 + metrics)


def test_the_least_of_two_measurements_is_taken_part_by_part() -> None:
    assert Costs(1.0, 5.0, 3.0).least(Costs(2.0, 4.0, 3.0)) == Costs(1.0, 4.0, 3.0)
