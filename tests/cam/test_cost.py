"""Estimates before the work: they count what is then done."""

from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from app.cam import maps
from app.cam.cost import Costs, costliest, estimate_s
from app.cam.engine import explain, with_references
from app.cam.game import Game
from app.cam.methods import METHODS
from app.cam.questions import Question
from app.cam.split import SplitNetwork
from app.cam.splitting import split_network
from app.cam.state import SplitState
from app.cam.timing import measure_costs
from app.cam.utilities import UTILITIES
from app.cam.views import Smooth
from app.cam.work import SamplingOptions, WorkEstimate
from tests.cam.games import PoolAndClassify, split_tiny
from tests.cam.test_shapley import additive_head, curved_head, split_grid

REST = UTILITIES["rest"]
NOTHING = Costs(*[0.0] * len(fields(Costs)))
PASSES_ONLY = replace(NOTHING, image_s=1.0)
HEADS_ONLY = replace(NOTHING, head_row_s=1.0)
Counted = Callable[[], tuple[int, int]]


def question(name: str, **sampling: int) -> Question:
    return Question(0, METHODS[name], REST, 1, sampling=SamplingOptions(**sampling))


def estimated(
    splits: list[SplitNetwork], costs: list[Costs], questions: list[Question], *, metrics: bool, smooth: Smooth
) -> float:
    """The estimate where the figures of all questions are wanted, or of none."""
    return estimate_s(splits, costs, [replace(question, metrics=metrics) for question in questions], smooth)


def count_rows(split: SplitNetwork, monkeypatch: pytest.MonkeyPatch) -> Counted:
    """Counts the images that pass through the trunk and the rows that pass through the head."""
    counted = [0, 0]
    trunk, head = split.trunk, split.head

    def counting_trunk(images: Tensor) -> SplitState:
        counted[0] += len(images)
        return trunk(images)

    def counting_head(state: SplitState, *mode: object) -> Tensor:
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
    either = replace(NOTHING, head_row_s=1.0, gradient_row_s=1.0 if not split.structure.is_closed_form else 0.0)
    estimate = estimated([split], [either], [asked], metrics=False, smooth="none")
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
    assert METHODS["shapley-sampling"].work(split, SamplingOptions()) == WorkEstimate(
        head_rows=2**9, utility_values=2**9, rounds=9
    )


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
        splits,
        [PASSES_ONLY, replace(NOTHING, image_s=1000.0)],
        with_references(questions)[0],
        metrics=metrics,
        smooth=smooth,
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
        passes = len({q.image_index for q in questions}) + 2 * metrics * len(questions)
        lines = (1 + metrics) * len(questions)  # each of them asks about another class or utility
        total = estimated([split], [costs], questions, metrics=metrics, smooth="none")
        return total - costs.image_s * passes - costs.head_row_s * lines

    asked = [
        replace(question(name, permutations=6), target=target, utility=utility)
        for target in (0, 1, 2)
        for utility in UTILITIES.values()
    ]
    assert estimate(asked) == work
    assert estimate([*asked, *(replace(one, image_index=1) for one in asked)]) == 2 * work
    assert estimate(asked, metrics=True) == work + len(asked) * work


def test_permutations_of_another_seed_count_anew() -> None:
    split, _ = split_grid(curved_head(16), (4, 4))
    asked = [replace(question("shapley-sampling", permutations=6), seed=seed) for seed in (0, 1, 0)]
    # And the one row that all three ask about.
    assert estimated([split], [HEADS_ONLY], asked, metrics=False, smooth="none") == 2 * 6 * 15 + 1


def test_work_that_is_not_shared_counts_for_each_question() -> None:
    split, _ = split_grid(curved_head(16), (4, 4))
    asked = [replace(question("aumann-shapley", nodes=5), target=target) for target in (0, 1, 2)]
    for questions, times in [(asked[:1], 1), (asked, 3), ([*asked, replace(asked[0], image_index=1)], 4)]:
        for metrics in (False, True):
            gradients_only = replace(NOTHING, gradient_row_s=1.0)
            estimate = estimated([split], [gradients_only], questions, metrics=metrics, smooth="none")
            assert estimate == 5 * times * (1 + metrics)


