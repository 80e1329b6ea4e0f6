"""What explanations will take, before they are begun."""

import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import astuple, dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from app.cam.chunks import images_at_once, rows_at_once
from app.cam.methods import Method
from app.cam.questions import Question
from app.cam.split import SplitNetwork
from app.cam.utilities import UTILITIES
from app.cam.views import Smooth, view_count

_COALITIONS_TRIED = 768
_HEAD_ROWS_TRIED = 32


@dataclass(frozen=True, slots=True)
class Costs:
    """What a split network's parts take on its device, in seconds.

    Attributes:
        image_s: the whole network on one image of a full batch.
        head_row_s: the head alone on one row of a chunk.
        coalition_s: a coalition whose logits are a sum over players, and its utility.
    """

    image_s: float
    head_row_s: float
    coalition_s: float

    def least(self, other: "Costs") -> "Costs":
        """The less of two measurements, part by part: whatever else ran can only have added to them."""
        return Costs(*map(min, astuple(self), astuple(other)))

    def of(self, split: SplitNetwork, question: Question) -> float:
        """What a question's method takes at a layer, besides the pass that everything needs."""
        work = question.method.work(split, question.effort)
        return work.images * self.image_s + work.head_rows * self.head_row_s + work.coalitions * self.coalition_s


def estimate_s(
    splits: Sequence[SplitNetwork],
    costs: Sequence[Costs],
    questions: Sequence[Question],
    smooth: Smooth,
) -> float:
    """Estimates the time of `engine.explain`.

    Questions about one image share what some methods find out about it; on explanation maps, of which each question
    has its own, nothing is shared.

    Args:
        splits: the layers.
        costs: of each.
        questions: including the references that `explain` adds; see `with_references`.
        smooth: the views.

    Returns:
        Seconds on an idle device.
    """
    views = view_count(smooth)
    measured = [question for question in questions if question.metrics and not question.is_reference]
    images = len({question.image for question in questions})
    # One anti-explanation map for each explanation, at the first layer only.
    total = costs[0].image_s * len(measured)
    for split, cost in zip(splits, costs, strict=True):
        passes = images + len(measured)
        games = {_game_of(split, question): cost.of(split, question) for question in questions}
        again = sum(cost.of(split, question) for question in measured)
        total += views * (passes * cost.image_s + sum(games.values()) + again)
    return total


def _game_of(split: SplitNetwork, question: Question) -> Hashable:
    """Equal for questions that share their method's work."""
    if question.method.work(split, question.effort).is_shared:
        return question.image, question.method.name, question.seed, question.effort
    return question


def costliest(splits: Sequence[SplitNetwork], costs: Sequence[Costs], questions: Sequence[Question]) -> Method:
    """The method that takes most of the time."""
    return max(questions, key=lambda q: sum(c.of(s, q) for s, c in zip(splits, costs, strict=True))).method


def measure_costs(
    split: SplitNetwork, images: Float[Tensor, "one 3 height width"], image_s: float | None = None
) -> Costs:
    """Measures what the parts of a split network take on its device.

    Args:
        split: the network, run before.
        images: one image on its device.
        image_s: what the whole network takes, where it is known from another layer.
    """
    device = images.device
    if image_s is None:
        batch = images.repeat(images_at_once(images), 1, 1, 1)
        image_s = _seconds(lambda: split.logits(batch), device, repeats=1) / len(batch)
    with torch.no_grad():
        state = split.trunk(images)
        rows = state.take(
            torch.zeros(min(_HEAD_ROWS_TRIED, rows_at_once(state.activations)), dtype=torch.int64, device=device)
        )
        head_row_s = _seconds(lambda: split.head(rows), device) / len(rows)
        terms = split.head(state).expand(split.grid.height * split.grid.width, -1)
        masks = torch.ones(_COALITIONS_TRIED, len(terms), device=device, dtype=terms.dtype)
        targets = torch.zeros(len(masks), dtype=torch.int64, device=device)
        utility = UTILITIES["rest"]
        coalition_s = _seconds(lambda: utility.of(masks @ terms, targets), device) / len(masks)
    return Costs(image_s, head_row_s, coalition_s)


def _seconds(work: Callable[[], Tensor], device: torch.device, repeats: int = 2) -> float:
    """The best time of some."""
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - started)
    return min(times)