def count_parts(splits: list[SplitNetwork], monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Counts what `explain` does, in the parts that have a price."""
    counted = dict.fromkeys((field.name for field in fields(Costs)), 0)

    def count(owner: object, name: str, note: Callable[..., object]) -> None:
        original = getattr(owner, name)

        def counting(*args: Any, **kwargs: Any) -> Any:
            note(*args, **kwargs)
            return original(*args, **kwargs)

        monkeypatch.setattr(owner, name, counting)

    def add(part: str, number: int) -> None:
        counted[part] += number

    def derivatives(state: SplitState, _utility: object, *, second_order: bool) -> None:
        add("hvp_row_s" if second_order else "gradient_row_s", len(state))

    def row_utility(game: Game, number: int, logits: Tensor) -> None:
        # Both ends of all permutations are looked at once more.
        if game.rows[number].utility.name != "pre-softmax" and len(logits) > 1:
            add("softmax_s", len(logits))

    count(Game, "row_utility", row_utility)
    count(maps, "heatmap", lambda attributions, _size: add("row_s", len(attributions)))
    for split in splits:
        count(split, "trunk", lambda images: add("image_s", len(images)))
        count(split, "differentiate", derivatives)
        count(split, "lift_contributions", lambda state, _utility: add("lift_row_s", len(state)))
        count(split, "empty_coalition_logits", lambda state: add("empty_row_s", len(state)))
        count(split, "head", lambda state, *_: add("head_row_s", 0 if torch.is_grad_enabled() else len(state)))
    return counted


@pytest.mark.parametrize(
    ("reference", "metrics", "smooth"),
    [(False, False, "none"), (True, True, "none"), (False, True, "flip-scale"), (True, False, "flip-scale")],
)
@pytest.mark.parametrize(
    "names",
    [
        *[("gradcam",), ("shapleycam",), ("fakecam",), ("scorecam",), ("ablationcam",), ("liftcam",)],
        *[("aumann-shapley",), ("shapley-sampling",), ("gradcam", "shapleycam", "shapley-sampling")],
    ],
    ids=str,
)
def test_every_part_of_the_dearest_requests_is_estimated(
    names: tuple[str, ...], reference: bool, metrics: bool, smooth: Smooth, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Targets, utilities, views, layers, references and figures: what is counted is what is then done."""
    splits, images, _ = two_layers(monkeypatch)
    splits = splits[:1] if reference else splits
    sampling = SamplingOptions(permutations=8, nodes=3, tolerance=1e-12)
    utilities = [UTILITIES["rest"], UTILITIES["pre-softmax"], UTILITIES["post-softmax"]]
    asked = [
        Question(0, METHODS[name], utility, target, sampling=sampling, metrics=metrics, reference=reference)
        for target in range(3)
        for name in names
        for utility in utilities
    ]
    counted = count_parts(splits, monkeypatch)
    explain(splits, images[:1], asked, smooth=smooth)
    games = len(splits) * len(with_references(asked)[0]) * {"none": 1, "flip-scale": 6}[smooth] * (1 + metrics)
    for part, number in counted.items():
        if part not in {"coalition_s", "round_s", "lift_call_s"}:  # inside of what is counted
            only = [replace(NOTHING, **{part: 1.0})] * len(splits)
            estimate = estimate_s(splits, only, with_references(asked)[0], smooth)
            # The empty coalition and all players are looked at once more for each game. A whole pass ends in the head.
            spare = {"head_row_s": 3 * games + counted["image_s"], "empty_row_s": games}.get(part, 0)
            # Games with other draws share what each player adds alone.
            more = games * splits[0].grid.height * splits[0].grid.width if part == "head_row_s" else 0
            assert number - spare <= estimate <= number + len(splits) + more, part


def test_the_least_of_two_measurements_is_taken_part_by_part() -> None:
    one, other = replace(NOTHING, image_s=1.0, head_row_s=5.0), replace(NOTHING, image_s=2.0, head_row_s=4.0)
    assert one.least(other) == replace(NOTHING, image_s=1.0, head_row_s=4.0)
